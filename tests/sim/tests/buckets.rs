//! Buckets with settings of their own: where the last writer wins, what clocks may do to that and what they may not.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use dynamo_core::config::{BucketProperties, QuorumDefaults, Reconciliation};
use dynamo_core::request::{Failure, Operation, QuorumWish, Success};
use dynamo_sim::options::Options;
use dynamo_sim::scenario::{BUCKET, Cluster, cluster};
use dynamo_sim::schedule::HostId;

const HOUR_MS: i64 = 3_600_000;

fn last_writer_wins(options: &mut Options) {
    let properties = BucketProperties { quorum: options.quorum, reconciliation: Reconciliation::LastWriterWins };
    options.buckets.insert(BUCKET.into(), properties);
}

/// What a get through each node shows.
fn shown(cluster: &mut Cluster, key: &str) -> BTreeSet<Vec<String>> {
    cluster.hosts().into_iter().map(|host| cluster.through(host).get(key).values).collect()
}

fn create(cluster: &mut Cluster, through: HostId, key: &str, value: &'static str) -> Result<(), Failure> {
    let create = Operation::Put { data: value.into(), context: Bytes::new(), create_only: true };
    cluster.through(through).ask(key, create).map(drop)
}

#[test]
fn concurrent_writes_converge_to_the_newest_and_the_loser_is_counted() {
    let mut cluster = cluster(6).tune(last_writer_wins).start();
    let (left, _) = cluster.put_apart("alice", ("red", "blue"), Duration::from_secs(5));
    for home in cluster.homes("alice") {
        assert_eq!(cluster.copied(home, "alice"), ["blue", "red"], "replicas keep and join both, as anywhere");
    }
    assert_eq!(shown(&mut cluster, "alice"), [vec!["blue".to_owned()]].into(), "and every node shows the later one");
    assert_eq!(cluster.count(|counters| counters.last_writer_wins_hidden), 6, "red, by each of six gets");
    assert_eq!(cluster.count(|counters| counters.last_writer_wins_discarded), 0);

    cluster.through(left[0]).put("alice", "green");
    cluster.settle();
    assert_eq!(cluster.count(|counters| counters.last_writer_wins_discarded), 2, "the writer had seen neither");
    for home in cluster.homes("alice") {
        assert_eq!(cluster.copied(home, "alice"), ["green"]);
    }
}

#[test]
fn a_context_covers_what_was_not_shown_too() {
    let mut cluster = cluster(6).tune(last_writer_wins).start();
    let hosts = cluster.hosts();
    cluster.put_apart("alice", ("red", "blue"), Duration::ZERO);
    let context = cluster.through(hosts[0]).get("alice").context;
    cluster.through(hosts[0]).put_after(&context, "alice", "green");
    assert_eq!(cluster.count(|counters| counters.last_writer_wins_discarded), 0, "the get had counted the hidden one");
    assert_eq!(shown(&mut cluster, "alice"), [vec!["green".to_owned()]].into());
}

#[test]
fn neither_a_put_nor_a_delete_needs_a_context_and_a_deleted_key_can_be_created() {
    let mut cluster = cluster(5).tune(last_writer_wins).start();
    let hosts = cluster.hosts();
    cluster.through(hosts[0]).put("alice", "one");
    cluster.through(hosts[1]).put("alice", "two");
    assert_eq!(shown(&mut cluster, "alice"), [vec!["two".to_owned()]].into());
    assert_eq!(create(&mut cluster, hosts[2], "alice", "three"), Err(Failure::Exists));
    cluster.through(hosts[2]).delete(&Bytes::new(), "alice");
    assert_eq!(shown(&mut cluster, "alice"), [vec![]].into());
    assert_eq!(create(&mut cluster, hosts[3], "alice", "three"), Ok(()));
    assert_eq!(shown(&mut cluster, "alice"), [vec!["three".to_owned()]].into());
}

#[test]
fn a_tombstone_wins_like_any_version_and_loses_to_a_newer_one() {
    for (deleted_last, expected) in [(true, vec![]), (false, vec!["blue".to_owned()])] {
        let mut cluster = cluster(6).tune(last_writer_wins).start();
        let hosts = cluster.hosts();
        cluster.through(hosts[0]).put("alice", "red");
        cluster.settle();
        let (left, right) = hosts.split_at(3);
        cluster.split(left, right);
        if !deleted_last {
            cluster.through(left[0]).delete(&Bytes::new(), "alice");
            cluster.run(Duration::from_secs(5));
        }
        cluster.through(right[0]).put("alice", "blue");
        if deleted_last {
            cluster.run(Duration::from_secs(5));
            cluster.through(left[0]).delete(&Bytes::new(), "alice");
        }
        cluster.heal();
        cluster.settle();
        assert_eq!(shown(&mut cluster, "alice"), [expected].into(), "the delete came last: {deleted_last}");
        // What is shown decides whether the key exists, not what lies beneath.
        assert_eq!(create(&mut cluster, hosts[0], "alice", "green").is_ok(), deleted_last);
    }
}

