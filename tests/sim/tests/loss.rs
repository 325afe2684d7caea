//! Disks that are gone for ever, one case a test: what may still be relied on, and what becomes of an id that was declared lost.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use dynamo_core::request::{Evidence, Failure, Operation, QuorumWish};
use dynamo_core::ring::Stage;
use dynamo_sim::checkers::redundancy;
use dynamo_sim::options::Options;
use dynamo_sim::scenario::{BUCKET, Cluster, cluster, name};
use dynamo_sim::witness::{Acknowledged, WriteId};

const KEYS: usize = 40;

fn key(number: usize) -> String {
    format!("key {number}")
}

/// All keys are written, each to home replicas only.
fn filled(cluster: &mut Cluster) {
    for number in 0..KEYS {
        let home = cluster.homes(&key(number))[0];
        cluster.through(home).put(&key(number), "value");
    }
}

fn all_are_there(cluster: &mut Cluster) {
    let mut hosts = cluster.sim.responsive();
    hosts.retain(|host| cluster.node(*host).ring().is_some());
    for number in 0..KEYS {
        let host = hosts[number % hosts.len()];
        assert_eq!(cluster.through(host).get(&key(number)).values, ["value"], "{}", key(number));
    }
}

#[test]
fn a_wiped_member_is_replaced_by_a_new_one_and_nothing_is_lost() {
    let mut cluster = cluster(3).start();
    filled(&mut cluster);
    let wiped = cluster.hosts()[1];
    let old = cluster.id(wiped);
    let replacement = cluster.wipe(wiped);
    all_are_there(&mut cluster);
    cluster.settle();
    all_are_there(&mut cluster);
    let ring = cluster.ring();
    assert!(ring.is_lost(old) && !ring.members.contains_key(&old));
    assert_eq!(ring.partitions_of(cluster.id(replacement)), 16, "all that the old one held");
}

/// A write that only one other replica has must reach the replacement from that one, whichever it is.
#[test]
fn a_write_that_the_lost_replica_shared_with_one_other_is_read_during_and_after_the_replacement() {
    for sharer in [0, 1] {
        let mut cluster = cluster(3).tune(|options| options.pace.anti_entropy = Duration::from_secs(3_600)).start();
        let homes = cluster.homes("alice");
        let lost = homes[2];
        let (with, without) = (homes[sharer], homes[1 - sharer]);
        cluster.split(&[with, lost], &[without]);
        let wish = QuorumWish { pw: Some(2), ..QuorumWish::default() };
        cluster.through(with).with(wish).put("alice", "milk");
        let replacement = cluster.wipe(lost);
        cluster.heal();
        for _ in 0..200 {
            let strict = QuorumWish { pr: Some(2), ..QuorumWish::default() };
            if let Ok(dynamo_core::request::Success::Got { object, .. }) =
                cluster.through(without).with(strict).ask("alice", Operation::Get)
            {
                assert_eq!(object.siblings().count(), 1, "a stale not-found, with sharer {sharer}");
            }
            cluster.run(Duration::from_millis(50));
        }
        cluster.settle();
        assert_eq!(cluster.copied(replacement, "alice"), ["milk"]);
    }
}

#[test]
fn a_get_takes_no_stand_in_for_a_lost_replica_while_r_others_are_there() {
    let mut cluster = cluster(5).start();
    let homes = cluster.homes("alice");
    cluster.through(homes[0]).put("alice", "milk");
    cluster.wipe(homes[2]);
    cluster.until("the loss is declared", |cluster| cluster.ring().lost.len() == 1);
    for _ in 0..30 {
        let got = cluster.through(homes[0]).get("alice");
        assert_eq!((got.values, got.evidence.hinted), (vec!["milk".to_owned()], 0));
    }
    let all = QuorumWish { r: Some(3), ..QuorumWish::default() };
    if cluster.ring().placement(cluster.partition("alice")).read_set().contains(&cluster.id(homes[2])) {
        let got = cluster.through(homes[0]).with(all).get("alice");
        assert_eq!((got.values, got.evidence.hinted), (vec!["milk".to_owned()], 1), "with R = 3 there are not");
    }
    cluster.settle();
}

#[test]
fn a_member_declared_lost_that_was_not_is_fenced_and_says_why_it_does_not_serve() {
    let mut cluster = cluster(4).start();
    filled(&mut cluster);
    let alive = cluster.hosts()[0];
    let id = cluster.id(alive);
    cluster.misjudge(alive);
    cluster.until("it hears of it", |cluster| cluster.sim.node(alive).is_none_or(|node| node.declared_lost().is_some()));
    let node = cluster.node(alive);
    assert!(!node.status(cluster.sim.clock(alive)).ready);
    assert!(node.drain_receipt().unwrap_err().contains("declared lost"));
    for operation in [Operation::Get, Operation::Put { data: "x".into(), context: "".into(), create_only: false }] {
        let refused = cluster.through(alive).ask("alice", operation).unwrap_err();
        assert!(matches!(refused, Failure::DeclaredLost { .. }), "{refused}");
    }
    cluster.settle();
    assert!(cluster.ring().is_lost(id) && !cluster.ring().members.contains_key(&id));
    assert_eq!(cluster.sim.totals.members_fenced, 1);
    all_are_there(&mut cluster);
}

