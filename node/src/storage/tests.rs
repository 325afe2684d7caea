//! What must survive, what must be noticed, and what a disk gets back.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use dynamo_core::id::{Incarnation, NodeId, PartitionId};
use dynamo_core::name::Name;
use dynamo_core::random::Random;
use dynamo_core::storage::{Storage, Ticket};
use dynamo_core::version::{Actor, CausalContext, Dot, Object, Value};
use tempfile::TempDir;

use super::dropped::{Dropped, LOOKS};
use super::syncer::{self, Syncer};
use super::unsynced_end::Cut;
use super::watermark::Recovery;
use super::{Expect, Family, Left, OpenError, RocksEngine};
use crate::config::StorageSettings;

fn settings() -> StorageSettings {
    // Small buffers, so that a short test flushes and compacts.
    StorageSettings { write_buffer_bytes: 256 << 10, block_cache_bytes: 1 << 20 }
}

fn path(dir: &TempDir) -> PathBuf {
    dir.path().join("rocksdb")
}

fn open(dir: &TempDir, expect: Expect) -> RocksEngine {
    RocksEngine::open(&path(dir), &settings(), expect).unwrap()
}

fn object(counter: u64, bytes: usize) -> Object {
    let mut object = Object::default();
    let actor = Actor { node: NodeId([1; 16]), incarnation: Incarnation(1) };
    let value = Value { data: Some(vec![counter as u8; bytes].into()), written_ms: counter };
    object.update(&CausalContext::default(), Dot { actor, counter: counter + 1 }, value);
    object
}

/// What the thread that fsyncs does, once.
fn sync(engine: &RocksEngine) {
    let log = engine.log();
    log.free(log.sync().unwrap()).unwrap();
}

#[test]
fn what_is_not_committed_is_seen_and_then_lost_as_a_whole() {
    let dir = TempDir::new().unwrap();
    let mut engine = open(&dir, Expect::Nothing);
    let (first, second) = (Name::new("b", "first"), Name::new("b", "second"));
    engine.write(PartitionId(0), &first, &object(1, 10)).unwrap();
    engine.commit().unwrap();
    engine.write(PartitionId(0), &second, &object(2, 10)).unwrap();
    engine.write_meta(b"also", Some(b"this")).unwrap();
    assert_eq!(engine.scan(PartitionId(0), None, 10, 10_000).unwrap().len(), 2);
    drop(engine);
    let engine = open(&dir, Expect::Database);
    assert_eq!(engine.read(PartitionId(0), &first), Ok(Some(object(1, 10))));
    assert_eq!(engine.read(PartitionId(0), &second), Ok(None));
    assert_eq!(engine.read_meta(b"also"), Ok(None));
}

#[test]
fn the_syncer_reports_the_newest_ticket_and_finishes_what_was_committed() {
    let dir = TempDir::new().unwrap();
    let mut engine = open(&dir, Expect::Nothing);
    let syncer = Syncer::start(engine.log()).unwrap();
    for counter in 0..500 {
        engine.write(PartitionId(0), &Name::new("b", counter.to_string()), &object(counter, 100)).unwrap();
        syncer.committed(engine.commit().unwrap());
    }
    assert_eq!(syncer.finish(), Ok(Ticket(500)));
}

#[test]
fn a_database_in_use_is_said_to_be_in_use() {
    let dir = TempDir::new().unwrap();
    let _held = open(&dir, Expect::Nothing);
    let error = RocksEngine::open(&path(&dir), &settings(), Expect::Database).err().unwrap();
    assert!(matches!(error, OpenError::Locked { .. }), "{error:?}");
}

#[test]
fn logs_that_somebody_may_be_writing_are_neither_judged_nor_cut() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir, Expect::Nothing);
    let log = engine.log();
    // A record of a type that no log of ours has.
    let (file, record) = (path(&dir).join("999999.log"), [0, 0, 0, 0, 0, 0, 5_u8]);
    std::fs::write(&file, record).unwrap();
    let refusal = || RocksEngine::open(&path(&dir), &settings(), Expect::Database).err();
    assert!(matches!(refusal(), Some(OpenError::Locked { .. })), "{:?}", refusal());
    drop(engine);
    assert!(matches!(refusal(), Some(OpenError::Locked { .. })), "the thread that fsyncs has it still: {:?}", refusal());
    assert_eq!(std::fs::read(&file).unwrap(), record);
    drop(log);
    assert!(matches!(refusal(), Some(OpenError::Damaged { .. })), "{:?}", refusal());
}

