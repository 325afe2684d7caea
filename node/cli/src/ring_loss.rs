//! `ring replace --lost` and `ring remove --lost`: an administrator's word that a member's disk is gone for ever, and the writing of
//! rings until others have taken its place ([`dynamo_core::rebalance::loss`] says why that is safe, and when it is not).
//!
//! Nothing here concludes a loss from silence, and nothing is done without `--yes`. As for the first ring, each ring is recorded in a
//! file before any node sees it; a command that was interrupted is simply given again. Where the operator is, it is the writer of
//! rings, and does this by itself on proof that the volume is gone.
//!
//! Unlike a change of members ([`crate::ring_operations`]) this needs no record of the rings before, which may be gone with the disk,
//! takes no lock, and offers each ring to all at once: one such command at a time, and nobody else who writes rings meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use dynamo_core::id::NodeId;
use dynamo_core::rebalance::batches::Limits;
use dynamo_core::rebalance::loss::{self, Consequences, LossError};
use dynamo_core::rebalance::{self, Members, Next, View, first_ring, operation};
use dynamo_core::ring::{Member, Ring};
use tokio::time::{Instant, sleep};

use crate::arguments::seconds;
use crate::departed::{Departed, advice, drained, is_at_its_end};
use crate::members::{self, Endpoints, Views};
use crate::output::tell;
use crate::ring_writer;
use crate::stop::Stop;

/// Between two looks at the nodes.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Partitions that are named where data may be lost; the others are counted.
const NAMED_MAX: usize = 20;

/// Arguments of both commands.
#[derive(Args, Debug)]
pub struct Loss {
    /// A member whose disk is gone for ever, by its full id; may be given more than once. Its id never becomes a member again.
    #[arg(long, required = true, value_name = "NODE", value_parser = node)]
    lost: Vec<NodeId>,
    /// The cluster's write quorum, which decides what the loss may cost. Default: the majority of N.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..))]
    w: Option<u8>,
    /// Go on although acknowledged writes may be lost.
    #[arg(long)]
    accept_data_loss: bool,
    /// Do it. Without this, what would follow is shown and nothing is done.
    #[arg(long)]
    yes: bool,
    /// File in which each ring is recorded before it is offered. Default: in the state folder, by the cluster's name; for
    /// the cluster of `local up`, in its folder.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Seconds until the ring must have come to rest; the command may be given again afterwards.
    #[arg(long, default_value_t = 3600, value_name = "SECONDS", value_parser = seconds())]
    wait: u64,
}

/// Arguments of `ring replace`.
#[derive(Args, Debug)]
pub struct Replace {
    #[command(flatten)]
    loss: Loss,
    /// A node that stands by and is to take the place; may be given more than once. Default: those that stand by, if they are as many
    /// as are lost.
    #[arg(long, value_name = "NODE", value_parser = node)]
    with: Vec<NodeId>,
}

pub(crate) fn node(text: &str) -> Result<NodeId, String> {
    NodeId::parse(text).ok_or_else(|| "is no node id; give the full one that `dynamoctl ring show` prints".to_owned())
}

/// Who comes in the place of the lost.
enum Newcomers<'a> {
    Nobody,
    StandBy(&'a [NodeId]),
}

/// Declares members lost and fills others in their place.
pub async fn replace(endpoints: &Endpoints, replace: &Replace) -> Result<Ring, Stop> {
    run(endpoints, &replace.loss, &Newcomers::StandBy(&replace.with)).await
}

/// Declares members lost and spreads what they held over the members that are left.
pub async fn remove(endpoints: &Endpoints, loss: &Loss) -> Result<Ring, Stop> {
    run(endpoints, loss, &Newcomers::Nobody).await
}

