//! Anti-entropy in a node (paper 4.7): the exchanges of [`crate::anti_entropy`], over this node's trees and storage.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::anti_entropy::{KEYS_PER_EXCHANGE, LEAVES_PER_EXCHANGE};
use crate::hash_tree::LEAVES;
use crate::id::{Epoch, NodeId, PartitionId};
use crate::message::{Message, NamedDigest, NamedObject, Purpose};
use crate::name::Name;
use crate::node::{Node, Output, Waiting};
use crate::storage::{Cursor, Storage, StorageError};
use crate::time::{Instant, Now};
use crate::version::{Digest, Object};

/// Exchanges begun at one tick: equal replicas cost two small messages each.
const EXCHANGES_PER_TICK: usize = 16;
/// Exchanges under way at most.
const EXCHANGES_MAX: usize = 64;
/// After this an exchange counts as lost.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);

impl<S: Storage> Node<S> {
    pub(super) fn tick_anti_entropy(&mut self, now: Now, out: &mut Vec<Output>) {
        self.exchanges.retain(|_, (_, _, deadline)| *deadline > now.instant);
        let Some(ring) = self.ring.clone().filter(|_| self.writable) else { return };
        let own = self.identity.node;
        for _ in 0..EXCHANGES_PER_TICK.min(ring.partition_count()) {
            if self.exchanges.len() >= EXCHANGES_MAX {
                return;
            }
            let detector = &self.detector;
            let reachable = |node| !detector.suspects(node, now.instant);
            let Some((_, partition, with)) = self.rounds.next(&ring, own, &mut self.random, reachable) else { return };
            let exchange = self.next_batch();
            self.exchanges.insert(exchange, (partition, with, now.instant + EXCHANGE_TIMEOUT));
            self.counters.anti_entropy_exchanges += 1;
            let root = self.trees.root(partition);
            out.push(Output::Send { to: with, message: Message::TreeRequest { exchange, epoch: ring.epoch, partition, root } });
        }
    }

    pub(super) fn on_tree_request(
        &mut self,
        from: NodeId,
        exchange: u64,
        epoch: Epoch,
        partition: PartitionId,
        root: Digest,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let own = self.identity.node;
        let Ok(ring) = self.fence(from, epoch, out) else { return Ok(()) };
        if (partition.0 as usize) >= ring.partition_count() || !ring.placement(partition).involves(own) {
            self.counters.messages_refused += 1;
            return Ok(());
        }
        let ours = self.trees.root(partition);
        let leaves = if ours == root { Default::default() } else { self.trees.leaves(partition) };
        // The asker may drop its copy on this word, so the writes that the root speaks of must be on stable storage first.
        let message = Box::new(Message::TreeResponse { exchange, partition, root: ours, leaves });
        self.when_durable(Waiting::Answer { to: from, message }, now, out)
    }

    pub(super) fn on_tree_response(
        &mut self,
        from: NodeId,
        exchange: u64,
        partition: PartitionId,
        root: Digest,
        leaves: &[u8],
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let equal = root == self.trees.root(partition);
        if self.on_owners_tree(from, exchange, partition, equal, leaves, now, out)? {
            return Ok(());
        }
        if self.exchanges.get(&exchange).map(|(at, with, _)| (*at, *with)) != Some((partition, from)) {
            return Ok(());
        }
        self.rounds.found(usize::from(!equal));
        if equal || leaves.is_empty() {
            self.exchanges.remove(&exchange);
            return Ok(());
        }
        let mut differing = self.trees.differing(partition, leaves);
        differing.truncate(LEAVES_PER_EXCHANGE);
        let keys = self.digests(partition, &differing)?;
        let leaves = differing.into_iter().map(|leaf| leaf as u32).collect();
        out.push(Output::Send { to: from, message: Message::KeysRequest { exchange, partition, leaves, keys } });
        Ok(())
    }

    /// Names and digests of this node's objects in some leaves of a partition.
    fn digests(&self, partition: PartitionId, leaves: &[usize]) -> Result<Vec<NamedDigest>, StorageError> {
        let objects = self.objects_in(partition, leaves)?;
        Ok(objects.into_iter().map(|(name, object)| NamedDigest { name, digest: object.digest() }).collect())
    }

