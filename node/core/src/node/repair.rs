//! Anti-entropy in a node (paper 4.7): the exchanges of [`crate::anti_entropy`], over this node's trees and storage.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::admission::Work;
use crate::anti_entropy::{BYTES_PER_WINDOW, Exchange, Rounds, Step};
use crate::hash_tree::LEAVES;
use crate::id::{Epoch, NodeId, PartitionId};
use crate::message::{Message, NamedDigest, NamedObject, Purpose};
use crate::name::Name;
use crate::node::background::{READ_SHARE, bytes_of};
use crate::node::timer::Timer;
use crate::node::{Node, Output, Waiting};
use crate::reaping::Reaped;
use crate::ring::Ring;
use crate::storage::{Cursor, Storage, StorageError};
use crate::time::Now;
use crate::version::{Digest, Object};

/// Exchanges begun in one interval: equal replicas cost two small messages each.
const EXCHANGES_PER_INTERVAL: usize = 16;
/// Exchanges under way at most.
const EXCHANGES_MAX: usize = 64;
/// After this an exchange counts as lost.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// The exchanges that this node begins.
#[derive(Clone, Debug, Default)]
pub(super) struct Exchanges {
    rounds: Rounds,
    under_way: BTreeMap<u64, Exchange>,
    /// Those that this interval still has to begin.
    owed: usize,
    timer: Timer,
}

