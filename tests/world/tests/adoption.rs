//! Volumes that the cluster did not make: those that a former cluster left, and those that somebody restored.
#![allow(clippy::unwrap_used)]

use dynamo_core::id::NodeId;
use dynamo_core::rebalance::{self, Members, Next, View, loss};
use dynamo_core::ring::Member;
use dynamo_scenarios::Create;
use dynamo_world::kubernetes::CLAIMS;
use dynamo_world::nodes::Running;
use dynamo_world::{ROUNDS_MAX, World};
use serde_json::{Value, json};

const KEYS: u32 = 40;

/// A cluster of five nodes with data was deleted, and one of three goes on with its volumes.
fn adopted() -> World {
    let mut world = deleted(5);
    adopt(&mut world);
    world
}

/// A cluster with data was deleted, and its volumes are there.
fn deleted(nodes: u32) -> World {
    let mut world = World::settled_with(nodes, KEYS);
    world.delete();
    await_gone(&mut world);
    world
}

fn adopt(world: &mut World) {
    world.adopt(&Create { replicas: 3, ..Create::default() });
}

fn await_gone(world: &mut World) {
    let gone = (0..ROUNDS_MAX).any(|_| {
        world.round();
        world.stage().is_empty()
    });
    assert!(gone, "{}", world.stage().trace());
}

