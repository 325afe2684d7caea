//! This node's hash trees (paper 4.7): read at start, recorded with the writes that change them, stored now and then.

#[cfg(test)]
mod tests;

use crate::hash_tree::stored::{Record, mask_key, tree_key};
use crate::id::PartitionId;
use crate::name::Name;
use crate::node::Node;
use crate::storage::{Cursor, Storage, StorageError};
use crate::time::{Instant, Now};

/// Trees stored at one tick: some 20 KB, and a thousand partitions in three seconds.
const CHECKPOINTS_PER_TICK: usize = 16;

/// Objects and bytes of one scan.
const SCANNED_OBJECTS: usize = 1_024;
const SCANNED_BYTES: usize = 4 << 20;

/// Objects that a start looks through before what it has computed is committed: one that is cut short does not begin from nothing.
const COMMITTED_OBJECTS: usize = 4 * SCANNED_OBJECTS;

/// Rounds of checkpoints: each goes through all trees, and the interval begins when it is done.
#[derive(Clone, Debug)]
pub(super) struct Checkpoints {
    next: Instant,
    /// The partition at which a round goes on.
    reached: Option<PartitionId>,
}

impl Checkpoints {
    /// The first round begins at `first`.
    pub(super) fn begin(first: Instant) -> Self {
        Self { next: first, reached: None }
    }
}

impl<S: Storage> Node<S> {
    /// Takes the stored trees, and computes what a crash may have left behind. Without a ring there are no copies.
    pub(super) fn load_trees(&mut self) -> Result<(), StorageError> {
        if self.ring.is_none() {
            return Ok(());
        }
        let (mut scanned, mut computed) = (0, Vec::new());
        for partition in self.storage.partitions()? {
            let tree = self.storage.read_meta(&tree_key(partition))?;
            let mask = self.storage.read_meta(&mask_key(partition))?;
            let restored = tree.zip(mask).map(|(tree, mask)| self.trees.restore(partition, tree, mask));
            match restored {
                Some(Ok(dirty)) => {
                    self.counters.trees_loaded += 1;
                    self.counters.tree_leaves_recomputed += dirty.len() as u64;
                    if dirty.is_empty() {
                        continue;
                    }
                    for leaf in dirty {
                        scanned += self.recompute(partition, Some(leaf))?;
                    }
                }
                Some(Err(_)) | None => {
                    self.counters.trees_recomputed += 1;
                    scanned += self.recompute(partition, None)?;
                }
            }
            computed.push(partition);
            if scanned >= COMMITTED_OBJECTS {
                self.checkpoint(&computed)?;
                self.commit()?;
                (scanned, computed) = (0, Vec::new());
            }
        }
        Ok(())
    }

    /// Adds what the storage holds of one leaf, or of all, to a tree that has nothing of it. Returns how many objects were looked at.
    fn recompute(&mut self, partition: PartitionId, only: Option<usize>) -> Result<usize, StorageError> {
        let start = |leaf| Cursor { position: self.trees.leaf_start(partition, leaf), name: Name::new("", "") };
        let mut after: Option<Cursor> = only.map(start);
        let mut scanned = 0;
        loop {
            let found = self.storage.scan(partition, after.as_ref(), SCANNED_OBJECTS, SCANNED_BYTES)?;
            let Some((last, _)) = found.last() else { return Ok(scanned) };
            after = Some(last.clone());
            scanned += found.len();
            for (cursor, object) in &found {
                if only.is_some_and(|leaf| self.trees.leaf_of(cursor.position) != leaf) {
                    return Ok(scanned);
                }
                self.trees.update(partition, &cursor.name, Default::default(), object.digest());
            }
        }
    }

    /// The group of writes is being closed: the marks of what changed in it go with it.
    pub(super) fn record_trees(&mut self) -> Result<(), StorageError> {
        for (partition, record) in self.trees.take_records() {
            self.write_tree_record(partition, &record)?;
        }
        Ok(())
    }

    fn write_tree_record(&mut self, partition: PartitionId, record: &Record) -> Result<(), StorageError> {
        match record {
            Record::Nothing => {
                self.storage.write_meta(&tree_key(partition), None)?;
                self.storage.write_meta(&mask_key(partition), None)
            }
            Record::Mask(mask) => self.storage.write_meta(&mask_key(partition), Some(mask)),
            Record::Tree(tree, mask) => {
                self.storage.write_meta(&tree_key(partition), Some(tree))?;
                self.storage.write_meta(&mask_key(partition), Some(mask))
            }
        }
    }

    /// Stores a few of the trees that changed; when all are stored, the next round waits for its interval.
    pub(super) fn tick_checkpoints(&mut self, now: Now) -> Result<(), StorageError> {
        if now.instant < self.checkpoints.next {
            return Ok(());
        }
        let changed = self.trees.changed(self.checkpoints.reached, CHECKPOINTS_PER_TICK);
        self.checkpoint(&changed)?;
        self.checkpoints.reached = changed.last().copied().filter(|_| changed.len() == CHECKPOINTS_PER_TICK);
        if self.checkpoints.reached.is_none() {
            self.checkpoints.next = now.instant + self.config.tree_checkpoint_interval;
        }
        Ok(())
    }

    /// Stores every tree that changed, at a clean stop: the next start reads no data.
    pub(super) fn checkpoint_all(&mut self) -> Result<(), StorageError> {
        let changed = self.trees.changed(None, usize::MAX);
        self.checkpoint(&changed)
    }

    fn checkpoint(&mut self, partitions: &[PartitionId]) -> Result<(), StorageError> {
        for partition in partitions {
            let record = self.trees.checkpoint(*partition);
            self.write_tree_record(*partition, &record)?;
            self.counters.tree_checkpoints += 1;
        }
        Ok(())
    }
}
