//! 4.6: handling failures: hinted handoff.

use std::collections::BTreeSet;

use dynamo_core::request::{Failure, QuorumWish};
use dynamo_core::ring::Stage;
use dynamo_sim::scenario::{Cluster, cluster, name};
use dynamo_sim::schedule::HostId;

use super::SECOND;

/// The first N healthy nodes take a write, not always the first N of the ring: with A down it goes to D, with a hint naming A.
#[test]
fn a_failed_home_is_replaced_by_a_hinted_fallback() {
    let mut cluster = cluster(5).start();
    let (homes, fallbacks) = (cluster.homes("alice"), cluster.fallbacks("alice"));
    cluster.kill(homes[0]);
    let all = QuorumWish { w: Some(3), ..QuorumWish::default() };
    let written = cluster.through(homes[1]).with(all).put("alice", "milk");
    assert_eq!(written.evidence.hinted, 1, "{:?}", written.evidence);
    assert_eq!(cluster.hinted(fallbacks[0], "alice", homes[0]), ["milk"]);
    assert_eq!(cluster.copy(fallbacks[0], "alice"), None, "hints are kept apart");
}

/// When A is back, D delivers what it kept, and only then deletes it.
#[test]
fn a_hint_goes_home_when_its_node_is_back_and_is_then_deleted() {
    let mut cluster = cluster(5).tune(|options| options.pace.anti_entropy = SECOND * 3_600).start();
    let (homes, fallbacks) = (cluster.homes("alice"), cluster.fallbacks("alice"));
    cluster.kill(homes[0]);
    cluster.through(homes[1]).put("alice", "milk");
    cluster.run(SECOND * 10);
    assert_eq!(cluster.hinted(fallbacks[0], "alice", homes[0]), ["milk"], "kept for as long as it takes");

    cluster.start(homes[0]);
    cluster.until("the hint arrives", |cluster| cluster.copied(homes[0], "alice") == ["milk"]);
    cluster.settle();
    assert!(cluster.hinted(fallbacks[0], "alice", homes[0]).is_empty());
}

/// No write fails for a failure that passes: whichever node is down, and while it goes and comes.
#[test]
fn no_write_fails_while_nodes_go_and_come() {
    let mut cluster = cluster(5).start();
    for down in cluster.hosts() {
        cluster.kill(down);
        for host in cluster.sim.running() {
            for key in 0..8 {
                let key = format!("key {key}");
                let context = cluster.through(host).get(&key).context;
                cluster.through(host).put_after(&context, &key, &format!("{} by {}", down.0, host.0));
            }
        }
        cluster.start(down);
    }
    cluster.settle();
}

/// With W = 1 a write is refused only if every node is unavailable; with W = 2 one node alone refuses it, and nothing is written.
#[test]
fn with_w_1_the_last_node_standing_takes_every_write() {
    for (w, taken) in [(1, true), (2, false)] {
        let mut cluster = cluster(4).quorum((3, 2, w)).start();
        let hosts = cluster.hosts();
        for host in &hosts[1..] {
            cluster.kill(*host);
        }
        for key in 0..8 {
            let key = format!("key {key}");
            let outcome = cluster.through(hosts[0]).try_put(&Default::default(), &key, "milk");
            let refused = matches!(outcome, Err(Failure::Unavailable { .. }));
            assert_eq!((outcome.is_ok(), refused), (taken, !taken), "W = {w}, {key}: {outcome:?}");
            let hinted = cluster.sim.disk(hosts[0]).hints().any(|(_, at, _)| *at == name(&key));
            let written = cluster.copy(hosts[0], &key).is_some() || hinted;
            assert_eq!(written, taken, "W = {w}, {key} at the survivor");
        }
    }
}

/// The room for hints of one node, which four or five of these tests' hints fill.
const QUOTA: u64 = 400;

/// Keys of the partition of "alice".
fn keys(cluster: &Cluster, count: usize) -> Vec<String> {
    let names = (0..).map(|at| format!("key {at}"));
    names.filter(|key| cluster.partition(key) == cluster.partition("alice")).take(count).collect()
}

/// The bytes that a host keeps for another.
fn kept(cluster: &Cluster, keeper: HostId, target: HostId) -> u64 {
    let status = cluster.node(keeper).status(cluster.sim.clock(keeper));
    status.hints.get(&cluster.id(target)).map_or(0, |(_, bytes)| *bytes)
}

/// Always writable, for as long as two of three replicas are away: stand-ins keep what a quorum needs, also beyond the quota.
#[test]
fn hints_that_a_quorum_needs_are_taken_beyond_the_quota() {
    let mut cluster = cluster(5).tune(|options| options.pace.hint_bytes = QUOTA).start();
    let (homes, fallbacks) = (cluster.homes("alice"), cluster.fallbacks("alice"));
    let keys = keys(&cluster, 60);
    cluster.kill(homes[1]);
    cluster.kill(homes[2]);
    for key in &keys {
        let written = cluster.through(homes[0]).put(key, "milk");
        assert!(written.evidence.hinted > 0 && written.evidence.durable >= 2, "{key}: {:?}", written.evidence);
    }
    let beyond: u64 = fallbacks.iter().map(|keeper| kept(&cluster, *keeper, homes[1])).sum();
    assert!(beyond > 4 * QUOTA, "{beyond} bytes");
    for home in &homes[1..] {
        cluster.start(*home);
    }
    cluster.settle();
    for (home, key) in homes.iter().flat_map(|home| keys.iter().map(move |key| (*home, key))) {
        assert_eq!(cluster.copied(home, key), ["milk"], "{key} at {}", home.0);
    }
}