/// As `dynamoctl ring replace --lost` does: declares the loss, and writes rings until the other is in the place of the lost one.
fn replace(world: &mut World, lost: NodeId, by: NodeId) {
    for _ in 0..ROUNDS_MAX {
        world.round();
        let mut stage = world.stage();
        let view = |running: &Running| {
            let status = running.node.status(stage.nodes.now());
            View { epoch: status.epoch, ring_hash: status.ring_hash, received: status.received }
        };
        let views = stage.nodes.running().values().map(|running| (running.node.identity().node, view(running))).collect();
        let rings = stage.nodes.running().values().filter_map(|running| running.node.ring());
        let ring = rings.max_by_key(|ring| ring.epoch).unwrap().clone();
        let mut wanted: Members =
            ring.members.iter().map(|(node, member)| (*node, Member { weight: 1, ..member.clone() })).collect();
        if let Some(member) = wanted.remove(&lost) {
            wanted.insert(by, member);
        }
        let Ok(declared) = loss::declare(&ring, &[lost], &views) else { continue };
        let next = match rebalance::next(&ring, &wanted, &views) {
            _ if declared != *ring => declared,
            Ok(Next::Propose(next)) => next,
            Ok(Next::Settled) => return,
            waits => {
                assert!(matches!(waits, Ok(Next::AwaitEpoch(_) | Next::AwaitData { .. })), "{waits:?}");
                continue;
            }
        };
        let pods: Vec<String> = stage.nodes.running().keys().cloned().collect();
        for pod in pods {
            // One that has not heard of the ring before is offered this one again, or hears of it from the others.
            let _ = stage.nodes.offer(&pod, &next);
        }
    }
    panic!("{lost} is not replaced:\n{}", world.stage().trace());
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

/// Nothing can prove that a node is lost whose volume was never seen; the condition names what can be done, and it works.
#[test]
fn where_it_lacks_a_volume_the_command_that_is_named_replaces_the_node() {
    let mut world = deleted(3);
    let lost = world.node_of("cart-1").unwrap();
    world.lose_volume("cart-1");
    adopt(&mut world);
    let rounds = |world: &mut World| (0..500).for_each(|_| world.round());
    rounds(&mut world);
    let cluster = world.stage().cluster().unwrap();
    let conditions = cluster["status"]["conditions"].as_array().unwrap();
    let degraded = conditions.iter().find(|condition| condition["type"] == "Degraded").unwrap()["message"].to_string();
    assert!(
        degraded.contains(&format!("Paused, run `dynamoctl --endpoint cart.shop.svc:7400 ring replace --lost {lost}")),
        "{degraded}"
    );
    world.ask("reconciliation", json!("Paused")).unwrap();
    rounds(&mut world);
    let replacement = world.node_of("cart-1").unwrap();
    replace(&mut world, lost, replacement);
    world.ask("reconciliation", json!("Active")).unwrap();
    world.settle(|_| ());
    let ring = world.ring().unwrap();
    assert!(ring.is_lost(lost) && ring.members.contains_key(&replacement));
    assert_eq!((ring.members.len(), ring.moving().count()), (3, 0));
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

/// Else there would be a second ring, and clients would find an empty cluster.
#[test]
fn other_zones_or_partitions_than_the_former_ones_are_refused_with_what_to_give_and_nothing_is_lost() {
    let zones = ["a", "b", "c"].map(str::to_owned).to_vec();
    let mistakes = [
        (Create { replicas: 3, zones, ..Create::default() }, "OtherZones", "data-cart-0, data-cart-1, data-cart-2: of this"),
        (Create { replicas: 3, partitions: 32, ..Create::default() }, "OtherRing", "spec.partitions is 32, and theirs 16"),
        (Create { replicas: 5, factor: 5, ..Create::default() }, "OtherRing", "spec.replication.factor is 5, and theirs 3"),
    ];
    for (mistake, reason, told) in mistakes {
        let mut world = deleted(3);
        world.adopt(&mistake);
        (0..500).for_each(|_| world.round());
        assert_eq!(world.condition("Ready").unwrap().1, reason);
        let degraded = world.message("Degraded");
        assert!(degraded.contains(told) && degraded.contains("create it again with the same spec.adoptCluster"), "{degraded}");
        assert_eq!(world.ring(), None);
        world.expect_no_violation();
        world.delete();
        await_gone(&mut world);
        adopt(&mut world);
        world.settle(|_| ());
        assert_eq!((world.ring().unwrap().members.len(), world.unread()), (3, vec![]));
    }
}

/// Its claims were deleted, or it was in another namespace.
#[test]
fn a_cluster_of_which_no_claim_is_there_is_not_gone_on_with_and_comes_back_with_one() {
    let mut world = deleted(3);
    let claims: Vec<(String, Value)> = {
        let stage = world.stage();
        let claims = stage.kubernetes.api.list(CLAIMS);
        claims
            .map(|(name, claim)| (name.to_owned(), (**claim).clone()))
            .filter(|(name, _)| name.len() == "data-cart-0".len())
            .collect()
    };
    assert_eq!(claims.len(), 3);
    claims.iter().for_each(|(name, _)| world.stage().kubernetes.api.remove(&format!("{CLAIMS}/{name}")));
    adopt(&mut world);
    (0..500).for_each(|_| world.round());
    assert_eq!(world.condition("Ready").unwrap().1, "NothingToAdopt");
    assert_eq!((world.pods(), world.ring()), (0, None));
    for (_, claim) in claims {
        world.stage().kubernetes.api.create(CLAIMS, claim).unwrap();
    }
    world.settle(|_| ());
    assert_eq!((world.ring().unwrap().members.len(), world.unread()), (3, vec![]));
}

/// Of the former cluster nobody knows how far it was; its nodes do.
#[test]
fn a_cluster_that_was_deleted_in_the_middle_of_a_scaling_is_adopted_with_what_its_nodes_have() {
    for (from, to) in [(3, 5), (5, 3)] {
        for turn in (0..48).step_by(4) {
            let mut world = World::settled_with(from, KEYS);
            let before = world.stage().calls;
            world.scale(to);
            while world.stage().calls - before < turn && !world.has_settled() {
                world.round();
            }
            world.delete();
            await_gone(&mut world);
            adopt(&mut world);
            world.settle(|_| ());
            let ring = world.ring().unwrap();
            assert_eq!((ring.members.len(), ring.moving().count()), (3, 0), "{from} to {to}, {turn}");
            assert_eq!(world.unread(), [""; 0], "{from} to {to}, {turn}");
        }
    }
}
