//! What clients did, as they know it: the black box of the checkers (I1, I2, I3, I5 and I13 of [`crate::checkers`]).
//!
//! Every write has a number of its own as its value, and **covers** exactly the writes that the read returned whose context it
//! carried. From that follows what may be visible, without looking into a context or a node.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
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
    /// Writes with two dots that readers may see twice, or again: that they are one is no longer remembered.
    forgiven: BTreeSet<WriteId>,
    /// Writes whose request id names another write of their key too: they may be taken for one. What they cover may be gone, or not.
    alike: BTreeSet<WriteId>,
    /// Buckets in which the last writer wins: what may be lost there, `checkers::last_writer_wins` says.
    by_stamp: BTreeSet<Bytes>,
}

/// What is violated, and how.
pub type Verdict = Result<(), (&'static str, String)>;

impl Ledger {
    /// Nothing has happened yet; in these buckets the last writer wins.
    pub fn with_stamps_in(buckets: BTreeSet<Bytes>) -> Self {
        Self { by_stamp: buckets, ..Self::default() }
    }

    /// A write is about to be sent.
    pub fn begin(&mut self, name: Name, delete: bool, covers: BTreeSet<WriteId>, durable: usize) -> WriteId {
        let id = WriteId(self.writes.len() as u64 + 1);
        self.by_name.entry(name.clone()).or_default().push(id);
        self.writes.insert(id, Write { name, delete, covers, durable, homes: 0, fate: Fate::Pending });
        id
    }

    /// How many writes were begun: they are numbered from 1.
    pub fn begun(&self) -> usize {
        self.writes.len()
    }

    /// The client was told, or gave up. All attempts of a write are one write: it is acknowledged if any of them is, and once its
    /// outcome is unknown, an attempt that wrote nothing does not make it known.
    pub fn settle(&mut self, id: WriteId, fate: Fate) {
        if let Some(write) = self.writes.get_mut(&id)
            && (matches!(write.fate, Fate::Pending | Fate::Failed) || fate == Fate::Ok)
        {
            write.fate = fate;
        }
    }

    /// These may be seen twice, or again after they were replaced.
    pub fn forgive(&mut self, writes: BTreeSet<WriteId>) {
        self.forgiven.extend(writes);
    }

    /// These writes of one key have one request id: each may be taken for another of them.
    pub fn share_an_id(&mut self, writes: BTreeSet<WriteId>) {
        self.forgive(writes.clone());
        self.alike.extend(writes);
    }

    /// Whether a write may be taken for another one.
    pub fn shares_its_id(&self, id: WriteId) -> bool {
        self.alike.contains(&id)
    }

    /// One write.
    pub fn get(&self, id: WriteId) -> Option<&Write> {
        self.writes.get(&id)
    }

    /// Every name that was written.
    pub fn names(&self) -> Vec<Name> {
        self.by_name.keys().cloned().collect()
    }

    /// Every name of a bucket in which the last writer wins.
    pub fn names_by_stamp(&self) -> impl Iterator<Item = &Name> {
        self.by_name.keys().filter(|name| self.by_stamp.contains(&name.bucket))
    }

    /// The writes of `name`, in the order in which they were begun.
    pub fn of_name(&self, name: &Name) -> impl DoubleEndedIterator<Item = (WriteId, &Write)> {
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
                Some((id, write)) if write.name == *name => {
                    if !ids.insert(id) && !self.forgiven.contains(&id) {
                        return Err(("a retry is the same write", format!("{name:?} returned {id:?} twice")));
                    }
                }
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
                if ids.contains(&lower) && !self.forgiven.contains(&lower) {
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
    ///
    /// What rests on no more copies than disks were `lost` may be gone.
    /// `buried` says whether a tombstone that supersedes a write was ever seen.
    pub fn judge(&self, visible: &Visible, lost: usize, buried: impl Fn(WriteId) -> bool) -> Verdict {
        self.nothing_failed_is_visible(visible)?;
        self.nothing_is_lost(visible, lost, buried)?;
        self.nothing_is_resurrected(visible, lost)
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

    /// What a delete accounts for: all that it covers, if it was acknowledged. Any other one may have come to nothing, so only for what
    /// some tombstone was seen to supersede.
    pub fn deleted_by(write: &Write, buried: impl Fn(WriteId) -> bool) -> impl Iterator<Item = WriteId> {
        let acknowledged = write.fate == Fate::Ok;
        write.covers.iter().copied().filter(move |lower| acknowledged || buried(*lower))
    }

    /// I1: an acknowledged write is visible, or some write that took effect covers it. A write took effect if it is visible, is a
    /// delete that did ([`Ledger::deleted_by`]), or is covered in turn by one that took effect; covers point to earlier writes, so one
    /// walk back is enough.
    fn nothing_is_lost(&self, visible: &Visible, lost: usize, buried: impl Fn(WriteId) -> bool) -> Verdict {
        let mut superseded = BTreeSet::<WriteId>::new();
        for (id, write) in self.writes.iter().rev().filter(|(_, write)| write.fate != Fate::Failed) {
            let effective = superseded.contains(id) || self.alike.contains(id) || Self::is_visible(visible, *id, write);
            if effective {
                superseded.extend(&write.covers);
            } else if write.delete {
                superseded.extend(Self::deleted_by(write, &buried));
            } else if write.fate == Fate::Ok && write.durable > lost && !self.by_stamp.contains(&write.name.bucket) {
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

    /// So many disks are lost at once by now. Of a delete whose tombstone is not `known` nobody can say which of them had it: it may
    /// rest on those.
    pub fn lose_tombstones(&mut self, disks: usize, known: impl Fn(WriteId) -> bool) {
        let deletes = self.writes.iter().filter(|(id, write)| write.delete && !known(**id)).map(|(id, _)| *id);
        for id in deletes.collect::<Vec<_>>() {
            self.lose_of(id, disks);
        }
    }

    /// Disks were lost: `copies` says how many of a write's were at once. The promise holds for a write whose acknowledgement rests on
    /// more; and of those, a read meets the ones that more home replicas had.
    pub fn lose(&mut self, copies: impl Fn(WriteId) -> usize) {
        for id in self.writes.keys().copied().collect::<Vec<_>>() {
            self.lose_of(id, copies(id));
        }
    }

    /// A disk went back in time: `copies` says how many of a write's did. No ring replaces it, so a read meets one home replica less.
    pub fn miss(&mut self, copies: impl Fn(WriteId) -> usize) {
        for (id, write) in &mut self.writes {
            write.homes = write.homes.saturating_sub(copies(*id));
        }
    }

    /// What [`Ledger::lose`] does, for one write.
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
        let held = |id, write: &Write| write.fate == Fate::Ok && write.homes >= homes && !self.alike.contains(&id);
        self.of_name(name).filter(|(id, write)| held(*id, write)).map(|(id, _)| id).collect()
    }

    /// Quorums that overlap: a read that `returned` these writes meets each of `earlier`, or what covers it; and nothing that one of
    /// them covers.
    pub fn meets(
        &self,
        name: &Name,
        returned: &BTreeSet<WriteId>,
        earlier: &BTreeSet<WriteId>,
        buried: impl Fn(WriteId) -> bool,
    ) -> Verdict {
        let mut superseded = BTreeSet::<WriteId>::new();
        let mut covered = BTreeMap::<WriteId, WriteId>::new();
        for (id, write) in self.of_name(name).rev().filter(|(_, write)| write.fate != Fate::Failed) {
            if earlier.contains(&id) || covered.contains_key(&id) {
                covered.extend(write.covers.iter().map(|lower| (*lower, id)));
            }
            if let Some(by) = covered.get(&id)
                && returned.contains(&id)
                && !self.forgiven.contains(&id)
            {
                let what = format!(
                    "{name:?} returned {id:?}, which {by:?} covers, and too many home replicas have that for this quorum to miss it"
                );
                return Err(("R + W > N", what));
            }
            if superseded.contains(&id) || returned.contains(&id) || self.alike.contains(&id) {
                superseded.extend(&write.covers);
            } else if write.delete {
                superseded.extend(Self::deleted_by(write, &buried));
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
    fn nothing_is_resurrected(&self, visible: &Visible, lost: usize) -> Verdict {
        let mut covered = BTreeMap::new();
        for (id, write) in self.writes.iter().rev() {
            let acknowledged = write.fate == Fate::Ok && write.durable > lost && !self.alike.contains(id);
            if acknowledged || covered.contains_key(id) {
                covered.extend(write.covers.iter().map(|lower| (*lower, *id)));
            }
            if let Some(by) = covered.get(id)
                && Self::is_visible(visible, *id, write)
                && !self.forgiven.contains(id)
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
    use bytes::Bytes;

    fn history(writes: &[(&[u64], Fate)]) -> Ledger {
        let mut ledger = Ledger::default();
        for (covers, fate) in writes {
            let id = ledger.begin(Name::new("b", "k"), false, covers.iter().map(|id| WriteId(*id)).collect(), 1);
            ledger.settle(id, *fate);
        }
        ledger
    }

    #[test]
    fn all_attempts_of_a_write_are_one_write() {
        use Fate::{Failed, Ok, Pending, Unknown};
        // What the attempts were told, and what that comes to.
        let cases: [(&[Fate], Fate); 7] = [
            (&[], Pending),
            (&[Failed], Failed),
            (&[Unknown, Ok], Ok),
            (&[Unknown, Failed], Unknown),
            (&[Failed, Unknown], Unknown),
            (&[Ok, Unknown], Ok),
            (&[Ok, Failed], Ok),
        ];
        for (told, comes_to) in cases {
            let mut ledger = Ledger::default();
            let id = ledger.begin(Name::new("b", "k"), false, BTreeSet::new(), 1);
            told.iter().for_each(|fate| ledger.settle(id, *fate));
            assert_eq!(ledger.get(id).map(|write| write.fate), Some(comes_to), "{told:?}");
        }
    }

    #[test]
    fn a_write_shows_once_and_not_beside_what_replaced_it_unless_that_may_be_forgotten() {
        let name = Name::new("b", "k");
        let mut ledger = history(&[(&[], Fate::Ok), (&[1], Fate::Ok)]);
        let (first, second) = (WriteId(1).value(), WriteId(2).value());
        let read = |ledger: &mut Ledger, values: [&Bytes; 2]| {
            ledger.read(&name, values.into_iter().map(|value| &value[..])).err().map(|(invariant, _)| invariant)
        };
        assert_eq!(read(&mut ledger, [&first, &first]), Some("a retry is the same write"));
        assert_eq!(read(&mut ledger, [&first, &second]), Some("I5 siblings are concurrent"));
        ledger.forgive([WriteId(1)].into());
        assert_eq!(read(&mut ledger, [&first, &first]), None);
        assert_eq!(read(&mut ledger, [&first, &second]), None);
        let visible = [(name.clone(), [WriteId(1), WriteId(2)].into())].into();
        assert_eq!(ledger.judge(&visible, 0, |_| false), Result::Ok(()));
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
            let verdict = history(writes).judge(&visible, 0, |_| false).err().map(|(invariant, _)| invariant);
            let matches = match (verdict, violated) {
                (Some(found), Some(expected)) => found.split(' ').next() == Some(expected),
                (found, expected) => found.is_none() && expected.is_none(),
            };
            assert!(matches, "{what}: {verdict:?}");
        }
    }

    #[test]
    fn a_value_that_nobody_wrote_to_the_key_is_found() {
        let mut ledger = history(&[(&[], Fate::Ok)]);
        let other = ledger.begin(Name::new("b", "other"), false, BTreeSet::new(), 1);
        let name = Name::new("b", "k");
        for (value, found) in [
            (WriteId(1).value(), None),
            (other.value(), Some("I2 no invention")),
            (WriteId(99).value(), Some("I2 no invention")),
            (Bytes::from_static(b"short"), Some("I2 no invention")),
        ] {
            let read = ledger.read(&name, [&value[..]].into_iter());
            assert_eq!(read.err().map(|(invariant, _)| invariant), found, "{value:?}");
        }
    }

    /// Each may be taken for the other, so of neither anything is told but that somebody wrote it, and that nothing else of the key suffers.
    #[test]
    fn of_two_writes_that_share_a_request_id_nothing_is_asked_and_of_the_others_everything() {
        use Fate::Ok;
        let name = Name::new("b", "k");
        let visible = |ids: &[u64]| [(name.clone(), ids.iter().map(|id| WriteId(*id)).collect())].into();
        let judged =
            |ledger: &Ledger, ids: &[u64]| ledger.judge(&visible(ids), 0, |_| false).err().map(|(invariant, _)| invariant);
        // The second covers the first; the third and the fourth have one id, and the fourth covers the second.
        let alone = || history(&[(&[], Ok), (&[1], Ok), (&[], Ok), (&[2], Ok)]);
        let mut shared = alone();
        shared.share_an_id([WriteId(3), WriteId(4)].into());
        assert!(shared.shares_its_id(WriteId(3)) && !shared.shares_its_id(WriteId(2)));
        for (ids, if_alone, if_shared) in [
            (&[3, 4][..], None, None),
            (&[3], Some("I1 no lost acknowledged write"), None),
            (&[2, 3], Some("I1 no lost acknowledged write"), None),
            (&[2, 3, 4], Some("I3 no resurrection"), None),
            (&[1, 3, 4], Some("I3 no resurrection"), Some("I3 no resurrection")),
        ] {
            assert_eq!(judged(&alone(), ids), if_alone, "{ids:?}");
            assert_eq!(judged(&shared, ids), if_shared, "{ids:?}, of which two share an id");
        }
        shared.found_at(WriteId(3), 3);
        assert_eq!(shared.held_by(&name, 3), BTreeSet::new(), "nor does a read have to meet one");
    }

    #[test]
    fn a_delete_accounts_for_what_it_covers_if_it_was_acknowledged_or_its_tombstone_was_seen() {
        use Fate::{Failed, Ok, Pending, Unknown};
        let name = Name::new("b", "k");
        // What became of the delete, whether its tombstone was ever seen, and whether the write below it may be gone.
        let cases = [
            (Ok, false, true),
            (Unknown, true, true),
            (Unknown, false, false),
            (Pending, true, true),
            (Pending, false, false),
            (Failed, false, false),
        ];
        for (fate, seen, may_be_gone) in cases {
            let mut ledger = history(&[(&[], Ok)]);
            let delete = ledger.begin(name.clone(), true, [WriteId(1)].into(), 1);
            ledger.settle(delete, fate);
            let verdict = ledger.judge(&Visible::new(), 0, |_| seen);
            assert_eq!(verdict.is_ok(), may_be_gone, "{fate:?}, seen: {seen}: {verdict:?}");
            let met = ledger.meets(&name, &BTreeSet::new(), &[WriteId(1)].into(), |_| seen);
            assert_eq!(met.is_ok(), may_be_gone, "{fate:?}, seen: {seen}: {met:?}");
        }
    }

    #[test]
    fn a_read_whose_quorum_meets_a_delete_returns_nothing_that_it_covers() {
        let name = Name::new("b", "k");
        let mut ledger = history(&[(&[], Fate::Ok), (&[1], Fate::Ok)]);
        let delete = ledger.begin(name.clone(), true, [WriteId(2)].into(), 1);
        ledger.settle(delete, Fate::Ok);
        assert!(ledger.held_by(&name, 2).is_empty());
        ledger.found_at(delete, 2);
        let earlier = ledger.held_by(&name, 2);
        assert_eq!(earlier, [delete].into());
        for (returned, may_be) in [(vec![], true), (vec![WriteId(2)], false), (vec![WriteId(1)], false)] {
            let returned: BTreeSet<WriteId> = returned.into_iter().collect();
            assert_eq!(ledger.meets(&name, &returned, &earlier, |_| false).is_ok(), may_be, "{returned:?}");
            assert!(ledger.meets(&name, &returned, &BTreeSet::new(), |_| false).is_ok(), "a quorum that may miss it");
        }
    }

    #[test]
    fn a_read_meets_a_write_no_more_when_a_home_replica_went_back_in_time() {
        let name = Name::new("b", "k");
        let mut ledger = history(&[(&[], Fate::Ok), (&[], Fate::Ok)]);
        ledger.found_at(WriteId(1), 2);
        ledger.found_at(WriteId(2), 2);
        ledger.miss(|write| usize::from(write == WriteId(1)));
        assert_eq!(ledger.held_by(&name, 2), [WriteId(2)].into());
        assert_eq!(ledger.held_by(&name, 1), [WriteId(1), WriteId(2)].into());
    }
}
