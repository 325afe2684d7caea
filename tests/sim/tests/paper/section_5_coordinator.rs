//! Section 5, on who coordinates a write.

use dynamo_sim::scenario::{Cluster, cluster};
use dynamo_sim::schedule::HostId;

use super::SECOND;

/// Who coordinated the version that a host holds.
fn coordinator(cluster: &Cluster, host: HostId, key: &str) -> HostId {
    let copy = cluster.copy(host, key).expect("the host has a copy");
    let (dot, _) = copy.values().next().expect("the copy has a version");
    cluster.sim.host_of(dot.actor.node).expect("a coordinator is a node")
}

/// A write is coordinated by the node that answered the preceding read fastest, which the context names. Deviation: a home
/// replica that is asked coordinates itself; so this is about writes through any other node.
#[test]
fn a_write_is_coordinated_by_the_node_that_answered_the_preceding_read_fastest() {
    let mut cluster = cluster(6).start();
    let (homes, others) = (cluster.homes("alice"), cluster.fallbacks("alice"));
    cluster.through(homes[2]).put("alice", "milk");
    cluster.settle();
    // This reader cannot reach the first home replica, so the second one serves it, and is the fastest to do so.
    cluster.split(&others[..1], &homes[..1]);
    let read = cluster.through(others[0]).get("alice");
    cluster.heal();
    cluster.run(SECOND * 5);

    cluster.through(others[1]).put_after(&read.context, "alice", "tea");
    assert_eq!(coordinator(&cluster, homes[1], "alice"), homes[1], "and not the first, which everybody can reach");
    cluster.settle();
    let written = cluster.through(others[1]).get("alice");
    cluster.through(others[2]).put_after(&written.context, "alice", "beer");
    assert_eq!(coordinator(&cluster, homes[0], "alice"), homes[0], "the first had served this read");

    cluster.settle();
    cluster.kill(homes[1]);
    let context = cluster.through(homes[0]).get("alice").context;
    cluster.through(homes[2]).put_after(&context, "alice", "wine");
    assert_eq!(coordinator(&cluster, homes[2], "alice"), homes[2], "a home replica that is asked coordinates itself");
    cluster.through(others[1]).put_after(&read.context, "alice", "water");
    let copied = cluster.copied(homes[0], "alice");
    assert!(copied.contains(&"water".to_owned()), "the one that is named is away, another takes it: {copied:?}");
}

/// Which is why a reader meets its own write, without waiting for a second replica: it reads where it wrote.
#[test]
fn a_read_through_the_coordinator_of_a_write_meets_it() {
    let mut cluster = cluster(6).quorum((3, 1, 1)).start();
    let (homes, others) = (cluster.homes("alice"), cluster.fallbacks("alice"));
    cluster.through(homes[0]).put("alice", "before");
    cluster.settle();
    cluster.split(&others[..1], &homes[..1]);
    let read = cluster.through(others[0]).get("alice");
    // Nothing that the second home replica says arrives at the other two.
    for silent in [homes[0], homes[2]] {
        cluster.sim.cut(homes[1], silent);
    }
    cluster.through(others[1]).put_after(&read.context, "alice", "after");
    assert_eq!(cluster.through(others[0]).get("alice").values, ["after"], "served by the coordinator of the write");
    assert_eq!(cluster.through(homes[1]).get("alice").values, ["after"]);
    assert_eq!(cluster.through(homes[0]).get("alice").values, ["before"], "elsewhere it has not arrived yet");
}
