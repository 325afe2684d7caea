//! All scenarios, in the order in which they are played.

use std::rc::Rc;

use anyhow::Result;

use super::{
    Scenario, Step, autoscaler, dead_pod, disruption, examples, flapping, install, life, loss, operators, played, removal, resize,
};

/// The one of every day comes first: it installs the operator itself. Those that end with fewer Kubernetes nodes come last.
pub fn all() -> Result<Vec<Scenario>> {
    let mut all = vec![daily(), flapping(), killed_operator(), two_operators(), dead_pod(), volume_lost(), autoscaler()];
    all.extend(dynamo_scenarios::all()?.into_iter().map(on_the_model_too));
    all.extend([node_lost(), disk_lost()]);
    Ok(all)
}

/// A file of `tests/world`.
fn on_the_model_too(file: dynamo_scenarios::Scenario) -> Scenario {
    let file = Rc::new(file);
    let (played, ended) = (Rc::clone(&file), Rc::clone(&file));
    let steps = vec![
        Step::on_our_machine("every_line_comes_true", move |world| played::play(world, &played)),
        Step::on_our_machine("it_ends_as_on_the_model", move |world| played::ends_alike(world, &ended)),
        Step::on_our_machine("all_replicas_are_equal_in_the_end", resize::replicas_equal),
        Step::on_our_machine("the_deleted_cluster_leaves_its_volumes_and_nothing_else", removal::retain),
    ];
    Scenario { name: file.name, about: file.about.clone(), on_the_model_too: true, steps }
}

fn scenario(name: &'static str, about: &str, steps: Vec<Step>, ending: Vec<Step>) -> Scenario {
    Scenario { name, about: about.to_owned(), on_the_model_too: false, steps: steps.into_iter().chain(ending).collect() }
}

fn daily() -> Scenario {
    let steps = vec![
        Step::anywhere("the_operator_chart_installs_under_the_restricted_standard", install::operator_chart),
        Step::anywhere("kubectl_explain_describes_every_field", install::explain),
        Step::anywhere("a_wrong_cluster_is_refused_with_field_and_fix", install::wrong_clusters),
        Step::anywhere("an_applied_example_becomes_ready", install::main_cluster),
        Step::anywhere("a_change_that_may_not_be_is_refused_with_field_and_fix", install::wrong_changes),
        Step::anywhere("the_package_index_is_imported_and_reads_back", resize::import),
        Step::anywhere("the_workload_starts", resize::start_workload),
        Step::anywhere("scaled_to_five_the_ring_becomes_stable_though_the_operator_is_killed", resize::grow),
        Step::anywhere("after_growing_all_data_reads_back", resize::verify),
        Step::anywhere("scaled_to_three_data_moves_before_pods_go", resize::shrink),
        Step::anywhere("after_shrinking_all_data_reads_back", resize::verify),
        Step::anywhere("a_deleted_pod_comes_back_with_its_data", disruption::delete_pod),
        Step::on_our_machine("a_drained_node_gives_its_pod_away_with_its_data", disruption::drain),
        Step::on_our_machine("a_node_that_loses_its_power_comes_back_with_its_data", disruption::power_cut),
        Step::on_our_machine("a_pod_that_no_node_takes_is_cured_before_another_is_restarted", disruption::cure),
        Step::anywhere("after_disruptions_all_data_reads_back", resize::verify),
        Step::anywhere("no_acknowledged_write_was_lost_and_none_invented", resize::finish_workload),
        Step::anywhere("all_replicas_are_equal_in_the_end", resize::replicas_equal),
        Step::anywhere("retained_volumes_outlive_a_deleted_cluster", removal::retain),
        Step::anywhere("every_other_example_becomes_ready_and_serves", examples::others),
        Step::anywhere("volumes_go_with_a_cluster_of_the_chart_that_says_so", removal::delete),
        Step::anywhere("the_operator_uninstalls_and_its_definition_stays", removal::operator),
    ];
    let about = "charts, examples, growing and shrinking under load, pods and machines that go away for a while";
    scenario("daily", about, steps, Vec::new())
}

