//! `bench`: YCSB's workloads, with the CPU time that servers and client took, for DynamoKV and for its peers.
//!
//! | module | what it holds |
//! |---|---|
//! | [`driver`], [`system`] | what can be measured: one interface, and how each is reached |
//! | [`session`] | a system with its records |
//! | [`point`], [`client`], [`pace`] | one measurement; in a closed loop, or with `--rate` in an open one |
//! | [`shape`], [`zipfian`], [`inserts`] | which operations, on which records |
//! | [`report`], [`timeline`], [`phases`] | what it came to |
//! | [`away`], [`scale`] | what happens to the cluster meanwhile |
//! | [`interruption`] | that somebody wants it to end |
//! | [`accounting`], [`machine`], [`calibration`] | what it took, and how quiet the machine was |
//! | [`compare`] | several systems, one after the other and again |
//!
//! Updates carry the context that the benchmark last saw of the record, as an application that read it would: blind puts would
//! leave a sibling each, and measure ever larger objects. `--updates blind` does that nevertheless. A put that is refused since its
//! key has as many siblings as may be reads them and puts one value in their place, and such puts are counted. Values are random bytes that no
//! compression makes smaller. Keys are new in each run, unless `--keys` names those of an earlier `bench load`.

mod accounting;
mod away;
mod calibration;
mod client;
mod compare;
mod driver;
mod inserts;
mod interruption;
mod machine;
mod pace;
mod phases;
mod point;
mod report;
mod scale;
mod session;
mod shape;
mod system;
mod timeline;
mod zipfian;

pub use report::{LATENCY_HEADER, Latencies};

use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::arguments::{Connection, ReadQuorum, WriteQuorum, seconds};
use crate::output::{Format, grouped, show};
use crate::stop::Stop;
use crate::{local, random};
use accounting::Usage;
use away::{Away, AwayBy};
use compare::Compare;
use point::{Distribution, Meanwhile, Point};
use scale::Scale;
use session::{Data, RECORDS_DEFAULT, Records, Session, Updates, VALUE_BYTES_DEFAULT};
use shape::Shape;
use system::{BUCKET, Options, PeerAddresses, Quorums, System};

/// Arguments of `bench`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Bench {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    run: Run,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Load records, measure, report: the same as `bench` without a command.
    Run(Box<Run>),
    /// Load records only, for `bench run --keys NAME`.
    Load(Box<Load>),
    /// Measure several systems in turn, again and again, and say how their figures relate. `-o json` prints JSON lines: a document for
    /// each measurement when it is made, and one for the summary.
    Compare(Box<Compare>),
    /// Grow the cluster of `local up` under load and shrink it again: what users notice, what moved, and how fast.
    Scale(Box<Scale>),
}

/// Arguments of `bench load`.
#[derive(Args, Debug)]
struct Load {
    /// What to load.
    #[arg(long, value_enum, default_value_t = System::Dynamokv)]
    system: System,
    /// What the keys begin with. Default: something new, which is told.
    #[arg(long, value_name = "NAME", value_parser = key_prefix)]
    keys: Option<String>,
    #[command(flatten)]
    records: Records,
    /// The bucket that they go to.
    #[arg(short, long, default_value = BUCKET)]
    bucket: String,
    #[command(flatten)]
    write: WriteQuorum,
    #[command(flatten)]
    peers: PeerAddresses,
}

/// Arguments of `bench run`.
#[derive(Args, Debug)]
struct Run {
    /// YCSB's letter, or updates only.
    #[arg(long, value_enum, default_value_t = Shape::A)]
    workload: Shape,
    #[command(flatten)]
    data: Data,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Seconds before that which are not.
    #[arg(long, default_value_t = 2, value_name = "SECONDS", value_parser = seconds())]
    warm_up: u64,
    /// What to measure.
    #[arg(long, value_enum, default_value_t = System::Dynamokv)]
    system: System,
    /// Use the records of a `bench load` with these keys, as many as --records says, and load none.
    #[arg(long, value_name = "NAME", value_parser = key_prefix)]
    keys: Option<String>,
    /// Requests a second of all clients together, sent on a schedule whatever the answers: an open loop, in which a client has all in
    /// flight that have come due. Without it a client sends its next request when its last one is answered.
    #[arg(long, value_name = "NUMBER", value_parser = rate)]
    rate: Option<f64>,
    /// Take this node of `local up` away after a third of the time, bring it back after another third, and tell the latencies while
    /// its hints are delivered from those before.
    #[arg(long, value_name = "NODE")]
    away: Option<usize>,
    /// How it goes away. A killed node's start takes the processors from its neighbours; a paused one only has to catch up.
    #[arg(long, value_enum, default_value = "kill", requires = "away", value_name = "HOW")]
    away_by: AwayBy,
    /// Latencies and cost of each interval as well: of each second, or of so many.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "1")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeline: Option<u64>,
    /// Which records are asked for. Default: latest for workload d, else zipfian.
    #[arg(long, value_enum)]
    distribution: Option<Distribution>,
    #[command(flatten)]
    options: Options,
    /// Server processes on this machine that are accounted for. Default: those that listen at the system's addresses.
    #[arg(long, value_delimiter = ',', value_name = "PID,...")]
    pids: Vec<u32>,
    /// Account for the processes of `local up`, and stop if there are none.
    #[arg(long, conflicts_with = "pids")]
    local: bool,
}

