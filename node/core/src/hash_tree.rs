//! A hash tree over each partition's copy (paper 4.7): equal roots mean equal replicas, differing leaves say where to look.
//!
//! A leaf is the sum, modulo 2^128, of a keyed hash over (name, version digest) of each object in its range of positions. A sum
//! is kept current by a subtraction and an addition per write, in any order, and never needs the values; it is keyed with the
//! cluster's identity, so nobody can choose keys that cancel out without knowing it. Two levels are enough at one partition's
//! size: the root is a hash over the leaves.
//!
//! Trees live in memory and survive a restart by checkpoints: [`stored`] says how, and why they are right whatever a crash takes.

pub mod stored;

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};

use crate::id::{ClusterId, PartitionId};
use crate::name::{Name, Position};
use crate::version::Digest;

/// Leaves of one tree, as a power of two: 64 leaves of 16 bytes are one small message.
pub const LEAF_BITS: u8 = 6;
/// Leaves of one tree.
pub const LEAVES: usize = 1 << LEAF_BITS;

#[derive(Clone, Debug)]
struct Tree {
    leaves: [u128; LEAVES],
    /// Objects by leaf.
    counts: [u64; LEAVES],
    objects: u64,
    /// The checkpoint that the storage has of it, if it has one.
    checkpoint: Option<Checkpoint>,
}

/// What is known of a stored tree.
#[derive(Clone, Copy, Debug)]
struct Checkpoint {
    serial: u64,
    /// Leaves that changed since, a bit for each.
    dirty: u64,
}

impl Tree {
    fn empty() -> Self {
        Self { leaves: [0; LEAVES], counts: [0; LEAVES], objects: 0, checkpoint: None }
    }
}

/// The trees of all partitions that a node has a copy of.
#[derive(Clone, Debug)]
pub struct HashTrees {
    seed: u64,
    partition_bits: u8,
    trees: BTreeMap<PartitionId, Tree>,
    /// Partitions whose marks in the storage are behind.
    unrecorded: BTreeSet<PartitionId>,
    /// What is hashed, kept so that an update needs no memory.
    input: Vec<u8>,
}

impl HashTrees {
    /// No copy of anything.
    pub fn new(cluster: ClusterId, partition_bits: u8) -> Self {
        let seed = xxhash_rust::xxh3::xxh3_64(&cluster.0);
        Self { seed, partition_bits, trees: BTreeMap::new(), unrecorded: BTreeSet::new(), input: Vec::new() }
    }

    /// Which leaf a position falls into: the bits below the partition's.
    pub fn leaf_of(&self, position: Position) -> usize {
        let below = position.0 << self.partition_bits;
        (below >> (128 - u32::from(LEAF_BITS))) as usize
    }

    /// The first position of a leaf. What is above the partition's bits names its layer, and is shifted out.
    pub fn leaf_start(&self, partition: PartitionId, leaf: usize) -> Position {
        let leading = (u128::from(partition.0) << LEAF_BITS) | leaf as u128;
        Position(leading << (128 - u32::from(self.partition_bits + LEAF_BITS)))
    }

    /// What a version of the object that `input` names adds to its leaf; the first bytes of `input` are the digest's.
    fn term(input: &mut [u8], digest: Digest, seed: u64) -> u128 {
        if digest == Digest::default() {
            return 0;
        }
        input[..digest.0.len()].copy_from_slice(&digest.0);
        xxhash_rust::xxh3::xxh3_128_with_seed(input, seed)
    }

    /// An object's version went from `before` to `after`; all zero stands for no object.
    pub fn update(&mut self, partition: PartitionId, name: &Name, before: Digest, after: Digest) {
        let leaf = self.leaf_of(name.position());
        let input = &mut self.input;
        input.clear();
        input.extend_from_slice(&Digest::default().0);
        input.extend_from_slice(&(name.bucket.len() as u32).to_be_bytes());
        input.extend_from_slice(&name.bucket);
        input.extend_from_slice(&name.key);
        let change = Self::term(input, after, self.seed).wrapping_sub(Self::term(input, before, self.seed));
        let unrecorded = &mut self.unrecorded;
        let tree = self.trees.entry(partition).or_insert_with(|| {
            unrecorded.insert(partition);
            Tree::empty()
        });
        tree.leaves[leaf] = tree.leaves[leaf].wrapping_add(change);
        let (came, went) = (u64::from(before == Digest::default()), u64::from(after == Digest::default()));
        tree.counts[leaf] = (tree.counts[leaf] + came).saturating_sub(went);
        tree.objects = (tree.objects + came).saturating_sub(went);
        if let Some(checkpoint) = &mut tree.checkpoint
            && checkpoint.dirty & (1 << leaf) == 0
        {
            checkpoint.dirty |= 1 << leaf;
            unrecorded.insert(partition);
        }
    }

