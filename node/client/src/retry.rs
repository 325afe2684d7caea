//! Whether a request may be tried on another node, and what its caller is told after several tries: the one place that decides it.
//!
//! | what came of a try | a get | a write | a write with a request id |
//! |---|---|---|---|
//! | it was not sent, or to a node of another cluster | next node | next node | next node |
//! | the node starts or stops, has no ring, no room or a wrong clock, or cannot reach enough replicas: nothing was written | next node | next node | next node |
//! | it was sent and not answered, or the outcome is unknown | next node | told | next node |
//! | any other failure: the request is wrong, the key exists, a bound was hit | told | told | told |
//! | nobody is left, and none said more than that it does not serve | once more | once more | once more |
//!
//! A write with a request id is the same write on whatever node it is tried, so it can do no harm there. Once one of its tries may
//! have written, a later one that did not says nothing: unless one of them is acknowledged, the outcome is unknown.

use std::time::Duration;

use dynamo_core::id::RequestKey;
use dynamo_core::request::{Failure, Operation, Request};
use dynamo_proto::v1::session_response::Response;

use crate::error::RequestError;
use crate::silence::OnSilence;

/// A request id for one write, from the operating system's randomness.
pub fn fresh_request_id() -> RequestKey {
    RequestKey(rand::random())
}

/// What trying a request again does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// It reads again.
    Get,
    /// It may write a second time.
    Write,
    /// It is the same write.
    RepeatableWrite,
}

/// What one node made of a request.
#[derive(Debug)]
pub(crate) enum Attempt {
    Answered(Response),
    /// The caller must hear it.
    Final(RequestError),
    /// Another node may do better, and no harm.
    Elsewhere(RequestError),
}

impl Kind {
    /// What `request` is.
    pub(crate) fn of(request: &Request) -> Self {
        match (&request.operation, request.request_key) {
            (Operation::Get, _) => Self::Get,
            (_, Some(_)) => Self::RepeatableWrite,
            (_, None) => Self::Write,
        }
    }

    /// What is done if the node says nothing, with or without `others` that could take the request.
    pub(crate) fn on_silence(self, others: bool) -> OnSilence {
        match self {
            _ if !others => OnSilence::Wait,
            Self::Write => OnSilence::MoveUnsent,
            Self::Get | Self::RepeatableWrite => OnSilence::Move,
        }
    }

    /// How long one node is waited for. What may be repeated loses half its time to a node that hangs, and not all of it.
    pub(crate) fn patience(self, remaining: Duration) -> Duration {
        if self == Self::Write { remaining } else { remaining / 2 }
    }

    /// What follows when the request was sent and no answer will come.
    pub(crate) fn lost(self, reason: String) -> Attempt {
        match self {
            Self::Get => Attempt::Elsewhere(RequestError::NoAnswer(reason)),
            Self::Write => Attempt::Final(RequestError::Lost(reason)),
            Self::RepeatableWrite => Attempt::Elsewhere(RequestError::Lost(reason)),
        }
    }

    /// What follows from a failure that a node told.
    pub(crate) fn judge(self, failure: Failure) -> Attempt {
        match failure {
            // The node may start or stop, be cut off from others, stand by without a ring, have a wrong clock or no room, or be
            // declared lost, while its neighbours are well.
            Failure::Unavailable { .. } => Attempt::Elsewhere(RequestError::Failed(failure)),
            _ if failure.is_of_its_node() => Attempt::Elsewhere(RequestError::Failed(failure)),
            Failure::Unknown { .. } if self == Self::Get => Attempt::Elsewhere(RequestError::NoAnswer(failure.to_string())),
            Failure::Unknown { .. } if self == Self::RepeatableWrite => Attempt::Elsewhere(RequestError::Failed(failure)),
            _ => Attempt::Final(RequestError::Failed(failure)),
        }
    }
}

/// What the tries of one request have come to so far.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    last: Option<RequestError>,
    /// What the first said that may have written.
    open: Option<RequestError>,
    open_count: u32,
    went_round: bool,
}

impl Tries {
    /// Whether those that were tried may be tried once more, when nobody else is left. One that may have written goes round as often
    /// as there are tries. What nobody heard, or none for a reason of its own, goes round once: what nodes said of the cluster or
    /// the request is its caller's to hear.
    pub(crate) fn may_go_round(&mut self) -> bool {
        let undecided = match &self.last {
            Some(RequestError::Unreachable(_) | RequestError::NoAnswer(_)) => true,
            Some(RequestError::Failed(failure)) => failure.is_of_its_node(),
            _ => false,
        };
        let first = !std::mem::replace(&mut self.went_round, true);
        self.open.is_some() || (undecided && first)
    }

