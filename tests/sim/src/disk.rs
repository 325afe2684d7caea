//! A node's disk: an engine in memory with the durability of a real one, and a witness of what is written to it.
//!
//! Groups of writes are undone, newest first, when the power goes: what was reported as synced stays, what was not stays up to a
//! random group, and no group stays in part. A killed process loses only the group that it had not handed over yet.
//!
//! It can be full, and it can rot: then it says so, with an error, as an engine with checksums does.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use bytes::Bytes;
use dynamo_core::id::{NodeId, PartitionId};
use dynamo_core::name::{Name, Position};
use dynamo_core::reaping::Reaped;
use dynamo_core::storage::{Cursor, Storage, StorageError, Ticket};
use dynamo_core::time::Instant;
use dynamo_core::version::{CausalContext, Dot, Object, Value};

use crate::witness::{Witness, WriteId};

type ObjectKey = (PartitionId, Position, Name);
type HintKey = (NodeId, PartitionId, Name);

/// What was there before a write.
#[derive(Clone, Debug)]
enum Undo {
    Object(ObjectKey, Option<Object>),
    Hint(HintKey, Option<Object>),
    Meta(Vec<u8>, Option<Bytes>),
    /// What had been reaped of the name.
    Reaped(Name, Option<CausalContext>),
    /// Nothing to be put back: what was written with the group had seen this, which counts once the group is on stable storage.
    Seen(Name, CausalContext),
}

/// An object that was removed for itself, not with its whole partition.
#[derive(Clone, Debug)]
pub struct Removed {
    /// Its name.
    pub name: Name,
    /// What it was.
    pub object: Object,
}

/// A version that was live in a copy or a hint which was dropped.
#[derive(Clone, Debug)]
pub struct Dropped {
    /// The object.
    pub name: Name,
    /// The version.
    pub dot: Dot,
    /// For whom it was kept, if it was a hint.
    pub hint_for: Option<NodeId>,
}

/// Groups of writes that were not on stable storage when the power went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lost {
    /// Those that are there nevertheless.
    pub kept: usize,
    /// Those that are gone.
    pub lost: usize,
}

fn live_in<'a>(name: &'a Name, object: &'a Object, hint_for: Option<NodeId>) -> impl Iterator<Item = Dropped> + 'a {
    object.values().map(move |(dot, _)| Dropped { name: name.clone(), dot, hint_for })
}

/// A disk.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    objects: BTreeMap<ObjectKey, Object>,
    hints: BTreeMap<HintKey, Object>,
    /// Since when there is a hint.
    hints_since: BTreeMap<HintKey, Instant>,
    meta: BTreeMap<Vec<u8>, Bytes>,
    open: Vec<Undo>,
    groups: VecDeque<(Ticket, Vec<Undo>)>,
    ticket: Ticket,
    durable: Ticket,
    /// Every write that ever lay here, with the first group that held it.
    held: BTreeMap<WriteId, Ticket>,
    /// The histories of all that ever lay on stable storage here: a hint may be delivered and gone before anybody asks for it.
    histories: BTreeMap<Name, CausalContext>,
    /// Where each name lies: that never changes.
    partition_of: BTreeMap<Name, PartitionId>,
    /// Dots that were live in copies or hints which were dropped, until somebody takes them.
    dropped: Vec<Dropped>,
    /// Objects that were removed one by one, until somebody takes them.
    removed: Vec<Removed>,
    /// What the objects that were removed one by one had seen: none of it may lie here again.
    reaped: BTreeMap<Name, CausalContext>,
    /// Writes fail.
    full: bool,
    /// An object whose bits have flipped: who reads it gets an error.
    rotten: Option<ObjectKey>,
    /// Errors given since the last start.
    errors: Cell<u64>,
    witness: Rc<RefCell<Witness>>,
}

impl Disk {
    /// An empty disk.
    pub fn new(witness: Rc<RefCell<Witness>>) -> Self {
        Self { witness, ..Self::default() }
    }

