//! Whose clock is wrong: this node's, or the others'? Asked before a stamp decides which version is shown, and for every stamp: of the
//! writes with request ids, those with the highest are remembered ([`crate::recent_writes`]), so one node's clock that is an hour ahead
//! would have all of an hour forgotten wherever it wrote.
//!
//! Each gossip message carries its sender's wall clock. On arrival it lies behind the sender's present by the time that the
//! message took, which is never negative: of several, the one that took least comes nearest to the truth. So for each peer
//! the highest (its wall clock - this node's monotonic clock) of the last half to whole minute is kept. Own clocks are read when the
//! comparison is made, so a jump of this node's own clock shows at once; a peer that set its clock back shows when the
//! older comparisons are forgotten.
//!
//! A node whose clock differs from those of more than half of the peers that it heard lately takes its own for the wrong one.
//! Where there is no majority (two nodes), neither can be trusted. A node that hears nobody has nothing to compare with, and
//! trusts itself: always writable comes first. Where siblings are kept a write is never refused for that; it is stamped by the
//! clock in the middle of all.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::id::NodeId;
use crate::time::{Instant, Now};

/// Comparisons are kept for one to two of these: several rounds of gossip with each peer of a small cluster, and in a large one
/// with some dozens of its peers.
const HALF_WINDOW: Duration = Duration::from_secs(30);

/// Milliseconds by which a wall clock is ahead of this node's monotonic clock.
fn lead(wall_ms: u64, now: Instant) -> i64 {
    let narrow = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    narrow(wall_ms).saturating_sub(narrow(now.0 / 1_000))
}

#[derive(Clone, Copy, Debug)]
struct PeerClock {
    /// When the current half of the window began.
    since: Instant,
    heard: Instant,
    /// The highest lead of this half, and of the half before.
    current: i64,
    previous: Option<i64>,
}

/// The clocks of the peers, as this node hears of them. One entry a peer; those that are silent go.
#[derive(Clone, Debug, Default)]
pub struct PeerClocks(BTreeMap<NodeId, PeerClock>);

/// This node's clock is not to be trusted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Skew {
    /// Peers whose clocks differ too much.
    pub differing: usize,
    /// Peers heard lately.
    pub heard: usize,
    /// Milliseconds by which this node's clock is ahead of theirs, the median of those that differ.
    pub ahead_ms: i64,
    /// What is allowed.
    pub allowed_ms: u64,
}

impl PeerClocks {
    /// A message in which `peer` told its wall clock has arrived.
    pub fn heard(&mut self, peer: NodeId, wall_ms: u64, now: Instant) {
        let lead = lead(wall_ms, now);
        let fresh = PeerClock { since: now, heard: now, current: lead, previous: None };
        let clock = self.0.entry(peer).or_insert(fresh);
        let age = now.since(clock.since);
        *clock = match age {
            age if age >= HALF_WINDOW * 2 => fresh,
            age if age >= HALF_WINDOW => PeerClock { previous: Some(clock.current), ..fresh },
            _ => PeerClock { heard: now, current: clock.current.max(lead), ..*clock },
        };
        self.0.retain(|_, clock| is_fresh(clock, now));
    }

    /// Milliseconds by which this node's clock is ahead of each peer's that was heard lately.
    fn ahead(&self, now: Now) -> impl Iterator<Item = i64> {
        let own = lead(now.wall_ms, now.instant);
        let heard = self.0.values().filter(move |clock| is_fresh(clock, now.instant));
        heard.map(move |clock| own.saturating_sub(highest(clock)))
    }

    /// The median of the differences, for people to watch; 0 where there is nobody to compare with.
    pub fn median_ahead_ms(&self, now: Now) -> i64 {
        median(self.ahead(now).collect())
    }

