//! The operator's chart, and what the API server knows about a `DynamoCluster` before any node exists.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use super::READY;
use crate::kubernetes::name;
use crate::world::{NAMESPACE, OPERATOR, OPERATOR_NAMESPACE, World};

/// The example that the scenario lives on.
const EXAMPLE: &str = "crds/examples/minimal.yaml";

/// `helm install`, in namespaces that take only pods of the restricted Pod Security Standard.
pub fn operator_chart(world: &mut World) -> Result<String> {
    let kubernetes = &world.kubernetes;
    kubernetes.create_namespace(OPERATOR_NAMESPACE)?;
    kubernetes.create_namespace(NAMESPACE)?;
    let chart = kubernetes.path("charts/dynamo-operator");
    let words = ["install", OPERATOR, &chart, "--namespace", OPERATOR_NAMESPACE, "--wait", "--timeout", "3m"];
    let notes = kubernetes.helm(&words, Duration::from_secs(200))?;
    ensure!(notes.contains("kubectl"), "the chart's notes name no next command:\n{notes}");
    let pods = kubernetes.kubectl(&["get", "pods", "-n", OPERATOR_NAMESPACE, "--no-headers"])?;
    Ok(pods.trim().to_owned())
}

/// The chart as above, unless a scenario before this one has installed it.
pub fn ensure_operator(world: &mut World) -> Result<String> {
    let there = world.kubernetes.try_kubectl(&["get", "deployment", OPERATOR, "-n", OPERATOR_NAMESPACE], "")?;
    if there.status.success() { Ok("the operator is there".to_owned()) } else { operator_chart(world) }
}

/// Every field has a sentence.
pub fn explain(world: &mut World) -> Result<String> {
    let paths = ["", ".spec", ".spec.replication", ".spec.zones", ".spec.storage", ".spec.storage.retention", ".spec.buckets"];
    let more = [".spec.pod", ".spec.settings", ".spec.podDisruptionBudget", ".status", ".status.members"];
    for path in paths.iter().chain(&more) {
        let text = world.kubernetes.kubectl(&["explain", &format!("dynamocluster{path}")])?;
        ensure!(text.contains("DESCRIPTION"), "kubectl explain dynamocluster{path} says nothing:\n{text}");
        ensure!(!text.contains("<no description>"), "a field of dynamocluster{path} has no description:\n{text}");
    }
    Ok(format!("{} paths", paths.len() + more.len()))
}

/// Invalid at creation: the message names the field, and what to do.
pub fn wrong_clusters(world: &mut World) -> Result<String> {
    let replication = |n: i32, r: i32, w: i32| json!({ "factor": n, "r": r, "w": w });
    let long = "a".repeat(41);
    let cases: [(&str, Value, &str, &str); 9] = [
        ("few", json!({ "replicas": 2 }), "spec.replicas", "raise spec.replicas"),
        ("tiny", json!({ "storage": { "size": "1Mi" } }), "spec.storage.size", "raise it"),
        ("high-r", json!({ "replication": replication(3, 4, 2) }), "spec.replication.r", "lower r"),
        ("high-w", json!({ "replication": replication(3, 2, 4) }), "spec.replication.w", "lower w"),
        ("no-w", json!({ "replication": replication(3, 2, 0) }), "spec.replication.w", "greater than or equal to 1"),
        ("odd-q", json!({ "partitions": 1000 }), "spec.partitions", "power of two"),
        ("typo", json!({ "replcas": 3 }), "spec.replcas", "not declared"),
        ("bucket-w", json!({ "buckets": [{ "name": "carts", "w": 4 }] }), "spec.buckets", "lower them"),
        (&long, json!({}), "metadata.name", "shorter name"),
    ];
    let mut told = Vec::new();
    for (name, change, field, fix) in cases {
        let mut spec = json!({ "image": "localhost/dynamo-node:dev" });
        merge(&mut spec, change);
        let manifest = json!({
            "apiVersion": "dynamokv.io/v1alpha1", "kind": "DynamoCluster", "metadata": { "name": name }, "spec": spec,
        });
        let said = world.kubernetes.refusal(&manifest.to_string())?;
        ensure!(said.contains(field) && said.contains(fix), "{name}: the message must say '{field}' and '{fix}':\n{said}");
        told.push(said.lines().last().unwrap_or_default().trim().to_owned());
    }
    Ok(told.join("\n"))
}

