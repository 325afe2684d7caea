//! The scenarios of `tests/world`, on a real Kubernetes: the same lines, and in the end the state that the model came to.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result, bail, ensure};
use dynamo_scenarios::{Bucket, Create, Step, Until};
use serde_json::{Value, json};

use super::{ALL_DATA, KUBERNETES, READY, REBALANCE, install, life, loss};
use crate::command;
use crate::kubernetes::{current_condition, name, number, text};
use crate::world::{OPERATOR_NAMESPACE, World, is_settled};

/// The cluster's name on both stages.
const CLUSTER: &str = "cart";
const IMAGE: &str = "localhost/dynamo-node";
/// The image that a cluster is created with, by its name in scenarios.
const FIRST: &str = "first";
/// That of an image which is nowhere.
const MISSING: &str = "missing";

/// Plays the lines of `scenario`.
pub fn play(world: &mut World, scenario: &dynamo_scenarios::Scenario) -> Result<String> {
    install::ensure_operator(world)?;
    CLUSTER.clone_into(&mut world.cluster);
    let mut keys = Keys::default();
    for (number, step) in (1..).zip(&scenario.steps) {
        println!("         {number:>2}: {step:?}");
        line(world, &mut keys, step).with_context(|| format!("step {number}, {step:?}"))?;
    }
    let nodes = life::spec_replicas(world)?;
    world.await_settled(CLUSTER, nodes, REBALANCE)
}

/// Compares the end with that of the model.
pub fn ends_alike(world: &mut World, scenario: &dynamo_scenarios::Scenario) -> Result<String> {
    let end = end(world)?;
    let differences = differences(&end, dynamo_scenarios::end_of(scenario.name));
    ensure!(differences.is_empty(), "unlike the model's end, {}\nthe whole end:\n{end}", differences.join("; "));
    Ok(end)
}

/// What was written, as the file that `dynamoctl import` and `verify` read. A later value of a key comes later in it and counts.
#[derive(Default)]
struct Keys {
    lines: String,
    rounds: u32,
}

impl Keys {
    fn more(&mut self, keys: u32) {
        self.rounds += 1;
        for key in 0..keys {
            let _ = writeln!(
                self.lines,
                "{}",
                json!({ "key": format!("key-{key}"), "value": format!("round {} of key {key}", self.rounds) })
            );
        }
    }

    /// `import` or `verify`.
    fn give(&self, world: &World, what: &str) -> Result<()> {
        let file = world.file("played.jsonl");
        fs::write(&file, &self.lines)?;
        world.dynamoctl()?.run(&[what, &file.display().to_string()], ALL_DATA).map(|_| ())
    }
}

fn line(world: &mut World, keys: &mut Keys, step: &Step) -> Result<()> {
    let pod = |suffix: &str| format!("{CLUSTER}-{suffix}");
    match step {
        Step::Create(create) => return self::create(world, create),
        Step::Recreate(create) => {
            *keys = Keys::default();
            return recreate(world, create);
        }
        Step::Write(count) => {
            keys.more(*count);
            return keys.give(world, "import");
        }
        Step::Verify => return keys.give(world, "verify"),
        Step::Scale(replicas) => return world.scale(i64::from(*replicas)),
        Step::Refuse(replicas) => return refused(world, *replicas),
        Step::Pause(paused) => return world.patch_spec(&json!({ "rebalancing": { "paused": paused } })),
        Step::Image(name) => {
            world.machine()?.tag(&image(FIRST), &image(name))?;
            return world.patch_spec(&json!({ "image": image(name) }));
        }
        Step::Bucket(bucket) => return set_bucket(world, bucket),
        Step::DropBucket(name) => {
            let mut entries = buckets(world)?;
            entries.retain(|entry| text(entry, "/name") != name);
            return world.patch_spec(&json!({ "buckets": entries }));
        }
        Step::Kill(suffix) => {
            let object = world.kubernetes.get(&format!("pod/{}", pod(suffix)))?;
            return world.machine()?.signal(&object, "SIGKILL");
        }
        Step::Hold(suffix) => return hold(world, &pod(suffix)),
        Step::Release(_) => return for_each_node(world, "uncordon"),
        Step::LoseVolume(suffix) => return lose_volume(world, &pod(suffix)),
        Step::RestartOperator => {
            let words = ["delete", "pods", "--all", "-n", OPERATOR_NAMESPACE, "--grace-period=0", "--force"];
            return world.kubernetes.kubectl(&words).map(|_| ());
        }
        Step::Wait(until) => return wait(world, until),
        Step::ExpectVolumes(count) => {
            let claims = world.kubernetes.list("persistentvolumeclaims", &super::removal::selector(CLUSTER))?;
            ensure!(claims.len() == *count as usize, "there are {} claims", claims.len());
        }
        Step::ExpectMembers(count) => {
            let ring = world.dynamoctl()?.json(&["ring", "show"], READY)?;
            let members = ring.get("members").and_then(Value::as_array).map_or(0, Vec::len);
            ensure!(members == *count as usize, "the ring has {members} members");
        }
    }
    Ok(())
}

