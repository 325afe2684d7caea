//! The writing of rings until an operation is done: looks, records, offers, and looks again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use dynamo_core::id::NodeId;
use dynamo_core::rebalance::batches::{Limits, left};
use dynamo_core::rebalance::{self, Members, Next, operation};
use dynamo_core::ring::Ring;
use futures::future::join_all;
use tokio::time::{Instant, sleep};

use crate::departed::{Departed, advice, drained, is_at_its_end};
use crate::members::{self, Endpoints, Views};
use crate::output::{grouped, tell};
use crate::progress::Progress;
use crate::ring_loss::{heard, list};
use crate::ring_writer;
use crate::stop::Stop;

/// Between two looks at the nodes.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// One writer of one cluster's rings.
pub struct Writer<'a> {
    endpoints: &'a Endpoints,
    record: PathBuf,
    take_over: bool,
    limits: Limits,
    deadline: Instant,
    /// The members that were asked for.
    asked: Option<Members>,
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
    Waits { for_what: String, received: usize },
}

impl<'a> Writer<'a> {
    pub fn new(endpoints: &'a Endpoints, record: PathBuf, take_over: bool, limits: Limits, wait: u64) -> Self {
        let deadline = Instant::now() + Duration::from_secs(wait);
        Self { endpoints, record, take_over, limits, deadline, asked: None, departed: Departed::default() }
    }

    /// These have to prove that they hold nothing, should they be out of the ring already.
    pub fn removes(&mut self, nodes: &[NodeId]) {
        self.departed.saw(nodes.iter().copied());
    }

