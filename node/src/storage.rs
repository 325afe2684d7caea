//! The storage engine: RocksDB behind one writer (paper 5).
//!
//! ```text
//! write ─> pending ──commit()──> one WriteBatch, one ticket ──Syncer──> fsync of the log, ticket reported durable
//!            ▲                        │
//! read, scan ┴──── pending first, then RocksDB
//! ```
//!
//! Writes of one loop iteration gather in `pending` and reach RocksDB as one atomic batch, so a crash takes whole groups and
//! never a part of one. Reads and scans see them before that. The log is fsynced by a thread of its own, once for all groups
//! that gathered meanwhile. A database that does not open is never created anew: a missing database is a question for people.
//! One that opens with less than was on stable storage is noticed by its [`watermark`]. Whoever looks at one has it alone ([`Lock`]).

mod dropped;
mod framing;
mod key;
#[cfg(test)]
mod laws;
mod lock;
pub mod options;
mod pending;
mod pinned;
pub mod syncer;
#[cfg(test)]
mod tests;
mod unsynced_end;
pub mod watermark;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use dynamo_core::id::{NodeId, PartitionId};
use dynamo_core::name::Name;
use dynamo_core::storage::{Cursor, Storage, StorageError, Ticket};
use dynamo_core::version::Object;
use rocksdb::{ColumnFamily, DB, ErrorKind, FlushOptions, ReadOptions, WriteBatch, WriteOptions};
use thiserror::Error;
use tracing::warn;

use crate::config::StorageSettings;
use crate::figure::Figure;
use dropped::Dropped;
use framing::Unfit;
use pending::Pending;
use syncer::Log;
use unsynced_end::Cut;
use watermark::{Recovery, Watermark};

pub use lock::Lock;

/// Where a record lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Family {
    /// Objects, by partition, position and name.
    Data,
    /// Objects kept for others, by target, partition and name.
    Hints,
    /// Records of the node itself.
    Meta,
}

impl Family {
    const ALL: [Self; 3] = [Self::Data, Self::Hints, Self::Meta];

    fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Hints => "hints",
            Self::Meta => "meta",
        }
    }
}

/// What to do about a database that is damaged or gone.
pub(crate) const REMEDY: &str =
    "restore it, or start a new node: with data_dir emptied, in Kubernetes by deleting the claim and the pod";

/// What the system, and so RocksDB, says where a disk is full.
const NO_ROOM: &str = "No space left on device";

/// Whether the database must exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// The data directory has no identity yet: create it.
    Nothing,
    /// The data directory has an identity, so it has data.
    Database,
}

/// Why the database could not be opened.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{path} is in use by another process; stop it, or give this node a data_dir of its own")]
    Locked {
        /// The database.
        path: String,
    },
    /// There is an identity and no database.
    #[error(
        "{path} is missing although this node has an identity, so its data are gone; restore them, or start a new node: with data_dir emptied, in Kubernetes by deleting the claim and the pod"
    )]
    Missing {
        /// The database.
        path: String,
    },
    /// What it wrote is not what is there.
    #[error("{path} is damaged: {reason}; {left}; {REMEDY}")]
    Damaged {
        /// The database.
        path: String,
        /// What is wrong, and where.
        reason: String,
        /// What became of it.
        left: Left,
    },
    /// RocksDB says no.
    #[error("{path} does not open: {reason}; {left}")]
    Refused {
        /// The database.
        path: String,
        /// What RocksDB says.
        reason: String,
        /// What became of it.
        left: Left,
    },
}

impl OpenError {
    /// The same, of one whose log was cut before, or perhaps.
    fn after(mut self, cut: &Cut) -> Self {
        if let Self::Damaged { left, .. } | Self::Refused { left, .. } = &mut self {
            let kept = cut.kept.display().to_string();
            *left = if cut.failed.is_none() { Left::Cut { kept } } else { Left::Unsure { kept } };
        }
        self
    }
}

/// What became of a database that does not open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Left {
    /// Nothing.
    AsItIs,
    /// The damaged end of its log was cut off.
    Cut {
        /// Where that is.
        kept: String,
    },
    /// That end may have been cut off, or not.
    Unsure {
        /// Where it is in any case.
        kept: String,
    },
}

impl fmt::Display for Left {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AsItIs => write!(out, "it was left as it is"),
            Self::Cut { kept } => write!(out, "the damaged end of its log was cut off, and is kept in {kept}"),
            Self::Unsure { kept } => write!(out, "the damaged end of its log may have been cut off, and is kept in {kept}"),
        }
    }
}