#[test]
fn what_cannot_be_read_is_neither_called_gone_nor_damaged() {
    let refusal = |prepare: &dyn Fn(PathBuf)| {
        let dir = TempDir::new().unwrap();
        drop(open(&dir, Expect::Nothing));
        prepare(path(&dir));
        RocksEngine::open(&path(&dir), &settings(), Expect::Database).err()
    };
    let leads_nowhere = refusal(&|path| {
        let current = path.join("CURRENT");
        std::fs::remove_file(&current).unwrap();
        std::os::unix::fs::symlink(&current, &current).unwrap();
    });
    assert!(matches!(leads_nowhere, Some(OpenError::Refused { .. })), "{leads_nowhere:?}");
    let is_no_file = refusal(&|path| std::fs::create_dir(path.join("999999.log")).unwrap());
    assert!(matches!(is_no_file, Some(OpenError::Refused { .. })), "{is_no_file:?}");
}

#[test]
fn a_lock_that_cannot_be_had_is_not_always_one_that_somebody_has() {
    for (said, expected) in [
        ("IO error: While lock file: /db/LOCK: Resource temporarily unavailable", true),
        ("IO error: While lock file: /db/LOCK: Permission denied", true),
        ("IO error: lock hold by current process, acquire time 1 acquiring thread 2: /db/LOCK: No locks available", true),
        ("IO error: While lock file: /db/LOCK: No locks available", false),
        ("IO error: while open a file for lock: /db/LOCK: Permission denied", false),
        ("IO error: while open a file for lock: /db/LOCK: Too many open files", false),
    ] {
        assert_eq!(super::is_held(said), expected, "{said}");
    }
}

#[test]
fn a_number_of_errors_that_is_not_told_is_not_none() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir, Expect::Nothing);
    let told = |name: &str| super::errors_told(engine.db.property_int_value(name));
    assert_eq!(told("rocksdb.background-errors"), Ok(0));
    assert!(told("rocksdb.errors-that-it-has-no-word-for").is_err());
}

#[test]
fn a_scan_ends_between_two_records_once_the_node_is_to_stop() {
    let dir = TempDir::new().unwrap();
    let mut engine = open(&dir, Expect::Nothing);
    let (name, partition, target) = (Name::new("b", "k"), PartitionId(0), NodeId([1; 16]));
    engine.write(partition, &name, &object(1, 10)).unwrap();
    for partition in 0..3 {
        engine.write_hint(target, PartitionId(partition), &name, &object(1, 10)).unwrap();
    }
    engine.commit().unwrap();
    assert_eq!(engine.partitions(), Ok(vec![partition]));
    let stop = engine.interrupt();
    let mut seen = 0;
    let ended = engine.walk(Family::Hints, &[], None, |_, _| {
        seen += 1;
        stop.store(true, Ordering::Relaxed);
        Ok(ControlFlow::Continue(()))
    });
    assert_eq!((ended.is_err(), seen), (true, 1));
    assert!(engine.partitions().is_err());
}

#[test]
fn a_missing_or_damaged_database_is_never_made_anew() {
    let dir = TempDir::new().unwrap();
    let missing = RocksEngine::open(&path(&dir), &settings(), Expect::Database).err().unwrap();
    assert!(matches!(missing, OpenError::Missing { .. }), "{missing:?}");
    assert!(!path(&dir).exists());
    drop(open(&dir, Expect::Nothing));
    std::fs::write(path(&dir).join("CURRENT"), "MANIFEST-999999\n").unwrap();
    let damaged = RocksEngine::open(&path(&dir), &settings(), Expect::Database).err().unwrap();
    assert!(matches!(damaged, OpenError::Damaged { .. }), "{damaged:?}");
}

#[test]
fn a_damaged_object_is_an_error_and_not_an_absence() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir, Expect::Nothing);
    let name = Name::new("b", "k");
    let key = super::key::of_object(PartitionId(0), name.position(), &name);
    let mut bytes = object(1, 10).encode().to_vec();
    bytes[9] ^= 1;
    engine.db.put_cf(engine.handle(Family::Data), key, bytes).unwrap();
    assert!(engine.read(PartitionId(0), &name).unwrap_err().0.contains("checksum"));
    assert!(engine.scan(PartitionId(0), None, 1, 1).is_err());
}

#[test]
fn whoever_drops_the_syncer_waits_until_it_has_let_go_of_the_database() {
    let dir = TempDir::new().unwrap();
    let mut engine = open(&dir, Expect::Nothing);
    let syncer = Syncer::start(engine.log()).unwrap();
    syncer.committed(engine.commit().unwrap());
    drop(syncer);
    assert_eq!(Arc::strong_count(&engine.db), 1);
}

/// Writes ten files of objects into the first level, two more than start a compaction, and keeps them there.
fn write_files(engine: &mut RocksEngine) {
    engine.compact(false).unwrap();
    for round in 0..10 {
        let name = Name::new("b", "k");
        engine.write(name.position().partition(2), &name, &object(round, 100)).unwrap();
        engine.commit().unwrap();
        engine.db.flush_cf(engine.handle(Family::Data)).unwrap();
    }
    assert_eq!(of_data(engine, "rocksdb.num-files-at-level0"), 10);
}

