//! The composition: one node's machines over one storage engine (paper 5).
//!
//! A driver feeds [`Input`]s and performs [`Output`]s; after a batch of inputs it calls [`Node::commit`] once and reports the
//! returned ticket when it is on stable storage. The simulator does exactly the same.
//!
//! | module | what it does |
//! |---|---|
//! | `requests` | clients' requests, and the put and get machines |
//! | `retries` | writes with request ids |
//! | `replica` | what peers ask of this node's copies |
//! | `membership` | gossip, rings |
//! | `rings_told` | who was given a ring just now, and asked for one |
//! | `absence` | what a member that was away does not answer yet |
//! | `fencing` | what is taken of nodes that were declared lost, and by one |
//! | `dots` | counters of dots, leased before they are issued |
//! | `tenures` | under which actors it writes |
//! | `lives` | a data directory that came back older than it was, or twice |
//! | `movement` | hints and transfers on their way |
//! | `verification` | whether another node has all of a copy |
//! | `retargeting` | hints whose home is another one now |
//! | `handback` | copies that the ring gives to others |
//! | `repair` | anti-entropy |
//! | `background` | what of the above may run now |
//! | `trees` | hash trees, across restarts |
//! | `reaping` | tombstones that nothing older can follow |
//! | `space` | a disk that is nearly full |
//! | `stable_storage` | groups of writes, and what waits for them |
//! | `measured` | histograms of requests |
//! | `timer` | what is done at intervals |
//! | [`status`] | what it shows of itself |
//! | [`receipt`] | the proof that nothing is left here |
//!
//! Whatever waits for stable storage waits in `stable_storage`, by ticket; nothing else in this crate knows what is durable.

mod absence;
mod background;
mod dots;
mod fencing;
mod handback;
mod lives;
mod measured;
mod membership;
mod movement;
mod reaping;
pub mod receipt;
mod repair;
mod replica;
mod requests;
mod retargeting;
mod retries;
mod rings_told;
mod space;
mod stable_storage;
pub mod status;
mod tenures;
mod timer;
mod trees;
mod verification;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use thiserror::Error;

use crate::admission::Admission;
use crate::clock_skew::PeerClocks;
use crate::codec::Writer;
use crate::config::Config;
use crate::counters::Counters;
use crate::failure_detector::FailureDetector;
use crate::gossip::{Gossip, MemberState};
use crate::hash_tree::HashTrees;
use crate::hinted_handoff::HintedHandoff;
use crate::id::{ClusterId, Epoch, NodeId, PartitionId, RequestId};
use crate::message::Message;
use crate::random::Random;
use crate::request::{ClientHandle, Outcome, Request};
use crate::ring::{Ring, RingError, RingHash};
use crate::storage::{Storage, StorageError, Ticket};
use crate::time::Now;
use crate::transfer::Transfers;
use crate::version_cache::VersionCache;
use stable_storage::{StableStorage, Waiting};
use timer::Timer;

/// The record that says that the last stop was clean. A driver that finds the store shorter than it was removes it.
pub const CLEAN_STOP: &[u8] = b"clean";

/// Who this node is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its id, from its data directory.
    pub node: NodeId,
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Its failure domain.
    pub zone: String,
    /// host:port that peers dial.
    pub peer_address: String,
    /// host:port that clients dial.
    pub client_address: String,
    /// Grows at each start.
    pub generation: u64,
}

/// Where a known peer is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    /// host:port for peers.
    pub peer: String,
    /// host:port for clients.
    pub client: String,
}

