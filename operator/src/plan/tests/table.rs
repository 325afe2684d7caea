//! One state, one step. Each case starts from a cluster at rest, or from nothing, and changes what it is about.

use dynamo_core::id::{Epoch, NodeId};
use dynamo_core::node::receipt::Receipt;
use dynamo_core::rebalance::chain::Chain;
use dynamo_core::rebalance::{self, Members};
use dynamo_core::ring::bucket_replication::BucketReplication;
use dynamo_core::ring::{Member, Ring, Stage};

use crate::api::RetentionPolicy;
use crate::observed::{Carrier, Node, Note, Observed, Pod, Record, Set, Volume};
use crate::plan::{Blocked, Cause, Step, next_step};
use crate::valid::tests::valid;
use crate::valid::{Place, ValidCluster};

fn id(node: u8) -> NodeId {
    NodeId([node + 1; 16])
}

fn at(ordinal: u32) -> Place {
    Place { zone: "default".into(), ordinal }
}

fn members(nodes: std::ops::Range<u8>) -> Members {
    nodes.map(|node| (id(node), Member { zone: "default".into(), weight: 1 })).collect()
}

fn first_ring(cluster: &ValidCluster, nodes: u8) -> Ring {
    rebalance::first_ring(cluster.id, cluster.partition_bits, cluster.replication, &members(0..nodes)).unwrap()
}

fn answer(node: u8, ring: Option<&Ring>) -> Node {
    Node::holding(id(node), ring)
}

/// `pods` pods whose nodes answer and hold `ring`, which is recorded; the first `noted` volumes are noted.
fn observed(pods: u8, noted: u8, ring: Option<&Ring>) -> Observed {
    let mut observed = Observed::default();
    observed.sets.insert("default".into(), Set { replicas: u32::from(pods), ..Set::default() });
    for node in 0..pods {
        let place = at(u32::from(node));
        let pod = Pod { ready: true, node: Some(answer(node, ring)), ..Pod::default() };
        observed.pods.insert(place.clone(), pod);
        let note = if node < noted { Note::Node(id(node)) } else { Note::None };
        observed.volumes.insert(place, Volume { note, ..Volume::default() });
    }
    observed.record = ring.map_or(Record::Absent, held);
    observed
}

fn held(ring: &Ring) -> Record {
    let carrier = |node: &NodeId| Carrier { place: at(u32::from(node.0[0]) - 1), uid: String::new() };
    let volumes = ring.members.keys().map(|node| (*node, carrier(node))).collect();
    Record::Held { rings: Box::new(ring.clone().into()), hash: ring.hash(), resource_version: "1".into(), volumes }
}

/// A cluster at rest: `nodes` nodes, all members.
fn at_rest(cluster: &ValidCluster, nodes: u8) -> (Observed, Ring) {
    let ring = first_ring(cluster, nodes);
    (observed(nodes, nodes, Some(&ring)), ring)
}

fn silence(observed: &mut Observed, ordinal: u32) {
    let pod = observed.pods.get_mut(&at(ordinal)).unwrap();
    (pod.node, pod.ready) = (None, false);
}

fn receipt(observed: &mut Observed, node: u8, ring: &Ring) {
    let receipt = Receipt { node: id(node), epoch: ring.epoch, ring_hash: ring.hash(), handed_over: Vec::new() };
    observed.receipts.insert(id(node), Ok(receipt));
}

fn zones(replicas: u32) -> std::collections::BTreeMap<String, u32> {
    [("default".to_owned(), replicas)].into()
}

fn waits_for(step: Step) -> String {
    let Step::AwaitPods(waiting) = step else { panic!("{step:?}") };
    waiting.iter().map(|waiting| format!("{} {}", waiting.place.ordinal, waiting.reason)).collect::<Vec<_>>().join("; ")
}

#[test]
fn nothing_is_done_to_a_cluster_at_rest() {
    let cluster = valid(3, &[]);
    assert_eq!(next_step(&cluster, &at_rest(&cluster, 3).0), Step::Converged);
}

#[test]
fn names_that_belong_to_somebody_else_are_left_alone() {
    let observed = Observed { taken: vec!["Service cart".into()], ..Observed::default() };
    let step = next_step(&valid(3, &[]), &observed);
    assert_eq!(step, Step::Blocked(Blocked::NamesTaken(vec!["Service cart".into()])));
}

#[test]
fn a_new_cluster_gets_pods_then_notes_then_a_ring_then_the_nodes_hear_of_it() {
    let cluster = valid(3, &[]);
    assert_eq!(next_step(&cluster, &Observed::default()), Step::RaisePods(zones(3)));
    let mut starting = observed(3, 0, None);
    silence(&mut starting, 1);
    starting.pods.get_mut(&at(1)).unwrap().trouble = Some("Unschedulable".into());
    starting.pods.remove(&at(2));
    assert_eq!(waits_for(next_step(&cluster, &starting)), "1 Unschedulable; 2 has no pod yet");
    let notes = (0..3).map(|node| (at(node.into()), id(node))).collect();
    assert_eq!(next_step(&cluster, &observed(3, 0, None)), Step::NoteIdentities(notes));
    let ring = first_ring(&cluster, 3);
    let record = Step::RecordRing { ring: Box::new(ring.clone()), cause: Cause::First };
    assert_eq!(next_step(&cluster, &observed(3, 3, None)), record);
    let mut recorded = observed(3, 3, None);
    recorded.record = held(&ring);
    assert_eq!(next_step(&cluster, &recorded), Step::OfferRing(vec![at(0), at(1), at(2)]));
}

