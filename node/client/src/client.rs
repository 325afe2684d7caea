//! Get, put, delete: straight to a replica that works, and an honest word when that fails (paper 4.1, 4.5, 6.4).
//!
//! A request goes to the first replica in the key's preference list that is neither suspected nor failed lately. On the next
//! node it is tried again only if that cannot do harm: it provably was not sent, or the answer says that nothing was written, or
//! it is a get. A write that was sent and not answered is [`RequestError::Lost`], and is the caller's to look into.
//!
//! One task per client keeps the topology current: when an answer carries a newer epoch, when a connection fails, and every ten
//! seconds otherwise. It ends with the last clone of the client.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use dynamo_core::config::{BUCKET_BYTES_MAX, CONTEXT_BYTES_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX};
use dynamo_core::id::{Epoch, NodeId};
use dynamo_core::name::Name;
use dynamo_core::request::{Evidence, Failure, Operation, QuorumWish, Request};
use dynamo_core::ring::Ring;
use dynamo_proto::v1;
use dynamo_proto::v1::session_response::Response;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::RequestError;
use crate::link::Link;
use crate::session::Reply;
use crate::topology::{EpochWatch, Member, Topology};

/// Nodes that one request is tried on. With three replicas that is all of them, a stand-in, and the endpoints.
const ATTEMPTS_MAX: usize = 8;
/// The topology is asked for at least this often...
const TOPOLOGY_AGE_MAX: Duration = Duration::from_secs(10);
/// ... and at most this often, whatever goes wrong.
const TOPOLOGY_AGE_MIN: Duration = Duration::from_millis(200);
/// A node is told to answer this much before the caller's deadline, so that its own word arrives and not only silence.
const ANSWER_MARGIN_MAX: Duration = Duration::from_millis(100);

/// How often the endpoints are tried for the first ring: behind a load balancer, the next connection may lead to a node that
/// lives where the last one led to one that just went.
const CONNECT_ATTEMPTS: usize = 3;

/// How requests travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// On one long-lived stream a node, many in flight, many in a message.
    #[default]
    Stream,
    /// As one gRPC call each.
    Unary,
}

/// Where a client starts and how it behaves.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// host:port of some nodes' client service, or of a load balancer before them.
    pub endpoints: Vec<String>,
    /// How requests travel.
    pub mode: Mode,
    /// Send requests straight to replicas. Where only the endpoints can be reached (a port that is forwarded), say `false`.
    pub direct: bool,
    /// Until a connection counts as failed.
    pub connect_timeout: Duration,
    /// Until a request without a time-out of its own is given up.
    pub request_timeout: Duration,
}

impl ClientConfig {
    /// The defaults, with these endpoints.
    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            mode: Mode::Stream,
            direct: true,
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(5),
        }
    }
}

/// What to ask of a get.
#[derive(Clone, Debug, Default)]
pub struct GetOptions {
    /// R and PR; what is absent is the bucket's setting.
    pub quorum: QuorumWish,
    /// Until it is given up; the client's setting if absent.
    pub timeout: Option<Duration>,
}

/// What to ask of a put.
#[derive(Clone, Debug, Default)]
pub struct PutOptions {
    /// W, DW and PW; what is absent is the bucket's setting.
    pub quorum: QuorumWish,
    /// The context of a get, whose versions the put replaces; empty for a blind put, which may make a sibling.
    pub context: Bytes,
    /// Refuse if a live version is known.
    pub create_only: bool,
    /// Until it is given up; the client's setting if absent.
    pub timeout: Option<Duration>,
}

/// What to ask of a delete.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// W, DW and PW; what is absent is the bucket's setting.
    pub quorum: QuorumWish,
    /// Until it is given up; the client's setting if absent.
    pub timeout: Option<Duration>,
}

/// One of the concurrent versions of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sibling {
    /// Its bytes.
    pub value: Bytes,
    /// The coordinator's wall clock, milliseconds since 1970. For people: it decides nothing.
    pub written_ms: u64,
}

/// What a get found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GetResult {
    /// None: the key does not exist. More than one: concurrent writes, for the application to merge.
    pub siblings: Vec<Sibling>,
    /// Covers all of `siblings`; hand it to the put or delete that replaces them.
    pub context: Bytes,
    /// What the answer rests on.
    pub evidence: Evidence,
}

/// A write that has its quorum.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PutResult {
    /// Covers the new version and all that it replaced.
    pub context: Bytes,
    /// What the answer rests on.
    pub evidence: Evidence,
}

/// A client of one cluster. Clones share connections and topology.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    _refresher: Arc<AbortOnDrop>,
}

