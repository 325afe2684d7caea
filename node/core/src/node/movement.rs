//! Data on its way to where the ring wants it (paper 4.6, 4.9): hints, transfers to new replicas, handbacks.
//!
//! All three are batches of joins that the receiver acknowledges from stable storage. Nothing is removed here before that:
//! a hint goes when its own target has it, a copy when every owner has all of it and every member holds the ring that says so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::admission::Work;
use crate::hinted_handoff::Batch;
use crate::id::{Epoch, NodeId, PartitionId};
use crate::message::{Message, NamedObject, Purpose};
use crate::node::background::bytes_of;
use crate::node::{Node, Output, Waiting};
use crate::ring::{Ring, Stage};
use crate::storage::{Cursor, Storage, StorageError};
use crate::time::Now;
use crate::transfer::{Handback, Outgoing, Walk};

/// How long a batch may be unanswered before it is sent again.
const BATCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Copies on their way home at the same time: most need only a comparison of trees.
const HANDBACKS_MAX: usize = 64;

/// Which walk a batch belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum WalkOf {
    Transfer(PartitionId, NodeId),
    Handback(PartitionId, NodeId),
}

impl WalkOf {
    fn work(self) -> Work {
        match self {
            WalkOf::Transfer(..) => Work::Transfers,
            WalkOf::Handback(..) => Work::Handbacks,
        }
    }
}

impl<S: Storage> Node<S> {
    // --- hints ------------------------------------------------------------------------------------------------------

    pub(super) fn tick_hints(&mut self, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        self.hints.expire(now.instant);
        for target in self.begun_anywhere(self.hints.due()) {
            if self.reachable(target, now) {
                self.send_hints(target, now, out)?;
            }
        }
        Ok(())
    }

    fn send_hints(&mut self, target: NodeId, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        if self.hints.bytes_for(target) == 0 {
            return Ok(());
        }
        let limit = self.config.batch_objects_max;
        let Some(bytes) = self.admit(Work::Hints, now) else { return Ok(()) };
        let found = self.storage.scan_hints(target, None, limit, bytes)?;
        let Some((partition, _, _)) = found.first() else { return Ok(()) };
        let partition = *partition;
        let found: Vec<_> = found.into_iter().take_while(|(at, _, _)| *at == partition).collect();
        let batch = self.next_batch();
        let hints = found.iter().map(|(partition, name, object)| (*partition, name.clone(), object.digest())).collect();
        self.hints.sent(batch, Batch { target, hints, deadline: now.instant + BATCH_TIMEOUT });
        let objects: Vec<NamedObject> = found.into_iter().map(|(_, name, object)| NamedObject { name, object }).collect();
        self.moved(Work::Hints, bytes_of(&objects), now);
        let epoch = self.epoch();
        let message = Message::Push { batch, epoch, partition, purpose: Purpose::Hint, objects, last: false };
        out.push(Output::Send { to: target, message });
        Ok(())
    }

    fn on_hints_delivered(&mut self, batch: Batch, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        let mut partitions = BTreeSet::new();
        for (partition, name, sent) in &batch.hints {
            let Some(kept) = self.storage.read_hint(batch.target, *partition, name)? else { continue };
            if kept.digest() == *sent {
                self.storage.remove_hint(batch.target, *partition, name)?;
                self.dirty = true;
                self.hints.removed(batch.target, kept.encode().len());
                self.counters.hints_delivered += 1;
                partitions.insert(*partition);
            }
        }
        for partition in partitions {
            self.end_foreign_tenure(partition)?;
        }
        // Those that were refused before are first, at the next tick.
        if self.admission.waits(Work::Hints) { Ok(()) } else { self.send_hints(batch.target, now, out) }
    }

    /// A node that is no replica of `partition` may have coordinated from the hint that is gone now.
    fn end_foreign_tenure(&mut self, partition: PartitionId) -> Result<(), StorageError> {
        let own = self.identity.node;
        let home = self.ring.as_ref().is_some_and(|ring| ring.placement(partition).involves(own));
        if home { Ok(()) } else { self.end_tenure(partition) }
    }

