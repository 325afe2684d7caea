//! What is worth an Event: the steps that change something, and conditions that turn. Pure; the controller publishes.

use std::collections::BTreeMap;

use dynamo_core::id::NodeId;
use dynamo_core::node::receipt::Receipt;
use dynamo_core::ring::{Ring, Stage};

use crate::api::DynamoClusterStatus;
use crate::observed::Observed;
use crate::plan::{Cause, Step};
use crate::valid::{Place, ValidCluster};

/// An Event to be published.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    /// It should be looked at.
    pub warning: bool,
    /// For machines.
    pub reason: &'static str,
    /// What was done, so that one Event is not taken for the repetition of another.
    pub action: String,
    /// For people.
    pub note: String,
}

fn normal(reason: &'static str, action: String, note: String) -> Option<Told> {
    Some(Told { warning: false, reason, action, note })
}

/// The Event of a claim that was found by its name and got the labels of the others.
pub fn volume_labelled(claim: &str, pod: &str) -> Told {
    let note = format!("added this cluster's labels to claim {claim}, which {pod} uses");
    Told { warning: false, reason: "VolumeFound", action: format!("Label-{claim}"), note }
}

/// The Event of a step that was carried out.
pub fn of_step(cluster: &ValidCluster, observed: &Observed, step: &Step) -> Option<Told> {
    let pods = |places: &[Place]| places.iter().map(|place| cluster.pod_name(place)).collect::<Vec<_>>().join(", ");
    let sets = |zones: &BTreeMap<String, u32>| {
        let change = |(zone, replicas): (&String, &u32)| {
            format!("{} from {} to {replicas}", cluster.set_name(zone), observed.replicas(zone))
        };
        zones.iter().map(change).collect::<Vec<_>>().join(", ")
    };
    let total = |zones: &BTreeMap<String, u32>| zones.values().sum::<u32>();
    if marks(observed, step) {
        return None;
    }
    match step {
        Step::RaisePods(zones) => normal("ScaledUp", format!("RunPods{}", total(zones)), format!("pods of {}", sets(zones))),
        Step::LowerPods(zones) => {
            let receipts = zones.iter().flat_map(|(zone, pods)| observed.proven_volumes(zone, *pods));
            let receipts = receipts.filter_map(|(_, volume)| observed.receipt_of(volume)).map(Receipt::handed_over_in_all);
            let (partitions, objects) = receipts.fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
            let note = format!(
                "pods of {}: by their drain receipts the leaving nodes hold nothing; {objects} objects of {partitions} partitions were \
                 handed over and compared",
                sets(zones)
            );
            normal("ScaledDown", format!("RunPods{}", total(zones)), note)
        }
        Step::RecordRing { ring, cause } => of_ring(cluster, observed, ring, cause),
        Step::DeleteVolumes(places) => {
            let note = format!("volumes of {}, whose nodes have left", pods(places));
            normal("VolumesDeleted", "DeleteVolumes".to_owned(), note)
        }
        Step::NoteIdentities(_)
        | Step::RecordVolumes(_)
        | Step::OfferRing(_)
        | Step::AwaitPods(_)
        | Step::AwaitEpoch(_)
        | Step::AwaitData { .. }
        | Step::AwaitReceipts(_)
        | Step::RebalancingPaused(_)
        | Step::AwaitRollout(_)
        | Step::Blocked(_)
        | Step::Converged => None,
    }
}

/// The step only marked what the next pass is to lower or to delete.
fn marks(observed: &Observed, step: &Step) -> bool {
    let released = |place: &Place| observed.volumes.get(place).is_some_and(|volume| volume.released);
    match step {
        Step::LowerPods(zones) => !zones.iter().all(|(zone, pods)| observed.is_marked_to_lower(zone, *pods)),
        Step::DeleteVolumes(places) => !places.iter().all(released),
        _ => false,
    }
}

