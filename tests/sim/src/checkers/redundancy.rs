//! I10, I11: whatever is dropped is safe elsewhere.
//!
//! An acknowledgement rests on so many copies on stable storage. When a copy or a hint is dropped, or a host taken away, as many
//! must be left, on other hosts: of that version, or of one that has seen it. Copies on disks that were lost are not asked for.
//!
//! A tombstone is another matter: it is removed everywhere, so where the first one goes every replica must have had it on
//! stable storage, and nobody may keep a hint that it would have superseded, unless that came while the proof was given: by a
//! message that was later than the time-out of its put, and that the fence will catch. From then on what it had seen is dead: no copy of
//! that is owed to anybody, and the other replicas' tombstones may follow. Where the last writer wins that holds of an object which a
//! tombstone hides, with all its values.

use dynamo_core::id::NodeId;
use dynamo_core::name::Name;
use dynamo_core::reaping::ROUND_TIMEOUT;
use dynamo_core::reconciliation;
use dynamo_core::ring::Ring;
use dynamo_core::time::Instant;
use dynamo_core::version::Object;

use crate::checkers::evidence;
use crate::disk::{Dropped, Removed};
use crate::ledger::Verdict;
use crate::schedule::HostId;
use crate::simulation::Simulation;
use crate::witness::Acknowledged;

