//! What was written since the last commit: the newest word on its keys, in RocksDB's order.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;
use dynamo_core::id::PartitionId;

use super::{Family, key};

type Writes = BTreeMap<Vec<u8>, Option<Bytes>>;

/// The writes of one group. `None` is a removal.
#[derive(Default)]
pub struct Pending {
    families: [Writes; 3],
    /// Partitions dropped in this group; what was written to one afterwards is in `families`.
    dropped: BTreeSet<PartitionId>,
    bytes: usize,
}

impl Pending {
    /// Replaces or removes a record.
    pub fn put(&mut self, family: Family, key: Vec<u8>, value: Option<Bytes>) {
        // RocksDB adds a few bytes of framing to each record; this only sizes a buffer.
        self.bytes += key.len() + value.as_ref().map_or(0, Bytes::len) + 16;
        self.families[family as usize].insert(key, value);
    }

    /// The newest word on a record, if this group has one: `Some(None)` says that it is gone.
    pub fn get(&self, family: Family, key: &[u8]) -> Option<Option<&Bytes>> {
        match self.families[family as usize].get(key) {
            Some(value) => Some(value.as_ref()),
            None if self.hides(family, key) => Some(None),
            None => None,
        }
    }

    /// What RocksDB has under `key` was dropped in this group.
    pub fn hides(&self, family: Family, key: &[u8]) -> bool {
        let dropped = || key::read_partition(key).is_ok_and(|partition| self.dropped.contains(&partition));
        family == Family::Data && !self.dropped.is_empty() && dropped()
    }

    /// The writes in `from..until`, in order.
    pub fn range(
        &self,
        family: Family,
        from: &[u8],
        until: Option<&[u8]>,
    ) -> impl Iterator<Item = (&Vec<u8>, &Option<Bytes>)> + use<'_> {
        let end = until.map_or(Bound::Unbounded, Bound::Excluded);
        self.families[family as usize].range::<[u8], _>((Bound::Included(from), end))
    }

    /// Forgets the partition's objects, and hides those in RocksDB.
    pub fn drop_partition(&mut self, partition: PartitionId) {
        self.families[Family::Data as usize].retain(|key, _| key::read_partition(key) != Ok(partition));
        self.dropped.insert(partition);
    }

    /// Partitions that an object was written to.
    pub fn partitions(&self) -> BTreeSet<PartitionId> {
        let written = self.families[Family::Data as usize].iter().filter(|(_, value)| value.is_some());
        written.filter_map(|(key, _)| key::read_partition(key).ok()).collect()
    }

    /// Partitions to drop, before the writes.
    pub fn dropped(&self) -> impl Iterator<Item = PartitionId> {
        self.dropped.iter().copied()
    }

    /// All writes.
    pub fn writes(&self) -> impl Iterator<Item = (Family, &Vec<u8>, &Option<Bytes>)> {
        let of = |family: Family| self.families[family as usize].iter().map(move |(key, value)| (family, key, value));
        Family::ALL.into_iter().flat_map(of)
    }

    /// Nothing was written.
    pub fn is_empty(&self) -> bool {
        self.dropped.is_empty() && self.families.iter().all(Writes::is_empty)
    }

    /// About how long the batch will be.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
