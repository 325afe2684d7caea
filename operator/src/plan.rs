//! What to do next: [`next_step`], a pure function of what is asked for and what is there.
//!
//! The conditions below are looked at in this order, and the first one that is not met gives the step. Nothing is remembered
//! between two looks: an operator that dies between any two calls looks again and goes on.
//!
//! ```text
//! names_are_free              else  Blocked
//! volumes_are_in_their_zones  else  Blocked            while there is no record: the ring may be on them
//! what_is_adopted_is_there    else  Blocked            before the first pod
//! pods_exist                  else  RaisePods          pods first, data follows
//! identities_are_distinct     else  Blocked            no two pods carry one node
//! record_is_newest            else  RecordRing(Found), AwaitPods, Blocked
//! joining_nodes_are_noted     else  NoteIdentities     on their volumes; AwaitPods
//! a_ring_exists               else  RecordRing(First), once all pods answered; AwaitPods, Blocked
//! nodes_hold_the_ring         else  OfferRing          those that can take it from us
//! the_record_is_of_these_nodes  else  Blocked          all answer, and none holds or takes what is recorded: disks of before
//! volumes_are_recorded        else  RecordVolumes      the record names each member's
//! lost_members_are_declared   else  RecordRing(Lost), AwaitEpoch, Blocked
//! the_ring_is_as_asked        else  RecordRing(Rebalance), AwaitEpoch, AwaitData, AwaitReceipts, RecordRing(Left): core's
//!                                   rebalance, one stage at a time; a spec that changes meanwhile is followed at once.
//!                                   RebalancingPaused if it says so, Blocked if there is no room for it
//! no_pod_is_left_over         else  LowerPods          data first, pods last; OfferRing, AwaitReceipts, AwaitPods
//! pods_are_ready              else  AwaitPods          those that are to go have gone
//! the_template_is_rolled_out  else  AwaitRollout
//! no_volume_is_left_over      else  DeleteVolumes      only under `whenScaled: Delete`
//!                                   Converged
//! ```
//!
//! What may never happen, and what prevents it:
//!
//! - *A pod goes while its node holds data.* A StatefulSet shrinks only in `no_pod_is_left_over`, behind `the_ring_is_as_asked`: every
//!   member of the ring holds the recorded ring and said so just now, that ring does not list the leaving node, and the leaving node gave
//!   a drain receipt under that ring. A pod without an answer blocks (unknown is not gone), with two exceptions. Its volume was never
//!   noted: `joining_nodes_are_noted` notes every node before a ring lists it, so such a pod's node was never in a ring. Or its volume is
//!   marked as drained: LowerPods marks it when the pod of a node with a receipt goes, and NoteIdentities takes the mark off as soon as the
//!   node is seen again.
//! - *A member's pod is missing.* `pods_exist` asks for pods up to the highest place that carries a member, whoever lowered the set.
//! - *A ring that nobody can take.* What follows on a ring that a member may lack is recorded with that ring, and each node is offered the
//!   one that follows its own: the disk of the only node that held it may go.
//! - *Two rings of one epoch.* A ring is recorded under the record's resourceVersion before any node sees it. Without a record, one that
//!   is found or made waits for every place where another may be, whether or not there is a pod.
//! - *A member is given up that was only away.* It is declared lost on proof alone: the record names the UID of the claim that carried
//!   it, that claim is no more, and in its place another node answers from a claim of another UID. A pod or a node of Kubernetes that
//!   is gone proves nothing, nor does a missing claim. Where more is lost than the promise covers, somebody has to accept it.
//! - *A volume is deleted too early.* `no_volume_is_left_over` comes last; its pod is gone, and its node is known by name and in no ring,
//!   or was never noted on it, and so never in a ring, though it was made for this very cluster.
//! - *Another operator's ring is news to the one that removes.* A set is marked before it is lowered, and a claim before it is deleted
//!   or called drained, each in a pass of its own; RaisePods and NoteIdentities take a mark off before the node behind it joins. So a
//!   removal that rests on a look from before the joining meets another version of the object, and is refused.
//!
//! Settings, images and sizes are no steps: they are applied before the step in each pass, so that nothing here blocks them.
//!
//! Nor does a refusal: where more pods are refused, or a ring by a node, what follows is as where those pods cannot run and that node does
//! not answer, and is done in the same pass ([`crate::apply::steps`]).

