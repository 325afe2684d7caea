//! What a node shows of itself: for operators, for people, and as evidence for the writer of rings.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{Epoch, NodeId, PartitionId};
use crate::node::Node;
use crate::ring::RingHash;
use crate::storage::Storage;
use crate::time::Now;
use crate::transfer::Walk;
use crate::version::Digest;

/// One node's own view.
#[derive(Clone, PartialEq, Debug)]
pub struct Status {
    /// The ring on its stable storage, epoch 0 for none.
    pub epoch: Epoch,
    /// It has started a moment ago and found a ring, of which it cannot say yet that it is on stable storage: that its epoch is 0 does
    /// not mean that there is none.
    pub starting: bool,
    /// That ring's hash.
    pub ring_hash: RingHash,
    /// Partitions, of all layers, that it is a replica of.
    pub partitions: usize,
    /// Partitions that lie here though the ring gives them to others.
    pub foreign_partitions: usize,
    /// Objects it holds.
    pub objects: u64,
    /// Hints and their bytes, by target.
    pub hints: BTreeMap<NodeId, (u64, u64)>,
    /// Transfers to new replicas.
    pub transfers: Vec<TransferStatus>,
    /// Moving partitions of which it has everything.
    pub received: BTreeSet<PartitionId>,
    /// Its peers.
    pub peers: Vec<PeerStatus>,
    /// Client requests under way.
    pub requests: usize,
    /// Milliseconds by which its wall clock is ahead of most peers', or behind them if below zero.
    pub clock_ahead_ms: i64,
    /// It issues dots and was not declared lost: puts can be coordinated here.
    pub ready: bool,
    /// Its disk has space; else it stores nothing that others send, hints among it.
    pub writable: bool,
    /// How it treats buckets ([`crate::config::Config::buckets_digest`]).
    pub buckets_digest: u64,
    /// Who said that they are treated otherwise there, and how.
    pub buckets_differ: BTreeMap<NodeId, u64>,
}

/// A transfer to a new replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TransferStatus {
    /// What.
    pub partition: PartitionId,
    /// To whom.
    pub to: NodeId,
    /// Objects sent so far.
    pub objects: u64,
    /// Their bytes, names included.
    pub bytes: u64,
    /// The receiver has everything on stable storage.
    pub done: bool,
}

/// A peer, as this node sees it.
#[derive(Clone, PartialEq, Debug)]
pub struct PeerStatus {
    /// Which.
    pub node: NodeId,
    /// host:port for peers.
    pub peer_address: String,
    /// host:port for clients.
    pub client_address: String,
    /// Its failure domain.
    pub zone: String,
    /// There is a link to it.
    pub connected: bool,
    /// Requests try others first.
    pub suspected: bool,
    /// The suspicion.
    pub phi: f64,
    /// The ring it said it holds.
    pub epoch: Epoch,
}

impl<S: Storage> Node<S> {
    /// What this node shows of itself.
    pub fn status(&self, now: Now) -> Status {
        let own = self.identity.node;
        let durable = self.ring.as_ref().filter(|ring| ring.epoch == self.ring_durable);
        let transfer = |((partition, to), (_, outgoing)): (&(PartitionId, NodeId), &(Epoch, crate::transfer::Outgoing))| {
            let done = matches!(outgoing.walk, Walk::Done);
            TransferStatus { partition: *partition, to: *to, objects: outgoing.objects, bytes: outgoing.bytes, done }
        };
        Status {
            epoch: self.ring_durable,
            starting: self.is_starting(),
            ring_hash: durable.map_or(RingHash::default(), |_| self.ring_durable_hash),
            partitions: self.ring.as_ref().map_or(0, |ring| ring.copies_of(own)),
            foreign_partitions: self.foreign_partitions().len(),
            objects: self.trees.objects_total(),
            hints: self.hints.totals().clone(),
            transfers: self.transfers.outgoing.iter().map(transfer).collect(),
            received: self.received(),
            peers: self.peer_status(now),
            requests: self.requests.len(),
            clock_ahead_ms: self.clocks.median_ahead_ms(now),
            ready: self.is_ready(),
            writable: self.writable,
            buckets_digest: self.gossip.of(own).map_or(0, |state| state.buckets_digest),
            buckets_differ: self.gossip.differing_buckets(),
        }
    }

    /// [`Status::ready`] alone, for who asks often.
    pub fn is_ready(&self) -> bool {
        self.dots.may_be_issued() && self.declared_lost().is_none()
    }

    /// [`Status::epoch`] alone, for who asks often.
    pub fn durable_epoch(&self) -> Epoch {
        self.ring_durable
    }

    /// [`Status::starting`] alone, for who asks often: it holds a ring, and none of its rings has been made durable since it started.
    pub fn is_starting(&self) -> bool {
        self.ring.is_some() && self.ring_durable == Epoch(0)
    }

    /// [`PeerStatus::suspected`] of one peer alone, for who asks often. Of a node that is no peer it is false.
    pub fn suspects(&self, node: NodeId, now: Now) -> bool {
        let is_peer = node != self.identity.node && self.gossip.of(node).is_some();
        is_peer && self.detector.suspects(node, now.instant)
    }

    fn peer_status(&self, now: Now) -> Vec<PeerStatus> {
        let others = self.gossip.members().iter().filter(|(node, _)| **node != self.identity.node);
        others
            .map(|(node, state)| PeerStatus {
                node: *node,
                peer_address: state.peer_address.clone(),
                client_address: state.client_address.clone(),
                zone: state.zone.clone(),
                connected: self.detector.is_linked(*node),
                suspected: self.detector.suspects(*node, now.instant),
                phi: self.detector.phi(*node, now.instant),
                epoch: state.epoch,
            })
            .collect()
    }

