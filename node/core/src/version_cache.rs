//! The causal part of recently used objects, so that a write need not read what it replaces (design 4).
//!
//! Most writes supersede all that is there, and to see that takes the history and not the values. The cache is bounded by
//! entries and evicts the oldest; a miss costs one read and nothing else. It holds what the storage holds, always: it is
//! changed by the same function that writes, and filled by what was read there.
//!
//! Entries are found by position. MD5 can be made to collide on purpose, so an entry says whose it is, and the other name of its
//! position is a miss. Names are copied in: the ones that requests carry are pieces of the frames they came in, and would keep
//! those in memory.

use std::collections::{BTreeMap, VecDeque};

use crate::name::{Name, Position};
use crate::version::{Digest, Object};

/// Histories kept: at about 250 bytes each, some 32 MB; and up to 500 more where writes have request ids.
pub const ENTRIES_MAX: usize = 1 << 17;

#[derive(Clone, Debug)]
struct Entry {
    /// Bucket and key, one after the other.
    name: Box<[u8]>,
    bucket_bytes: u32,
    known: (Object, Digest),
}

impl Entry {
    fn is_of(&self, name: &Name) -> bool {
        let (bucket, key) = self.name.split_at(self.bucket_bytes as usize);
        name.bucket == bucket && name.key == key
    }
}

/// The cache.
#[derive(Clone, Debug, Default)]
pub struct VersionCache {
    entries: BTreeMap<Position, Entry>,
    order: VecDeque<Position>,
}

impl VersionCache {
    /// The history of `name` and its digest, if it is here.
    pub fn get(&self, name: &Name) -> Option<&(Object, Digest)> {
        self.entries.get(&name.position()).filter(|entry| entry.is_of(name)).map(|entry| &entry.known)
    }

    /// The history of `name` is now this.
    pub fn put(&mut self, name: &Name, history: Object, digest: Digest) {
        let position = name.position();
        match self.entries.get_mut(&position) {
            Some(entry) if entry.is_of(name) => entry.known = (history, digest),
            known => {
                if known.is_none() {
                    self.order.push_back(position);
                }
                let copied = [name.bucket.as_ref(), name.key.as_ref()].concat().into_boxed_slice();
                let entry = Entry { name: copied, bucket_bytes: name.bucket.len() as u32, known: (history, digest) };
                self.entries.insert(position, entry);
            }
        }
        if self.order.len() > ENTRIES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.entries.remove(&oldest);
        }
    }

    /// Forgets everything, after copies were dropped.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.order.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(of: u8) -> Digest {
        Digest([of; 16])
    }

    #[test]
    fn the_last_word_on_a_name_is_found_and_no_other_name_s() {
        let mut cache = VersionCache::default();
        let (one, other) = (Name::new("b", "one"), Name::new("b", "other"));
        cache.put(&one, Object::default(), digest(1));
        cache.put(&one, Object::default(), digest(2));
        assert_eq!(cache.get(&one).map(|known| known.1), Some(digest(2)));
        assert_eq!(cache.get(&other), None);
        cache.clear();
        assert_eq!(cache.get(&one), None);
    }

    #[test]
    fn a_name_that_shares_another_one_s_position_is_a_miss() {
        let mut cache = VersionCache::default();
        let (one, other) = (Name::new("b", "one"), Name::new("b", "other"));
        cache.put(&one, Object::default(), digest(1));
        let entry = cache.entries.remove(&one.position()).unwrap();
        cache.entries.insert(other.position(), entry);
        assert_eq!(cache.get(&other), None, "as if the two had one MD5");
        cache.put(&other, Object::default(), digest(3));
        assert_eq!(cache.get(&other).map(|known| known.1), Some(digest(3)));
    }

    #[test]
    fn the_oldest_go_first() {
        let mut cache = VersionCache::default();
        let name = |number: usize| Name::new("b", number.to_string());
        (0..=ENTRIES_MAX).for_each(|number| cache.put(&name(number), Object::default(), digest(1)));
        assert_eq!(cache.get(&name(0)), None);
        assert!(cache.get(&name(1)).is_some() && cache.get(&name(ENTRIES_MAX)).is_some());
        assert_eq!(cache.entries.len(), ENTRIES_MAX);
    }
}