pub mod configuration;
pub mod drains;
pub mod nudge;
pub mod quorums;
mod risk;
pub mod rollout;
pub mod room;
mod situation;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use dynamo_core::id::{Epoch, NodeId};
use dynamo_core::rebalance::batches::{self, Left};
use dynamo_core::rebalance::chain::Full;
use dynamo_core::rebalance::loss::{self, LossError};
use dynamo_core::rebalance::{self, Members, Next};
use dynamo_core::ring::Ring;
use dynamo_core::ring::bucket_replication::BucketReplication;

use crate::api::RetentionPolicy;
use crate::observed::{Carrier, Node, Note, Observed, Pod, Record, Volume};
use crate::valid::{Place, ValidCluster};
use situation::Situation;

/// What the operator does next. One at a time; after it, it looks again.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// Tell the StatefulSets of these zones to run this many pods, more than now; create those that are missing.
    RaisePods(BTreeMap<String, u32>),
    /// Wait for pods.
    AwaitPods(Vec<Waiting>),
    /// Write on these volumes which node they carry.
    NoteIdentities(BTreeMap<Place, NodeId>),
    /// Record this ring. Nodes see it in a later step.
    RecordRing {
        /// The ring.
        ring: Box<Ring>,
        /// What it is for.
        cause: Cause,
    },
    /// Record which volumes carry the members, beside the ring that is recorded.
    RecordVolumes(BTreeMap<NodeId, Carrier>),
    /// Offer the recorded ring to the nodes at these places.
    OfferRing(Vec<Place>),
    /// Wait for these members to answer with the recorded ring.
    AwaitEpoch(Vec<NodeId>),
    /// Wait for data.
    AwaitData {
        /// Replicas that have everything.
        received: usize,
        /// Replicas that are being filled.
        moving: usize,
        /// Nodes that are being filled.
        waiting_for: Vec<NodeId>,
    },
    /// Wait for the drain receipts of these nodes.
    AwaitReceipts(Vec<NodeId>),
    /// Nothing moves, since the spec says so; this would come next.
    RebalancingPaused(String),
    /// Tell the StatefulSets of these zones to run this many pods, fewer than now.
    LowerPods(BTreeMap<String, u32>),
    /// Wait until the new pod template runs everywhere.
    AwaitRollout(Vec<String>),
    /// Delete the claims at these places.
    DeleteVolumes(Vec<Place>),
    /// Nothing can be done before somebody acts.
    Blocked(Blocked),
    /// Everything is as asked.
    Converged,
}

impl Step {
    /// Its kind, for logs and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::RaisePods(_) => "RaisePods",
            Self::AwaitPods(_) => "AwaitPods",
            Self::NoteIdentities(_) => "NoteIdentities",
            Self::RecordRing { .. } => "RecordRing",
            Self::RecordVolumes(_) => "RecordVolumes",
            Self::OfferRing(_) => "OfferRing",
            Self::AwaitEpoch(_) => "AwaitEpoch",
            Self::AwaitData { .. } => "AwaitData",
            Self::AwaitReceipts(_) => "AwaitReceipts",
            Self::RebalancingPaused(_) => "RebalancingPaused",
            Self::LowerPods(_) => "LowerPods",
            Self::AwaitRollout(_) => "AwaitRollout",
            Self::DeleteVolumes(_) => "DeleteVolumes",
            Self::Blocked(_) => "Blocked",
            Self::Converged => "Converged",
        }
    }

    /// It changes something; the others wait.
    pub fn acts(&self) -> bool {
        match self {
            Self::RaisePods(_)
            | Self::NoteIdentities(_)
            | Self::RecordRing { .. }
            | Self::RecordVolumes(_)
            | Self::OfferRing(_)
            | Self::LowerPods(_)
            | Self::DeleteVolumes(_) => true,
            Self::AwaitPods(_)
            | Self::AwaitEpoch(_)
            | Self::AwaitData { .. }
            | Self::AwaitReceipts(_)
            | Self::RebalancingPaused(_)
            | Self::AwaitRollout(_)
            | Self::Blocked(_)
            | Self::Converged => false,
        }
    }
}

