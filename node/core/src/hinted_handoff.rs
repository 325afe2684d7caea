//! Hinted handoff: a fallback's copies on their way home (paper 4.6).
//!
//! A hint is a copy kept for a home replica that could not be reached, in a column family of its own. It is delivered as a join,
//! one batch at a time and target, and removed only on the target's durable acknowledgement, and only if it has not changed
//! since it was sent. Totals per target are bounded in bytes: over the bound no more hints are taken for it (the put fails over
//! to the next fallback) and anti-entropy carries the rest.

use std::collections::BTreeMap;

use crate::id::{NodeId, PartitionId};
use crate::name::Name;
use crate::time::Instant;
use crate::version::Digest;

/// A batch under way.
#[derive(Clone, Debug)]
pub struct Batch {
    /// To whom.
    pub target: NodeId,
    /// What was sent, with the digest of what was sent.
    pub hints: Vec<(PartitionId, Name, Digest)>,
    /// When it counts as lost.
    pub deadline: Instant,
}

/// Hints kept, and deliveries under way.
#[derive(Clone, Debug, Default)]
pub struct HintedHandoff {
    totals: BTreeMap<NodeId, (u64, u64)>,
    batches: BTreeMap<u64, Batch>,
}

impl HintedHandoff {
    /// With the totals that the storage holds at start.
    pub fn new(totals: BTreeMap<NodeId, (u64, u64)>) -> Self {
        Self { totals, batches: BTreeMap::new() }
    }

    /// Hints and bytes kept, by target.
    pub fn totals(&self) -> &BTreeMap<NodeId, (u64, u64)> {
        &self.totals
    }

    /// Hints kept for all targets.
    pub fn total(&self) -> u64 {
        self.totals.values().map(|(hints, _)| hints).sum()
    }

    /// Bytes kept for `target`.
    pub fn bytes_for(&self, target: NodeId) -> u64 {
        self.totals.get(&target).map_or(0, |(_, bytes)| *bytes)
    }

    /// A hint of `bytes` was stored, in place of one of `before` bytes if there was one.
    pub fn stored(&mut self, target: NodeId, before: Option<usize>, bytes: usize) {
        let total = self.totals.entry(target).or_default();
        total.0 += u64::from(before.is_none());
        total.1 = (total.1 + bytes as u64).saturating_sub(before.unwrap_or(0) as u64);
    }

    /// A hint of `bytes` was removed.
    pub fn removed(&mut self, target: NodeId, bytes: usize) {
        if let Some(total) = self.totals.get_mut(&target) {
            *total = (total.0.saturating_sub(1), total.1.saturating_sub(bytes as u64));
            if total.0 == 0 {
                self.totals.remove(&target);
            }
        }
    }

    /// Targets with hints and no batch under way.
    pub fn due(&self) -> Vec<NodeId> {
        let busy = |target: &NodeId| self.batches.values().any(|batch| batch.target == *target);
        self.totals.keys().filter(|target| !busy(target)).copied().collect()
    }

    /// A batch was sent under `number`.
    pub fn sent(&mut self, number: u64, batch: Batch) {
        self.batches.insert(number, batch);
    }

    /// The batch `number` was answered by `target`: hands it back.
    pub fn answered(&mut self, target: NodeId, number: u64) -> Option<Batch> {
        if self.batches.get(&number).is_some_and(|batch| batch.target == target) { self.batches.remove(&number) } else { None }
    }

    /// Gives up batches whose answer is overdue; their hints will be sent again.
    pub fn expire(&mut self, now: Instant) {
        self.batches.retain(|_, batch| batch.deadline > now);
    }
}
