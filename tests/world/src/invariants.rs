//! What must hold at every moment, whatever goes wrong: O1 to O10 of the operator, and that no acknowledged write is lost.
//!
//! The checkers know the truth: nodes, disks and objects as they are, not as the operator sees them. A call of the operator is
//! judged as it arrives, the rest after every round; O4 and O5 are judged in the end ([`crate::play`]).
//!
//! | | what must hold | judged |
//! |---|---|---|
//! | O1 | a pod goes only if its node was never in a ring, was declared lost, or is out of every ring, holds nothing and said so in a drain receipt to this very pass, or when its pod went last; or its cluster is deleted with its volumes | at the call |
//! | O2 | rings are one line: each recorded ring follows the recorded one, no two differ at one epoch, and a partition that is read from its new replicas gets no others before that move has ended or gone back | at the call, after every round |
//! | O3 | no two processes are one node, no two claims carry one | after every round |
//! | O4 | what has settled stays: no further call changes anything; and no call ever writes what is there already | in the end, at the call |
//! | O5 | the end is the clean run's | in the end |
//! | O6 | while the spec does not hold together, the status says so and nothing else is touched | at the call, in the end |
//! | O7 | only the cluster's own objects are touched, and no ring lists a node of another cluster | at the call, in the end |
//! | O8 | a claim is deleted only where the policy says so, guarded by UID and version, and its node is in no ring, then or later, unless its cluster is deleted with it | at the call, after every round |
//! | O9 | members' pods are told to restart for another template one after the other, and only if every partition of the node keeps max(R, W) live replicas without it for which nobody keeps hints, or all but one where that is more than N - 1, by what the pass read of the cluster and of whichever bucket of that N asks most; where a pod is not ready and its node answers, all that answer count, and only partitions that have so many with it, and where too few are left but for those that are not ready and lack something, these count too; a pod is deleted only if nothing runs in it, or under the same rules where the controller waits for one above it that cannot run and carries no member; none of both befalls a pod that keeps the deleted claim of a member; when the cluster has settled, every node has the settings of the spec | at the call, in the end |
//! | O10 | a configuration is deleted only if no set's template names it nor a pod that stays, guarded by UID and version | at the call |
//! | I1 | every acknowledged write is on a disk; in the end every reader gets it, or what was written over it, and nothing else | after every pass, in the end |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dynamo_core::id::{Epoch, NodeId};
use dynamo_core::ring::{self, Ring, RingHash};
use dynamo_operator::build::config_map;
use dynamo_operator::valid::ValidCluster;
use serde_json::Value;

use crate::kubernetes::{CLAIMS, CONFIG_MAPS, PODS, SETS, is_ending, is_ready, pod_revision, revision, told_from};
use crate::stage::{CLUSTERS, NAME, RECORD, Stage};
use dynamo_api_server::{number, text};

/// N, R and W where the spec does not say.
const REPLICATION: [u32; 3] = [3, 2, 2];

/// A promise that was broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which.
    pub invariant: &'static str,
    /// How.
    pub what: String,
}

/// What the checkers remember.
#[derive(Default)]
pub struct Checks {
    /// Promises that were broken.
    pub violations: Vec<Violation>,
    /// Objects that are not the cluster's, as they were.
    pub strangers: Vec<(String, Arc<Value>)>,
    /// The version of the cluster that was looked at last.
    cluster_seen: Option<String>,
    /// The spec when it last held together.
    pub last_valid: Option<ValidCluster>,
    /// Every ring that was ever seen, by epoch.
    rings: BTreeMap<Epoch, RingHash>,
    /// The epoch of the ring that each pod's node was last seen with, so that a ring is hashed once.
    holds: BTreeMap<String, Epoch>,
    /// Every node that a recorded ring listed.
    members_ever: BTreeSet<NodeId>,
    /// Claims that the operator deleted and that are still there, by UID.
    deleted: BTreeSet<String>,
}

