//! The world: hosts that run real nodes, the network between them, their disks, and time.
//!
//! [`Simulation`] does to each node exactly what its driver does: inputs are handled in batches, the batch is committed, then the
//! outputs are performed, and the commit is reported when its fsync returns. It decides nothing about requests, faults or rings:
//! those come from outside, by [`Simulation::request`], [`Simulation::crash`] and the like, between two calls of
//! [`Simulation::next`].

mod drive;
mod failures;
mod links;
mod observe;
mod revenants;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use dynamo_core::config::Config;
use dynamo_core::id::{ClusterId, Epoch, NodeId, RequestId};
use dynamo_core::message::Message;
use dynamo_core::name::Name;
use dynamo_core::node::{Identity, Input, Node, Output, ProposeError};
use dynamo_core::request::{ClientHandle, Outcome, Request};
use dynamo_core::ring::Ring;
use dynamo_core::time::{Instant, Now};
use dynamo_core::version::{CausalContext, Dot, Object, Value};

use crate::checkers::creates::{self, MadeBeside};
use crate::checkers::{redundancy, trees};
use crate::dice::Dice;
use crate::disk::{Disk, Dropped, Lost, Removed};
use crate::network::{Network, State};
use crate::options::Options;
use crate::ring_history::RingHistory;
use crate::schedule::{Alarm, Event, HostId, Schedule};
use crate::totals::Totals;
use crate::trace::{Trace, describe_request};
use crate::violation::Violation;
use crate::witness::{Acknowledged, Witness, WriteId};

/// What the world has to tell those outside.
#[derive(Clone, Debug)]
pub enum Happening {
    /// A client is answered.
    Answer(ClientHandle, Outcome),
    /// Somebody's alarm.
    Alarm(Alarm),
}

/// Stands for the wave of losses that the first disk is which goes back in time; those after it count down from here.
const FIRST_SET_BACK: u32 = u32::MAX;

/// How a node ends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Crash {
    /// The process dies; what it gave to the operating system will be written.
    Kill,
    /// What was not on stable storage may be gone.
    PowerLoss,
}

/// A machine.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) node_id: NodeId,
    pub(crate) zone: String,
    /// Counts starts.
    pub(crate) generation: u64,
    /// Counts pauses.
    pauses: u64,
    /// By how many starts its data directory is behind, since it was restored.
    restored_by: u64,
    /// Each time that its disk became what it was earlier.
    set_back: Vec<SetBack>,
    running: Option<Running>,
    /// While nothing runs.
    disk: Option<Disk>,
    address: String,
    /// What the wall clock is off by.
    skew_ms: i64,
    /// The driver's origin of time is not the simulation's.
    origin: u64,
    /// How long its fsyncs take, if not as the options say.
    sync: Option<Duration>,
    /// Gone for good.
    pub(crate) removed: bool,
    /// The next fsync fails.
    sync_fails: bool,
    /// Its disk holds bits that flipped: nothing runs on it any more.
    rotted: bool,
    /// Its disk is nearly full, as its driver sees it.
    nearly_full: bool,
    /// Its node runs elsewhere by now, from what was on its disk then: what runs here is a process of before.
    succeeded: Option<Box<Disk>>,
    /// The names of seeds lead to it all the same.
    is_named: bool,
    /// The reverse: a process of before runs elsewhere, or ran.
    has_revenant: bool,
    /// Its disk counts as destroyed, in this wave of losses.
    pub(crate) lost: Option<u32>,
    /// Bytes of hints that its ended starts took beyond the quota.
    hint_bytes_beyond_quota: u64,
}

/// A disk that went back in time.
#[derive(Debug)]
struct SetBack {
    /// As it was before.
    before: Disk,
    /// As it was then.
    after: Disk,
    /// The wave of losses that this is.
    wave: u32,
}

