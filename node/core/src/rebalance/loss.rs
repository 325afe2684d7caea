//! Members whose disks are gone for ever: declared, fenced, replaced (paper 4.8.1).
//!
//! **Who says so.** Only a word: an administrator's, or the operator's on proof that the volume behind the id exists no more.
//! Never silence: a member that does not answer may come back tomorrow with the only copy of something. [`declare`] refuses a
//! member that answers, for that word would be wrong.
//!
//! **What the word is.** A ring that lists the id in [`Ring::lost`], for ever. By that ring every node is fenced against the id: its
//! peers take nothing of it but the question for the newer ring, and if it is alive after all it adopts that ring and stops serving.
//! The declaring ring changes no set and no stage. It may therefore follow a ring that some members have not adopted yet, but one
//! of them must hold that ring, for a node takes from a writer only the successor of what it holds.
//!
//! **What was promised.** Fewer than W disks destroyed at once lose no acknowledged write. With k < W members of a set lost, every
//! acknowledged write is on at least W - k of the others, but nobody knows on which. So:
//!
//! - Reads ask all that are left. With R of the N - k left, R + W > N still means that a read meets every write.
//! - The replacement is filled from *all* that are left, not from one: it then holds whatever the lost one had acknowledged together
//!   with anybody. Until it has everything from each, it is written to and not read from. A new replica in the place of one that
//!   is alive still needs that one only: the k replacements hold every write, which makes up for the k holders that are gone.
//! - The lost member leaves a set only when the move off it is complete. Till then it counts as unreachable, so puts keep a copy at
//!   a stand-in, which becomes an owner's when the sets change (hints are retargeted).
//! - What others keep as hints for any member of such a set becomes copies too, by every ring until the lost member leaves it: the
//!   lost one may have acknowledged a write together with a stand-in alone, and a hint would reach one replica and end there.
//! - Copies that the lost member kept for others (hints, what it had not handed back) are among the k copies that are gone. Nobody is
//!   filled in a stand-in's place: anti-entropy brings what it had acknowledged with one replica to the others. So it does where a
//!   replica of one set of a move had stood in within the other ([`crate::quorum`]), with the lost one alone.
//!
//! The evidence of every *other* member is needed as before. A drain receipt of the lost one is not: it cannot give one.
//!
//! **Moves under way.** A lost member in the old set only: the move goes on, filled from those that are left. One in the new set: it
//! is taken back, one stage with each ring, since a reader one ring behind must still find what a writer one ring ahead wrote:
//!
//! ```text
//!   WriteBothReadNew --the new set lost more than the old--> WriteBothReadOld --the new set has lost any--> Steady(old)
//!          | else: both are complete, it goes on; then the lost one is replaced
//!          '--> Steady(new)
//! ```
//!
//! **More than was promised.** With W or more members of one set lost, writes that they alone had acknowledged are gone.
//! [`consequences`] names the partitions, and whoever declares the loss has to accept that; then it goes on with what is left. Where
//! nobody is left the new replicas begin empty.
//!
//! **Buckets with an N of their own** have fewer copies, and all of this holds of each layer of them
//! ([`crate::ring::bucket_replication`]): an n of 1 has no other copy to be filled from, so every loss is more than was promised there.
//! Where one set of a move is to be kept for all layers, the layer with the fewest copies has the first word.
//!
//! A wiped machine comes back with another id (the id was on the disk), stands by, and joins like any new member.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::id::{NodeId, PartitionId};
use crate::rebalance::View;
use crate::ring::{LOST_MAX, Lost, Move, Placement, Ring, Stage};

/// Why a loss was not declared.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum LossError {
    /// The ring does not list it.
    #[error("{0} is no member of the ring; nothing has to be replaced")]
    NoMember(NodeId),
    /// It is not lost.
    #[error(
        "{0} answers; a member that answers is taken out by `dynamoctl ring commit --remove`, or by a lower spec.replicas, and is never declared lost"
    )]
    Answers(NodeId),
    /// Nobody would take the declaring ring yet.
    #[error("no other member holds ring epoch {0} yet; try again when one does")]
    NobodyHolds(crate::id::Epoch),
}

/// What the loss of some members means for the data.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Consequences {
    /// Partitions that lose a copy and are filled again from what is left.
    pub affected: Vec<PartitionId>,
    /// Partitions of which W or more copies are lost at once: writes that those alone had acknowledged are gone. Their replicas
    /// left are fewer than N - W + 1.
    pub at_risk: Vec<PartitionId>,
    /// Those of which no copy is left at all.
    pub gone: Vec<PartitionId>,
}

