//! Data on its way to where the ring wants it (paper 4.6, 4.9): hints, transfers to new replicas, and handbacks
//! ([`super::handback`] says what begins and ends those).
//!
//! All three are batches of joins that the receiver acknowledges from stable storage. Nothing is removed here before that:
//! a hint goes when its own target has it, a copy when every owner has all of it and every member holds the ring that says so.
//!
//! ```text
//! Copy    sender: TreeRequest(root) -> receiver: TreeResponse(equal: to Confirm | leaves)
//!         sender: Push(what lies in leaves that differ), batch by batch -> receiver: Pushed, once they are on stable storage
//! Verify  sender: TreeRequest(root) -> receiver: TreeResponse(equal: done | leaves)
//!         sender: HistoriesRequest(what it knows of the objects in leaves that differ, without their values), batch by batch
//!              -> receiver: HistoriesResponse(names of which it has not seen everything), once what it has is on stable storage
//!         sender: Push(these objects) -> receiver: Pushed
//! Confirm sender: Confirm(what it has reaped) -> receiver: adopts that, notes that it holds the partition; Pushed
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::admission::Work;
use crate::hash_tree::LEAVES;
use crate::hinted_handoff::{Answered, Batch};
use crate::id::{Epoch, NodeId, PartitionId};
use crate::message::{Message, NamedObject, Purpose};
use crate::name::Name;
use crate::node::background::{READ_SHARE, bytes_of};
use crate::node::{Node, Output, Waiting};
use crate::reaping::Reaped;
use crate::ring::{Ring, Stage};
use crate::storage::{Cursor, Storage, StorageError};
use crate::time::Now;
use crate::transfer::{Handback, Outgoing, Pass, Sent, Walk};

/// How long a batch may be unanswered before it is sent again.
pub(super) const BATCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Which walk a batch belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WalkOf {
    Transfer(PartitionId, NodeId),
    Handback(PartitionId, NodeId),
}

