//! A witness of every state that any disk ever held: it knows which dot names which write.
//!
//! Invariants that no client could see are checked here, at the moment of the write: a dot has one value, ever (I4), and a copy
//! only moves up in the order of histories (I6).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use dynamo_core::id::{Epoch, NodeId, PartitionId};
use dynamo_core::name::Name;
use dynamo_core::recent_writes::{REMEMBERED_MAX, RecentWrite};
use dynamo_core::time::Instant;
use dynamo_core::version::{CausalContext, Dot, Object};

use crate::checkers::creates::MadeBeside;

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

/// Writes of one object that were stored under more than one dot: the retry came to a node that did not know the first attempt.
#[derive(Clone, Debug, Default)]
pub struct Doubled {
    /// Every state that has seen one of their dots knows that it is theirs.
    pub remembered: BTreeSet<WriteId>,
    /// There may be states that do not.
    pub forgotten: BTreeSet<WriteId>,
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
/// What decides where the last writer wins: the time that a coordinator wrote beside a version, then its dot.
pub type Stamp = (u64, Dot);

/// What was seen.
#[derive(Debug, Default)]
pub struct Witness {
    /// The present.
    pub now: Instant,
    dots: BTreeMap<Dot, (Name, Option<Bytes>)>,
    writes: BTreeMap<WriteId, Vec<Dot>>,
    /// Which delete made which tombstone, of those that clients were told.
    deletes: BTreeMap<Dot, WriteId>,
    /// Values of a name that no tombstone has superseded yet, as far as was seen.
    unburied: BTreeMap<Name, Vec<Dot>>,
    /// Those that one has.
    buried: BTreeSet<Dot>,
    /// Writes that their clients send once.
    once: BTreeSet<WriteId>,
    /// Creates where siblings are kept.
    creates: BTreeSet<WriteId>,
    /// Writes that have their request id in common with another of their key, and may hide each other.
    alike: BTreeSet<WriteId>,
    /// Those that were seen first beside another value, until somebody takes them.
    made: Vec<MadeBeside>,
    doubled: BTreeMap<Name, BTreeSet<WriteId>>,
    /// Every write with a request id, in the order in which they are forgotten.
    recent: BTreeMap<Name, BTreeSet<RecentWrite>>,
    /// The lowest and the highest stamp of each write.
    stamps: BTreeMap<WriteId, (Stamp, Stamp)>,
    /// The highest stamp of any tombstone of a name.
    tombstones: BTreeMap<Name, Stamp>,
    /// Acknowledged writes, with the copies on stable storage that each acknowledgement rests on.
    acknowledged: BTreeMap<WriteId, Acknowledged>,
    /// The same, by partition.
    in_partition: BTreeMap<PartitionId, Vec<WriteId>>,
    /// What tombstones had seen that were removed after every replica had them.
    reaped: BTreeMap<Name, CausalContext>,
    /// What was wrong, until somebody takes it.
    complaints: Vec<(&'static str, String)>,
}

impl Witness {
    /// `object` is written somewhere: the writes that are live in it.
    pub fn saw(&mut self, name: &Name, object: &Object) -> Vec<WriteId> {
        let mut writes = Vec::new();
        self.made.extend(self.made_in(name, object));
        if !object.recent().is_empty() {
            self.recent.entry(name.clone()).or_default().extend(object.recent().iter());
        }
        for (dot, value) in object.values() {
            let id = value.data.as_deref().and_then(WriteId::of);
            writes.extend(id);
            match self.dots.get(&dot) {
                None => {
                    self.dots.insert(dot, (name.clone(), value.data.clone()));
                    match id {
                        Some(_) => self.unburied.entry(name.clone()).or_default().push(dot),
                        None => self.bury(name, object),
                    }
                    self.note_stamp(name, id, (value.written_ms, dot));
                    if let Some(id) = id {
                        let dots = self.writes.entry(id).or_default();
                        dots.push(dot);
                        if dots.len() > 1 {
                            if self.once.contains(&id) {
                                let what = format!("{id:?} of {name:?} was sent once, and is {dots:?}");
                                self.complaints.push(("I5 a write is made once", what));
                            }
                            self.doubled.entry(name.clone()).or_default().insert(id);
                        }
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

    /// A tombstone is seen for the first time: what it supersedes was seen before.
    fn bury(&mut self, name: &Name, tombstone: &Object) {
        let Some(unburied) = self.unburied.get_mut(name) else { return };
        let live = |dot: Dot| tombstone.values().any(|(other, _)| other == dot);
        let below = |dot: &mut Dot| tombstone.has_seen(*dot) && !live(*dot);
        self.buried.extend(unburied.extract_if(.., below));
    }

    /// Whether any disk ever held a tombstone that supersedes `write`.
    pub fn is_buried(&self, write: WriteId) -> bool {
        self.dots_of(write).iter().any(|dot| self.buried.contains(dot))
    }

    /// The client of `write` will send it once only.
    pub fn sent_once(&mut self, write: WriteId) {
        self.once.insert(write);
    }

    /// These writes of one key have one request id.
    pub fn share_an_id(&mut self, writes: &BTreeSet<WriteId>) {
        self.alike.extend(writes);
    }

    /// `write` is a create where siblings are kept.
    pub fn creates(&mut self, write: WriteId) {
        self.creates.insert(write);
    }

    /// Creates in `object` that nobody has seen yet, and a value beside each. A write that was made twice may be hidden before the create
    /// and shown after it: the create's request id takes the place of its own among those that the object remembers.
    pub fn made_in(&self, name: &Name, object: &Object) -> Vec<MadeBeside> {
        let ids = |dot, data: Option<&Bytes>| Some((dot, WriteId::of(data?)?));
        let versions = object.values().filter(|(dot, _)| !self.dots.contains_key(dot));
        let new = versions.filter_map(|(dot, value)| ids(dot, value.data.as_ref())).filter(|(_, id)| self.creates.contains(id));
        let beside = |create| {
            let mut values = object.siblings().filter_map(|(data, _)| WriteId::of(data));
            values.find(|value| *value != create && self.dots_of(*value).len() <= 1 && !self.alike.contains(value))
        };
        new.filter_map(|(dot, create)| Some(MadeBeside { name: name.clone(), dot, create, value: beside(create)? })).collect()
    }

    /// Creates that were seen first beside another value, since the last look.
    pub fn take_made(&mut self) -> Vec<MadeBeside> {
        std::mem::take(&mut self.made)
    }

    /// A client was told that its delete made the tombstone of this dot. False if there is no such tombstone.
    pub fn deleted(&mut self, name: &Name, write: WriteId, dot: Dot) -> bool {
        if self.dots.get(&dot).is_none_or(|(known, data)| known != name || data.is_some()) {
            return false;
        }
        match self.deletes.insert(dot, write) {
            None => self.writes.entry(write).or_default().push(dot),
            Some(other) if other == write => {}
            Some(other) => {
                let what = format!("{dot:?} of {name:?} is the tombstone of {other:?} and of {write:?}");
                self.complaints.push(("I4 dot uniqueness", what));
            }
        }
        true
    }

    fn note_stamp(&mut self, name: &Name, write: Option<WriteId>, stamp: Stamp) {
        if let Some(write) = write {
            let (lowest, highest) = self.stamps.entry(write).or_insert((stamp, stamp));
            (*lowest, *highest) = (stamp.min(*lowest), stamp.max(*highest));
        } else {
            let highest = self.tombstones.entry(name.clone()).or_insert(stamp);
            *highest = stamp.max(*highest);
        }
    }

    /// The lowest and the highest stamp under which `write` was stored, if it ever was.
    pub fn stamps_of(&self, write: WriteId) -> Option<(Stamp, Stamp)> {
        self.stamps.get(&write).copied()
    }

    /// The highest stamp of any tombstone of `name`.
    pub fn tombstone_of(&self, name: &Name) -> Option<Stamp> {
        self.tombstones.get(name).copied()
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

    /// All acknowledged writes.
    pub fn acknowledgements(&self) -> impl Iterator<Item = (WriteId, &Acknowledged)> {
        self.acknowledged.iter().map(|(write, acknowledged)| (*write, acknowledged))
    }

    /// Acknowledged writes of a partition.
    pub fn acknowledged_in(&self, partition: PartitionId) -> impl Iterator<Item = (WriteId, &Acknowledged)> {
        let writes = self.in_partition.get(&partition).into_iter().flatten();
        writes.filter_map(|write| Some((*write, self.acknowledged.get(write)?)))
    }

    /// The copies that must be there of what `dot` names.
    pub fn copies_of(&self, dot: Dot) -> usize {
        self.write_of(dot).and_then(|write| self.acknowledged.get(&write)).map_or(0, |acknowledged| acknowledged.copies)
    }

    /// The write that `dot` names; of a tombstone, if the client of its delete was told.
    pub fn write_of(&self, dot: Dot) -> Option<WriteId> {
        let of_value = self.dots.get(&dot).and_then(|(_, data)| data.as_deref().and_then(WriteId::of));
        of_value.or_else(|| self.deletes.get(&dot).copied())
    }

    /// The dots under which `write` was stored: more than one if it was coordinated more than once.
    pub fn dots_of(&self, write: WriteId) -> &[Dot] {
        self.writes.get(&write).map_or(&[], Vec::as_slice)
    }

    /// The object that `dot` is a version of.
    pub fn name_of(&self, dot: Dot) -> Option<&Name> {
        self.dots.get(&dot).map(|(name, _)| name)
    }

    /// The dots that name the same write as this one, itself included.
    pub fn same_write(&self, dot: Dot) -> Vec<Dot> {
        self.write_of(dot).map_or_else(|| vec![dot], |write| self.dots_of(write).to_vec())
    }

    /// The writes of `name` that have more than one dot.
    pub fn doubled(&self, name: &Name) -> Doubled {
        let mut doubled = Doubled::default();
        let Some(writes) = self.doubled.get(name) else { return doubled };
        let recent = self.recent.get(name);
        let last: BTreeSet<Dot> =
            recent.into_iter().flat_map(|all| all.iter().rev().take(REMEMBERED_MAX)).map(|write| write.dot).collect();
        for write in writes.iter().filter(|write| !self.once.contains(write)) {
            let reaped = self.dots_of(*write).iter().any(|dot| self.is_reaped(name, *dot));
            let remembered = !reaped && self.dots_of(*write).iter().all(|dot| last.contains(dot));
            if remembered { &mut doubled.remembered } else { &mut doubled.forgotten }.insert(*write);
        }
        doubled
    }

    /// The tombstones of `name` that have seen this were removed, rightly.
    pub fn reaped(&mut self, name: &Name, seen: &CausalContext) {
        self.reaped.entry(name.clone()).or_default().join(seen);
    }

    /// Whether `dot` of `name` is superseded by a tombstone that was reaped.
    pub fn is_reaped(&self, name: &Name, dot: Dot) -> bool {
        self.reaped.get(name).is_some_and(|seen| seen.covers(dot))
    }

    /// Something is wrong.
    pub fn complain(&mut self, invariant: &'static str, what: String) {
        self.complaints.push((invariant, what));
    }

    /// What was wrong since the last look.
    pub fn take_complaints(&mut self) -> Vec<(&'static str, String)> {
        std::mem::take(&mut self.complaints)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_core::id::Incarnation;
    use dynamo_core::version::{Actor, Value};

    fn dot(counter: u64) -> Dot {
        Dot { actor: Actor { node: NodeId([1; 16]), incarnation: Incarnation(1) }, counter }
    }

    /// `object` with one more version, made by who had seen `seen`.
    fn updated(object: &Object, seen: &CausalContext, counter: u64, data: Option<Bytes>) -> Object {
        let mut object = object.clone();
        object.update(seen, dot(counter), Value { data, written_ms: counter });
        object
    }

    #[test]
    fn a_write_that_was_sent_once_has_one_dot_and_is_never_forgiven_another() {
        for once in [true, false] {
            let (mut witness, name, write) = (Witness::default(), Name::new("b", "k"), WriteId(7));
            if once {
                witness.sent_once(write);
            }
            let first = updated(&Object::default(), &CausalContext::default(), 1, Some(write.value()));
            witness.saw(&name, &first);
            witness.saw(&name, &first);
            assert_eq!(witness.take_complaints(), []);
            witness.saw(&name, &updated(&first, &CausalContext::default(), 2, Some(write.value())));
            let complaints: Vec<_> = witness.take_complaints().into_iter().map(|(invariant, _)| invariant).collect();
            assert_eq!(complaints, if once { vec!["I5 a write is made once"] } else { vec![] });
            assert_eq!(witness.doubled(&name).forgotten.contains(&write), !once);
        }
    }

    #[test]
    fn a_dot_with_two_values_and_a_state_that_shrinks_are_found() {
        let (mut witness, name) = (Witness::default(), Name::new("b", "k"));
        let none = CausalContext::default();
        let one = |write: WriteId| updated(&Object::default(), &none, 1, Some(write.value()));
        let found =
            |witness: &mut Witness| witness.take_complaints().into_iter().map(|(invariant, _)| invariant).collect::<Vec<_>>();
        for (at, object, complaints) in [
            (&name, one(WriteId(1)), vec![]),
            (&name, one(WriteId(1)), vec![]),
            (&name, one(WriteId(2)), vec!["I4 dot uniqueness"]),
            (&Name::new("b", "other"), one(WriteId(1)), vec!["I4 dot uniqueness"]),
        ] {
            witness.saw(at, &object);
            assert_eq!(found(&mut witness), complaints);
        }
        let (less, more) = (one(WriteId(1)), updated(&one(WriteId(1)), &none, 2, Some(WriteId(2).value())));
        for (before, after, complaints) in [
            (None, &less, vec![]),
            (Some(&less), &more, vec![]),
            (Some(&more), &more, vec![]),
            (Some(&more), &less, vec!["I6 states only grow"]),
        ] {
            witness.replaced(&name, before, after);
            assert_eq!(found(&mut witness), complaints);
        }
    }

    #[test]
    fn a_tombstone_buries_what_it_supersedes_and_belongs_to_one_delete() {
        let (mut witness, name) = (Witness::default(), Name::new("b", "k"));
        let first = updated(&Object::default(), &CausalContext::default(), 1, Some(WriteId(1).value()));
        witness.saw(&name, &first);
        let both = updated(&first, &CausalContext::default(), 2, Some(WriteId(2).value()));
        witness.saw(&name, &both);
        let deleted = updated(&both, &first.context(), 3, None);
        witness.saw(&name, &deleted);
        assert!(witness.is_buried(WriteId(1)));
        assert!(!witness.is_buried(WriteId(2)), "it is live beside the tombstone");
        assert!(!witness.deleted(&name, WriteId(3), dot(9)), "there is no such tombstone");
        assert!(!witness.deleted(&name, WriteId(3), dot(2)), "it is a value");
        for (write, complaints) in [(WriteId(3), 0), (WriteId(3), 0), (WriteId(4), 1)] {
            assert!(witness.deleted(&name, write, dot(3)));
            assert_eq!(witness.take_complaints().len(), complaints, "{write:?}");
        }
        assert_eq!(witness.dots_of(WriteId(3)), [dot(3)]);
    }
}
