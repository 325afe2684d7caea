//! Labels and annotations: how the cluster's objects are found, and what is noted on them.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::valid::ValidCluster;

/// How the operator's own labels and annotations begin.
pub const OWN: &str = "dynamokv.io/";
/// Which cluster an object belongs to.
pub const CLUSTER: &str = "dynamokv.io/cluster";
/// Argo CD's label, where it tracks by label, for the application that an object belongs to; what has it, has no owner and is not in that
/// application's manifests is deleted. So no claim has it: claims outlive their cluster.
pub const INSTANCE: &str = "app.kubernetes.io/instance";
/// Which zone a pod or a volume belongs to.
pub const ZONE: &str = "dynamokv.io/zone";
/// Annotation on a volume claim: the UUID of the node whose data it carries.
pub const NODE: &str = "dynamokv.io/node";
/// Annotation on a volume claim: the UID of the DynamoCluster it was made for. Names come back, UIDs do not.
pub const CLUSTER_UID: &str = "dynamokv.io/cluster-uid";
/// Annotation on a StatefulSet: the pods that it is about to be lowered to.
pub const LOWERING: &str = "dynamokv.io/lowering";
/// Annotation on a StatefulSet that lacks pods: when it was last written for no other reason than to wake its controller.
pub const NUDGED: &str = "dynamokv.io/nudged";
/// Annotation on a volume claim: its node has left, and it is about to be deleted. On a ConfigMap with a configuration: nobody reads it, and
/// it is about to be deleted; it holds the [`CONFIG_NUMBER`] for which that is so.
pub const RELEASED: &str = "dynamokv.io/released";
/// Annotation on a volume claim: [`DRAINED_NEXT`] while its pod is about to go, then [`DRAINED_YES`]: its node has given a drain receipt
/// and was not seen since.
pub const DRAINED: &str = "dynamokv.io/drained";
/// See [`DRAINED`].
pub const DRAINED_NEXT: &str = "next";
/// See [`DRAINED`].
pub const DRAINED_YES: &str = "true";
/// Annotation on a volume claim, with [`DRAINED`]: that receipt in short, as JSON. It is there when the pod is gone.
pub const DRAIN_RECEIPT: &str = "dynamokv.io/drain-receipt";
/// Annotation on the pod template: the hash of the configuration, so that a change restarts the pods.
pub const CONFIG_HASH: &str = "dynamokv.io/config-hash";
/// Annotation on a ConfigMap with a configuration: the higher, the later it was the one that is asked for. Absent: 0.
pub const CONFIG_NUMBER: &str = "dynamokv.io/config-number";
/// Selects all objects that the operator made.
pub const MANAGED: &str = "app.kubernetes.io/managed-by=dynamo-operator";

/// The labels that select the cluster's pods. They are part of immutable selectors and never change. [`INSTANCE`] is not among them: policies
/// and webhooks of others put their own word there, and a pod that they do it to is a pod all the same.
pub fn selecting(cluster: &ValidCluster) -> BTreeMap<String, String> {
    let labels = [("app.kubernetes.io/name", "dynamokv"), (CLUSTER, &cluster.name)];
    labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// All labels of an object of the cluster.
pub fn all(cluster: &ValidCluster) -> BTreeMap<String, String> {
    let mut labels = selecting(cluster);
    labels.insert(INSTANCE.to_owned(), cluster.name.clone());
    labels.insert("app.kubernetes.io/component".to_owned(), "node".to_owned());
    labels.insert("app.kubernetes.io/managed-by".to_owned(), "dynamo-operator".to_owned());
    labels
}

/// All labels of the volume claims of `zone`.
pub fn of_claims(cluster: &ValidCluster, zone: &str) -> BTreeMap<String, String> {
    let mut labels = with_zone(all(cluster), zone);
    labels.remove(INSTANCE);
    labels
}

/// What selects the pods of the set of `zone`. Kubernetes puts a set's selector on the claims that it makes, which is another reason why
/// [`INSTANCE`] is no part of it. A set that is there keeps the selector that it was made with.
pub fn selecting_in(cluster: &ValidCluster, zone: &str) -> BTreeMap<String, String> {
    with_zone(selecting(cluster), zone)
}

/// [`CLUSTER`] for list calls: claims that are restored by hand need no other label, and a pod is one by its set.
pub fn cluster_text(cluster: &ValidCluster) -> String {
    format!("{CLUSTER}={}", cluster.name)
}

/// Whether a pod's label is the operator's to set.
pub fn is_reserved(key: &str) -> bool {
    let shared = ["app.kubernetes.io/name", INSTANCE, "app.kubernetes.io/component", "app.kubernetes.io/managed-by"];
    key.starts_with(OWN) || shared.contains(&key)
}

/// `labels` and the zone.
pub fn with_zone(mut labels: BTreeMap<String, String>, zone: &str) -> BTreeMap<String, String> {
    labels.insert(ZONE.to_owned(), zone.to_owned());
    labels
}

/// [`selecting`] as one text, for `status.selector`.
pub fn selector_text(cluster: &ValidCluster) -> String {
    let pairs: Vec<_> = selecting(cluster).into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}

/// [`selecting`] as a selector object.
pub fn selector(cluster: &ValidCluster) -> LabelSelector {
    LabelSelector { match_labels: Some(selecting(cluster)), ..LabelSelector::default() }
}
