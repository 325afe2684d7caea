//! Each promise is broken once by hand, and who checks it has to say so: a check that cannot fail is none. What clients alone can tell
//! ([`crate::ledger`]) and what disks and rings tell by themselves is planted beside those who check it.

use std::time::Duration;

use dynamo_core::id::{Epoch, NodeId};
use dynamo_core::node::status::TransferStatus;
use dynamo_core::request::{Evidence, QuorumWish};
use dynamo_core::version::Dot;

use super::{bounds, convergence, evidence, redundancy};
use crate::disk::{Dropped, Removed};
use crate::ledger::Verdict;
use crate::scenario::{Cluster, Written, cluster, name};
use crate::schedule::HostId;
use crate::witness::{Acknowledged, WriteId};

const KEY: &str = "alice";
/// Its first eight bytes are the number of the write.
const VALUE: &str = "milk and bread";

fn broken(verdict: Verdict) -> Option<&'static str> {
    verdict.err().map(|(invariant, _)| invariant)
}

fn write() -> WriteId {
    WriteId::of(VALUE.as_bytes()).unwrap()
}

/// Five nodes, of which the three home replicas have a write on stable storage.
fn written() -> (Cluster, Written, Dot) {
    let mut cluster = cluster(5).start();
    let home = cluster.homes(KEY)[0];
    let written = cluster.through(home).put(KEY, VALUE);
    cluster.settle();
    let (dot, _) = cluster.copy(home, KEY).unwrap().values().next().map(|(dot, value)| (dot, value.clone())).unwrap();
    (cluster, written, dot)
}

/// Two nodes that are no home replicas.
fn strangers(cluster: &Cluster) -> [HostId; 2] {
    let homes = cluster.homes(KEY);
    let mut others = cluster.hosts().into_iter().filter(|host| !homes.contains(host));
    [others.next().unwrap(), others.next().unwrap()]
}

#[test]
fn an_acknowledgement_that_names_too_few_nodes_or_the_wrong_ones_is_not_believed() {
    let (mut cluster, written, _) = written();
    let homes: Vec<NodeId> = cluster.homes(KEY).into_iter().map(|host| cluster.id(host)).collect();
    let stranger = cluster.id(strangers(&cluster)[0]);
    let epoch = written.evidence.epoch;
    let of = |nodes: &[NodeId], durable| Evidence { epoch, nodes: nodes.to_vec(), durable, hinted: 0 };
    let none = QuorumWish::default();
    let primary = QuorumWish { pw: Some(2), ..none };
    const I12: Option<&str> = Some("I12 honest quorums");
    let cases = [
        ("two home replicas", none, of(&homes[..2], 2), None),
        ("one, where W is 2", none, of(&homes[..1], 1), I12),
        ("one of the two in memory, where dw is 2", none, of(&homes[..2], 1), I12),
        ("one of the two in memory, where dw is 1", QuorumWish { dw: Some(1), ..none }, of(&homes[..2], 1), None),
        ("a stand-in, where PW is 2", primary, of(&[homes[0], stranger], 1), I12),
        ("two home replicas, where PW is 2", primary, of(&homes[..2], 2), None),
        ("a node that does not have it", none, of(&[homes[0], stranger], 2), I12),
        ("a ring that nobody held", primary, Evidence { epoch: Epoch(99), ..of(&homes, 3) }, I12),
    ];
    for (what, wish, evidence, expected) in cases {
        let verdict = evidence::check(&mut cluster.sim, Some(write()), &name(KEY), &wish, &evidence);
        assert_eq!(broken(verdict), expected, "{what}");
    }
    let primary = QuorumWish { pr: Some(2), ..none };
    let gets = [
        ("two home replicas", none, of(&homes[..2], 0), None),
        ("one, where R is 2", none, of(&homes[..1], 0), I12),
        ("one, named twice", none, of(&[homes[0], homes[0]], 0), I12),
        ("a stand-in, where PR is 2", primary, of(&[homes[0], stranger], 0), I12),
        ("a ring that nobody held", none, Evidence { epoch: Epoch(99), ..of(&homes, 0) }, I12),
    ];
    for (what, wish, evidence, expected) in gets {
        assert_eq!(broken(evidence::check_get(&cluster.sim, &name(KEY), &wish, &evidence)), expected, "a get: {what}");
    }
}

