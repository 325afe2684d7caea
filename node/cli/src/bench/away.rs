//! `bench --away NODE`: what users notice while a node is away, and while what it missed is brought to it (paper 4.6, 6.5).
//!
//! ```text
//! |-- quiet: a third --|-- away: a third, killed or paused --|-- delivering: until no hint waits --|-- after --|
//! ```
//!
//! The run is as long as it was asked to be; `after` is what is left. Deliveries are the background work that must give way to
//! requests, so the figure to look at is the 99th percentile of `delivering` beside that of `quiet`.

use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::interruption::interruption;
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

/// A node that is away for the second third of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Away {
    /// Which.
    pub node: usize,
    /// How.
    pub by: AwayBy,
}

/// What the nodes say of hints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Hints {
    waiting: u64,
    /// Nodes that do not answer, and may have more.
    silent: usize,
}

/// What is done to a cluster meanwhile, and asked of it.
trait Cluster {
    async fn take_away(&self, away: Away) -> Result<(), Stop>;
    async fn bring_back(&self, away: Away) -> Result<(), Stop>;
    async fn hints(&self) -> Result<Hints, Stop>;
}

/// That of `local up`.
struct Local {
    /// With which a node that was killed is started again.
    program: Option<PathBuf>,
}

impl Cluster for Local {
    async fn take_away(&self, away: Away) -> Result<(), Stop> {
        match away.by {
            AwayBy::Kill => local::kill_quietly(away.node).await,
            AwayBy::Pause => local::signal_quietly(away.node, Signal::STOP),
        }
    }

    async fn bring_back(&self, away: Away) -> Result<(), Stop> {
        match away.by {
            AwayBy::Kill => local::start_quietly(away.node, self.program.clone()).await,
            AwayBy::Pause => local::signal_quietly(away.node, Signal::CONT),
        }
    }

    async fn hints(&self) -> Result<Hints, Stop> {
        let views = members::ask(&local::running_endpoints().into()).await?;
        let backlogs = views.answered.values().flat_map(|answer| answer.status.hints.values());
        Ok(Hints { waiting: backlogs.map(|backlog| backlog.hints).sum(), silent: views.silent.len() })
    }
}

impl Away {
    /// Takes the node away, brings it back whatever happens, and tells the phases apart. Ends when the hints are delivered and the time is
    /// over, or when somebody wants it to.
    pub async fn run(self, phases: &Phases, begin: Instant, end: Instant) -> Result<(), Stop> {
        let local = Local { program: self.program()? };
        self.run_on(&local, phases, begin, end, interruption()).await
    }

    /// What the node is started with again, if it is killed. Whoever asks before that learns in time that there is none.
    pub fn program(self) -> Result<Option<PathBuf>, Stop> {
        match self.by {
            AwayBy::Kill => local::node_program().map(Some),
            AwayBy::Pause => Ok(None),
        }
    }

    async fn run_on(
        self,
        cluster: &impl Cluster,
        phases: &Phases,
        begin: Instant,
        end: Instant,
        interrupted: impl Future<Output = Stop>,
    ) -> Result<(), Stop> {
        let third = (end - begin) / 3;
        let mut interrupted = pin!(interrupted);
        tokio::select! {
            () = tokio::time::sleep_until((begin + third).into()) => {}
            stop = &mut interrupted => return Err(stop),
        }
        cluster.take_away(self).await?;
        phases.next();
        let looking = async {
            tokio::time::sleep_until((begin + third * 2).into()).await;
            cluster.hints().await
        };
        let looked = tokio::select! {
            looked = looking => looked,
            stop = &mut interrupted => Err(stop),
        };
        let came_back = cluster.bring_back(self).await;
        let hints = match (looked, came_back) {
            (looked, Ok(())) => looked?,
            (Ok(_), Err(failed)) => return Err(failed),
            (Err(stop), Err(failed)) => return Err(failed.of(&format!("{stop}; and node {} is still away", self.node))),
        };
        phases.note(format!("{} hints waited when the node came back", hints.waiting));
        phases.next();
        tokio::select! {
            done = delivered(cluster, phases, end) => done,
            stop = &mut interrupted => Err(stop),
        }
    }
}

