//! The settings that no acknowledgement is safe without, as RocksDB says it runs with them.
//!
//! RocksDB writes the options in effect, after its own corrections, to a file when it opens. Reading that file back catches what
//! reading our own options cannot: an option that a new version renamed, corrected or no longer knows.

use std::path::Path;

/// Name and value, in every section of the file that has the name.
const PINNED: [(&str, &str); 8] = [
    // Damage before the log's tail refuses to open; a torn tail is a crash in the middle of a group that nobody was told of.
    ("wal_recovery_mode", "kTolerateCorruptedTailRecords"),
    // A log that is missing, or shorter than it was when it was synced and closed, refuses to open.
    ("track_and_verify_wals_in_manifest", "true"),
    // Recycled logs end in records of their former life.
    ("recycle_log_file_num", "0"),
    ("paranoid_checks", "true"),
    // Nobody knows what is on a disk after a failed write; the process ends.
    ("max_bgerror_resume_count", "0"),
    // The log's buffer is written out by the thread that fsyncs, and by nobody before it.
    ("manual_wal_flush", "true"),
    // Groups span families, and one log holds them all.
    ("unordered_write", "false"),
    ("force_consistency_checks", "true"),
];

/// The first pinned setting that the database at `path` does not run with.
pub fn verify(path: &Path) -> Result<(), String> {
    let entries = std::fs::read_dir(path).map_err(|error| format!("list {}: {error}", path.display()))?;
    let number = |name: &str| name.strip_prefix("OPTIONS-").and_then(|number| number.parse::<u64>().ok());
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let newest = names.filter_map(|name| Some((number(&name)?, name))).max();
    let Some((_, name)) = newest else { return Err("RocksDB left no OPTIONS file to check its settings by".into()) };
    let text = std::fs::read_to_string(path.join(&name)).map_err(|error| format!("{name}: {error}"))?;
    check(&text).map_err(|wrong| format!("{name}: {wrong}"))
}

fn check(text: &str) -> Result<(), String> {
    for (name, expected) in PINNED {
        let values = text.lines().filter_map(|line| line.trim().strip_prefix(name)?.trim_start().strip_prefix('='));
        let values: Vec<&str> = values.map(str::trim).collect();
        if values.is_empty() {
            return Err(format!("{name} is not there; it must be {expected}"));
        }
        if let Some(other) = values.iter().find(|value| **value != expected) {
            return Err(format!("{name} is {other}; it must be {expected}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pinned_setting_is_missed_and_its_other_value_is_refused() {
        let whole: String = PINNED.map(|(name, value)| format!("  {name}={value}\n")).concat();
        assert_eq!(check(&whole), Ok(()));
        for (name, value) in PINNED {
            let line = format!("  {name}={value}\n");
            let absent = check(&whole.replace(&line, "")).unwrap_err();
            assert!(absent.contains(name) && absent.contains("not there"), "{absent}");
            let other = check(&whole.replace(&line, &format!("  {name}=other\n"))).unwrap_err();
            assert!(other.contains(name) && other.contains("is other"), "{other}");
        }
    }
}
