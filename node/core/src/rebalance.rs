//! Plans and their safe execution: from one set of members to another (paper 4.9, 6.2; design 3 and 7).
//!
//! [`first_ring`] and [`next`] are what a writer of rings calls: the operator, or `dynamoctl` without Kubernetes. Both are pure
//! and deterministic, so that a writer that crashed asks again and gets the same answer. [`next`] passes a stage only on
//! evidence: a node's own fresh answer that names the ring's hash. A node that did not answer has no [`View`], and blocks.
//!
//! ```text
//! Settled --members differ--> Propose(WriteBothReadOld) --all hold it, data received--> Propose(WriteBothReadNew)
//!    ^                                                                                            | all hold it
//!    '-- Propose(without) <--receipts-- AwaitReceipts <--members leave-- Propose(Steady) <--------'
//! ```
//!
//! Who holds what is decided in [`assignment`]. A member whose disk is gone for ever never answers: [`loss`] says who may declare
//! that and what follows. Nothing waits for the word of a member that was declared lost, and for everybody else's as before.

pub mod assignment;
pub mod certificate;
mod flow;
pub mod loss;
mod shares;

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::id::{ClusterId, Epoch, NodeId, PartitionId};
use crate::ring::{Lost, Member, Move, PARTITION_BITS_MAX, Placement, Ring, RingHash, Stage};

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
    if partition_bits > PARTITION_BITS_MAX {
        return Err(PlanError::Invalid("a ring has at most 65,536 partitions"));
    }
    let none = vec![Vec::new(); 1 << partition_bits];
    let placements = assignment::assign(&none, members, replication)?;
    Ok(Ring {
        cluster,
        epoch: Epoch(1),
        parent: RingHash::default(),
        partition_bits,
        replication,
        members: members.clone(),
        lost: Lost::new(),
        placements: placements.into_iter().map(|replicas| Placement { replicas, moving: None }).collect(),
    })
}

/// What comes next on the way from `ring` to a ring of the `desired` members.
pub fn next(ring: &Ring, desired: &Members, views: &BTreeMap<NodeId, View>) -> Result<Next, PlanError> {
    let hash = ring.hash();
    let holds = |node: &NodeId| views.get(node).is_some_and(|view| view.epoch == ring.epoch && view.ring_hash == hash);
    let behind: Vec<NodeId> = ring.survivors().filter(|node| !holds(node)).collect();
    if !behind.is_empty() {
        return Ok(Next::AwaitEpoch(behind));
    }
    if let Some(back) = loss::taken_back(ring) {
        return Ok(Next::Propose(back));
    }
    if ring.moving().next().is_some() {
        return Ok(advance(ring, views));
    }
    let stays = |node: &NodeId| desired.contains_key(node) && !ring.is_lost(*node);
    let leaving: Vec<NodeId> = ring.members.keys().filter(|node| !stays(node)).copied().collect();
    let held: Vec<Vec<NodeId>> = ring.placements.iter().map(|placement| placement.replicas.clone()).collect();
    let mut members = desired.clone();
    members.retain(|node, _| !ring.is_lost(*node));
    let target = assignment::assign(&held, &members, ring.replication)?;
    members.extend(leaving.iter().map(|node| (*node, Member { weight: 0, ..ring.members[node].clone() })));
    if target != held || members != ring.members {
        return Ok(Next::Propose(ring.successor(|next| {
            next.members = members;
            for (placement, target) in next.placements.iter_mut().zip(target) {
                start(placement, target, ring.epoch.next());
            }
        })));
    }
    let (lost, leaving): (Vec<NodeId>, Vec<NodeId>) = leaving.into_iter().partition(|node| ring.is_lost(*node));
    if !lost.is_empty() {
        return Ok(Next::Propose(without(ring, &lost)));
    }
    Ok(if leaving.is_empty() { Next::Settled } else { Next::AwaitReceipts(leaving) })
}

/// The successor of `ring` that no longer lists `leaving`, which hold nothing by it: each gave a drain receipt, or was declared lost.
pub fn without(ring: &Ring, leaving: &[NodeId]) -> Ring {
    for node in leaving {
        assert_eq!(ring.partitions_of(*node), 0, "{node} still holds partitions and cannot leave");
    }
    ring.successor(|next| next.members.retain(|node, _| !leaving.contains(node)))
}

fn start(placement: &mut Placement, target: Vec<NodeId>, since: Epoch) {
    let held: BTreeSet<_> = placement.replicas.iter().collect();
    if held == target.iter().collect() {
        // The same nodes in another order: nothing has to move.
        placement.replicas = target;
    } else {
        placement.moving = Some(Move { stage: Stage::WriteBothReadOld, target, since });
    }
}

/// All moves of a plan stand at the same stage: the next one, once its evidence is complete.
fn advance(ring: &Ring, views: &BTreeMap<NodeId, View>) -> Next {
    let mut waiting_for = BTreeSet::new();
    let (mut received, mut moving) = (0, 0);
    for (partition, placement, _) in ring.moving().filter(|(_, _, moving)| moving.stage == Stage::WriteBothReadOld) {
        for (node, sources) in placement.fills(&ring.lost) {
            moving += 1;
            // With no source left there is nothing to wait for: that is what was accepted when the last of them was declared lost.
            if sources.is_empty() || views.get(&node).is_some_and(|view| view.received.contains(&partition)) {
                received += 1;
            } else {
                waiting_for.insert(node);
            }
        }
    }
    if received < moving {
        return Next::AwaitData { received, moving, waiting_for: waiting_for.into_iter().collect() };
    }
    Next::Propose(ring.successor(|next| {
        for placement in &mut next.placements {
            match placement.moving.take() {
                Some(moving @ Move { stage: Stage::WriteBothReadOld, .. }) => {
                    placement.moving = Some(Move { stage: Stage::WriteBothReadNew, ..moving });
                }
                Some(Move { stage: Stage::WriteBothReadNew, target, .. }) => placement.replicas = target,
                None => {}
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::tests::node;

    fn members(count: u8) -> Members {
        (1..=count).map(|id| (node(id), Member { zone: "z".into(), weight: 1 })).collect()
    }

    /// Every member has adopted the ring and received what moves to it.
    fn all_caught_up(ring: &Ring) -> BTreeMap<NodeId, View> {
        let received: BTreeSet<_> = ring.moving().map(|(partition, _, _)| partition).collect();
        let view = View { epoch: ring.epoch, ring_hash: ring.hash(), received };
        ring.members.keys().map(|node| (*node, view.clone())).collect()
    }

    fn run(mut ring: Ring, desired: &Members) -> Ring {
        for _ in 0..20 {
            match next(&ring, desired, &all_caught_up(&ring)).unwrap() {
                Next::Settled => return ring,
                Next::Propose(successor) => {
                    successor.validate().unwrap();
                    successor.check_follows(Some(&ring), ring.cluster).unwrap();
                    ring = successor;
                }
                Next::AwaitReceipts(leaving) => ring = without(&ring, &leaving),
                other => panic!("stuck at {other:?}"),
            }
        }
        panic!("does not settle");
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
        let answer = next(&moving, &members(4), &views).unwrap();
        assert!(matches!(answer, Next::AwaitData { waiting_for, .. } if waiting_for == [node(4)]));
    }

    #[test]
    fn a_shrink_below_n_has_no_plan() {
        let ring = first_ring(ClusterId([7; 16]), 4, 3, &members(3)).unwrap();
        let answer = next(&ring, &members(2), &all_caught_up(&ring));
        assert_eq!(answer, Err(PlanError::TooFewMembers { members: 2, replication: 3 }));
    }
}
