//! Counts of what the clients of a workload were told, and how long they went without success.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dynamo_client::RequestError;
use serde_json::{Value, json};

use crate::bench::Latencies;

/// What a client did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// A read.
    Get,
    /// A write of a value.
    Put,
    /// A write of a tombstone.
    Delete,
}

/// Everything that is counted.
pub struct Tally {
    /// Operations that were answered well.
    pub ok: u64,
    /// Those that failed with nothing written, and reads that failed, by kind.
    pub failed: BTreeMap<&'static str, u64>,
    /// Writes of unknown outcome.
    pub unknown: u64,
    /// One message of each kind of failure, the first.
    pub examples: BTreeMap<&'static str, String>,
    /// The most siblings that a read returned.
    pub siblings_max: usize,
    gets: Latencies,
    puts: Latencies,
    deletes: Latencies,
    started: Instant,
    last_success: Instant,
    longest_gap: Duration,
    /// When that gap began, since the start.
    longest_gap_at: Duration,
}

impl Tally {
    /// Nothing has happened.
    pub fn new(now: Instant) -> Self {
        Self {
            ok: 0,
            failed: BTreeMap::new(),
            unknown: 0,
            examples: BTreeMap::new(),
            siblings_max: 0,
            gets: Latencies::new(),
            puts: Latencies::new(),
            deletes: Latencies::new(),
            started: now,
            last_success: now,
            longest_gap: Duration::ZERO,
            longest_gap_at: Duration::ZERO,
        }
    }

    /// An operation that began at `started` has ended now, well or not.
    pub fn ended(&mut self, operation: Operation, started: Instant, error: Option<&RequestError>) {
        let now = Instant::now();
        match error {
            None => self.success(operation, now - started, now),
            Some(error) => self.failure(error),
        }
    }

    /// An operation was answered well.
    pub fn success(&mut self, operation: Operation, latency: Duration, now: Instant) {
        self.close_gap(now);
        self.last_success = now;
        self.ok += 1;
        match operation {
            Operation::Get => self.gets.record(latency),
            Operation::Put => self.puts.record(latency),
            Operation::Delete => self.deletes.record(latency),
        }
    }

    /// An operation was not.
    pub fn failure(&mut self, error: &RequestError) {
        if error.is_unknown() {
            self.unknown += 1;
        } else {
            *self.failed.entry(error.kind()).or_default() += 1;
        }
        self.examples.entry(error.kind()).or_insert_with(|| error.to_string());
    }

    /// No more operations come: a gap at the end counts too.
    pub fn close_gap(&mut self, now: Instant) {
        let gap = now.saturating_duration_since(self.last_success);
        if gap > self.longest_gap {
            self.longest_gap = gap;
            self.longest_gap_at = self.last_success.saturating_duration_since(self.started);
        }
    }

    /// All that were tried.
    pub fn operations(&self) -> u64 {
        self.ok + self.unknown + self.failed.values().sum::<u64>()
    }

    /// One line.
    pub fn text(&self) -> String {
        use crate::output::grouped;
        let failed: u64 = self.failed.values().sum();
        format!("{} ok, {} failed, {} unknown", grouped(self.ok), grouped(failed), grouped(self.unknown))
    }

    /// Longest time in which nobody was answered well, and when it began.
    pub fn longest_gap(&self) -> (Duration, Duration) {
        (self.longest_gap, self.longest_gap_at)
    }

    /// Rows of latencies, of the operations that there were.
    pub fn rows(&self) -> Vec<Vec<String>> {
        let all = [("get", &self.gets), ("put", &self.puts), ("delete", &self.deletes)];
        all.iter().filter(|(_, latencies)| latencies.count() > 0).map(|(what, latencies)| latencies.row(what)).collect()
    }

    /// For programs.
    pub fn document(&self) -> Value {
        json!({
            "operations": self.operations(),
            "ok": self.ok,
            "failed": self.failed,
            "unknown": self.unknown,
            "examples": self.examples,
            "siblings_max": self.siblings_max,
            "latency": { "get": self.gets.document(), "put": self.puts.document(), "delete": self.deletes.document() },
            "longest_without_success_ms": self.longest_gap.as_millis() as u64,
            "longest_without_success_at_s": self.longest_gap_at.as_secs_f64(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_time_without_success_is_found_wherever_it_is() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut tally = Tally::new(start);
        for seconds in [1, 2, 7, 8] {
            tally.success(Operation::Get, Duration::from_millis(1), at(seconds));
        }
        assert_eq!(tally.longest_gap(), (Duration::from_secs(5), Duration::from_secs(2)));
        tally.close_gap(at(20));
        assert_eq!(tally.longest_gap(), (Duration::from_secs(12), Duration::from_secs(8)));
    }

    #[test]
    fn failures_are_counted_by_kind_and_unknown_outcomes_apart() {
        let mut tally = Tally::new(Instant::now());
        tally.failure(&RequestError::Lost("the connection was lost".to_owned()));
        tally.failure(&RequestError::NoAnswer("node".to_owned()));
        tally.failure(&RequestError::NoAnswer("node".to_owned()));
        assert_eq!((tally.operations(), tally.unknown, tally.failed["no_answer"]), (3, 1, 2));
        assert_eq!(tally.document()["failed"]["no_answer"], json!(2));
    }
}
