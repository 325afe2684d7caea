//! The proof that comes with a plan, and who checks it: code that shares nothing with the solver.
//!
//! A plan claims four things, and [`Certificate::verify`] believes none of them:
//!
//! 1. **It keeps the rules.** N distinct members of weight above 0 for each partition, at most ceil(N / zones) of them in a zone.
//! 2. **It is balanced.** The certificate has a *level* for each zone, replicas per unit of weight. A member's share is its weight
//!    times the level, or all partitions if that is less. The shares are the fairest possible if they add up to all replicas, no
//!    zone has more than it can take, and every zone that could take more stands at the highest level: then nobody's share can grow
//!    but at the cost of one that is no larger by weight. Each member holds its share, rounded down or up.
//! 3. **No other plan that keeps 1 and 2 moves fewer replicas.** The certificate has a *price* for each member, paid for every
//!    replica on it. A move costs 1. Let each partition choose its N members freely, within the zone rule, as cheaply as it can by
//!    cost and prices, and take away what the prices alone must yield: price times the most replicas a member may have, where the
//!    price is positive, or times the fewest. What is left no plan can undercut, whatever the prices are (weak duality). If it
//!    equals the plan's moves, then these are the least.
//! 4. **The primaries are even, and no fewer of them could change**, given who holds what: the same with one place for each
//!    partition, among its replicas.
//!
//! So a wrong certificate can only fail to prove; it cannot make a costly plan look cheap. The time is that of reading the plan once.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::id::{NodeId, PartitionId};
use crate::rebalance::Members;

/// How far the members of a zone are filled: replicas per unit of weight, as a fraction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Level {
    /// The numerator.
    pub replicas: u64,
    /// The denominator.
    pub weight: u64,
}

impl Level {
    /// The share of a member, as a fraction: by its weight, but each of the partitions once.
    fn share(&self, weight: u64, partitions: u64) -> (u128, u128) {
        let by_weight = u128::from(self.replicas) * u128::from(weight);
        (by_weight.min(u128::from(partitions) * u128::from(self.weight)), u128::from(self.weight))
    }

    fn is_above(&self, other: &Self) -> bool {
        u128::from(self.replicas) * u128::from(other.weight) > u128::from(other.replicas) * u128::from(self.weight)
    }
}

/// What proves a plan.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Certificate {
    /// By zone.
    pub levels: BTreeMap<String, Level>,
    /// By member: what a replica on it is charged.
    pub prices: BTreeMap<NodeId, i64>,
    /// By member: what being a primary is charged.
    pub primary_prices: BTreeMap<NodeId, i64>,
}

/// What a plan is about: who has what, who takes part.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// By partition: who holds it now, the primary first; nobody at first.
    pub held: &'a [Vec<NodeId>],
    /// Who takes part.
    pub members: &'a Members,
    /// N.
    pub replication: u8,
}

/// What was proved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Proof {
    /// Replicas that come to a member that did not hold them.
    pub moves: u64,
    /// No plan moves fewer.
    pub lower_bound: u64,
    /// Partitions that have another primary than before.
    pub new_primaries: u64,
}

/// Why a plan is refused.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Flaw {
    /// Not a plan for these partitions.
    #[error("there are {planned} partitions in the plan, and {held} in the ring")]
    Partitions {
        /// In the plan.
        planned: usize,
        /// In the ring.
        held: usize,
    },
    /// A rule is broken.
    #[error("partition {partition}: {rule}")]
    Rule {
        /// Where.
        partition: PartitionId,
        /// Which.
        rule: &'static str,
    },
    /// The levels do not prove that the shares are fair.
    #[error("zone {zone:?}: {what}")]
    Level {
        /// Where.
        zone: String,
        /// What is wrong.
        what: &'static str,
    },
    /// The shares are not those of all replicas.
    #[error("the shares do not add up to all replicas")]
    Sum,
    /// Not balanced.
    #[error("{node} has {has} {what}; its share is {least} to {most}")]
    Share {
        /// Who.
        node: NodeId,
        /// Replicas, or primaries.
        what: &'static str,
        /// So many.
        has: u64,
        /// Its share, rounded down.
        least: u64,
        /// Its share, rounded up.
        most: u64,
    },
    /// A member without a price.
    #[error("{0} has no price")]
    Price(NodeId),
    /// Nothing shows that it is the cheapest.
    #[error("{costs} {what} where {lower_bound} are proved to be needed")]
    NotLeast {
        /// Replicas that move, or new primaries.
        what: &'static str,
        /// What the plan costs.
        costs: i128,
        /// What the prices prove.
        lower_bound: i128,
    },
}

