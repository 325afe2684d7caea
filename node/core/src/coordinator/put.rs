//! One put: from the coordinator's own write to the last acknowledgement (paper 4.5, 4.6).
//!
//! ```text
//! start -> Replicate to every home replica --quorum--> Answered --all answered--> Settled
//!               | failed, suspected, or silent past the hint deadline
//!               |-> Replicate to the next fallback, with a hint that names the home replica; once more if that is silent too
//!               '-> KeepHint at the coordinator, where no fallback is left
//! ```
//!
//! Guarantees: an ok rests on W acknowledgements of distinct nodes in every write set, DW of them fsynced. A failure after
//! anything was sent is `Unknown`, never "failed": the write may surface; it comes as soon as nobody is left to wait for. A write
//! to a home replica that was replaced is not taken back, its late acknowledgement still counts.
//!
//! While a partition moves, two sets are written, and the replicas of one are among those that can stand in within the other: they are
//! asked anyway, and what they keep is a copy of their own. They count there once no fallback is left ([`crate::quorum`]), so any W nodes
//! that can be reached are enough: each is asked, and has a place in both sets. Beyond W such a copy is worth what a hint is, no more: a
//! get from the set that it stands in within may miss it until the coordinator's hint has arrived or the replicas were compared; and if the
//! move is taken back, or the copy's node is what leaves, the copy goes home like any that the ring gives to others.
//!
//! Not so at once: a fallback that is asked at the hint deadline and says nothing is waited for, and one whose replica answers late after
//! all counts for no other, since its hint becomes that one's copy. The next put goes round both, when they are suspected.
//!
//! A stand-in is told whether the quorum needs its copy, which it keeps beyond its bound then ([`crate::hinted_handoff`]). One that
//! declined what nobody counted is asked once more if it comes to that.

use std::cmp::Reverse;
use std::collections::VecDeque;

use smallvec::SmallVec;

use crate::coordinator::Progress;
use crate::hinted_handoff::HintFor;
use crate::id::NodeId;
use crate::preference_list::Nodes;
use crate::quorum::{Answer, Required, Tally};
use crate::request::Failure;
use crate::small_map::SmallMap;
use crate::time::Instant;

/// What happens to a put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// `by` has the write, for itself or as a stand-in.
    Acknowledged {
        /// Who.
        by: NodeId,
        /// On stable storage.
        durable: bool,
    },
    /// `by` is there and does not take it: it is at a bound.
    Declined {
        /// Who.
        by: NodeId,
    },
    /// `by` is gone, or never takes it.
    Failed {
        /// Who.
        by: NodeId,
    },
    /// Time has passed.
    Tick,
}

/// What a put wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send the write; `hint_for` when the receiver stands in for another.
    Replicate {
        /// To whom.
        to: NodeId,
        /// The home replica it stands in for.
        hint_for: Option<HintFor>,
    },
    /// No fallback is left to stand in for `home`: the coordinator keeps a hint beside its own copy. That is no acknowledgement
    /// (it is not another node), but the write finds its way home without waiting for anti-entropy.
    KeepHint {
        /// The home replica.
        home: NodeId,
    },
    /// Tell the client; at most once.
    Answer(Result<(), Failure>),
}

#[derive(Clone, Debug)]
struct Home {
    /// Acknowledged, by the home replica or its stand-in: nothing more to do for it.
    settled: bool,
    /// Who stands in for it.
    stand_in: StandIn,
    /// What it may still say itself.
    itself: Itself,
}

/// Who stands in for a home replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum StandIn {
    /// Nobody yet.
    Nobody,
    /// A fallback was asked to.
    Asked,
    /// No fallback was left to ask: its place in its sets is vacant, unless it answers itself.
    NoneLeft,
}

/// What is expected of a home replica itself. Whatever it is, an acknowledgement counts when it comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Itself {
    /// An acknowledgement.
    Awaited,
    /// Nothing in time: it has been silent past the hint deadline.
    Late,
    /// Nothing: it is suspected, or has failed.
    Gone,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Put {
    sets: Sets,
    homes: SmallMap<NodeId, Home, 3>,
    /// Not asked yet.
    fallbacks: VecDeque<NodeId>,
    /// Fallbacks that took no hint which no quorum needed.
    declined: VecDeque<NodeId>,
    /// Whom each fallback stands in for.
    stands_in: SmallMap<NodeId, HintFor, 1>,
    tally: Tally,
    required: Required,
    hint_at: Instant,
    deadline: Instant,
    answered: bool,
}

