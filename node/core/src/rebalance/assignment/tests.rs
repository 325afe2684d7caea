//! Plans against what is known of them by other means: bounds, brute force, and a verifier that must refuse what is spoiled.

use std::collections::{BTreeMap, BTreeSet};

use super::{Plan, assign, plan, solve};
use crate::id::NodeId;
use crate::preference_list;
use crate::rebalance::certificate::{Certificate, Change, Flaw, Level};
use crate::rebalance::{Members, PlanError, first_ring};
use crate::ring::Member;
use crate::ring::tests::node;

fn members(zones: &[(&str, u32)]) -> Members {
    let member = |(zone, weight): &(&str, u32)| Member { zone: (*zone).into(), weight: *weight };
    zones.iter().enumerate().map(|(at, entry)| (node(at as u8 + 1), member(entry))).collect()
}

fn same_zone(count: usize) -> Members {
    members(&vec![("z", 1); count])
}

/// `count` members, in three zones in turn.
fn three_zones(count: usize) -> Members {
    members(&(0..count).map(|at| (["a", "b", "c"][at % 3], 1)).collect::<Vec<_>>())
}

fn nobody(partitions: usize) -> Vec<Vec<NodeId>> {
    vec![Vec::new(); partitions]
}

fn loads(placements: &[Vec<NodeId>]) -> BTreeMap<NodeId, usize> {
    let mut loads = BTreeMap::new();
    placements.iter().flatten().for_each(|node| *loads.entry(*node).or_default() += 1);
    loads
}

fn spread(counts: &BTreeMap<NodeId, usize>) -> usize {
    counts.values().max().unwrap() - counts.values().min().unwrap()
}

fn primaries(placements: &[Vec<NodeId>]) -> BTreeMap<NodeId, usize> {
    loads(&placements.iter().map(|replicas| vec![replicas[0]]).collect::<Vec<_>>())
}

/// Replicas that must move because shares are even and somebody has less: in one zone, at equal weight. Remainders go first to
/// those that have enough to keep one.
fn needed_moves(held: &[Vec<NodeId>], members: &Members, replication: usize) -> u64 {
    let (slots, before) = (held.len() * replication, loads(held));
    let has = |node: &NodeId| before.get(node).copied().unwrap_or(0);
    let (least, remainders) = (slots / members.len(), slots % members.len());
    let arriving: usize = members.keys().map(|node| least.saturating_sub(has(node))).sum();
    let keeps_one = members.keys().filter(|node| has(node) > least).count();
    (arriving + remainders.saturating_sub(keeps_one)) as u64
}

/// The sizes of a cluster that grows from 3 to 40 nodes, and shrinks again.
fn there_and_back() -> impl Iterator<Item = usize> {
    (4..=40).chain((3..40).rev())
}

#[test]
fn every_step_from_3_to_40_nodes_and_back_moves_exactly_the_lower_bound() {
    for partitions in [64, 256, 1024, 4096] {
        let mut ring = assign(&nobody(partitions), &same_zone(3), 3).unwrap();
        for size in there_and_back() {
            let members = same_zone(size);
            let Plan { target, moves, lower_bound, .. } = plan(&ring, &members, 3).unwrap();
            assert_eq!(moves, lower_bound);
            assert_eq!(moves, needed_moves(&ring, &members, 3), "{partitions} partitions, to {size} nodes");
            assert!(spread(&loads(&target)) <= 1 && loads(&target).len() == size, "{partitions} partitions, {size} nodes");
            assert!(spread(&primaries(&target)) <= 2, "{partitions} partitions, {size} nodes: {:?}", primaries(&target));
            assert_eq!(assign(&target, &members, 3).unwrap(), target, "planned again, nothing changes");
            ring = target;
        }
    }
}

