//! What is applied in every pass, whatever the step: services, configuration, pod templates, sizes of volumes. None of it moves
//! data or removes a pod for good, so a shrink that is blocked does not hold back a new image or setting.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::difference::covers;
use super::{ApplyError, FIELD_MANAGER, configuration, failed, guarded_delete, nudge, patching, sets, words};
use crate::build::{client_service, headless_service, labels, pod_disruption_budget, service_account};
use crate::events::{self, Told};
use crate::listing::{self, Group, Named};
use crate::observe::{Live, is_owned};
use crate::observed::Observed;
use crate::plan::drains;
use crate::plan::rollout::Rollout;
use crate::quantity;
use crate::valid::ValidCluster;

/// Annotation with the hash of what was applied last. It tells when a field is to go, which a comparison with the live object
/// cannot: there it looks like a default.
pub(super) const APPLIED: &str = "dynamokv.io/applied-hash";

/// What a pass of upkeep did.
#[derive(Debug, Default)]
pub struct Upkeep {
    /// The objects that were written, as "Service cart".
    pub written: Vec<String>,
    /// What failed. It held up no other object and no step.
    pub failures: Vec<ApplyError>,
    /// What could not be done and is no reason to try again soon.
    pub complaints: Vec<String>,
    /// Zones whose pod template is to be another one, or was until this pass.
    pub waiting: Vec<String>,
    /// What is worth an Event.
    pub told: Vec<Told>,
    /// The versions that sets have since they were written, by zone.
    pub versions: BTreeMap<String, String>,
}

impl Upkeep {
    /// The set of `zone` has this version since this pass wrote to it.
    pub(super) fn note_version(&mut self, zone: &str, version: Option<String>) {
        self.versions.extend(version.map(|version| (zone.to_owned(), version)));
    }

    /// Notes what became of one object.
    fn note(&mut self, written: Result<Option<String>, ApplyError>) {
        match written {
            Ok(written) => self.written.extend(written),
            Err(failure) => self.failures.push(failure),
        }
    }
}

/// Makes the objects what they should be, each for itself: one that is refused does not keep the others from it.
///
/// No step rests on what is done here, so the step is taken whatever failed. A set is made with its own template; its pods wait for the
/// account and the configuration if those are not there yet. One that is there gets no template before the configuration is: pods that run
/// would be restarted to wait for it. What a step removes carries the version that was seen, so a claim that was written here in the same
/// pass is looked at again first; a set has the version that it was given here ([`Observed::follow`]).
pub async fn upkeep(client: &Client, cluster: &ValidCluster, observed: &Observed, live: &Live) -> Upkeep {
    let mut done = Upkeep::default();
    if !observed.taken.is_empty() {
        return done;
    }
    let writer = Writer { client, namespace: &cluster.namespace, uid: &cluster.uid };
    done.note(writer.apply(service_account::build(cluster), live.service_account.as_ref()).await);
    let configured = writer.apply(configuration::wanted(cluster, observed), live.config_map.as_ref()).await;
    let is_configured = configured.is_ok();
    done.note(configured);
    done.note(writer.apply(headless_service::build(cluster), live.headless_service.as_ref()).await);
    done.note(writer.apply(client_service::build(cluster), live.client_service.as_ref()).await);
    let budget = pod_disruption_budget::build(cluster, drains::left_out(observed));
    done.note(writer.apply(budget, live.pod_disruption_budget.as_ref()).await);
    let rest = sets::update(client, cluster, observed, live, is_configured, &mut done).await;
    replace_pods(client, cluster, observed, is_configured && rest, &mut done).await;
    configuration::delete_unused(client, cluster, observed, &mut done).await;
    label_volumes(client, cluster, observed, &mut done).await;
    resize_volumes(client, cluster, observed, &mut done).await;
    nudge::write(client, cluster, observed, &mut done).await;
    done
}

/// What [`upkeep`] would change if it did anything: the zones whose pods are to be others, and other objects as "Service cart". It shows by
/// what was written last; what somebody else changed since does not count.
pub fn outstanding(cluster: &ValidCluster, observed: &Observed, live: &Live) -> Vec<String> {
    if !observed.taken.is_empty() {
        return Vec::new();
    }
    let mut outstanding = sets::outdated(cluster, live);
    outstanding.extend(outdated(cluster, service_account::build(cluster), live.service_account.as_ref()));
    outstanding.extend(outdated(cluster, configuration::wanted(cluster, observed), live.config_map.as_ref()));
    outstanding.extend(outdated(cluster, headless_service::build(cluster), live.headless_service.as_ref()));
    outstanding.extend(outdated(cluster, client_service::build(cluster), live.client_service.as_ref()));
    let budget = pod_disruption_budget::build(cluster, drains::left_out(observed));
    outstanding.extend(outdated(cluster, budget, live.pod_disruption_budget.as_ref()));
    outstanding
}

