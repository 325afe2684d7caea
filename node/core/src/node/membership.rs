//! Gossip and rings (paper 4.8): who is where, and which ring holds.
//!
//! A proposed ring is adopted only if it follows the ring that is held: next epoch, parent's hash. A node that was away may
//! have missed some; by gossip it takes any newer ring of its cluster, since its peers checked each step. A node reports an
//! epoch as held only once the ring is on stable storage.

use std::sync::Arc;
use std::time::Duration;

use crate::gossip::MemberState;
use crate::hash_tree::HashTrees;
use crate::id::{Epoch, NodeId};
use crate::message::Message;
use crate::node::{Node, Output, ProposeError, Waiting};
use crate::preference_list::is_drained;
use crate::ring::{Ring, RingError};
use crate::storage::{Storage, StorageError};
use crate::time::Now;

/// A node that left the ring and is silent this long is not dialled any more.
const FORGET_AFTER: Duration = Duration::from_secs(60);

impl<S: Storage> Node<S> {
    pub(super) fn on_link_up(&mut self, peer: NodeId, at: &str, clients_at: &str, now: Now, out: &mut Vec<Output>) {
        self.detector.linked(peer, true, now.instant);
        self.rings_told.forget(peer);
        self.gossip.greet(peer, at, clients_at);
        self.send_gossip(peer, true, now, out);
    }

    pub(super) fn on_link_down(&mut self, peer: NodeId, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        self.detector.linked(peer, false, now.instant);
        self.rings_told.forget(peer);
        self.fail_requests_to(peer, now, out)
    }

    /// Each second: a random peer hears all, and every peer is pinged so that its silence means something.
    pub(super) fn tick_gossip(&mut self, now: Now, out: &mut Vec<Output>) {
        self.gossip.update_own(self.ring_durable, self.trees.objects_total(), self.hints.total());
        self.forget_departed(now, out);
        let peers: Vec<NodeId> = self.detector.linked_peers().collect();
        if !peers.is_empty() {
            let chosen = peers[self.random.below(peers.len())];
            self.send_gossip(chosen, true, now, out);
        }
        out.extend(peers.into_iter().map(|to| Output::Send { to, message: Message::Ping { answer: false } }));
    }

    /// Nodes that the ring does not list and that are away for a minute have left: their addresses may belong to others now.
    fn forget_departed(&mut self, now: Now, out: &mut Vec<Output>) {
        let Some(ring) = &self.ring else { return };
        let strange = |node: &NodeId| *node != self.identity.node && !ring.members.contains_key(node);
        let mut departed: Vec<NodeId> = self.gossip.members().keys().copied().filter(strange).collect();
        // Of those that were never met the minute begins as well.
        departed.iter().for_each(|node| self.detector.heard_of(*node, now.instant));
        departed.retain(|node| self.detector.away_for(*node, now.instant) > FORGET_AFTER);
        if !departed.is_empty() {
            departed.into_iter().for_each(|node| self.gossip.forget(node));
            out.push(Output::AddressesChanged);
        }
    }

    fn send_gossip(&self, to: NodeId, wants_answer: bool, now: Now, out: &mut Vec<Output>) {
        let (epoch, members, wall_ms, current) = (self.epoch(), self.gossip.snapshot(), now.wall_ms, self.is_current());
        let message = Message::Gossip { epoch, members, wants_answer, wall_ms, current };
        out.push(Output::Send { to, message });
    }

    /// What `from`'s clock showed as it sent its gossip; nodes of an earlier version do not say.
    pub(super) fn compare_clocks(&mut self, from: NodeId, wall_ms: u64, now: Now) {
        if wall_ms > 0 {
            self.clocks.heard(from, wall_ms, now.instant);
        }
    }

    pub(super) fn on_gossip(
        &mut self,
        from: NodeId,
        epoch: Epoch,
        members: Vec<(NodeId, MemberState)>,
        wants_answer: bool,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        self.gossip.remember(from);
        for node in self.gossip.restarted(&members) {
            self.transfers.begin_again(node);
        }
        let is_found = !self.detector.linked_peers().any(|peer| peer == from) && self.gossip.found(from, &members);
        if self.gossip.merge(members) || is_found {
            out.push(Output::AddressesChanged);
        }
        if epoch > self.epoch() {
            out.push(Output::Send { to: from, message: Message::RingRequest { epoch: self.epoch() } });
        }
        if wants_answer {
            self.send_gossip(from, false, now, out);
        }
    }

