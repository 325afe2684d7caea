//! The free space of the data directory, looked at once a second.
//!
//! Below the reserve the node is told to take no more writes, and above it, by a margin, to take them again. The reserve is what
//! the engine needs to go on with what it was already given: three write buffers to flush and the logs behind them, files that a
//! compaction writes before it deletes others, and the node's own records. A full disk would end the process; a reserve keeps it
//! reading, and lets it delete.

use std::path::PathBuf;

use tracing::{info, warn};

use crate::figure::Figure;

/// The reserve if none is configured: three write buffers to flush, their logs' growth in a second, and some room to compact ...
const RESERVE_WRITE_BUFFERS: u64 = 4;
/// ... and not less than this.
const RESERVE_BYTES_MIN: u64 = 256 << 20;
/// The reserve takes at most this part of a small file system if none is configured: a volume of 1 GiB is for trying out, and
/// should hold something.
const RESERVE_SHARE: u64 = 4;
/// Above the reserve by this part of it, the disk has room again: a margin, so that one write does not turn it back.
const MARGIN_SHARE: u64 = 8;

/// Watches one directory.
pub struct Space {
    directory: PathBuf,
    configured: Option<u64>,
    default_reserve: u64,
    writable: bool,
    free: u64,
    reserve: u64,
}

impl Space {
    /// Nothing is known yet, so there is room.
    pub fn new(directory: PathBuf, reserve: Option<u64>, write_buffer_bytes: usize) -> Self {
        let default_reserve = RESERVE_BYTES_MIN.max(RESERVE_WRITE_BUFFERS * write_buffer_bytes as u64);
        Self { directory, configured: reserve, default_reserve, writable: true, free: 0, reserve: 0 }
    }

    /// Whether there was room at the last look.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Looks. Says whether there is room if that has changed.
    pub fn look(&mut self) -> Option<bool> {
        match rustix::fs::statvfs(&self.directory) {
            Ok(found) => self.found(found.f_bavail.saturating_mul(found.f_frsize), found.f_blocks.saturating_mul(found.f_frsize)),
            Err(error) => {
                // No figure is no reason to refuse, or to accept: what holds is what was last known.
                warn!(directory = %self.directory.display(), %error, "the free space cannot be seen");
                None
            }
        }
    }

    fn found(&mut self, free: u64, size: u64) -> Option<bool> {
        self.free = free;
        self.reserve = self.configured.unwrap_or_else(|| self.default_reserve.min(size / RESERVE_SHARE));
        let threshold = if self.writable { self.reserve } else { self.reserve + self.reserve / MARGIN_SHARE };
        let writable = free >= threshold;
        if writable == self.writable {
            return None;
        }
        self.writable = writable;
        let (directory, reserve) = (self.directory.display(), self.reserve);
        if writable {
            info!(%directory, free, reserve, "the disk has room again: taking writes");
        } else {
            warn!(%directory, free, reserve, "the disk is nearly full: no more writes until more than disk_reserve_bytes are free");
        }
        Some(writable)
    }

    /// For metrics.
    pub fn figures(&self) -> [Figure; 3] {
        [
            Figure::varying("disk_free_bytes", "Free space in the data directory", self.free),
            Figure::varying("disk_reserve_bytes", "Free space below which this node takes no writes", self.reserve),
            Figure::varying("disk_writable", "1 if there is space for writes", u64::from(self.writable)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn writes_end_below_the_reserve_and_begin_again_above_it_by_a_margin() {
        let mut space = Space::new("/".into(), Some(800), 0);
        let told: Vec<_> = [900, 800, 799, 800, 899, 900, 800, 0].map(|free| space.found(free, GIB)).into();
        assert_eq!(told, [None, None, Some(false), None, None, Some(true), None, Some(false)]);
    }

    #[test]
    fn the_reserve_holds_the_write_buffers_and_is_at_most_a_quarter_of_a_small_disk_unless_it_is_configured() {
        let default = 64 << 20;
        for (configured, write_buffer_bytes, size, reserve) in [
            (None, default, 100 * GIB, GIB / 4),
            (None, 1 << 20, 100 * GIB, GIB / 4),
            (None, 1 << 30, 100 * GIB, 4 * GIB),
            (None, 1 << 30, GIB, GIB / 4),
            (None, default, GIB / 2, GIB / 8),
            (Some(7), default, GIB, 7),
            (Some(0), default, GIB, 0),
        ] {
            let mut space = Space::new("/".into(), configured, write_buffer_bytes);
            space.found(size, size);
            assert_eq!(space.reserve, reserve, "{configured:?} of {size}");
        }
    }

    #[test]
    fn a_real_directory_has_figures_and_a_missing_one_changes_nothing() {
        let mut space = Space::new(std::env::temp_dir(), Some(u64::MAX / 2), 0);
        assert_eq!(space.look(), Some(false));
        assert!(space.free > 0);
        space.directory = "/nowhere/at/all".into();
        assert_eq!(space.look(), None);
    }
}
