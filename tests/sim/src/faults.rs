//! What goes wrong: each kind of fault comes again and again, at random times of its own, so that kinds overlap.

use std::collections::BTreeMap;
use std::time::Duration;

use dynamo_core::rebalance::chain::Chain;
use dynamo_core::ring::Ring;

use crate::dice::Dice;
use crate::disk::Disk;
use crate::losses;
use crate::options::past::PastOptions;
use crate::options::{Churn, FaultOptions, Options};
use crate::ring_writer::{self, RingWriter};
use crate::schedule::{Alarm, HostId};
use crate::simulation::{Crash, Simulation};

/// How long a host may be away: longer than any request, hint or exchange waits for it.
const AWAY: Duration = Duration::from_secs(20);

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
    Away,
    FailedSync,
    FullDisk,
    Rot,
    SlowDisks,
    ClockBack,
    BadLink,
    RestartAll,
    Rival,
    Churn,
    NearlyFull,
    Restore,
    Revenant,
    Record,
}

impl Kind {
    /// Kinds that came later make their choices from a stream of their own.
    fn is_later(self) -> bool {
        use Kind::{BadLink, Churn, ClockBack, FailedSync, FullDisk, RestartAll, Rival, Rot, SlowDisks};
        matches!(self, FailedSync | FullDisk | Rot | SlowDisks | ClockBack | BadLink | RestartAll | Rival | Churn)
    }
}

/// Between two looks whether what a disk had forgotten is made good.
const MADE_GOOD_WITHIN: Duration = Duration::from_millis(100);

/// What ends a fault.
#[derive(Debug)]
enum Remedy {
    Start(Vec<HostId>),
    Mend(Vec<(HostId, HostId)>),
    /// Somebody has looked after the disk, and starts the node again.
    Repair(HostId),
    /// All disks are as fast as before, perhaps after the power went.
    Disks {
        fail: bool,
    },
    /// The clock goes back.
    Clock(HostId, i64),
    /// The disk has room again.
    Room(Vec<HostId>),
    /// The way is good again.
    Improve(HostId, HostId),
    /// The second writer of rings acts.
    Rival,
    /// The data directory is what it was.
    Restore(Box<Earlier>),
    /// The process of before is cut off no more.
    Rejoin(HostId),
    /// It is ended.
    LayToRest(HostId),
    /// The record of rings is what it was, or none at all.
    Record(Option<Box<Chain>>),
    /// The disk is as fast as before, perhaps after the power went.
    Disk {
        host: HostId,
        fails: bool,
    },
}

/// A copy of a data directory.
#[derive(Debug)]
struct Earlier {
    host: HostId,
    copy: (Disk, u64),
    /// In which start of its node it was made.
    generation: u64,
    /// The starts that the others were in.
    others: Vec<(HostId, u64)>,
    /// It was made at a clean stop.
    clean: bool,
    /// The disk alone goes back.
    forgetful: bool,
}

impl Earlier {
    /// A later life under the same number that only nodes know which are away, or have restarted since, may go unnoticed: that is
    /// not promised.
    fn is_noticed(&self, sim: &Simulation) -> bool {
        let knows = |(host, generation): &(HostId, u64)| {
            sim.is_removed(*host) || (sim.generation(*host) == *generation && sim.responsive().contains(host))
        };
        self.generation == sim.generation(self.host)
            || (self.others.iter().all(knows) && (!self.clean || sim.is_heard_of(self.host)))
    }

    fn put_back(&self, sim: &mut Simulation) {
        let noticed = self.forgetful || self.is_noticed(sim);
        let again = sim.totals.restores > 0;
        if sim.is_removed(self.host) || sim.is_rotted(self.host) || !noticed {
            return;
        }
        sim.totals.restores += 1;
        sim.totals.restores_again += u64::from(again);
        sim.totals.restores_of_clean_copies += u64::from(self.clean);
        sim.totals.forgetful_disks += u64::from(self.forgetful);
        sim.crash(self.host, Crash::Kill);
        if self.forgetful {
            sim.forget_since(self.host, self.copy.0.snapshot());
        } else {
            sim.restore(self.host, (self.copy.0.snapshot(), self.copy.1));
        }
        sim.start(self.host);
    }
}

