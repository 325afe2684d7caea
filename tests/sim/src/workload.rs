//! Clients: they read, modify and write with contexts, write blindly, delete and create, on few hot and some cold keys.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use dynamo_core::context;
use dynamo_core::id::RequestKey;
use dynamo_core::name::Name;
use dynamo_core::request::{ClientHandle, Evidence, Failure, Operation, Outcome, QuorumWish, Request, Success};
use dynamo_core::version::{Dot, Object};

use crate::checkers::creates::Creates;
use crate::checkers::{evidence, last_writer_wins};
use crate::dice::Dice;
use crate::ledger::{Fate, Ledger};
use crate::options::Options;
use crate::retries::{Again, Retries};
use crate::schedule::{Alarm, HostId};
use crate::simulation::Simulation;
use crate::sometimes;
use crate::witness::{Acknowledged, WriteId};

/// What a client means to do with what it reads.
#[derive(Clone, Copy, Debug)]
enum Then {
    Nothing,
    Put,
    Delete,
}

#[derive(Clone, Debug)]
enum Doing {
    /// `earlier` are the writes that the read must meet, since its quorum overlaps theirs.
    Get { name: Name, then: Then, earlier: BTreeSet<WriteId>, wish: QuorumWish },
    Write {
        name: Name,
        id: WriteId,
        wish: QuorumWish,
        /// The context that it carries.
        before: Bytes,
        /// The request, if it may be sent again.
        request: Option<Box<Request>>,
    },
}

/// A get that is answered.
struct Asked {
    name: Name,
    then: Then,
    earlier: BTreeSet<WriteId>,
    wish: QuorumWish,
}

/// Who was asked.
#[derive(Clone, Copy, Debug)]
struct Asking {
    client: usize,
    host: HostId,
    /// Of the host at that time.
    answers_as: Option<(u64, u64)>,
}

/// A context with the writes that it covers.
#[derive(Clone, Debug, Default)]
struct Known {
    token: Bytes,
    covers: BTreeSet<WriteId>,
}

/// What a client wants to write.
enum Intent {
    Put { create_only: bool },
    Delete,
}

#[derive(Debug, Default)]
struct Client {
    doing: Option<(ClientHandle, Doing)>,
    known: BTreeMap<Name, Known>,
}

/// All clients.
#[derive(Debug)]
pub struct Workload {
    options: Options,
    dice: Dice,
    /// Which steps are deletes beside the mix.
    deletes: Dice,
    /// Which bucket is asked: a stream of its own, so that runs with one bucket are what they were before there were more.
    buckets: Dice,
    /// Which deadlines requests have: a stream of its own as well.
    timeouts: Dice,
    /// What only runs with extremes draw.
    far: Dice,
    /// What only runs with oddities draw.
    odd: Dice,
    /// What only runs with something of the past draw.
    past: Dice,
    clients: Vec<Client>,
    waiting: BTreeMap<ClientHandle, Asking>,
    /// Attempts at a write that are under way beside the first.
    twins: BTreeMap<ClientHandle, (usize, Doing)>,
    stopped: bool,
    /// Which writes have which request id, where ids are used again.
    ids: BTreeMap<RequestKey, Vec<(Name, WriteId)>>,
    retries: Retries,
    /// What they were told of creates.
    pub creates: Creates,
    /// What they did.
    pub ledger: Ledger,
}

impl Workload {
    /// Clients that have not started.
    pub fn new(options: &Options) -> Self {
        Self {
            dice: Dice::new(options.seed ^ 0x636c_6965_6e74),
            deletes: Dice::new(options.seed ^ 0x6465_6c65_7465),
            timeouts: Dice::new(options.seed ^ 0x6465_6164_6c69_6e65),
            buckets: Dice::new(options.seed ^ 0x6b65_7973_7061_6365),
            far: Dice::new(options.seed ^ 0x6661_725f_776f_726b),
            odd: Dice::new(options.seed ^ 0x6f64_645f_776f_726b),
            past: Dice::new(options.seed ^ 0x7061_7374_776f_726b),
            clients: (0..options.workload.clients).map(|_| Client::default()).collect(),
            waiting: BTreeMap::new(),
            twins: BTreeMap::new(),
            stopped: false,
            ids: BTreeMap::new(),
            retries: Retries::new(options),
            creates: Creates::default(),
            ledger: Ledger::with_stamps_in(
                options.buckets.keys().filter(|bucket| options.last_writer_wins(bucket)).cloned().collect(),
            ),
            options: options.clone(),
        }
    }

