//! Who holds a key, in order: the N replicas, then who stands in for them (paper 4.3, 4.6).
//!
//! The list is longer than N, names distinct nodes only, and every node computes the same one from the same ring. Stand-ins
//! ("fallbacks") are all other members, in an order that rendezvous hashing gives each partition: one node's failure spreads
//! over all the others instead of doubling the load of a neighbour. Members of weight 0 are on their way out and come last. Once such a
//! member holds no partition any more no write counts on it as a stand-in: it may have said already that it holds nothing
//! ([`crate::node::Node::drain_receipt`]), and leave the ring while it is cut off; what it took since would be missed by everybody who
//! then asks all members.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use smallvec::SmallVec;

use crate::id::{Epoch, NodeId, PartitionId};
use crate::ring::Ring;

/// The replicas of a partition. N is 3 where nobody wants otherwise, and a request asks for them several times.
pub type Nodes = SmallVec<[NodeId; 3]>;

/// Partitions whose fallbacks are remembered: with a hundred members, some 6 MB.
const RANKED_MAX: usize = 4_096;

/// The fallbacks of the partitions that requests asked for, under one ring: ranking all members of a large cluster costs more
/// than the rest of a request.
#[derive(Clone, Debug, Default)]
pub struct Ranking {
    epoch: Epoch,
    ranked: BTreeMap<PartitionId, Arc<[NodeId]>>,
    /// Members that may have said that they hold nothing: found once in each epoch.
    drained: Option<(Epoch, BTreeSet<NodeId>)>,
}

impl Ranking {
    /// What [`fallbacks`] says.
    pub fn of(&mut self, ring: &Ring, partition: PartitionId) -> Arc<[NodeId]> {
        if self.epoch != ring.epoch || self.ranked.len() >= RANKED_MAX {
            self.epoch = ring.epoch;
            self.ranked.clear();
        }
        self.ranked.entry(partition).or_insert_with(|| fallbacks(ring, partition).into()).clone()
    }

    /// Whether a write may count on `node` as a stand-in.
    pub fn may_stand_in(&mut self, ring: &Ring, node: NodeId) -> bool {
        if self.drained.as_ref().is_none_or(|(epoch, _)| *epoch != ring.epoch) {
            let drained = ring.members.keys().copied().filter(|member| is_drained(ring, *member)).collect();
            self.drained = Some((ring.epoch, drained));
        }
        ring.members.contains_key(&node) && self.drained.as_ref().is_some_and(|(_, drained)| !drained.contains(&node))
    }
}

/// Whether `node` is a member on its way out that holds no partition by `ring`, and may have given its drain receipt.
pub fn is_drained(ring: &Ring, node: NodeId) -> bool {
    ring.members.get(&node).is_some_and(|member| member.weight == 0) && ring.partitions_of(node) == 0
}

/// The members that stand in for an unreachable replica of `partition`, best first.
pub fn fallbacks(ring: &Ring, partition: PartitionId) -> Vec<NodeId> {
    let placement = ring.placement(partition);
    let mut ranked: Vec<(bool, u64, NodeId)> = ring
        .members
        .iter()
        .filter(|(node, _)| !placement.involves(**node))
        .map(|(node, member)| {
            let score = xxhash_rust::xxh3::xxh3_64_with_seed(&node.0, u64::from(partition.0));
            (member.weight == 0, score, *node)
        })
        .collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, _, node)| node).collect()
}

/// The whole list: those that reads go to, then others that writes go to during a move, then the fallbacks.
pub fn of(ring: &Ring, partition: PartitionId) -> Vec<NodeId> {
    let mut list = ring.placement(partition).writers().into_vec();
    list.extend(fallbacks(ring, partition));
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::tests::ring_of;

    #[test]
    fn the_list_names_every_member_once_and_the_replicas_first() {
        let ring = ring_of(6, 4);
        for (partition, placement) in ring.partitions() {
            let list = of(&ring, partition);
            assert_eq!(list[..3], placement.replicas[..]);
            assert_eq!(list.iter().collect::<BTreeSet<_>>().len(), 6);
        }
    }

    #[test]
    fn what_is_remembered_is_what_the_ring_says_now() {
        let ring = ring_of(6, 4);
        let mut ranking = Ranking::default();
        for _ in 0..2 {
            ring.partitions()
                .for_each(|(partition, _)| assert_eq!(ranking.of(&ring, partition)[..], fallbacks(&ring, partition)));
        }
        let partition = PartitionId(3);
        let next = ring.successor(|next| next.placements[3].replicas.reverse());
        let moved = next.successor(|next| next.placements[3].replicas[0] = fallbacks(&ring, partition)[0]);
        assert_eq!(ranking.of(&moved, partition)[..], fallbacks(&moved, partition));
        assert_ne!(fallbacks(&moved, partition), fallbacks(&ring, partition));
    }

    #[test]
    fn one_nodes_stand_ins_are_spread_over_the_others() {
        let ring = ring_of(12, 10);
        let mut first = BTreeMap::<_, usize>::new();
        for (partition, _) in ring.partitions() {
            *first.entry(fallbacks(&ring, partition)[0]).or_default() += 1;
        }
        assert_eq!(first.len(), 12);
        assert!(first.values().all(|count| *count < 2 * 1024 / 12), "{first:?}");
    }
}
