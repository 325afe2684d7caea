//! What is told to others lies where no power loss can take it back.

use std::collections::BTreeSet;

use super::*;

#[test]
fn a_replica_acknowledges_a_put_after_its_fsync() {
    let ring = ring(5);
    let mut one = One::start(&ring);
    one.sent();
    one.hear(2, replicate(7, ring.epoch, &key(&ring, true), &object(2, 1, "milk"), None));
    assert_eq!(one.sent(), []);
    one.sync();
    assert_eq!(one.sent(), [(id(2), Message::Replicated { request: RequestId(7), durable: true })]);
}

/// Who asked may drop its copy on this word.
#[test]
fn a_tree_is_compared_from_stable_storage() {
    let ring = ring(5);
    let mut one = One::start(&ring);
    let name = key(&ring, true);
    let partition = ring.partition_of(&name);
    let milk = object(2, 1, "milk");
    one.hear(2, replicate(7, ring.epoch, &name, &milk, None));
    one.sent();
    let root = root_of(&ring, partition, &name, &milk);
    one.hear(5, Message::TreeRequest { exchange: 3, epoch: ring.epoch, partition, root, reaped: None });
    assert_eq!(one.sent(), [], "the write that the root speaks of may still be lost");
    one.sync();
    let answered = |(to, message): &(NodeId, Message)| {
        *to == id(5) && matches!(message, Message::TreeResponse { exchange: 3, leaves, .. } if leaves.is_empty())
    };
    assert!(one.sent().iter().any(answered));
}

#[test]
fn a_ring_is_told_to_the_writer_when_no_power_loss_can_take_it_back() {
    let ring = ring(5);
    let mut one = One::start(&ring);
    let next = ring.successor(|_| ());
    one.adopt(&next);
    let epoch = |one: &One| one.node.status(dynamo_core::time::Now { instant: Default::default(), wall_ms: 0 }).epoch;
    assert_eq!(epoch(&one), ring.epoch);
    one.sync();
    assert_eq!(epoch(&one), next.epoch);
}

#[test]
fn a_partition_is_received_when_its_last_batch_is_on_stable_storage() {
    let (mut one, next, name, source) = arriving();
    let partition = next.partition_of(&name);
    let received =
        |one: &One| !one.node.status(dynamo_core::time::Now { instant: Default::default(), wall_ms: 0 }).received.is_empty();
    let push = |batch, value: &str| Message::Push {
        batch,
        epoch: next.epoch,
        partition,
        purpose: Purpose::Transfer,
        objects: vec![NamedObject { name: name.clone(), object: object(2, batch, value) }],
    };
    one.hear(source.0[0], push(1, "milk"));
    one.sync();
    assert!(!received(&one), "more is to come");
    one.hear(source.0[0], push(2, "eggs"));
    one.hear(source.0[0], Message::Confirm { batch: 3, epoch: next.epoch, partition, reaped: None });
    assert!(!received(&one), "a power loss would take the last batch");
    one.sync();
    assert!(received(&one));
}

/// One that forgot it could take another of the same epoch from a second writer, while others hold the first.
#[test]
fn a_ring_is_given_to_others_when_no_power_loss_can_take_it_back() {
    let first = ring(5);
    let mut one = One::start(&first);
    let next = first.successor(|_| ());
    one.sent();
    one.adopt(&next);
    one.hear(2, Message::RingRequest { epoch: first.epoch });
    one.hear(3, replicate(7, first.epoch, &key(&first, true), &object(2, 1, "milk"), None));
    let given = |one: &mut One| {
        let ring = |(to, message): (NodeId, Message)| matches!(message, Message::RingUpdate { .. }).then_some(to);
        one.sent().into_iter().filter_map(ring).collect::<BTreeSet<NodeId>>()
    };
    assert_eq!(given(&mut one), BTreeSet::new());
    one.sync();
    assert_eq!(given(&mut one), (2..=5).map(id).collect());
}
