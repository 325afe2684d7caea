//! The requests that a node has under way (paper 5: each is a state machine of its own), and when each wants a look.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::coordinator::{Progress, get, put};
use crate::id::{Epoch, NodeId, PartitionId, RequestId};
use crate::name::Name;
use crate::preference_list::{Nodes, Ranking};
use crate::quorum::Required;
use crate::request::{ClientHandle, Failure, Operation, Request};
use crate::time::Instant;
use crate::version::{CausalContext, Object};

/// Forwarded writes that are remembered, each for two of its time-outs: at some hundred bytes 50 MB, and with the default time-out
/// fifty thousand of them a second.
const TAKEN_MAX: usize = 1 << 19;

/// What becomes of a forwarded write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Taken {
    /// It is run.
    First,
    /// It was taken before.
    Again,
    /// No more can be remembered. It may come again, and find room then.
    NoRoom,
}

/// Whom to answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum ReplyTo {
    Client(ClientHandle),
    /// A node that forwarded the request, with its number for it.
    Peer(NodeId, RequestId),
}

#[derive(Clone, Debug)]
pub(super) struct Job<M> {
    pub(super) reply: ReplyTo,
    pub(super) name: Name,
    pub(super) partition: PartitionId,
    pub(super) epoch: Epoch,
    pub(super) required: Required,
    /// When this node took it.
    pub(super) begun: Instant,
    pub(super) deadline: Instant,
    pub(super) machine: M,
}

/// What a put replicates, and the token for its client: what its own context covered, and the new version.
#[derive(Clone, Debug)]
pub(in crate::node) struct Prepared {
    pub(in crate::node) object: Object,
    pub(in crate::node) context: Bytes,
}

#[derive(Clone, Debug)]
pub(super) struct PutJob {
    pub(super) job: Job<put::Put>,
    pub(super) object: Object,
    /// The token for the client, until it has it.
    pub(super) context: Bytes,
}

impl PutJob {
    /// What it holds: values that it found and the one that it adds, in the messages that they came in, and what is written.
    fn bytes(&self) -> usize {
        self.object.value_bytes() + self.object.encoded_len()
    }
}

/// A request that another node coordinates.
#[derive(Clone, Debug)]
pub(super) struct ForwardJob {
    pub(super) reply: ReplyTo,
    pub(super) to: NodeId,
    pub(super) request: Request,
    pub(super) deadline: Instant,
    /// Another node may be asked, once, though the one that was asked may have run it: a get writes nothing, and a write with a request
    /// id is then the same write.
    pub(super) again: bool,
    /// Who was asked before, of a write: it may have been made there.
    pub(super) earlier: Option<NodeId>,
    /// Who answered that it does not coordinate now, and wrote nothing.
    pub(super) declined: Nodes,
}

impl ForwardJob {
    pub(super) fn writes(&self) -> bool {
        !matches!(self.request.operation, Operation::Get)
    }

    /// What a write holds until it is answered: its value, and the context that it came with.
    fn held(&self) -> usize {
        match &self.request.operation {
            Operation::Get => 0,
            Operation::Put { data, context, .. } => data.len() + context.len(),
            Operation::Delete { context } => context.len(),
        }
    }

    pub(super) fn was_asked_of(&self, node: NodeId) -> bool {
        self.to == node || self.earlier == Some(node) || self.declined.contains(&node)
    }
}

/// Requests under way, by number, and when each wants a look.
#[derive(Clone, Debug, Default)]
pub(in crate::node) struct InFlight {
    pub(super) next: u64,
    // In boxes, since a tree moves its entries about.
    pub(super) puts: BTreeMap<RequestId, Box<PutJob>>,
    pub(super) gets: BTreeMap<RequestId, Box<Job<get::Get>>>,
    /// What all of them hold, and the writes among `forwards`.
    pub(super) put_bytes: usize,
    /// What all of them hold of values.
    pub(super) get_bytes: usize,
    pub(super) forwards: BTreeMap<RequestId, ForwardJob>,
    /// When to look whether a replica is silent, in order: all wait equally long. Most requests have ended by then.
    pub(super) looks: VecDeque<(Instant, RequestId)>,
    /// Deadlines of those that had not.
    pub(super) deadlines: BTreeSet<(Instant, RequestId)>,
    /// Forwarded writes that were taken, until when a repetition is ignored: a second run would be a second write.
    pub(super) taken: BTreeSet<(NodeId, RequestId)>,
    pub(super) taken_until: BTreeSet<(Instant, NodeId, RequestId)>,
    pub(super) ranking: Ranking,
    /// Empty, to be filled by a machine: a step of a request needs no memory for what it wants done.
    pub(super) put_outputs: Vec<put::Output>,
    pub(super) get_outputs: Vec<get::Output>,
}

impl InFlight {
    /// Numbers grow from here.
    pub(in crate::node) fn numbered_from(next: u64) -> Self {
        Self { next, ..Self::default() }
    }

    /// Notes a forwarded write.
    pub(super) fn take(&mut self, from: NodeId, number: RequestId, until: Instant) -> Taken {
        if self.was_taken(from, number) {
            return Taken::Again;
        }
        if self.taken.len() >= TAKEN_MAX {
            return Taken::NoRoom;
        }
        self.taken_until.insert((until, from, number));
        self.taken.insert((from, number));
        Taken::First
    }

