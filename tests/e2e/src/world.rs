//! What the scenario's steps work on: the API server, the machine's nodes, the programs, and the cluster under test.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::command;
use crate::dynamoctl::{Dynamoctl, Workload};
use crate::guard::Guard;
use crate::kubernetes::{Kubernetes, current_condition, name, number, text};
use crate::machine::Machine;
use crate::scenario::Metrics;

/// Where the operator is installed.
pub const OPERATOR_NAMESPACE: &str = "dynamokv-e2e-operator";
/// Where the clusters are.
pub const NAMESPACE: &str = "dynamokv-e2e";
/// The Helm release of the operator, and so the name of its Deployment.
pub const OPERATOR: &str = "dynamo-operator";
const IMAGES: [&str; 3] = ["dynamo-node", "dynamo-operator", "dynamoctl"];
const ANSWER: Duration = Duration::from_secs(60);

/// Everything that the steps share.
pub struct World {
    /// The API server.
    pub kubernetes: Kubernetes,
    /// None when the Kubernetes is somebody else's: then nobody pulls its plugs.
    pub machine: Option<Machine>,
    /// The name of the cluster that the scenario is about; empty until it is applied.
    pub cluster: String,
    /// `dynamoctl` for that cluster, once it serves.
    pub dynamoctl: Option<Dynamoctl>,
    /// The workload, while it runs.
    pub workload: Option<Workload>,
    /// What watches the cluster beside the steps, while it does.
    pub guard: Option<Guard>,
    /// What tells an autoscaler of a load, while there is one.
    pub metrics: Option<Metrics>,
    /// The real data: this machine's Debian package index.
    pub packages: PathBuf,
    program: PathBuf,
    folder: PathBuf,
}

impl World {
    /// Starts a Kubernetes on this machine, unless the environment names one.
    pub fn start() -> Result<Self> {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
        let built = built_programs()?;
        let folder = built.join("../e2e");
        fs::create_dir_all(&folder)?;
        let packages = folder.join("Packages");
        let script = repository.join(".ci/package-index").display().to_string();
        command::run_ok(&[script, packages.display().to_string()], "", Duration::from_secs(300))?;
        let given = env::var("DYNAMOKV_E2E_KUBECONFIG").unwrap_or_default();
        let (prefix, machine) = if given.is_empty() {
            let machine = Machine::start(&repository, env::var_os("KEEP").is_some_and(|keep| !keep.is_empty()))?;
            machine.load(&IMAGES.map(|image| built.join(format!("../images/{image}.tar"))))?;
            (machine.prefix(), Some(machine))
        } else {
            (vec!["env".to_owned(), format!("KUBECONFIG={given}")], None)
        };
        Ok(Self {
            kubernetes: Kubernetes::new(prefix, NAMESPACE, &repository),
            machine,
            cluster: String::new(),
            dynamoctl: None,
            workload: None,
            guard: None,
            metrics: None,
            packages,
            program: built.join("dynamoctl"),
            folder,
        })
    }

    /// `dynamoctl` for the cluster of this name, through its Service's address.
    pub fn dynamoctl_of(&self, cluster: &str) -> Result<Dynamoctl> {
        let service = self.kubernetes.get(&format!("service/{cluster}"))?;
        let address = text(&service, "/spec/clusterIP");
        if address.is_empty() || address == "None" {
            bail!("Service {cluster} has no address of its own");
        }
        Ok(Dynamoctl::new(&self.kubernetes, &self.program, &format!("{address}:7400")))
    }

    /// `dynamoctl` for the cluster that the scenario is about.
    pub fn dynamoctl(&self) -> Result<&Dynamoctl> {
        self.dynamoctl.as_ref().context("no cluster has become Ready yet")
    }

    /// Starts the workload against the cluster that the scenario is about, and what watches it.
    pub fn start_workload(&mut self) -> Result<()> {
        self.workload = Some(Workload::start(self.dynamoctl()?, &self.folder)?);
        self.guard = Some(Guard::start(&self.kubernetes, &self.cluster));
        Ok(())
    }

