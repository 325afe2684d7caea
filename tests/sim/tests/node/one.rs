//! One node without a network: the test is all of its peers, and says when an fsync returns.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use dynamo_core::config::Config;
use dynamo_core::gossip::MemberState;
use dynamo_core::id::{ClusterId, Epoch, NodeId, PartitionId, RequestId};
use dynamo_core::message::Message;
use dynamo_core::name::Name;
use dynamo_core::node::{Identity, Input, Node, Output, ProposeError};
use dynamo_core::rebalance::{self, Members};
use dynamo_core::request::{ClientHandle, Operation, Outcome, QuorumWish, Request};
use dynamo_core::ring::{Member, Ring};
use dynamo_core::storage::Ticket;
use dynamo_core::time::{Instant, Now};
use dynamo_core::version::{Actor, Object};
use dynamo_sim::disk::Disk;
use dynamo_sim::witness::Witness;

pub const CLUSTER: ClusterId = ClusterId([7; 16]);

/// The node with this number; the one under test is number 1.
pub fn id(number: u8) -> NodeId {
    NodeId([number; 16])
}

/// A ring of nodes 1 to `nodes` with N = 3.
pub fn ring(nodes: u8) -> Ring {
    ring_of(nodes, 3, 3)
}

/// A ring of nodes 1 to `nodes` with 2^`bits` partitions of this N.
pub fn ring_of(nodes: u8, bits: u8, n: u8) -> Ring {
    let members: Members = (1..=nodes).map(|number| (id(number), Member { zone: "z".into(), weight: 1 })).collect();
    rebalance::first_ring(CLUSTER, bits, n, &members).expect("a ring of so many")
}

/// A member that neither is a replica nor becomes one.
pub fn stranger(ring: &Ring, partition: PartitionId) -> NodeId {
    let others = ring.members.keys().filter(|node| **node != id(1));
    others.copied().find(|node| !ring.placement(partition).involves(*node)).expect("more members than replicas")
}

/// A key that the node under test holds, or does not hold.
pub fn key(ring: &Ring, held: bool) -> Name {
    let mut names = (0..).map(|at| Name::new("carts", format!("k{at}")));
    names.find(|name| ring.placement(ring.partition_of(name)).involves(id(1)) == held).expect("there is such a key")
}

/// The node under test.
pub struct One {
    pub node: Node<Disk>,
    generation: u64,
    config: Config,
    now: Now,
    ticket: Option<Ticket>,
    clients: u64,
    /// What it sent since somebody looked.
    sent: Vec<(NodeId, Message)>,
    /// What it answered to clients.
    pub answers: Vec<Outcome>,
}

/// One object is a batch.
fn usual() -> Config {
    Config { batch_objects_max: 1, ..Config::default() }
}

fn open(config: Config, disk: Disk, generation: u64, seed: u64, now: Now) -> Node<Disk> {
    let identity = Identity {
        node: id(1),
        cluster: CLUSTER,
        zone: "z".into(),
        peer_address: "one:7401".into(),
        client_address: "one:7400".into(),
        generation,
    };
    Node::open(identity, config, disk, seed, now).expect("the disk works")
}

impl One {
    /// Started on an empty disk, with a ring and links to its peers.
    pub fn start(ring: &Ring) -> Self {
        Self::start_with(usual(), ring)
    }

    /// The same, with these settings.
    pub fn start_with(config: Config, ring: &Ring) -> Self {
        let witness: Rc<RefCell<Witness>> = Rc::default();
        let mut one = Self::with(config, Disk::new(witness), 1, 1);
        one.adopt(ring);
        one.sync();
        one.link(ring);
        one
    }

    /// Started on what a disk holds. Every process has a seed of its own.
    pub fn on(disk: Disk, generation: u64, seed: u64) -> Self {
        Self::with(usual(), disk, generation, seed)
    }

    fn with(config: Config, disk: Disk, generation: u64, seed: u64) -> Self {
        let now = Now { instant: Instant(1), wall_ms: 1_700_000_000_000 };
        let node = open(config.clone(), disk, generation, seed, now);
        let mut one = Self { node, generation, config, now, ticket: None, clients: 0, sent: Vec::new(), answers: Vec::new() };
        one.commit();
        one.sync();
        one
    }

