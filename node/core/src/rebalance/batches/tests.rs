//! Batches: what is within the limits, what goes on, and that it ends where all at once would.

use super::*;
use crate::id::PartitionId;
use crate::rebalance::tests::{all_caught_up, members, rings, settled, step};
use crate::rebalance::{Members, first_ring_with, next_within};
use crate::ring::bucket_replication::BucketReplication;
use crate::ring::tests::node;

fn limits(receive: usize, send: usize) -> Limits {
    Limits { receive, send }
}

/// The most that any node receives and sends in `ring`.
fn busiest(ring: &Ring) -> (usize, usize) {
    let mut loads = Loads::default();
    ring.placements.iter().for_each(|placement| loads.add(placement, ring));
    let most = |loads: &BTreeMap<NodeId, usize>| loads.values().max().copied().unwrap_or(0);
    (most(&loads.receive), most(&loads.send))
}

/// Copies that have to be made on the way.
fn copies(rings: &[Ring]) -> usize {
    let begun = |ring: &Ring| -> usize {
        let begun = ring.moving().filter(|(_, _, moving)| moving.since == ring.epoch);
        begun.map(|(_, placement, _)| placement.fills(&ring.lost).len()).sum()
    };
    rings.iter().map(begun).sum()
}

#[test]
fn no_node_ever_receives_or_sends_more_than_its_limit_and_the_end_is_balanced() {
    for (receive, send) in [(1, 1), (3, 2), (8, 8), (128, 128)] {
        let mut ring = settled(3, 6);
        for size in [4, 7, 9, 5, 3] {
            let on_the_way = rings(&ring, &members(size), &limits(receive, send));
            for ring in &on_the_way {
                let (received, sent) = busiest(ring);
                assert!(received <= receive && sent <= send, "{received} received and {sent} sent under {receive} and {send}");
            }
            ring = on_the_way.last().unwrap().clone();
            assert_eq!(ring.members, members(size));
            let loads: Vec<usize> = ring.members.keys().map(|node| ring.partitions_of(*node)).collect();
            assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1, "{size} nodes: {loads:?}");
        }
    }
}

#[test]
fn batches_move_no_more_than_all_at_once_would() {
    for (from, to) in [(3, 4), (4, 5), (5, 9), (9, 6), (4, 3)] {
        let ring = settled(from, 8);
        let at_once = copies(&rings(&ring, &members(to), &limits(usize::MAX, usize::MAX)));
        let batches = copies(&rings(&ring, &members(to), &limits(5, 5)));
        assert!(batches <= at_once, "{from} to {to}: {batches} copies in batches, {at_once} at once");
    }
}

#[test]
fn a_small_cluster_needs_one_batch_and_three_rings() {
    let rings = rings(&settled(3, 6), &members(4), &Limits::default());
    assert_eq!(rings.len(), 4, "written to both, read from the new ones, done");
}

/// The members of 3 -> 6 nodes with 64 partitions at once, and a view by which the nodes in `stuck` receive nothing.
fn growing(stuck: &[u8]) -> (Ring, Members, BTreeMap<NodeId, View>) {
    let (ring, desired) = (settled(3, 6), members(6));
    let moving = step(&ring, &desired, &all_caught_up(&ring), &Limits::default()).unwrap();
    let mut views = all_caught_up(&moving);
    stuck.iter().for_each(|id| views.get_mut(&node(*id)).unwrap().received.clear());
    (moving, desired, views)
}