    /// Every group up to `ticket` is on stable storage.
    pub fn synced(&mut self, ticket: Ticket) {
        self.durable = self.durable.max(ticket);
        while self.groups.front().is_some_and(|(group, _)| *group <= ticket)
            && let Some((_, group)) = self.groups.pop_front()
        {
            self.settle(group);
        }
    }

    /// Whether a group of writes is begun and not handed over.
    pub fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// The newest group that was handed over.
    pub fn last_ticket(&self) -> Ticket {
        self.ticket
    }

    /// Groups that are not on stable storage yet.
    pub fn unsynced(&self) -> usize {
        self.groups.len()
    }

    /// The process is killed: only the group that it had not handed over is lost.
    pub fn killed(&mut self) {
        // Of the open group: what was dropped and removed in those before it was looked at when they were closed.
        (self.dropped, self.removed) = (Vec::new(), Vec::new());
        let open = std::mem::take(&mut self.open);
        self.undo(open);
        // A write that is lost may come again, and then lies in a later group.
        let last = self.ticket;
        self.held.retain(|_, ticket| *ticket <= last);
    }

    /// The power goes: of the groups that are not on stable storage, the first `kept` stay.
    pub fn power_lost(&mut self, kept: usize) -> Lost {
        self.killed();
        let unsynced = self.groups.len();
        while self.groups.len() > kept
            && let Some((_, group)) = self.groups.pop_back()
        {
            self.undo(group);
        }
        self.durable = self.groups.back().map_or(self.durable, |(ticket, _)| *ticket);
        while let Some((_, group)) = self.groups.pop_front() {
            self.settle(group);
        }
        let durable = self.durable;
        self.held.retain(|_, ticket| *ticket <= durable);
        Lost { kept: kept.min(unsynced), lost: unsynced.saturating_sub(kept) }
    }

    /// Writes fail from now on, or succeed again.
    pub fn set_full(&mut self, full: bool) {
        self.full = full;
    }

    /// Whether writes fail.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// The bits of one object flip, the one that `choice` chooses. False if there is none.
    pub fn rot(&mut self, choice: impl FnOnce(usize) -> usize) -> bool {
        if !self.objects.is_empty() {
            let at = choice(self.objects.len());
            self.rotten = self.objects.keys().nth(at).cloned();
        }
        self.is_rotten()
    }

    /// An object is gone without a trace, as after a repair tool that drops what it cannot read.
    pub fn forget(&mut self, name: &Name) {
        let partition = self.partition_of.get(name).copied();
        partition.and_then(|partition| self.objects.remove(&(partition, name.position(), name.clone())));
    }

    /// A copy of what is on stable storage and in the system's memory: a snapshot, or a copied directory.
    pub fn snapshot(&self) -> Self {
        let mut copy = Self {
            objects: self.objects.clone(),
            hints: self.hints.clone(),
            hints_since: self.hints_since.clone(),
            reaped: self.reaped.clone(),
            meta: self.meta.clone(),
            ticket: self.ticket,
            durable: self.ticket,
            held: self.held.clone(),
            histories: self.histories.clone(),
            partition_of: self.partition_of.clone(),
            witness: self.witness.clone(),
            ..Self::default()
        };
        let seen: Vec<_> = self
            .unsynced_steps()
            .filter_map(|step| if let Undo::Seen(name, seen) = step { Some((name.clone(), seen.clone())) } else { None })
            .collect();
        seen.into_iter().for_each(|(name, seen)| copy.remember(name, &seen));
        copy
    }

    /// Whether some object cannot be read any more.
    pub fn is_rotten(&self) -> bool {
        self.rotten.is_some()
    }

    /// How often the node was told of an error since it started.
    pub fn errors(&self) -> u64 {
        self.errors.get()
    }

    /// A node starts on it.
    pub fn forget_errors(&mut self) {
        self.errors.set(0);
    }

    fn error<T>(&self, what: &str) -> Result<T, StorageError> {
        self.errors.set(self.errors.get() + 1);
        Err(StorageError(what.into()))
    }

    fn takes_writes(&self) -> Result<(), StorageError> {
        if self.full { self.error("no space left on device") } else { Ok(()) }
    }

