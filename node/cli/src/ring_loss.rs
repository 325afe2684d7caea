//! `ring replace --lost` and `ring remove --lost`: an administrator's word that a member's disk is gone for ever, and the writing of
//! rings until others have taken its place ([`dynamo_core::rebalance::loss`] says why that is safe, and when it is not).
//!
//! Nothing here concludes a loss from silence, and nothing is done without `--yes`: what would follow is the result then, and exit code 1
//! says that acknowledged writes may be lost. A command that was interrupted is simply given again.
//! Where the operator is, it is the writer of rings, and does this by itself on proof that the volume is gone.
//!
//! Rings are written by [`crate::ring_writer`], as for a change of members ([`crate::ring_operations`]), but this needs no record of the
//! rings before, which may be gone with the disk. Of the members that have to take each ring first the lost ones count for nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use dynamo_core::id::{NodeId, PartitionId};
use dynamo_core::rebalance::batches::Limits;
use dynamo_core::rebalance::loss::{self, Consequences, LossError};
use dynamo_core::rebalance::{self, Members, Next, PlanError, View, first_ring, operation};
use dynamo_core::ring::{Member, Ring};
use serde_json::{Value, json};

use crate::arguments::seconds;
use crate::members::{self, Endpoints};
use crate::output::{Format, show, tell};
use crate::ring_record;
use crate::ring_writer::{Course, First, Writer, newest};
use crate::stop::Stop;

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
    /// Do it. Without this nothing is done, and what would follow is shown: exit code 1 if acknowledged writes may be lost and
    /// --accept-data-loss was not said, else 0.
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

const EXAMPLES_OF_REPLACE: &str = "\
Start the new node first, with the cluster's id, the seeds and an empty data directory: it stands by until it is put in the place.

Examples:
  dynamoctl ring replace --lost 6f9619ff-8b86-d011-b42d-00c04fc964ff         # shows what would follow
  dynamoctl ring replace --lost 6f9619ff-8b86-d011-b42d-00c04fc964ff --yes   # does it";

/// Arguments of `ring replace`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES_OF_REPLACE)]
pub struct Replace {
    #[command(flatten)]
    loss: Loss,
    /// A node that stands by and is to take the place, with its weight, if that is to be another than the lost one's; may be given more
    /// than once. Default: those that stand by, if they are as many as are lost. Of several, each takes the weight of a lost one of its
    /// zone, if there is one.
    #[arg(long, value_name = "NODE[=WEIGHT]", value_parser = substitute)]
    with: Vec<Substitute>,
}

/// Who is to take a place, and the weight that was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Substitute {
    node: NodeId,
    weight: Option<u32>,
}

fn substitute(text: &str) -> Result<Substitute, String> {
    let Some((id, number)) = text.split_once('=') else { return Ok(Substitute { node: node(text)?, weight: None }) };
    match number.parse() {
        Ok(0) | Err(_) => Err(format!("the weight {number:?} is no number of at least 1")),
        weight => Ok(Substitute { node: node(id)?, weight: weight.ok() }),
    }
}

pub(crate) fn node(text: &str) -> Result<NodeId, String> {
    NodeId::parse(text).ok_or_else(|| "is no node id; give the full one that `dynamoctl ring show` prints".to_owned())
}

/// Who comes in the place of the lost.
enum Newcomers<'a> {
    Nobody,
    StandBy(&'a [Substitute]),
}

/// Declares members lost and fills others in their place. Without `--yes` shows what would follow, and there is no ring to show.
pub async fn replace(endpoints: &Endpoints, format: Format, replace: &Replace) -> Result<Option<Ring>, Stop> {
    run(endpoints, format, &replace.loss, &Newcomers::StandBy(&replace.with)).await
}

/// Declares members lost and spreads what they held over the members that are left. Without `--yes` as [`replace`].
pub async fn remove(endpoints: &Endpoints, format: Format, loss: &Loss) -> Result<Option<Ring>, Stop> {
    run(endpoints, format, loss, &Newcomers::Nobody).await
}

