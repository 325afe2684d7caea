//! Data on its way to where the ring wants it (paper 4.6, 4.9): hints, transfers to new replicas, and batches of handbacks
//! ([`super::handback`]).
//!
//! All three are batches of joins that the receiver acknowledges from stable storage. Nothing is removed here before that:
//! a hint goes when its own target has it, a copy when every owner has all of it and every member holds the ring that says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::admission::Work;
use crate::hinted_handoff::{Answered, Batch};
use crate::id::{Epoch, NodeId, PartitionId};
use crate::message::{Message, NamedObject, Purpose};
use crate::node::background::{READ_SHARE, bytes_of};
use crate::node::{Node, Output, Waiting};
use crate::ring::{Ring, Stage};
use crate::storage::{Cursor, Storage, StorageError};
use crate::time::Now;
use crate::transfer::{Handback, Outgoing, Sent, Walk};

/// How long a batch may be unanswered before it is sent again.
pub(super) const BATCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Which walk a batch belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WalkOf {
    Transfer(PartitionId, NodeId),
    Handback(PartitionId, NodeId),
}

impl WalkOf {
    pub(super) fn work(self) -> Work {
        match self {
            WalkOf::Transfer(..) => Work::Transfers,
            WalkOf::Handback(..) => Work::Handbacks,
        }
    }

