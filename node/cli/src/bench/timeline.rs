//! The run interval by interval, so that a stall, or a cost that grows, shows where it was and not only in the whole.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::interval_at;

use super::accounting::{Usage, snapshot};
use super::report::Latencies;
use crate::output::{grouped, table};

/// What ended in one interval.
struct Interval {
    latencies: Latencies,
    errors: u64,
}

/// Every interval of a run.
pub struct Timeline {
    begin: Instant,
    seconds: u64,
    intervals: Mutex<BTreeMap<u64, Interval>>,
    /// What the servers had taken when the first interval began, the second, and so on.
    taken: Mutex<Vec<Usage>>,
}

impl Timeline {
    /// Intervals of so many seconds count from `begin`.
    pub fn new(begin: Instant, seconds: u64) -> Self {
        Self { begin, seconds, intervals: Mutex::default(), taken: Mutex::default() }
    }

    /// An operation ended at `ended`, after `latency`, or failed.
    pub fn record(&self, ended: Instant, latency: Option<Duration>) {
        let index = ended.saturating_duration_since(self.begin).as_secs() / self.seconds;
        let mut intervals = self.intervals.lock().unwrap_or_else(PoisonError::into_inner);
        let interval = intervals.entry(index).or_insert_with(|| Interval { latencies: Latencies::coarse(), errors: 0 });
        match latency {
            Some(latency) => interval.latencies.record(latency),
            None => interval.errors += 1,
        }
    }

    /// Looks at what these processes take, where one interval ends and the next begins, until it is dropped.
    pub async fn watch(&self, servers: &[u32]) {
        let mut edges = interval_at(self.begin.into(), Duration::from_secs(self.seconds));
        while !servers.is_empty() {
            edges.tick().await;
            self.took(snapshot(servers).into_values().sum());
        }
    }

    /// The servers have taken so much when an interval ends: the next one, or the last.
    pub fn took(&self, usage: Usage) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).push(usage);
    }

    /// CPU microseconds of all servers for each operation of an interval, if it was watched to its end.
    fn servers_cpu_us(&self, index: u64, operations: u64) -> Option<f64> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let at = |index: u64| taken.get(usize::try_from(index).ok()?).copied();
        let usage = at(index + 1)?.since(at(index)?);
        (operations > 0).then(|| usage.cpu.as_micros() as f64 / operations as f64)
    }

    /// For programs: one entry an interval, by the second in which it began.
    pub fn document(&self) -> Value {
        let intervals = self.intervals.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = |(index, interval): (&u64, &Interval)| {
            let mut entry = interval.latencies.document();
            entry["second"] = json!(index * self.seconds);
            entry["errors"] = json!(interval.errors);
            entry["servers_cpu_us_per_operation"] = json!(self.servers_cpu_us(*index, interval.latencies.count()));
            entry
        };
        intervals.iter().map(entry).collect()
    }

    /// For people: a row an interval.
    pub fn text(&self) -> String {
        let intervals = self.intervals.lock().unwrap_or_else(PoisonError::into_inner);
        let row = |(index, interval): (&u64, &Interval)| {
            let mut row = interval.latencies.row(&(index * self.seconds).to_string());
            let cpu = self.servers_cpu_us(*index, interval.latencies.count());
            row.push(cpu.map_or(String::new(), |cpu| format!("{cpu:.1}")));
            row.push(grouped(interval.errors));
            row
        };
        let header = ["SECOND", "#COUNT", "#P50 MS", "#P99 MS", "#P99.9 MS", "#MAX MS", "#CPU US/OP", "#ERRORS"];
        table(&header, intervals.iter().map(row).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_counts_in_the_interval_in_which_it_ended() {
        let begin = Instant::now();
        let timeline = Timeline::new(begin, 2);
        for ms in [200, 1900, 2200, 10_000] {
            timeline.record(begin + Duration::from_millis(ms), Some(Duration::from_millis(4)));
        }
        timeline.record(begin + Duration::from_millis(3000), None);
        let document = timeline.document();
        let counts: Vec<_> = document.as_array().unwrap().iter().map(|entry| (&entry["second"], &entry["count"])).collect();
        assert_eq!(counts, [(&json!(0), &json!(2)), (&json!(2), &json!(1)), (&json!(10), &json!(1))]);
        assert_eq!(document[1]["errors"], json!(1));
        assert_eq!(timeline.text().lines().count(), 4);
    }

    #[test]
    fn an_interval_costs_what_the_servers_took_in_it_alone() {
        let begin = Instant::now();
        let timeline = Timeline::new(begin, 1);
        for ms in [100, 900, 1100, 2100] {
            timeline.record(begin + Duration::from_millis(ms), Some(Duration::from_millis(4)));
        }
        for us in [5000, 5030, 5100] {
            timeline.took(Usage { cpu: Duration::from_micros(us), ..Usage::default() });
        }
        let document = timeline.document();
        let costs: Vec<_> = (0..3).map(|interval| &document[interval]["servers_cpu_us_per_operation"]).collect();
        assert_eq!(costs, [&json!(15.0), &json!(70.0), &Value::Null], "the last did not end");
    }
}
