//! `spec.replicas` changes its mind faster than data moves.

use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::json;

use super::{REBALANCE, life};
use crate::kubernetes::number;
use crate::world::World;

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

/// 4 -> 3 -> 4: whoever is asked to stay after all is a member as before, with its data and without a new pod.
pub fn take_back(world: &mut World) -> Result<String> {
    let before = number(&world.cluster_object()?, "/status/epoch");
    world.scale(3)?;
    world.await_moving(3, REBALANCE)?;
    world.scale(4)?;
    let told = world.await_settled(&world.cluster, 4, REBALANCE)?;
    let after = number(&world.cluster_object()?, "/status/epoch");
    ensure!(after > before, "the ring never changed, so nothing was taken back");
    Ok(format!("{told}\n{} epochs for there and back", after - before))
}
