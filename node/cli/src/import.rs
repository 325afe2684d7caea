//! `import`: every record of a file, written once, whatever the cluster went through meanwhile.
//!
//! A record is created if its key does not exist; otherwise it is read, and replaced with the context of that read if it
//! differs. So an import can be repeated, or broken off and repeated, and makes no siblings. After a write whose outcome is
//! unknown the key is read before anything else is tried.

use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use dynamo_client::{Client, GetOptions, Mode, PutOptions, RequestError};
use dynamo_core::name::Name;
use dynamo_core::request::{Evidence, Failure, QuorumWish};
use futures::StreamExt;
use serde_json::json;

use crate::arguments::{Connection, WriteQuorum, seconds};
use crate::connection;
use crate::output::{Format, grouped, readable, show, size};
use crate::progress::Progress;
use crate::records::Source;
use crate::stop::Stop;

/// Between two attempts at one record; doubled up to eight times as long.
const PAUSE_FIRST: Duration = Duration::from_millis(50);

/// Arguments of `import`.
#[derive(Args, Debug)]
pub struct Import {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    quorum: WriteQuorum,
    /// Seconds that one record is tried for while the cluster cannot take it.
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = seconds())]
    give_up_after: u64,
}

/// What one record came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stored {
    Created,
    /// Created as far as those that answered knew, some of which stood in for replicas: one of those may have had the key.
    CreatedByStandIns,
    Replaced,
    Unchanged,
}

#[derive(Default)]
struct Counts {
    created: u64,
    /// Of those.
    created_by_stand_ins: u64,
    replaced: u64,
    unchanged: u64,
    retried: u64,
    bytes: u64,
}

impl Counts {
    fn done(&self) -> u64 {
        self.created + self.replaced + self.unchanged
    }
}

/// Writes the file's records.
pub async fn run(connection: &Connection, format: Format, arguments: Import) -> Result<(), Stop> {
    let Import { source, quorum, give_up_after } = arguments;
    let survey = source.survey()?;
    let client = connection::client(connection, Mode::Stream).await?;
    let quorum = QuorumWish::from(&quorum);
    let patience = Duration::from_secs(give_up_after);
    let started = Instant::now();
    let mut progress = Progress::new("import", Some(survey.keys));
    let mut counts = Counts::default();
    let records = source.last_records(&survey)?;
    let writes = futures::stream::iter(records).map(|record| async {
        let record = record?;
        let name = source.name(&record);
        let bytes = record.value.len() as u64;
        let stored = store(&client, &name, &record.value, &quorum, patience).await;
        let failed = |error| Stop::from(error).of(readable(&name.key).as_str());
        stored.map(|(stored, retries)| (stored, retries, bytes)).map_err(failed)
    });
    let mut writes = std::pin::pin!(writes.buffer_unordered(usize::from(source.concurrency)));
    while let Some(write) = writes.next().await {
        let (stored, retries, bytes) = write?;
        match stored {
            Stored::Created => counts.created += 1,
            Stored::CreatedByStandIns => {
                counts.created += 1;
                counts.created_by_stand_ins += 1;
            }
            Stored::Replaced => counts.replaced += 1,
            Stored::Unchanged => counts.unchanged += 1,
        }
        counts.retried += u64::from(retries);
        counts.bytes += bytes;
        progress.at(counts.done(), || rate(counts.done(), started.elapsed()));
    }
    progress.end();
    report(format, &counts, survey.duplicates, started.elapsed())
}

/// Until the record is stored, or `patience` is over. Also tells how many attempts failed before.
async fn store(
    client: &Client,
    name: &Name,
    value: &Bytes,
    quorum: &QuorumWish,
    patience: Duration,
) -> Result<(Stored, u32), RequestError> {
    let deadline = Instant::now() + patience;
    let mut retries = 0;
    let mut look_first = false;
    loop {
        let error = match store_once(client, name, value, quorum, look_first).await {
            Ok(stored) => return Ok((stored, retries)),
            Err(error) => error,
        };
        if error.is_invalid() {
            return Err(error);
        }
        // Somebody else created it, or our own earlier attempt did: look.
        let exists = matches!(error, RequestError::Failed(Failure::Exists));
        look_first |= exists || error.is_unknown();
        if Instant::now() >= deadline {
            return Err(error);
        }
        if !exists {
            tokio::time::sleep(PAUSE_FIRST * (1 << retries.min(3))).await;
            retries += 1;
        }
    }
}

async fn store_once(
    client: &Client,
    name: &Name,
    value: &Bytes,
    quorum: &QuorumWish,
    look_first: bool,
) -> Result<Stored, RequestError> {
    if !look_first {
        let options = PutOptions { quorum: *quorum, create_only: true, ..PutOptions::default() };
        let written = client.put(name, value.clone(), &options).await?;
        return Ok(created(&written.evidence));
    }
    let found = client.get(name, &GetOptions::default()).await?;
    if let [only] = found.siblings.as_slice()
        && only.value == *value
    {
        return Ok(Stored::Unchanged);
    }
    let options = PutOptions { quorum: *quorum, context: found.context, ..PutOptions::default() };
    let written = client.put(name, value.clone(), &options).await?;
    match found.siblings.is_empty() {
        true if found.evidence.hinted > 0 => Ok(Stored::CreatedByStandIns),
        true => Ok(created(&written.evidence)),
        false => Ok(Stored::Replaced),
    }
}

fn created(evidence: &Evidence) -> Stored {
    if evidence.hinted > 0 { Stored::CreatedByStandIns } else { Stored::Created }
}

fn rate(done: u64, elapsed: Duration) -> String {
    format!("{}/s", grouped((done as f64 / elapsed.as_secs_f64().max(0.001)) as u64))
}

fn report(format: Format, counts: &Counts, duplicates: u64, elapsed: Duration) -> Result<(), Stop> {
    let text = || {
        let stored = format!("{} records, {}", grouped(counts.done()), size(counts.bytes));
        let parts = [
            (counts.created, "created"),
            (
                counts.created_by_stand_ins,
                "of them in place of replicas that could not be reached, and siblings of what those have of their keys",
            ),
            (counts.replaced, "replaced"),
            (counts.unchanged, "unchanged"),
            (duplicates, "earlier records of a key that comes again left out"),
            (counts.retried, "attempts repeated"),
        ];
        let parts: Vec<String> =
            parts.iter().filter(|(count, _)| *count > 0).map(|(n, what)| format!("{} {what}", grouped(*n))).collect();
        let seconds = elapsed.as_secs_f64();
        let parts = if parts.is_empty() { "the file has none".to_owned() } else { parts.join(", ") };
        format!("imported {stored} in {seconds:.1} s ({}): {parts}", rate(counts.done(), elapsed))
    };
    let document = json!({
        "records": counts.done(),
        "bytes": counts.bytes,
        "created": counts.created,
        "created_by_stand_ins": counts.created_by_stand_ins,
        "replaced": counts.replaced,
        "unchanged": counts.unchanged,
        "duplicates": duplicates,
        "retried": counts.retried,
        "seconds": elapsed.as_secs_f64(),
    });
    show(format, text, &document)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stand_ins_created_is_told_from_what_the_replicas_did_not_have() {
        assert_eq!(created(&Evidence::default()), Stored::Created);
        assert_eq!(created(&Evidence { hinted: 1, ..Evidence::default() }), Stored::CreatedByStandIns);
    }
}
