//! The faults of a round: a function of the seed, the round and what the machine can do.
//!
//! Kinds are drawn from a bag that holds each once and is filled again when it is empty, so all of them come, in another order
//! each time. A fault begins every few seconds and lasts longer than that: usually two or three are there together.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use dynamo_core::random::Random;

/// Between the beginnings of two faults, in milliseconds.
const GAP_MS: (u64, u64) = (1_500, 4_500);
/// How long a fault lasts, in milliseconds.
const LASTS_MS: (u64, u64) = (3_000, 9_000);

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// SIGKILL to one node.
    Kill,
    /// To two or three at once.
    KillSeveral,
    /// To all at once.
    KillAll,
    /// SIGSTOP, later SIGCONT.
    Pause,
    /// Two groups of nodes do not hear each other.
    Partition,
    /// One group does not hear the other.
    PartitionOneWay,
    /// A node loses some of what it receives.
    Loss,
    /// Less than the reserve is free on a node's disk.
    FullDisk,
    /// Nothing is free.
    BrimfulDisk,
    /// An fsync fails, once.
    FailingFsync,
    /// Every fsync takes long.
    SlowFsync,
    /// The wall clock of a node is off, by minutes or by years.
    ClockJump,
    /// The data directory is gone: the node comes back as another, until its disk is found again.
    WipedDisk,
    /// It is gone for ever: a fresh node takes its place.
    LostDisk,
    /// One more node joins, or the one that did leaves.
    Members,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Kill,
        Self::KillSeveral,
        Self::KillAll,
        Self::Pause,
        Self::Partition,
        Self::PartitionOneWay,
        Self::Loss,
        Self::FullDisk,
        Self::BrimfulDisk,
        Self::FailingFsync,
        Self::SlowFsync,
        Self::ClockJump,
        Self::WipedDisk,
        Self::LostDisk,
        Self::Members,
    ];

    /// It takes a network namespace for each node.
    pub fn needs_network(self) -> bool {
        matches!(self, Self::Partition | Self::PartitionOneWay | Self::Loss)
    }

    /// It takes disks of a size of our own.
    pub fn needs_mounts(self) -> bool {
        matches!(self, Self::FullDisk | Self::BrimfulDisk)
    }

    /// It takes the library that is loaded into nodes.
    pub fn needs_preload(self) -> bool {
        matches!(self, Self::FailingFsync | Self::SlowFsync | Self::ClockJump)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Kill => "kill -9 of one",
            Self::KillSeveral => "kill -9 of several",
            Self::KillAll => "kill -9 of all",
            Self::Pause => "pause",
            Self::Partition => "partition",
            Self::PartitionOneWay => "partition, one way",
            Self::Loss => "packet loss",
            Self::FullDisk => "full disk",
            Self::BrimfulDisk => "disk full to the brim",
            Self::FailingFsync => "failing fsync",
            Self::SlowFsync => "slow fsync",
            Self::ClockJump => "clock jump",
            Self::WipedDisk => "wiped disk",
            Self::LostDisk => "lost disk",
            Self::Members => "join or leave",
        };
        f.pad(name)
    }
}

/// One fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// What.
    pub kind: Kind,
    /// To whom: for a partition, those on one side.
    pub nodes: Vec<usize>,
    /// How much: percent of loss, milliseconds of an fsync, seconds of the clock.
    pub amount: i64,
    /// When it begins, after the beginning of the round.
    pub at: Duration,
    /// How long it lasts.
    pub lasts: Duration,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<String> = self.nodes.iter().map(ToString::to_string).collect();
        write!(f, "{:22} node {:10}", self.kind, nodes.join(","))?;
        match self.kind {
            Kind::Loss => write!(f, " {} %", self.amount)?,
            Kind::SlowFsync => write!(f, " +{} ms", self.amount)?,
            Kind::ClockJump => write!(f, " {:+} s", self.amount)?,
            _ => {}
        }
        write!(f, " for {:.1} s", self.lasts.as_secs_f64())
    }
}

/// Who is there.
#[derive(Clone, Copy, Debug)]
pub struct Nodes {
    /// How many.
    pub count: usize,
    /// The first so many have disks of a size of our own.
    pub small_disks: usize,
    /// The last is not always a member.
    pub comes_and_goes: bool,
}

impl Nodes {
    fn comer(self) -> usize {
        self.count - 1
    }

    /// Whose disks may be taken away: neither of those with a size of our own, nor of the one that is not always a member.
    fn with_plain_disks(self) -> Range<usize> {
        self.small_disks..self.count - usize::from(self.comes_and_goes)
    }
}

