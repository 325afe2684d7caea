//! Scaling, with an operator that may die at any call.
#![allow(clippy::unwrap_used)]

use dynamo_api_server::number;
use dynamo_scenarios::Create;
use dynamo_world::faults::Faults;
use dynamo_world::kubernetes::SETS;
use dynamo_world::operator::Outcome;
use dynamo_world::{ROUNDS_MAX, World};

const KEYS: u32 = 40;
/// The cluster's PodDisruptionBudget.
const BUDGET: &str = "/apis/policy/v1/namespaces/shop/poddisruptionbudgets/cart";

fn expect_members(world: &mut World, count: usize) {
    assert_eq!(world.pods(), count);
    let ring = world.ring().unwrap();
    assert_eq!(ring.members.len(), count);
    assert_eq!(ring.moving().count(), 0);
    assert_eq!(world.unread(), [""; 0]);
    world.expect_no_violation();
}

#[test]
fn a_cluster_is_created_grows_and_shrinks_and_nothing_is_lost_at_any_step() {
    let mut world = World::settled_with(3, KEYS);
    expect_members(&mut world, 3);
    for replicas in [5, 3, 6, 4] {
        world.scale(replicas);
        let mut key = 0;
        world.settle(|world| {
            key += 1;
            world.write_key(key % KEYS);
            if key % 10 == 0 {
                assert_eq!(world.unread(), [""; 0]);
            }
        });
        expect_members(&mut world, replicas as usize);
    }
}

#[test]
fn an_operator_that_dies_in_the_middle_of_every_step_reaches_the_same_end() {
    let mut world = World::settled_with(3, KEYS);
    for replicas in [5, 3] {
        world.scale(replicas);
        let mut died = 0;
        // Each process lives for one call that changes something, and the next one takes its place.
        world.settle(|world| {
            if world.dies_at_its_next_call() {
                died += 1;
            }
        });
        assert!(died >= 8, "it died {died} times");
        world.lives();
        expect_members(&mut world, replicas as usize);
    }
}

#[test]
fn a_size_that_changes_at_every_step_of_a_rebalance_ends_where_it_was_left() {
    let steps = {
        let mut world = World::settled_with(3, KEYS);
        let before = world.stage().calls;
        world.scale(5);
        world.settle(|_| ());
        let calls = world.stage().calls;
        calls - before
    };
    assert!(steps > 20);
    for turn in 0..steps {
        let mut world = World::settled_with(3, KEYS);
        let before = world.stage().calls;
        world.scale(5);
        let mut back = false;
        world.settle(|world| {
            let calls = world.stage().calls - before;
            if !back && calls >= turn {
                back = true;
                world.scale(3);
            }
        });
        expect_members(&mut world, if back { 3 } else { 5 });
    }
}

/// Zones become uneven by one meanwhile, which they may; the one that comes later joins by itself.
#[test]
fn newcomers_that_run_join_without_one_that_cannot_and_it_joins_when_it_can() {
    let zones = ["a", "b", "c"].map(str::to_owned).to_vec();
    let create = Create { replicas: 3, zones, ..Create::default() };
    let mut world = World::create(&create, Faults::none());
    world.settle(|_| ());
    assert_eq!(world.write(KEYS), KEYS);
    world.hold("cart-b-1");
    world.scale(6);
    let members = |world: &World, count: usize| {
        world.ring().is_some_and(|ring| ring.members.len() == count && ring.moving().next().is_none())
    };
    assert!((0..ROUNDS_MAX).any(|_| {
        world.round();
        members(&world, 5)
    }));
    for _ in 0..100 {
        world.round();
    }
    let degraded = world.condition("Degraded");
    assert!(matches!(&degraded, Some((status, reason, _)) if status == "True" && reason == "PodsInTrouble"), "{degraded:?}");
    world.release("cart-b-1");
    world.settle(|_| ());
    expect_members(&mut world, 6);
}

/// Kubernetes expects as many healthy pods as the set is told to run, less what the budget allows.
#[test]
fn a_newcomer_that_cannot_run_keeps_no_member_from_being_drained() {
    let mut world = World::settled_with(3, KEYS);
    assert_eq!(max_unavailable(&world), 1);
    world.hold("cart-3");
    world.scale(4);
    assert!((0..ROUNDS_MAX).any(|_| {
        world.round();
        max_unavailable(&world) == 2
    }));
    (0..100).for_each(|_| world.round());
    let calls = world.stage().calls;
    (0..1000).for_each(|_| world.round());
    assert_eq!((max_unavailable(&world), world.stage().calls), (2, calls), "and it is said once");
    world.release("cart-3");
    let mut joined = false;
    world.settle(|world| {
        joined |= world.ring().is_some_and(|ring| ring.members.len() == 4);
        assert!(!joined || max_unavailable(world) == 1, "a member counts from the first ring on that lists it");
    });
    assert!(joined);
    // One that is given up again is allowed for no longer than the set is told to run it.
    world.hold("cart-4");
    world.scale(5);
    assert!((0..ROUNDS_MAX).any(|_| {
        world.round();
        max_unavailable(&world) == 2
    }));
    world.scale(4);
    world.settle(|world| {
        let replicas = number(world.stage().kubernetes.api.get(&format!("{SETS}/cart")).unwrap(), "/spec/replicas");
        assert!(replicas == 5 || max_unavailable(world) == 1, "two members could be drained at once");
    });
    assert_eq!(max_unavailable(&world), 1);
    expect_members(&mut world, 4);
}

/// What the cluster's budget allows.
fn max_unavailable(world: &World) -> u32 {
    number(world.stage().kubernetes.api.get(BUDGET).unwrap(), "/spec/maxUnavailable")
}

#[test]
fn a_converged_cluster_has_no_next_step() {
    let mut world = World::settled_with(4, 0);
    world.pass(0);
    let calls = world.stage().calls;
    for _ in 0..50 {
        world.round();
        assert!(matches!(world.pass(0), Outcome::Done(pause) if pause == dynamo_operator::controller::AT_REST));
    }
    assert_eq!(world.stage().calls, calls);
}
