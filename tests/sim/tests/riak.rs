//! Histories in which Riak lost acknowledged writes (basho/riak_test, `kv679_*`; basho/riak_kv#127, #679, #1754), told to nodes of
//! this cluster. In Riak a counter of one key began anew where a node had forgotten that key; here a dot is issued once.

use std::time::Duration;

use dynamo_core::request::Operation;
use dynamo_sim::options::Options;
use dynamo_sim::run::run;
use dynamo_sim::scenario::{Cluster, cluster, name};
use dynamo_sim::schedule::HostId;

/// The coordinator forgets `key` while it does not run.
fn forget(cluster: &mut Cluster, host: HostId, key: &str, clean: bool) {
    cluster.stop(host, clean);
    cluster.sim.forget(host, &name(key));
    cluster.start(host);
}

fn everyone_has(cluster: &mut Cluster, key: &str, value: &str) {
    cluster.settle();
    for home in cluster.homes(key) {
        assert!(cluster.copied(home, key).contains(&value.into()), "host {} has {:?}", home.0, cluster.copied(home, key));
    }
    let reader = cluster.hosts()[0];
    let values = cluster.through(reader).get(key).values;
    assert!(values.contains(&value.into()), "a get returns {values:?}");
}

/// kv679_dataloss: a key is written many times through one node, which then forgets it and takes one more write. In Riak the
/// new write's clock was older than what the others held, and read repair removed it.
#[test]
fn a_coordinator_that_forgot_a_key_loses_no_write_that_it_takes_then() {
    for clean in [true, false] {
        let mut cluster = cluster(5).start();
        let home = cluster.homes("alice")[0];
        let mut context = Default::default();
        for round in 0..5 {
            context = cluster.through(home).put_after(&context, "alice", &format!("old {round}")).context;
        }
        cluster.settle();
        forget(&mut cluster, home, "alice", clean);
        cluster.through(home).put("alice", "new");
        everyone_has(&mut cluster, "alice", "new");
    }
}

/// kv679_dataloss_fb: fallbacks hold an older version when the coordinator forgets; what they bring home must not make the next
/// write one that was there before.
#[test]
fn an_older_version_from_fallbacks_does_not_repeat_a_dot() {
    for clean in [true, false] {
        let mut cluster = cluster(6).start();
        let homes = cluster.homes("alice");
        // The first write reaches the coordinator and stand-ins only.
        homes[1..].iter().for_each(|home| cluster.kill(*home));
        let first = cluster.through(homes[0]).put("alice", "first").context;
        homes[1..].iter().for_each(|home| cluster.start(*home));
        let second = cluster.through(homes[0]).put_after(&first, "alice", "second").context;
        forget(&mut cluster, homes[0], "alice", clean);
        cluster.settle();
        let third = cluster.through(homes[0]).put_after(&second, "alice", "third").context;
        cluster.through(homes[0]).put("alice", "fourth");
        cluster.through(homes[0]).put_after(&third, "alice", "fifth");
        everyone_has(&mut cluster, "alice", "fourth");
        everyone_has(&mut cluster, "alice", "fifth");
    }
}

/// kv679_dataloss_fb2: the version that comes home by a hint is the first that a node with amnesia sees of a key that it had
/// coordinated, and its next write builds on that.
#[test]
fn a_hint_that_arrives_after_amnesia_hides_no_write() {
    for clean in [true, false] {
        let mut cluster = cluster(6).start();
        let homes = cluster.homes("alice");
        let (forgetful, other) = (homes[0], homes[1]);
        let first = cluster.through(forgetful).put("alice", "first").context;
        cluster.settle();
        // While it is away, another coordinates, and stand-ins keep hints for it.
        cluster.stop(forgetful, clean);
        cluster.through(other).put_after(&first, "alice", "second");
        cluster.sim.forget(forgetful, &name("alice"));
        cluster.start(forgetful);
        cluster.settle();
        cluster.through(forgetful).put("alice", "third");
        cluster.through(forgetful).put("alice", "fourth");
        for value in ["second", "third", "fourth"] {
            everyone_has(&mut cluster, "alice", value);
        }
    }
}

/// Row 7 of the catalogue: the database goes back to an older copy of itself, made after a clean stop. Its node must not issue
/// the dots again that it issued since (the simulator's witness knows them all).
#[test]
fn a_database_that_was_rolled_back_issues_no_dot_twice() {
    let mut cluster = cluster(9).start();
    let homes = cluster.homes("alice");
    cluster.through(homes[0]).put("alice", "before");
    cluster.settle();
    cluster.stop(homes[0], true);
    let snapshot = cluster.sim.disk(homes[0]).snapshot();
    cluster.start(homes[0]);
    cluster.until("its actors are kept", |cluster| cluster.node(homes[0]).counters().actors_kept == 1);
    cluster.through(homes[0]).put("alice", "between");
    cluster.settle();
    cluster.stop(homes[0], true);
    cluster.sim.roll_back(homes[0], snapshot);
    // Most members answer that they know no other life of it, and nobody is there to bring it back what it forgot.
    homes[1..].iter().for_each(|home| cluster.kill(*home));
    cluster.start(homes[0]);
    cluster.run(Duration::from_secs(5));
    cluster.through(homes[0]).put("alice", "after");
    homes[1..].iter().for_each(|home| cluster.start(*home));
    for value in ["before", "between", "after"] {
        everyone_has(&mut cluster, "alice", value);
    }
}

/// A create is refused by what is there, whoever coordinates.
#[test]
fn a_create_meets_what_is_there_and_changes_nothing() {
    let mut cluster = cluster(5).start();
    cluster.through(HostId(0)).put("alice", "milk");
    cluster.settle();
    for host in cluster.hosts() {
        let operation = Operation::Put { data: "eggs".into(), context: Default::default(), create_only: true };
        let outcome = cluster.through(host).ask("alice", operation);
        assert_eq!(outcome, Err(dynamo_core::request::Failure::Exists), "host {}", host.0);
    }
    assert_eq!(cluster.through(HostId(1)).get("alice").values, ["milk"]);
}

fn many(what: &str, options: fn(u64) -> Options) {
    let mut moves = 0;
    for seed in 1..=20 {
        let outcome = run(&options(seed), false);
        if let Some(violation) = outcome.violation {
            panic!("seed {seed}: {violation}\nreplay: cargo run -p dynamo-sim -- --scenario {what} --seed {seed}");
        }
        assert!(outcome.totals.writes_ok > 100, "seed {seed}: {} writes", outcome.totals.writes_ok);
        moves += outcome.totals.hosts_removed;
    }
    assert!(moves >= 20, "{moves} hosts left in twenty runs");
}

/// basho/riak_kv#1754: ten keys, forty clients, two nodes join and two leave; writes were lost in almost every run.
#[test]
fn no_write_is_lost_while_two_nodes_join_and_two_leave() {
    many("riak-1754", Options::riak_1754);
}

/// basho/riak_kv#127: a node gives a partition away and gets it back while it coordinates.
#[test]
fn no_write_is_lost_when_what_was_given_away_comes_back() {
    many("riak-127", Options::riak_127);
}
