//! Puts that this node coordinates (paper 4.5): the next version on its own copy, sent to the replicas, and counted.

use std::sync::Arc;

use bytes::Bytes;

use super::in_flight::{Job, Prepared, PutJob, ReplyTo};
use crate::config::{OBJECT_ACTORS_MAX, OBJECT_BYTES_MAX, SIBLINGS_MAX};
use crate::context;
use crate::coordinator::{Progress, put};
use crate::hinted_handoff::HintFor;
use crate::id::{NodeId, PartitionId, RequestId};
use crate::message::{Message, Refusal};
use crate::name::Name;
use crate::node::{Node, Output, Waiting};
use crate::quorum::{self, Required};
use crate::recent_writes::RecentWrite;
use crate::reconciliation;
use crate::request::{Evidence, Failure, Operation, Request, Success};
use crate::ring::Ring;
use crate::storage::{Storage, StorageError};
use crate::time::{Instant, Now};
use crate::version::{CausalContext, Dot, Object, Value};

impl<S: Storage> Node<S> {
    pub(super) fn start_put(
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
            .and_then(|required| self.enough_space().map(|()| required))
            .and_then(|required| self.enough_dots().map(|()| required));
        let required = match admitted {
            Ok(required) => required,
            Err(failure) => {
                self.counters.puts_refused_clock_skew += u64::from(matches!(failure, Failure::ClockSkew(_)));
                self.counters.puts_failed += 1;
                self.respond(reply, Err(failure), out);
                return Ok(());
            }
        };
        if let Some(context) = self.covers_nothing(&request) {
            self.counters.puts_ok += 1;
            let evidence = Evidence { epoch: ring.epoch, nodes: Vec::new(), durable: 0, hinted: 0 };
            self.respond(reply, Ok(Success::Written { context, evidence }), out);
            return Ok(());
        }
        let deadline = now.instant + self.timeout(&request);
        let name = request.name.clone();
        let Prepared { object, context } = match self.next_version(ring, partition, request, now)? {
            Ok(prepared) => prepared,
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
        self.requests.insert_put(number, Box::new(PutJob { job, object, context }));
        self.arm(number, deadline, now);
        self.keep_own_dot(ring, number)?;
        self.perform_put(number, outputs, now, out)
    }

    /// The token of a delete by somebody who had read that there is nothing. It deletes nothing, whatever is there by now, so nothing is
    /// written: as often as it is sent, no tombstone would ever be the last.
    fn covers_nothing(&self, request: &Request) -> Option<Bytes> {
        let Operation::Delete { context } = &request.operation else { return None };
        if context.is_empty() || self.config.last_writer_wins(&request.name.bucket) {
            return None;
        }
        let token = context::decode(context.clone(), self.identity.cluster, &request.name).ok()?;
        token.seen.0.is_empty().then(|| context.clone())
    }

    /// A coordinator that is no replica keeps what it made, as the hint that it is asked for or as one more: its next version of the
    /// object must include it. If it may not (the quota), its next dots are by a new actor.
    fn keep_own_dot(&mut self, ring: &Ring, number: RequestId) -> Result<(), StorageError> {
        let Some(PutJob { job, object, .. }) = self.requests.puts.get(&number).map(Box::as_ref) else { return Ok(()) };
        let (name, partition, object) = (job.name.clone(), job.partition, object.clone());
        let placement = ring.placement(partition);
        if placement.involves(self.identity.node) {
            return Ok(());
        }
        let one_more = HintFor { home: placement.read_set()[0], needed: false };
        let hint = job.machine.stands_in_for(self.identity.node).unwrap_or(one_more);
        match self.apply_hint(hint, partition, &name, &object)? {
            Ok(()) => Ok(()),
            Err(_) => self.end_tenure(partition),
        }
    }

    pub(super) fn put_machine(
        &mut self,
        ring: &Ring,
        partition: PartitionId,
        required: Required,
        deadline: Instant,
        now: Now,
        outputs: &mut Vec<put::Output>,
    ) -> put::Put {
        let placement = ring.placement(partition);
        let sets: put::Sets = placement.write_sets().into_iter().map(|set| self.asked_of(set, required.asked, now)).collect();
        let mut suspected = self.suspected(&placement.writers(), now);
        suspected.retain(|node| sets.iter().any(|set| set.contains(node)));
        let fallbacks = self.reachable_stand_ins(ring, partition, &placement.writers(), now);
        let hint_at = now.instant + self.config.hint_after;
        put::Put::start(put::Start { sets, suspected, fallbacks, required, hint_at, deadline }, outputs)
    }

    /// A put that cannot reach its quorum is refused before anything is written.
    fn enough_reachable(&mut self, ring: &Ring, partition: PartitionId, required: Required, now: Now) -> Result<(), Failure> {
        let placement = ring.placement(partition);
        let writers = placement.writers();
        let silent = self.suspected(&writers, now);
        let stand_ins = if silent.is_empty() { 0 } else { self.reachable_stand_ins(ring, partition, &writers, now).len() };
        // Each has a place in every set, as a home replica or in the place of one that is silent.
        let reachable = writers.len() - silent.len() + stand_ins;
        for set in placement.write_sets() {
            let set = self.asked_of(set, required.asked, now);
            let homes = set.iter().filter(|home| !silent.contains(home)).count();
            for (there, required) in [(reachable.min(set.len()), required.total), (homes, required.primary)] {
                if there < required {
                    return Err(Failure::Unavailable { acknowledged: there as u32, required: required as u32 });
                }
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
    ) -> Result<Result<Prepared, Failure>, StorageError> {
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
        let mut object = self.base(ring, partition, &name, &seen, create_only)?;
        if let Some(made) = self.made_before(ring, partition, &name, (request_key, &data), &seen, &object)? {
            return Ok(made);
        }
        let exists = |object: &Object| match last_writer_wins {
            true => reconciliation::exists(object),
            false => object.siblings().next().is_some(),
        };
        if create_only && exists(&object) {
            return Ok(Err(Failure::Exists));
        }
        let absent = own_copy && !object.has_values();
        if absent {
            object = self.absent(partition, &name)?;
        }
        // Before anything is merged or issued: a client may list thousands of actors that it made up.
        let (actors_before, actors) = (object.actors(), object.actors_with(&seen));
        if let Err(failure) = self.within_actors(actors, actors_before) {
            self.measured.actors.record(actors);
            return Ok(Err(failure));
        }
        let dot = self.fresh_dot(partition, &object, &seen)?;
        // What is covered by a proof (the floor of an absent name) may be covered by anybody.
        let exact = last_writer_wins || absent || !object.has_unseen_below(Dot { counter: u64::MAX, ..dot }, &seen);
        if last_writer_wins {
            let (covered, discarded) = reconciliation::cover_all(&object, seen);
            seen = covered;
            self.counters.last_writer_wins_discarded += discarded;
        }
        self.dots.issue();
        let wall_ms = self.clocks.agreed_ms(now, self.config.clock_skew_ms_max);
        let written_ms = object.next_stamp(seen.1.next_stamp(wall_ms));
        object.update(&seen, dot, Value { data, written_ms });
        if let Some(key) = request_key {
            object.remember(RecentWrite { stamp: written_ms, key, dot });
        }
        self.measured.actors.record(object.actors());
        if let Err(failure) = self.within_bounds(ring, partition, &name, &object, actors_before)? {
            return Ok(Err(failure));
        }
        let covered = self.context_after(own_copy, &name, &object, &seen, dot);
        let context = if exact { covered } else { Bytes::new() };
        Ok(Ok(Prepared { object, context }))
    }

    /// What a put goes on from: all that is known of the object, or its history where that is enough.
    fn base(
        &mut self,
        ring: &Ring,
        partition: PartitionId,
        name: &Name,
        seen: &CausalContext,
        create_only: bool,
    ) -> Result<Object, StorageError> {
        // A create looks at the values.
        if ring.placement(partition).involves(self.identity.node) && !create_only {
            let (history, _) = self.history(partition, name)?;
            // What is superseded anyway need not be read.
            if self.config.last_writer_wins(&name.bucket) || history.values().all(|(dot, _)| seen.covers(dot)) {
                return Ok(history);
            }
        }
        self.known(ring, partition, name)
    }

    /// A put makes no object larger that is beyond a bound after it. Joins do, and a put may make one smaller that is beyond it still.
    fn within_bounds(
        &mut self,
        ring: &Ring,
        partition: PartitionId,
        name: &Name,
        object: &Object,
        actors_before: usize,
    ) -> Result<Result<(), Failure>, StorageError> {
        // Made here, before it is copied: its own copy and all messages share the bytes.
        let (siblings, bytes) = (object.values().count(), object.encode().len());
        if siblings <= SIBLINGS_MAX && bytes <= OBJECT_BYTES_MAX {
            return Ok(self.within_actors(object.actors(), actors_before));
        }
        let before = self.known(ring, partition, name)?;
        let over = if siblings > SIBLINGS_MAX.max(before.values().count()) {
            format!("{siblings} siblings, the limit is {SIBLINGS_MAX}")
        } else if bytes > OBJECT_BYTES_MAX.max(before.encoded_len()) {
            format!("{bytes} bytes in its siblings, the limit is {OBJECT_BYTES_MAX}")
        } else {
            return Ok(self.within_actors(object.actors(), actors_before));
        };
        self.counters.puts_refused_siblings += 1;
        let refused = format!("the key would have {over}; get it and put the merged value with its context");
        Ok(Err(Failure::ObjectTooLarge(refused)))
    }

    fn within_actors(&mut self, actors: usize, actors_before: usize) -> Result<(), Failure> {
        if actors <= OBJECT_ACTORS_MAX.max(actors_before) {
            return Ok(());
        }
        self.counters.puts_refused_actors += 1;
        Err(Failure::ObjectTooLarge(format!("the key was written by {OBJECT_ACTORS_MAX} actors or more, use another key")))
    }

    /// The token that covers what the client knows after its put: what it had seen, and its own version. A counter covers all
    /// lower ones of its actor. Where a version that the client never saw lies below its own, no token says what it knows: it is
    /// empty, and the client has to get before it can replace. That holds for one that was replaced here as well; what replaced it
    /// need not have arrived where the token is used next.
    pub(in crate::node) fn context_after(
        &self,
        own_copy: bool,
        name: &Name,
        object: &Object,
        seen: &CausalContext,
        own: Dot,
    ) -> Bytes {
        let mut covered = seen.clone();
        let counter = covered.0.get_or_insert_with(own.actor, u64::default);
        *counter = own.counter.max(*counter);
        let recent = object.recent().covered(|dot| covered.covers(dot));
        covered.1.join(&recent);
        let coordinator = own_copy.then_some(self.identity.node);
        context::encode(&covered, coordinator, self.identity.cluster, name)
    }

    pub(super) fn perform_put(
        &mut self,
        number: RequestId,
        mut outputs: Vec<put::Output>,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let mut own = None;
        for output in outputs.drain(..) {
            match output {
                put::Output::Replicate { to, hint_for } if to == self.identity.node => own = Some(hint_for),
                put::Output::Replicate { to, hint_for } => self.send_replicate(number, to, hint_for, out),
                put::Output::KeepHint { home } if home != self.identity.node => {
                    if let Some(PutJob { job, object, .. }) = self.requests.puts.get(&number).map(Box::as_ref) {
                        let (name, partition, object) = (job.name.clone(), job.partition, object.clone());
                        let _within_quota = self.apply_hint(HintFor { home, needed: false }, partition, &name, &object)?;
                    }
                }
                put::Output::KeepHint { .. } => {}
                put::Output::Answer(answer) => self.answer_put(number, answer, now, out),
            }
        }
        self.requests.put_outputs = outputs;
        // Last: where its own copy is enough, the put may be over with it.
        own.map_or(Ok(()), |hint_for| self.write_own(number, hint_for, now, out))
    }

    pub(super) fn send_replicate(&self, number: RequestId, to: NodeId, hint_for: Option<HintFor>, out: &mut Vec<Output>) {
        let Some(PutJob { job, object, .. }) = self.requests.puts.get(&number).map(Box::as_ref) else { return };
        let message = Message::Replicate {
            request: number,
            epoch: job.epoch,
            name: job.name.clone(),
            object: object.clone(),
            hint_for,
            synced: self.waits_for_others_disks(job),
        };
        out.push(Output::Send { to, message });
    }

    /// With dw = 1 the coordinator's own fsync is the one that counts (paper 6.1), if it is one of every set's home replicas: then
    /// nobody else's is waited for. As a stand-in it may still decline, over its quota, so it does not count on itself.
    fn waits_for_others_disks(&self, job: &Job<put::Put>) -> bool {
        match job.required.durable {
            0 => false,
            1 => !job.machine.is_home_in_every_set(self.identity.node),
            _ => true,
        }
    }

    /// The coordinator's own copy, or the one that it keeps for `hint_for`.
    fn write_own(
        &mut self,
        number: RequestId,
        hint_for: Option<HintFor>,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let Some(PutJob { job, object, .. }) = self.requests.puts.get(&number).map(Box::as_ref) else { return Ok(()) };
        let (name, partition, object) = (job.name.clone(), job.partition, object.clone());
        let own = self.identity.node;
        let accepted = match hint_for {
            None => self.apply(partition, &name, &object)?,
            Some(hint) => self.apply_hint(hint, partition, &name, &object)?,
        };
        match accepted {
            Ok(()) => {
                let fsync_counts = self.requests.puts.get(&number).is_some_and(|put| put.job.required.durable > 0);
                self.put_input(number, put::Input::Acknowledged { by: own, durable: false }, now, out)?;
                if fsync_counts { self.when_durable(Waiting::OwnWrite(number), now, out) } else { Ok(()) }
            }
            Err(Refusal::Reaped) => {
                self.end_late_put(number, out);
                Ok(())
            }
            Err(_) => self.put_input(number, put::Input::Declined { by: own }, now, out),
        }
    }

    pub(in crate::node) fn on_own_write_durable(
        &mut self,
        number: RequestId,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let by = self.identity.node;
        self.put_input(number, put::Input::Acknowledged { by, durable: true }, now, out)
    }

    pub(super) fn put_input(
        &mut self,
        number: RequestId,
        input: put::Input,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let Some(PutJob { job, .. }) = self.requests.puts.get_mut(&number).map(Box::as_mut) else { return Ok(()) };
        let mut outputs = std::mem::take(&mut self.requests.put_outputs);
        let progress = job.machine.handle(input, now.instant, &mut outputs);
        self.perform_put(number, outputs, now, out)?;
        if progress == Progress::Settled
            && let Some(put) = self.requests.remove_put(number)
        {
            self.requests.deadlines.remove(&(put.job.deadline, number));
        }
        Ok(())
    }

    fn answer_put(&mut self, number: RequestId, answer: Result<(), Failure>, now: Now, out: &mut Vec<Output>) {
        let Some(PutJob { job, context, .. }) = self.requests.puts.get_mut(&number).map(Box::as_mut) else { return };
        let reply = job.reply;
        let latency = now.instant.since(job.begun);
        self.admission.answered(latency, now.instant);
        self.measured.latencies.puts.record(latency);
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

    pub(in crate::node) fn on_replicated(
        &mut self,
        from: NodeId,
        number: RequestId,
        durable: bool,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        self.put_input(number, put::Input::Acknowledged { by: from, durable }, now, out)
    }
}
