//! What must be true of a history of reads and writes, whatever happened to the cluster.
//!
//! Every write has an id of its own, which is its value. A write *covers* exactly the ids that the read returned whose context
//! it carries (or, with the context of an earlier write, that write); a blind write covers nothing. From the outside, then:
//!
//! - **No invention.** A read of a key returns ids that were submitted for that key, each once, and none whose write is said to
//!   have failed: "nothing was written" is a promise.
//! - **No loss.** At the end every acknowledged put is visible, or covered by a write that took its place. One that took no
//!   effect takes no place: the chain of writes that cover each other ends at one that is visible, or at a delete. A write whose
//!   outcome is unknown may be part of that chain, a failed one may not.
//! - **No resurrection.** At the end nothing is visible that an acknowledged write covers, directly or through what it covers.
//!
//! A write with a request id is retried, by the client library, or by a node that forwards it and whose link breaks; and a node
//! that did not know the first attempt stores it a second time. Readers see it once, and not again after it was replaced, while
//! nodes remember it: it is among the [`REMEMBERED_MAX`] writes with ids to its key that have the highest stamps
//! ([`dynamo_core::recent_writes`]). After that it may show twice, or again, as a sibling: that is counted
//! ([`History::resurfaced`]), and is no violation. Two things must hold for that, and what of them does not is one:
//!
//! - The write may have been made more than once ([`History::repeated`]). A node that coordinates what its client sent it makes it
//!   under one dot, whatever becomes of its rings and links meanwhile, so most writes with an id are made once for certain.
//! - It may be forgotten, which the context of the read tells: as many writes are remembered as can be, and what shows is older than
//!   all of them, or is the first of its write among them, so that one before it may be missing. How many writes followed says less:
//!   a clock that was an hour ahead makes eight later ones at once.
//!
//! Only the end is judged so, when all replicas have been asked: before that, a read may be stale.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use dynamo_core::id::RequestKey;
use dynamo_core::recent_writes::{REMEMBERED_MAX, RecentWrites};

/// Names one write.
pub type WriteId = u64;

/// What a write does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Stores its id.
    Put,
    /// Stores a tombstone, which no read shows.
    Delete,
}

/// What its client was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Nothing yet.
    Pending,
    /// It has its quorum.
    Acknowledged,
    /// Nothing was written.
    Failed,
    /// It may become visible or not.
    Unknown,
}

#[derive(Debug)]
struct Write {
    kind: Kind,
    covers: Vec<WriteId>,
    outcome: Outcome,
    seen: bool,
    /// Its request id.
    named: Option<RequestKey>,
    /// With that id it may have been made more than once.
    repeated: bool,
    /// In the last read that showed it, nodes need not have known it for what it is.
    forgotten: bool,
    held: Option<Held>,
}

/// Who held a write when it was acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    /// For people; most writes have it in common with many others.
    pub by: Arc<str>,
    /// When, in milliseconds since 1970.
    pub since_ms: u64,
}

impl fmt::Display for Held {
    /// The time of day as the nodes' logs give it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, ms) = (self.since_ms / 1_000, self.since_ms % 1_000);
        let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
        write!(f, "at {hour:02}:{minute:02}:{second:02}.{ms:03}Z held by {}", self.by)
    }
}

/// What must not be.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Violation {
    /// An acknowledged put is neither visible nor covered by a write that is.
    Lost(WriteId),
    /// A value that nobody wrote to this key.
    Invented(String),
    /// One write is visible twice.
    Doubled(WriteId),
    /// A write that failed ("nothing was written") is visible.
    FailedButVisible(WriteId),
    /// A put is visible that an acknowledged write, or what that had read, covers; and which write does.
    Resurrected(WriteId, WriteId),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::Lost(id) => write!(f, "lost: acknowledged write {id} is neither visible nor covered by a write that is"),
            Violation::Invented(value) => write!(f, "invented: {value:?} was never written to this key"),
            Violation::Doubled(id) => write!(f, "doubled: write {id} is visible twice"),
            Violation::FailedButVisible(id) => write!(f, "failed but visible: write {id} was said to have written nothing"),
            Violation::Resurrected(id, by) => write!(f, "resurrected: write {id} is visible though write {by} covers it"),
        }
    }
}