    /// Everyone starts.
    pub fn start(&mut self, sim: &mut Simulation) {
        for client in 0..self.clients.len() {
            self.pause(client, sim);
        }
    }

    /// Nobody begins anything new.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// Whether nobody waits for an answer.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    fn pause(&mut self, client: usize, sim: &mut Simulation) {
        let think = self.dice.around(self.options.workload.think);
        sim.alarm(think, Alarm::Client(client));
    }

    /// A client's next step.
    pub fn step(&mut self, client: usize, sim: &mut Simulation) {
        if self.stopped || self.clients[client].doing.is_some() {
            return;
        }
        if let Some(again) = self.retries.due(client) {
            return self.write_again(client, again, sim);
        }
        let name = self.draw_name();
        if self.options.odd.requests > 0.0 && self.odd.chance(self.options.odd.requests) {
            return self.odd_step(client, name, sim);
        }
        let more_deletes = self.options.workload.deletes > 0.0 && self.deletes.chance(self.options.workload.deletes);
        let mix = self.dice.weighted(&[(6, 0), (2, 1), (1, 2), (1, 3), (2, 4), (3, 5)]);
        let choice = if more_deletes { 2 } else { mix };
        let blind = self.options.workload.blind > 0.0 && self.far.chance(self.options.workload.blind);
        let choice = if blind { 4 } else { choice };
        let choice = if self.options.workload.reads_first { 0 } else { choice };
        match choice {
            0 => self.get(client, name, Then::Put, sim),
            1 => self.get(client, name, Then::Nothing, sim),
            2 => self.get(client, name, Then::Delete, sim),
            3 => self.write(client, name, Known::default(), Intent::Put { create_only: true }, sim),
            4 => self.write(client, name, Known::default(), Intent::Put { create_only: false }, sim),
            _ => {
                // With whatever context it had of this key last, perhaps an old one, perhaps that of its own write.
                let known = self.clients[client].known.get(&name).cloned().unwrap_or_default();
                self.write(client, name, known, Intent::Put { create_only: false }, sim);
            }
        }
    }

    /// A delete by whatever context the client had of this key last, or a create with it: perhaps an old one, perhaps that of its own
    /// write, perhaps of one that was reaped. Where the last writer wins a delete needs none.
    fn odd_step(&mut self, client: usize, name: Name, sim: &mut Simulation) {
        let known = self.clients[client].known.get(&name).cloned().unwrap_or_default();
        let by_stamp = self.options.last_writer_wins(&name.bucket);
        let covers_nothing = sometimes::covers_nothing(sim, &name, &known.token);
        match self.odd.below(3) {
            0 if !covers_nothing => {
                sim.totals.deletes_by_old_contexts += 1;
                self.write(client, name, known, Intent::Delete, sim);
            }
            1 if by_stamp => {
                sim.totals.blind_deletes += 1;
                self.write(client, name, Known::default(), Intent::Delete, sim);
            }
            2 if !covers_nothing => {
                sim.totals.creates_with_contexts += 1;
                self.write(client, name, known, Intent::Put { create_only: true }, sim);
            }
            _ => self.get(client, name, Then::Nothing, sim),
        }
    }

    fn draw_name(&mut self) -> Name {
        let options = &self.options.workload;
        let hot = self.dice.chance(0.7);
        let key = if hot { self.dice.below(options.hot_keys) } else { options.hot_keys + self.dice.below(options.cold_keys) };
        Name::new(self.draw_bucket(), format!("k{key}"))
    }

    fn draw_bucket(&mut self) -> Bytes {
        let named = &self.options.buckets;
        let at = if named.is_empty() { 0 } else { self.buckets.below(named.len() + 1) };
        named.keys().nth(at.wrapping_sub(1)).cloned().unwrap_or_else(|| Bytes::from_static(b"carts"))
    }

    /// A deadline of the client's own, in half of the runs.
    fn draw_timeout(&mut self) -> u32 {
        if self.options.odd.long_timeouts {
            return self.odd.pick(&[0, 10_000, 60_000]);
        }
        if self.options.workload.own_timeouts { self.timeouts.pick(&[0, 0, 50, 300, 5_000]) } else { 0 }
    }

    fn draw_wish(&mut self, bucket: &Bytes) -> QuorumWish {
        if self.options.workload.reads_first {
            return QuorumWish::default();
        }
        let n = self.options.n_of(bucket);
        if self.options.workload.wishes > 0.0 && self.far.chance(self.options.workload.wishes) {
            return self.draw_any_wish(n);
        }
        let none = QuorumWish::default();
        let majority = n / 2 + 1;
        match self.dice.weighted(&[(60, 0), (4, 1), (4, 2), (3, 3), (1, 4), (2, 5), (2, 6), (24, 7)]) {
            1 => QuorumWish { r: Some(1), ..none },
            2 => QuorumWish { w: Some(1), ..none },
            3 => QuorumWish { dw: Some(1), ..none },
            4 => QuorumWish { dw: Some(0), ..none },
            5 => QuorumWish { w: Some(n), r: Some(n), ..none },
            6 => QuorumWish { pw: Some(1), pr: Some(1), dw: Some(n), ..none },
            7 => QuorumWish { w: Some(majority), pw: Some(majority), dw: Some(majority), pr: Some(majority), ..none },
            _ => none,
        }
    }

    /// Anything, now and then more than there can be.
    fn draw_any_wish(&mut self, n: u8) -> QuorumWish {
        let mut any = |least: u8| {
            let most = if self.far.chance(0.02) { n + 1 } else { n };
            let count = self.far.between(u64::from(least), u64::from(most)) as u8;
            self.far.chance(0.5).then_some(count)
        };
        QuorumWish { n: any(1), r: any(1), w: any(1), dw: any(0), pr: any(0), pw: any(0) }
    }

    /// What a write stores: its number, and as many bytes as values have.
    fn value(&self, id: WriteId) -> Bytes {
        let mut value = id.value().to_vec();
        value.resize(value.len().max(self.options.workload.value_bytes), 0);
        value.into()
    }

    /// How many copies on stable storage an acknowledgement will rest on.
    fn durable(&self, bucket: &Bytes, wish: &QuorumWish) -> usize {
        usize::from(evidence::durable(wish, &self.options.promised(bucket)))
    }

    fn get(&mut self, client: usize, name: Name, then: Then, sim: &mut Simulation) {
        let quorum = self.draw_wish(&name.bucket);
        // Of two processes under one id one may have what the other acknowledged.
        let overlapping = if sim.revenants().next().is_some() { usize::MAX } else { self.overlapping(&name, &quorum) };
        let earlier = self.ledger.held_by(&name, overlapping);
        let timeout_ms = self.draw_timeout();
        let request = Request { name: name.clone(), operation: Operation::Get, request_key: None, quorum, timeout_ms };
        self.send(client, request, Doing::Get { name, then, earlier, wish: quorum }, sim);
    }

    /// Of so many home replicas a get meets one.
    fn overlapping(&self, name: &Name, wish: &QuorumWish) -> usize {
        let pr = wish.pr.unwrap_or(evidence::inherited(wish, &self.options.promised(&name.bucket)).pr);
        usize::from((self.options.n_of(&name.bucket) + 1).saturating_sub(pr))
    }

    fn write(&mut self, client: usize, name: Name, known: Known, intent: Intent, sim: &mut Simulation) {
        let wish = self.draw_wish(&name.bucket);
        let delete = matches!(intent, Intent::Delete);
        let durable = self.durable(&name.bucket, &wish);
        sim.totals.deletes += u64::from(delete);
        let id = self.ledger.begin(name.clone(), delete, known.covers, durable);
        let before = known.token.clone();
        if matches!(intent, Intent::Put { create_only: true }) {
            self.creates.begin(id);
            if !self.options.last_writer_wins(&name.bucket) {
                sim.creates(id);
            }
        }
        let operation = match intent {
            Intent::Put { create_only } => Operation::Put { data: self.value(id), context: known.token, create_only },
            Intent::Delete => Operation::Delete { context: known.token },
        };
        let request_key = self.retries.key(&name);
        if self.options.past.reused_ids > 0.0
            && let Some(key) = request_key
        {
            self.note_id(id, &name, key, sim);
        }
        let timeout_ms = self.draw_timeout();
        let request = Request { name: name.clone(), operation, request_key, quorum: wish, timeout_ms };
        let again = request_key.is_some().then(|| Box::new(request.clone()));
        if again.is_none() {
            sim.sent_once(id);
        }
        if !self.send(client, request, Doing::Write { name, id, wish, before, request: again }, sim) {
            self.ledger.settle(id, Fate::Failed);
        }
    }

    /// A write is about to be sent under this request id. Of those that share one within a key nothing is promised but that it ends there.
    fn note_id(&mut self, id: WriteId, name: &Name, key: RequestKey, sim: &mut Simulation) {
        let others = self.ids.entry(key).or_default();
        let alike: Vec<WriteId> = others.iter().filter(|(other, _)| other == name).map(|(_, write)| *write).collect();
        sim.totals.ids_reused_elsewhere += u64::from(alike.is_empty() && !others.is_empty());
        sim.totals.ids_reused += u64::from(!alike.is_empty());
        others.push((name.clone(), id));
        if !alike.is_empty() {
            let alike = alike.into_iter().chain([id]).collect();
            sim.share_an_id(&alike);
            self.ledger.share_an_id(alike);
        }
    }

    /// The same request once more. If nobody is there to take it, nothing is known that was not known before.
    fn write_again(&mut self, client: usize, again: Again, sim: &mut Simulation) {
        sim.totals.writes_retried += 1;
        let (name, wish, before) = (again.name().clone(), again.wish(), again.context());
        let Again { id, request } = again;
        self.send(client, request.clone(), Doing::Write { name, id, wish, before, request: Some(Box::new(request)) }, sim);
    }

    /// Sends to a random host that runs; false if there is none.
    fn send(&mut self, client: usize, request: Request, doing: Doing, sim: &mut Simulation) -> bool {
        let hosts = sim.running();
        if hosts.is_empty() {
            self.pause(client, sim);
            return false;
        }
        // A node that has just started is where forgotten writes would do harm.
        let newest = sim.last_started().filter(|host| hosts.contains(host));
        let host = newest.filter(|_| self.dice.chance(0.25)).unwrap_or_else(|| self.dice.pick(&hosts));
        let of_before = sim.revenants().next().filter(|_| self.past.chance(0.3));
        let host = of_before.unwrap_or(host);
        if let Some(elsewhere) = self.retries.elsewhere(&request, host, &hosts) {
            sim.totals.writes_sent_to_two += 1;
            let handle = self.ask(client, elsewhere, request.clone(), sim);
            self.twins.insert(handle, (client, doing.clone()));
        }
        let handle = self.ask(client, host, request, sim);
        self.clients[client].doing = Some((handle, doing));
        true
    }

    fn ask(&mut self, client: usize, host: HostId, request: Request, sim: &mut Simulation) -> ClientHandle {
        let asked = Duration::from_millis(u64::from(request.timeout_ms)).max(self.options.pace.request_timeout);
        let handle = sim.request(host, request);
        self.waiting.insert(handle, Asking { client, host, answers_as: sim.answers_as(host) });
        sim.alarm(asked * 2 + Duration::from_secs(1), Alarm::GiveUp(handle));
        handle
    }

    /// The client, if this was its first attempt, and what it does.
    fn take(&mut self, handle: ClientHandle) -> Option<(Asking, bool, Doing)> {
        let asking = self.waiting.remove(&handle)?;
        if let Some((_, doing)) = self.twins.remove(&handle) {
            return Some((asking, false, doing));
        }
        let (_, doing) = self.clients[asking.client].doing.take()?;
        Some((asking, true, doing))
    }

    /// Whether another attempt at this write is under way.
    fn is_under_way(&self, write: WriteId) -> bool {
        let is_it = |doing: &Doing| matches!(doing, Doing::Write { id, .. } if *id == write);
        self.twins.values().any(|(_, doing)| is_it(doing))
            || self.clients.iter().any(|client| client.doing.as_ref().is_some_and(|(_, doing)| is_it(doing)))
    }

    /// A client has waited long enough: a write that was not answered may have happened.
    pub fn give_up(&mut self, handle: ClientHandle, sim: &mut Simulation) {
        let Some((Asking { client, host, answers_as }, first, doing)) = self.take(handle) else { return };
        // A message to a node that stands still waits; one to a node that has ended is lost.
        if answers_as.is_some() && answers_as == sim.answers_as(host) {
            let what = format!("host {} was up all the time, and did not answer client {}: {doing:?}", host.0, handle.0);
            return sim.violated("I17 every request is answered", what);
        }
        match doing {
            Doing::Write { id, request, .. } => {
                self.ledger.settle(id, Fate::Unknown);
                self.retries.consider(client, id, request, false);
                sim.totals.writes_unknown += 1;
            }
            Doing::Get { .. } => sim.totals.gets_failed += 1,
        }
        if first {
            self.pause(client, sim);
        }
    }

    /// A client is answered.
    pub fn answered(&mut self, handle: ClientHandle, outcome: Outcome, sim: &mut Simulation) {
        let Some((Asking { client, .. }, first, doing)) = self.take(handle) else { return };
        match doing {
            Doing::Get { name, then, earlier, wish } => {
                let asked = Asked { name, then, earlier, wish };
                self.got(client, asked, outcome, sim);
            }
            Doing::Write { name, id, wish, before, request } => {
                match outcome {
                    Ok(_) => self.retries.consider(client, id, request, true),
                    Err(Failure::Unknown { .. }) => self.retries.consider(client, id, request, false),
                    Err(_) => {}
                }
                let known = self.makes_known(&name, id, before, &outcome, sim);
                self.written(client, &name, (id, known), wish, outcome, sim);
            }
        }
        if first && self.clients[client].doing.is_none() {
            self.pause(client, sim);
        }
    }

    fn got(&mut self, client: usize, asked: Asked, outcome: Outcome, sim: &mut Simulation) {
        let Asked { name, then, earlier, wish } = asked;
        let Ok(Success::Got { object, context, evidence }) = outcome else {
            sim.totals.gets_failed += 1;
            return;
        };
        sim.totals.gets_ok += 1;
        let doubled = sim.witness().doubled(&name);
        sim.totals.doubles_checked += u64::from(!doubled.remembered.is_empty());
        self.ledger.forgive(doubled.forgotten);
        if let Err((invariant, what)) = evidence::check_get(sim, &name, &wish, &evidence) {
            return sim.violated(invariant, what);
        }
        sometimes::got(sim, &name, &object, &context);
        let (siblings, clients) = (object.siblings().count(), self.options.workload.clients);
        if self.options.workload.reads_first && siblings > clients {
            return sim.violated("I5 no more siblings than clients", format!("{name:?}: {siblings} of {clients} clients"));
        }
        // What was reaped is shown again by a disk that went back before that, until its node hears of it.
        let is_back = sim.has_set_back() && shows_reaped(sim, &name, &object);
        let values = object.siblings().map(|(data, _)| &data[..]);
        let covers = match if is_back { Ok(values.filter_map(WriteId::of).collect()) } else { self.ledger.read(&name, values) } {
            Ok(covers) => covers,
            Err((invariant, what)) => return sim.violated(invariant, what),
        };
        // Some may have been lost since, with all who had them.
        let enough = self.overlapping(&name, &wish);
        let is_held =
            |id: &WriteId| self.ledger.get(*id).is_some_and(|write| write.homes >= enough) && !self.ledger.shares_its_id(*id);
        let earlier: BTreeSet<WriteId> =
            earlier.into_iter().filter(is_held).filter(|_| !is_back && sim.revenants().next().is_none()).collect();
        sim.totals.overlaps_checked += u64::from(!earlier.is_empty());
        let by_stamp = self.options.last_writer_wins(&name.bucket);
        // A node that keeps siblings yet shows them.
        let mixed = self.options.is_mixed(&name.bucket);
        let met = match by_stamp {
            true if mixed && covers.len() > 1 => Ok(()),
            true => last_writer_wins::meets(&self.ledger, &sim.witness(), &name, &covers, &earlier),
            false => self.ledger.meets(&name, &covers, &earlier, |write| sim.witness().is_buried(write)),
        };
        if let Err((invariant, what)) = met {
            return sim.violated(invariant, what);
        }
        let known = Known { token: context, covers };
        self.clients[client].known.insert(name.clone(), known.clone());
        if self.stopped {
            return;
        }
        match then {
            Then::Nothing => {}
            Then::Put => self.write(client, name, known, Intent::Put { create_only: false }, sim),
            Then::Delete if sometimes::covers_nothing(sim, &name, &known.token) && (mixed || !by_stamp) => {}
            Then::Delete => self.write(client, name, known, Intent::Delete, sim),
        }
    }

    /// Whether it is known what to look for on the disks. A value is known by its number. An acknowledged delete names its tombstone:
    /// the context that it returns has one dot more than the one that it carried.
    fn makes_known(&self, name: &Name, id: WriteId, before: Bytes, outcome: &Outcome, sim: &mut Simulation) -> bool {
        let Ok(Success::Written { context: after, .. }) = outcome else { return false };
        if self.ledger.shares_its_id(id) {
            return false;
        }
        if self.ledger.get(id).is_some_and(|write| !write.delete) {
            return true;
        }
        let seen = |token| context::decode(token, sim.cluster(), name).map(|token| token.seen);
        let (Ok(before), Ok(after)) = (seen(before), seen(after.clone())) else { return false };
        let dots = after.0.iter().map(|(actor, counter)| Dot { actor: *actor, counter: *counter });
        let own: Vec<Dot> = dots.filter(|dot| !before.covers(*dot)).collect();
        let [own] = own[..] else { return false };
        let known = sim.deleted(name, id, own);
        sim.totals.tombstones_named += u64::from(known);
        known
    }

    /// What the acknowledgement rests on, for those who check what becomes of it.
    fn note_acknowledged(&mut self, id: WriteId, name: &Name, evidence: &Evidence, sim: &mut Simulation) {
        let copies = self.ledger.get(id).map_or(0, |write| write.durable);
        let holders = evidence::holders(sim, id, name, evidence);
        self.ledger.found_at(id, evidence::homes(sim, name, evidence.epoch, &holders));
        let Some(ring) = sim.ring_of(evidence.epoch).cloned() else { return };
        let partition = ring.partition_of(name);
        sometimes::acknowledged(sim, &ring, partition, evidence);
        let (name, epoch) = (name.clone(), evidence.epoch);
        sim.acknowledged(id, Acknowledged { copies, name, partition, epoch, homes: holders });
    }

    fn written(
        &mut self,
        client: usize,
        name: &Name,
        (id, known): (WriteId, bool),
        wish: QuorumWish,
        outcome: Outcome,
        sim: &mut Simulation,
    ) {
        let fate = match outcome {
            Ok(Success::Written { context, evidence }) => {
                sim.totals.writes_ok += 1;
                let was_unknown = self.ledger.get(id).is_some_and(|write| write.fate == Fate::Unknown);
                sim.totals.retries_ok += u64::from(was_unknown);
                let write = known.then_some(id);
                if !self.ledger.shares_its_id(id) {
                    self.note_acknowledged(id, name, &evidence, sim);
                }
                self.ledger.lose_of(id, sim.copies_lost(id));
                if let Err((invariant, what)) = evidence::check(sim, write, name, &wish, &evidence) {
                    sim.violated(invariant, what);
                }
                if context.is_empty() {
                    sim.totals.contexts_withheld += 1;
                    self.clients[client].known.remove(name);
                } else {
                    self.clients[client].known.insert(name.clone(), Known { token: context, covers: [id].into() });
                }
                Fate::Ok
            }
            Ok(Success::Got { .. }) => {
                return sim.violated("I13 honest outcomes", format!("a put of {name:?} was answered as a get"));
            }
            Err(Failure::Unknown { .. }) => {
                sim.totals.writes_unknown += 1;
                Fate::Unknown
            }
            Err(Failure::BadContext(reason)) => {
                return sim.violated("a context is accepted for its key", format!("{name:?}: {reason}"));
            }
            Err(failure) => {
                sim.totals.writes_failed += 1;
                if failure == Failure::Exists {
                    sim.totals.creates_refused += 1;
                    self.creates.refused(id, &self.ledger);
                }
                Fate::Failed
            }
        };
        // One attempt that wrote nothing says nothing of the other.
        if fate != Fate::Failed || !self.is_under_way(id) {
            self.ledger.settle(id, fate);
        }
    }
}

