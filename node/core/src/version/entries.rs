//! What an object knows of its actors: a list in their order.
//!
//! Most objects have one to three actors, and are copied at every step of every request: a list is one small block where a map
//! would be a large one. Objects with more are still found fast enough; N actors are usual, and those that moved away are pruned
//! ([`crate::reaping`]).

use super::{Actor, Entry};

/// Entries in the order of their actors, each actor once.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Entries(Vec<(Actor, Entry)>);

impl Entries {
    /// Takes what is in order already.
    pub(super) fn in_order(entries: Vec<(Actor, Entry)>) -> Self {
        assert!(entries.is_sorted_by(|(one, _), (next, _)| one < next), "entries are in the order of their actors");
        Self(entries)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn at(&self, actor: &Actor) -> Result<usize, usize> {
        self.0.binary_search_by_key(actor, |(known, _)| *known)
    }

    pub(super) fn get(&self, actor: &Actor) -> Option<&Entry> {
        self.at(actor).ok().map(|at| &self.0[at].1)
    }

    /// The actor's entry, made if there is none.
    pub(super) fn entry(&mut self, actor: Actor) -> &mut Entry {
        let at = self.at(&actor).unwrap_or_else(|at| {
            self.0.insert(at, (actor, Entry::default()));
            at
        });
        &mut self.0[at].1
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (&Actor, &Entry)> + Clone {
        self.0.iter().map(|(actor, entry)| (actor, entry))
    }
}
