//! `bench --away NODE`: what users notice while a node is away, and while what it missed is brought to it (paper 4.6, 6.5).
//!
//! ```text
//! |-- quiet: a third --|-- away: a third, killed or paused --|-- delivering: until no hint waits --|-- after --|
//! ```
//!
//! The run is as long as it was asked to be; `after` is what is left. Deliveries are the background work that must give way to
//! requests, so the figure to look at is the 99th percentile of `delivering` beside that of `quiet`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::report::Latencies;
use crate::output::{grouped, table};
use crate::stop::Stop;
use crate::{local, members};

/// Between two looks at the hints.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How the node goes away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum AwayBy {
    /// SIGKILL, and a new start.
    Kill,
    /// SIGSTOP and SIGCONT.
    Pause,
}

impl AwayBy {
    async fn begin(self, node: usize) -> Result<(), Stop> {
        match self {
            Self::Kill => local::kill_quietly(node).await,
            Self::Pause => local::signal_quietly(node, Signal::STOP),
        }
    }

    async fn end(self, node: usize) -> Result<(), Stop> {
        match self {
            Self::Kill => local::start_quietly(node).await,
            Self::Pause => local::signal_quietly(node, Signal::CONT),
        }
    }
}

/// What happens one after the other.
const PHASES: [&str; 4] = ["quiet", "away", "delivering", "after"];

#[derive(Default)]
struct Ended {
    /// The phase that runs.
    now: usize,
    /// How long each took; that of the one that runs is not there yet.
    took: Vec<Duration>,
    latencies: Vec<Latencies>,
    errors: [u64; PHASES.len()],
    hints_most: u64,
}

/// Latencies by phase.
pub struct Phases(Mutex<Ended>);

impl Phases {
    /// None has begun.
    pub fn new() -> Self {
        let latencies = PHASES.iter().map(|_| Latencies::new()).collect();
        Self(Mutex::new(Ended { latencies, ..Ended::default() }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ended> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An operation ended now, after `latency`, or failed.
    pub fn record(&self, latency: Option<Duration>) {
        let mut ended = self.lock();
        let phase = ended.now;
        match latency {
            Some(latency) => ended.latencies[phase].record(latency),
            None => ended.errors[phase] += 1,
        }
    }

    fn next(&self, took: Duration) {
        let mut ended = self.lock();
        ended.took.push(took);
        ended.now += 1;
    }

    /// Takes the node away, brings it back, and tells the phases apart. Ends when the hints are delivered or the time is over.
    pub async fn run(self: Arc<Self>, node: usize, by: AwayBy, begin: Instant, end: Instant) -> Result<(), Stop> {
        let third = (end - begin) / 3;
        tokio::time::sleep_until((begin + third).into()).await;
        by.begin(node).await?;
        self.next(begin.elapsed());
        let mut since = Instant::now();
        tokio::time::sleep_until((begin + third * 2).into()).await;
        self.lock().hints_most = hints_waiting().await?;
        by.end(node).await?;
        self.next(since.elapsed());
        since = Instant::now();
        while hints_waiting().await? > 0 {
            if Instant::now() >= end {
                let text = "hints still wait at the end of the run; give more --seconds, or ask for less by --rate";
                return Err(Stop::Failed(format!("--away: {text}")));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        self.next(since.elapsed());
        since = Instant::now();
        tokio::time::sleep_until(end.into()).await;
        self.lock().took.push(since.elapsed());
        Ok(())
    }

    /// The 99th percentile while hints were delivered, over that of the quiet time.
    fn ratio(ended: &Ended) -> f64 {
        ended.latencies[2].quantile_ms(0.99) / ended.latencies[0].quantile_ms(0.99).max(f64::EPSILON)
    }

    /// For programs.
    pub fn document(&self) -> Value {
        let ended = self.lock();
        let phase = |(index, name): (usize, &&str)| {
            let mut phase = ended.latencies[index].document();
            phase["phase"] = json!(name);
            phase["seconds"] = json!(ended.took.get(index).map(Duration::as_secs_f64));
            phase["errors"] = json!(ended.errors[index]);
            phase
        };
        let phases: Value = PHASES.iter().enumerate().map(phase).collect();
        json!({ "phases": phases, "hints_delivered": ended.hints_most, "p99_delivering_over_quiet": Self::ratio(&ended) })
    }

    /// For people.
    pub fn text(&self) -> String {
        let ended = self.lock();
        let row = |(index, name): (usize, &&str)| {
            let mut row = ended.latencies[index].row(name);
            row.push(ended.took.get(index).map_or(String::new(), |took| format!("{:.1}", took.as_secs_f64())));
            row.push(grouped(ended.errors[index]));
            row
        };
        let header = ["PHASE", "#COUNT", "#P50 MS", "#P99 MS", "#P99.9 MS", "#MAX MS", "#SECONDS", "#ERRORS"];
        format!(
            "{}\n\n{} hints waited when the node came back; p99 while they were delivered was {:.2} of the quiet one",
            table(&header, PHASES.iter().enumerate().map(row).collect()),
            grouped(ended.hints_most),
            Self::ratio(&ended),
        )
    }
}

async fn hints_waiting() -> Result<u64, Stop> {
    let views = members::ask(&local::running_endpoints()).await?;
    Ok(views.answered.values().flat_map(|answer| answer.status.hints.values()).map(|backlog| backlog.hints).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_count_in_the_phase_in_which_they_ended() {
        let phases = Phases::new();
        let ms = Duration::from_millis;
        phases.record(Some(ms(10)));
        phases.next(ms(1000));
        phases.record(None);
        phases.next(ms(2000));
        phases.record(Some(ms(12)));
        let document = phases.document();
        assert_eq!(document["phases"][0]["count"], json!(1));
        assert_eq!((&document["phases"][1]["count"], &document["phases"][1]["errors"]), (&json!(0), &json!(1)));
        assert_eq!(document["phases"][1]["seconds"], json!(2.0));
        let ratio = document["p99_delivering_over_quiet"].as_f64().unwrap();
        assert!((ratio - 1.2).abs() < 0.01, "{ratio}");
        assert!(phases.text().contains("1.20 of the quiet one"));
    }
}
