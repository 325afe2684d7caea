//! Chaos: real processes under a seeded schedule of faults, three workloads, and a checker of each.
//!
//! ```text
//! sandbox ── namespaces of our own ──> run: round after round
//!                                        ├─ schedule: which fault, when, for how long (from the seed)
//!                                        ├─ nemesis:  makes them and ends them, and knows which ends of a process are right
//!                                        ├─ clients:  read and write all the time: dynamoctl's; those with wishes of
//!                                        │            their own; those of a bucket in which the last writer wins
//!                                        └─ heal, settle, judge: equal replicas, idle anti-entropy, no write lost,
//!                                           resurrected or invented
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`sandbox`] | network, mount and process namespaces around the whole program: nothing outlives it, nothing outside is touched |
//! | [`network`] | a namespace for each node, cuts and losses between them |
//! | [`control`] | what the library in `preload/` is told: failing and slow fsyncs, another wall clock |
//! | [`schedule`] | the faults of a round, as a function of the seed |
//! | [`nemesis`] | making and ending them |
//! | [`errand`] | an administrator's command that is given until it succeeds |
//! | [`membership`] | a node that joins and leaves, and `dynamoctl ring commit` |
//! | [`replacement`] | a disk that is gone for ever, and `dynamoctl ring replace` |
//! | [`wishes`] | clients that ask for other quorums than the bucket, on streams and as calls, and what they must get |
//! | [`sessions`], [`stamps`] | clients of a bucket in which the last writer wins, and what must be true of its keys |
//! | [`clocks`] | when whose wall clock was wrong |
//! | [`run`] | the rounds and the verdict |

pub mod clocks;
pub mod control;
pub mod errand;
pub mod membership;
pub mod nemesis;
pub mod network;
pub mod replacement;
pub mod run;
pub mod sandbox;
pub mod schedule;
pub mod sessions;
pub mod stamps;
pub mod wishes;

use std::fmt;

/// Stands in the chain of an error that says nothing about the nodes: a tool, a file or a program of the harness failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HarnessFailed;

impl fmt::Display for HarnessFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the harness failed")
    }
}
