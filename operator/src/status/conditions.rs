//! The six conditions.

use std::collections::{BTreeMap, BTreeSet};

use dynamo_core::id::{Epoch, NodeId, PartitionId};
use dynamo_core::ring::Ring;
use dynamo_core::ring::placed::Placed;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::json;

use super::{Names, Report};
use crate::build::{PORT_CLIENT, labels, ring_record};
use crate::listing::{clauses, list, notes, sentences};
use crate::observed::{Note, Observed, Set, Volume};
use crate::plan::quorums::{Quorum, Quorums};
use crate::plan::rollout::Rollout;
use crate::plan::room::FILLED_PERCENT_MAX;
use crate::plan::{Blocked, Cause, Step};
use crate::quantity;
use crate::valid::{ACCEPT_DATA_LOSS, InvalidSpec, Place};

/// Their types, in order.
pub const TYPES: [&str; 6] = ["Ready", "Available", "Progressing", "Degraded", "RingStable", "ScaleInBlocked"];

/// What was given at creation cannot change; and what is deleted is not to take the data along.
const CREATE_AGAIN: &str = "set spec.storage.retention.whenDeleted to Retain, delete this DynamoCluster, and create it again with the same spec.adoptCluster and";

/// A condition's status, reason and message.
struct Verdict {
    status: &'static str,
    reason: &'static str,
    message: String,
}

fn yes(reason: &'static str, message: impl Into<String>) -> Verdict {
    Verdict { status: "True", reason, message: message.into() }
}

fn no(reason: &'static str, message: impl Into<String>) -> Verdict {
    Verdict { status: "False", reason, message: message.into() }
}

fn unknown(reason: &'static str, message: impl Into<String>) -> Verdict {
    Verdict { status: "Unknown", reason, message: message.into() }
}

pub(super) fn of(report: &Report<'_>, previous: &[Condition], now: &Time) -> Vec<Condition> {
    let (reason, message) = describe(report);
    if !report.observed.taken.is_empty() {
        return of_unseen(reason, &message, previous, report.generation, now);
    }
    let verdicts = [
        ready(report, reason, &message),
        available(report),
        progressing(report, reason, &message),
        degraded(report),
        ring_stable(report),
        scale_in_blocked(report),
    ];
    let conditions = TYPES.into_iter().zip(verdicts).map(|(type_, verdict)| {
        condition(type_, verdict.status, verdict.reason, verdict.message, report.generation, previous, now)
    });
    conditions.collect()
}

pub(super) fn of_invalid(error: &InvalidSpec, previous: &[Condition], generation: Option<i64>, now: &Time) -> Vec<Condition> {
    of_unseen("InvalidSpec", &error.to_string(), previous, generation, now)
}

/// Of a cluster that was not looked at, and why: whether it serves is not known.
pub(super) fn of_unseen(
    reason: &str,
    message: &str,
    previous: &[Condition],
    generation: Option<i64>,
    now: &Time,
) -> Vec<Condition> {
    let statuses = ["False", "Unknown", "False", "True", "Unknown", "Unknown"];
    let conditions = TYPES
        .into_iter()
        .zip(statuses)
        .map(|(type_, status)| condition(type_, status, reason, message.to_owned(), generation, previous, now));
    conditions.collect()
}

fn condition(
    type_: &str,
    status: &str,
    reason: &str,
    message: String,
    generation: Option<i64>,
    previous: &[Condition],
    now: &Time,
) -> Condition {
    let unchanged = previous.iter().find(|condition| condition.type_ == type_ && condition.status == status);
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: generation,
        last_transition_time: unchanged.map_or_else(|| now.clone(), |condition| condition.last_transition_time.clone()),
    }
}

/// The hints that a rollout waits for, and those that it does not, or for one of a partition's replicas only.
fn on_their_way(report: &Report<'_>, names: &Names<'_>) -> String {
    let full: BTreeSet<NodeId> = report.observed.full().map(|(_, node)| node.id).collect();
    let (stay, go): (BTreeMap<_, _>, BTreeMap<_, _>) =
        report.observed.behind().into_iter().partition(|(node, _)| full.contains(node));
    let told = |hints: &BTreeMap<NodeId, u64>, what: &str| {
        let nodes: Vec<NodeId> = hints.keys().copied().collect();
        let count = super::rounded(hints.values().sum());
        if hints.is_empty() { String::new() } else { format!("; {count} hints {what} {}", names.nodes(&nodes)) }
    };
    told(&go, "are on their way to") + &told(&stay, "stay with others for want of space at")
}

/// What to do about a claim of a former size at `place`, after what is the matter there.
fn outdated_claim(report: &Report<'_>, place: &Place) -> String {
    super::outdated_claim(report.cluster, report.observed, report.claim_sizes, place)
}

