//! A node alone with its storage: whatever a crash leaves, its next start has the trees that a full scan would make.

use crate::config::Config;
use crate::hash_tree::HashTrees;
use crate::hash_tree::stored::{mask_key, tree_key};
use crate::id::{ClusterId, Incarnation, NodeId, PartitionId};
use crate::name::Name;
use crate::node::trees::COMMITTED_OBJECTS;
use crate::node::{Identity, Input, Node};
use crate::random::Random;
use crate::rebalance::{self, Members};
use crate::ring::Member;
use crate::storage::{MemoryStorage, Storage, Ticket};
use crate::time::{Instant, Now};
use crate::version::{Actor, CausalContext, Dot, Object, Value};

const CLUSTER: ClusterId = ClusterId([7; 16]);
const OWN: NodeId = NodeId([1; 16]);
const PARTITION_BITS: u8 = 2;
const KEYS: usize = 400;

/// A node, its time, and the counter of its writes.
struct Bench {
    node: Node<MemoryStorage>,
    now: Now,
    writes: u64,
}

fn open(storage: MemoryStorage, now: Now) -> Node<MemoryStorage> {
    let identity = Identity {
        node: OWN,
        cluster: CLUSTER,
        zone: "z".into(),
        peer_address: "a:1".into(),
        client_address: "a:2".into(),
        generation: 1,
    };
    Node::open(identity, Config::default(), storage, 1, now).unwrap()
}

impl Bench {
    fn new() -> Self {
        let now = Now { instant: Instant(1_000_000), wall_ms: 0 };
        let mut node = open(MemoryStorage::default(), now);
        let members: Members = [(OWN, Member { zone: "z".into(), weight: 1 })].into();
        let ring = rebalance::first_ring(CLUSTER, PARTITION_BITS, 1, &members).unwrap();
        node.propose_ring(ring, now, &mut Vec::new()).unwrap();
        let mut bench = Self { node, now, writes: 0 };
        bench.commit_and_sync();
        bench
    }

    fn commit_and_sync(&mut self) {
        if let Some(ticket) = self.node.commit().unwrap() {
            self.node.storage_mut().synced(ticket);
        }
    }

    fn write(&mut self, key: usize) {
        let name = Name::new("b", format!("key {key}"));
        self.writes += 1;
        let dot = Dot { actor: Actor { node: OWN, incarnation: Incarnation(1) }, counter: self.writes };
        let mut object = Object::default();
        object.update(&CausalContext::default(), dot, Value { data: Some("x".into()), written_ms: 0 });
        let accepted = self.node.apply(name.position().partition(PARTITION_BITS), &name, &object).unwrap();
        assert_eq!(accepted, Ok(()));
    }

    fn fill(&mut self) {
        (0..KEYS).for_each(|key| self.write(key));
        self.commit_and_sync();
    }

    /// Until a round of checkpoints is done.
    fn tick(&mut self, seconds: u64) {
        self.now.instant = Instant(self.now.instant.0 + seconds * 1_000_000);
        self.node.handle(Input::Tick, self.now, &mut Vec::new()).unwrap();
    }

    /// The power goes and comes back.
    fn crash(&mut self) {
        let mut storage = std::mem::take(self.node.storage_mut());
        storage.crash();
        self.node = open(storage, self.now);
    }

    /// The trees against those of a full scan.
    fn check(&self, what: &str) {
        let mut anew = HashTrees::new(CLUSTER, PARTITION_BITS);
        for (partition, name, object) in self.node.storage().objects() {
            anew.update(partition, name, Default::default(), object.digest());
        }
        for partition in (0..1 << PARTITION_BITS).map(PartitionId) {
            let kept = self.node.trees();
            assert_eq!(kept.leaves(partition), anew.leaves(partition), "{what}: leaves of {partition}");
            assert_eq!(kept.leaf_counts(partition), anew.leaf_counts(partition), "{what}: objects by leaf of {partition}");
            assert_eq!(kept.objects(partition), anew.objects(partition), "{what}: objects of {partition}");
            assert_eq!(kept.root(partition), anew.root(partition), "{what}: root of {partition}");
        }
    }

    /// Loaded, computed anew, leaves computed anew.
    fn counted(&self) -> (u64, u64, u64) {
        let counters = self.node.counters();
        (counters.trees_loaded, counters.trees_recomputed, counters.tree_leaves_recomputed)
    }
}

