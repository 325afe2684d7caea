//! Clients' requests (paper 4.5): coordinate here if this node holds the key, else forward to one that does.
//!
//! A write is forwarded to the replica that the client's context names, which served what the client read (paper 5; [`context`]).
//! A node outside the key's replicas coordinates only when none of them can be reached: "always writable". A request that is in
//! flight when a new ring arrives starts again under it, with the same dot: an acknowledgement is one wherever it was earned.

pub(super) mod in_flight;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::config::{
    BUCKET_BYTES_MAX, CONTEXT_BYTES_MAX, KEY_BYTES_MAX, QuorumDefaults, REQUEST_TIMEOUTS_MAX, SIBLINGS_MAX, VALUE_BYTES_MAX,
};
use crate::context;
use crate::coordinator::{Progress, get, put};
use crate::id::{Epoch, NodeId, PartitionId, RequestId};
use crate::message::{Message, NamedObject, Purpose, Refusal};
use crate::name::Name;
use crate::node::retries::{settles, told_by_one_of_two};
use crate::node::{Node, Output, Waiting};
use crate::preference_list::Nodes;
use crate::quorum::{self, Required};
use crate::recent_writes::RecentWrite;
use crate::reconciliation;
use crate::request::{ClientHandle, Evidence, Failure, Operation, Outcome, Request, Success};
use crate::ring::Ring;
use crate::storage::{Storage, StorageError};
use crate::time::{Instant, Now};
use crate::version::{CausalContext, Digest, Dot, Object, Value};
use in_flight::{ForwardJob, Job, PutJob, ReplyTo};

impl<S: Storage> Node<S> {
    pub(super) fn on_request(
        &mut self,
        client: ClientHandle,
        request: Request,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        self.route(ReplyTo::Client(client), request, 0, now, out)
    }

    pub(super) fn on_forward(
        &mut self,
        from: NodeId,
        number: RequestId,
        hops: u8,
        request: Request,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        if !self.requests.take(from, number, now.instant + self.timeout(&request) * 2) {
            return Ok(());
        }
        self.route(ReplyTo::Peer(from, number), request, hops, now, out)
    }

    /// Coordinates the request here or forwards it, once at most.
    fn route(&mut self, reply: ReplyTo, request: Request, hops: u8, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        if let Err(failure) = self.admissible(&request) {
            self.respond(reply, Err(failure), out);
            return Ok(());
        }
        let Some(ring) = self.ring.clone() else {
            self.respond(reply, Err(Failure::NoRing), out);
            return Ok(());
        };
        if let Some(since) = self.declared_lost() {
            self.respond(reply, Err(Failure::DeclaredLost { since }), out);
            return Ok(());
        }
        let partition = ring.partition_of(&request.name);
        let placement = ring.placement(partition);
        let takes_it = self.writable || matches!(request.operation, Operation::Get);
        let home = takes_it && placement.read_set().contains(&self.identity.node);
        if !home
            && hops == 0
            && let Some(to) = self.coordinator_of(&request, placement.writers(), now)
        {
            self.forward(reply, to, request, now, out);
            return Ok(());
        }
        match request.operation {
            Operation::Get => self.start_get(reply, &ring, partition, request, now, out),
            _ => self.start_put(reply, &ring, partition, request, now, out),
        }
    }

    /// The replica to forward `request` to: a write goes to the one that its context names, anything else to the first; in
    /// either case only to one that can be reached.
    fn coordinator_of(&self, request: &Request, writers: Nodes, now: Now) -> Option<NodeId> {
        let token = match &request.operation {
            Operation::Get => Bytes::new(),
            Operation::Put { context, .. } | Operation::Delete { context } => context.clone(),
        };
        // A token that is damaged is refused by whoever coordinates.
        let named = context::decode(token, self.identity.cluster, &request.name).ok().and_then(|token| token.coordinator);
        let usable = |node: &NodeId| *node != self.identity.node && self.reachable(*node, now);
        named.filter(|node| writers.contains(node) && usable(node)).or_else(|| writers.into_iter().find(usable))
    }

