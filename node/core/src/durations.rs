//! How long something took, how often: a histogram with a bucket for each power of two, as Prometheus takes it.

use std::time::Duration;

/// The bound of the first bucket; each further one is twice the one before.
const FIRST_MICROSECONDS: u64 = 125;
/// Buckets with a bound, the last at 4.096 s. What is longer has one without.
const BOUNDED: usize = 16;

/// A histogram.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Durations {
    counts: [u64; BOUNDED + 1],
    sum: Duration,
}

impl Durations {
    /// One more.
    pub fn record(&mut self, duration: Duration) {
        let firsts = duration.as_nanos().saturating_sub(1) / (u128::from(FIRST_MICROSECONDS) * 1000);
        let bucket = (u128::BITS - firsts.leading_zeros()) as usize;
        self.counts[bucket.min(BOUNDED)] += 1;
        self.sum += duration;
    }

    /// All of them together.
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The longest duration that falls into a bucket, `None` for the last, and how many did: in this bucket alone.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        let bound = |bucket: usize| (bucket < BOUNDED).then(|| Duration::from_micros(FIRST_MICROSECONDS << bucket));
        self.counts.iter().enumerate().map(move |(bucket, count)| (bound(bucket), *count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_bucket_whose_bound_it_does_not_exceed() {
        let durations = [0, 1, 125_000, 125_001, 250_000, 250_001, 1_000_000, 4_096_000_000, 4_096_000_001, u64::MAX];
        for duration in durations.map(Duration::from_nanos) {
            let mut one = Durations::default();
            one.record(duration);
            let holds: Vec<_> = one.buckets().filter(|(_, count)| *count > 0).collect();
            let expected = one.buckets().map(|(bound, _)| bound).find(|bound| bound.is_none_or(|bound| duration <= bound));
            assert_eq!(holds, [(expected.unwrap(), 1)], "{duration:?}");
            assert_eq!((one.count(), one.sum()), (1, duration));
        }
    }
}
