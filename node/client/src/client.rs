//! Get, put, delete: straight to a replica that works, and an honest word when that fails (paper 4.1, 4.5, 6.4).
//!
//! A write with a context goes to the replica that the context names, which served what the writer read, so that a read there
//! meets the write (paper 5). Anything else, or if that one is suspected or failed lately, goes to the first replica in the
//! key's preference list that is neither. Deviation from the paper: with a client that goes straight to a replica, that
//! replica's own copy is always the fastest reply to a get, so the choice is of the client that read and not among N. On the next
//! node it is tried again only if that cannot do harm: it provably was not sent, or the answer says that nothing was written, or
//! it is a get or has a request id ([`crate::retry`]). A write without one that was sent and not answered is
//! [`RequestError::Lost`], and is the caller's to look into.
//!
//! One task per client keeps the topology current: when an answer carries a newer epoch, when a connection fails, and every ten
//! seconds otherwise. Another asks nodes that failed whether they are back. Both end with the last clone of the client.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use dynamo_core::config::{BUCKET_BYTES_MAX, CONTEXT_BYTES_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX};
use dynamo_core::id::{ClusterId, Epoch, NodeId, RequestKey};
use dynamo_core::name::Name;
use dynamo_core::request::{Evidence, Failure, Operation, QuorumWish, Request};
use dynamo_core::ring::Ring;
use dynamo_proto::v1;
use dynamo_proto::v1::session_response::Response;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::error::RequestError;
use crate::link::Link;
use crate::retry::{Attempt, Kind, Tries, fresh_request_id};
use crate::session::Reply;
use crate::silence::SILENCE_MIN;
use crate::topology::{ADDRESSES_MAX, EpochWatch, Member, Topology};

/// Nodes that one request is tried on. With three replicas that is all of them, a stand-in, and the endpoints.
const ATTEMPTS_MAX: usize = 8;
/// Before nodes that were tried are tried once more, for a write that may have been made and has an id.
const ROUND_PAUSE: Duration = Duration::from_millis(50);
/// The topology is asked for at least this often...
const TOPOLOGY_AGE_MAX: Duration = Duration::from_secs(10);
/// ... and at most this often, whatever goes wrong.
const TOPOLOGY_AGE_MIN: Duration = Duration::from_millis(200);
/// A request with a longer time-out than this has this one: any clock reaches its end.
pub(crate) const TIMEOUT_MAX: Duration = Duration::from_secs(31_536_000);
/// A node is told to answer this much before the caller's deadline, so that its own word arrives and not only silence. It looks at
/// its deadlines every 50 ms: of half a second or less its word may come too late.
const ANSWER_MARGIN_MAX: Duration = Duration::from_millis(100);

/// Bytes of the words of a failure; what is more is cut off.
const WORDS_BYTES_MAX: usize = 4096;
/// Nodes that an answer rests on. N is at most 255, and twice that while a partition moves.
const EVIDENCE_NODES_MAX: usize = 1024;

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

    /// Until a node that does not tell the topology counts as failed: it may have to be connected to first.
    fn topology_timeout(&self) -> Duration {
        self.connect_timeout.saturating_mul(2)
    }
}

/// What to ask of a get.
#[derive(Clone, Debug, Default)]
pub struct GetOptions {
    /// R, PR and N; what is absent is the bucket's setting.
    pub quorum: QuorumWish,
    /// Until it is given up; the client's setting if absent.
    pub timeout: Option<Duration>,
}

/// What to ask of a put.
#[derive(Clone, Debug, Default)]
pub struct PutOptions {
    /// W, DW, PW and N; what is absent is the bucket's setting.
    pub quorum: QuorumWish,
    /// The context of a get, whose versions the put replaces; empty for a blind put, which may make a sibling.
    pub context: Bytes,
    /// Refuse if a live version is known.
    pub create_only: bool,
    /// Names this write: it may then be sent again as often as it takes, by this client or its caller, and is one write. A new
    /// one for each write.
    pub request_id: Option<RequestKey>,
    /// Until it is given up; the client's setting if absent.
    pub timeout: Option<Duration>,
}

