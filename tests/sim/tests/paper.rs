//! The Dynamo paper (G. DeCandia et al., "Dynamo: Amazon's Highly Available Key-value Store", SOSP 2007), section by section:
//! each claim in our words, and a test that shows it on a cluster of real nodes in simulated time.
//!
//! Where a claim is not here, it is not about a behaviour, or it is deliberately not so, or the code does not have it yet.

use std::time::Duration;

use dynamo_sim::scenario::cluster;

#[path = "paper/section_4_6.rs"]
mod section_4_6_hinted_handoff;
#[path = "paper/section_5_coordinator.rs"]
mod section_5_coordinator;
#[path = "paper/section_6_2.rs"]
mod section_6_2;
#[path = "paper/section_6_buckets.rs"]
mod section_6_buckets;

const SECOND: Duration = Duration::from_secs(1);

mod section_3_related_work {
    use super::*;

    /// A zero-hop hash table: every node knows enough to reach a key's replicas directly, without a route over other nodes.
    #[test]
    fn a_request_takes_one_hop_from_an_outsider_and_none_from_a_replica() {
        let mut cluster = cluster(6).start();
        let homes = cluster.homes("alice");
        for host in cluster.hosts() {
            let before = cluster.count(|counters| counters.requests_forwarded);
            cluster.through(host).get("alice");
            let hops = cluster.count(|counters| counters.requests_forwarded) - before;
            assert_eq!(hops, u64::from(!homes.contains(&host)), "host {}", host.0);
            cluster.through(host).put("alice", "milk");
            let hops = cluster.count(|counters| counters.requests_forwarded) - before - hops;
            assert_eq!(hops, u64::from(!homes.contains(&host)), "a put through host {}", host.0);
        }
    }

    /// Available while disconnected, reconciled afterwards: whoever can be reached takes the write.
    #[test]
    fn a_write_is_taken_when_every_home_replica_is_away() {
        let mut cluster = cluster(6).start();
        let (homes, others) = (cluster.homes("alice"), cluster.fallbacks("alice"));
        for home in &homes {
            cluster.kill(*home);
        }
        cluster.through(others[0]).put("alice", "milk");
        assert_eq!(cluster.through(others[0]).get("alice").values, ["milk"]);
        for home in &homes {
            cluster.start(*home);
        }
        cluster.settle();
        for home in homes {
            assert_eq!(cluster.copied(home, "alice"), ["milk"], "home replica {}", home.0);
        }
    }
}

mod section_4_1_interface {
    use super::*;
    use bytes::Bytes;
    use dynamo_core::request::Failure;
    use dynamo_sim::scenario::name;

    /// get returns one object, or all versions in conflict, with one context; a put with it replaces them all.
    #[test]
    fn a_get_returns_every_conflicting_version_and_one_context() {
        let mut cluster = cluster(6).start();
        let (left, right) = cluster.put_apart("alice", ("red", "blue"), Duration::ZERO);
        let got = cluster.through(left[1]).get("alice");
        assert_eq!(got.values, ["blue", "red"]);
        cluster.through(right[1]).put_after(&got.context, "alice", "purple");
        assert_eq!(cluster.through(left[0]).get("alice").values, ["purple"]);
    }

    /// The context is opaque and belongs to its object, so that its validity can be checked.
    #[test]
    fn a_context_is_refused_when_it_is_damaged_made_up_or_another_keys() {
        let mut cluster = cluster(3).start();
        let host = cluster.hosts()[0];
        cluster.through(host).put("alice", "milk");
        cluster.through(host).put("bob", "tea");
        let context = cluster.through(host).get("alice").context;
        let mut damaged = context.to_vec();
        damaged[5] ^= 1;
        let cases = [
            ("another key's", cluster.through(host).get("bob").context),
            ("damaged", damaged.into()),
            ("cut off", context.slice(..context.len() - 1)),
            ("made up", Bytes::from_static(b"anything at all")),
        ];
        for (what, context) in cases {
            let refused = cluster.through(host).try_put(&context, "alice", "beer");
            assert!(matches!(refused, Err(Failure::BadContext(_))), "{what}: {refused:?}");
        }
        assert_eq!(cluster.through(host).get("alice").values, ["milk"], "nothing was written");
    }

