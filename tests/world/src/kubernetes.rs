//! The controllers of Kubernetes that the operator leans on: StatefulSet controller, kubelet, the protection of claims in use, and the
//! collector of what belongs to an object that is gone.
//!
//! Modelled after the real ones (kubernetes/kubernetes `pkg/controller/statefulset/stateful_set_control.go`), under
//! `podManagementPolicy: Parallel`:
//!
//! - Pods 0 to replicas - 1 are made all at once, each after its claim; a claim that is there is used, one that is being deleted is
//!   in the way of its pod, and so is a quota. A claim has the labels of its template and those of the set's selector. Claims are never
//!   deleted.
//! - A set of which a pod could not be made is left alone for a time that doubles, up to 1,000 s, unless the set or one of its pods changes.
//! - Pods from `replicas` on are deleted at once, whatever they hold. That is what makes a wrong step of the operator visible.
//! - A new template goes from the highest ordinal down to `partition`: a pod of an older revision is deleted, and the next one only
//!   when all above it run and are ready. A pod that does not start holds up the rest. A new pod below `partition` has the template
//!   that all had before, the others the newest.
//! - With `OnDelete` none is deleted for its template, a new one has the newest, and `currentRevision` stays.
//! - Pods under its names that nobody controls, as a set leaves them that was deleted without them, are its own from then on.
//! - `currentRevision` becomes `updateRevision` when every pod has it and is ready.
//! - A container starts when the ConfigMaps are there that its pod mounts, and reads them as they are then, also where it starts again in
//!   the same pod.
//! - A pod that is deleted ends after its grace; one that is killed goes at once. A claim that a pod uses goes when the pod has gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use dynamo_api_server::{ApiServer, number, text};

/// The name of an image that no registry has.
pub const IMAGE_MISSING: &str = "missing";
/// The name of an image of an earlier version, which does not know [`SETTING_NEW`]: its process ends at once.
pub const IMAGE_EARLIER: &str = "earlier";
/// A line of the nodes' file.
pub const SETTING_NEW: &str = "clock_skew_ms_max";
/// Where the cluster is.
pub const NAMESPACE: &str = "shop";
/// Where StatefulSets are.
pub const SETS: &str = "/apis/apps/v1/namespaces/shop/statefulsets";
/// Where pods are.
pub const PODS: &str = "/api/v1/namespaces/shop/pods";
/// Where claims are.
pub const CLAIMS: &str = "/api/v1/namespaces/shop/persistentvolumeclaims";
/// Where ConfigMaps are.
pub const CONFIG_MAPS: &str = "/api/v1/namespaces/shop/configmaps";
/// Where a set says from which ordinal on pods get its template.
const PARTITION: &str = "/spec/updateStrategy/rollingUpdate/partition";
/// What keeps a claim that a pod uses.
const PROTECTION: &str = "kubernetes.io/pvc-protection";

/// Rounds from a pod's making to its node's start.
const START: u64 = 3;
/// Rounds from its start until it can be ready.
const READY: u64 = 3;
/// Rounds that a pod takes to end.
const GRACE: u64 = 3;
/// Rounds that a set is left alone at most when its pods cannot be made: 1,000 s.
const SLEEP_MAX: u64 = 20_000;

/// What the controllers do to nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Happening {
    /// A pod's process starts on the volume of this claim.
    Started {
        /// Its name.
        pod: String,
        /// Its zone.
        zone: String,
        /// The claim's UID.
        claim: String,
        /// Its address.
        address: String,
        /// The nodes' file, as it reads it now.
        file: String,
    },
    /// A pod's process has ended.
    Stopped {
        /// Its name.
        pod: String,
        /// It could close its store.
        clean: bool,
    },
    /// The StatefulSet controller takes a pod down for a new template.
    Restarted(String),
    /// The volume of this claim is no more.
    Destroyed(String),
}

/// A set of which a pod could not be made.
#[derive(Default)]
struct Sleep {
    /// How often in a row.
    failures: u32,
    /// Until when it is left alone,
    until: u64,
    /// unless this is no longer so.
    versions: Vec<String>,
}

/// One kubelet for all pods, by UID.
#[derive(Default)]
struct Kubelet {
    starts: BTreeMap<String, u64>,
    ends: BTreeMap<String, u64>,
    addresses: u32,
}

