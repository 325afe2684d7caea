//! Clients of a bucket in which the last writer wins: its configuration, what they do, and the verdict by [`super::stamps`].
//!
//! A key is written for some seconds and then never again, as a session is. What was written on the two sides of a partition is then the
//! last that was written, and not hidden by what came later: the older of the two must not be what is left. Keys are of three kinds, since
//! deletes and request ids take from what can be judged: of most keys, nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dynamo_client::{Client, DeleteOptions, GetOptions, PutOptions, RequestError, fresh_request_id};
use dynamo_core::random::Random;
use dynamo_core::request::QuorumWish;
use dynamoctl::workload::checker::{Kind, Outcome, WriteId};
use dynamoctl::workload::clients::may_be_repeated;
use dynamoctl::workload::keys::Keys;
use dynamoctl::workload::tally::{Operation, Tally};
use tokio::sync::watch;

use super::clocks::{Clocks, wall_ms};
use super::stamps::{Shown, StampHistory};

/// The bucket.
const BUCKET: &str = "sessions";
/// Its lines in a node's configuration.
pub const SETTINGS: &str = "buckets: {sessions: {reconciliation: last-writer-wins}}\n";
/// How long a key is written.
const LIFE: Duration = Duration::from_secs(4);
/// Keys that are written at the same time.
const KEYS_AT_A_TIME: usize = 12;
/// Of one client between two steps.
const PAUSE: Duration = Duration::from_millis(60);

/// What is done with a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Use {
    /// It is read and written.
    Puts,
    /// It is deleted too.
    Deletes,
    /// Its writes have request ids, and are sent again.
    RequestIds,
}

impl Use {
    fn of(key: usize) -> Self {
        match key % 4 {
            0 => Self::Deletes,
            1 => Self::RequestIds,
            _ => Self::Puts,
        }
    }
}

/// What all clients share.
pub struct Sessions {
    clients: Vec<Client>,
    keys: Keys,
    clocks: Arc<Clocks>,
    started: Instant,
    state: Mutex<State>,
}

struct State {
    histories: BTreeMap<usize, StampHistory>,
    tally: Tally,
    next_id: WriteId,
}

/// What the end showed.
#[derive(Debug, Default)]
pub struct Judged {
    /// What is wrong, key by key.
    pub violations: Vec<String>,
    /// Keys that could not be read from all replicas, and why.
    pub unread: Vec<String>,
    /// Writes that may have been made more than once and show twice or again, as they may.
    pub resurfaced: usize,
}