    /// Key and object are opaque bytes; the MD5 of the key is the 128-bit place that decides who holds it.
    #[test]
    fn the_md5_of_the_key_decides_who_holds_it() {
        let mut cluster = cluster(6).partitions(64).start();
        // printf '\0\0\0\5cartsalice' | md5sum
        let position = name("alice").position();
        assert_eq!(format!("{:032x}", position.0), "eeaf733f2d58ad489a916a1379936f2b");
        let (homes, hosts) = (cluster.homes("alice"), cluster.hosts());
        assert_eq!(u128::from(cluster.partition("alice").0), position.0 >> 122, "the leading six bits");
        cluster.through(hosts[0]).put("alice", "milk \0 and \u{ff}");
        cluster.settle();
        for host in hosts {
            assert_eq!(cluster.copy(host, "alice").is_some(), homes.contains(&host), "host {}", host.0);
        }
    }
}

mod section_4_2_partitioning {
    use super::*;
    use dynamo_core::id::{ClusterId, NodeId};
    use dynamo_core::rebalance::{Members, first_ring};
    use dynamo_core::ring::{Member, Ring};
    use std::collections::BTreeMap;

    /// How many replicas each node gained (or lost, below zero) between two rings.
    fn gains(before: &Ring, after: &Ring) -> BTreeMap<NodeId, i64> {
        let nodes = before.members.keys().chain(after.members.keys());
        nodes.map(|node| (*node, after.partitions_of(*node) as i64 - before.partitions_of(*node) as i64)).collect()
    }

    /// Replicas that lie on a node that did not hold them before.
    fn moved(before: &Ring, after: &Ring) -> usize {
        let pairs = before.placements.iter().zip(&after.placements);
        pairs.map(|(old, new)| new.replicas.iter().filter(|node| !old.replicas.contains(node)).count()).sum()
    }

    /// A node's arrival or departure touches only what it takes or leaves behind.
    #[test]
    fn only_what_a_newcomer_takes_or_a_leaver_held_is_moved() {
        let mut cluster = cluster(5).partitions(64).start();
        let before = cluster.ring().clone();
        let newcomer = cluster.join();
        cluster.settle();
        let grown = cluster.ring().clone();
        assert_eq!(moved(&before, &grown), grown.partitions_of(cluster.id(newcomer)), "moved by a join");

        let leaver = cluster.hosts()[0];
        let held = grown.partitions_of(cluster.id(leaver));
        cluster.leave(leaver);
        cluster.settle();
        assert_eq!(moved(&grown, cluster.ring()), held, "moved by a leave");
    }

    /// With many tokens a node, a leaver's load spreads evenly over the rest, and a newcomer takes about the same from each.
    #[test]
    fn load_comes_from_all_and_goes_to_all_evenly() {
        let mut cluster = cluster(6).partitions(64).start();
        let before = cluster.ring().clone();
        let newcomer = cluster.join();
        cluster.settle();
        let grown = cluster.ring().clone();
        let mut losses = gains(&before, &grown);
        losses.remove(&cluster.id(newcomer));
        let (least, most) = (losses.values().min().unwrap(), losses.values().max().unwrap());
        assert!(*most < 0 && most - least <= 1, "each gave about the same: {losses:?}");

        let leaver = cluster.hosts()[0];
        let id = cluster.id(leaver);
        cluster.leave(leaver);
        cluster.settle();
        let mut gained = gains(&grown, cluster.ring());
        gained.remove(&id);
        let (least, most) = (gained.values().min().unwrap(), gained.values().max().unwrap());
        assert!(*least > 0 && most - least <= 1, "each took about the same: {gained:?}");
    }

    /// The number of tokens follows a host's capacity.
    #[test]
    fn a_node_of_twice_the_capacity_holds_twice_as_much() {
        let weights = [1, 1, 1, 1, 2];
        let member = |weight| Member { zone: "z".into(), weight };
        let members: Members = (1..).map(|id| NodeId([id; 16])).zip(weights.map(member)).collect();
        let ring = first_ring(ClusterId([1; 16]), 8, 3, &members).unwrap();
        let held: Vec<usize> = members.keys().map(|node| ring.partitions_of(*node)).collect();
        assert_eq!(held, [128, 128, 128, 128, 256]);
    }
}

mod section_4_3_replication {
    use super::*;
    use dynamo_core::preference_list;
    use std::collections::BTreeSet;

    /// The preference list has more than N nodes, to allow for failures, and names distinct physical nodes only.
    #[test]
    fn a_preference_list_has_more_than_n_nodes_and_none_twice() {
        let cluster = cluster(6).partitions(64).start();
        for (partition, placement) in cluster.ring().partitions() {
            let list = preference_list::of(cluster.ring(), partition);
            assert_eq!(list[..3], placement.replicas[..], "the replicas come first");
            assert_eq!(list.iter().collect::<BTreeSet<_>>().len(), 6, "partition {partition}");
        }
    }