/// The write sets of a partition: one, unless it moves.
pub type Sets = SmallVec<[Nodes; 1]>;

/// Everything a put starts from.
#[derive(Clone, Debug)]
pub struct Start {
    /// The write sets of the partition.
    pub sets: Sets,
    /// Home replicas that are suspected: their stand-ins are asked at once.
    pub suspected: Nodes,
    /// Reachable fallbacks, best first.
    pub fallbacks: Vec<NodeId>,
    /// What it takes.
    pub required: Required,
    /// When silent homes are replaced.
    pub hint_at: Instant,
    /// When the client hears at the latest.
    pub deadline: Instant,
}

impl Put {
    /// Starts: every home replica is asked (the suspected ones too: they may be back), and stand-ins for the suspected.
    pub fn start(start: Start, out: &mut Vec<Output>) -> Self {
        let mut put = Self {
            homes: SmallMap::default(),
            sets: start.sets,
            fallbacks: start.fallbacks.into(),
            declined: VecDeque::new(),
            stands_in: SmallMap::default(),
            tally: Tally::default(),
            required: start.required,
            hint_at: start.hint_at,
            deadline: start.deadline,
            answered: false,
        };
        for home in put.sets.iter().flatten() {
            let itself = if start.suspected.contains(home) { Itself::Gone } else { Itself::Awaited };
            if put.homes.insert(*home, Home { settled: false, stand_in: StandIn::Nobody, itself }).is_none() {
                out.push(Output::Replicate { to: *home, hint_for: None });
            }
        }
        put.replace_all(start.suspected, out);
        put
    }

    /// Whether the client has been answered.
    pub fn is_answered(&self) -> bool {
        self.answered
    }

    /// The home replica that `node` was asked to stand in for.
    pub fn stands_in_for(&self, node: NodeId) -> Option<HintFor> {
        self.stands_in.get(&node).copied()
    }

    /// Whether `node` is a home replica in every write set: what it acknowledges counts in all of them.
    pub fn is_home_in_every_set(&self, node: NodeId) -> bool {
        self.sets.iter().all(|set| set.contains(&node))
    }

    /// Who answered, how many durably, how many as stand-ins.
    pub fn evidence(&self) -> (Vec<NodeId>, u32, u32) {
        self.tally.evidence(&self.sets, |home| self.leaves_a_vacancy(home))
    }

    /// One input.
    pub fn handle(&mut self, input: Input, now: Instant, out: &mut Vec<Output>) -> Progress {
        match input {
            Input::Acknowledged { by, durable } => self.on_acknowledged(by, durable),
            Input::Declined { by } => self.on_declined(by, out),
            Input::Failed { by } => self.on_failed(by, out),
            Input::Tick => self.on_tick(now, out),
        }
        let is_vacant = |home| self.leaves_a_vacancy(home);
        if !self.answered && self.tally.reached(&self.sets, self.required, is_vacant) {
            self.answered = true;
            out.push(Output::Answer(Ok(())));
        } else if !self.answered && (now >= self.deadline || !self.is_possible()) {
            let acknowledged = self.tally.acknowledged(&self.sets, is_vacant) as u32;
            self.answered = true;
            out.push(Output::Answer(Err(Failure::Unknown { acknowledged, required: self.required.total as u32 })));
        }
        self.progress(now)
    }

    fn on_acknowledged(&mut self, by: NodeId, durable: bool) {
        let answer = Answer { by, durable };
        if let Some(home) = self.homes.get_mut(&by) {
            home.settled = true;
            self.tally.add(by, answer);
        } else if let Some(hint) = self.stands_in.get(&by) {
            self.tally.add(hint.home, answer);
            // Its hint will find the way home: nothing is left to do for that replica here.
            if let Some(home) = self.homes.get_mut(&hint.home) {
                home.settled = true;
            }
        }
    }

    fn on_declined(&mut self, by: NodeId, out: &mut Vec<Output>) {
        if self.stands_in.get(&by).is_some_and(|hint| !hint.needed) {
            self.declined.push_back(by);
        }
        self.pass_on(by, out);
    }

    fn on_failed(&mut self, by: NodeId, out: &mut Vec<Output>) {
        self.fallbacks.retain(|fallback| *fallback != by);
        self.declined.retain(|fallback| *fallback != by);
        self.pass_on(by, out);
    }

