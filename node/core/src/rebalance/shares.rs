//! Each member's fair share of the replicas, by weight (paper 6.1 and 6.2).
//!
//! Water is poured into vessels as wide as the members' weights. All fill to one **level**, replicas per unit of weight, but for two
//! limits: a member takes each partition once, and a zone takes each partition as often as the zone rule allows. A vessel or a zone
//! that is full takes no more, and the others rise: the shares are the fairest that the rules allow, and there is one such division.
//!
//! Any shares within these two limits can be dealt out: with a fraction of (share / partitions) of every partition on each member
//! all rules hold, and where fractions fit whole replicas do (a flow network with whole capacities). So a plan holds to the share,
//! rounded up or down, for every member, and never has to compromise.

use crate::rebalance::certificate::Level;

/// Who shares what.
pub(super) struct Division<'a> {
    pub weights: &'a [u64],
    pub zone_of: &'a [usize],
    /// Replicas of one partition that may lie in one zone.
    pub per_zone: usize,
    pub partitions: usize,
    pub replication: usize,
}

impl Division<'_> {
    /// By zone: how far it is filled. The zones can hold all replicas together, or this is our own mistake.
    pub(super) fn levels(&self) -> Vec<Level> {
        let zones = self.zone_of.iter().max().map_or(0, |last| last + 1);
        let mut levels: Vec<Option<Level>> = vec![None; zones];
        let capacity = (self.partitions * self.per_zone) as u64;
        let mut left = (self.partitions * self.replication) as u64;
        loop {
            let top = self.level(|zone| levels[zone].is_none(), left);
            // A zone that overflows at this level overflows at the final one, which is higher.
            let full: Vec<usize> = (0..zones).filter(|zone| levels[*zone].is_none() && self.overflows(*zone, top)).collect();
            if full.is_empty() {
                return levels.into_iter().map(|level| level.unwrap_or(top)).collect();
            }
            for zone in full {
                levels[zone] = Some(self.level(|other| other == zone, capacity));
                left = left.checked_sub(capacity).expect("the zones hold all replicas");
            }
        }
    }

    /// The members' shares, rounded down and up.
    pub(super) fn bounds(&self, levels: &[Level]) -> (Vec<usize>, Vec<usize>) {
        let share = |at: usize| self.share(at, levels[self.zone_of[at]]);
        let rounded = |(replicas, of): (u128, u128)| ((replicas / of) as usize, replicas.div_ceil(of) as usize);
        (0..self.weights.len()).map(|at| rounded(share(at))).unzip()
    }

    /// A member's share as a fraction: by weight, but each partition once.
    fn share(&self, at: usize, level: Level) -> (u128, u128) {
        let most = self.partitions as u128 * u128::from(level.weight);
        (most.min(u128::from(level.replicas) * u128::from(self.weights[at])), u128::from(level.weight))
    }

    /// The level at which the members of some zones hold `total` replicas: the heaviest are full before the others.
    fn level(&self, takes_part: impl Fn(usize) -> bool, total: u64) -> Level {
        let of_zones = self.weights.iter().zip(self.zone_of).filter(|(_, zone)| takes_part(**zone));
        let mut weights: Vec<u64> = of_zones.map(|(weight, _)| *weight).collect();
        weights.sort_unstable_by(|left, right| right.cmp(left));
        let (mut replicas, mut weight) = (u128::from(total), weights.iter().map(|weight| u128::from(*weight)).sum::<u128>());
        let each = self.partitions as u128;
        for heaviest in weights {
            if replicas * u128::from(heaviest) < each * weight {
                break;
            }
            replicas -= each;
            weight -= u128::from(heaviest);
        }
        match weight {
            // Everyone is full; a unit of weight, the least there is, then stands for all partitions.
            0 => Level { replicas: self.partitions as u64, weight: 1 },
            _ => Level { replicas: replicas as u64, weight: weight as u64 },
        }
    }

    fn overflows(&self, zone: usize, level: Level) -> bool {
        let members = (0..self.weights.len()).filter(|at| self.zone_of[*at] == zone);
        let held: u128 = members.map(|at| self.share(at, level).0).sum();
        held > (self.partitions * self.per_zone) as u128 * u128::from(level.weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn least(weights: &[u64], zone_of: &[usize], per_zone: usize, replication: usize) -> Vec<usize> {
        let division = Division { weights, zone_of, per_zone, partitions: 60, replication };
        division.bounds(&division.levels()).0
    }

    #[test]
    fn shares_follow_weights_until_a_member_or_a_zone_is_full() {
        assert_eq!(least(&[1, 1, 1, 1], &[0; 4], 3, 3), [45; 4]);
        assert_eq!(least(&[1, 1, 1, 1, 2], &[0; 5], 3, 3), [30, 30, 30, 30, 60]);
        assert_eq!(least(&[1, 1, 1, 9], &[0; 4], 3, 3), [40, 40, 40, 60], "nobody takes a partition twice");
        assert_eq!(least(&[1, 1, 1, 1, 1], &[0, 0, 1, 1, 2], 1, 3), [30, 30, 30, 30, 60], "each zone takes each partition");
        assert_eq!(least(&[1, 1, 1, 1, 1], &[0, 0, 0, 0, 1], 2, 3), [30, 30, 30, 30, 60], "the big zone is full");
        assert_eq!(least(&[3, 1, 1, 1], &[0, 0, 1, 1], 2, 3), [60, 40, 40, 40]);
        assert_eq!(least(&[1, 1, 1], &[0, 1, 2], 1, 3), [60; 3], "everyone holds everything");
    }
}
