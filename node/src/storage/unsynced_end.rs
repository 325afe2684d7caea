//! The end of a log that a loss of power left behind damaged: cut off where nothing of it is known to have been on stable storage.
//!
//! RocksDB takes a record that is not all there for the end of its log. One that is all there by its length and is not what was written it takes
//! for damage, and does not open: it cannot know that nobody waited for that record. The [`watermark`] knows, as far as it goes. So this looks
//! for the first damage in the newest log, and cuts it off with what follows if
//!
//! - everything up to the watermark comes before it, and
//! - no record begins behind it: what was written and fsynced after it is damaged by something else than a loss of power.
//!
//! The watermark may be behind the log after a loss of power, so what is cut may have been acknowledged all the same, if the disk lost
//! what it had said was on it, in the half minute before. Nobody can tell: a record cannot say of itself that it was fsynced. So the node is
//! not trusted afterwards, as if its log were found too short. For that the watermark is forgotten first, and only then the log cut.
//! What was cut is kept in a file beside the database. Where a process ended between the two, that file tells the next one what was decided.
//!
//! [`watermark`]: super::watermark

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use tracing::warn;

use super::framing::{BLOCK_BYTES, HEADER_BYTES};
use super::watermark::Watermark;

/// Types of parts: all of a record, and the first one and the last one of a record; those between them have the number between.
const FULL: u8 = 1;
const FIRST: u8 = 2;
const LAST: u8 = 4;
/// A record begins with the number of its first write (8 bytes) and how many there are (4 bytes).
const HEAD_BYTES: usize = 12;

/// What became of a log whose end was to be cut off.
#[derive(Debug)]
pub struct Cut {
    /// Where that end is kept.
    pub kept: PathBuf,
    /// Why nobody knows whether it was cut off for good.
    pub failed: Option<io::Error>,
}

/// Cuts the newest log of the database at `path`, if its end is damaged and that is all that is wrong with it. An error, or `None`, leaves it as
/// it is.
pub fn cut(path: &Path, watermark: &Watermark) -> io::Result<Option<Cut>> {
    cut_by(path, watermark, |log, from| {
        log.set_len(from)?;
        log.sync_all()
    })
}

fn cut_by(path: &Path, watermark: &Watermark, shorten: impl FnOnce(&File, u64) -> io::Result<()>) -> io::Result<Option<Cut>> {
    let Some(log) = newest_log(path)? else { return Ok(None) };
    let Some(Damage { from, next: Some(next), is_last: true }) = damage(File::open(&log)?)? else { return Ok(None) };
    let kept = path.with_extension("cut");
    let mut file = OpenOptions::new().read(true).write(true).open(&log)?;
    let bytes = file.seek(SeekFrom::End(0))?.saturating_sub(from);
    file.seek(SeekFrom::Start(from))?;
    match watermark.synced() {
        Some(synced) if next <= synced => return Ok(None),
        Some(_) => {
            keep(&mut file, &kept)?;
            watermark.forget()?;
        }
        None if is_kept(&mut file, &kept)? => {}
        None => return Ok(None),
    }
    let failed = shorten(&file, from).err();
    match &failed {
        None => warn!(
            log = %log.display(), from, bytes, kept = %kept.display(),
            "the end of the log was damaged, behind all that is known to have been on stable storage: it was cut off, and kept"
        ),
        Some(error) => warn!(
            log = %log.display(), from, bytes, kept = %kept.display(), %error,
            "the end of the log was damaged, and is kept; it may have been cut off, or not"
        ),
    }
    Ok(Some(Cut { kept, failed }))
}

/// Copies the rest of `log`, and is done when the copy is on stable storage under its name.
fn keep(log: &mut File, kept: &Path) -> io::Result<()> {
    let mut copy = File::create(kept)?;
    io::copy(log, &mut copy)?;
    copy.sync_all()?;
    kept.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Whether the rest of `log` is what was kept.
fn is_kept(log: &mut File, kept: &Path) -> io::Result<bool> {
    let mut copy = match File::open(kept) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        copy => copy?,
    };
    loop {
        let (here, there) = (block(log)?, block(&mut copy)?);
        if here != there || here.is_empty() {
            return Ok(here == there);
        }
    }
}

/// The next block; less at the end, and nothing behind it.
fn block(log: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    log.take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
    Ok(block)
}

/// The newest log that is not empty.
fn newest_log(path: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest = None;
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        let number = file
            .extension()
            .filter(|extension| *extension == "log")
            .and_then(|_| file.file_stem()?.to_str()?.parse::<u64>().ok());
        if let Some(number) = number
            && fs::metadata(&file)?.len() > 0
        {
            newest = newest.max(Some((number, file)));
        }
    }
    Ok(newest.map(|(_, file)| file))
}

