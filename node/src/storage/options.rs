//! RocksDB's settings, all in one place, each with its reason.
//!
//! Two of them are not in the safe interface of the `rocksdb` crate and are set through RocksDB's C interface.

use std::ffi::{c_int, c_void};

use rocksdb::{
    AsRawPtr, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode, Options, ReadOptions,
};
use rustix::process::{Resource, getrlimit};

use super::{Expect, Family};
use crate::config::StorageSettings;

/// Below the first level a file of objects holds one partition only: whole files of a dropped partition go without a rewrite.
const PARTITION_PREFIX_BYTES: usize = 2;
/// Files that RocksDB may keep open when the process may open few; the rest is for sockets.
const OPEN_FILES_SHARE: u64 = 2;
/// Above this, RocksDB may keep all files open.
const OPEN_FILES_PLENTY: u64 = 65_536;
/// Memtables of objects that make one file: together they are as large as the settings say.
const MEMTABLES_PER_FILE: usize = 4;
/// The filter's share of a memtable: some 20 bits for each key of a value of 100 bytes, more for longer values.
const MEMTABLE_FILTER_RATIO: f64 = 0.02;
/// The log may take so much before RocksDB writes out the memtables that hold it back: eight memtables of the default size ...
const LOG_BYTES_MAX: u64 = 512 << 20;
/// ... at most this part of a small volume ...
const LOG_SHARE: u64 = 16;
/// ... and not less than this, or memtables would be written out by the handful.
const LOG_BYTES_MIN: u64 = 16 << 20;
/// New files of hints that start a compaction.
pub const HINT_FILES_TO_COMPACT: u64 = 4;
/// A file of hints of which this part are removals is compacted without waiting for others.
const HINT_REMOVALS_TO_COMPACT: f64 = 0.5;
const MIB: usize = 1 << 20;

/// Settings of the whole database, on a volume of this size.
pub fn database(expect: Expect, volume_bytes: u64) -> Options {
    let mut options = Options::default();
    options.create_if_missing(expect == Expect::Nothing);
    options.create_missing_column_families(expect == Expect::Nothing);
    options.set_paranoid_checks(true);
    // A torn tail is a crash in the middle of a group that nobody was told of; damage before the tail refuses to open.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    // Recycled logs may end in records of their former life, which the recovery mode above takes for damage.
    options.set_recycle_log_file_num(0);
    options.set_track_and_verify_wals_in_manifest(true);
    // The thread that fsyncs also writes the log's buffer out: one system call for all groups that gathered.
    options.set_manual_wal_flush(true);
    options.set_wal_bytes_per_sync(MIB as u64);
    options.set_bytes_per_sync(MIB as u64);
    options.set_max_total_wal_size(log_bytes_max(volume_bytes));
    // There is one writer, so the locks for several are a loss.
    options.set_allow_concurrent_memtable_write(false);
    options.set_enable_write_thread_adaptive_yield(false);
    options.set_max_background_jobs(2);
    options.set_avoid_unnecessary_blocking_io(true);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(8 * MIB);
    options.set_stats_dump_period_sec(0);
    options.set_max_open_files(open_files_max());
    never_resume_after_a_background_error(&options);
    options
}

fn log_bytes_max(volume_bytes: u64) -> u64 {
    (volume_bytes / LOG_SHARE).clamp(LOG_BYTES_MIN, LOG_BYTES_MAX)
}

/// What makes a family compact by itself, or not.
pub fn compacting(yes: bool) -> [(&'static str, &'static str); 1] {
    [("disable_auto_compactions", if yes { "false" } else { "true" })]
}

/// The cache of uncompressed blocks, shared by all families.
pub fn block_cache(settings: &StorageSettings) -> Cache {
    Cache::new_hyper_clock_cache(settings.block_cache_bytes, 0)
}

/// One family, with its settings. Objects are compacted once somebody has seen that there is room: RocksDB would begin while it opens, and
/// on a disk that is nearly full what it has begun cannot be stopped.
pub(super) fn family(family: Family, settings: &StorageSettings, cache: &Cache) -> ColumnFamilyDescriptor {
    let mut options = of(family, settings, cache);
    options.set_disable_auto_compactions(family == Family::Data);
    ColumnFamilyDescriptor::new(family.name(), options)
}

/// Settings of the objects, which are compacted from the beginning, to measure others beside them.
pub fn objects(settings: &StorageSettings, cache: &Cache) -> Options {
    of(Family::Data, settings, cache)
}

