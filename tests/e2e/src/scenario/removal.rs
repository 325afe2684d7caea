//! What goes with a cluster and with the operator, and what stays.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::examples::serves;
use super::{KUBERNETES, READY};
use crate::command;
use crate::kubernetes::name;
use crate::world::{NAMESPACE, OPERATOR, OPERATOR_NAMESPACE, World};

const HELM: Duration = Duration::from_secs(240);
/// The Helm release, and so the cluster, whose volumes are to go with it.
const SHORT_LIVED: &str = "short-lived";
const DEFINITION: &str = "dynamoclusters.dynamokv.io";

/// `kubectl delete` of the scenario's cluster: its objects go, its volumes stay.
pub fn retain(world: &mut World) -> Result<String> {
    let before = volumes(world, &world.cluster)?;
    ensure!(before.len() >= 3, "a cluster of three has only the volumes {before:?}");
    world.kubernetes.kubectl_within(KUBERNETES, &["delete", &format!("dkv/{}", world.cluster)])?;
    await_gone(world, &world.cluster)?;
    let after = volumes(world, &world.cluster)?;
    ensure!(after == before, "volumes changed with the deletion: {before:?} became {after:?}");
    world.kubernetes.kubectl_within(KUBERNETES, &["delete", "persistentvolumeclaims", "-l", &selector(&world.cluster)])?;
    Ok(format!("{} volumes stayed", before.len()))
}

/// The cluster's chart with the policy Delete: `helm uninstall` leaves nothing.
pub fn delete(world: &mut World) -> Result<String> {
    let chart = world.kubernetes.path("charts/dynamo-cluster");
    let policy = "storage.size=1Gi,partitions=64,storage.retention.whenDeleted=Delete,storage.retention.whenScaled=Delete";
    world.kubernetes.helm(&["install", SHORT_LIVED, &chart, "--namespace", NAMESPACE, "--set", policy], HELM)?;
    world.await_settled(SHORT_LIVED, 3, READY)?;
    serves(world, SHORT_LIVED)?;
    let before = volumes(world, SHORT_LIVED)?;
    ensure!(before.len() == 3, "a cluster of three has the volumes {before:?}");
    world.kubernetes.helm(&["uninstall", SHORT_LIVED, "--namespace", NAMESPACE, "--wait", "--timeout", "3m"], HELM)?;
    await_gone(world, SHORT_LIVED)?;
    command::until("the volumes to go", KUBERNETES, || {
        let left = volumes(world, SHORT_LIVED)?;
        Ok(if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) })
    })?;
    Ok(format!("{} volumes are gone", before.len()))
}

/// `helm uninstall` of the operator. The definition stays, and with it every cluster that there may be.
pub fn operator(world: &mut World) -> Result<String> {
    world.kubernetes.helm(&["uninstall", OPERATOR, "--namespace", OPERATOR_NAMESPACE, "--wait", "--timeout", "3m"], HELM)?;
    world.kubernetes.kubectl(&["get", "crd", DEFINITION])?;
    Ok(format!("{DEFINITION} is there"))
}

/// Both namespaces, and all in them.
pub fn namespaces(world: &mut World) -> Result<String> {
    (world.workload, world.guard) = (None, None);
    let kubernetes = &world.kubernetes;
    kubernetes.kubectl(&["delete", "dynamoclusters", "--all", "--ignore-not-found", "--wait=false"])?;
    kubernetes.kubectl(&["delete", "namespaces", NAMESPACE, OPERATOR_NAMESPACE, "--ignore-not-found", "--wait=false"])?;
    Ok(String::new())
}

/// After a step that failed: nothing of the clusters is left to disturb the next scenario.
pub fn clear(world: &mut World) -> Result<String> {
    (world.workload, world.guard) = (None, None);
    let kubernetes = &world.kubernetes;
    kubernetes.kubectl_within(KUBERNETES, &["delete", "dynamoclusters", "--all"])?;
    await_gone(world, &world.cluster)?;
    kubernetes.kubectl_within(KUBERNETES, &["delete", "persistentvolumeclaims", "--all"])?;
    Ok(String::new())
}

/// No object of the cluster is left, volumes apart.
pub fn await_gone(world: &World, cluster: &str) -> Result<()> {
    let kinds = "dynamoclusters,statefulsets,pods,services,configmaps,serviceaccounts,poddisruptionbudgets";
    command::until("the cluster's objects to go", KUBERNETES, || {
        let left = world.kubernetes.list(kinds, &selector(cluster))?;
        let names: Vec<&str> = left.iter().map(name).collect();
        Ok(if names.is_empty() { Ok(()) } else { Err(names.join(", ")) })
    })
}

/// The names of a cluster's volume claims.
pub fn volumes(world: &World, cluster: &str) -> Result<BTreeSet<String>> {
    let claims = world.kubernetes.list("persistentvolumeclaims", &selector(cluster))?;
    Ok(claims.iter().map(|claim| name(claim).to_owned()).collect())
}

/// What selects a cluster's objects.
pub fn selector(cluster: &str) -> String {
    format!("dynamokv.io/cluster={cluster}")
}