impl PutOptions {
    /// The same with a new request id, so that the client tries again what was not answered.
    pub fn retried(self) -> Self {
        Self { request_id: Some(fresh_request_id()), ..self }
    }
}

/// What to ask of a delete.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// W, DW, PW and N; what is absent is the bucket's setting.
    pub quorum: QuorumWish,
    /// Names this delete, as in [`PutOptions`].
    pub request_id: Option<RequestKey>,
    /// Until it is given up; the client's setting if absent.
    pub timeout: Option<Duration>,
}

impl DeleteOptions {
    /// The same with a new request id, so that the client tries again what was not answered.
    pub fn retried(self) -> Self {
        Self { request_id: Some(fresh_request_id()), ..self }
    }
}

/// One of the concurrent versions of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sibling {
    /// Its bytes.
    pub value: Bytes,
    /// The coordinator's stamp, milliseconds since 1970: its wall clock, or just above the stamps of what it knew.
    pub written_ms: u64,
}

/// What a get found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GetResult {
    /// None, and `evidence.hinted` is 0: the key does not exist, or was deleted, as surely as R + W > N tells. With `hinted` above 0 it may
    /// exist on a home replica that cannot be reached: get it again with `pr`, which only home replicas can answer. More than one: concurrent
    /// writes, for the application to merge.
    pub siblings: Vec<Sibling>,
    /// Covers all of `siblings`; hand it to the put or delete that replaces them.
    pub context: Bytes,
    /// What the answer rests on.
    pub evidence: Evidence,
}

/// A write that has its quorum.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PutResult {
    /// Covers the new version and all that it replaced. Empty if it met a version that its writer had not read: no context covers
    /// both, and the key has to be read before it is replaced.
    pub context: Bytes,
    /// What the answer rests on.
    pub evidence: Evidence,
    /// How often it was sent to a node that may have made it, the one that answered included. More than once only with a request id.
    pub sent: u32,
    /// The member that answered, by its address. Absent if an endpoint did: who is behind its address is not known.
    pub asked: Option<NodeId>,
}

/// A client of one cluster. Clones share connections and topology.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    /// Dropping them ends them.
    _tasks: Arc<JoinSet<()>>,
}

impl Client {
    /// Learns the ring from one of the endpoints. Tasks of the runtime in which this is awaited keep it current: the client works on in
    /// another one, and learns of no change once that has ended.
    ///
    /// # Errors
    /// [`RequestError::is_invalid`] if an endpoint is not host:port, [`RequestError::Unreachable`] if none answers within the request
    /// time-out.
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
        let mut learned = Err(format!("no answer in time from {}", shared.config.endpoints.join(", ")));
        // One that says nothing leaves time for the others.
        let share = shared.config.request_timeout / u32::try_from(shared.config.endpoints.len()).unwrap_or(u32::MAX);
        let limit = shared.config.topology_timeout().min(share.max(SILENCE_MIN));
        let attempts = async {
            for _ in 0..CONNECT_ATTEMPTS {
                learned = shared.refresh(limit).await;
                if learned.is_ok() {
                    break;
                }
            }
        };
        // Out of time, the last attempt's reason is what is told.
        let _in_time = timeout(shared.config.request_timeout, attempts).await;
        learned.map_err(RequestError::Unreachable)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(keep_current(Arc::clone(&shared)));
        tasks.spawn(keep_probing(Arc::clone(&shared)));
        Ok(Self { shared, _tasks: Arc::new(tasks) })
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

    /// The members' client addresses that were waited for in vain, if no member was ever reached at its own: what the client asks
    /// goes through the endpoints then, after that wait. Where it stays so, [`ClientConfig::direct`] is to be `false`.
    pub fn addresses_out_of_reach(&self) -> Vec<String> {
        let topology = self.shared.topology.load();
        let links = topology.members.values().map(|member| &member.link).filter(|link| link.was_missed());
        match topology.has_members_out_of_reach() {
            true => links.map(|link| link.address.clone()).collect(),
            false => Vec::new(),
        }
    }