    /// Records and offers what `change` makes of the newest ring, unless it is that ring. A ring that was recorded and that no node holds
    /// yet is offered before anything is built on it: it may have been taken by one that does not answer. Another writer may be
    /// faster; then it is asked again.
    pub async fn ask(&mut self, change: impl Fn(&Ring, &Views) -> Result<Ring, Stop>) -> Result<(), Stop> {
        let mut told = String::new();
        loop {
            let views = members::ask(self.endpoints).await?;
            let turn = self.turn(&views)?;
            let asked = change(&turn.ring, &views)?;
            let is_held = views.ring.as_ref().is_some_and(|held| held.epoch >= turn.ring.epoch);
            let offered = match asked != turn.ring && is_held {
                true => turn.propose(&asked, &views).await?,
                false => turn.offer(&turn.ring, &views).await,
            };
            let reason = match offered {
                Offered::Taken { .. } if asked == turn.ring || is_held => {
                    self.asked = Some(operation::wanted(&asked));
                    return Ok(());
                }
                Offered::Taken { .. } => continue,
                Offered::Nowhere(reason) => reason,
            };
            drop(turn);
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

    /// Until the ring has come to rest with the members that were asked for, and those that left it on the way have proven since that
    /// they hold nothing. An error says that somebody else asked for others, or names those that do not answer.
    pub async fn carry_out(&mut self) -> Result<(), Stop> {
        let mut progress: Option<Progress> = None;
        let (mut planned, mut reached) = ((0, 0), None);
        loop {
            let views = members::ask(self.endpoints).await?;
            let turn = self.turn(&views)?;
            self.check_asked(&turn.ring)?;
            self.departed.saw_ring(&turn.ring, &views);
            if reached != Some(turn.ring.epoch) {
                reached = Some(turn.ring.epoch);
                planned = copies(&turn.ring);
            }
            let look = turn.look(&views, &self.limits, &mut self.departed).await?;
            let unproven = self.departed.unproven(&turn.ring);
            drop(turn);
            match look {
                Look::Done => {
                    progress.into_iter().for_each(Progress::end);
                    return if unproven.is_empty() { Ok(()) } else { Err(Stop::Failed(advice(&unproven))) };
                }
                Look::Paused => {
                    progress.into_iter().for_each(Progress::end);
                    return Err(Stop::Failed("the operation is paused; `dynamoctl ring resume` goes on".to_owned()));
                }
                Look::Waits { for_what, received } => {
                    let progress = progress.get_or_insert_with(|| Progress::new("copies", Some(planned.0)));
                    let epoch = reached.map_or(0, |epoch| epoch.0);
                    progress.at(planned.0.saturating_sub(planned.1) + received as u64, || format!("epoch {epoch}: {for_what}"));
                    if Instant::now() >= self.deadline {
                        return Err(Stop::Failed(format!("not done in time: {for_what}; `dynamoctl ring resume` goes on")));
                    }
                }
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// `ring` is on its way to the members that were asked for, or has come to them.
    fn check_asked(&self, ring: &Ring) -> Result<(), Stop> {
        if self.asked.as_ref().is_none_or(|asked| *asked == operation::wanted(ring)) {
            return Ok(());
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

    /// The newest ring, with the right to write the next one until this is dropped.
    fn turn(&self, views: &Views) -> Result<Turn, Stop> {
        let missing = "the cluster has no ring yet; `dynamoctl ring init` makes the first one";
        let held = views.ring.clone().ok_or_else(|| Stop::Failed(missing.to_owned()))?;
        let path = ring_writer::record_of(&self.record, held.cluster);
        if !self.take_over && !path.exists() {
            return Err(Stop::Usage(not_its_writer(&path, &held)));
        }
        let lock = locked(&path)?;
        let ring = match ring_writer::recorded(&path, held.cluster)? {
            None if self.take_over => held,
            None => return Err(Stop::Usage(not_its_writer(&path, &held))),
            Some(recorded) => newest(recorded, held, views)?,
        };
        Ok(Turn { ring, path, _lock: lock })
    }
}

fn not_its_writer(path: &std::path::Path, held: &Ring) -> String {
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
fn copies(ring: &Ring) -> (u64, u64) {
    let rest = left(ring, &operation::wanted(ring)).map_or(0, |left| left.copies as u64);
    (ring.operation.as_ref().map_or(rest, |operation| operation.copies.max(rest)), rest)
}

/// Commands on one machine take turns; the system lets go of the lock of one that is killed.
fn locked(record: &std::path::Path) -> Result<File, Stop> {
    let path = record.with_extension("lock");
    let failed = |error: std::io::Error| Stop::Failed(format!("{}: {error}", path.display()));
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let file = File::create(&path).map_err(failed)?;
    file.lock().map_err(failed)?;
    Ok(file)
}

/// The newer of what is recorded and what the nodes hold. A ring that was recorded and that nobody holds may be offered still, unless
/// another writer was faster.
fn newest(recorded: Ring, held: Ring, views: &Views) -> Result<Ring, Stop> {
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
    path: PathBuf,
    _lock: File,
}

impl Turn {
    async fn look(&self, views: &Views, limits: &Limits, departed: &mut Departed) -> Result<Look, Stop> {
        let waits = |for_what: String| Ok(Look::Waits { for_what, received: 0 });
        let next = operation::next(&self.ring, &heard(views), limits).map_err(|error| Stop::Failed(error.to_string()))?;
        if next.as_ref().is_some_and(|next| is_at_its_end(&self.ring, next)) {
            let holding = departed.holding(&self.ring, views).await;
            if !holding.is_empty() {
                let out = format!("waiting for {} to hold nothing, out of the ring", list(&holding));
                return waits(self.offer(&self.ring, views).await.told(&out));
            }
        }
        match next {
            None => Ok(Look::Paused),
            Some(Next::Settled) => Ok(Look::Done),
            Some(Next::Propose(ring)) => waits(self.propose(&ring, views).await?.told("the next stage is offered")),
            Some(Next::AwaitEpoch(nodes)) => {
                let behind = format!("waiting for {} to hold the ring", list(&nodes));
                waits(self.offer(&self.ring, views).await.told(&behind))
            }
            Some(Next::AwaitData { received, moving, waiting_for }) => {
                let nodes = list(&waiting_for);
                let for_what = format!("{} of {} replicas are filled; {nodes} still receive", grouped(received as u64), moving);
                Ok(Look::Waits { for_what, received })
            }
            Some(Next::AwaitReceipts(nodes)) => {
                let drained = drained(&self.ring, &nodes, views).await;
                if drained.is_empty() {
                    return waits(format!("waiting for the drain receipts of {}", list(&nodes)));
                }
                let ring = rebalance::without(&self.ring, &drained);
                waits(self.propose(&ring, views).await?.told("drained nodes are out"))
            }
        }
    }

    async fn propose(&self, ring: &Ring, views: &Views) -> Result<Offered, Stop> {
        ring_writer::assert_follows(ring, views);
        ring_writer::record(&self.path, ring)?;
        Ok(self.offer(ring, views).await)
    }

    /// Gives the ring to all that answer, first to the one that decides between two writers. One that does not take it is offered it
    /// again, or hears of it from the others.
    async fn offer(&self, ring: &Ring, views: &Views) -> Offered {
        let hash = ring.hash();
        let behind: BTreeMap<NodeId, &members::Answer> = views
            .answered
            .iter()
            .filter(|(_, answer)| answer.status.epoch < ring.epoch)
            .map(|(node, answer)| (*node, answer))
            .collect();
        if let Some(missing) = ring_writer::missing_between(&self.path, ring, views) {
            return Offered::Nowhere(missing);
        }
        if let Some(first) = decides(ring, views) {
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
        let answers = join_all(behind.values().map(|answer| answer.client.propose_ring(ring))).await;
        Offered::Taken { but: answers.into_iter().find_map(|answer| answer.err().map(|error| error.to_string())) }
    }
}

/// Who decides between two writers of `ring`: the member with the lowest id of the ring before. `None` if nodes hold `ring` already.
pub(super) fn decides(ring: &Ring, views: &Views) -> Option<NodeId> {
    let before = views.ring.as_ref().filter(|held| held.epoch.next() == ring.epoch)?;
    before.survivors().find(|node| !ring.is_lost(*node))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::double::Double;
    use dynamo_core::id::{ClusterId, Epoch};
    use dynamo_core::rebalance::first_ring;
    use dynamo_core::ring::{Member, Operation};

    fn ring() -> Ring {
        let members: Members = (1..=3).map(|id| (NodeId([id; 16]), Member { zone: "z".to_owned(), weight: 1 })).collect();
        first_ring(ClusterId([9; 16]), 4, 3, &members).unwrap()
    }

    fn views(ring: Ring) -> Views {
        Views { ring: Some(ring), answered: BTreeMap::new(), silent: BTreeMap::new() }
    }

    #[test]
    fn a_cluster_without_a_record_here_is_left_to_its_writer() {
        let folder = tempfile::tempdir().unwrap();
        let turn = |take_over| {
            let record = folder.path().join("r.ring");
            Writer::new(&Endpoints::from(Vec::new()), record, take_over, Limits::default(), 1)
                .turn(&views(ring()))
                .map(|turn| turn.ring)
        };
        let refused = turn(false).unwrap_err().to_string();
        assert!(!folder.path().join("r.lock").exists(), "nothing is left of what was refused");
        for way in ["spec.rebalancing.paused", "--record DIR/first.ring", "--take-over"] {
            assert!(refused.contains(way), "{refused}");
        }
        assert_eq!(turn(true).unwrap(), ring());
        ring_writer::record(&folder.path().join("r.ring"), &ring().successor(|_| ())).unwrap();
        assert_eq!(turn(false).unwrap(), ring().successor(|_| ()), "what was recorded and not offered");
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
        writer.carry_out().await.unwrap();
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
        let stop = writer.carry_out().await.unwrap_err().to_string();
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
        writer.carry_out().await.unwrap();
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
            writer.ask(|ring, _| Ok(operation::begun(ring, &wanted).unwrap())).await.unwrap();
            let newest = elsewhere(&doubles[0].state().ring);
            doubles.iter().for_each(|double| double.state().ring = newest.clone());
            let stop = writer.carry_out().await.unwrap_err().to_string();
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
        let recorded = || ring_writer::recorded(&record, ring().cluster).unwrap().unwrap();
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
        ring_writer::record(&record, &ahead).unwrap();
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
        let stop = writer.carry_out().await.unwrap_err().to_string();
        assert!(stop.contains("to hold the ring: ") && stop.contains("ProposeRing refused"), "{stop}");
    }
}