#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client {
    /// Learns the ring from one of the endpoints. An error if none answers within the request time-out.
    pub async fn connect(config: ClientConfig) -> Result<Self, RequestError> {
        let epochs = Arc::new(EpochWatch::default());
        let link = |address: &String| {
            Link::new(address, config.mode, config.connect_timeout, Arc::clone(&epochs)).map(Arc::new).map_err(invalid)
        };
        let endpoints = config.endpoints.iter().map(link).collect::<Result<Vec<_>, _>>()?;
        if endpoints.is_empty() {
            return Err(invalid("endpoints: name at least one node as host:port".to_owned()));
        }
        let topology = ArcSwap::from_pointee(Topology { endpoints, ..Topology::default() });
        let shared = Arc::new(Shared { config, epochs, topology });
        let mut learned = Err("no endpoint answered in time".to_owned());
        let attempts = async {
            for _ in 0..CONNECT_ATTEMPTS {
                learned = shared.refresh().await;
                if learned.is_ok() {
                    break;
                }
            }
        };
        // Out of time, the last attempt's reason is what is told.
        let _in_time = timeout(shared.config.request_timeout, attempts).await;
        learned.map_err(RequestError::Unreachable)?;
        let task = tokio::spawn(keep_current(Arc::clone(&shared)));
        Ok(Self { shared, _refresher: Arc::new(AbortOnDrop(task.abort_handle())) })
    }

    /// The ring that the client goes by, if it knows one.
    pub fn ring(&self) -> Option<Arc<Ring>> {
        self.shared.topology.load().ring.clone()
    }

    /// The members' client addresses, as far as they are known.
    pub fn addresses(&self) -> BTreeMap<NodeId, String> {
        let topology = self.shared.topology.load();
        topology.members.iter().map(|(node, member)| (*node, member.link.address.clone())).collect()
    }

    /// All concurrent versions of `name`, and the context that covers them.
    pub async fn get(&self, name: &Name, options: &GetOptions) -> Result<GetResult, RequestError> {
        match self.shared.perform(name, &Operation::Get, &options.quorum, options.timeout).await? {
            Response::Get(v1::GetResponse { siblings, context, evidence }) => {
                let sibling = |sibling: v1::Sibling| Sibling { value: sibling.value, written_ms: sibling.written_ms };
                let evidence = evidence_in(evidence).map_err(RequestError::Protocol)?;
                self.shared.epochs.heard_of(evidence.epoch);
                Ok(GetResult { siblings: siblings.into_iter().map(sibling).collect(), context, evidence })
            }
            _ => Err(RequestError::Protocol("a get was answered as a put".to_owned())),
        }
    }

    /// A new version of `name`.
    pub async fn put(&self, name: &Name, value: impl Into<Bytes>, options: &PutOptions) -> Result<PutResult, RequestError> {
        let PutOptions { quorum, context, create_only, timeout } = options;
        let operation = Operation::Put { data: value.into(), context: context.clone(), create_only: *create_only };
        self.write(name, &operation, quorum, *timeout).await
    }

    /// A tombstone in place of what `context`, from a get of the same key, covers.
    pub async fn delete(&self, name: &Name, context: Bytes, options: &DeleteOptions) -> Result<PutResult, RequestError> {
        self.write(name, &Operation::Delete { context }, &options.quorum, options.timeout).await
    }

    async fn write(
        &self,
        name: &Name,
        operation: &Operation,
        quorum: &QuorumWish,
        timeout: Option<Duration>,
    ) -> Result<PutResult, RequestError> {
        match self.shared.perform(name, operation, quorum, timeout).await? {
            Response::Put(v1::PutResponse { context, evidence }) => {
                let evidence = evidence_in(evidence).map_err(RequestError::Lost)?;
                self.shared.epochs.heard_of(evidence.epoch);
                Ok(PutResult { context, evidence })
            }
            _ => Err(RequestError::Lost("a write was answered as a get".to_owned())),
        }
    }
}

#[derive(Debug)]
struct Shared {
    config: ClientConfig,
    epochs: Arc<EpochWatch>,
    topology: ArcSwap<Topology>,
}

