//! The engine against the engine in memory, under random calls and random damage: equal answers always, and after a crash the
//! state after some group of writes, no older than what was fsynced. Never wrong data, and never silently less.
//!
//! A crash is a copy of the directory, taken while the engine runs: what it holds is what a killed process leaves. Damage is
//! done to copies.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use dynamo_core::id::{Incarnation, NodeId, PartitionId};
use dynamo_core::name::Name;
use dynamo_core::storage::{Cursor, MemoryStorage, Storage, StorageError};
use dynamo_core::version::{Actor, CausalContext, Dot, Object, Value};
use proptest::collection::vec;
use proptest::prelude::{Just, ProptestConfig, Strategy, any};
use proptest::{prop_oneof, proptest};
use rocksdb::WaitForCompactOptions;
use tempfile::TempDir;

use super::watermark::Recovery;
use super::{Expect, Family, OpenError, RocksEngine};
use crate::config::StorageSettings;

const PARTITIONS: [PartitionId; 4] = [PartitionId(0), PartitionId(1), PartitionId(2), PartitionId(65_535)];
const TARGETS: [NodeId; 3] = [NodeId([0; 16]), NodeId([7; 16]), NodeId([255; 16])];
const META_KEYS: u8 = 4;

/// One call, or one event.
#[derive(Clone, Debug)]
enum Step {
    Write {
        partition: usize,
        key: u8,
        object: Object,
    },
    Remove {
        partition: usize,
        key: u8,
    },
    Read {
        partition: usize,
        key: u8,
    },
    Scan {
        partition: usize,
        after: Option<u8>,
        limit: usize,
        bytes: usize,
    },
    Drop {
        partition: usize,
    },
    Partitions,
    WriteHint {
        target: usize,
        partition: usize,
        key: u8,
        object: Object,
    },
    RemoveHint {
        target: usize,
        partition: usize,
        key: u8,
    },
    ScanHints {
        target: usize,
        after: Option<(usize, u8)>,
        limit: usize,
        bytes: usize,
    },
    Meta {
        key: u8,
        value: Option<u64>,
    },
    Commit,
    /// The log's fsync, as the syncer's thread does it.
    Sync,
    /// The log's buffer goes to the operating system, as when it is full.
    WriteOut,
    /// Memtables become files, and files are merged.
    Spill,
    /// A clean end and a new start.
    Reopen,
}

fn name(key: u8) -> Name {
    let bucket: &[u8] = [&b""[..], b"a", b"a\0", b"b"][usize::from(key % 4)];
    Name::new(bucket, vec![b'k', key / 4])
}

fn object() -> impl Strategy<Value = Object> {
    (1..50_u64, 0..400_usize, any::<u8>()).prop_map(|(counter, bytes, fill)| {
        let mut object = Object::default();
        let actor = Actor { node: NodeId([1; 16]), incarnation: Incarnation(1) };
        let data = (bytes > 20).then(|| Bytes::from(vec![fill; bytes]));
        object.update(&CausalContext::default(), Dot { actor, counter }, Value { data, written_ms: counter });
        object
    })
}

fn step() -> impl Strategy<Value = Step> {
    let (partition, target, key) = (0..PARTITIONS.len(), 0..TARGETS.len(), 0..24_u8);
    let (limit, bytes) = (0..8_usize, 0..1_500_usize);
    let place = (target.clone(), partition.clone(), key.clone());
    prop_oneof![
        12 => (partition.clone(), key.clone(), object())
            .prop_map(|(partition, key, object)| Step::Write { partition, key, object }),
        3 => (partition.clone(), key.clone()).prop_map(|(partition, key)| Step::Remove { partition, key }),
        3 => (partition.clone(), key.clone()).prop_map(|(partition, key)| Step::Read { partition, key }),
        3 => (partition.clone(), proptest::option::of(key.clone()), limit.clone(), bytes.clone())
            .prop_map(|(partition, after, limit, bytes)| Step::Scan { partition, after, limit, bytes }),
        1 => partition.clone().prop_map(|partition| Step::Drop { partition }),
        1 => Just(Step::Partitions),
        4 => (place.clone(), object())
            .prop_map(|((target, partition, key), object)| Step::WriteHint { target, partition, key, object }),
        2 => place.prop_map(|(target, partition, key)| Step::RemoveHint { target, partition, key }),
        2 => (target, proptest::option::of((partition, key)), limit, bytes)
            .prop_map(|(target, after, limit, bytes)| Step::ScanHints { target, after, limit, bytes }),
        2 => (0..META_KEYS, proptest::option::of(any::<u64>())).prop_map(|(key, value)| Step::Meta { key, value }),
        8 => Just(Step::Commit),
        3 => Just(Step::Sync),
        1 => Just(Step::WriteOut),
        1 => Just(Step::Spill),
        1 => Just(Step::Reopen),
    ]
}

