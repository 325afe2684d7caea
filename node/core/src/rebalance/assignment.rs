//! Who holds which partition: balanced first, then few moves (paper 6.2, strategy 3; design 3).
//!
//! Hard rules: N distinct members for each partition, at most ceil(N / zones) of them in one zone. Each member's share follows
//! its weight, to within one partition unless the zones forbid that. What is held stays where it is as far as the shares allow.
//!
//! Method: keep, hand over directly where a member with room may take the place, then close what is left by augmenting paths (a
//! partition takes a full member, which gives another partition to a third, until one has room). The paths make the result
//! exact in balance; that the moves are provably least is left to a min-cost flow behind the same function.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::id::NodeId;
use crate::rebalance::{Members, PlanError};

/// The replicas of each partition, the primary first, given what each partition has now (empty at first).
pub fn assign(held: &[Vec<NodeId>], members: &Members, replication: u8) -> Result<Vec<Vec<NodeId>>, PlanError> {
    let usable: Vec<NodeId> = members.iter().filter(|(_, member)| member.weight > 0).map(|(node, _)| *node).collect();
    if usable.len() < usize::from(replication) || replication == 0 {
        return Err(PlanError::TooFewMembers { members: usable.len(), replication });
    }
    let mut planner = Planner::new(held, members, &usable, usize::from(replication));
    if planner.zones_can_hold() < usize::from(replication) {
        return Err(PlanError::ZonesTooSmall { replication, per_zone: planner.per_zone });
    }
    let slots = held.len() * usize::from(replication);
    for _ in 0..=held.len() {
        planner.hand_over();
        planner.drop_excess();
        planner.fill_directly();
        if planner.augment() {
            let placed: usize = planner.owners.iter().map(Vec::len).sum();
            assert_eq!(placed, slots, "every partition has N replicas");
            return Ok(planner.ordered(held));
        }
        // The zones do not allow these shares: everyone may hold one more.
        planner.room.iter_mut().for_each(|room| *room += 1);
    }
    Err(PlanError::ZonesTooSmall { replication, per_zone: planner.per_zone })
}

struct Planner {
    nodes: Vec<NodeId>,
    zone_of: Vec<usize>,
    /// Replicas of one partition that may lie in one zone.
    per_zone: usize,
    replication: usize,
    weights: Vec<u64>,
    /// The most partitions each node may hold.
    room: Vec<usize>,
    load: Vec<usize>,
    /// By partition: indices into `nodes`.
    owners: Vec<Vec<usize>>,
    /// By node: its partitions.
    held_by: Vec<BTreeSet<usize>>,
}

impl Planner {
    fn new(held: &[Vec<NodeId>], members: &Members, usable: &[NodeId], replication: usize) -> Self {
        let index: BTreeMap<NodeId, usize> = usable.iter().enumerate().map(|(at, node)| (*node, at)).collect();
        let zones: BTreeSet<&str> = usable.iter().map(|node| members[node].zone.as_str()).collect();
        let zones: BTreeMap<&str, usize> = zones.into_iter().enumerate().map(|(at, zone)| (zone, at)).collect();
        let mut planner = Self {
            nodes: usable.to_vec(),
            zone_of: usable.iter().map(|node| zones[members[node].zone.as_str()]).collect(),
            per_zone: replication.div_ceil(zones.len()),
            replication,
            weights: usable.iter().map(|node| u64::from(members[node].weight)).collect(),
            room: vec![0; usable.len()],
            load: vec![0; usable.len()],
            owners: vec![Vec::new(); held.len()],
            held_by: vec![BTreeSet::new(); usable.len()],
        };
        for (partition, replicas) in held.iter().enumerate() {
            for at in replicas.iter().filter_map(|node| index.get(node)) {
                if planner.owners[partition].len() < replication && planner.fits(partition, *at, None) {
                    planner.add(partition, *at);
                }
            }
        }
        planner.set_room();
        planner
    }