/// The engine.
pub struct RocksEngine {
    db: Arc<DB>,
    watermark: Arc<Watermark>,
    recovery: Recovery,
    /// It was there before, and nothing tells that it is whole.
    distrusted: bool,
    pending: Pending,
    dropped: Arc<Dropped>,
    ticket: Ticket,
    read_options: ReadOptions,
    write_options: WriteOptions,
    /// Background errors after which writes went on.
    errors_borne: u64,
    /// What the files are on.
    device: u64,
    /// Scans fail: whoever reads much on a thread of its own is to end.
    interrupted: Arc<AtomicBool>,
    /// After the database: it is given up when that is closed.
    lock: Arc<Lock>,
}

impl RocksEngine {
    /// Opens the database at `path`, creating it if nothing is expected there.
    pub fn open(path: &Path, settings: &StorageSettings, expect: Expect) -> Result<Self, OpenError> {
        Self::open_locked(Lock::take(path)?, settings, expect)
    }

    /// The same, of one that this process has for itself. What a loss of power did to the end of its log is cut off first.
    pub fn open_locked(lock: Lock, settings: &StorageSettings, expect: Expect) -> Result<Self, OpenError> {
        let lock = Arc::new(lock);
        let path = lock.database();
        match Self::open_as_it_is(&lock, settings, expect) {
            Err(damaged @ OpenError::Damaged { .. }) if expect == Expect::Database => {
                let cut = Watermark::open(&watermark_of(path)).and_then(|watermark| unsynced_end::cut(path, &watermark));
                match cut {
                    Ok(Some(cut @ Cut { failed: None, .. })) => {
                        Self::open_as_it_is(&lock, settings, expect).map_err(|error| error.after(&cut))
                    }
                    Ok(Some(cut)) => Err(damaged.after(&cut)),
                    Ok(None) => Err(damaged),
                    Err(error) => {
                        warn!(%error, "the end of the log was left as it is");
                        Err(damaged)
                    }
                }
            }
            opened => opened,
        }
    }

    fn open_as_it_is(lock: &Arc<Lock>, settings: &StorageSettings, expect: Expect) -> Result<Self, OpenError> {
        let path = lock.database();
        let shown = path.display().to_string();
        let refused = |reason| OpenError::Refused { path: shown.clone(), reason, left: Left::AsItIs };
        // What cannot be seen is not known to be gone.
        let is_there = std::fs::exists(path.join("CURRENT")).map_err(|error| refused(format!("CURRENT: {error}")))?;
        if expect == Expect::Database && !is_there {
            return Err(OpenError::Missing { path: shown });
        }
        framing::verify(path).map_err(|unfit| match unfit {
            Unfit::Damaged(reason) => OpenError::Damaged { path: shown.clone(), reason, left: Left::AsItIs },
            Unfit::Unread(reason) => refused(reason),
        })?;
        let options = options::database(expect, volume_bytes(path));
        let cache = options::block_cache(settings);
        let families = Family::ALL.map(|family| options::family(family, settings, &cache));
        let db = DB::open_cf_descriptors(&options, path, families).map_err(|error| refusal(shown.clone(), error))?;
        pinned::verify(path).map_err(refused)?;
        let watermark = Watermark::open(&watermark_of(path)).map_err(|error| refused(format!("watermark: {error}")))?;
        let recovery = watermark.compare(db.latest_sequence_number());
        let distrusted = expect == Expect::Database && recovery != Recovery::Whole;
        let device = device(path).map_err(|error| refused(format!("CURRENT: {error}")))?;
        let (pending, read_options, write_options) = (Pending::default(), options::reads(), write_options());
        let (db, watermark, dropped) = (Arc::new(db), Arc::new(watermark), Arc::default());
        let (ticket, errors_borne, interrupted) = (Ticket(0), 0, Arc::default());
        let engine = Self {
            db,
            watermark,
            recovery,
            distrusted,
            pending,
            dropped,
            ticket,
            read_options,
            write_options,
            errors_borne,
            device,
            interrupted,
            lock: Arc::clone(lock),
        };
        let emptied = engine.emptied_partitions().map_err(|error| refused(format!("list files: {error}")))?;
        emptied.into_iter().for_each(|partition| engine.dropped.add(partition));
        Ok(engine)
    }

