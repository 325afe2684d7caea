//! Group commit: one thread that fsyncs the log, once for everything that was committed since it last did.
//!
//! The loop that owns the engine never waits for a disk. It names the newest ticket; this thread makes it durable and says so.
//! A failed fsync is final: the kernel may have dropped the pages, so a second attempt that succeeds would prove nothing.
//!
//! What is committed while an fsync runs shares the next one. That is enough for a few writers, and each waits for the disk only. With
//! many of them an fsync that begins at once finds a part of them, and costs the processor as much as one that finds all: then the
//! thread lets them gather for a moment (`Gathering`).
//!
//! The thread also gives back the files of partitions that were dropped: of one after each fsync, behind its report. So whoever commits
//! meanwhile waits for one at most. If nobody does, the others have fsyncs of their own.
//!
//! Whoever drops the handle waits for the thread, on every way out: closing the database while the process ends would touch what
//! RocksDB's own destructors have taken down, and end the process by SIGABRT in place of its exit code.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dynamo_core::durations::Durations;
use dynamo_core::storage::{StorageError, Ticket};
use rocksdb::DB;
use tokio::sync::watch;

use super::dropped::Dropped;
use super::lock::Lock;
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
        let thread = thread::Builder::new().name("syncer".into()).spawn(move || run(&log, &wanted, &report, &syncs))?;
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
    /// After the database, as in the engine.
    pub(super) _lock: Arc<Lock>,
}

/// What an fsync made durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Synced {
    /// The number of the newest write that is.
    pub sequence: u64,
    /// A drop of a partition, whose files can go.
    dropped: Option<u64>,
}

impl Log {
    /// Makes everything that was committed durable, and remembers how far that is.
    pub fn sync(&self) -> Result<Synced, StorageError> {
        let dropped = self.dropped.due(&self.db, &write_options())?;
        // What has a number now is in the log's buffer, and will be on disk when the fsync returns; what comes meanwhile may be.
        let sequence = self.db.latest_sequence_number();
        self.db.flush_wal(true).map_err(|error| StorageError(format!("fsync of the log: {error}")))?;
        self.watermark.record(sequence).map_err(|error| StorageError(format!("write the watermark: {error}")))?;
        Ok(Synced { sequence, dropped })
    }

    /// Gives back the files of a partition whose drop that made durable.
    pub fn free(&self, synced: Synced) -> Result<(), StorageError> {
        synced.dropped.map_or(Ok(()), |drop| self.dropped.free(drop, &self.db))
    }
}

/// Whether the next fsync waits a moment, and for how long: as measured by those before it.
///
/// It pays where writes come so fast that many more share an fsync, and costs their writers that moment. Those who wait for an answer
/// before they write again would, if they are few, write less for it.
#[derive(Default)]
struct Gathering {
    /// Writes in the time that an fsync would wait, on average over the last few.
    expected: f64,
}

impl Gathering {
    /// Between the beginnings of two fsyncs, as a multiple of what one takes: a disk that is slow gathers as it is.
    const SPACING: u32 = 8;
    /// The same, at most: what a write may wait longer.
    const SPACING_MAX: Duration = Duration::from_millis(2);
    /// Fewer writes are not worth their writers' waiting.
    const WRITES_MIN: f64 = 32.0;
    /// What the newest measurement counts of an average.
    const NEWEST: f64 = 0.125;

    /// An fsync that `took` so long made so many writes durable, which had come within `came_in`. Until when, counted from its beginning,
    /// the next one is to wait.
    fn measured(&mut self, writes: u64, came_in: Duration, took: Duration) -> Duration {
        let spacing = (took * Self::SPACING).min(Self::SPACING_MAX);
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let expected = writes as f64 * spacing.as_secs_f64() / came_in.max(took).as_secs_f64().max(f64::MIN_POSITIVE);
        self.expected += (expected - self.expected) * Self::NEWEST;
        if self.expected < Self::WRITES_MIN { Duration::ZERO } else { spacing }
    }
}

fn locked(durations: &Mutex<Durations>) -> MutexGuard<'_, Durations> {
    durations.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn run(log: &Log, wanted: &mpsc::Receiver<Ticket>, report: &watch::Sender<Durable>, took: &Mutex<Durations>) {
    let mut gathering = Gathering::default();
    let (mut last_began, mut last_sequence) = (Instant::now(), log.db.latest_sequence_number());
    let mut not_before = last_began;
    while let Ok(first) = wait(log, wanted) {
        // Tickets that come meanwhile wake nobody.
        thread::sleep(not_before.saturating_duration_since(Instant::now()));
        let newest = wanted.try_iter().last().or(first);
        let began = Instant::now();
        let synced = log.sync();
        let elapsed = began.elapsed();
        locked(took).record(elapsed);
        if let Ok(Synced { sequence, .. }) = synced {
            not_before = began + gathering.measured(sequence.saturating_sub(last_sequence), began - last_began, elapsed);
            (last_began, last_sequence) = (began, sequence);
            if let Some(newest) = newest {
                report.send_modify(|known| *known = Ok(newest));
            }
        }
        // Only now: those who wait for the fsync were told.
        if let Err(error) = synced.and_then(|synced| log.free(synced)) {
            report.send_modify(|known| *known = Err(error));
            return;
        }
    }
}

/// Waits until there is something to fsync: a ticket, or a partition whose files are to be looked for, which has none. An error at the end,
/// whatever is to be looked for still: the next start finds it.
fn wait(log: &Log, wanted: &mpsc::Receiver<Ticket>) -> Result<Option<Ticket>, mpsc::RecvError> {
    let Some(due_in) = log.dropped.due_in() else { return wanted.recv().map(Some) };
    match wanted.recv_timeout(due_in) {
        Ok(ticket) => Ok(Some(ticket)),
        Err(mpsc::RecvTimeoutError::Timeout) => Ok(None),
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(mpsc::RecvError),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// What the next fsync waits for after a hundred that took so long each, at so many writes a millisecond.
    fn waits(writes_per_ms: u64, took: Duration) -> Duration {
        let mut gathering = Gathering::default();
        let mut came_in = took;
        let mut waits = Duration::ZERO;
        for _ in 0..100 {
            let writes = u128::from(writes_per_ms) * came_in.as_micros() / MS.as_micros();
            waits = gathering.measured(u64::try_from(writes).unwrap(), came_in, took);
            came_in = waits.max(took);
        }
        waits
    }

    #[test]
    fn few_writers_wait_for_the_disk_only_and_many_let_others_share_their_fsync() {
        for (writes_per_ms, took, expected) in [
            (1, MS / 4, Duration::ZERO),
            (12, MS / 4, Duration::ZERO),
            (20, MS / 4, 2 * MS),
            // A fast disk: 8 times what it takes, if that is worth it.
            (20, MS / 20, Duration::ZERO),
            (100, MS / 20, 8 * MS / 20),
            // A slow one gathers as it is: the next fsync begins when the last has ended.
            (100, 5 * MS, 2 * MS),
        ] {
            assert_eq!(waits(writes_per_ms, took), expected, "{writes_per_ms} a millisecond, {took:?}");
        }
    }

    #[test]
    fn the_next_fsync_waits_no_more_once_the_writers_are_few_again() {
        let mut gathering = Gathering::default();
        while gathering.measured(64, 2 * MS, MS / 4).is_zero() {}
        let more = (0..100).take_while(|_| !gathering.measured(4, 2 * MS, MS / 4).is_zero()).count();
        assert!(more < 20, "{more} fsyncs waited for writes that did not come");
    }
}