/// The faults of one round, in the order of their beginnings.
pub fn plan(seed: u64, round: u64, length: Duration, nodes: Nodes, kinds: &[Kind]) -> Vec<Fault> {
    let mut random = Random::new(seed ^ round.wrapping_mul(0x9e37_79b9));
    let between = |(from, to): (u64, u64), random: &mut Random| from + random.next_u64() % (to - from);
    let (mut faults, mut bag) = (Vec::new(), Vec::new());
    // All kinds should have come by the end, however short the round is.
    let needed = kinds.len().max(1) as u64;
    let gap_max = (length.as_millis() as u64 / (needed + 1)).clamp(GAP_MS.0 / 2, GAP_MS.1);
    let gap = (GAP_MS.0.min(gap_max / 2), gap_max);
    let mut at = 500;
    while at < length.as_millis() as u64 && !kinds.is_empty() {
        if bag.is_empty() {
            bag = kinds.to_vec();
        }
        let kind = bag.swap_remove(random.below(bag.len()));
        let lasts = between(LASTS_MS, &mut random);
        let (nodes, amount) = target(kind, nodes, &mut random);
        faults.push(Fault { kind, nodes, amount, at: Duration::from_millis(at), lasts: Duration::from_millis(lasts) });
        at += between(gap, &mut random);
    }
    faults
}

fn target(kind: Kind, nodes: Nodes, random: &mut Random) -> (Vec<usize>, i64) {
    let one = random.below(nodes.count);
    let some = |from: usize, to: usize, random: &mut Random| {
        let mut all: Vec<usize> = (0..nodes.count).collect();
        let mut some: Vec<usize> =
            (0..from + random.below(to - from + 1)).map(|_| all.swap_remove(random.below(all.len()))).collect();
        some.sort_unstable();
        some
    };
    match kind {
        Kind::Kill | Kind::Pause | Kind::FailingFsync => (vec![one], 0),
        Kind::KillSeveral => (some(2, nodes.count.min(3), random), 0),
        Kind::KillAll => ((0..nodes.count).collect(), 0),
        Kind::Partition | Kind::PartitionOneWay => (some(1, nodes.count / 2, random), 0),
        Kind::Loss => (vec![one], [5, 20, 40][random.below(3)]),
        Kind::FullDisk | Kind::BrimfulDisk => (vec![random.below(nodes.small_disks)], 0),
        Kind::SlowFsync => (vec![one], [50, 300, 2_000][random.below(3)]),
        Kind::ClockJump => (vec![one], [-3_600, 3_600, -315_000_000, 315_000_000][random.below(4)]),
        Kind::WipedDisk | Kind::LostDisk => {
            let plain = nodes.with_plain_disks();
            (vec![plain.start + random.below(plain.len())], 0)
        }
        Kind::Members => (vec![nodes.comer()], 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: Nodes = Nodes { count: 6, small_disks: 2, comes_and_goes: true };

    fn of(seed: u64, seconds: u64) -> Vec<Fault> {
        plan(seed, 1, Duration::from_secs(seconds), NODES, &Kind::ALL)
    }

    #[test]
    fn a_schedule_is_a_function_of_its_seed() {
        assert_eq!(of(7, 60), of(7, 60));
        assert_ne!(of(7, 60), of(8, 60));
        assert_ne!(of(7, 60), plan(7, 2, Duration::from_secs(60), NODES, &Kind::ALL));
    }

    #[test]
    fn every_kind_comes_even_in_a_short_round_and_most_of_the_time_two_are_there() {
        for seed in 0..200 {
            let faults = of(seed, 40);
            for kind in Kind::ALL {
                assert!(faults.iter().any(|fault| fault.kind == kind), "seed {seed}: {kind} is missing");
            }
            let ends = faults.windows(2).filter(|pair| pair[0].at + pair[0].lasts > pair[1].at).count();
            assert!(ends * 10 > faults.len() * 6, "seed {seed}: {ends} of {} overlap with the next", faults.len());
            assert!(faults.iter().all(|fault| !fault.nodes.is_empty() && fault.nodes.iter().all(|node| *node < 6)));
        }
    }

    #[test]
    fn what_the_machine_cannot_do_does_not_come() {
        let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| !kind.needs_network()).collect();
        assert!(plan(1, 1, Duration::from_secs(600), NODES, &kinds).iter().all(|fault| !fault.kind.needs_network()));
        assert!(plan(1, 1, Duration::from_secs(600), NODES, &[]).is_empty());
    }
}
