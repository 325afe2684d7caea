//! A cluster of a scenario's own: how it begins, with real data and a workload, and what must be true of it at its end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{KUBERNETES, READY, REBALANCE, Step, install, removal, resize};
use crate::command;
use crate::kubernetes::{current_condition, name, number, text};
use crate::world::{NAMESPACE, World};

const ANSWER: Duration = Duration::from_secs(30);

/// Makes the cluster `name`, fills it and puts it under load. `spec` says what differs from the smallest example.
pub fn begin(world: &mut World, name: &str, spec: Value) -> Result<String> {
    install::ensure_operator(world)?;
    let mut whole = json!({ "image": "localhost/dynamo-node:dev", "partitions": 64, "storage": { "size": "1Gi" } });
    install::merge(&mut whole, spec);
    apply(world, name, whole)?;
    let nodes = spec_replicas(world)?;
    fill(world, nodes)
}

/// `kubectl apply` of a cluster; from now on the scenario is about it.
pub fn apply(world: &mut World, name: &str, spec: Value) -> Result<()> {
    let manifest =
        json!({ "apiVersion": "dynamokv.io/v1alpha1", "kind": "DynamoCluster", "metadata": { "name": name }, "spec": spec });
    world.kubernetes.apply(&manifest.to_string())?;
    name.clone_into(&mut world.cluster);
    Ok(())
}

/// How many nodes are asked for.
pub fn spec_replicas(world: &World) -> Result<i64> {
    Ok(number(&world.cluster_object()?, "/spec/replicas"))
}

/// Waits for the cluster, fills it and puts it under load.
pub fn fill(world: &mut World, nodes: i64) -> Result<String> {
    world.await_settled(&world.cluster, nodes, READY)?;
    world.dynamoctl = Some(world.dynamoctl_of(&world.cluster)?);
    let told = resize::import(world)?;
    world.start_workload()?;
    Ok(told)
}

/// What must be true of every cluster that a scenario has been through.
pub fn ending() -> Vec<Step> {
    vec![
        Step::anywhere("all_data_reads_back", resize::verify),
        Step::anywhere("no_acknowledged_write_was_lost_and_none_invented", resize::finish_workload),
        Step::anywhere("all_replicas_are_equal_in_the_end", resize::replicas_equal),
        Step::anywhere("ring_pods_volumes_and_conditions_are_as_the_spec_says", as_asked),
        Step::anywhere("the_deleted_cluster_leaves_its_volumes_and_nothing_else", removal::retain),
    ]
}

/// What watches the cluster stops, and says what it saw.
pub fn stop_watching(world: &mut World) -> Result<String> {
    let looks = world.guard.take().context("nothing watches the cluster")?.stop()?;
    Ok(format!("data moved before pods went, the epoch never went back, in all of {looks} looks"))
}

/// The cluster has come to rest where the spec says.
pub fn as_asked(world: &mut World) -> Result<String> {
    let nodes = spec_replicas(world)?;
    world.await_settled(&world.cluster, nodes, REBALANCE)?;
    let members = members(&world.cluster_object()?);
    let wanted: BTreeSet<String> = (0..nodes).map(|ordinal| format!("{}-{ordinal}", world.cluster)).collect();
    ensure!(members.keys().eq(wanted.iter()), "the members' pods are {members:?}; asked for are {wanted:?}");
    ensure!(world.pods(&world.cluster)?.keys().eq(wanted.iter()), "there are other pods than {wanted:?}");
    let ring = world.dynamoctl()?.json(&["ring", "show"], ANSWER)?;
    ring_is_whole(&ring, &members.values().map(String::as_str).collect())?;
    let volumes = volumes_are_as_asked(world, &members)?;
    conditions_are_those_of_peace(world)?;
    let listed = world.kubernetes.kubectl(&["get", "dkv", &world.cluster, "-o", "wide"])?;
    Ok(format!("epoch {}, volumes {}\n{}", number(&ring, "/epoch"), volumes.join(" "), listed.trim_end()))
}

/// The node in each pod, by the status.
fn members(cluster: &Value) -> BTreeMap<String, String> {
    let members = cluster.pointer("/status/members").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    members.iter().map(|member| (text(member, "/pod").to_owned(), text(member, "/node").to_owned())).collect()
}

