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

/// A disk that goes back in time has what was deleted and reaped since, and nothing that says so.
#[test]
fn what_was_reaped_goes_for_good_from_a_disk_that_went_back_before_that() {
    for alone in [true, false] {
        let mut cluster = cluster(3).tune(|options| options.pace.reap = Duration::from_millis(300)).start();
        let homes = cluster.homes("alice");
        let written = cluster.through(homes[0]).put("alice", "before");
        cluster.settle();
        let copy = cluster.sim.copy_of(homes[0]);
        cluster.through(homes[0]).delete(&written.context, "alice");
        cluster.settle();
        assert!(homes.iter().all(|home| cluster.copy(*home, "alice").is_none()), "it is reaped");
        cluster.stop(homes[0], false);
        if alone {
            cluster.sim.forget_since(homes[0], copy.0);
        } else {
            cluster.sim.restore(homes[0], copy);
        }
        cluster.sim.start(homes[0]);
        assert_eq!(cluster.copied(homes[0], "alice"), ["before"]);
        cluster.settle();
        assert!(homes.iter().all(|home| cluster.copy(*home, "alice").is_none()), "it came back");
        assert_eq!(cluster.through(homes[0]).get("alice").values, [""; 0]);
    }
}

/// Its successor's word is of an earlier start than the one that it called itself last, and comes from elsewhere.
#[test]
fn a_node_whose_id_another_process_used_is_found_again_when_that_has_ended() {
    let mut cluster = cluster(5).start();
    let home = cluster.homes("alice")[0];
    cluster.through(home).put("alice", "before");
    cluster.settle();
    let former = cluster.sim.part(home, true).expect("it runs");
    // It hears of its successor, and outlives it, before anybody hears that from it.
    let others: Vec<HostId> = cluster.hosts().into_iter().filter(|host| *host != home).collect();
    cluster.sim.start(home);
    cluster.settle();
    let successor = cluster.node(home).identity().generation;
    let outlived = |cluster: &Cluster| {
        let node = cluster.sim.node_id(home);
        others.iter().filter_map(|other| cluster.sim.node(*other)?.generation_of(node)).any(|heard| heard > successor)
    };
    cluster.sim.rejoin(former);
    cluster.sim.cut_off(home);
    cluster.until("the others hear of the life before", outlived);
    cluster.sim.lay_to_rest(former);
    cluster.heal();
    cluster.settle();
    cluster.through(others[0]).put("alice", "after");
    everyone_has(&mut cluster, "alice", &["after", "before"]);
}

#[test]
fn a_process_that_comes_back_beside_its_successor_stops_and_nothing_that_two_disks_have_is_lost() {
    let mut cluster = cluster(5).tune(|options| options.seed = 3).start();
    let home = cluster.homes("alice")[0];
    cluster.through(home).put("alice", "before");
    let former = cluster.sim.part(home, true).expect("it runs");
    cluster.sim.start(home);
    cluster.settle();
    cluster.through(home).put("alice", "between");
    assert_eq!(cluster.through(former).try_put(&bytes::Bytes::new(), "alice", "alone").err().map(|_| ()), Some(()), "cut off");
    cluster.sim.rejoin(former);
    cluster.until("one of the two stops", |cluster| cluster.sim.revenants().next().is_none() || cluster.sim.node(home).is_none());
    cluster.sim.lay_to_rest(former);
    cluster.sim.start(home);
    cluster.settle();
    let values = cluster.through(home).get("alice").values;
    assert!(values.contains(&"before".to_owned()) && values.contains(&"between".to_owned()), "{values:?}");
}
