//! One get: from the coordinator's own read to the repair of stale replicas (paper 4.5, 5).
//!
//! ```text
//! start -> Fetch digest from the other replicas --R agree or are fetched--> Answered --all answered--> Settled
//!               | a digest differs: Fetch the object                              | stale ones: Repair
//!               | failed, suspected or silent: Fetch the object from a fallback, and once from the next if that is silent too
//!               '-> too few are left who may answer: Answered, that it is unavailable
//! ```
//!
//! A replica counts once its version is included in what is known: its object was joined, or its digest is that of an object
//! that was, or it has nothing and said what it has reaped. Guarantees: the answer includes everything that R replicas, or those who stand
//! in for them, knew. While a partition moves
//! the replicas that are written to and not read from are the last of those. Deviation from the paper: digests are asked for
//! and not values, and the value only from those that differ; the answer is the same. A suspected replica is asked, and its answer counts,
//! but it is not waited for: a get that cannot do without it ends as soon as the others have answered, like the put that is not begun.

use std::collections::VecDeque;

use smallvec::SmallVec;

use crate::coordinator::Progress;
use crate::id::NodeId;
use crate::preference_list::Nodes;
use crate::quorum::{Answer, Required, Tally, none_vacant};
use crate::request::Failure;
use crate::small_map::SmallMap;
use crate::time::Instant;
use crate::version::{Digest, Object};

/// What happens to a get.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// `by` answered.
    Fetched {
        /// Who.
        by: NodeId,
        /// The digest of what it knows.
        digest: Digest,
        /// What it knows, unless only the digest was asked for. Of what is not there (the digest of nothing): what is superseded.
        object: Option<Object>,
    },
    /// `by` cannot or will not answer.
    Failed {
        /// Who.
        by: NodeId,
    },
    /// Time has passed.
    Tick,
}

/// What a get wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Ask.
    Fetch {
        /// Whom.
        from: NodeId,
        /// The digest will do.
        digest_only: bool,
    },
    /// Tell the client; at most once.
    Answer(Result<Object, Failure>),
    /// Send the joined object to a replica that is behind.
    Repair {
        /// To whom.
        to: NodeId,
        /// All that is known.
        object: Object,
    },
}

/// What is known of one node's version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Replica {
    Asked,
    /// Its digest came, and no object with that digest yet.
    Differs(Digest),
    /// What it knows is included; this was its digest.
    Included(Digest),
    Failed,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Get {
    homes: Nodes,
    fallbacks: VecDeque<NodeId>,
    stands_in: SmallMap<NodeId, NodeId, 1>,
    /// Those of them that were silent when silent replicas were replaced: others were asked beside them.
    passed_over: Nodes,
    replicas: SmallMap<NodeId, Replica, 3>,
    /// Who was asked for the value first.
    value_from: NodeId,
    /// Home replicas in the order in which they first answered.
    answers: Nodes,
    /// Digests whose objects have been joined.
    joined: SmallVec<[Digest; 1]>,
    object: Object,
    /// What replicas that have nothing of the object take for reaped.
    superseded: Object,
    tally: Tally,
    required: Required,
    fallback_at: Instant,
    deadline: Instant,
    answered: bool,
}

/// Everything a get starts from.
#[derive(Clone, Debug)]
pub struct Start {
    /// The read set of the partition.
    pub homes: Nodes,
    /// The coordinator, if it is in the read set; it is asked for the object, the others for digests.
    pub own: NodeId,
    /// Home replicas that are suspected: fallbacks are asked at once.
    pub suspected: Nodes,
    /// Reachable fallbacks, best first: they may hold hints.
    pub fallbacks: Vec<NodeId>,
    /// What it takes.
    pub required: Required,
    /// When silent replicas are replaced.
    pub fallback_at: Instant,
    /// When the client hears at the latest.
    pub deadline: Instant,
}