impl Violation {
    /// The write that it is about, if there is one.
    pub fn write(&self) -> Option<WriteId> {
        match self {
            Violation::Lost(id) | Violation::Doubled(id) | Violation::FailedButVisible(id) | Violation::Resurrected(id, _) => {
                Some(*id)
            }
            Violation::Invented(_) => None,
        }
    }
}

/// All reads and writes of one key.
#[derive(Debug, Default)]
pub struct History {
    writes: BTreeMap<WriteId, Write>,
    violations: BTreeSet<Violation>,
    /// Writes that were visible twice when nodes need not have known them.
    doubled: BTreeSet<WriteId>,
    /// What was known where one was visible twice, for whoever looks into it.
    notes: Vec<String>,
}

impl History {
    /// A write is about to be sent.
    pub fn submitted(&mut self, id: WriteId, kind: Kind, covers: Vec<WriteId>) {
        let outcome = Outcome::Pending;
        let write = Write { kind, covers, outcome, seen: false, named: None, repeated: false, forgotten: false, held: None };
        let before = self.writes.insert(id, write);
        assert!(before.is_none(), "id {id} is used twice");
    }

    /// It has this request id.
    pub fn named(&mut self, id: WriteId, key: RequestKey) {
        if let Some(write) = self.writes.get_mut(&id) {
            write.named = Some(key);
        }
    }

    /// It was sent more than once, or forwarded, or nobody knows. Without a request id it was made once all the same.
    pub fn repeated(&mut self, id: WriteId) {
        if let Some(write) = self.writes.get_mut(&id) {
            write.repeated = write.named.is_some();
        }
    }

    /// Whether it may have been made more than once.
    pub fn is_repeated(&self, id: WriteId) -> bool {
        self.writes.get(&id).is_some_and(|write| write.repeated)
    }

    /// Writes that may have been made more than once, and all that have request ids.
    pub fn repeated_of_named(&self) -> (usize, usize) {
        let count = |of: fn(&Write) -> bool| self.writes.values().filter(|write| of(write)).count();
        (count(|write| write.repeated), count(|write| write.named.is_some()))
    }

    /// It was acknowledged, and this is what that rests on.
    pub fn held(&mut self, id: WriteId, held: Held) {
        if let Some(write) = self.writes.get_mut(&id) {
            write.held = Some(held);
        }
    }

    /// Its client was told this.
    pub fn told(&mut self, id: WriteId, outcome: Outcome) {
        if let Some(write) = self.writes.get_mut(&id) {
            write.outcome = outcome;
            if write.seen && outcome == Outcome::Failed {
                self.violations.insert(Violation::FailedButVisible(id));
            }
        }
    }

    /// A read returned these values, each with its stamp; its context remembers these writes, and `id_of` reads the id in a value.
    /// Returns the ids that the read's context covers.
    pub fn read<'a>(
        &mut self,
        values: impl Iterator<Item = (&'a [u8], u64)>,
        remembered: &RecentWrites,
        id_of: impl Fn(&[u8]) -> Option<WriteId>,
    ) -> BTreeSet<WriteId> {
        let mut shown: BTreeMap<WriteId, Vec<u64>> = BTreeMap::new();
        for (value, stamp) in values {
            let known = id_of(value).and_then(|id| Some((id, self.writes.get_mut(&id).filter(|write| write.kind == Kind::Put)?)));
            let Some((id, write)) = known else {
                self.violations.insert(Violation::Invented(value.escape_ascii().to_string()));
                continue;
            };
            write.seen = true;
            if write.outcome == Outcome::Failed {
                self.violations.insert(Violation::FailedButVisible(id));
            }
            let forgotten = write.named.is_some_and(|key| is_forgotten(key, stamp, remembered));
            let stamps = shown.entry(id).or_default();
            write.forgotten = forgotten && (stamps.is_empty() || write.forgotten);
            stamps.push(stamp);
        }
        for (id, stamps) in shown.iter().filter(|(_, stamps)| stamps.len() > 1) {
            let Some(write) = self.writes.get(id) else { continue };
            if write.forgotten {
                self.doubled.insert(*id);
            } else {
                self.violations.insert(Violation::Doubled(*id));
            }
            let remembered: Vec<String> = remembered.iter().map(|write| format!("{} {:?}", write.stamp, write.key)).collect();
            let note =
                format!("write {id}, {:?}, was visible with stamps {stamps:?}; remembered were {remembered:?}", write.named);
            self.notes.push(note);
        }
        shown.into_keys().collect()
    }

