//! What the protocol asks of a storage engine, and an engine in memory (paper 5: "pluggable").
//!
//! The engine is driven by one thread. Writes are visible to reads at once and become durable later: [`Storage::commit`] closes
//! the group of writes made so far and names it by a [`Ticket`]; the driver reports, in order, which tickets are on stable
//! storage. What a crash may take is exactly the groups that were not reported, never a part of a group. Any error means that
//! the process must stop acknowledging: the caller passes it up and the node ends.

use std::collections::BTreeMap;

use bytes::Bytes;
use thiserror::Error;

use crate::id::{NodeId, PartitionId};
use crate::name::{Name, Position};
use crate::version::Object;

/// Names a group of writes; grows by one with each [`Storage::commit`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Ticket(pub u64);

/// The engine can no longer be trusted.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("storage: {0}")]
pub struct StorageError(pub String);

/// Where a scan goes on: strictly after this place. Objects lie in the order of their positions, then of their names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Cursor {
    /// The position of the last object seen.
    pub position: Position,
    /// Its name.
    pub name: Name,
}

impl Cursor {
    /// Just behind this name.
    pub fn of(name: &Name) -> Self {
        Self { position: name.position(), name: name.clone() }
    }
}

/// A storage engine.
pub trait Storage {
    /// The object `name` of `partition`, if there is one.
    fn read(&self, partition: PartitionId, name: &Name) -> Result<Option<Object>, StorageError>;

    /// Replaces the object.
    fn write(&mut self, partition: PartitionId, name: &Name, object: &Object) -> Result<(), StorageError>;

    /// Drops the object.
    fn remove(&mut self, partition: PartitionId, name: &Name) -> Result<(), StorageError>;

