//! Stable storage as a node sees it: groups of writes, and what waits for each to be there.
//!
//! ```text
//!  write ──> open group ──commit──> closed group, with its ticket ──durable──> on stable storage
//!                 └ what waits for it goes the same way, and is handed out at the end, in order
//! ```
//!
//! Every write goes through here and belongs to the open group: so none can be made that the next commit does not close, and nothing
//! waits for a write that was not made. What is done with that which waited is the node's matter.

use std::collections::VecDeque;
use std::ops::Deref;

use crate::id::{Epoch, NodeId, PartitionId, RequestId};
use crate::message::Message;
use crate::name::Name;
use crate::storage::{Storage, StorageError, Ticket};
use crate::version::Object;

/// What waits for a group of writes to be on stable storage.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Waiting {
    /// The coordinator's own copy of a put.
    OwnWrite(RequestId),
    /// A peer's write.
    Acknowledge { to: NodeId, request: RequestId },
    /// A peer's batch.
    AcknowledgeBatch { to: NodeId, batch: u64 },
    /// A ring.
    Ring(Epoch),
    /// All that `from` had of a partition that moves here.
    Received { partition: PartitionId, since: Epoch, from: NodeId },
    /// Dots up to here may be issued.
    DotLease(u64),
    /// An answer that speaks of writes which must not be forgotten once it is given.
    Answer { to: NodeId, message: Box<Message> },
    /// A peer is to have the ring.
    GiveRing { to: NodeId },
    /// A ring that the writer of rings offered: everybody is to have it.
    Spread(Epoch),
    /// A replica that was behind this ring refused a request.
    CatchUp { to: NodeId, request: RequestId, epoch: Epoch },
}

/// A storage engine, and what waits for it. It is read as the engine is; there is no way to write to the engine past the group but
/// its driver's, [`StableStorage::engine_mut`].
pub(super) struct StableStorage<S> {
    engine: S,
    /// Something was written since the last commit.
    has_writes: bool,
    /// What waits for the open group.
    group: Vec<Waiting>,
    /// What waits for closed ones, by the last ticket that it waits for.
    closed: VecDeque<(Ticket, Vec<Waiting>)>,
    last: Ticket,
    durable: Ticket,
}

impl<S> Deref for StableStorage<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.engine
    }
}

impl<S: Storage> StableStorage<S> {
    /// What lies in `engine` was written before.
    pub(super) fn new(engine: S) -> Self {
        Self { engine, has_writes: false, group: Vec::new(), closed: VecDeque::new(), last: Ticket(0), durable: Ticket(0) }
    }

    /// For the driver, which does nothing with it that a node's copies have to remember.
    pub(super) fn engine_mut(&mut self) -> &mut S {
        &mut self.engine
    }

    // --- writes -----------------------------------------------------------------------------------------------------

    /// A write that was made belongs to the open group. One that failed does not: the node ends with it.
    fn written(&mut self, made: Result<(), StorageError>) -> Result<(), StorageError> {
        made?;
        self.has_writes = true;
        Ok(())
    }

    pub(super) fn write(&mut self, partition: PartitionId, name: &Name, object: &Object) -> Result<(), StorageError> {
        let made = self.engine.write(partition, name, object);
        self.written(made)
    }

    pub(super) fn remove(&mut self, partition: PartitionId, name: &Name) -> Result<(), StorageError> {
        let made = self.engine.remove(partition, name);
        self.written(made)
    }

    pub(super) fn drop_partition(&mut self, partition: PartitionId) -> Result<(), StorageError> {
        let made = self.engine.drop_partition(partition);
        self.written(made)
    }

    pub(super) fn write_hint(
        &mut self,
        target: NodeId,
        partition: PartitionId,
        name: &Name,
        object: &Object,
    ) -> Result<(), StorageError> {
        let made = self.engine.write_hint(target, partition, name, object);
        self.written(made)
    }

    pub(super) fn remove_hint(&mut self, target: NodeId, partition: PartitionId, name: &Name) -> Result<(), StorageError> {
        let made = self.engine.remove_hint(target, partition, name);
        self.written(made)
    }

    pub(super) fn write_meta(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), StorageError> {
        let made = self.engine.write_meta(key, value);
        self.written(made)
    }

    // --- groups -----------------------------------------------------------------------------------------------------

    /// Whether the open group has a write.
    pub(super) fn has_writes(&self) -> bool {
        self.has_writes
    }

    /// Closes the open group and names it; `None` if nothing was written.
    pub(super) fn commit(&mut self) -> Result<Option<Ticket>, StorageError> {
        if !self.has_writes {
            assert!(self.group.is_empty(), "something waits for a write that was not made");
            return Ok(None);
        }
        self.has_writes = false;
        self.last = self.engine.commit()?;
        if !self.group.is_empty() {
            self.closed.push_back((self.last, std::mem::take(&mut self.group)));
        }
        Ok(Some(self.last))
    }

