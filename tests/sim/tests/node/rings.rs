//! Which rings a node takes, and of whom.

use dynamo_core::node::ProposeError;
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
