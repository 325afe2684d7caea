//! Files of partitions that were dropped, given back to the disk at once.
//!
//! A drop is a range tombstone in RocksDB, which hides the objects and frees nothing before compaction comes by: on a disk that is
//! nearly full it never does. Below the first level a file holds one partition only, so whole files can go without a
//! rewrite, once the tombstone is on stable storage: a crash before that would leave a partition with holes. Files that are just
//! being compacted stay; they are looked for again.
//!
//! A file that goes may hold nothing but the tombstone, and one that stays the objects that it hides. So before each look the
//! tombstone is written again: one that is newer than all files is always left.
//!
//! A partition that is written to again is forgotten here before its first write can reach a file.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dynamo_core::id::PartitionId;
use dynamo_core::storage::StorageError;
use rocksdb::{DB, WriteBatch, WriteOptions};

use super::{Family, delete_partition, failed, key};

/// How often a partition's files are looked for.
const LOOKS: u8 = 3;
/// Between two looks: most compactions have ended by then.
const LOOKS_EVERY: Duration = Duration::from_secs(5);

struct Entry {
    /// Of this drop: the partition may be written and dropped again.
    drop: u64,
    partition: PartitionId,
    looks: u8,
    not_before: Instant,
}

/// Partitions whose files can go.
#[derive(Default)]
pub struct Dropped {
    any: AtomicBool,
    drops: AtomicU64,
    entries: Mutex<Vec<Entry>>,
}

impl Dropped {
    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The partition's range tombstone is in the log.
    pub fn add(&self, partition: PartitionId) {
        self.rewritten(partition);
        let drop = self.drops.fetch_add(1, Ordering::Relaxed);
        self.entries().push(Entry { drop, partition, looks: LOOKS, not_before: Instant::now() });
        self.any.store(true, Ordering::Release);
    }

    /// The partition has objects again: none of its files may go.
    pub fn rewritten(&self, partition: PartitionId) {
        if self.any.load(Ordering::Acquire) {
            self.entries().retain(|entry| entry.partition != partition);
        }
    }

    /// Drops whose tombstone, which is written again, is on stable storage after the next fsync that begins after this.
    pub fn due(&self, db: &DB, options: &WriteOptions) -> Result<Vec<u64>, StorageError> {
        if !self.any.load(Ordering::Acquire) {
            return Ok(Vec::new());
        }
        let now = Instant::now();
        // Held to the end: a write to one of them waits until the tombstone is behind it.
        let entries = self.entries();
        let (mut due, mut tombstones) = (Vec::new(), WriteBatch::default());
        for entry in entries.iter().filter(|entry| entry.not_before <= now) {
            delete_partition(&mut tombstones, db, entry.partition);
            due.push(entry.drop);
        }
        if !due.is_empty() {
            db.write_opt(tombstones, options).map_err(failed("drop a partition again"))?;
        }
        Ok(due)
    }

    /// Their tombstones are on stable storage: files that hold nothing else go.
    pub fn free(&self, due: &[u64], db: &DB) -> Result<(), StorageError> {
        if due.is_empty() {
            return Ok(());
        }
        // Held to the end: a write to one of them waits until its old files are gone.
        let mut entries = self.entries();
        let data = db.cf_handle(Family::Data.name()).expect("all families were opened");
        for entry in entries.iter_mut().filter(|entry| due.contains(&entry.drop)) {
            let (from, until) = key::range_of_partition(entry.partition);
            db.delete_file_in_range_cf(data, from, until).map_err(failed("free the files of a dropped partition"))?;
            entry.looks -= 1;
            entry.not_before = Instant::now() + LOOKS_EVERY;
        }
        entries.retain(|entry| entry.looks > 0);
        self.any.store(!entries.is_empty(), Ordering::Release);
        Ok(())
    }

    /// All are looked for at the next fsync.
    #[cfg(test)]
    pub fn hurry(&self) {
        self.entries().iter_mut().for_each(|entry| entry.not_before = Instant::now());
    }
}
