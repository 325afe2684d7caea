//! ServiceAccount NAME: the nodes' own identity, without any rights and without a token.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::metadata;
use crate::valid::ValidCluster;

/// The ServiceAccount's name.
pub fn name(cluster: &ValidCluster) -> String {
    cluster.name.clone()
}

/// The ServiceAccount.
pub fn build(cluster: &ValidCluster) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(cluster, name(cluster)),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
