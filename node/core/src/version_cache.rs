//! The causal part of recently used objects, so that a write need not read what it replaces.
//!
//! Most writes supersede all that is there, and to see that takes the history and not the values. The cache is bounded by
//! entries; a miss costs one read and nothing else. It holds what the storage holds, always: it is changed by the same function
//! that writes, and filled by what was read there.
//!
//! ```text
//! position ──its low bits──> set: up to 8 positions ──> entries, the newest name last; a ninth takes the place of the first
//! ```
//!
//! A look into a large cache costs what it waits for memory: the line of the positions, the entry that one of them names, and the
//! history. So positions lie in the set and names in the entry, and neither behind a further pointer.
//!
//! Positions are MD5 sums, so their bits spread entries over the sets as well as a hash would, and the same in every run. MD5 can
//! be made to collide on purpose, so an entry says whose it is, and the other name of its position is a miss. Names are copied in:
//! the ones that requests carry are pieces of the frames they came in, and would keep those in memory.

use std::collections::BTreeSet;

use smallvec::SmallVec;

use crate::id::PartitionId;
use crate::name::{Name, Position};
use crate::version::{Digest, Object};

/// Entries of a set: a look costs two lines of positions and the entry.
const SET_ENTRIES_MAX: usize = 8;
/// Longer names lie apart.
const SHORT_NAME_BYTES: usize = 48;
/// Sets at first.
const SETS_MIN: usize = 16;
/// Entries for each set on average, from which on there are twice as many sets.
const FULL: usize = 4;

#[derive(Clone, Debug)]
struct Entry {
    /// Bucket and key, one after the other.
    name: SmallVec<[u8; SHORT_NAME_BYTES]>,
    bucket_bytes: u32,
    known: (Object, Digest),
}

impl Entry {
    fn is_of(&self, name: &Name) -> bool {
        let (bucket, key) = self.name.split_at(self.bucket_bytes as usize);
        name.bucket == bucket && name.key == key
    }
}

/// Entries by position, the oldest first.
#[derive(Clone, Debug, Default)]
struct Set {
    positions: SmallVec<[Position; SET_ENTRIES_MAX]>,
    entries: SmallVec<[Box<Entry>; SET_ENTRIES_MAX]>,
}

impl Set {
    fn at(&self, position: Position) -> Option<usize> {
        self.positions.iter().position(|known| *known == position)
    }

    fn push(&mut self, position: Position, entry: Box<Entry>) {
        if self.positions.len() == SET_ENTRIES_MAX {
            self.positions.remove(0);
            self.entries.remove(0);
        }
        self.positions.push(position);
        self.entries.push(entry);
    }
}

/// Where copies were dropped: pieces of the space of positions, of which there are 2^`bits`.
#[derive(Clone, Debug, Default)]
struct Gone {
    bits: u8,
    pieces: BTreeSet<PartitionId>,
}

impl Gone {
    fn has(&self, position: Position) -> bool {
        !self.pieces.is_empty() && self.pieces.contains(&position.partition(self.bits))
    }
}

/// The cache.
#[derive(Clone, Debug)]
pub struct VersionCache {
    /// None, or a power of two of them.
    sets: Vec<Set>,
    sets_max: usize,
    len: usize,
    /// What lies there is not found any more, and its place is free with the next sweep.
    gone: Gone,
    sweeps: u64,
}

impl VersionCache {
    /// A cache of so many histories at most, rounded down to a power of two: at some 300 bytes each, and up to 500 more where writes
    /// have request ids. Its smallest size is one set.
    pub fn new(entries_max: usize) -> Self {
        let sets_max = 1 << (entries_max / SET_ENTRIES_MAX).max(1).ilog2();
        Self { sets: Vec::new(), sets_max, len: 0, gone: Gone::default(), sweeps: 0 }
    }

