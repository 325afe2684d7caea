//! Hints whose home is another one now (paper 4.6): by a new ring they become copies of this node's.
//!
//! A hint for a node that the ring no longer names for the partition becomes a copy, to be handed to whoever owns it now (or kept, if
//! that is this node). So does one for a replica that a move takes out: it may have said already that the new one has all that it has.
//! So do all hints of a partition of which a member is lost: it may have acknowledged a write together with this
//! node alone, and its replacement is filled from copies.
//!
//! There may be a gigabyte of hints for one target. So a ring is adopted together with a mark that hints are to be looked at, and
//! each tick looks at a bounded piece. Until then such a hint stays what it is: it counts as one (no drain receipt, no reaping), it is
//! not sent, and [`Node::known`] finds it. The mark goes with the last of them; a start that finds it looks at all hints.
//!
//! A disk without room may be so for these very hints. Then only those become copies that go home again, and no more while some
//! have not gone: little of what is kept free is in use. Those of partitions that this node is to hold itself wait for room, and keep no
//! others waiting: each target has its turn.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use crate::id::{NodeId, PartitionId};
use crate::name::Name;
use crate::node::Node;
use crate::ring::Ring;
use crate::storage::{Storage, StorageError};

/// Hints looked at in one tick: as long as all of them become copies no request is answered, for some eight milliseconds.
const HINTS_PER_TICK: usize = 256;
/// Their bytes: a gigabyte takes a minute.
const BYTES_PER_TICK: usize = 1 << 20;
/// Copies that may wait to go home while a disk without room makes more of them. Each began as a piece of this size at most.
const COPIES_WITHOUT_ROOM: usize = 16;

/// The record that says that hints are to be looked at.
const MARK: &[u8] = b"retargeting";

/// The record that says that something is kept from before a ring that did not list this node, or may not have.
const OUTLIVED: &[u8] = b"outlived-membership";

/// Whose hints are to be looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct Retargeting {
    looks: BTreeMap<NodeId, Look>,
    /// Whose hints were all looked at last: the next target is the one behind it.
    turn: Option<NodeId>,
    /// There are hints, or copies that were hints, from before a ring that did not list this node, or may not have.
    outlived_membership: bool,
}

/// A look through the hints for one target.
#[derive(Clone, Debug, Default)]
struct Look {
    /// All hints at or before this were looked at.
    after: Option<(PartitionId, Name)>,
    /// There was a later ring since this look began: another one follows it.
    again: bool,
}

impl Retargeting {
    /// The targets whose hints were not all looked at.
    pub(super) fn targets(&self) -> impl Iterator<Item = NodeId> {
        self.looks.keys().copied()
    }

    fn look_at(&mut self, target: NodeId) {
        let look = self.looks.entry(target).or_default();
        look.again = look.after.is_some();
    }

    /// Whose turn it is, and how far the look has come.
    fn in_turn(&self) -> Option<(NodeId, Option<&(PartitionId, Name)>)> {
        let behind = self.turn.and_then(|turn| self.looks.range((Excluded(turn), Unbounded)).next());
        let (target, look) = behind.or_else(|| self.looks.first_key_value())?;
        Some((*target, look.after.as_ref()))
    }

    /// A hint that becomes a copy stayed a hint: another look follows.
    fn pass(&mut self, target: NodeId) {
        if let Some(look) = self.looks.get_mut(&target) {
            look.again = true;
        }
    }

    /// All hints up to `reached` were looked at, or all there are.
    fn looked(&mut self, target: NodeId, reached: Option<(PartitionId, Name)>) {
        let Some(look) = self.looks.get_mut(&target) else { return };
        if reached.is_some() {
            look.after = reached;
            return;
        }
        self.turn = Some(target);
        if look.again {
            *look = Look::default();
        } else {
            self.looks.remove(&target);
        }
    }
}