    /// A file of the run, for programs that it starts.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The Kubernetes nodes, where they are ours to do as we like with.
    pub fn machine(&self) -> Result<&Machine> {
        self.machine.as_ref().context("the Kubernetes nodes are not ours")
    }

    /// The present state of the cluster that the scenario is about.
    pub fn cluster_object(&self) -> Result<Value> {
        self.kubernetes.get(&format!("dynamocluster/{}", self.cluster))
    }

    /// The pods of a cluster, by name.
    pub fn pods(&self, cluster: &str) -> Result<BTreeMap<String, Value>> {
        let pods = self.kubernetes.list("pods", &format!("dynamokv.io/cluster={cluster}"))?;
        Ok(pods.into_iter().map(|pod| (name(&pod).to_owned(), pod)).collect())
    }

    /// Waits until a cluster is all that was asked for: `nodes` nodes, in the ring, serving, with no data on the move.
    pub fn await_settled(&self, cluster: &str, nodes: i64, limit: Duration) -> Result<String> {
        self.await_cluster(cluster, &format!("to settle with {nodes} nodes"), limit, |object| Ok(is_settled(object, nodes)))
    }

    /// Waits until `holds` of a cluster. How it is going is printed whenever that changes, and is the answer at the end.
    pub fn await_cluster(
        &self,
        cluster: &str,
        what: &str,
        limit: Duration,
        holds: impl Fn(&Value) -> Result<bool>,
    ) -> Result<String> {
        let mut last = String::new();
        command::until(&format!("{cluster} {what}"), limit, || {
            let object = self.kubernetes.get(&format!("dynamocluster/{cluster}"))?;
            let progress = progress(&object);
            if progress != last {
                println!("         {progress}");
                last.clone_from(&progress);
            }
            Ok(if holds(&object)? { Ok(progress) } else { Err(progress) })
        })
    }

    /// Waits until the cluster that the scenario is about moves data. A cluster that has settled with `nodes` was faster than the look.
    pub fn await_moving(&self, nodes: i64, limit: Duration) -> Result<String> {
        let moves = |object: &Value| Ok(number(object, "/status/partitionsMoving") > 0 || is_settled(object, nodes));
        self.await_cluster(&self.cluster, "to move data", limit, moves)
    }

    /// `kubectl scale` of the cluster that the scenario is about.
    pub fn scale(&self, replicas: i64) -> Result<()> {
        self.kubernetes.kubectl(&["scale", &format!("dkv/{}", self.cluster), &format!("--replicas={replicas}")]).map(|_| ())
    }

    /// Changes the spec of the cluster that the scenario is about.
    pub fn patch_spec(&self, spec: &Value) -> Result<()> {
        let patch = json!({ "spec": spec }).to_string();
        self.kubernetes.kubectl(&["patch", &format!("dkv/{}", self.cluster), "--type=merge", "--patch", &patch]).map(|_| ())
    }

    /// The identity of the node in a pod of the cluster that the scenario is about, by its status.
    pub fn node_id(&self, pod: &str) -> Result<String> {
        let cluster = self.cluster_object()?;
        let members = cluster.pointer("/status/members").and_then(Value::as_array).context("the status has no members")?;
        let member = members.iter().find(|member| text(member, "/pod") == pod).with_context(|| format!("{pod} is no member"))?;
        Ok(text(member, "/node").to_owned())
    }

    /// Pods that the cluster's StatefulSets ask for.
    pub fn pods_wanted(&self, cluster: &str) -> Result<i64> {
        let sets = self.kubernetes.list("statefulsets", &format!("dynamokv.io/cluster={cluster}"))?;
        Ok(sets.iter().map(|set| number(set, "/spec/replicas")).sum())
    }

    /// How often containers of the cluster's pods were restarted.
    pub fn restarts(&self, cluster: &str) -> Result<i64> {
        let pods = self.pods(cluster)?;
        Ok(pods.values().map(|pod| number(pod, "/status/containerStatuses/0/restartCount")).sum())
    }