fn flapping() -> Scenario {
    let steps = vec![
        Step::anywhere("five_nodes_hold_the_package_index", flapping::begin),
        Step::anywhere("five_three_six_and_four_replicas_each_asked_for_while_data_moves_end_with_four", flapping::flap),
        Step::anywhere("a_shrink_that_is_taken_back_moves_less_than_the_shrink_would_have", flapping::take_back),
    ];
    scenario("flapping", "spec.replicas changes its mind in the middle of every move", steps, life::ending())
}

fn killed_operator() -> Scenario {
    let steps = vec![
        Step::anywhere("three_nodes_hold_the_package_index", operators::begin_killed),
        Step::anywhere("three_become_five_while_the_operator_dies_every_20_s", |world| operators::resize_while_killed(world, 5)),
        Step::anywhere("five_become_three_while_the_operator_dies_every_20_s", |world| operators::resize_while_killed(world, 3)),
    ];
    scenario("killed-operator", "the operator's pod is killed every 20 s during 3 -> 5 -> 3", steps, life::ending())
}

fn two_operators() -> Scenario {
    let steps = vec![
        Step::anywhere("three_nodes_hold_the_package_index", operators::begin_two),
        Step::on_our_machine("a_frozen_leader_is_followed_by_another_and_does_no_harm_when_it_thaws", operators::frozen_leader),
        Step::anywhere("two_operators_that_both_act_for_a_minute_do_no_harm", operators::both_act),
    ];
    scenario("two-operators", "two operators are alive for a minute, by accident and without an election", steps, life::ending())
}

fn dead_pod() -> Scenario {
    let steps = vec![
        Step::anywhere("five_nodes_hold_the_package_index", dead_pod::begin),
        Step::anywhere("an_image_that_does_not_exist_stops_at_the_first_pod", dead_pod::bad_image),
        Step::anywhere("a_shrink_with_a_dead_pod_removes_nothing_and_says_for_whom_it_waits", dead_pod::shrink),
        Step::anywhere("the_image_is_repaired_although_the_shrink_is_blocked", dead_pod::repair),
    ];
    scenario("dead-pod", "a shrink meets a pod that does not start, and does not block what repairs it", steps, life::ending())
}

fn volume_lost() -> Scenario {
    let steps = vec![
        Step::anywhere("three_nodes_hold_the_package_index", loss::begin_volume),
        Step::anywhere("a_pod_whose_volume_was_deleted_is_another_node_and_is_filled", loss::volume),
    ];
    scenario("volume-lost", "a claim is deleted, and its pod comes back empty", steps, life::ending())
}

fn node_lost() -> Scenario {
    let steps = vec![
        Step::on_our_machine("four_nodes_hold_the_package_index", loss::begin_node),
        Step::on_our_machine("a_node_lost_for_ever_in_a_shrink_gives_its_pod_to_another_and_the_shrink_ends", loss::node),
    ];
    let about = "a Kubernetes node is lost for ever in the middle of a shrink; its pod comes back elsewhere on its volume";
    scenario("node-lost", about, steps, life::ending())
}

fn disk_lost() -> Scenario {
    let steps = vec![
        Step::on_our_machine("four_nodes_on_local_disks_hold_the_package_index", loss::begin_disk),
        Step::on_our_machine("a_node_lost_with_its_disk_in_a_shrink_is_replaced_and_the_shrink_ends", loss::disk),
    ];
    let about = "a Kubernetes node is lost for ever with the volume on its disk, in the middle of a shrink";
    scenario("disk-lost", about, steps, life::ending())
}

fn autoscaler() -> Scenario {
    let mut steps = vec![
        Step::on_our_machine("a_cluster_of_the_chart_leaves_its_size_to_the_autoscaler", autoscaler::begin),
        Step::on_our_machine("more_load_makes_five_nodes_by_the_autoscalers_hand", autoscaler::up),
        Step::on_our_machine("less_load_makes_three_nodes", autoscaler::down),
        Step::on_our_machine("an_autoscaler_that_changes_its_mind_in_a_move_ends_where_the_load_says", autoscaler::oscillate),
        Step::on_our_machine("an_autoscaler_that_wants_fewer_than_n_is_refused_and_says_so", autoscaler::below_n),
    ];
    steps.extend(life::ending());
    let end = vec![Step::on_our_machine("the_autoscaler_goes_with_its_release", autoscaler::end)];
    scenario("autoscaler", "a HorizontalPodAutoscaler (autoscaling/v2, CPU) on the scale subresource", steps, end)
}