    /// Partitions without an object that have files all the same: the process ended before it gave them back.
    fn emptied_partitions(&self) -> Result<BTreeSet<PartitionId>, rocksdb::Error> {
        let files = self.db.live_files()?.into_iter().filter(|file| file.column_family_name == Family::Data.name());
        let mut partitions: BTreeSet<PartitionId> = files.filter_map(|file| key::read_partition(&file.start_key?).ok()).collect();
        partitions.retain(|partition| {
            let (from, until) = key::range_of_partition(*partition);
            let mut options = options::reads();
            options.set_iterate_upper_bound(until);
            let mut objects = self.db.raw_iterator_cf_opt(self.handle(Family::Data), options);
            objects.seek(from);
            // What cannot be read is not known to be gone.
            !objects.valid() && objects.status().is_ok()
        });
        Ok(partitions)
    }

    /// Set, it makes scans fail.
    pub fn interrupt(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.interrupted)
    }

    /// The log, for the thread that fsyncs it.
    pub fn log(&self) -> Log {
        let (db, watermark, dropped) = (Arc::clone(&self.db), Arc::clone(&self.watermark), Arc::clone(&self.dropped));
        Log { db, watermark, dropped, _lock: Arc::clone(&self.lock) }
    }

    /// Whether everything was there when the database was opened.
    pub fn recovery(&self) -> Recovery {
        self.recovery
    }

    /// No record of any kind.
    pub fn is_empty(&self) -> Result<bool, StorageError> {
        for family in Family::ALL {
            let mut records = self.db.raw_iterator_cf(self.handle(family));
            records.seek_to_first();
            if records.valid() {
                return Ok(false);
            }
            records.status().map_err(failed("look for records"))?;
        }
        Ok(true)
    }

    /// An error if RocksDB failed to flush or compact, and takes no writes any more. It takes them after one kind of failure only: a
    /// compaction that found no room for its output, which is removed again; the data is what it was. Everything else is final, and
    /// this notices it even if nobody writes. As final is that the files are gone, which RocksDB goes on with, and its fsyncs too.
    pub fn check_background(&mut self) -> Result<(), StorageError> {
        self.check_files_are_there()?;
        // RocksDB counts those of all families in the default one, where nothing else is.
        let errors = errors_told(self.db.property_int_value("rocksdb.background-errors"))?;
        if errors <= self.errors_borne {
            return Ok(());
        }
        let log = self.db.path().join("LOG");
        let mut probe = WriteBatch::default();
        probe.delete_cf(self.handle(Family::Meta), b"probe");
        let writes = self.db.write_opt(probe, &self.write_options);
        writes.map_err(|error| StorageError(format!("{errors} background errors, {error}; see {}", log.display())))?;
        warn!(errors, log = %log.display(), "a compaction failed for want of space; it is tried again");
        self.errors_borne = errors;
        Ok(())
    }

    /// An error if no start would find what is written now: somebody removed the files, or mounted something over them. Anything else that
    /// keeps them from being seen says nothing of them.
    fn check_files_are_there(&self) -> Result<(), StorageError> {
        let gone = match device(self.db.path()) {
            Ok(device) => device != self.device,
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        };
        if gone {
            let path = self.db.path().display();
            return Err(StorageError(format!(
                "{path} was removed, or is under another mount, and no start would find it: {REMEDY}"
            )));
        }
        Ok(())
    }

    /// Whether files of objects are compacted. On a disk that is nearly full they are not: that would write before it removes, and
    /// fill what is left. Dropped partitions free their files without it. Hints are always compacted, a little at a time: a node
    /// that filled its disk with them gets it back by delivering them.
    ///
    /// A database opens with that turned off, so that none begins before the disk was looked at.
    ///
    /// Tells whether it was set: RocksDB notes it in a file, for which a full disk has no room.
    pub fn compact(&self, yes: bool) -> Result<bool, StorageError> {
        match self.db.set_options_cf(self.handle(Family::Data), &options::compacting(yes)) {
            Ok(()) => Ok(true),
            Err(error) if error.as_ref().contains(NO_ROOM) => Ok(false),
            Err(error) => Err(failed("turn compaction on or off")(error)),
        }
    }

    /// Begins to write the removals of hints to a file, where compaction meets them. They are much smaller than what they remove, and
    /// would stay in memory while a disk is full of it.
    pub fn write_out_removals(&self) -> Result<(), StorageError> {
        let hints = self.handle(Family::Hints);
        let of_hints = |name: &str| self.db.property_int_value_cf(hints, name).ok().flatten().unwrap_or(0);
        // Compaction has enough to do with those that wait for it.
        if of_hints("rocksdb.num-deletes-active-mem-table") == 0
            || of_hints("rocksdb.num-files-at-level0") >= options::HINT_FILES_TO_COMPACT
        {
            return Ok(());
        }
        let mut flush = FlushOptions::default();
        flush.set_wait(false);
        self.db.flush_cf_opt(hints, &flush).map_err(failed("write out removals"))
    }

    /// What RocksDB tells of itself.
    pub fn figures(&self) -> Vec<Figure> {
        let of = |family, name: &str| self.db.property_int_value_cf(self.handle(family), name).ok().flatten().unwrap_or(0);
        let of_data = |name: &str| of(Family::Data, name);
        let bytes = of_data("rocksdb.total-sst-files-size") + of_data("rocksdb.cur-size-all-mem-tables");
        let memtables = Family::ALL.into_iter().map(|family| of(family, "rocksdb.cur-size-all-mem-tables")).sum();
        let cache = of_data("rocksdb.block-cache-usage");
        let pending = of_data("rocksdb.estimate-pending-compaction-bytes");
        // RocksDB counts those of all families in the default one, where nothing else is.
        let errors = self.db.property_int_value("rocksdb.background-errors").ok().flatten().unwrap_or(0);
        vec![
            Figure::varying("storage_bytes", "Bytes of objects, on disk and in memtables", bytes),
            Figure::varying("storage_memtable_bytes", "Bytes of memtables", memtables),
            Figure::varying("storage_block_cache_bytes", "Bytes of cached blocks", cache),
            Figure::varying("storage_compaction_pending_bytes", "Bytes that compaction is behind by, about", pending),
            Figure::growing("storage_background_errors", "Errors of flushes and compactions", errors),
            Figure::varying(
                "storage_found_short",
                "1 if the log had lost its end at this start, or nothing told that it had not: the node goes on under new actors",
                u64::from(self.distrusted),
            ),
        ]
    }

    fn handle(&self, family: Family) -> &ColumnFamily {
        self.db.cf_handle(family.name()).expect("all families were opened")
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        if let Some(pending) = self.pending.get(family, key) {
            return Ok(pending.cloned());
        }
        let found = self.db.get_pinned_cf_opt(self.handle(family), key, &self.read_options).map_err(failed("read"))?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    /// An error once whoever reads is to end.
    fn check_going_on(&self) -> Result<(), StorageError> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(StorageError("scan: the node stops".into()));
        }
        Ok(())
    }

    /// Visits the records of `family` from `from` on, below `until` if there is such an end, pending writes included.
    fn walk(
        &self,
        family: Family,
        from: &[u8],
        until: Option<Vec<u8>>,
        mut visit: impl FnMut(&[u8], Bytes) -> Result<ControlFlow<()>, StorageError>,
    ) -> Result<(), StorageError> {
        let mut pending = self.pending.range(family, from, until.as_deref()).peekable();
        let mut options: ReadOptions = options::reads();
        if let Some(until) = until {
            options.set_iterate_upper_bound(until);
        }
        let mut stored = self.db.raw_iterator_cf_opt(self.handle(family), options);
        stored.seek(from);
        loop {
            self.check_going_on()?;
            if !stored.valid() {
                // At a block that cannot be read it stands as it does behind the last record.
                stored.status().map_err(failed("scan"))?;
            }
            let on_disk = stored.item().filter(|(key, _)| !self.pending.hides(family, key));
            let flow = match (on_disk, pending.peek()) {
                (Some((key, value)), next) if next.is_none_or(|(newer, _)| key < newer.as_slice()) => {
                    let flow = visit(key, Bytes::copy_from_slice(value))?;
                    stored.next();
                    flow
                }
                (on_disk, Some((key, value))) => {
                    if on_disk.is_some_and(|(older, _)| older == key.as_slice()) {
                        stored.next();
                    }
                    let flow = value.as_ref().map_or(Ok(ControlFlow::Continue(())), |value| visit(key, value.clone()))?;
                    pending.next();
                    flow
                }
                (_, None) if stored.valid() => {
                    stored.next();
                    ControlFlow::Continue(())
                }
                (_, None) => return Ok(()),
            };
            if flow.is_break() {
                return Ok(());
            }
        }
    }
}

