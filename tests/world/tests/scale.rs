//! Scaling, with an operator that may die at any call.
#![allow(clippy::unwrap_used)]

use dynamo_world::World;
use dynamo_world::operator::Outcome;

const KEYS: u32 = 40;

fn expect_members(world: &mut World, count: usize) {
    assert_eq!(world.pods(), count);
    let ring = world.ring().unwrap();
    assert_eq!(ring.members.len(), count);
    assert_eq!(ring.moving().count(), 0);
    assert_eq!(world.unread(), [""; 0]);
    world.expect_no_violation();
}

#[test]
fn a_cluster_is_created_grows_and_shrinks_and_nothing_is_lost_at_any_step() {
    let mut world = World::settled_with(3, KEYS);
    expect_members(&mut world, 3);
    for replicas in [5, 3, 6, 4] {
        world.scale(replicas);
        let mut key = 0;
        world.settle(|world| {
            key += 1;
            world.write_key(key % KEYS);
            if key % 10 == 0 {
                assert_eq!(world.unread(), [""; 0]);
            }
        });
        expect_members(&mut world, replicas as usize);
    }
}

#[test]
fn an_operator_that_dies_in_the_middle_of_every_step_reaches_the_same_end() {
    let mut world = World::settled_with(3, KEYS);
    for replicas in [5, 3] {
        world.scale(replicas);
        let mut died = 0;
        // Each process lives for one call that changes something, and the next one takes its place.
        world.settle(|world| {
            if world.dies_at_its_next_call() {
                died += 1;
            }
        });
        assert!(died >= 8, "it died {died} times");
        world.lives();
        expect_members(&mut world, replicas as usize);
    }
}

#[test]
fn a_size_that_changes_at_every_step_of_a_rebalance_ends_where_it_was_left() {
    let steps = {
        let mut world = World::settled_with(3, KEYS);
        let before = world.stage().calls;
        world.scale(5);
        world.settle(|_| ());
        let calls = world.stage().calls;
        calls - before
    };
    assert!(steps > 20);
    for turn in 0..steps {
        let mut world = World::settled_with(3, KEYS);
        let before = world.stage().calls;
        world.scale(5);
        let mut back = false;
        world.settle(|world| {
            let calls = world.stage().calls - before;
            if !back && calls >= turn {
                back = true;
                world.scale(3);
            }
        });
        expect_members(&mut world, if back { 3 } else { 5 });
    }
}

#[test]
fn a_converged_cluster_has_no_next_step() {
    let mut world = World::settled_with(4, 0);
    world.pass(0);
    let calls = world.stage().calls;
    for _ in 0..50 {
        world.round();
        assert!(matches!(world.pass(0), Outcome::Done(pause) if pause == dynamo_operator::controller::AT_REST));
    }
    assert_eq!(world.stage().calls, calls);
}
