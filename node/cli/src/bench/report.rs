//! What a run of the benchmark came to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::away::Phases;
use super::timeline::Timeline;
use crate::output::{grouped, table};

/// The longest latency that is told apart, 10 minutes in microseconds.
const LATENCY_US_MAX: u64 = 600_000_000;

/// Latencies in microseconds, with three significant digits.
pub struct Latencies(Histogram<u64>);

impl Latencies {
    /// None yet.
    pub fn new() -> Self {
        Self(Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are constants that the histogram accepts"))
    }

    /// None yet, with two significant digits: a hundredth of the memory.
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

/// What one client, or all of them, did in the measured time.
pub struct Measured {
    /// Gets that were answered.
    pub gets: Latencies,
    /// Puts that were acknowledged.
    pub puts: Latencies,
    /// Operations that failed, by kind.
    pub errors: BTreeMap<&'static str, u64>,
    /// The most siblings that a get returned.
    pub siblings_max: usize,
    /// Requests of an open loop that were sent after their time, since all clients were busy.
    pub late: u64,
}

impl Measured {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { gets: Latencies::new(), puts: Latencies::new(), errors: BTreeMap::new(), siblings_max: 0, late: 0 }
    }

    /// What another client did, too.
    pub fn add(&mut self, other: &Measured) {
        self.gets.add(&other.gets);
        self.puts.add(&other.puts);
        for (kind, count) in &other.errors {
            *self.errors.entry(kind).or_default() += count;
        }
        self.siblings_max = self.siblings_max.max(other.siblings_max);
        self.late += other.late;
    }

    /// Operations that did what they should.
    pub fn operations(&self) -> u64 {
        self.gets.count() + self.puts.count()
    }
}

/// CPU time taken in the measured time.
#[derive(Default)]
pub struct Cpu {
    /// By this process.
    pub client: Duration,
    /// By each server process whose pid is known.
    pub servers: BTreeMap<u32, Duration>,
}

/// A whole run.
pub struct Report {
    /// Everything that was set.
    pub configuration: Value,
    /// One line about it, for people.
    pub title: String,
    /// The load phase: records and time.
    pub load: (u64, Duration),
    /// The measured time.
    pub elapsed: Duration,
    /// What was done in it.
    pub measured: Measured,
    /// What it took.
    pub cpu: Cpu,
    /// The requests a second of an open loop.
    pub rate: Option<f64>,
    /// Second by second, if that was asked for.
    pub timeline: Option<Arc<Timeline>>,
    /// Apart by what happened meanwhile, if that was asked for.
    pub phases: Option<Arc<Phases>>,
}

impl Report {
    fn per_second(&self) -> f64 {
        self.measured.operations() as f64 / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }

    fn cpu_us_per_operation(&self, cpu: Duration) -> f64 {
        cpu.as_micros() as f64 / self.measured.operations().max(1) as f64
    }

    /// For programs: one line with all that is needed to compare it with another.
    pub fn document(&self) -> Value {
        let servers: Duration = self.cpu.servers.values().sum();
        let known = !self.cpu.servers.is_empty();
        let seconds = |(pid, cpu): (&u32, &Duration)| (pid.to_string(), cpu.as_secs_f64());
        json!({
            "configuration": self.configuration,
            "load": { "records": self.load.0, "seconds": self.load.1.as_secs_f64() },
            "seconds": self.elapsed.as_secs_f64(),
            "operations": self.measured.operations(),
            "operations_per_second": self.per_second(),
            "get": self.measured.gets.document(),
            "put": self.measured.puts.document(),
            "errors": self.measured.errors,
            "siblings_max": self.measured.siblings_max,
            "late": self.rate.map(|_| self.measured.late),
            "timeline": self.timeline.as_ref().map(|timeline| timeline.document()),
            "away": self.phases.as_ref().map(|phases| phases.document()),
            "servers_cpu_us_per_operation": known.then(|| self.cpu_us_per_operation(servers)),
            "client_cpu_us_per_operation": self.cpu_us_per_operation(self.cpu.client),
            "servers_cpu_seconds": self.cpu.servers.iter().map(seconds).collect::<BTreeMap<_, _>>(),
        })
    }

    /// For people.
    pub fn text(&self) -> String {
        let (records, load) = self.load;
        let load_rate = (records as f64 / load.as_secs_f64().max(f64::EPSILON)) as u64;
        let mut all = Latencies::new();
        all.add(&self.measured.gets);
        all.add(&self.measured.puts);
        let rows = [("all", &all), ("get", &self.measured.gets), ("put", &self.measured.puts)];
        let rows = rows.iter().filter(|(_, latencies)| latencies.count() > 0).map(|(what, latencies)| latencies.row(what));
        let errors: Vec<String> =
            self.measured.errors.iter().map(|(kind, count)| format!("{} {kind}", grouped(*count))).collect();
        let errors = if errors.is_empty() { "none".to_owned() } else { errors.join(", ") };
        let servers: Duration = self.cpu.servers.values().sum();
        let servers = match self.cpu.servers.len() {
            0 => "unknown (give --local or --pids)".to_owned(),
            count => {
                let processes = if count == 1 { "one process".to_owned() } else { format!("{count} processes") };
                format!("{:.1} us/op in {processes}", self.cpu_us_per_operation(servers))
            }
        };
        let late = match self.rate {
            None => String::new(),
            Some(rate) => format!(
                "open loop of {} a second: {} were sent late, and counted from their time\n",
                grouped(rate as u64),
                grouped(self.measured.late)
            ),
        };
        let phases = self.phases.as_ref().map_or(String::new(), |phases| format!("\n\n{}", phases.text()));
        let timeline = self.timeline.as_ref().map_or(String::new(), |timeline| format!("\n\n{}", timeline.text()));
        format!(
            "{}\nload: {} records in {:.1} s ({}/s)\n\n{} ops/s over {:.1} s\n\n{}\n\n\
             errors: {errors}\n{late}CPU: servers {servers}, client {:.1} us/op\nmost siblings in a get: {}{phases}{timeline}",
            self.title,
            grouped(records),
            load.as_secs_f64(),
            grouped(load_rate),
            grouped(self.per_second() as u64),
            self.elapsed.as_secs_f64(),
            table(&LATENCY_HEADER, rows.collect()),
            self.cpu_us_per_operation(self.cpu.client),
            self.measured.siblings_max,
        )
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
        measured.errors.insert("unavailable", 2);
        Report {
            configuration: json!({ "workload": "a" }),
            title: "YCSB A".to_owned(),
            load: (1000, Duration::from_secs(1)),
            elapsed: Duration::from_secs(10),
            measured,
            cpu: Cpu { client: Duration::from_micros(1010), servers: BTreeMap::from([(7, Duration::from_micros(2020))]) },
            rate: None,
            timeline: None,
            phases: None,
        }
    }

    #[test]
    fn a_report_gives_figures_per_operation() {
        insta::assert_snapshot!(report().text(), @r"
        YCSB A
        load: 1,000 records in 1.0 s (1,000/s)

        10 ops/s over 10.0 s

             COUNT  P50 MS  P99 MS  P99.9 MS  MAX MS
        all    101   50.02   99.01    100.03  100.03
        get    100   50.02   99.01    100.03  100.03
        put      1    7.00    7.00      7.00    7.00

        errors: 2 unavailable
        CPU: servers 20.0 us/op in one process, client 10.0 us/op
        most siblings in a get: 0
        ");
        let document = report().document();
        assert_eq!(document["servers_cpu_us_per_operation"], json!(20.0));
        assert_eq!(document["get"]["count"], json!(100));
    }
}
