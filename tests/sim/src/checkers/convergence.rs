//! I7: replicas are equal to the byte, trees say what the disks say, and nobody else holds anything.

use std::collections::{BTreeMap, BTreeSet};

use dynamo_core::id::{NodeId, PartitionId};
use dynamo_core::name::Name;
use dynamo_core::reconciliation;
use dynamo_core::ring::Ring;
use dynamo_core::version::Object;

use crate::checkers::trees;
use crate::ledger::{Verdict, Visible};
use crate::simulation::Simulation;
use crate::witness::WriteId;

type Copies<'a> = BTreeMap<(PartitionId, NodeId), BTreeMap<&'a Name, &'a Object>>;

/// Whether all replicas of the quiet world are equal.
pub fn check(sim: &Simulation, ring: &Ring) -> Verdict {
    let copies = copies(sim);
    for (partition, placement) in ring.partitions() {
        let empty = BTreeMap::new();
        let of = |node: NodeId| copies.get(&(partition, node)).unwrap_or(&empty);
        let lost = |node: &&NodeId| sim.host_of(**node).is_some_and(|host| sim.is_rotted(host));
        let mut replicas = placement.replicas.iter().filter(|node| !lost(node));
        let Some(first) = replicas.next().copied() else { continue };
        for node in replicas {
            if let Some(what) = difference(of(first), of(*node)) {
                return Err(("I7 convergence", format!("partition {partition}, {first:?} and {node:?}: {what}")));
            }
        }
    }
    for (partition, node) in copies.keys() {
        if !ring.placement(*partition).replicas.contains(node) {
            return Err(("I8 placement", format!("{node:?} holds partition {partition}, which is not its own")));
        }
    }
    for host in sim.running() {
        let lost = |target| sim.host_of(target).is_some_and(|host| sim.is_rotted(host));
        if sim.disk(host).hints().any(|(target, _, _)| !lost(target)) {
            return Err(("I11 hints are delivered", format!("host {} still keeps hints", host.0)));
        }
        trees::check(sim, host)?;
    }
    Ok(())
}

/// What a reader of every replica finds.
pub fn visible(sim: &Simulation) -> Visible {
    let mut visible = Visible::new();
    for host in sim.running() {
        for (_, name, object) in sim.disk(host).objects() {
            let newest = sim.options().last_writer_wins(&name.bucket).then(|| reconciliation::newest(object));
            let shown = newest.as_ref().unwrap_or(object);
            let ids: BTreeSet<WriteId> = shown.siblings().filter_map(|(data, _)| WriteId::of(data)).collect();
            visible.entry(name.clone()).or_default().extend(ids);
        }
    }
    visible
}

fn copies(sim: &Simulation) -> Copies<'_> {
    let mut copies = Copies::new();
    for host in sim.running() {
        let node = sim.node_id(host);
        for (partition, name, object) in sim.disk(host).objects() {
            copies.entry((partition, node)).or_default().insert(name, object);
        }
    }
    copies
}

fn difference(one: &BTreeMap<&Name, &Object>, other: &BTreeMap<&Name, &Object>) -> Option<String> {
    let names: BTreeSet<&Name> = one.keys().chain(other.keys()).copied().collect();
    let differs = |name: &&Name| one.get(name).map(|object| object.encode()) != other.get(name).map(|object| object.encode());
    let name = names.into_iter().find(differs)?;
    Some(format!("{name:?} is {:?} and {:?}", one.get(name), other.get(name)))
}
