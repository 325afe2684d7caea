//! The dots that this node may issue (paper 4.4): counters, leased before they are issued, so that no crash makes one twice.
//!
//! ```text
//!  issued ──── may be issued ────> leased ──── leased once it is on stable storage ────> asked for
//! ```
//!
//! A start goes on behind what was leased before it; what was not issued of that is left out.

/// Dots leased at a time.
const LEASE: u64 = 1 << 20;

/// Counters of dots, one row of them for all partitions.
#[derive(Clone, Debug)]
pub(super) struct Dots {
    /// The last that was issued.
    issued: u64,
    /// The last that may be.
    leased: u64,
    /// The last that may be once all that is written is on stable storage.
    asked_for: u64,
}

impl Dots {
    /// Those behind an earlier start's lease. None of them may be issued yet.
    pub(super) fn behind(leased: u64) -> Self {
        Self { issued: leased, leased, asked_for: leased }
    }

    /// The counter of the next dot.
    pub(super) fn next(&self) -> u64 {
        self.issued + 1
    }

    /// Whether it may be issued now.
    pub(super) fn may_be_issued(&self) -> bool {
        self.issued < self.leased
    }

    /// It is issued.
    pub(super) fn issue(&mut self) {
        assert!(self.may_be_issued(), "a dot that is not leased could be issued again after a crash");
        self.issued += 1;
    }

    /// Whether it is time to lease more: half a lease is left.
    pub(super) fn run_short(&self) -> bool {
        self.asked_for - self.issued < LEASE / 2
    }

    /// Asks for more: up to which counter, which has to be on stable storage before they are leased.
    pub(super) fn ask(&mut self) -> u64 {
        self.asked_for += LEASE;
        self.asked_for
    }

    /// This lease is on stable storage.
    pub(super) fn lease(&mut self, upto: u64) {
        self.leased = self.leased.max(upto);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_issued_one_by_one_as_far_as_they_are_leased() {
        let mut dots = Dots::behind(7);
        assert_eq!((dots.next(), dots.may_be_issued(), dots.run_short()), (8, false, true), "nothing is leased yet");
        let upto = dots.ask();
        assert_eq!((upto, dots.may_be_issued(), dots.run_short()), (7 + LEASE, false, false), "it is not on stable storage yet");
        dots.lease(upto);
        assert!(dots.may_be_issued());
        dots.issue();
        assert_eq!(dots.next(), 9);
    }

    #[test]
    fn more_is_leased_while_half_is_left_and_an_older_lease_takes_nothing_back() {
        let mut dots = Dots::behind(0);
        let first = dots.ask();
        dots.lease(first);
        (0..LEASE / 2).for_each(|_| dots.issue());
        assert!(!dots.run_short());
        dots.issue();
        assert!(dots.run_short());
        let second = dots.ask();
        assert_eq!(second, 2 * LEASE);
        dots.lease(second);
        dots.lease(first);
        (dots.next()..=second).for_each(|_| dots.issue());
        assert!(!dots.may_be_issued());
    }

    #[test]
    #[should_panic(expected = "not leased")]
    fn no_dot_is_issued_before_its_lease_is_on_stable_storage() {
        let mut dots = Dots::behind(0);
        dots.ask();
        dots.issue();
    }
}