#[test]
fn growing_starts_pods_and_waits_for_all_that_can_run_before_the_ring_changes() {
    let (small, large) = (valid(3, &[]), valid(5, &[]));
    let (observed_small, ring) = at_rest(&small, 3);
    assert_eq!(next_step(&large, &observed_small), Step::RaisePods(zones(5)));
    let mut growing = observed(5, 5, Some(&ring));
    silence(&mut growing, 4);
    assert_eq!(waits_for(next_step(&large, &growing)), "4 does not answer");
    growing.pods.get_mut(&at(4)).unwrap().trouble = Some("Unschedulable".into());
    let Step::RecordRing { ring: without, cause: Cause::Rebalance } = next_step(&large, &growing) else { panic!() };
    assert_eq!(without.members, members(0..4), "one that cannot run is not waited for");
    growing.pods.remove(&at(4));
    let step = next_step(&large, &growing);
    assert!(matches!(step, Step::RecordRing { ring, .. } if ring.members == members(0..4)), "nor is one that cannot be made");
    growing.sets.get_mut("default").unwrap().unseen = true;
    assert_eq!(waits_for(next_step(&large, &growing)), "4 has no pod yet", "it may be made any moment");
    let mut grown = observed(5, 5, Some(&first_ring(&large, 4)));
    silence(&mut grown, 4);
    grown.pods.get_mut(&at(4)).unwrap().trouble = Some("Unschedulable".into());
    assert_eq!(waits_for(next_step(&large, &grown)), "4 Unschedulable", "but it is told");
    let joined = next_step(&large, &observed(5, 5, Some(&first_ring(&large, 4))));
    assert!(matches!(joined, Step::RecordRing { ring, .. } if ring.members == members(0..5)), "and joins when it runs");
    let mut unnoted = observed(5, 3, Some(&ring));
    let notes = (3..5).map(|node| (at(node.into()), id(node))).collect();
    assert_eq!(next_step(&large, &unnoted), Step::NoteIdentities(notes));
    unnoted.volumes.remove(&at(4));
    assert_eq!(waits_for(next_step(&large, &unnoted)), "4 its volume claim is not there");
    let Step::RecordRing { ring: moving, cause: Cause::Rebalance } = next_step(&large, &observed(5, 5, Some(&ring))) else {
        panic!()
    };
    assert_eq!(moving.members, members(0..5));
    assert!(moving.moving().all(|(_, _, moving)| moving.stage == Stage::WriteBothReadOld));
    let adopted = observed(5, 5, Some(&moving));
    assert!(matches!(next_step(&large, &adopted), Step::AwaitData { received: 0, moving: 1.., .. }));
}

#[test]
fn a_newcomer_that_runs_and_fails_by_turns_changes_no_plan() {
    let (small, large) = (valid(3, &[]), valid(5, &[]));
    let (_, ring) = at_rest(&small, 3);
    let mut growing = observed(5, 5, Some(&ring));
    silence(&mut growing, 4);
    growing.pods.get_mut(&at(4)).unwrap().trouble = Some("CrashLoopBackOff".into());
    let Step::RecordRing { ring: moving, .. } = next_step(&large, &growing) else { panic!() };
    let mut moves = observed(5, 5, Some(&moving));
    silence(&mut moves, 4);
    for trouble in [None, Some("CrashLoopBackOff".to_owned())] {
        moves.pods.get_mut(&at(4)).unwrap().trouble = trouble;
        assert!(matches!(next_step(&large, &moves), Step::AwaitData { .. }), "3 goes on joining");
    }
    let mut away = moves;
    silence(&mut away, 3);
    away.pods.get_mut(&at(3)).unwrap().trouble = Some("Unschedulable".into());
    assert_eq!(next_step(&large, &away), Step::AwaitEpoch(vec![id(3)]), "a member is waited for, whatever ails it");
}

#[test]
fn a_pause_stops_what_moves_and_nothing_else() {
    let (small, mut large) = (valid(3, &[]), valid(5, &[]));
    large.rebalancing_paused = true;
    let (observed_small, ring) = at_rest(&small, 3);
    assert_eq!(next_step(&large, &observed_small), Step::RaisePods(zones(5)), "pods may come and stand by");
    let grown = observed(5, 5, Some(&ring));
    assert_eq!(next_step(&large, &grown), Step::RebalancingPaused("next: ring epoch 2".into()));
    let Step::RecordRing { ring: moving, .. } = next_step(&valid(5, &[]), &grown) else { panic!() };
    let mut recorded = observed(5, 5, Some(&ring));
    recorded.record = observed(5, 5, Some(&moving)).record;
    assert!(matches!(next_step(&large, &recorded), Step::OfferRing(_)), "a ring that is recorded reaches everybody");
    let mut received = observed(5, 5, Some(&moving));
    let all: std::collections::BTreeSet<_> = moving.moving().map(|(partition, ..)| partition).collect();
    received.pods.values_mut().for_each(|pod| pod.node.as_mut().unwrap().received = all.clone());
    assert!(matches!(next_step(&large, &received), Step::RebalancingPaused(_)), "no stage is passed");
    large.rebalancing_paused = false;
    assert!(matches!(next_step(&large, &received), Step::RecordRing { cause: Cause::Rebalance, .. }));
    let mut at_rest_and_paused = valid(3, &[]);
    at_rest_and_paused.rebalancing_paused = true;
    assert_eq!(next_step(&at_rest_and_paused, &observed_small), Step::Converged, "there is nothing to pause");
}

#[test]
fn replicas_that_are_set_back_take_the_moves_back_in_the_next_ring() {
    let (small, large) = (valid(3, &[]), valid(5, &[]));
    let (_, ring) = at_rest(&small, 3);
    let Step::RecordRing { ring: moving, .. } = next_step(&large, &observed(5, 5, Some(&ring))) else { panic!() };
    let Step::RecordRing { ring: back, cause: Cause::Rebalance } = next_step(&small, &observed(5, 5, Some(&moving))) else {
        panic!()
    };
    assert_eq!(back.moving().count(), 0);
    assert_eq!(back.placements, ring.placements);
    assert_eq!(back.members[&id(4)].weight, 0);
}

#[test]
fn an_operation_that_a_command_began_is_ended_for_the_resource_says_what_is_wanted() {
    let cluster = valid(3, &[]);
    let (_, ring) = at_rest(&cluster, 3);
    let begun = rebalance::operation::begun(&ring, &members(0..4)).unwrap();
    let Step::RecordRing { ring: ended, .. } = next_step(&cluster, &observed(3, 3, Some(&begun))) else { panic!() };
    assert_eq!((ended.operation.clone(), &ended.placements), (None, &ring.placements));
}

