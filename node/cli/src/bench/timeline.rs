//! The run interval by interval, so that a stall, or a cost that grows, shows where it was and not only in the whole.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::interval_at;

use super::accounting::{Usage, snapshot, sum};
use super::report::Latencies;
use crate::output::{grouped, table};

/// One interval.
struct Interval {
    /// Of operations that were due in it.
    latencies: Latencies,
    /// Those of them that failed.
    errors: u64,
    /// Operations that ended in it, due in it or before.
    ended: u64,
}

impl Interval {
    fn new() -> Self {
        Self { latencies: Latencies::coarse(), errors: 0, ended: 0 }
    }
}

/// Every interval of a run.
pub struct Timeline {
    begin: Instant,
    seconds: u64,
    /// How many intervals there are, once the last is over.
    count: OnceLock<u64>,
    intervals: Mutex<BTreeMap<u64, Interval>>,
    /// What the servers had taken when the first interval began, the second, and so on; `None` if one of them was not there.
    taken: Mutex<Vec<Option<Usage>>>,
}

impl Timeline {
    /// Intervals of so many seconds count from `begin`.
    pub fn new(begin: Instant, seconds: u64) -> Self {
        Self { begin, seconds, count: OnceLock::new(), intervals: Mutex::default(), taken: Mutex::default() }
    }

    /// An operation that was due then took `latency`, or failed.
    pub fn record(&self, due: Instant, latency: Option<Duration>) {
        self.at(due, |interval| match latency {
            Some(latency) => interval.latencies.record(latency),
            None => interval.errors += 1,
        });
    }

    /// An operation ended well then.
    pub fn ended(&self, ended: Instant) {
        self.at(ended, |interval| interval.ended += 1);
    }

    fn at(&self, at: Instant, change: impl FnOnce(&mut Interval)) {
        let index = at.saturating_duration_since(self.begin).as_secs() / self.seconds;
        let mut intervals = self.intervals.lock().unwrap_or_else(PoisonError::into_inner);
        change(intervals.entry(index).or_insert_with(Interval::new));
    }

    /// The last interval ends here: one in which nothing was due is shown as well.
    pub fn end(&self, end: Instant) {
        let length = end.saturating_duration_since(self.begin);
        let _first = self.count.set(length.as_millis().div_ceil(u128::from(self.seconds) * 1000) as u64);
    }

    /// Something of each interval, in their order.
    fn each<T>(&self, of: impl Fn(u64, &Interval) -> T) -> Vec<T> {
        let intervals = self.intervals.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = intervals.last_key_value().map_or(0, |(index, _)| index + 1);
        let (count, empty) = (self.count.get().copied().unwrap_or(0).max(seen), Interval::new());
        (0..count).map(|index| of(index, intervals.get(&index).unwrap_or(&empty))).collect()
    }

    /// Looks at what these processes take, where one interval ends and the next begins, until it is dropped.
    pub async fn watch(&self, servers: &[u32]) {
        let mut edges = interval_at(self.begin.into(), Duration::from_secs(self.seconds));
        while !servers.is_empty() {
            edges.tick().await;
            self.took(sum(servers, &snapshot(servers)));
        }
    }

    /// The servers have taken so much when an interval ends, the next one or the last; `None` if one of them is not there.
    pub fn took(&self, usage: Option<Usage>) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).push(usage);
    }

    /// CPU microseconds of all servers for each operation of an interval, if it was watched to its end.
    fn servers_cpu_us(&self, index: u64, operations: u64) -> Option<f64> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let at = |index: u64| taken.get(usize::try_from(index).ok()?).copied().flatten();
        let usage = at(index + 1)?.since(at(index)?);
        (operations > 0).then(|| usage.cpu.as_micros() as f64 / operations as f64)
    }

    /// For programs: one entry an interval, by the second in which it began.
    pub fn document(&self) -> Value {
        let entry = |index: u64, interval: &Interval| {
            let mut entry = interval.latencies.document();
            entry["second"] = json!(index * self.seconds);
            entry["errors"] = json!(interval.errors);
            entry["operations"] = json!(interval.ended);
            entry["servers_cpu_us_per_operation"] = json!(self.servers_cpu_us(index, interval.ended));
            entry
        };
        self.each(entry).into()
    }

    /// For people: a row an interval.
    pub fn text(&self) -> String {
        let row = |index: u64, interval: &Interval| {
            let mut row = interval.latencies.row(&(index * self.seconds).to_string());
            let cpu = self.servers_cpu_us(index, interval.ended);
            row.push(cpu.map_or(String::new(), |cpu| format!("{cpu:.1}")));
            row.push(grouped(interval.errors));
            row
        };
        let header = ["SECOND", "#COUNT", "#P50 MS", "#P99 MS", "#P99.9 MS", "#MAX MS", "#CPU US/OP", "#ERRORS"];
        table(&header, self.each(row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_counts_in_the_interval_in_which_it_was_due_and_no_interval_is_left_out() {
        let begin = Instant::now();
        let timeline = Timeline::new(begin, 2);
        let at = |ms| begin + Duration::from_millis(ms);
        for (due, latency) in [(200, 4), (1900, 6000), (2200, 4), (10_000, 4)] {
            timeline.record(at(due), Some(Duration::from_millis(latency)));
            timeline.ended(at(due + latency));
        }
        timeline.record(at(3000), None);
        timeline.end(at(13_000));
        let document = timeline.document();
        let of =
            |field: &str| document.as_array().unwrap().iter().map(|entry| entry[field].as_u64().unwrap()).collect::<Vec<_>>();
        assert_eq!(of("second"), [0, 2, 4, 6, 8, 10, 12]);
        assert_eq!(of("count"), [2, 1, 0, 0, 0, 1, 0]);
        assert_eq!(of("operations"), [1, 1, 0, 1, 0, 1, 0], "and the servers' work in that in which it ended");
        assert_eq!(document[1]["errors"], json!(1));
        assert_eq!(timeline.text().lines().count(), 8);
    }

    #[test]
    fn an_interval_costs_what_the_servers_took_in_it_alone() {
        let costs = |taken: &[Option<u64>]| {
            let begin = Instant::now();
            let timeline = Timeline::new(begin, 1);
            for ms in [100, 900, 1100, 2100] {
                timeline.ended(begin + Duration::from_millis(ms));
            }
            let usage = |us| Usage { cpu: Duration::from_micros(us), ..Usage::default() };
            taken.iter().for_each(|us| timeline.took(us.map(usage)));
            let document = timeline.document();
            [0, 1, 2].map(|interval: usize| document[interval]["servers_cpu_us_per_operation"].clone())
        };
        let last_did_not_end = costs(&[Some(5000), Some(5030), Some(5100)]);
        assert_eq!(last_did_not_end, [json!(15.0), json!(70.0), Value::Null]);
        let one_ended = costs(&[Some(5000), Some(5030), None, None]);
        assert_eq!(one_ended, [json!(15.0), Value::Null, Value::Null], "the others' time is not that of all");
    }
}