    /// What is wrong if these ids are visible at the end, once all writes have been told. Empty: nothing.
    pub fn verdict(&self, visible: &BTreeSet<WriteId>) -> Vec<Violation> {
        self.found(visible).into_iter().filter(|violation| !self.is_excused(violation)).collect()
    }

    /// Writes that may have been made more than once and showed twice or again when nodes need not have known them any more.
    pub fn resurfaced(&self, visible: &BTreeSet<WriteId>) -> usize {
        self.found(visible).iter().filter(|violation| self.is_excused(violation)).count()
    }

    /// Only a write that may have been made more than once, by what was known in the read that showed it twice, or last.
    fn is_excused(&self, violation: &Violation) -> bool {
        let (Violation::Doubled(id) | Violation::Resurrected(id, _)) = violation else { return false };
        let Some(write) = self.writes.get(id).filter(|write| write.repeated) else { return false };
        match violation {
            Violation::Doubled(_) => !self.violations.contains(violation),
            _ => write.forgotten,
        }
    }

    fn found(&self, visible: &BTreeSet<WriteId>) -> BTreeSet<Violation> {
        let mut violations = self.violations.clone();
        violations.extend(self.doubled.iter().copied().map(Violation::Doubled));
        let may_have_happened = |write: &Write| matches!(write.outcome, Outcome::Acknowledged | Outcome::Unknown);
        let happened = |write: &Write| write.outcome == Outcome::Acknowledged;
        let of = |test: &dyn Fn(&Write) -> bool| {
            let found = self.writes.iter().filter(|(_, write)| test(write));
            found.map(|(id, _)| *id).collect::<Vec<WriteId>>()
        };
        // Whoever is covered, through any chain, by a visible put or by a delete that may have happened.
        let tombstones = of(&|write| write.kind == Kind::Delete && may_have_happened(write));
        let accounted = self.covered_by(visible.iter().copied().chain(tombstones), may_have_happened);
        for id in of(&|write| write.kind == Kind::Put && happened(write)) {
            if !visible.contains(&id) && !accounted.contains_key(&id) {
                violations.insert(Violation::Lost(id));
            }
        }
        // Whatever an acknowledged write had read was there, and with it all that it had replaced.
        let replaced = self.covered_by(of(&happened).into_iter(), |_| true);
        let resurrected = visible.iter().filter_map(|id| Some(Violation::Resurrected(*id, *replaced.get(id)?)));
        violations.extend(resurrected);
        violations
    }

    /// What is known of a write: for whoever looks into a violation.
    pub fn describe(&self, id: WriteId) -> String {
        let Some(write) = self.writes.get(&id) else { return format!("write {id}: never submitted") };
        let by = self.writes.iter().filter(|(_, other)| other.covers.contains(&id));
        let by: Vec<String> = by.map(|(other, write)| format!("{other} ({:?}, {:?})", write.kind, write.outcome)).collect();
        let held = write.held.as_ref().map(|held| format!(", {held}")).unwrap_or_default();
        format!(
            "write {id}: {:?}, {:?}, covers {:?}, covered by [{}]{held}",
            write.kind,
            write.outcome,
            write.covers,
            by.join(", ")
        )
    }