/// The source of faults.
#[derive(Debug)]
pub struct Faults {
    dice: Dice,
    more: Dice,
    room: Dice,
    restores: Dice,
    revenants: Dice,
    past: PastOptions,
    churn: Option<Churn>,
    /// So many times their usual length they last beyond that.
    lengthened: u32,
    /// How often half of the members change at once.
    sweeping: f64,
    /// Who does.
    sweeps: Dice,
    /// Steps of the churn so far.
    steps: usize,
    kinds: Vec<(Kind, Duration)>,
    remedies: BTreeMap<u64, Remedy>,
    next: u64,
    over: bool,
}

impl Faults {
    /// The faults of a run.
    pub fn new(options: &Options) -> Self {
        let FaultOptions {
            kill, power, blackout, restart, pause, split, one_way, flap, slow_disk, clock, membership, away, ..
        } = options.faults;
        let FaultOptions {
            failed_sync,
            full_disk,
            rot,
            slow_disks,
            clock_back,
            bad_link,
            restart_all,
            rival,
            nearly_full,
            restore,
            ..
        } = options.faults;
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
            (Kind::Away, away),
            (Kind::FailedSync, failed_sync),
            (Kind::FullDisk, full_disk),
            (Kind::Rot, rot),
            (Kind::SlowDisks, slow_disks),
            (Kind::ClockBack, clock_back),
            (Kind::BadLink, bad_link),
            (Kind::RestartAll, restart_all),
            (Kind::Rival, rival),
            (Kind::Churn, options.faults.churn.map(|(_, every)| every)),
            (Kind::NearlyFull, nearly_full),
            (Kind::Restore, restore),
            (Kind::Revenant, options.past.revenants),
            (Kind::Record, options.past.records),
        ];
        Self {
            dice: Dice::new(options.seed ^ 0x6661_756c_7473),
            more: Dice::new(options.seed ^ 0x6d6f_7265_2066),
            room: Dice::new(options.seed ^ 0x726f_6f6d),
            revenants: Dice::new(options.seed ^ 0x7265_7665_6e61_6e74),
            restores: Dice::new(options.seed ^ 0x6261_636b_7570),
            past: options.past.clone(),
            churn: options.faults.churn.map(|(churn, _)| churn),
            steps: 0,
            lengthened: options.faults.lengthened,
            sweeping: options.faults.sweeping,
            sweeps: Dice::new(options.seed ^ 0x7377_6565_7073),
            kinds: all.into_iter().filter_map(|(kind, mean)| mean.map(|mean| (kind, mean))).collect(),
            remedies: BTreeMap::new(),
            next: 0,
            over: false,
        }
    }

    /// Every kind is scheduled for the first time.
    pub fn start(&mut self, sim: &mut Simulation) {
        for kind in 0..self.kinds.len() {
            let (what, mean) = self.kinds[kind];
            let first = self.stream(what).around(mean);
            sim.alarm(first, Alarm::Fault(kind));
        }
    }

    /// Where choices about a kind come from.
    fn stream(&mut self, kind: Kind) -> &mut Dice {
        match kind {
            Kind::NearlyFull => &mut self.room,
            Kind::Restore => &mut self.restores,
            Kind::Revenant | Kind::Record => &mut self.revenants,
            later if later.is_later() => &mut self.more,
            _ => &mut self.dice,
        }
    }

    /// No more faults; those that go on end, and every host runs.
    /// True if a disk is gone for good now that nobody counted yet.
    pub fn end(&mut self, sim: &mut Simulation, writer: &mut RingWriter) -> bool {
        self.over = true;
        // A copy that was not put back yet is not.
        self.remedies.retain(|_, remedy| !matches!(remedy, Remedy::Restore(_) | Remedy::Record(_)));
        let remedies = std::mem::take(&mut self.remedies);
        for remedy in remedies.values() {
            apply(remedy, sim, writer);
        }
        sim.lose_rotten();
        sim.roll_out();
        for host in sim.stopped() {
            sim.start(host);
        }
        remedies.values().any(|remedy| matches!(remedy, Remedy::LayToRest(_)))
    }

    /// The time of a kind has come.
    pub fn strike(&mut self, kind: usize, sim: &mut Simulation, writer: &mut RingWriter) {
        if self.over {
            return;
        }
        let (kind, mean) = {
            let (what, mean) = self.kinds[kind];
            let again = self.stream(what).around(mean);
            sim.alarm(again, Alarm::Fault(kind));
            (what, mean)
        };
        let running = sim.running();
        if running.is_empty() && !matches!(kind, Kind::Membership) {
            return;
        }
        if matches!(kind, Kind::Restore) {
            return self.copy_directory(&running, sim);
        }
        if matches!(kind, Kind::Revenant) {
            return self.send_a_successor(&running, sim, writer);
        }
        if matches!(kind, Kind::Record) {
            return self.keep_record(sim, writer);
        }
        if matches!(kind, Kind::NearlyFull) {
            return self.run_out_of_room(&running, sim);
        }
        if kind.is_later() {
            return self.strike_later(kind, &running, sim, writer);
        }
        let lasts = self.dice.around(mean.min(Duration::from_secs(4))) * (1 + self.lengthened);
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
            Kind::Away => {
                sim.totals.absences += 1;
                let host = self.dice.pick(&running);
                sim.crash(host, Crash::Kill);
                let lasts = self.dice.duration(AWAY / 2, AWAY);
                self.until(lasts, Remedy::Start(vec![host]), sim);
            }
            _ => unreachable!("{kind:?} makes its choices elsewhere"),
        }
    }

    fn strike_later(&mut self, kind: Kind, running: &[HostId], sim: &mut Simulation, writer: &mut RingWriter) {
        let Some(host) = (!running.is_empty()).then(|| self.more.pick(running)) else { return };
        let lasts = self.more.around(Duration::from_secs(3)) * (1 + self.lengthened);
        match kind {
            Kind::FailedSync => {
                sim.break_sync(host, true);
                self.until(lasts, Remedy::Repair(host), sim);
            }
            Kind::FullDisk => {
                sim.totals.full_disks += 1;
                sim.fill_disk(host, true);
                self.until(lasts, Remedy::Repair(host), sim);
            }
            // One disk of a run: what W copies protect against with W = 2.
            Kind::Rot if sim.totals.rots == 0 => sim.totals.rots += u64::from(sim.rot(host)),
            Kind::SlowDisks => {
                sim.totals.slow_times += 1;
                running.iter().for_each(|host| sim.slow_disk(*host, Some(lasts)));
                let fail = self.more.chance(0.5);
                self.until(lasts, Remedy::Disks { fail }, sim);
            }
            Kind::ClockBack => {
                sim.totals.clocks_back += 1;
                let by = if self.more.chance(0.5) { 3_600_000 } else { -3_600_000 };
                sim.jump_clock(host, by);
                self.until(lasts, Remedy::Clock(host, -by), sim);
            }
            Kind::BadLink => {
                sim.totals.bad_links += 1;
                let to = self.more.pick(running);
                sim.worsen(host, to, true);
                self.until(lasts, Remedy::Improve(host, to), sim);
            }
            Kind::RestartAll => {
                sim.totals.restarts_of_all += 1;
                running.iter().for_each(|host| sim.stop(*host));
                self.until(lasts, Remedy::Start(running.to_vec()), sim);
            }
            Kind::Churn => self.change_by_plan(sim, writer),
            Kind::Rival if !self.remedies.values().any(|remedy| matches!(remedy, Remedy::Rival)) => {
                writer.rival_looks(sim);
                let later = self.more.around(Duration::from_millis(400));
                self.until(later, Remedy::Rival, sim);
            }
            _ => {}
        }
    }

    /// One disk is nearly full, now and then every disk is. Those that are so already stay so until their own fault ends.
    fn run_out_of_room(&mut self, running: &[HostId], sim: &mut Simulation) {
        let lasts = self.room.around(Duration::from_secs(3));
        let hosts = if self.room.chance(0.1) { running.to_vec() } else { vec![self.room.pick(running)] };
        let hosts: Vec<HostId> = hosts.into_iter().filter(|host| sim.has_room(*host)).collect();
        hosts.iter().for_each(|host| sim.space(*host, false));
        sim.totals.nearly_full_disks += hosts.len() as u64;
        self.until(lasts, Remedy::Room(hosts), sim);
    }

    /// The next step of the plan by which members come and go.
    fn change_by_plan(&mut self, sim: &mut Simulation, writer: &mut RingWriter) {
        let members: Vec<HostId> = writer.desired().keys().filter_map(|node| sim.host_of(*node)).collect();
        let newest = members.iter().max().copied();
        let changed = match (self.churn, self.steps) {
            (Some(Churn::JoinTwoLeaveTwo), 0 | 1) => self.join_new(sim, writer),
            (Some(Churn::JoinTwoLeaveTwo), 2 | 3) => writer.leave(sim, HostId(self.steps - 2)),
            (Some(Churn::BackAndForth), step) if step % 2 == 0 => self.join_new(sim, writer),
            (Some(Churn::BackAndForth), _) => newest.is_some_and(|newest| writer.leave(sim, newest)),
            _ => return,
        };
        self.steps += 1;
        sim.totals.membership_changes += u64::from(changed);
    }

    fn join_new(&mut self, sim: &mut Simulation, writer: &mut RingWriter) -> bool {
        let host = sim.add_host();
        sim.start(host);
        writer.join(sim, host)
    }

    /// Half of the members leave, and as many come, as far as there may be: all in one wish.
    fn change_half(&mut self, members: &[HostId], back: &[HostId], sim: &mut Simulation, writer: &mut RingWriter) {
        let gone: Vec<HostId> = members.iter().filter(|_| self.sweeps.chance(0.5)).copied().collect();
        let mut come: Vec<HostId> = back.iter().filter(|_| self.sweeps.chance(0.5)).copied().collect();
        while come.len() < gone.len() && sim.running().len() + sim.stopped().len() < sim.options().hosts_max {
            let host = sim.add_host();
            sim.start(host);
            come.push(host);
        }
        let joining: Vec<_> = come.iter().map(|host| (sim.node_id(*host), ring_writer::member(sim, *host))).collect();
        let leaving: Vec<_> = gone.iter().map(|host| sim.node_id(*host)).collect();
        let changed = writer.ask_for(sim, |desired| {
            desired.retain(|node, _| !leaving.contains(node));
            desired.extend(joining);
        });
        sim.totals.membership_changes += u64::from(changed);
        sim.totals.sweeping_changes += u64::from(changed && gone.len() > 1);
    }

    /// A node adopted a ring a moment ago, and its power goes.
    pub fn adopted(&mut self, host: HostId, sim: &mut Simulation) {
        if self.over || sim.node(host).is_none() {
            return;
        }
        sim.totals.adoption_losses += 1;
        sim.crash(host, Crash::PowerLoss);
        let lasts = self.more.around(Duration::from_secs(2));
        self.until(lasts, Remedy::Start(vec![host]), sim);
    }

    /// A fault has lasted long enough.
    /// True if it left a disk that is what it was earlier.
    pub fn ends(&mut self, number: u64, sim: &mut Simulation, writer: &mut RingWriter) -> bool {
        let restores = sim.totals.restores;
        let Some(remedy) = self.remedies.remove(&number) else { return false };
        if let Remedy::Restore(_) = remedy
            && sim.totals.restores > 0
            && !losses::is_made_good(sim, writer)
        {
            self.until(MADE_GOOD_WITHIN, remedy, sim);
            return false;
        }
        apply(&remedy, sim, writer);
        sim.totals.restores > restores || matches!(remedy, Remedy::LayToRest(_))
    }

    /// A data directory is copied, to be put back later: one in a run, as W copies bear it with W = 2, or one after the other.
    fn copy_directory(&mut self, running: &[HostId], sim: &mut Simulation) {
        let host = self.restores.pick(running);
        let pending = self.remedies.values().any(|remedy| matches!(remedy, Remedy::Restore(_)));
        if (sim.totals.restores > 0 && !self.past.again) || pending || sim.disk(host).is_open() {
            return;
        }
        let forgetful = self.past.forgetful_disks > 0.0 && self.restores.chance(self.past.forgetful_disks);
        let stops = self.past.clean_copies > 0.0 && self.restores.chance(self.past.clean_copies);
        if stops {
            sim.stop(host);
        }
        let others = sim.hosts().filter(|other| *other != host).map(|other| (other, sim.generation(other))).collect();
        let (copy, generation, clean) = (sim.copy_of(host), sim.generation(host), stops && !forgetful);
        let earlier = Earlier { host, copy, generation, others, clean, forgetful };
        if stops {
            sim.start(host);
        }
        let later = self.restores.around(Duration::from_secs(3));
        self.until(later, Remedy::Restore(Box::new(earlier)), sim);
    }

    /// A machine is cut off, and its node started elsewhere on its disk: one at a time, each once what the one before took is made good.
    fn send_a_successor(&mut self, running: &[HostId], sim: &mut Simulation, writer: &RingWriter) {
        let host = self.revenants.pick(running);
        let again = sim.totals.revenants > 0;
        if sim.revenants().next().is_some() || (again && !losses::is_made_good(sim, writer)) {
            return;
        }
        let is_named = self.revenants.chance(0.7);
        let Some(before) = sim.part(host, is_named) else { return };
        let (cut_off, beside) = (self.revenants.around(Duration::from_secs(3)), self.revenants.around(Duration::from_secs(6)));
        self.until(cut_off, Remedy::Rejoin(before), sim);
        self.until(cut_off + beside, Remedy::LayToRest(before), sim);
        sim.start(host);
    }

    /// The record of rings is backed up, to be put back later, or is to be lost.
    fn keep_record(&mut self, sim: &mut Simulation, writer: &RingWriter) {
        let pending = self.remedies.values().any(|remedy| matches!(remedy, Remedy::Record(_)));
        if pending || writer.record().is_none() {
            return;
        }
        let kept = if self.revenants.chance(0.3) { None } else { writer.chain().cloned().map(Box::new) };
        let later = self.revenants.around(Duration::from_secs(2));
        self.until(later, Remedy::Record(kept), sim);
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
            let moves = sim
                .running()
                .into_iter()
                .any(|host| sim.node(host).and_then(|node| node.ring()).is_some_and(|ring| ring.moving().next().is_some()));
            sim.totals.splits_while_moving += u64::from(moves);
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
        if self.sweeping > 0.0 && self.sweeps.chance(self.sweeping) {
            return self.change_half(&members, &back, sim, writer);
        }
        let changed = match self.dice.weighted(&[(3, 0), (3, 1), (1, 2), (1, 3)]) {
            0 if present.len() < sim.options().hosts_max => {
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

fn apply(remedy: &Remedy, sim: &mut Simulation, writer: &mut RingWriter) {
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
                let receives = sim.node(*host).is_some_and(|node| {
                    let moves = |ring: &Ring| {
                        ring.moving().any(|(_, at, _)| at.fills(&ring.lost).iter().any(|(to, _)| *to == node.identity().node))
                    };
                    node.ring().is_some_and(|ring| moves(ring))
                });
                sim.totals.newcomers_failed += u64::from(receives);
                sim.crash(*host, Crash::PowerLoss);
                sim.start(*host);
            }
        }
        Remedy::Repair(host) => {
            sim.break_sync(*host, false);
            sim.fill_disk(*host, false);
            if sim.stopped().contains(host) {
                sim.start(*host);
            }
        }
        Remedy::Disks { fail } => {
            for host in sim.hosts() {
                sim.slow_disk(host, None);
            }
            let running = if *fail { sim.running() } else { Vec::new() };
            sim.totals.blackouts += u64::from(*fail);
            running.iter().for_each(|host| sim.crash(*host, Crash::PowerLoss));
            running.iter().for_each(|host| sim.start(*host));
        }
        Remedy::Room(hosts) => hosts.iter().for_each(|host| sim.space(*host, true)),
        Remedy::Clock(host, by) => sim.jump_clock(*host, *by),
        Remedy::Improve(from, to) => sim.worsen(*from, *to, false),
        Remedy::Rival => writer.rival_acts(sim),
        Remedy::Rejoin(host) => sim.rejoin(*host),
        Remedy::LayToRest(host) => sim.lay_to_rest(*host),
        Remedy::Record(record) => writer.set_record(record.as_deref().cloned(), sim),
        Remedy::Restore(earlier) => earlier.put_back(sim),
        Remedy::Mend(pairs) => pairs.iter().for_each(|(from, to)| sim.mend(*from, *to)),
    }
}