#[test]
fn a_shrink_moves_data_first_and_removes_pods_only_with_receipts() {
    let (small, large) = (valid(3, &[]), valid(5, &[]));
    let (mut settled, ring) = at_rest(&large, 5);
    let Step::RecordRing { ring: draining, cause: Cause::Rebalance } = next_step(&small, &settled) else { panic!() };
    assert_eq!(draining.members[&id(4)].weight, 0);
    // The same nodes once all data has moved off 3 and 4.
    let drained = {
        let mut drained = *draining;
        for placement in &mut drained.placements {
            if let Some(moving) = placement.moving.take() {
                placement.replicas = moving.target;
            }
        }
        drained.successor(|_| ())
    };
    settled = observed(5, 5, Some(&drained));
    assert_eq!(next_step(&small, &settled), Step::AwaitReceipts(vec![id(3), id(4)]));
    settled.receipts.insert(id(3), Err("2 hints left".into()));
    receipt(&mut settled, 4, &ring);
    assert_eq!(next_step(&small, &settled), Step::AwaitReceipts(vec![id(3), id(4)]), "a receipt of another epoch is none");
    receipt(&mut settled, 4, &drained);
    let Step::RecordRing { ring: without, cause } = next_step(&small, &settled) else { panic!() };
    assert_eq!(cause, Cause::Left(vec![id(4)]), "one that is stuck does not hold up the other");
    assert_eq!(without.members.len(), 4);

    let out = rebalance::without(&drained, &[id(3), id(4)]);
    let mut settled = observed(5, 5, Some(&out));
    receipt(&mut settled, 3, &out);
    assert_eq!(next_step(&small, &settled), Step::AwaitReceipts(vec![id(4)]), "pods go from the top");
    receipt(&mut settled, 4, &out);
    assert_eq!(next_step(&small, &settled), Step::LowerPods(zones(3)));
    settled.receipts.remove(&id(3));
    assert_eq!(next_step(&small, &settled), Step::LowerPods(zones(4)));
    settled.pods.get_mut(&at(4)).unwrap().node = Some(answer(4, Some(&drained)));
    settled.receipts.clear();
    assert_eq!(next_step(&small, &settled), Step::OfferRing(vec![at(4)]), "it must hear that it is out");
}

#[test]
fn unknown_is_not_gone() {
    let (small, large) = (valid(3, &[]), valid(5, &[]));
    let (mut silent, ring) = at_rest(&large, 5);
    silence(&mut silent, 4);
    assert_eq!(next_step(&small, &silent), Step::AwaitEpoch(vec![id(4)]), "a leaving member");
    silent.pods.remove(&at(4));
    assert_eq!(next_step(&small, &silent), Step::AwaitEpoch(vec![id(4)]), "nor does a missing pod mean that it is gone");
    silent.volumes.remove(&at(4));
    assert_eq!(next_step(&small, &silent), Step::AwaitEpoch(vec![id(4)]), "nor a missing volume");
    let nobody = Observed { pods: Default::default(), ..silent };
    assert!(matches!(next_step(&small, &nobody), Step::AwaitEpoch(nodes) if nodes.len() == 5), "an empty list");

    let out = rebalance::without(&first_ring(&small, 3).successor(|next| next.members.extend(members(3..5))), &[id(3), id(4)]);
    let mut silent = observed(5, 5, Some(&out));
    receipt(&mut silent, 3, &out);
    silence(&mut silent, 4);
    assert_eq!(next_step(&small, &silent), Step::AwaitReceipts(vec![id(4)]), "a node that is out may still hold hints");
    silent.volumes.get_mut(&at(4)).unwrap().drained = true;
    assert_eq!(next_step(&small, &silent), Step::LowerPods(zones(3)), "unless it was drained when its pod went last");
    silent.receipts.clear();
    silence(&mut silent, 3);
    silent.volumes.get_mut(&at(3)).unwrap().draining = true;
    assert_eq!(next_step(&small, &silent), Step::LowerPods(zones(4)), "what was only about to be called drained is not");
    receipt(&mut silent, 3, &out);
    silent.pods.get_mut(&at(3)).unwrap().node = Some(answer(3, Some(&out)));
    silent.volumes.get_mut(&at(3)).unwrap().draining = false;
    let never_noted = Volume::default();
    silent.volumes.insert(at(4), never_noted);
    assert_eq!(next_step(&small, &silent), Step::LowerPods(zones(3)), "a node that never was in a ring holds nothing");
    drop(ring);
}

#[test]
fn a_node_that_is_seen_again_is_no_longer_the_one_that_was_drained() {
    let (small, large) = (valid(3, &[]), valid(5, &[]));
    let ring = first_ring(&small, 3);
    let mut back = observed(5, 5, Some(&ring));
    back.volumes.get_mut(&at(3)).unwrap().drained = true;
    silence(&mut back, 4);
    let note = Step::NoteIdentities([(at(3), id(3))].into());
    assert_eq!(next_step(&large, &back), note, "though it cannot join yet");
    assert_eq!(next_step(&small, &back), note, "and though it is to go again");
    back.sets.get_mut("default").unwrap().lowering = Some(3);
    assert_eq!(
        next_step(&small, &back),
        Step::AwaitReceipts(vec![id(4)]),
        "its pod is about to go: it gave the receipt just now"
    );
    let (mut member, _) = at_rest(&large, 5);
    member.volumes.get_mut(&at(4)).unwrap().drained = true;
    silence(&mut member, 4);
    assert_eq!(next_step(&small, &member), Step::AwaitEpoch(vec![id(4)]), "of a member a mark says nothing");
}

#[test]
fn pods_of_members_are_brought_back() {
    let (small, large) = (valid(3, &[]), valid(5, &[]));
    let (mut lowered, _) = at_rest(&large, 5);
    lowered.sets.get_mut("default").unwrap().replicas = 3;
    lowered.pods.remove(&at(3));
    lowered.pods.remove(&at(4));
    for cluster in [&small, &large] {
        assert_eq!(next_step(cluster, &lowered), Step::RaisePods(zones(5)));
    }
    lowered.sets.clear();
    assert_eq!(next_step(&small, &lowered), Step::RaisePods(zones(5)));
}

