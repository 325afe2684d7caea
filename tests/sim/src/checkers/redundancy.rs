//! I10, I11: whatever is dropped is safe elsewhere.
//!
//! An acknowledgement rests on so many copies on stable storage. When a copy or a hint is dropped, or a host taken away, as many
//! must be left, on other hosts: of that version, or of one that has seen it. Copies on disks that were lost are not asked for.

use crate::disk::Dropped;
use crate::ledger::Verdict;
use crate::schedule::HostId;
use crate::simulation::Simulation;

/// Whether `from` may drop these.
pub fn check(sim: &mut Simulation, from: HostId, dropped: &[Dropped]) -> Verdict {
    if sim.is_lost(from) {
        return Ok(());
    }
    for what in dropped {
        let lost = sim.witness().write_of(what.dot).map_or(0, |write| sim.copies_lost(write));
        let required = sim.witness().copies_of(what.dot).saturating_sub(lost);
        if required == 0 {
            continue;
        }
        sim.totals.removals_checked += 1;
        let left = sim
            .hosts()
            .filter(|host| *host != from && !sim.is_removed(*host) && !sim.is_lost(*host) && sim.disk(*host).is_durable(what))
            .count();
        // The host itself may keep another copy: a hint that became its own, or the reverse.
        let kept = usize::from(!sim.is_removed(from) && sim.disk(from).keeps(what));
        if left + kept < required {
            let what =
                format!("host {} drops {what:?}: {left} others have it on stable storage, {required} were promised", from.0);
            return Err(("I10 nothing is dropped before enough others have it", what));
        }
    }
    Ok(())
}
