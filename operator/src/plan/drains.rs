//! How many pods a drain of a Kubernetes node finds missing that nobody misses.
//!
//! Kubernetes expects as many healthy pods as the sets are told to run, less what the PodDisruptionBudget allows. A newcomer that cannot
//! run would count there as a member that is down, and no Kubernetes node could be drained until it runs, though all members are well. So the
//! budget allows such pods on top of what the spec does.
//!
//! One too few holds up a drain; one too many would let two members go at a time. So a pod counts only where it is sure that no member is, and
//! only as long as Kubernetes expects it: a node that joins answers before any ring lists it, and is counted no more from then on.
//! While no operator runs the budget stays as it is.

use super::situation;
use crate::observed::{Observed, Set};
use crate::valid::Place;

/// The pods that Kubernetes expects and that no member needs: the sets are told to run them, they cannot run as things are, or cannot be
/// made, and no member was ever there.
pub fn left_out(observed: &Observed) -> u32 {
    // Before the first ring there are no members to tell newcomers from, and without a record nobody knows them.
    let Some(recorded) = observed.record.ring() else { return 0 };
    let rings = || [Some(recorded), observed.newer.as_ref()].into_iter().flatten();
    // The partitions of a lost member have a replica less until it is replaced.
    if rings().any(|ring| ring.members.keys().any(|node| ring.is_lost(*node))) {
        return 0;
    }
    let of_set = |(zone, set): (&String, &Set)| {
        // A set without a pod is one that Kubernetes does not find: it expects none of its pods.
        if !observed.pods.keys().any(|place| place.zone == *zone) {
            return 0;
        }
        // The pass after the mark lowers the set, and what it runs no longer is not expected any more.
        let expected = set.replicas.min(set.lowering.unwrap_or(set.replicas));
        let is_ready = |place: &Place| observed.pods.get(place).is_some_and(|pod| pod.ready);
        let unready = (0..expected).map(|ordinal| Place { zone: zone.clone(), ordinal }).filter(|place| !is_ready(place));
        let cannot_run = unready.filter(|place| situation::is_left_out(observed, place));
        cannot_run.filter(|place| situation::no_member_is_at(observed, rings(), place)).count() as u32
    };
    observed.sets.iter().map(of_set).sum()
}

#[cfg(test)]
mod tests {
    use dynamo_core::id::NodeId;
    use dynamo_core::rebalance;
    use dynamo_core::ring::Member;
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

    use super::*;
    use crate::build::pod_disruption_budget;
    use crate::observed::{Carrier, Node, Note, Pod, Record, Volume};
    use crate::valid::ValidCluster;
    use crate::valid::tests::valid;

    fn at(ordinal: u8) -> Place {
        Place { zone: "default".into(), ordinal: ordinal.into() }
    }

    /// Three members in the pods 0 to 2, and a set that is told to run a fourth, which no machine takes.
    fn look() -> (ValidCluster, Observed) {
        let cluster = valid(4, &[]);
        let node = |ordinal: u8| NodeId([ordinal + 1; 16]);
        let members = (0..3).map(|ordinal| (node(ordinal), Member { zone: "default".into(), weight: 1 })).collect();
        let ring = rebalance::first_ring(cluster.id, 4, 3, &members).unwrap();
        let mut observed = Observed::default();
        observed.sets.insert("default".into(), Set { replicas: 4, ..Set::default() });
        for ordinal in 0..3 {
            let answer = Some(Node::holding(node(ordinal), Some(&ring)));
            observed.pods.insert(at(ordinal), Pod { ready: true, node: answer, ..Pod::default() });
        }
        observed.pods.insert(at(3), Pod { trouble: Some("is not scheduled".into()), idle: true, ..Pod::default() });
        let carrier = |ordinal| (node(ordinal), Carrier { place: at(ordinal), uid: String::new() });
        observed.record = Record::Held {
            hash: ring.hash(),
            rings: Box::new(ring.into()),
            resource_version: String::new(),
            volumes: (0..3).map(carrier).collect(),
        };
        (cluster, observed)
    }

