//! Links to peers: one long-lived outgoing stream for each, on which every message rides.
//!
//! ```text
//! dial ──connect, Hello──> their Hello: right cluster? not myself? ──> Link up ──stream or queue ends──> Link down ──wait──> dial
//! ```
//!
//! Every address of a seed or of a node that gossip told of is dialled for as long as it is known, with growing, jittered waits; a seed's
//! name may stand for many nodes, and each of them is.
//! Two addresses may lead to one node; the link by the address that the node itself tells is the one that stays.
//!
//! A queue without room takes no more requests, and no long answers: the node hears that the peer was not asked, and the peer that it is
//! not answered. What cannot be refused has a reserve. If that is used up too, the link ends, and the next one comes soon: a peer that
//! cannot keep up is better served by anti-entropy than by a backlog.

mod dial;
mod queue;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, PoisonError};

use dynamo_core::id::{ClusterId, Epoch, NodeId, RequestId};
use dynamo_core::message::{Message, Refusal};
use dynamo_core::request::{Failure, Success};
use dynamo_core::ring::Ring;
use dynamo_core::version::Digest;
use dynamo_proto::kv::CLUSTER_METADATA;
use dynamo_proto::v1::peer_message::Kind;
use dynamo_proto::{MESSAGE_BYTES_MAX, WireError, v1};
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;
use tonic::metadata::MetadataMap;
use tracing::warn;

use crate::driver::Inbox;
use crate::figure::Figure;
use crate::refusals::repeated;
use queue::QueueSender;

/// The version of the messages between nodes.
pub const PROTOCOL: u32 = 1;

/// Who this node is, in a handshake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Own {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its id.
    pub node: NodeId,
    /// host:port of its peer service.
    pub peer_address: String,
    /// host:port of its client service.
    pub client_address: String,
}

impl Own {
    /// The first frame of every stream between nodes.
    pub fn hello(&self) -> v1::PeerFrame {
        let hello = v1::Hello {
            cluster: bytes::Bytes::copy_from_slice(&self.cluster.0),
            node: bytes::Bytes::copy_from_slice(&self.node.0),
            peer_address: self.peer_address.clone(),
            client_address: self.client_address.clone(),
            protocol: PROTOCOL,
        };
        v1::PeerFrame { hello: Some(hello), messages: Vec::new() }
    }
}

/// Whether a dialler is of this node's cluster, by its call's metadata: what a stranger sends is not read, let alone decoded.
pub fn admit(own: &Own, metadata: &MetadataMap) -> Result<(), WireError> {
    let ours = own.cluster.to_string();
    let reason = match metadata.get(CLUSTER_METADATA) {
        Some(theirs) if theirs.as_bytes() == ours.as_bytes() => return Ok(()),
        Some(theirs) => of_another(repeated(theirs.as_bytes()), own.cluster),
        None => format!("not in the call's metadata; only nodes of cluster {ours} link to this one"),
    };
    Err(WireError::new(CLUSTER_METADATA, reason))
}

fn of_another(theirs: impl fmt::Display, ours: ClusterId) -> String {
    format!("it belongs to cluster {theirs}, this node to {ours}; correct cluster_id or seeds")
}

/// Who is at the other end, or why it may not be there.
pub fn greet(own: &Own, frame: Option<v1::PeerFrame>) -> Result<(NodeId, v1::Hello), WireError> {
    let hello = frame.and_then(|frame| frame.hello);
    let hello = hello.ok_or_else(|| WireError::new("hello", "the first frame carries no hello"))?;
    let cluster = ClusterId::from_slice(&hello.cluster);
    let cluster = cluster.ok_or_else(|| WireError::new("hello.cluster", "not a cluster's id of 16 bytes"))?;
    if cluster != own.cluster {
        return Err(WireError::new("hello.cluster", of_another(cluster, own.cluster)));
    }
    if hello.protocol != PROTOCOL {
        let reason = format!("it speaks version {}, this node version {PROTOCOL}", hello.protocol);
        return Err(WireError::new("hello.protocol", reason));
    }
    let node = NodeId::from_slice(&hello.node);
    let node = node.ok_or_else(|| WireError::new("hello.node", "not a node's id of 16 bytes"))?;
    Ok((node, hello))
}

