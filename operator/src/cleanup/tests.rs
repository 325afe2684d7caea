//! The finalizer and the volumes of a deleted cluster, pass by pass, against an API server in memory.

use std::sync::Arc;

use dynamo_api_server::Refusal;
use kube::api::Patch;
use serde_json::{Value, json};

use super::*;
use crate::controller::{self, Context};
use crate::fake_api::FakeApi;
use crate::metrics::Metrics;
use crate::nodes::Network;
use crate::valid::tests::cluster;

const CLUSTER: &str = "/apis/dynamokv.io/v1alpha1/namespaces/shop/dynamoclusters/cart";
const SET: &str = "/apis/apps/v1/namespaces/shop/statefulsets/cart";
const CLAIM: &str = "/api/v1/namespaces/shop/persistentvolumeclaims/data-cart-0";

/// A cluster with this policy, of which one pass has been made and a claim is there.
async fn created(policy: RetentionPolicy) -> (FakeApi, DynamoCluster) {
    let (api, mut created) = (FakeApi::default(), cluster(3, &[]));
    created.spec.storage.retention.when_deleted = policy;
    put(&api, &created);
    let metadata = json!({
        "name": "data-cart-0", "labels": { labels::CLUSTER: "cart" }, "annotations": { labels::CLUSTER_UID: created.uid() },
    });
    api.put(CLAIM, json!({ "metadata": metadata }));
    pass(&api, &created).await;
    (api, created)
}

fn put(api: &FakeApi, cluster: &DynamoCluster) {
    api.put(CLUSTER, serde_json::to_value(cluster).unwrap());
}

fn context(api: &FakeApi) -> Arc<Context> {
    Arc::new(Context::new(api.client(), Arc::new(Network), Arc::new(Metrics::default()), None))
}

async fn pass(api: &FakeApi, cluster: &DynamoCluster) {
    controller::reconcile(Arc::new(cluster.clone()), context(api)).await.unwrap();
}

/// A cluster with the policy Delete that has a set.
async fn running() -> (FakeApi, DynamoCluster) {
    let (api, created) = created(RetentionPolicy::Delete).await;
    pass(&api, &created).await;
    set_is_seen(&api);
    (api, created)
}

/// The StatefulSet controller has seen what it was told.
fn set_is_seen(api: &FakeApi) {
    api.edit(SET, |set| set["status"]["observedGeneration"] = set["metadata"]["generation"].clone());
}

/// A cluster with the policy Delete and three claims that was deleted long before its operator came. Its set runs no pods any more.
async fn deleted_long_ago() -> (FakeApi, DynamoCluster, [String; 3]) {
    let (api, created) = running().await;
    let claims = [0, 1, 2].map(|ordinal| format!("/api/v1/namespaces/shop/persistentvolumeclaims/data-cart-{ordinal}"));
    for (claim, name) in claims.iter().zip(["data-cart-0", "data-cart-1", "data-cart-2"]) {
        let mut object = api.object(CLAIM).unwrap();
        object["metadata"] = json!({
            "name": name, "labels": object["metadata"]["labels"], "annotations": object["metadata"]["annotations"],
        });
        if claim != CLAIM {
            api.put(claim, object);
        }
    }
    delete(&api, &[]);
    api.edit(SET, |set| set["spec"]["replicas"] = json!(0));
    set_is_seen(&api);
    api.writes();
    (api, created, claims)
}

fn finalizers(api: &FakeApi) -> Value {
    api.object(CLUSTER).unwrap()["metadata"]["finalizers"].clone()
}

