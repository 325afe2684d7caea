//! A small world in which steps have effects: pods start, nodes answer or do not, data arrives at once. It checks at every step what
//! may never happen, while the size is changed, nodes fail, the operator dies half way and people meddle.

use std::collections::{BTreeMap, BTreeSet};

use dynamo_core::id::{Epoch, NodeId};
use dynamo_core::node::receipt::Receipt;
use dynamo_core::rebalance::chain::Chain;
use dynamo_core::ring::Ring;

use crate::api::RetentionPolicy;
use crate::observed::{Carrier, Node, Note, Observed, Pod, Record, Set, Volume};
use crate::plan::{Cause, Step, next_step, receipts_wanted};
use crate::valid::tests::valid;
use crate::valid::{Place, ValidCluster};

/// Steps after which a history must have come to rest.
const STEPS_MAX: usize = 120;

struct Disk {
    node: NodeId,
    ring: Option<Ring>,
    noted: bool,
    drained: bool,
}

struct World {
    zones: &'static [&'static str],
    cluster: ValidCluster,
    sets: BTreeMap<String, u32>,
    disks: BTreeMap<Place, Disk>,
    down: BTreeSet<Place>,
    record: Option<Ring>,
    /// The rings before the recorded one that are recorded too.
    before: Vec<Ring>,
    carriers: BTreeMap<NodeId, Carrier>,
    /// The epoch under which each node last gave a receipt.
    receipts: BTreeMap<NodeId, Epoch>,
    /// The last epoch that listed each node.
    listed: BTreeMap<NodeId, Epoch>,
    nodes_made: u8,
    log: Vec<String>,
}

