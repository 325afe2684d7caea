//! Clusters that are deleted with their volumes.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use dynamo_api_server::number;
use dynamo_scenarios::Create;
use dynamo_world::kubernetes::{CLAIMS, SETS, is_ending};
use dynamo_world::{ROUNDS_MAX, World};
use serde_json::{Value, json};

const KEYS: u32 = 40;
/// A claim that a former cluster of the same name left.
const STRANGER: &str = "data-cart-999";

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
    await_gone(&mut world);
    (0..100).for_each(|_| world.round());
    assert_eq!(world.volumes(), 0, "{}", world.stage().trace());
    world.expect_no_violation();
}

fn policy(policy: &str) -> Value {
    json!({ "retention": { "whenDeleted": policy } })
}

fn await_gone(world: &mut World) {
    let gone = (0..ROUNDS_MAX).any(|_| {
        world.round();
        world.stage().is_empty()
    });
    assert!(gone, "{}", world.stage().trace());
}

/// Only the operator can delete them, and only a finalizer makes a deletion wait for it.
#[test]
fn all_volumes_go_or_all_stay_whatever_was_said_of_them_before_the_last_word() {
    let mut ends = BTreeSet::new();
    for words in [&["Delete"][..], &["Delete", "Retain"], &["Delete", "Retain", "Delete"]] {
        for rounds in (0..30).step_by(2) {
            let mut world = World::settled_with(3, KEYS);
            for word in words {
                world.ask("storage", policy(word)).unwrap();
                (0..rounds).for_each(|_| world.round());
            }
            let held = world.stage().cluster().unwrap()["metadata"]["finalizers"].is_array();
            world.delete();
            await_gone(&mut world);
            (0..100).for_each(|_| world.round());
            let goes = held && words.ends_with(&["Delete"]);
            assert_eq!(world.volumes(), if goes { 0 } else { 3 }, "{words:?}, {rounds} rounds after each");
            ends.insert((words.len(), goes));
            world.expect_no_violation();
        }
    }
    assert_eq!(ends, [(1, false), (1, true), (2, false), (3, false), (3, true)].into(), "it is seen, and not seen");
}

/// Who deletes a cluster wants that done, and a finalizer that nobody takes off would keep the cluster for ever.
#[test]
fn a_cluster_that_is_deleted_while_nothing_is_to_be_changed_goes_with_its_volumes() {
    let mut world = World::settled_with(3, KEYS);
    world.ask("storage", policy("Delete")).unwrap();
    world.settle(|_| ());
    world.ask("reconciliation", json!("Paused")).unwrap();
    (0..200).for_each(|_| world.round());
    assert_eq!((world.pods(), world.volumes()), (3, 3));
    world.delete();
    await_gone(&mut world);
    (0..100).for_each(|_| world.round());
    assert_eq!(world.volumes(), 0);
    world.expect_no_violation();
}

#[test]
fn an_operator_that_dies_at_every_call_of_a_deletion_leaves_no_volume_behind() {
    let mut world = World::settled_with(3, KEYS);
    world.ask("storage", policy("Delete")).unwrap();
    world.settle(|_| ());
    world.delete();
    let mut died = 0;
    let gone = (0..ROUNDS_MAX).any(|_| {
        died += usize::from(world.dies_at_its_next_call());
        world.round();
        world.stage().is_empty()
    });
    assert!(gone && died >= 3, "it died {died} times");
    (0..100).for_each(|_| world.round());
    assert_eq!(world.volumes(), 0);
    world.expect_no_violation();
}

/// As the field says of a change after the deletion.
#[test]
fn volumes_that_are_to_stay_by_a_word_after_the_deletion_stay_but_for_those_that_go_already() {
    let mut kept = BTreeSet::new();
    for rounds in 0..30 {
        let mut world = World::settled_with(3, KEYS);
        world.ask("storage", policy("Delete")).unwrap();
        world.settle(|_| ());
        world.delete();
        (0..rounds).for_each(|_| world.round());
        if world.ask("storage", policy("Retain")).is_err() {
            break;
        }
        let is_there =
            |claim: &Value| claim.pointer("/metadata/annotations/dynamokv.io~1cluster-uid").is_some() && !is_ending(claim);
        let claims = |world: &World| {
            let stage = world.stage();
            stage.kubernetes.api.list(CLAIMS).filter(|(name, claim)| *name != STRANGER && is_there(claim)).count()
        };
        let before = claims(&world);
        await_gone(&mut world);
        (0..100).for_each(|_| world.round());
        assert_eq!(claims(&world), before, "{rounds} rounds after the deletion");
        kept.insert(before);
        world.expect_no_violation();
    }
    assert!(kept.contains(&3), "{kept:?}");
}

/// The operator may have seen neither the policy nor the deletion.
#[test]
fn volumes_that_are_to_stay_by_the_last_word_before_a_deletion_stay() {
    for seen in [0, 1, 5, 40] {
        let mut world = World::settled_with(3, KEYS);
        world.ask("storage", policy("Delete")).unwrap();
        world.settle(|_| ());
        world.ask("storage", policy("Retain")).unwrap();
        (0..seen).for_each(|_| world.round());
        world.delete();
        await_gone(&mut world);
        assert_eq!(world.volumes(), 3);
        world.adopt(&Create { replicas: 3, ..Create::default() });
        world.settle(|_| ());
        assert_eq!(world.unread(), [""; 0]);
    }
}
