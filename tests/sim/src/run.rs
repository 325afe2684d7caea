//! One seed: a ring, then clients and faults, then peace, in which everything must come to rest and be right.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use dynamo_core::name::Name;
use dynamo_core::request::{Failure, Operation, QuorumWish, Request, Success};
use dynamo_core::time::Instant;

use crate::checkers::{convergence, last_writer_wins, quiet};
use crate::faults::Faults;
use crate::ledger::Fate;
use crate::losses::Losses;
use crate::options::Options;
use crate::ring_writer::RingWriter;
use crate::scenario::BUCKET;
use crate::schedule::{Alarm, HostId};
use crate::simulation::{Happening, Simulation};
use crate::totals::Totals;
use crate::violation::Violation;
use crate::workload::Workload;

/// Until a quiet cluster has its first ring.
const RING_WITHIN: Duration = Duration::from_secs(30);
/// Until a request is answered when nothing goes wrong. Where a disk is lost one may wait for its whole time-out.
const PEACE_ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// Wall clocks of hosts differ by less, whatever happened to them.
const CLOCKS_DIFFER_MS: u64 = 50_000_000;
/// Between two looks whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was violated, if anything.
    pub violation: Option<Violation>,
    /// What was counted.
    pub totals: Totals,
    /// Equal for two runs of one seed.
    pub trace_hash: u64,
}

/// Runs one seed.
pub fn run(options: &Options, shown: bool) -> Outcome {
    let mut run = Run::new(options, shown);
    let result = run.all();
    let violation = run.sim.violations().first().cloned().or(result.err());
    for host in run.sim.running() {
        let counters = run.sim.node(host).map(|node| node.counters().clone());
        counters.iter().for_each(|counters| run.sim.totals.add_counters(counters));
    }
    run.sim.totals.runs = 1;
    run.sim.totals.add_extremes(&options.far);
    run.sim.totals.simulated_seconds = run.sim.now().0 / 1_000_000;
    Outcome { violation, totals: run.sim.totals.clone(), trace_hash: run.sim.trace.hash() }
}

struct Run {
    sim: Simulation,
    writer: RingWriter,
    workload: Workload,
    faults: Faults,
    losses: Losses,
}

impl Run {
    fn new(options: &Options, shown: bool) -> Self {
        let mut sim = Simulation::new(options, shown);
        let hosts: Vec<HostId> = (0..options.nodes).map(|_| sim.add_host()).collect();
        for host in &hosts {
            sim.start(*host);
        }
        let writer = RingWriter::new(&sim, &hosts);
        Self { writer, workload: Workload::new(options), faults: Faults::new(options), losses: Losses::new(options), sim }
    }

    fn all(&mut self) -> Result<(), Violation> {
        self.sim.alarm(Duration::ZERO, Alarm::Writer);
        self.come_to_rest(RING_WITHIN)?;
        self.sim.set_calm(false);
        self.writer.calm = false;
        self.workload.start(&mut self.sim);
        self.faults.start(&mut self.sim);
        self.losses.start(&mut self.sim);
        let end = self.sim.now() + self.sim.options().faults.duration;
        self.advance(end)?;

        self.sim.set_calm(true);
        self.writer.calm = true;
        self.workload.stop();
        self.losses.end();
        if self.faults.end(&mut self.sim, &mut self.writer) {
            self.miss_a_disk();
        }
        self.come_to_rest(self.sim.options().quiet_within)?;
        self.stay_at_rest()?;
        self.judge()
    }

    fn advance(&mut self, until: Instant) -> Result<(), Violation> {
        while let Some(happening) = self.sim.next(until) {
            match happening {
                Happening::Answer(client, outcome) => self.workload.answered(client, outcome, &mut self.sim),
                Happening::Alarm(Alarm::Client(client)) => self.workload.step(client, &mut self.sim),
                Happening::Alarm(Alarm::GiveUp(client)) => self.workload.give_up(client, &mut self.sim),
                Happening::Alarm(Alarm::Writer) => {
                    self.losses.look(&mut self.sim, &self.writer);
                    self.writer.step(&mut self.sim);
                }
                Happening::Alarm(Alarm::Fault(kind)) => self.faults.strike(kind, &mut self.sim, &mut self.writer),
                Happening::Alarm(Alarm::FaultEnds(number)) => {
                    if self.faults.ends(number, &mut self.sim, &mut self.writer) {
                        self.miss_a_disk();
                    }
                }
                Happening::Alarm(Alarm::Adopted(host)) => self.faults.adopted(host, &mut self.sim),
                Happening::Alarm(Alarm::Loss) => {
                    self.losses.strike(&mut self.sim, &mut self.writer);
                    self.lose(self.sim.lost_at_once());
                }
                Happening::Alarm(Alarm::Returns(host)) => self.losses.returns(host, &mut self.sim),
            }
        }
        self.sim.violations().first().cloned().map_or(Ok(()), Err)
    }