/// max(R, W) of whichever asks most, by N: the cluster or a bucket. What is not said of a bucket is the cluster's, and no more than its N.
fn quorums(spec: &Value) -> BTreeMap<u32, usize> {
    let said = |of: &Value, field: &str, default: u32| of[field].as_u64().map_or(default, |value| value as u32);
    let of = &spec["replication"];
    let [n, r, w] = [("factor", REPLICATION[0]), ("r", REPLICATION[1]), ("w", REPLICATION[2])]
        .map(|(field, default)| said(of, field, default));
    let mut quorums = BTreeMap::from([(n, r.max(w) as usize)]);
    for bucket in spec["buckets"].as_array().into_iter().flatten() {
        let n = said(bucket, "factor", n);
        let asked = said(bucket, "r", r.min(n)).max(said(bucket, "w", w.min(n))) as usize;
        quorums.entry(n).and_modify(|most| *most = asked.max(*most)).or_insert(asked);
    }
    quorums
}

impl Checks {
    /// What was seen of the former cluster says nothing of the one that is created now.
    pub(crate) fn begin_another(&mut self) {
        let (violations, strangers) = (std::mem::take(&mut self.violations), std::mem::take(&mut self.strangers));
        *self = Self { violations, strangers, ..Self::default() };
    }

    /// The record is gone: of a ring that was recorded and that no node had taken nobody knows any more.
    pub(crate) fn forget_untaken_rings(&mut self) {
        let taken = self.holds.values().max().copied().unwrap_or_default();
        self.rings.retain(|epoch, _| *epoch <= taken);
    }

    /// Disks were set back: rings of before may be made again, and otherwise.
    pub(crate) fn forget_rings(&mut self) {
        self.rings.clear();
        self.holds.clear();
    }
}

/// A write of the operator that was carried out.
pub struct Written<'a> {
    /// Whose.
    pub operator: usize,
    /// The method.
    pub method: &'a str,
    /// The object's path.
    pub path: &'a str,
    /// What was sent.
    pub body: &'a Value,
    /// The object before.
    pub before: Option<&'a Value>,
    /// The object after.
    pub after: &'a Value,
}

impl Stage {
    /// Judges a call of the operator that was carried out.
    pub fn check_write(&mut self, written: &Written<'_>) {
        self.check_spec_holds(written);
        self.check_ownership(written);
        self.check_it_changes_something(written);
        if written.path.starts_with(SETS) {
            self.check_pods_that_go(written);
            self.check_rollout(written);
        }
        if written.path == RECORD {
            self.check_record(written);
        }
        if written.path.starts_with(CONFIG_MAPS) && written.method == "DELETE" {
            self.check_configuration_that_goes(written);
        }
        if written.path.starts_with(CLAIMS) && written.method == "DELETE" {
            self.check_claim_that_goes(written);
        }
        if let Some(pod) = written.path.strip_prefix(PODS).map(|name| name.trim_start_matches('/')) {
            self.check_pod_that_is_deleted(written, pod);
        }
    }

    /// O1.
    fn check_pods_that_go(&mut self, written: &Written<'_>) {
        let Some(before) = written.before.filter(|_| !self.goes_with_its_volumes()) else { return };
        let (from, to) = (number(before, "/spec/replicas"), number(written.after, "/spec/replicas"));
        for ordinal in to..from {
            let pod = format!("{}-{ordinal}", text(written.after, "/metadata/name"));
            let claim = self.kubernetes.api.get(&format!("{CLAIMS}/data-{pod}"));
            let Some(node) = claim.and_then(|claim| self.nodes.on_claim(text(claim, "/metadata/uid"))) else { continue };
            if !self.checks.members_ever.contains(&node) {
                continue;
            }
            if let Err(reason) = self.may_go(written.operator, &pod, node) {
                self.violated("O1", format!("{pod} goes and its node {node} {reason}"));
            }
        }
    }

