//! Tables of what a loss does to a ring, and random histories of joins, leaves and losses over a model of the data: sets of writes,
//! each held by the replicas that acknowledged it. In the model a put is acknowledged by exactly W of each set and by nobody more,
//! which is the least that an acknowledgement can mean.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::id::{ClusterId, Epoch};
use crate::random::Random;
use crate::rebalance::{Members, Next, first_ring, next};
use crate::ring::Member;
use crate::ring::tests::node;

fn member() -> Member {
    Member { zone: "z".into(), weight: 1 }
}

fn members(ids: impl IntoIterator<Item = u8>) -> Members {
    ids.into_iter().map(|id| (node(id), member())).collect()
}

fn ring_of(count: u8) -> Ring {
    first_ring(ClusterId([7; 16]), 4, 3, &members(1..=count)).unwrap()
}

/// Everyone but the lost answers, holds the ring and has received everything.
fn views(ring: &Ring) -> BTreeMap<NodeId, View> {
    let received = ring.moving().map(|(partition, _, _)| partition).collect();
    let view = View { epoch: ring.epoch, ring_hash: ring.hash(), received };
    ring.survivors().map(|node| (node, view.clone())).collect()
}

fn without(mut views: BTreeMap<NodeId, View>, id: u8) -> BTreeMap<NodeId, View> {
    views.remove(&node(id));
    views
}

fn lose(ring: &Ring, id: u8) -> Ring {
    let declared = declare(ring, &[node(id)], &without(views(ring), id)).unwrap();
    declared.validate().unwrap();
    declared.check_follows(Some(ring), ring.cluster).unwrap();
    declared
}

fn propose(ring: &Ring, desired: &Members) -> Ring {
    match next(ring, desired, &views(ring)).unwrap() {
        Next::Propose(next) => {
            next.validate().unwrap();
            next.check_follows(Some(ring), ring.cluster).unwrap();
            next
        }
        other => panic!("{other:?}"),
    }
}

fn settle(mut ring: Ring, desired: &Members) -> Ring {
    for _ in 0..20 {
        ring = match next(&ring, desired, &views(&ring)).unwrap() {
            Next::Settled => return ring,
            Next::Propose(_) => propose(&ring, desired),
            Next::AwaitReceipts(nodes) => crate::rebalance::without(&ring, &nodes),
            other => panic!("stuck at {other:?}"),
        };
    }
    panic!("does not settle")
}

#[test]
fn a_lost_member_is_replaced_without_its_word_and_dropped_without_its_receipt() {
    let ring = lose(&ring_of(3), 2);
    let desired = members([1, 3, 4]);
    let unfenced = next(&ring, &desired, &without(views(&ring), 3)).unwrap();
    assert_eq!(unfenced, Next::AwaitEpoch(vec![node(3)]), "everybody else's word is needed as before");
    let moving = propose(&ring, &desired);
    for (_, placement, _) in moving.moving() {
        let [(to, from)] = &placement.fills(&moving.lost)[..] else { panic!("{placement:?}") };
        assert_eq!((*to, from.iter().copied().collect()), (node(4), BTreeSet::from([node(1), node(3)])));
    }
    let settled = settle(moving, &desired);
    assert_eq!(settled.members, desired);
    assert_eq!(settled.lost, [(node(2), Epoch(2))].into(), "its id stays fenced");
    assert_eq!(settled.epoch, Epoch(6), "declared, both written, new read, new only, out");
}

#[test]
fn a_lost_id_that_is_asked_for_again_is_not_planned() {
    let settled = settle(lose(&ring_of(4), 2), &members([1, 2, 3, 4]));
    assert_eq!(settled.members, members([1, 3, 4]));
}

#[test]
fn only_a_silent_member_is_declared_lost_and_only_once_somebody_can_take_the_ring() {
    let ring = ring_of(4);
    let declared = |nodes: &[NodeId], views| declare(&ring, nodes, &views);
    assert_eq!(declared(&[node(2)], views(&ring)), Err(LossError::Answers(node(2))));
    assert_eq!(declared(&[node(9)], views(&ring)), Err(LossError::NoMember(node(9))));
    assert_eq!(declared(&[node(2)], BTreeMap::new()), Err(LossError::NobodyHolds(Epoch(1))));
    let others_behind = BTreeMap::from([(node(1), views(&ring)[&node(1)].clone())]);
    let lossy = declared(&[node(2)], others_behind).unwrap();
    assert_eq!(declare(&lossy, &[node(2)], &BTreeMap::new()), Ok(lossy), "said twice, it is said once");
}