    pub fn link(&mut self, ring: &Ring) {
        for peer in ring.members.keys().filter(|peer| **peer != id(1)) {
            let at = || format!("{:02x}", peer.0[0]);
            self.feed(Input::LinkUp { peer: *peer, peer_address: at(), client_address: at() });
        }
    }

    /// Ends it, after a clean stop or without one, and starts it again.
    pub fn restart(&mut self, clean: bool, ring: &Ring) {
        if clean {
            let ticket = self.node.close().expect("the disk works");
            ticket.into_iter().for_each(|ticket| self.node.storage_mut().synced(ticket));
        }
        let mut disk = std::mem::take(self.node.storage_mut());
        disk.killed();
        self.generation += 1;
        self.node = open(self.config.clone(), disk, self.generation, self.generation, self.now);
        self.commit();
        self.sync();
        self.link(ring);
        self.sent.clear();
    }

    /// The same, and everyone answers its gossip: no one has heard of another life of it.
    pub fn restart_among_peers(&mut self, clean: bool, ring: &Ring) {
        self.restart(clean, ring);
        let own = self.own_state(ring);
        for peer in ring.members.keys().filter(|peer| **peer != id(1)) {
            self.hear(peer.0[0], gossip(vec![(id(1), own.clone())]));
        }
    }

    /// What the node says of itself.
    pub fn own_state(&mut self, ring: &Ring) -> MemberState {
        self.sent.clear();
        self.link(ring);
        let found = self.sent().into_iter().find_map(|(_, message)| match message {
            Message::Gossip { members, .. } => members.into_iter().find(|(node, _)| *node == id(1)),
            _ => None,
        });
        found.expect("it gossips with who links to it").1
    }

    /// One input in a group of its own, which is not on stable storage yet.
    pub fn feed(&mut self, input: Input) {
        let mut out = Vec::new();
        self.node.handle(input, self.now, &mut out).expect("the disk works");
        self.perform(out);
    }

    pub fn hear(&mut self, from: u8, message: Message) {
        self.feed(Input::Message { from: id(from), message });
    }

    pub fn adopt(&mut self, ring: &Ring) {
        self.is_offered(ring).expect("the disk works, and it is the next ring");
    }

    /// The writer of rings offers it one.
    pub fn is_offered(&mut self, ring: &Ring) -> Result<(), ProposeError> {
        let mut out = Vec::new();
        let taken = self.node.propose_ring(ring.clone(), self.now, &mut out);
        self.perform(out);
        taken
    }

    fn perform(&mut self, out: Vec<Output>) {
        self.commit();
        for output in out {
            match output {
                Output::Send { to, message } => self.sent.push((to, message)),
                Output::Respond { outcome, .. } => self.answers.push(outcome),
                Output::RingChanged | Output::AddressesChanged => {}
            }
        }
    }

    fn commit(&mut self) {
        self.ticket = self.node.commit().expect("the disk works").or(self.ticket);
    }

    /// The fsync of everything so far returns.
    pub fn sync(&mut self) {
        while let Some(ticket) = self.ticket.take() {
            self.node.storage_mut().synced(ticket);
            self.feed(Input::Durable { ticket });
        }
    }

    /// Its process stands still, and goes on with one tick.
    pub fn stand_still(&mut self, duration: Duration) {
        self.now.instant = self.now.instant + duration;
        self.now.wall_ms += duration.as_millis() as u64;
        self.feed(Input::Tick);
    }

    /// Time passes, and nothing else happens. Peers are heard, so that they are not suspected.
    pub fn wait(&mut self, duration: Duration, ring: &Ring) {
        for _ in 0..duration.as_millis() / 100 {
            self.now.instant = self.now.instant + Duration::from_millis(100);
            self.now.wall_ms += 100;
            for peer in ring.members.keys().filter(|peer| **peer != id(1)) {
                self.feed(Input::Message { from: *peer, message: Message::Ping { answer: true } });
            }
            self.feed(Input::Tick);
        }
    }

    /// Every member says that it holds this ring.
    pub fn all_hold(&mut self, ring: &Ring) {
        let state = |number: u64| MemberState { generation: 9, version: number, epoch: ring.epoch, ..MemberState::default() };
        let members = ring.members.keys().enumerate().map(|(at, node)| (*node, state(at as u64 + 1))).collect();
        self.hear(2, Message::Gossip { epoch: ring.epoch, members, wants_answer: false, wall_ms: 0, current: true });
    }