    /// All concurrent versions of `name`, and the context that covers them. A key that does not exist is no error: it has none. Nor is one
    /// of which stand-ins knew nothing; [`GetResult::siblings`] says how to tell the two apart.
    ///
    /// # Errors
    /// [`RequestError::is_invalid`] if no node would take it, else none could answer in time: nothing is said of the key.
    pub async fn get(&self, name: &Name, options: &GetOptions) -> Result<GetResult, RequestError> {
        let request = request(name, Operation::Get, None, options.quorum);
        got(self.shared.perform(request, options.timeout).await?.response)
    }

    /// A new version of `name`.
    ///
    /// # Errors
    /// [`RequestError::is_unknown`] if it may have been made nevertheless; after any other error nothing was written. Out of time, a
    /// put that was sent is of unknown outcome.
    pub async fn put(&self, name: &Name, value: impl Into<Bytes>, options: &PutOptions) -> Result<PutResult, RequestError> {
        let PutOptions { quorum, context, create_only, request_id, timeout } = options;
        let operation = Operation::Put { data: value.into(), context: context.clone(), create_only: *create_only };
        self.write(request(name, operation, *request_id, *quorum), *timeout).await
    }

    /// A tombstone in place of what `context`, from a get of the same key, covers. Where the last writer wins it may be empty. If that get
    /// found nothing, there is nothing to delete: nothing is written, and the evidence names no node.
    ///
    /// # Errors
    /// As of [`Client::put`].
    pub async fn delete(&self, name: &Name, context: Bytes, options: &DeleteOptions) -> Result<PutResult, RequestError> {
        let DeleteOptions { quorum, request_id, timeout } = options;
        self.write(request(name, Operation::Delete { context }, *request_id, *quorum), *timeout).await
    }

    async fn write(&self, request: Request, timeout: Option<Duration>) -> Result<PutResult, RequestError> {
        written(self.shared.perform(request, timeout).await?)
    }
}

/// What a get was answered.
fn got(response: Response) -> Result<GetResult, RequestError> {
    match response {
        Response::Get(v1::GetResponse { siblings, context, evidence }) => {
            let evidence = evidence_in(evidence).map_err(RequestError::Protocol)?;
            Ok(GetResult { siblings: siblings.iter().map(sibling).collect(), context: apart(&context), evidence })
        }
        _ => Err(RequestError::Protocol("a get was answered as a put".to_owned())),
    }
}

/// What a write was answered.
fn written(Performed { response, open, asked }: Performed) -> Result<PutResult, RequestError> {
    match response {
        Response::Put(v1::PutResponse { context, evidence }) => {
            let evidence = evidence_in(evidence).map_err(RequestError::Lost)?;
            Ok(PutResult { context: apart(&context), evidence, sent: open + 1, asked })
        }
        _ => Err(RequestError::Lost("a write was answered as a get".to_owned())),
    }
}