/// All that an engine holds, as its calls tell it. A part that cannot be read is an error in its place.
#[derive(Clone, PartialEq, Debug)]
struct State {
    partitions: Result<Vec<PartitionId>, StorageError>,
    objects: Vec<Result<Vec<(Cursor, Object)>, StorageError>>,
    hints: Vec<Result<Vec<(PartitionId, Name, Object)>, StorageError>>,
    totals: Result<BTreeMap<NodeId, (u64, u64)>, StorageError>,
    meta: Vec<Result<Option<Bytes>, StorageError>>,
}

impl State {
    fn of(engine: &dyn Storage) -> Self {
        const ALL: usize = usize::MAX;
        Self {
            partitions: engine.partitions(),
            objects: PARTITIONS.map(|partition| engine.scan(partition, None, ALL, ALL)).into(),
            hints: TARGETS.map(|target| engine.scan_hints(target, None, ALL, ALL)).into(),
            totals: engine.hint_totals(),
            meta: (0..META_KEYS).map(|key| engine.read_meta(&[key])).collect(),
        }
    }

    /// Whatever could be read is as in `whole`. Of these partitions objects may be missing.
    fn is_readable_part_of(&self, whole: &State, holed: &BTreeSet<usize>) -> bool {
        fn part<T: PartialEq>(one: &Result<T, StorageError>, whole: &Result<T, StorageError>) -> bool {
            one.is_err() || one == whole
        }
        fn parts<T: PartialEq>(all: &[Result<T, StorageError>], whole: &[Result<T, StorageError>]) -> bool {
            all.iter().zip(whole).all(|(one, whole)| part(one, whole))
        }
        let objects = self.objects.iter().zip(&whole.objects).enumerate().all(|(partition, (one, whole))| match (one, whole) {
            (Ok(one), Ok(whole)) if holed.contains(&partition) => one.iter().all(|object| whole.contains(object)),
            (one, whole) => part(one, whole),
        });
        let listed = |partitions: &Result<Vec<PartitionId>, StorageError>| {
            let partitions = partitions.clone()?.into_iter();
            Ok(partitions.filter(|listed| !holed.iter().any(|partition| PARTITIONS[*partition] == *listed)).collect::<Vec<_>>())
        };
        part(&listed(&self.partitions), &listed(&whole.partitions))
            && objects
            && parts(&self.hints, &whole.hints)
            && part(&self.totals, &whole.totals)
            && parts(&self.meta, &whole.meta)
    }
}

/// Both engines, and what the states after all groups were.
struct Pair {
    dir: TempDir,
    real: RocksEngine,
    model: MemoryStorage,
    /// After nothing, and after each group.
    states: Vec<State>,
    /// Those up to this one are on stable storage.
    synced: usize,
    /// Which partitions were dropped in which group.
    dropped: Vec<(usize, usize)>,
}

fn settings() -> StorageSettings {
    StorageSettings { write_buffer_bytes: 1 << 20, block_cache_bytes: 1 << 20 }
}

fn open(dir: &Path, expect: Expect) -> Result<RocksEngine, OpenError> {
    RocksEngine::open(&dir.join("rocksdb"), &settings(), expect)
}

