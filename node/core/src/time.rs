//! Time as a parameter: what a driver tells the machines, twice.
//!
//! [`Instant`] only grows and is what deadlines use. The wall clock may jump either way; it is stored beside values for
//! people to read, and decides nothing but which version a bucket shows in which the last writer wins.

use std::ops::Add;
use std::time::Duration;

/// Microseconds since an origin of the driver's choice; never goes back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// The time since `earlier`, zero if that lies ahead.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
    }
}

/// The present, as a driver sees it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// For deadlines.
    pub instant: Instant,
    /// Milliseconds since 1970, for people, and for buckets in which the last writer wins.
    pub wall_ms: u64,
}
