//! I16: what has a named bound keeps it.

use std::collections::BTreeMap;

use dynamo_core::id::NodeId;
use dynamo_core::node::status::Status;

use crate::ledger::Verdict;
use crate::schedule::HostId;
use crate::simulation::Simulation;

/// What may be counted for a hint beside its object.
const OVERHEAD: u64 = 1 << 10;

/// The last hint that is taken may go over the quota by its own size, and be joined with another.
fn one_hint(sim: &Simulation, host: HostId) -> u64 {
    let largest = sim.disk(host).hints().map(|(_, _, object)| object.encoded_len()).max();
    2 * largest.unwrap_or(0) as u64 + OVERHEAD
}

/// Whether a node keeps the bounds of its configuration.
pub fn check(sim: &Simulation, host: HostId, status: &Status) -> Verdict {
    let config = sim.options().config();
    let over =
        |what: &str, is: u64, most: u64| Err(("I16 bounds", format!("host {} has {is} {what}, the limit is {most}", host.0)));
    // Beyond the quota only what a quorum needed, which the node counts.
    let most = config.hint_bytes_max + sim.hint_bytes_beyond_quota(host);
    if let Some((_, bytes)) = status.hints.values().find(|(_, bytes)| *bytes > most)
        && *bytes > most + one_hint(sim, host)
    {
        return over("bytes of hints for one target", *bytes, most);
    }
    if status.requests > config.requests_max {
        return over("requests under way", status.requests as u64, config.requests_max as u64);
    }
    // By receiver: while one is away, others are begun beside those that stand still.
    let mut active = BTreeMap::<NodeId, usize>::new();
    for transfer in status.transfers.iter().filter(|transfer| !transfer.done && transfer.objects > 0) {
        *active.entry(transfer.to).or_default() += 1;
    }
    match active.into_values().find(|active| *active > config.transfers_max) {
        Some(active) => over("transfers under way to one receiver", active as u64, config.transfers_max as u64),
        None => Ok(()),
    }
}
