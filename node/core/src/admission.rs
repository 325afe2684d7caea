//! Admission control of background work (paper 6.5): hints, transfers, handbacks and anti-entropy take what clients leave over.
//!
//! **What is watched.** The latency of every get and put that this node answered as coordinator. The paper compares the 99th
//! percentile of the last 60 s with a threshold (50 ms). That alone does nothing where clients usually see 5 ms, and what they
//! notice is the change, so a second figure is kept: the 99th percentile of requests answered while no background work ran.
//! Background work may raise that by an eighth. (The bar is a quarter; a controller acts after the fact, and the second in which
//! it learns better counts too.) To keep the quiet figure true while work goes on for hours, one second in ten is left without
//! it. Comparing figures of the same minute is what separates the load of clients from that of background work: when clients
//! alone become slower, the quiet figure rises with them.
//!
//! **What is granted.** Bytes per second, between a floor and a cap:
//!
//! ```text
//!               each second, over the requests answered during background work
//!   p99 above min(threshold, quiet p99 + 1/8)        halved          within a second of the harm
//!   p99 below, p99 of 60 s above the threshold       kept            the paper's minute has not passed
//!   p99 within a sixteenth of the quiet one, never   doubled, if something was refused: the limit is searched for
//!     too high since work began at the floor
//!   p99 below, and something was refused             + 1/32 of the range
//!   no background work for 10 s                      the floor: what was right then need not be right now
//!   no request answered for 1 s                      the cap applies, whatever the rate is
//! ```
//!
//! A second counts once it has a hundred answers; with fewer, up to ten seconds are taken together, unless they and the 60 s both
//! say that it is too much. The floor is always granted (except in the quiet second), so background work ends whatever clients do.
//!
//! **Who gets it.** Each kind has an account. Whatever is granted is shared evenly among the kinds that ask, with an eighth of a share
//! for anti-entropy: what hints and transfers bring on their own need not be searched for. What one cannot use goes to the others. An
//! account may be overdrawn by one batch, which is why no object is ever too large, and the debt is that
//! kind's alone. Batches are as large as a twentieth of a second's grant, so that work is spread over the second.
//!
//! **The receiver.** A sender sees its own clients and not those of the node that it sends to, so a receiver has an account for
//! what is pushed to it, and acknowledges a batch when the account is settled: senders wait for that before the next.
//!
//! The accounts follow the time that they are told; nothing here has a timer.

pub mod latency;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::config::Config;
use crate::time::Instant;

use latency::{Histogram, Window};

/// Between two judgements.
const JUDGED_EVERY: Duration = Duration::from_secs(1);
/// Answers that a percentile of one in a hundred takes.
const ANSWERS_MIN: u64 = 100;
/// For so long answers are gathered for one judgement.
const GATHERED_MAX: Duration = Duration::from_secs(10);
/// Background work leaves a quiet second at least so often, while clients ask.
const QUIET_EVERY: Duration = Duration::from_secs(9);
/// How long it is quiet then.
const QUIET_FOR: Duration = Duration::from_secs(1);
/// So long after a batch its effects are taken to last: receivers apply and sync it.
const SETTLES_IN: Duration = Duration::from_millis(250);
/// Without a batch for so long the next work begins at the floor.
const IDLE_AFTER: Duration = Duration::from_secs(10);
/// Without an answer for so long there are no clients.
const ALONE_AFTER: Duration = Duration::from_secs(1);
/// A kind that asked within this time shares in the grant.
const ASKS_FOR: Duration = Duration::from_secs(1);
/// Steps from the floor to the cap: half a minute, many judgements that could stop it.
const STEPS: u64 = 32;
/// Batches for each second of grant.
const BATCHES_PER_SECOND: u64 = 20;
/// No batch is smaller for the budget's sake: each costs a message and its share of an fsync, whatever is in it.
const BATCH_BYTES_MIN: u64 = 16 << 10;
/// What all accounts hold at most, in parts of a second's grant: two ticks' worth.
const SAVED_PER_SECOND: u64 = 10;
/// The price of comparing two trees: two messages and 64 leaves.
const COMPARISON_BYTES: u64 = 2 << 10;
/// An acknowledgement is kept back for so long at most: less than half of what a sender waits for it.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(2);