fn of_data(engine: &RocksEngine, name: &str) -> u64 {
    engine.db.property_int_value_cf(engine.handle(Family::Data), name).unwrap().unwrap()
}

/// All that was begun has ended, and what it gave rise to.
fn wait_for_compactions(engine: &RocksEngine) {
    engine.db.wait_for_compact(&rocksdb::WaitForCompactOptions::default()).unwrap();
}

#[test]
fn files_are_not_compacted_on_a_disk_that_is_nearly_full_and_are_when_there_is_room_again() {
    let dir = TempDir::new().unwrap();
    let mut engine = open(&dir, Expect::Nothing);
    write_files(&mut engine);
    engine.check_background().unwrap();
    engine.compact(true).unwrap();
    wait_for_compactions(&engine);
    assert_eq!(of_data(&engine, "rocksdb.num-files-at-level0"), 0);
    std::fs::remove_dir_all(path(&dir)).unwrap();
    let error = engine.compact(false).unwrap_err().to_string();
    assert!(error.contains("turn compaction on or off: "), "only a full disk may be tried again: {error}");
}

#[test]
fn a_start_compacts_no_objects_before_it_is_told_that_there_is_room() {
    let dir = TempDir::new().unwrap();
    let mut engine = open(&dir, Expect::Nothing);
    write_files(&mut engine);
    drop(engine);
    let engine = open(&dir, Expect::Database);
    assert_eq!(of_data(&engine, "rocksdb.num-running-compactions"), 0);
    wait_for_compactions(&engine);
    assert_eq!(of_data(&engine, "rocksdb.num-files-at-level0"), 10);
    assert_eq!(engine.compact(true), Ok(true));
    wait_for_compactions(&engine);
    assert_eq!(of_data(&engine, "rocksdb.num-files-at-level0"), 0);
}

/// A database with as many partitions in files of the last level, and what those files take.
fn filled(dir: &TempDir, partitions: u32) -> RocksEngine {
    let mut engine = open(dir, Expect::Nothing);
    // A file that meets no other is moved down as it is.
    for _ in 0..2 {
        for partition in 0..partitions {
            for counter in 0..64 {
                let name = Name::new("b", format!("{partition}-{counter}"));
                engine.write(PartitionId(partition), &name, &object(counter, 4_000)).unwrap();
            }
        }
        engine.commit().unwrap();
        engine.db.flush_cf(engine.handle(Family::Data)).unwrap();
    }
    to_the_last_level(&engine);
    engine
}

fn to_the_last_level(engine: &RocksEngine) {
    let data = engine.handle(Family::Data);
    engine.db.flush_cf(data).unwrap();
    engine.db.compact_range_cf::<&[u8], &[u8]>(data, None, None);
}

fn size(engine: &RocksEngine) -> u64 {
    of_data(engine, "rocksdb.live-sst-files-size")
}

fn count(engine: &RocksEngine, partition: u32) -> usize {
    engine.scan(PartitionId(partition), None, usize::MAX, usize::MAX).unwrap().len()
}

#[test]
fn a_dropped_partitions_files_are_gone_after_the_next_fsync_even_if_nothing_is_compacted() {
    let dir = TempDir::new().unwrap();
    let mut engine = filled(&dir, 4);
    engine.compact(false).unwrap();
    let before = size(&engine);
    engine.drop_partition(PartitionId(1)).unwrap();
    engine.commit().unwrap();
    assert_eq!(size(&engine), before, "a crash may still take the drop back");
    sync(&engine);
    let left = size(&engine) as f64 / before as f64;
    assert!((0.74..0.76).contains(&left), "{left} of the files are left");
    drop(engine);
    let engine = open(&dir, Expect::Database);
    assert_eq!([0, 1, 2, 3].map(|partition| count(&engine, partition)), [64, 0, 64, 64]);
}

#[test]
fn what_is_written_to_a_dropped_partition_before_its_files_go_is_kept() {
    for in_one_group in [false, true] {
        let dir = TempDir::new().unwrap();
        let mut engine = filled(&dir, 2);
        engine.drop_partition(PartitionId(1)).unwrap();
        if !in_one_group {
            engine.commit().unwrap();
        }
        let name = Name::new("b", "new");
        engine.write(PartitionId(1), &name, &object(1, 4_000)).unwrap();
        engine.commit().unwrap();
        to_the_last_level(&engine);
        sync(&engine);
        assert_eq!((count(&engine, 0), count(&engine, 1)), (64, 1), "in one group: {in_one_group}");
        assert_eq!(engine.read(PartitionId(1), &name), Ok(Some(object(1, 4_000))));
    }
}

