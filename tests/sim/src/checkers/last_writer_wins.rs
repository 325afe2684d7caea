//! I1 where the last writer wins: an acknowledged write gives way only to one that had seen it or that has a higher stamp.
//!
//! Which write knew which is not known to clients here: a put replaces all that its coordinator knew. But whatever it replaces
//! so has a lower stamp, so stamps and contexts together tell what may be gone: all that a write covers which took effect, and
//! all below the highest stamp of those that did. A write took effect if it is visible, or gave way to one that did. A delete that
//! was acknowledged took effect; of any other, what counts is a tombstone that was seen: what that superseded, or has a lower stamp.
//! Concurrent writes may be lost, that is the bucket's bargain; the one with the highest stamp may not.

use std::collections::BTreeSet;

use dynamo_core::name::Name;

use crate::ledger::{Fate, Ledger, Verdict, Visible};
use crate::witness::{Stamp, Witness, WriteId};

/// The writes of `name` that may be invisible when these are shown.
fn gave_way(ledger: &Ledger, witness: &Witness, name: &Name, shown: &BTreeSet<WriteId>) -> BTreeSet<WriteId> {
    let mut gave_way = BTreeSet::new();
    // Which delete made which tombstone is not known.
    let mut newest: Option<Stamp> = witness.tombstone_of(name);
    loop {
        let before = (gave_way.len(), newest);
        for (id, write) in ledger.of_name(name).filter(|(_, write)| write.fate != Fate::Failed) {
            let stamps = witness.stamps_of(id);
            if stamps.is_some_and(|(lowest, _)| newest.is_some_and(|newest| lowest < newest)) {
                gave_way.insert(id);
            }
            if shown.contains(&id) || gave_way.contains(&id) || ledger.shares_its_id(id) {
                gave_way.extend(&write.covers);
                newest = newest.max(stamps.map(|(_, highest)| highest));
            } else if write.delete {
                gave_way.extend(Ledger::deleted_by(write, |lower| witness.is_buried(lower)));
            }
        }
        if before == (gave_way.len(), newest) {
            return gave_way;
        }
    }
}

/// Quorums that overlap: a read that `returned` this meets each of `earlier`, or what it gave way to.
pub fn meets(
    ledger: &Ledger,
    witness: &Witness,
    name: &Name,
    returned: &BTreeSet<WriteId>,
    earlier: &BTreeSet<WriteId>,
) -> Verdict {
    if returned.len() > 1 {
        return Err(("the last writer wins", format!("{name:?} returned {returned:?}, more than one")));
    }
    let gave_way = gave_way(ledger, witness, name, returned);
    // A delete is shown to nobody: what its tombstone's stamp hides is for the verdict in the end.
    let shows = |id: &WriteId| ledger.get(*id).is_some_and(|write| !write.delete) && !ledger.shares_its_id(*id);
    match earlier.iter().find(|id| shows(id) && !returned.contains(id) && !gave_way.contains(id)) {
        None => Ok(()),
        Some(missed) => {
            let what = format!("{name:?} returned {returned:?} without {missed:?}, which has a higher stamp, and R + W > N");
            Err(("the last writer wins", what))
        }
    }
}

