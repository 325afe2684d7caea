//! Under which actors this node writes (paper 4.4): a tenure for each partition.
//!
//! A tenure lasts as long as the copy that it began with is whole. An actor's counter stands for all its lower ones, so what this node
//! writes after it may have forgotten something there has to be by another actor. An incarnation is a tenure's number with the salt that
//! all tenures have in common: a new tenure ends one actor, and a new salt ends all of them at once.

use std::collections::BTreeMap;

use crate::id::{Incarnation, PartitionId};
use crate::node::{CLEAN_STOP, Node};
use crate::storage::{Storage, StorageError};

/// The tenures of a node. Their numbers and the salt lie in the storage.
#[derive(Clone, Debug, Default)]
pub(super) struct Tenures {
    /// Changes at every start that does not follow a clean stop: unsynced writes of this node may live on elsewhere.
    salt: u64,
    /// Those that were asked for since the start.
    known: BTreeMap<PartitionId, Incarnation>,
}

impl Tenures {
    fn incarnation(&self, tenure: u64) -> Incarnation {
        Incarnation(tenure ^ self.salt)
    }
}

impl<S: Storage> Node<S> {
    /// This node's tenure of its copy of `partition`: new if the copy is new, on stable storage with the first write under it.
    pub(super) fn tenure(&mut self, partition: PartitionId) -> Result<Incarnation, StorageError> {
        self.decide_life()?;
        let incarnation = match self.begun_tenure(partition)? {
            Some(incarnation) => incarnation,
            None => {
                let tenure = self.random.next_u64();
                self.storage.write_meta(&tenure_key(partition), Some(&tenure.to_be_bytes()))?;
                self.tenures.incarnation(tenure)
            }
        };
        self.tenures.known.insert(partition, incarnation);
        Ok(incarnation)
    }

    /// The tenure under which this node goes on in `partition`, if there is one.
    pub(super) fn begun_tenure(&self, partition: PartitionId) -> Result<Option<Incarnation>, StorageError> {
        if let Some(incarnation) = self.tenures.known.get(&partition) {
            return Ok(Some(*incarnation));
        }
        let Some(bytes) = self.storage.read_meta(&tenure_key(partition))? else { return Ok(None) };
        let tenure = number(&bytes).ok_or_else(|| StorageError(format!("the tenure of partition {partition} is damaged")))?;
        Ok(Some(self.tenures.incarnation(tenure)))
    }

    /// After a crash this node may have forgotten writes that it coordinated and others acknowledged: a state that it makes now
    /// must not claim to have seen them. So unless the last stop was clean, all its actors are new; and even then, if this is not
    /// what was stopped but a copy of it ([`super::lives`]). The mark of the clean stop
    /// goes in the same group as the lease of dots, before the first dot can be issued.
    pub(super) fn start_tenures(&mut self) -> Result<(), StorageError> {
        let stored = match self.storage.read_meta(b"salt")? {
            Some(bytes) => Some(number(&bytes).ok_or_else(|| StorageError("the salt of the tenures is damaged".into()))?),
            None => None,
        };
        // The mark of the start before this one: an older one came back with an older copy of the database.
        let clean = self.storage.read_meta(CLEAN_STOP)?.as_deref() == Some(&(self.identity.generation - 1).to_be_bytes()[..]);
        let salt = match stored {
            Some(salt) if clean => {
                self.life.ask();
                salt
            }
            _ => self.random.next_u64(),
        };
        self.salt_tenures(salt)?;
        self.storage.write_meta(CLEAN_STOP, None)?;
        Ok(())
    }

    /// From now on all actors of this node are those of `salt`.
    pub(super) fn salt_tenures(&mut self, salt: u64) -> Result<(), StorageError> {
        self.tenures = Tenures { salt, known: BTreeMap::new() };
        self.storage.write_meta(b"salt", Some(&salt.to_be_bytes()))
    }

    /// The copy of `partition` is no longer whole: whatever this node coordinates there next is by a new actor.
    pub(super) fn end_tenure(&mut self, partition: PartitionId) -> Result<(), StorageError> {
        self.tenures.known.remove(&partition);
        self.storage.write_meta(&tenure_key(partition), None)
    }
}

/// A number as it is stored.
fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

fn tenure_key(partition: PartitionId) -> Vec<u8> {
    let mut key = b"tenure/".to_vec();
    key.extend_from_slice(&partition.0.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::id::{ClusterId, NodeId};
    use crate::node::Identity;
    use crate::storage::MemoryStorage;
    use crate::time::{Instant, Now};

    fn open(storage: MemoryStorage) -> Result<Node<MemoryStorage>, StorageError> {
        let identity = Identity {
            node: NodeId([1; 16]),
            cluster: ClusterId([7; 16]),
            zone: "z".into(),
            peer_address: String::new(),
            client_address: String::new(),
            generation: 1,
        };
        Node::open(identity, Config::default(), storage, 1, Now { instant: Instant(1), wall_ms: 0 })
    }

    /// Taken for absent it would be replaced by a new one, and the damage would never be seen.
    #[test]
    fn a_record_of_another_length_is_damaged_and_not_absent() {
        let mut storage = MemoryStorage::default();
        storage.write_meta(b"salt", Some(&[7; 7])).unwrap();
        let refused = open(storage).map(drop).unwrap_err();
        assert!(refused.0.contains("salt"), "{refused:?}");

        let mut storage = MemoryStorage::default();
        storage.write_meta(&tenure_key(PartitionId(3)), Some(&[7; 9])).unwrap();
        let mut node = open(storage).unwrap();
        let refused = node.tenure(PartitionId(3)).unwrap_err();
        assert!(refused.0.contains("tenure of partition 3"), "{refused:?}");
        assert!(node.tenure(PartitionId(4)).is_ok());
    }
}
