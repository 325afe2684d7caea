//! `ring plan`: what a change of the members would move, before anybody decides on it. It changes nothing.
//!
//! The plan is the one that the writer of rings would make of the same members: the same planner, the same ring. Its certificate is
//! verified here once more, by code that shares nothing with the planner. Bytes are estimated from what the nodes report, and the time
//! from the nodes' budget of background work; both assumptions are in the output.

mod report;

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use dynamo_client::admin::PartitionDigest;
use dynamo_core::config::Config;
use dynamo_core::id::{NodeId, PartitionId};
use dynamo_core::rebalance::Members;
use dynamo_core::rebalance::certificate::{Change, Flaw, Proof};
use dynamo_core::rebalance::{assignment, order};
use dynamo_core::ring::{Member, Move, Placement, Ring, Stage};
use futures::future::join_all;

use crate::members::{self, Endpoints, Views};
use crate::output::{Format, show};
use crate::stop::Stop;

/// New nodes that one command may suppose.
const ADDED_MAX: usize = 1_000;

/// Arguments of `ring plan`.
#[derive(Args, Debug, Default)]
pub struct PlanCommand {
    /// Nodes that come: a number of them (each into the zone that has the least), or one as `zone=Z,weight=W`, or the id of a node
    /// that stands by. May be given more than once.
    #[arg(long, value_name = "NUMBER|zone=Z,weight=W|NODE", value_parser = addition)]
    add: Vec<Addition>,
    /// A member that leaves, by its id or the first digits of it. May be given more than once.
    #[arg(long, value_name = "NODE")]
    remove: Vec<String>,
    /// A member's new weight, by its id or the first digits of it. May be given more than once.
    #[arg(long, value_name = "NODE=WEIGHT", value_parser = weight)]
    weight: Vec<(String, u32)>,
    /// Bytes that a node may send or receive each second, for the estimate of time: the nodes' background budget, as they are
    /// configured. Default: from its floor of 1 MiB to its cap of 64 MiB.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    bytes_per_second: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Addition {
    Number(usize),
    One { zone: String, weight: u32 },
    StandBy(NodeId),
}

fn addition(text: &str) -> Result<Addition, String> {
    if let Some(node) = NodeId::parse(text) {
        return Ok(Addition::StandBy(node));
    }
    if !text.contains('=') {
        let wrong = "give a number of nodes, or zone=Z,weight=W, or the full id of a node that stands by";
        let number = text.parse::<usize>().map_err(|_| wrong.to_owned())?;
        return match (1..=ADDED_MAX).contains(&number) {
            true => Ok(Addition::Number(number)),
            false => Err(format!("give a number from 1 to {ADDED_MAX}")),
        };
    }
    let (mut zone, mut weight) = (None, 1);
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("zone", value)) if !value.is_empty() => zone = Some(value.to_owned()),
            Some(("weight", value)) => weight = positive(value)?,
            _ => return Err(format!("{field:?}: is neither zone=NAME nor weight=NUMBER")),
        }
    }
    let zone = zone.ok_or("zone: is missing; give zone=NAME,weight=NUMBER (the weight is 1 if it is not given)")?;
    Ok(Addition::One { zone, weight })
}

fn positive(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(weight) if weight > 0 => Ok(weight),
        _ => Err(format!("weight: {text:?} is not a number above 0")),
    }
}

fn weight(text: &str) -> Result<(String, u32), String> {
    let wrong = || "give NODE=WEIGHT, the weight a number; 0 drains the node".to_owned();
    let (node, weight) = text.split_once('=').ok_or_else(wrong)?;
    Ok((node.to_owned(), weight.parse().map_err(|_| wrong())?))
}

/// Plans the change and shows it.
pub async fn run(endpoints: &Endpoints, format: Format, command: &PlanCommand) -> Result<(), Stop> {
    let views = members::ask(endpoints).await?;
    let missing = "the cluster has no ring yet; the operator, or `dynamoctl ring init`, makes the first one";
    let ring = views.ring.clone().ok_or_else(|| Stop::Failed(missing.to_owned()))?;
    let zones = views.answered.iter().map(|(node, answer)| (*node, answer.status.zone.clone())).collect();
    let mut outlook = Outlook::of(&ring, command, &zones)?;
    outlook.sizes = sizes(views, &outlook).await;
    show(format, || outlook.text(), &outlook.document())?;
    match &outlook.verdict {
        Ok(_) => Ok(()),
        Err(flaw) => Err(Stop::Failed(format!("the certificate does not prove the plan: {flaw}"))),
    }
}

/// The least that a change of the members can move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bound {
    /// Replicas that the plan moves.
    pub moves: u64,
    /// That no balanced placement can do without: proven.
    pub lower_bound: u64,
    /// Objects in the moved replicas, as their sources count them. Which partitions a new node gets depends on its id: an estimate.
    pub objects: u64,
}

