//! Clients that ask more and less of their quorum than the bucket does: N, R, W, DW, PR and PW of their own, little time, creates; on streams
//! and as calls of their own. Each answer is judged by what was asked, and at the end by what an acknowledgement rests on:
//!
//! | copies on stable storage | what is promised |
//! |---|---|
//! | two and more | all, as of the default: one disk may be lost at a time |
//! | one | all, unless a disk was destroyed before the replicas were equal |
//! | none (`dw = 0`) | nothing: it is the paper's write buffer, and counts as a write of unknown outcome |
//!
//! A create that is refused was refused for something that somebody wrote before. When everything is healed a create is refused wherever a
//! value is, and a put that asks for every replica, each with its fsync, gets them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dynamo_client::{Client, DeleteOptions, GetOptions, PutOptions, PutResult, RequestError, fresh_request_id};
use dynamo_core::id::RequestKey;
use dynamo_core::name::Name;
use dynamo_core::random::Random;
use dynamo_core::request::{Evidence, Failure, QuorumWish};
use dynamo_core::ring::Ring;
use dynamoctl::workload::checker::{History, Kind, Outcome, WriteId};
use dynamoctl::workload::clients::{may_be_repeated, remembered_in};
use dynamoctl::workload::keys::Keys;
use dynamoctl::workload::tally::{Operation, Tally};
use tokio::sync::watch;

use super::sessions::Judged;

/// The bucket: as the cluster's settings have it.
const BUCKET: &str = "wishes";
const KEYS: usize = 120;
/// Of one client between two steps.
const PAUSE: Duration = Duration::from_millis(60);
/// The time of those who have little.
const LITTLE_TIME: Duration = Duration::from_millis(80);
/// Keys that are created again when everything is healed.
const CREATED_AGAIN: usize = 20;
/// Copies on stable storage of which one may be lost.
const SAFE: u32 = 2;

/// R, W and N of nodes that say nothing else.
const N: u8 = 3;
const QUORUM: u8 = 2;

/// What one request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Wish {
    quorum: QuorumWish,
    little_time: bool,
}

/// Every option by itself, and all at once.
fn draw(source: &mut Random) -> Wish {
    let none = QuorumWish::default();
    let all = Some(N);
    let quorum = match source.below(12) {
        0 => QuorumWish { r: Some(1), w: Some(1), ..none },
        1 => QuorumWish { dw: Some(0), ..none },
        2 => QuorumWish { dw: Some(1), ..none },
        3 => QuorumWish { r: all, w: all, ..none },
        4 => QuorumWish { pr: Some(1), pw: Some(1), ..none },
        5 => QuorumWish { pr: Some(QUORUM), pw: Some(QUORUM), dw: Some(QUORUM), ..none },
        6 => QuorumWish { r: all, w: all, dw: all, pr: all, pw: all, ..none },
        7 => QuorumWish { n: Some(1), ..none },
        8 => QuorumWish { n: Some(2), ..none },
        9 => {
            let mut up_to = |least: usize, most: u8| (least + source.below(usize::from(most) + 1 - least)) as u8;
            let n = up_to(1, N);
            let (r, w) = (up_to(1, n), up_to(1, n));
            QuorumWish { n: Some(n), r: Some(r), w: Some(w), dw: Some(up_to(0, n)), pr: Some(up_to(0, r)), pw: Some(up_to(0, w)) }
        }
        _ => none,
    };
    Wish { quorum, little_time: source.below(8) == 0 }
}

/// What a put with this wish takes: acknowledgements, durable ones, home replicas.
fn required_of_put(wish: QuorumWish) -> (u8, u8, u8) {
    let most = wish.n.unwrap_or(N);
    let w = wish.w.unwrap_or(QUORUM.min(most));
    let (dw, pw) = (wish.dw.unwrap_or(w), wish.pw.unwrap_or(0));
    (w.max(dw).max(pw), dw, pw)
}

/// What a get takes: answers, and of home replicas.
fn required_of_get(wish: QuorumWish) -> (u8, u8) {
    let r = wish.r.unwrap_or(QUORUM.min(wish.n.unwrap_or(N)));
    let pr = wish.pr.unwrap_or(0);
    (r.max(pr), pr)
}

