//! Hash trees in the storage: what a start can take as it is, and what it has to compute again.
//!
//! Two records for each partition, always written together by a checkpoint: the **tree** (leaves, and objects in each), and its
//! **mask**, which is clear then. The first change of a leaf after that sets the leaf's bit in the mask, in the same group of
//! writes as the change:
//!
//! ```text
//! group    12: checkpoint    13: write to leaf 5   14: write to leaf 5   15: write to leaf 9   16: checkpoint
//! tree     as of 12          as of 12              as of 12              as of 12              as of 16
//! mask     -                 5                     5                     5, 9                  -
//! ```
//!
//! A crash leaves the groups up to one of these, whole. Whichever that is, a leaf whose bit is not set is in the tree as it is in
//! the data: its last change is part of the tree's group or of an earlier one. So a start computes the leaves in the mask anew
//! and trusts the others.
//!
//! A partition without both records is computed anew as a whole, and so is one whose records are damaged, of another cluster,
//! another number of partitions or another checkpoint than each other. While a partition has no checkpoint no mask is kept: its
//! records, if any are left from before, are removed in the group of its first write. [`HashTrees::take_records`] is what makes
//! this so: it names what goes into the group that is being closed.

use bytes::Bytes;

use super::{Checkpoint, HashTrees, LEAVES, Tree};
use crate::codec::{DecodeError, Reader, Writer};
use crate::id::PartitionId;

const FORMAT: u8 = 1;
/// More than any disk holds, and few enough that the sum over all leaves of all partitions is a number.
const LEAF_OBJECTS_MAX: u64 = 1 << 40;
pub(crate) const CHECKSUM_SEED: u64 = 0x6479_6e61_6d6f_0002;

/// What the storage should say of a partition's tree from this group on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// Neither tree nor mask.
    Nothing,
    /// The tree that it has, and this mask.
    Mask(Bytes),
    /// This tree and this mask.
    Tree(Bytes, Bytes),
}

/// Where a partition's tree is stored.
pub fn tree_key(partition: PartitionId) -> Vec<u8> {
    key(b"tree/", partition)
}

/// Where a partition's mask is stored.
pub fn mask_key(partition: PartitionId) -> Vec<u8> {
    key(b"tree-mask/", partition)
}

fn key(prefix: &[u8], partition: PartitionId) -> Vec<u8> {
    [prefix, &partition.0.to_be_bytes()].concat()
}

impl HashTrees {
    /// What belongs into the group of writes that is being closed, because of the changes in it.
    pub fn take_records(&mut self) -> Vec<(PartitionId, Record)> {
        let partitions = std::mem::take(&mut self.unrecorded);
        let record = |partition| match self.trees.get(&partition).and_then(|tree| tree.checkpoint) {
            None => (partition, Record::Nothing),
            Some(checkpoint) => (partition, Record::Mask(self.mask(partition, checkpoint))),
        };
        partitions.into_iter().map(record).collect()
    }

    /// Whether [`HashTrees::take_records`] has anything to say.
    pub fn has_records(&self) -> bool {
        !self.unrecorded.is_empty()
    }

    /// Partitions after `after` whose trees changed since their last checkpoint, `limit` at most.
    pub fn changed(&self, after: Option<PartitionId>, limit: usize) -> Vec<PartitionId> {
        let is_changed = |tree: &Tree| tree.checkpoint.is_none_or(|checkpoint| checkpoint.dirty != 0);
        let from = after.map_or(0, |after| after.0 + 1);
        let later = self.trees.range(PartitionId(from)..);
        later.filter(|(_, tree)| is_changed(tree)).map(|(partition, _)| *partition).take(limit).collect()
    }

