//! When which node's wall clock was wrong, for whoever judges stamps. All processes share the machine's clock otherwise.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// One clock, off for a while.
#[derive(Debug)]
struct Shift {
    node: usize,
    seconds: i64,
    from_ms: u64,
    until_ms: Option<u64>,
}

/// All clocks.
#[derive(Debug, Default)]
pub struct Clocks(Mutex<Vec<Shift>>);

/// Milliseconds since 1970, by the machine's clock.
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Clocks {
    fn shifts(&self) -> MutexGuard<'_, Vec<Shift>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node's clock is about to be set off.
    pub fn set_off(&self, node: usize, seconds: i64, now_ms: u64) {
        self.shifts().push(Shift { node, seconds, from_ms: now_ms, until_ms: None });
    }

    /// It has been set right.
    pub fn set_right(&self, node: usize, now_ms: u64) {
        let mut shifts = self.shifts();
        shifts.iter_mut().filter(|shift| shift.node == node).for_each(|shift| {
            shift.until_ms.get_or_insert(now_ms);
        });
    }

    fn any_between(&self, from_ms: u64, until_ms: u64, test: impl Fn(i64) -> bool) -> bool {
        let overlaps = |shift: &Shift| shift.from_ms <= until_ms && shift.until_ms.is_none_or(|until| until >= from_ms);
        self.shifts().iter().any(|shift| test(shift.seconds) && overlaps(shift))
    }

    /// Whether some clock was wrong at any time between these, both included.
    pub fn were_wrong(&self, from_ms: u64, until_ms: u64) -> bool {
        self.any_between(from_ms, until_ms, |_| true)
    }

    /// Whether some clock was behind.
    pub fn were_behind(&self, from_ms: u64, until_ms: u64) -> bool {
        self.any_between(from_ms, until_ms, |seconds| seconds < 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_wrong_from_when_it_is_set_off_until_it_is_set_right() {
        let clocks = Clocks::default();
        clocks.set_off(1, 3_600, 100);
        clocks.set_off(2, -3_600, 150);
        clocks.set_right(1, 200);
        // From, until, wrong, behind.
        let cases = [(0, 99, false, false), (0, 100, true, false), (120, 140, true, false), (160, 170, true, true)];
        for (from, until, wrong, behind) in cases {
            assert_eq!((clocks.were_wrong(from, until), clocks.were_behind(from, until)), (wrong, behind), "{from} to {until}");
        }
        assert!(clocks.were_behind(1_000, 2_000), "it still is");
        clocks.set_right(2, 300);
        assert!(!clocks.were_wrong(301, u64::MAX));
    }
}
