//! Tombstones: they go when nothing older can come, and not before.

use std::time::Duration;

use dynamo_core::hinted_handoff::HintFor;
use dynamo_core::id::{Epoch, NodeId, RequestId};
use dynamo_core::message::{Message, NamedObject, Purpose};
use dynamo_core::request::{Operation, QuorumWish, Success};
use dynamo_core::version::Object;
use dynamo_sim::scenario::{Cluster, cluster, name};
use dynamo_sim::schedule::HostId;

const SECOND: Duration = Duration::from_secs(1);
/// Longer than every time-out of everybody, and many intervals of reaping.
const LONG: Duration = Duration::from_secs(90);

fn start(nodes: usize) -> Cluster {
    cluster(nodes).tune(|options| options.pace.reap = SECOND).start()
}

/// Gets and deletes "alice".
fn delete(cluster: &mut Cluster, through: HostId) {
    let context = cluster.through(through).get("alice").context;
    cluster.through(through).delete(&context, "alice");
}

fn reaped(cluster: &Cluster) -> u64 {
    cluster.count(|counters| counters.tombstones_reaped)
}

fn copies(cluster: &Cluster, hosts: &[HostId]) -> Vec<Option<Object>> {
    hosts.iter().map(|host| cluster.copy(*host, "alice")).collect()
}

fn are_tombstones(cluster: &Cluster, hosts: &[HostId]) -> bool {
    copies(cluster, hosts).iter().all(|copy| copy.as_ref().is_some_and(Object::is_tombstone))
}

fn create(cluster: &mut Cluster, through: HostId, value: &str) {
    let operation = Operation::Put { data: value.to_owned().into(), context: Default::default(), create_only: true };
    let outcome = cluster.through(through).ask("alice", operation);
    assert!(matches!(outcome, Ok(Success::Written { .. })), "{outcome:?}");
}

/// "milk" was put, deleted and reaped; what the replicas held before the delete is handed back.
fn put_deleted_and_reaped(cluster: &mut Cluster) -> Object {
    let homes = cluster.homes("alice");
    cluster.through(homes[0]).put("alice", "milk");
    cluster.settle();
    let old = cluster.copy(homes[1], "alice").expect("it was put");
    delete(cluster, homes[0]);
    cluster.settle();
    assert_eq!(copies(cluster, &homes), [None, None, None]);
    old
}

/// Everything that could still carry `old` to `to`.
fn late_messages(cluster: &Cluster, old: &Object) -> Vec<Message> {
    let (epoch, partition) = (cluster.ring().epoch, cluster.partition("alice"));
    let (name, request) = (name("alice"), RequestId(7));
    let push = |purpose| {
        let objects = vec![NamedObject { name: name.clone(), object: old.clone() }];
        Message::Push { batch: 7, epoch, partition, purpose, objects }
    };
    let (object, synced) = (old.clone(), true);
    let replicate = Message::Replicate { request, epoch, name: name.clone(), object, hint_for: None, synced };
    vec![replicate, push(Purpose::Repair), push(Purpose::Hint), push(Purpose::Handback), push(Purpose::Transfer)]
}

/// A write for `home`, asked of a fallback under the ring of `epoch`, arrives only now.
fn deliver_late_hint(cluster: &mut Cluster, old: Object, (from, to): (HostId, HostId), (epoch, home): (Epoch, NodeId)) {
    let (request, name, hint_for) = (RequestId(7), name("alice"), Some(HintFor { home, needed: false }));
    let message = Message::Replicate { request, epoch, name, object: old, hint_for, synced: true };
    cluster.sim.deliver(from, to, message);
}

#[test]
fn a_tombstone_that_every_replica_has_is_reaped_and_leaves_nothing() {
    let mut cluster = start(6);
    let homes = cluster.homes("alice");
    put_deleted_and_reaped(&mut cluster);
    assert_eq!(reaped(&cluster), 3);
    for host in cluster.hosts() {
        assert_eq!(cluster.through(host).get("alice").values, [""; 0], "host {}", host.0);
    }
    assert_eq!(cluster.node(homes[0]).partition_digest(cluster.partition("alice")), Default::default());
}

/// What is said of names that are not here is no reason to give no context.
#[test]
fn a_put_after_a_reap_gives_a_context_that_its_writer_can_go_on_from() {
    let mut cluster = start(6);
    let homes = cluster.homes("alice");
    put_deleted_and_reaped(&mut cluster);
    let first = cluster.through(homes[0]).put("alice", "tea");
    cluster.through(homes[0]).put_after(&first.context, "alice", "beer");
    cluster.settle();
    for home in homes {
        assert_eq!(cluster.copied(home, "alice"), ["beer"]);
    }
}