struct Running {
    node: Node<Disk>,
    out: Vec<Output>,
    batch_open: bool,
    paused: bool,
    /// Since when its monotonic clock stands still.
    suspended: Option<Instant>,
    /// It was started with the other settings.
    has_other_settings: bool,
    /// What arrived while the process stood still.
    inbox: VecDeque<Input>,
    /// When the last fsync returns: they return in order.
    synced_at: Instant,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("paused", &self.paused).finish_non_exhaustive()
    }
}

/// The world.
#[derive(Debug)]
pub struct Simulation {
    options: Options,
    now: Instant,
    schedule: Schedule,
    dice: Dice,
    network: Network,
    hosts: Vec<Host>,
    cluster: ClusterId,
    by_node: BTreeMap<NodeId, HostId>,
    by_address: BTreeMap<String, HostId>,
    clients: u64,
    rings: RingHistory,
    witness: Rc<RefCell<Witness>>,
    violations: Vec<Violation>,
    disks_calm: bool,
    in_flight_until: Instant,
    /// Disks that went back in time so far.
    set_back: u32,
    last_started: Option<HostId>,
    /// The versions that a coordinator sent to replicas under a number of its own.
    replicated: BTreeMap<(HostId, RequestId), Vec<Dot>>,
    /// Who told a coordinator that it has a version on stable storage.
    told_durable: BTreeSet<(Dot, NodeId)>,
    /// For what came later, so that other choices stay where they were.
    more: Dice,
    /// For what only runs with oddities have.
    odd: Dice,
    /// For what only runs with something of the past have.
    past: Dice,
    /// The trace.
    pub trace: Trace,
    /// What was counted.
    pub totals: Totals,
}

impl Simulation {
    /// A world without hosts.
    pub fn new(options: &Options, shown: bool) -> Self {
        let mut dice = Dice::new(options.seed ^ 0x77_6f72_6c64);
        Self {
            now: Instant(0),
            schedule: Schedule::default(),
            network: Network::new(options.network.clone(), options.odd.minutes_late, dice.fork()),
            hosts: Vec::new(),
            cluster: ClusterId(dice.identity()),
            by_node: BTreeMap::new(),
            by_address: BTreeMap::new(),
            clients: 0,
            rings: RingHistory::default(),
            witness: Rc::default(),
            violations: Vec::new(),
            disks_calm: true,
            in_flight_until: Instant(0),
            set_back: 0,
            last_started: None,
            replicated: BTreeMap::new(),
            told_durable: BTreeSet::new(),
            more: Dice::new(options.seed ^ 0x6d6f_7265_2077),
            odd: Dice::new(options.seed ^ 0x6f64_645f_686f_7374),
            past: Dice::new(options.seed ^ 0x7061_7374_686f_7374),
            trace: Trace::new(shown),
            totals: Totals::default(),
            options: options.clone(),
            dice,
        }
    }

    /// The present.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// When the last message that is under way now arrives.
    pub fn in_flight_until(&self) -> Instant {
        self.in_flight_until
    }

