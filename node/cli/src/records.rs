//! Records of a file, one at a time: what `import` writes and `verify` compares.
//!
//! The file is read twice. The first pass checks all of it and learns which record of each key is the last: only that one is
//! used, so that no key is written twice and the order in which writes complete does not matter. Memory: one entry for each key
//! (128 bits that stand for it), never the file. A file that has become another one between the passes is an error at its end.

pub mod deb822;
pub mod jsonl;
pub mod lines;

use std::collections::HashMap;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use bytes::Bytes;
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use dynamo_core::config::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use dynamo_core::name::Name;
use thiserror::Error;

use crate::stop::Stop;
use lines::Lines;

/// Keys of one file; a table of this many takes about 600 MB.
const KEYS_MAX: usize = 10_000_000;

/// What some editors put before the first line of a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How the file is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum FileFormat {
    /// By its first byte: JSON lines start with a brace.
    Auto,
    /// One JSON object a line, with the fields `key` and `value` or `value_base64`, or as `dynamoctl get -o json` prints it.
    Jsonl,
    /// Debian control data: stanzas of fields, separated by empty lines. The stanza is the value.
    Deb822,
}

/// Which records.
#[derive(Args, Debug, Clone)]
pub struct Source {
    /// A file of JSON lines, or of Debian control stanzas (a `Packages` file), not compressed.
    pub file: PathBuf,
    /// How the file is written.
    #[arg(long, value_enum, default_value_t = FileFormat::Auto)]
    pub format: FileFormat,
    /// The bucket that the records are in.
    #[arg(short, long, default_value = "default", value_parser = NonEmptyStringValueParser::new())]
    pub bucket: String,
    /// The field that is the key. Default: `key` of JSON lines, `Package` of control data.
    #[arg(long, value_name = "NAME")]
    pub key_field: Option<String>,
    /// Requests in flight.
    #[arg(long, default_value_t = 64, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub concurrency: u16,
}

/// A key and its value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The bucket that it was read from, if `get` printed it.
    pub read_from: Option<String>,
}

/// Why a file cannot be used.
#[derive(Debug, Error)]
pub enum RecordError {
    /// It cannot be read.
    #[error("{path}: {error}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is compressed.
    #[error("{path}: is compressed ({algorithm}), and only plain files are read; uncompress it first: {command}")]
    Compressed {
        /// Which.
        path: PathBuf,
        /// By what.
        algorithm: &'static str,
        /// How to get a plain file.
        command: String,
    },
    /// A record is not what it should be.
    #[error("{path}: line {line}: {reason}")]
    Record {
        /// Which file.
        path: PathBuf,
        /// Where the record starts.
        line: u64,
        /// What is wrong.
        reason: String,
    },
    /// The second pass found other records than the first.
    #[error("{path}: changed while it was read; nothing is known of the records that it has now: give the command again")]
    Changed {
        /// Which.
        path: PathBuf,
    },
    /// More keys than are held in memory.
    #[error("{path}: has more than {KEYS_MAX} keys; split it")]
    TooMany {
        /// Which.
        path: PathBuf,
    },
}

impl From<RecordError> for Stop {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Changed { .. } => Stop::Failed(error.to_string()),
            _ => Stop::Usage(error.to_string()),
        }
    }
}

/// What the first pass found.
#[derive(Debug, Default)]
pub struct Survey {
    /// Distinct keys.
    pub keys: u64,
    /// Records whose key comes again later.
    pub duplicates: u64,
    /// Bytes of the values that are used.
    pub bytes: u64,
    /// Where the last record of each key is and how many bytes its value has, by the key's mark.
    last: HashMap<u128, (u64, u64)>,
    salts: [RandomState; 2],
}

impl Survey {
    /// What stands for a key, in this survey: nobody can make two keys of one mark, as anybody can of one MD5.
    fn mark(&self, key: &Bytes) -> u128 {
        let [high, low] = &self.salts;
        u128::from(high.hash_one(key)) << 64 | u128::from(low.hash_one(key))
    }
}

