//! `ring commit | status | pause | resume | abort`: a change of healthy members outside Kubernetes, from its beginning to its end.
//!
//! The ring is the journal ([`dynamo_core::rebalance::operation`]): what was asked, whether it waits, what is done. So a command can be
//! killed between any two calls, and `ring resume` goes on, from any machine that has the record; and `ring pause` or `ring abort`
//! reach a `ring commit` that runs elsewhere through the ring alone: it finds there that it is to stop.
//!
//! Rings are written by [`crate::ring_writer`]. Where there is no record of the cluster's rings somebody else has written them, and nothing
//! is done: on Kubernetes that is the operator, whose word is the resource.

mod report;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use dynamo_core::id::NodeId;
use dynamo_core::rebalance::batches::Limits;
use dynamo_core::rebalance::chain::Chain;
use dynamo_core::rebalance::{Members, Next, PlanError, View, operation};
use dynamo_core::ring::{Member, Ring};

use crate::arguments::seconds;
use crate::members::{self, Endpoints, Views};
use crate::output::{Format, show};
use crate::ring_loss::node;
use crate::ring_plan::named;
use crate::ring_record;
use crate::ring_writer::{Course, First, Writer};
use crate::stop::Stop;
use report::Report;

/// Until the data of a change has moved, if nobody says how long that may take.
const MOVE_PATIENCE_SECONDS: u64 = 86_400;

/// Arguments of `ring commit`.
#[derive(Args, Debug)]
pub struct Commit {
    /// A node that runs, answers and stands by, or `all` of those: it becomes a member. May be given more than once.
    #[arg(long, value_name = "NODE|all", value_parser = added)]
    add: Vec<Added>,
    /// A member that is to leave, by its id or the first digits of it: its data moves first, and its process may be stopped when this
    /// has ended with 0. May be given more than once.
    #[arg(long, value_name = "NODE")]
    remove: Vec<String>,
    /// The capacity of a member, new or not, relative to the others, by its id or the first digits of it. Default: 1. May be given
    /// more than once.
    #[arg(long, value_name = "NODE=WEIGHT", value_parser = weight)]
    weight: Vec<(String, u32)>,
    #[command(flatten)]
    drive: Drive,
}

/// How much moves at the same time.
#[derive(Args, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Batch {
    /// Partitions that one node receives, and that one sends, at the same time.
    #[arg(long, value_name = "NUMBER", default_value_t = Limits::default().receive as u32, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
}

impl Batch {
    fn limits(self) -> Limits {
        let batch = self.batch as usize;
        Limits { receive: batch, send: batch }
    }
}

/// How an operation is carried out.
#[derive(Args, Debug)]
pub struct Drive {
    #[command(flatten)]
    writing: Writing,
    #[command(flatten)]
    batch: Batch,
}

/// How a ring comes to be written here.
#[derive(Args, Debug)]
pub struct Writing {
    /// File in which each ring is recorded before it is offered. Default: in the state folder, by the cluster's name; for
    /// the cluster of `local up`, in its folder.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Become the writer of a ring that was recorded elsewhere. Only where nobody else writes rings any more.
    #[arg(long)]
    take_over: bool,
    /// Seconds until the command gives up waiting; give it again to go on.
    #[arg(long, default_value_t = MOVE_PATIENCE_SECONDS, value_name = "SECONDS", value_parser = seconds())]
    wait: u64,
}

/// What becomes a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Added {
    All,
    Node(NodeId),
}

fn added(text: &str) -> Result<Added, String> {
    if text == "all" { Ok(Added::All) } else { node(text).map(Added::Node) }
}

fn weight(text: &str) -> Result<(String, u32), String> {
    let (id, number) = text.split_once('=').ok_or("has the form NODE=WEIGHT")?;
    let number = number.parse::<u32>().map_err(|error| format!("{number}: {error}"))?;
    if number == 0 {
        return Err("a member has a weight of at least 1; say --remove for one that is to hold nothing".to_owned());
    }
    Ok((id.to_owned(), number))
}

/// A change of healthy members, on its way or at its end.
#[derive(Default)]
pub struct Change {
    /// The members that were asked for; whatever is under way, if nobody said.
    pub asked: Option<Members>,
}