/// API server and controllers.
#[derive(Default)]
pub struct Kubernetes {
    /// The API server.
    pub api: ApiServer,
    kubelet: Kubelet,
    round: u64,
    /// Pods that are kept from running, unless they have the image of this name.
    held: BTreeMap<String, Option<String>>,
    /// Pods that are not called ready whatever their nodes do, unless they have the image of this name.
    doubted: BTreeMap<String, Option<String>>,
    /// The sets' templates, by revision.
    templates: BTreeMap<String, Value>,
    /// Until which round the StatefulSet controller does nothing.
    pub controller_pauses_until: u64,
    /// A quota: no more pods are made than these.
    pub pods_max: Option<usize>,
    /// The sets that the StatefulSet controller leaves alone for a while.
    asleep: BTreeMap<String, Sleep>,
    happened: Vec<Happening>,
}

impl Kubernetes {
    /// Every controller has its turn. `answers` says whether a pod's node serves, which makes it ready.
    pub fn round(&mut self, answers: &dyn Fn(&str) -> bool) -> Vec<Happening> {
        self.round += 1;
        self.protect_claims();
        if self.round >= self.controller_pauses_until {
            let sets: Vec<String> = self.api.list(SETS).map(|(name, _)| format!("{SETS}/{name}")).collect();
            for set in sets {
                self.control(&set);
            }
        }
        // After the others: it notices last that an object is gone.
        self.collect_garbage();
        let pods: Vec<(String, Arc<Value>)> = self.api.list(PODS).map(|(name, pod)| (name.to_owned(), Arc::clone(pod))).collect();
        for (name, pod) in pods {
            self.keep(&name, &pod, answers(&name));
        }
        std::mem::take(&mut self.happened)
    }

    /// The round.
    pub fn now(&self) -> u64 {
        self.round
    }

    /// A pod dies at once, as with its machine.
    pub fn kill(&mut self, pod: &str) -> Vec<Happening> {
        let path = format!("{PODS}/{pod}");
        if let Some(object) = self.api.get(&path).cloned() {
            self.gone(pod, &object, false);
        }
        std::mem::take(&mut self.happened)
    }

    /// A pod dies, and its successors do not run: no machine takes them, but for one whose template has the image of this name.
    pub fn hold(&mut self, pod: &str, but: Option<&str>) -> Vec<Happening> {
        self.held.insert(pod.to_owned(), but.map(str::to_owned));
        self.kill(pod)
    }

    /// A pod is not called ready though its node serves, as for what runs beside it, but for one whose template has the image of this name.
    pub fn doubt(&mut self, pod: &str, but: Option<&str>) {
        self.doubted.insert(pod.to_owned(), but.map(str::to_owned));
    }

    /// The container of a pod that runs is killed for want of memory, again and again. The pod stays.
    pub fn starve(&mut self, pod: &str) -> Vec<Happening> {
        let state = json!({ "waiting": { "reason": "CrashLoopBackOff" } });
        let last = json!({ "terminated": { "reason": "OOMKilled", "exitCode": 137 } });
        let node = json!({
            "name": "node", "image": "", "imageID": "", "ready": false, "restartCount": 5, "state": state, "lastState": last,
        });
        self.api.edit(&format!("{PODS}/{pod}"), |pod| {
            pod["status"]["containerStatuses"] = json!([node]);
            pod["status"]["conditions"] = json!([{ "type": "Ready", "status": "False" }]);
        });
        self.happened.push(Happening::Stopped { pod: pod.to_owned(), clean: false });
        std::mem::take(&mut self.happened)
    }

    /// Its container runs again, on the same volume.
    pub fn feed(&mut self, pod: &str) -> Vec<Happening> {
        let (claim, object) =
            (self.api.get(&format!("{CLAIMS}/data-{pod}")).cloned(), self.api.get(&format!("{PODS}/{pod}")).cloned());
        if let (Some(claim), Some(object)) = (claim, object) {
            self.start(pod, &object, &claim);
        }
        std::mem::take(&mut self.happened)
    }

    /// Somebody deletes a set and leaves its pods: `kubectl delete statefulset --cascade=orphan`.
    pub fn orphan(&mut self, set: &str) {
        let path = format!("{SETS}/{set}");
        let Some(object) = self.api.get(&path).cloned() else { return };
        for pod in self.pods_of(&object).values() {
            self.api
                .edit(&format!("{PODS}/{}", text(pod, "/metadata/name")), |pod| pod["metadata"]["ownerReferences"] = json!([]));
        }
        self.api.remove(&path);
    }