#[test]
fn an_interval_of_zero_keeps_all_tombstones() {
    let mut cluster = cluster(6).start();
    let homes = cluster.homes("alice");
    cluster.through(homes[0]).put("alice", "milk");
    delete(&mut cluster, homes[0]);
    cluster.run(LONG);
    assert!(are_tombstones(&cluster, &homes));
}

#[test]
fn time_alone_reaps_nothing_while_any_member_is_away() {
    for away in [0, 2, 3, 5] {
        let mut cluster = start(6);
        let homes = cluster.homes("alice");
        let list: Vec<HostId> = homes.iter().copied().chain(cluster.fallbacks("alice")).collect();
        cluster.through(homes[1]).put("alice", "milk");
        cluster.settle();
        cluster.kill(list[away]);
        delete(&mut cluster, homes[1]);
        cluster.run(LONG);
        assert_eq!(reaped(&cluster), 0, "host {away} of the preference list is away");
        cluster.start(list[away]);
        cluster.settle();
        assert_eq!(copies(&cluster, &homes), [None, None, None]);
    }
}

/// The fallback's hint is older than the tombstone, and nobody can ask for it.
#[test]
fn an_old_hint_that_sleeps_on_a_crashed_fallback_keeps_the_tombstone() {
    let mut cluster = start(6);
    let (homes, fallback) = (cluster.homes("alice"), cluster.fallbacks("alice")[0]);
    cluster.kill(homes[2]);
    cluster.through(homes[0]).put("alice", "milk");
    cluster.until("the fallback has a hint", |cluster| cluster.hinted(fallback, "alice", homes[2]) == ["milk"]);
    cluster.kill(fallback);
    cluster.start(homes[2]);
    cluster.until("anti-entropy", |cluster| cluster.copied(homes[2], "alice") == ["milk"]);
    delete(&mut cluster, homes[0]);
    cluster.run(LONG);
    assert!(are_tombstones(&cluster, &homes), "all replicas have it, and yet");
    cluster.start(fallback);
    cluster.settle();
    assert_eq!(cluster.through(homes[0]).get("alice").values, [""; 0]);
    assert_eq!(copies(&cluster, &homes), [None, None, None], "the hint came home, and then it went");
}

/// riak_test kv679_tombstone: a tombstone was left on a fallback; the key is made anew; the fallback comes back.
#[test]
fn a_doomstone_on_a_fallback_does_not_take_the_new_object() {
    let mut cluster = start(6);
    let (homes, fallback) = (cluster.homes("alice"), cluster.fallbacks("alice")[0]);
    cluster.through(homes[0]).put("alice", "milk");
    cluster.settle();
    cluster.kill(homes[2]);
    delete(&mut cluster, homes[0]);
    cluster.until("the fallback has the tombstone", |cluster| {
        cluster.sim.disk(fallback).hints().any(|(_, at, object)| *at == name("alice") && object.is_tombstone())
    });
    cluster.kill(fallback);
    cluster.start(homes[2]);
    cluster.run(LONG);
    assert_eq!(reaped(&cluster), 0, "the fallback's copy of the tombstone is still to come");
    create(&mut cluster, homes[1], "tea");
    cluster.start(fallback);
    cluster.settle();
    for home in &homes {
        assert_eq!(cluster.copied(*home, "alice"), ["tea"], "home replica {}", home.0);
    }
    delete(&mut cluster, homes[1]);
    cluster.settle();
    assert_eq!(copies(&cluster, &homes), [None, None, None]);
}

/// riak_test kv679_tombstone2: a crashed primary holds the tombstone while the key is made anew.
#[test]
fn a_doomstone_on_a_crashed_primary_does_not_take_the_new_object() {
    let mut cluster = start(6);
    let homes = cluster.homes("alice");
    cluster.through(homes[0]).put("alice", "milk");
    cluster.settle();
    // The others must not have reaped it in the moment between the delete and the crash.
    let context = cluster.through(homes[0]).get("alice").context;
    cluster.through(homes[0]).delete(&context, "alice");
    cluster.kill(homes[0]);
    cluster.run(LONG);
    create(&mut cluster, homes[1], "tea");
    cluster.run(SECOND);
    cluster.start(homes[0]);
    cluster.settle();
    for home in homes {
        assert_eq!(cluster.copied(home, "alice"), ["tea"], "home replica {}", home.0);
    }
}

