//! Operators that die, that freeze, and that are two.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{KUBERNETES, REBALANCE, life};
use crate::background::Repeated;
use crate::command;
use crate::kubernetes::{number, text};
use crate::world::{OPERATOR, OPERATOR_NAMESPACE, World};

/// Between two deaths of the operator. It has to wait for its predecessor's lease, which takes 15 s, so it has few to act in.
const BETWEEN_KILLS: Duration = Duration::from_secs(20);
/// For how long two operators act at least.
const TOGETHER: Duration = Duration::from_secs(60);
const HELM: Duration = Duration::from_secs(240);
/// The Helm release of the second operator.
const SECOND: &str = "second-operator";

/// The cluster whose operator dies.
pub fn begin_killed(world: &mut World) -> Result<String> {
    life::begin(world, "killed-operator", json!({ "replicas": 3 }))
}

/// The cluster that two operators look after.
pub fn begin_two(world: &mut World) -> Result<String> {
    life::begin(world, "two-operators", json!({ "replicas": 3 }))
}

/// The pod is killed for the first time as soon as data moves.
pub fn resize_while_killed(world: &mut World, nodes: i64) -> Result<String> {
    world.scale(nodes)?;
    world.await_moving(nodes, REBALANCE)?;
    let kubernetes = world.kubernetes.clone();
    let kill = move || {
        let words = ["delete", "pods", "--all", "-n", OPERATOR_NAMESPACE, "--grace-period=0", "--force"];
        kubernetes.kubectl(&words).map(|_| ())
    };
    let killer = Repeated::start(BETWEEN_KILLS, kill);
    let told = world.await_settled(&world.cluster, nodes, REBALANCE)?;
    let kills = killer.stop()?;
    Ok(format!("{told}\nthe operator was killed {kills} times"))
}

/// Two operators with an election. The leader freezes in the middle of a move for longer than its lease lasts; when it thaws it still
/// believes that it leads, and another does.
pub fn frozen_leader(world: &mut World) -> Result<String> {
    upgrade(world, 2)?;
    let leader = holder(world)?;
    world.scale(5)?;
    world.await_moving(5, REBALANCE)?;
    let pod = world.kubernetes.in_namespace(OPERATOR_NAMESPACE).get(&format!("pod/{leader}"))?;
    let started = Instant::now();
    world.machine()?.signal(&pod, "SIGSTOP")?;
    let successor = command::until("another operator to lead", KUBERNETES, || {
        let now = holder(world)?;
        Ok(if now.is_empty() || now == leader { Err(format!("the lease is held by {now:?}")) } else { Ok(now) })
    })?;
    let frozen = started.elapsed().as_secs();
    world.machine()?.signal(&pod, "SIGCONT")?;
    let told = world.await_settled(&world.cluster, 5, REBALANCE)?;
    command::until("the frozen operator to end", KUBERNETES, || {
        let pod = world.kubernetes.in_namespace(OPERATOR_NAMESPACE).get(&format!("pod/{leader}"))?;
        let restarts = number(&pod, "/status/containerStatuses/0/restartCount");
        Ok(if restarts > 0 { Ok(()) } else { Err("it has not been restarted".to_owned()) })
    })?;
    ensure!(holder(world)? == successor, "the lease went back to the one that was frozen");
    Ok(format!("{leader} froze for {frozen} s; {successor} followed; {told}"))
}

/// A second release without an election: both act on the same cluster, at the same time, while it shrinks and grows.
pub fn both_act(world: &mut World) -> Result<String> {
    upgrade(world, 1)?;
    let chart = world.kubernetes.path("charts/dynamo-operator");
    let set = "crds.install=false,rbac.aggregate=false,extraArgs={--leader-election=false}";
    let words = ["install", SECOND, &chart, "--namespace", OPERATOR_NAMESPACE, "--set", set, "--wait", "--timeout", "3m"];
    world.kubernetes.helm(&words, HELM)?;
    let started = Instant::now();
    let mut told = Vec::new();
    for nodes in [3, 4].into_iter().cycle() {
        world.scale(nodes)?;
        told.push(world.await_settled(&world.cluster, nodes, REBALANCE)?);
        if started.elapsed() >= TOGETHER {
            break;
        }
    }
    let acted = instances(world)?;
    world.kubernetes.helm(&["uninstall", SECOND, "--namespace", OPERATOR_NAMESPACE, "--wait", "--timeout", "3m"], HELM)?;
    ensure!(acted.iter().any(|pod| pod.starts_with(SECOND)), "the second operator did nothing; these acted: {acted:?}");
    told.push(format!("they acted together for {} s: {}", started.elapsed().as_secs(), Vec::from_iter(acted).join(", ")));
    Ok(told.join("\n"))
}

/// Sets how many pods the operator has.
fn upgrade(world: &World, replicas: u32) -> Result<()> {
    let chart = world.kubernetes.path("charts/dynamo-operator");
    let set = format!("replicas={replicas}");
    let words = ["upgrade", OPERATOR, &chart, "--namespace", OPERATOR_NAMESPACE, "--set", &set, "--wait", "--timeout", "3m"];
    world.kubernetes.helm(&words, HELM).map(|_| ())
}

/// The pod that leads.
fn holder(world: &World) -> Result<String> {
    let lease = world.kubernetes.in_namespace(OPERATOR_NAMESPACE).get(&format!("lease/{OPERATOR}"))?;
    Ok(text(&lease, "/spec/holderIdentity").to_owned())
}

/// The operators' pods that told of something they did to the cluster.
fn instances(world: &World) -> Result<BTreeSet<String>> {
    let events: Value = serde_json::from_str(&world.kubernetes.kubectl(&["get", "events.events.k8s.io", "-o", "json"])?)?;
    let events = events.get("items").and_then(Value::as_array).context("no list of events")?;
    let ours = events.iter().filter(|event| text(event, "/regarding/name") == world.cluster);
    let by = ours.filter(|event| text(event, "/reportingController") == "dynamo-operator");
    Ok(by.map(|event| text(event, "/reportingInstance").to_owned()).filter(|pod| !pod.is_empty()).collect())
}
