//! Which zones get a new pod template, and which of a zone's pods get it next: one zone at a time and one pod after the other, so that
//! a partition loses one replica at a time. A zone whose template the API server refuses keeps no other from its turn.
//!
//! The StatefulSet controller restarts pods from the highest ordinal down to the one that it is told (`partition`), each when those above
//! it are ready. It is told one more at a time, and no pod is restarted that would leave a partition with too few replicas because others
//! are down ([`Rollout::may_restart`]). A zone that is in the middle of a rollout is given the next template at once: that is how a bad
//! image is repaired.
//!
//! A pod in which nothing runs has nothing to lose but a claim that somebody deleted: unless it keeps one, it gets the newest template
//! whatever the others are like, and the operator makes it go ([`Rollout::replaced`], [`Rollout::cured`]), since the controller would wait. Where one that is in
//! trouble lies below others that run and may not be restarted, the ordinal cannot say so: for as long as that takes, the set gives its
//! template to pods that are made anew and restarts none (`OnDelete`). So the template that cures a pod costs no other, and such a pod waits
//! for no other zone.
//!
//! A growth that is blocked holds up no rollout either: a pod that cannot run, or cannot be made, where no member ever was counts for
//! nothing here. The controller waits for it all the same; so the operator itself restarts those below it, under the same rules.
//!
//! Nothing is remembered but the ordinal itself, and `OnDelete`, which stand in the set. A pod that is made anew has the newest template from there on,
//! and below it the one that all had before. So a zone that carries no member of a ring gets a template as a whole: it has nothing to lose,
//! and the template that all had before may be what keeps its nodes from the ring.

#[cfg(test)]
mod unready;

use std::collections::{BTreeMap, BTreeSet};

use dynamo_core::id::{Epoch, NodeId};
use dynamo_core::ring::Ring;

use super::quorums::{Quorum, Quorums};
use super::situation;
use crate::observed::{Note, Observed, Pod, Record, Set};
use crate::valid::{Place, ValidCluster};

/// A zone, as a rollout sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ZoneState {
    /// Its template is not the one asked for.
    pub differs: bool,
    /// It is rolling out a template ([`Rollout::is_under_way`]).
    pub rolling: bool,
    /// As far as it was told it has that one, and is well ([`Rollout::rests`]).
    pub rests: bool,
    /// All its pods are ready.
    pub healthy: bool,
    /// Its first pod may be restarted, or nothing runs in one that has nothing to lose.
    pub spares_a_pod: bool,
    /// Nothing runs in one of its pods, which has nothing to lose.
    pub idle: bool,
}

/// A zone whose template may be changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Update<'a> {
    /// Its name.
    pub zone: &'a str,
    /// It is not its turn: only pods in which nothing runs get it.
    pub idle_only: bool,
}

/// Which pods of a set get its template.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    /// Those from this ordinal on: one that has another is restarted.
    From(u32),
    /// Those that are made anew. None is restarted.
    OnDelete,
}

/// The zones whose template may be changed now, in this order: the first one that takes it is the only one. Who is refused is passed over.
///
/// While a zone is on its way, no other begins; those in the middle of a rollout get the next template at once. Such a one is on its way no
/// longer if another template is asked for and all the pods that it has told are well: where that is refused, it stands still. Pods in which
/// nothing runs wait for no other zone.
pub fn zones_to_update(zones: &BTreeMap<String, ZoneState>) -> Vec<Update<'_>> {
    let chosen = |chosen: &dyn Fn(&ZoneState) -> bool, idle_only: bool| -> Vec<Update<'_>> {
        let differing = zones.iter().filter(|(_, zone)| zone.differs && chosen(zone));
        differing.map(|(zone, _)| Update { zone, idle_only }).collect()
    };
    let is_on_its_way = |zone: &ZoneState| zone.rolling && !(zone.differs && zone.rests);
    let in_the_middle = chosen(&|zone| zone.rolling, false);
    if zones.values().any(is_on_its_way) {
        return [in_the_middle, chosen(&|zone| !zone.rolling && zone.idle, true)].concat();
    }
    // A zone with a pod that is down would not finish; it comes last, so that it does not keep the others from the change.
    let begins = |healthy: bool| chosen(&|zone| !zone.rolling && zone.spares_a_pod && zone.healthy == healthy, false);
    [in_the_middle, begins(true), begins(false)].concat()
}

/// What a look says of restarts.
pub struct Rollout<'a> {
    cluster: &'a ValidCluster,
    observed: &'a Observed,
    /// The zones whose set does not have the template that is asked for.
    differing: BTreeSet<String>,
    /// A pod has the template that is asked for and is not ready, and none like it is.
    is_untried: bool,
}

impl<'a> Rollout<'a> {
    /// `differing`: the zones whose set does not have the template that is asked for.
    pub fn of(cluster: &'a ValidCluster, observed: &'a Observed, differing: &BTreeSet<&str>) -> Self {
        let has_the_last = |place: &Place, pod: &Pod| {
            let set = observed.sets.get(&place.zone);
            set.is_some_and(|set| pod.revision == set.revision) && !differing.contains(place.zone.as_str())
        };
        // What others run on well is not what ails a pod.
        let suits_others = |place: &Place, pod: &Pod| {
            let like = |(other, peer): (&Place, &Pod)| other.zone == place.zone && peer.ready && peer.revision == pod.revision;
            observed.pods.iter().any(like)
        };
        let differing = differing.iter().map(|zone| (*zone).to_owned()).collect();
        let mut rollout = Self { cluster, observed, differing, is_untried: false };
        let is_tried = |place: &Place, pod: &Pod| pod.ready || suits_others(place, pod) || rollout.is_left_out(place);
        rollout.is_untried = observed.pods.iter().any(|(place, pod)| has_the_last(place, pod) && !is_tried(place, pod));
        rollout
    }

    /// Which pods of `zone` get a template that is new to all of them.
    pub fn first(&self, zone: &str) -> Told {
        match self.first_pod(zone) {
            from if from < self.observed.replicas(zone) => Told::From(from),
            _ if self.has_idle(zone) => Told::OnDelete,
            from => Told::From(from),
        }
    }

