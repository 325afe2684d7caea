//! `import`: every record of a file, written once, whatever the cluster went through meanwhile.
//!
//! A record is created if its key does not exist; otherwise it is read, and replaced with the context of that read if it
//! differs. So an import can be repeated, or broken off and repeated. A write whose outcome is unknown is sent again as it was, under
//! its request id: it is the same write, and makes no sibling of itself where a coordinator wrote its own copy and went away
//! ([`dynamo_core::recent_writes`], which gives the bound, and the 25 to 31 bytes that each object keeps for its id).
//!
//! What siblings there can be: of others' writes, made meanwhile; of a key that only stand-ins were asked about; and of the same value, if
//! an import was broken off after such a write and is repeated: the ids of its writes are gone with it.
//!
//! The first record that is given up ends the import. Those under way end with the attempt that they are in, and what was done is told.

use std::cell::Cell;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use dynamo_client::{Client, GetOptions, GetResult, Mode, PutOptions, PutResult, RequestError};
use dynamo_core::name::Name;
use dynamo_core::request::{Evidence, Failure, QuorumWish};
use futures::StreamExt;
use serde_json::json;

use crate::arguments::{Connection, WriteQuorum, seconds};
use crate::connection;
use crate::output::{Format, grouped, readable, show, size};
use crate::progress::Progress;
use crate::records::{Source, Survey};
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
    /// Seconds that one record is tried for while the cluster cannot take it. Then the import ends; given again, it writes what is left.
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
    /// Given up, and not written.
    failed: u64,
    /// Given up, and perhaps written.
    unknown: u64,
}

impl Counts {
    fn done(&self) -> u64 {
        self.created + self.replaced + self.unchanged
    }

    /// Of a file with so many keys, those that were not begun.
    fn left(&self, keys: u64) -> u64 {
        keys.saturating_sub(self.done() + self.failed + self.unknown)
    }

    fn count(&mut self, stored: Stored, retries: u32, bytes: u64) {
        match stored {
            Stored::Created => self.created += 1,
            Stored::CreatedByStandIns => {
                self.created += 1;
                self.created_by_stand_ins += 1;
            }
            Stored::Replaced => self.replaced += 1,
            Stored::Unchanged => self.unchanged += 1,
        }
        self.retried += u64::from(retries);
        self.bytes += bytes;
    }

    fn count_given_up(&mut self, why: &Stop) {
        match why {
            Stop::UnknownOutcome(_) => self.unknown += 1,
            Stop::Failed(_) | Stop::Usage(_) => self.failed += 1,
        }
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
    let (ends, unreadable) = (Cell::new(false), Cell::new(None));
    let records = source.last_records(&survey)?.map_while(|record| match record {
        Ok(record) => (!ends.get()).then_some(record),
        Err(error) => {
            unreadable.set(Some(Stop::from(error)));
            None
        }
    });
    let (client, source, ends) = (&client, &source, &ends);
    let writes = futures::stream::iter(records).map(|record| async move {
        let name = source.name(&record);
        let bytes = record.value.len() as u64;
        let tries = Tries::new(client, ends, patience);
        let stored = store(tries, &name, &record.value, quorum).await;
        let failed = |error| Stop::from(error).of(readable(&name.key).as_str());
        stored.map(|(stored, retries)| (stored, retries, bytes)).map_err(failed)
    });
    let mut writes = std::pin::pin!(writes.buffer_unordered(usize::from(source.concurrency)));
    let mut given_up = None;
    while let Some(write) = writes.next().await {
        match write {
            Ok((stored, retries, bytes)) => counts.count(stored, retries, bytes),
            Err(why) => {
                ends.set(true);
                counts.count_given_up(&why);
                given_up = Some(graver(given_up, why));
            }
        }
        progress.at(counts.done(), || rate(counts.done(), started.elapsed()));
    }
    progress.end();
    let told = report(format, &counts, &survey, started.elapsed());
    given_up.or(unreadable.take()).map_or(told, Err)
}

/// The one that the exit code is of: the first, unless only a later one leaves open what was written.
fn graver(first: Option<Stop>, later: Stop) -> Stop {
    match (first, later) {
        (Some(Stop::Failed(_) | Stop::Usage(_)) | None, later @ Stop::UnknownOutcome(_)) | (None, later) => later,
        (Some(first), _) => first,
    }
}

/// Until the record is stored or given up. Also tells how many attempts failed before.
async fn store(mut tries: Tries<'_>, name: &Name, value: &Bytes, quorum: QuorumWish) -> Result<(Stored, u32), RequestError> {
    let create = PutOptions { quorum, create_only: true, ..PutOptions::default() }.retried();
    if let Some(written) = tries.put(name, value, &create).await? {
        return Ok((created(&written.evidence), tries.failed));
    }
    loop {
        let found = tries.get(name).await?;
        if let [only] = found.siblings.as_slice()
            && only.value == *value
        {
            return Ok((Stored::Unchanged, tries.failed));
        }
        // A write of its own, and not the create once more: where that is known it would be acknowledged, and nothing replaced.
        let replace = PutOptions { quorum, context: found.context, ..PutOptions::default() }.retried();
        if let Some(written) = tries.put(name, value, &replace).await? {
            let stored = match found.siblings.is_empty() {
                true if found.evidence.hinted > 0 => Stored::CreatedByStandIns,
                true => created(&written.evidence),
                false => Stored::Replaced,
            };
            return Ok((stored, tries.failed));
        }
    }
}

/// The tries of one record.
struct Tries<'a> {
    client: &'a Client,
    /// Another record was given up: no further try.
    ends: &'a Cell<bool>,
    deadline: Instant,
    failed: u32,
    /// What the first said that may have written.
    open: Option<RequestError>,
}

