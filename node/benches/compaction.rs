//! What writes cost in RocksDB when they go on for long: the settings that nodes have, and others beside them.
//!
//! Records are loaded, then overwritten in random order, in groups as a node's loop makes them. The cost is the CPU time of the
//! whole process, flushes and compactions included, so it is the same beside other work. The last third of the writes is what to
//! look at: by then files are rewritten as often as they always will be. At the end objects are read, and a quarter of the
//! partitions is dropped as a node drops those that moved away.
//!
//! `make compaction`, or `make compaction ONLY="--writes 10000000 --records 2000000 blobs"`.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use dynamo_core::random::Random;
use dynamo_node::config::StorageSettings;
use dynamo_node::storage::{Expect, options};
use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DBCompactionStyle, DBCompressionType, Options, WaitForCompactOptions, WriteBatch,
    WriteOptions,
};
use rustix::time::{ClockId, clock_gettime};

/// Writes in a group, as of 64 clients.
const GROUP: u64 = 64;
/// Groups between two times that the log's buffer is written out.
const GROUPS_A_FLUSH: u64 = 16;
const VALUE_BYTES: usize = 1024;
const PARTITIONS: u64 = 64;
const READS: u64 = 200_000;
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
const FAMILY: &str = "data";

/// Settings that are tried.
struct Candidate {
    name: &'static str,
    change: fn(&mut Options),
}

const CANDIDATES: [Candidate; 6] = [
    Candidate { name: "as nodes have it: leveled, memtables of 64 MiB", change: |_| {} },
    Candidate { name: "memtables of 128 MiB", change: |options| options.set_write_buffer_size(128 << 20) },
    Candidate {
        name: "no LZ4 on lower levels",
        change: |options| options.set_compression_per_level(&[DBCompressionType::None; 7]),
    },
    Candidate { name: "universal", change: |options| options.set_compaction_style(DBCompactionStyle::Universal) },
    Candidate { name: "blobs: values apart from 512 bytes on", change: values_apart },
    Candidate {
        name: "blobs, universal",
        change: |options| {
            values_apart(options);
            options.set_compaction_style(DBCompactionStyle::Universal);
        },
    },
];

fn values_apart(options: &mut Options) {
    options.set_enable_blob_files(true);
    options.set_min_blob_size(512);
    options.set_enable_blob_gc(true);
}

/// What was asked for on the command line.
struct Arguments {
    measures: bool,
    records: u64,
    writes: u64,
    filter: Option<String>,
}

impl Arguments {
    fn read() -> Self {
        let words: Vec<String> = std::env::args().skip(1).collect();
        let measures = words.iter().any(|word| word == "--bench");
        let (mut records, mut writes, mut filter) = if measures { (1_000_000, 6_000_000, None) } else { (256, 256, None) };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let number = |words: &mut std::vec::IntoIter<String>| {
                let number = words.next().and_then(|word| word.parse().ok()).filter(|number: &u64| *number >= GROUP);
                number.unwrap_or_else(|| panic!("{word}: give a number of {GROUP} or more"))
            };
            match word.as_str() {
                "--records" => records = number(&mut words),
                "--writes" => writes = number(&mut words),
                _ if word.starts_with('-') => {}
                _ => filter = Some(word),
            }
        }
        Self { measures, records, writes, filter }
    }
}

/// A database and what is written into it.
struct Run {
    db: DB,
    random: Random,
    pool: Vec<u8>,
    records: u64,
    groups: u64,
}

impl Run {
    fn open(folder: &Path, candidate: &Candidate, records: u64) -> Self {
        let settings = StorageSettings::default();
        let mut family = options::objects(&settings, &options::block_cache(&settings));
        (candidate.change)(&mut family);
        let families = [ColumnFamilyDescriptor::new(FAMILY, family)];
        let database = options::database(Expect::Nothing, u64::MAX);
        let db = DB::open_cf_descriptors(&database, folder, families).expect("a database in a new folder");
        let mut random = Random::new(1);
        let pool = (0..1 << 17).flat_map(|_| random.next_u64().to_le_bytes()).collect();
        Self { db, random, pool, records, groups: 0 }
    }

    fn family(&self) -> &ColumnFamily {
        self.db.cf_handle(FAMILY).expect("it was opened")
    }

    /// As nodes name objects: partition, a position that looks random, and what the client calls it.
    fn key(record: u64) -> Vec<u8> {
        let position = record.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let partition = u16::try_from(position % PARTITIONS).expect("few partitions").to_be_bytes();
        [
            &partition[..],
            &position.to_be_bytes(),
            &position.rotate_left(32).to_be_bytes(),
            format!("bench\0\0user{record:010}").as_bytes(),
        ]
        .concat()
    }

    fn any(&mut self) -> u64 {
        self.random.next_u64() % self.records
    }

