//! `workload`: clients write, remember what was acknowledged to them, and prove at the end that nothing of it was lost.
//!
//! Clients read and write a few shared keys for as long as the run lasts, whatever happens to the cluster, and count what they
//! were told. Afterwards every key is read from all N home replicas, again and again until all are as they must be or the
//! patience is over, for replicas may still be receiving hints. What must be is in [`checker`].

pub mod checker;
pub mod clients;
pub mod keys;
pub mod tally;

use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use dynamo_client::{GetOptions, Mode};
use dynamo_core::name::Name;
use dynamo_core::random::Random;
use dynamo_core::request::QuorumWish;
use dynamo_core::ring::Ring;
use futures::{FutureExt, StreamExt};
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::arguments::{Connection, seconds};
use crate::bench::LATENCY_HEADER;
use crate::output::{Format, grouped, show, table};
use crate::progress::Progress;
use crate::ring_record::replace_file;
use crate::stop::Stop;
use crate::{connection, random};
use clients::Shared;

/// Keys that are wrong and are named; the others are counted.
pub const NAMED_MAX: usize = 100;
/// Keys that are read at a time at the end.
const READS_AT_A_TIME: usize = 16;
/// Between two rounds of reading at the end.
const ROUND_PAUSE: Duration = Duration::from_millis(500);

/// Arguments of `workload`.
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("end").required(true).multiple(true).args(["seconds", "until_file"]))]
pub struct Workload {
    /// Clients, each with one request in flight.
    #[arg(long, default_value_t = 8, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=1024))]
    clients: u16,
    /// Keys that they share.
    #[arg(long, default_value_t = 200, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    keys: u32,
    /// Steps a second of all clients together, each a read, a write, or a read and a write; 0 for as many as they can.
    #[arg(long, default_value_t = 500, value_name = "NUMBER")]
    rate: u32,
    /// End after this long.
    #[arg(long, value_name = "SECONDS", value_parser = seconds())]
    seconds: Option<u64>,
    /// End when this file is there.
    #[arg(long, value_name = "FILE")]
    until_file: Option<PathBuf>,
    /// Seconds for the replicas to become as they must be, after the end.
    #[arg(long, default_value_t = 120, value_name = "SECONDS", value_parser = seconds())]
    settle: u64,
    /// Write the report, as JSON, to this file too.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// The bucket that the keys are in.
    #[arg(short, long, default_value = "workload")]
    bucket: String,
    /// Repeat the choices of an earlier run, not its timing.
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs the clients, then judges.
pub async fn run(connection: &Connection, format: Format, arguments: Workload) -> Result<(), Stop> {
    let mut source = arguments.seed.map_or_else(random::fresh, Random::new);
    let client = connection::client(connection, Mode::Stream).await?;
    let run = format!("run-{:08x}", random::fresh().next_u64() as u32);
    let shared = Arc::new(Shared::new(client.clone(), arguments.bucket.clone(), run, arguments.keys as usize));
    let mut interrupts = signal(SignalKind::interrupt()).map_err(|error| Stop::Failed(format!("signals: {error}")))?;
    let started = Instant::now();
    let ended_by = run_clients(&shared, &arguments, &mut source, &mut interrupts).await?;
    let ran = started.elapsed();
    shared.tally(|tally| tally.close_gap(std::time::Instant::now()));
    let counted = shared.tally(|tally| tally.document());
    let judged = settle(&shared, Duration::from_secs(arguments.settle), &mut interrupts).await;
    let text = shared.tally(|tally| {
        let (gap, at) = tally.longest_gap();
        format!(
            "{}: {} operations in {:.1} s ({ended_by})\n{}\n{}\
             longest time without success: {} ms, {:.1} s after the start\n\n{}\n\n{}",
            judged.verdict(),
            grouped(tally.operations()),
            ran.as_secs_f64(),
            counts(&counted),
            examples(&counted),
            gap.as_millis(),
            at.as_secs_f64(),
            table(&LATENCY_HEADER, tally.rows()),
            judged.text(),
        )
    });
    let document = report(&arguments, &shared, &judged, counted, ran, ended_by);
    if let Some(path) = &arguments.report {
        replace_file(path, format!("{document}\n").as_bytes())
            .map_err(|error| Stop::Failed(format!("--report {}: {error}", path.display())))?;
    }
    show(format, || text, &document)?;
    match judged.is_good() {
        true => Ok(()),
        false => Err(Stop::Failed(judged.verdict().to_owned())),
    }
}

fn counts(counted: &Value) -> String {
    let failed: Vec<String> =
        counted["failed"].as_object().into_iter().flatten().map(|(kind, count)| format!("{count} {kind}")).collect();
    let failed = if failed.is_empty() { "0 failed".to_owned() } else { format!("failed: {}", failed.join(", ")) };
    let number = |field: &str| grouped(counted[field].as_u64().unwrap_or_default());
    format!(
        "{} ok, {failed}, {} of unknown outcome, at most {} siblings",
        number("ok"),
        number("unknown"),
        number("siblings_max")
    )
}

fn examples(counted: &Value) -> String {
    let lines = counted["examples"].as_object().into_iter().flatten();
    lines.map(|(kind, message)| format!("first {kind}: {}\n", message.as_str().unwrap_or_default())).collect()
}

fn report(arguments: &Workload, shared: &Shared, judged: &Judged, counted: Value, ran: Duration, ended_by: &str) -> Value {
    let mut document = counted;
    let more = json!({
        "verdict": judged.verdict(),
        "ended_by": ended_by,
        "run": shared.keys.run(),
        "clients": arguments.clients,
        "keys": arguments.keys,
        "rate": arguments.rate,
        "seconds": ran.as_secs_f64(),
        "settle_seconds": judged.took.as_secs_f64(),
        "settle_rounds": judged.rounds,
        "settle_interrupted": judged.interrupted,
        "violations": judged.violations.iter().map(|(key, what)| json!({ "key": key, "violation": what })).collect::<Vec<_>>(),
        "violations_more": judged.violations_more,
        "resurfaced": judged.resurfaced,
        "unread": judged.unread.iter().map(|(key, why)| json!({ "key": key, "reason": why })).collect::<Vec<_>>(),
    });
    if let (Value::Object(document), Value::Object(more)) = (&mut document, more) {
        document.extend(more);
    }
    document
}

/// Until the end that was asked for. Says which it was.
async fn run_clients(
    shared: &Arc<Shared>,
    arguments: &Workload,
    source: &mut Random,
    interrupts: &mut Signal,
) -> Result<&'static str, Stop> {
    let pause = match arguments.rate {
        0 => Duration::ZERO,
        rate => Duration::from_secs_f64(f64::from(arguments.clients) / f64::from(rate)),
    };
    let (stop, stopped) = watch::channel(false);
    let mut clients = JoinSet::new();
    for _ in 0..arguments.clients {
        clients.spawn(clients::run(Arc::clone(shared), Random::new(source.next_u64()), pause, stopped.clone()));
    }
    let ended_by = wait_for_end(shared, arguments, interrupts).await;
    // The clients are there until they are told.
    let _ = stop.send(true);
    while let Some(ended) = clients.join_next().await {
        ended.map_err(|error| Stop::Failed(format!("a client ended: {error}")))?;
    }
    Ok(ended_by)
}

