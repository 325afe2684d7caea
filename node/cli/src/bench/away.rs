//! `bench --away NODE`: what users notice while a node is away, and while what it missed is brought to it (paper 4.6, 6.5).
//!
//! ```text
//! |-- quiet: a third --|-- away: a third, killed or paused --|-- delivering: until no hint waits --|-- after --|
//! ```
//!
//! The run is as long as it was asked to be; `after` is what is left. Deliveries are the background work that must give way to
//! requests, so the figure to look at is the 99th percentile of `delivering` beside that of `quiet`.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::phases::Phases;
use crate::stop::Stop;
use crate::{local, members};

/// Between two looks at the hints.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// What happens one after the other.
pub const PHASES: &[&str] = &["quiet", "away", "delivering", "after"];

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

/// A node that is away for the second third of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Away {
    /// Which.
    pub node: usize,
    /// How.
    pub by: AwayBy,
}

impl Away {
    /// Takes the node away, brings it back, and tells the phases apart. Ends when the hints are delivered and the time is over.
    pub async fn run(self, phases: &Phases, begin: Instant, end: Instant) -> Result<(), Stop> {
        let third = (end - begin) / 3;
        tokio::time::sleep_until((begin + third).into()).await;
        self.by.begin(self.node).await?;
        phases.next();
        tokio::time::sleep_until((begin + third * 2).into()).await;
        phases.note(format!("{} hints waited when the node came back", hints_waiting().await?));
        self.by.end(self.node).await?;
        phases.next();
        while hints_waiting().await? > 0 {
            if Instant::now() >= end {
                let text = "hints still wait at the end of the run; give more --seconds, or ask for less by --rate";
                return Err(Stop::Failed(format!("--away: {text}")));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        phases.next();
        tokio::time::sleep_until(end.into()).await;
        phases.next();
        Ok(())
    }
}

async fn hints_waiting() -> Result<u64, Stop> {
    let views = members::ask(&local::running_endpoints().into()).await?;
    Ok(views.answered.values().flat_map(|answer| answer.status.hints.values()).map(|backlog| backlog.hints).sum())
}
