//! The loop that owns the node: it decides nothing but when this node calls itself ready.
//!
//! ```text
//! clients, peers, tools ──events──┐
//! syncer ──newest durable ticket──┼─> one turn: handle all that waits, commit once, perform the outputs
//! clock ──────────────────tick────┘        │                │              └─> answers, peers' queues
//!                                          │                └─> the syncer fsyncs, and reports
//!                                          └─> storage reads, inline
//! ```
//!
//! One turn is one group of writes: whatever arrived while the last turn ran shares one batch, one fsync and one frame to each
//! peer. Nothing here waits for an fsync; the storage is read inline. A lock is held for a few instructions and never while anything
//! waits, and no operation costs a task. A storage error ends the loop before its outputs are performed, so that nothing is
//! acknowledged that may not be there.

mod agreement;
mod clients;
mod clock;
mod inbox;
mod question;
mod space;
mod window;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use dynamo_core::durations::Durations;
use dynamo_core::id::{Epoch, NodeId};
use dynamo_core::message::Message;
use dynamo_core::node::{Input, Node, Output, ProposeError};
use dynamo_core::request::{Failure, Request};
use dynamo_core::ring::Ring;
use dynamo_core::storage::{StorageError, Ticket};
use dynamo_core::time::Now;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{error, info, warn};

use crate::budget::Budgets;
use crate::peers::{Link, LinkEvent, Peers};
use crate::refusals::Refusals;
use crate::storage::RocksEngine;
use crate::storage::syncer::{Durable, Syncer};

pub use clients::{CLIENTS_MAX, Reply};
pub use clock::Clock;
pub use inbox::{Closed, Inbox, Place, Queued};
pub use question::{Question, Refused, Snapshot, Topology};
pub use space::Space;
#[cfg(test)]
pub use window::SESSION_BYTES_MAX;
pub use window::{SessionReceiver, SessionSender, Window};

use agreement::Agreement;
use clients::Clients;

/// Events handled in one turn: enough to share a commit, few enough that the first answer is not kept waiting.
const EVENTS_PER_TURN: usize = 256;
/// Between two ticks; the protocol's intervals are multiples of it.
const TICK: Duration = Duration::from_millis(50);
/// Ticks between two looks at what changes slowly: readiness, background errors.
const TICKS_PER_CHECK: u64 = 10;
/// For so long a node that has its first ring waits for links to all other members before it calls itself ready.
const FINDS_OTHERS_WITHIN: Duration = Duration::from_secs(5);
/// Ticks between two looks at the free space, and at what others said of their settings: a second, in which a client on a fast link writes less than the reserve.
const TICKS_PER_LOOK: u64 = 20;
/// How long requests in flight may take once the node is told to stop. Below what a pod has: 60 s where the operator made it, 30 s where nobody
/// says, of which its other work takes a few.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// What happens to the loop.
pub enum Event {
    /// A client asks.
    Request {
        /// What.
        request: Request,
        /// Who waits.
        reply: Reply,
    },
    /// A session asks, in one frame.
    Session {
        /// What, with the client's numbers.
        requests: Vec<(u64, Request)>,
        /// Who waits.
        session: SessionSender,
    },
    /// A peer speaks, in one frame.
    Messages {
        /// Which.
        from: NodeId,
        /// What it says.
        messages: Vec<Message>,
    },
    /// A link came up or ended, or a peer dialled us.
    Link(LinkEvent),
    /// An administrator, a tool or a probe wants to know.
    Question(Question),
}

/// What the loop and those who ask it know of each other at any time.
#[derive(Clone)]
pub struct Shared {
    epoch: Arc<AtomicU64>,
    sessions_read: Arc<AtomicUsize>,
    /// What calls may hold.
    pub budgets: Budgets,
    /// What peers were refused.
    pub refusals: Arc<Refusals>,
}

impl Default for Shared {
    /// Of a node with plenty of memory.
    fn default() -> Self {
        Self::new(Budgets::of(u64::MAX))
    }
}