fn outdated<K>(cluster: &ValidCluster, desired: K, live: Option<&K>) -> Option<String>
where
    K: Resource<DynamicType = ()> + Serialize + Clone,
{
    let name = format!("{} {}", K::kind(&()), desired.name_any());
    let is_outdated = |live: &K| is_owned(live.meta(), &cluster.uid) && was_written_for_something_else(&desired, live);
    live.is_none_or(is_outdated).then_some(name)
}

/// What was written to `live` last is not `desired`.
pub(super) fn was_written_for_something_else<K: Resource<DynamicType = ()> + Serialize + Clone>(desired: &K, live: &K) -> bool {
    marked(desired.clone()).annotations().get(APPLIED) != live.annotations().get(APPLIED)
}

/// Deletes the pods in which nothing runs and whose template is not the one that they were told to have; and, if it `may`, one more: in which
/// nothing runs and that was told nothing, or that runs and that nobody else restarts. Each is guarded by what was seen of it: one that has begun to run meanwhile, or is gone, stays as
/// it is.
async fn replace_pods(client: &Client, cluster: &ValidCluster, observed: &Observed, may: bool, done: &mut Upkeep) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &cluster.namespace);
    let rollout = Rollout::of(cluster, observed, &BTreeSet::new());
    // Which pods have the newest template of a set that was just told otherwise is not known.
    let one = rollout.cured().into_iter().chain(rollout.restarted()).take(usize::from(may));
    for place in rollout.replaced().into_iter().chain(one) {
        let Some(pod) = observed.pods.get(place) else { continue };
        let name = cluster.pod_name(place);
        match pods.delete(&name, &guarded_delete(&pod.uid, &pod.resource_version)).await {
            Ok(_) => done.written.push(format!("Pod {name}")),
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => {}
            Err(error) => done.failures.push(failed(format!("Pod {name}: delete"))(error)),
        }
    }
}

/// Gives claims that pods use the labels that the others have: whoever looks for the cluster's claims finds them too. Takes off what a set
/// of an earlier version gives its claims, whose selector cannot change.
async fn label_volumes(client: &Client, cluster: &ValidCluster, observed: &Observed, done: &mut Upkeep) {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &cluster.namespace);
    for (place, volume) in observed.volumes.iter().filter(|(_, volume)| volume.unlabelled || volume.tracked) {
        let name = cluster.claim_name(place);
        let mut labels = if volume.unlabelled { json!(labels::of_claims(cluster, &place.zone)) } else { json!({}) };
        if volume.tracked {
            labels[labels::INSTANCE] = Value::Null;
        }
        let patch = json!({ "metadata": { "uid": volume.uid, "resourceVersion": volume.resource_version, "labels": labels } });
        match claims.patch(&name, &patching(), &Patch::Merge(patch)).await {
            // Where somebody's webhook puts it back each time, it is what it was.
            Ok(written) if written.resource_version().as_ref() == Some(&volume.resource_version) => {}
            Ok(_) => {
                done.written.push(format!("PersistentVolumeClaim {name}"));
                if volume.unlabelled {
                    done.told.push(events::volume_labelled(&name, &cluster.pod_name(place)));
                }
            }
            Err(error) => done.failures.push(failed(format!("PersistentVolumeClaim {name}: label"))(error)),
        }
    }
}

