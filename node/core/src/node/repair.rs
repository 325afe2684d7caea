//! Anti-entropy in a node (paper 4.7): the exchanges of [`crate::anti_entropy`], over this node's trees and storage.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::admission::Work;
use crate::anti_entropy::{KEYS_PER_EXCHANGE, LEAVES_PER_EXCHANGE};
use crate::hash_tree::LEAVES;
use crate::id::{Epoch, NodeId, PartitionId};
use crate::message::{Message, NamedDigest, NamedObject, Purpose};
use crate::name::Name;
use crate::node::background::bytes_of;
use crate::node::{Node, Output, Waiting};
use crate::reaping::Reaped;
use crate::storage::{Cursor, Storage, StorageError};
use crate::time::{Instant, Now};
use crate::version::{Digest, Object};

/// Exchanges begun in one interval: equal replicas cost two small messages each.
pub(super) const EXCHANGES_PER_INTERVAL: usize = 16;
/// Exchanges under way at most.
const EXCHANGES_MAX: usize = 64;
/// After this an exchange counts as lost.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);

impl<S: Storage> Node<S> {
    pub(super) fn tick_anti_entropy(&mut self, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        self.exchanges.retain(|_, (_, _, deadline)| *deadline > now.instant);
        let Some(ring) = self.ring.clone().filter(|_| self.writable) else { return Ok(()) };
        let own = self.identity.node;
        self.exchanges_owed = self.exchanges_owed.min(ring.partition_count_of_layers());
        while self.exchanges_owed > 0 && self.exchanges.len() < EXCHANGES_MAX && self.admit_comparison(Work::AntiEntropy, now) {
            self.exchanges_owed -= 1;
            let detector = &self.detector;
            let reachable = |node| !ring.is_lost(node) && !detector.suspects(node, now.instant);
            let Some((_, partition, with)) = self.rounds.next(&ring, own, &mut self.random, reachable) else { return Ok(()) };
            let exchange = self.next_batch();
            self.exchanges.insert(exchange, (partition, with, now.instant + EXCHANGE_TIMEOUT));
            self.counters.anti_entropy_exchanges += 1;
            let (root, reaped) = (self.trees.root(partition), self.reaped(partition)?.cloned());
            let message = Message::TreeRequest { exchange, epoch: ring.epoch, partition, root, reaped };
            self.send_after_reaping(with, partition, message, now, out)?;
        }
        Ok(())
    }

    pub(super) fn on_tree_request(
        &mut self,
        from: NodeId,
        exchange: u64,
        epoch: Epoch,
        partition: PartitionId,
        (root, reaped): (Digest, Option<Reaped>),
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let own = self.identity.node;
        let Ok(ring) = self.fence(from, epoch, out) else { return Ok(()) };
        if !ring.has(partition) || !ring.placement(partition).involves(own) {
            self.counters.messages_refused += 1;
            return Ok(());
        }
        self.heed_reaped(partition, reaped.as_ref(), root)?;
        let theirs = reaped.map(|reaped| reaped.upto);
        let reaped = self.reaped(partition)?.filter(|ours| Some(&ours.upto) != theirs.as_ref()).cloned();
        let ours = self.trees.root(partition);
        let leaves = if ours == root { Default::default() } else { self.trees.leaves(partition) };
        // The asker may drop its copy on this word, so the writes that the root speaks of must be on stable storage first.
        let message = Box::new(Message::TreeResponse { exchange, partition, root: ours, leaves, reaped });
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
        self.moved(Work::AntiEntropy, keys.iter().map(|key| key.name.len() + 16).sum(), now);
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
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let own = self.identity.node;
        let involved = self.ring.as_ref().is_some_and(|ring| ring.has(partition) && ring.placement(partition).involves(own));
        if !involved {
            self.counters.messages_refused += 1;
            return Ok(());
        }
        let leaves: Vec<usize> = leaves.iter().take(LEAVES_PER_EXCHANGE).map(|leaf| *leaf as usize).collect();
        let theirs: BTreeMap<&Name, Digest> = keys.iter().map(|key| (&key.name, key.digest)).collect();
        let ours = self.objects_in(partition, &leaves)?;
        let ours_digests: BTreeMap<Name, Digest> = ours.iter().map(|(name, object)| (name.clone(), object.digest())).collect();
        let most = self.admit_repair(now);
        let mut size = 0;
        let mut objects = Vec::new();
        // Names that are reaped here: the asker hears it, and what it has beyond that is wanted.
        for name in theirs.keys().filter(|name| !ours_digests.contains_key(**name)) {
            if size < self.config.batch_bytes_max
                && let Some(word) = self.word_of_reaped(partition, name)?
            {
                size += word.object.encode().len();
                objects.push(word);
            }
        }
        for (name, object) in ours {
            if theirs.get(&name) != Some(&object.digest()) && size < most {
                size += object.encoded_len();
                objects.push(NamedObject { name, object });
            }
        }
        let differs = |key: &&NamedDigest| ours_digests.get(&key.name) != Some(&key.digest);
        let wanted: Vec<NamedDigest> = keys.iter().filter(differs).cloned().collect();
        self.counters.anti_entropy_differences += (objects.len() + wanted.len()) as u64;
        self.moved(Work::AntiEntropy, bytes_of(&objects), now);
        let message = Message::KeysResponse { exchange, partition, objects, wanted };
        self.send_after_reaping(from, partition, message, now, out)
    }

    pub(super) fn on_keys_response(
        &mut self,
        from: NodeId,
        exchange: u64,
        partition: PartitionId,
        objects: Vec<NamedObject>,
        wanted: Vec<NamedDigest>,
        now: Now,
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
        let received = bytes_of(&objects);
        let takes_writes = self.takes_writes();
        let mut pushed = Vec::new();
        for named in objects.into_iter().filter(|named| takes_writes && here(&named.name)) {
            self.apply_or_tell(partition, &named, &mut pushed)?;
        }
        let most = self.admit_repair(now);
        let mut size = 0;
        for NamedDigest { name, .. } in wanted.into_iter().filter(|key| here(&key.name)) {
            if size >= most {
                break;
            }
            if let Some(object) = self.storage.read(partition, &name)? {
                size += object.encoded_len();
                pushed.push(NamedObject { name, object });
            }
        }
        self.moved(Work::AntiEntropy, received + bytes_of(&pushed), now);
        if !pushed.is_empty() {
            let (batch, epoch) = (self.next_batch(), ring.epoch);
            let message = Message::Push { batch, epoch, partition, purpose: Purpose::Repair, objects: pushed, last: false };
            self.send_after_reaping(from, partition, message, now, out)?;
        }
        Ok(())
    }
}
