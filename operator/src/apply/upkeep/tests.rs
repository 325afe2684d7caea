//! What upkeep writes to claims and pods, and what it leaves alone, against an API server in memory.

use dynamo_core::id::NodeId;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::*;
use crate::apply::tests::{SET, first_ring, pass, put_pod, sets_are_seen};
use crate::fake_api::FakeApi;
use crate::nodes::Network;
use crate::observe::observe;
use crate::observed::{Carrier, Node, Note, Record, Volume};
use crate::plan::{Step, next_step};
use crate::status::{Report, status};
use crate::valid::Place;
use crate::valid::tests::valid;

/// A claim with a volume of the size that it asks for.
fn put_claim(api: &FakeApi, cluster: &ValidCluster, name: &str, size: &str) {
    let metadata = json!({ "name": name, "labels": labels::of_claims(cluster, "default") });
    let spec = json!({ "resources": { "requests": { "storage": size } } });
    let status = json!({ "phase": "Bound", "capacity": { "storage": size } });
    api.put(&claim_path(name), json!({ "metadata": metadata, "spec": spec, "status": status }));
}

fn claim_path(name: &str) -> String {
    format!("/api/v1/namespaces/shop/persistentvolumeclaims/{name}")
}

/// Kubernetes has written 8.3G as 8300M.
#[tokio::test]
async fn a_size_in_other_words_is_not_asked_for_again_and_the_cluster_is_as_asked() {
    let (api, mut cluster) = (FakeApi::default(), valid(3, &[]));
    cluster.storage.size = "8.3G".into();
    pass(&api, &cluster).await;
    for name in ["cart-0", "cart-1", "cart-2"] {
        put_pod(&api, &cluster, name);
        put_claim(&api, &cluster, &format!("data-{name}"), "8300M");
    }
    api.writes();
    pass(&api, &cluster).await;
    assert_eq!(api.writes(), [""; 0]);
    let (observed, _) = observe(&api.client(), &Network, &cluster).await.unwrap();
    assert_eq!(observed.volumes.len(), 3);
    let (claim_sizes, step) = (BTreeMap::new(), Step::Converged);
    let report = Report {
        cluster: &cluster,
        observed: &observed,
        claim_sizes: &claim_sizes,
        step: &step,
        paused: false,
        waiting_zones: &[],
        complaints: &[],
        generation: Some(1),
    };
    let ready = &status(&report, None, &Time(Timestamp::UNIX_EPOCH)).conditions[0];
    assert_eq!((&*ready.status, &*ready.reason, &*ready.message), ("True", "AsAsked", "everything is as asked"));
}

/// Else a pass would follow the other at once, for ever.
#[tokio::test]
async fn a_size_that_a_webhook_takes_back_is_asked_for_once_a_pass_and_counts_as_nothing_written() {
    let (api, mut cluster) = (FakeApi::default(), valid(3, &[]));
    pass(&api, &cluster).await;
    put_pod(&api, &cluster, "cart-0");
    put_claim(&api, &cluster, "data-cart-0", "10Gi");
    api.admit(|path, object| {
        if path.ends_with("/data-cart-0") {
            object["spec"]["resources"]["requests"]["storage"] = json!("10Gi");
        }
        Ok(())
    });
    cluster.storage.size = "20Gi".into();
    let client = api.client();
    let (observed, live) = observe(&client, &Network, &cluster).await.unwrap();
    api.writes();
    let done = upkeep(&client, &cluster, &observed, &live).await;
    assert_eq!((done.written, done.failures.len(), done.complaints.len()), (vec![], 0, 0));
    assert_eq!(api.writes(), [format!("PATCH {}", claim_path("data-cart-0"))], "it is asked for all the same");
}

