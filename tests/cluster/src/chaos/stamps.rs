//! What must be true of a key of a bucket in which the last writer wins, judged from the outside.
//!
//! What is promised there: a get shows one version, and an acknowledged write gives way only to one that knew it or has a higher stamp,
//! whatever clocks do. The simulator judges that with every stamp before it (`dynamo_sim::checkers::last_writer_wins`). A client sees
//! the stamps of what it reads, and no others, so this is what it can say:
//!
//! - What it says of any bucket ([`History`]): no invention, no resurrection of what a context covered, nothing visible that failed.
//! - **One version.** No get shows two, and a version that was made once has one stamp.
//! - **Never an older one.** A write that nobody's context covered has given way to what is shown only if that has the higher stamp.
//!   Its own stamp is known if somebody read it. If not, it is not below the time at which it was begun: a coordinator takes its wall
//!   clock, or more. That holds unless some clock was behind meanwhile. What is shown may have covered a version with a higher stamp than
//!   its own: who covers it has read it, so that stamp is known too, and counts.
//! - **Never nothing.** Without a delete, a key with an acknowledged put shows something.
//!
//! Two things are not seen from here. A *tombstone* shows no stamp, and a get that found nothing has a context that covers it, with all
//! that it hides. So a key with a delete is judged by stamps only if no clock was wrong in its whole life: then stamps are times, and a
//! delete that was over before a put was begun hides nothing of it. A write with a *request id* may be made twice, if the client library
//! sends it again or a node forwards it, and the second attempt may replace what came since: with one that may have been, a key is not
//! judged by stamps, and that one may show again. Of those that were made once for certain (`History::repeated`) nothing is excused.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use dynamo_core::id::RequestKey;
use dynamo_core::recent_writes::RecentWrites;
use dynamoctl::workload::checker::{self, History, Kind, Outcome, WriteId};

use super::clocks::Clocks;

/// The machine's clock may be set by so much meanwhile.
const SLACK_MS: u64 = 50;

/// A version that a get returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shown {
    /// The write.
    pub id: WriteId,
    /// Its stamp.
    pub stamp: u64,
}

#[derive(Debug)]
struct Write {
    kind: Kind,
    covers: Vec<WriteId>,
    outcome: Outcome,
    begun_ms: u64,
    /// When it was over: never, if nobody knows its outcome.
    over_ms: u64,
    /// As a read showed it.
    stamp: Option<u64>,
}

/// What must not be.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Violation {
    /// What is one in every bucket.
    Of(checker::Violation),
    /// A get showed more than one version.
    Siblings(Vec<WriteId>),
    /// A write that was made once has two stamps.
    MadeTwice(WriteId, u64, u64),
    /// An acknowledged write is not shown, and what is shown is older.
    GaveWayToOlder {
        /// The write.
        write: WriteId,
        /// Its stamp, at least.
        stamp: u64,
        /// What is shown.
        shown: WriteId,
        /// The highest stamp that the write may have given way to.
        newest: u64,
    },
    /// Nothing is shown, and no delete accounts for that.
    Lost(WriteId),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Of(violation) => violation.fmt(f),
            Self::Siblings(ids) => write!(f, "siblings: {ids:?} were shown together where the last writer wins"),
            Self::MadeTwice(id, one, other) => {
                write!(f, "made twice: write {id} was shown with stamp {one} and with stamp {other}")
            }
            Self::GaveWayToOlder { write, stamp, shown, newest } => write!(
                f,
                "gave way to an older one: acknowledged write {write} has stamp {stamp} at least; write {shown} is shown, and nothing \
                 that replaced it is newer than {newest}"
            ),
            Self::Lost(id) => write!(f, "lost: acknowledged write {id} is not shown, nothing else is, and no delete hides it"),
        }
    }
}

/// All reads and writes of one key.
#[derive(Debug, Default)]
pub struct StampHistory {
    history: History,
    writes: BTreeMap<WriteId, Write>,
    violations: BTreeSet<Violation>,
}

