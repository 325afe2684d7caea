//! `spec.replicas` changes its mind faster than data moves.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{REBALANCE, life, resize};
use crate::kubernetes::{number, text};
use crate::world::{NAMESPACE, World};

/// Where a pod serves its metrics.
const METRICS_PORT: u16 = 7402;

/// Volumes of nodes that left are to go, so that a volume that nobody looks after shows.
pub fn begin(world: &mut World) -> Result<String> {
    let storage = json!({ "size": "1Gi", "retention": { "whenScaled": "Delete" } });
    life::begin(world, "flapping", json!({ "replicas": 5, "storage": storage }))
}

/// 5 -> 3 -> 6 -> 4, each as soon as data moves for the one before it.
pub fn flap(world: &mut World) -> Result<String> {
    let started = Instant::now();
    let mut told = Vec::new();
    for replicas in [3, 6, 4] {
        world.scale(replicas)?;
        told.push(format!("asked for {replicas} after {} s", started.elapsed().as_secs()));
        if replicas != 4 {
            world.await_moving(replicas, REBALANCE)?;
        }
    }
    told.push(world.await_settled(&world.cluster, 4, REBALANCE)?);
    told.push(format!("at rest after {} s", started.elapsed().as_secs()));
    Ok(told.join("\n"))
}

/// 4 -> 3 -> 4: whoever is asked to stay after all is a member as before, and less was moved than the shrink alone would have: it was
/// not finished first and then undone.
pub fn take_back(world: &mut World) -> Result<String> {
    let before = world.cluster_object()?;
    let leaving = text(&before, "/status/members/3/pod").to_owned();
    let share = number(&before, "/status/members/3/objects");
    let (pods, moved_before) = (resize::uids(world)?, objects_moved(world)?);
    world.scale(3)?;
    world.await_moving(3, REBALANCE)?;
    world.scale(4)?;
    let told = world.await_settled(&world.cluster, 4, REBALANCE)?;
    ensure!(resize::uids(world)? == pods, "a pod was replaced, though all four were to stay");
    let after = number(&world.cluster_object()?, "/status/epoch");
    ensure!(after > number(&before, "/status/epoch"), "the ring never changed, so nothing was taken back");
    let moved = objects_moved(world)? - moved_before;
    ensure!(moved < share, "{moved} objects were moved; {leaving} held {share}, so that is a whole shrink and more");
    Ok(format!("{told}\n{moved} objects were moved there and back; a whole shrink moves {share}, those of {leaving}"))
}

/// Objects that the present pods have received as new replicas.
fn objects_moved(world: &World) -> Result<i64> {
    let mut moved = 0;
    for pod in world.pods(&world.cluster)?.keys() {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}:{METRICS_PORT}/proxy/metrics");
        let metrics = world.kubernetes.kubectl(&["get", "--raw", &path])?;
        let received = metrics.lines().find_map(|line| line.strip_prefix("dynamokv_transfer_objects_received_total "));
        moved += received.with_context(|| format!("{pod} does not count what it receives:\n{metrics}"))?.parse::<i64>()?;
    }
    Ok(moved)
}
