//! Which rings a node takes, and of whom; and how often it gives one.

use dynamo_core::message::Refusal;
use dynamo_core::node::{Input, ProposeError};
use dynamo_core::ring::RingError;

use super::*;

#[test]
fn the_writer_of_rings_may_leave_none_out_and_peers_may_who_hold_a_later_one() {
    let first = ring(5);
    let second = first.successor(|_| ());
    let third = second.successor(|_| ());
    let mut one = One::start(&first);
    let offered = one.is_offered(&third);
    assert!(matches!(offered, Err(ProposeError::Ring(RingError::NotSuccessor { .. }))), "{offered:?}");
    assert_eq!(one.node.ring().map(|ring| ring.epoch), Some(first.epoch));
    let mut other = One::start(&first);
    other.adopt(&second);
    other.adopt(&third);
    one.hear(2, Message::RingUpdate { ring: third.clone().into() });
    for node in [&one.node, &other.node] {
        assert_eq!(node.ring().map(|ring| ring.hash()), Some(third.hash()));
    }
}

/// What was sent to a peer since somebody looked: how many rings, and the requests behind the first of them.
fn given(one: &mut One, to: NodeId) -> (usize, Vec<RequestId>) {
    let (mut rings, mut requests) = (0, Vec::new());
    for (_, message) in one.sent().into_iter().filter(|(node, _)| *node == to) {
        match message {
            Message::RingUpdate { .. } => rings += 1,
            Message::Replicate { request, .. } if rings > 0 => requests.push(request),
            _ => {}
        }
    }
    (rings, requests)
}

/// Node 1 with 50 puts under way, which starts each again under the next ring; the numbers by which it asks a replica for them now, and
/// that replica.
fn with_puts_under_a_new_ring() -> (One, Ring, NodeId, Vec<RequestId>) {
    let first = ring(5);
    let partition = first.partition_of(&key(&first, true));
    let peer = *first.placement(partition).replicas.iter().find(|node| **node != id(1)).expect("three replicas");
    let mut one = One::start(&first);
    let names = (0..).map(|at| Name::new("carts", format!("k{at}")));
    for name in names.filter(|name| first.partition_of(name) == partition).take(50) {
        one.put(&name, "milk");
    }
    one.adopt(&first.successor(|_| ()));
    let asked = |(to, message): (NodeId, Message)| match message {
        Message::Replicate { request, .. } if to == peer => Some(request),
        _ => None,
    };
    let numbers: Vec<RequestId> = one.sent().into_iter().filter_map(asked).collect();
    assert_eq!(numbers.len(), 50);
    (one, first, peer, numbers)
}

/// A ring of many partitions is long; a thousand copies of it would fill the link.
#[test]
fn a_peer_that_is_behind_is_given_the_ring_once_and_every_request_again() {
    for refused_before_the_sync in [true, false] {
        let (mut one, first, peer, numbers) = with_puts_under_a_new_ring();
        if !refused_before_the_sync {
            one.sync();
        }
        for request in &numbers {
            one.hear(peer.0[0], Message::RingRequest { epoch: first.epoch });
            one.hear(peer.0[0], Message::Refused { request: *request, reason: Refusal::Behind, epoch: first.epoch });
        }
        one.sync();
        assert_eq!(given(&mut one, peer), (1, numbers), "refused before the sync: {refused_before_the_sync}");
    }
}

/// It has refused a request again that was sent behind the ring.
#[test]
fn a_peer_that_did_not_get_the_ring_is_given_it_again() {
    let (mut one, first, peer, numbers) = with_puts_under_a_new_ring();
    one.sync();
    let refuse = |one: &mut One| {
        for request in &numbers {
            one.hear(peer.0[0], Message::Refused { request: *request, reason: Refusal::Behind, epoch: first.epoch });
        }
    };
    refuse(&mut one);
    assert_eq!(given(&mut one, peer), (1, numbers.clone()));
    refuse(&mut one);
    assert_eq!(given(&mut one, peer), (1, numbers.clone()));
}

#[test]
fn a_ring_is_given_again_over_a_new_link_or_a_second_later() {
    let first = ring(5);
    let next = first.successor(|_| ());
    let mut one = One::start(&first);
    one.wait(SECOND, &first);
    one.adopt(&next);
    one.sync();
    assert_eq!(given(&mut one, id(2)).0, 1, "it is spread");
    let asked_for = |one: &mut One| {
        one.hear(2, Message::RingRequest { epoch: first.epoch });
        given(one, id(2)).0
    };
    assert_eq!(asked_for(&mut one), 0);
    one.feed(Input::LinkDown { peer: id(2) });
    one.link(&next);
    assert_eq!([asked_for(&mut one), asked_for(&mut one)], [1, 0]);
    one.wait(SECOND, &next);
    one.sent();
    assert_eq!([asked_for(&mut one), asked_for(&mut one)], [1, 0]);
}

/// A ring that peers gave is spread to nobody: who asks for it, or is behind, gets it, when no power loss can take it back.
#[test]
fn who_is_behind_or_asks_many_times_is_given_one_ring_after_the_sync() {
    let first = ring(5);
    let next = first.successor(|_| ());
    let name = key(&first, true);
    let mut one = One::start(&first);
    one.hear(5, Message::RingUpdate { ring: next.into() });
    one.sent();
    for number in 0..10 {
        one.hear(2, Message::RingRequest { epoch: first.epoch });
        one.hear(3, replicate(number, first.epoch, &name, &object(2, 1, "milk"), None));
    }
    let refused = |(to, message): &(NodeId, Message)| {
        *to == id(3) && matches!(message, Message::Refused { reason: Refusal::StaleEpoch, .. })
    };
    let sent = one.sent();
    assert_eq!((sent.iter().filter(|sent| refused(sent)).count(), sent.len()), (10, 10), "{sent:?}");
    one.sync();
    let rings = one.sent().into_iter().filter(|(_, message)| matches!(message, Message::RingUpdate { .. }));
    assert_eq!(rings.map(|(to, _)| to).collect::<Vec<_>>(), [id(2), id(3)]);
}

#[test]
fn a_node_that_is_behind_asks_each_peer_once_and_again_when_it_holds_another_ring() {
    let first = ring(5);
    let next = first.successor(|_| ());
    let name = key(&first, true);
    let mut one = One::start(&first);
    one.sent();
    let asks = |one: &mut One, epoch: Epoch| {
        for number in 0..10 {
            one.hear(2, replicate(number, epoch, &name, &object(2, 1, "milk"), None));
            one.hear(3, replicate(number, epoch, &name, &object(2, 1, "milk"), None));
        }
        let sent = one.sent();
        let refused = |(_, message): &&(NodeId, Message)| matches!(message, Message::Refused { reason: Refusal::Behind, .. });
        assert_eq!(sent.iter().filter(refused).count(), 20, "{sent:?}");
        let requests = sent.into_iter().filter(|(_, message)| matches!(message, Message::RingRequest { .. }));
        requests.map(|(to, _)| to).collect::<Vec<NodeId>>()
    };
    assert_eq!(asks(&mut one, next.epoch.next()), [id(2), id(3)]);
    assert_eq!(asks(&mut one, next.epoch.next()), []);
    one.hear(4, Message::RingUpdate { ring: next.clone().into() });
    one.sync();
    one.sent();
    assert_eq!(asks(&mut one, next.epoch.next()), [id(2), id(3)]);
}
