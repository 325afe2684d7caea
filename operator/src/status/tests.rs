//! What people read, for the states that they meet.

use dynamo_core::id::{Epoch, NodeId};
use dynamo_core::rebalance::{self, Members, Next, View};
use dynamo_core::ring::{Member, Ring};
use k8s_openapi::jiff::Timestamp;

use super::*;
use crate::observed::{Carrier, Node, Pod, Record, Set, Volume};
use crate::plan::{Blocked, next_step};
use crate::valid::tests::{cluster, valid};

fn id(node: u8) -> NodeId {
    NodeId([node + 1; 16])
}

fn at(ordinal: u8) -> Place {
    Place { zone: "default".into(), ordinal: ordinal.into() }
}

fn members(count: u8) -> Members {
    (0..count).map(|node| (id(node), Member { zone: "default".into(), weight: 1 })).collect()
}

/// `pods` pods, noted, that hold `ring`, which is recorded.
fn observed(pods: u8, ring: Option<&Ring>) -> Observed {
    let mut observed = Observed::default();
    observed.sets.insert("default".into(), Set { replicas: pods.into(), ..Set::default() });
    for node in 0..pods {
        let answer = Node { objects: 4321, ..Node::holding(id(node), ring) };
        observed.pods.insert(at(node), Pod { ready: true, node: Some(answer), ..Pod::default() });
        observed.volumes.insert(at(node), Volume { note: Note::Node(id(node)), ..Volume::default() });
    }
    observed.record = ring.map_or(Record::Absent, |ring| Record::Held {
        rings: Box::new(ring.clone().into()),
        hash: ring.hash(),
        resource_version: "1".into(),
        volumes: carriers(ring),
    });
    observed
}

fn carriers(ring: &Ring) -> BTreeMap<NodeId, Carrier> {
    let carrier = |node: &NodeId| Carrier { place: at(node.0[0] - 1), uid: String::new() };
    ring.members.keys().map(|node| (*node, carrier(node))).collect()
}

fn time(second: i64) -> Time {
    Time(Timestamp::from_second(second).unwrap())
}

/// All sets make claims of the size that is asked.
static NO_OTHER_SIZES: BTreeMap<String, String> = BTreeMap::new();

fn report<'a>(cluster: &'a ValidCluster, observed: &'a Observed, step: &'a Step) -> Report<'a> {
    Report {
        cluster,
        observed,
        claim_sizes: &NO_OTHER_SIZES,
        step,
        paused: false,
        waiting_zones: &[],
        complaints: &[],
        generation: Some(7),
    }
}

fn status_of(cluster: &ValidCluster, observed: &Observed) -> DynamoClusterStatus {
    let step = next_step(cluster, observed);
    status(&report(cluster, observed, &step), None, &time(100))
}

/// The columns and conditions, one a line.
fn shown(status: &DynamoClusterStatus) -> String {
    let head = format!("{}/{} epoch {} {:?}\n", status.ready_replicas, status.replicas, status.epoch, status.rebalance);
    let condition = |condition: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
        format!("{}={} {}: {}\n", condition.type_, condition.status, condition.reason, condition.message)
    };
    let members = status.members.iter().map(|member| {
        let MemberStatus { pod, partitions, objects, state, .. } = member;
        format!("{pod} {state:?} {partitions} partitions {objects} objects\n")
    });
    let told = head + &status.conditions.iter().map(condition).chain(members).collect::<String>();
    assert!(!told.contains("  "), "a break of the source stands in it: {told}");
    told
}

fn moved(ring: &Ring, desired: &Members) -> Ring {
    let view = View { epoch: ring.epoch, ring_hash: ring.hash(), received: Default::default() };
    let views = ring.members.keys().map(|node| (*node, view.clone())).collect();
    let Ok(Next::Propose(next)) = rebalance::next(ring, desired, &views) else { panic!() };
    next
}

fn silence(observed: &mut Observed, node: u8) {
    let pod = observed.pods.get_mut(&at(node)).unwrap();
    (pod.node, pod.ready) = (None, false);
}

#[test]
fn each_state_is_told_in_words() {
    let (three, five) = (valid(3, &[]), valid(5, &[]));
    let ring = |nodes| rebalance::first_ring(three.id, 4, 3, &members(nodes)).unwrap();
    let at_rest = observed(3, Some(&ring(3)));
    let growing = observed(5, Some(&moved(&ring(3), &members(5))));
    let shrinking = observed(5, Some(&moved(&ring(5), &members(3))));
    let mut blocked = observed(5, Some(&ring(5)));
    silence(&mut blocked, 4);
    let mut two_down = at_rest.clone();
    silence(&mut two_down, 1);
    silence(&mut two_down, 2);
    let states = [
        ("created", &three, &Observed::default()),
        ("at_rest", &three, &at_rest),
        ("growing", &five, &growing),
        ("shrinking", &three, &shrinking),
        ("scale_in_blocked", &three, &blocked),
        ("two_down", &three, &two_down),
    ];
    let told: String =
        states.map(|(name, cluster, observed)| format!("# {name}: {}\n", shown(&status_of(cluster, observed)))).concat();
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!("status", told));
}

#[test]
fn a_pod_that_cannot_run_is_a_fault_and_says_why_where_one_that_restarts_is_none() {
    let (three, five) = (valid(3, &[]), valid(5, &[]));
    let mut rolling = observed(5, Some(&rebalance::first_ring(five.id, 4, 3, &members(5)).unwrap()));
    rolling.sets.get_mut("default").unwrap().rolling = true;
    silence(&mut rolling, 4);
    assert!(shown(&status_of(&five, &rolling)).contains("Degraded=False AsExpected"));
    rolling.sets.get_mut("default").unwrap().updates_from = 5;
    assert!(shown(&status_of(&five, &rolling)).contains("Degraded=True MembersUnreachable"), "it was not told to restart");
    rolling.sets.get_mut("default").unwrap().updates_from = 4;
    assert!(shown(&status_of(&five, &rolling)).contains("Degraded=False AsExpected"));
    rolling.pods.get_mut(&at(4)).unwrap().trouble = Some("does not start (ErrImagePull)".into());
    let told = shown(&status_of(&five, &rolling));
    assert!(told.contains("Degraded=True MembersUnreachable: no answer from cart-4 [does not start (ErrImagePull)]; "), "{told}");
    assert!(told.contains("Ready=False AwaitingNodes: waiting for cart-4 [does not start (ErrImagePull)] to confirm"), "{told}");
    assert!(told.contains("where a volume is lost for ever, delete its claim"), "{told}");
    rolling.pods.get_mut(&at(4)).unwrap().lacks_image = true;
    assert!(!shown(&status_of(&five, &rolling)).contains("delete its claim"), "an image is the matter, and no disk");
    let told = shown(&status_of(&three, &rolling));
    assert!(told.contains("ScaleInBlocked=True MemberUnknown: no answer from cart-4 [does not start"), "{told}");
}