    fn is_sound(&self, key: &ObjectKey) -> Result<(), StorageError> {
        if self.rotten.as_ref() == Some(key) { self.error("checksum mismatch") } else { Ok(()) }
    }

    /// Every object with its partition.
    pub fn objects(&self) -> impl Iterator<Item = (PartitionId, &Name, &Object)> {
        self.objects.iter().map(|((partition, _, name), object)| (*partition, name, object))
    }

    /// Every hint with the node that it is kept for.
    pub fn hints(&self) -> impl Iterator<Item = (NodeId, &Name, &Object)> {
        self.hints.iter().map(|((target, _, name), object)| (*target, name, object))
    }

    /// Hints of `name`, and since when they are kept.
    pub fn hints_with_age<'a>(&'a self, name: &'a Name) -> impl Iterator<Item = (&'a Object, Instant)> {
        self.hints_of(name).map(|(key, object)| (object, self.hints_since[key]))
    }

    /// Whether `write` lies or lay here: `Some(true)` if it reached stable storage.
    pub fn has_held(&self, write: WriteId) -> Option<bool> {
        self.held.get(&write).map(|ticket| *ticket <= self.durable)
    }

    /// What was dropped since the last look.
    pub fn take_dropped(&mut self) -> Vec<Dropped> {
        std::mem::take(&mut self.dropped)
    }

    /// What was removed one by one since the last look.
    pub fn take_removed(&mut self) -> Vec<Removed> {
        std::mem::take(&mut self.removed)
    }

    /// Whether `dot` of `name` was reaped here, on stable storage or not.
    pub fn has_reaped(&self, name: &Name, dot: Dot) -> bool {
        self.reaped.get(name).is_some_and(|reaped| reaped.covers(dot))
    }

    fn note_reaped(&mut self, name: &Name, reaped: Option<CausalContext>) {
        let before = match reaped {
            Some(reaped) => self.reaped.insert(name.clone(), reaped),
            None => self.reaped.remove(name),
        };
        self.open.push(Undo::Reaped(name.clone(), before));
    }

    /// I3, at the moment it happens: a value that was reaped here is written here again; or a name that was not here gets what
    /// this node has adopted as reaped, be it a tombstone.
    fn complain_of_resurrection(&self, partition: PartitionId, name: &Name, before: Option<&Object>, object: &Object) {
        let key = [b"reaped/", &partition.0.to_be_bytes()[..]].concat();
        let adopted = self.meta.get(&key).and_then(|bytes| Reaped::decode(bytes.clone()).ok());
        let fenced = |dot| before.is_none() && adopted.as_ref().is_some_and(|adopted| adopted.upto.covers(dot));
        let back = |(dot, value): &(Dot, &Value)| fenced(*dot) || (value.data.is_some() && self.has_reaped(name, *dot));
        if let Some((dot, _)) = object.values().find(back) {
            let what = format!("{name:?}: {dot:?} was reaped and is written again: {object:?}");
            self.witness.borrow_mut().complain("I3 no resurrection", what);
        }
    }

    /// Whether stable storage holds a version that has seen the dot, as a copy or as a hint.
    pub fn is_durable(&self, what: &Dropped) -> bool {
        // Of the writes that are not synced yet the oldest knows what stable storage holds in their place.
        let mut unsynced = BTreeMap::new();
        for step in self.unsynced_steps() {
            if let Undo::Hint(key, before) = step
                && key.2 == what.name
            {
                unsynced.entry(key).or_insert(before.as_ref());
            }
        }
        let synced = self.hints_of(&what.name).filter(|(key, _)| !unsynced.contains_key(key)).map(|(_, object)| object);
        let mut hints = unsynced.values().copied().flatten().chain(synced);
        self.copy_is_durable(&what.name, what.dot) || hints.any(|object| object.has_seen(what.dot))
    }

    /// Whether stable storage holds a copy of `name` that has seen `dot`.
    pub fn copy_is_durable(&self, name: &Name, dot: Dot) -> bool {
        let unsynced = self.unsynced_steps().find_map(|step| match step {
            Undo::Object(key, before) if key.2 == *name => Some(before.as_ref()),
            _ => None,
        });
        let copy = unsynced.unwrap_or_else(|| self.copy_of(name));
        copy.is_some_and(|object| object.has_seen(dot))
    }

    fn unsynced_steps(&self) -> impl Iterator<Item = &Undo> {
        self.groups.iter().flat_map(|(_, group)| group).chain(&self.open)
    }

    /// The copy of `name`, in whichever partition it lies: a name lies in one only.
    fn copy_of(&self, name: &Name) -> Option<&Object> {
        let partition = self.partition_of.get(name)?;
        self.objects.get(&(*partition, name.position(), name.clone()))
    }

    /// Whether a copy of `name` that has seen `dot` lies here now, synced or not.
    pub fn has_copy(&self, name: &Name, dot: Dot) -> bool {
        self.copy_of(name).is_some_and(|copy| copy.has_seen(dot))
    }

    /// Whether a version that has seen the dot lies here now, synced or not.
    pub fn keeps(&self, what: &Dropped) -> bool {
        let copy = self.copy_of(&what.name);
        let hints = self.hints_of(&what.name).map(|(_, object)| object);
        copy.into_iter().chain(hints).any(|object| object.has_seen(what.dot))
    }

    fn hints_of<'a>(&'a self, name: &'a Name) -> impl Iterator<Item = (&'a HintKey, &'a Object)> {
        self.hints.iter().filter(move |(key, _)| key.2 == *name)
    }

    /// Everything that is live here.
    pub fn live(&self) -> Vec<Dropped> {
        let copies = self.objects.iter().map(|((_, _, name), object)| (name, object));
        let hints = self.hints.iter().map(|((_, _, name), object)| (name, object));
        copies.chain(hints).flat_map(|(name, object)| live_in(name, object, None)).collect()
    }

    fn note_dropped(&mut self, name: &Name, object: Option<&Object>, hint_for: Option<NodeId>) {
        self.dropped.extend(object.into_iter().flat_map(|object| live_in(name, object, hint_for)));
    }

    /// Whether a version of `name` that had seen `dot` lies or lay on stable storage here.
    pub fn has_seen(&self, name: &Name, dot: Dot) -> bool {
        self.histories.get(name).and_then(|seen| seen.0.get(&dot.actor)).is_some_and(|counter| dot.counter <= *counter)
    }

    fn undo(&mut self, group: Vec<Undo>) {
        for step in group.into_iter().rev() {
            match step {
                Undo::Object(key, before) => replace(&mut self.objects, key, before),
                Undo::Hint(key, before) => {
                    let since =
                        before.is_some().then(|| self.hints_since.get(&key).copied().unwrap_or(self.witness.borrow().now));
                    replace(&mut self.hints_since, key.clone(), since);
                    replace(&mut self.hints, key, before);
                }
                Undo::Meta(key, before) => replace(&mut self.meta, key, before),
                Undo::Reaped(name, before) => replace(&mut self.reaped, name, before),
                Undo::Seen(..) => {}
            }
        }
    }

    /// Nothing takes this group away any more.
    fn settle(&mut self, group: Vec<Undo>) {
        for step in group {
            if let Undo::Seen(name, seen) = step {
                self.remember(name, &seen);
            }
        }
    }

    fn remember(&mut self, name: Name, seen: &CausalContext) {
        let history = self.histories.entry(name).or_default();
        for (actor, counter) in seen.0.iter() {
            let known = history.0.get_or_insert_with(*actor, u64::default);
            *known = (*counter).max(*known);
        }
    }

    fn hold(&mut self, name: &Name, object: &Object) {
        let group = Ticket(self.ticket.0 + 1);
        for write in self.witness.borrow_mut().saw(name, object) {
            self.held.entry(write).or_insert(group);
        }
        self.open.push(Undo::Seen(name.clone(), object.context()));
    }
}