    pub(super) fn purpose(self) -> Purpose {
        match self {
            WalkOf::Transfer(..) => Purpose::Transfer,
            WalkOf::Handback(..) => Purpose::Handback,
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
        let found = self.storage.scan_hints(target, self.hints.passed(target), limit, bytes)?;
        let Some((partition, _, _)) = found.first() else {
            self.hints.at_end(target);
            return Ok(());
        };
        let partition = *partition;
        if let Some(behind) = self.passes_over(partition, target) {
            self.hints.skip_to(target, behind);
            return Ok(());
        }
        let found: Vec<_> = found.into_iter().take_while(|(at, _, _)| *at == partition).collect();
        let batch = self.next_batch();
        let hints = found.iter().map(|(_, name, object)| (name.clone(), object.encoded_len())).collect();
        self.hints.sent(batch, Batch { target, partition, hints, deadline: now.instant + BATCH_TIMEOUT });
        let objects: Vec<NamedObject> = found.into_iter().map(|(_, name, object)| NamedObject { name, object }).collect();
        self.moved(Work::Hints, bytes_of(&objects), now);
        let epoch = self.epoch();
        let message = Message::Push { batch, epoch, partition, purpose: Purpose::Hint, objects, last: false };
        out.push(Output::Send { to: target, message });
        Ok(())
    }

    fn on_hints_delivered(&mut self, batch: Batch, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        let Batch { target, partition, hints, .. } = batch;
        for (name, bytes) in &hints {
            self.storage.remove_hint(target, partition, name)?;
            self.hints.removed(target, (partition, name), *bytes);
            self.counters.hints_delivered += 1;
        }
        if !hints.is_empty() {
            self.dirty = true;
            self.end_foreign_tenure(partition)?;
        }
        // Those that were refused before are first, at the next tick.
        if self.admission.waits(Work::Hints) { Ok(()) } else { self.send_hints(target, now, out) }
    }

    /// A node that is no replica of `partition` may have coordinated from the hint that is gone now.
    fn end_foreign_tenure(&mut self, partition: PartitionId) -> Result<(), StorageError> {
        let own = self.identity.node;
        let home = self.ring.as_ref().is_some_and(|ring| ring.placement(partition).involves(own));
        if home { Ok(()) } else { self.end_tenure(partition) }
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
        // Walks to a receiver that is away stand still, and keep no others from beginning.
        let mut active = self.transfers.active(|to| self.reachable(to, now));
        for (partition, to) in self.begun_anywhere(waiting) {
            let is_idle = |node: &Self| matches!(node.transfers.outgoing[&(partition, to)].1.walk, Walk::Idle);
            let idle = is_idle(self);
            if (!idle || active < self.config.transfers_max) && self.reachable(to, now) {
                self.send_batch(WalkOf::Transfer(partition, to), now, out)?;
                active += usize::from(idle && !is_idle(self));
            }
        }
        Ok(())
    }

    fn expire_walks(&mut self, now: Now) {
        let handbacks = self.transfers.handbacks.values_mut().flat_map(|handback| handback.owners.values_mut());
        for outgoing in self.transfers.outgoing.values_mut().map(|(_, outgoing)| outgoing).chain(handbacks) {
            match &outgoing.walk {
                Walk::Sent(sent) | Walk::Asked(sent) if sent.deadline <= now.instant => {
                    outgoing.walk = Walk::Ready(sent.from.clone());
                }
                Walk::Comparing(_, deadline) if *deadline <= now.instant => outgoing.walk = Walk::Idle,
                _ => {}
            }
        }
    }

    pub(super) fn walk_mut(&mut self, of: WalkOf) -> Option<&mut Outgoing> {
        match of {
            WalkOf::Transfer(partition, to) => self.transfers.outgoing.get_mut(&(partition, to)).map(|(_, outgoing)| outgoing),
            WalkOf::Handback(partition, to) => self.transfers.handbacks.get_mut(&partition)?.owners.get_mut(&to),
        }
    }

    /// Sends what comes after the walk's place, or of a handback asks about it first; an empty last batch ends a walk over an empty
    /// copy.
    pub(super) fn send_batch(&mut self, of: WalkOf, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        let (WalkOf::Transfer(partition, to) | WalkOf::Handback(partition, to)) = of;
        let asks = matches!(of, WalkOf::Handback(..));
        let Some(outgoing) = self.walk_mut(of) else { return Ok(()) };
        let from = match &outgoing.walk {
            Walk::Idle => None,
            Walk::Ready(after) => after.clone(),
            _ => return Ok(()),
        };
        let leaves = outgoing.leaves.clone();
        let limit = self.config.batch_objects_max;
        let Some(bytes) = self.admit(of.work(), now) else { return Ok(()) };
        let share = if asks { READ_SHARE } else { 1 };
        let found =
            self.storage.scan(partition, from.as_ref(), limit, bytes.saturating_mul(share).min(self.config.batch_bytes_max))?;
        let reached = found.last().map(|(cursor, _)| cursor.clone());
        // One more look tells whether this batch is the last: an empty one always is.
        let last = match &reached {
            None => true,
            Some(cursor) => self.storage.scan(partition, Some(cursor), 1, 1)?.is_empty(),
        };
        let read: usize = found.iter().map(|(cursor, object)| cursor.name.len() + object.encoded_len()).sum();
        self.moved(of.work(), read / share, now);
        let wanted = |cursor: &Cursor| leaves.as_ref().is_none_or(|leaves| leaves.contains(&self.trees.leaf_of(cursor.position)));
        let objects: Vec<NamedObject> = found
            .into_iter()
            .filter(|(cursor, _)| wanted(cursor))
            .map(|(cursor, object)| NamedObject { name: cursor.name, object })
            .collect();
        let batch = self.next_batch();
        let deadline = now.instant + BATCH_TIMEOUT;
        let epoch = self.epoch();
        let asks = asks && !objects.is_empty();
        if let Some(outgoing) = self.walk_mut(of) {
            let (count, bytes) = (objects.len() as u64, bytes_of(&objects) as u64);
            let to = reached.or_else(|| from.clone());
            let sent = Sent { batch, to, from, objects: count, bytes, last, deadline };
            outgoing.walk = if asks { Walk::Asked(sent) } else { Walk::Sent(sent) };
        }
        let message = if asks {
            self.asking_about(batch, partition, objects, now)
        } else {
            Message::Push { batch, epoch, partition, purpose: of.purpose(), objects, last }
        };
        out.push(Output::Send { to, message });
        Ok(())
    }

    /// The same, behind those that were refused before: they are first, at the next tick.
    pub(super) fn send_next(&mut self, of: WalkOf, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        if self.admission.waits(of.work()) { Ok(()) } else { self.send_batch(of, now, out) }
    }

    // --- receiving --------------------------------------------------------------------------------------------------

    /// The ring, if the sender has it too and it gives this node the partition, and there is room where it is written to. Otherwise the
    /// batch is refused.
    pub(super) fn ring_for_batch(
        &mut self,
        (from, batch): (NodeId, u64),
        epoch: Epoch,
        partition: PartitionId,
        writes: bool,
        out: &mut Vec<Output>,
    ) -> Option<Arc<Ring>> {
        let own = self.identity.node;
        match self.fence(from, epoch, out) {
            Ok(ring) if ring.has(partition) && ring.placement(partition).involves(own) && (!writes || self.takes_writes()) => {
                Some(ring)
            }
            _ => {
                let epoch = self.epoch();
                out.push(Output::Send { to: from, message: Message::Pushed { batch, refused: true, epoch } });
                None
            }
        }
    }

    pub(super) fn on_push(
        &mut self,
        from: NodeId,
        message: Message,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let Message::Push { batch, epoch, partition, purpose, objects, last } = message else { return Ok(()) };
        let Some(ring) = self.ring_for_batch((from, batch), epoch, partition, true, out) else { return Ok(()) };
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
        match self.hints.answered(from, batch, !refused) {
            Some(Answered::Taken(hints)) => return self.on_hints_delivered(hints, now, out),
            Some(Answered::Refused) => return self.on_behind(from, epoch, out),
            None => {}
        }
        let Some(of) = self.walk_of(from, batch) else { return Ok(()) };
        let Some(outgoing) = self.walk_mut(of) else { return Ok(()) };
        let sent = match &outgoing.walk {
            Walk::Asked(sent) | Walk::Sent(sent) if refused => {
                outgoing.walk = Walk::Ready(sent.from.clone());
                return self.on_behind(from, epoch, out);
            }
            Walk::Sent(sent) => sent.clone(),
            _ => return Ok(()),
        };
        match of {
            WalkOf::Transfer(..) => self.counters.transfer_objects_sent += sent.objects,
            WalkOf::Handback(..) => self.counters.handback_objects_sent += sent.objects,
        }
        self.on_batch_done(of, sent, now, out)
    }

    /// The receiver has all of the batch on stable storage: the walk goes on behind it.
    pub(super) fn on_batch_done(&mut self, of: WalkOf, sent: Sent, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        let Some(outgoing) = self.walk_mut(of) else { return Ok(()) };
        outgoing.walk = if sent.last { Walk::Done } else { Walk::Ready(sent.to) };
        outgoing.objects += sent.objects;
        outgoing.bytes += sent.bytes;
        match (sent.last, of) {
            (false, _) => self.send_next(of, now, out),
            (true, WalkOf::Transfer(..)) => self.tick_transfers(now, out),
            (true, WalkOf::Handback(partition, _)) => {
                self.finish_handback(partition)?;
                self.tick_handbacks(now, out)
            }
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

    pub(super) fn walk_of(&self, to: NodeId, number: u64) -> Option<WalkOf> {
        let sent = |outgoing: &Outgoing| matches!(&outgoing.walk, Walk::Asked(sent) | Walk::Sent(sent) if sent.batch == number);
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
