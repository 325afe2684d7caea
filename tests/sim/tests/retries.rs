//! A request id makes a retry the same write: whatever node it reaches, whatever happened between the attempts.

use std::time::Duration;

use bytes::Bytes;
use dynamo_core::recent_writes::REMEMBERED_MAX;
use dynamo_core::request::{Failure, Operation, QuorumWish};
use dynamo_core::version::Object;
use dynamo_sim::scenario::{Cluster, cluster};
use dynamo_sim::schedule::HostId;

const SECOND: Duration = Duration::from_secs(1);
/// Read from, or acknowledged by, the asked node alone.
const ALONE: QuorumWish = QuorumWish { n: None, r: Some(1), w: Some(1), dw: None, pr: None, pw: None };

fn none() -> Bytes {
    Bytes::new()
}

/// The dots of a host's own copy that are live, however many are shown.
fn live(cluster: &Cluster, host: HostId, key: &str) -> usize {
    cluster.copy(host, key).map_or(0, |object: Object| object.values().count())
}

/// The home replicas of a key, the first of which is cut off from all others.
fn first_home_cut_off(cluster: &mut Cluster, key: &str) -> [HostId; 3] {
    let homes = cluster.homes(key);
    let others: Vec<HostId> = cluster.hosts().into_iter().filter(|host| *host != homes[0]).collect();
    cluster.split(&[homes[0]], &others);
    [homes[0], homes[1], homes[2]]
}

#[test]
fn a_retry_where_the_write_is_known_gets_no_second_dot() {
    let mut cluster = cluster(3).start();
    let homes = cluster.homes("alice");
    let first = cluster.through(homes[0]).with_id(1).put("alice", "milk");
    cluster.settle();
    for home in &homes {
        let again = cluster.through(*home).with_id(1).put("alice", "milk");
        assert_eq!(cluster.seen("alice", &again.context), cluster.seen("alice", &first.context), "it covers the same dot");
    }
    cluster.settle();
    for home in homes {
        assert_eq!(live(&cluster, home, "alice"), 1, "home replica {}", home.0);
    }
    assert_eq!(cluster.count(|counters| counters.puts_recognised), 3);
    cluster.through(cluster.hosts()[0]).with_id(2).put("alice", "tea");
    assert_eq!(cluster.through(cluster.hosts()[0]).get("alice").values, ["milk", "tea"], "another id is another write");
}

/// Acknowledged as the same write it would be lost, and nobody would have said so.
#[test]
fn an_id_that_names_another_write_of_the_key_is_refused() {
    let mut cluster = cluster(3).start();
    let homes = cluster.homes("alice");
    let first = cluster.through(homes[0]).with_id(1).put("alice", "milk");
    cluster.settle();
    for home in &homes {
        let other = cluster.through(*home).with_id(1).try_put(&none(), "alice", "tea");
        assert!(matches!(&other, Err(Failure::Invalid(why)) if why.contains("another value")), "{other:?}");
        let deleted = cluster.through(*home).with_id(1).ask("alice", Operation::Delete { context: first.context.clone() });
        assert!(matches!(&deleted, Err(Failure::Invalid(_))), "{deleted:?}");
    }
    assert_eq!(cluster.through(homes[1]).get("alice").values, ["milk"]);
    assert_eq!(cluster.count(|counters| counters.puts_recognised), 0);
}

#[test]
fn a_retry_where_the_write_is_not_known_is_shown_once_and_replaced_as_one() {
    let mut cluster = cluster(3).start();
    let [lonely, other, third] = first_home_cut_off(&mut cluster, "alice");
    cluster.through(lonely).with(ALONE).with_id(1).put("alice", "milk");
    cluster.through(other).with_id(1).put("alice", "milk");
    cluster.heal();
    cluster.settle();
    assert_eq!(live(&cluster, third, "alice"), 2, "two dots");
    let got = cluster.through(third).get("alice");
    assert_eq!(got.values, ["milk"]);
    cluster.through(lonely).put_after(&got.context, "alice", "tea");
    cluster.settle();
    assert_eq!(live(&cluster, third, "alice"), 1, "the context covered both");
    assert_eq!(cluster.through(third).get("alice").values, ["tea"]);
}

