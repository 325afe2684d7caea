//! `dynamo-world`: scenarios with a crash at every call of the operator, and with everything that goes wrong by a seed.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use clap::Parser;
use dynamo_scenarios::Scenario;
use dynamo_world::end_state::EndState;
use dynamo_world::faults::{CrashPoint, FAULTS, Fault};
use dynamo_world::play::{Failure, Mode, Played, play};

/// Failures that are shown in full; more of them seldom tell more.
const SHOWN_MAX: usize = 3;

/// The operator and the nodes on a model of Kubernetes.
#[derive(Parser)]
#[command(name = "dynamo-world", version)]
struct Arguments {
    /// How many seeds, spread over the scenarios.
    #[arg(long, default_value_t = 500)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// One scenario only.
    #[arg(long)]
    scenario: Option<String>,
    /// Replays the crash at this call, counted from 0; add `--after` for after its effect.
    #[arg(long, requires = "scenario")]
    crash: Option<u64>,
    /// With `--crash`: after the call's effect, not before.
    #[arg(long)]
    after: bool,
    /// Replays one seed.
    #[arg(long, requires = "scenario")]
    seed: Option<u64>,
    /// Shows what happened in the replayed run even if it kept every promise.
    #[arg(long)]
    trace: bool,
    /// Leaves the crash points out.
    #[arg(long)]
    seeds_only: bool,
    /// Runs at the same time; all cores if 0.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

struct Run<'a> {
    scenario: &'a Scenario,
    clean: &'a EndState,
    mode: Mode,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut scenarios = match dynamo_scenarios::all() {
        Ok(scenarios) => scenarios,
        Err(error) => {
            eprintln!("dynamo-world: {error}");
            return ExitCode::FAILURE;
        }
    };
    scenarios.retain(|scenario| arguments.scenario.as_ref().is_none_or(|name| name == scenario.name));
    if scenarios.is_empty() {
        eprintln!("dynamo-world: no such scenario; tests/world/scenarios has them");
        return ExitCode::FAILURE;
    }
    let started = Instant::now();
    println!("{:<52} {:>6} {:>7} {:>9}", "scenario, clean", "calls", "rounds", "ms");
    let mut clean = Vec::new();
    for scenario in scenarios {
        let began = Instant::now();
        match play(&scenario, Mode::Clean, None) {
            Ok(played) => {
                println!("{:<52} {:>6} {:>7} {:>9}", scenario.name, played.calls, played.rounds, began.elapsed().as_millis());
                clean.push((scenario, played));
            }
            Err(failure) => {
                show(scenario.name, Mode::Clean, &failure);
                return ExitCode::FAILURE;
            }
        }
    }
    let replayed = match (arguments.crash, arguments.seed) {
        (Some(call), _) => Some(Mode::Crash(CrashPoint { call, after: arguments.after })),
        (None, seed) => seed.map(Mode::Seeded),
    };
    if let Some(mode) = replayed {
        return replay(&clean[0].0, &clean[0].1.end, mode, arguments.trace);
    }
    let mut failed = 0;
    if !arguments.seeds_only {
        failed += run_all("crash points", &crash_points(&clean), arguments.threads).1;
    }
    let (counts, failures) = run_all("seeds", &seeds(&clean, arguments.first, arguments.seeds), arguments.threads);
    failed += failures;
    let never = tell_counts(&counts, arguments.seeds);
    println!("{failed} failures, {:.0} s", started.elapsed().as_secs_f64());
    if failed == 0 && never == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn crash_points(clean: &[(Scenario, Played)]) -> Vec<Run<'_>> {
    let points = |calls: u64| (0..calls).flat_map(|call| [false, true].map(|after| CrashPoint { call, after }));
    let runs = clean.iter().flat_map(|(scenario, played)| {
        points(played.calls).map(|at| Run { scenario, clean: &played.end, mode: Mode::Crash(at) })
    });
    runs.collect()
}

fn seeds(clean: &[(Scenario, Played)], first: u64, count: u64) -> Vec<Run<'_>> {
    let run = |seed: u64| {
        let (scenario, played) = &clean[(seed % clean.len() as u64) as usize];
        Run { scenario, clean: &played.end, mode: Mode::Seeded(seed) }
    };
    (first..first + count).map(run).collect()
}

/// Runs all, and says what went wrong on the way how often, and how many runs failed.
fn run_all(what: &str, runs: &[Run<'_>], threads: usize) -> (BTreeMap<Fault, u64>, usize) {
    let threads = if threads == 0 { thread::available_parallelism().map_or(1, usize::from) } else { threads };
    let (next, done) = (AtomicUsize::new(0), Mutex::new((BTreeMap::new(), 0_usize, 0_usize)));
    let started = Instant::now();
    let work = || {
        while let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let outcome = play(run.scenario, run.mode, Some(run.clean));
            let mut done = done.lock().expect("no thread panics while it holds this");
            done.1 += 1;
            match outcome {
                Ok(played) => played.faults.into_iter().for_each(|(fault, count)| *done.0.entry(fault).or_default() += count),
                Err(failure) => {
                    done.2 += 1;
                    if done.2 <= SHOWN_MAX {
                        show(run.scenario.name, run.mode, &failure);
                    } else {
                        println!("{} also failed: {:?}", replay_command(run.scenario.name, run.mode), failure.violations.first());
                    }
                }
            }
            if done.1.is_multiple_of(1000) {
                println!("{} of {} {what}, {:.0} s", done.1, runs.len(), started.elapsed().as_secs_f64());
            }
        }
    };
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let (counts, ran, failures) = done.into_inner().expect("all threads have ended");
    println!("{ran} {what}, {failures} failed, {:.0} s", started.elapsed().as_secs_f64());
    (counts, failures)
}

/// How often each fault happened; says how many never did.
fn tell_counts(counts: &BTreeMap<Fault, u64>, seeds: u64) -> usize {
    let mut never = 0;
    for fault in FAULTS {
        let count = counts.get(&fault).copied().unwrap_or(0);
        println!("{:<20} {count:>8}", format!("{fault:?}"));
        never += usize::from(count == 0 && seeds >= 300);
    }
    if never > 0 {
        println!("{never} faults never happened: the run proves less than it says");
    }
    never
}

fn replay(scenario: &Scenario, clean: &EndState, mode: Mode, trace: bool) -> ExitCode {
    match play(scenario, mode, Some(clean)) {
        Ok(played) => {
            if trace {
                println!("{}", played.trace);
            }
            println!("{}: every promise was kept, {} calls, {} rounds", scenario.name, played.calls, played.rounds);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            show(scenario.name, mode, &failure);
            ExitCode::FAILURE
        }
    }
}

fn replay_command(scenario: &str, mode: Mode) -> String {
    let how = match mode {
        Mode::Clean => String::new(),
        Mode::Crash(at) => format!(" --crash {}{}", at.call, if at.after { " --after" } else { "" }),
        Mode::Seeded(seed) => format!(" --seed {seed}"),
    };
    format!("cargo run -p dynamo-world -- --scenario {scenario}{how}")
}

fn show(scenario: &str, mode: Mode, failure: &Failure) {
    println!("{}", failure.trace);
    for violation in &failure.violations {
        println!("{}: {}", violation.invariant, violation.what);
    }
    println!("replay: {}", replay_command(scenario, mode));
}
