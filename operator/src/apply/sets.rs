//! Writing StatefulSets: how many pods they run, and what those pods are.
//!
//! A set is posted, and changed by patches that carry the version that was seen, and never applied. An apply makes what is not there
//! and takes what is; one that comes late, from an operator that stood still, would set back how many pods a set runs whose nodes
//! have joined meanwhile. A patch also replaces a template whole, so that a field which is left out goes, whoever set it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::difference::covers;
use super::upkeep::{APPLIED, Upkeep, marked, value_of, was_written_for_something_else};
use super::{ApplyError, failed, patching, posting};
use crate::build::{labels, pod, stateful_set};
use crate::observe::Live;
use crate::observed::{Observed, Set};
use crate::plan::configuration;
use crate::plan::rollout::{Rollout, Told, ZoneState, zones_to_update};
use crate::valid::{ValidCluster, Zone};

/// What of a set is kept as it should be. How many pods it runs is a step's affair, and the rest never changes.
const KEPT: [&str; 7] = [
    "/metadata/labels",
    "/metadata/annotations",
    "/metadata/ownerReferences",
    "/spec/template",
    "/spec/updateStrategy",
    "/spec/persistentVolumeClaimRetentionPolicy",
    "/spec/revisionHistoryLimit",
];

/// Tells the sets of `zones` how many pods to run; one that is missing is made. What fails in one zone holds up no other.
///
/// A set that somebody deleted may have left its pods, with members in them: the new one takes them on, and would restart all that do not
/// have its template. So it begins as if it had told none of them, and a rollout goes on from there.
pub(super) async fn set_replicas(
    client: &Client,
    cluster: &ValidCluster,
    observed: &Observed,
    zones: &BTreeMap<String, u32>,
) -> Result<(), ApplyError> {
    let mut failures = Vec::new();
    for (zone, replicas) in cluster.zones().iter().filter_map(|zone| Some((zone, *zones.get(&zone.name)?))) {
        failures.extend(set_replicas_of(client, cluster, observed, (zone, replicas)).await.err());
    }
    ApplyError::together(failures)
}

async fn set_replicas_of(
    client: &Client,
    cluster: &ValidCluster,
    observed: &Observed,
    (zone, replicas): (&Zone, u32),
) -> Result<(), ApplyError> {
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), &cluster.namespace);
    let name = cluster.set_name(&zone.name);
    let what = format!("StatefulSet {name}: replicas {replicas}");
    let Some(seen) = observed.sets.get(&zone.name) else {
        let rollout = Rollout::of(cluster, observed, &BTreeSet::new());
        let from = if rollout.has_nothing_to_lose(&zone.name) { 0 } else { replicas };
        let set = updating(&marked(built(cluster, observed, zone, replicas)), Told::From(from));
        return sets.create(&posting(), &set).await.map(|_| ()).map_err(failed(what));
    };
    // Replicas and their mark, nothing else: a new template goes its own way, one zone at a time.
    let mut patch = json!({ "metadata": { "uid": seen.uid, "resourceVersion": seen.resource_version } });
    let lowers = replicas < seen.replicas;
    if lowers && !observed.is_marked_to_lower(&zone.name, replicas) {
        // Marked now, lowered in the next pass: who joins a node there in between takes the marks off, and that pass is refused.
        patch["metadata"]["annotations"] = json!({ labels::LOWERING: replicas.to_string() });
        if seen.lowering != Some(replicas) {
            sets.patch(&name, &patching(), &Patch::Merge(patch)).await.map_err(failed(what))?;
        }
        return mark_volumes(client, cluster, observed, (&zone.name, replicas), labels::DRAINED_NEXT).await;
    }
    if lowers {
        mark_volumes(client, cluster, observed, (&zone.name, replicas), labels::DRAINED_YES).await?;
    }
    patch["metadata"]["annotations"] = json!({ labels::LOWERING: null });
    patch["spec"] = json!({ "replicas": replicas });
    sets.patch(&name, &patching(), &Patch::Merge(patch)).await.map(|_| ()).map_err(failed(what))
}

/// Marks the volumes of the zone that its first so many pods leave behind and whose nodes gave a drain receipt, unless they are.
async fn mark_volumes(
    client: &Client,
    cluster: &ValidCluster,
    observed: &Observed,
    (zone, pods): (&str, u32),
    mark: &str,
) -> Result<(), ApplyError> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &cluster.namespace);
    for (place, volume) in observed.proven_volumes(zone, pods) {
        if volume.drained || (volume.draining && mark == labels::DRAINED_NEXT) {
            continue;
        }
        let name = cluster.claim_name(place);
        let receipt = observed.receipt_of(volume).map(|receipt| {
            let (partitions, objects) = receipt.handed_over_in_all();
            let (node, epoch, hash) = (receipt.node.to_string(), receipt.epoch.0, receipt.ring_hash.to_string());
            json!({ "node": node, "epoch": epoch, "ringHash": hash, "partitions": partitions, "objects": objects }).to_string()
        });
        let patch = json!({ "metadata": {
            "uid": volume.uid,
            "resourceVersion": volume.resource_version,
            "annotations": { labels::DRAINED: mark, labels::DRAIN_RECEIPT: receipt },
        } });
        let what = format!("PersistentVolumeClaim {name}: mark as drained");
        claims.patch(&name, &patching(), &Patch::Merge(patch)).await.map_err(failed(what))?;
    }
    Ok(())
}