    /// Which pods of `zone` get the template that they are being given, if it is to say so now.
    pub fn next(&self, zone: &str) -> Option<Told> {
        let set = self.observed.sets.get(zone).filter(|set| !set.unseen)?;
        let lack_it = || self.skipped(zone).any(|(place, pod)| pod.revision != set.revision && place.ordinal < set.updates_from);
        if set.on_delete && !self.has_nothing_to_lose(zone) {
            // Nobody waits for one whose machine is dead, or that cannot be made for a while.
            let is_made = |place: &Place| match self.observed.pods.get(place) {
                Some(pod) => !pod.ending || pod.trouble.is_some(),
                None => set.nudged.is_some() || self.is_left_out(place),
            };
            let all_made = (0..set.replicas).all(|ordinal| is_made(&Place { zone: zone.to_owned(), ordinal }));
            let from = if self.another_is_on_its_way(zone) { set.replicas } else { self.resumed(zone, set) };
            return (all_made && !lack_it()).then_some(Told::From(from));
        }
        // A template that no running pod was told to have yet waits for a zone in which some were.
        let waits = set.updates_from >= set.replicas && self.another_is_on_its_way(zone);
        let next = self.next_pod(zone).filter(|_| !waits).map(Told::From);
        next.or_else(|| lack_it().then_some(Told::OnDelete))
    }

    /// Nothing runs in one of the pods of `zone`, and it keeps nothing.
    pub fn has_idle(&self, zone: &str) -> bool {
        self.skipped(zone).next().is_some()
    }

    /// The pods of `zone` that are in trouble, in which nothing runs and that keep nothing, unless the newest template has yet to show that
    /// pods become ready with it. One that only starts somewhere else is left with what it has, which may be better.
    fn skipped(&self, zone: &str) -> impl Iterator<Item = (&'a Place, &'a Pod)> {
        let replicas = if self.is_untried { 0 } else { self.observed.replicas(zone) };
        let of_zone = self.observed.pods.iter().filter(move |(place, _)| place.zone == zone && place.ordinal < replicas);
        of_zone.filter(|(place, pod)| pod.idle && pod.trouble.is_some() && !self.keeps_a_volume(place))
    }

    /// From which ordinal on the pods of a set have its template, so that none is restarted by being told to have it.
    fn resumed(&self, zone: &str, set: &Set) -> u32 {
        let has_it = |ordinal: &u32| {
            let pod = self.observed.pods.get(&Place { zone: zone.to_owned(), ordinal: *ordinal });
            pod.is_some_and(|pod| pod.revision == set.revision)
        };
        (0..set.replicas).rev().take_while(has_it).last().unwrap_or(set.replicas)
    }

    /// Pods of another zone that run were told to have a template, and are getting it.
    fn another_is_on_its_way(&self, zone: &str) -> bool {
        let others = self.observed.sets.iter().filter(|(other, _)| *other != zone);
        let mut told = others.filter(|(_, set)| set.updates_from < set.replicas);
        told.any(|(other, _)| self.is_under_way(other) && !(self.differing.contains(other) && self.rests(other)))
    }

    /// From which ordinal on the pods of `zone` get a template that is new to them: the highest, unless it may not be restarted yet.
    fn first_pod(&self, zone: &str) -> u32 {
        if self.has_nothing_to_lose(zone) {
            return 0;
        }
        let replicas = self.observed.replicas(zone);
        let first = replicas.saturating_sub(1);
        if self.may_restart(&Place { zone: zone.to_owned(), ordinal: first }) { first } else { replicas }
    }

    /// From which ordinal on the pods of `zone` get the template that they are being given, if that is one more than now: those that
    /// were told before have it and are ready, and this one has it too or may be restarted.
    fn next_pod(&self, zone: &str) -> Option<u32> {
        let set = self.observed.sets.get(zone).filter(|set| set.updates_from > 0 && !set.unseen)?;
        if self.has_nothing_to_lose(zone) {
            return Some(0);
        }
        let place = |ordinal| Place { zone: zone.to_owned(), ordinal };
        let has_it = |ordinal| self.observed.pods.get(&place(ordinal)).is_some_and(|pod| pod.revision == set.revision);
        // A set that was made smaller meanwhile has no pods up there.
        let from = set.updates_from.min(set.replicas);
        let done = (from..set.replicas).all(|ordinal| self.is_done(&place(ordinal)));
        let next = from.saturating_sub(1);
        let idle = self.observed.pods.get(&place(next)).is_some_and(|pod| pod.idle) && !self.keeps_a_volume(&place(next));
        (idle || (done && (has_it(next) || self.may_restart(&place(next))))).then_some(next)
    }