#[test]
fn a_node_that_is_stuck_does_not_hold_up_the_others() {
    let (mut ring, desired, _) = growing(&[]);
    for _ in 0..40 {
        let mut views = all_caught_up(&ring);
        [4, 5].iter().for_each(|id| views.get_mut(&node(*id)).unwrap().received.clear());
        match next_within(&ring, &desired, &views, &Limits::default()).unwrap() {
            Next::Propose(next) => ring = next,
            Next::AwaitData { waiting_for, .. } => {
                assert_eq!(waiting_for, [node(4), node(5)]);
                let only_stuck = ring
                    .moving()
                    .all(|(_, placement, _)| placement.fills(&ring.lost).iter().any(|(to, _)| [node(4), node(5)].contains(to)));
                assert!(only_stuck, "what moves to the third node only is done");
                return;
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("the others do not come to an end");
}

#[test]
fn a_ring_is_proposed_when_half_of_what_moves_to_a_node_has_arrived_and_not_for_each_partition() {
    let (ring, desired) = (settled(3, 6), members(4));
    let ring = step(&ring, &desired, &all_caught_up(&ring), &Limits::default()).unwrap();
    let mut views = all_caught_up(&ring);
    let to_four = std::mem::take(&mut views.get_mut(&node(4)).unwrap().received).into_iter().collect::<Vec<_>>();
    let half = to_four.len().div_ceil(2);
    assert!(half > 10);
    views.get_mut(&node(4)).unwrap().received.extend(&to_four[..half - 1]);
    let waits = next_within(&ring, &desired, &views, &Limits::default()).unwrap();
    assert!(matches!(waits, Next::AwaitData { received, .. } if received == half - 1), "{waits:?}");
    views.get_mut(&node(4)).unwrap().received.extend(&to_four[..half]);
    let Next::Propose(next) = next_within(&ring, &desired, &views, &Limits::default()).unwrap() else { panic!() };
    let reads_new = next.moving().filter(|(_, _, moving)| moving.stage == Stage::WriteBothReadNew).count();
    assert_eq!(reads_new, half);
}

#[test]
fn partitions_that_have_lost_a_copy_move_first() {
    let ring = settled(4, 6).successor(|next| {
        next.members.get_mut(&node(1)).unwrap().weight = 0;
        next.lost.insert(node(1), Epoch(2));
    });
    let desired: Members = members(6).into_iter().filter(|(id, _)| *id != node(1)).collect();
    let next = step(&ring, &desired, &all_caught_up(&ring), &limits(4, 8)).unwrap();
    assert!(next.moving().count() >= 4);
    assert!(next.moving().all(|(_, placement, _)| placement.replicas.contains(&node(1))), "the others can wait");
}

#[test]
fn the_same_ring_and_members_give_the_same_batch() {
    let (ring, desired, views) = growing(&[6]);
    let again = || next_within(&ring, &desired, &views, &limits(2, 2)).unwrap();
    assert_eq!(again(), again());
}

/// Four nodes, and buckets whose objects the first, and the first two, of 16 lists of three have.
pub(in crate::rebalance) fn with_layers() -> Ring {
    let buckets = BucketReplication::new([("cache".into(), 1), ("cart".into(), 2)], 3).unwrap();
    first_ring_with(settled(4, 0).cluster, 4, 3, buckets, &members(4)).unwrap()
}

#[test]
fn what_is_left_to_send_counts_the_partitions_of_each_layer() {
    let ring = with_layers();
    let left = left(&ring, &members(5)).unwrap();
    let (lists, partitions): (usize, usize) = (left.loads.send.values().sum(), left.sent.values().sum());
    let first = next_within(&ring, &members(5), &all_caught_up(&ring), &limits(usize::MAX, usize::MAX));
    let Ok(Next::Propose(moving)) = first else { panic!() };
    let fills = moving.moving().flat_map(|(_, placed, _)| placed.fills(&moving.lost)).map(|(_, sources)| sources.len());
    assert_eq!(partitions, fills.sum::<usize>());
    assert!(partitions > lists, "{partitions} of {lists} lists");
}

#[test]
fn another_order_moves_what_only_the_first_of_a_list_have() {
    for (layered, moves) in [(false, 0), (true, 16)] {
        let ring = if layered { with_layers() } else { with_layers().successor(|next| next.buckets = Default::default()) };
        let mut target = ring.placements.iter().map(|placement| placement.replicas.clone()).collect::<Vec<_>>();
        target.iter_mut().for_each(|list| list.rotate_left(1));
        let next = ring.successor(|next| {
            reorder(next, &target);
            start(next, &target, ring.epoch.next(), &Limits::default());
        });
        assert_eq!(next.moving_count(), moves);
        assert_eq!(next.placements[0].replicas == target[0], !layered);
    }
}

#[test]
fn reads_move_only_when_the_replicas_of_every_layer_have_received_everything() {
    let ring = with_layers();
    let mut target = ring.placements.iter().map(|placement| placement.replicas.clone()).collect::<Vec<_>>();
    target.iter_mut().for_each(|list| list.swap(1, 2));
    let moving = ring.successor(|next| start(next, &target, ring.epoch.next(), &Limits::default()));
    let second = PartitionId(2 * 16);
    let fills = |at: &crate::ring::placed::Placed<'_>| at.fills(&moving.lost).len();
    assert!(moving.moving().all(|(partition, at, _)| fills(&at) == usize::from(partition >= second)), "of n = 2 only");
    let mut views = all_caught_up(&moving);
    views.get_mut(&target[0][1]).unwrap().received.remove(&second);
    let complete = Arrivals::of(&moving, &views).complete;
    assert_eq!(complete, (1..16).collect());
    let Next::Propose(next) = advanced(&moving, &views, None) else { panic!() };
    assert_eq!(next.placements[0].moving.as_ref().unwrap().stage, Stage::WriteBothReadOld);
    assert_eq!(next.placements[1].moving.as_ref().unwrap().stage, Stage::WriteBothReadNew);
}
