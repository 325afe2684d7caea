//! What a run of the benchmark came to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::accounting::Usage;
use super::calibration::{Calibration, MOVED_MAX};
use super::driver::{Durability, OperationError};
use super::phases::Phases;
use super::point::CATCH_UP_MAX;
use super::system::System;
use super::timeline::Timeline;
use crate::output::{grouped, table};

/// The form of the documents; grows when a field changes its meaning or goes.
pub const SCHEMA: &str = "dynamokv-bench/1";
/// The longest latency that is told apart, 10 minutes in microseconds.
const LATENCY_US_MAX: u64 = 600_000_000;

/// Latencies in microseconds, with three significant digits.
pub struct Latencies(Histogram<u64>);

impl Latencies {
    /// None yet.
    pub fn new() -> Self {
        Self(Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are constants that the histogram accepts"))
    }

    /// None yet, with two significant digits: a seventh of the memory.
    pub fn coarse() -> Self {
        Self(Histogram::new_with_bounds(1, LATENCY_US_MAX, 2).expect("the bounds are constants that the histogram accepts"))
    }

    /// One operation took so long.
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    /// Those of another client too.
    pub fn add(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("all histograms have the same bounds");
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that this share of the operations does not exceed, in milliseconds.
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// The longest, in milliseconds.
    pub fn max_ms(&self) -> f64 {
        self.0.max() as f64 / 1000.0
    }

    /// Count and quantiles.
    pub fn document(&self) -> Value {
        json!({
            "count": self.count(),
            "p50_ms": self.quantile_ms(0.5),
            "p90_ms": self.quantile_ms(0.9),
            "p99_ms": self.quantile_ms(0.99),
            "p999_ms": self.quantile_ms(0.999),
            "p9999_ms": self.quantile_ms(0.9999),
            "max_ms": self.max_ms(),
        })
    }

    /// A row of a table.
    pub fn row(&self, what: &str) -> Vec<String> {
        let ms = |value: f64| format!("{value:.2}");
        vec![
            what.to_owned(),
            grouped(self.count()),
            ms(self.quantile_ms(0.5)),
            ms(self.quantile_ms(0.99)),
            ms(self.quantile_ms(0.999)),
            ms(self.max_ms()),
        ]
    }
}

/// The header of a table of [`Latencies::row`]s.
pub const LATENCY_HEADER: [&str; 6] = ["", "#COUNT", "#P50 MS", "#P99 MS", "#P99.9 MS", "#MAX MS"];

/// What came of the operations of one client, or of all of them, that were due in the measured time.
pub struct Measured {
    /// Operations that ended well in the measured time, due in it or before: what was done in it.
    pub operations: u64,
    /// Gets that were answered.
    pub gets: Latencies,
    /// Puts that were acknowledged.
    pub puts: Latencies,
    /// Those that failed, by kind: how many, and what the first of them said.
    pub errors: BTreeMap<&'static str, (u64, String)>,
    /// The most siblings that a get returned.
    pub siblings_max: usize,
    /// Puts that were refused since their object had grown too large, and made once it was read.
    pub merged: u64,
    /// Puts before which the record was read, since its token was not known: their latencies are those of both.
    pub read_first: u64,
    /// Requests of an open loop that were sent after their time, since all clients were busy.
    pub late: u64,
    /// Requests of an open loop that were due, and not sent long after the end: nobody knows what they would have taken.
    pub unsent: u64,
}

impl Measured {
    /// Nothing yet.
    pub fn new() -> Self {
        Self {
            operations: 0,
            gets: Latencies::new(),
            puts: Latencies::new(),
            errors: BTreeMap::new(),
            siblings_max: 0,
            merged: 0,
            read_first: 0,
            late: 0,
            unsent: 0,
        }
    }

    /// An operation failed.
    pub fn failed(&mut self, error: &OperationError) {
        let (count, _) = self.errors.entry(error.kind).or_insert_with(|| (0, error.text.clone()));
        *count += 1;
    }

    /// What another client did, too.
    pub fn add(&mut self, other: &Measured) {
        self.operations += other.operations;
        self.gets.add(&other.gets);
        self.puts.add(&other.puts);
        for (kind, (more, text)) in &other.errors {
            let (count, _) = self.errors.entry(kind).or_insert_with(|| (0, text.clone()));
            *count += more;
        }
        self.siblings_max = self.siblings_max.max(other.siblings_max);
        self.merged += other.merged;
        self.read_first += other.read_first;
        self.late += other.late;
        self.unsent += other.unsent;
    }
}

/// What was taken in the measured time.
#[derive(Default)]
pub struct Taken {
    /// By this process.
    pub client: Usage,
    /// By each server process that is known.
    pub servers: BTreeMap<u32, Usage>,
}

/// What else went on.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The machine before and after.
    pub calibration: Option<(Calibration, Calibration)>,
    /// Processes that ran or waited to in the minute before.
    pub load_average: Option<f64>,
    /// The share of all cores' time that the hypervisor gave to others, in percent.
    pub stolen_percent: Option<f64>,
    /// When it began, milliseconds since 1970.
    pub began_ms: u64,
}

impl Surroundings {
    /// How much the machine itself changed, as a share.
    pub fn moved(&self) -> f64 {
        self.calibration.map_or(0.0, |(before, after)| after.moved_since(before))
    }

