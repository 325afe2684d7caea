//! One measurement: the machine is calibrated, the system warmed up and measured, and the machine calibrated again.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use dynamo_core::random::Random;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::accounting::{Usage, snapshot, sum, taken};
use super::away::{self, Away};
use super::calibration::Calibration;
use super::machine::{CoreTime, load_average};
use super::phases::Phases;
use super::report::{Measured, Report, Surroundings, Taken};
use super::scale::{self, Scaling};
use super::session::{Session, Updates};
use super::shape::Shape;
use super::system::QUIET_PATIENCE;
use super::timeline::Timeline;
use super::zipfian::{Chooser, THETA, Zipfian};
use super::{client, machine};
use crate::output::grouped;
use crate::progress::Progress;
use crate::stop::Stop;

/// Between two looks at whether servers are quiet.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// For so long after its end an open loop sends what was due before: as long as a request may take where nobody said otherwise. One that
/// is so far behind is asked for more than the system does, and would be behind for ever.
pub const CATCH_UP_MAX: Duration = Duration::from_secs(5);
/// Requests of all clients of an open loop that are under way at the same time, at most: more than a cluster has that follows. One that
/// does not would be asked for ever more at once: what is due beyond them is sent late, and counts from its time.
const IN_FLIGHT_MAX: usize = 1_024;
/// Servers that take less than this share of a core have nothing left to do from before.
const QUIET_SHARE: f64 = 0.05;

/// Which records are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Distribution {
    /// Scrambled zipfian, constant 0.99.
    Zipfian,
    /// All alike.
    Uniform,
    /// A fifth of the records gets four fifths of the requests.
    Hotspot,
    /// Zipfian, the newest first.
    Latest,
}

/// What to do, and for how long.
#[derive(Clone, Debug)]
pub struct Point {
    /// Which operations.
    pub shape: Shape,
    /// On which records; the shape's own way if absent.
    pub distribution: Option<Distribution>,
    /// What is measured.
    pub seconds: u64,
    /// What is not, before it.
    pub warm_up: u64,
    /// Requests a second of all clients, sent whatever the answers.
    pub rate: Option<f64>,
    /// Latencies and cost of each interval of so many seconds as well.
    pub timeline: Option<u64>,
    /// What happens to the cluster meanwhile.
    pub meanwhile: Option<Meanwhile>,
}

/// What happens to a cluster while it is measured.
#[derive(Clone, Debug)]
pub enum Meanwhile {
    /// A node goes away and comes back.
    Away(Away),
    /// It grows and shrinks. The run is as long as that takes.
    Scale(Arc<Scaling>),
}

impl Meanwhile {
    fn phases(&self, begin: Instant) -> Phases {
        Phases::new(if matches!(self, Self::Away(_)) { away::PHASES } else { scale::PHASES }, begin)
    }

    async fn run(
        self,
        phases: Arc<Phases>,
        begin: Instant,
        end: watch::Sender<Option<Instant>>,
        seconds: u64,
    ) -> Result<(), Stop> {
        match self {
            Self::Away(away) => away.run(&phases, begin, begin + Duration::from_secs(seconds)).await,
            Self::Scale(scaling) => {
                let ended = scaling.run(&phases, begin, Duration::from_secs(seconds)).await;
                // Also if it failed: the clients are to stop.
                end.send_replace(Some(Instant::now()));
                ended
            }
        }
    }
}

impl Point {
    fn distribution(&self) -> Distribution {
        let default = if self.shape == Shape::D { Distribution::Latest } else { Distribution::Zipfian };
        self.distribution.unwrap_or(default)
    }

    fn chooser(&self, records: u64) -> Chooser {
        match self.distribution() {
            Distribution::Zipfian => Chooser::Zipfian(Zipfian::new(records)),
            Distribution::Uniform => Chooser::Uniform { records },
            Distribution::Hotspot => Chooser::Hotspot { records },
            Distribution::Latest => Chooser::Latest(Zipfian::new(records)),
        }
    }

