//! Which zones get a new pod template: one zone at a time, so that a partition loses one replica at a time.
//!
//! Within a zone the StatefulSet controller restarts one pod after the other, from the highest ordinal down, and waits for it to be
//! ready. A zone that is in the middle of a rollout is given the next template at once: that is how a bad image is repaired.
//!
//! No rollout begins that would leave a partition with too few replicas because others are down already ([`spares_a_pod`]).

use std::collections::{BTreeMap, BTreeSet};

use dynamo_core::id::NodeId;

use crate::observed::Observed;
use crate::valid::{Place, ValidCluster};

/// A zone, as a rollout sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ZoneState {
    /// Its template is not the one asked for.
    pub differs: bool,
    /// It is rolling out a template.
    pub rolling: bool,
    /// All its pods are ready.
    pub healthy: bool,
    /// One of its pods may be restarted.
    pub spares_a_pod: bool,
}

/// The zones whose template may be changed now.
pub fn zones_to_update(zones: &BTreeMap<String, ZoneState>) -> Vec<&str> {
    let differing = || zones.iter().filter(|(_, zone)| zone.differs);
    if zones.values().any(|zone| zone.rolling) {
        return differing().filter(|(_, zone)| zone.rolling).map(|(name, _)| name.as_str()).collect();
    }
    // A zone with a pod that is down would not finish; it comes last, so that it does not keep the others from the change.
    let spares = || differing().filter(|(_, zone)| zone.spares_a_pod);
    let next = spares().find(|(_, zone)| zone.healthy).or_else(|| spares().next());
    next.map(|(name, _)| name.as_str()).into_iter().collect()
}

/// Whether `zone` can do without one pod at a time: every partition keeps max(R, W) replicas that answer and are ready, or all but
/// one where that is more than N - 1.
///
/// Two cases are let through, lest a template that is the cure be held back: the pod that goes first is down already, and what comes
/// after it waits until it is ready; and somewhere a container does not start.
pub fn spares_a_pod(cluster: &ValidCluster, observed: &Observed, zone: &str) -> bool {
    let Some(ring) = observed.record.ring() else { return true };
    let first = observed.replicas(zone).checked_sub(1).map(|ordinal| Place { zone: zone.to_owned(), ordinal });
    let serves = |place: &Place| observed.pods.get(place).is_some_and(|pod| pod.ready && pod.node.is_some());
    // That it did not answer us does not make it down.
    let is_up = |place: &Place| observed.pods.get(place).is_some_and(|pod| pod.ready);
    if first.is_none_or(|first| !is_up(&first)) || observed.pods.values().any(|pod| pod.stuck) {
        return true;
    }
    let serving = observed.nodes().filter(|(place, node)| serves(place) && !ring.is_lost(node.id));
    let serving: Vec<(&Place, NodeId)> = serving.map(|(place, node)| (place, node.id)).collect();
    let live: BTreeSet<NodeId> = serving.iter().map(|(_, node)| *node).collect();
    let quorum = usize::try_from(cluster.quorum.r.max(cluster.quorum.w)).unwrap_or(1);
    let kept = |set: &[NodeId], without: NodeId| {
        let left = set.iter().filter(|node| **node != without && live.contains(node)).count();
        !set.contains(&without) || left >= quorum.min(set.len() - 1)
    };
    let restarted = || serving.iter().filter(|(place, _)| place.zone == zone).map(|(_, node)| *node);
    ring.partitions().all(|(_, placement)| placement.write_sets().into_iter().all(|set| restarted().all(|node| kept(set, node))))
}

#[cfg(test)]
mod tests {
    use dynamo_core::rebalance;
    use dynamo_core::ring::Member;

    use super::*;
    use crate::observed::{Node, Pod, Record, Set};
    use crate::valid::tests::valid;

    /// Four nodes in one zone, of which some do not serve.
    fn look(down: &[u32]) -> (ValidCluster, Observed) {
        let cluster = valid(4, &[]);
        let node = |ordinal: u32| NodeId([ordinal as u8 + 1; 16]);
        let members = (0..4).map(|ordinal| (node(ordinal), Member { zone: "default".into(), weight: 1 })).collect();
        let ring = rebalance::first_ring(cluster.id, 4, 3, &members).unwrap();
        let mut observed = Observed::default();
        observed.sets.insert("default".into(), Set { replicas: 4, ..Set::default() });
        for ordinal in 0..4 {
            let ready = !down.contains(&ordinal);
            let id = node(ordinal);
            let answer = ready.then(|| Node {
                id,
                epoch: ring.epoch,
                ring_hash: ring.hash(),
                received: BTreeSet::new(),
                objects: 0,
                hints: 0,
                bytes: 0,
                copies: 0,
                bytes_sent: 0,
            });
            let pod = Pod { ready, node: answer, ..Pod::default() };
            observed.pods.insert(Place { zone: "default".into(), ordinal }, pod);
        }
        let hash = ring.hash();
        observed.record = Record::Held { ring: Box::new(ring), hash, resource_version: String::new(), volumes: BTreeMap::new() };
        (cluster, observed)
    }

    #[test]
    fn no_rollout_begins_while_another_pod_is_down_unless_it_may_be_the_cure() {
        let spares = |down: &[u32]| {
            let (cluster, observed) = look(down);
            spares_a_pod(&cluster, &observed, "default")
        };
        assert!(spares(&[]));
        assert!(!spares(&[0]), "with the first restarted, some partition has one replica left");
        assert!(spares(&[3]), "the one that is down goes first, and the rest waits for it");
        assert!(spares(&[0, 3]));
        let (cluster, mut observed) = look(&[0]);
        observed.pods.get_mut(&Place { zone: "default".into(), ordinal: 0 }).unwrap().stuck = true;
        assert!(spares_a_pod(&cluster, &observed, "default"), "its container does not start: the new template may be the cure");
    }

    fn update(zones: &str) -> String {
        // "D": differs, "R": rolling, "X": a pod is down, "L": too few replicas would be left.
        let state = |letters: &str| ZoneState {
            differs: letters.contains('D'),
            rolling: letters.contains('R'),
            healthy: !letters.contains('X'),
            spares_a_pod: !letters.contains('L'),
        };
        let zones = ["a", "b", "c"].into_iter().zip(zones.split(' '));
        let zones = zones.map(|(name, letters)| (name.to_owned(), state(letters))).collect();
        zones_to_update(&zones).concat()
    }

    #[test]
    fn one_zone_is_rolled_at_a_time_and_a_broken_rollout_can_be_repaired() {
        let cases = [
            ("- - -", ""),
            ("D D D", "a"),
            ("R D D", ""),
            ("- R D", ""),
            ("- - D", "c"),
            ("DRX D D", "a"),
            ("DX D D", "b"),
            ("DX - -", "a"),
            ("RX D D", ""),
            ("DL D DL", "b"),
            ("DL DL DL", ""),
            ("DRL D D", "a"),
        ];
        for (zones, updated) in cases {
            assert_eq!(update(zones), updated, "{zones}");
        }
    }
}
