//! `dynamo-sim plan`: how long the planner takes for a change of a large ring, and its verifier.

use std::time::{Duration, Instant};

use clap::Args;
use dynamo_core::id::NodeId;
use dynamo_core::rebalance::assignment;
use dynamo_core::rebalance::certificate::{Change, Proof};
use dynamo_core::rebalance::{Members, PlanError};
use dynamo_core::ring::Member;

/// A change of the number of nodes. They are in the zones in turn.
#[derive(Args, Clone, Copy, Debug)]
pub struct Growth {
    /// Partitions of the ring.
    #[arg(long, default_value_t = 16_384)]
    pub partitions: usize,
    /// Nodes before.
    #[arg(long, default_value_t = 99)]
    pub nodes: usize,
    /// Nodes after: more, or fewer.
    #[arg(long, default_value_t = 102)]
    pub to: usize,
    /// Zones.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    pub zones: u8,
    /// Replicas of each partition.
    #[arg(long, default_value_t = 3)]
    pub n: u8,
}

/// What came of a change.
pub struct Planned {
    /// What the verifier found.
    pub proof: Proof,
    /// For the first ring, without its verification.
    pub first: Duration,
    /// For the change, without its verification.
    pub planning: Duration,
    /// For the verification of the change.
    pub verifying: Duration,
    /// The fewest and the most replicas on a node.
    pub loads: (usize, usize),
}

/// Plans and verifies.
pub fn plan(growth: &Growth) -> Result<Planned, PlanError> {
    let nobody = vec![Vec::new(); growth.partitions];
    let begun = Instant::now();
    let (held, _) = assignment::solve(&nobody, &members(growth.nodes, growth.zones), growth.n)?;
    let first = begun.elapsed();

    let members = members(growth.to, growth.zones);
    let begun = Instant::now();
    let (target, certificate) = assignment::solve(&held, &members, growth.n)?;
    let planning = begun.elapsed();

    let begun = Instant::now();
    let proof = certificate.verify(&Change { held: &held, members: &members, replication: growth.n }, &target);
    let verifying = begun.elapsed();
    let proof = proof.expect("a plan that the planner would have handed out");
    let mut loads: Vec<usize> =
        members.keys().map(|node| target.iter().filter(|replicas| replicas.contains(node)).count()).collect();
    loads.sort_unstable();
    let loads = (loads[0], loads[loads.len() - 1]);
    Ok(Planned { proof, first, planning, verifying, loads })
}

/// What is printed.
pub fn text(growth: &Growth, planned: &Planned) -> String {
    let Growth { partitions, nodes, to, zones, n } = growth;
    let Planned { proof: Proof { moves, lower_bound, new_primaries }, loads: (least, most), .. } = planned;
    let seconds = |duration: Duration| format!("{:.3} s", duration.as_secs_f64());
    let rows = [
        ("the change", format!("{nodes} to {to} nodes in {zones} zones, {partitions} partitions, N = {n}")),
        ("replicas that move", format!("{moves}; no balanced plan moves fewer than {lower_bound}")),
        ("primaries that change", new_primaries.to_string()),
        ("replicas on a node, after it", format!("{least} to {most}")),
        ("planned in", seconds(planned.planning)),
        ("verified in", seconds(planned.verifying)),
        ("together", seconds(planned.planning + planned.verifying)),
        ("for comparison, the first ring planned in", seconds(planned.first)),
    ];
    rows.iter().map(|(what, value)| format!("{what:<42} {value}\n")).collect()
}

fn members(count: usize, zones: u8) -> Members {
    let id = |at: usize| NodeId((at as u128 + 1).to_be_bytes());
    let member = |at: usize| Member { zone: format!("zone-{}", at % usize::from(zones)), weight: 1 };
    (0..count).map(|at| (id(at), member(at))).collect()
}
