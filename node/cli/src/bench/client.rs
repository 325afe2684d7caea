//! One client of the benchmark: operation after operation, each with its latency.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dynamo_client::{GetOptions, PutOptions, RequestError};
use dynamo_core::random::Random;
use dynamo_core::request::QuorumWish;

use super::Shared;
use super::away::Phases;
use super::pace::Pace;
use super::report::Measured;
use super::shape::Action;
use super::timeline::Timeline;

/// How long a client waits after an error: a cluster that refuses at once is not asked in a tight loop.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(5);

/// What is measured: operations that end between the two.
pub struct Window {
    /// From here on.
    pub begin: Instant,
    /// Until here.
    pub end: Instant,
    /// Second by second, if that was asked for.
    pub timeline: Option<Arc<Timeline>>,
    /// Apart by what happened meanwhile, if that was asked for.
    pub phases: Option<Arc<Phases>>,
}

impl Window {
    fn counts(&self, ended: Instant) -> bool {
        ended >= self.begin && ended < self.end
    }
}

/// Runs until the window ends.
pub async fn run(shared: &Shared, mut source: Random, window: Window) -> Measured {
    let mut measured = Measured::new();
    let mut pace = Pace::new(shared.arguments.rate, shared.arguments.clients, &mut source);
    loop {
        let sent = pace.next(&mut source).await;
        if sent.from >= window.end || Instant::now() >= window.end {
            return measured;
        }
        measured.late += u64::from(sent.late && sent.from >= window.begin);
        let action = shared.arguments.workload.action(source.next_u64());
        let outcome = perform(shared, action, &mut source).await;
        let ended = Instant::now();
        if window.counts(ended) {
            let latency = ended - sent.from;
            if let Some(timeline) = &window.timeline {
                timeline.record(ended, outcome.is_ok().then_some(latency));
            }
            if let Some(phases) = &window.phases {
                phases.record(outcome.is_ok().then_some(latency));
            }
            match &outcome {
                Ok(siblings) => {
                    let of_gets = action == Action::Get;
                    let latencies = if of_gets { &mut measured.gets } else { &mut measured.puts };
                    latencies.record(latency);
                    measured.siblings_max = measured.siblings_max.max(*siblings);
                }
                Err(error) => *measured.errors.entry(error.kind()).or_default() += 1,
            }
        }
        if outcome.is_err() {
            tokio::time::sleep(PAUSE_AFTER_ERROR).await;
        }
    }
}

/// One operation; says how many siblings a get of it returned.
async fn perform(shared: &Shared, action: Action, source: &mut Random) -> Result<usize, RequestError> {
    if action == Action::Insert {
        let record = shared.next_insert.fetch_add(1, Ordering::Relaxed);
        put(shared, record, Bytes::new(), source).await?;
        return Ok(0);
    }
    let record = shared.chooser.next(source, shared.records());
    match action {
        Action::Get => get(shared, record).await,
        Action::Update | Action::Insert => {
            put(shared, record, shared.context(record), source).await?;
            Ok(0)
        }
        Action::ReadModifyWrite => {
            let siblings = get(shared, record).await?;
            put(shared, record, shared.context(record), source).await?;
            Ok(siblings)
        }
    }
}

async fn get(shared: &Shared, record: u64) -> Result<usize, RequestError> {
    let options = GetOptions { quorum: QuorumWish::from(&shared.arguments.read), timeout: None };
    let found = shared.client.get(&shared.name(record), &options).await?;
    shared.seen(record, found.context);
    Ok(found.siblings.len())
}

async fn put(shared: &Shared, record: u64, context: Bytes, source: &mut Random) -> Result<(), RequestError> {
    let options = PutOptions { quorum: QuorumWish::from(&shared.arguments.write), context, ..PutOptions::default() };
    let written = shared.client.put(&shared.name(record), shared.value(source), &options).await?;
    shared.seen(record, written.context);
    Ok(())
}