    /// Every node can tell the preference list of every key.
    #[test]
    fn every_node_tells_the_same_preference_list_for_every_key() {
        let cluster = cluster(5).partitions(64).start();
        for (partition, _) in cluster.ring().partitions() {
            let lists: BTreeSet<_> = cluster
                .hosts()
                .into_iter()
                .map(|host| preference_list::of(cluster.node(host).ring().unwrap(), partition))
                .collect();
            assert_eq!(lists.len(), 1, "partition {partition}");
        }
    }
}

mod section_4_4_data_versioning {
    use super::*;
    use dynamo_core::id::{Incarnation, NodeId};
    use dynamo_core::version::{Actor, CausalContext, Dot, Object, Value};
    use std::collections::BTreeSet;

    /// Syntactic reconciliation: a version that descends from another replaces it, wherever it was written.
    #[test]
    fn a_version_replaces_the_one_it_descends_from() {
        let mut cluster = cluster(5).start();
        let homes = cluster.homes("alice");
        for (turn, value) in ["one", "two", "three"].into_iter().enumerate() {
            let context = cluster.through(homes[0]).get("alice").context;
            cluster.through(homes[turn]).put_after(&context, "alice", value);
        }
        assert_eq!(cluster.through(homes[0]).get("alice").values, ["three"]);
    }

    /// Semantic reconciliation: carts that were changed on both sides of a split are merged by the client. An item that was added
    /// is never lost; one that was removed on one side can come back.
    #[test]
    fn an_added_item_is_never_lost_and_a_removed_one_can_resurface() {
        let mut cluster = cluster(6).start();
        let hosts = cluster.hosts();
        let (left, right) = hosts.split_at(3);
        cluster.through(left[0]).put("cart", "bread,milk");
        cluster.settle();
        let context = cluster.through(left[0]).get("cart").context;
        cluster.split(left, right);
        cluster.through(left[0]).put_after(&context, "cart", "bread,milk,tea");
        cluster.through(right[0]).put_after(&context, "cart", "bread");
        cluster.heal();
        cluster.settle();

        let got = cluster.through(left[0]).get("cart");
        let merged: BTreeSet<&str> = got.values.iter().flat_map(|cart| cart.split(',')).collect();
        let merged = merged.into_iter().collect::<Vec<_>>().join(",");
        cluster.through(right[0]).put_after(&got.context, "cart", &merged);
        assert_eq!(cluster.through(left[0]).get("cart").values, ["bread,milk,tea"], "tea stayed, and milk came back");
    }

    /// The paper's figure: D1 and D2 by node Sx, then D3 by Sy and D4 by Sz, both from D2, and D5 by Sx that reconciles them.
    #[test]
    fn the_figures_versions_d1_to_d5_relate_as_drawn() {
        let mut cluster = cluster(5).start();
        let [sx, sy, sz] = cluster.homes("cart")[..] else { panic!("three home replicas") };
        let get = |cluster: &mut dynamo_sim::scenario::Cluster| cluster.through(sx).get("cart");

        let d1 = cluster.through(sx).put("cart", "D1");
        cluster.through(sx).put_after(&d1.context, "cart", "D2");
        let d2 = get(&mut cluster);
        assert_eq!(d2.values, ["D2"], "D2 descends from D1");

        cluster.through(sy).put_after(&d2.context, "cart", "D3");
        cluster.through(sz).put_after(&d2.context, "cart", "D4");
        let branches = get(&mut cluster);
        assert_eq!(branches.values, ["D3", "D4"], "neither descends from the other, both from D2");

        cluster.through(sx).put_after(&branches.context, "cart", "D5");
        cluster.settle();
        let d5 = cluster.copy(sx, "cart").unwrap();
        assert_eq!(cluster.copied(sz, "cart"), ["D5"]);
        let actors: BTreeSet<NodeId> = d5.context().0.keys().map(|actor| actor.node).collect();
        assert_eq!(actors, [sx, sy, sz].map(|host| cluster.id(host)).into(), "its clock has an entry of each");
    }

    fn actor(id: u8) -> Actor {
        Actor { node: NodeId([id; 16]), incarnation: Incarnation(1) }
    }

    /// An object with these writes, each knowing what it names.
    fn object(writes: &[(u8, u64, &[(u8, u64)])]) -> Object {
        let mut object = Object::default();
        for (by, counter, seen) in writes {
            let counters = seen.iter().map(|(by, counter)| (actor(*by), *counter)).collect();
            let seen = CausalContext(counters, Default::default());
            object.update(&seen, Dot { actor: actor(*by), counter: *counter }, Value { data: Some("v".into()), written_ms: 0 });
        }
        object
    }

