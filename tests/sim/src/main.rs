//! Runs seeds: `dynamo-sim --seeds 1000`, or one of them with its trace: `dynamo-sim --seed 42`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use clap::{Parser, Subcommand, ValueEnum};
use dynamo_sim::options::{Options, far};
use dynamo_sim::output::say;
use dynamo_sim::planning::{self, Growth};
use dynamo_sim::run::run;
use dynamo_sim::strategies::{self, Comparison};
use dynamo_sim::totals::Totals;

/// The nodes' own. A history is millions of small blocks of memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// In so many seeds everything that is counted happens.
const ENOUGH: u64 = 1_000;

/// Runs the cluster under faults, seed by seed, and checks what it promises.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    report: Option<Report>,
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Only this seed, with a trace.
    #[arg(long)]
    seed: Option<u64>,
    /// Histories of another kind.
    #[arg(long, value_enum, default_value_t = Scenario::Everything)]
    scenario: Scenario,
    /// Only seeds whose options have extremes.
    #[arg(long)]
    far: bool,
    /// Threads; by default one for each core.
    #[arg(long)]
    threads: Option<usize>,
    /// Go on after a violation.
    #[arg(long)]
    keep_going: bool,
}

/// Reports that run no seeds.
#[derive(Subcommand)]
enum Report {
    /// Plan a change of a large ring and say how long that took.
    Plan(Growth),
    /// Compare the paper's three strategies of partitioning (figure 8): a table, and a plot in a file.
    Strategies(Comparison),
}

/// What a seed stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Scenario {
    /// Everything may go wrong.
    Everything,
    /// basho/riak_kv#1754: ten keys, forty clients, two nodes join and two leave.
    #[value(name = "riak-1754")]
    Riak1754,
    /// basho/riak_kv#127: what a node gave away comes back to it, again and again.
    #[value(name = "riak-127")]
    Riak127,
}

impl Scenario {
    /// How it is asked for.
    fn argument(self) -> &'static str {
        match self {
            Self::Everything => "",
            Self::Riak1754 => "--scenario riak-1754 ",
            Self::Riak127 => "--scenario riak-127 ",
        }
    }

    fn options(self, seed: u64) -> Options {
        match self {
            Self::Everything => Options::from_seed(seed),
            Self::Riak1754 => Options::riak_1754(seed),
            Self::Riak127 => Options::riak_127(seed),
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match (&arguments.report, arguments.seed) {
        (Some(Report::Plan(growth)), _) => plan(growth),
        (Some(Report::Strategies(comparison)), _) => compare(comparison),
        (None, Some(seed)) => replay(arguments.scenario, seed),
        (None, None) => many(&arguments),
    }
}

fn plan(growth: &Growth) -> ExitCode {
    match planning::plan(growth) {
        Ok(planned) => {
            say(planning::text(growth, &planned).trim_end());
            ExitCode::SUCCESS
        }
        Err(error) => failure(&error.to_string()),
    }
}

fn compare(comparison: &Comparison) -> ExitCode {
    say(format_args!(
        "load balancing efficiency (mean load / greatest load): the mean of {} seeds, and their range",
        comparison.seeds
    ));
    let each = strategies::PARTITIONS_PER_TOKEN;
    say(format_args!(
        "entries that each node keeps: 1: S T tokens; 2: S T tokens and Q = {each} S T partitions; 3: Q partitions"
    ));
    say(strategies::header());
    let rows = match strategies::compare(comparison, |row| say(strategies::line(row))) {
        Ok(rows) if !rows.is_empty() => rows,
        Ok(_) => return failure("--most is below --least"),
        Err(error) => return failure(&error.to_string()),
    };
    match std::fs::write(&comparison.svg, strategies::plot::svg(comparison, &rows)) {
        Ok(()) => {
            say(format_args!("plot: {}", comparison.svg.display()));
            ExitCode::SUCCESS
        }
        Err(error) => failure(&format!("{}: {error}", comparison.svg.display())),
    }
}

fn failure(reason: &str) -> ExitCode {
    say(reason);
    ExitCode::FAILURE
}

fn replay(scenario: Scenario, seed: u64) -> ExitCode {
    let options = scenario.options(seed);
    say(format_args!("{options:#?}"));
    let outcome = run(&options, true);
    match outcome.violation {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            say(format_args!("seed {seed}: {violation}"));
            ExitCode::FAILURE
        }
    }
}

/// One seed, with a panic turned into a message; every 100th twice, and both must be the same.
fn check(scenario: Scenario, seed: u64) -> Result<Totals, String> {
    let once = || catch_unwind(AssertUnwindSafe(|| run(&scenario.options(seed), false))).map_err(|_| "it panicked".to_string());
    let outcome = once()?;
    if let Some(violation) = outcome.violation {
        return Err(violation.to_string());
    }
    if seed.is_multiple_of(100) && once()?.trace_hash != outcome.trace_hash {
        return Err("two runs had different histories".into());
    }
    Ok(outcome.totals)
}

fn many(arguments: &Arguments) -> ExitCode {
    let begun = Instant::now();
    let (next, stop) = (AtomicU64::new(arguments.from), AtomicBool::new(false));
    let failed = AtomicU64::new(0);
    let end = arguments.from + arguments.seeds;
    let totals = Mutex::new(Totals::default());
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return;
            }
            if arguments.far && !far::is_far(seed) {
                continue;
            }
            match check(arguments.scenario, seed) {
                Ok(of_seed) => {
                    let mut totals = totals.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    *totals += &of_seed;
                    if totals.runs.is_multiple_of(1_000) {
                        say(format_args!(
                            "{} seeds, {:.0} a second",
                            totals.runs,
                            totals.runs as f64 / begun.elapsed().as_secs_f64()
                        ));
                    }
                }
                Err(what) => {
                    failed.fetch_add(1, Ordering::Relaxed);
                    stop.store(!arguments.keep_going, Ordering::Relaxed);
                    say(format_args!(
                        "seed {seed}: {what}\n  replay: cargo run -p dynamo-sim -- {}--seed {seed}",
                        arguments.scenario.argument()
                    ));
                }
            }
        }
    };
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads.unwrap_or_else(cores) {
            scope.spawn(work);
        }
    });
    let totals = totals.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    report(&totals, begun.elapsed().as_secs_f64());
    match failed.into_inner() {
        0 if arguments.scenario == Scenario::Everything && totals.runs >= ENOUGH && !totals.never().is_empty() => {
            say(format_args!("{} seeds, and something of this never happened: it is not tested", totals.runs));
            ExitCode::FAILURE
        }
        0 => ExitCode::SUCCESS,
        failed => {
            say(format_args!("{failed} seeds failed"));
            ExitCode::FAILURE
        }
    }
}

fn report(totals: &Totals, seconds: f64) {
    for (what, value) in totals.each() {
        say(format_args!("{value:>14}  {what}"));
    }
    for (name, value) in &totals.counters {
        say(format_args!("{value:>14}  {name}"));
    }
    say(format_args!("{} seeds in {seconds:.1} s, {:.1} a second", totals.runs, totals.runs as f64 / seconds));
    for what in totals.never() {
        say(format_args!("never: {what}"));
    }
}
