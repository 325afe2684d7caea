//! The ring: Q equal partitions, an explicit set of replicas for each, and a chain of epochs (paper 4.2, 6.2 strategy 3).
//!
//! A ring is immutable. Its successor carries the next epoch and the hash of its parent, and a node accepts only the successor
//! of what it holds: two different rings of one epoch cannot both spread. One writer proposes, gossip spreads. Deviation from
//! the paper: replicas are an explicit list per partition and not "the next N tokens", because ring adjacency moves far more
//! data than a change of membership needs.
//!
//! ```text
//! a partition that moves:   Steady(old) -> WriteBothReadOld(old, new) -> WriteBothReadNew(old, new) -> Steady(new)
//!                                               |  taken back by: Steady(old)
//! ```
//!
//! While two sets are written, a put needs W acknowledgements from each. A new replica that has received everything its
//! predecessor ever acknowledged can take its place in any quorum; [`crate::rebalance`] passes a stage on that evidence only.
//!
//! A ring also says which nodes were **declared lost**: their disks are gone, by an administrator's or the operator's word. Such a
//! node may still be named by sets that nobody has moved off it yet; it counts for nothing, and its id is fenced for ever, so that
//! one that was not dead after all cannot come back with old data. [`crate::rebalance::loss`] has the argument.
//!
//! Buckets may have an N of their own, below the ring's. Their objects lie in partitions of their own, laid on the first n nodes of
//! the same lists: [`bucket_replication`] says how, and why that is fixed with the first ring.

pub mod bucket_replication;
pub(crate) mod encoded;
pub mod operation;
pub mod placed;

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::codec::DecodeError;
use crate::id::{ClusterId, Epoch, NodeId, PartitionId};
use crate::name::Name;
use bucket_replication::BucketReplication;
pub use operation::Operation;
use placed::{Moving, Placed};

/// The most partitions a ring may have, as a power of two (65,536).
pub const PARTITION_BITS_MAX: u8 = 16;

/// The last epoch that a ring may have. No cluster gets there, and the epoch after it can still be named.
pub const EPOCH_MAX: Epoch = Epoch(1 << 62);

/// The most epochs that a node may have missed: at one a second, those of 136 years. A ring from further ahead is no successor; who
/// took it could take no other ever after.
pub const EPOCHS_MISSED_MAX: u64 = 1 << 32;

/// The most nodes that a ring remembers as lost: at one a day, those of eleven years. Beyond it the longest lost are forgotten; they
/// are fenced by their old epoch all the same.
pub const LOST_MAX: usize = 4_096;

/// Nodes that were declared lost, with the epoch that says so first.
pub type Lost = BTreeMap<NodeId, Epoch>;

/// SHA-256 over a ring's canonical bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RingHash(pub [u8; 32]);

impl std::fmt::Display for RingHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What the ring says of one member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its failure domain; replicas are spread over as many as there are.
    pub zone: String,
    /// Its capacity, relative to the others; a member of weight 0 holds nothing and may leave.
    pub weight: u32,
}

/// Where a partition's move stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// Puts go to both sets, gets to the old one; the new replicas receive what the old ones hold.
    WriteBothReadOld,
    /// Puts go to both sets, gets to the new one. The last stage that can be taken back.
    WriteBothReadNew,
}

/// A move that is under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Move {
    /// How far it is.
    pub stage: Stage,
    /// The replicas that the partition will have, the primary first.
    pub target: Vec<NodeId>,
    /// The epoch that began the move: what was received under an earlier one proves nothing.
    pub since: Epoch,
}

/// The preference list of a partition, as it is written in the ring. What of it counts for an object is a [`Placed`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placement {
    /// The replicas, the primary first. During a move: the old set.
    pub replicas: Vec<NodeId>,
    /// The move under way, if any.
    pub moving: Option<Move>,
}