#[test]
fn every_growth_and_shrink_is_balanced_to_one_partition_and_moves_close_to_the_least() {
    for partitions in [16, 64, 256] {
        let mut ring = assign(&nobody(partitions), &same_zone(3), 3).unwrap();
        for size in [4, 6, 13, 9, 16, 7, 12, 3, 5] {
            let members = same_zone(size);
            let plan = plan(&ring, &members, 3).unwrap();
            let loads = loads(&plan.target);
            assert!(spread(&loads) <= 1 && loads.len() == size, "{partitions} partitions, {size} nodes: {loads:?}");
            assert_eq!(
                plan.moves,
                needed_moves(&ring, &members, 3),
                "several nodes at once, {partitions} partitions, {size} nodes"
            );
            ring = plan.target;
        }
    }
}

#[test]
fn zones_that_grow_in_turn_move_only_what_the_newcomers_zone_hands_over() {
    for partitions in [64, 1024] {
        let mut ring = assign(&nobody(partitions), &three_zones(3), 3).unwrap();
        for size in 4..=40 {
            let members = three_zones(size);
            let zone = |node: &NodeId| members[node].zone.clone();
            let newcomer = node(size as u8);
            let plan = plan(&ring, &members, 3).unwrap();
            // Each zone holds each partition once: the zone's members share Q, whatever the others do.
            let peers = members.keys().filter(|node| zone(node) == zone(&newcomer)).count();
            assert_eq!(plan.moves, (partitions / peers) as u64, "{partitions} partitions, to {size} nodes");
            for replicas in &plan.target {
                assert_eq!(replicas.iter().map(zone).collect::<BTreeSet<_>>().len(), 3);
            }
            ring = plan.target;
        }
    }
}

#[test]
fn sixteen_thousand_partitions_go_from_99_to_102_nodes_by_the_least_moves() {
    let before = three_zones(99);
    let held = assign(&nobody(16_384), &before, 3).unwrap();
    let plan = plan(&held, &three_zones(102), 3).unwrap();
    assert_eq!(plan.moves, 3 * (16_384 / 34), "a newcomer in each zone takes its share, rounded down");
    let loads = loads(&plan.target);
    assert_eq!((loads.len(), spread(&loads)), (102, 1));
}

#[test]
fn a_replaced_node_moves_exactly_what_it_held() {
    for (partitions, size) in [(64, 4), (256, 7), (1024, 12)] {
        let mut members = three_zones(size);
        let held = assign(&nobody(partitions), &members, 3).unwrap();
        for gone in [node(1), node(2), node(size as u8)] {
            let member = members.remove(&gone).unwrap();
            members.insert(node(200), member.clone());
            let plan = plan(&held, &members, 3).unwrap();
            assert_eq!(plan.moves, loads(&held)[&gone] as u64);
            for (before, after) in held.iter().zip(&plan.target) {
                let as_before = |node: &NodeId| if *node == NodeId([200; 16]) { gone } else { *node };
                let after: BTreeSet<NodeId> = after.iter().map(as_before).collect();
                assert_eq!(
                    after,
                    before.iter().copied().collect(),
                    "the newcomer is where the other was, and nothing else moves"
                );
            }
            members.remove(&node(200));
            members.insert(gone, member);
        }
    }
}

#[test]
fn replicas_are_spread_over_the_zones_and_never_more_than_the_rule_allows() {
    let uneven = members(&[("a", 1), ("a", 1), ("b", 1), ("b", 1), ("c", 1)]);
    let ring = assign(&nobody(64), &uneven, 3).unwrap();
    let held: Vec<usize> = loads(&ring).into_values().collect();
    assert_eq!(held, [32, 32, 32, 32, 64], "the only node of its zone holds all, the others share evenly");

    let two_zones = members(&[("a", 1), ("b", 1), ("b", 1), ("b", 1)]);
    let ring = assign(&nobody(64), &two_zones, 3).unwrap();
    let held: Vec<usize> = loads(&ring).into_values().collect();
    assert_eq!(held[0], 64, "two of three may lie in zone b, and the third lies in a");
    assert!(held[1..].iter().all(|load| (42..=43).contains(load)), "{held:?}");
}

