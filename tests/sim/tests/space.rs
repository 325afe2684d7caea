//! A node whose disk is nearly full refuses what would fill it, in so many words, and the cluster goes on without it.

use std::time::Duration;

use dynamo_core::request::{Failure, QuorumWish};
use dynamo_sim::scenario::cluster;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_full_replica_takes_nothing_and_its_writes_wait_as_hints_until_there_is_room() {
    let mut cluster = cluster(5).start();
    let homes = cluster.homes("alice");
    cluster.through(homes[0]).put("alice", "milk");
    cluster.settle();
    cluster.fill(homes[1]);
    let got = cluster.through(homes[0]).get("alice");
    // W = 3 needs somebody in the full replica's place: the refusal brings in the fallback at once.
    let all = QuorumWish { w: Some(3), ..QuorumWish::default() };
    cluster.through(homes[0]).with(all).put_after(&got.context, "alice", "tea");
    assert_eq!(cluster.copied(homes[1], "alice"), ["milk"]);
    // Neither hints nor anti-entropy nor read repair bring it there ...
    cluster.run(SECOND * 20);
    assert_eq!(cluster.through(homes[1]).with(QuorumWish { r: Some(3), ..QuorumWish::default() }).get("alice").values, ["tea"]);
    cluster.run(SECOND);
    assert_eq!(cluster.copied(homes[1], "alice"), ["milk"]);
    let keepers: Vec<_> =
        cluster.hosts().into_iter().filter(|host| cluster.hinted(*host, "alice", homes[1]) == ["tea"]).collect();
    assert_eq!(keepers.len(), 1, "one fallback keeps it");
    assert!(cluster.count(|counters| counters.writes_refused_space) > 1);
    // ... until there is room.
    cluster.free(homes[1]);
    cluster.settle();
    assert_eq!(cluster.copied(homes[1], "alice"), ["tea"]);
    assert!(cluster.hinted(keepers[0], "alice", homes[1]).is_empty());
}

#[test]
fn a_full_replica_hands_its_puts_to_another_and_goes_on_reading() {
    let mut cluster = cluster(5).start();
    let homes = cluster.homes("alice");
    cluster.fill(homes[0]);
    cluster.through(homes[0]).put("alice", "milk");
    assert_eq!(cluster.through(homes[0]).get("alice").values, ["milk"]);
    assert!(cluster.copied(homes[0], "alice").is_empty());
    assert_eq!(cluster.count(|counters| counters.requests_forwarded), 1);
}

#[test]
fn a_cluster_of_full_disks_refuses_writes_with_nothing_written_and_keeps_what_it_has() {
    let mut cluster = cluster(3).start();
    let hosts = cluster.hosts();
    cluster.through(hosts[0]).put("alice", "milk");
    cluster.settle();
    hosts.iter().for_each(|host| cluster.fill(*host));
    for host in &hosts {
        let refused = cluster.through(*host).try_put(&Default::default(), "alice", "tea").unwrap_err();
        assert!(matches!(&refused, Failure::NotServing(why) if why.contains("nearly full")), "{refused:?}");
        assert_eq!(cluster.through(*host).get("alice").values, ["milk"]);
    }
    hosts.iter().for_each(|host| cluster.free(*host));
    let got = cluster.through(hosts[0]).get("alice");
    cluster.through(hosts[0]).put_after(&got.context, "alice", "tea");
    cluster.settle();
    assert_eq!(cluster.copied(hosts[2], "alice"), ["tea"]);
}

#[test]
fn a_fallback_whose_disk_is_full_is_passed_over_and_its_hints_still_go_home() {
    let mut cluster = cluster(6).start();
    let (homes, fallbacks) = (cluster.homes("alice"), cluster.fallbacks("alice"));
    cluster.kill(homes[2]);
    let all = QuorumWish { w: Some(3), ..QuorumWish::default() };
    cluster.through(homes[0]).with(all).put("alice", "milk");
    assert_eq!(cluster.hinted(fallbacks[0], "alice", homes[2]), ["milk"]);
    cluster.fill(fallbacks[0]);
    let got = cluster.through(homes[0]).get("alice");
    cluster.through(homes[0]).with(all).put_after(&got.context, "alice", "tea");
    assert_eq!(cluster.hinted(fallbacks[0], "alice", homes[2]), ["milk"]);
    assert_eq!(cluster.hinted(fallbacks[1], "alice", homes[2]), ["tea"]);
    cluster.start(homes[2]);
    cluster.settle();
    assert_eq!(cluster.copied(homes[2], "alice"), ["tea"]);
    assert!(cluster.hinted(fallbacks[0], "alice", homes[2]).is_empty(), "delivered and removed though the disk is full");
}

/// The loss is made good by what the stand-in has, and nothing but that frees its disk.
#[test]
fn a_stand_in_that_hints_for_a_lost_member_have_filled_hands_them_over() {
    let mut cluster = cluster(6).tune(|options| options.pace.anti_entropy = SECOND * 3_600).start();
    let (homes, fallback) = (cluster.homes("alice"), cluster.fallbacks("alice")[0]);
    cluster.kill(homes[2]);
    let all = QuorumWish { w: Some(3), ..QuorumWish::default() };
    cluster.through(homes[0]).with(all).put("alice", "milk");
    assert_eq!(cluster.hinted(fallback, "alice", homes[2]), ["milk"]);
    cluster.fill(fallback);
    cluster.wipe(homes[2]);
    cluster.until("the hint has become a copy and gone home", |cluster| {
        let kept = cluster.sim.disk(fallback).hints().count();
        let whole = cluster.placement("alice").moving.is_none();
        let home = cluster.homes("alice").iter().all(|home| cluster.copied(*home, "alice") == ["milk"]);
        kept == 0 && whole && home && cluster.copied(fallback, "alice").is_empty()
    });
}

/// Nobody is left who could acknowledge: the client need not wait to hear what is known at once.
#[test]
fn a_put_whose_quorum_cannot_be_had_any_more_is_answered_at_once() {
    let mut cluster = cluster(5).start();
    let (homes, fallbacks) = (cluster.homes("alice"), cluster.fallbacks("alice"));
    homes[1..].iter().for_each(|home| cluster.kill(*home));
    fallbacks.iter().for_each(|fallback| cluster.fill(*fallback));
    let begun = cluster.sim.now();
    let failed = cluster.through(homes[0]).try_put(&Default::default(), "alice", "milk").unwrap_err();
    assert_eq!(failed, Failure::Unknown { acknowledged: 1, required: 2 }, "one copy is there, and may show up");
    let took = cluster.sim.now().since(begun);
    assert!(took < SECOND / 10, "{took:?}");
    // One disk with room is enough.
    cluster.free(fallbacks[1]);
    cluster.through(homes[0]).put("alice", "tea");
}
