//! What people and tools are told: the status of a look and its step, as a pure function.
//!
//! Conditions, not phases; all are there from the first visit, each with the generation it answers, so that `kubectl wait` and
//! `helm --wait` never take an old answer for a new question. A condition's time changes with its status only, and numbers that
//! clients move are rounded, so a cluster at rest costs no write. Where figures and words alone change, they are told once in a while.

pub mod conditions;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use dynamo_core::id::NodeId;
use dynamo_core::rebalance::batches::Left;
use dynamo_core::ring::{Ring, Stage};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::api::{DynamoClusterStatus, MemberState, MemberStatus};
use crate::build::labels;
use crate::listing::{Group, grouped, joined, list};
use crate::observed::{Note, Observed};
use crate::plan::{self, Cause, Step};
use crate::quantity;
use crate::valid::{InvalidSpec, Place, ValidCluster};

/// One look, its step, and what came of it.
pub struct Report<'a> {
    /// What is asked for.
    pub cluster: &'a ValidCluster,
    /// What is there.
    pub observed: &'a Observed,
    /// The size of the claims that each zone's set makes ([`crate::build::stateful_set::claim_size`]).
    pub claim_sizes: &'a BTreeMap<String, String>,
    /// What comes next.
    pub step: &'a Step,
    /// The operator is told to change nothing.
    pub paused: bool,
    /// Zones whose new pod template waits for its turn; under a pause, all that waits for its end.
    pub waiting_zones: &'a [String],
    /// What failed, or could not be done.
    pub complaints: &'a [String],
    /// The generation of the spec.
    pub generation: Option<i64>,
}

/// The status that `report` amounts to. `previous` is the one that stands, `now` the time of conditions that change.
pub fn status(report: &Report<'_>, previous: Option<&DynamoClusterStatus>, now: &Time) -> DynamoClusterStatus {
    let observed = report.observed;
    let conditions = conditions::of(report, previous.map_or(&[], |previous| previous.conditions.as_slice()), now);
    if !observed.taken.is_empty() {
        // Nothing else was looked at, so the numbers are those of the look before.
        return DynamoClusterStatus {
            observed_generation: report.generation,
            selector: labels::selector_text(report.cluster),
            conditions,
            ..previous.cloned().unwrap_or_default()
        };
    }
    let ring = observed.record.ring();
    let left = left(report);
    let pods = |ready: bool| observed.pods.values().filter(|pod| pod.ready || !ready).count() as i32;
    DynamoClusterStatus {
        observed_generation: report.generation,
        replicas: pods(false),
        ready_replicas: pods(true),
        selector: labels::selector_text(report.cluster),
        epoch: ring.map_or(0, |ring| ring.epoch.0 as i64),
        rebalance: rebalance(report),
        partitions_moving: ring.map_or(0, |ring| ring.moving_count() as i32),
        partitions_left: left.as_ref().map_or(0, |left| left.partitions as i32),
        bytes_left: rounded(left.as_ref().map_or(0, |left| bytes_left(observed, left))),
        bytes_sent: rounded(bytes_sent(observed)),
        members: members(report),
        conditions,
    }
}

/// What is left to move, while something moves or is about to: a cluster at rest is spared the planning.
fn left(report: &Report<'_>) -> Option<Left> {
    let moves = report.observed.record.ring().is_some_and(|ring| ring.moving().next().is_some());
    let about_to = matches!(report.step, Step::RebalancingPaused(_) | Step::RecordRing { cause: Cause::Rebalance, .. });
    if moves || about_to { plan::left_to_move(report.cluster, report.observed) } else { None }
}

/// By what each node still sends, and the size of its partitions on average.
fn bytes_left(observed: &Observed, left: &Left) -> u64 {
    let of_node = |node: &crate::observed::Node| {
        let sends = left.sent.get(&node.id).copied().unwrap_or(0) as u64;
        (node.bytes * sends).checked_div(u64::from(node.copies)).unwrap_or(0).saturating_sub(node.bytes_sent)
    };
    observed.nodes().map(|(_, node)| of_node(node)).sum()
}

fn bytes_sent(observed: &Observed) -> u64 {
    observed.nodes().map(|(_, node)| node.bytes_sent).sum()
}

/// The status of a spec that cannot be built: what was last seen, with the reason.
pub fn invalid(
    error: &InvalidSpec,
    previous: Option<&DynamoClusterStatus>,
    generation: Option<i64>,
    now: &Time,
) -> DynamoClusterStatus {
    let previous = previous.cloned().unwrap_or_default();
    let conditions = conditions::of_invalid(error, &previous.conditions, generation, now);
    DynamoClusterStatus { observed_generation: generation, conditions, ..previous }
}

/// The status of a cluster that could not be looked at, and why: what was last seen, and that nobody knows how it is now.
pub fn unseen(why: &str, previous: Option<&DynamoClusterStatus>, generation: Option<i64>, now: &Time) -> DynamoClusterStatus {
    let previous = previous.cloned().unwrap_or_default();
    let conditions = conditions::of_unseen("NotSeen", why, &previous.conditions, generation, now);
    DynamoClusterStatus { observed_generation: generation, conditions, ..previous }
}