/// Makes the sets that are there what they should be, one zone's template at a time and pod after pod; says whether no pod was told anything,
/// so that what was seen still holds. One that is missing is made by a step, with the number of pods that the planner wants. No pod is told
/// anything before the ConfigMap is there that it would read. A set that is refused keeps no other from it, but one of which nobody knows
/// whether it was written does: its pods may have been told to restart.
pub(super) async fn update(
    client: &Client,
    cluster: &ValidCluster,
    observed: &Observed,
    live: &Live,
    is_configured: bool,
    done: &mut Upkeep,
) -> bool {
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), &cluster.namespace);
    let Some(bent) = straighten(&sets, live, done).await else { return false };
    let mut wanted = BTreeMap::new();
    for zone in cluster.zones() {
        let (Some(set), Some(seen)) = (live.sets.get(&zone.name), observed.sets.get(&zone.name)) else { continue };
        let made = marked(with_selector_of(set, built(cluster, observed, zone, seen.replicas)));
        let differs = would_change(&sets, &updating(&made, told_before(seen)), set).await.unwrap_or_else(|failure| {
            done.failures.push(failure);
            false
        });
        wanted.insert(zone.name.as_str(), Wanted { made, set, seen, differs });
    }
    let differing = wanted.iter().filter(|(_, wanted)| wanted.differs).map(|(zone, _)| *zone).collect();
    let rollout = Rollout::of(cluster, observed, &differing);
    let states = wanted.iter().map(|(zone, wanted)| ((*zone).to_owned(), wanted.state(zone, observed, &rollout))).collect();
    // A set whose controller is behind may roll out a template or not: that has to be known first.
    let waits = !is_configured || observed.sets.values().any(|set| set.unseen);
    let mut now = if waits { Vec::new() } else { zones_to_update(&states) };
    now.retain(|update| !bent.contains(update.zone));
    // Those that are given it in this pass too: nobody has seen yet what becomes of it.
    done.waiting = differing.iter().map(|zone| (*zone).to_owned()).collect();
    let begun =
        now.into_iter().map(|update| (update.zone, if update.idle_only { Told::OnDelete } else { rollout.first(update.zone) }));
    let goes_on = wanted.iter().filter(|(zone, wanted)| !waits && !wanted.differs && !bent.contains(*zone));
    let told: Vec<(&str, Told)> = begun.chain(goes_on.filter_map(|(zone, _)| Some((*zone, rollout.next(zone)?)))).collect();
    for (zone, told) in told {
        let Some(wanted) = wanted.get(zone) else { continue };
        match made_so(&sets, &updating(&wanted.made, told), wanted.set).await {
            Ok(None) => {}
            Ok(version) => {
                done.written.push(format!("StatefulSet {}", cluster.set_name(zone)));
                done.note_version(zone, version);
                // What this look says of restarts holds for one.
                return false;
            }
            Err(failure) => {
                let goes_on = failure.is_refusal();
                done.failures.push(failure);
                if !goes_on {
                    return false;
                }
            }
        }
    }
    bent.is_empty()
}

/// Makes `live` what is `wanted`, and says which version it has then; `None` if it is that already, or becomes nothing else.
async fn made_so(sets: &Api<StatefulSet>, wanted: &StatefulSet, live: &StatefulSet) -> Result<Option<String>, ApplyError> {
    let Some(patch) = difference(wanted, live)? else { return Ok(None) };
    let written = patched(sets, live, patch, &patching()).await?;
    Ok(written.resource_version().filter(|version| Some(version) != live.resource_version().as_ref()))
}

