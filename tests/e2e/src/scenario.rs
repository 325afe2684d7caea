//! The main job, step by step, on one cluster that takes real data and a workload through everything that happens to it.
//!
//! Steps run in order and build on each other: after the first that fails the rest is not run. The workload starts once there
//! is data and ends when the cluster has been through everything; a step that finds it ended early fails.

mod disruption;
mod examples;
mod install;
mod removal;
mod resize;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;

use self::Where::{Anywhere, OwnMachine};
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

/// Why most steps of a failed run were not run.
const AFTER_FAILURE: &str = "a step before it failed";

/// What a step does; it answers with what is worth telling.
type Run = fn(&mut World) -> Result<String>;

/// Where a step can be run.
enum Where {
    Anywhere,
    /// It takes Kubernetes nodes away, and so needs a Kubernetes of our own.
    OwnMachine,
}

/// In order. The names are what each proves.
const STEPS: [(&str, Where, Run); 21] = [
    ("the_operator_chart_installs_under_the_restricted_standard", Anywhere, install::operator_chart),
    ("kubectl_explain_describes_every_field", Anywhere, install::explain),
    ("a_wrong_cluster_is_refused_with_field_and_fix", Anywhere, install::wrong_clusters),
    ("an_applied_example_becomes_ready", Anywhere, install::main_cluster),
    ("a_change_that_may_not_be_is_refused_with_field_and_fix", Anywhere, install::wrong_changes),
    ("the_package_index_is_imported_and_reads_back", Anywhere, resize::import),
    ("the_workload_starts", Anywhere, resize::start_workload),
    ("scaled_to_five_the_ring_becomes_stable_though_the_operator_is_killed", Anywhere, resize::grow),
    ("after_growing_all_data_reads_back", Anywhere, resize::verify),
    ("scaled_to_three_data_moves_before_pods_go", Anywhere, resize::shrink),
    ("after_shrinking_all_data_reads_back", Anywhere, resize::verify),
    ("a_deleted_pod_comes_back_with_its_data", Anywhere, disruption::delete_pod),
    ("a_drained_node_gives_its_pod_away_with_its_data", OwnMachine, disruption::drain),
    ("a_node_that_loses_its_power_comes_back_with_its_data", OwnMachine, disruption::power_cut),
    ("after_disruptions_all_data_reads_back", Anywhere, resize::verify),
    ("no_acknowledged_write_was_lost_and_none_invented", Anywhere, resize::finish_workload),
    ("all_replicas_are_equal_in_the_end", Anywhere, resize::replicas_equal),
    ("retained_volumes_outlive_a_deleted_cluster", Anywhere, removal::retain),
    ("every_other_example_becomes_ready_and_serves", Anywhere, examples::others),
    ("volumes_go_with_a_cluster_of_the_chart_that_says_so", Anywhere, removal::delete),
    ("the_operator_uninstalls_and_its_definition_stays", Anywhere, removal::operator),
];

/// Runs the scenario, prints it, and gives the verdict.
pub fn run() -> ExitCode {
    let mut report = Report::default();
    let started = Instant::now();
    report.begin("starting Kubernetes");
    let mut world = match World::start() {
        Ok(world) => {
            report.end("kubernetes_is_up", started.elapsed(), Ok(String::new()));
            world
        }
        Err(error) => {
            report.end("kubernetes_is_up", started.elapsed(), Err(error));
            STEPS.iter().for_each(|(name, ..)| report.not_run(name, AFTER_FAILURE));
            print!("{}", report.summary());
            return ExitCode::FAILURE;
        }
    };
    for (name, place, run) in STEPS {
        match place {
            _ if report.has_failed() => report.not_run(name, AFTER_FAILURE),
            OwnMachine if world.machine.is_none() => report.not_run(name, "the Kubernetes nodes are not ours to take away"),
            Anywhere | OwnMachine => step(&mut report, &mut world, name, run),
        }
    }
    if report.has_failed() {
        println!("{}", world.diagnosis());
    }
    // A Kubernetes that is not ours is left without our objects even so.
    if world.machine.is_none() {
        step(&mut report, &mut world, "nothing_is_left_behind", removal::namespaces);
    }
    drop(world);
    print!("{}", report.summary());
    if report.has_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn step(report: &mut Report, world: &mut World, name: &'static str, run: Run) {
    report.begin(name);
    let started = Instant::now();
    let outcome = run(world).and_then(|told| with_workload(told, world));
    report.end(name, started.elapsed(), outcome);
}

/// Adds the workload's latest line while it runs.
fn with_workload(told: String, world: &mut World) -> Result<String> {
    match &mut world.workload {
        Some(workload) => Ok([told, workload.progress()?].join("\n").trim().to_owned()),
        None => Ok(told),
    }
}
