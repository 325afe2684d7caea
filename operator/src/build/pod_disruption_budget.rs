//! PodDisruptionBudget NAME: how many nodes a drain may take down at a time.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{labels, metadata};
use crate::valid::ValidCluster;

/// The budget's name.
pub fn name(cluster: &ValidCluster) -> String {
    cluster.name.clone()
}

/// The budget.
pub fn build(cluster: &ValidCluster) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(cluster, name(cluster)),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(cluster.pod_disruption_budget.max_unavailable)),
            selector: Some(labels::selector(cluster)),
            // A pod that does not serve protects nothing; without this a crash-looping one would stop every drain.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}