async fn run(endpoints: &Endpoints, format: Format, loss: &Loss, newcomers: &Newcomers<'_>) -> Result<Option<Ring>, Stop> {
    let views = members::ask(endpoints).await?;
    let missing = || Stop::Failed("the cluster has no ring yet; nothing can be lost from it".to_owned());
    let held = views.ring.clone().ok_or_else(missing)?;
    let record = ring_record::record_or_default(loss.record.as_deref())?;
    let ring = match ring_record::recorded(&ring_record::record_of(&record, held.cluster), held.cluster)? {
        Some(recorded) => newest(recorded.newest().clone(), held, &views)?,
        None => held,
    };
    let zones = views.answered.iter().map(|(node, answer)| (*node, answer.status.zone.clone())).collect();
    let course = making_good(&ring, &loss.lost, newcomers, &zones)?;
    let w = loss.w.map_or(usize::from(ring.replication) / 2 + 1, usize::from);
    let consequences = loss::consequences(&ring, &loss.lost, w);
    let text = told(&ring, loss, &course.newcomers, &consequences, w);
    let is_refused = !consequences.at_risk.is_empty() && !loss.accept_data_loss;
    if !loss.yes {
        let words = if is_refused { "--yes and --accept-data-loss" } else { "--yes" };
        let text = || format!("{text}\n\nnothing was done; say {words} to do this");
        show(format, text, &document(&ring, loss, &course.newcomers, &consequences, w))?;
        let at_risk = || Stop::Failed("acknowledged writes may be lost; nothing was done".to_owned());
        return if is_refused { Err(at_risk()) } else { Ok(None) };
    }
    tell(text);
    if is_refused {
        return Err(Stop::Usage("acknowledged writes may be lost; nothing was done. Say --accept-data-loss to go on".to_owned()));
    }
    Writer::new(endpoints, record, true, Limits::default(), loss.wait).carry_out(&course).await.map(Some)
}

/// What is to be done about the loss.
fn making_good<'a>(
    ring: &Ring,
    lost: &'a [NodeId],
    newcomers: &Newcomers<'_>,
    zones: &BTreeMap<NodeId, String>,
) -> Result<MakingGood<'a>, Stop> {
    for node in lost {
        if zones.contains_key(node) {
            return Err(Stop::Usage(format!("--lost {node}: {}", LossError::Answers(*node))));
        }
        if !ring.members.contains_key(node) && !ring.is_lost(*node) {
            return Err(Stop::Usage(format!("--lost {node}: {}", LossError::NoMember(*node))));
        }
    }
    let mut course = MakingGood { lost, newcomers: Members::new() };
    if let Newcomers::StandBy(named) = newcomers {
        course.newcomers = members_of(ring, lost, &chosen(ring, lost, named, zones)?, zones);
    }
    match first_ring(ring.cluster, ring.partition_bits, ring.replication, &course.wanted(ring)) {
        Ok(_) => Ok(course),
        Err(error) => Err(Stop::Usage(format!("{error}; start a new node and use `ring replace`"))),
    }
}

/// The chosen as members: each with the weight that was given, else the one that it has as a member since the command was given first,
/// else that of the lost one whose place it takes. The ring of the loss itself no longer tells that one's weight: then it is 1.
fn members_of(ring: &Ring, lost: &[NodeId], chosen: &[Substitute], zones: &BTreeMap<NodeId, String>) -> Members {
    let before = ring.operation.as_ref().map_or(&ring.members, |operation| &operation.before);
    let weighs = |node: &NodeId| {
        [&ring.members, before].into_iter().find_map(|members| members.get(node).filter(|member| member.weight > 0))
    };
    let mut places: Vec<&Member> = lost.iter().filter_map(weighs).collect();
    let has = operation::wanted(ring);
    // Those of a zone first: whom its own zone leaves without a place takes what is left.
    let mut weights = BTreeMap::<NodeId, u32>::new();
    for same_zone in [true, false] {
        for Substitute { node, .. } in chosen {
            let fits = |place: &&Member| !same_zone || place.zone == zones[node];
            if !weights.contains_key(node)
                && let Some(place) = places.iter().position(fits)
            {
                weights.insert(*node, places.remove(place).weight);
            }
        }
    }
    let weight = |substitute: &Substitute| {
        let held = has.get(&substitute.node).map(|member| member.weight);
        substitute.weight.or(held).or(weights.get(&substitute.node).copied()).unwrap_or(1)
    };
    chosen.iter().map(|new| (new.node, Member { zone: zones[&new.node].clone(), weight: weight(new) })).collect()
}

