//! A node that says nothing: when it is asked whether it is there, and when it is taken for gone.
//!
//! A node that stands still, or is cut off without a word, ends no connection. If it owes answers and nothing has come for
//! 100 ms, it is asked whether it is there. A node that is well says so at once, whatever its answers wait for. If nothing
//! at all has come by [`SILENCE_MIN`], or by a few round trips of a long way, it is not waited for any longer with what another node can
//! take.
//!
//! On a stream one task does that for all requests ([`crate::session`]). Single calls do it each for itself, and share the
//! question and whatever is heard of the node ([`Vigil`]).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dynamo_core::id::Epoch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::link::{Stub, topology};
use crate::session::Reply;
use crate::topology::EpochWatch;

/// Between two looks at whether the node said anything.
const SILENCE_CHECK: Duration = Duration::from_millis(50);
/// Looks without a word until it is asked whether it is there...
const SILENCE_CHECKS_ASKED: u32 = 2;
/// ... and so many round trips more until it is taken for gone.
const SILENCE_ROUND_TRIPS: u32 = 2;
/// For so long a node may say nothing at least, while it owes answers, to them and to the question whether it is there. Below the
/// paper's 300 ms at 99.9 %: a request then has time for another node.
pub(crate) const SILENCE_MIN: Duration = Duration::from_millis(250);
/// And so long at most: a node that was slow when the stream was opened is not far away.
pub(crate) const SILENCE_MAX: Duration = Duration::from_millis(750);

/// What is done with a request whose node says nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OnSilence {
    /// It waits: there is no other node.
    Wait,
    /// Another node takes it if it was not sent. Sent twice, it might be done twice.
    MoveUnsent,
    /// Another node takes it.
    Move,
}

/// Whether the node is there, while that is asked.
#[derive(Debug)]
pub(crate) struct Question {
    stub: Stub,
    asked: JoinSet<Result<Epoch, String>>,
}

impl Question {
    /// On the connection of `stub`.
    pub(crate) fn of(stub: Stub) -> Self {
        Self { stub, asked: JoinSet::new() }
    }

    /// One at a time. The node takes it from the queue in which requests wait for it.
    pub(crate) fn ask(&mut self, epochs: &Arc<EpochWatch>) {
        if self.asked.is_empty() {
            let (stub, epochs) = (self.stub.clone(), Arc::clone(epochs));
            self.asked.spawn(async move { Ok(Epoch(topology(stub, epochs.held(), &epochs).await?.epoch)) });
        }
    }

    /// The node is there, and under this epoch, if it has said so by now.
    fn try_answered(&mut self) -> Option<Epoch> {
        std::iter::from_fn(|| self.asked.try_join_next()).find_map(|answer| answer.ok()?.ok())
    }

    /// The node is there, and under this epoch. An error says nothing of it: if its connection broke, the stream ends with it.
    pub(crate) async fn answered(&mut self) -> Epoch {
        loop {
            match self.asked.join_next().await {
                Some(Ok(Ok(epoch))) => return epoch,
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }
}

/// What a silence of so many checks means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Suspicion {
    /// It is too early to say.
    Early,
    /// It should be asked whether it is there.
    Ask,
    /// It did not even say that.
    Gone,
}

/// How long the node has said nothing while it owes answers, in checks. A process that stood still itself passes one check and not all
/// of them: what came meanwhile is read before the next.
#[derive(Debug)]
pub(crate) struct Silence {
    next: Option<Instant>,
    checks: u32,
    checks_max: u32,
}

impl Silence {
    /// On a link on which the first answer took `round_trip`.
    pub(crate) fn on_a_link_of(round_trip: Duration) -> Self {
        let answered = SILENCE_CHECK * SILENCE_CHECKS_ASKED + round_trip * SILENCE_ROUND_TRIPS;
        let limit = answered.clamp(SILENCE_MIN, SILENCE_MAX);
        let checks_max = u32::try_from(limit.as_millis().div_ceil(SILENCE_CHECK.as_millis())).unwrap_or(u32::MAX);
        Self { next: None, checks: 0, checks_max }
    }

    /// How long it may last.
    pub(crate) fn limit(&self) -> Duration {
        SILENCE_CHECK * self.checks_max
    }

    /// The node said something.
    pub(crate) fn ended(&mut self) {
        (self.next, self.checks) = (None, 0);
    }

    /// When to look again, if answers are owed.
    pub(crate) fn next_check(&mut self, owed: bool, now: Instant) -> Option<Instant> {
        if owed {
            self.next.get_or_insert(now + SILENCE_CHECK);
        } else {
            self.ended();
        }
        self.next
    }

