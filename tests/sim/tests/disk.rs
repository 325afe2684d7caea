//! The simulator's disk against the engine in memory, to which the real engine is held as well (`node/src/storage/laws.rs`): under random
//! calls every answer is the same, and whatever ends a process leaves the state after the group of writes that it is to leave.
#![allow(clippy::unwrap_used)]

use dynamo_core::id::{Incarnation, NodeId, PartitionId};
use dynamo_core::name::Name;
use dynamo_core::random::Random;
use dynamo_core::storage::{Cursor, MemoryStorage, Storage, Ticket};
use dynamo_core::version::{Actor, CausalContext, Dot, Object, Value};
use dynamo_sim::disk::Disk;

const PARTITIONS: [PartitionId; 4] = [PartitionId(0), PartitionId(1), PartitionId(2), PartitionId(65_535)];
const TARGETS: [NodeId; 3] = [NodeId([0; 16]), NodeId([7; 16]), NodeId([255; 16])];
const KEYS: usize = 24;
const META_KEYS: u8 = 4;

/// Histories, and calls and events of each.
const HISTORIES: u64 = 300;
const STEPS: usize = 250;

fn one<T: Copy>(of: &[T], source: &mut Random) -> T {
    of[source.below(of.len())]
}

fn name(source: &mut Random) -> Name {
    let key = source.below(KEYS);
    let bucket: &[u8] = [&b""[..], b"a", b"a\0", b"b"][key % 4];
    Name::new(bucket, vec![b'k', (key / 4) as u8])
}

fn object(source: &mut Random) -> Object {
    let actor = Actor { node: NodeId([1; 16]), incarnation: Incarnation(1) };
    let counter = 1 + source.below(50) as u64;
    let data = (source.below(8) > 0).then(|| vec![counter as u8; 8 + source.below(400)].into());
    let mut object = Object::default();
    object.update(&CausalContext::default(), Dot { actor, counter }, Value { data, written_ms: counter });
    object
}

/// One call, the same for every engine that is given the same choices; and all that it says.
fn call(engine: &mut dyn Storage, source: &mut Random) -> String {
    let (partition, target, name) = (one(&PARTITIONS, source), one(&TARGETS, source), name(source));
    let (limit, bytes) = (source.below(8), source.below(1_500));
    let meta = [source.below(usize::from(META_KEYS)) as u8];
    match source.below(24) {
        0..8 => format!("{:?}", engine.write(partition, &name, &object(source))),
        8 => format!("{:?}", engine.remove(partition, &name)),
        9..11 => format!("{:?}", engine.read(partition, &name).map(|found| found.map(|object| object.encode()))),
        11..14 => {
            let after = (source.below(3) > 0).then(|| Cursor::of(&name));
            objects(engine, partition, after.as_ref(), limit, bytes)
        }
        14 => format!("{:?} {:?}", engine.drop_partition(partition), engine.partitions()),
        15..18 => format!("{:?}", engine.write_hint(target, partition, &name, &object(source))),
        18 => format!("{:?}", engine.remove_hint(target, partition, &name)),
        19 => {
            let hint = engine.read_hint(target, partition, &name).map(|found| found.map(|object| object.encode()));
            format!("{hint:?} {:?}", engine.hint_totals())
        }
        20..22 => {
            let after = (source.below(3) > 0).then_some((partition, name));
            hints(engine, target, after.as_ref(), limit, bytes)
        }
        _ => {
            let value = (source.below(3) > 0).then(|| source.next_u64().to_be_bytes());
            let written = engine.write_meta(&meta, value.as_ref().map(|value| &value[..]));
            format!("{written:?} {:?}", engine.read_meta(&meta))
        }
    }
}

/// What a scan finds, as the bytes that are stored: an object also knows whether it has been encoded.
fn objects(engine: &dyn Storage, partition: PartitionId, after: Option<&Cursor>, limit: usize, bytes: usize) -> String {
    let found = engine.scan(partition, after, limit, bytes);
    format!("{:?}", found.map(|found| found.into_iter().map(|(name, object)| (name, object.encode())).collect::<Vec<_>>()))
}

