//! What administrators, tools and probes ask of the loop. Every answer is this node's own view.

use std::collections::BTreeMap;
use std::sync::Arc;

use dynamo_core::actors::ActorsPerObject;
use dynamo_core::admission::Report;
use dynamo_core::counters::{Counters, Latencies};
use dynamo_core::divergence::Divergence;
use dynamo_core::durations::Durations;
use dynamo_core::id::{NodeId, PartitionId};
use dynamo_core::node::receipt::Receipt;
use dynamo_core::node::status::Status;
use dynamo_core::node::{Address, Identity};
use dynamo_core::ring::Ring;
use dynamo_core::storage::StorageError;
use dynamo_core::time::Now;
use dynamo_core::version::Digest;
use tokio::sync::oneshot;

use super::Driver;
use crate::figure::Figure;

/// Why something was not done: a sentence for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused(pub String);

/// Everything that the node shows of itself.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Who it is.
    pub identity: Identity,
    /// What the protocol knows.
    pub status: Status,
    /// What the protocol counted.
    pub counters: Counters,
    /// How long requests took that this node coordinated.
    pub latencies: Latencies,
    /// How long the turns of the loop took.
    pub turns: Durations,
    /// How long the fsyncs of the log took.
    pub log_syncs: Durations,
    /// What the admission controller of background work is doing.
    pub background: Report,
    /// How many versions gets found, bucket by bucket.
    pub divergence: Divergence,
    /// How many actors the objects name that puts made.
    pub actors: ActorsPerObject,
    /// What the loop, the links and the engine tell of themselves.
    pub figures: Vec<Figure>,
    /// It serves, or stands by for a ring.
    pub ready: bool,
    /// Seconds since its start.
    pub uptime_seconds: u64,
}

/// The ring and where its members are.
pub type Topology = (Option<Arc<Ring>>, BTreeMap<NodeId, (Address, bool)>);

/// A question, with where its answer goes.
pub enum Question {
    /// Everything.
    Snapshot(oneshot::Sender<Snapshot>),
    /// The ring.
    Ring(oneshot::Sender<Option<Arc<Ring>>>),
    /// The ring, with addresses and suspicions.
    Topology(oneshot::Sender<Topology>),
    /// Adopt this ring.
    ProposeRing(Box<Ring>, oneshot::Sender<Result<(), Refused>>),
    /// Prove that nothing is left here.
    DrainReceipt(oneshot::Sender<Result<Receipt, Refused>>),
    /// Digests and numbers of objects of these partitions, or of all if none is named.
    PartitionDigests(Vec<PartitionId>, oneshot::Sender<Result<Digests, Refused>>),
}

/// A digest and a number of objects by partition.
pub type Digests = Vec<(PartitionId, Digest, u64)>;

impl Driver {
    /// Answers. Whoever asked and went away misses it.
    pub(super) fn answer(&mut self, question: Question, now: Now) -> Result<(), StorageError> {
        match question {
            Question::Snapshot(reply) => drop(reply.send(self.snapshot(now))),
            Question::Ring(reply) => drop(reply.send(self.node.ring().cloned())),
            Question::Topology(reply) => drop(reply.send(self.topology(now))),
            Question::ProposeRing(ring, reply) => {
                let proposed = self.propose(*ring, now)?;
                drop(reply.send(proposed));
            }
            Question::DrainReceipt(reply) => drop(reply.send(self.node.drain_receipt().map_err(Refused))),
            Question::PartitionDigests(partitions, reply) => drop(reply.send(self.digests(partitions))),
        }
        Ok(())
    }

    fn snapshot(&self, now: Now) -> Snapshot {
        let (clients, answer_bytes) = (self.clients.len() as u64, self.shared.answer_bytes() as u64);
        let mut figures = self.node.storage().figures();
        figures.push(Figure::varying("clients_waiting", "Requests of clients that wait for an answer", clients));
        figures.push(Figure::varying("session_answer_bytes", "Bytes of answers that clients have not read yet", answer_bytes));
        figures.extend(self.peers.figures());
        figures.extend(self.space.figures());
        Snapshot {
            identity: self.node.identity().clone(),
            status: self.node.status(now),
            counters: self.node.counters().clone(),
            latencies: *self.node.latencies(),
            turns: self.turns,
            log_syncs: self.syncer.took(),
            background: self.node.background(now),
            divergence: self.node.divergence().clone(),
            actors: *self.node.actors(),
            figures,
            ready: !self.stopping && self.is_ready(now),
            uptime_seconds: self.clock.uptime_seconds(),
        }
    }

    fn topology(&self, now: Now) -> Topology {
        let suspected: BTreeMap<NodeId, bool> =
            self.node.status(now).peers.into_iter().map(|peer| (peer.node, peer.suspected)).collect();
        let own = self.node.identity();
        let own_address = Address { peer: own.peer_address.clone(), client: own.client_address.clone() };
        let mut members: BTreeMap<NodeId, (Address, bool)> = BTreeMap::from([(own.node, (own_address, false))]);
        for (node, address) in self.node.addresses() {
            members.insert(node, (address, suspected.get(&node).copied().unwrap_or(false)));
        }
        (self.node.ring().cloned(), members)
    }

    fn digests(&self, mut partitions: Vec<PartitionId>) -> Result<Digests, Refused> {
        let Some(ring) = self.node.ring() else { return Err(Refused("the node has no ring yet".into())) };
        if let Some(beyond) = partitions.iter().find(|partition| !ring.has(**partition)) {
            let count = ring.partition_count_of_layers();
            return Err(Refused(format!("partitions: {beyond} is not one of the ring's {count}, which are 0 to {}", count - 1)));
        }
        if partitions.is_empty() {
            partitions = ring.partitions().map(|(partition, _)| partition).collect();
        }
        let digest = |partition| {
            let (digest, objects) = self.node.partition_digest(partition);
            (partition, digest, objects)
        };
        Ok(partitions.into_iter().map(digest).collect())
    }
}