impl StampHistory {
    /// A write is about to be sent, perhaps with a request id.
    pub fn submitted(&mut self, id: WriteId, kind: Kind, covers: Vec<WriteId>, name: Option<RequestKey>, now_ms: u64) {
        self.history.submitted(id, kind, covers.clone());
        if let Some(name) = name {
            self.history.named(id, name);
        }
        let (outcome, over_ms) = (Outcome::Pending, u64::MAX);
        self.writes.insert(id, Write { kind, covers, outcome, begun_ms: now_ms, over_ms, stamp: None });
    }

    /// It may have been made more than once, if it has a request id.
    pub fn repeated(&mut self, id: WriteId) {
        self.history.repeated(id);
    }

    /// Its client was told this.
    pub fn told(&mut self, id: WriteId, outcome: Outcome, now_ms: u64) {
        self.history.told(id, outcome);
        if let Some(write) = self.writes.get_mut(&id) {
            write.outcome = outcome;
            write.over_ms = if outcome == Outcome::Unknown { u64::MAX } else { now_ms };
        }
    }

    /// A read returned these values, each with its stamp. Returns what it showed, if that was one version.
    pub fn read(&mut self, values: &[(&[u8], u64)], id_of: impl Fn(&[u8]) -> Option<WriteId>) -> Option<Shown> {
        // Which of several is shown goes by stamps here, so what the context remembers does not explain it.
        let ids = self.history.read(values.iter().copied(), &RecentWrites::default(), &id_of);
        if values.len() > 1 {
            self.violations.insert(Violation::Siblings(ids.into_iter().collect()));
            return None;
        }
        let (value, stamp) = *values.first()?;
        let id = id_of(value)?;
        let write = self.writes.get_mut(&id)?;
        let before = *write.stamp.get_or_insert(stamp);
        if before != stamp {
            self.violations.insert(Violation::MadeTwice(id, before, stamp));
        }
        write.stamp = Some(before.max(stamp));
        Some(Shown { id, stamp })
    }

    /// What is wrong if this is all that the replicas show at the end, once all writes have been told.
    pub fn verdict(&self, shown: Option<Shown>, clocks: &Clocks) -> Vec<Violation> {
        let visible: BTreeSet<WriteId> = shown.iter().map(|shown| shown.id).collect();
        // Whatever gave way by its stamp counts as lost there.
        let counts = |violation: &checker::Violation| {
            !matches!(violation, checker::Violation::Lost(_)) && !self.shows_again_rightly(violation)
        };
        let in_any_bucket = self.history.verdict(&visible).into_iter().filter(counts).map(Violation::Of);
        let by_stamp = self.acknowledged_and_gone(shown).filter_map(|(id, write)| self.gone(id, write, shown, clocks));
        let may_be_twice = |id: &WriteId| self.history.is_repeated(*id);
        let is_one = |violation: &&Violation| !matches!(violation, Violation::MadeTwice(id, ..) if may_be_twice(id));
        self.violations.iter().filter(is_one).cloned().chain(in_any_bucket).chain(by_stamp).collect()
    }

    fn shows_again_rightly(&self, violation: &checker::Violation) -> bool {
        matches!(violation, checker::Violation::Resurrected(id, _) if self.history.is_repeated(*id))
    }

    /// Writes that may have been made more than once and show again.
    pub fn resurfaced(&self, shown: Option<Shown>) -> usize {
        let found = self.history.verdict(&shown.iter().map(|shown| shown.id).collect());
        found.iter().filter(|violation| self.shows_again_rightly(violation)).count()
    }

    /// Writes that may have been made more than once, and all that have request ids.
    pub fn repeated_of_named(&self) -> (usize, usize) {
        self.history.repeated_of_named()
    }

    fn may_have_happened(&self) -> impl Iterator<Item = (WriteId, &Write)> {
        self.writes.iter().map(|(id, write)| (*id, write)).filter(|(_, write)| write.outcome != Outcome::Failed)
    }

    /// Covered by the context of a write that may have happened.
    fn covered(&self) -> BTreeSet<WriteId> {
        self.may_have_happened().flat_map(|(_, write)| write.covers.iter().copied()).collect()
    }

