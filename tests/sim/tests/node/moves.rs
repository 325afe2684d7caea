//! Moves that follow one another: what is left of one is not taken for the next, and what changed meanwhile is not lost.

use std::collections::BTreeSet;

use dynamo_core::reaping::{Proof, Reaped};

use super::*;

/// The ring in which this partition moves no more, and is where it was.
fn taken_back(before: &Ring, partition: PartitionId) -> Ring {
    before.successor(|next| next.placements[partition.0 as usize].moving = None)
}

fn push(batch: u64, epoch: Epoch, partition: PartitionId, name: &Name, object: &Object) -> Message {
    let objects = vec![NamedObject { name: name.clone(), object: object.clone() }];
    Message::Push { batch, epoch, partition, purpose: Purpose::Transfer, objects }
}

fn received(one: &One) -> BTreeSet<PartitionId> {
    one.node.status(dynamo_core::time::Now { instant: Default::default(), wall_ms: 0 }).received
}

/// Which owners it asks for their tree of this partition, by which exchanges, and the root of its own.
fn asked(one: &mut One, partition: PartitionId) -> Vec<(NodeId, u64, Digest)> {
    let asks = |(to, message)| match message {
        Message::TreeRequest { exchange, root, partition: at, .. } if at == partition => Some((to, exchange, root)),
        _ => None,
    };
    one.sent().into_iter().filter_map(asks).collect()
}

fn copies(one: &One) -> usize {
    one.node.storage().objects().count()
}

/// What is reaped of a copy holds of the names that are not in it. Of the next copy's names nothing is known.
#[test]
fn a_partition_that_comes_back_is_filled_whatever_was_reaped_of_its_former_copy() {
    let (mut one, first, name, source) = arriving();
    let partition = first.partition_of(&name);
    let milk = object(2, 1, "milk");
    one.hear(source.0[0], push(1, first.epoch, partition, &name, &milk));
    let reaped = Some(Reaped { proof: Proof { leader: source, round: 1 }, upto: object(2, 7, "eggs").context() });
    one.hear(source.0[0], Message::Confirm { batch: 2, epoch: first.epoch, partition, reaped });
    one.sync();
    let away = taken_back(&first, partition);
    one.adopt(&away);
    one.sync();
    one.all_hold(&away);
    one.sent();
    one.wait(SECOND, &away);
    for (owner, exchange, root) in asked(&mut one, partition) {
        one.hear(owner.0[0], Message::TreeResponse { exchange, partition, root, leaves: Bytes::new(), reaped: None });
        one.sync();
    }
    assert_eq!(copies(&one), 0, "all owners have it");
    let again = moving(&away, partition, source, id(1));
    one.adopt(&again);
    one.sync();
    one.hear(source.0[0], push(3, again.epoch, partition, &name, &milk));
    assert_eq!(copies(&one), 1);
}

/// Its record may have come to stable storage after the ring that ended the move, so that nothing removed it.
#[test]
fn what_was_received_in_a_former_move_counts_for_nothing_in_the_next() {
    for restarts in [false, true] {
        let (mut one, first, name, source) = arriving();
        let partition = first.partition_of(&name);
        one.hear(source.0[0], Message::Confirm { batch: 1, epoch: first.epoch, partition, reaped: None });
        let away = taken_back(&first, partition);
        one.adopt(&away);
        let again = moving(&away, partition, source, id(1));
        one.adopt(&again);
        one.sync();
        if restarts {
            one.restart(false, &again);
        }
        assert_eq!(received(&one), [].into(), "restarted: {restarts}");
        one.hear(source.0[0], Message::Confirm { batch: 2, epoch: again.epoch, partition, reaped: None });
        one.sync();
        assert_eq!(received(&one), [partition].into(), "restarted: {restarts}");
    }
}

/// The owners have what it was, and one write more is here.
#[test]
fn a_copy_that_changed_since_its_owners_were_asked_is_not_dropped() {
    let ring = ring(5);
    let mut one = One::start(&ring);
    let name = key(&ring, false);
    let partition = ring.partition_of(&name);
    let stranger = stranger(&ring, partition);
    one.hear(2, replicate(7, ring.epoch, &name, &object(2, 1, "milk"), Some(stranger)));
    one.sync();
    one.all_hold(&ring);
    one.sent();
    one.wait(SECOND, &ring);
    let owners = asked(&mut one, partition);
    one.hear(2, replicate(8, ring.epoch, &name, &object(3, 1, "eggs"), Some(stranger)));
    one.sync();
    for (owner, exchange, root) in owners {
        one.hear(owner.0[0], Message::TreeResponse { exchange, partition, root, leaves: Bytes::new(), reaped: None });
        one.sync();
    }
    assert_eq!(copies(&one), 1);
}