async fn run(endpoints: &Endpoints, loss: &Loss, newcomers: &Newcomers<'_>) -> Result<Ring, Stop> {
    let views = members::ask(endpoints).await?;
    let missing = || Stop::Failed("the cluster has no ring yet; nothing can be lost from it".to_owned());
    let held = views.ring.clone().ok_or_else(missing)?;
    let path = ring_writer::record_of(&ring_writer::record_or_default(loss.record.as_deref())?, held.cluster);
    let ring = newest(&path, held)?;
    let zones = views.answered.iter().map(|(node, answer)| (*node, answer.status.zone.clone())).collect();
    let desired = desired(&ring, &loss.lost, newcomers, &zones)?;
    let w = loss.w.map_or(usize::from(ring.replication) / 2 + 1, usize::from);
    let consequences = loss::consequences(&ring, &loss.lost, w);
    tell(told(&ring, loss, &desired, &consequences, w));
    if !consequences.at_risk.is_empty() && !loss.accept_data_loss {
        return Err(Stop::Usage("acknowledged writes may be lost; nothing was done. Say --accept-data-loss to go on".to_owned()));
    }
    if !loss.yes {
        return Err(Stop::Usage("nothing was done; say --yes to do this".to_owned()));
    }
    let deadline = Instant::now() + Duration::from_secs(loss.wait);
    let departed = Departed::default();
    Writer { endpoints, path, lost: &loss.lost, desired, ring, told: String::new(), departed }.write(deadline).await
}

/// The newer of what is recorded and what the nodes hold: a ring that was recorded may not have reached any of them.
fn newest(path: &Path, held: Ring) -> Result<Ring, Stop> {
    match ring_writer::recorded(path, held.cluster)? {
        Some(recorded) if recorded.epoch > held.epoch => Ok(recorded),
        Some(recorded) if recorded.epoch == held.epoch && recorded.hash() != held.hash() => {
            let path = path.display();
            let epoch = held.epoch;
            Err(Stop::Failed(format!(
                "{path} records another ring of epoch {epoch} than the nodes hold: there is another writer"
            )))
        }
        _ => Ok(held),
    }
}

/// The members that the ring is to have.
fn desired(ring: &Ring, lost: &[NodeId], newcomers: &Newcomers<'_>, zones: &BTreeMap<NodeId, String>) -> Result<Members, Stop> {
    for node in lost {
        if zones.contains_key(node) {
            return Err(Stop::Usage(format!("--lost {node}: {}", LossError::Answers(*node))));
        }
        if !ring.members.contains_key(node) && !ring.is_lost(*node) {
            return Err(Stop::Usage(format!("--lost {node}: {}", LossError::NoMember(*node))));
        }
    }
    let mut desired = operation::wanted(ring);
    desired.retain(|node, _| !lost.contains(node));
    if let Newcomers::StandBy(named) = newcomers {
        for node in chosen(ring, lost, named, zones)? {
            desired.insert(node, Member { zone: zones[&node].clone(), weight: 1 });
        }
    }
    match first_ring(ring.cluster, ring.partition_bits, ring.replication, &desired) {
        Ok(_) => Ok(desired),
        Err(error) => Err(Stop::Usage(format!("{error}; start a new node and use `ring replace`"))),
    }
}

/// The nodes that take the places of the lost: those named, or all that stand by if they are as many.
fn chosen(ring: &Ring, lost: &[NodeId], named: &[NodeId], zones: &BTreeMap<NodeId, String>) -> Result<Vec<NodeId>, Stop> {
    for node in named {
        let problem = match () {
            () if ring.is_lost(*node) => "was declared lost once and never becomes a member again; wipe its data directory",
            () if ring.members.get(node).is_some_and(|member| member.weight == 0) => "is leaving the ring",
            () if !zones.contains_key(node) => "does not answer",
            () => continue,
        };
        return Err(Stop::Usage(format!("--with {node}: {problem}")));
    }
    if !named.is_empty() {
        return Ok(named.to_vec());
    }
    let stands_by = |node: &&NodeId| !ring.members.contains_key(node) && !ring.is_lost(**node);
    let standing: Vec<NodeId> = zones.keys().filter(stands_by).copied().collect();
    // Given again after an interruption: the newcomers are members by now.
    let begun = lost.iter().all(|node| ring.is_lost(*node)) && standing.is_empty();
    if begun || standing.len() == lost.len() {
        return Ok(standing);
    }
    let ids: Vec<String> = standing.iter().map(NodeId::to_string).collect();
    let (count, wanted) = (standing.len(), lost.len());
    Err(Stop::Usage(format!(
        "{count} nodes stand by and {wanted} are lost; say --with for each of those to take: {}",
        ids.join(", ")
    )))
}