    /// Somebody has deleted the cluster, and its volumes are to go with it.
    pub(crate) fn goes_with_its_volumes(&self) -> bool {
        self.cluster()
            .is_some_and(|cluster| is_ending(&cluster) && text(&cluster, "/spec/storage/retention/whenDeleted") == "Delete")
    }

    fn may_go(&self, operator: usize, pod: &str, node: NodeId) -> Result<(), String> {
        let Some(ring) = self.ring() else { return Err("may be in a ring that was never read".to_owned()) };
        if ring.is_lost(node) && !ring.members.contains_key(&node) {
            return Ok(());
        }
        if let Some(holder) = self.listed_by(&ring, node) {
            return Err(format!("is a member by the ring of {holder}"));
        }
        let claim = self.kubernetes.api.get(&format!("{CLAIMS}/data-{pod}"));
        let marked =
            claim.filter(|claim| claim.pointer("/metadata/annotations/dynamokv.io~1drained").is_some_and(|mark| mark == "true"));
        // One that runs all the same is asked itself, below.
        let runs = self.nodes.running().contains_key(pod);
        let rests = marked.is_some_and(|claim| runs || self.nodes.rests_drained(text(claim, "/metadata/uid")));
        if !rests && !self.passes.get(&operator).is_some_and(|pass| pass.receipts.contains(&node)) {
            return Err("gave no drain receipt to this pass".to_owned());
        }
        let Some(running) = self.nodes.running().get(pod) else { return Ok(()) };
        running.node.drain_receipt().map(|_| ()).map_err(|left| format!("is not drained: {left}"))
    }

    /// Who holds a ring of the newest epoch, or the record, that lists `node`.
    fn listed_by(&self, recorded: &Ring, node: NodeId) -> Option<String> {
        if recorded.members.contains_key(&node) {
            return Some("the record".to_owned());
        }
        let held = self.nodes.running().iter().filter_map(|(pod, running)| Some((pod, running.node.ring()?)));
        let mut newer = held.filter(|(_, ring)| ring.epoch >= recorded.epoch && ring.members.contains_key(&node));
        newer.next().map(|(pod, _)| pod.clone())
    }

    /// O2.
    fn check_record(&mut self, written: &Written<'_>) {
        let Some(valid) = self.checks.last_valid.clone() else { return };
        let read = |object: &Value| {
            let record = serde_json::from_value(object.clone()).ok()?;
            dynamo_operator::build::ring_record::read(&valid, Some(record)).ring().cloned()
        };
        let Some(ring) = read(written.after) else {
            return self.violated("O2", "the record cannot be read".to_owned());
        };
        let before = written.before.and_then(read);
        self.checks.members_ever.extend(ring.members.keys());
        let strangers: Vec<NodeId> =
            ring.members.keys().filter(|node| self.nodes.is_of_another_cluster(**node)).copied().collect();
        for stranger in strangers {
            self.violated("O7", format!("epoch {} lists {stranger}, a node of another cluster", ring.epoch));
        }
        self.check_line(ring.epoch, ring.hash(), "the record");
        let Some(before) = before else { return };
        if ring.epoch == before.epoch {
            return;
        }
        if ring.epoch != before.epoch.next() && ring.check_follows(Some(&before), ring.cluster).is_err() {
            return self.violated("O2", format!("epoch {} was recorded after {}", ring.epoch, before.epoch));
        }
        for (partition, old, moving) in before.moving() {
            let new = ring.placement(partition);
            let same = |one: &[NodeId], other: &[NodeId]| BTreeSet::from_iter(one) == BTreeSet::from_iter(other);
            let goes_on = new.moving.as_ref().is_some_and(|new| new.target == moving.target && new.since == moving.since);
            let ended = new.moving.is_none() && (same(new.replicas, moving.target) || same(new.replicas, old.replicas));
            // Taken back and begun anew in one: only while the old replicas are the ones that are read from.
            let began =
                moving.stage == ring::Stage::WriteBothReadOld && new.moving.as_ref().is_some_and(|new| new.since == ring.epoch);
            let next = new.moving.as_ref().is_some_and(|new| new.since == ring.epoch) && same(new.replicas, moving.target);
            let goes_on = goes_on || next || (began && same(new.replicas, old.replicas));
            if ring.epoch == before.epoch.next() && !goes_on && !ended {
                self.violated("O2", format!("partition {partition} moves and gets another target in epoch {}", ring.epoch));
            }
        }
    }