/// The zones whose pods get a new template while something else is waited for, and what that template waits for.
fn rolling_meanwhile(report: &Report<'_>, names: &Names<'_>) -> String {
    let rollout = Rollout::of(report.cluster, report.observed, &BTreeSet::new());
    let is_rolling = |zone: &str, set: &Set| {
        report.waiting_zones.iter().any(|other| other == zone) || (!set.unseen && rollout.is_under_way(zone))
    };
    let zones = report.observed.sets.iter().filter(|(zone, set)| is_rolling(zone, set)).map(|(zone, _)| zone.clone());
    match list(zones) {
        zones if zones.is_empty() => zones,
        zones => format!("; a new template is on its way to the pods in {zones}{}", on_their_way(report, names)),
    }
}

/// What the step means: a reason for machines, a sentence for people.
fn describe(report: &Report<'_>) -> (&'static str, String) {
    let names = Names::of(report);
    let sets = |zones: &BTreeMap<String, u32>| {
        list(zones.iter().map(|(zone, replicas)| format!("{} to {replicas}", report.cluster.set_name(zone))))
    };
    match report.step {
        Step::RaisePods(zones) => ("StartingPods", format!("raising the pods of {}", sets(zones))),
        Step::AwaitPods(waiting) => {
            let pods = waiting.iter().map(|waiting| {
                let reason = waiting.reason.clone() + &outdated_claim(report, &waiting.place);
                (report.cluster.pod_name(&waiting.place), reason)
            });
            ("AwaitingPods", sentences(pods) + &rolling_meanwhile(report, &names))
        }
        Step::NoteIdentities(notes) => (
            "NotingIdentities",
            format!("noting the nodes of {}", list(notes.keys().map(|place| report.cluster.pod_name(place)))),
        ),
        Step::RecordRing { ring, cause } => ("RecordingRing", format!("recording ring epoch {}: {}", ring.epoch, purpose(cause))),
        Step::RecordVolumes(_) => ("RecordingVolumes", "recording which volumes carry the members".to_owned()),
        Step::OfferRing(places) => {
            ("OfferingRing", format!("offering the ring to {}", list(places.iter().map(|place| report.cluster.pod_name(place)))))
        }
        Step::AwaitEpoch(nodes) => {
            let (nodes, held) = (names.silent_nodes(report.observed, nodes), held_instead(report, nodes));
            ("AwaitingNodes", format!("waiting for {nodes} to confirm {}{held}", recorded(report)))
        }
        Step::AwaitData { received, moving, waiting_for } => {
            let nodes = names.nodes(waiting_for);
            ("MovingData", format!("{received} of {moving} replicas are filled; {nodes} still receive{}", rest(report)))
        }
        Step::RebalancingPaused(next) => {
            ("Paused", format!("spec.rebalancing.paused is true, so nothing moves; {next}{}", rest(report)))
        }
        Step::AwaitReceipts(nodes) => ("Draining", draining(report, &names, nodes)),
        Step::LowerPods(zones) => ("RemovingPods", format!("lowering the pods of {}", sets(zones))),
        Step::AwaitRollout(zones) => {
            let zones = list(zones.iter().cloned());
            ("RollingOut", format!("restarting pods in {zones}{}", on_their_way(report, &names)))
        }
        Step::DeleteVolumes(places) => {
            ("DeletingVolumes", format!("deleting {}", list(places.iter().map(|place| report.cluster.claim_name(place)))))
        }
        Step::Blocked(blocked) => describe_blocked(report, blocked),
        Step::Converged if !report.waiting_zones.is_empty() => {
            let zones = list(report.waiting_zones.iter().cloned());
            ("RollingOut", format!("next: {zones}{}", on_their_way(report, &names)))
        }
        Step::Converged => match growing(report) {
            volumes if volumes.is_empty() => ("AsAsked", as_asked(report)),
            volumes => ("GrowingVolumes", format!("volumes grow: {}", sentences(volumes))),
        },
    }
}

/// "ring epoch 7", which is the recorded one.
fn recorded(report: &Report<'_>) -> String {
    report.observed.record.ring().map_or_else(|| "the ring".to_owned(), |ring| format!("ring epoch {}", ring.epoch))
}

/// Which rings those of `nodes` hold that answer.
fn held_instead(report: &Report<'_>, nodes: &[NodeId]) -> String {
    let held = report.observed.nodes().filter(|(_, node)| nodes.contains(&node.id));
    match epochs(report, held.map(|(place, node)| (place, node.epoch))) {
        held if held.is_empty() => held,
        held => format!("; {held}"),
    }
}

