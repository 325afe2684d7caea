//! What others can make this process hold in memory, in all: one budget for a kind of thing, and a charge for each thing that is held.
//!
//! | budget | of | charged |
//! |---|---|---|
//! | calls of clients | `CALLS_PART` | each call, its message as far as it has come, the frame that a session works on, a session that stands still |
//! | calls of peers | `PEER_CALLS_BYTES` | the same, of links |
//! | answers | `ANSWERS_PART` | each answer until it is in the socket |
//!
//! A thing that would exceed its budget is refused, with the budget's name and numbers. What is charged is given back when it is dropped.
//!
//! Beside them there are what waits for the loop ([`crate::driver::Inbox`]), the values of requests that wait for an answer, the queues of
//! links, and what each connection may hold ([`crate::connections`]).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::figure::Figure;

/// Calls of clients may hold this part of the machine's memory, or of the container's ...
const CALLS_PART: u64 = 16;
/// ... and answers that clients have not read this one.
const ANSWERS_PART: u64 = 16;
/// What waits for the loop may hold this one.
const INBOX_PART: u64 = 16;
/// No budget of clients is larger, nor the loop's.
const CLIENTS_BYTES_MAX: u64 = 256 << 20;
/// And none is smaller: a frame of the greatest length fits.
const CLIENTS_BYTES_MIN: u64 = 32 << 20;
/// Histories of objects may take this part of the memory.
const HISTORIES_PART: u64 = 32;
/// What one takes; with request ids it is up to half as much again.
const HISTORY_BYTES: u64 = 512;
/// Fewer are not worth their code.
const HISTORIES_MIN: u64 = 1 << 14;
/// A quarter of a gigabyte of them: processes that share a machine each count on all of its memory.
const HISTORIES_MAX: u64 = 1 << 19;
/// This part of a budget is for calls, and not for the bulk of what they carry.
const SHORT_CALLS_PART: usize = 4;
/// Three messages of the greatest length in a budget's bulk.
const PEER_CALLS_BYTES: usize = 4 * dynamo_proto::MESSAGE_BYTES_MAX;

/// A number of bytes that things of one kind may hold together.
#[derive(Debug)]
pub struct Budget {
    name: &'static str,
    bytes_max: usize,
    held: AtomicUsize,
    refused: AtomicU64,
}

/// What was asked for does not fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full {
    name: &'static str,
    held: usize,
    bytes_max: usize,
}

impl fmt::Display for Full {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, held, bytes_max } = self;
        write!(out, "{name} hold {held} bytes of this node's memory, at most {bytes_max}; retry later")
    }
}

impl Budget {
    /// So many bytes, for what `name` says in the plural.
    pub fn new(name: &'static str, bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { name, bytes_max, held: AtomicUsize::new(0), refused: AtomicU64::new(0) })
    }

    /// What is held.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// How often something was refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Whether so much more fits; something always does where nothing is held.
    pub fn has_room(&self, bytes: usize) -> Result<(), Full> {
        self.is_within(bytes, self.bytes_max)
    }