#[test]
fn two_rings_of_one_epoch_or_one_node_in_two_pods_stop_everything() {
    let cluster = valid(3, &[]);
    let (mut forked, ring) = at_rest(&cluster, 3);
    let other = rebalance::first_ring(cluster.id, 4, 3, &members(1..4)).unwrap();
    forked.pods.get_mut(&at(1)).unwrap().node = Some(answer(1, Some(&other)));
    assert_eq!(next_step(&cluster, &forked), Step::Blocked(Blocked::RingConflict(vec![at(1)])));

    let (mut copied, _) = at_rest(&cluster, 3);
    copied.pods.get_mut(&at(2)).unwrap().node = Some(answer(0, Some(&ring)));
    let places = vec![at(0), at(2)];
    assert_eq!(next_step(&cluster, &copied), Step::Blocked(Blocked::SharedIdentity { node: id(0), places }));
}

#[test]
fn a_ring_that_nodes_hold_and_the_record_does_not_is_recorded_first() {
    let cluster = valid(3, &[]);
    let (mut ahead, ring) = at_rest(&cluster, 3);
    let newer = ring.successor(|_| ());
    ahead.pods.get_mut(&at(1)).unwrap().node = Some(answer(1, Some(&newer)));
    assert_eq!(waits_for(next_step(&cluster, &ahead)), "1 holds ring epoch 2, newer than the record, and it could not be read");
    ahead.newer = Some(newer.clone());
    let found = Step::RecordRing { ring: Box::new(newer), cause: Cause::Found };
    assert_eq!(next_step(&cluster, &ahead), found);
    let stranger = first_ring(&cluster, 4).successor(|_| ());
    ahead.pods.get_mut(&at(1)).unwrap().node = Some(answer(1, Some(&stranger)));
    ahead.newer = Some(stranger);
    assert_eq!(next_step(&cluster, &ahead), Step::Blocked(Blocked::RingConflict(vec![at(1)])));

    let (mut lost, ring) = at_rest(&cluster, 3);
    (lost.record, lost.newer) = (Record::Absent, Some(ring.clone()));
    assert_eq!(next_step(&cluster, &lost), Step::RecordRing { ring: Box::new(ring), cause: Cause::Found });
    silence(&mut lost, 2);
    assert_eq!(waits_for(next_step(&cluster, &lost)), "2 does not answer", "it may hold a newer one");
    lost.pods.remove(&at(2));
    assert_eq!(waits_for(next_step(&cluster, &lost)), "2 has no pod yet", "nor is it gone because its pod is");
    silence(&mut lost, 1);
    lost.volumes.insert(at(3), Volume { note: Note::Node(id(3)), ..Volume::default() });
    lost.sets.get_mut("default").unwrap().replicas = 4;
    assert_eq!(waits_for(next_step(&cluster, &lost)), "1 does not answer; 2 has no pod yet; 3 has no pod yet");
    lost.record = Record::Unreadable("torn".into());
    assert_eq!(next_step(&cluster, &lost), Step::Blocked(Blocked::RecordUnreadable("torn".into())));
}

#[test]
fn no_first_ring_is_made_while_a_node_might_hold_one() {
    let cluster = valid(3, &[]);
    let mut observed = observed(4, 4, None);
    silence(&mut observed, 3);
    assert_eq!(waits_for(next_step(&cluster, &observed)), "3 does not answer");
    observed.pods.remove(&at(3));
    assert_eq!(waits_for(next_step(&cluster, &observed)), "3 has no pod yet");
    observed.volumes.insert(at(3), Volume::default());
    assert!(matches!(next_step(&cluster, &observed), Step::RecordRing { cause: Cause::First, .. }), "it was never to join");
}

#[test]
fn nodes_that_are_behind_are_offered_the_recorded_ring() {
    let cluster = valid(3, &[]);
    let (mut behind, ring) = at_rest(&cluster, 3);
    let newer = ring.successor(|_| ());
    behind.record = held(&newer);
    behind.pods.get_mut(&at(1)).unwrap().node = Some(answer(1, Some(&newer)));
    assert_eq!(next_step(&cluster, &behind), Step::OfferRing(vec![at(0), at(2)]));
    silence(&mut behind, 0);
    assert_eq!(next_step(&cluster, &behind), Step::OfferRing(vec![at(2)]));
    silence(&mut behind, 2);
    assert_eq!(next_step(&cluster, &behind), Step::AwaitEpoch(vec![id(0), id(2)]));
}

#[test]
fn nodes_are_offered_the_recorded_ring_that_follows_their_own() {
    let cluster = valid(3, &[]);
    let (mut behind, first) = at_rest(&cluster, 3);
    let (second, third) = (first.successor(|_| ()), first.successor(|_| ()).successor(|_| ()));
    behind.record = held(&third);
    behind.pods.get_mut(&at(1)).unwrap().node = Some(answer(1, Some(&second)));
    behind.pods.get_mut(&at(2)).unwrap().node = Some(answer(2, Some(&third)));
    assert_eq!(
        next_step(&cluster, &behind),
        Step::OfferRing(vec![at(1)]),
        "what 0 lacks is not recorded: it hears of it by gossip"
    );
    let Record::Held { rings, .. } = &mut behind.record else { panic!() };
    **rings = Chain::read(vec![second], third);
    assert_eq!(next_step(&cluster, &behind), Step::OfferRing(vec![at(0), at(1)]));
}

