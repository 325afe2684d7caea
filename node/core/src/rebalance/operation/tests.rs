//! An operation from its beginning to its end, and what stops it on the way.

use super::*;
use crate::rebalance::batches::Left;
use crate::rebalance::tests::{all_caught_up, members, settled};
use crate::rebalance::without;
use crate::ring::tests::node;

/// The next ring of a writer to whom everybody answers; `None` where nothing is to be done, or it is paused.
fn step(ring: &Ring) -> Option<Ring> {
    match next(ring, &all_caught_up(ring), &Limits { receive: 8, send: 8 }).unwrap()? {
        Next::Settled => None,
        Next::Propose(next) => {
            next.validate().unwrap();
            next.check_follows(Some(ring), ring.cluster).unwrap();
            assert_eq!(Ring::decode(next.encode()).unwrap(), next, "a writer that comes back knows all of it");
            Some(next)
        }
        Next::AwaitReceipts(leaving) => Some(without(ring, &leaving)),
        other => panic!("stuck at {other:?}"),
    }
}

fn to_the_end(mut ring: Ring) -> Ring {
    for _ in 0..300 {
        match step(&ring) {
            Some(next) => ring = next,
            None => return ring,
        }
    }
    panic!("does not end");
}

fn after(mut ring: Ring, steps: usize) -> Ring {
    (0..steps).for_each(|_| ring = step(&ring).unwrap());
    ring
}

#[test]
fn an_operation_is_begun_once_and_ends_with_the_members_that_it_wants() {
    let ring = settled(3, 5);
    let begins = begun(&ring, &members(5)).unwrap();
    assert_eq!(begins.operation.as_ref().unwrap().since, begins.epoch);
    assert_eq!((&begins.placements, &begins.members), (&ring.placements, &ring.members), "no set and no stage is another");
    assert_eq!(begun(&begins, &members(5)), Ok(begins.clone()), "given again");
    assert_eq!(begun(&begins, &members(4)), Err(OperationError::UnderWay(begins.epoch)));
    let done = to_the_end(begins);
    assert_eq!((done.members.clone(), done.operation.clone()), (members(5), None));
    assert_eq!(begun(&done, &members(5)), Err(OperationError::AsAsked));
}

#[test]
fn while_it_is_paused_nothing_goes_on_and_everybody_still_gets_the_ring() {
    for steps in 0..6 {
        let ring = after(begun(&settled(3, 5), &members(5)).unwrap(), steps);
        let paused_ring = paused(&ring, true).unwrap();
        assert_eq!(paused_ring.placements, ring.placements);
        assert_eq!(step(&paused_ring), None, "after {steps} rings");
        let mut views = all_caught_up(&paused_ring);
        views.remove(&node(2));
        let waits = next(&paused_ring, &views, &Limits::default());
        assert_eq!(waits, Ok(Some(Next::AwaitEpoch(vec![node(2)]))));
        assert_eq!(paused(&paused_ring, true), Ok(paused_ring.clone()), "given again");
        assert_eq!(to_the_end(paused(&paused_ring, false).unwrap()).members, members(5));
    }
    assert_eq!(paused(&settled(3, 5), true), Err(OperationError::None));
}

#[test]
fn an_abort_at_any_ring_ends_with_the_members_that_were_before() {
    for (from, to) in [(3, 5), (5, 3), (4, 6)] {
        let ring = settled(from, 5);
        let mut under_way = begun(&ring, &members(to)).unwrap();
        for steps in 0.. {
            let Ok(given_up) = aborted(&under_way) else { break };
            assert_eq!(aborted(&given_up), Ok(given_up.clone()), "given again");
            let end = to_the_end(given_up);
            assert_eq!((end.members, end.operation), (members(from), None), "{from} to {to}, given up after {steps} rings");
            under_way = step(&under_way).unwrap();
        }
    }
}

#[test]
fn an_abort_of_the_first_batch_makes_no_copy() {
    let ring = settled(4, 5);
    let under_way = after(begun(&ring, &members(6)).unwrap(), 2);
    assert!(under_way.moving().next().is_some());
    let given_up = aborted(&under_way).unwrap();
    assert_eq!(given_up.operation.as_ref().unwrap().copies, 0);
    let sets = |ring: &Ring| ring.placements.iter().map(|placement| placement.replicas.clone()).collect::<Vec<_>>();
    assert_eq!(sets(&to_the_end(given_up)), sets(&ring));
}

#[test]
fn a_paused_operation_can_be_given_up_and_goes_back_then() {
    let ring = after(begun(&settled(3, 5), &members(5)).unwrap(), 2);
    let given_up = aborted(&paused(&ring, true).unwrap()).unwrap();
    assert_eq!(to_the_end(given_up).members, members(3));
}

#[test]
fn what_is_left_falls_to_nothing() {
    let mut ring = begun(&settled(3, 5), &members(5)).unwrap();
    let planned = ring.operation.as_ref().unwrap().copies as usize;
    let mut before = left(&ring, &members(5)).unwrap();
    assert_eq!(before.copies, planned);
    assert_eq!(before.loads.receive.values().sum::<usize>(), planned, "each copy has one receiver");
    while let Some(next) = step(&ring) {
        ring = next;
        let now = left(&ring, &members(5)).unwrap();
        assert!(now.copies <= before.copies && now.partitions <= before.partitions, "{before:?}, then {now:?}");
        before = now;
    }
    assert_eq!(before, Left::default());
}

#[test]
fn a_lost_node_is_not_asked_for_and_leaves_what_is_wanted() {
    let ring = settled(4, 4).successor(|next| {
        next.members.get_mut(&node(1)).unwrap().weight = 0;
        next.lost.insert(node(1), Epoch(2));
    });
    assert_eq!(begun(&ring, &members(5)), Err(OperationError::Lost(node(1))));
    let mut wanted_members = members(5);
    wanted_members.remove(&node(1));
    let lossy = begun(&ring, &wanted_members).unwrap().successor(|next| {
        next.lost.insert(node(2), Epoch(4));
        next.members.get_mut(&node(2)).unwrap().weight = 0;
    });
    let mut rest = wanted_members.clone();
    rest.remove(&node(2));
    assert_eq!(wanted(&lossy), rest);
    rest.insert(node(9), wanted_members[&node(3)].clone());
    let end = to_the_end(amended(&lossy, &rest));
    assert_eq!((end.members, end.operation), (rest, None));
}

#[test]
fn what_has_no_plan_is_refused_before_anything_is_done() {
    let refused = begun(&settled(3, 4), &members(2));
    assert_eq!(refused, Err(OperationError::NoPlan(PlanError::TooFewMembers { members: 2, replication: 3 })));
}
