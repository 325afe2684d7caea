//! Clusters that are deleted with their volumes.
#![allow(clippy::unwrap_used)]

use dynamo_api_server::number;
use dynamo_world::kubernetes::SETS;
use dynamo_world::{ROUNDS_MAX, World};
use serde_json::json;

const KEYS: u32 = 40;

/// The StatefulSet controller makes claims until it hears that the cluster is no more, which is later than the operator does.
#[test]
fn a_cluster_that_is_deleted_while_it_grows_leaves_no_claim_behind() {
    let mut world = World::settled_with(3, KEYS);
    world.ask("storage", json!({ "retention": { "whenDeleted": "Delete" } })).unwrap();
    world.settle(|_| ());
    world.scale(5);
    let asked = |world: &World| number(world.stage().kubernetes.api.get(&format!("{SETS}/cart")).unwrap(), "/spec/replicas");
    assert!((0..ROUNDS_MAX).any(|_| {
        world.round();
        asked(&world) == 5
    }));
    assert_eq!(world.volumes(), 3, "the set has just been told");
    world.delete();
    world.pass(0);
    let gone = (0..ROUNDS_MAX).any(|_| {
        world.round();
        world.stage().is_empty()
    });
    assert!(gone, "{}", world.stage().trace());
    (0..100).for_each(|_| world.round());
    assert_eq!(world.volumes(), 0, "{}", world.stage().trace());
    world.expect_no_violation();
}