/// The whole of who holds what, at one epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ring {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Its place in the chain.
    pub epoch: Epoch,
    /// The hash of the ring before it; all zero for the first.
    pub parent: RingHash,
    /// The number of partitions, as a power of two. Fixed for the cluster's life.
    pub partition_bits: u8,
    /// How many replicas each partition has (N). Fixed for the cluster's life.
    pub replication: u8,
    /// Buckets with an N of their own. Fixed for the cluster's life.
    pub buckets: BucketReplication,
    /// Everyone that may hold data.
    pub members: BTreeMap<NodeId, Member>,
    /// Nodes whose disks are gone, members still or not any more. None of them is ever a member again.
    pub lost: Lost,
    /// The change of members that it is on its way through, where the writer of rings has no other place to write that down.
    pub operation: Option<Operation>,
    /// One for each partition of a layer, in order.
    pub placements: Vec<Placement>,
}

/// Why a ring is refused.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum RingError {
    /// Not a ring's bytes.
    #[error("not a ring: {0}")]
    Decode(#[from] DecodeError),
    /// Of another cluster.
    #[error("the ring is of cluster {theirs}, this is cluster {ours}")]
    OtherCluster {
        /// The ring's cluster.
        theirs: ClusterId,
        /// The node's.
        ours: ClusterId,
    },
    /// Not the successor of the ring that is held.
    #[error("epoch {offered} does not follow epoch {held}: {reason}")]
    NotSuccessor {
        /// The epoch offered.
        offered: Epoch,
        /// The epoch held, 0 for none.
        held: Epoch,
        /// What does not fit.
        reason: &'static str,
    },
    /// It contradicts itself, or breaks what must hold of every ring.
    #[error("partition {partition}: {reason}")]
    Placement {
        /// Where.
        partition: PartitionId,
        /// What.
        reason: &'static str,
    },
    /// A field out of its bounds.
    #[error("{0}")]
    Invalid(&'static str),
}

impl Ring {
    /// How many partitions a layer has (Q).
    pub fn partition_count(&self) -> usize {
        1 << self.partition_bits
    }

    /// The N of each layer, by its number: the ring's, then those of buckets with one of their own.
    pub fn layers(&self) -> impl Iterator<Item = u8> {
        std::iter::once(self.replication).chain(self.buckets.layers().iter().copied())
    }

    /// How many partitions all layers have together: one for each copy that a node may be asked for.
    pub fn partition_count_of_layers(&self) -> usize {
        (1 + self.buckets.layers().len()) << self.partition_bits
    }

    /// Whether there is such a partition.
    pub fn has(&self, partition: PartitionId) -> bool {
        (partition.0 as usize) < self.partition_count_of_layers()
    }

    /// The partition that holds `name`.
    pub fn partition_of(&self, name: &Name) -> PartitionId {
        let PartitionId(at) = name.position().partition(self.partition_bits);
        PartitionId(((self.buckets.layer_of(&name.bucket) << self.partition_bits) as u32) | at)
    }

    /// The partitions of all layers that a preference list is for, by its place among the lists.
    pub fn partitions_on(&self, list: usize) -> impl Iterator<Item = PartitionId> {
        (0..=self.buckets.layers().len()).map(move |layer| PartitionId(((layer << self.partition_bits) | list) as u32))
    }

    /// The place of the preference list that `partition` lies on.
    pub fn list_of(&self, partition: PartitionId) -> usize {
        partition.0 as usize & (self.partition_count() - 1)
    }

    /// The N of the objects in `partition`.
    pub fn replication_of(&self, partition: PartitionId) -> u8 {
        match (partition.0 >> self.partition_bits) as usize {
            0 => self.replication,
            layer => self.buckets.layers()[layer - 1],
        }
    }

    /// Who holds `partition`.
    pub fn placement(&self, partition: PartitionId) -> Placed<'_> {
        self.placements[self.list_of(partition)].first(self.replication_of(partition))
    }

    /// Every partition of every layer with who holds it.
    pub fn partitions(&self) -> impl Iterator<Item = (PartitionId, Placed<'_>)> {
        let ids = (0..self.partition_count_of_layers() as u32).map(PartitionId);
        ids.map(|partition| (partition, self.placement(partition)))
    }

    /// How many preference lists have `node` in the old or the new set. A node in none holds nothing of any layer. How much it holds is
    /// another number: [`Ring::copies_of`].
    pub fn partitions_of(&self, node: NodeId) -> usize {
        self.placements.iter().filter(|placement| placement.whole().involves(node)).count()
    }

    /// Of how many partitions, of all layers, `node` is in the old or the new set.
    pub fn copies_of(&self, node: NodeId) -> usize {
        self.partitions().filter(|(_, placed)| placed.involves(node)).count()
    }

    /// The partitions of every layer that are on the move.
    pub fn moving(&self) -> impl Iterator<Item = (PartitionId, Placed<'_>, Moving<'_>)> {
        self.partitions().filter_map(|(id, placed)| placed.moving.map(|moving| (id, placed, moving)))
    }

    /// How many preference lists are on the move, of [`Ring::partition_count`].
    pub fn moving_count(&self) -> usize {
        self.placements.iter().filter(|placement| placement.moving.is_some()).count()
    }

    /// Whether `node` was declared lost: it counts for nothing, whatever it says.
    pub fn is_lost(&self, node: NodeId) -> bool {
        self.lost.contains_key(&node)
    }

    /// The members that were not declared lost.
    pub fn survivors(&self) -> impl Iterator<Item = NodeId> {
        self.members.keys().filter(|node| !self.is_lost(**node)).copied()
    }

    /// A ring for the next epoch, equal to this one but for what `change` does to it.
    pub fn successor(&self, change: impl FnOnce(&mut Ring)) -> Ring {
        let mut next = self.clone();
        change(&mut next);
        next.epoch = self.epoch.next();
        next.parent = self.hash();
        next
    }

    /// What must hold of every ring: N distinct members for each partition, in the old set and the new one; and nothing new is
    /// planned for a lost member.
    pub fn validate(&self) -> Result<(), RingError> {
        if self.partition_bits > PARTITION_BITS_MAX {
            return Err(RingError::Invalid("a ring has at most 65,536 partitions"));
        }
        if self.placements.len() != self.partition_count() {
            return Err(RingError::Invalid("a ring has one placement for each partition"));
        }
        if self.replication == 0 || self.epoch.0 == 0 {
            return Err(RingError::Invalid("replication and epoch start at 1"));
        }
        if self.epoch > EPOCH_MAX {
            return Err(RingError::Invalid("a ring's epoch is at most 2^62"));
        }
        if (self.epoch == Epoch(1)) != (self.parent == RingHash::default()) {
            return Err(RingError::Invalid("the ring of epoch 1, and no other, has no parent"));
        }
        if self.operation.as_ref().is_some_and(|operation| operation.since > self.epoch || operation.wanted.is_empty()) {
            return Err(RingError::Invalid("an operation has members, and was begun by this ring or one before"));
        }
        if self.lost.len() > LOST_MAX {
            return Err(RingError::Invalid("a ring remembers at most 4,096 lost nodes"));
        }
        if self.members.iter().any(|(node, member)| member.weight > 0 && self.is_lost(*node)) {
            return Err(RingError::Invalid("a member that was declared lost has weight 0"));
        }
        if BucketReplication::new(self.buckets.entries().map(|(bucket, n)| (bucket.clone(), n)), self.replication)?
            != self.buckets
        {
            return Err(RingError::Invalid("bucket n: an entry has the ring's N; leave it out"));
        }
        if self.partition_count_of_layers() > 1 << PARTITION_BITS_MAX {
            return Err(RingError::Invalid(
                "bucket n: each N that a bucket has of its own takes as many partitions again, and all together are at most 65,536; \
                 choose fewer partitions, or fewer different n",
            ));
        }
        for (at, Placement { replicas, moving }) in self.placements.iter().enumerate() {
            let partition = PartitionId(at as u32);
            // As they are written: a look at a placement leaves out what is beyond N.
            for set in std::iter::once(replicas).chain(moving.as_ref().map(|moving| &moving.target)) {
                let distinct: BTreeSet<_> = set.iter().collect();
                let wrong = |reason| Err(RingError::Placement { partition, reason });
                if distinct.len() != set.len() {
                    return wrong("a node is listed twice");
                }
                if set.len() != usize::from(self.replication) {
                    return wrong("it does not have N replicas");
                }
                if !set.iter().all(|node| self.members.contains_key(node)) {
                    return wrong("a replica is not a member");
                }
            }
        }
        Ok(())
    }

    /// Whether this valid ring may follow `held` in cluster `cluster`.
    pub fn check_follows(&self, held: Option<&Ring>, cluster: ClusterId) -> Result<(), RingError> {
        if self.cluster != cluster {
            return Err(RingError::OtherCluster { theirs: self.cluster, ours: cluster });
        }
        let held_epoch = held.map_or(Epoch(0), |ring| ring.epoch);
        let refuse = |reason| Err(RingError::NotSuccessor { offered: self.epoch, held: held_epoch, reason });
        if self.epoch <= held_epoch {
            return refuse("it is not newer");
        }
        if self.epoch.0 - held_epoch.0 > EPOCHS_MISSED_MAX {
            return refuse("nobody can have missed so many");
        }
        let Some(held) = held else { return Ok(()) };
        if self.partition_bits != held.partition_bits {
            return refuse("the number of partitions is fixed for a cluster's life");
        }
        if self.replication != held.replication {
            return refuse("N is fixed for a cluster's life");
        }
        if self.buckets != held.buckets {
            return refuse("the N of a bucket (bucket n) is fixed for a cluster's life; set it back, or use another bucket");
        }
        if self.epoch == held.epoch.next() && self.parent != held.hash() {
            return refuse("its parent is another ring of the same epoch");
        }
        let returns = |node: &NodeId| !held.members.contains_key(node) && self.members.contains_key(node);
        if held.lost.keys().any(returns) {
            return refuse("a node that was declared lost is a member again");
        }
        if self.lost.len() < LOST_MAX && held.lost.keys().any(|node| !self.is_lost(*node)) {
            return refuse("it has forgotten that a node was declared lost");
        }
        Ok(())
    }

    /// SHA-256 of the canonical bytes.
    pub fn hash(&self) -> RingHash {
        RingHash(Sha256::digest(self.encode()).into())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn node(id: u8) -> NodeId {
        NodeId([id; 16])
    }

    /// A ring of `nodes` members with 2^`bits` partitions, N = 3, replicas round robin.
    pub(crate) fn ring_of(nodes: u8, bits: u8) -> Ring {
        let members = (1..=nodes).map(|id| (node(id), Member { zone: format!("z{}", id % 3), weight: 1 })).collect();
        let replicas = |at: usize| (0..3).map(|step| node(((at + step) % usize::from(nodes)) as u8 + 1)).collect();
        let placements = (0..1 << bits).map(|at| Placement { replicas: replicas(at), moving: None }).collect();
        Ring {
            cluster: ClusterId([7; 16]),
            epoch: Epoch(1),
            parent: RingHash::default(),
            partition_bits: bits,
            replication: 3,
            buckets: BucketReplication::default(),
            members,
            lost: Lost::new(),
            operation: None,
            placements,
        }
    }

    #[test]
    fn a_ring_reads_back_from_its_bytes_and_from_no_others() {
        let ring = ring_of(5, 4).successor(|ring| {
            let target = vec![node(5), node(2), node(3)];
            ring.placements[0].moving = Some(Move { stage: Stage::WriteBothReadOld, target, since: Epoch(2) });
        });
        let bytes = ring.encode();
        assert_eq!(Ring::decode(bytes.clone()), Ok(ring));
        for length in 0..bytes.len() {
            assert!(Ring::decode(bytes.slice(..length)).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn only_the_successor_of_the_ring_that_is_held_is_accepted() {
        let first = ring_of(3, 2);
        let cluster = first.cluster;
        let second = first.successor(|_| ());
        let twin = first.successor(|ring| ring.members.get_mut(&node(1)).unwrap().weight = 2);
        assert_eq!(second.check_follows(Some(&first), cluster), Ok(()));
        assert_eq!(first.check_follows(None, cluster), Ok(()));
        for (ring, held) in [(&first, &first), (&first, &second), (&twin, &second), (&twin.successor(|_| ()), &second)] {
            let verdict = ring.check_follows(Some(held), cluster);
            assert!(matches!(verdict, Err(RingError::NotSuccessor { .. })), "{:?} after {:?}", ring.epoch, held.epoch);
        }
        let verdict = second.check_follows(Some(&first), ClusterId([8; 16]));
        assert!(matches!(verdict, Err(RingError::OtherCluster { .. })));
    }

    #[test]
    fn an_epoch_that_no_ring_could_follow_is_refused_wherever_it_comes_from() {
        let first = ring_of(3, 2);
        let second = first.successor(|_| ());
        let at = |epoch, ring: &Ring| Ring { epoch: Epoch(epoch), ..ring.clone() };
        let cases = [
            ("start at 1", at(0, &first)),
            ("at most 2^62", at(u64::MAX, &second)),
            ("at most 2^62", at(EPOCH_MAX.0 + 1, &second)),
            ("no parent", at(2, &first)),
            ("no parent", at(EPOCH_MAX.0, &first)),
            ("no parent", at(1, &second)),
        ];
        for (reason, ring) in cases {
            for refused in [ring.validate(), Ring::decode(ring.encode()).map(drop)] {
                let error = refused.unwrap_err().to_string();
                assert!(error.contains(reason), "{:?}: {error}", ring.epoch);
            }
        }
        let last = at(EPOCH_MAX.0, &second);
        assert_eq!(Ring::decode(last.encode()), Ok(last.clone()));
        assert!(last.successor(|_| ()).validate().is_err(), "the epoch after it has a name, and no ring");
    }

    #[test]
    fn a_ring_from_so_far_ahead_that_it_could_be_the_last_is_not_taken() {
        let first = ring_of(3, 2);
        let ahead = |epochs| Ring { epoch: Epoch(first.epoch.0 + epochs), ..first.successor(|_| ()) };
        for (held, before) in [(Some(&first), 0), (None, 1)] {
            assert_eq!(ahead(EPOCHS_MISSED_MAX - before).check_follows(held, first.cluster), Ok(()));
            let refused = ahead(EPOCHS_MISSED_MAX - before + 1).check_follows(held, first.cluster).unwrap_err().to_string();
            assert!(refused.contains("nobody can have missed so many"), "{refused}");
        }
    }

    #[test]
    fn a_placement_that_breaks_the_rules_is_refused() {
        type Change = fn(&mut Ring);
        let cases: [(&str, Change); 3] = [
            ("listed twice", |ring| ring.placements[1].replicas = vec![node(1), node(1), node(2)]),
            ("not have N", |ring| ring.placements[1].replicas = vec![node(1)]),
            ("not a member", |ring| ring.placements[1].replicas = vec![node(1), node(2), node(99)]),
        ];
        for (reason, change) in cases {
            let mut ring = ring_of(3, 2);
            change(&mut ring);
            let error = ring.validate().unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_list_that_is_longer_than_n_is_refused_wherever_it_comes_from() {
        let moving = ring_of(5, 2).successor(|next| {
            let target = vec![node(4), node(2), node(3)];
            next.placements[0].moving = Some(Move { stage: Stage::WriteBothReadOld, target, since: Epoch(2) });
        });
        assert_eq!(Ring::decode(moving.encode()), Ok(moving.clone()));
        for (one_more, reason) in [(5, "not have N"), (2, "listed twice")] {
            let (mut old, mut new) = (moving.clone(), moving.clone());
            old.placements[0].replicas.push(node(one_more));
            new.placements[0].moving.as_mut().unwrap().target.push(node(one_more));
            for ring in [old, new] {
                for refused in [ring.validate(), Ring::decode(ring.encode()).map(drop)] {
                    let error = refused.unwrap_err().to_string();
                    assert!(error.contains(reason), "node {one_more}: {error}");
                }
            }
        }
    }

    #[test]
    fn a_new_replica_is_filled_from_the_one_it_replaces() {
        let old = vec![node(1), node(2), node(3)];
        let move_to = |target| Placement {
            replicas: old.clone(),
            moving: Some(Move { stage: Stage::WriteBothReadOld, target, since: Epoch(2) }),
        };
        let none = Lost::new();
        assert_eq!(move_to(vec![node(4), node(2), node(3)]).whole().fills(&none), [(node(4), vec![node(1)])]);
        let grown = move_to(vec![node(1), node(2), node(3), node(4)]);
        assert_eq!(grown.whole().fills(&none), [(node(4), old.clone())]);
    }

    #[test]
    fn the_replacement_of_a_lost_replica_is_filled_from_all_that_are_left() {
        let target = vec![node(4), node(5), node(3)];
        let moving = Some(Move { stage: Stage::WriteBothReadOld, target, since: Epoch(2) });
        let placement = Placement { replicas: vec![node(1), node(2), node(3)], moving };
        type Fills<'a> = &'a [(u8, &'a [u8])];
        let cases: [(&[u8], Fills); 4] = [
            (&[], &[(4, &[1]), (5, &[2])]),
            (&[1], &[(4, &[2, 3]), (5, &[2])]),
            (&[1, 2], &[(4, &[3]), (5, &[3])]),
            (&[1, 2, 3], &[(4, &[]), (5, &[])]),
        ];
        for (lost, fills) in cases {
            let lost: Lost = lost.iter().map(|id| (node(*id), Epoch(2))).collect();
            let expected: Vec<(NodeId, Vec<NodeId>)> =
                fills.iter().map(|(to, from)| (node(*to), from.iter().map(|id| node(*id)).collect())).collect();
            assert_eq!(placement.whole().fills(&lost), expected, "{lost:?} are lost");
        }
    }

    /// The ring after `ring` in which node 1 was declared lost.
    pub(crate) fn with_a_loss(ring: &Ring) -> Ring {
        ring.successor(|next| {
            next.members.get_mut(&node(1)).unwrap().weight = 0;
            next.lost.insert(node(1), ring.epoch.next());
        })
    }

    #[test]
    fn lost_nodes_are_in_the_bytes_and_a_ring_without_any_has_the_bytes_it_always_had() {
        let ring = ring_of(5, 4);
        assert_eq!(ring.encode()[0], 1, "a version that knows of no losses reads this ring");
        let lossy = with_a_loss(&ring);
        let bytes = lossy.encode();
        assert_eq!(bytes[0], 2);
        assert_eq!(Ring::decode(bytes.clone()), Ok(lossy.clone()));
        assert_ne!(lossy.hash(), lossy.clone().successor(|next| next.lost.clear()).hash());
        for length in 0..bytes.len() {
            assert!(Ring::decode(bytes.slice(..length)).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn an_operation_is_in_the_bytes_with_or_without_lost_nodes() {
        let begun = |ring: &Ring| {
            ring.successor(|next| {
                let (before, wanted) = (ring.members.clone(), [(node(9), ring.members[&node(2)].clone())].into());
                let since = ring.epoch.next();
                next.operation = Some(Operation { since, before, wanted, copies: 300, paused: true, aborted: false });
            })
        };
        for ring in [begun(&ring_of(5, 4)), begun(&with_a_loss(&ring_of(5, 4)))] {
            let bytes = ring.encode();
            assert_eq!(bytes[0], 3);
            assert_eq!(Ring::decode(bytes.clone()), Ok(ring.clone()));
            for length in 0..bytes.len() {
                assert!(Ring::decode(bytes.slice(..length)).is_err(), "{length} bytes");
            }
            let ended = ring.successor(|next| next.operation = None);
            assert!(ended.encode()[0] < 3, "an older version reads it again");
            assert_eq!(ended.check_follows(Some(&ring), ring.cluster), Ok(()));
        }
        let mut early = begun(&ring_of(5, 4));
        early.operation.as_mut().unwrap().since = Epoch(9);
        assert!(early.validate().is_err(), "it cannot have been begun by a later ring");
    }

    #[test]
    fn a_lost_node_is_never_forgotten_and_never_a_member_again() {
        let ring = with_a_loss(&ring_of(4, 2));
        let out = ring.successor(|next| {
            next.members.remove(&node(1));
            for placement in &mut next.placements {
                placement.replicas = vec![node(2), node(3), node(4)];
            }
        });
        let follows = |next: &Ring, held: &Ring| next.check_follows(Some(held), held.cluster).map_err(|error| error.to_string());
        assert_eq!(follows(&out, &ring), Ok(()));
        let member = Member { zone: "z".into(), weight: 0 };
        let back = out.successor(|next| drop(next.members.insert(node(1), member.clone())));
        assert!(follows(&back, &out).unwrap_err().contains("a member again"));
        assert!(follows(&back.successor(|_| ()), &out).unwrap_err().contains("a member again"), "nor by a ring that skips one");
        let forgetful = out.successor(|next| next.lost.clear());
        assert!(follows(&forgetful, &out).unwrap_err().contains("forgotten"));
        let planned = ring.successor(|next| next.members.get_mut(&node(1)).unwrap().weight = 1);
        assert!(planned.validate().unwrap_err().to_string().contains("weight 0"));
    }
}
