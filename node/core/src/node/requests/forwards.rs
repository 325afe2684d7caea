//! Requests that another node coordinates: this one holds no replica of the key, or does not coordinate its kind now. Who declines is passed over.

use std::time::Duration;

use bytes::Bytes;

use super::in_flight::{ForwardJob, ReplyTo, Taken};
use crate::context;
use crate::id::{NodeId, RequestId};
use crate::message::Message;
use crate::node::retries::{settles, told_by_one_of_two};
use crate::node::{Node, Output};
use crate::preference_list::Nodes;
use crate::request::{Failure, Operation, Outcome, Request};
use crate::ring::Ring;
use crate::storage::{Storage, StorageError};
use crate::time::Now;

/// A coordinator answers at its deadline; this much later its answer has arrived.
const WAY_BACK: Duration = Duration::from_millis(500);

impl<S: Storage> Node<S> {
    pub(in crate::node) fn on_forward(
        &mut self,
        from: NodeId,
        number: RequestId,
        hops: u8,
        request: Request,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let reply = ReplyTo::Peer(from, number);
        // A get that arrives twice is answered twice, and the first answer counts.
        let writes = !matches!(request.operation, Operation::Get);
        // How late a repetition comes has nothing to do with how little time its client has.
        let until = now.instant + self.timeout(&request).max(self.config.request_timeout) * 2;
        match if writes { self.requests.take(from, number, until) } else { Taken::First } {
            Taken::First => self.route(reply, request, hops, now, out),
            Taken::Again => Ok(()),
            Taken::NoRoom => {
                // Nothing is written now; but if it arrives a second time, that may be.
                self.counters.requests_refused_overload += 1;
                self.respond(reply, Err(Failure::Unknown { acknowledged: 0, required: 1 }), out);
                Ok(())
            }
        }
    }

    /// The replica to forward `request` to: a write goes to the one that its context names, anything else to the first; in
    /// either case only to one that can be reached.
    pub(super) fn coordinator_of(&self, request: &Request, ring: &Ring, writers: Nodes, now: Now) -> Option<NodeId> {
        let token = match &request.operation {
            Operation::Get => Bytes::new(),
            Operation::Put { context, .. } | Operation::Delete { context } => context.clone(),
        };
        // A token that is damaged is refused by whoever coordinates.
        let named = context::decode(token, self.identity.cluster, &request.name).ok().and_then(|token| token.coordinator);
        let usable = |node: &NodeId| *node != self.identity.node && self.reachable(*node, now);
        let named = named.filter(|node| writers.contains(node) && usable(node));
        named.or_else(|| writers.into_iter().find(usable)).or_else(|| self.member_for_a_write(request, ring, usable))
    }

    /// Where this node may not coordinate a write since it is no member itself, any member that is `usable` may, with stand-ins.
    fn member_for_a_write(&self, request: &Request, ring: &Ring, usable: impl FnMut(&NodeId) -> bool) -> Option<NodeId> {
        let none = matches!(request.operation, Operation::Get) || self.is_member(ring);
        if none { None } else { ring.members.keys().copied().find(usable) }
    }

    pub(super) fn forward(&mut self, reply: ReplyTo, to: NodeId, request: Request, now: Now, out: &mut Vec<Output>) {
        let number = self.requests.number();
        let writes = !matches!(request.operation, Operation::Get);
        let deadline = now.instant + self.timeout(&request) + WAY_BACK;
        let again = !writes || request.request_key.is_some();
        let job = ForwardJob { reply, to, request, deadline, again, earlier: None, declined: Nodes::new() };
        self.requests.insert_forward(number, job);
        self.arm(number, deadline, now);
        self.counters.requests_forwarded += 1;
        self.send_forward(number, to, out);
    }

    /// Sends a forwarded request to `to`, whose answer counts from now on.
    fn send_forward(&mut self, number: RequestId, to: NodeId, out: &mut Vec<Output>) {
        if let Some(job) = self.requests.forwards.get_mut(&number) {
            job.to = to;
            out.push(Output::Send { to, message: Message::Forward { request: number, hops: 1, body: job.request.clone() } });
        }
    }

    /// A replica that can be reached and was not asked yet; of a write that this node may not coordinate, else a member.
    fn other_coordinator(&self, number: RequestId, now: Now) -> Option<NodeId> {
        let (job, ring) = (self.requests.forwards.get(&number)?, self.ring.as_ref()?);
        let usable = |node: &NodeId| *node != self.identity.node && !job.was_asked_of(*node) && self.reachable(*node, now);
        let writers = ring.placement(ring.partition_of(&job.request.name)).writers();
        writers.into_iter().find(usable).or_else(|| self.member_for_a_write(&job.request, ring, usable))
    }