    /// Acknowledged writes that are not shown, and that no context covers.
    fn acknowledged_and_gone(&self, shown: Option<Shown>) -> impl Iterator<Item = (WriteId, &Write)> {
        let covered = self.covered();
        let is_shown = move |id: WriteId| shown.is_some_and(|shown| shown.id == id);
        self.may_have_happened()
            .filter(move |(id, write)| write.outcome == Outcome::Acknowledged && !covered.contains(id) && !is_shown(*id))
    }

    fn gone(&self, id: WriteId, write: &Write, shown: Option<Shown>, clocks: &Clocks) -> Option<Violation> {
        let deleted = self.may_have_happened().any(|(_, write)| write.kind == Kind::Delete);
        if deleted && clocks.were_wrong(self.begun_ms(), self.over_ms()) {
            return None;
        }
        let Some(shown) = shown else {
            let hides = |(_, other): (WriteId, &Write)| {
                other.kind == Kind::Delete && other.over_ms.saturating_add(SLACK_MS) >= write.begun_ms
            };
            let is_lost = write.kind == Kind::Put && !self.may_have_happened().any(hides);
            return is_lost.then_some(Violation::Lost(id));
        };
        if self.writes.keys().any(|id| self.history.is_repeated(*id)) {
            return None;
        }
        let of_covered = self.covered().into_iter().filter_map(|id| self.writes.get(&id)?.stamp).max();
        let newest = of_covered.map_or(shown.stamp, |stamp| stamp.max(shown.stamp));
        let stamp = lowest_stamp(write, clocks)?;
        (stamp > newest).then_some(Violation::GaveWayToOlder { write: id, stamp, shown: shown.id, newest })
    }

    fn begun_ms(&self) -> u64 {
        self.writes.values().map(|write| write.begun_ms).min().unwrap_or_default()
    }

    fn over_ms(&self) -> u64 {
        self.writes.values().map(|write| write.over_ms).max().unwrap_or_default()
    }

    /// All that is known, a line a write: for whoever looks into a violation.
    pub fn lines(&self) -> Vec<String> {
        let line = |(id, write): (&WriteId, &Write)| {
            let Write { begun_ms, over_ms, stamp, .. } = write;
            format!("{}, from {begun_ms} to {over_ms}, stamp {stamp:?}", self.history.describe(*id))
        };
        self.writes.iter().map(line).collect()
    }

    /// How many writes have this outcome.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.history.count(outcome)
    }
}

