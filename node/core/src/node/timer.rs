//! What a node does at intervals.

use std::time::Duration;

use crate::time::Instant;

/// When it is done next: at once after a start. An interval begins when it was done, and not when it should have been: what is late is
/// done once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timer(Instant);

impl Timer {
    /// Whether it is done now; if so, the next time is after `interval`.
    pub(super) fn rings(&mut self, now: Instant, interval: Duration) -> bool {
        let rings = now >= self.0;
        if rings {
            self.0 = now + interval;
        }
        rings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_late_is_done_once_and_the_next_interval_begins_then() {
        let interval = Duration::from_micros(10);
        let mut timer = Timer::default();
        let looks = (5..8).chain(18..40);
        let rang: Vec<u64> = looks.filter(|at| timer.rings(Instant(*at), interval)).collect();
        assert_eq!(rang, [5, 18, 28, 38]);
    }
}