    /// Hints for nodes that the ring no longer names for the partition become copies of this node's, to be handed to whoever
    /// owns them now (or kept, if that is this node). So do all hints of a partition of which a member is lost: it may have
    /// acknowledged a write together with this node alone, and its replacement is filled from copies.
    pub(super) fn retarget_hints(&mut self) -> Result<(), StorageError> {
        let Some(ring) = self.ring.clone() else { return Ok(()) };
        let lost: Vec<NodeId> = ring.lost.keys().filter(|node| ring.members.contains_key(node)).copied().collect();
        let waits = |partition, target| {
            let placement = ring.placement(partition);
            placement.involves(target) && !lost.iter().any(|lost| placement.involves(*lost))
        };
        let targets: Vec<NodeId> = self.hints.totals().keys().copied().collect();
        for target in targets {
            let mut after = None;
            loop {
                let found = self.storage.scan_hints(target, after.as_ref(), 1024, 4 << 20)?;
                let Some((partition, name, _)) = found.last() else { break };
                after = Some((*partition, name.clone()));
                for (partition, name, object) in found {
                    if !waits(partition, target) {
                        let _accepted = self.apply(partition, &name, &object)?;
                        self.storage.remove_hint(target, partition, &name)?;
                        self.hints.removed(target, object.encode().len());
                        self.dirty = true;
                    }
                }
            }
        }
        Ok(())
    }

    // --- the ring's moves -------------------------------------------------------------------------------------------

    /// Which transfers out of this node the ring asks for. Walks that still serve the same move go on where they are.
    pub(super) fn plan_movement(&mut self) -> Result<(), StorageError> {
        let Some(ring) = self.ring.clone() else { return Ok(()) };
        let own = self.identity.node;
        let mut wanted = BTreeMap::new();
        let mut arriving = BTreeMap::new();
        for (partition, placement, moving) in ring.moving() {
            for (to, sources) in placement.fills(&ring.lost) {
                if sources.contains(&own) && moving.stage == Stage::WriteBothReadOld && !ring.is_lost(to) {
                    wanted.insert((partition, to), moving.since);
                }
                if to == own {
                    arriving.insert(partition, moving.since);
                }
            }
        }
        self.transfers.outgoing.retain(|key, (since, _)| wanted.get(key) == Some(since));
        for (key, since) in wanted {
            self.transfers.outgoing.entry(key).or_insert((since, Outgoing::default()));
        }
        let stale: Vec<PartitionId> = self
            .transfers
            .received
            .iter()
            .filter(|(partition, (since, _))| arriving.get(partition) != Some(since))
            .map(|(partition, _)| *partition)
            .collect();
        for partition in stale {
            for from in self.transfers.received.remove(&partition).map(|(_, from)| from).into_iter().flatten() {
                self.storage.write_meta(&received_key(partition, from), None)?;
                self.dirty = true;
            }
        }
        self.transfers.handbacks.clear();
        Ok(())
    }

    pub(super) fn tick_transfers(&mut self, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        // What is sent is all that was acknowledged here under older rings, so there may be no way back to one: a loss of power
        // could take a ring that is not on stable storage, and writes would be acknowledged behind the copy that was sent.
        if self.ring_durable < self.epoch() {
            return Ok(());
        }
        self.expire_walks(now);
        let waiting: Vec<(PartitionId, NodeId)> = self
            .transfers
            .outgoing
            .iter()
            .filter(|(_, (_, outgoing))| matches!(outgoing.walk, Walk::Idle | Walk::Ready(_)))
            .map(|(key, _)| *key)
            .collect();
        for (partition, to) in self.begun_anywhere(waiting) {
            let started = matches!(self.transfers.outgoing[&(partition, to)].1.walk, Walk::Ready(_));
            if (started || self.transfers.active() < self.config.transfers_max) && self.reachable(to, now) {
                self.send_batch(WalkOf::Transfer(partition, to), now, out)?;
            }
        }
        Ok(())
    }

    fn expire_walks(&mut self, now: Now) {
        let handbacks = self.transfers.handbacks.values_mut().flat_map(|handback| handback.owners.values_mut());
        for outgoing in self.transfers.outgoing.values_mut().map(|(_, outgoing)| outgoing).chain(handbacks) {
            match &outgoing.walk {
                Walk::Sent { from, deadline, .. } if *deadline <= now.instant => outgoing.walk = Walk::Ready(from.clone()),
                Walk::Comparing(_, deadline) if *deadline <= now.instant => outgoing.walk = Walk::Idle,
                _ => {}
            }
        }
    }