/// What a change to `add` more nodes, or without those in `remove`, moves at least.
pub async fn bound(endpoints: &Endpoints, add: usize, remove: &[NodeId]) -> Result<Bound, Stop> {
    let views = members::ask(endpoints).await?;
    let ring = views.ring.clone().ok_or_else(|| Stop::Failed("the cluster has no ring yet".to_owned()))?;
    let add = if add > 0 { vec![Addition::Number(add)] } else { Vec::new() };
    let command = PlanCommand { add, remove: remove.iter().map(NodeId::to_string).collect(), ..PlanCommand::default() };
    let mut outlook = Outlook::of(&ring, &command, &BTreeMap::new())?;
    outlook.sizes = sizes(views, &outlook).await;
    let proof =
        outlook.verdict.as_ref().map_err(|flaw| Stop::Failed(format!("the certificate does not prove the plan: {flaw}")))?;
    let sent = |fill: &Fill| {
        let sizes = fill.from.iter().filter_map(|from| outlook.sizes.of(*from, fill.partition));
        sizes.map(|size| size.objects).sum::<u64>()
    };
    let objects = outlook.fills.iter().map(sent).sum();
    Ok(Bound { moves: proof.moves, lower_bound: proof.lower_bound, objects })
}

/// A change as it would be.
struct Outlook {
    epoch: u64,
    cluster: String,
    /// Partitions that move already; the plan begins where they will have arrived.
    under_way: usize,
    /// By partition: before and after, as a move.
    placements: Vec<Placement>,
    before: Members,
    after: Members,
    /// How nodes that do not exist yet are called.
    supposed: BTreeMap<NodeId, String>,
    fills: Vec<Fill>,
    sizes: Sizes,
    verdict: Result<Proof, Flaw>,
    /// Bytes a second: the least and the most.
    rate: (u64, u64),
}

/// A new replica, and where its data comes from.
struct Fill {
    partition: PartitionId,
    to: NodeId,
    from: Vec<NodeId>,
}

/// What is known of the bytes of partitions.
#[derive(Default)]
struct Sizes {
    /// Of a source's copy.
    known: BTreeMap<(NodeId, PartitionId), Size>,
    /// Sources that did not say, and why.
    unknown: BTreeMap<NodeId, String>,
}

#[derive(Clone, Copy, Default)]
struct Size {
    objects: u64,
    bytes: u64,
}

impl Sizes {
    /// The copy's size; for one that is not known, the mean of those that are.
    fn of(&self, node: NodeId, partition: PartitionId) -> Option<Size> {
        self.known.get(&(node, partition)).copied().or_else(|| {
            let count = self.known.len() as u64;
            let mean = |of: fn(&Size) -> u64| self.known.values().map(of).sum::<u64>().checked_div(count);
            Some(Size { objects: mean(|size| size.objects)?, bytes: mean(|size| size.bytes)? })
        })
    }
}

impl Outlook {
    fn of(ring: &Ring, command: &PlanCommand, zones: &BTreeMap<NodeId, String>) -> Result<Self, Stop> {
        let before: Members =
            ring.members.iter().filter(|(node, _)| !ring.is_lost(**node)).map(|(node, member)| (*node, member.clone())).collect();
        let (after, supposed) = changed(ring, &before, command, zones)?;
        let arrived = |placement: &Placement| match &placement.moving {
            Some(moving) => moving.target.clone(),
            None => placement.replicas.clone(),
        };
        let held: Vec<Vec<NodeId>> = ring.placements.iter().map(arrived).collect();
        let replication = ring.replication;
        let (target, certificate) =
            assignment::solve(&held, &after, replication).map_err(|error| Stop::Usage(error.to_string()))?;
        let verdict = certificate.verify(&Change { held: &held, members: &after, replication }, &target);
        let target = order::spread(target, &after, &ring.buckets);
        let moving = |target| Some(Move { stage: Stage::WriteBothReadOld, target, since: ring.epoch.next() });
        let placements: Vec<Placement> =
            held.into_iter().zip(target).map(|(replicas, target)| Placement { replicas, moving: moving(target) }).collect();
        let mut fills = Vec::new();
        for (at, placement) in placements.iter().enumerate() {
            for (partition, n) in ring.partitions_on(at).zip(ring.layers()) {
                let of_layer = placement.first(n).fills(&ring.lost);
                fills.extend(of_layer.into_iter().map(|(to, from)| Fill { partition, to, from }));
            }
        }
        let config = Config::default();
        let rate = match command.bytes_per_second {
            Some(rate) => (rate, rate),
            None => (config.background_bytes_per_second_min, config.background_bytes_per_second_max),
        };
        let (epoch, cluster, under_way) = (ring.epoch.0, ring.cluster.to_string(), ring.moving_count());
        let sizes = Sizes::default();
        Ok(Self { epoch, cluster, under_way, placements, before, after, supposed, fills, sizes, verdict, rate })
    }

