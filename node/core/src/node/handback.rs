//! Copies that the ring gives to others (paper 4.9): left over from a move, or written here as a fallback. Once every member holds
//! this ring they go home and are dropped.
//!
//! ```text
//! keeper: TreeRequest(root) -> owner: TreeResponse(equal: done | leaves)
//! keeper: HistoriesRequest(what it knows of the objects in leaves that differ, without their values), batch by batch
//!      -> owner: HistoriesResponse(names of which it has not seen everything), once what it has is on stable storage
//! keeper: Push(these objects) -> owner: Pushed, once they are on stable storage
//! ```
//!
//! An owner goes on taking writes, so its tree differs from a copy that does not in every leaf that was written to since, although
//! it has everything. That is why histories are asked about first: of a value of a kilobyte a history is a twentieth.

use std::collections::BTreeSet;

use crate::admission::Work;
use crate::id::{NodeId, PartitionId};
use crate::message::{Message, NamedHistory, NamedObject, Purpose};
use crate::name::Name;
use crate::node::background::{READ_SHARE, bytes_of};
use crate::node::movement::{BATCH_TIMEOUT, WalkOf};
use crate::node::{Node, Output, Waiting};
use crate::ring::Ring;
use crate::storage::{Storage, StorageError};
use crate::time::Now;
use crate::transfer::{Handback, Outgoing, Sent, Walk};

/// Copies on their way home at the same time, those whose owners are away aside: most need only a comparison of trees.
const HANDBACKS_MAX: usize = 64;

/// What a look-up costs the owner in any case: the same part of a usual object of a kilobyte.
const LOOKUP_BYTES: usize = (1 << 10) / READ_SHARE;

impl<S: Storage> Node<S> {
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
        // Copies whose owners are away wait, and keep no others from going home.
        let mut going_home = self.transfers.going_home(|owner| self.reachable(owner, now));
        for partition in self.begun_anywhere(foreign.into_iter().collect()) {
            let begins = !self.transfers.handbacks.contains_key(&partition);
            let may_begin = || ring.placement(partition).writers().iter().any(|owner| self.reachable(*owner, now));
            if begins && (going_home >= HANDBACKS_MAX || !may_begin()) {
                continue;
            }
            going_home += usize::from(begins);
            self.advance_handback(&ring, partition, now, out)?;
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
                Walk::Ready(_) => self.ask_owner(of, now, out)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The next batch of a walk, if not too many are under way: nodes that leave have no clients of their own to give way to, and their
    /// owners have.
    fn ask_owner(&mut self, of: WalkOf, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        if self.transfers.handing_back() < self.config.transfers_max { self.send_batch(of, now, out) } else { Ok(()) }
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
        if !self.admission.waits(Work::Handbacks) {
            self.ask_owner(of, now, out)?;
        }
        Ok(true)
    }

    /// Drops the copy if every owner has all of it, and it is what it was when the comparison began. While every set has a lost
    /// member, it is one of the copies that are left, and waits for those who come in the place of the lost.
    pub(super) fn finish_handback(&mut self, partition: PartitionId) -> Result<(), StorageError> {
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
        let Some(ring) = &self.ring else { return Ok(()) };
        self.storage.drop_partition(partition)?;
        self.trees.remove(partition);
        // The layers of a partition have their positions in common.
        let (bits, list) = (ring.partition_bits, ring.list_of(partition));
        self.versions.forget(|position| position.partition(bits).0 as usize == list);
        self.end_tenure(partition)?;
        self.forget_reaped(partition)?;
        self.counters.partitions_dropped += 1;
        Ok(())
    }

    // --- histories --------------------------------------------------------------------------------------------------

    /// What asks an owner which of `objects` it has not seen all of.
    pub(super) fn asking_about(&mut self, batch: u64, partition: PartitionId, objects: Vec<NamedObject>, now: Now) -> Message {
        let histories: Vec<NamedHistory> =
            objects.into_iter().map(|NamedObject { name, object }| NamedHistory { name, history: object.history() }).collect();
        self.moved(Work::Handbacks, bytes_of_histories(&histories), now);
        self.counters.handback_histories_sent += histories.len() as u64;
        Message::HistoriesRequest { batch, epoch: self.epoch(), partition, histories }
    }

    pub(super) fn on_histories_request(
        &mut self,
        from: NodeId,
        message: Message,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let Message::HistoriesRequest { batch, epoch, partition, histories } = message else { return Ok(()) };
        let Some(ring) = self.ring_for_batch((from, batch), epoch, partition, false, out) else { return Ok(()) };
        let cost = bytes_of_histories(&histories) + histories.len() * LOOKUP_BYTES;
        let mut lacking = Vec::new();
        for NamedHistory { name, history } in histories {
            if ring.partition_of(&name) != partition {
                self.counters.messages_refused += 1;
            } else if !self.history(partition, &name)?.0.includes(&history) {
                lacking.push(name);
            }
        }
        let message = Box::new(Message::HistoriesResponse { batch, lacking });
        // The asker drops its copy on this word.
        self.settle((from, batch), Waiting::Answer { to: from, message }, cost, now, out)
    }

    /// What the owner has not seen all of is sent; the rest of the batch is done.
    pub(super) fn on_histories_response(
        &mut self,
        from: NodeId,
        batch: u64,
        lacking: Vec<Name>,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let Some(of @ WalkOf::Handback(partition, _)) = self.walk_of(from, batch) else { return Ok(()) };
        let Some(Outgoing { walk: Walk::Asked(asked), .. }) = self.walk_mut(of).map(|outgoing| outgoing.clone()) else {
            return Ok(());
        };
        let mut objects = Vec::new();
        for name in lacking {
            if let Some(object) = self.storage.read(partition, &name)? {
                objects.push(NamedObject { name, object });
            }
        }
        let bytes = bytes_of(&objects);
        let sent = Sent {
            batch: self.next_batch(),
            objects: objects.len() as u64,
            bytes: bytes as u64,
            deadline: now.instant + BATCH_TIMEOUT,
            ..asked
        };
        if objects.is_empty() {
            return self.on_batch_done(of, sent, now, out);
        }
        self.moved(Work::Handbacks, bytes, now);
        let (batch, epoch, last) = (sent.batch, self.epoch(), sent.last);
        if let Some(outgoing) = self.walk_mut(of) {
            outgoing.walk = Walk::Sent(sent);
        }
        let message = Message::Push { batch, epoch, partition, purpose: Purpose::Handback, objects, last };
        out.push(Output::Send { to: from, message });
        Ok(())
    }
}

fn bytes_of_histories(histories: &[NamedHistory]) -> usize {
    histories.iter().map(|NamedHistory { name, history }| name.len() + history.encoded_len()).sum()
}