async fn wait_for_end(shared: &Shared, arguments: &Workload, interrupts: &mut Signal) -> &'static str {
    let started = Instant::now();
    let mut progress = Progress::new("workload", arguments.seconds);
    loop {
        let elapsed = started.elapsed();
        if arguments.seconds.is_some_and(|seconds| elapsed >= Duration::from_secs(seconds)) {
            progress.end();
            return "time is up";
        }
        if arguments.until_file.as_ref().is_some_and(|file| file.exists()) {
            progress.end();
            return "the file is there";
        }
        if shared.is_full() {
            progress.end();
            return "as many writes are remembered as may be";
        }
        progress.at(elapsed.as_secs(), || shared.tally(|tally| tally.text()));
        tokio::select! {
            () = sleep(Duration::from_millis(200)) => {}
            _ = interrupts.recv() => {
                progress.end();
                return "interrupted";
            }
        }
    }
}

/// What the last round of reading found.
#[derive(Debug)]
pub struct Judged {
    /// Keys that are wrong, and how; at most [`NAMED_MAX`] of them.
    pub violations: Vec<(String, String)>,
    /// How many more are.
    pub violations_more: usize,
    /// Writes that may have been made more than once and show twice or again, too long after for nodes to know.
    pub resurfaced: usize,
    /// Keys that could not be read, and why.
    pub unread: Vec<(String, String)>,
    keys: usize,
    /// Keys that the round did not come to.
    not_reached: usize,
    /// Somebody did not want to wait until all is as it must be, or the patience is over.
    interrupted: bool,
    rounds: u32,
    took: Duration,
}

impl Judged {
    /// All keys were read, and are as they must be.
    pub fn is_good(&self) -> bool {
        self.violations.is_empty() && self.unread.is_empty() && !self.interrupted
    }