/// A session is being read as long as this is there.
pub struct Reading(Arc<AtomicUsize>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    /// Of a node whose calls may hold so much.
    pub fn new(budgets: Budgets) -> Self {
        Self { epoch: Arc::default(), sessions_read: Arc::default(), budgets, refusals: Arc::default() }
    }

    /// The epoch of the node's ring.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Relaxed))
    }

    /// A session begins to be read: the loop does not end before that does.
    pub fn reading(&self) -> Reading {
        self.sessions_read.fetch_add(1, Ordering::Relaxed);
        Reading(Arc::clone(&self.sessions_read))
    }

    /// Sessions that are being read.
    pub fn sessions_read(&self) -> usize {
        self.sessions_read.load(Ordering::Relaxed)
    }

    /// Both ends of a new session's answers, and its window.
    pub fn session(&self) -> (SessionSender, SessionReceiver, Arc<Window>) {
        SessionSender::new(Arc::clone(&self.budgets.answers))
    }
}

/// The loop and what it owns.
pub struct Driver {
    node: Node<RocksEngine>,
    syncer: Syncer,
    events: mpsc::Receiver<Queued>,
    peers: Peers,
    clients: Clients,
    clock: Clock,
    space: Space,
    shared: Shared,
    ready: watch::Sender<bool>,
    /// When this process had a ring for the first time.
    ring_since: Option<Now>,
    outputs: Vec<Output>,
    /// Rings that are held, and who offered them and waits until they are on stable storage.
    proposals: Vec<(Epoch, oneshot::Sender<Result<(), Refused>>)>,
    /// Who asked for its status, and is answered once it can say which ring it holds.
    asked_early: Vec<oneshot::Sender<Snapshot>>,
    /// The newest group that the syncer was not told of: at most a tick old.
    unsynced: Option<Ticket>,
    /// How long turns took: so long an answer may have waited for others.
    turns: Durations,
    ticks: u64,
    /// Files of objects are compacted, as RocksDB was told last: they are not when the database opens.
    compacts: bool,
    agreement: Agreement,
    stopping: bool,
}

impl Driver {
    /// A loop over `node`.
    pub fn new(
        node: Node<RocksEngine>,
        syncer: Syncer,
        events: mpsc::Receiver<Queued>,
        peers: Peers,
        clock: Clock,
        space: Space,
        shared: Shared,
        ready: watch::Sender<bool>,
    ) -> Self {
        let clients = Clients::default();
        let (outputs, unsynced, turns) = (Vec::new(), None, Durations::default());
        Self {
            node,
            syncer,
            events,
            peers,
            clients,
            clock,
            space,
            shared,
            ready,
            ring_since: None,
            outputs,
            proposals: Vec::new(),
            asked_early: Vec::new(),
            unsynced,
            turns,
            ticks: 0,
            compacts: false,
            agreement: Agreement::default(),
            stopping: false,
        }
    }

    /// Runs until `stop` completes and nothing is in flight, or the storage fails. `stopping` is told when new requests end.
    pub async fn run(mut self, stop: impl Future<Output = ()>, stopping: impl FnOnce()) -> Result<(), StorageError> {
        let mut reports = self.syncer.reports();
        let mut ticker = tokio::time::interval(TICK);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(EVENTS_PER_TURN);
        let mut deadline: Option<Instant> = None;
        let mut stopping = Some(stopping);
        tokio::pin!(stop);
        self.ring_changed();
        self.addresses_changed();
        self.look_at_space()?;
        while !self.is_drained(deadline) {
            let mut ticked = false;
            tokio::select! {
                biased;
                () = &mut stop, if deadline.is_none() => {
                    info!(in_flight = self.clients.len(), "stopping: no new requests");
                    self.stopping = true;
                    self.ready.send_replace(false);
                    deadline = Some(Instant::now() + DRAIN_MAX);
                    if let Some(stopping) = stopping.take() {
                        stopping();
                    }
                }
                // Waiting marks the report as seen; the turn has to see it too.
                _ = reports.changed() => reports.mark_changed(),
                _ = ticker.tick() => ticked = true,
                _ = self.events.recv_many(&mut batch, EVENTS_PER_TURN) => {}
            }
            while batch.len() < EVENTS_PER_TURN
                && let Ok(event) = self.events.try_recv()
            {
                batch.push(event);
            }
            self.turn(&mut batch, &mut reports, ticked)?;
        }
        self.finish()
    }

    fn is_drained(&self, deadline: Option<Instant>) -> bool {
        let idle = self.clients.is_empty() && self.events.is_empty() && self.shared.sessions_read() == 0;
        deadline.is_some_and(|deadline| idle || Instant::now() >= deadline)
    }

