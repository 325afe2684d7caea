//! What peers ask of this node's copies (paper 4.5, 4.6): join and acknowledge, fetch and tell.
//!
//! Fencing: a request under an older ring is refused with the newer ring ahead of the refusal; one under a newer ring is
//! refused until this node has fetched that ring. Applying is a join, so a request may arrive twice.

use crate::hinted_handoff::HintFor;
use crate::id::{Epoch, NodeId, PartitionId, RequestId};
use crate::message::{Message, Refusal};
use crate::name::Name;
use crate::node::{Node, Output, Waiting};
use crate::ring::Ring;
use crate::storage::{Storage, StorageError};
use crate::time::Now;
use crate::version::{Digest, Object};
use std::sync::Arc;

impl<S: Storage> Node<S> {
    /// The ring, if `epoch` is this node's; else what is wrong, after sending what helps, if that was not done a moment ago.
    pub(super) fn fence(&mut self, from: NodeId, epoch: Epoch, out: &mut Vec<Output>) -> Result<Arc<Ring>, Refusal> {
        match self.ring.clone() {
            Some(ring) if ring.epoch == epoch => Ok(ring),
            Some(ring) if ring.epoch > epoch => {
                self.counters.stale_epoch_refused += 1;
                self.send_ring(from, out);
                Err(Refusal::StaleEpoch)
            }
            _ => {
                self.ask_for_ring(from, out);
                Err(Refusal::Behind)
            }
        }
    }

    fn refuse(&self, to: NodeId, request: RequestId, reason: Refusal, out: &mut Vec<Output>) {
        out.push(Output::Send { to, message: Message::Refused { request, reason, epoch: self.epoch() } });
    }

    pub(super) fn on_replicate(
        &mut self,
        from: NodeId,
        message: Message,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let Message::Replicate { request, epoch, name, object, hint_for, synced } = message else { return Ok(()) };
        let ring = match self.fence(from, epoch, out) {
            Ok(ring) => ring,
            Err(reason) => {
                self.refuse(from, request, reason, out);
                return Ok(());
            }
        };
        let partition = ring.partition_of(&name);
        let accepted = match hint_for {
            _ if !self.takes_writes() => Err(Refusal::Overloaded),
            None if ring.placement(partition).involves(self.identity.node) => self.apply(partition, &name, &object)?,
            None => Err(Refusal::NotOwner),
            Some(hint) => self.apply_hint(hint, partition, &name, &object)?,
        };
        if let Err(reason) = accepted {
            self.refuse(from, request, reason, out);
            return Ok(());
        }
        if synced {
            self.when_durable(Waiting::Acknowledge { to: from, request }, now, out)
        } else {
            out.push(Output::Send { to: from, message: Message::Replicated { request, durable: false } });
            Ok(())
        }
    }

    /// Joins `object` into this node's copy. What was reaped is not taken, and is no longer of any use to anybody.
    pub(super) fn apply(
        &mut self,
        partition: PartitionId,
        name: &Name,
        object: &Object,
    ) -> Result<Result<(), Refusal>, StorageError> {
        let (history, before) = self.history(partition, name)?;
        let absent = before == Digest::default();
        if history.includes(object) {
            let fenced = absent && object.has_values();
            self.counters.writes_fenced += u64::from(fenced);
            return Ok(if fenced { Err(Refusal::Reaped) } else { Ok(()) });
        }
        if object.includes(&history) && object.has_values() {
            self.store(partition, name, object, before)?;
        } else {
            let mut joined = if absent { history } else { self.storage.read(partition, name)?.unwrap_or_default() };
            joined.join(object);
            if joined.has_values() {
                self.store(partition, name, &joined, before)?;
            } else {
                // A peer has reaped it, and nothing newer is here.
                self.heed_word(partition, name, &joined)?;
                if !absent {
                    self.forget(partition, name, before)?;
                }
            }
        }
        Ok(Ok(()))
    }

    /// The history of this node's copy of `name`, and its digest: from the cache, else by one read. Of a name that is not here,
    /// what was reaped is superseded.
    pub(super) fn history(&mut self, partition: PartitionId, name: &Name) -> Result<(Object, Digest), StorageError> {
        if let Some((history, digest)) = self.versions.get(name) {
            self.counters.version_cache_hits += 1;
            let (history, digest) = (history.clone(), *digest);
            return if history.is_empty() { Ok((self.absent(partition, name)?, digest)) } else { Ok((history, digest)) };
        }
        self.counters.version_cache_misses += 1;
        let Some(object) = self.storage.read(partition, name)? else {
            return Ok((self.absent(partition, name)?, Digest::default()));
        };
        let history = object.history();
        let digest = history.digest();
        Ok((history, digest))
    }