    /// In a sentence.
    pub fn verdict(&self) -> &'static str {
        if self.interrupted {
            return "no verdict: interrupted while replicas could still become as they must be";
        }
        match (self.violations.is_empty(), self.unread.is_empty()) {
            (true, true) => "no acknowledged write was lost, none was invented",
            (false, _) => "writes were lost, invented or resurrected",
            (true, false) => "no verdict: some keys cannot be read from all replicas",
        }
    }

    fn text(&self) -> String {
        let rounds = if self.rounds == 1 { "one round".to_owned() } else { format!("{} rounds", self.rounds) };
        let (read, keys) = (self.keys - self.not_reached - self.unread.len(), self.keys);
        let mut text =
            format!("{read} of {keys} keys were read from all their replicas, {rounds} in {:.1} s", self.took.as_secs_f64());
        for (key, what) in self.violations.iter().chain(&self.unread) {
            text.push_str(&format!("\n{key}: {what}"));
        }
        if self.violations_more > 0 {
            text.push_str(&format!("\n... and {} more", self.violations_more));
        }
        if self.resurfaced > 0 {
            let what = "retried writes show twice or again, after more others to their key than nodes remember the ids of";
            text.push_str(&format!("\n{} {what}", self.resurfaced));
        }
        text
    }
}

/// Judges until the next interrupt. One that came while the clients ended was meant for them.
async fn settle(shared: &Shared, patience: Duration, interrupts: &mut Signal) -> Judged {
    while interrupts.recv().now_or_never().flatten().is_some() {}
    // No interrupt ends the program by itself from here on, so this has to listen to the next one.
    let interrupt = async { interrupts.recv().await.unwrap_or_default() };
    judge(shared, patience, interrupt).await
}

/// Reads every key from all its home replicas until one whole round is as it must be, or the patience is over. An interrupt ends it with the
/// last whole round, or with what there is of the first.
async fn judge(shared: &Shared, patience: Duration, interrupt: impl Future<Output = ()>) -> Judged {
    let started = Instant::now();
    let mut interrupt = pin!(interrupt);
    let mut progress = Progress::new("settling", None);
    let mut rounds = 0;
    let mut last: Option<Judged> = None;
    loop {
        rounds += 1;
        let judged = judge_until(shared, rounds, started, interrupt.as_mut()).await;
        if judged.interrupted {
            progress.end();
            return last.map_or(judged, |last| Judged { interrupted: true, ..last });
        }
        if judged.is_good() || started.elapsed() >= patience {
            progress.end();
            return judged;
        }
        let wrong = judged.violations.len() + judged.violations_more;
        progress.at(0, || format!("{wrong} violations not yet healed, {} keys not yet read", judged.unread.len()));
        tokio::select! {
            () = sleep(ROUND_PAUSE) => last = Some(judged),
            () = interrupt.as_mut() => {
                progress.end();
                return Judged { interrupted: true, ..judged };
            }
        }
    }
}

/// All replicas have to answer that hold `name`: in a bucket with an N of its own so many.
fn from_all_replicas(ring: Option<&Ring>, name: &Name) -> GetOptions {
    let n = ring.map(|ring| ring.replication_of(ring.partition_of(name)));
    GetOptions { quorum: QuorumWish { r: n, pr: n, ..QuorumWish::default() }, timeout: None }
}

/// Reads every key from all its home replicas, once.
pub async fn judge_once(shared: &Shared, rounds: u32, started: Instant) -> Judged {
    judge_until(shared, rounds, started, pin!(std::future::pending())).await
}

