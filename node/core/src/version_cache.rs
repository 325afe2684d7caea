//! The causal part of recently used objects, so that a write need not read what it replaces (design 4).
//!
//! Most writes supersede all that is there, and to see that takes the history and not the values. The cache is bounded by
//! entries and evicts the oldest; a miss costs one read and nothing else. It holds what the storage holds, always: it is
//! changed by the same function that writes.

use std::collections::{BTreeMap, VecDeque};

use crate::name::Name;
use crate::version::{Digest, Object};

/// Histories kept: at about 150 bytes each, some 20 MB; and up to 500 more where writes have request ids.
pub const ENTRIES_MAX: usize = 1 << 17;

/// The cache.
#[derive(Clone, Debug, Default)]
pub struct VersionCache {
    entries: BTreeMap<Name, (Object, Digest)>,
    order: VecDeque<Name>,
}

impl VersionCache {
    /// The history of `name` and its digest, if it is here.
    pub fn get(&self, name: &Name) -> Option<&(Object, Digest)> {
        self.entries.get(name)
    }

    /// The history of `name` is now this.
    pub fn put(&mut self, name: &Name, history: Object, digest: Digest) {
        if self.entries.insert(name.clone(), (history, digest)).is_none() {
            self.order.push_back(name.clone());
            if self.order.len() > ENTRIES_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.entries.remove(&oldest);
            }
        }
    }

    /// Forgets everything, after copies were dropped.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.order.clear();
    }
}
