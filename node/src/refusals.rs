//! What is refused of others on the peer port: counted each time, told in the log once a minute for each kind.
//!
//! Whoever is refused may come again as often as it likes, and says what it likes. A line for each time would fill a disk, so the others
//! are at level debug, and of what a stranger says no more is repeated than an honest one would say.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use dynamo_core::id::NodeId;
use dynamo_proto::WireError;
use tracing::{debug, warn};

use crate::figure::Figure;

/// Between two lines about the same field.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// So long is a cluster's id.
const NAME_BYTES_MAX: usize = 36;

/// What a stranger calls its cluster, as far as it is repeated.
pub fn repeated(name: &[u8]) -> impl fmt::Display {
    name[..name.len().min(NAME_BYTES_MAX)].escape_ascii()
}

/// What was refused since the start.
#[derive(Debug, Default)]
pub struct Refusals {
    links: Refused,
    messages: Refused,
}

/// Refusals of one thing.
#[derive(Debug, Default)]
struct Refused {
    count: AtomicU64,
    /// When the log told of each field that was wrong. The fields are those that the code names.
    told: Mutex<BTreeMap<&'static str, Instant>>,
}

impl Refused {
    /// One more because of this field: how many there are, and whether to tell of it.
    fn count(&self, field: &'static str, now: Instant) -> (u64, bool) {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = told.get(field).is_none_or(|at| now.duration_since(*at) >= TOLD_EVERY);
        if is_due {
            told.insert(field, now);
        }
        (count, is_due)
    }
}

impl Refusals {
    /// A call for a link was refused.
    pub fn link(&self, reason: &WireError) {
        match self.links.count(reason.field, Instant::now()) {
            (refused, true) => warn!(%reason, refused, "a dialler was refused; more are counted for a minute"),
            (_, false) => debug!(%reason, "a dialler was refused"),
        }
    }

    /// A message of a peer was not understood.
    pub fn message(&self, peer: NodeId, error: &WireError) {
        match self.messages.count(error.field, Instant::now()) {
            (refused, true) => warn!(%peer, %error, refused, "a message was not understood; more are counted for a minute"),
            (_, false) => debug!(%peer, %error, "a message was not understood"),
        }
    }

    /// For metrics.
    pub fn figures(&self) -> [Figure; 2] {
        let count = |refused: &Refused| refused.count.load(Ordering::Relaxed);
        [
            Figure::growing("links_refused", "Calls for a link refused, of other clusters for instance", count(&self.links)),
            Figure::growing(
                "messages_not_understood",
                "Messages of peers dropped because they were not understood",
                count(&self.messages),
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_is_counted_and_each_kind_is_told_of_once_a_minute() {
        let (refused, now) = (Refused::default(), Instant::now());
        assert_eq!(refused.count("one", now), (1, true));
        assert_eq!(refused.count("one", now + TOLD_EVERY / 2), (2, false));
        assert_eq!(refused.count("another", now + TOLD_EVERY / 2), (3, true));
        assert_eq!(refused.count("one", now + TOLD_EVERY), (4, true));
        assert_eq!(refused.count("one", now + TOLD_EVERY), (5, false));
    }

    #[test]
    fn of_a_strangers_name_no_more_is_repeated_than_an_id_has() {
        assert_eq!(repeated(b"6f9619ff-8b86-d011-b42d-00c04fc964ff").to_string(), "6f9619ff-8b86-d011-b42d-00c04fc964ff");
        assert_eq!(repeated(&[b'x'; 16 << 10]).to_string(), "x".repeat(36));
        assert_eq!(repeated(b"\"\n\xff").to_string(), "\\\"\\n\\xff");
    }
}