    /// The pods that are to go, so that they come back with the template that they were told to have: nothing runs in them.
    pub fn replaced(&self) -> Vec<&'a Place> {
        let idle = self.told().filter(|(place, pod)| pod.idle && !self.keeps_a_volume(place));
        idle.map(|(place, _)| place).collect()
    }

    /// The pods that are to go for the same reason where a set restarts none (`OnDelete`). One, since it is the trial for the others.
    pub fn cured(&self) -> Option<&'a Place> {
        let mut sets = self.observed.sets.iter().filter(|(_, set)| set.on_delete && !set.unseen);
        sets.find_map(|(zone, set)| self.skipped(zone).find(|(_, pod)| pod.revision != set.revision).map(|(place, _)| place))
    }

    /// The pod that runs, is to go for the same reason, and that the controller does not restart, since it waits for one above it that is
    /// left out (`is_left_out`). One, since what this look says of restarts holds for one.
    pub fn restarted(&self) -> Option<&'a Place> {
        let waited_for = |place: &Place| {
            let above = place.ordinal + 1..self.observed.replicas(&place.zone);
            let mut above = above.map(|ordinal| Place { zone: place.zone.clone(), ordinal });
            above.clone().all(|place| self.is_done(&place)) && above.any(|place| self.is_left_out(&place))
        };
        let mut running = self.told().rev().filter(|(_, pod)| !pod.idle && !pod.ending);
        running.find(|(place, _)| waited_for(place) && self.may_restart(place)).map(|(place, _)| place)
    }

    /// The pods that were told to have the newest template and do not have it.
    fn told(&self) -> impl DoubleEndedIterator<Item = (&'a Place, &'a Pod)> {
        self.observed.pods.iter().filter(|(place, pod)| {
            let set = self.observed.sets.get(&place.zone);
            set.is_some_and(|set| !set.unseen && place.ordinal >= set.updates_from && pod.revision != set.revision)
        })
    }

    /// `zone` is in the middle of a rollout, and not only because of pods that are left out (`is_left_out`).
    pub fn is_under_way(&self, zone: &str) -> bool {
        let Some(set) = self.observed.sets.get(zone).filter(|set| set.rolling) else { return false };
        let all_done = || (0..set.replicas).all(|ordinal| self.is_done(&Place { zone: zone.to_owned(), ordinal }));
        set.unseen || set.updates_from > 0 || !all_done()
    }

    /// The pods of `zone` that were told to have its newest template have it and are up, or nobody waits for them.
    pub fn rests(&self, zone: &str) -> bool {
        let told = |set: &Set| set.updates_from.min(set.replicas)..set.replicas;
        let all_done = |set: &Set| told(set).all(|ordinal| self.is_done(&Place { zone: zone.to_owned(), ordinal }));
        self.observed.sets.get(zone).is_some_and(|set| !set.unseen && all_done(set))
    }

    /// The pod at `place` has the newest template and is up, or nobody waits for it.
    fn is_done(&self, place: &Place) -> bool {
        let set = self.observed.sets.get(&place.zone);
        let has_it = |pod: &Pod| set.is_some_and(|set| pod.revision == set.revision);
        self.observed.pods.get(place).is_some_and(|pod| has_it(pod) && pod.ready) || self.is_left_out(place)
    }

    /// No member was ever at `place`, and its pod cannot run as things are, or cannot be made. Where a ring could not be read, or it is not
    /// known where a member in that zone is, it may be there.
    fn is_left_out(&self, place: &Place) -> bool {
        if !situation::is_left_out(self.observed, place) {
            return false;
        }
        let rings = self.rings().filter(|rings| !rings.is_empty());
        rings.is_some_and(|rings| situation::no_member_is_at(self.observed, rings, place))
    }

    /// Whether the pod at `place` may be restarted: without its node every partition keeps max(R, W) replicas that answer, are ready and
    /// have got what others kept for them, of whichever bucket asks most, or all but one where that is more than N - 1. One of them may be a node that others keep
    /// something for and whose disk takes none of it: waiting would not help, and what makes space may be what is rolled out.
    ///
    /// One that is down already may be. Where its node answers and Kubernetes does not call it ready, as for what runs beside the node, the
    /// same is asked of all that answer, ready or not; a partition that has too few of them with it keeps it from nothing. So pods that are
    /// all not ready are cured one after the other. What others keep for one that is not ready may never reach it as things are: where too few
    /// are left but for such ones, they count too. In no case may it be one whose member's volume would go with it.
    pub fn may_restart(&self, place: &Place) -> bool {
        if self.keeps_a_volume(place) {
            return false;
        }
        // That it did not answer us does not make it down, nor does that it is not ready.
        let is_up = self.is_up(place);
        if !is_up && self.observed.node(place).is_none() {
            return true;
        }
        let Some(rings) = self.rings() else { return !is_up && self.is_before_the_first_ring() };
        let Some(restarted) = self.node_at(place) else { return true };
        let stays = |place: &Place, node: NodeId| {
            let stays = |pod: &Pod| if is_up { pod.ready } else { !pod.ending };
            node != restarted && self.observed.pods.get(place).is_some_and(stays)
        };
        let behind = self.observed.behind();
        let full = self.observed.full().filter(|(place, node)| stays(place, node.id)).map(|(_, node)| node.id);
        let full: BTreeSet<NodeId> = full.collect();
        let staying = self.observed.nodes().filter(|(place, node)| stays(place, node.id)).map(|(_, node)| node.id);
        let staying: BTreeSet<NodeId> = staying.collect();
        let serving: BTreeSet<NodeId> = staying.iter().filter(|node| !behind.contains_key(*node)).copied().collect();
        let cut_off = self.observed.nodes().filter(|(place, node)| !self.is_up(place) && behind.contains_key(&node.id));
        let cut_off: BTreeSet<NodeId> = cut_off.map(|(_, node)| node.id).collect();
        let now = self.may_serve();
        let sound = &now - &cut_off;
        let quorums = Quorums::of(self.cluster);
        rings.into_iter().all(|ring| {
            let kept = |set: &[NodeId], quorum: usize| {
                let count = |nodes: &BTreeSet<NodeId>| {
                    let counts = |node: &&NodeId| nodes.contains(node) && !ring.is_lost(**node);
                    set.iter().filter(counts).count()
                };
                let needed = quorum.min(set.len().saturating_sub(1));
                let is_short = count(&now) < needed || (count(&sound) < needed && count(&staying) >= needed);
                !set.contains(&restarted) || (!is_up && is_short) || count(&serving) + count(&full).min(1) >= needed
            };
            ring.partitions().all(|(partition, placement)| {
                let Quorum { r, w } = quorums.on(ring, partition);
                placement.write_sets().into_iter().all(|set| kept(set, r.max(w)))
            })
        })
    }

    /// The nodes that answer, and those that may serve all the same: they did not answer us, and Kubernetes calls their pods ready, or nobody
    /// knows whether they have one.
    fn may_serve(&self) -> BTreeSet<NodeId> {
        let recorded = self.observed.record.volumes().into_iter().map(|(node, carrier)| (node, carrier.place));
        let mut places: BTreeMap<NodeId, Place> = recorded.collect();
        places.extend(self.observed.places());
        let may_serve = |place: &Place| match self.observed.pods.get(place) {
            Some(pod) => pod.ready && pod.node.is_none(),
            None => !self.observed.lacks_pod(place),
        };
        let unheard = places.into_iter().filter(|(_, place)| may_serve(place)).map(|(node, _)| node);
        unheard.chain(self.observed.nodes().map(|(_, node)| node.id)).collect()
    }

    /// Somebody has deleted the claim of a member, and the pod at `place` is all that keeps it: that it is there, whatever runs in it.
    fn keeps_a_volume(&self, place: &Place) -> bool {
        let is_there = self.observed.pods.contains_key(place);
        let deleting = self.observed.volumes.get(place).is_some_and(|volume| volume.deleting);
        let listed = |node: NodeId| {
            let lists = |ring: &Ring| ring.members.contains_key(&node) && !ring.is_lost(node);
            self.rings().is_none_or(|rings| rings.into_iter().any(lists))
        };
        is_there && deleting && self.node_at(place).is_some_and(listed)
    }

    /// No ring lists a node of `zone`.
    pub fn has_nothing_to_lose(&self, zone: &str) -> bool {
        self.rings().is_some_and(|rings| rings.iter().all(|ring| ring.members.values().all(|member| member.zone != zone)))
    }

    /// The node at `place`, by its own answer, the note on its volume or the record.
    fn node_at(&self, place: &Place) -> Option<NodeId> {
        let (places, carriers) = (self.observed.places(), self.observed.record.volumes());
        let recorded = carriers.iter().map(|(node, carrier)| (node, &carrier.place));
        places.iter().chain(recorded).find(|(_, at)| *at == place).map(|(node, _)| *node)
    }

    fn is_up(&self, place: &Place) -> bool {
        self.observed.pods.get(place).is_some_and(|pod| pod.ready)
    }

    /// There is no record, and who answers holds no ring: nodes were noted for the first one, and nobody serves.
    fn is_before_the_first_ring(&self) -> bool {
        matches!(self.observed.record, Record::Absent) && self.observed.nodes().all(|(_, node)| node.epoch == Epoch(0))
    }

    /// The rings that say who serves what; `None` if there is one and it could not be read.
    fn rings(&self) -> Option<Vec<&'a Ring>> {
        let (record, newer) = (&self.observed.record, self.observed.newer.as_ref());
        let unread = match record {
            Record::Unreadable(_) => true,
            // A node is noted on its volume before any ring lists it.
            Record::Absent => {
                let noted = || self.observed.volumes.values().any(|volume| matches!(volume.note, Note::Node(_)));
                newer.is_none() && (noted() || self.observed.nodes().any(|(_, node)| node.epoch > Epoch(0)))
            }
            Record::Held { .. } => false,
        };
        (!unread).then(|| record.ring().into_iter().chain(newer).collect())
    }
}