impl Pair {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let real = open(dir.path(), Expect::Nothing).unwrap();
        let model = MemoryStorage::default();
        let states = vec![State::of(&model)];
        Self { dir, real, model, states, synced: 0, dropped: Vec::new() }
    }

    /// Runs a whole history; every answer must be equal.
    fn after(steps: &[Step]) -> Self {
        let mut pair = Self::new();
        for step in steps {
            pair.run(step);
        }
        pair
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Commit => self.commit(),
            Step::Sync => {
                let log = self.real.log();
                log.free(log.sync().unwrap()).unwrap();
                self.synced = self.states.len() - 1;
            }
            Step::WriteOut => self.real.db.flush_wal(false).unwrap(),
            Step::Spill => self.spill(),
            Step::Reopen => self.reopen(),
            call => {
                let (real, model) = (answer(call, &mut self.real), answer(call, &mut self.model));
                assert_eq!(real, model, "{call:?}");
                if let Step::Drop { partition } = call {
                    self.dropped.push((self.states.len(), *partition));
                }
            }
        }
    }

    fn commit(&mut self) {
        self.real.commit().unwrap();
        self.model.commit().unwrap();
        self.states.push(State::of(&self.model));
    }

    fn spill(&mut self) {
        for family in Family::ALL {
            self.real.db.flush_cf(self.real.handle(family)).unwrap();
            self.real.db.compact_range_cf::<&[u8], &[u8]>(self.real.handle(family), None, None);
        }
    }

    /// The end of a process that stops cleanly: its last group is committed and fsynced.
    fn reopen(&mut self) {
        self.commit();
        self.run(&Step::Sync);
        let (path, model) = (self.dir.path().to_owned(), self.model.last_ticket());
        // The lock has to go before the new engine comes.
        let parked = TempDir::new().unwrap();
        self.real = open(parked.path(), Expect::Nothing).unwrap();
        self.real = open(&path, Expect::Database).unwrap();
        self.real.ticket = model;
        assert_eq!(self.real.recovery(), Recovery::Whole);
        assert_eq!(State::of(&self.real), State::of(&self.model));
    }

    /// What a process leaves that is killed now.
    fn crash(&self) -> TempDir {
        // Nothing is written while the copy is made: it is of one moment.
        self.real.db.wait_for_compact(&WaitForCompactOptions::default()).unwrap();
        let copy = TempDir::new().unwrap();
        copy_folder(self.dir.path(), copy.path());
        copy
    }

    /// The copy opens, or not; if it does it is the state after some group, and says so if that is older than what was fsynced. A drop
    /// that was fsynced has freed files, which are missing if it is forgotten all the same.
    fn check_damaged(&self, copy: &TempDir) -> Option<usize> {
        let engine = open(copy.path(), Expect::Database).ok()?;
        let found = State::of(&engine);
        let oldest = if matches!(engine.recovery(), Recovery::Short { .. }) { 0 } else { self.synced };
        let holed = |group: usize| {
            let forgotten = self.dropped.iter().filter(|(at, _)| *at > group && *at <= self.synced);
            forgotten.map(|(_, partition)| *partition).collect()
        };
        let group =
            (oldest..self.states.len()).rev().find(|group| found.is_readable_part_of(&self.states[*group], &holed(*group)));
        let group = group.unwrap_or_else(|| {
            panic!(
                "not the state after any group from {oldest} on, recovery {:?}, synced {}: {found:?}, last {:?}",
                engine.recovery(),
                self.synced,
                self.states.last()
            )
        });
        Some(group)
    }
}

/// One call on one engine, and all that it says.
fn answer(call: &Step, engine: &mut dyn Storage) -> String {
    match call.clone() {
        Step::Write { partition, key, object } => {
            let name = name(key);
            format!("{:?}", engine.write(PARTITIONS[partition], &name, &object))
        }
        Step::Remove { partition, key } => {
            let removed = engine.remove(PARTITIONS[partition], &name(key));
            format!("{removed:?} {:?}", engine.read(PARTITIONS[partition], &name(key)))
        }
        Step::Read { partition, key } => format!("{:?}", engine.read(PARTITIONS[partition], &name(key))),
        Step::Scan { partition, after, limit, bytes } => {
            let after = after.map(|key| Cursor { position: name(key).position(), name: name(key) });
            format!("{:?}", engine.scan(PARTITIONS[partition], after.as_ref(), limit, bytes))
        }
        Step::Drop { partition } => format!("{:?}", engine.drop_partition(PARTITIONS[partition])),
        Step::Partitions => format!("{:?}", engine.partitions()),
        Step::WriteHint { target, partition, key, object } => {
            format!("{:?}", engine.write_hint(TARGETS[target], PARTITIONS[partition], &name(key), &object))
        }
        Step::RemoveHint { target, partition, key } => {
            let removed = engine.remove_hint(TARGETS[target], PARTITIONS[partition], &name(key));
            format!("{removed:?} {:?}", engine.read_hint(TARGETS[target], PARTITIONS[partition], &name(key)))
        }
        Step::ScanHints { target, after, limit, bytes } => {
            let after = after.map(|(partition, key)| (PARTITIONS[partition], name(key)));
            let found = engine.scan_hints(TARGETS[target], after.as_ref(), limit, bytes);
            format!("{found:?} {:?}", engine.hint_totals())
        }
        Step::Meta { key, value } => {
            let written = engine.write_meta(&[key], value.map(u64::to_be_bytes).as_ref().map(|value| &value[..]));
            format!("{written:?} {:?}", engine.read_meta(&[key]))
        }
        Step::Commit | Step::Sync | Step::WriteOut | Step::Spill | Step::Reopen => unreachable!("not a call"),
    }
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let (entry, target) = entry.map(|entry| (entry.path(), to.join(entry.file_name()))).unwrap();
        if entry.is_dir() {
            fs::create_dir(&target).unwrap();
            copy_folder(&entry, &target);
        } else {
            match fs::copy(&entry, &target) {
                // RocksDB removes in its own time what nothing refers to any more.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                copied => drop(copied.unwrap()),
            }
        }
    }
}

