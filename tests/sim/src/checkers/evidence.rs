//! I12: an acknowledgement says who has the write; the disks are asked whether that is true.

use std::collections::BTreeMap;
use std::sync::Arc;

use dynamo_core::id::{Epoch, NodeId};
use dynamo_core::name::Name;
use dynamo_core::request::{Evidence, QuorumWish};
use dynamo_core::ring::Ring;

use crate::ledger::Verdict;
use crate::schedule::HostId;
use crate::simulation::Simulation;
use crate::witness::WriteId;

/// Whether the evidence of an acknowledged write has W distinct nodes, and as many of them had it on stable storage as it says.
pub fn check(sim: &mut Simulation, write: Option<WriteId>, name: &Name, wish: &QuorumWish, evidence: &Evidence) -> Verdict {
    let defaults = sim.options().quorum;
    let w = wish.w.unwrap_or(defaults.w).max(wish.pw.unwrap_or(defaults.pw));
    let dw = wish.dw.or(defaults.dw).unwrap_or(wish.w.unwrap_or(defaults.w)).min(w);
    let complain = |what: String| Err(("I12 honest quorums", format!("{write:?} of {name:?}: {what}: {evidence:?}")));
    if evidence.nodes.len() < usize::from(w) {
        return complain(format!("{} distinct nodes acknowledged, W is {w}", evidence.nodes.len()));
    }
    if evidence.durable < u32::from(dw) {
        return complain(format!("{} nodes had it on stable storage, DW is {dw}", evidence.durable));
    }
    let Some(write) = write else { return Ok(()) };
    let has = |node: &NodeId| {
        let host = sim.host_of(*node);
        host.is_some_and(|host| sim.disk(host).has_held(write) == Some(true) || supersedes(sim, host, name, write))
    };
    let without: Vec<NodeId> = evidence.nodes.iter().filter(|node| !has(node)).copied().collect();
    let durable = (evidence.nodes.len() - without.len()) as u32;
    sim.totals.evidence_checked += 1;
    if durable < evidence.durable.min(evidence.nodes.len() as u32) {
        return complain(format!("{without:?} do not have it on stable storage"));
    }
    Ok(())
}

/// The write arrived where a version that had seen it was there before: nothing had to be stored.
fn supersedes(sim: &Simulation, host: HostId, name: &Name, write: WriteId) -> bool {
    sim.witness().dots_of(write).iter().any(|dot| sim.disk(host).has_seen(name, *dot))
}

/// How many home replicas have `write` on stable storage: the fewest of any write set of any ring that a node holds now. Whatever
/// moves from now on moves from there.
pub fn homes(sim: &Simulation, write: WriteId, name: &Name) -> usize {
    let witness = sim.witness();
    let dots = witness.dots_of(write);
    let has = |node: &&NodeId| {
        let host = sim.host_of(**node).filter(|host| !sim.is_lost(*host));
        host.is_some_and(|host| dots.iter().any(|dot| sim.disk(host).copy_is_durable(name, *dot)))
    };
    let rings: BTreeMap<Epoch, &Arc<Ring>> =
        sim.running().into_iter().filter_map(|host| sim.node(host)?.ring()).map(|ring| (ring.epoch, ring)).collect();
    let counts = rings.values().flat_map(|ring| {
        let sets = ring.placement(ring.partition_of(name)).write_sets();
        sets.into_iter().map(|set| set.iter().filter(&has).count()).collect::<Vec<_>>()
    });
    counts.min().unwrap_or(0)
}