/// Always writable while partitions move too, in either stage and with any two of four nodes: who holds a partition now stands in for who
/// will, and the reverse.
#[test]
fn any_w_nodes_take_every_write_while_a_partition_moves() {
    for stage in [Stage::WriteBothReadOld, Stage::WriteBothReadNew] {
        for up in [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]] {
            let mut cluster = cluster(3).start();
            cluster.join();
            let moves = |cluster: &Cluster| {
                cluster.ring().moving().filter(|(_, _, moving)| moving.stage == stage).map(|(partition, _, _)| partition).next()
            };
            cluster.until("the stage is reached", |cluster| moves(cluster).is_some());
            let hosts = cluster.hosts();
            let (up, down): (Vec<HostId>, Vec<HostId>) = hosts.iter().partition(|host| up.contains(&host.0));
            down.iter().for_each(|host| cluster.kill(*host));
            let partition = moves(&cluster).expect("nobody goes on without these");
            let names = (0..).map(|at| format!("key {at}"));
            let keys: Vec<String> = names.filter(|key| cluster.partition(key) == partition).take(4).collect();
            for (key, host) in keys.iter().zip(up.iter().cycle()) {
                let written = cluster.through(*host).put(key, "milk");
                assert_eq!(written.evidence.nodes.len(), 2, "{:?}", written.evidence);
                assert_eq!(cluster.through(up[0]).get(key).values, ["milk"]);
            }
            down.iter().for_each(|host| cluster.start(*host));
            cluster.settle();
            for (key, home) in keys.iter().flat_map(|key| cluster.homes(key).into_iter().map(move |home| (key, home))) {
                assert_eq!(cluster.copied(home, key), ["milk"], "{key} at {}", home.0);
            }
        }
    }
}

/// A stand-in that coordinates, since every replica is away, remembers what it made beyond the quota too, and goes on under one actor.
#[test]
fn a_stand_in_that_coordinates_beyond_the_quota_goes_on_under_one_actor() {
    let mut cluster = cluster(6).tune(|options| options.pace.hint_bytes = QUOTA).start();
    let (homes, fallback) = (cluster.homes("alice"), cluster.fallbacks("alice")[0]);
    for home in &homes {
        cluster.kill(*home);
    }
    let mut actors = BTreeSet::new();
    for key in keys(&cluster, 20) {
        let context = cluster.through(fallback).put(&key, "milk").context;
        actors.extend(cluster.seen(&key, &context).0.keys().copied());
    }
    assert_eq!(actors.len(), 1, "{actors:?}");
    assert!(cluster.count(|counters| counters.hint_bytes_beyond_quota) > QUOTA);
}

/// Where two of three are there to acknowledge, nobody counts what is kept for the third: that has its bound.
#[test]
fn hints_that_no_quorum_needs_stay_within_the_quota() {
    let mut cluster = cluster(5).tune(|options| options.pace.hint_bytes = QUOTA).start();
    let (homes, fallbacks) = (cluster.homes("alice"), cluster.fallbacks("alice"));
    cluster.kill(homes[2]);
    for key in keys(&cluster, 60) {
        cluster.through(homes[0]).put(&key, "milk");
    }
    cluster.run(SECOND);
    for keeper in fallbacks.iter().chain(&homes[..1]) {
        let bytes = kept(&cluster, *keeper, homes[2]);
        assert!((QUOTA..=QUOTA + 150).contains(&bytes), "{bytes} bytes at {}", keeper.0);
    }
    assert!(cluster.count(|counters| counters.hints_refused_quota) > 40);
}

/// A key that is written again and again takes no more room than it has.
#[test]
fn a_hint_that_takes_the_place_of_another_is_taken_beyond_the_quota() {
    let mut cluster = cluster(4).tune(|options| options.pace.hint_bytes = QUOTA).start();
    let (homes, fallback) = (cluster.homes("alice"), cluster.fallbacks("alice")[0]);
    cluster.kill(homes[2]);
    let mut context = cluster.through(homes[0]).put("alice", "cup 10").context;
    for key in keys(&cluster, 20) {
        cluster.through(homes[0]).put(&key, "milk");
    }
    let full = kept(&cluster, fallback, homes[2]);
    assert!(full >= QUOTA, "{full} bytes");
    for cup in 11..40 {
        context = cluster.through(homes[0]).put_after(&context, "alice", &format!("cup {cup}")).context;
        cluster.run(SECOND / 10);
        assert_eq!(cluster.hinted(fallback, "alice", homes[2]), [format!("cup {cup}")]);
    }
    assert_eq!(kept(&cluster, fallback, homes[2]), full);
}

/// A whole data centre may fail: the preference list spreads over several.
#[test]
fn the_loss_of_a_zone_leaves_every_key_readable_and_writable() {
    let mut cluster = cluster(6).zones(3).partitions(64).start();
    for (partition, placement) in cluster.ring().partitions() {
        let zones: BTreeSet<&str> = placement.replicas.iter().map(|node| cluster.ring().members[node].zone.as_str()).collect();
        assert_eq!(zones.len(), 3, "partition {partition}");
    }
    let hosts = cluster.hosts();
    let keys: Vec<String> = (0..20).map(|key| format!("key {key}")).collect();
    for key in &keys {
        cluster.through(hosts[1]).put(key, "before");
    }
    let lost: Vec<_> = hosts.iter().copied().filter(|host| cluster.sim.zone(*host) == "zone-0").collect();
    for host in &lost {
        cluster.kill(*host);
    }
    for key in &keys {
        let got = cluster.through(hosts[1]).get(key);
        assert_eq!(got.values, ["before"], "{key}");
        cluster.through(hosts[2]).put_after(&got.context, key, "after");
    }
}
