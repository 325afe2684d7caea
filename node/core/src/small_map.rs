//! A map of few entries: a list in the order of its keys.
//!
//! Most objects have one to three actors and most requests as many replicas, and every step of every request looks into them. Up to
//! `FEW` entries lie within the map itself, so such a map is made, copied and dropped without any memory of its own; beyond that it
//! is one block. Its order is that of a [`BTreeMap`](std::collections::BTreeMap), so a replay is the same whatever its size.

use smallvec::SmallVec;

/// Entries in the order of their keys, each key once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SmallMap<K, V, const FEW: usize>(SmallVec<[(K, V); FEW]>);

impl<K, V, const FEW: usize> Default for SmallMap<K, V, FEW> {
    fn default() -> Self {
        Self(SmallVec::new())
    }
}

impl<K: Ord + Copy, V, const FEW: usize> SmallMap<K, V, FEW> {
    /// Takes what is in order already.
    pub fn in_order(entries: impl IntoIterator<Item = (K, V)>) -> Self {
        let entries: SmallVec<_> = entries.into_iter().collect();
        assert!(entries.is_sorted_by(|(one, _), (next, _)| one < next), "entries are in the order of their keys");
        Self(entries)
    }

    /// Nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    fn at(&self, key: &K) -> Result<usize, usize> {
        self.0.binary_search_by_key(key, |(known, _)| *known)
    }

    /// What lies under `key`.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.at(key).ok().map(|at| &self.0[at].1)
    }

    /// What lies under `key`, to be changed.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.at(key).ok().map(|at| &mut self.0[at].1)
    }

    /// Something lies under `key`.
    pub fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// What lies under `key`, which is `make`'s if there was nothing.
    pub fn get_or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        let at = self.at(&key).unwrap_or_else(|at| {
            self.0.insert(at, (key, make()));
            at
        });
        &mut self.0[at].1
    }

    /// Puts `value` under `key`, in the place of what this returns.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.at(&key) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].1, value)),
            Err(at) => {
                self.0.insert(at, (key, value));
                None
            }
        }
    }

    /// Takes out what lies under `key`.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.at(key).ok().map(|at| self.0.remove(at).1)
    }

    /// All entries, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&K, &V)> + DoubleEndedIterator + Clone {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// All entries, in order, to be changed.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = (&K, &mut V)> {
        self.0.iter_mut().map(|(key, value)| (&*key, value))
    }

    /// All keys, in order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &K> + DoubleEndedIterator + Clone {
        self.0.iter().map(|(key, _)| key)
    }

    /// What lies under the keys, in their order.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &V> + Clone {
        self.0.iter().map(|(_, value)| value)
    }
}

impl<K: Ord + Copy, V, const FEW: usize> FromIterator<(K, V)> for SmallMap<K, V, FEW> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        for (key, value) in entries {
            map.insert(key, value);
        }
        map
    }
}

impl<K: Ord + Copy, V, const FEW: usize, const COUNT: usize> From<[(K, V); COUNT]> for SmallMap<K, V, FEW> {
    fn from(entries: [(K, V); COUNT]) -> Self {
        entries.into_iter().collect()
    }
}

impl<K, V, const FEW: usize> IntoIterator for SmallMap<K, V, FEW> {
    type Item = (K, V);
    type IntoIter = smallvec::IntoIter<[(K, V); FEW]>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::random::Random;

    #[test]
    fn it_says_what_a_tree_says_within_its_own_room_and_beyond() {
        let mut random = Random::new(7);
        let (mut small, mut tree) = (SmallMap::<u64, u64, 3>::default(), BTreeMap::new());
        for step in 0..10_000 {
            let key = random.next_u64() % 8;
            match random.below(4) {
                0 => assert_eq!(small.remove(&key), tree.remove(&key)),
                1 => assert_eq!(small.insert(key, step), tree.insert(key, step)),
                2 => assert_eq!(small.get_or_insert_with(key, || step), tree.entry(key).or_insert(step)),
                _ => assert_eq!(small.get_mut(&key), tree.get_mut(&key)),
            }
            assert_eq!(small.contains_key(&key), tree.contains_key(&key));
            assert!(small.iter().eq(tree.iter()), "{small:?} {tree:?}");
        }
        assert_eq!(SmallMap::<u64, u64, 3>::in_order(tree.clone()), tree.into_iter().rev().collect());
    }
}