#[test]
fn a_new_zone_is_filled_and_nothing_else_moves() {
    let held = assign(&nobody(256), &members(&[("a", 1), ("a", 1), ("a", 1), ("b", 1), ("b", 1), ("b", 1)]), 3).unwrap();
    let third = members(&[("a", 1), ("a", 1), ("a", 1), ("b", 1), ("b", 1), ("b", 1), ("c", 1), ("c", 1), ("c", 1)]);
    assert_eq!(plan(&held, &third, 3).unwrap().moves, 256, "one replica of each partition goes to the new zone");
}

#[test]
fn shares_follow_weights() {
    let ring = assign(&nobody(128), &members(&[("z", 1), ("z", 1), ("z", 1), ("z", 1), ("z", 2)]), 2).unwrap();
    let held: Vec<usize> = loads(&ring).into_values().collect();
    assert!(held[..4].iter().all(|load| (42..=43).contains(load)) && (85..=86).contains(&held[4]), "{held:?}");

    let heavier = members(&[("z", 1), ("z", 1), ("z", 1), ("z", 2), ("z", 2)]);
    let plan = plan(&ring, &heavier, 2).unwrap();
    let gained = loads(&plan.target)[&node(4)] - loads(&ring)[&node(4)];
    assert_eq!(plan.moves, gained as u64, "a member that weighs more takes over, and nothing else moves");
}

#[test]
fn primaries_are_even_and_stay_unless_that_takes_a_change() {
    let ring = assign(&nobody(256), &same_zone(5), 3).unwrap();
    assert!(spread(&primaries(&ring)) <= 1, "{:?}", primaries(&ring));
    let grown = assign(&ring, &same_zone(6), 3).unwrap();
    let changed = ring.iter().zip(&grown).filter(|(before, after)| before[0] != after[0]).count();
    assert!((256 / 6..=256 / 6 + 6).contains(&changed), "{changed} primaries changed");
    let lopsided: Vec<Vec<NodeId>> = vec![vec![node(1), node(2), node(3)]; 9];
    let plan = plan(&lopsided, &same_zone(3), 3).unwrap();
    assert_eq!((plan.moves, primaries(&plan.target)), (0, [(node(1), 3), (node(2), 3), (node(3), 3)].into()));
}

#[test]
fn a_failed_nodes_load_goes_to_all_others() {
    let ring = first_ring(crate::id::ClusterId([7; 16]), 10, 3, &same_zone(12)).unwrap();
    for failed in ring.members.keys() {
        let of_failed = || ring.partitions().filter(|(_, placement)| placement.replicas.contains(failed));
        let mut stands_in = BTreeMap::<NodeId, usize>::new();
        let mut shares_with = BTreeMap::<NodeId, usize>::new();
        for (partition, placement) in of_failed() {
            *stands_in.entry(preference_list::fallbacks(&ring, partition)[0]).or_default() += 1;
            placement.replicas.iter().filter(|node| *node != failed).for_each(|node| *shares_with.entry(*node).or_default() += 1);
        }
        let (held, others) = (of_failed().count(), ring.members.len() - 1);
        for (what, counts, mean) in [("writes", &stands_in, held / others), ("reads", &shares_with, 2 * held / others)] {
            assert_eq!(counts.len(), others, "{what} of {failed}");
            assert!(counts.values().all(|count| *count < 2 * mean), "{what} of {failed}, {mean} on average: {counts:?}");
        }
    }
}

#[test]
fn too_few_members_are_refused() {
    let refused = assign(&nobody(4), &members(&[("z", 1), ("z", 1), ("z", 0)]), 3);
    assert_eq!(refused, Err(PlanError::TooFewMembers { members: 2, replication: 3 }));
    let lopsided = assign(&nobody(4), &members(&[("a", 1), ("b", 1), ("b", 1), ("b", 1)]), 4);
    assert_eq!(lopsided, Err(PlanError::ZonesTooSmall { replication: 4, per_zone: 2 }));
}