/// What happens to a node.
#[derive(Clone, Debug)]
pub enum Input {
    /// A client asks.
    Request {
        /// Whom to answer.
        client: ClientHandle,
        /// What it asks.
        request: Request,
    },
    /// A peer speaks.
    Message {
        /// Which.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// The outgoing link to a peer works.
    LinkUp {
        /// Which.
        peer: NodeId,
        /// Where it is, by its own word.
        peer_address: String,
        /// Where clients find it.
        client_address: String,
    },
    /// The outgoing link to a peer ended.
    LinkDown {
        /// Which.
        peer: NodeId,
    },
    /// There was no room on the link to a peer for what it was to be asked: it knows nothing of it. That says nothing of the peer.
    NoRoom {
        /// Which.
        peer: NodeId,
        /// This node's number of the request.
        request: RequestId,
    },
    /// Every group of writes up to this one is on stable storage.
    Durable {
        /// The newest.
        ticket: Ticket,
    },
    /// The disk has room for more, or only for what this node must go on writing. Until it is told, a node takes writes.
    Space {
        /// It has.
        writable: bool,
    },
    /// Time has passed.
    Tick,
}

/// What a node wants done.
#[derive(Clone, PartialEq, Debug)]
pub enum Output {
    /// Tell a peer. Without a link the message is dropped.
    Send {
        /// Whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Answer a client.
    Respond {
        /// Whom.
        client: ClientHandle,
        /// What.
        outcome: Outcome,
    },
    /// There is a new ring.
    RingChanged,
    /// Peers were met or moved: dial them.
    AddressesChanged,
}

/// Why a proposed ring was not adopted.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ProposeError {
    /// It does not follow.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A node.
pub struct Node<S> {
    identity: Identity,
    config: Config,
    storage: StableStorage<S>,
    random: Random,
    ring: Option<Arc<Ring>>,
    /// The newest ring that is on stable storage: what this node tells the writer of rings that it holds.
    ring_durable: Epoch,
    /// Its hash, which takes as long to make as the ring is: everybody who asks for the status is told.
    ring_durable_hash: RingHash,
    gossip: Gossip,
    clocks: PeerClocks,
    detector: FailureDetector,
    rings_told: rings_told::RingsTold,
    trees: HashTrees,
    checkpoints: trees::Checkpoints,
    versions: VersionCache,
    /// Room for what is hashed.
    digest_input: Writer,
    hints: HintedHandoff,
    retargeting: retargeting::Retargeting,
    transfers: Transfers,
    exchanges: repair::Exchanges,
    admission: Admission,
    kept_back: background::KeptBack,
    reaping: reaping::Reaping,
    requests: requests::in_flight::InFlight,
    life: lives::Life,
    absence: absence::Absence,
    tenures: tenures::Tenures,
    dots: dots::Dots,
    batch_next: u64,
    /// The disk has room for more.
    writable: bool,
    counters: Counters,
    measured: measured::Measured,
    gossip_timer: Timer,
    movement_timer: Timer,
}

impl<S: Storage> Node<S> {
    /// Reads what the storage holds and begins a lease of dots; requests are refused until that lease is on stable storage.
    pub fn open(identity: Identity, config: Config, storage: S, seed: u64, now: Now) -> Result<Self, StorageError> {
        let ring = match storage.read_meta(b"ring")? {
            Some(bytes) => Some(Arc::new(Ring::decode(bytes).map_err(|error| StorageError(format!("stored ring: {error}")))?)),
            None => None,
        };
        let leased = match storage.read_meta(b"dots")? {
            Some(bytes) => u64::from_be_bytes(bytes[..].try_into().map_err(|_| StorageError("stored dot lease".into()))?),
            None => 0,
        };
        let life = lives::Life::begin(seed);
        let state = MemberState {
            life: life.number,
            generation: identity.generation,
            version: 1,
            peer_address: identity.peer_address.clone(),
            client_address: identity.client_address.clone(),
            zone: identity.zone.clone(),
            buckets_digest: config.buckets_digest(),
            ..MemberState::default()
        };
        // Late answers to requests of another life must not be taken for answers to this one's: not of an earlier start, nor of another
        // process on a copy of this directory, which counts the same generation. So they grow from a number that is drawn at each start,
        // with as much room above it as below.
        let numbers = life.number >> 1;
        let mut node = Self {
            gossip: Gossip::new(identity.node, state),
            clocks: PeerClocks::default(),
            detector: FailureDetector::new(config.phi_threshold),
            rings_told: rings_told::RingsTold::default(),
            trees: HashTrees::new(identity.cluster, ring.as_ref().map_or(0, |ring| ring.partition_bits)),
            checkpoints: trees::Checkpoints::begin(now.instant + config.tree_checkpoint_interval),
            hints: HintedHandoff::new(storage.hint_totals()?),
            retargeting: retargeting::Retargeting::default(),
            ring_durable: Epoch(0),
            ring_durable_hash: RingHash::default(),
            random: Random::new(seed),
            versions: VersionCache::new(config.version_cache_entries_max),
            digest_input: Writer::default(),
            transfers: Transfers::default(),
            exchanges: repair::Exchanges::default(),
            admission: Admission::new(&config, now.instant),
            kept_back: background::KeptBack::new(),
            reaping: reaping::Reaping::default(),
            requests: requests::in_flight::InFlight::numbered_from(numbers),
            life,
            absence: if ring.is_some() { absence::Absence::default() } else { absence::Absence::none() },
            tenures: tenures::Tenures::default(),
            dots: dots::Dots::behind(leased),
            batch_next: numbers,
            writable: true,
            counters: Counters::default(),
            measured: measured::Measured::of(&config),
            gossip_timer: Timer::default(),
            movement_timer: Timer::default(),
            identity,
            config,
            storage: StableStorage::new(storage),
            ring,
        };
        node.end_absence();
        node.start_tenures()?;
        node.load_trees()?;
        node.resume_retargeting()?;
        // Trees do not say which objects are tombstones: the partitions that are led are looked through, a piece at a time.
        node.end_rounds(None);
        node.lease_dots()?;
        node.restore_durable()?;
        node.plan_movement()?;
        Ok(node)
    }

