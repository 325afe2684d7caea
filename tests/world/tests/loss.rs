//! A volume that is gone for ever, in a world where the operator may die after, or in the middle of, any step.
#![allow(clippy::unwrap_used)]

use dynamo_operator::plan::Step;
use dynamo_world::World;

const KEYS: u32 = 40;

fn created(replicas: u32) -> World {
    let mut world = World::new(replicas);
    world.converge(|_, _| ());
    for key in 0..KEYS {
        assert!(world.write(key, 1), "key {key}");
    }
    world
}

#[test]
fn a_lost_volume_is_replaced_and_no_acknowledged_write_is_lost_at_any_step() {
    for ordinal in 0..3 {
        let mut world = created(3);
        let lost = world.node_at(ordinal);
        world.lose_volume(ordinal);
        let mut value = 10;
        world.converge(|world, _| {
            value += 1;
            world.write(value % KEYS, value);
            world.check();
        });
        let ring = world.ring().unwrap();
        assert!(ring.is_lost(lost) && !ring.members.contains_key(&lost));
        assert!(ring.members.contains_key(&world.node_at(ordinal)));
        assert_eq!((ring.members.len(), ring.moving().count()), (3, 0));
    }
}

#[test]
fn an_operator_that_dies_in_the_middle_of_every_step_replaces_it_all_the_same() {
    let mut world = created(4);
    world.lose_volume(1);
    for _ in 0..5000 {
        let step = world.decide();
        if step == Step::Converged {
            break;
        }
        world.apply_half(&step);
        world.round();
    }
    world.check();
    assert_eq!(world.decide(), Step::Converged);
    assert_eq!(world.ring().unwrap().lost.len(), 1);
    assert_eq!(world.ring().unwrap().members.len(), 4);
}

#[test]
fn a_volume_that_is_lost_at_any_step_of_a_scaling_is_replaced_too() {
    for (from, to) in [(3, 5), (5, 3)] {
        let steps = {
            let mut world = created(from);
            world.scale(to);
            let mut steps = 0;
            world.converge(|_, _| steps += 1);
            steps
        };
        for turn in 1..steps.min(24) {
            for ordinal in [0, 4] {
                let mut world = created(from);
                world.scale(to);
                let mut taken = 0;
                world.converge(|world, _| {
                    taken += 1;
                    if taken == turn && world.pods() > ordinal as usize {
                        world.lose_volume(ordinal);
                    }
                });
                world.check();
                assert_eq!((world.pods(), world.ring().unwrap().members.len()), (to as usize, to as usize));
            }
        }
    }
}

#[test]
fn a_dead_pod_whose_volume_is_there_is_not_lost() {
    let mut world = created(3);
    world.stop_pod(2);
    for _ in 0..400 {
        let step = world.decide();
        assert!(!step.acts(), "{step:?}");
        world.round();
    }
    assert!(world.ring().unwrap().lost.is_empty());
    world.restart_pod(2);
    world.converge(|_, _| ());
    world.check();
}