impl Shared {
    async fn perform(
        &self,
        name: &Name,
        operation: &Operation,
        quorum: &QuorumWish,
        timeout: Option<Duration>,
    ) -> Result<Response, RequestError> {
        check_bounds(name, operation)?;
        let deadline = Instant::now() + timeout.unwrap_or(self.config.request_timeout);
        let mut tried = Vec::new();
        let mut last = None;
        while tried.len() < ATTEMPTS_MAX {
            let Some(link) = self.topology.load().next_link(name, &tried) else { break };
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                break;
            }
            match attempt(&link, name, operation, quorum, remaining).await {
                Attempt::Answered(response) => return Ok(response),
                Attempt::Final(error) => return Err(error),
                Attempt::Elsewhere(error) => {
                    // What a node said is worth more to the caller than that another could not be reached.
                    if last.is_none() || !matches!(error, RequestError::Unreachable(_)) {
                        last = Some(error);
                    }
                }
            }
            if link.is_avoided() {
                self.epochs.refresh();
            }
            tried.push(link);
        }
        Err(last.unwrap_or_else(|| RequestError::Unreachable("no node is known".to_owned())))
    }

    /// Asks for the topology, one node after the other until one knows it. If none has a ring, the cluster has none yet.
    async fn refresh(&self) -> Result<(), String> {
        let current = self.topology.load_full();
        let mut without_ring = None;
        let mut reasons = Vec::new();
        for link in current.links() {
            let reason = match timeout(self.config.connect_timeout * 2, link.topology(self.epochs.held().0)).await {
                Ok(Ok(answer)) if answer.epoch == 0 => {
                    without_ring.get_or_insert(answer);
                    "it has no ring".to_owned()
                }
                Ok(Ok(answer)) => match self.adopt(&current, answer) {
                    Ok(()) => return Ok(()),
                    Err(reason) => reason,
                },
                Ok(Err(reason)) => {
                    link.failed();
                    reason
                }
                Err(_) => {
                    link.failed();
                    "no answer in time".to_owned()
                }
            };
            reasons.push(format!("{}: {reason}", link.address));
        }
        match without_ring.filter(|_| current.ring.is_none()) {
            Some(answer) => self.adopt(&current, answer),
            None => Err(reasons.join("; ")),
        }
    }

    /// Goes by `answer` from now on, unless it is older than what is known.
    fn adopt(&self, current: &Topology, answer: v1::TopologyResponse) -> Result<(), String> {
        if Epoch(answer.epoch) < self.epochs.held() {
            return Err("it has an older ring".to_owned());
        }
        let ring = match answer.ring.is_empty() {
            true => current.ring.clone(),
            false => Some(Arc::new(Ring::decode(answer.ring).map_err(|error| format!("ring: {error}"))?)),
        };
        let mut members = BTreeMap::new();
        for v1::MemberAddress { node, client_address, suspected } in answer.members {
            let node = NodeId::from_slice(&node).ok_or("members.node: is not 16 bytes")?;
            if self.config.direct && !client_address.is_empty() {
                members.insert(node, Member { link: self.link_to(current, node, &client_address)?, suspected });
            }
        }
        self.epochs.holds(ring.as_ref().map_or(Epoch(0), |ring| ring.epoch));
        self.topology.store(Arc::new(Topology { ring, members, endpoints: current.endpoints.clone() }));
        Ok(())
    }

    /// The link to a member that is known under this address, with its connection, or a new one.
    fn link_to(&self, current: &Topology, node: NodeId, address: &str) -> Result<Arc<Link>, String> {
        let known = current.members.get(&node).filter(|member| member.link.address == address);
        if let Some(member) = known {
            return Ok(Arc::clone(&member.link));
        }
        Link::new(address, self.config.mode, self.config.connect_timeout, Arc::clone(&self.epochs)).map(Arc::new)
    }
}

async fn keep_current(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(TOPOLOGY_AGE_MIN).await;
        // Whichever comes first: word of a change, or the age.
        let _ = timeout(TOPOLOGY_AGE_MAX, shared.epochs.stale()).await;
        if let Err(reason) = shared.refresh().await {
            tracing::debug!(%reason, "the topology could not be refreshed");
        }
    }
}

/// What one node made of a request.
enum Attempt {
    Answered(Response),
    /// The caller must hear it.
    Final(RequestError),
    /// Nothing was written; another node may do better.
    Elsewhere(RequestError),
}

async fn attempt(link: &Link, name: &Name, operation: &Operation, quorum: &QuorumWish, remaining: Duration) -> Attempt {
    let is_get = matches!(operation, Operation::Get);
    // A get may be repeated, so a node that hangs costs it half its time and not all of it.
    let patience = if is_get { remaining / 2 } else { remaining };
    let margin = (patience / 10).min(ANSWER_MARGIN_MAX);
    let timeout_ms = u32::try_from((patience - margin).as_millis()).unwrap_or(u32::MAX).max(1);
    let request = Request { name: name.clone(), operation: operation.clone(), quorum: *quorum, timeout_ms };
    let lost = |reason| match is_get {
        true => Attempt::Elsewhere(RequestError::NoAnswer(reason)),
        false => Attempt::Final(RequestError::Lost(reason)),
    };
    match timeout_at(Instant::now() + patience, link.call(request.into())).await {
        Ok(Reply::Answer(Response::Failure(failure))) => judge(failure.into(), is_get),
        Ok(Reply::Answer(response)) => Attempt::Answered(response),
        Ok(Reply::NotSent(reason)) => {
            link.failed();
            Attempt::Elsewhere(RequestError::Unreachable(reason))
        }
        Ok(Reply::Lost(reason)) => {
            link.failed();
            lost(reason)
        }
        Err(_) => {
            link.failed();
            lost(format!("{}: no answer within {} ms", link.address, patience.as_millis()))
        }
    }
}

