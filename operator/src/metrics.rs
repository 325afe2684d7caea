//! The operator's own metrics, in Prometheus' text format.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::status::conditions;

/// How a pass ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelValue)]
pub enum Outcome {
    /// Nothing was left to do, and everything is as asked.
    Converged,
    /// A step was taken or waited for.
    Progressing,
    /// Not everything is as asked, and nothing will change until somebody does something: the spec is wrong, the operator is paused, or
    /// only a person can decide.
    Blocked,
    /// It failed and will be tried again.
    Failed,
}

impl Outcome {
    /// Of a pass that told these conditions.
    pub fn of(told: &[Condition]) -> Self {
        let holds = |type_: &str| told.iter().any(|condition| condition.type_ == type_ && condition.status == "True");
        match (holds("Ready"), holds("Progressing")) {
            (true, _) => Self::Converged,
            (false, true) => Self::Progressing,
            (false, false) => Self::Blocked,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ConditionLabels {
    namespace: String,
    cluster: String,
    r#type: &'static str,
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
    conditions: Family<ConditionLabels, Gauge>,
    refused_connections: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("dynamo_operator");
        let (reconciles, steps, writes, leader, conditions, refused_connections) = Default::default();
        let seconds = Histogram::new(exponential_buckets(0.01, 2.0, 13));
        registry.register("reconciles", "Passes over a cluster, by how they ended", Family::clone(&reconciles));
        registry.register_with_unit("reconcile", "Time of one pass", Unit::Seconds, seconds.clone());
        registry.register("steps", "Steps, by kind, taken or waited for", Family::clone(&steps));
        registry.register("writes", "Writes to the API server; none while all clusters are at rest", Counter::clone(&writes));
        registry.register("leader", "1 while this process acts", Gauge::clone(&leader));
        let help = "1 if the condition of this type is True, 0 if it is False; absent while that is unknown";
        registry.register("cluster_condition", help, Family::clone(&conditions));
        let help = "Connections to the HTTP port that were ended for newer ones, since there were too many";
        registry.register("refused_connections", help, Counter::clone(&refused_connections));
        Self { registry, reconciles, seconds, steps, writes, leader, conditions, refused_connections }
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

    /// There were too many connections to the HTTP port for one more, and the oldest was ended for it.
    pub fn refused_connection(&self) {
        self.refused_connections.inc();
    }

    /// These conditions hold for a cluster, or do not.
    pub fn told(&self, namespace: &str, cluster: &str, told: &[Condition]) {
        for type_ in conditions::TYPES {
            let labels = ConditionLabels { namespace: namespace.to_owned(), cluster: cluster.to_owned(), r#type: type_ };
            match told.iter().find(|condition| condition.type_ == type_).map(|condition| condition.status.as_str()) {
                Some(status @ ("True" | "False")) => {
                    self.conditions.get_or_create(&labels).set(i64::from(status == "True"));
                }
                _ => {
                    self.conditions.remove(&labels);
                }
            }
        }
    }

    /// A cluster is no more.
    pub fn forget(&self, namespace: &str, cluster: &str) {
        self.told(namespace, cluster, &[]);
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
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn condition(type_: &str, status: &str) -> Condition {
        Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: String::new(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        }
    }

    #[test]
    fn the_metrics_are_named_in_prometheus_manner() {
        let metrics = Metrics::default();
        metrics.reconciled(Outcome::Converged, Duration::from_millis(20));
        metrics.step("RaisePods");
        metrics.wrote(2);
        metrics.leads(true);
        metrics.told(
            "shop",
            "cart",
            &[condition("Ready", "True"), condition("Available", "Unknown"), condition("Degraded", "False")],
        );
        metrics.told("shop", "gone", &[condition("Ready", "True")]);
        metrics.forget("shop", "gone");
        let text = metrics.text().unwrap();
        for line in [
            "dynamo_operator_reconciles_total{outcome=\"Converged\"} 1",
            "dynamo_operator_reconcile_seconds_count 1",
            "dynamo_operator_steps_total{step=\"RaisePods\"} 1",
            "dynamo_operator_writes_total 2",
            "dynamo_operator_leader 1",
            "dynamo_operator_cluster_condition{namespace=\"shop\",cluster=\"cart\",type=\"Ready\"} 1",
            "dynamo_operator_cluster_condition{namespace=\"shop\",cluster=\"cart\",type=\"Degraded\"} 0",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert_eq!(
            text.matches("dynamo_operator_cluster_condition{").count(),
            2,
            "nothing is said of what is unknown or gone: {text}"
        );
    }
}