impl World {
    fn new(replicas: i32, zones: &'static [&'static str]) -> Self {
        Self {
            zones,
            cluster: valid(replicas, zones),
            sets: BTreeMap::new(),
            disks: BTreeMap::new(),
            down: BTreeSet::new(),
            record: None,
            before: Vec::new(),
            carriers: BTreeMap::new(),
            receipts: BTreeMap::new(),
            listed: BTreeMap::new(),
            nodes_made: 0,
            log: Vec::new(),
        }
    }

    fn scale(&mut self, replicas: i32) {
        let retention = self.cluster.storage.retention;
        self.cluster = valid(replicas, self.zones);
        self.cluster.storage.retention = retention;
        self.log.push(format!("scale to {replicas}"));
    }

    fn running(&self) -> Vec<Place> {
        let places = |(zone, replicas): (&String, &u32)| {
            let zone = zone.clone();
            (0..*replicas).map(move |ordinal| Place { zone: zone.clone(), ordinal }).collect::<Vec<_>>()
        };
        self.sets.iter().flat_map(places).collect()
    }

    /// The StatefulSet controller: pods start, with the volume of their place.
    fn start_pods(&mut self) {
        for place in self.running() {
            if !self.disks.contains_key(&place) {
                self.nodes_made += 1;
                self.disks.insert(place, Disk { node: NodeId([self.nodes_made; 16]), ring: None, noted: false, drained: false });
            }
        }
    }

    fn observe(&mut self) -> Observed {
        self.start_pods();
        self.gossip();
        let mut observed = Observed::default();
        for (zone, replicas) in &self.sets {
            observed.sets.insert(zone.clone(), Set { replicas: *replicas, ..Set::default() });
        }
        for place in self.running() {
            let disk = &self.disks[&place];
            let ring = disk.ring.as_ref();
            let received = ring.into_iter().flat_map(Ring::moving).map(|(partition, _, _)| partition).collect();
            let node = Node { received, ..Node::holding(disk.node, ring) };
            let up = !self.down.contains(&place);
            // Of some that are down it is known that they cannot run.
            let trouble = (!up && place.ordinal % 2 == 0).then(|| "Unschedulable".to_owned());
            observed.pods.insert(place, Pod { ready: up, node: up.then_some(node), trouble, ..Pod::default() });
        }
        for (place, disk) in &self.disks {
            let note = if disk.noted { Note::Node(disk.node) } else { Note::None };
            let uid = disk.node.to_string();
            let volume = Volume { note, ours: true, uid, drained: disk.drained, ..Volume::default() };
            observed.volumes.insert(place.clone(), volume);
        }
        if let Some(ring) = &self.record {
            observed.record = Record::Held {
                hash: ring.hash(),
                rings: Box::new(Chain::read(self.before.clone(), ring.clone())),
                resource_version: String::new(),
                volumes: self.carriers.clone(),
            };
        }
        let rings = observed.nodes().filter_map(|(place, _)| self.disks[place].ring.as_ref());
        let newest = rings.max_by_key(|ring| ring.epoch).cloned();
        observed.newer = newest.filter(|ring| self.record.as_ref().is_none_or(|record| ring.epoch > record.epoch));
        for place in receipts_wanted(&self.cluster, &observed) {
            let disk = &self.disks[&place];
            let ring = disk.ring.as_ref().expect("asked of nodes that hold the recorded ring");
            assert_eq!(ring.partitions_of(disk.node), 0, "{:#?}", self.log);
            self.receipts.insert(disk.node, ring.epoch);
            let receipt = Receipt { node: disk.node, epoch: ring.epoch, ring_hash: ring.hash(), handed_over: Vec::new() };
            observed.receipts.insert(disk.node, Ok(receipt));
        }
        observed
    }

    fn apply(&mut self, step: &Step, observed: &Observed) {
        match step {
            Step::RaisePods(zones) => {
                for (zone, replicas) in zones {
                    assert!(self.sets.insert(zone.clone(), *replicas).is_none_or(|before| before < *replicas));
                }
            }
            Step::NoteIdentities(notes) => {
                for (place, node) in notes {
                    let disk = self.disks.get_mut(place).expect("a volume");
                    assert_eq!(disk.node, *node);
                    (disk.noted, disk.drained) = (true, false);
                }
            }
            Step::RecordRing { ring, cause } => {
                ring.validate().unwrap();
                if *cause != Cause::Found {
                    ring.check_follows(self.record.as_ref(), self.cluster.id).unwrap();
                }
                for node in ring.survivors() {
                    self.listed.insert(node, ring.epoch);
                    assert!(self.disks.values().any(|disk| disk.node == node && disk.noted), "a member that is not noted");
                    let member = self.record.as_ref().is_some_and(|record| record.members.contains_key(&node));
                    let answers = observed.nodes().any(|(_, answer)| answer.id == node);
                    assert!(member || answers || *cause == Cause::Found, "{node} joins unseen: {:#?}", self.log);
                }
                for node in ring.lost.keys() {
                    assert!(self.disks.values().all(|disk| disk.node != *node), "{node} still has its disk: {:#?}", self.log);
                }
                self.carriers = self.observe().carriers(ring);
                self.before = observed.rings_with(ring).unwrap().before().to_vec();
                self.record = Some((**ring).clone());
            }
            Step::RecordVolumes(carriers) => self.carriers = carriers.clone(),
            Step::OfferRing(places) => places.iter().for_each(|place| self.offer(place)),
            Step::LowerPods(zones) => self.lower(zones, observed),
            Step::DeleteVolumes(places) => {
                for place in places {
                    let disk = self.disks.remove(place).expect("a volume");
                    assert!(place.ordinal >= self.sets[&place.zone], "a pod uses it");
                    assert!(!self.record.as_ref().unwrap().members.contains_key(&disk.node), "it carries a member");
                }
            }
            Step::AwaitPods(_)
            | Step::AwaitEpoch(_)
            | Step::AwaitData { .. }
            | Step::AwaitReceipts(_)
            | Step::RebalancingPaused(_)
            | Step::AwaitRollout(_)
            | Step::Blocked(_)
            | Step::Converged => {}
        }
    }

    fn offer(&mut self, place: &Place) {
        let disk = self.disks.get_mut(place).unwrap();
        let rings = Chain::read(self.before.clone(), self.record.clone().unwrap());
        let Some(ring) = rings.after(disk.ring.as_ref().map_or(Epoch(0), |held| held.epoch)) else { return };
        let exact = disk.ring.as_ref().is_none_or(|held| held.epoch.next() == ring.epoch);
        if !self.down.contains(place) && exact && ring.check_follows(disk.ring.as_ref(), self.cluster.id).is_ok() {
            disk.ring = Some(ring.clone());
        }
    }

    /// Nodes that missed more than one ring hear of the newest from the others.
    fn gossip(&mut self) {
        let up: Vec<_> = self.running().into_iter().filter(|place| !self.down.contains(place)).collect();
        let rings = up.iter().filter_map(|place| self.disks.get(place)?.ring.as_ref());
        let Some(newest) = rings.max_by_key(|ring| ring.epoch).cloned() else { return };
        for place in up {
            if let Some(disk) = self.disks.get_mut(&place)
                && disk.ring.as_ref().is_some_and(|held| held.epoch.next() < newest.epoch)
            {
                disk.ring = Some(newest.clone());
            }
        }
    }

    fn lower(&mut self, zones: &BTreeMap<String, u32>, observed: &Observed) {
        let record = self.record.clone().expect("there is a ring");
        for (zone, replicas) in zones {
            for (place, _) in observed.proven_volumes(zone, *replicas) {
                self.disks.get_mut(place).expect("a volume").drained = true;
            }
            let before = self.sets.insert(zone.clone(), *replicas).expect("the set exists");
            assert!(*replicas < before && *replicas >= self.cluster.replicas_of(zone));
            for ordinal in *replicas..before {
                let node = self.disks[&Place { zone: zone.clone(), ordinal }].node;
                assert!(!record.members.contains_key(&node), "a member's pod went: {:#?}", self.log);
                if let Some(listed) = self.listed.get(&node).filter(|_| !record.is_lost(node)) {
                    assert!(self.receipts.get(&node) > Some(listed), "{node} went without a receipt: {:#?}", self.log);
                }
            }
        }
    }

    /// Every member is on the disk that the record names.
    fn is_whole(&self, ring: &Ring) -> bool {
        let on_disk = |node: &NodeId| self.disks.values().any(|disk| disk.node == *node);
        ring.members.keys().all(|node| on_disk(node) && self.carriers.contains_key(node))
    }

    /// One look and one step.
    fn pass(&mut self) -> Step {
        let observed = self.observe();
        let step = next_step(&self.cluster, &observed);
        self.log.push(format!("{step:?}").chars().take(120).collect());
        self.apply(&step, &observed);
        step
    }

    fn settle(&mut self) {
        for _ in 0..STEPS_MAX {
            if self.pass() == Step::Converged {
                self.check_settled();
                return;
            }
        }
        panic!("does not come to rest: {:#?}", self.log);
    }

    fn check_settled(&self) {
        for zone in self.cluster.zones() {
            assert_eq!(self.sets[&zone.name], zone.replicas, "{:#?}", self.log);
        }
        let record = self.record.as_ref().unwrap();
        let kept: BTreeSet<_> = self.cluster.places().map(|place| self.disks[&place].node).collect();
        assert_eq!(record.members.keys().copied().collect::<BTreeSet<_>>(), kept);
        assert_eq!(record.moving().count(), 0);
        assert!(self.cluster.places().all(|place| self.disks[&place].ring.as_ref() == Some(record)));
    }
}