/// Bytes in memory of their own. Applications keep values and contexts for long, and a part of a frame would keep the whole frame, with
/// what others were answered in it: up to [`dynamo_proto::MESSAGE_BYTES_MAX`].
fn apart(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn sibling(wire: &v1::Sibling) -> Sibling {
    Sibling { value: apart(&wire.value), written_ms: wire.written_ms }
}

/// A request whose time-out each attempt sets.
fn request(name: &Name, operation: Operation, request_key: Option<RequestKey>, quorum: QuorumWish) -> Request {
    Request { name: name.clone(), operation, request_key, quorum, timeout_ms: 0 }
}

#[derive(Debug)]
struct Shared {
    config: ClientConfig,
    epochs: Arc<EpochWatch>,
    topology: ArcSwap<Topology>,
}

/// A request that was answered.
#[derive(Debug)]
struct Performed {
    response: Response,
    /// How many tries before may have written.
    open: u32,
    /// Who answered.
    asked: Option<NodeId>,
}

impl Shared {
    async fn perform(&self, request: Request, timeout: Option<Duration>) -> Result<Performed, RequestError> {
        check_bounds(&request.name, &request.operation)?;
        let deadline = Instant::now() + timeout.unwrap_or(self.config.request_timeout).min(TIMEOUT_MAX);
        let mut tries = Tries::default();
        let mut tried = Vec::new();
        for _ in 0..ATTEMPTS_MAX {
            let mut next = self.topology.load().next_link(&request.name, &request.operation, &tried);
            if next.is_none() && tries.may_go_round() {
                // Nobody is left to ask. A load balancer's address may lead to another node now.
                tried.clear();
                self.topology.load().endpoints.iter().for_each(|endpoint| endpoint.leave());
                sleep(ROUND_PAUSE.min(deadline.saturating_duration_since(Instant::now()))).await;
                next = self.topology.load().next_link(&request.name, &request.operation, &tried);
            }
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                tries.failed(RequestError::Unreachable("its time-out was over before a node was asked".to_owned()));
                break;
            }
            let Some(link) = next else { break };
            tried.push(Arc::clone(&link));
            let others = self.topology.load().has_more_than(&tried);
            match attempt(&link, &request, others, remaining).await {
                Attempt::Answered(response) => {
                    return Ok(Performed { response, open: tries.open_count(), asked: link.node() });
                }
                Attempt::Final(error) => {
                    tries.failed(error);
                    break;
                }
                Attempt::Elsewhere(error) => tries.failed(error),
            }
            if link.is_avoided() {
                self.epochs.refresh();
            }
        }
        Err(tries.told())
    }

    /// Asks for the topology, one node after the other until one has the newest ring that was heard of. If none has, the newest that one
    /// has is gone by. If none has a ring, the cluster has none yet. Each is waited for as long as `limit`.
    async fn refresh(&self, limit: Duration) -> Result<(), String> {
        let current = self.topology.load_full();
        let wanted = self.epochs.newest().max(Epoch(1));
        let mut second_best: Option<v1::TopologyResponse> = None;
        let mut reasons = Vec::new();
        for link in current.links_from(rand::random::<u16>().into()) {
            let reason = match link.topology(self.epochs.held().0, limit).await {
                Ok(answer) if Epoch(answer.epoch) < wanted => {
                    let epoch = answer.epoch;
                    if second_best.as_ref().is_none_or(|best| best.epoch < epoch) {
                        second_best = Some(answer);
                    }
                    if epoch == 0 { "it has no ring".to_owned() } else { format!("it has ring {epoch}, and not {wanted}") }
                }
                Ok(answer) => match self.adopt(&current, answer) {
                    Ok(()) => return Ok(()),
                    Err(reason) => reason,
                },
                Err(reason) => reason,
            };
            reasons.push(format!("{}: {reason}", link.address));
        }
        match second_best.filter(|answer| Epoch(answer.epoch) >= self.epochs.held()) {
            Some(answer) => self.adopt(&current, answer),
            None => Err(reasons.join("; ")),
        }
    }

    /// Goes by `answer` from now on.
    fn adopt(&self, current: &Topology, answer: v1::TopologyResponse) -> Result<(), String> {
        let ring = match answer.ring.is_empty() {
            true => current.ring.clone(),
            false => Some(Arc::new(Ring::decode(answer.ring).map_err(|error| format!("ring: {error}"))?)),
        };
        // The word of a node of another cluster has not come so far. One without a ring has a cluster nevertheless.
        if let Some(cluster) = ClusterId::from_slice(&answer.cluster) {
            self.epochs.is_of(cluster);
        }
        if let Some(ring) = &ring {
            self.epochs.check_cluster(ring.cluster)?;
        }
        let mut told = Vec::new();
        for v1::MemberAddress { node, client_address, suspected } in answer.members {
            let node = NodeId::from_slice(&node).ok_or("members.node: is not 16 bytes")?;
            if self.config.direct && !client_address.is_empty() {
                told.push((node, client_address, suspected));
            }
        }
        if told.len() > ADDRESSES_MAX {
            told.sort_by_key(|(node, ..)| !ring.as_ref().is_some_and(|ring| ring.members.contains_key(node)));
            told.truncate(ADDRESSES_MAX);
        }
        let mut members = BTreeMap::new();
        for (node, address, suspected) in told {
            // One node that gives an address that is none takes no other away.
            match self.link_to(current, node, &address) {
                Ok(link) => drop(members.insert(node, Member { link, suspected })),
                Err(reason) => tracing::debug!(%node, %reason, "a member cannot be reached"),
            }
        }
        if let Some(ring) = &ring {
            members = current.members_by(ring, members);
            self.epochs.holds(ring);
        }
        self.topology.store(Arc::new(Topology { ring, members, endpoints: current.endpoints.clone() }));
        Ok(())
    }

    /// The link to a member that is known under this address, with its connection, or a new one.
    fn link_to(&self, current: &Topology, node: NodeId, address: &str) -> Result<Arc<Link>, String> {
        let known = current.members.get(&node).filter(|member| member.link.address == address);
        if let Some(member) = known {
            return Ok(Arc::clone(&member.link));
        }
        let link = Link::new(address, self.config.mode, self.config.connect_timeout, Arc::clone(&self.epochs))?;
        Ok(Arc::new(link.to(node)))
    }
}