impl Course for Change {
    /// `ring` has to be on its way to the members that were asked for, or to have come to them.
    fn first(&self, ring: &Ring, _: &BTreeMap<NodeId, View>) -> Result<First, Stop> {
        if self.asked.as_ref().is_none_or(|asked| *asked == operation::wanted(ring)) {
            return Ok(First::Nothing);
        }
        Err(Stop::Failed(match &ring.operation {
            Some(operation) if operation.aborted => {
                format!("operation {} was given up by `dynamoctl ring abort`; the members before it stay", operation.since)
            }
            Some(operation) => format!(
                "operation {} is on its way to other members than were asked for: somebody else began or changed it; \
                 `dynamoctl ring status` shows it",
                operation.since
            ),
            None => "the ring has other members than were asked for: the operation was given up by `dynamoctl ring abort`, or \
                     somebody else made another one; `dynamoctl ring show` shows them"
                .to_owned(),
        }))
    }

    fn wanted(&self, ring: &Ring) -> Members {
        operation::wanted(ring)
    }

    fn next(&self, ring: &Ring, heard: &BTreeMap<NodeId, View>, limits: &Limits) -> Result<Option<Next>, PlanError> {
        operation::next(ring, heard, limits)
    }

    fn gone(&self) -> &[NodeId] {
        &[]
    }

    fn again(&self) -> &'static str {
        "`dynamoctl ring resume` goes on"
    }
}

/// Begins the change, or goes on with this very one, and carries it out.
pub async fn commit(endpoints: &Endpoints, format: Format, commit: &Commit) -> Result<(), Stop> {
    let begins = |ring: &Ring, views: &Views| {
        let zones = views.answered.iter().map(|(node, answer)| (*node, answer.status.zone.clone())).collect();
        let told = |error: operation::OperationError| match error {
            operation::OperationError::UnderWay(_) => Stop::Failed(format!("{error}: `dynamoctl ring status` shows it")),
            _ => Stop::Usage(error.to_string()),
        };
        match (wanted(ring, commit, &zones), &ring.operation) {
            (Ok(wanted), _) => operation::begun(ring, &wanted).map_err(told),
            // Whom it names may be on the way in or out by the other one.
            (Err(_), Some(other)) => Err(told(operation::OperationError::UnderWay(other.since))),
            (Err(error), None) => Err(error),
        }
    };
    carried_out(endpoints, format, &commit.drive, begins).await
}

/// Goes on with what was begun.
pub async fn resume(endpoints: &Endpoints, format: Format, drive: &Drive) -> Result<(), Stop> {
    let goes_on = |ring: &Ring, _: &Views| match &ring.operation {
        // What was killed at its very end may have a last ring to offer.
        None => Ok(ring.clone()),
        Some(_) => operation::paused(ring, false).map_err(|error| Stop::Usage(error.to_string())),
    };
    carried_out(endpoints, format, drive, goes_on).await
}

/// Gives up what was begun, and carries out the way back.
pub async fn abort(endpoints: &Endpoints, format: Format, drive: &Drive) -> Result<(), Stop> {
    let goes_back = |ring: &Ring, _: &Views| operation::aborted(ring).map_err(|error| Stop::Usage(error.to_string()));
    carried_out(endpoints, format, drive, goes_back).await
}

/// Stops what was begun where it is.
pub async fn pause(endpoints: &Endpoints, format: Format, writing: &Writing) -> Result<(), Stop> {
    let record = ring_record::record_or_default(writing.record.as_deref())?;
    let mut writer = writer_of(endpoints, writing, Limits::default(), record.clone());
    writer.ask(|ring: &Ring, _: &Views| operation::paused(ring, true).map_err(|error| Stop::Usage(error.to_string()))).await?;
    status(endpoints, format, Some(&record)).await
}

/// Shows what is under way, what is left of it, and what it waits for; and what is recorded here that no node holds yet. Writes nothing.
pub async fn status(endpoints: &Endpoints, format: Format, record: Option<&Path>) -> Result<(), Stop> {
    let views = members::ask(endpoints).await?;
    let recorded = match (&views.ring, record) {
        (Some(held), Some(record)) => ring_record::recorded(&ring_record::record_of(record, held.cluster), held.cluster)?,
        _ => None,
    };
    let report = Report::of(&views, recorded.as_ref().map(Chain::newest))?;
    show(format, || report.text(), &report.document())
}

