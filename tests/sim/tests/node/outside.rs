//! A node that the ring does not list may be taken away at any time: it coordinates no write, and keeps nothing that counts.

use dynamo_core::node::Input;
use dynamo_core::request::{Evidence, Failure, Outcome, Success};

use super::*;
use crate::one::put;

/// The ring after `ring` of which node 1 is no member.
fn without_node_1(ring: &Ring) -> Ring {
    let mut without = without_replicas_on_node_1(ring);
    without.members.remove(&id(1));
    without
}

/// Node 1, outside a ring of four, which has links to none of them but `linked`.
fn outside(linked: Option<NodeId>) -> (One, Ring) {
    let first = ring(5);
    let mut one = One::start(&first);
    let ring = without_node_1(&first);
    one.adopt(&ring);
    one.sync();
    for peer in ring.members.keys().copied().filter(|peer| Some(*peer) != linked) {
        one.feed(Input::LinkDown { peer });
    }
    one.sent();
    (one, ring)
}

fn writes(sent: &[(NodeId, Message)]) -> usize {
    sent.iter().filter(|(_, message)| matches!(message, Message::Replicate { .. })).count()
}

#[test]
fn it_does_not_stand_in_for_a_replica_with_its_own_disk() {
    let (mut one, ring) = outside(None);
    one.try_put(&key(&ring, false), "milk", Bytes::new());
    one.sync();
    let declined = |answer: &Outcome| matches!(answer, Err(Failure::NotServing(why)) if why.contains("does not list this node"));
    assert!(matches!(&one.answers[..], [answer] if declined(answer)), "{:?}", one.answers);
    assert_eq!((one.node.storage().hints().count(), one.node.storage().objects().count()), (0, 0), "nothing was written");
}

#[test]
fn a_write_whose_replicas_it_does_not_reach_it_passes_on_to_any_member() {
    let name = key(&ring(5), false);
    let ring = without_node_1(&ring(5));
    let spare = stranger(&ring, ring.partition_of(&name));
    let (mut one, _) = outside(Some(spare));
    one.try_put(&name, "milk", Bytes::new());
    let sent = one.sent();
    let passed_on = |(to, message): &(NodeId, Message)| match message {
        Message::Forward { request, .. } if *to == spare => Some(*request),
        _ => None,
    };
    let request = sent.iter().find_map(passed_on).expect("it is passed on");
    assert_eq!((writes(&sent), one.answers.len(), one.node.storage().hints().count()), (0, 0, 0));
    let evidence = Evidence { epoch: ring.epoch, ..Evidence::default() };
    let written = Ok(Success::Written { context: Bytes::new(), evidence });
    one.hear(spare.0[0], Message::Forwarded { request, outcome: written.clone() });
    assert_eq!(one.answers, [written]);
}

/// The replicas that it asked under the old ring may have it; under the new one they would be asked by somebody whom nobody asks
/// before a tombstone goes.
#[test]
fn the_outcome_of_what_was_in_flight_as_it_left_the_ring_is_open_and_stays_so() {
    for at_a_replica in [true, false] {
        let first = ring(5);
        let mut one = One::start(&first);
        let name = key(&first, at_a_replica);
        let (request, _) = if at_a_replica { one.put(&name, "milk") } else { one.forwarded_put(2, 7, &name, "milk") };
        one.adopt(&without_node_1(&first));
        one.sync();
        let outcome = if at_a_replica { one.answers.pop() } else { one.outcome(7) };
        assert_eq!(outcome, Some(Err(Failure::Unknown { acknowledged: 0, required: 2 })), "at a replica: {at_a_replica}");
        for peer in 2..=5 {
            one.hear(peer, Message::Replicated { request, durable: true });
        }
        assert_eq!((one.answers.len(), one.outcome(7)), (0, None), "it is told once");
        assert_eq!(writes(&one.sent()), 0, "nobody is asked for it any more");
    }
}

#[test]
fn what_it_gets_by_a_forward_goes_back_to_who_asked_for_it() {
    let (mut one, ring) = outside(Some(id(2)));
    one.forward(2, 7, put(&key(&ring, false), "milk"));
    assert!(matches!(one.outcome(7), Some(Err(Failure::NotServing(_)))));
    assert_eq!(one.sent(), []);
    assert_eq!((one.node.storage().hints().count(), one.node.storage().objects().count()), (0, 0), "nothing was written");
}