    fn objects_in(&self, partition: PartitionId, leaves: &[usize]) -> Result<Vec<(Name, Object)>, StorageError> {
        let mut objects = Vec::new();
        for leaf in leaves.iter().copied().filter(|leaf| *leaf < LEAVES) {
            let mut after = Cursor { position: self.trees.leaf_start(partition, leaf), name: Name::new("", "") };
            'leaf: while objects.len() < KEYS_PER_EXCHANGE {
                let found = self.storage.scan(partition, Some(&after), 256, 1 << 20)?;
                let Some((last, _)) = found.last() else { break };
                after = last.clone();
                for (cursor, object) in found {
                    if self.trees.leaf_of(cursor.position) != leaf {
                        break 'leaf;
                    }
                    objects.push((cursor.name, object));
                }
            }
        }
        Ok(objects)
    }

    pub(super) fn on_keys_request(
        &mut self,
        from: NodeId,
        exchange: u64,
        partition: PartitionId,
        leaves: &[u32],
        keys: &[NamedDigest],
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let own = self.identity.node;
        let involved = self
            .ring
            .as_ref()
            .is_some_and(|ring| (partition.0 as usize) < ring.partition_count() && ring.placement(partition).involves(own));
        if !involved {
            self.counters.messages_refused += 1;
            return Ok(());
        }
        let leaves: Vec<usize> = leaves.iter().take(LEAVES_PER_EXCHANGE).map(|leaf| *leaf as usize).collect();
        let theirs: BTreeMap<&Name, Digest> = keys.iter().map(|key| (&key.name, key.digest)).collect();
        let ours = self.objects_in(partition, &leaves)?;
        let ours_digests: BTreeMap<Name, Digest> = ours.iter().map(|(name, object)| (name.clone(), object.digest())).collect();
        let mut size = 0;
        let mut objects = Vec::new();
        for (name, object) in ours {
            if theirs.get(&name) != Some(&object.digest()) && size < self.config.batch_bytes_max {
                size += object.encode().len();
                objects.push(NamedObject { name, object });
            }
        }
        let differs = |key: &&NamedDigest| ours_digests.get(&key.name) != Some(&key.digest);
        let wanted: Vec<NamedDigest> = keys.iter().filter(differs).cloned().collect();
        self.counters.anti_entropy_differences += (objects.len() + wanted.len()) as u64;
        out.push(Output::Send { to: from, message: Message::KeysResponse { exchange, partition, objects, wanted } });
        Ok(())
    }

    pub(super) fn on_keys_response(
        &mut self,
        from: NodeId,
        exchange: u64,
        partition: PartitionId,
        objects: Vec<NamedObject>,
        wanted: Vec<NamedDigest>,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let expected: Option<(PartitionId, NodeId, Instant)> = self.exchanges.remove(&exchange);
        if expected.map(|(at, with, _)| (at, with)) != Some((partition, from)) {
            return Ok(());
        }
        let Some(ring) = self.ring.clone() else { return Ok(()) };
        if !ring.placement(partition).involves(self.identity.node) {
            return Ok(());
        }
        let here = |name: &Name| ring.partition_of(name) == partition;
        let takes_writes = self.takes_writes();
        for NamedObject { name, object } in objects.into_iter().filter(|named| takes_writes && here(&named.name)) {
            let _accepted = self.apply(partition, &name, &object)?;
        }
        let mut size = 0;
        let mut pushed = Vec::new();
        for NamedDigest { name, .. } in wanted.into_iter().filter(|key| here(&key.name)) {
            if size >= self.config.batch_bytes_max {
                break;
            }
            if let Some(object) = self.storage.read(partition, &name)? {
                size += object.encode().len();
                pushed.push(NamedObject { name, object });
            }
        }
        if !pushed.is_empty() {
            let (batch, epoch) = (self.next_batch(), ring.epoch);
            let message = Message::Push { batch, epoch, partition, purpose: Purpose::Repair, objects: pushed, last: false };
            out.push(Output::Send { to: from, message });
        }
        Ok(())
    }
}
