//! The paper's comparison of three ways to partition (paper 6.2, figure 8): how even the load is, for how much metadata.
//!
//! S nodes, N replicas, keys spread evenly over the ring. A node's load is the part of the ring that it is a replica of. The *load
//! balancing efficiency* is the mean load over the greatest: 1 if all are loaded alike. The *metadata* is what each node must know
//! to find any key's replicas, in entries of about the same size: a token's position and its owner, or a partition's owner.
//!
//! | strategy | tokens | a key's replicas | entries |
//! |---|---|---|---|
//! | 1 | T random ones a node | the N nodes after the key | S T |
//! | 2 | T random ones a node | the N nodes after the key's partition, one of Q equal ones | S T + Q, and Q is much larger than S T |
//! | 3, as in the paper | Q / S partitions a node, in random order | the N nodes from the key's partition on | Q |
//! | 3, as planned here | the same | the N nodes that the partition names | Q |
//!
//! The first three are drawn from seeds. The last has no chance in it: it is what this repository's planner makes when the cluster
//! grows, node by node, to its size; a sixth of it, since that is what the time allows for the largest rings.
//!
//! Two things differ from the paper, whose figure is of production load: keys are equally popular here, and how it counted the
//! metadata of strategy 2 is not said, so the partitions are counted along with the tokens, [`PARTITIONS_PER_TOKEN`] for each. That is
//! what makes it the worst: with as many tokens as strategy 1 it would be as even.

pub mod plot;

use clap::Args;
use dynamo_core::id::NodeId;
use dynamo_core::rebalance::assignment;
use dynamo_core::rebalance::{Members, PlanError};
use dynamo_core::ring::Member;

use crate::dice::Dice;

/// "Q is much larger than S T" (6.2): so many times.
pub const PARTITIONS_PER_TOKEN: usize = 7;

/// What is compared.
#[derive(Args, Clone, Debug)]
pub struct Comparison {
    /// Nodes (S).
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(2..=1_000))]
    pub nodes: u16,
    /// Replicas (N).
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    pub n: u8,
    /// Entries of metadata for each node of the cluster, from this on and doubled again and again: at least 8, so that strategy 2 has
    /// a token for each.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(8..))]
    pub least: u16,
    /// To this.
    #[arg(long, default_value_t = 1_024)]
    pub most: u16,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    pub from: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    pub seeds: u32,
    /// The file that the plot is written to.
    #[arg(long, default_value = "strategies.svg")]
    pub svg: std::path::PathBuf,
}

impl Default for Comparison {
    fn default() -> Self {
        Self { nodes: 30, n: 3, least: 8, most: 1_024, from: 1, seeds: 30, svg: "strategies.svg".into() }
    }
}

/// How to partition.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Strategy {
    /// Random tokens, ranges between them.
    Tokens,
    /// Random tokens, equal partitions.
    TokensOverPartitions,
    /// The same number of equal partitions for each node, in random order.
    EqualPartitions,
    /// The same, with the replicas of each partition planned.
    Planned,
}

impl Strategy {
    /// All of them, in the paper's order.
    pub const ALL: [Self; 4] = [Self::Tokens, Self::TokensOverPartitions, Self::EqualPartitions, Self::Planned];

    /// As it is called in the table and the plot.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tokens => "strategy 1",
            Self::TokensOverPartitions => "strategy 2",
            Self::EqualPartitions => "strategy 3",
            Self::Planned => "strategy 3, planned",
        }
    }
}

/// The efficiencies of one strategy with one amount of metadata.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Efficiency {
    /// Of the unluckiest seed.
    pub least: f64,
    /// Over all seeds.
    pub mean: f64,
    /// Of the luckiest.
    pub most: f64,
}

/// One amount of metadata.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    /// Entries that each node keeps.
    pub entries: usize,
    /// In the order of [`Strategy::ALL`].
    pub efficiencies: [Efficiency; 4],
}

/// Compares; `done` is told of every row.
pub fn compare(comparison: &Comparison, mut done: impl FnMut(&Row)) -> Result<Vec<Row>, PlanError> {
    let (nodes, n) = (usize::from(comparison.nodes), usize::from(comparison.n));
    let mut rows = Vec::new();
    let doubled = std::iter::successors(Some(usize::from(comparison.least)), |entries| Some(entries * 2));
    for of_a_node in doubled.take_while(|entries| *entries <= usize::from(comparison.most)) {
        let planned = efficiency(&planned_loads(nodes, n, of_a_node)?);
        let drawn = |strategy: Strategy| {
            let of_seed = |seed: u64| {
                let mut dice = Dice::new(seed ^ 0x7374_7261_7465_6779);
                efficiency(&match strategy {
                    Strategy::Tokens => loads_of_tokens(nodes, n, of_a_node, &mut dice),
                    Strategy::TokensOverPartitions => loads_of_partitions_under_tokens(nodes, n, of_a_node, &mut dice),
                    Strategy::EqualPartitions => loads_of_equal_partitions(nodes, n, of_a_node, &mut dice),
                    Strategy::Planned => return planned,
                })
            };
            let of_seeds: Vec<f64> = (comparison.from..).take(comparison.seeds as usize).map(of_seed).collect();
            Efficiency {
                least: of_seeds.iter().copied().fold(f64::INFINITY, f64::min),
                mean: of_seeds.iter().sum::<f64>() / of_seeds.len() as f64,
                most: of_seeds.iter().copied().fold(0.0, f64::max),
            }
        };
        let row = Row { entries: nodes * of_a_node, efficiencies: Strategy::ALL.map(drawn) };
        done(&row);
        rows.push(row);
    }
    Ok(rows)
}