    fn check_line(&mut self, epoch: Epoch, hash: RingHash, holder: &str) {
        let known = *self.checks.rings.entry(epoch).or_insert(hash);
        if known != hash {
            self.violated("O2", format!("{holder} has another ring of epoch {epoch}"));
        }
    }

    /// O4, in part.
    fn check_it_changes_something(&mut self, written: &Written<'_>) {
        let sound = self.passes.get(&written.operator).is_some_and(super::stage::Pass::is_sound);
        if sound && written.before == Some(written.after) {
            self.violated("O4", format!("{} {} writes what is there already", written.method, written.path));
        }
    }

    /// O6.
    fn check_spec_holds(&mut self, written: &Written<'_>) {
        // What the pass read, it may act on: the spec may have changed since.
        let sound = self.passes.get(&written.operator).is_some_and(super::stage::Pass::is_sound);
        if sound && self.valid().is_none() && !written.path.contains("/dynamoclusters/") {
            self.violated("O6", format!("{} {} under a spec that does not hold together", written.method, written.path));
        }
    }

    /// O7.
    fn check_ownership(&mut self, written: &Written<'_>) {
        let Some(before) = written.before else { return };
        let controller = |object: &Value| {
            let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
            owners.into_iter().flatten().find(|owner| owner["controller"] == true).map(|owner| text(owner, "/uid").to_owned())
        };
        // Pods belong to sets that belong to the cluster.
        let sets = self.kubernetes.api.list(SETS).filter(|(_, set)| controller(set).as_deref() == Some(self.uid));
        let ours: BTreeSet<String> = sets.map(|(_, set)| text(set, "/metadata/uid").to_owned()).collect();
        let owned = controller(before)
            .is_some_and(|owner| owner == self.uid || (written.path.starts_with(PODS) && ours.contains(&owner)));
        let claim = written.path.starts_with(CLAIMS)
            && before.pointer("/metadata/annotations/dynamokv.io~1cluster-uid").is_some_and(|uid| uid == self.data_uid);
        let cluster = before["metadata"]["uid"] == self.uid;
        if !owned && !claim && !cluster {
            self.violated("O7", format!("{} {} is not this cluster's", written.method, written.path));
        }
    }

    /// O8.
    fn check_claim_that_goes(&mut self, written: &Written<'_>) {
        let preconditions = &written.body["preconditions"];
        if !preconditions["uid"].is_string() || !preconditions["resourceVersion"].is_string() {
            self.violated("O8", format!("{} is deleted without preconditions", written.path));
        }
        if self.goes_with_its_volumes() {
            return;
        }
        let policy = self.cluster().unwrap_or_default();
        if text(&policy, "/spec/storage/retention/whenScaled") != "Delete" {
            self.violated("O8", format!("{} is deleted against the policy", written.path));
        }
        let Some(claim) = written.before else { return };
        self.checks.deleted.insert(text(claim, "/metadata/uid").to_owned());
        self.check_deleted_claims();
    }

    /// O8, then and later.
    fn check_deleted_claims(&mut self) {
        let Some(ring) = self.ring() else { return };
        for uid in self.checks.deleted.clone() {
            let Some(node) = self.nodes.on_claim(&uid) else { continue };
            if let Some(holder) = self.listed_by(&ring, node) {
                self.violated("O8", format!("the operator deleted the claim of {node}, a member by the ring of {holder}"));
                self.checks.deleted.remove(&uid);
            }
        }
    }

