//! The clients of a workload: they read, and write what they have read, without, or with the context of their own last write.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use dynamo_client::{Client, DeleteOptions, Evidence, GetOptions, PutOptions, PutResult, RequestError, fresh_request_id};
use dynamo_core::context::{self, Token};
use dynamo_core::id::NodeId;
use dynamo_core::name::Name;
use dynamo_core::random::Random;
use dynamo_core::recent_writes::RecentWrites;
use tokio::sync::watch;

use super::checker::{Held, History, Kind, Outcome, WriteId};
use super::keys::Keys;
use super::tally::{Operation, Tally};

/// Writes that are remembered. With what they cover some 600 MB; then the workload ends, and says so.
pub const WRITES_MAX: u64 = 5_000_000;
/// After a failure, so that a cluster that refuses at once is not asked in a tight loop.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(20);

/// What all clients share.
pub struct Shared {
    /// The cluster.
    pub client: Client,
    /// Its keys and values.
    pub keys: Keys,
    state: Mutex<State>,
}

struct State {
    histories: Vec<History>,
    tally: Tally,
    next_id: WriteId,
    /// Who has held some write: a few, of millions of writes.
    holders: BTreeSet<Arc<str>>,
}

impl State {
    fn acknowledged(&mut self, key: usize, id: WriteId, evidence: &Evidence) {
        let text = held_by(evidence);
        let by = self.holders.get(text.as_str()).cloned().unwrap_or_else(|| text.into());
        self.holders.insert(Arc::clone(&by));
        let since_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        self.histories[key].held(id, Held { by, since_ms });
    }
}

fn held_by(Evidence { epoch, nodes, durable, hinted }: &Evidence) -> String {
    let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    format!("{}: {durable} durable, {hinted} standing in, epoch {epoch}", nodes.join(", "))
}

/// The writes with request ids that are remembered of the dots that this context of `name` covers. One that cannot be read excuses nothing.
pub fn remembered_in(token: &Bytes, client: &Client, name: &Name) -> RecentWrites {
    told_in(token, client, name).seen.1
}

/// What this context of `name` says; nothing, if it cannot be read.
fn told_in(token: &Bytes, client: &Client, name: &Name) -> Token {
    let cluster = client.ring().map(|ring| ring.cluster);
    cluster.and_then(|cluster| context::decode(token.clone(), cluster, name).ok()).unwrap_or_default()
}

/// Whether a write of `name` with a request id may have been made more than once. It was made once if its client sent it once, and the
/// node that was asked is the one that coordinated it, which its context says: that one makes it under one dot. Any other was forwarded,
/// and whoever forwards it asks a second node if the first falls silent. What nobody was told went through who knows what.
pub fn may_be_repeated(written: &Result<PutResult, RequestError>, client: &Client, name: &Name) -> bool {
    match written {
        Ok(written) => is_repeated(written, told_in(&written.context, client, name).coordinator),
        Err(error) => error.is_unknown(),
    }
}

/// The context of an answer names no coordinator if that is no replica, and there is no context if the write met what its client had not read.
fn is_repeated(written: &PutResult, coordinator: Option<NodeId>) -> bool {
    written.sent > 1 || coordinator.is_none() || written.asked != coordinator
}

