//! Why a request failed, and what that says of the write: nothing was written, or nobody knows.

use dynamo_core::request::Failure;
use thiserror::Error;

/// [`RequestError::kind`] of a put that can be made once the key was read and its siblings are merged.
pub const OBJECT_TOO_LARGE: &str = "object_too_large";

/// Why a request has no answer to give.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum RequestError {
    /// What a node said. Unless it is [`Failure::Unknown`], nothing was written.
    #[error("{0}")]
    Failed(Failure),
    /// No node could be reached in time; the request was not sent.
    #[error("no node could be reached, the request was not sent: {0}")]
    Unreachable(String),
    /// A get that no node answered.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// A get was answered with what no node of this version says.
    #[error("the answer cannot be used: {0}")]
    Protocol(String),
    /// A write was sent, and no usable answer came: it may or may not become visible.
    #[error("outcome unknown, read before you retry: {0}")]
    Lost(String),
}

impl RequestError {
    /// Whether a write that failed so may become visible nevertheless.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Failed(Failure::Unknown { .. }) | Self::Lost(_))
    }

    /// Whether the same request can only fail again, whatever becomes of the cluster.
    pub fn is_invalid(&self) -> bool {
        matches!(self, Self::Failed(Failure::Invalid(_) | Failure::BadContext(_)))
    }

    /// What the caller of a write hears whose last try failed so, where an earlier try ended with `open`: unless this one's outcome is
    /// unknown itself, that of the earlier one still is.
    pub fn after(self, open: Option<Self>) -> Self {
        let open = match open {
            Some(open) if open.is_unknown() && !self.is_unknown() => open,
            _ => return self,
        };
        // Its own words begin as those of the whole do.
        let reason = if let Self::Lost(reason) = open { reason } else { open.to_string() };
        Self::Lost(format!("{reason}; tried again: {self}"))
    }

    /// One word for counts and reports.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Failed(Failure::Invalid(_)) => "invalid",
            Self::Failed(Failure::BadContext(_)) => "bad_context",
            Self::Failed(Failure::Exists) => "exists",
            Self::Failed(Failure::Unavailable { .. }) => "unavailable",
            Self::Failed(Failure::Overloaded(_)) => "overloaded",
            Self::Failed(Failure::ObjectTooLarge(_)) => OBJECT_TOO_LARGE,
            Self::Failed(Failure::NotServing(_)) => "not_serving",
            Self::Failed(Failure::ClockSkew(_)) => "clock_skew",
            Self::Failed(Failure::NoRing) => "no_ring",
            Self::Failed(Failure::DeclaredLost { .. }) => "declared_lost",
            Self::Failed(Failure::Unknown { .. }) => "unknown",
            Self::Unreachable(_) => "unreachable",
            Self::NoAnswer(_) => "no_answer",
            Self::Protocol(_) => "protocol",
            Self::Lost(_) => "lost",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_that_say_so_leave_the_outcome_open() {
        let (acknowledged, required) = (1, 2);
        let text = || "why".to_owned();
        let cases = [
            (RequestError::Failed(Failure::Invalid(text())), false),
            (RequestError::Failed(Failure::BadContext(text())), false),
            (RequestError::Failed(Failure::Exists), false),
            (RequestError::Failed(Failure::Unavailable { acknowledged, required }), false),
            (RequestError::Failed(Failure::Overloaded(text())), false),
            (RequestError::Failed(Failure::ObjectTooLarge(text())), false),
            (RequestError::Failed(Failure::NotServing(text())), false),
            (RequestError::Failed(Failure::ClockSkew(text())), false),
            (RequestError::Failed(Failure::NoRing), false),
            (RequestError::Failed(Failure::Unknown { acknowledged, required }), true),
            (RequestError::Unreachable(text()), false),
            (RequestError::NoAnswer(text()), false),
            (RequestError::Protocol(text()), false),
            (RequestError::Lost(text()), true),
        ];
        for (error, open) in cases {
            assert_eq!(error.is_unknown(), open, "{error:?}");
        }
    }
}