    /// O10.
    fn check_configuration_that_goes(&mut self, written: &Written<'_>) {
        let preconditions = &written.body["preconditions"];
        if !preconditions["uid"].is_string() || !preconditions["resourceVersion"].is_string() {
            self.violated("O10", format!("{} is deleted without preconditions", written.path));
        }
        let name = written.path.rsplit('/').next().unwrap_or_default();
        let api = &self.kubernetes.api;
        let sets = api.list(SETS).filter(|(_, set)| text(set, "/spec/template/spec/volumes/0/configMap/name") == name);
        let pods = api.list(PODS).filter(|(_, pod)| text(pod, "/spec/volumes/0/configMap/name") == name && !is_ending(pod));
        let readers: Vec<String> = sets.chain(pods).map(|(reader, _)| reader.to_owned()).collect();
        if !readers.is_empty() {
            self.violated("O10", format!("{} is deleted and {readers:?} name it", written.path));
        }
    }

    /// O9.
    fn check_rollout(&mut self, written: &Written<'_>) {
        // A set that is made takes on pods that another left.
        let before = written.before.unwrap_or(written.after);
        let Some(ring) = self.ring() else { return };
        let replicas = number(before, "/spec/replicas");
        let partition = |set: &Value| told_from(set).min(replicas);
        // A template that is new is new to all.
        let same = written.before.is_some_and(|before| before["spec"]["template"] == written.after["spec"]["template"]);
        let (told, from) = (if same { partition(before) } else { replicas }, partition(written.after));
        let newest = revision(written.after);
        let named = |ordinal: u32| format!("{}-{ordinal}", text(before, "/metadata/name"));
        let behind =
            |pod: &String| self.kubernetes.api.get(&format!("{PODS}/{pod}")).is_some_and(|pod| pod_revision(pod) != newest);
        let serves = |pod: &String| {
            self.nodes.running().get(pod).is_some_and(|running| ring.members.contains_key(&running.node.identity().node))
        };
        let keeping = (from..told).map(named).find(|pod| behind(pod) && self.keeps_a_members_claim(pod, &ring));
        let restarted: Vec<String> = (from..told).map(named).filter(|pod| serves(pod) && behind(pod)).collect();
        // One that does not run, where no member ever was, holds up nobody.
        let counts = |pod: &String| self.nodes.running().contains_key(pod) || self.claim_of_a_member(pod, &ring).is_some();
        let early = (told..replicas).map(named).find(|pod| behind(pod) && counts(pod));
        if let Some(pod) = keeping {
            self.violated("O9", format!("{pod} is told to restart, and keeps the claim of a member that somebody deleted"));
        }
        if let (Some(early), Some(next)) = (early, restarted.first()) {
            self.violated("O9", format!("{next} is told to restart, and {early} has not got its template yet"));
        }
        if restarted.len() > 1 {
            self.violated("O9", format!("{restarted:?} are told to restart at the same time"));
        }
        for pod in restarted {
            self.check_restart(written.operator, &pod, &ring);
        }
    }

    /// O9, of a pod that the operator deletes.
    fn check_pod_that_is_deleted(&mut self, written: &Written<'_>, pod: &str) {
        let ring = self.ring();
        if self.nodes.running().contains_key(pod) {
            if !ring.as_ref().is_some_and(|ring| self.waits_behind_a_newcomer(pod, written.before, ring)) {
                self.violated("O9", format!("{} {} in which a node runs", written.method, written.path));
            } else if let Some(ring) = &ring {
                self.check_restart(written.operator, pod, ring);
            }
        }
        if ring.is_some_and(|ring| self.keeps_a_members_claim(pod, &ring)) {
            self.violated("O9", format!("{} {}, which keeps a member's claim", written.method, written.path));
        }
    }