fn replace<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

impl Storage for Disk {
    fn read(&self, partition: PartitionId, name: &Name) -> Result<Option<Object>, StorageError> {
        let key = (partition, name.position(), name.clone());
        self.is_sound(&key)?;
        Ok(self.objects.get(&key).cloned())
    }

    fn write(&mut self, partition: PartitionId, name: &Name, object: &Object) -> Result<(), StorageError> {
        self.takes_writes()?;
        let key = (partition, name.position(), name.clone());
        let before = self.objects.insert(key.clone(), object.clone());
        self.partition_of.insert(name.clone(), partition);
        self.complain_of_resurrection(partition, name, before.as_ref(), object);
        self.witness.borrow_mut().replaced(name, before.as_ref(), object);
        self.hold(name, object);
        self.open.push(Undo::Object(key, before));
        Ok(())
    }

    fn remove(&mut self, partition: PartitionId, name: &Name) -> Result<(), StorageError> {
        let key = (partition, name.position(), name.clone());
        let Some(before) = self.objects.remove(&key) else { return Ok(()) };
        let mut seen = before.context();
        self.reaped.get(name).iter().for_each(|earlier| seen.join(earlier));
        self.removed.push(Removed { name: name.clone(), object: before.clone() });
        self.open.push(Undo::Object(key, Some(before)));
        self.note_reaped(name, Some(seen));
        Ok(())
    }