/// Whether a get shows a write that a tombstone superseded which was reaped.
fn shows_reaped(sim: &Simulation, name: &Name, object: &Object) -> bool {
    let witness = sim.witness();
    let is_reaped = |id| witness.dots_of(id).iter().any(|dot| witness.is_reaped(name, *dot));
    object.siblings().filter_map(|(data, _)| WriteId::of(data)).any(is_reaped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_core::time::Instant;

    use crate::simulation::{Crash, Happening};

    #[test]
    fn who_was_up_all_the_time_owes_an_answer_and_nobody_else() {
        type Between = fn(&mut Simulation, HostId);
        let cases: [(&str, Between, bool); 4] = [
            ("it was up", |_, _| {}, true),
            ("it is gone", |sim, host| sim.crash(host, Crash::Kill), false),
            (
                "it was started again",
                |sim, host| {
                    sim.crash(host, Crash::Kill);
                    sim.start(host);
                },
                false,
            ),
            ("it stood still", |sim, host| sim.pause(host, Duration::from_millis(10)), false),
        ];
        for (what, between, owes) in cases {
            let mut options = Options::calm(1, 1);
            options.workload.clients = 1;
            let mut sim = Simulation::new(&options, false);
            let host = sim.add_host();
            sim.start(host);
            let mut workload = Workload::new(&options);
            workload.get(0, Name::new("carts", "k"), Then::Nothing, &mut sim);
            between(&mut sim, host);
            // Whatever is answered gets lost on its way.
            let given_up = loop {
                match sim.next(Instant(60_000_000)) {
                    Some(Happening::Alarm(Alarm::GiveUp(handle))) => break handle,
                    Some(_) => {}
                    None => panic!("{what}: nobody gives up"),
                }
            };
            workload.give_up(given_up, &mut sim);
            let violated: Vec<_> = sim.violations().iter().map(|violation| violation.invariant).collect();
            assert_eq!(violated, if owes { vec!["I17 every request is answered"] } else { vec![] }, "{what}");
            assert!(workload.is_idle());
        }
    }
}
