//! What goes wrong: each kind of fault comes again and again, at random times of its own, so that kinds overlap.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::dice::Dice;
use crate::options::{FaultOptions, Options};
use crate::ring_writer::RingWriter;
use crate::schedule::{Alarm, HostId};
use crate::simulation::{Crash, Simulation};

/// Hosts that a run may have at the same time.
const HOSTS_MAX: usize = 9;

#[derive(Clone, Copy, Debug)]
enum Kind {
    Kill,
    Power,
    Blackout,
    Restart,
    Pause,
    Split,
    OneWay,
    Flap,
    SlowDisk,
    Clock,
    Membership,
}

/// What ends a fault.
#[derive(Clone, Debug)]
enum Remedy {
    Start(Vec<HostId>),
    Mend(Vec<(HostId, HostId)>),
    /// The disk is as fast as before, perhaps after the power went.
    Disk {
        host: HostId,
        fails: bool,
    },
}

/// The source of faults.
#[derive(Debug)]
pub struct Faults {
    dice: Dice,
    kinds: Vec<(Kind, Duration)>,
    remedies: BTreeMap<u64, Remedy>,
    next: u64,
    over: bool,
}

impl Faults {
    /// The faults of a run.
    pub fn new(options: &Options) -> Self {
        let FaultOptions { kill, power, blackout, restart, pause, split, one_way, flap, slow_disk, clock, membership, .. } =
            options.faults;
        let all = [
            (Kind::Kill, kill),
            (Kind::Power, power),
            (Kind::Blackout, blackout),
            (Kind::Restart, restart),
            (Kind::Pause, pause),
            (Kind::Split, split),
            (Kind::OneWay, one_way),
            (Kind::Flap, flap),
            (Kind::SlowDisk, slow_disk),
            (Kind::Clock, clock),
            (Kind::Membership, membership),
        ];
        Self {
            dice: Dice::new(options.seed ^ 0x6661_756c_7473),
            kinds: all.into_iter().filter_map(|(kind, mean)| mean.map(|mean| (kind, mean))).collect(),
            remedies: BTreeMap::new(),
            next: 0,
            over: false,
        }
    }

    /// Every kind is scheduled for the first time.
    pub fn start(&mut self, sim: &mut Simulation) {
        for kind in 0..self.kinds.len() {
            let first = self.dice.around(self.kinds[kind].1);
            sim.alarm(first, Alarm::Fault(kind));
        }
    }

    /// No more faults; those that go on end, and every host runs.
    pub fn end(&mut self, sim: &mut Simulation) {
        self.over = true;
        for remedy in std::mem::take(&mut self.remedies).into_values() {
            apply(&remedy, sim);
        }
        for host in sim.stopped() {
            sim.start(host);
        }
    }

    /// The time of a kind has come.
    pub fn strike(&mut self, kind: usize, sim: &mut Simulation, writer: &mut RingWriter) {
        if self.over {
            return;
        }
        let (kind, mean) = {
            let (what, mean) = self.kinds[kind];
            sim.alarm(self.dice.around(mean), Alarm::Fault(kind));
            (what, mean)
        };
        let running = sim.running();
        if running.is_empty() && !matches!(kind, Kind::Membership) {
            return;
        }
        let lasts = self.dice.around(mean.min(Duration::from_secs(4)));
        match kind {
            Kind::Kill | Kind::Power | Kind::Blackout | Kind::Restart => self.end_nodes(kind, &running, lasts, sim),
            Kind::Pause => {
                sim.totals.pauses += 1;
                let host = self.dice.pick(&running);
                sim.pause(host, lasts);
            }
            Kind::Split | Kind::OneWay => self.cut(kind, lasts, sim),
            Kind::Flap => {
                sim.totals.flaps += 1;
                let (from, to) = (self.dice.pick(&running), self.dice.pick(&running));
                sim.flap(from, to);
            }
            Kind::SlowDisk => {
                sim.totals.slow_disks += 1;
                let host = self.dice.pick(&running);
                sim.slow_disk(host, Some(lasts));
                let fails = self.dice.chance(0.5);
                self.until(lasts, Remedy::Disk { host, fails }, sim);
            }
            Kind::Clock => {
                sim.totals.clock_jumps += 1;
                let host = self.dice.pick(&running);
                let hours = self.dice.between(0, 6) as i64 - 3;
                sim.jump_clock(host, hours * 3_600_000 + 17);
            }
            Kind::Membership => self.change_members(sim, writer),
        }
    }

    /// A fault has lasted long enough.
    pub fn ends(&mut self, number: u64, sim: &mut Simulation) {
        if let Some(remedy) = self.remedies.remove(&number) {
            apply(&remedy, sim);
        }
    }