/// What a ring is recorded for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cause {
    /// The cluster's first.
    First,
    /// Nodes hold it and the record does not: another writer made it, or the record was lost.
    Found,
    /// A stage on the way to the ring that the spec asks for.
    Rebalance,
    /// These nodes have handed everything over and are out.
    Left(Vec<NodeId>),
    /// The volumes of these members are gone.
    Lost(Vec<NodeId>),
}

/// A pod that is waited for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// Where.
    pub place: Place,
    /// Why, for people.
    pub reason: String,
}

/// Why nothing can be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Blocked {
    /// These objects belong to somebody else.
    NamesTaken(Vec<String>),
    /// One node answers at several places: a volume was copied.
    SharedIdentity {
        /// The node.
        node: NodeId,
        /// Where it answers.
        places: Vec<Place>,
    },
    /// These claims carry nodes of this cluster, and are at places that it has not.
    OtherZones(Vec<String>),
    /// No claim is there of the cluster that this one is to go on with.
    NothingToAdopt,
    /// The nodes hold a ring that this cluster cannot go on with, for what is fixed for a cluster's life: how each of these differs.
    OtherRing(Vec<String>),
    /// The record cannot be read.
    RecordUnreadable(String),
    /// The nodes at these places hold another ring than the record, at its epoch or beyond.
    RingConflict(Vec<Place>),
    /// All nodes answer, and what they hold is older than all that is recorded: volumes of before were put in the place of theirs.
    RecordAhead(BTreeMap<Place, Epoch>),
    /// There is no assignment.
    NoPlan(String),
    /// The nodes that are to stay have no room for the data of those that are to leave.
    InsufficientCapacity {
        /// How many are to stay.
        nodes: usize,
        /// The bytes that each of them would hold.
        each: u64,
        /// The bytes of the smallest of their volumes.
        volume: u64,
    },
    /// So many volumes are gone that acknowledged writes may be; somebody has to accept that.
    DataAtRisk {
        /// Whose volumes.
        nodes: Vec<NodeId>,
        /// Partitions of which W or more copies are gone.
        at_risk: usize,
        /// Those of which all are.
        gone: usize,
        /// The buckets whose W it is; none if it is the W of all that have none of their own.
        buckets: Vec<String>,
    },
}