/// As where a cluster's disks are all restored from a backup, and its objects in Kubernetes are not.
#[test]
fn a_record_that_no_disk_leads_to_any_more_waits_for_a_person_once_all_nodes_have_answered() {
    let cluster = valid(3, &[]);
    let (mut restored, first) = at_rest(&cluster, 3);
    let (second, third) = (first.successor(|_| ()), first.successor(|_| ()).successor(|_| ()));
    restored.record = held(&third);
    let all = (0..3).map(|ordinal| (at(ordinal), Epoch(1))).collect();
    assert_eq!(next_step(&cluster, &restored), Step::Blocked(Blocked::RecordAhead(all)));
    assert_eq!(next_step(&valid(4, &[]), &restored), Step::RaisePods(zones(4)), "a pod that is asked for may have it");
    for held in [&second, &third] {
        let mut newer = restored.clone();
        newer.pods.get_mut(&at(1)).unwrap().node = Some(answer(1, Some(held)));
        assert!(!matches!(next_step(&cluster, &newer), Step::Blocked(_)), "it hears of it, and the others of it");
    }
    let mut silent = restored.clone();
    silence(&mut silent, 2);
    assert_eq!(next_step(&cluster, &silent), Step::AwaitEpoch(vec![id(0), id(1), id(2)]), "it may hold the newest");
    let Record::Held { rings, .. } = &mut restored.record else { panic!() };
    **rings = Chain::read(vec![second], third);
    assert_eq!(next_step(&cluster, &restored), Step::OfferRing(vec![at(0), at(1), at(2)]), "the one that follows is recorded");
    restored.record = Record::Absent;
    restored.newer = Some(first.clone());
    assert_eq!(
        next_step(&cluster, &restored),
        Step::RecordRing { ring: Box::new(first), cause: Cause::Found },
        "what is told helps"
    );
}

#[test]
fn a_loss_waits_while_the_record_has_no_room_for_the_rings_that_members_lack() {
    let cluster = valid(3, &[]);
    let (mut lost, ring) = at_rest_on_volumes(&cluster, 3);
    let placements = ring.placements.iter().cycle().take(1 << 16).cloned().collect();
    let first = Ring { partition_bits: 16, placements, ..ring };
    let second = first.successor(|_| ());
    for node in 0..3 {
        lost.pods.get_mut(&at(u32::from(node))).unwrap().node = Some(answer(node, Some(&second)));
    }
    lost.record = carried(&second);
    lose_volume(&mut lost, 1, 7);
    silence(&mut lost, 2);
    assert!(matches!(next_step(&cluster, &lost), Step::RecordRing { cause: Cause::Lost(_), .. }), "there is room for two");
    let Record::Held { rings, .. } = &mut lost.record else { panic!() };
    **rings = Chain::read(vec![first], second);
    assert_eq!(next_step(&cluster, &lost), Step::AwaitEpoch(vec![id(2)]));
}

#[test]
fn a_cluster_is_not_done_before_its_pods_are_ready_and_its_template_is_rolled_out() {
    let cluster = valid(3, &[]);
    let (mut unready, _) = at_rest(&cluster, 3);
    unready.pods.get_mut(&at(2)).unwrap().ready = false;
    assert_eq!(waits_for(next_step(&cluster, &unready)), "2 is not ready");
    let (mut rolling, _) = at_rest(&cluster, 3);
    rolling.sets.get_mut("default").unwrap().rolling = true;
    assert_eq!(next_step(&cluster, &rolling), Step::AwaitRollout(vec!["default".into()]));
}

/// Else a cluster would be called ready between the pod's end and the end of its volume.
#[test]
fn a_shrink_is_not_done_before_the_pods_that_leave_have_gone() {
    for policy in [RetentionPolicy::Retain, RetentionPolicy::Delete] {
        let mut cluster = valid(3, &[]);
        cluster.storage.retention.when_scaled = policy;
        let ring = first_ring(&cluster, 3);
        let mut lowered = observed(4, 4, Some(&ring));
        lowered.sets.get_mut("default").unwrap().replicas = 3;
        assert_eq!(waits_for(next_step(&cluster, &lowered)), "3 is about to go");
        let pod = lowered.pods.get_mut(&at(3)).unwrap();
        (pod.node, pod.trouble) = (None, Some("does not end; its machine may be dead".into()));
        assert_eq!(waits_for(next_step(&cluster, &lowered)), "3 is about to go, and does not end; its machine may be dead");
        lowered.pods.remove(&at(3));
        let done = match policy {
            RetentionPolicy::Retain => Step::Converged,
            RetentionPolicy::Delete => Step::DeleteVolumes(vec![at(3)]),
        };
        assert_eq!(next_step(&cluster, &lowered), done);
    }
}

#[test]
fn a_volume_is_deleted_only_under_the_policy_and_when_its_node_is_known_and_out_or_was_never_in() {
    let mut cluster = valid(3, &[]);
    let (mut left, _) = at_rest(&cluster, 3);
    let volume = |note| Volume { note, ..Volume::default() };
    left.volumes.insert(at(3), volume(Note::Node(id(3))));
    left.volumes.insert(at(4), volume(Note::None));
    left.volumes.insert(at(7), Volume { ours: true, ..volume(Note::None) });
    left.volumes.insert(at(5), volume(Note::OtherCluster));
    left.volumes.insert(at(6), Volume { deleting: true, ..volume(Note::Node(id(6))) });
    assert_eq!(next_step(&cluster, &left), Step::Converged);
    cluster.storage.retention.when_scaled = RetentionPolicy::Delete;
    assert_eq!(next_step(&cluster, &left), Step::DeleteVolumes(vec![at(3), at(7)]));
    left.pods.insert(at(3), Pod::default());
    left.pods.insert(at(7), Pod::default());
    assert_eq!(waits_for(next_step(&cluster, &left)), "3 is about to go; 7 is about to go", "its pod is still going");
}

/// A quota or a policy may forbid more pods for ever.
#[test]
fn more_pods_that_are_refused_hold_up_nothing_else() {
    let (small, large) = (valid(3, &[]), valid(5, &[]));
    let (mut refused, _) = at_rest_on_volumes(&small, 3);
    assert_eq!(next_step(&large, &refused), Step::RaisePods(zones(5)));
    refused.refused.more_pods.insert("default".into());
    let why = "has no pod: its StatefulSet is refused another";
    assert_eq!(waits_for(next_step(&large, &refused)), format!("3 {why}; 4 {why}"));
    let mut lost = refused.clone();
    lose_volume(&mut lost, 1, 7);
    assert_eq!(next_step(&large, &lost), Step::NoteIdentities([(at(1), id(7))].into()));
    lost.volumes.get_mut(&at(1)).unwrap().note = Note::Node(id(7));
    assert!(matches!(next_step(&large, &lost), Step::RecordRing { cause: Cause::Lost(nodes), .. } if nodes == [id(1)]));
    refused.sets.get_mut("default").unwrap().lowering = Some(2);
    assert_eq!(next_step(&large, &refused), Step::RaisePods(zones(5)), "a mark comes off before a node behind it joins");
}

