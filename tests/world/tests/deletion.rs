//! Clusters that are deleted with their volumes.
#![allow(clippy::unwrap_used)]

use dynamo_api_server::number;
use dynamo_scenarios::Create;
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

/// The operator may have seen neither the policy nor the deletion.
#[test]
fn volumes_that_are_to_stay_by_the_last_word_before_a_deletion_stay() {
    let policy = |policy: &str| json!({ "retention": { "whenDeleted": policy } });
    for seen in [0, 1, 5, 40] {
        let mut world = World::settled_with(3, KEYS);
        world.ask("storage", policy("Delete")).unwrap();
        world.settle(|_| ());
        world.ask("storage", policy("Retain")).unwrap();
        (0..seen).for_each(|_| world.round());
        world.delete();
        let gone = (0..ROUNDS_MAX).any(|_| {
            world.round();
            world.stage().is_empty()
        });
        assert!(gone, "{}", world.stage().trace());
        assert_eq!(world.volumes(), 3);
        world.adopt(&Create { replicas: 3, ..Create::default() });
        world.settle(|_| ());
        assert_eq!(world.unread(), [""; 0]);
    }
}
