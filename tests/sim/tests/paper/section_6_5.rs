//! 6.5: balancing background against foreground tasks.

use std::time::Duration;

use dynamo_core::request::{Operation, Request};
use dynamo_sim::options::Options;
use dynamo_sim::scenario::{Cluster, cluster, name};
use dynamo_sim::schedule::HostId;

use super::SECOND;

const KEYS: usize = 300;

/// A cluster whose answers take longer than the paper's 50 ms, after ten megabytes were written that a node missed.
fn slow_cluster(p99_max: Duration, bytes_min: u64, tune: impl FnOnce(&mut Options)) -> (Cluster, HostId) {
    let slow = |options: &mut Options| {
        options.network.delay = Duration::from_millis(40);
        options.background.p99_max = p99_max;
        options.background.bytes_min = bytes_min;
        options.background.bytes_max = 16 << 20;
    };
    let mut cluster = cluster(5).tune(slow).tune(tune).start();
    let away = cluster.hosts()[4];
    cluster.kill(away);
    let host = cluster.hosts()[0];
    for key in 0..KEYS {
        cluster.through(host).put(&format!("key {key}"), &"milk ".repeat(13_000));
    }
    ask_for(&mut cluster, SECOND * 5);
    cluster.start(away);
    (cluster, away)
}

/// Clients of every node get keys, 200 in a second from each.
fn ask_for(cluster: &mut Cluster, duration: Duration) {
    ask_others(cluster, None, duration);
}

/// Clients of every node but one, for keys that are not there either: nobody forwards a request to it.
fn ask_others(cluster: &mut Cluster, except: Option<HostId>, duration: Duration) {
    let elsewhere = |key: &usize| except.is_none_or(|except| !cluster.homes(&format!("key {key}")).contains(&except));
    let keys: Vec<usize> = (0..KEYS).filter(elsewhere).take(10).collect();
    let end = cluster.sim.now() + duration;
    while cluster.sim.now() < end {
        for host in cluster.sim.running().into_iter().filter(|host| Some(*host) != except) {
            for key in &keys {
                let (name, quorum) = (name(&format!("key {key}")), Default::default());
                cluster.sim.request(host, Request { name, operation: Operation::Get, quorum, request_key: None, timeout_ms: 0 });
            }
        }
        cluster.run(Duration::from_millis(50));
    }
}

fn hints(cluster: &Cluster) -> usize {
    cluster.sim.running().into_iter().map(|host| cluster.sim.disk(host).hints().count()).sum()
}

/// The 99th percentile of what clients see is compared with a threshold; above it background work gives way.
#[test]
fn background_work_gives_way_when_the_foreground_is_slow() {
    let only_hints = |options: &mut Options| options.pace.anti_entropy = SECOND * 3_600;
    for (threshold, gives_way) in [(Duration::from_millis(50), true), (SECOND * 3_600, false)] {
        let (mut cluster, _) = slow_cluster(threshold, 64 << 10, only_hints);
        let before = hints(&cluster);
        assert!(before >= KEYS / 3, "{before} hints");
        ask_for(&mut cluster, SECOND * 20);
        let left = hints(&cluster);
        assert_eq!(left > before / 2, gives_way, "{left} of {before} hints are left, the threshold is {threshold:?}");
        let deferred = cluster.count(|counters| counters.background_hints_deferred);
        assert!(!gives_way || deferred > 0, "{deferred} deferred");
    }
}

/// A node that comes back has no clients at first, and misses much. It asks no faster than those whom it asks can bear.
#[test]
fn a_node_without_clients_gives_way_to_those_of_the_nodes_that_it_asks() {
    let no_hints = |options: &mut Options| options.pace.hint_bytes = 1;
    for (threshold, gives_way) in [(Duration::from_millis(50), true), (SECOND * 3_600, false)] {
        let (mut cluster, away) = slow_cluster(threshold, 64 << 10, no_hints);
        let missing = |cluster: &Cluster| {
            let keys = (0..KEYS).map(|key| format!("key {key}")).filter(|key| cluster.homes(key).contains(&away));
            keys.filter(|key| cluster.copy(away, key).is_none()).count()
        };
        let before = missing(&cluster);
        ask_others(&mut cluster, Some(away), SECOND * 15);
        let left = missing(&cluster);
        assert!(before >= KEYS / 3, "{before} keys were missing");
        assert_eq!(left > before / 2, gives_way, "{left} of {before} keys are missing, the threshold is {threshold:?}");
        cluster.run(SECOND * 120);
        assert_eq!(missing(&cluster), 0, "without clients there is nobody to give way to");
    }
}

/// It gives way to clients, and is never starved by them: hints, transfers and replica synchronization all come to an end
/// while every request is too slow.
#[test]
fn background_work_is_never_starved() {
    // What does not fit is left to synchronization.
    let few_hints = |options: &mut Options| options.pace.hint_bytes = 1 << 20;
    let (mut cluster, away) = slow_cluster(Duration::from_millis(50), 256 << 10, few_hints);
    let joined = cluster.join();
    let bound = cluster.sim.now() + SECOND * 240;
    let moved = |cluster: &Cluster| {
        let ring = cluster.ring();
        ring.partitions_of(cluster.id(joined)) > 0 && ring.moving().count() == 0
    };
    let missing = |cluster: &Cluster| {
        let keys = (0..KEYS).map(|key| format!("key {key}")).filter(|key| cluster.homes(key).contains(&away));
        keys.filter(|key| cluster.copy(away, key).is_none()).count()
    };
    assert!(hints(&cluster) > 0 && missing(&cluster) > hints(&cluster), "{} hints", hints(&cluster));
    while hints(&cluster) + missing(&cluster) > 0 || !moved(&cluster) {
        let (hints, missing, moved) = (hints(&cluster), missing(&cluster), moved(&cluster));
        assert!(cluster.sim.now() < bound, "{hints} hints, {missing} keys are missing, moved: {moved}");
        ask_for(&mut cluster, SECOND);
    }
    for host in [away, joined] {
        let background = cluster.node(host).background(cluster.sim.clock(host));
        assert!(background.p99 > Some(Duration::from_millis(50)), "{background:?}");
        assert_eq!(background.bytes_per_second, 256 << 10, "it still gives way");
    }
    assert!(cluster.count(|counters| counters.background_transfers_deferred) > 0);
    assert!(cluster.count(|counters| counters.background_anti_entropy_deferred) > 0);
}
