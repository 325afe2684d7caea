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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dynamo_core::id::{Incarnation, NodeId, RequestId};
    use dynamo_core::message::Message;
    use dynamo_core::reaping::ACTORS_MAX;
    use dynamo_core::version::{Actor, CausalContext, Dot, Object, Value};

    use crate::scenario::{Cluster, cluster, name};

    /// Every home replica gets a tombstone over versions of so many actors, as from a coordinator.
    fn bury(cluster: &mut Cluster, key: &str, actors: u64) {
        let homes = cluster.homes(key);
        // Of a node that has left.
        let actor = |number| Actor { node: NodeId([9; 16]), incarnation: Incarnation(number) };
        let mut seen = CausalContext::default();
        for number in 0..actors {
            seen.0.insert(actor(number), 1);
        }
        let mut object = Object::default();
        object.update(&seen, Dot { actor: actor(0), counter: 2 }, Value { data: None, written_ms: 0 });
        let epoch = cluster.ring().epoch;
        for home in &homes {
            let (request, name, object) = (RequestId(1 << 40), name(key), object.clone());
            let replicate = Message::Replicate { request, epoch, name, object, hint_for: None, synced: false };
            cluster.sim.deliver(homes[0], *home, replicate);
        }
        cluster.run(Duration::from_millis(20));
    }

    #[test]
    fn tombstones_are_waited_for_but_in_a_partition_of_too_many_actors() {
        let reaps = |options: &mut crate::options::Options| options.pace.reap = Duration::from_millis(300);
        for (actors, reaped) in [(1, true), (ACTORS_MAX as u64 + 1, false)] {
            let mut cluster = cluster(3).tune(reaps).start();
            bury(&mut cluster, "alice", actors);
            let waits = cluster.unfinished().unwrap_or_default();
            assert!(waits.contains("tombstones to be reaped"), "{actors} actors: {waits:?}");
            cluster.settle();
            for home in cluster.homes("alice") {
                assert_eq!(cluster.copy(home, "alice").is_none(), reaped, "{actors} actors");
            }
        }
    }
}