/// What is not as it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Damage {
    /// Where the record begins.
    from: u64,
    /// The number of its first write; unknown if it is the log's first record.
    next: Option<u64>,
    /// No other record begins behind it.
    is_last: bool,
}

/// The first damage in a log. One that ends in the middle of a record, or in zeros, has none.
fn damage(log: impl Read) -> io::Result<Option<Damage>> {
    let mut parts = Parts { log, block: Vec::new(), before: 0, at: 0 };
    // Where the record begins of which this is a part, and the first bytes of it.
    let mut begun = None::<(u64, Vec<u8>)>;
    let (mut next, mut zeros, mut found) = (None, None, None::<Damage>);
    while let Some((at, part)) = parts.next()? {
        let from = begun.as_ref().map_or(at, |(from, _)| *from);
        let here = Damage { from, next, is_last: true };
        if part == Part::Zeros {
            zeros = zeros.or(Some(here));
            continue;
        }
        // Something follows the zeros.
        found = found.or(zeros.take());
        let begins = matches!(part, Part::Whole { kind: FULL | FIRST, .. });
        if begins && let Some(damage) = found.or_else(|| begun.is_some().then_some(here)) {
            return Ok(Some(Damage { is_last: false, ..damage }));
        }
        match part {
            Part::Whole { kind, head } if found.is_none() && (begins || begun.is_some()) => {
                let (_, record) = begun.get_or_insert((at, Vec::new()));
                record.extend(head);
                if matches!(kind, FULL | LAST) {
                    next = first_after(record);
                    begun = None;
                }
            }
            _ => found = found.or(Some(here)),
        }
    }
    Ok(found)
}

/// The number of the write after those of a record that begins with these bytes.
fn first_after(record: &[u8]) -> Option<u64> {
    let (first, count) = record.get(..HEAD_BYTES)?.split_at(8);
    let (first, count) = (u64::from_le_bytes(first.try_into().ok()?), u32::from_le_bytes(count.try_into().ok()?));
    first.checked_add(u64::from(count))
}

/// One part of a record, or what stands in its place.
#[derive(PartialEq, Eq, Debug)]
enum Part {
    /// As it was written; its first bytes.
    Whole { kind: u8, head: Vec<u8> },
    /// It is not what its checksum says.
    Spoilt,
    /// A block has nothing more but zeros.
    Zeros,
}

/// The parts of records that a log is a row of.
struct Parts<R> {
    log: R,
    block: Vec<u8>,
    /// Bytes before the block.
    before: u64,
    at: usize,
}

impl<R: Read> Parts<R> {
    /// Where the next one is, and what; `None` at the end, which may be in the middle of one.
    fn next(&mut self) -> io::Result<Option<(u64, Part)>> {
        while self.block.len() < self.at + HEADER_BYTES {
            self.before += self.block.len() as u64;
            (self.block, self.at) = (block(&mut self.log)?, 0);
            if self.block.is_empty() {
                return Ok(None);
            }
        }
        let (rest, at) = (&self.block[self.at..], self.before + self.at as u64);
        let length = HEADER_BYTES + usize::from(u16::from_le_bytes([rest[4], rest[5]]));
        let part = match rest.get(..length) {
            _ if rest.iter().all(|byte| *byte == 0) => Part::Zeros,
            None if self.block.len() < BLOCK_BYTES => return Ok(None),
            Some(part) if is_whole(part) => {
                Part::Whole { kind: part[6], head: part[HEADER_BYTES..].iter().take(HEAD_BYTES).copied().collect() }
            }
            _ => Part::Spoilt,
        };
        // Whatever has no length that may be is passed over with its block.
        let is_passed_over = part == Part::Zeros || rest.len() < length;
        self.at = if is_passed_over { self.block.len() } else { self.at + length };
        Ok(Some((at, part)))
    }
}

fn is_whole(part: &[u8]) -> bool {
    let (checksum, covered) = (&part[..4], &part[6..]);
    (FULL..=LAST).contains(&covered[0]) && masked_crc32c(covered).to_le_bytes() == *checksum
}

