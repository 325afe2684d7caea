//! The one writer of rings where there is no operator, from the second ring on: looks, records, offers, and looks again. What for is the
//! caller's: a change of members ([`crate::ring_operations`]), or members whose disks are gone ([`crate::ring_loss`]).
//!
//! Each ring is recorded in a file before any node sees it, under a lock, so commands on one machine take turns. Should there be two
//! writers all the same (a record that was copied, or none), one node decides between them: a ring is offered to the member with the
//! lowest id of the ring before, and to the others only once that one has taken it. A node takes one ring of an epoch. So the writer
//! that comes second finds the other's ring, and drops its own, which nobody holds. Whoever is said to be gone for ever decides
//! nothing: two writers, of which one has that word and the other still reaches the node, have two nodes that decide.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dynamo_core::id::{Epoch, NodeId};
use dynamo_core::rebalance::batches::{Limits, left};
use dynamo_core::rebalance::chain::Chain;
use dynamo_core::rebalance::{self, Members, Next, PlanError, View, operation};
use dynamo_core::ring::Ring;
use futures::future::join_all;
use tokio::time::{Instant, sleep};

use crate::departed::{Departed, advice, drained, is_at_its_end};
use crate::members::{self, Endpoints, Views, heard, list};
use crate::output::{grouped, tell};
use crate::progress::Progress;
use crate::ring_record;
use crate::stop::Stop;

/// Between two looks at the nodes.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// What rings are written for.
pub trait Course {
    /// What has to be written before anything moves. An error says that somebody else took the ring elsewhere.
    fn first(&self, ring: &Ring, heard: &BTreeMap<NodeId, View>) -> Result<First, Stop>;

    /// The members that `ring` is on its way to.
    fn wanted(&self, ring: &Ring) -> Members;

    /// What comes next where there is nothing to be written first; `None` while it is paused.
    fn next(&self, ring: &Ring, heard: &BTreeMap<NodeId, View>, limits: &Limits) -> Result<Option<Next>, PlanError>;

    /// Members that answer nobody any more, by an administrator's word.
    fn gone(&self) -> &[NodeId];

    /// What whoever gave up waiting does.
    fn again(&self) -> &'static str;
}

/// Before anything moves.
pub enum First {
    Nothing,
    /// This ring is next, and what that is.
    Write(Box<Ring>, &'static str),
    /// Nobody could take a ring on top of this one yet, and why.
    Waits(String),
}

/// One writer of one cluster's rings.
pub struct Writer<'a> {
    endpoints: &'a Endpoints,
    record: PathBuf,
    take_over: bool,
    limits: Limits,
    deadline: Instant,
    departed: Departed,
}

/// What came of offering a ring.
enum Offered {
    /// No node is known to hold it, and why.
    Nowhere(String),
    /// One holds it that the others follow. Why one of them did not take it, if so.
    Taken { but: Option<String> },
}

impl Offered {
    /// What is waited for, and what stands in its way.
    fn told(self, what: &str) -> String {
        match self {
            Self::Nowhere(reason) => reason,
            Self::Taken { but: Some(refusal) } => format!("{what}: {refusal}"),
            Self::Taken { but: None } => what.to_owned(),
        }
    }
}

/// What a look came to.
enum Look {
    Done,
    Paused,
    Waits(Wait),
}

/// What is waited for, and replicas that are filled of those that move now.
struct Wait {
    for_what: String,
    received: usize,
}

impl Wait {
    fn new(for_what: String) -> Self {
        Self { for_what, received: 0 }
    }
}

impl<'a> Writer<'a> {
    pub fn new(endpoints: &'a Endpoints, record: PathBuf, take_over: bool, limits: Limits, wait: u64) -> Self {
        let deadline = Instant::now() + Duration::from_secs(wait);
        Self { endpoints, record, take_over, limits, deadline, departed: Departed::default() }
    }

    /// These have to prove that they hold nothing, should they be out of the ring already.
    pub fn removes(&mut self, nodes: &[NodeId]) {
        self.departed.saw(nodes.iter().copied());
    }