    /// How many writes have this outcome.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.writes.values().filter(|write| write.outcome == outcome).count()
    }

    /// Whether a put below `before`, other than `but`, may have been made: what a create may have met.
    pub fn may_have_put(&self, before: WriteId, but: WriteId) -> bool {
        let puts = |(id, write): (&WriteId, &Write)| *id != but && write.kind == Kind::Put && write.outcome != Outcome::Failed;
        self.writes.range(..before).any(puts)
    }

    /// All that is known, a line a write, and what was known of those that were visible twice: for whoever looks into a violation.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.writes.keys().map(|id| self.describe(*id)).chain(self.notes.iter().cloned())
    }

    /// All ids that these writes cover, and those that they cover in turn as long as `passes` says so of the write between. Each
    /// with a write that covers it directly.
    fn covered_by(&self, from: impl Iterator<Item = WriteId>, passes: impl Fn(&Write) -> bool) -> BTreeMap<WriteId, WriteId> {
        let mut covered = BTreeMap::new();
        let mut open: Vec<WriteId> = from.collect();
        while let Some(id) = open.pop() {
            for below in self.writes.get(&id).into_iter().flat_map(|write| &write.covers) {
                let passes = self.writes.get(below).is_some_and(&passes);
                if covered.insert(*below, id).is_none() && passes {
                    open.push(*below);
                }
            }
        }
        covered
    }
}