/// A kind of background work.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Work {
    /// Delivering hints.
    Hints,
    /// Sending partitions to new replicas.
    Transfers,
    /// Handing copies back to their owners.
    Handbacks,
    /// Comparing and repairing replicas.
    AntiEntropy,
    /// Taking what others push.
    Received,
}

impl Work {
    /// Every kind.
    pub const ALL: [Work; 5] = [Work::Hints, Work::Transfers, Work::Handbacks, Work::AntiEntropy, Work::Received];

    /// Its part of what is shared among those that ask.
    fn weight(self) -> i128 {
        if self == Work::AntiEntropy { 1 } else { 8 }
    }
}

/// What the controller is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Bytes per second that background work may move now.
    pub bytes_per_second: u64,
    /// The 99th percentile of the last 60 s.
    pub p99: Option<Duration>,
    /// The 99th percentile while no background work runs.
    pub p99_quiet: Option<Duration>,
}

/// A kind's share. In byte-microseconds, so that no grant is too short to count.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    balance: i128,
    asked_at: Option<Instant>,
    /// It was refused since the last tick.
    waits: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Lower,
    Keep,
    Raise,
    Double,
}

/// The controller.
#[derive(Clone, Debug)]
pub struct Admission {
    p99_max: Duration,
    floor: u64,
    cap: u64,
    /// Bytes per second while clients ask.
    rate: u64,
    /// Clients have not minded yet, since work began at the floor: how much they would bear is not known even roughly.
    searching: bool,
    accounts: [Account; Work::ALL.len()],
    granted_at: Instant,
    all: Window,
    quiet: Window,
    /// Answers during background work that were not judged yet.
    busy: Histogram,
    busy_since: Instant,
    judges_at: Instant,
    /// Something was refused since the last judgement.
    refused: bool,
    answered_at: Option<Instant>,
    moved_at: Option<Instant>,
    /// The next quiet second begins.
    quiet_at: Instant,
    quiet_until: Instant,
}

impl Admission {
    /// A controller with the bounds of `config`.
    pub fn new(config: &Config, now: Instant) -> Self {
        let floor = config.background_bytes_per_second_min.max(1);
        Self {
            p99_max: config.background_p99_max,
            floor,
            cap: config.background_bytes_per_second_max.max(floor),
            rate: floor,
            searching: true,
            accounts: [Account::default(); Work::ALL.len()],
            granted_at: now,
            all: Window::new(now),
            quiet: Window::new(now),
            busy: Histogram::default(),
            busy_since: now,
            judges_at: now + JUDGED_EVERY,
            refused: false,
            answered_at: None,
            moved_at: None,
            quiet_at: now + QUIET_EVERY,
            quiet_until: now,
        }
    }

    /// A client's request was answered after `latency`.
    pub fn answered(&mut self, latency: Duration, now: Instant) {
        self.all.record(latency, now);
        self.answered_at = Some(now);
        if self.moved_within(SETTLES_IN, now) {
            self.busy.record(latency);
        } else {
            self.quiet.record(latency, now);
            self.quiet_at = self.quiet_at.max(now + QUIET_EVERY);
        }
    }

    /// Whether a batch of `work` may go out now, and how many bytes it should have, `most` at most. What is in it is told by
    /// [`Admission::moved`]. What is refused asks again at the next tick.
    pub fn ask(&mut self, work: Work, most: usize, now: Instant) -> Option<usize> {
        self.grant(now);
        self.accounts[work as usize].asked_at = Some(now);
        if self.is_quiet(now) || self.accounts[work as usize].balance <= 0 {
            self.accounts[work as usize].waits = true;
            self.refused = true;
            return None;
        }
        Some(self.batch(most, now))
    }

    /// How many bytes a batch should have, `most` at most: few enough that work is spread over the second.
    pub fn batch(&self, most: usize, now: Instant) -> usize {
        let even = (self.bytes_per_second(now) / BATCHES_PER_SECOND).max(BATCH_BYTES_MIN);
        most.min(usize::try_from(even).unwrap_or(usize::MAX))
    }