    /// The bounds that every request has to respect, and that this node is ready for it.
    fn admissible(&mut self, request: &Request) -> Result<(), Failure> {
        let too_long = |field: &str, length: usize, most: usize| {
            let refused = || Failure::Invalid(format!("{field} has {length} bytes, the limit is {most}"));
            if length > most { Err(refused()) } else { Ok(()) }
        };
        if request.name.key.is_empty() {
            return Err(Failure::Invalid("key is empty; give 1 to 1024 bytes".into()));
        }
        too_long("key", request.name.key.len(), KEY_BYTES_MAX)?;
        too_long("bucket", request.name.bucket.len(), BUCKET_BYTES_MAX)?;
        match &request.operation {
            Operation::Put { data, context, .. } => {
                too_long("value", data.len(), VALUE_BYTES_MAX)?;
                too_long("context", context.len(), CONTEXT_BYTES_MAX)?;
            }
            Operation::Delete { context } if context.is_empty() && !self.config.last_writer_wins(&request.name.bucket) => {
                let missing =
                    "context is missing; get the key first, a delete in a bucket that keeps siblings needs that get's context";
                return Err(Failure::Invalid(missing.into()));
            }
            Operation::Delete { context } => too_long("context", context.len(), CONTEXT_BYTES_MAX)?,
            Operation::Get => {}
        }
        if self.requests.len() >= self.config.requests_max {
            self.counters.requests_refused_overload += 1;
            return Err(Failure::Overloaded(format!("{} requests are in flight here", self.config.requests_max)));
        }
        if self.dot_next >= self.dot_leased && !matches!(request.operation, Operation::Get) {
            return Err(Failure::Overloaded("the node is starting: its lease of dots is not on stable storage yet".into()));
        }
        Ok(())
    }

    fn timeout(&self, request: &Request) -> Duration {
        let given = Duration::from_millis(u64::from(request.timeout_ms));
        if given.is_zero() { self.config.request_timeout } else { given.min(self.config.request_timeout * REQUEST_TIMEOUTS_MAX) }
    }

    fn forward(&mut self, reply: ReplyTo, to: NodeId, request: Request, now: Now, out: &mut Vec<Output>) {
        let number = self.requests.number();
        let writes = !matches!(request.operation, Operation::Get);
        // The coordinator answers at its deadline; the extra time is for the answer's way back.
        let deadline = now.instant + self.timeout(&request) + Duration::from_millis(500);
        let again = (!writes || request.request_key.is_some()).then(|| request.clone());
        self.requests.forwards.insert(number, ForwardJob { reply, to, writes, deadline, again, earlier: None });
        self.arm(number, deadline, now);
        self.counters.requests_forwarded += 1;
        out.push(Output::Send { to, message: Message::Forward { request: number, hops: 1, body: request } });
    }

    /// Time is up for a forwarded request: one that may be repeated and was not answered soon is asked of another replica, once;
    /// at the deadline the client is told.
    fn tick_forward(&mut self, number: RequestId, now: Now, out: &mut Vec<Output>) {
        let Some(job) = self.requests.forwards.get_mut(&number) else { return };
        if now.instant >= job.deadline {
            self.give_up_forward(number, out);
            return;
        }
        let (silent, again) = (job.to, job.again.take());
        let Some((request, ring)) = again.zip(self.ring.clone()) else { return };
        let own = self.identity.node;
        let writers = ring.placement(ring.partition_of(&request.name)).writers();
        let other = writers.into_iter().find(|node| *node != silent && *node != own && self.reachable(*node, now));
        if let (Some(to), Some(job)) = (other, self.requests.forwards.get_mut(&number)) {
            job.to = to;
            job.earlier = job.writes.then_some(silent);
            self.counters.forwards_asked_again += 1;
            out.push(Output::Send { to, message: Message::Forward { request: number, hops: 1, body: request } });
        }
    }

    pub(super) fn on_forwarded(&mut self, from: NodeId, number: RequestId, outcome: Outcome, out: &mut Vec<Output>) {
        if self.requests.forwards.get(&number).is_some_and(|job| settles(from, job.to, job.earlier, &outcome))
            && let Some(job) = self.requests.forwards.remove(&number)
        {
            let outcome = if job.earlier.is_some() { told_by_one_of_two(outcome) } else { outcome };
            self.respond(job.reply, outcome, out);
        }
    }

    fn respond(&self, reply: ReplyTo, outcome: Outcome, out: &mut Vec<Output>) {
        out.push(match reply {
            ReplyTo::Client(client) => Output::Respond { client, outcome },
            ReplyTo::Peer(to, request) => Output::Send { to, message: Message::Forwarded { request, outcome } },
        });
    }

    /// Home replicas of `homes` that are suspected.
    fn suspected(&self, homes: &[NodeId], now: Now) -> Nodes {
        homes.iter().filter(|node| !self.reachable(**node, now)).copied().collect()
    }