#[test]
fn a_member_declared_lost_that_comes_back_after_its_replacement_brings_nothing_old_with_it() {
    let mut cluster = cluster(4).start();
    let homes = cluster.homes("alice");
    let gone = homes[2];
    cluster.through(homes[0]).put("alice", "milk");
    cluster.until("it has a copy", |cluster| cluster.copied(gone, "alice") == ["milk"]);
    cluster.kill(gone);
    cluster.misjudge(gone);
    cluster.until("it is replaced", |cluster| !cluster.ring().members.contains_key(&cluster.id(gone)));
    let context = cluster.through(homes[0]).get("alice").context;
    cluster.through(homes[0]).put_after(&context, "alice", "bread");
    cluster.sim.start(gone);
    cluster.settle();
    assert!(cluster.count(|counters| counters.read_repairs) < 10);
    assert_eq!(cluster.through(homes[0]).get("alice").values, ["bread"]);
    assert_eq!(cluster.sim.totals.members_fenced, 1);
}

#[test]
fn a_member_declared_lost_that_comes_back_among_none_answers_no_get_and_still_takes_puts() {
    let mut cluster = cluster(4).quorum((2, 1, 2)).start();
    let homes = cluster.homes("alice");
    let gone = homes[1];
    cluster.through(homes[0]).put("alice", "milk");
    cluster.kill(gone);
    cluster.misjudge(gone);
    cluster.until("it is replaced", |cluster| !cluster.ring().members.contains_key(&cluster.id(gone)));
    let context = cluster.through(homes[0]).get("alice").context;
    cluster.through(homes[0]).put_after(&context, "alice", "bread");
    let others = cluster.sim.running();
    others.iter().for_each(|host| cluster.stop(*host, true));
    cluster.sim.start(gone);
    cluster.run(Duration::from_secs(5));
    let refused = cluster.through(gone).ask("alice", Operation::Get).unwrap_err();
    assert!(matches!(&refused, Failure::NotServing(why) if why.contains("later ring")), "{refused}");
    let one = QuorumWish { w: Some(1), dw: Some(1), ..QuorumWish::default() };
    cluster.through(gone).with(one).put("bob", "eggs");
    others.iter().for_each(|host| cluster.start(*host));
    cluster.until("it hears of it", |cluster| cluster.sim.node(gone).is_none_or(|node| node.declared_lost().is_some()));
    assert_eq!(cluster.through(homes[0]).get("alice").values, ["bread"]);
}

#[test]
fn when_all_were_away_gets_are_answered_from_the_third_of_five_on() {
    let mut cluster = cluster(5).quorum((3, 1, 3)).start();
    cluster.through(cluster.hosts()[0]).put("alice", "milk");
    cluster.settle();
    let homes = cluster.homes("alice");
    let hosts = cluster.hosts();
    hosts.iter().for_each(|host| cluster.stop(*host, true));
    let ask = |cluster: &mut Cluster| cluster.through(homes[0]).ask("alice", Operation::Get);
    for host in &homes[..2] {
        cluster.start(*host);
        cluster.run(Duration::from_secs(5));
        let refused = ask(&mut cluster).unwrap_err();
        assert!(matches!(&refused, Failure::NotServing(_)), "{refused}");
    }
    cluster.start(homes[2]);
    cluster.run(Duration::from_secs(5));
    assert!(ask(&mut cluster).is_ok());
}

#[test]
fn a_move_to_a_newcomer_whose_disk_is_lost_is_taken_back_from_either_stage() {
    for stage in [Stage::WriteBothReadOld, Stage::WriteBothReadNew] {
        let mut cluster = cluster(3).start();
        filled(&mut cluster);
        let newcomer = cluster.join();
        cluster.until("the stage is reached", |cluster| cluster.ring().moving().any(|(_, _, moving)| moving.stage == stage));
        cluster.wipe(newcomer);
        cluster.settle();
        assert!(cluster.sim.totals.moves_taken_back > 0, "{stage:?}");
        all_are_there(&mut cluster);
    }
}

