//! Invariants of rings, over all nodes and all time (I8, I9).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dynamo_core::id::{Epoch, NodeId};
use dynamo_core::ring::placed::Placed;
use dynamo_core::ring::{Ring, RingHash};

use crate::schedule::HostId;

/// The chain of rings that was seen, and what each host holds.
#[derive(Debug, Default)]
pub(crate) struct RingHistory {
    rings: BTreeMap<Epoch, (RingHash, Arc<Ring>)>,
    held: BTreeMap<HostId, Epoch>,
    /// The same of those that have ended too: they may come back with it.
    last: BTreeMap<HostId, Epoch>,
    /// The newest epoch that each host said it holds: it must not come back with an older one.
    told: BTreeMap<HostId, Epoch>,
}

impl RingHistory {
    /// A host holds `ring`: it follows what the host held, and is the only ring of its epoch. One that everybody lost who had it, before
    /// any fsync, is none: with the record gone too, nothing tells of it.
    pub(crate) fn holds(&mut self, host: HostId, ring: &Arc<Ring>) -> Result<(), (&'static str, String)> {
        let epoch = ring.epoch;
        if let Some(before) = self.held.insert(host, epoch)
            && epoch < before
        {
            return Err(("I9 epochs only grow", format!("host {} held epoch {before} and now holds {epoch}", host.0)));
        }
        if let Some(told) = self.told.get(&host).filter(|told| epoch < **told) {
            return Err(("I9 a ring that was told of is kept", format!("host {} told of epoch {told}, holds {epoch}", host.0)));
        }
        let is_left = self.last.values().any(|last| *last >= epoch);
        self.last.insert(host, epoch);
        let hash = ring.hash();
        match self.rings.insert(epoch, (hash, ring.clone())) {
            Some((known, _)) if known != hash && is_left => Err(("I9 one ring an epoch", format!("two rings of epoch {epoch}"))),
            Some((known, _)) if known == hash => Ok(()),
            _ => placement(ring).map_err(|what| ("I8 placement", what)),
        }
    }

    /// A host says that it holds the ring of `epoch`.
    pub(crate) fn tells(&mut self, host: HostId, epoch: Epoch) {
        let told = self.told.entry(host).or_default();
        *told = epoch.max(*told);
    }

    /// A host's data directory is what it was earlier.
    pub(crate) fn restored(&mut self, host: HostId) {
        self.told.remove(&host);
    }

    /// The ring of an epoch.
    pub(crate) fn of(&self, epoch: Epoch) -> Option<&Arc<Ring>> {
        self.rings.get(&epoch).map(|(_, ring)| ring)
    }

    /// The newest epoch that any host ever held.
    pub(crate) fn newest(&self) -> Epoch {
        self.rings.last_key_value().map_or(Epoch(0), |(epoch, _)| *epoch)
    }

    /// A host's node has ended: it may come back with the ring that was on its stable storage.
    pub(crate) fn ended(&mut self, host: HostId) {
        self.held.remove(&host);
    }
}

/// The replicas that a partition has, or will have.
fn target_of(placement: Placed<'_>) -> &[NodeId] {
    placement.moving.map_or(placement.replicas, |moving| moving.target)
}

fn zones_of(ring: &Ring, nodes: &[NodeId]) -> usize {
    nodes.iter().map(|node| &ring.members[node].zone).collect::<BTreeSet<_>>().len()
}