    /// The fallbacks that can be reached, this node first if it is none of `homes`.
    fn reachable_fallbacks(&mut self, ring: &Ring, partition: PartitionId, homes: &[NodeId], now: Now) -> Vec<NodeId> {
        let ranked = self.requests.ranking.of(ring, partition);
        let mut fallbacks: Vec<NodeId> = ranked.iter().filter(|node| self.reachable(**node, now)).copied().collect();
        let own = self.identity.node;
        if !homes.contains(&own) {
            fallbacks.retain(|node| *node != own);
            fallbacks.insert(0, own);
        }
        fallbacks
    }

    fn start_get(
        &mut self,
        reply: ReplyTo,
        ring: &Arc<Ring>,
        partition: PartitionId,
        request: Request,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let (defaults, n) = self.quorum_of(ring, partition, &request.name.bucket);
        let required = match quorum::for_get(&request.quorum, &defaults, n) {
            Ok(required) => required,
            Err(failure) => {
                self.respond(reply, Err(failure), out);
                return Ok(());
            }
        };
        let deadline = now.instant + self.timeout(&request);
        let mut outputs = std::mem::take(&mut self.requests.get_outputs);
        let machine = self.get_machine(ring, partition, required, deadline, now, &mut outputs);
        let number = self.requests.number();
        let begun = now.instant;
        let job = Job { reply, name: request.name, partition, epoch: ring.epoch, required, begun, deadline, machine };
        self.requests.gets.insert(number, Box::new(job));
        self.arm(number, deadline, now);
        self.perform_get(number, outputs, now, out)
    }

    /// The settings of `bucket` and the N of its objects, which lie in `partition`. One with an N of its own need not repeat R and W.
    fn quorum_of(&self, ring: &Ring, partition: PartitionId, bucket: &Bytes) -> (QuorumDefaults, u8) {
        let (settings, n) = (self.config.quorum_of(bucket), ring.replication_of(partition));
        (if n < ring.replication { settings.capped(n) } else { settings }, n)
    }

    fn get_machine(
        &mut self,
        ring: &Ring,
        partition: PartitionId,
        required: Required,
        deadline: Instant,
        now: Now,
        outputs: &mut Vec<get::Output>,
    ) -> get::Get {
        let homes = readers(ring, ring.placement(partition).read_set(), required);
        let suspected = self.suspected(&homes, now);
        let fallbacks = self.reachable_fallbacks(ring, partition, &homes, now);
        let own = self.identity.node;
        let fallback_at = now.instant + self.config.hint_after;
        get::Get::start(get::Start { homes, own, suspected, fallbacks, required, fallback_at, deadline }, outputs)
    }

    /// Two looks: when silent replicas are replaced, and at the deadline.
    fn arm(&mut self, number: RequestId, deadline: Instant, now: Now) {
        let look = now.instant + self.config.hint_after;
        if deadline <= look {
            self.requests.deadlines.insert((deadline, number));
        }
        self.requests.looks.push_back((look, number));
    }

    fn start_put(
        &mut self,
        reply: ReplyTo,
        ring: &Arc<Ring>,
        partition: PartitionId,
        request: Request,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let (defaults, n) = self.quorum_of(ring, partition, &request.name.bucket);
        let admitted = quorum::for_put(&request.quorum, &defaults, n)
            .and_then(|required| self.enough_reachable(ring, partition, required, now).map(|()| required))
            .and_then(|required| self.clock_agrees(&request.name.bucket, now).map(|()| required))
            .and_then(|required| self.enough_space().map(|()| required));
        let required = match admitted {
            Ok(required) => required,
            Err(failure) => {
                self.counters.puts_refused_clock_skew += u64::from(matches!(failure, Failure::ClockSkew(_)));
                self.counters.puts_failed += 1;
                self.respond(reply, Err(failure), out);
                return Ok(());
            }
        };
        let deadline = now.instant + self.timeout(&request);
        let name = request.name.clone();
        let (object, context) = match self.next_version(ring, partition, request, now)? {
            Ok(version) => version,
            Err(failure) => {
                self.counters.puts_failed += 1;
                self.respond(reply, Err(failure), out);
                return Ok(());
            }
        };
        let mut outputs = std::mem::take(&mut self.requests.put_outputs);
        let machine = self.put_machine(ring, partition, required, deadline, now, &mut outputs);
        let number = self.requests.number();
        let job = Job { reply, name, partition, epoch: ring.epoch, required, begun: now.instant, deadline, machine };
        self.requests.puts.insert(number, Box::new(PutJob { job, object, context }));
        self.arm(number, deadline, now);
        self.keep_own_dot(ring, number)?;
        self.perform_put(number, outputs, now, out)
    }