impl<S: Storage> Node<S> {
    pub(super) fn tick_anti_entropy(&mut self, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        if self.exchanges.timer.rings(now.instant, self.config.anti_entropy_interval) {
            self.exchanges.owed = EXCHANGES_PER_INTERVAL;
        }
        self.exchanges.under_way.retain(|_, exchange| !exchange.is_lost(now.instant));
        let Some(ring) = self.ring.clone().filter(|_| self.writable) else { return Ok(()) };
        self.continue_exchanges(&ring, now, out)?;
        let own = self.identity.node;
        self.exchanges.owed = self.exchanges.owed.min(ring.partition_count_of_layers());
        while self.exchanges.owed > 0
            && self.exchanges.under_way.len() < EXCHANGES_MAX
            && self.admit_comparison(Work::AntiEntropy, now)
        {
            self.exchanges.owed -= 1;
            let detector = &self.detector;
            let reachable = |node| !ring.is_lost(node) && !detector.suspects(node, now.instant);
            let Some((partition, with)) = self.exchanges.rounds.next(&ring, own, &mut self.random, reachable) else {
                return Ok(());
            };
            let exchange = self.next_batch();
            self.exchanges.under_way.insert(exchange, Exchange::begin(partition, with, now.instant + EXCHANGE_TIMEOUT));
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
        if self.on_receivers_tree(from, exchange, partition, root, leaves, now, out)? {
            return Ok(());
        }
        let equal = root == self.trees.root(partition);
        let asked = |begun: &Exchange| begun.partition == partition && begun.with == from && matches!(begun.step, Step::Tree(_));
        if !self.exchanges.under_way.get(&exchange).is_some_and(asked) {
            return Ok(());
        }
        if equal || leaves.is_empty() {
            self.exchanges.under_way.remove(&exchange);
            return Ok(());
        }
        let differing = self.trees.differing(partition, leaves);
        if let Some(exchange) = self.exchanges.under_way.get_mut(&exchange) {
            exchange.differing(differing, now.instant);
        }
        self.compare_next(exchange, now, out)
    }

    // --- windows ----------------------------------------------------------------------------------------------------

    /// Exchanges whose next window had to wait; those that make no sense any more end.
    fn continue_exchanges(&mut self, ring: &Ring, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        let is_ready = |(_, exchange): &(&u64, &Exchange)| exchange.step == Step::Ready;
        let ready: Vec<u64> = self.exchanges.under_way.iter().filter(is_ready).map(|(number, _)| *number).collect();
        for number in self.begun_anywhere(ready) {
            let Some(Exchange { partition, with, .. }) = self.exchanges.under_way.get(&number) else { continue };
            let (partition, with) = (*partition, *with);
            let both = |nodes: &[NodeId]| nodes.contains(&with) && nodes.contains(&self.identity.node);
            if ring.has(partition) && both(ring.placement(partition).replicas) && self.reachable(with, now) {
                self.compare_next(number, now, out)?;
            } else {
                self.exchanges.under_way.remove(&number);
            }
        }
        Ok(())
    }

    /// Asks about the next window of an exchange, if not too many are under way and the budget allows it.
    fn compare_next(&mut self, number: u64, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        let asked = self.exchanges.under_way.values().filter(|exchange| matches!(exchange.step, Step::Keys(..))).count();
        if asked >= self.config.transfers_max {
            return Ok(());
        }
        let Some(exchange) = self.exchanges.under_way.get(&number).cloned() else { return Ok(()) };
        let Some(leaf) = exchange.leaves.last().copied() else {
            self.exchanges.under_way.remove(&number);
            return Ok(());
        };
        if self.admit_window(now).is_none() {
            return Ok(());
        }
        let Exchange { partition, with, after, .. } = exchange;
        let window = self.window(partition, leaf, after.as_ref(), None)?;
        let digest = |(name, object): (Name, Object)| NamedDigest { name, digest: object.digest() };
        let keys: Vec<NamedDigest> = window.objects.into_iter().map(digest).collect();
        self.moved(Work::AntiEntropy, window.read / READ_SHARE + keys.iter().map(|key| key.name.len() + 16).sum::<usize>(), now);
        if let Some(exchange) = self.exchanges.under_way.get_mut(&number) {
            exchange.step = Step::Keys(window.reached.clone(), now.instant + EXCHANGE_TIMEOUT);
        }
        let (leaf, until) = (leaf as u32, window.reached);
        out.push(Output::Send {
            to: with,
            message: Message::KeysRequest { exchange: number, partition, leaf, after, until, keys },
        });
        Ok(())
    }

    /// This node's objects in a leaf, behind `after` and up to `until`, or as many of them as one window has.
    fn window(
        &self,
        partition: PartitionId,
        leaf: usize,
        after: Option<&Name>,
        until: Option<&Name>,
    ) -> Result<Window, StorageError> {
        let start = || Cursor { position: self.trees.leaf_start(partition, leaf), name: Name::new("", "") };
        let after = after.map_or_else(start, Cursor::of);
        let until = until.map(Cursor::of);
        let within = |at: &Cursor| self.trees.leaf_of(at.position) == leaf && until.as_ref().is_none_or(|until| at <= until);
        // One more than the leaf has shows its end.
        let count = self.trees.leaf_counts(partition).get(leaf).copied().unwrap_or_default() as usize;
        let limit = self.config.batch_objects_max.min(count + 1);
        let found = self.storage.scan(partition, Some(&after), limit, self.config.batch_bytes_max.min(BYTES_PER_WINDOW))?;
        let read = found.iter().map(|(at, object)| at.name.len() + object.encoded_len()).sum();
        let reached = match found.last() {
            Some((last, _)) if within(last) => {
                let next = self.storage.scan(partition, Some(last), 1, 1)?;
                next.first().is_some_and(|(next, _)| within(next)).then(|| last.name.clone())
            }
            _ => None,
        };
        let objects = found.into_iter().filter(|(at, _)| within(at)).map(|(at, object)| (at.name, object)).collect();
        Ok(Window { objects, reached, read })
    }

    pub(super) fn on_keys_request(
        &mut self,
        from: NodeId,
        message: Message,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let Message::KeysRequest { exchange, .. } = message else { return Ok(()) };
        if self.admit_asked_window(from, exchange, &message, now) {
            return self.compare_window(from, message, now, out);
        }
        Ok(())
    }

    /// Compares a window that `from` asked about with what is here.
    pub(super) fn compare_window(
        &mut self,
        from: NodeId,
        message: Message,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let Message::KeysRequest { exchange, partition, leaf, after, until, keys } = message else { return Ok(()) };
        let own = self.identity.node;
        let involved = self.ring.as_ref().is_some_and(|ring| ring.has(partition) && ring.placement(partition).involves(own));
        if !involved || leaf as usize >= LEAVES {
            self.counters.messages_refused += 1;
            return Ok(());
        }
        let theirs: BTreeMap<&Name, Digest> = keys.iter().map(|key| (&key.name, key.digest)).collect();
        let Window { objects: ours, mut reached, read } =
            self.window(partition, leaf as usize, after.as_ref(), until.as_ref())?;
        let most = self.repair_bytes(now);
        let (mut size, mut objects, mut compared) = (0, Vec::new(), BTreeMap::new());
        for (name, object) in ours {
            let digest = object.digest();
            if theirs.get(&name) != Some(&digest) {
                if size >= most {
                    // The rest of the window waits: its first object is behind this one.
                    reached = compared.last_key_value().map(|(last, _): (&Cursor, _)| last.name.clone());
                    break;
                }
                size += object.encoded_len();
                objects.push(NamedObject { name: name.clone(), object });
            }
            compared.insert(Cursor::of(&name), digest);
        }
        let end = reached.as_ref().map(Cursor::of);
        let within = |name: &Name| end.as_ref().is_none_or(|end| Cursor::of(name) <= *end);
        let mut wanted = Vec::new();
        for key in keys.iter().filter(|key| within(&key.name)) {
            let found = compared.get(&Cursor::of(&key.name));
            if found != Some(&key.digest) {
                wanted.push(key.clone());
            }
            // Names that are reaped here: the asker hears it, and what it has beyond that is wanted.
            if found.is_none()
                && let Some(word) = self.word_of_reaped(partition, &key.name)?
            {
                size += word.object.encoded_len();
                objects.push(word);
            }
        }
        self.counters.anti_entropy_differences += (objects.len() + wanted.len()) as u64;
        self.moved(Work::AntiEntropy, read / READ_SHARE + size, now);
        let message = Message::KeysResponse { exchange, partition, objects, wanted, reached };
        self.send_after_reaping(from, partition, message, now, out)
    }

    pub(super) fn on_keys_response(
        &mut self,
        from: NodeId,
        message: Message,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let Message::KeysResponse { exchange: number, partition, objects, wanted, reached } = message else { return Ok(()) };
        let Some(exchange) = self.exchanges.under_way.get(&number) else { return Ok(()) };
        let Step::Keys(until, _) = exchange.step.clone() else { return Ok(()) };
        if (exchange.partition, exchange.with) != (partition, from) {
            return Ok(());
        }
        let involved = |ring: &Ring| ring.has(partition) && ring.placement(partition).involves(self.identity.node);
        let Some(ring) = self.ring.clone().filter(|ring| involved(ring)) else {
            self.exchanges.under_way.remove(&number);
            return Ok(());
        };
        let here = |name: &Name| ring.partition_of(name) == partition;
        let received = bytes_of(&objects);
        let takes_writes = self.takes_writes();
        let mut pushed = Vec::new();
        for named in objects.into_iter().filter(|named| takes_writes && here(&named.name)) {
            self.apply_or_tell(partition, &named, &mut pushed)?;
        }
        let most = self.repair_bytes(now);
        let (mut size, mut reached, mut last) = (0, reached.or(until), None);
        for NamedDigest { name, .. } in wanted.into_iter().filter(|key| here(&key.name)) {
            if size >= most {
                // The next window begins with what is left over.
                reached = last;
                break;
            }
            if let Some(object) = self.storage.read(partition, &name)? {
                size += object.encoded_len();
                pushed.push(NamedObject { name: name.clone(), object });
            }
            last = Some(name);
        }
        self.moved(Work::AntiEntropy, received + bytes_of(&pushed), now);
        if !pushed.is_empty() {
            let (batch, epoch) = (self.next_batch(), ring.epoch);
            let message = Message::Push { batch, epoch, partition, purpose: Purpose::Repair, objects: pushed };
            self.send_after_reaping(from, partition, message, now, out)?;
        }
        if self.exchanges.under_way.get_mut(&number).is_some_and(|exchange| exchange.advance(reached, now.instant)) {
            return self.compare_next(number, now, out);
        }
        self.exchanges.under_way.remove(&number);
        Ok(())
    }
}

/// A piece of a leaf.
struct Window {
    /// What lies in it, in the order of positions.
    objects: Vec<(Name, Object)>,
    /// The last of them, if there are more behind it.
    reached: Option<Name>,
    /// Bytes that were read.
    read: usize,
}
