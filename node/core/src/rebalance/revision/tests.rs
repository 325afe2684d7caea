//! What becomes of moves when other members are asked for in the middle of them.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::id::PartitionId;
use crate::rebalance::tests::{all_caught_up, members, rings, settled, step};
use crate::rebalance::{Next, View, next_within};
use crate::ring::placed::{Moving, Placed};
use crate::ring::tests::node;

fn same_nodes(one: &[NodeId], other: &[NodeId]) -> bool {
    one.iter().collect::<BTreeSet<_>>() == other.iter().collect::<BTreeSet<_>>()
}

/// All rings on the way from `ring` to `desired`, and that each is one stage from the one before.
fn on_the_way(ring: &Ring, desired: &Members) -> Vec<Ring> {
    let rings = rings(ring, desired, &Limits::default());
    rings.windows(2).for_each(|pair| expect_safe(&pair[0], &pair[1]));
    rings
}

/// Readers by either ring find what writers by the other acknowledge: each set that is read from is one that is written, by both.
fn expect_safe(before: &Ring, after: &Ring) {
    for ((partition, one), (_, other)) in before.partitions().zip(after.partitions()) {
        for (reader, writer) in [(one, other), (other, one)] {
            let written = writer.write_sets().iter().any(|set| same_nodes(set, reader.read_set()));
            assert!(written, "{partition}, epochs {} and {}: {one:?}, {other:?}", before.epoch, after.epoch);
        }
    }
}

/// Copies that have to be made on the way.
fn copies(rings: &[Ring]) -> usize {
    let begun = |ring: &Ring| -> usize {
        let begun = ring.moving().filter(|(_, _, moving)| moving.since == ring.epoch);
        begun.map(|(_, placement, _)| placement.fills(&ring.lost).len()).sum()
    };
    rings.iter().skip(1).map(begun).sum()
}

fn sets(ring: &Ring) -> Vec<Vec<NodeId>> {
    ring.placements.iter().map(|placement| placement.replicas.clone()).collect()
}

#[test]
fn a_growth_and_a_shrink_that_are_taken_back_at_any_stage_move_nothing() {
    for (from, to) in [(3, 5), (5, 3), (4, 9), (9, 4)] {
        let ring = settled(from, 6);
        for at in 1..=2 {
            let under_way = &rings(&ring, &members(to), &Limits::default())[at];
            assert!(under_way.moving().next().is_some());
            let back = on_the_way(under_way, &members(from));
            assert_eq!(copies(&back), 0, "{from} to {to}, taken back after ring {at}");
            assert_eq!(sets(back.last().unwrap()), sets(&ring));
            assert_eq!(back.last().unwrap().members, ring.members);
        }
    }
}

#[test]
fn what_is_read_from_the_new_replicas_goes_back_one_stage_with_each_ring() {
    let ring = settled(3, 4);
    let reads_new = &rings(&ring, &members(4), &Limits::default())[2];
    let stages = |ring: &Ring| ring.moving().map(|(_, _, moving)| moving.stage).collect::<Vec<_>>();
    assert!(stages(reads_new).iter().all(|stage| *stage == Stage::WriteBothReadNew));
    let back = on_the_way(reads_new, &members(3));
    assert!(stages(&back[1]).iter().all(|stage| *stage == Stage::WriteBothReadOld), "reads go back first");
    assert_eq!(back[1].members, reads_new.members, "it is still on its way back");
    assert_eq!(back[2].moving().count(), 0);
    assert_eq!(back[2].members[&node(4)].weight, 0, "it has to hand over what it was given");
}

#[test]
fn a_way_back_is_turned_again_when_the_new_members_are_wanted_after_all() {
    let ring = settled(3, 4);
    let reads_new = &rings(&ring, &members(4), &Limits::default())[2];
    let halfway = &on_the_way(reads_new, &members(3))[1];
    let forward = on_the_way(halfway, &members(4));
    assert_eq!(copies(&forward), 0, "what was received is still there");
    assert_eq!(forward.last().unwrap().members, members(4));
}