/// Whether nothing but figures and words that may be others in every look tells the two apart: messages, and how far data has moved. Whether a
/// condition holds, and why, what answers which spec, and which pods there are is none of it.
pub fn differ_in_figures(one: &DynamoClusterStatus, other: &DynamoClusterStatus) -> bool {
    without_figures(one) == without_figures(other)
}

fn without_figures(status: &DynamoClusterStatus) -> DynamoClusterStatus {
    let member = |member: &MemberStatus| MemberStatus { partitions: 0, objects: 0, hints: 0, ..member.clone() };
    let condition = |condition: &Condition| Condition { message: String::new(), ..condition.clone() };
    DynamoClusterStatus {
        observed_generation: status.observed_generation,
        replicas: status.replicas,
        ready_replicas: status.ready_replicas,
        selector: status.selector.clone(),
        members: status.members.iter().map(member).collect(),
        conditions: status.conditions.iter().map(condition).collect(),
        ..DynamoClusterStatus::default()
    }
}

/// Names nodes by their pods, for people.
struct Names<'a> {
    cluster: &'a ValidCluster,
    claim_sizes: &'a BTreeMap<String, String>,
    places: BTreeMap<NodeId, Place>,
    /// Where members were when they were seen last, by the record.
    carried: BTreeMap<NodeId, Place>,
    /// Those that were declared lost.
    lost: BTreeSet<NodeId>,
}

impl<'a> Names<'a> {
    fn of(report: &Report<'a>) -> Self {
        let record = &report.observed.record;
        let lost = record.ring().into_iter().flat_map(|ring| ring.lost.keys().copied()).collect();
        let carried = record.volumes().into_iter().map(|(node, carrier)| (node, carrier.place)).collect();
        Self { cluster: report.cluster, claim_sizes: report.claim_sizes, places: report.observed.places(), carried, lost }
    }

    fn node(&self, node: NodeId) -> String {
        match (self.places.get(&node), self.carried.get(&node)) {
            (Some(place), _) => self.cluster.pod_name(place),
            (None, Some(place)) => {
                let which = if self.lost.contains(&node) { "lost" } else { "former" };
                format!("the {which} node of {}", self.cluster.pod_name(place))
            }
            (None, None) => format!("node {node} (on no volume)"),
        }
    }

    fn nodes(&self, nodes: &[NodeId]) -> String {
        let mut names: Vec<_> = nodes.iter().map(|node| self.node(*node)).collect();
        names.sort();
        list(names)
    }

    /// With what Kubernetes says of pods that do not run, and with what came of asking those that it calls ready.
    fn silent_nodes(&self, observed: &Observed, nodes: &[NodeId]) -> String {
        let place = |node: &NodeId| self.places.get(node).or_else(|| self.carried.get(node));
        let no_pod = |place: &Place| observed.lacks_pod(place).then(|| lacks_pod(self.cluster, observed, place));
        let trouble = |node: &NodeId| {
            let place = place(node)?;
            let trouble = observed.trouble(place).map(str::to_owned).or_else(|| no_pod(place))?;
            Some(trouble + &outdated_claim(self.cluster, observed, self.claim_sizes, place))
        };
        let silence = |node: &NodeId| observed.pods.get(place(node)?).filter(|pod| pod.ready)?.silence.clone();
        let told = |node: &NodeId| trouble(node).or_else(|| silence(node)).unwrap_or_default();
        let mut names: Vec<_> = nodes.iter().map(|node| (self.node(*node), told(node))).collect();
        names.sort();
        joined(&grouped(names), ", ", Group::aside)
    }
}

/// Why there is no pod at `place`, as far as that is known here: of a refusal the API server's own words are told beside this.
fn lacks_pod(cluster: &ValidCluster, observed: &Observed, place: &Place) -> String {
    let set = cluster.set_name(&place.zone);
    if observed.is_refused_a_pod(place) {
        return format!("has no pod: StatefulSet {set} is refused another");
    }
    format!("has no pod: see the Events of StatefulSet {set}")
}