fn hints(engine: &dyn Storage, target: NodeId, after: Option<&(PartitionId, Name)>, limit: usize, bytes: usize) -> String {
    let found = engine.scan_hints(target, after, limit, bytes);
    let encoded = |(partition, name, object): (PartitionId, Name, Object)| (partition, name, object.encode());
    format!("{:?}", found.map(|found| found.into_iter().map(encoded).collect::<Vec<_>>()))
}

/// All that an engine holds, as its calls tell it.
fn state(engine: &dyn Storage) -> String {
    const ALL: usize = usize::MAX;
    let objects = PARTITIONS.map(|partition| objects(engine, partition, None, ALL, ALL));
    let hints = TARGETS.map(|target| hints(engine, target, None, ALL, ALL));
    let meta: Vec<_> = (0..META_KEYS).map(|key| engine.read_meta(&[key])).collect();
    format!("{:?} {objects:?} {hints:?} {:?} {meta:?}", engine.partitions(), engine.hint_totals())
}

/// Both engines, and the model as it was after each group that is not undone.
struct Pair {
    disk: Disk,
    model: MemoryStorage,
    groups: Vec<(Ticket, MemoryStorage)>,
    /// Those up to this one are on stable storage.
    synced: usize,
}

impl Pair {
    fn new() -> Self {
        let groups = vec![(Ticket(0), MemoryStorage::default())];
        Self { disk: Disk::default(), model: MemoryStorage::default(), groups, synced: 0 }
    }

    fn step(&mut self, source: &mut Random) {
        match source.below(40) {
            0..6 => self.commit(),
            6..8 => {
                self.synced += source.below(self.groups.len() - self.synced);
                self.disk.synced(self.groups[self.synced].0);
            }
            8 => {
                self.disk.killed();
                self.end_at(self.groups.len() - 1);
            }
            9 => {
                let unsynced = self.groups.len() - 1 - self.synced;
                let kept = source.below(unsynced + 2);
                let lost = self.disk.power_lost(kept);
                assert_eq!((lost.kept, lost.lost), (kept.min(unsynced), unsynced.saturating_sub(kept)));
                self.end_at(self.synced + kept.min(unsynced));
                self.synced = self.groups.len() - 1;
            }
            10 => assert_eq!(state(&self.disk.snapshot()), state(&self.model)),
            11 => {
                self.disk.set_full(true);
                let (partition, name) = (one(&PARTITIONS, source), name(source));
                assert!(self.disk.write(partition, &name, &object(source)).is_err());
                assert!(self.disk.write_hint(TARGETS[0], partition, &name, &object(source)).is_err());
                self.disk.set_full(false);
            }
            _ => {
                let (mut same, before) = (source.clone(), source.clone());
                let (found, expected) = (call(&mut self.disk, source), call(&mut self.model, &mut same));
                assert_eq!(found, expected, "{before:?}");
            }
        }
    }

    fn commit(&mut self) {
        let ticket = self.disk.commit().unwrap();
        assert!(self.groups.last().is_some_and(|(last, _)| *last < ticket), "tickets grow");
        let of_model = self.model.commit().unwrap();
        // It would keep a copy of its own of each group.
        self.model.synced(of_model);
        self.groups.push((ticket, self.model.clone()));
    }

    /// What comes after this group is gone.
    fn end_at(&mut self, group: usize) {
        self.groups.truncate(group + 1);
        self.model = self.groups[group].1.clone();
        assert_eq!(state(&self.disk), state(&self.model), "after group {group}, synced {}", self.synced);
    }
}

#[test]
fn every_answer_is_that_of_the_engine_in_memory_and_every_end_leaves_the_state_after_a_group() {
    for seed in 0..HISTORIES {
        let (mut source, mut pair) = (Random::new(seed), Pair::new());
        (0..STEPS).for_each(|_| pair.step(&mut source));
        assert_eq!(state(&pair.disk), state(&pair.model), "seed {seed}");
    }
}