    /// What is counted of [`look`] with a change.
    fn after(change: impl FnOnce(&mut Observed)) -> u32 {
        let (_, mut observed) = look();
        change(&mut observed);
        left_out(&observed)
    }

    fn set(observed: &mut Observed) -> &mut Set {
        observed.sets.get_mut("default").unwrap()
    }

    #[test]
    fn a_newcomer_that_cannot_run_is_allowed_on_top_of_what_the_spec_allows() {
        let (mut cluster, mut observed) = look();
        let budget = |cluster: &ValidCluster, observed: &Observed| {
            pod_disruption_budget::build(cluster, left_out(observed)).spec.unwrap().max_unavailable.unwrap()
        };
        assert_eq!(budget(&cluster, &observed), IntOrString::Int(2));
        cluster.pod_disruption_budget.max_unavailable = 2;
        assert_eq!(budget(&cluster, &observed), IntOrString::Int(3));
        observed.pods.remove(&at(3));
        assert_eq!(budget(&cluster, &observed), IntOrString::Int(3), "a quota refuses it");
        observed.pods.insert(at(3), Pod { node: Some(Node::holding(NodeId([4; 16]), None)), ..Pod::default() });
        assert_eq!(budget(&cluster, &observed), IntOrString::Int(2), "it answers, and may join at any moment");
    }

    #[test]
    fn what_may_be_a_member_or_what_kubernetes_does_not_expect_is_not_counted() {
        assert_eq!(after(|_| ()), 1);
        assert_eq!(after(|observed| observed.record = Record::Absent), 0);
        assert_eq!(after(|observed| observed.record = Record::Unreadable("spoilt".into())), 0);
        assert_eq!(after(|observed| observed.pods.get_mut(&at(3)).unwrap().trouble = None), 0, "it may only need a moment");
        assert_eq!(after(|observed| observed.pods.get_mut(&at(3)).unwrap().ready = true), 0, "Kubernetes counts it as healthy");
        let member_down = |observed: &mut Observed| {
            let pod = observed.pods.get_mut(&at(1)).unwrap();
            (pod.ready, pod.node, pod.trouble) = (false, None, Some("is not scheduled".into()));
        };
        assert_eq!(after(member_down), 1, "a member that cannot run counts as one that is down");
        let noted = Volume { note: Note::Node(NodeId([1; 16])), ..Volume::default() };
        assert_eq!(after(|observed| drop(observed.volumes.insert(at(3), noted))), 0, "its volume says that a member is there");
        let newer = |observed: &mut Observed| {
            let mut ring = observed.record.ring().unwrap().clone();
            ring.members.insert(NodeId([4; 16]), Member { zone: "default".into(), weight: 1 });
            observed.newer = Some(ring);
        };
        assert_eq!(after(newer), 0, "where a member of the newest ring is, is not known");
        let lost = |observed: &mut Observed| {
            let mut ring = observed.record.ring().unwrap().clone();
            ring.lost.insert(NodeId([3; 16]), ring.epoch);
            observed.newer = Some(ring);
            observed.pods.remove(&at(2));
        };
        assert_eq!(after(lost), 0, "its partitions have a replica less, and no other may go");
        assert_eq!(after(|observed| set(observed).lowering = Some(3)), 0, "the set runs it no longer from the next pass on");
        assert_eq!(after(|observed| set(observed).replicas = 3), 0, "it is about to go");
        let unseen = |observed: &mut Observed| {
            observed.pods.remove(&at(3));
            set(observed).unseen = true;
        };
        assert_eq!(after(unseen), 0, "it may be made at any moment");
        let other_zone = |observed: &mut Observed| {
            observed.sets.insert("b".into(), Set { replicas: 2, ..Set::default() });
        };
        assert_eq!(after(other_zone), 1, "no pod leads Kubernetes to that set");
    }
}
