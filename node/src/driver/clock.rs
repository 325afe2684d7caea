//! The real clocks, read once a turn.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use dynamo_core::time::{self, Now};

/// Instants count from the moment this was made.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// The present.
    pub fn now(&self) -> Now {
        let micros = self.origin.elapsed().as_micros();
        // A wall clock before 1970 reads as 1970: as wrong as it is, and seen to be so where the last writer wins.
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let narrow = |value: u128| u64::try_from(value).unwrap_or(u64::MAX);
        Now { instant: time::Instant(narrow(micros)), wall_ms: narrow(wall) }
    }

    /// Seconds since the start.
    pub fn uptime_seconds(&self) -> u64 {
        self.origin.elapsed().as_secs()
    }
}