#[test]
fn a_new_cluster_comes_to_rest_with_one_ring_over_all_its_nodes() {
    for zones in [&[][..], &["a", "b", "c"]] {
        let mut world = World::new(3, zones);
        world.settle();
        assert_eq!(world.record.as_ref().unwrap().epoch, Epoch(1));
    }
}

#[test]
fn a_cluster_grows_and_shrinks_and_comes_to_rest() {
    for zones in [&[][..], &["a", "b", "c"]] {
        let mut world = World::new(3, zones);
        for replicas in [3, 5, 3, 7, 6, 3] {
            world.scale(replicas);
            world.settle();
        }
    }
}

#[test]
fn a_change_of_mind_at_any_step_comes_to_rest_too() {
    for (first, then) in [(5, 3), (3, 5), (7, 4)] {
        for change_after in 0..24 {
            let mut world = World::new(first.min(5), &[]);
            world.settle();
            world.scale(then);
            for _ in 0..change_after {
                world.pass();
            }
            world.scale(first);
            world.settle();
        }
    }
}

#[test]
fn a_volume_of_a_node_that_left_is_deleted_only_under_the_policy() {
    for (policy, kept) in [(RetentionPolicy::Retain, 5), (RetentionPolicy::Delete, 3)] {
        let mut world = World::new(5, &[]);
        world.cluster.storage.retention.when_scaled = policy;
        world.settle();
        world.scale(3);
        world.settle();
        assert_eq!(world.disks.len(), kept);
        world.scale(5);
        world.settle();
    }
}