    /// If every counter of one clock is at most that of the other, it is an ancestor; else the two conflict.
    #[test]
    fn one_history_includes_the_other_or_they_conflict() {
        let first = object(&[(1, 1, &[])]);
        let second = object(&[(1, 1, &[]), (1, 2, &[(1, 1)])]);
        let left = object(&[(1, 1, &[]), (2, 5, &[(1, 1)])]);
        let right = object(&[(1, 1, &[]), (3, 7, &[(1, 1)])]);
        let merged = object(&[(1, 1, &[]), (2, 5, &[(1, 1)]), (3, 7, &[(1, 1)]), (1, 2, &[(1, 1), (2, 5), (3, 7)])]);
        let cases = [
            (&first, &first, (true, true)),
            (&first, &second, (false, true)),
            (&second, &first, (true, false)),
            (&left, &right, (false, false)),
            (&merged, &left, (true, false)),
            (&right, &merged, (false, true)),
        ];
        for (one, other, includes) in cases {
            assert_eq!((one.includes(other), other.includes(one)), includes, "{one:?}\n{other:?}");
        }
    }

    /// An update names, by its context, the version that it updates; what it had not seen stays beside it.
    #[test]
    fn an_old_context_replaces_only_what_it_had_seen() {
        let mut cluster = cluster(5).start();
        let homes = cluster.homes("alice");
        cluster.through(homes[0]).put("alice", "first");
        let old = cluster.through(homes[0]).get("alice").context;
        cluster.through(homes[1]).put_after(&old, "alice", "second");
        cluster.through(homes[2]).put_after(&old, "alice", "third");
        assert_eq!(cluster.through(homes[0]).get("alice").values, ["second", "third"]);
    }

    /// Deviation: the paper drops the oldest pair of a clock past a threshold. A clock that forgot a pair no longer says that its
    /// holder saw that version: what was replaced stands as a conflict again. So no pair is ever dropped here.
    #[test]
    fn a_truncated_clock_would_bring_a_replaced_version_back() {
        let writes: Vec<(u8, u64, Vec<(u8, u64)>)> = (1..=12).map(|by| (by, u64::from(by), vec![])).collect();
        let writes: Vec<(u8, u64, &[(u8, u64)])> = writes.iter().map(|(by, counter, seen)| (*by, *counter, &seen[..])).collect();
        let twelve = object(&writes);
        let write = |seen: &CausalContext| {
            let mut object = twelve.clone();
            object.update(seen, Dot { actor: actor(20), counter: 1 }, Value { data: Some("merged".into()), written_ms: 0 });
            object.values().count()
        };
        let whole = twelve.context();
        assert_eq!((whole.0.len(), write(&whole)), (12, 1), "twelve writers, all of them covered");
        let truncated = CausalContext(whole.0.into_iter().skip(2).collect(), whole.1);
        assert_eq!(write(&truncated), 3, "two replaced versions are back");
    }
}

mod section_4_5_get_and_put {
    use super::*;

    /// A node outside of the preference list's first N hands the request to one of them.
    #[test]
    fn a_node_that_holds_no_replica_forwards_to_one_that_does() {
        let mut cluster = cluster(6).start();
        let (homes, outsider) = (cluster.homes("alice"), cluster.fallbacks("alice")[0]);
        cluster.through(outsider).put("alice", "milk");
        cluster.settle();
        assert_eq!(cluster.copy(outsider, "alice"), None);
        let coordinator = cluster.copy(homes[0], "alice").unwrap().context().0.into_iter().next().unwrap().0.node;
        assert!(homes.iter().any(|home| cluster.id(*home) == coordinator), "a home replica made the version");
    }

    /// Requests go to the first N healthy nodes of the list: those that are down cost nothing.
    #[test]
    fn a_node_that_is_down_is_skipped_without_waiting_for_it() {
        let mut cluster = cluster(5).start();
        let homes = cluster.homes("alice");
        cluster.kill(homes[1]);
        let begun = cluster.sim.now();
        let written = cluster.through(homes[0]).put("alice", "milk");
        let got = cluster.through(homes[0]).get("alice");
        assert!(cluster.sim.now().since(begun) < cluster.sim.options().pace.hint_after, "nobody was waited for");
        for nodes in [written.evidence.nodes, got.evidence.nodes] {
            assert!(nodes.len() >= 2 && !nodes.contains(&cluster.id(homes[1])), "{nodes:?}");
        }
    }

