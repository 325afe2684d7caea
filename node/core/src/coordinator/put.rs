//! One put: from the coordinator's own write to the last acknowledgement (paper 4.5, 4.6).
//!
//! ```text
//! start -> Replicate to every home replica --quorum--> Answered --all answered--> Settled
//!               | failed, suspected, or silent past the hint deadline
//!               |-> Replicate to the next fallback, with a hint that names the home replica
//!               '-> KeepHint at the coordinator, where no fallback is left
//! ```
//!
//! Guarantees: an ok rests on W acknowledgements of distinct nodes in every write set, DW of them fsynced. A failure after
//! anything was sent is `Unknown`, never "failed": the write may surface. A write to a home replica that was replaced is not
//! taken back, its late acknowledgement still counts.

use std::cmp::Reverse;
use std::collections::VecDeque;

use smallvec::SmallVec;

use crate::coordinator::Progress;
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
    /// `by` cannot or will not take it.
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
        hint_for: Option<NodeId>,
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
    /// A fallback was asked to stand in.
    replaced: bool,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Put {
    sets: Sets,
    homes: SmallMap<NodeId, Home, 3>,
    fallbacks: VecDeque<NodeId>,
    /// Whom each fallback stands in for.
    stands_in: SmallMap<NodeId, NodeId, 1>,
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
            stands_in: SmallMap::default(),
            tally: Tally::default(),
            required: start.required,
            hint_at: start.hint_at,
            deadline: start.deadline,
            answered: false,
        };
        for home in put.sets.iter().flatten() {
            if put.homes.insert(*home, Home { settled: false, replaced: false }).is_none() {
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
    pub fn stands_in_for(&self, node: NodeId) -> Option<NodeId> {
        self.stands_in.get(&node).copied()
    }

    /// Whether `node` is a home replica in every write set: what it acknowledges counts in all of them.
    pub fn is_home_in_every_set(&self, node: NodeId) -> bool {
        self.sets.iter().all(|set| set.contains(&node))
    }

    /// Who answered, how many durably, how many as stand-ins.
    pub fn evidence(&self) -> (Vec<NodeId>, u32, u32) {
        self.tally.evidence()
    }

    /// One input.
    pub fn handle(&mut self, input: Input, now: Instant, out: &mut Vec<Output>) -> Progress {
        match input {
            Input::Acknowledged { by, durable } => self.on_acknowledged(by, durable),
            Input::Failed { by } => self.on_failed(by, out),
            Input::Tick => self.on_tick(now, out),
        }
        if !self.answered && self.tally.reached(&self.sets, self.required) {
            self.answered = true;
            out.push(Output::Answer(Ok(())));
        }
        self.progress(now)
    }

    fn on_acknowledged(&mut self, by: NodeId, durable: bool) {
        let answer = Answer { by, durable };
        if let Some(home) = self.homes.get_mut(&by) {
            home.settled = true;
            self.tally.add(by, answer);
        } else if let Some(home) = self.stands_in.get(&by) {
            self.tally.add(*home, answer);
            // Its hint will find the way home: nothing is left to do for that replica here.
            if let Some(home) = self.homes.get_mut(home) {
                home.settled = true;
            }
        }
    }

    fn on_failed(&mut self, by: NodeId, out: &mut Vec<Output>) {
        if self.homes.contains_key(&by) {
            self.replace(by, out);
        } else if let Some(home) = self.stands_in.remove(&by) {
            if let Some(home) = self.homes.get_mut(&home) {
                home.replaced = false;
            }
            self.replace(home, out);
        }
    }

    fn on_tick(&mut self, now: Instant, out: &mut Vec<Output>) {
        if now >= self.hint_at {
            let silent = |(node, home): (&NodeId, &Home)| (!home.settled && !home.replaced).then_some(*node);
            let silent: Nodes = self.homes.iter().filter_map(silent).collect();
            self.replace_all(silent, out);
        }
        if now >= self.deadline && !self.answered {
            self.answered = true;
            let acknowledged = self.tally.acknowledged(&self.sets) as u32;
            out.push(Output::Answer(Err(Failure::Unknown { acknowledged, required: self.required.total as u32 })));
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
        let Some(state) = self.homes.get_mut(&home) else { return };
        if state.settled || state.replaced {
            return;
        }
        if let Some(fallback) = self.fallbacks.pop_front() {
            state.replaced = true;
            self.stands_in.insert(fallback, home);
            out.push(Output::Replicate { to: fallback, hint_for: Some(home) });
        } else {
            state.settled = true;
            out.push(Output::KeepHint { home });
        }
    }

    fn progress(&self, now: Instant) -> Progress {
        let done = self.answered && (now >= self.deadline || self.homes.values().all(|home| home.settled));
        if done { Progress::Settled } else { Progress::Running }
    }
}

/// A stand-in counts in every set of the one that it stands in for. So where there are few, the homes that are in more sets get them.
pub fn in_most_sets_first(sets: &[impl AsRef<[NodeId]>], homes: &mut [NodeId]) {
    homes.sort_by_key(|home| Reverse(sets.iter().filter(|set| set.as_ref().contains(home)).count()));
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;
    use crate::ring::tests::node;

    const W2: Required = Required { total: 2, durable: 2, primary: 0 };

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

    /// A move from the first node to the fourth; the third and the only fallback are up.
    #[test]
    fn a_stand_in_goes_to_a_home_that_is_in_both_sets() {
        let mut out = Vec::new();
        let suspected = [1, 2, 4].into_iter().map(node).collect();
        let sets = smallvec![smallvec![node(1), node(2), node(3)], smallvec![node(4), node(2), node(3)]];
        let (required, hint_at, deadline) = (W2, Instant(100), Instant(1000));
        let fallbacks = vec![node(5)];
        let mut put = Put::start(Start { sets, suspected, fallbacks, required, hint_at, deadline }, &mut out);
        assert!(out.contains(&Output::Replicate { to: node(5), hint_for: Some(node(2)) }), "{out:?}");
        ack(&mut put, 3, &mut out);
        ack(&mut put, 5, &mut out);
        assert!(out.contains(&Output::Answer(Ok(()))), "{out:?}");
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
        put.handle(Input::Failed { by: node(2) }, Instant(1), &mut out);
        assert_eq!(out, [Output::Replicate { to: node(4), hint_for: Some(node(2)) }]);
        put.handle(Input::Failed { by: node(4) }, Instant(1), &mut out);
        assert_eq!(out[1], Output::Replicate { to: node(5), hint_for: Some(node(2)) }, "the fallback failed too");
        ack(&mut put, 5, &mut out);
        ack(&mut put, 1, &mut out);
        assert_eq!(out.last(), Some(&Output::Answer(Ok(()))));
        assert_eq!(put.evidence(), (vec![node(1), node(5)], 2, 1));
    }

    #[test]
    fn a_suspected_or_silent_home_gets_a_stand_in() {
        let (_, out) = start(&[3], &[4]);
        assert!(out.contains(&Output::Replicate { to: node(4), hint_for: Some(node(3)) }), "at once when suspected");
        let (mut put, mut out) = start(&[], &[4]);
        out.clear();
        ack(&mut put, 1, &mut out);
        ack(&mut put, 3, &mut out);
        put.handle(Input::Tick, Instant(99), &mut out);
        assert_eq!(out, [Output::Answer(Ok(()))]);
        put.handle(Input::Tick, Instant(100), &mut out);
        assert_eq!(out[1], Output::Replicate { to: node(4), hint_for: Some(node(2)) }, "even after the answer");
    }

    #[test]
    fn a_put_that_misses_its_quorum_is_unknown_and_never_failed() {
        let (mut put, mut out) = start(&[], &[]);
        out.clear();
        ack(&mut put, 1, &mut out);
        put.handle(Input::Failed { by: node(2) }, Instant(1), &mut out);
        put.handle(Input::Failed { by: node(3) }, Instant(1), &mut out);
        assert_eq!(out, [Output::KeepHint { home: node(2) }, Output::KeepHint { home: node(3) }], "no fallback is left");
        let progress = put.handle(Input::Tick, Instant(1000), &mut out);
        assert_eq!(out[2], Output::Answer(Err(Failure::Unknown { acknowledged: 1, required: 2 })));
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