    fn walk_mut(&mut self, of: WalkOf) -> Option<&mut Outgoing> {
        match of {
            WalkOf::Transfer(partition, to) => self.transfers.outgoing.get_mut(&(partition, to)).map(|(_, outgoing)| outgoing),
            WalkOf::Handback(partition, to) => self.transfers.handbacks.get_mut(&partition)?.owners.get_mut(&to),
        }
    }

    /// Sends what comes after the walk's place; an empty last batch ends a walk over an empty copy.
    fn send_batch(&mut self, of: WalkOf, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        let (partition, to, purpose) = match of {
            WalkOf::Transfer(partition, to) => (partition, to, Purpose::Transfer),
            WalkOf::Handback(partition, to) => (partition, to, Purpose::Handback),
        };
        let Some(outgoing) = self.walk_mut(of) else { return Ok(()) };
        let from = match &outgoing.walk {
            Walk::Idle => None,
            Walk::Ready(after) => after.clone(),
            _ => return Ok(()),
        };
        let leaves = outgoing.leaves.clone();
        let limit = self.config.batch_objects_max;
        let Some(bytes) = self.admit(of.work(), now) else { return Ok(()) };
        let found = self.storage.scan(partition, from.as_ref(), limit, bytes)?;
        let reached = found.last().map(|(cursor, _)| cursor.clone());
        // One more look tells whether this batch is the last: an empty one always is.
        let last = match &reached {
            None => true,
            Some(cursor) => self.storage.scan(partition, Some(cursor), 1, 1)?.is_empty(),
        };
        let read: usize = found.iter().map(|(cursor, object)| cursor.name.len() + object.encoded_len()).sum();
        self.moved(of.work(), read, now);
        let wanted = |cursor: &Cursor| leaves.as_ref().is_none_or(|leaves| leaves.contains(&self.trees.leaf_of(cursor.position)));
        let objects: Vec<NamedObject> = found
            .into_iter()
            .filter(|(cursor, _)| wanted(cursor))
            .map(|(cursor, object)| NamedObject { name: cursor.name, object })
            .collect();
        let batch = self.next_batch();
        let deadline = now.instant + BATCH_TIMEOUT;
        let epoch = self.epoch();
        if let Some(outgoing) = self.walk_mut(of) {
            let (count, bytes) = (objects.len() as u64, bytes_of(&objects) as u64);
            let to = reached.or_else(|| from.clone());
            outgoing.walk = Walk::Sent { batch, to, from, objects: count, bytes, last, deadline };
        }
        out.push(Output::Send { to, message: Message::Push { batch, epoch, partition, purpose, objects, last } });
        Ok(())
    }

    /// The same, behind those that were refused before: they are first, at the next tick.
    fn send_next(&mut self, of: WalkOf, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        if self.admission.waits(of.work()) { Ok(()) } else { self.send_batch(of, now, out) }
    }

    // --- handback ---------------------------------------------------------------------------------------------------

    /// Copies that the ring gives to others: once every member holds this ring, they go home and are dropped.
    pub(super) fn tick_handbacks(&mut self, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        let Some(ring) = self.ring.clone() else { return Ok(()) };
        let knows =
            |node: &NodeId| *node == self.identity.node || self.gossip.of(*node).is_some_and(|state| state.epoch >= ring.epoch);
        if !ring.survivors().all(|node| knows(&node)) {
            return Ok(());
        }
        let foreign = self.foreign_partitions();
        self.transfers.handbacks.retain(|partition, _| foreign.contains(partition));
        for partition in self.begun_anywhere(foreign.into_iter().collect()) {
            if self.transfers.handbacks.len() < HANDBACKS_MAX || self.transfers.handbacks.contains_key(&partition) {
                self.advance_handback(&ring, partition, now, out)?;
            }
        }
        Ok(())
    }