/// [`commit`] and [`resume`] in one, for programs: the cluster is to have just these members. Begins the change unless it is under way,
/// carries it out, and prints nothing but progress. Unless it fails, nothing is left on `leaving`, which are not among them, and the ring
/// does not name them.
pub async fn become_these(
    endpoints: &Endpoints,
    nodes: &[NodeId],
    leaving: &[NodeId],
    record: PathBuf,
    batch: Batch,
) -> Result<(), Stop> {
    let mut writer = Writer::new(endpoints, record, false, batch.limits(), MOVE_PATIENCE_SECONDS);
    writer.removes(leaving);
    let begins = |ring: &Ring, views: &Views| {
        let member = |node: &NodeId| {
            let new = || {
                let answer = views.answered.get(node)?;
                Some(Member { zone: answer.status.zone.clone(), weight: 1 })
            };
            let member = ring.members.get(node).cloned().or_else(new);
            Ok((*node, member.ok_or_else(|| Stop::Failed(format!("{node}: does not answer")))?))
        };
        let wanted = nodes.iter().map(member).collect::<Result<Members, Stop>>()?;
        match operation::begun(ring, &wanted) {
            Err(operation::OperationError::AsAsked) => Ok(ring.clone()),
            begun => begun.map_err(|error| Stop::Failed(error.to_string())),
        }
    };
    let asked = Some(writer.ask(begins).await?);
    writer.carry_out(&Change { asked }).await.map(drop)
}

async fn carried_out(
    endpoints: &Endpoints,
    format: Format,
    drive: &Drive,
    change: impl Fn(&Ring, &Views) -> Result<Ring, Stop>,
) -> Result<(), Stop> {
    let record = ring_record::record_or_default(drive.writing.record.as_deref())?;
    let mut writer = writer_of(endpoints, &drive.writing, drive.batch.limits(), record.clone());
    let asked = Some(writer.ask(change).await?);
    writer.carry_out(&Change { asked }).await?;
    status(endpoints, format, Some(&record)).await
}

fn writer_of<'a>(endpoints: &'a Endpoints, writing: &Writing, limits: Limits, record: PathBuf) -> Writer<'a> {
    Writer::new(endpoints, record, writing.take_over, limits, writing.wait)
}

