//! A HorizontalPodAutoscaler, as the chart makes it, on the DynamoCluster's scale subresource. The controller is Kubernetes' own; the
//! CPU that it reads is what the test says that the load takes, shared by the pods that the status' selector finds.

use std::fs;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{KUBERNETES, REBALANCE, install, life};
use crate::command;
use crate::kubernetes::{current_condition, name, number, text};
use crate::machine::METRICS;
use crate::world::{NAMESPACE, World};

const HELM: Duration = Duration::from_secs(240);
/// The Helm release, and so the cluster.
const NAME: &str = "autoscaled";
const HPA: &str = "horizontalpodautoscaler/autoscaled";
/// What each pod asks for, and at which share of it the autoscaler rests, so that a pod carries 60 millicores.
const REQUEST: &str = "100m";
const TARGET_PERCENT: u32 = 60;
/// Loads, in millicores, that 3 and 5 pods carry, and one for which 1 would do.
const FOR_THREE: u32 = 180;
const FOR_FIVE: u32 = 300;
const FOR_ONE: u32 = 50;

/// The metrics server; it ends with this.
pub struct Metrics(Child);

impl Drop for Metrics {
    fn drop(&mut self) {
        // It ends when its standard input is closed.
        drop(self.0.stdin.take());
        let _ = command::await_exit(&mut self.0, Duration::from_secs(10));
    }
}

/// The cluster of the chart. Its `replicas` belong to the autoscaler from the first moment.
pub fn begin(world: &mut World) -> Result<String> {
    install::ensure_operator(world)?;
    start_metrics(world)?;
    let autoscaling = json!({
        "enabled": true, "minReplicas": 3, "maxReplicas": 6, "targetCPUUtilizationPercentage": TARGET_PERCENT,
        "behavior": {
            "scaleUp": { "stabilizationWindowSeconds": 0, "policies": [{ "type": "Pods", "value": 2, "periodSeconds": 15 }] },
            "scaleDown": { "stabilizationWindowSeconds": 5, "policies": [{ "type": "Pods", "value": 2, "periodSeconds": 15 }] },
        },
    });
    let values = format!("autoscaling={autoscaling}");
    let set = format!("partitions=64,storage.size=1Gi,storage.retention.whenScaled=Delete,resources.requests.cpu={REQUEST}");
    let chart = world.kubernetes.path("charts/dynamo-cluster");
    world.kubernetes.helm(&["install", NAME, &chart, "--namespace", NAMESPACE, "--set", &set, "--set-json", &values], HELM)?;
    NAME.clone_into(&mut world.cluster);
    let told = life::fill(world, 3)?;
    let active = condition(world, "ScalingActive", "True", "")?;
    Ok(format!("{told}\n{active}"))
}

/// The load grows by two thirds.
pub fn up(world: &mut World) -> Result<String> {
    let told = follow(world, FOR_FIVE, 5)?;
    let object = world.kubernetes.kubectl(&["get", &format!("dkv/{NAME}"), "-o", "json", "--show-managed-fields"])?;
    let writer = writer_of_replicas(&serde_json::from_str(&object)?)?;
    ensure!(writer == "kube-controller-manager", "spec.replicas was set by {writer}");
    // Whoever upgrades the release does not set the size back.
    let chart = world.kubernetes.path("charts/dynamo-cluster");
    world.kubernetes.helm(&["upgrade", NAME, &chart, "--namespace", NAMESPACE, "--reuse-values"], HELM)?;
    let replicas = number(&world.cluster_object()?, "/spec/replicas");
    ensure!(replicas == 5, "helm upgrade set spec.replicas to {replicas}");
    world.kubernetes.helm(&["rollback", NAME, "1", "--namespace", NAMESPACE], HELM)?;
    let replicas = number(&world.cluster_object()?, "/spec/replicas");
    ensure!(replicas == 5, "helm rollback set spec.replicas to {replicas}");
    Ok(format!("{told}\nspec.replicas was set by {writer}, through the scale subresource"))
}

/// The load shrinks again.
pub fn down(world: &mut World) -> Result<String> {
    follow(world, FOR_THREE, 3)
}

/// The load grows, and shrinks while data moves for that.
pub fn oscillate(world: &mut World) -> Result<String> {
    set_load(world, FOR_FIVE)?;
    world.await_cluster(NAME, "to be told to grow", KUBERNETES, |cluster| Ok(number(cluster, "/spec/replicas") > 3))?;
    world.await_moving(5, REBALANCE)?;
    follow(world, FOR_THREE, 3)
}

