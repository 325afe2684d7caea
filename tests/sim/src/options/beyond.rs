//! More disks lost at once than is promised for: as many as a write is on, so that some writes are gone with all their disks. No others
//! may be, which shows what the promise has in reserve: each copy counts until it is lost, or a copy of it is elsewhere.
//!
//! The seeds are drawn as those of [`super::past`] are: none is among them that was kept before.

use crate::dice::Dice;

/// Of so many seeds one loses more, if it loses disks at all.
const EVERY: usize = 8;

/// Chosen so that no seed that was kept before is among them.
const SALT: u64 = 0x6265_796f_6e64_031f;

/// How many disks may be lost at once. Where a write has as many copies as a partition has replicas, no partition may lose all of them:
/// nobody would replace it.
pub fn at_once(seed: u64, w: u8, replication: u8) -> usize {
    let more = Dice::new(seed ^ SALT).below(EVERY) == 0 && w < replication;
    usize::from(w) - usize::from(!more)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::kept_until;

    #[test]
    fn one_seed_in_eight_loses_more_and_none_that_was_kept_before() {
        let beyond = |seed: &u64| at_once(*seed, 2, 3) == 2;
        let found = (1..=1_000).filter(beyond).count();
        assert!((90..160).contains(&found), "{found}");
        let kept = kept_until(11_307);
        assert_eq!(kept.iter().filter(|seed| beyond(seed)).count(), 0);
    }
}