impl Get {
    /// Starts: every home replica is asked, and stand-ins for the suspected ones.
    pub fn start(start: Start, out: &mut Vec<Output>) -> Self {
        let value_from = if start.homes.contains(&start.own) { start.own } else { start.homes[0] };
        let mut get = Self {
            value_from,
            homes: start.homes,
            fallbacks: start.fallbacks.into(),
            stands_in: SmallMap::default(),
            passed_over: Nodes::new(),
            replicas: SmallMap::default(),
            answers: Nodes::new(),
            joined: SmallVec::new(),
            object: Object::default(),
            superseded: Object::default(),
            tally: Tally::default(),
            required: start.required,
            fallback_at: start.fallback_at,
            deadline: start.deadline,
            answered: false,
        };
        for home in get.homes.clone() {
            get.replicas.insert(home, Replica::Asked);
            out.push(Output::Fetch { from: home, digest_only: home != value_from });
        }
        for home in start.suspected {
            // It is asked, for it may be back; it is not waited for.
            get.replicas.insert(home, Replica::Failed);
            get.replace(home, out);
        }
        get
    }

    /// Who answered, how many durably (always 0 for a get), how many as stand-ins.
    pub fn evidence(&self) -> (Vec<NodeId>, u32, u32) {
        self.tally.evidence(std::slice::from_ref(&self.homes), none_vacant)
    }

    /// The home replica that answered first, of those whose versions the answer includes: who should coordinate the next write
    /// (paper 5). The coordinator's own copy takes part like any other; it has no network to cross.
    pub fn fastest(&self) -> Option<NodeId> {
        let included = |node: &&NodeId| matches!(self.replicas.get(node), Some(Replica::Included(_)));
        self.answers.iter().find(included).copied()
    }

    /// Whether only the digest was asked of `node`: it is a home replica, and nothing of it is known yet.
    pub fn wants_digest_of(&self, node: NodeId) -> bool {
        self.homes.contains(&node) && node != self.value_from && self.joined.is_empty()
    }

    /// Whether `node` answered that it has nothing.
    pub fn has_nothing(&self, node: NodeId) -> bool {
        matches!(self.replicas.get(&node), Some(Replica::Included(digest)) if *digest == Digest::default())
    }

    /// What it holds of values.
    pub fn value_bytes(&self) -> usize {
        self.object.value_bytes()
    }

    /// Whether the client has been answered.
    pub fn is_answered(&self) -> bool {
        self.answered
    }

    /// One input.
    pub fn handle(&mut self, input: Input, now: Instant, out: &mut Vec<Output>) -> Progress {
        match input {
            Input::Fetched { by, digest, object } => self.on_fetched(by, digest, object, out),
            Input::Failed { by } => self.on_failed(by, out),
            Input::Tick => self.on_tick(now, out),
        }
        let sets = std::slice::from_ref(&self.homes);
        if !self.answered && self.tally.reached(sets, self.required, none_vacant) {
            self.answered = true;
            out.push(Output::Answer(Ok(self.answer())));
        } else if !self.answered && (now >= self.deadline || !self.is_possible()) {
            let acknowledged = self.tally.acknowledged(sets, none_vacant) as u32;
            self.answered = true;
            out.push(Output::Answer(Err(Failure::Unavailable { acknowledged, required: self.required.total as u32 })));
        }
        if self.answered && now >= self.fallback_at {
            self.give_up_silent();
        }
        let settled = self.answered && (now >= self.deadline || self.replicas.values().all(is_final));
        if settled {
            self.repair(out);
        }
        if settled { Progress::Settled } else { Progress::Running }
    }

    fn on_fetched(&mut self, by: NodeId, digest: Digest, object: Option<Object>, out: &mut Vec<Output>) {
        if !self.replicas.contains_key(&by) {
            return;
        }
        if self.homes.contains(&by) && !self.answers.contains(&by) {
            self.answers.push(by);
        }
        let absent = digest == Digest::default();
        if let Some(superseded) = object.as_ref().filter(|object| absent && !object.has_values()) {
            self.superseded.join(superseded);
            self.include(by, digest);
        } else if let Some(object) = object {
            self.object.join(&object);
            self.joined.push(digest);
            self.include(by, digest);
            let same = |(node, replica): (&NodeId, &Replica)| (*replica == Replica::Differs(digest)).then_some(*node);
            let agreeing: Nodes = self.replicas.iter().filter_map(same).collect();
            for node in agreeing {
                self.include(node, digest);
            }
        } else if absent || self.joined.contains(&digest) {
            self.include(by, digest);
        } else if matches!(self.replicas.get(&by), Some(Replica::Asked | Replica::Failed)) {
            self.replicas.insert(by, Replica::Differs(digest));
        }
        self.fetch_differing(out);
    }

