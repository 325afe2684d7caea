//! What an object costs in RocksDB: written in groups, made durable in groups, read.

use std::hint::black_box;
use std::path::Path;

use bytes::Bytes;
use dynamo_core::id::{Incarnation, NodeId, PartitionId};
use dynamo_core::name::Name;
use dynamo_core::random::Random;
use dynamo_core::storage::Storage;
use dynamo_core::version::{Actor, Dot, Object, Value};
use dynamo_node::config::StorageSettings;
use dynamo_node::storage::{Expect, RocksEngine};

use crate::VALUE_BYTES;
use crate::harness::{Canary, Harness};

/// Objects in a group, as of 64 clients.
const GROUP: u64 = 64;
/// Objects that there are; all fit into the block cache and the memtables.
const NAMES: u64 = 20_000;
const PARTITION_BITS: u8 = 6;
const WRITE: Canary = Canary {
    name: "object in a group of 64, written",
    budget: "RocksDB: batched put incl. flush 2700 ns, three for a replicated put",
    budget_ns: Some(2700),
};
const SYNC: Canary = Canary {
    name: "object in a group of 64, made durable",
    budget: "RocksDB: batched put 2700 ns, and 1000 ns for the fsync of its group",
    budget_ns: Some(3700),
};
const READ: Canary = Canary {
    name: "object read",
    budget: "RocksDB: get 2100 ns, one for a get (and one without a version cache)",
    budget_ns: Some(2100),
};

struct Objects {
    names: Vec<Name>,
    partitions: Vec<PartitionId>,
    random: Random,
    pool: Bytes,
    counter: u64,
}

impl Objects {
    fn new() -> Self {
        let mut random = Random::new(1);
        let names: Vec<Name> = (0..NAMES).map(|number| Name::new("bench", format!("0123abcd/user{number:010}"))).collect();
        let partitions = names.iter().map(|name| name.position().partition(PARTITION_BITS)).collect();
        let pool: Vec<u8> = (0..1 << 17).flat_map(|_| random.next_u64().to_le_bytes()).collect();
        Self { names, partitions, random, pool: pool.into(), counter: 0 }
    }

    /// A version with random bytes: none that compress.
    fn object(&mut self) -> Object {
        self.counter += 1;
        let start = self.random.below(self.pool.len() - VALUE_BYTES);
        let actor = Actor { node: NodeId([1; 16]), incarnation: Incarnation(1) };
        let value = Value { data: Some(self.pool.slice(start..start + VALUE_BYTES)), written_ms: 1_795_524_299_042 };
        let mut object = Object::default();
        object.update(&object.context(), Dot { actor, counter: self.counter }, value);
        object
    }

    fn write(&mut self, engine: &mut RocksEngine, index: usize) {
        let object = self.object();
        engine.write(self.partitions[index], &self.names[index], &object).expect("the disk works");
    }

    /// So many writes of chosen names, in groups; `after` each of them.
    fn write_groups(&mut self, engine: &mut RocksEngine, count: u64, mut after: impl FnMut()) {
        let mut left = count;
        while left > 0 {
            for _ in 0..left.min(GROUP) {
                let index = self.random.below(self.names.len());
                self.write(engine, index);
            }
            engine.commit().expect("the disk works");
            after();
            left = left.saturating_sub(GROUP);
        }
    }
}

/// Measures in a folder that is removed afterwards.
pub fn measure(harness: &mut Harness) {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let mut engine = open(&folder.path().join("db"));
    let mut objects = Objects::new();
    (0..objects.names.len()).for_each(|index| objects.write(&mut engine, index));
    engine.commit().expect("the disk works");
    let log = engine.log();
    log.sync().expect("the disk works");
    harness.measure(&WRITE, |count| {
        // The log's buffer is written out now and then, as the thread that fsyncs would.
        let mut groups = 0;
        objects.write_groups(&mut engine, count, || {
            groups += 1;
            if groups % 64 == 0 {
                log.sync().expect("the disk works");
            }
        });
    });
    harness.measure(&SYNC, |count| {
        objects.write_groups(&mut engine, count, || {
            log.sync().expect("the disk works");
        });
    });
    harness.measure(&READ, |count| {
        for _ in 0..count {
            let index = objects.random.below(objects.names.len());
            let found = engine.read(objects.partitions[index], &objects.names[index]).expect("the disk works");
            assert!(black_box(found).is_some());
        }
    });
}

fn open(path: &Path) -> RocksEngine {
    let engine = RocksEngine::open(path, &StorageSettings::default(), Expect::Nothing).expect("a database in a new folder");
    // As a node with room does at its start.
    assert!(engine.compact(true).expect("the disk works"));
    engine
}
