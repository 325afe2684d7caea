//! Moving partitions: to new replicas, and home from nodes that the ring no longer names (paper 4.9).
//!
//! An **outgoing transfer** walks this node's copy of a moving partition in hash order and pushes it, batch by batch, each
//! acknowledged from stable storage before the next. It starts when this node holds the ring that began the move, so everything
//! it acknowledged under older rings lies before the walk, and everything newer is written to both sets. A **handback** does so with
//! a copy that the ring gives to others (left over from a move, or written here as a fallback); when every owner has everything, the
//! copy is dropped. Lost batches are sent again from the last acknowledged place: joins make that harmless.
//!
//! ```text
//! transfer:  Copy ──▶ Verify ──▶ Confirm        only a confirmed copy counts as received, and reads move to it after that
//! handback:           Verify ──▶ the owner has everything
//! ```
//!
//! Copy and Verify begin with a comparison of hash trees. So a transfer that begins anew, the sender having been restarted, sends only
//! leaves that differ; and what was sent is not taken for what has arrived. An owner goes on taking writes, so its tree may differ in
//! leaves of which it has everything: Verify asks about the histories in them first, and sends only what the other has not seen all
//! of. Of a value of a kilobyte a history is a twentieth.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{Epoch, NodeId, PartitionId};
use crate::reaping::Reaped;
use crate::storage::Cursor;
use crate::time::Instant;

/// What a walk is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pass {
    /// Everything in leaves that differ is sent.
    Copy,
    /// What the receiver has not seen all of, of leaves that still differ, is sent: it is asked first.
    Verify,
    /// The receiver has everything, and is told so.
    Confirm,
}

/// Where one walk to one receiver stands.
#[derive(Clone, Debug)]
pub enum Walk {
    /// Not started, or to be started again.
    Idle,
    /// The receiver's tree was asked for.
    Comparing(Comparison),
    /// Ready to send what comes after the cursor.
    Ready(Option<Cursor>),
    /// The receiver was asked what of a batch it lacks.
    Asked(Sent),
    /// A batch is under way.
    Sent(Sent),
    /// The receiver has everything on stable storage.
    Done,
}

/// Two trees that are being compared.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The number of the exchange.
    pub exchange: u64,
    /// The root of this copy when it began.
    pub root: crate::version::Digest,
    /// When it counts as lost.
    pub deadline: Instant,
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
    /// The pass ends with it.
    pub last: bool,
    /// When it counts as lost.
    pub deadline: Instant,
}

/// One receiver of one partition.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// What the walk is for.
    pub pass: Pass,
    /// The walk.
    pub walk: Walk,
    /// The leaves that differed when the pass began.
    pub leaves: BTreeSet<usize>,
    /// What was reaped here when the trees were compared last. The receiver is told this, and not what was reaped since: that may
    /// include objects which came here since, and are not among what was compared.
    pub reaped: Option<Reaped>,
    /// The receiver, which holds this ring, refused a batch: it has no room, and is not asked before this.
    pub refused_until: Option<Instant>,
    /// Objects acknowledged so far.
    pub objects: u64,
    /// Their bytes, names included.
    pub bytes: u64,
}

impl Outgoing {
    /// Nothing of it is done.
    pub fn new(pass: Pass) -> Self {
        Self { pass, walk: Walk::Idle, leaves: BTreeSet::new(), reaped: None, refused_until: None, objects: 0, bytes: 0 }
    }

    /// Something was asked or sent, and something is left.
    pub fn is_begun(&self) -> bool {
        match self.walk {
            Walk::Done => false,
            Walk::Idle => self.pass != Pass::Copy,
            _ => true,
        }
    }

    /// The receiver has no room now.
    pub fn is_refused(&self, now: Instant) -> bool {
        self.refused_until.is_some_and(|until| now < until)
    }

    /// The receiver's tree is here: a walk through these leaves begins.
    pub fn differing(&mut self, leaves: BTreeSet<usize>) {
        self.walk = Walk::Ready(None);
        self.leaves = leaves;
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
    /// How many walks to new replicas that can be `reached`, and have room, are begun.
    pub fn active(&self, reached: impl Fn(NodeId) -> bool, now: Instant) -> usize {
        let active = |to: NodeId, outgoing: &Outgoing| outgoing.is_begun() && !outgoing.is_refused(now) && reached(to);
        self.outgoing.iter().filter(|((_, to), (_, outgoing))| active(*to, outgoing)).count()
    }

    /// How many walks to `receiver` are begun.
    pub fn begun_to(&self, receiver: NodeId) -> usize {
        self.outgoing.iter().filter(|((_, to), (_, outgoing))| *to == receiver && outgoing.is_begun()).count()
    }

    /// `receiver` was restarted, and may have less than it said: all walks to it begin anew.
    pub fn begin_again(&mut self, receiver: NodeId) {
        for (_, (_, outgoing)) in self.outgoing.iter_mut().filter(|((_, to), _)| *to == receiver) {
            *outgoing = Outgoing::new(Pass::Copy);
        }
        for outgoing in self.handbacks.values_mut().filter_map(|handback| handback.owners.get_mut(&receiver)) {
            *outgoing = Outgoing::new(Pass::Verify);
        }
    }

    /// How many copies have an owner that can be `reached`, has room, and is not known to have everything.
    pub fn going_home(&self, reached: impl Fn(NodeId) -> bool, now: Instant) -> usize {
        let lacks = |(owner, outgoing): (&NodeId, &Outgoing)| {
            !matches!(outgoing.walk, Walk::Done) && !outgoing.is_refused(now) && reached(*owner)
        };
        self.handbacks.values().filter(|handback| handback.owners.iter().any(lacks)).count()
    }

    /// How many walks home have a batch under way.
    pub fn handing_back(&self) -> usize {
        let walks = self.handbacks.values().flat_map(|handback| handback.owners.values());
        walks.filter(|outgoing| matches!(outgoing.walk, Walk::Asked(_) | Walk::Sent(_))).count()
    }
}
