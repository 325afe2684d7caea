//! The network: which links hold, which directions are cut, how long a message takes.
//!
//! A link is one node's outgoing stream to another, as the driver has it: dialled, broken, noticed to be broken, dialled again.
//! Messages on it may be lost, delayed, reordered and duplicated, which is more than a stream does.

use std::collections::BTreeSet;
use std::time::Duration;

use dynamo_core::message::Message;

use crate::dice::Dice;
use crate::options::NetworkOptions;
use crate::schedule::HostId;

/// How long after the first copy of a forwarded request the second may come.
const SOON: Duration = Duration::from_millis(500);
/// A late message takes at least this long, which no request, hint or exchange waits, and at most twice as long.
pub(crate) const LATE: Duration = Duration::from_secs(12);
/// So many times as long take those that are minutes late.
const MINUTES: u32 = 5;

/// Where a link stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// The driver knows that there is none.
    Down,
    /// The driver is dialling.
    Dialling,
    /// Messages go through.
    Up,
    /// Messages are lost, and the driver has not noticed yet.
    Broken,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    state: State,
    /// Changes with each connection, so that news of an old one does not end a new one.
    number: u64,
}

/// All links.
#[derive(Debug)]
pub(crate) struct Network {
    options: NetworkOptions,
    dice: Dice,
    links: Vec<Vec<Link>>,
    cut: BTreeSet<(HostId, HostId)>,
    /// Directions that lose, double and reorder much.
    bad: BTreeSet<(HostId, HostId)>,
    calm: bool,
    /// Late messages are minutes late.
    minutes_late: bool,
    /// Which messages are late, apart from the rest, so that a run without them is what it was.
    late: Dice,
    /// For what came later, so that other choices stay where they were.
    more: Dice,
}

impl Network {
    pub(crate) fn new(options: NetworkOptions, minutes_late: bool, dice: Dice) -> Self {
        let late = Dice::new(dice.clone().number() ^ 0x6c61_7465);
        let more = Dice::new(dice.clone().number() ^ 0x6d6f_7265);
        Self {
            options,
            dice,
            links: Vec::new(),
            cut: BTreeSet::new(),
            bad: BTreeSet::new(),
            calm: true,
            minutes_late,
            late,
            more,
        }
    }

    pub(crate) fn add_host(&mut self) {
        let link = Link { state: State::Down, number: 0 };
        self.links.iter_mut().for_each(|row| row.push(link));
        self.links.push(vec![link; self.links.len() + 1]);
    }

    /// Whether messages are lost, doubled and sent astray.
    pub(crate) fn set_calm(&mut self, calm: bool) {
        self.calm = calm;
    }

    pub(crate) fn state(&self, from: HostId, to: HostId) -> State {
        self.links[from.0][to.0].state
    }

    /// The number of the connection, to be given back to [`Network::is_current`].
    pub(crate) fn number(&self, from: HostId, to: HostId) -> u64 {
        self.links[from.0][to.0].number
    }

    pub(crate) fn is_current(&self, from: HostId, to: HostId, number: u64) -> bool {
        self.number(from, to) == number
    }

    pub(crate) fn set(&mut self, from: HostId, to: HostId, state: State) {
        let link = &mut self.links[from.0][to.0];
        link.state = state;
        if matches!(state, State::Up | State::Down) {
            link.number += 1;
        }
    }

    pub(crate) fn cut(&mut self, from: HostId, to: HostId) {
        self.cut.insert((from, to));
    }

    pub(crate) fn mend(&mut self, from: HostId, to: HostId) {
        self.cut.remove(&(from, to));
    }

    /// A direction becomes bad, or good again.
    pub(crate) fn set_bad(&mut self, from: HostId, to: HostId, bad: bool) {
        if bad {
            self.bad.insert((from, to));
        } else {
            self.bad.remove(&(from, to));
        }
    }

    pub(crate) fn is_cut(&self, from: HostId, to: HostId) -> bool {
        self.cut.contains(&(from, to))
    }

    /// How long each copy of a message takes: none if it is lost, two if it is doubled.
    ///
    /// The second copy of a forwarded request comes soon after the first: a coordinator remembers for two time-outs which ones it
    /// took, and only request ids would make a later repetition the same write.
    pub(crate) fn deliveries(&mut self, from: HostId, to: HostId, message: &Message) -> Vec<Duration> {
        if self.calm {
            return vec![self.delay()];
        }
        if self.bad.contains(&(from, to)) {
            return self.bad_deliveries(message);
        }
        let of_a_ring = matches!(message, Message::Replicate { .. } | Message::Fetch { .. } | Message::Push { .. });
        if of_a_ring && self.options.slow_requests > 0.0 && self.more.chance(self.options.slow_requests) {
            return vec![self.more.duration(Duration::from_millis(500), Duration::from_secs(6))];
        }
        if self.dice.chance(self.options.loss) {
            return Vec::new();
        }
        let mut deliveries = vec![self.detour()];
        if self.options.late > 0.0 && self.late.chance(self.options.late) {
            let longer = if self.minutes_late { MINUTES } else { 1 };
            deliveries[0] = self.late.duration(LATE, LATE * 2) * longer;
        }
        if self.dice.chance(self.options.duplication) {
            let soon = matches!(message, Message::Forward { .. });
            deliveries.push(if soon { deliveries[0] + self.delay().min(SOON) } else { self.detour() });
        }
        deliveries
    }

    /// A third is lost, a third comes twice, and what comes is in any order.
    fn bad_deliveries(&mut self, message: &Message) -> Vec<Duration> {
        let copies = if matches!(message, Message::Forward { .. }) { self.more.below(2) } else { self.more.below(3) };
        let delay = self.options.delay;
        (0..copies).map(|_| self.more.duration(delay, delay * 20)).collect()
    }

    /// The usual time of a message.
    pub(crate) fn delay(&mut self) -> Duration {
        self.dice.around(self.options.delay)
    }

    fn detour(&mut self) -> Duration {
        let factor = if self.dice.chance(self.options.detours) { 100 } else { 1 };
        self.delay() * factor
    }
}
