//! What happens to every cluster some day: a pod goes, a machine goes.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{KUBERNETES, REBALANCE};
use crate::command;
use crate::kubernetes::{current_condition, name, text};
use crate::world::World;

/// The pod comes back under its name, on its volume, with its identity.
pub fn delete_pod(world: &mut World) -> Result<String> {
    let pods = world.pods(&world.cluster)?;
    let (pod, object) = pods.iter().next().context("the cluster has no pods")?;
    let node = world.node_id(pod)?;
    let uid = text(object, "/metadata/uid").to_owned();
    world.kubernetes.kubectl(&["delete", "pod", pod, "--wait=false"])?;
    command::until("the pod's successor", KUBERNETES, || {
        let now = world.pods(&world.cluster)?;
        Ok(match now.get(pod) {
            Some(successor) if text(successor, "/metadata/uid") != uid => Ok(()),
            Some(_) => Err("the old pod is still there".to_owned()),
            None => Err("no pod has the name".to_owned()),
        })
    })?;
    let told = world.await_settled(&world.cluster, 3, REBALANCE)?;
    let now = world.node_id(pod)?;
    ensure!(now == node, "{pod} was node {node} and came back as {now}");
    Ok(format!("{pod} is node {node} again; {told}"))
}

/// `kubectl drain`: the pod moves to another Kubernetes node, its volume follows.
pub fn drain(world: &mut World) -> Result<String> {
    let node = storage_node(world)?;
    world.kubernetes.kubectl_within(KUBERNETES, &["drain", &node, "--ignore-daemonsets", "--delete-emptydir-data"])?;
    let told = world.await_settled(&world.cluster, 3, REBALANCE)?;
    world.kubernetes.kubectl(&["uncordon", &node])?;
    Ok(format!("{node} was drained; {told}"))
}

/// A Kubernetes node with one of the three storage pods on it loses its power until Kubernetes has noticed, then boots. With two
/// of them on it no write could have its quorum, so the drained node's pod goes back first.
pub fn power_cut(world: &mut World) -> Result<String> {
    spread(world)?;
    let machine = world.machine()?;
    let node = storage_node(world)?;
    let held = pods_by_node(world)?.remove(&node).unwrap_or_default();
    ensure!(held.len() == 1, "{node} holds {held:?}; one is what this step cuts off");
    machine.kill(&node)?;
    await_node(world, &node, false)?;
    let during = world.cluster_object()?;
    machine.boot(&node)?;
    await_node(world, &node, true)?;
    let told = world.await_settled(&world.cluster, 3, REBALANCE)?;
    Ok(format!("{node} with {} was off; meanwhile {}; {told}", held[0], condition(&during, "Degraded")))
}