/// The members that the ring is to have: those it is on its way to, with what is asked for.
fn wanted(ring: &Ring, commit: &Commit, zones: &BTreeMap<NodeId, String>) -> Result<Members, Stop> {
    // What is under way is no ground to build upon; given again, it is the same command on the same members.
    let mut wanted = ring.operation.as_ref().map_or_else(|| operation::wanted(ring), |operation| operation.before.clone());
    let before = wanted.clone();
    for added in &commit.add {
        let standing = zones.keys().filter(|node| !wanted.contains_key(node) && !ring.is_lost(**node));
        let nodes: Vec<NodeId> = match added {
            Added::Node(node) => vec![*node],
            Added::All => standing.copied().collect(),
        };
        if nodes.is_empty() {
            return Err(Stop::Usage("--add all: no node stands by; start one with the cluster's id and a seed".to_owned()));
        }
        for node in nodes {
            let silent = || Stop::Usage(format!("--add {node}: does not answer; start it, or give its address with --endpoint"));
            if wanted.contains_key(&node) {
                return Err(Stop::Usage(format!("--add {node}: is a member already")));
            }
            let zone = zones.get(&node).ok_or_else(silent)?.clone();
            wanted.insert(node, Member { zone, weight: 1 });
        }
    }
    for given in &commit.remove {
        let node = named("--remove", &before, given)?;
        wanted.remove(&node).ok_or_else(|| Stop::Usage(format!("--remove {given}: was given twice")))?;
    }
    for (given, weight) in &commit.weight {
        let node = named("--weight", &wanted, given)?;
        wanted.entry(node).and_modify(|member| member.weight = *weight);
    }
    if commit.add.is_empty() && commit.remove.is_empty() && commit.weight.is_empty() {
        return Err(Stop::Usage("say what is to change: --add, --remove or --weight".to_owned()));
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::double::Double;
    use dynamo_core::id::ClusterId;
    use dynamo_core::rebalance::first_ring;

    fn id(number: u8) -> NodeId {
        NodeId([number; 16])
    }

    fn ring(count: u8) -> Ring {
        let members = (1..=count).map(|number| (id(number), Member { zone: "z".to_owned(), weight: 1 })).collect();
        first_ring(ClusterId([9; 16]), 4, 3, &members).unwrap()
    }

    fn answering(ids: &[u8]) -> BTreeMap<NodeId, String> {
        ids.iter().map(|number| (id(*number), "z".to_owned())).collect()
    }

    fn asked(add: &[Added], remove: &[u8], weight: &[(u8, u32)]) -> Commit {
        let drive = Drive { writing: Writing { record: None, take_over: false, wait: 1 }, batch: Batch { batch: 8 } };
        let remove = remove.iter().map(|number| id(*number).to_string()).collect();
        let weight = weight.iter().map(|(number, weight)| (id(*number).to_string(), *weight)).collect();
        Commit { add: add.to_vec(), remove, weight, drive }
    }

    #[test]
    fn members_are_added_removed_and_weighed_in_one_change() {
        let commit = asked(&[Added::All], &[2], &[(5, 3)]);
        let wanted = wanted(&ring(4), &commit, &answering(&[1, 2, 3, 4, 5, 6])).unwrap();
        assert_eq!(wanted.keys().copied().collect::<Vec<_>>(), [1, 3, 4, 5, 6].map(id));
        assert_eq!((wanted[&id(5)].weight, wanted[&id(6)].weight), (3, 1));
    }

    #[test]
    fn members_go_by_the_first_digits_of_their_ids_as_in_a_plan() {
        let commit = Commit { remove: vec!["0202".to_owned()], weight: vec![("03".to_owned(), 2)], ..asked(&[], &[], &[]) };
        let wanted = wanted(&ring(4), &commit, &answering(&[1, 2, 3, 4])).unwrap();
        assert_eq!(wanted.keys().copied().collect::<Vec<_>>(), [1, 3, 4].map(id));
        assert_eq!(wanted[&id(3)].weight, 2);
        let both = Commit { remove: vec!["0".to_owned()], ..asked(&[], &[], &[]) };
        let error = super::wanted(&ring(4), &both, &answering(&[])).unwrap_err().to_string();
        assert!(error.contains("4 members' ids begin so"), "{error}");
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_way_out() {
        let cases = [
            (asked(&[], &[], &[]), "say what is to change"),
            (asked(&[Added::All], &[], &[]), "no node stands by"),
            (asked(&[Added::Node(id(9))], &[], &[]), "does not answer"),
            (asked(&[Added::Node(id(2))], &[], &[]), "is a member already"),
            (asked(&[], &[7], &[]), "no member's id begins so"),
            (asked(&[], &[2, 2], &[]), "was given twice"),
            (asked(&[], &[], &[(7, 2)]), "no member's id begins so"),
        ];
        for (commit, expected) in cases {
            let error = wanted(&ring(4), &commit, &answering(&[1, 2, 3, 4])).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(weight(&format!("{}=0", id(1))).unwrap_err().contains("--remove"));
        assert_eq!(weight("0101=4"), Ok(("0101".to_owned(), 4)));
        assert!(added("node-1").unwrap_err().contains("no node id"));
    }

    #[test]
    fn the_same_command_given_again_wants_the_same_members() {
        let (first, zones) = (ring(3), answering(&[1, 2, 3, 4]));
        let commit = asked(&[Added::All], &[], &[]);
        let members = wanted(&first, &commit, &zones).unwrap();
        let begun = operation::begun(&first, &members).unwrap();
        assert_eq!(wanted(&begun, &commit, &zones).unwrap(), members);
    }

    #[tokio::test]
    async fn a_node_of_another_cluster_is_not_added() {
        let mut doubles = Vec::new();
        for number in 1..=3 {
            doubles.push(Double::start(id(number), ring(3), 0).await);
        }
        let members = Members::from([(id(4), Member { zone: "z".to_owned(), weight: 1 })]);
        let other = first_ring(ClusterId([8; 16]), 4, 1, &members).unwrap();
        doubles.push(Double::start(id(4), other, 0).await);
        let folder = tempfile::tempdir().unwrap();
        let mut commit = asked(&[Added::All], &[], &[]);
        commit.drive.writing = Writing { record: Some(folder.path().join("r.ring")), take_over: true, wait: 0 };
        let refused = |nodes: &[Double]| {
            let addresses = nodes.iter().map(|double| double.address.clone()).collect::<Vec<_>>();
            let commit = &commit;
            async move { super::commit(&Endpoints::from(addresses), Format::Json, commit).await.unwrap_err().to_string() }
        };
        let as_endpoint = refused(&doubles).await;
        assert!(as_endpoint.contains("belong to 2 clusters"), "{as_endpoint}");
        doubles[0].state().knows = vec![(id(4), doubles[3].address.clone())];
        let as_peer = refused(&doubles[..3]).await;
        assert!(as_peer.contains("no node stands by"), "{as_peer}");
        assert!(doubles[..3].iter().all(|double| double.state().ring == ring(3)), "nothing was done");
    }
}
