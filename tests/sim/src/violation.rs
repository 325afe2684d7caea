//! A broken promise.

use dynamo_core::time::Instant;
use thiserror::Error;

/// What was violated, when and how.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{invariant} violated at {:.6} s: {what}", at.0 as f64 / 1e6)]
pub struct Violation {
    /// Which invariant.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
    /// Simulated time.
    pub at: Instant,
}
