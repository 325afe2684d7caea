//! How much moves at the same time, and when what has arrived goes on.
//!
//! A plan is not moved all at once: what moves is written twice, lies on two disks, and is for nothing if other members are asked
//! for. So no node receives, and none sends, more partitions at a time than its limit; whatever is done makes room for more. Nothing
//! of the plan is kept anywhere: it is made again from the ring, in which what moves counts as moved. The planner moves the least,
//! so what it asked for before is on one of its shortest ways, and it does not change its mind about what moves already.
//!
//! A ring for each partition that has arrived would be many rings; one for all of them would let the slowest node hold up the
//! others. So a ring is proposed when some node has received half of what moves to it, and takes along whatever has arrived
//! anywhere: a batch needs a few rings more than the three of one partition, and whoever is stuck holds up itself alone.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::id::{Epoch, NodeId};
use crate::rebalance::{Members, Next, PlanError, View, members_after, order, revision};
use crate::ring::{Move, Placement, Ring, Stage};

/// How many partitions may move at the same time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// To one node.
    pub receive: usize,
    /// From one node.
    pub send: usize,
}

impl Default for Limits {
    /// A node streams a handful of partitions at a time, so a batch of this size keeps it at work for some dozen of them while the
    /// writer of rings looks away. Of 1,024 partitions on three nodes a fourth gets its 768 in six batches; of 256 all in two.
    fn default() -> Self {
        Self { receive: 128, send: 128 }
    }
}

/// What moves ask of each node, in preference lists.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Loads {
    /// What each receives.
    pub receive: BTreeMap<NodeId, usize>,
    /// What each sends.
    pub send: BTreeMap<NodeId, usize>,
}

/// The new replicas of a list in any layer, and all that fill them.
fn fills(placement: &Placement, ring: &Ring) -> BTreeMap<NodeId, BTreeSet<NodeId>> {
    let mut fills: BTreeMap<NodeId, BTreeSet<NodeId>> = BTreeMap::new();
    for (to, sources) in ring.layers().flat_map(|n| placement.first(n).fills(&ring.lost)) {
        fills.entry(to).or_default().extend(sources);
    }
    fills
}

impl Loads {
    fn add(&mut self, placement: &Placement, ring: &Ring) {
        for (to, sources) in fills(placement, ring) {
            *self.receive.entry(to).or_default() += 1;
            for source in sources {
                *self.send.entry(source).or_default() += 1;
            }
        }
    }

    /// Whether `placement` may move beside what moves already. One that asks more of a node than its limit moves when that node
    /// has nothing else to do, or it never would.
    fn have_room(&self, placement: &Placement, ring: &Ring, limits: &Limits) -> bool {
        let mut alone = Self::default();
        alone.add(placement, ring);
        let within = |loads: &BTreeMap<NodeId, usize>, more: &BTreeMap<NodeId, usize>, limit: usize| {
            more.iter().all(|(node, more)| loads.get(node).is_none_or(|load| load + more <= limit))
        };
        within(&self.receive, &alone.receive, limits.receive) && within(&self.send, &alone.send, limits.send)
    }
}

/// Whether the same nodes have every layer by both lists: in a ring whose buckets all have its N, whatever their order is.
fn same_holders(ring: &Ring, one: &[NodeId], other: &[NodeId]) -> bool {
    let first = |list: &'_ [NodeId], n: u8| list.iter().take(usize::from(n)).copied().collect::<BTreeSet<_>>();
    ring.layers().all(|n| first(one, n) == first(other, n))
}

/// What each partition has, where what moves counts as moved.
fn moved(ring: &Ring) -> Vec<Vec<NodeId>> {
    let moved = |placement: &Placement| match &placement.moving {
        Some(moving) => moving.target.clone(),
        None => placement.replicas.clone(),
    };
    ring.placements.iter().map(moved).collect()
}

/// What is left to do on the way to some members.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Left {
    /// Partitions that are not where they belong, or move there.
    pub partitions: usize,
    /// Copies that are to be made, or being made.
    pub copies: usize,
    /// The same by node.
    pub loads: Loads,
    /// Partitions of all layers that each node sends, once for each copy that they fill.
    pub sent: BTreeMap<NodeId, usize>,
}

/// What is left on the way from `ring` to `wanted`, by the plan that a writer of rings would follow now.
pub fn left(ring: &Ring, wanted: &Members) -> Result<Left, PlanError> {
    let members = members_after(ring, wanted);
    let target = if members == ring.members || ring.moving().next().is_none() {
        order::planned(&moved(ring), &members, ring)?
    } else {
        revision::plan(ring, &members)?
    };
    let mut left = Left::default();
    for (placement, target) in ring.placements.iter().zip(target) {
        let goes_back = members != ring.members && revision::goes_back(placement, &target, ring, &members);
        let held = match &placement.moving {
            Some(moving) if moving.stage == Stage::WriteBothReadNew && !goes_back => &moving.target,
            Some(_) | None => &placement.replicas,
        };
        let moving = Some(Move { stage: Stage::WriteBothReadOld, target, since: ring.epoch });
        let rest = Placement { replicas: held.clone(), moving };
        let fills = fills(&rest, ring).len();
        left.partitions += usize::from(fills > 0 || placement.moving.is_some());
        left.copies += fills;
        left.loads.add(&rest, ring);
        let sources = ring.layers().flat_map(|n| rest.first(n).fills(&ring.lost)).flat_map(|(_, sources)| sources);
        sources.for_each(|source| *left.sent.entry(source).or_default() += 1);
    }
    Ok(left)
}