    /// Replaces this node's copy of `name`, whose digest was `before`.
    pub(super) fn store(
        &mut self,
        partition: PartitionId,
        name: &Name,
        object: &Object,
        before: Digest,
    ) -> Result<(), StorageError> {
        self.storage.write(partition, name, object)?;
        let history = object.history();
        let after = history.digest_in(&mut self.digest_input);
        self.trees.update(partition, name, before, after);
        self.versions.put(name, history, after);
        self.note_grave(partition, name, object);
        Ok(())
    }

    /// Joins `object` into the copy that is kept for a home replica, within the bounds of [`crate::hinted_handoff`].
    pub(super) fn apply_hint(
        &mut self,
        HintFor { home: target, needed }: HintFor,
        partition: PartitionId,
        name: &Name,
        object: &Object,
    ) -> Result<Result<(), Refusal>, StorageError> {
        if !self.takes_writes() {
            return Ok(Err(Refusal::Overloaded));
        }
        let names_target = |ring: &Arc<Ring>| ring.placement(partition).involves(target);
        if self.ring.as_ref().is_some_and(|ring| !names_target(ring)) {
            // The request began under an older ring: its home replica would refuse the hint. Kept as a foreign copy, it is
            // handed back to whoever owns the partition now.
            return self.apply(partition, name, object);
        }
        let kept = self.storage.read_hint(target, partition, name)?;
        let before = kept.as_ref().map(|object| object.encode().len());
        let mut joined = kept.unwrap_or_default();
        joined.join(object);
        let longer_by = joined.encoded_len().saturating_sub(before.unwrap_or(0));
        if self.hints.bytes_for(target) >= self.config.hint_bytes_max && longer_by > 0 {
            if !needed {
                self.counters.hints_refused_quota += 1;
                return Ok(Err(Refusal::Overloaded));
            }
            self.counters.hint_bytes_beyond_quota += longer_by as u64;
        }
        self.storage.write_hint(target, partition, name, &joined)?;
        self.hints.stored(target, (partition, name), before, joined.encoded_len());
        self.counters.hints_stored += u64::from(before.is_none());
        Ok(Ok(()))
    }

    /// All that this node knows of `name`: its own copy, and what it keeps for the replicas it stands in for, or stood in for and has
    /// not made its own yet.
    pub(super) fn known(&self, ring: &Ring, partition: PartitionId, name: &Name) -> Result<Object, StorageError> {
        let mut object = self.storage.read(partition, name)?.unwrap_or_default();
        let placement = ring.placement(partition);
        if !placement.involves(self.identity.node) && self.hints.total() > 0 {
            let writers = placement.writers();
            let former = self.retargeting.targets().filter(|target| !writers.contains(target));
            for target in writers.iter().copied().chain(former) {
                if self.hints.bytes_for(target) > 0
                    && let Some(kept) = self.storage.read_hint(target, partition, name)?
                {
                    object.join(&kept);
                }
            }
        }
        Ok(object)
    }

    pub(super) fn on_fetch(
        &mut self,
        from: NodeId,
        request: RequestId,
        epoch: Epoch,
        name: &Name,
        digest_only: bool,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let ring = match self.fence(from, epoch, out) {
            Ok(ring) => ring,
            Err(reason) => {
                self.refuse(from, request, reason, out);
                return Ok(());
            }
        };
        let partition = ring.partition_of(name);
        let at_home = ring.placement(partition).involves(self.identity.node);
        let cached = self.versions.get(name).map(|(_, digest)| *digest);
        let (digest, mut object) = match cached {
            Some(digest) if digest_only && at_home => (digest, None),
            _ => {
                let object = self.known(&ring, partition, name)?;
                let digest = object.digest();
                if cached.is_none() && !object.is_empty() && at_home {
                    self.versions.put(name, object.history(), digest);
                }
                (digest, (!digest_only && !object.is_empty()).then_some(object))
            }
        };
        if at_home && digest == Digest::default() {
            // Else a replica that has missed a delete would be believed beside one which has reaped it.
            object = Some(self.absent(partition, name)?).filter(|superseded| !superseded.is_empty());
        }
        out.push(Output::Send { to: from, message: Message::Fetched { request, digest, object } });
        Ok(())
    }
}