    pub(super) fn on_ring_request(&mut self, from: NodeId, epoch: Epoch, out: &mut Vec<Output>) {
        if self.epoch() > epoch {
            self.send_ring(from, out);
        }
    }

    /// Sends the ring that this node holds, once no loss of power can take it back: one that some hold and their source has forgotten could
    /// get a twin of the same epoch. Who was given it a moment ago has it.
    pub(super) fn send_ring(&mut self, to: NodeId, out: &mut Vec<Output>) {
        let Some(ring) = self.ring.clone() else { return };
        if self.ring_durable < ring.epoch {
            return self.storage.hold(Waiting::GiveRing { to });
        }
        if self.gives_ring(to, ring.epoch, None) {
            out.push(Output::Send { to, message: Message::RingUpdate { ring } });
        }
    }

    pub(super) fn spread_ring(&mut self, epoch: Epoch, out: &mut Vec<Output>) {
        let Some(ring) = self.ring.clone().filter(|ring| ring.epoch == epoch) else { return };
        let mut peers: Vec<NodeId> = self.detector.linked_peers().collect();
        peers.retain(|peer| self.gives_ring(*peer, epoch, None));
        out.extend(peers.into_iter().map(|to| Output::Send { to, message: Message::RingUpdate { ring: ring.clone() } }));
    }

    pub(super) fn on_ring_update(&mut self, ring: Arc<Ring>, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        if ring.epoch <= self.epoch() {
            return Ok(());
        }
        match ring.check_follows(self.ring.as_deref(), self.identity.cluster) {
            Ok(()) => self.adopt(ring, now, out),
            Err(_) => {
                self.counters.rings_refused += 1;
                Ok(())
            }
        }
    }

    /// The writer of rings offers a ring. Idempotent for the ring that is held. It may be told so when the status names the ring: until then
    /// this node may still forget its word.
    pub fn propose_ring(&mut self, ring: Ring, now: Now, out: &mut Vec<Output>) -> Result<(), ProposeError> {
        ring.validate()?;
        if self.ring.as_deref() == Some(&ring) {
            return Ok(());
        }
        let held = self.epoch();
        let checked = ring.check_follows(self.ring.as_deref(), self.identity.cluster);
        let exact = self.ring.is_none() || ring.epoch == held.next();
        let checked = checked.and(if exact {
            Ok(())
        } else {
            Err(RingError::NotSuccessor { offered: ring.epoch, held, reason: "an epoch between them is missing here" })
        });
        if let Err(error) = checked {
            self.counters.rings_refused += 1;
            return Err(error.into());
        }
        let ring = Arc::new(ring);
        let epoch = ring.epoch;
        self.adopt(ring, now, out)?;
        Ok(self.when_durable(Waiting::Spread(epoch), now, out)?)
    }

    /// Where this node becomes a replica or stops being one, its copy is another one: it held hints, now it holds the data, or
    /// the reverse. Its next dots there are by a new actor.
    fn end_changed_tenures(&mut self, before: &Ring, after: &Ring) -> Result<(), StorageError> {
        let own = self.identity.node;
        for (partition, placement) in after.partitions() {
            if placement.involves(own) != before.placement(partition).involves(own) {
                self.end_tenure(partition)?;
            }
        }
        Ok(())
    }

    fn adopt(&mut self, ring: Arc<Ring>, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        self.storage.write_meta(b"ring", Some(&ring.encode()))?;
        let before = self.ring.replace(ring.clone());
        let epoch = ring.epoch;
        self.counters.rings_adopted += 1;
        self.end_absence();
        if let Some(before) = &before {
            self.end_changed_tenures(before, &ring)?;
        } else {
            self.trees = HashTrees::new(self.identity.cluster, ring.partition_bits);
            self.load_trees()?;
        }
        self.when_durable(Waiting::Ring(epoch), now, out)?;
        self.end_rounds(before.as_deref());
        self.plan_movement()?;
        self.note_retargets(before.as_deref(), &ring)?;
        // One that it missed left it out only if it had said that it holds nothing, of the ring that it held until now or a later one.
        let own = self.identity.node;
        let holds = |before: &Ring| before.members.contains_key(&own) && !is_drained(before, own);
        let stayed = |before: Arc<Ring>| before.epoch.next() == epoch || holds(&before);
        let was_member = self.is_member(&ring) && before.is_none_or(stayed);
        if !was_member {
            self.note_interruption()?;
        }
        if self.declared_lost().is_some() {
            self.abandon_requests(out);
        }
        self.restart_requests(was_member, now, out)?;
        out.push(Output::RingChanged);
        Ok(())
    }
}