/// What it means to lose `nodes`, and those that `ring` has lost already and not replaced yet, under write quorum `w`, or n where a
/// bucket's n is below that. Partitions of all layers are named.
pub fn consequences(ring: &Ring, nodes: &[NodeId], w: usize) -> Consequences {
    let is_lost = |node: &NodeId| nodes.contains(node) || ring.is_lost(*node);
    let mut consequences = Consequences::default();
    for (partition, placement) in ring.partitions() {
        if !placement.write_sets().iter().any(|set| set.iter().any(|node| nodes.contains(node))) {
            continue;
        }
        consequences.affected.push(partition);
        let kept = kept_set(ring, partition, is_lost);
        let lost = kept.iter().filter(|node| is_lost(node)).count();
        if lost >= w.min(kept.len()) {
            consequences.at_risk.push(partition);
        }
        if lost == kept.len() {
            consequences.gone.push(partition);
        }
    }
    consequences
}

/// The set whose copies go on when these are lost. A new set is complete once it is read from; the old one is complete as long as
/// both are written.
fn kept_set(ring: &Ring, partition: PartitionId, is_lost: impl Fn(&NodeId) -> bool) -> &[NodeId] {
    let placement = ring.placement(partition);
    let whole = &ring.placements[ring.list_of(partition)];
    match placement.moving {
        Some(moving) if moving.stage == Stage::WriteBothReadNew && !old_is_better(whole, ring, is_lost) => moving.target,
        _ => placement.replicas,
    }
}

/// Whether the old set of a move lost fewer than the new one: in the layer with the fewest copies in which they differ.
fn old_is_better(placement: &Placement, ring: &Ring, is_lost: impl Fn(&NodeId) -> bool) -> bool {
    let Some(moving) = &placement.moving else { return false };
    let lost = |set: &[NodeId], n: u8| set.iter().take(usize::from(n)).filter(|node| is_lost(node)).count();
    let mut layers: Vec<u8> = ring.layers().collect();
    layers.sort_unstable();
    let differences = layers.into_iter().map(|n| (lost(&moving.target, n), lost(&placement.replicas, n)));
    differences.into_iter().find(|(new, old)| new != old).is_some_and(|(new, old)| new > old)
}

/// The successor of `ring` that declares `nodes` lost; `ring` itself if they were. `views` are the fresh answers, as for
/// [`crate::rebalance::next`].
pub fn declare(ring: &Ring, nodes: &[NodeId], views: &BTreeMap<NodeId, View>) -> Result<Ring, LossError> {
    let new: BTreeSet<NodeId> = nodes.iter().filter(|node| !ring.is_lost(**node)).copied().collect();
    if let Some(node) = new.iter().find(|node| !ring.members.contains_key(node)) {
        return Err(LossError::NoMember(*node));
    }
    if let Some(node) = new.iter().find(|node| views.contains_key(node)) {
        return Err(LossError::Answers(*node));
    }
    if new.is_empty() {
        return Ok(ring.clone());
    }
    let hash = ring.hash();
    let holds = |node: &NodeId| views.get(node).is_some_and(|view| view.epoch == ring.epoch && view.ring_hash == hash);
    if !ring.survivors().any(|node| !new.contains(&node) && holds(&node)) {
        return Err(LossError::NobodyHolds(ring.epoch));
    }
    Ok(ring.successor(|next| {
        for node in new {
            next.lost.insert(node, ring.epoch.next());
            next.members.entry(node).and_modify(|member| member.weight = 0);
        }
        forget_the_longest_lost(&mut next.lost, &ring.members);
    }))
}

/// Keeps the lost within their bound.
fn forget_the_longest_lost(lost: &mut Lost, members: &crate::rebalance::Members) {
    while lost.len() > LOST_MAX {
        let out = lost.iter().filter(|(node, _)| !members.contains_key(node));
        let Some((longest, _)) = out.min_by_key(|(_, since)| **since) else { return };
        let longest = *longest;
        lost.remove(&longest);
    }
}

/// The successor of `ring` in which moves to lost members go one stage back; `None` if there are none. The caller has made sure
/// that every other member holds `ring`.
pub(super) fn taken_back(ring: &Ring) -> Option<Ring> {
    if !ring.placements.iter().any(|placement| goes_back(placement, ring)) {
        return None;
    }
    Some(ring.successor(|next| {
        for placement in next.placements.iter_mut().filter(|placement| goes_back(placement, ring)) {
            placement.moving = match placement.moving.take() {
                Some(moving @ Move { stage: Stage::WriteBothReadNew, .. }) => {
                    Some(Move { stage: Stage::WriteBothReadOld, ..moving })
                }
                Some(Move { stage: Stage::WriteBothReadOld, .. }) | None => None,
            };
        }
    }))
}

fn goes_back(placement: &Placement, ring: &Ring) -> bool {
    let lost = |set: &[NodeId]| set.iter().filter(|node| ring.is_lost(**node)).count();
    match &placement.moving {
        // The new set is not complete, and will not be without its lost member.
        Some(Move { stage: Stage::WriteBothReadOld, target, .. }) => lost(target) > 0,
        // Both sets hold everything: the one that lost fewer is the better one to stay with.
        Some(Move { stage: Stage::WriteBothReadNew, .. }) => old_is_better(placement, ring, |node| ring.is_lost(*node)),
        None => false,
    }
}

#[cfg(test)]
mod tests;