/// The lowest pod fits on no Kubernetes node, and a change of the template is what it needs: here that it tolerates nodes that are closed. The
/// StatefulSet controller would give it to those above first, which may not be restarted while this one is down.
pub fn cure(world: &mut World) -> Result<String> {
    const CLOSED: &str = "node.kubernetes.io/unschedulable";
    let nodes: Vec<String> = world.kubernetes.list("nodes", "")?.iter().map(|node| name(node).to_owned()).collect();
    let all = |verb| -> Vec<&str> { std::iter::once(verb).chain(nodes.iter().map(String::as_str)).collect() };
    world.kubernetes.kubectl(&all("cordon"))?;
    let ill = format!("{}-0", world.cluster);
    world.kubernetes.kubectl(&["delete", "pod", &ill, "--wait=false"])?;
    world.await_cluster(&world.cluster, "to say that a pod is not scheduled", KUBERNETES, |cluster| {
        let told = current_condition(cluster, "Degraded").map_or("", |degraded| text(degraded, "/message"));
        Ok(told.contains(&ill) && told.contains("is not scheduled"))
    })?;
    world.patch_spec(&json!({ "pod": { "tolerations": [{ "key": CLOSED, "operator": "Exists", "effect": "NoSchedule" }] } }))?;
    command::until("all pods to have the new template", REBALANCE, || {
        let pods = world.pods(&world.cluster)?;
        let tolerates = |pod: &&Value| pod.pointer("/spec/tolerations").is_some_and(|all| all.to_string().contains(CLOSED));
        let have_it = pods.values().filter(tolerates).count();
        Ok(if have_it == 3 { Ok(()) } else { Err(format!("{have_it} of {} have it", pods.len())) })
    })?;
    let told = world.await_settled(&world.cluster, 3, REBALANCE)?;
    world.kubernetes.kubectl(&all("uncordon"))?;
    let pods = world.pods(&world.cluster)?;
    let made: Vec<&str> = pods.values().map(|pod| text(pod, "/metadata/creationTimestamp")).collect();
    ensure!(made.iter().all(|other| *other >= made[0]), "another pod was restarted before the one that lay idle: {made:?}");
    let set = world.kubernetes.get(&format!("statefulset/{}", world.cluster))?;
    let strategy = text(&set, "/spec/updateStrategy/type");
    ensure!(strategy == "RollingUpdate", "the set was left with {strategy}");
    Ok(format!("{ill} first, then the others: made at {made:?}; {told}"))
}

/// Which storage pods lie on which Kubernetes node.
pub fn pods_by_node(world: &World) -> Result<BTreeMap<String, Vec<String>>> {
    let mut nodes = BTreeMap::<String, Vec<String>>::new();
    for (pod, object) in world.pods(&world.cluster)? {
        nodes.entry(text(&object, "/spec/nodeName").to_owned()).or_default().push(pod);
    }
    Ok(nodes)
}

/// Kubernetes moves no running pod to a node that is free again; a deleted one it starts there. One is enough: before the drain
/// the three pods lay on three nodes, after it they lie on two.
fn spread(world: &World) -> Result<()> {
    let Some(pod) = pods_by_node(world)?.into_values().find(|pods| pods.len() > 1).and_then(|mut pods| pods.pop()) else {
        return Ok(());
    };
    world.kubernetes.kubectl_within(KUBERNETES, &["delete", "pod", &pod])?;
    command::until("the pods to lie on a node each", KUBERNETES, || {
        let nodes = pods_by_node(world)?;
        Ok(if nodes.len() == 3 && !nodes.contains_key("") { Ok(()) } else { Err(format!("{nodes:?}")) })
    })?;
    world.kubernetes.kubectl_within(KUBERNETES, &["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=60s"])?;
    world.await_settled(&world.cluster, 3, REBALANCE)?;
    Ok(())
}

/// A Kubernetes node with a storage pod on it, other than node0, which has the control plane and the test's own way in.
fn storage_node(world: &World) -> Result<String> {
    let pods = world.pods(&world.cluster)?;
    let nodes = pods.values().map(|pod| text(pod, "/spec/nodeName"));
    nodes.into_iter().find(|node| *node != "node0").map(str::to_owned).context("all pods are on node0")
}

/// Waits until Kubernetes finds a node ready, or gone.
pub fn await_node(world: &World, node: &str, ready: bool) -> Result<()> {
    let what = if ready { "to be Ready" } else { "to be noticed as gone" };
    command::until(&format!("{node} {what}"), KUBERNETES, || {
        let object = world.kubernetes.get(&format!("node/{node}"))?;
        let now = condition(&object, "Ready");
        Ok(if now.starts_with("Ready True") == ready { Ok(()) } else { Err(now) })
    })
}

/// A condition as `Type Status (Reason)`.
pub fn condition(object: &Value, kind: &str) -> String {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    match conditions.iter().find(|condition| text(condition, "/type") == kind) {
        Some(condition) => format!("{kind} {} ({})", text(condition, "/status"), text(condition, "/reason")),
        None => format!("no condition {kind} on {}", name(object)),
    }
}
