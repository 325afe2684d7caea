//! Which record a request is for: all alike, or few often and many seldom.
//!
//! Hotspot: a fifth of the records gets four fifths of the requests. Latest: the newer, the more often.
//!
//! The zipfian generator is that of Gray et al., "Quickly generating billion-record synthetic databases" (SIGMOD 1994), with the
//! constant 0.99, as YCSB has it. The ranks are scrambled by a hash, so that popular records lie all over the ring.

use dynamo_core::random::Random;

use crate::random;

/// YCSB's constant: the r-th record is asked for in proportion to 1 / r^0.99.
pub const THETA: f64 = 0.99;

/// A choice among records.
#[derive(Clone, Debug)]
pub enum Chooser {
    /// Each record as often as any other.
    Uniform {
        /// How many there are.
        records: u64,
    },
    /// Scrambled zipfian.
    Zipfian(Zipfian),
    /// A fifth of the records, which lie all over the ring, gets four fifths of the requests.
    Hotspot {
        /// How many there are.
        records: u64,
    },
    /// Zipfian from the newest record backwards.
    Latest(Zipfian),
}

impl Chooser {
    /// The next record, from 0, when there are `now` of them: inserts add to those that were loaded.
    pub fn next(&self, source: &mut Random, now: u64) -> u64 {
        match self {
            Chooser::Uniform { records } => source.next_u64() % records,
            Chooser::Zipfian(zipfian) => scrambled(zipfian.rank(random::unit(source))) % zipfian.records,
            Chooser::Hotspot { records } => {
                let hot = (records / 5).max(1);
                let is_hot = source.next_u64() % 5 < 4 || hot == *records;
                if is_hot { source.next_u64() % hot } else { hot + source.next_u64() % (records - hot) }
            }
            Chooser::Latest(zipfian) => now - 1 - zipfian.rank(random::unit(source)).min(now - 1),
        }
    }
}

/// The constants of one distribution.
#[derive(Clone, Debug)]
pub struct Zipfian {
    records: u64,
    zeta: f64,
    alpha: f64,
    eta: f64,
}

impl Zipfian {
    /// Over this many records, at least one. Takes a step for each.
    pub fn new(records: u64) -> Self {
        let zeta_of = |count: u64| (1..=count).map(|rank| (rank as f64).powf(-THETA)).sum::<f64>();
        let zeta = zeta_of(records);
        let eta = (1.0 - (2.0 / records as f64).powf(1.0 - THETA)) / (1.0 - zeta_of(2) / zeta);
        Self { records, zeta, alpha: 1.0 / (1.0 - THETA), eta }
    }

    /// The rank (0 is the most popular) that the number `unit` in [0, 1) stands for.
    fn rank(&self, unit: f64) -> u64 {
        let scaled = unit * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(THETA) {
            return 1;
        }
        let rank = self.records as f64 * (self.eta * unit - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.records - 1)
    }
}

fn scrambled(rank: u64) -> u64 {
    Random::new(rank).next_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_come_as_often_as_the_law_says() {
        let records = 1000;
        let zipfian = Zipfian::new(records);
        let mut source = Random::new(1);
        let mut counts = vec![0_u64; records as usize];
        let draws = 1_000_000;
        for _ in 0..draws {
            counts[zipfian.rank(random::unit(&mut source)) as usize] += 1;
        }
        for rank in [0, 1] {
            let expected = ((rank + 1) as f64).powf(-THETA) / zipfian.zeta;
            let found = counts[rank] as f64 / draws as f64;
            assert!((found - expected).abs() < 0.05 * expected, "rank {rank}: {found} and not {expected}");
        }
        // The generator approximates the tail; its mass is what matters.
        let tail: u64 = counts[100..].iter().sum();
        let expected: f64 = (101..=records).map(|rank| (rank as f64).powf(-THETA)).sum::<f64>() / zipfian.zeta;
        assert!((tail as f64 / draws as f64 - expected).abs() < 0.03, "{tail}");
    }

    #[test]
    fn every_choice_is_a_record_even_of_one_or_two() {
        let mut source = Random::new(2);
        for records in [1, 2, 3, 10] {
            let latest = Chooser::Latest(Zipfian::new(records));
            let choosers =
                [Chooser::Uniform { records }, Chooser::Zipfian(Zipfian::new(records)), Chooser::Hotspot { records }, latest];
            for chooser in choosers {
                for _ in 0..1000 {
                    assert!(chooser.next(&mut source, records) < records);
                }
            }
        }
    }

    #[test]
    fn the_hot_fifth_gets_four_fifths_and_the_newest_record_is_the_most_popular() {
        let mut source = Random::new(3);
        let hot = Chooser::Hotspot { records: 100 };
        let hits = (0..100_000).filter(|_| hot.next(&mut source, 100) < 20).count();
        assert!((79_000..81_000).contains(&hits), "{hits}");
        let latest = Chooser::Latest(Zipfian::new(100));
        let mut counts = [0; 150];
        (0..100_000).for_each(|_| counts[latest.next(&mut source, 150) as usize] += 1);
        assert!(counts[149] > counts[148] && counts[148] > counts[100] && counts[..50] == [0; 50], "{counts:?}");
    }

    #[test]
    fn popular_records_do_not_lie_beside_each_other() {
        assert!(scrambled(0).abs_diff(scrambled(1)) > 1 << 32);
    }
}