#[test]
fn an_object_that_is_made_anew_after_the_reap_survives_and_can_be_deleted_again() {
    let mut cluster = start(6);
    let homes = cluster.homes("alice");
    put_deleted_and_reaped(&mut cluster);
    create(&mut cluster, homes[2], "tea");
    cluster.through(homes[1]).put("alice", "beer");
    cluster.settle();
    for home in &homes {
        assert_eq!(cluster.copied(*home, "alice"), ["beer", "tea"]);
    }
    delete(&mut cluster, homes[1]);
    cluster.settle();
    assert_eq!(copies(&cluster, &homes), [None, None, None]);
}

#[test]
fn a_context_from_before_the_reap_is_accepted_and_brings_nothing_back() {
    let mut cluster = start(6);
    let homes = cluster.homes("alice");
    let stale = cluster.through(homes[0]).put("alice", "milk").context;
    delete(&mut cluster, homes[0]);
    cluster.settle();
    assert_eq!(copies(&cluster, &homes), [None, None, None]);
    cluster.through(homes[1]).put_after(&stale, "alice", "tea");
    cluster.settle();
    for home in &homes {
        assert_eq!(cluster.copied(*home, "alice"), ["tea"]);
    }
}

/// A disk that went back, or a process beside its successor, has a tombstone or more that is reaped elsewhere and no record of that.
#[test]
fn a_message_that_comes_between_a_peers_word_and_the_record_that_it_rests_on_brings_nothing_back() {
    let mut cluster = start(6);
    let homes = cluster.homes("alice");
    cluster.through(homes[0]).put("alice", "milk");
    cluster.settle();
    let old = cluster.copy(homes[0], "alice").expect("it was put");
    let copy = cluster.sim.copy_of(homes[0]);
    delete(&mut cluster, homes[0]);
    cluster.settle();
    assert_eq!(copies(&cluster, &homes), [None, None, None]);
    cluster.stop(homes[0], false);
    cluster.sim.restore(homes[0], copy);
    cluster.sim.start(homes[0]);
    assert_eq!(cluster.copied(homes[0], "alice"), ["milk"]);
    let told = (0..60_000).any(|_| {
        cluster.run(Duration::from_millis(1));
        cluster.copy(homes[0], "alice").is_none()
    });
    assert!(told, "anti-entropy meets it");
    for message in late_messages(&cluster, &old) {
        cluster.sim.deliver(homes[1], homes[0], message.clone());
        assert_eq!(cluster.copy(homes[0], "alice"), None, "{message:?}");
    }
    cluster.settle();
    assert_eq!(copies(&cluster, &homes), [None, None, None]);
}

#[test]
fn a_message_that_comes_after_the_reap_brings_nothing_back_whatever_it_is() {
    let mut cluster = start(6);
    let homes = cluster.homes("alice");
    let old = put_deleted_and_reaped(&mut cluster);
    for (at, message) in late_messages(&cluster, &old).into_iter().enumerate() {
        for home in &homes {
            cluster.sim.deliver(homes[at % 3], *home, message.clone());
        }
    }
    cluster.run(SECOND);
    assert_eq!(copies(&cluster, &homes), [None, None, None]);
    assert_eq!(cluster.count(|counters| counters.writes_fenced), 15);
    cluster.settle();
}

#[test]
fn a_late_message_finds_the_new_object_and_adds_nothing_to_it() {
    let mut cluster = start(6);
    let homes = cluster.homes("alice");
    let old = put_deleted_and_reaped(&mut cluster);
    create(&mut cluster, homes[1], "tea");
    cluster.run(SECOND);
    for message in late_messages(&cluster, &old) {
        cluster.sim.deliver(homes[0], homes[2], message);
    }
    cluster.run(SECOND);
    cluster.settle();
    for home in homes {
        assert_eq!(cluster.copied(home, "alice"), ["tea"], "home replica {}", home.0);
    }
}

#[test]
fn a_late_message_that_becomes_a_hint_is_stopped_at_its_home() {
    let mut cluster = start(6);
    let (homes, fallback) = (cluster.homes("alice"), cluster.fallbacks("alice")[0]);
    let old = put_deleted_and_reaped(&mut cluster);
    let (epoch, home) = (cluster.ring().epoch, cluster.id(homes[2]));
    deliver_late_hint(&mut cluster, old, (homes[0], fallback), (epoch, home));
    cluster.run(SECOND);
    cluster.settle();
    assert_eq!(copies(&cluster, &homes), [None, None, None]);
    assert_eq!(cluster.count(|counters| counters.hints_delivered), 1);
}

