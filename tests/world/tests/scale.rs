//! Scaling in a world where the operator may die after, or in the middle of, any step.
#![allow(clippy::unwrap_used)]

use dynamo_operator::plan::Step;
use dynamo_world::World;

const KEYS: u32 = 60;

fn created(replicas: u32) -> World {
    let mut world = World::new(replicas);
    world.converge(|_, _| ());
    for key in 0..KEYS {
        assert!(world.write(key, 1), "key {key}");
    }
    world
}

fn expect_members(world: &World, count: usize) {
    assert_eq!(world.pods(), count);
    let ring = world.ring().unwrap();
    assert_eq!(ring.members.len(), count);
    assert_eq!(ring.moving().count(), 0);
}

#[test]
fn a_cluster_is_created_grows_and_shrinks_and_nothing_is_lost_at_any_step() {
    let mut world = created(3);
    expect_members(&world, 3);
    for (round, replicas) in [5, 3, 6, 4].into_iter().enumerate() {
        world.scale(replicas);
        let mut value = 10 * (round as u32 + 1);
        world.converge(|world, _| {
            value += 1;
            world.write(value % KEYS, value);
            world.check();
        });
        expect_members(&world, replicas as usize);
    }
    assert!(world.steps["scale"] >= 5);
}

#[test]
fn an_operator_that_dies_in_the_middle_of_every_step_reaches_the_same_end() {
    let mut world = created(3);
    for replicas in [5, 3] {
        world.scale(replicas);
        for _ in 0..5000 {
            let step = world.decide();
            if step == Step::Converged {
                break;
            }
            world.apply_half(&step);
            world.round();
        }
        world.check();
        expect_members(&world, replicas as usize);
    }
}

#[test]
fn a_size_that_changes_at_every_step_of_a_rebalance_ends_where_it_was_left() {
    let steps = {
        let mut world = created(3);
        world.scale(5);
        let mut steps = 0;
        world.converge(|_, _| steps += 1);
        steps
    };
    for turn in 0..steps.min(30) {
        let mut world = created(3);
        world.scale(5);
        let mut taken = 0;
        world.converge(|world, _| {
            taken += 1;
            if taken == turn {
                world.scale(3);
            }
        });
        world.check();
        expect_members(&world, if turn == 0 { 5 } else { 3 });
    }
}

#[test]
fn a_converged_cluster_has_no_next_step() {
    let mut world = created(4);
    for _ in 0..50 {
        world.round();
        assert_eq!(world.decide(), Step::Converged);
    }
}
