//! What is applied in every pass, whatever the step: services, configuration, pod templates, sizes of volumes. None of it moves
//! data or removes a pod for good, so a shrink that is blocked does not hold back a new image or setting.

use std::collections::BTreeMap;
use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::difference::covers;
use super::{ApplyError, FIELD_MANAGER, failed, patching};
use crate::build::{client_service, config_map, headless_service, pod_disruption_budget, service_account, stateful_set};
use crate::observe::Live;
use crate::observed::Observed;
use crate::plan::rollout::{ZoneState, spares_a_pod, zones_to_update};
use crate::quantity;
use crate::valid::{ValidCluster, Zone};

/// Annotation with the hash of what was applied last. It tells when a field is to go, which a comparison with the live object
/// cannot: there it looks like a default.
const APPLIED: &str = "dynamokv.io/applied-hash";

/// What a pass of upkeep did.
#[derive(Debug, Default)]
pub struct Upkeep {
    /// The objects that were written, as "Service cart".
    pub written: Vec<String>,
    /// What could not be done and holds nothing else up.
    pub complaints: Vec<String>,
    /// Zones whose new pod template waits for its turn.
    pub waiting: Vec<String>,
}

/// Makes the objects what they should be.
pub async fn upkeep(client: &Client, cluster: &ValidCluster, observed: &Observed, live: &Live) -> Result<Upkeep, ApplyError> {
    let mut done = Upkeep::default();
    if !observed.taken.is_empty() {
        return Ok(done);
    }
    let writer = Writer { client, namespace: &cluster.namespace };
    done.written.extend(writer.apply(service_account::build(cluster), live.service_account.as_ref()).await?);
    done.written.extend(writer.apply(config_map::build(cluster), live.config_map.as_ref()).await?);
    done.written.extend(writer.apply(headless_service::build(cluster), live.headless_service.as_ref()).await?);
    done.written.extend(writer.apply(client_service::build(cluster), live.client_service.as_ref()).await?);
    let budget = pod_disruption_budget::build(cluster);
    done.written.extend(writer.apply(budget, live.pod_disruption_budget.as_ref()).await?);
    update_sets(&writer, cluster, observed, live, &mut done).await?;
    grow_volumes(client, cluster, observed, &mut done).await;
    Ok(done)
}

/// A set that is missing is created by a step, with the number of pods that the planner wants.
async fn update_sets(
    writer: &Writer<'_>,
    cluster: &ValidCluster,
    observed: &Observed,
    live: &Live,
    done: &mut Upkeep,
) -> Result<(), ApplyError> {
    let mut states = BTreeMap::new();
    let mut desired = BTreeMap::new();
    for zone in cluster.zones() {
        let (Some(set), Some(seen)) = (live.sets.get(&zone.name), observed.sets.get(&zone.name)) else { continue };
        let mut wanted = marked(wanted_set(cluster, zone, set, seen.replicas));
        // It says how many pods run, by this look: where the set has changed since, it would bring an old number back.
        wanted.metadata.uid = Some(seen.uid.clone());
        wanted.metadata.resource_version = Some(seen.resource_version.clone());
        let pods = || observed.pods.iter().filter(|(place, _)| place.zone == zone.name);
        let healthy = pods().all(|(_, pod)| pod.ready) && pods().count() == seen.replicas as usize;
        let state = ZoneState {
            differs: differs(&wanted, set)?,
            rolling: seen.rolling,
            healthy,
            spares_a_pod: spares_a_pod(cluster, observed, &zone.name),
        };
        states.insert(zone.name.clone(), state);
        desired.insert(zone.name.as_str(), (wanted, set));
    }
    // A set whose controller is behind may roll out a template or not: that has to be known first.
    let unseen = observed.sets.values().any(|set| set.unseen);
    let now = if unseen { Vec::new() } else { zones_to_update(&states) };
    let waiting = states.iter().filter(|(zone, state)| state.differs && !now.contains(&zone.as_str()));
    done.waiting = waiting.map(|(zone, _)| zone.clone()).collect();
    for zone in now {
        if let Some((wanted, set)) = desired.remove(zone) {
            done.written.extend(writer.apply_marked(wanted, Some(set)).await?);
        }
    }
    Ok(())
}

fn wanted_set(cluster: &ValidCluster, zone: &Zone, live: &StatefulSet, replicas: u32) -> StatefulSet {
    let claims = live.spec.as_ref().and_then(|spec| spec.volume_claim_templates.as_deref());
    stateful_set::build(cluster, zone, replicas, claims)
}