    /// Whether a forwarded write is noted.
    pub(in crate::node) fn was_taken(&self, from: NodeId, number: RequestId) -> bool {
        self.taken.contains(&(from, number))
    }

    pub(super) fn forget_taken(&mut self, now: Instant) {
        while let Some((until, from, number)) = self.taken_until.first().copied()
            && until <= now
        {
            self.taken_until.pop_first();
            self.taken.remove(&(from, number));
        }
    }

    /// Whether a put of `partition` is under way with a version that `upto` covers.
    pub(in crate::node) fn write_in_flight(&self, partition: PartitionId, upto: &CausalContext) -> bool {
        let mut puts = self.puts.values().filter(|put| put.job.partition == partition);
        puts.any(|put| put.object.values().any(|(dot, _)| upto.covers(dot)))
    }

    /// Puts and deletes that this node coordinates.
    pub(in crate::node) fn puts_under_way(&self) -> usize {
        self.puts.len()
    }

    pub(in crate::node) fn len(&self) -> usize {
        self.puts.len() + self.gets.len() + self.forwards.len()
    }

    /// A put that begins, or begins again.
    pub(super) fn insert_put(&mut self, number: RequestId, put: Box<PutJob>) {
        self.put_bytes += put.bytes();
        self.puts.insert(number, put);
    }

    /// A put that is over, or begins again.
    pub(super) fn remove_put(&mut self, number: RequestId) -> Option<Box<PutJob>> {
        let put = self.puts.remove(&number)?;
        self.put_bytes -= put.bytes();
        Some(put)
    }

    /// A request that another node coordinates.
    pub(super) fn insert_forward(&mut self, number: RequestId, job: ForwardJob) {
        self.put_bytes += job.held();
        self.forwards.insert(number, job);
    }

    /// One that is answered, or coordinated here after all.
    pub(super) fn remove_forward(&mut self, number: RequestId) -> Option<ForwardJob> {
        let job = self.forwards.remove(&number)?;
        self.put_bytes -= job.held();
        Some(job)
    }

    /// One input for a get, if it is under way. If that brings it more while the others hold `bytes_max` or more, it ends, answered or
    /// refused: what replicas send is not known before it is here. A get that is alone takes whatever its object has.
    pub(super) fn handle_get(
        &mut self,
        number: RequestId,
        input: get::Input,
        bytes_max: usize,
        now: Instant,
        outputs: &mut Vec<get::Output>,
    ) -> Option<Progress> {
        let machine = &mut self.gets.get_mut(&number)?.machine;
        let before = machine.value_bytes();
        let progress = machine.handle(input, now, outputs);
        let (after, others) = (machine.value_bytes(), self.get_bytes - before);
        self.get_bytes = others + after;
        if progress == Progress::Settled || after <= before || others < bytes_max {
            return Some(progress);
        }
        // Replicas that are behind are left to anti-entropy.
        outputs.retain(|output| matches!(output, get::Output::Answer(_)));
        if !machine.is_answered() {
            outputs.push(get::Output::Answer(Err(overloaded("gets", others, bytes_max))));
        }
        Some(Progress::Settled)
    }

    /// A get that is over, or begins again.
    pub(super) fn remove_get(&mut self, number: RequestId) -> Option<Box<Job<get::Get>>> {
        let job = self.gets.remove(&number)?;
        self.get_bytes -= job.machine.value_bytes();
        Some(job)
    }

    /// When a request that is under way has to have been answered.
    pub(super) fn deadline(&self, number: RequestId) -> Option<Instant> {
        let put = || self.puts.get(&number).map(|put| put.job.deadline);
        let get = || self.gets.get(&number).map(|job| job.deadline);
        let forward = || self.forwards.get(&number).map(|job| job.deadline);
        put().or_else(get).or_else(forward)
    }

    pub(super) fn number(&mut self) -> RequestId {
        self.next += 1;
        RequestId(self.next)
    }
}

/// Why there is no room for one more of these `requests`.
pub(super) fn overloaded(requests: &str, held: usize, most: usize) -> Failure {
    Failure::Overloaded(format!("{requests} in flight hold {held} bytes of this node's memory, at most {most}; retry later"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forwarded_write_is_taken_once_and_at_the_bound_none_before_others_are_forgotten() {
        let mut requests = InFlight::default();
        let (from, another) = (NodeId([2; 16]), NodeId([3; 16]));
        for number in 1..=TAKEN_MAX as u64 {
            assert_eq!(requests.take(from, RequestId(number), Instant(number)), Taken::First);
        }
        assert_eq!(requests.take(from, RequestId(1), Instant(1)), Taken::Again);
        assert_eq!(requests.take(another, RequestId(1), Instant(1)), Taken::NoRoom);
        requests.forget_taken(Instant(1));
        assert_eq!(requests.take(another, RequestId(1), Instant(2)), Taken::First);
        assert_eq!(requests.take(from, RequestId(1), Instant(2)), Taken::NoRoom);
        requests.forget_taken(Instant(u64::MAX));
        assert!(requests.taken.is_empty() && requests.taken_until.is_empty());
    }
}