    /// A coordinator that is no replica keeps what it made, as a hint: its next version of the object must include it. If it may
    /// not (the quota), its next dots are by a new actor.
    fn keep_own_dot(&mut self, ring: &Ring, number: RequestId) -> Result<(), StorageError> {
        let Some(PutJob { job, object, .. }) = self.requests.puts.get(&number).map(Box::as_ref) else { return Ok(()) };
        let (name, partition, object) = (job.name.clone(), job.partition, object.clone());
        let placement = ring.placement(partition);
        if placement.involves(self.identity.node) {
            return Ok(());
        }
        match self.apply_hint(placement.read_set()[0], partition, &name, &object)? {
            Ok(()) => Ok(()),
            Err(_) => self.end_tenure(partition),
        }
    }

    fn put_machine(
        &mut self,
        ring: &Ring,
        partition: PartitionId,
        required: Required,
        deadline: Instant,
        now: Now,
        outputs: &mut Vec<put::Output>,
    ) -> put::Put {
        let placement = ring.placement(partition);
        let sets = placement.write_sets().into_iter().map(Nodes::from_slice).collect();
        let homes = placement.writers();
        let suspected = self.suspected(&homes, now);
        let fallbacks = self.reachable_fallbacks(ring, partition, &homes, now);
        let hint_at = now.instant + self.config.hint_after;
        put::Put::start(put::Start { sets, suspected, fallbacks, required, hint_at, deadline }, outputs)
    }

    /// A put that cannot reach its quorum is refused before anything is written.
    fn enough_reachable(&mut self, ring: &Ring, partition: PartitionId, required: Required, now: Now) -> Result<(), Failure> {
        for set in ring.placement(partition).write_sets() {
            let suspected = self.suspected(set, now).len();
            let homes = set.len() - suspected;
            let stand_ins = if suspected == 0 { 0 } else { self.reachable_fallbacks(ring, partition, set, now).len() };
            let available = homes + stand_ins.min(suspected);
            if available < required.total || homes < required.primary {
                let required = required.total as u32;
                return Err(Failure::Unavailable { acknowledged: available as u32, required });
            }
        }
        Ok(())
    }

    /// A node whose clock is wrong makes no stamps that decide anything.
    fn clock_agrees(&self, bucket: &Bytes, now: Now) -> Result<(), Failure> {
        if !self.config.last_writer_wins(bucket) {
            return Ok(());
        }
        self.clocks.skew(now, self.config.clock_skew_ms_max).map_or(Ok(()), |skew| Err(Failure::ClockSkew(skew.to_string())))
    }

    /// The object as it is after this put, on this node's own whole copy, under a fresh dot; and the token for the client.
    fn next_version(
        &mut self,
        ring: &Ring,
        partition: PartitionId,
        request: Request,
        now: Now,
    ) -> Result<Result<(Object, Bytes), Failure>, StorageError> {
        let Request { name, operation, request_key, .. } = request;
        let (data, token, create_only) = match operation {
            Operation::Put { data, context, create_only } => (Some(data), context, create_only),
            Operation::Delete { context } => (None, context, false),
            Operation::Get => return Ok(Err(Failure::Invalid("a get is not a put".into()))),
        };
        let mut seen = match context::decode(token, self.identity.cluster, &name) {
            Ok(token) => token.seen,
            Err(error) => return Ok(Err(Failure::BadContext(error.to_string()))),
        };
        let last_writer_wins = self.config.last_writer_wins(&name.bucket);
        let own_copy = ring.placement(partition).involves(self.identity.node);
        let mut object = if own_copy {
            let (history, _) = self.history(partition, &name)?;
            let superseded = last_writer_wins || history.values().all(|(dot, _)| seen.covers(dot));
            // What is superseded anyway need not be read; a create looks at the values.
            if superseded && !create_only { history } else { self.known(ring, partition, &name)? }
        } else {
            self.known(ring, partition, &name)?
        };
        if let Some(made) = self.made_before(ring, partition, &name, request_key, &seen, &object)? {
            return Ok(made);
        }
        let exists = |object: &Object| match last_writer_wins {
            true => reconciliation::exists(object),
            false => object.siblings().next().is_some(),
        };
        if create_only && exists(&object) {
            return Ok(Err(Failure::Exists));
        }
        // What is covered by a proof (the floor of an absent name) may be covered by anybody.
        let dot = self.fresh_dot(partition, &object, &seen)?;
        let exact = last_writer_wins || !object.has_unseen_below(Dot { counter: u64::MAX, ..dot }, &seen);
        if own_copy && object.is_empty() {
            object = self.absent(partition)?;
        }
        if last_writer_wins {
            let (covered, discarded) = reconciliation::cover_all(&object, seen);
            seen = covered;
            self.counters.last_writer_wins_discarded += discarded;
        }
        self.dot_next = dot.counter;
        let written_ms = object.next_stamp(seen.1.next_stamp(now.wall_ms));
        object.update(&seen, dot, Value { data, written_ms });
        if let Some(key) = request_key {
            object.remember(RecentWrite { stamp: written_ms, key, dot });
        }
        if object.values().count() > SIBLINGS_MAX {
            let refused = format!("the key has {SIBLINGS_MAX} siblings, get it and put the merged value with its context");
            return Ok(Err(Failure::Overloaded(refused)));
        }
        // Made here, before it is copied: its own copy and all messages share the bytes.
        object.encode();
        let covered = self.context_after(own_copy, &name, &object, &seen, dot);
        let context = if exact { covered } else { Bytes::new() };
        Ok(Ok((object, context)))
    }

