//! What clients did, as they know it: the black box of the checkers (research: I1, I2, I3, I5, I13).
//!
//! Every write has a number of its own as its value, and **covers** exactly the writes that the read returned whose context it
//! carried. From that follows what may be visible, without looking into a context or a node.

use std::collections::{BTreeMap, BTreeSet};

use dynamo_core::name::Name;

use crate::witness::WriteId;

/// What a client was told of a write.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fate {
    /// Nothing yet.
    Pending,
    /// It is acknowledged.
    Ok,
    /// Nothing is visible.
    Failed,
    /// It may or may not become visible.
    Unknown,
}

/// One write.
#[derive(Clone, Debug)]
pub struct Write {
    /// The object.
    pub name: Name,
    /// It made a tombstone.
    pub delete: bool,
    /// What its context covered.
    pub covers: BTreeSet<WriteId>,
    /// Copies on stable storage that its acknowledgement rests on; with none, a power loss may take it.
    pub durable: usize,
    /// Home replicas that had it on stable storage when it was acknowledged.
    pub homes: usize,
    /// What came of it.
    pub fate: Fate,
}

/// Visible writes by object.
pub type Visible = BTreeMap<Name, BTreeSet<WriteId>>;

/// All writes, and all that was read.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    writes: BTreeMap<WriteId, Write>,
    by_name: BTreeMap<Name, Vec<WriteId>>,
    returned: BTreeSet<WriteId>,
}