    /// What `by` was asked for goes to the next fallback.
    fn pass_on(&mut self, by: NodeId, out: &mut Vec<Output>) {
        if let Some(home) = self.homes.get_mut(&by) {
            home.itself = Itself::Gone;
            self.replace(by, out);
        } else if let Some(hint) = self.stands_in.remove(&by) {
            let asked = self.is_asked_of_another(&hint.home);
            if let Some(home) = self.homes.get_mut(&hint.home).filter(|home| !asked && home.stand_in == StandIn::Asked) {
                home.stand_in = StandIn::Nobody;
            }
            self.replace(hint.home, out);
        }
    }

    fn on_tick(&mut self, now: Instant, out: &mut Vec<Output>) {
        if now >= self.hint_at {
            self.give_up_silent_fallbacks(now);
            let mut silent = Nodes::new();
            for (node, home) in self.homes.iter_mut().filter(|(_, home)| !home.settled && home.stand_in == StandIn::Nobody) {
                if home.itself == Itself::Awaited {
                    home.itself = Itself::Late;
                }
                silent.push(*node);
            }
            self.replace_all(silent, out);
        }
    }

    /// What fallbacks were asked for that have said nothing goes to the next ones as well. Once: those are not given up in their turn, for
    /// a put that is slow everywhere would go from node to node through the cluster.
    fn give_up_silent_fallbacks(&mut self, now: Instant) {
        let unanswered = self.stands_in.values().filter(|hint| now < self.deadline && self.tally.of(hint.home).is_none());
        for hint in unanswered {
            if let Some(home) = self.homes.get_mut(&hint.home) {
                home.stand_in = StandIn::Nobody;
            }
        }
    }

    fn replace_all(&mut self, mut silent: Nodes, out: &mut Vec<Output>) {
        in_most_sets_first(&self.sets, &mut silent);
        for home in silent {
            self.replace(home, out);
        }
    }

    /// Asks the next fallback to stand in for `home`, once.
    fn replace(&mut self, home: NodeId, out: &mut Vec<Output>) {
        let needed = self.needs_stand_ins();
        let Some(state) = self.homes.get_mut(&home) else { return };
        if state.settled || state.stand_in != StandIn::Nobody {
            return;
        }
        let again = if needed { &mut self.declined } else { &mut VecDeque::new() };
        if let Some(fallback) = self.fallbacks.pop_front().or_else(|| again.pop_front()) {
            state.stand_in = StandIn::Asked;
            let hint = HintFor { home, needed };
            self.stands_in.insert(fallback, hint);
            out.push(Output::Replicate { to: fallback, hint_for: Some(hint) });
        } else {
            (state.stand_in, state.settled) = (StandIn::NoneLeft, true);
            out.push(Output::KeepHint { home });
        }
    }

    /// Whether some set has fewer home replicas than it takes acknowledgements. Then each stand-in's copy may be one of the quorum's:
    /// all of them are needed, since any may turn out to be silent.
    fn needs_stand_ins(&self) -> bool {
        let counts = |home: &&NodeId| self.tally.of(**home).is_some() || self.itself(home) == Itself::Awaited;
        !self.answered && self.sets.iter().any(|set| set.iter().filter(counts).count() < self.required.total)
    }

    /// Whether enough of those have not answered yet who may still acknowledge.
    fn is_possible(&self) -> bool {
        self.sets.iter().all(|set| {
            let (mut total, mut primary) = (0, 0);
            for home in set {
                let answer = self.tally.of(*home);
                let itself = self.itself(home) != Itself::Gone || answer.is_some_and(|answer| answer.by == *home);
                primary += usize::from(itself);
                total += usize::from(itself || answer.is_some() || self.is_asked_of_another(home));
            }
            if total < self.required.total && set.iter().any(|home| self.leaves_a_vacancy(*home)) {
                // Nobody else will be asked: whoever answers has a place, in this set as in any other.
                total = self.may_answer().min(set.len());
            }
            total >= self.required.total && primary >= self.required.primary
        })
    }

    /// Whether some fallback was asked to stand in for `home` that may do so still, if late.
    fn is_asked_of_another(&self, home: &NodeId) -> bool {
        self.stands_in.values().any(|hint| hint.home == *home)
    }

    /// How many acknowledgements there are, or may be.
    fn may_answer(&self) -> usize {
        let may = |(node, home): &(&NodeId, &Home)| {
            self.tally.of(**node).is_some() || home.itself != Itself::Gone || self.is_asked_of_another(node)
        };
        self.homes.iter().filter(may).count()
    }

    /// Whether the place of `home` is vacant as long as nobody answers for it.
    fn leaves_a_vacancy(&self, home: NodeId) -> bool {
        self.homes.get(&home).is_some_and(|home| home.stand_in == StandIn::NoneLeft)
    }