    /// The token that covers what the client knows after its put: what it had seen, and its own version. A counter covers all
    /// lower ones of its actor. Where a version that the client never saw lies below its own, no token says what it knows: it is
    /// empty, and the client has to get before it can replace. That holds for one that was replaced here as well; what replaced it
    /// need not have arrived where the token is used next.
    pub(super) fn context_after(&self, own_copy: bool, name: &Name, object: &Object, seen: &CausalContext, own: Dot) -> Bytes {
        let mut covered = seen.clone();
        let counter = covered.0.get_or_insert_with(own.actor, u64::default);
        *counter = own.counter.max(*counter);
        let recent = object.recent().covered(|dot| covered.covers(dot));
        covered.1.join(&recent);
        let coordinator = own_copy.then_some(self.identity.node);
        context::encode(&covered, coordinator, self.identity.cluster, name)
    }

    fn perform_put(
        &mut self,
        number: RequestId,
        mut outputs: Vec<put::Output>,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        for output in outputs.drain(..) {
            match output {
                put::Output::Replicate { to, hint_for } if to == self.identity.node => {
                    self.write_own(number, hint_for, now, out)?;
                }
                put::Output::Replicate { to, hint_for } => self.send_replicate(number, to, hint_for, out),
                put::Output::KeepHint { home } if home != self.identity.node => {
                    if let Some(PutJob { job, object, .. }) = self.requests.puts.get(&number).map(Box::as_ref) {
                        let (name, partition, object) = (job.name.clone(), job.partition, object.clone());
                        let _within_quota = self.apply_hint(home, partition, &name, &object)?;
                    }
                }
                put::Output::KeepHint { .. } => {}
                put::Output::Answer(answer) => self.answer_put(number, answer, now, out),
            }
        }
        self.requests.put_outputs = outputs;
        Ok(())
    }

    fn send_replicate(&self, number: RequestId, to: NodeId, hint_for: Option<NodeId>, out: &mut Vec<Output>) {
        let Some(PutJob { job, object, .. }) = self.requests.puts.get(&number).map(Box::as_ref) else { return };
        let message = Message::Replicate {
            request: number,
            epoch: job.epoch,
            name: job.name.clone(),
            object: object.clone(),
            hint_for,
            // With dw = 1 the coordinator's own fsync is the one that counts (paper 6.1).
            synced: job.required.durable > 1,
        };
        out.push(Output::Send { to, message });
    }

    /// The coordinator's own copy, or the one that it keeps for `hint_for`.
    fn write_own(
        &mut self,
        number: RequestId,
        hint_for: Option<NodeId>,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let Some(PutJob { job, object, .. }) = self.requests.puts.get(&number).map(Box::as_ref) else { return Ok(()) };
        let (name, partition, object) = (job.name.clone(), job.partition, object.clone());
        let own = self.identity.node;
        let accepted = match hint_for {
            None => self.apply(partition, &name, &object)?,
            Some(target) => self.apply_hint(target, partition, &name, &object)?,
        };
        match accepted {
            Ok(()) => {
                let fsync_counts = self.requests.puts.get(&number).is_some_and(|put| put.job.required.durable > 0);
                self.put_input(number, put::Input::Acknowledged { by: own, durable: false }, now, out)?;
                if fsync_counts { self.when_durable(Waiting::OwnWrite(number), now, out) } else { Ok(()) }
            }
            Err(_) => self.put_input(number, put::Input::Failed { by: own }, now, out),
        }
    }

