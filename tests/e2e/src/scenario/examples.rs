//! Every example that the product shows is applied, becomes ready and serves.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::removal::{await_gone, selector};
use super::{KUBERNETES, READY};
use crate::kubernetes::{name, number, text};
use crate::world::World;

const REQUEST: Duration = Duration::from_secs(30);
/// The examples lie here, each a file of one or more objects.
const FOLDER: &str = "crds/examples";
/// The one that the rest of the scenario is about.
const MAIN: &str = "minimal.yaml";

/// All but the one that the scenario has already been through.
pub fn others(world: &mut World) -> Result<String> {
    let folder = world.kubernetes.path(FOLDER);
    let files = fs::read_dir(&folder).with_context(|| folder.clone())?;
    let names: BTreeSet<String> =
        files.map(|file| Ok(file?.file_name().to_string_lossy().into_owned())).collect::<Result<_>>()?;
    let names: Vec<String> = names.into_iter().filter(|name| name.ends_with(".yaml") && name != MAIN).collect();
    ensure!(names.len() >= 2, "{folder} must hold an example with zones and one with an autoscaler");
    let mut told = Vec::new();
    for name in names {
        told.push(format!("{name}: {}", one(world, &format!("{FOLDER}/{name}")).with_context(|| name.clone())?));
    }
    Ok(told.join("\n"))
}

fn one(world: &World, path: &str) -> Result<String> {
    let applied = world.kubernetes.apply(&world.kubernetes.read(path)?)?;
    let objects = match applied.get("items").and_then(Value::as_array) {
        Some(items) => items.clone(),
        None => vec![applied],
    };
    let clusters: Vec<&Value> = objects.iter().filter(|object| text(object, "/kind") == "DynamoCluster").collect();
    ensure!(!clusters.is_empty(), "{path} holds no DynamoCluster");
    let mut told = Vec::new();
    for cluster in &clusters {
        told.push(world.await_settled(name(cluster), number(cluster, "/spec/replicas"), READY)?);
        spread_over_zones(world, cluster)?;
        serves(world, name(cluster))?;
    }
    world.kubernetes.kubectl_within(KUBERNETES, &["delete", "-f", &world.kubernetes.path(path)])?;
    for cluster in clusters.iter().map(|cluster| name(cluster)) {
        await_gone(world, cluster)?;
        // They would be in the way of a later cluster of this name.
        world.kubernetes.kubectl_within(KUBERNETES, &["delete", "persistentvolumeclaims", "-l", &selector(cluster)])?;
    }
    Ok(told.join("; "))
}

/// A value that is written comes back.
pub fn serves(world: &World, cluster: &str) -> Result<()> {
    let dynamoctl = world.dynamoctl_of(cluster)?;
    dynamoctl.run(&["put", "greeting", "hello"], REQUEST)?;
    let answer = dynamoctl.json(&["get", "greeting"], REQUEST)?;
    ensure!(answer.to_string().contains("hello"), "the value that was written did not come back: {answer}");
    Ok(())
}

/// Each zone that the cluster names has a pod, and each pod is on a node of its zone.
fn spread_over_zones(world: &World, cluster: &Value) -> Result<()> {
    let zones = cluster.pointer("/spec/zones").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let pods = world.pods(name(cluster))?;
    for zone in zones {
        let here: Vec<&Value> =
            pods.values().filter(|pod| pod.pointer("/metadata/labels/dynamokv.io~1zone") == zone.get("name")).collect();
        ensure!(!here.is_empty(), "zone {} has no pod", text(zone, "/name"));
        for pod in here {
            let node = world.kubernetes.get(&format!("node/{}", text(pod, "/spec/nodeName")))?;
            let wanted = zone.get("nodeSelector").and_then(Value::as_object);
            for (label, value) in wanted.into_iter().flatten() {
                let has = node.pointer("/metadata/labels").and_then(|labels| labels.get(label));
                ensure!(has == Some(value), "{} is on {}, which is not in zone {}", name(pod), name(&node), text(zone, "/name"));
            }
        }
    }
    Ok(())
}
