//! `verify`: reads every record of a file back, and names what differs.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::Args;
use dynamo_client::{Client, GetOptions, GetResult, Mode};
use dynamo_core::name::Name;
use dynamo_core::request::QuorumWish;
use futures::StreamExt;
use serde_json::{Value, json};

use crate::arguments::{Connection, ReadQuorum};
use crate::connection;
use crate::object::absence;
use crate::output::{Format, grouped, readable, show, size, table};
use crate::progress::Progress;
use crate::records::Source;
use crate::stop::Stop;

/// Differences that are named; the others are counted.
const NAMED_MAX: usize = 100;
/// Attempts at one record before it counts as unread.
const ATTEMPTS_MAX: u32 = 5;

/// Arguments of `verify`.
#[derive(Args, Debug)]
pub struct Verify {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    quorum: ReadQuorum,
}

/// How a record is found.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Found {
    Equal { siblings: usize },
    Missing,
    Differs { siblings: usize },
    Unread { reason: String },
}

/// Reads and compares; anything that differs is exit code 1.
pub async fn run(connection: &Connection, format: Format, arguments: Verify) -> Result<(), Stop> {
    let Verify { source, quorum } = arguments;
    let survey = source.survey()?;
    let client = connection::client(connection, Mode::Stream).await?;
    let options = GetOptions { quorum: QuorumWish::from(&quorum), timeout: None };
    let started = Instant::now();
    let mut progress = Progress::new("verify", Some(survey.keys));
    let mut tally = Tally::default();
    let records = source.last_records(&survey)?;
    let reads = futures::stream::iter(records).map(|record| async {
        let record = record?;
        let found = look(&client, &source.name(&record), &record.value, &options).await;
        Ok::<_, Stop>((record.key, record.value.len() as u64, found))
    });
    let mut reads = std::pin::pin!(reads.buffer_unordered(usize::from(source.concurrency)));
    while let Some(read) = reads.next().await {
        let (key, bytes, found) = read?;
        tally.count(&key, bytes, found);
        progress.at(tally.records, || format!("{} differ", grouped(tally.different())));
    }
    progress.end();
    tally.report(format, started.elapsed())?;
    match tally.different() {
        0 if tally.records == 0 => {
            Err(Stop::Failed(format!("{}: has no records, so nothing was compared", source.file.display())))
        }
        0 => Ok(()),
        different => Err(Stop::Failed(format!("{} of {} records differ", grouped(different), grouped(tally.records)))),
    }
}

async fn look(client: &Client, name: &Name, value: &Bytes, options: &GetOptions) -> Found {
    let mut attempt = 1;
    loop {
        match client.get(name, options).await {
            Ok(found) => return compare(&found, value),
            Err(error) => {
                if error.is_invalid() || attempt == ATTEMPTS_MAX {
                    return Found::Unread { reason: error.to_string() };
                }
                tokio::time::sleep(Duration::from_millis(100 << attempt)).await;
                attempt += 1;
            }
        }
    }
}

/// Concurrent versions that all hold the value are equal to it: a repeated write may have left them.
fn compare(found: &GetResult, value: &Bytes) -> Found {
    let siblings = found.siblings.len();
    match siblings {
        0 if found.evidence.hinted > 0 => Found::Unread { reason: absence(&found.evidence) },
        0 => Found::Missing,
        _ if found.siblings.iter().all(|sibling| sibling.value == *value) => Found::Equal { siblings },
        _ => Found::Differs { siblings },
    }
}

/// For programs: the key as it is, in base64 if it is no text.
fn difference(key: &Bytes, what: &str) -> Value {
    match std::str::from_utf8(key) {
        Ok(key) => json!({ "key": key, "difference": what }),
        Err(_) => json!({ "key_base64": STANDARD.encode(key), "difference": what }),
    }
}

#[derive(Default)]
struct Tally {
    records: u64,
    bytes: u64,
    missing: u64,
    differs: u64,
    unread: u64,
    with_siblings: u64,
    named: Vec<(Bytes, String)>,
}

impl Tally {
    fn different(&self) -> u64 {
        self.missing + self.differs + self.unread
    }