#[test]
fn a_move_to_a_lost_member_is_taken_back_one_stage_a_ring() {
    let three = ring_of(3);
    let desired = members(1..=4);
    let old_read = propose(&three, &desired);
    let back = propose(&lose(&old_read, 4), &members(1..=3));
    assert_eq!(back.placements, three.placements, "nothing was read from the new set");

    let new_read = propose(&old_read, &desired);
    let lossy = lose(&new_read, 4);
    let once = propose(&lossy, &members(1..=3));
    assert!(once.moving().all(|(_, _, moving)| moving.stage == Stage::WriteBothReadOld && moving.target.contains(&node(4))));
    assert_eq!(once.moving().count(), new_read.moving().count());
    let waits = next(&once, &members(1..=3), &without(views(&once), 1)).unwrap();
    assert_eq!(waits, Next::AwaitEpoch(vec![node(1)]), "a reader of the new set may be left");
    let twice = propose(&once, &members(1..=3));
    assert_eq!(twice.placements, three.placements);
    assert_eq!(settle(twice, &members(1..=3)).members, members(1..=3));
}

#[test]
fn a_move_away_from_a_lost_member_goes_on() {
    let desired = members([1, 2, 4]);
    let old_read = lose(&propose(&ring_of(3), &desired), 3);
    let mut views = views(&old_read);
    views.get_mut(&node(4)).unwrap().received.clear();
    assert!(matches!(next(&old_read, &desired, &views), Ok(Next::AwaitData { .. })));
    let new_read = propose(&old_read, &desired);
    assert!(new_read.moving().all(|(_, _, moving)| moving.stage == Stage::WriteBothReadNew));
    let late = lose(&propose(&propose(&ring_of(3), &desired), &desired), 3);
    assert_eq!(propose(&late, &desired).moving().count(), 0, "complete before the loss: forward");
}

#[test]
fn moves_that_the_loss_does_not_touch_stay_where_they_are() {
    let desired = members([1, 2, 3, 4, 5, 6]);
    let moving = propose(&ring_of(5), &members([1, 2, 3, 4, 6]));
    let lossy = lose(&moving, 1);
    let back = propose(&lossy, &desired);
    for ((_, before), (_, after)) in lossy.partitions().zip(back.partitions()) {
        let Some(of) = &before.moving else { continue };
        let expected = if of.target.contains(&node(1)) { None } else { before.moving };
        assert_eq!(after.moving, expected);
    }
    assert!(back.moving().next().is_some(), "5's data still moves");
}

#[test]
fn consequences_name_the_partitions_of_which_w_copies_are_lost() {
    let ring = ring_of(3);
    let one = consequences(&ring, &[node(1)], 2);
    assert_eq!((one.affected.len(), one.at_risk.len(), one.gone.len()), (16, 0, 0));
    let two = consequences(&lose(&ring, 1), &[node(2)], 2);
    assert_eq!((two.affected.len(), two.at_risk.len(), two.gone.len()), (16, 16, 0));
    assert_eq!(consequences(&ring, &[node(1), node(2), node(3)], 3).gone.len(), 16);
    let desired = members(1..=4);
    let old_read = lose(&propose(&ring, &desired), 4);
    assert_eq!(consequences(&old_read, &[node(1)], 2).at_risk, [], "the new set was not complete, the old one has lost one");
    let new_read = propose(&propose(&ring, &desired), &desired);
    assert_eq!(consequences(&new_read, &[node(1), node(4)], 2).at_risk, [], "the old set is complete still, and has lost one");
}

#[test]
fn with_nobody_left_the_new_replicas_begin_empty_and_it_goes_on() {
    let ring = ring_of(6);
    let nodes = [node(1), node(2), node(3)];
    let mut heard = views(&ring);
    nodes.iter().for_each(|node| drop(heard.remove(node)));
    let lossy = declare(&ring, &nodes, &heard).unwrap();
    let desired = members(4..=6);
    let moving = propose(&lossy, &desired);
    let mut heard = views(&moving);
    for (partition, placement, _) in moving.moving() {
        if placement.replicas.iter().all(|node| moving.is_lost(*node)) {
            heard.values_mut().for_each(|view| view.received.retain(|received| *received != partition));
        }
    }
    assert!(matches!(next(&moving, &desired, &heard), Ok(Next::Propose(_))));
    assert_eq!(settle(moving, &desired).members, desired);
}