    /// The pod's process ends as soon as it starts, again and again.
    pub fn crashes(&mut self, pod: &str) {
        self.does_not_start(pod, "CrashLoopBackOff");
    }

    fn does_not_start(&mut self, pod: &str, reason: &str) {
        let state = json!({ "waiting": { "reason": reason } });
        let node = json!({ "name": "node", "image": "", "imageID": "", "ready": false, "restartCount": 5, "state": state });
        self.api.edit(&format!("{PODS}/{pod}"), |pod| pod["status"]["containerStatuses"] = json!([node]));
    }

    /// It runs again, and is called ready for its node.
    pub fn release(&mut self, pod: &str) {
        self.held.remove(pod);
        self.doubted.remove(pod);
    }

    /// All pods run again.
    pub fn release_all(&mut self) {
        self.held.clear();
        self.doubted.clear();
        self.controller_pauses_until = 0;
        self.pods_max = None;
    }

    /// A claim and its volume are gone for ever, with their machine and the pod.
    pub fn lose_volume(&mut self, pod: &str) -> Vec<Happening> {
        let path = format!("{CLAIMS}/data-{pod}");
        let mut happened = self.kill(pod);
        if let Some(claim) = self.api.get(&path).cloned() {
            self.api.remove(&path);
            happened.push(Happening::Destroyed(text(&claim, "/metadata/uid").to_owned()));
        }
        happened
    }

    fn control(&mut self, path: &str) {
        let Some(set) = self.api.get(path).cloned() else { return };
        if self.asleep.get(path).is_some_and(|sleep| self.round < sleep.until && sleep.versions == self.versions_of(path)) {
            return;
        }
        let name = text(&set, "/metadata/name").to_owned();
        let replicas = number(&set, "/spec/replicas");
        let update = revision(&set);
        let current = match text(&set, "/status/currentRevision") {
            "" => update.clone(),
            current => current.to_owned(),
        };
        self.templates.entry(update.clone()).or_insert_with(|| set["spec"]["template"].clone());
        // Of new pods those from there on have the newest template, and of those that are there those from `restarted` on are to have it.
        let from = number(&set, PARTITION);
        let restarted = told_from(&set).min(replicas)..replicas;
        self.take_on_orphans(&set);
        let mut all_made = true;
        for ordinal in 0..replicas {
            all_made &= self.make_pod(&set, &format!("{name}-{ordinal}"), if ordinal < from { &current } else { &update });
        }
        let mut pods = self.pods_of(&set);
        for (_, pod) in pods.iter().filter(|(ordinal, _)| **ordinal >= replicas) {
            self.delete_pod(pod);
        }
        for (_, pod) in pods.iter().rev().filter(|(ordinal, _)| restarted.contains(ordinal)) {
            if pod_revision(pod) != update && !is_ending(pod) {
                self.happened.push(Happening::Restarted(text(pod, "/metadata/name").to_owned()));
                self.delete_pod(pod);
                break;
            }
            if !is_ready(pod) || is_ending(pod) {
                break;
            }
        }
        pods = self.pods_of(&set);
        let ready = pods.iter().filter(|(_, pod)| is_ready(pod)).count() as u32;
        let updated = pods.iter().filter(|(_, pod)| pod_revision(pod) == update).count() as u32;
        let count = pods.len() as u32;
        let complete = !is_on_delete(&set) && [updated, ready, count].iter().all(|number| *number == replicas);
        self.api.edit(path, |set| {
            set["status"] = json!({
                "observedGeneration": set["metadata"]["generation"], "replicas": count, "readyReplicas": ready, "updatedReplicas": updated,
                "currentRevision": if complete { &update } else { &current }, "updateRevision": update,
            });
        });
        if all_made {
            self.asleep.remove(path);
        } else {
            let versions = self.versions_of(path);
            let sleep = self.asleep.entry(path.to_owned()).or_default();
            sleep.until = self.round + (1 << sleep.failures.min(20)).min(SLEEP_MAX);
            sleep.failures += 1;
            sleep.versions = versions;
        }
    }

    /// What the StatefulSet controller watches of a set.
    fn versions_of(&self, path: &str) -> Vec<String> {
        let Some(set) = self.api.get(path) else { return Vec::new() };
        let pods = self.pods_of(set);
        let all = std::iter::once(set).chain(pods.values());
        all.map(|object| text(object, "/metadata/resourceVersion").to_owned()).collect()
    }