/// Or a loss of power takes the ring back, and this node acknowledges, under the one before, what the new replica never gets.
#[test]
fn a_copy_is_sent_under_a_ring_that_no_power_loss_can_take_back() {
    let first = ring(5);
    let mut one = One::start(&first);
    let name = key(&first, true);
    let partition = first.partition_of(&name);
    let newcomer = stranger(&first, partition);
    one.hear(2, replicate(7, first.epoch, &name, &object(2, 1, "milk"), None));
    one.sync();
    let next = moving(&first, partition, id(1), newcomer);
    one.adopt(&next);
    let sends = |one: &mut One| {
        let mut pushed = false;
        for _ in 0..3 {
            one.wait(SECOND, &next);
            for (to, message) in one.sent().into_iter().filter(|(to, _)| *to == newcomer) {
                match message {
                    Message::TreeRequest { exchange, partition, .. } => {
                        let leaves = HashTrees::new(CLUSTER, next.partition_bits).leaves(partition);
                        let root = Digest::default();
                        one.hear(to.0[0], Message::TreeResponse { exchange, partition, root, leaves, reaped: None });
                    }
                    Message::Push { purpose: Purpose::Transfer, .. } => pushed = true,
                    _ => {}
                }
            }
        }
        pushed
    };
    assert!(!sends(&mut one), "it is in memory only");
    one.sync();
    assert!(sends(&mut one));
}

/// What came since is not among it: the receiver would take it for reaped, and never have had it.
#[test]
fn a_receiver_is_told_what_was_reaped_of_the_copy_that_was_compared_and_not_of_what_came_since() {
    let first = ring(5);
    let mut one = One::start(&first);
    let (name, milk) = (key(&first, true), object(2, 7, "milk"));
    let partition = first.partition_of(&name);
    let newcomer = stranger(&first, partition);
    let peer = *first.placement(partition).replicas.iter().find(|node| **node != id(1)).expect("three replicas");
    let next = moving(&first, partition, id(1), newcomer);
    one.adopt(&next);
    one.sync();
    let mut confirmed = Vec::new();
    let leaves = HashTrees::new(CLUSTER, next.partition_bits).leaves(partition);
    let mut listen = |one: &mut One| {
        for _ in 0..8 {
            one.wait(SECOND, &next);
            for (to, message) in one.sent().into_iter().filter(|(to, _)| *to == newcomer) {
                match message {
                    Message::TreeRequest { exchange, partition: at, .. } if at == partition => {
                        let (root, leaves) = (Digest::default(), leaves.clone());
                        one.hear(to.0[0], Message::TreeResponse { exchange, partition, root, leaves, reaped: None });
                    }
                    // The answer is lost each time.
                    Message::Confirm { reaped, partition: at, .. } if at == partition => confirmed.push(reaped),
                    _ => {}
                }
            }
        }
        confirmed.len()
    };
    let before = listen(&mut one);
    let objects = vec![NamedObject { name: name.clone(), object: milk.clone() }];
    one.hear(peer.0[0], Message::Push { batch: 1, epoch: next.epoch, partition, purpose: Purpose::Repair, objects });
    let reaped = Some(Reaped { proof: Proof { leader: peer, round: 1 }, upto: milk.context() });
    let root = root_of(&next, partition, &name, &milk);
    one.hear(peer.0[0], Message::TreeResponse { exchange: 999, partition, root, leaves: Bytes::new(), reaped });
    one.sync();
    let after = listen(&mut one);
    assert!(0 < before && before < after, "it is told again: {before}, {after}");
    assert!(
        confirmed.iter().all(|reaped| reaped.as_ref().is_none_or(|reaped| !reaped.upto.includes(&milk.context()))),
        "{confirmed:?}"
    );
}

/// Each of them may have acknowledged a write together with the lost one alone.
#[test]
fn who_comes_in_the_place_of_a_lost_replica_has_the_partition_once_all_that_are_left_have_said_so() {
    let first = ring(5);
    let name = key(&first, false);
    let partition = first.partition_of(&name);
    let [lost, left @ ..] = first.placement(partition).replicas else { panic!("three replicas") };
    let without = first.successor(|next| {
        next.lost.insert(*lost, first.epoch.next());
        next.members.get_mut(lost).expect("it is a member").weight = 0;
    });
    let next = moving(&without, partition, *lost, id(1));
    let mut one = One::start(&first);
    one.adopt(&without);
    one.adopt(&next);
    one.sync();
    for (batch, source) in left.iter().enumerate() {
        assert_eq!(received(&one), [].into(), "{batch} of {}", left.len());
        let batch = batch as u64;
        one.hear(source.0[0], Message::Confirm { batch, epoch: next.epoch, partition, reaped: None });
        one.sync();
    }
    assert_eq!(received(&one), [partition].into());
}
