//! Coordinating one request: a machine for each put and each get (paper 4.5, 5).
//!
//! A machine lives for one request over one immutable ring. **Answered is not settled**: the client hears as soon as the quorum
//! is there, and the machine lives on until every replica has answered or its time is up, so that fallbacks get their hints and
//! stale replicas their repair.

pub mod get;
pub mod put;

/// What a machine tells of itself after an input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// It has more to do.
    Running,
    /// Every replica has answered or is given up: the machine can go.
    Settled,
}