    fn come_to_rest(&mut self, within: Duration) -> Result<(), Violation> {
        let bound = self.sim.now() + within;
        loop {
            self.advance(self.sim.now() + LOOK_EVERY)?;
            let unfinished = quiet::unfinished(&self.sim, &self.writer);
            match unfinished {
                None if self.workload.is_idle() => return Ok(()),
                _ if self.sim.now() < bound => {}
                unfinished => {
                    let what = unfinished.unwrap_or("a client still waits".into());
                    return self.violated("I17 everything comes to rest", format!("after {within:?}: {what}"));
                }
            }
        }
    }

    /// I7: two rounds of anti-entropy over equal replicas find nothing.
    fn stay_at_rest(&mut self) -> Result<(), Violation> {
        let found = |sim: &Simulation| -> u64 {
            sim.running().into_iter().filter_map(|host| sim.node(host)).map(|node| node.counters().anti_entropy_differences).sum()
        };
        // What was under way when the trees became equal may still be counted.
        // A message that is later than all the rest has its own consequences.
        self.advance(self.sim.in_flight_until())?;
        self.come_to_rest(self.sim.options().quiet_within)?;
        self.advance(self.sim.in_flight_until().max(self.sim.now() + Duration::from_secs(2)))?;
        let before = found(&self.sim);
        let partitions = 1_u32 << self.sim.options().partition_bits;
        let round = self.sim.options().pace.anti_entropy * partitions.div_ceil(16);
        self.advance(self.sim.now() + round * 2 + LOOK_EVERY)?;
        let after = found(&self.sim);
        if after == before {
            return Ok(());
        }
        self.violated("I7 idle anti-entropy", format!("{} differences between equal replicas", after - before))
    }

    fn judge(&mut self) -> Result<(), Violation> {
        self.verdict()?;
        self.write_in_peace()
    }

    /// A disk went back in time, or that of a process of before is gone.
    fn miss_a_disk(&mut self) {
        self.lose(1);
        self.workload.ledger.miss(|write| self.sim.copies_lost(write));
    }

    /// So many disks are lost at once by now, or went back in time.
    fn lose(&mut self, disks: usize) {
        self.workload.ledger.lose(|write| self.sim.copies_lost(write));
        let witness = self.sim.witness();
        let known = |delete| !witness.dots_of(delete).is_empty();
        self.workload.ledger.lose_tombstones(disks, known);
    }

    fn verdict(&mut self) -> Result<(), Violation> {
        let Some(ring) = self.writer.record().cloned() else { return Ok(()) };
        if let Err((invariant, what)) = convergence::check(&self.sim, &ring) {
            return self.violated(invariant, what);
        }
        self.workload.ledger.lose(|write| self.sim.copies_lost(write));
        let visible = convergence::visible(&self.sim);
        for (at, name) in self.workload.ledger.names().into_iter().enumerate() {
            let doubled = self.sim.witness().doubled(&name);
            self.sim.totals.writes_doubled += (doubled.remembered.len() + doubled.forgotten.len()) as u64;
            self.sim.totals.doubles_forgotten += doubled.forgotten.len() as u64;
            self.workload.ledger.forgive(doubled.forgotten);
            let expected = visible.get(&name).cloned().unwrap_or_default();
            let hosts = self.sim.running();
            let host = hosts[at % hosts.len()];
            self.reads(host, &name, &expected)?;
        }
        let lost = self.sim.rotted();
        let by_stamp = last_writer_wins::judge(&self.workload.ledger, &self.sim.witness(), &visible, lost);
        let verdict = self.workload.ledger.judge(&visible, lost, |write| self.sim.witness().is_buried(write));
        let created = self.workload.creates.judge(&self.workload.ledger);
        match verdict.and(created).and(by_stamp) {
            Ok(gave_way) => {
                self.sim.totals.last_writer_wins_checked += gave_way;
                Ok(())
            }
            Err((invariant, what)) => self.violated(invariant, what),
        }
    }

