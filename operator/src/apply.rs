//! Carrying out: what is applied in every pass, and the one step.
//!
//! Objects are applied only if they differ from what they should be, so a cluster at rest costs no write. Every write that rests
//! on this pass's look carries the resourceVersion it saw, and what it saw not is posted, where it matters; a conflict means that the
//! world has changed, and the next pass looks again. Deletes carry the UID too. So an operator that stands still in the middle of a
//! pass does no harm when it goes on.

mod configuration;
mod difference;
mod nudge;
mod passed_over;
mod refusal;
mod sets;
#[cfg(test)]
mod tests;
mod upkeep;

use std::collections::BTreeMap;

use dynamo_core::id::NodeId;
use dynamo_core::rebalance::chain::Full;
use dynamo_core::ring::Ring;
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;
use thiserror::Error;

use crate::build::{labels, ring_record};
use crate::listing::{self, Named};
use crate::nodes::{self, Nodes};
use crate::observed::{Observed, Record};
use crate::plan::{Cause, Step, next_step};
use crate::valid::{Place, ValidCluster};

pub use upkeep::{Upkeep, outstanding, upkeep};

/// Who the operator is to the API server.
pub const FIELD_MANAGER: &str = "dynamo-operator";

/// Why a step was not carried out.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// The API server refused or did not answer. Whether it acted is unknown; the next look will tell.
    #[error("{what}: {}", words(error))]
    Kubernetes {
        /// What was being done.
        what: String,
        /// The API server's words.
        error: Box<kube::Error>,
    },
    /// Nodes refused a ring or did not answer.
    #[error("the ring was not taken by {}", listing::notes(refusals.clone()))]
    Offer {
        /// Which pods, and with the epoch that they were offered their words.
        refusals: BTreeMap<String, String>,
    },
    /// The members have to take what is recorded first.
    #[error(transparent)]
    Full(#[from] Full),
    /// Several, each for itself.
    #[error("{}", listing::clauses(told(.0)))]
    Several(Vec<ApplyError>),
}

impl ApplyError {
    /// None, one, or all of them.
    pub(crate) fn together(mut failures: Vec<Self>) -> Result<(), Self> {
        match failures.len() {
            0 => Ok(()),
            1 => Err(failures.remove(0)),
            _ => Err(Self::Several(failures)),
        }
    }

    /// Each for itself.
    pub fn each(&self) -> &[Self] {
        match self {
            Self::Several(failures) => failures,
            one => std::slice::from_ref(one),
        }
    }

    /// Somebody was faster; nothing is wrong.
    pub fn is_conflict(&self) -> bool {
        match self {
            Self::Kubernetes { error, .. } => {
                matches!(&**error, kube::Error::Api(status) if status.is_conflict() || status.is_already_exists())
            }
            Self::Several(failures) => failures.iter().all(Self::is_conflict),
            Self::Offer { .. } | Self::Full(_) => false,
        }
    }

    /// The API server answered, and did not act. It does not where a webhook that it has to ask cannot be reached.
    fn is_refusal(&self) -> bool {
        match self {
            Self::Kubernetes { error, .. } => matches!(&**error, kube::Error::Api(status) if {
                let is_no = status.is_invalid() || status.is_forbidden() || status.code == 400;
                is_no || (status.code == 500 && status.message.contains("failed calling webhook"))
            }),
            Self::Several(failures) => failures.iter().all(Self::is_refusal),
            Self::Offer { .. } | Self::Full(_) => false,
        }
    }
}

/// What people are told of `failures`: those of several objects that fail alike together.
pub fn told<'a>(failures: impl IntoIterator<Item = &'a ApplyError>) -> Vec<String> {
    let item = |failure: &ApplyError| match failure {
        ApplyError::Kubernetes { what, error } => {
            // "StatefulSet cart-a: replicas 3"
            let name = what.split([' ', ':']).nth(1).unwrap_or_default();
            Named { what: what.clone(), name: name.to_owned(), reason: words(error) }
        }
        other => Named { what: String::new(), name: String::new(), reason: other.to_string() },
    };
    listing::grouped_by_name(failures.into_iter().map(item)).iter().map(listing::Group::note).collect()
}