/// The head of the table.
pub fn header() -> String {
    let columns: String = Strategy::ALL.iter().map(|strategy| format!("  {:>22}", strategy.name())).collect();
    format!("{:>8}{columns}", "entries")
}

/// A row of it: the mean, and the range over the seeds.
pub fn line(row: &Row) -> String {
    let cell = |Efficiency { least, mean, most }: &Efficiency| format!("  {mean:>8.3} ({least:.3}-{most:.3})");
    let cells: String = row.efficiencies.iter().map(cell).collect();
    format!("{:>8}{cells}", row.entries)
}

fn efficiency(loads: &[f64]) -> f64 {
    let most = loads.iter().copied().fold(0.0, f64::max);
    loads.iter().sum::<f64>() / loads.len() as f64 / most
}

/// Positions on a ring of length 1 with their owners, in order.
fn random_tokens(nodes: usize, of_a_node: usize, dice: &mut Dice) -> Vec<(f64, usize)> {
    let position = |dice: &mut Dice| (dice.number() >> 11) as f64 / (1_u64 << 53) as f64;
    let mut tokens: Vec<(f64, usize)> = (0..nodes * of_a_node).map(|at| (position(dice), at % nodes)).collect();
    tokens.sort_by(|left, right| left.0.total_cmp(&right.0));
    tokens
}

/// Adds `share` to the first `n` distinct nodes among `owners`, from `first` on and round the ring.
fn load_the_next(loads: &mut [f64], owners: impl Fn(usize) -> usize, first: usize, n: usize, share: f64) {
    let mut replicas: Vec<usize> = Vec::with_capacity(n);
    let mut at = first;
    while replicas.len() < n.min(loads.len()) {
        let node = owners(at);
        if !replicas.contains(&node) {
            replicas.push(node);
            loads[node] += share;
        }
        at += 1;
    }
}

/// Strategy 1: a range ends at each token.
fn loads_of_tokens(nodes: usize, n: usize, of_a_node: usize, dice: &mut Dice) -> Vec<f64> {
    let tokens = random_tokens(nodes, of_a_node, dice);
    let mut loads = vec![0.0; nodes];
    let mut begin = tokens[tokens.len() - 1].0 - 1.0;
    for (at, (end, _)) in tokens.iter().enumerate() {
        load_the_next(&mut loads, |at| tokens[at % tokens.len()].1, at, n, end - begin);
        begin = *end;
    }
    loads
}

/// Strategy 2: the nodes after the end of each partition.
fn loads_of_partitions_under_tokens(nodes: usize, n: usize, entries_of_a_node: usize, dice: &mut Dice) -> Vec<f64> {
    let of_a_node = entries_of_a_node / (1 + PARTITIONS_PER_TOKEN);
    let tokens = random_tokens(nodes, of_a_node, dice);
    let partitions = nodes * of_a_node * PARTITIONS_PER_TOKEN;
    let mut loads = vec![0.0; nodes];
    for partition in 1..=partitions {
        let end = partition as f64 / partitions as f64;
        let first = tokens.partition_point(|(position, _)| *position < end);
        load_the_next(&mut loads, |at| tokens[at % tokens.len()].1, first, n, 1.0 / partitions as f64);
    }
    loads
}

/// Strategy 3 as in the paper: everyone owns as many partitions, and the owners of the next ones are the other replicas.
fn loads_of_equal_partitions(nodes: usize, n: usize, of_a_node: usize, dice: &mut Dice) -> Vec<f64> {
    let mut owners: Vec<usize> = (0..nodes * of_a_node).map(|at| at % nodes).collect();
    for at in (1..owners.len()).rev() {
        owners.swap(at, dice.below(at + 1));
    }
    let mut loads = vec![0.0; nodes];
    for partition in 0..owners.len() {
        load_the_next(&mut loads, |at| owners[at % owners.len()], partition, n, 1.0 / owners.len() as f64);
    }
    loads
}

/// Strategy 3 as planned here: the cluster has grown by a sixth, node by node.
fn planned_loads(nodes: usize, n: usize, of_a_node: usize) -> Result<Vec<f64>, PlanError> {
    let id = |at: usize| NodeId((at as u128 + 1).to_be_bytes());
    let members = |count: usize| -> Members { (0..count).map(|at| (id(at), Member { zone: "z".into(), weight: 1 })).collect() };
    let mut ring = vec![Vec::new(); nodes * of_a_node];
    for count in (nodes - nodes / 6).max(n)..=nodes {
        ring = assignment::assign(&ring, &members(count), n as u8)?;
    }
    let mut loads = vec![0.0; nodes];
    let share = 1.0 / ring.len() as f64;
    ring.iter().flatten().for_each(|node| loads[u128::from_be_bytes(node.0) as usize - 1] += share);
    Ok(loads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_add_up_to_n_rings_whatever_the_strategy() {
        for seed in 1..5 {
            let dice = || Dice::new(seed);
            for loads in [
                loads_of_tokens(10, 3, 16, &mut dice()),
                loads_of_partitions_under_tokens(10, 3, 16, &mut dice()),
                loads_of_equal_partitions(10, 3, 16, &mut dice()),
                planned_loads(10, 3, 16).unwrap(),
            ] {
                assert!((loads.iter().sum::<f64>() - 3.0).abs() < 1e-9, "{loads:?}");
                assert!(loads.iter().all(|load| (0.0..=1.0 + 1e-9).contains(load)), "nobody holds more than the ring: {loads:?}");
            }
        }
    }

    #[test]
    fn one_seed_is_one_figure_and_others_are_other_ones() {
        let of_seed = |seed| efficiency(&loads_of_tokens(10, 3, 16, &mut Dice::new(seed)));
        assert_eq!(of_seed(1), of_seed(1));
        assert_ne!(of_seed(1), of_seed(2));
    }
}
