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
                // A write that was taken under an older ring was given up with its outcome open: arriving twice does not settle it.
                if !self.requests.was_taken(from, *request) {
                    let outcome = Err(Failure::Unavailable { acknowledged: 0, required: 1 });
                    out.push(Output::Send { to: from, message: Message::Forwarded { request: *request, outcome } });
                }
                None
            }
            _ => {
                self.counters.messages_of_lost_refused += 1;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::config::Config;
    use crate::id::{PartitionId, RequestId};
    use crate::message::NamedObject;
    use crate::name::Name;
    use crate::node::{Identity, Input};
    use crate::ring::Ring;
    use crate::ring::tests::{node, ring_of};
    use crate::storage::MemoryStorage;
    use crate::time::{Instant, Now};
    use crate::version::{Actor, CausalContext, Dot, Object, Value};

    const NOW: Now = Now { instant: Instant(1_000_000), wall_ms: 0 };

    /// Node 2 of a ring of four, which holds the ring that declares `lost` lost.
    fn node_with(lost: u8) -> (Node<MemoryStorage>, Ring) {
        let first = ring_of(4, 2);
        let ring = first.successor(|next| {
            next.members.get_mut(&node(lost)).unwrap().weight = 0;
            next.lost.insert(node(lost), first.epoch.next());
        });
        let identity = Identity {
            node: node(2),
            cluster: first.cluster,
            zone: "z".into(),
            peer_address: String::new(),
            client_address: String::new(),
            generation: 1,
        };
        let mut opened = Node::open(identity, Config::default(), MemoryStorage::default(), 1, NOW).unwrap();
        opened.propose_ring(first, NOW, &mut Vec::new()).unwrap();
        opened.propose_ring(ring.clone(), NOW, &mut Vec::new()).unwrap();
        let ticket = opened.commit().unwrap().expect("rings were written");
        opened.handle(Input::Durable { ticket }, NOW, &mut Vec::new()).unwrap();
        (opened, ring)
    }

    fn object() -> Object {
        let mut object = Object::default();
        let actor = Actor { node: node(1), incarnation: crate::id::Incarnation(1) };
        let value = Value { data: Some(Bytes::from_static(b"old")), written_ms: 0 };
        object.update(&CausalContext::default(), Dot { actor, counter: 1 }, value);
        object
    }

    /// A name that lies in a partition of node 2.
    fn name(ring: &Ring) -> Name {
        let names = (0..).map(|number: u32| Name::new("b", number.to_string()));
        let held = |name: &Name| ring.placement(ring.partition_of(name)).involves(node(2));
        names.into_iter().find(held).unwrap()
    }

    fn replicate(ring: &Ring) -> Message {
        let (request, epoch, object) = (RequestId(7), ring.epoch, object());
        Message::Replicate { request, epoch, name: name(ring), object, hint_for: None, synced: false }
    }

    fn hear(at: &mut Node<MemoryStorage>, from: u8, message: Message) -> Vec<Output> {
        let mut out = Vec::new();
        at.handle(Input::Message { from: node(from), message }, NOW, &mut out).unwrap();
        out
    }

    #[test]
    fn nothing_of_a_lost_node_is_stored_and_it_is_answered_with_the_ring_that_says_so() {
        let (mut healthy, ring) = node_with(3);
        let partition: PartitionId = ring.partition_of(&name(&ring));
        let objects = vec![NamedObject { name: name(&ring), object: object() }];
        let exchanged = Message::KeysResponse { exchange: 1, partition, objects, wanted: Vec::new(), reached: None };
        for message in [replicate(&ring), exchanged] {
            let out = hear(&mut healthy, 3, message);
            assert!(matches!(&out[..], [Output::Send { message: Message::RingUpdate { .. }, .. }]), "{out:?}");
        }
        let newer = ring.successor(|_| ());
        assert_eq!(hear(&mut healthy, 3, Message::RingUpdate { ring: newer.into() }), [], "nor is a ring taken from it");
        assert_eq!(healthy.storage().objects().count(), 0);
        assert_eq!(healthy.counters().messages_of_lost_refused, 2);
        hear(&mut healthy, 1, replicate(&ring));
        assert_eq!(healthy.storage().objects().count(), 1, "of others it is");
    }

    #[test]
    fn a_lost_node_acknowledges_and_tells_nothing() {
        let (mut lost, ring) = node_with(2);
        let fetch = Message::Fetch { request: RequestId(7), epoch: ring.epoch, name: name(&ring), digest_only: false };
        for message in [replicate(&ring), fetch] {
            let out = hear(&mut lost, 1, message);
            let refused = |output: &Output| matches!(output, Output::Send { message: Message::Refused { .. }, .. });
            assert!(out.len() == 1 && refused(&out[0]), "{out:?}");
        }
        assert_eq!(lost.storage().objects().count(), 0);
        assert!(!hear(&mut lost, 1, Message::Ping { answer: false }).is_empty(), "it is heard of, so that it can hear");
    }
}
