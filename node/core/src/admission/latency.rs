//! Latencies of the recent past, in constant memory: a histogram with logarithmic buckets, and a window of six of them.
//!
//! A bucket is a 32nd of a power of two wide, so a percentile is right to 3 %. Recording is an index and an addition.

use std::time::Duration;

use crate::time::Instant;

/// Buckets for each power of two, as a power of two.
const FINE_BITS: u32 = 5;
/// Latencies from here on share the last bucket: two minutes, more than any request may take.
const MICROSECONDS_BITS_MAX: u32 = 27;
const BUCKETS: usize = ((MICROSECONDS_BITS_MAX - FINE_BITS + 1) << FINE_BITS) as usize;
/// How long a slot of a window is filled.
const SLOT: Duration = Duration::from_secs(10);
/// Slots of a window: the paper's 60 seconds.
const SLOTS: usize = 6;

/// Latencies, and how often each occurred.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u32>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0 }
    }
}

impl Histogram {
    /// One more.
    pub fn record(&mut self, latency: Duration) {
        let bucket = bucket_of(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        self.counts[bucket] = self.counts[bucket].saturating_add(1);
        self.total += 1;
    }

    /// How many were recorded.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
    }

    /// The latency that one in a hundred exceeds; `None` below two latencies.
    pub fn percentile_99(&self) -> Option<Duration> {
        percentile_99(std::slice::from_ref(self))
    }
}

/// The latency that one in a hundred exceeds, but never fewer than one: a single slow request makes no percentile. `None` below
/// two latencies.
fn percentile_99(of: &[Histogram]) -> Option<Duration> {
    let total: u64 = of.iter().map(Histogram::total).sum();
    let above = (total / 100).max(1);
    let mut seen = 0;
    for bucket in (0..BUCKETS).rev() {
        seen += of.iter().map(|histogram| u64::from(histogram.counts[bucket])).sum::<u64>();
        if seen > above {
            return Some(Duration::from_micros(most_in(bucket)));
        }
    }
    None
}

fn bucket_of(microseconds: u64) -> usize {
    let capped = microseconds.min((1 << MICROSECONDS_BITS_MAX) - 1);
    let Some(shift) = (u64::BITS - capped.leading_zeros()).checked_sub(FINE_BITS + 1) else { return capped as usize };
    ((u64::from(shift) << FINE_BITS) + (capped >> shift)) as usize
}

/// The longest latency of a bucket.
fn most_in(bucket: usize) -> u64 {
    let (row, column) = ((bucket as u64) >> FINE_BITS, (bucket as u64) & ((1 << FINE_BITS) - 1));
    match row.checked_sub(1) {
        None => column,
        Some(shift) => (((1 << FINE_BITS) + column + 1) << shift) - 1,
    }
}

/// The last 60 seconds, give or take a slot.
#[derive(Clone, Debug)]
pub struct Window {
    slots: Vec<Histogram>,
    current: usize,
    turns_at: Instant,
}

impl Window {
    /// An empty window.
    pub fn new(now: Instant) -> Self {
        Self { slots: vec![Histogram::default(); SLOTS], current: 0, turns_at: now + SLOT }
    }

    /// Forgets what is too old by now.
    pub fn advance(&mut self, now: Instant) {
        for _ in 0..SLOTS {
            if now < self.turns_at {
                return;
            }
            self.current = (self.current + 1) % SLOTS;
            self.slots[self.current].clear();
            self.turns_at = self.turns_at + SLOT;
        }
        // Longer than the window: everything has gone.
        self.turns_at = self.turns_at.max(now + SLOT);
    }

    /// One more.
    pub fn record(&mut self, latency: Duration, now: Instant) {
        self.advance(now);
        self.slots[self.current].record(latency);
    }

    /// The 99th percentile of the whole window.
    pub fn percentile_99(&self) -> Option<Duration> {
        percentile_99(&self.slots)
    }

    /// What the 99th percentile usually is: the median of those of the slots with at least `least` latencies, so that a few bad
    /// seconds do not count for a minute; of the whole window, if no slot has so many.
    pub fn usual_percentile_99(&self, least: u64) -> Option<Duration> {
        let full = self.slots.iter().filter(|slot| slot.total() >= least);
        let mut figures: Vec<Duration> = full.filter_map(Histogram::percentile_99).collect();
        figures.sort_unstable();
        let total: u64 = self.slots.iter().map(Histogram::total).sum();
        match figures.len() {
            0 if total < least => None,
            0 => self.percentile_99(),
            count => Some(figures[(count - 1) / 2]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(microseconds: u64) -> Duration {
        Duration::from_micros(microseconds)
    }

    #[test]
    fn a_bucket_holds_what_falls_into_it_and_is_at_most_a_32nd_too_long() {
        for microseconds in (0..5_000).chain([50_000, 1_000_000, (1 << 27) - 1]) {
            let most = most_in(bucket_of(microseconds));
            assert!(most >= microseconds && most <= microseconds + microseconds / 32, "{microseconds}: {most}");
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn one_in_a_hundred_may_be_slower_and_one_in_all() {
        let cases = [
            (&[][..], None),
            (&[(1, 9)], None),
            (&[(1, 5), (1, 90_000)], Some(5)),
            (&[(99, 5), (1, 90_000)], Some(5)),
            (&[(98, 5), (2, 90_000)], Some(90_000)),
            (&[(9_900, 5), (100, 90_000)], Some(5)),
        ];
        for (latencies, expected) in cases {
            let mut histogram = Histogram::default();
            for (times, latency) in latencies {
                (0..*times).for_each(|_| histogram.record(micros(*latency)));
            }
            let expected = expected.map(|latency| micros(most_in(bucket_of(latency))));
            assert_eq!(histogram.percentile_99(), expected, "{latencies:?}");
        }
    }

    #[test]
    fn a_minute_later_all_is_forgotten() {
        let seconds = |seconds: u64| Instant(seconds * 1_000_000);
        for (later, kept) in [(0, true), (49, true), (61, false), (10_000, false)] {
            let mut window = Window::new(seconds(0));
            (0..100).for_each(|_| window.record(micros(7), seconds(0)));
            window.advance(seconds(later));
            assert_eq!(window.percentile_99(), kept.then_some(micros(7)), "{later} s later");
        }
    }

    #[test]
    fn a_bad_slot_does_not_change_what_is_usual() {
        let mut window = Window::new(Instant(0));
        for second in 0..50_u64 {
            let latency = if second / 10 == 2 { 900_000 } else { 8 };
            (0..20).for_each(|_| window.record(micros(latency), Instant(second * 1_000_000)));
        }
        assert_eq!(window.usual_percentile_99(100), Some(micros(8)));
        assert!(window.percentile_99() > Some(micros(800_000)));
        assert_eq!(window.usual_percentile_99(1_000_000), None);
    }
}