fn image(name: &str) -> String {
    format!("{IMAGE}:{}", if name == FIRST { "dev" } else { name })
}

fn create(world: &mut World, create: &Create) -> Result<()> {
    apply(world, create)?;
    if create.image == MISSING {
        world.dynamoctl = None;
        return Ok(());
    }
    world.await_settled(CLUSTER, i64::from(create.replicas), READY)?;
    world.dynamoctl = Some(world.dynamoctl_of(CLUSTER)?);
    Ok(())
}

/// The pod and its claim are deleted, and another pod is in its place. Until then the old one ends in peace and could still hand over what
/// it has; on the model it dies at once.
fn lose_volume(world: &World, pod: &str) -> Result<()> {
    let uid = || Ok::<_, anyhow::Error>(world.pods(CLUSTER)?.get(pod).map(|pod| text(pod, "/metadata/uid").to_owned()));
    let before = uid()?;
    loss::delete_with_claim(world, pod)?;
    command::until(&format!("another pod in the place of {pod}"), KUBERNETES, || {
        let now = uid()?;
        Ok(if now.is_some() && now != before { Ok(()) } else { Err(format!("{now:?}")) })
    })
}

/// Deletes the cluster, and when all but its volumes is gone creates another one of its name.
fn recreate(world: &mut World, create: &Create) -> Result<()> {
    world.dynamoctl = None;
    world.kubernetes.kubectl_within(KUBERNETES, &["delete", &format!("dkv/{CLUSTER}")])?;
    super::removal::await_gone(world, CLUSTER)?;
    apply(world, create)
}

fn apply(world: &mut World, create: &Create) -> Result<()> {
    let when_scaled = if create.deletes_volumes { "Delete" } else { "Retain" };
    let spec = json!({
        "replicas": create.replicas, "image": image(&create.image), "partitions": create.partitions,
        "zones": create.zones.iter().map(|zone| json!({ "name": zone })).collect::<Vec<_>>(),
        "replication": { "factor": create.factor }, "buckets": create.buckets.iter().map(entry).collect::<Vec<_>>(),
        "storage": { "size": "1Gi", "retention": { "whenScaled": when_scaled } },
    });
    life::apply(world, CLUSTER, spec)
}

fn entry(bucket: &Bucket) -> Value {
    let mut entry = json!({ "name": bucket.name });
    bucket.fields().for_each(|(field, value)| entry[field] = json!(value));
    entry
}

fn buckets(world: &World) -> Result<Vec<Value>> {
    Ok(world.cluster_object()?.pointer("/spec/buckets").and_then(Value::as_array).cloned().unwrap_or_default())
}

/// Its N stays, and nothing else that was said of it.
fn set_bucket(world: &World, bucket: &Bucket) -> Result<()> {
    let (mut entries, mut set) = (buckets(world)?, entry(bucket));
    match entries.iter_mut().find(|entry| text(entry, "/name") == bucket.name) {
        Some(before) => {
            if let Some(factor) = before.get("factor") {
                set["factor"] = factor.clone();
            }
            *before = set;
        }
        None => entries.push(set),
    }
    world.patch_spec(&json!({ "buckets": entries }))
}

fn refused(world: &World, replicas: u32) -> Result<()> {
    let output = world.kubernetes.try_kubectl(&["scale", &format!("dkv/{CLUSTER}"), &format!("--replicas={replicas}")], "")?;
    ensure!(!output.status.success() && output.text().contains("spec.replicas"), "it was not refused: {}", output.text());
    Ok(())
}

/// Its process dies, if it runs, and no node takes the pod that follows.
fn hold(world: &World, pod: &str) -> Result<()> {
    for_each_node(world, "cordon")?;
    world.kubernetes.kubectl(&["delete", "pod", pod, "--grace-period=0", "--force", "--ignore-not-found"]).map(|_| ())
}

fn for_each_node(world: &World, what: &str) -> Result<()> {
    for node in world.kubernetes.list("nodes", "")? {
        world.kubernetes.kubectl(&[what, name(&node)])?;
    }
    Ok(())
}

