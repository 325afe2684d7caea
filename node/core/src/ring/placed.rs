//! Who holds a partition, as everybody asks it: the nodes of its preference list that its layer takes (paper 4.3).
//!
//! A [`Placed`] is a look at a [`Placement`], cut to the first n nodes of each of its sets. It is what [`super::Ring::placement`]
//! gives, so nobody meets a list that is longer than the N of the objects it is asked for.

use super::{Lost, Move, Placement, Stage};
use crate::id::{Epoch, NodeId};
use crate::preference_list::Nodes;
use smallvec::{SmallVec, smallvec};

/// Who holds a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placed<'ring> {
    /// The replicas, the primary first. During a move: the old set.
    pub replicas: &'ring [NodeId],
    /// The move under way, if any.
    pub moving: Option<Moving<'ring>>,
}

/// A move that is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moving<'ring> {
    /// How far it is.
    pub stage: Stage,
    /// The replicas that the partition will have, the primary first.
    pub target: &'ring [NodeId],
    /// The epoch that began the move: what was received under an earlier one proves nothing.
    pub since: Epoch,
}

impl Placement {
    /// The first `n` nodes of each set.
    pub fn first(&self, n: u8) -> Placed<'_> {
        let cut = |set: &[NodeId]| set.len().min(usize::from(n));
        let moving = self.moving.as_ref().map(|Move { stage, target, since }| {
            let target = &target[..cut(target)];
            Moving { stage: *stage, target, since: *since }
        });
        Placed { replicas: &self.replicas[..cut(&self.replicas)], moving }
    }

    /// All nodes of each set.
    pub fn whole(&self) -> Placed<'_> {
        self.first(u8::MAX)
    }
}

impl<'ring> Placed<'ring> {
    /// The sets of which each must reach its write quorum.
    pub fn write_sets(self) -> SmallVec<[&'ring [NodeId]; 2]> {
        let mut sets = smallvec![self.replicas];
        if let Some(moving) = self.moving {
            sets.push(moving.target);
        }
        sets
    }

    /// The set that gets are answered from.
    pub fn read_set(self) -> &'ring [NodeId] {
        match self.moving {
            Some(Moving { stage: Stage::WriteBothReadNew, target, .. }) => target,
            _ => self.replicas,
        }
    }

    /// Everyone that puts go to: the read set first.
    pub fn writers(self) -> Nodes {
        let mut writers = Nodes::from_slice(self.read_set());
        if let Some(moving) = self.moving {
            for node in self.replicas.iter().chain(moving.target) {
                if !writers.contains(node) {
                    writers.push(*node);
                }
            }
        }
        writers
    }

    /// Whether `node` is to hold this partition, in the old set or the new one.
    pub fn involves(self, node: NodeId) -> bool {
        self.replicas.contains(&node) || self.moving.is_some_and(|moving| moving.target.contains(&node))
    }

    /// The move's new replicas and the old ones they are filled from: the one that each replaces. Where the new set has more
    /// members than the old, or the one that is replaced is among `lost`, all old replicas that are left are sources: a write
    /// that the lost one acknowledged together with another is on that other, whichever it was.
    pub fn fills(self, lost: &Lost) -> Vec<(NodeId, Vec<NodeId>)> {
        let Some(moving) = self.moving else { return Vec::new() };
        let left = || self.replicas.iter().filter(|node| !lost.contains_key(node)).copied().collect();
        let mut leaving = self.replicas.iter().filter(|node| !moving.target.contains(node));
        let arriving = moving.target.iter().filter(|node| !self.replicas.contains(node));
        let sources = |replaced: Option<&NodeId>| match replaced {
            Some(replaced) if !lost.contains_key(replaced) => vec![*replaced],
            _ => left(),
        };
        arriving.map(|node| (*node, sources(leaving.next()))).collect()
    }
}
