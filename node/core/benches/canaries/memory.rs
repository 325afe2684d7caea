//! A storage engine that costs next to nothing, so that what remains is the protocol. Objects lie encoded, as on a disk.

use std::collections::BTreeMap;
use std::hash::{BuildHasherDefault, Hasher};

use bytes::Bytes;
use dynamo_core::id::{NodeId, PartitionId};
use dynamo_core::name::{Name, Position};
use dynamo_core::storage::{Cursor, Storage, StorageError, Ticket};
use dynamo_core::version::Object;

/// A position is a hash already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, _: &[u8]) {
        unreachable!("a position is hashed as a number");
    }

    fn write_u128(&mut self, position: u128) {
        self.0 = position as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Objects by position, records by key, and no hints: all nodes are up.
#[derive(Default)]
pub struct Memory {
    // Its order is never used, and it is the cheapest of the maps.
    #[allow(clippy::disallowed_types)]
    objects: std::collections::HashMap<Position, Bytes, BuildHasherDefault<AsItIs>>,
    meta: BTreeMap<Vec<u8>, Bytes>,
    ticket: Ticket,
}

fn no_hints<T>() -> Result<T, StorageError> {
    Err(StorageError("a canary has no hints".to_owned()))
}

impl Storage for Memory {
    fn read(&self, _: PartitionId, name: &Name) -> Result<Option<Object>, StorageError> {
        let decode = |bytes: &Bytes| Object::decode(bytes.clone()).map_err(|error| StorageError(error.to_string()));
        self.objects.get(&name.position()).map(decode).transpose()
    }

    fn write(&mut self, _: PartitionId, name: &Name, object: &Object) -> Result<(), StorageError> {
        self.objects.insert(name.position(), object.encode());
        Ok(())
    }

    fn remove(&mut self, _: PartitionId, name: &Name) -> Result<(), StorageError> {
        self.objects.remove(&name.position());
        Ok(())
    }

    fn scan(&self, _: PartitionId, _: Option<&Cursor>, _: usize, _: usize) -> Result<Vec<(Cursor, Object)>, StorageError> {
        Ok(Vec::new())
    }

    fn drop_partition(&mut self, _: PartitionId) -> Result<(), StorageError> {
        Ok(())
    }

    fn partitions(&self) -> Result<Vec<PartitionId>, StorageError> {
        Ok(Vec::new())
    }

    fn read_hint(&self, _: NodeId, _: PartitionId, _: &Name) -> Result<Option<Object>, StorageError> {
        no_hints()
    }

    fn write_hint(&mut self, _: NodeId, _: PartitionId, _: &Name, _: &Object) -> Result<(), StorageError> {
        no_hints()
    }

    fn remove_hint(&mut self, _: NodeId, _: PartitionId, _: &Name) -> Result<(), StorageError> {
        no_hints()
    }

    fn scan_hints(
        &self,
        _: NodeId,
        _: Option<&(PartitionId, Name)>,
        _: usize,
        _: usize,
    ) -> Result<Vec<(PartitionId, Name, Object)>, StorageError> {
        Ok(Vec::new())
    }

    fn hint_totals(&self) -> Result<BTreeMap<NodeId, (u64, u64)>, StorageError> {
        Ok(BTreeMap::new())
    }

    fn read_meta(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        Ok(self.meta.get(key).cloned())
    }

    fn write_meta(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), StorageError> {
        match value {
            Some(value) => self.meta.insert(key.to_vec(), Bytes::copy_from_slice(value)),
            None => self.meta.remove(key),
        };
        Ok(())
    }

    fn commit(&mut self) -> Result<Ticket, StorageError> {
        self.ticket = Ticket(self.ticket.0 + 1);
        Ok(self.ticket)
    }
}