/// Who looks for that cluster's claims is to find it where it was.
#[tokio::test]
async fn a_claim_of_another_cluster_keeps_its_labels_though_a_pod_uses_it() {
    let (api, cluster) = (FakeApi::default(), valid(3, &[]));
    pass(&api, &cluster).await;
    put_pod(&api, &cluster, "cart-3");
    let annotations = json!({ labels::CLUSTER_UID: "11112222-3333-4444-5555-666677778888" });
    let metadata = json!({ "name": "data-cart-3", "labels": { labels::CLUSTER: "cart-a" }, "annotations": annotations });
    api.put(&claim_path("data-cart-3"), json!({ "metadata": metadata }));
    let client = api.client();
    let (observed, live) = observe(&client, &Network, &cluster).await.unwrap();
    assert_eq!(observed.volumes.len(), 1);
    api.writes();
    let done = upkeep(&client, &cluster, &observed, &live).await;
    assert_eq!((api.writes(), done.told, done.failures.len()), (vec![], vec![], 0));
}

fn container(name: &str, state: Value) -> Value {
    json!({ "name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state })
}

/// The node of this pod runs, and a container beside it crashes.
fn crash_beside(api: &FakeApi, pod: &str) {
    api.edit(&format!("/api/v1/namespaces/shop/pods/{pod}"), |pod| {
        pod["metadata"]["labels"]["controller-revision-hash"] = json!("former");
        pod["status"] = json!({
            "phase": "Running",
            "initContainerStatuses": [container("proxy", json!({ "waiting": { "reason": "CrashLoopBackOff" } }))],
            "containerStatuses": [container("node", json!({ "running": {} }))],
        });
    });
}

/// Its node runs, and nobody reaches it.
#[tokio::test]
async fn a_newcomer_beside_a_sidecar_that_crashes_keeps_no_other_from_joining_and_no_machine_from_being_drained() {
    let (api, cluster) = (FakeApi::default(), valid(5, &[]));
    pass(&api, &cluster).await;
    sets_are_seen(&api);
    (0..5).for_each(|ordinal| put_pod(&api, &cluster, &format!("cart-{ordinal}")));
    crash_beside(&api, "cart-4");
    let (mut observed, _) = observe(&api.client(), &Network, &cluster).await.unwrap();
    let (ring, mut volumes) = (first_ring(&cluster, 1), BTreeMap::new());
    for ordinal in 0..4 {
        let (place, node) = (Place { zone: "default".into(), ordinal }, NodeId([ordinal as u8 + 1; 16]));
        let pod = observed.pods.get_mut(&place).unwrap();
        (pod.ready, pod.node) = (true, Some(Node::holding(node, Some(&ring))));
        observed.volumes.insert(place.clone(), Volume { note: Note::Node(node), ..Volume::default() });
        if ring.members.contains_key(&node) {
            volumes.insert(node, Carrier { place, uid: String::new() });
        }
    }
    let (hash, rings) = (ring.hash(), Box::new(ring.into()));
    observed.record = Record::Held { rings, hash, resource_version: String::new(), volumes };
    let next = next_step(&cluster, &observed);
    assert!(matches!(&next, Step::RecordRing { ring, .. } if ring.members.len() == 4), "{next:?}");
    assert_eq!(drains::left_out(&observed), 1);
}

/// Such a container runs beside the node and restarts for itself; what it lacks may be for one of them only, or for none.
#[tokio::test]
async fn pods_that_serve_beside_a_sidecar_that_crashes_are_not_deleted_together_for_a_new_template() {
    let (api, cluster) = (FakeApi::default(), valid(3, &[]));
    pass(&api, &cluster).await;
    sets_are_seen(&api);
    for name in ["cart-0", "cart-1", "cart-2"] {
        put_pod(&api, &cluster, name);
        crash_beside(&api, name);
    }
    api.edit(SET, |set| set["status"]["updateRevision"] = json!("next"));
    let client = api.client();
    let (observed, live) = observe(&client, &Network, &cluster).await.unwrap();
    assert_eq!(observed.pods.len(), 3);
    assert_eq!(Rollout::of(&cluster, &observed, &BTreeSet::new()).replaced(), Vec::<&crate::valid::Place>::new());
    api.writes();
    upkeep(&client, &cluster, &observed, &live).await;
    let writes = api.writes();
    assert!(!writes.iter().any(|write| write.starts_with("DELETE")), "{writes:?}");
}
