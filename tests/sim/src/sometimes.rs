//! Things that must happen now and then in many runs, or something is not tested: each is a line of [`crate::totals`].
//!
//! What the nodes themselves count (a hint refused by its quota, a request started again under a new ring, ...) is there too.

use bytes::Bytes;
use dynamo_core::context;
use dynamo_core::id::{NodeId, PartitionId};
use dynamo_core::name::Name;
use dynamo_core::preference_list;
use dynamo_core::request::Evidence;
use dynamo_core::ring::{Ring, Stage};
use dynamo_core::version::Object;

use crate::simulation::Simulation;

/// A write was acknowledged.
pub fn acknowledged(sim: &mut Simulation, ring: &Ring, partition: PartitionId, evidence: &Evidence) {
    let placement = ring.placement(partition);
    let fallbacks = preference_list::fallbacks(ring, partition);
    let beyond_first = fallbacks.iter().skip(1).any(|node| evidence.nodes.contains(node));
    sim.totals.second_fallbacks += u64::from(beyond_first);
    sim.totals.stand_ins_alone += u64::from(evidence.nodes.iter().all(|node| !placement.involves(*node)));
    sim.totals.layer_writes += u64::from(ring.replication_of(partition) < ring.replication);
    sim.totals.writes_while_moving += u64::from(placement.moving.is_some());
    let by_homes = evidence.nodes.iter().all(|node| placement.involves(*node));
    sim.totals.stood_in_across_sets += u64::from(by_homes && evidence.hinted > 0);
}

/// A get was answered.
pub fn got(sim: &mut Simulation, name: &Name, object: &Object, context: &Bytes) {
    let siblings = object.siblings().count();
    sim.totals.gets_of_two += u64::from(siblings == 2);
    sim.totals.gets_of_three += u64::from(siblings >= 3);
    sim.totals.gets_of_tombstones += u64::from(siblings == 0 && !covers_nothing(sim, name, context));
}

/// Whether a context is that of a get that found nothing.
pub fn covers_nothing(sim: &Simulation, name: &Name, context: &Bytes) -> bool {
    context::decode(context.clone(), sim.cluster(), name).is_ok_and(|token| token.seen.0.is_empty())
}

/// A ring is proposed in place of another.
pub fn proposed(sim: &mut Simulation, before: &Ring, next: &Ring) {
    let reads_new = next.moving().any(|(_, _, moving)| moving.stage == Stage::WriteBothReadNew);
    let away = |node: &NodeId| sim.host_of(*node).is_some_and(|host| sim.node(host).is_none());
    let restarting = before.members.keys().any(away);
    if reads_new {
        let held_already =
            |partition: PartitionId, node: &NodeId| before.placements[before.list_of(partition)].replicas.contains(node);
        let fills = before
            .moving()
            .flat_map(|(partition, at, _)| at.fills(&before.lost).into_iter().map(move |(node, _)| (partition, node)));
        sim.totals.layer_fills += fills.filter(|(partition, node)| held_already(*partition, node)).count() as u64;
    }
    sim.totals.stages_passed += u64::from(reads_new);
    sim.totals.stages_passed_while_restarting += u64::from(restarting);
}
