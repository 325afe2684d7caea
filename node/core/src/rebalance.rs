//! Plans and their safe execution: from one set of members to another (paper 4.9, 6.2).
//!
//! [`first_ring`] and [`next`] are what a writer of rings calls: the operator, or `dynamoctl` without Kubernetes. Both are pure
//! and deterministic, so that a writer that crashed asks again and gets the same answer. [`next`] passes a stage only on
//! evidence: a node's own fresh answer that names the ring's hash. A node that did not answer has no [`View`], and blocks.
//!
//! ```text
//! a partition:  Steady --a batch has room--> WriteBothReadOld --received--> WriteBothReadNew --> Steady
//!                 ^                                |  ^                           |
//!                 '---------- other members -------'  '------ other members ------'     (one stage with each ring)
//!
//! the ring:     what moves goes on, and the next batch begins  ...  nothing moves
//!                 --members leave--> AwaitReceipts --receipts--> Propose(without) --> Settled
//! ```
//!
//! Every stage begins when all members hold the ring of the one before. Who holds what in the end is decided in [`assignment`]; how
//! much of that moves at the same time, and when what has arrived goes on, in [`batches`]; what becomes of moves under way when other
//! members are asked for, in [`revision`]; how a change is begun, paused and given up by a command, in [`operation`]; which rings stay
//! recorded for members that are behind, in [`chain`]. A member whose disk is gone for ever never answers: [`loss`] says who may declare
//! that and what follows. Nothing waits for the word of a member that was declared lost, and for everybody else's as before.

pub mod assignment;
pub mod batches;
pub mod certificate;
pub mod chain;
mod flow;
pub mod loss;
pub mod operation;
pub mod order;
pub mod revision;
mod shares;

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::id::{ClusterId, Epoch, NodeId, PartitionId};
use crate::rebalance::batches::Limits;
use crate::ring::bucket_replication::BucketReplication;
use crate::ring::{Lost, Member, PARTITION_BITS_MAX, Placement, Ring, RingError, RingHash};

/// Who takes part.
pub type Members = BTreeMap<NodeId, Member>;

/// Why there is no plan.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum PlanError {
    /// N distinct nodes are needed for each partition.
    #[error("{members} members of weight above 0 cannot hold {replication} replicas on distinct nodes; add nodes or lower N")]
    TooFewMembers {
        /// How many can hold data.
        members: usize,
        /// N.
        replication: u8,
    },
    /// The zones cannot hold the replicas under the zone rule.
    #[error("the zones cannot hold {replication} replicas with at most {per_zone} in one zone; add nodes to the smaller zones")]
    ZonesTooSmall {
        /// N.
        replication: u8,
        /// Replicas that one zone may have.
        per_zone: usize,
    },
    /// A parameter out of bounds.
    #[error("{0}")]
    Invalid(&'static str),
    /// The ring that was asked for must not be.
    #[error(transparent)]
    Ring(#[from] RingError),
}

/// One node's own, fresh answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    /// The ring it holds.
    pub epoch: Epoch,
    /// That ring's hash.
    pub ring_hash: RingHash,
    /// The moving partitions of which it holds everything that its sources ever acknowledged.
    pub received: BTreeSet<PartitionId>,
}

/// What the writer of rings does next.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and most of them hold a ring")]
pub enum Next {
    /// The ring is what the members ask for, and every node holds it.
    Settled,
    /// Record this ring, then offer it to every node.
    Propose(Ring),
    /// These nodes have not, or not verifiably, adopted the ring.
    AwaitEpoch(Vec<NodeId>),
    /// Data is on its way.
    AwaitData {
        /// Replicas that have everything.
        received: usize,
        /// Replicas that are being filled.
        moving: usize,
        /// Nodes that are being filled.
        waiting_for: Vec<NodeId>,
    },
    /// These hold nothing by the ring. With a drain receipt of each, [`without`] takes them out of it.
    AwaitReceipts(Vec<NodeId>),
}

/// The first ring of a cluster: epoch 1, balanced.
pub fn first_ring(cluster: ClusterId, partition_bits: u8, replication: u8, members: &Members) -> Result<Ring, PlanError> {
    first_ring_with(cluster, partition_bits, replication, BucketReplication::default(), members)
}