/// What follows from a failure that a node told.
fn judge(failure: Failure, is_get: bool) -> Attempt {
    match failure {
        // The node may be cut off from others, or stand by without a ring, while its neighbours are well.
        Failure::Unavailable { .. } | Failure::NoRing | Failure::DeclaredLost { .. } => {
            Attempt::Elsewhere(RequestError::Failed(failure))
        }
        Failure::Unknown { .. } if is_get => Attempt::Elsewhere(RequestError::NoAnswer(failure.to_string())),
        _ => Attempt::Final(RequestError::Failed(failure)),
    }
}

fn invalid(reason: String) -> RequestError {
    RequestError::Failed(Failure::Invalid(reason))
}

fn evidence_in(wire: Option<v1::Evidence>) -> Result<Evidence, String> {
    wire.ok_or("evidence: is missing")?.try_into().map_err(|error: dynamo_proto::WireError| error.to_string())
}

/// Refuses what no node would take, before it spoils the stream that others share.
fn check_bounds(name: &Name, operation: &Operation) -> Result<(), RequestError> {
    let (value, context) = match operation {
        Operation::Get => (0, 0),
        Operation::Put { data, context, .. } => (data.len(), context.len()),
        Operation::Delete { context } => (0, context.len()),
    };
    let fields = [
        ("bucket", name.bucket.len(), BUCKET_BYTES_MAX),
        ("key", name.key.len(), KEY_BYTES_MAX),
        ("value", value, VALUE_BYTES_MAX),
        ("context", context, CONTEXT_BYTES_MAX),
    ];
    match fields.iter().find(|(_, size, most)| size > most) {
        Some((field, size, most)) => Err(invalid(format!("{field}: has {size} bytes, at most {most} are allowed"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_is_refused_by_name_before_it_is_sent() {
        let put =
            |size, context| Operation::Put { data: vec![0; size].into(), context: vec![0; context].into(), create_only: false };
        let cases = [
            ("bucket", Name::new(vec![0; BUCKET_BYTES_MAX + 1], "k"), Operation::Get),
            ("key", Name::new("b", vec![0; KEY_BYTES_MAX + 1]), Operation::Get),
            ("value", Name::new("b", "k"), put(VALUE_BYTES_MAX + 1, 0)),
            ("context", Name::new("b", "k"), put(0, CONTEXT_BYTES_MAX + 1)),
        ];
        for (field, name, operation) in cases {
            let error = check_bounds(&name, &operation).unwrap_err();
            assert!(error.to_string().starts_with(field) && error.kind() == "invalid", "{error}");
        }
        assert_eq!(check_bounds(&Name::new("b", "k"), &put(VALUE_BYTES_MAX, CONTEXT_BYTES_MAX)), Ok(()));
    }

    #[test]
    fn only_what_wrote_nothing_or_reads_is_tried_elsewhere() {
        let (acknowledged, required) = (1, 2);
        let cases = [
            (Failure::Unavailable { acknowledged, required }, false, true),
            (Failure::Unavailable { acknowledged, required }, true, true),
            (Failure::Unknown { acknowledged, required }, false, false),
            (Failure::Unknown { acknowledged, required }, true, true),
            (Failure::NoRing, false, true),
            (Failure::DeclaredLost { since: Epoch(7) }, false, true),
            (Failure::Overloaded(String::new()), false, false),
            (Failure::Exists, false, false),
            (Failure::BadContext(String::new()), false, false),
        ];
        for (failure, is_get, elsewhere) in cases {
            let attempt = judge(failure.clone(), is_get);
            assert_eq!(matches!(attempt, Attempt::Elsewhere(_)), elsewhere, "{failure:?}, get: {is_get}");
        }
    }

    #[tokio::test]
    async fn a_write_to_nobody_was_not_sent_and_says_so() {
        let epochs = Arc::new(EpochWatch::default());
        let config = ClientConfig { connect_timeout: Duration::from_millis(200), ..ClientConfig::new(Vec::new()) };
        // Port 0 accepts no connection anywhere.
        let link = Arc::new(Link::new("127.0.0.1:0", Mode::Stream, config.connect_timeout, Arc::clone(&epochs)).unwrap());
        let topology = ArcSwap::from_pointee(Topology { endpoints: vec![Arc::clone(&link)], ..Topology::default() });
        let shared = Shared { config, epochs, topology };
        let put = Operation::Put { data: Bytes::new(), context: Bytes::new(), create_only: false };
        let error = shared.perform(&Name::new("b", "k"), &put, &QuorumWish::default(), None).await.unwrap_err();
        assert!(matches!(error, RequestError::Unreachable(_)), "{error:?}");
        assert!(link.is_avoided());
    }
}
