//! Why the program ends before it is done, as an exit code and a sentence.

use std::process::ExitCode;

use dynamo_client::{AdminError, RequestError};
use thiserror::Error;

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
        eprintln!("dynamoctl: {self}");
        ExitCode::from(self.code())
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
        if error.is_unknown() { Stop::UnknownOutcome(error.to_string()) } else { Stop::Failed(error.to_string()) }
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

    #[test]
    fn an_unknown_outcome_has_an_exit_code_of_its_own() {
        let unknown = RequestError::Lost("the connection was lost".to_owned());
        let codes = [
            (Stop::from(RequestError::Unreachable("nobody".to_owned())), 1),
            (Stop::from(AdminError::Address { address: "x".to_owned(), reason: "no port".to_owned() }), 2),
            (Stop::from(unknown), 3),
        ];
        for (stop, code) in codes {
            assert_eq!(stop.code(), code, "{stop}");
        }
    }
}