    pub(super) fn on_own_write_durable(
        &mut self,
        number: RequestId,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let by = self.identity.node;
        self.put_input(number, put::Input::Acknowledged { by, durable: true }, now, out)
    }

    fn put_input(&mut self, number: RequestId, input: put::Input, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        let Some(PutJob { job, .. }) = self.requests.puts.get_mut(&number).map(Box::as_mut) else { return Ok(()) };
        let mut outputs = std::mem::take(&mut self.requests.put_outputs);
        let progress = job.machine.handle(input, now.instant, &mut outputs);
        self.perform_put(number, outputs, now, out)?;
        if progress == Progress::Settled
            && let Some(put) = self.requests.puts.remove(&number)
        {
            self.requests.deadlines.remove(&(put.job.deadline, number));
        }
        Ok(())
    }

    fn answer_put(&mut self, number: RequestId, answer: Result<(), Failure>, now: Now, out: &mut Vec<Output>) {
        let Some(PutJob { job, context, .. }) = self.requests.puts.get_mut(&number).map(Box::as_mut) else { return };
        let reply = job.reply;
        self.admission.answered(now.instant.since(job.begun), now.instant);
        let outcome = match answer {
            Ok(()) => {
                self.counters.puts_ok += 1;
                let (nodes, durable, hinted) = job.machine.evidence();
                let evidence = Evidence { epoch: job.epoch, nodes, durable, hinted };
                Ok(Success::Written { context: std::mem::take(context), evidence })
            }
            Err(failure) => {
                self.counters.puts_unknown += 1;
                Err(failure)
            }
        };
        self.respond(reply, outcome, out);
    }

    fn perform_get(
        &mut self,
        number: RequestId,
        mut outputs: Vec<get::Output>,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        for output in outputs.drain(..) {
            match output {
                get::Output::Fetch { from, digest_only } if from == self.identity.node => {
                    self.read_own(number, digest_only, now, out)?;
                }
                get::Output::Fetch { from, digest_only } => {
                    if let Some(job) = self.requests.gets.get(&number) {
                        let (epoch, name) = (job.epoch, job.name.clone());
                        let message = Message::Fetch { request: number, epoch, name, digest_only };
                        out.push(Output::Send { to: from, message });
                    }
                }
                get::Output::Answer(answer) => self.answer_get(number, answer, now, out),
                get::Output::Repair { to, object } => self.repair_replica(number, to, object, out)?,
            }
        }
        self.requests.get_outputs = outputs;
        Ok(())
    }

    fn read_own(&mut self, number: RequestId, digest_only: bool, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        let Some(job) = self.requests.gets.get(&number) else { return Ok(()) };
        let Some(ring) = self.ring.clone() else { return Ok(()) };
        let object = self.known(&ring, job.partition, &job.name)?;
        let digest = object.digest_in(&mut self.digest_input);
        let object = (!digest_only && !object.is_empty()).then_some(object);
        self.get_input(number, get::Input::Fetched { by: self.identity.node, digest, object }, now, out)
    }

    fn get_input(&mut self, number: RequestId, input: get::Input, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        let Some(job) = self.requests.gets.get_mut(&number) else { return Ok(()) };
        let mut outputs = std::mem::take(&mut self.requests.get_outputs);
        let progress = job.machine.handle(input, now.instant, &mut outputs);
        self.perform_get(number, outputs, now, out)?;
        if progress == Progress::Settled
            && let Some(job) = self.requests.gets.remove(&number)
        {
            self.requests.deadlines.remove(&(job.deadline, number));
        }
        Ok(())
    }

    fn answer_get(&mut self, number: RequestId, answer: Result<Object, Failure>, now: Now, out: &mut Vec<Output>) {
        let Some(job) = self.requests.gets.get(&number) else { return };
        self.admission.answered(now.instant.since(job.begun), now.instant);
        let outcome = match answer {
            Ok(object) => {
                self.counters.gets_ok += 1;
                self.counters.gets_with_siblings += u64::from(object.siblings().count() > 1);
                self.divergence.count(&job.name.bucket, object.siblings().count());
                let (nodes, durable, hinted) = job.machine.evidence();
                let evidence = Evidence { epoch: job.epoch, nodes, durable, hinted };
                let context = if object.is_empty() {
                    Bytes::new()
                } else {
                    context::encode(&object.context(), job.machine.fastest(), self.identity.cluster, &job.name)
                };
                let object = if self.config.last_writer_wins(&job.name.bucket) {
                    self.counters.last_writer_wins_hidden += object.values().count().saturating_sub(1) as u64;
                    reconciliation::newest(&object)
                } else {
                    object
                };
                Ok(Success::Got { object, context, evidence })
            }
            Err(failure) => {
                self.counters.gets_failed += 1;
                Err(failure)
            }
        };
        self.respond(job.reply, outcome, out);
    }

