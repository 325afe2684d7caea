//! Scenarios: what a cluster with real data and a workload goes through, step by step, and the check at its end.
//!
//! `SCENARIO` says which are played: `daily`, which is what `make e2e` plays by default; another by its name; several with commas
//! between; `model` for the files that `tests/world` plays too; `all`. All are played on one Kubernetes, one after the other.
//! Steps run in order and build on each other: after one that fails the rest of its scenario is not run. The workload starts once
//! there is data and ends when the cluster has been through everything; a step that finds it ended early fails.

mod autoscaler;
mod catalogue;
mod dead_pod;
mod disruption;
mod examples;
mod flapping;
mod install;
mod life;
mod loss;
mod operators;
mod played;
mod removal;
mod resize;

use std::env;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use self::Where::{Anywhere, OwnMachine};
pub use self::autoscaler::Metrics;
use crate::report::Report;
use crate::world::World;

/// Until pods run and the first ring is made.
const READY: Duration = Duration::from_secs(300);
/// Until a ring change with the real data is through, on two cores that also run Kubernetes and the workload.
const REBALANCE: Duration = Duration::from_secs(900);
/// Until the data is written, or read back and compared.
const ALL_DATA: Duration = Duration::from_secs(600);
/// Until Kubernetes has done what it does by itself.
const KUBERNETES: Duration = Duration::from_secs(180);

/// Why most steps of a failed scenario were not run.
const AFTER_FAILURE: &str = "a step before it failed";

/// A cluster's story.
pub struct Scenario {
    /// By which it is asked for.
    pub name: &'static str,
    /// What it shows.
    pub about: String,
    /// It is one of the files that `tests/world` plays on its model.
    pub on_the_model_too: bool,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// What happens, and what must then be true: that is its name.
pub struct Step {
    name: String,
    place: Where,
    run: Run,
}

/// What a step does; it answers with what is worth telling.
type Run = Box<dyn Fn(&mut World) -> Result<String>>;

/// Where a step can be run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Where {
    Anywhere,
    /// It does to the Kubernetes nodes what only their owner may do.
    OwnMachine,
}

impl Step {
    fn anywhere(name: &str, run: impl Fn(&mut World) -> Result<String> + 'static) -> Self {
        Self { name: name.to_owned(), place: Anywhere, run: Box::new(run) }
    }

    fn on_our_machine(name: &str, run: impl Fn(&mut World) -> Result<String> + 'static) -> Self {
        Self { name: name.to_owned(), place: OwnMachine, run: Box::new(run) }
    }
}

/// Runs the scenarios that `SCENARIO` names, prints them, and gives the verdict.
pub fn run() -> ExitCode {
    let scenarios = match chosen(&env::var("SCENARIO").unwrap_or_default()) {
        Ok(scenarios) => scenarios,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let mut report = Report::default();
    let started = Instant::now();
    report.begin("starting Kubernetes");
    match World::start() {
        Ok(mut world) => {
            report.end("kubernetes_is_up", started.elapsed(), Ok(String::new()));
            for scenario in &scenarios {
                play(&mut report, &mut world, scenario, scenarios.len() > 1);
            }
            // A Kubernetes that is not ours is left without our objects even so.
            if world.machine.is_none() {
                let step = Step::anywhere("nothing_is_left_behind", removal::namespaces);
                take(&mut report, &mut world, &step.name, &step);
            }
        }
        Err(error) => {
            report.end("kubernetes_is_up", started.elapsed(), Err(error));
            scenarios.iter().flat_map(|scenario| &scenario.steps).for_each(|step| report.not_run(&step.name, AFTER_FAILURE));
        }
    }
    print!("{}", report.summary());
    if report.has_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The scenarios that `wanted` names.
fn chosen(wanted: &str) -> Result<Vec<Scenario>> {
    let mut all = catalogue::all()?;
    let wanted: Vec<&str> = match wanted {
        "" => vec!["daily"],
        names => names.split(',').map(str::trim).collect(),
    };
    let names = |scenario: &Scenario, name: &str| {
        name == scenario.name || name == "all" || (name == "model" && scenario.on_the_model_too)
    };
    if let Some(unknown) = wanted.iter().find(|name| !all.iter().any(|scenario| names(scenario, name))) {
        let list: String = all.iter().map(|scenario| format!("  {:42} {}\n", scenario.name, scenario.about)).collect();
        bail!("there is no scenario {unknown:?}; say all, model, or one or more of these, with commas between:\n{list}");
    }
    all.retain(|scenario| wanted.iter().any(|name| names(scenario, name)));
    Ok(all)
}

/// One scenario. After a failure its clusters are removed, so that the next one begins with none.
fn play(report: &mut Report, world: &mut World, scenario: &Scenario, one_of_several: bool) {
    println!("\n{}: {}\n", scenario.name, scenario.about);
    let called = |step: &str| if one_of_several { format!("{}: {step}", scenario.name) } else { step.to_owned() };
    let failures = report.failures();
    for step in &scenario.steps {
        let name = called(&step.name);
        match step.place {
            _ if report.failures() > failures => report.not_run(&name, AFTER_FAILURE),
            OwnMachine if world.machine.is_none() => report.not_run(&name, "the Kubernetes nodes are not ours"),
            Anywhere | OwnMachine => take(report, world, &name, step),
        }
    }
    if report.failures() > failures {
        println!("{}", world.diagnosis());
        if one_of_several {
            take(report, world, &called("its_clusters_are_removed"), &Step::anywhere("", removal::clear));
        }
    }
}

fn take(report: &mut Report, world: &mut World, name: &str, step: &Step) {
    report.begin(name);
    let started = Instant::now();
    let outcome = (step.run)(world).and_then(|told| with_workload(told, world));
    report.end(name, started.elapsed(), outcome);
}

/// Adds the workload's latest line while it runs, and fails when what watches the cluster has.
fn with_workload(told: String, world: &mut World) -> Result<String> {
    if world.guard.as_ref().is_some_and(|guard| guard.has_failed()) {
        life::stop_watching(world)?;
    }
    match &mut world.workload {
        Some(workload) => Ok([told, workload.progress()?].join("\n").trim().to_owned()),
        None => Ok(told),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(wanted: &str) -> Vec<&'static str> {
        chosen(wanted).unwrap().iter().map(|scenario| scenario.name).collect()
    }

    #[test]
    fn scenarios_are_chosen_by_name_and_the_daily_one_by_saying_nothing() {
        assert_eq!(names(""), ["daily"]);
        assert_eq!(names("node-lost, flapping"), ["flapping", "node-lost"]);
        assert!(names("model").contains(&"grow_and_shrink"));
        let all = names("all");
        assert!(names("model").iter().chain(&["daily", "autoscaler"]).all(|name| all.contains(name)));
    }

    #[test]
    fn a_scenario_that_is_not_there_is_an_error_that_lists_those_that_are() {
        let error = chosen("daily,flaping").map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with("there is no scenario \"flaping\"") && error.contains("flapping"), "{error}");
    }
}
