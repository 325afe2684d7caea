//! A node that the ring does not list may be taken away at any time: it coordinates, and keeps nothing that counts.

use dynamo_core::node::Input;
use dynamo_core::request::{Failure, Outcome};

use super::*;

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

#[test]
fn it_does_not_stand_in_for_a_replica_with_its_own_disk() {
    let (mut one, ring) = outside(None);
    one.try_put(&key(&ring, false), "milk", Bytes::new());
    one.sync();
    let unavailable = |answer: &Outcome| matches!(answer, Err(Failure::Unavailable { acknowledged: 0, required: 1 }));
    assert!(matches!(&one.answers[..], [answer] if unavailable(answer)), "{:?}", one.answers);
    assert_eq!((one.node.storage().hints().count(), one.node.storage().objects().count()), (0, 0), "nothing was written");
}

#[test]
fn it_coordinates_where_a_member_stands_in() {
    let name = key(&ring(5), false);
    let ring = without_node_1(&ring(5));
    let spare = stranger(&ring, ring.partition_of(&name));
    let (mut one, _) = outside(Some(spare));
    one.try_put(&name, "milk", Bytes::new());
    let sent = one.sent();
    let stands_in = |(to, message): &(NodeId, Message)| match message {
        Message::Replicate { hint_for, request, .. } if *to == spare => hint_for.is_some().then_some(*request),
        _ => None,
    };
    let request = sent.iter().find_map(stands_in).expect("it is asked to stand in");
    one.sync();
    assert_eq!(one.answers, [], "its own hint is no acknowledgement");
    one.hear(spare.0[0], Message::Replicated { request, durable: true });
    assert!(matches!(&one.answers[..], [Ok(_)]), "{:?}", one.answers);
}