/// `kubectl apply` of the example, as the README shows it.
pub fn main_cluster(world: &mut World) -> Result<String> {
    let applied = world.kubernetes.apply(&world.kubernetes.read(EXAMPLE)?)?;
    world.cluster = name(&applied).to_owned();
    let told = world.await_settled(&world.cluster, 3, READY)?;
    world.dynamoctl = Some(world.dynamoctl_of(&world.cluster)?);
    let listed = world.kubernetes.kubectl(&["get", "dkv"])?;
    let header: Vec<&str> = listed.lines().next().unwrap_or_default().split_whitespace().collect();
    let columns = ["NAME", "READY", "REASON", "NODES", "EPOCH", "REBALANCE", "AGE"];
    ensure!(header == columns, "the columns of kubectl get dkv:\n{listed}");
    Ok(format!("{told}\n{}", listed.trim_end()))
}

/// Invalid as a change of the running cluster.
pub fn wrong_changes(world: &mut World) -> Result<String> {
    let cluster = format!("dynamocluster/{}", world.cluster);
    let cases = [
        (json!({ "partitions": 2048 }), "spec.partitions", "set it back"),
        (json!({ "replication": { "factor": 2 } }), "spec.replication.factor", "set it back"),
        (json!({ "zones": [{ "name": "elsewhere" }] }), "spec.zones", "set them back"),
        (json!({ "storage": { "storageClassName": "local" } }), "spec.storage.storageClassName", "set it back"),
        (json!({ "storage": { "storageClassName": "" } }), "spec.storage.storageClassName", "set it back"),
    ];
    let mut told = Vec::new();
    for (change, field, fix) in cases {
        let patch = json!({ "spec": change }).to_string();
        let words = ["patch", &cluster, "--type=merge", "--dry-run=server", "--patch", &patch];
        told.push(refused(world, &words, field, fix)?);
    }
    told.push(refused(world, &["scale", &cluster, "--replicas=2"], "spec.replicas", "raise spec.replicas")?);
    // What the operator alone may change, by both ways that lead there.
    let (set, instead) = (format!("statefulset/{}", world.cluster), format!("kubectl scale dkv {}", world.cluster));
    let patch = json!({ "spec": { "replicas": 1 } }).to_string();
    for words in [&["scale", &set, "--replicas=1"][..], &["patch", &set, "--type=merge", "--patch", &patch]] {
        told.push(refused(world, words, "DynamoCluster", &instead)?);
    }
    let patch = json!({ "spec": { "updateStrategy": { "rollingUpdate": { "partition": 1 } } } }).to_string();
    let words = ["patch", &set, "--type=merge", "--patch", &patch];
    told.push(refused(world, &words, "DynamoCluster", &format!("kubectl patch dkv {}", world.cluster))?);
    Ok(told.join("\n"))
}

fn refused(world: &World, words: &[&str], field: &str, fix: &str) -> Result<String> {
    let output = world.kubernetes.try_kubectl(words, "")?;
    let said = output.text();
    if output.status.success() {
        bail!("kubectl {} was accepted:\n{said}", words.join(" "));
    }
    ensure!(said.contains(field) && said.contains(fix), "the message must say '{field}' and '{fix}':\n{said}");
    Ok(said.lines().last().unwrap_or_default().trim().to_owned())
}

/// The fields of `change` into `object`.
pub fn merge(object: &mut Value, change: Value) {
    if let (Some(object), Value::Object(change)) = (object.as_object_mut(), change) {
        object.extend(change);
    }
}