/// Whether `from` may drop these.
pub fn check(sim: &mut Simulation, from: HostId, dropped: &[Dropped]) -> Verdict {
    if sim.is_lost(from) {
        return Ok(());
    }
    for what in dropped {
        if let Some(target) = what.hint_for {
            check_hint(sim, from, target, what)?;
        }
        // Those on a disk that is lost since are gone already.
        let write = sim.witness().write_of(what.dot);
        let lost = write.map_or(0, |write| sim.copies_lost(write) + sim.copies_rotted(write));
        let required = sim.witness().copies_of(what.dot).saturating_sub(lost);
        if required == 0 || sim.witness().is_reaped(&what.name, what.dot) {
            continue;
        }
        sim.totals.removals_checked += 1;
        let same = same_write(sim, what);
        let left = disks_with(sim, &same, from);
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

/// I11: a hint goes when its target has it on stable storage, or had, or when nobody waits for it there any more.
fn check_hint(sim: &mut Simulation, from: HostId, target: NodeId, what: &Dropped) -> Verdict {
    let Some(host) = sim.host_of(target) else { return Ok(()) };
    let gone = sim.is_removed(host) || sim.is_lost(host) || sim.is_rotted(host) || sim.is_set_back(host);
    // One that its node keeps as a copy goes home as such: copies are looked after by themselves.
    let is_copy = same_write(sim, what).iter().any(|what| sim.disk(from).has_copy(&what.name, what.dot));
    let ring = sim.node(from).and_then(|node| node.ring());
    let is_home = ring.is_some_and(|ring| ring.placement(ring.partition_of(&what.name)).involves(target));
    if gone || is_copy || !is_home || sim.witness().is_reaped(&what.name, what.dot) {
        return Ok(());
    }
    sim.totals.hints_checked += 1;
    if same_write(sim, what).iter().any(|what| sim.disk(host).has_seen(&what.name, what.dot)) {
        return Ok(());
    }
    let what = format!("host {} removes a hint for host {}, which has not seen {what:?} on stable storage", from.0, host.0);
    Err(("I11 a hint goes when its node has it", what))
}

/// A write that was retried may have several dots. Any of them will do: they are the same write.
fn same_write(sim: &Simulation, what: &Dropped) -> Vec<Dropped> {
    let dots = sim.witness().same_write(what.dot);
    dots.into_iter().map(|dot| Dropped { name: what.name.clone(), dot, hint_for: None }).collect()
}

/// How many disks other than that of `from` have any of these on stable storage, or what has seen it.
fn disks_with(sim: &Simulation, any: &[Dropped], from: HostId) -> usize {
    let durable = |host: HostId| any.iter().any(|what| sim.disk(host).is_durable(what));
    let gone = |host: HostId| host == from || sim.is_removed(host) || sim.is_lost(host) || sim.is_rotted(host);
    sim.hosts().filter(|host| !gone(*host) && durable(*host)).count()
}

/// Whether everything that lay on the disk of `lost` as a hint, or as a copy of what `ring` gives to others, lies on as many other
/// disks as was promised; and what it acknowledged while its partition moved, where fewer than that were replicas of each set. Nobody is
/// filled in place of a stand-in: this is anti-entropy's work.
pub fn is_made_up_for(sim: &Simulation, lost: HostId, ring: &Ring) -> bool {
    missing(sim, lost, ring, |what| disks_with(sim, what, lost)).is_none()
}

/// What lay on the disk of `lost` so, is promised still, and lies nowhere else on as many disks, in memory or on stable storage.
pub fn lost_with(sim: &Simulation, lost: HostId, ring: &Ring) -> Option<Dropped> {
    let is_there = |host: &HostId| *host != lost && !sim.is_removed(*host) && !sim.is_lost(*host);
    missing(sim, lost, ring, |what| {
        // With the disk that is lost the last copy that was promised may be gone.
        if sim.witness().write_of(what[0].dot).is_some_and(|write| sim.copies_lost(write) >= sim.witness().copies_of(what[0].dot))
        {
            return usize::MAX;
        }
        sim.hosts().filter(is_there).filter(|host| what.iter().any(|what| sim.disk(*host).keeps(what))).count()
    })
}

fn missing(sim: &Simulation, lost: HostId, ring: &Ring, copies: impl Fn(&[Dropped]) -> usize) -> Option<Dropped> {
    let (disk, node) = (sim.disk(lost), sim.node_id(lost));
    let strays = disk.objects().filter(|(partition, _, _)| !ring.placement(*partition).involves(node));
    let kept = disk.hints().chain(strays.map(|(_, name, object)| (node, name, object)));
    let lacks = |what: &Dropped| {
        let required = sim.witness().copies_of(what.dot);
        required > 0 && !sim.witness().is_reaped(&what.name, what.dot) && copies(&same_write(sim, what)) < required
    };
    let live = |(_, name, object): (NodeId, &Name, &Object)| -> Vec<Dropped> {
        object.values().map(|(dot, _)| Dropped { name: name.clone(), dot, hint_for: None }).collect()
    };
    let witness = sim.witness();
    let shared = witness.acknowledgements().filter(|(_, acknowledged)| {
        let Acknowledged { copies, name, partition, epoch, homes } = acknowledged;
        let moved = sim.ring_of(*epoch).is_some_and(|ring| ring.placement(*partition).moving.is_some());
        moved && homes.contains(&node) && evidence::homes(sim, name, *epoch, homes) < *copies
    });
    let shared = shared.filter_map(|(write, acknowledged)| {
        let dot = *witness.dots_of(write).first()?;
        Some(Dropped { name: acknowledged.name.clone(), dot, hint_for: None })
    });
    shared.chain(kept.flat_map(live)).find(lacks)
}

/// Whether `from` may remove these, one by one, for all time.
pub fn check_removed(sim: &mut Simulation, from: HostId, removed: &[Removed]) -> Verdict {
    for Removed { name, object } in removed {
        // Its values gave way to a tombstone, and go like that.
        let is_hidden = sim.options().last_writer_wins(&name.bucket) && !reconciliation::exists(object);
        for (dot, value) in object.values() {
            if sim.witness().is_reaped(name, dot) {
                continue;
            }
            let complain = |what: String| {
                Err(("I10 a tombstone goes when every replica has it", format!("host {} removes {name:?}: {what}", from.0)))
            };
            if value.data.is_some() && !is_hidden {
                // Older than a tombstone it is not. A write that nobody was promised may vanish.
                match sim.witness().copies_of(dot) {
                    0 => continue,
                    promised => return complain(format!("{dot:?} is no tombstone, and {promised} copies were promised")),
                }
            }
            sim.totals.tombstones_checked += 1;
            let Some(ring) = sim.node(from).and_then(|node| node.ring()).cloned() else { continue };
            // A move may have begun since the proof: its new replicas are filled with what is left.
            let homes = ring.placement(ring.partition_of(name)).replicas;
            // A disk that went back in time may have agreed before.
            let without = |node: &&NodeId| {
                let lacks = |host| host != from && !sim.is_set_back(host) && !sim.disk(host).copy_is_durable(name, dot);
                sim.host_of(**node).is_none_or(lacks)
            };
            if let Some(home) = homes.iter().find(without) {
                return complain(format!("{home:?} does not have {dot:?} on stable storage"));
            }
            let seen = object.context();
            let older = |(hint, since): (&Object, Instant)| {
                hint.values().any(|(dot, _)| seen.covers(dot)) && sim.now().since(since) > ROUND_TIMEOUT
            };
            // Nothing of a node that was declared lost is taken. A process beside its successor is not asked, its successor is: what it
            // still keeps comes after the reap, and brings nothing back.
            let is_beside = |host: &HostId| sim.revenants().any(|beside| beside == *host);
            let in_time = |host: &HostId| !sim.is_removed(*host) && !sim.is_set_back(*host) && !is_beside(host);
            // Nor is a node outside the ring that cannot be reached: it coordinates no write and counts for no quorum, so what it alone has
            // was promised to nobody and never will be.
            let in_reach = |host: &HostId| ring.members.contains_key(&sim.node_id(*host)) || sim.is_linked(from, *host);
            let asked = |host: &HostId| in_time(host) && in_reach(host) && !ring.is_lost(sim.node_id(*host));
            let mut hosts = sim.hosts().filter(asked);
            if let Some(host) = hosts.find(|host| sim.disk(*host).hints_with_age(name).any(older)) {
                return complain(format!("host {} keeps a hint that is older than {dot:?}", host.0));
            }
        }
        if object.is_tombstone() || is_hidden {
            sim.reaped(name, &object.context());
        }
    }
    Ok(())
}