fn of_ring(cluster: &ValidCluster, observed: &Observed, ring: &Ring, cause: &Cause) -> Option<Told> {
    let places = observed.places();
    let name = |node: &NodeId| places.get(node).map_or_else(|| node.to_string(), |place| cluster.pod_name(place));
    let names = |nodes: Vec<&NodeId>| {
        let mut names: Vec<_> = nodes.into_iter().map(name).collect();
        names.sort();
        names.join(", ")
    };
    let weight = |ring: Option<&Ring>, node: &NodeId| ring.and_then(|ring| ring.members.get(node)).map(|member| member.weight);
    let turned = |node: &&NodeId| weight(Some(ring), node) == Some(0) && weight(observed.record.ring(), node) != Some(0);
    let leaving: Vec<_> = ring.members.keys().filter(turned).collect();
    let (reason, note) = match (cause, ring.moving_count()) {
        (Cause::First, _) => ("RingProposed", format!("the first ring, {} nodes", ring.members.len())),
        (Cause::Found, _) => ("RingFound", "nodes hold it and the record did not".to_owned()),
        (Cause::Left(nodes), _) => ("Drained", format!("{} handed everything over and left", names(nodes.iter().collect()))),
        (Cause::Lost(nodes), _) => {
            let note = format!("epoch {}: {}", ring.epoch, lost_note(cluster, observed, nodes));
            let action = format!("RecordEpoch{}", ring.epoch);
            return Some(Told { warning: true, reason: "MemberLost", action, note });
        }
        (Cause::Rebalance, moving) if !leaving.is_empty() => {
            ("Draining", format!("{moving} partitions move, off {}", names(leaving)))
        }
        (Cause::Rebalance, 0) => ("RebalanceDone", "all data is in its place".to_owned()),
        (Cause::Rebalance, moving) if ring.moving().all(|(_, _, moving)| moving.stage == Stage::WriteBothReadNew) => {
            ("RebalanceStep", format!("{moving} partitions have been received and are read from their new replicas"))
        }
        (Cause::Rebalance, moving) => ("RebalanceStep", format!("{moving} partitions move")),
    };
    normal(reason, format!("RecordEpoch{}", ring.epoch), format!("epoch {}: {note}", ring.epoch))
}

fn lost_note(cluster: &ValidCluster, observed: &Observed, nodes: &[NodeId]) -> String {
    let volumes = observed.record.volumes();
    let lost = nodes.iter().map(|node| match volumes.get(node) {
        Some(carrier) => {
            let (claim, pod) = (cluster.claim_name(&carrier.place), cluster.pod_name(&carrier.place));
            format!("the volume of {pod} is gone: claim {claim} is no longer the one that carried node {node}")
        }
        None => format!("node {node}"),
    });
    let lost: Vec<_> = lost.collect();
    format!("{}; it is declared lost and replaced from the other replicas", lost.join(", "))
}

