//! A change of members as something that can be begun, paused, gone on with and given up.
//!
//! The ring itself is the journal ([`crate::ring::Operation`]), so whoever writes rings can do any of these, and nobody has to remember
//! anything:
//!
//! ```text
//!            begin                        pause                       everything is where it belongs
//! no operation ---> wanted = what is asked <----> paused   wanted = ... ------------------------------> no operation
//!                        |                 resume   |          ^
//!                        '--------- abort ----------'----------'  wanted = before
//! ```
//!
//! [`begun`], [`paused`] and [`aborted`] change no set and no stage: what a reader or a writer does by such a ring, it does by the ring
//! before. Like the word that a member is lost ([`crate::rebalance::loss`]) they may therefore follow a ring that some members have
//! not adopted yet. Everything that does change a set is proposed by [`next`], on the evidence of all.
//!
//! While an operation is paused nothing of it begins and no stage is passed; what is under way may arrive, and nothing is undone.
//! An abort asks for the members that were there before: moves under way are taken back ([`crate::rebalance::revision`]), and what
//! was moved already moves again, in batches like everything else. It can be paused, and gone on with, as well.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::id::{Epoch, NodeId};
use crate::rebalance::batches::{Limits, left};
use crate::rebalance::{Members, Next, PlanError, View, next_within};
use crate::ring::{Operation, Ring};

/// Why an operation was not begun, paused, gone on with or given up.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum OperationError {
    /// One at a time.
    #[error("operation {0} is under way; let it come to its end, or abort it")]
    UnderWay(Epoch),
    /// There is none.
    #[error("no operation is under way")]
    None,
    /// The ring has these members already.
    #[error("the ring has exactly these members already; there is nothing to do")]
    AsAsked,
    /// A node that was declared lost is asked for.
    #[error("{0} was declared lost once and never becomes a member again; wipe its data directory and it comes as a new node")]
    Lost(NodeId),
    /// There is no ring of these members.
    #[error(transparent)]
    NoPlan(#[from] PlanError),
}

/// The successor of `ring` that begins the change to `wanted`; `ring` itself if that is under way.
pub fn begun(ring: &Ring, wanted: &Members) -> Result<Ring, OperationError> {
    match &ring.operation {
        Some(operation) if operation.wanted == *wanted && !operation.aborted => return Ok(ring.clone()),
        Some(operation) => return Err(OperationError::UnderWay(operation.since)),
        None => {}
    }
    if let Some(lost) = wanted.keys().find(|node| ring.is_lost(**node)) {
        return Err(OperationError::Lost(*lost));
    }
    let before: Members = staying(ring);
    if before == *wanted && before.len() == ring.members.len() && ring.moving().next().is_none() {
        return Err(OperationError::AsAsked);
    }
    let since = ring.epoch.next();
    let copies = left(ring, wanted)?.copies as u64;
    let operation = Operation { since, before, wanted: wanted.clone(), copies, paused: false, aborted: false };
    Ok(ring.successor(|next| next.operation = Some(operation)))
}

/// The successor of `ring` whose operation waits, or goes on; `ring` itself if it does.
pub fn paused(ring: &Ring, paused: bool) -> Result<Ring, OperationError> {
    let operation = ring.operation.as_ref().ok_or(OperationError::None)?;
    if operation.paused == paused {
        return Ok(ring.clone());
    }
    Ok(ring.successor(|next| next.operation = Some(Operation { paused, ..operation.clone() })))
}

/// The successor of `ring` whose operation is given up: what was before is wanted again, but for members that are lost. `ring` itself
/// if it was given up. One that is paused goes on, since the way back is what is asked for now.
pub fn aborted(ring: &Ring) -> Result<Ring, OperationError> {
    let operation = ring.operation.as_ref().ok_or(OperationError::None)?;
    if operation.aborted {
        return Ok(ring.clone());
    }
    let mut wanted = operation.before.clone();
    wanted.retain(|node, _| !ring.is_lost(*node));
    let copies = left(ring, &wanted)?.copies as u64;
    let operation = Operation { wanted, copies, paused: false, aborted: true, ..operation.clone() };
    Ok(ring.successor(|next| next.operation = Some(operation)))
}

/// The successor of `ring` whose operation wants these members in place of those it wanted: a loss in its middle takes a member away,
/// and perhaps puts another in its place. `ring` itself without an operation, or if it does.
pub fn amended(ring: &Ring, wanted: &Members) -> Ring {
    match &ring.operation {
        Some(operation) if operation.wanted != *wanted => {
            ring.successor(|next| next.operation = Some(Operation { wanted: wanted.clone(), ..operation.clone() }))
        }
        Some(_) | None => ring.clone(),
    }
}

/// The members that a ring is on its way to: those its operation wants, else those it has and that do not leave.
pub fn wanted(ring: &Ring) -> Members {
    let mut wanted = ring.operation.as_ref().map_or_else(|| staying(ring), |operation| operation.wanted.clone());
    wanted.retain(|node, _| !ring.is_lost(*node));
    wanted
}

/// What comes next on the way to what the ring's operation wants, the end of the operation included; `None` while it is paused.
pub fn next(ring: &Ring, views: &BTreeMap<NodeId, View>, limits: &Limits) -> Result<Option<Next>, PlanError> {
    let is_paused = ring.operation.as_ref().is_some_and(|operation| operation.paused);
    Ok(match next_within(ring, &wanted(ring), views, limits)? {
        // A ring that is recorded has to reach everybody all the same.
        next @ Next::AwaitEpoch(_) => Some(next),
        _ if is_paused => None,
        Next::Settled if ring.operation.is_some() => Some(Next::Propose(ring.successor(|next| next.operation = None))),
        next => Some(next),
    })
}

fn staying(ring: &Ring) -> Members {
    let stays = |(node, member): &(&NodeId, &crate::ring::Member)| member.weight > 0 && !ring.is_lost(**node);
    ring.members.iter().filter(stays).map(|(node, member)| (*node, member.clone())).collect()
}

#[cfg(test)]
mod tests;