    /// With R + W > N, a read meets every write that was acknowledged before it.
    #[test]
    fn with_r_plus_w_above_n_a_read_sees_the_last_write() {
        for quorum in [(3, 2, 2), (3, 1, 3), (3, 3, 1), (1, 1, 1)] {
            let mut cluster = cluster(5).quorum(quorum).start();
            for key in 0..12 {
                let key = format!("key {key}");
                let homes = cluster.homes(&key);
                for (turn, home) in homes.iter().enumerate() {
                    let context = cluster.through(*home).get(&key).context;
                    let value = format!("{turn}");
                    cluster.through(*home).put_after(&context, &key, &value);
                    let reader = homes[(turn + 1) % homes.len()];
                    assert_eq!(cluster.through(reader).get(&key).values, [value], "{quorum:?} {key}");
                }
            }
        }
        // Where it is not above N, a read may miss a write that nobody else has heard of.
        let mut cluster = cluster(5).quorum((3, 1, 1)).start();
        let homes = cluster.homes("alice");
        cluster.through(homes[0]).put("alice", "before");
        cluster.settle();
        let context = cluster.through(homes[1]).get("alice").context;
        for silent in [homes[0], homes[2]] {
            cluster.sim.cut(homes[1], silent);
        }
        cluster.through(homes[1]).put_after(&context, "alice", "after");
        assert_eq!(cluster.through(homes[1]).get("alice").values, ["after"]);
        assert_eq!(cluster.through(homes[0]).get("alice").values, ["before"]);
    }

    /// The coordinator writes locally, sends to the others and answers when W have it; the last may have it later.
    #[test]
    fn a_put_is_answered_at_w_and_reaches_the_slow_replica_later() {
        let mut cluster = cluster(3).start();
        let homes = cluster.homes("alice");
        cluster.sim.pause(homes[2], SECOND * 2);
        let begun = cluster.sim.now();
        cluster.through(homes[0]).put("alice", "milk");
        assert!(cluster.sim.now().since(begun) < SECOND / 2);
        assert_eq!(cluster.copy(homes[2], "alice"), None, "the third stands still");
        cluster.settle();
        assert_eq!(cluster.copied(homes[2], "alice"), ["milk"]);
    }

    /// A get asks all replicas, waits for R, and returns every version that no other descends from.
    #[test]
    fn a_get_gathers_unrelated_versions_from_the_replicas_it_asks() {
        let mut cluster = cluster(3).quorum((3, 3, 1)).start();
        let homes = cluster.homes("alice");
        for at in 0..3 {
            let others: Vec<_> = homes.iter().copied().filter(|home| *home != homes[at]).collect();
            cluster.split(&homes[at..=at], &others);
            cluster.split(&others[..1], &others[1..]);
        }
        for (home, value) in homes.iter().zip(["blue", "green", "red"]) {
            cluster.through(*home).put("alice", value);
            assert_eq!(cluster.copied(*home, "alice"), [value]);
        }
        cluster.heal();
        cluster.until("links are back", |cluster| {
            cluster.sim.is_linked(homes[0], homes[1]) && cluster.sim.is_linked(homes[0], homes[2])
        });
        cluster.until("the answers' way too", |cluster| {
            cluster.sim.is_linked(homes[1], homes[0]) && cluster.sim.is_linked(homes[2], homes[0])
        });
        assert_eq!(cluster.through(homes[0]).get("alice").values, ["blue", "green", "red"]);
    }
}

mod section_4_7_replica_synchronization {
    use super::*;
    use dynamo_sim::scenario::Cluster;

    const KEYS: usize = 200;

    fn key(at: usize) -> String {
        format!("key {at}")
    }

    /// A cluster that keeps no hints, so that only synchronization can repair, with many equal objects.
    fn filled() -> Cluster {
        let mut cluster = cluster(4).tune(|options| options.pace.hint_bytes = 0).start();
        let host = cluster.hosts()[0];
        for at in 0..KEYS {
            cluster.through(host).put(&key(at), "old");
        }
        cluster.settle();
        cluster
    }

    /// Lets some keys change while a node is away. None of them is read afterwards.
    fn diverge(cluster: &mut Cluster, keys: usize) -> dynamo_sim::schedule::HostId {
        let away = cluster.homes(&key(0))[0];
        cluster.kill(away);
        let others = cluster.sim.running();
        for at in (0..KEYS).filter(|at| cluster.homes(&key(*at)).contains(&away)).take(keys).collect::<Vec<_>>() {
            cluster.through(others[0]).put(&key(at), "new");
        }
        away
    }

    fn differences(cluster: &Cluster) -> u64 {
        cluster.count(|counters| counters.anti_entropy_differences)
    }