/// Until the hint is home its keeper may be asked, who has not heard that the name is reaped.
#[test]
fn a_late_message_that_becomes_a_hint_is_shown_to_nobody() {
    let mut cluster = start(6);
    let (homes, fallback) = (cluster.homes("alice"), cluster.fallbacks("alice")[0]);
    let old = put_deleted_and_reaped(&mut cluster);
    let (epoch, home) = (cluster.ring().epoch, cluster.id(homes[2]));
    cluster.kill(homes[2]);
    deliver_late_hint(&mut cluster, old, (homes[0], fallback), (epoch, home));
    cluster.run(SECOND);
    assert_eq!(cluster.hinted(fallback, "alice", homes[2]), ["milk"]);
    let all = QuorumWish { r: Some(3), ..QuorumWish::default() };
    assert_eq!(cluster.through(homes[0]).with(all).get("alice").values, [""; 0]);
}

#[test]
fn a_new_replica_learns_what_was_reaped_from_its_equals() {
    let mut cluster = start(4);
    put_deleted_and_reaped(&mut cluster);
    let old = {
        let homes = cluster.homes("alice");
        cluster.through(homes[0]).put("alice", "tea");
        cluster.settle();
        let old = cluster.copy(homes[0], "alice").expect("it was put");
        delete(&mut cluster, homes[0]);
        cluster.settle();
        old
    };
    let before = cluster.homes("alice");
    let leaver = before[0];
    cluster.leave(leaver);
    cluster.settle();
    let homes = cluster.homes("alice");
    let newcomer = *homes.iter().find(|home| !before.contains(home)).expect("somebody took its place");
    // Some rounds of anti-entropy.
    cluster.run(SECOND * 20);
    for message in late_messages(&cluster, &old) {
        cluster.sim.deliver(homes[0], newcomer, message);
    }
    cluster.run(SECOND);
    assert_eq!(cluster.copy(newcomer, "alice"), None);
    cluster.settle();
    assert_eq!(cluster.through(newcomer).get("alice").values, [""; 0]);
}

/// The hint becomes a copy, which goes home to those who know that the name is reaped, and to one who came in the place of its target.
#[test]
fn a_late_message_that_becomes_a_copy_brings_nothing_back_to_a_new_replica() {
    let mut cluster = cluster(6)
        .tune(|options| {
            options.pace.reap = SECOND;
            options.pace.anti_entropy = SECOND * 3_600;
        })
        .start();
    let (homes, fallback) = (cluster.homes("alice"), cluster.fallbacks("alice")[0]);
    let old = put_deleted_and_reaped(&mut cluster);
    let (epoch, home) = (cluster.ring().epoch, cluster.id(homes[2]));
    cluster.kill(homes[2]);
    deliver_late_hint(&mut cluster, old, (homes[0], fallback), (epoch, home));
    cluster.until("the hint", |cluster| cluster.hinted(fallback, "alice", homes[2]) == ["milk"]);
    cluster.wipe(homes[2]);
    cluster.until("the place is filled", |cluster| {
        let placement = cluster.placement("alice");
        placement.moving.is_none() && !placement.replicas.contains(&home)
    });
    cluster.run(SECOND * 20);
    let now = cluster.homes("alice");
    assert!(!now.contains(&homes[2]) && !now.contains(&fallback), "{now:?}");
    assert_eq!(copies(&cluster, &now), [None, None, None]);
    for home in now {
        assert_eq!(cluster.through(home).get("alice").values, [""; 0], "through {}", home.0);
    }
}

#[test]
fn a_busy_partition_is_reaped_too() {
    let mut cluster = cluster(6).partitions(1).tune(|options| options.pace.reap = Duration::from_millis(300)).start();
    let homes = cluster.homes("alice");
    for round in 0..40 {
        let key = format!("key{round}");
        cluster.through(homes[round % 3]).put(&key, "milk");
        let context = cluster.through(homes[round % 3]).get(&key).context;
        cluster.through(homes[(round + 1) % 3]).delete(&context, &key);
        cluster.through(homes[(round + 2) % 3]).put("bob", &round.to_string());
        cluster.run(Duration::from_millis(200));
    }
    assert!(reaped(&cluster) > 60, "{} while puts went on", reaped(&cluster));
    cluster.settle();
    assert_eq!(reaped(&cluster), 120);
}