#[test]
fn an_fsync_before_a_partition_was_dropped_again_frees_nothing() {
    let dir = TempDir::new().unwrap();
    let mut engine = filled(&dir, 2);
    let drop_it = |engine: &mut RocksEngine| {
        engine.drop_partition(PartitionId(1)).unwrap();
        engine.commit().unwrap();
    };
    drop_it(&mut engine);
    let due = engine.dropped.due(&engine.db, &engine.write_options).unwrap().unwrap();
    engine.write(PartitionId(1), &Name::new("b", "new"), &object(1, 10)).unwrap();
    engine.commit().unwrap();
    drop_it(&mut engine);
    let before = size(&engine);
    engine.dropped.free(due, &engine.db).unwrap();
    assert_eq!(size(&engine), before, "a crash may still take the second drop back");
    sync(&engine);
    assert!(size(&engine) < before);
}

#[test]
fn each_look_for_a_dropped_partitions_files_leaves_a_tombstone_that_is_newer_than_what_is_spared() {
    let dir = TempDir::new().unwrap();
    let mut engine = filled(&dir, 2);
    engine.drop_partition(PartitionId(1)).unwrap();
    engine.commit().unwrap();
    sync(&engine);
    // The first look took the files, and the tombstone with them. This stands for a file that was being compacted, and stayed.
    let name = Name::new("b", "old");
    let key = super::key::of_object(PartitionId(1), name.position(), &name);
    engine.db.put_cf(engine.handle(Family::Data), key, object(1, 4_000).encode()).unwrap();
    assert_eq!(count(&engine, 1), 1);
    engine.dropped.hurry();
    sync(&engine);
    assert_eq!((count(&engine, 0), count(&engine, 1)), (64, 0));
    drop(engine);
    assert_eq!(count(&open(&dir, Expect::Database), 1), 0);
}

#[test]
fn while_a_dropped_partitions_files_go_what_was_fsynced_is_reported_and_others_are_written_to() {
    let dir = TempDir::new().unwrap();
    let mut engine = filled(&dir, 4);
    let before = size(&engine);
    let (committed, wanted) = mpsc::channel();
    let (report, reports) = tokio::sync::watch::channel::<syncer::Durable>(Ok(Ticket(0)));
    let ((tell, told), (go_on, may_go_on)) = (mpsc::channel(), mpsc::channel());
    let known = reports.clone();
    *engine.dropped.before_files_go.lock().unwrap() = Some(Box::new(move |dropped: &Dropped| {
        tell.send((known.borrow().clone(), dropped.is_locked())).unwrap();
        // Nobody says so any more where the test has failed.
        may_go_on.recv().unwrap_or_default();
    }));
    engine.drop_partition(PartitionId(1)).unwrap();
    engine.drop_partition(PartitionId(2)).unwrap();
    let dropped = engine.commit().unwrap();
    committed.send(dropped).unwrap();
    let log = engine.log();
    let thread = std::thread::spawn(move || syncer::run(&log, &wanted, &report, &Mutex::default()));
    assert_eq!(told.recv().unwrap(), (Ok(dropped), false));
    engine.write(PartitionId(0), &Name::new("b", "new"), &object(1, 10)).unwrap();
    let written = engine.commit().unwrap();
    committed.send(written).unwrap();
    go_on.send(()).unwrap();
    assert_eq!(told.recv().unwrap(), (Ok(written), false), "it did not wait for the files of the second one");
    go_on.send(()).unwrap();
    drop(committed);
    thread.join().unwrap();
    assert_eq!(*reports.borrow(), Ok(written));
    let left = size(&engine) as f64 / before as f64;
    assert!((0.49..0.51).contains(&left), "{left} of the files are left");
    assert_eq!([0, 1, 2, 3].map(|partition| count(&engine, partition)), [65, 0, 0, 64]);
}

#[test]
fn files_of_all_partitions_that_were_dropped_go_even_if_nobody_commits_any_more() {
    let dir = TempDir::new().unwrap();
    let mut engine = filled(&dir, 4);
    let syncer = Syncer::start(engine.log()).unwrap();
    let (tell, told) = mpsc::channel();
    *engine.dropped.before_files_go.lock().unwrap() = Some(Box::new(move |_: &Dropped| tell.send(()).unwrap()));
    for partition in 1..4 {
        engine.drop_partition(PartitionId(partition)).unwrap();
    }
    let dropped = engine.commit().unwrap();
    syncer.committed(dropped);
    assert_eq!(told.iter().take(3).count(), 3);
    assert_eq!(syncer.finish(), Ok(dropped));
}