    /// The pod was told to have another template, those above it have it, and the controller waits for one of them that carries no member.
    fn waits_behind_a_newcomer(&self, name: &str, pod: Option<&Value>, ring: &Ring) -> bool {
        let Some((set_name, ordinal)) = name.rsplit_once('-') else { return false };
        let Some(set) = self.kubernetes.api.get(&format!("{SETS}/{set_name}")) else { return false };
        let (ordinal, newest) = (ordinal.parse::<u32>().unwrap_or(0), revision(set));
        let told = ordinal >= told_from(set);
        let is_done = |other: &u32| {
            let other = self.kubernetes.api.get(&format!("{PODS}/{set_name}-{other}"));
            other.is_some_and(|other| pod_revision(other) == newest && is_ready(other))
        };
        let is_newcomer = |other: &u32| {
            let claim = self.kubernetes.api.get(&format!("{CLAIMS}/data-{set_name}-{other}"));
            let node = claim.and_then(|claim| self.nodes.on_claim(text(claim, "/metadata/uid")));
            node.is_none_or(|node| !ring.members.contains_key(&node))
        };
        let mut waited_for = (ordinal + 1..number(set, "/spec/replicas")).filter(|other| !is_done(other)).peekable();
        let outdated = pod.is_some_and(|pod| pod_revision(pod) != newest);
        told && outdated && waited_for.peek().is_some() && waited_for.all(|other| is_newcomer(&other))
    }

    /// Somebody has deleted the claim of this pod, on which a member is.
    fn keeps_a_members_claim(&self, pod: &str, ring: &Ring) -> bool {
        self.claim_of_a_member(pod, ring).is_some_and(is_ending)
    }

    /// The claim of `pod`, if a member's data is on it.
    fn claim_of_a_member(&self, pod: &str, ring: &Ring) -> Option<&Value> {
        let claim = self.kubernetes.api.get(&format!("{CLAIMS}/data-{pod}"))?;
        let node = self.nodes.on_claim(text(claim, "/metadata/uid"))?;
        (ring.members.contains_key(&node) && !ring.is_lost(node)).then_some(claim)
    }

    fn check_restart(&mut self, operator: usize, pod: &str, ring: &Ring) {
        let Some(victim) = self.nodes.running().get(pod).map(|running| running.node.identity().node) else { return };
        let Some(pass) = self.passes.get(&operator) else { return };
        // Seen by the pass, and still so.
        let behind_now = self.behind(&pass.unanswered);
        let behind: BTreeSet<NodeId> = &behind_now & &pass.behind;
        // Nobody may be able to bring them what they lack. Seen by the pass, or so by now.
        let ready = &self.live() & &pass.live;
        let cut_off = &(&behind_now | &pass.behind) - &ready;
        let (mut serving, answering) = (self.live(), self.answering(&pass.unanswered));
        serving.extend(&pass.live);
        // One that is ready is to leave behind so many that are; beside one that only answers, so may the others.
        let is_live = serving.contains(&victim);
        if !(is_live || answering.contains(&victim)) || !pass.is_sound() {
            return;
        }
        if !is_live {
            serving.extend(&answering);
        }
        let quorums = pass.asked.as_ref().map(|cluster| quorums(&cluster["spec"])).unwrap_or_default();
        let stays = |node: &NodeId| *node != victim && serving.contains(node);
        let is_left = |node: &NodeId| stays(node) && !behind.contains(node);
        let is_there = |node: &NodeId| is_live || (answering.contains(node) && !ring.is_lost(*node));
        let is_sound = |node: &NodeId| is_live || (is_there(node) && !cut_off.contains(node));
        let count = |set: &[NodeId], counts: &dyn Fn(&NodeId) -> bool| set.iter().filter(|node| counts(node)).count();
        // A set that it is not in loses nothing, however short it is.
        let loses = |set: &[NodeId], quorum: usize| {
            let needed = quorum.min(set.len().saturating_sub(1));
            let is_short = count(set, &is_sound) < needed && count(set, &stays) >= needed;
            set.contains(&victim) && count(set, &is_there) >= needed && count(set, &is_left) < needed && !is_short
        };
        let short = ring.partitions().find_map(|(partition, placement)| {
            let n = u32::from(ring.replication_of(partition));
            let quorum = quorums.get(&n).copied().unwrap_or(n as usize);
            placement.write_sets().iter().any(|set| loses(set, quorum)).then_some((partition, quorum))
        });
        if let Some((partition, quorum)) = short {
            let fewer = format!("fewer than {quorum} live replicas that lack nothing");
            self.violated("O9", format!("{pod} is restarted and partition {partition} has {fewer}"));
        }
    }

