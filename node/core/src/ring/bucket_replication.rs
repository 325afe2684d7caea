//! Buckets with an N of their own, and the layers of partitions that follow from it (paper 4.3, 4.5).
//!
//! Such an N is a fact of placement, on which all nodes and clients have to agree, so it lies in the ring. Each N that occurs is a
//! **layer**: a full set of Q partitions of its own, over the same preference lists, of which it takes the first n nodes. The objects
//! of a bucket lie in the partitions of its layer, and in no others:
//!
//! ```text
//! layer  partitions     objects of                             replicas
//! 0      0 .. Q-1       every bucket without an entry          all N of the list
//! 1      Q .. 2Q-1      buckets with the lowest n              its first n
//! 2      2Q .. 3Q-1     buckets with the next n                its first n
//! ```
//!
//! So nothing else in this crate has to know of it: trees, hints, moves, handbacks, proofs and tenures go by partition, and a copy of
//! a partition is whole or not, whoever holds it. A ring without entries has one layer, and is what it always was.
//!
//! **Fixed for the cluster's life.** An entry that came later would move a bucket's objects from one layer to another: until the last
//! of them had moved, a get would have to ask both, and copies left behind by a lower n are counted by nobody, which is how Riak's
//! buckets bring back old values after a change of `n_val`. So a ring that differs from its predecessor here is refused. Whoever
//! needs another N makes another bucket, in another cluster if need be, and copies the data.
//!
//! Deliberately absent: N per request. Two requests of different n for one object have no quorum in common.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::codec::{DecodeError, Reader, Writer};
use crate::config::BUCKET_BYTES_MAX;
use crate::ring::RingError;

/// Buckets that may have an N of their own: the ring is read by every client, and 256 names are 64 KB at most.
pub const BUCKETS_MAX: usize = 256;

/// N by bucket, where it is not the ring's.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BucketReplication {
    by_bucket: BTreeMap<Bytes, u8>,
    /// The n of each layer but the first, ascending.
    layers: Vec<u8>,
}

impl BucketReplication {
    /// These, in a ring of N `replication`. An entry of N itself says nothing and is left out.
    pub fn new(entries: impl IntoIterator<Item = (Bytes, u8)>, replication: u8) -> Result<Self, RingError> {
        let by_bucket: BTreeMap<Bytes, u8> = entries.into_iter().filter(|(_, n)| *n != replication).collect();
        if by_bucket.len() > BUCKETS_MAX {
            return Err(RingError::Invalid("bucket n: at most 256 buckets have an N of their own; give the others the ring's"));
        }
        if by_bucket.values().any(|n| !(1..replication).contains(n)) {
            return Err(RingError::Invalid("bucket n: a bucket's N is 1 to the ring's N; give it such a one"));
        }
        if by_bucket.keys().any(|bucket| bucket.is_empty() || bucket.len() > BUCKET_BYTES_MAX) {
            return Err(RingError::Invalid("bucket n: a bucket's name has 1 to 255 bytes; name a bucket"));
        }
        let layers: BTreeSet<u8> = by_bucket.values().copied().collect();
        Ok(Self { by_bucket, layers: layers.into_iter().collect() })
    }

    /// No bucket has an N of its own.
    pub fn is_empty(&self) -> bool {
        self.by_bucket.is_empty()
    }

    /// The N of `bucket`, if it has one of its own.
    pub fn of(&self, bucket: &[u8]) -> Option<u8> {
        if self.by_bucket.is_empty() { None } else { self.by_bucket.get(bucket).copied() }
    }

    /// The buckets that have one, in order.
    pub fn entries(&self) -> impl Iterator<Item = (&Bytes, u8)> {
        self.by_bucket.iter().map(|(bucket, n)| (bucket, *n))
    }

    /// The n of each layer but the first, ascending.
    pub fn layers(&self) -> &[u8] {
        &self.layers
    }

    /// The layer that the objects of `bucket` lie in.
    pub fn layer_of(&self, bucket: &[u8]) -> usize {
        self.of(bucket).map_or(0, |n| 1 + self.layers.binary_search(&n).expect("every n has its layer"))
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.varint(self.by_bucket.len() as u64);
        for (bucket, n) in &self.by_bucket {
            writer.bytes(bucket);
            writer.u8(*n);
        }
    }