impl<'a> Tries<'a> {
    fn new(client: &'a Client, ends: &'a Cell<bool>, patience: Duration) -> Self {
        Self { client, ends, deadline: Instant::now() + patience, failed: 0, open: None }
    }

    /// Sends one write until it is acknowledged. `None` if the key has to be looked at before anything else is written: it exists, or the
    /// context may be old by now. Once a try may have written, only the same write is sent.
    async fn put(&mut self, name: &Name, value: &Bytes, options: &PutOptions) -> Result<Option<PutResult>, RequestError> {
        let mut may_be_made = false;
        loop {
            let error = match self.client.put(name, value.clone(), options).await {
                Ok(written) => return Ok(Some(written)),
                // Somebody else created it, or it was there.
                Err(RequestError::Failed(Failure::Exists)) => return Ok(None),
                Err(error) => error,
            };
            may_be_made |= error.is_unknown();
            self.wait_after(error).await?;
            if !may_be_made && !options.create_only {
                return Ok(None);
            }
        }
    }

    async fn get(&mut self, name: &Name) -> Result<GetResult, RequestError> {
        loop {
            match self.client.get(name, &GetOptions::default()).await {
                Ok(found) => return Ok(found),
                Err(error) => self.wait_after(error).await?,
            }
        }
    }

    /// Waits before the next try, if there is to be one.
    async fn wait_after(&mut self, error: RequestError) -> Result<(), RequestError> {
        if error.is_invalid() || self.ends.get() || Instant::now() >= self.deadline {
            return Err(error.after(self.open.take()));
        }
        if error.is_unknown() {
            self.open.get_or_insert(error);
        }
        tokio::time::sleep(PAUSE_FIRST * (1 << self.failed.min(3))).await;
        self.failed += 1;
        Ok(())
    }
}

fn created(evidence: &Evidence) -> Stored {
    if evidence.hinted > 0 { Stored::CreatedByStandIns } else { Stored::Created }
}

fn rate(done: u64, elapsed: Duration) -> String {
    format!("{}/s", grouped((done as f64 / elapsed.as_secs_f64().max(0.001)) as u64))
}

fn report(format: Format, counts: &Counts, survey: &Survey, elapsed: Duration) -> Result<(), Stop> {
    let left = counts.left(survey.keys);
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
            (survey.duplicates, "earlier records of a key that comes again left out"),
            (counts.retried, "attempts repeated"),
            (counts.failed, "not written"),
            (counts.unknown, "of unknown outcome"),
            (left, "not begun"),
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
        "duplicates": survey.duplicates,
        "retried": counts.retried,
        "failed": counts.failed,
        "unknown": counts.unknown,
        "left": left,
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

    #[test]
    fn the_exit_code_is_of_the_first_that_was_given_up_unless_a_later_one_may_be_written() {
        let (failed, unknown) = (|| Stop::Failed("first".to_owned()), || Stop::UnknownOutcome("later".to_owned()));
        assert!(matches!(graver(None, failed()), Stop::Failed(_)));
        assert!(matches!(graver(Some(failed()), unknown()), Stop::UnknownOutcome(_)));
        assert!(matches!(graver(Some(unknown()), failed()), Stop::UnknownOutcome(_)));
        assert!(matches!(graver(Some(failed()), Stop::Usage("later".to_owned())), Stop::Failed(why) if why == "first"));
    }
}