/// The files of a copy whose names end so (or begin so, for the manifest), in order.
fn files(copy: &TempDir, belongs: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(copy.path().join("rocksdb")).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<PathBuf> =
        entries.filter(|entry| belongs(&entry.file_name().to_string_lossy())).map(|entry| entry.path()).collect();
    files.sort();
    files
}

/// So many histories, or as many as PROPTEST_CASES says.
fn cases(usual: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    // Failures print the smallest history; a file of seeds beside the sources would be one more thing to keep.
    ProptestConfig { cases: asked.unwrap_or(usual), failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn every_answer_is_that_of_the_engine_in_memory(steps in vec(step(), 1..250)) {
        let mut pair = Pair::after(&steps);
        assert_eq!(State::of(&pair.real), State::of(&pair.model));
        pair.reopen();
    }

    #[test]
    fn a_killed_process_leaves_the_state_after_some_group_and_all_that_was_synced(steps in vec(step(), 1..150)) {
        let pair = Pair::after(&steps);
        let copy = pair.crash();
        let group = pair.check_damaged(&copy).expect("a crash is no damage: it opens");
        assert!(group >= pair.synced, "group {group}, synced up to {}", pair.synced);
        let engine = open(copy.path(), Expect::Database).unwrap();
        assert!(!matches!(engine.recovery(), Recovery::Short { .. }), "nothing is missing: {:?}", engine.recovery());
    }

    #[test]
    fn a_log_that_lost_its_end_opens_at_some_group_and_is_found_short_if_that_was_synced(
        steps in vec(step(), 1..150),
        cut in 1..2_000_usize,
    ) {
        let pair = Pair::after(&steps);
        let copy = pair.crash();
        let logs = files(&copy, |name| name.ends_with(".log"));
        let Some(log) = logs.iter().rev().find(|log| fs::metadata(log).unwrap().len() > 0) else { return Ok(()) };
        let length = fs::metadata(log).unwrap().len();
        fs::OpenOptions::new().write(true).open(log).unwrap().set_len(length.saturating_sub(cut as u64)).unwrap();
        pair.check_damaged(&copy);
    }

    #[test]
    fn a_flipped_bit_is_an_error_or_a_short_log_and_never_wrong_data(
        steps in vec(step(), 40..150),
        file in any::<usize>(),
        bit in any::<u64>(),
    ) {
        let mut pair = Pair::after(&steps);
        // Half of the histories have all their data in files by now.
        if file % 2 == 0 {
            pair.commit();
            pair.run(&Step::Sync);
            pair.spill();
        }
        let copy = pair.crash();
        let belongs = |name: &str| name.ends_with(".sst") || name.ends_with(".log") || name.starts_with("MANIFEST");
        let files: Vec<_> = files(&copy, belongs).into_iter().filter(|file| fs::metadata(file).unwrap().len() > 0).collect();
        let file = &files[file / 2 % files.len()];
        let mut bytes = fs::read(file).unwrap();
        let bit = (bit % (bytes.len() as u64 * 8)) as usize;
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(file, bytes).unwrap();
        pair.check_damaged(&copy);
    }
}

#[test]
fn writes_that_were_synced_and_are_cut_off_are_missed_until_the_log_is_synced_again() {
    let mut pair = Pair::new();
    for key in 0..20 {
        let object = Object::default();
        pair.run(&Step::Write { partition: 0, key, object });
        pair.run(&Step::Commit);
        pair.run(&Step::Sync);
    }
    let copy = pair.crash();
    let log = files(&copy, |name| name.ends_with(".log")).pop().unwrap();
    let length = fs::metadata(&log).unwrap().len();
    fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(length - 10).unwrap();
    for _ in 0..2 {
        let engine = open(copy.path(), Expect::Database).unwrap();
        assert!(
            matches!(engine.recovery(), Recovery::Short { expected, found } if found == expected - 1),
            "{:?}",
            engine.recovery()
        );
    }
    open(copy.path(), Expect::Database).unwrap().log().sync().unwrap();
    assert_eq!(open(copy.path(), Expect::Database).unwrap().recovery(), Recovery::Whole);
}