/// "cart-0, cart-1: hold epoch 3; cart-2 holds none".
fn epochs<'a>(report: &Report<'_>, held: impl Iterator<Item = (&'a Place, Epoch)>) -> String {
    let told = |epoch: Epoch| if epoch == Epoch(0) { "holds none".to_owned() } else { format!("holds epoch {epoch}") };
    sentences(held.map(|(place, epoch)| (report.cluster.pod_name(place), told(epoch))))
}

/// Nothing is left to do, and nothing to wait for.
fn is_at_rest(report: &Report<'_>) -> bool {
    *report.step == Step::Converged && report.waiting_zones.is_empty() && growing(report).is_empty()
}

/// The volumes that are not as large yet as the spec asks, and why. What their claims ask for does not count: it was seen before this very
/// pass asked them for more. One that is being deleted is asked for nothing any more: what comes in its place has the size that is asked.
fn growing(report: &Report<'_>) -> Vec<(String, String)> {
    growing_of(report, |_| true)
}

/// Those of them that are `wanted`.
fn growing_of(report: &Report<'_>, wanted: impl Fn(&Volume) -> bool) -> Vec<(String, String)> {
    let asked = &report.cluster.storage.size;
    let grows = |place: Place| {
        let volume = report.observed.volumes.get(&place).filter(|volume| !volume.deleting && wanted(volume))?;
        let is_smaller = quantity::parse(&volume.capacity)? < quantity::parse(asked)?;
        let why = volume.growth.as_ref().map(|growth| format!(" [{growth}]")).unwrap_or_default();
        is_smaller.then(|| (report.cluster.claim_name(&place), format!("from {} to {asked}{why}", volume.capacity)))
    };
    report.cluster.places().filter_map(grows).collect()
}

/// A volume cannot become smaller, so one that is larger than asked is as good as it gets. One whose claim asks for still more will not
/// do for long: Kubernetes takes a request back only to more than there is, and until then the storage is asked again and again.
fn as_asked(report: &Report<'_>) -> String {
    let asked = &report.cluster.storage.size;
    let (mut larger, mut unmet) = (Vec::new(), Vec::new());
    for place in report.cluster.places() {
        let Some(volume) = report.observed.volumes.get(&place).filter(|volume| volume.asks_for_more_than(asked)) else {
            continue;
        };
        let name = report.cluster.claim_name(&place);
        match quantity::parse(&volume.capacity) {
            Some(capacity) if Some(capacity) < quantity::parse(&volume.size) => {
                unmet.push(format!("{name} {} of {}", volume.capacity, volume.size));
                if Some(capacity) > quantity::parse(asked) {
                    larger.push(format!("{name} {}", volume.capacity));
                }
            }
            _ => larger.push(format!("{name} {}", volume.size)),
        }
    }
    let mut told = "everything is as asked".to_owned();
    if !larger.is_empty() {
        told += &format!("; volumes are larger than asked: {}, asked {asked}", list(larger));
    }
    if !unmet.is_empty() {
        told += &format!(
            "; claims ask for more than is asked, and have less: {}; set spec.storage.size a little above what they have, and it is taken back",
            list(unmet)
        );
    }
    told
}

fn purpose(cause: &Cause) -> &'static str {
    match cause {
        Cause::First => "the first ring",
        Cause::Found => "nodes hold it and the record does not",
        Cause::Rebalance => "the next stage of a rebalance",
        Cause::Left(_) => "nodes have left",
        Cause::Lost(_) => "members whose volumes are gone are declared lost",
    }
}

fn draining(report: &Report<'_>, names: &Names<'_>, nodes: &[NodeId]) -> String {
    let left = |node: &NodeId| match report.observed.receipts.get(node) {
        Some(Err(left)) => left.clone(),
        Some(Ok(_)) | None => "no drain receipt yet".to_owned(),
    };
    notes(nodes.iter().map(|node| (names.node(*node), left(node))))
}