    /// A group of writes, one batch.
    fn write(&mut self, records: impl Iterator<Item = u64>) {
        let mut batch = WriteBatch::default();
        for record in records {
            let start = self.random.below(self.pool.len() - VALUE_BYTES);
            batch.put_cf(self.family(), Self::key(record), &self.pool[start..start + VALUE_BYTES]);
        }
        let mut how = WriteOptions::default();
        how.set_sync(false);
        self.db.write_opt(batch, &how).expect("the disk works");
        self.groups += 1;
        if self.groups.is_multiple_of(GROUPS_A_FLUSH) {
            self.db.flush_wal(false).expect("the disk works");
        }
    }

    fn load(&mut self) {
        for first in (0..self.records).step_by(GROUP as usize) {
            self.write(first..(first + GROUP).min(self.records));
        }
    }

    fn overwrite(&mut self, writes: u64, mut progress: impl FnMut(u64)) {
        for done in (0..writes).step_by(GROUP as usize) {
            let records: Vec<u64> = (0..GROUP).map(|_| self.any()).collect();
            self.write(records.into_iter());
            progress(done);
        }
    }

    fn read(&mut self, reads: u64) {
        for _ in 0..reads {
            let key = Self::key(self.any());
            let found = self.db.get_pinned_cf_opt(self.family(), key, &options::reads()).expect("the disk works");
            assert_eq!(black_box(found).map(|value| value.len()), Some(VALUE_BYTES));
        }
    }

    /// Until nothing is left to flush or to compact.
    fn settle(&self) {
        let mut how = WaitForCompactOptions::default();
        how.set_flush(true);
        self.db.wait_for_compact(&how).expect("the disk works");
    }

    fn drop_partitions(&self, partitions: u64) {
        let end = u16::try_from(partitions).expect("few partitions");
        self.db.delete_range_cf(self.family(), 0_u16.to_be_bytes(), end.to_be_bytes()).expect("the disk works");
        self.db.delete_file_in_range_cf(self.family(), 0_u16.to_be_bytes(), end.to_be_bytes()).expect("the disk works");
        self.settle();
    }

    fn size(&self) -> u64 {
        ["rocksdb.total-sst-files-size", "rocksdb.total-blob-file-size"]
            .iter()
            .filter_map(|name| self.db.property_int_value_cf(self.family(), *name).ok().flatten())
            .sum()
    }
}

/// CPU time that all threads of this process have taken.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Bytes that this process gave to a disk.
fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0)
}

fn each(time: Duration, count: u64) -> f64 {
    time.as_nanos() as f64 / 1000.0 / count as f64
}

fn measure(candidate: &Candidate, arguments: &Arguments) -> String {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let mut run = Run::open(&folder.path().join("db"), candidate, arguments.records);
    run.load();
    run.settle();
    let last = arguments.writes / 3;
    let (began, before) = (cpu(), written());
    let mut told = Instant::now();
    let mut progress = |done: u64| {
        if arguments.measures && told.elapsed() >= PROGRESS_EVERY {
            eprintln!("{}: {done} of {} writes", candidate.name, arguments.writes);
            told = Instant::now();
        }
    };
    run.overwrite(arguments.writes - last, &mut progress);
    let two_thirds = cpu();
    run.overwrite(last, |done| progress(arguments.writes - last + done));
    let end = cpu();
    let (all, late) = (each(end - began, arguments.writes), each(end - two_thirds, last));
    let given = (written() - before) as f64 / (arguments.writes as f64 * VALUE_BYTES as f64);
    run.settle();
    let size = run.size() as f64 / (arguments.records as f64 * VALUE_BYTES as f64);
    let reads = if arguments.measures { READS } else { GROUP };
    let began = cpu();
    run.read(reads);
    let read = each(cpu() - began, reads);
    let began = cpu();
    run.drop_partitions(PARTITIONS / 4);
    let dropping = (cpu() - began).as_secs_f64();
    let left = run.size() as f64 / (arguments.records as f64 * VALUE_BYTES as f64);
    format!("{:<48} {all:>9.2} {late:>9.2} {given:>9.2} {size:>9.2} {read:>9.2} {dropping:>9.2} {left:>9.2}", candidate.name)
}

fn main() {
    let arguments = Arguments::read();
    let wanted = |candidate: &&Candidate| arguments.filter.as_ref().is_none_or(|word| candidate.name.contains(word.as_str()));
    println!(
        "{} records of {VALUE_BYTES} bytes, {} writes in groups of {GROUP}; the log is written and not synced\n\n{:<48} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        arguments.records,
        arguments.writes,
        "SETTINGS",
        "US/WRITE",
        "LAST 1/3",
        "DISK/DATA",
        "SIZE",
        "US/READ",
        "DROP 1/4",
        "SIZE THEN"
    );
    for candidate in CANDIDATES.iter().filter(wanted) {
        println!("{}", measure(candidate, &arguments));
    }
    println!(
        "\nUS/WRITE, LAST 1/3, US/READ: CPU microseconds of the process. DISK/DATA: bytes given to the disk, log included, over bytes of\n\
         values. SIZE, SIZE THEN: of all files over that of the values, before and after a quarter of the partitions was dropped.\n\
         DROP 1/4: CPU seconds that this took, compactions included."
    );
}