#[test]
fn files_that_stayed_are_looked_for_again_even_if_nobody_commits_any_more() {
    let dir = TempDir::new().unwrap();
    let mut engine = filled(&dir, 4);
    let syncer = Syncer::start(engine.log()).unwrap();
    let (tell, told) = mpsc::channel();
    *engine.dropped.before_files_go.lock().unwrap() = Some(Box::new(move |_: &Dropped| tell.send(()).unwrap()));
    engine.dropped.look_every(Duration::from_millis(20));
    for partition in 1..4 {
        engine.drop_partition(PartitionId(partition)).unwrap();
    }
    let dropped = engine.commit().unwrap();
    syncer.committed(dropped);
    let looks = 3 * usize::from(LOOKS);
    let seen = std::iter::from_fn(|| told.recv_timeout(Duration::from_secs(60)).ok()).take(looks).count();
    assert_eq!(seen, looks, "each partition is looked for {LOOKS} times");
    assert_eq!(syncer.finish(), Ok(dropped));
    assert_eq!(told.try_iter().count(), 0, "and then no more");
}

#[test]
fn files_that_a_killed_process_had_not_given_back_go_at_the_next_start_unless_the_partition_is_written_to_before() {
    for written in [false, true] {
        let dir = TempDir::new().unwrap();
        let mut engine = filled(&dir, 4);
        let before = size(&engine);
        engine.drop_partition(PartitionId(1)).unwrap();
        engine.commit().unwrap();
        engine.db.flush_wal(true).unwrap();
        drop(engine);
        let mut engine = open(&dir, Expect::Database);
        engine.compact(false).unwrap();
        if written {
            engine.write(PartitionId(1), &Name::new("b", "new"), &object(1, 10)).unwrap();
            engine.commit().unwrap();
        }
        sync(&engine);
        let left = size(&engine) as f64 / before as f64;
        assert_eq!(left < 0.8, !written, "{left} of the files are left");
        assert_eq!([0, 1, 2, 3].map(|partition| count(&engine, partition)), [64, usize::from(written), 64, 64]);
    }
}

#[test]
fn a_damaged_block_beneath_writes_that_wait_is_an_error_and_not_the_end() {
    let dir = TempDir::new().unwrap();
    drop(filled(&dir, 1));
    let file = std::fs::read_dir(path(&dir)).unwrap().map(|entry| entry.unwrap().path());
    let file = file.filter(|file| file.extension().is_some_and(|extension| extension == "sst")).max().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    // The objects are in the first half.
    let at = bytes.len() / 3;
    bytes[at] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let mut engine = open(&dir, Expect::Database);
    for counter in 0..64 {
        engine.write(PartitionId(0), &Name::new("b", format!("new-{counter}")), &object(counter, 10)).unwrap();
    }
    assert_eq!(engine.scan(PartitionId(0), None, 4, usize::MAX).unwrap().len(), 4, "what is before it can be read");
    let found = engine.scan(PartitionId(0), None, 80, usize::MAX);
    assert!(found.as_ref().is_err_and(|error| error.0.contains("scan")), "{:?}", found.map(|found| found.len()));
}

#[test]
fn removed_hints_free_their_space_even_on_a_disk_that_is_nearly_full() {
    let dir = TempDir::new().unwrap();
    let mut engine = open(&dir, Expect::Nothing);
    let size = |engine: &RocksEngine| {
        wait_for_compactions(engine);
        let hints = engine.handle(Family::Hints);
        engine.db.property_int_value_cf(hints, "rocksdb.live-sst-files-size").unwrap().unwrap()
    };
    // Too few for their removals to fill a memtable. The first target's are delivered, the second's wait on.
    let (target, other) = (NodeId([1; 16]), NodeId([2; 16]));
    let names: Vec<Name> = (0..400).map(|counter| Name::new("b", counter.to_string())).collect();
    let mut random = Random::new(1);
    let mut hint = || {
        let mut object = object(1, 0);
        let actor = Actor { node: NodeId([1; 16]), incarnation: Incarnation(1) };
        let data: Vec<u8> = (0..500).flat_map(|_| random.next_u64().to_be_bytes()).collect();
        object.update(&CausalContext::default(), Dot { actor, counter: 7 }, Value { data: Some(data.into()), written_ms: 1 });
        object
    };
    for names in names.chunks(20) {
        for name in names {
            engine.write_hint(target, PartitionId(0), name, &hint()).unwrap();
        }
        engine.write_hint(other, PartitionId(0), &names[0], &hint()).unwrap();
        engine.commit().unwrap();
    }
    engine.db.flush_cf(engine.handle(Family::Hints)).unwrap();
    let before = size(&engine);
    engine.compact(false).unwrap();
    for name in &names {
        engine.remove_hint(target, PartitionId(0), name).unwrap();
    }
    engine.commit().unwrap();
    engine.write_out_removals().unwrap();
    let left = size(&engine);
    assert!(left < before / 5, "{left} of {before} bytes are left");
    assert_eq!(engine.hint_totals().unwrap()[&other].0, 20);
}