impl WalkOf {
    /// The partition and who receives it.
    pub(super) fn parts(self) -> (PartitionId, NodeId) {
        let (WalkOf::Transfer(partition, to) | WalkOf::Handback(partition, to)) = self;
        (partition, to)
    }

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

/// A piece of a copy.
struct Piece {
    /// What of it lies in leaves that differ.
    objects: Vec<NamedObject>,
    /// Bytes that were read.
    read: usize,
    /// The last that was looked at, if there may be more behind it.
    reached: Option<Cursor>,
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
            match behind {
                Some(behind) => self.hints.skip_to(target, behind),
                None => self.hints.at_end(target),
            }
            return Ok(());
        }
        let found: Vec<_> = found.into_iter().take_while(|(at, _, _)| *at == partition).collect();
        let batch = self.next_batch();
        let hints = found.iter().map(|(_, name, object)| (name.clone(), object.encoded_len())).collect();
        self.hints.sent(batch, Batch { target, partition, hints, deadline: now.instant + BATCH_TIMEOUT });
        let objects: Vec<NamedObject> = found.into_iter().map(|(_, name, object)| NamedObject { name, object }).collect();
        self.moved(Work::Hints, bytes_of(&objects), now);
        let epoch = self.epoch();
        // One that may be older than what was reaped meanwhile waits where the target is yet to hear of that.
        let purpose = if self.outlived_membership() { Purpose::Handback } else { Purpose::Hint };
        let message = Message::Push { batch, epoch, partition, purpose, objects };
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
            self.transfers.outgoing.entry(key).or_insert_with(|| (since, Outgoing::new(Pass::Copy)));
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
            .filter(|(_, (_, outgoing))| {
                matches!(outgoing.walk, Walk::Idle | Walk::Ready(_)) && !outgoing.is_refused(now.instant)
            })
            .map(|(key, _)| *key)
            .collect();
        // Walks to a receiver that is away or has no room stand still, and keep none to others from beginning.
        let mut active = self.transfers.active(|to| self.reachable(to, now), now.instant);
        for (partition, to) in self.begun_anywhere(waiting) {
            let Some((_, outgoing)) = self.transfers.outgoing.get(&(partition, to)) else { continue };
            let (idle, unbegun) = (matches!(outgoing.walk, Walk::Idle), !outgoing.is_begun());
            let most = self.config.transfers_max;
            if !self.reachable(to, now) || unbegun && (active >= most || self.transfers.begun_to(to) >= most) {
                continue;
            }
            let of = WalkOf::Transfer(partition, to);
            if idle {
                active += usize::from(self.compare_trees(of, now, out)? && unbegun);
            } else {
                self.send_batch(of, now, out)?;
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
                Walk::Comparing(comparison) if comparison.deadline <= now.instant => outgoing.walk = Walk::Idle,
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

    /// Sends what comes after the walk's place in leaves that differ, or asks about it first; an empty last batch ends a walk over what
    /// is gone meanwhile.
    pub(super) fn send_batch(&mut self, of: WalkOf, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        let (partition, to) = of.parts();
        let Some(Outgoing { pass, walk: Walk::Ready(from), leaves, .. }) = self.walk_mut(of).map(|outgoing| &*outgoing) else {
            return Ok(());
        };
        let (pass, from, leaves) = (*pass, from.clone(), leaves.clone());
        if pass == Pass::Confirm {
            return self.confirm(of, now, out);
        }
        let limit = self.config.batch_objects_max;
        let Some(bytes) = self.admit(of.work(), now) else { return Ok(()) };
        let share = if pass == Pass::Verify { READ_SHARE } else { 1 };
        let bytes = bytes.saturating_mul(share).min(self.config.batch_bytes_max);
        let Piece { objects, read, reached } = self.piece(partition, &leaves, from.as_ref(), limit, bytes)?;
        self.moved(of.work(), read / share, now);
        let (batch, epoch) = (self.next_batch(), self.epoch());
        let asks = pass == Pass::Verify && !objects.is_empty();
        if let Some(outgoing) = self.walk_mut(of) {
            let (count, bytes) = (objects.len() as u64, bytes_of(&objects) as u64);
            let (last, deadline) = (reached.is_none(), now.instant + BATCH_TIMEOUT);
            let sent = Sent { batch, from, to: reached, objects: count, bytes, last, deadline };
            outgoing.walk = if asks { Walk::Asked(sent) } else { Walk::Sent(sent) };
        }
        let message = if asks {
            self.asking_about(of, batch, objects, now)
        } else {
            Message::Push { batch, epoch, partition, purpose: of.purpose(), objects }
        };
        out.push(Output::Send { to, message });
        Ok(())
    }

    /// The objects behind `after` that lie in `leaves`, or as many of them as one batch has.
    fn piece(
        &self,
        partition: PartitionId,
        leaves: &BTreeSet<usize>,
        after: Option<&Cursor>,
        limit: usize,
        bytes: usize,
    ) -> Result<Piece, StorageError> {
        let leaf = |at: &Cursor| self.trees.leaf_of(at.position);
        let start = |leaf: usize| Cursor { position: self.trees.leaf_start(partition, leaf), name: Name::new("", "") };
        // Where the next object may be: what lies in other leaves is not read.
        let next = |after: Option<&Cursor>| match after {
            Some(after) if leaves.contains(&leaf(after)) => Some(after.clone()),
            after => leaves.range(after.map_or(0, leaf)..).next().map(|leaf| start(*leaf)),
        };
        let mut piece = Piece { objects: Vec::new(), read: 0, reached: None };
        let Some(from) = next(after) else { return Ok(piece) };
        // One more than these leaves have shows their end.
        let counts = self.trees.leaf_counts(partition);
        let together = (leaf(&from)..LEAVES).take_while(|leaf| leaves.contains(leaf));
        let limit = limit.min(together.map(|leaf| counts[leaf] as usize).sum::<usize>() + 1);
        for (at, object) in self.storage.scan(partition, Some(&from), limit, bytes)? {
            piece.read += at.name.len() + object.encoded_len();
            piece.reached = Some(at.clone());
            if !leaves.contains(&leaf(&at)) {
                break;
            }
            piece.objects.push(NamedObject { name: at.name, object });
        }
        // One more look tells whether this is the last.
        piece.reached = match piece.reached.as_ref().and_then(|reached| next(Some(reached))) {
            Some(behind) if !self.storage.scan(partition, Some(&behind), 1, 1)?.is_empty() => piece.reached,
            _ => None,
        };
        Ok(piece)
    }

    /// The next batch, behind those that were refused before: they are first, at the next tick.
    pub(super) fn send_next(&mut self, of: WalkOf, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        if self.admission.waits(of.work()) { Ok(()) } else { self.send_batch(of, now, out) }
    }

    /// Tells the receiver of a transfer that it has everything, and what may never come back: what was reaped when that was compared.
    fn confirm(&mut self, of: WalkOf, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        let (partition, to) = of.parts();
        let (batch, epoch, deadline) = (self.next_batch(), self.epoch(), now.instant + BATCH_TIMEOUT);
        let Some(outgoing) = self.walk_mut(of) else { return Ok(()) };
        outgoing.walk = Walk::Sent(Sent { batch, from: None, to: None, objects: 0, bytes: 0, last: true, deadline });
        let reaped = outgoing.reaped.clone();
        self.send_after_reaping(to, partition, Message::Confirm { batch, epoch, partition, reaped }, now, out)
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
        let Message::Push { batch, epoch, partition, purpose, objects } = message else { return Ok(()) };
        let Some(ring) = self.ring_for_batch((from, batch), epoch, partition, !objects.is_empty(), out) else { return Ok(()) };
        if purpose == Purpose::Handback && self.is_being_filled(&ring, partition) {
            out.push(Output::Send { to: from, message: Message::Pushed { batch, refused: true, epoch: ring.epoch } });
            return Ok(());
        }
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
        }
        match purpose {
            // Repair follows a client's get or an exchange that was granted, and waits for no acknowledgement.
            Purpose::Repair => self.when_durable(Waiting::AcknowledgeBatch { to: from, batch }, now, out),
            Purpose::Hint | Purpose::Transfer | Purpose::Handback => self.acknowledge_batch((from, batch), bytes, now, out),
        }
    }

    /// Whether a source of this new replica has not confirmed yet. What others hand back waits until then: it may be older than what was
    /// reaped here, which only the sources know.
    fn is_being_filled(&self, ring: &Ring, partition: PartitionId) -> bool {
        let placement = ring.placement(partition);
        let Some(moving) = placement.moving else { return false };
        let received = self.transfers.received.get(&partition).filter(|(since, _)| *since == moving.since);
        let confirmed = |source: &NodeId| received.is_some_and(|(_, from)| from.contains(source));
        let fills = placement.fills(&ring.lost);
        fills.iter().any(|(to, sources)| *to == self.identity.node && !sources.iter().all(confirmed))
    }

    /// The same, of any partition.
    pub(super) fn is_being_filled_somewhere(&self) -> bool {
        let Some(ring) = &self.ring else { return false };
        ring.moving().any(|(partition, _, _)| self.is_being_filled(ring, partition))
    }

    /// `from` says that this copy has everything of its own. What it has reaped holds here as well: of a name that is in neither copy all of
    /// that is superseded, and one that is newer in `from`'s comes by a write to both sets.
    pub(super) fn on_confirm(
        &mut self,
        from: NodeId,
        batch: u64,
        epoch: Epoch,
        partition: PartitionId,
        reaped: Option<Reaped>,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let Some(ring) = self.ring_for_batch((from, batch), epoch, partition, false, out) else { return Ok(()) };
        if let Some(reaped) = reaped {
            self.disown(partition, &reaped.upto)?;
            self.adopt_reaped(partition, reaped)?;
        }
        self.note_received(&ring, partition, from, now, out)?;
        self.acknowledge_batch((from, batch), 0, now, out)
    }

    /// Recorded in the same group of writes as what was adopted, and told to the writer of rings only when that group is on stable storage.
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
        self.holds_again(partition)?;
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
                    self.storage.hold(Waiting::Received { partition, since: moving.since, from: *from });
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
        let own_epoch = self.epoch();
        let Some(outgoing) = self.walk_mut(of) else { return Ok(()) };
        let sent = match &outgoing.walk {
            Walk::Asked(sent) | Walk::Sent(sent) if refused => {
                outgoing.walk = Walk::Ready(sent.from.clone());
                outgoing.refused_until = (epoch == own_epoch).then(|| now.instant + BATCH_TIMEOUT);
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
        outgoing.objects += sent.objects;
        outgoing.bytes += sent.bytes;
        if !sent.last {
            outgoing.walk = Walk::Ready(sent.to);
            return self.send_next(of, now, out);
        }
        match outgoing.pass {
            Pass::Copy => {
                outgoing.pass = Pass::Verify;
                outgoing.walk = Walk::Idle;
            }
            Pass::Verify => self.on_verified(of, now, out)?,
            Pass::Confirm => outgoing.walk = Walk::Done,
        }
        match of {
            WalkOf::Transfer(..) => self.tick_transfers(now, out),
            WalkOf::Handback(..) => self.tick_handbacks(now, out),
        }
    }

    /// A receiver with an older ring gets this one; the batch goes again later.
    fn on_behind(&mut self, to: NodeId, epoch: Epoch, out: &mut Vec<Output>) -> Result<(), StorageError> {
        if self.epoch() > epoch {
            self.send_ring(to, out);
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