/// The nodes that take the places of the lost: those named, or all that stand by if they are as many.
fn chosen(ring: &Ring, lost: &[NodeId], named: &[Substitute], zones: &BTreeMap<NodeId, String>) -> Result<Vec<Substitute>, Stop> {
    for Substitute { node, .. } in named {
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
        return Ok(standing.into_iter().map(|node| Substitute { node, weight: None }).collect());
    }
    let ids: Vec<String> = standing.iter().map(NodeId::to_string).collect();
    let (count, wanted) = (standing.len(), lost.len());
    Err(Stop::Usage(format!(
        "{count} nodes stand by and {wanted} are lost; say --with for each of those to take: {}",
        ids.join(", ")
    )))
}

/// What will be done, and what it means.
fn told(ring: &Ring, loss: &Loss, newcomers: &Members, consequences: &Consequences, w: usize) -> String {
    let ids = |nodes: Vec<&NodeId>| nodes.into_iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ");
    let all = ring.partition_count_of_layers();
    let new = newcomers.iter().filter(|(node, _)| !ring.members.contains_key(node));
    let new: Vec<String> = new.map(|(node, member)| format!("{node}, of weight {}", member.weight)).collect();
    let mut text = format!("declared lost, for ever: {}\n", ids(loss.lost.iter().collect()));
    text.push_str("  if one of them runs after all, it is fenced: it stops serving, and what only it holds is not used\n");
    if !new.is_empty() {
        text.push_str(&format!("filled in their place: {}\n", new.join("; ")));
    }
    text.push_str(&format!(
        "{} of {all} partitions have lost a copy and are filled from those that are left",
        consequences.affected.len()
    ));
    if consequences.at_risk.is_empty() {
        text.push_str(&format!("\nno write that W = {w} disks had acknowledged is lost"));
        if let Some((before, epoch)) =
            ring.lost.iter().filter(|(node, _)| !loss.lost.contains(node)).max_by_key(|(_, epoch)| **epoch)
        {
            text.push_str(&format!(
                ", if the loss of {before} in epoch {epoch} was made good before: nothing moved, no hint waited, and replicas were \
                 compared since (`dynamoctl status`, `dynamoctl ring verify`)"
            ));
        }
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

/// The same for programs, of what would be done.
fn document(ring: &Ring, loss: &Loss, newcomers: &Members, consequences: &Consequences, w: usize) -> Value {
    let numbers = |partitions: &[PartitionId]| partitions.iter().map(|partition| partition.0).collect::<Vec<_>>();
    let new = newcomers.iter().filter(|(node, _)| !ring.members.contains_key(node));
    let new = new.map(|(node, member)| json!({ "node": node.to_string(), "zone": member.zone, "weight": member.weight }));
    let before = ring.lost.iter().filter(|(node, _)| !loss.lost.contains(node));
    let before = before.map(|(node, epoch)| json!({ "node": node.to_string(), "epoch": epoch.0 }));
    json!({
        "done": false,
        "epoch": ring.epoch.0,
        "lost": loss.lost.iter().map(NodeId::to_string).collect::<Vec<_>>(),
        "newcomers": new.collect::<Vec<_>>(),
        "w": w,
        "partition_count": ring.partition_count_of_layers(),
        "partitions_affected": numbers(&consequences.affected),
        "partitions_at_risk": numbers(&consequences.at_risk),
        "partitions_gone": numbers(&consequences.gone),
        "data_loss_accepted": loss.accept_data_loss,
        // What is said of the partitions holds if the losses of these were made good before.
        "lost_before": before.collect::<Vec<_>>(),
    })
}

/// What makes the loss good.
struct MakingGood<'a> {
    lost: &'a [NodeId],
    newcomers: Members,
}

impl Course for MakingGood<'_> {
    fn first(&self, ring: &Ring, heard: &BTreeMap<NodeId, View>) -> Result<First, Stop> {
        let declared = match loss::declare(ring, self.lost, heard) {
            Ok(declared) => declared,
            Err(error @ LossError::NobodyHolds(_)) => return Ok(First::Waits(error.to_string())),
            Err(error) => return Err(Stop::Failed(error.to_string())),
        };
        if declared != *ring {
            return Ok(First::Write(Box::new(declared), "the loss is declared"));
        }
        // A change of members that is under way is gone on with, without the lost and with those in their places.
        let amended = operation::amended(ring, &self.wanted(ring));
        Ok(match amended == *ring {
            true => First::Nothing,
            false => First::Write(Box::new(amended), "what is under way goes on without the lost"),
        })
    }

    /// Those of the newest ring: another member may have been declared lost, and replaced, meanwhile.
    fn wanted(&self, ring: &Ring) -> Members {
        let mut wanted = operation::wanted(ring);
        wanted.retain(|node, _| !self.lost.contains(node));
        wanted.extend(
            self.newcomers.iter().filter(|(node, _)| !ring.is_lost(**node)).map(|(node, member)| (*node, member.clone())),
        );
        wanted
    }

    fn next(&self, ring: &Ring, heard: &BTreeMap<NodeId, View>, limits: &Limits) -> Result<Option<Next>, PlanError> {
        match &ring.operation {
            None => rebalance::next_within(ring, &self.wanted(ring), heard, limits).map(Some),
            Some(_) => operation::next(ring, heard, limits),
        }
    }

    fn gone(&self) -> &[NodeId] {
        self.lost
    }

    fn again(&self) -> &'static str {
        "give the command again"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::double::Double;
    use crate::members::Views;
    use dynamo_core::id::{ClusterId, Epoch};
    use std::collections::BTreeSet;

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

    fn desired(
        ring: &Ring,
        lost: &[NodeId],
        newcomers: &Newcomers<'_>,
        zones: &BTreeMap<NodeId, String>,
    ) -> Result<Members, Stop> {
        making_good(ring, lost, newcomers, zones).map(|course| course.wanted(ring))
    }

    fn with(id: u8) -> Substitute {
        Substitute { node: node(id), weight: None }
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
        let named = [with(5)];
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
            (refused(&ring(3), 2, &Newcomers::StandBy(&[with(7)]), &[1, 3]), "does not answer"),
        ];
        for (error, expected) in cases {
            assert!(error.contains(expected), "{error}");
        }
        let lossy = ring(4).successor(|next| {
            next.lost.insert(node(2), Epoch(2));
            next.members.get_mut(&node(2)).unwrap().weight = 0;
        });
        let error = refused(&lossy, 3, &Newcomers::StandBy(&[with(2)]), &[1, 4]);
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
        let mut before = ring(4);
        before.lost.insert(node(9), Epoch(5));
        let consequences = loss::consequences(&before, &[node(1)], 2);
        let text = told(&before, &loss(vec![node(1)]), &Members::new(), &consequences, 2);
        assert!(consequences.at_risk.is_empty(), "{text}");
        assert!(text.contains(&format!("if the loss of {} in epoch 5 was made good before", node(9))), "{text}");
        before.lost.insert(node(1), Epoch(6));
        let document = document(&before, &loss(vec![node(1)]), &Members::new(), &consequences, 2);
        assert_eq!(document["lost_before"], json!([{ "node": node(9).to_string(), "epoch": 5 }]));
        assert!(of(vec![node(1), node(2)]).contains("DATA MAY BE LOST: "), "{}", of(vec![node(1), node(2)]));
    }

    /// Member 4 of weight 3 in zone b, member 5 of weight 2 in zone a, the others of weight 1.
    fn weighed() -> Ring {
        let mut members = ring(5).members;
        members.insert(node(4), Member { zone: "b".to_owned(), weight: 3 });
        members.insert(node(5), Member { zone: "a".to_owned(), weight: 2 });
        first_ring(ClusterId([9; 16]), 4, 3, &members).unwrap()
    }

    #[test]
    fn whoever_takes_a_place_has_the_weight_of_the_lost_one() {
        let zones = |here: &[(u8, &str)]| {
            let here = here.iter().map(|(id, zone)| (node(*id), (*zone).to_owned()));
            answering(&[1, 2, 3]).into_iter().chain(here).collect::<BTreeMap<_, _>>()
        };
        let weights = |ring: &Ring, lost: &[u8], newcomers: &Newcomers<'_>, here: &[(u8, &str)]| {
            let lost: Vec<NodeId> = lost.iter().map(|id| node(*id)).collect();
            let wanted = desired(ring, &lost, newcomers, &zones(here)).unwrap();
            here.iter().map(|(id, _)| wanted[&node(*id)].weight).collect::<Vec<_>>()
        };
        let auto = Newcomers::StandBy(&[]);
        assert_eq!(weights(&weighed(), &[4], &auto, &[(5, "a"), (6, "z")]), [2, 3], "it is the only one");
        assert_eq!(weights(&weighed(), &[4, 5], &auto, &[(6, "a"), (7, "b")]), [2, 3], "by zone");
        assert_eq!(weights(&weighed(), &[4, 5], &auto, &[(6, "z"), (7, "b")]), [2, 3], "what is left");
        let given = [with(6), Substitute { weight: Some(7), ..with(7) }];
        assert_eq!(weights(&weighed(), &[4, 5], &Newcomers::StandBy(&given), &[(6, "z"), (7, "z")]), [3, 7]);

        let heavier = Members::from([(node(6), Member { zone: "z".to_owned(), weight: 3 })]);
        let given_again = weighed().successor(|next| {
            next.lost.insert(node(4), Epoch(2));
            next.members.get_mut(&node(4)).unwrap().weight = 0;
            next.members.extend(heavier);
        });
        assert_eq!(weights(&given_again, &[4], &Newcomers::StandBy(&[with(6)]), &[(5, "a"), (6, "z")]), [2, 3]);
        let mut wanted = weighed().members;
        wanted.get_mut(&node(1)).unwrap().weight = 4;
        let begun = operation::begun(&weighed(), &wanted).unwrap().successor(|next| {
            next.lost.insert(node(4), Epoch(3));
            next.members.get_mut(&node(4)).unwrap().weight = 0;
        });
        assert_eq!(weights(&begun, &[4], &auto, &[(5, "a"), (6, "z")]), [2, 3], "the operation knows what it was");
    }

    #[test]
    fn a_substitute_is_given_with_a_weight_or_without() {
        assert_eq!(substitute(&node(6).to_string()), Ok(with(6)));
        assert_eq!(substitute(&format!("{}=3", node(6))), Ok(Substitute { weight: Some(3), ..with(6) }));
        for wrong in ["0", "-1", "many", ""] {
            let refused = substitute(&format!("{}={wrong}", node(6))).unwrap_err();
            assert!(refused.contains("at least 1"), "{refused}");
        }
        assert!(substitute("06=3").unwrap_err().contains("is no node id"));
    }

    async fn doubles(ids: &[u8], ring: &Ring) -> Vec<Double> {
        let mut doubles = Vec::new();
        for id in ids {
            doubles.push(Double::start(node(*id), ring.clone(), 0).await);
        }
        doubles
    }

    fn addresses(doubles: &[Double]) -> Endpoints {
        Endpoints::from(doubles.iter().map(|double| double.address.clone()).collect::<Vec<_>>())
    }

    fn word(lost: u8, record: &std::path::Path) -> Loss {
        let record = Some(record.to_owned());
        Loss { lost: vec![node(lost)], w: None, accept_data_loss: true, yes: true, record, wait: 0 }
    }

    #[tokio::test]
    async fn two_commands_that_declare_different_members_lost_make_one_chain() {
        let folder = tempfile::tempdir().unwrap();
        let (here, there) = (folder.path().join("here.ring"), folder.path().join("there.ring"));
        let doubles = doubles(&[1, 2, 3], &ring(5)).await;
        let told =
            async |endpoints: &Endpoints, loss: Loss| remove(endpoints, Format::Table, &loss).await.unwrap_err().to_string();
        // Two machines on two sides of a network that is broken.
        told(&addresses(&doubles[..2]), word(4, &here)).await;
        let other = told(&addresses(&doubles[2..]), word(5, &there)).await;
        assert!(other.contains("has to take each ring first, and does not answer"), "{other}");
        let taken = doubles[0].state().ring.clone();
        assert_eq!(doubles.iter().map(|double| double.state().ring.epoch.0).collect::<Vec<_>>(), [2, 2, 1]);
        // It is whole again, and the third has heard of the ring from the others. The other machine's is held by nobody.
        doubles[2].state().ring = taken.clone();
        told(&addresses(&doubles), word(5, &there)).await;
        let held = doubles[0].state().ring.clone();
        assert_eq!((held.parent, held.lost.keys().copied().collect::<Vec<_>>()), (taken.hash(), vec![node(4), node(5)]));
        assert!(doubles.iter().all(|double| double.state().ring == held));
        let has_lock = |record: &std::path::Path| record.with_added_extension("lock").exists();
        assert!(has_lock(&here) && has_lock(&there), "commands take turns");
    }

    #[tokio::test]
    async fn a_lost_member_does_not_have_to_take_the_ring_that_was_recorded_before_its_loss() {
        let folder = tempfile::tempdir().unwrap();
        let record = folder.path().join("r.ring");
        let mut wanted = ring(4).members;
        wanted.entry(node(2)).and_modify(|member| member.weight = 2);
        let begun = operation::begun(&ring(4), &wanted).unwrap();
        ring_record::record(&record, &begun.clone().into()).unwrap();
        let doubles = doubles(&[2, 3, 4], &ring(4)).await;
        for expected in [Some(begun.hash()), None] {
            remove(&addresses(&doubles), Format::Table, &word(1, &record)).await.unwrap_err();
            let held = doubles[0].state().ring.clone();
            assert_eq!(held.is_lost(node(1)), expected.is_none());
            assert!(expected.is_none_or(|hash| hash == held.hash()) && doubles.iter().all(|double| double.state().ring == held));
        }
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
        ring_record::record(&record, &declared.clone().into()).unwrap();
        let doubles = doubles(&[2, 3, 4], &begun).await;
        let waits = remove(&addresses(&doubles), Format::Table, &word(1, &record)).await.unwrap_err().to_string();
        assert!(waits.contains("ring epoch 3 is offered"), "{waits}");
        assert_eq!(ring_record::recorded(&record, begun.cluster).unwrap().unwrap().newest(), &declared);
        assert!(doubles.iter().all(|double| double.state().ring == declared));
    }

    /// It said so, a command built on that, and then its disk was destroyed.
    #[tokio::test]
    async fn a_ring_that_only_the_lost_member_held_comes_from_the_record() {
        let folder = tempfile::tempdir().unwrap();
        let record = folder.path().join("r.ring");
        let doubles = doubles(&[1, 2, 3, 4], &ring(4)).await;
        let mut weighed = ring(4).members;
        weighed.entry(node(2)).and_modify(|member| member.weight = 2);
        let begins = |ring: &Ring, _: &Views| Ok(operation::begun(ring, &weighed).unwrap());
        let pauses = |ring: &Ring, _: &Views| Ok(operation::paused(ring, true).unwrap());
        let alone = addresses(&doubles[..1]);
        let mut writer = Writer::new(&alone, record.clone(), true, Limits::default(), 0);
        writer.ask(begins).await.unwrap();
        writer.ask(pauses).await.unwrap();
        let paused = doubles[0].state().ring.clone();
        assert_eq!((paused.epoch, doubles[1].state().ring.epoch), (Epoch(3), Epoch(1)));

        let others = addresses(&doubles[1..]);
        let mut epochs = Vec::new();
        for _ in 0..3 {
            remove(&others, Format::Table, &word(1, &record)).await.unwrap_err();
            let held = doubles[1].state().ring.clone();
            assert!(doubles[1..].iter().all(|double| double.state().ring == held));
            epochs.push(held.epoch.0);
            assert!(held.epoch < Epoch(4) || (held.parent == paused.hash() && held.is_lost(node(1))));
        }
        assert_eq!(epochs, [2, 3, 4], "each in its turn, and then the loss");
    }
}
