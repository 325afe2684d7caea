//! Three whole nodes in one thread, with messages that arrive at once: what a put and a get cost beside network and disk.
//!
//! As a driver does it: all inputs that wait are handled, then one commit closes their writes, then outputs go out. The report
//! that a group is on stable storage is an input of the next turn.

use bytes::Bytes;
use dynamo_core::config::Config;
use dynamo_core::id::{ClusterId, NodeId};
use dynamo_core::name::Name;
use dynamo_core::node::{Identity, Input, Node, Output};
use dynamo_core::rebalance::{Members, first_ring};
use dynamo_core::request::{ClientHandle, Operation, QuorumWish, Request, Success};
use dynamo_core::ring::{Member, Ring};
use dynamo_core::time::{Instant, Now};

use crate::memory::Memory;

const NODES: u8 = 3;
const PARTITION_BITS: u8 = 6;
/// Objects that are written and read, in turn.
const NAMES: u64 = 10_000;
/// Requests in flight, as of 64 clients.
const IN_FLIGHT: u64 = 64;

/// Three nodes, and clients that keep the context that they last saw of each object.
pub struct Cluster {
    nodes: Vec<Node<Memory>>,
    inboxes: Vec<Vec<Input>>,
    out: Vec<Output>,
    ring: Ring,
    names: Vec<Name>,
    contexts: Vec<Bytes>,
    value: Bytes,
    now: Now,
    next: u64,
    answered: u64,
}

fn id(index: u8) -> NodeId {
    NodeId([index + 1; 16])
}

impl Cluster {
    /// With every object in place.
    pub fn new(value_bytes: usize) -> Self {
        let cluster = ClusterId([9; 16]);
        let members: Members = (0..NODES).map(|index| (id(index), Member { zone: "z".into(), weight: 1 })).collect();
        let ring = first_ring(cluster, PARTITION_BITS, NODES, &members).expect("three members can hold three replicas");
        let now = Now { instant: Instant(1), wall_ms: 1 };
        let node = |index| {
            let identity = Identity {
                node: id(index),
                cluster,
                zone: "z".into(),
                peer_address: "a:1".into(),
                client_address: "a:2".into(),
                generation: 1,
            };
            Node::open(identity, Config::default(), Memory::default(), u64::from(index), now).expect("memory does not fail")
        };
        let mut this = Self {
            nodes: (0..NODES).map(node).collect(),
            inboxes: (0..NODES).map(|_| Vec::new()).collect(),
            out: Vec::new(),
            ring,
            names: (0..NAMES).map(|number| Name::new("bench", format!("0123abcd/user{number:010}"))).collect(),
            contexts: vec![Bytes::new(); NAMES as usize],
            value: vec![7; value_bytes].into(),
            now,
            next: 0,
            answered: 0,
        };
        for index in 0..usize::from(NODES) {
            this.nodes[index].propose_ring(this.ring.clone(), now, &mut this.out).expect("it is the first ring");
            this.out.clear();
            let peers = (0..NODES).filter(|peer| usize::from(*peer) != index);
            let up = |peer| Input::LinkUp { peer: id(peer), peer_address: "a:1".into(), client_address: "a:2".into() };
            this.inboxes[index].extend(peers.map(up));
        }
        this.settle();
        this.puts(NAMES);
        this
    }

    /// So many puts, each with the context of the last one of its object.
    pub fn puts(&mut self, count: u64) {
        self.requests(count, |this, index| Operation::Put {
            data: this.value.clone(),
            context: std::mem::take(&mut this.contexts[index]),
            create_only: false,
        });
    }

    /// So many gets.
    pub fn gets(&mut self, count: u64) {
        self.requests(count, |_, _| Operation::Get);
    }

    fn requests(&mut self, count: u64, operation: impl Fn(&mut Self, usize) -> Operation) {
        let (until, answers) = (self.next + count, self.answered + count);
        while self.next < until {
            for _ in 0..IN_FLIGHT.min(until - self.next) {
                let index = (self.next % NAMES) as usize;
                let name = self.names[index].clone();
                let operation = operation(self, index);
                let (quorum, request_key) = (QuorumWish::default(), None);
                let coordinator = self.ring.placement(self.ring.partition_of(&name)).replicas[0];
                let request = Request { name, operation, request_key, quorum, timeout_ms: 0 };
                self.inboxes[index_of(coordinator)].push(Input::Request { client: ClientHandle(index as u64), request });
                self.next += 1;
            }
            self.settle();
            self.now.instant.0 += 100;
        }
        assert_eq!(self.answered, answers, "a request was not answered");
    }

    /// Until nobody has anything more to say.
    fn settle(&mut self) {
        while self.inboxes.iter().any(|inbox| !inbox.is_empty()) {
            for index in 0..self.nodes.len() {
                self.turn(index);
            }
        }
    }

    fn turn(&mut self, index: usize) {
        let mut inputs = std::mem::take(&mut self.inboxes[index]);
        for input in inputs.drain(..) {
            self.nodes[index].handle(input, self.now, &mut self.out).expect("memory does not fail");
        }
        if let Some(ticket) = self.nodes[index].commit().expect("memory does not fail") {
            inputs.push(Input::Durable { ticket });
        }
        self.inboxes[index] = inputs;
        let mut out = std::mem::take(&mut self.out);
        for output in out.drain(..) {
            match output {
                Output::Send { to, message } => {
                    self.inboxes[index_of(to)].push(Input::Message { from: id(index as u8), message });
                }
                Output::Respond { client, outcome } => match outcome.expect("nothing is in its way") {
                    Success::Written { context, .. } | Success::Got { context, .. } => {
                        self.contexts[client.0 as usize] = context;
                        self.answered += 1;
                    }
                },
                Output::RingChanged | Output::AddressesChanged => {}
            }
        }
        self.out = out;
    }
}

fn index_of(node: NodeId) -> usize {
    usize::from(node.0[0]) - 1
}
