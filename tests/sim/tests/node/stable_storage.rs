//! What is told to others lies where no power loss can take it back.

use std::collections::BTreeSet;

use dynamo_core::message::Refusal;

use super::*;

/// Whatever is written, and if it is here already: the group of the first that brought it may not be on stable storage either.
#[test]
fn a_replica_acknowledges_a_put_or_a_delete_after_its_fsync_however_often_it_hears_of_it() {
    let ring = ring(5);
    let mut deleted = object(2, 1, "milk");
    let dot = Dot { actor: Actor { node: id(2), incarnation: Incarnation(1) }, counter: 2 };
    deleted.update(&deleted.context(), dot, Value { data: None, written_ms: 0 });
    for object in [object(2, 1, "milk"), deleted] {
        let mut one = One::start(&ring);
        one.sent();
        for (from, number) in [(2, 7), (3, 8)] {
            one.hear(from, replicate(number, ring.epoch, &key(&ring, true), &object, None));
            assert_eq!(one.sent(), [], "request {number}: {object:?}");
        }
        one.sync();
        let told = |to, number| (id(to), Message::Replicated { request: RequestId(number), durable: true });
        assert_eq!(one.sent(), [told(2, 7), told(3, 8)], "{object:?}");
    }
}

/// What it waits for is on stable storage no sooner because the budget had no room.
#[test]
fn an_answer_that_was_kept_back_for_the_budget_waits_for_its_fsync_all_the_same() {
    let ring = ring(5);
    let mut one = One::start(&ring);
    let name = key(&ring, true);
    let (partition, milk) = (ring.partition_of(&name), object(2, 1, "milk"));
    one.wait(SECOND, &ring);
    one.hear(2, replicate(7, ring.epoch, &name, &milk, None));
    one.sent();
    let named = NamedHistory { name, history: milk.history() };
    for batch in 0..400 {
        let histories = vec![named.clone(); 256];
        one.hear(3, Message::HistoriesRequest { batch, epoch: ring.epoch, partition, histories });
    }
    one.wait(2 * SECOND, &ring);
    assert!(one.node.counters().background_acknowledgements_delayed > 0);
    let answers = |one: &mut One| {
        let sent = one.sent();
        sent.iter().filter(|(_, message)| matches!(message, Message::HistoriesResponse { .. })).count()
    };
    assert_eq!(answers(&mut one), 0);
    one.sync();
    assert_eq!(answers(&mut one), 400);
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
    let (request, _) = one.put(&key(&first, true), "eggs");
    one.hear(2, Message::RingRequest { epoch: first.epoch });
    one.hear(3, replicate(7, first.epoch, &key(&first, true), &object(2, 1, "milk"), None));
    one.hear(4, Message::Refused { request, reason: Refusal::Behind, epoch: first.epoch });
    let given = |one: &mut One| {
        let ring = |(to, message): (NodeId, Message)| matches!(message, Message::RingUpdate { .. }).then_some(to);
        one.sent().into_iter().filter_map(ring).collect::<BTreeSet<NodeId>>()
    };
    assert_eq!(given(&mut one), BTreeSet::new());
    one.sync();
    assert_eq!(given(&mut one), (2..=5).map(id).collect());
}