    /// The machine changed so much that the figure may be the neighbours'.
    pub fn is_marked(&self) -> bool {
        self.moved() > MOVED_MAX
    }

    fn document(&self) -> Value {
        json!({
            "before": self.calibration.map(|(before, _)| before.document()),
            "after": self.calibration.map(|(_, after)| after.document()),
            "moved": self.moved(),
            "marked": self.is_marked(),
            "load_average_before": self.load_average,
            "stolen_percent": self.stolen_percent,
        })
    }

    fn text(&self) -> String {
        let mark = if self.is_marked() { "; do not trust the figures" } else { "" };
        format!(
            "machine: changed by {:.0} % meanwhile{mark}; load average before {}, stolen time {}",
            100.0 * self.moved(),
            self.load_average.map_or("unknown".to_owned(), |load| format!("{load:.1}")),
            self.stolen_percent.map_or("unknown".to_owned(), |share| format!("{share:.1} %")),
        )
    }
}

/// A whole run.
pub struct Report {
    /// What was measured.
    pub system: System,
    /// What its acknowledgements are worth.
    pub durability: Durability,
    /// Everything that was set.
    pub configuration: Value,
    /// One line about it, for people.
    pub title: String,
    /// The load phase, if there was one: records and time.
    pub load: Option<(u64, Duration)>,
    /// The measured time.
    pub elapsed: Duration,
    /// What was done in it.
    pub measured: Measured,
    /// What it took.
    pub taken: Taken,
    /// The requests a second of an open loop.
    pub rate: Option<f64>,
    /// Interval by interval, if that was asked for.
    pub timeline: Option<Arc<Timeline>>,
    /// Apart by what happened meanwhile, if that was asked for.
    pub phases: Option<Arc<Phases>>,
    /// What else went on.
    pub surroundings: Surroundings,
}

impl Report {
    /// Operations a second.
    pub fn per_second(&self) -> f64 {
        self.measured.operations as f64 / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }

    /// Nothing if no operation ended well: what was taken was taken for none.
    fn per_operation(&self, amount: f64) -> Option<f64> {
        (self.measured.operations > 0).then(|| amount / self.measured.operations as f64)
    }

    fn servers(&self) -> Option<Usage> {
        (!self.taken.servers.is_empty()).then(|| self.taken.servers.values().copied().sum())
    }

    /// CPU microseconds of all servers for one operation, if they are known.
    pub fn servers_cpu_us(&self) -> Option<f64> {
        self.servers().and_then(|usage| self.per_operation(usage.cpu.as_micros() as f64))
    }

    /// CPU microseconds of this process for one operation, if any was done.
    pub fn client_cpu_us(&self) -> Option<f64> {
        self.per_operation(self.taken.client.cpu.as_micros() as f64)
    }

    /// All latencies, of gets and puts.
    pub fn latencies(&self) -> Latencies {
        let mut all = Latencies::new();
        all.add(&self.measured.gets);
        all.add(&self.measured.puts);
        all
    }

    /// For programs: one line with all that is needed to compare it with another.
    pub fn document(&self) -> Value {
        let seconds = |(pid, usage): (&u32, &Usage)| (pid.to_string(), usage.cpu.as_secs_f64());
        let of_servers = |amount: fn(&Usage) -> u64| self.servers().and_then(|usage| self.per_operation(amount(&usage) as f64));
        let errors = self.measured.errors.iter().map(|(kind, (count, _))| (*kind, *count));
        let texts = self.measured.errors.iter().map(|(kind, (_, text))| (*kind, text));
        json!({
            "schema": SCHEMA,
            "kind": "run",
            "system": self.system.name(),
            "durability": self.durability.word(),
            "began_ms": self.surroundings.began_ms,
            "configuration": self.configuration,
            "load": self.load.map(|(records, time)| json!({ "records": records, "seconds": time.as_secs_f64() })),
            "seconds": self.elapsed.as_secs_f64(),
            "operations": self.measured.operations,
            "operations_per_second": self.per_second(),
            "get": self.measured.gets.document(),
            "put": self.measured.puts.document(),
            "errors": errors.collect::<BTreeMap<_, _>>(),
            "first_error": texts.collect::<BTreeMap<_, _>>(),
            "siblings_max": self.measured.siblings_max,
            "merged": self.measured.merged,
            "read_first": self.measured.read_first,
            "late": self.rate.map(|_| self.measured.late),
            "unsent": self.rate.map(|_| self.measured.unsent),
            "timeline": self.timeline.as_ref().map(|timeline| timeline.document()),
            "meanwhile": self.phases.as_ref().map(|phases| phases.document()),
            "servers_cpu_us_per_operation": self.servers_cpu_us(),
            "servers_waits_per_operation": of_servers(|usage| usage.waits),
            "servers_disk_bytes_per_operation": of_servers(|usage| usage.disk_bytes),
            "client_cpu_us_per_operation": self.client_cpu_us(),
            "servers_cpu_seconds": self.taken.servers.iter().map(seconds).collect::<BTreeMap<_, _>>(),
            "calibration": self.surroundings.document(),
        })
    }