#[test]
fn a_lost_member_is_named_by_its_pod_until_it_is_replaced_and_data_at_risk_names_the_way_on() {
    let three = valid(3, &[]);
    let ring = rebalance::first_ring(three.id, 4, 3, &members(3)).unwrap();
    let lossy = ring.successor(|next| {
        next.lost.insert(id(1), Epoch(2));
        next.members.get_mut(&id(1)).unwrap().weight = 0;
    });
    let mut lost = observed(3, Some(&lossy));
    lost.volumes.insert(at(1), Volume { uid: "made again".into(), note: Note::Node(id(7)), ..Volume::default() });
    lost.pods.get_mut(&at(1)).unwrap().node.as_mut().unwrap().id = id(7);
    let told = shown(&status_of(&three, &lost));
    assert!(told.contains("\"replacing the lost node of cart-1\""), "{told}");
    assert!(told.contains("Degraded=True ReplacingLostMember: replacing the lost node of cart-1: its volume is gone"), "{told}");

    let nodes = vec![id(1), id(2)];
    let at_risk = Step::Blocked(Blocked::DataAtRisk { nodes, at_risk: 16, gone: 0, buckets: vec!["logs".into()] });
    let told = shown(&status(&report(&three, &observed(3, Some(&ring)), &at_risk), None, &time(1)));
    let way_on = format!("dynamokv.io/accept-data-loss={},{}", id(1), id(2));
    assert!(
        told.contains("Degraded=True DataAtRisk: the volumes of cart-1, cart-2 are gone") && told.contains(&way_on),
        "{told}"
    );
    assert!(told.contains("so writes of bucket \"logs\" that only those had acknowledged may be lost"), "{told}");
}

#[test]
fn volumes_of_another_cluster_are_named_with_the_field_that_takes_them_over() {
    let three = valid(3, &[]);
    let mut foreign = observed(3, None);
    for node in [1, 2] {
        let made_for = "1d9ce1ab-2a0e-4b0c-9f3e-5f2a7b6c8d9e".to_owned();
        foreign.volumes.insert(at(node), Volume { note: Note::OtherCluster, made_for, ..Volume::default() });
        silence(&mut foreign, node);
    }
    let told = shown(&status_of(&three, &foreign));
    assert!(told.contains("Degraded=True ForeignVolumes: data-cart-1, data-cart-2: made for another cluster"), "{told}");
    assert!(told.contains("spec.adoptCluster: 1d9ce1ab-2a0e-4b0c-9f3e-5f2a7b6c8d9e; else"), "{told}");
}

#[test]
fn who_goes_on_with_a_former_clusters_data_under_other_zones_or_factors_is_told_what_to_give() {
    let three = valid(3, &[]);
    let told = |blocked| {
        let step = Step::Blocked(blocked);
        shown(&status(&report(&three, &Observed::default(), &step), None, &time(1)))
    };
    let way_on = "set spec.storage.retention.whenDeleted to Retain, delete this DynamoCluster, and create it again with the same \
                  spec.adoptCluster and";
    let zones = told(Blocked::OtherZones(vec!["data-cart-a-0".into(), "data-cart-b-0".into()]));
    let claims = "data-cart-a-0, data-cart-b-0: of this cluster's nodes, in zones that spec.zones does not name";
    assert!(zones.contains(&format!("Degraded=True OtherZones: {claims}; {way_on} those zones\n")), "{zones}");
    let ring = told(Blocked::OtherRing(vec!["spec.partitions is 32, and theirs 16".into()]));
    let differs = "the nodes hold a ring that cannot become this one: spec.partitions is 32, and theirs 16";
    assert!(ring.contains(&format!("Ready=False OtherRing: {differs}; {way_on} theirs\n")), "{ring}");
}

#[test]
fn a_record_that_cannot_be_read_is_told_of_with_what_waits_for_it() {
    let (three, step) = (valid(3, &[]), Step::Blocked(Blocked::RecordUnreadable("ConfigMap cart-ring: torn".into())));
    let told = shown(&status(&report(&three, &Observed::default(), &step), None, &time(1)));
    let way_on = "ConfigMap cart-ring: torn; once all pods answer, delete that ConfigMap: the record is then taken from the nodes, and \
                  rollouts, which wait until then, go on";
    assert!(told.contains(&format!("Degraded=True RecordUnreadable: {way_on}\n")), "{told}");
}

#[test]
fn who_adopts_a_cluster_of_which_nothing_is_there_is_told_what_was_looked_for() {
    let mut three = valid(3, &[]);
    three.data_uid = "a-former-uid".into();
    let step = Step::Blocked(Blocked::NothingToAdopt);
    let told = shown(&status(&report(&three, &Observed::default(), &step), None, &time(1)));
    let looked_for = "namespace shop has no volume claim of that cluster, which would be named data-cart-..., with the label \
                      dynamokv.io/cluster=cart and the annotation dynamokv.io/cluster-uid: a-former-uid. Bring its claims there first";
    assert!(
        told.contains("Ready=False NothingToAdopt: spec.adoptCluster is a-former-uid") && told.contains(looked_for),
        "{told}"
    );
}

#[test]
fn pods_that_are_refused_are_told_beside_the_words_of_the_refusal() {
    let five = valid(5, &[]);
    let mut refused = observed(3, Some(&rebalance::first_ring(five.id, 4, 3, &members(3)).unwrap()));
    refused.refused.more_pods.insert("default".into());
    let step = next_step(&five, &refused);
    let complaints = ["StatefulSet cart: replicas 5: no more than 3".to_owned()];
    let report = Report { complaints: &complaints, ..report(&five, &refused, &step) };
    let told = shown(&status(&report, None, &time(1)));
    assert!(told.contains("Ready=False Failed: StatefulSet cart: replicas 5: no more than 3\n"), "{told}");
    let progress = "Progressing=True AwaitingPods: cart-3, cart-4: have no pod: its StatefulSet is refused another\n";
    assert!(told.contains(progress), "{told}");
}