/// The autoscaler is allowed fewer than N, and wants them. The API server refuses, and the autoscaler tells why.
pub fn below_n(world: &mut World) -> Result<String> {
    let patch = json!({ "spec": { "minReplicas": 1 } }).to_string();
    world.kubernetes.kubectl(&["patch", HPA, "--type=merge", "--patch", &patch])?;
    set_load(world, FOR_ONE)?;
    let refused = condition(world, "AbleToScale", "False", "spec.replicas")?;
    let replicas = number(&world.cluster_object()?, "/spec/replicas");
    ensure!(replicas == 3, "spec.replicas became {replicas}");
    set_load(world, FOR_THREE)?;
    Ok(refused)
}

/// The release, and with it the autoscaler.
pub fn end(world: &mut World) -> Result<String> {
    world.kubernetes.helm(&["uninstall", NAME, "--namespace", NAMESPACE, "--wait", "--timeout", "3m"], HELM)?;
    let left = world.kubernetes.try_kubectl(&["get", HPA], "")?;
    ensure!(!left.status.success(), "the autoscaler is still there");
    world.kubernetes.kubectl(&["delete", "apiservice", "v1beta1.metrics.k8s.io"])?;
    world.metrics = None;
    Ok(String::new())
}

/// Sets the load and waits until the cluster has the size that it calls for.
fn follow(world: &World, load: u32, nodes: i64) -> Result<String> {
    set_load(world, load)?;
    let wanted = |cluster: &Value| Ok(number(cluster, "/spec/replicas") == nodes);
    world.await_cluster(NAME, &format!("to be told to have {nodes} nodes"), REBALANCE, wanted)?;
    let told = world.await_settled(NAME, nodes, REBALANCE)?;
    Ok(format!("{told}\n{}", world.kubernetes.kubectl(&["get", HPA])?.trim_end()))
}

fn set_load(world: &World, millicores: u32) -> Result<()> {
    let file = world.file("load");
    // In one step: a reader finds the former load or this one.
    fs::write(world.file("load.part"), millicores.to_string())?;
    fs::rename(world.file("load.part"), &file).with_context(|| file.display().to_string())
}

/// Waits until the autoscaler has a condition with this status whose message has `words`.
fn condition(world: &World, kind: &str, status: &str, words: &str) -> Result<String> {
    command::until(&format!("the autoscaler's condition {kind}={status}"), KUBERNETES, || {
        let hpa = world.kubernetes.get(HPA)?;
        let Some(condition) = current_condition(&hpa, kind) else { return Ok(Err(format!("there is no condition {kind}"))) };
        let said =
            format!("{kind} {} {}: {}", text(condition, "/status"), text(condition, "/reason"), text(condition, "/message"));
        Ok(if text(condition, "/status") == status && said.contains(words) { Ok(said) } else { Err(said) })
    })
}

/// Who owns spec.replicas, and did so through the scale subresource.
fn writer_of_replicas(cluster: &Value) -> Result<String> {
    let fields = cluster.pointer("/metadata/managedFields").and_then(Value::as_array).context("no managed fields")?;
    let scale = fields.iter().filter(|entry| text(entry, "/subresource") == "scale");
    let owner =
        scale.filter(|entry| entry.pointer("/fieldsV1/f:spec/f:replicas").is_some()).map(|entry| text(entry, "/manager")).next();
    owner.map(str::to_owned).with_context(|| format!("nobody has set the replicas of {} by its scale subresource", name(cluster)))
}

/// Registers metrics.k8s.io with the API server and starts what serves it.
fn start_metrics(world: &mut World) -> Result<()> {
    set_load(world, FOR_THREE)?;
    world.metrics = Some(Metrics(world.machine()?.start_metrics(&world.file("load"), &world.file("metrics.log"))?));
    let (address, port) = METRICS.split_once(':').context("an address and a port")?;
    let port: u16 = port.parse()?;
    let metadata = |name: &str| json!({ "name": name, "namespace": "kube-system" });
    let mut slice = metadata("metrics");
    slice["labels"] = json!({ "kubernetes.io/service-name": "metrics" });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata("metrics"), "spec": { "ports": [{ "name": "https", "port": 443, "targetPort": port }] },
    });
    let endpoints = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": slice, "addressType": "IPv4",
        "ports": [{ "name": "https", "port": port }], "endpoints": [{ "addresses": [address] }],
    });
    let api = json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": { "name": "v1beta1.metrics.k8s.io" },
        "spec": {
            "group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
            "insecureSkipTLSVerify": true, "service": { "name": "metrics", "namespace": "kube-system", "port": 443 },
        },
    });
    let system = world.kubernetes.in_namespace("kube-system");
    for object in [service, endpoints, api] {
        system.apply(&object.to_string())?;
    }
    world
        .kubernetes
        .kubectl_within(KUBERNETES, &["wait", "--for=condition=Available", "apiservice/v1beta1.metrics.k8s.io"])
        .map(|_| ())
}