#[test]
fn whoever_knew_a_version_wins_over_it_whatever_the_clocks_do() {
    let mut cluster = cluster(5).tune(last_writer_wins).start();
    let homes = cluster.homes("alice");
    let mut last = 0;
    let turns = [(0, 3), (1, 0), (0, -6), (2, 1), (1, -2), (0, 9), (2, -9)];
    for (turn, (home, hours)) in turns.into_iter().enumerate() {
        cluster.sim.jump_clock(homes[home], hours * HOUR_MS);
        let value = format!("turn {turn}");
        cluster.through(homes[home]).put("alice", &value);
        cluster.settle();
        assert_eq!(shown(&mut cluster, "alice"), [vec![value]].into());
        let stamps: Vec<u64> = cluster.copy(homes[0], "alice").unwrap().siblings().map(|(_, stamp)| stamp).collect();
        assert!(stamps.len() == 1 && stamps[0] > last, "turn {turn}: {stamps:?} after {last}");
        last = stamps[0];
    }
}

#[test]
fn a_node_whose_clock_is_wrong_refuses_and_says_by_how_much() {
    let by_stamp = |options: &mut Options| {
        last_writer_wins(options);
        // Hosts' clocks differ by up to two seconds from the start.
        options.clock_skew_ms_max = 3_000;
    };
    let mut cluster = cluster(5).tune(by_stamp).start();
    let homes = cluster.homes("alice");
    cluster.through(homes[0]).put("alice", "before");
    for (hours, direction) in [(2, "ahead of"), (-4, "behind")] {
        cluster.sim.jump_clock(homes[0], hours * HOUR_MS);
        let refused = cluster.through(homes[0]).try_put(&Bytes::new(), "alice", "wrong");
        let Err(Failure::ClockSkew(words)) = refused else { panic!("{refused:?}") };
        assert!(
            words.contains(&format!("ms {direction} those of 4 of 4 peers")) && words.contains("set the clock right"),
            "{words}"
        );
        let ahead_ms = cluster.node(homes[0]).status(cluster.sim.clock(homes[0])).clock_ahead_ms;
        assert!(ahead_ms.signum() == hours.signum() && ahead_ms.abs() / HOUR_MS <= 2, "{ahead_ms}");
        assert_eq!(cluster.through(homes[0]).get("alice").values, ["before"], "nothing was written, and reads go on");
        cluster.through(homes[1]).put("alice", "before");
    }
    assert_eq!(cluster.count(|counters| counters.puts_refused_clock_skew), 2);
    cluster.sim.jump_clock(homes[0], 2 * HOUR_MS);
    cluster.through(homes[0]).put("alice", "after");
    assert_eq!(shown(&mut cluster, "alice"), [vec!["after".to_owned()]].into(), "it is right again, and takes writes at once");
}

#[test]
fn buckets_that_keep_siblings_do_not_look_at_the_clock() {
    let mut cluster = cluster(5).tune(|options| options.clock_skew_ms_max = 1).start();
    let homes = cluster.homes("alice");
    cluster.sim.jump_clock(homes[0], 5 * HOUR_MS);
    let written = cluster.through(homes[0]).put("alice", "milk");
    cluster.sim.jump_clock(homes[0], -9 * HOUR_MS);
    cluster.through(homes[0]).put_after(&written.context, "alice", "tea");
    assert_eq!(shown(&mut cluster, "alice"), [vec!["tea".to_owned()]].into());
}

/// Neither knew the other, and both lie in one object. Nobody has to write the key again for it to go.
#[test]
fn a_value_that_a_concurrent_delete_hides_is_reaped_with_its_tombstone() {
    let reaps = |options: &mut Options| {
        last_writer_wins(options);
        options.pace.reap = Duration::from_secs(1);
    };
    let mut cluster = cluster(6).tune(reaps).start();
    let hosts = cluster.hosts();
    let (left, right) = hosts.split_at(3);
    cluster.split(left, right);
    cluster.through(right[0]).put("alice", "blue");
    cluster.run(Duration::from_secs(5));
    cluster.through(left[0]).delete(&Bytes::new(), "alice");
    cluster.heal();
    cluster.settle();
    for home in cluster.homes("alice") {
        assert_eq!(cluster.copy(home, "alice"), None, "host {}", home.0);
    }
    assert_eq!(shown(&mut cluster, "alice"), [vec![]].into());
}