/// Numbers that look drawn by lot, the same in every run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    fn members(&mut self, count: usize, zones: usize, weight: usize) -> Members {
        let zones: Vec<(&str, u32)> =
            (0..count).map(|_| (["a", "b", "c", "d"][self.below(zones)], self.below(weight + 1) as u32)).collect();
        members(&zones)
    }

    /// Up to `most` distinct nodes of the first `count` for each partition, members or not.
    fn held(&mut self, partitions: usize, most: usize, count: usize) -> Vec<Vec<NodeId>> {
        let list = |draw: &mut Self| {
            let mut list: Vec<NodeId> = Vec::new();
            for _ in 0..draw.below(most + 1) {
                let drawn = node(draw.below(count) as u8 + 1);
                if !list.contains(&drawn) {
                    list.push(drawn);
                }
            }
            list
        };
        (0..partitions).map(|_| list(self)).collect()
    }
}

/// What the members' shares are, found by halving an interval: nothing of this is how the planner does it.
fn shares_by_bisection(members: &Members, partitions: usize, replication: usize) -> BTreeMap<NodeId, (usize, usize)> {
    let usable: Vec<(&NodeId, &Member)> = members.iter().filter(|(_, member)| member.weight > 0).collect();
    let zones: BTreeSet<&str> = usable.iter().map(|(_, member)| member.zone.as_str()).collect();
    let (each, per_zone) = (partitions as f64, (partitions * replication.div_ceil(zones.len())) as f64);
    let bisect = |total: f64, sum: &dyn Fn(f64) -> f64| {
        let (mut low, mut high) = (0.0, each + 1.0);
        for _ in 0..100 {
            let middle = (low + high) / 2.0;
            if sum(middle) < total { low = middle } else { high = middle }
        }
        high
    };
    let share = |member: &Member, level: f64| (level * f64::from(member.weight)).min(each);
    let zone_sum = |zone: &str, level: f64| {
        usable.iter().filter(|(_, member)| member.zone == zone).map(|(_, member)| share(member, level)).sum::<f64>()
    };
    let level =
        bisect((partitions * replication) as f64, &|level| zones.iter().map(|zone| zone_sum(zone, level).min(per_zone)).sum());
    let of_zone = |zone: &str| match zone_sum(zone, level) > per_zone {
        true => bisect(per_zone, &|level| zone_sum(zone, level)),
        false => level,
    };
    let bounds = |share: f64| ((share + 1e-6).floor() as usize, (share - 1e-6).ceil() as usize);
    usable.iter().map(|(node, member)| (**node, bounds(share(member, of_zone(&member.zone))))).collect()
}

/// The fewest moves of all assignments within the shares, by trying them all: what each total of loads costs at least.
fn moves_by_exhaustion(held: &[Vec<NodeId>], members: &Members, replication: usize) -> usize {
    let shares = shares_by_bisection(members, held.len(), replication);
    let nodes: Vec<NodeId> = shares.keys().copied().collect();
    let zones: BTreeSet<&str> = nodes.iter().map(|node| members[node].zone.as_str()).collect();
    let per_zone = replication.div_ceil(zones.len());
    let allowed = |set: &Vec<usize>| {
        let in_zone = |zone: &str| set.iter().filter(|at| members[&nodes[**at]].zone == zone).count();
        set.len() == replication && zones.iter().all(|zone| in_zone(zone) <= per_zone)
    };
    let subset = |mask: usize| (0..nodes.len()).filter(|at| mask & (1 << at) != 0).collect::<Vec<_>>();
    let sets: Vec<Vec<usize>> = (0..1 << nodes.len()).map(subset).filter(allowed).collect();
    let mut reached: BTreeMap<Vec<usize>, usize> = [(vec![0; nodes.len()], 0)].into();
    for before in held {
        let mut next = BTreeMap::new();
        for (loads, cost) in reached {
            for set in &sets {
                let mut loads: Vec<usize> = loads.clone();
                set.iter().for_each(|at| loads[*at] += 1);
                if loads.iter().zip(&nodes).all(|(load, node)| *load <= shares[node].1) {
                    let cost = cost + set.iter().filter(|at| !before.contains(&nodes[**at])).count();
                    let least = next.entry(loads).or_insert(cost);
                    *least = cost.min(*least);
                }
            }
        }
        reached = next;
    }
    let balanced = |loads: &[usize]| loads.iter().zip(&nodes).all(|(load, node)| *load >= shares[node].0);
    reached.into_iter().filter(|(loads, _)| balanced(loads)).map(|(_, cost)| cost).min().expect("a balanced assignment")
}