    fn advance_handback(
        &mut self,
        ring: &Ring,
        partition: PartitionId,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let root = self.trees.root(partition);
        let mut owners = ring.placement(partition).writers();
        owners.retain(|owner| !ring.is_lost(*owner));
        let fresh = || Handback { owners: owners.iter().map(|owner| (*owner, Outgoing::default())).collect(), root };
        let handback = self.transfers.handbacks.entry(partition).or_insert_with(fresh);
        if handback.root != root {
            *handback = fresh();
        }
        if handback.owners.values().all(|outgoing| matches!(outgoing.walk, Walk::Done)) {
            return self.finish_handback(partition);
        }
        for owner in owners {
            if !self.reachable(owner, now) {
                continue;
            }
            let exchange = self.next_batch();
            let epoch = self.epoch();
            let of = WalkOf::Handback(partition, owner);
            let idle = matches!(self.walk_mut(of), Some(Outgoing { walk: Walk::Idle, .. }));
            if idle && !self.admit_comparison(Work::Handbacks, now) {
                return Ok(());
            }
            let Some(outgoing) = self.walk_mut(of) else { continue };
            match &outgoing.walk {
                Walk::Idle => {
                    outgoing.walk = Walk::Comparing(exchange, now.instant + BATCH_TIMEOUT);
                    out.push(Output::Send {
                        to: owner,
                        message: Message::TreeRequest { exchange, epoch, partition, root, reaped: None },
                    });
                }
                Walk::Ready(_) => self.send_batch(of, now, out)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// An owner's tree: what differs from this copy is sent. True if the answer was for a handback.
    pub(super) fn on_owners_tree(
        &mut self,
        from: NodeId,
        exchange: u64,
        partition: PartitionId,
        equal: bool,
        leaves: &[u8],
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<bool, StorageError> {
        let differing: BTreeSet<usize> =
            if equal { BTreeSet::new() } else { self.trees.differing(partition, leaves).into_iter().collect() };
        let of = WalkOf::Handback(partition, from);
        let Some(outgoing) = self.walk_mut(of) else { return Ok(false) };
        if !matches!(outgoing.walk, Walk::Comparing(asked, _) if asked == exchange) {
            return Ok(false);
        }
        if differing.is_empty() {
            outgoing.walk = Walk::Done;
            self.finish_handback(partition)?;
            return Ok(true);
        }
        outgoing.leaves = Some(differing);
        outgoing.walk = Walk::Ready(None);
        self.send_next(of, now, out)?;
        Ok(true)
    }

    /// Drops the copy if every owner has all of it, and it is what it was when the comparison began. While every set has a lost
    /// member, it is one of the copies that are left, and waits for those who come in the place of the lost.
    fn finish_handback(&mut self, partition: PartitionId) -> Result<(), StorageError> {
        let Some(ring) = &self.ring else { return Ok(()) };
        let has_lost = |set: &[NodeId]| set.iter().any(|node| ring.is_lost(*node));
        if ring.placement(partition).write_sets().into_iter().all(has_lost) {
            return Ok(());
        }
        let root = self.trees.root(partition);
        let done = |handback: &Handback| {
            handback.root == root && handback.owners.values().all(|outgoing| matches!(outgoing.walk, Walk::Done))
        };
        if self.transfers.handbacks.get(&partition).is_some_and(done) {
            self.transfers.handbacks.remove(&partition);
            self.drop_copy(partition)?;
        }
        Ok(())
    }

    pub(super) fn drop_copy(&mut self, partition: PartitionId) -> Result<(), StorageError> {
        self.storage.drop_partition(partition)?;
        self.trees.remove(partition);
        self.versions.clear();
        self.end_tenure(partition)?;
        self.forget_reaped(partition)?;
        self.counters.partitions_dropped += 1;
        Ok(())
    }

    // --- receiving --------------------------------------------------------------------------------------------------

    pub(super) fn on_push(
        &mut self,
        from: NodeId,
        message: Message,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let Message::Push { batch, epoch, partition, purpose, objects, last } = message else { return Ok(()) };
        let own = self.identity.node;
        let ring = match self.fence(from, epoch, out) {
            Ok(ring) if ring.has(partition) && ring.placement(partition).involves(own) && self.takes_writes() => ring,
            _ => {
                let epoch = self.epoch();
                out.push(Output::Send { to: from, message: Message::Pushed { batch, refused: true, epoch } });
                return Ok(());
            }
        };
        let (received, bytes) = (objects.len() as u64, bytes_of(&objects));
        for NamedObject { name, object } in objects {
            if ring.partition_of(&name) == partition {
                let _accepted = self.apply(partition, &name, &object)?;
            } else {
                self.counters.messages_refused += 1;
            }
        }
        if purpose == Purpose::Transfer {
            self.counters.transfer_objects_received += received;
            if last {
                self.note_received(&ring, partition, from, now, out)?;
            }
        }
        match purpose {
            // Repair follows a client's get or an exchange that was granted, and waits for no acknowledgement.
            Purpose::Repair => self.when_durable(Waiting::AcknowledgeBatch { to: from, batch }, now, out),
            Purpose::Hint | Purpose::Transfer | Purpose::Handback => self.acknowledge_batch((from, batch), bytes, now, out),
        }
    }

    /// `from` has sent all of its copy: recorded in the same group of writes as the last objects, and told to the writer of
    /// rings only when that group is on stable storage.
    fn note_received(
        &mut self,
        ring: &Ring,
        partition: PartitionId,
        from: NodeId,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let Some(since) = ring.placement(partition).moving.as_ref().map(|moving| moving.since) else { return Ok(()) };
        self.storage.write_meta(&received_key(partition, from), Some(&since.0.to_be_bytes()))?;
        self.dirty = true;
        self.when_durable(Waiting::Received { partition, since, from }, now, out)
    }

    pub(super) fn on_received_durable(&mut self, partition: PartitionId, since: Epoch, from: NodeId) {
        let entry = self.transfers.received.entry(partition).or_insert_with(|| (since, BTreeSet::new()));
        if entry.0 < since {
            // What is left of an earlier move became durable after this one had begun.
            *entry = (since, BTreeSet::new());
        }
        if entry.0 == since {
            entry.1.insert(from);
        }
    }

    /// What was received before this start, for the moves that the ring still has.
    pub(super) fn restore_received(&mut self) -> Result<(), StorageError> {
        let Some(ring) = self.ring.clone() else { return Ok(()) };
        for (partition, placement, moving) in ring.moving() {
            for from in placement.replicas {
                let record = self.storage.read_meta(&received_key(partition, *from))?;
                if record.as_deref() == Some(&moving.since.0.to_be_bytes()[..]) {
                    self.group.push(Waiting::Received { partition, since: moving.since, from: *from });
                }
            }
        }
        Ok(())
    }

    pub(super) fn on_pushed(
        &mut self,
        from: NodeId,
        batch: u64,
        refused: bool,
        epoch: Epoch,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        if let Some(hints) = self.hints.answered(from, batch) {
            return if refused { self.on_behind(from, epoch, out) } else { self.on_hints_delivered(hints, now, out) };
        }
        let Some(of) = self.walk_of(from, batch) else { return Ok(()) };
        let Some(outgoing) = self.walk_mut(of) else { return Ok(()) };
        let Walk::Sent { from: begun, to, objects, bytes, last, .. } = outgoing.walk.clone() else { return Ok(()) };
        if refused {
            outgoing.walk = Walk::Ready(begun);
            return self.on_behind(from, epoch, out);
        }
        outgoing.walk = if last { Walk::Done } else { Walk::Ready(to) };
        outgoing.objects += objects;
        outgoing.bytes += bytes;
        match of {
            WalkOf::Transfer(..) => self.counters.transfer_objects_sent += objects,
            WalkOf::Handback(..) => self.counters.handback_objects_sent += objects,
        }
        match (last, of) {
            (false, _) => self.send_next(of, now, out),
            (true, WalkOf::Transfer(..)) => self.tick_transfers(now, out),
            (true, WalkOf::Handback(partition, _)) => self.finish_handback(partition),
        }
    }

    /// A receiver with an older ring gets this one; the batch goes again later.
    fn on_behind(&mut self, to: NodeId, epoch: Epoch, out: &mut Vec<Output>) -> Result<(), StorageError> {
        if let Some(ring) = &self.ring
            && ring.epoch > epoch
        {
            out.push(Output::Send { to, message: Message::RingUpdate { ring: ring.clone() } });
        }
        Ok(())
    }

    fn walk_of(&self, to: NodeId, number: u64) -> Option<WalkOf> {
        let sent = |outgoing: &Outgoing| matches!(outgoing.walk, Walk::Sent { batch, .. } if batch == number);
        let transfer = self.transfers.outgoing.iter().find(|((_, node), (_, outgoing))| *node == to && sent(outgoing));
        if let Some(((partition, node), _)) = transfer {
            return Some(WalkOf::Transfer(*partition, *node));
        }
        let handback = |(_, handback): &(&PartitionId, &Handback)| handback.owners.get(&to).is_some_and(sent);
        let (partition, _) = self.transfers.handbacks.iter().find(handback)?;
        Some(WalkOf::Handback(*partition, to))
    }
}

fn received_key(partition: PartitionId, from: NodeId) -> Vec<u8> {
    let mut key = b"received/".to_vec();
    key.extend_from_slice(&partition.0.to_be_bytes());
    key.extend_from_slice(&from.0);
    key
}
