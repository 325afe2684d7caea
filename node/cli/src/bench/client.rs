//! One client of the benchmark: operation after operation, each with its latency.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use dynamo_core::random::Random;

use super::driver::{Base, OperationError};
use super::pace::Pace;
use super::phases::Phases;
use super::point::Running;
use super::report::Measured;
use super::shape::Action;
use super::timeline::Timeline;

/// How long a client waits after an error: a cluster that refuses at once is not asked in a tight loop.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(5);

/// What is measured: operations that end between the two.
pub struct Window {
    /// From here on.
    pub begin: Instant,
    /// Until here, which is not known before what happens meanwhile is over.
    pub end: Arc<OnceLock<Instant>>,
    /// Interval by interval, if that was asked for.
    pub timeline: Option<Arc<Timeline>>,
    /// Apart by what happened meanwhile, if that was asked for.
    pub phases: Option<Arc<Phases>>,
}

impl Window {
    fn counts(&self, ended: Instant) -> bool {
        ended >= self.begin && !self.is_over(ended)
    }

    fn is_over(&self, now: Instant) -> bool {
        self.end.get().is_some_and(|end| now >= *end)
    }
}

/// Runs until the window ends.
pub async fn run(running: &Running, mut source: Random, window: Window) -> Measured {
    let mut measured = Measured::new();
    let mut pace = Pace::new(running.point.rate, running.session.data.loaded.clients, &mut source);
    loop {
        let sent = pace.next(&mut source).await;
        if window.is_over(sent.from) || window.is_over(Instant::now()) {
            return measured;
        }
        measured.late += u64::from(sent.late && sent.from >= window.begin);
        let action = running.point.shape.action(source.next_u64());
        let outcome = perform(running, action, &mut source).await;
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
                Err(error) => measured.failed(error),
            }
        }
        if outcome.is_err() {
            tokio::time::sleep(PAUSE_AFTER_ERROR).await;
        }
    }
}

/// One operation; says how many siblings a get of it returned.
async fn perform(running: &Running, action: Action, source: &mut Random) -> Result<usize, OperationError> {
    let session = &running.session;
    let put = async |record, base, source: &mut Random| {
        let token = session.target.driver.put(&session.key(record), session.value(source), base).await?;
        session.replaced(record, token);
        Ok::<(), OperationError>(())
    };
    if action == Action::Insert {
        put(session.next_insert(), Base::Nothing, source).await?;
        return Ok(0);
    }
    let record = running.chooser.next(source, session.records());
    if action == Action::Update {
        put(record, session.base(record), source).await?;
        return Ok(0);
    }
    let found = session.target.driver.get(&session.key(record)).await?;
    session.seen(record, found.token.clone());
    if action == Action::ReadModifyWrite {
        // What another client has put since is known here too, where puts tell; else it is what this get saw.
        let base = match session.base(record) {
            Base::ReadFirst if !found.token.is_empty() => Base::Token(found.token),
            Base::ReadFirst => Base::Nothing,
            base => base,
        };
        put(record, base, source).await?;
    }
    Ok(found.values)
}
