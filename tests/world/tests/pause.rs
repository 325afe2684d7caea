//! A cluster whose `reconciliation` is Paused: nothing is done, and nobody is told that all is done.
#![allow(clippy::unwrap_used)]

use dynamo_world::stage::CLUSTERS;
use dynamo_world::{World, image};
use serde_json::{Value, json};

/// Long enough for several passes.
const ROUNDS: usize = 800;

#[test]
fn a_paused_cluster_is_not_ready_under_what_it_is_asked_for_then() {
    let asked: [(&str, Value, &str); 3] = [
        ("image", json!(image("next")), "next: default"),
        ("settings", json!({ "hintAfterMs": 100 }), "next: default, ConfigMap cart-config-"),
        ("podDisruptionBudget", json!({ "maxUnavailable": 2 }), "next: PodDisruptionBudget cart"),
    ];
    for (field, value, told) in asked {
        let mut world = World::settled_with(3, 10);
        world.ask("reconciliation", json!("Paused")).unwrap();
        (0..ROUNDS).for_each(|_| world.round());
        assert_eq!(world.condition("Ready").unwrap(), ("True".into(), "AsAsked".into(), true), "nothing else is asked for");
        world.ask(field, value).unwrap();
        let objects = |world: &World| {
            let mut objects = world.stage().kubernetes.api.objects().clone();
            objects.retain(|path, _| !path.starts_with(CLUSTERS));
            objects
        };
        let before = objects(&world);
        (0..ROUNDS).for_each(|_| world.round());
        assert_eq!(world.condition("Ready").unwrap(), ("False".into(), "Paused".into(), true), "{field}");
        // A configuration has its hash in its name.
        let ready = world.message("Ready");
        assert!(ready.starts_with(told), "{ready}");
        assert_eq!(world.message("Progressing"), format!("spec.reconciliation is Paused; otherwise: {ready}"));
        assert!(objects(&world) == before, "nothing is written");
        world.ask("reconciliation", json!("Active")).unwrap();
        world.settle(|_| ());
    }
}

#[test]
fn a_shrink_of_a_paused_cluster_says_that_the_pause_is_what_it_waits_for() {
    let mut world = World::settled_with(4, 10);
    world.ask("reconciliation", json!("Paused")).unwrap();
    world.scale(3);
    (0..ROUNDS).for_each(|_| world.round());
    assert_eq!(world.condition("ScaleInBlocked").unwrap(), ("True".into(), "Paused".into(), true));
    assert_eq!(world.message("ScaleInBlocked"), "spec.reconciliation is Paused; set it to Active, and the nodes leave");
    assert_eq!(world.pods(), 4);
    world.ask("reconciliation", json!("Active")).unwrap();
    world.settle(|_| ());
    assert_eq!((world.pods(), world.condition("ScaleInBlocked").unwrap().1), (3, "NoScaleIn".into()));
}