    /// All that is known, without what was reaped where it is not there any more. Replicas hear of that from one another.
    fn answer(&self) -> Object {
        let mut object = self.object.clone();
        if object.has_values() && !self.superseded.is_empty() {
            object.join(&self.superseded);
        }
        if object.has_values() { object } else { Object::default() }
    }

    /// Once a value has come, or none will from whom it was asked of, the values that differ from it are asked for.
    fn fetch_differing(&mut self, out: &mut Vec<Output>) {
        if !self.joined.is_empty() || self.replicas.get(&self.value_from) != Some(&Replica::Asked) {
            self.fetch_all_that_differ(out);
        }
    }

    /// All that sent digests of something else are asked for their values.
    fn fetch_all_that_differ(&mut self, out: &mut Vec<Output>) {
        for (node, replica) in self.replicas.iter_mut() {
            if let Replica::Differs(_) = replica {
                *replica = Replica::Asked;
                out.push(Output::Fetch { from: *node, digest_only: false });
            }
        }
    }

    fn include(&mut self, by: NodeId, digest: Digest) {
        self.replicas.insert(by, Replica::Included(digest));
        let home = self.stands_in.get(&by).copied().unwrap_or(by);
        // A stand-in that was given up counts for nobody.
        if self.homes.contains(&home) {
            self.tally.add(home, Answer { by, durable: false });
        }
    }

    fn on_failed(&mut self, by: NodeId, out: &mut Vec<Output>) {
        let Some(replica) = self.replicas.get_mut(&by) else { return };
        if !is_final(replica) {
            *replica = Replica::Failed;
            let home = self.stands_in.remove(&by).unwrap_or(by);
            self.replace(home, out);
            self.fetch_differing(out);
        }
    }

    fn on_tick(&mut self, now: Instant, out: &mut Vec<Output>) {
        if now >= self.fallback_at && !self.answered {
            if now < self.deadline && self.passed_over.is_empty() {
                self.pass_over_silent_stand_ins();
            }
            for home in self.homes.clone() {
                if !matches!(self.replicas.get(&home), Some(Replica::Included(_))) {
                    self.replace(home, out);
                }
            }
            // The replica that was to send the value is silent.
            self.fetch_all_that_differ(out);
        }
    }

    /// The short while for late answers is over; who is silent now is left to anti-entropy.
    fn give_up_silent(&mut self) {
        let asked = self.replicas.iter_mut().filter(|(_, replica)| **replica == Replica::Asked);
        asked.for_each(|(_, replica)| *replica = Replica::Failed);
    }

    /// In the place of stand-ins that have said nothing others may be asked. Their late answers count where those others have not answered.
    /// Once: a get that is slow everywhere would go from node to node through the cluster.
    fn pass_over_silent_stand_ins(&mut self) {
        let silent = self.stands_in.keys().filter(|by| self.replicas.get(by) == Some(&Replica::Asked));
        self.passed_over = silent.copied().collect();
    }

    /// Whether enough are left who may answer: home replicas that have not failed, and those who stand in for the others.
    fn is_possible(&self) -> bool {
        let (mut total, mut primary) = (0, 0);
        for home in &self.homes {
            let itself = self.replicas.get(home) != Some(&Replica::Failed);
            let for_it = self.tally.of(*home).is_some() || self.stands_in.values().any(|replaced| replaced == home);
            primary += usize::from(itself);
            total += usize::from(itself || for_it);
        }
        total >= self.required.total && primary >= self.required.primary
    }

    fn replace(&mut self, home: NodeId, out: &mut Vec<Output>) {
        let stands_in = |(by, replaced): (&NodeId, &NodeId)| *replaced == home && !self.passed_over.contains(by);
        if self.stands_in.iter().any(stands_in) {
            return;
        }
        if let Some(fallback) = self.fallbacks.pop_front() {
            self.stands_in.insert(fallback, home);
            self.replicas.insert(fallback, Replica::Asked);
            out.push(Output::Fetch { from: fallback, digest_only: false });
        }
    }