/// What will be done, and what it means.
fn told(ring: &Ring, loss: &Loss, desired: &Members, consequences: &Consequences, w: usize) -> String {
    let ids = |nodes: Vec<&NodeId>| nodes.into_iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ");
    let all = ring.partition_count_of_layers();
    let new: Vec<&NodeId> = desired.keys().filter(|node| !ring.members.contains_key(node)).collect();
    let mut text = format!("declared lost, for ever: {}\n", ids(loss.lost.iter().collect()));
    text.push_str("  if one of them runs after all, it is fenced: it stops serving, and what only it holds is not used\n");
    if !new.is_empty() {
        text.push_str(&format!("filled in their place: {}\n", ids(new)));
    }
    text.push_str(&format!(
        "{} of {all} partitions have lost a copy and are filled from those that are left",
        consequences.affected.len()
    ));
    if consequences.at_risk.is_empty() {
        text.push_str(&format!("\nno write that W = {w} disks had acknowledged is lost"));
        return text;
    }
    let named: Vec<String> = consequences.at_risk.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let more = if consequences.at_risk.len() > NAMED_MAX { ", ..." } else { "" };
    text.push_str(&format!(
        "\nDATA MAY BE LOST: {} of {all} partitions have lost W = {w} copies or more ({} of them all copies): {}{more}",
        consequences.at_risk.len(),
        consequences.gone.len(),
        named.join(", ")
    ));
    let low = ring.buckets.entries().filter(|(_, n)| usize::from(*n) <= w);
    let low: Vec<String> = low.map(|(bucket, n)| format!("{} ({n})", bucket.escape_ascii())).collect();
    if !low.is_empty() {
        text.push_str(&format!("\nwhere the N of a bucket is no more than W, W is all its copies: {}", low.join(", ")));
    }
    text
}

/// Writes rings until the ring has come to rest.
struct Writer<'a> {
    endpoints: &'a Endpoints,
    path: PathBuf,
    lost: &'a [NodeId],
    desired: Members,
    ring: Ring,
    /// What was said last.
    told: String,
    departed: Departed,
}

