//! Anti-entropy: replicas of a partition compare their hash trees and exchange what differs (paper 4.7).
//!
//! ```text
//! A: TreeRequest(root) -> B: TreeResponse(equal: root only | leaves)
//!   window by window, through every leaf that differs:
//! A: KeysRequest(its keys and digests in the window) -> B: KeysResponse(objects that A lacks, names that B wants)
//!   -> A: joins, Push(wanted)
//! ```
//!
//! Correctness rests here: hints and read repair only make it faster. A leaf may have millions of objects, so it is compared in
//! windows, a bounded piece of a turn each, and either side may end a window early: the next begins where both have compared.
//! Two idle rounds between equal replicas send two small messages each and repair nothing.

use std::time::Duration;

use crate::id::{NodeId, PartitionId};
use crate::name::Name;
use crate::random::Random;
use crate::ring::Ring;
use crate::time::Instant;

/// Bytes that one side reads for a window at most, and what the last object has over that. Objects are as many as in a pushed batch.
pub const BYTES_PER_WINDOW: usize = 256 << 10;

/// Leaves are compared without another look at the trees for so long.
const FRESH_FOR: Duration = Duration::from_secs(2);

/// An exchange that this node began.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// What is compared.
    pub partition: PartitionId,
    /// With whom.
    pub with: NodeId,
    /// Where it stands.
    pub step: Step,
    /// Leaves that differed and are not compared yet; the last is the next.
    pub leaves: Vec<usize>,
    /// When they were found to differ.
    pub found: Instant,
    /// The last name of that leaf that is compared.
    pub after: Option<Name>,
}

/// Where an exchange stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// The other tree was asked for; no answer counts after this.
    Tree(Instant),
    /// The next window waits for its turn.
    Ready,
    /// A window was asked about, up to this name or to the end of the leaf; no answer counts after this.
    Keys(Option<Name>, Instant),
}

impl Exchange {
    /// The tree is asked for.
    pub fn begin(partition: PartitionId, with: NodeId, deadline: Instant) -> Self {
        Self { partition, with, step: Step::Tree(deadline), leaves: Vec::new(), found: deadline, after: None }
    }

    /// Whether an answer is overdue.
    pub fn is_lost(&self, now: Instant) -> bool {
        matches!(self.step, Step::Tree(deadline) | Step::Keys(_, deadline) if deadline <= now)
    }

    /// The other tree is here: these leaves differ.
    pub fn differing(&mut self, leaves: Vec<usize>, now: Instant) {
        (self.leaves, self.found, self.step) = (leaves, now, Step::Ready);
    }

    /// Both sides have compared up to `reached`, or to the end of the leaf. False if nothing is left, or what is left was found too
    /// long ago: hints may have filled it, and the trees know. A leaf that was begun is compared to its end all the same.
    pub fn advance(&mut self, reached: Option<Name>, now: Instant) -> bool {
        let at_end = reached.is_none();
        if at_end {
            self.leaves.pop();
        }
        self.after = reached;
        self.step = Step::Ready;
        !(self.leaves.is_empty() || at_end && now.since(self.found) > FRESH_FOR)
    }
}

/// Walks this node's partitions in turn, each with a random other replica.
#[derive(Clone, Debug, Default)]
pub struct Rounds {
    next: u32,
}

impl Rounds {
    /// The next partition to compare, and with whom: in turn, skipping those that `reachable` rules out.
    pub fn next(
        &mut self,
        ring: &Ring,
        own: NodeId,
        random: &mut Random,
        reachable: impl Fn(NodeId) -> bool,
    ) -> Option<(PartitionId, NodeId)> {
        let count = ring.partition_count_of_layers() as u32;
        for _ in 0..count {
            let partition = PartitionId(self.next % count);
            self.next = (self.next + 1) % count;
            // During a move the transfer fills the new replicas; comparing them early would move everything twice.
            let placement = ring.placement(partition);
            if placement.moving.is_some() || !placement.replicas.contains(&own) {
                continue;
            }
            let others: Vec<NodeId> =
                placement.replicas.iter().filter(|node| **node != own && reachable(**node)).copied().collect();
            if !others.is_empty() {
                return Some((partition, others[random.below(others.len())]));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_that_were_found_long_ago_are_not_begun_and_one_that_was_begun_is_compared_to_its_end() {
        let at = |seconds: u64| Instant(seconds * 1_000_000);
        let (name, other) = (Name::new("b", "k"), Name::new("b", "l"));
        let begun = || {
            let mut exchange = Exchange::begin(PartitionId(0), NodeId([2; 16]), at(10));
            exchange.differing(vec![1, 2, 3], at(1));
            exchange
        };
        let mut exchange = begun();
        assert!(exchange.advance(Some(name.clone()), at(2)) && exchange.leaves == [1, 2, 3]);
        assert!(exchange.advance(Some(other.clone()), at(9)), "in the middle of a leaf, whatever the time");
        assert_eq!((&exchange.after, &exchange.leaves), (&Some(other), &vec![1, 2, 3]));
        assert!(!exchange.advance(None, at(9)), "the trees are asked again before the next leaf");
        let mut exchange = begun();
        assert!(exchange.advance(None, at(2)) && exchange.leaves == [1, 2]);
        assert!(exchange.advance(None, at(3)) && !exchange.advance(None, at(3)), "the last");
    }
}