/// The first ring of a cluster in which some buckets have an N of their own, for its life.
pub fn first_ring_with(
    cluster: ClusterId,
    partition_bits: u8,
    replication: u8,
    buckets: BucketReplication,
    members: &Members,
) -> Result<Ring, PlanError> {
    if partition_bits > PARTITION_BITS_MAX {
        return Err(PlanError::Invalid("a ring has at most 65,536 partitions"));
    }
    let none = vec![Vec::new(); 1 << partition_bits];
    let placements = order::spread(assignment::assign(&none, members, replication)?, members, &buckets);
    let ring = Ring {
        cluster,
        epoch: Epoch(1),
        parent: RingHash::default(),
        partition_bits,
        replication,
        buckets,
        members: members.clone(),
        lost: Lost::new(),
        operation: None,
        placements: placements.into_iter().map(|replicas| Placement { replicas, moving: None }).collect(),
    };
    ring.validate()?;
    Ok(ring)
}

/// What comes next on the way from `ring` to a ring of the `desired` members, within the usual limits.
pub fn next(ring: &Ring, desired: &Members, views: &BTreeMap<NodeId, View>) -> Result<Next, PlanError> {
    next_within(ring, desired, views, &Limits::default())
}

/// The same, with so much on the move at the same time as `limits` say.
pub fn next_within(ring: &Ring, desired: &Members, views: &BTreeMap<NodeId, View>, limits: &Limits) -> Result<Next, PlanError> {
    let hash = ring.hash();
    let holds = |node: &NodeId| views.get(node).is_some_and(|view| view.epoch == ring.epoch && view.ring_hash == hash);
    let behind: Vec<NodeId> = ring.survivors().filter(|node| !holds(node)).collect();
    if !behind.is_empty() {
        return Ok(Next::AwaitEpoch(behind));
    }
    if let Some(back) = loss::taken_back(ring) {
        return Ok(Next::Propose(back));
    }
    let members = members_after(ring, desired);
    if ring.moving().next().is_some() {
        if members == ring.members {
            return Ok(batches::advanced(ring, views, Some(limits)));
        }
        return Ok(match revision::revised(ring, &members, limits) {
            Ok(revised) => Next::Propose(revised),
            // Members of which there is no ring do not keep what is under way from coming to its end.
            Err(_) => batches::advanced(ring, views, None),
        });
    }
    let held: Vec<Vec<NodeId>> = ring.placements.iter().map(|placement| placement.replicas.clone()).collect();
    let target = order::planned(&held, &members, ring)?;
    if target != held || members != ring.members {
        return Ok(Next::Propose(ring.successor(|next| {
            next.members = members;
            batches::reorder(next, &target);
            batches::start(next, &target, ring.epoch.next(), limits);
        })));
    }
    let stays = |node: &NodeId| desired.contains_key(node) && !ring.is_lost(*node);
    let leaving = ring.members.keys().filter(|node| !stays(node)).copied();
    let (lost, leaving): (Vec<NodeId>, Vec<NodeId>) = leaving.partition(|node| ring.is_lost(*node));
    if !lost.is_empty() {
        return Ok(Next::Propose(without(ring, &lost)));
    }
    Ok(if leaving.is_empty() { Next::Settled } else { Next::AwaitReceipts(leaving) })
}

/// The desired members, and with weight 0 those of the ring that are to leave it: the plan that a ring follows is the one for its
/// members.
fn members_after(ring: &Ring, desired: &Members) -> Members {
    let stays = |node: &NodeId| desired.contains_key(node) && !ring.is_lost(*node);
    let leaving = ring.members.iter().filter(|(node, _)| !stays(node));
    let leaving = leaving.map(|(node, member)| (*node, Member { weight: 0, ..member.clone() }));
    let staying = desired.iter().filter(|(node, _)| !ring.is_lost(**node));
    staying.map(|(node, member)| (*node, member.clone())).chain(leaving).collect()
}