#[test]
fn a_retry_that_comes_after_the_write_was_replaced_brings_nothing_back() {
    let mut cluster = cluster(3).start();
    let homes = cluster.homes("alice");
    cluster.through(homes[0]).with_id(1).put("alice", "milk");
    let got = cluster.through(homes[0]).get("alice");
    cluster.settle();
    let [lonely, other, _] = first_home_cut_off(&mut cluster, "alice");
    cluster.through(other).put_after(&got.context, "alice", "tea");
    // One that knows of the write, and of its replacement or not.
    cluster.through(lonely).with(ALONE).with_id(1).put("alice", "milk");
    cluster.through(other).with_id(1).put("alice", "milk");
    cluster.heal();
    cluster.settle();
    assert_eq!(cluster.through(lonely).get("alice").values, ["tea"]);
}

#[test]
fn a_first_attempt_that_turns_up_late_does_not_show_beside_what_replaced_the_second() {
    let mut cluster = cluster(3).start();
    let [lonely, other, third] = first_home_cut_off(&mut cluster, "alice");
    cluster.through(lonely).with(ALONE).with_id(1).put("alice", "milk");
    cluster.through(other).with_id(1).put("alice", "milk");
    let got = cluster.through(other).get("alice");
    cluster.through(third).put_after(&got.context, "alice", "tea");
    cluster.heal();
    cluster.settle();
    assert_eq!(live(&cluster, third, "alice"), 2, "the first attempt is live beside the replacement");
    assert_eq!(cluster.through(third).get("alice").values, ["tea"], "and it is not shown");
    let got = cluster.through(third).get("alice");
    cluster.through(third).delete(&got.context, "alice");
    assert_eq!(cluster.through(lonely).get("alice").values, Vec::<String>::new());
}

/// The replacement's coordinator has not seen the dot that it replaces: it learns whose it was from the context.
#[test]
fn a_context_tells_its_coordinator_which_request_it_replaces() {
    let mut cluster = cluster(3).tune(|options| options.pace.anti_entropy = SECOND * 600).start();
    let homes = cluster.homes("alice");
    let hosts = cluster.hosts();
    for (at, one) in hosts.iter().enumerate() {
        cluster.split(&[*one], &hosts[at + 1..]);
    }
    cluster.through(homes[0]).with(ALONE).with_id(1).put("alice", "milk");
    cluster.through(homes[1]).with(ALONE).with_id(1).put("alice", "milk");
    let got = cluster.through(homes[1]).with(ALONE).get("alice");
    cluster.through(homes[2]).with(ALONE).put_after(&got.context, "alice", "tea");
    // Whoever holds the second attempt is gone for now.
    cluster.kill(homes[1]);
    cluster.heal();
    cluster
        .until("the two meet", |cluster| cluster.sim.is_linked(homes[0], homes[2]) && cluster.sim.is_linked(homes[2], homes[0]));
    let read = cluster.through(homes[2]).get("alice");
    assert!(read.evidence.nodes.contains(&cluster.id(homes[0])), "{read:?}");
    assert_eq!(read.values, ["tea"], "the first attempt is at host {}", homes[0].0);
}

#[test]
fn a_create_that_is_retried_does_not_find_itself() {
    let mut cluster = cluster(3).start();
    let host = cluster.hosts()[0];
    let create = || Operation::Put { data: "milk".into(), context: Bytes::new(), create_only: true };
    for attempt in 1..=2 {
        let outcome = cluster.through(host).with_id(1).ask("alice", create());
        assert!(outcome.is_ok(), "attempt {attempt}: {outcome:?}");
    }
    assert_eq!(cluster.through(host).with_id(2).ask("alice", create()), Err(Failure::Exists));
}

#[test]
fn the_context_of_a_retry_covers_what_the_client_knew_and_nothing_more() {
    let mut cluster = cluster(3).start();
    let home = cluster.homes("alice")[0];
    let first = cluster.through(home).with_id(1).put("alice", "milk");
    cluster.through(home).put("alice", "beer");
    let again = cluster.through(home).with_id(1).put("alice", "milk");
    assert_eq!(again.context, first.context);
    cluster.through(home).put_after(&again.context, "alice", "tea");
    assert_eq!(cluster.through(home).get("alice").values, ["beer", "tea"], "the client has never seen the beer");
    // Where a version that it never saw lies below its own, there is no exact context.
    cluster.through(home).put("bob", "beer");
    for _ in 0..2 {
        let written = cluster.through(home).with_id(2).put("bob", "milk");
        assert_eq!(written.context, none());
    }
}

