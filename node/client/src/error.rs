//! Why a request failed, and what that says of the write: nothing was written, or nobody knows (design 5, "outcomes are honest").

use thiserror::Error;

/// Why a request has no answer to give. All variants but [`RequestError::Unknown`] mean that nothing was written.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum RequestError {
    /// The request itself is wrong; the message names the field and the fix.
    #[error("{0}")]
    Invalid(String),
    /// The context is damaged, foreign or of another key.
    #[error("{0}")]
    BadContext(String),
    /// Create-only, and a live version exists.
    #[error("{0}")]
    Exists(String),
    /// Too few replicas can be reached.
    #[error("{message}")]
    Unavailable {
        /// The node's words.
        message: String,
        /// How many replicas answered.
        acknowledged: u32,
        /// How many it takes.
        required: u32,
    },
    /// A named bound was hit, at the node or in this client.
    #[error("{0}")]
    Overloaded(String),
    /// The cluster has no ring yet.
    #[error("{0}")]
    NoRing(String),
    /// No node could be reached in time; the request was not sent.
    #[error("no node could be reached, the request was not sent: {0}")]
    Unreachable(String),
    /// A get that no node answered in time.
    #[error("no answer in time: {0}")]
    TimedOut(String),
    /// A node answered what no node of this version answers, to a get.
    #[error("the answer cannot be used: {0}")]
    Protocol(String),
    /// The write may or may not become visible: it was sent, and what followed is not known, or the node said so.
    #[error("outcome unknown, read before you retry: {message}")]
    Unknown {
        /// What happened.
        message: String,
        /// How many replicas acknowledged, as far as is known.
        acknowledged: u32,
        /// How many it takes; 0 if the node did not say.
        required: u32,
    },
}

impl RequestError {
    /// Whether a write that failed so may become visible nevertheless.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }

    /// One word for counts and reports.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "invalid",
            Self::BadContext(_) => "bad_context",
            Self::Exists(_) => "exists",
            Self::Unavailable { .. } => "unavailable",
            Self::Overloaded(_) => "overloaded",
            Self::NoRing(_) => "no_ring",
            Self::Unreachable(_) => "unreachable",
            Self::TimedOut(_) => "timed_out",
            Self::Protocol(_) => "protocol",
            Self::Unknown { .. } => "unknown",
        }
    }
}