/// Whether `visible` is a possible end, and how many acknowledged writes gave way.
/// What rests on no more copies than disks were `lost` may be gone.
pub fn judge(ledger: &Ledger, witness: &Witness, visible: &Visible, lost: usize) -> Result<u64, (&'static str, String)> {
    let mut replaced = 0;
    for name in ledger.names_by_stamp() {
        let shown = visible.get(name).cloned().unwrap_or_default();
        if shown.len() > 1 {
            return Err(("the last writer wins", format!("{name:?} shows {shown:?} in the end, more than one")));
        }
        let gave_way = gave_way(ledger, witness, name, &shown);
        let acknowledged =
            ledger.of_name(name).filter(|(_, write)| write.fate == Fate::Ok && !write.delete && write.durable > lost);
        for (id, _) in acknowledged.filter(|(id, _)| !shown.contains(id) && !ledger.shares_its_id(*id)) {
            if !gave_way.contains(&id) {
                let what = format!("{id:?} of {name:?} was acknowledged with a higher stamp than {shown:?}, which is visible");
                return Err(("I1 where the last writer wins", what));
            }
            replaced += 1;
        }
    }
    Ok(replaced)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_core::id::{Incarnation, NodeId};
    use dynamo_core::version::{Actor, CausalContext, Dot, Object, Value};

    /// Whether a write is a delete, and what its client was told.
    type Made = (bool, Fate);
    const PUT: Made = (false, Fate::Ok);
    const DELETE: Made = (true, Fate::Ok);
    const OPEN: Made = (true, Fate::Unknown);

    #[test]
    fn the_verdict_follows_from_stamps_and_from_what_covers_what() {
        // Each write: stamp, if it was stored; what it covers; what it is. Then what is visible, and whether that may be.
        type Writes<'a> = &'a [(Option<u64>, &'a [u64], Made)];
        let cases: [(&str, Writes, &[u64], bool); 11] = [
            ("one write", &[(Some(10), &[], PUT)], &[1], true),
            ("one write, lost", &[(Some(10), &[], PUT)], &[], false),
            ("the higher stamp", &[(Some(10), &[], PUT), (Some(20), &[], PUT)], &[2], true),
            ("the lower stamp", &[(Some(10), &[], PUT), (Some(20), &[], PUT)], &[1], false),
            ("the lower stamp, which had seen the higher", &[(Some(20), &[], PUT), (Some(10), &[1], PUT)], &[2], true),
            (
                "and what the higher had replaced",
                &[(Some(15), &[], PUT), (Some(20), &[], PUT), (Some(10), &[2], PUT)],
                &[3],
                true,
            ),
            ("both", &[(Some(10), &[], PUT), (Some(20), &[], PUT)], &[1, 2], false),
            ("a delete that came to nothing, and the write is lost", &[(Some(10), &[], PUT), (None, &[1], OPEN)], &[], false),
            ("one that nobody was told of, and took effect", &[(Some(10), &[], PUT), (Some(20), &[1], OPEN)], &[], true),
            ("the same by a clock that was behind", &[(Some(20), &[], PUT), (Some(10), &[1], OPEN)], &[], true),
            ("one that was acknowledged", &[(Some(20), &[], PUT), (Some(10), &[1], DELETE)], &[], true),
        ];
        let name = Name::new("sessions", "k");
        let actor = Actor { node: NodeId([1; 16]), incarnation: Incarnation(1) };
        for (what, writes, visible, may_be) in cases {
            let mut ledger = Ledger::with_stamps_in(["sessions".into()].into());
            let mut witness = Witness::default();
            for (stored, covers, (delete, fate)) in writes {
                let id = ledger.begin(name.clone(), *delete, covers.iter().map(|id| WriteId(*id)).collect(), 1);
                ledger.settle(id, *fate);
                let Some(written_ms) = *stored else { continue };
                let mut object = Object::default();
                let value = Value { data: (!delete).then(|| id.value()), written_ms };
                let counters = covers.iter().max().map(|counter| (actor, *counter));
                let seen = CausalContext(counters.into_iter().collect(), Default::default());
                object.update(&seen, Dot { actor, counter: id.0 }, value);
                witness.saw(&name, &object);
            }
            let visible = [(name.clone(), visible.iter().map(|id| WriteId(*id)).collect())].into();
            let verdict = judge(&ledger, &witness, &visible, 0);
            assert_eq!(verdict.is_ok(), may_be, "{what}: {verdict:?}");
            assert!(ledger.judge(&visible, 0, |_| false).is_ok(), "{what}: the ledger leaves such buckets to stamps");
        }
    }
}
