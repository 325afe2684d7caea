//! What: an object's name and where it lies (paper 4.1, 4.2).
//!
//! An object is named by a bucket and a key, both opaque bytes. MD5 of the two is its 128-bit position on the ring, as in the
//! paper; the bucket's length goes in first, so that ("ab", "c") and ("a", "bc") lie apart.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use bytes::Bytes;
use md5::{Digest as _, Md5};

use crate::id::PartitionId;

/// An object's name. Two are equal, ordered and hashed as their two parts are.
#[derive(Clone)]
pub struct Name {
    /// The bucket: whose settings apply.
    pub bucket: Bytes,
    /// The key within the bucket.
    pub key: Bytes,
    /// Where it lies: a request asks half a dozen times.
    position: Position,
}

/// A place on the ring of 2^128 places.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Position(pub u128);

impl Name {
    /// A name of these parts.
    pub fn new(bucket: impl Into<Bytes>, key: impl Into<Bytes>) -> Self {
        let (bucket, key) = (bucket.into(), key.into());
        let mut md5 = Md5::new();
        md5.update((bucket.len() as u32).to_be_bytes());
        md5.update(&bucket);
        md5.update(&key);
        let position = Position(u128::from_be_bytes(md5.finalize().into()));
        Self { bucket, key, position }
    }

    /// Where the object lies.
    pub fn position(&self) -> Position {
        self.position
    }

    fn parts(&self) -> (&Bytes, &Bytes) {
        (&self.bucket, &self.key)
    }

    /// Bytes of both parts.
    pub fn len(&self) -> usize {
        self.bucket.len() + self.key.len()
    }

    /// Both parts are empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts().cmp(&other.parts())
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl Position {
    /// The partition that holds this place, when the ring has 2^`partition_bits` of them.
    pub fn partition(self, partition_bits: u8) -> PartitionId {
        assert!(partition_bits <= 16, "a ring has at most 65,536 partitions");
        let leading = self.0.checked_shr(128 - u32::from(partition_bits)).unwrap_or(0);
        PartitionId(leading as u32)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.bucket.escape_ascii(), self.key.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_position_is_the_md5_of_bucket_and_key() {
        // md5 of 00 00 00 01 62 6b ("b" and "k", with the bucket's length).
        let position = Name::new("b", "k").position();
        let mut md5 = Md5::new();
        md5.update([0, 0, 0, 1, b'b', b'k']);
        assert_eq!(position.0.to_be_bytes()[..], md5.finalize()[..]);
        assert_ne!(Name::new("ab", "c").position(), Name::new("a", "bc").position());
    }

    #[test]
    fn a_partition_is_the_leading_bits_of_a_position() {
        let position = Position(0xABCD_u128 << 112);
        assert_eq!(position.partition(0), PartitionId(0));
        assert_eq!(position.partition(4), PartitionId(0xA));
        assert_eq!(position.partition(16), PartitionId(0xABCD));
    }
}