/// Where a set is refused pods and one that is there has a newcomer, that one joins.
#[test]
fn a_newcomer_joins_without_those_whose_pods_are_refused_and_a_member_is_waited_for() {
    let (large, ring) = (valid(5, &[]), first_ring(&valid(3, &[]), 3));
    let mut refused = observed(4, 4, Some(&ring));
    refused.refused.more_pods.insert("default".into());
    let step = next_step(&large, &refused);
    assert!(matches!(&step, Step::RecordRing { ring, cause: Cause::Rebalance } if ring.members == members(0..4)), "{step:?}");
    let (mut gone, _) = at_rest(&large, 5);
    gone.sets.get_mut("default").unwrap().replicas = 4;
    gone.pods.remove(&at(4));
    gone.refused.more_pods.insert("default".into());
    assert_eq!(next_step(&large, &gone), Step::AwaitEpoch(vec![id(4)]));
}

#[test]
fn a_node_that_does_not_take_the_ring_holds_up_what_one_does_that_does_not_answer() {
    let cluster = valid(3, &[]);
    let (mut behind, ring) = at_rest_on_volumes(&cluster, 3);
    let newer = ring.successor(|_| ());
    behind.record = carried(&newer);
    behind.pods.get_mut(&at(2)).unwrap().node = Some(answer(2, Some(&newer)));
    behind.refused.rings.insert(at(0));
    assert_eq!(next_step(&cluster, &behind), Step::OfferRing(vec![at(1)]));
    behind.refused.rings.insert(at(1));
    assert_eq!(next_step(&cluster, &behind), Step::AwaitEpoch(vec![id(0), id(1)]));
    lose_volume(&mut behind, 1, 7);
    behind.volumes.get_mut(&at(1)).unwrap().note = Note::Node(id(7));
    assert!(matches!(next_step(&cluster, &behind), Step::RecordRing { cause: Cause::Lost(nodes), .. } if nodes == [id(1)]));

    let (small, large) = (valid(3, &[]), valid(5, &[]));
    let mut growing = observed(5, 5, Some(&ring));
    growing.pods.get_mut(&at(4)).unwrap().node = Some(answer(4, None));
    growing.refused.rings.insert(at(4));
    assert_eq!(waits_for(next_step(&large, &growing)), "4 does not take the ring", "and 3 joins with it");

    let before = first_ring(&small, 3).successor(|next| next.members.extend(members(3..5)));
    let out = rebalance::without(&before, &[id(3), id(4)]);
    let mut leaving = observed(5, 5, Some(&out));
    receipt(&mut leaving, 3, &out);
    leaving.pods.get_mut(&at(4)).unwrap().node = Some(answer(4, Some(&before)));
    assert_eq!(next_step(&small, &leaving), Step::OfferRing(vec![at(4)]));
    leaving.refused.rings.insert(at(4));
    assert_eq!(next_step(&small, &leaving), Step::AwaitReceipts(vec![id(4)]));
}

/// It would be listed by a ring, and be gone with its pod.
#[test]
fn a_newcomer_whose_claim_somebody_deleted_joins_on_the_next_one_and_holds_up_nobody() {
    let (large, ring) = (valid(5, &[]), first_ring(&valid(3, &[]), 3));
    let mut growing = observed(5, 3, Some(&ring));
    growing.volumes.get_mut(&at(4)).unwrap().deleting = true;
    assert_eq!(next_step(&large, &growing), Step::NoteIdentities([(at(3), id(3))].into()));
    growing.volumes.get_mut(&at(3)).unwrap().note = Note::Node(id(3));
    let Step::RecordRing { ring: moving, cause: Cause::Rebalance } = next_step(&large, &growing) else { panic!() };
    assert_eq!(moving.members, members(0..4));
    let mut joined = observed(5, 4, Some(&first_ring(&large, 4)));
    joined.volumes.get_mut(&at(4)).unwrap().deleting = true;
    let told = "4 its volume claim is being deleted; delete the pod, so that it gets another";
    assert_eq!(waits_for(next_step(&large, &joined)), told);
    let mut first = observed(5, 3, None);
    first.volumes.get_mut(&at(4)).unwrap().deleting = true;
    assert_eq!(waits_for(next_step(&large, &first)), told, "the first ring is made of all");
}

/// As where the manifest of a cluster that adopts is applied in another namespace.
#[test]
fn a_cluster_that_is_to_go_on_with_data_that_is_not_there_makes_no_pod() {
    let cluster = valid(3, &[]);
    let mut adopting = cluster.clone();
    adopting.data_uid = "1d9ce1ab-2a0e-4b0c-9f3e-5f2a7b6c8d9e".into();
    let volume = |ours, deleting| Volume { note: Note::None, ours, deleting, ..Volume::default() };
    let with = |volume: Volume| Observed { volumes: [(at(1), volume)].into(), ..Observed::default() };
    let blocked = Step::Blocked(Blocked::NothingToAdopt);
    for nothing in [Observed::default(), with(volume(false, false)), with(volume(true, true))] {
        assert_eq!(next_step(&adopting, &nothing), blocked);
        assert_eq!(next_step(&cluster, &nothing), Step::RaisePods(zones(3)));
    }
    assert_eq!(next_step(&adopting, &with(volume(true, false))), Step::RaisePods(zones(3)));
    let begun = Observed { sets: observed(1, 0, None).sets, ..Observed::default() };
    assert_eq!(next_step(&adopting, &begun), Step::RaisePods(zones(3)), "it has begun");
}

#[test]
fn a_volume_of_another_cluster_is_named_with_the_way_out() {
    let cluster = valid(3, &[]);
    let mut observed = observed(3, 3, None);
    silence(&mut observed, 1);
    let volume = Volume { note: Note::OtherCluster, made_for: "a-former-uid".into(), ..Volume::default() };
    observed.volumes.insert(at(1), volume);
    let reason = waits_for(next_step(&cluster, &observed));
    assert!(reason.contains("volume data-cart-1 was made for another cluster"), "{reason}");
    assert!(reason.contains("spec.adoptCluster: a-former-uid"), "{reason}");
}

