//! Webhooks, policies and quotas of somebody else: what is written is refused, or becomes something else.
#![allow(clippy::unwrap_used)]

use dynamo_api_server::{number, text};
use dynamo_scenarios::Create;
use dynamo_world::faults::Faults;
use dynamo_world::kubernetes::{PODS, SETS};
use dynamo_world::{ROUNDS_MAX, World, image};
use serde_json::{Value, json};

const KEYS: u32 = 40;

/// Runs in which everything goes wrong.
const SEEDS: u64 = 6;

/// The pods, and whether they have the next image.
fn images(world: &World) -> Vec<(String, bool)> {
    let stage = world.stage();
    let pods = stage.kubernetes.api.list(PODS);
    pods.map(|(name, pod)| (name.to_owned(), text(pod, "/spec/containers/0/image").ends_with(":next"))).collect()
}

/// No template but the one that the cluster began with is taken.
fn refuse_templates(path: &str, object: &mut Value) -> Result<(), String> {
    let image = text(object, "/spec/template/spec/containers/0/image");
    let refused = path.starts_with(SETS) && !image.ends_with(":first");
    if refused { Err("the image is not signed".to_owned()) } else { Ok(()) }
}

#[test]
fn a_template_that_is_refused_holds_up_no_rebalance_and_no_replacement() {
    for replicas in [5, 3] {
        let mut world = World::settled_with(4, KEYS);
        world.stage().kubernetes.api.admission = Some(refuse_templates);
        world.ask("image", json!(image("next"))).unwrap();
        world.lose_volume("cart-1");
        world.scale(replicas);
        let done = |world: &World| {
            let ring = world.ring().unwrap();
            let whole =
                ring.lost.len() == 1 && ring.survivors().count() == replicas as usize && ring.members.len() == replicas as usize;
            whole && ring.moving().next().is_none() && world.pods() == replicas as usize
        };
        assert!((0..ROUNDS_MAX).any(|_| {
            world.round();
            done(&world)
        }));
        let (ready, reason, _) = world.condition("Ready").unwrap();
        assert_eq!((ready.as_str(), reason.as_str()), ("False", "Failed"));
        assert_eq!(world.unread(), [""; 0]);
        world.stage().kubernetes.api.admission = None;
        world.settle(|_| ());
    }
}

/// No set runs more pods than four, and that of zone b no more than one.
fn refuse_pods(path: &str, object: &mut Value) -> Result<(), String> {
    let most = if path == format!("{SETS}/cart-b") { 1 } else { 4 };
    let refused = path.starts_with(SETS) && number(object, "/spec/replicas") > most;
    if refused { Err(format!("no more than {most} pods")) } else { Ok(()) }
}

#[test]
fn more_pods_that_are_refused_hold_up_no_replacement_and_come_when_they_may() {
    let mut world = World::settled_with(4, KEYS);
    world.stage().kubernetes.api.admission = Some(refuse_pods);
    world.ask_together(&[("replicas", json!(6)), ("image", json!(image("next")))]).unwrap();
    (0..100).for_each(|_| world.round());
    world.lose_volume("cart-1");
    let replaced = |world: &World| {
        let ring = world.ring().unwrap();
        ring.lost.len() == 1 && ring.members.len() == 4 && ring.survivors().count() == 4 && ring.moving().next().is_none()
    };
    assert!((0..ROUNDS_MAX).any(|_| {
        world.round();
        replaced(&world) && images(&world).iter().all(|(_, has_it)| *has_it)
    }));
    (0..400).for_each(|_| world.round());
    assert_eq!(world.message("Ready"), "StatefulSet cart: replicas 6: no more than 4 pods");
    assert_eq!((world.pods(), world.unread()), (4, vec![]));
    world.stage().kubernetes.api.admission = None;
    world.settle(|_| ());
    assert_eq!((world.pods(), world.ring().unwrap().members.len(), world.unread()), (6, 6, vec![]));
}

#[test]
fn newcomers_of_other_zones_join_without_those_that_one_zone_is_refused() {
    let zones = ["a", "b", "c"].map(str::to_owned).to_vec();
    let mut world = World::create(&Create { replicas: 3, zones, ..Create::default() }, Faults::none());
    world.settle(|_| ());
    assert_eq!(world.write(KEYS), KEYS);
    world.stage().kubernetes.api.admission = Some(refuse_pods);
    world.scale(6);
    assert!((0..ROUNDS_MAX).any(|_| {
        world.round();
        world.ring().is_some_and(|ring| ring.members.len() == 5 && ring.moving().next().is_none())
    }));
    (0..400).for_each(|_| world.round());
    assert_eq!(world.message("Degraded"), "StatefulSet cart-b: replicas 2: no more than 1 pods");
    world.scale(4);
    world.settle(|_| ());
    assert_eq!((world.pods(), world.ring().unwrap().members.len(), world.unread()), (4, 4, vec![]));
}