#[test]
fn a_copy_that_is_dropped_is_missed_where_too_few_others_have_it() {
    for (copies, missed) in [(0, false), (2, false), (3, true)] {
        let (mut cluster, written, dot) = written();
        let homes = cluster.homes(KEY);
        let (partition, epoch) = (cluster.partition(KEY), written.evidence.epoch);
        let acknowledged = Acknowledged { copies, name: name(KEY), partition, epoch, homes: written.evidence.nodes };
        cluster.sim.acknowledged(write(), acknowledged);
        // The host keeps its copy; so the drop is that of a machine that is taken away.
        cluster.sim.crash(homes[0], crate::simulation::Crash::Kill);
        cluster.sim.forget(homes[0], &name(KEY));
        let dropped = [Dropped { name: name(KEY), dot, hint_for: None }];
        let verdict = broken(redundancy::check(&mut cluster.sim, homes[0], &dropped));
        assert_eq!(verdict, missed.then_some("I10 nothing is dropped before enough others have it"), "{copies} copies");
    }
}

/// Bits flip on the disk of a home replica, or of a node that has another key only.
#[test]
fn a_disk_that_is_lost_excuses_what_it_held_and_nothing_else() {
    for (at_home, copies, missed) in [(true, 2, false), (true, 3, true), (false, 2, false), (false, 3, true)] {
        let (mut cluster, written, dot) = written();
        let (homes, stranger) = (cluster.homes(KEY), strangers(&cluster)[0]);
        let other = (0..).map(|at| format!("key {at}")).find(|key| cluster.homes(key).contains(&stranger)).unwrap();
        cluster.through(stranger).put(&other, "bread and milk");
        cluster.settle();
        let (partition, epoch) = (cluster.partition(KEY), written.evidence.epoch);
        let acknowledged = Acknowledged { copies, name: name(KEY), partition, epoch, homes: written.evidence.nodes };
        cluster.sim.acknowledged(write(), acknowledged);
        assert!(cluster.sim.rot(if at_home { homes[1] } else { stranger }));
        cluster.sim.lose_rotten();
        cluster.sim.crash(homes[0], crate::simulation::Crash::Kill);
        cluster.sim.forget(homes[0], &name(KEY));
        let dropped = [Dropped { name: name(KEY), dot, hint_for: None }];
        let verdict = broken(redundancy::check(&mut cluster.sim, homes[0], &dropped));
        let what = format!("{copies} copies, at home: {at_home}");
        assert_eq!(verdict, missed.then_some("I10 nothing is dropped before enough others have it"), "{what}");
    }
}

#[test]
fn a_hint_that_is_removed_is_missed_where_its_node_does_not_have_it() {
    let mut cluster = cluster(5).start();
    let homes = cluster.homes(KEY);
    cluster.kill(homes[2]);
    cluster.through(homes[0]).put(KEY, VALUE);
    let (dot, _) = cluster.copy(homes[0], KEY).unwrap().values().next().map(|(dot, value)| (dot, value.clone())).unwrap();
    let keeper = *cluster.hosts().iter().find(|host| !cluster.hinted(**host, KEY, homes[2]).is_empty()).unwrap();
    for (target, missed) in [(homes[1], false), (homes[2], true)] {
        let dropped = [Dropped { name: name(KEY), dot, hint_for: Some(cluster.id(target)) }];
        let verdict = broken(redundancy::check(&mut cluster.sim, keeper, &dropped));
        assert_eq!(verdict, missed.then_some("I11 a hint goes when its node has it"), "for host {}", target.0);
    }
}