impl Writer<'_> {
    async fn write(mut self, deadline: Instant) -> Result<Ring, Stop> {
        loop {
            let waits_for = match members::ask(self.endpoints).await {
                Ok(views) => match self.step(&views).await? {
                    None => return self.end(),
                    Some(waits_for) => waits_for,
                },
                Err(Stop::Usage(reason)) => return Err(Stop::Usage(reason)),
                Err(stop) => stop.to_string(),
            };
            if waits_for != self.told {
                tell(format_args!("epoch {}: {waits_for}", self.ring.epoch));
                self.told.clone_from(&waits_for);
            }
            if Instant::now() >= deadline {
                return Err(Stop::Failed(format!("not done in time: {waits_for}; give the command again")));
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    fn end(self) -> Result<Ring, Stop> {
        let silent = self.departed.unproven(&self.ring);
        if silent.is_empty() { Ok(self.ring) } else { Err(Stop::Failed(advice(&silent))) }
    }

    /// One look and what follows; `None` when there is nothing more to do.
    async fn step(&mut self, views: &Views) -> Result<Option<String>, Stop> {
        if let Some(held) = views.ring.as_ref().filter(|held| held.epoch > self.ring.epoch) {
            let follows = held.check_follows(Some(&self.ring), self.ring.cluster);
            follows.map_err(|error| Stop::Failed(format!("another writer is at work: {error}")))?;
            self.ring = held.clone();
        }
        if views.ring.as_ref().is_none_or(|held| held.epoch < self.ring.epoch) {
            // Nothing is built on it before a node holds it.
            let refusals = self.offer(views).await;
            let missing = ring_writer::missing_between(&self.path, &self.ring, views).map(|missing| format!("; {missing}"));
            let (epoch, missing) = (self.ring.epoch, missing.unwrap_or_default());
            return Ok(Some(format!("ring epoch {epoch} is offered, which no node held yet{refusals}{missing}")));
        }
        self.departed.saw_ring(&self.ring, views);
        let heard = heard(views);
        let declared = match loss::declare(&self.ring, self.lost, &heard) {
            Ok(declared) => declared,
            Err(error @ LossError::NobodyHolds(_)) => {
                let refusals = self.offer(views).await;
                return Ok(Some(format!("{error}{refusals}")));
            }
            Err(error) => return Err(Stop::Failed(error.to_string())),
        };
        if declared != self.ring {
            return self.propose(declared, views, "the loss is declared").await.map(Some);
        }
        // A change of members that is under way is gone on with, without the lost and with those in their places.
        let amended = operation::amended(&self.ring, &self.desired);
        if amended != self.ring {
            return self.propose(amended, views, "what is under way goes on without the lost").await.map(Some);
        }
        let next = match &self.ring.operation {
            None => rebalance::next(&self.ring, &self.desired, &heard).map(Some),
            Some(_) => operation::next(&self.ring, &heard, &Limits::default()),
        };
        let Some(next) = next.map_err(|error| Stop::Failed(error.to_string()))? else {
            return Err(Stop::Failed("the operation that is under way is paused; `dynamoctl ring resume` goes on".to_owned()));
        };
        if is_at_its_end(&self.ring, &next) {
            let holding = self.departed.holding(&self.ring, views).await;
            if !holding.is_empty() {
                let refusals = self.offer(views).await;
                return Ok(Some(format!("waiting for {} to hold nothing, out of the ring{refusals}", list(&holding))));
            }
        }
        Ok(match next {
            Next::Settled => None,
            Next::Propose(ring) => Some(self.propose(ring, views, "the next stage is offered").await?),
            Next::AwaitEpoch(nodes) => {
                let refusals = self.offer(views).await;
                Some(format!("waiting for {} to hold the ring{refusals}", list(&nodes)))
            }
            Next::AwaitData { received, moving, waiting_for } => {
                Some(format!("{received} of {moving} replicas are filled; {} still receive", list(&waiting_for)))
            }
            Next::AwaitReceipts(nodes) => {
                let drained = drained(&self.ring, &nodes, views).await;
                if drained.is_empty() {
                    Some(format!("waiting for the drain receipts of {}", list(&nodes)))
                } else {
                    let ring = rebalance::without(&self.ring, &drained);
                    Some(self.propose(ring, views, "drained nodes are out").await?)
                }
            }
        })
    }

    async fn propose(&mut self, ring: Ring, views: &Views, what: &str) -> Result<String, Stop> {
        ring_writer::assert_follows(&ring, views);
        ring_writer::record(&self.path, &ring)?;
        self.ring = ring;
        let refusals = self.offer(views).await;
        Ok(format!("{what}{refusals}"))
    }

    /// Gives the ring to all that answer; one that does not take it is offered it again, or hears of it from the others. Returns their
    /// words, for people.
    async fn offer(&self, views: &Views) -> String {
        let mut refusals = String::new();
        for answer in views.answered.values().filter(|answer| answer.status.epoch < self.ring.epoch) {
            if let Err(error) = answer.client.propose_ring(&self.ring).await {
                refusals.push_str(&format!("; {error}"));
            }
        }
        refusals
    }
}

pub(crate) fn heard(views: &Views) -> BTreeMap<NodeId, View> {
    let view = |answer: &members::Answer| View {
        epoch: answer.status.epoch,
        ring_hash: answer.status.ring_hash.unwrap_or_default(),
        received: answer.status.received.clone(),
    };
    views.answered.iter().map(|(node, answer)| (*node, view(answer))).collect()
}

pub(crate) fn list(nodes: &[NodeId]) -> String {
    let nodes: BTreeSet<String> = nodes.iter().map(|node| node.to_string()[..8].to_owned()).collect();
    nodes.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::double::Double;
    use dynamo_core::id::{ClusterId, Epoch};

    fn node(id: u8) -> NodeId {
        NodeId([id; 16])
    }

    fn ring(count: u8) -> Ring {
        let members = (1..=count).map(|id| (node(id), Member { zone: "z".to_owned(), weight: 1 })).collect();
        first_ring(ClusterId([9; 16]), 4, 3, &members).unwrap()
    }

    fn answering(ids: &[u8]) -> BTreeMap<NodeId, String> {
        ids.iter().map(|id| (node(*id), "z".to_owned())).collect()
    }

    fn refused(ring: &Ring, lost: u8, newcomers: &Newcomers<'_>, ids: &[u8]) -> String {
        desired(ring, &[node(lost)], newcomers, &answering(ids)).unwrap_err().to_string()
    }

    #[test]
    fn the_only_node_that_stands_by_takes_the_place_and_among_several_one_is_named() {
        let auto = Newcomers::StandBy(&[]);
        let members = desired(&ring(3), &[node(2)], &auto, &answering(&[1, 3, 4])).unwrap();
        assert_eq!(members.keys().copied().collect::<Vec<_>>(), [node(1), node(3), node(4)]);
        let several = refused(&ring(3), 2, &auto, &[1, 3, 4, 5]);
        assert!(several.contains("2 nodes stand by and 1 are lost") && several.contains(&node(5).to_string()), "{several}");
        let named = [node(5)];
        let members = desired(&ring(3), &[node(2)], &Newcomers::StandBy(&named), &answering(&[1, 3, 4, 5])).unwrap();
        assert!(members.contains_key(&node(5)) && !members.contains_key(&node(4)));
    }

    #[test]
    fn what_would_be_wrong_is_refused_with_the_way_out() {
        let cases = [
            (
                refused(&ring(3), 2, &Newcomers::Nobody, &[1, 2, 3]),
                "answers; a member that answers is taken out by `dynamoctl ring commit --remove`",
            ),
            (refused(&ring(3), 9, &Newcomers::Nobody, &[1, 2, 3]), "is no member of the ring"),
            (refused(&ring(3), 2, &Newcomers::Nobody, &[1, 3]), "start a new node and use `ring replace`"),
            (refused(&ring(3), 2, &Newcomers::StandBy(&[node(7)]), &[1, 3]), "does not answer"),
        ];
        for (error, expected) in cases {
            assert!(error.contains(expected), "{error}");
        }
        let lossy = ring(4).successor(|next| {
            next.lost.insert(node(2), Epoch(2));
            next.members.get_mut(&node(2)).unwrap().weight = 0;
        });
        let error = refused(&lossy, 3, &Newcomers::StandBy(&[node(2)]), &[1, 4]);
        assert!(error.contains("never becomes a member again"), "{error}");
        assert_eq!(desired(&lossy, &[node(2)], &Newcomers::Nobody, &answering(&[1, 3, 4])).unwrap().len(), 3, "given again");
    }

    #[test]
    fn consequences_are_told_before_anything_is_done() {
        let loss = |lost: Vec<NodeId>| Loss { lost, w: None, accept_data_loss: false, yes: false, record: None, wait: 1 };
        let of = |lost: Vec<NodeId>| {
            let ring = ring(4);
            let consequences = loss::consequences(&ring, &lost, 2);
            told(&ring, &loss(lost), &Members::new(), &consequences, 2)
        };
        assert!(of(vec![node(1)]).ends_with("no write that W = 2 disks had acknowledged is lost"), "{}", of(vec![node(1)]));
        assert!(of(vec![node(1), node(2)]).contains("DATA MAY BE LOST: "), "{}", of(vec![node(1), node(2)]));
    }

    #[test]
    fn a_ring_that_was_recorded_and_not_offered_is_gone_on_from() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.ring");
        let (held, recorded) = (ring(3), ring(3).successor(|_| ()));
        assert_eq!(newest(&path, held.clone()).unwrap(), held);
        ring_writer::record(&path, &recorded).unwrap();
        assert_eq!(newest(&path, held.clone()).unwrap(), recorded);
        let fork = held.successor(|next| next.members.values_mut().for_each(|member| member.weight = 2));
        assert!(newest(&path, fork).is_err(), "two rings of one epoch");
    }

    #[tokio::test]
    async fn nothing_is_built_on_a_ring_that_no_node_holds() {
        let mut weighed = ring(4).members;
        weighed.entry(node(2)).and_modify(|member| member.weight = 2);
        let begun = operation::begun(&ring(4), &weighed).unwrap();
        let view = View { epoch: begun.epoch, ring_hash: begun.hash(), received: BTreeSet::new() };
        let declared = loss::declare(&begun, &[node(1)], &BTreeMap::from([(node(2), view)])).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let record = folder.path().join("r.ring");
        ring_writer::record(&record, &declared).unwrap();
        let mut doubles = Vec::new();
        for id in 2..=4 {
            doubles.push(Double::start(node(id), begun.clone(), 0).await);
        }
        let addresses: Vec<String> = doubles.iter().map(|double| double.address.clone()).collect();
        let lost = vec![node(1)];
        let loss = Loss { lost, w: None, accept_data_loss: false, yes: true, record: Some(record.clone()), wait: 0 };
        let waits = remove(&Endpoints::from(addresses), &loss).await.unwrap_err().to_string();
        assert!(waits.contains("ring epoch 3 is offered"), "{waits}");
        assert_eq!(ring_writer::recorded(&record, begun.cluster).unwrap().unwrap(), declared);
        assert!(doubles.iter().all(|double| double.state().ring == declared));
    }
}