/// Whether one version of the write with this request id, of this stamp, may show whatever became of the write's others: as many as can be
/// are remembered, and either it is older than those, or it is the first that is remembered of its write, and another was older.
fn is_forgotten(key: RequestKey, stamp: u64, remembered: &RecentWrites) -> bool {
    let full = remembered.iter().len() == REMEMBERED_MAX;
    let first_of_all = remembered.iter().next().map_or(0, |first| first.stamp);
    let own = remembered.iter().find(|write| write.key == key && write.stamp == stamp);
    full && own.map_or(stamp <= first_of_all, |own| remembered.first_of(key) == Some(own))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Outcome::{Acknowledged, Failed, Unknown};
    use Violation::{Doubled, FailedButVisible, Invented, Lost, Resurrected};
    use dynamo_core::id::{Incarnation, NodeId};
    use dynamo_core::recent_writes::RecentWrite;
    use dynamo_core::version::{Actor, Dot};

    /// (id, kind, what it covers, what its client was told)
    type Line = (WriteId, Kind, &'static [WriteId], Outcome);
    const PUT: Kind = Kind::Put;
    const DELETE: Kind = Kind::Delete;

    fn history(lines: &[Line]) -> History {
        let mut history = History::default();
        for (id, kind, covers, outcome) in lines {
            history.submitted(*id, *kind, covers.to_vec());
            history.told(*id, *outcome);
        }
        history
    }

    fn verdict(lines: &[Line], visible: &[WriteId]) -> Vec<Violation> {
        history(lines).verdict(&visible.iter().copied().collect())
    }

    fn id_of(value: &[u8]) -> Option<WriteId> {
        std::str::from_utf8(value).ok()?.parse().ok()
    }

    #[test]
    fn a_history_in_which_nothing_went_wrong_passes() {
        let lines: [Line; 6] = [
            (1, PUT, &[], Acknowledged),
            (2, PUT, &[1], Acknowledged),
            (3, PUT, &[], Acknowledged),
            (4, PUT, &[2], Failed),
            (5, PUT, &[2], Unknown),
            (6, DELETE, &[3], Acknowledged),
        ];
        assert_eq!(verdict(&lines, &[2]), [], "the unknown write did not happen");
        assert_eq!(verdict(&lines, &[5]), [], "the unknown write happened");
    }

    #[test]
    fn a_lost_write_is_caught() {
        assert_eq!(verdict(&[(1, PUT, &[], Acknowledged)], &[]), [Lost(1)]);
        // One of two siblings is gone: the write that won had not read it.
        let siblings: [Line; 3] = [(1, PUT, &[], Acknowledged), (2, PUT, &[], Acknowledged), (3, PUT, &[1], Acknowledged)];
        assert_eq!(verdict(&siblings, &[3]), [Lost(2)]);
        let known = "write 1: Put, Acknowledged, covers [], covered by [3 (Put, Acknowledged)]";
        assert_eq!(history(&siblings).describe(1), known);
        let mut history = history(&siblings);
        history.held(1, Held { by: "a and b".into(), since_ms: 86_400_000 + 3_723_004 });
        assert_eq!(history.describe(1), format!("{known}, at 01:02:03.004Z held by a and b"));
    }

    #[test]
    fn a_write_that_took_no_effect_takes_nobodys_place() {
        let failed: [Line; 2] = [(1, PUT, &[], Acknowledged), (2, PUT, &[1], Failed)];
        assert_eq!(verdict(&failed, &[]), [Lost(1)]);
        // If 2 happened it would be visible; if it did not, 1 would be.
        let unknown: [Line; 2] = [(1, PUT, &[], Acknowledged), (2, PUT, &[1], Unknown)];
        assert_eq!(verdict(&unknown, &[]), [Lost(1)]);
        // A chain that ends at something visible is fine.
        let chain: [Line; 3] = [(1, PUT, &[], Acknowledged), (2, PUT, &[1], Unknown), (3, PUT, &[2], Acknowledged)];
        assert_eq!(verdict(&chain, &[3]), []);
        // A failed write in the middle breaks it.
        let broken: [Line; 3] = [(1, PUT, &[], Acknowledged), (2, PUT, &[1], Failed), (3, PUT, &[2], Acknowledged)];
        assert_eq!(verdict(&broken, &[3]), [Lost(1)]);
    }

    #[test]
    fn a_delete_accounts_for_what_it_covers_and_for_nothing_else() {
        for outcome in [Acknowledged, Unknown] {
            let lines: [Line; 3] = [(1, PUT, &[], Acknowledged), (2, DELETE, &[1], outcome), (3, PUT, &[], Acknowledged)];
            assert_eq!(verdict(&lines, &[]), [Lost(3)]);
        }
        assert_eq!(verdict(&[(1, PUT, &[], Acknowledged), (2, DELETE, &[1], Failed)], &[]), [Lost(1)]);
    }

    #[test]
    fn a_resurrected_write_is_caught() {
        let replaced: [Line; 2] = [(1, PUT, &[], Acknowledged), (2, PUT, &[1], Acknowledged)];
        assert_eq!(verdict(&replaced, &[1, 2]), [Resurrected(1, 2)]);
        let deleted: [Line; 2] = [(1, PUT, &[], Acknowledged), (2, DELETE, &[1], Acknowledged)];
        assert_eq!(verdict(&deleted, &[1]), [Resurrected(1, 2)]);
        // Through a write of unknown outcome, which the acknowledged one had read: so it happened.
        let chain: [Line; 3] = [(1, PUT, &[], Acknowledged), (2, PUT, &[1], Unknown), (3, PUT, &[2], Acknowledged)];
        assert_eq!(verdict(&chain, &[1, 3]), [Resurrected(1, 2)]);
        // A delete of unknown outcome obliges to nothing.
        let unknown: [Line; 2] = [(1, PUT, &[], Acknowledged), (2, DELETE, &[1], Unknown)];
        assert_eq!(verdict(&unknown, &[1]), []);
    }

    fn key(id: WriteId) -> RequestKey {
        RequestKey(u128::from(id).to_be_bytes())
    }

    /// 1, which 2 replaces, and 3; then many others with request ids, each sent once and acknowledged. 1 has a request id, or not, and may
    /// have been made more than once, or not.
    fn replaced_long_ago(named: bool, repeated: bool) -> History {
        let mut history = History::default();
        history.submitted(1, PUT, Vec::new());
        if named {
            history.named(1, NAME);
        }
        if repeated {
            history.repeated(1);
        }
        history.told(1, Acknowledged);
        for (id, covers) in [(2, vec![1]), (3, Vec::new())] {
            history.submitted(id, PUT, covers);
            history.told(id, Acknowledged);
        }
        for id in 100..100 + 4 * REMEMBERED_MAX as WriteId {
            history.submitted(id, PUT, Vec::new());
            history.named(id, key(id));
            history.told(id, Acknowledged);
        }
        history
    }

    /// What is wrong if 1 shows again with this stamp, where this is remembered; and what is excused of it.
    fn shown_again(mut history: History, stamp: u64, remembered: &RecentWrites) -> (Vec<Violation>, usize) {
        let others = history.writes.keys().copied().filter(|id| *id >= 100).collect::<Vec<_>>();
        let values: [(&[u8], u64); 3] = [(b"1", stamp), (b"2", 50), (b"3", 51)];
        let ids = history.read(values.into_iter(), remembered, id_of);
        let visible = others.into_iter().chain(ids).collect();
        (history.verdict(&visible), history.resurfaced(&visible))
    }

    #[test]
    fn only_a_write_that_may_have_been_made_twice_and_may_be_forgotten_may_show_again() {
        let (violation, excused) = (|| (vec![Resurrected(1, 2)], 0), (Vec::new(), 1));
        let forgotten = remembered(&[], 30..30 + REMEMBERED_MAX as u64);
        assert_eq!(shown_again(replaced_long_ago(true, true), 10, &forgotten), excused);
        assert_eq!(shown_again(replaced_long_ago(true, false), 10, &forgotten), violation(), "it was made once");
        for repeated in [false, true] {
            assert_eq!(shown_again(replaced_long_ago(false, repeated), 10, &forgotten), violation(), "it has no request id");
        }
        // However many writes with ids came after it.
        for known in [remembered(&[10], 30..30 + REMEMBERED_MAX as u64 - 2), RecentWrites::default()] {
            assert_eq!(shown_again(replaced_long_ago(true, true), 10, &known), violation(), "there is room for another");
        }
        let lost = replaced_long_ago(true, true).verdict(&(100..1_000).chain([2]).collect());
        assert_eq!(lost, [Lost(3)], "losses are never excused");
        assert_eq!(replaced_long_ago(true, true).repeated_of_named(), (1, 1 + 4 * REMEMBERED_MAX));
        assert_eq!(replaced_long_ago(false, true).repeated_of_named(), (0, 4 * REMEMBERED_MAX));
    }

    #[test]
    fn a_create_may_have_met_a_put_that_was_begun_before_and_did_not_fail() {
        let lines: [Line; 4] =
            [(1, PUT, &[], Failed), (2, DELETE, &[], Acknowledged), (3, PUT, &[], Unknown), (4, PUT, &[], Acknowledged)];
        let history = history(&lines);
        for (before, but, expected) in [(3, 9, false), (4, 9, true), (4, 3, false), (5, 3, true)] {
            assert_eq!(history.may_have_put(before, but), expected, "before {before}, but {but}");
        }
    }

    #[test]
    fn an_invented_write_is_caught() {
        let mut history = history(&[(1, PUT, &[], Acknowledged), (2, DELETE, &[], Acknowledged)]);
        let values: [(&[u8], u64); 4] = [(b"1", 1), (b"7", 2), (b"not an id", 3), (b"2", 4)];
        let ids = history.read(values.into_iter(), &RecentWrites::default(), id_of);
        assert_eq!(ids, BTreeSet::from([1]));
        let invented = ["2", "7", "not an id"].map(|value| Invented(value.to_owned()));
        assert_eq!(history.verdict(&ids), invented);
    }

    const NAME: RequestKey = RequestKey([1; 16]);

    /// What is remembered: attempts of the write under [`NAME`] with these stamps, and others' with those.
    fn remembered(own: &[u64], others: impl IntoIterator<Item = u64>) -> RecentWrites {
        let mut writes = RecentWrites::default();
        let own = own.iter().map(|stamp| (NAME, *stamp));
        for (key, stamp) in own.chain(others.into_iter().map(|stamp| (RequestKey([2; 16]), stamp))) {
            let actor = Actor { node: NodeId([3; 16]), incarnation: Incarnation(1) };
            writes.insert(RecentWrite { stamp, key, dot: Dot { actor, counter: stamp } });
        }
        writes
    }

    /// A put under [`NAME`] was visible twice, with the stamps 10 and 20, where this was remembered.
    fn twice(repeated: bool, remembered: &RecentWrites) -> (Vec<Violation>, usize) {
        let mut history = History::default();
        history.submitted(1, PUT, Vec::new());
        history.named(1, NAME);
        if repeated {
            history.repeated(1);
        }
        history.told(1, Unknown);
        let values: [(&[u8], u64); 2] = [(b"1", 10), (b"1", 20)];
        let ids = history.read(values.into_iter(), remembered, id_of);
        assert_eq!(ids, BTreeSet::from([1]));
        assert!(history.lines().any(|line| line.contains("was visible with stamps [10, 20]")), "nothing is told of it");
        (history.verdict(&ids), history.resurfaced(&ids))
    }

    #[test]
    fn a_write_may_be_visible_twice_only_where_an_attempt_is_older_than_all_that_is_remembered() {
        const ALL: u64 = REMEMBERED_MAX as u64;
        let (violation, excused) = ((vec![Doubled(1)], 0), (Vec::new(), 1));
        let after = |stamp: u64, count: u64| stamp..stamp + count;
        for (own, others, expected, why) in [
            (&[][..], after(30, 0), &violation, "nothing is remembered"),
            (&[20], after(30, ALL - 2), &violation, "there was room for the other"),
            (&[20], after(30, ALL - 1), &excused, "there was none"),
            (&[20], after(5, ALL - 1), &violation, "the others are older"),
            (&[10, 20], after(30, ALL - 2), &violation, "both are remembered"),
            (&[], after(30, ALL), &excused, "none is, and others are"),
            (&[], after(15, ALL), &violation, "one of them is newer than those"),
        ] {
            assert_eq!(&twice(true, &remembered(own, others)), expected, "{why}");
        }
        assert_eq!(twice(false, &remembered(&[20], after(30, ALL - 1))), violation, "it was made once");
        let mut unnamed = history(&[(1, PUT, &[], Acknowledged)]);
        let values: [(&[u8], u64); 2] = [(b"1", 10), (b"1", 20)];
        let ids = unnamed.read(values.into_iter(), &remembered(&[], after(30, ALL)), id_of);
        assert_eq!(unnamed.verdict(&ids), [Doubled(1)]);
    }

    #[test]
    fn a_write_may_be_visible_again_where_it_is_older_than_all_that_is_remembered() {
        for (stamp, expected) in [(29, (Vec::new(), 1)), (31, (vec![Resurrected(1, 2)], 0))] {
            let known = remembered(&[], 30..30 + REMEMBERED_MAX as u64);
            assert_eq!(shown_again(replaced_long_ago(true, true), stamp, &known), expected);
        }
    }

    #[test]
    fn a_failed_write_that_anybody_ever_saw_is_caught() {
        let one: [(&[u8], u64); 1] = [(b"1", 1)];
        let mut seen_after = history(&[(1, PUT, &[], Failed)]);
        seen_after.read(one.into_iter(), &RecentWrites::default(), id_of);
        assert_eq!(seen_after.verdict(&BTreeSet::new()), [FailedButVisible(1)]);
        let mut seen_before = History::default();
        seen_before.submitted(1, PUT, Vec::new());
        seen_before.read(one.into_iter(), &RecentWrites::default(), id_of);
        assert_eq!(seen_before.verdict(&BTreeSet::new()), []);
        seen_before.told(1, Failed);
        assert_eq!(seen_before.verdict(&BTreeSet::new()), [FailedButVisible(1)]);
    }
}
