//! Hinted handoff: a fallback's copies on their way home (paper 4.6).
//!
//! A hint is a copy kept for a home replica that could not be reached, in a column family of its own. It is delivered as a join,
//! one batch at a time and target, and removed only on the target's durable acknowledgement, and only if it has not changed
//! since it was sent. Each batch goes on where the one before it ended: what was removed is still there for a scan, as tombstones
//! that it would have to step over again and again.
//!
//! What bounds them: as long as a put has home replicas enough for its quorum, nobody waits for what a stand-in keeps beside them.
//! Such hints have a quota in bytes for each target; over it no more are taken (the put asks the next fallback) and anti-entropy
//! carries the rest. Hints that a quorum needs are one of the W copies that are promised to whoever reaches W nodes, however long the
//! others are away: those are taken beyond the quota, as long as the disk has more than its reserve (`node/space.rs`). A hint
//! that takes another's place without being longer is always taken. The coordinator's word says which is which ([`HintFor`]): it alone
//! knows the quorum that was asked for, and who answers.
//!
//! The oldest are not dropped for new ones, not even those that no quorum needed for those that one needs. Whoever counts
//! acknowledgements takes those that come first: a stand-in that was asked to spare anti-entropy some work may well have been one of
//! the W, and nothing on its disk says so.

use std::collections::BTreeMap;

use crate::id::{NodeId, PartitionId};
use crate::name::Name;
use crate::time::Instant;

/// For whom a stand-in keeps a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HintFor {
    /// The home replica.
    pub home: NodeId,
    /// Its put's quorum cannot be had from home replicas alone: it is kept beyond the quota.
    pub needed: bool,
}

/// A batch under way.
#[derive(Clone, Debug)]
pub struct Batch {
    /// To whom.
    pub target: NodeId,
    /// Of which partition.
    pub partition: PartitionId,
    /// What was sent and is kept unchanged, with its bytes.
    pub hints: BTreeMap<Name, usize>,
    /// When it counts as lost.
    pub deadline: Instant,
}

/// Hints kept, and deliveries under way.
#[derive(Clone, Debug, Default)]
pub struct HintedHandoff {
    totals: BTreeMap<NodeId, (u64, u64)>,
    batches: BTreeMap<u64, Batch>,
    /// All hints at or before this are under way, by target.
    passed: BTreeMap<NodeId, (PartitionId, Name)>,
}

impl HintedHandoff {
    /// With the totals that the storage holds at start.
    pub fn new(totals: BTreeMap<NodeId, (u64, u64)>) -> Self {
        Self { totals, ..Self::default() }
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

    /// Behind which place the next batch for `target` begins; `None` for the beginning.
    pub fn passed(&self, target: NodeId) -> Option<&(PartitionId, Name)> {
        self.passed.get(&target)
    }

    /// A hint of `bytes` was stored, in place of one of `before` bytes if there was one.
    pub fn stored(&mut self, target: NodeId, (partition, name): (PartitionId, &Name), before: Option<usize>, bytes: usize) {
        let total = self.totals.entry(target).or_default();
        total.0 += u64::from(before.is_none());
        total.1 = (total.1 + bytes as u64).saturating_sub(before.unwrap_or(0) as u64);
        self.changed(target, partition, name);
        if self.passed.get(&target).is_some_and(|(at, last)| (partition, name) <= (*at, last)) {
            self.go_back(target, partition);
        }
    }

    /// A hint of `bytes` was removed.
    pub fn removed(&mut self, target: NodeId, (partition, name): (PartitionId, &Name), bytes: usize) {
        self.changed(target, partition, name);
        if let Some(total) = self.totals.get_mut(&target) {
            *total = (total.0.saturating_sub(1), total.1.saturating_sub(bytes as u64));
            if total.0 == 0 {
                self.totals.remove(&target);
                self.passed.remove(&target);
            }
        }
    }

    /// An acknowledgement of what was sent says nothing about this hint any more.
    fn changed(&mut self, target: NodeId, partition: PartitionId, name: &Name) {
        for batch in self.batches.values_mut() {
            if (batch.target, batch.partition) == (target, partition) {
                batch.hints.remove(name);
            }
        }
    }

    /// Some hints of `partition` are not under way any more, or never were.
    fn go_back(&mut self, target: NodeId, partition: PartitionId) {
        let before_all = (partition, Name::new("", ""));
        let passed = self.passed.entry(target).or_insert_with(|| before_all.clone());
        if *passed > before_all {
            *passed = before_all;
        }
    }

    /// Targets with hints and no batch under way.
    pub fn due(&self) -> Vec<NodeId> {
        let busy = |target: &NodeId| self.batches.values().any(|batch| batch.target == *target);
        self.totals.keys().filter(|target| !busy(target)).copied().collect()
    }

    /// A batch was sent under `number`.
    pub fn sent(&mut self, number: u64, batch: Batch) {
        if let Some((last, _)) = batch.hints.last_key_value() {
            self.passed.insert(batch.target, (batch.partition, last.clone()));
        }
        self.batches.insert(number, batch);
    }

    /// Nothing was found behind the place where the last batch ended: the next look is from the beginning.
    pub fn at_end(&mut self, target: NodeId) {
        self.passed.remove(&target);
    }

    /// The next batch for `target` begins with this partition.
    pub fn skip_to(&mut self, target: NodeId, partition: PartitionId) {
        self.passed.insert(target, (partition, Name::new("", "")));
    }

    /// What is under way to `target` is its hints no more: no answer to it counts.
    pub fn recall(&mut self, target: NodeId) {
        self.batches.retain(|_, batch| batch.target != target);
        self.passed.remove(&target);
    }

    /// The batch `number` was answered by `target`: hands it back if its hints were taken.
    pub fn answered(&mut self, target: NodeId, number: u64, taken: bool) -> Option<Answered> {
        if self.batches.get(&number)?.target != target {
            return None;
        }
        let batch = self.batches.remove(&number)?;
        if taken {
            return Some(Answered::Taken(batch));
        }
        self.go_back(batch.target, batch.partition);
        Some(Answered::Refused)
    }

    /// Gives up batches whose answer is overdue; their hints will be sent again.
    pub fn expire(&mut self, now: Instant) {
        for (_, lost) in self.batches.extract_if(.., |_, batch| batch.deadline <= now).collect::<Vec<_>>() {
            self.go_back(lost.target, lost.partition);
        }
    }
}

/// What came of a batch.
#[derive(Clone, Debug)]
pub enum Answered {
    /// What is left in it is there for good.
    Taken(Batch),
    /// Nothing of it was taken.
    Refused,
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: NodeId = NodeId([2; 16]);

