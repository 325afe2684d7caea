//! Fencing: what is taken of a node that was declared lost, and what such a node still does ([`crate::rebalance::loss`]).
//!
//! Others have taken its place, filled from the replicas that were left, and what was deleted since may be forgotten: old copies of it
//! would bring that back. So by a ring that lists its id nothing of it is joined, read, counted or handed anything; what it hears is
//! that ring, which it persists, and by which it stops serving and moving data for ever. Gossip goes on both ways, that being how it
//! hears. A peer that is one ring behind still deals with it under the older ring; the epoch fence refuses that at everybody else, and
//! no stage is passed before that peer holds the newer ring.

use crate::id::{Epoch, NodeId};
use crate::message::{Message, Refusal};
use crate::node::{Node, Output};
use crate::request::Failure;
use crate::storage::Storage;

impl<S: Storage> Node<S> {
    /// The epoch in which this very node was declared lost.
    pub fn declared_lost(&self) -> Option<Epoch> {
        self.ring.as_ref().and_then(|ring| ring.lost.get(&self.identity.node)).copied()
    }

    /// Whether the ring says that `peer` is lost.
    pub(super) fn is_lost(&self, peer: NodeId) -> bool {
        self.ring.as_ref().is_some_and(|ring| ring.is_lost(peer))
    }

    /// The message, if it may be acted on. One of a lost sender is answered with the ring that says so.
    pub(super) fn admitted(&mut self, from: NodeId, message: Message, out: &mut Vec<Output>) -> Option<Message> {
        let (sender_lost, own_lost) = (self.is_lost(from), self.declared_lost().is_some());
        if !sender_lost && !own_lost {
            return Some(message);
        }
        match &message {
            Message::Ping { .. } | Message::RingRequest { .. } => Some(message),
            Message::RingUpdate { .. } => (!sender_lost).then_some(message),
            Message::Gossip { epoch, .. } => {
                // Its word on where it is has to be heard, or it could not be told.
                if sender_lost {
                    self.on_ring_request(from, *epoch, out);
                }
                Some(message)
            }
            _ if sender_lost => {
                self.counters.messages_of_lost_refused += 1;
                self.on_ring_request(from, Epoch(0), out);
                None
            }
            Message::Replicate { request, .. } | Message::Fetch { request, .. } => {
                self.counters.messages_of_lost_refused += 1;
                let (request, reason, epoch) = (*request, Refusal::NotOwner, self.epoch());
                out.push(Output::Send { to: from, message: Message::Refused { request, reason, epoch } });
                None
            }
            Message::Forward { request, .. } => {
                self.counters.messages_of_lost_refused += 1;
                let outcome = Err(Failure::Unavailable { acknowledged: 0, required: 1 });
                out.push(Output::Send { to: from, message: Message::Forwarded { request: *request, outcome } });
                None
            }
            _ => {
                self.counters.messages_of_lost_refused += 1;
                None
            }
        }
    }
}