/// Somebody deletes it; the finalizers, if given, are Kubernetes' own for the way that was asked for.
fn delete(api: &FakeApi, way: &[&str]) {
    api.edit(CLUSTER, |cluster| {
        let held = cluster["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        cluster["metadata"]["finalizers"] = way.iter().map(|way| json!(way)).chain(held).collect();
        cluster["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
}

#[tokio::test]
async fn a_cluster_that_keeps_its_volumes_has_no_finalizer_and_goes_without_an_operator() {
    let (api, created) = created(RetentionPolicy::Retain).await;
    assert_eq!((finalizers(&api), api.object(SET).is_some()), (Value::Null, true));
    delete(&api, &[]);
    assert_eq!(api.object(CLUSTER), None);
    pass(&api, &created).await;
    assert!(api.object(CLAIM).is_some());
}

#[tokio::test]
async fn the_finalizer_follows_the_policy_and_others_stay() {
    let (api, created) = created(RetentionPolicy::Delete).await;
    assert_eq!(finalizers(&api), json!([FINALIZER]));
    api.edit(CLUSTER, |cluster| cluster["metadata"]["finalizers"] = json!(["example.org/one", FINALIZER]));
    api.edit(CLUSTER, |cluster| cluster["spec"]["storage"]["retention"]["whenDeleted"] = json!("Retain"));
    pass(&api, &created).await;
    assert_eq!(finalizers(&api), json!(["example.org/one"]));
    pass(&api, &created).await;
    assert!(api.object(SET).is_some(), "and it is a cluster like any other");
    api.edit(CLUSTER, |cluster| cluster["spec"]["storage"]["retention"]["whenDeleted"] = json!("Delete"));
    pass(&api, &created).await;
    assert_eq!(finalizers(&api), json!(["example.org/one", FINALIZER]));
}

#[tokio::test]
async fn volumes_go_with_a_cluster_that_says_so_and_stay_with_pods_that_stay() {
    let (api, gone) = running().await;
    delete(&api, &["foregroundDeletion"]);
    pass(&api, &gone).await;
    set_is_seen(&api);
    pass(&api, &gone).await;
    assert_eq!((finalizers(&api), api.object(CLAIM)), (json!(["foregroundDeletion"]), None));
    api.writes();
    pass(&api, &gone).await;
    assert_eq!(api.writes(), [""; 0], "what it owns goes; nothing is made again");

    for late in [false, true] {
        let (api, orphaned) = running().await;
        delete(&api, if late { &[] } else { &[ORPHAN] });
        if late {
            // Kubernetes was faster.
            api.edit(SET, |set| set["metadata"]["ownerReferences"] = json!([]));
        }
        api.writes();
        pass(&api, &orphaned).await;
        assert!(api.object(CLAIM).is_some());
        assert_eq!(api.object(SET).unwrap()["spec"]["replicas"], 3);
        assert!(api.writes().iter().any(|write| write.contains("/events")), "it is told");
        assert!(api.object(CLUSTER).is_none_or(|cluster| cluster["metadata"]["finalizers"] == json!([ORPHAN])));
    }
}

/// A set makes the claims that its pods lack, those of pods that wait for a machine and those of pods that it has yet to make.
#[tokio::test]
async fn no_claim_is_deleted_while_a_set_may_still_make_claims() {
    let (api, gone) = running().await;
    delete(&api, &[]);
    pass(&api, &gone).await;
    let mut made = api.object(CLAIM).unwrap();
    made["metadata"] = json!({
        "name": "data-cart-1", "labels": made["metadata"]["labels"], "annotations": made["metadata"]["annotations"],
    });
    let late = CLAIM.replace("data-cart-0", "data-cart-1");
    api.put(&late, made);
    pass(&api, &gone).await;
    assert_eq!((finalizers(&api), api.object(SET).unwrap()["spec"]["replicas"].clone()), (json!([FINALIZER]), json!(0)));
    set_is_seen(&api);
    pass(&api, &gone).await;
    assert_eq!((api.object(CLAIM), api.object(&late), api.object(CLUSTER)), (None, None, None));
}

#[tokio::test]
async fn a_deletion_whose_sets_nobody_stops_is_given_up_as_well() {
    let (api, _) = running().await;
    let context = context(&api);
    delete(&api, &[]);
    let gone: DynamoCluster = serde_json::from_value(api.object(CLUSTER).unwrap()).unwrap();
    let now = Instant::now();
    for (waited, may_go) in [(0, false), (119, false), (120, true)] {
        assert_eq!(controller::clean_up(&gone, &context, now + Duration::from_secs(waited)).await.unwrap(), may_go);
    }
    assert!(api.writes().iter().any(|write| write.contains("/events")), "it is told");
    assert!(api.object(CLAIM).is_some());
}

#[tokio::test]
async fn a_volume_that_cannot_be_deleted_at_once_is_tried_again_however_late_the_operator_came_and_keeps_no_other() {
    let (api, gone, claims) = deleted_long_ago().await;
    let context = context(&api);
    claims[..2].iter().for_each(|claim| api.refuse(&format!("DELETE {claim}"), Refusal::Conflict));
    let pass = async || controller::reconcile(Arc::new(gone.clone()), Arc::clone(&context)).await;
    let failure = pass().await.unwrap_err().to_string();
    let both = "PersistentVolumeClaim data-cart-0: delete, PersistentVolumeClaim data-cart-1: delete: ";
    assert!(failure.starts_with(both), "{failure}");
    assert_eq!(claims.each_ref().map(|claim| api.object(claim).is_some()), [true, true, false]);
    assert_eq!(finalizers(&api), json!([FINALIZER]));
    api.refuse_nothing();
    pass().await.unwrap();
    assert_eq!((api.object(&claims[0]), api.object(CLUSTER)), (None, None));
}

/// A copy keeps the labels and annotations of the claim that it was made from, and a label is soon given to a set.
#[tokio::test]
async fn what_somebody_keeps_under_names_of_their_own_is_left_alone() {
    const COPY: &str = "/api/v1/namespaces/shop/persistentvolumeclaims/cart-before-the-sale";
    const OTHER: &str = "/apis/apps/v1/namespaces/shop/statefulsets/cart-web";
    let (api, gone, claims) = deleted_long_ago().await;
    let original = api.object(&claims[0]).unwrap();
    let metadata = json!({
        "name": "cart-before-the-sale", "labels": original["metadata"]["labels"], "annotations": original["metadata"]["annotations"],
    });
    api.put(COPY, json!({ "metadata": metadata }));
    let spec = json!({ "replicas": 2, "serviceName": "x", "selector": {}, "template": {} });
    api.put(OTHER, json!({ "metadata": { "name": "cart-web", "labels": { labels::CLUSTER: "cart" } }, "spec": spec }));
    pass(&api, &gone).await;
    assert_eq!(api.object(CLUSTER), None);
    assert!(claims.iter().all(|claim| api.object(claim).is_none()));
    assert_eq!((api.object(COPY).is_some(), api.object(OTHER).unwrap()["spec"]["replicas"].clone()), (true, json!(2)));
}

/// What it says of its volumes may have changed since it was read.
#[tokio::test]
async fn a_finalizer_is_not_taken_off_a_cluster_that_has_changed_since() {
    let (api, _) = created(RetentionPolicy::Delete).await;
    let clusters: Api<DynamoCluster> = Api::namespaced(api.client(), "shop");
    let policy =
        |policy: &str| api.edit(CLUSTER, |cluster| cluster["spec"]["storage"]["retention"]["whenDeleted"] = json!(policy));
    policy("Retain");
    let seen = clusters.get("cart").await.unwrap();
    policy("Delete");
    let refused = release(&clusters, &seen).await.unwrap_err();
    assert!(matches!(refused, kube::Error::Api(status) if status.is_conflict()));
    assert_eq!(finalizers(&api), json!([FINALIZER]));
    policy("Retain");
    release(&clusters, &clusters.get("cart").await.unwrap()).await.unwrap();
    assert_eq!(finalizers(&api), Value::Null);
}

#[tokio::test]
async fn a_volume_that_is_gone_already_is_deleted() {
    let (api, gone, claims) = deleted_long_ago().await;
    api.refuse(&format!("DELETE {}", claims[1]), Refusal::NotFound);
    pass(&api, &gone).await;
    assert_eq!(api.object(CLUSTER), None);
}

#[tokio::test]
async fn a_deletion_whose_volumes_cannot_be_deleted_is_given_up_when_it_was_tried_long_enough() {
    let (api, _, claims) = deleted_long_ago().await;
    let context = context(&api);
    let gone: DynamoCluster = serde_json::from_value(api.object(CLUSTER).unwrap()).unwrap();
    api.refuse(&format!("DELETE {}", claims[0]), Refusal::Invalid("a policy keeps it".into()));
    let now = Instant::now();
    for (waited, given_up) in [(0, false), (119, false), (120, true), (120, false)] {
        let cleaned = controller::clean_up(&gone, &context, now + Duration::from_secs(waited)).await;
        assert_eq!(cleaned.is_ok(), given_up, "after {waited} s: {cleaned:?}");
    }
    assert!(api.writes().iter().any(|write| write.contains("/events")), "it is told");
    assert!(api.object(&claims[0]).is_some());
}

#[tokio::test]
async fn the_command_of_the_charts_readme_lets_a_cluster_go_whose_operator_is_gone() {
    let (api, _, claims) = deleted_long_ago().await;
    let readme = include_str!("../../../charts/dynamo-operator/README.md");
    let (_, command) = readme.split_once("kubectl patch dkv NAME --type=merge --patch '").expect("the command");
    let (patch, _) = command.split_once('\'').unwrap();
    let patch: Value = serde_json::from_str(patch).unwrap();
    let clusters: Api<DynamoCluster> = Api::namespaced(api.client(), "shop");
    clusters.patch("cart", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    assert_eq!(api.object(CLUSTER), None);
    assert!(claims.iter().all(|claim| api.object(claim).is_some()), "its volumes are kept");
}

#[tokio::test]
async fn a_finalizer_is_not_taken_off_another_cluster_of_the_name() {
    let (api, former) = created(RetentionPolicy::Delete).await;
    let clusters: Api<DynamoCluster> = Api::namespaced(api.client(), "shop");
    let seen = clusters.get("cart").await.unwrap();
    delete(&api, &[]);
    api.edit(CLUSTER, |cluster| cluster["metadata"]["finalizers"] = json!([]));
    release(&clusters, &seen).await.unwrap();
    let mut another = former;
    another.metadata.uid = Some("1d9ce1ab-2a0e-4b0c-9f3e-5f2a7b6c8d9e".into());
    another.metadata.finalizers = Some(vec![FINALIZER.into()]);
    put(&api, &another);
    assert!(release(&clusters, &seen).await.is_err());
    assert_eq!(finalizers(&api), json!([FINALIZER]));
}