    /// What it sent since the last look.
    pub fn sent(&mut self) -> Vec<(NodeId, Message)> {
        std::mem::take(&mut self.sent)
    }

    /// The first of what it sent that is one; what it sent else stays.
    pub fn take_sent<T>(&mut self, find: impl Fn(&Message) -> Option<T>) -> Option<T> {
        let (at, found) = self.sent.iter().enumerate().find_map(|(at, (_, message))| Some((at, find(message)?)))?;
        self.sent.remove(at);
        Some(found)
    }

    /// A client of this node puts.
    pub fn put(&mut self, name: &Name, value: &str) -> (RequestId, Object) {
        self.clients += 1;
        let request = put(name, value);
        self.feed(Input::Request { client: ClientHandle(self.clients), request });
        self.replicated()
    }

    /// The same, with a context, where one acknowledgement is enough; it need not come to anything.
    pub fn try_put(&mut self, name: &Name, value: &str, token: Bytes) {
        self.clients += 1;
        let quorum = QuorumWish { w: Some(1), ..QuorumWish::default() };
        let operation = Operation::Put { data: Bytes::copy_from_slice(value.as_bytes()), context: token, create_only: false };
        let request = Request { operation, quorum, ..put(name, value) };
        self.feed(Input::Request { client: ClientHandle(self.clients), request });
    }

    /// The same as [`One::put`], with a context.
    pub fn put_with(&mut self, name: &Name, value: &str, token: Bytes) -> (RequestId, Object) {
        self.clients += 1;
        let operation = Operation::Put { data: Bytes::copy_from_slice(value.as_bytes()), context: token, create_only: false };
        let request = Request { operation, ..put(name, value) };
        self.feed(Input::Request { client: ClientHandle(self.clients), request });
        self.replicated()
    }

    /// Another node forwards a put, by a ring under which this node was a replica.
    pub fn forwarded_put(&mut self, from: u8, number: u64, name: &Name, value: &str) -> (RequestId, Object) {
        self.forward(from, number, put(name, value));
        self.replicated()
    }

    /// Another node forwards a request, with its number for it.
    pub fn forward(&mut self, from: u8, number: u64, body: Request) {
        self.hear(from, Message::Forward { request: RequestId(number), hops: 1, body });
    }

    /// What it told who forwarded a request with this number, if anything.
    pub fn outcome(&mut self, number: u64) -> Option<Outcome> {
        self.take_sent(|message| match message {
            Message::Forwarded { request, outcome } if *request == RequestId(number) => Some(outcome.clone()),
            _ => None,
        })
    }

    /// A client of this node gets: whether the node asks replicas itself, and does not leave that to another.
    pub fn coordinates_get(&mut self, name: &Name) -> bool {
        self.clients += 1;
        self.sent.clear();
        let request = Request { operation: Operation::Get, ..put(name, "") };
        self.feed(Input::Request { client: ClientHandle(self.clients), request });
        let fetches = |(_, message): &(NodeId, Message)| matches!(message, Message::Fetch { .. });
        let forwards = |(_, message): &(NodeId, Message)| matches!(message, Message::Forward { .. });
        let sent = self.sent();
        assert!(sent.iter().any(fetches) != sent.iter().any(forwards), "{sent:?}");
        sent.iter().any(fetches)
    }

    /// The first request to a replica that it has just sent.
    fn replicated(&mut self) -> (RequestId, Object) {
        let found = self.sent().into_iter().find_map(|(_, message)| match message {
            Message::Replicate { request, object, .. } => Some((request, object)),
            _ => None,
        });
        found.expect("a put is sent to replicas")
    }
}

/// Gossip of a peer that says this of some nodes.
pub fn gossip(members: Vec<(NodeId, MemberState)>) -> Message {
    Message::Gossip { epoch: Epoch(1), members, wants_answer: false, wall_ms: 0, current: true }
}

/// A put that knows of no other.
pub fn put(name: &Name, value: &str) -> Request {
    let data = Bytes::copy_from_slice(value.as_bytes());
    let operation = Operation::Put { data, context: Bytes::new(), create_only: false };
    Request { name: name.clone(), operation, quorum: QuorumWish::default(), request_key: None, timeout_ms: 0 }
}

/// The actor of the newest version.
pub fn newest(object: &Object) -> Actor {
    object.values().max_by_key(|(dot, _)| dot.counter).expect("a version").0.actor
}
