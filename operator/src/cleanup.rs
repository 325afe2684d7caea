//! A deleted cluster: what its finalizer does before the objects go. Kubernetes itself removes what the cluster owns; volumes it
//! leaves alone, since a StatefulSet cannot tell its own from those of a former cluster of the same name. The operator can: under
//! `whenDeleted: Delete` it deletes the claims with this very cluster's data, and no others.
//!
//! It must not wedge: what fails is tried again for [`PATIENCE`], and then the cluster goes all the same, with its volumes kept.

use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use crate::api::{DynamoCluster, RetentionPolicy};
use crate::apply::guarded_delete;
use crate::build::labels;

/// The finalizer's name.
pub const FINALIZER: &str = "dynamokv.io/cluster";

/// For how long a deletion waits for its volumes.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Does with the volumes of `cluster` what its policy says. A claim that a pod still uses goes when the pod has gone.
pub async fn volumes(client: &Client, cluster: &DynamoCluster) -> Result<(), kube::Error> {
    if cluster.spec.storage.retention.when_deleted == RetentionPolicy::Retain {
        return Ok(());
    }
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &cluster.namespace().unwrap_or_default());
    let selector = ListParams::default().labels(&format!("{}={}", labels::CLUSTER, cluster.name_any()));
    for claim in claims.list(&selector).await? {
        let made_for = claim.annotations().get(labels::CLUSTER_UID).map(String::as_str);
        if made_for.is_none() || made_for != cluster.data_uid() || claim.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let seen = (claim.uid().unwrap_or_default(), claim.resource_version().unwrap_or_default());
        claims.delete(&claim.name_any(), &guarded_delete(&seen.0, &seen.1)).await?;
    }
    Ok(())
}