#[test]
fn a_set_that_somebody_lowered_is_raised_again_and_nothing_is_lost() {
    let mut world = World::new(5, &[]);
    world.settle();
    let members = world.record.as_ref().unwrap().members.clone();
    world.sets.insert("default".into(), 2);
    world.settle();
    assert_eq!(world.record.as_ref().unwrap().members, members);
    // Also while the spec asks for fewer: the data of the missing members has to be moved first.
    world.sets.insert("default".into(), 3);
    world.scale(3);
    world.settle();
}

#[test]
fn a_leaving_node_that_does_not_answer_keeps_its_pod_until_it_does() {
    for down_after in 0..12 {
        let mut world = World::new(5, &[]);
        world.settle();
        world.scale(3);
        for _ in 0..down_after {
            world.pass();
        }
        let silent = Place { zone: "default".into(), ordinal: 4 };
        let there = world.sets["default"] == 5;
        world.down.insert(silent.clone());
        for _ in 0..STEPS_MAX {
            world.pass();
        }
        assert_eq!(world.sets["default"], if there { 5 } else { 3 }, "{:#?}", world.log);
        world.down.clear();
        world.settle();
    }
}

#[test]
fn a_growth_whose_pods_never_ran_is_taken_back_though_their_volumes_were_used_before() {
    let mut world = World::new(5, &[]);
    world.settle();
    world.scale(3);
    world.settle();
    for seen in [false, true] {
        let places: Vec<Place> = (3..5).map(|ordinal| Place { zone: "default".into(), ordinal }).collect();
        // One of them may run before it is gone again: then it is asked once more.
        world.down.extend(places[..2 - usize::from(seen)].iter().cloned());
        world.scale(5);
        (0..STEPS_MAX).for_each(|_| drop(world.pass()));
        world.down.extend(places);
        world.scale(3);
        if seen {
            (0..STEPS_MAX).for_each(|_| drop(world.pass()));
            assert_eq!(world.sets["default"], 5, "{:#?}", world.log);
            world.down.clear();
        }
        world.settle();
        world.down.clear();
    }
}

#[test]
fn a_lost_volume_is_replaced_wherever_a_scaling_stands() {
    for lost_after in 0..20 {
        for ordinal in 0..5 {
            let mut world = World::new(5, &[]);
            world.settle();
            world.scale(3);
            for _ in 0..lost_after {
                world.pass();
            }
            let place = Place { zone: "default".into(), ordinal };
            let member =
                world.disks.get(&place).is_some_and(|disk| world.record.as_ref().unwrap().members.contains_key(&disk.node));
            if !world.running().contains(&place) {
                continue;
            }
            let lost = world.disks.remove(&place).unwrap();
            world.log.push(format!("the volume of {place} is lost"));
            world.settle();
            assert_eq!(world.record.as_ref().unwrap().is_lost(lost.node), member, "{:#?}", world.log);
        }
    }
}