/// A working outgoing stream.
pub struct Link {
    /// To whom.
    pub node: NodeId,
    /// Where that node says it is.
    pub peer_address: String,
    /// Where clients find it.
    pub client_address: String,
    /// Where it was dialled.
    dialled: String,
    /// Distinguishes the links to one node.
    serial: u64,
    queue: QueueSender,
    /// The dialling task ends the connection when this is dropped, and dials again at once if it is told so before.
    held: oneshot::Sender<()>,
}

/// What the dialling tasks and the peer service tell the loop.
pub enum LinkEvent {
    /// A link works.
    Up(Link),
    /// A link ended.
    Down {
        /// To whom.
        node: NodeId,
        /// Which.
        serial: u64,
        /// Why.
        reason: String,
    },
    /// A peer dialled this node, so it is there: dial it without waiting.
    Greeted {
        /// Which.
        node: NodeId,
        /// Where it says it is.
        peer_address: String,
    },
}

struct Dial {
    task: AbortHandle,
    now: Arc<Notify>,
}

impl Drop for Dial {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What becomes of a message that can be refused, where there is no room for it. Made for each message, so it is small.
enum WithoutRoom {
    /// The node hears that the peer was not asked.
    Unasked(RequestId),
    /// The peer hears that it gets no copy.
    NotFetched(RequestId),
    /// The peer hears that the get that it forwarded has no answer.
    NotGot(RequestId),
}

impl WithoutRoom {
    fn of(message: &Message) -> Option<Self> {
        match message {
            Message::Replicate { request, .. } | Message::Forward { request, .. } => Some(Self::Unasked(*request)),
            // That there is nothing takes little room, also with what was reaped.
            Message::Fetched { request, digest, object: Some(_) } if *digest != Digest::default() => {
                Some(Self::NotFetched(*request))
            }
            Message::Forwarded { request, outcome: Ok(Success::Got { .. }) } => Some(Self::NotGot(*request)),
            _ => None,
        }
    }
}

/// The last ring that was sent, with its bytes: one goes to many peers, and to encode it takes milliseconds.
#[derive(Default)]
struct LastRing(Option<(Arc<Ring>, bytes::Bytes)>);

impl LastRing {
    fn encoded(&mut self, ring: Arc<Ring>) -> bytes::Bytes {
        let known = self.0.as_ref().filter(|(last, _)| Arc::ptr_eq(last, &ring));
        if let Some((_, bytes)) = known {
            return bytes.clone();
        }
        let bytes = ring.encode();
        self.0 = Some((ring, bytes.clone()));
        bytes
    }

    /// The message as it goes over a link.
    fn wire(&mut self, message: Message) -> v1::PeerMessage {
        match message {
            Message::RingUpdate { ring } => {
                let kind = Kind::RingUpdate(v1::RingUpdate { ring: self.encoded(ring) });
                v1::PeerMessage { kind: Some(kind) }
            }
            message => message.into(),
        }
    }
}

/// All links, and the tasks that dial.
pub struct Peers {
    own: Arc<Own>,
    seeds: Vec<String>,
    inbox: Inbox,
    dials: BTreeMap<String, Dial>,
    /// The addresses of `dials`, for the dialling tasks.
    known: dial::Known,
    links: HashMap<NodeId, Link>,
    last_ring: LastRing,
    given_up: Vec<NodeId>,
    not_asked: Vec<(NodeId, RequestId)>,
    links_overflowed: u64,
    messages_without_room: u64,
    messages_without_link: u64,
    messages_too_long: u64,
}

impl Peers {
    /// No links yet; [`Peers::dial`] begins.
    pub fn new(own: Own, seeds: Vec<String>, inbox: Inbox) -> Self {
        Self {
            own: Arc::new(own),
            seeds,
            inbox,
            dials: BTreeMap::new(),
            known: dial::Known::default(),
            links: HashMap::new(),
            last_ring: LastRing::default(),
            given_up: Vec::new(),
            not_asked: Vec::new(),
            links_overflowed: 0,
            messages_without_room: 0,
            messages_without_link: 0,
            messages_too_long: 0,
        }
    }

