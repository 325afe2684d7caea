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
//!
//! All of that is the work of the thread that fsyncs, one partition for each fsync: to delete files waits for the disk, and so would
//! whoever waits for the next fsync. The loop waits for nothing but the partition at work, where it writes to that one.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dynamo_core::id::PartitionId;
use dynamo_core::storage::StorageError;
use rocksdb::{DB, WriteBatch, WriteOptions};

use super::{Family, delete_partition, failed, key};

/// How often a partition's files are looked for.
pub const LOOKS: u8 = 3;
/// Between two looks: most compactions have ended by then.
const LOOKS_EVERY: Duration = Duration::from_secs(5);

struct Entry {
    /// Of this drop: the partition may be written and dropped again.
    drop: u64,
    partition: PartitionId,
    looks: u8,
    not_before: Instant,
}

struct List {
    entries: Vec<Entry>,
    /// Its tombstone is written, or its files go, just now.
    at_work: Option<PartitionId>,
    looks_every: Duration,
}

impl Default for List {
    fn default() -> Self {
        Self { entries: Vec::new(), at_work: None, looks_every: LOOKS_EVERY }
    }
}

/// What a test does before files go.
#[cfg(test)]
pub type Hook = Mutex<Option<Box<dyn FnMut(&Dropped) + Send>>>;

/// Partitions whose files can go.
#[derive(Default)]
pub struct Dropped {
    /// The list has entries: whoever writes does not lock it for nothing.
    any: AtomicBool,
    drops: AtomicU64,
    list: Mutex<List>,
    /// Told when no partition is at work any more.
    done: Condvar,
    /// Called before files go.
    #[cfg(test)]
    pub before_files_go: Hook,
}

/// A partition is at work as long as this is there, whatever comes of the work.
struct Work<'a>(&'a Dropped);

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.0.list().at_work = None;
        self.0.done.notify_all();
    }
}

impl Dropped {
    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The partition of the first such drop, which is at work from now on.
    fn begin(&self, is_wanted: impl Fn(&Entry) -> bool) -> Option<(Work<'_>, u64, PartitionId)> {
        let mut list = self.list();
        let Entry { drop, partition, .. } = *list.entries.iter().find(|&entry| is_wanted(entry))?;
        list.at_work = Some(partition);
        Some((Work(self), drop, partition))
    }

    /// The partition's range tombstone is in the log.
    pub fn add(&self, partition: PartitionId) {
        self.rewritten(partition);
        let drop = self.drops.fetch_add(1, Ordering::Relaxed);
        let mut list = self.list();
        list.entries.push(Entry { drop, partition, looks: LOOKS, not_before: Instant::now() });
        self.any.store(true, Ordering::Release);
    }

    /// The partition has objects again: none of its files may go. If it is at work, its tombstone and its old files come before them.
    pub fn rewritten(&self, partition: PartitionId) {
        if self.any.load(Ordering::Acquire) {
            let is_at_work = |list: &mut List| list.at_work == Some(partition);
            let mut list = self.done.wait_while(self.list(), is_at_work).unwrap_or_else(PoisonError::into_inner);
            list.entries.retain(|entry| entry.partition != partition);
            self.any.store(!list.entries.is_empty(), Ordering::Release);
        }
    }

    /// How long it is until the files of one are to be looked for; `None` if there is none.
    pub fn due_in(&self) -> Option<Duration> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let first = self.list().entries.iter().map(|entry| entry.not_before).min()?;
        Some(first.saturating_duration_since(Instant::now()))
    }

    /// A drop whose tombstone, which is written again, is on stable storage after the next fsync that begins after this.
    pub fn due(&self, db: &DB, options: &WriteOptions) -> Result<Option<u64>, StorageError> {
        if !self.any.load(Ordering::Acquire) {
            return Ok(None);
        }
        let now = Instant::now();
        // Held to the end: a write to the partition waits until the tombstone is behind it.
        let Some((_work, drop, partition)) = self.begin(|entry| entry.not_before <= now) else { return Ok(None) };
        let mut tombstone = WriteBatch::default();
        delete_partition(&mut tombstone, db, partition);
        db.write_opt(tombstone, options).map_err(failed("drop a partition again"))?;
        Ok(Some(drop))
    }

    /// Its tombstone is on stable storage: files that hold nothing else go. Nothing does if the partition was written to since.
    pub fn free(&self, drop: u64, db: &DB) -> Result<(), StorageError> {
        // Held to the end: a write to the partition waits until its old files are gone.
        let Some((_work, _, partition)) = self.begin(|entry| entry.drop == drop) else { return Ok(()) };
        #[cfg(test)]
        self.files_are_to_go();
        let data = db.cf_handle(Family::Data.name()).expect("all families were opened");
        let (from, until) = key::range_of_partition(partition);
        db.delete_file_in_range_cf(data, from, until).map_err(failed("free the files of a dropped partition"))?;
        let mut list = self.list();
        let not_before = Instant::now() + list.looks_every;
        for entry in list.entries.iter_mut().filter(|entry| entry.drop == drop) {
            entry.looks -= 1;
            entry.not_before = not_before;
        }
        list.entries.retain(|entry| entry.looks > 0);
        self.any.store(!list.entries.is_empty(), Ordering::Release);
        Ok(())
    }

    /// All are looked for at the next fsync.
    #[cfg(test)]
    pub fn hurry(&self) {
        self.list().entries.iter_mut().for_each(|entry| entry.not_before = Instant::now());
    }

    /// So long it is between two looks.
    #[cfg(test)]
    pub fn look_every(&self, looks_every: Duration) {
        self.list().looks_every = looks_every;
    }

    #[cfg(test)]
    fn files_are_to_go(&self) {
        if let Some(hook) = &mut *self.before_files_go.lock().unwrap_or_else(PoisonError::into_inner) {
            hook(self);
        }
    }

    /// Whoever wants to write would wait for somebody.
    #[cfg(test)]
    pub fn is_locked(&self) -> bool {
        self.list.try_lock().is_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_look_at_the_list_only_as_long_as_a_partition_is_in_it() {
        let (first, second) = (PartitionId(1), PartitionId(2));
        let dropped = Dropped::default();
        let looked_at = || dropped.any.load(Ordering::Acquire);
        assert!(!looked_at());
        dropped.add(first);
        dropped.add(second);
        dropped.rewritten(first);
        assert!(looked_at());
        dropped.rewritten(second);
        assert!(!looked_at());
    }
}