impl<S: Storage> Node<S> {
    /// `ring` follows `before`: notes whose hints have to be looked at, in the same group of writes as the ring.
    pub(super) fn note_retargets(&mut self, before: Option<&Ring>, ring: &Ring) -> Result<(), StorageError> {
        let Some(before) = before.filter(|_| self.hints.total() > 0) else { return Ok(()) };
        let mut concerned = BTreeSet::new();
        for (partition, placement) in before.partitions() {
            let targets = placement.writers().into_iter().filter(|target| self.hints.totals().contains_key(target));
            concerned.extend(targets.filter(|target| !waits(ring, partition, *target)));
        }
        for target in &concerned {
            self.hints.recall(*target);
            self.retargeting.look_at(*target);
        }
        if !concerned.is_empty() {
            self.storage.write_meta(MARK, Some(b"1"))?;
        }
        Ok(())
    }

    /// This node was no member for a while, or may have been none: what it keeps as hints may be reaped meanwhile, since nobody had to ask
    /// it. That goes home, where what is reaped falls away, and no retry is told here that it is made ([`crate::node::retries`]). In the
    /// same group of writes as the ring.
    pub(super) fn note_interruption(&mut self) -> Result<(), StorageError> {
        if self.keeps_nothing_for_others() {
            return Ok(());
        }
        self.retargeting.outlived_membership = true;
        self.storage.write_meta(OUTLIVED, Some(b"1"))
    }

    fn keeps_nothing_for_others(&self) -> bool {
        self.hints.total() == 0 && self.foreign_partitions().is_empty()
    }

    /// Whether a hint, or a copy that was one, may be from before a time in which this node was no member.
    pub(super) fn outlived_membership(&self) -> bool {
        self.retargeting.outlived_membership
    }

    /// What the start before this one did not get to.
    pub(super) fn resume_retargeting(&mut self) -> Result<(), StorageError> {
        self.retargeting.outlived_membership = self.storage.read_meta(OUTLIVED)?.is_some();
        if self.storage.read_meta(MARK)?.is_some() {
            self.hints.totals().keys().for_each(|target| self.retargeting.look_at(*target));
        }
        Ok(())
    }

    /// Looks at the next piece.
    pub(super) fn tick_retargeting(&mut self) -> Result<(), StorageError> {
        if self.retargeting.outlived_membership && self.keeps_nothing_for_others() && !self.is_being_filled_somewhere() {
            self.retargeting.outlived_membership = false;
            self.storage.write_meta(OUTLIVED, None)?;
        }
        let Some((target, after)) = self.retargeting.in_turn() else { return Ok(()) };
        let Some(ring) = self.ring.clone() else { return Ok(()) };
        if !self.writable && self.foreign_partitions().len() >= COPIES_WITHOUT_ROOM {
            return Ok(());
        }
        let found = self.storage.scan_hints(target, after, HINTS_PER_TICK, BYTES_PER_TICK)?;
        let reached = found.last().map(|(partition, name, _)| (*partition, name.clone()));
        for (partition, name, object) in found {
            if waits(&ring, partition, target) {
                continue;
            }
            if !self.writable && ring.placement(partition).involves(self.identity.node) {
                self.retargeting.pass(target);
            } else {
                let _accepted = self.apply(partition, &name, &object)?;
                self.storage.remove_hint(target, partition, &name)?;
                self.hints.removed(target, (partition, &name), object.encoded_len());
            }
        }
        self.retargeting.looked(target, reached);
        if self.retargeting.looks.is_empty() {
            self.storage.write_meta(MARK, None)?;
        }
        Ok(())
    }

    /// If the hints of `partition` become copies and are not sent: the partition behind it with which those for `target` go on, if there is
    /// one.
    pub(super) fn passes_over(&self, partition: PartitionId, target: NodeId) -> Option<Option<PartitionId>> {
        let ring = self.ring.as_ref().filter(|_| self.retargeting.looks.contains_key(&target))?;
        if waits(ring, partition, target) {
            return None;
        }
        let mut behind = (partition.0 + 1..ring.partition_count_of_layers() as u32).map(PartitionId);
        Some(behind.find(|partition| waits(ring, *partition, target)))
    }
}

/// Whether `target` is to have what is kept for it of `partition`, by this ring.
fn waits(ring: &Ring, partition: PartitionId, target: NodeId) -> bool {
    let placement = ring.placement(partition);
    let stays = placement.moving.map_or(placement.replicas, |moving| moving.target).contains(&target);
    stays && !placement.writers().iter().any(|node| ring.is_lost(*node))
}