/// What is violated, and how.
pub type Verdict = Result<(), (&'static str, String)>;

impl Ledger {
    /// A write is about to be sent.
    pub fn begin(&mut self, name: Name, delete: bool, covers: BTreeSet<WriteId>, durable: usize) -> WriteId {
        let id = WriteId(self.writes.len() as u64 + 1);
        self.by_name.entry(name.clone()).or_default().push(id);
        self.writes.insert(id, Write { name, delete, covers, durable, homes: 0, fate: Fate::Pending });
        id
    }

    /// The client was told, or gave up.
    pub fn settle(&mut self, id: WriteId, fate: Fate) {
        if let Some(write) = self.writes.get_mut(&id) {
            write.fate = fate;
        }
    }

    /// One write.
    pub fn get(&self, id: WriteId) -> Option<&Write> {
        self.writes.get(&id)
    }

    /// Every name that was written.
    pub fn names(&self) -> Vec<Name> {
        self.by_name.keys().cloned().collect()
    }

    fn of_name(&self, name: &Name) -> impl DoubleEndedIterator<Item = (WriteId, &Write)> {
        self.by_name.get(name).into_iter().flatten().map(|id| (*id, &self.writes[id]))
    }

    /// A get of `name` returned these values.
    pub fn read<'a>(
        &mut self,
        name: &Name,
        values: impl Iterator<Item = &'a [u8]>,
    ) -> Result<BTreeSet<WriteId>, (&'static str, String)> {
        let mut ids = BTreeSet::new();
        for value in values {
            let write = WriteId::of(value).and_then(|id| self.writes.get(&id).map(|write| (id, write)));
            match write {
                Some((id, write)) if write.name == *name => drop(ids.insert(id)),
                _ => return Err(("I2 no invention", format!("{name:?} returned {value:?}, which nobody wrote to it"))),
            }
        }
        self.mutually_uncovered(name, &ids)?;
        self.returned.extend(&ids);
        Ok(ids)
    }

    /// I5: siblings are concurrent, so none covers another.
    fn mutually_uncovered(&self, name: &Name, ids: &BTreeSet<WriteId>) -> Verdict {
        for id in ids {
            let mut covered = self.writes[id].covers.clone();
            while let Some(lower) = covered.pop_last() {
                if ids.contains(&lower) {
                    return Err((
                        "I5 siblings are concurrent",
                        format!("{name:?} returned {lower:?} beside {id:?}, which covers it"),
                    ));
                }
                covered.extend(&self.writes[&lower].covers);
            }
        }
        Ok(())
    }

    /// Whether `visible` is a possible end of this history.
    pub fn judge(&self, visible: &Visible) -> Verdict {
        self.nothing_failed_is_visible(visible)?;
        self.nothing_is_lost(visible)?;
        self.nothing_is_resurrected(visible)
    }

    fn is_visible(visible: &Visible, id: WriteId, write: &Write) -> bool {
        visible.get(&write.name).is_some_and(|ids| ids.contains(&id))
    }

    /// I13.
    fn nothing_failed_is_visible(&self, visible: &Visible) -> Verdict {
        for (id, write) in self.writes.iter().filter(|(_, write)| write.fate == Fate::Failed) {
            if self.returned.contains(id) || Self::is_visible(visible, *id, write) {
                let what = format!("{id:?} of {:?} failed with nothing visible, and was returned by a get", write.name);
                return Err(("I13 honest outcomes", what));
            }
        }
        Ok(())
    }

    /// I1: an acknowledged write is visible, or some write that took effect covers it. A write took effect if it is visible, is a
    /// delete, or is covered in turn by one that took effect; covers point to earlier writes, so one walk back is enough.
    fn nothing_is_lost(&self, visible: &Visible) -> Verdict {
        let mut superseded = BTreeSet::<WriteId>::new();
        for (id, write) in self.writes.iter().rev().filter(|(_, write)| write.fate != Fate::Failed) {
            let effective = write.delete || superseded.contains(id) || Self::is_visible(visible, *id, write);
            if effective {
                superseded.extend(&write.covers);
            } else if write.fate == Fate::Ok && write.durable > 0 {
                let what = format!("{id:?} of {:?} was acknowledged; visible is {:?}", write.name, visible.get(&write.name));
                return Err(("I1 no lost acknowledged write", what));
            }
        }
        Ok(())
    }

    /// So many home replicas have an acknowledged write on stable storage.
    pub fn found_at(&mut self, id: WriteId, homes: usize) {
        if let Some(write) = self.writes.get_mut(&id) {
            write.homes = homes;
        }
    }

    /// Disks were lost: `copies` says how many of a write's were at once. The promise holds for a write whose acknowledgement rests on
    /// more; and of those, a read meets the ones that more home replicas had.
    pub fn lose(&mut self, copies: impl Fn(WriteId) -> usize) {
        for id in self.writes.keys().copied().collect::<Vec<_>>() {
            self.lose_of(id, copies(id));
        }
    }

    /// The same for one write.
    pub fn lose_of(&mut self, id: WriteId, copies: usize) {
        let Some(write) = self.writes.get_mut(&id).filter(|_| copies > 0) else { return };
        if copies >= write.durable {
            write.durable = 0;
        }
        if copies >= write.homes {
            write.homes = 0;
        }
    }

    /// Acknowledged writes of `name` that at least so many home replicas had on stable storage.
    pub fn held_by(&self, name: &Name, homes: usize) -> BTreeSet<WriteId> {
        let held = |write: &Write| write.fate == Fate::Ok && !write.delete && write.homes >= homes;
        self.of_name(name).filter(|(_, write)| held(write)).map(|(id, _)| id).collect()
    }

    /// Quorums that overlap: a read that `returned` these writes meets each of `earlier`, or what covers it.
    pub fn meets(&self, name: &Name, returned: &BTreeSet<WriteId>, earlier: &BTreeSet<WriteId>) -> Verdict {
        let mut superseded = BTreeSet::<WriteId>::new();
        for (id, write) in self.of_name(name).rev().filter(|(_, write)| write.fate != Fate::Failed) {
            if write.delete || superseded.contains(&id) || returned.contains(&id) {
                superseded.extend(&write.covers);
            } else if earlier.contains(&id) {
                let what = format!(
                    "{name:?} returned {returned:?} without {id:?}, which too many home replicas have for this quorum to miss it"
                );
                return Err(("R + W > N", what));
            }
        }
        Ok(())
    }

    /// I3: what an acknowledged write covers, and what that had covered, stays invisible.
    fn nothing_is_resurrected(&self, visible: &Visible) -> Verdict {
        let mut covered = BTreeMap::new();
        for (id, write) in self.writes.iter().rev() {
            let acknowledged = write.fate == Fate::Ok && write.durable > 0;
            if acknowledged || covered.contains_key(id) {
                covered.extend(write.covers.iter().map(|lower| (*lower, *id)));
            }
            if let Some(by) = covered.get(id)
                && Self::is_visible(visible, *id, write)
            {
                return Err(("I3 no resurrection", format!("{id:?} of {:?} is visible, and {by:?} covers it", write.name)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(writes: &[(&[u64], Fate)]) -> Ledger {
        let mut ledger = Ledger::default();
        for (covers, fate) in writes {
            let id = ledger.begin(Name::new("b", "k"), false, covers.iter().map(|id| WriteId(*id)).collect(), 1);
            ledger.settle(id, *fate);
        }
        ledger
    }

    #[test]
    fn the_verdict_follows_from_what_covers_what() {
        use Fate::{Failed, Ok, Unknown};
        type Writes<'a> = &'a [(&'a [u64], Fate)];
        let cases: [(&str, Writes, &[u64], Option<&str>); 9] = [
            ("one write, visible", &[(&[], Ok)], &[1], None),
            ("one write, lost", &[(&[], Ok)], &[], Some("I1")),
            ("an unknown write may vanish", &[(&[], Unknown)], &[], None),
            ("superseded", &[(&[], Ok), (&[1], Ok)], &[2], None),
            ("superseded by one that may have happened", &[(&[], Ok), (&[1], Unknown)], &[2], None),
            ("superseded by one that did not happen", &[(&[], Ok), (&[1], Unknown)], &[], Some("I1")),
            ("back from the dead", &[(&[], Ok), (&[1], Ok)], &[1, 2], Some("I3")),
            ("back from the dead, two steps", &[(&[], Ok), (&[1], Unknown), (&[2], Ok)], &[1, 3], Some("I3")),
            ("failed and visible", &[(&[], Failed)], &[1], Some("I13")),
        ];
        for (what, writes, visible, violated) in cases {
            let visible = [(Name::new("b", "k"), visible.iter().map(|id| WriteId(*id)).collect())].into();
            let verdict = history(writes).judge(&visible).err().map(|(invariant, _)| invariant);
            let matches = match (verdict, violated) {
                (Some(found), Some(expected)) => found.split(' ').next() == Some(expected),
                (found, expected) => found.is_none() && expected.is_none(),
            };
            assert!(matches, "{what}: {verdict:?}");
        }
    }
}