/// RocksDB's checksum: a CRC of bytes that hold CRCs is no good, so it is turned and moved.
fn masked_crc32c(bytes: &[u8]) -> u32 {
    let crc = !bytes.iter().fold(u32::MAX, |crc, byte| CRC32C[usize::from(crc as u8 ^ byte)] ^ (crc >> 8));
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// What each byte does to a CRC by Castagnoli's polynomial.
const CRC32C: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of one write with this number, of so many bytes.
    fn record(number: u64, bytes: usize, log: &mut Vec<u8>) {
        let mut left = [&number.to_le_bytes()[..], &1_u32.to_le_bytes(), &vec![number as u8; bytes]].concat();
        let mut is_first = true;
        loop {
            let room = BLOCK_BYTES - log.len() % BLOCK_BYTES;
            if room < HEADER_BYTES {
                log.extend(vec![0; room]);
                continue;
            }
            let rest = left.split_off(left.len().min(room - HEADER_BYTES));
            let kind = match (is_first, rest.is_empty()) {
                (true, true) => FULL,
                (true, false) => FIRST,
                (false, false) => LAST - 1,
                (false, true) => LAST,
            };
            let covered = [&[kind], &left[..]].concat();
            log.extend(masked_crc32c(&covered).to_le_bytes());
            log.extend((left.len() as u16).to_le_bytes());
            log.extend(covered);
            (left, is_first) = (rest, false);
            if matches!(kind, FULL | LAST) {
                return;
            }
        }
    }

    /// Records 1 to 3, of which the last takes some blocks, and where each begins.
    fn log() -> (Vec<u8>, [usize; 3]) {
        let mut log = Vec::new();
        let begins = [(1, 100), (2, 200), (3, 3 * BLOCK_BYTES)].map(|(number, bytes)| {
            let from = log.len();
            record(number, bytes, &mut log);
            from
        });
        (log, begins)
    }

    #[test]
    fn the_checksum_is_the_one_that_everybody_has() {
        // CRC-32C of "123456789", as RocksDB stores it.
        assert_eq!(masked_crc32c(b"123456789"), 0xe306_9283_u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    #[test]
    fn a_log_that_ends_early_or_in_zeros_has_no_damage() {
        let (whole, _) = log();
        for length in (0..whole.len()).step_by(97).chain([whole.len()]) {
            assert_eq!(damage(&whole[..length]).unwrap(), None, "{length} bytes");
        }
        assert_eq!(damage(&[&whole[..], &vec![0; 2 * BLOCK_BYTES]].concat()[..]).unwrap(), None);
    }

    #[test]
    fn damage_of_the_last_record_is_told_from_damage_before_it() {
        let (whole, begins) = log();
        let spoilt = |at: usize, bytes: usize| {
            let mut log = whole.clone();
            log[at..at + bytes].iter_mut().for_each(|byte| *byte ^= 0x55);
            damage(&log[..]).unwrap()
        };
        let last = Damage { from: begins[2] as u64, next: Some(3), is_last: true };
        for at in [begins[2], begins[2] + 6, begins[2] + 300, BLOCK_BYTES + 3, 2 * BLOCK_BYTES + 300, whole.len() - 1] {
            assert_eq!(spoilt(at, 1), Some(last), "byte {at}");
        }
        assert_eq!(spoilt(BLOCK_BYTES, BLOCK_BYTES), Some(last), "a whole block");
        let second = Some(Damage { from: begins[1] as u64, next: Some(2), is_last: false });
        assert_eq!(spoilt(begins[1] + 20, 1), second, "the third begins behind it");
        let first = Some(Damage { from: 0, next: None, is_last: false });
        assert_eq!(spoilt(20, 1), first);
        let mut hole = whole.clone();
        hole[BLOCK_BYTES + 100..2 * BLOCK_BYTES + 100].fill(0);
        assert_eq!(damage(&hole[..]).unwrap(), Some(last), "a page that was not written");
        let mut followed = whole.clone();
        record(4, 10, &mut followed);
        followed[begins[2] + 300] ^= 1;
        assert_eq!(damage(&followed[..]).unwrap(), Some(Damage { is_last: false, ..last }));
    }

    /// The file system fails before the log is shorter, or after it.
    #[test]
    fn a_cut_of_which_nobody_knows_whether_it_lasts_says_where_the_end_is_kept() {
        for shortens in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let (database, (mut bytes, begins)) = (dir.path().join("db"), log());
            fs::create_dir(&database).unwrap();
            bytes[begins[2] + 300] ^= 1;
            fs::write(database.join("000004.log"), &bytes).unwrap();
            let watermark = Watermark::open(&dir.path().join("db.synced")).unwrap();
            watermark.record(2).unwrap();
            let fails = |log: &File, from: u64| -> io::Result<()> {
                if shortens {
                    log.set_len(from)?;
                }
                Err(io::Error::other("the disk is gone"))
            };
            let Cut { kept, failed } = cut_by(&database, &watermark, fails).unwrap().unwrap();
            assert!(failed.is_some_and(|error| error.to_string() == "the disk is gone"));
            assert_eq!(fs::read(kept).unwrap(), bytes[begins[2]..]);
            assert_eq!(watermark.synced(), None);
        }
    }

    #[test]
    fn what_is_no_record_at_all_is_damage_behind_the_last_one() {
        let (whole, begins) = log();
        let garbage = [&whole[..begins[2]], &[0x5a; 2 * BLOCK_BYTES]].concat();
        assert_eq!(damage(&garbage[..]).unwrap(), Some(Damage { from: begins[2] as u64, next: Some(3), is_last: true }));
    }
}
