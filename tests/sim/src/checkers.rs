//! The promises, each with who checks it in every history. A delete that was acknowledged is a write like any other: its tombstone is
//! looked for by its dot, until it is reaped.
//!
//! | | promise | checked |
//! |---|---|---|
//! | I1 | no acknowledged write is lost | [`crate::ledger`], at the end, from what clients were told alone |
//! | I2 | nothing is invented | [`crate::ledger`], at each get |
//! | I3 | nothing superseded comes back | [`crate::ledger`], at the end |
//! | I4 | a dot names one write, ever | [`crate::witness`], at each write to any disk |
//! | I5 | siblings are concurrent, and no write is two | [`crate::ledger`], at each get; of a write that is sent once [`crate::witness`], at each write to any disk |
//! | I6 | states only grow | [`crate::witness`], at each write to any disk |
//! | I7 | replicas become equal, and stay | [`convergence`], and two idle rounds of anti-entropy in [`crate::run`] |
//! | I8 | N distinct replicas, spread over zones | as rings are adopted; [`convergence`] for what lies where |
//! | I9 | one ring an epoch, epochs only grow, what was told is kept, older requests are refused | as rings are adopted, as nodes start, as messages arrive |
//! | I10 | nothing is dropped before enough others have it; what was received is there | [`redundancy`] at each drop, [`transfer`] at each stage |
//! | I11 | a hint goes when its own node has it | [`redundancy`] at each removal, [`convergence`] at the end |
//! | I12 | quorums are distinct nodes and stable storage; R + W > N where it is asked for | [`evidence`] at each answer, on the disks; [`crate::ledger`] at each get |
//! | I13 | failed means invisible | [`crate::ledger`], at each get and at the end |
//! | I14 | a node whose storage failed goes on with nothing | in [`crate::simulation`], at each input and commit |
//! | I15 | wall clocks change nothing | `wall_clocks_change_nothing` in `tests/laws.rs`: equal histories under other clocks |
//! | I16 | bounds are kept | [`bounds`], as the writer of rings looks |
//! | I17 | whoever is up answers; everything comes to rest, and then answers | [`crate::workload`] as clients give up; [`quiet`], gets of every key and writes through every host in [`crate::run`] |
//! | I18 | a create is refused for a value that somebody wrote, and is not made where its coordinator knows one | [`creates`], at each first sight of one and at the end; in peace at every host in [`crate::run`] |
//!
//! Of I16, what is left to tests of their own: how many siblings, actors and bytes a put may leave in an object (`tests/siblings.rs` and
//! `tests/node/actors.rs`), since joins may go beyond and no disk tells which of the two it was; and the bytes that gets and puts under way
//! hold (`bound_tests` of `dynamo_core::node`), which a node shows to nobody.

pub mod bounds;
pub mod convergence;
pub mod creates;
pub mod evidence;
pub mod last_writer_wins;
#[cfg(test)]
mod planted;
pub mod quiet;
pub mod redundancy;
pub mod transfer;
pub mod trees;