/// The first loss is the second ring, which one node holds and nobody else hears of; the second loss is the third, which follows on that.
/// Then that one node's disk is destroyed too, and no other comes that has no ring and would take the newest.
#[test]
fn a_ring_whose_only_holder_is_destroyed_reaches_the_others_from_the_record() {
    let mut cluster = cluster(6).start();
    let hosts = cluster.hosts();
    let (holder, others) = (hosts[0], &hosts[1..]);
    cluster.split(&[holder], others);
    others.iter().for_each(|host| cluster.sim.pause(*host, Duration::from_secs(20)));
    let (first, at) = (cluster.ring().epoch, |cluster: &Cluster, host| cluster.node(host).ring().unwrap().epoch);
    let mut replacements = Vec::new();
    for (before, lost) in hosts[1..3].iter().enumerate() {
        replacements.push(cluster.destroy(*lost));
        cluster.until("the loss is declared, and one holds that ring", |cluster| {
            cluster.ring().lost.len() == before + 1 && at(cluster, holder) == cluster.ring().epoch
        });
    }
    assert!(hosts[3..].iter().all(|host| at(&cluster, *host) == first), "two rings behind");
    replacements.push(cluster.destroy(holder));
    cluster.until("the third loss is declared, and all that are left hold that ring", |cluster| {
        cluster.ring().lost.len() == 3 && hosts[3..].iter().all(|host| at(cluster, *host) == cluster.ring().epoch)
    });
    assert!(cluster.sim.totals.earlier_rings_taken > 0);
    replacements.iter().for_each(|host| cluster.sim.start(*host));
    cluster.settle();
    assert!(cluster.ring().members.keys().all(|node| !cluster.ring().is_lost(*node)));
}

#[test]
fn hints_for_a_lost_member_reach_those_who_own_the_partition_now() {
    let mut cluster = cluster(5).tune(|options| options.pace.anti_entropy = Duration::from_secs(3_600)).start();
    let homes = cluster.homes("alice");
    cluster.kill(homes[2]);
    let keeper = cluster.fallbacks("alice")[0];
    cluster.through(homes[0]).put("alice", "milk");
    assert_eq!(cluster.hinted(keeper, "alice", homes[2]), ["milk"]);
    cluster.wipe(homes[2]);
    cluster.settle();
    for home in cluster.homes("alice") {
        assert_eq!(cluster.copied(home, "alice"), ["milk"]);
    }
    assert_eq!(cluster.hinted(keeper, "alice", homes[2]), Vec::<String>::new());
}

/// Nobody but the lost one and a stand-in had the write: a home replica that gets the hint is the only one that has it then, and the
/// next disk that is lost may be that one's.
#[test]
fn a_write_that_the_lost_replica_shared_with_a_stand_in_reaches_every_home_and_outlives_the_next_loss() {
    let mut cluster = cluster(4).tune(|options| options.pace.anti_entropy = Duration::from_secs(3_600)).start();
    let homes = cluster.homes("alice");
    let keeper = cluster.fallbacks("alice")[0];
    homes[1..].iter().for_each(|home| cluster.kill(*home));
    let written = cluster.through(homes[0]).put("alice", "milk");
    assert_eq!((written.evidence.durable, written.evidence.hinted), (2, 1));
    assert_eq!(cluster.hinted(keeper, "alice", homes[1]), ["milk"]);
    cluster.wipe(homes[0]);
    homes[1..].iter().for_each(|home| cluster.start(*home));
    cluster.settle();
    for home in cluster.homes("alice") {
        assert_eq!(cluster.copied(home, "alice"), ["milk"], "host {}", home.0);
    }
    cluster.wipe(homes[1]);
    cluster.settle();
    assert_eq!(cluster.through(keeper).get("alice").values, ["milk"]);
}

/// A bucket whose n is 1 has one owner: with it lost, a stand-in may have the last copy there is, and nobody to hand it to.
#[test]
fn a_copy_of_what_only_lost_members_own_waits_for_those_who_come_in_their_place() {
    let slowly = |options: &mut Options| options.pace.writer = Duration::from_secs(5);
    let mut cluster = cluster(4).bucket_n(BUCKET, 1).tune(slowly).start();
    let owner = cluster.homes("alice")[0];
    cluster.kill(owner);
    let other = *cluster.hosts().iter().find(|host| **host != owner).unwrap();
    cluster.through(other).put("alice", "milk");
    cluster.wipe(owner);
    cluster.settle();
    assert_eq!(cluster.through(other).get("alice").values, ["milk"]);
}

/// Nobody is filled in the place of a stand-in: that its loss is made good takes until the replicas have compared their copies.
#[test]
fn what_a_lost_stand_in_kept_is_made_up_for_when_the_replicas_are_equal_again() {
    let mut cluster = cluster(4).start();
    let homes = cluster.homes("alice");
    let keeper = cluster.fallbacks("alice")[0];
    cluster.split(&homes[..1], &homes[1..]);
    let Evidence { epoch, .. } = cluster.through(homes[0]).put("alice", "milk and bread").evidence;
    assert_eq!(cluster.hinted(keeper, "alice", homes[1]), ["milk and bread"]);
    let partition = cluster.partition("alice");
    let acknowledged = Acknowledged { copies: 2, name: name("alice"), partition, epoch, homes: Vec::new() };
    cluster.sim.acknowledged(WriteId::of(b"milk and bread").unwrap(), acknowledged);

    let ring = cluster.ring().clone();
    cluster.wipe(keeper);
    cluster.until("it is replaced", |cluster| !cluster.ring().members.contains_key(&cluster.id(keeper)));
    assert!(!redundancy::is_made_up_for(&cluster.sim, keeper, &ring), "one disk has it");
    cluster.heal();
    cluster.settle();
    assert!(redundancy::is_made_up_for(&cluster.sim, keeper, &ring));
}