    /// Who said that buckets are treated otherwise there than here ([`Config::buckets_digest`]), and how.
    pub fn differing_buckets(&self) -> BTreeMap<NodeId, u64> {
        self.gossip.differing_buckets()
    }

    /// One input. An error means that the storage can no longer be trusted: stop.
    pub fn handle(&mut self, input: Input, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        match input {
            Input::Request { client, request } => self.on_request(client, request, now, out),
            Input::Message { from, message } => {
                self.detector.heard(from, now.instant);
                match self.admitted(from, message, out) {
                    Some(message) => self.on_message(from, message, now, out),
                    None => Ok(()),
                }
            }
            Input::LinkUp { peer, peer_address, client_address } => {
                self.on_link_up(peer, &peer_address, &client_address, now, out);
                Ok(())
            }
            Input::LinkDown { peer } => self.on_link_down(peer, now, out),
            Input::NoRoom { peer, request } => self.on_no_room(peer, request, now, out),
            Input::Durable { ticket } => self.on_durable(ticket, now, out),
            Input::Space { writable } => {
                self.on_space(writable);
                Ok(())
            }
            Input::Tick => self.on_tick(now, out),
        }
    }

    /// Closes the group of writes. The driver reports the ticket with [`Input::Durable`]; `None` if nothing was written.
    pub fn commit(&mut self) -> Result<Option<Ticket>, StorageError> {
        if self.storage.has_writes() {
            self.record_trees()?;
        }
        assert!(!self.trees.has_records(), "a tree changed and nothing was written");
        self.storage.commit()
    }

    /// Whether anything waits for a group of writes to be on stable storage. If not, the driver may let groups gather.
    pub fn awaits_durability(&self) -> bool {
        self.storage.awaits_durability()
    }

    /// The last input of a clean stop, when nothing more will be handled: after the returned ticket is on stable storage this
    /// node's copies are known to be whole, and its next start goes on under the same actors. A life that is undecided to its end
    /// does not vouch for its former actors, which another may have used: it leaves new ones.
    pub fn close(&mut self) -> Result<Option<Ticket>, StorageError> {
        self.decide_life()?;
        self.checkpoint_all()?;
        self.storage.write_meta(CLEAN_STOP, Some(&self.identity.generation.to_be_bytes()))?;
        self.commit()
    }

    /// `waiting` happens once everything written so far is on stable storage: now, if it is.
    fn when_durable(&mut self, waiting: Waiting, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        if self.storage.is_settled() {
            return self.on_stable(waiting, now, out);
        }
        self.storage.hold(waiting);
        Ok(())
    }

