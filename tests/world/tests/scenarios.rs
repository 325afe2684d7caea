//! The scenarios: clean, with a crash at calls spread over each, and with everything that goes wrong by a seed. All calls and
//! 5,000 seeds: `make world`.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use dynamo_world::faults::{CrashPoint, FAULTS, Fault};
use dynamo_world::play::{Failure, Mode, Played, play};

/// Every so many-th call is a crash point here, each scenario from another call on.
const STRIDE: usize = 16;
/// Seeds here.
const SEEDS: u64 = 60;
/// Seeds that failed once. 10129: an operator that stood still while a cluster was deleted took the finalizer off the next one of its name.
const FAILED: [(&str, u64); 2] =
    [("volumes_of_a_former_cluster_are_not_served", 10_129), ("volumes_of_a_former_cluster_are_not_served", 10_137)];

fn kept(scenario: &str, how: &str, outcome: Result<Played, Failure>) -> Played {
    outcome.unwrap_or_else(|failure| {
        panic!("{}\n{:?}\nreplay: cargo run -p dynamo-world -- --scenario {scenario}{how}", failure.trace, failure.violations)
    })
}

#[test]
fn a_crash_at_any_call_leads_to_the_clean_runs_end() {
    for (index, scenario) in dynamo_scenarios::all().unwrap().iter().enumerate() {
        let clean = kept(scenario.name, "", play(scenario, Mode::Clean, None));
        assert!(clean.calls > 20, "{}: {} calls", scenario.name, clean.calls);
        for call in (0..clean.calls).skip(index).step_by(STRIDE) {
            let at = CrashPoint { call, after: call % 2 == 0 };
            let how = format!(" --crash {call}{}", if at.after { " --after" } else { "" });
            kept(scenario.name, &how, play(scenario, Mode::Crash(at), Some(&clean.end)));
        }
    }
}

/// The files `NAME.end` are also what `make e2e SCENARIO=model` expects of a real Kubernetes after the same scenario.
#[test]
fn a_clean_run_ends_as_its_file_says() {
    for scenario in dynamo_scenarios::all().unwrap() {
        let played = kept(scenario.name, "", play(&scenario, Mode::Clean, None));
        assert_eq!(played.lines, dynamo_scenarios::end_of(scenario.name), "{}", scenario.name);
    }
}

#[test]
fn whatever_goes_wrong_on_the_way_the_end_is_the_clean_runs() {
    let scenarios = dynamo_scenarios::all().unwrap();
    let clean: Vec<_> = scenarios.iter().map(|scenario| kept(scenario.name, "", play(scenario, Mode::Clean, None)).end).collect();
    let mut counts = BTreeMap::<Fault, u64>::new();
    for seed in 0..SEEDS {
        let index = seed as usize % scenarios.len();
        let scenario = &scenarios[index];
        let played = kept(scenario.name, &format!(" --seed {seed}"), play(scenario, Mode::Seeded(seed), Some(&clean[index])));
        played.faults.into_iter().for_each(|(fault, count)| *counts.entry(fault).or_default() += count);
    }
    let never: Vec<_> = FAULTS.iter().filter(|fault| !counts.contains_key(fault)).collect();
    assert!(never.is_empty(), "{never:?} never happened in {SEEDS} seeds");
}

#[test]
fn scenarios_with_seeds_that_once_failed_end_as_the_clean_run_does() {
    for (name, seed) in FAILED {
        let scenario = dynamo_scenarios::all().unwrap().into_iter().find(|scenario| scenario.name == name).unwrap();
        let clean = kept(name, "", play(&scenario, Mode::Clean, None)).end;
        kept(name, &format!(" --seed {seed}"), play(&scenario, Mode::Seeded(seed), Some(&clean)));
    }
}