#[test]
fn tiny_plans_are_as_cheap_as_the_cheapest_of_all_assignments() {
    let mut draw = Draw(1);
    let mut planned = 0;
    while planned < 1_500 {
        let (partitions, count, zones) = (draw.below(4) + 1, draw.below(6) + 1, draw.below(3) + 1);
        let (weight, replication) = (draw.below(3) + 1, draw.below(3) + 1);
        let members = draw.members(count, zones, weight);
        let held = draw.held(partitions, replication + 1, 6);
        let Ok(plan) = plan(&held, &members, replication as u8) else { continue };
        let least = moves_by_exhaustion(&held, &members, replication);
        assert_eq!(plan.moves, least as u64, "{held:?} to {members:?}, N = {replication}");
        planned += 1;
    }
}

#[test]
fn whatever_the_members_do_every_plan_is_proved() {
    let mut draw = Draw(2);
    for _ in 0..60 {
        let (partitions, replication, zones) = (1 << draw.below(9), draw.below(4) + 1, draw.below(4) + 1);
        let mut held = draw.held(partitions, replication + 1, 14);
        for _ in 0..6 {
            let (count, weight) = (draw.below(14) + 1, draw.below(5) + 1);
            let members = draw.members(count, zones, weight);
            // Planning panics where the proof fails.
            let Ok(plan) = plan(&held, &members, replication as u8) else { continue };
            let shares = shares_by_bisection(&members, partitions, replication);
            let loads = loads(&plan.target);
            for (node, (least, most)) in shares {
                let has = loads.get(&node).copied().unwrap_or(0);
                assert!((least..=most).contains(&has), "{node} has {has}, its share is {least} to {most}");
            }
            held = plan.target;
        }
    }
}

/// A change for which much depends on every member: weights, and zones that are full.
fn a_change() -> (Vec<Vec<NodeId>>, Members) {
    let before = members(&[("a", 1), ("a", 2), ("b", 1), ("b", 1), ("b", 2), ("c", 1), ("c", 3)]);
    let after = members(&[("a", 1), ("a", 2), ("b", 1), ("b", 0), ("b", 2), ("c", 1), ("c", 3), ("b", 1), ("c", 2)]);
    (assign(&nobody(64), &before, 3).unwrap(), after)
}

#[test]
fn a_plan_that_breaks_a_rule_or_moves_too_much_is_refused() {
    let (held, members) = a_change();
    let change = Change { held: &held, members: &members, replication: 3 };
    let (target, certificate) = solve(&held, &members, 3).unwrap();
    let proof = certificate.verify(&change, &target).unwrap();
    assert_eq!(proof.moves, proof.lower_bound);
    type Spoil<'a> = &'a dyn Fn(&mut Vec<Vec<NodeId>>);
    let refused = |spoil: Spoil<'_>| {
        let mut target = target.clone();
        spoil(&mut target);
        certificate.verify(&change, &target).unwrap_err().to_string()
    };
    let cases: [(&str, Spoil<'_>); 6] = [
        ("63 partitions in the plan", &|target| drop(target.pop())),
        ("N replicas", &|target| target[5].truncate(2)),
        ("listed twice", &|target| target[5][1] = target[5][0]),
        ("weight above 0", &|target| target[5][1] = node(4)),
        ("zone rule", &|target| target[5] = vec![node(3), node(5), node(2)]),
        ("its share is", &|target| {
            let (from, to) = (node(1), node(2));
            target.iter_mut().flatten().filter(|node| **node == from).for_each(|node| *node = to);
        }),
    ];
    for (reason, spoil) in cases {
        let said = refused(spoil);
        assert!(said.contains(reason), "{reason}: {said}");
    }
    // Two partitions swap a replica that each had kept: rules and balance hold, and it moves two more than need be.
    let kept = |at: usize, node: NodeId| target[at].contains(&node) && held[at].contains(&node);
    let pairs = (0..64).flat_map(|left| (0..64).map(move |right| (left, right)));
    let only =
        |at: usize, node: NodeId, other: NodeId| kept(at, node) && !target[at].contains(&other) && !held[at].contains(&other);
    let (left, right) =
        pairs.into_iter().find(|(left, right)| only(*left, node(1), node(2)) && only(*right, node(2), node(1))).unwrap();
    let said = refused(&|target| {
        target[left].iter_mut().filter(|it| **it == node(1)).for_each(|it| *it = node(2));
        target[right].iter_mut().filter(|it| **it == node(2)).for_each(|it| *it = node(1));
    });
    assert_eq!(said, format!("{} replicas move where {} are proved to be needed", proof.moves + 2, proof.moves));
    // The first replica and the second change places in one partition.
    let said = refused(&|target| target[7].swap(0, 1));
    assert!(said.contains("primaries"), "{said}");
}