    /// For people.
    pub fn text(&self) -> String {
        let load = self.load.map_or_else(String::new, |(records, time)| {
            let rate = (records as f64 / time.as_secs_f64().max(f64::EPSILON)) as u64;
            format!("load: {} records in {:.1} s ({}/s)\n", grouped(records), time.as_secs_f64(), grouped(rate))
        });
        let all = self.latencies();
        let rows = [("all", &all), ("get", &self.measured.gets), ("put", &self.measured.puts)];
        let rows = rows.iter().filter(|(_, latencies)| latencies.count() > 0).map(|(what, latencies)| latencies.row(what));
        let phases = self.phases.as_ref().map_or(String::new(), |phases| format!("\n\n{}", phases.text()));
        let timeline = self.timeline.as_ref().map_or(String::new(), |timeline| format!("\n\n{}", timeline.text()));
        format!(
            "{}\n{load}\n{} ops/s over {:.1} s, durability: {}\n\n{}\n\n\
             {}\n{}{}, client {}\nmost siblings in a get: {}\n{}{}{phases}{timeline}",
            self.title,
            grouped(self.per_second() as u64),
            self.elapsed.as_secs_f64(),
            self.durability.word(),
            table(&LATENCY_HEADER, rows.collect()),
            self.errors_text(),
            self.rate.map_or_else(String::new, |rate| self.schedule_text(rate)),
            self.servers_text(),
            self.client_cpu_us().map_or_else(|| "unknown".to_owned(), |cpu| format!("{cpu:.1} us/op")),
            self.measured.siblings_max,
            self.puts_text(),
            self.surroundings.text(),
        )
    }

    /// What the latencies of puts hold besides the puts.
    fn puts_text(&self) -> String {
        let first = match self.measured.read_first {
            0 => String::new(),
            first => format!("{} puts read their record first, and the get is in their time\n", grouped(first)),
        };
        let whole = match self.configuration["workload"] == "f" {
            true => "a put is the whole read-modify-write, with its get\n",
            false => "",
        };
        format!("{first}{whole}")
    }

    /// How an open loop kept to its schedule.
    fn schedule_text(&self, rate: f64) -> String {
        let rate = if rate < 10.0 { format!("{rate:.3}") } else { grouped(rate as u64) };
        let late = grouped(self.measured.late);
        let unsent = match self.measured.unsent {
            0 => String::new(),
            unsent => format!(
                "; {} were due and still not sent {} s after the end, so the latencies are too short",
                grouped(unsent),
                CATCH_UP_MAX.as_secs()
            ),
        };
        format!("open loop of {rate} a second: {late} were sent late, and counted from their time{unsent}\n")
    }

    /// What failed, by kind.
    pub fn errors_text(&self) -> String {
        let errors = self.measured.errors.iter();
        let errors: Vec<String> = errors.map(|(kind, (count, text))| format!("{} {kind} ({text})", grouped(*count))).collect();
        let merged = match self.measured.merged {
            0 => String::new(),
            merged => format!("; {} puts were refused for their siblings, read them and put one value", grouped(merged)),
        };
        format!("errors: {}{merged}", if errors.is_empty() { "none".to_owned() } else { errors.join(", ") })
    }

