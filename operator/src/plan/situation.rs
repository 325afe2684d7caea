//! What the planner's conditions ask about: the spec and the look together, with what follows from both.

use std::collections::{BTreeMap, BTreeSet};

use dynamo_core::id::NodeId;
use dynamo_core::rebalance::Members;
use dynamo_core::ring::{Member, Ring};

use super::Waiting;
use crate::observed::{Carrier, Node, Note, Observed, Record};
use crate::valid::{Place, ValidCluster};

/// All nodes are taken for equally large.
const WEIGHT: u32 = 1;

pub(super) struct Situation<'a> {
    pub cluster: &'a ValidCluster,
    pub observed: &'a Observed,
    /// The recorded ring.
    pub ring: Option<&'a Ring>,
    /// A node answered at every place that is to have one, and takes the ring, but for those that [nobody waits for](is_left_out).
    pub complete: bool,
    places: BTreeMap<NodeId, Place>,
}

/// The pod at `place` cannot run as things are, or cannot even be made, and no member was ever there: the others do not wait for it, and
/// its node joins when it is there.
pub(super) fn is_left_out(observed: &Observed, place: &Place) -> bool {
    let cannot_run = match observed.pods.get(place) {
        Some(pod) => pod.node.is_none() && pod.trouble.is_some(),
        None => observed.lacks_pod(place),
    };
    cannot_run && !observed.has_member(place)
}

/// No member of these rings can be at `place`: of each in its zone it is known where it is, and that is elsewhere.
pub(super) fn no_member_is_at<'a>(observed: &Observed, rings: impl IntoIterator<Item = &'a Ring>, place: &Place) -> bool {
    let (places, carriers) = (observed.places(), observed.record.volumes());
    let is_elsewhere = |node: &NodeId| {
        let mut known = places.get(node).into_iter().chain(carriers.get(node).map(|carrier| &carrier.place)).peekable();
        known.peek().is_some() && known.all(|at| at != place)
    };
    let members = rings.into_iter().flat_map(|ring| ring.members.iter().filter(|(node, _)| !ring.is_lost(**node)));
    members.filter(|(_, member)| member.zone == place.zone).all(|(node, _)| is_elsewhere(node))
}

impl<'a> Situation<'a> {
    pub fn of(cluster: &'a ValidCluster, observed: &'a Observed) -> Self {
        let ring = observed.record.ring();
        let left_out = |place: &Place| ring.is_some() && is_left_out(observed, place);
        // One that does not take the ring is as good as one that does not answer.
        let answers = |place: &Place| observed.node(place).is_some() && !observed.refused.rings.contains(place);
        let complete = cluster.places().all(|place| answers(&place) || left_out(&place));
        Self { cluster, observed, ring, complete, places: observed.places() }
    }

    /// The recorded ring lists `node`.
    pub fn is_member(&self, node: NodeId) -> bool {
        self.ring.is_some_and(|ring| ring.members.contains_key(&node))
    }

    /// `node` is about to join, and the claim that it runs on is about to go: it waits for another one, and nobody waits for it. The first ring
    /// is made of all.
    pub fn waits_for_a_claim(&self, place: &Place, node: NodeId) -> bool {
        let going = self.observed.volumes.get(place).is_some_and(|volume| volume.deleting);
        going && self.ring.is_some() && !self.is_member(node)
    }

    /// The recorded ring says that `node` is lost.
    pub fn is_lost(&self, node: NodeId) -> bool {
        self.ring.is_some_and(|ring| ring.is_lost(node))
    }

    /// Members that were carried by a claim which is no more, and in whose places another node answers from another claim. Whatever
    /// comes back there is not them.
    pub fn members_without_volume(&self) -> Vec<NodeId> {
        let Some(ring) = self.ring else { return Vec::new() };
        let volumes = &self.observed.volumes;
        let proven = |(node, carrier): &(NodeId, Carrier)| {
            let replaced = volumes.get(&carrier.place).is_some_and(|volume| !volume.uid.is_empty() && volume.uid != carrier.uid);
            let elsewhere = volumes.values().any(|volume| volume.note == Note::Node(*node) || volume.uid == carrier.uid);
            let answers = self.observed.nodes().any(|(_, answer)| answer.id == *node);
            replaced && !elsewhere && !answers && self.observed.node(&carrier.place).is_some()
        };
        let carried = self.observed.record.volumes().into_iter();
        let members = carried.filter(|(node, _)| ring.members.contains_key(node) && !ring.is_lost(*node));
        members.filter(proven).map(|(node, _)| node).collect()
    }

    /// Places that are to have a node and have one that was declared lost, which does not serve.
    pub fn places_of_lost_nodes(&self) -> Vec<Waiting> {
        let lost = self.observed.nodes().filter(|(place, node)| self.cluster.keeps(place) && self.is_lost(node.id));
        let reason = |place: &Place| {
            let claim = self.cluster.claim_name(place);
            format!("carries a node that was declared lost and is fenced; delete claim {claim} and the pod, and a new node comes")
        };
        lost.map(|(place, _)| Waiting { place: place.clone(), reason: reason(place) }).collect()
    }