#[test]
fn an_id_names_one_write_and_is_refused_for_the_next() {
    let mut cluster = cluster(3).start();
    let [lonely, other, _] = first_home_cut_off(&mut cluster, "alice");
    let written = cluster.through(lonely).with(ALONE).with_id(1).put("alice", "milk");
    let refused = cluster.through(other).with_id(1).try_put(&written.context, "alice", "tea");
    let Err(Failure::Invalid(reason)) = refused else { panic!("{refused:?}") };
    assert!(reason.starts_with("request_id: the context covers a write with this id"), "{reason}");
}

/// The bound, said honestly: a retry is recognised while the write is among the last ones.
#[test]
fn a_retry_after_too_many_other_writes_is_a_write_of_its_own() {
    for (others, values) in [(REMEMBERED_MAX - 1, 1), (REMEMBERED_MAX, 2)] {
        let mut cluster = cluster(3).start();
        let home = cluster.homes("alice")[0];
        cluster.through(home).with_id(1).put("alice", "milk");
        let mut context = cluster.through(home).get("alice").context;
        for other in 0..others as u8 {
            context = cluster.through(home).with_id(100 + other).put_after(&context, "alice", "tea").context;
        }
        cluster.through(home).with_id(1).put("alice", "milk");
        assert_eq!(cluster.through(home).get("alice").values.len(), values, "after {others} other writes");
    }
}

/// Of all that was written the highest stamps are remembered. One clock that is an hour ahead would have the others' writes of an hour
/// forgotten, so its node stamps by theirs.
#[test]
fn a_retry_is_known_where_the_writes_before_it_met_a_clock_that_is_an_hour_ahead() {
    let mut cluster = cluster(6).tune(|options| options.clock_skew_ms_max = 3_000).start();
    let homes = cluster.homes("alice");
    cluster.run(SECOND * 5);
    cluster.sim.jump_clock(homes[0], 3_600_000);
    let others: Vec<HostId> = cluster.hosts().into_iter().filter(|host| !homes[..2].contains(host)).collect();
    cluster.split(&homes[..2], &others);
    let mut context = none();
    for other in 0..REMEMBERED_MAX as u8 {
        context = cluster.through(homes[0]).with_id(100 + other).put_after(&context, "alice", "tea").context;
    }
    cluster.run(SECOND * 5);
    cluster.through(others[0]).with_id(1).put("alice", "milk");
    cluster.through(homes[0]).with_id(1).put("alice", "milk");
    cluster.heal();
    cluster.settle();
    assert_eq!(live(&cluster, homes[0], "alice"), 3, "tea, and milk under two dots");
    assert_eq!(cluster.through(homes[0]).get("alice").values, ["milk", "tea"]);
}

/// A forwarded write whose coordinator does not answer is asked of another one if it has an id, as a get is, and only then.
#[test]
fn a_forwarded_write_with_an_id_is_asked_of_another_replica() {
    for (id, acknowledged) in [(Some(1), true), (None, false)] {
        let mut cluster = cluster(5).start();
        let homes = cluster.homes("alice");
        let outsider = cluster.hosts().into_iter().find(|host| !homes.contains(host)).expect("five hosts, three home replicas");
        // It hears the request, and its answer does not get through; nobody knows yet.
        cluster.sim.cut(homes[0], outsider);
        let client = cluster.through(outsider);
        let client = match id {
            Some(id) => client.with_id(id),
            None => client,
        };
        let outcome = client.try_put(&none(), "alice", "milk");
        assert_eq!(outcome.is_ok(), acknowledged, "{outcome:?}");
        assert_eq!(cluster.count(|counters| counters.forwards_asked_again), u64::from(acknowledged));
        cluster.heal();
        cluster.settle();
        assert_eq!(cluster.through(outsider).get("alice").values, ["milk"]);
    }
}

/// The second coordinator's refusal is not the last word: the first may have made the write.
#[test]
fn a_refusal_by_the_second_coordinator_is_an_unknown_outcome() {
    let mut cluster = cluster(5).start();
    let homes = cluster.homes("alice");
    let outsider = cluster.hosts().into_iter().find(|host| !homes.contains(host)).expect("five hosts, three home replicas");
    cluster.through(outsider).put("alice", "tea");
    cluster.settle();
    cluster.sim.cut(homes[0], outsider);
    let create = Operation::Put { data: "milk".into(), context: Bytes::new(), create_only: true };
    let outcome = cluster.through(outsider).with_id(1).ask("alice", create);
    assert!(matches!(outcome, Err(Failure::Unknown { .. })), "{outcome:?}");
}