/// The Events of conditions that have turned since the last status.
pub fn of_conditions(previous: Option<&DynamoClusterStatus>, current: &DynamoClusterStatus) -> Vec<Told> {
    let was = |type_: &str| {
        let conditions = previous.map_or(&[][..], |previous| &previous.conditions);
        conditions.iter().find(|condition| condition.type_ == type_).is_some_and(|condition| condition.status == "True")
    };
    let turned = current.conditions.iter().filter(|condition| condition.status == "True" && !was(&condition.type_));
    let told = turned.filter_map(|condition| {
        let (warning, reason) = match condition.type_.as_str() {
            "Ready" => (false, "Ready"),
            "Degraded" => (true, "Degraded"),
            "ScaleInBlocked" => (true, "ScaleInBlocked"),
            _ => return None,
        };
        let note = format!("{}: {}", condition.reason, condition.message);
        Some(Told { warning, reason, action: condition.reason.clone(), note })
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use dynamo_core::rebalance;
    use dynamo_core::ring::Member;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::observed::{Note, Record, Set, Volume};
    use crate::valid::tests::valid;

    #[test]
    fn a_ring_that_starts_a_drain_names_the_pods_that_leave() {
        let cluster = valid(3, &[]);
        let mut observed = Observed::default();
        let node = |id: u8| NodeId([id; 16]);
        for id in 0..4 {
            let place = Place { zone: "default".into(), ordinal: id.into() };
            observed.volumes.insert(place, Volume { note: Note::Node(node(id)), ..Volume::default() });
        }
        let members = (0..4).map(|id| (node(id), Member { zone: "default".into(), weight: 1 })).collect();
        let ring = rebalance::first_ring(cluster.id, 4, 3, &members).unwrap();
        let draining = ring.successor(|next| next.members.get_mut(&node(3)).unwrap().weight = 0);
        observed.record = Record::Held {
            hash: ring.hash(),
            rings: Box::new(ring.clone().into()),
            resource_version: String::new(),
            volumes: BTreeMap::new(),
        };
        let told =
            |ring: &Ring, cause| of_step(&cluster, &observed, &Step::RecordRing { ring: Box::new(ring.clone()), cause }).unwrap();
        let draining = told(&draining, Cause::Rebalance);
        assert_eq!((draining.reason, draining.note.as_str()), ("Draining", "epoch 2: 0 partitions move, off cart-3"));
        assert_eq!(told(&ring, Cause::First).note, "epoch 1: the first ring, 4 nodes");
        assert_eq!(told(&ring, Cause::Left(vec![node(3)])).note, "epoch 1: cart-3 handed everything over and left");
        assert_eq!(of_step(&cluster, &observed, &Step::Converged), None, "waiting is no event");
    }

    #[test]
    fn growth_and_shrinking_and_what_moves_between_them_have_names_that_go_together() {
        let cluster = valid(3, &[]);
        let node = |id: u8| NodeId([id; 16]);
        let member = |id: u8| (node(id), Member { zone: "default".into(), weight: 1 });
        let three: BTreeMap<_, _> = (0..3).map(member).collect();
        let four: BTreeMap<_, _> = (0..4).map(member).collect();
        let settled = rebalance::first_ring(cluster.id, 4, 3, &three).unwrap();
        let views = |ring: &Ring| {
            let view = rebalance::View {
                epoch: ring.epoch,
                ring_hash: ring.hash(),
                received: ring.moving().map(|(id, ..)| id).collect(),
            };
            ring.members.keys().map(|node| (*node, view.clone())).collect::<BTreeMap<_, _>>()
        };
        let next = |ring: &Ring| match rebalance::next(ring, &four, &views(ring)).unwrap() {
            rebalance::Next::Propose(ring) => ring,
            other => panic!("{other:?}"),
        };
        let begun = next(&settled);
        let read_from_new = next(&begun);
        let done = next(&read_from_new);
        let mut observed = Observed::default();
        observed.sets.insert("default".to_owned(), Set { replicas: 4, lowering: Some(3), ..Set::default() });
        let rebalance = |ring: Ring| Step::RecordRing { ring: Box::new(ring), cause: Cause::Rebalance };
        let zones = |pods| BTreeMap::from([("default".to_owned(), pods)]);
        let cases = [
            (Step::RaisePods(zones(5)), "ScaledUp", "pods of cart from 4 to 5"),
            (Step::LowerPods(zones(3)), "ScaledDown", "pods of cart from 4 to 3: by their drain receipts"),
            (rebalance(begun), "RebalanceStep", "partitions move"),
            (rebalance(read_from_new), "RebalanceStep", "are read from their new replicas"),
            (rebalance(done), "RebalanceDone", "epoch 4: all data is in its place"),
        ];
        for (step, reason, words) in cases {
            let told = of_step(&cluster, &observed, &step).unwrap_or_else(|| panic!("no Event of {step:?}"));
            assert!(told.reason == reason && told.note.contains(words), "{told:?}");
        }
    }

    #[test]
    fn a_claim_that_got_its_labels_is_told_by_its_name() {
        let told = volume_labelled("data-cart-2", "cart-2");
        assert_eq!(
            (told.reason, told.note.as_str()),
            ("VolumeFound", "added this cluster's labels to claim data-cart-2, which cart-2 uses")
        );
    }

    #[test]
    fn a_condition_is_told_when_it_turns_and_not_again() {
        let status = |degraded: &str| DynamoClusterStatus {
            conditions: vec![Condition {
                type_: "Degraded".into(),
                status: degraded.into(),
                reason: "MembersUnreachable".into(),
                message: "no answer".into(),
                last_transition_time: Time(Timestamp::UNIX_EPOCH),
                observed_generation: None,
            }],
            ..DynamoClusterStatus::default()
        };
        assert_eq!(of_conditions(None, &status("True")).len(), 1);
        assert_eq!(of_conditions(Some(&status("False")), &status("True"))[0].note, "MembersUnreachable: no answer");
        assert_eq!(of_conditions(Some(&status("True")), &status("True")), []);
        assert_eq!(of_conditions(Some(&status("True")), &status("False")), []);
    }
}
