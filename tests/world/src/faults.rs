//! What goes wrong, when, and how often it did: chosen by a seed, or one crash at one call.

use std::collections::BTreeMap;
use std::fmt;

use dynamo_sim::dice::Dice;

/// Something that goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// The operator dies before a call that changes something arrives.
    CrashBefore,
    /// The operator dies after such a call was carried out, before the answer arrives.
    CrashAfter,
    /// Somebody writes to the object just before the operator's call arrives.
    ForeignWrite,
    /// The call is refused, and has no effect.
    Refused,
    /// The call times out and has no effect.
    TimedOut,
    /// The call times out and was carried out.
    TimedOutApplied,
    /// The operator stands still in the middle of a pass while another takes over, and then goes on: two are alive.
    TwoOperators,
    /// All of a pass's reads are of an earlier moment.
    StaleReads,
    /// A pod is missing in a pass's list.
    HiddenPod,
    /// A claim is missing in a pass's list.
    HiddenClaim,
    /// No watch tells of a change.
    MissedEvent,
    /// A node does not answer the operator in a pass.
    NodeUnanswered,
    /// A pod dies at once and comes back.
    PodKilled,
    /// A pod dies and does not come back for a while.
    PodHeld,
    /// Messages to and from a node take long.
    NodeSlow,
    /// The StatefulSet controller does nothing for a while.
    ControllerPaused,
    /// A volume is gone for ever.
    VolumeLost,
    /// Somebody asks for another number of nodes.
    ReplicasChanged,
    /// Somebody asks for another image.
    ImageChanged,
    /// A spec that the API server would refuse today is stored, under an older definition.
    InvalidSpec,
    /// Somebody lowers the StatefulSet by hand.
    SetLowered,
}

/// All of them.
pub const FAULTS: [Fault; 21] = [
    Fault::CrashBefore,
    Fault::CrashAfter,
    Fault::ForeignWrite,
    Fault::Refused,
    Fault::TimedOut,
    Fault::TimedOutApplied,
    Fault::TwoOperators,
    Fault::StaleReads,
    Fault::HiddenPod,
    Fault::HiddenClaim,
    Fault::MissedEvent,
    Fault::NodeUnanswered,
    Fault::PodKilled,
    Fault::PodHeld,
    Fault::NodeSlow,
    Fault::ControllerPaused,
    Fault::VolumeLost,
    Fault::ReplicasChanged,
    Fault::ImageChanged,
    Fault::InvalidSpec,
    Fault::SetLowered,
];

/// What may befall a call that changes something, with its share among 100 calls.
const OF_CALLS: [(u64, Fault); 7] = [
    (3, Fault::CrashBefore),
    (3, Fault::CrashAfter),
    (4, Fault::ForeignWrite),
    (3, Fault::Refused),
    (3, Fault::TimedOut),
    (3, Fault::TimedOutApplied),
    (2, Fault::TwoOperators),
];
/// What may befall a pass, with its share among 100 passes.
const OF_PASSES: [(u64, Fault); 4] =
    [(6, Fault::StaleReads), (4, Fault::HiddenPod), (4, Fault::HiddenClaim), (5, Fault::NodeUnanswered)];
/// What may befall the cluster, with its share among 5,000 rounds.
const OF_ROUNDS: [(u64, Fault); 9] = [
    (6, Fault::PodKilled),
    (4, Fault::PodHeld),
    (5, Fault::NodeSlow),
    (4, Fault::ControllerPaused),
    (3, Fault::VolumeLost),
    (5, Fault::ReplicasChanged),
    (3, Fault::ImageChanged),
    (3, Fault::InvalidSpec),
    (2, Fault::SetLowered),
];

/// Where the operator dies once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CrashPoint {
    /// The call, counted among those that change something, from 0.
    pub call: u64,
    /// After its effect, not before.
    pub after: bool,
}

impl fmt::Display for CrashPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} call {}", if self.after { "after" } else { "before" }, self.call)
    }
}

/// What decides.
enum Source {
    Nothing,
    Crash(CrashPoint),
    Dice(Dice),
}

/// What goes wrong in one run.
pub struct Faults {
    source: Source,
    counts: BTreeMap<Fault, u64>,
}

impl Faults {
    /// Nothing does.
    pub fn none() -> Self {
        Self { source: Source::Nothing, counts: BTreeMap::new() }
    }

    /// The operator dies once.
    pub fn crash(at: CrashPoint) -> Self {
        Self { source: Source::Crash(at), ..Self::none() }
    }

    /// As a seed has it.
    pub fn seeded(seed: u64) -> Self {
        Self { source: Source::Dice(Dice::new(seed)), ..Self::none() }
    }

    /// The operator dies here next.
    pub fn die_at(&mut self, at: CrashPoint) {
        self.source = Source::Crash(at);
    }

    /// Nothing goes wrong any more.
    pub fn stop(&mut self) {
        self.source = Source::Nothing;
    }

    /// What befalls this call, which changes something.
    pub fn of_call(&mut self, call: u64) -> Option<Fault> {
        match &mut self.source {
            Source::Nothing => None,
            Source::Crash(at) if at.call == call => Some(if at.after { Fault::CrashAfter } else { Fault::CrashBefore }),
            Source::Crash(_) => None,
            Source::Dice(dice) => one_of(dice, &OF_CALLS, 100),
        }
    }

    /// What befalls the pass that begins.
    pub fn of_pass(&mut self) -> Option<Fault> {
        self.drawn(&OF_PASSES, 100)
    }

    /// What befalls the cluster in this round.
    pub fn of_round(&mut self) -> Option<Fault> {
        self.drawn(&OF_ROUNDS, 5000)
    }

    /// Whether no watch tells of this change.
    pub fn misses_event(&mut self) -> bool {
        self.drawn(&[(8, Fault::MissedEvent)], 100).is_some()
    }

    /// A number below `bound`, for where and how much.
    pub fn below(&mut self, bound: usize) -> usize {
        match &mut self.source {
            Source::Dice(dice) => dice.below(bound),
            Source::Nothing | Source::Crash(_) => 0,
        }
    }

    /// It happened.
    pub fn count(&mut self, fault: Fault) {
        *self.counts.entry(fault).or_default() += 1;
    }

    /// How often each happened.
    pub fn counts(&self) -> &BTreeMap<Fault, u64> {
        &self.counts
    }

    fn drawn(&mut self, of: &[(u64, Fault)], among: u64) -> Option<Fault> {
        match &mut self.source {
            Source::Dice(dice) => one_of(dice, of, among),
            Source::Nothing | Source::Crash(_) => None,
        }
    }
}

fn one_of(dice: &mut Dice, of: &[(u64, Fault)], among: u64) -> Option<Fault> {
    let mut left = dice.between(0, among - 1);
    for (share, fault) in of {
        if left < *share {
            return Some(*fault);
        }
        left -= share;
    }
    None
}
