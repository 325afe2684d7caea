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
        let required = sim.witness().copies_of(what.dot);
        if required == 0 {
            continue;
        }
        sim.totals.removals_checked += 1;
        // A write that was retried may have several dots. Any of them will do: they are the same write.
        let dots = sim.witness().same_write(what.dot);
        let same: Vec<Dropped> = dots.into_iter().map(|dot| Dropped { name: what.name.clone(), dot }).collect();
        let durable = |host: HostId| same.iter().any(|what| sim.disk(host).is_durable(what));
        let left = sim.hosts().filter(|host| *host != from && !sim.is_removed(*host) && durable(*host)).count();
        // The host itself may keep another copy: a hint that became its own, or the reverse.
        let kept = usize::from(!sim.is_removed(from) && same.iter().any(|what| sim.disk(from).keeps(what)));
        if left + kept < required {
            let what =
                format!("host {} drops {what:?}: {left} others have it on stable storage, {required} were promised", from.0);
            return Err(("I10 nothing is dropped before enough others have it", what));
        }
    }
    Ok(())
}
