//! Drain receipts (paper 4.9): the word of a node that it holds nothing that the cluster still needs, and what became of what it held.

use crate::id::{Epoch, NodeId, PartitionId};
use crate::node::Node;
use crate::ring::RingHash;
use crate::storage::{Storage, StorageError};
use crate::version::Digest;

/// Proof that a node holds nothing that the cluster still needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// Which node.
    pub node: NodeId,
    /// The ring by which it holds nothing.
    pub epoch: Epoch,
    /// That ring's hash.
    pub ring_hash: RingHash,
    /// What became of what it held.
    pub handed_over: Vec<HandedOver>,
}

/// A copy that was dropped, of several of a partition the largest: every replica of the partition had proven to hold everything in it on stable storage.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HandedOver {
    /// Which partition.
    pub partition: PartitionId,
    /// The ring whose replicas these are.
    pub epoch: Epoch,
    /// How many objects the copy had, tombstones included.
    pub objects: u64,
    /// The root of its hash tree: that of a replica which took no writes since.
    pub root: Digest,
}

impl Receipt {
    /// How many copies were handed over, and how many objects were in them.
    pub fn handed_over_in_all(&self) -> (usize, u64) {
        (self.handed_over.len(), self.handed_over.iter().map(|copy| copy.objects).sum())
    }
}

impl HandedOver {
    fn encode(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&self.epoch.0.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.objects.to_be_bytes());
        bytes[16..].copy_from_slice(&self.root.0);
        bytes
    }

    fn decode(partition: PartitionId, bytes: &[u8]) -> Result<Self, StorageError> {
        let bytes: &[u8; 32] = bytes
            .try_into()
            .map_err(|_| StorageError(format!("the record of what became of partition {partition} is damaged")))?;
        let number = |at: usize| bytes[at..at + 8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let mut root = Digest::default();
        root.0.copy_from_slice(&bytes[16..]);
        Ok(Self { partition, epoch: Epoch(number(0)), objects: number(8), root })
    }
}

impl<S: Storage> Node<S> {
    /// This node's copy is about to be dropped because every replica has everything in it. Written with the drop.
    pub(super) fn note_handed_over(&mut self, partition: PartitionId) -> Result<(), StorageError> {
        let (epoch, objects, root) = (self.epoch(), self.trees.objects(partition), self.trees.root(partition));
        // What strays in after the copy went, a hint perhaps, is not what the receipt is about.
        let before = self.storage.read_meta(&key(partition))?.map(|bytes| HandedOver::decode(partition, &bytes)).transpose()?;
        if before.is_some_and(|before| before.objects > objects) {
            return Ok(());
        }
        let handed_over = HandedOver { partition, epoch, objects, root };
        self.storage.write_meta(&key(partition), Some(&handed_over.encode()))
    }

    /// It has come back.
    pub(super) fn holds_again(&mut self, partition: PartitionId) -> Result<(), StorageError> {
        self.storage.write_meta(&key(partition), None)
    }

    /// The receipt that permits this node's removal, or what it still holds.
    pub fn drain_receipt(&self) -> Result<Receipt, String> {
        let Some(ring) = &self.ring else { return Err("the node has no ring".into()) };
        let own = self.identity.node;
        if let Some(since) = self.declared_lost() {
            return Err(format!(
                "it was declared lost in epoch {since}: it needs no receipt, and what it holds counts for nothing"
            ));
        }
        let partitions = ring.partitions_of(own);
        if partitions > 0 {
            return Err(format!("epoch {} still gives it {partitions} partitions", ring.epoch));
        }
        if self.ring_durable != ring.epoch {
            return Err(format!("epoch {} is not on its stable storage yet", ring.epoch));
        }
        if self.trees.objects_total() > 0 {
            let (objects, partitions) = (self.trees.objects_total(), self.foreign_partitions().len());
            return Err(format!("{objects} objects of {partitions} partitions are not handed over yet"));
        }
        if self.hints.total() > 0 {
            return Err(format!("{} hints are not delivered yet", self.hints.total()));
        }
        // Of gets, and of what others coordinate, nothing is kept here. A write that comes back to be coordinated here makes the next receipt
        // wait: one is asked for while this node is a member, and one when it is none and counts for no quorum.
        let writes = self.requests.puts_under_way();
        if writes > 0 {
            return Err(format!("{writes} writes are still under way"));
        }
        if !self.storage.is_settled() {
            return Err("its last writes are not on stable storage yet".into());
        }
        let handed_over = self.handed_over(ring.partition_count_of_layers()).map_err(|error| error.to_string())?;
        Ok(Receipt { node: own, epoch: ring.epoch, ring_hash: ring.hash(), handed_over })
    }

    fn handed_over(&self, partitions: usize) -> Result<Vec<HandedOver>, StorageError> {
        let mut handed_over = Vec::new();
        for partition in (0..partitions as u32).map(PartitionId) {
            if let Some(bytes) = self.storage.read_meta(&key(partition))? {
                handed_over.push(HandedOver::decode(partition, &bytes)?);
            }
        }
        Ok(handed_over)
    }
}

fn key(partition: PartitionId) -> Vec<u8> {
    let mut key = b"handed-over/".to_vec();
    key.extend_from_slice(&partition.0.to_be_bytes());
    key
}
