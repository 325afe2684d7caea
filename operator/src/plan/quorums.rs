//! How many replicas a partition needs: the largest R and W of all that have keys in it. Buckets may ask for more than the cluster does,
//! and whoever takes a replica away, or says what is available, asks for the one that asks most.

use dynamo_core::id::PartitionId;
use dynamo_core::ring::Ring;

use crate::api::Replication;
use crate::valid::{ValidCluster, replication_of};

/// R and W.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quorum {
    /// Replicas that a get needs.
    pub r: usize,
    /// Replicas that a put needs.
    pub w: usize,
}

/// The largest R and W that are asked for, by N: buckets have partitions of their own only by their N.
pub struct Quorums(Vec<Replication>);

impl Quorums {
    /// Those of the spec, the cluster's own first.
    pub fn of(cluster: &ValidCluster) -> Self {
        let buckets = cluster.buckets.iter().map(|bucket| replication_of(bucket, cluster.quorum));
        Self(std::iter::once(cluster.quorum).chain(buckets).collect())
    }

    /// The N for which something is asked.
    pub fn factors(&self) -> impl Iterator<Item = i32> {
        self.0.iter().map(|replication| replication.factor)
    }

    /// What is asked for on `partition` of `ring`; the cluster's own where no bucket is left that has its N.
    pub fn on(&self, ring: &Ring, partition: PartitionId) -> Quorum {
        let factor = i32::from(ring.replication_of(partition));
        let asked = || self.0.iter().filter(|replication| replication.factor == factor);
        let most = |of: fn(&Replication) -> i32| asked().map(of).max().unwrap_or_else(|| of(&self.0[0]));
        let count = |asked: i32| usize::try_from(asked).unwrap_or(1);
        Quorum { r: count(most(|replication| replication.r)), w: count(most(|replication| replication.w)) }
    }
}