/// Sets back how pods are numbered, and for how long they have to be ready before the next is restarted, where somebody else has set it. A
/// set whose numbers begin later removes its first pods, with the members in them. The answer is the zones in which that is refused; nothing
/// if a set was written, or may have been, so that it has to be looked at first.
async fn straighten<'a>(sets: &Api<StatefulSet>, live: &'a Live, done: &mut Upkeep) -> Option<BTreeSet<&'a str>> {
    let is_bent = |set: &StatefulSet| {
        let spec = set.spec.as_ref();
        let start = spec.and_then(|spec| spec.ordinals.as_ref()?.start);
        start.is_some_and(|start| start > 0) || spec.and_then(|spec| spec.min_ready_seconds).is_some_and(|seconds| seconds > 0)
    };
    let (mut bent, mut is_known) = (BTreeSet::new(), true);
    for (zone, set) in live.sets.iter().filter(|(_, set)| is_bent(set)) {
        let patch = json!({
            "metadata": { "uid": set.uid(), "resourceVersion": set.resource_version() },
            "spec": { "ordinals": null, "minReadySeconds": 0 },
        });
        let what = format!("StatefulSet {}", set.name_any());
        match sets.patch(&set.name_any(), &patching(), &Patch::Merge(patch)).await {
            Ok(_) => {
                is_known = false;
                done.written.push(what);
            }
            Err(error) => {
                let failure = failed(format!("{what}: ordinals and minReadySeconds"))(error);
                is_known &= failure.is_refusal();
                done.failures.push(failure);
                bent.insert(zone.as_str());
            }
        }
    }
    is_known.then_some(bent)
}

/// The zones whose set was last written for something else than what is asked for now.
pub(super) fn outdated(cluster: &ValidCluster, live: &Live) -> Vec<String> {
    let is_outdated = |zone: &&Zone| {
        let set = live.sets.get(&zone.name);
        set.is_some_and(|set| was_written_for_something_else(&with_selector_of(set, stateful_set::build(cluster, zone, 0)), set))
    };
    cluster.zones().iter().filter(is_outdated).map(|zone| zone.name.clone()).collect()
}

/// Whether `live` is to be changed so that it is `wanted`.
///
/// A set may never be what it was told to be: a webhook changes what is written, say an image's name to its digest. So where this very
/// object was written last, the API server is asked what it would make of it now; if that is what is there, nothing differs. If it does
/// not tell, that is the failure, and the set is left as it is.
async fn would_change(sets: &Api<StatefulSet>, wanted: &StatefulSet, live: &StatefulSet) -> Result<bool, ApplyError> {
    let Some(patch) = difference(wanted, live)? else { return Ok(false) };
    if wanted.annotations().get(APPLIED) != live.annotations().get(APPLIED) {
        return Ok(true);
    }
    let made = patched(sets, live, patch, &patching().dry_run()).await?;
    let (made, live) = (value_of(&made)?, value_of(live)?);
    Ok(KEPT.iter().any(|at| made.pointer(at) != live.pointer(at)))
}

async fn patched(
    sets: &Api<StatefulSet>,
    live: &StatefulSet,
    patch: Value,
    params: &PatchParams,
) -> Result<StatefulSet, ApplyError> {
    let what = format!("StatefulSet {}: {}", live.name_any(), if params.dry_run { "dry run of an update" } else { "update" });
    let patch = serde_json::from_value(patch).map_err(kube::Error::SerdeError).map_err(failed(what.clone()))?;
    sets.patch(&live.name_any(), params, &Patch::Json::<()>(patch)).await.map_err(failed(what))
}

/// A set that is there, and what it should be.
struct Wanted<'a> {
    made: StatefulSet,
    set: &'a StatefulSet,
    seen: &'a Set,
    differs: bool,
}

impl Wanted<'_> {
    fn state(&self, zone: &str, observed: &Observed, rollout: &Rollout<'_>) -> ZoneState {
        let replicas = self.seen.replicas;
        let pods = || observed.pods.iter().filter(|(place, _)| place.zone == zone);
        ZoneState {
            differs: self.differs,
            rolling: rollout.is_under_way(zone),
            rests: rollout.rests(zone),
            healthy: pods().all(|(_, pod)| pod.ready) && pods().count() == replicas as usize,
            spares_a_pod: replicas == 0 || rollout.first(zone) != Told::From(replicas),
            idle: rollout.has_idle(zone),
        }
    }
}

/// The set of `zone`, whose pods read the ConfigMap that is the present one.
fn built(cluster: &ValidCluster, observed: &Observed, zone: &Zone, replicas: u32) -> StatefulSet {
    let mut set = stateful_set::build(cluster, zone, replicas);
    if let Some(spec) = &mut set.spec {
        pod::reading(&mut spec.template, &configuration::current(cluster, observed));
    }
    set
}

/// `made` with the selector of `live`, which cannot change: one of an earlier version is no difference.
fn with_selector_of(live: &StatefulSet, mut made: StatefulSet) -> StatefulSet {
    if let (Some(made), Some(live)) = (&mut made.spec, &live.spec) {
        made.selector = live.selector.clone();
    }
    made
}

/// The set, so many of whose pods get its template.
fn updating(set: &StatefulSet, told: Told) -> StatefulSet {
    let mut set = set.clone();
    if let Some(strategy) = set.spec.as_mut().and_then(|spec| spec.update_strategy.as_mut()) {
        match (told, &mut strategy.rolling_update) {
            (Told::From(from), Some(rolling)) => rolling.partition = i32::try_from(from).ok(),
            (Told::From(_), None) => {}
            (Told::OnDelete, _) => (strategy.type_, strategy.rolling_update) = (Some("OnDelete".to_owned()), None),
        }
    }
    set
}