/// Two volumes are lost while one node answers beside the new ones; then all three are, and the new ones' pods are none that stay.
#[test]
fn a_ring_whose_only_holder_lost_its_volume_reaches_the_others_from_the_record() {
    let mut world = World::new(6, &[]);
    world.settle();
    world.scale(3);
    world.cluster.accepted_losses = (1..=6).map(|id| NodeId([id; 16])).collect();
    let place = |ordinal| Place { zone: "default".into(), ordinal };
    world.down.extend((0..3).map(place));
    for (lost, epoch) in [(4, 2), (5, 3)] {
        let lost = place(lost);
        world.disks.remove(&lost);
        while world.record.as_ref().unwrap().epoch < Epoch(epoch) {
            world.pass();
        }
        // Nobody else hears of it.
        world.offer(&place(3));
        world.start_pods();
        world.down.insert(lost);
    }
    let held = |world: &World, ordinal| world.disks[&place(ordinal)].ring.as_ref().unwrap().epoch;
    assert_eq!((0..4).map(|ordinal| held(&world, ordinal).0).collect::<Vec<_>>(), [1, 1, 1, 3]);
    world.disks.remove(&place(3));
    world.down.clear();
    world.settle();
}

#[test]
fn a_lost_record_is_taken_from_the_nodes() {
    let mut world = World::new(3, &[]);
    world.settle();
    let ring = world.record.take();
    world.settle();
    assert_eq!(world.record, ring);
}

/// The world's own numbers, so that a failing history is named by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[test]
fn whatever_happens_on_the_way_no_data_is_lost_and_the_end_is_what_was_asked() {
    for seed in 0..400 {
        let mut random = Random(seed);
        let zones: &[&str] = if seed % 2 == 0 { &[] } else { &["a", "b", "c"] };
        let mut world = World::new(3, zones);
        if seed % 3 == 0 {
            world.cluster.storage.retention.when_scaled = RetentionPolicy::Delete;
        }
        world.log.push(format!("seed {seed}"));
        for _ in 0..200 {
            disturb(&mut world, &mut random);
        }
        world.down.clear();
        world.scale(3 + random.below(4) as i32);
        world.settle();
    }
}

fn disturb(world: &mut World, random: &mut Random) {
    match random.below(16) {
        0 => world.scale(3 + random.below(4) as i32),
        1 => {
            let running = world.running();
            if !running.is_empty() {
                world.down.insert(running[random.below(running.len() as u64) as usize].clone());
            }
        }
        2 | 3 => world.down.clear(),
        // Somebody scales a StatefulSet by hand.
        4 => {
            let count = random.below(5) as u32;
            if let Some(replicas) = world.sets.values_mut().next() {
                *replicas = count;
            }
        }
        // A volume is lost, if all members have theirs and it is known whose it was; its pod starts with a new one.
        7 if world.record.as_ref().is_some_and(|ring| world.is_whole(ring)) => {
            let places: Vec<Place> = world.disks.keys().cloned().collect();
            let place = &places[random.below(places.len() as u64) as usize];
            if world.running().contains(place) {
                world.disks.remove(place);
                world.log.push(format!("the volume of {place} is lost"));
            }
        }
        // The operator dies after it looked; another one looks.
        5 => drop(world.observe()),
        // The operator dies while it offers a ring: one node has it, and gossip may have told others.
        6 => {
            let observed = world.observe();
            if let Step::OfferRing(places) = next_step(&world.cluster, &observed) {
                world.offer(&places[random.below(places.len() as u64) as usize]);
            }
        }
        _ => {
            world.pass();
        }
    }
}