    /// Equal roots mean that there is nothing to do.
    #[test]
    fn equal_replicas_compare_roots_and_repair_nothing() {
        let mut cluster = filled();
        cluster.run(SECOND * 5);
        let (exchanges, found) = (cluster.count(|counters| counters.anti_entropy_exchanges), differences(&cluster));
        cluster.run(SECOND * 30);
        assert!(cluster.count(|counters| counters.anti_entropy_exchanges) > exchanges + 100);
        assert_eq!(differences(&cluster), found);
    }

    /// Different roots are followed down to the keys that differ, which are then exchanged.
    #[test]
    fn a_replica_that_missed_writes_is_brought_up_to_date() {
        let mut cluster = filled();
        let away = diverge(&mut cluster, 5);
        assert_eq!(cluster.copied(away, &key(0)), ["old"]);
        cluster.start(away);
        cluster.settle();
        assert_eq!(cluster.copied(away, &key(0)), ["new", "old"], "a blind put is a sibling");
        assert_eq!(cluster.count(|counters| counters.read_repairs + counters.hints_delivered), 0);
    }

    /// Each node has a tree for each key range that it hosts; two nodes compare the roots of the ranges they share.
    #[test]
    fn there_is_one_tree_for_each_range_that_a_node_hosts() {
        let cluster = filled();
        for (partition, placement) in cluster.ring().partitions() {
            let trees =
                cluster.hosts().into_iter().map(|host| (cluster.id(host), cluster.node(host).partition_digest(partition)));
            let first = cluster.node(cluster.sim.host_of(placement.replicas[0]).unwrap()).partition_digest(partition);
            for (node, tree) in trees {
                let expected = if placement.involves(node) { first } else { Default::default() };
                assert_eq!(tree, expected, "partition {partition} at {node:?}");
            }
        }
    }

    /// The cost follows what differs, not what is held.
    #[test]
    fn few_differences_among_many_objects_move_few_objects() {
        for keys in [1, 4, 16] {
            let mut cluster = filled();
            let away = diverge(&mut cluster, keys);
            let before = differences(&cluster);
            cluster.start(away);
            cluster.settle();
            let (found, keys) = (differences(&cluster) - before, keys as u64);
            // Both replicas may come with it at the same time, and each counts what it sends and what it wants.
            assert!((keys..=keys * 8).contains(&found), "{keys} of {KEYS} keys differed, {found} were exchanged");
        }
    }
}

mod section_4_8_membership_and_failure_detection {
    use super::*;
    use dynamo_core::id::Epoch;
    use dynamo_sim::simulation::Crash;
    use std::collections::BTreeSet;

    /// An outage is rarely a departure: it moves no partition and repairs nothing for good.
    #[test]
    fn an_outage_moves_no_partition() {
        let mut cluster = cluster(5).start();
        let host = cluster.hosts()[0];
        for key in 0..20 {
            cluster.through(host).put(&format!("key {key}"), "milk");
        }
        let ring = cluster.ring().clone();
        cluster.kill(host);
        cluster.run(SECOND * 300);
        assert_eq!(cluster.ring(), &ring);
        assert_eq!(cluster.count(|counters| counters.transfer_objects_sent), 0);
    }

    /// Members come and go by an explicit request only, and the nodes keep the change on stable storage.
    #[test]
    fn a_change_of_members_is_explicit_and_survives_the_loss_of_power() {
        let mut cluster = cluster(3).start();
        let standby = cluster.sim.add_host();
        cluster.sim.start(standby);
        cluster.run(SECOND * 30);
        assert_eq!(cluster.ring().members.len(), 3, "a node that only appears is no member");

        let joined = cluster.join();
        cluster.settle();
        let ring = cluster.ring().clone();
        assert!(ring.members.contains_key(&cluster.id(joined)) && ring.members.len() == 4);
        let members: Vec<_> = cluster.hosts();
        for host in &members {
            cluster.sim.crash(*host, Crash::PowerLoss);
        }
        for host in &members {
            cluster.sim.start(*host);
            // Its epoch is what the paper's time of issue is for: which change came before which.
            assert_eq!(cluster.node(*host).ring().map(|held| held.hash()), Some(ring.hash()), "host {}", host.0);
        }
    }

    /// Changes are a history, which gossip spreads: who was away learns it from whomever it meets.
    #[test]
    fn a_node_that_was_away_learns_the_newest_ring_by_gossip() {
        let mut cluster = cluster(5).start();
        let away = cluster.hosts()[4];
        cluster.kill(away);
        let mut ring = cluster.ring().clone();
        for _ in 0..3 {
            ring = ring.successor(|_| ());
            assert!(cluster.sim.propose(cluster.hosts()[0], &ring), "offered to one node only");
            cluster.run(SECOND);
        }
        cluster.sim.start(away);
        assert_eq!(cluster.node(away).ring().map(|held| held.epoch), Some(Epoch(1)));
        cluster.run(SECOND * 5);
        for host in cluster.hosts() {
            assert_eq!(cluster.node(host).ring().map(|held| held.hash()), Some(ring.hash()), "host {}", host.0);
        }
    }