#[test]
fn growing_further_goes_on_from_what_is_under_way() {
    let ring = settled(3, 6);
    let under_way = &rings(&ring, &members(5), &Limits::default())[1];
    let further = step(under_way, &members(6), &all_caught_up(under_way), &Limits::default()).unwrap();
    expect_safe(under_way, &further);
    let kept = |(partition, _, moving): &(PartitionId, Placed<'_>, Moving<'_>)| {
        further.placement(*partition).moving.as_ref().is_some_and(|now| now.since == moving.since)
    };
    let (all, kept) = (under_way.moving().count(), under_way.moving().filter(kept).count());
    assert!(kept * 10 >= all * 7, "{kept} of {all} moves go on; the sixth node takes a few over");
}

#[test]
fn an_autoscaler_that_changes_its_mind_at_every_ring_ends_where_it_was_left() {
    for turns in [[5, 3, 6, 4], [6, 3, 5, 3], [4, 6, 5, 7], [9, 4, 8, 3]] {
        for patience in 1..5 {
            let mut ring = settled(3, 5);
            for size in turns {
                for _ in 0..patience {
                    let Some(next) = step(&ring, &members(size), &all_caught_up(&ring), &Limits { receive: 6, send: 6 }) else {
                        break;
                    };
                    expect_safe(&ring, &next);
                    ring = next;
                }
            }
            let last = on_the_way(&ring, &members(turns[3])).pop().unwrap();
            assert_eq!(last.members, members(turns[3]), "{turns:?}, a turn each {patience} rings");
            assert_eq!(last.moving().count(), 0);
        }
    }
}

#[test]
fn no_step_back_is_taken_without_every_members_fresh_answer() {
    let under_way = &rings(&settled(3, 4), &members(4), &Limits::default())[2];
    let mut views: BTreeMap<NodeId, View> = all_caught_up(under_way);
    views.remove(&node(2));
    let waits = next_within(under_way, &members(3), &views, &Limits::default());
    assert_eq!(waits, Ok(Next::AwaitEpoch(vec![node(2)])));
}

#[test]
fn a_move_off_a_lost_member_is_not_taken_back() {
    let under_way = rings(&settled(4, 5), &members(5), &Limits::default())[1].clone();
    let lossy = under_way.successor(|next| {
        next.members.get_mut(&node(1)).unwrap().weight = 0;
        next.lost.insert(node(1), under_way.epoch.next());
    });
    let off_it =
        |placement: &Placed<'_>, moving: &Moving<'_>| placement.replicas.contains(&node(1)) && !moving.target.contains(&node(1));
    let bound: Vec<_> = lossy.moving().filter(|(_, at, moving)| off_it(at, moving)).map(|(partition, ..)| partition).collect();
    assert!(!bound.is_empty());
    let desired: Members = members(4).into_iter().filter(|(id, _)| *id != node(1)).collect();
    // First those go back that would have made it a new replica.
    let back = step(&lossy, &desired, &all_caught_up(&lossy), &Limits::default()).unwrap();
    let next = step(&back, &desired, &all_caught_up(&back), &Limits::default()).unwrap();
    for partition in bound {
        assert_eq!(next.placement(partition).moving, lossy.placement(partition).moving, "{partition}");
    }
    let goes_on = |(partition, placement, moving): &(PartitionId, Placed<'_>, Moving<'_>)| {
        !off_it(placement, moving) && next.placement(*partition).moving.as_ref() == Some(moving)
    };
    assert_eq!(lossy.moving().filter(goes_on).count(), 0, "the others are");
}

#[test]
fn members_of_which_there_is_no_ring_do_not_stop_what_is_under_way_and_begin_nothing() {
    let limits = Limits { receive: 2, send: 2 };
    let mut ring = rings(&settled(3, 5), &members(4), &limits)[1].clone();
    for _ in 0..20 {
        match next_within(&ring, &members(2), &all_caught_up(&ring), &limits) {
            Ok(Next::Propose(next)) => {
                assert!(next.moving().all(|(_, _, moving)| moving.since < next.epoch), "nothing begins");
                ring = next;
            }
            refused => {
                assert_eq!(refused, Err(PlanError::TooFewMembers { members: 2, replication: 3 }));
                assert_eq!(ring.moving().count(), 0);
                return;
            }
        }
    }
    panic!("what is under way does not end");
}