impl Shared {
    /// Nothing has been written.
    pub fn new(client: Client, bucket: String, run: String, keys: usize) -> Self {
        let histories = std::iter::repeat_with(History::default).take(keys).collect();
        let state = State { histories, tally: Tally::new(Instant::now()), next_id: 1, holders: BTreeSet::new() };
        Self { client, keys: Keys::new(bucket, run), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was counted so far.
    pub fn tally<T>(&self, look: impl FnOnce(&mut Tally) -> T) -> T {
        look(&mut self.state().tally)
    }

    /// The history of one key.
    pub fn history<T>(&self, key: usize, look: impl FnOnce(&mut History) -> T) -> T {
        look(&mut self.state().histories[key])
    }

    /// As many writes are remembered as may be.
    pub fn is_full(&self) -> bool {
        self.state().next_id > WRITES_MAX
    }

    /// How many keys there are.
    pub fn key_count(&self) -> usize {
        self.state().histories.len()
    }

    /// Reads one key and enters it in its history. Returns the ids that are visible, and the context that covers them.
    pub async fn read(&self, key: usize, options: &GetOptions) -> Result<(BTreeSet<WriteId>, Bytes), RequestError> {
        let name = self.keys.name(key);
        let found = self.client.get(&name, options).await?;
        let remembered = remembered_in(&found.context, &self.client, &name);
        let values = found.siblings.iter().map(|sibling| (&sibling.value[..], sibling.written_ms));
        let ids = self.history(key, |history| history.read(values, &remembered, |value| self.keys.id_of(value)));
        Ok((ids, found.context))
    }

    /// The same, counted as an operation of the workload.
    async fn counted_read(&self, key: usize) -> Result<(BTreeSet<WriteId>, Bytes), RequestError> {
        let started = Instant::now();
        let read = self.read(key, &GetOptions::default()).await;
        self.tally(|tally| {
            tally.ended(Operation::Get, started, read.as_ref().err());
            if let Ok((ids, _)) = &read {
                tally.siblings_max = tally.siblings_max.max(ids.len());
            }
        });
        read
    }

    /// Writes a new id, or a tombstone, over what `context` covers. Returns the id, and the context that covers it (and all that
    /// it replaced), which is empty if there is no such context. A write that is `named` gets a request id, and is retried.
    async fn write(
        &self,
        key: usize,
        kind: Kind,
        covers: Vec<WriteId>,
        context: Bytes,
        named: bool,
    ) -> Result<(WriteId, Bytes), RequestError> {
        let request_id = named.then(fresh_request_id);
        let id = {
            let mut state = self.state();
            let id = state.next_id;
            state.next_id += 1;
            state.histories[key].submitted(id, kind, covers);
            if let Some(request_id) = request_id {
                state.histories[key].named(id, request_id);
            }
            id
        };
        let (started, name) = (Instant::now(), self.keys.name(key));
        let (operation, written) = match kind {
            Kind::Put => {
                let options = PutOptions { context, request_id, ..PutOptions::default() };
                (Operation::Put, self.client.put(&name, self.keys.value(id), &options).await)
            }
            Kind::Delete => {
                let options = DeleteOptions { request_id, ..DeleteOptions::default() };
                (Operation::Delete, self.client.delete(&name, context, &options).await)
            }
        };
        let repeated = may_be_repeated(&written, &self.client, &name);
        let mut state = self.state();
        state.tally.ended(operation, started, written.as_ref().err());
        let outcome = match &written {
            Ok(_) => Outcome::Acknowledged,
            Err(error) if error.is_unknown() => Outcome::Unknown,
            Err(_) => Outcome::Failed,
        };
        if let Ok(written) = &written {
            state.acknowledged(key, id, &written.evidence);
        }
        if repeated {
            state.histories[key].repeated(id);
        }
        state.histories[key].told(id, outcome);
        written.map(|written| (id, written.context))
    }
}

/// One client, until `stop` says so. `pause` lies between two operations, to keep to a rate.
pub async fn run(shared: Arc<Shared>, mut source: Random, pause: Duration, mut stop: watch::Receiver<bool>) {
    let mut own = HashMap::new();
    while !*stop.borrow() && !shared.is_full() {
        let started = Instant::now();
        let key = source.below(shared.key_count());
        let worked = step(&shared, &mut source, key, &mut own).await;
        let rest = if worked.is_ok() { pause } else { pause.max(PAUSE_AFTER_FAILURE) };
        let rest = rest.saturating_sub(started.elapsed());
        // An end of the run cuts the rest short.
        let _ = tokio::time::timeout(rest, stop.wait_for(|stop| *stop)).await;
    }
}

/// One step: mostly read, then write over what was read. `own` holds what this client wrote last to each key.
async fn step(
    shared: &Shared,
    source: &mut Random,
    key: usize,
    own: &mut HashMap<usize, (WriteId, Bytes)>,
) -> Result<(), RequestError> {
    let chance = source.below(100);
    if chance < 10 {
        return shared.counted_read(key).await.map(|_| ());
    }
    // Half of the writes are such that the client library retries.
    let named = source.below(2) == 0;
    let written = if chance < 20 {
        shared.write(key, Kind::Put, Vec::new(), Bytes::new(), named).await
    } else if let (20..30, Some((last, context))) = (chance, own.remove(&key)) {
        shared.write(key, Kind::Put, vec![last], context, named).await
    } else {
        let (ids, context) = shared.counted_read(key).await?;
        let kind = if chance >= 90 && !ids.is_empty() { Kind::Delete } else { Kind::Put };
        shared.write(key, kind, ids.into_iter().collect(), context, named).await
    }?;
    match written.1.is_empty() {
        // It met a version that this client has not seen; nothing can be written over it without a read.
        true => own.remove(&key),
        false => own.insert(key, written),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_core::id::Epoch;

    #[test]
    fn a_write_was_made_once_if_the_node_that_its_client_asked_once_coordinated_it() {
        let (asked, another) = (NodeId([1; 16]), NodeId([2; 16]));
        for (sent, of, coordinator, repeated, why) in [
            (1, Some(asked), Some(asked), false, "it went nowhere else"),
            (2, Some(asked), Some(asked), true, "its client sent it twice"),
            (1, Some(asked), Some(another), true, "it was forwarded"),
            (1, Some(asked), None, true, "who coordinated it is not said"),
            (1, None, Some(asked), true, "who was asked is not known"),
            (1, None, None, true, "neither is"),
        ] {
            let evidence = Evidence { epoch: Epoch(1), nodes: vec![asked], durable: 1, hinted: 0 };
            let written = PutResult { context: Bytes::new(), evidence, sent, asked: of };
            assert_eq!(is_repeated(&written, coordinator), repeated, "{why}");
        }
    }
}