    /// Seeds are known to all by configuration; through them all nodes find each other.
    #[test]
    fn nodes_that_know_only_the_seeds_find_everyone() {
        let cluster = cluster(7).start();
        for host in cluster.hosts() {
            let met: BTreeSet<_> = cluster.node(host).addresses().into_keys().collect();
            let others: BTreeSet<_> =
                cluster.hosts().into_iter().filter(|other| *other != host).map(|other| cluster.id(other)).collect();
            assert_eq!(met, others, "host {}", host.0);
        }
    }

    /// Failure detection is local: B is down for A when B does not answer A. A then uses others, and goes on trying B.
    #[test]
    fn down_is_one_nodes_opinion_and_ends_when_the_other_answers() {
        let mut cluster = cluster(5).start();
        let homes = cluster.homes("alice");
        let [a, b, c] = homes[..] else { panic!("three home replicas") };
        let suspects = |cluster: &dynamo_sim::scenario::Cluster, one, other| {
            let status = cluster.node(one).status(cluster.sim.clock(one));
            status.peers.into_iter().any(|peer| peer.node == cluster.id(other) && peer.suspected)
        };
        cluster.split(&[a], &[b]);
        assert!(suspects(&cluster, a, b) && !suspects(&cluster, c, b));
        let written = cluster.through(a).put("alice", "milk");
        assert!(!written.evidence.nodes.contains(&cluster.id(b)));

        cluster.heal();
        cluster.until("A hears B again", |cluster| !suspects(cluster, a, b));
    }
}

mod section_4_9_adding_and_removing_nodes {
    use super::*;
    use dynamo_sim::scenario::Cluster;

    fn filled(nodes: usize) -> Cluster {
        let mut cluster = cluster(nodes).partitions(32).tune(|options| options.pace.batch_objects = 3).start();
        let host = cluster.hosts()[0];
        for key in 0..150 {
            cluster.through(host).put(&format!("key {key}"), "milk");
        }
        cluster.settle();
        cluster
    }

    fn held(cluster: &Cluster, host: dynamo_sim::schedule::HostId) -> u64 {
        cluster.sim.disk(host).objects().count() as u64
    }

    /// A new node gets tokens; those that no longer own the ranges transfer them, each object once, and then drop theirs.
    #[test]
    fn a_joining_node_is_given_its_partitions_once() {
        let mut cluster = filled(4);
        let newcomer = cluster.join();
        cluster.settle();
        let moved = held(&cluster, newcomer);
        assert!(moved > 50, "{moved} objects");
        assert_eq!(cluster.count(|counters| counters.transfer_objects_sent), moved, "confirmed, so none is sent twice");
        assert_eq!(cluster.count(|counters| counters.transfer_objects_received), moved);
        let all: u64 = cluster.hosts().into_iter().map(|host| held(&cluster, host)).sum();
        assert_eq!(all, 150 * 3, "N copies of each, and no more");
    }

    /// Removal is the reverse: the node goes when it holds nothing and the others hold everything.
    #[test]
    fn a_leaving_node_hands_everything_over_before_it_goes() {
        let mut cluster = filled(5);
        let leaver = cluster.hosts()[1];
        cluster.leave(leaver);
        cluster.settle();
        assert!(!cluster.hosts().contains(&leaver) && held(&cluster, leaver) == 0);
        let host = cluster.hosts()[0];
        for key in 0..150 {
            assert_eq!(cluster.through(host).get(&format!("key {key}")).values, ["milk"], "key {key}");
        }
        let all: u64 = cluster.hosts().into_iter().map(|host| held(&cluster, host)).sum();
        assert_eq!(all, 150 * 3);
    }

    /// Reads and writes go on while partitions move, and nothing that was acknowledged meanwhile is left behind.
    #[test]
    fn requests_go_on_while_partitions_move() {
        let mut cluster = filled(4);
        cluster.join();
        let moves = |cluster: &Cluster| cluster.ring().moving().count() > 0;
        cluster.until("a partition moves", moves);
        let host = cluster.hosts()[0];
        let mut while_moving = 0;
        for key in 0..150 {
            let key = format!("key {key}");
            let context = cluster.through(host).get(&key).context;
            let before = moves(&cluster);
            cluster.through(host).put_after(&context, &key, "tea");
            while_moving += usize::from(before && moves(&cluster));
        }
        assert!(while_moving > 0, "no write met a partition that moved");
        cluster.settle();
        for key in 0..150 {
            assert_eq!(cluster.through(host).get(&format!("key {key}")).values, ["tea"], "key {key}");
        }
    }
}