#[cfg(test)]
mod tests {
    use dynamo_core::rebalance;
    use dynamo_core::ring::Member;
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::observed::{Carrier, Node, Volume};
    use crate::valid::tests::valid;

    /// Four nodes in one zone, of which some do not serve.
    pub(super) fn look(down: &[u32]) -> (ValidCluster, Observed) {
        let cluster = valid(4, &[]);
        let node = |ordinal: u32| NodeId([ordinal as u8 + 1; 16]);
        let members = (0..4).map(|ordinal| (node(ordinal), Member { zone: "default".into(), weight: 1 })).collect();
        let ring = rebalance::first_ring(cluster.id, 4, 3, &members).unwrap();
        let mut observed = Observed::default();
        observed.sets.insert("default".into(), Set { replicas: 4, ..Set::default() });
        for ordinal in 0..4 {
            let ready = !down.contains(&ordinal);
            let answer = ready.then(|| Node::holding(node(ordinal), Some(&ring)));
            let pod = Pod { ready, node: answer, ..Pod::default() };
            observed.pods.insert(at(ordinal), pod);
        }
        let hash = ring.hash();
        observed.record =
            Record::Held { rings: Box::new(ring.into()), hash, resource_version: String::new(), volumes: BTreeMap::new() };
        (cluster, observed)
    }

    pub(super) fn at(ordinal: u32) -> Place {
        Place { zone: "default".into(), ordinal }
    }

