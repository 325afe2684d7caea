//! Who holds which partition: balanced first, then the fewest moves (paper 6.2, strategy 3).
//!
//! Hard rules: N distinct members for each partition, at most ceil(N / zones) of them in one zone. Each member holds its fair share
//! (`shares`), rounded down or up: within one replica at equal weight, unless the zones do not allow that. Who of
//! several gets a remainder is open, and so are all other choices; among all these plans one with the fewest moves is taken, which
//! is an exact optimum (`flow`). Every move counts as one: partitions are equal by the hash, and a plan made by sizes,
//! which change while it is carried out, would be another one whenever the writer of rings asks again.
//!
//! Then the primaries: each member is the primary of a share of what it holds, rounded down or up, and again the fewest change. That
//! moves no data, since the order of the replicas is all that changes.
//!
//! Each plan comes with its [`Certificate`], and was checked against it before anybody sees it.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::NodeId;
use crate::rebalance::certificate::{Certificate, Change};
use crate::rebalance::flow::{self, Problem};
use crate::rebalance::shares::Division;
use crate::rebalance::{Members, PlanError};

/// Who shall hold what, and the proof that it is balanced with the fewest moves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The replicas of each partition, the primary first.
    pub target: Vec<Vec<NodeId>>,
    /// What [`Certificate::verify`] was convinced by.
    pub certificate: Certificate,
    /// Replicas that come to a member that did not hold them.
    pub moves: u64,
    /// What no balanced plan can undercut: as many as `moves`.
    pub lower_bound: u64,
}

/// The target of [`plan`].
pub fn assign(held: &[Vec<NodeId>], members: &Members, replication: u8) -> Result<Vec<Vec<NodeId>>, PlanError> {
    Ok(plan(held, members, replication)?.target)
}

/// The plan for `members`, given what each partition has now (nobody at first).
pub fn plan(held: &[Vec<NodeId>], members: &Members, replication: u8) -> Result<Plan, PlanError> {
    let (target, certificate) = solve(held, members, replication)?;
    match certificate.verify(&Change { held, members, replication }, &target) {
        Ok(proof) => Ok(Plan { target, certificate, moves: proof.moves, lower_bound: proof.lower_bound }),
        Err(flaw) => panic!("a plan that does not hold: {flaw}"),
    }
}

/// The plan and its certificate, before anybody has checked them; [`plan`] is what is meant to be used.
pub fn solve(held: &[Vec<NodeId>], members: &Members, replication: u8) -> Result<(Vec<Vec<NodeId>>, Certificate), PlanError> {
    let planner = Planner::new(held, members, replication)?;
    let division = planner.division();
    let levels = division.levels();
    let (least, most) = division.bounds(&levels);
    let replicas = flow::solve(&Problem {
        kept: planner.kept(),
        eligible: Vec::new(),
        everyone: (0..planner.nodes.len()).collect(),
        places: planner.replication,
        zone_of: planner.zone_of.clone(),
        per_zone: planner.per_zone,
        least,
        most,
    });
    let mut target = planner.in_order(&replicas.placed);
    let primary_prices = planner.even_out_primaries(&mut target);
    let certificate = Certificate {
        levels: planner.zones.iter().map(|zone| (*zone).to_owned()).zip(levels).collect(),
        prices: planner.by_node(replicas.prices),
        primary_prices: planner.by_node(primary_prices),
    };
    Ok((target, certificate))
}

/// The members that can hold data, by number.
struct Planner<'a> {
    held: &'a [Vec<NodeId>],
    nodes: Vec<NodeId>,
    number: BTreeMap<NodeId, usize>,
    weights: Vec<u64>,
    zones: Vec<&'a str>,
    zone_of: Vec<usize>,
    /// Replicas of one partition that may lie in one zone.
    per_zone: usize,
    replication: usize,
}