fn wait(world: &mut World, until: &Until) -> Result<()> {
    let wanted = life::spec_replicas(world)?;
    match until {
        Until::Settled => {
            world.await_settled(CLUSTER, wanted, REBALANCE)?;
            if world.dynamoctl.is_none() {
                world.dynamoctl = Some(world.dynamoctl_of(CLUSTER)?);
            }
            Ok(())
        }
        Until::Moving => world.await_moving(wanted, REBALANCE).map(|_| ()),
        Until::Pods(count) => command::until(&format!("{count} pods"), KUBERNETES, || {
            let pods = world.pods(CLUSTER)?.len();
            Ok(if pods == *count as usize { Ok(()) } else { Err(format!("{pods} pods")) })
        }),
        Until::Stuck(count) => command::until(&format!("{count} pods whose containers do not start"), KUBERNETES, || {
            let reason = |pod: &Value| text(pod, "/status/containerStatuses/0/state/waiting/reason").to_owned();
            let reasons: Vec<String> = world.pods(CLUSTER)?.values().map(reason).collect();
            let stuck = reasons.iter().filter(|reason| !["", "ContainerCreating"].contains(&reason.as_str())).count();
            Ok(if stuck == *count as usize { Ok(()) } else { Err(format!("{reasons:?}")) })
        }),
        Until::Condition { kind, status } => {
            let holds = |object: &Value| Ok(current_condition(object, kind).is_some_and(|now| text(now, "/status") == status));
            world.await_cluster(CLUSTER, &format!("to have {kind}={status}"), REBALANCE, holds).map(|_| ())
        }
    }
}

/// The end, in the lines of the files that the model's ends are kept in. Pods go by what follows the cluster's name.
fn end(world: &World) -> Result<String> {
    let cluster = world.cluster_object()?;
    ensure!(is_settled(&cluster, number(&cluster, "/spec/replicas")), "the cluster is not at rest");
    let short = |name: &str| name.trim_start_matches("data-").trim_start_matches(CLUSTER).trim_start_matches('-').to_owned();
    let ring = world.dynamoctl()?.json(&["ring", "show"], READY)?;
    let list = |pointer: &str| ring.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
    let held: BTreeMap<String, i64> =
        list("/members").iter().map(|member| (text(member, "/node").to_owned(), number(member, "/partitions"))).collect();
    let mut text_of_end = String::new();
    for set in world.kubernetes.list("statefulsets", &super::removal::selector(CLUSTER))? {
        let image =
            text(&set, "/spec/template/spec/containers/0/image").trim_start_matches(IMAGE).trim_start_matches(':').to_owned();
        let image = if image == "dev" { FIRST.to_owned() } else { image };
        let zone = text(&set, "/metadata/labels/dynamokv.io~1zone");
        writeln!(text_of_end, "zone {zone}: {} pods, image {image}", number(&set, "/spec/replicas"))?;
    }
    let status = cluster.pointer("/status/members").and_then(Value::as_array).context("the status has no members")?;
    for member in status {
        let is_member = if held.contains_key(text(member, "/node")) { "in the ring" } else { "not in the ring" };
        writeln!(text_of_end, "pod {}: {}, {is_member}", short(text(member, "/pod")), text(member, "/state"))?;
    }
    let (fewest, most) = (held.values().min().copied().unwrap_or_default(), held.values().max().copied().unwrap_or_default());
    writeln!(text_of_end, "partitions of a member: {fewest} to {most}")?;
    for claim in world.kubernetes.list("persistentvolumeclaims", &super::removal::selector(CLUSTER))? {
        let carries = held.contains_key(text(&claim, "/metadata/annotations/dynamokv.io~1node"));
        writeln!(text_of_end, "volume {}: {}", short(name(&claim)), if carries { "a member's" } else { "left behind" })?;
    }
    for kind in ["Ready", "Available", "Progressing", "Degraded", "RingStable", "ScaleInBlocked"] {
        let condition = current_condition(&cluster, kind).with_context(|| format!("no condition {kind}"))?;
        writeln!(text_of_end, "{kind}: {} {}", text(condition, "/status"), text(condition, "/reason"))?;
    }
    if held.len() != status.len() {
        bail!("the ring lists {} members and the status {}", held.len(), status.len());
    }
    Ok(text_of_end)
}

/// Lines that one has and the other has not. Volumes are left behind as the way had it, which may be another one here: more of them
/// are no difference.
fn differences(end: &str, of_the_model: &str) -> Vec<String> {
    let has = |text: &str, line: &str| text.lines().any(|other| other == line);
    let missing = of_the_model.lines().filter(|line| !has(end, line)).map(|line| format!("missing: {line}"));
    let more = end.lines().filter(|line| !has(of_the_model, line) && !line.ends_with(": left behind"));
    missing.chain(more.map(|line| format!("more: {line}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_lacks_a_line_or_has_another_one_differs_and_one_more_volume_is_no_difference() {
        let model = "pod 0: Active, in the ring\nvolume 0: a member's\nvolume 1: left behind\n";
        assert!(differences(&format!("{model}volume 2: left behind\n"), model).is_empty());
        assert_eq!(differences("pod 0: Active, in the ring\nvolume 0: a member's\n", model), ["missing: volume 1: left behind"]);
        assert_eq!(differences(&format!("{model}pod 1: Standby\n"), model), ["more: pod 1: Standby"]);
    }
}