    fn is_within(&self, bytes: usize, bytes_max: usize) -> Result<(), Full> {
        let held = self.held();
        if held > 0 && held.saturating_add(bytes) > bytes_max {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Full { name: self.name, held, bytes_max });
        }
        Ok(())
    }

    /// Holds so much, room or not.
    pub fn take(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Holds so much less.
    pub fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What one thing holds of a budget, until it is dropped.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Charge {
    /// Nothing of `budget` yet.
    pub fn new(budget: &Arc<Budget>) -> Self {
        Self { budget: Arc::clone(budget), bytes: 0 }
    }

    /// Of what it is.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// The thing holds `bytes` from now on; it keeps what it had if that is too much.
    pub fn set(&mut self, bytes: usize) -> Result<(), Full> {
        self.set_within(bytes, self.budget.bytes_max)
    }

    /// The same, but for what is no call by itself: a part of the budget stays for short calls, however much others send.
    pub fn set_bulk(&mut self, bytes: usize) -> Result<(), Full> {
        self.set_within(bytes, self.budget.bytes_max - self.budget.bytes_max / SHORT_CALLS_PART)
    }

    fn set_within(&mut self, bytes: usize, bytes_max: usize) -> Result<(), Full> {
        if bytes > self.bytes {
            let more = bytes - self.bytes;
            self.budget.is_within(more, bytes_max)?;
            self.budget.take(more);
        } else if bytes < self.bytes {
            self.budget.give_back(self.bytes - bytes);
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

/// All budgets of a process.
#[derive(Clone, Debug)]
pub struct Budgets {
    /// Calls of clients.
    pub calls: Arc<Budget>,
    /// Calls of peers.
    pub peer_calls: Arc<Budget>,
    /// Answers that clients have not read.
    pub answers: Arc<Budget>,
}

/// What gets in flight may hold, of a process that may use so much memory: as much as the answers that they become. And so may puts.
pub fn in_flight_bytes_max(memory_bytes: u64) -> usize {
    (memory_bytes / ANSWERS_PART).clamp(CLIENTS_BYTES_MIN, CLIENTS_BYTES_MAX) as usize
}

/// What may wait for the loop of such a process.
pub fn inbox_bytes_max(memory_bytes: u64) -> usize {
    (memory_bytes / INBOX_PART).clamp(CLIENTS_BYTES_MIN, CLIENTS_BYTES_MAX) as usize
}

/// Histories of objects that such a process keeps in memory.
pub fn version_cache_entries_max(memory_bytes: u64) -> usize {
    (memory_bytes / HISTORIES_PART / HISTORY_BYTES).clamp(HISTORIES_MIN, HISTORIES_MAX) as usize
}

impl Budgets {
    /// Of a process that may use so much memory.
    pub fn of(memory_bytes: u64) -> Self {
        let part = |part: u64| (memory_bytes / part).clamp(CLIENTS_BYTES_MIN, CLIENTS_BYTES_MAX) as usize;
        Self {
            calls: Budget::new("calls of clients", part(CALLS_PART)),
            peer_calls: Budget::new("calls of peers", PEER_CALLS_BYTES),
            answers: Budget::new("answers that clients have not read", part(ANSWERS_PART)),
        }
    }

    /// For metrics.
    pub fn figures(&self) -> [Figure; 6] {
        let Self { calls, peer_calls, answers } = self;
        [
            Figure::varying("call_bytes", "Bytes that calls of clients hold", calls.held() as u64),
            Figure::growing("calls_refused", "Calls and sessions refused or ended at the bound of call_bytes", calls.refused()),
            Figure::varying("peer_call_bytes", "Bytes that calls of peers hold", peer_calls.held() as u64),
            Figure::growing("peer_calls_refused", "Calls of peers refused or ended at their bound", peer_calls.refused()),
            Figure::varying("answer_bytes", "Bytes of answers that clients have not read yet", answers.held() as u64),
            Figure::growing("answers_refused", "Answers that were not given at the bound of answer_bytes", answers.refused()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_charged_stays_within_the_budget_and_is_given_back() {
        let budget = Budget::new("examples", 100);
        let mut first = Charge::new(&budget);
        let mut second = Charge::new(&budget);
        assert_eq!(first.set(60), Ok(()));
        let full = second.set(50).unwrap_err();
        assert_eq!(full.to_string(), "examples hold 60 bytes of this node's memory, at most 100; retry later");
        assert_eq!((budget.held(), budget.refused()), (60, 1));
        assert_eq!(first.set(20), Ok(()));
        assert_eq!(second.set(50), Ok(()));
        drop(first);
        assert_eq!(budget.held(), 50);
        // It keeps what it had.
        assert_eq!(second.set(101), Err(Full { name: "examples", held: 50, bytes_max: 100 }));
        drop(second);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn however_much_is_sent_a_part_is_left_for_short_calls() {
        let budget = Budget::new("examples", 100);
        let (mut long, mut more, mut short) = (Charge::new(&budget), Charge::new(&budget), Charge::new(&budget));
        assert_eq!(long.set_bulk(75), Ok(()));
        assert_eq!(more.set_bulk(1), Err(Full { name: "examples", held: 75, bytes_max: 75 }));
        assert_eq!(short.set(25), Ok(()));
    }

    #[test]
    fn where_nothing_is_held_one_thing_fits_whatever_its_length() {
        let budget = Budget::new("examples", 100);
        let mut long = Charge::new(&budget);
        assert_eq!(long.set(1_000), Ok(()));
        assert!(Charge::new(&budget).set(1).is_err());
    }

    #[test]
    fn small_machines_have_small_budgets_and_large_ones_the_most() {
        for (memory, calls) in [(256 << 20, 32 << 20), (2 << 30, 128 << 20), (u64::MAX, 256 << 20)] {
            assert_eq!(Budgets::of(memory).calls.bytes_max, calls, "{memory}");
            assert_eq!(inbox_bytes_max(memory), calls, "{memory}");
        }
        for (memory, histories) in [(0, 1 << 14), (1 << 30, 1 << 16), (4 << 30, 1 << 18), (u64::MAX, 1 << 19)] {
            assert_eq!(version_cache_entries_max(memory), histories, "{memory}");
        }
    }
}
