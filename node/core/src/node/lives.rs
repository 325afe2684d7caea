//! A node's lives: every start of a data directory is one, and it may be that this one is not the only one after the last.
//!
//! After a clean stop a node goes on under its former actors: its copies are whole. That holds for the directory that was stopped,
//! and not for a copy of it. A directory that was restored as a whole, or cloned, counts its starts and its dots from where the
//! copy was made, and would issue dots again that the original issued since; no file in it can tell. So before the former actors
//! are used, others are asked, by the gossip that they send to whoever links to them; of two lives of one generation each tells of the
//! one that it heard of first:
//!
//! ```text
//!                     more than half of the other members tell of this life,
//!  clean stop ──> undecided ───────────────────────────────────────> the former actors are kept
//!                     │  and none knows a life of this node that is no former one
//!                     ├─ a put is to be coordinated here before that ─> new actors: writes do not wait
//!                     ├─ it is stopped before that ───────────────────> new actors: it cannot vouch for the former ones
//!                     └─ one of them knows such a life ───────────────> new actors, and a later generation than that life's
//! any other stop ──────────────────────────────────────────────────> new actors
//! ```
//!
//! A life is named by its generation, which the directory counts, and by a number drawn at its start. One of this node's generation
//! or a later one, with another number, was not begun here; this one then calls itself later still. A life that is over says nothing
//! new. One that raises its own generation in turn goes on at the same time, under the same id: the one that counts as earlier stops.
//!
//! Whatever gossip says, a dot of an actor of this node that it has not issued ends that actor: it is found when a put's context
//! or the object itself knows one ([`Node::fresh_dot`]), or what is to be reaped does ([`Node::disown`]). What remains undetected: a
//! later life that only nodes knew which have been restarted or are away, until an object or a context shows one of its dots. New
//! actors are always safe and cost 30 bytes in each object that is written under them, which is why a clean stop is worth asking.

use std::collections::{BTreeMap, BTreeSet};

use crate::gossip::MemberState;
use crate::id::{NodeId, PartitionId};
use crate::node::Node;
use crate::random::Random;
use crate::storage::{Storage, StorageError};
use crate::version::{Actor, CausalContext, Dot, Object};

/// What distinguishes a life's random numbers from all others that its seed makes.
const STREAM: u64 = 0x6c69_7665_735f_6f66;
/// Other lives that are remembered: more than anybody copies a directory. Forgetting them takes longer to tell who goes on.
const OTHERS_MAX: usize = 64;

/// What this start knows of itself.
#[derive(Clone, Debug)]
pub(super) struct Life {
    /// The number of this life; never zero, which is what nodes say that know no such numbers.
    pub(super) number: u64,
    random: Random,
    /// The last stop was clean, and nothing is known yet of what came after it.
    undecided: bool,
    /// Members that have heard of this life, and not of another.
    confirmed_by: BTreeSet<NodeId>,
    /// Lives that were not begun here, each with the highest generation that it gave itself.
    others: BTreeMap<u64, u64>,
}

impl Life {
    /// A life that begins with this seed.
    pub(super) fn begin(seed: u64) -> Self {
        let mut random = Random::new(seed ^ STREAM);
        let number = random.next_u64().max(1);
        Self { number, random, undecided: false, confirmed_by: BTreeSet::new(), others: BTreeMap::new() }
    }

    /// The former actors may be kept, if others agree.
    pub(super) fn ask(&mut self) {
        self.undecided = true;
    }
}

impl<S: Storage> Node<S> {
    /// What a peer's gossip says of this node itself. An error if another process runs under its id, and this one has to stop.
    pub(super) fn hear_of_itself(&mut self, from: NodeId, members: &[(NodeId, MemberState)]) -> Result<(), StorageError> {
        let own = self.identity.node;
        let told = members.iter().find(|(node, _)| *node == own).map(|(_, state)| state);
        let Some(other) = told.filter(|state| self.gossip.is_another_life(state)) else {
            // Gossip that was composed before its sender heard of this life says nothing of others that it will hear of as soon.
            if told.is_some_and(|state| state.life == self.life.number) {
                self.confirm_life(from);
            }
            return Ok(());
        };
        if self.life.others.is_empty() {
            self.renew_actors()?;
        }
        if self.life.others.len() == OTHERS_MAX {
            self.life.others.pop_first();
        }
        let before = self.life.others.insert(other.life, other.generation);
        let goes_on = before.is_some_and(|before| before < other.generation);
        if goes_on && self.gossip.is_outranked_by(other) {
            return Err(StorageError(format!(
                "another process runs as node {own}, at {}: two copies of one data directory; this one stops, end the other and \
                 empty its directory, or this one's",
                other.peer_address
            )));
        }
        self.gossip.outlive(other.generation);
        Ok(())
    }

    fn confirm_life(&mut self, from: NodeId) {
        let Some(ring) = self.ring.as_ref().filter(|_| self.life.undecided) else { return };
        if ring.members.contains_key(&from) && from != self.identity.node {
            self.life.confirmed_by.insert(from);
        }
        let others = ring.members.keys().filter(|node| **node != self.identity.node).count();
        if self.life.confirmed_by.len() * 2 > others {
            self.life.undecided = false;
            self.counters.actors_kept += 1;
        }
    }

    /// A dot is needed, or this life ends: what is not confirmed by now is not waited for. A node without peers has nobody to ask.
    pub(super) fn decide_life(&mut self) -> Result<(), StorageError> {
        if !self.life.undecided {
            return Ok(());
        }
        let own = self.identity.node;
        let has_peers = self.ring.as_ref().is_some_and(|ring| ring.members.keys().any(|node| *node != own));
        if has_peers {
            return self.renew_actors();
        }
        self.life.undecided = false;
        self.counters.actors_kept += 1;
        Ok(())
    }

    /// From now on all dots of this node are by actors that nobody has heard of. They are on stable storage with the first of them.
    fn renew_actors(&mut self) -> Result<(), StorageError> {
        self.life.undecided = false;
        let salt = self.life.random.next_u64();
        self.salt_tenures(salt)?;
        self.counters.actors_renewed += 1;
        Ok(())
    }

    /// The next dot of this node's actor in `partition`, for a version of `object` by a client that has seen `seen`. If either knows
    /// it or a later one already, the actor has had another life, or the context was made up: then the dot is of a new actor. Those
    /// of other partitions go on: what a client makes up must not cost every object of this node an actor.
    pub(super) fn fresh_dot(
        &mut self,
        partition: PartitionId,
        object: &Object,
        seen: &CausalContext,
    ) -> Result<Dot, StorageError> {
        let counter = self.dots.next();
        let node = self.identity.node;
        let mut dot = Dot { actor: Actor { node, incarnation: self.tenure(partition)? }, counter };
        if object.has_seen(dot) || seen.covers(dot) {
            self.end_tenure(partition)?;
            dot.actor.incarnation = self.tenure(partition)?;
        }
        Ok(dot)
    }

    /// Ends this node's actor in `partition` if `seen`, which is or becomes what all replicas take for reaped, covers a dot that it has
    /// not issued: the next ones would be taken for reaped too. True if it was so.
    pub(super) fn disown(&mut self, partition: PartitionId, seen: &CausalContext) -> Result<bool, StorageError> {
        let Some(incarnation) = self.begun_tenure(partition)? else { return Ok(false) };
        let actor = Actor { node: self.identity.node, incarnation };
        let unissued = seen.covers(Dot { actor, counter: self.dots.next() });
        if unissued {
            self.end_tenure(partition)?;
        }
        Ok(unissued)
    }
}