/// Which of its pods get the template of a set, as it was seen.
fn told_before(seen: &Set) -> Told {
    if seen.on_delete { Told::OnDelete } else { Told::From(seen.updates_from) }
}

/// The JSON patch that makes of `live`, and of no other version of it, what is `wanted`; nothing if it is that already.
fn difference(wanted: &StatefulSet, live: &StatefulSet) -> Result<Option<Value>, ApplyError> {
    let (wanted, live) = (value_of(wanted)?, value_of(live)?);
    let part = |object: &Value, at: &str| object.pointer(at).cloned().unwrap_or_default();
    if KEPT.iter().all(|at| covers(&part(&live, at), &part(&wanted, at))) {
        return Ok(None);
    }
    let version = json!({ "op": "replace", "path": "/metadata/resourceVersion", "value": live["metadata"]["resourceVersion"] });
    let kept = KEPT.iter().map(|at| {
        let mut value = part(&wanted, at);
        if let (Value::Object(value), "/metadata/labels" | "/metadata/annotations", Value::Object(live)) =
            (&mut value, *at, part(&live, at))
        {
            // What somebody else noted stays.
            for (key, text) in live {
                value.entry(key).or_insert(text);
            }
        }
        json!({ "op": "add", "path": at, "value": value })
    });
    Ok(Some(std::iter::once(version).chain(kept).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::valid::tests::valid;

    /// What the API server would return: the object, with defaults.
    fn stored(set: &StatefulSet) -> StatefulSet {
        let mut value = serde_json::to_value(set).unwrap();
        value["metadata"]["uid"] = "1".into();
        value["metadata"]["resourceVersion"] = "7".into();
        value["spec"]["minReadySeconds"] = 0.into();
        value["spec"]["template"]["spec"]["dnsPolicy"] = "ClusterFirst".into();
        value["spec"]["volumeClaimTemplates"][0]["spec"]["volumeMode"] = "Filesystem".into();
        value["spec"]["volumeClaimTemplates"][0]["status"] = json!({ "phase": "Pending" });
        serde_json::from_value(value).unwrap()
    }

    fn made(cluster: &ValidCluster) -> StatefulSet {
        marked(stateful_set::build(cluster, &cluster.zones()[0], 3))
    }

    fn patch(cluster: &ValidCluster, live: &StatefulSet) -> Option<Value> {
        difference(&made(cluster), live).unwrap()
    }

    #[test]
    fn a_set_that_was_made_and_scaled_is_not_written_again_nor_for_a_larger_volume() {
        let mut cluster = valid(3, &[]);
        let mut live = stored(&made(&cluster));
        live.spec.as_mut().unwrap().replicas = Some(5);
        live.metadata.annotations.as_mut().unwrap().insert("example.org/note".into(), "somebody's".into());
        assert_eq!(patch(&cluster, &live), None);
        cluster.storage.size = "40Gi".into();
        assert_eq!(patch(&cluster, &live), None, "a live set's claim templates cannot change");
    }

    #[test]
    fn a_field_that_is_to_go_and_a_change_by_hand_are_differences() {
        let mut with = valid(3, &[]);
        with.resources = serde_json::from_str(r#"{"requests":{"cpu":"1"}}"#).unwrap();
        let live = stored(&made(&with));
        assert_eq!(patch(&with, &live), None);
        assert_ne!(patch(&valid(3, &[]), &live), None, "resources are to go");
        let mut edited = live;
        edited.spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers[0].image = Some("other".into());
        assert_ne!(patch(&with, &edited), None, "somebody changed the image");
    }

    #[test]
    fn a_patch_carries_the_version_that_was_seen_keeps_others_notes_and_says_nothing_of_pods_and_claims() {
        let cluster = valid(3, &[]);
        let mut live = stored(&made(&cluster));
        live.metadata.annotations.as_mut().unwrap().insert(labels::LOWERING.into(), "2".into());
        let mut tuned = cluster;
        tuned.settings.hint_after_ms = Some(100);
        let operations = patch(&tuned, &live).unwrap();
        let operations: BTreeMap<&str, &Value> =
            operations.as_array().unwrap().iter().map(|one| (one["path"].as_str().unwrap(), &one["value"])).collect();
        assert_eq!(operations["/metadata/resourceVersion"], "7");
        assert_eq!(operations["/metadata/annotations"][labels::LOWERING], "2");
        assert_eq!(operations.len(), 1 + KEPT.len());
        assert!(operations.keys().all(|at| !at.contains("replicas") && !at.contains("Claim") || at.contains("Policy")));
    }
}