#[test]
fn names_that_are_taken_are_told_with_what_to_do_about_each_owner() {
    let three = valid(3, &[]);
    let told = |neighbour: Option<&str>| {
        let neighbours = neighbour.into_iter().map(str::to_owned).collect();
        shown(&status_of(&three, &Observed { taken: vec!["Service cart".into()], neighbours, ..Observed::default() }))
    };
    for (neighbour, message) in [
        (None, "Service cart: not made for this cluster; remove it, or create the cluster under another name\n"),
        (
            Some("ca"),
            "Service cart: of DynamoCluster ca, which keeps its data there; delete this one and create it under another name\n",
        ),
        (
            Some("cart"),
            "Service cart: of a former DynamoCluster of this name; Kubernetes removes what was that one's, and then this one is made",
        ),
    ] {
        let told = told(neighbour);
        assert!(told.contains(&format!("Ready=False NameTaken: {message}")), "{told}");
    }
}

#[test]
fn an_object_of_somebody_else_beside_a_cluster_that_is_there_is_told_and_hides_nothing_worse() {
    let three = valid(3, &[]);
    let mut beside = observed(3, Some(&rebalance::first_ring(three.id, 4, 3, &members(3)).unwrap()));
    beside.passed_by = vec!["Service cart".into()];
    let told = shown(&status_of(&three, &beside));
    let message = "Service cart: of somebody else; this cluster goes on without it, and makes its own when that is removed\n";
    assert!(told.contains(&format!("Ready=False NameTaken: {message}")), "{told}");
    assert!(told.contains(&format!("Degraded=True NameTaken: {message}")) && told.contains("Available=True"), "{told}");
    beside.neighbours = ["cart-peers".to_owned()].into();
    assert!(shown(&status_of(&three, &beside)).contains("Service cart: of DynamoCluster cart-peers; "));
    beside.ownerless = beside.passed_by.clone();
    assert!(shown(&status_of(&three, &beside)).contains("Degraded=True OwnerLost: Service cart: made for a cluster cart"));
    silence(&mut beside, 1);
    assert!(shown(&status_of(&three, &beside)).contains("Degraded=True MembersUnreachable"));
}

#[test]
fn the_status_of_a_cluster_that_nobody_has_looked_at_counts_for_nothing() {
    let three = valid(3, &[]);
    let at_rest = observed(3, Some(&rebalance::first_ring(three.id, 4, 3, &members(3)).unwrap()));
    let unseen = DynamoClusterStatus { observed_generation: Some(-1), ..DynamoClusterStatus::default() };
    let told = status(&report(&three, &at_rest, &Step::Converged), Some(&unseen), &time(1));
    assert_eq!(told, status(&report(&three, &at_rest, &Step::Converged), None, &time(1)));
    assert_ne!(told.observed_generation, unseen.observed_generation);
}

#[test]
fn a_rollout_that_waits_names_the_hints_and_the_pods_that_it_waits_for() {
    let four = valid(4, &[]);
    let ring = rebalance::first_ring(four.id, 4, 3, &members(4)).unwrap();
    let mut waiting = observed(4, Some(&ring));
    fn node(observed: &mut Observed, node: u8) -> &mut Node {
        observed.pods.get_mut(&at(node)).unwrap().node.as_mut().unwrap()
    }
    node(&mut waiting, 3).hints = [(id(0), 1234), (id(1), 5)].into();
    let zones = ["default".to_owned()];
    let ready = |observed: &Observed| {
        let report = Report { waiting_zones: &zones, ..report(&four, observed, &Step::Converged) };
        let ready = &status(&report, None, &time(1)).conditions[0];
        format!("{} {}: {}", ready.status, ready.reason, ready.message)
    };
    assert_eq!(ready(&waiting), "False RollingOut: next: default; 1200 hints are on their way to cart-0, cart-1");
    node(&mut waiting, 0).writable = false;
    let told = "next: default; 5 hints are on their way to cart-1; 1200 hints stay with others for want of space at cart-0";
    assert_eq!(ready(&waiting), format!("False RollingOut: {told}"));
}

#[test]
fn a_rollout_is_told_while_a_newcomer_is_waited_for_and_only_until_the_members_have_it() {
    let (five, zones) = (valid(5, &[]), ["default".to_owned()]);
    let ring = rebalance::first_ring(five.id, 4, 3, &members(4)).unwrap();
    let mut waiting = observed(5, Some(&ring));
    silence(&mut waiting, 4);
    waiting.pods.get_mut(&at(4)).unwrap().trouble = Some("is not scheduled".into());
    waiting.volumes.remove(&at(4));
    let told = |observed: &Observed, waiting_zones| {
        let step = next_step(&five, observed);
        let report = Report { waiting_zones, ..report(&five, observed, &step) };
        let ready = &status(&report, None, &time(1)).conditions[0];
        format!("{} {}: {}", ready.status, ready.reason, ready.message)
    };
    let alone = "False AwaitingPods: cart-4 is not scheduled";
    let rolls = format!("{alone}; a new template is on its way to the pods in default");
    assert_eq!((told(&waiting, &[]).as_str(), told(&waiting, &zones)), (alone, rolls.clone()));
    let set = waiting.sets.get_mut("default").unwrap();
    (set.rolling, set.revision, set.updates_from) = (true, "next".into(), 0);
    assert_eq!(told(&waiting, &[]), rolls);
    waiting.pods.values_mut().take(4).for_each(|pod| pod.revision = "next".into());
    assert_eq!(told(&waiting, &[]), alone, "Kubernetes goes on to wait for the newcomer");
}

#[test]
fn a_conditions_time_changes_with_its_status_only() {
    let three = valid(3, &[]);
    let at_rest = observed(3, Some(&rebalance::first_ring(three.id, 4, 3, &members(3)).unwrap()));
    let first = status_of(&three, &at_rest);
    let second = status(&report(&three, &at_rest, &Step::Converged), Some(&first), &time(200));
    assert_eq!(second, first, "nothing changed, so nothing is written");
    let waiting = Step::AwaitRollout(vec!["default".into()]);
    let third = status(&report(&three, &at_rest, &waiting), Some(&second), &time(300));
    let at = |status: &DynamoClusterStatus, type_: &str| {
        status.conditions.iter().find(|condition| condition.type_ == type_).unwrap().last_transition_time.clone()
    };
    assert_eq!((at(&third, "Ready"), at(&third, "Available")), (time(300), time(100)));
}