impl Storage for RocksEngine {
    fn read(&self, partition: PartitionId, name: &Name) -> Result<Option<Object>, StorageError> {
        self.get(Family::Data, &key::of_object(partition, name.position(), name))?.map(object).transpose()
    }

    fn write(&mut self, partition: PartitionId, name: &Name, object: &Object) -> Result<(), StorageError> {
        self.dropped.rewritten(partition);
        self.pending.put(Family::Data, key::of_object(partition, name.position(), name), Some(object.encode()));
        Ok(())
    }

    fn remove(&mut self, partition: PartitionId, name: &Name) -> Result<(), StorageError> {
        self.pending.put(Family::Data, key::of_object(partition, name.position(), name), None);
        Ok(())
    }

    fn scan(
        &self,
        partition: PartitionId,
        after: Option<&Cursor>,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<(Cursor, Object)>, StorageError> {
        let from = match after {
            Some(cursor) => key::just_after(key::of_object(partition, cursor.position, &cursor.name)),
            None => key::of_partition(partition).to_vec(),
        };
        let (mut found, mut size) = (Vec::new(), 0);
        self.walk(Family::Data, &from, key::after_partition(partition), |key, value| {
            if found.len() == limit || size >= bytes {
                return Ok(ControlFlow::Break(()));
            }
            size += value.len();
            found.push((key::read_cursor(key).map_err(unreadable)?, object(value)?));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    fn drop_partition(&mut self, partition: PartitionId) -> Result<(), StorageError> {
        self.pending.drop_partition(partition);
        Ok(())
    }

    fn partitions(&self) -> Result<Vec<PartitionId>, StorageError> {
        let mut partitions: BTreeSet<PartitionId> = self.pending.partitions();
        let mut stored = self.db.raw_iterator_cf_opt(self.handle(Family::Data), options::reads());
        stored.seek_to_first();
        while let Some(key) = stored.key() {
            self.check_going_on()?;
            let partition = key::read_partition(key).map_err(unreadable)?;
            let hidden = self.pending.hides(Family::Data, key);
            if !hidden && matches!(self.pending.get(Family::Data, key), Some(None)) {
                // This one is removed; there may be others.
                stored.next();
                continue;
            }
            if !hidden {
                partitions.insert(partition);
            }
            match key::after_partition(partition) {
                Some(next) => stored.seek(next),
                None => break,
            }
        }
        stored.status().map_err(failed("list partitions"))?;
        Ok(partitions.into_iter().collect())
    }

    fn read_hint(&self, target: NodeId, partition: PartitionId, name: &Name) -> Result<Option<Object>, StorageError> {
        self.get(Family::Hints, &key::of_hint(target, partition, name))?.map(object).transpose()
    }

    fn write_hint(&mut self, target: NodeId, partition: PartitionId, name: &Name, object: &Object) -> Result<(), StorageError> {
        self.pending.put(Family::Hints, key::of_hint(target, partition, name), Some(object.encode()));
        Ok(())
    }

    fn remove_hint(&mut self, target: NodeId, partition: PartitionId, name: &Name) -> Result<(), StorageError> {
        self.pending.put(Family::Hints, key::of_hint(target, partition, name), None);
        Ok(())
    }

    fn scan_hints(
        &self,
        target: NodeId,
        after: Option<&(PartitionId, Name)>,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<(PartitionId, Name, Object)>, StorageError> {
        let from = match after {
            Some((partition, name)) => key::just_after(key::of_hint(target, *partition, name)),
            None => target.0.to_vec(),
        };
        let (mut found, mut size) = (Vec::new(), 0);
        self.walk(Family::Hints, &from, key::after_target(target), |key, value| {
            if found.len() == limit || size >= bytes {
                return Ok(ControlFlow::Break(()));
            }
            size += value.len();
            let (_, partition, name) = key::read_hint(key).map_err(unreadable)?;
            found.push((partition, name, object(value)?));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    fn hint_totals(&self) -> Result<BTreeMap<NodeId, (u64, u64)>, StorageError> {
        let mut totals = BTreeMap::<NodeId, (u64, u64)>::new();
        self.walk(Family::Hints, &[], None, |key, value| {
            let (target, _, _) = key::read_hint(key).map_err(unreadable)?;
            let total = totals.entry(target).or_default();
            *total = (total.0 + 1, total.1 + value.len() as u64);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(totals)
    }

    fn read_meta(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.get(Family::Meta, key)
    }

    fn write_meta(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), StorageError> {
        self.pending.put(Family::Meta, key.to_vec(), value.map(Bytes::copy_from_slice));
        Ok(())
    }

    fn commit(&mut self) -> Result<Ticket, StorageError> {
        self.ticket = Ticket(self.ticket.0 + 1);
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return Ok(self.ticket);
        }
        let mut batch = WriteBatch::with_capacity_bytes(pending.bytes());
        for partition in pending.dropped() {
            delete_partition(&mut batch, &self.db, partition);
        }
        for (family, key, value) in pending.writes() {
            match value {
                Some(value) => batch.put_cf(self.handle(family), key, value),
                None => batch.delete_cf(self.handle(family), key),
            }
        }
        self.db.write_opt(batch, &self.write_options).map_err(failed("write"))?;
        if pending.dropped().next().is_some() {
            let written = pending.partitions();
            pending.dropped().filter(|partition| !written.contains(partition)).for_each(|partition| self.dropped.add(partition));
        }
        Ok(self.ticket)
    }
}

fn delete_partition(batch: &mut WriteBatch, db: &DB, partition: PartitionId) {
    let (from, until) = key::range_of_partition(partition);
    batch.delete_range_cf(db.cf_handle(Family::Data.name()).expect("all families were opened"), from, until);
}

/// Into the log's buffer: the fsync is the syncer's.
fn write_options() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(false);
    options
}

/// The file system of the file that every database has.
fn device(path: &Path) -> std::io::Result<u64> {
    std::fs::metadata(path.join("CURRENT")).map(|found| found.dev())
}

/// Beside the database.
fn watermark_of(path: &Path) -> PathBuf {
    path.with_extension("synced")
}

/// How long the log of the database at `path` is, which RocksDB replays when it opens.
pub fn log_bytes(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    let logs = entries.flatten().filter(|entry| entry.path().extension().is_some_and(|extension| extension == "log"));
    logs.filter_map(|log| Some(log.metadata().ok()?.len())).sum()
}

/// The size of the volume that a database lies on; 0 if nobody says.
fn volume_bytes(path: &Path) -> u64 {
    let found = path.ancestors().find_map(|folder| rustix::fs::statvfs(folder).ok());
    found.map_or(0, |found| found.f_blocks.saturating_mul(found.f_frsize))
}

fn refusal(path: String, error: rocksdb::Error) -> OpenError {
    let damaged = is_damage(&error);
    let reason = error.into_string();
    if is_held(&reason) {
        return OpenError::Locked { path };
    }
    if damaged {
        return OpenError::Damaged { path, reason, left: Left::AsItIs };
    }
    OpenError::Refused { path, reason, left: Left::AsItIs }
}

/// Of what RocksDB says where it does not get its lock, that somebody has it.
fn is_held(said: &str) -> bool {
    // The two by which fcntl may tell of another's lock.
    let by_another = ["Resource temporarily unavailable", "Permission denied"];
    said.contains("lock hold by current process")
        || (said.contains("While lock file") && by_another.iter().any(|error| said.contains(error)))
}

/// What RocksDB tells of its background errors. If it tells nothing, that is no word that there were none.
fn errors_told(told: Result<Option<u64>, rocksdb::Error>) -> Result<u64, StorageError> {
    let errors = told.map_err(failed("look for background errors"))?;
    errors.ok_or_else(|| StorageError("look for background errors: RocksDB does not tell".into()))
}

fn failed(what: &'static str) -> impl Fn(rocksdb::Error) -> StorageError {
    move |error| {
        let remedy = if is_damage(&error) { format!("; the database is damaged: {REMEDY}") } else { String::new() };
        StorageError(format!("{what}: {error}{remedy}"))
    }
}

/// What is on the disk is not what was written. Of a file that is missing, and of a MANIFEST that lacks a family, RocksDB tells in words
/// alone.
fn is_damage(error: &rocksdb::Error) -> bool {
    let said = error.as_ref();
    error.kind() == ErrorKind::Corruption
        || said.contains("No such file or directory")
        || said.contains("Column family not found")
}

fn unreadable(error: dynamo_core::codec::DecodeError) -> StorageError {
    StorageError(format!("a stored key: {error}"))
}

/// A stored object. One that does not decode is damaged: taken for absent, its history would be lost and its dots made again.
fn object(bytes: Bytes) -> Result<Object, StorageError> {
    Object::decode(bytes).map_err(|error| StorageError(format!("a stored object: {error}")))
}