    /// The history of `name` and its digest, if it is here.
    pub fn get(&self, name: &Name) -> Option<&(Object, Digest)> {
        let position = name.position();
        if self.gone.has(position) {
            return None;
        }
        let set = self.sets.get(set_of(position, self.sets.len()))?;
        set.at(position).map(|at| &set.entries[at]).filter(|entry| entry.is_of(name)).map(|entry| &entry.known)
    }

    /// The history of `name` is now this.
    pub fn put(&mut self, name: &Name, history: Object, digest: Digest) {
        if self.gone.has(name.position()) {
            self.sweep();
        }
        if self.len >= self.sets.len() * FULL && self.sets.len() < self.sets_max {
            self.grow();
        }
        let position = name.position();
        let at = set_of(position, self.sets.len());
        let set = &mut self.sets[at];
        let known = (history, digest);
        match set.at(position) {
            Some(at) if set.entries[at].is_of(name) => set.entries[at].known = known,
            Some(at) => set.entries[at] = entry(name, known),
            None => {
                self.len += usize::from(set.positions.len() < SET_ENTRIES_MAX);
                set.push(position, entry(name, known));
            }
        }
    }

    /// Forgets the names in one of 2^`bits` pieces of the space of positions, after a copy was dropped: at once, though their places are
    /// free with the next [`VersionCache::sweep`] only.
    pub fn forget(&mut self, bits: u8, piece: PartitionId) {
        if self.gone.bits != bits {
            self.sweep();
            self.gone.bits = bits;
        }
        self.gone.pieces.insert(piece);
    }

    /// Frees the places of all that was forgotten since the last sweep. A position costs a comparison, so many dropped copies have one
    /// sweep together; what is kept goes on saving reads.
    pub fn sweep(&mut self) {
        if self.gone.pieces.is_empty() {
            return;
        }
        self.sweeps += 1;
        for set in &mut self.sets {
            for at in (0..set.positions.len()).rev() {
                if self.gone.has(set.positions[at]) {
                    set.positions.remove(at);
                    set.entries.remove(at);
                    self.len -= 1;
                }
            }
        }
        self.gone.pieces.clear();
    }

    /// How often the whole cache was swept.
    pub fn sweeps(&self) -> u64 {
        self.sweeps
    }

    fn grow(&mut self) {
        let count = (self.sets.len() * 2).max(SETS_MIN).min(self.sets_max);
        let mut sets = vec![Set::default(); count];
        for set in std::mem::take(&mut self.sets) {
            for (position, entry) in set.positions.into_iter().zip(set.entries) {
                sets[set_of(position, count)].push(position, entry);
            }
        }
        self.sets = sets;
    }
}

/// Which of `count` sets, a power of two, a position belongs to. Its leading bits are its partition's, so the low ones decide.
fn set_of(position: Position, count: usize) -> usize {
    position.0 as usize & count.wrapping_sub(1)
}