#[test]
fn an_invalid_spec_a_pause_and_a_failure_are_told() {
    let three = valid(3, &[]);
    let at_rest = observed(3, Some(&rebalance::first_ring(three.id, 4, 3, &members(3)).unwrap()));
    let ready = |status: &DynamoClusterStatus| {
        let ready = &status.conditions[0];
        format!("{} {}: {}", ready.status, ready.reason, ready.message)
    };
    let mut broken = cluster(3, &[]);
    broken.spec.replicas = 1;
    let error = ValidCluster::of(&broken).unwrap_err();
    let told = invalid(&error, Some(&status_of(&three, &at_rest)), Some(8), &time(1));
    assert_eq!(ready(&told), "False InvalidSpec: spec.replicas: is 1, must be 3 (spec.replication.factor) to 1000; set it so");
    assert_eq!((told.observed_generation, told.members.len()), (Some(8), 3));

    let step = Step::AwaitRollout(vec!["default".into()]);
    let paused = Report { paused: true, ..report(&three, &at_rest, &step) };
    assert_eq!(ready(&status(&paused, None, &time(1))), "False Paused: restarting pods in default");
    let four = observed(4, Some(&rebalance::first_ring(three.id, 4, 3, &members(4)).unwrap()));
    let step = next_step(&three, &four);
    let leaves = shown(&status(&report(&three, &four, &step), None, &time(1)));
    assert!(leaves.contains("ScaleInBlocked=False InProgress: "), "{leaves}");
    let told = shown(&status(&Report { paused: true, ..report(&three, &four, &step) }, None, &time(1)));
    let message = "ScaleInBlocked=True Paused: spec.reconciliation is Paused; set it to Active, and the nodes leave\n";
    assert!(told.contains(message), "{told}");
    let step = Step::RebalancingPaused("next: ring epoch 4".into());
    let told = status(&report(&three, &at_rest, &step), None, &time(1));
    assert_eq!(ready(&told), "False Paused: spec.rebalancing.paused is true, so nothing moves; next: ring epoch 4");
    let stable = told.conditions.iter().find(|condition| condition.type_ == "RingStable").unwrap();
    assert_eq!((&*stable.status, &*stable.reason), ("False", "Paused"));
    let complaints = ["volume data-cart-0 cannot grow".to_owned(), "StatefulSet cart-a: a policy".to_owned()];
    let failing = Report { complaints: &complaints, ..report(&three, &at_rest, &Step::Converged) };
    let told = status(&failing, None, &time(1));
    assert_eq!(ready(&told), "False Failed: volume data-cart-0 cannot grow; StatefulSet cart-a: a policy");
    assert!(shown(&told).contains("Degraded=True Failed: volume data-cart-0 cannot grow; StatefulSet cart-a: a policy\n"));
}

#[test]
fn a_wanted_pod_that_cannot_run_is_a_fault_though_the_others_join_without_it() {
    let (three, five) = (valid(3, &[]), valid(5, &[]));
    let mut growing = observed(5, Some(&moved(&rebalance::first_ring(three.id, 4, 3, &members(3)).unwrap(), &members(4))));
    silence(&mut growing, 4);
    growing.pods.get_mut(&at(4)).unwrap().trouble = Some("is not scheduled (Unschedulable): 0/3 nodes".into());
    let told = shown(&status_of(&five, &growing));
    assert!(told.contains("Degraded=True PodsInTrouble: cart-4 is not scheduled (Unschedulable): 0/3 nodes"), "{told}");
    assert!(told.contains("Progressing=True MovingData"), "{told}");
    assert!(shown(&status_of(&three, &growing)).contains("Degraded=False AsExpected"), "nobody wants it");
    growing.pods.remove(&at(4));
    let told = shown(&status_of(&five, &growing));
    assert!(told.contains("Degraded=True PodsInTrouble: cart-4 has no pod: see the Events of StatefulSet cart\n"), "{told}");
    growing.sets.get_mut("default").unwrap().unseen = true;
    assert!(shown(&status_of(&five, &growing)).contains("Degraded=False AsExpected"), "it may be made any moment");
}

/// Else Ready would only say that it is not ready, and nothing would be a fault.
#[test]
fn what_fails_beside_a_node_that_answers_is_named_and_is_a_fault() {
    let three = valid(3, &[]);
    let mut beside = observed(3, Some(&rebalance::first_ring(three.id, 4, 3, &members(3)).unwrap()));
    let pod = beside.pods.get_mut(&at(0)).unwrap();
    (pod.ready, pod.unready) = (false, Some("containers with unready status: [istio-proxy]".into()));
    let told = shown(&status_of(&three, &beside));
    let message = "cart-0 is not ready: containers with unready status: [istio-proxy]\n";
    assert!(told.contains(&format!("Ready=False AwaitingPods: {message}")), "{told}");
    assert!(told.contains("Degraded=False AsExpected"), "it may only need a moment: {told}");
    let crashes = "has a container istio-proxy that does not start (CrashLoopBackOff)";
    beside.pods.get_mut(&at(0)).unwrap().trouble = Some(crashes.into());
    let told = shown(&status_of(&three, &beside));
    assert!(told.contains(&format!("Ready=False AwaitingPods: cart-0 is not ready, and {crashes}\n")), "{told}");
    assert!(told.contains(&format!("Degraded=True PodsInTrouble: cart-0 {crashes}\n")), "{told}");
    beside.pods.get_mut(&at(0)).unwrap().ending = true;
    assert!(shown(&status_of(&three, &beside)).contains("Degraded=False AsExpected"), "it is to end");
    let pod = beside.pods.get_mut(&at(0)).unwrap();
    (pod.ready, pod.ending, pod.unready) = (true, false, None);
    assert!(shown(&status_of(&three, &beside)).contains("Degraded=False AsExpected"), "Kubernetes calls it ready");
}

/// What is said of a member's volume and its claim is no way on where its pod only cannot be made.
#[test]
fn a_member_whose_pod_cannot_be_made_is_told_with_what_is_in_the_way() {
    let cluster = valid(3, &[]);
    let mut observed = observed(3, Some(&rebalance::first_ring(cluster.id, 4, 3, &members(3)).unwrap()));
    observed.pods.remove(&at(1));
    let told = shown(&status_of(&cluster, &observed));
    assert!(told.contains("no answer from cart-1 [has no pod: see the Events of StatefulSet cart]"), "{told}");
    observed.strangers.insert(at(1), "has no pod: another has its name".into());
    let told = shown(&status_of(&cluster, &observed));
    assert!(
        told.contains("Degraded=True MembersUnreachable: no answer from cart-1 [has no pod: another has its name]"),
        "{told}"
    );
}

