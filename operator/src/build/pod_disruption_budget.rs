//! PodDisruptionBudget NAME: how many nodes a drain may take down at a time.
//!
//! It says how many may be missing and not how many have to be there (`minAvailable`): a number of those follows a change of size too late.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{labels, metadata};
use crate::valid::ValidCluster;

/// The budget's name.
pub fn name(cluster: &ValidCluster) -> String {
    cluster.name.clone()
}

/// The budget. Kubernetes counts pods that are `left_out` ([`crate::plan::drains`]) as missing, so they are allowed on top of what the spec
/// allows.
pub fn build(cluster: &ValidCluster, left_out: u32) -> PodDisruptionBudget {
    let left_out = i32::try_from(left_out).unwrap_or(i32::MAX);
    let max_unavailable = cluster.pod_disruption_budget.max_unavailable.saturating_add(left_out);
    PodDisruptionBudget {
        metadata: metadata(cluster, name(cluster)),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(max_unavailable)),
            selector: Some(labels::selector(cluster)),
            // A pod that does not serve protects nothing; without this a crash-looping one would stop every drain.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}