/// Lets claims ask for the size that is asked for, where their volumes can still get it: those that are smaller grow, and a request for
/// more than that, which was not met, is taken back.
///
/// A class that cannot grow volumes is a complaint, not an error: the rest of the cluster goes on. A claim without a volume cannot grow;
/// it is too late or too early for it.
async fn resize_volumes(client: &Client, cluster: &ValidCluster, observed: &Observed, done: &mut Upkeep) {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &cluster.namespace);
    let wanted = &cluster.storage.size;
    let mut complaints = Vec::new();
    let complaint = |name: String, reason: String| Named { what: format!("volume {name}"), name, reason };
    for (place, volume) in &observed.volumes {
        let used = observed.pods.contains_key(place) && volume.bound && !volume.deleting;
        let is_less = |size: &str| quantity::parse(size).is_some_and(|size| Some(size) < quantity::parse(wanted));
        let grows = is_less(&volume.size);
        if !used || !(grows || (volume.asks_for_more_than(wanted) && is_less(&volume.capacity))) {
            continue;
        }
        let name = cluster.claim_name(place);
        let patch = json!({
            "metadata": { "uid": volume.uid, "resourceVersion": volume.resource_version },
            "spec": { "resources": { "requests": { "storage": wanted } } },
        });
        match claims.patch(&name, &patching(), &Patch::Merge(patch)).await {
            // Where somebody's webhook takes it back each time, it is what it was.
            Ok(written) if written.resource_version().as_ref() == Some(&volume.resource_version) => {}
            Ok(_) => done.written.push(format!("PersistentVolumeClaim {name}")),
            Err(kube::Error::Api(status)) if status.is_conflict() => {
                done.failures.push(failed(format!("PersistentVolumeClaim {name}: resize"))(kube::Error::Api(status)));
            }
            Err(error) if grows => {
                let (size, words) = (&volume.size, words(&error));
                complaints
                    .push(complaint(name, format!("cannot grow to {wanted}: {words}; set spec.storage.size back to {size}")));
            }
            Err(error) => {
                let (size, words) = (&volume.size, words(&error));
                complaints.push(complaint(name, format!("cannot be asked to have {wanted} instead of {size}: {words}")));
            }
        }
    }
    done.complaints.extend(listing::grouped_by_name(complaints).iter().map(Group::sentence));
}

struct Writer<'a> {
    client: &'a Client,
    namespace: &'a str,
    /// The cluster's.
    uid: &'a str,
}

impl Writer<'_> {
    /// Applies `desired` if `live` is not that already, and is still what was seen; says what was written. One that is not there is
    /// made, and one that another operator made in the meantime is taken: nothing here is lost by that, and the next pass looks. One of
    /// somebody else is left alone.
    async fn apply<K>(&self, desired: K, live: Option<&K>) -> Result<Option<String>, ApplyError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + DeserializeOwned + Clone + Debug,
    {
        let mut desired = marked(desired);
        if let Some(live) = live {
            if !is_owned(live.meta(), self.uid) || !differs(&desired, live)? {
                return Ok(None);
            }
            desired.meta_mut().uid = live.uid();
            desired.meta_mut().resource_version = live.resource_version();
        }
        let name = desired.name_any();
        let what = format!("{} {name}", K::kind(&()));
        let api: Api<K> = Api::namespaced(self.client.clone(), self.namespace);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let written = match api.patch(&name, &params, &Patch::Apply(&desired)).await {
            Err(kube::Error::Api(status)) if status.is_invalid() && live.is_some() => {
                let replaced = replace_spec(&api, &desired).await;
                replaced.ok_or_else(|| failed(format!("{what}: apply"))(kube::Error::Api(status)))?
            }
            applied => applied.map_err(failed(format!("{what}: apply")))?,
        };
        // Where somebody's webhook makes something else of it each time, it is what it was.
        let changed = live.is_none_or(|live| live.resource_version() != written.resource_version());
        Ok(changed.then_some(what))
    }
}

/// Puts the spec of `desired` in the place of the live one, of the version that was seen: what somebody set beside it may not go together
/// with it, as `minAvailable` with `maxUnavailable`, and an apply leaves that where it is. `None` if that is refused too.
async fn replace_spec<K>(api: &Api<K>, desired: &K) -> Option<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + DeserializeOwned + Clone + Debug,
{
    let spec = value_of(desired).ok()?.get("spec").cloned()?;
    let patch = json!([
        { "op": "replace", "path": "/metadata/resourceVersion", "value": desired.resource_version() },
        { "op": "replace", "path": "/spec", "value": spec },
    ]);
    let patch = Patch::Json::<()>(serde_json::from_value(patch).ok()?);
    api.patch(&desired.name_any(), &patching(), &patch).await.ok()
}

fn differs<K: Resource<DynamicType = ()> + Serialize>(desired: &K, live: &K) -> Result<bool, ApplyError> {
    Ok(!covers(&value_of(live)?, &value_of(desired)?))
}

pub(super) fn value_of<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Result<Value, ApplyError> {
    serde_json::to_value(object).map_err(kube::Error::SerdeError).map_err(failed(K::kind(&())))
}

/// The object with the hash of what it asks for. How many pods a set runs, and what its claims were made from, are not asked for.
pub fn marked<K: Resource<DynamicType = ()> + Serialize>(mut object: K) -> K {
    let mut asked = serde_json::to_value(&object).unwrap_or(Value::Null);
    if let Some(spec) = asked.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("replicas");
        spec.remove("volumeClaimTemplates");
    }
    // serde_json writes a map's keys in order, so equal objects have equal text.
    let digest = Sha256::digest(asked.to_string());
    let hash: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    object.annotations_mut().insert(APPLIED.to_owned(), hash);
    object
}
