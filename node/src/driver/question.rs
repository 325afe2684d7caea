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
    /// The same for whoever makes rings: once the node can say which one it holds, a moment after its start.
    Status(oneshot::Sender<Snapshot>),
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
            Question::Status(reply) => {
                self.asked_early.retain(|earlier| !earlier.is_closed());
                self.asked_early.push(reply);
            }
            Question::Ring(reply) => drop(reply.send(self.node.ring().cloned())),
            Question::Topology(reply) => drop(reply.send(self.topology(now))),
            Question::ProposeRing(ring, reply) => {
                let epoch = ring.epoch;
                match self.propose(*ring, now)? {
                    Ok(()) => {
                        self.proposals.retain(|(_, earlier)| !earlier.is_closed());
                        self.proposals.push((epoch, reply));
                    }
                    refused @ Err(_) => drop(reply.send(refused)),
                }
            }
            Question::DrainReceipt(reply) => drop(reply.send(self.node.drain_receipt().map_err(Refused))),
            Question::PartitionDigests(partitions, reply) => drop(reply.send(self.digests(partitions))),
        }
        Ok(())
    }

    /// Tells the writer of rings that a ring is held, once no loss of power can take it back.
    pub(super) fn answer_proposals(&mut self) {
        let durable = self.node.durable_epoch();
        let held = self.proposals.extract_if(.., |(epoch, _)| *epoch <= durable);
        held.for_each(|(_, reply)| drop(reply.send(Ok(()))));
    }

    /// What was asked of a node that had just started is answered when it has an answer.
    pub(super) fn answer_early(&mut self, now: Now) {
        if !self.asked_early.is_empty() && !self.node.is_starting() {
            for reply in std::mem::take(&mut self.asked_early) {
                drop(reply.send(self.snapshot(now)));
            }
        }
    }

    fn snapshot(&self, now: Now) -> Snapshot {
        let clients = self.clients.len() as u64;
        let mut figures = self.node.storage().figures();
        figures.push(Figure::varying("clients_waiting", "Requests of clients that wait for an answer", clients));
        figures.extend(self.shared.budgets.figures());
        figures.extend(self.peers.figures());
        figures.extend(self.shared.refusals.figures());
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
        let own = self.node.identity();
        let own_address = Address { peer: own.peer_address.clone(), client: own.client_address.clone() };
        let mut members: BTreeMap<NodeId, (Address, bool)> = BTreeMap::from([(own.node, (own_address, false))]);
        for (node, address) in self.node.addresses() {
            members.insert(node, (address, self.node.suspects(node, now)));
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

#[cfg(test)]
mod tests {
    use dynamo_core::node::Node;
    use dynamo_core::rebalance::{Members, first_ring};
    use dynamo_core::ring::Member;
    use tokio::sync::oneshot::error::TryRecvError;
    use tokio::sync::watch;

    use super::*;
    use crate::config::{Flags, ValidConfig};
    use crate::driver::{Clock, Inbox, Shared, Space};
    use crate::identity;
    use crate::peers::{Own, Peers};
    use crate::storage::syncer::Syncer;

    fn driver(dir: &tempfile::TempDir) -> (Driver, Own) {
        let flags = Flags {
            cluster_id: Some("6f9619ff-8b86-d011-b42d-00c04fc964ff".into()),
            data_dir: Some(dir.path().join("data")),
            advertise_host: Some("h".into()),
            ..Flags::default()
        };
        let config = ValidConfig::load(flags).unwrap();
        let data = identity::open(&config).unwrap();
        let (peer_address, client_address) = ("h:7401".to_owned(), "h:7400".to_owned());
        let own = Own { cluster: config.cluster, node: data.node, peer_address, client_address };
        let identity = Identity {
            node: own.node,
            cluster: own.cluster,
            zone: config.zone,
            peer_address: own.peer_address.clone(),
            client_address: own.client_address.clone(),
            generation: data.generation,
        };
        let (clock, syncer) = (Clock::start(), Syncer::start(data.engine.log()).unwrap());
        let node = Node::open(identity, config.protocol, data.engine, 7, clock.now()).unwrap();
        let (inbox, events) = Inbox::of(u64::MAX);
        let space = Space::new(config.data_dir, Some(0), 0);
        let (peers, ready) = (Peers::new(own.clone(), Vec::new(), inbox), watch::channel(false).0);
        (Driver::new(node, syncer, events, peers, clock, space, Shared::default(), ready), own)
    }

    fn ring_of(own: &Own) -> Ring {
        let members = Members::from([(own.node, Member { zone: "z".into(), weight: 1 })]);
        first_ring(own.cluster, 0, 1, &members).unwrap()
    }

    /// Of two writers that ask the same node the first to be told so goes on, and a node that forgot it would tell the other.
    #[tokio::test]
    async fn a_ring_is_said_to_be_held_when_no_power_loss_can_take_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let (mut driver, own) = driver(&dir);
        let ring = ring_of(&own);
        let mut reports = driver.syncer.reports();
        let (reply, mut said) = oneshot::channel();
        let now = driver.clock.now();
        driver.answer(Question::ProposeRing(Box::new(ring.clone()), reply), now).unwrap();
        driver.turn(&mut Vec::new(), &mut reports, false).unwrap();
        assert_eq!(driver.node.ring().map(|held| held.epoch), Some(ring.epoch));
        assert_eq!(said.try_recv(), Err(TryRecvError::Empty), "nobody has said that it is on stable storage");
        reports.changed().await.unwrap();
        reports.mark_changed();
        driver.turn(&mut Vec::new(), &mut reports, false).unwrap();
        assert_eq!(said.try_recv(), Ok(Ok(())));
    }

    #[tokio::test]
    async fn a_ring_that_was_taken_is_said_to_be_held_by_a_node_that_stops_before_it_could_say_so() {
        let dir = tempfile::tempdir().unwrap();
        let (mut driver, own) = driver(&dir);
        let mut reports = driver.syncer.reports();
        let (reply, mut said) = oneshot::channel();
        let now = driver.clock.now();
        driver.answer(Question::ProposeRing(Box::new(ring_of(&own)), reply), now).unwrap();
        driver.turn(&mut Vec::new(), &mut reports, false).unwrap();
        assert_eq!(said.try_recv(), Err(TryRecvError::Empty));
        driver.finish().unwrap();
        assert_eq!(said.try_recv(), Ok(Ok(())));
    }

    #[tokio::test]
    async fn of_those_who_asked_and_went_away_no_more_than_one_is_kept_while_no_fsync_ends() {
        let dir = tempfile::tempdir().unwrap();
        let (mut driver, own) = driver(&dir);
        let (ring, now) = (ring_of(&own), driver.clock.now());
        // No turn is taken, so that nothing is heard of the fsyncs.
        for _ in 0..10_000 {
            driver.answer(Question::ProposeRing(Box::new(ring.clone()), oneshot::channel().0), now).unwrap();
            driver.answer(Question::Status(oneshot::channel().0), now).unwrap();
        }
        assert_eq!((driver.proposals.len(), driver.asked_early.len()), (1, 1));
        let (reply, _waits) = oneshot::channel();
        driver.answer(Question::Status(reply), now).unwrap();
        driver.answer(Question::Status(oneshot::channel().0), now).unwrap();
        assert_eq!(driver.asked_early.len(), 2, "who waits is kept");
    }

    #[tokio::test]
    async fn a_node_compacts_objects_from_its_first_look_at_the_disk_on_if_there_is_room() {
        for (reserve, compacts) in [(0, true), (u64::MAX / 2, false)] {
            let dir = tempfile::tempdir().unwrap();
            let (mut driver, _) = driver(&dir);
            driver.space = Space::new(dir.path().into(), Some(reserve), 0);
            assert!(!driver.compacts, "its database opened without");
            driver.look_at_space().unwrap();
            assert_eq!(driver.compacts, compacts, "a reserve of {reserve} bytes");
        }
    }
}
