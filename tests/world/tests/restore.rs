//! Volumes that are set back to an earlier day while Kubernetes' objects are of today, and records of the ring that somebody deletes.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use dynamo_core::storage::MemoryStorage;
use dynamo_scenarios::Create;
use dynamo_world::World;
use dynamo_world::faults::Faults;

const KEYS: u32 = 40;
/// Rounds that are enough for whatever is going to happen by itself.
const LONG: u32 = 600;

fn rounds(world: &mut World, rounds: u32) {
    (0..rounds).for_each(|_| world.round());
    world.expect_no_violation();
}

/// A cluster of three that was four in between, and its volumes as they were before.
fn with_a_backup() -> (World, BTreeMap<String, MemoryStorage>) {
    let create = Create { replicas: 3, deletes_volumes: true, ..Create::default() };
    let mut world = World::create(&create, Faults::none());
    world.settle(|_| ());
    assert_eq!(world.write(KEYS), KEYS);
    // What is kept for others is on its way.
    rounds(&mut world, LONG);
    let backup = world.stage().nodes.backup();
    for replicas in [4, 3] {
        world.scale(replicas);
        world.settle(|_| ());
    }
    assert_eq!(world.volumes(), 3);
    (world, backup)
}

fn epochs(world: &World) -> Vec<u64> {
    world.stage().nodes.running().values().map(|running| running.node.ring().map_or(0, |ring| ring.epoch.0)).collect()
}

fn reason(world: &World, kind: &str) -> String {
    world.condition(kind).unwrap().1
}

/// What the condition says is done, word by word, by an operator that dies at every call.
#[test]
fn where_all_volumes_were_set_back_the_condition_names_what_helps_and_it_does() {
    let (mut world, backup) = with_a_backup();
    let recorded = world.ring().unwrap();
    world.restore(backup);
    rounds(&mut world, LONG);
    assert_eq!((epochs(&world), world.ring().unwrap().epoch), (vec![1, 1, 1], recorded.epoch));
    assert_eq!([reason(&world, "Ready"), reason(&world, "Degraded")], ["RecordAhead", "RecordAhead"]);
    let told = world.message("Degraded");
    assert!(told.contains(&format!("ring epoch {} is recorded", recorded.epoch)), "{told}");
    assert!(told.contains("cart-0, cart-1, cart-2: hold epoch 1"), "{told}");
    assert!(told.contains("delete configmap cart-ring"), "{told}");
    world.delete_record();
    world.settle(|world| {
        world.dies_at_its_next_call();
    });
    world.lives();
    let ring = world.ring().unwrap();
    assert_eq!((ring.members.len(), ring.lost.len(), ring.moving().count()), (3, 0, 0));
    assert_eq!(world.unread(), [""; 0]);
    world.scale(5);
    world.settle(|_| ());
    assert_eq!(world.unread(), [""; 0]);
}

/// Nobody knows what a node holds that does not answer, whatever somebody has deleted meanwhile.
#[test]
fn a_record_is_not_made_anew_while_a_node_that_may_hold_a_newer_ring_does_not_answer() {
    let (mut world, mut backup) = with_a_backup();
    let recorded = world.ring().unwrap().epoch;
    let newest = world.stage().nodes.running()["cart-2"].claim.clone();
    backup.remove(&newest);
    world.hold("cart-2");
    world.restore(backup);
    rounds(&mut world, LONG);
    assert_eq!((reason(&world, "Ready"), reason(&world, "Degraded")), ("AwaitingNodes".into(), "MembersUnreachable".into()));
    let told = world.message("Ready");
    assert!(told.contains(&format!("to confirm ring epoch {recorded}; cart-0, cart-1: hold epoch 1")), "{told}");
    world.delete_record();
    rounds(&mut world, LONG);
    assert_eq!(world.ring(), None);
    world.release("cart-2");
    world.settle(|_| ());
    assert_eq!((world.ring().unwrap().epoch, epochs(&world)), (recorded, vec![recorded.0; 3]));
    assert_eq!(world.unread(), [""; 0]);
}

#[test]
fn a_record_that_is_deleted_at_any_step_of_a_scaling_is_taken_from_the_nodes() {
    for (from, to) in [(3, 5), (5, 3)] {
        for turn in (0..48).step_by(3) {
            let mut world = World::settled_with(from, KEYS);
            let before = world.stage().calls;
            world.scale(to);
            let mut deleted = false;
            world.settle(|world| {
                let calls = world.stage().calls - before;
                if !deleted && calls >= turn {
                    deleted = true;
                    world.delete_record();
                }
            });
            let ring = world.ring().unwrap();
            assert_eq!((ring.members.len(), ring.moving().count()), (to as usize, 0), "{from} to {to}, {turn}");
            assert_eq!(world.unread(), [""; 0]);
        }
    }
}