/// A member as the checks see it.
struct Holder<'a> {
    node: NodeId,
    zone: &'a str,
    weight: u64,
}

/// Between how many and how many each has.
type Bounds = BTreeMap<NodeId, (u64, u64)>;

impl Certificate {
    /// Checks `target` and this certificate for it; see the head of the module.
    pub fn verify(&self, change: &Change<'_>, target: &[Vec<NodeId>]) -> Result<Proof, Flaw> {
        let usable = change.members.iter().filter(|(_, member)| member.weight > 0);
        let holders: Vec<Holder<'_>> =
            usable.map(|(node, member)| Holder { node: *node, zone: &member.zone, weight: u64::from(member.weight) }).collect();
        let zones: BTreeSet<&str> = holders.iter().map(|holder| holder.zone).collect();
        let per_zone = usize::from(change.replication).div_ceil(zones.len().max(1));
        check_rules(change, target, &holders, per_zone)?;
        let shares = self.check_levels(change, &holders, per_zone)?;
        check_shares("replicas", &shares, target.iter().flatten())?;
        let moves = target.iter().zip(change.held).map(|(now, before)| now.iter().filter(|node| !before.contains(node)).count());
        let moves = moves.sum::<usize>() as u64;
        let lower_bound = self.moves_at_least(change, &holders, per_zone, &shares)?;
        if lower_bound != i128::from(moves) {
            return Err(Flaw::NotLeast { what: "replicas move", costs: moves.into(), lower_bound });
        }
        let new_primaries = self.check_primaries(change, target)?;
        Ok(Proof { moves, lower_bound: moves, new_primaries })
    }

    /// The shares that the levels stand for, once these are shown to be fair.
    fn check_levels(&self, change: &Change<'_>, holders: &[Holder<'_>], per_zone: usize) -> Result<Bounds, Flaw> {
        let partitions = change.held.len() as u64;
        let wrong = |zone: &str, what| Flaw::Level { zone: zone.to_owned(), what };
        let mut zones = BTreeMap::<&str, u128>::new();
        let mut bounds = Bounds::new();
        for Holder { node, zone, weight } in holders {
            let level = self.levels.get(*zone).filter(|level| level.weight > 0).ok_or_else(|| wrong(zone, "it has no level"))?;
            let (share, of) = level.share(*weight, partitions);
            *zones.entry(zone).or_default() += share;
            bounds.insert(*node, ((share / of) as u64, share.div_ceil(of) as u64));
        }
        let mut left = u128::from(partitions) * u128::from(change.replication);
        let mut highest: Option<(Level, u128)> = None;
        let level_of = |zone: &str| self.levels[zone];
        let capacity = |zone: &str| u128::from(partitions) * per_zone as u128 * u128::from(level_of(zone).weight);
        for (zone, share) in &zones {
            if *share > capacity(zone) {
                return Err(wrong(zone, "its members' shares are more than the zone rule allows"));
            }
            if *share == capacity(zone) {
                left = left.checked_sub(u128::from(partitions) * per_zone as u128).ok_or(Flaw::Sum)?;
                continue;
            }
            let (level, sum) = highest.get_or_insert((level_of(zone), 0));
            if *level != level_of(zone) {
                return Err(wrong(zone, "it could take more, and is not at the level of the others that could"));
            }
            *sum += share;
        }
        match highest {
            None if left > 0 => return Err(Flaw::Sum),
            Some((level, sum)) if left * u128::from(level.weight) != sum => return Err(Flaw::Sum),
            _ => {}
        }
        let above = |zone: &&&str| highest.is_some_and(|(level, _)| level_of(zone).is_above(&level));
        match zones.keys().find(above) {
            Some(zone) => Err(wrong(zone, "it is above the level of zones that could take more")),
            None => Ok(bounds),
        }
    }

    /// What no plan can undercut, by the prices.
    fn moves_at_least(
        &self,
        change: &Change<'_>,
        holders: &[Holder<'_>],
        per_zone: usize,
        shares: &Bounds,
    ) -> Result<i128, Flaw> {
        let mut zones = BTreeMap::<&str, Vec<(i64, NodeId)>>::new();
        for Holder { node, zone, .. } in holders {
            let price = *self.prices.get(node).ok_or(Flaw::Price(*node))?;
            zones.entry(zone).or_default().push((price, *node));
        }
        zones.values_mut().for_each(|zone| zone.sort_unstable());
        let holder: BTreeMap<NodeId, (i64, &str)> =
            holders.iter().map(|Holder { node, zone, .. }| (*node, (self.prices[node], *zone))).collect();
        let mut bound = -yield_of(shares, &self.prices);
        let (mut kept, mut best) = (Vec::new(), Vec::new());
        for held in change.held {
            let mut cheapest: Vec<i64> = Vec::with_capacity(zones.len() * per_zone);
            kept.clear();
            kept.extend(held.iter().filter_map(|node| holder.get(node)));
            for (zone, members) in &zones {
                best.clear();
                best.extend(kept.iter().filter(|(_, of)| of == zone).map(|(price, _)| *price));
                let others = members.iter().filter(|(_, node)| !held.contains(node));
                best.extend(others.take(per_zone).map(|(price, _)| price.saturating_add(1)));
                best.sort_unstable();
                cheapest.extend(best.iter().take(per_zone));
            }
            cheapest.sort_unstable();
            bound += cheapest.iter().take(usize::from(change.replication)).map(|cost| i128::from(*cost)).sum::<i128>();
        }
        Ok(bound)
    }

    /// How many primaries are new, once they are shown to be even and the new ones the fewest.
    fn check_primaries(&self, change: &Change<'_>, target: &[Vec<NodeId>]) -> Result<u64, Flaw> {
        let mut loads = BTreeMap::<NodeId, u64>::new();
        target.iter().flatten().for_each(|node| *loads.entry(*node).or_default() += 1);
        let n = u64::from(change.replication);
        let shares: Bounds = loads.iter().map(|(node, load)| (*node, (load / n, load.div_ceil(n)))).collect();
        check_shares("primaries", &shares, target.iter().filter_map(|replicas| replicas.first()))?;
        if let Some(node) = shares.keys().find(|node| !self.primary_prices.contains_key(node)) {
            return Err(Flaw::Price(*node));
        }
        let mut lower_bound = -yield_of(&shares, &self.primary_prices);
        let mut new_primaries = 0;
        for (replicas, held) in target.iter().zip(change.held) {
            let is_new = |node: &NodeId| held.first() != Some(node);
            new_primaries += u64::from(is_new(&replicas[0]));
            let cost = |node: &NodeId| i128::from(self.primary_prices[node]) + i128::from(is_new(node));
            lower_bound += replicas.iter().map(cost).min().expect("a partition has replicas");
        }
        match lower_bound == i128::from(new_primaries) {
            true => Ok(new_primaries),
            false => Err(Flaw::NotLeast { what: "primaries change", costs: new_primaries.into(), lower_bound }),
        }
    }
}

