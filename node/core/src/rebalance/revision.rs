//! Other members are asked for while partitions move: what still serves goes on, the rest is taken back.
//!
//! Finishing a plan that nobody wants any more moves data twice. So when the members change, the ring is planned anew in two ways:
//! once with every move that can still be of use counted as moved, once with every move counted as not begun. The plan that has
//! less left to move is followed (the first, if they are equal): growing further goes on from what is under way, and a shrink that
//! is taken back gives up no copy. Moves that do not bring it nearer are taken back, one stage with each ring:
//!
//! ```text
//! WriteBothReadNew --> WriteBothReadOld --> Steady(old), or WriteBothReadOld to what the plan has instead
//! ```
//!
//! The ring gets the new members with its last step back. Until then they differ from what is asked, which is how a writer that
//! knows nothing but the ring finds that it is on its way back; from then on the ring follows the new plan, and goes forward.
//!
//! **Why nothing is lost on the way back.** While two sets are written, a put is acknowledged when W of the old set *and* W of the
//! new one have it, or who stands in for them: such a copy or hint goes home whatever becomes of the move. So the old set never stops being complete: R of its members meet every acknowledged write, whichever set was
//! read from meanwhile. What is needed beyond that is that no reader and no writer miss each other where one is a ring behind: the
//! members of a ring hold at least the ring before (each stage waits for all), and replicas answer requests of their own epoch
//! only. So a reader by one ring has to find what a writer by the next acknowledged: its set has to be written by both.
//!
//! - *From `WriteBothReadOld`* to `Steady(old)`: reads ask the old set before and after, and both rings write it.
//! - *From `WriteBothReadNew`* straight to `Steady(old)` a reader one ring behind would ask the new set, to which the writers of the
//!   next ring write no more. So reads go back first, under a ring that writes both, and then the writes: two rings.
//! - *To another new set* in one ring: reads ask the old set in both. The new replicas receive everything anew, as for any move: it
//!   has a new epoch that began it.
//!
//! *What was read from the new set meanwhile* was acknowledged, and then the old set has it; or it was not yet, and then a copy of it
//! lies with a new replica. That copy is no replica's now, so it is compared with the old set's and handed to it before it is dropped,
//! as any copy is that the ring gives to others; and the hints for the new replicas are handed on with it. What a reader has seen and
//! builds upon reaches the old set with its next put besides, which carries all it read.
//!
//! **What is not taken back:** a move of which an old replica was declared lost. What its new replicas have received may be on few
//! disks by now, and a set that is complete is not given up for one that has lost a copy.

use crate::id::NodeId;
use crate::rebalance::batches::{self, Limits};
use crate::rebalance::{Members, PlanError, order};
use crate::ring::{Move, Placement, Ring, Stage};

/// What becomes of one partition's move.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    GoesOn,
    GoesBack,
}

/// The successor of `ring`, of which partitions move for other members than `members`: the first step on the way to their plan.
pub(super) fn revised(ring: &Ring, members: &Members, limits: &Limits) -> Result<Ring, PlanError> {
    let target = plan(ring, members)?;
    let of = |(placement, target): (&Placement, &Vec<NodeId>)| fate(placement, target, ring, members).0;
    let fates: Vec<Fate> = ring.placements.iter().zip(&target).map(of).collect();
    let reads_new = |placement: &Placement| matches!(&placement.moving, Some(moving) if moving.stage == Stage::WriteBothReadNew);
    if ring.placements.iter().zip(&fates).any(|(placement, fate)| *fate == Fate::GoesBack && reads_new(placement)) {
        return Ok(ring.successor(|next| {
            for (placement, _) in next.placements.iter_mut().zip(&fates).filter(|(_, fate)| **fate == Fate::GoesBack) {
                if let Some(Move { stage, .. }) = &mut placement.moving {
                    *stage = Stage::WriteBothReadOld;
                }
            }
        }));
    }
    Ok(ring.successor(|next| {
        next.members.clone_from(members);
        for (placement, _) in next.placements.iter_mut().zip(&fates).filter(|(_, fate)| **fate == Fate::GoesBack) {
            placement.moving = None;
        }
        batches::reorder(next, &target);
        batches::start(next, &target, ring.epoch.next(), limits);
    }))
}

/// Whether the move of `placement` is taken back on the way to `target`.
pub(super) fn goes_back(placement: &Placement, target: &[NodeId], ring: &Ring, members: &Members) -> bool {
    fate(placement, target, ring, members).0 == Fate::GoesBack
}

/// A move goes on if the plan has less left to move behind it than behind the way back; with what is left then.
fn fate(placement: &Placement, target: &[NodeId], ring: &Ring, members: &Members) -> (Fate, usize) {
    let missing = |held: &[NodeId]| ring.layers().map(|n| missing(held, target, n)).sum();
    let back = missing(&placement.replicas);
    let Some(moving) = &placement.moving else { return (Fate::GoesOn, back) };
    let onward = missing(&moving.target);
    if is_bound(placement, ring) || (onward < back && may_hold(&moving.target, members)) {
        (Fate::GoesOn, onward)
    } else {
        (Fate::GoesBack, back)
    }
}

/// How many of the first `n` of `target` are not among the first `n` of `held`.
fn missing(held: &[NodeId], target: &[NodeId], n: u8) -> usize {
    let first = |list: &'_ [NodeId]| list.len().min(usize::from(n));
    target[..first(target)].iter().filter(|node| !held[..first(held)].contains(node)).count()
}

/// Whether the move has to come to its end whatever is asked for.
fn is_bound(placement: &Placement, ring: &Ring) -> bool {
    placement.replicas.iter().any(|node| ring.is_lost(*node))
}

fn may_hold(nodes: &[NodeId], members: &Members) -> bool {
    nodes.iter().all(|node| members.get(node).is_some_and(|member| member.weight > 0))
}

/// The plan for `members` that has less left to move.
pub(super) fn plan(ring: &Ring, members: &Members) -> Result<Vec<Vec<NodeId>>, PlanError> {
    let planned = |counts: &dyn Fn(&Move) -> bool| {
        let held = ring.placements.iter().map(|placement| match &placement.moving {
            Some(moving) if is_bound(placement, ring) || counts(moving) => moving.target.clone(),
            Some(_) | None => placement.replicas.clone(),
        });
        order::planned(&held.collect::<Vec<_>>(), members, ring)
    };
    let onward = planned(&|moving| may_hold(&moving.target, members))?;
    let back = planned(&|_| false)?;
    let left = |target: &[Vec<NodeId>]| -> usize {
        ring.placements.iter().zip(target).map(|(placement, target)| fate(placement, target, ring, members).1).sum()
    };
    Ok(if left(&back) < left(&onward) { back } else { onward })
}

#[cfg(test)]
mod tests;
