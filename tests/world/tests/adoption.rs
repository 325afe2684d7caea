//! Volumes that the cluster did not make: those that a former cluster left, and those that somebody restored.
#![allow(clippy::unwrap_used)]

use dynamo_scenarios::Create;
use dynamo_world::kubernetes::CLAIMS;
use dynamo_world::{ROUNDS_MAX, World};
use serde_json::json;

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

#[test]
fn a_claim_that_somebody_restored_without_labels_holds_up_nothing() {
    let mut world = World::settled_with(3, KEYS);
    let claim = format!("{CLAIMS}/data-cart-1");
    world.stage().kubernetes.api.edit(&claim, |claim| claim["metadata"]["labels"] = json!({}));
    world.scale(4);
    world.settle(|_| ());
    assert_eq!(world.ring().unwrap().members.len(), 4);
    let labels = world.stage().kubernetes.api.get(&claim).unwrap()["metadata"]["labels"].clone();
    assert_eq!(labels["dynamokv.io/cluster"], "cart");
    assert_eq!(world.unread(), [""; 0]);
}
