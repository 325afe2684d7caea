//! How far the log was on stable storage, remembered outside the log.
//!
//! RocksDB takes a log that ends early for a crash in the middle of a write, and opens. If what is missing had been fsynced, an
//! acknowledged write is gone from this disk (a restored copy, a file that was cut, a length that rotted), and nobody would say
//! so. So the number of the newest write of which the log is known to be on stable storage is kept in a file of 16 bytes beside
//! the database, and compared when it is opened.
//!
//! The file is written after each fsync of the log and never fsynced itself: that costs a microsecond. It may therefore be behind
//! the log after a loss of power, by what the kernel had not written yet, and never ahead of it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A number, and the same with every bit turned.
const BYTES: usize = 16;

/// The file.
pub struct Watermark {
    file: File,
}

/// What the comparison says of a database that was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recovery {
    /// Everything is there that was known to be on stable storage.
    Whole,
    /// Writes are missing that were on stable storage.
    Short {
        /// The newest write that was.
        expected: u64,
        /// The newest that is there.
        found: u64,
    },
    /// There is no readable watermark: the database is new, or nobody can tell.
    Unknown,
}

impl Watermark {
    /// Opens the file, or makes an empty one.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Self { file })
    }

    /// What it says of a database whose newest write is `found`.
    pub fn compare(&self, found: u64) -> Recovery {
        match self.read() {
            Some(expected) if found >= expected => Recovery::Whole,
            Some(expected) => Recovery::Short { expected, found },
            None => Recovery::Unknown,
        }
    }

    /// The newest write of which it is known.
    pub fn synced(&self) -> Option<u64> {
        self.read()
    }

    /// Nothing is known any more, not even after a loss of power.
    pub fn forget(&self) -> std::io::Result<()> {
        self.file.set_len(0)?;
        self.file.sync_all()
    }

    fn read(&self) -> Option<u64> {
        let mut bytes = [0; BYTES];
        self.file.read_exact_at(&mut bytes, 0).ok()?;
        let (number, check) = bytes.split_at(BYTES / 2);
        let (number, check) = (u64::from_le_bytes(number.try_into().ok()?), u64::from_le_bytes(check.try_into().ok()?));
        (number == !check).then_some(number)
    }

    /// Everything up to the write `sequence` is on stable storage. In a group of its own, it replaces what was there.
    pub fn record(&self, sequence: u64) -> std::io::Result<()> {
        let mut bytes = [0; BYTES];
        bytes[..BYTES / 2].copy_from_slice(&sequence.to_le_bytes());
        bytes[BYTES / 2..].copy_from_slice(&(!sequence).to_le_bytes());
        self.file.write_all_at(&bytes, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    #[test]
    fn a_database_that_ends_before_the_watermark_is_short() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("synced");
        let watermark = Watermark::open(&path).unwrap();
        assert_eq!(watermark.compare(0), Recovery::Unknown);
        watermark.record(10).unwrap();
        drop(watermark);
        let watermark = Watermark::open(&path).unwrap();
        let short = Recovery::Short { expected: 10, found: 9 };
        assert_eq!([9, 10, 11].map(|found| watermark.compare(found)), [short, Recovery::Whole, Recovery::Whole]);
    }

    #[test]
    fn a_damaged_watermark_says_nothing() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("synced");
        Watermark::open(&path).unwrap().record(1 << 40).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for bit in 0..BYTES * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(Watermark::open(&path).unwrap().compare(0), Recovery::Unknown, "bit {bit}");
        }
        std::fs::write(&path, &whole[..BYTES - 1]).unwrap();
        assert_eq!(Watermark::open(&path).unwrap().compare(0), Recovery::Unknown);
    }
}