/// A class that cannot grow volumes is a complaint, not an error: the rest of the cluster goes on.
async fn grow_volumes(client: &Client, cluster: &ValidCluster, observed: &Observed, done: &mut Upkeep) {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &cluster.namespace);
    let wanted = &cluster.storage.size;
    for (place, volume) in &observed.volumes {
        let used = observed.pods.contains_key(place) && !volume.deleting;
        if !used || quantity::parse(&volume.size).is_none_or(|size| Some(size) >= quantity::parse(wanted)) {
            continue;
        }
        let name = cluster.claim_name(place);
        let patch = json!({
            "metadata": { "uid": volume.uid, "resourceVersion": volume.resource_version },
            "spec": { "resources": { "requests": { "storage": wanted } } },
        });
        match claims.patch(&name, &patching(), &Patch::Merge(patch)).await {
            Ok(_) => done.written.push(format!("PersistentVolumeClaim {name}")),
            Err(error) => done.complaints.push(format!("volume {name} cannot grow to {wanted}: {error}")),
        }
    }
}

struct Writer<'a> {
    client: &'a Client,
    namespace: &'a str,
}

impl Writer<'_> {
    async fn apply<K>(&self, desired: K, live: Option<&K>) -> Result<Option<String>, ApplyError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + DeserializeOwned + Clone + Debug,
    {
        self.apply_marked(marked(desired), live).await
    }

    /// Applies `desired` if `live` is not that already; says what was written.
    async fn apply_marked<K>(&self, desired: K, live: Option<&K>) -> Result<Option<String>, ApplyError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + DeserializeOwned + Clone + Debug,
    {
        if let Some(live) = live
            && !differs(&desired, live)?
        {
            return Ok(None);
        }
        let name = desired.name_any();
        let what = format!("{} {name}", K::kind(&()));
        let api: Api<K> = Api::namespaced(self.client.clone(), self.namespace);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        api.patch(&name, &params, &Patch::Apply(&desired)).await.map_err(failed(format!("{what}: apply")))?;
        Ok(Some(what))
    }
}

fn differs<K: Resource<DynamicType = ()> + Serialize>(desired: &K, live: &K) -> Result<bool, ApplyError> {
    let value = |object: &K| serde_json::to_value(object).map_err(kube::Error::SerdeError).map_err(failed(K::kind(&())));
    Ok(!covers(&value(live)?, &value(desired)?))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::valid::tests::valid;

    /// What the API server would return: the object, with defaults.
    fn stored(set: &StatefulSet) -> StatefulSet {
        let mut value = serde_json::to_value(set).unwrap();
        value["metadata"]["uid"] = "1".into();
        value["spec"]["minReadySeconds"] = 0.into();
        value["spec"]["template"]["spec"]["dnsPolicy"] = "ClusterFirst".into();
        value["spec"]["volumeClaimTemplates"][0]["spec"]["volumeMode"] = "Filesystem".into();
        value["spec"]["volumeClaimTemplates"][0]["status"] = serde_json::json!({ "phase": "Pending" });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_set_that_was_applied_and_scaled_is_not_applied_again() {
        let cluster = valid(3, &[]);
        let zone = &cluster.zones()[0];
        let mut live = stored(&marked(stateful_set::build(&cluster, zone, 3, None)));
        live.spec.as_mut().unwrap().replicas = Some(5);
        assert!(!differs(&marked(wanted_set(&cluster, zone, &live, 5)), &live).unwrap());
    }

    #[test]
    fn a_field_that_is_to_go_and_a_change_by_hand_are_differences() {
        let mut with = valid(3, &[]);
        with.resources = serde_json::from_str(r#"{"requests":{"cpu":"1"}}"#).unwrap();
        let without = valid(3, &[]);
        let zone = &with.zones()[0];
        let live = stored(&marked(stateful_set::build(&with, zone, 3, None)));
        assert!(!differs(&marked(wanted_set(&with, zone, &live, 3)), &live).unwrap());
        assert!(differs(&marked(wanted_set(&without, zone, &live, 3)), &live).unwrap(), "resources are to go");
        let mut edited = live;
        edited.spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers[0].image = Some("other".into());
        assert!(differs(&marked(wanted_set(&with, zone, &edited, 3)), &edited).unwrap(), "somebody changed the image");
    }
}