    fn servers_text(&self) -> String {
        let Some(usage) = self.servers() else {
            return "CPU: of the servers unknown; they run elsewhere, or come and go".to_owned();
        };
        let processes = match self.taken.servers.len() {
            1 => "one process".to_owned(),
            count => format!("{count} processes"),
        };
        let amounts = [usage.cpu.as_micros() as f64, usage.waits as f64, usage.disk_bytes as f64];
        let [Some(cpu), Some(waits), Some(bytes)] = amounts.map(|amount| self.per_operation(amount)) else {
            return format!("CPU: servers {:.1} s in {processes} for no operation that ended well", usage.cpu.as_secs_f64());
        };
        format!("CPU: servers {cpu:.1} us/op in {processes} ({waits:.1} waits and {bytes:.0} bytes to disk for each)")
    }
}

/// A report of a hundred puts, for tests: the servers took so many microseconds for each.
#[cfg(test)]
pub fn sample(system: System, durability: Durability, cpu_us: u64) -> Report {
    let mut measured = Measured::new();
    (0..100).for_each(|_| measured.puts.record(Duration::from_millis(2)));
    measured.operations = 100;
    let usage = Usage { cpu: Duration::from_micros(100 * cpu_us), ..Usage::default() };
    Report {
        system,
        durability,
        configuration: Value::Null,
        title: String::new(),
        load: None,
        elapsed: Duration::from_secs(1),
        measured,
        taken: Taken { client: usage, servers: BTreeMap::from([(7, usage)]) },
        rate: None,
        timeline: None,
        phases: None,
        surroundings: Surroundings::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut measured = Measured::new();
        for ms in 1..=100 {
            measured.gets.record(Duration::from_millis(ms));
        }
        measured.puts.record(Duration::from_millis(7));
        measured.operations = 101;
        (0..2).for_each(|_| measured.failed(&OperationError::new("unavailable", "nobody is there")));
        let usage = |cpu_us| Usage { cpu: Duration::from_micros(cpu_us), waits: 202, disk_bytes: 101_000 };
        let quiet = Calibration { hashed: 100.0, copied: 100.0, pinged: 100.0 };
        Report {
            system: System::Dynamokv,
            durability: Durability::Fsync,
            configuration: json!({ "workload": "a" }),
            title: "YCSB A".to_owned(),
            load: Some((1000, Duration::from_secs(1))),
            elapsed: Duration::from_secs(10),
            measured,
            taken: Taken { client: usage(1010), servers: BTreeMap::from([(7, usage(2020))]) },
            rate: None,
            timeline: None,
            phases: None,
            surroundings: Surroundings {
                calibration: Some((quiet, Calibration { copied: 85.0, ..quiet })),
                load_average: Some(0.25),
                stolen_percent: Some(1.5),
                began_ms: 0,
            },
        }
    }

    #[test]
    fn a_report_gives_figures_per_operation() {
        insta::assert_snapshot!(report().text(), @r"
        YCSB A
        load: 1,000 records in 1.0 s (1,000/s)

        10 ops/s over 10.0 s, durability: fsync

             COUNT  P50 MS  P99 MS  P99.9 MS  MAX MS
        all    101   50.02   99.01    100.03  100.03
        get    100   50.02   99.01    100.03  100.03
        put      1    7.00    7.00      7.00    7.00

        errors: 2 unavailable (nobody is there)
        CPU: servers 20.0 us/op in one process (2.0 waits and 1000 bytes to disk for each), client 10.0 us/op
        most siblings in a get: 0
        machine: changed by 15 % meanwhile; do not trust the figures; load average before 0.2, stolen time 1.5 %
        ");
        let document = report().document();
        assert_eq!(document["servers_cpu_us_per_operation"], json!(20.0));
        assert_eq!(document["get"]["count"], json!(100));
        assert_eq!((&document["errors"]["unavailable"], &document["calibration"]["marked"]), (&json!(2), &json!(true)));
        let named = ["schema", "kind", "system", "durability", "began_ms"].map(|field| document[field].clone());
        assert_eq!(named, [json!(SCHEMA), json!("run"), json!("dynamokv"), json!("fsync"), json!(0)]);
    }

    #[test]
    fn a_report_says_of_puts_that_gets_are_in_their_time() {
        let mut report = report();
        assert!(!report.text().contains("get is in their time") && !report.text().contains("read-modify-write"));
        report.measured.read_first = 1234;
        report.configuration = json!({ "workload": "f" });
        let (text, document) = (report.text(), report.document());
        assert!(text.contains("\n1,234 puts read their record first, and the get is in their time\n"), "{text}");
        assert!(text.contains("\na put is the whole read-modify-write, with its get\n"), "{text}");
        assert_eq!(document["read_first"], json!(1234));
    }

    #[test]
    fn an_open_loop_tells_what_was_late_and_what_it_did_not_send() {
        let mut report = report();
        (report.rate, report.measured.late) = (Some(2.5), 7);
        let text = report.text();
        assert!(text.contains("open loop of 2.500 a second: 7 were sent late, and counted from their time\n"), "{text}");
        report.measured.unsent = 1234;
        let text = report.text();
        assert!(
            text.contains("time; 1,234 were due and still not sent 5 s after the end, so the latencies are too short\n"),
            "{text}"
        );
        let document = report.document();
        assert_eq!([&document["late"], &document["unsent"]], [&json!(7), &json!(1234)]);
    }
}
