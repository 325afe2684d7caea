//! A deleted cluster: what its finalizer does before the objects go. Kubernetes itself removes what the cluster owns; volumes it
//! leaves alone, since a StatefulSet cannot tell its own from those of a former cluster of the same name. The operator can: under
//! `whenDeleted: Delete` it deletes the claims with this very cluster's data, and no others.
//!
//! A StatefulSet makes a claim again that its pods lack, for as long as it is there, and Kubernetes removes it only some time after the
//! cluster. So the sets are told to run no pods first, and no claim is deleted before their controller has seen that.
//!
//! ```text
//! sets at 0 pods --seen by their controller--> claims deleted --> finalizer off
//! ```
//!
//! Under `Retain` there is nothing to do, and no finalizer: such a cluster can be deleted after the operator. Who deletes a cluster and
//! leaves its pods (`--cascade=orphan`) keeps the volumes that they run on.
//!
//! It must not wedge: what fails is tried again for [`PATIENCE`], and then the cluster goes all the same, with its volumes kept. Without
//! an operator nobody tries; the README of the operator's chart says how to let such a cluster go.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::api::{DynamoCluster, RetentionPolicy};
use crate::apply::{ApplyError, failed, guarded_delete, patching};
use crate::build::labels;
use crate::observe::{self, is_owned};

/// The finalizer's name.
pub const FINALIZER: &str = "dynamokv.io/cluster";

/// Kubernetes' own: what the object owns is to stay.
const ORPHAN: &str = "orphan";

/// What came of the volumes of a deleted cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Volumes {
    /// Nothing yet: these sets may still make claims.
    Awaited(Vec<String>),
    /// Those that were made for it go.
    Deleted,
    /// They stay, since the policy says so.
    Retained,
    /// They stay with the pods that run on them.
    Orphaned,
}

/// The cluster has the finalizer.
pub fn is_held(cluster: &DynamoCluster) -> bool {
    cluster.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

/// The cluster is to have the finalizer.
pub fn is_to_be_held(cluster: &DynamoCluster) -> bool {
    cluster.spec.storage.retention.when_deleted == RetentionPolicy::Delete && cluster.metadata.deletion_timestamp.is_none()
}

/// Sets the finalizer on this very cluster.
pub async fn hold(clusters: &Api<DynamoCluster>, cluster: &DynamoCluster) -> Result<(), kube::Error> {
    let finalizers = if cluster.finalizers().is_empty() {
        json!([
            { "op": "test", "path": "/metadata/finalizers", "value": null },
            { "op": "add", "path": "/metadata/finalizers", "value": [FINALIZER] },
        ])
    } else {
        json!([{ "op": "add", "path": "/metadata/finalizers/-", "value": FINALIZER }])
    };
    patch(clusters, cluster, finalizers).await
}

/// Takes the finalizer off this very cluster, and off no other of its name. One that has gone meanwhile needs it no more. One that says
/// something else by now, perhaps of its volumes, is looked at again first.
pub async fn release(clusters: &Api<DynamoCluster>, cluster: &DynamoCluster) -> Result<(), kube::Error> {
    let Some(index) = cluster.finalizers().iter().position(|finalizer| finalizer == FINALIZER) else { return Ok(()) };
    let at = format!("/metadata/finalizers/{index}");
    let removal = json!([
        { "op": "replace", "path": "/metadata/resourceVersion", "value": cluster.resource_version() },
        { "op": "test", "path": at, "value": FINALIZER },
        { "op": "remove", "path": at },
    ]);
    match patch(clusters, cluster, removal).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        other => other,
    }
}

async fn patch(clusters: &Api<DynamoCluster>, cluster: &DynamoCluster, finalizers: Value) -> Result<(), kube::Error> {
    let this_very = json!({ "op": "test", "path": "/metadata/uid", "value": cluster.uid() });
    let operations: Value = std::iter::once(this_very).chain(finalizers.as_array().cloned().unwrap_or_default()).collect();
    let patch = Patch::Json::<()>(serde_json::from_value(operations).map_err(kube::Error::SerdeError)?);
    clusters.patch(&cluster.name_any(), &PatchParams::default(), &patch).await.map(|_| ())
}

/// For how long a deletion waits for its volumes after the first try that failed or had to wait.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The clean-ups that fail or wait, by the cluster's UID, each since its first try in this process: how long ago the cluster was deleted says
/// nothing of how often it was tried.
#[derive(Default)]
pub struct Failing(HashMap<String, Instant>);