    /// A check has passed. After the last it counts anew.
    pub(crate) fn passed_a_check(&mut self) -> Suspicion {
        self.next = None;
        self.checks += 1;
        match self.checks {
            SILENCE_CHECKS_ASKED => Suspicion::Ask,
            checks if checks >= self.checks_max => {
                self.checks = 0;
                Suspicion::Gone
            }
            _ => Suspicion::Early,
        }
    }
}

/// What is heard of a node that is asked by single calls.
#[derive(Debug)]
pub(crate) struct Vigil {
    round_trip: Duration,
    /// Answers so far, to calls and to the question.
    words: AtomicU64,
    is_silent: AtomicBool,
    question: Mutex<Question>,
    epochs: Arc<EpochWatch>,
}

impl Vigil {
    /// Over the connection of `stub`, which took `round_trip` to make.
    pub(crate) fn new(stub: Stub, round_trip: Duration, epochs: Arc<EpochWatch>) -> Self {
        let question = Mutex::new(Question::of(stub));
        Self { round_trip, words: AtomicU64::new(0), is_silent: AtomicBool::new(false), question, epochs }
    }

    /// What becomes of `call`, or that it is lost, since the node says nothing and another can take it.
    pub(crate) async fn over(&self, call: impl Future<Output = Reply>, on_silence: OnSilence) -> Reply {
        let watched = async {
            loop {
                let silence = match on_silence {
                    OnSilence::Wait => std::future::pending().await,
                    OnSilence::MoveUnsent | OnSilence::Move => self.gone().await,
                };
                self.is_silent.store(true, Ordering::Relaxed);
                if on_silence == OnSilence::Move {
                    return silence;
                }
            }
        };
        tokio::select! {
            biased;
            reply = call => {
                self.heard();
                reply
            }
            silence = watched => Reply::Lost(format!("nothing was heard of the node for {} ms", silence.as_millis())),
        }
    }

    /// The node was taken for gone, and has said nothing since.
    pub(crate) fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::Relaxed)
    }

    fn heard(&self) {
        self.words.fetch_add(1, Ordering::Relaxed);
        self.is_silent.store(false, Ordering::Relaxed);
    }

    /// Returns when the node has said nothing for too long, and tells for how long.
    async fn gone(&self) -> Duration {
        let mut silence = Silence::on_a_link_of(self.round_trip);
        let mut words = self.words();
        while let Some(check) = silence.next_check(true, Instant::now()) {
            sleep_until(check).await;
            let known = std::mem::replace(&mut words, self.words());
            if words != known {
                silence.ended();
                continue;
            }
            match silence.passed_a_check() {
                Suspicion::Early => {}
                Suspicion::Ask => self.question().ask(&self.epochs),
                Suspicion::Gone => break,
            }
        }
        silence.limit()
    }

    fn words(&self) -> u64 {
        if let Some(epoch) = self.question().try_answered() {
            self.epochs.heard_of(epoch);
            self.heard();
        }
        self.words.load(Ordering::Relaxed)
    }

    fn question(&self) -> MutexGuard<'_, Question> {
        self.question.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_counted_from_the_first_request_and_a_process_that_stood_still_counts_it_once() {
        let (mut silence, begin) = (Silence::on_a_link_of(Duration::ZERO), Instant::now());
        let asked = begin + SILENCE_MAX * 9;
        assert_eq!(silence.next_check(false, begin), None, "nothing is owed");
        assert_eq!(silence.next_check(true, asked), Some(asked + SILENCE_CHECK), "the time before the request does not count");
        let next = asked + SILENCE_CHECK;
        assert_eq!(silence.next_check(true, next), Some(next), "another request begins nothing");
        // The check comes late, and is one.
        let late = asked + SILENCE_MAX * 9;
        assert_eq!(silence.passed_a_check(), Suspicion::Early);
        assert_eq!(silence.next_check(true, late), Some(late + SILENCE_CHECK));
        use Suspicion::{Ask, Early, Gone};
        assert_eq!([(); 9].map(|()| silence.passed_a_check()), [Ask, Early, Early, Gone, Early, Ask, Early, Early, Gone]);
        silence.passed_a_check();
        silence.next_check(false, late);
        assert_eq!([(); 5].map(|()| silence.passed_a_check()), [Early, Ask, Early, Early, Gone], "it owed nothing for a while");
    }

    #[test]
    fn a_node_far_away_may_be_silent_for_longer_within_bounds() {
        let limit = |round_trip| Silence::on_a_link_of(Duration::from_millis(round_trip)).limit().as_millis();
        assert_eq!([0, 75, 100, 201, 325, 9_000].map(limit), [250, 250, 300, 550, 750, 750]);
    }
}
