//! What the library in `tests/cluster/preload` is told, through a file that it has mapped. The layout is described there.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::HarnessFailed;

/// The library's name among what was built.
const LIBRARY: &str = "libdynamo_preload.so";
const WORD: u64 = 8;
const WORDS: u64 = 7;

/// The faults of one node's process.
pub struct Control {
    file: File,
    path: PathBuf,
}

/// The library, beside this program or its test's; `None` if it was not built.
pub fn library() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let mut found =
        program.ancestors().skip(1).take(2).flat_map(|folder| [folder.join(LIBRARY), folder.join("deps").join(LIBRARY)]);
    found.find(|path| path.is_file())
}

impl Control {
    /// No faults.
    pub fn create(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        file.set_len(WORD * WORDS)?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// What a node is started with, so that the library is loaded into it and reads this file.
    pub fn environment(&self, library: &Path) -> [(OsString, OsString); 2] {
        [("LD_PRELOAD".into(), library.into()), ("DYNAMO_FAULTS_FILE".into(), self.path.clone().into())]
    }

    fn set(&self, word: u64, value: u64) -> Result<()> {
        self.file.write_all_at(&value.to_ne_bytes(), word * WORD).context("a node's control file").context(HarnessFailed)
    }

    fn get(&self, word: u64) -> Result<u64> {
        let mut bytes = [0; WORD as usize];
        self.file.read_exact_at(&mut bytes, word * WORD).context("a node's control file").context(HarnessFailed)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// So many of the next fsyncs fail; none was seen to fail yet.
    pub fn fail_fsyncs(&self, count: u64) -> Result<()> {
        self.set(1, 0)?;
        self.set(0, count)
    }

    /// How many have failed.
    pub fn failed_fsyncs(&self) -> Result<u64> {
        self.get(1)
    }

    /// Each fsync takes this much longer.
    pub fn delay_fsyncs(&self, delay: Duration) -> Result<()> {
        self.set(2, delay.as_millis() as u64)
    }

    /// The wall clock is off by this.
    pub fn shift_wall_clock(&self, seconds: i64) -> Result<()> {
        self.set(3, seconds.saturating_mul(1_000_000_000) as u64)
    }
    /// Fsyncs of the log wait until they are let go.
    pub fn hold_log_fsyncs(&self) -> Result<()> {
        self.set(4, 1)
    }

    /// They wait no more.
    pub fn release_log_fsyncs(&self) -> Result<()> {
        self.set(4, 0)
    }

    /// How many wait.
    pub fn log_fsyncs_waiting(&self) -> Result<u64> {
        self.get(5)
    }

    /// How many of the log have been done, by all processes that this file was given to.
    pub fn log_fsyncs_done(&self) -> Result<u64> {
        self.get(6)
    }
}