/// Whoever creates a cluster again that goes on with a former one's data, and names other zones, would have a new ring beside that data.
#[test]
fn while_volumes_of_the_cluster_lie_in_other_zones_no_ring_is_made_and_no_pod() {
    let cluster = valid(3, &["a", "b", "c"]);
    let claims = vec!["data-cart-0".to_owned()];
    let mut adopted = Observed { misplaced: claims.clone(), ..Observed::default() };
    assert_eq!(next_step(&cluster, &adopted), Step::Blocked(Blocked::OtherZones(claims)));
    adopted.misplaced.clear();
    assert!(matches!(next_step(&cluster, &adopted), Step::RaisePods(_)));
    let cluster = valid(3, &[]);
    let (mut at_rest, _) = at_rest(&cluster, 3);
    at_rest.misplaced = vec!["data-cart-z-0".to_owned()];
    assert_eq!(next_step(&cluster, &at_rest), Step::Converged, "what the record says counts");
}

#[test]
fn a_ring_that_is_found_and_cannot_become_what_is_asked_for_is_not_recorded() {
    let cluster = valid(3, &[]);
    let ring = first_ring(&cluster, 3);
    let found = |cluster: &ValidCluster| {
        let found = Observed { newer: Some(ring.clone()), record: Record::Absent, ..observed(3, 3, Some(&ring)) };
        next_step(cluster, &found)
    };
    assert!(matches!(found(&cluster), Step::RecordRing { cause: Cause::Found, .. }));
    let mut other = cluster;
    (other.partition_bits, other.replication) = (5, 2);
    other.bucket_replication = BucketReplication::new([("logs".into(), 1)], 2).unwrap();
    let differences = [
        "spec.partitions is 32, and theirs 16",
        "spec.replication.factor is 2, and theirs 3",
        "spec.buckets[].factor is 1 of bucket \"logs\", and theirs none",
    ];
    assert_eq!(found(&other), Step::Blocked(Blocked::OtherRing(differences.map(str::to_owned).into())));
}

#[test]
fn without_a_record_pods_are_brought_back_for_every_node_that_a_volume_carries() {
    let cluster = valid(3, &[]);
    let mut found = observed(3, 3, None);
    let noted = |node| Volume { note: Note::Node(id(node)), ours: true, ..Volume::default() };
    found.volumes.insert(at(4), noted(4));
    assert_eq!(next_step(&cluster, &found), Step::RaisePods([("default".to_owned(), 5)].into()));
    found.volumes.insert(at(4), Volume { note: Note::OtherCluster, ..Volume::default() });
    assert!(!matches!(next_step(&cluster, &found), Step::RaisePods(_)), "a stranger's node is none of this ring");
}

/// The claim at `ordinal` was made again, and node `new` answers there; it has heard of the recorded ring.
fn lose_volume(observed: &mut Observed, ordinal: u32, new: u8) {
    let ring = observed.record.ring().cloned();
    observed.volumes.insert(at(ordinal), Volume { uid: "made again".into(), ..Volume::default() });
    observed.pods.insert(at(ordinal), Pod { ready: true, node: Some(answer(new, ring.as_ref())), ..Pod::default() });
}

/// The record of `ring` in which every member is carried by the first claim of its place.
fn carried(ring: &Ring) -> Record {
    let Record::Held { rings, hash, resource_version, mut volumes } = held(ring) else { panic!() };
    volumes.values_mut().for_each(|carrier| carrier.uid = format!("first of {}", carrier.place));
    Record::Held { rings, hash, resource_version, volumes }
}

/// A cluster at rest whose claims have UIDs.
fn at_rest_on_volumes(cluster: &ValidCluster, nodes: u8) -> (Observed, Ring) {
    let (mut observed, ring) = at_rest(cluster, nodes);
    observed.record = carried(&ring);
    observed.volumes.iter_mut().for_each(|(place, volume)| volume.uid = format!("first of {place}"));
    (observed, ring)
}

#[test]
fn the_record_names_the_volume_of_every_member() {
    let cluster = valid(3, &[]);
    let (mut observed, ring) = at_rest_on_volumes(&cluster, 3);
    assert_eq!(next_step(&cluster, &observed), Step::Converged);
    let Record::Held { volumes, .. } = carried(&ring) else { panic!() };
    observed.record = held(&ring);
    assert_eq!(next_step(&cluster, &observed), Step::RecordVolumes(volumes), "recorded by an older operator");
    silence(&mut observed, 1);
    observed.volumes.remove(&at(1));
    assert!(
        matches!(next_step(&cluster, &observed), Step::RecordVolumes(volumes) if volumes[&id(1)].uid.is_empty()),
        "what is not seen now stays as it was"
    );
}

#[test]
fn a_member_is_declared_lost_on_proof_that_its_volume_is_gone_and_then_replaced() {
    let cluster = valid(3, &[]);
    let (mut lost, ring) = at_rest_on_volumes(&cluster, 3);
    lose_volume(&mut lost, 1, 7);
    assert_eq!(next_step(&cluster, &lost), Step::NoteIdentities([(at(1), id(7))].into()));
    lost.volumes.get_mut(&at(1)).unwrap().note = Note::Node(id(7));
    let Step::RecordRing { ring: declared, cause } = next_step(&cluster, &lost) else {
        panic!("{:?}", next_step(&cluster, &lost))
    };
    assert_eq!(cause, Cause::Lost(vec![id(1)]));
    assert_eq!((declared.epoch, declared.lost.clone()), (Epoch(2), [(id(1), Epoch(2))].into()));
    assert_eq!(declared.placements, ring.placements, "it only says so");

    lost.record = carried(&declared);
    for ordinal in [0, 2] {
        lost.pods.get_mut(&at(ordinal)).unwrap().node = Some(answer(ordinal as u8, Some(&declared)));
    }
    lost.pods.get_mut(&at(1)).unwrap().node = Some(answer(7, Some(&declared)));
    let Step::RecordRing { ring: moving, cause: Cause::Rebalance } = next_step(&cluster, &lost) else { panic!() };
    assert!(moving.moving().all(|(_, placement, _)| placement.fills(&moving.lost)[0].1.len() == 2), "from both that are left");
    assert_eq!(moving.moving().count(), moving.partition_count());
}

