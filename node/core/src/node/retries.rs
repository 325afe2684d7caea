//! Writes with request ids: recognised where they are known, and asked of a second replica where they are not answered.
//!
//! A write that this node knows to be made gets no second dot: the object is replicated as it is, until as many replicas have it
//! as the retry asks for, and that acknowledges it. Only what this node knows counts, and nothing while it keeps hints from before a time
//! in which the ring did not list it, or copies that were hints then: those may be reaped. There is no round of reading before a put:
//! a dot that is issued again elsewhere is hidden from readers ([`crate::recent_writes`]).

use bytes::Bytes;

use crate::id::{NodeId, PartitionId, RequestKey};
use crate::name::Name;
use crate::node::Node;
use crate::node::requests::in_flight::Prepared;
use crate::request::{Failure, Outcome};
use crate::ring::Ring;
use crate::storage::{Storage, StorageError};
use crate::version::{CausalContext, Object};

impl<S: Storage> Node<S> {
    /// What is replicated once more, if the write with this request id is in `object`, all that this node knows.
    pub(super) fn made_before(
        &mut self,
        ring: &Ring,
        partition: PartitionId,
        name: &Name,
        (request_key, data): (Option<RequestKey>, &Option<Bytes>),
        seen: &CausalContext,
        object: &Object,
    ) -> Result<Option<Result<Prepared, Failure>>, StorageError> {
        let Some(key) = request_key else { return Ok(None) };
        if let Some(write) = object.recent().first_of(key).copied() {
            // `object` may be the history only; the other replicas need the values.
            let whole = self.known(ring, partition, name)?;
            let made = whole.values().find(|(dot, _)| *dot == write.dot);
            if made.is_some_and(|(_, value)| value.data != *data) {
                let other = "request_id: it names another write of this key, with another value; give this one an id of its own";
                return Ok(Some(Err(Failure::Invalid(other.into()))));
            }
            let own_copy = ring.placement(partition).involves(self.identity.node);
            if self.outlived_membership() {
                // Reaped meanwhile, it would be sent to replicas that drop it, and to stand-ins that do not know.
                return Ok(Some(Err(Failure::Unknown { acknowledged: 0, required: 1 })));
            }
            let exact = !whole.has_unseen_below(write.dot, seen);
            let context = if exact { self.context_after(own_copy, name, &whole, seen, write.dot) } else { Bytes::new() };
            self.counters.puts_recognised += 1;
            return Ok(Some(Ok(Prepared { object: whole, context })));
        }
        if seen.1.first_of(key).is_some() {
            // Made under a second dot it would supersede its own first one, and readers would be shown neither.
            let reused =
                "request_id: the context covers a write with this id, so it is made; give the next write an id of its own";
            return Ok(Some(Err(Failure::Invalid(reused.into()))));
        }
        Ok(None)
    }
}

/// What the client of a forwarded write may be told once two coordinators were asked: the other one may have made it, so that
/// "nothing was written" is more than anybody knows.
pub(super) fn told_by_one_of_two(outcome: Outcome) -> Outcome {
    outcome.map_err(|failure| match failure {
        Failure::Unknown { acknowledged, required } => Failure::Unknown { acknowledged, required },
        _ => Failure::Unknown { acknowledged: 0, required: 1 },
    })
}

/// Whether what `from` says of a forwarded write settles it: the coordinator asked last is heard, and of the one asked before a
/// good word is as good.
pub(super) fn settles(from: NodeId, last: NodeId, earlier: Option<NodeId>, outcome: &Outcome) -> bool {
    from == last || (earlier == Some(from) && outcome.is_ok())
}