    /// Shares by weight, as far as the zones allow: a zone that cannot take its share is filled, and the others share the rest.
    /// What does not divide goes to those that hold the most already, so that it need not move.
    fn set_room(&mut self) {
        let zones = self.zone_of.iter().max().map_or(0, |last| last + 1);
        let partitions = self.owners.len() as u64;
        let in_zone = |zone: usize| self.zone_of.iter().filter(|of| **of == zone).count();
        let capacity: Vec<u64> = (0..zones).map(|zone| partitions * in_zone(zone).min(self.per_zone) as u64).collect();
        let mut filled = vec![false; zones];
        let mut left = partitions * self.replication as u64;
        loop {
            let weight = |zone: usize| {
                self.zone_of.iter().zip(&self.weights).filter(|(of, _)| **of == zone).map(|(_, weight)| weight).sum::<u64>()
            };
            let open: u64 = (0..zones).filter(|zone| !filled[*zone]).map(weight).sum();
            let over = (0..zones).find(|zone| !filled[*zone] && left * weight(*zone) > capacity[*zone] * open);
            let Some(zone) = over else { break };
            filled[zone] = true;
            left -= capacity[zone];
            let nodes: Vec<usize> = (0..self.nodes.len()).filter(|at| self.zone_of[*at] == zone).collect();
            self.share_out(&nodes, capacity[zone]);
        }
        let nodes: Vec<usize> = (0..self.nodes.len()).filter(|at| !filled[self.zone_of[*at]]).collect();
        self.share_out(&nodes, left);
    }

    /// Replicas of one partition that the zones can hold together.
    fn zones_can_hold(&self) -> usize {
        let zones: BTreeSet<usize> = self.zone_of.iter().copied().collect();
        let in_zone = |zone: &usize| self.zone_of.iter().filter(|of| *of == zone).count();
        zones.iter().map(|zone| in_zone(zone).min(self.per_zone)).sum()
    }

    /// Divides `slots` among `nodes` by weight, none of them more than one replica of each partition.
    fn share_out(&mut self, nodes: &[usize], slots: u64) {
        let partitions = self.owners.len() as u64;
        let weight: u64 = nodes.iter().map(|at| self.weights[*at]).sum();
        for at in nodes {
            self.room[*at] = (slots * self.weights[*at] / weight.max(1)).min(partitions) as usize;
        }
        let mut left = slots as usize - nodes.iter().map(|at| self.room[*at]).sum::<usize>();
        let mut order = nodes.to_vec();
        order.sort_by_key(|at| (std::cmp::Reverse(self.load[*at].saturating_sub(self.room[*at]).min(1)), *at));
        while left > 0 {
            let before = left;
            for at in order.iter().filter(|at| self.room[**at] < partitions as usize).copied().collect::<Vec<_>>() {
                if left > 0 {
                    self.room[at] += 1;
                    left -= 1;
                }
            }
            if left == before {
                break;
            }
        }
    }

    fn add(&mut self, partition: usize, at: usize) {
        self.owners[partition].push(at);
        self.held_by[at].insert(partition);
        self.load[at] += 1;
    }

    fn remove(&mut self, partition: usize, at: usize) {
        self.owners[partition].retain(|owner| *owner != at);
        self.held_by[at].remove(&partition);
        self.load[at] -= 1;
    }

    /// Whether `partition` may have a replica on `at`, once it has given up the one on `instead_of`.
    fn fits(&self, partition: usize, at: usize, instead_of: Option<usize>) -> bool {
        let rest = || self.owners[partition].iter().filter(|owner| Some(**owner) != instead_of);
        let in_zone = rest().filter(|owner| self.zone_of[**owner] == self.zone_of[at]).count();
        rest().all(|owner| *owner != at) && in_zone < self.per_zone
    }

    fn has_room(&self, at: usize) -> bool {
        self.load[at] < self.room[at]
    }

    /// The node with the most room that may take a replica of `partition`.
    fn roomiest(&self, partition: usize, instead_of: Option<usize>) -> Option<usize> {
        (0..self.nodes.len())
            .filter(|at| self.has_room(*at) && self.fits(partition, *at, instead_of))
            .max_by_key(|at| (self.room[*at] - self.load[*at], std::cmp::Reverse(*at)))
    }

    /// Nodes with too much give to nodes with room, one move each.
    fn hand_over(&mut self) {
        for from in 0..self.nodes.len() {
            for partition in self.held_by[from].clone() {
                if self.load[from] <= self.room[from] {
                    break;
                }
                if let Some(to) = self.roomiest(partition, Some(from)) {
                    self.remove(partition, from);
                    self.add(partition, to);
                }
            }
        }
    }