fn describe_blocked(report: &Report<'_>, blocked: &Blocked) -> (&'static str, String) {
    let pods = |places: &[Place]| list(places.iter().map(|place| report.cluster.pod_name(place)));
    match blocked {
        Blocked::NamesTaken(objects) => names_taken(report, objects),
        Blocked::SharedIdentity { node, places } => {
            let pods = pods(places);
            ("SharedIdentity", format!("{pods} all carry node {node}: a volume was copied; delete the copy's claim and pod"))
        }
        Blocked::OtherZones(claims) => {
            let claims = list(claims.iter().cloned());
            (
                "OtherZones",
                format!("{claims}: of this cluster's nodes, in zones that spec.zones does not name; {CREATE_AGAIN} those zones"),
            )
        }
        Blocked::NothingToAdopt => ("NothingToAdopt", nothing_to_adopt(report)),
        Blocked::OtherRing(differences) => {
            let differences = clauses(differences.iter().cloned());
            ("OtherRing", format!("the nodes hold a ring that cannot become this one: {differences}; {CREATE_AGAIN} theirs"))
        }
        Blocked::RecordUnreadable(reason) => (
            "RecordUnreadable",
            format!(
                "{reason}; once all pods answer, delete that ConfigMap: the record is then taken from the nodes, and rollouts, which wait \
                 until then, go on"
            ),
        ),
        Blocked::RingConflict(places) => {
            let pods = pods(places);
            let told = "the ring held there is not in the record's line; its volume comes from elsewhere: put the right one back, or delete its \
                        claim and its pod, and an empty one takes its place";
            ("RingConflict", format!("{pods}: {told}"))
        }
        Blocked::RecordAhead(held) => ("RecordAhead", record_ahead(report, held)),
        Blocked::NoPlan(reason) => ("NoPlan", reason.clone()),
        Blocked::InsufficientCapacity { nodes, each, volume } => {
            let megabytes = |bytes: u64| super::rounded(bytes / 1_000_000);
            let way_on = match growing(report) {
                volumes if volumes.is_empty() => "ask for more nodes or for larger volumes".to_owned(),
                volumes => format!("volumes grow: {}", sentences(volumes)),
            };
            (
                "InsufficientCapacity",
                format!(
                    "no node leaves: the {nodes} that are to stay would hold about {} MB each, and data may take {FILLED_PERCENT_MAX} % of \
                     a volume, which has {} MB; {way_on}",
                    megabytes(*each),
                    megabytes(*volume)
                ),
            )
        }
        Blocked::DataAtRisk { nodes, at_risk, gone, buckets } => {
            ("DataAtRisk", data_at_risk(report, nodes, (*at_risk, *gone), buckets))
        }
    }
}

fn nothing_to_adopt(report: &Report<'_>) -> String {
    let (name, namespace, former) = (report.cluster.name(), &report.cluster.namespace, &report.cluster.data_uid);
    format!(
        "spec.adoptCluster is {former}, and namespace {namespace} has no volume claim of that cluster, which would be named data-{name}-..., \
         with the label {}={name} and the annotation {}: {former}. Bring its claims there first; or, for an empty cluster, delete this \
         DynamoCluster and create it again without spec.adoptCluster",
        labels::CLUSTER,
        labels::CLUSTER_UID,
    )
}

/// The record says no more than that there was such a ring; those who hold one say what it is.
fn record_ahead(report: &Report<'_>, held: &BTreeMap<Place, Epoch>) -> String {
    let (record, namespace) = (ring_record::name(report.cluster), &report.cluster.namespace);
    format!(
        "{} is recorded, and all nodes hold rings of before: {}. So it is where all volumes were set back to an earlier day. If they are to \
         stay as they are, `kubectl --namespace {namespace} delete configmap {record}`: the ring is taken from the nodes, and the cluster goes \
         on from there. If one that holds a newer ring is to come back, bring it back first: the others take that from it",
        recorded(report),
        epochs(report, held.iter().map(|(place, epoch)| (place, *epoch))),
    )
}

/// Objects of somebody else, and those that have lost their owner: to remove a set or the record of a cluster that serves is no way on.
fn names_taken(report: &Report<'_>, objects: &[String]) -> (&'static str, String) {
    let ownerless = &report.observed.ownerless;
    let foreign: Vec<String> = objects.iter().filter(|object| !ownerless.contains(object)).cloned().collect();
    if !foreign.is_empty() {
        let objects = list(foreign);
        let neighbours = &report.observed.neighbours;
        let message = if neighbours.is_empty() {
            format!("{objects}: not made for this cluster; remove it, or create the cluster under another name")
        } else if neighbours.iter().all(|name| name == report.cluster.name()) {
            format!(
                "{objects}: of a former DynamoCluster of this name; Kubernetes removes what was that one's, and then this one is made; remove \
                 what stays"
            )
        } else {
            let neighbours = list(neighbours.iter().cloned());
            format!(
                "{objects}: of DynamoCluster {neighbours}, which keeps its data there; delete this one and create it under another name"
            )
        };
        return ("NameTaken", message);
    }
    owner_lost(report)
}

/// Objects of somebody else that a cluster which is there goes on beside.
fn passed_by(report: &Report<'_>) -> Option<(&'static str, String)> {
    let Observed { passed_by, ownerless, neighbours, .. } = report.observed;
    let foreign: Vec<String> = passed_by.iter().filter(|object| !ownerless.contains(object)).cloned().collect();
    match (passed_by.is_empty(), foreign.is_empty()) {
        (true, _) => None,
        (false, true) => Some(owner_lost(report)),
        (false, false) => {
            let whose = match list(neighbours.iter().map(|name| format!("DynamoCluster {name}"))) {
                neighbours if neighbours.is_empty() => "somebody else".to_owned(),
                neighbours => neighbours,
            };
            let objects = list(foreign);
            Some((
                "NameTaken",
                format!("{objects}: of {whose}; this cluster goes on without it, and makes its own when that is removed"),
            ))
        }
    }
}