/// The stamp of a write, or what it is at least; if nothing can be said, nothing.
fn lowest_stamp(write: &Write, clocks: &Clocks) -> Option<u64> {
    let by_time = !clocks.were_behind(write.begun_ms, write.over_ms);
    write.stamp.or(by_time.then(|| write.begun_ms.saturating_sub(SLACK_MS)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Outcome::{Acknowledged, Failed, Unknown};

    const PUT: Kind = Kind::Put;
    const DELETE: Kind = Kind::Delete;
    /// Well apart, so that the slack plays no part.
    const SECOND: u64 = 1_000;

    /// Kind, what it covers, when it was begun and over in seconds, what its client was told, its stamp if it was read.
    type Line<'a> = (Kind, &'a [WriteId], u64, u64, Outcome, Option<u64>);

    fn id_of(value: &[u8]) -> Option<WriteId> {
        std::str::from_utf8(value).ok()?.parse().ok()
    }

    /// With request ids, and perhaps made more than once, or without.
    fn history(lines: &[Line], (named, repeated): (bool, bool)) -> StampHistory {
        let mut history = StampHistory::default();
        for (id, (kind, covers, begun, ..)) in (1..).zip(lines) {
            history.submitted(id, *kind, covers.to_vec(), named.then_some(RequestKey([id as u8; 16])), begun * SECOND);
            if repeated {
                history.repeated(id);
            }
        }
        for (id, (.., stamp)) in (1..).zip(lines) {
            if let Some(stamp) = stamp {
                history.read(&[(id.to_string().as_bytes(), stamp * SECOND)], id_of);
            }
        }
        for (id, (_, _, _, over, outcome, _)) in (1..).zip(lines) {
            history.told(id, *outcome, over * SECOND);
        }
        history
    }

    fn verdict(lines: &[Line], shown: Option<(WriteId, u64)>, clocks: &Clocks) -> Vec<&'static str> {
        let shown = shown.map(|(id, stamp)| Shown { id, stamp: stamp * SECOND });
        let told = |violation: Violation| match violation {
            Violation::Of(_) => "of any bucket",
            Violation::Siblings(_) => "siblings",
            Violation::MadeTwice(..) => "made twice",
            Violation::GaveWayToOlder { .. } => "older",
            Violation::Lost(_) => "lost",
        };
        history(lines, (false, false)).verdict(shown, clocks).into_iter().map(told).collect()
    }

    #[test]
    fn an_acknowledged_write_gives_way_to_a_newer_one_only() {
        let early: Line = (PUT, &[], 1, 2, Acknowledged, Some(1));
        let late: Line = (PUT, &[], 10, 11, Acknowledged, None);
        let clocks = Clocks::default();
        assert_eq!(verdict(&[early, late], Some((2, 10)), &clocks), [""; 0]);
        assert_eq!(
            verdict(&[early, late], Some((1, 1)), &clocks),
            ["older"],
            "it was begun later than what is shown was stamped"
        );
        assert_eq!(verdict(&[early, late], None, &clocks), ["lost", "lost"]);
        assert_eq!(verdict(&[(PUT, &[], 1, 2, Acknowledged, Some(20)), late], Some((1, 20)), &clocks), [""; 0]);
        let at_once: Line = (PUT, &[], 1, 2, Acknowledged, None);
        assert_eq!(verdict(&[early, at_once], Some((1, 1)), &clocks), [""; 0], "either may have the higher stamp");
        let read: Line = (PUT, &[], 1, 2, Acknowledged, Some(2));
        assert_eq!(verdict(&[early, read], Some((1, 1)), &clocks), ["older"], "its stamp was seen");
        for outcome in [Unknown, Failed] {
            let late: Line = (PUT, &[], 10, 11, outcome, None);
            assert_eq!(verdict(&[early, late], Some((1, 1)), &clocks), [""; 0], "{outcome:?}");
        }
    }

    #[test]
    fn who_covers_a_write_may_be_older_than_it_and_than_what_it_had_hidden() {
        let clocks = Clocks::default();
        let lines: [Line; 3] = [
            (PUT, &[], 1, 2, Acknowledged, None),
            // By a clock that was ahead.
            (PUT, &[], 1, 2, Acknowledged, Some(50)),
            (PUT, &[2], 10, 11, Acknowledged, Some(10)),
        ];
        assert_eq!(verdict(&lines, Some((3, 10)), &clocks), [""; 0]);
        let beyond: Line = (PUT, &[], 60, 61, Acknowledged, None);
        assert_eq!(verdict(&[lines[0], lines[1], lines[2], beyond], Some((3, 10)), &clocks), ["older"]);
        assert_eq!(verdict(&lines, Some((2, 50)), &clocks), ["of any bucket"], "a context covered it");
    }

    #[test]
    fn a_clock_that_was_behind_says_nothing_of_what_was_begun_then() {
        let early: Line = (PUT, &[], 1, 2, Acknowledged, Some(1));
        let late: Line = (PUT, &[], 10, 11, Acknowledged, None);
        let clocks = Clocks::default();
        clocks.set_off(0, 3_600, 10 * SECOND);
        clocks.set_right(0, 11 * SECOND);
        assert_eq!(verdict(&[early, late], Some((1, 1)), &clocks), ["older"], "ahead, its stamp is only higher");
        clocks.set_off(0, -3_600, 11 * SECOND);
        clocks.set_right(0, 12 * SECOND);
        assert_eq!(verdict(&[early, late], Some((1, 1)), &clocks), [""; 0]);
        assert_eq!(
            verdict(&[early, (PUT, &[], 10, 11, Acknowledged, Some(10))], Some((1, 1)), &clocks),
            ["older"],
            "it was read"
        );
    }

    #[test]
    fn a_delete_gives_way_to_a_newer_one_only_and_hides_what_it_may_have_met() {
        let clocks = Clocks::default();
        let put: Line = (PUT, &[], 1, 2, Acknowledged, Some(1));
        let delete: Line = (DELETE, &[], 10, 11, Acknowledged, None);
        let put_then: Line = (PUT, &[], 20, 21, Acknowledged, None);
        assert_eq!(verdict(&[put, delete], None, &clocks), [""; 0]);
        assert_eq!(verdict(&[put, delete], Some((1, 1)), &clocks), ["older"]);
        assert_eq!(
            verdict(&[put, (DELETE, &[1], 10, 11, Acknowledged, None)], Some((1, 1)), &clocks),
            ["of any bucket", "older"]
        );
        assert_eq!(verdict(&[put, delete, put_then], None, &clocks), ["lost"], "the delete was over before");
        assert_eq!(verdict(&[put, delete, (PUT, &[], 11, 12, Acknowledged, None)], None, &clocks), [""; 0], "at the same time");
        let unknown: Line = (DELETE, &[], 10, 11, Unknown, None);
        assert_eq!(verdict(&[put, unknown, put_then], None, &clocks), [""; 0], "it may have come later");
        clocks.set_off(0, 3_600, 5 * SECOND);
        clocks.set_right(0, 6 * SECOND);
        assert_eq!(verdict(&[put, delete], Some((1, 1)), &clocks), [""; 0], "nobody knows the stamp of a tombstone");
        assert_eq!(verdict(&[put, delete, put_then], None, &clocks), [""; 0]);
    }

    #[test]
    fn a_get_shows_one_version_and_a_write_that_is_made_once_has_one_stamp() {
        let lines: [Line; 2] = [(PUT, &[], 1, 2, Acknowledged, Some(1)), (PUT, &[], 1, 2, Acknowledged, Some(1))];
        const ONCE: (bool, bool) = (true, false);
        for (made, values, expected) in [
            ((false, false), &[("1", 1), ("2", 1)][..], Some(Violation::Siblings(vec![1, 2]))),
            ((false, false), &[("1", 2)], Some(Violation::MadeTwice(1, SECOND, 2 * SECOND))),
            (ONCE, &[("1", 2)], Some(Violation::MadeTwice(1, SECOND, 2 * SECOND))),
            ((true, true), &[("1", 2)], None),
            ((false, false), &[("1", 1)], None),
        ] {
            let mut history = history(&lines, made);
            let values: Vec<(&[u8], u64)> = values.iter().map(|(value, stamp)| (value.as_bytes(), stamp * SECOND)).collect();
            history.read(&values, id_of);
            let found: Vec<Violation> = history.verdict(Some(Shown { id: 1, stamp: SECOND }), &Clocks::default());
            assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{values:?}");
        }
    }

    #[test]
    fn where_a_write_may_have_been_made_twice_no_stamp_is_judged_but_nothing_may_vanish() {
        let lines: [Line; 2] = [(PUT, &[], 1, 2, Acknowledged, Some(1)), (PUT, &[], 10, 11, Acknowledged, None)];
        let shown = Some(Shown { id: 1, stamp: SECOND });
        let twice = history(&lines, (true, true));
        assert_eq!(twice.verdict(shown, &Clocks::default()), []);
        assert_eq!(twice.verdict(None, &Clocks::default()), [Violation::Lost(1), Violation::Lost(2)]);
        let once = history(&lines, (true, false)).verdict(shown, &Clocks::default());
        assert!(matches!(once[..], [Violation::GaveWayToOlder { write: 2, shown: 1, .. }]), "{once:?}");
    }

    #[test]
    fn only_a_write_that_may_have_been_made_twice_may_show_again_and_that_is_counted() {
        let lines: [Line; 2] = [(PUT, &[], 1, 2, Acknowledged, Some(1)), (PUT, &[1], 3, 4, Acknowledged, None)];
        let shown = Some(Shown { id: 1, stamp: SECOND });
        let resurrected = || vec![Violation::Of(checker::Violation::Resurrected(1, 2))];
        for (made, found, resurfaced) in [((false, false), 1, 0), ((true, false), 1, 0), ((true, true), 0, 1)] {
            let history = history(&lines, made);
            let found = if found == 1 { resurrected() } else { Vec::new() };
            let mut of_any_bucket = history.verdict(shown, &Clocks::default());
            of_any_bucket.retain(|violation| matches!(violation, Violation::Of(_)));
            assert_eq!((of_any_bucket, history.resurfaced(shown)), (found, resurfaced), "{made:?}");
        }
    }
}
