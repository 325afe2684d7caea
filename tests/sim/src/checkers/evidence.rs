//! I12: an acknowledgement says who has the write; the disks are asked whether that is true.

use std::collections::BTreeSet;

use dynamo_core::config::QuorumDefaults;
use dynamo_core::id::{Epoch, NodeId};
use dynamo_core::name::Name;
use dynamo_core::request::{Evidence, QuorumWish};

use crate::disk::Disk;
use crate::ledger::Verdict;
use crate::simulation::Simulation;
use crate::witness::WriteId;

/// Whether the evidence of an acknowledged write has W distinct nodes, PW of them home replicas of each set that was written, and
/// as many of them had it on stable storage as it says.
pub fn check(sim: &mut Simulation, write: Option<WriteId>, name: &Name, wish: &QuorumWish, evidence: &Evidence) -> Verdict {
    let defaults = inherited(wish, &sim.options().promised(&name.bucket));
    let dw = durable(wish, &defaults);
    let pw = wish.pw.unwrap_or(defaults.pw);
    let w = wish.w.unwrap_or(defaults.w).max(pw).max(dw);
    let complain = |what: String| Err(("I12 honest quorums", format!("{write:?} of {name:?}: {what}: {evidence:?}")));
    if evidence.nodes.len() < usize::from(w) {
        return complain(format!("{} distinct nodes acknowledged, W is {w}", evidence.nodes.len()));
    }
    if evidence.durable < u32::from(dw) {
        return complain(format!("{} nodes had it on stable storage, DW is {dw}", evidence.durable));
    }
    let primary = homes(sim, name, evidence.epoch, &evidence.nodes);
    if primary < usize::from(pw) {
        return complain(format!("{primary} home replicas of a set acknowledged, PW is {pw}"));
    }
    let Some(write) = write else { return Ok(()) };
    let has = |node: &NodeId| {
        let host = sim.host_of(*node);
        host.is_some_and(|host| {
            let mut disks = std::iter::once(sim.disk(host)).chain(sim.before_set_back(host));
            disks.any(|disk| disk.has_held(write) == Some(true) || supersedes(sim, disk, name, write))
        })
    };
    let without: Vec<NodeId> = evidence.nodes.iter().filter(|node| !has(node)).copied().collect();
    let durable = (evidence.nodes.len() - without.len()) as u32;
    sim.totals.evidence_checked += 1;
    if durable < evidence.durable.min(evidence.nodes.len() as u32) {
        let dots = sim.witness().dots_of(write).to_vec();
        return complain(format!("{without:?} do not have it on stable storage as any of {dots:?}"));
    }
    Ok(())
}

/// How many copies on stable storage an acknowledgement rests on.
pub fn durable(wish: &QuorumWish, defaults: &QuorumDefaults) -> u8 {
    let defaults = inherited(wish, defaults);
    let w = wish.w.unwrap_or(defaults.w);
    wish.dw.unwrap_or(defaults.dw.unwrap_or(w).min(w))
}

/// What a request that asks so many replicas takes over.
pub fn inherited(wish: &QuorumWish, defaults: &QuorumDefaults) -> QuorumDefaults {
    wish.n.map_or(*defaults, |n| defaults.capped(n))
}

/// Whether a get names R distinct nodes that answered, and PR of them home replicas of some ring.
pub fn check_get(sim: &Simulation, name: &Name, wish: &QuorumWish, evidence: &Evidence) -> Verdict {
    let defaults = inherited(wish, &sim.options().promised(&name.bucket));
    let pr = usize::from(wish.pr.unwrap_or(defaults.pr));
    let r = usize::from(wish.r.unwrap_or(defaults.r)).max(pr);
    let complain = |what: String| Err(("I12 honest quorums", format!("a get of {name:?}: {what}: {evidence:?}")));
    let distinct: BTreeSet<&NodeId> = evidence.nodes.iter().collect();
    if distinct.len() < r {
        return complain(format!("{} distinct nodes answered, R is {r}", distinct.len()));
    }
    let Some(ring) = sim.ring_of(evidence.epoch) else { return complain("of an epoch that no node ever held".into()) };
    let homes = ring.placement(ring.partition_of(name)).read_set();
    let primary = distinct.iter().filter(|node| homes.contains(node)).count();
    if primary < pr { complain(format!("{primary} home replicas answered, PR is {pr}")) } else { Ok(()) }
}

/// The write arrived where a version that had seen it was there before: nothing had to be stored.
fn supersedes(sim: &Simulation, disk: &Disk, name: &Name, write: WriteId) -> bool {
    sim.witness().dots_of(write).iter().any(|dot| disk.has_seen(name, *dot))
}

/// The home replicas that acknowledged `write` and have it on stable storage. Each carries it into whatever rings come: a copy
/// moves only whole, and a replica acknowledges under its own ring only.
pub fn holders(sim: &Simulation, write: WriteId, name: &Name, evidence: &Evidence) -> Vec<NodeId> {
    let Some(ring) = sim.ring_of(evidence.epoch) else { return Vec::new() };
    let placement = ring.placement(ring.partition_of(name));
    let dots = sim.witness().dots_of(write).to_vec();
    // One that is durable now although its answer was not may have come by another way, and behind a copy that was sent on.
    let all = evidence.durable as usize >= evidence.nodes.len();
    let told = |node: &&NodeId| all || sim.told_durable(&dots, **node);
    let has = |node: &&NodeId| {
        let host = sim.host_of(**node).filter(|host| !sim.is_lost(*host));
        host.is_some_and(|host| dots.iter().any(|dot| sim.disk(host).copy_is_durable(name, *dot)))
    };
    evidence.nodes.iter().filter(|node| placement.involves(**node)).filter(told).filter(has).copied().collect()
}

/// How many of `holders` are home replicas: the fewest of any write set of the ring under which they acknowledged.
pub fn homes(sim: &Simulation, name: &Name, epoch: Epoch, holders: &[NodeId]) -> usize {
    let Some(ring) = sim.ring_of(epoch) else { return 0 };
    let sets = ring.placement(ring.partition_of(name)).write_sets();
    sets.into_iter().map(|set| set.iter().filter(|node| holders.contains(node)).count()).min().unwrap_or(0)
}
