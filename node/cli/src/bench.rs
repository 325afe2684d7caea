//! `bench`: YCSB's workloads, with the CPU time that servers and client took (design 9).
//!
//! In a closed loop, or with `--rate` in an open one ([`pace`]). Updates carry the context that the benchmark last saw of the
//! record, as an application that read it would: blind puts would leave a sibling each, and measure ever larger objects.
//! `--updates blind` does that nevertheless. Values are random bytes that no compression makes smaller. Keys are new in each run.

mod away;
mod client;
mod pace;
mod report;
mod shape;
mod timeline;
mod zipfian;

pub use report::{LATENCY_HEADER, Latencies};

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use dynamo_client::{Client, Mode, PutOptions, RequestError};
use dynamo_core::config::VALUE_BYTES_MAX;
use dynamo_core::name::Name;
use dynamo_core::random::Random;
use dynamo_core::request::QuorumWish;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::arguments::{Connection, ReadQuorum, WriteQuorum};
use crate::output::{Format, grouped, show};
use crate::process::cpu_time;
use crate::progress::Progress;
use crate::stop::Stop;
use crate::{connection, local, random};
use away::Phases;
use report::{Cpu, Measured, Report};
use shape::Shape;
use timeline::Timeline;
use zipfian::{Chooser, THETA, Zipfian};

/// Random bytes of which every value is a piece.
const POOL_BYTES: usize = 8 << 20;
/// Attempts at one record of the load phase.
const LOAD_ATTEMPTS_MAX: u32 = 5;

