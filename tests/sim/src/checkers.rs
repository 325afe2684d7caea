//! The promises, checked on the whole world once it is quiet, and on each answer as it goes out.
//!
//! What follows from what clients were told is in [`crate::ledger`], what follows from every state that was ever stored in
//! [`crate::witness`], and rings are checked as they are adopted.

pub mod convergence;
pub mod evidence;
pub mod last_writer_wins;
pub mod quiet;
pub mod redundancy;