/// The same, unless it is interrupted.
async fn judge_until(
    shared: &Shared,
    rounds: u32,
    started: Instant,
    mut interrupt: Pin<&mut impl Future<Output = ()>>,
) -> Judged {
    // All keys are in one bucket.
    let options = from_all_replicas(shared.client.ring().as_deref(), &shared.keys.name(0));
    let reads = futures::stream::iter(0..shared.key_count()).map(|key| {
        let options = options.clone();
        async move { (key, shared.read(key, &options).await) }
    });
    let mut reads = pin!(reads.buffer_unordered(READS_AT_A_TIME));
    let mut judged = Judged {
        violations: Vec::new(),
        violations_more: 0,
        resurfaced: 0,
        unread: Vec::new(),
        keys: shared.key_count(),
        not_reached: shared.key_count(),
        interrupted: false,
        rounds,
        took: Duration::ZERO,
    };
    loop {
        let next = tokio::select! {
            biased;
            () = interrupt.as_mut() => {
                judged.interrupted = true;
                break;
            }
            next = reads.next() => next,
        };
        let Some((key, read)) = next else { break };
        judged.not_reached -= 1;
        let named = format!("key-{key}");
        match read {
            Ok((visible, _)) => {
                let told = |history: &mut checker::History| {
                    let tell = |violation: checker::Violation| match violation.write() {
                        Some(id) => format!("{violation}\n    {}", history.describe(id)),
                        None => violation.to_string(),
                    };
                    history.verdict(&visible).into_iter().map(tell).collect::<Vec<_>>()
                };
                judged.resurfaced += shared.history(key, |history| history.resurfaced(&visible));
                for violation in shared.history(key, told) {
                    match judged.violations.len() < NAMED_MAX {
                        true => judged.violations.push((named.clone(), violation)),
                        false => judged.violations_more += 1,
                    }
                }
            }
            Err(error) => judged.unread.push((named, error.to_string())),
        }
    }
    judged.took = started.elapsed();
    judged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::silent::{Manner, Server};
    use dynamo_client::{Client, ClientConfig};
    use dynamo_core::id::{ClusterId, NodeId};
    use dynamo_core::rebalance::first_ring_with;
    use dynamo_core::ring::Member;
    use dynamo_core::ring::bucket_replication::BucketReplication;

    fn judged(violations: &[(&str, &str)], unread: &[(&str, &str)]) -> Judged {
        let owned = |list: &[(&str, &str)]| list.iter().map(|(key, what)| (key.to_string(), what.to_string())).collect();
        let (violations, unread) = (owned(violations), owned(unread));
        let took = Duration::from_secs(1);
        let (keys, not_reached, interrupted) = (1, 0, false);
        Judged { violations, violations_more: 0, resurfaced: 0, unread, keys, not_reached, interrupted, rounds: 1, took }
    }

    #[test]
    fn what_could_not_be_read_is_no_proof() {
        assert!(judged(&[], &[]).is_good());
        assert!(!judged(&[], &[("key-1", "unavailable")]).is_good());
        assert!(judged(&[], &[("key-1", "unavailable")]).verdict().starts_with("no verdict"));
        assert!(judged(&[("key-1", "lost: ...")], &[]).verdict().contains("lost"));
    }

    #[tokio::test]
    async fn an_interrupt_ends_the_settling_at_once_and_without_a_verdict() {
        let server = Server::start(Manner::NotServing);
        let client = Client::connect(ClientConfig::new(vec![server.address.clone()])).await.unwrap();
        drop(server);
        let shared = Shared::new(client, "b".to_owned(), "run".to_owned(), 3);
        let judged = judge(&shared, Duration::from_secs(3600), std::future::ready(())).await;
        assert!(!judged.is_good() && judged.verdict().starts_with("no verdict: interrupted"), "{judged:?}");
        assert!(judged.text().starts_with("0 of 3 keys were read"), "{}", judged.text());
    }

    #[tokio::test]
    async fn an_interrupt_from_before_the_settling_does_not_end_it() {
        let server = Server::start(Manner::Well);
        let client = Client::connect(ClientConfig::new(vec![server.address.clone()])).await.unwrap();
        let shared = Shared::new(client, "b".to_owned(), "run".to_owned(), 3);
        let listen = || signal(SignalKind::user_defined1()).unwrap();
        let (mut interrupts, mut heard) = (listen(), listen());
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::USR1).unwrap();
        // All who listen have it then.
        heard.recv().await.unwrap();
        let judged = settle(&shared, Duration::ZERO, &mut interrupts).await;
        assert!(judged.is_good() && judged.not_reached == 0, "{judged:?}");
    }

    #[test]
    fn a_key_is_read_from_as_many_replicas_as_its_bucket_has() {
        let members = (1..=3).map(|id| (NodeId([id; 16]), Member { zone: "z".to_owned(), weight: 1 })).collect();
        let buckets = BucketReplication::new([("cart".into(), 2)], 3).unwrap();
        let ring = first_ring_with(ClusterId([1; 16]), 4, 3, buckets, &members).unwrap();
        for (bucket, n) in [("cart", 2), ("other", 3)] {
            let quorum = from_all_replicas(Some(&ring), &Name::new(bucket, "k")).quorum;
            assert_eq!((quorum.r, quorum.pr), (Some(n), Some(n)), "{bucket}");
        }
        assert_eq!(from_all_replicas(None, &Name::new("cart", "k")).quorum.r, None);
    }
}