    /// Everything that waits, one commit, all outputs.
    fn turn(
        &mut self,
        batch: &mut Vec<Queued>,
        reports: &mut watch::Receiver<Durable>,
        ticked: bool,
    ) -> Result<(), StorageError> {
        let now = self.clock.now();
        match reports.has_changed() {
            Ok(false) => {}
            Ok(true) => {
                let ticket = reports.borrow_and_update().clone()?;
                self.node.handle(Input::Durable { ticket }, now, &mut self.outputs)?;
            }
            Err(_) => {
                let last = reports.borrow().clone()?;
                return Err(StorageError(format!("the syncer ended after ticket {}", last.0)));
            }
        }
        for queued in batch.drain(..) {
            self.handle(queued.event, now)?;
        }
        for peer in self.peers.take_given_up() {
            self.node.handle(Input::LinkDown { peer }, now, &mut self.outputs)?;
        }
        for (peer, request) in self.peers.take_not_asked() {
            self.node.handle(Input::NoRoom { peer, request }, now, &mut self.outputs)?;
        }
        if ticked {
            self.node.handle(Input::Tick, now, &mut self.outputs)?;
            self.tick(now)?;
        }
        self.unsynced = self.node.commit()?.or(self.unsynced);
        // Writes that nobody asked to be durable (dw = 0) share the fsync of those that somebody did, or the next tick's.
        if (ticked || self.node.awaits_durability())
            && let Some(ticket) = self.unsynced.take()
        {
            self.syncer.committed(ticket);
        }
        self.perform();
        self.answer_proposals();
        self.answer_early(now);
        self.turns.record(self.clock.now().instant.since(now.instant));
        Ok(())
    }

    fn handle(&mut self, event: Event, now: Now) -> Result<(), StorageError> {
        match event {
            Event::Request { request, reply } => self.ask(request, reply, now),
            Event::Session { requests, session } => {
                for (id, request) in requests {
                    self.ask(request, Reply::Session { id, session: session.clone() }, now)?;
                }
                Ok(())
            }
            Event::Messages { from, messages } => {
                self.heard(from);
                for message in messages {
                    self.node.handle(Input::Message { from, message }, now, &mut self.outputs)?;
                }
                Ok(())
            }
            Event::Link(event) => self.link(event, now),
            Event::Question(question) => self.answer(question, now),
        }
    }

    /// A peer speaks, so it is there. What it asks is answered on the link to it: without one it would wait for each answer in vain until
    /// that address is dialled again, as a process does that stood still while its peers gave up their links to it.
    fn heard(&mut self, from: NodeId) {
        if !self.peers.is_linked(from)
            && let Some(address) = self.node.peer_address(from)
        {
            self.peers.is_there(from, address);
        }
    }

    fn ask(&mut self, request: Request, reply: Reply, now: Now) -> Result<(), StorageError> {
        if self.stopping {
            refuse(reply);
            return Ok(());
        }
        match self.clients.admit(reply, &request) {
            Ok(client) => self.node.handle(Input::Request { client, request }, now, &mut self.outputs),
            Err((refused, bound)) => {
                refused.send(Err(Failure::Overloaded(format!("{bound}; retry later"))));
                Ok(())
            }
        }
    }

    fn link(&mut self, event: LinkEvent, now: Now) -> Result<(), StorageError> {
        match event {
            LinkEvent::Up(link) => {
                let Link { node: peer, peer_address, client_address, .. } = &link;
                let (peer, peer_address, client_address) = (*peer, peer_address.clone(), client_address.clone());
                if !self.peers.up(link) {
                    return Ok(());
                }
                info!(%peer, address = %peer_address, "linked");
                self.node.handle(Input::LinkUp { peer, peer_address, client_address }, now, &mut self.outputs)
            }
            LinkEvent::Down { node: peer, serial, reason } => {
                if !self.peers.down(peer, serial) {
                    return Ok(());
                }
                warn!(%peer, reason, "link lost");
                self.node.handle(Input::LinkDown { peer }, now, &mut self.outputs)
            }
            LinkEvent::Greeted { node, peer_address } => {
                self.peers.is_there(node, &peer_address);
                Ok(())
            }
        }
    }

    fn tick(&mut self, now: Now) -> Result<(), StorageError> {
        self.ticks += 1;
        if self.ticks.is_multiple_of(TICKS_PER_LOOK) {
            self.look_at_space()?;
            self.agreement.tell(self.node.differing_buckets());
        }
        let settled = *self.ready.borrow();
        if settled && !self.ticks.is_multiple_of(TICKS_PER_CHECK) {
            return Ok(());
        }
        self.node.storage_mut().check_background()?;
        // Without a ring a node stands by: tools call it ready, but no client should be sent here.
        let ready = self.node.ring().is_some() && !self.stopping && self.is_ready(now);
        if self.ready.send_if_modified(|known| std::mem::replace(known, ready) != ready) {
            info!(ready, "readiness changed");
        }
        Ok(())
    }