#[test]
fn a_bucket_has_quorums_of_its_own_and_a_request_wins_over_them() {
    let engine = |options: &mut Options| {
        let quorum = QuorumDefaults { r: 1, w: 3, pw: 3, ..QuorumDefaults::default() };
        options.buckets.insert(BUCKET.into(), BucketProperties { quorum, ..BucketProperties::default() });
    };
    let mut cluster = cluster(4).tune(engine).start();
    let homes = cluster.homes("alice");
    let written = cluster.through(homes[0]).put("alice", "milk");
    assert_eq!((written.evidence.nodes.len(), written.evidence.durable), (3, 3), "w = 3, of which all are durable");
    assert_eq!(cluster.through(homes[1]).get("alice").evidence.nodes, [cluster.id(homes[1])], "r = 1");
    cluster.kill(homes[2]);
    let refused = cluster.through(homes[0]).try_put(&written.context, "alice", "tea");
    assert!(matches!(refused, Err(Failure::Unavailable { required: 3, .. })), "pw = 3: {refused:?}");
    let wish = QuorumWish { w: Some(2), pw: Some(2), ..QuorumWish::default() };
    let asked = cluster.through(homes[0]).with(wish).put_after(&written.context, "alice", "tea");
    assert!(asked.evidence.nodes.len() >= 2);
    cluster.kill(homes[1]);
    let refused = cluster.through(homes[0]).with(wish).try_put(&asked.context, "alice", "beer");
    assert_eq!(refused, Err(Failure::Unavailable { acknowledged: 1, required: 2 }), "a stand-in is no home replica");
}

#[test]
fn settings_fit_themselves_to_the_rings_n_and_a_request_is_met_or_refused() {
    let mut cluster = cluster(3).quorum((1, 2, 2)).start();
    let home = cluster.homes("alice")[0];
    let written = cluster.through(home).put("alice", "milk");
    assert_eq!((written.evidence.nodes, written.evidence.durable), (vec![cluster.id(home)], 1));
    assert_eq!(cluster.through(home).get("alice").values, ["milk"]);
    let wish = QuorumWish { w: Some(2), ..QuorumWish::default() };
    let refused = cluster.through(home).with(wish).try_put(&written.context, "alice", "tea");
    assert_eq!(refused, Err(Failure::Invalid("quorum.w is 2; give 1 to 1 (N is 1)".into())));
}

#[test]
fn a_request_for_more_durable_copies_than_w_waits_for_them_all() {
    let mut cluster = cluster(3).start();
    let homes = cluster.homes("alice");
    let wish = QuorumWish { dw: Some(3), ..QuorumWish::default() };
    let written = cluster.through(homes[0]).with(wish).put("alice", "milk");
    assert_eq!((written.evidence.nodes.len(), written.evidence.durable), (3, 3));
}

/// A context with the counter of a node's write covers all lower ones of that node. Found by seed 210: one that its holder never
/// saw was replaced by a third, which had not arrived where the context was used; a read there met neither.
#[test]
fn a_blind_put_is_given_no_context_that_covers_what_its_writer_never_saw() {
    let mut cluster = cluster(3).quorum((3, 1, 1)).start();
    let [a, b, c] = cluster.homes("alice")[..] else { panic!("three home replicas") };
    cluster.through(b).put("alice", "old");
    cluster.settle();
    cluster.split(&[a], &[b, c]);
    let context = cluster.through(c).get("alice").context;
    cluster.through(c).put_after(&context, "alice", "new");
    cluster.until("b has it", |cluster| cluster.copied(b, "alice") == ["new"]);
    let blind = cluster.through(b).put("alice", "blind");
    assert_eq!(blind.context, Bytes::new(), "b's counter for it would cover `old`, which its writer never saw");
    cluster.through(a).put_after(&blind.context, "alice", "third");
    assert_eq!(cluster.through(a).get("alice").values, ["old", "third"], "`old` stays until `new` arrives");
}

#[test]
fn a_get_says_how_many_versions_it_found() {
    let mut cluster = cluster(3).start();
    let host = cluster.hosts()[0];
    let outcome = cluster.through(host).ask("nobody", Operation::Get);
    assert!(matches!(outcome, Ok(Success::Got { .. })));
    let counts = |cluster: &Cluster| cluster.node(host).divergence().each().map(|(_, counts)| counts).collect::<Vec<_>>();
    assert_eq!(counts(&cluster), [[0; 4]], "nothing was found, and no bucket is configured");
    for (value, expected) in [("one", [1, 0, 0, 0]), ("two", [1, 1, 0, 0]), ("three", [1, 1, 1, 0]), ("four", [1, 1, 1, 1])] {
        cluster.through(host).put("alice", value);
        cluster.through(host).get("alice");
        assert_eq!(counts(&cluster), [expected]);
    }
    cluster.through(host).put("alice", "five");
    cluster.through(host).get("alice");
    assert_eq!(counts(&cluster), [[1, 1, 1, 2]], "five are four and more");
}