    fn name(key: &str) -> Name {
        Name::new("b", key.to_owned())
    }

    fn at(partition: u32, key: &str) -> (PartitionId, Name) {
        (PartitionId(partition), name(key))
    }

    fn stored(hints: &mut HintedHandoff, partition: u32, key: &str, before: Option<usize>) {
        hints.stored(TARGET, (PartitionId(partition), &name(key)), before, 10);
    }

    fn sent(hints: &mut HintedHandoff, number: u64, partition: u32, keys: &[&str]) {
        let batch = keys.iter().map(|key| (name(key), 10)).collect();
        hints.sent(number, Batch { target: TARGET, partition: PartitionId(partition), hints: batch, deadline: Instant(100) });
    }

    #[test]
    fn a_batch_goes_on_where_the_one_before_it_ended() {
        let mut hints = HintedHandoff::default();
        ["a", "b", "c"].iter().for_each(|key| stored(&mut hints, 3, key, None));
        assert_eq!((hints.passed(TARGET), hints.total()), (None, 3));
        sent(&mut hints, 1, 3, &["a", "b"]);
        assert_eq!(hints.passed(TARGET), Some(&at(3, "b")));
        let Some(Answered::Taken(batch)) = hints.answered(TARGET, 1, true) else { panic!("it was sent") };
        batch.hints.iter().for_each(|(name, bytes)| hints.removed(TARGET, (PartitionId(3), name), *bytes));
        assert_eq!((hints.passed(TARGET), hints.total(), hints.bytes_for(TARGET)), (Some(&at(3, "b")), 1, 10));
        hints.removed(TARGET, (PartitionId(3), &name("c")), 10);
        assert_eq!((hints.passed(TARGET), hints.total()), (None, 0), "the next hints may be anywhere");
    }

    #[test]
    fn a_hint_that_was_not_taken_as_it_is_is_looked_for_again() {
        let begun = || {
            let mut hints = HintedHandoff::default();
            for (partition, key) in [(1, "x"), (3, "a"), (3, "b"), (3, "c")] {
                stored(&mut hints, partition, key, None);
            }
            sent(&mut hints, 1, 3, &["a", "b"]);
            hints
        };
        let beginning = |partition| Some((PartitionId(partition), Name::new("", "")));
        let again = beginning(3);
        let mut changed = begun();
        stored(&mut changed, 3, "a", Some(10));
        let Some(Answered::Taken(batch)) = changed.answered(TARGET, 1, true) else { panic!("it was sent") };
        assert_eq!(batch.hints.keys().collect::<Vec<_>>(), [&name("b")], "the other one is not what was sent");
        assert_eq!(changed.passed(TARGET).cloned(), again);

        let mut refused = begun();
        assert!(matches!(refused.answered(TARGET, 1, false), Some(Answered::Refused)));
        assert_eq!(refused.passed(TARGET).cloned(), again);

        let mut lost = begun();
        lost.expire(Instant(99));
        assert_eq!(lost.due(), []);
        lost.expire(Instant(100));
        assert_eq!((lost.passed(TARGET).cloned(), lost.due()), (again, vec![TARGET]));

        let mut earlier = begun();
        stored(&mut earlier, 2, "z", None);
        assert_eq!(earlier.passed(TARGET).cloned(), beginning(2));
        let mut later = begun();
        stored(&mut later, 3, "bb", None);
        assert_eq!(later.passed(TARGET).cloned(), Some(at(3, "b")), "it lies ahead");
        assert!(later.answered(NodeId([9; 16]), 1, true).is_none(), "of somebody else");
    }
}
