//! The lock on a database: whoever looks at its logs, cuts off their end or opens it has it alone.
//!
//! RocksDB has a lock of its own, and takes it in the middle of opening. What comes before that would judge files that another process
//! writes to: a log that is gone since it was listed, or longer than it was, looks damaged.
//!
//! The file lies beside the database. RocksDB's would not do: its kind of lock is gone as soon as this process closes any handle of that
//! file. This one is gone when its handle is, or the process, however that ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use super::{Left, OpenError};

/// The place of a database, there or not, that this process has for itself until this is dropped.
pub struct Lock {
    database: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes the place, in a folder that is there.
    pub fn take(database: &Path) -> Result<Self, OpenError> {
        let shown = || database.display().to_string();
        let file = database.with_extension("lock");
        let refused = |error: std::io::Error| {
            let reason = format!("{}: {error}", file.display());
            OpenError::Refused { path: shown(), reason, left: Left::AsItIs }
        };
        let handle = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&file).map_err(refused)?;
        match handle.try_lock() {
            Ok(()) => Ok(Self { database: database.to_owned(), _file: handle }),
            Err(TryLockError::WouldBlock) => Err(OpenError::Locked { path: shown() }),
            Err(TryLockError::Error(error)) => Err(refused(error)),
        }
    }

    /// Where the database is.
    pub fn database(&self) -> &Path {
        &self.database
    }
}