#[test]
fn a_certificate_with_any_price_or_level_changed_proves_nothing_more() {
    let (held, members) = a_change();
    let change = Change { held: &held, members: &members, replication: 3 };
    let (target, certificate) = solve(&held, &members, 3).unwrap();
    let moves = certificate.verify(&change, &target).unwrap().moves;
    let verify = |spoil: &dyn Fn(&mut Certificate)| {
        let mut certificate = certificate.clone();
        spoil(&mut certificate);
        certificate.verify(&change, &target)
    };
    let mut refused = 0;
    for node in certificate.prices.keys() {
        for by in [-3, -1, 1, 3] {
            for primary in [false, true] {
                let verdict = verify(&|certificate| {
                    let prices = if primary { &mut certificate.primary_prices } else { &mut certificate.prices };
                    *prices.get_mut(node).unwrap() += by;
                });
                match verdict {
                    // There are several sets of prices that prove the same.
                    Ok(proof) => assert_eq!(proof.moves, moves),
                    Err(flaw) => {
                        assert!(matches!(flaw, Flaw::NotLeast { costs, lower_bound, .. } if lower_bound < costs), "{flaw}");
                        refused += 1;
                    }
                }
            }
        }
        assert_eq!(verify(&|certificate| certificate.prices.retain(|other, _| other != node)), Err(Flaw::Price(*node)));
        assert_eq!(verify(&|certificate| certificate.primary_prices.retain(|other, _| other != node)), Err(Flaw::Price(*node)));
    }
    assert!(refused > 30, "{refused} wrong prices were refused");
    for zone in certificate.levels.keys() {
        let set = |level: Option<Level>| {
            verify(&|certificate| match level {
                Some(level) => drop(certificate.levels.insert(zone.clone(), level)),
                None => drop(certificate.levels.remove(zone)),
            })
        };
        let Level { replicas, weight } = certificate.levels[zone];
        for level in [
            None,
            Some(Level { replicas, weight: 0 }),
            Some(Level { replicas: replicas + weight, weight }),
            Some(Level { replicas: replicas - weight, weight }),
        ] {
            let verdict = set(level);
            assert!(
                matches!(verdict, Err(Flaw::Level { .. } | Flaw::Sum | Flaw::Share { .. })),
                "{zone} at {level:?}: {verdict:?}"
            );
        }
    }
}

#[test]
fn a_zone_that_is_filled_above_its_fair_level_is_refused() {
    // Zone b could take more, and a has it.
    let members = members(&[("a", 1), ("b", 1)]);
    let held = nobody(4);
    let change = Change { held: &held, members: &members, replication: 1 };
    let (mut target, mut certificate) = solve(&held, &members, 1).unwrap();
    assert!(certificate.verify(&change, &target).is_ok());
    target.iter_mut().for_each(|replicas| replicas[0] = node(1));
    certificate.levels.insert("a".into(), Level { replicas: 4, weight: 1 });
    certificate.levels.insert("b".into(), Level { replicas: 0, weight: 1 });
    let above = Flaw::Level { zone: "a".into(), what: "it is above the level of zones that could take more" };
    assert_eq!(certificate.verify(&change, &target), Err(above));
}