    fn title(&self, session: &Session) -> String {
        let data = &session.data;
        let updates = match data.updates {
            Updates::Context => "updates with the context last seen",
            Updates::Blind => "blind updates",
        };
        let shape = if self.shape == Shape::Update { "updates only".to_owned() } else { format!("YCSB {:?}", self.shape) };
        format!(
            "{}, {shape}: {} records of {} bytes, {:?} keys, {} clients in {} loop, {updates}",
            session.target.system.name(),
            grouped(data.loaded.records),
            grouped(data.loaded.value_bytes),
            self.distribution(),
            data.loaded.clients,
            if self.rate.is_some() { "an open" } else { "a closed" },
        )
    }

    /// Everything that was set, with what the system and the machine say of themselves.
    fn configuration(&self, session: &Session) -> Value {
        let lower = |value: &dyn std::fmt::Debug| format!("{value:?}").to_lowercase();
        let scrambled = matches!(self.distribution(), Distribution::Zipfian | Distribution::Latest);
        let mut configuration = json!({
            "workload": lower(&self.shape),
            "gets_percent": self.shape.gets_percent(),
            "loop": if self.rate.is_some() { "open" } else { "closed" },
            "rate_per_second": self.rate,
            "seconds": self.seconds,
            "warm_up_seconds": self.warm_up,
            "distribution": lower(&self.distribution()),
            "zipfian_constant": scrambled.then_some(THETA),
            "keys": session.keys,
            "version": env!("CARGO_PKG_VERSION"),
            "revision": revision(),
            "built_for_x86_64_v3": cfg!(target_feature = "avx2"),
            "machine": machine::document(),
        });
        if let Some(fields) = configuration.as_object_mut() {
            for part in [session.data.document(), session.target.driver.configuration()] {
                fields.extend(part.as_object().cloned().unwrap_or_default());
            }
        }
        configuration
    }
}

/// Of the source, if whoever built or started the program said so: a program does not know where it comes from.
fn revision() -> Option<String> {
    option_env!("DYNAMOKV_REVISION").map(str::to_owned).or_else(|| std::env::var("DYNAMOKV_REVISION").ok())
}

/// What the clients of one point share.
pub struct Running {
    /// The system and its records.
    pub session: Arc<Session>,
    /// What to do.
    pub point: Point,
    /// With which records.
    pub chooser: Chooser,
    /// Requests that one client has under way at the same time, at most.
    pub in_flight_max: usize,
}

/// Measures once.
pub async fn measure(session: &Arc<Session>, point: &Point, source: &mut Random) -> Result<Report, Stop> {
    let load_before = load_average();
    settle(&session.target.servers).await;
    let before = Calibration::measure().await?;
    let began_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let mut report = run(session, point, source).await?;
    settle(&session.target.servers).await;
    let after = Calibration::measure().await?;
    report.surroundings.calibration = Some((before, after));
    report.surroundings.load_average = load_before;
    report.surroundings.began_ms = began_ms;
    // Asked again: what the system acknowledged meanwhile may say more than what it did before.
    report.durability = session.target.driver.durability();
    Ok(report)
}

/// Waits until the servers have nothing left to do, or for as long as that is worth.
async fn settle(servers: &[u32]) {
    let cpu = || snapshot(servers).into_values().sum::<Usage>();
    let deadline = Instant::now() + QUIET_PATIENCE;
    let mut last = cpu();
    while !servers.is_empty() && Instant::now() < deadline {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let now = cpu();
        let share = now.since(last).cpu.as_secs_f64() / LOOK_INTERVAL.as_secs_f64();
        if share < QUIET_SHARE * servers.len() as f64 {
            return;
        }
        last = now;
    }
}