/// Writes, drops and checkpoints in groups, and a crash that keeps any number of the newest groups.
#[test]
fn after_any_crash_the_trees_are_those_of_a_full_scan() {
    let mut seen = (0, 0, 0);
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let mut bench = Bench::new();
        for crash in 0..12 {
            let mut tickets: Vec<Ticket> = Vec::new();
            for _ in 0..random.below(25) {
                for _ in 0..random.below(5) {
                    match random.below(40) {
                        0 => bench.node.drop_copy(PartitionId(random.below(1 << PARTITION_BITS) as u32)).unwrap(),
                        1..4 => bench.tick(100),
                        4 => bench.node.checkpoint_all().unwrap(),
                        _ => bench.write(random.below(KEYS)),
                    }
                }
                tickets.extend(bench.node.commit().unwrap());
            }
            if !tickets.is_empty() {
                let kept = tickets[random.below(tickets.len())];
                bench.node.storage_mut().synced(kept);
            }
            bench.crash();
            bench.check(&format!("seed {seed}, crash {crash}"));
            let counted = bench.counted();
            seen = (seen.0 + counted.0, seen.1 + counted.1, seen.2 + counted.2);
        }
    }
    assert!(seen.0 > 100 && seen.1 > 100 && seen.2 > 100, "all kinds of starts: {seen:?}");
}

#[test]
fn a_start_after_a_clean_stop_reads_no_data() {
    let mut bench = Bench::new();
    bench.fill();
    let ticket = bench.node.close().unwrap().unwrap();
    bench.node.storage_mut().synced(ticket);
    bench.crash();
    assert_eq!(bench.counted(), (4, 0, 0));
    bench.check("after a clean stop");
}

#[test]
fn a_start_after_a_crash_reads_the_leaves_that_changed_since_the_checkpoint() {
    let mut bench = Bench::new();
    bench.fill();
    bench.tick(61);
    bench.commit_and_sync();
    for _ in 0..3 {
        bench.write(5);
        bench.commit_and_sync();
    }
    bench.crash();
    assert_eq!(bench.counted(), (4, 0, 1));
    bench.check("one leaf changed");
    // Its bit stays until the next checkpoint.
    bench.commit_and_sync();
    bench.crash();
    assert_eq!(bench.counted(), (4, 0, 1));
    bench.tick(61);
    bench.commit_and_sync();
    bench.crash();
    assert_eq!(bench.counted(), (4, 0, 0));
}

/// A process that is killed while it starts has written what it committed by then.
#[test]
fn a_start_that_is_killed_does_not_begin_from_nothing_again() {
    let mut bench = Bench::new();
    (0..6 * COMMITTED_OBJECTS).for_each(|key| bench.write(key));
    bench.commit_and_sync();
    bench.crash();
    assert_eq!(bench.counted(), (0, 4, 0), "there was no checkpoint");
    // Of what the start has done, only what it committed itself is left.
    let storage = bench.node.storage_mut();
    storage.synced(storage.last_ticket());
    bench.crash();
    assert_eq!(bench.counted(), (4, 0, 0));
    bench.check("killed while it started");
}

#[test]
fn a_quiet_node_stores_its_trees_once() {
    let mut bench = Bench::new();
    bench.fill();
    for _ in 0..5 {
        bench.tick(61);
        bench.commit_and_sync();
    }
    assert_eq!(bench.node.counters().tree_checkpoints, 4);
}

#[test]
fn what_is_damaged_or_missing_is_computed_anew_and_stored_again() {
    let partition = PartitionId(2);
    let (tree, mask) = (tree_key(partition), mask_key(partition));
    let cases = [
        ("no tree", &tree, None),
        ("no mask", &mask, None),
        ("an empty tree", &tree, Some(&b""[..])),
        ("a mask of zeros", &mask, Some(&[0; 24])),
        ("a tree that is something else", &tree, Some(b"dynamo")),
    ];
    for (what, key, value) in cases {
        let mut bench = Bench::new();
        bench.fill();
        bench.tick(61);
        bench.commit_and_sync();
        bench.node.storage.write_meta(key, value).unwrap();
        bench.commit_and_sync();
        bench.crash();
        assert_eq!(bench.counted(), (3, 1, 0), "{what}");
        bench.check(what);
        bench.commit_and_sync();
        assert_eq!(bench.node.storage().read_meta(&tree), Ok(None), "{what}: nothing of it is left");
        assert_eq!(bench.node.storage().read_meta(&mask), Ok(None), "{what}: nothing of it is left");
        bench.tick(61);
        bench.commit_and_sync();
        bench.crash();
        assert_eq!(bench.counted(), (4, 0, 0), "{what}, after the next checkpoint");
    }
}