/// An open file and its records.
pub struct Records<R> {
    path: PathBuf,
    lines: Lines<R>,
    kind: Kind,
    /// Nobody said the kind.
    guessed: bool,
    key_field: String,
    bucket: String,
}

#[derive(Clone, Copy)]
enum Kind {
    Jsonl,
    Deb822,
}

impl Source {
    /// Reads the whole file once.
    pub fn survey(&self) -> Result<Survey, RecordError> {
        let mut survey = Survey::default();
        for (index, record) in self.open()?.enumerate() {
            let record = record?;
            let mark = survey.mark(&record.key);
            let size = record.value.len() as u64;
            survey.bytes += size;
            if let Some((_, size_before)) = survey.last.insert(mark, (index as u64, size)) {
                survey.duplicates += 1;
                survey.bytes -= size_before;
            }
            if survey.last.len() > KEYS_MAX {
                return Err(RecordError::TooMany { path: self.file.clone() });
            }
        }
        survey.keys = survey.last.len() as u64;
        Ok(survey)
    }

    /// The last record of each key, in the order of the file; at its end an error, if these are not the records of the survey.
    pub fn last_records(&self, survey: &Survey) -> Result<impl Iterator<Item = Result<Record, RecordError>>, RecordError> {
        let mut records = self.open()?.enumerate();
        let (mut keys, mut bytes, mut ended) = (0, 0, false);
        Ok(std::iter::from_fn(move || {
            for (index, record) in records.by_ref() {
                let Ok(record) = record else { return Some(record) };
                let last = survey.last.get(&survey.mark(&record.key)).map(|(last, _)| *last);
                if last == Some(index as u64) {
                    keys += 1;
                    bytes += record.value.len() as u64;
                    return Some(Ok(record));
                }
            }
            let changed = !ended && (keys, bytes) != (survey.keys, survey.bytes);
            ended = true;
            changed.then(|| Err(RecordError::Changed { path: self.file.clone() }))
        }))
    }

    /// The object that `record` is.
    pub fn name(&self, record: &Record) -> Name {
        Name::new(self.bucket.clone(), record.key.clone())
    }

    fn open(&self) -> Result<Records<BufReader<File>>, RecordError> {
        let failed = |error| RecordError::Read { path: self.file.clone(), error };
        // Looked at before it is opened: opening a pipe waits for whoever writes into it.
        if !std::fs::metadata(&self.file).map_err(failed)?.is_file() {
            return Err(failed(std::io::Error::other("is not a regular file; it is read twice, so a pipe will not do")));
        }
        let file = File::open(&self.file).map_err(failed)?;
        Records::open(self, BufReader::with_capacity(1 << 18, file))
    }
}

impl<R: BufRead> Records<R> {
    fn open(source: &Source, mut reader: R) -> Result<Self, RecordError> {
        let Source { file: path, format, bucket, key_field, .. } = source;
        let failed = |error| RecordError::Read { path: path.clone(), error };
        if reader.fill_buf().map_err(failed)?.starts_with(BYTE_ORDER_MARK) {
            reader.consume(BYTE_ORDER_MARK.len());
        }
        let start = reader.fill_buf().map_err(failed)?;
        if let Some((algorithm, program)) = compression(start) {
            let command = format!("{program} {} > Packages", path.display());
            return Err(RecordError::Compressed { path: path.clone(), algorithm, command });
        }
        let brace = start.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
        let (kind, key_default) = match format {
            FileFormat::Jsonl => (Kind::Jsonl, "key"),
            FileFormat::Deb822 => (Kind::Deb822, "Package"),
            FileFormat::Auto if brace => (Kind::Jsonl, "key"),
            FileFormat::Auto => (Kind::Deb822, "Package"),
        };
        let key_field = key_field.as_deref().unwrap_or(key_default).to_owned();
        let guessed = *format == FileFormat::Auto;
        Ok(Self { path: path.clone(), lines: Lines::new(reader), kind, guessed, key_field, bucket: bucket.clone() })
    }