#[test]
fn the_longest_lost_are_forgotten_at_the_bound() {
    let mut ring = ring_of(4);
    for id in 0..LOST_MAX as u64 {
        let mut bytes = [0xff; 16];
        bytes[..8].copy_from_slice(&id.to_be_bytes());
        ring.lost.insert(NodeId(bytes), Epoch(id + 1));
    }
    ring.epoch = Epoch(LOST_MAX as u64 + 1);
    let lossy = lose(&ring, 2);
    assert_eq!(lossy.lost.len(), LOST_MAX);
    assert!(lossy.is_lost(node(2)) && !lossy.lost.values().any(|since| *since == Epoch(1)));
}

// --- random histories ---------------------------------------------------------------------------------------------------

type Write = u32;

/// A cluster of which only the sets matter.
struct Model {
    random: Random,
    ring: Ring,
    desired: Members,
    w: usize,
    data: BTreeMap<(NodeId, PartitionId), BTreeSet<Write>>,
    writes: BTreeMap<PartitionId, BTreeSet<Write>>,
    received: BTreeSet<(NodeId, PartitionId)>,
    /// Who answers now.
    away: BTreeSet<NodeId>,
    next_node: u8,
    next_write: Write,
    losses: u32,
    taken_back: u32,
}

impl Model {
    fn new(seed: u64, n: u8, w: usize) -> Self {
        let desired = members(1..=n + 1);
        Self {
            random: Random::new(seed),
            ring: first_ring(ClusterId([7; 16]), 3, n, &desired).unwrap(),
            desired,
            w,
            data: BTreeMap::new(),
            writes: BTreeMap::new(),
            received: BTreeSet::new(),
            away: BTreeSet::new(),
            next_node: n + 2,
            next_write: 0,
            losses: 0,
            taken_back: 0,
        }
    }

    fn copy(&self, node: NodeId, partition: PartitionId) -> BTreeSet<Write> {
        self.data.get(&(node, partition)).cloned().unwrap_or_default()
    }

    /// A write that W of each set acknowledge, a stand-in in the place of each that is lost, and that reaches nobody else.
    fn write(&mut self) {
        let partition = PartitionId(self.random.below(self.ring.partition_count()) as u32);
        self.next_write += 1;
        for set in self.ring.placement(partition).write_sets().into_iter().map(<[NodeId]>::to_vec).collect::<Vec<_>>() {
            let mut order = set.clone();
            while order.len() > self.w {
                order.remove(self.random.below(order.len()));
            }
            for node in order.into_iter().filter(|node| !self.ring.is_lost(*node)) {
                self.data.entry((node, partition)).or_default().insert(self.next_write);
            }
        }
        self.writes.entry(partition).or_default().insert(self.next_write);
    }

    /// One new replica receives all that one or all of its sources have, at this moment.
    fn receive(&mut self) {
        let fills: Vec<(PartitionId, NodeId, Vec<NodeId>)> = self
            .ring
            .moving()
            .flat_map(|(partition, placement, _)| {
                placement.fills(&self.ring.lost).into_iter().map(move |(to, from)| (partition, to, from))
            })
            .collect();
        if fills.is_empty() {
            return;
        }
        let (partition, to, from) = fills[self.random.below(fills.len())].clone();
        for source in from {
            let all = self.copy(source, partition);
            self.data.entry((to, partition)).or_default().extend(all);
        }
        self.received.insert((to, partition));
    }

    fn views(&self) -> BTreeMap<NodeId, View> {
        let received = |node| self.received.iter().filter(move |(to, _)| *to == node).map(|(_, partition)| *partition).collect();
        let view = |node| View { epoch: self.ring.epoch, ring_hash: self.ring.hash(), received: received(node) };
        self.ring.survivors().filter(|node| !self.away.contains(node)).map(|node| (node, view(node))).collect()
    }

    fn step(&mut self) {
        match next(&self.ring, &self.desired, &self.views()).unwrap() {
            Next::Propose(ring) => self.adopt(ring),
            Next::AwaitReceipts(nodes) => self.adopt(crate::rebalance::without(&self.ring, &nodes)),
            Next::AwaitEpoch(_) | Next::AwaitData { .. } | Next::Settled => {}
        }
    }

