//! The Kubernetes objects of a cluster, one builder each: pure, infallible, and the same for the same spec whatever the
//! operator's version, so that an upgrade of the operator restarts no pod.

pub mod client_service;
pub mod config_map;
pub mod headless_service;
pub mod labels;
pub mod pod;
pub mod pod_disruption_budget;
pub mod ring_record;
pub mod service_account;
pub mod stateful_set;
#[cfg(test)]
mod tests;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::valid::ValidCluster;

/// Port for clients, administration and health (gRPC).
pub const PORT_CLIENT: i32 = 7400;
/// Port for other nodes (gRPC).
pub const PORT_PEER: i32 = 7401;
/// Port for metrics and health (HTTP).
pub const PORT_HTTP: i32 = 7402;

/// Metadata of an object of `cluster`: its labels, and the cluster as owner, so that it goes when the cluster goes.
fn metadata(cluster: &ValidCluster, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(cluster.namespace.clone()),
        labels: Some(labels::all(cluster)),
        owner_references: Some(vec![cluster.owner()]),
        ..ObjectMeta::default()
    }
}