fn owner_lost(report: &Report<'_>) -> (&'static str, String) {
    let (cluster, ownerless) = (report.cluster, &report.observed.ownerless);
    let patch = json!({ "metadata": { "ownerReferences": [cluster.owner()] } });
    let first = ownerless.first().map(|object| object.to_lowercase().replace(' ', "/")).unwrap_or_default();
    let message = format!(
        "{}: made for a cluster {}, and without its owner now; if that is this cluster, give it back: `kubectl --namespace {} patch {first} \
         --type=merge --patch '{patch}'`; if it is a former one, remove what it left",
        list(ownerless.iter().cloned()),
        cluster.name(),
        cluster.namespace,
    );
    ("OwnerLost", message)
}

fn data_at_risk(report: &Report<'_>, nodes: &[NodeId], (at_risk, gone): (usize, usize), buckets: &[String]) -> String {
    let volumes = report.observed.record.volumes();
    let pods = nodes.iter().filter_map(|node| Some(report.cluster.pod_name(&volumes.get(node)?.place)));
    let all = report.observed.record.ring().map_or(0, Ring::partition_count_of_layers);
    let ids: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
    let of_buckets = match buckets {
        [] => String::new(),
        buckets => format!(" of {}", list(buckets.iter().map(|bucket| format!("bucket {bucket:?}")))),
    };
    format!(
        "the volumes of {} are gone: {at_risk} of {all} partitions have lost as many copies as W or more ({gone} of them all copies), so \
         writes{of_buckets} that only those had acknowledged may be lost. Restore a volume if you can; to go on with what is left, annotate the \
         DynamoCluster with {ACCEPT_DATA_LOSS}={}",
        list(pods),
        ids.join(",")
    )
}

/// "; 120 partitions and about 3 GiB are left in all", if they are more than those that move now.
fn rest(report: &Report<'_>) -> String {
    let moving = report.observed.record.ring().map_or(0, Ring::moving_count);
    match super::left(report) {
        Some(left) if left.partitions > moving => {
            let megabytes = super::rounded(super::bytes_left(report.observed, &left) / 1_000_000);
            format!("; {} partitions and about {megabytes} MB are left in all", left.partitions)
        }
        _ => String::new(),
    }
}

fn ready(report: &Report<'_>, reason: &'static str, message: &str) -> Verdict {
    if !report.complaints.is_empty() {
        return no("Failed", clauses(report.complaints.iter().cloned()));
    }
    if is_at_rest(report) {
        return match passed_by(report) {
            None => yes("AsAsked", message),
            Some((reason, message)) => no(reason, message),
        };
    }
    no(if report.paused { "Paused" } else { reason }, message)
}

fn progressing(report: &Report<'_>, reason: &'static str, message: &str) -> Verdict {
    let at_rest = is_at_rest(report);
    if report.paused && !at_rest {
        return no("Paused", format!("spec.reconciliation is Paused; otherwise: {message}"));
    }
    if at_rest || matches!(report.step, Step::Blocked(_) | Step::RebalancingPaused(_)) {
        return no(reason, message);
    }
    yes(reason, message)
}

/// Every set that is read from or written to has R and W replicas that answer and are ready, of whichever bucket asks most. Where it would
/// have them with those that only do not answer the operator, nobody knows: that may be the operator's network, and clients be served.
fn available(report: &Report<'_>) -> Verdict {
    let observed = report.observed;
    let Some(ring) = observed.record.ring() else { return no("NoRing", "the cluster has no ring yet") };
    let ready: BTreeSet<NodeId> =
        observed.pods.values().filter(|pod| pod.ready).filter_map(|pod| pod.node.as_ref()).map(|node| node.id).collect();
    let quorums = Quorums::of(report.cluster);
    // Of partitions whose bucket is no longer in the spec, what is more than their N is all of them.
    let served = |live: &BTreeSet<NodeId>, (partition, placement): &(PartitionId, Placed<'_>)| {
        let enough =
            |set: &[NodeId], needed: usize| set.iter().filter(|node| live.contains(node)).count() >= set.len().min(needed);
        let Quorum { r, w } = quorums.on(ring, *partition);
        enough(placement.read_set(), r) && placement.write_sets().into_iter().all(|set| enough(set, w))
    };
    let short_of = |live: &BTreeSet<NodeId>| ring.partitions().filter(|partition| !served(live, partition)).count();
    let (short, all) = (short_of(&ready), ring.partition_count_of_layers());
    if short == 0 {
        return yes("EnoughReplicas", "every partition has enough live home replicas");
    }
    let seeming: BTreeSet<NodeId> = ready.union(&observed.unheard()).copied().collect();
    if short_of(&seeming) == 0 {
        let message = format!(
            "{short} of {all} partitions have fewer home replicas that answer the operator than r or w; with those in other pods \
             that Kubernetes calls ready they have enough"
        );
        return unknown("NotReached", message);
    }
    no("TooFewReplicas", format!("{short} of {all} partitions have fewer live home replicas than r or w; stand-ins take writes"))
}