async fn keep_current(shared: Arc<Shared>) {
    loop {
        sleep(TOPOLOGY_AGE_MIN).await;
        // Whichever comes first: word of a change, or the age.
        let _ = timeout(TOPOLOGY_AGE_MAX, shared.epochs.stale()).await;
        if let Err(reason) = shared.refresh(shared.config.topology_timeout()).await {
            tracing::debug!(%reason, "the topology could not be refreshed");
        }
    }
}

/// Finds out which of the nodes that failed are back.
async fn keep_probing(shared: Arc<Shared>) {
    let mut probes = JoinSet::new();
    loop {
        sleep(TOPOLOGY_AGE_MIN).await;
        // One round at a time: a node that hangs is not asked again before it had its time.
        let epoch = shared.epochs.held().0;
        let links = shared.topology.load().links_from(0).into_iter().filter(|link| link.is_to_be_probed());
        links.for_each(|link| drop(probes.spawn(async move { link.probe(epoch).await })));
        while probes.join_next().await.is_some() {}
    }
}

/// One try on one node; if there are `others`, what may be repeated does not wait for a node that is silent.
async fn attempt(link: &Link, request: &Request, others: bool, remaining: Duration) -> Attempt {
    let kind = Kind::of(request);
    let patience = kind.patience(remaining);
    let margin = (patience / 10).min(ANSWER_MARGIN_MAX);
    let timeout_ms = u32::try_from((patience - margin).as_millis()).unwrap_or(u32::MAX).max(1);
    let request = Request { timeout_ms, ..request.clone() };
    match link.call(request.into(), kind.on_silence(others), patience).await {
        Reply::Answer(Response::Failure(failure)) => kind.judge(failure_in(failure)),
        Reply::Answer(response) => Attempt::Answered(response),
        Reply::NotSent(reason) => Attempt::Elsewhere(RequestError::Unreachable(reason)),
        Reply::Lost(reason) => kind.lost(reason),
    }
}

fn invalid(reason: String) -> RequestError {
    RequestError::Failed(Failure::Invalid(reason))
}

/// What a node said, in words that can be kept and logged.
fn failure_in(mut wire: v1::Failure) -> Failure {
    if wire.message.len() > WORDS_BYTES_MAX {
        wire.message.truncate(wire.message.floor_char_boundary(WORDS_BYTES_MAX));
        wire.message.shrink_to_fit();
    }
    wire.into()
}

fn evidence_in(wire: Option<v1::Evidence>) -> Result<Evidence, String> {
    let wire = wire.ok_or("evidence: is missing")?;
    if wire.nodes.len() > EVIDENCE_NODES_MAX {
        return Err(format!("evidence.nodes: {}, at most {EVIDENCE_NODES_MAX}", wire.nodes.len()));
    }
    wire.try_into().map_err(|error: dynamo_proto::WireError| error.to_string())
}

