//! Damage that RocksDB does not get over when it reads its logs (the log of writes, and the MANIFEST, which is framed alike), looked
//! for before it reads them.
//!
//! A log is a row of blocks of 32 KiB, and a block a row of records: four bytes of checksum, two of length, one of type, the payload.
//! Less than a header at a block's end is filled up. RocksDB notices a record that is damaged, with two exceptions:
//!
//! - A type that only recycled logs have, behind a record of another: it looks at the same record again, for ever. One bit can do
//!   that. In the first record, the log counts as an old one, and as empty. Our logs are never recycled ([`super::pinned`]).
//! - A header of zeros: the rest of the block is skipped without a word, and what follows is replayed on top of what is not there.
//!   Zeros up to the end of the file are what a crash leaves behind, and no damage.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

pub(super) const BLOCK_BYTES: usize = 32 << 10;
pub(super) const HEADER_BYTES: usize = 7;
/// `kRecyclableFullType` to `kRecyclableLastType`, `kRecyclableUserDefinedTimestampSizeType`, `kRecyclePredecessorWALInfoType`.
const RECYCLED: [u8; 6] = [5, 6, 7, 8, 11, 131];

/// Why RocksDB is not let read the logs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unfit {
    /// Which damage is where.
    Damaged(String),
    /// What cannot be read, and why: that says nothing of what is in it.
    Unread(String),
}

/// The first such damage in the logs of the database at `path`, if one is there.
pub fn verify(path: &Path) -> Result<(), Unfit> {
    let Ok(current) = fs::read_to_string(path.join("CURRENT")) else {
        // A database that is made now, or one that RocksDB refuses.
        return Ok(());
    };
    let unlisted = |error: io::Error| Unfit::Unread(format!("list {}: {error}", path.display()));
    for entry in fs::read_dir(path).map_err(unlisted)? {
        let Ok(name) = entry.map_err(unlisted)?.file_name().into_string() else { continue };
        if name.ends_with(".log") || name == current.trim_end() {
            let unread = |error: io::Error| Unfit::Unread(format!("{name}: {error}"));
            let log = File::open(path.join(&name)).map_err(unread)?;
            check(log).map_err(unread)?.map_err(|damage| Unfit::Damaged(format!("{name}: {damage}")))?;
        }
    }
    Ok(())
}

fn check(mut log: impl Read) -> io::Result<Result<(), String>> {
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    let (mut before, mut zeros) = (0, None);
    loop {
        block.clear();
        log.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
        if block.is_empty() {
            return Ok(Ok(()));
        }
        if let Err(damage) = check_block(&block, before, &mut zeros) {
            return Ok(Err(damage));
        }
        before += block.len();
    }
}

/// `before` bytes come before the block; `zeros` is where a header of zeros was.
fn check_block(block: &[u8], before: usize, zeros: &mut Option<usize>) -> Result<(), String> {
    let mut at = 0;
    while zeros.is_none() {
        // A record that goes on behind its block is torn, or its length is damaged, which RocksDB notices.
        let Some([.., low, high, kind]) = block.get(at..at + HEADER_BYTES) else { return Ok(()) };
        if RECYCLED.contains(kind) {
            return Err(format!("the record at byte {} is of type {kind}, which only recycled logs have", before + at));
        }
        let length = usize::from(u16::from_le_bytes([*low, *high]));
        if *kind == 0 && length == 0 {
            *zeros = Some(before + at);
        } else {
            at += HEADER_BYTES + length;
        }
    }
    match zeros {
        Some(from) if block[at..].iter().any(|byte| *byte != 0) => {
            Err(format!("zeros from byte {from} on, and records behind them"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(log: &[u8]) -> Result<(), String> {
        check(log).unwrap()
    }

    fn record(kind: u8, payload: usize) -> Vec<u8> {
        let [low, high] = u16::try_from(payload).unwrap().to_le_bytes();
        [&[1, 2, 3, 4, low, high, kind][..], &vec![kind; payload]].concat()
    }

    /// Records that fill a block but for four bytes, which are filled up with zeros.
    fn block() -> Vec<u8> {
        [record(1, 100), record(2, BLOCK_BYTES - 100 - 2 * HEADER_BYTES - 4), vec![0; 4]].concat()
    }

    #[test]
    fn whole_torn_and_preallocated_logs_are_no_damage() {
        let whole = [block(), block(), record(4, 9)].concat();
        for length in 0..whole.len() {
            // Every way to end early, near a border; elsewhere a sample.
            if length % BLOCK_BYTES < 300 || length % 1_009 == 0 {
                assert_eq!(checked(&whole[..length]), Ok(()), "{length} bytes");
            }
        }
        assert_eq!(checked(&[&whole[..], &vec![0; 2 * BLOCK_BYTES]].concat()[..]), Ok(()));
    }

    #[test]
    fn a_type_of_recycled_logs_is_damage_wherever_it_is() {
        for kind in RECYCLED {
            for logs in [vec![record(kind, 9)], vec![block(), record(1, 9), record(kind, 9)], vec![block(), record(kind, 60_000)]]
            {
                let damage = checked(&logs.concat()[..]).unwrap_err();
                assert!(damage.contains(&format!("is of type {kind}")), "{damage}");
            }
        }
    }

    #[test]
    fn zeros_before_records_are_damage() {
        let mut log = [block(), block(), record(1, 9)].concat();
        log[HEADER_BYTES + 100..BLOCK_BYTES].fill(0);
        assert_eq!(checked(&log[..]), Err("zeros from byte 107 on, and records behind them".into()));
        log[BLOCK_BYTES..].fill(0);
        assert_eq!(checked(&log[..]), Ok(()));
    }
}