    fn pods_of(&self, set: &Value) -> BTreeMap<u32, Arc<Value>> {
        let pods = self
            .api
            .list(PODS)
            .filter(|(_, pod)| pod.pointer("/metadata/ownerReferences/0/uid") == Some(&set["metadata"]["uid"]));
        pods.filter_map(|(name, pod)| Some((name.rsplit_once('-')?.1.parse().ok()?, Arc::clone(pod)))).collect()
    }

    fn take_on_orphans(&mut self, set: &Value) {
        let named = |name: &str| name.rsplit_once('-').is_some_and(|(of, _)| of == text(set, "/metadata/name"));
        let orphans =
            self.api.list(PODS).filter(|(name, pod)| named(name) && pod.pointer("/metadata/ownerReferences/0").is_none());
        for name in orphans.map(|(name, _)| name.to_owned()).collect::<Vec<_>>() {
            self.api.edit(&format!("{PODS}/{name}"), |pod| pod["metadata"]["ownerReferences"] = json!([owner(set)]));
        }
    }

    /// Whether it is there in the end.
    fn make_pod(&mut self, set: &Value, name: &str, revision: &str) -> bool {
        if self.api.get(&format!("{PODS}/{name}")).is_some() {
            return true;
        }
        let claim = format!("data-{name}");
        match self.api.get(&format!("{CLAIMS}/{claim}")) {
            Some(claim) if is_ending(claim) => return false,
            Some(_) => {}
            None => {
                let template = &set["spec"]["volumeClaimTemplates"][0];
                let mut labels = template["metadata"]["labels"].clone();
                for (key, value) in set["spec"]["selector"]["matchLabels"].as_object().into_iter().flatten() {
                    labels[key] = value.clone();
                }
                let metadata = json!({
                    "name": claim, "labels": labels, "annotations": template["metadata"]["annotations"],
                    "finalizers": [PROTECTION],
                });
                let object = json!({ "metadata": metadata, "spec": template["spec"] });
                self.api.create(CLAIMS, object).expect("it is not there");
            }
        }
        if self.pods_max.is_some_and(|max| self.api.list(PODS).count() >= max) {
            return false;
        }
        let template = &self.templates[revision];
        let mut labels = template["metadata"]["labels"].clone();
        labels["controller-revision-hash"] = json!(revision);
        let pod = json!({
            "metadata": { "name": name, "labels": labels, "ownerReferences": [owner(set)], "finalizers": ["kubelet"] },
            "spec": {
                "containers": [{ "name": "node", "image": template["spec"]["containers"][0]["image"] }],
                "volumes": template["spec"]["volumes"],
            },
            "status": { "phase": "Pending" },
        });
        self.api.create(PODS, pod).expect("it is not there");
        true
    }

    fn delete_pod(&mut self, pod: &Value) {
        if !is_ending(pod) {
            let path = format!("{PODS}/{}", text(pod, "/metadata/name"));
            self.api.delete(&path, &Value::Null).expect("it is there");
        }
    }