impl<'a> Planner<'a> {
    fn new(held: &'a [Vec<NodeId>], members: &'a Members, replication: u8) -> Result<Self, PlanError> {
        let usable: Vec<_> = members.iter().filter(|(_, member)| member.weight > 0).collect();
        if usable.len() < usize::from(replication) || replication == 0 {
            return Err(PlanError::TooFewMembers { members: usable.len(), replication });
        }
        let zones: BTreeSet<&str> = usable.iter().map(|(_, member)| member.zone.as_str()).collect();
        let zones: Vec<&str> = zones.into_iter().collect();
        let zone_of = usable.iter().map(|(_, member)| zones.partition_point(|zone| *zone < member.zone.as_str())).collect();
        let per_zone = usize::from(replication).div_ceil(zones.len());
        let planner = Self {
            held,
            nodes: usable.iter().map(|(node, _)| **node).collect(),
            number: usable.iter().enumerate().map(|(at, (node, _))| (**node, at)).collect(),
            weights: usable.iter().map(|(_, member)| u64::from(member.weight)).collect(),
            zones,
            zone_of,
            per_zone,
            replication: usize::from(replication),
        };
        match planner.zones_can_hold() < planner.replication {
            true => Err(PlanError::ZonesTooSmall { replication, per_zone }),
            false => Ok(planner),
        }
    }

    /// Replicas of one partition that the zones can hold together.
    fn zones_can_hold(&self) -> usize {
        let in_zone = |zone: usize| self.zone_of.iter().filter(|of| **of == zone).count();
        (0..self.zones.len()).map(|zone| in_zone(zone).min(self.per_zone)).sum()
    }

    fn division(&self) -> Division<'_> {
        Division {
            weights: &self.weights,
            zone_of: &self.zone_of,
            per_zone: self.per_zone,
            partitions: self.held.len(),
            replication: self.replication,
        }
    }

    fn kept(&self) -> Vec<Vec<usize>> {
        let of_partition = |replicas: &Vec<NodeId>| replicas.iter().filter_map(|node| self.number.get(node).copied()).collect();
        self.held.iter().map(of_partition).collect()
    }

    fn by_node(&self, prices: Vec<i64>) -> BTreeMap<NodeId, i64> {
        self.nodes.iter().copied().zip(prices).collect()
    }

    /// Replicas in the order they had, new ones in the places of those they replace.
    fn in_order(&self, placed: &[Vec<usize>]) -> Vec<Vec<NodeId>> {
        let in_order = |(placed, before): (&Vec<usize>, &Vec<NodeId>)| {
            let now: Vec<NodeId> = placed.iter().map(|at| self.nodes[*at]).collect();
            let mut arriving = now.iter().filter(|node| !before.contains(node)).copied();
            let stays_or_next = |node: &NodeId| if now.contains(node) { Some(*node) } else { arriving.next() };
            let mut list: Vec<NodeId> = before.iter().filter_map(stays_or_next).collect();
            list.extend(arriving);
            list
        };
        placed.iter().zip(self.held).map(in_order).collect()
    }

    /// Puts the primaries first, and returns their prices.
    fn even_out_primaries(&self, target: &mut [Vec<NodeId>]) -> Vec<i64> {
        let eligible: Vec<Vec<usize>> =
            target.iter().map(|replicas| replicas.iter().map(|node| self.number[node]).collect()).collect();
        let mut loads = vec![0_usize; self.nodes.len()];
        eligible.iter().flatten().for_each(|at| loads[*at] += 1);
        let before = self.held.iter().map(|replicas| replicas.first().and_then(|primary| self.number.get(primary)));
        let stays = |(before, eligible): (Option<&usize>, &Vec<usize>)| before.copied().filter(|at| eligible.contains(at));
        let primaries = flow::solve(&Problem {
            kept: before.zip(&eligible).map(|pair| stays(pair).into_iter().collect()).collect(),
            eligible,
            everyone: (0..self.nodes.len()).collect(),
            places: 1,
            zone_of: vec![0; self.nodes.len()],
            per_zone: 1,
            least: loads.iter().map(|load| load / self.replication).collect(),
            most: loads.iter().map(|load| load.div_ceil(self.replication)).collect(),
        });
        for (replicas, primary) in target.iter_mut().zip(&primaries.placed) {
            let at = replicas.iter().position(|node| *node == self.nodes[primary[0]]).expect("a primary is a replica");
            replicas.swap(0, at);
        }
        primaries.prices
    }
}

#[cfg(test)]
mod tests;