    /// Objects of `partition` in hash order after `after`, at most `limit` of them and about `bytes` bytes.
    fn scan(
        &self,
        partition: PartitionId,
        after: Option<&Cursor>,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<(Cursor, Object)>, StorageError>;

    /// Drops every object of `partition`.
    fn drop_partition(&mut self, partition: PartitionId) -> Result<(), StorageError>;

    /// The partitions that hold at least one object.
    fn partitions(&self) -> Result<Vec<PartitionId>, StorageError>;

    /// The copy of `name` that is kept for `target`.
    fn read_hint(&self, target: NodeId, partition: PartitionId, name: &Name) -> Result<Option<Object>, StorageError>;

    /// Replaces the copy of `name` that is kept for `target`.
    fn write_hint(&mut self, target: NodeId, partition: PartitionId, name: &Name, object: &Object) -> Result<(), StorageError>;

    /// Drops the copy of `name` that is kept for `target`.
    fn remove_hint(&mut self, target: NodeId, partition: PartitionId, name: &Name) -> Result<(), StorageError>;

    /// Copies kept for `target`, by partition and name, at most `limit` of them and about `bytes` bytes, after `after`.
    fn scan_hints(
        &self,
        target: NodeId,
        after: Option<&(PartitionId, Name)>,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<(PartitionId, Name, Object)>, StorageError>;

    /// How many copies and bytes are kept, by target. Read once, at start.
    fn hint_totals(&self) -> Result<BTreeMap<NodeId, (u64, u64)>, StorageError>;

    /// A record of the node itself.
    fn read_meta(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError>;

    /// Replaces a record of the node itself; `None` removes it.
    fn write_meta(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), StorageError>;

    /// Closes the group of writes made since the last commit.
    fn commit(&mut self) -> Result<Ticket, StorageError>;
}

/// An engine in memory. Its durable state is what the last reported ticket left; [`MemoryStorage::crash`] goes back to it.
#[derive(Clone, Default, Debug)]
pub struct MemoryStorage {
    now: Contents,
    groups: Vec<(Ticket, Contents)>,
    durable: Contents,
    ticket: Ticket,
}

#[derive(Clone, Default, Debug, PartialEq)]
struct Contents {
    objects: BTreeMap<(PartitionId, Position, Name), Bytes>,
    hints: BTreeMap<(NodeId, PartitionId, Name), Bytes>,
    meta: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl MemoryStorage {
    /// Everything up to `ticket` is on stable storage.
    pub fn synced(&mut self, ticket: Ticket) {
        let kept = self.groups.partition_point(|(group, _)| *group <= ticket);
        if let Some((_, contents)) = self.groups.drain(..kept).next_back() {
            self.durable = contents;
        }
    }

    /// The last ticket that was handed out.
    pub fn last_ticket(&self) -> Ticket {
        self.ticket
    }

    /// The power goes: what was not on stable storage is lost.
    pub fn crash(&mut self) {
        self.groups.clear();
        self.now = self.durable.clone();
    }

    /// Every object, for checkers.
    pub fn objects(&self) -> impl Iterator<Item = (PartitionId, &Name, Object)> {
        self.now.objects.iter().map(|((partition, _, name), bytes)| (*partition, name, decode(bytes)))
    }

    /// Every hint with the node that it is kept for, for checkers.
    pub fn hints(&self) -> impl Iterator<Item = (NodeId, &Name, Object)> {
        self.now.hints.iter().map(|((target, _, name), bytes)| (*target, name, decode(bytes)))
    }
}

fn decode(bytes: &Bytes) -> Object {
    Object::decode(bytes.clone()).expect("the engine in memory wrote it")
}

impl Storage for MemoryStorage {
    fn read(&self, partition: PartitionId, name: &Name) -> Result<Option<Object>, StorageError> {
        Ok(self.now.objects.get(&(partition, name.position(), name.clone())).map(decode))
    }

    fn write(&mut self, partition: PartitionId, name: &Name, object: &Object) -> Result<(), StorageError> {
        self.now.objects.insert((partition, name.position(), name.clone()), object.encode());
        Ok(())
    }

    fn remove(&mut self, partition: PartitionId, name: &Name) -> Result<(), StorageError> {
        self.now.objects.remove(&(partition, name.position(), name.clone()));
        Ok(())
    }

    fn scan(
        &self,
        partition: PartitionId,
        after: Option<&Cursor>,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<(Cursor, Object)>, StorageError> {
        let from = (partition, Position(0), Name::new("", ""));
        let mut found = Vec::new();
        let mut size = 0;
        for ((at, position, name), object) in self.now.objects.range(from..) {
            if *at != partition || found.len() == limit || size >= bytes {
                break;
            }
            let cursor = Cursor { position: *position, name: name.clone() };
            if after.is_none_or(|after| cursor > *after) {
                size += object.len();
                found.push((cursor, decode(object)));
            }
        }
        Ok(found)
    }

    fn drop_partition(&mut self, partition: PartitionId) -> Result<(), StorageError> {
        self.now.objects.retain(|(at, _, _), _| *at != partition);
        Ok(())
    }

    fn partitions(&self) -> Result<Vec<PartitionId>, StorageError> {
        let mut partitions: Vec<PartitionId> = self.now.objects.keys().map(|(partition, _, _)| *partition).collect();
        partitions.dedup();
        Ok(partitions)
    }

    fn read_hint(&self, target: NodeId, partition: PartitionId, name: &Name) -> Result<Option<Object>, StorageError> {
        Ok(self.now.hints.get(&(target, partition, name.clone())).map(decode))
    }

    fn write_hint(&mut self, target: NodeId, partition: PartitionId, name: &Name, object: &Object) -> Result<(), StorageError> {
        self.now.hints.insert((target, partition, name.clone()), object.encode());
        Ok(())
    }

    fn remove_hint(&mut self, target: NodeId, partition: PartitionId, name: &Name) -> Result<(), StorageError> {
        self.now.hints.remove(&(target, partition, name.clone()));
        Ok(())
    }

    fn scan_hints(
        &self,
        target: NodeId,
        after: Option<&(PartitionId, Name)>,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<(PartitionId, Name, Object)>, StorageError> {
        // An engine on a disk has two bytes for it.
        assert!(after.is_none_or(|(partition, _)| partition.0 < 1 << 16), "there is no such partition");
        let mut found = Vec::new();
        let mut size = 0;
        for ((owner, partition, name), object) in self.now.hints.range((target, PartitionId(0), Name::new("", ""))..) {
            if *owner != target || found.len() == limit || size >= bytes {
                break;
            }
            if after.is_none_or(|(at, last)| (partition, name) > (at, last)) {
                size += object.len();
                found.push((*partition, name.clone(), decode(object)));
            }
        }
        Ok(found)
    }

    fn hint_totals(&self) -> Result<BTreeMap<NodeId, (u64, u64)>, StorageError> {
        let mut totals = BTreeMap::<NodeId, (u64, u64)>::new();
        for ((target, _, _), object) in &self.now.hints {
            let total = totals.entry(*target).or_default();
            *total = (total.0 + 1, total.1 + object.len() as u64);
        }
        Ok(totals)
    }

    fn read_meta(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        Ok(self.now.meta.get(key).map(|value| Bytes::copy_from_slice(value)))
    }

    fn write_meta(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), StorageError> {
        match value {
            Some(value) => self.now.meta.insert(key.to_vec(), value.to_vec()),
            None => self.now.meta.remove(key),
        };
        Ok(())
    }

    fn commit(&mut self) -> Result<Ticket, StorageError> {
        self.ticket = Ticket(self.ticket.0 + 1);
        self.groups.push((self.ticket, self.now.clone()));
        Ok(self.ticket)
    }
}