    /// The copy was dropped.
    pub fn remove(&mut self, partition: PartitionId) {
        self.trees.remove(&partition);
        self.unrecorded.insert(partition);
    }

    /// The root; all zero for an empty copy.
    pub fn root(&self, partition: PartitionId) -> Digest {
        match self.trees.get(&partition) {
            Some(tree) if tree.objects > 0 => Digest(xxhash_rust::xxh3::xxh3_128(&self.leaves(partition)).to_be_bytes()),
            _ => Digest::default(),
        }
    }

    /// The leaves, 16 bytes each.
    pub fn leaves(&self, partition: PartitionId) -> Bytes {
        let mut bytes = BytesMut::with_capacity(LEAVES * 16);
        let none = [0; LEAVES];
        for leaf in self.trees.get(&partition).map_or(&none, |tree| &tree.leaves) {
            bytes.extend_from_slice(&leaf.to_be_bytes());
        }
        bytes.freeze()
    }

    /// The leaves in which this copy differs from the one whose leaves these are; all of them if the bytes make no sense.
    pub fn differing(&self, partition: PartitionId, theirs: &[u8]) -> Vec<usize> {
        let ours = self.leaves(partition);
        let differs = |leaf: &usize| ours.get(leaf * 16..leaf * 16 + 16) != theirs.get(leaf * 16..leaf * 16 + 16);
        (0..LEAVES).filter(differs).collect()
    }

    /// Objects in the copy of `partition`.
    pub fn objects(&self, partition: PartitionId) -> u64 {
        self.trees.get(&partition).map_or(0, |tree| tree.objects)
    }

    /// Objects in each leaf of the copy of `partition`.
    pub fn leaf_counts(&self, partition: PartitionId) -> [u64; LEAVES] {
        self.trees.get(&partition).map_or([0; LEAVES], |tree| tree.counts)
    }

    /// Objects in all copies.
    pub fn objects_total(&self) -> u64 {
        self.trees.values().map(|tree| tree.objects).sum()
    }

    /// Partitions with a copy that is not empty.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionId> {
        self.trees.iter().filter(|(_, tree)| tree.objects > 0).map(|(partition, _)| *partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trees() -> HashTrees {
        HashTrees::new(ClusterId([1; 16]), 4)
    }

    fn put(trees: &mut HashTrees, key: u32, before: u8, after: u8) -> PartitionId {
        let name = Name::new("b", key.to_be_bytes().to_vec());
        let partition = name.position().partition(4);
        trees.update(partition, &name, Digest([before; 16]), Digest([after; 16]));
        partition
    }

    fn fill(trees: &mut HashTrees, before: u8, after: u8) {
        for key in 0..200 {
            put(trees, key, before, after);
        }
    }

    #[test]
    fn the_same_versions_in_any_order_make_the_same_root() {
        let (mut one, mut other) = (trees(), trees());
        fill(&mut one, 0, 1);
        fill(&mut other, 0, 9);
        fill(&mut other, 9, 1);
        for partition in (0..16).map(PartitionId) {
            assert_eq!(one.root(partition), other.root(partition));
            assert_eq!(one.objects(partition), other.objects(partition));
        }
    }

    #[test]
    fn one_differing_version_differs_in_one_leaf_which_holds_its_key() {
        let (mut one, mut other) = (trees(), trees());
        fill(&mut one, 0, 1);
        fill(&mut other, 0, 1);
        let partition = put(&mut other, 77, 1, 2);
        assert_ne!(one.root(partition), other.root(partition));
        let position = Name::new("b", 77_u32.to_be_bytes().to_vec()).position();
        let leaf = one.leaf_of(position);
        assert_eq!(one.differing(partition, &other.leaves(partition)), [leaf]);
        assert!(one.leaf_start(partition, leaf) <= position);
        assert!(leaf + 1 == LEAVES || position < one.leaf_start(partition, leaf + 1));
    }

    #[test]
    fn an_object_that_is_removed_leaves_nothing_behind() {
        let (mut one, mut other) = (trees(), trees());
        fill(&mut one, 0, 1);
        let empty = one.root(PartitionId(3));
        fill(&mut other, 0, 1);
        let partition = put(&mut other, 1_000, 0, 2);
        put(&mut other, 1_000, 2, 0);
        assert_eq!(one.root(partition), other.root(partition));
        assert_eq!(one.objects(partition), other.objects(partition));
        fill(&mut one, 1, 0);
        assert_ne!(empty, Digest::default());
        assert_eq!(one.root(PartitionId(3)), Digest::default(), "an empty copy, as if there had never been one");
        assert_eq!(one.objects_total(), 0);
    }

    #[test]
    fn leaves_that_make_no_sense_count_as_different() {
        assert_eq!(trees().differing(PartitionId(0), &[1, 2, 3]).len(), LEAVES);
    }
}