    /// I17: in peace every get is answered, with what the replicas hold. (Hints for a host whose disk is lost lie where they are,
    /// and a stand-in may know one write more.)
    fn reads(&mut self, host: HostId, name: &Name, expected: &BTreeSet<crate::witness::WriteId>) -> Result<(), Violation> {
        match self.ask(host, name, Operation::Get, QuorumWish::default())? {
            Ok(Success::Got { object, .. }) => {
                let values = object.siblings().map(|(data, _)| &data[..]);
                match self.workload.ledger.read(name, values) {
                    Ok(found) if found == *expected || self.sim.rotted() > 0 => Ok(()),
                    Ok(found) => self.violated("I7 reads", format!("{name:?} is {expected:?}, a get returned {found:?}")),
                    Err((invariant, what)) => self.violated(invariant, what),
                }
            }
            // A bucket that reads from every replica cannot, once a disk is lost.
            Err(Failure::Unavailable { .. }) if self.sim.rotted() > 0 => Ok(()),
            outcome => self.violated("I17 peace answers", format!("a get of {name:?} at host {}: {outcome:?}", host.0)),
        }
    }

    /// I17: in peace every host takes a read, a write that all home replicas have to have, and a read of that at another host.
    fn write_in_peace(&mut self) -> Result<(), Violation> {
        let hosts: Vec<HostId> = self.sim.running().into_iter().filter(|host| !self.sim.is_lost(*host)).collect();
        if self.sim.rotted() > 0 {
            return Ok(());
        }
        let options = self.sim.options().clone();
        // Clocks that differ by hours forbid writes where they decide, rightly.
        let differ_ms = CLOCKS_DIFFER_MS.max(2 * options.skew.as_millis() as u64);
        let writable = |bucket: &Bytes| !options.last_writer_wins(bucket) || options.clock_skew_ms_max > differ_ms;
        let named = options.buckets.keys().cloned().chain([Bytes::from_static(BUCKET.as_bytes())]);
        let buckets: Vec<Bytes> = named.filter(writable).collect();
        if buckets.is_empty() {
            return Ok(());
        }
        let shift = options.seed as usize;
        for at in 0..hosts.len().max(buckets.len()) {
            let (host, other) = (hosts[at % hosts.len()], hosts[(at + 1) % hosts.len()]);
            let bucket = &buckets[(at + shift) % buckets.len()];
            let n = options.n_of(bucket);
            let name = Name::new(bucket.clone(), format!("peace{at}"));
            let all = QuorumWish { w: Some(n), pw: Some(n), dw: Some(n), ..QuorumWish::default() };
            let failed = |outcome| format!("{name:?}, read and written with W = {n} at host {}: {outcome:?}", host.0);
            let context = match self.ask(host, &name, Operation::Get, QuorumWish::default())? {
                Ok(Success::Got { context, .. }) => context,
                outcome => return self.violated("I17 peace answers", failed(outcome)),
            };
            let write = self.workload.ledger.begin(name.clone(), false, BTreeSet::new(), usize::from(n));
            let put = Operation::Put { data: write.value(), context, create_only: false };
            match self.ask(host, &name, put, all)? {
                Ok(Success::Written { .. }) => self.workload.ledger.settle(write, Fate::Ok),
                outcome => return self.violated("I17 peace answers", failed(outcome)),
            }
            self.reads(other, &name, &[write].into())?;
            // Every home replica has a value, so whoever coordinates knows one.
            let again = self.workload.ledger.begin(name.clone(), false, BTreeSet::new(), usize::from(n));
            self.workload.ledger.settle(again, Fate::Failed);
            let create = Operation::Put { data: again.value(), context: Bytes::new(), create_only: true };
            match self.ask(other, &name, create, QuorumWish::default())? {
                Err(Failure::Exists) => {}
                outcome => return self.violated("I18 creates", format!("{name:?}, created at host {}: {outcome:?}", other.0)),
            }
            self.sim.totals.peace_writes += 1;
        }
        Ok(())
    }