    /// `node` has no ring, or the one that follows its own is recorded: it would take that.
    pub fn takes_the_ring(&self, node: &Node) -> bool {
        self.observed.record.rings().is_some_and(|rings| rings.after(node.epoch).is_some())
    }

    /// How many pods `zone` needs for the members that are known to be in it, or were when they were seen last: where a volume is gone
    /// with its pod, only a pod that starts there again can prove it.
    pub fn replicas_needed(&self, zone: &str) -> u32 {
        let newer = self.observed.newer.as_ref();
        // Without a record, whoever is noted on a volume may hold the ring.
        let unrecorded = self.observed.record == Record::Absent;
        let member =
            |node: &NodeId| unrecorded || self.is_member(*node) || newer.is_some_and(|ring| ring.members.contains_key(node));
        let carriers = self.observed.record.volumes();
        let unseen = carriers.iter().filter(|(node, _)| !self.places.contains_key(node) && !self.is_lost(**node));
        let known = self.places.iter().chain(unseen.map(|(node, carrier)| (node, &carrier.place)));
        let members = known.filter(|(node, place)| place.zone == zone && member(node));
        members.map(|(_, place)| place.ordinal + 1).max().unwrap_or(0)
    }

    /// Who is to be in the ring. New nodes come together, once all have answered that can run, so that growing by three is one rebalance. A
    /// member stays one while others come and go, so a pod that runs and fails by turns changes no plan before its node has joined. No
    /// rebalance starts while a member does not answer, so one that is on no volume is not planned away either.
    pub fn desired(&self) -> Members {
        let mut desired = Members::new();
        for (node, place) in &self.places {
            let joins = self.complete && self.observed.node(place).is_some() && !self.waits_for_a_claim(place, *node);
            if self.cluster.keeps(place) && (joins || self.is_member(*node)) {
                desired.insert(*node, Member { zone: place.zone.clone(), weight: WEIGHT });
            }
        }
        desired
    }

    /// [`Situation::desired`], and the members that are not leaving yet.
    pub fn desired_and_leaving(&self) -> Members {
        let mut desired = self.desired();
        let members = self.ring.into_iter().flat_map(|ring| ring.survivors().map(|node| (node, ring.members[&node].clone())));
        for (node, member) in members.filter(|(_, member)| member.weight > 0) {
            desired.entry(node).or_insert(member);
        }
        desired
    }

    /// Where `node` is, if that is known.
    pub fn place_of(&self, node: NodeId) -> Option<&Place> {
        self.places.get(&node)
    }

    /// Whether the pod at `place` may be removed, else the node that has not proven that it is drained. The caller has made sure
    /// that every member of the ring holds it.
    pub fn may_go(&self, place: &Place) -> Result<(), NodeId> {
        let answered = self.observed.node(place).map(|node| node.id);
        let node = match (answered, self.observed.note(place)) {
            (Some(node), _) | (None, Note::Node(node)) => node,
            // Never noted: never in a ring. Or it carries another cluster's node, which does not start here.
            (None, Note::None | Note::OtherCluster) => return Ok(()),
        };
        // It was drained when its pod went, and has not been seen since: what runs outside the ring takes nothing new.
        let drained = answered.is_none() && self.observed.volumes.get(place).is_some_and(|volume| volume.drained);
        // One that was declared lost gives no receipt: what it holds counts for nothing.
        let proven = self.is_lost(node) || self.observed.has_receipt(node) || drained;
        if !self.is_member(node) && proven { Ok(()) } else { Err(node) }
    }

    /// The places that are to have a node and have none that answers.
    pub fn unanswered_places(&self) -> Vec<Waiting> {
        let silent = self.cluster.places().filter(|place| self.observed.node(place).is_none());
        silent.map(|place| Waiting { reason: self.why_silent(&place), place }).collect()
    }

    /// The places where, without a record, a ring may be that nobody told of: none answers there, and one is to, a pod runs, or the volume
    /// says that a node was about to join. That a pod is missing does not mean that its node is gone.
    pub fn places_that_may_hold_a_ring(&self) -> Vec<Waiting> {
        let (pods, volumes) = (self.observed.pods.keys().cloned(), self.observed.volumes.keys().cloned());
        let noted = volumes.filter(|place| matches!(self.observed.note(place), Note::Node(_)));
        let places: BTreeSet<Place> = self.cluster.places().chain(pods).chain(noted).collect();
        let silent = places.into_iter().filter(|place| self.observed.node(place).is_none());
        silent.map(|place| Waiting { reason: self.why_silent(&place), place }).collect()
    }

    fn why_silent(&self, place: &Place) -> String {
        if self.observed.note(place) == Note::OtherCluster {
            let claim = self.cluster.claim_name(place);
            let former = self.observed.volumes.get(place).map_or("", |volume| &volume.made_for);
            return format!(
                "does not start: volume {claim} was made for another cluster; to go on with its data, create this cluster again with \
                 spec.adoptCluster: {former}; else delete that claim and the pod, or rename this cluster"
            );
        }
        match self.observed.pods.get(place) {
            Some(pod) => pod.why_silent().to_owned(),
            None if self.observed.is_refused_a_pod(place) => "has no pod: its StatefulSet is refused another".to_owned(),
            None => self.observed.trouble(place).unwrap_or("has no pod yet").to_owned(),
        }
    }
}
