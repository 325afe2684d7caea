//! Gets that this node coordinates (paper 4.5): R replicas asked, their answers joined, and those that are behind repaired.

use std::sync::Arc;

use super::in_flight::{Job, ReplyTo};
use crate::context;
use crate::coordinator::{Progress, get};
use crate::id::{NodeId, PartitionId, RequestId};
use crate::message::{Message, NamedObject, Purpose};
use crate::node::{Node, Output};
use crate::preference_list::Nodes;
use crate::quorum::{self, Required};
use crate::reconciliation;
use crate::request::{Evidence, Failure, Request, Success};
use crate::ring::Ring;
use crate::storage::{Storage, StorageError};
use crate::time::{Instant, Now};
use crate::version::{Digest, Object};

impl<S: Storage> Node<S> {
    pub(super) fn start_get(
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

    pub(super) fn get_machine(
        &mut self,
        ring: &Ring,
        partition: PartitionId,
        required: Required,
        deadline: Instant,
        now: Now,
        outputs: &mut Vec<get::Output>,
    ) -> get::Get {
        let placement = ring.placement(partition);
        let homes = self.asked_of(&readers(ring, placement.read_set(), required), required.asked, now);
        let suspected = self.suspected(&homes, now);
        let mut fallbacks = self.reachable_fallbacks(ring, partition, &homes, now);
        if placement.moving.is_some() {
            // The last are those of the other set, which may have stood in for these while puts went to both.
            let mut others = placement.writers();
            others.retain(|node| !placement.read_set().contains(node) && !fallbacks.contains(node) && self.reachable(*node, now));
            fallbacks.extend(others);
        }
        let own = self.identity.node;
        let fallback_at = now.instant + self.config.hint_after;
        get::Get::start(get::Start { homes, own, suspected, fallbacks, required, fallback_at, deadline }, outputs)
    }

    pub(super) fn perform_get(
        &mut self,
        number: RequestId,
        mut outputs: Vec<get::Output>,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let mut own = None;
        for output in outputs.drain(..) {
            match output {
                get::Output::Fetch { from, digest_only } if from == self.identity.node => {
                    own = Some(own.unwrap_or(true) && digest_only);
                }
                get::Output::Fetch { from, digest_only } => {
                    if let Some(job) = self.requests.gets.get(&number) {
                        let (epoch, name) = (job.epoch, job.name.clone());
                        let message = Message::Fetch { request: number, epoch, name, digest_only };
                        out.push(Output::Send { to: from, message });
                    }
                }
                get::Output::Answer(answer) => {
                    let answer = self.without_reaped(number, answer)?;
                    self.answer_get(number, answer, now, out);
                }
                get::Output::Repair { to, object } => self.repair_replica(number, to, object, out)?,
            }
        }
        self.requests.get_outputs = outputs;
        // Last: with its own copy the get may be over, and nobody would be there to answer.
        own.map_or(Ok(()), |digest_only| self.read_own(number, digest_only, now, out))
    }

    fn read_own(&mut self, number: RequestId, digest_only: bool, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        let Some(job) = self.requests.gets.get(&number) else { return Ok(()) };
        let Some(ring) = self.ring.clone() else { return Ok(()) };
        let object = self.known(&ring, job.partition, &job.name)?;
        let digest = object.digest_in(&mut self.digest_input);
        let object = (!digest_only && !object.is_empty()).then_some(object);
        self.get_input(number, get::Input::Fetched { by: self.identity.node, digest, object }, now, out)
    }

    pub(super) fn get_input(
        &mut self,
        number: RequestId,
        input: get::Input,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let mut outputs = std::mem::take(&mut self.requests.get_outputs);
        let bytes_max = self.config.get_bytes_max;
        let Some(progress) = self.requests.handle_get(number, input, bytes_max, now.instant, &mut outputs) else {
            self.requests.get_outputs = outputs;
            return Ok(());
        };
        self.perform_get(number, outputs, now, out)?;
        if progress == Progress::Settled
            && let Some(job) = self.requests.remove_get(number)
        {
            self.requests.deadlines.remove(&(job.deadline, number));
        }
        Ok(())
    }

    /// A stand-in, or a replica that came lately, does not know what was reaped; a home replica that has nothing of the name does.
    fn without_reaped(
        &mut self,
        number: RequestId,
        answer: Result<Object, Failure>,
    ) -> Result<Result<Object, Failure>, StorageError> {
        let Ok(mut object) = answer else { return Ok(answer) };
        let Some(job) = self.requests.gets.get(&number) else { return Ok(Ok(object)) };
        if object.has_values() && job.machine.has_nothing(self.identity.node) {
            let (partition, name) = (job.partition, job.name.clone());
            object.join(&self.absent(partition, &name)?);
            if !object.has_values() {
                object = Object::default();
            }
        }
        Ok(Ok(object))
    }

    fn answer_get(&mut self, number: RequestId, answer: Result<Object, Failure>, now: Now, out: &mut Vec<Output>) {
        let Some(job) = self.requests.gets.get(&number) else { return };
        let latency = now.instant.since(job.begun);
        self.admission.answered(latency, now.instant);
        self.measured.latencies.gets.record(latency);
        let outcome = match answer {
            Ok(object) => {
                self.counters.gets_ok += 1;
                self.counters.gets_with_siblings += u64::from(object.siblings().count() > 1);
                self.measured.divergence.count(&job.name.bucket, object.siblings().count());
                let (nodes, durable, hinted) = job.machine.evidence();
                let evidence = Evidence { epoch: job.epoch, nodes, durable, hinted };
                // Of what is not there too: who deletes it then has read, and deletes nothing.
                let context = context::encode(&object.context(), job.machine.fastest(), self.identity.cluster, &job.name);
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
                self.counters.requests_refused_overload += u64::from(matches!(failure, Failure::Overloaded(_)));
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
        let message = Message::Push { batch, epoch, partition, purpose: Purpose::Repair, objects };
        out.push(Output::Send { to, message });
        Ok(())
    }

    pub(in crate::node) fn on_fetched(
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
}

/// Those of a read set that a get is asked of: a lost replica is left out, unless those that are left are fewer than the get needs.
/// A stand-in for it knows only what was written lately, and must not be taken for one of R while R others are there.
fn readers(ring: &Ring, set: &[NodeId], required: Required) -> Nodes {
    let left: Nodes = set.iter().filter(|node| !ring.is_lost(**node)).copied().collect();
    if left.len() >= required.total { left } else { Nodes::from_slice(set) }
}