#[test]
fn who_does_not_hold_the_recorded_ring_is_told_with_the_one_that_it_holds_and_with_what_helps_where_nothing_newer_is_left() {
    let three = valid(3, &[]);
    let first = rebalance::first_ring(three.id, 4, 3, &members(3)).unwrap();
    let third = first.successor(|_| ()).successor(|_| ());
    let mut restored = observed(3, Some(&third));
    for node in 0..3 {
        restored.pods.get_mut(&at(node)).unwrap().node = Some(Node::holding(id(node), Some(&first)));
    }
    let told = shown(&status_of(&three, &restored));
    let message = "ring epoch 3 is recorded, and all nodes hold rings of before: cart-0, cart-1, cart-2: hold epoch 1. ";
    for condition in ["Ready=False", "Progressing=False", "Degraded=True"] {
        assert!(told.contains(&format!("{condition} RecordAhead: {message}")), "{told}");
    }
    assert!(told.contains("`kubectl --namespace shop delete configmap cart-ring`"), "{told}");
    silence(&mut restored, 2);
    let told = shown(&status_of(&three, &restored));
    let waits = "waiting for cart-0, cart-1, cart-2 to confirm ring epoch 3; cart-0, cart-1: hold epoch 1";
    assert!(told.contains(&format!("Ready=False AwaitingNodes: {waits}\n")) && !told.contains("delete configmap"), "{told}");
}

#[test]
fn what_keeps_several_pods_from_running_is_told_once() {
    let (three, nine) = (valid(3, &[]), valid(9, &[]));
    let ring = rebalance::first_ring(three.id, 4, 3, &members(3)).unwrap();
    let mut unscheduled = observed(9, Some(&ring));
    for node in 1..9 {
        silence(&mut unscheduled, node);
        let trouble = format!("is not scheduled (Unschedulable): 0/3 nodes; claim data-cart-{node} waits for a volume");
        unscheduled.pods.get_mut(&at(node)).unwrap().trouble = Some(trouble);
    }
    let told = shown(&status_of(&nine, &unscheduled));
    let why = "are not scheduled (Unschedulable): 0/3 nodes; claim data-POD waits for a volume";
    assert!(
        told.contains(&format!("Ready=False AwaitingNodes: waiting for cart-1 and cart-2 [{why}] to confirm ring epoch 1\n")),
        "{told}"
    );
    assert!(
        told.contains(&format!("Degraded=True MembersUnreachable: no answer from cart-1 and cart-2 [{why}]; writes")),
        "{told}"
    );
    for node in 1..3 {
        unscheduled.pods.insert(at(node), observed(3, Some(&ring)).pods[&at(node)].clone());
    }
    let told = shown(&status_of(&nine, &unscheduled));
    let all = format!("cart-3, cart-4, cart-5, cart-6, cart-7 and 1 more: {why}\n");
    for condition in ["Ready=False AwaitingPods", "Progressing=True AwaitingPods", "Degraded=True PodsInTrouble"] {
        assert!(told.contains(&format!("{condition}: {all}")), "{told}");
    }
    let step = Step::AwaitReceipts(vec![id(0), id(1), id(2)]);
    unscheduled.receipts.insert(id(1), Err("3 partitions are left".into()));
    let told = shown(&status(&report(&three, &unscheduled, &step), None, &time(1)));
    assert!(told.contains("Draining: cart-0, cart-2: no drain receipt yet; cart-1: 3 partitions are left\n"), "{told}");
}

#[test]
fn a_claim_of_a_former_size_is_told_with_what_makes_one_of_the_present_size() {
    let four = valid(4, &[]);
    let mut growing = observed(4, Some(&rebalance::first_ring(four.id, 4, 3, &members(3)).unwrap()));
    silence(&mut growing, 3);
    growing.pods.get_mut(&at(3)).unwrap().trouble = Some("is not scheduled".into());
    growing.volumes.insert(at(3), Volume { size: "4Gi".into(), ..Volume::default() });
    let sizes = [("default".to_owned(), "4Gi".to_owned())].into();
    let told = |observed: &Observed, claim_sizes: &BTreeMap<String, String>| {
        let step = next_step(&four, observed);
        shown(&status(&Report { claim_sizes, ..report(&four, observed, &step) }, None, &time(1)))
    };
    let set = "; StatefulSet cart makes claims of 4Gi, as it was made with, and spec.storage.size is 10Gi: if that is in the way, `kubectl \
               --namespace shop delete statefulset cart --cascade=orphan`, and the operator makes it again with that size and restarts no member";
    let claim = "; then delete claim data-cart-3, which waits for 4Gi, and pod cart-3, and they come back\n";
    let both = told(&growing, &sizes);
    for condition in ["Ready=False AwaitingPods", "Degraded=True PodsInTrouble"] {
        assert!(both.contains(&format!("{condition}: cart-3 is not scheduled{set}{claim}")), "{both}");
    }
    let made_again = told(&growing, &NO_OTHER_SIZES);
    let claim = "; claim data-cart-3 waits for 4Gi, and spec.storage.size is 10Gi: delete it and pod cart-3, and they come back with that size\n";
    assert!(made_again.contains(&format!("cart-3 is not scheduled{claim}")), "{made_again}");
    let is_silent = |observed: &Observed| {
        let told = told(observed, &sizes);
        assert!(!told.contains("10Gi") && !told.contains("orphan"), "{told}");
    };
    let volume = growing.volumes.get_mut(&at(3)).unwrap();
    volume.size = "10240Mi".into();
    is_silent(&growing);
    let volume = growing.volumes.get_mut(&at(3)).unwrap();
    (volume.size, volume.bound) = ("4Gi".into(), true);
    is_silent(&growing);
    let volume = growing.volumes.get_mut(&at(3)).unwrap();
    (volume.bound, volume.note) = (false, Note::Node(id(3)));
    is_silent(&growing);
    growing.volumes.remove(&at(3));
    is_silent(&growing);
    growing.pods.remove(&at(3));
    let lacks = told(&growing, &sizes);
    assert!(lacks.contains(&format!("PodsInTrouble: cart-3 has no pod: see the Events of StatefulSet cart{set}\n")), "{lacks}");
    assert!(lacks.contains(&format!("AwaitingPods: cart-3 has no pod yet{set}\n")), "{lacks}");
    growing.strangers.insert(at(3), "has no pod: another has its name".into());
    is_silent(&growing);
    growing.strangers.clear();
    growing.sets.get_mut("default").unwrap().unseen = true;
    is_silent(&growing);
}

#[test]
fn a_shrink_without_room_is_told_with_figures_and_is_no_fault() {
    let three = valid(3, &[]);
    let at_rest = observed(5, Some(&rebalance::first_ring(three.id, 4, 3, &members(5)).unwrap()));
    let step = Step::Blocked(Blocked::InsufficientCapacity { nodes: 3, each: 9_510_000_000, volume: 10_737_418_240 });
    let told = shown(&status(&report(&three, &at_rest, &step), None, &time(1)));
    let message = "no node leaves: the 3 that are to stay would hold about 9500 MB each, and data may take 85 % of a volume, \
                   which has 10000 MB; ask for more nodes or for larger volumes";
    assert!(told.contains(&format!("ScaleInBlocked=True InsufficientCapacity: {message}")), "{told}");
    assert!(told.contains("Ready=False InsufficientCapacity") && told.contains("Degraded=False AsExpected"), "{told}");
}