#[test]
fn whatever_goes_wrong_while_more_pods_are_refused_nothing_is_lost() {
    for seed in 0..SEEDS {
        let mut world = World::create(&Create { replicas: 3, ..Create::default() }, Faults::seeded(seed));
        for (replicas, refused) in [(6, true), (4, true), (6, false), (3, true), (5, true)] {
            world.stage().kubernetes.api.admission = refused.then_some(refuse_pods as _);
            world.ask("replicas", json!(replicas)).unwrap();
            (0..1500).for_each(|_| world.round());
            world.write(KEYS);
        }
        world.lives();
        world.stage().kubernetes.release_all();
        world.stage().kubernetes.api.admission = None;
        world.ask("replicas", json!(6)).unwrap();
        world.settle(|_| ());
        assert_eq!((world.pods(), world.unread()), (6, vec![]), "seed {seed}");
    }
}

/// Nothing is written to the set of zone a, as by a policy for the machines there.
fn refuse_zone_a(path: &str, _: &mut Value) -> Result<(), String> {
    if path == format!("{SETS}/cart-a") { Err("zone a is closed".to_owned()) } else { Ok(()) }
}

/// The newcomer in zone b shows that the operator goes on to restart pods itself where the controller waits.
#[test]
fn a_zone_that_takes_no_template_keeps_no_other_from_it() {
    let zones = ["a", "b", "c"].map(str::to_owned).to_vec();
    let create = Create { replicas: 4, zones, ..Create::default() };
    let mut world = World::create(&create, Faults::none());
    world.settle(|_| ());
    assert_eq!(world.write(KEYS), KEYS);
    world.stage().kubernetes.api.admission = Some(refuse_zone_a);
    world.hold("cart-b-1");
    world.ask_together(&[("image", json!(image("next"))), ("replicas", json!(5))]).unwrap();
    let all_but_a = |world: &World| {
        let images = images(world);
        images.len() == 5 && images.iter().all(|(pod, has_it)| *has_it != pod.starts_with("cart-a"))
    };
    assert!((0..ROUNDS_MAX).any(|_| {
        world.round();
        all_but_a(&world)
    }));
    world.expect_no_violation();
    (0..400).for_each(|_| world.round());
    let (ready, reason, _) = world.condition("Ready").unwrap();
    assert_eq!((ready.as_str(), reason.as_str()), ("False", "Failed"));
    assert!(world.message("Degraded").contains("StatefulSet cart-a: update: zone a is closed"), "{}", world.message("Degraded"));
    assert_eq!(world.unread(), [""; 0]);
    world.stage().kubernetes.api.admission = None;
    world.release("cart-b-1");
    world.settle(|_| ());
    assert!(images(&world).iter().all(|(_, has_it)| *has_it));
    assert_eq!(world.unread(), [""; 0]);
}

/// Images are written by their digest.
fn pin_images(path: &str, object: &mut Value) -> Result<(), String> {
    if path.starts_with(SETS) {
        let pointer = "/spec/template/spec/containers/0/image";
        let name = text(object, pointer).split('@').next().unwrap().to_owned();
        *object.pointer_mut(pointer).unwrap() = json!(format!("{name}@sha256:0123"));
    }
    Ok(())
}

#[test]
fn templates_that_a_webhook_changes_reach_every_pod_and_cost_nothing_at_rest() {
    let create = Create { replicas: 4, ..Create::default() };
    let mut world = World::create(&create, Faults::none());
    world.stage().kubernetes.api.admission = Some(pin_images);
    for name in ["first", "next"] {
        world.ask("image", json!(image(name))).unwrap();
        let wanted = format!("{}@sha256:0123", image(name));
        let having_it = |world: &World| {
            let stage = world.stage();
            stage.kubernetes.api.list(PODS).filter(|(_, pod)| text(pod, "/spec/containers/0/image") == wanted).count()
        };
        // It begins with one pod.
        assert!((0..ROUNDS_MAX).any(|_| {
            world.round();
            having_it(&world) > 0
        }));
        world.settle(|_| ());
        assert_eq!(having_it(&world), 4);
        assert_eq!(world.write(KEYS), KEYS);
        (0..400).for_each(|_| world.round());
        let calls = world.stage().calls;
        (0..400).for_each(|_| world.round());
        assert_eq!(world.stage().calls, calls, "at rest");
    }
    assert_eq!(world.unread(), [""; 0]);
}

/// The checker of O7 judges that nothing is written to what is not the cluster's.
#[test]
fn a_service_of_somebody_else_keeps_no_member_that_is_lost_from_its_replacement() {
    const SERVICE: &str = "/api/v1/namespaces/shop/services/cart";
    let mut world = World::settled_with(3, KEYS);
    let lost = world.node_of("cart-1").unwrap();
    {
        let api = &mut world.stage().kubernetes.api;
        api.remove(SERVICE);
        api.create("/api/v1/namespaces/shop/services", json!({ "metadata": { "name": "cart" }, "spec": {} })).unwrap();
    }
    world.lose_volume("cart-1");
    let replaced = |world: &World| {
        let ring = world.ring().unwrap();
        ring.is_lost(lost) && !ring.members.contains_key(&lost) && ring.members.len() == 3 && ring.moving().next().is_none()
    };
    assert!((0..ROUNDS_MAX).any(|_| {
        world.round();
        replaced(&world)
    }));
    (0..200).for_each(|_| world.round());
    assert_eq!(world.condition("Ready").unwrap().1, "NameTaken");
    world.expect_no_violation();
    world.stage().kubernetes.api.remove(SERVICE);
    world.settle(|_| ());
    assert_eq!(world.unread(), [""; 0]);
}
