//! What a comparison came to: each figure with its spread, and ratios between systems of one durability class.

use serde_json::{Value, json};

use crate::bench::driver::Durability;
use crate::bench::report::{Report, SCHEMA};
use crate::bench::shape::Shape;
use crate::bench::system::System;
use crate::output::{grouped, table};

/// Measurements of one system with one workload, in the order of the rounds.
struct Row {
    shape: Shape,
    system: System,
    reports: Vec<Report>,
}

/// All measurements.
#[derive(Default)]
pub struct Summary(Vec<Row>);

/// Least, median and greatest of some values.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    /// Of at least one value, or none.
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (first, last, half) = (*values.first()?, *values.last()?, values.len() / 2);
        let median = if values.len().is_multiple_of(2) { (values[half - 1] + values[half]) / 2.0 } else { values[half] };
        Some(Self { min: first, median, max: last })
    }

    fn document(self) -> Value {
        json!({ "min": self.min, "median": self.median, "max": self.max })
    }
}

impl Row {
    /// Only if every round has the figure: one in which nothing was answered, or the servers were not known, has none.
    fn spread(&self, figure: impl Fn(&Report) -> Option<f64>) -> Option<Spread> {
        let all: Option<Vec<f64>> = self.reports.iter().map(figure).collect();
        Spread::of(all?.into_iter())
    }

    fn servers_cpu_us(&self) -> Option<Spread> {
        self.spread(Report::servers_cpu_us)
    }

    fn per_second(&self) -> Option<Spread> {
        self.spread(|report| Some(report.per_second()))
    }

    /// The weakest of the rounds'.
    fn durability(&self) -> Durability {
        self.reports.iter().map(|report| report.durability).max().unwrap_or(Durability::Unknown)
    }

    fn marked(&self) -> usize {
        self.reports.iter().filter(|report| report.surroundings.is_marked()).count()
    }

    fn errors(&self) -> u64 {
        self.reports.iter().flat_map(|report| report.measured.errors.values()).map(|(count, _)| count).sum()
    }

    fn latency_ms(&self, quantile: f64) -> Option<Spread> {
        self.spread(|report| Some(report.latencies()).filter(|all| all.count() > 0).map(|all| all.quantile_ms(quantile)))
    }

    fn cells(&self) -> Vec<String> {
        let figure = |value: Option<f64>, digits| value.map_or_else(String::new, |value| format!("{value:.digits$}"));
        let cpu = self.servers_cpu_us();
        let median = |spread: Option<Spread>| spread.map(|spread| spread.median);
        vec![
            format!("{:?}", self.shape).to_lowercase(),
            self.system.name(),
            self.durability().word().to_owned(),
            figure(cpu.map(|cpu| cpu.min), 1),
            figure(median(cpu), 1),
            figure(cpu.map(|cpu| cpu.max), 1),
            figure(median(self.spread(Report::client_cpu_us)), 1),
            grouped(median(self.per_second()).unwrap_or(0.0) as u64),
            figure(median(self.latency_ms(0.5)), 2),
            figure(median(self.latency_ms(0.99)), 2),
            grouped(self.errors()),
            format!("{} of {}", self.marked(), self.reports.len()),
        ]
    }

    fn document(&self) -> Value {
        let spread = |spread: Option<Spread>| spread.map(Spread::document);
        json!({
            "workload": format!("{:?}", self.shape).to_lowercase(),
            "system": self.system.name(),
            "durability": self.durability().word(),
            "servers_cpu_us_per_operation": spread(self.servers_cpu_us()),
            "client_cpu_us_per_operation": spread(self.spread(Report::client_cpu_us)),
            "operations_per_second": spread(self.per_second()),
            "p50_ms": spread(self.latency_ms(0.5)),
            "p99_ms": spread(self.latency_ms(0.99)),
            "errors": self.errors(),
            "rounds": self.reports.len(),
            "rounds_marked": self.marked(),
        })
    }
}

/// How many times the CPU time of `of` a peer takes.
struct Ratio<'a> {
    peer: &'a Row,
    of: &'a Row,
    times: Spread,
}

impl Summary {
    /// Another measurement.
    pub fn add(&mut self, shape: Shape, report: Report) {
        let system = report.system;
        match self.0.iter_mut().find(|row| (row.shape, row.system) == (shape, system)) {
            Some(row) => row.reports.push(report),
            None => self.0.push(Row { shape, system, reports: vec![report] }),
        }
    }

