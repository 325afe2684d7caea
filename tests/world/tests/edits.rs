//! Edits of the spec in odd orders: several fields at once, taken back half way, one while another is not done.
#![allow(clippy::unwrap_used)]

use dynamo_api_server::text;
use dynamo_scenarios::Create;
use dynamo_world::faults::Faults;
use dynamo_world::kubernetes::PODS;
use dynamo_world::{World, image};
use serde_json::{Value, json};

const KEYS: u32 = 30;
/// Every so many-th call is a turn here.
const STRIDE: usize = 3;

/// How many calls the operator makes until it has settled after `edit`.
fn calls_of(from: u32, edit: &[(&str, Value)]) -> u64 {
    let mut world = World::settled_with(from, 0);
    let before = world.stage().calls;
    world.ask_together(edit).unwrap();
    world.settle(|_| ());
    let calls = world.stage().calls;
    calls - before
}

/// `then` happens at every turn of what follows on `edit`; the cluster must settle each time, with so many members and nothing lost.
fn at_every_turn(from: u32, edit: &[(&str, Value)], then: impl Fn(&mut World), members: usize) {
    for turn in (0..=calls_of(from, edit)).step_by(STRIDE) {
        let mut world = World::settled_with(from, KEYS);
        let before = world.stage().calls;
        world.ask_together(edit).unwrap();
        let mut done = false;
        world.settle(|world| {
            let calls = world.stage().calls - before;
            if !done && calls >= turn {
                done = true;
                then(world);
            }
        });
        if !done {
            then(&mut world);
            world.settle(|_| ());
        }
        let ring = world.ring().unwrap();
        assert_eq!((world.pods(), ring.members.len(), ring.moving().count()), (members, members, 0), "turn {turn}");
        assert_eq!(world.unread(), [""; 0], "turn {turn}");
    }
}

fn resources(cpu: &str) -> Value {
    json!({ "requests": { "cpu": cpu } })
}

#[test]
fn an_image_a_size_and_resources_that_are_asked_for_together_can_be_taken_back_at_any_step() {
    let edit = [("image", json!(image("next"))), ("replicas", json!(5)), ("resources", resources("1"))];
    let back = |world: &mut World| {
        world.ask_together(&[("image", json!(image("first"))), ("replicas", json!(3)), ("resources", Value::Null)]).unwrap();
    };
    at_every_turn(3, &edit, back, 3);
    let shrink = [("image", json!(image("next"))), ("replicas", json!(3)), ("resources", resources("1"))];
    let back = |world: &mut World| {
        world.ask_together(&[("image", json!(image("first"))), ("replicas", json!(5)), ("resources", Value::Null)]).unwrap();
    };
    at_every_turn(5, &shrink, back, 5);
}

#[test]
fn a_rebalance_that_is_paused_at_any_step_follows_the_size_that_is_asked_for_when_it_goes_on() {
    for (from, to, last) in [(3, 5, 4), (5, 3, 6)] {
        let edit = [("replicas", json!(to)), ("image", json!(image("next")))];
        let then = |world: &mut World| {
            world.ask_together(&[("rebalancing", json!({ "paused": true })), ("replicas", json!(last))]).unwrap();
            (0..200).for_each(|_| world.round());
            world.ask("rebalancing", json!({ "paused": false })).unwrap();
        };
        at_every_turn(from, &edit, then, last);
    }
}

#[test]
fn an_operator_that_is_told_to_stand_still_at_any_step_goes_on_with_what_is_asked_for_then() {
    let edit = [("replicas", json!(5)), ("image", json!(image("next")))];
    let then = |world: &mut World| {
        world.ask("reconciliation", json!("Paused")).unwrap();
        (0..100).for_each(|_| world.round());
        world.ask_together(&[("replicas", json!(4)), ("image", json!(image("third")))]).unwrap();
        (0..100).for_each(|_| world.round());
        world.ask("reconciliation", json!("Active")).unwrap();
    };
    at_every_turn(3, &edit, then, 4);
}

/// O8 judges each deletion by the policy that holds then.
#[test]
fn what_becomes_of_volumes_can_be_said_otherwise_at_any_step_of_a_shrink() {
    let policy = |policy: &str| json!({ "retention": { "whenScaled": policy } });
    for (first, then) in [("Delete", "Retain"), ("Retain", "Delete")] {
        let edit = [("replicas", json!(3)), ("storage", policy(first))];
        at_every_turn(5, &edit, |world| world.ask("storage", policy(then)).unwrap(), 3);
    }
}

#[test]
fn more_zones_than_nodes_are_filled_and_emptied() {
    let zones = ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec();
    let mut world = World::create(&Create { replicas: 3, zones, ..Create::default() }, Faults::none());
    world.settle(|_| ());
    assert_eq!(world.write(KEYS), KEYS);
    for (replicas, name) in [(5, "next"), (3, "third"), (7, "fourth"), (4, "first")] {
        world.ask_together(&[("replicas", json!(replicas)), ("image", json!(image(name)))]).unwrap();
        world.settle(|_| ());
        let stage = world.stage();
        let images = stage.kubernetes.api.list(PODS).map(|(_, pod)| text(pod, "/spec/containers/0/image").to_owned());
        assert_eq!(images.collect::<Vec<_>>(), vec![image(name); replicas]);
        drop(stage);
        assert_eq!(world.unread(), [""; 0]);
    }
}

#[test]
fn more_nodes_than_the_partitions_have_copies_come_and_go() {
    let mut world = World::create(&Create { replicas: 3, partitions: 2, ..Create::default() }, Faults::none());
    world.settle(|_| ());
    assert_eq!(world.write(KEYS), KEYS);
    for replicas in [12, 7, 10, 3] {
        world.scale(replicas);
        world.settle(|_| ());
        let ring = world.ring().unwrap();
        let idle = ring.members.keys().filter(|node| ring.partitions_of(**node) == 0).count();
        assert_eq!((ring.members.len(), idle), (replicas as usize, (replicas as usize).saturating_sub(6)));
        assert_eq!(world.unread(), [""; 0]);
    }
}