    /// Read repair: what the get found goes to a replica that is behind.
    fn repair_replica(
        &mut self,
        number: RequestId,
        to: NodeId,
        object: Object,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let Some(job) = self.requests.gets.get(&number) else { return Ok(()) };
        let (name, partition, epoch) = (job.name.clone(), job.partition, job.epoch);
        self.counters.read_repairs += 1;
        if to == self.identity.node {
            return if self.takes_writes() { self.apply(partition, &name, &object).map(drop) } else { Ok(()) };
        }
        let objects = vec![NamedObject { name, object }];
        let batch = self.next_batch();
        let message = Message::Push { batch, epoch, partition, purpose: Purpose::Repair, objects, last: false };
        out.push(Output::Send { to, message });
        Ok(())
    }

    pub(super) fn on_replicated(
        &mut self,
        from: NodeId,
        number: RequestId,
        durable: bool,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        self.put_input(number, put::Input::Acknowledged { by: from, durable }, now, out)
    }

    pub(super) fn on_fetched(
        &mut self,
        from: NodeId,
        number: RequestId,
        digest: Digest,
        object: Option<Object>,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        self.get_input(number, get::Input::Fetched { by: from, digest, object }, now, out)
    }

    pub(super) fn on_refused(
        &mut self,
        from: NodeId,
        number: RequestId,
        reason: Refusal,
        epoch: Epoch,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        match reason {
            // Its ring was sent ahead of the refusal, and this request has started again under it.
            Refusal::StaleEpoch => Ok(()),
            Refusal::Behind => {
                self.catch_up(from, number, epoch, out);
                Ok(())
            }
            Refusal::NotOwner | Refusal::Overloaded | Refusal::Storage => self.fail_request(from, number, now, out),
        }
    }

    /// A replica has an older ring: it gets this one, and the request again behind it.
    fn catch_up(&mut self, to: NodeId, number: RequestId, epoch: Epoch, out: &mut Vec<Output>) {
        let Some(ring) = self.ring.clone() else { return };
        if epoch >= ring.epoch {
            return;
        }
        out.push(Output::Send { to, message: Message::RingUpdate { ring } });
        if let Some(job) = self.requests.puts.get(&number).map(|put| &put.job) {
            let hint_for = job.machine.stands_in_for(to);
            self.send_replicate(number, to, hint_for, out);
        } else if let Some(job) = self.requests.gets.get(&number) {
            let (epoch, name) = (job.epoch, job.name.clone());
            let digest_only = job.machine.wants_digest_of(to);
            out.push(Output::Send { to, message: Message::Fetch { request: number, epoch, name, digest_only } });
        }
    }

    fn fail_request(&mut self, by: NodeId, number: RequestId, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        self.put_input(number, put::Input::Failed { by }, now, out)?;
        self.get_input(number, get::Input::Failed { by }, now, out)
    }

    /// The link to `peer` is gone: whatever waits for it tries another.
    pub(super) fn fail_requests_to(&mut self, peer: NodeId, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        let numbers: Vec<RequestId> = self.requests.puts.keys().chain(self.requests.gets.keys()).copied().collect();
        for number in numbers {
            self.fail_request(peer, number, now, out)?;
        }
        let lost: Vec<RequestId> =
            self.requests.forwards.iter().filter(|(_, job)| job.to == peer).map(|(number, _)| *number).collect();
        for number in lost {
            // What may be repeated is asked of another node at once.
            self.tick_forward(number, now, out);
            if self.requests.forwards.get(&number).is_some_and(|job| job.to == peer) {
                self.give_up_forward(number, out);
            }
        }
        Ok(())
    }

    /// A forwarded request whose coordinator cannot be heard any more: a write may have happened.
    fn give_up_forward(&mut self, number: RequestId, out: &mut Vec<Output>) {
        if let Some(job) = self.requests.forwards.remove(&number) {
            let failure = if job.writes {
                self.counters.puts_unknown += 1;
                Failure::Unknown { acknowledged: 0, required: 1 }
            } else {
                self.counters.gets_failed += 1;
                Failure::Unavailable { acknowledged: 0, required: 1 }
            };
            self.respond(job.reply, Err(failure), out);
        }
    }