    /// Dials the seeds and `addresses`, and stops dialling all others.
    pub fn dial(&mut self, addresses: impl Iterator<Item = String>) {
        let wanted: BTreeSet<String> = self
            .seeds
            .iter()
            .cloned()
            .chain(addresses)
            .filter(|address| !address.is_empty() && *address != self.own.peer_address)
            .collect();
        let forgotten = self.dials.keys().filter(|address| !wanted.contains(*address)).cloned().collect::<Vec<_>>();
        for address in forgotten {
            self.dials.remove(&address);
            let lost: Vec<NodeId> = self.links.values().filter(|link| link.dialled == address).map(|link| link.node).collect();
            for node in lost {
                self.links.remove(&node);
                self.given_up.push(node);
            }
        }
        for address in wanted {
            if !self.dials.contains_key(&address) {
                let now = Arc::new(Notify::new());
                let (own, known) = (Arc::clone(&self.own), Arc::clone(&self.known));
                let dialling = dial::run(address.clone(), own, known, self.inbox.clone(), Arc::clone(&now));
                let task = tokio::spawn(dialling).abort_handle();
                self.dials.insert(address, Dial { task, now });
            }
        }
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = self.dials.keys().cloned().collect();
    }

    /// A link works. False if there is a better one, which is then the one that stays, or as good a one: a name that has addresses of both
    /// kinds leads to its node twice. False too if its address was given up meanwhile: its task has ended, and nobody would say that the
    /// link is down. Nor would anybody of one whose task has ended without a word: it is not taken, and one that was taken goes.
    pub fn up(&mut self, link: Link) -> bool {
        if link.held.is_closed() || !self.dials.contains_key(&link.dialled) {
            return false;
        }
        let told = link.dialled == link.peer_address;
        let stays = |present: &Link| (!told || present.dialled == link.dialled) && !present.held.is_closed();
        if self.links.get(&link.node).is_some_and(stays) {
            return false;
        }
        self.links.insert(link.node, link);
        true
    }

    /// A link ended. False if it had been replaced.
    pub fn down(&mut self, node: NodeId, serial: u64) -> bool {
        if self.links.get(&node).is_none_or(|link| link.serial != serial) {
            return false;
        }
        self.links.remove(&node);
        true
    }

    /// A peer dialled this node, or spoke to it: if it is waited for, wait no longer.
    pub fn is_there(&mut self, node: NodeId, peer_address: &str) {
        if !self.links.contains_key(&node)
            && let Some(dial) = self.dials.get(peer_address)
        {
            dial.now.notify_one();
        }
    }

    /// Puts a message into the peer's queue; without a link it is dropped, which the protocol copes with. Where there is no room, what
    /// can be refused is.
    pub fn send(&mut self, to: NodeId, message: Message) {
        let Some(link) = self.links.get(&to) else {
            self.messages_without_link += 1;
            return;
        };
        let without_room = WithoutRoom::of(&message);
        match (link.queue.push(self.last_ring.wire(message), without_room.is_some()), without_room) {
            (Err(queue::Full::Queue), Some(without_room)) => {
                self.messages_without_room += 1;
                let instead = match without_room {
                    WithoutRoom::Unasked(request) => return self.not_asked.push((to, request)),
                    // Who is told that there is too much to do does not look at the epoch.
                    WithoutRoom::NotFetched(request) => {
                        Message::Refused { request, reason: Refusal::Overloaded, epoch: Epoch::default() }
                    }
                    WithoutRoom::NotGot(request) => {
                        let full = "too much waits on the link from the node that has the answer; retry later";
                        Message::Forwarded { request, outcome: Err(Failure::Overloaded(full.to_owned())) }
                    }
                };
                self.queue(to, instead.into());
            }
            (queued, _) => self.queued(to, queued),
        }
    }

    fn queue(&mut self, to: NodeId, message: v1::PeerMessage) {
        let queued = self.links.get(&to).map_or(Ok(()), |link| link.queue.push(message, false));
        self.queued(to, queued);
    }

    /// What comes of a message that was queued, or could not be.
    fn queued(&mut self, to: NodeId, queued: Result<(), queue::Full>) {
        match queued {
            Ok(()) => {}
            Err(queue::Full::Message { bytes }) => {
                self.messages_too_long += 1;
                warn!(peer = %to, bytes, "a message is longer than {MESSAGE_BYTES_MAX} bytes and was dropped");
            }
            Err(queue::Full::Queue) => {
                warn!(peer = %to, "the queue is full: the link is dropped and dialled again");
                self.links_overflowed += 1;
                if let Some(link) = self.links.remove(&to) {
                    // A link that has ended by itself is dialled again too.
                    let _ = link.held.send(());
                }
                self.given_up.push(to);
            }
        }
    }

