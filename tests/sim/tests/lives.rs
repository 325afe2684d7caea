//! A data directory that is restored as a whole, or that two processes have a copy of: no dot is issued twice.

use std::time::Duration;

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

#[test]
fn a_life_that_nobody_confirmed_vouches_for_no_actor() {
    let (mut cluster, home, copy) = with_a_copy_of_before();
    // A key that the copy has not seen, under an actor that it knows.
    let beside = |key: &String| cluster.partition(key) == cluster.partition("alice");
    let key = (0..).map(|at| format!("k{at}")).find(beside).expect("there is such a key");
    cluster.through(home).put(&key, "between");
    cluster.settle();
    cluster.stop(home, false);
    cluster.sim.restore(home, copy);
    // As late as the life of the original that nobody here has heard of, and alone.
    let others: Vec<HostId> = cluster.hosts().into_iter().filter(|host| *host != home).collect();
    others.iter().for_each(|other| {
        cluster.sim.cut(home, *other);
        cluster.sim.cut(*other, home);
    });
    cluster.sim.start(home);
    cluster.run(Duration::from_secs(2));
    cluster.sim.stop(home);
    cluster.heal();
    // By its next start that life is a former one for everybody.
    cluster.sim.start(home);
    let confirmed = (0..5_000).any(|_| {
        cluster.run(Duration::from_millis(1));
        cluster.node(home).counters().actors_kept == 1
    });
    assert!(confirmed, "the others answer");
    assert_eq!(cluster.copied(home, &key), [""; 0], "nothing was repaired yet");
    let after = cluster.through(home).put(&key, "after").context;
    cluster.through(home).put_after(&after, &key, "later");
    everyone_has(&mut cluster, &key, &["between", "later"]);
}