    /// Why this node's clock may not decide which version is the newest, if so. Every write asks.
    pub fn skew(&self, now: Now, allowed_ms: u64) -> Option<Skew> {
        let (mut heard, mut differing) = (0, Vec::new());
        for ahead in self.ahead(now) {
            heard += 1;
            if ahead.unsigned_abs() > allowed_ms {
                differing.push(ahead);
            }
        }
        let most = differing.len() * 2 > heard;
        most.then(|| Skew { differing: differing.len(), heard, ahead_ms: median(differing), allowed_ms })
    }

    /// This node's wall clock; or, where it differs from most of three or more, the time by the median of all, its own among them: clocks
    /// that are wrong by more than the others are never chosen. Of two in the middle the one nearer to this node's is.
    pub fn agreed_ms(&self, now: Now, allowed_ms: u64) -> u64 {
        let is_outvoted = self.skew(now, allowed_ms).is_some_and(|skew| skew.differing > 1);
        let ahead_ms = if is_outvoted { middle(self.ahead(now).chain([0]).collect()) } else { 0 };
        now.wall_ms.saturating_add_signed(ahead_ms.saturating_neg())
    }
}

/// The median; of two in the middle, the one nearer to 0.
fn middle(mut of: Vec<i64>) -> i64 {
    of.sort_unstable();
    let both = [of[(of.len() - 1) / 2], of[of.len() / 2]];
    if both[0].unsigned_abs() < both[1].unsigned_abs() { both[0] } else { both[1] }
}

fn median(mut of: Vec<i64>) -> i64 {
    of.sort_unstable();
    of.get(of.len() / 2).copied().unwrap_or_default()
}

fn is_fresh(clock: &PeerClock, now: Instant) -> bool {
    now.since(clock.heard) < HALF_WINDOW * 2
}

fn highest(clock: &PeerClock) -> i64 {
    clock.previous.map_or(clock.current, |previous| previous.max(clock.current))
}

