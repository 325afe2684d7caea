//! A new image, pod by pod, and what stops it.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use dynamo_api_server::{number, text};
use dynamo_scenarios::{Bucket, Create};
use dynamo_world::faults::Faults;
use dynamo_world::kubernetes::{CLAIMS, IMAGE_MISSING, PODS, SETS, is_ready};
use dynamo_world::{ROUNDS_MAX, World, image, listed};
use serde_json::{Value, json};

const KEYS: u32 = 40;
/// Rounds that are enough for whatever is going to happen by itself.
const LONG: u32 = 500;

fn ask(world: &mut World, name: &str) {
    world.ask("image", json!(image(name))).unwrap();
}

/// The images that the pods run, by ordinal; those in brackets are of pods that are not ready.
fn images(world: &World) -> String {
    let stage = world.stage();
    let shown = stage.kubernetes.api.list(PODS).map(|(_, pod)| {
        let name = text(pod, "/spec/containers/0/image").rsplit(':').next().unwrap();
        if is_ready(pod) { name.to_owned() } else { format!("({name})") }
    });
    shown.collect::<Vec<_>>().join(" ")
}

/// From which ordinal on pods have the newest template.
fn partition(world: &World) -> u32 {
    partition_of(world, "cart")
}

fn partition_of(world: &World, set: &str) -> u32 {
    number(world.stage().kubernetes.api.get(&format!("{SETS}/{set}")).unwrap(), "/spec/updateStrategy/rollingUpdate/partition")
}

fn rounds(world: &mut World, rounds: u32) {
    (0..rounds).for_each(|_| world.round());
    world.expect_no_violation();
}

#[test]
fn a_rollout_waits_while_another_pod_is_away_and_goes_on_when_it_is_back() {
    let mut world = World::settled_with(4, KEYS);
    ask(&mut world, "next");
    while partition(&world) != 3 {
        world.round();
    }
    world.hold("cart-0");
    rounds(&mut world, LONG);
    assert_eq!(images(&world), "(next) first first next", "what does not run has nothing to lose");
    assert_eq!(world.write(KEYS), KEYS);
    world.release("cart-0");
    world.settle(|_| ());
    assert_eq!((images(&world).as_str(), partition(&world)), ("next next next next", 0));
    assert_eq!(world.unread(), [""; 0]);
}

/// An injected proxy that is not ready, say. What the checker of O9 says of each restart is what counts here.
#[test]
fn a_pod_that_serves_and_is_not_ready_is_not_restarted_while_another_is_down() {
    let mut world = World::settled_with(3, KEYS);
    ask(&mut world, "next");
    while partition(&world) != 2 {
        world.round();
    }
    world.hold("cart-0");
    world.doubt("cart-1");
    rounds(&mut world, LONG);
    assert_eq!(images(&world), "(next) (first) next");
    assert_eq!(world.write(KEYS), KEYS, "it serves");
    world.release("cart-1");
    rounds(&mut world, LONG);
    assert_eq!(images(&world), "(next) first next");
    world.release("cart-0");
    world.settle(|_| ());
    assert_eq!((images(&world).as_str(), partition(&world)), ("next next next", 0));
    assert_eq!(world.unread(), [""; 0]);
}

/// What was put into all of them may be what only another template takes out.
#[test]
fn pods_that_serve_and_are_not_ready_are_cured_one_after_the_other() {
    let mut world = World::settled_with(3, KEYS);
    ["cart-0", "cart-1", "cart-2"].iter().for_each(|pod| world.doubt_until(pod, "next"));
    rounds(&mut world, LONG);
    assert_eq!(images(&world), "(first) (first) (first)");
    ask(&mut world, "next");
    for _ in 0..LONG {
        rounds(&mut world, 1);
        assert!(world.stage().nodes.running().len() >= 2, "{}", images(&world));
    }
    world.settle(|_| ());
    assert_eq!((images(&world).as_str(), partition(&world)), ("next next next", 0));
    assert_eq!(world.unread(), [""; 0]);
}

