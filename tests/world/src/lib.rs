//! The operator and the nodes' protocol in one simulation: the real controller's passes meet nodes that really stream, hand over
//! and give receipts, and a Kubernetes that starts and removes pods as it is told.
//!
//! What is real: the operator from its pass on (finalizer, look, upkeep, step, events, status, with kube's client and its own
//! serialisation), and core's node. What is a model: the API server, the StatefulSet controller, the kubelet, disks, the network,
//! time. So every call that the operator makes is one that production makes, and each is a place where it can die, be refused,
//! time out, or meet what somebody else wrote.
//!
//! ```text
//!  scenario --users' steps-->  stage: API server + controllers + nodes + disks   <--faults-- seed
//!                                 ^  border: every call, judged by invariants
//!                                 '---------- operator: the real controller
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`dynamo_api_server`] | objects, versions, preconditions, and the past |
//! | [`kubernetes`] | StatefulSet controller, kubelet, claims in use |
//! | [`nodes`] | core's nodes, disks, messages |
//! | [`stage`] | all of these together |
//! | [`border`] | the operator's calls, and what goes wrong with them |
//! | [`operator`] | the operator's process |
//! | [`faults`] | what goes wrong, by a seed or at one call |
//! | [`misfortune`] | what befalls pods, volumes and specs |
//! | [`invariants`] | O1 to O10 |
//! | [`clients`] | writes, reads, what was acknowledged |
//! | [`history`] | what was written over what, and what may be read then |
//! | [`end_state`] | what two runs of a scenario must agree on |
//! | [`play`] | a scenario, from its first line to its end state |

pub mod border;
pub mod clients;
pub mod end_state;
pub mod faults;
pub mod history;
pub mod invariants;
pub mod kubernetes;
pub mod misfortune;
pub mod nodes;
pub mod operator;
pub mod play;
pub mod stage;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dynamo_core::id::NodeId;
use dynamo_core::ring::Ring;
use dynamo_core::storage::MemoryStorage;
use dynamo_operator::api::DynamoCluster;
use dynamo_scenarios::{Bucket, Create};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::faults::{CrashPoint, Faults};
use crate::kubernetes::{CLAIMS, Happening, PODS, SETS};
use crate::misfortune::Undo;
use crate::operator::{Operator, Outcome};
use crate::stage::{CLUSTERS, NAME, RECORD, Stage};
use dynamo_api_server::{number, text};

/// Rounds after which something that has to come to an end counts as stuck: ten simulated minutes.
pub const ROUNDS_MAX: u64 = 12_000;

/// The stage with the operator on it.
pub struct World {
    stage: Arc<Mutex<Stage>>,
    operators: Vec<Operator>,
    // Dropped after the operators, whose tasks it runs.
    runtime: Runtime,
    cluster: Arc<DynamoCluster>,
    /// When the operator that stands still goes on.
    resumes: u64,
    /// When the second operator ends.
    second_ends: u64,
    /// When somebody last changed something from outside.
    acted: u64,
    /// When the last pass began that came to its end.
    looked: u64,
    undo: BTreeMap<u64, Vec<Undo>>,
    value: u32,
}