impl fmt::Display for Skew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { differing, heard, ahead_ms, allowed_ms } = self;
        let direction = if *ahead_ms > 0 { "ahead of" } else { "behind" };
        let by = ahead_ms.unsigned_abs();
        write!(
            f,
            "the clock of this node is {by} ms {direction} those of {differing} of {heard} peers, and the last writer wins in \
             this bucket; set the clock right (NTP), or ask another node; clock_skew_ms_max allows {allowed_ms} ms"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const WALL: u64 = 1_700_000_000_000;

    fn peer(id: u8) -> NodeId {
        NodeId([id; 16])
    }

    fn at(seconds: u64) -> Instant {
        Instant(77_000_000) + SECOND * seconds as u32
    }

    /// The present after so many seconds, by a clock that is ahead by so much.
    fn now(seconds: u64, ahead_ms: i64) -> Now {
        Now { instant: at(seconds), wall_ms: (WALL + seconds * 1_000).saturating_add_signed(ahead_ms) }
    }

    #[test]
    fn a_clock_that_differs_from_most_is_not_trusted_whoever_is_wrong() {
        let hour = 3_600_000;
        // What each peer's clock is ahead by, what this node's is, and what is said of it.
        type Case<'a> = (&'a [i64], i64, Option<(usize, i64)>);
        let cases: [Case; 9] = [
            (&[], hour, None),
            (&[0], 400, None),
            (&[0], 501, Some((1, 501))),
            (&[0, 0], hour, Some((2, hour))),
            (&[0, hour], 0, None),
            (&[0, hour], hour, None),
            (&[hour, hour], 0, Some((2, -hour))),
            (&[0, 0, hour, hour], 0, None),
            (&[0, 10, -10, hour], -hour, Some((4, -hour))),
        ];
        for (peers, own, expected) in cases {
            let mut clocks = PeerClocks::default();
            for (id, ahead) in (1..).zip(peers) {
                clocks.heard(peer(id), now(3, *ahead).wall_ms, at(3));
            }
            let found = clocks.skew(now(5, own), 500).map(|skew| (skew.differing, skew.ahead_ms));
            assert_eq!(found, expected, "{peers:?}, own {own}");
            // Of two clocks that differ either may be the wrong one.
            let ahead_ms = expected.filter(|(differing, _)| *differing > 1).map_or(own, |(_, ahead_ms)| own - ahead_ms);
            assert_eq!(clocks.agreed_ms(now(5, own), 500), now(5, ahead_ms).wall_ms, "{peers:?}, own {own}");
        }
    }

    #[test]
    fn among_clocks_that_are_all_wrong_the_one_in_the_middle_is_agreed_on() {
        let hour = 3_600_000;
        // What each peer's clock is ahead by, what this node's is, and what it stamps by.
        type Case<'a> = (&'a [i64], i64, i64);
        let cases: [Case; 7] = [
            (&[-600, -hour], 0, -600),
            (&[0, -hour], -600, -600),
            (&[0, -600], -hour, -600),
            (&[0, hour, -hour], 0, 0),
            (&[hour, -hour], 0, 0),
            (&[0, hour, hour], 0, 0),
            (&[0, 0, 700, 2 * hour], hour, 700),
        ];
        for (peers, own, expected) in cases {
            let mut clocks = PeerClocks::default();
            for (id, ahead) in (1..).zip(peers) {
                clocks.heard(peer(id), now(3, *ahead).wall_ms, at(3));
            }
            assert_eq!(clocks.agreed_ms(now(5, own), 500), now(5, expected).wall_ms, "{peers:?}, own {own}");
        }
    }

    #[test]
    fn the_quickest_message_tells_the_time_and_slow_ones_do_not_spoil_it() {
        let mut clocks = PeerClocks::default();
        for (seconds, took_ms) in [(1, 3_000), (2, 20), (3, 9_000), (4, 700)] {
            clocks.heard(peer(1), now(seconds, -took_ms).wall_ms, at(seconds));
        }
        assert_eq!(clocks.skew(now(5, 0), 100), None);
        assert_eq!(clocks.skew(now(5, 100), 100).map(|skew| skew.ahead_ms), Some(120));
        assert_eq!(clocks.median_ahead_ms(now(5, 0)), 20, "and is shown below the bound too");
        assert_eq!(PeerClocks::default().median_ahead_ms(now(5, 0)), 0);
    }

    #[test]
    fn an_own_jump_shows_at_once_and_a_peers_within_two_halves_of_the_window() {
        let mut clocks = PeerClocks::default();
        let jump = |seconds: u64| if seconds > 40 { -10_000 } else { 0 };
        let mut agreed_again = None;
        for seconds in 1..120 {
            clocks.heard(peer(1), now(seconds, jump(seconds)).wall_ms, at(seconds));
            assert!(clocks.skew(now(seconds, 7_000), 500).is_some(), "own jump, {seconds}");
            let differs = clocks.skew(now(seconds, 0), 500).is_some();
            assert!(!differs || seconds > 40);
            agreed_again = agreed_again.or(differs.then_some(seconds));
        }
        assert!(agreed_again.is_some_and(|seconds| seconds <= 101), "{agreed_again:?}");
    }

    #[test]
    fn a_peer_that_is_silent_says_nothing_any_more() {
        let mut clocks = PeerClocks::default();
        clocks.heard(peer(1), now(0, 0).wall_ms, at(0));
        assert!(clocks.skew(now(59, 9_000), 500).is_some());
        assert_eq!(clocks.skew(now(60, 9_000), 500), None);
        clocks.heard(peer(2), now(61, 0).wall_ms, at(61));
        assert_eq!(clocks.0.len(), 1, "it is forgotten");
    }

    #[test]
    fn the_words_say_by_how_much_and_what_to_do() {
        let skew = Skew { differing: 2, heard: 3, ahead_ms: -7_200_013, allowed_ms: 500 };
        let words = skew.to_string();
        for part in ["7200013 ms behind those of 2 of 3 peers", "set the clock right (NTP)", "clock_skew_ms_max allows 500 ms"] {
            assert!(words.contains(part), "{words}");
        }
    }
}
