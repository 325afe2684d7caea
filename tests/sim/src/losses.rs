//! Disks that are gone for ever: at most W - 1 at a time, in some seeds W ([`crate::options::beyond`]), until everything that lay on
//! them lies elsewhere again. When that is, is what GUARANTEES.md says: the ring has replaced the lost member, nobody keeps a hint or a
//! stray copy, and anti-entropy has made up for those that the lost disk kept.
//!
//! The machine comes back with an empty disk and another identity; the writer of rings is told. Now and then the word is wrong: the
//! host that is declared lost goes on running, or comes back with all its data, and has to be fenced. For the promise its disk counts
//! as destroyed all the same. Random choices come from a stream of their own.

use std::time::Duration;

use dynamo_core::id::NodeId;

use crate::checkers::redundancy;
use crate::dice::Dice;
use crate::options::{Options, beyond};
use crate::ring_writer::RingWriter;
use crate::schedule::{Alarm, HostId};
use crate::simulation::{Crash, Simulation};

/// The source of losses.
#[derive(Debug)]
pub struct Losses {
    dice: Dice,
    mean: Option<Duration>,
    /// Disks that may be lost at once.
    most: usize,
    /// Numbers the waves; those of one wave are lost at once.
    wave: u32,
    /// Lost in this wave.
    lost: usize,
    /// Operators were told that this is over.
    told: bool,
}

impl Losses {
    /// The losses of a run.
    pub fn new(options: &Options) -> Self {
        let most = beyond::at_once(options.seed, options.quorum.w, options.replication);
        let dice = Dice::new(options.seed ^ 0x6469_736b_7321);
        Self { dice, mean: options.faults.loss.filter(|_| most > 0), most, wave: 0, lost: 0, told: false }
    }

    /// The first one is scheduled.
    pub fn start(&mut self, sim: &mut Simulation) {
        if let Some(mean) = self.mean {
            let first = self.dice.around(mean);
            sim.alarm(first, Alarm::Loss);
        }
    }

    /// No more of them.
    pub fn end(&mut self) {
        self.mean = None;
    }

    /// The time of a loss has come.
    pub fn strike(&mut self, sim: &mut Simulation, writer: &mut RingWriter) {
        let Some(mean) = self.mean else { return };
        let next = self.dice.around(mean);
        sim.alarm(next, Alarm::Loss);
        if writer.record().is_none() {
            return;
        }
        if self.lost > 0 && is_restored(sim, writer) {
            (self.wave, self.lost, self.told) = (self.wave + 1, 0, false);
        }
        let candidates: Vec<HostId> = sim.running().into_iter().chain(sim.stopped()).filter(|host| !sim.is_lost(*host)).collect();
        if self.lost == self.most || candidates.is_empty() {
            return;
        }
        self.lost += 1;
        self.told = false;
        sim.totals.losses_beyond += u64::from(self.lost >= usize::from(sim.options().quorum.w));
        let host = self.dice.pick(&candidates);
        let replacement = sim.write_off(host, self.wave);
        match self.dice.weighted(&[(6, 0), (1, 1), (1, 2)]) {
            0 => {
                sim.totals.disks_destroyed += 1;
                sim.scrap(host);
            }
            1 => {
                sim.totals.members_misjudged += 1;
                sim.crash(host, Crash::PowerLoss);
                let away = self.dice.around(mean);
                sim.alarm(away, Alarm::Returns(host));
            }
            _ => sim.totals.members_misjudged += 1,
        }
        sim.start(replacement);
        writer.lose(sim, host, replacement);
    }

    /// What GUARANTEES.md tells operators to wait for before the next disk may go, as `status` and `ring verify` show it, is enough.
    pub fn look(&mut self, sim: &mut Simulation, writer: &RingWriter) {
        if self.lost == 0 || self.told || !writer.is_whole(sim) || !is_told_to_be_over(sim, writer) {
            return;
        }
        self.told = true;
        sim.totals.losses_told_to_be_over += 1;
        let declared = |host: HostId| writer.record().and_then(|ring| sim.ring_of(*ring.lost.get(&sim.node_id(host))?));
        let left = |host: HostId| declared(host).and_then(|ring| redundancy::lost_with(sim, host, ring));
        let hosts = sim.hosts().filter(|host| sim.is_lost(*host));
        if let Some((host, what)) = hosts.filter_map(|host| Some((host, left(host)?))).next() {
            let what = format!("all replicas are equal, and {what:?}, which was on host {}, is on too few disks", host.0);
            sim.violated("a loss is made good when it is told to be", what);
        }
    }

    /// A host that was declared lost is back, with all its data.
    pub fn returns(&mut self, host: HostId, sim: &mut Simulation) {
        if sim.stopped().contains(&host) {
            sim.start(host);
        }
    }
}

/// Whether every member answers, keeps no hint and no stray copy, and has the same digest of every partition as the other replicas.
fn is_told_to_be_over(sim: &Simulation, writer: &RingWriter) -> bool {
    let Some(ring) = writer.record() else { return false };
    let node = |node: &NodeId| sim.host_of(*node).and_then(|host| sim.node(host));
    let at_home = |id: &NodeId| {
        let status = sim.host_of(*id).and_then(|host| Some(sim.node(host)?.status(sim.clock(host))));
        status.is_some_and(|status| {
            let hints: u64 = status.hints.values().map(|(hints, _)| hints).sum();
            status.epoch == ring.epoch && hints == 0 && status.foreign_partitions == 0
        })
    };
    let equal = |replicas: &[NodeId], partition| {
        let mut roots = replicas.iter().map(|id| node(id).map(|node| node.partition_digest(partition)));
        let first = roots.next().flatten();
        first.is_some() && roots.all(|root| root == first)
    };
    ring.members.keys().all(at_home) && ring.partitions().all(|(partition, placement)| equal(placement.replicas, partition))
}

/// Whether nothing is lost any more that a disk had which went back in time: all replicas are equal, on stable storage.
pub fn is_made_good(sim: &Simulation, writer: &RingWriter) -> bool {
    let synced = |host: &HostId| sim.disk(*host).unsynced() == 0 && !sim.disk(*host).is_open();
    writer.is_whole(sim) && sim.running().iter().all(synced) && is_told_to_be_over(sim, writer)
}

/// Whether what was lost is replaced, and nothing waits on a single disk for its way home or for its copies.
fn is_restored(sim: &Simulation, writer: &RingWriter) -> bool {
    let Some(ring) = writer.record() else { return false };
    let at_home = |host: &HostId| {
        let node = sim.node_id(*host);
        let disk = sim.disk(*host);
        disk.hints().next().is_none() && disk.objects().all(|(partition, _, _)| ring.placement(partition).involves(node))
    };
    let made_up_for = |host: HostId| {
        let declared = ring.lost.get(&sim.node_id(host)).and_then(|since| sim.ring_of(*since));
        declared.is_none_or(|ring| redundancy::is_made_up_for(sim, host, ring))
    };
    writer.is_whole(sim)
        && sim.hosts().filter(|host| !sim.is_removed(*host) && !sim.is_lost(*host)).all(|host| at_home(&host))
        && sim.hosts().filter(|host| sim.is_lost(*host)).all(made_up_for)
}