    /// Home replicas whose version is not all that is known get it. Fallbacks do not: they hold hints, not copies. Nor do those that have
    /// nothing since all of it is reaped.
    fn repair(&mut self, out: &mut Vec<Output>) {
        let all = match self.joined[..] {
            [only] => only,
            _ => self.object.digest(),
        };
        for home in &self.homes {
            if let Some(Replica::Included(digest) | Replica::Differs(digest)) = self.replicas.get(home)
                && *digest != all
                && !(*digest == Digest::default() && self.superseded.includes(&self.object))
            {
                out.push(Output::Repair { to: *home, object: self.object.clone() });
            }
        }
    }
}

fn is_final(replica: &Replica) -> bool {
    matches!(replica, Replica::Included(_) | Replica::Failed)
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;
    use crate::id::Incarnation;
    use crate::ring::tests::node;
    use crate::version::{Actor, CausalContext, Dot, Value};

    fn object(by: u8, counter: u64) -> Object {
        let mut object = Object::default();
        let actor = Actor { node: node(by), incarnation: Incarnation(1) };
        object.update(&CausalContext::default(), Dot { actor, counter }, Value { data: Some("v".into()), written_ms: 0 });
        object
    }

    fn start(suspected: &[u8]) -> (Get, Vec<Output>) {
        start_with(suspected, &[4])
    }

    fn start_with(suspected: &[u8], fallbacks: &[u8]) -> (Get, Vec<Output>) {
        let mut out = Vec::new();
        let get = Get::start(
            Start {
                homes: smallvec![node(1), node(2), node(3)],
                own: node(1),
                suspected: suspected.iter().map(|id| node(*id)).collect(),
                fallbacks: fallbacks.iter().map(|id| node(*id)).collect(),
                required: Required { asked: 3, total: 2, durable: 0, primary: 0 },
                fallback_at: Instant(100),
                deadline: Instant(1000),
            },
            &mut out,
        );
        (get, out)
    }

    fn fetched(get: &mut Get, by: u8, known: &Object, whole: bool, out: &mut Vec<Output>) -> Progress {
        fetched_at(Instant(1), get, by, known, whole, out)
    }

    fn fetched_at(now: Instant, get: &mut Get, by: u8, known: &Object, whole: bool, out: &mut Vec<Output>) -> Progress {
        let object = whole.then(|| known.clone());
        get.handle(Input::Fetched { by: node(by), digest: known.digest(), object }, now, out)
    }

    #[test]
    fn one_value_and_equal_digests_are_enough() {
        let (mut get, mut out) = start(&[]);
        assert_eq!(out.iter().filter(|output| matches!(output, Output::Fetch { digest_only: false, .. })).count(), 1);
        out.clear();
        let known = object(1, 1);
        fetched(&mut get, 2, &known, false, &mut out);
        assert_eq!(out, [], "a digest without a value answers nothing");
        fetched(&mut get, 1, &known, true, &mut out);
        assert_eq!(out, [Output::Answer(Ok(known.clone()))]);
        assert_eq!(fetched(&mut get, 3, &known, false, &mut out), Progress::Settled);
        assert_eq!(out.len(), 1, "equal replicas need no repair");
    }

    #[test]
    fn concurrent_versions_are_all_returned_and_stale_replicas_repaired() {
        let (mut get, mut out) = start(&[]);
        out.clear();
        let (ours, theirs) = (object(1, 1), object(2, 5));
        fetched(&mut get, 1, &ours, true, &mut out);
        fetched(&mut get, 2, &theirs, false, &mut out);
        assert_eq!(out, [Output::Fetch { from: node(2), digest_only: false }]);
        fetched(&mut get, 2, &theirs, true, &mut out);
        let mut both = ours.clone();
        both.join(&theirs);
        assert_eq!(out[1], Output::Answer(Ok(both.clone())));
        assert_eq!(fetched(&mut get, 3, &Object::default(), false, &mut out), Progress::Settled, "late, and behind");
        for id in 1..=3 {
            assert!(out.contains(&Output::Repair { to: node(id), object: both.clone() }), "replica {id}");
        }
    }

    #[test]
    fn what_a_replica_has_reaped_is_not_shown_whoever_answers_first() {
        for reaped_first in [true, false] {
            let (mut get, mut out) = start(&[]);
            out.clear();
            let known = object(2, 5);
            let superseded = Object::superseded(&known.context());
            let reaped = Input::Fetched { by: node(2), digest: Digest::default(), object: Some(superseded) };
            if reaped_first {
                get.handle(reaped.clone(), Instant(1), &mut out);
            }
            fetched(&mut get, 1, &known, true, &mut out);
            if !reaped_first {
                get.handle(reaped, Instant(1), &mut out);
            }
            assert_eq!(out, [Output::Answer(Ok(Object::default()))], "first: {reaped_first}");
            fetched(&mut get, 3, &Object::default(), false, &mut out);
            assert_eq!(out.len(), 1, "nobody is sent what is reaped: {out:?}");
        }
    }

    #[test]
    fn a_fallback_answers_for_a_replica_that_is_down() {
        let (mut get, mut out) = start(&[2]);
        assert_eq!(out.last(), Some(&Output::Fetch { from: node(4), digest_only: false }));
        out.clear();
        let hinted = object(4, 1);
        fetched(&mut get, 1, &Object::default(), true, &mut out);
        fetched(&mut get, 4, &hinted, true, &mut out);
        assert_eq!(out, [Output::Answer(Ok(hinted))]);
    }

    #[test]
    fn a_stand_in_that_was_given_up_is_no_evidence() {
        let known = object(1, 1);
        let (mut get, mut out) = start(&[2]);
        get.handle(Input::Failed { by: node(4) }, Instant(1), &mut out);
        for by in [4, 1, 3] {
            fetched(&mut get, by, &known, true, &mut out);
        }
        assert_eq!(get.evidence(), (vec![node(1), node(3)], 0, 0));
    }

    #[test]
    fn a_get_does_not_wait_for_the_silent_once_it_is_answered() {
        let known = object(1, 1);
        let (mut get, mut out) = start(&[3]);
        fetched(&mut get, 4, &Object::default(), true, &mut out);
        fetched(&mut get, 1, &known, true, &mut out);
        assert_eq!(fetched(&mut get, 2, &known, false, &mut out), Progress::Settled, "3 is suspected");
        let (mut get, mut out) = start(&[]);
        fetched(&mut get, 1, &known, true, &mut out);
        assert_eq!(fetched(&mut get, 2, &known, false, &mut out), Progress::Running, "3 may answer late");
        assert_eq!(get.handle(Input::Tick, Instant(100), &mut out), Progress::Settled, "a short while is over");
    }

    #[test]
    fn the_fastest_is_the_home_replica_that_answered_first_and_counts() {
        let (known, other) = (object(1, 1), object(3, 5));
        let (mut get, mut out) = start(&[2]);
        assert_eq!(get.fastest(), None, "nobody has answered");
        fetched(&mut get, 4, &known, true, &mut out);
        assert_eq!(get.fastest(), None, "a fallback is no home replica");
        fetched(&mut get, 3, &other, false, &mut out);
        assert_eq!(get.fastest(), None, "its version is not included yet");
        fetched(&mut get, 1, &known, true, &mut out);
        assert_eq!(get.fastest(), Some(node(1)));
        fetched(&mut get, 3, &other, true, &mut out);
        assert_eq!(get.fastest(), Some(node(3)), "it had answered before");
    }

    #[test]
    fn when_the_value_does_not_come_the_others_are_asked_for_theirs() {
        let (mut get, mut out) = start(&[]);
        out.clear();
        let known = object(1, 1);
        fetched(&mut get, 2, &known, false, &mut out);
        fetched(&mut get, 3, &known, false, &mut out);
        get.handle(Input::Failed { by: node(1) }, Instant(2), &mut out);
        get.handle(Input::Failed { by: node(4) }, Instant(2), &mut out);
        assert!(out.contains(&Output::Fetch { from: node(2), digest_only: false }), "{out:?}");
        fetched(&mut get, 2, &known, true, &mut out);
        fetched(&mut get, 3, &known, true, &mut out);
        assert!(out.contains(&Output::Answer(Ok(known))));
    }

    #[test]
    fn a_get_that_too_few_may_answer_is_unavailable_as_soon_as_the_others_have() {
        let unavailable = Output::Answer(Err(Failure::Unavailable { acknowledged: 1, required: 2 }));
        let known = object(1, 1);
        let (mut get, mut out) = start_with(&[2, 3], &[]);
        out.clear();
        assert_eq!(fetched(&mut get, 1, &known, true, &mut out), Progress::Settled);
        assert_eq!(out, std::slice::from_ref(&unavailable));

        // One is suspected, and its stand-in and the third fail: a third answer is no longer possible, nor a second.
        let (mut get, mut out) = start(&[2]);
        fetched(&mut get, 1, &known, true, &mut out);
        out.clear();
        get.handle(Input::Failed { by: node(4) }, Instant(1), &mut out);
        assert_eq!(out, [], "3 may answer");
        get.handle(Input::Failed { by: node(3) }, Instant(1), &mut out);
        assert_eq!(out, [unavailable]);
    }

    #[test]
    fn a_get_that_needs_a_home_replica_which_is_away_is_unavailable_whoever_stands_in_for_it() {
        let (mut get, mut out) = start(&[2]);
        get.required.primary = 3;
        out.clear();
        fetched(&mut get, 1, &object(1, 1), true, &mut out);
        assert_eq!(out, [Output::Answer(Err(Failure::Unavailable { acknowledged: 1, required: 2 }))]);
    }

    #[test]
    fn a_get_that_a_stand_in_answers_late_waits_for_the_silent_no_longer() {
        let known = object(1, 1);
        let (mut get, mut out) = start(&[]);
        fetched(&mut get, 1, &known, true, &mut out);
        assert_eq!(get.handle(Input::Tick, Instant(100), &mut out), Progress::Running);
        assert_eq!(out.last(), Some(&Output::Fetch { from: node(4), digest_only: false }));
        assert_eq!(fetched_at(Instant(150), &mut get, 4, &known, true, &mut out), Progress::Settled);
        assert_eq!(out.last(), Some(&Output::Answer(Ok(known))));
    }

    #[test]
    fn a_stand_in_of_a_get_that_says_nothing_is_passed_over_once() {
        let known = object(1, 1);
        let asked = |by: u8| Output::Fetch { from: node(by), digest_only: false };
        for late in [false, true] {
            let (mut get, mut out) = start_with(&[2, 3], &[4, 5, 6, 7, 8]);
            fetched(&mut get, 1, &known, true, &mut out);
            out.clear();
            get.handle(Input::Tick, Instant(100), &mut out);
            assert_eq!(out, [asked(6), asked(7)], "4 and 5 stand in for 2 and 3, and are silent");
            get.handle(Input::Tick, Instant(200), &mut out);
            assert_eq!(out.len(), 2, "those are waited for");
            let first = if late { 4 } else { 6 };
            fetched_at(Instant(300), &mut get, first, &known, true, &mut out);
            assert_eq!(out.last(), Some(&Output::Answer(Ok(known.clone()))));
            assert_eq!(get.evidence(), (vec![node(1), node(first)], 0, 1));
        }
    }

    #[test]
    fn a_stand_in_that_was_passed_over_is_no_second_answer_beside_the_next_one() {
        let known = object(1, 1);
        let (mut get, mut out) = start_with(&[2], &[4, 5]);
        get.required.total = 3;
        fetched(&mut get, 1, &known, true, &mut out);
        get.handle(Input::Tick, Instant(100), &mut out);
        out.clear();
        for by in [5, 4] {
            assert_eq!(fetched_at(Instant(150), &mut get, by, &known, true, &mut out), Progress::Running);
            assert_eq!(get.evidence(), (vec![node(1), node(5)], 0, 1), "{by} has answered for 2");
        }
        assert_eq!(out, [], "3 has not");
    }

    #[test]
    fn too_few_answers_are_unavailable() {
        let (mut get, mut out) = start(&[]);
        out.clear();
        fetched(&mut get, 1, &Object::default(), true, &mut out);
        get.handle(Input::Tick, Instant(1000), &mut out);
        assert_eq!(out.last(), Some(&Output::Answer(Err(Failure::Unavailable { acknowledged: 1, required: 2 }))));
    }
}
