//! Who does not answer me (paper 4.8): a local opinion, from real traffic, that moves no data.
//!
//! Phi-accrual: the longer a peer is silent compared with its usual intervals, the higher its phi; at phi 8 it would be silent
//! by chance once in 10^8 times. A lost link is a suspicion at once, a message is proof of life at once. Suspicion only makes
//! coordinators try others first; peers are pinged each second all the same, so they are noticed when they are back.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::NodeId;
use crate::time::Instant;

/// Intervals are averaged over about this many messages.
const WINDOW: f64 = 32.0;
/// Traffic bursts make tiny intervals; silence is judged against no less than a ping's interval.
const INTERVAL_MIN: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
struct Peer {
    heard: Instant,
    interval: f64,
    linked: bool,
}

/// One node's opinion of its peers.
#[derive(Clone, Debug)]
pub struct FailureDetector {
    threshold: f64,
    peers: BTreeMap<NodeId, Peer>,
}

impl FailureDetector {
    /// Peers above `threshold` are suspected.
    pub fn new(threshold: f64) -> Self {
        Self { threshold, peers: BTreeMap::new() }
    }

    /// A message of `peer` arrived.
    pub fn heard(&mut self, peer: NodeId, now: Instant) {
        let floor = INTERVAL_MIN.as_secs_f64();
        let entry = self.peers.entry(peer).or_insert(Peer { heard: now, interval: floor, linked: false });
        let interval = now.since(entry.heard).as_secs_f64().clamp(floor, 10.0 * floor);
        entry.interval += (interval - entry.interval) / WINDOW;
        entry.heard = now;
    }

    /// The link to `peer` came up or went down.
    pub fn linked(&mut self, peer: NodeId, linked: bool, now: Instant) {
        let interval = INTERVAL_MIN.as_secs_f64();
        let entry = self.peers.entry(peer).or_insert(Peer { heard: now, interval, linked });
        entry.linked = linked;
        if linked {
            entry.heard = now;
        }
    }

    /// The suspicion of `peer`; infinite without a link.
    pub fn phi(&self, peer: NodeId, now: Instant) -> f64 {
        match self.peers.get(&peer) {
            Some(entry) if entry.linked => {
                // With exponential intervals, P(silence > t) = exp(-t / mean), and phi is its negative decimal logarithm.
                now.since(entry.heard).as_secs_f64() / entry.interval * std::f64::consts::LOG10_E
            }
            _ => f64::INFINITY,
        }
    }

    /// Whether requests should try others first.
    pub fn suspects(&self, peer: NodeId, now: Instant) -> bool {
        self.phi(peer, now) > self.threshold
    }

    /// There is a `peer`, by the word of others: its silence begins now, unless it is known already.
    pub fn heard_of(&mut self, peer: NodeId, now: Instant) {
        let interval = INTERVAL_MIN.as_secs_f64();
        self.peers.entry(peer).or_insert(Peer { heard: now, interval, linked: false });
    }

    /// How long `peer` has said nothing and had no link; zero while there is one.
    pub fn away_for(&self, peer: NodeId, now: Instant) -> Duration {
        match self.peers.get(&peer) {
            Some(entry) if !entry.linked => now.since(entry.heard),
            _ => Duration::ZERO,
        }
    }

    /// Whether there is a link to `peer`.
    pub fn is_linked(&self, peer: NodeId) -> bool {
        self.peers.get(&peer).is_some_and(|entry| entry.linked)
    }

    /// Peers with a link, in order.
    pub fn linked_peers(&self) -> impl Iterator<Item = NodeId> {
        self.peers.iter().filter(|(_, peer)| peer.linked).map(|(node, _)| *node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_raises_suspicion_and_one_message_ends_it() {
        let peer = NodeId([1; 16]);
        let at = |seconds: u64| Instant(seconds * 1_000_000);
        let mut detector = FailureDetector::new(8.0);
        assert!(detector.suspects(peer, at(0)), "a peer never met");
        detector.linked(peer, true, at(0));
        (0..30).for_each(|second| detector.heard(peer, at(second)));
        assert!(!detector.suspects(peer, at(32)));
        assert!(detector.suspects(peer, at(60)));
        detector.heard(peer, at(61));
        assert!(!detector.suspects(peer, at(62)));
        detector.linked(peer, false, at(62));
        assert!(detector.suspects(peer, at(62)), "a lost link");
    }
}