    /// In order, each once, at least one: there is one encoding of a ring.
    pub(super) fn decode(reader: &mut Reader, replication: u8) -> Result<Self, RingError> {
        let mut entries: Vec<(Bytes, u8)> = Vec::new();
        for _ in 0..reader.count("buckets")? {
            let bucket = Bytes::copy_from_slice(&reader.bytes("bucket")?);
            if entries.last().is_some_and(|(last, _)| *last >= bucket) {
                return Err(DecodeError::OutOfRange("order of buckets").into());
            }
            entries.push((bucket, reader.u8("bucket n")?));
        }
        let count = entries.len();
        let decoded = Self::new(entries, replication)?;
        let exact = count > 0 && decoded.by_bucket.len() == count;
        if exact { Ok(decoded) } else { Err(DecodeError::OutOfRange("buckets").into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Epoch, PartitionId};
    use crate::name::Name;
    use crate::ring::tests::{node, ring_of, with_a_loss};
    use crate::ring::{Lost, Move, Ring, Stage};

    fn entries(entries: &[(&'static str, u8)]) -> Vec<(Bytes, u8)> {
        entries.iter().map(|(bucket, n)| (Bytes::from_static(bucket.as_bytes()), *n)).collect()
    }

    #[test]
    fn each_n_is_a_layer_and_an_entry_of_the_rings_n_is_none() {
        let buckets = BucketReplication::new(entries(&[("cart", 2), ("cache", 1), ("sessions", 2), ("plain", 3)]), 3).unwrap();
        assert_eq!(buckets.layers(), [1, 2]);
        for (bucket, n, layer) in [("cache", Some(1), 1), ("cart", Some(2), 2), ("sessions", Some(2), 2), ("plain", None, 0)] {
            assert_eq!((buckets.of(bucket.as_bytes()), buckets.layer_of(bucket.as_bytes())), (n, layer), "{bucket}");
        }
        assert!(BucketReplication::new(entries(&[("plain", 3)]), 3).unwrap().is_empty());
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_with_the_bound() {
        let many = (0..=BUCKETS_MAX).map(|number| (Bytes::from(number.to_string()), 1)).collect();
        for (wrong, said) in
            [(entries(&[("b", 0)]), "1 to"), (entries(&[("b", 4)]), "1 to"), (entries(&[("", 1)]), "name"), (many, "256")]
        {
            let error = BucketReplication::new(wrong, 3).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    fn with_buckets(ring: &Ring, entries: &[(&'static str, u8)]) -> Ring {
        let entries = entries.iter().map(|(bucket, n)| (Bytes::from_static(bucket.as_bytes()), *n));
        Ring { buckets: BucketReplication::new(entries, ring.replication).unwrap(), ..ring.clone() }
    }

    #[test]
    fn a_bucket_with_an_n_of_its_own_lies_in_partitions_of_its_own_on_the_first_n_of_the_list() {
        let ring = with_buckets(&ring_of(5, 4), &[("cache", 1), ("cart", 2)]);
        ring.validate().unwrap();
        assert_eq!(ring.layers().collect::<Vec<_>>(), [3, 1, 2]);
        for key in 0..100 {
            let at = |bucket: &'static str| Name::new(bucket, key.to_string());
            for (bucket, layer, n) in [("other", 0, 3), ("cache", 1, 1), ("cart", 2, 2)] {
                let (name, partition) = (at(bucket), ring.partition_of(&at(bucket)));
                let PartitionId(list) = name.position().partition(4);
                assert_eq!((partition, ring.replication_of(partition)), (PartitionId(layer * 16 + list), n));
                assert_eq!(ring.placement(partition).replicas, &ring.placements[list as usize].replicas[..usize::from(n)]);
            }
        }
        assert_eq!(ring.partitions().count(), 48);
        assert!(ring.has(PartitionId(47)) && !ring.has(PartitionId(48)));
    }

    #[test]
    fn a_buckets_n_is_in_the_bytes_beside_the_lost_and_never_changes() {
        let plain = ring_of(5, 4);
        let ring = with_buckets(&plain, &[("cache", 1), ("cart", 2)]);
        for ring in [ring.clone(), with_a_loss(&ring)] {
            let bytes = ring.encode();
            assert_eq!(bytes[0], 3);
            assert_eq!(Ring::decode(bytes.clone()), Ok(ring.clone()));
            for length in 0..bytes.len() {
                assert!(Ring::decode(bytes.slice(..length)).is_err(), "{length} bytes");
            }
        }
        for other in [&plain, &with_buckets(&plain, &[("cache", 1)]), &with_buckets(&plain, &[("cache", 2), ("cart", 2)])] {
            let next = ring.successor(|next| next.buckets = other.buckets.clone());
            let refused = next.check_follows(Some(&ring), ring.cluster).unwrap_err().to_string();
            assert!(refused.contains("bucket n") && refused.contains("set it back"), "{refused}");
        }
        let later = plain.successor(|next| next.buckets = ring.buckets.clone());
        assert!(later.check_follows(Some(&plain), plain.cluster).is_err(), "nor is one given later");
        let fewer = ring.successor(|next| next.replication = 2);
        assert!(fewer.check_follows(Some(&ring), ring.cluster).is_err());
    }

    #[test]
    fn the_partitions_of_all_layers_fit_where_they_are_stored() {
        let wide = Ring { partition_bits: 15, placements: vec![ring_of(3, 0).placements[0].clone(); 1 << 15], ..ring_of(3, 0) };
        assert_eq!(with_buckets(&wide, &[("cart", 2)]).validate(), Ok(()));
        let refused = with_buckets(&wide, &[("cart", 2), ("cache", 1)]).validate().unwrap_err().to_string();
        assert!(refused.contains("choose fewer partitions"), "{refused}");
    }

    #[test]
    fn a_node_that_moves_up_in_the_list_is_filled_in_the_layers_that_it_is_new_in() {
        let mut ring = with_buckets(&ring_of(4, 0), &[("cache", 1), ("cart", 2)]);
        let target = vec![node(3), node(1), node(4)];
        ring.placements[0].moving = Some(Move { stage: Stage::WriteBothReadOld, target, since: Epoch(1) });
        let fills = |layer| ring.placement(PartitionId(layer)).fills(&Lost::new());
        assert_eq!(fills(0), [(node(4), vec![node(2)])]);
        assert_eq!(fills(1), [(node(3), vec![node(1)])]);
        assert_eq!(fills(2), [(node(3), vec![node(2)])]);
    }
}
