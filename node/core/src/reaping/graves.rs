//! Graves: where the tombstones are, so that nobody has to look for them.
//!
//! Only partitions that this node leads are kept, by name, and the names are bounded: over the bound a partition counts as
//! missed, as does one whose lead is new here, and is walked later, a piece at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::id::PartitionId;
use crate::name::Name;
use crate::storage::Cursor;

/// Names kept: at some 100 bytes each, a few megabytes.
pub const NAMES_MAX: usize = 1 << 16;

/// Names of objects of which nothing is shown: that are nothing but tombstones, or hidden by one where the last writer wins.
#[derive(Clone, Debug, Default)]
pub struct Graves {
    names: BTreeMap<PartitionId, BTreeSet<Name>>,
    total: usize,
    missed: BTreeSet<PartitionId>,
    /// The partition that is being walked, and how far.
    pub walk: Option<(PartitionId, Option<Cursor>)>,
}

impl Graves {
    /// `name` is a tombstone now.
    pub fn dig(&mut self, partition: PartitionId, name: &Name) {
        if self.total >= NAMES_MAX {
            self.missed.insert(partition);
        } else if self.names.entry(partition).or_default().insert(name.clone()) {
            self.total += 1;
        }
    }

    /// `name` is none any more.
    pub fn close(&mut self, partition: PartitionId, name: &Name) {
        if let Some(names) = self.names.get_mut(&partition)
            && names.remove(name)
        {
            self.total -= 1;
            if names.is_empty() {
                self.names.remove(&partition);
            }
        }
    }

    /// This node does not lead the partition any more, or has no copy of it.
    pub fn leave(&mut self, partition: PartitionId) {
        self.total -= self.names.remove(&partition).map_or(0, |names| names.len());
        self.missed.remove(&partition);
        if self.walk.as_ref().is_some_and(|(walked, _)| *walked == partition) {
            self.walk = None;
        }
    }

    /// What the partition holds is not known.
    pub fn miss(&mut self, partition: PartitionId) {
        self.missed.insert(partition);
    }

    /// The walk that goes on, or the next one if there is room for what it may find.
    pub fn next_walk(&mut self) -> Option<(PartitionId, Option<Cursor>)> {
        if self.walk.is_none() && self.total <= NAMES_MAX / 2 {
            self.walk = self.missed.pop_first().map(|partition| (partition, None));
        }
        self.walk.clone()
    }

    /// The tombstones known in a partition, in order.
    pub fn of(&self, partition: PartitionId) -> impl Iterator<Item = &Name> {
        self.names.get(&partition).into_iter().flatten()
    }

    /// The same in another order: those behind `after` first.
    pub fn behind(&self, partition: PartitionId, after: Option<&Name>) -> impl Iterator<Item = &Name> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let names = self.names.get(&partition);
        let behind = names.map(|names| names.range((from, Bound::Unbounded))).into_iter().flatten();
        let before = names.zip(after).map(|(names, after)| names.range(..=after)).into_iter().flatten();
        behind.chain(before)
    }

    /// Partitions with tombstones.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionId> {
        self.names.keys().copied()
    }

    /// Tombstones known, and partitions to be walked.
    pub fn len(&self) -> (usize, usize) {
        (self.total, self.missed.len() + usize::from(self.walk.is_some()))
    }

    /// Nothing is known, and nothing is to be walked.
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> Name {
        Name::new("b", number.to_be_bytes().to_vec())
    }

    #[test]
    fn each_is_looked_at_once_from_any_place_on() {
        let mut graves = Graves::default();
        (0..4).for_each(|number| graves.dig(PartitionId(1), &name(number)));
        graves.close(PartitionId(1), &name(1));
        for (after, order) in [(None, [0, 2, 3]), (Some(0), [2, 3, 0]), (Some(1), [2, 3, 0]), (Some(3), [0, 2, 3])] {
            let names = graves.behind(PartitionId(1), after.map(name).as_ref()).cloned().collect::<Vec<_>>();
            assert_eq!(names, order.map(name), "behind {after:?}");
        }
    }

    #[test]
    fn over_the_bound_a_partition_is_walked_once_there_is_room() {
        let mut graves = Graves::default();
        let (one, other) = (PartitionId(1), PartitionId(2));
        (0..NAMES_MAX).for_each(|number| graves.dig(one, &name(number)));
        graves.dig(other, &name(NAMES_MAX));
        assert_eq!(graves.len(), (NAMES_MAX, 1));
        assert_eq!(graves.next_walk(), None, "there is no room");
        (0..NAMES_MAX / 2).for_each(|number| graves.close(one, &name(number)));
        assert_eq!(graves.next_walk(), Some((other, None)));
        graves.leave(other);
        assert_eq!(graves.next_walk(), None);
        graves.leave(one);
        assert!(graves.is_empty());
    }
}