    /// Moving partitions whose every source has sent everything to this node.
    fn received(&self) -> BTreeSet<PartitionId> {
        let Some(ring) = &self.ring else { return BTreeSet::new() };
        let own = self.identity.node;
        let complete = |(partition, (since, from)): (&PartitionId, &(Epoch, BTreeSet<NodeId>))| {
            let placement = ring.placement(*partition);
            let moving = placement.moving.as_ref()?;
            let (_, sources) = placement.fills(&ring.lost).into_iter().find(|(to, _)| *to == own)?;
            (moving.since == *since && sources.iter().all(|source| from.contains(source))).then_some(*partition)
        };
        self.transfers.received.iter().filter_map(complete).collect()
    }

    /// The root of this node's copy of `partition`, and its number of objects.
    pub fn partition_digest(&self, partition: PartitionId) -> (Digest, u64) {
        (self.trees.root(partition), self.trees.objects(partition))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::id::ClusterId;
    use crate::node::{Identity, Input};
    use crate::rebalance::{Members, first_ring_with};
    use crate::ring::Member;
    use crate::ring::bucket_replication::BucketReplication;
    use crate::storage::MemoryStorage;
    use crate::time::Instant;

    #[test]
    fn a_partition_of_each_layer_counts_as_one_of_which_a_node_is_a_replica() {
        let (cluster, now) = (ClusterId([7; 16]), Now { instant: Instant(1), wall_ms: 0 });
        let own = NodeId([1; 16]);
        let members: Members = (1..=2).map(|id| (NodeId([id; 16]), Member { zone: "z".into(), weight: 1 })).collect();
        let buckets = BucketReplication::new([("cache".into(), 1)], 2).unwrap();
        let ring = first_ring_with(cluster, 4, 2, buckets, &members).unwrap();
        let identity = Identity {
            node: own,
            cluster,
            zone: "z".into(),
            peer_address: "a:1".into(),
            client_address: "a:2".into(),
            generation: 1,
        };
        let mut node = Node::open(identity, Config::default(), MemoryStorage::default(), 1, now).unwrap();
        node.propose_ring(ring.clone(), now, &mut Vec::new()).unwrap();
        assert_eq!(ring.partitions_of(own), 16);
        assert_eq!(node.status(now).partitions, 16 + 8, "and half of those with one copy");
    }

    #[test]
    fn who_asks_of_one_peer_whether_it_is_suspected_hears_what_the_status_says() {
        let (own, peer, stranger) = (NodeId([1; 16]), NodeId([2; 16]), NodeId([3; 16]));
        let (cluster, zone) = (ClusterId([7; 16]), "z".into());
        let (peer_address, client_address) = ("a:1".into(), "a:2".into());
        let identity = Identity { node: own, cluster, zone, peer_address, client_address, generation: 1 };
        let [now, later] = [1, 60_000_000].map(|instant| Now { instant: Instant(instant), wall_ms: 0 });
        let mut node = Node::open(identity, Config::default(), MemoryStorage::default(), 1, now).unwrap();
        let (peer_address, client_address) = ("b:1".into(), "b:2".into());
        node.handle(Input::LinkUp { peer, peer_address, client_address }, now, &mut Vec::new()).unwrap();
        for (at, suspected) in [(now, false), (later, true)] {
            let told: Vec<_> = node.status(at).peers.into_iter().map(|peer| (peer.node, peer.suspected)).collect();
            assert_eq!(told, [(peer, suspected)]);
            assert_eq!([own, peer, stranger].map(|node_id| node.suspects(node_id, at)), [false, suspected, false]);
        }
    }

    #[test]
    fn a_node_that_has_just_started_says_that_it_cannot_tell_its_ring_yet() {
        let (cluster, now) = (ClusterId([7; 16]), Now { instant: Instant(1), wall_ms: 0 });
        let own = NodeId([1; 16]);
        let members: Members = [(own, Member { zone: "z".into(), weight: 1 })].into();
        let ring = first_ring_with(cluster, 4, 1, BucketReplication::default(), &members).unwrap();
        let (peer_address, client_address) = ("a:1".into(), "a:2".into());
        let identity = Identity { node: own, cluster, zone: "z".into(), peer_address, client_address, generation: 1 };
        let open = |storage| Node::open(identity.clone(), Config::default(), storage, 1, now).unwrap();
        let synced = |node: &mut Node<MemoryStorage>| {
            while let Some(ticket) = node.commit().unwrap() {
                node.handle(Input::Durable { ticket }, now, &mut Vec::new()).unwrap();
            }
        };
        let told = |node: &Node<MemoryStorage>| {
            let status = node.status(now);
            assert_eq!((node.durable_epoch(), node.is_starting()), (status.epoch, status.starting));
            (status.epoch, status.starting)
        };
        let mut node = open(MemoryStorage::default());
        assert_eq!(told(&node), (Epoch(0), false), "it has none");
        node.propose_ring(ring, now, &mut Vec::new()).unwrap();
        synced(&mut node);
        assert_eq!(told(&node), (Epoch(1), false));
        let mut again = open(node.storage().clone());
        assert_eq!(told(&again), (Epoch(0), true), "a loss of power could take it back");
        synced(&mut again);
        assert_eq!(told(&again), (Epoch(1), false));
    }
}