    fn count(&mut self, key: &Bytes, bytes: u64, found: Found) {
        self.records += 1;
        self.bytes += bytes;
        let difference = match found {
            Found::Equal { siblings } => {
                self.with_siblings += u64::from(siblings > 1);
                return;
            }
            Found::Missing => {
                self.missing += 1;
                "missing".to_owned()
            }
            Found::Differs { siblings: 1 } => {
                self.differs += 1;
                "has another value".to_owned()
            }
            Found::Differs { siblings } => {
                self.differs += 1;
                format!("has {siblings} concurrent values, not all equal to the file's")
            }
            Found::Unread { reason } => {
                self.unread += 1;
                format!("could not be read: {reason}")
            }
        };
        if self.named.len() < NAMED_MAX {
            self.named.push((key.clone(), difference));
        }
    }

    fn report(&self, format: Format, elapsed: Duration) -> Result<(), Stop> {
        let document = json!({
            "records": self.records,
            "bytes": self.bytes,
            "equal": self.records - self.different(),
            "equal_with_siblings": self.with_siblings,
            "missing": self.missing,
            "different": self.differs,
            "unread": self.unread,
            "differences": self.named.iter().map(|(key, what)| difference(key, what)).collect::<Vec<_>>(),
            "seconds": elapsed.as_secs_f64(),
        });
        show(format, || self.text(elapsed), &document)
    }

    fn text(&self, elapsed: Duration) -> String {
        let read = format!("{} records, {} in {:.1} s", grouped(self.records), size(self.bytes), elapsed.as_secs_f64());
        if self.records == 0 {
            return format!("verified {read}: nothing was compared");
        }
        if self.different() == 0 {
            let siblings = match self.with_siblings {
                0 => String::new(),
                count => format!(" ({} of them as concurrent equal values)", grouped(count)),
            };
            return format!("verified {read}: all equal{siblings}");
        }
        let counts = [(self.missing, "missing"), (self.differs, "different"), (self.unread, "could not be read")];
        let counts = counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{} {what}", grouped(*count)));
        let mut text = format!("verified {read}: {}\n\n", counts.collect::<Vec<_>>().join(", "));
        text.push_str(&table(
            &["KEY", "DIFFERENCE"],
            self.named.iter().map(|(key, what)| vec![readable(key), what.clone()]).collect(),
        ));
        let unnamed = self.different() - self.named.len() as u64;
        if unnamed > 0 {
            text.push_str(&format!("\n... and {} more", grouped(unnamed)));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_client::Sibling;
    use dynamo_core::request::Evidence;

    fn get(values: &[&'static str]) -> GetResult {
        let sibling = |value: &&'static str| Sibling { value: Bytes::from_static(value.as_bytes()), written_ms: 0 };
        GetResult { siblings: values.iter().map(sibling).collect(), context: Bytes::new(), evidence: Evidence::default() }
    }

    #[test]
    fn equal_siblings_are_equal_and_anything_else_is_named() {
        let value = Bytes::from_static(b"v");
        assert_eq!(compare(&get(&["v"]), &value), Found::Equal { siblings: 1 });
        assert_eq!(compare(&get(&["v", "v"]), &value), Found::Equal { siblings: 2 });
        assert_eq!(compare(&get(&["v", "w"]), &value), Found::Differs { siblings: 2 });
        assert_eq!(compare(&get(&[]), &value), Found::Missing);
        let evidence = Evidence { hinted: 1, ..Evidence::default() };
        let by_stand_ins = compare(&GetResult { evidence, ..get(&[]) }, &value);
        assert!(matches!(by_stand_ins, Found::Unread { .. }), "{by_stand_ins:?}");
    }

    #[test]
    fn a_key_is_told_to_programs_as_it_is_and_no_record_is_no_proof() {
        assert_eq!(difference(&Bytes::from_static(b"a\nb"), "missing"), json!({ "key": "a\nb", "difference": "missing" }));
        assert_eq!(difference(&Bytes::from_static(b"\xff"), "missing"), json!({ "key_base64": "/w==", "difference": "missing" }));
        assert!(Tally::default().text(Duration::ZERO).ends_with("nothing was compared"));
    }

    #[test]
    fn the_differences_are_listed_below_the_verdict() {
        let mut tally = Tally::default();
        tally.count(&Bytes::from_static(b"zip"), 10, Found::Equal { siblings: 1 });
        tally.count(&Bytes::from_static(b"0ad"), 10, Found::Missing);
        tally.count(&Bytes::from_static(b"bash"), 10, Found::Differs { siblings: 1 });
        insta::assert_snapshot!(tally.text(Duration::from_millis(1500)), @r"
        verified 3 records, 30 B in 1.5 s: 1 missing, 1 different

        KEY   DIFFERENCE
        0ad   missing
        bash  has another value
        ");
    }
}