    fn on_durable(&mut self, ticket: Ticket, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        self.storage.durable(ticket);
        while let Some(group) = self.storage.due() {
            for waiting in group {
                self.on_stable(waiting, now, out)?;
            }
        }
        Ok(())
    }

    fn on_stable(&mut self, waiting: Waiting, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        match waiting {
            Waiting::OwnWrite(request) => return self.on_own_write_durable(request, now, out),
            Waiting::Acknowledge { to, request } => {
                out.push(Output::Send { to, message: Message::Replicated { request, durable: true } });
            }
            Waiting::AcknowledgeBatch { to, batch } => {
                let epoch = self.epoch();
                out.push(Output::Send { to, message: Message::Pushed { batch, refused: false, epoch } });
            }
            Waiting::Ring(epoch) => {
                self.ring_durable = self.ring_durable.max(epoch);
                if let Some(ring) = self.ring.as_ref().filter(|ring| ring.epoch == self.ring_durable) {
                    self.ring_durable_hash = ring.hash();
                }
            }
            Waiting::Received { partition, since, from } => self.on_received_durable(partition, since, from),
            Waiting::Answer { to, message } => out.push(Output::Send { to, message: *message }),
            Waiting::DotLease(upto) => self.dots.lease(upto),
            Waiting::GiveRing { to } => self.send_ring(to, out),
            Waiting::Spread(epoch) => self.spread_ring(epoch, out),
            Waiting::CatchUp { to, request, epoch } => self.catch_up(to, request, epoch, out),
        }
        Ok(())
    }

    fn on_message(&mut self, from: NodeId, message: Message, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        match message {
            Message::Replicate { .. } => return self.on_replicate(from, message, now, out),
            Message::Replicated { request, durable } => return self.on_replicated(from, request, durable, now, out),
            Message::Fetch { request, epoch, name, digest_only } => {
                return self.on_fetch(from, request, epoch, &name, digest_only, out);
            }
            Message::Fetched { request, digest, object } => return self.on_fetched(from, request, digest, object, now, out),
            Message::Refused { request, reason, epoch } => return self.on_refused(from, request, reason, epoch, now, out),
            Message::Forward { request, hops, body } => return self.on_forward(from, request, hops, body, now, out),
            Message::Forwarded { request, outcome } => return self.on_forwarded(from, request, outcome, now, out),
            Message::Gossip { epoch, members, wants_answer, wall_ms, current } => {
                self.compare_clocks(from, wall_ms, now);
                self.hear_of_itself(from, &members)?;
                self.hear_of_ring(from, epoch, current);
                self.on_gossip(from, epoch, members, wants_answer, now, out);
            }
            Message::RingRequest { epoch } => self.on_ring_request(from, epoch, out),
            Message::RingUpdate { ring } => return self.on_ring_update(ring, now, out),
            Message::Ping { answer: false } => out.push(Output::Send { to: from, message: Message::Ping { answer: true } }),
            Message::Ping { answer: true } => {}
            Message::Push { .. } => return self.on_push(from, message, now, out),
            Message::Confirm { batch, epoch, partition, reaped } => {
                return self.on_confirm(from, batch, epoch, partition, reaped, now, out);
            }
            Message::Pushed { batch, refused, epoch } => return self.on_pushed(from, batch, refused, epoch, now, out),
            Message::HistoriesRequest { .. } => return self.on_histories_request(from, message, now, out),
            Message::HistoriesResponse { batch, lacking } => return self.on_histories_response(from, batch, lacking, now, out),
            Message::TreeRequest { exchange, epoch, partition, root, reaped } => {
                return self.on_tree_request(from, exchange, epoch, partition, (root, reaped), now, out);
            }
            Message::TreeResponse { exchange, partition, root, leaves, reaped } => {
                self.heed_reaped(partition, reaped.as_ref(), root)?;
                return self.on_tree_response(from, exchange, partition, root, &leaves, now, out);
            }
            Message::KeysRequest { .. } => return self.on_keys_request(from, message, now, out),
            Message::KeysResponse { .. } => return self.on_keys_response(from, message, now, out),
            Message::ReapAsk { .. } => return self.on_reap_ask(from, message, now, out),
            Message::ReapAnswer { round, partition, question } => {
                return self.on_reap_answer(from, round, partition, question, now, out);
            }
            Message::ReapCommit { round, partition, names } => return self.on_reap_commit(from, round, partition, &names),
        }
        Ok(())
    }