    /// How many of them may have written.
    pub(crate) fn open_count(&self) -> u32 {
        self.open_count
    }

    /// One more that failed.
    pub(crate) fn failed(&mut self, error: RequestError) {
        if error.is_unknown() {
            self.open_count += 1;
            self.open.get_or_insert_with(|| error.clone());
        }
        // What a node said is worth more to the caller than that another could not be reached.
        if self.last.is_none() || !matches!(error, RequestError::Unreachable(_)) {
            self.last = Some(error);
        }
    }

    /// What the caller is told at the end.
    pub(crate) fn told(self) -> RequestError {
        let last = self.last.unwrap_or_else(|| RequestError::Unreachable("no node is known".to_owned()));
        last.after(self.open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNKNOWN: Failure = Failure::Unknown { acknowledged: 1, required: 2 };
    const UNAVAILABLE: Failure = Failure::Unavailable { acknowledged: 1, required: 2 };

    fn is_tried_elsewhere(attempt: Attempt) -> bool {
        matches!(attempt, Attempt::Elsewhere(_))
    }

    #[test]
    fn only_what_wrote_nothing_or_can_do_no_harm_is_tried_elsewhere() {
        // (failure, a get, a write, a write with an id)
        let cases = [
            (UNAVAILABLE, true, true, true),
            (Failure::NoRing, true, true, true),
            (Failure::NotServing(String::new()), true, true, true),
            (UNKNOWN, true, false, true),
            (Failure::Overloaded(String::new()), false, false, false),
            (Failure::ObjectTooLarge(String::new()), false, false, false),
            (Failure::Exists, false, false, false),
            (Failure::BadContext(String::new()), false, false, false),
            (Failure::Invalid(String::new()), false, false, false),
        ];
        for (failure, get, write, repeatable) in cases {
            for (kind, elsewhere) in [(Kind::Get, get), (Kind::Write, write), (Kind::RepeatableWrite, repeatable)] {
                assert_eq!(is_tried_elsewhere(kind.judge(failure.clone())), elsewhere, "{failure:?}, {kind:?}");
            }
        }
        let lost = [Kind::Get, Kind::Write, Kind::RepeatableWrite].map(|kind| is_tried_elsewhere(kind.lost("lost".into())));
        assert_eq!(lost, [true, false, true]);
    }

    #[test]
    fn once_a_try_may_have_written_the_outcome_is_unknown_whatever_the_others_say() {
        let lost = || RequestError::Lost("the connection ended".into());
        let unreachable = || RequestError::Unreachable("refused".into());
        let failed = RequestError::Failed;
        let cases = [
            (vec![], "unreachable"),
            (vec![unreachable()], "unreachable"),
            (vec![RequestError::NoAnswer("silent".into())], "no_answer"),
            (vec![failed(Failure::NotServing(String::new())), unreachable()], "not_serving"),
            (vec![unreachable(), failed(UNAVAILABLE)], "unavailable"),
            (vec![failed(UNAVAILABLE), unreachable()], "unavailable"),
            (vec![lost(), failed(UNAVAILABLE)], "lost"),
            (vec![lost(), failed(Failure::Exists)], "lost"),
            (vec![lost(), unreachable()], "lost"),
            (vec![lost(), failed(UNKNOWN)], "unknown"),
        ];
        for (errors, kind) in cases {
            let mut tries = Tries::default();
            errors.iter().cloned().for_each(|error| tries.failed(error));
            let open = errors.iter().filter(|error| error.is_unknown()).count();
            assert_eq!(tries.open_count() as usize, open, "{errors:?}");
            let undecided = matches!(kind, "unreachable" | "no_answer" | "not_serving") && !errors.is_empty();
            assert_eq!(tries.may_go_round(), open > 0 || undecided, "{errors:?}");
            assert_eq!(tries.may_go_round(), open > 0, "{errors:?}");
            assert_eq!(tries.told().kind(), kind, "{errors:?}");
        }
        let mut tries = Tries::default();
        [lost(), failed(Failure::Exists)].into_iter().for_each(|error| tries.failed(error));
        let told = tries.told().to_string();
        assert!(
            told.starts_with("outcome unknown, read before you retry: the connection ended; tried again: the key exists"),
            "{told}"
        );
    }
}
