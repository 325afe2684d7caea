//! Section 6, on reconciliation by time and on divergent versions.

use dynamo_core::config::{BucketProperties, Reconciliation};
use dynamo_sim::scenario::{BUCKET, cluster};

use super::SECOND;

/// Timestamp based reconciliation, as for customers' sessions: of concurrent versions the one with the latest time is returned.
#[test]
fn where_the_last_writer_wins_a_get_returns_one_version() {
    let by_time = |options: &mut dynamo_sim::options::Options| {
        let properties = BucketProperties { reconciliation: Reconciliation::LastWriterWins, ..BucketProperties::default() };
        options.buckets.insert(BUCKET.into(), properties);
    };
    let mut cluster = cluster(6).tune(by_time).start();
    let hosts = cluster.hosts();
    cluster.put_apart("session", ("at the counter", "at the checkout"), SECOND * 5);
    for host in hosts {
        assert_eq!(cluster.through(host).get("session").values, ["at the checkout"], "host {}", host.0);
    }
}

/// 6.3: how many versions readers see is measured, bucket by bucket.
#[test]
fn divergent_versions_are_counted_by_bucket() {
    let named = |options: &mut dynamo_sim::options::Options| {
        options.buckets.insert(BUCKET.into(), BucketProperties::default());
    };
    let mut cluster = cluster(6).tune(named).start();
    let hosts = cluster.hosts();
    let (left, right) = hosts.split_at(3);
    cluster.split(left, right);
    cluster.through(left[0]).put("alice", "red");
    cluster.through(right[0]).put("alice", "blue");
    cluster.through(left[0]).get("alice");
    cluster.heal();
    cluster.settle();
    cluster.through(left[0]).get("alice");
    cluster.through(right[0]).get("alice");
    let of_bucket = |host| cluster.node(host).divergence().each().find(|(bucket, _)| bucket[..] == *BUCKET.as_bytes());
    let counts = hosts.iter().filter_map(|host| of_bucket(*host)).fold([0; 4], |mut sum, (_, counts)| {
        sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        sum
    });
    assert_eq!(counts, [1, 2, 0, 0], "one get saw one version, two saw two");
}
