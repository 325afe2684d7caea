//! Copies that the ring gives to others (paper 4.9): left over from a move, or written here as a fallback. Once every member that can
//! be reached holds this ring they go home ([`super::verification`]): one may be all that is left of a write whose other disk is lost, so
//! it waits for none that is away. They are dropped when all owners have them and every member holds this ring.

use crate::id::{NodeId, PartitionId};
use crate::node::movement::WalkOf;
use crate::node::{Node, Output};
use crate::ring::Ring;
use crate::storage::{Storage, StorageError};
use crate::time::Now;
use crate::transfer::{Handback, Outgoing, Pass, Walk};

/// Copies on their way home at the same time, those whose owners are away aside: most need only a comparison of trees.
const HANDBACKS_MAX: usize = 64;

impl<S: Storage> Node<S> {
    /// Copies that the ring gives to others go home.
    pub(super) fn tick_handbacks(&mut self, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        let Some(ring) = self.ring.clone() else { return Ok(()) };
        if ring.survivors().any(|node| self.reachable(node, now) && !self.holds(&ring, node)) {
            return Ok(());
        }
        let foreign = self.foreign_partitions();
        self.transfers.handbacks.retain(|partition, _| foreign.contains(partition));
        // Copies whose owners are away or have no room wait, and keep no others from going home.
        let mut going_home = self.transfers.going_home(|owner| self.reachable(owner, now), now.instant);
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

    /// Whether `node` has said that it holds this ring.
    fn holds(&self, ring: &Ring, node: NodeId) -> bool {
        node == self.identity.node || self.gossip.of(node).is_some_and(|state| state.epoch >= ring.epoch)
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
        let fresh = || Handback { owners: owners.iter().map(|owner| (*owner, Outgoing::new(Pass::Verify))).collect(), root };
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
            let of = WalkOf::Handback(partition, owner);
            if matches!(self.walk_mut(of), Some(Outgoing { walk: Walk::Idle, .. })) {
                if !self.compare_trees(of, now, out)? {
                    return Ok(());
                }
            } else {
                self.ask_owner(of, now, out)?;
            }
        }
        Ok(())
    }

    /// The next batch of a walk, if not too many are under way: nodes that leave have no clients of their own to give way to, and their
    /// owners have.
    pub(super) fn ask_owner(&mut self, of: WalkOf, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        let refused = self.walk_mut(of).is_some_and(|outgoing| outgoing.is_refused(now.instant));
        let most = self.config.transfers_max;
        if refused || self.transfers.handing_back() >= most { Ok(()) } else { self.send_batch(of, now, out) }
    }

    /// Drops the copy if every owner has all of it, it is what it was when the comparison began, and no member holds an older ring.
    /// While every set has a lost member, it is one of the copies that are left, and waits for those who come in the place of the lost.
    pub(super) fn finish_handback(&mut self, partition: PartitionId) -> Result<(), StorageError> {
        let Some(ring) = &self.ring else { return Ok(()) };
        let has_lost = |set: &[NodeId]| set.iter().any(|node| ring.is_lost(*node));
        if ring.placement(partition).write_sets().into_iter().all(has_lost) {
            return Ok(());
        }
        if !ring.survivors().all(|node| self.holds(ring, node)) {
            return Ok(());
        }
        let root = self.trees.root(partition);
        let done = |handback: &Handback| {
            handback.root == root && handback.owners.values().all(|outgoing| matches!(outgoing.walk, Walk::Done))
        };
        if self.transfers.handbacks.get(&partition).is_some_and(done) {
            self.transfers.handbacks.remove(&partition);
            self.note_handed_over(partition)?;
            self.drop_copy(partition)?;
        }
        Ok(())
    }

    pub(super) fn drop_copy(&mut self, partition: PartitionId) -> Result<(), StorageError> {
        let Some(ring) = &self.ring else { return Ok(()) };
        self.storage.drop_partition(partition)?;
        self.trees.remove(partition);
        // The layers of a partition have their positions in common.
        let (bits, list) = (ring.partition_bits, PartitionId(ring.list_of(partition) as u32));
        self.versions.forget(bits, list);
        self.end_tenure(partition)?;
        self.forget_reaped(partition)?;
        self.counters.partitions_dropped += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::node::{Identity, Input};
    use crate::ring::tests::{node, ring_of};
    use crate::storage::MemoryStorage;
    use crate::time::Instant;

    #[test]
    fn copies_that_are_dropped_together_cost_one_look_through_the_version_cache() {
        let now = Now { instant: Instant(1_000_000), wall_ms: 0 };
        let ring = ring_of(4, 6);
        let identity = Identity {
            node: node(1),
            cluster: ring.cluster,
            zone: "z".into(),
            peer_address: String::new(),
            client_address: String::new(),
            generation: 1,
        };
        let mut keeper = Node::open(identity, Config::default(), MemoryStorage::default(), 1, now).unwrap();
        keeper.propose_ring(ring, now, &mut Vec::new()).unwrap();
        (0..64).map(PartitionId).for_each(|partition| keeper.drop_copy(partition).unwrap());
        assert_eq!(keeper.versions.sweeps(), 0, "no drop waits for it");
        keeper.handle(Input::Tick, now, &mut Vec::new()).unwrap();
        assert_eq!(keeper.versions.sweeps(), 1);
    }
}
