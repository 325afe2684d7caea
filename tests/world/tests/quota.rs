//! Pods that a quota keeps from being made: the StatefulSet controller sleeps over them, and is woken.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use dynamo_api_server::{number, text};
use dynamo_scenarios::Create;
use dynamo_world::faults::Faults;
use dynamo_world::kubernetes::{PODS, SETS};
use dynamo_world::{ROUNDS_MAX, World};
use serde_json::json;

const KEYS: u32 = 40;
/// Rounds of a minute.
const MINUTE: u32 = 1200;
/// Minutes after which the controller, left alone, would sleep for some more.
const MINUTES: u32 = 8;
/// Runs in which everything goes wrong.
const SEEDS: u64 = 6;

/// When the controller of the cluster's set was last woken, as the set says.
fn nudged(world: &World) -> Option<String> {
    let stage = world.stage();
    let set = stage.kubernetes.api.get(&format!("{SETS}/cart")).unwrap();
    set.pointer("/metadata/annotations/dynamokv.io~1nudged").map(|time| time.as_str().unwrap().to_owned())
}

/// What the cluster's PodDisruptionBudget allows.
fn max_unavailable(world: &World) -> u32 {
    let stage = world.stage();
    number(stage.kubernetes.api.get("/apis/policy/v1/namespaces/shop/poddisruptionbudgets/cart").unwrap(), "/spec/maxUnavailable")
}

fn uids(world: &World) -> BTreeSet<String> {
    let stage = world.stage();
    stage.kubernetes.api.list(PODS).map(|(_, pod)| text(pod, "/metadata/uid").to_owned()).collect()
}

#[test]
fn pods_that_a_quota_kept_from_being_made_come_within_a_minute_of_its_end() {
    let mut world = World::settled_with(3, KEYS);
    world.stage().kubernetes.pods_max = Some(4);
    world.scale(6);
    let mut nudges = BTreeSet::new();
    for _ in 0..MINUTES * MINUTE {
        world.round();
        nudges.extend(nudged(&world));
    }
    let pods = uids(&world);
    assert_eq!(pods.len(), 4);
    assert!((MINUTES - 1..=MINUTES).contains(&(nudges.len() as u32)), "once a minute: {nudges:?}");
    assert_eq!(max_unavailable(&world), 3, "a drain finds the members and no others");
    world.stage().kubernetes.pods_max = None;
    let waited = (0..ROUNDS_MAX).take_while(|_| {
        world.round();
        world.pods() < 6
    });
    let waited = waited.count() as u32;
    assert!(waited <= MINUTE + MINUTE / 10, "{waited} rounds");
    world.settle(|_| ());
    assert!(uids(&world).is_superset(&pods), "no pod is restarted for it");
    assert_eq!((nudged(&world), world.unread(), max_unavailable(&world)), (None, vec![], 1));
    (0..MINUTE).for_each(|_| world.round());
    let calls = world.stage().calls;
    (0..MINUTE).for_each(|_| world.round());
    assert_eq!(world.stage().calls, calls, "at rest");
}

#[test]
fn whatever_goes_wrong_while_a_quota_comes_and_goes_the_pods_come_and_nothing_is_lost() {
    for seed in 0..SEEDS {
        let create = Create { replicas: 3, ..Create::default() };
        let mut world = World::create(&create, Faults::seeded(seed));
        for (pods, replicas) in [(3, 5), (5, 4), (4, 6)] {
            world.stage().kubernetes.pods_max = Some(pods);
            world.ask("replicas", json!(replicas)).unwrap();
            (0..2 * MINUTE).for_each(|_| world.round());
        }
        world.lives();
        world.stage().kubernetes.release_all();
        world.ask("replicas", json!(6)).unwrap();
        world.settle(|_| ());
        assert_eq!((world.pods(), nudged(&world)), (6, None), "seed {seed}");
    }
}
