//! Real data and a running workload, while the cluster grows and shrinks.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{ALL_DATA, REBALANCE, life};
use crate::command;
use crate::kubernetes::{number, text};
use crate::world::{OPERATOR_NAMESPACE, World};

/// Hints are delivered and the last differences repaired, once nobody writes any more.
const CONVERGENCE: Duration = Duration::from_secs(120);
const ANSWER: Duration = Duration::from_secs(30);

/// The package index goes in, and every stanza comes back as it was.
pub fn import(world: &mut World) -> Result<String> {
    let file = world.packages.display().to_string();
    let imported = world.dynamoctl()?.run(&["import", &file], ALL_DATA)?;
    Ok(format!("{imported}\n{}", verify(world)?))
}

/// Every stanza is read and compared.
pub fn verify(world: &mut World) -> Result<String> {
    let file = world.packages.display().to_string();
    world.dynamoctl()?.run(&["verify", &file], ALL_DATA)
}

/// It runs from here on.
pub fn start_workload(world: &mut World) -> Result<String> {
    world.start_workload()?;
    Ok(String::new())
}

/// Three to five. The operator's pod is killed as soon as new pods exist: nothing of the change lives in its memory.
pub fn grow(world: &mut World) -> Result<String> {
    let before = uids(world)?;
    world.scale(5)?;
    world.await_cluster(&world.cluster, "to have new pods", REBALANCE, |cluster| Ok(number(cluster, "/status/replicas") > 3))?;
    world.kubernetes.kubectl(&["delete", "pods", "--all", "-n", OPERATOR_NAMESPACE, "--grace-period=0", "--force"])?;
    let told = world.await_settled(&world.cluster, 5, REBALANCE)?;
    let after = uids(world)?;
    ensure!(before.iter().all(|uid| after.contains(uid)), "a pod that was there was replaced: {before:?} became {after:?}");
    Ok(told)
}

/// Five to three. When the first pod is given up, the ring has long done without the leaving nodes.
pub fn shrink(world: &mut World) -> Result<String> {
    world.scale(3)?;
    let fewer = |_: &Value| Ok(world.pods_wanted(&world.cluster)? < 5);
    world.await_cluster(&world.cluster, "to give up a pod", REBALANCE, fewer)?;
    // The Service may still lead to a pod that is ending, and then nobody answers.
    let dynamoctl = world.dynamoctl()?;
    let shown = || Ok(dynamoctl.json(&["ring", "show"], ANSWER).map_err(|error| format!("{error:#}")));
    let ring = command::until("a node to show the ring", ANSWER, shown)?;
    let members = ring.get("members").and_then(Value::as_array).map_or(0, Vec::len);
    ensure!(members == 3, "a pod was given up while the ring had {members} members: {ring}");
    let told = world.await_settled(&world.cluster, 3, REBALANCE)?;
    ensure!(world.restarts(&world.cluster)? == 0, "a node's container was restarted");
    Ok(told)
}

/// The workload stops and checks what it remembers.
pub fn finish_workload(world: &mut World) -> Result<String> {
    let report = world.workload.take().context("the workload never started")?.finish()?;
    Ok(format!("{}\n{}", figures(&report), life::stop_watching(world)?))
}

/// Digests of every partition on all of its replicas.
pub fn replicas_equal(world: &mut World) -> Result<String> {
    let dynamoctl = world.dynamoctl()?;
    command::until("equal replicas", CONVERGENCE, || {
        Ok(dynamoctl.run(&["ring", "verify"], ALL_DATA).map_err(|error| format!("{error:#}")))
    })
}

/// The UIDs of the cluster's pods.
pub fn uids(world: &World) -> Result<Vec<String>> {
    let pods = world.pods(&world.cluster)?;
    Ok(pods.values().map(|pod| text(pod, "/metadata/uid").to_owned()).collect())
}

/// What the workload went through, in lines.
fn figures(report: &Value) -> String {
    let failed = report.get("failed").and_then(Value::as_object);
    let failed: Vec<String> = failed.into_iter().flatten().map(|(kind, count)| format!("{count} {kind}")).collect();
    format!(
        "{}\n{} operations in {:.0} s: {} ok, {} of unknown outcome, failed: {}; at most {} siblings\nlongest time without success: {} ms",
        text(report, "/verdict"),
        number(report, "/operations"),
        report.get("seconds").and_then(Value::as_f64).unwrap_or_default(),
        number(report, "/ok"),
        number(report, "/unknown"),
        if failed.is_empty() { "none".to_owned() } else { failed.join(", ") },
        number(report, "/siblings_max"),
        number(report, "/longest_without_success_ms"),
    )
}