    fn until(&mut self, lasts: Duration, remedy: Remedy, sim: &mut Simulation) {
        self.next += 1;
        self.remedies.insert(self.next, remedy);
        sim.alarm(lasts, Alarm::FaultEnds(self.next));
    }

    fn end_nodes(&mut self, kind: Kind, running: &[HostId], lasts: Duration, sim: &mut Simulation) {
        let one = self.dice.pick(running);
        match kind {
            Kind::Kill => {
                sim.totals.kills += 1;
                sim.crash(one, Crash::Kill);
            }
            Kind::Power => {
                sim.totals.power_losses += 1;
                sim.crash(one, Crash::PowerLoss);
            }
            Kind::Blackout => {
                sim.totals.blackouts += 1;
                for host in running {
                    sim.crash(*host, Crash::PowerLoss);
                }
                return self.until(lasts, Remedy::Start(running.to_vec()), sim);
            }
            _ => {
                sim.totals.restarts += 1;
                sim.stop(one);
            }
        }
        // Some come back at once, before anybody has noticed.
        let lasts = if self.dice.chance(0.3) { Duration::from_millis(5) } else { lasts };
        self.until(lasts, Remedy::Start(vec![one]), sim);
    }

    fn cut(&mut self, kind: Kind, lasts: Duration, sim: &mut Simulation) {
        let hosts: Vec<HostId> = sim.hosts().collect();
        let mut pairs = Vec::new();
        if matches!(kind, Kind::OneWay) {
            sim.totals.one_way_cuts += 1;
            for _ in 0..self.dice.between(1, 3) {
                pairs.push((self.dice.pick(&hosts), self.dice.pick(&hosts)));
            }
        } else {
            sim.totals.splits += 1;
            let side: Vec<bool> = if self.dice.chance(0.5) {
                let alone = self.dice.below(hosts.len());
                (0..hosts.len()).map(|at| at == alone).collect()
            } else {
                hosts.iter().map(|_| self.dice.chance(0.5)).collect()
            };
            for from in &hosts {
                pairs.extend(hosts.iter().filter(|to| side[from.0] != side[to.0]).map(|to| (*from, *to)));
            }
        }
        pairs.retain(|(from, to)| from != to);
        for (from, to) in &pairs {
            sim.cut(*from, *to);
        }
        self.until(lasts, Remedy::Mend(pairs), sim);
    }

    /// A host joins, leaves, or is asked to stay after all.
    fn change_members(&mut self, sim: &mut Simulation, writer: &mut RingWriter) {
        if writer.record().is_none() {
            return;
        }
        let members: Vec<HostId> = writer.desired().keys().filter_map(|node| sim.host_of(*node)).collect();
        let present: Vec<HostId> = sim.running().into_iter().chain(sim.stopped()).collect();
        let back = present.iter().filter(|host| !members.contains(host) && !sim.is_lost(**host));
        let back: Vec<HostId> = back.copied().collect();
        let changed = match self.dice.weighted(&[(3, 0), (3, 1), (1, 2), (1, 3)]) {
            0 if present.len() < HOSTS_MAX => {
                let host = sim.add_host();
                sim.start(host);
                if self.dice.chance(0.3) {
                    // A newcomer that loses its power while it receives must not have been taken for full.
                    let lasts = self.dice.around(Duration::from_secs(4));
                    sim.slow_disk(host, Some(lasts));
                    self.until(lasts, Remedy::Disk { host, fails: true }, sim);
                }
                writer.join(sim, host)
            }
            1 => {
                let host = self.dice.pick(&members);
                writer.leave(sim, host)
            }
            2 if !back.is_empty() => {
                let host = self.dice.pick(&back);
                writer.join(sim, host)
            }
            3 => {
                let host = self.dice.pick(&members);
                let weight = self.dice.between(1, 2) as u32;
                let node = sim.node_id(host);
                writer.ask_for(sim, |desired| {
                    desired.entry(node).and_modify(|member| member.weight = weight);
                })
            }
            _ => false,
        };
        sim.totals.membership_changes += u64::from(changed);
    }
}

fn apply(remedy: &Remedy, sim: &mut Simulation) {
    match remedy {
        Remedy::Start(hosts) => {
            let stopped = sim.stopped();
            for host in hosts.iter().filter(|host| stopped.contains(host)) {
                sim.start(*host);
            }
        }
        Remedy::Disk { host, fails } => {
            sim.slow_disk(*host, None);
            if *fails && sim.node(*host).is_some() {
                sim.totals.power_losses += 1;
                sim.crash(*host, Crash::PowerLoss);
                sim.start(*host);
            }
        }
        Remedy::Mend(pairs) => pairs.iter().for_each(|(from, to)| sim.mend(*from, *to)),
    }
}