fn silent_members(observed: &Observed) -> Vec<NodeId> {
    let answered: BTreeSet<_> = observed.nodes().map(|(_, node)| node.id).collect();
    let members = observed.record.ring().into_iter().flat_map(Ring::survivors);
    members.filter(|node| !answered.contains(node)).collect()
}

/// What to do about members that do not answer and may never.
fn ways_on(report: &Report<'_>, names: &Names<'_>, silent: &[NodeId]) -> String {
    let deleting = |place: &Place| report.observed.volumes.get(place).is_some_and(|volume| volume.deleting);
    let emptied = emptied(report.observed, silent);
    let known = |node: &NodeId| names.places.get(node).or_else(|| names.carried.get(node));
    // Where something else is known to be the matter, nobody is told to throw a disk away.
    let lacks_image = |place: &Place| report.observed.pods.get(place).is_some_and(|pod| pod.lacks_image);
    let explained = |place: &Place| lacks_image(place) || report.observed.strangers.contains_key(place);
    let mut unexplained = silent.iter().filter_map(known).filter(|place| !explained(place));
    let may_be_lost = unexplained.any(|place| !deleting(place) && !emptied.contains(place));
    let way_on = if may_be_lost {
        "; where a volume is lost for ever, delete its claim and its pod, and an empty one takes its place"
    } else {
        ""
    };
    let kept = match deleted_claims(report, names) {
        claims if claims.is_empty() => String::new(),
        claims => format!("; {}", being_deleted(claims)),
    };
    format!("{way_on}{}{kept}", without_proof(report, names, silent))
}

/// Where a member was that does not answer, and another node answers from its very claim: its disk was emptied, or is not mounted.
fn emptied(observed: &Observed, silent: &[NodeId]) -> BTreeSet<Place> {
    let carriers = observed.record.volumes();
    let places = silent.iter().filter_map(|node| carriers.get(node)).filter(|carrier| {
        let same = observed.volumes.get(&carrier.place).is_some_and(|volume| volume.uid == carrier.uid);
        same && observed.node(&carrier.place).is_some()
    });
    places.map(|carrier| carrier.place.clone()).collect()
}

/// What to do about members whose loss nothing proves.
///
/// An empty disk under the claim of before proves nothing: the former one may only not be mounted. And where no volume is known that
/// carried a member, as where a cluster was adopted with one volume less, nothing ever will. Two writers of rings would stand in each
/// other's way, so the operator makes room for the other.
fn without_proof(report: &Report<'_>, names: &Names<'_>, silent: &[NodeId]) -> String {
    let emptied = emptied(report.observed, silent);
    let refilled = match emptied.is_empty() {
        true => String::new(),
        false => format!(
            "; on {} another node runs than the claim carried: bring that one's disk back, or, if it is lost for ever, delete the claim and \
             its pod, and an empty one takes its place",
            list(emptied.iter().map(|place| report.cluster.claim_name(place)))
        ),
    };
    let unknown = |node: &&NodeId| !names.places.contains_key(*node) && !names.carried.contains_key(*node);
    let unknown: Vec<NodeId> = silent.iter().filter(unknown).copied().collect();
    if unknown.is_empty() {
        return refilled;
    }
    let lost: Vec<String> = unknown.iter().map(|node| format!("--lost {node}")).collect();
    format!(
        "{refilled}; nothing will ever prove that the disk of {} is lost: bring it back if there is one; else set spec.reconciliation to Paused, run \
         `dynamoctl --endpoint {}.{}.svc:{PORT_CLIENT} ring replace {} --yes` where pods can be reached, and set it to Active again",
        names.nodes(&unknown),
        report.cluster.name(),
        report.cluster.namespace,
        lost.join(" "),
    )
}

/// The claims of members that somebody has deleted, and that their pods keep.
fn deleted_claims(report: &Report<'_>, names: &Names<'_>) -> Vec<String> {
    let members = report.observed.record.ring().into_iter().flat_map(Ring::survivors);
    let places = members.filter_map(|node| names.places.get(&node)).filter(|place| report.cluster.keeps(place));
    let deleted = places.filter(|place| report.observed.volumes.get(place).is_some_and(|volume| volume.deleting));
    let mut claims: Vec<String> = deleted.map(|place| report.cluster.claim_name(place)).collect();
    claims.sort();
    claims
}