mod section_5_implementation {
    use super::*;
    use bytes::Bytes;
    use dynamo_core::request::{Operation, QuorumWish};

    /// Each request is a state machine of its own: one that waits holds up no other, through the same coordinator, of the same key.
    #[test]
    fn requests_that_are_under_way_together_end_in_whatever_order_their_quorums_are_reached() {
        let mut cluster = cluster(3).start();
        let homes = cluster.homes("alice");
        cluster.sim.pause(homes[2], SECOND / 5);
        let every_copy = QuorumWish { w: Some(3), r: Some(3), ..QuorumWish::default() };
        let operation = Operation::Put { data: Bytes::from_static(b"milk"), context: Bytes::new(), create_only: false };
        let slow_put = cluster.through(homes[0]).with(every_copy).begin("alice", operation);
        let slow_get = cluster.through(homes[0]).with(every_copy).begin("alice", Operation::Get);
        cluster.through(homes[0]).put("alice", "tea");
        cluster.through(homes[0]).get("alice");
        assert!(cluster.outcome(slow_put).is_none() && cluster.outcome(slow_get).is_none(), "the third copy stands still");
        cluster.until("the third copy goes on", |cluster| {
            cluster.outcome(slow_put).is_some_and(Result::is_ok) && cluster.outcome(slow_get).is_some_and(Result::is_ok)
        });
        assert_eq!(cluster.through(homes[1]).get("alice").values, ["milk", "tea"]);
    }

    /// After it has answered, a get's machine waits for the late answers, and brings stale replicas up to date: read repair.
    #[test]
    fn a_get_repairs_the_replica_that_was_behind() {
        let only_reads_repair = |options: &mut dynamo_sim::options::Options| {
            options.pace.hint_bytes = 0;
            options.pace.anti_entropy = SECOND * 3_600;
        };
        let mut cluster = cluster(3).tune(only_reads_repair).start();
        let homes = cluster.homes("alice");
        cluster.kill(homes[2]);
        cluster.through(homes[0]).put("alice", "milk");
        cluster.start(homes[2]);
        cluster.run(SECOND * 5);
        assert_eq!(cluster.copy(homes[2], "alice"), None, "nothing else repairs here");

        assert_eq!(cluster.through(homes[0]).get("alice").values, ["milk"]);
        cluster.until("the repair arrives", |cluster| cluster.copied(homes[2], "alice") == ["milk"]);
        assert_eq!(cluster.count(|counters| counters.read_repairs), 1);
    }
}

mod section_6_experiences {
    use super::*;
    use dynamo_core::request::QuorumWish;

    /// The high-performance read engine: R = 1, W = N.
    #[test]
    fn with_r_1_and_w_n_one_replica_answers_a_read() {
        let mut cluster = cluster(3).quorum((3, 1, 3)).start();
        let homes = cluster.homes("alice");
        let written = cluster.through(homes[0]).put("alice", "milk");
        assert_eq!(written.evidence.nodes.len(), 3);
        for home in homes {
            let got = cluster.through(home).get("alice");
            assert_eq!((got.values, got.evidence.nodes), (vec!["milk".to_owned()], vec![cluster.id(home)]));
        }
    }

    /// 6.1: a write may be buffered, with one replica told to write it durably: the others' disks are not waited for.
    #[test]
    fn a_put_that_asks_for_one_durable_copy_waits_for_one_disk() {
        let slow = SECOND;
        let cases = [("every copy", None, true, 2), ("one copy", Some(1), false, 1), ("no copy", Some(0), false, 0)];
        for (what, dw, waits, durable) in cases {
            let mut cluster = cluster(3).start();
            let homes = cluster.homes("alice");
            for home in &homes[1..] {
                cluster.sim.slow_disk(*home, Some(slow));
            }
            let begun = cluster.sim.now();
            let wish = QuorumWish { dw, ..QuorumWish::default() };
            let written = cluster.through(homes[0]).with(wish).put("alice", "milk");
            assert_eq!(cluster.sim.now().since(begun) >= slow / 2, waits, "{what}");
            assert!(written.evidence.durable >= durable && written.evidence.nodes.len() >= 2, "{what}: {:?}", written.evidence);
        }
    }
}

#[path = "paper/section_6_5.rs"]
mod section_6_5_balancing_background_and_foreground;