    fn keep(&mut self, name: &str, pod: &Value, answers: bool) {
        let (uid, path) = (text(pod, "/metadata/uid").to_owned(), format!("{PODS}/{name}"));
        let runs = text(pod, "/status/phase") == "Running";
        if is_ending(pod) {
            let end = *self.kubelet.ends.entry(uid).or_insert(self.round + GRACE);
            if !runs || self.round >= end {
                self.gone(name, pod, true);
            }
            return;
        }
        let start = *self.kubelet.starts.entry(uid).or_insert(self.round + START);
        let has_image = |name: &str| text(pod, "/spec/containers/0/image").ends_with(&format!(":{name}"));
        let is_of =
            |pods: &BTreeMap<String, Option<String>>| pods.get(name).is_some_and(|but| !but.as_deref().is_some_and(has_image));
        let (is_held, answers) = (is_of(&self.held), answers && !is_of(&self.doubted));
        if !runs && has_image(IMAGE_MISSING) {
            if self.round == start {
                self.does_not_start(name, "ErrImagePull");
            }
        } else if !runs && is_held {
            if self.round == start {
                let why = json!({ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no machine takes it" });
                self.api.edit(&path, |pod| pod["status"]["conditions"] = json!([why]));
            }
        } else if !runs {
            let claim = self.api.get(&format!("{CLAIMS}/data-{name}")).filter(|claim| !is_ending(claim)).cloned();
            if self.round >= start
                && let Some(claim) = claim
            {
                self.start(name, pod, &claim);
            }
        } else if is_ready(pod) != answers && self.round >= start + READY {
            let status = if answers { "True" } else { "False" };
            self.api.edit(&path, |pod| pod["status"]["conditions"] = json!([{ "type": "Ready", "status": status }]));
        }
    }

    fn start(&mut self, name: &str, pod: &Value, claim: &Value) {
        let Some(file) = self.file_of(pod) else { return };
        if text(pod, "/spec/containers/0/image").ends_with(&format!(":{IMAGE_EARLIER}")) && file.contains(SETTING_NEW) {
            return self.crashes(name);
        }
        self.kubelet.starts.insert(text(pod, "/metadata/uid").to_owned(), self.round);
        self.kubelet.addresses += 1;
        let host = format!("10.0.{}.{}", self.kubelet.addresses / 250, self.kubelet.addresses % 250);
        let zone = pod.pointer("/metadata/labels/dynamokv.io~1zone").and_then(Value::as_str).unwrap_or_default().to_owned();
        self.happened.push(Happening::Started {
            pod: name.to_owned(),
            zone,
            claim: text(claim, "/metadata/uid").to_owned(),
            address: format!("{host}:7400"),
            file,
        });
        self.api.edit(&format!("{PODS}/{name}"), |pod| pod["status"] = json!({ "phase": "Running", "podIP": host }));
    }

    /// The nodes' file that the pod mounts, if it is there.
    fn file_of(&self, pod: &Value) -> Option<String> {
        let config_map = self.api.get(&format!("{CONFIG_MAPS}/{}", text(pod, "/spec/volumes/0/configMap/name")))?;
        Some(text(config_map, "/data/node.yaml").to_owned())
    }

    fn gone(&mut self, name: &str, pod: &Value, clean: bool) {
        if text(pod, "/status/phase") == "Running" {
            self.happened.push(Happening::Stopped { pod: name.to_owned(), clean });
        }
        self.api.remove(&format!("{PODS}/{name}"));
    }

    /// What belongs to an object that is gone goes too.
    fn collect_garbage(&mut self) {
        let uids: BTreeSet<&str> = self.api.objects().values().map(|object| text(object, "/metadata/uid")).collect();
        let orphaned = |object: &Value| {
            let owner = text(object, "/metadata/ownerReferences/0/uid");
            !owner.is_empty() && !uids.contains(owner) && !is_ending(object)
        };
        let orphans = self.api.objects().iter().filter(|(_, object)| orphaned(object));
        for path in orphans.map(|(path, _)| path.clone()).collect::<Vec<_>>() {
            self.api.delete(&path, &Value::Null).expect("it is there");
        }
    }

    fn protect_claims(&mut self) {
        let used = |name: &str| name.strip_prefix("data-").is_some_and(|pod| self.api.get(&format!("{PODS}/{pod}")).is_some());
        let ending = self.api.list(CLAIMS).filter(|(name, claim)| is_ending(claim) && !used(name));
        let free: Vec<(String, String)> =
            ending.map(|(name, claim)| (name.to_owned(), text(claim, "/metadata/uid").to_owned())).collect();
        for (name, uid) in free {
            self.api.remove(&format!("{CLAIMS}/{name}"));
            self.happened.push(Happening::Destroyed(uid));
        }
    }
}

/// The reference that makes `set` the owner of a pod.
fn owner(set: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "name": set["metadata"]["name"], "uid": set["metadata"]["uid"], "controller": true,
    })
}

/// The name of the set's template: equal templates have equal names.
pub fn revision(set: &Value) -> String {
    let text = set["spec"]["template"].to_string();
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{}-{hash:x}", dynamo_api_server::text(set, "/metadata/name"))
}

fn is_on_delete(set: &Value) -> bool {
    text(set, "/spec/updateStrategy/type") == "OnDelete"
}

/// From which ordinal on pods are restarted that do not have the set's template.
pub fn told_from(set: &Value) -> u32 {
    if is_on_delete(set) { u32::MAX } else { number(set, PARTITION) }
}

/// The name of the template that the pod was made from.
pub fn pod_revision(pod: &Value) -> &str {
    pod.pointer("/metadata/labels/controller-revision-hash").and_then(Value::as_str).unwrap_or_default()
}

/// It was deleted and is still there.
pub fn is_ending(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// Kubernetes calls the pod ready.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}