    /// The cluster of all hosts.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The options.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// What every disk's witness saw.
    pub fn witness(&self) -> std::cell::Ref<'_, Witness> {
        self.witness.borrow()
    }

    // --- hosts ------------------------------------------------------------------------------------------------------

    /// A new machine with an empty disk in the next zone; it is not started.
    pub fn add_host(&mut self) -> HostId {
        let zone = format!("zone-{}", self.hosts.len() % self.options.zones);
        self.add_host_in(zone)
    }

    fn add_host_in(&mut self, zone: String) -> HostId {
        let host = HostId(self.hosts.len());
        let node_id = NodeId(self.dice.identity());
        self.hosts.push(Host {
            node_id,
            zone,
            generation: 0,
            pauses: 0,
            restored_by: 0,
            set_back: Vec::new(),
            running: None,
            disk: Some(Disk::new(self.witness.clone())),
            address: String::new(),
            skew_ms: self.dice.between(0, 2_000) as i64 * self.options.skew.as_millis() as i64 / 1_000
                - self.options.skew.as_millis() as i64,
            origin: 0,
            sync: None,
            removed: false,
            sync_fails: false,
            rotted: false,
            nearly_full: false,
            succeeded: None,
            is_named: false,
            has_revenant: false,
            lost: None,
            hint_bytes_beyond_quota: 0,
        });
        self.network.add_host();
        self.by_node.insert(node_id, host);
        host
    }

    /// All hosts, the removed ones too.
    pub fn hosts(&self) -> impl Iterator<Item = HostId> + use<> {
        (0..self.hosts.len()).map(HostId)
    }

    /// Bytes of hints that a host's node took beyond the quota, in all its starts.
    pub fn hint_bytes_beyond_quota(&self, host: HostId) -> u64 {
        let Host { running, hint_bytes_beyond_quota, .. } = &self.hosts[host.0];
        hint_bytes_beyond_quota + running.as_ref().map_or(0, |running| running.node.counters().hint_bytes_beyond_quota)
    }

    /// Hosts whose node runs, paused or not.
    pub fn running(&self) -> Vec<HostId> {
        let runs = |host: &Host| host.running.is_some() && host.succeeded.is_none();
        self.hosts().filter(|host| runs(&self.hosts[host.0])).collect()
    }

    /// The host whose node started last.
    pub fn last_started(&self) -> Option<HostId> {
        self.last_started
    }

    /// Hosts whose node runs and is not paused.
    pub fn responsive(&self) -> Vec<HostId> {
        let answers = |host: &Host| host.running.as_ref().is_some_and(|running| !running.paused) && host.succeeded.is_none();
        self.hosts().filter(|host| answers(&self.hosts[host.0])).collect()
    }

    /// Hosts whose node does not run and that are not gone for good.
    pub fn stopped(&self) -> Vec<HostId> {
        let waits = |host: &Host| host.running.is_none() && !host.removed && !host.rotted && host.succeeded.is_none();
        self.hosts().filter(|host| waits(&self.hosts[host.0])).collect()
    }

    /// The node of a host, if it runs.
    pub fn node(&self, host: HostId) -> Option<&Node<Disk>> {
        self.hosts[host.0].running.as_ref().map(|running| &running.node)
    }

    /// The disk of a host, whether its node runs or not.
    pub fn disk(&self, host: HostId) -> &Disk {
        let host = &self.hosts[host.0];
        match (&host.running, &host.disk) {
            (Some(running), _) => running.node.storage(),
            (None, Some(disk)) => disk,
            (None, None) => unreachable!("a disk lies in a node or beside it"),
        }
    }

    /// Whether a host was taken away for good.
    pub fn is_removed(&self, host: HostId) -> bool {
        self.hosts[host.0].removed
    }

    /// The identity of a host's node.
    pub fn node_id(&self, host: HostId) -> NodeId {
        self.hosts[host.0].node_id
    }

    /// The zone of a host.
    pub fn zone(&self, host: HostId) -> &str {
        &self.hosts[host.0].zone
    }

    /// The host of a node.
    pub fn host_of(&self, node: NodeId) -> Option<HostId> {
        self.by_node.get(&node).copied()
    }

    /// Starts a host's node on what its disk holds; now and then it has another address than before.
    pub fn start(&mut self, host: HostId) {
        if !self.can_start(host) {
            return;
        }
        let number = self.dice.number();
        let moves = self.hosts[host.0].generation == 0 || self.dice.chance(0.5) || self.hosts[host.0].address.is_empty();
        let state = &mut self.hosts[host.0];
        assert!(!state.removed, "host {} is gone", host.0);
        let Some(disk) = state.disk.take() else { return };
        state.generation += 1;
        self.last_started = Some(host);
        state.origin = number % 1_000_000_000;
        if moves {
            self.by_address.remove(&state.address);
            state.address = format!("10.0.{}.{}", host.0, state.generation);
            self.by_address.insert(format!("{}:7401", state.address), host);
        }
        let identity = Identity {
            node: state.node_id,
            cluster: self.cluster,
            zone: state.zone.clone(),
            peer_address: format!("{}:7401", state.address),
            client_address: format!("{}:7400", state.address),
            generation: state.generation - state.restored_by,
        };
        let generation = state.generation;
        let now = self.clock(host);
        let other = self.draw_settings();
        let has_other_settings = other.is_some();
        let config = other.unwrap_or_else(|| self.options.config());
        match Node::open(identity, config, disk, number, now) {
            Ok(node) => {
                let inbox = VecDeque::new();
                let (out, synced_at) = (Vec::new(), self.now);
                let (batch_open, paused, suspended) = (false, false, None);
                let running = Running { node, out, batch_open, paused, suspended, has_other_settings, inbox, synced_at };
                self.hosts[host.0].running = Some(running);
            }
            Err(error) => return self.violated("I14 a disk that was only crashed opens", format!("host {}: {error}", host.0)),
        }
        self.trace.note(self.now, (1, host, generation), || format!("host {} starts, generation {generation}", host.0));
        let behind = self.node(host).and_then(Node::ring).is_some_and(|ring| ring.epoch < self.rings.newest());
        self.totals.started_behind += u64::from(behind);
        self.check_ring(host);
        self.check_trees(host);
        self.close_batch(host);
        let tick = self.options.pace.tick;
        let first_tick = self.dice.duration(Duration::ZERO, tick);
        self.after(first_tick, Event::Tick { host, generation });
        self.after(first_tick, Event::Dial { host, generation });
        if self.hosts[host.0].nearly_full {
            // A driver looks before it does anything else.
            self.feed(host, Input::Space { writable: false });
        }
    }

    /// The settings of a node that starts, if it gets the other ones: the rollout is under way as long as anything goes wrong.
    fn draw_settings(&mut self) -> Option<Config> {
        let other = self.options.other_config().filter(|_| !self.disks_calm && self.odd.chance(0.5))?;
        self.totals.starts_with_other_settings += 1;
        Some(other)
    }

    /// The rollout ends: nodes with the other settings are restarted.
    pub fn roll_out(&mut self) {
        let others = |host: &HostId| self.hosts[host.0].running.as_ref().is_some_and(|running| running.has_other_settings);
        for host in self.hosts().filter(others).collect::<Vec<_>>() {
            self.stop(host);
            self.start(host);
        }
    }

    /// Ends a host's node, without warning.
    pub fn crash(&mut self, host: HostId, crash: Crash) {
        let kept = self.dice.below(4);
        let mut lost = Lost::default();
        self.end(host, |disk| match crash {
            Crash::Kill => disk.killed(),
            Crash::PowerLoss => lost = disk.power_lost(kept),
        });
        self.count_lost(lost);
        self.trace.note(self.now, (2, host, crash), || format!("host {} crashes: {crash:?}", host.0));
    }

    /// Stops a host's node as a driver does on a request to stop: the last group is synced.
    pub fn stop(&mut self, host: HostId) {
        let Some(running) = &mut self.hosts[host.0].running else { return };
        let closed = running.node.close();
        if let Err(error) = closed {
            return self.storage_failed(host, &error);
        }
        self.end(host, |disk| disk.synced(disk.last_ticket()));
        self.trace.note(self.now, (3, host), || format!("host {} stops", host.0));
    }

    fn end(&mut self, host: HostId, disk: impl FnOnce(&mut Disk)) {
        let Some(mut running) = self.hosts[host.0].running.take() else { return };
        self.totals.add_counters(running.node.counters());
        self.hosts[host.0].hint_bytes_beyond_quota += running.node.counters().hint_bytes_beyond_quota;
        let mut left = std::mem::take(running.node.storage_mut());
        disk(&mut left);
        self.hosts[host.0].disk = Some(left);
        self.rings.ended(host);
        self.lose_links(host);
    }

    /// Takes a host away for good, disk and all.
    pub fn remove(&mut self, host: HostId) {
        self.end(host, Disk::killed);
        self.hosts[host.0].removed = true;
        let live = self.disk(host).live();
        self.check_dropped(host, &live);
        self.trace.note(self.now, (4, host), || format!("host {} is removed", host.0));
    }

    /// From now on a host's disk counts as destroyed, whether it is or not; those of one wave are lost at once. Returns a new machine
    /// with an empty disk in the same zone, which is not started.
    pub fn write_off(&mut self, host: HostId, wave: u32) -> HostId {
        self.hosts[host.0].lost = Some(wave);
        self.trace.note(self.now, (30, host, wave), || format!("host {} is written off", host.0));
        self.add_host_in(self.hosts[host.0].zone.clone())
    }

    /// A host that was written off goes, and nobody asks what was on its disk.
    pub fn scrap(&mut self, host: HostId) {
        assert!(self.is_lost(host), "host {} was not written off", host.0);
        self.end(host, Disk::killed);
        self.hosts[host.0].removed = true;
        self.trace.note(self.now, (31, host), || format!("host {} is scrapped", host.0));
    }

    /// Whether a host was written off.
    pub fn is_lost(&self, host: HostId) -> bool {
        self.hosts[host.0].lost.is_some()
    }

    /// How many disks the latest wave of losses has taken so far.
    pub fn lost_at_once(&self) -> usize {
        let wave = self.hosts.iter().filter_map(|host| host.lost).max();
        self.hosts.iter().filter(|host| wave.is_some() && host.lost == wave).count()
    }

    /// How many copies of `write` on stable storage were lost at once, at most.
    pub fn copies_lost(&self, write: WriteId) -> usize {
        let mut waves = BTreeMap::<u32, usize>::new();
        let witness = self.witness();
        let dots: Vec<_> = witness.dots_of(write).iter().filter_map(|dot| Some((witness.name_of(*dot)?, *dot))).collect();
        for host in self.hosts() {
            // A replica acknowledges as well what its copy has seen already.
            let held =
                |disk: &Disk| disk.has_held(write) == Some(true) || dots.iter().any(|(name, dot)| disk.has_seen(name, *dot));
            let knew = |disk: &Disk| held(disk) || dots.iter().any(|(name, dot)| disk.has_reaped(name, *dot));
            let Host { lost, set_back, succeeded, .. } = &self.hosts[host.0];
            if let Some(wave) = *lost
                && held(self.disk(host))
                && succeeded.as_deref().is_none_or(|image| !knew(image))
            {
                *waves.entry(wave).or_default() += 1;
            }
            for SetBack { wave, .. } in set_back.iter().filter(|disk| knew(&disk.before) && !knew(&disk.after)) {
                *waves.entry(*wave).or_default() += 1;
            }
        }
        waves.into_values().max().unwrap_or(0)
    }

    /// A host's process stands still for a while; what arrives waits.
    pub fn pause(&mut self, host: HostId, duration: Duration) {
        let state = &mut self.hosts[host.0];
        let Some(running) = &mut state.running else { return };
        running.paused = true;
        state.pauses += 1;
        let generation = state.generation;
        let suspensions = self.options.odd.suspensions;
        if suspensions > 0.0 && running.suspended.is_none() && self.odd.chance(suspensions) {
            running.suspended = Some(self.now);
            self.totals.suspensions += 1;
        }
        self.after(duration, Event::Resume { host, generation });
        self.trace.note(self.now, (5, host), || format!("host {} stands still for {duration:?}", host.0));
    }

    /// Which start of its node a host is in, if that answers: as long as this is what it was, whoever was asked owes an answer.
    pub fn answers_as(&self, host: HostId) -> Option<(u64, u64)> {
        let state = &self.hosts[host.0];
        state.running.as_ref().filter(|running| !running.paused).map(|_| (state.generation, state.pauses))
    }

    /// A host's wall clock jumps.
    pub fn jump_clock(&mut self, host: HostId, milliseconds: i64) {
        self.hosts[host.0].skew_ms += milliseconds;
        self.trace.note(self.now, (6, host), || format!("the wall clock of host {} jumps by {milliseconds} ms", host.0));
    }

    /// A host's fsyncs take this long from now on, or as long as the options say.
    pub fn slow_disk(&mut self, host: HostId, sync: Option<Duration>) {
        self.hosts[host.0].sync = sync;
    }

    /// Whether a host's disk has room for writes.
    pub fn has_room(&self, host: HostId) -> bool {
        !self.hosts[host.0].nearly_full
    }

    /// A host's disk becomes nearly full, or has room again, and the driver of its node says so.
    pub fn space(&mut self, host: HostId, writable: bool) {
        self.hosts[host.0].nearly_full = !writable;
        self.trace.note(self.now, (14, host, writable), || {
            format!("the disk of host {} {}", host.0, if writable { "has room again" } else { "is nearly full" })
        });
        self.feed(host, Input::Space { writable });
    }

    /// Whether messages, disks and drivers misbehave by the rates of the options.
    pub fn set_calm(&mut self, calm: bool) {
        self.network.set_calm(calm);
        self.disks_calm = calm;
    }

    /// The time as a host's driver sees it.
    pub fn clock(&self, host: HostId) -> Now {
        let state = &self.hosts[host.0];
        let wall_ms = 1_700_000_000_000 + (self.now.0 / 1_000) as i64 + state.skew_ms;
        Now { instant: Instant(state.origin.wrapping_add(self.now.0)), wall_ms: wall_ms as u64 }
    }

    // --- those outside ----------------------------------------------------------------------------------------------

    /// A client sends a request to a host. No answer comes if the host is down, or goes down before.
    pub fn request(&mut self, to: HostId, request: Request) -> ClientHandle {
        self.clients += 1;
        let client = ClientHandle(self.clients);
        let delay = self.network.delay();
        self.trace.note(self.now, (7, to, client), || {
            format!("client {} asks host {}: {}", client.0, to.0, describe_request(&request))
        });
        self.after(delay, Event::Request { to, client, request });
        client
    }

    /// A message that was sent long ago arrives now.
    pub fn deliver(&mut self, from: HostId, to: HostId, message: Message) {
        let (sender, generation) = (self.node_id(from), self.hosts[to.0].generation);
        let link = self.network.number(from, to);
        self.after(Duration::ZERO, Event::Deliver { from: sender, to, generation, link, message });
    }

    /// Calls [`Simulation::next`]'s caller back.
    pub fn alarm(&mut self, after: Duration, alarm: Alarm) {
        self.after(after, Event::Alarm(alarm));
    }

    /// Offers a ring to a host's node. False if it was refused or the node does not answer.
    pub fn propose(&mut self, host: HostId, ring: &Ring) -> bool {
        let now = self.clock(host);
        let Some(running) = self.hosts[host.0].running.as_mut().filter(|running| !running.paused) else { return false };
        let offered = running.node.propose_ring(ring.clone(), now, &mut running.out);
        if let Err(ProposeError::Storage(error)) = offered {
            self.storage_failed(host, &error);
            return false;
        }
        let accepted = offered.is_ok();
        self.trace.note(self.now, (8, host, ring.epoch, accepted), || {
            format!("epoch {} is offered to host {}: accepted {accepted}", ring.epoch, host.0)
        });
        self.close_batch(host);
        accepted
    }

    /// Runs until somebody outside is concerned, or until `until`.
    pub fn next(&mut self, until: Instant) -> Option<Happening> {
        while let Some((time, event)) = self.schedule.pop(until) {
            self.now = time;
            self.witness.borrow_mut().now = time;
            if let Some(happening) = self.perform(event) {
                return Some(happening);
            }
            if !self.violations.is_empty() {
                return None;
            }
        }
        // What is waited for may be over.
        self.now = self.now.max(until);
        None
    }

    /// What was violated so far.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    pub(crate) fn violated(&mut self, invariant: &'static str, what: String) {
        self.trace.note(self.now, invariant, || format!("VIOLATION {invariant}: {what}"));
        self.violations.push(Violation { invariant, what, at: self.now });
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.schedule.at(self.now + delay, event);
    }

    /// I10, I11: what a host drops is safe elsewhere.
    fn check_dropped(&mut self, host: HostId, dropped: &[Dropped]) {
        if let Err((invariant, what)) = redundancy::check(self, host, dropped) {
            self.violated(invariant, what);
        }
    }

    /// I10: what a host removes for all time.
    fn check_removed(&mut self, host: HostId, removed: &[Removed]) {
        if let Err((invariant, what)) = redundancy::check_removed(self, host, removed) {
            self.violated(invariant, what);
        }
    }

    /// Tombstones of `name` that have seen this are gone, rightly.
    pub(crate) fn reaped(&mut self, name: &Name, seen: &CausalContext) {
        self.witness.borrow_mut().reaped(name, seen);
    }

    /// A client was told that `write` has so many copies on stable storage.
    pub fn acknowledged(&mut self, write: WriteId, acknowledged: Acknowledged) {
        self.witness.borrow_mut().acknowledged(write, acknowledged);
    }

    /// Whether `node` told a coordinator of one of these versions that it has it on stable storage.
    pub fn told_durable(&self, dots: &[Dot], node: NodeId) -> bool {
        dots.iter().any(|dot| self.told_durable.contains(&(*dot, node)))
    }

    /// The client of `write` will send it once only.
    pub fn sent_once(&mut self, write: WriteId) {
        self.witness.borrow_mut().sent_once(write);
    }

    /// These writes of one key have one request id.
    pub fn share_an_id(&mut self, writes: &BTreeSet<WriteId>) {
        self.witness.borrow_mut().share_an_id(writes);
    }

    /// `write` is a create where siblings are kept.
    pub fn creates(&mut self, write: WriteId) {
        self.witness.borrow_mut().creates(write);
    }

    /// A client was told that its delete made the tombstone of this dot.
    pub fn deleted(&mut self, name: &Name, write: WriteId, dot: Dot) -> bool {
        self.witness.borrow_mut().deleted(name, write, dot)
    }

    /// A host says that it holds the ring of `epoch`.
    pub fn tells(&mut self, host: HostId, epoch: Epoch) {
        self.rings.tells(host, epoch);
    }

    /// The ring of an epoch, if any node ever held it.
    pub fn ring_of(&self, epoch: Epoch) -> Option<&Arc<Ring>> {
        self.rings.of(epoch)
    }

    /// I7: what a node starts with as its trees.
    fn check_trees(&mut self, host: HostId) {
        self.totals.starts_checked += 1;
        if let Err((invariant, what)) = trees::check(self, host) {
            self.violated(invariant, what);
        }
    }

    /// I18: what a node went on from as it made a create.
    fn check_made(&mut self, host: HostId, made: &[MadeBeside]) {
        let made: Vec<MadeBeside> = made.iter().filter(|made| self.may_know(host, made)).cloned().collect();
        if let Err((invariant, what)) = creates::check_made(self.node_id(host), &made) {
            self.violated(invariant, what);
        }
    }

    /// A home replica goes on from its own copy, and not from what it keeps for another: from before it was one, perhaps.
    fn may_know(&self, host: HostId, made: &MadeBeside) -> bool {
        let ring = self.node(host).and_then(Node::ring);
        let at_home = ring.is_some_and(|ring| ring.placement(ring.partition_of(&made.name)).involves(self.node_id(host)));
        let is_value = |value: &Value| value.data.as_deref().and_then(WriteId::of) == Some(made.value);
        let in_copy = |object: &Object| object.values().any(|(_, value)| is_value(value));
        !at_home || self.disk(host).objects().any(|(_, name, object)| *name == made.name && in_copy(object))
    }

    /// I8, I9: what a node holds as its ring.
    fn check_ring(&mut self, host: HostId) {
        let Some(ring) = self.node(host).and_then(Node::ring).cloned() else { return };
        if let Err((invariant, what)) = self.rings.holds(host, &ring) {
            self.violated(invariant, what);
        }
    }
}