/// What the API server says, for people, about what they wrote; its answer has more, which is for machines.
pub(crate) fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => refusal::translated(&status.message),
        other => other.to_string(),
    }
}

pub(crate) fn failed(what: impl Into<String>) -> impl FnOnce(kube::Error) -> ApplyError {
    let what = what.into();
    |error| ApplyError::Kubernetes { what, error: Box::new(error) }
}

/// Carries out `next`. Where all of it is refused, and nothing else needs it, what `observed` says of that leads to another step, which is
/// taken as well. The answer is the last one, what became of it, and what the others failed for.
pub async fn steps(
    client: &Client,
    nodes: &dyn Nodes,
    cluster: &ValidCluster,
    observed: &mut Observed,
    mut next: Step,
) -> (Step, Result<(), ApplyError>, Vec<ApplyError>) {
    let mut failures = Vec::new();
    loop {
        let taken = step(client, nodes, cluster, observed, &next).await;
        match taken {
            // Each refusal is noted once, so this comes to an end.
            Err(failure) if passed_over::note(observed, &next, &failure) => {
                failures.push(failure);
                next = next_step(cluster, observed);
            }
            taken => return (next, taken, failures),
        }
    }
}

/// Carries out `step`. Steps that only wait do nothing.
async fn step(
    client: &Client,
    nodes: &dyn Nodes,
    cluster: &ValidCluster,
    observed: &Observed,
    step: &Step,
) -> Result<(), ApplyError> {
    match step {
        Step::RaisePods(zones) | Step::LowerPods(zones) => sets::set_replicas(client, cluster, observed, zones).await,
        Step::NoteIdentities(notes) => note_identities(client, cluster, observed, notes).await,
        Step::RecordRing { ring, cause } => record(client, cluster, observed, ring, &purpose(cause)).await,
        Step::RecordVolumes(_) => match observed.record.ring() {
            Some(ring) => record(client, cluster, observed, ring, "volumes of the members").await,
            None => Ok(()),
        },
        Step::OfferRing(places) => offer_ring(nodes, cluster, observed, places).await,
        Step::DeleteVolumes(places) => delete_volumes(client, cluster, observed, places).await,
        Step::AwaitPods(_)
        | Step::AwaitEpoch(_)
        | Step::AwaitData { .. }
        | Step::AwaitReceipts(_)
        | Step::RebalancingPaused(_)
        | Step::AwaitRollout(_)
        | Step::Blocked(_)
        | Step::Converged => Ok(()),
    }
}

async fn note_identities(
    client: &Client,
    cluster: &ValidCluster,
    observed: &Observed,
    notes: &BTreeMap<Place, NodeId>,
) -> Result<(), ApplyError> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &cluster.namespace);
    let mut failures = Vec::new();
    for (place, node) in notes {
        let Some(volume) = observed.volumes.get(place) else { continue };
        let name = cluster.claim_name(place);
        let patch = json!({ "metadata": {
            "uid": volume.uid,
            "resourceVersion": volume.resource_version,
            "annotations": {
                labels::NODE: node.to_string(), labels::CLUSTER_UID: cluster.data_uid, labels::RELEASED: null, labels::DRAINED: null,
                labels::DRAIN_RECEIPT: null,
            },
        } });
        let what = format!("PersistentVolumeClaim {name}: note node {node}");
        failures.extend(claims.patch(&name, &patching(), &Patch::Merge(patch)).await.map_err(failed(what)).err());
    }
    ApplyError::together(failures)
}

