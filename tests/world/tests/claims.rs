//! What is on the claims that Kubernetes makes for a set.
#![allow(clippy::unwrap_used)]

use dynamo_world::World;
use dynamo_world::kubernetes::{CLAIMS, SETS};
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
