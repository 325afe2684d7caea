//! `bench compare`: several systems on one machine, measured in turn, again and again (A B C A B C ...).
//!
//! What a neighbour on the machine does for a minute then falls on all of them and not on one. Each figure is given with its least,
//! its median and its greatest value; a measurement during which the machine itself changed ([`super::calibration`]) is made again,
//! and marked if that does not help. Ratios are made round by round, of the measurements that stand beside each other, and only
//! between systems whose acknowledgements are worth the same ([`summary`]).

mod peers;
mod summary;

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, value_parser};
use serde_json::{Value, json};

use super::interruption::interruption;
use super::point::{Distribution, Point};
use super::report::Report;
use super::session::{Data, Session};
use super::shape::Shape;
use super::system::{Options, System};
use super::{machine, point};
use crate::arguments::{Connection, seconds};
use crate::output::{Format, print, print_on, tell};
use crate::stop::Stop;
use crate::{local, random};
use peers::{Peers, Programs};
use summary::Summary;

/// A measurement during which the machine changed is made so often again.
const REPEATS_MAX: u32 = 2;
/// What is measured if nothing was named: whatever of it answers.
const SYSTEMS_DEFAULT: [System; 6] =
    [System::Dynamokv, System::DynamokvBuffered, System::Etcd, System::EtcdSerializable, System::GarageK2v, System::Redis];

/// Arguments of `bench compare`.
#[derive(Args, Debug)]
pub struct Compare {
    /// What to measure. Default: each of them that answers, except unary calls.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SYSTEM,...")]
    systems: Vec<System>,
    /// What to measure them with.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "update,c", value_name = "WORKLOAD,...")]
    workloads: Vec<Shape>,
    /// Rounds.
    #[arg(long, default_value_t = 5, value_name = "NUMBER", value_parser = value_parser!(u32).range(1..=100))]
    repetitions: u32,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 20, value_parser = value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Seconds before each measurement that are not measured.
    #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = seconds())]
    warm_up: u64,
    /// Which records are asked for. Default: latest for workload d, else zipfian.
    #[arg(long, value_enum)]
    distribution: Option<Distribution>,
    /// Latencies and cost of each interval as well, in the JSON lines: of each second, or of so many.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "1")]
    #[arg(value_parser = value_parser!(u64).range(1..=3600))]
    timeline: Option<u64>,
    /// Append a line of JSON for each measurement, and one for the summary, to this file too.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Start those peers whose programs are there, each with data in a folder that is removed at the end.
    #[arg(long)]
    start_peers: bool,
    #[command(flatten)]
    programs: Programs,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    options: Options,
}

/// Where lines of JSON go.
struct Lines {
    to_output: bool,
    file: Option<(PathBuf, File)>,
}

impl Lines {
    fn open(format: Format, path: Option<&PathBuf>) -> Result<Self, Stop> {
        let open = |path: &PathBuf| {
            let opened = File::options().create(true).append(true).open(path);
            opened.map(|file| (path.clone(), file)).map_err(|error| Stop::Usage(format!("--record {}: {error}", path.display())))
        };
        Ok(Self { to_output: format == Format::Json, file: path.map(open).transpose()? })
    }

    fn write(&mut self, document: &Value) -> Result<(), Stop> {
        let line = format!("{document}\n");
        if let Some((path, file)) = &mut self.file {
            file.write_all(line.as_bytes()).map_err(|error| Stop::Failed(format!("{}: {error}", path.display())))?;
        }
        if self.to_output { print_on(line.as_bytes()) } else { Ok(()) }
    }
}

/// Compares, whatever ends it: the peers that were started are stopped.
pub async fn run(connection: &Connection, format: Format, arguments: Compare) -> Result<(), Stop> {
    let lines = Lines::open(format, arguments.record.as_ref())?;
    let mut peers = Peers::none(&local::default_cluster().unwrap_or_default())?;
    let done = tokio::select! {
        done = compare(connection, format, arguments, lines, &mut peers) => done,
        interrupted = interruption() => Err(interrupted),
    };
    let stopped = peers.stop().await;
    done.and(stopped)
}