#[test]
fn volumes_that_are_larger_than_asked_are_told_and_are_no_fault() {
    let mut three = valid(3, &[]);
    let mut at_rest = observed(3, Some(&rebalance::first_ring(three.id, 4, 3, &members(3)).unwrap()));
    at_rest.volumes.values_mut().for_each(|volume| volume.size = "20Gi".into());
    at_rest.volumes.get_mut(&at(1)).unwrap().size = "10Gi".into();
    three.storage.size = "10Gi".into();
    let told = shown(&status_of(&three, &at_rest));
    let message = "everything is as asked; volumes are larger than asked: data-cart-0 20Gi, data-cart-2 20Gi, asked 10Gi";
    assert!(told.contains(&format!("Ready=True AsAsked: {message}")), "{told}");
    assert!(told.contains("Degraded=False AsExpected"), "{told}");
    three.storage.size = "20480Mi".into();
    let told = shown(&status_of(&three, &at_rest));
    assert!(told.contains("Ready=True AsAsked: everything is as asked\n"), "{told}");
}

#[test]
fn a_cluster_is_not_as_asked_before_its_volumes_have_grown() {
    let mut three = valid(3, &[]);
    three.storage.size = "20Gi".into();
    let mut growing = observed(3, Some(&rebalance::first_ring(three.id, 4, 3, &members(3)).unwrap()));
    let volume = growing.volumes.get_mut(&at(1)).unwrap();
    (volume.size, volume.capacity) = ("10Gi".into(), "10Gi".into());
    let told = shown(&status(&report(&three, &growing, &Step::Converged), None, &time(1)));
    let message = "Ready=False GrowingVolumes: volumes grow: data-cart-1 from 10Gi to 20Gi\n";
    assert!(told.contains(message), "this pass asks its claim: {told}");
    let volume = growing.volumes.get_mut(&at(1)).unwrap();
    (volume.size, volume.growth) = ("20Gi".into(), Some("FileSystemResizePending".into()));
    let told = shown(&status(&report(&three, &growing, &Step::Converged), None, &time(1)));
    let message = "volumes grow: data-cart-1 from 10Gi to 20Gi [FileSystemResizePending]";
    for condition in ["Ready=False", "Progressing=True"] {
        assert!(told.contains(&format!("{condition} GrowingVolumes: {message}\n")), "{told}");
    }
    let step = Step::Blocked(Blocked::InsufficientCapacity { nodes: 3, each: 9_510_000_000, volume: 10_737_418_240 });
    let told = shown(&status(&report(&three, &growing, &step), None, &time(1)));
    assert!(told.contains(&format!("which has 10000 MB; {message}\n")), "{told}");
    growing.volumes.get_mut(&at(1)).unwrap().deleting = true;
    let told = shown(&status(&report(&three, &growing, &Step::Converged), None, &time(1)));
    assert!(told.contains("Ready=True AsAsked"), "another comes in its place: {told}");
    growing.volumes.get_mut(&at(1)).unwrap().deleting = false;
    growing.volumes.get_mut(&at(1)).unwrap().capacity = "20Gi".into();
    let told = shown(&status(&report(&three, &growing, &Step::Converged), None, &time(1)));
    assert!(told.contains("Ready=True AsAsked"), "{told}");
    growing.volumes.get_mut(&at(1)).unwrap().capacity = "10Gi".into();
    let mut both = growing.clone();
    both.volumes.insert(at(2), growing.volumes[&at(1)].clone());
    let told = shown(&status(&report(&three, &both, &Step::Converged), None, &time(1)));
    let message = "volumes grow: data-cart-1, data-cart-2: from 10Gi to 20Gi [FileSystemResizePending]\n";
    assert!(told.contains(message), "{told}");
}

#[test]
fn a_growth_that_is_asked_for_no_more_is_not_waited_for_and_what_claims_still_ask_for_is_told() {
    let mut three = valid(3, &[]);
    let mut unmet = observed(3, Some(&rebalance::first_ring(three.id, 4, 3, &members(3)).unwrap()));
    let volume = unmet.volumes.get_mut(&at(1)).unwrap();
    (volume.size, volume.capacity, volume.growth) = ("100Ti".into(), "10Gi".into(), Some("ControllerResizeError".into()));
    let mut ready = |asked: &str| {
        three.storage.size = asked.into();
        let told = status(&report(&three, &unmet, &Step::Converged), None, &time(1));
        format!("{} {}: {}", told.conditions[0].status, told.conditions[0].reason, told.conditions[0].message)
    };
    assert_eq!(ready("100Ti"), "False GrowingVolumes: volumes grow: data-cart-1 from 10Gi to 100Ti [ControllerResizeError]");
    assert_eq!(ready("20Gi"), "False GrowingVolumes: volumes grow: data-cart-1 from 10Gi to 20Gi [ControllerResizeError]");
    let unmet = "; claims ask for more than is asked, and have less: data-cart-1 10Gi of 100Ti; set spec.storage.size a little above what \
                 they have, and it is taken back";
    assert_eq!(ready("10Gi"), format!("True AsAsked: everything is as asked{unmet}"));
    let larger = "; volumes are larger than asked: data-cart-1 10Gi, asked 5Gi";
    assert_eq!(ready("5Gi"), format!("True AsAsked: everything is as asked{larger}{unmet}"));
}