/// The successor of `ring` that no longer lists `leaving`, which hold nothing by it: each gave a drain receipt, or was declared lost.
pub fn without(ring: &Ring, leaving: &[NodeId]) -> Ring {
    for node in leaving {
        assert_eq!(ring.partitions_of(*node), 0, "{node} still holds partitions and cannot leave");
    }
    ring.successor(|next| next.members.retain(|node, _| !leaving.contains(node)))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::ring::Stage;
    use crate::ring::tests::node;

    /// Rings until a plan of a few thousand partitions counts as stuck.
    const RINGS_MAX: usize = 2_000;

    pub(super) fn members(count: u8) -> Members {
        (1..=count).map(|id| (node(id), Member { zone: "z".into(), weight: 1 })).collect()
    }

    /// The ring of the nodes 1 to `count`, with 2^`bits` partitions and N = 3.
    pub(super) fn settled(count: u8, bits: u8) -> Ring {
        first_ring(ClusterId([7; 16]), bits, 3, &members(count)).unwrap()
    }

    /// Every member has adopted the ring and received what moves to it.
    pub(super) fn all_caught_up(ring: &Ring) -> BTreeMap<NodeId, View> {
        let received: BTreeSet<_> = ring.moving().map(|(partition, _, _)| partition).collect();
        let view = View { epoch: ring.epoch, ring_hash: ring.hash(), received };
        ring.members.keys().map(|node| (*node, view.clone())).collect()
    }

    /// One step of a writer to whom everybody answers; `None` at the end.
    pub(super) fn step(ring: &Ring, desired: &Members, views: &BTreeMap<NodeId, View>, limits: &Limits) -> Option<Ring> {
        let successor = match next_within(ring, desired, views, limits).unwrap() {
            Next::Settled => return None,
            Next::Propose(successor) => successor,
            Next::AwaitReceipts(leaving) => without(ring, &leaving),
            other => panic!("stuck at {other:?}"),
        };
        successor.validate().unwrap();
        successor.check_follows(Some(ring), ring.cluster).unwrap();
        Some(successor)
    }

    /// All the rings on the way from `ring` to `desired`.
    pub(super) fn rings(ring: &Ring, desired: &Members, limits: &Limits) -> Vec<Ring> {
        let mut rings = vec![ring.clone()];
        while let Some(next) = step(rings.last().unwrap(), desired, &all_caught_up(rings.last().unwrap()), limits) {
            rings.push(next);
            assert!(rings.len() < RINGS_MAX, "does not settle");
        }
        rings
    }

    fn run(ring: Ring, desired: &Members) -> Ring {
        rings(&ring, desired, &Limits::default()).pop().unwrap()
    }

    #[test]
    fn a_cluster_grows_and_shrinks_through_every_stage_and_settles() {
        let ring = first_ring(ClusterId([7; 16]), 6, 3, &members(3)).unwrap();
        let grown = run(ring.clone(), &members(5));
        assert_eq!(grown.epoch, Epoch(4), "move, read new, steady");
        assert_eq!(grown.members, members(5));
        let shrunk = run(grown, &members(3));
        assert_eq!(shrunk.members, members(3));
        for id in 1..=3 {
            assert_eq!(shrunk.partitions_of(node(id)), 64);
        }
    }

    #[test]
    fn no_stage_is_passed_without_every_members_fresh_answer() {
        let ring = first_ring(ClusterId([7; 16]), 4, 3, &members(3)).unwrap();
        let mut views = all_caught_up(&ring);
        views.remove(&node(2));
        assert_eq!(next(&ring, &members(5), &views), Ok(Next::AwaitEpoch(vec![node(2)])));
        let mut views = all_caught_up(&ring);
        views.get_mut(&node(3)).unwrap().ring_hash = RingHash([9; 32]);
        assert_eq!(next(&ring, &members(5), &views), Ok(Next::AwaitEpoch(vec![node(3)])));
        assert_eq!(next(&ring, &members(3), &BTreeMap::new()).unwrap(), Next::AwaitEpoch(vec![node(1), node(2), node(3)]));
    }

    #[test]
    fn reads_move_to_the_new_replicas_only_when_each_has_received_everything() {
        let ring = first_ring(ClusterId([7; 16]), 4, 3, &members(3)).unwrap();
        let Next::Propose(moving) = next(&ring, &members(4), &all_caught_up(&ring)).unwrap() else { panic!() };
        let mut views = all_caught_up(&moving);
        let missing = *views[&node(4)].received.iter().next().unwrap();
        views.get_mut(&node(4)).unwrap().received.remove(&missing);
        let mut ring = moving;
        for _ in 0..2 {
            let Next::Propose(successor) = next(&ring, &members(4), &views).unwrap() else { panic!() };
            ring = successor;
            views.values_mut().for_each(|view| (view.epoch, view.ring_hash) = (ring.epoch, ring.hash()));
        }
        assert_eq!(ring.placement(missing).moving.as_ref().unwrap().stage, Stage::WriteBothReadOld);
        assert_eq!(ring.moving().count(), 1, "the others are done");
        let answer = next(&ring, &members(4), &views).unwrap();
        assert!(matches!(answer, Next::AwaitData { waiting_for, .. } if waiting_for == [node(4)]));
    }

    #[test]
    fn a_cluster_with_layers_grows_and_shrinks_through_every_stage_and_settles() {
        let grown = run(batches::tests::with_layers(), &members(7));
        let shrunk = run(grown, &members(3));
        assert_eq!(shrunk.members, members(3));
        assert_eq!(shrunk.partitions().count(), 48);
    }

    #[test]
    fn a_shrink_below_n_has_no_plan() {
        let ring = first_ring(ClusterId([7; 16]), 4, 3, &members(3)).unwrap();
        let answer = next(&ring, &members(2), &all_caught_up(&ring));
        assert_eq!(answer, Err(PlanError::TooFewMembers { members: 2, replication: 3 }));
    }
}
