//! Changed settings: which configuration each pod reads, and which are there.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use dynamo_api_server::{number, text};
use dynamo_scenarios::Create;
use dynamo_world::faults::Faults;
use dynamo_world::kubernetes::{CONFIG_MAPS, IMAGE_EARLIER, PODS, SETS};
use dynamo_world::{ROUNDS_MAX, World, image};
use serde_json::{Value, json};

const KEYS: u32 = 40;
/// Runs in which everything goes wrong.
const SEEDS: u64 = 4;
/// Rounds that are enough for whatever is going to happen by itself.
const LONG: u32 = 500;

fn rounds(world: &mut World, rounds: u32) {
    (0..rounds).for_each(|_| world.round());
    world.expect_no_violation();
}

/// The image and the configuration of each pod.
fn pods(world: &World) -> Vec<(String, String)> {
    let stage = world.stage();
    let pods = stage.kubernetes.api.list(PODS).map(|(_, pod)| {
        let image = text(pod, "/spec/containers/0/image").rsplit(':').next().unwrap();
        (image.to_owned(), text(pod, "/spec/volumes/0/configMap/name").to_owned())
    });
    pods.collect()
}

/// The configurations that are there.
fn configurations(world: &World) -> BTreeSet<String> {
    let stage = world.stage();
    let all = stage.kubernetes.api.list(CONFIG_MAPS).map(|(name, _)| name.to_owned());
    all.filter(|name| name.starts_with("cart-config")).collect()
}

/// The configuration that all pods have.
fn the_one(world: &World) -> String {
    let all: BTreeSet<String> = pods(world).into_iter().map(|(_, configuration)| configuration).collect();
    assert_eq!(all.len(), 1, "{all:?}");
    all.into_iter().next().unwrap()
}

fn skew(ms: u32) -> Value {
    json!({ "clockSkewMsMax": ms })
}

/// Its container is killed and starts again in the same pod, as after an OOM kill; and then the pod is drained from its machine.
#[test]
fn a_pod_that_restarts_before_its_turn_has_the_configuration_that_it_had() {
    let create = Create { replicas: 3, image: IMAGE_EARLIER.into(), ..Create::default() };
    let mut world = World::create(&create, Faults::none());
    world.settle(|_| ());
    assert_eq!(world.write(KEYS), KEYS);
    let before = the_one(&world);
    world.ask_together(&[("image", json!(image("next"))), ("settings", skew(250))]).unwrap();
    let set = format!("{SETS}/cart");
    while number(world.stage().kubernetes.api.get(&set).unwrap(), "/spec/updateStrategy/rollingUpdate/partition") != 2 {
        world.round();
    }
    world.starve(&["cart-0"]);
    world.feed(&["cart-0"]);
    world.kill("cart-1");
    world.settle(|world| {
        for (image, configuration) in pods(world) {
            assert_eq!(image == IMAGE_EARLIER, configuration == before, "{image} reads {configuration}");
        }
    });
    assert!(pods(&world).iter().all(|(image, _)| image == "next"));
    assert_eq!(world.unread(), [""; 0]);
}

#[test]
fn an_operator_that_dies_at_every_call_leaves_the_configuration_that_is_asked_for_and_the_one_before() {
    for zones in [Vec::new(), ["a", "b", "c"].map(str::to_owned).to_vec()] {
        let create = Create { replicas: 3, zones, ..Create::default() };
        let mut world = World::create(&create, Faults::none());
        world.settle(|_| ());
        assert_eq!(world.write(KEYS), KEYS);
        let first = the_one(&world);
        let (mut before, mut names) = (first.clone(), BTreeSet::from([first.clone()]));
        for settings in [skew(250), skew(300), json!({}), skew(300), skew(350)] {
            world.ask("settings", settings).unwrap();
            let mut died = 0;
            world.settle(|world| died += u32::from(world.dies_at_its_next_call()));
            assert!(died >= 4, "it died {died} times");
            // It goes on to die in what it clears away.
            for _ in 0..LONG {
                world.round();
                world.dies_at_its_next_call();
            }
            world.lives();
            rounds(&mut world, LONG);
            let present = the_one(&world);
            assert_eq!(configurations(&world), BTreeSet::from([before, present.clone()]));
            names.insert(present.clone());
            before = present;
        }
        assert_eq!(names.len(), 4, "going back finds the one of before: {names:?}");
        world.pass(0);
        let calls = world.stage().calls;
        (0..5).for_each(|_| drop(world.pass(0)));
        assert_eq!(world.stage().calls, calls);
        assert_eq!(world.unread(), [""; 0]);
    }
}

#[test]
fn settings_that_change_before_the_last_ones_are_rolled_out_end_with_the_last() {
    let mut world = World::settled_with(4, KEYS);
    let first = the_one(&world);
    for turn in 0..6 {
        world.ask("settings", skew(100 + turn)).unwrap();
        rounds(&mut world, 7 + 5 * turn);
    }
    world.ask("settings", json!({})).unwrap();
    world.settle(|_| ());
    rounds(&mut world, LONG);
    assert_eq!(the_one(&world), first);
    assert_eq!(configurations(&world).len(), 2);
    assert_eq!(world.unread(), [""; 0]);
}

/// What the checker of O10 says of each deletion is what counts here, and that it ends.
#[test]
fn whatever_goes_wrong_while_settings_change_no_configuration_goes_that_somebody_reads() {
    for seed in 0..SEEDS {
        let create = Create { replicas: 3, ..Create::default() };
        let mut world = World::create(&create, Faults::seeded(seed));
        for turn in 0..8 {
            let settings = if turn % 3 == 2 { json!({}) } else { skew(100 + turn) };
            world.ask_together(&[("replicas", json!(3)), ("settings", settings)]).unwrap();
            rounds(&mut world, 60 + 20 * turn);
        }
        world.lives();
        rounds(&mut world, LONG);
        world.ask_together(&[("replicas", json!(3)), ("settings", skew(500))]).unwrap();
        world.settle(|_| ());
        rounds(&mut world, LONG);
        assert!(configurations(&world).contains(&the_one(&world)), "seed {seed}");
        assert_eq!(configurations(&world).len(), 2, "seed {seed}");
    }
}

#[test]
fn the_configurations_go_with_the_cluster() {
    let mut world = World::settled_with(3, KEYS);
    world.ask("settings", skew(250)).unwrap();
    world.settle(|_| ());
    world.delete();
    assert!((0..ROUNDS_MAX).any(|_| {
        world.round();
        world.stage().is_empty()
    }));
    assert_eq!(configurations(&world), BTreeSet::new());
}