    fn scan(
        &self,
        partition: PartitionId,
        after: Option<&Cursor>,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<(Cursor, Object)>, StorageError> {
        let from =
            after.map_or((partition, Position(0), Name::new("", "")), |after| (partition, after.position, after.name.clone()));
        let mut found = Vec::new();
        let mut size = 0;
        for (key @ (at, position, name), object) in self.objects.range(from..) {
            if *at != partition || found.len() == limit || size >= bytes {
                break;
            }
            self.is_sound(key)?;
            let cursor = Cursor { position: *position, name: name.clone() };
            if after.is_none_or(|after| cursor > *after) {
                size += object.encoded_len();
                found.push((cursor, object.clone()));
            }
        }
        Ok(found)
    }

    fn drop_partition(&mut self, partition: PartitionId) -> Result<(), StorageError> {
        self.takes_writes()?;
        let from = (partition, Position(0), Name::new("", ""));
        let keys: Vec<ObjectKey> =
            self.objects.range(from..).take_while(|((at, _, _), _)| *at == partition).map(|(key, _)| key.clone()).collect();
        for key in keys {
            let before = self.objects.remove(&key);
            self.note_dropped(&key.2, before.as_ref(), None);
            self.open.push(Undo::Object(key, before));
        }
        // The next copy is another one, which knows nothing of this one's past.
        let names: Vec<Name> =
            self.reaped.keys().filter(|name| self.partition_of.get(*name) == Some(&partition)).cloned().collect();
        names.iter().for_each(|name| self.note_reaped(name, None));
        Ok(())
    }

    fn partitions(&self) -> Result<Vec<PartitionId>, StorageError> {
        let mut partitions: Vec<PartitionId> = self.objects.keys().map(|(partition, _, _)| *partition).collect();
        partitions.dedup();
        Ok(partitions)
    }

    fn read_hint(&self, target: NodeId, partition: PartitionId, name: &Name) -> Result<Option<Object>, StorageError> {
        Ok(self.hints.get(&(target, partition, name.clone())).cloned())
    }

    fn write_hint(&mut self, target: NodeId, partition: PartitionId, name: &Name, object: &Object) -> Result<(), StorageError> {
        self.takes_writes()?;
        let key = (target, partition, name.clone());
        let before = self.hints.insert(key.clone(), object.clone());
        self.hints_since.entry(key.clone()).or_insert(self.witness.borrow().now);
        self.witness.borrow_mut().replaced(name, before.as_ref(), object);
        self.hold(name, object);
        self.open.push(Undo::Hint(key, before));
        Ok(())
    }

    fn remove_hint(&mut self, target: NodeId, partition: PartitionId, name: &Name) -> Result<(), StorageError> {
        self.takes_writes()?;
        let key = (target, partition, name.clone());
        let before = self.hints.remove(&key);
        self.hints_since.remove(&key);
        self.note_dropped(name, before.as_ref(), Some(target));
        self.open.push(Undo::Hint(key, before));
        Ok(())
    }

    fn scan_hints(
        &self,
        target: NodeId,
        after: Option<&(PartitionId, Name)>,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<(PartitionId, Name, Object)>, StorageError> {
        // An engine on a disk has two bytes for it.
        assert!(after.is_none_or(|(partition, _)| partition.0 < 1 << 16), "there is no such partition");
        let (partition, name) = after.cloned().unwrap_or((PartitionId(0), Name::new("", "")));
        let mut found = Vec::new();
        let mut size = 0;
        for ((owner, partition, name), object) in self.hints.range((target, partition, name)..) {
            if *owner != target || found.len() == limit || size >= bytes {
                break;
            }
            if after.is_none_or(|(at, last)| (partition, name) > (at, last)) {
                size += object.encoded_len();
                found.push((*partition, name.clone(), object.clone()));
            }
        }
        Ok(found)
    }

    fn hint_totals(&self) -> Result<BTreeMap<NodeId, (u64, u64)>, StorageError> {
        let mut totals = BTreeMap::<NodeId, (u64, u64)>::new();
        for ((target, _, _), object) in &self.hints {
            let total = totals.entry(*target).or_default();
            *total = (total.0 + 1, total.1 + object.encode().len() as u64);
        }
        Ok(totals)
    }

    fn read_meta(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        Ok(self.meta.get(key).cloned())
    }

    fn write_meta(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), StorageError> {
        self.takes_writes()?;
        let before = match value {
            Some(value) => self.meta.insert(key.to_vec(), Bytes::copy_from_slice(value)),
            None => self.meta.remove(key),
        };
        self.open.push(Undo::Meta(key.to_vec(), before));
        Ok(())
    }

    fn commit(&mut self) -> Result<Ticket, StorageError> {
        self.takes_writes()?;
        self.ticket = Ticket(self.ticket.0 + 1);
        let open = std::mem::take(&mut self.open);
        self.groups.push_back((self.ticket, open));
        Ok(self.ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_core::id::Incarnation;
    use dynamo_core::version::Actor;

    fn put(disk: &mut Disk, key: &'static str) -> Ticket {
        disk.write_meta(key.as_bytes(), Some(b"1")).unwrap();
        disk.commit().unwrap()
    }

    fn keys(disk: &Disk) -> Vec<String> {
        disk.meta.keys().map(|key| String::from_utf8_lossy(key).into_owned()).collect()
    }

    #[test]
    fn a_power_loss_takes_whole_groups_from_the_end_and_never_what_was_synced() {
        for (kept, left) in [(0, vec!["a"]), (1, vec!["a", "b"]), (9, vec!["a", "b", "c"])] {
            let mut disk = Disk::default();
            let first = put(&mut disk, "a");
            put(&mut disk, "b");
            put(&mut disk, "c");
            disk.write_meta(b"open", Some(b"1")).unwrap();
            disk.synced(first);
            disk.power_lost(kept);
            assert_eq!(keys(&disk), left, "{kept} unsynced groups were kept");
        }
    }

    #[test]
    fn a_killed_process_loses_only_what_it_had_not_handed_over() {
        let mut disk = Disk::default();
        put(&mut disk, "a");
        disk.write_meta(b"a", None).unwrap();
        disk.write_meta(b"b", Some(b"1")).unwrap();
        disk.killed();
        assert_eq!(keys(&disk), ["a"]);
    }

    #[test]
    fn what_lies_in_memory_only_has_been_seen_by_nobody_until_its_group_is_synced() {
        let name = Name::new("b", "k");
        let actor = Actor { node: NodeId([1; 16]), incarnation: Incarnation(1) };
        let dot = Dot { actor, counter: 1 };
        let mut object = Object::default();
        let write = WriteId(1);
        object.update(&CausalContext::default(), dot, Value { data: Some(write.value()), written_ms: 0 });
        type End = fn(&mut Disk, Ticket);
        let ends: [(&str, End, bool); 5] = [
            ("committed", |_, _| {}, false),
            ("synced", |disk, ticket| disk.synced(ticket), true),
            ("lost with the power", |disk, _| assert_eq!(disk.power_lost(0).lost, 1), false),
            ("written by luck before the power went", |disk, _| assert_eq!(disk.power_lost(1).lost, 0), true),
            (
                "killed, and synced by the next start",
                |disk, ticket| {
                    disk.killed();
                    disk.synced(ticket)
                },
                true,
            ),
        ];
        for (what, end, seen) in ends {
            let mut disk = Disk::default();
            disk.write(PartitionId(0), &name, &object).unwrap();
            let ticket = disk.commit().unwrap();
            end(&mut disk, ticket);
            assert_eq!(disk.has_seen(&name, dot), seen, "{what}");
            assert_eq!(disk.has_held(write) == Some(true), seen, "{what}");
        }
        let mut disk = Disk::default();
        disk.write(PartitionId(0), &name, &object).unwrap();
        disk.killed();
        let later = put(&mut disk, "later");
        disk.synced(later);
        assert!(!disk.has_seen(&name, dot) && disk.has_held(write).is_none(), "it was not even handed over");
    }

    #[test]
    fn what_was_reaped_and_is_written_again_is_found() {
        let (partition, name) = (PartitionId(0), Name::new("b", "k"));
        let actor = Actor { node: NodeId([1; 16]), incarnation: Incarnation(1) };
        let version = |counter, data: Option<WriteId>| {
            let mut object = Object::default();
            let value = Value { data: data.map(WriteId::value), written_ms: 0 };
            object.update(&CausalContext::default(), Dot { actor, counter }, value);
            object
        };
        let found = |disk: &Disk| disk.witness.borrow_mut().take_complaints().len();
        let mut disk = Disk::default();
        disk.write(partition, &name, &version(2, Some(WriteId(1)))).unwrap();
        disk.remove(partition, &name).unwrap();
        disk.write(partition, &name, &version(3, Some(WriteId(2)))).unwrap();
        assert_eq!(found(&disk), 0, "a new value");
        disk.write(partition, &name, &version(2, Some(WriteId(1)))).unwrap();
        assert!(found(&disk) > 0, "the old one");
        // A name that was never here, and of which all that was reaped elsewhere is known.
        let proof = dynamo_core::reaping::Proof { leader: NodeId([1; 16]), round: 1 };
        let upto = version(2, None).context();
        for (counter, complaints) in [(1, 1), (2, 1), (3, 0)] {
            let mut disk = Disk::default();
            disk.write_meta(b"reaped/\0\0\0\0", Some(&Reaped { proof, upto: upto.clone() }.encode())).unwrap();
            disk.write(partition, &name, &version(counter, None)).unwrap();
            assert_eq!(found(&disk), complaints, "dot {counter}, of which all up to 2 are reaped");
        }
    }

    #[test]
    fn a_snapshot_knows_since_when_there_are_hints_and_what_was_reaped_and_seen() {
        let (name, other) = (Name::new("b", "k"), Name::new("b", "other"));
        let actor = Actor { node: NodeId([1; 16]), incarnation: Incarnation(1) };
        let version = |counter| {
            let (dot, mut object) = (Dot { actor, counter }, Object::default());
            object.update(&CausalContext::default(), dot, Value { data: Some(WriteId(counter).value()), written_ms: 0 });
            (dot, object)
        };
        let mut disk = Disk::default();
        let ((hinted, hint), (reaped, object)) = (version(1), version(2));
        disk.write_hint(NodeId([2; 16]), PartitionId(0), &name, &hint).unwrap();
        disk.write(PartitionId(0), &other, &object).unwrap();
        disk.remove(PartitionId(0), &other).unwrap();
        disk.commit().unwrap();
        let copy = disk.snapshot();
        assert_eq!(copy.hints_with_age(&name).count(), 1);
        assert!(copy.has_reaped(&other, reaped));
        assert!(copy.has_seen(&name, hinted) && !disk.has_seen(&name, hinted), "what is copied is written");
    }
}