/// What is wrong with the evidence of an answer that takes so much. Home replicas are counted if `ring` is that of the evidence.
fn lacks(evidence: &Evidence, name: &Name, ring: Option<&Ring>, (total, durable, primary): (u8, u8, u8)) -> Option<String> {
    let nodes: BTreeSet<_> = evidence.nodes.iter().collect();
    let homes = ring.filter(|ring| ring.epoch == evidence.epoch).map(|ring| {
        let placement = ring.placement(ring.partition_of(name));
        nodes.iter().filter(|node| placement.involves(***node)).count()
    });
    let found = [
        ("distinct nodes", Some(nodes.len()), total),
        ("fsyncs", Some(evidence.durable as usize), durable),
        ("home replicas", homes, primary),
    ];
    let (what, found, required) = found.into_iter().find_map(|(what, found, required)| {
        Some((what, found?, usize::from(required))).filter(|(_, found, required)| found < required)
    })?;
    Some(format!("an answer rests on {found} {what}, and {required} were asked for: {evidence:?}"))
}

/// A write that is acknowledged with one copy on stable storage.
struct OnOneDisk {
    key: usize,
    id: WriteId,
    begun: Instant,
}

struct State {
    histories: BTreeMap<usize, History>,
    on_one_disk: Vec<OnOneDisk>,
    /// Creates that were refused, and how many writes had been begun until then.
    refused: Vec<(usize, WriteId, WriteId)>,
    problems: Vec<String>,
    tally: Tally,
    next_id: WriteId,
    creates_refused: usize,
}

/// What all clients share.
pub struct Wishes {
    clients: Vec<Client>,
    keys: Keys,
    state: Mutex<State>,
}

/// A write, as it is sent.
struct Intent {
    kind: Kind,
    covers: Vec<WriteId>,
    context: Bytes,
    create_only: bool,
    request_id: Option<RequestKey>,
    wish: Wish,
}