/// Requests a second, above zero.
fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    match (0.001..=1e7).contains(&rate) {
        true => Ok(rate),
        false => Err(format!("{text} a second; give at least 0.001, at most 10,000,000")),
    }
}

/// What every system takes as a part of a key, without escaping.
fn key_prefix(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if fits { Ok(text.to_owned()) } else { Err("give 1 to 64 letters, digits and hyphens".to_owned()) }
}

impl Run {
    /// The processes that were named, if any were.
    fn servers(&self) -> Result<Option<Vec<u32>>, Stop> {
        if (self.local || self.away.is_some()) && !self.system.is_ours() {
            let (option, name) = (if self.local { "--local" } else { "--away" }, self.system.name());
            return Err(Stop::Usage(format!(
                "{option}: is about the nodes of `local up`, and --system {name} is not; leave one out"
            )));
        }
        if self.local && local::running_pids().is_empty() {
            return Err(Stop::Usage("--local: no cluster of `local up` runs; start one, or give --pids".to_owned()));
        }
        if let Some(pid) = self.pids.iter().find(|pid| Usage::of(**pid).is_none()) {
            return Err(Stop::Usage(format!("--pids: there is no process {pid}")));
        }
        let named = if self.local { local::running_pids() } else { self.pids.clone() };
        Ok((!named.is_empty()).then_some(named))
    }

    fn point(&self) -> Point {
        Point {
            shape: self.workload,
            distribution: self.distribution,
            seconds: self.seconds,
            warm_up: self.warm_up,
            rate: self.rate,
            timeline: self.timeline,
            meanwhile: self.away.map(|node| Meanwhile::Away(Away { node, by: self.away_by })),
        }
    }
}

/// Loads, runs, reports.
pub async fn run(connection: &Connection, format: Format, arguments: Bench) -> Result<(), Stop> {
    match arguments.action {
        None => run_one(connection, format, arguments.run).await,
        Some(Action::Run(run)) => run_one(connection, format, *run).await,
        Some(Action::Load(load)) => load_only(connection, format, *load).await,
        Some(Action::Compare(compare)) => compare::run(connection, format, *compare).await,
        Some(Action::Scale(scale)) => scale::run(connection, format, *scale).await,
    }
}

async fn run_one(connection: &Connection, format: Format, arguments: Run) -> Result<(), Stop> {
    let servers = arguments.servers()?;
    if let Some(node) = arguments.away
        && !local::has_node(node)
    {
        return Err(Stop::Usage(format!("--away {node}: the cluster of `local up` has no such node")));
    }
    let point = arguments.point();
    let (system, options) = (arguments.system, &arguments.options);
    let mut target = match arguments.away {
        Some(_) => system.connect_retrying(connection, &options.quorums).await?,
        None => system.connect(connection, options).await?,
    };
    for (option, is_given) in [("--local", arguments.local), ("--away", arguments.away.is_some())] {
        if is_given {
            target.check_is_local(option)?;
        }
    }
    if let Some(Meanwhile::Away(away)) = &point.meanwhile {
        away.program()?;
    }
    target.servers = servers.unwrap_or(target.servers);
    let mut source = random::fresh();
    let keys = arguments.keys.clone().unwrap_or_else(|| Session::fresh_keys(&mut source));
    let session = Arc::new(Session::new(target, arguments.data, keys, &mut source));
    let loaded = if arguments.keys.is_some() {
        session.learn(&mut source).await?;
        None
    } else {
        Some((session.data.loaded.records, session.load(&mut source).await?))
    };
    let mut report = point::measure(&session, &point, &mut source).await?;
    report.load = loaded;
    show(format, || report.text(), &report.document())
}