    fn adopt(&mut self, ring: Ring) {
        ring.validate().unwrap();
        ring.check_follows(Some(&self.ring), ring.cluster).unwrap();
        let goes_back = |at: usize| {
            let stage = |ring: &Ring| ring.placements[at].moving.as_ref().map(|moving| moving.stage);
            stage(&self.ring) == Some(Stage::WriteBothReadNew) && stage(&ring) == Some(Stage::WriteBothReadOld)
        };
        self.taken_back += u32::from((0..ring.partition_count()).any(goes_back));
        // Who is no replica any more hands back and drops; what an ended move received proves nothing to the next.
        self.data.retain(|(node, partition), _| ring.placement(*partition).involves(*node) && !ring.is_lost(*node));
        let moves = |partition: &PartitionId| {
            let since = |ring: &Ring| ring.placement(*partition).moving.as_ref().map(|moving| moving.since);
            since(&ring).is_some() && since(&ring) == since(&self.ring)
        };
        // Whose sources have become others has to receive from those.
        let sources = |ring: &Ring, node: &NodeId, partition: &PartitionId| {
            ring.placement(*partition).fills(&ring.lost).into_iter().find(|(to, _)| to == node)
        };
        self.received.retain(|(node, partition)| {
            moves(partition) && sources(&ring, node, partition) == sources(&self.ring, node, partition)
        });
        self.ring = ring;
    }

    /// A disk is destroyed, if the promise allows one more.
    fn lose(&mut self) {
        let lost = self.ring.members.keys().filter(|node| self.ring.is_lost(**node)).count();
        let survivors: Vec<NodeId> = self.ring.survivors().collect();
        if lost + 1 >= self.w || survivors.len() <= 1 {
            return;
        }
        let node = survivors[self.random.below(survivors.len())];
        let mut views = self.views();
        views.remove(&node);
        let Ok(ring) = declare(&self.ring, &[node], &views) else { return };
        assert_eq!(consequences(&self.ring, &[node], self.w).at_risk, []);
        self.losses += 1;
        self.away.remove(&node);
        self.desired.remove(&node);
        self.join();
        self.adopt(ring);
    }

    fn join(&mut self) {
        self.desired.insert(node(self.next_node), member());
        self.next_node += 1;
    }

    fn leave(&mut self) {
        if self.desired.len() > usize::from(self.ring.replication) {
            let at = self.random.below(self.desired.len());
            let node = *self.desired.keys().nth(at).unwrap();
            self.desired.remove(&node);
        }
    }

    /// A read asks R of those of the read set that are left: each such quorum meets every write.
    fn check(&self, what: &str) {
        let n = usize::from(self.ring.replication);
        let r = n + 1 - self.w;
        for (partition, writes) in &self.writes {
            let set = self.ring.placement(*partition).read_set();
            let left: Vec<NodeId> = set.iter().filter(|node| !self.ring.is_lost(**node)).copied().collect();
            for write in writes {
                let holders = left.iter().filter(|node| self.copy(**node, *partition).contains(write)).count();
                let epoch = self.ring.epoch;
                assert!(holders > 0, "{what}, epoch {epoch}: write {write} of {partition} is lost");
                assert!(r > left.len() - holders, "{what}, epoch {epoch}: {r} of {left:?} miss write {write} of {partition}");
            }
        }
    }

    fn run(mut self, what: &str) -> (u32, u32) {
        for _ in 0..400 {
            match self.random.below(36) {
                0 => self.lose(),
                1 if self.next_node < 200 => self.join(),
                2 => self.leave(),
                3 => {
                    let all: Vec<NodeId> = self.ring.survivors().collect();
                    self.away.insert(all[self.random.below(all.len())]);
                }
                4..=6 => self.away.clear(),
                7..=16 => self.write(),
                17..=29 => (0..4).for_each(|_| self.receive()),
                _ => self.step(),
            }
            self.check(what);
        }
        self.away.clear();
        let settled = |model: &Self| next(&model.ring, &model.desired, &model.views()) == Ok(Next::Settled);
        for _ in 0..2_000 {
            if settled(&self) {
                break;
            }
            (0..64).for_each(|_| self.receive());
            self.step();
            self.check(what);
        }
        assert!(settled(&self), "{what}");
        assert_eq!(self.ring.members, self.desired, "{what}");
        (self.losses, self.taken_back)
    }
}

#[test]
fn no_history_of_joins_leaves_and_losses_loses_a_write_or_hides_it_from_a_quorum() {
    let (mut losses, mut taken_back) = (0, 0);
    for seed in 0..150 {
        for (n, w) in [(3, 2), (3, 3), (5, 3)] {
            let (lost, back) = Model::new(seed, n, w).run(&format!("seed {seed}, N = {n}, W = {w}"));
            losses += lost;
            taken_back += back;
        }
    }
    assert!(losses > 1_000 && taken_back > 30, "{losses} losses, {taken_back} taken back");
}