    /// What could not be handed over directly becomes an open place, for the augmenting paths to close.
    fn drop_excess(&mut self) {
        for from in 0..self.nodes.len() {
            while self.load[from] > self.room[from] {
                let partition = *self.held_by[from].first().expect("a node with load holds something");
                self.remove(partition, from);
            }
        }
    }

    fn fill_directly(&mut self) {
        for partition in 0..self.owners.len() {
            while self.owners[partition].len() < self.replication {
                let Some(at) = self.roomiest(partition, None) else { break };
                self.add(partition, at);
            }
        }
    }

    /// Closes every open place by a shortest chain of replacements; false if one cannot be closed.
    fn augment(&mut self) -> bool {
        for partition in 0..self.owners.len() {
            while self.owners[partition].len() < self.replication {
                if !self.augment_one(partition) {
                    return false;
                }
            }
        }
        true
    }

    /// Breadth-first over nodes: `partition` takes a node; a node that is full gives some partition to the next one. Where
    /// the zone rule keeps `partition` from every node with room, it first trades one of its own replicas.
    fn augment_one(&mut self, partition: usize) -> bool {
        // How each node was reached: from which node, and by which partition's replacement.
        let mut reached: BTreeMap<usize, Option<(usize, usize)>> = BTreeMap::new();
        let mut queue = VecDeque::new();
        for at in 0..self.nodes.len() {
            if self.fits(partition, at, None) {
                reached.insert(at, None);
                queue.push_back(at);
            }
        }
        while let Some(full) = queue.pop_front() {
            if self.has_room(full) {
                self.follow(partition, full, &reached);
                return true;
            }
            for given in self.held_by[full].iter().filter(|given| **given != partition) {
                for to in 0..self.nodes.len() {
                    if !reached.contains_key(&to) && self.fits(*given, to, Some(full)) {
                        reached.insert(to, Some((full, *given)));
                        queue.push_back(to);
                    }
                }
            }
        }
        false
    }

    fn follow(&mut self, partition: usize, end: usize, reached: &BTreeMap<usize, Option<(usize, usize)>>) {
        let mut to = end;
        while let Some((from, given)) = reached[&to] {
            self.remove(given, from);
            self.add(given, to);
            to = from;
        }
        self.add(partition, to);
    }

