//! What may be lost with the volumes of some members: a write is promised to outlive fewer than W disks, and W is its bucket's.

use std::collections::{BTreeMap, BTreeSet};

use dynamo_core::id::{NodeId, PartitionId};
use dynamo_core::rebalance::loss;
use dynamo_core::ring::Ring;

use super::Blocked;
use super::quorums::Quorums;
use crate::api::Replication;
use crate::valid::{ValidCluster, replication_of};

/// Why `nodes` are not to be declared lost before somebody accepts it; `None` if no acknowledged write is lost with them.
pub(super) fn of(cluster: &ValidCluster, ring: &Ring, nodes: &[NodeId]) -> Option<Blocked> {
    let mut known = BTreeMap::<(i32, i32), BTreeSet<PartitionId>>::new();
    // Buckets have partitions of their own only by their N.
    let mut risk = |Replication { factor, w, .. }: Replication| {
        let compute = || {
            let at_risk = loss::consequences(ring, nodes, usize::try_from(w).unwrap_or(1)).at_risk;
            at_risk.into_iter().filter(|partition| i32::from(ring.replication_of(*partition)) == factor).collect()
        };
        known.entry((factor, w)).or_insert_with(compute).clone()
    };
    let mut at_risk = risk(cluster.quorum);
    // What nobody asks for any more is there all the same.
    let asked: BTreeSet<i32> = Quorums::of(cluster).factors().collect();
    for factor in std::iter::once(&ring.replication).chain(ring.buckets.layers()).map(|n| i32::from(*n)) {
        if !asked.contains(&factor) {
            at_risk.extend(risk(Replication { factor, w: cluster.quorum.w.min(factor), ..cluster.quorum }));
        }
    }
    let is_general = !at_risk.is_empty();
    let mut buckets = Vec::new();
    for bucket in &cluster.buckets {
        let of_bucket = risk(replication_of(bucket, cluster.quorum));
        if !is_general && !of_bucket.is_empty() {
            buckets.push(bucket.name.clone());
        }
        at_risk.extend(of_bucket);
    }
    let gone = loss::consequences(ring, nodes, 1).gone.len();
    (!at_risk.is_empty()).then(|| Blocked::DataAtRisk { nodes: nodes.to_vec(), at_risk: at_risk.len(), gone, buckets })
}