/// Tells the phases apart, until the hints are delivered and the time is over.
async fn delivered(cluster: &impl Cluster, phases: &Phases, end: Instant) -> Result<(), Stop> {
    loop {
        match cluster.hints().await? {
            Hints { waiting: 0, silent: 0 } => break,
            Hints { waiting, silent } if Instant::now() >= end => {
                let text = format!("{waiting} hints still wait at the end of the run, and {silent} nodes do not answer");
                return Err(Stop::Failed(format!("--away: {text}; give more --seconds, or ask for less by --rate")));
            }
            _ => tokio::time::sleep(LOOK_INTERVAL).await,
        }
    }
    phases.next();
    tokio::time::sleep_until(end.into()).await;
    phases.next();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::json;

    use super::*;

    /// A cluster that notes what is done to it, and says of hints what it was told to, the last again and again.
    struct Told {
        done: Mutex<Vec<&'static str>>,
        says: Mutex<Vec<Option<Hints>>>,
    }

    impl Told {
        fn new(says: &[Option<Hints>]) -> Self {
            Self { done: Mutex::default(), says: Mutex::new(says.iter().rev().copied().collect()) }
        }

        fn note(&self, what: &'static str) -> Result<(), Stop> {
            self.done.lock().unwrap().push(what);
            Ok(())
        }

        fn done(self) -> Vec<&'static str> {
            self.done.into_inner().unwrap()
        }
    }

    impl Cluster for Told {
        async fn take_away(&self, _: Away) -> Result<(), Stop> {
            self.note("away")
        }

        async fn bring_back(&self, _: Away) -> Result<(), Stop> {
            self.note("back")
        }

        async fn hints(&self) -> Result<Hints, Stop> {
            let mut says = self.says.lock().unwrap();
            let said = if says.len() > 1 { says.pop().unwrap() } else { says[0] };
            said.ok_or_else(|| Stop::Failed("no node answers".to_owned()))
        }
    }

    const AWAY: Away = Away { node: 2, by: AwayBy::Pause };

    /// What became of a run whose time is over when it begins.
    async fn run(cluster: &Told, interrupted: impl Future<Output = Stop>) -> (Result<(), String>, Phases) {
        let now = Instant::now();
        let phases = Phases::new(PHASES, now);
        let ended = AWAY.run_on(cluster, &phases, now, now, interrupted).await;
        (ended.map_err(|stop| stop.to_string()), phases)
    }

    #[tokio::test]
    async fn a_node_is_brought_back_whatever_ends_its_absence() {
        let cluster = Told::new(&[None]);
        let (ended, _) = run(&cluster, std::future::pending()).await;
        assert_eq!((ended, cluster.done()), (Err("no node answers".to_owned()), vec!["away", "back"]));

        let cluster = Told::new(&[None]);
        let now = Instant::now();
        let phases = Phases::new(PHASES, now);
        // Once the node is away: an hour before it would be looked at.
        let interrupted = std::future::poll_fn(|_| match cluster.done.lock().unwrap().is_empty() {
            true => std::task::Poll::Pending,
            false => std::task::Poll::Ready(Stop::Failed("interrupted".to_owned())),
        });
        let began = now.checked_sub(Duration::from_secs(3600)).unwrap();
        let ended = AWAY.run_on(&cluster, &phases, began, began + Duration::from_secs(3 * 3600), interrupted).await;
        assert_eq!(ended.unwrap_err().to_string(), "interrupted");
        assert_eq!(cluster.done(), ["away", "back"]);
    }

    #[tokio::test]
    async fn hints_of_a_node_that_does_not_answer_are_waited_for() {
        let says = |waiting, silent| Some(Hints { waiting, silent });
        let cluster = Told::new(&[says(7, 1), says(0, 1)]);
        let (ended, phases) = run(&cluster, std::future::pending()).await;
        assert!(ended.unwrap_err().contains("1 nodes do not answer"));
        assert_eq!(phases.document()["notes"], json!(["7 hints waited when the node came back"]));
        assert_eq!(phases.name(), "delivering");

        let cluster = Told::new(&[says(7, 1), says(0, 0)]);
        let (ended, phases) = run(&cluster, std::future::pending()).await;
        assert_eq!((ended, phases.name(), cluster.done()), (Ok(()), "over", vec!["away", "back"]));
    }
}