async fn compare(
    connection: &Connection,
    format: Format,
    arguments: Compare,
    mut lines: Lines,
    peers: &mut Peers,
) -> Result<(), Stop> {
    let mut options = arguments.options.clone();
    let mut notes = Vec::new();
    if arguments.start_peers {
        peers.start(&arguments.programs, &arguments.systems, &mut options, &mut notes).await?;
    }
    let sessions = sessions(connection, &arguments, &options, &mut notes).await?;
    notes.iter().for_each(tell);
    let mut source = random::fresh();
    for session in &sessions {
        session.load(&mut source).await?;
    }
    let mut summary = Summary::default();
    for shape in &arguments.workloads {
        for repetition in 1..=arguments.repetitions {
            for session in &sessions {
                let point = arguments.point(*shape);
                let report = measure_quietly(session, &point, &mut source, |attempt, report| {
                    say(&arguments, *shape, repetition, report);
                    let mut document = report.document();
                    document["repetition"] = json!(repetition);
                    document["attempt"] = json!(attempt);
                    lines.write(&document)
                })
                .await?;
                summary.add(*shape, report);
            }
        }
    }
    let mut document = summary.document();
    document["machine"] = machine::document();
    document["notes"] = json!(notes);
    lines.write(&document)?;
    match format {
        Format::Table => print(format!("{}\n", summary.text()).as_bytes()),
        Format::Json => Ok(()),
    }
}

impl Compare {
    fn point(&self, shape: Shape) -> Point {
        Point {
            shape,
            distribution: self.distribution,
            seconds: self.seconds,
            warm_up: self.warm_up,
            rate: None,
            timeline: self.timeline,
            meanwhile: None,
        }
    }
}

/// Those that were named must answer; of the others, those that do are taken.
async fn sessions(
    connection: &Connection,
    arguments: &Compare,
    options: &Options,
    notes: &mut Vec<String>,
) -> Result<Vec<Arc<Session>>, Stop> {
    let named = !arguments.systems.is_empty();
    let systems = if named { &arguments.systems[..] } else { &SYSTEMS_DEFAULT };
    let mut source = random::fresh();
    let mut sessions = Vec::new();
    for system in systems {
        match system.connect(connection, options).await {
            Ok(target) => {
                let keys = Session::fresh_keys(&mut source);
                sessions.push(Arc::new(Session::new(target, arguments.data.clone(), keys, &mut source)));
            }
            Err(stop) if named => return Err(stop),
            Err(stop) => notes.push(format!("not measured: {}: {stop}", system.name())),
        }
    }
    if sessions.is_empty() {
        return Err(Stop::Failed(format!("no system answers:\n{}", notes.join("\n"))));
    }
    Ok(sessions)
}

/// Measures, and again if the machine changed meanwhile. The last measurement counts; every one is told.
async fn measure_quietly(
    session: &Arc<Session>,
    point: &Point,
    source: &mut dynamo_core::random::Random,
    mut tell: impl FnMut(u32, &Report) -> Result<(), Stop>,
) -> Result<Report, Stop> {
    let mut attempt = 1;
    loop {
        let report = point::measure(session, point, source).await?;
        tell(attempt, &report)?;
        if !report.surroundings.is_marked() || attempt > REPEATS_MAX {
            return Ok(report);
        }
        attempt += 1;
    }
}

fn say(arguments: &Compare, shape: Shape, repetition: u32, report: &Report) {
    let marked = if report.surroundings.is_marked() { ", and the machine changed meanwhile" } else { "" };
    tell(format_args!(
        "{shape:?} {repetition}/{}: {}: {} us/op of servers, {:.0} ops/s{marked}",
        arguments.repetitions,
        report.system.name(),
        report.servers_cpu_us().map_or("unknown".to_owned(), |cpu| format!("{cpu:.1}")),
        report.per_second(),
    ));
}