    /// What helps to understand a failure.
    pub fn diagnosis(&self) -> String {
        let mut text = String::new();
        let everything = "dynamoclusters,statefulsets,pods,persistentvolumeclaims,services,poddisruptionbudgets";
        let deployment = format!("deployment/{OPERATOR}");
        let sections: [&[&str]; 6] = [
            &["get", everything, "-o", "wide"],
            &["get", "dynamoclusters", "-o", "yaml"],
            &["get", "nodes", "-o", "wide"],
            &["logs", "-n", OPERATOR_NAMESPACE, &deployment, "--tail=150"],
            &["logs", "-l", "app.kubernetes.io/name=dynamokv", "--prefix", "--tail=60", "--max-log-requests=20"],
            &["get", "events", "-A", "--sort-by=.lastTimestamp"],
        ];
        for words in sections {
            text += &format!("\n--- kubectl {}\n", words.join(" "));
            let output = command::run(&self.kubernetes.argv(&[&["kubectl", "-n", NAMESPACE], words].concat()), "", ANSWER);
            text += &output.map_or_else(|error| format!("{error:#}"), |output| output.text());
        }
        text
    }
}

/// The folder of the programs that `make` built: that of this test program.
fn built_programs() -> Result<PathBuf> {
    let test = env::current_exe()?;
    let folder = test.parent().and_then(Path::parent).context("the test program lies in no target folder")?;
    if !folder.join("dynamoctl").exists() {
        bail!("{} has no dynamoctl; run the tests by: make e2e", folder.display());
    }
    Ok(folder.to_owned())
}

/// All conditions are as they are in peace, made for the present generation, and the numbers agree.
pub fn is_settled(object: &Value, nodes: i64) -> bool {
    let is_true = |kind| current_condition(object, kind).is_some_and(|condition| text(condition, "/status") == "True");
    let members = object.pointer("/status/members").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    is_true("Ready")
        && is_true("RingStable")
        && number(object, "/status/replicas") == nodes
        && number(object, "/status/readyReplicas") == nodes
        && number(object, "/status/partitionsMoving") == 0
        && members.len() as i64 == nodes
        && members.iter().all(|member| text(member, "/state") == "Active")
}

/// One line about how a cluster is.
fn progress(object: &Value) -> String {
    let conditions = ["Ready", "Progressing", "RingStable", "Degraded", "ScaleInBlocked"].map(|kind| {
        let condition = current_condition(object, kind);
        (kind, condition.map_or("?", |condition| text(condition, "/status")))
    });
    let shown: Vec<&str> = conditions.iter().filter(|(_, status)| *status == "True").map(|(kind, _)| *kind).collect();
    let rebalance = text(object, "/status/rebalance");
    format!(
        "{}/{} nodes serve, epoch {}, {}{}{}",
        number(object, "/status/readyReplicas"),
        number(object, "/spec/replicas"),
        number(object, "/status/epoch"),
        if shown.is_empty() { "no condition is true".to_owned() } else { shown.join(" ") },
        if rebalance.is_empty() { "" } else { ", " },
        rebalance,
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cluster(generation: i64, ready: &str, members: &[&str]) -> Value {
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "observedGeneration": 1});
        json!({
            "metadata": {"generation": generation},
            "spec": {"replicas": members.len()},
            "status": {
                "replicas": members.len(), "readyReplicas": members.len(), "epoch": 4,
                "conditions": [condition("Ready", ready), condition("RingStable", "True")],
                "members": members.iter().map(|state| json!({"state": state})).collect::<Vec<_>>(),
            },
        })
    }

    #[test]
    fn a_cluster_is_settled_only_by_the_status_of_its_present_generation() {
        let active = ["Active", "Active", "Active"];
        assert!(is_settled(&cluster(1, "True", &active), 3));
        assert!(!is_settled(&cluster(2, "True", &active), 3));
        assert!(!is_settled(&cluster(1, "False", &active), 3));
        assert!(!is_settled(&cluster(1, "True", &active), 5));
        assert!(!is_settled(&cluster(1, "True", &["Active", "Active", "Standby"]), 3));
    }

    #[test]
    fn progress_is_one_line_with_what_is_true() {
        assert_eq!(progress(&cluster(1, "False", &["Active"])), "1/1 nodes serve, epoch 4, RingStable");
    }
}
