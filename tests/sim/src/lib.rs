//! A deterministic simulator of whole clusters: real nodes, simulated time, network and disks, and checkers of the promises.
//!
//! One seed is one history. It draws the [`options`] of a run; then a ring is made, [`workload`] and [`faults`] do their worst
//! for a while, peace comes, and everything must come to rest and be right: [`run`]. A failing run is replayed by its seed.
//!
//! | module | what it is |
//! |---|---|
//! | [`run`], [`options`] | one seed's history, and what is drawn for it |
//! | [`simulation`] | the world: hosts that run `dynamo_core::node::Node`, driven as its driver does |
//! | [`schedule`], [`dice`] | simulated time, and every random choice |
//! | [`disk`], `network` | storage that loses what was not synced; links that are cut, and messages that take their time |
//! | [`faults`], [`losses`] | what goes wrong, and disks that are gone for ever |
//! | [`ring_writer`], [`second_thoughts`] | the operator's part, and what is asked of it in the middle of a move |
//! | `ring_commands` | the same part, played by an administrator's commands |
//! | [`workload`], [`retries`], [`ledger`] | clients, what they send again, and what they know |
//! | [`witness`], [`checkers`], `ring_history` | what must hold of every state, every answer, every ring, and the end |
//! | [`violation`], [`trace`] | a promise that was broken, and what happened |
//! | [`totals`], [`sometimes`] | what was counted, and what must have happened |
//! | [`output`] | standard output, whose reader may go |
//! | [`scenario`] | a small language for directed tests |
//! | [`planning`], [`strategies`] | reports about rings, without a simulation |

pub mod checkers;
pub mod dice;
pub mod disk;
pub mod faults;
pub mod ledger;
pub mod losses;
mod network;
pub mod options;
pub mod output;
pub mod planning;
pub mod retries;
mod ring_commands;
mod ring_history;
pub mod ring_writer;
pub mod run;
pub mod scenario;
pub mod schedule;
pub mod second_thoughts;
pub mod simulation;
pub mod sometimes;
pub mod strategies;
pub mod totals;
pub mod trace;
pub mod violation;
pub mod witness;
pub mod workload;