/// The type of each record of a log: the last byte of the seven before its payload. Of one block.
fn record_types(log: &[u8]) -> Vec<usize> {
    let mut at = 0;
    let mut types = Vec::new();
    while let Some([.., low, high, _]) = log.get(at..at + 7) {
        types.push(at + 6);
        at += 7 + usize::from(u16::from_le_bytes([*low, *high]));
    }
    types
}

#[test]
fn a_flipped_bit_in_the_type_of_a_record_does_not_keep_the_database_opening_for_ever() {
    let dir = TempDir::new().unwrap();
    let mut engine = open(&dir, Expect::Nothing);
    for counter in 0..4 {
        engine.write(PartitionId(0), &Name::new("b", format!("k{counter}")), &object(counter, 10)).unwrap();
        engine.commit().unwrap();
        sync(&engine);
    }
    drop(engine);
    let (mut damaged, mut short) = (0, 0);
    let logs = ["MANIFEST-", ".log"].map(|part| {
        let names = std::fs::read_dir(path(&dir)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains(part)).max().unwrap()
    });
    for name in logs {
        let whole = std::fs::read(path(&dir).join(&name)).unwrap();
        let types = record_types(&whole);
        assert!(types.len() > 3, "{name}: {types:?}");
        for (at, bit) in types.into_iter().flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let copy = TempDir::new().unwrap();
            std::fs::create_dir(path(&copy)).unwrap();
            for entry in std::fs::read_dir(path(&dir)).unwrap().chain(std::fs::read_dir(dir.path()).unwrap()) {
                let from = entry.unwrap().path();
                let to = copy.path().join(from.strip_prefix(dir.path()).unwrap());
                if from.is_file() {
                    std::fs::copy(&from, to).unwrap();
                }
            }
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            std::fs::write(path(&copy).join(&name), bytes).unwrap();
            // In a thread, so that this test ends even if that does not.
            let (tell, told) = mpsc::channel();
            std::thread::spawn(move || {
                let opened = RocksEngine::open(&path(&copy), &settings(), Expect::Database);
                drop(tell.send(opened.map(|engine| engine.recovery())));
            });
            match told.recv_timeout(Duration::from_secs(60)) {
                Ok(Ok(recovery)) if recovery != Recovery::Whole => short += 1,
                Ok(Err(OpenError::Damaged { .. })) => damaged += 1,
                other => panic!("{name}, byte {at}, bit {bit}: {other:?}"),
            }
        }
    }
    assert!(damaged > short, "{damaged} were refused, {short} found short");
}

#[test]
fn a_log_with_a_hole_of_zeros_is_refused() {
    const BLOCK: usize = 32 << 10;
    let dir = TempDir::new().unwrap();
    let mut engine = open(&dir, Expect::Nothing);
    let files = std::fs::read_dir(path(&dir)).unwrap().map(|entry| entry.unwrap().path());
    let log = files.filter(|file| file.extension().is_some_and(|end| end == "log")).max().unwrap();
    let mut key = 1_000;
    // The length of the log after a record with this many bytes of value.
    let mut write = |bytes: usize| {
        key += 1;
        engine.write(PartitionId(0), &Name::new("b", format!("{key}")), &object(1, bytes)).unwrap();
        engine.commit().unwrap();
        sync(&engine);
        std::fs::metadata(&log).unwrap().len() as usize
    };
    let first = write(0);
    let least = write(0) - first;
    let mut length = write(0);
    // A record ends where the first block does: so the next block begins with one, and not with a part of one.
    while length < BLOCK {
        let left = BLOCK - length;
        length = write(if left < 2 * least { left - least } else { (left - 2 * least).min(50) });
    }
    assert_eq!(length, BLOCK);
    for _ in 0..10 {
        write(0);
    }
    drop(engine);
    let mut bytes = std::fs::read(&log).unwrap();
    let types = record_types(&bytes[..BLOCK]);
    bytes[types[types.len() / 2] - 6..BLOCK].fill(0);
    std::fs::write(&log, bytes).unwrap();
    let refused = RocksEngine::open(&path(&dir), &settings(), Expect::Database).err().map(|error| error.to_string());
    assert!(refused.as_ref().is_some_and(|error| error.contains("zeros from byte")), "{refused:?}");
}

/// A database of three groups that were fsynced, and of these that were not; and its log.
fn unsynced(dir: &TempDir, groups: &[usize]) -> PathBuf {
    let mut engine = open(dir, Expect::Nothing);
    for (counter, bytes) in [10, 10, 10].iter().chain(groups).enumerate() {
        engine.write(PartitionId(0), &Name::new("b", format!("k{counter}")), &object(counter as u64, *bytes)).unwrap();
        engine.commit().unwrap();
        if counter < 3 {
            sync(&engine);
        }
    }
    engine.db.flush_wal(false).unwrap();
    drop(engine);
    let files = std::fs::read_dir(path(dir)).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|file| file.extension().is_some_and(|end| end == "log")).max().unwrap()
}

