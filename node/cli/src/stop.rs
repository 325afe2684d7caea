//! Why the program ends before it is done, as an exit code and a sentence.

use std::process::ExitCode;

use dynamo_client::{AdminError, RequestError};
use thiserror::Error;

use crate::output::tell;

/// What programs learn from the exit code, for the help.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  a check or a request failed, or the key does not exist
  2  what was asked for makes no sense
  3  a write may or may not have happened: read before it is given again, or give it again with its --request-id

Of a key that does not exist `get -o json` prints a document without siblings; where the request failed it prints none.";

/// Why there is nothing more to do.
#[derive(Debug, Error)]
pub enum Stop {
    /// A check or a request failed (1).
    #[error("{0}")]
    Failed(String),
    /// What was asked for makes no sense (2).
    #[error("{0}")]
    Usage(String),
    /// A write may or may not have happened (3).
    #[error("{0}")]
    UnknownOutcome(String),
}

impl Stop {
    /// Says why, and gives the exit code.
    pub fn report(&self) -> ExitCode {
        tell(format_args!("dynamoctl: {self}"));
        ExitCode::from(self.code())
    }

    /// The same, said of something.
    pub fn of(self, what: &str) -> Self {
        match self {
            Stop::Failed(why) => Stop::Failed(format!("{what}: {why}")),
            Stop::Usage(why) => Stop::Usage(format!("{what}: {why}")),
            Stop::UnknownOutcome(why) => Stop::UnknownOutcome(format!("{what}: {why}")),
        }
    }

    fn code(&self) -> u8 {
        match self {
            Stop::Failed(_) => 1,
            Stop::Usage(_) => 2,
            Stop::UnknownOutcome(_) => 3,
        }
    }
}

impl From<RequestError> for Stop {
    fn from(error: RequestError) -> Self {
        match error.to_string() {
            told if error.is_unknown() => Stop::UnknownOutcome(told),
            told if error.is_invalid() => Stop::Usage(told),
            told => Stop::Failed(told),
        }
    }
}

impl From<AdminError> for Stop {
    fn from(error: AdminError) -> Self {
        match error {
            AdminError::Address { .. } => Stop::Usage(error.to_string()),
            _ => Stop::Failed(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_core::request::Failure;

    #[test]
    fn an_unknown_outcome_and_a_request_that_makes_no_sense_have_exit_codes_of_their_own() {
        let unknown = RequestError::Lost("the connection was lost".to_owned());
        let why = || "why".to_owned();
        let codes = [
            (Stop::from(RequestError::Unreachable("nobody".to_owned())), 1),
            (Stop::from(AdminError::Address { address: "x".to_owned(), reason: "no port".to_owned() }), 2),
            (Stop::from(RequestError::Failed(Failure::Invalid(why()))), 2),
            (Stop::from(RequestError::Failed(Failure::BadContext(why()))), 2),
            (Stop::from(RequestError::Failed(Failure::Exists)), 1),
            (Stop::from(unknown), 3),
        ];
        for (stop, code) in codes {
            assert_eq!(stop.code(), code, "{stop}");
            assert!(EXIT_CODES.contains(&format!("\n  {code}  ")), "{stop}");
        }
    }
}