fn entry(name: &Name, known: (Object, Digest)) -> Box<Entry> {
    let mut copied = SmallVec::with_capacity(name.bucket.len() + name.key.len());
    copied.extend_from_slice(&name.bucket);
    copied.extend_from_slice(&name.key);
    Box::new(Entry { name: copied, bucket_bytes: name.bucket.len() as u32, known })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Far more than most tests put in.
    const ENTRIES_MAX: usize = 1 << 14;

    fn digest(of: u8) -> Digest {
        Digest([of; 16])
    }

    #[test]
    fn the_last_word_on_a_name_is_found_and_no_other_name_s() {
        let mut cache = VersionCache::new(ENTRIES_MAX);
        let (one, other) = (Name::new("b", "one"), Name::new("b", "other"));
        cache.put(&one, Object::default(), digest(1));
        cache.put(&one, Object::default(), digest(2));
        assert_eq!(cache.get(&one).map(|known| known.1), Some(digest(2)));
        assert_eq!(cache.get(&other), None);
    }

    #[test]
    fn what_lies_elsewhere_outlives_a_dropped_copy() {
        let mut cache = VersionCache::new(ENTRIES_MAX);
        let names: Vec<Name> = (0..1_000).map(|number: u32| Name::new("b", number.to_string())).collect();
        names.iter().for_each(|name| cache.put(name, Object::default(), digest(1)));
        let held = |cache: &VersionCache| names.iter().filter(|name| cache.get(name).is_some()).cloned().collect::<Vec<_>>();
        let gone = |name: &Name| name.position().partition(2).0 == 3;
        let mut kept = held(&cache);
        kept.retain(|name| !gone(name));
        cache.forget(2, PartitionId(3));
        assert_eq!(held(&cache), kept, "at once");
        cache.sweep();
        assert_eq!(held(&cache), kept);
        assert_eq!((kept.len(), kept.len() > 500), (cache.len, true));
        names.iter().filter(|name| gone(name)).for_each(|name| cache.put(name, Object::default(), digest(2)));
        assert!(held(&cache).len() > kept.len(), "their places are free");
    }

    #[test]
    fn many_dropped_copies_have_one_sweep_and_what_comes_back_before_it_stays() {
        let mut cache = VersionCache::new(ENTRIES_MAX);
        let names: Vec<Name> = (0..1_000).map(|number: u32| Name::new("b", number.to_string())).collect();
        names.iter().for_each(|name| cache.put(name, Object::default(), digest(1)));
        (0..64).for_each(|piece| cache.forget(6, PartitionId(piece)));
        assert!(names.iter().all(|name| cache.get(name).is_none()));
        assert_eq!(cache.sweeps(), 0);
        cache.put(&names[0], Object::default(), digest(2));
        assert_eq!((cache.sweeps(), cache.len), (1, 1), "its place is free");
        cache.sweep();
        assert_eq!(
            (cache.sweeps(), cache.get(&names[0]).map(|known| known.1)),
            (1, Some(digest(2))),
            "nothing was left to sweep"
        );
    }

    #[test]
    fn a_name_that_shares_another_one_s_position_is_a_miss() {
        let mut cache = VersionCache::new(ENTRIES_MAX);
        let (one, other) = (Name::new("b", "one"), Name::new("b", "other"));
        cache.put(&one, Object::default(), digest(1));
        for set in cache.sets.iter_mut() {
            set.positions.iter_mut().for_each(|position| *position = other.position());
        }
        cache.sets.rotate_left(set_of(one.position(), SETS_MIN));
        cache.sets.rotate_right(set_of(other.position(), SETS_MIN));
        assert_eq!(cache.get(&other), None, "as if the two had one MD5");
        cache.put(&other, Object::default(), digest(3));
        assert_eq!(cache.get(&other).map(|known| known.1), Some(digest(3)));
    }

    #[test]
    fn it_grows_with_what_it_holds_and_up_to_its_bound() {
        let mut cache = VersionCache::new(ENTRIES_MAX);
        let name = |number: usize| Name::new("b", number.to_string());
        let held = |cache: &VersionCache, upto: usize| (0..upto).filter(|number| cache.get(&name(*number)).is_some()).count();
        (0..1_000).for_each(|number| cache.put(&name(number), Object::default(), digest(1)));
        assert!(held(&cache, 1_000) > 950, "few of a thousand are pushed out: {}", held(&cache, 1_000));
        let many = 2 * ENTRIES_MAX;
        (0..many).for_each(|number| cache.put(&name(number), Object::default(), digest(2)));
        let (all, newest) = (held(&cache, many), cache.get(&name(many - 1)).is_some());
        assert!(newest && all <= ENTRIES_MAX && all > ENTRIES_MAX * 9 / 10, "{all}");
        assert_eq!(all, cache.len);
    }

    #[test]
    fn the_smallest_cache_holds_a_set_and_others_the_power_of_two_below() {
        for (entries_max, held) in [(0, 8), (1, 8), (8, 8), (15, 8), (16, 16), (31, 16), (100, 64)] {
            let mut cache = VersionCache::new(entries_max);
            (0..1_000).for_each(|number: u32| cache.put(&Name::new("b", number.to_string()), Object::default(), digest(1)));
            assert_eq!(cache.len, held, "{entries_max}");
        }
    }
}
