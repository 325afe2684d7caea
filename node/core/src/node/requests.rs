//! Clients' requests (paper 4.5): coordinate here if this node holds the key, else forward to one that does.
//!
//! A write is forwarded to the replica that the client's context names, which served what the client read (paper 5; [`crate::context`]).
//! A node outside the key's replicas coordinates only when none of them can be reached: "always writable". A request that is in
//! flight when a new ring arrives starts again under it, with the same dot and a number of its own: what a node answered as a stand-in
//! under the old ring is no answer of the home replica that it may be under the new one.
//!
//! A node that the ring does not list coordinates no write: it passes writes on to members, and the outcome of those that were in flight
//! as it left the ring, or may have left one that it missed, is open. So whoever has asked all members knows of every write that may be acknowledged yet ([`crate::reaping`]).

#[cfg(test)]
mod bound_tests;
mod forwards;
mod gets;
pub(super) mod in_flight;
mod puts;

use std::time::Duration;

use bytes::Bytes;

use crate::config::{BUCKET_BYTES_MAX, CONTEXT_BYTES_MAX, KEY_BYTES_MAX, QuorumDefaults, REQUEST_TIMEOUTS_MAX, VALUE_BYTES_MAX};
use crate::coordinator::{get, put};
use crate::id::{Epoch, NodeId, PartitionId, RequestId};
use crate::message::{Message, Refusal};
use crate::node::{Node, Output, Waiting};
use crate::preference_list::Nodes;
use crate::quorum::Required;
use crate::request::{ClientHandle, Failure, Operation, Outcome, Request};
use crate::ring::Ring;
use crate::storage::{Storage, StorageError};
use crate::time::{Instant, Now};
use in_flight::{PutJob, ReplyTo, overloaded};

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
        let gets = matches!(request.operation, Operation::Get);
        let takes_it = if gets { self.is_current() } else { self.writable && self.is_member(&ring) };
        let home = takes_it && placement.read_set().contains(&self.identity.node);
        if !home
            && hops == 0
            && let Some(to) = self.coordinator_of(&request, &ring, placement.writers(), now)
        {
            self.forward(reply, to, request, now, out);
            return Ok(());
        }
        match request.operation {
            Operation::Get if !self.is_current() => {
                self.counters.gets_refused_absent += 1;
                let why = "the node has just started and does not know yet whether others hold a later ring";
                self.respond(reply, Err(Failure::NotServing(why.into())), out);
                Ok(())
            }
            Operation::Get => self.start_get(reply, &ring, partition, request, now, out),
            _ if !self.is_member(&ring) => {
                self.counters.puts_failed += 1;
                let why = format!(
                    "ring epoch {} does not list this node, and it reaches no member to pass the write on to",
                    ring.epoch
                );
                self.respond(reply, Err(Failure::NotServing(why)), out);
                Ok(())
            }
            _ => self.start_put(reply, &ring, partition, request, now, out),
        }
    }

    /// Whether `ring` lists this node.
    pub(super) fn is_member(&self, ring: &Ring) -> bool {
        ring.members.contains_key(&self.identity.node)
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
        let (requests, held, most) = match request.operation {
            Operation::Get => ("gets", self.requests.get_bytes, self.config.get_bytes_max),
            Operation::Put { .. } | Operation::Delete { .. } => ("puts", self.requests.put_bytes, self.config.put_bytes_max),
        };
        if held >= most {
            self.counters.requests_refused_overload += 1;
            return Err(overloaded(requests, held, most));
        }
        if self.requests.len() >= self.config.requests_max {
            self.counters.requests_refused_overload += 1;
            return Err(Failure::Overloaded(format!("{} requests are in flight here; retry later", self.config.requests_max)));
        }
        if matches!(request.operation, Operation::Get) { Ok(()) } else { self.enough_dots() }
    }

    /// A lease that is on stable storage has a dot left. A node that is starting has none yet, and where fsyncs stand still one runs out.
    fn enough_dots(&self) -> Result<(), Failure> {
        let none =
            "this node's lease of dots is not on stable storage yet: it is starting, or its disk does not answer; retry later";
        if self.dots.may_be_issued() { Ok(()) } else { Err(Failure::NotServing(none.into())) }
    }

    fn timeout(&self, request: &Request) -> Duration {
        let given = Duration::from_millis(u64::from(request.timeout_ms));
        if given.is_zero() { self.config.request_timeout } else { given.min(self.config.request_timeout * REQUEST_TIMEOUTS_MAX) }
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

    /// Those of a set that a request asks. If not all: this node's own copy, and the first that can be reached, so that no more stand-ins
    /// are needed than if all were asked.
    fn asked_of(&self, set: &[NodeId], asked: usize, now: Now) -> Nodes {
        let mut nodes = Nodes::from_slice(set);
        if asked < nodes.len() {
            nodes.sort_by_key(|node| (*node != self.identity.node, !self.reachable(*node, now)));
            nodes.truncate(asked);
        }
        nodes
    }

    /// The fallbacks that can be reached, this node first if it is none of `homes`. A node outside the ring is none: it may be taken
    /// away, with the only copy of what it alone acknowledged.
    fn reachable_fallbacks(&mut self, ring: &Ring, partition: PartitionId, homes: &[NodeId], now: Now) -> Vec<NodeId> {
        let ranked = self.requests.ranking.of(ring, partition);
        let mut fallbacks: Vec<NodeId> = ranked.iter().filter(|node| self.reachable(**node, now)).copied().collect();
        let own = self.identity.node;
        if !homes.contains(&own) && self.is_member(ring) {
            fallbacks.retain(|node| *node != own);
            fallbacks.insert(0, own);
        }
        fallbacks
    }

    /// Of those the ones that a write may count on: whoever may have said that it holds nothing takes nothing new that counts.
    fn reachable_stand_ins(&mut self, ring: &Ring, partition: PartitionId, homes: &[NodeId], now: Now) -> Vec<NodeId> {
        let mut stand_ins = self.reachable_fallbacks(ring, partition, homes, now);
        stand_ins.retain(|node| self.requests.ranking.may_stand_in(ring, *node));
        stand_ins
    }

    /// The settings of `bucket`, as far as the N of its objects goes, which lie in `partition`; and that N. So a smaller N, of the bucket
    /// or of the ring, needs no other R and W.
    fn quorum_of(&self, ring: &Ring, partition: PartitionId, bucket: &Bytes) -> (QuorumDefaults, u8) {
        let n = ring.replication_of(partition);
        (self.config.quorum_of(bucket).capped(n), n)
    }

    /// Two looks: when silent replicas are replaced, and at the deadline.
    fn arm(&mut self, number: RequestId, deadline: Instant, now: Now) {
        let look = now.instant + self.config.hint_after;
        if deadline <= look {
            self.requests.deadlines.insert((deadline, number));
        }
        self.requests.looks.push_back((look, number));
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
            Refusal::NotOwner => self.fail_request(from, number, now, out),
            Refusal::Reaped => {
                self.end_late_put(number, out);
                Ok(())
            }
            Refusal::Overloaded => {
                self.put_input(number, put::Input::Declined { by: from }, now, out)?;
                self.get_input(number, get::Input::Failed { by: from }, now, out)
            }
        }
    }

    /// `peer` was not asked, for want of room on the link to it: the request goes on as if it had declined.
    pub(super) fn on_no_room(
        &mut self,
        peer: NodeId,
        number: RequestId,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let full = Failure::Overloaded("too much waits on the link to the node that coordinates this; retry later".into());
        self.on_forwarded(peer, number, Err(full), now, out)?;
        self.on_refused(peer, number, Refusal::Overloaded, self.epoch(), now, out)
    }

    /// A replica has an older ring: it gets this one, if it was not given it just now, and the request again behind it.
    pub(super) fn catch_up(&mut self, to: NodeId, number: RequestId, epoch: Epoch, out: &mut Vec<Output>) {
        let Some(ring) = self.ring.clone() else { return };
        if epoch >= ring.epoch {
            return;
        }
        if self.ring_durable < ring.epoch {
            return self.storage.hold(Waiting::CatchUp { to, request: number, epoch });
        }
        let repeated = self.requests.deadline(number).map(|_| number);
        if self.gives_ring(to, ring.epoch, repeated) {
            out.push(Output::Send { to, message: Message::RingUpdate { ring } });
        }
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

    /// This node does not coordinate the put any more, which may become visible yet.
    fn leave_open(&mut self, reply: ReplyTo, required: Required, out: &mut Vec<Output>) {
        self.counters.puts_unknown += 1;
        self.respond(reply, Err(Failure::Unknown { acknowledged: 0, required: required.total as u32 }), out);
    }

    /// What the put would make is older than what was reaped: it comes too late to be acknowledged, whoever else has it.
    pub(super) fn end_late_put(&mut self, number: RequestId, out: &mut Vec<Output>) {
        if let Some(put) = self.requests.puts.get(&number)
            && !put.job.machine.is_answered()
        {
            let (reply, required, deadline) = (put.job.reply, put.job.required, put.job.deadline);
            self.requests.remove_put(number);
            self.requests.deadlines.remove(&(deadline, number));
            self.leave_open(reply, required, out);
        }
    }

    /// This node was declared lost: whoever waits for it is told, with a put's outcome open.
    pub(super) fn abandon_requests(&mut self, out: &mut Vec<Output>) {
        let (puts, gets) = (std::mem::take(&mut self.requests.puts), std::mem::take(&mut self.requests.gets));
        for job in puts.into_values().map(|put| put.job).filter(|job| !job.machine.is_answered()) {
            self.leave_open(job.reply, job.required, out);
        }
        for job in gets.into_values().filter(|job| !job.machine.is_answered()) {
            self.counters.gets_failed += 1;
            let required = job.required.total as u32;
            self.respond(job.reply, Err(Failure::Unavailable { acknowledged: 0, required }), out);
        }
        for number in self.requests.forwards.keys().copied().collect::<Vec<_>>() {
            self.give_up_forward(number, out);
        }
        (self.requests.put_bytes, self.requests.get_bytes) = (0, 0);
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

    /// A new ring: requests that the client still waits for start again under it. Not so writes where it does not list this node, or where
    /// one that this node missed may not have.
    pub(super) fn restart_requests(&mut self, was_member: bool, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        let Some(ring) = self.ring.clone() else { return Ok(()) };
        let waits = |put: &PutJob| !put.job.machine.is_answered();
        let puts: Vec<RequestId> = self.requests.puts.iter().filter(|(_, put)| waits(put)).map(|(number, _)| *number).collect();
        for former in puts {
            let Some(mut put) = self.requests.remove_put(former) else { continue };
            let (partition, required, deadline) = (put.job.partition, put.job.required, put.job.deadline);
            if !was_member {
                self.requests.deadlines.remove(&(deadline, former));
                self.leave_open(put.job.reply, required, out);
                continue;
            }
            let mut outputs = Vec::new();
            let machine = self.put_machine(&ring, partition, required, deadline, now, &mut outputs);
            (put.job.machine, put.job.epoch) = (machine, ring.epoch);
            let number = self.renumber(former, deadline, now);
            self.requests.insert_put(number, put);
            self.perform_put(number, outputs, now, out)?;
        }
        let waiting = self.requests.gets.iter().filter(|(_, job)| !job.machine.is_answered());
        let gets: Vec<RequestId> = waiting.map(|(number, _)| *number).collect();
        for former in gets {
            let Some(mut job) = self.requests.remove_get(former) else { continue };
            let (partition, required, deadline) = (job.partition, job.required, job.deadline);
            let mut outputs = Vec::new();
            let machine = self.get_machine(&ring, partition, required, deadline, now, &mut outputs);
            (job.machine, job.epoch) = (machine, ring.epoch);
            let number = self.renumber(former, deadline, now);
            self.requests.gets.insert(number, job);
            self.perform_get(number, outputs, now, out)?;
        }
        Ok(())
    }

    /// The number of a request that starts again, in the place of its former one: answers to that come too late.
    fn renumber(&mut self, former: RequestId, deadline: Instant, now: Now) -> RequestId {
        self.requests.deadlines.remove(&(deadline, former));
        let number = self.requests.number();
        self.arm(number, deadline, now);
        self.counters.requests_restarted += 1;
        number
    }
}