async fn run(session: &Arc<Session>, point: &Point, source: &mut Random) -> Result<Report, Stop> {
    let servers = &session.target.servers;
    let running = Arc::new(Running {
        session: Arc::clone(session),
        point: point.clone(),
        chooser: point.chooser(session.data.loaded.records),
        in_flight_max: point.rate.map_or(1, |_| (IN_FLIGHT_MAX / usize::from(session.data.loaded.clients)).max(1)),
    });
    let begin = Instant::now() + Duration::from_secs(point.warm_up);
    let is_known = !matches!(point.meanwhile, Some(Meanwhile::Scale(_)));
    let end = watch::Sender::new(is_known.then(|| begin + Duration::from_secs(point.seconds)));
    let timeline = point.timeline.map(|seconds| Arc::new(Timeline::new(begin, seconds)));
    let mut watching = JoinSet::new();
    if let Some(timeline) = timeline.clone() {
        let servers = servers.clone();
        watching.spawn(async move { timeline.watch(&servers).await });
    }
    let phases = point.meanwhile.as_ref().map(|meanwhile| Arc::new(meanwhile.phases(begin)));
    let mut meanwhile = JoinSet::new();
    if let Some((what, phases)) = point.meanwhile.clone().zip(phases.clone()) {
        meanwhile.spawn(what.run(phases, begin, end.clone(), point.seconds));
    }
    let mut tasks = JoinSet::new();
    for _ in 0..session.data.loaded.clients {
        let (timeline, phases) = (timeline.clone(), phases.clone());
        let window = client::Window { begin, end: end.subscribe(), catch_up: CATCH_UP_MAX, timeline, phases };
        let (running, source) = (Arc::clone(&running), Random::new(source.next_u64()));
        tasks.spawn(async move { client::run(&running, source, window).await });
    }
    let mut progress = Progress::new("run", None);
    wait(&mut progress, || (begin.saturating_duration_since(Instant::now()), "warming up")).await;
    let own = std::process::id();
    let (before, core_before) = (snapshot(servers), CoreTime::now());
    let own_before = Usage::of(own).unwrap_or_default();
    let waiting = wait(&mut progress, || match *end.borrow() {
        Some(end) => (end.saturating_duration_since(Instant::now()), "measuring"),
        // Nobody knows when it ends, only where it is.
        None => (LOOK_INTERVAL, phases.as_ref().map_or("measuring", |phases| phases.name())),
    });
    tokio::select! {
        () = waiting => {}
        stop = failure(&mut meanwhile) => return Err(stop),
    }
    let (after, core_after) = (snapshot(servers), CoreTime::now());
    let client = Usage::of(own).unwrap_or_default().since(own_before);
    progress.end();
    let end = end.borrow().unwrap_or_else(Instant::now);
    drop(watching);
    if let Some(timeline) = &timeline {
        timeline.took(sum(servers, &after));
        timeline.end(end);
    }
    let mut measured = Measured::new();
    while let Some(ended) = tasks.join_next().await {
        measured.add(&ended.map_err(|error| Stop::Failed(format!("run: {error}")))?);
    }
    all_well(&mut meanwhile).await?;
    let stolen_percent = core_after.zip(core_before).map(|(after, before)| after.stolen_percent_since(before));
    Ok(Report {
        system: session.target.system,
        durability: session.target.driver.durability(),
        configuration: point.configuration(session),
        title: point.title(session),
        load: None,
        elapsed: end - begin,
        measured,
        taken: Taken { client, servers: taken(servers, &before, &after) },
        rate: point.rate,
        timeline,
        phases,
        surroundings: Surroundings { stolen_percent, ..Surroundings::default() },
    })
}

/// Until what goes on meanwhile has ended.
async fn all_well(meanwhile: &mut JoinSet<Result<(), Stop>>) -> Result<(), Stop> {
    while let Some(ended) = meanwhile.join_next().await {
        ended.map_err(|error| Stop::Failed(format!("meanwhile: {error}")))??;
    }
    Ok(())
}

/// Until what goes on meanwhile has failed: what is measured then is not what was asked for.
async fn failure(meanwhile: &mut JoinSet<Result<(), Stop>>) -> Stop {
    match all_well(meanwhile).await {
        Err(stop) => stop,
        Ok(()) => std::future::pending().await,
    }
}

/// Until nothing is left to wait for, and tells what it waits for.
async fn wait(progress: &mut Progress, left: impl Fn() -> (Duration, &'static str)) {
    loop {
        let (left, what) = left();
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK_INTERVAL)).await;
        progress.at(0, || format!("{what}, {} s to go", left.as_secs()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_fails_meanwhile_ends_the_run_and_what_ends_well_does_not() {
        let mut meanwhile = JoinSet::new();
        meanwhile.spawn(async { Err(Stop::Failed("no node answers".to_owned())) });
        assert_eq!(failure(&mut meanwhile).await.to_string(), "no node answers");
        meanwhile.spawn(async { Ok(()) });
        tokio::select! {
            biased;
            stop = failure(&mut meanwhile) => panic!("{stop}"),
            () = a_few_turns() => {}
        }
        assert!(all_well(&mut meanwhile).await.is_ok());
    }

    /// Long enough for a task that has nothing to do.
    async fn a_few_turns() {
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }
}
