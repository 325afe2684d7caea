//! Moving partitions: to new replicas, and home from nodes that the ring no longer names (paper 4.9).
//!
//! An **outgoing transfer** walks this node's copy of a moving partition in hash order and pushes it, batch by batch, each
//! acknowledged from stable storage before the next. It starts when this node holds the ring that began the move, so everything
//! it acknowledged under older rings lies before the walk, and everything newer is written to both sets. A **handback** does the
//! same for a copy that the ring gives to others (left over from a move, or written here as a fallback), but compares hash
//! trees first, asks about histories in leaves that differ, and sends only objects of which the owner has not seen everything;
//! when every owner has everything, the copy is dropped. Lost batches are sent again from the last acknowledged place: joins make
//! that harmless.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{Epoch, NodeId, PartitionId};
use crate::storage::Cursor;
use crate::time::Instant;

/// Where one walk to one receiver stands.
#[derive(Clone, Debug)]
pub enum Walk {
    /// Not started, or to be started again.
    Idle,
    /// The receiver's tree was asked for; the number of the exchange and when it counts as lost (handback only).
    Comparing(u64, Instant),
    /// Ready to send what comes after the cursor.
    Ready(Option<Cursor>),
    /// The receiver was asked what of a batch it lacks (handback only).
    Asked(Sent),
    /// A batch is under way.
    Sent(Sent),
    /// The receiver has everything on stable storage.
    Done,
}

/// A batch that is under way.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Its number.
    pub batch: u64,
    /// Where it began, to send it again.
    pub from: Option<Cursor>,
    /// Where it ends.
    pub to: Option<Cursor>,
    /// How many objects are in it.
    pub objects: u64,
    /// How many bytes they have, names included.
    pub bytes: u64,
    /// The walk ends with it.
    pub last: bool,
    /// When it counts as lost.
    pub deadline: Instant,
}

/// One receiver of one partition.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The walk.
    pub walk: Walk,
    /// Only these leaves are sent (handback); `None` for all.
    pub leaves: Option<BTreeSet<usize>>,
    /// Objects acknowledged so far.
    pub objects: u64,
    /// Their bytes, names included.
    pub bytes: u64,
}

impl Default for Outgoing {
    fn default() -> Self {
        Self { walk: Walk::Idle, leaves: None, objects: 0, bytes: 0 }
    }
}

/// A copy on its way home.
#[derive(Clone, Debug, Default)]
pub struct Handback {
    /// By owner.
    pub owners: BTreeMap<NodeId, Outgoing>,
    /// The root of the copy when the comparison began: if it changed since, it begins again.
    pub root: crate::version::Digest,
}

/// All movement out of one node, and what it has fully received.
#[derive(Clone, Debug, Default)]
pub struct Transfers {
    /// To new replicas, by partition and receiver, with the epoch that began the move.
    pub outgoing: BTreeMap<(PartitionId, NodeId), (Epoch, Outgoing)>,
    /// Copies that the ring gives to others.
    pub handbacks: BTreeMap<PartitionId, Handback>,
    /// Sources that have sent everything, by moving partition, with the epoch that began the move.
    pub received: BTreeMap<PartitionId, (Epoch, BTreeSet<NodeId>)>,
}

impl Transfers {
    /// How many walks to new replicas that can be `reached` have a batch under way or are ready for one.
    pub fn active(&self, reached: impl Fn(NodeId) -> bool) -> usize {
        let begun = |outgoing: &Outgoing| !matches!(outgoing.walk, Walk::Idle | Walk::Done);
        self.outgoing.iter().filter(|((_, to), (_, outgoing))| begun(outgoing) && reached(*to)).count()
    }

    /// How many copies have an owner that can be `reached` and is not known to have everything.
    pub fn going_home(&self, reached: impl Fn(NodeId) -> bool) -> usize {
        let lacks = |(owner, outgoing): (&NodeId, &Outgoing)| !matches!(outgoing.walk, Walk::Done) && reached(*owner);
        self.handbacks.values().filter(|handback| handback.owners.iter().any(lacks)).count()
    }

    /// How many walks home have a batch under way.
    pub fn handing_back(&self) -> usize {
        let walks = self.handbacks.values().flat_map(|handback| handback.owners.values());
        walks.filter(|outgoing| matches!(outgoing.walk, Walk::Asked(_) | Walk::Sent(_))).count()
    }
}