#[test]
fn a_tombstone_that_goes_is_missed_where_a_replica_does_not_have_it_or_an_older_hint_is_kept() {
    const I10: Option<&str> = Some("I10 a tombstone goes when every replica has it");
    for (away, expected) in [(false, None), (true, I10)] {
        let (mut cluster, written, _) = written();
        let homes = cluster.homes(KEY);
        if away {
            cluster.kill(homes[2]);
        }
        cluster.through(homes[0]).delete(&written.context, KEY);
        cluster.run(Duration::from_secs(1));
        let removed = [Removed { name: name(KEY), object: cluster.copy(homes[0], KEY).unwrap() }];
        assert_eq!(broken(redundancy::check_removed(&mut cluster.sim, homes[0], &removed)), expected, "away: {away}");
    }
    // What was promised is no tombstone.
    let (mut cluster, written, _) = written();
    let (partition, epoch) = (cluster.partition(KEY), written.evidence.epoch);
    let removed = [Removed { name: name(KEY), object: cluster.copy(cluster.homes(KEY)[0], KEY).unwrap() }];
    let home = cluster.homes(KEY)[0];
    assert_eq!(redundancy::check_removed(&mut cluster.sim, home, &removed), Ok(()), "nobody was promised anything");
    let acknowledged = Acknowledged { copies: 2, name: name(KEY), partition, epoch, homes: Vec::new() };
    cluster.sim.acknowledged(write(), acknowledged);
    assert_eq!(broken(redundancy::check_removed(&mut cluster.sim, home, &removed)), I10);
}

#[test]
fn replicas_that_differ_and_copies_that_nobody_asked_for_are_found() {
    let (mut cluster, ..) = written();
    let home = cluster.homes(KEY)[0];
    assert_eq!(convergence::check(&cluster.sim, cluster.ring()), Ok(()));
    let without_the_first = cluster.ring().successor(|next| {
        let at = next.list_of(next.partition_of(&name(KEY)));
        next.placements[at].replicas.remove(0);
    });
    assert_eq!(broken(convergence::check(&cluster.sim, &without_the_first)), Some("I8 placement"));
    cluster.kill(home);
    cluster.sim.forget(home, &name(KEY));
    cluster.sim.start(home);
    assert_eq!(broken(convergence::check(&cluster.sim, cluster.ring())), Some("I7 convergence"));
}

#[test]
fn a_hint_that_is_kept_in_the_end_is_found() {
    let mut cluster = cluster(5).start();
    let homes = cluster.homes(KEY);
    cluster.kill(homes[2]);
    cluster.through(homes[0]).put(KEY, VALUE);
    let keeper = *cluster.hosts().iter().find(|host| !cluster.hinted(**host, KEY, homes[2]).is_empty()).unwrap();
    cluster.sim.cut(keeper, homes[2]);
    cluster.sim.cut(homes[2], keeper);
    cluster.sim.start(homes[2]);
    cluster.until("the others bring it", |cluster| cluster.copied(homes[2], KEY) == [VALUE]);
    assert_eq!(broken(convergence::check(&cluster.sim, cluster.ring())), Some("I11 hints are delivered"));
    cluster.heal();
    cluster.settle();
    assert_eq!(convergence::check(&cluster.sim, cluster.ring()), Ok(()));
}

#[test]
fn a_node_that_is_over_one_of_its_bounds_is_found() {
    let cluster = cluster(3).tune(|options| options.pace.hint_bytes = 1_000).start();
    let [host, other] = [cluster.hosts()[0], cluster.hosts()[1]];
    let status = cluster.node(host).status(cluster.sim.clock(host));
    let config = cluster.sim.options().config();
    let to = cluster.id(other);
    let under_way =
        |partition| TransferStatus { partition: dynamo_core::id::PartitionId(partition), to, objects: 1, bytes: 1, done: false };
    assert_eq!(bounds::check(&cluster.sim, host, &status), Ok(()));
    for (over, expected) in [(0, None), (1, Some("I16 bounds"))] {
        let mut requests = status.clone();
        requests.requests = config.requests_max + over;
        assert_eq!(broken(bounds::check(&cluster.sim, host, &requests)), expected, "requests");
        let mut transfers = status.clone();
        transfers.transfers = (0..(config.transfers_max + over) as u32).map(under_way).collect();
        assert_eq!(broken(bounds::check(&cluster.sim, host, &transfers)), expected, "transfers");
        let mut hints = status.clone();
        hints.hints.insert(to, (1, 2_000 + 100 * over as u64));
        assert_eq!(broken(bounds::check(&cluster.sim, host, &hints)), expected, "hints");
    }
}