/// Creates the record, or replaces the very record that was seen; so of two operators one gets a conflict.
async fn record(
    client: &Client,
    cluster: &ValidCluster,
    observed: &Observed,
    ring: &Ring,
    purpose: &str,
) -> Result<(), ApplyError> {
    let records: Api<ConfigMap> = Api::namespaced(client.clone(), &cluster.namespace);
    let (rings, volumes) = (observed.rings_with(ring)?, observed.carriers(ring));
    let what = format!("ConfigMap {}: record ring epoch {}", ring_record::name(cluster), ring.epoch);
    match &observed.record {
        Record::Held { resource_version, .. } => {
            let record = ring_record::build(cluster, &rings, &volumes, purpose, Some(resource_version));
            records.replace(&ring_record::name(cluster), &posting(), &record).await.map_err(failed(what))?;
        }
        Record::Absent | Record::Unreadable(_) => {
            let record = ring_record::build(cluster, &rings, &volumes, purpose, None);
            records.create(&posting(), &record).await.map_err(failed(what))?;
        }
    }
    Ok(())
}

/// What a ring is for, in the record.
pub fn purpose(cause: &Cause) -> String {
    match cause {
        Cause::First => "first ring".to_owned(),
        Cause::Found => "found on the nodes".to_owned(),
        Cause::Rebalance => "rebalance".to_owned(),
        Cause::Left(nodes) => {
            let nodes: Vec<_> = nodes.iter().map(NodeId::to_string).collect();
            format!("left: {}", nodes.join(", "))
        }
        Cause::Lost(nodes) => {
            let nodes: Vec<_> = nodes.iter().map(NodeId::to_string).collect();
            format!("declared lost: {}", nodes.join(", "))
        }
    }
}

/// Each is offered the ring that follows its own, whatever the others say; then those that did not take it are the error.
async fn offer_ring(nodes: &dyn Nodes, cluster: &ValidCluster, observed: &Observed, places: &[Place]) -> Result<(), ApplyError> {
    let Some(rings) = observed.record.rings() else { return Ok(()) };
    let offered = places.iter().filter_map(|place| {
        let address = observed.pods.get(place)?.address.clone()?;
        Some((cluster.pod_name(place), address, observed.node(place)?.epoch))
    });
    let offers = stream::iter(offered.collect::<Vec<_>>())
        .map(|(pod, address, held)| async move {
            let ring = rings.after(held)?;
            let offer = nodes.offer(&address, ring).await;
            offer.err().map(|error| (pod, format!("epoch {}: {error}", ring.epoch)))
        })
        .buffer_unordered(nodes::ASKED_MAX);
    let refusals: BTreeMap<String, String> = offers.filter_map(std::future::ready).collect().await;
    if refusals.is_empty() {
        return Ok(());
    }
    Err(ApplyError::Offer { refusals })
}

/// Each for itself: one that a policy protects keeps no other.
async fn delete_volumes(
    client: &Client,
    cluster: &ValidCluster,
    observed: &Observed,
    places: &[Place],
) -> Result<(), ApplyError> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &cluster.namespace);
    let mut failures = Vec::new();
    for place in places {
        let Some(volume) = observed.volumes.get(place) else { continue };
        let name = cluster.claim_name(place);
        if !volume.released {
            // Marked now, deleted in the next pass, as for a set that is lowered.
            let patch = json!({ "metadata": {
                "uid": volume.uid,
                "resourceVersion": volume.resource_version,
                "annotations": { labels::RELEASED: "true" },
            } });
            let what = format!("PersistentVolumeClaim {name}: mark for deletion");
            failures.extend(claims.patch(&name, &patching(), &Patch::Merge(patch)).await.map_err(failed(what)).err());
            continue;
        }
        let what = format!("PersistentVolumeClaim {name}: delete");
        let guarded = guarded_delete(&volume.uid, &volume.resource_version);
        match claims.delete(&name, &guarded).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => failures.push(failed(what)(error)),
        }
    }
    ApplyError::together(failures)
}

/// Deletes the very object that was seen, in the version that was seen, or nothing.
pub fn guarded_delete(uid: &str, resource_version: &str) -> DeleteParams {
    DeleteParams {
        preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: Some(resource_version.to_owned()) }),
        ..DeleteParams::default()
    }
}

pub(crate) fn patching() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

fn posting() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}