/// Every partition has its N replicas on members, shared out evenly; nothing moves, and nobody is missed any more.
fn ring_is_whole(ring: &Value, members: &BTreeSet<&str>) -> Result<()> {
    let list = |pointer: &str| ring.pointer(pointer).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let listed: BTreeSet<&str> = list("/members").iter().map(|member| text(member, "/node")).collect();
    ensure!(listed == *members, "the ring lists {listed:?}; the pods hold {members:?}");
    ensure!(number(ring, "/partitions_moving") == 0, "partitions still move");
    // The ring names lost nodes for ever, so that one that comes back after all is fenced.
    let lost: Vec<&str> = list("/lost").iter().filter_map(Value::as_str).filter(|node| members.contains(node)).collect();
    ensure!(lost.is_empty(), "lost nodes are still members: {lost:?}");
    let mut held = BTreeMap::<&str, i64>::new();
    for partition in list("/partitions") {
        let replicas = partition.pointer("/replicas").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let replicas: BTreeSet<&str> = replicas.iter().filter_map(Value::as_str).collect();
        ensure!(
            replicas.len() as i64 == number(ring, "/n") && replicas.is_subset(members),
            "a partition's replicas: {partition}"
        );
        replicas.iter().for_each(|node| *held.entry(node).or_default() += 1);
    }
    let (most, fewest) = (held.values().max().copied().unwrap_or_default(), held.values().min().copied().unwrap_or_default());
    ensure!(held.len() == members.len() && most - fewest <= 1, "the partitions are not shared out evenly: {held:?}");
    Ok(())
}

/// The volume of each member is there and names it; under `whenScaled: Delete` there is no other, and no volume is without a claim.
fn volumes_are_as_asked(world: &World, members: &BTreeMap<String, String>) -> Result<Vec<String>> {
    let policy = text(&world.cluster_object()?, "/spec/storage/retention/whenScaled").to_owned();
    let claims = || world.kubernetes.list("persistentvolumeclaims", &removal::selector(&world.cluster));
    if policy == "Delete" {
        command::until("volumes of nodes that left to go", KUBERNETES, || {
            let left = claims()?.len();
            Ok(if left == members.len() { Ok(()) } else { Err(format!("{left} claims")) })
        })?;
    }
    let claims: BTreeMap<String, Value> = claims()?.into_iter().map(|claim| (name(&claim).to_owned(), claim)).collect();
    for (pod, node) in members {
        let claim = claims.get(&format!("data-{pod}")).with_context(|| format!("{pod} has no claim"))?;
        let noted = text(claim, "/metadata/annotations/dynamokv.io~1node");
        ensure!(noted == node, "the claim of {pod} says that it carries {noted}; it carries {node}");
    }
    let all = world.kubernetes.list("persistentvolumes", "")?;
    let ours = all.iter().filter(|volume| {
        let claim = text(volume, "/spec/claimRef/name");
        text(volume, "/spec/claimRef/namespace") == NAMESPACE && claim.starts_with(&format!("data-{}-", world.cluster))
    });
    let ours: BTreeSet<&str> = ours.map(|volume| text(volume, "/spec/claimRef/name")).collect();
    ensure!(ours.iter().all(|claim| claims.contains_key(*claim)), "volumes without a claim: {ours:?}");
    Ok(claims.into_keys().collect())
}

fn conditions_are_those_of_peace(world: &World) -> Result<()> {
    let object = world.cluster_object()?;
    for (kind, wanted) in PEACE {
        let condition = current_condition(&object, kind).with_context(|| format!("no current condition {kind}"))?;
        ensure!(text(condition, "/status") == wanted, "at rest {kind} must be {wanted}: {condition}");
    }
    Ok(())
}

const PEACE: [(&str, &str); 6] = [
    ("Ready", "True"),
    ("Available", "True"),
    ("Progressing", "False"),
    ("Degraded", "False"),
    ("RingStable", "True"),
    ("ScaleInBlocked", "False"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_with_a_lost_member_a_move_or_a_lopsided_share_is_not_whole() {
        let members = BTreeSet::from(["a", "b", "c", "d"]);
        let partition = |replicas: [&str; 3]| json!({ "replicas": replicas });
        let even = [["a", "b", "c"], ["b", "c", "d"], ["c", "d", "a"], ["d", "a", "b"]].map(partition);
        let ring = json!({
            "n": 3, "partitions_moving": 0, "lost": [], "partitions": even,
            "members": [{ "node": "a" }, { "node": "b" }, { "node": "c" }, { "node": "d" }],
        });
        assert!(ring_is_whole(&ring, &members).is_ok());
        let with = |field: &str, value: Value| {
            let mut changed = ring.clone();
            changed[field] = value;
            changed
        };
        assert!(ring_is_whole(&with("lost", json!(["e"])), &members).is_ok());
        assert!(ring_is_whole(&with("lost", json!(["d"])), &members).is_err());
        assert!(ring_is_whole(&with("partitions_moving", json!(1)), &members).is_err());
        assert!(ring_is_whole(&with("partitions", json!([partition(["a", "b", "c"])])), &members).is_err());
        assert!(ring_is_whole(&ring, &BTreeSet::from(["a", "b", "c"])).is_err());
    }
}
