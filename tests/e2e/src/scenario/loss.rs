//! What is gone for ever: a volume, a Kubernetes node, and both.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::disruption::{await_node, pods_by_node};
use super::{KUBERNETES, READY, REBALANCE, life};
use crate::command;
use crate::kubernetes::{current_condition, text};
use crate::world::{World, is_settled};

/// The cluster that loses a volume.
pub fn begin_volume(world: &mut World) -> Result<String> {
    life::begin(world, "volume-lost", json!({ "replicas": 3 }))
}

/// The cluster that loses a Kubernetes node; its volumes are on the network.
pub fn begin_node(world: &mut World) -> Result<String> {
    life::begin(world, "node-lost", json!({ "replicas": 4 }))
}

/// The cluster that loses a Kubernetes node with a volume.
pub fn begin_disk(world: &mut World) -> Result<String> {
    life::begin(world, "disk-lost", json!({ "replicas": 4, "storage": { "size": "1Gi", "storageClassName": "local" } }))
}

/// Somebody deletes a claim and its pod. What comes back is empty: another node, which takes the lost one's place.
pub fn volume(world: &mut World) -> Result<String> {
    let pod = format!("{}-1", world.cluster);
    let lost = world.node_id(&pod)?;
    delete_with_claim(world, &pod)?;
    replaced(world, &pod, &lost, 3)
}

/// 4 -> 3, and while data moves a Kubernetes node is switched off and removed, as somebody does with a machine that does not come back.
/// Kubernetes gives its pod to another node, and the pod finds its volume there.
pub fn node(world: &mut World) -> Result<String> {
    let before = claims(world)?;
    world.scale(3)?;
    world.await_moving(3, REBALANCE)?;
    let (node, pod) = lose_node(world)?;
    let told = world.await_settled(&world.cluster, 3, REBALANCE)?;
    ensure!(claims(world)? == before, "a volume was made or lost");
    give_back(world, &node)?;
    Ok(format!("{node} with {pod} was lost; {told}"))
}

/// As before, but the volume was on the node's disk: the pod waits for it until somebody says that it is gone for ever, by deleting
/// its claim.
pub fn disk(world: &mut World) -> Result<String> {
    world.scale(3)?;
    world.await_moving(3, REBALANCE)?;
    let (node, pod) = lose_node(world)?;
    let lost = world.node_id(&pod)?;
    command::until("the pod to wait for its volume", KUBERNETES, || {
        let pods = world.pods(&world.cluster)?;
        let Some(object) = pods.get(&pod) else { return Ok(Err("no pod has the name".to_owned())) };
        let now = format!("{} on {:?}", text(object, "/status/phase"), text(object, "/spec/nodeName"));
        Ok(if text(object, "/spec/nodeName").is_empty() { Ok(()) } else { Err(now) })
    })?;
    let cluster = world.cluster_object()?;
    let said = current_condition(&cluster, "Degraded").map(|condition| text(condition, "/message").to_owned());
    delete_with_claim(world, &pod)?;
    let told = replaced(world, &pod, &lost, 3)?;
    give_back(world, &node)?;
    Ok(format!("{node} with the volume of {pod} was lost: {}; {told}", said.unwrap_or_default()))
}

/// A volume goes for ever: its claim, and the pod that uses it.
pub fn delete_with_claim(world: &World, pod: &str) -> Result<()> {
    // The claim goes when no pod uses it any more, and so before a successor of the pod can have it.
    world.kubernetes.kubectl(&["delete", "persistentvolumeclaim", &format!("data-{pod}"), "--wait=false"])?;
    world.kubernetes.kubectl(&["delete", "pod", pod, "--wait=false"]).map(|_| ())
}

/// Waits until the cluster has settled without the lost node. A pod that was to leave anyway may be gone; one that stays holds another
/// node.
fn replaced(world: &World, pod: &str, lost: &str, nodes: i64) -> Result<String> {
    let without = |cluster: &serde_json::Value| is_settled(cluster, nodes) && !cluster.to_string().contains(lost);
    let told =
        world.await_cluster(&world.cluster, &format!("to settle without {lost}"), REBALANCE, |cluster| Ok(without(cluster)))?;
    let ordinal: i64 = pod.rsplit('-').next().and_then(|ordinal| ordinal.parse().ok()).context("a pod has an ordinal")?;
    if ordinal >= nodes {
        return Ok(format!("{pod} was to leave and is gone; {told}"));
    }
    let now = world.node_id(pod)?;
    ensure!(now != lost && !now.is_empty(), "{pod} came back as {now:?}");
    Ok(format!("{pod} was node {lost} and is node {now}; {told}"))
}

/// Switches off and removes a Kubernetes node with one storage pod: with two of them, W copies of some object would be gone at once.
fn lose_node(world: &World) -> Result<(String, String)> {
    let nodes = pods_by_node(world)?;
    let single = nodes.iter().find(|(node, pods)| *node != "node0" && pods.len() == 1);
    let (node, pods) = single.with_context(|| format!("no node but node0 has one storage pod: {nodes:?}"))?;
    world.machine()?.kill(node)?;
    await_node(world, node, false)?;
    world.kubernetes.kubectl_within(KUBERNETES, &["delete", "node", node])?;
    let pod = pods[0].clone();
    command::until("Kubernetes to give the pod up", READY, || {
        let pods = world.pods(&world.cluster)?;
        let on = pods.get(&pod).map(|pod| text(pod, "/spec/nodeName").to_owned());
        Ok(if on.as_ref() == Some(node) { Err(format!("{pod} is still on {node}")) } else { Ok(()) })
    })?;
    Ok((node.clone(), pod))
}

/// The machine comes back as a new one, for the scenarios after this.
fn give_back(world: &World, node: &str) -> Result<()> {
    world.machine()?.boot(node)?;
    await_node(world, node, true)
}

fn claims(world: &World) -> Result<BTreeSet<String>> {
    let claims = world.kubernetes.list("persistentvolumeclaims", &super::removal::selector(&world.cluster))?;
    Ok(claims.iter().map(|claim| text(claim, "/metadata/uid").to_owned()).collect())
}
