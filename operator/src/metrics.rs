//! The operator's own metrics, in Prometheus' text format.

use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// How a pass ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelValue)]
pub enum Outcome {
    /// Nothing was left to do.
    Converged,
    /// A step was taken or waited for.
    Progressing,
    /// It failed and will be tried again.
    Failed,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: Outcome,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct StepLabel {
    step: &'static str,
}

/// All metrics.
pub struct Metrics {
    registry: Registry,
    reconciles: Family<OutcomeLabel, Counter>,
    seconds: Histogram,
    steps: Family<StepLabel, Counter>,
    writes: Counter,
    leader: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("dynamo_operator");
        let (reconciles, steps, writes, leader) = Default::default();
        let seconds = Histogram::new(exponential_buckets(0.01, 2.0, 13));
        registry.register("reconciles", "Passes over a cluster, by how they ended", Family::clone(&reconciles));
        registry.register_with_unit("reconcile", "Time of one pass", Unit::Seconds, seconds.clone());
        registry.register("steps", "Steps, by kind, taken or waited for", Family::clone(&steps));
        registry.register("writes", "Writes to the API server; none while all clusters are at rest", Counter::clone(&writes));
        registry.register("leader", "1 while this process acts", Gauge::clone(&leader));
        Self { registry, reconciles, seconds, steps, writes, leader }
    }
}

impl Metrics {
    /// A pass has ended.
    pub fn reconciled(&self, outcome: Outcome, took: Duration) {
        self.reconciles.get_or_create(&OutcomeLabel { outcome }).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// A step was taken or waited for.
    pub fn step(&self, step: &'static str) {
        self.steps.get_or_create(&StepLabel { step }).inc();
    }

    /// Objects were written.
    pub fn wrote(&self, count: u64) {
        self.writes.inc_by(count);
    }

    /// This process acts, or no longer.
    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// The text.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metrics_are_named_in_prometheus_manner() {
        let metrics = Metrics::default();
        metrics.reconciled(Outcome::Converged, Duration::from_millis(20));
        metrics.step("RaisePods");
        metrics.wrote(2);
        metrics.leads(true);
        let text = metrics.text().unwrap();
        for line in [
            "dynamo_operator_reconciles_total{outcome=\"Converged\"} 1",
            "dynamo_operator_reconcile_seconds_count 1",
            "dynamo_operator_steps_total{step=\"RaisePods\"} 1",
            "dynamo_operator_writes_total 2",
            "dynamo_operator_leader 1",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
