//! The run second by second, so that a stall shows where it was and not only in a quantile of the whole.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::report::Latencies;
use crate::output::{grouped, table};

/// What ended in one second.
struct Second {
    latencies: Latencies,
    errors: u64,
}

/// Every second of a run.
pub struct Timeline {
    begin: Instant,
    seconds: Mutex<BTreeMap<u64, Second>>,
}

impl Timeline {
    /// Seconds count from `begin`.
    pub fn new(begin: Instant) -> Self {
        Self { begin, seconds: Mutex::default() }
    }

    /// An operation ended at `ended`, after `latency`, or failed.
    pub fn record(&self, ended: Instant, latency: Option<Duration>) {
        let index = ended.saturating_duration_since(self.begin).as_secs();
        let mut seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        let second = seconds.entry(index).or_insert_with(|| Second { latencies: Latencies::coarse(), errors: 0 });
        match latency {
            Some(latency) => second.latencies.record(latency),
            None => second.errors += 1,
        }
    }

    /// For programs: one entry a second.
    pub fn document(&self) -> Value {
        let seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = |(index, second): (&u64, &Second)| {
            let mut entry = second.latencies.document();
            entry["second"] = json!(index);
            entry["errors"] = json!(second.errors);
            entry
        };
        seconds.iter().map(entry).collect()
    }

    /// For people: a row a second.
    pub fn text(&self) -> String {
        let seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        let row = |(index, second): (&u64, &Second)| {
            let mut row = second.latencies.row(&index.to_string());
            row.push(grouped(second.errors));
            row
        };
        let header = ["SECOND", "#COUNT", "#P50 MS", "#P99 MS", "#P99.9 MS", "#MAX MS", "#ERRORS"];
        table(&header, seconds.iter().map(row).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_counts_in_the_second_in_which_it_ended() {
        let begin = Instant::now();
        let timeline = Timeline::new(begin);
        for ms in [100, 900, 1100, 5000] {
            timeline.record(begin + Duration::from_millis(ms), Some(Duration::from_millis(4)));
        }
        timeline.record(begin + Duration::from_millis(1500), None);
        let document = timeline.document();
        let counts: Vec<_> = document.as_array().unwrap().iter().map(|entry| (&entry["second"], &entry["count"])).collect();
        assert_eq!(counts, [(&json!(0), &json!(2)), (&json!(1), &json!(1)), (&json!(5), &json!(1))]);
        assert_eq!(document[1]["errors"], json!(1));
        assert_eq!(timeline.text().lines().count(), 4);
    }
}
