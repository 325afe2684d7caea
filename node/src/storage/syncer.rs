//! Group commit: one thread that fsyncs the log, once for everything that was committed since it last did.
//!
//! The loop that owns the engine never waits for a disk. It names the newest ticket; this thread makes it durable and says so.
//! A failed fsync is final: the kernel may have dropped the pages, so a second attempt that succeeds would prove nothing.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use dynamo_core::storage::{StorageError, Ticket};
use rocksdb::DB;
use tokio::sync::watch;

/// How far the log is on stable storage, or why it never will be.
pub type Durable = Result<Ticket, StorageError>;

/// The thread's handle.
pub struct Syncer {
    committed: mpsc::Sender<Ticket>,
    durable: watch::Receiver<Durable>,
    thread: JoinHandle<()>,
}

impl Syncer {
    /// Starts the thread.
    pub fn start(db: Arc<DB>) -> std::io::Result<Self> {
        let (committed, wanted) = mpsc::channel();
        let (report, durable) = watch::channel(Ok(Ticket(0)));
        let thread = std::thread::Builder::new().name("syncer".into()).spawn(move || run(&db, &wanted, &report))?;
        Ok(Self { committed, durable, thread })
    }

    /// Everything up to `ticket` was committed: make it durable.
    pub fn committed(&self, ticket: Ticket) {
        // A thread that ended has reported why; whoever reads the reports ends the node.
        let _ = self.committed.send(ticket);
    }

    /// Where the reports arrive.
    pub fn reports(&self) -> watch::Receiver<Durable> {
        self.durable.clone()
    }

    /// Makes everything committed durable and ends the thread.
    pub fn finish(self) -> Durable {
        drop(self.committed);
        let _ = self.thread.join();
        self.durable.borrow().clone()
    }
}

fn run(db: &DB, wanted: &mpsc::Receiver<Ticket>, report: &watch::Sender<Durable>) {
    while let Ok(first) = wanted.recv() {
        let newest = wanted.try_iter().last().unwrap_or(first);
        let durable = db.flush_wal(true).map(|()| newest).map_err(|error| StorageError(format!("fsync of the log: {error}")));
        let failed = durable.is_err();
        report.send_modify(|known| *known = durable);
        if failed {
            return;
        }
    }
}