#[test]
fn objects_that_lost_their_owner_hide_no_number_and_are_given_back_and_not_removed() {
    let three = valid(3, &[]);
    let before = status_of(&three, &observed(3, Some(&rebalance::first_ring(three.id, 4, 3, &members(3)).unwrap())));
    let look = |taken: &[&str], ownerless: &[&str]| {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let observed = Observed { taken: names(taken), ownerless: names(ownerless), ..Observed::default() };
        let step = next_step(&three, &observed);
        status(&report(&three, &observed, &step), Some(&before), &time(200))
    };
    let told = look(&["StatefulSet cart"], &["StatefulSet cart"]);
    assert_eq!((told.replicas, told.ready_replicas, told.epoch, &told.members), (3, 3, before.epoch, &before.members));
    let statuses: Vec<_> = told.conditions.iter().map(|condition| &*condition.status).collect();
    assert_eq!(statuses, ["False", "Unknown", "False", "True", "Unknown", "Unknown"]);
    let message = &told.conditions[0].message;
    let owner = serde_json::to_value(three.owner()).unwrap();
    assert!(message.contains("kubectl --namespace shop patch statefulset/cart --type=merge --patch '{"), "{message}");
    let (_, patch) = message.split_once("--patch '").unwrap();
    let patch: serde_json::Value = serde_json::from_str(patch.split_once('\'').unwrap().0).unwrap();
    assert_eq!(patch, serde_json::json!({ "metadata": { "ownerReferences": [owner] } }));
    assert_eq!(told.conditions[0].reason, "OwnerLost");
    let told = look(&["Service cart", "ConfigMap cart-config"], &["Service cart"]);
    assert_eq!(told.conditions[0].reason, "NameTaken");
    assert!(told.conditions[0].message.starts_with("ConfigMap cart-config: not made for this cluster; remove it"));
    let observed = Observed { taken: vec!["StatefulSet cart".into()], neighbours: ["ca".into()].into(), ..Observed::default() };
    let told = shown(&status(&report(&three, &observed, &next_step(&three, &observed)), None, &time(200)));
    assert!(
        told.contains("NameTaken: StatefulSet cart: of DynamoCluster ca, which keeps its data there; delete this one"),
        "{told}"
    );
    assert!(!told.contains("remove it"), "{told}");
}

#[test]
fn the_deleted_claim_of_a_member_is_a_fault_and_names_what_to_do() {
    let (three, four) = (valid(3, &[]), valid(4, &[]));
    let mut deleted = observed(4, Some(&rebalance::first_ring(three.id, 4, 3, &members(4)).unwrap()));
    deleted.volumes.get_mut(&at(3)).unwrap().deleting = true;
    let told = shown(&status_of(&four, &deleted));
    assert!(told.contains("Degraded=True ClaimBeingDeleted: data-cart-3: being deleted"), "{told}");
    assert!(told.contains("delete one of these pods alone, wait until RingStable is True again"), "{told}");
    assert!(shown(&status_of(&three, &deleted)).contains("Degraded=False AsExpected"), "it is to leave");
}

/// Of a node that holds 800 bytes in 8 partitions and sends 2 of them, 200 are left.
#[test]
fn the_bytes_that_are_left_are_those_of_the_partitions_of_all_layers() {
    let three = valid(3, &[]);
    let mut moving = observed(3, Some(&rebalance::first_ring(three.id, 4, 3, &members(3)).unwrap()));
    let node = moving.pods.get_mut(&at(0)).unwrap().node.as_mut().unwrap();
    (node.bytes, node.copies, node.bytes_sent) = (800, 8, 50);
    let left = Left { sent: [(id(0), 2)].into(), ..Left::default() };
    assert_eq!(bytes_left(&moving, &left), 150);
}

#[test]
fn a_member_of_which_no_volume_is_known_is_told_with_the_command_that_replaces_it() {
    let three = valid(3, &[]);
    let mut adopted = observed(3, Some(&rebalance::first_ring(three.id, 4, 3, &members(3)).unwrap()));
    adopted.volumes.insert(at(1), Volume { note: Note::Node(id(7)), ..Volume::default() });
    adopted.pods.get_mut(&at(1)).unwrap().node.as_mut().unwrap().id = id(7);
    let told = shown(&status_of(&three, &adopted));
    assert!(told.contains("Degraded=True MembersUnreachable") && !told.contains("dynamoctl"), "its loss can be proven: {told}");
    let Record::Held { volumes, .. } = &mut adopted.record else { panic!() };
    volumes.remove(&id(1));
    let told = shown(&status_of(&three, &adopted));
    let command = format!("run `dynamoctl --endpoint cart.shop.svc:7400 ring replace --lost {} --yes`", id(1));
    assert!(told.contains(&format!("set spec.reconciliation to Paused, {command}")), "{told}");
}

#[test]
fn a_member_whose_claim_carries_another_node_now_is_told_with_its_claim_and_the_way_out() {
    let (three, four) = (valid(3, &[]), valid(4, &[]));
    let mut emptied = observed(4, Some(&rebalance::first_ring(three.id, 4, 3, &members(4)).unwrap()));
    emptied.volumes.insert(at(1), Volume { note: Note::Node(id(7)), ..Volume::default() });
    emptied.pods.get_mut(&at(1)).unwrap().node.as_mut().unwrap().id = id(7);
    let way_on = "; on data-cart-1 another node runs than the claim carried: bring that one's disk back, or, if it is lost for ever, delete \
                  the claim and its pod, and an empty one takes its place\n";
    let told = shown(&status_of(&four, &emptied));
    let degraded =
        "Degraded=True MembersUnreachable: no answer from the former node of cart-1; writes for them are kept as hints";
    assert!(told.contains(&format!("{degraded}{way_on}")), "{told}");
    let told = shown(&status_of(&three, &emptied));
    assert!(told.contains("ScaleInBlocked=True MemberUnknown") && told.matches(way_on).count() == 2, "{told}");
    emptied.volumes.get_mut(&at(1)).unwrap().uid = "made again".into();
    assert!(!shown(&status_of(&four, &emptied)).contains("another node runs"), "that is proof");
}

#[test]
fn members_that_do_not_answer_are_told_with_what_replaces_them_and_with_the_claims_that_their_pods_keep() {
    let three = valid(3, &[]);
    let mut silent = observed(3, Some(&rebalance::first_ring(three.id, 4, 3, &members(3)).unwrap()));
    silence(&mut silent, 1);
    let replaces = "where a volume is lost for ever, delete its claim and its pod, and an empty one takes its place";
    let degraded = |observed: &Observed| {
        let told = shown(&status_of(&three, observed));
        told.lines().find(|line| line.starts_with("Degraded=True MembersUnreachable: no answer from cart-1")).unwrap().to_owned()
    };
    assert!(degraded(&silent).ends_with(replaces));
    silent.volumes.get_mut(&at(1)).unwrap().deleting = true;
    let told = degraded(&silent);
    assert!(told.contains("; data-cart-1: being deleted, and gone with") && !told.contains(replaces), "{told}");
}