    fn read(&mut self) -> Result<Option<Record>, RecordError> {
        let read = match self.kind {
            Kind::Jsonl => jsonl::next(&mut self.lines, &self.key_field),
            Kind::Deb822 => deb822::next(&mut self.lines, &self.key_field),
        };
        let wrong = |line, reason: String| RecordError::Record { path: self.path.clone(), line, reason };
        match read {
            Err(lines::Problem::Read(error)) => Err(RecordError::Read { path: self.path.clone(), error }),
            Err(lines::Problem::Record { line, reason }) if self.guessed && matches!(self.kind, Kind::Deb822) => Err(wrong(
                line,
                format!("{reason} (the file was taken for Debian control data; for JSON lines say --format jsonl)"),
            )),
            Err(lines::Problem::Record { line, reason }) => Err(wrong(line, reason)),
            Ok(None) => Ok(None),
            Ok(Some((line, record))) => match (record.key.len(), record.value.len()) {
                (0, _) => Err(wrong(line, format!("{} is empty", self.key_field))),
                (bytes, _) if bytes > KEY_BYTES_MAX => {
                    Err(wrong(line, format!("{} has {bytes} bytes, at most {KEY_BYTES_MAX} are allowed", self.key_field)))
                }
                (_, bytes) if bytes > VALUE_BYTES_MAX => {
                    Err(wrong(line, format!("the value has {bytes} bytes, at most {VALUE_BYTES_MAX} are allowed")))
                }
                _ => match record.read_from.as_ref().filter(|bucket| **bucket != self.bucket) {
                    Some(other) => Err(wrong(
                        line,
                        format!("was read from the bucket {other:?}, and --bucket is {:?}: say --bucket {other}", self.bucket),
                    )),
                    None => Ok(Some(record)),
                },
            },
        }
    }
}