    /// Records and offers what `change` makes of the newest ring, unless it is that ring; returns the members that were asked for. A
    /// ring that was recorded and that no node holds yet is offered before anything is built on it: it may have been taken by one that
    /// does not answer. Another writer may be faster; then it is asked again. That nobody answers at the first look is an error.
    pub async fn ask(&mut self, change: impl Fn(&Ring, &Views) -> Result<Ring, Stop>) -> Result<Members, Stop> {
        let (mut told, mut looked) = (String::new(), false);
        loop {
            let reason = match self.look_around().await {
                Ok(views) => {
                    looked = true;
                    let turn = self.turn(&views).await?;
                    let asked = change(&turn.ring, &views)?;
                    let is_held = turn.is_held(&views);
                    let offered = match asked != turn.ring && is_held {
                        true => turn.propose(&asked, &views, &[]).await?,
                        false => turn.offer(&turn.rings, &views, &[]).await,
                    };
                    match offered {
                        Offered::Taken { .. } if asked == turn.ring || is_held => return Ok(operation::wanted(&asked)),
                        // Asked once more, on top of what has just been taken.
                        Offered::Taken { .. } => None,
                        Offered::Nowhere(reason) => Some(reason),
                    }
                }
                // Nothing was done yet.
                Err(stop) if !looked => return Err(stop),
                Err(stop) => Some(format!("{}; `dynamoctl ring resume` goes on", waited_for(stop)?)),
            };
            let Some(reason) = reason else { continue };
            if Instant::now() >= self.deadline {
                return Err(Stop::Failed(reason));
            }
            if reason != told {
                tell(&reason);
                told = reason;
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// Until the ring has come to rest with the members that are wanted, and those that left it on the way have proven since that
    /// they hold nothing. An error says that somebody else asked for others, or names those that do not answer.
    pub async fn carry_out(&mut self, course: &impl Course) -> Result<Ring, Stop> {
        let mut progress: Option<Progress> = None;
        let (mut planned, mut reached) = ((0, 0), None);
        loop {
            let wait = match self.look_around().await {
                Ok(views) => {
                    let turn = self.turn(&views).await?;
                    self.departed.saw_ring(&turn.ring, &views);
                    if reached != Some(turn.ring.epoch) {
                        reached = Some(turn.ring.epoch);
                        planned = copies(&turn.ring, &course.wanted(&turn.ring));
                    }
                    match turn.look(&views, course, &self.limits, &mut self.departed).await? {
                        Look::Done => {
                            progress.into_iter().for_each(Progress::end);
                            let unproven = self.departed.unproven(&turn.ring);
                            return if unproven.is_empty() { Ok(turn.ring) } else { Err(Stop::Failed(advice(&unproven))) };
                        }
                        Look::Paused => {
                            progress.into_iter().for_each(Progress::end);
                            return Err(Stop::Failed("the operation is paused; `dynamoctl ring resume` goes on".to_owned()));
                        }
                        Look::Waits(wait) => wait,
                    }
                }
                Err(stop) => Wait::new(waited_for(stop)?),
            };
            let progress = progress.get_or_insert_with(|| Progress::new("copies", Some(planned.0)));
            let epoch = reached.map_or(0, |epoch| epoch.0);
            let made = planned.0.saturating_sub(planned.1) + wait.received as u64;
            progress.at(made, || format!("epoch {epoch}: {}", wait.for_what));
            if Instant::now() >= self.deadline {
                return Err(Stop::Failed(format!("not done in time: {}; {}", wait.for_what, course.again())));
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// What the nodes say, with the newest ring that one of those that answer holds.
    async fn look_around(&self) -> Result<Views, Stop> {
        let views = members::ask(self.endpoints).await?;
        if views.ring.is_none() { Err(no_ring()) } else { Ok(views) }
    }

    /// The newest ring, with the right to write the next one until this is dropped.
    async fn turn(&self, views: &Views) -> Result<Turn, Stop> {
        let held = views.ring.clone().ok_or_else(no_ring)?;
        let path = ring_record::record_of(&self.record, held.cluster);
        if !self.take_over && !path.exists() {
            return Err(Stop::Usage(not_its_writer(&path, &held)));
        }
        let lock = ring_record::locked(&path, self.deadline).await?;
        let rings = match ring_record::recorded(&path, held.cluster)? {
            None if self.take_over => held.into(),
            None => return Err(Stop::Usage(not_its_writer(&path, &held))),
            Some(recorded) => {
                let ring = newest(recorded.newest().clone(), held, views)?;
                recorded.then(ring.clone(), &heard(views)).unwrap_or_else(|_| ring.into())
            }
        };
        Ok(Turn { ring: rings.newest().clone(), rings, path, _lock: lock })
    }
}

/// Nodes come and go while data moves for hours: what fails for now is waited for. What makes no sense is an error.
fn waited_for(stop: Stop) -> Result<String, Stop> {
    match stop {
        Stop::Usage(_) => Err(stop),
        Stop::Failed(reason) | Stop::UnknownOutcome(reason) => Ok(reason),
    }
}

fn no_ring() -> Stop {
    Stop::Failed("no node that answers has a ring; `dynamoctl ring init` makes the first one of a cluster".to_owned())
}

fn not_its_writer(path: &Path, held: &Ring) -> String {
    format!(
        "there is no record of this cluster's rings in {}: somebody else has written them up to epoch {}. On Kubernetes that is the \
         operator: change spec.replicas, or set spec.rebalancing.paused, in the DynamoCluster instead. A cluster of \
         `local up --dir DIR` has it in DIR: say --record DIR/first.ring. Elsewhere give the record of the machine that wrote them \
         with --record; if that is gone, and nobody else writes rings, say --take-over",
        path.display(),
        held.epoch
    )
}

/// Copies planned, and copies left.
fn copies(ring: &Ring, wanted: &Members) -> (u64, u64) {
    let rest = left(ring, wanted).map_or(0, |left| left.copies as u64);
    (ring.operation.as_ref().map_or(rest, |operation| operation.copies.max(rest)), rest)
}

/// The newer of what is recorded and what the nodes hold. A ring that was recorded and that nobody holds may be offered still, unless
/// another writer was faster.
pub fn newest(recorded: Ring, held: Ring, views: &Views) -> Result<Ring, Stop> {
    let hash = recorded.hash();
    if recorded.epoch == held.epoch && hash != held.hash() {
        let holds = |answer: &members::Answer| answer.status.epoch == recorded.epoch && answer.status.ring_hash == Some(hash);
        if views.answered.values().any(holds) {
            let epoch = held.epoch;
            return Err(Stop::Failed(format!("nodes hold two different rings of epoch {epoch}: there were two writers at once")));
        }
    }
    Ok(if recorded.epoch > held.epoch { recorded } else { held })
}

/// The right to write the next ring.
struct Turn {
    ring: Ring,
    /// That ring, with those before it that some member may need first.
    rings: Chain,
    path: PathBuf,
    _lock: File,
}

impl Turn {
    /// A node that answers holds the ring, or a later one.
    fn is_held(&self, views: &Views) -> bool {
        views.ring.as_ref().is_some_and(|held| held.epoch >= self.ring.epoch)
    }

    async fn look(&self, views: &Views, course: &impl Course, limits: &Limits, departed: &mut Departed) -> Result<Look, Stop> {
        let waits = |for_what: String| Ok(Look::Waits(Wait::new(for_what)));
        let (ring, rings, heard, gone) = (&self.ring, &self.rings, heard(views), course.gone());
        if !self.is_held(views) {
            // Nothing is built on it before a node holds it.
            let offered = format!("ring epoch {} is offered, which no node held yet", ring.epoch);
            return waits(self.offer(rings, views, gone).await.told(&offered));
        }
        match course.first(ring, &heard)? {
            First::Nothing => {}
            First::Write(next, what) => return waits(self.propose(&next, views, gone).await?.told(what)),
            First::Waits(reason) => return waits(self.offer(rings, views, gone).await.told(&reason)),
        }
        let next = course.next(ring, &heard, limits).map_err(|error| Stop::Failed(error.to_string()))?;
        if next.as_ref().is_some_and(|next| is_at_its_end(ring, next)) {
            let holding = departed.holding(ring, views).await;
            if !holding.is_empty() {
                let out = format!("waiting for {} to hold nothing, out of the ring", list(&holding));
                return waits(self.offer(rings, views, gone).await.told(&out));
            }
        }
        match next {
            None => Ok(Look::Paused),
            Some(Next::Settled) => Ok(Look::Done),
            Some(Next::Propose(next)) => waits(self.propose(&next, views, gone).await?.told("the next stage is offered")),
            Some(Next::AwaitEpoch(nodes)) => {
                let behind = format!("waiting for {} to hold the ring", list(&nodes));
                waits(self.offer(rings, views, gone).await.told(&behind))
            }
            Some(Next::AwaitData { received, moving, waiting_for }) => {
                let nodes = list(&waiting_for);
                let for_what = format!("{} of {} replicas are filled; {nodes} still receive", grouped(received as u64), moving);
                Ok(Look::Waits(Wait { for_what, received }))
            }
            Some(Next::AwaitReceipts(nodes)) => {
                let drained = drained(ring, &nodes, views).await;
                if drained.is_empty() {
                    return waits(format!("waiting for the drain receipts of {}", list(&nodes)));
                }
                let without = rebalance::without(ring, &drained);
                waits(self.propose(&without, views, gone).await?.told("drained nodes are out"))
            }
        }
    }

    async fn propose(&self, ring: &Ring, views: &Views, gone: &[NodeId]) -> Result<Offered, Stop> {
        ring_record::assert_follows(ring, views);
        let rings = match self.rings.then(ring.clone(), &heard(views)) {
            Ok(rings) => rings,
            Err(full) => return Ok(Offered::Nowhere(full.to_string())),
        };
        ring_record::record(&self.path, &rings)?;
        Ok(self.offer(&rings, views, gone).await)
    }

    /// Gives the newest ring to all that answer, first to the one that decides between two writers; where none of them can take it yet,
    /// the one before it that they can. One that does not take it is offered it again, or hears of it from the others.
    async fn offer(&self, rings: &Chain, views: &Views, gone: &[NodeId]) -> Offered {
        let held = views.ring.as_ref().map_or(Epoch(0), |held| held.epoch);
        let ring = match rings.after(held) {
            Some(ring) => ring,
            None if held >= rings.newest().epoch => rings.newest(),
            None => return Offered::Nowhere(ring_record::missing_between(&self.path, rings, held)),
        };
        let hash = ring.hash();
        let behind: BTreeMap<NodeId, &members::Answer> = views
            .answered
            .iter()
            .filter(|(_, answer)| answer.status.epoch < ring.epoch)
            .map(|(node, answer)| (*node, answer))
            .collect();
        if let Some(first) = decides(ring, views, gone) {
            let takes_first = format!("member {first} has to take each ring first");
            let Some(answer) = behind.get(&first) else {
                return Offered::Nowhere(format!(
                    "{takes_first}, and does not answer: start it; if its disk is gone for ever, `dynamoctl ring replace --lost {first}`"
                ));
            };
            match answer.client.propose_ring(ring).await {
                Ok((_, held)) if held == hash => {}
                Ok((epoch, _)) => {
                    return Offered::Nowhere(format!(
                        "another writer was faster: member {first} holds its ring of epoch {epoch}"
                    ));
                }
                Err(error) => return Offered::Nowhere(format!("{takes_first}: {error}")),
            }
        }
        // Each is given what follows its own, as far as that one has decided.
        let follows = |held| rings.after(held).filter(|follows| follows.epoch < ring.epoch).unwrap_or(ring);
        let answers = join_all(behind.values().map(|answer| answer.client.propose_ring(follows(answer.status.epoch)))).await;
        if ring.epoch < rings.newest().epoch {
            return Offered::Nowhere(format!(
                "ring epoch {} is offered first, on which recorded epoch {} rests",
                ring.epoch,
                rings.newest().epoch
            ));
        }
        Offered::Taken { but: answers.into_iter().find_map(|answer| answer.err().map(|error| error.to_string())) }
    }
}

/// Who decides between two writers of `ring`: the member with the lowest id of the ring before that is not gone for ever. `None` if
/// nodes hold `ring` already.
pub fn decides(ring: &Ring, views: &Views, gone: &[NodeId]) -> Option<NodeId> {
    let before = views.ring.as_ref().filter(|held| held.epoch.next() == ring.epoch)?;
    before.survivors().find(|node| !ring.is_lost(*node) && !gone.contains(node))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::double::Double;
    use crate::ring_operations::Change;
    use dynamo_core::id::ClusterId;
    use dynamo_core::rebalance::first_ring;
    use dynamo_core::ring::{Member, Operation};

    fn ring() -> Ring {
        let members: Members = (1..=3).map(|id| (NodeId([id; 16]), Member { zone: "z".to_owned(), weight: 1 })).collect();
        first_ring(ClusterId([9; 16]), 4, 3, &members).unwrap()
    }

    fn views(ring: Ring) -> Views {
        let (answered, silent, unclaimed) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Views { cluster: ring.cluster, ring: Some(ring), answered, silent, unclaimed }
    }

    #[tokio::test]
    async fn a_cluster_without_a_record_here_is_left_to_its_writer() {
        let folder = tempfile::tempdir().unwrap();
        let (endpoints, held) = (Endpoints::from(Vec::new()), views(ring()));
        let turn = async |take_over| {
            let writer = Writer::new(&endpoints, folder.path().join("r.ring"), take_over, Limits::default(), 1);
            writer.turn(&held).await.map(|turn| turn.ring)
        };
        let refused = turn(false).await.unwrap_err().to_string();
        assert!(!folder.path().join("r.ring.lock").exists(), "nothing is left of what was refused");
        for way in ["spec.rebalancing.paused", "--record DIR/first.ring", "--take-over"] {
            assert!(refused.contains(way), "{refused}");
        }
        assert_eq!(turn(true).await.unwrap(), ring());
        ring_record::record(&folder.path().join("r.ring"), &ring().successor(|_| ()).into()).unwrap();
        assert_eq!(turn(false).await.unwrap(), ring().successor(|_| ()), "what was recorded and not offered");
    }

    #[tokio::test]
    async fn a_command_whose_turn_does_not_come_in_time_ends_and_names_the_file() {
        let (doubles, endpoints) = doubles(3).await;
        let folder = tempfile::tempdir().unwrap();
        let record = folder.path().join("r.ring");
        let _at_work = ring_record::locked(&record, Instant::now()).await.unwrap();
        let mut writer = Writer::new(&endpoints, record, true, Limits::default(), 0);
        let stop = writer.ask(|ring, _| Ok(ring.clone())).await.unwrap_err().to_string();
        assert!(stop.contains("r.ring.lock"), "{stop}");
        let stop = writer.carry_out(&Change::default()).await.unwrap_err().to_string();
        assert!(stop.contains("r.ring.lock"), "{stop}");
        assert!(doubles.iter().all(|double| double.state().ring == without_the_fourth()));
    }

    #[test]
    fn a_ring_that_lost_the_race_is_dropped() {
        let (mine, theirs) = (ring().successor(|_| ()), ring().successor(|next| next.members.clear()));
        assert_eq!(newest(mine.clone(), theirs.clone(), &views(theirs.clone())).unwrap(), theirs);
        assert_eq!(newest(mine.clone(), ring(), &views(ring())).unwrap(), mine);
    }

    /// The members 1 to 3, on a ring that has just been written without a fourth.
    fn without_the_fourth() -> Ring {
        let mut before = ring().members;
        before.insert(NodeId([4; 16]), Member { zone: "z".to_owned(), weight: 1 });
        let (since, wanted) = (Epoch(2), ring().members);
        let operation = Operation { since, before, wanted, copies: 0, paused: false, aborted: false };
        ring().successor(|next| next.operation = Some(operation))
    }

    fn addresses(doubles: &[Double]) -> Endpoints {
        Endpoints::from(doubles.iter().map(|double| double.address.clone()).collect::<Vec<_>>())
    }

    /// The nodes 1 to `count` hold that ring; the last refuses its receipt once.
    async fn doubles(count: u8) -> (Vec<Double>, Endpoints) {
        let mut doubles = Vec::new();
        for id in 1..=count {
            doubles.push(Double::start(NodeId([id; 16]), without_the_fourth(), usize::from(id == 4)).await);
        }
        let endpoints = addresses(&doubles);
        (doubles, endpoints)
    }

    #[tokio::test]
    async fn a_removal_is_done_when_the_node_has_proven_under_the_ring_without_it_that_it_holds_nothing() {
        let (doubles, endpoints) = doubles(4).await;
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(&endpoints, folder.path().join("r.ring"), true, Limits::default(), 60);
        writer.carry_out(&Change::default()).await.unwrap();
        let left = doubles[3].state();
        assert_eq!((left.refusals, &left.receipts), (0, &vec![2]), "asked until it gave one, before the next ring");
        let held = doubles[0].state().ring.clone();
        assert_eq!((held.epoch, held.operation), (Epoch(3), None));
    }

    #[tokio::test]
    async fn a_node_that_left_and_does_not_answer_is_named_and_its_data_is_to_be_kept() {
        let (doubles, endpoints) = doubles(3).await;
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(&endpoints, folder.path().join("r.ring"), true, Limits::default(), 60);
        let stop = writer.carry_out(&Change::default()).await.unwrap_err().to_string();
        assert!(stop.contains(&NodeId([4; 16]).to_string()) && stop.contains("keep the data directory"), "{stop}");
        assert!(doubles[0].state().ring.operation.is_none(), "the ring came to rest all the same");
    }

    #[tokio::test]
    async fn a_node_that_is_to_be_removed_is_asked_though_its_ring_is_at_rest() {
        let (doubles, endpoints) = doubles(4).await;
        let at_rest = without_the_fourth().successor(|next| next.operation = None);
        doubles.iter().for_each(|double| double.state().ring = at_rest.clone());
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(&endpoints, folder.path().join("r.ring"), true, Limits::default(), 60);
        writer.removes(&[NodeId([4; 16])]);
        writer.carry_out(&Change::default()).await.unwrap();
        assert_eq!(doubles[3].state().receipts, [3]);
    }

    #[tokio::test]
    async fn a_change_that_somebody_else_gave_up_or_replaced_does_not_end_well() {
        let settled = without_the_fourth().successor(|next| {
            next.members = next.operation.as_ref().unwrap().before.clone();
            next.operation = None;
        });
        let at_rest = |next: &Ring| next.successor(|next| next.operation = None);
        let aborted = |begun: &Ring| operation::aborted(begun).unwrap();
        let other = |begun: &Ring| {
            let mut wanted = operation::wanted(begun);
            wanted.entry(NodeId([1; 16])).and_modify(|member| member.weight = 2);
            operation::begun(&at_rest(begun), &wanted).unwrap()
        };
        let cases: [(&str, &dyn Fn(&Ring) -> Ring); 4] = [
            ("was given up by `dynamoctl ring abort`", &aborted),
            ("the operation was given up", &|begun| at_rest(&aborted(begun))),
            ("on its way to other members", &other),
            ("other members than were asked for", &|begun| at_rest(&other(begun))),
        ];
        for (expected, elsewhere) in cases {
            let (doubles, endpoints) = doubles(4).await;
            doubles.iter().for_each(|double| double.state().ring = settled.clone());
            let folder = tempfile::tempdir().unwrap();
            let mut writer = Writer::new(&endpoints, folder.path().join("r.ring"), true, Limits::default(), 60);
            let wanted = ring().members;
            let asked = writer.ask(|ring, _| Ok(operation::begun(ring, &wanted).unwrap())).await.unwrap();
            let newest = elsewhere(&doubles[0].state().ring);
            doubles.iter().for_each(|double| double.state().ring = newest.clone());
            let stop = writer.carry_out(&Change { asked: Some(asked) }).await.unwrap_err().to_string();
            assert!(stop.contains(expected), "{stop}");
            assert_eq!(doubles[0].state().ring, newest, "it is left to whoever wrote it");
        }
    }

    #[tokio::test]
    async fn nothing_is_built_on_a_ring_that_no_node_holds_and_that_one_may_hold() {
        let folder = tempfile::tempdir().unwrap();
        let record = folder.path().join("r.ring");
        let mut doubles = Vec::new();
        for id in 1..=3 {
            doubles.push(Double::start(NodeId([id; 16]), ring(), 0).await);
        }
        let endpoints = addresses(&doubles);
        let recorded = || ring_record::recorded(&record, ring().cluster).unwrap().unwrap().newest().clone();
        let mut wanted = ring().members;
        wanted.entry(NodeId([2; 16])).and_modify(|member| member.weight = 2);
        let begins = |ring: &Ring, _: &Views| Ok(operation::begun(ring, &wanted).unwrap());
        let aborts = |ring: &Ring, _: &Views| Ok(operation::aborted(ring).unwrap());
        let pauses = |ring: &Ring, _: &Views| Ok(operation::paused(ring, true).unwrap());

        // The member with the lowest id does not answer.
        let others = addresses(&doubles[1..]);
        let mut without_it = Writer::new(&others, record.clone(), true, Limits::default(), 0);
        let silent = without_it.ask(begins).await.unwrap_err().to_string();
        for way in ["start it", &format!("ring replace --lost {}", NodeId([1; 16]))] {
            assert!(silent.contains(way), "{silent}");
        }
        let begun = recorded();
        assert_eq!(begun.epoch, Epoch(2));
        assert_eq!(without_it.ask(aborts).await.unwrap_err().to_string(), silent);
        assert_eq!(without_it.ask(pauses).await.unwrap_err().to_string(), silent);
        assert_eq!(recorded(), begun, "what may have been taken is offered still");

        let mut writer = Writer::new(&endpoints, record.clone(), false, Limits::default(), 60);
        writer.ask(aborts).await.unwrap();
        let held = doubles[0].state().ring.clone();
        assert_eq!((held.epoch, held.parent, held.operation.as_ref().unwrap().aborted), (Epoch(3), begun.hash(), true));
        assert!(doubles.iter().all(|double| double.state().ring == held) && recorded() == held);
    }

    #[tokio::test]
    async fn a_record_that_no_node_can_follow_is_named() {
        let (doubles, endpoints) = doubles(3).await;
        let folder = tempfile::tempdir().unwrap();
        let record = folder.path().join("r.ring");
        let ahead = without_the_fourth().successor(|_| ()).successor(|_| ());
        ring_record::record(&record, &ahead.into()).unwrap();
        let mut writer = Writer::new(&endpoints, record.clone(), false, Limits::default(), 0);
        let stop = writer.ask(|ring, _| Ok(ring.clone())).await.unwrap_err().to_string();
        assert!(stop.contains(&record.display().to_string()) && stop.contains("hold epoch 2"), "{stop}");
        assert_eq!(doubles[0].state().ring, without_the_fourth());
    }

    #[tokio::test]
    async fn the_word_of_a_node_that_refuses_a_ring_is_what_it_waits_for() {
        let (doubles, endpoints) = doubles(3).await;
        doubles[2].state().ring = ring().successor(|next| next.members.values_mut().for_each(|member| member.weight = 3));
        doubles.iter().take(2).for_each(|double| double.state().ring = without_the_fourth().successor(|_| ()));
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(&endpoints, folder.path().join("r.ring"), true, Limits::default(), 0);
        let stop = writer.carry_out(&Change::default()).await.unwrap_err().to_string();
        assert!(stop.contains("to hold the ring: ") && stop.contains("ProposeRing refused"), "{stop}");
    }

    #[tokio::test]
    async fn a_look_that_nobody_answers_is_waited_out() {
        let (doubles, _) = doubles(4).await;
        let only = addresses(&doubles[..1]);
        doubles[0].state().knows =
            doubles.iter().zip(1..).map(|(double, id)| (NodeId([id; 16]), double.address.clone())).collect();
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(&only, folder.path().join("r.ring"), true, Limits::default(), 60);
        // All attempts of one look.
        doubles[0].state().away = 3;
        writer.carry_out(&Change::default()).await.unwrap();
        let held = doubles[0].state().ring.clone();
        assert_eq!((held.epoch, held.operation, doubles[0].state().away), (Epoch(3), None, 0));

        doubles[0].state().away = usize::MAX;
        let mut writer = Writer::new(&only, folder.path().join("r.ring"), true, Limits::default(), 0);
        let stop = writer.carry_out(&Change::default()).await.unwrap_err().to_string();
        assert!(stop.contains("no node answers") && stop.contains("`dynamoctl ring resume` goes on"), "{stop}");
        let stop = writer.ask(|ring, _| Ok(ring.clone())).await.unwrap_err().to_string();
        assert!(stop.starts_with("no node answers"), "a command that has done nothing ends: {stop}");
    }

    #[tokio::test]
    async fn a_change_that_is_on_its_way_waits_for_nodes_that_went_meanwhile() {
        let (doubles, endpoints) = doubles(3).await;
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(&endpoints, folder.path().join("r.ring"), true, Limits::default(), 60);
        // Another writer is faster, and then nobody is there for a look.
        let faster = without_the_fourth().successor(|next| next.operation.as_mut().unwrap().copies = 1);
        let looks = std::cell::Cell::new(0);
        let pauses = |ring: &Ring, _: &Views| {
            looks.set(looks.get() + 1);
            if looks.get() == 1 {
                doubles[0].state().ring = faster.clone();
                doubles.iter().for_each(|double| double.state().away = 3);
            }
            Ok(operation::paused(ring, true).unwrap())
        };
        writer.ask(pauses).await.unwrap();
        let held = doubles[0].state().ring.clone();
        assert_eq!((held.parent, held.operation.as_ref().unwrap().paused, looks.get()), (faster.hash(), true, 2));
    }
}