    /// A checkpoint of a partition's tree, to be written in the group that is open now.
    pub fn checkpoint(&mut self, partition: PartitionId) -> Record {
        let Some(tree) = self.trees.get_mut(&partition) else { return Record::Nothing };
        let serial = tree.checkpoint.map_or(0, |checkpoint| checkpoint.serial) + 1;
        let checkpoint = Checkpoint { serial, dirty: 0 };
        tree.checkpoint = Some(checkpoint);
        self.unrecorded.remove(&partition);
        let mut writer = self.begin(partition, serial);
        let tree = &self.trees[&partition];
        tree.leaves.iter().for_each(|leaf| writer.raw(&leaf.to_be_bytes()));
        tree.counts.iter().for_each(|count| writer.varint(*count));
        Record::Tree(writer.finish_with_checksum(CHECKSUM_SEED), self.mask(partition, checkpoint))
    }

    /// Takes a stored tree. Hands back the leaves that have to be computed anew, which are empty now; an error if it cannot be
    /// trusted, and then nothing is taken.
    pub fn restore(&mut self, partition: PartitionId, tree: Bytes, mask: Bytes) -> Result<Vec<usize>, DecodeError> {
        let (serial, mut reader) = self.open(partition, mask)?;
        let dirty = reader.u64("mask")?;
        reader.end()?;
        let (tree_serial, mut reader) = self.open(partition, tree)?;
        if tree_serial != serial || serial == u64::MAX {
            return Err(DecodeError::OutOfRange("serial"));
        }
        let mut tree = Tree { checkpoint: Some(Checkpoint { serial, dirty }), ..Tree::empty() };
        for leaf in &mut tree.leaves {
            *leaf = u128::from_be_bytes(reader.id("leaf")?);
        }
        for count in &mut tree.counts {
            *count = reader.varint("objects of a leaf")?;
            if *count > LEAF_OBJECTS_MAX {
                return Err(DecodeError::OutOfRange("objects of a leaf"));
            }
        }
        reader.end()?;
        let dirty: Vec<usize> = (0..LEAVES).filter(|leaf| dirty & (1 << leaf) != 0).collect();
        for leaf in &dirty {
            (tree.leaves[*leaf], tree.counts[*leaf]) = (0, 0);
        }
        tree.objects = tree.counts.iter().sum();
        self.trees.insert(partition, tree);
        Ok(dirty)
    }

    fn mask(&self, partition: PartitionId, checkpoint: Checkpoint) -> Bytes {
        let mut writer = self.begin(partition, checkpoint.serial);
        writer.u64(checkpoint.dirty);
        writer.finish_with_checksum(CHECKSUM_SEED)
    }

    /// What both records begin with: what they are of, so that no other is taken for them.
    fn begin(&self, partition: PartitionId, serial: u64) -> Writer {
        let mut writer = Writer::with_capacity(LEAVES * 24);
        writer.u8(FORMAT);
        writer.u64(self.seed);
        writer.u8(self.partition_bits);
        writer.varint(u64::from(partition.0));
        writer.varint(serial);
        writer
    }

