//! Which ring was given to whom a moment ago, and who was asked for one (paper 4.8): a peer that is behind is told once, and not once for
//! each of the requests that show it.
//!
//! A ring of many partitions has hundreds of kilobytes, and thousands of requests may be under way when a new one comes. What goes over a
//! link arrives in order, so one copy of the ring is ahead of everything that follows it; and what was on a link that ended is lost, so
//! over a new one it is given again. A request that is refused again behind the ring says that the ring did not arrive. For whatever else
//! may have become of it, all of this is forgotten each second.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::{Epoch, NodeId, RequestId};
use crate::message::Message;
use crate::node::timer::Timer;
use crate::node::{Node, Output};
use crate::storage::Storage;
use crate::time::Instant;

/// For so long nothing is said again.
const REMEMBERED_FOR: Duration = Duration::from_secs(1);

/// What was said to peers that are linked: as much as there are links, and requests under way in a second.
#[derive(Clone, Debug, Default)]
pub(super) struct RingsTold {
    peers: BTreeMap<NodeId, Told>,
    forgets: Timer,
}

#[derive(Clone, Debug, Default)]
struct Told {
    /// The ring that it was given; 0 for none.
    given: Epoch,
    /// Requests that were sent to it again behind that ring.
    repeated: BTreeSet<RequestId>,
    /// The ring that was held here when it was asked for a later one.
    asked: Option<Epoch>,
}

impl RingsTold {
    /// Whether `peer` is to have the ring of `epoch` now, ahead of a request that is sent to it again, if there is one.
    fn gives(&mut self, peer: NodeId, epoch: Epoch, ahead_of: Option<RequestId>) -> bool {
        let told = self.peers.entry(peer).or_default();
        let gives = told.given < epoch || ahead_of.is_some_and(|request| told.repeated.contains(&request));
        if gives {
            told.given = epoch;
            told.repeated.clear();
        }
        told.repeated.extend(ahead_of);
        gives
    }

    /// Whether `peer` is to be asked now for a later ring than the one of `held`.
    fn asks(&mut self, peer: NodeId, held: Epoch) -> bool {
        self.peers.entry(peer).or_default().asked.replace(held) != Some(held)
    }

    /// The link to `peer` came up or went down.
    pub(super) fn forget(&mut self, peer: NodeId) {
        self.peers.remove(&peer);
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Instant) {
        if self.forgets.rings(now, REMEMBERED_FOR) {
            self.peers.clear();
        }
    }
}

impl<S: Storage> Node<S> {
    /// Whether `to` is given the ring of `epoch` now. Without a link nothing arrives, and nothing is remembered.
    pub(super) fn gives_ring(&mut self, to: NodeId, epoch: Epoch, ahead_of: Option<RequestId>) -> bool {
        !self.detector.is_linked(to) || self.rings_told.gives(to, epoch, ahead_of)
    }

    /// Asks a peer that holds a later ring for it.
    pub(super) fn ask_for_ring(&mut self, peer: NodeId, out: &mut Vec<Output>) {
        let epoch = self.epoch();
        if !self.detector.is_linked(peer) || self.rings_told.asks(peer, epoch) {
            out.push(Output::Send { to: peer, message: Message::RingRequest { epoch } });
        }
    }
}