    /// This node was declared lost: whoever waits for it is told, with a put's outcome open.
    pub(super) fn abandon_requests(&mut self, out: &mut Vec<Output>) {
        let (puts, gets) = (std::mem::take(&mut self.requests.puts), std::mem::take(&mut self.requests.gets));
        for job in puts.into_values().map(|put| put.job).filter(|job| !job.machine.is_answered()) {
            self.counters.puts_unknown += 1;
            let required = job.required.total as u32;
            self.respond(job.reply, Err(Failure::Unknown { acknowledged: 0, required }), out);
        }
        for job in gets.into_values().filter(|job| !job.machine.is_answered()) {
            self.counters.gets_failed += 1;
            let required = job.required.total as u32;
            self.respond(job.reply, Err(Failure::Unavailable { acknowledged: 0, required }), out);
        }
        for number in self.requests.forwards.keys().copied().collect::<Vec<_>>() {
            self.give_up_forward(number, out);
        }
        self.requests.looks.clear();
        self.requests.deadlines.clear();
    }

    pub(super) fn tick_requests(&mut self, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        while let Some((at, number)) = self.requests.looks.front().copied()
            && at <= now.instant
        {
            self.requests.looks.pop_front();
            self.tick_request(number, now, out)?;
            if let Some(deadline) = self.requests.deadline(number) {
                self.requests.deadlines.insert((deadline, number));
            }
        }
        while let Some((at, number)) = self.requests.deadlines.first().copied()
            && at <= now.instant
        {
            self.requests.deadlines.pop_first();
            self.tick_request(number, now, out)?;
        }
        self.requests.forget_taken(now.instant);
        Ok(())
    }

    fn tick_request(&mut self, number: RequestId, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        self.put_input(number, put::Input::Tick, now, out)?;
        self.get_input(number, get::Input::Tick, now, out)?;
        self.tick_forward(number, now, out);
        Ok(())
    }

    /// A new ring: requests that the client still waits for start again under it.
    pub(super) fn restart_requests(&mut self, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        let Some(ring) = self.ring.clone() else { return Ok(()) };
        let waits = |put: &PutJob| !put.job.machine.is_answered();
        let puts: Vec<RequestId> = self.requests.puts.iter().filter(|(_, put)| waits(put)).map(|(number, _)| *number).collect();
        for number in puts {
            let Some(PutJob { job, .. }) = self.requests.puts.get(&number).map(Box::as_ref) else { continue };
            let (partition, required, deadline) = (job.partition, job.required, job.deadline);
            let mut outputs = Vec::new();
            let machine = self.put_machine(&ring, partition, required, deadline, now, &mut outputs);
            if let Some(PutJob { job, .. }) = self.requests.puts.get_mut(&number).map(Box::as_mut) {
                (job.machine, job.epoch) = (machine, ring.epoch);
            }
            self.counters.requests_restarted += 1;
            self.arm(number, deadline, now);
            self.perform_put(number, outputs, now, out)?;
        }
        let waiting = self.requests.gets.iter().filter(|(_, job)| !job.machine.is_answered());
        let gets: Vec<RequestId> = waiting.map(|(number, _)| *number).collect();
        for number in gets {
            let Some(job) = self.requests.gets.get(&number) else { continue };
            let (partition, required, deadline) = (job.partition, job.required, job.deadline);
            let mut outputs = Vec::new();
            let machine = self.get_machine(&ring, partition, required, deadline, now, &mut outputs);
            if let Some(job) = self.requests.gets.get_mut(&number) {
                (job.machine, job.epoch) = (machine, ring.epoch);
            }
            self.counters.requests_restarted += 1;
            self.arm(number, deadline, now);
            self.perform_get(number, outputs, now, out)?;
        }
        Ok(())
    }
}

/// Those of a read set that a get is asked of: a lost replica is left out, unless those that are left are fewer than the get needs.
/// A stand-in for it knows only what was written lately, and must not be taken for one of R while R others are there.
fn readers(ring: &Ring, set: &[NodeId], required: Required) -> Nodes {
    let left: Nodes = set.iter().filter(|node| !ring.is_lost(**node)).copied().collect();
    if left.len() >= required.total { left } else { Nodes::from_slice(set) }
}
