//! I10, I11: whatever is dropped is safe elsewhere.
//!
//! An acknowledgement rests on so many copies on stable storage. When a copy or a hint is dropped, or a host taken away, as many
//! must be left, on other hosts: of that version, or of one that has seen it.

use crate::disk::Dropped;
use crate::ledger::Verdict;
use crate::schedule::HostId;
use crate::simulation::Simulation;

/// Whether `from` may drop these.
pub fn check(sim: &mut Simulation, from: HostId, dropped: &[Dropped]) -> Verdict {
    for what in dropped {
        // Those on a disk that is lost since are gone already.
        let required = sim.witness().copies_of(what.dot).saturating_sub(sim.lost());
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
