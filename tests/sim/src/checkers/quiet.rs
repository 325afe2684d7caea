//! Quiet: nothing is under way any more. That the world gets there in time, once faults have ended, is the liveness check (I17).

use dynamo_core::id::NodeId;

use crate::ring_writer::RingWriter;
use crate::schedule::HostId;
use crate::simulation::Simulation;

/// What is still under way, or `None`.
pub fn unfinished(sim: &Simulation, writer: &RingWriter) -> Option<String> {
    // A ring cannot change while a member does not answer.
    if sim.rotted() == 0 && !writer.is_settled() {
        return Some(format!("the writer of rings is not settled: {}", writer.waits_for(sim)));
    }
    for host in sim.running() {
        let Some(node) = sim.node(host) else { continue };
        let status = node.status(sim.clock(host));
        let lost = |node: &NodeId| sim.host_of(*node).is_some_and(|host| sim.is_rotted(host));
        let hints: u64 = status.hints.iter().filter(|(target, _)| !lost(target)).map(|(_, (hints, _))| hints).sum();
        // Of a partition that had too many actors tombstones stay.
        let stay = sim.options().pace.reap.is_zero() || sim.rotted() > 0 || node.counters().reap_refused_actors > 0;
        let (graves, unknown) = if stay { (0, 0) } else { node.graves() };
        let waits = [
            ("tombstones to be reaped", graves as u64),
            ("partitions to be searched for tombstones", unknown as u64),
            ("hints", hints),
            ("foreign partitions", status.foreign_partitions as u64),
            ("transfers", status.transfers.iter().filter(|transfer| !transfer.done).count() as u64),
            ("requests", status.requests as u64),
            ("groups to be synced", sim.disk(host).unsynced() as u64),
        ];
        if let Some((what, count)) = waits.into_iter().find(|(_, count)| *count > 0) {
            return Some(format!("host {} has {count} {what}", host.0));
        }
        if !status.ready {
            return Some(format!("host {} is not ready", host.0));
        }
    }
    links_missing(sim).or_else(|| trees_differ(sim, writer))
}

fn links_missing(sim: &Simulation) -> Option<String> {
    let hosts = sim.running();
    let missing = |from: &HostId| hosts.iter().find(|to| *to != from && !sim.is_linked(*from, **to));
    let (from, to) = hosts.iter().find_map(|from| missing(from).map(|to| (from, to)))?;
    Some(format!("host {} has no link to host {}", from.0, to.0))
}

fn trees_differ(sim: &Simulation, writer: &RingWriter) -> Option<String> {
    let ring = writer.record()?;
    for (partition, placement) in ring.partitions() {
        let root = |node: &NodeId| Some(sim.node(sim.host_of(*node)?)?.partition_digest(partition));
        let lost = |node: &&NodeId| sim.host_of(**node).is_some_and(|host| sim.is_rotted(host));
        let mut replicas = placement.replicas.iter().filter(|node| !lost(node));
        let Some(first) = replicas.next() else { continue };
        if let Some(other) = replicas.find(|node| root(node) != root(first)) {
            return Some(format!("partition {partition} differs between {first:?} and {other:?}"));
        }
    }
    None
}