impl Sessions {
    /// Nothing has been written. Each step goes by one of `clients`.
    pub fn new(clients: Vec<Client>, run: String, clocks: Arc<Clocks>) -> Self {
        let state = State { histories: BTreeMap::new(), tally: Tally::new(Instant::now()), next_id: 1 };
        Self { clients, keys: Keys::new(BUCKET, run), clocks, started: Instant::now(), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn history<T>(&self, key: usize, look: impl FnOnce(&mut StampHistory) -> T) -> T {
        look(self.state().histories.entry(key).or_default())
    }

    /// Reads a key and enters it in its history. Returns what it showed, and the context.
    async fn read(&self, client: &Client, key: usize, options: &GetOptions) -> Result<(Option<Shown>, Bytes), RequestError> {
        let found = client.get(&self.keys.name(key), options).await?;
        let values: Vec<(&[u8], u64)> = found.siblings.iter().map(|sibling| (&sibling.value[..], sibling.written_ms)).collect();
        let shown = self.history(key, |history| history.read(&values, |value| self.keys.id_of(value)));
        Ok((shown, found.context))
    }

    async fn counted_read(&self, client: &Client, key: usize) -> Result<(Option<Shown>, Bytes), RequestError> {
        let started = Instant::now();
        let read = self.read(client, key, &GetOptions::default()).await;
        self.count(Operation::Get, started, read.as_ref().err());
        read
    }

    fn count(&self, operation: Operation, started: Instant, error: Option<&RequestError>) {
        self.state().tally.ended(operation, started, error);
    }

    /// One write, over what `context` covers.
    async fn write(
        &self,
        client: &Client,
        key: usize,
        kind: Kind,
        (shown, context): (Option<Shown>, Bytes),
        create_only: bool,
    ) -> Result<(), RequestError> {
        let request_id = (Use::of(key) == Use::RequestIds).then(fresh_request_id);
        let covers = shown.into_iter().map(|shown| shown.id).collect();
        let id = {
            let mut state = self.state();
            let id = state.next_id;
            state.next_id += 1;
            state.histories.entry(key).or_default().submitted(id, kind, covers, request_id, wall_ms());
            id
        };
        let (started, name) = (Instant::now(), self.keys.name(key));
        let (operation, written) = match kind {
            Kind::Put => {
                let options = PutOptions { context, create_only, request_id, ..PutOptions::default() };
                (Operation::Put, client.put(&name, self.keys.value(id), &options).await)
            }
            Kind::Delete => {
                let options = DeleteOptions { request_id, ..DeleteOptions::default() };
                (Operation::Delete, client.delete(&name, context, &options).await)
            }
        };
        let repeated = may_be_repeated(&written, client, &name);
        self.count(operation, started, written.as_ref().err());
        let outcome = match &written {
            Ok(_) => Outcome::Acknowledged,
            Err(error) if error.is_unknown() => Outcome::Unknown,
            Err(_) => Outcome::Failed,
        };
        self.history(key, |history| {
            if repeated {
                history.repeated(id);
            }
            history.told(id, outcome, wall_ms());
        });
        written.map(|_| ())
    }

    async fn step(&self, source: &mut Random) -> Result<(), RequestError> {
        let life = self.started.elapsed().as_millis() / LIFE.as_millis();
        let key = life as usize * KEYS_AT_A_TIME + source.below(KEYS_AT_A_TIME);
        let client = &self.clients[source.below(self.clients.len())];
        let nothing = || (None, Bytes::new());
        match (source.below(100), Use::of(key)) {
            (0..15, _) => self.counted_read(client, key).await.map(|_| ()),
            (15..20, _) => self.write(client, key, Kind::Put, nothing(), true).await,
            (20..30, Use::Deletes) => self.write(client, key, Kind::Delete, nothing(), false).await,
            (20..55, _) => self.write(client, key, Kind::Put, nothing(), false).await,
            (chance, of) => {
                let read = self.counted_read(client, key).await?;
                let delete = of == Use::Deletes && chance < 70;
                self.write(client, key, if delete { Kind::Delete } else { Kind::Put }, read, false).await
            }
        }
    }

    /// One client, until `stop` says so.
    pub async fn run(self: Arc<Self>, mut source: Random, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let started = Instant::now();
            // Counted where it came from.
            let _told = self.step(&mut source).await;
            let rest = PAUSE.saturating_sub(started.elapsed());
            let _ = tokio::time::timeout(rest, stop.wait_for(|stop| *stop)).await;
        }
    }

    /// Reads every key from all its home replicas, and judges it.
    pub async fn judge(&self) -> Judged {
        let mut judged = Judged::default();
        let n = self.clients[0].ring().map(|ring| ring.replication);
        let options = GetOptions { quorum: QuorumWish { r: n, pr: n, ..QuorumWish::default() }, timeout: None };
        let keys: Vec<usize> = self.state().histories.keys().copied().collect();
        for key in keys {
            let shown = match self.read(&self.clients[0], key, &options).await {
                Ok((shown, _)) => shown,
                Err(error) => {
                    judged.unread.push(format!("{}: {error}", self.keys.name(key).key.escape_ascii()));
                    continue;
                }
            };
            let (found, resurfaced) =
                self.history(key, |history| (history.verdict(shown, &self.clocks), history.resurfaced(shown)));
            judged.resurfaced += resurfaced;
            if let Some(first) = found.first() {
                let named = self.keys.name(key).key.escape_ascii().to_string();
                let lines = self.history(key, |history| history.lines()).join("\n    ");
                judged.violations.push(format!("{BUCKET} {named}: {first}; {} in all; its history:\n    {lines}", found.len()));
            }
        }
        judged
    }

    /// Keys that were used.
    pub fn key_count(&self) -> usize {
        self.state().histories.len()
    }

    /// Writes that may have been made more than once, and all that have request ids.
    pub fn repeated_of_named(&self) -> (usize, usize) {
        let state = self.state();
        let counts = state.histories.values().map(StampHistory::repeated_of_named);
        counts.fold((0, 0), |sum, counts| (sum.0 + counts.0, sum.1 + counts.1))
    }

    /// What was done, in a line.
    pub fn told(&self) -> String {
        let state = self.state();
        let count = |outcome| state.histories.values().map(|history| history.count(outcome)).sum::<usize>();
        let (acknowledged, unknown) = (count(Outcome::Acknowledged), count(Outcome::Unknown));
        let keys = state.histories.len();
        format!("where the last writer wins: {acknowledged} writes to {keys} keys acknowledged, {unknown} of unknown outcome")
    }
}