/// It may be the template's fault that no machine takes the pod, and only the next one cures that. Kubernetes' controller gives it to the pods
/// above first, which may not be restarted while this one is down.
#[test]
fn a_pod_that_no_machine_takes_gets_the_template_that_cures_it_while_those_above_it_stay() {
    let mut world = World::settled_with(3, KEYS);
    world.hold_until("cart-1", "next");
    rounds(&mut world, LONG);
    ask(&mut world, "next");
    world.settle(|_| ());
    assert_eq!((images(&world).as_str(), partition(&world)), ("next next next", 0));
    assert_eq!(world.unread(), [""; 0]);
    // In the middle of a rollout.
    world.release("cart-1");
    ask(&mut world, "third");
    while partition(&world) != 2 {
        world.round();
    }
    world.hold_until("cart-0", "fourth");
    rounds(&mut world, LONG);
    assert_eq!(images(&world), "(third) next third");
    assert_eq!(world.write(KEYS), KEYS);
    ask(&mut world, "fourth");
    world.settle(|_| ());
    assert_eq!((images(&world).as_str(), partition(&world)), ("fourth fourth fourth", 0));
    assert_eq!(world.unread(), [""; 0]);
}

/// More memory, say. What the checker of O9 says of each restart is what counts here.
#[test]
fn a_pod_that_crashes_gets_the_template_that_cures_it_and_takes_no_other_down() {
    let mut world = World::settled_with(3, KEYS);
    world.starve(&["cart-0"]);
    ask(&mut world, "next");
    for _ in 0..LONG {
        rounds(&mut world, 1);
        assert!(world.stage().live().len() >= 2, "{}", images(&world));
    }
    world.settle(|_| ());
    assert_eq!((images(&world).as_str(), partition(&world)), ("next next next", 0));
    assert_eq!(world.unread(), [""; 0]);
}

/// It may be better off with what it has.
#[test]
fn a_pod_that_no_machine_takes_is_not_given_a_template_with_which_no_pod_becomes_ready() {
    for bad in [IMAGE_MISSING, "too-large"] {
        let mut world = World::settled_with(3, KEYS);
        world.hold_until("cart-2", "first");
        rounds(&mut world, LONG);
        ask(&mut world, bad);
        rounds(&mut world, LONG);
        world.hold("cart-0");
        rounds(&mut world, LONG);
        assert_eq!(images(&world), format!("(first) first ({bad})"));
        world.release("cart-0");
        rounds(&mut world, LONG);
        assert_eq!(images(&world), format!("first first ({bad})"));
        world.release("cart-2");
        ask(&mut world, "next");
        world.settle(|_| ());
        assert_eq!(images(&world), "next next next");
        assert_eq!(world.unread(), [""; 0]);
    }
}

/// Zone a waits for it with its other pod, and b would wait for a.
#[test]
fn a_pod_that_no_machine_takes_waits_for_no_other_zone() {
    let zones = ["a", "b", "c"].map(str::to_owned).to_vec();
    for ill in ["cart-b-0", "cart-b-1"] {
        let create = Create { replicas: 6, zones: zones.clone(), ..Create::default() };
        let mut world = World::create(&create, Faults::none());
        world.settle(|_| ());
        assert_eq!(world.write(KEYS), KEYS);
        ask(&mut world, "next");
        while partition_of(&world, "cart-a") != 1 {
            world.round();
        }
        world.hold_until(ill, "next");
        world.settle(|_| ());
        assert_eq!(images(&world), ["next"; 6].join(" "), "{ill}");
        assert_eq!(["cart-a", "cart-b", "cart-c"].map(|set| partition_of(&world, set)), [0; 3], "{ill}");
        assert_eq!(world.unread(), [""; 0], "{ill}");
    }
}

/// What the checker of O9 says of each restart is what counts here; the rest shows that it had something to say.
#[test]
fn a_rollout_waits_until_the_pod_before_has_what_others_kept_for_it() {
    let mut world = World::settled_with(4, KEYS);
    ask(&mut world, "next");
    let mut lacking = 0;
    for _ in 0..LONG {
        rounds(&mut world, 1);
        let (ready, behind) = {
            let stage = world.stage();
            (stage.live().len(), stage.behind(&BTreeSet::new()).len())
        };
        lacking += u32::from(ready == 4 && behind > 0);
        if ready < 4 {
            assert!(world.write_key(lacking % KEYS));
        }
    }
    assert!(lacking > 0, "no pod came back before what was kept for it");
    assert_eq!((images(&world).as_str(), partition(&world)), ("next next next next", 0));
    world.settle(|_| ());
    assert_eq!(world.unread(), [""; 0]);
}