    fn open(&self, partition: PartitionId, record: Bytes) -> Result<(u64, Reader), DecodeError> {
        let mut reader = Reader::verified(record, CHECKSUM_SEED)?;
        reader.format(FORMAT)?;
        if reader.u64("cluster")? != self.seed {
            return Err(DecodeError::OutOfRange("cluster"));
        }
        if reader.u8("partition bits")? != self.partition_bits {
            return Err(DecodeError::OutOfRange("partition bits"));
        }
        if reader.varint("partition")? != u64::from(partition.0) {
            return Err(DecodeError::OutOfRange("partition"));
        }
        Ok((reader.varint("serial")?, reader))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ClusterId;
    use crate::name::Name;
    use crate::version::Digest;

    const PARTITION: PartitionId = PartitionId(3);

    fn trees(cluster: u8, bits: u8) -> HashTrees {
        HashTrees::new(ClusterId([cluster; 16]), bits)
    }

    fn put(trees: &mut HashTrees, key: u32, before: u8, after: u8) -> usize {
        let name = Name::new("b", key.to_be_bytes().to_vec());
        trees.update(PARTITION, &name, Digest([before; 16]), Digest([after; 16]));
        trees.leaf_of(name.position())
    }

    fn filled() -> HashTrees {
        let mut trees = trees(1, 4);
        for key in 0..300 {
            put(&mut trees, key, 0, 1);
        }
        trees
    }

    fn checkpoint(trees: &mut HashTrees) -> (Bytes, Bytes) {
        match trees.checkpoint(PARTITION) {
            Record::Tree(tree, mask) => (tree, mask),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_checkpoint_reads_back_as_the_tree_that_it_was_made_of() {
        let mut before = filled();
        let (tree, mask) = checkpoint(&mut before);
        let mut after = trees(1, 4);
        assert_eq!(after.restore(PARTITION, tree, mask), Ok(vec![]));
        assert_eq!(after.root(PARTITION), before.root(PARTITION));
        assert_eq!(after.leaf_counts(PARTITION), before.leaf_counts(PARTITION));
        assert_eq!(after.objects(PARTITION), 300);
        assert_eq!(after.changed(None, 9), []);
        assert!(!after.has_records());
    }

    #[test]
    fn the_first_change_of_a_leaf_is_recorded_and_the_second_is_not() {
        let mut before = filled();
        assert_eq!(before.take_records(), [(PARTITION, Record::Nothing)], "no checkpoint: none may be left from before");
        let (tree, _) = checkpoint(&mut before);
        assert!(!before.has_records());
        let leaf = put(&mut before, 7, 1, 2);
        let records = before.take_records();
        let [(PARTITION, Record::Mask(mask))] = &records[..] else { panic!("{records:?}") };
        put(&mut before, 7, 2, 3);
        assert!(!before.has_records());

        let mut after = trees(1, 4);
        assert_eq!(after.restore(PARTITION, tree, mask.clone()), Ok(vec![leaf]));
        assert_eq!(after.leaf_counts(PARTITION)[leaf], 0, "it is computed anew");
        assert_eq!(after.objects(PARTITION), 300 - before.leaf_counts(PARTITION)[leaf]);
        assert_eq!(after.changed(None, 9), [PARTITION], "the next checkpoint clears the mask");
    }

    #[test]
    fn a_dropped_copy_leaves_no_records() {
        let mut trees = filled();
        checkpoint(&mut trees);
        trees.remove(PARTITION);
        assert_eq!(trees.take_records(), [(PARTITION, Record::Nothing)]);
        assert_eq!(trees.checkpoint(PARTITION), Record::Nothing);
    }

    #[test]
    fn what_is_not_exactly_this_partitions_newest_checkpoint_is_not_trusted() {
        let mut before = filled();
        let (old_tree, old_mask) = checkpoint(&mut before);
        put(&mut before, 1, 1, 2);
        let (tree, mask) = checkpoint(&mut before);
        let cases = [
            ("another cluster", trees(2, 4), PARTITION, &tree, &mask),
            ("another number of partitions", trees(1, 5), PARTITION, &tree, &mask),
            ("another partition", trees(1, 4), PartitionId(4), &tree, &mask),
            ("an older tree", trees(1, 4), PARTITION, &old_tree, &mask),
            ("an older mask", trees(1, 4), PARTITION, &tree, &old_mask),
            ("a mask for a tree", trees(1, 4), PARTITION, &mask, &mask),
            ("a tree for a mask", trees(1, 4), PARTITION, &tree, &tree),
        ];
        for (what, mut trees, partition, tree, mask) in cases {
            assert!(trees.restore(partition, tree.clone(), mask.clone()).is_err(), "{what}");
            assert_eq!(trees.objects_total(), 0, "{what}");
        }
        for record in [&tree, &mask] {
            for bit in 0..record.len() * 8 {
                let mut damaged = record.to_vec();
                damaged[bit / 8] ^= 1 << (bit % 8);
                let (tree, mask) = if record == &tree { (damaged.into(), mask.clone()) } else { (tree.clone(), damaged.into()) };
                assert!(trees(1, 4).restore(PARTITION, tree, mask).is_err(), "bit {bit}");
            }
        }
    }
}