    /// Each peer beside the first of our systems with that workload and, if it writes, that durability.
    fn ratios(&self) -> Vec<Ratio<'_>> {
        self.0.iter().filter(|row| !row.system.is_ours()).filter_map(|peer| self.ratio(peer)).collect()
    }

    fn ratio<'a>(&'a self, peer: &'a Row) -> Option<Ratio<'a>> {
        let only_reads = peer.shape.gets_percent() == 100;
        let is_like =
            |row: &&Row| row.system.is_ours() && row.shape == peer.shape && (only_reads || row.durability() == peer.durability());
        let of = self.0.iter().find(is_like)?;
        let pairs = peer.reports.iter().zip(&of.reports);
        let times: Option<Vec<f64>> = pairs.map(|(one, other)| Some(one.servers_cpu_us()? / other.servers_cpu_us()?)).collect();
        Some(Ratio { peer, of, times: Spread::of(times?.into_iter())? })
    }

    /// For people.
    pub fn text(&self) -> String {
        let header = [
            "WORKLOAD",
            "SYSTEM",
            "DURABILITY",
            "#CPU US/OP MIN",
            "#MEDIAN",
            "#MAX",
            "#CLIENT",
            "#OPS/S",
            "#P50 MS",
            "#P99 MS",
            "#ERRORS",
            "#MARKED",
        ];
        let figures = table(&header, self.0.iter().map(Row::cells).collect());
        let row = |ratio: &Ratio<'_>| {
            let Spread { min, median, max } = ratio.times;
            let of = format!("the CPU time of {} (durability {})", ratio.of.system.name(), ratio.of.durability().word());
            let workload = format!("{:?}", ratio.peer.shape).to_lowercase();
            vec![workload, ratio.peer.system.name(), format!("{median:.2}"), format!("{min:.2} to {max:.2}"), of]
        };
        let ratios = self.ratios();
        if ratios.is_empty() {
            return figures;
        }
        let header = ["WORKLOAD", "SYSTEM", "#TIMES", "#SPREAD", "OF"];
        format!("{figures}\n\n{}", table(&header, ratios.iter().map(row).collect()))
    }

    /// For programs.
    pub fn document(&self) -> Value {
        let ratio = |ratio: &Ratio<'_>| {
            json!({
                "workload": format!("{:?}", ratio.peer.shape).to_lowercase(),
                "system": ratio.peer.system.name(),
                "of": ratio.of.system.name(),
                "durability": ratio.of.durability().word(),
                "servers_cpu_times": ratio.times.document(),
            })
        };
        json!({
            "schema": SCHEMA,
            "kind": "summary",
            "figures": self.0.iter().map(Row::document).collect::<Vec<_>>(),
            "ratios": self.ratios().iter().map(ratio).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::{Latencies, sample};

    fn summary(durability_of_peer: Durability) -> Summary {
        let mut summary = Summary::default();
        for (ours, theirs) in [(20, 90), (25, 100), (30, 60)] {
            summary.add(Shape::Update, sample(System::Dynamokv, Durability::Fsync, ours));
            summary.add(Shape::Update, sample(System::Etcd, durability_of_peer, theirs));
        }
        summary
    }

    #[test]
    fn figures_come_with_their_spread_and_ratios_are_made_round_by_round() {
        insta::assert_snapshot!(summary(Durability::Fsync).text(), @r"
        WORKLOAD  SYSTEM    DURABILITY  CPU US/OP MIN  MEDIAN    MAX  CLIENT  OPS/S  P50 MS  P99 MS  ERRORS  MARKED
        update    dynamokv  fsync                20.0    25.0   30.0    25.0    100    2.00    2.00       0  0 of 3
        update    etcd      fsync                60.0    90.0  100.0    90.0    100    2.00    2.00       0  0 of 3

        WORKLOAD  SYSTEM  TIMES        SPREAD  OF
        update    etcd     4.00  2.00 to 4.50  the CPU time of dynamokv (durability fsync)
        ");
        let document = summary(Durability::Fsync).document();
        assert_eq!(document["ratios"][0]["servers_cpu_times"], json!({ "min": 2.0, "median": 4.0, "max": 4.5 }));
        assert_eq!(document["figures"][0]["servers_cpu_us_per_operation"]["median"], json!(25.0));
    }

    #[test]
    fn systems_whose_acknowledgements_are_worth_less_are_not_set_against_ours() {
        assert!(summary(Durability::None).ratios().is_empty());
        assert!(summary(Durability::Unknown).ratios().is_empty());
        let mut reads = Summary::default();
        reads.add(Shape::C, sample(System::Dynamokv, Durability::Fsync, 10));
        reads.add(Shape::C, sample(System::Redis, Durability::None, 5));
        assert_eq!(reads.ratios().len(), 1, "a read is a read");
    }

    #[test]
    fn a_round_in_which_nothing_was_answered_has_no_figures() {
        let mut summary = summary(Durability::Fsync);
        let mut silent = sample(System::Etcd, Durability::Fsync, 1);
        (silent.measured.operations, silent.measured.puts) = (0, Latencies::new());
        summary.add(Shape::Update, silent);
        summary.add(Shape::Update, sample(System::Dynamokv, Durability::Fsync, 20));
        let document = summary.document();
        let of = |figure: &str| &document["figures"][1][figure];
        assert_eq!([of("servers_cpu_us_per_operation"), of("p50_ms"), of("p99_ms")], [&Value::Null; 3]);
        assert_eq!(of("operations_per_second")["min"], json!(0.0));
        assert!(summary.ratios().is_empty() && !summary.text().contains("TIMES"), "{}", summary.text());
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        let spread = Spread::of([4.0, 1.0, 2.0, 9.0].into_iter()).unwrap();
        assert_eq!(spread, Spread { min: 1.0, median: 3.0, max: 9.0 });
        assert_eq!(Spread::of(std::iter::empty()), None);
    }
}