/// Arguments of `bench`.
#[derive(Args, Debug, Clone)]
pub struct Bench {
    /// YCSB's letter, or updates only.
    #[arg(long, value_enum, default_value_t = Shape::A)]
    workload: Shape,
    /// Records that are loaded first.
    #[arg(long, default_value_t = 100_000, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    records: u64,
    /// Bytes of a value.
    #[arg(long, default_value_t = 1024, value_name = "BYTES")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=VALUE_BYTES_MAX as u64))]
    value_bytes: u64,
    /// Clients, each with one request in flight.
    #[arg(long, default_value_t = 64, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=4096))]
    clients: u16,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Seconds before that which are not.
    #[arg(long, default_value_t = 2, value_name = "SECONDS")]
    warm_up: u64,
    /// How requests travel.
    #[arg(long, value_enum, default_value_t = Travel::Stream)]
    mode: Travel,
    /// Requests a second of all clients together, sent on a schedule whatever the answers: an open loop. Without it a client sends
    /// its next request when its last one is answered.
    #[arg(long, value_name = "NUMBER", value_parser = rate)]
    rate: Option<f64>,
    /// Kill this node of `local up` after a third of the time, start it again after another third, and tell the latencies while
    /// its hints are delivered from those before.
    #[arg(long, value_name = "NODE")]
    away: Option<usize>,
    /// Latencies of each second as well.
    #[arg(long)]
    timeline: bool,
    /// Which records are asked for. Default: latest for workload d, else zipfian.
    #[arg(long, value_enum)]
    distribution: Option<Distribution>,
    /// What updates carry.
    #[arg(long, value_enum, default_value_t = Updates::Context)]
    updates: Updates,
    /// The bucket that the records are in.
    #[arg(short, long, default_value = "bench")]
    bucket: String,
    #[command(flatten)]
    read: ReadQuorum,
    #[command(flatten)]
    write: WriteQuorum,
    /// Server processes on this machine whose CPU time is measured.
    #[arg(long, value_delimiter = ',', value_name = "PID,...")]
    pids: Vec<u32>,
    /// Measure the CPU time of the processes of `local up`.
    #[arg(long, conflicts_with = "pids")]
    local: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Travel {
    /// One pipelined stream a node.
    Stream,
    /// One gRPC call a request.
    Unary,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Distribution {
    /// Scrambled zipfian, constant 0.99.
    Zipfian,
    /// All alike.
    Uniform,
    /// A fifth of the records gets four fifths of the requests.
    Hotspot,
    /// Zipfian, the newest first.
    Latest,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Updates {
    /// The context that was last seen of the record.
    Context,
    /// Nothing: each update leaves a sibling.
    Blind,
}

/// Requests a second, above zero.
fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if rate > 0.0 && rate <= 1e7 { Ok(rate) } else { Err(format!("{text} a second; give more than 0, at most 10,000,000")) }
}

impl Bench {
    fn distribution(&self) -> Distribution {
        let default = if self.workload == Shape::D { Distribution::Latest } else { Distribution::Zipfian };
        self.distribution.unwrap_or(default)
    }
}

/// What all clients share.
struct Shared {
    client: Client,
    arguments: Bench,
    chooser: Chooser,
    pool: Bytes,
    /// The context last seen of each record; one for each record that there is.
    contexts: Mutex<Vec<Bytes>>,
    /// The record that the next insert adds.
    next_insert: AtomicU64,
    /// Sets this run's keys apart from those of others.
    run: u32,
}

impl Shared {
    fn name(&self, record: u64) -> Name {
        Name::new(self.arguments.bucket.clone(), format!("{:08x}/user{record:010}", self.run))
    }

    fn value(&self, source: &mut Random) -> Bytes {
        let bytes = self.arguments.value_bytes as usize;
        let start = source.below(self.pool.len() - bytes + 1);
        self.pool.slice(start..start + bytes)
    }

    fn contexts(&self) -> MutexGuard<'_, Vec<Bytes>> {
        self.contexts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many records there are.
    fn records(&self) -> u64 {
        self.contexts().len() as u64
    }

    fn context(&self, record: u64) -> Bytes {
        match self.arguments.updates {
            Updates::Blind => Bytes::new(),
            Updates::Context => self.contexts()[record as usize].clone(),
        }
    }

    /// The context of an answer. A put that met a version it had not seen has none to give: the older one goes on.
    fn seen(&self, record: u64, context: Bytes) {
        if context.is_empty() {
            return;
        }
        let mut contexts = self.contexts();
        if contexts.len() <= record as usize {
            contexts.resize(record as usize + 1, Bytes::new());
        }
        contexts[record as usize] = context;
    }
}

/// Loads, runs, reports.
pub async fn run(connection: &Connection, format: Format, arguments: Bench) -> Result<(), Stop> {
    let pids = if arguments.local { local::running_pids() } else { arguments.pids.clone() };
    if arguments.local && pids.is_empty() {
        return Err(Stop::Usage("--local: no cluster of `local up` runs; start one, or give --pids".to_owned()));
    }
    if let Some(pid) = pids.iter().find(|pid| cpu_time(**pid).is_none()) {
        return Err(Stop::Usage(format!("--pids: there is no process {pid}")));
    }
    if let Some(node) = arguments.away
        && !local::has_node(node)
    {
        return Err(Stop::Usage(format!("--away {node}: the cluster of `local up` has no such node")));
    }
    let mode = if arguments.mode == Travel::Unary { Mode::Unary } else { Mode::Stream };
    let client = connection::client(connection, mode).await?;
    let mut source = random::fresh();
    let records = arguments.records;
    let chooser = match arguments.distribution() {
        Distribution::Zipfian => Chooser::Zipfian(Zipfian::new(records)),
        Distribution::Uniform => Chooser::Uniform { records },
        Distribution::Hotspot => Chooser::Hotspot { records },
        Distribution::Latest => Chooser::Latest(Zipfian::new(records)),
    };
    let pool: Vec<u8> = (0..POOL_BYTES / 8).flat_map(|_| source.next_u64().to_le_bytes()).collect();
    let contexts = Mutex::new(vec![Bytes::new(); records as usize]);
    let run = source.next_u64() as u32;
    let next_insert = AtomicU64::new(records);
    let shared = Arc::new(Shared { client, arguments, chooser, pool: pool.into(), contexts, next_insert, run });
    let loaded = load(&shared, &mut source).await?;
    let mut report = measure(&shared, &pids, &mut source).await?;
    report.load = (records, loaded);
    show(format, || report.text(), &report.document())
}

/// Every record once, from as many tasks as there are clients.
async fn load(shared: &Arc<Shared>, source: &mut Random) -> Result<Duration, Stop> {
    let started = Instant::now();
    let (records, clients) = (shared.arguments.records, u64::from(shared.arguments.clients));
    let mut progress = Progress::new("load", Some(records));
    let (told, mut done) = tokio::sync::mpsc::channel(1024);
    let mut tasks = JoinSet::new();
    for first in 0..clients {
        let (shared, told, mut source) = (Arc::clone(shared), told.clone(), Random::new(source.next_u64()));
        tasks.spawn(async move {
            for record in (first..records).step_by(clients as usize) {
                load_one(&shared, record, &mut source).await?;
                // The receiver outlives the tasks.
                let _ = told.send(()).await;
            }
            Ok::<(), RequestError>(())
        });
    }
    drop(told);
    let mut count = 0;
    while done.recv().await.is_some() {
        count += 1;
        progress.at(count, || format!("{}/s", grouped((count as f64 / started.elapsed().as_secs_f64()) as u64)));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|error| Stop::Failed(format!("load: {error}")))?.map_err(|error| Stop::Failed(format!("load: {error}")))?;
    }
    progress.end();
    Ok(started.elapsed())
}

async fn load_one(shared: &Shared, record: u64, source: &mut Random) -> Result<(), RequestError> {
    let options = PutOptions { quorum: QuorumWish::from(&shared.arguments.write), ..PutOptions::default() };
    let mut attempt = 1;
    loop {
        match shared.client.put(&shared.name(record), shared.value(source), &options).await {
            Ok(written) => {
                shared.seen(record, written.context);
                return Ok(());
            }
            Err(error) if attempt == LOAD_ATTEMPTS_MAX || error.is_invalid() => return Err(error),
            // Even if the outcome is unknown: at worst the record starts with a sibling.
            Err(_) => tokio::time::sleep(Duration::from_millis(50 << attempt)).await,
        }
        attempt += 1;
    }
}

async fn measure(shared: &Arc<Shared>, pids: &[u32], source: &mut Random) -> Result<Report, Stop> {
    let begin = Instant::now() + Duration::from_secs(shared.arguments.warm_up);
    let end = begin + Duration::from_secs(shared.arguments.seconds);
    let timeline = shared.arguments.timeline.then(|| Arc::new(Timeline::new(begin)));
    let phases = shared.arguments.away.map(|_| Arc::new(Phases::new()));
    let away = shared.arguments.away.zip(phases.clone()).map(|(node, phases)| tokio::spawn(phases.run(node, begin, end)));
    let mut tasks = JoinSet::new();
    for _ in 0..shared.arguments.clients {
        let phases = phases.clone();
        let (shared, source, timeline) = (Arc::clone(shared), Random::new(source.next_u64()), timeline.clone());
        tasks.spawn(async move { client::run(&shared, source, client::Window { begin, end, timeline, phases }).await });
    }
    let mut progress = Progress::new("run", None);
    let mut wait_until = async |until: Instant, what: &str| {
        while Instant::now() < until {
            tokio::time::sleep((until - Instant::now()).min(Duration::from_millis(250))).await;
            progress.at(0, || format!("{what}, {} s to go", end.saturating_duration_since(Instant::now()).as_secs()));
        }
    };
    wait_until(begin, "warming up").await;
    let (before, started) = (cpu_snapshot(pids), Instant::now());
    wait_until(end, "measuring").await;
    let (after, elapsed) = (cpu_snapshot(pids), started.elapsed());
    progress.end();
    let mut measured = Measured::new();
    while let Some(ended) = tasks.join_next().await {
        measured.add(&ended.map_err(|error| Stop::Failed(format!("run: {error}")))?);
    }
    if let Some(away) = away {
        away.await.map_err(|error| Stop::Failed(format!("--away: {error}")))??;
    }
    let taken = |pid: &u32| after.get(pid).zip(before.get(pid)).map(|(after, before)| after.saturating_sub(*before));
    let own = std::process::id();
    let cpu = Cpu {
        client: taken(&own).unwrap_or_default(),
        servers: pids.iter().filter_map(|pid| Some((*pid, taken(pid)?))).collect(),
    };
    Ok(Report {
        configuration: configuration(shared),
        title: title(&shared.arguments),
        load: (0, Duration::ZERO),
        elapsed,
        measured,
        cpu,
        rate: shared.arguments.rate,
        timeline,
        phases,
    })
}

fn cpu_snapshot(pids: &[u32]) -> BTreeMap<u32, Duration> {
    let own = std::process::id();
    pids.iter().chain([&own]).filter_map(|pid| Some((*pid, cpu_time(*pid)?))).collect()
}

fn title(arguments: &Bench) -> String {
    let updates = match arguments.updates {
        Updates::Context => "updates with the context last seen",
        Updates::Blind => "blind updates",
    };
    format!(
        "{}: {} records of {} bytes, {:?} keys, {} clients in {}, {:?} mode, {updates}",
        if arguments.workload == Shape::Update { "updates only".to_owned() } else { format!("YCSB {:?}", arguments.workload) },
        grouped(arguments.records),
        grouped(arguments.value_bytes),
        arguments.distribution(),
        arguments.clients,
        if arguments.rate.is_some() { "an open loop" } else { "a closed loop" },
        arguments.mode,
    )
}

fn configuration(shared: &Shared) -> Value {
    let arguments = &shared.arguments;
    let ring = shared.client.ring();
    let lower = |value: &dyn std::fmt::Debug| format!("{value:?}").to_lowercase();
    json!({
        "workload": lower(&arguments.workload),
        "gets_percent": arguments.workload.gets_percent(),
        "records": arguments.records,
        "value_bytes": arguments.value_bytes,
        "clients": arguments.clients,
        "loop": if arguments.rate.is_some() { "open" } else { "closed" },
        "rate_per_second": arguments.rate,
        "seconds": arguments.seconds,
        "warm_up_seconds": arguments.warm_up,
        "mode": lower(&arguments.mode),
        "distribution": lower(&arguments.distribution()),
        "zipfian_constant": matches!(arguments.distribution(), Distribution::Zipfian | Distribution::Latest).then_some(THETA),
        "updates": lower(&arguments.updates),
        "r": arguments.read.r,
        "pr": arguments.read.pr,
        "w": arguments.write.w,
        "dw": arguments.write.dw,
        "pw": arguments.write.pw,
        "n": ring.as_ref().map(|ring| ring.replication),
        "nodes": ring.as_ref().map(|ring| ring.members.len()),
        "partitions": ring.as_ref().map(|ring| ring.partition_count()),
        "epoch": ring.as_ref().map(|ring| ring.epoch.0),
        "version": env!("CARGO_PKG_VERSION"),
    })
}
