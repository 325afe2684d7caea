//! What is on the claims that Kubernetes makes for a set.
#![allow(clippy::unwrap_used)]

use dynamo_api_server::text;
use dynamo_world::kubernetes::{CLAIMS, PODS, SETS};
use dynamo_world::{ROUNDS_MAX, World};
use serde_json::{Value, json};

const KEYS: u32 = 40;
/// What Argo CD tracks objects by.
const INSTANCE: &str = "app.kubernetes.io/instance";

/// Names of the claims of the cluster of this world that have the label.
fn tracked(world: &World) -> Vec<String> {
    let stage = world.stage();
    let ours = |claim: &Value| claim["metadata"]["annotations"]["dynamokv.io/cluster-uid"] == stage.data_uid;
    let claims = stage.kubernetes.api.list(CLAIMS).filter(|(_, claim)| ours(claim));
    claims.filter(|(_, claim)| claim["metadata"]["labels"].get(INSTANCE).is_some()).map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn no_claim_has_the_label_by_which_argo_cd_would_delete_it() {
    assert_eq!(tracked(&World::settled_with(3, KEYS)), [""; 0]);
}

/// Kubernetes goes on labelling the claims of a set by its selector, which cannot change.
#[test]
fn the_label_is_taken_off_claims_that_a_set_of_an_earlier_version_makes() {
    let mut world = World::settled_with(3, KEYS);
    world.stage().kubernetes.api.edit(&format!("{SETS}/cart"), |set| {
        set["spec"]["selector"]["matchLabels"][INSTANCE] = json!("cart");
        set["spec"]["volumeClaimTemplates"][0]["metadata"]["labels"][INSTANCE] = json!("cart");
    });
    for pod in 0..3 {
        world.stage().kubernetes.api.edit(&format!("{CLAIMS}/data-cart-{pod}"), |claim| {
            claim["metadata"]["labels"][INSTANCE] = json!("cart");
        });
    }
    assert_eq!(tracked(&world).len(), 3);
    world.scale(4);
    world.settle(|_| ());
    assert_eq!(world.pods(), 4);
    assert_eq!(tracked(&world), [""; 0]);
}

/// The set keeps the claims that it was made with, so the size has to be said to a new one.
#[test]
fn a_size_that_is_set_right_before_there_is_a_volume_is_had_in_the_way_that_the_condition_tells() {
    let mut world = World::settled_with(3, KEYS);
    world.hold("cart-3");
    world.ask_together(&[("replicas", json!(4)), ("storage", json!({ "size": "2Gi" }))]).unwrap();
    let set = "StatefulSet cart makes claims of 10Gi, as it was made with, and spec.storage.size is 2Gi";
    let command = "`kubectl --namespace shop delete statefulset cart --cascade=orphan`";
    let claim = "delete claim data-cart-3, which waits for 10Gi, and pod cart-3, and they come back";
    let is_told = |world: &mut World, parts: &[&str]| {
        (0..ROUNDS_MAX).any(|_| {
            world.round();
            let told = world.message("Degraded");
            parts.iter().all(|part| told.contains(part))
        })
    };
    assert!(is_told(&mut world, &[set, command, claim]), "{}", world.message("Degraded"));
    let members = |world: &World| {
        let stage = world.stage();
        let uid = |pod| text(stage.kubernetes.api.get(&format!("{PODS}/cart-{pod}")).unwrap(), "/metadata/uid").to_owned();
        (0..3).map(uid).collect::<Vec<_>>()
    };
    let before = members(&world);
    world.stage().kubernetes.orphan("cart");
    let claim = "claim data-cart-3 waits for 10Gi, and spec.storage.size is 2Gi: delete it and pod cart-3";
    assert!(is_told(&mut world, &[claim]), "{}", world.message("Degraded"));
    world.lose_volume("cart-3");
    world.release("cart-3");
    world.settle(|_| ());
    let size = {
        let stage = world.stage();
        let claim = stage.kubernetes.api.get(&format!("{CLAIMS}/data-cart-3")).unwrap();
        claim["spec"]["resources"]["requests"]["storage"].clone()
    };
    assert_eq!((world.pods(), size, members(&world)), (4, json!("2Gi"), before), "no member was restarted");
    assert_eq!(world.unread(), [""; 0]);
}