/// The first condition that is not met, as the step that meets it.
pub fn next_step(cluster: &ValidCluster, observed: &Observed) -> Step {
    let situation = Situation::of(cluster, observed);
    let conditions: [fn(&Situation<'_>) -> Option<Step>; 17] = [
        names_are_free,
        volumes_are_in_their_zones,
        what_is_adopted_is_there,
        pods_exist,
        identities_are_distinct,
        record_is_newest,
        joining_nodes_are_noted,
        a_ring_exists,
        nodes_hold_the_ring,
        the_record_is_of_these_nodes,
        volumes_are_recorded,
        lost_members_are_declared,
        the_ring_is_as_asked,
        no_pod_is_left_over,
        pods_are_ready,
        the_template_is_rolled_out,
        no_volume_is_left_over,
    ];
    conditions.iter().find_map(|condition| condition(&situation)).unwrap_or(Step::Converged)
}

/// The nodes that are asked for a drain receipt: they are to leave, and hold nothing by the recorded ring.
pub fn receipts_wanted(cluster: &ValidCluster, observed: &Observed) -> Vec<Place> {
    let Some(ring) = observed.record.ring() else { return Vec::new() };
    let drained = |(place, node): (&Place, &Node)| {
        let leaves = !cluster.keeps(place) && node.epoch == ring.epoch && ring.partitions_of(node.id) == 0;
        leaves.then(|| place.clone())
    };
    observed.nodes().filter_map(drained).collect()
}

fn names_are_free(situation: &Situation<'_>) -> Option<Step> {
    let taken = &situation.observed.taken;
    (!taken.is_empty()).then(|| Step::Blocked(Blocked::NamesTaken(taken.clone())))
}

/// Without a record the ring is where the nodes are, and so is the data: a ring that is made beside them would begin anew without both.
fn volumes_are_in_their_zones(situation: &Situation<'_>) -> Option<Step> {
    let observed = situation.observed;
    let hidden = observed.record == Record::Absent && !observed.misplaced.is_empty();
    hidden.then(|| Step::Blocked(Blocked::OtherZones(observed.misplaced.clone())))
}

/// Whoever gives another UID than they meant, or applies the same manifest in another namespace, would get an empty cluster, under a name that
/// another one's nodes go by.
fn what_is_adopted_is_there(situation: &Situation<'_>) -> Option<Step> {
    let (cluster, observed) = (situation.cluster, situation.observed);
    let is_new = observed.record == Record::Absent && observed.sets.is_empty() && observed.misplaced.is_empty();
    let is_there = || observed.volumes.values().any(|volume| volume.ours && !volume.deleting);
    (is_new && cluster.adopts() && !is_there()).then_some(Step::Blocked(Blocked::NothingToAdopt))
}

fn pods_exist(situation: &Situation<'_>) -> Option<Step> {
    let too_few = |zone: &crate::valid::Zone| {
        let wanted = zone.replicas.max(situation.replicas_needed(&zone.name));
        let set = situation.observed.sets.get(&zone.name);
        // A mark that covers a pod which is wanted comes off before that pod's node joins anything.
        let marked = set.and_then(|set| set.lowering).is_some_and(|pods| pods < wanted);
        let pods = wanted.max(situation.observed.replicas(&zone.name));
        let lacks = set.is_none_or(|set| set.replicas < wanted) && !situation.observed.refused.more_pods.contains(&zone.name);
        (marked || lacks).then(|| (zone.name.clone(), pods))
    };
    let raised: BTreeMap<_, _> = situation.cluster.zones().iter().filter_map(too_few).collect();
    (!raised.is_empty()).then_some(Step::RaisePods(raised))
}

fn identities_are_distinct(situation: &Situation<'_>) -> Option<Step> {
    let mut places = BTreeMap::<NodeId, Vec<Place>>::new();
    for (place, node) in situation.observed.nodes() {
        places.entry(node.id).or_default().push(place.clone());
    }
    let (node, places) = places.into_iter().find(|(_, places)| places.len() > 1)?;
    Some(Step::Blocked(Blocked::SharedIdentity { node, places }))
}

fn record_is_newest(situation: &Situation<'_>) -> Option<Step> {
    let observed = situation.observed;
    let recorded = match &observed.record {
        Record::Unreadable(reason) => return Some(Step::Blocked(Blocked::RecordUnreadable(reason.clone()))),
        Record::Absent => Epoch(0),
        Record::Held { rings, hash, .. } => {
            let ring = rings.newest();
            let forked = |(_, node): &(&Place, &Node)| node.epoch == ring.epoch && node.ring_hash != *hash;
            let forks: Vec<_> = observed.nodes().filter(forked).map(|(place, _)| place.clone()).collect();
            if !forks.is_empty() {
                return Some(Step::Blocked(Blocked::RingConflict(forks)));
            }
            ring.epoch
        }
    };
    let ahead: Vec<_> = observed.nodes().filter(|(_, node)| node.epoch > recorded).collect();
    let newest = ahead.iter().map(|(_, node)| node.epoch).max()?;
    let places = ahead.iter().filter(|(_, node)| node.epoch == newest).map(|(place, _)| (*place).clone());
    let Some(found) = observed.newer.as_ref().filter(|ring| ring.epoch == newest) else {
        let reason = format!("holds ring epoch {newest}, newer than the record, and it could not be read");
        return Some(Step::AwaitPods(places.map(|place| Waiting { place, reason: reason.clone() }).collect()));
    };
    if found.check_follows(observed.record.ring(), situation.cluster.id).is_err() {
        return Some(Step::Blocked(Blocked::RingConflict(places.collect())));
    }
    // Without a record, a node that does not answer may hold a ring that is newer still.
    let unknown = match observed.record {
        Record::Absent => situation.places_that_may_hold_a_ring(),
        Record::Held { .. } | Record::Unreadable(_) => Vec::new(),
    };
    if !unknown.is_empty() {
        return Some(Step::AwaitPods(unknown));
    }
    let differences = other_than_asked(situation.cluster, found);
    if observed.record == Record::Absent && !differences.is_empty() {
        return Some(Step::Blocked(Blocked::OtherRing(differences)));
    }
    Some(Step::RecordRing { ring: Box::new(found.clone()), cause: Cause::Found })
}

/// Where `ring` is another than the spec's in what is fixed for a cluster's life: who goes on with a former one's data may have asked for it.
fn other_than_asked(cluster: &ValidCluster, ring: &Ring) -> Vec<String> {
    let mut differences = Vec::new();
    let mut compare = |field: &str, asked: String, held: String| {
        if asked != held {
            differences.push(format!("{field} is {asked}, and theirs {held}"));
        }
    };
    compare("spec.partitions", (1_u64 << cluster.partition_bits).to_string(), (1_u64 << ring.partition_bits).to_string());
    compare("spec.replication.factor", cluster.replication.to_string(), ring.replication.to_string());
    let factors = |buckets: &BucketReplication| {
        let told = buckets.entries().map(|(bucket, n)| format!("{n} of bucket {:?}", String::from_utf8_lossy(bucket)));
        let told: Vec<String> = told.collect();
        if told.is_empty() { "none".to_owned() } else { told.join(", ") }
    };
    compare("spec.buckets[].factor", factors(&cluster.bucket_replication), factors(&ring.buckets));
    differences
}

fn joining_nodes_are_noted(situation: &Situation<'_>) -> Option<Step> {
    let notes = notes_to_write(situation);
    let waiting = claims_in_the_way(situation, &notes);
    match (waiting.is_empty(), notes.is_empty()) {
        (false, _) => Some(Step::AwaitPods(waiting)),
        (true, false) => Some(Step::NoteIdentities(notes)),
        (true, true) => None,
    }
}

/// The node at `place` is in the ring and stays there, or is about to come in.
fn joins(situation: &Situation<'_>, place: &Place, node: NodeId) -> bool {
    let comes = situation.complete && situation.cluster.keeps(place) && !situation.waits_for_a_claim(place, node);
    !situation.is_lost(node) && (situation.is_member(node) || comes)
}

/// The places whose volume does not say, or does not say alone, which node it carries. A node that joins takes off what stands on its
/// volume; one that only runs again is no longer the one that was drained.
fn notes_to_write(situation: &Situation<'_>) -> BTreeMap<Place, NodeId> {
    let observed = situation.observed;
    let marked = |place: &Place, joins: bool| {
        let drains = |volume: &Volume| (volume.draining || volume.drained) && (joins || observed.stays(place));
        observed.volumes.get(place).is_some_and(|volume| drains(volume) || (joins && volume.released))
    };
    let unnoted = |(place, node): &(&Place, &Node)| {
        let joins = joins(situation, place, node.id);
        if observed.note(place) == Note::Node(node.id) { marked(place, joins) } else { joins }
    };
    observed.nodes().filter(unnoted).map(|(place, node)| (place.clone(), node.id)).collect()
}

/// A claim that is being deleted is there as long as its pod is.
const CLAIM_GOES: &str = "its volume claim is being deleted; delete the pod, so that it gets another";

/// The places whose claim is not there to be noted, or goes before its node could join.
fn claims_in_the_way(situation: &Situation<'_>, notes: &BTreeMap<Place, NodeId>) -> Vec<Waiting> {
    let volumes = &situation.observed.volumes;
    let waits = |place: &Place, reason: &str| Waiting { place: place.clone(), reason: reason.to_owned() };
    let missing = notes.keys().filter(|place| !volumes.contains_key(place));
    let missing = missing.map(|place| waits(place, "its volume claim is not there"));
    let newcomer = |(place, node): &(&Place, &Node)| joins(situation, place, node.id) && !situation.is_member(node.id);
    let newcomers = situation.observed.nodes().filter(newcomer);
    let going = newcomers.filter(|(place, _)| volumes.get(place).is_some_and(|volume| volume.deleting));
    missing.chain(going.map(|(place, _)| waits(place, CLAIM_GOES))).collect()
}

fn a_ring_exists(situation: &Situation<'_>) -> Option<Step> {
    if situation.ring.is_some() {
        return None;
    }
    // The record may have been lost.
    let waiting = situation.places_that_may_hold_a_ring();
    if !waiting.is_empty() {
        return Some(Step::AwaitPods(waiting));
    }
    let cluster = situation.cluster;
    let (bits, n, buckets) = (cluster.partition_bits, cluster.replication, cluster.bucket_replication.clone());
    Some(match rebalance::first_ring_with(cluster.id, bits, n, buckets, &situation.desired()) {
        Ok(ring) => Step::RecordRing { ring: Box::new(ring), cause: Cause::First },
        Err(error) => Step::Blocked(Blocked::NoPlan(error.to_string())),
    })
}

/// Gossip spreads a ring too; offering it spares the wait, and brings it to nodes that no node knows yet. A node takes from a writer
/// only the successor of what it holds. What a member may lack is recorded, so that it comes by here though nobody holds it any more;
/// one that is further behind hears of the ring by gossip, and nothing waits for it here. Nodes that are out hear of it with the others.
fn nodes_hold_the_ring(situation: &Situation<'_>) -> Option<Step> {
    situation.ring?;
    let refuses = |place: &Place| situation.observed.refused.rings.contains(place);
    let nodes = situation.observed.nodes();
    let behind: Vec<_> = nodes.filter(|(place, node)| situation.takes_the_ring(node) && !refuses(place)).collect();
    let matters = behind.iter().any(|(place, node)| situation.is_member(node.id) || situation.cluster.keeps(place));
    matters.then(|| Step::OfferRing(behind.into_iter().map(|(place, _)| place.clone()).collect()))
}

/// A ring that a member may lack stays recorded with those before it, so some member holds or takes one of them, unless all were set back.
/// While a node does not answer, it may be the one.
fn the_record_is_of_these_nodes(situation: &Situation<'_>) -> Option<Step> {
    let (observed, ring) = (situation.observed, situation.ring?);
    let answer = |place: &Place| observed.node(place).is_some();
    let all_answer = observed.pods.keys().all(answer) && situation.cluster.places().all(|place| answer(&place));
    let is_before = |node: &Node| node.epoch < ring.epoch && !situation.takes_the_ring(node);
    let ahead = all_answer && observed.nodes().all(|(_, node)| is_before(node));
    ahead.then(|| {
        let held = observed.nodes().map(|(place, node)| (place.clone(), node.epoch)).collect();
        Step::Blocked(Blocked::RecordAhead(held))
    })
}

fn volumes_are_recorded(situation: &Situation<'_>) -> Option<Step> {
    let carriers = situation.observed.carriers(situation.ring?);
    (carriers != situation.observed.record.volumes()).then_some(Step::RecordVolumes(carriers))
}

/// Whoever does not answer is waited for below; this is about those that never will.
fn lost_members_are_declared(situation: &Situation<'_>) -> Option<Step> {
    let ring = situation.ring?;
    let nodes = situation.members_without_volume();
    if nodes.is_empty() {
        return None;
    }
    let accepted = nodes.iter().all(|node| situation.cluster.accepted_losses.contains(node));
    if let Some(blocked) = risk::of(situation.cluster, ring, &nodes).filter(|_| !accepted) {
        return Some(Step::Blocked(blocked));
    }
    Some(match loss::declare(ring, &nodes, &situation.observed.views()) {
        Ok(ring) => recorded_if_there_is_room(situation, ring, Cause::Lost(nodes)),
        Err(LossError::NobodyHolds(_)) => Step::AwaitEpoch(ring.survivors().filter(|node| !nodes.contains(node)).collect()),
        Err(error @ (LossError::NoMember(_) | LossError::Answers(_))) => Step::Blocked(Blocked::NoPlan(error.to_string())),
    })
}

/// A ring that may follow one which some members lack: that one is kept beside it.
fn recorded_if_there_is_room(situation: &Situation<'_>, ring: Ring, cause: Cause) -> Step {
    match situation.observed.rings_with(&ring) {
        Ok(_) => Step::RecordRing { ring: Box::new(ring), cause },
        Err(Full(behind)) => Step::AwaitEpoch(behind),
    }
}

/// What is left to move to the nodes that the spec asks for, if there is a ring and a plan.
pub fn left_to_move(cluster: &ValidCluster, observed: &Observed) -> Option<Left> {
    let situation = Situation::of(cluster, observed);
    batches::left(situation.ring?, &situation.desired()).ok()
}

fn the_ring_is_as_asked(situation: &Situation<'_>) -> Option<Step> {
    let step = step_of_rebalance(situation)?;
    let purpose = match &step {
        Step::AwaitData { received, moving, .. } => format!("{received} of {moving} replicas that were on their way are filled"),
        Step::AwaitReceipts(nodes) => format!("next: the drain receipts of {} nodes", nodes.len()),
        Step::RecordRing { ring, .. } => format!("next: ring epoch {}", ring.epoch),
        // Who is to hear of a ring that is recorded hears of it; and what is blocked is told as that.
        _ => return Some(step),
    };
    Some(if situation.cluster.rebalancing_paused { Step::RebalancingPaused(purpose) } else { step })
}

fn step_of_rebalance(situation: &Situation<'_>) -> Option<Step> {
    let asked = towards(situation, &situation.desired());
    let Some(Step::RecordRing { ring, .. }) = &asked else { return asked };
    match room::lacking(situation, ring) {
        None => asked,
        // Who is to leave stays, and everything else that is to move moves: a member that is lost is replaced.
        Some(blocked) => towards(situation, &situation.desired_and_leaving()).or(Some(Step::Blocked(blocked))),
    }
}

fn towards(situation: &Situation<'_>, desired: &Members) -> Option<Step> {
    let ring = situation.ring?;
    if ring.operation.is_some() {
        // Of another writer, who made this ring before there was an operator here. What is asked for now stands in the resource.
        let ring = ring.successor(|next| next.operation = None);
        return Some(recorded_if_there_is_room(situation, ring, Cause::Rebalance));
    }
    Some(match rebalance::next(ring, desired, &situation.observed.views()) {
        Ok(Next::Settled) => return None,
        Ok(Next::Propose(ring)) => Step::RecordRing { ring: Box::new(ring), cause: Cause::Rebalance },
        Ok(Next::AwaitEpoch(nodes)) => Step::AwaitEpoch(nodes),
        Ok(Next::AwaitData { received, moving, waiting_for }) => Step::AwaitData { received, moving, waiting_for },
        Ok(Next::AwaitReceipts(leaving)) => {
            // Each leaves as soon as it can, so that one that is stuck does not hold up the others.
            let drained: Vec<_> = leaving.iter().filter(|node| situation.observed.has_receipt(**node)).copied().collect();
            if drained.is_empty() {
                Step::AwaitReceipts(leaving)
            } else {
                Step::RecordRing { ring: Box::new(rebalance::without(ring, &drained)), cause: Cause::Left(drained) }
            }
        }
        Err(error) => match situation.places_of_lost_nodes() {
            waiting if !waiting.is_empty() => Step::AwaitPods(waiting),
            _ => Step::Blocked(Blocked::NoPlan(error.to_string())),
        },
    })
}

fn no_pod_is_left_over(situation: &Situation<'_>) -> Option<Step> {
    situation.ring?;
    let (mut lowered, mut unproven, mut unknown) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    let observed = situation.observed;
    for zone in situation.cluster.zones() {
        let running = situation.observed.replicas(&zone.name);
        let mut target = running;
        // From the top, as the StatefulSet removes them, down to the first that may not go.
        while target > zone.replicas {
            let place = Place { zone: zone.name.clone(), ordinal: target - 1 };
            // A note that cannot be read is not one that was never written.
            if observed.pods.contains_key(&place) && observed.node(&place).is_none() && !observed.volumes.contains_key(&place) {
                unknown.push(Waiting { place, reason: "does not answer, and its volume claim is not there".into() });
                break;
            }
            match situation.may_go(&place) {
                Ok(()) => target -= 1,
                Err(node) => {
                    unproven.insert(place, node);
                    break;
                }
            }
        }
        if target < running {
            lowered.insert(zone.name.clone(), target);
        }
    }
    if !lowered.is_empty() {
        return Some(Step::LowerPods(lowered));
    }
    if !unknown.is_empty() {
        return Some(Step::AwaitPods(unknown));
    }
    // A receipt counts under the recorded ring only, so a node that is to give one must hear of it.
    let behind = |place: &&Place| {
        let takes = observed.node(place).is_some_and(|node| situation.takes_the_ring(node));
        takes && !observed.refused.rings.contains(*place)
    };
    let behind: Vec<_> = unproven.keys().filter(behind).cloned().collect();
    match (behind.is_empty(), unproven.is_empty()) {
        (false, _) => Some(Step::OfferRing(behind)),
        (true, false) => Some(Step::AwaitReceipts(unproven.into_values().collect())),
        (true, true) => None,
    }
}

/// What the pod at `place`, whose node answers, lacks to be ready for all that may be asked.
fn why_unready(situation: &Situation<'_>, place: &Place, pod: &Pod) -> Option<String> {
    let node = pod.node.as_ref()?;
    if situation.waits_for_a_claim(place, node.id) {
        return Some(CLAIM_GOES.to_owned());
    }
    if situation.observed.refused.rings.contains(place) {
        return Some("does not take the ring".to_owned());
    }
    let why = match (&pod.trouble, &pod.unready) {
        (Some(trouble), _) => format!(", and {trouble}"),
        (None, Some(unready)) => format!(": {unready}"),
        (None, None) => String::new(),
    };
    (!pod.ready).then(|| format!("is not ready{why}"))
}

fn pods_are_ready(situation: &Situation<'_>) -> Option<Step> {
    let mut waiting = situation.unanswered_places();
    waiting.extend(situation.places_of_lost_nodes());
    for (place, pod) in &situation.observed.pods {
        if let Some(reason) = why_unready(situation, place, pod).filter(|_| situation.cluster.keeps(place)) {
            waiting.push(Waiting { place: place.clone(), reason });
        }
        // Its volume may go when it has gone, so nothing is done before.
        if !situation.cluster.keeps(place) && place.ordinal >= situation.observed.replicas(&place.zone) {
            let trouble = pod.trouble.as_ref().map(|trouble| format!(", and {trouble}")).unwrap_or_default();
            waiting.push(Waiting { place: place.clone(), reason: format!("is about to go{trouble}") });
        }
    }
    (!waiting.is_empty()).then_some(Step::AwaitPods(waiting))
}

fn the_template_is_rolled_out(situation: &Situation<'_>) -> Option<Step> {
    let sets = situation.observed.sets.iter();
    let rolling: Vec<_> = sets.filter(|(_, set)| set.rolling).map(|(zone, _)| zone.clone()).collect();
    (!rolling.is_empty()).then_some(Step::AwaitRollout(rolling))
}

fn no_volume_is_left_over(situation: &Situation<'_>) -> Option<Step> {
    if situation.cluster.storage.retention.when_scaled == RetentionPolicy::Retain {
        return None;
    }
    let observed = situation.observed;
    let unused = |place: &Place| !observed.pods.contains_key(place) && place.ordinal >= observed.replicas(&place.zone);
    let left = |volume: &Volume| match volume.note {
        Note::Node(node) => !situation.is_member(node),
        // Its pod came and went before its node was noted, and so before any ring listed it. One that was not made for this cluster may
        // hold anything.
        Note::None => volume.ours,
        Note::OtherCluster => false,
    };
    let volumes = observed
        .volumes
        .iter()
        .filter(|(place, volume)| !situation.cluster.keeps(place) && unused(place) && left(volume) && !volume.deleting);
    let leftover: Vec<_> = volumes.map(|(place, _)| place.clone()).collect();
    (!leftover.is_empty()).then_some(Step::DeleteVolumes(leftover))
}