    fn rollout<'a>((cluster, observed): &'a (ValidCluster, Observed)) -> Rollout<'a> {
        Rollout::of(cluster, observed, &BTreeSet::new())
    }

    pub(super) fn set(observed: &mut Observed) -> &mut Set {
        observed.sets.get_mut("default").unwrap()
    }

    #[test]
    fn no_pod_is_restarted_while_another_is_down_whatever_may_cure_it() {
        let may = |down: &[u32], ordinal: u32| rollout(&look(down)).may_restart(&at(ordinal));
        assert!((0..4).all(|ordinal| may(&[], ordinal)));
        assert!((1..4).all(|ordinal| !may(&[0], ordinal)), "some partition would have one replica left");
        assert!(may(&[3], 3), "it is down already");
        assert!(may(&[0, 3], 3));
        let (cluster, mut observed) = look(&[0]);
        (set(&mut observed).revision, observed.pods.get_mut(&at(0)).unwrap().revision) = ("new".into(), "bad".into());
        (observed.pods.get_mut(&at(0)).unwrap().stuck, observed.pods.get_mut(&at(0)).unwrap().idle) = (true, true);
        assert!(!Rollout::of(&cluster, &observed, &BTreeSet::new()).may_restart(&at(3)));
    }

    #[test]
    fn no_pod_is_restarted_that_a_buckets_own_quorum_needs() {
        let (mut cluster, observed) = look(&[0]);
        (cluster.quorum.r, cluster.quorum.w) = (1, 1);
        let may = |cluster: &ValidCluster| Rollout::of(cluster, &observed, &BTreeSet::new()).may_restart(&at(3));
        assert!(may(&cluster), "of two that are left one is enough");
        for bucket in [serde_json::json!({ "name": "orders", "r": 2 }), serde_json::json!({ "name": "orders", "w": 2 })] {
            cluster.buckets = vec![serde_json::from_value(bucket).unwrap()];
            assert!(!may(&cluster), "{:?}", cluster.buckets);
        }
        cluster.buckets = vec![serde_json::from_value(serde_json::json!({ "name": "two", "factor": 2, "w": 2 })).unwrap()];
        assert!(may(&cluster), "it has no partition of this ring");
    }

    #[test]
    fn no_pod_is_restarted_while_one_that_came_back_has_not_got_what_others_kept_for_it() {
        let (cluster, mut observed) = look(&[]);
        let keep = |observed: &mut Observed, holder: u32, target: u8, hints: u64| {
            let holder = observed.pods.get_mut(&at(holder)).unwrap().node.as_mut().unwrap();
            holder.hints.insert(NodeId([target; 16]), hints);
        };
        let may = |observed: &Observed, ordinal: u32| Rollout::of(&cluster, observed, &BTreeSet::new()).may_restart(&at(ordinal));
        keep(&mut observed, 0, 4, 1);
        assert!((0..3).all(|ordinal| !may(&observed, ordinal)), "3 lacks a write");
        assert!(may(&observed, 3), "the one that lacks it may itself be restarted");
        keep(&mut observed, 0, 4, 0);
        assert!((0..4).all(|ordinal| may(&observed, ordinal)));
        keep(&mut observed, 1, 99, 5);
        assert!((0..4).all(|ordinal| may(&observed, ordinal)), "for a node that is not there");
    }

    #[test]
    fn no_pod_is_restarted_that_alone_keeps_a_members_volume() {
        let (cluster, mut observed) = look(&[]);
        let may = |observed: &Observed, ordinal: u32| Rollout::of(&cluster, observed, &BTreeSet::new()).may_restart(&at(ordinal));
        observed.volumes.insert(at(3), Volume { deleting: true, ..Volume::default() });
        assert!(!may(&observed, 3) && may(&observed, 2));
        assert_eq!(Rollout::of(&cluster, &observed, &BTreeSet::new()).first_pod("default"), 4);
        observed.pods.get_mut(&at(3)).unwrap().ready = false;
        assert!(!may(&observed, 3), "it runs still");
        observed.pods.remove(&at(3));
        assert!(may(&observed, 3), "there is none any more");
        let (_, mut observed) = look(&[]);
        observed.volumes.insert(at(3), Volume { deleting: true, ..Volume::default() });
        observed.pods.get_mut(&at(3)).unwrap().node.as_mut().unwrap().id = NodeId([9; 16]);
        assert!(may(&observed, 3), "its node is in no ring");
    }

    /// Kubernetes keeps a claim while a pod is there that has a machine, whatever runs in it.
    #[test]
    fn a_pod_in_which_nothing_runs_keeps_its_members_volume_too() {
        let (cluster, mut observed) = look(&[2, 3]);
        (set(&mut observed).updates_from, set(&mut observed).revision) = (4, "new".into());
        for ordinal in [2, 3] {
            let pod = observed.pods.get_mut(&at(ordinal)).unwrap();
            (pod.stuck, pod.idle) = (true, true);
            let (note, deleting) = (Note::Node(NodeId([ordinal as u8 + 1; 16])), ordinal == 3);
            observed.volumes.insert(at(ordinal), Volume { note, deleting, ..Volume::default() });
        }
        let rollout = |observed: &Observed| {
            let rollout = Rollout::of(&cluster, observed, &BTreeSet::new());
            let replaced: Vec<u32> = rollout.replaced().iter().map(|place| place.ordinal).collect();
            (rollout.first_pod("default"), rollout.next_pod("default"), replaced)
        };
        assert_eq!(rollout(&observed), (4, None, vec![]));
        set(&mut observed).updates_from = 3;
        assert_eq!(rollout(&observed), (4, Some(2), vec![]), "2 has a claim that nobody deleted");
        set(&mut observed).updates_from = 2;
        assert_eq!(rollout(&observed).2, [2]);
        observed.volumes.get_mut(&at(3)).unwrap().deleting = false;
        assert_eq!(rollout(&observed), (3, None, vec![2, 3]));
    }

    #[test]
    fn hints_that_a_full_disk_refuses_are_not_waited_for() {
        let (cluster, mut observed) = look(&[]);
        let may = |observed: &Observed, ordinal: u32| Rollout::of(&cluster, observed, &BTreeSet::new()).may_restart(&at(ordinal));
        fn node(observed: &mut Observed, ordinal: u32) -> &mut Node {
            observed.pods.get_mut(&at(ordinal)).unwrap().node.as_mut().unwrap()
        }
        node(&mut observed, 1).hints.insert(NodeId([1; 16]), 5);
        assert!(!may(&observed, 3), "0 lacks writes, and will get them");
        node(&mut observed, 0).writable = false;
        assert!((0..4).all(|ordinal| may(&observed, ordinal)), "it takes none of them");
        assert_eq!(Rollout::of(&cluster, &observed, &BTreeSet::new()).first_pod("default"), 3);
        node(&mut observed, 2).writable = false;
        assert!(may(&observed, 3), "2 lacks nothing");
        node(&mut observed, 1).hints.insert(NodeId([3; 16]), 1);
        assert!(!may(&observed, 3) && !may(&observed, 1), "some partition would have no copy of what both lack");
        node(&mut observed, 1).hints.remove(&NodeId([3; 16]));
        observed.pods.get_mut(&at(0)).unwrap().ready = false;
        assert!(!may(&observed, 3), "it is down");
    }

    #[test]
    fn a_node_that_answers_late_or_holds_a_newer_ring_counts_as_what_it_is() {
        let (cluster, mut observed) = look(&[]);
        observed.pods.get_mut(&at(0)).unwrap().node = None;
        let may = |observed: &Observed, ordinal: u32| Rollout::of(&cluster, observed, &BTreeSet::new()).may_restart(&at(ordinal));
        assert!(!may(&observed, 3), "0 is ready and did not answer: it may not serve");
        observed.pods.get_mut(&at(3)).unwrap().node = None;
        assert!(may(&observed, 3), "nobody was ever noted there");
        let Record::Held { volumes, .. } = &mut observed.record else { panic!("there is a record") };
        volumes.insert(NodeId([4; 16]), Carrier { place: at(3), uid: String::new() });
        assert!(!may(&observed, 3), "the record knows who is there");
        let (_, mut observed) = look(&[0]);
        let Record::Held { rings, .. } = std::mem::take(&mut observed.record) else { panic!("there is a record") };
        assert!(!may(&observed, 3), "the nodes hold a ring that could not be read");
        assert!(may(&observed, 0));
        observed.newer = Some(rings.newest().clone());
        assert!(!may(&observed, 3), "it is not recorded, and counts");
        observed.record = Record::Unreadable("spoilt".into());
        observed.newer = None;
        assert!(!may(&observed, 3));
        assert_eq!(Rollout::of(&cluster, &observed, &BTreeSet::new()).first_pod("default"), 4);
    }

    #[test]
    fn a_rollout_goes_on_by_one_pod_when_those_before_it_are_done_and_the_rest_is_up() {
        let next = |down: &[u32], updates_from: u32, updated: &[u32]| {
            let mut look = look(down);
            for ordinal in updated {
                look.1.pods.get_mut(&at(*ordinal)).unwrap().revision = "new".into();
            }
            let set = set(&mut look.1);
            (set.updates_from, set.revision) = (updates_from, "new".into());
            rollout(&look).next_pod("default")
        };
        assert_eq!(next(&[], 4, &[]), Some(3));
        assert_eq!(next(&[], 3, &[3]), Some(2));
        assert_eq!(next(&[], 3, &[]), None, "the one before has not got it yet");
        assert_eq!(next(&[], 3, &[0, 1]), None, "what was before was asked for again: others have it, not this one");
        assert_eq!(next(&[3], 3, &[3]), None, "the one before is not ready");
        assert_eq!(next(&[0], 3, &[3]), None, "another is down");
        assert_eq!(next(&[0], 3, &[2, 3]), Some(2), "another is down, and the next has it already");
        assert_eq!(next(&[0], 1, &[1, 2, 3]), Some(0), "the one that is down is next");
        assert_eq!(next(&[], 9, &[]), Some(3), "the set was made smaller meanwhile");
        assert_eq!(next(&[], 0, &[0, 1, 2, 3]), None, "all were told");
        assert_eq!(rollout(&look(&[0])).first_pod("default"), 4, "none yet");
        assert_eq!(rollout(&look(&[])).first_pod("default"), 3);
    }

    #[test]
    fn a_pod_in_which_nothing_runs_gets_the_newest_template_whatever_the_others_are_like() {
        let (cluster, mut observed) = look(&[0, 1, 3]);
        (set(&mut observed).updates_from, set(&mut observed).revision) = (3, "new".into());
        let next = |observed: &Observed| Rollout::of(&cluster, observed, &BTreeSet::new()).next_pod("default");
        let replaced = |observed: &Observed| -> Vec<u32> {
            Rollout::of(&cluster, observed, &BTreeSet::new()).replaced().iter().map(|place| place.ordinal).collect()
        };
        assert_eq!(next(&observed), None, "3 is not ready");
        observed.pods.get_mut(&at(2)).unwrap().idle = true;
        assert_eq!(next(&observed), Some(2));
        assert_eq!(replaced(&observed), [0; 0], "it was not told yet");
        set(&mut observed).updates_from = 1;
        assert_eq!(next(&observed), None, "something runs in 0");
        assert_eq!(replaced(&observed), [2], "something runs in 1 and 3");
        for ordinal in 0..2 {
            observed.pods.get_mut(&at(ordinal)).unwrap().idle = true;
        }
        assert_eq!(replaced(&observed), [1, 2]);
        observed.pods.get_mut(&at(1)).unwrap().revision = "new".into();
        assert_eq!(replaced(&observed), [2], "1 has it");
        set(&mut observed).unseen = true;
        assert_eq!(replaced(&observed), [0; 0], "what is newest is not known");
    }

    /// What a set is told where pod 1 of four is in trouble and idle, by what it was told before; `change` makes of that what it likes.
    fn beside_an_idle_pod(updates_from: u32, change: impl Fn(&mut Observed)) -> (Told, Option<Told>, Vec<u32>) {
        let (cluster, mut observed) = look(&[1]);
        let pod = observed.pods.get_mut(&at(1)).unwrap();
        (pod.idle, pod.trouble) = (true, Some("is not scheduled".into()));
        (set(&mut observed).updates_from, set(&mut observed).revision) = (updates_from, "new".into());
        change(&mut observed);
        let rollout = Rollout::of(&cluster, &observed, &BTreeSet::new());
        let replaced = rollout.replaced().into_iter().chain(rollout.cured()).map(|place| place.ordinal).collect();
        (rollout.first("default"), rollout.next("default"), replaced)
    }

    #[test]
    fn a_pod_in_trouble_below_others_that_may_not_be_restarted_gets_the_newest_template_and_they_stay() {
        let (from, on_delete) = (|ordinal| Some(Told::From(ordinal)), Some(Told::OnDelete));
        let on_it = |observed: &mut Observed| (set(observed).on_delete, set(observed).updates_from) = (true, 4);
        let has_it = |observed: &mut Observed, ordinal: u32| observed.pods.get_mut(&at(ordinal)).unwrap().revision = "new".into();

        assert_eq!(beside_an_idle_pod(4, |_| ()), (Told::OnDelete, on_delete, vec![]));
        let under_way = |observed: &mut Observed| has_it(observed, 3);
        assert_eq!(beside_an_idle_pod(3, under_way), (Told::OnDelete, on_delete, vec![]));
        assert_eq!(beside_an_idle_pod(4, on_it), (Told::OnDelete, None, vec![1]), "it goes");
        let ends = |observed: &mut Observed| {
            on_it(observed);
            let pod = observed.pods.get_mut(&at(1)).unwrap();
            (pod.idle, pod.ending, pod.trouble) = (false, true, None);
        };
        assert_eq!(beside_an_idle_pod(4, ends).1, None, "it would come back with what it had");
        let is_gone = |observed: &mut Observed| {
            on_it(observed);
            observed.pods.remove(&at(1));
        };
        assert_eq!(beside_an_idle_pod(4, is_gone).1, None);
        let cannot_be_made = |observed: &mut Observed| {
            is_gone(observed);
            set(observed).nudged = Some(Timestamp::default());
        };
        assert_eq!(beside_an_idle_pod(4, cannot_be_made).1, from(4), "nobody waits for it");
        let does_not_end = |observed: &mut Observed| {
            ends(observed);
            observed.pods.get_mut(&at(1)).unwrap().trouble = Some("does not end".into());
        };
        assert_eq!(beside_an_idle_pod(4, does_not_end).1, from(4), "nor for it");
        let is_back = |observed: &mut Observed| {
            on_it(observed);
            has_it(observed, 1);
            has_it(observed, 3);
        };
        assert_eq!(beside_an_idle_pod(4, is_back).1, from(3), "3 has it, 2 does not");

        let only_starts = |observed: &mut Observed| observed.pods.get_mut(&at(1)).unwrap().trouble = None;
        assert_eq!(beside_an_idle_pod(4, only_starts), (Told::From(4), None, vec![]));
        let is_untried = |observed: &mut Observed| {
            has_it(observed, 3);
            let pod = observed.pods.get_mut(&at(3)).unwrap();
            (pod.ready, pod.node) = (false, None);
        };
        assert_eq!(beside_an_idle_pod(3, is_untried).1, None, "it may be better off with what it has");
        let is_untried_on_it = |observed: &mut Observed| {
            on_it(observed);
            is_untried(observed);
        };
        assert_eq!(beside_an_idle_pod(4, is_untried_on_it), (Told::From(3), from(3), vec![]));
        let keeps = |observed: &mut Observed| {
            let volume = Volume { note: Note::Node(NodeId([2; 16])), deleting: true, ..Volume::default() };
            observed.volumes.insert(at(1), volume);
        };
        assert_eq!(beside_an_idle_pod(4, keeps), (Told::From(4), None, vec![]));
        let keeps_and_was_told = |observed: &mut Observed| {
            keeps(observed);
            on_it(observed);
        };
        assert_eq!(beside_an_idle_pod(4, keeps_and_was_told).1, from(4), "nobody waits for it");
    }

    #[test]
    fn a_template_that_only_idle_pods_were_given_waits_for_the_zone_whose_turn_it_is() {
        let (cluster, mut observed) = look(&[]);
        (set(&mut observed).updates_from, set(&mut observed).revision) = (4, "new".into());
        let mut other = |change: fn(&mut Set)| {
            let mut other = Set { replicas: 2, updates_from: 1, rolling: true, ..Set::default() };
            change(&mut other);
            observed.sets.insert("b".into(), other);
            Rollout::of(&cluster, &observed, &BTreeSet::new()).next("default")
        };
        assert_eq!(other(|_| ()), None);
        assert_eq!(other(|set| set.updates_from = 2), Some(Told::From(3)), "it told none either");
        assert_eq!(other(|set| (set.updates_from, set.rolling) = (0, false)), Some(Told::From(3)), "it is through");
        // The highest pod was the one, and has it.
        observed.pods.get_mut(&at(3)).unwrap().revision = "new".into();
        set(&mut observed).on_delete = true;
        let mut after = |updates_from: u32| {
            let other = Set { replicas: 2, updates_from, rolling: updates_from > 0, ..Set::default() };
            observed.sets.insert("b".into(), other);
            Rollout::of(&cluster, &observed, &BTreeSet::new()).next("default")
        };
        assert_eq!((after(1), after(0)), (Some(Told::From(4)), Some(Told::From(3))), "the others wait their turn");
    }

    /// Four members, and a fifth pod at `newcomer` that no machine takes; the set was told from `updates_from` on, those in `updated` have it.
    fn growing(updates_from: u32, updated: &[u32]) -> (ValidCluster, Observed) {
        let (cluster, mut observed) = look(&[]);
        let newcomer = Pod { trouble: Some("is not scheduled".into()), idle: true, ..Pod::default() };
        observed.pods.insert(at(4), newcomer);
        for ordinal in updated {
            observed.pods.get_mut(&at(*ordinal)).unwrap().revision = "new".into();
        }
        *set(&mut observed) = Set { replicas: 5, rolling: true, updates_from, revision: "new".into(), ..Set::default() };
        (cluster, observed)
    }

    #[test]
    fn a_newcomer_that_cannot_run_holds_up_no_member() {
        let next = |look: &(ValidCluster, Observed)| rollout(look).next_pod("default");
        let restarted = |look: &(ValidCluster, Observed)| rollout(look).restarted().map(|place| place.ordinal);
        assert_eq!(next(&growing(4, &[])), Some(3), "and what template it has counts for nothing");
        assert_eq!(next(&growing(4, &[4])), Some(3));
        assert_eq!(restarted(&growing(4, &[4])), None, "3 is not told yet");
        assert_eq!(restarted(&growing(3, &[4])), Some(3), "the controller waits for 4");
        assert_eq!(restarted(&growing(1, &[4])), Some(3), "and one after the other");
        assert_eq!(next(&growing(3, &[4])), None, "3 has not got it yet");
        assert_eq!((next(&growing(3, &[3, 4])), restarted(&growing(3, &[3, 4]))), (Some(2), None));
        let mut gone = growing(3, &[]);
        gone.1.pods.remove(&at(4));
        assert_eq!((restarted(&gone), next(&gone)), (Some(3), None), "a quota refuses it");
        set(&mut gone.1).unseen = true;
        assert_eq!(restarted(&gone), None, "what is newest is not known");
        let mut down = growing(3, &[4]);
        down.1.pods.get_mut(&at(0)).unwrap().ready = false;
        assert_eq!(restarted(&down), None, "a member is down");
        let mut ending = growing(3, &[4]);
        ending.1.pods.get_mut(&at(3)).unwrap().ending = true;
        assert_eq!(restarted(&ending), None, "it goes already");
        let mut starting = growing(3, &[4]);
        starting.1.pods.get_mut(&at(4)).unwrap().trouble = None;
        assert_eq!((restarted(&starting), next(&starting)), (None, None), "it may only need a moment");
        let none = look(&[]);
        assert_eq!(restarted(&none), None);
    }

    #[test]
    fn a_member_that_cannot_run_is_no_newcomer() {
        let restarted = |observed: &Observed| Rollout::of(&growing(3, &[]).0, observed, &BTreeSet::new()).restarted().is_some();
        let (_, mut observed) = growing(3, &[4]);
        assert!(restarted(&observed));
        observed.volumes.insert(at(4), Volume { note: Note::Node(NodeId([4; 16])), ..Volume::default() });
        observed.pods.get_mut(&at(3)).unwrap().node = None;
        assert!(!restarted(&observed), "its volume says so");
        let (_, mut observed) = growing(3, &[4]);
        let Record::Held { volumes, rings, .. } = &mut observed.record else { panic!("there is a record") };
        let mut ring = rings.newest().clone();
        ring.members.insert(NodeId([5; 16]), Member { zone: "default".into(), weight: 1 });
        **rings = ring.into();
        volumes.insert(NodeId([5; 16]), Carrier { place: at(4), uid: String::new() });
        assert!(!restarted(&observed), "the record says so");
        let (_, mut observed) = growing(3, &[4]);
        observed.record = Record::Unreadable("spoilt".into());
        assert!(!restarted(&observed), "who is a member is not known");
        let (_, mut observed) = growing(3, &[4]);
        observed.pods.get_mut(&at(1)).unwrap().node = None;
        assert!(!restarted(&observed), "where the one is that does not answer is not known");
    }

    #[test]
    fn a_zone_is_no_longer_under_way_when_only_a_newcomer_is_waited_for() {
        let under_way = |look: &(ValidCluster, Observed)| rollout(look).is_under_way("default");
        assert!(under_way(&growing(1, &[1, 2, 3, 4])) && under_way(&growing(0, &[1, 2, 3, 4])));
        assert!(!under_way(&growing(0, &[0, 1, 2, 3])) && !under_way(&look(&[])));
        let mut look = growing(0, &[0, 1, 2, 3]);
        look.1.pods.get_mut(&at(2)).unwrap().ready = false;
        assert!(under_way(&look), "a member is not up");
        let mut look = growing(0, &[0, 1, 2, 3]);
        set(&mut look.1).unseen = true;
        assert!(under_way(&look), "what is newest is not known");
    }

    #[test]
    fn a_record_that_is_lost_is_no_record_that_never_was() {
        let (cluster, mut observed) = look(&[]);
        observed.record = Record::Absent;
        observed.pods.values_mut().for_each(|pod| pod.node = None);
        let first = |observed: &Observed| Rollout::of(&cluster, observed, &BTreeSet::new()).first_pod("default");
        assert_eq!(first(&observed), 0, "no node ever joined anything");
        observed.volumes.insert(at(1), Volume { note: Note::Node(NodeId([2; 16])), ..Volume::default() });
        assert_eq!(first(&observed), 4, "a node was noted before a ring listed it: they may all be members");
    }

    #[test]
    fn a_zone_without_members_gets_a_template_as_a_whole() {
        let (mut cluster_and_look, mut empty) = (look(&[0, 1, 2, 3]), look(&[]));
        cluster_and_look.1.record = Record::Absent;
        set(&mut cluster_and_look.1).updates_from = 4;
        assert_eq!(rollout(&cluster_and_look).first_pod("default"), 0, "no ring yet: a bad first image is repaired everywhere");
        assert_eq!(rollout(&cluster_and_look).next_pod("default"), Some(0));
        empty.1.sets.insert("b".into(), Set { replicas: 2, updates_from: 1, ..Set::default() });
        assert_eq!(rollout(&empty).first_pod("b"), 0);
        assert_eq!(rollout(&empty).next_pod("b"), Some(0));
        *set(&mut empty.1) = Set { updates_from: 2, ..Set::default() };
        empty.1.pods.clear();
        assert_eq!(rollout(&empty).first_pod("default"), 0, "no pods are asked for");
        assert_eq!(rollout(&empty).next_pod("default"), Some(0));
    }

    fn update(zones: &str) -> String {
        // "D": differs, "R": rolling, "S": stands still, "X": a pod is down, "L": too few replicas would be left, "I": nothing runs in one.
        let state = |letters: &str| ZoneState {
            differs: letters.contains('D'),
            rolling: letters.contains('R') || letters.contains('S'),
            rests: letters.contains('S'),
            healthy: !letters.contains('X'),
            spares_a_pod: !letters.contains('L'),
            idle: letters.contains('I'),
        };
        let zones = ["a", "b", "c"].into_iter().zip(zones.split(' '));
        let zones = zones.map(|(name, letters)| (name.to_owned(), state(letters))).collect();
        let shown = |update: &Update<'_>| if update.idle_only { update.zone.to_uppercase() } else { update.zone.to_owned() };
        zones_to_update(&zones).iter().map(shown).collect()
    }

    #[test]
    fn one_zone_is_rolled_at_a_time_and_none_waits_for_one_that_takes_no_template() {
        let cases = [
            ("- - -", ""),
            ("D D D", "abc"),
            ("R D D", ""),
            ("- R D", ""),
            ("- - D", "c"),
            ("DRX D D", "a"),
            ("DX D D", "bca"),
            ("DX - -", "a"),
            ("RX D D", ""),
            ("DL D DL", "b"),
            ("DL DL DL", ""),
            ("DRL D D", "a"),
            // Its next template is refused, or about to be taken.
            ("DX DS D", "bca"),
            ("DS DS -", "ab"),
            ("DS R D", "a"),
            ("DS DR D", "ab"),
            // Its template is the one that is asked for.
            ("S D D", ""),
            // What does not run waits for nobody.
            ("R DXLI D", "B"),
            ("DR DXLI DI", "aBC"),
            ("- DXI D", "cb"),
            ("R XI D", ""),
        ];
        for (zones, updated) in cases {
            assert_eq!(update(zones), updated, "{zones}");
        }
    }
}
