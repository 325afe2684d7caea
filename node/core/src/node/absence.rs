//! A member that was away does not know what happened meanwhile: others may hold a later ring, by which it holds no replica any more or
//! was declared lost. Its own copies are then old, and with R = 1 one of them would be an answer. So after a start it coordinates no
//! get before it has heard what ring others hold:
//!
//! ```text
//!                a member says that it is current ─┐   and holds no later ring, or this node has taken it over
//!  start: away ──                                  ├──> current, until it stops
//!                more than half of the members ────┘
//!                hold no later ring, itself among them
//! ```
//!
//! A current member is at most one ring behind: no stage is passed before every member that is not lost holds the ring, and two rings
//! that follow each other have quorums in common. That is why the word of one is enough. When all have been away, a majority
//! decides. What remains: members that were declared lost although they live, if they are half of those that their old ring lists and
//! start where nobody else can be reached.
//!
//! Puts do not wait: as long as W nodes can be reached a put succeeds (paper 2.3), and a write that is taken under an old ring is
//! handed to those whose it is. Nor do fetches of a peer: it has to hold the same ring, and does not ask while it is away itself.

use std::collections::BTreeMap;

use crate::id::{Epoch, NodeId};
use crate::node::Node;
use crate::storage::Storage;

/// What a member knows of the time before it started.
#[derive(Clone, Debug, Default)]
pub(super) struct Absence {
    /// It knows enough.
    over: bool,
    /// The ring that each member holds by its own word, and whether that one is current.
    told: BTreeMap<NodeId, (Epoch, bool)>,
}

impl Absence {
    /// A start without a ring: there is nothing here that could be old.
    pub(super) fn none() -> Self {
        Self { over: true, told: BTreeMap::new() }
    }
}

impl<S: Storage> Node<S> {
    /// Whether this node knows the cluster's ring, or the one before it.
    pub(super) fn is_current(&self) -> bool {
        self.absence.over
    }

    /// A peer's gossip says which ring it holds.
    pub(super) fn hear_of_ring(&mut self, from: NodeId, epoch: Epoch, current: bool) {
        if !self.absence.over {
            self.absence.told.insert(from, (epoch, current));
            self.end_absence();
        }
    }

    /// Ends it, if what is known of others' rings is enough and none of them is later than the one that is held here.
    pub(super) fn end_absence(&mut self) {
        let Some(ring) = self.ring.as_ref().filter(|_| !self.absence.over) else { return };
        let told = &self.absence.told;
        let known = |node: &NodeId| told.get(node).filter(|(epoch, _)| *epoch <= ring.epoch);
        let own = self.identity.node;
        let (mut members, mut alike, mut vouched) = (0, 0, false);
        for node in ring.survivors() {
            members += 1;
            alike += usize::from(node == own || known(&node).is_some());
            vouched |= node != own && known(&node).is_some_and(|(_, current)| *current);
        }
        if vouched || alike * 2 > members {
            self.absence = Absence::none();
        }
    }
}