fn check_rules(change: &Change<'_>, target: &[Vec<NodeId>], holders: &[Holder<'_>], per_zone: usize) -> Result<(), Flaw> {
    let (planned, held) = (target.len(), change.held.len());
    if planned != held {
        return Err(Flaw::Partitions { planned, held });
    }
    let zone_of: BTreeMap<NodeId, &str> = holders.iter().map(|holder| (holder.node, holder.zone)).collect();
    for (at, replicas) in target.iter().enumerate() {
        let broken = |rule| Err(Flaw::Rule { partition: PartitionId(at as u32), rule });
        if replicas.len() != usize::from(change.replication) {
            return broken("it does not have N replicas");
        }
        for (place, node) in replicas.iter().enumerate() {
            let Some(zone) = zone_of.get(node) else {
                return broken("a replica is on nobody who takes part with a weight above 0");
            };
            if replicas[..place].contains(node) {
                return broken("a member is listed twice");
            }
            if replicas[..place].iter().filter(|other| zone_of.get(other) == Some(zone)).count() >= per_zone {
                return broken("a zone has more replicas than the zone rule allows");
            }
        }
    }
    Ok(())
}

/// Everyone has their share, rounded down or up.
fn check_shares<'a>(what: &'static str, shares: &Bounds, holders: impl Iterator<Item = &'a NodeId>) -> Result<(), Flaw> {
    let mut loads: BTreeMap<NodeId, u64> = shares.keys().map(|node| (*node, 0)).collect();
    holders.for_each(|node| *loads.entry(*node).or_default() += 1);
    for (node, has) in loads {
        let (least, most) = shares.get(&node).copied().unwrap_or((0, 0));
        if !(least..=most).contains(&has) {
            return Err(Flaw::Share { node, what, has, least, most });
        }
    }
    Ok(())
}

/// What the prices yield at the most, whoever is chosen.
fn yield_of(shares: &Bounds, prices: &BTreeMap<NodeId, i64>) -> i128 {
    let of_member = |(node, (least, most)): (&NodeId, &(u64, u64))| {
        let price = i128::from(prices[node]);
        price * i128::from(if price > 0 { *most } else { *least })
    };
    shares.iter().map(of_member).sum()
}