fn of(family: Family, settings: &StorageSettings, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_block_size(8 << 10);
    table.set_bloom_filter(10.0, false);
    table.set_optimize_filters_for_memory(true);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_compression_per_level(&[
        DBCompressionType::None,
        DBCompressionType::None,
        DBCompressionType::Lz4,
        DBCompressionType::Lz4,
        DBCompressionType::Lz4,
        DBCompressionType::Lz4,
        DBCompressionType::Lz4,
    ]);
    options.set_level_compaction_dynamic_level_bytes(true);
    match family {
        Family::Data => {
            // Rewriting is the hidden half of a write's cost: large files and late compaction keep it low.
            // But a walk down a memtable costs a wait for memory at each step: four smaller ones, most of whose nodes stay in the
            // processor's caches, are written out together as one.
            options.set_write_buffer_size(settings.write_buffer_bytes / MEMTABLES_PER_FILE);
            options.set_min_write_buffer_number_to_merge(MEMTABLES_PER_FILE as c_int);
            options.set_max_write_buffer_number(3 * MEMTABLES_PER_FILE as c_int);
            // Most writes of new keys look for a former version first: a filter spares the walk down the memtables.
            options.set_memtable_whole_key_filtering(true);
            options.set_memtable_prefix_bloom_ratio(MEMTABLE_FILTER_RATIO);
            options.set_level_zero_file_num_compaction_trigger(8);
            options.set_level_zero_slowdown_writes_trigger(24);
            options.set_level_zero_stop_writes_trigger(36);
            options.set_max_bytes_for_level_base(8 * settings.write_buffer_bytes as u64);
            options.set_target_file_size_base(64 * MIB as u64);
            cut_files_at_partitions(&options);
        }
        Family::Hints => {
            // Delivered hints free their space on a disk that is nearly full too, so no compaction may need much of it.
            options.set_write_buffer_size(settings.write_buffer_bytes / 4);
            options.set_target_file_size_base(16 * MIB as u64);
            options.set_max_bytes_for_level_base(64 * MIB as u64);
            options.set_level_zero_file_num_compaction_trigger(HINT_FILES_TO_COMPACT as i32);
            options.add_compact_on_deletion_collector_factory(0, 0, HINT_REMOVALS_TO_COMPACT);
        }
        Family::Meta => options.set_write_buffer_size(4 * MIB),
    }
    options
}

/// Settings of every read.
pub fn reads() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_verify_checksums(true);
    options
}

/// How many files RocksDB may keep open: all (-1) unless this process may open few.
fn open_files_max() -> c_int {
    match getrlimit(Resource::Nofile).current {
        Some(soft) if soft < OPEN_FILES_PLENTY => c_int::try_from(soft / OPEN_FILES_SHARE).unwrap_or(c_int::MAX),
        _ => -1,
    }
}

// From RocksDB's c.h; the library is linked by the `rocksdb` crate.
unsafe extern "C" {
    fn rocksdb_options_set_max_bgerror_resume_count(options: *mut c_void, count: c_int);
    fn rocksdb_sst_partitioner_fixed_prefix_factory_create(prefix_len: usize) -> *mut c_void;
    fn rocksdb_options_set_sst_partitioner_factory(options: *mut c_void, factory: *mut c_void);
    fn rocksdb_sst_partitioner_factory_destroy(factory: *mut c_void);
}

/// After a failed write to disk nobody knows what is there; the node ends instead of trying again.
fn never_resume_after_a_background_error(options: &Options) {
    // SAFETY: the pointer is that of live options, and the function only sets a field of them.
    unsafe { rocksdb_options_set_max_bgerror_resume_count(options.as_raw_ptr().cast(), 0) }
}

fn cut_files_at_partitions(options: &Options) {
    // SAFETY: the options are alive; they take a share of the factory, and the handle is given back once.
    unsafe {
        let factory = rocksdb_sst_partitioner_fixed_prefix_factory_create(PARTITION_PREFIX_BYTES);
        rocksdb_options_set_sst_partitioner_factory(options.as_raw_ptr().cast(), factory);
        rocksdb_sst_partitioner_factory_destroy(factory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_takes_a_small_part_of_a_small_volume_and_no_more_of_a_large_one_than_pays() {
        const GIB: u64 = 1 << 30;
        for (volume, log) in
            [(0, 16 << 20), (GIB / 8, 16 << 20), (GIB, 64 << 20), (8 * GIB, 512 << 20), (10_000 * GIB, 512 << 20)]
        {
            assert_eq!(log_bytes_max(volume), log, "{volume}");
        }
    }
}