impl Wishes {
    /// Nothing has been written. Each step goes by one of `clients`.
    pub fn new(clients: Vec<Client>, run: String) -> Self {
        let state = State {
            histories: BTreeMap::new(),
            on_one_disk: Vec::new(),
            refused: Vec::new(),
            problems: Vec::new(),
            tally: Tally::new(Instant::now()),
            next_id: 1,
            creates_refused: 0,
        };
        Self { clients, keys: Keys::new(BUCKET, run), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn history<T>(&self, key: usize, look: impl FnOnce(&mut History) -> T) -> T {
        look(self.state().histories.entry(key).or_default())
    }

    fn complain(&self, key: usize, what: &str) {
        self.state().problems.push(format!("{BUCKET} {key}: {what}"));
    }

    async fn read(&self, client: &Client, key: usize, wish: Wish) -> Result<(BTreeSet<WriteId>, Bytes), RequestError> {
        let options = GetOptions { quorum: wish.quorum, timeout: wish.little_time.then_some(LITTLE_TIME) };
        let name = self.keys.name(key);
        let found = client.get(&name, &options).await?;
        let (total, primary) = required_of_get(wish.quorum);
        if let Some(what) = lacks(&found.evidence, &name, client.ring().as_deref(), (total, 0, primary)) {
            self.complain(key, &format!("{what}; {wish:?}"));
        }
        let remembered = remembered_in(&found.context, client, &name);
        let values = found.siblings.iter().map(|sibling| (&sibling.value[..], sibling.written_ms));
        let ids = self.history(key, |history| history.read(values, &remembered, |value| self.keys.id_of(value)));
        Ok((ids, found.context))
    }

    async fn counted_read(&self, client: &Client, key: usize, wish: Wish) -> Result<(BTreeSet<WriteId>, Bytes), RequestError> {
        let started = Instant::now();
        let read = self.read(client, key, wish).await;
        self.count(Operation::Get, started, read.as_ref().err());
        read
    }

    fn count(&self, operation: Operation, started: Instant, error: Option<&RequestError>) {
        self.state().tally.ended(operation, started, error);
    }

    fn begin(&self, key: usize, intent: &Intent) -> WriteId {
        let mut state = self.state();
        let id = state.next_id;
        state.next_id += 1;
        let history = state.histories.entry(key).or_default();
        history.submitted(id, intent.kind, intent.covers.clone());
        if let Some(request_id) = intent.request_id {
            history.named(id, request_id);
        }
        id
    }

    async fn write(&self, client: &Client, key: usize, intent: Intent) -> Result<(WriteId, PutResult), RequestError> {
        let begun = Instant::now();
        let id = self.begin(key, &intent);
        let Intent { kind, context, create_only, request_id, wish, .. } = intent;
        let timeout = wish.little_time.then_some(LITTLE_TIME);
        let (name, quorum) = (self.keys.name(key), wish.quorum);
        let (operation, written) = match kind {
            Kind::Put => {
                let options = PutOptions { quorum, context, create_only, request_id, timeout };
                (Operation::Put, client.put(&name, self.keys.value(id), &options).await)
            }
            Kind::Delete => {
                let options = DeleteOptions { quorum, request_id, timeout };
                (Operation::Delete, client.delete(&name, context, &options).await)
            }
        };
        self.count(operation, begun, written.as_ref().err());
        // A delete of nothing writes nothing, and names no node.
        if let Ok(PutResult { evidence, .. }) = &written
            && !(kind == Kind::Delete && evidence.nodes.is_empty())
            && let Some(what) = lacks(evidence, &name, client.ring().as_deref(), required_of_put(quorum))
        {
            self.complain(key, &format!("write {id}: {what}; {wish:?}"));
        }
        if may_be_repeated(&written, client, &name) {
            self.history(key, |history| history.repeated(id));
        }
        self.settle(key, id, begun, create_only, &written);
        written.map(|written| (id, written))
    }

    /// Enters what the client was told.
    fn settle(&self, key: usize, id: WriteId, begun: Instant, create_only: bool, written: &Result<PutResult, RequestError>) {
        let mut state = self.state();
        let next = state.next_id;
        let outcome = match written {
            Ok(PutResult { evidence, .. }) if evidence.durable >= SAFE => Some(Outcome::Acknowledged),
            Ok(PutResult { evidence, .. }) if evidence.durable == 1 => None,
            Ok(_) => Some(Outcome::Unknown),
            Err(RequestError::Failed(Failure::Exists)) => {
                state.creates_refused += 1;
                if create_only {
                    state.refused.push((key, id, next));
                } else {
                    state.problems.push(format!("{BUCKET} {key}: write {id} is no create, and was refused as one"));
                }
                Some(Outcome::Failed)
            }
            Err(error) if error.is_unknown() => Some(Outcome::Unknown),
            Err(_) => Some(Outcome::Failed),
        };
        let history = state.histories.entry(key).or_default();
        match outcome {
            Some(outcome) => history.told(id, outcome),
            None => state.on_one_disk.push(OnOneDisk { key, id, begun }),
        }
    }

    async fn step(&self, source: &mut Random, own: &mut BTreeMap<usize, (WriteId, Bytes)>) -> Result<(), RequestError> {
        let key = source.below(KEYS);
        let client = &self.clients[source.below(self.clients.len())];
        let (chance, wish) = (source.below(100), draw(source));
        let request_id = (source.below(2) == 0).then(fresh_request_id);
        let blind =
            || Intent { kind: Kind::Put, covers: Vec::new(), context: Bytes::new(), create_only: chance < 20, request_id, wish };
        let intent = match (chance, own.remove(&key)) {
            (0..10, _) => return self.counted_read(client, key, wish).await.map(|_| ()),
            (10..30, _) => blind(),
            (30..40, Some((last, context))) => Intent { covers: vec![last], context, ..blind() },
            _ => {
                let (ids, context) = self.counted_read(client, key, draw(source)).await?;
                let kind = if chance >= 85 && !ids.is_empty() { Kind::Delete } else { Kind::Put };
                Intent { kind, covers: ids.into_iter().collect(), context, ..blind() }
            }
        };
        let (id, written) = self.write(client, key, intent).await?;
        if !written.context.is_empty() {
            own.insert(key, (id, written.context));
        }
        Ok(())
    }

    /// One client, until `stop` says so.
    pub async fn run(self: Arc<Self>, mut source: Random, mut stop: watch::Receiver<bool>) {
        let mut own = BTreeMap::new();
        while !*stop.borrow() {
            let started = Instant::now();
            // Counted where it came from.
            let _told = self.step(&mut source, &mut own).await;
            let rest = PAUSE.saturating_sub(started.elapsed());
            let _ = tokio::time::timeout(rest, stop.wait_for(|stop| *stop)).await;
        }
    }

    /// All replicas are equal. What rested on one disk has to be there, unless a disk was destroyed after it was begun.
    fn settle_those_on_one_disk(&self, destroyed: Option<Instant>) {
        let mut state = self.state();
        for OnOneDisk { key, id, begun } in std::mem::take(&mut state.on_one_disk) {
            let may_be_gone = destroyed.is_some_and(|destroyed| destroyed >= begun);
            let outcome = if may_be_gone { Outcome::Unknown } else { Outcome::Acknowledged };
            state.histories.entry(key).or_default().told(id, outcome);
        }
    }

    /// Reads every key from all its home replicas, and judges it; `destroyed` is when the last disk was.
    pub async fn judge(&self, destroyed: Option<Instant>) -> Judged {
        self.settle_those_on_one_disk(destroyed);
        let mut judged = Judged { violations: std::mem::take(&mut self.state().problems), ..Judged::default() };
        let keys: Vec<usize> = self.state().histories.keys().copied().collect();
        let everything = QuorumWish { r: Some(N), pr: Some(N), ..QuorumWish::default() };
        let mut with_values = Vec::new();
        for key in keys {
            let visible = match self.read(&self.clients[0], key, Wish { quorum: everything, little_time: false }).await {
                Ok((visible, _)) => visible,
                Err(error) => {
                    judged.unread.push(format!("{BUCKET} {key}: {error}"));
                    continue;
                }
            };
            let (found, resurfaced) = self.history(key, |history| (history.verdict(&visible), history.resurfaced(&visible)));
            judged.resurfaced += resurfaced;
            if let Some(first) = found.first() {
                let lines: Vec<String> = self.history(key, |history| history.lines().collect());
                let lines = lines.join("\n    ");
                judged.violations.push(format!("{BUCKET} {key}: {first}; {} in all; its history:\n    {lines}", found.len()));
            }
            if !visible.is_empty() {
                with_values.push(key);
            }
        }
        if judged.unread.is_empty() {
            self.write_in_peace(&with_values, &mut judged).await;
        }
        self.judge_refusals(&mut judged);
        judged.violations.append(&mut self.state().problems);
        judged
    }

    /// Nothing is wrong with any node: a create is refused where a value is, and a put gets all replicas.
    async fn write_in_peace(&self, with_values: &[usize], judged: &mut Judged) {
        let intent = |covers, context, create_only, quorum| {
            let wish = Wish { quorum, little_time: false };
            Intent { kind: Kind::Put, covers, context, create_only, request_id: None, wish }
        };
        for (at, key) in with_values.iter().take(CREATED_AGAIN).enumerate() {
            let client = &self.clients[at % self.clients.len()];
            match self.write(client, *key, intent(Vec::new(), Bytes::new(), true, QuorumWish::default())).await {
                Err(RequestError::Failed(Failure::Exists)) => {}
                other => judged.violations.push(format!("{BUCKET} {key}: every replica has a value, and a create: {other:?}")),
            }
        }
        let all = Some(N);
        let everything = QuorumWish { w: all, dw: all, pw: all, ..QuorumWish::default() };
        for key in with_values.iter().take(CREATED_AGAIN) {
            let Ok((ids, context)) = self.read(&self.clients[0], *key, Wish::default()).await else { continue };
            match self.write(&self.clients[0], *key, intent(ids.into_iter().collect(), context, false, everything)).await {
                Ok((_, written)) if written.evidence.hinted == 0 => {}
                other => judged.violations.push(format!("{BUCKET} {key}: everything is healed, and a put to all: {other:?}")),
            }
        }
    }

    /// Each create that was refused met something that somebody had begun to write.
    fn judge_refusals(&self, judged: &mut Judged) {
        let mut state = self.state();
        for (key, id, next) in std::mem::take(&mut state.refused) {
            let met = state.histories.get(&key).is_some_and(|history| history.may_have_put(next, id));
            if !met {
                judged
                    .violations
                    .push(format!("{BUCKET} {key}: create {id} was refused for a value, and nobody had written one"));
            }
        }
    }

    /// Keys that were used.
    pub fn key_count(&self) -> usize {
        self.state().histories.len()
    }

    /// Writes that may have been made more than once, and all that have request ids.
    pub fn repeated_of_named(&self) -> (usize, usize) {
        let state = self.state();
        let counts = state.histories.values().map(History::repeated_of_named);
        counts.fold((0, 0), |sum, counts| (sum.0 + counts.0, sum.1 + counts.1))
    }

    /// What was done, in a line.
    pub fn told(&self) -> String {
        let state = self.state();
        let count = |outcome| state.histories.values().map(|history| history.count(outcome)).sum::<usize>();
        let (acknowledged, unknown) = (count(Outcome::Acknowledged), count(Outcome::Unknown));
        let refused = state.creates_refused;
        format!(
            "with quorums of their own: {acknowledged} writes acknowledged, {unknown} of unknown outcome, {refused} creates refused"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_core::id::{Epoch, NodeId};

    #[test]
    fn every_option_of_a_quorum_is_drawn_below_and_above_what_the_bucket_has() {
        let mut source = Random::new(1);
        let drawn: Vec<Wish> = (0..1_000).map(|_| draw(&mut source)).collect();
        let values = |of: fn(&QuorumWish) -> Option<u8>| drawn.iter().map(|wish| of(&wish.quorum)).collect::<BTreeSet<_>>();
        let from = |least: u8| [None].into_iter().chain((least..=N).map(Some)).collect::<BTreeSet<_>>();
        assert_eq!(values(|wish| wish.n), from(1));
        assert_eq!(values(|wish| wish.r), from(1));
        assert_eq!(values(|wish| wish.w), from(1));
        assert_eq!(values(|wish| wish.dw), from(0));
        assert_eq!(values(|wish| wish.pr), from(0));
        assert_eq!(values(|wish| wish.pw), from(0));
        let little = drawn.iter().filter(|wish| wish.little_time).count();
        assert!((50..300).contains(&little), "{little}");
        // What nodes refuse as a contradiction would test nothing.
        let fits = |wish: &QuorumWish| {
            let most = wish.n.unwrap_or(N);
            [wish.r, wish.w, wish.dw, wish.pr, wish.pw].into_iter().flatten().all(|count| count <= most)
        };
        assert!(drawn.iter().all(|wish| fits(&wish.quorum)));
    }

    #[test]
    fn an_answer_that_rests_on_less_than_was_asked_for_is_found() {
        let none = QuorumWish::default();
        let name = Name::new(BUCKET, "k");
        // What is asked for; who answers at least, and how many fsyncs.
        let cases = [
            (none, 2, 2),
            (QuorumWish { w: Some(1), ..none }, 1, 1),
            (QuorumWish { n: Some(1), ..none }, 1, 1),
            (QuorumWish { dw: Some(0), ..none }, 2, 0),
            (QuorumWish { dw: Some(1), ..none }, 2, 1),
            (QuorumWish { w: Some(1), dw: Some(3), ..none }, 3, 3),
            (QuorumWish { w: Some(1), pw: Some(2), ..none }, 2, 1),
        ];
        for (wish, total, durable) in cases {
            let evidence = |total: u8, durable: u32| Evidence {
                epoch: Epoch(1),
                nodes: (0..total).map(|node| NodeId([node; 16])).collect(),
                durable,
                hinted: 0,
            };
            let required = required_of_put(wish);
            assert_eq!(lacks(&evidence(total, durable), &name, None, required), None, "{wish:?}");
            assert!(lacks(&evidence(total - 1, durable), &name, None, required).is_some(), "{wish:?}");
            let fewer = durable.checked_sub(1).map(|fewer| lacks(&evidence(total, fewer), &name, None, required));
            assert!(fewer.is_none_or(|found| found.is_some()), "{wish:?}");
        }
        assert_eq!(required_of_get(none), (2, 0));
        assert_eq!(required_of_get(QuorumWish { n: Some(1), ..none }), (1, 0));
        assert_eq!(required_of_get(QuorumWish { r: Some(1), pr: Some(2), ..none }), (2, 2));
    }
}