async fn load_only(connection: &Connection, format: Format, arguments: Load) -> Result<(), Stop> {
    let quorums = Quorums { bucket: arguments.bucket, read: ReadQuorum::default(), write: arguments.write };
    let options = Options { quorums, peers: arguments.peers };
    let target = arguments.system.connect(connection, &options).await?;
    let mut source = random::fresh();
    let keys = arguments.keys.unwrap_or_else(|| Session::fresh_keys(&mut source));
    let data = Data { loaded: arguments.records, updates: Updates::Context };
    let session = Arc::new(Session::new(target, data, keys, &mut source));
    let took = session.load(&mut source).await?.as_secs_f64();
    let (system, records, keys) = (session.target.system.name(), session.data.loaded.records, &session.keys);
    let text = || {
        let run = use_of(session.target.system, keys, &session.data.loaded, &options.quorums.bucket);
        format!("{system}: {} records in {took:.1} s; `{run}` uses them", grouped(records))
    };
    show(format, text, &json!({ "kind": "load", "system": system, "keys": keys, "records": records, "seconds": took }))
}

/// The command that uses what was loaded. What it does not say is its default.
fn use_of(system: System, keys: &str, loaded: &Records, bucket: &str) -> String {
    let mut line = format!("bench run --system {} --keys {keys}", system.name());
    for (option, value, default) in
        [("--records", loaded.records, RECORDS_DEFAULT), ("--value-bytes", loaded.value_bytes, VALUE_BYTES_DEFAULT)]
    {
        if value != default {
            line.push_str(&format!(" {option} {value}"));
        }
    }
    if bucket != BUCKET {
        let is_plain = bucket.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        let quoted = if is_plain { bucket.to_owned() } else { format!("'{}'", bucket.replace('\'', r"'\''")) };
        line.push_str(&format!(" --bucket={quoted}"));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        bench: Bench,
    }

    #[test]
    fn a_plain_bench_is_a_run_and_commands_have_arguments_of_their_own() {
        let plain = Line::parse_from(["bench", "--workload", "b", "--system", "dynamokv-unary"]).bench;
        assert!(plain.action.is_none());
        assert_eq!((plain.run.workload, plain.run.system), (Shape::B, System::DynamokvUnary));
        let named = Line::parse_from(["bench", "run", "--system", "etcd", "--keys", "loaded-1"]).bench;
        assert!(matches!(named.action, Some(Action::Run(run)) if run.system == System::Etcd));
        let refused: [&[&str]; 7] = [
            &["bench", "--workload", "b", "compare"],
            &["bench", "--keys", "a/b"],
            &["bench", "run", "--rate", "0"],
            &["bench", "compare", "--repetitions", "0"],
            &["bench", "load", "--updates", "blind"],
            &["bench", "load", "--r", "1"],
            &["bench", "scale", "--redis", "127.0.0.1:6379"],
        ];
        for line in refused {
            assert!(Line::try_parse_from(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn the_command_that_is_told_after_a_load_runs_on_what_was_loaded() {
        let cases: [&[&str]; 4] = [
            &[],
            &["--records", "2000", "--value-bytes", "100"],
            &["--system", "redis", "--records", "7"],
            &["--bucket", "mine", "--value-bytes", "1"],
        ];
        for case in cases {
            let words = [&["bench", "load", "--keys", "k-1"], case].concat();
            let Some(Action::Load(load)) = Line::parse_from(words).bench.action else { panic!("{case:?}") };
            let line = use_of(load.system, "k-1", &load.records, &load.bucket);
            let Some(Action::Run(run)) = Line::parse_from(line.split(' ')).bench.action else { panic!("{line}") };
            let uses = (run.data.loaded.records, run.data.loaded.value_bytes, run.options.quorums.bucket.as_str());
            assert_eq!(uses, (load.records.records, load.records.value_bytes, load.bucket.as_str()), "{line}");
            assert_eq!((run.system, run.keys.as_deref()), (load.system, Some("k-1")), "{line}");
        }
        let load = Line::parse_from(["bench", "load", "--bucket", "it's mine"]).bench.action;
        let Some(Action::Load(load)) = load else { panic!("no load") };
        let line = use_of(load.system, "k-1", &load.records, &load.bucket);
        assert!(line.ends_with(r" --bucket='it'\''s mine'"), "{line}");
    }

    #[test]
    fn a_peer_is_not_measured_by_what_happens_to_our_nodes_or_what_they_take() {
        let refused: [(&str, &[&str]); 2] =
            [("--away", &["bench", "--system", "etcd", "--away", "1"]), ("--local", &["bench", "--system", "redis", "--local"])];
        for (option, line) in refused {
            let error = Line::parse_from(line).bench.run.servers().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{option}: ")) && error.contains("--system"), "{error}");
        }
    }
}
