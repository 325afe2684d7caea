//! I10: a new replica that says it received a partition has all of it on stable storage.
//!
//! Where a replica acknowledged a write under a ring from before the move, its copy held the write when it was sent: so the new
//! replica that is filled from it must have the write, or a version that has seen it, the moment it says that it has everything,
//! and still when the writer of rings lets reads go there.

use dynamo_core::id::{NodeId, PartitionId};
use dynamo_core::ring::placed::Placed;
use dynamo_core::ring::{Ring, Stage};

use crate::ledger::Verdict;
use crate::simulation::Simulation;

/// The replicas whose writes a new one must have, told again from the promise and not from what nodes go by: those of the one whose
/// place it takes; where that is lost, or where there is none, those of all that are left.
fn sources(ring: &Ring, placement: &Placed, to: NodeId) -> Option<Vec<NodeId>> {
    let target = placement.moving.as_ref()?.target;
    let (old, is_lost) = (placement.replicas, |node: &NodeId| ring.lost.contains_key(node));
    let place = target.iter().filter(|node| !old.contains(node)).position(|node| *node == to)?;
    let replaced = old.iter().filter(|node| !target.contains(node)).nth(place).filter(|node| !is_lost(node));
    Some(replaced.map_or_else(|| old.iter().filter(|node| !is_lost(node)).copied().collect(), |node| vec![*node]))
}

/// Whether `to` has what it received of `partition`, which moves by `ring`.
pub fn check(sim: &mut Simulation, ring: &Ring, partition: PartitionId, to: NodeId) -> Verdict {
    let placement = ring.placement(partition);
    let Some(moving) = &placement.moving else { return Ok(()) };
    let Some(sources) = sources(ring, &placement, to) else { return Ok(()) };
    let Some(host) = sim.host_of(to) else { return Ok(()) };
    let set_back = |node: &NodeId| sim.host_of(*node).is_some_and(|host| sim.is_set_back(host));
    let mut checked = 0;
    let mut missing = None;
    for (write, acknowledged) in sim.witness().acknowledged_in(partition) {
        let source = acknowledged.homes.iter().find(|home| sources.contains(home) && !set_back(home));
        if acknowledged.epoch >= moving.since || source.is_none() || set_back(&to) {
            continue;
        }
        checked += 1;
        let dots = sim.witness().dots_of(write).to_vec();
        // What was replaced by a tombstone that is reaped is nowhere any more, rightly.
        let reaped = dots.iter().any(|dot| sim.witness().is_reaped(&acknowledged.name, *dot));
        let is_there = dots.iter().any(|dot| sim.disk(host).copy_is_durable(&acknowledged.name, *dot));
        // A source may have given its copy away since, to disks that were lost with all that there was of it.
        if !reaped && !is_there && sim.copies_lost(write) < acknowledged.copies.max(1) {
            missing = Some((write, acknowledged.name.clone()));
            break;
        }
    }
    sim.totals.transfers_checked += checked;
    match missing {
        None => Ok(()),
        Some((write, name)) => {
            let what = format!("{write:?} of {name:?}, partition {partition}, is not on stable storage at host {}", host.0);
            Err(("I10 what was received is there", what))
        }
    }
}

/// The same for every partition whose reads go to the new replicas by `next`, and did not by `ring`.
pub fn check_stage(sim: &mut Simulation, ring: &Ring, next: &Ring) -> Verdict {
    let reads_new =
        |partition| next.placement(partition).moving.as_ref().is_some_and(|moving| moving.stage == Stage::WriteBothReadNew);
    for (partition, placement, _) in ring.moving().filter(|(_, _, moving)| moving.stage == Stage::WriteBothReadOld) {
        if reads_new(partition) {
            for (to, _) in placement.fills(&ring.lost) {
                check(sim, ring, partition, to)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dynamo_core::ring::Move;

    use super::*;
    use crate::scenario::{cluster, name};
    use crate::witness::{Acknowledged, WriteId};

    /// The new replica says that it has everything, and has nothing: whose acknowledgements it must have is told by who holds what.
    #[test]
    fn a_write_is_missed_where_it_was_received_unless_as_many_copies_as_it_had_were_lost_at_once() {
        // The copies that the acknowledgement rests on, the home replicas that are destroyed, and whether it is missed.
        let cases: [(usize, &[usize], bool); 6] =
            [(1, &[], true), (1, &[1], false), (2, &[1], true), (2, &[1, 2], false), (0, &[], true), (0, &[1], false)];
        for (copies, destroyed, missed) in cases {
            let mut cluster = cluster(4).start();
            let homes = cluster.homes("alice");
            let newcomer = *cluster.hosts().iter().find(|host| !homes.contains(host)).unwrap();
            let written = cluster.through(homes[0]).put("alice", "milk and bread");
            cluster.run(Duration::from_secs(1));
            let (partition, source) = (cluster.partition("alice"), cluster.id(homes[0]));
            let (epoch, homes_of) = (written.evidence.epoch, vec![source]);
            let acknowledged = Acknowledged { copies, name: name("alice"), partition, epoch, homes: homes_of };
            cluster.sim.acknowledged(WriteId::of(b"milk and bread").unwrap(), acknowledged);
            let target = vec![cluster.id(newcomer), cluster.id(homes[1]), cluster.id(homes[2])];
            let ring = cluster.ring().successor(|next| {
                let at = next.list_of(partition);
                next.placements[at].moving = Some(Move { stage: Stage::WriteBothReadOld, target, since: next.epoch.next() });
            });
            for home in destroyed {
                cluster.sim.write_off(homes[*home], 0);
            }
            let to = cluster.id(newcomer);
            let verdict = check(&mut cluster.sim, &ring, partition, to);
            assert_eq!(verdict.is_err(), missed, "{copies} copies, {destroyed:?} destroyed: {verdict:?}");
        }
    }
}