    /// Every group up to `ticket` is on stable storage: [`StableStorage::due`] hands out what waited for them.
    pub(super) fn durable(&mut self, ticket: Ticket) {
        self.durable = self.durable.max(ticket);
    }

    /// What waited for the oldest group that anything waits for, once that group is on stable storage.
    pub(super) fn due(&mut self) -> Option<Vec<Waiting>> {
        self.closed.pop_front_if(|(waits_for, _)| *waits_for <= self.durable).map(|(_, waiting)| waiting)
    }

    /// Whether everything that was written is on stable storage.
    pub(super) fn is_settled(&self) -> bool {
        !self.has_writes && self.durable >= self.last
    }

    /// Whether anything waits for a closed group.
    pub(super) fn awaits_durability(&self) -> bool {
        !self.closed.is_empty()
    }

    /// `waiting` is due with everything that was written so far, and behind all that waits already.
    pub(super) fn hold(&mut self, waiting: Waiting) {
        if self.has_writes {
            self.group.push(waiting);
        } else {
            self.closed.push_back((self.last, vec![waiting]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    const NODE: NodeId = NodeId([2; 16]);
    const PARTITION: PartitionId = PartitionId(3);

    type Write = fn(&mut StableStorage<MemoryStorage>) -> Result<(), StorageError>;

    fn empty() -> StableStorage<MemoryStorage> {
        StableStorage::new(MemoryStorage::default())
    }

    fn write(storage: &mut StableStorage<MemoryStorage>) {
        storage.write_meta(b"key", Some(b"value")).unwrap();
    }

    #[test]
    fn every_write_belongs_to_a_group_and_a_read_to_none() {
        let name = || Name::new("b", "key");
        let writes: [(&str, Write); 6] = [
            ("write", |storage| storage.write(PARTITION, &Name::new("b", "key"), &Object::default())),
            ("remove", |storage| storage.remove(PARTITION, &Name::new("b", "key"))),
            ("drop_partition", |storage| storage.drop_partition(PARTITION)),
            ("write_hint", |storage| storage.write_hint(NODE, PARTITION, &Name::new("b", "key"), &Object::default())),
            ("remove_hint", |storage| storage.remove_hint(NODE, PARTITION, &Name::new("b", "key"))),
            ("write_meta", |storage| storage.write_meta(b"key", None)),
        ];
        for (what, write) in writes {
            let mut storage = empty();
            assert!(storage.read(PARTITION, &name()).unwrap().is_none() && storage.is_settled());
            assert_eq!(storage.commit(), Ok(None), "nothing was written before {what}");
            write(&mut storage).unwrap();
            assert!(storage.has_writes() && !storage.is_settled(), "{what}");
            assert_eq!(storage.commit(), Ok(Some(Ticket(1))), "{what}");
            assert!(!storage.is_settled(), "{what} is in a closed group");
            storage.durable(Ticket(1));
            assert!(storage.is_settled(), "{what}");
        }
    }

    #[test]
    fn what_waits_is_due_with_its_group_and_in_order() {
        let mut storage = empty();
        for (epochs, ticket) in [([1, 2], 1), ([3, 4], 2), ([5, 6], 3)] {
            write(&mut storage);
            epochs.into_iter().for_each(|epoch| storage.hold(Waiting::Ring(Epoch(epoch))));
            assert_eq!(storage.commit(), Ok(Some(Ticket(ticket))));
        }
        // Behind the last closed group, and for nothing that is written after it.
        storage.hold(Waiting::Ring(Epoch(7)));
        write(&mut storage);
        assert_eq!(storage.due(), None, "nothing is on stable storage yet");
        storage.durable(Ticket(2));
        let ring = |epoch| Waiting::Ring(Epoch(epoch));
        assert_eq!(storage.due(), Some(vec![ring(1), ring(2)]));
        assert_eq!(storage.due(), Some(vec![ring(3), ring(4)]));
        assert_eq!(storage.due(), None);
        storage.durable(Ticket(3));
        assert_eq!(storage.due(), Some(vec![ring(5), ring(6)]));
        assert_eq!(storage.due(), Some(vec![ring(7)]));
        assert!(!storage.awaits_durability());
    }

    #[test]
    fn an_older_report_takes_nothing_back() {
        let mut storage = empty();
        for _ in 0..2 {
            write(&mut storage);
            storage.commit().unwrap();
        }
        storage.durable(Ticket(2));
        storage.durable(Ticket(1));
        assert!(storage.is_settled());
    }

    #[test]
    #[should_panic(expected = "a write that was not made")]
    fn nothing_waits_for_a_write_that_was_not_made() {
        let mut storage = empty();
        storage.group.push(Waiting::DotLease(1));
        let _never = storage.commit();
    }
}
