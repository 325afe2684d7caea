//! The finalizer and the volumes of a deleted cluster, pass by pass, against an API server in memory.

use std::sync::Arc;

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

async fn pass(api: &FakeApi, cluster: &DynamoCluster) {
    let context = Context::new(api.client(), Arc::new(Network), Arc::new(Metrics::default()), None);
    controller::reconcile(Arc::new(cluster.clone()), Arc::new(context)).await.unwrap();
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
    let (api, gone) = created(RetentionPolicy::Delete).await;
    delete(&api, &["foregroundDeletion"]);
    pass(&api, &gone).await;
    assert_eq!((finalizers(&api), api.object(CLAIM)), (json!(["foregroundDeletion"]), None));
    api.writes();
    pass(&api, &gone).await;
    assert_eq!(api.writes(), [""; 0], "what it owns goes; nothing is made again");

    for late in [false, true] {
        let (api, orphaned) = created(RetentionPolicy::Delete).await;
        pass(&api, &orphaned).await;
        delete(&api, if late { &[] } else { &[ORPHAN] });
        if late {
            // Kubernetes was faster.
            api.edit(SET, |set| set["metadata"]["ownerReferences"] = json!([]));
        }
        api.writes();
        pass(&api, &orphaned).await;
        assert!(api.object(CLAIM).is_some());
        assert!(api.writes().iter().any(|write| write.contains("/events")), "it is told");
        assert!(api.object(CLUSTER).is_none_or(|cluster| cluster["metadata"]["finalizers"] == json!([ORPHAN])));
    }
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