/// "; StatefulSet cart makes claims of 10Gi ...", where no volume is at `place` yet, and that its claim has, or would have, a former size may be
/// why; else nothing. A set never makes claims of another size than it was made with, and Kubernetes lets no claim without a volume change
/// its own.
fn outdated_claim(cluster: &ValidCluster, observed: &Observed, claim_sizes: &BTreeMap<String, String>, place: &Place) -> String {
    let (asked, namespace) = (&cluster.storage.size, &cluster.namespace);
    let is_former = |size: &&String| !size.is_empty() && !quantity::same(size, asked);
    let claim = observed.volumes.get(place);
    let waiting = claim.filter(|claim| !claim.bound && claim.note == Note::None).map(|claim| &claim.size);
    let waiting = waiting.filter(is_former);
    // One that has a volume, or the size that is asked, is not what is the matter; nor is any where a set may run no more pods, or
    // somebody else's pod is in the way.
    let lacks_claim = claim.is_none() && observed.lacks_pod(place) && !observed.is_refused_a_pod(place);
    let lacks_claim = lacks_claim && !observed.strangers.contains_key(place);
    let made_with = claim_sizes.get(&place.zone).filter(is_former).filter(|_| waiting.is_some() || lacks_claim);
    let (set, pod, name) = (cluster.set_name(&place.zone), cluster.pod_name(place), cluster.claim_name(place));
    let made_again = made_with.map(|size| {
        format!(
            "; StatefulSet {set} makes claims of {size}, as it was made with, and spec.storage.size is {asked}: if that is in the way, `kubectl \
             --namespace {namespace} delete statefulset {set} --cascade=orphan`, and the operator makes it again with that size and restarts no \
             member"
        )
    });
    let deleted = waiting.map(|size| match made_again {
        Some(_) => format!("; then delete claim {name}, which waits for {size}, and pod {pod}, and they come back"),
        None => format!(
            "; claim {name} waits for {size}, and spec.storage.size is {asked}: delete it and pod {pod}, and they come back with that size"
        ),
    });
    made_again.unwrap_or_default() + &deleted.unwrap_or_default()
}

/// The column: "12/341 partitions", "draining cart-4", or nothing.
fn rebalance(report: &Report<'_>) -> String {
    let Some(ring) = report.observed.record.ring() else { return String::new() };
    let leaving: Vec<_> = ring.members.iter().filter(|(_, member)| member.weight == 0).map(|(node, _)| *node).collect();
    let moving = ring.moving_count();
    let partitions = format!("{}/{moving} partitions", received(report.observed, ring));
    if let Some(lost) = replaced(report, ring) {
        return if moving == 0 { lost } else { format!("{lost}, {partitions}") };
    }
    match (leaving.is_empty(), moving) {
        (true, 0) => String::new(),
        (true, _) => partitions,
        (false, 0) => format!("draining {}", Names::of(report).nodes(&leaving)),
        (false, _) => format!("draining {}, {partitions}", Names::of(report).nodes(&leaving)),
    }
}

/// "replacing the lost node of NAME-1", while the ring still lists it.
fn replaced(report: &Report<'_>, ring: &Ring) -> Option<String> {
    let lost: Vec<NodeId> = ring.members.keys().filter(|node| ring.is_lost(**node)).copied().collect();
    (!lost.is_empty()).then(|| format!("replacing {}", Names::of(report).nodes(&lost)))
}

/// Moving partitions whose new replicas have everything, in every layer.
fn received(observed: &Observed, ring: &Ring) -> usize {
    let nodes: BTreeMap<_, _> = observed.nodes().map(|(_, node)| (node.id, node)).collect();
    let incomplete = ring.moving().filter(|(partition, placement, moving)| {
        let received = |node: NodeId| nodes.get(&node).is_some_and(|node| node.received.contains(partition));
        moving.stage == Stage::WriteBothReadOld && !placement.fills(&ring.lost).into_iter().all(|(node, _)| received(node))
    });
    let lists: BTreeSet<usize> = incomplete.map(|(partition, _, _)| ring.list_of(partition)).collect();
    ring.moving_count() - lists.len()
}

fn members(report: &Report<'_>) -> Vec<MemberStatus> {
    let (cluster, observed) = (report.cluster, report.observed);
    let member = |place: &Place| {
        let answer = observed.node(place);
        let node = match (answer, observed.note(place)) {
            (Some(node), _) => Some(node.id),
            (None, Note::Node(node)) => Some(node),
            (None, Note::None | Note::OtherCluster) => None,
        };
        MemberStatus {
            pod: cluster.pod_name(place),
            node: node.map(|node| node.to_string()).unwrap_or_default(),
            zone: place.zone.clone(),
            partitions: node.map_or(0, |node| partitions(observed, node)),
            objects: rounded(answer.map_or(0, |node| node.objects)),
            hints: rounded(answer.map_or(0, |node| node.hints.values().sum())),
            state: state(report, place, node),
        }
    };
    observed.pods.keys().map(member).collect()
}

fn partitions(observed: &Observed, node: NodeId) -> i32 {
    observed.record.ring().map_or(0, |ring| ring.partitions_of(node) as i32)
}

fn state(report: &Report<'_>, place: &Place, node: Option<NodeId>) -> MemberState {
    let member = node.and_then(|node| report.observed.record.ring()?.members.get(&node));
    match member {
        _ if report.observed.node(place).is_none() => MemberState::Unreachable,
        None => MemberState::Standby,
        Some(member) if member.weight == 0 || !report.cluster.keeps(place) => MemberState::Leaving,
        Some(_) => MemberState::Active,
    }
}

/// Down to two digits, so that a busy cluster's status does not change with every object.
fn rounded(count: u64) -> i64 {
    let mut unit = 1;
    while count / unit >= 100 {
        unit *= 10;
    }
    i64::try_from(count / unit * unit).unwrap_or(i64::MAX)
}