impl<R: BufRead> Iterator for Records<R> {
    type Item = Result<Record, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// The algorithm that these first bytes of a file betray, and a command that undoes it.
fn compression(start: &[u8]) -> Option<(&'static str, &'static str)> {
    let known: [(&[u8], &str, &str); 5] = [
        (&[0x04, 0x22, 0x4d, 0x18], "LZ4", "/usr/lib/apt/apt-helper cat-file"),
        (&[0x1f, 0x8b], "gzip", "gzip -dc"),
        (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz", "xz -dc"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "Zstandard", "zstd -dc"),
        (b"BZh", "bzip2", "bzip2 -dc"),
    ];
    known.into_iter().find(|(magic, _, _)| start.starts_with(magic)).map(|(_, algorithm, command)| (algorithm, command))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(contents: &[u8]) -> (tempfile::NamedTempFile, Source) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), contents).unwrap();
        let source = Source {
            file: file.path().to_owned(),
            format: FileFormat::Auto,
            bucket: "b".to_owned(),
            key_field: None,
            concurrency: 1,
        };
        (file, source)
    }

    #[test]
    fn of_a_key_that_comes_twice_the_last_record_is_used() {
        let (_file, source) = source(b"Package: a\nVersion: 1\n\nPackage: b\n\nPackage: a\nVersion: 22\n");
        let survey = source.survey().unwrap();
        assert_eq!((survey.keys, survey.duplicates, survey.bytes), (2, 1, 11 + 23));
        let records: Vec<Record> = source.last_records(&survey).unwrap().map(Result::unwrap).collect();
        assert_eq!(
            records.iter().map(|record| &record.value[..]).collect::<Vec<_>>(),
            [&b"Package: b\n"[..], b"Package: a\nVersion: 22\n"]
        );
    }

    #[test]
    fn a_file_that_has_become_another_one_is_an_error_at_its_end() {
        let first = b"Package: a\n\nPackage: b\n\nPackage: a\nVersion: 22\n";
        let others: [&[u8]; 5] = [
            b"",
            b"Package: a\n\nPackage: b\n",
            b"Package: 0\n\nPackage: a\n\nPackage: b\n\nPackage: a\nVersion: 22\n",
            b"Package: a\n\nPackage: b\n\nPackage: a\nVersion: 2\n",
            b"Package: a\n\nPackage: c\n\nPackage: a\nVersion: 22\n",
        ];
        for other in others {
            let (file, source) = source(first);
            let survey = source.survey().unwrap();
            assert!(source.last_records(&survey).unwrap().all(|record| record.is_ok()));
            std::fs::write(file.path(), other).unwrap();
            let mut records = source.last_records(&survey).unwrap();
            let stop = records.find_map(Result::err).map(Stop::from).unwrap();
            assert!(matches!(&stop, Stop::Failed(said) if said.contains("changed while it was read")), "{stop}");
            assert!(records.next().is_none());
        }
    }

    #[test]
    fn nobody_can_make_two_keys_that_count_as_one() {
        let key = Bytes::from_static(b"a");
        assert_ne!(Survey::default().mark(&key), Survey::default().mark(&key), "it is another one in each survey");
        let survey = Survey::default();
        assert_eq!(survey.mark(&key), survey.mark(&Bytes::from("a".to_owned())));
    }

    #[test]
    fn json_lines_are_known_by_their_brace() {
        let (_file, source) = source(b"\n{\"key\": \"a\", \"value\": \"1\"}\n");
        assert_eq!(source.survey().unwrap().keys, 1);
    }

    #[test]
    fn what_get_printed_of_another_bucket_is_refused() {
        let printed = |bucket: &str| {
            format!(
                "{{\"bucket\":\"{bucket}\",\"key\":\"a\",\"siblings\":[{{\"value\":\"1\",\"written_ms\":1}}],\"context\":\"\"}}\n"
            )
        };
        let (_file, source) = source((printed("b") + &printed("carts")).as_bytes());
        let error = source.survey().unwrap_err().to_string();
        assert!(error.contains("line 2: was read from the bucket \"carts\"") && error.contains("say --bucket carts"), "{error}");
        let (_file, own) = self::source(printed("b").as_bytes());
        assert_eq!(own.survey().unwrap().keys, 1);
        // A field of the same name in somebody's own records is theirs.
        let (_file, other) = self::source(b"{\"bucket\":\"carts\",\"key\":\"a\",\"value\":1}\n");
        assert_eq!(other.survey().unwrap().keys, 1);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_record() {
        for contents in ["\u{feff}{\"key\": \"a\", \"value\": 1}\n", "\u{feff}Package: a\n"] {
            let (_file, source) = source(contents.as_bytes());
            let survey = source.survey().unwrap();
            let records: Vec<Record> = source.last_records(&survey).unwrap().map(Result::unwrap).collect();
            assert_eq!(records[0].key, "a", "{contents}");
        }
    }

    #[test]
    fn a_file_whose_kind_was_guessed_says_so_where_it_is_wrong() {
        let (_file, source) = source(b"[{\"key\": \"a\", \"value\": 1}]\n");
        let error = source.survey().unwrap_err().to_string();
        assert!(error.contains("taken for Debian control data") && error.contains("--format jsonl"), "{error}");
        let told = Source { format: FileFormat::Deb822, ..source };
        assert!(!told.survey().unwrap_err().to_string().contains("was taken for"));
    }

    #[test]
    fn a_pipe_is_refused_before_it_is_waited_for() {
        let place = tempfile::tempdir().unwrap();
        let pipe = place.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let (_file, source) = source(b"");
        let error = Source { file: pipe, ..source }.survey().unwrap_err().to_string();
        assert!(error.contains("is not a regular file"), "{error}");
    }

    #[test]
    fn a_compressed_file_is_refused_with_the_command_that_helps() {
        let (_file, source) = source(&[0x04, 0x22, 0x4d, 0x18, 0, 0]);
        let error = source.survey().unwrap_err().to_string();
        assert!(error.contains("LZ4") && error.contains("apt-helper cat-file"), "{error}");
    }

    #[test]
    fn a_wrong_record_is_named_by_its_line() {
        let cases: [(&[u8], &str); 3] = [
            (b"Package: a\n\nVersion: 2\n", "line 3"),
            (b"{\"key\": \"a\", \"value\": 1}\n{\"key\": 7}\n", "line 2"),
            (b"Package:\n", "Package is empty"),
        ];
        for (contents, expected) in cases {
            let (_file, source) = source(contents);
            let error = source.survey().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