    /// What a host answers in peace, when it must answer soon.
    fn ask(
        &mut self,
        host: HostId,
        name: &Name,
        operation: Operation,
        quorum: QuorumWish,
    ) -> Result<dynamo_core::request::Outcome, Violation> {
        let request = Request { name: name.clone(), operation, request_key: None, quorum, timeout_ms: 0 };
        let mut asked = self.sim.request(host, request.clone());
        let bound = self.sim.now() + PEACE_ANSWERS_WITHIN.max(self.sim.options().pace.request_timeout * 2);
        while let Some(happening) = self.sim.next(bound) {
            match happening {
                // The request before this one is answered, and still waits for its last replica.
                Happening::Answer(client, Err(Failure::Overloaded(_))) if client == asked => {
                    asked = self.sim.request(host, request.clone());
                }
                Happening::Answer(client, outcome) if client == asked => return Ok(outcome),
                Happening::Alarm(Alarm::Writer) => self.writer.step(&mut self.sim),
                _ => {}
            }
        }
        self.violated("I17 peace answers", format!("a request for {name:?} at host {} was not answered", host.0))
    }

    fn violated<T>(&mut self, invariant: &'static str, what: String) -> Result<T, Violation> {
        self.sim.violated(invariant, what.clone());
        Err(Violation { invariant, what, at: self.sim.now() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_core::config::{BucketProperties, QuorumDefaults, Reconciliation};

    /// Four nodes at rest, and nobody has written anything.
    fn at_rest(options: &Options) -> Run {
        let mut run = Run::new(options, false);
        run.sim.alarm(Duration::ZERO, Alarm::Writer);
        run.come_to_rest(RING_WITHIN).unwrap();
        run
    }

    #[test]
    fn where_clocks_that_differ_forbid_writes_none_is_asked_for_in_peace() {
        let stamps = BucketProperties { quorum: QuorumDefaults::default(), reconciliation: Reconciliation::LastWriterWins };
        let days = |days: u64| Duration::from_secs(days * 86_400);
        let cases = [
            ("clocks that agree", Duration::from_secs(1), 100_000_000, 4),
            ("clocks that may not differ so much, in the bucket that every run has", days(1), 500, 0),
            ("clocks that differ by more than any jump", days(10_000), 100_000_000, 0),
            ("clocks that may differ so much", days(1), 400_000_000, 4),
        ];
        for (what, skew, clock_skew_ms_max, writes) in cases {
            let mut options = Options::calm(1, 4);
            options.buckets = [(Bytes::from_static(BUCKET.as_bytes()), stamps)].into();
            (options.skew, options.clock_skew_ms_max) = (skew, clock_skew_ms_max);
            let mut run = at_rest(&options);
            assert_eq!(run.write_in_peace().err(), None, "{what}");
            assert_eq!(run.sim.totals.peace_writes, writes, "{what}");
        }
    }

    /// A request is answered before its last replica has answered, and counts as one of those in flight until then.
    #[test]
    fn a_node_that_is_busy_with_the_request_before_is_asked_again_in_peace() {
        let mut options = Options::calm(1, 4);
        (options.pace.requests, options.network.detours) = (1, 0.2);
        let mut run = at_rest(&options);
        run.sim.set_calm(false);
        run.write_in_peace().unwrap();
        assert_eq!(run.sim.totals.peace_writes, 4);
        let nodes = run.sim.running().into_iter().filter_map(|host| run.sim.node(host));
        assert!(nodes.map(|node| node.counters().requests_refused_overload).sum::<u64>() > 0, "it was asked while it was busy");
    }

    #[test]
    fn a_node_that_takes_no_writes_in_peace_is_found_out() {
        for refuses in [None, Some(0), Some(3)] {
            let mut run = at_rest(&Options::calm(1, 4));
            if let Some(host) = refuses {
                run.sim.space(HostId(host), false);
            }
            let found = run.write_in_peace().err().map(|violation| violation.invariant);
            assert_eq!(found, refuses.map(|_| "I17 peace answers"), "{refuses:?}");
        }
    }
}
