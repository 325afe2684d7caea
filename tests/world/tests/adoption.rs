//! A cluster that is created again over the volumes that the former one left.
#![allow(clippy::unwrap_used)]

use dynamo_scenarios::Create;
use dynamo_world::{ROUNDS_MAX, World};

const KEYS: u32 = 40;

/// A cluster of five nodes with data was deleted, and one of three goes on with its volumes.
fn adopted() -> World {
    let mut world = World::settled_with(5, KEYS);
    world.delete();
    let gone = (0..ROUNDS_MAX).any(|_| {
        world.round();
        world.stage().is_empty()
    });
    assert!(gone, "{}", world.stage().trace());
    world.adopt(&Create { replicas: 3, zones: Vec::new(), partitions: 16, deletes_volumes: false, image: "first".into() });
    world
}

#[test]
fn it_goes_on_with_the_former_ones_ring_and_data() {
    let mut world = adopted();
    world.settle(|_| ());
    let ring = world.ring().unwrap();
    // The ring of five was epoch 1 or later, and three of its members are left.
    assert!(ring.epoch.0 > 1 && ring.lost.is_empty(), "epoch {}", ring.epoch);
    assert_eq!((ring.members.len(), ring.moving().count()), (3, 0));
    assert_eq!(world.unread(), [""; 0]);
    assert_eq!(world.write(KEYS), KEYS);
    assert_eq!(world.unread(), [""; 0]);
}

#[test]
fn an_operator_that_dies_in_the_middle_of_every_step_goes_on_with_it_all_the_same() {
    let mut world = adopted();
    world.settle(|world| {
        world.dies_at_its_next_call();
    });
    world.lives();
    assert_eq!(world.ring().unwrap().members.len(), 3);
    assert_eq!(world.unread(), [""; 0]);
}