    fn itself(&self, home: &NodeId) -> Itself {
        self.homes.get(home).map_or(Itself::Gone, |home| home.itself)
    }

    fn progress(&self, now: Instant) -> Progress {
        let done = self.answered && (now >= self.deadline || self.homes.values().all(|home| home.settled));
        if done { Progress::Settled } else { Progress::Running }
    }
}

/// A stand-in counts in every set of the one that it stands in for. So where there are few, the homes that are in more sets get them.
fn in_most_sets_first(sets: &[Nodes], homes: &mut [NodeId]) {
    homes.sort_by_key(|home| Reverse(sets.iter().filter(|set| set.contains(home)).count()));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use smallvec::smallvec;

    use super::*;
    use crate::ring::tests::node;

    const W2: Required = Required { asked: 3, total: 2, durable: 2, primary: 0 };

    fn start(suspected: &[u8], fallbacks: &[u8]) -> (Put, Vec<Output>) {
        let mut out = Vec::new();
        let put = Put::start(
            Start {
                sets: smallvec![smallvec![node(1), node(2), node(3)]],
                suspected: suspected.iter().map(|id| node(*id)).collect(),
                fallbacks: fallbacks.iter().map(|id| node(*id)).collect(),
                required: W2,
                hint_at: Instant(100),
                deadline: Instant(1000),
            },
            &mut out,
        );
        (put, out)
    }

    fn ack(put: &mut Put, by: u8, out: &mut Vec<Output>) -> Progress {
        put.handle(Input::Acknowledged { by: node(by), durable: true }, Instant(1), out)
    }

    fn fail(put: &mut Put, by: u8, out: &mut Vec<Output>) {
        put.handle(Input::Failed { by: node(by) }, Instant(1), out);
    }

    fn decline(put: &mut Put, by: u8, out: &mut Vec<Output>) {
        put.handle(Input::Declined { by: node(by) }, Instant(1), out);
    }

    /// `to` is asked for a copy that the quorum needs, or can do without.
    fn stand_in(to: u8, home: u8, needed: bool) -> Output {
        Output::Replicate { to: node(to), hint_for: Some(HintFor { home: node(home), needed }) }
    }

    fn unknown(acknowledged: u32) -> Output {
        Output::Answer(Err(Failure::Unknown { acknowledged, required: 2 }))
    }

    /// A move from the first node to the fourth; the third and the only fallback are up.
    #[test]
    fn a_stand_in_goes_to_a_home_that_is_in_both_sets() {
        let mut out = Vec::new();
        let suspected = [1, 2, 4].into_iter().map(node).collect();
        let sets = smallvec![smallvec![node(1), node(2), node(3)], smallvec![node(4), node(2), node(3)]];
        let (required, hint_at, deadline) = (W2, Instant(100), Instant(1000));
        let fallbacks = vec![node(5)];
        let mut put = Put::start(Start { sets, suspected, fallbacks, required, hint_at, deadline }, &mut out);
        assert!(out.contains(&stand_in(5, 2, true)), "{out:?}");
        ack(&mut put, 3, &mut out);
        ack(&mut put, 5, &mut out);
        assert!(out.contains(&Output::Answer(Ok(()))), "{out:?}");
    }

    /// A put of a partition that moves from the first set to the second.
    fn moving(sets: [&[u8]; 2], suspected: &[u8], fallbacks: &[u8], required: Required) -> (Put, Vec<Output>) {
        let nodes = |ids: &[u8]| ids.iter().map(|id| node(*id)).collect::<Nodes>();
        let (sets, suspected, fallbacks) = (sets.map(nodes).into_iter().collect(), nodes(suspected), nodes(fallbacks).to_vec());
        let mut out = Vec::new();
        let (hint_at, deadline) = (Instant(100), Instant(1000));
        let put = Put::start(Start { sets, suspected, fallbacks, required, hint_at, deadline }, &mut out);
        (put, out)
    }

    #[test]
    fn a_replica_of_one_set_stands_in_within_the_other_once_nobody_else_is_left() {
        // From the third node to the fourth: of the old set one is up, and the new one.
        let (mut put, mut out) = moving([&[1, 2, 3], &[1, 2, 4]], &[2, 3], &[], W2);
        assert!(out.ends_with(&[Output::KeepHint { home: node(2) }, Output::KeepHint { home: node(3) }]), "{out:?}");
        out.clear();
        ack(&mut put, 1, &mut out);
        ack(&mut put, 4, &mut out);
        assert_eq!(out, [Output::Answer(Ok(()))]);
        assert_eq!(put.evidence(), (vec![node(1), node(4)], 2, 1), "the new one stands in within the old set");

        // One that is about to leave, in the place of the new one and of another.
        let (mut put, mut out) = moving([&[1, 2, 3], &[1, 2, 4]], &[2, 4], &[], W2);
        out.clear();
        ack(&mut put, 3, &mut out);
        assert_eq!(out, []);
        ack(&mut put, 1, &mut out);
        assert_eq!(out, [Output::Answer(Ok(()))]);
        assert_eq!(put.evidence(), (vec![node(1), node(3)], 2, 1));
    }

    #[test]
    fn a_replica_of_one_set_counts_for_nobody_in_the_other_who_may_answer_in_time() {
        let (mut put, mut out) = moving([&[1, 2, 3], &[1, 2, 4]], &[], &[], W2);
        out.clear();
        ack(&mut put, 3, &mut out);
        ack(&mut put, 4, &mut out);
        assert_eq!(out, [], "each set has one, and a get from it would ask two of the others");
        put.handle(Input::Tick, Instant(100), &mut out);
        assert_eq!(out[2..], [Output::Answer(Ok(()))], "the others are late: {out:?}");
    }

    #[test]
    fn fallbacks_that_are_left_are_asked_first_and_replicas_of_the_other_set_take_what_places_they_leave() {
        let (mut put, mut out) = moving([&[1, 2, 3], &[1, 2, 4]], &[2, 3], &[5, 6], W2);
        assert!(out.ends_with(&[stand_in(5, 2, true), stand_in(6, 3, true)]), "{out:?}");
        out.clear();
        ack(&mut put, 1, &mut out);
        ack(&mut put, 4, &mut out);
        assert_eq!(out, [], "one of these may answer");
        [5, 6].into_iter().for_each(|by| decline(&mut put, by, &mut out));
        assert!(out.contains(&Output::Answer(Ok(()))), "{out:?}");
    }

    /// Node 3, which leaves, fails first and gets the only fallback; then all others but the first fail.
    #[test]
    fn a_fallback_for_a_replica_of_one_set_takes_a_place_in_the_other_too() {
        let (mut put, mut out) = moving([&[1, 2, 3], &[1, 2, 4]], &[], &[5], W2);
        [3, 2, 4].into_iter().for_each(|by| fail(&mut put, by, &mut out));
        ack(&mut put, 1, &mut out);
        ack(&mut put, 5, &mut out);
        assert_eq!(out.last(), Some(&Output::Answer(Ok(()))));
        assert_eq!(put.evidence(), (vec![node(1), node(5)], 2, 1));
    }

    /// Seed 488. The hint goes as soon as it is delivered, and then there is one copy of the two.
    #[test]
    fn a_stand_in_does_not_count_beside_the_replica_that_it_stands_in_for() {
        let (mut put, mut out) = moving([&[1, 2, 3], &[1, 2, 4]], &[], &[5], W2);
        put.handle(Input::Acknowledged { by: node(1), durable: false }, Instant(1), &mut out);
        put.handle(Input::Tick, Instant(100), &mut out);
        assert!(out.contains(&stand_in(5, 2, true)), "{out:?}");
        out.clear();
        ack(&mut put, 2, &mut out);
        ack(&mut put, 5, &mut out);
        assert_eq!(out, [], "in its own set");
        let (mut put, mut out) = moving([&[1, 2, 3], &[4, 6, 7]], &[], &[5], W2);
        [3, 4, 6, 7].into_iter().for_each(|by| fail(&mut put, by, &mut out));
        assert!(out.contains(&stand_in(5, 3, false)), "{out:?}");
        [3, 5].into_iter().for_each(|by| assert_eq!(ack(&mut put, by, &mut out), Progress::Running));
        assert!(!out.contains(&Output::Answer(Ok(()))), "in the other one: {out:?}");
    }

    /// What those say that are not up.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum Down {
        Suspected,
        /// They too, but not the fallbacks among them.
        SilentFallbacks,
        Silent,
        Fail,
        Decline,
    }

    const DOWN: [Down; 5] = [Down::Suspected, Down::SilentFallbacks, Down::Silent, Down::Fail, Down::Decline];

    /// A put, when nobody is left who has something to say; the one who was asked last is the first to say it, or the last. True if
    /// it succeeded.
    fn run(sets: [&[u8]; 2], fallbacks: &[u8], up: &[u8], down: Down, w: usize, last_first: bool) -> (Put, bool) {
        let is_down = |id: &u8| !up.contains(id);
        let is_suspected = matches!(down, Down::Suspected | Down::SilentFallbacks);
        let suspected: BTreeSet<u8> = sets.concat().into_iter().filter(|id| is_suspected && is_down(id)).collect();
        let suspected: Vec<u8> = suspected.into_iter().collect();
        // A fallback that is first asked at the hint deadline, and says nothing, is waited for.
        let can_be_asked = |(at, id): &(usize, &u8)| match down {
            _ if !is_down(id) => true,
            Down::Suspected | Down::Silent => false,
            Down::SilentFallbacks => *at < suspected.len(),
            Down::Fail | Down::Decline => true,
        };
        let fallbacks: Vec<u8> = fallbacks.iter().enumerate().filter(can_be_asked).map(|(_, id)| *id).collect();
        let (mut put, mut out) = moving(sets, &suspected, &fallbacks, Required { asked: 3, total: w, durable: w, primary: 0 });
        let (mut asked, mut ok) = (Vec::new(), false);
        for at in [1, 100] {
            put.handle(Input::Tick, Instant(at), &mut out);
            loop {
                asked.extend(out.drain(..).filter_map(|output| match output {
                    Output::Replicate { to, .. } => Some(to),
                    Output::Answer(answer) => {
                        ok = answer.is_ok();
                        None
                    }
                    Output::KeepHint { .. } => None,
                }));
                if asked.is_empty() {
                    break;
                }
                let by = asked.remove(if last_first { asked.len() - 1 } else { 0 });
                let input = match down {
                    _ if up.iter().any(|id| node(*id) == by) => Input::Acknowledged { by, durable: true },
                    Down::Fail => Input::Failed { by },
                    Down::Decline => Input::Declined { by },
                    Down::Suspected | Down::SilentFallbacks | Down::Silent => continue,
                };
                put.handle(input, Instant(at), &mut out);
            }
        }
        (put, ok)
    }

    /// As long as W nodes can be reached a put succeeds, whichever they are, whatever the others say and however the partition moves.
    /// And it never does with fewer.
    #[test]
    fn any_w_nodes_are_enough_and_fewer_are_not() {
        let moves: [[&[u8]; 2]; 5] = [
            [&[1, 2, 3], &[1, 2, 3]],
            [&[1, 2, 3], &[1, 2, 4]],
            [&[1, 2, 3], &[1, 4, 5]],
            [&[1, 2, 3], &[4, 5, 6]],
            [&[1], &[2]],
        ];
        for (sets, fallbacks) in moves.into_iter().flat_map(|sets| [&[][..], &[7], &[7, 8]].map(|fallbacks| (sets, fallbacks))) {
            let mut all = [sets[0], sets[1], fallbacks].concat();
            all.sort_unstable();
            all.dedup();
            for choice in 0..1_u32 << all.len() {
                let up: Vec<u8> = (0..all.len()).filter(|at| choice >> at & 1 == 1).map(|at| all[at]).collect();
                for (down, w) in DOWN.into_iter().flat_map(|down| (1..=sets[0].len()).map(move |w| (down, w))) {
                    for last_first in [false, true] {
                        let (put, ok) = run(sets, fallbacks, &up, down, w, last_first);
                        assert_eq!(ok, up.len() >= w, "{sets:?}, {fallbacks:?}, {up:?} are up, {down:?}, W = {w}, {last_first}");
                        let (nodes, durable, _) = put.evidence();
                        assert!(!ok || nodes.len() >= w && durable as usize >= w, "{nodes:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_client_hears_at_w_and_the_machine_lives_until_all_have_answered() {
        let (mut put, mut out) = start(&[], &[4]);
        assert_eq!(out.len(), 3);
        out.clear();
        assert_eq!(ack(&mut put, 1, &mut out), Progress::Running);
        assert_eq!(out, []);
        assert_eq!(ack(&mut put, 2, &mut out), Progress::Running);
        assert_eq!(out, [Output::Answer(Ok(()))]);
        assert_eq!(ack(&mut put, 3, &mut out), Progress::Settled);
        assert_eq!(out.len(), 1, "answered once");
    }

    #[test]
    fn a_failed_home_is_replaced_by_a_hinted_fallback() {
        let (mut put, mut out) = start(&[], &[4, 5]);
        out.clear();
        fail(&mut put, 2, &mut out);
        assert_eq!(out, [stand_in(4, 2, false)]);
        fail(&mut put, 4, &mut out);
        assert_eq!(out[1], stand_in(5, 2, false), "the fallback failed too");
        ack(&mut put, 5, &mut out);
        ack(&mut put, 1, &mut out);
        assert_eq!(out.last(), Some(&Output::Answer(Ok(()))));
        assert_eq!(put.evidence(), (vec![node(1), node(5)], 2, 1));
    }

    #[test]
    fn a_suspected_or_silent_home_gets_a_stand_in() {
        let (_, out) = start(&[3], &[4]);
        assert!(out.contains(&stand_in(4, 3, false)), "at once when suspected");
        let (mut put, mut out) = start(&[], &[4]);
        out.clear();
        ack(&mut put, 1, &mut out);
        ack(&mut put, 3, &mut out);
        put.handle(Input::Tick, Instant(99), &mut out);
        assert_eq!(out, [Output::Answer(Ok(()))]);
        put.handle(Input::Tick, Instant(100), &mut out);
        assert_eq!(out[1], stand_in(4, 2, false), "even after the answer");
    }

    #[test]
    fn a_fallback_that_says_nothing_is_replaced_like_a_home_replica_once() {
        let (mut put, mut out) = start(&[2, 3], &[4, 5, 6, 7, 8]);
        ack(&mut put, 1, &mut out);
        out.clear();
        put.handle(Input::Tick, Instant(99), &mut out);
        assert_eq!(out, []);
        put.handle(Input::Tick, Instant(100), &mut out);
        assert_eq!(out, [stand_in(6, 2, true), stand_in(7, 3, true)]);
        fail(&mut put, 4, &mut out);
        assert_eq!(out.len(), 2, "another is asked for the same already");
        ack(&mut put, 7, &mut out);
        assert_eq!(out[2..], [Output::Answer(Ok(()))]);
        put.handle(Input::Tick, Instant(1000), &mut out);
        assert_eq!(out.len(), 3);

        let (mut put, mut out) = start(&[2, 3], &[4, 5]);
        ack(&mut put, 1, &mut out);
        put.handle(Input::Tick, Instant(100), &mut out);
        assert!(!put.is_answered(), "they are late, and may answer yet");
        ack(&mut put, 5, &mut out);
        assert_eq!(out.last(), Some(&Output::Answer(Ok(()))));
    }

    #[test]
    fn a_stand_in_is_needed_while_fewer_homes_are_there_than_must_acknowledge() {
        // Suspected from the start; what happens to the others; who is asked then, in whose place, and whether that is needed.
        type Happens<'a> = &'a dyn Fn(&mut Put, &mut Vec<Output>);
        let nothing: Happens = &|_, _| {};
        let one_fails: Happens = &|put, out| fail(put, 1, out);
        let silence: Happens = &|put, out| {
            put.handle(Input::Tick, Instant(100), out);
        };
        let one_acknowledges: Happens = &|put, out| {
            ack(put, 1, out);
            put.handle(Input::Tick, Instant(100), out);
        };
        let one_is_late: Happens = &|put, out| {
            put.handle(Input::Tick, Instant(100), out);
            ack(put, 1, out);
            fail(put, 5, out);
        };
        let cases: [(&[u8], Happens, &[Output], &str); 6] = [
            (&[3], nothing, &[stand_in(4, 3, false)], "two are there"),
            (&[2, 3], nothing, &[stand_in(4, 2, true), stand_in(5, 3, true)], "one is there"),
            (&[3], one_fails, &[stand_in(4, 3, false), stand_in(5, 1, true)], "one is there by now"),
            (&[], silence, &[stand_in(4, 1, true), stand_in(5, 2, true), stand_in(6, 3, true)], "nobody spoke in time"),
            (&[], one_acknowledges, &[stand_in(4, 2, true), stand_in(5, 3, true)], "one spoke"),
            (
                &[],
                one_is_late,
                &[stand_in(4, 1, true), stand_in(5, 2, true), stand_in(6, 3, true), stand_in(7, 2, true)],
                "one spoke, late",
            ),
        ];
        for (suspected, happens, asked, why) in cases {
            let (mut put, mut out) = start(suspected, &[4, 5, 6, 7]);
            happens(&mut put, &mut out);
            out.retain(|output| matches!(output, Output::Replicate { hint_for: Some(_), .. }));
            assert_eq!(out, asked, "{why}");
        }
    }

    #[test]
    fn whoever_declined_what_nobody_counted_is_asked_again_for_what_the_quorum_needs() {
        let (mut put, mut out) = start(&[3], &[4, 5]);
        ack(&mut put, 1, &mut out);
        out.clear();
        decline(&mut put, 4, &mut out);
        decline(&mut put, 5, &mut out);
        assert_eq!(
            out,
            [stand_in(5, 3, false), Output::KeepHint { home: node(3) }],
            "two homes are there, and one may be enough"
        );
        out.clear();
        fail(&mut put, 2, &mut out);
        assert_eq!(out, [stand_in(4, 2, true)]);
        decline(&mut put, 4, &mut out);
        assert_eq!(out[1], stand_in(5, 2, true));
        ack(&mut put, 5, &mut out);
        assert_eq!(out[2..], [Output::Answer(Ok(()))]);
        // Nobody is asked a third time, nor one that is gone since.
        let (mut put, mut out) = start(&[3], &[4, 5]);
        ack(&mut put, 1, &mut out);
        [4, 5].into_iter().for_each(|by| decline(&mut put, by, &mut out));
        fail(&mut put, 5, &mut out);
        fail(&mut put, 2, &mut out);
        out.clear();
        decline(&mut put, 4, &mut out);
        assert_eq!(out, [Output::KeepHint { home: node(2) }, unknown(1)]);
    }

    #[test]
    fn a_fallback_that_is_gone_before_it_is_asked_is_passed_over() {
        let (mut put, mut out) = start(&[], &[4, 5]);
        out.clear();
        fail(&mut put, 4, &mut out);
        fail(&mut put, 2, &mut out);
        assert_eq!(out, [stand_in(5, 2, false)]);
    }

    #[test]
    fn a_put_whose_quorum_nobody_is_left_to_complete_is_answered_at_once() {
        let (mut put, mut out) = start(&[2, 3], &[4, 5]);
        ack(&mut put, 1, &mut out);
        fail(&mut put, 4, &mut out);
        out.clear();
        decline(&mut put, 5, &mut out);
        assert_eq!(out, [Output::KeepHint { home: node(3) }, unknown(1)]);

        let (mut put, mut out) = start(&[3], &[]);
        ack(&mut put, 1, &mut out);
        put.handle(Input::Tick, Instant(100), &mut out);
        assert!(!put.is_answered(), "the second is late, and may come yet");
        fail(&mut put, 2, &mut out);
        assert_eq!(out.last(), Some(&unknown(1)), "now it may not");
        out.clear();
        ack(&mut put, 2, &mut out);
        put.handle(Input::Tick, Instant(1000), &mut out);
        assert_eq!(out, [], "answered once");
    }

    #[test]
    fn a_put_that_asks_for_home_replicas_does_not_wait_for_stand_ins() {
        let mut out = Vec::new();
        let sets = smallvec![smallvec![node(1), node(2), node(3)]];
        let required = Required { primary: 2, ..W2 };
        let (suspected, fallbacks) = (smallvec![node(3)], vec![node(4), node(5)]);
        let (hint_at, deadline) = (Instant(100), Instant(1000));
        let mut put = Put::start(Start { sets, suspected, fallbacks, required, hint_at, deadline }, &mut out);
        ack(&mut put, 1, &mut out);
        assert!(!put.is_answered());
        fail(&mut put, 2, &mut out);
        assert_eq!(out.last(), Some(&unknown(1)));
    }

    #[test]
    fn a_put_that_misses_its_quorum_is_unknown_and_never_failed() {
        let (mut put, mut out) = start(&[], &[]);
        out.clear();
        ack(&mut put, 1, &mut out);
        fail(&mut put, 2, &mut out);
        put.handle(Input::Tick, Instant(100), &mut out);
        assert_eq!(out, [Output::KeepHint { home: node(2) }, Output::KeepHint { home: node(3) }], "no fallback is left");
        let progress = put.handle(Input::Tick, Instant(1000), &mut out);
        assert_eq!(out[2], unknown(1));
        assert_eq!(progress, Progress::Settled);
    }

    #[test]
    fn an_acknowledgement_before_fsync_does_not_count_as_durable() {
        let (mut put, mut out) = start(&[], &[]);
        out.clear();
        for by in [1, 2, 3] {
            put.handle(Input::Acknowledged { by: node(by), durable: false }, Instant(1), &mut out);
        }
        assert_eq!(out, []);
        ack(&mut put, 1, &mut out);
        ack(&mut put, 3, &mut out);
        assert_eq!(out, [Output::Answer(Ok(()))]);
    }
}