/// What a bit does that is turned so many bytes before the end of the log.
fn spoil(log: &std::path::Path, from_the_end: usize) {
    let mut bytes = std::fs::read(log).unwrap();
    let at = bytes.len() - from_the_end;
    bytes[at] ^= 1;
    std::fs::write(log, bytes).unwrap();
}

#[test]
fn damage_that_a_power_loss_left_at_the_end_of_the_log_is_cut_off_and_the_log_counts_as_short() {
    for bytes in [100, 200_000] {
        let dir = TempDir::new().unwrap();
        let log = unsynced(&dir, &[bytes]);
        let length = std::fs::metadata(&log).unwrap().len();
        spoil(&log, bytes / 2);
        let mut engine = open(&dir, Expect::Database);
        assert_eq!((engine.recovery(), found_short(&engine)), (Recovery::Unknown, 1));
        let found = (0..4).map(|counter| engine.read(PartitionId(0), &Name::new("b", format!("k{counter}"))).unwrap().is_some());
        assert_eq!(found.collect::<Vec<_>>(), [true, true, true, false], "{bytes} bytes");
        let cut = std::fs::metadata(path(&dir).with_extension("cut")).unwrap().len();
        assert!((bytes as u64..length).contains(&cut), "{cut} bytes of {length}");
        // As before, from the next fsync on.
        engine.write(PartitionId(0), &Name::new("b", "new"), &object(1, 10)).unwrap();
        engine.commit().unwrap();
        sync(&engine);
        drop(engine);
        let engine = open(&dir, Expect::Database);
        assert_eq!((engine.recovery(), count(&engine, 0), found_short(&engine)), (Recovery::Whole, 4, 0));
    }
}

/// What the metric says of the start.
fn found_short(engine: &RocksEngine) -> u64 {
    engine.figures().iter().find(|figure| figure.name == "storage_found_short").unwrap().value
}

#[test]
fn of_a_log_that_lost_its_end_the_metric_says_so_where_that_was_synced_or_nobody_can_tell() {
    // What was written after the last fsync, the bytes that the log loses, and whether what was fsynced is remembered.
    for (what, groups, lost, remembered, expected) in [
        ("whole", &[10][..], 0, true, 0),
        ("the end was synced", &[], 5, true, 1),
        ("the end was not synced", &[10], 5, true, 0),
        ("nobody can tell", &[10], 0, false, 1),
    ] {
        let dir = TempDir::new().unwrap();
        let log = std::fs::OpenOptions::new().write(true).open(unsynced(&dir, groups)).unwrap();
        log.set_len(log.metadata().unwrap().len() - lost).unwrap();
        if !remembered {
            std::fs::remove_file(path(&dir).with_extension("synced")).unwrap();
        }
        assert_eq!(found_short(&open(&dir, Expect::Database)), expected, "{what}");
    }
    assert_eq!(found_short(&open(&TempDir::new().unwrap(), Expect::Nothing)), 0, "new");
}

#[test]
fn damage_of_what_was_fsynced_or_may_have_been_is_refused_and_nothing_is_cut_off() {
    let damaged = |groups: &[usize], damage: &dyn Fn(&TempDir, &std::path::Path)| {
        let dir = TempDir::new().unwrap();
        let log = unsynced(&dir, groups);
        damage(&dir, &log);
        let before = std::fs::read(&log).unwrap();
        let refused = RocksEngine::open(&path(&dir), &settings(), Expect::Database).err();
        assert!(matches!(refused, Some(OpenError::Damaged { .. })), "{refused:?}");
        assert!(std::fs::read(&log).unwrap() == before && !path(&dir).with_extension("cut").exists());
    };
    damaged(&[], &|_, log| spoil(log, 5));
    damaged(&[100, 100], &|_, log| spoil(log, 250));
    damaged(&[100], &|dir, log| {
        std::fs::remove_file(path(dir).with_extension("synced")).unwrap();
        spoil(log, 5);
    });
}

#[test]
fn a_cut_that_was_interrupted_is_finished_by_the_next_start_if_what_it_kept_is_what_would_be_cut() {
    // What the process that ended had kept of the end of the log, and whether the next one opens the database.
    type Kept = fn(&[u8]) -> Vec<u8>;
    let cases: [(&str, Kept, bool); 5] = [
        ("the end", |end| end.to_vec(), true),
        ("less", |end| end[..end.len() - 1].to_vec(), false),
        ("more", |end| [end, &[0]].concat(), false),
        ("another one", |end| end.iter().map(|byte| byte ^ 1).collect(), false),
        ("nothing", |_| Vec::new(), false),
    ];
    for (what, kept, opens) in cases {
        let dir = TempDir::new().unwrap();
        let log = unsynced(&dir, &[100]);
        spoil(&log, 50);
        let bytes = std::fs::read(&log).unwrap();
        let from = record_types(&bytes).last().unwrap() - 6;
        std::fs::write(path(&dir).with_extension("cut"), kept(&bytes[from..])).unwrap();
        std::fs::write(path(&dir).with_extension("synced"), []).unwrap();
        let opened = RocksEngine::open(&path(&dir), &settings(), Expect::Database);
        if opens {
            let engine = opened.unwrap();
            assert_eq!((engine.recovery(), found_short(&engine), count(&engine, 0)), (Recovery::Unknown, 1, 3), "{what}");
        } else {
            let refused = opened.err();
            assert!(matches!(refused, Some(OpenError::Damaged { left: Left::AsItIs, .. })), "{what}: {refused:?}");
            assert!(std::fs::read(&log).unwrap() == bytes, "{what}");
        }
    }
}