impl World {
    /// A `DynamoCluster` has just been created.
    pub fn create(create: &Create, faults: Faults) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime without threads");
        let mut stage = Stage::new(faults);
        let object = object(create, stage.uid);
        let cluster: DynamoCluster = serde_json::from_value(object.clone()).expect("a spec of defaults");
        stage.kubernetes.api.create(CLUSTERS, object).expect("the namespace is empty");
        stage.check_round();
        let (stage, cluster) = (Arc::new(Mutex::new(stage)), Arc::new(cluster));
        let operators = vec![Operator::start(&stage, 0, Arc::clone(&cluster), &runtime, 0)];
        let undo = BTreeMap::new();
        Self { stage, operators, runtime, cluster, resumes: 0, second_ends: 0, acted: 0, looked: 0, undo, value: 0 }
    }

    /// A cluster of `replicas` nodes that has settled and holds `keys` keys.
    pub fn settled_with(replicas: u32, keys: u32) -> Self {
        let create = Create { replicas, ..Create::default() };
        let mut world = Self::create(&create, Faults::none());
        world.settle(|_| ());
        assert_eq!(world.write(keys), keys, "every write is acknowledged");
        world
    }

    /// All but the operator.
    pub fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A round: time passes, things go wrong, and whoever is due acts.
    pub fn round(&mut self) {
        let (fault, now, woken) = {
            let mut stage = self.stage();
            stage.round();
            (stage.faults.of_round(), stage.kubernetes.now(), std::mem::take(&mut stage.woken))
        };
        if let Some(fault) = fault {
            self.befall(fault);
        }
        self.undo_what_is_due(now);
        for number in 0..self.operators.len() {
            let operator = &mut self.operators[number];
            if woken {
                operator.wake(now);
            }
            let due = if operator.is_suspended() { self.resumes } else { operator.next };
            if now >= due {
                self.pass(number);
            }
        }
        if self.operators.len() > 1 && now >= self.second_ends && !self.operators[0].is_suspended() {
            self.operators.truncate(1);
        }
    }

    /// A pass of an operator, now.
    pub fn pass(&mut self, number: usize) -> Outcome {
        let now = self.stage().kubernetes.now();
        let outcome = self.operators[number].pass(&self.stage, &self.runtime, now);
        let second = {
            let mut stage = self.stage();
            stage.tell(|| format!("operator {number}: {outcome:?}"));
            if outcome == Outcome::Suspended { 10 + stage.faults.below(200) as u64 } else { 0 }
        };
        match outcome {
            Outcome::Suspended => {
                self.resumes = now + second;
                self.second_ends = self.resumes + second;
                self.operators.push(Operator::start(&self.stage, 1, Arc::clone(&self.cluster), &self.runtime, now + 1));
            }
            Outcome::Done(_) => self.looked = now,
            Outcome::Failed(_) | Outcome::Crashed => {}
        }
        self.check_copies();
        outcome
    }

    /// The operator's process dies and comes back; a second one ends.
    pub fn restart_operator(&mut self) {
        self.operators.truncate(1);
        let now = self.stage().kubernetes.now();
        self.stage().gates.clear();
        self.operators[0].restart(&self.stage, &self.runtime, now);
    }

    /// A user sets a field of the spec. What the API server refuses is the error.
    pub fn ask(&mut self, field: &str, value: Value) -> Result<(), String> {
        let asked = self.stage().ask(|spec| spec[field] = value);
        self.acts();
        asked.map_err(|refusal| format!("{refusal:?}"))
    }

    /// A user sets fields of the spec in one edit.
    pub fn ask_together(&mut self, fields: &[(&str, Value)]) -> Result<(), String> {
        let asked = self.stage().ask(|spec| fields.iter().for_each(|(field, value)| spec[*field] = value.clone()));
        self.acts();
        asked.map_err(|refusal| format!("{refusal:?}"))
    }

    /// A user scales the cluster.
    pub fn scale(&mut self, replicas: u32) {
        self.ask("replicas", json!(replicas)).expect("a number that is allowed");
    }

    /// A user deletes the cluster.
    pub fn delete(&mut self) {
        let mut stage = self.stage();
        stage.kubernetes.api.delete(&format!("{CLUSTERS}/{NAME}"), &Value::Null).expect("it is there");
        if stage.goes_with_its_volumes() {
            stage.forget_writes();
        }
        drop(stage);
        self.acts();
    }

    /// A user creates another cluster of the same name.
    pub fn create_again(&mut self, create: &Create) {
        {
            let mut stage = self.stage();
            stage.begin_another();
            let object = object(create, stage.uid);
            stage.kubernetes.api.create(CLUSTERS, object).expect("the former one is gone");
            stage.check_round();
        }
        self.begin_again();
    }

    /// A user creates the cluster again, with another UID, to go on with the former one's data.
    pub fn adopt(&mut self, create: &Create) {
        {
            let mut stage = self.stage();
            stage.begin_adopted();
            let mut object = object(create, stage.uid);
            object["spec"]["adoptCluster"] = stage.data_uid.into();
            stage.kubernetes.api.create(CLUSTERS, object).expect("the former one is gone");
            stage.check_round();
        }
        self.begin_again();
    }

    /// The operators hear of the cluster that has just been created.
    fn begin_again(&mut self) {
        let object = self.stage().cluster().expect("it was just created");
        self.cluster = Arc::new(serde_json::from_value(object).expect("a spec of defaults"));
        self.operators.iter_mut().for_each(|operator| operator.cluster = Arc::clone(&self.cluster));
        self.acts();
    }

    /// Somebody outside acts now: what was seen before says nothing any more.
    fn acts(&mut self) {
        let now = self.stage().kubernetes.now();
        self.acted = now;
    }

    /// A pod dies at once and comes back on its volume.
    pub fn kill(&mut self, pod: &str) {
        let mut stage = self.stage();
        let happened = stage.kubernetes.kill(pod);
        stage.happen(happened);
        drop(stage);
        self.acts();
    }

    /// A pod dies and does not run until it is released.
    pub fn hold(&mut self, pod: &str) {
        self.hold_but(pod, None);
    }

    /// A pod dies and does not run until it has the image of this name.
    pub fn hold_until(&mut self, pod: &str, image: &str) {
        self.hold_but(pod, Some(image));
    }

    fn hold_but(&mut self, pod: &str, image: Option<&str>) {
        let mut stage = self.stage();
        let happened = stage.kubernetes.hold(pod, image);
        stage.happen(happened);
        drop(stage);
        self.acts();
    }

    /// A pod is not ready until it is released, though its node serves.
    pub fn doubt(&mut self, pod: &str) {
        self.stage().kubernetes.doubt(pod, None);
        self.acts();
    }

    /// The same until it has the image of this name.
    pub fn doubt_until(&mut self, pod: &str, image: &str) {
        self.stage().kubernetes.doubt(pod, Some(image));
        self.acts();
    }

    /// It runs again, and is ready when its node is.
    pub fn release(&mut self, pod: &str) {
        self.stage().kubernetes.release(pod);
        self.acts();
    }

    /// The containers of these pods are killed for want of memory, again and again. The pods stay.
    pub fn starve(&mut self, pods: &[&str]) {
        let mut stage = self.stage();
        for pod in pods {
            let happened = stage.kubernetes.starve(pod);
            stage.happen(happened);
        }
        drop(stage);
        self.acts();
    }

    /// Their containers run again.
    pub fn feed(&mut self, pods: &[&str]) {
        let mut stage = self.stage();
        for pod in pods {
            let happened = stage.kubernetes.feed(pod);
            stage.happen(happened);
        }
        drop(stage);
        self.acts();
    }

    /// A pod's disk is emptied under the claim of before, and the pod starts anew.
    pub fn empty_disk(&mut self, pod: &str) {
        let mut stage = self.stage();
        let claim =
            stage.kubernetes.api.get(&format!("{CLAIMS}/data-{pod}")).map(|claim| text(claim, "/metadata/uid").to_owned());
        let mut happened = stage.kubernetes.kill(pod);
        happened.extend(claim.map(Happening::Destroyed));
        stage.happen(happened);
        drop(stage);
        self.acts();
    }

    /// The pods die at once, and the volumes of all that are in `backup` are as they were then, under the same claims.
    pub fn restore(&mut self, backup: BTreeMap<String, MemoryStorage>) {
        let mut stage = self.stage();
        let pods: Vec<String> = stage.nodes.running().keys().cloned().collect();
        for pod in pods {
            let happened = stage.kubernetes.kill(&pod);
            stage.happen(happened);
        }
        stage.nodes.restore(backup);
        stage.checks.forget_rings();
        drop(stage);
        self.acts();
    }

    /// A user deletes the record of the ring.
    pub fn delete_record(&mut self) {
        self.stage().kubernetes.api.remove(RECORD);
        self.acts();
    }

    /// A volume is gone for ever, with its claim and the pod.
    pub fn lose_volume(&mut self, pod: &str) {
        let mut stage = self.stage();
        let happened = stage.kubernetes.lose_volume(pod);
        stage.happen(happened);
        drop(stage);
        self.acts();
    }

    /// The node whose data is on the volume of this pod.
    pub fn node_of(&self, pod: &str) -> Option<NodeId> {
        let stage = self.stage();
        let claim = stage.kubernetes.api.get(&format!("{CLAIMS}/data-{pod}"))?;
        stage.nodes.on_claim(text(claim, "/metadata/uid"))
    }

    /// The recorded ring.
    pub fn ring(&self) -> Option<Ring> {
        self.stage().ring()
    }

    /// How many pods exist.
    pub fn pods(&self) -> usize {
        self.stage().kubernetes.api.list(PODS).count()
    }

    /// Of how many pods the container does not start.
    pub fn stuck(&self) -> usize {
        let stage = self.stage();
        let pods = stage.kubernetes.api.list(PODS);
        pods.filter(|(_, pod)| pod.pointer("/status/containerStatuses/0/state/waiting").is_some()).count()
    }

    /// How many claims the cluster has made.
    pub fn volumes(&self) -> usize {
        let stage = self.stage();
        let ours = |claim: &Value| {
            claim.pointer("/metadata/annotations/dynamokv.io~1cluster-uid").is_some_and(|uid| uid == stage.data_uid)
        };
        stage.kubernetes.api.list(CLAIMS).filter(|(_, claim)| ours(claim)).count()
    }

    /// A condition as (status, reason), and whether it answers this very spec.
    pub fn condition(&self, kind: &str) -> Option<(String, String, bool)> {
        let cluster = self.stage().cluster()?;
        let conditions = cluster.pointer("/status/conditions")?.as_array()?.clone();
        let condition = conditions.into_iter().find(|condition| condition["type"] == kind)?;
        let current = condition["observedGeneration"] == cluster["metadata"]["generation"];
        Some((text(&condition, "/status").to_owned(), text(&condition, "/reason").to_owned(), current))
    }

    /// A condition's message.
    pub fn message(&self, kind: &str) -> String {
        let cluster = self.stage().cluster().unwrap_or_default();
        let mut conditions = cluster.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
        conditions
            .find(|condition| condition["type"] == kind)
            .map(|condition| text(condition, "/message").to_owned())
            .unwrap_or_default()
    }

    /// Ready for this very spec, seen after whatever was done last, and really so.
    pub fn has_settled(&self) -> bool {
        if self.looked <= self.acted + 1 || self.operators.len() > 1 {
            return false;
        }
        if !matches!(self.condition("Ready"), Some((status, _, true)) if status == "True") {
            return false;
        }
        let stage = self.stage();
        let sets = stage.kubernetes.api.list(SETS).all(|(_, set)| {
            let replicas = number(set, "/spec/replicas");
            number(set, "/status/readyReplicas") == replicas && number(set, "/status/replicas") == replicas
        });
        sets && stage.kubernetes.api.get(RECORD).is_some()
    }

    /// Rounds until it has settled, `each` after each.
    pub fn settle(&mut self, mut each: impl FnMut(&mut Self)) {
        for _ in 0..ROUNDS_MAX {
            if self.has_settled() {
                self.stage().check_settings();
                self.expect_no_violation();
                return;
            }
            self.round();
            each(self);
        }
        panic!("not settled within {ROUNDS_MAX} rounds:\n{}", self.stage().trace());
    }

    /// From here on each process of the operator dies at its next call that changes something, after its effect; whether one just
    /// did.
    pub fn dies_at_its_next_call(&mut self) -> bool {
        let mut stage = self.stage();
        let died = stage.faults.counts().values().sum::<u64>();
        let call = stage.calls;
        stage.faults.die_at(CrashPoint { call, after: true });
        let before = std::mem::replace(&mut stage.died, died);
        died > before
    }

    /// The operator lives on.
    pub fn lives(&mut self) {
        self.stage().faults.stop();
    }

    /// No promise was broken so far.
    pub fn expect_no_violation(&self) {
        let stage = self.stage();
        assert!(stage.checks.violations.is_empty(), "{:?}\n{}", stage.checks.violations, stage.trace());
    }
}

fn object(create: &Create, uid: &str) -> Value {
    let policy = if create.deletes_volumes { "Delete" } else { "Retain" };
    let zones: Vec<Value> = create.zones.iter().map(|zone| json!({ "name": zone, "nodeSelector": { "zone": zone } })).collect();
    json!({
        "apiVersion": "dynamokv.io/v1alpha1", "kind": "DynamoCluster",
        "metadata": { "name": NAME, "namespace": kubernetes::NAMESPACE, "uid": uid },
        "spec": {
            "replicas": create.replicas, "partitions": create.partitions, "image": image(&create.image), "zones": zones,
            "replication": { "factor": create.factor }, "buckets": listed(&create.buckets),
            "storage": { "retention": { "whenScaled": policy } },
        },
    })
}

/// What spec.buckets is.
pub fn listed(buckets: &[Bucket]) -> Value {
    let entry = |bucket: &Bucket| {
        let mut entry = json!({ "name": bucket.name });
        bucket.fields().for_each(|(field, value)| entry[field] = json!(value));
        entry
    };
    buckets.iter().map(entry).collect()
}

/// The full name of a scenario's image.
pub fn image(name: &str) -> String {
    format!("localhost/dynamo-node:{name}")
}
