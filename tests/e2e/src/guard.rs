//! What must hold at every moment of a cluster's life, looked at beside the steps, about once a second.
//!
//! - No member of the recorded ring is without a pod that is asked for: data moves first, pods go last.
//! - The ring's epoch never goes back.
//! - The pods that are asked for never fall below N.
//!
//! It prints what `kubectl get dkv` prints, whenever that has changed: what somebody sees who watches.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::background::Repeated;
use crate::kubernetes::{Kubernetes, name, number, text};

const INTERVAL: Duration = Duration::from_secs(1);

/// Watches one cluster until it is stopped.
pub struct Guard(Repeated);

impl Guard {
    /// Begins.
    pub fn start(kubernetes: &Kubernetes, cluster: &str) -> Self {
        let mut look = Look { kubernetes: kubernetes.clone(), cluster: cluster.to_owned(), epoch: 0, shown: String::new() };
        Self(Repeated::start(INTERVAL, move || look.once()))
    }

    /// Whether it has seen what must not be; [`Guard::stop`] then tells it.
    pub fn has_failed(&self) -> bool {
        self.0.has_ended()
    }

    /// Gives how often it looked, or what it saw that must not be.
    pub fn stop(self) -> Result<u32> {
        self.0.stop().context("at every moment of the cluster's life")
    }
}

struct Look {
    kubernetes: Kubernetes,
    cluster: String,
    epoch: i64,
    shown: String,
}

impl Look {
    fn once(&mut self) -> Result<()> {
        let object = format!("dynamocluster/{}", self.cluster);
        let record = format!("configmap/{}-ring", self.cluster);
        // One list after the other: the sets are read later than the record. If the record is the same after them, both were there
        // together.
        let selector = format!("dynamokv.io/cluster={}", self.cluster);
        let listed = self.kubernetes.list("configmaps,statefulsets", &selector)?;
        let read: Value = serde_json::from_str(&self.kubernetes.kubectl(&["get", &object, &record, "-o", "json"])?)?;
        let read = read.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        let [cluster, after] = &read[..] else { bail!("{object} and {record} cannot both be read") };
        let before = listed.iter().find(|object| name(object) == name(after)).context("the record of the ring is gone")?;
        let sets: BTreeMap<String, i64> =
            listed.iter().filter(|object| text(object, "/kind") == "StatefulSet").map(pods_of).collect();
        self.epoch = epoch(after, self.epoch)?;
        if text(before, VERSION) == text(after, VERSION) {
            members_have_pods(after, &sets)?;
        }
        let factor = number(cluster, "/spec/replication/factor");
        let pods: i64 = sets.values().sum();
        ensure!(pods >= factor, "the StatefulSets ask for {pods} pods, fewer than the {factor} copies of each object");
        self.show(cluster)
    }

    fn show(&mut self, cluster: &Value) -> Result<()> {
        let status = cluster.get("status").cloned().unwrap_or_default();
        let columns = ["/readyReplicas", "/epoch", "/rebalance"].map(|column| status.pointer(column).map(Value::to_string));
        let now = format!("{columns:?}");
        if now != self.shown {
            let table = self.kubernetes.kubectl(&["get", "dkv", &self.cluster])?;
            // The head of the table once.
            let known = usize::from(!self.shown.is_empty());
            table.trim_end().lines().skip(known).for_each(|line| println!("         | {line}"));
            self.shown = now;
        }
        Ok(())
    }
}

const VERSION: &str = "/metadata/resourceVersion";

/// A zone, and the pods that its set asks for.
fn pods_of(set: &Value) -> (String, i64) {
    (text(set, "/metadata/labels/dynamokv.io~1zone").to_owned(), number(set, "/spec/replicas"))
}

fn epoch(record: &Value, before: i64) -> Result<i64> {
    let epoch = text(record, "/data/epoch").parse().context("the record has no epoch")?;
    ensure!(epoch >= before, "the ring's epoch went back from {before} to {epoch}");
    Ok(epoch)
}

/// The record's lines are "NODE UID ZONE ORDINAL", one for each member's volume.
fn members_have_pods(record: &Value, sets: &BTreeMap<String, i64>) -> Result<()> {
    for line in text(record, "/data/volumes").lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [node, _, zone, ordinal] = words[..] else { bail!("the record of the ring says {line:?} of a volume") };
        let pods = sets.get(zone).copied().unwrap_or_default();
        let epoch = text(record, "/data/epoch");
        ensure!(
            ordinal.parse::<i64>()? < pods,
            "in epoch {epoch} node {node} is a member, but of {zone} only {pods} pods are asked for"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_member_whose_pod_is_not_asked_for_and_an_epoch_that_goes_back_are_seen() {
        let record = json!({ "data": { "epoch": "7", "volumes": "n1 u1 default 2\nn2 u2 default 3\n" } });
        let sets = |pods| BTreeMap::from([("default".to_owned(), pods)]);
        assert!(members_have_pods(&record, &sets(4)).is_ok());
        let error = members_have_pods(&record, &sets(3)).unwrap_err().to_string();
        assert_eq!(error, "in epoch 7 node n2 is a member, but of default only 3 pods are asked for");
        assert_eq!(epoch(&record, 7).unwrap(), 7);
        assert!(epoch(&record, 8).is_err());
    }
}
