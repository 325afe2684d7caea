//! What comes back that was over: request ids, data directories, processes and records of before. One seed in four has some of it.
//!
//! It is drawn from streams of its own, of which no seed draws anything that was kept in `seeds.txt` before there were any: the histories
//! of the others are what they were.

use std::time::Duration;

use super::Options;
use crate::dice::Dice;

/// Of so many seeds one has something of the past.
const EVERY: usize = 4;

/// What a run has of it.
#[derive(Clone, Debug, Default)]
pub struct PastOptions {
    /// Writes with a request id whose id named another write before, of the same key or of another.
    pub reused_ids: f64,
    /// Of the data directories that are copied, those that are copied at a clean stop: such a copy vouches for its actors.
    pub clean_copies: f64,
    /// Of the disks that go back, those that go back alone: the node starts as the one that it is, on a disk that has forgotten what it
    /// said was synced.
    pub forgetful_disks: f64,
    /// Disks go back again once what the one before had forgotten is made good.
    pub again: bool,
    /// A process goes on after its successor was started on its disk, cut off at first, and beside it then.
    pub revenants: Option<Duration>,
    /// The record of rings is lost, or becomes what it was a while before.
    pub records: Option<Duration>,
}

/// Whether a seed has something of the past.
pub fn is_past(seed: u64) -> bool {
    Dice::new(seed ^ SALT).below(EVERY) == 0
}

/// Chosen so that no seed that was kept before has anything of it.
const SALT: u64 = 0x7061_7383_4be0;

impl Options {
    /// Those of a seed, with what they change of the rest. W copies bear one disk at a time that is not what it was.
    pub(super) fn with_past(mut self) -> Self {
        if !is_past(self.seed) {
            return self;
        }
        let mut dice = Dice::new(self.seed ^ 0x7061_7374_5f6f_6e65);
        let bears_it = self.replication >= 3 && self.quorum.w >= 2 && self.quorum.dw.is_none() && self.faults.rot.is_none();
        let mean = Duration::from_secs(dice.pick(&[2, 4]));
        let other_disk = if bears_it { dice.weighted(&[(3, 0), (3, 1), (4, 2)]) } else { 2 };
        if other_disk < 2 {
            (self.faults.loss, self.faults.restore) = (None, (other_disk == 0).then_some(mean));
        }
        self.past = PastOptions {
            reused_ids: dice.pick(&[0.0, 0.05, 0.3]),
            clean_copies: dice.pick(&[0.0, 0.5, 1.0]),
            forgetful_disks: dice.pick(&[0.0, 0.5, 1.0]),
            again: dice.chance(0.7),
            revenants: (other_disk == 1).then_some(mean),
            records: None,
        };
        let alone = self.faults.loss.is_none() && self.faults.rot.is_none() && !self.faults.commands;
        self.past.records = dice.chance(0.4).then(|| Duration::from_secs(dice.pick(&[2, 5]))).filter(|_| alone);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::kept_until;

    #[test]
    fn one_seed_in_four_has_something_of_the_past_and_none_that_was_kept_before() {
        let past = (1..=1_000).filter(|seed| is_past(*seed)).count();
        assert!((200..300).contains(&past), "{past}");
        let kept = kept_until(27_706);
        assert_eq!(kept.iter().filter(|seed| is_past(**seed)).count(), 0);
    }

    /// What is promised of one disk that is not what it was is not promised of two, nor of records that are lost with a member.
    #[test]
    fn no_run_has_two_kinds_of_disks_that_are_not_what_they_were() {
        for seed in (1..4_000).filter(|seed| is_past(*seed)) {
            let options = Options::from_seed(seed);
            let (faults, past) = (&options.faults, &options.past);
            let kinds = [faults.rot.is_some(), faults.loss.is_some(), faults.restore.is_some(), past.revenants.is_some()];
            assert!(kinds.iter().filter(|is_there| **is_there).count() <= 1, "seed {seed}: {kinds:?}");
            assert!(past.records.is_none() || !(faults.loss.is_some() || faults.commands), "seed {seed}");
        }
    }
}
