//! Group commit: one thread that fsyncs the log, once for everything that was committed since it last did.
//!
//! The loop that owns the engine never waits for a disk. It names the newest ticket; this thread makes it durable and says so.
//! A failed fsync is final: the kernel may have dropped the pages, so a second attempt that succeeds would prove nothing.
//!
//! Whoever drops the handle waits for the thread, on every way out: closing the database while the process ends would touch what
//! RocksDB's own destructors have taken down, and end the process by SIGABRT in place of its exit code.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use dynamo_core::durations::Durations;
use dynamo_core::storage::{StorageError, Ticket};
use rocksdb::DB;
use tokio::sync::watch;

use super::dropped::Dropped;
use super::watermark::Watermark;
use super::write_options;

/// How far the log is on stable storage, or why it never will be.
pub type Durable = Result<Ticket, StorageError>;

/// The thread's handle.
pub struct Syncer {
    /// `None` once the thread is to end.
    committed: Option<mpsc::Sender<Ticket>>,
    durable: watch::Receiver<Durable>,
    took: Arc<Mutex<Durations>>,
    /// `None` once it has ended.
    thread: Option<JoinHandle<()>>,
}

impl Syncer {
    /// Starts the thread.
    pub fn start(log: Log) -> std::io::Result<Self> {
        let (committed, wanted) = mpsc::channel();
        let (report, durable) = watch::channel(Ok(Ticket(0)));
        let took = Arc::<Mutex<Durations>>::default();
        let syncs = Arc::clone(&took);
        let thread = std::thread::Builder::new().name("syncer".into()).spawn(move || run(&log, &wanted, &report, &syncs))?;
        Ok(Self { committed: Some(committed), durable, took, thread: Some(thread) })
    }

    /// How long the log's fsyncs took.
    pub fn took(&self) -> Durations {
        *locked(&self.took)
    }

    /// Everything up to `ticket` was committed: make it durable.
    pub fn committed(&self, ticket: Ticket) {
        if let Some(committed) = &self.committed {
            // A thread that ended has reported why; whoever reads the reports ends the node.
            let _ = committed.send(ticket);
        }
    }

    /// Where the reports arrive.
    pub fn reports(&self) -> watch::Receiver<Durable> {
        self.durable.clone()
    }

    /// Makes everything committed durable and ends the thread.
    pub fn finish(mut self) -> Durable {
        self.end();
        self.durable.borrow().clone()
    }

    fn end(&mut self) {
        self.committed = None;
        // A thread that panicked has said so, and its last report stands.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.end();
    }
}

/// The log of a database, and the word on how far it is on stable storage.
pub struct Log {
    pub(super) db: Arc<DB>,
    pub(super) watermark: Arc<Watermark>,
    pub(super) dropped: Arc<Dropped>,
}

impl Log {
    /// Makes everything that was committed durable, and remembers how far that is.
    pub fn sync(&self) -> Result<(), StorageError> {
        let dropped = self.dropped.due(&self.db, &write_options())?;
        // What has a number now is in the log's buffer, and will be on disk when the fsync returns; what comes meanwhile may be.
        let sequence = self.db.latest_sequence_number();
        self.db.flush_wal(true).map_err(|error| StorageError(format!("fsync of the log: {error}")))?;
        self.watermark.record(sequence).map_err(|error| StorageError(format!("write the watermark: {error}")))?;
        self.dropped.free(&dropped, &self.db)
    }
}

fn locked(durations: &Mutex<Durations>) -> MutexGuard<'_, Durations> {
    durations.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(log: &Log, wanted: &mpsc::Receiver<Ticket>, report: &watch::Sender<Durable>, took: &Mutex<Durations>) {
    while let Ok(first) = wanted.recv() {
        let newest = wanted.try_iter().last().unwrap_or(first);
        let began = Instant::now();
        let durable = log.sync().map(|()| newest);
        locked(took).record(began.elapsed());
        let failed = durable.is_err();
        report.send_modify(|known| *known = durable);
        if failed {
            return;
        }
    }
}
