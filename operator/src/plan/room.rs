//! Whether the data of nodes that are to leave has room on those that stay. A node whose disk is full refuses writes, and what moves to
//! it would never arrive.
//!
//! How large a copy is, nodes say; how large a volume is, the status of its claim, which may have asked for more and not got it yet. What
//! a rebalance holds twice on its way counts once.

use std::collections::{BTreeMap, BTreeSet};

use dynamo_core::id::NodeId;
use dynamo_core::ring::Ring;

use super::Blocked;
use super::situation::Situation;
use crate::quantity::{self, Quantity};

/// How much of a volume data may take, in percent: the rest is for compactions, hints, and what is written meanwhile.
pub const FILLED_PERCENT_MAX: u64 = 85;

/// Why `next` is not to be recorded: it takes members out whose data would fill the volumes of those that stay.
pub(super) fn lacking(situation: &Situation<'_>, next: &Ring) -> Option<Blocked> {
    let ring = situation.ring?;
    let stays = |node: &NodeId| next.members.get(node).is_some_and(|member| member.weight > 0) && !next.is_lost(*node);
    let homes: BTreeSet<NodeId> = ring.partitions().flat_map(|(_, placement)| placement.replicas.to_vec()).collect();
    let stayed = |node: &&NodeId| ring.members.get(*node).is_some_and(|member| member.weight > 0) && !ring.is_lost(**node);
    // A newcomer whose copies are all elsewhere still leaves nothing behind.
    if !homes.iter().filter(stayed).any(|node| !stays(node)) {
        return None;
    }
    // With a copy in each zone a node's data stays in its zone.
    let zones: BTreeSet<&str> = ring.members.values().map(|member| member.zone.as_str()).collect();
    let apart = zones.len() <= usize::from(ring.replication)
        && zones.iter().all(|zone| next.members.iter().any(|(node, member)| member.zone == *zone && stays(node)));
    let groups: BTreeMap<&str, Vec<&str>> =
        if apart { zones.iter().map(|zone| (*zone, vec![*zone])).collect() } else { [("", zones.into_iter().collect())].into() };
    groups.into_values().find_map(|group| {
        let inside =
            |ring: &Ring, node: &NodeId| ring.members.get(node).is_some_and(|member| group.contains(&member.zone.as_str()));
        let staying: Vec<NodeId> = next.members.keys().filter(|node| stays(node) && inside(next, node)).copied().collect();
        let each = bytes_of(situation, ring, &|node| inside(ring, node)) / staying.len().max(1) as u64;
        let volume = staying.iter().filter_map(|node| situation.volume_bytes(*node)).min()?;
        (each > volume / 100 * FILLED_PERCENT_MAX).then_some(Blocked::InsufficientCapacity { nodes: staying.len(), each, volume })
    })
}

/// The bytes of the members `inside`, without what a move under way has there a second time, and with what lost members had.
fn bytes_of(situation: &Situation<'_>, ring: &Ring, inside: &dyn Fn(&NodeId) -> bool) -> u64 {
    let nodes = || situation.observed.nodes().map(|(_, node)| node).filter(|node| inside(&node.id));
    let (bytes, copies) = (nodes().map(|node| node.bytes).sum::<u64>(), nodes().map(|node| u64::from(node.copies)).sum::<u64>());
    let homes = ring.partitions().map(|(_, placement)| placement.replicas.iter().filter(|node| inside(node)).count() as u64);
    let counted = (u128::from(bytes) * u128::from(homes.sum::<u64>())).checked_div(u128::from(copies));
    counted.and_then(|counted| u64::try_from(counted).ok()).unwrap_or(bytes)
}

impl Situation<'_> {
    /// The size of the volume of `node`.
    fn volume_bytes(&self, node: NodeId) -> Option<u64> {
        let volume = self.place_of(node).and_then(|place| self.observed.volumes.get(place));
        let sizes = volume.into_iter().flat_map(|volume| [volume.capacity.as_str(), volume.size.as_str()]);
        let size = sizes.chain([self.cluster.storage.size.as_str()]).find(|size| !size.is_empty())?;
        quantity::parse(size).map(Quantity::whole)
    }
}