/// N distinct members for each partition, in the old set and the new one; and where a move begins, and everywhere once nothing is
/// left to move, at most ceil(N / zones) of them in one zone, by the zones of the members that may hold data. The first
/// replicas of a list, which buckets with a lower N have, lie in as many zones as they can.
fn placement(ring: &Ring) -> Result<(), String> {
    ring.validate().map_err(|error| error.to_string())?;
    let usable = ring.members.values().filter(|member| member.weight > 0);
    let zones: BTreeSet<&str> = usable.clone().map(|member| member.zone.as_str()).collect();
    let per_zone = usize::from(ring.replication).div_ceil(zones.len().max(1));
    let at_rest = ring.moving().next().is_none() && usable.clone().count() == ring.members.len();
    for (partition, placement) in ring.partitions() {
        let n = usize::from(ring.replication_of(partition));
        for set in placement.write_sets() {
            let distinct: BTreeSet<_> = set.iter().collect();
            if distinct.len() != n {
                return Err(format!(
                    "epoch {}: partition {partition} has {} distinct replicas, N is {n}",
                    ring.epoch,
                    distinct.len()
                ));
            }
        }
        let begins = placement.moving.as_ref().is_some_and(|moving| moving.since == ring.epoch);
        let target = target_of(placement);
        for zone in &zones {
            let here = target.iter().filter(|node| ring.members[node].zone == *zone).count();
            if (begins || at_rest) && here > per_zone {
                return Err(format!("epoch {}: partition {partition} has {here} replicas in {zone}, not {per_zone}", ring.epoch));
            }
        }
        let list = target_of(ring.placements[ring.list_of(partition)].whole());
        let spread = zones_of(ring, list).min(n);
        if (begins || at_rest) && !ring.buckets.is_empty() && zones_of(ring, target) < spread {
            return Err(format!(
                "epoch {}: the first {n} replicas of partition {partition} lie in fewer than {spread} zones",
                ring.epoch
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use dynamo_core::id::ClusterId;
    use dynamo_core::rebalance::first_ring;
    use dynamo_core::ring::Member;

    use super::*;

    const HOST: HostId = HostId(0);

    fn id(node: u8) -> NodeId {
        NodeId([node; 16])
    }

    /// Six members in as many zones, two to a zone.
    fn ring() -> Ring {
        let members = (0..6).map(|at| (id(at), Member { zone: format!("z{}", at % 3), weight: 1 })).collect();
        first_ring(ClusterId([7; 16]), 2, 3, &members).unwrap()
    }

    fn broken(found: Result<(), (&'static str, String)>) -> Option<&'static str> {
        found.err().map(|(invariant, _)| invariant)
    }

    #[test]
    fn a_node_that_goes_back_to_an_older_ring_is_found_also_after_a_start_if_it_had_told_of_the_newer() {
        let (first, second) = (Arc::new(ring()), Arc::new(ring().successor(|_| ())));
        for (ended, told, expected) in [
            (false, false, Some("I9 epochs only grow")),
            (true, false, None),
            (true, true, Some("I9 a ring that was told of is kept")),
        ] {
            let mut history = RingHistory::default();
            assert_eq!(history.holds(HOST, &first), Ok(()));
            assert_eq!(history.holds(HOST, &second), Ok(()));
            if told {
                history.tells(HOST, second.epoch);
            }
            if ended {
                history.ended(HOST);
            }
            assert_eq!(broken(history.holds(HOST, &first)), expected, "ended: {ended}, told: {told}");
            history.restored(HOST);
            history.ended(HOST);
            assert_eq!(history.holds(HOST, &first), Ok(()), "its disk went back");
        }
    }

    #[test]
    fn two_rings_of_one_epoch_are_found() {
        let (first, other) = (ring(), ring().successor(|next| next.members.get_mut(&id(1)).unwrap().weight = 2));
        let twin = first.successor(|next| next.members.get_mut(&id(1)).unwrap().weight = 3);
        let mut history = RingHistory::default();
        for (host, ring, expected) in [(0, first, None), (0, other, None), (1, twin, Some("I9 one ring an epoch"))] {
            assert_eq!(broken(history.holds(HostId(host), &Arc::new(ring))), expected);
        }
    }

    #[test]
    fn a_ring_that_everybody_lost_who_had_it_may_be_followed_by_another_of_its_epoch() {
        let first = Arc::new(ring());
        let with_weight = |weight| Arc::new(first.successor(|next| next.members.get_mut(&id(1)).unwrap().weight = weight));
        for (back, expected) in [(vec![0, 1], None), (vec![0], Some("I9 one ring an epoch"))] {
            let mut history = RingHistory::default();
            for host in [HostId(0), HostId(1)] {
                history.holds(host, &first).unwrap();
                history.holds(host, &with_weight(2)).unwrap();
                history.ended(host);
            }
            for host in back {
                history.holds(HostId(host), &first).unwrap();
            }
            assert_eq!(broken(history.holds(HOST, &with_weight(3))), expected);
        }
    }

    #[test]
    fn replicas_that_are_not_distinct_or_crowd_a_zone_are_found() {
        let valid = ring();
        let at_once = |replicas: [u8; 3]| {
            let mut ring = valid.clone();
            ring.placements[0].replicas = replicas.map(id).to_vec();
            ring
        };
        // Members 0 and 3 are in one zone.
        for (replicas, expected) in [([0, 1, 2], None), ([0, 3, 1], Some("I8 placement")), ([0, 0, 1], Some("I8 placement"))] {
            let found = RingHistory::default().holds(HOST, &Arc::new(at_once(replicas)));
            assert_eq!(broken(found), expected, "{replicas:?}");
        }
    }
}