fn being_deleted(claims: Vec<String>) -> String {
    format!(
        "{}: being deleted, and gone with their volumes as soon as their pods are, which no rollout restarts meanwhile. Let their volumes \
         have the reclaim policy Retain; then delete one of these pods alone, wait until RingStable is True again, and go on with the next: \
         its data is copied from the other replicas",
        list(claims)
    )
}

/// The first of these that is so is told: what comes earlier explains what comes later, or is the graver.
const FAULTS: [fn(&Report<'_>) -> Option<Verdict>; 9] = [
    complaints,
    blocked,
    foreign_volumes,
    replacing_lost_member,
    members_unreachable,
    |report| passed_by(report).map(|(reason, message)| yes(reason, message)),
    claims_being_deleted,
    pods_in_trouble,
    volumes_that_cannot_grow,
];

fn degraded(report: &Report<'_>) -> Verdict {
    FAULTS.iter().find_map(|fault| fault(report)).unwrap_or_else(|| no("AsExpected", ""))
}

fn complaints(report: &Report<'_>) -> Option<Verdict> {
    (!report.complaints.is_empty()).then(|| yes("Failed", clauses(report.complaints.iter().cloned())))
}

fn blocked(report: &Report<'_>) -> Option<Verdict> {
    match report.step {
        // Where there is no room to shrink, nothing is broken.
        Step::Blocked(Blocked::InsufficientCapacity { .. }) => None,
        Step::Blocked(blocked) => {
            let (reason, message) = describe_blocked(report, blocked);
            Some(yes(reason, message))
        }
        _ => None,
    }
}

fn foreign_volumes(report: &Report<'_>) -> Option<Verdict> {
    let foreign = |place: &Place| report.observed.note(place) == Note::OtherCluster && report.observed.node(place).is_none();
    let foreign: Vec<_> = report.cluster.places().filter(foreign).collect();
    let made_for = |place: &Place| Some(report.observed.volumes.get(place)?.made_for.clone());
    let former: BTreeSet<_> = foreign.iter().filter_map(made_for).collect();
    (!foreign.is_empty()).then(|| {
        let message = format!(
            "{}: made for another cluster, perhaps a former one of this name; to go on with its data, delete this DynamoCluster and create \
             it again with spec.adoptCluster: {}; else keep that data elsewhere and delete the claims",
            list(foreign.iter().map(|place| report.cluster.claim_name(place))),
            former.into_iter().collect::<Vec<_>>().join(" or "),
        );
        yes("ForeignVolumes", message)
    })
}

fn replacing_lost_member(report: &Report<'_>) -> Option<Verdict> {
    let replaced = super::replaced(report, report.observed.record.ring()?)?;
    Some(yes("ReplacingLostMember", format!("{replaced}: its volume is gone, its data is copied from the other replicas")))
}

fn members_unreachable(report: &Report<'_>) -> Option<Verdict> {
    let (observed, names) = (report.observed, Names::of(report));
    let silent = silent_members(observed);
    // A pod that restarts for a new template is not a fault, unless it cannot.
    let fails = |node: &NodeId| names.places.get(node).is_some_and(|place| observed.trouble(place).is_some());
    let told = |node: &NodeId| {
        let set = names.places.get(node).and_then(|place| Some((place, observed.sets.get(&place.zone)?)));
        set.is_some_and(|(place, set)| set.rolling && place.ordinal >= set.updates_from)
    };
    let excused = usize::from(silent.iter().any(told) && !silent.iter().any(fails));
    if silent.len() <= excused {
        return None;
    }
    let unheard = observed.unheard();
    let (unheard, away): (Vec<NodeId>, Vec<NodeId>) = silent.into_iter().partition(|node| unheard.contains(node));
    let unreached = not_reached(&names.silent_nodes(observed, &unheard));
    if away.is_empty() {
        return Some(yes("NotReached", unreached));
    }
    let (nodes, ways_on) = (names.silent_nodes(observed, &away), ways_on(report, &names, &away));
    let beside = if unheard.is_empty() { String::new() } else { format!("; {unreached}") };
    Some(yes("MembersUnreachable", format!("no answer from {nodes}; writes for them are kept as hints{ways_on}{beside}")))
}

/// Of pods that others reach: their disks are no matter, and nobody is to delete any.
fn not_reached(nodes: &str) -> String {
    format!(
        "no answer from {nodes}: the operator cannot reach port {PORT_CLIENT} of pods that Kubernetes calls ready; clients \
         may be served all the same. Let the operator's pods in there, as by a NetworkPolicy: until then it changes nothing that \
         needs these"
    )
}

fn volumes_that_cannot_grow(report: &Report<'_>) -> Option<Verdict> {
    let failed = growing_of(report, Volume::growth_failed);
    (!failed.is_empty()).then(|| {
        let volumes = sentences(failed);
        let message = format!(
            "volumes could not grow, and Kubernetes tries again: {volumes}; make room for them, or set spec.storage.size back"
        );
        yes("VolumesCannotGrow", message)
    })
}

fn claims_being_deleted(report: &Report<'_>) -> Option<Verdict> {
    let deleted = deleted_claims(report, &Names::of(report));
    (!deleted.is_empty()).then(|| yes("ClaimBeingDeleted", being_deleted(deleted)))
}

fn pods_in_trouble(report: &Report<'_>) -> Option<Verdict> {
    let observed = report.observed;
    let in_trouble = |place: Place| {
        let trouble = match observed.pods.get(&place) {
            // One that answers and is not ready lacks what runs beside its node.
            Some(pod) => pod.trouble.clone().filter(|_| pod.node.is_none() || !(pod.ready || pod.ending))?,
            // A member's is one that restarts, or its node was told above.
            None if observed.lacks_pod(&place) && !observed.has_member(&place) => match observed.trouble(&place) {
                Some(in_the_way) => in_the_way.to_owned(),
                None => super::lacks_pod(report.cluster, observed, &place),
            },
            None => return None,
        };
        Some((report.cluster.pod_name(&place), trouble + &outdated_claim(report, &place)))
    };
    let mut in_trouble = report.cluster.places().filter_map(in_trouble).peekable();
    in_trouble.peek().is_some().then(|| yes("PodsInTrouble", sentences(in_trouble)))
}

fn ring_stable(report: &Report<'_>) -> Verdict {
    let observed = report.observed;
    let Some(ring) = observed.record.ring() else { return no("NoRing", "the cluster has no ring yet") };
    let moving = ring.moving_count();
    if matches!(report.step, Step::RebalancingPaused(_)) {
        return no(
            "Paused",
            format!("spec.rebalancing.paused is true; {moving} partitions are on the move and stay where they are"),
        );
    }
    if moving > 0 {
        return no("Rebalancing", format!("{moving} partitions are on the move"));
    }
    if !members_are_as_asked(report, ring) {
        return no("MembersDiffer", "the ring does not list the nodes that the spec asks for yet");
    }
    let hash = ring.hash();
    let holders = observed.nodes().filter(|(_, node)| node.epoch == ring.epoch && node.ring_hash == hash).count();
    if holders < ring.survivors().count() {
        return no("NotAdopted", format!("{holders} of {} nodes hold ring epoch {}", ring.members.len(), ring.epoch));
    }
    yes("Settled", format!("all nodes hold ring epoch {}", ring.epoch))
}

fn members_are_as_asked(report: &Report<'_>, ring: &Ring) -> bool {
    let places = report.observed.places();
    let kept = |node: &NodeId| places.get(node).is_some_and(|place| report.cluster.keeps(place));
    ring.members.len() == report.cluster.replicas() as usize && ring.members.keys().all(kept)
}

fn scale_in_blocked(report: &Report<'_>) -> Verdict {
    let (cluster, observed) = (report.cluster, report.observed);
    let excess = cluster.zones().iter().any(|zone| observed.replicas(&zone.name) > zone.replicas);
    if !excess {
        return no("NoScaleIn", "no node is to leave");
    }
    if report.paused {
        return yes("Paused", "spec.reconciliation is Paused; set it to Active, and the nodes leave");
    }
    let names = Names::of(report);
    let waiting: &[NodeId] = match report.step {
        Step::AwaitEpoch(nodes) | Step::AwaitReceipts(nodes) | Step::AwaitData { waiting_for: nodes, .. } => nodes,
        Step::Blocked(blocked) => {
            let (reason, message) = describe_blocked(report, blocked);
            return yes(reason, message);
        }
        Step::RebalancingPaused(_) => {
            return yes("Paused", "spec.rebalancing.paused is true; set it to false, and the nodes leave");
        }
        _ => &[],
    };
    let answered: BTreeSet<_> = observed.nodes().map(|(_, node)| node.id).collect();
    let silent: Vec<_> = waiting.iter().filter(|node| !answered.contains(node)).copied().collect();
    if !silent.is_empty() {
        let nodes = names.silent_nodes(observed, &silent);
        let unheard = observed.unheard();
        // Where Kubernetes reaches the pods, nobody is told to throw a disk away.
        let or_lost = if silent.iter().all(|node| unheard.contains(node)) {
            ""
        } else {
            ", or until the claim and the pod of one whose volume is lost for ever are deleted and an empty one takes its place"
        };
        return yes(
            "MemberUnknown",
            format!(
                "no answer from {nodes}; unknown is not gone, so nothing is removed until it comes{or_lost}{}",
                without_proof(report, &names, &silent)
            ),
        );
    }
    let (_, message) = describe(report);
    no("InProgress", message)
}