#[test]
fn a_bad_image_takes_one_pod_and_another_one_or_the_former_cures_it() {
    for cure in ["next", "first"] {
        let mut world = World::settled_with(4, KEYS);
        ask(&mut world, IMAGE_MISSING);
        rounds(&mut world, LONG);
        assert_eq!(images(&world), format!("first first first ({IMAGE_MISSING})"));
        assert_eq!(world.write(KEYS), KEYS);
        ask(&mut world, cure);
        world.settle(|_| ());
        assert_eq!((images(&world), partition(&world)), ([cure; 4].join(" "), 0));
        assert_eq!(world.unread(), [""; 0]);
    }
}

/// Kubernetes' controller waits for the highest pod to be ready, which without a ring none is: the operator makes the others go.
#[test]
fn a_cluster_whose_first_image_is_bad_takes_the_next_one_in_every_pod() {
    let create = Create { replicas: 3, image: IMAGE_MISSING.into(), ..Create::default() };
    let mut world = World::create(&create, Faults::none());
    rounds(&mut world, LONG);
    assert_eq!(images(&world), format!("({IMAGE_MISSING}) ({IMAGE_MISSING}) ({IMAGE_MISSING})"));
    ask(&mut world, "next");
    world.settle(|_| ());
    assert_eq!(images(&world), "next next next");
    assert_eq!(world.write(KEYS), KEYS);
}

/// Pods are all that keeps claims which somebody has deleted: each restart would destroy a volume.
#[test]
fn a_rollout_destroys_no_volume_and_deleted_claims_are_replaced_one_by_one() {
    let mut world = World::settled_with(4, KEYS);
    let pods = ["cart-3", "cart-2", "cart-1", "cart-0"];
    let members: Vec<_> = pods.map(|pod| world.node_of(pod).unwrap()).into();
    for pod in pods {
        world.stage().kubernetes.api.delete(&format!("{CLAIMS}/data-{pod}"), &Value::Null).unwrap();
    }
    ask(&mut world, "next");
    rounds(&mut world, LONG);
    assert_eq!(images(&world), "first first first first");
    assert_eq!(pods.map(|pod| world.node_of(pod).unwrap()).to_vec(), members);
    for pod in pods {
        let degraded = world.condition("Degraded");
        assert!(matches!(&degraded, Some((_, reason, _)) if reason == "ClaimBeingDeleted"), "{degraded:?}");
        world.kill(pod);
        rounds(&mut world, LONG);
        let (ring, replacement) = (world.ring().unwrap(), world.node_of(pod).unwrap());
        assert!(ring.members.contains_key(&replacement) && !members.contains(&replacement));
        assert_eq!((ring.members.len(), ring.moving().count()), (4, 0));
        assert_eq!(world.unread(), [""; 0]);
    }
    world.settle(|_| ());
    assert_eq!(images(&world), "next next next next");
    assert_eq!(world.unread(), [""; 0]);
}

/// Containers that do not start are still in pods, and these keep their claims: another template may be the cure, and is no reason.
#[test]
fn a_rollout_that_may_cure_pods_that_crash_destroys_no_volume_whose_claim_somebody_deleted() {
    let mut world = World::settled_with(4, KEYS);
    let pods = ["cart-0", "cart-1", "cart-2", "cart-3"];
    let members = pods.map(|pod| world.node_of(pod).unwrap());
    for pod in &pods[1..] {
        world.stage().kubernetes.api.delete(&format!("{CLAIMS}/data-{pod}"), &Value::Null).unwrap();
    }
    world.starve(&pods);
    ask(&mut world, "next");
    rounds(&mut world, LONG);
    assert_eq!(images(&world), "next (first) (first) (first)", "nobody deleted the first one's");
    assert_eq!(pods.map(|pod| world.node_of(pod).unwrap()), members);
    let degraded = world.message("Degraded");
    assert!(degraded.contains("data-cart-1, data-cart-2, data-cart-3: being deleted"), "{degraded}");
    world.feed(&pods[1..]);
    rounds(&mut world, LONG);
    assert_eq!(world.unread(), [""; 0]);
}