impl Failing {
    /// A try has failed, or had to wait, at `now`. True if they have for [`PATIENCE`]: then it is given up, and forgotten.
    pub fn is_given_up(&mut self, uid: &str, now: Instant) -> bool {
        let first = *self.0.entry(uid.to_owned()).or_insert(now);
        let given_up = now.duration_since(first) >= PATIENCE;
        if given_up {
            self.end(uid);
        }
        given_up
    }

    /// There is nothing more to try.
    pub fn end(&mut self, uid: &str) {
        self.0.remove(uid);
    }
}

/// Does with the volumes of `cluster` what its policy says. A claim that a pod still uses goes when the pod has gone. One that cannot be
/// deleted keeps no other from it.
pub async fn volumes(client: &Client, cluster: &DynamoCluster) -> Result<Volumes, ApplyError> {
    if cluster.spec.storage.retention.when_deleted == RetentionPolicy::Retain {
        return Ok(Volumes::Retained);
    }
    let selector = ListParams::default().labels(&format!("{}={}", labels::CLUSTER, cluster.name_any()));
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), &cluster.namespace().unwrap_or_default());
    let mut listed = sets.list(&selector).await.map_err(failed("StatefulSets: list"))?.items;
    listed.retain(|set| is_of_cluster(cluster, set));
    if is_orphaned(cluster, &listed) {
        return Ok(Volumes::Orphaned);
    }
    let awaited = stop(&sets, &listed).await?;
    if !awaited.is_empty() {
        return Ok(Volumes::Awaited(awaited));
    }
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &cluster.namespace().unwrap_or_default());
    let mut failures = Vec::new();
    for claim in claims.list(&selector).await.map_err(failed("PersistentVolumeClaims: list"))? {
        let made_for = claim.annotations().get(labels::CLUSTER_UID).map(String::as_str);
        let ours = made_for.is_some() && made_for == cluster.data_uid();
        // A copy that somebody keeps under a name of their own has the annotations of the one that it was made from.
        let used = observe::is_claim_of(&cluster.name_any(), &claim.name_any());
        if !ours || !used || claim.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let seen = (claim.uid().unwrap_or_default(), claim.resource_version().unwrap_or_default());
        match claims.delete(&claim.name_any(), &guarded_delete(&seen.0, &seen.1)).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => {
                let what = format!("PersistentVolumeClaim {}: delete", claim.name_any());
                failures.push(failed(what)(error));
            }
        }
    }
    ApplyError::together(failures).map(|()| Volumes::Deleted)
}

/// One that belongs to it, or has one of its names. Its label may be on others as well.
fn is_of_cluster(cluster: &DynamoCluster, set: &StatefulSet) -> bool {
    let (name, zones) = (cluster.name_any(), &cluster.spec.zones);
    let is_named = match set.name_any().strip_prefix(&name) {
        Some(rest) if zones.is_empty() => rest.is_empty(),
        Some(rest) => rest.strip_prefix('-').is_some_and(|zone| zones.iter().any(|other| other.name == zone)),
        None => false,
    };
    is_named || is_owned(&set.metadata, &cluster.uid().unwrap_or_default())
}

/// Tells these very sets to run no pods; the names of those whose controller has not seen that yet. One that cannot be told keeps no other
/// from it.
async fn stop(sets: &Api<StatefulSet>, listed: &[StatefulSet]) -> Result<Vec<String>, ApplyError> {
    let (mut awaited, mut failures) = (Vec::new(), Vec::new());
    for set in listed {
        let (name, seen) = (set.name_any(), observe::set(set));
        if seen.replicas > 0 {
            let metadata = json!({ "uid": seen.uid, "resourceVersion": seen.resource_version });
            let patch = Patch::Merge(json!({ "metadata": metadata, "spec": { "replicas": 0 } }));
            if let Err(error) = sets.patch(&name, &patching(), &patch).await {
                failures.push(failed(format!("StatefulSet {name}: replicas 0"))(error));
            }
        }
        if seen.replicas > 0 || seen.unseen {
            awaited.push(name);
        }
    }
    ApplyError::together(failures).map(|()| awaited)
}

/// Whether the pods are to outlive the cluster. Kubernetes takes its finalizer off when it has taken the cluster's name off what it owned,
/// so that is looked at too.
fn is_orphaned(cluster: &DynamoCluster, sets: &[StatefulSet]) -> bool {
    let uid = cluster.uid().unwrap_or_default();
    cluster.finalizers().iter().any(|finalizer| finalizer == ORPHAN) || sets.iter().any(|set| !is_owned(&set.metadata, &uid))
}

#[cfg(test)]
mod tests;
