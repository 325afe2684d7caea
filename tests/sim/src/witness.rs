//! A witness of every state that any disk ever held: it knows which dot names which write.
//!
//! Invariants that no client could see are checked here, at the moment of the write: a dot has one value, ever (I4), and a copy
//! only moves up in the order of histories (I6).

use std::collections::BTreeMap;

use bytes::Bytes;
use dynamo_core::name::Name;
use dynamo_core::version::{Dot, Object};

/// The unique number that a written value carries in its first eight bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WriteId(pub u64);

impl WriteId {
    /// The value that carries this number.
    pub fn value(self) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_be_bytes())
    }

    /// The number that `value` carries.
    pub fn of(value: &[u8]) -> Option<Self> {
        Some(Self(u64::from_be_bytes(*value.first_chunk()?)))
    }
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Witness {
    dots: BTreeMap<Dot, (Name, Option<Bytes>)>,
    writes: BTreeMap<WriteId, Vec<Dot>>,
    /// Acknowledged writes, with the copies on stable storage that each acknowledgement rests on.
    acknowledged: BTreeMap<WriteId, usize>,
    /// What was wrong, until somebody takes it.
    complaints: Vec<(&'static str, String)>,
}

impl Witness {
    /// `object` is written somewhere: the writes that are live in it.
    pub fn saw(&mut self, name: &Name, object: &Object) -> Vec<WriteId> {
        let mut writes = Vec::new();
        for (dot, value) in object.values() {
            let id = value.data.as_deref().and_then(WriteId::of);
            writes.extend(id);
            match self.dots.get(&dot) {
                None => {
                    self.dots.insert(dot, (name.clone(), value.data.clone()));
                    if let Some(id) = id {
                        self.writes.entry(id).or_default().push(dot);
                    }
                }
                Some((known, data)) if known == name && *data == value.data => {}
                Some((known, data)) => {
                    let what = format!("{dot:?} is {known:?} = {data:?}, and {name:?} = {:?}", value.data);
                    self.complaints.push(("I4 dot uniqueness", what));
                }
            }
        }
        writes
    }

    /// A copy of `name` becomes `after`.
    pub fn replaced(&mut self, name: &Name, before: Option<&Object>, after: &Object) {
        if before.is_some_and(|before| !after.includes(before)) {
            self.complaints.push(("I6 states only grow", format!("{name:?}: {before:?} was replaced by {after:?}")));
        }
    }

    /// A client was told that `write` has this many copies on stable storage.
    pub fn acknowledged(&mut self, write: WriteId, copies: usize) {
        self.acknowledged.insert(write, copies);
    }

    /// The copies that must be there of what `dot` names.
    pub fn copies_of(&self, dot: Dot) -> usize {
        self.write_of(dot).and_then(|write| self.acknowledged.get(&write)).copied().unwrap_or(0)
    }

    /// The write that `dot` names; none for a tombstone.
    pub fn write_of(&self, dot: Dot) -> Option<WriteId> {
        self.dots.get(&dot).and_then(|(_, data)| data.as_deref().and_then(WriteId::of))
    }

    /// The dots under which `write` was stored: more than one if it was coordinated more than once.
    pub fn dots_of(&self, write: WriteId) -> &[Dot] {
        self.writes.get(&write).map_or(&[], Vec::as_slice)
    }

    /// What was wrong since the last look.
    pub fn take_complaints(&mut self) -> Vec<(&'static str, String)> {
        std::mem::take(&mut self.complaints)
    }
}