#[test]
fn a_database_that_does_not_open_after_its_log_was_cut_either_says_where_that_is_kept() {
    let dir = TempDir::new().unwrap();
    let log = unsynced(&dir, &[100]);
    let length = std::fs::metadata(&log).unwrap().len();
    spoil(&log, 50);
    remove_manifest(&dir);
    let error = RocksEngine::open(&path(&dir), &settings(), Expect::Database).err().map(|error| error.to_string());
    let kept = path(&dir).with_extension("cut");
    let told = format!("the damaged end of its log was cut off, and is kept in {}", kept.display());
    assert!(error.as_ref().is_some_and(|error| error.contains(&told) && !error.contains("left as it is")), "{error:?}");
    assert_eq!(std::fs::metadata(&log).unwrap().len() + std::fs::metadata(&kept).unwrap().len(), length);
}

#[test]
fn a_database_whose_log_may_have_been_cut_is_not_said_to_be_as_it_was() {
    let damaged = OpenError::Damaged { path: "db".into(), reason: "torn".into(), left: Left::AsItIs };
    let failed = Some(std::io::Error::other("the disk is gone"));
    let told = damaged.after(&Cut { kept: "db.cut".into(), failed }).to_string();
    assert!(told.contains("may have been cut off, and is kept in db.cut") && !told.contains("left as it is"), "{told}");
}

#[test]
fn a_database_whose_files_were_removed_works_no_more() {
    let dir = TempDir::new().unwrap();
    let mut engine = open(&dir, Expect::Nothing);
    assert_eq!(engine.check_background(), Ok(()));
    std::fs::remove_dir_all(path(&dir)).unwrap();
    engine.write(PartitionId(0), &Name::new("b", "k"), &object(1, 1)).unwrap();
    engine.commit().unwrap();
    assert!(engine.log().sync().is_ok(), "RocksDB does not notice it");
    let error = engine.check_background().unwrap_err().to_string();
    assert!(error.contains("was removed") && error.contains("start a new node"), "{error}");
    // Something was mounted in their place.
    let other = TempDir::new().unwrap();
    let mut engine = open(&other, Expect::Nothing);
    engine.device += 1;
    assert!(engine.check_background().is_err());
}

fn remove_manifest(dir: &TempDir) {
    let names = std::fs::read_dir(path(dir)).unwrap().map(|entry| entry.unwrap().path());
    let manifest = names.filter(|name| name.to_str().unwrap().contains("MANIFEST-")).max().unwrap();
    std::fs::remove_file(manifest).unwrap();
}

#[test]
fn a_database_that_lacks_a_file_says_what_to_do() {
    let dir = TempDir::new().unwrap();
    drop(open(&dir, Expect::Nothing));
    remove_manifest(&dir);
    let error = RocksEngine::open(&path(&dir), &settings(), Expect::Database).err().map(|error| error.to_string());
    assert!(error.as_ref().is_some_and(|error| error.contains("is damaged") && error.contains("start a new node")), "{error:?}");
}

#[test]
fn the_bytes_of_memtables_are_those_of_objects_and_hints_that_were_written() {
    const BYTES: usize = 50_000;
    let dir = TempDir::new().unwrap();
    let mut engine = open(&dir, Expect::Nothing);
    let (name, partition) = (Name::new("b", "k"), PartitionId(0));
    let memtables = |engine: &RocksEngine| {
        let figures = engine.figures();
        figures.iter().find(|figure| figure.name == "storage_memtable_bytes").unwrap().value as usize
    };
    let empty = memtables(&engine);
    engine.write(partition, &name, &object(1, BYTES)).unwrap();
    engine.commit().unwrap();
    let with_object = memtables(&engine);
    assert!(with_object >= empty + BYTES, "{empty}, {with_object}");
    engine.write_hint(NodeId([2; 16]), partition, &name, &object(1, BYTES)).unwrap();
    engine.commit().unwrap();
    assert!(memtables(&engine) >= with_object + BYTES, "{with_object}, {}", memtables(&engine));
}