    /// Time is up for a forwarded request: one that may be repeated and was not answered soon, or was answered by who reaches too few, is
    /// asked of another replica, once; at the deadline the client is told.
    pub(super) fn tick_forward(&mut self, number: RequestId, now: Now, out: &mut Vec<Output>) {
        let Some(job) = self.requests.forwards.get_mut(&number) else { return };
        if now.instant >= job.deadline {
            self.give_up_forward(number, out);
            return;
        }
        if !std::mem::take(&mut job.again) {
            return;
        }
        let other = self.other_coordinator(number, now);
        if let (Some(to), Some(job)) = (other, self.requests.forwards.get_mut(&number)) {
            job.earlier = job.writes().then_some(job.to);
            self.counters.forwards_asked_again += 1;
            self.send_forward(number, to, out);
        }
    }

    pub(in crate::node) fn on_forwarded(
        &mut self,
        from: NodeId,
        number: RequestId,
        outcome: Outcome,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let Some(job) = self.requests.forwards.get(&number) else { return Ok(()) };
        if !settles(from, job.to, job.earlier, &outcome) {
            return Ok(());
        }
        // One that has too much to do is no reason to bring others more of it: that is told.
        let declined = from == job.to && outcome.as_ref().is_err_and(Failure::is_of_its_node);
        // Another may reach more replicas of what is read than it does, and nothing was written.
        let reaches_too_few = !job.writes() && matches!(outcome, Err(Failure::Unavailable { .. }));
        if declined && self.pass_on(number, now, out)? {
            return Ok(());
        }
        if reaches_too_few {
            self.tick_forward(number, now, out);
            if self.requests.forwards.get(&number).is_some_and(|job| job.to != from) {
                return Ok(());
            }
        }
        if let Some(job) = self.requests.remove_forward(number) {
            let outcome = if job.earlier.is_some() { told_by_one_of_two(outcome) } else { outcome };
            self.respond(job.reply, outcome, out);
        }
        Ok(())
    }

    /// Who was asked does not coordinate now and wrote nothing: another replica is asked, in the time that is left, and when none is left
    /// this node coordinates. Not where a silent one was asked before: what it made would be made again here, under a second dot. Whether
    /// the request goes on.
    fn pass_on(&mut self, number: RequestId, now: Now, out: &mut Vec<Output>) -> Result<bool, StorageError> {
        let other = self.other_coordinator(number, now);
        let Some(job) = self.requests.forwards.get_mut(&number) else { return Ok(false) };
        let left = job.deadline.since(now.instant).saturating_sub(WAY_BACK).as_millis() as u32;
        if left == 0 {
            return Ok(false);
        }
        job.request.timeout_ms = left;
        job.declined.push(job.to);
        if let Some(to) = other {
            self.counters.forwards_asked_again += 1;
            self.send_forward(number, to, out);
            return Ok(true);
        }
        let (writes, nothing_made) = (job.writes(), job.earlier.is_none());
        let Some(ring) = self.ring.clone() else { return Ok(false) };
        let takes_it = if writes { self.writable && self.is_member(&ring) } else { self.is_current() };
        if !(takes_it && nothing_made) {
            return Ok(false);
        }
        let Some(ForwardJob { reply, request, .. }) = self.requests.remove_forward(number) else { return Ok(false) };
        let partition = ring.partition_of(&request.name);
        if matches!(request.operation, Operation::Get) {
            self.start_get(reply, &ring, partition, request, now, out)?;
        } else {
            self.start_put(reply, &ring, partition, request, now, out)?;
        }
        Ok(true)
    }

    /// A forwarded request whose coordinator cannot be heard any more: a write may have happened.
    pub(super) fn give_up_forward(&mut self, number: RequestId, out: &mut Vec<Output>) {
        if let Some(job) = self.requests.remove_forward(number) {
            let failure = if job.writes() {
                self.counters.puts_unknown += 1;
                Failure::Unknown { acknowledged: 0, required: 1 }
            } else {
                self.counters.gets_failed += 1;
                Failure::Unavailable { acknowledged: 0, required: 1 }
            };
            self.respond(job.reply, Err(failure), out);
        }
    }
}