/// As where a NetworkPolicy lets clients in and forgets the operator.
#[test]
fn pods_that_kubernetes_calls_ready_and_the_operator_does_not_reach_are_not_called_dead() {
    let three = valid(3, &[]);
    let mut unheard = observed(3, Some(&rebalance::first_ring(three.id, 4, 3, &members(3)).unwrap()));
    for pod in unheard.pods.values_mut() {
        (pod.node, pod.silence) = (None, Some("timed out".into()));
    }
    let told = |observed: &Observed, condition: &str| {
        let told = shown(&status_of(&three, observed));
        told.lines().find(|line| line.starts_with(condition)).unwrap().to_owned()
    };
    let unknown =
        "Available=Unknown NotReached: 16 of 16 partitions have fewer home replicas that answer the operator than r or w";
    let out_of_reach = "[timed out]: the operator cannot reach port 7400 of pods that Kubernetes calls ready";
    assert!(told(&unheard, "Available").starts_with(unknown));
    let degraded = told(&unheard, "Degraded");
    let all = format!("Degraded=True NotReached: no answer from cart-0, cart-1 and cart-2 {out_of_reach}");
    assert!(degraded.starts_with(&all) && !degraded.contains("hints") && !degraded.contains("delete its claim"), "{degraded}");

    let mut recorded = unheard.clone();
    recorded.volumes.values_mut().for_each(|volume| volume.note = Note::None);
    assert!(told(&recorded, "Available").starts_with(unknown), "the record knows whose volumes these are");
    recorded.volumes.values_mut().for_each(|volume| volume.uid = "made again".into());
    assert!(told(&recorded, "Available").starts_with("Available=False TooFewReplicas"), "these may be empty");

    unheard.pods.get_mut(&at(1)).unwrap().ready = false;
    let degraded = told(&unheard, "Degraded");
    let away = "Degraded=True MembersUnreachable: no answer from cart-1; writes for them are kept as hints";
    assert!(degraded.starts_with(away) && degraded.contains("delete its claim"), "{degraded}");
    assert!(degraded.contains(&format!("; no answer from cart-0 and cart-2 {out_of_reach}")), "{degraded}");
    assert!(told(&unheard, "Available").starts_with(unknown), "two of three are enough");
    unheard.pods.get_mut(&at(2)).unwrap().ready = false;
    assert!(told(&unheard, "Available").starts_with("Available=False TooFewReplicas"));

    let mut leaving = observed(5, Some(&rebalance::first_ring(three.id, 4, 3, &members(5)).unwrap()));
    let pod = leaving.pods.get_mut(&at(4)).unwrap();
    (pod.node, pod.silence) = (None, Some("timed out".into()));
    let waits = "no answer from cart-4 [timed out]; unknown is not gone, so nothing is removed until it comes";
    assert_eq!(told(&leaving, "ScaleInBlocked"), format!("ScaleInBlocked=True MemberUnknown: {waits}"));
}

#[test]
fn a_growth_that_failed_is_a_fault_for_as_long_as_it_is_asked_for() {
    let mut three = valid(3, &[]);
    let mut failed = observed(3, Some(&rebalance::first_ring(three.id, 4, 3, &members(3)).unwrap()));
    let mut told = |growth: &str, asked: &str| {
        three.storage.size = asked.into();
        let volume = failed.volumes.get_mut(&at(1)).unwrap();
        (volume.size, volume.capacity, volume.growth) = ("20Gi".into(), "10Gi".into(), Some(growth.into()));
        shown(&status(&report(&three, &failed, &Step::Converged), None, &time(1)))
    };
    for growth in ["ControllerResizeError: the array is full", "Resizing; NodeResizeError: resize2fs; see its log"] {
        let told = told(growth, "20Gi");
        let fault =
            "Degraded=True VolumesCannotGrow: volumes could not grow, and Kubernetes tries again: data-cart-1 from 10Gi to 20Gi";
        assert!(told.contains(&format!("{fault} [{growth}]; ")) && told.contains("Progressing=True GrowingVolumes"), "{told}");
    }
    for (growth, asked) in [("FileSystemResizePending: no ResizeError: it waits", "20Gi"), ("ControllerResizeError", "10Gi")] {
        let told = told(growth, asked);
        assert!(told.contains("Degraded=False AsExpected"), "{told}");
    }
}

#[test]
fn a_cluster_is_not_available_while_a_bucket_has_fewer_replicas_than_it_asks_for() {
    let mut three = valid(3, &[]);
    (three.quorum.r, three.quorum.w) = (1, 1);
    let mut two_down = observed(3, Some(&rebalance::first_ring(three.id, 4, 3, &members(3)).unwrap()));
    silence(&mut two_down, 1);
    silence(&mut two_down, 2);
    let available = |cluster: &ValidCluster| {
        let told = shown(&status_of(cluster, &two_down));
        told.lines().find(|line| line.starts_with("Available=")).unwrap().to_owned()
    };
    assert!(available(&three).starts_with("Available=True EnoughReplicas"));
    for bucket in [serde_json::json!({ "name": "orders", "r": 2 }), serde_json::json!({ "name": "orders", "w": 3 })] {
        three.buckets = vec![serde_json::from_value(bucket).unwrap()];
        let told = available(&three);
        assert!(told.starts_with("Available=False TooFewReplicas: 16 of 16 partitions"), "{told}");
    }
}

#[test]
fn counts_are_rounded_down_to_two_digits() {
    for (count, shown) in [(0, 0), (7, 7), (99, 99), (100, 100), (4321, 4300), (u64::MAX, i64::MAX)] {
        assert_eq!(rounded(count), shown);
    }
}

#[test]
fn messages_and_how_far_data_has_moved_are_figures_and_whatever_turns_is_not() {
    let figures: [fn(&mut DynamoClusterStatus); 10] = [
        |status| status.epoch += 1,
        |status| status.rebalance = "12/341 partitions".into(),
        |status| status.partitions_moving += 1,
        |status| status.partitions_left += 1,
        |status| status.bytes_left += 1,
        |status| status.bytes_sent += 1,
        |status| status.members[0].partitions += 1,
        |status| status.members[0].objects += 1,
        |status| status.members[0].hints += 1,
        |status| status.conditions[0].message += ", from port 40123",
    ];
    let turns: [fn(&mut DynamoClusterStatus); 9] = [
        |status| status.observed_generation = Some(8),
        |status| status.replicas += 1,
        |status| status.ready_replicas += 1,
        |status| status.selector += ",a=b",
        |status| drop(status.members.pop()),
        |status| status.members[0].node.clear(),
        |status| status.members[0].state = MemberState::Unreachable,
        |status| status.conditions[0].status = "Unknown".into(),
        |status| status.conditions[0].reason = "Other".into(),
    ];
    let told = status_of(&valid(3, &[]), &observed(3, None));
    for (change, is_figure) in figures.iter().map(|change| (change, true)).chain(turns.iter().map(|change| (change, false))) {
        let mut changed = told.clone();
        change(&mut changed);
        assert!(changed != told);
        assert_eq!(differ_in_figures(&told, &changed), is_figure, "{changed:?}");
    }
}