#[test]
fn a_member_that_is_only_away_is_never_declared_lost() {
    let cluster = valid(3, &[]);
    type Change = fn(&mut Observed);
    let cases: [(&str, Change); 7] = [
        ("its pod does not answer", |observed| silence(observed, 1)),
        ("its pod is gone", |observed| drop(observed.pods.remove(&at(1)))),
        ("its claim is gone and not made again", |observed| {
            observed.pods.remove(&at(1));
            observed.volumes.remove(&at(1));
        }),
        ("its claim was made again and nobody answers there yet", |observed| {
            lose_volume(observed, 1, 7);
            silence(observed, 1);
        }),
        ("another node answers from its claim", |observed| {
            let ring = observed.record.ring().cloned();
            observed.pods.get_mut(&at(1)).unwrap().node = Some(answer(7, ring.as_ref()));
        }),
        ("its claim was made again and it answers from it", |observed| lose_volume(observed, 1, 1)),
        ("its note is on another claim", |observed| {
            lose_volume(observed, 1, 7);
            observed.volumes.insert(at(5), Volume { uid: "moved".into(), note: Note::Node(id(1)), ..Volume::default() });
        }),
    ];
    for (what, change) in cases {
        let (mut away, _) = at_rest_on_volumes(&cluster, 3);
        change(&mut away);
        for _ in 0..3 {
            match next_step(&cluster, &away) {
                Step::NoteIdentities(notes) => {
                    for (place, node) in notes {
                        away.volumes.get_mut(&place).unwrap().note = Note::Node(node);
                    }
                }
                Step::RecordVolumes(carriers) => {
                    let Record::Held { volumes, .. } = &mut away.record else { panic!() };
                    *volumes = carriers;
                }
                step => {
                    let waits = matches!(step, Step::AwaitEpoch(_) | Step::RaisePods(_) | Step::Converged);
                    assert!(waits, "{what}: {step:?}");
                    break;
                }
            }
        }
    }
}

#[test]
fn a_pod_is_brought_back_to_where_a_member_was_seen_last_since_only_there_its_loss_can_be_proven() {
    let (small, large) = (valid(3, &[]), valid(5, &[]));
    let (mut gone, ring) = at_rest_on_volumes(&large, 5);
    gone.sets.get_mut("default").unwrap().replicas = 3;
    for ordinal in [3, 4] {
        gone.pods.remove(&at(ordinal));
        gone.volumes.remove(&at(ordinal));
    }
    assert_eq!(next_step(&small, &gone), Step::RaisePods(zones(5)));
    let lossy = ring.successor(|next| {
        next.lost.insert(id(4), Epoch(2));
        next.members.get_mut(&id(4)).unwrap().weight = 0;
    });
    gone.record = carried(&lossy);
    assert_eq!(next_step(&small, &gone), Step::RaisePods(zones(4)), "one that is declared lost needs none");
}

#[test]
fn a_loss_beyond_the_promise_waits_until_somebody_accepts_it() {
    let mut cluster = valid(3, &[]);
    let (mut lost, _) = at_rest_on_volumes(&cluster, 3);
    for (ordinal, new) in [(1, 7), (2, 8)] {
        lose_volume(&mut lost, ordinal, new);
        lost.volumes.get_mut(&at(ordinal)).unwrap().note = Note::Node(id(new));
    }
    let nodes = vec![id(1), id(2)];
    let Step::Blocked(blocked) = next_step(&cluster, &lost) else { panic!() };
    let Blocked::DataAtRisk { nodes: named, at_risk, gone, buckets } = blocked else { panic!() };
    assert_eq!((named, at_risk > 0, gone, buckets), (nodes.clone(), true, 0, Vec::new()));
    cluster.accepted_losses.insert(id(1));
    assert!(matches!(next_step(&cluster, &lost), Step::Blocked(Blocked::DataAtRisk { .. })), "of one of them only");
    let mut other = cluster.clone();
    other.quorum.factor = 5;
    assert_eq!(next_step(&other, &lost), next_step(&cluster, &lost), "an N that no partition has is no reason to lose any");
    cluster.accepted_losses.insert(id(2));
    assert!(matches!(next_step(&cluster, &lost), Step::RecordRing { cause: Cause::Lost(named), .. } if named == nodes));
}

#[test]
fn a_loss_beyond_what_a_bucket_promises_waits_too_and_names_the_bucket() {
    let bucket = |name: &str, w: Option<i32>| serde_json::json!({ "name": name, "w": w });
    for (w, at_risk) in [(Some(1), 16), (None, 0), (Some(3), 0)] {
        let mut cluster = valid(3, &[]);
        cluster.buckets = [bucket("logs", w), bucket("carts", Some(2))].map(|json| serde_json::from_value(json).unwrap()).into();
        let (mut lost, _) = at_rest_on_volumes(&cluster, 3);
        lose_volume(&mut lost, 1, 7);
        lost.volumes.get_mut(&at(1)).unwrap().note = Note::Node(id(7));
        let (nodes, buckets) = (vec![id(1)], vec!["logs".to_owned()]);
        let blocked = Step::Blocked(Blocked::DataAtRisk { nodes: nodes.clone(), at_risk, gone: 0, buckets });
        let step = next_step(&cluster, &lost);
        assert_eq!(step == blocked, at_risk > 0, "w {w:?}: {step:?}");
        cluster.accepted_losses.insert(id(1));
        let step = next_step(&cluster, &lost);
        assert!(matches!(step, Step::RecordRing { cause: Cause::Lost(named), .. } if named == nodes));
    }
}

#[test]
fn a_pod_that_carries_a_node_that_was_declared_lost_is_named_with_the_way_out() {
    let cluster = valid(3, &[]);
    let (_, ring) = at_rest(&cluster, 3);
    let lossy = ring.successor(|next| {
        next.lost.insert(id(1), Epoch(2));
        next.members.get_mut(&id(1)).unwrap().weight = 0;
    });
    let fenced = observed(3, 3, Some(&lossy));
    let reason = waits_for(next_step(&cluster, &fenced));
    assert!(reason.contains("declared lost") && reason.contains("data-cart-1"), "{reason}");
}
