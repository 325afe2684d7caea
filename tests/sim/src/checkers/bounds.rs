//! I16: what has a named bound keeps it.

use dynamo_core::node::status::Status;

use crate::ledger::Verdict;
use crate::schedule::HostId;
use crate::simulation::Simulation;

/// The last hint that is taken may go over the quota by its own size: values here have eight bytes, siblings are few.
const ONE_HINT: u64 = 16 << 10;

/// Whether a node keeps the bounds of its configuration.
pub fn check(sim: &Simulation, host: HostId, status: &Status) -> Verdict {
    let config = sim.options().config();
    let over =
        |what: &str, is: u64, most: u64| Err(("I16 bounds", format!("host {} has {is} {what}, the limit is {most}", host.0)));
    let most = config.hint_bytes_max + ONE_HINT;
    if let Some((_, bytes)) = status.hints.values().find(|(_, bytes)| *bytes > most) {
        return over("bytes of hints for one target", *bytes, most);
    }
    if status.requests > config.requests_max {
        return over("requests under way", status.requests as u64, config.requests_max as u64);
    }
    let active = status.transfers.iter().filter(|transfer| !transfer.done && transfer.objects > 0).count();
    if active > config.transfers_max {
        return over("transfers under way", active as u64, config.transfers_max as u64);
    }
    Ok(())
}