    fn look_at_space(&mut self) -> Result<(), StorageError> {
        let changed = self.space.look();
        if !self.space.is_writable() {
            self.node.storage().write_out_removals()?;
        }
        let writable = self.space.is_writable();
        if self.compacts != writable {
            if self.node.storage().compact(writable)? {
                self.compacts = writable;
            } else {
                warn!("no room to note whether to compact: tried again at the next look");
            }
        }
        let Some(writable) = changed else { return Ok(()) };
        self.node.handle(Input::Space { writable }, self.clock.now(), &mut self.outputs)
    }

    /// Requests make sense here: the node can issue dots, and as a member among others it sees one of them. With its first ring it waits a
    /// moment for all of them: a few that start together and have found only each other would take the rest for away.
    fn is_ready(&self, now: Now) -> bool {
        let own = self.node.identity().node;
        let Some(ring) = self.node.ring().filter(|ring| ring.members.contains_key(&own)) else {
            return self.node.is_ready();
        };
        let others = ring.members.len() - 1;
        let looks_for_all = self.ring_since.is_none_or(|since| now.instant.since(since.instant) < FINDS_OTHERS_WITHIN);
        let wanted = if looks_for_all && !*self.ready.borrow() { others } else { others.min(1) };
        let linked = ring.members.keys().filter(|member| self.peers.is_linked(**member)).count();
        self.node.is_ready() && linked >= wanted
    }

    fn perform(&mut self) {
        let mut outputs = std::mem::take(&mut self.outputs);
        for output in outputs.drain(..) {
            match output {
                Output::Send { to, message } => self.peers.send(to, message),
                Output::Respond { client, outcome } => self.clients.respond(client, outcome),
                Output::RingChanged => self.ring_changed(),
                Output::AddressesChanged => self.addresses_changed(),
            }
        }
        self.outputs = outputs;
    }

    fn ring_changed(&mut self) {
        let Some(ring) = self.node.ring() else { return };
        let previous = self.shared.epoch.swap(ring.epoch.0, Ordering::Relaxed);
        if previous == 0 {
            self.ring_since = Some(self.clock.now());
        }
        if previous != ring.epoch.0 {
            let moving = ring.moving_count();
            info!(epoch = %ring.epoch, members = ring.members.len(), moving, "ring adopted");
        }
    }

    fn addresses_changed(&mut self) {
        self.peers.dial(self.node.addresses().into_values().map(|address| address.peer));
    }

    fn propose(&mut self, ring: Ring, now: Now) -> Result<Result<(), Refused>, StorageError> {
        match self.node.propose_ring(ring, now, &mut self.outputs) {
            Ok(()) => Ok(Ok(())),
            Err(ProposeError::Ring(error)) => Ok(Err(Refused(error.to_string()))),
            Err(ProposeError::Storage(error)) => Err(error),
        }
    }

    /// Who asked and will not be heard any more is told so.
    fn refuse_the_rest(&mut self) {
        self.events.close();
        while let Ok(Queued { event, .. }) = self.events.try_recv() {
            match event {
                Event::Request { reply, .. } => refuse(reply),
                Event::Session { requests, session } => {
                    requests.into_iter().for_each(|(id, _)| refuse(Reply::Session { id, session: session.clone() }));
                }
                Event::Messages { .. } | Event::Link(_) | Event::Question(_) => {}
            }
        }
    }

    /// The last group, with the mark of a clean stop, is committed and fsynced. With it all rings are that were offered and taken.
    fn finish(mut self) -> Result<(), StorageError> {
        self.refuse_the_rest();
        let abandoned = self.clients.len();
        if abandoned > 0 {
            error!(abandoned, "stopped at the deadline with requests in flight; their clients do not know the outcome");
        }
        if let Some(ticket) = self.node.close()? {
            self.syncer.committed(ticket);
        }
        let ticket = self.syncer.finish()?;
        info!(ticket = ticket.0, "everything is on stable storage");
        for (_, reply) in self.proposals {
            drop(reply.send(Ok(())));
        }
        Ok(())
    }
}

fn refuse(reply: Reply) {
    reply.send(Err(Failure::NotServing("the node is stopping".into())));
}
