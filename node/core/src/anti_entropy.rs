//! Anti-entropy: replicas of a partition compare their hash trees and exchange what differs (paper 4.7).
//!
//! ```text
//! A: TreeRequest(root) -> B: TreeResponse(equal: root only | leaves) -> A: KeysRequest(its keys and digests in a few leaves)
//!   -> B: KeysResponse(objects that A lacks, names that B wants) -> A: joins, Push(wanted)
//! ```
//!
//! Correctness rests here: hints and read repair only make it faster. An exchange moves a bounded amount; what is left over is
//! found by the next. Two idle rounds between equal replicas send two small messages each and repair nothing.

use crate::id::{NodeId, PartitionId};
use crate::random::Random;
use crate::ring::Ring;

/// Leaves of which one exchange compares the keys: bounds a message to a fraction of a partition.
pub const LEAVES_PER_EXCHANGE: usize = 8;
/// Keys that one exchange lists; more leaves wait for the next.
pub const KEYS_PER_EXCHANGE: usize = 2_048;

/// Walks this node's partitions, one exchange at a time, with a random other replica.
#[derive(Clone, Debug, Default)]
pub struct Rounds {
    next: u32,
    /// The running exchange's number, and whom it is with.
    exchange: u64,
    /// Exchanges that found nothing since the last that found something.
    idle: u64,
}

impl Rounds {
    /// The next partition to compare, and with whom: in turn, skipping those that `reachable` rules out.
    pub fn next(
        &mut self,
        ring: &Ring,
        own: NodeId,
        random: &mut Random,
        reachable: impl Fn(NodeId) -> bool,
    ) -> Option<(u64, PartitionId, NodeId)> {
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
                self.exchange += 1;
                return Some((self.exchange, partition, others[random.below(others.len())]));
            }
        }
        None
    }

    /// Whether `exchange` is the one that runs: answers to earlier ones are dropped.
    pub fn is_current(&self, exchange: u64) -> bool {
        self.exchange == exchange
    }
}

impl Rounds {
    /// Notes what an exchange found, for the metric of idle exchanges.
    pub fn found(&mut self, differences: usize) {
        self.idle = if differences == 0 { self.idle + 1 } else { 0 };
    }

    /// Exchanges that found nothing since the last that found something.
    pub fn idle(&self) -> u64 {
        self.idle
    }
}