    /// Peers whose link was given up here; the node is to be told.
    pub fn take_given_up(&mut self) -> Vec<NodeId> {
        std::mem::take(&mut self.given_up)
    }

    /// Peers that were not asked for want of room, and this node's numbers of the requests; the node is to be told.
    pub fn take_not_asked(&mut self) -> Vec<(NodeId, RequestId)> {
        std::mem::take(&mut self.not_asked)
    }

    /// Whether there is a link to `node`.
    pub fn is_linked(&self, node: NodeId) -> bool {
        self.links.contains_key(&node)
    }

    /// For metrics.
    pub fn figures(&self) -> [Figure; 7] {
        let queued = self.links.values().map(|link| link.queue.load());
        let (messages, bytes) = queued.fold((0, 0), |sum, load| (sum.0 + load.0 as u64, sum.1 + load.1 as u64));
        [
            Figure::varying("links", "Links to peers", self.links.len() as u64),
            Figure::growing("links_overflowed", "Links given up because their queue was full", self.links_overflowed),
            Figure::growing(
                "messages_without_room",
                "Requests and answers to peers refused because their link's queue was full",
                self.messages_without_room,
            ),
            Figure::varying("link_queue_messages", "Messages that wait for their link", messages),
            Figure::varying("link_queue_bytes", "Bytes that wait for their link", bytes),
            Figure::growing("messages_without_link", "Messages dropped because there was no link", self.messages_without_link),
            Figure::growing("messages_too_long", "Messages dropped because they were too long", self.messages_too_long),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use dynamo_core::id::{Incarnation, PartitionId};
    use dynamo_core::name::Name;
    use dynamo_core::request::Evidence;
    use dynamo_core::version::{Actor, CausalContext, Digest, Dot, Object, Value};
    use futures::{FutureExt as _, StreamExt as _};

    const PEER: NodeId = NodeId([2; 16]);

    /// A node with a link to a peer, and what would go over it.
    fn linked() -> (Peers, queue::Frames) {
        let address = "peer:1".to_owned();
        let own = Own {
            cluster: ClusterId([7; 16]),
            node: NodeId([1; 16]),
            peer_address: String::new(),
            client_address: String::new(),
        };
        let (queue, frames) = queue::new(own.hello());
        let mut peers = Peers::new(own, Vec::new(), Inbox::of(u64::MAX).0);
        let (peer_address, client_address, dialled) = (address.clone(), String::new(), address);
        let held = oneshot::channel().0;
        peers.links.insert(PEER, Link { node: PEER, peer_address, client_address, dialled, serial: 1, queue, held });
        (peers, frames)
    }

    /// With a value of a megabyte.
    fn object() -> Object {
        let mut object = Object::default();
        let actor = Actor { node: NodeId([1; 16]), incarnation: Incarnation(1) };
        let value = Value { data: Some(vec![7; 1 << 20].into()), written_ms: 0 };
        object.update(&CausalContext::default(), Dot { actor, counter: 1 }, value);
        object
    }

    fn replicate(number: u64) -> Message {
        let (request, epoch, name) = (RequestId(number), Epoch(1), Name::new("b", "k"));
        Message::Replicate { request, epoch, name, object: object(), hint_for: None, synced: true }
    }

    #[test]
    fn more_than_a_link_has_room_for_is_refused_and_the_link_stays() {
        let (mut peers, mut frames) = linked();
        let sent = (1..).find(|number| {
            peers.send(PEER, replicate(*number));
            !peers.not_asked.is_empty()
        });
        let sent = sent.unwrap();
        assert_eq!(peers.take_not_asked(), [(PEER, RequestId(sent))]);
        let evidence = Evidence { epoch: Epoch(1), nodes: Vec::new(), durable: 0, hinted: 0 };
        let outcome = Ok(Success::Got { object: object(), context: Bytes::new(), evidence });
        peers.send(PEER, Message::Fetched { request: RequestId(1001), digest: object().digest(), object: Some(object()) });
        peers.send(PEER, Message::Forwarded { request: RequestId(1002), outcome });
        // What was done is said.
        peers.send(PEER, Message::Replicated { request: RequestId(1003), durable: true });
        // So is that there is nothing, with what was reaped.
        let superseded = Object::superseded(&object().context());
        peers.send(PEER, Message::Fetched { request: RequestId(1004), digest: Digest::default(), object: Some(superseded) });
        assert_eq!((peers.links_overflowed, peers.messages_without_room, peers.is_linked(PEER)), (0, 3, true));
        let frames = std::iter::from_fn(|| frames.next().now_or_never().flatten());
        let came: Vec<Message> = frames.flat_map(|frame| frame.messages).map(|message| message.try_into().unwrap()).collect();
        let last = &came[came.len() - 4..];
        assert_eq!(came.len() as u64, sent - 1 + 4);
        assert!(matches!(&last[0], Message::Refused { request: RequestId(1001), reason: Refusal::Overloaded, .. }), "{last:?}");
        let refused = matches!(&last[1], Message::Forwarded { request: RequestId(1002), outcome: Err(Failure::Overloaded(_)) });
        assert!(refused, "{last:?}");
        assert!(matches!(&last[2], Message::Replicated { request: RequestId(1003), durable: true }), "{last:?}");
        assert!(matches!(&last[3], Message::Fetched { request: RequestId(1004), object: Some(_), .. }), "{last:?}");
    }

    #[test]
    fn of_two_links_by_the_address_that_a_node_tells_the_first_stays_as_long_as_somebody_has_it() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _inside = runtime.enter();
        let mut peers = linked().0;
        peers.links.clear();
        // Nobody runs the task that dials it.
        peers.dial(["peer:1".to_owned()].into_iter());
        let mut come_up = |serial, is_held: bool| {
            let (queue, (held, holder)) = (queue::new(peers.own.hello()).0, oneshot::channel());
            let holder = is_held.then_some(holder);
            let (peer_address, client_address, dialled) = ("peer:1".to_owned(), String::new(), "peer:1".to_owned());
            (peers.up(Link { node: PEER, peer_address, client_address, dialled, serial, queue, held }), holder)
        };
        assert!(!come_up(1, false).0, "nobody would say that it is down");
        let (is_up, holder) = come_up(2, true);
        assert!(is_up);
        assert!(!come_up(3, true).0, "each would end the other for ever");
        drop(holder);
        assert!(come_up(4, true).0, "nobody would say that the first one is down");
    }

    #[test]
    fn a_ring_that_goes_to_many_peers_is_encoded_once() {
        let (mut peers, mut frames) = linked();
        let member = dynamo_core::ring::Member { zone: "z".into(), weight: 1 };
        let members = [(PEER, member)].into();
        let first = dynamo_core::rebalance::first_ring(ClusterId([7; 16]), 4, 1, &members).unwrap();
        let next = first.successor(|_| ());
        let (first, next) = (Arc::new(first), Arc::new(next));
        for ring in [&first, &first, &next] {
            peers.send(PEER, Message::RingUpdate { ring: Arc::clone(ring) });
        }
        let frames = std::iter::from_fn(|| frames.next().now_or_never().flatten());
        let rings: Vec<Bytes> = frames
            .flat_map(|frame| frame.messages)
            .filter_map(|message| match message.kind {
                Some(Kind::RingUpdate(update)) => Some(update.ring),
                _ => None,
            })
            .collect();
        assert_eq!(rings, [first.encode(), first.encode(), next.encode()]);
        assert_eq!(rings[0].as_ptr(), rings[1].as_ptr(), "they are the same bytes");
    }

    #[test]
    fn a_link_whose_reserve_is_used_up_ends() {
        let (mut peers, _frames) = linked();
        for number in 1..200 {
            peers.send(PEER, replicate(number));
        }
        let (exchange, partition, root) = (1, PartitionId(0), Digest::default());
        for _ in 0..20 {
            let leaves = vec![0; 1 << 20].into();
            peers.send(PEER, Message::TreeResponse { exchange, partition, root, leaves, reaped: None });
        }
        assert_eq!((peers.links_overflowed, peers.take_given_up()), (1, vec![PEER]));
    }
}