    fn on_tick(&mut self, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        self.rings_told.tick(now.instant);
        self.versions.sweep();
        self.tick_requests(now, out)?;
        if self.gossip_timer.rings(now.instant, self.config.gossip_interval) {
            self.tick_gossip(now, out);
        }
        if self.declared_lost().is_some() {
            return Ok(());
        }
        self.tick_retargeting()?;
        let refused = self.tick_background(now, out)?;
        if self.movement_timer.rings(now.instant, self.config.movement_interval) || refused {
            self.tick_hints(now, out)?;
            self.tick_handbacks(now, out)?;
            self.tick_transfers(now, out)?;
            self.tick_reaping(now, out)?;
        }
        self.tick_anti_entropy(now, out)?;
        self.tick_checkpoints(now)?;
        if self.dots.run_short() {
            self.lease_dots()?;
        }
        Ok(())
    }

    /// After a killed process some of what was read may lie in the operating system's memory only: what this node tells others
    /// as durable waits for the group of the lease, behind which everything before it is on stable storage too.
    fn restore_durable(&mut self) -> Result<(), StorageError> {
        assert!(self.storage.has_writes(), "the lease of dots was written");
        if let Some(ring) = &self.ring {
            self.storage.hold(Waiting::Ring(ring.epoch));
        }
        self.restore_received()
    }

    fn lease_dots(&mut self) -> Result<(), StorageError> {
        let upto = self.dots.ask();
        self.storage.write_meta(b"dots", Some(&upto.to_be_bytes()))?;
        self.storage.hold(Waiting::DotLease(upto));
        Ok(())
    }

    /// The ring's epoch, 0 without one.
    fn epoch(&self) -> Epoch {
        self.ring.as_ref().map_or(Epoch(0), |ring| ring.epoch)
    }

    /// Whether requests to `peer` make sense: it is this node, or linked and not suspected, and not declared lost.
    fn reachable(&self, peer: NodeId, now: Now) -> bool {
        peer == self.identity.node || !(self.is_lost(peer) || self.detector.suspects(peer, now.instant))
    }

    fn next_batch(&mut self) -> u64 {
        self.batch_next += 1;
        self.batch_next
    }

    /// The ring this node holds.
    pub fn ring(&self) -> Option<&Arc<Ring>> {
        self.ring.as_ref()
    }

    /// Who this node is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The storage engine.
    pub fn storage(&self) -> &S {
        &self.storage
    }

    /// The storage engine, for its driver: a write through it opens no group, and [`Node::commit`] may not close it.
    pub fn storage_mut(&mut self) -> &mut S {
        self.storage.engine_mut()
    }

    /// The hash trees of its copies.
    pub fn trees(&self) -> &HashTrees {
        &self.trees
    }

    /// Every other node that was heard of, with where it is.
    pub fn addresses(&self) -> BTreeMap<NodeId, Address> {
        let others = self.gossip.members().iter().filter(|(node, _)| **node != self.identity.node);
        others
            .map(|(node, state)| (*node, Address { peer: state.peer_address.clone(), client: state.client_address.clone() }))
            .collect()
    }

    /// The newest start of `node` that was heard of.
    pub fn generation_of(&self, node: NodeId) -> Option<u64> {
        self.gossip.of(node).map(|state| state.generation)
    }

    /// Where peers dial `node`, as it says.
    pub fn peer_address(&self, node: NodeId) -> Option<&str> {
        self.gossip.members().get(&node).map(|state| state.peer_address.as_str())
    }

    /// Partitions that lie here though the ring gives them to others.
    fn foreign_partitions(&self) -> BTreeSet<PartitionId> {
        let Some(ring) = &self.ring else { return BTreeSet::new() };
        self.trees.partitions().filter(|partition| !ring.placement(*partition).involves(self.identity.node)).collect()
    }
}