    /// Replicas in the order they had, new ones in the places of those they replace; then primaries evened out where the
    /// primary is new.
    fn ordered(&self, held: &[Vec<NodeId>]) -> Vec<Vec<NodeId>> {
        let mut primaries: BTreeMap<NodeId, usize> = BTreeMap::new();
        let mut placements = Vec::with_capacity(held.len());
        for (owners, before) in self.owners.iter().zip(held) {
            let now: Vec<NodeId> = owners.iter().map(|at| self.nodes[*at]).collect();
            let mut arriving = now.iter().filter(|node| !before.contains(node)).copied();
            let mut list: Vec<NodeId> = before
                .iter()
                .filter_map(|node| if now.contains(node) { Some(*node) } else { arriving.next() })
                .take(self.replication)
                .collect();
            list.extend(arriving);
            if let Some(primary) = list.first().filter(|primary| before.first() == Some(primary)) {
                *primaries.entry(*primary).or_default() += 1;
            }
            placements.push(list);
        }
        for (list, before) in placements.iter_mut().zip(held) {
            if list.first() != before.first() {
                let share = |node: &NodeId| primaries.get(node).copied().unwrap_or(0);
                let at = (0..list.len()).min_by_key(|at| share(&list[*at])).expect("a partition has replicas");
                list.swap(0, at);
                *primaries.entry(list[0]).or_default() += 1;
            }
        }
        placements
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Member;
    use crate::ring::tests::node;

    fn members(zones: &[(&str, u32)]) -> Members {
        let member = |(zone, weight): &(&str, u32)| Member { zone: (*zone).into(), weight: *weight };
        zones.iter().enumerate().map(|(at, entry)| (node(at as u8 + 1), member(entry))).collect()
    }

    fn same_zone(count: usize) -> Members {
        members(&vec![("z", 1); count])
    }

    fn loads(placements: &[Vec<NodeId>]) -> BTreeMap<NodeId, usize> {
        let mut loads = BTreeMap::new();
        placements.iter().flatten().for_each(|node| *loads.entry(*node).or_default() += 1);
        loads
    }

    fn moved(before: &[Vec<NodeId>], after: &[Vec<NodeId>]) -> usize {
        let arrived = |(before, after): (&Vec<NodeId>, &Vec<NodeId>)| after.iter().filter(|node| !before.contains(node)).count();
        before.iter().zip(after).map(arrived).sum()
    }

    #[test]
    fn every_growth_and_shrink_is_balanced_to_one_partition_and_moves_close_to_the_least() {
        for partitions in [16, 64, 256] {
            let mut ring = vec![Vec::new(); partitions];
            let sizes = [3, 4, 5, 6, 9, 12, 13, 16, 12, 7, 5, 3];
            for size in sizes {
                let next = assign(&ring, &same_zone(size), 3).unwrap();
                let loads = loads(&next);
                let (least, most) = (loads.values().min().unwrap(), loads.values().max().unwrap());
                assert!(most - least <= 1 && loads.len() == size, "{partitions} partitions, {size} nodes: {loads:?}");
                for replicas in &next {
                    assert_eq!(replicas.iter().collect::<BTreeSet<_>>().len(), 3);
                }
                if !ring[0].is_empty() {
                    let before = ring.iter().flatten().collect::<BTreeSet<_>>().len();
                    let bound = partitions * 3 * before.abs_diff(size) / before.max(size);
                    let moves = moved(&ring, &next);
                    assert!(moves <= bound + bound / 4 + 3, "{partitions} partitions, {before} -> {size}: {moves} over {bound}");
                }
                assert_eq!(assign(&next, &same_zone(size), 3).unwrap(), next, "planned again, nothing moves");
                ring = next;
            }
        }
    }

    #[test]
    fn replicas_are_spread_over_the_zones_and_never_more_than_the_rule_allows() {
        for (zones, per_zone) in [(vec![("a", 1), ("b", 1), ("c", 1), ("a", 1), ("b", 1), ("c", 1)], 1), (vec![("a", 1); 4], 3)] {
            let members = members(&zones);
            let ring = assign(&vec![Vec::new(); 64], &members, 3).unwrap();
            for replicas in &ring {
                let mut count = BTreeMap::<&str, usize>::new();
                replicas.iter().for_each(|node| *count.entry(&members[node].zone).or_default() += 1);
                assert!(count.values().all(|count| *count <= per_zone), "{replicas:?}");
            }
        }
        let uneven = members(&[("a", 1), ("a", 1), ("b", 1), ("b", 1), ("c", 1)]);
        let ring = assign(&vec![Vec::new(); 64], &uneven, 3).unwrap();
        let loads: Vec<usize> = loads(&ring).into_values().collect();
        assert_eq!(loads, [32, 32, 32, 32, 64], "the only node of its zone holds all, the others share evenly");
    }

    #[test]
    fn shares_follow_weights() {
        let ring = assign(&vec![Vec::new(); 128], &members(&[("z", 1), ("z", 1), ("z", 1), ("z", 1), ("z", 2)]), 2).unwrap();
        let loads = loads(&ring);
        assert!(loads[&node(5)].abs_diff(2 * loads[&node(1)]) <= 2, "{loads:?}");
    }

    #[test]
    fn primaries_are_spread_too() {
        let ring = assign(&vec![Vec::new(); 256], &same_zone(5), 3).unwrap();
        let primaries = loads(&ring.iter().map(|replicas| vec![replicas[0]]).collect::<Vec<_>>());
        assert!(primaries.values().all(|count| (45..=58).contains(count)), "{primaries:?}");
    }

    #[test]
    fn too_few_members_are_refused() {
        let refused = assign(&vec![Vec::new(); 4], &members(&[("z", 1), ("z", 1), ("z", 0)]), 3);
        assert_eq!(refused, Err(PlanError::TooFewMembers { members: 2, replication: 3 }));
        let lopsided = assign(&vec![Vec::new(); 4], &members(&[("a", 1), ("b", 1), ("b", 1), ("b", 1)]), 4);
        assert_eq!(lopsided, Err(PlanError::ZonesTooSmall { replication: 4, per_zone: 2 }));
    }
}
