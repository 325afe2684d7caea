//! What background work asks of [`crate::admission`] before it runs (paper 6.5), and acknowledgements that it keeps back.

use std::collections::BTreeMap;

use crate::admission::{Report, Work};
use crate::id::NodeId;
use crate::message::{Message, NamedObject};
use crate::node::{Node, Output, Waiting};
use crate::storage::{Storage, StorageError};
use crate::time::{Instant, Now};

/// Acknowledgements and windows kept back at most: a node has a few batches under way to each peer, and there are a few hundred peers.
/// What comes beyond that is not kept waiting.
const KEPT_BACK_MAX: usize = 1_024;

/// Objects that are compared cost this part of what it costs to move them: they are read, and their versions are looked up at the other
/// side, but nothing is written or synced.
pub(super) const READ_SHARE: usize = 8;

/// What is kept back, by when it is due, for whom, and for which of that node's batches or exchanges.
pub(super) type KeptBack = BTreeMap<(Instant, NodeId, u64), Kept>;

/// What others wait for until this node's budget has room for more of theirs.
#[derive(Clone, Debug)]
pub(super) enum Kept {
    /// The acknowledgement of a batch, or the answer to it.
    Answer(Waiting),
    /// A window that they asked to compare, which is not looked at before.
    Window(Message),
}

/// What objects take on the way.
pub(super) fn bytes_of(objects: &[NamedObject]) -> usize {
    objects.iter().map(|NamedObject { name, object }| name.len() + object.encoded_len()).sum()
}

impl<S: Storage> Node<S> {
    /// How many bytes a batch of `work` may have now, if it may go out.
    pub(super) fn admit(&mut self, work: Work, now: Now) -> Option<usize> {
        let granted = self.admission.ask(work, self.config.batch_bytes_max, now.instant);
        let counters = &mut self.counters;
        let (batches, deferred) = match work {
            Work::Hints => (&mut counters.background_hints_batches, &mut counters.background_hints_deferred),
            Work::Transfers => (&mut counters.background_transfers_batches, &mut counters.background_transfers_deferred),
            Work::Handbacks => (&mut counters.background_handbacks_batches, &mut counters.background_handbacks_deferred),
            Work::AntiEntropy | Work::Received => unreachable!("{work:?} does not go out in batches of its own"),
        };
        *(if granted.is_some() { batches } else { deferred }) += 1;
        granted
    }

    /// Whether two trees may be compared now.
    pub(super) fn admit_comparison(&mut self, work: Work, now: Now) -> bool {
        let granted = self.admission.ask_to_compare(work, now.instant);
        match work {
            Work::Handbacks => self.counters.background_handbacks_deferred += u64::from(!granted),
            Work::Transfers => self.counters.background_transfers_deferred += u64::from(!granted),
            _ => self.counters.background_anti_entropy_deferred += u64::from(!granted),
        }
        granted
    }

    /// How many bytes of objects an exchange may read or send now, if any.
    pub(super) fn admit_window(&mut self, now: Now) -> Option<usize> {
        let granted = self.admission.ask(Work::AntiEntropy, self.config.batch_bytes_max, now.instant);
        self.counters.background_anti_entropy_deferred += u64::from(granted.is_none());
        granted
    }

    /// How many bytes of objects the answer to a window may send. The window was granted; what this costs beyond it delays the next.
    pub(super) fn repair_bytes(&self, now: Now) -> usize {
        self.admission.batch(self.config.batch_bytes_max, now.instant)
    }

    /// A window that `from` asked to compare in its `exchange`: whether that may be done now. If not, it is kept for when it may.
    pub(super) fn admit_asked_window(&mut self, from: NodeId, exchange: u64, message: &Message, now: Now) -> bool {
        let due = self.admission.settled(Work::AntiEntropy, now.instant);
        if due <= now.instant || self.kept_back.len() >= KEPT_BACK_MAX {
            return true;
        }
        self.counters.background_anti_entropy_deferred += 1;
        self.kept_back.insert((due, from, exchange), Kept::Window(message.clone()));
        false
    }

    /// `bytes` were read or sent for `work`.
    pub(super) fn moved(&mut self, work: Work, bytes: usize, now: Now) {
        self.admission.moved(work, bytes, now.instant);
        let counters = &mut self.counters;
        let total = match work {
            Work::Hints => &mut counters.background_hints_bytes,
            Work::Transfers => &mut counters.background_transfers_bytes,
            Work::Handbacks => &mut counters.background_handbacks_bytes,
            Work::AntiEntropy => &mut counters.background_anti_entropy_bytes,
            Work::Received => &mut counters.background_received_bytes,
        };
        *total += bytes as u64;
    }

    /// A pushed batch was applied: it is acknowledged once it is on stable storage, and not before this node can take more.
    pub(super) fn acknowledge_batch(
        &mut self,
        (to, batch): (NodeId, u64),
        bytes: usize,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        self.settle((to, batch), Waiting::AcknowledgeBatch { to, batch }, bytes, now, out)
    }

    /// `bytes` were taken for a batch: its sender hears of it once they are on stable storage, and not before this node can take more.
    pub(super) fn settle(
        &mut self,
        (to, batch): (NodeId, u64),
        waiting: Waiting,
        bytes: usize,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        self.counters.background_received_bytes += bytes as u64;
        let due = self.admission.received(bytes, now.instant);
        if due <= now.instant || self.kept_back.len() >= KEPT_BACK_MAX {
            return self.when_durable(waiting, now, out);
        }
        self.counters.background_acknowledgements_delayed += 1;
        self.kept_back.insert((due, to, batch), Kept::Answer(waiting));
        Ok(())
    }

    /// Answers what is due. True if something was refused since the last tick and should ask again now.
    pub(super) fn tick_background(&mut self, now: Now, out: &mut Vec<Output>) -> Result<bool, StorageError> {
        while let Some(first) = self.kept_back.first_entry()
            && first.key().0 <= now.instant
        {
            let (_, from, _) = *first.key();
            match first.remove() {
                Kept::Answer(waiting) => self.when_durable(waiting, now, out)?,
                Kept::Window(message) => self.compare_window(from, message, now, out)?,
            }
        }
        Ok(self.admission.tick(now.instant))
    }

    /// The same list from a random place on, so that a small budget serves all of them in the long run.
    pub(super) fn begun_anywhere<T>(&mut self, mut list: Vec<T>) -> Vec<T> {
        if list.len() > 1 {
            let first = self.random.below(list.len());
            list.rotate_left(first);
        }
        list
    }

    /// What the admission controller is doing.
    pub fn background(&self, now: Now) -> Report {
        self.admission.report(now.instant)
    }
}