    /// O9, of nodes that have settled.
    pub fn check_settings(&mut self) {
        let Some(valid) = self.valid() else { return };
        let wanted = config_map::build(&valid).data.and_then(|mut data| data.remove(config_map::FILE)).unwrap_or_default();
        let running = self.nodes.running().iter();
        let others: Vec<String> = running.filter(|(_, running)| running.file != wanted).map(|(pod, _)| pod.clone()).collect();
        if !others.is_empty() {
            self.violated("O9", format!("{NAME} has settled and {others:?} have other settings than its spec"));
        }
    }

    /// What is judged after every round.
    pub fn check_round(&mut self) {
        let cluster = self.kubernetes.api.get(&format!("{CLUSTERS}/{NAME}"));
        let version = cluster.map(|cluster| text(cluster, "/metadata/resourceVersion").to_owned());
        if version != self.checks.cluster_seen {
            self.checks.cluster_seen = version;
            if let Some(valid) = self.valid() {
                self.checks.last_valid = Some(valid);
            }
        }
        let held: Vec<(String, Epoch, NodeId)> = self
            .nodes
            .running()
            .iter()
            .map(|(pod, running)| {
                (pod.clone(), running.node.ring().map_or(Epoch(0), |ring| ring.epoch), running.node.identity().node)
            })
            .collect();
        let mut nodes = BTreeMap::new();
        for (pod, epoch, node) in held {
            if let Some(other) = nodes.insert(node, pod.clone()) {
                self.violated("O3", format!("{pod} and {other} are both node {node}"));
            }
            if epoch > Epoch(0) && self.checks.holds.get(&pod) != Some(&epoch) {
                let hash = self.nodes.running()[&pod].node.ring().expect("it has an epoch").hash();
                self.check_line(epoch, hash, &pod);
                self.checks.holds.insert(pod, epoch);
            }
        }
        if !self.checks.deleted.is_empty() {
            self.check_deleted_claims();
        }
    }

    /// O3 for claims, O7 for what is not ours, O9 for settings: in the end.
    pub fn check_objects(&mut self) {
        self.check_settings();
        let mut noted = BTreeMap::new();
        let claims: Vec<(String, Arc<Value>)> =
            self.kubernetes.api.list(CLAIMS).map(|(name, claim)| (name.to_owned(), Arc::clone(claim))).collect();
        for (name, claim) in claims {
            let node = claim.pointer("/metadata/annotations/dynamokv.io~1node").and_then(Value::as_str);
            if let Some(node) = node
                && let Some(other) = noted.insert(node.to_owned(), name.clone())
            {
                self.violated("O3", format!("claims {name} and {other} both carry {node}"));
            }
        }
        for (path, object) in self.checks.strangers.clone() {
            if self.kubernetes.api.get(&path) != Some(&object) {
                self.violated("O7", format!("{path}, which is somebody else's, has changed"));
            }
        }
        let pods: Vec<String> =
            self.kubernetes.api.list(PODS).filter(|(_, pod)| is_ending(pod)).map(|(pod, _)| pod.to_owned()).collect();
        if !pods.is_empty() {
            self.violated("O4", format!("{NAME} has settled and {pods:?} end"));
        }
    }
}
