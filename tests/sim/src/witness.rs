//! A witness of every state that any disk ever held: it knows which dot names which write.
//!
//! Invariants that no client could see are checked here, at the moment of the write: a dot has one value, ever (I4), and a copy
//! only moves up in the order of histories (I6).

use std::collections::BTreeMap;

use bytes::Bytes;
use dynamo_core::id::{Epoch, NodeId, PartitionId};
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

/// What an acknowledgement rests on.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    /// Copies on stable storage.
    pub copies: usize,
    /// The object.
    pub name: Name,
    /// Its partition.
    pub partition: PartitionId,
    /// The ring under which it was acknowledged.
    pub epoch: Epoch,
    /// Home replicas under that ring which acknowledged, and have it on stable storage.
    pub homes: Vec<NodeId>,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Witness {
    dots: BTreeMap<Dot, (Name, Option<Bytes>)>,
    writes: BTreeMap<WriteId, Vec<Dot>>,
    /// Acknowledged writes, with the copies on stable storage that each acknowledgement rests on.
    acknowledged: BTreeMap<WriteId, Acknowledged>,
    /// The same, by partition.
    in_partition: BTreeMap<PartitionId, Vec<WriteId>>,
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
    pub fn acknowledged(&mut self, write: WriteId, acknowledged: Acknowledged) {
        self.in_partition.entry(acknowledged.partition).or_default().push(write);
        self.acknowledged.insert(write, acknowledged);
    }

    /// Acknowledged writes of a partition.
    pub fn acknowledged_in(&self, partition: PartitionId) -> impl Iterator<Item = (WriteId, &Acknowledged)> {
        let writes = self.in_partition.get(&partition).into_iter().flatten();
        writes.filter_map(|write| Some((*write, self.acknowledged.get(write)?)))
    }

    /// The copies that must be there of what `dot` names.
    pub fn copies_of(&self, dot: Dot) -> usize {
        let write = self.dots.get(&dot).and_then(|(_, data)| data.as_deref().and_then(WriteId::of));
        write.and_then(|write| self.acknowledged.get(&write)).map_or(0, |acknowledged| acknowledged.copies)
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