    /// Whether two trees may be compared for `work` now. Equal ones move nothing, so the time stays quiet.
    pub fn ask_to_compare(&mut self, work: Work, now: Instant) -> bool {
        let granted = self.ask(work, usize::MAX, now).is_some();
        if granted {
            self.debit(work, COMPARISON_BYTES);
        }
        granted
    }

    /// `bytes` were read or sent for `work`.
    pub fn moved(&mut self, work: Work, bytes: usize, now: Instant) {
        self.grant(now);
        self.debit(work, bytes as u64);
        if bytes > 0 {
            if !self.moved_within(IDLE_AFTER, now) {
                // A second of it is judged, and not what is left of the one in which it began.
                self.judges_at = now + JUDGED_EVERY;
                self.forget_busy(now);
            }
            self.moved_at = Some(now);
        }
    }

    /// `bytes` were pushed to this node: when to acknowledge them.
    pub fn received(&mut self, bytes: usize, now: Instant) -> Instant {
        self.moved(Work::Received, bytes, now);
        self.settled(Work::Received, now)
    }

    /// When the debts of `work` are paid, and what others ask of this node for it may be done.
    pub fn settled(&mut self, work: Work, now: Instant) -> Instant {
        self.grant(now);
        self.accounts[work as usize].asked_at = Some(now);
        let debt = (-self.accounts[work as usize].balance).max(0) as u128;
        let share = u128::from((self.bytes_per_second(now) * work.weight() as u64 / self.asked_weight(now).max(1)).max(1));
        let settled = now + Duration::from_micros(u64::try_from(debt.div_ceil(share)).unwrap_or(u64::MAX));
        self.refused |= debt > 0;
        let quiet_ends = if self.is_quiet(now) { self.quiet_until } else { now };
        settled.max(quiet_ends).min(now + ACKNOWLEDGED_WITHIN)
    }

    /// Whether `work` was refused and waits for the next tick: until then nothing of its kind goes ahead of it.
    pub fn waits(&self, work: Work) -> bool {
        self.accounts[work as usize].waits
    }

    /// Time has passed. True if something was refused since the last tick and should ask again now.
    pub fn tick(&mut self, now: Instant) -> bool {
        self.all.advance(now);
        self.quiet.advance(now);
        if now >= self.judges_at {
            self.judges_at = now + JUDGED_EVERY;
            self.judge(now);
        }
        let waited = self.accounts.iter().any(|account| account.waits);
        self.accounts.iter_mut().for_each(|account| account.waits = false);
        waited
    }

    /// What the controller is doing.
    pub fn report(&self, now: Instant) -> Report {
        Report { bytes_per_second: self.bytes_per_second(now), p99: self.all.percentile_99(), p99_quiet: self.quiet_p99() }
    }

    fn quiet_p99(&self) -> Option<Duration> {
        self.quiet.usual_percentile_99(ANSWERS_MIN)
    }

    /// What background work may move now.
    fn bytes_per_second(&self, now: Instant) -> u64 {
        if self.has_clients(now) { self.rate } else { self.cap }
    }

    fn has_clients(&self, now: Instant) -> bool {
        self.answered_at.is_some_and(|answered| now.since(answered) < ALONE_AFTER)
    }

    fn moved_within(&self, duration: Duration, now: Instant) -> bool {
        self.moved_at.is_some_and(|moved| now.since(moved) < duration)
    }

    /// Whether this is a quiet second; begins one if it is time.
    fn is_quiet(&mut self, now: Instant) -> bool {
        if !self.has_clients(now) {
            return false;
        }
        if now >= self.quiet_at {
            self.quiet_until = now + QUIET_FOR;
            self.quiet_at = self.quiet_until + QUIET_EVERY;
        }
        now < self.quiet_until
    }

