//! A data directory that is restored as a whole, or that two processes have a copy of: no dot is issued twice.

use dynamo_sim::scenario::{Cluster, cluster};
use dynamo_sim::schedule::HostId;

fn everyone_has(cluster: &mut Cluster, key: &str, values: &[&str]) {
    cluster.settle();
    for home in cluster.homes(key) {
        let mut copied = cluster.copied(home, key);
        copied.sort();
        assert_eq!(copied, values, "host {}", home.0);
    }
}

/// A cluster in which the first home of "alice" was stopped, copied, started again, and has written since.
fn with_a_copy_of_before() -> (Cluster, HostId, (dynamo_sim::disk::Disk, u64)) {
    let mut cluster = cluster(5).start();
    let home = cluster.homes("alice")[0];
    cluster.through(home).put("alice", "before");
    cluster.settle();
    cluster.stop(home, true);
    let copy = cluster.sim.copy_of(home);
    cluster.start(home);
    cluster.settle();
    assert_eq!(cluster.count(|counters| counters.actors_kept), 1, "nobody knows another life: a clean stop keeps the actors");
    cluster.through(home).put("alice", "between");
    cluster.settle();
    (cluster, home, copy)
}

#[test]
fn a_directory_that_was_restored_as_a_whole_issues_no_dot_twice() {
    for clean in [true, false] {
        let (mut cluster, home, copy) = with_a_copy_of_before();
        cluster.stop(home, clean);
        cluster.sim.restore(home, copy);
        cluster.start(home);
        // The first thing that it does, before anything was repaired.
        cluster.through(home).put("alice", "after");
        everyone_has(&mut cluster, "alice", &["after", "before", "between"]);
    }
}

#[test]
fn a_restored_node_that_hears_of_its_later_life_calls_itself_later_still() {
    let (mut cluster, home, copy) = with_a_copy_of_before();
    cluster.stop(home, true);
    cluster.sim.restore(home, copy);
    cluster.start(home);
    cluster.settle();
    let renewed = cluster.sim.node(home).unwrap().counters().actors_renewed;
    assert_eq!(renewed, 1, "it was told before it wrote anything");
    cluster.through(home).put("alice", "after");
    everyone_has(&mut cluster, "alice", &["after", "before", "between"]);
}
