//! Whether another node has all of a copy: hash trees compared, and histories where they differ ([`crate::transfer`]). A transfer is
//! called received on this evidence, and a copy that went home is dropped on it.

use std::collections::BTreeSet;

use crate::id::{NodeId, PartitionId};
use crate::message::{Message, NamedHistory, NamedObject};
use crate::name::Name;
use crate::node::background::{READ_SHARE, bytes_of};
use crate::node::movement::{BATCH_TIMEOUT, WalkOf};
use crate::node::{Node, Output, Waiting};
use crate::storage::{Storage, StorageError};
use crate::time::Now;
use crate::transfer::{Comparison, Outgoing, Pass, Sent, Walk};
use crate::version::Digest;

/// What a look-up costs the other node in any case: the same part of a usual object of a kilobyte.
const LOOKUP_BYTES: usize = (1 << 10) / READ_SHARE;

impl<S: Storage> Node<S> {
    /// Asks for the tree of the walk's receiver. False if the budget has no room for that now.
    pub(super) fn compare_trees(&mut self, of: WalkOf, now: Now, out: &mut Vec<Output>) -> Result<bool, StorageError> {
        let (partition, to) = of.parts();
        if !self.admit_comparison(of.work(), now) {
            return Ok(false);
        }
        let (exchange, epoch, root) = (self.next_batch(), self.epoch(), self.trees.root(partition));
        let reaped = self.reaped(partition)?.cloned();
        if let Some(outgoing) = self.walk_mut(of) {
            outgoing.reaped = reaped;
            outgoing.walk = Walk::Comparing(Comparison { exchange, root, deadline: now.instant + BATCH_TIMEOUT });
            out.push(Output::Send { to, message: Message::TreeRequest { exchange, epoch, partition, root, reaped: None } });
        }
        Ok(true)
    }

    /// A receiver's tree: the walk goes through what differs. True if the answer was for a walk.
    pub(super) fn on_receivers_tree(
        &mut self,
        from: NodeId,
        exchange: u64,
        partition: PartitionId,
        root: Digest,
        leaves: &[u8],
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<bool, StorageError> {
        let mut asked = |of: &WalkOf| match self.walk_mut(*of) {
            Some(Outgoing { walk: Walk::Comparing(comparison), .. }) if comparison.exchange == exchange => {
                Some((*of, comparison.root))
            }
            _ => None,
        };
        let walks = [WalkOf::Transfer(partition, from), WalkOf::Handback(partition, from)];
        let Some((of, ours)) = walks.iter().find_map(&mut asked) else { return Ok(false) };
        // What came since then has come by writes to both sets.
        let equal = root == ours || root == self.trees.root(partition);
        let differing: BTreeSet<usize> =
            if equal { BTreeSet::new() } else { self.trees.differing(partition, leaves).into_iter().collect() };
        if differing.is_empty() {
            self.on_verified(of, now, out)?;
            return Ok(true);
        }
        if let Some(outgoing) = self.walk_mut(of) {
            outgoing.differing(differing);
        }
        if !self.admission.waits(of.work()) {
            match of {
                WalkOf::Transfer(..) => self.send_batch(of, now, out)?,
                WalkOf::Handback(..) => self.ask_owner(of, now, out)?,
            }
        }
        Ok(true)
    }

    /// The receiver has everything of the copy.
    pub(super) fn on_verified(&mut self, of: WalkOf, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        let Some(outgoing) = self.walk_mut(of) else { return Ok(()) };
        match of {
            WalkOf::Transfer(..) => {
                outgoing.pass = Pass::Confirm;
                outgoing.walk = Walk::Ready(None);
                self.send_batch(of, now, out)
            }
            WalkOf::Handback(partition, _) => {
                outgoing.walk = Walk::Done;
                self.finish_handback(partition)
            }
        }
    }

    // --- histories --------------------------------------------------------------------------------------------------

    /// What asks the walk's receiver which of `objects` it has not seen all of.
    pub(super) fn asking_about(&mut self, of: WalkOf, batch: u64, objects: Vec<NamedObject>, now: Now) -> Message {
        let (partition, _) = of.parts();
        let histories: Vec<NamedHistory> =
            objects.into_iter().map(|NamedObject { name, object }| NamedHistory { name, history: object.history() }).collect();
        self.moved(of.work(), bytes_of_histories(&histories), now);
        let asked = match of {
            WalkOf::Transfer(..) => &mut self.counters.transfer_histories_sent,
            WalkOf::Handback(..) => &mut self.counters.handback_histories_sent,
        };
        *asked += histories.len() as u64;
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
        // The asker drops its copy on this word, or calls it received.
        self.settle((from, batch), Waiting::Answer { to: from, message }, cost, now, out)
    }

    /// What the receiver has not seen all of is sent; the rest of the batch is done.
    pub(super) fn on_histories_response(
        &mut self,
        from: NodeId,
        batch: u64,
        lacking: Vec<Name>,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let Some(of) = self.walk_of(from, batch) else { return Ok(()) };
        let (partition, _) = of.parts();
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
        self.moved(of.work(), bytes, now);
        if let WalkOf::Transfer(..) = of {
            self.counters.transfer_objects_lacking += objects.len() as u64;
        }
        let (batch, epoch) = (sent.batch, self.epoch());
        if let Some(outgoing) = self.walk_mut(of) {
            outgoing.walk = Walk::Sent(sent);
        }
        let message = Message::Push { batch, epoch, partition, purpose: of.purpose(), objects };
        out.push(Output::Send { to: from, message });
        Ok(())
    }
}

fn bytes_of_histories(histories: &[NamedHistory]) -> usize {
    histories.iter().map(|NamedHistory { name, history }| name.len() + history.encoded_len()).sum()
}