    /// Whose copies are sent.
    fn sources(&self) -> BTreeMap<NodeId, Vec<PartitionId>> {
        let mut sources = BTreeMap::<NodeId, BTreeSet<PartitionId>>::new();
        for fill in &self.fills {
            for from in &fill.from {
                sources.entry(*from).or_default().insert(fill.partition);
            }
        }
        sources.into_iter().map(|(node, partitions)| (node, partitions.into_iter().collect())).collect()
    }
}

/// The members after the change, and what those that do not exist are called.
fn changed(
    ring: &Ring,
    before: &Members,
    command: &PlanCommand,
    zones: &BTreeMap<NodeId, String>,
) -> Result<(Members, BTreeMap<NodeId, String>), Stop> {
    let mut after = before.clone();
    for given in &command.remove {
        let node = named("--remove", before, given)?;
        after.remove(&node).ok_or_else(|| Stop::Usage(format!("--remove {given}: was given twice")))?;
    }
    for (given, weight) in &command.weight {
        let node = named("--weight", before, given)?;
        let member = after.get_mut(&node).ok_or_else(|| Stop::Usage(format!("--weight {given}: is removed as well")))?;
        member.weight = *weight;
    }
    let mut supposed = BTreeMap::new();
    let mut suppose = |after: &mut Members, member: Member| {
        let number = supposed.len() as u128;
        // No node draws such an id.
        let node = NodeId((u128::MAX - u128::from(u32::MAX) + number).to_be_bytes());
        supposed.insert(node, format!("new-{}", number + 1));
        after.insert(node, member);
    };
    for addition in &command.add {
        match addition {
            Addition::Number(count) => {
                for _ in 0..*count {
                    let zone = emptiest_zone(&after);
                    suppose(&mut after, Member { zone, weight: 1 });
                }
            }
            Addition::One { zone, weight } => suppose(&mut after, Member { zone: zone.clone(), weight: *weight }),
            Addition::StandBy(node) => {
                let problem = match zones.get(node) {
                    Some(_) if ring.is_lost(*node) => "was declared lost once and never becomes a member again",
                    Some(_) if after.contains_key(node) => "is a member already",
                    None => "does not answer, so its zone is not known; suppose one like it with zone=Z",
                    Some(zone) => {
                        after.insert(*node, Member { zone: zone.clone(), weight: 1 });
                        continue;
                    }
                };
                return Err(Stop::Usage(format!("--add {node}: {problem}")));
            }
        }
    }
    Ok((after, supposed))
}

/// The zone with the least weight.
fn emptiest_zone(members: &Members) -> String {
    let mut zones = BTreeMap::<&str, u64>::new();
    for member in members.values() {
        *zones.entry(&member.zone).or_default() += u64::from(member.weight);
    }
    zones.into_iter().min_by_key(|(_, weight)| *weight).map_or_else(|| "zone".to_owned(), |(zone, _)| zone.to_owned())
}

/// The member whose id begins with what was given.
pub(crate) fn named(option: &str, members: &Members, given: &str) -> Result<NodeId, Stop> {
    let plain = given.replace('-', "").to_ascii_lowercase();
    let begins = |node: &&NodeId| !plain.is_empty() && node.to_string().replace('-', "").starts_with(&plain);
    let found: Vec<&NodeId> = members.keys().filter(begins).collect();
    match found.as_slice() {
        [node] => Ok(**node),
        [] => Err(Stop::Usage(format!("{option} {given}: no member's id begins so; `dynamoctl ring show` prints them"))),
        _ => Err(Stop::Usage(format!("{option} {given}: {} members' ids begin so; give more digits", found.len()))),
    }
}

/// Asks the sources what they would send: how many objects each partition has, times the mean size of an object there.
async fn sizes(views: Views, outlook: &Outlook) -> Sizes {
    let mut sizes = Sizes::default();
    let mut asked = Vec::new();
    let Views { mut answered, silent, .. } = views;
    for (node, partitions) in outlook.sources() {
        match answered.remove(&node) {
            Some(answer) => asked.push(async move { (node, answer.client.partition_digests(&partitions).await, answer.status) }),
            None => {
                let reason = silent.get(&node).map_or("does not answer", |silence| &silence.reason);
                sizes.unknown.insert(node, reason.to_owned());
            }
        }
    }
    for (node, digests, status) in join_all(asked).await {
        match digests {
            Ok(digests) => sizes.known.extend(of_copies(node, &digests, status.objects, status.bytes)),
            Err(error) => drop(sizes.unknown.insert(node, error.to_string())),
        }
    }
    sizes
}

fn of_copies(
    node: NodeId,
    digests: &BTreeMap<PartitionId, PartitionDigest>,
    objects: u64,
    bytes: u64,
) -> impl Iterator<Item = ((NodeId, PartitionId), Size)> {
    digests.iter().map(move |(partition, digest)| {
        let part = u128::from(digest.objects) * u128::from(bytes) / u128::from(objects.max(1));
        ((node, *partition), Size { objects: digest.objects, bytes: part as u64 })
    })
}

#[cfg(test)]
mod tests;