    fn judge(&mut self, now: Instant) {
        let enough = self.busy.total() >= ANSWERS_MIN;
        let gathered = enough || now.since(self.busy_since) >= GATHERED_MAX;
        let above = self.busy.percentile_99() > Some(self.p99_allowed());
        let minute_above = self.all.percentile_99() > Some(self.p99_max);
        let verdict = match (above, minute_above) {
            (true, false) if enough => Verdict::Lower,
            (true, true) => Verdict::Lower,
            // Without answers nothing was learned.
            (false, false) if gathered && self.busy.total() > 0 && self.searching && self.is_unnoticed() => Verdict::Double,
            (false, false) if gathered && self.busy.total() > 0 => Verdict::Raise,
            _ => Verdict::Keep,
        };
        let idle = !self.moved_within(IDLE_AFTER, now);
        let step = ((self.cap - self.floor) / STEPS).max(1);
        self.rate = match verdict {
            _ if idle => self.floor,
            Verdict::Lower => (self.rate / 2).max(self.floor),
            Verdict::Double if self.refused => self.rate.saturating_mul(2).min(self.cap),
            Verdict::Raise if self.refused => self.rate.saturating_add(step).min(self.cap),
            Verdict::Double | Verdict::Raise | Verdict::Keep => self.rate,
        };
        self.searching = idle || (self.searching && verdict != Verdict::Lower);
        self.refused = false;
        if gathered {
            self.forget_busy(now);
        }
    }

    fn forget_busy(&mut self, now: Instant) {
        self.busy.clear();
        self.busy_since = now;
    }

    /// Whether the last second of background work looks as if there had been none. The same again is safe to try, and to try it
    /// once too often costs a second: from the floor to the cap it is six steps of this kind and 32 of the other.
    fn is_unnoticed(&self) -> bool {
        self.quiet_p99().is_some_and(|quiet| self.busy.percentile_99() <= Some(quiet + quiet / 16))
    }

    /// What the 99th percentile may be while background work runs.
    fn p99_allowed(&self) -> Duration {
        self.quiet_p99().map_or(self.p99_max, |quiet| self.p99_max.min(quiet + quiet / 8))
    }

    // --- accounts -----------------------------------------------------------------------------------------------------

    fn asks(&self, account: &Account, now: Instant) -> bool {
        account.balance < 0 || account.asked_at.is_some_and(|asked| now.since(asked) < ASKS_FOR)
    }

    fn asking(&self, now: Instant) -> u64 {
        self.accounts.iter().filter(|account| self.asks(account, now)).count() as u64
    }

    /// The weights of the kinds that ask.
    fn asked_weight(&self, now: Instant) -> u64 {
        let asking = Work::ALL.iter().zip(&self.accounts).filter(|(_, account)| self.asks(account, now));
        asking.map(|(work, _)| work.weight() as u64).sum()
    }

    fn debit(&mut self, work: Work, bytes: u64) {
        self.accounts[work as usize].balance -= i128::from(bytes) * 1_000_000;
    }

    /// Shares what the time since the last grant is worth: among those who ask, then among all.
    fn grant(&mut self, now: Instant) {
        let passed = now.since(self.granted_at).as_micros() as i128;
        self.granted_at = self.granted_at.max(now);
        let bytes_per_second = self.bytes_per_second(now);
        let most = i128::from(bytes_per_second) * 1_000_000 / i128::from(SAVED_PER_SECOND * self.asking(now).max(1));
        // What was saved under a larger grant is no title to it now.
        self.accounts.iter_mut().for_each(|account| account.balance = account.balance.min(most));
        let asks: [bool; Work::ALL.len()] = std::array::from_fn(|at| self.asks(&self.accounts[at], now));
        let left = self.share(i128::from(bytes_per_second) * passed, most, asks);
        self.share(left, most, [true; Work::ALL.len()]);
    }

    /// Shares `left` among `takers`, by their weights, until they have `most` each; hands back what nobody could take.
    fn share(&mut self, mut left: i128, most: i128, mut takers: [bool; Work::ALL.len()]) -> i128 {
        for _ in 0..Work::ALL.len() {
            let weights = Work::ALL.iter().zip(&takers).filter(|(_, takes)| **takes).map(|(work, _)| work.weight()).sum::<i128>();
            if weights == 0 {
                break;
            }
            let unit = left / weights;
            for ((work, account), takes) in Work::ALL.iter().zip(&mut self.accounts).zip(&mut takers).filter(|(_, takes)| **takes)
            {
                let part = unit * work.weight();
                let taken = part.min((most - account.balance).max(0));
                account.balance += taken;
                left -= taken;
                *takes = taken == part;
            }
        }
        left
    }
}