/// Refuses what no node would take, before it spoils the stream that others share.
fn check_bounds(name: &Name, operation: &Operation) -> Result<(), RequestError> {
    let (value, context) = match operation {
        Operation::Get => (0, 0),
        Operation::Put { data, context, .. } => (data.len(), context.len()),
        Operation::Delete { context } => (0, context.len()),
    };
    let fields = [
        ("bucket", name.bucket.len(), BUCKET_BYTES_MAX, "choose a shorter name"),
        ("key", name.key.len(), KEY_BYTES_MAX, "hash it, or move its tail to the value"),
        ("value", value, VALUE_BYTES_MAX, "split it over several keys"),
        ("context", context, CONTEXT_BYTES_MAX, "use what a get of this key returned"),
    ];
    match fields.iter().find(|(_, size, most, _)| size > most) {
        Some((field, size, most, way_out)) => Err(invalid(format!("{field}: {size} bytes, at most {most}; {way_out}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_core::ring::{Member as RingMember, Placement, RingHash};
    use dynamo_fuzz::{Expect, Fuzz, unsealed};
    use prost::Message;

    #[test]
    fn what_is_too_large_is_refused_by_name_before_it_is_sent() {
        let put =
            |size, context| Operation::Put { data: vec![0; size].into(), context: vec![0; context].into(), create_only: false };
        let cases = [
            ("bucket: 256 bytes, at most 255; choose", Name::new(vec![0; BUCKET_BYTES_MAX + 1], "k"), Operation::Get),
            ("key: 1025 bytes, at most 1024; hash it", Name::new("b", vec![0; KEY_BYTES_MAX + 1]), Operation::Get),
            ("value: 1048577 bytes, at most 1048576; split", Name::new("b", "k"), put(VALUE_BYTES_MAX + 1, 0)),
            ("context: 262145 bytes, at most 262144; use", Name::new("b", "k"), put(0, CONTEXT_BYTES_MAX + 1)),
        ];
        for (field, name, operation) in cases {
            let error = check_bounds(&name, &operation).unwrap_err();
            assert!(error.to_string().starts_with(field) && error.kind() == "invalid", "{error}");
        }
        assert_eq!(check_bounds(&Name::new("b", "k"), &put(VALUE_BYTES_MAX, CONTEXT_BYTES_MAX)), Ok(()));
    }

    fn shared(endpoint: &str) -> Shared {
        let epochs = Arc::new(EpochWatch::default());
        let config = ClientConfig { connect_timeout: Duration::from_millis(200), ..ClientConfig::new(Vec::new()) };
        let link = Arc::new(Link::new(endpoint, Mode::Stream, config.connect_timeout, Arc::clone(&epochs)).unwrap());
        let topology = ArcSwap::from_pointee(Topology { endpoints: vec![link], ..Topology::default() });
        Shared { config, epochs, topology }
    }

    #[test]
    fn what_an_application_keeps_keeps_no_frame() {
        let frame = Bytes::from(vec![7; 1000]);
        let (wire, context) = (v1::Sibling { value: frame.slice(..10), written_ms: 1 }, frame.slice(10..20));
        let kept = (sibling(&wire), apart(&context));
        drop((wire, context));
        assert!(frame.is_unique());
        assert_eq!((&kept.0.value[..], &kept.1[..]), (&[7; 10][..], &[7; 10][..]));
    }

    #[test]
    fn of_words_and_nodes_without_end_a_part_is_kept_or_none() {
        let words = |count| failure_in(Failure::NotServing("é".repeat(count)).into());
        assert_eq!(words(10), Failure::NotServing("é".repeat(10)));
        let Failure::Invalid(kept) = failure_in(Failure::Invalid(format!("a{}", "é".repeat(1 << 20))).into()) else { panic!() };
        assert!(kept.len() == WORDS_BYTES_MAX - 1 && kept.capacity() < 2 * WORDS_BYTES_MAX, "{}", kept.len());
        let nodes = |count: usize| (0..count).map(|node| Bytes::copy_from_slice(&(node as u128).to_be_bytes())).collect();
        let evidence = |count| evidence_in(Some(v1::Evidence { nodes: nodes(count), ..Default::default() }));
        assert_eq!(evidence(EVIDENCE_NODES_MAX).unwrap().nodes.len(), EVIDENCE_NODES_MAX);
        assert_eq!(evidence(EVIDENCE_NODES_MAX + 1), Err("evidence.nodes: 1025, at most 1024".to_owned()));
    }

    #[test]
    fn a_node_can_tell_of_so_many_addresses_and_of_one_that_is_none_in_vain() {
        let shared = shared("node:1");
        let member = |node: usize| v1::MemberAddress {
            node: Bytes::copy_from_slice(&(node as u128).to_be_bytes()),
            client_address: format!("node-{node}:1"),
            suspected: false,
        };
        let adopt = |members| {
            let answer = v1::TopologyResponse { members, ..Default::default() };
            shared.adopt(&shared.topology.load_full(), answer).map(|()| shared.topology.load().members.len())
        };
        assert_eq!(adopt((0..ADDRESSES_MAX + 10).map(member).collect()), Ok(ADDRESSES_MAX));
        let long = "a".repeat(100_000);
        for address in ["http://node:1", "node", "no de:1", &format!("{long}:1")] {
            let none = v1::MemberAddress { client_address: address.to_owned(), ..member(1) };
            assert_eq!(adopt(vec![none, member(2)]), Ok(1), "{}", &address[..address.len().min(20)]);
        }
    }

    #[tokio::test]
    async fn a_request_without_time_says_that_and_not_that_nobody_is_known() {
        let (shared, name) = (shared("127.0.0.1:0"), Name::new("b", "k"));
        let get = || request(&name, Operation::Get, None, QuorumWish::default());
        let error = shared.perform(get(), Some(Duration::ZERO)).await.unwrap_err();
        assert!(matches!(&error, RequestError::Unreachable(reason) if reason.contains("its time-out was over")), "{error:?}");
        // With a node that was tried, that is told.
        let error = shared.perform(get(), Some(Duration::from_millis(20))).await.unwrap_err();
        assert!(matches!(&error, RequestError::Unreachable(reason) if reason.starts_with("127.0.0.1:0: ")), "{error:?}");
    }

    /// A million of them are a million times this, and a task copies it when it is spawned.
    #[test]
    fn a_request_that_is_under_way_takes_less_than_two_kilobytes() {
        let (shared, name) = (shared("127.0.0.1:0"), Name::new("b", "k"));
        let put = Operation::Put { data: Bytes::new(), context: Bytes::new(), create_only: false };
        let size = size_of_val(&shared.perform(request(&name, put, None, QuorumWish::default()), None));
        assert!(size < 2_000, "{size} bytes");
    }

    #[tokio::test]
    async fn a_write_to_nobody_was_not_sent_and_says_so() {
        // Port 0 accepts no connection anywhere.
        let shared = shared("127.0.0.1:0");
        let put = Operation::Put { data: Bytes::new(), context: Bytes::new(), create_only: false };
        let request = request(&Name::new("b", "k"), put, None, QuorumWish::default());
        for timeout in [None, Some(Duration::MAX)] {
            let error = shared.perform(request.clone(), timeout).await.unwrap_err();
            assert!(matches!(error, RequestError::Unreachable(_)), "{error:?}");
        }
        assert!(shared.topology.load().endpoints[0].is_avoided());
    }

    const CLUSTER: ClusterId = ClusterId([7; 16]);

    /// What a client makes of a node's answer, as a node would have told it.
    fn told_again(response: Response) -> Option<Response> {
        match response {
            Response::Failure(failure) => Some(Response::Failure(failure_in(failure).into())),
            Response::Get(_) => {
                let GetResult { siblings, context, evidence } = got(response).ok()?;
                let wire = |Sibling { value, written_ms }| v1::Sibling { value, written_ms };
                let siblings = siblings.into_iter().map(wire).collect();
                Some(Response::Get(v1::GetResponse { siblings, context, evidence: Some(evidence.into()) }))
            }
            Response::Put(_) => {
                let PutResult { context, evidence, .. } = written(Performed { response, open: 0, asked: None }).ok()?;
                Some(Response::Put(v1::PutResponse { context, evidence: Some(evidence.into()) }))
            }
        }
    }

    #[test]
    fn spoilt_answers_are_answers_or_refused() {
        let evidence = || Some(Evidence { epoch: Epoch(3), nodes: vec![NodeId([1; 16]); 2], durable: 1, hinted: 1 }.into());
        let value = |value: &'static str, written_ms| v1::Sibling { value: value.into(), written_ms };
        let siblings = vec![value("milk", 1_700_000_000_000), value("", 0)];
        let failures = [Failure::NoRing, Failure::Unknown { acknowledged: 1, required: 2 }, Failure::Overloaded("full".into())];
        let answers = [
            Response::Get(v1::GetResponse { siblings, context: "context".into(), evidence: evidence() }),
            Response::Put(v1::PutResponse { context: "context".into(), evidence: evidence() }),
        ];
        let answers = answers.into_iter().chain(failures.map(|failure| Response::Failure(failure.into())));
        let responses: Vec<_> =
            answers.zip(1..).map(|(response, id)| v1::SessionResponse { id, response: Some(response) }).collect();
        Fuzz {
            name: "answers of a node",
            corpus: vec![v1::SessionResponses { responses, epoch: 3 }.encode_to_vec()],
            seal: &unsealed,
            expect: Expect::Stable,
            decode: &|bytes| {
                let v1::SessionResponses { responses, epoch } = v1::SessionResponses::decode(bytes).ok()?;
                let again = |v1::SessionResponse { id, response }| {
                    Some(v1::SessionResponse { id, response: Some(told_again(response?)?) })
                };
                let responses = responses.into_iter().map(again).collect::<Option<Vec<_>>>()?;
                Some(v1::SessionResponses { responses, epoch }.encode_to_vec())
            },
        }
        .run();
    }

    /// Of two members, or of none that is known, with a ring and without.
    fn topologies() -> Vec<v1::TopologyResponse> {
        let nodes = [NodeId([1; 16]), NodeId([2; 16])];
        let ring = Ring {
            cluster: CLUSTER,
            epoch: Epoch(1),
            parent: RingHash::default(),
            partition_bits: 0,
            replication: 2,
            members: nodes.map(|node| (node, RingMember { zone: "z".to_owned(), weight: 1 })).into(),
            buckets: Default::default(),
            lost: Default::default(),
            operation: None,
            placements: vec![Placement { replicas: nodes.into(), moving: None }],
        };
        let member = |node: NodeId| v1::MemberAddress {
            node: Bytes::copy_from_slice(&node.0),
            client_address: format!("node-{}:7400", node.0[0]),
            suspected: node.0[0] == 2,
        };
        let members: Vec<_> = nodes.into_iter().map(member).collect();
        let cluster = Bytes::copy_from_slice(&CLUSTER.0);
        let whole = v1::TopologyResponse { ring: ring.encode(), epoch: 1, members, cluster };
        let without_ring = v1::TopologyResponse { ring: Bytes::new(), epoch: 0, ..whole.clone() };
        vec![v1::TopologyResponse { members: Vec::new(), ..whole.clone() }, without_ring, whole]
    }

    #[test]
    fn spoilt_topologies_are_gone_by_or_refused() {
        Fuzz {
            name: "topology",
            corpus: topologies().iter().map(v1::TopologyResponse::encode_to_vec).collect(),
            seal: &unsealed,
            expect: Expect::Stable,
            decode: &|bytes| {
                let shared = shared("node:1");
                let current = shared.topology.load_full();
                shared.adopt(&current, v1::TopologyResponse::decode(bytes).ok()?).ok()?;
                let topology = shared.topology.load();
                let member = |(node, member): (&NodeId, &Member)| v1::MemberAddress {
                    node: Bytes::copy_from_slice(&node.0),
                    client_address: member.link.address.clone(),
                    suspected: member.suspected,
                };
                let ring = topology.ring.as_ref();
                let answer = v1::TopologyResponse {
                    ring: ring.map(|ring| ring.encode()).unwrap_or_default(),
                    epoch: ring.map_or(0, |ring| ring.epoch.0),
                    members: topology.members.iter().map(member).collect(),
                    cluster: shared.epochs.cluster().map(|cluster| Bytes::copy_from_slice(&cluster.0)).unwrap_or_default(),
                };
                Some(answer.encode_to_vec())
            },
        }
        .run();
    }
}
