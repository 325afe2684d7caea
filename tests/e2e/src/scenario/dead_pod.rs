//! A pod that does not start, while the cluster is to shrink. Unknown is not gone, so nothing is removed; and what repairs the pod, a
//! change of the image, goes through all the same.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{KUBERNETES, REBALANCE, life, resize};
use crate::command;
use crate::kubernetes::{current_condition, number, text};
use crate::world::World;

const GOOD: &str = "localhost/dynamo-node:dev";
/// No node has it, and none can pull it.
const MISSING: &str = "localhost/dynamo-node:missing";

/// The cluster.
pub fn begin(world: &mut World) -> Result<String> {
    life::begin(world, "dead-pod", json!({ "replicas": 5 }))
}

/// A rolling update goes one pod at a time and from the top, so one pod is all that a bad image costs.
pub fn bad_image(world: &mut World) -> Result<String> {
    world.patch_spec(&json!({ "image": MISSING }))?;
    let pod = format!("{}-4", world.cluster);
    let waiting = "/status/containerStatuses/0/state/waiting/reason";
    let reason = command::until("the pod whose image does not exist", KUBERNETES, || {
        let pods = world.pods(&world.cluster)?;
        let reason = pods.get(&pod).map(|pod| text(pod, waiting).to_owned()).unwrap_or_default();
        Ok(if reason.contains("Image") { Ok(reason) } else { Err(reason) })
    })?;
    let said = world.await_cluster(&world.cluster, "to say that it misses a node, and why", KUBERNETES, |cluster| {
        let told = current_condition(cluster, "Degraded").map_or("", |degraded| text(degraded, "/message"));
        Ok(told.contains(&pod) && told.contains("does not start"))
    })?;
    ensure!(number(&world.cluster_object()?, "/status/readyReplicas") == 4, "more than one pod is gone: {said}");
    Ok(format!("{pod}: {reason}; {said}\n{}", condition(world, "Degraded")?))
}

/// Five to three, the dead pod being one of those that leave.
pub fn shrink(world: &mut World) -> Result<String> {
    let before = number(&world.cluster_object()?, "/status/epoch");
    world.scale(3)?;
    let dead = format!("{}-4", world.cluster);
    let said = world.await_cluster(&world.cluster, "to say that the shrink is blocked", KUBERNETES, |cluster| {
        Ok(current_condition(cluster, "ScaleInBlocked").is_some_and(|blocked| text(blocked, "/status") == "True"))
    })?;
    let blocked = condition(world, "ScaleInBlocked")?;
    ensure!(blocked.contains("MemberUnknown") && blocked.contains(&dead), "it must name {dead}: {blocked}");
    ensure!(world.pods_wanted(&world.cluster)? == 5, "a pod was given up");
    let after = number(&world.cluster_object()?, "/status/epoch");
    ensure!(after == before, "the ring changed from epoch {before} to {after} while a member was unknown");
    Ok(format!("{said}\n{blocked}"))
}

/// The good image comes back, and with it a setting that restarts every pod.
pub fn repair(world: &mut World) -> Result<String> {
    let before = resize::uids(world)?;
    world.patch_spec(&json!({ "image": GOOD, "settings": { "logLevel": "debug" } }))?;
    let dead = format!("{}-4", world.cluster);
    command::until("the StatefulSet to have the image", KUBERNETES, || {
        let set = world.kubernetes.get(&format!("statefulset/{}", world.cluster))?;
        let image = text(&set, "/spec/template/spec/containers/0/image").to_owned();
        Ok(if image == GOOD { Ok(()) } else { Err(image) })
    })?;
    let told = world.await_settled(&world.cluster, 3, REBALANCE)?;
    let after = resize::uids(world)?;
    ensure!(after.iter().all(|uid| !before.contains(uid)), "a pod still runs with the former setting");
    ensure!(!world.pods(&world.cluster)?.contains_key(&dead), "{dead} is still there");
    Ok(told)
}

/// A condition as people read it.
fn condition(world: &World, kind: &str) -> Result<String> {
    let object = world.cluster_object()?;
    let condition = current_condition(&object, kind).with_context(|| format!("no current condition {kind}"))?;
    Ok(format!("{kind} {} {}: {}", text(condition, "/status"), text(condition, "/reason"), text(condition, "/message")))
}