/// Where `target` has the nodes that a partition has, in an order that is as good in every layer, nothing has to move.
pub(super) fn reorder(ring: &mut Ring, target: &[Vec<NodeId>]) {
    for (at, target) in target.iter().enumerate() {
        if ring.placements[at].moving.is_none() && same_holders(ring, &ring.placements[at].replicas, target) {
            ring.placements[at].replicas.clone_from(target);
        }
    }
}

/// Starts what has room of the way to `target`: first the partitions that have lost copies, then the others, in order.
pub(super) fn start(ring: &mut Ring, target: &[Vec<NodeId>], since: Epoch, limits: &Limits) {
    let mut loads = Loads::default();
    ring.placements.iter().for_each(|placement| loads.add(placement, ring));
    let same = |at: usize| same_holders(ring, &ring.placements[at].replicas, &target[at]);
    let waits = |at: &usize| ring.placements[*at].moving.is_none() && !same(*at);
    let mut waiting: Vec<usize> = (0..ring.placements.len()).filter(waits).collect();
    let lost = |at: &usize| ring.placements[*at].replicas.iter().filter(|node| ring.is_lost(**node)).count();
    waiting.sort_by_key(|at| Reverse(lost(at)));
    for at in waiting {
        let moving = Some(Move { stage: Stage::WriteBothReadOld, target: target[at].clone(), since });
        let placement = Placement { moving, ..ring.placements[at].clone() };
        if loads.have_room(&placement, ring, limits) {
            loads.add(&placement, ring);
            ring.placements[at] = placement;
        }
    }
}

/// Moves go on whose evidence is complete. In their place more of the ring's plan begins, unless there are no `limits`: then what is
/// under way comes to its end.
pub(super) fn advanced(ring: &Ring, views: &BTreeMap<NodeId, View>, limits: Option<&Limits>) -> Next {
    let arrivals = Arrivals::of(ring, views);
    let finishing = ring.moving().any(|(_, _, moving)| moving.stage == Stage::WriteBothReadNew);
    if !finishing && !arrivals.are_worth_a_ring() {
        let Arrivals { received, moving, waiting_for, .. } = arrivals;
        return Next::AwaitData { received, moving, waiting_for: waiting_for.into_iter().collect() };
    }
    Next::Propose(ring.successor(|next| {
        for (at, placement) in next.placements.iter_mut().enumerate() {
            match placement.moving.take() {
                Some(Move { stage: Stage::WriteBothReadNew, target, .. }) => placement.replicas = target,
                Some(moving) if arrivals.complete.contains(&at) => {
                    placement.moving = Some(Move { stage: Stage::WriteBothReadNew, ..moving });
                }
                moving => placement.moving = moving,
            }
        }
        if let Some(limits) = limits
            && let Ok(target) = order::planned(&moved(next), &ring.members, ring)
        {
            start(next, &target, ring.epoch.next(), limits);
        }
    }))
}

/// How far the moves are that still receive.
#[derive(Default)]
struct Arrivals {
    /// Lists whose new replicas all have everything, in every layer.
    complete: BTreeSet<usize>,
    /// By node that receives: how many of its partitions are complete, and how many wait for it. Where it has everything and
    /// another has not, there is nothing that it could do.
    by_node: BTreeMap<NodeId, (usize, usize)>,
    /// New replicas that have everything.
    received: usize,
    /// New replicas.
    moving: usize,
    waiting_for: BTreeSet<NodeId>,
}

impl Arrivals {
    fn of(ring: &Ring, views: &BTreeMap<NodeId, View>) -> Self {
        let mut arrivals = Self::default();
        let receives =
            |placement: &Placement| matches!(&placement.moving, Some(moving) if moving.stage == Stage::WriteBothReadOld);
        for (at, placement) in ring.placements.iter().enumerate().filter(|(_, placement)| receives(placement)) {
            let mut waiting = BTreeSet::new();
            for partition in ring.partitions_on(at) {
                for (node, sources) in ring.placement(partition).fills(&ring.lost) {
                    arrivals.moving += 1;
                    // With no source left there is nothing to wait for: that was accepted when the last of them was declared lost.
                    if sources.is_empty() || views.get(&node).is_some_and(|view| view.received.contains(&partition)) {
                        arrivals.received += 1;
                    } else {
                        waiting.insert(node);
                    }
                }
            }
            if waiting.is_empty() {
                fills(placement, ring).keys().for_each(|node| arrivals.by_node.entry(*node).or_default().0 += 1);
                arrivals.complete.insert(at);
            }
            waiting.iter().for_each(|node| arrivals.by_node.entry(*node).or_default().1 += 1);
            arrivals.waiting_for.append(&mut waiting);
        }
        arrivals
    }

    /// As much as what some node is still waited for.
    fn are_worth_a_ring(&self) -> bool {
        self.received == self.moving || self.by_node.values().any(|(complete, waiting)| *complete > 0 && complete >= waiting)
    }
}

#[cfg(test)]
pub(super) mod tests;