/// What the checker of O9 says of the set that is made again is what counts here.
#[test]
fn a_set_that_was_deleted_without_its_pods_is_rolled_out_like_any_other() {
    let zones = ["a", "b", "c"].map(str::to_owned).to_vec();
    let create = Create { replicas: 6, zones, ..Create::default() };
    let mut world = World::create(&create, Faults::none());
    world.settle(|_| ());
    assert_eq!(world.write(KEYS), KEYS);
    world.hold("cart-a-1");
    ask(&mut world, "next");
    rounds(&mut world, LONG);
    world.stage().kubernetes.orphan("cart-b");
    rounds(&mut world, LONG);
    assert_eq!(images(&world), "first (next) first first first first", "the pod that is down has nothing to lose");
    assert_eq!(partition_of(&world, "cart-b"), 2);
    assert_eq!(world.unread(), [""; 0]);
    world.release("cart-a-1");
    world.settle(|_| ());
    assert_eq!((images(&world), partition_of(&world, "cart-b")), (["next"; 6].join(" "), 0));
    assert_eq!(world.unread(), [""; 0]);
}

/// Kubernetes' controller waits for the newcomer, whatever template it has; the checker of O9 judges what the operator does about it.
#[test]
fn a_newcomer_that_cannot_run_holds_up_no_image() {
    let three = ["a", "b", "c"].map(str::to_owned).to_vec();
    for (zones, held) in [(three, "cart-b-1"), (Vec::new(), "cart-4")] {
        let create = Create { replicas: 3, zones, ..Create::default() };
        let mut world = World::create(&create, Faults::none());
        world.settle(|_| ());
        assert_eq!(world.write(KEYS), KEYS);
        world.hold(held);
        world.scale(6);
        let joined = |world: &World| world.ring().is_some_and(|ring| ring.members.len() == 5 && ring.moving().next().is_none());
        assert!((0..ROUNDS_MAX).any(|_| {
            world.round();
            joined(&world)
        }));
        for name in ["next", "third", "fourth"] {
            ask(&mut world, name);
            let (runs, does_not) = (format!("{name} "), format!("({name}) "));
            let all = |world: &World| {
                let images = images(world) + " ";
                (images.matches(&runs).count(), images.matches(&does_not).count()) == (5, 1)
            };
            let mut key = 0;
            let done = (0..ROUNDS_MAX).any(|_| {
                world.round();
                key += 1;
                world.write_key(key % KEYS);
                all(&world)
            });
            assert!(done, "{}\n{}", images(&world), world.stage().trace());
            world.expect_no_violation();
        }
        world.release(held);
        world.settle(|_| ());
        assert_eq!(images(&world), ["fourth"; 6].join(" "));
        assert_eq!(world.unread(), [""; 0]);
    }
}

/// The cluster's own R and W would have let it go on. The checker of O9 judges both, and that every node has the settings in the end.
#[test]
fn a_rollout_waits_for_replicas_that_a_bucket_alone_asks_for_until_it_asks_no_more() {
    let orders = |w| vec![Bucket { name: "orders".into(), w: Some(w), ..Bucket::default() }];
    let create = Create { replicas: 6, factor: 5, ..Create::default() };
    let mut world = World::create(&create, Faults::none());
    world.settle(|_| ());
    assert_eq!(world.write(KEYS), KEYS);
    world.ask("buckets", listed(&orders(4))).unwrap();
    world.settle(|_| ());
    world.hold("cart-0");
    ask(&mut world, "next");
    rounds(&mut world, LONG);
    assert_eq!(images(&world), "(next) first first first first first");
    world.ask("buckets", listed(&orders(3))).unwrap();
    rounds(&mut world, 4 * LONG);
    assert_eq!(images(&world), "(next) next next next next next");
    world.release("cart-0");
    world.settle(|_| ());
    world.ask("buckets", json!([])).unwrap();
    world.settle(|_| ());
    assert_eq!(world.unread(), [""; 0]);
}
