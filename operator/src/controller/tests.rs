//! What a pass counts, against an API server in memory.

use super::*;
use crate::fake_api::FakeApi;
use crate::nodes::Network;
use crate::valid::tests::cluster;

const CLUSTER: &str = "/apis/dynamokv.io/v1alpha1/namespaces/shop/dynamoclusters/cart";

/// The metrics after a pass over each of these states of one cluster; after the last one it is gone.
async fn metrics_after(states: &[DynamoCluster]) -> [String; 2] {
    let (api, metrics) = (FakeApi::default(), Arc::new(Metrics::default()));
    let context = Arc::new(Context::new(api.client(), Arc::new(Network), Arc::clone(&metrics), None));
    for state in states {
        api.put(CLUSTER, serde_json::to_value(state).unwrap());
        reconcile(Arc::new(state.clone()), Arc::clone(&context)).await.unwrap();
    }
    let told = metrics.text().unwrap();
    api.edit(CLUSTER, |cluster| {
        cluster["metadata"]["finalizers"] = json!([]);
        cluster["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
    reconcile(Arc::new(states[0].clone()), context).await.unwrap();
    [told, metrics.text().unwrap()]
}

#[tokio::test]
async fn a_cluster_that_waits_for_a_person_counts_as_blocked_and_not_as_converged() {
    let (mut invalid, mut paused) = (cluster(3, &[]), cluster(3, &[]));
    invalid.spec.replicas = 2;
    paused.spec.reconciliation = Reconciliation::Paused;
    let [told, after] = metrics_after(&[invalid, paused]).await;
    assert!(told.contains("dynamo_operator_reconciles_total{outcome=\"Blocked\"} 2\n"), "{told}");
    assert!(!told.contains("outcome=\"Converged\""), "{told}");
    let ready = "dynamo_operator_cluster_condition{namespace=\"shop\",cluster=\"cart\",type=\"Ready\"} 0\n";
    assert!(told.contains(ready), "{told}");
    assert!(!after.contains("dynamo_operator_cluster_condition{"), "it is gone: {after}");
}

#[tokio::test]
async fn a_cluster_that_is_being_made_counts_as_progressing() {
    let [told, _] = metrics_after(&[cluster(3, &[])]).await;
    assert!(told.contains("dynamo_operator_reconciles_total{outcome=\"Progressing\"} 1\n"), "{told}");
}
