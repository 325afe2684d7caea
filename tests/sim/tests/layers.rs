//! Buckets with an N of their own: as many copies and no more, whoever comes and goes (paper 4.3, 4.5; `ring::bucket_replication`).

use std::time::Duration;

use dynamo_core::id::NodeId;
use dynamo_core::request::{Failure, QuorumWish};
use dynamo_sim::scenario::{BUCKET, Cluster, cluster};
use dynamo_sim::schedule::HostId;

const KEYS: usize = 60;

fn key(number: usize) -> String {
    format!("key {number}")
}

fn start(nodes: usize, n: u8) -> Cluster {
    cluster(nodes).bucket_n(BUCKET, n).tune(|options| options.pace.reap = Duration::from_secs(1)).start()
}

fn filled(cluster: &mut Cluster) {
    let hosts = cluster.hosts();
    for number in 0..KEYS {
        cluster.through(hosts[number % hosts.len()]).put(&key(number), "value");
    }
}

/// Whose own copy of a key there is.
fn holders(cluster: &Cluster, key: &str) -> Vec<HostId> {
    cluster.hosts().into_iter().filter(|host| cluster.copy(*host, key).is_some()).collect()
}

/// The first n of the list have every key, and nobody else.
fn all_are_where_they_belong(cluster: &mut Cluster, n: u8) {
    cluster.settle();
    for number in 0..KEYS {
        let mut homes = cluster.homes(&key(number));
        assert_eq!(homes.len(), usize::from(n));
        homes.sort_unstable();
        assert_eq!(holders(cluster, &key(number)), homes, "{}", key(number));
        let asked = cluster.hosts()[number % 3];
        assert_eq!(cluster.through(asked).get(&key(number)).values, ["value"], "{}", key(number));
    }
}

#[test]
fn an_object_has_as_many_copies_as_its_bucket_says_and_quorums_are_of_them() {
    for n in [1, 2, 3] {
        let mut cluster = start(5, n);
        filled(&mut cluster);
        all_are_where_they_belong(&mut cluster, n);
        let host = cluster.hosts()[0];
        let too_many = QuorumWish { w: Some(n + 1), ..QuorumWish::default() };
        let refused = cluster.through(host).with(too_many).try_put(&Default::default(), "alice", "milk");
        assert_eq!(refused, Err(Failure::Invalid(format!("quorum.w is {}; give 1 to {n} (N is {n})", n + 1))));
        let written = cluster.through(host).put("alice", "milk");
        assert_eq!(written.evidence.nodes.len(), usize::from(n.min(2)), "W is 2, and 1 where that is N");
    }
}

#[test]
fn copies_follow_the_list_as_nodes_come_and_go_and_those_that_it_no_longer_names_are_dropped() {
    for n in [1, 2] {
        let mut cluster = start(3, n);
        filled(&mut cluster);
        let first = cluster.hosts()[0];
        for _ in 0..2 {
            cluster.join();
        }
        all_are_where_they_belong(&mut cluster, n);
        cluster.leave(first);
        all_are_where_they_belong(&mut cluster, n);
        assert!(cluster.count(|counters| counters.partitions_dropped) > 0);
    }
}

#[test]
fn a_put_whose_only_replica_is_away_is_taken_by_a_stand_in_and_goes_home() {
    let mut cluster = start(5, 1);
    let home = cluster.homes("alice")[0];
    let second_of_the_list: NodeId = cluster.ring().placements[cluster.partition("alice").0 as usize % 16].replicas[1];
    cluster.kill(home);
    cluster.run(Duration::from_secs(10));
    let other = cluster.hosts().into_iter().find(|host| *host != home).expect("five nodes");
    let written = cluster.through(other).put("alice", "milk");
    assert_eq!(written.evidence.hinted, 1, "{:?}", written.evidence);
    assert!(cluster.fallbacks("alice").iter().any(|host| cluster.id(*host) == second_of_the_list), "it is one of the stand-ins");
    cluster.start(home);
    cluster.settle();
    assert_eq!(holders(&cluster, "alice"), [home]);
}

#[test]
fn a_wiped_replica_is_filled_from_the_other_and_what_lay_on_it_alone_is_lost() {
    for (n, kept) in [(1, false), (2, true)] {
        let mut cluster = start(4, n);
        filled(&mut cluster);
        cluster.settle();
        let wiped = cluster.hosts()[1];
        let lay_there: Vec<usize> = (0..KEYS).filter(|number| cluster.homes(&key(*number)).contains(&wiped)).collect();
        assert!(!lay_there.is_empty());
        cluster.wipe(wiped);
        cluster.settle();
        let asked = cluster.hosts()[0];
        for number in 0..KEYS {
            let expected: &[&str] = if kept || !lay_there.contains(&number) { &["value"] } else { &[] };
            assert_eq!(cluster.through(asked).get(&key(number)).values, expected, "{}", key(number));
        }
    }
}

#[test]
fn a_tombstone_goes_when_the_replicas_of_its_bucket_have_it() {
    for n in [1, 2] {
        let mut cluster = start(5, n);
        let host = cluster.hosts()[0];
        cluster.through(host).put("alice", "milk");
        let context = cluster.through(host).get("alice").context;
        cluster.through(host).delete(&context, "alice");
        cluster.settle();
        assert_eq!(holders(&cluster, "alice"), []);
        assert_eq!(cluster.count(|counters| counters.tombstones_reaped), u64::from(n));
    }
}
