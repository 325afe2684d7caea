//! Reaping in a node: the rounds it leads, what it answers to others' rounds, and what it has adopted.
//!
//! The argument is in [`crate::reaping`]; here is what is asked of this node's requests, hints, copies and trees for it.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::REQUEST_TIMEOUTS_MAX;
use crate::id::{Epoch, NodeId, PartitionId};
use crate::message::{Message, NamedObject};
use crate::name::Name;
use crate::node::timer::Timer;
use crate::node::{Node, Output, Waiting};
use crate::reaping::graves::Graves;
use crate::reaping::{
    ACTORS_MAX, Input, NAME_BYTES_PER_ROUND, NAMES_PER_ROUND, Output as Wanted, Proof, Question, ROUNDS_MAX, Reaped, Round,
};
use crate::reconciliation;
use crate::ring::Ring;
use crate::storage::{Storage, StorageError};
use crate::time::{Instant, Now};
use crate::version::{CausalContext, Digest, Object};

/// Objects looked at between two ticks while the graves of a partition are not known.
const WALK_OBJECTS: usize = 1_024;
/// Their bytes, at most, of one scan.
const WALK_BYTES: usize = 4 << 20;

/// Names that went by a peer's word before this node has adopted what it rests on, which comes when the trees are equal: those beyond
/// go all the same, since the trees would never be. A message that is late for one of those is found at the next comparison.
const TOLD_MAX: usize = 16_384;

/// A round that this node leads.
#[derive(Clone, Debug)]
struct Led {
    partition: PartitionId,
    epoch: Epoch,
    upto: CausalContext,
    names: Vec<Name>,
    machine: Round,
}

/// What was adopted for a partition.
#[derive(Clone, Debug)]
struct Adopted {
    reaped: Reaped,
    /// The object that every name is which is not here: made once, it is asked for by gets and puts.
    superseded: Object,
}

impl From<Reaped> for Adopted {
    fn from(reaped: Reaped) -> Self {
        Self { superseded: Object::superseded(&reaped.upto), reaped }
    }
}

/// What a node knows of tombstones.
#[derive(Clone, Debug, Default)]
pub(super) struct Reaping {
    pub(super) graves: Graves,
    /// What was adopted, by partition, as far as it was looked up.
    adopted: BTreeMap<PartitionId, Option<Adopted>>,
    /// Names of which a peer said that they are reaped, before this node has adopted as much: with what they have seen.
    told: BTreeMap<(PartitionId, Name), Object>,
    rounds: BTreeMap<u64, Led>,
    /// Tombstones that remember request ids, as they were when a round first wanted them: a retry may still come.
    held: BTreeMap<Name, (Digest, Instant)>,
    /// The last tombstone that was looked at in each partition: the next round begins behind it, so that those which may not go keep
    /// no others waiting.
    looked_at: BTreeMap<PartitionId, Name>,
    /// Partitions that wait for a round.
    due: BTreeSet<PartitionId>,
    timer: Timer,
}

impl<S: Storage> Node<S> {
    // --- the fence --------------------------------------------------------------------------------------------------

    /// What this node has adopted for `partition`.
    pub(super) fn reaped(&mut self, partition: PartitionId) -> Result<Option<&Reaped>, StorageError> {
        Ok(self.adopted(partition)?.map(|adopted| &adopted.reaped))
    }

    fn adopted(&mut self, partition: PartitionId) -> Result<Option<&Adopted>, StorageError> {
        if !self.reaping.adopted.contains_key(&partition) {
            let stored = self.read_reaped(&adopted_key(partition))?;
            self.reaping.adopted.insert(partition, stored.map(Adopted::from));
        }
        Ok(self.reaping.adopted[&partition].as_ref())
    }

    fn read_reaped(&self, key: &[u8]) -> Result<Option<Reaped>, StorageError> {
        let stored = self.storage.read_meta(key)?;
        let decode = |bytes| Reaped::decode(bytes).map_err(|error| StorageError(format!("stored reaped context: {error}")));
        stored.map(decode).transpose()
    }

    /// What is known of a name that is not here: nothing but that all that was reaped is superseded.
    pub(super) fn absent(&mut self, partition: PartitionId, name: &Name) -> Result<Object, StorageError> {
        let mut object = self.superseded(partition)?;
        if !self.reaping.told.is_empty()
            && let Some(told) = self.reaping.told.get(&(partition, name.clone()))
        {
            object.join(told);
        }
        Ok(object)
    }

    /// What every name of a partition has seen that is not here.
    fn superseded(&mut self, partition: PartitionId) -> Result<Object, StorageError> {
        Ok(self.adopted(partition)?.map(|adopted| adopted.superseded.clone()).unwrap_or_default())
    }

    /// A peer's word: `name` is reaped, which had seen what `object` has. What is older may come as long as this node has not adopted as
    /// much itself, so until then it is remembered. A start forgets it, and with it ends what was on its way here.
    pub(super) fn heed_word(&mut self, partition: PartitionId, name: &Name, object: &Object) -> Result<(), StorageError> {
        let key = (partition, name.clone());
        let object = Object::superseded(&object.context());
        if self.superseded(partition)?.includes(&object) {
            return Ok(());
        }
        if self.reaping.told.len() < TOLD_MAX || self.reaping.told.contains_key(&key) {
            self.reaping.told.entry(key).or_default().join(&object);
        }
        Ok(())
    }

    /// What a peer has to hear that holds, or wants to hand over, a name which is reaped here.
    pub(super) fn word_of_reaped(&mut self, partition: PartitionId, name: &Name) -> Result<Option<NamedObject>, StorageError> {
        let object = self.superseded(partition)?;
        let gone = !object.is_empty() && self.storage.read(partition, name)?.is_none();
        Ok(gone.then(|| NamedObject { name: name.clone(), object }))
    }

    /// Joins what a peer holds; if all of that is reaped here, what the peer has to hear is added to `words`.
    pub(super) fn apply_or_tell(
        &mut self,
        partition: PartitionId,
        named: &NamedObject,
        words: &mut Vec<NamedObject>,
    ) -> Result<(), StorageError> {
        let _accepted = self.apply(partition, &named.name, &named.object)?;
        if named.object.has_values() {
            words.extend(self.word_of_reaped(partition, &named.name)?);
        }
        Ok(())
    }

    /// Sends what may speak of what was reaped here: once that is on stable storage, so that nobody learns of it from a node
    /// that then forgets it.
    pub(super) fn send_after_reaping(
        &mut self,
        to: NodeId,
        partition: PartitionId,
        message: Message,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        if self.reaped(partition)?.is_some() {
            return self.when_durable(Waiting::Answer { to, message: Box::new(message) }, now, out);
        }
        out.push(Output::Send { to, message });
        Ok(())
    }

    /// This node's copy of `name`, whose digest was `before`, is superseded in all its parts.
    pub(super) fn forget(&mut self, partition: PartitionId, name: &Name, before: Digest) -> Result<(), StorageError> {
        self.storage.remove(partition, name)?;
        self.trees.update(partition, name, before, Digest::default());
        self.versions.put(name, Object::default(), Digest::default());
        self.reaping.graves.close(partition, name);
        self.reaping.held.remove(name);
        self.counters.tombstones_reaped += 1;
        Ok(())
    }

    /// The copy of `partition` is dropped, and with it what was known by it.
    pub(super) fn forget_reaped(&mut self, partition: PartitionId) -> Result<(), StorageError> {
        self.reaping.adopted.remove(&partition);
        self.reaping.told.retain(|(of, _), _| *of != partition);
        self.reaping.graves.leave(partition);
        self.storage.write_meta(&adopted_key(partition), None)?;
        self.storage.write_meta(&prepared_key(partition), None)
    }

    // --- graves -----------------------------------------------------------------------------------------------------

    fn leads(&self, partition: PartitionId) -> bool {
        self.ring.as_ref().is_some_and(|ring| leads(ring, partition, self.identity.node))
    }

    /// Nothing of `object` is shown, and it may go once nothing older can come. Where the last writer wins it may hold values beside the
    /// tombstone that hides them.
    fn is_grave(&self, name: &Name, object: &Object) -> bool {
        if self.config.last_writer_wins(&name.bucket) {
            return object.has_values() && !reconciliation::exists(object);
        }
        object.is_tombstone()
    }

    /// The copy of `name` is `object` now.
    pub(super) fn note_grave(&mut self, partition: PartitionId, name: &Name, object: &Object) {
        if self.leads(partition) && self.is_grave(name, object) {
            self.reaping.graves.dig(partition, name);
        } else {
            self.reaping.graves.close(partition, name);
            self.reaping.held.remove(name);
        }
    }

    /// A new ring: other partitions are led, and no answer to a running round speaks of these replicas.
    pub(super) fn end_rounds(&mut self, before: Option<&Ring>) {
        self.counters.reap_rounds_unproved += self.reaping.rounds.len() as u64;
        self.reaping.rounds.clear();
        self.reaping.held.clear();
        self.reaping.looked_at.clear();
        let Some(ring) = self.ring.clone() else { return };
        let own = self.identity.node;
        for (partition, _) in ring.partitions() {
            match (before.is_some_and(|before| leads(before, partition, own)), leads(&ring, partition, own)) {
                (false, true) => self.reaping.graves.miss(partition),
                (true, false) => self.reaping.graves.leave(partition),
                _ => {}
            }
        }
    }

    /// Looks for graves where they are not known, a bounded piece.
    fn walk_graves(&mut self) -> Result<(), StorageError> {
        let mut left = WALK_OBJECTS;
        while left > 0
            && let Some((partition, after)) = self.reaping.graves.next_walk()
        {
            let found = self.storage.scan(partition, after.as_ref(), left, WALK_BYTES)?;
            left = left.saturating_sub(found.len().max(1));
            self.reaping.graves.walk = found.last().map(|(cursor, _)| (partition, Some(cursor.clone())));
            for (cursor, object) in &found {
                self.note_grave(partition, &cursor.name, object);
            }
        }
        Ok(())
    }

    /// Objects of which nothing is shown in partitions that this node leads, and partitions yet to be looked through.
    pub fn graves(&self) -> (usize, usize) {
        self.reaping.graves.len()
    }

    // --- leading ----------------------------------------------------------------------------------------------------

    pub(super) fn tick_reaping(&mut self, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        let Some(ring) = self.ring.clone() else { return Ok(()) };
        if self.config.reap_interval.is_zero() {
            return Ok(());
        }
        let running: Vec<(u64, PartitionId)> = self.reaping.rounds.iter().map(|(round, led)| (*round, led.partition)).collect();
        for (round, partition) in running {
            let root = self.trees.root(partition);
            self.round_input(round, Input::Tick { root }, now, out)?;
        }
        self.walk_graves()?;
        if self.reaping.timer.rings(now.instant, self.config.reap_interval) {
            self.reaping.due.extend(self.reaping.graves.partitions());
        }
        while self.reaping.rounds.len() < ROUNDS_MAX
            && let Some(partition) = self.reaping.due.pop_first()
        {
            self.start_round(&ring, partition, now, out)?;
        }
        Ok(())
    }

    fn start_round(&mut self, ring: &Ring, partition: PartitionId, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        let placement = ring.placement(partition);
        let led_already = self.reaping.rounds.values().any(|led| led.partition == partition);
        let all_here = ring.members.keys().all(|node| self.reachable(*node, now));
        if placement.moving.is_some() || !self.leads(partition) || led_already || !all_here {
            return Ok(());
        }
        let (names, upto) = self.choose(partition, now)?;
        if names.is_empty() {
            return Ok(());
        }
        let own = self.identity.node;
        let replicas = placement.replicas.iter().filter(|node| **node != own).copied().collect();
        // A node outside the ring coordinates no write. One that is linked may have hints yet, from when it was a member; nothing of a lost
        // one is taken.
        let linked = self.detector.linked_peers().filter(|peer| !ring.is_lost(*peer));
        let everyone = ring.members.keys().copied().chain(linked).chain([own]).collect();
        let mut wanted = Vec::new();
        let machine = Round::start(everyone, replicas, now.instant, &mut wanted);
        let round = self.next_batch();
        self.reaping.rounds.insert(round, Led { partition, epoch: ring.epoch, upto, names, machine });
        self.perform_round(round, wanted, now, out)
    }

    /// The tombstones that the next round is about, and all that they have seen, with what was reaped before.
    fn choose(&mut self, partition: PartitionId, now: Now) -> Result<(Vec<Name>, CausalContext), StorageError> {
        let mut upto = self.reaped(partition)?.map(|reaped| reaped.upto.clone()).unwrap_or_default();
        let after = self.reaping.looked_at.remove(&partition);
        let graves: Vec<Name> = self.reaping.graves.behind(partition, after.as_ref()).take(NAMES_PER_ROUND).cloned().collect();
        let (mut names, mut bytes) = (Vec::new(), 0);
        for name in graves {
            bytes += name.len();
            if bytes > NAME_BYTES_PER_ROUND {
                break;
            }
            self.reaping.looked_at.insert(partition, name.clone());
            let (history, digest) = self.history(partition, &name)?;
            if !history.recent().is_empty() && self.awaits_retries(&name, digest, now) {
                continue;
            }
            let mut joined = upto.clone();
            joined.join(&history.context());
            if joined.0.len() > ACTORS_MAX {
                self.counters.reap_refused_actors += 1;
            } else {
                upto = joined;
                names.push(name);
            }
        }
        Ok((names, upto))
    }

    /// A tombstone that remembers request ids stays until no client waits any more for the writes that it remembers: without it
    /// a retry would be a new write. This is no part of the proof, and paces by this node's own clock only.
    fn awaits_retries(&mut self, name: &Name, digest: Digest, now: Now) -> bool {
        let held = self.reaping.held.entry(name.clone()).or_insert((digest, now.instant));
        if held.0 != digest {
            *held = (digest, now.instant);
        }
        now.instant.since(held.1) < self.config.request_timeout * REQUEST_TIMEOUTS_MAX
    }

    fn round_input(&mut self, round: u64, input: Input, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        let Some(led) = self.reaping.rounds.get_mut(&round) else { return Ok(()) };
        let mut wanted = Vec::new();
        led.machine.handle(input, now.instant, &mut wanted);
        self.perform_round(round, wanted, now, out)
    }

    fn perform_round(&mut self, round: u64, wanted: Vec<Wanted>, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        for wanted in wanted {
            let Some(led) = self.reaping.rounds.get(&round) else { return Ok(()) };
            match wanted {
                Wanted::Ask { to, question } if to == self.identity.node => {
                    let (partition, upto) = (led.partition, led.upto.clone());
                    if self.agrees(partition, &upto, question)? {
                        let root = self.trees.root(partition);
                        self.round_input(round, Input::Answered { by: to, question, root }, now, out)?;
                    }
                }
                Wanted::Ask { to, question } => {
                    let Led { partition, epoch, upto, .. } = led.clone();
                    out.push(Output::Send { to, message: Message::ReapAsk { round, epoch, partition, upto, question } });
                }
                Wanted::Commit => {
                    if let Some(led) = self.reaping.rounds.remove(&round) {
                        self.commit_round(round, led, now, out)?;
                    }
                }
                Wanted::GiveUp => {
                    self.reaping.rounds.remove(&round);
                    self.counters.reap_rounds_unproved += 1;
                }
            }
        }
        Ok(())
    }

    /// It is proven: the tombstones go here, and the replicas hear of it once that is on stable storage.
    fn commit_round(&mut self, round: u64, led: Led, now: Now, out: &mut Vec<Output>) -> Result<(), StorageError> {
        let Some(ring) = self.ring.clone() else { return Ok(()) };
        let own = self.identity.node;
        assert_eq!(ring.epoch, led.epoch, "a round does not outlive its ring");
        let Led { partition, upto, names, .. } = led;
        self.counters.reap_rounds_proved += 1;
        self.adopt_reaped(partition, Reaped { proof: Proof { leader: own, round }, upto })?;
        self.bury(partition, &names)?;
        if self.reaping.graves.of(partition).next().is_some() {
            self.reaping.due.insert(partition);
        }
        for to in ring.placement(partition).replicas.iter().filter(|node| **node != own) {
            let message = Box::new(Message::ReapCommit { round, partition, names: names.clone() });
            self.when_durable(Waiting::Answer { to: *to, message }, now, out)?;
        }
        Ok(())
    }

    /// Removes those of `names` of which still nothing is shown and whose whole history is reaped.
    fn bury(&mut self, partition: PartitionId, names: &[Name]) -> Result<(), StorageError> {
        let Some(upto) = self.reaped(partition)?.map(|reaped| reaped.upto.clone()) else { return Ok(()) };
        for name in names {
            if let Some(object) = self.storage.read(partition, name)?
                && self.is_grave(name, &object)
                && upto.includes(&object.context())
            {
                self.forget(partition, name, object.digest())?;
            }
        }
        Ok(())
    }

    /// From now on `reaped` holds of every name that is not here.
    pub(super) fn adopt_reaped(&mut self, partition: PartitionId, mut reaped: Reaped) -> Result<(), StorageError> {
        if let Some(known) = self.reaped(partition)? {
            if known.upto.includes(&reaped.upto) {
                return Ok(());
            }
            reaped.upto.join(&known.upto);
        }
        self.storage.write_meta(&adopted_key(partition), Some(&reaped.encode()))?;
        self.storage.write_meta(&prepared_key(partition), None)?;
        let adopted = Adopted::from(reaped);
        self.reaping.told.retain(|(of, _), told| *of != partition || !adopted.superseded.includes(told));
        self.reaping.adopted.insert(partition, Some(adopted));
        Ok(())
    }

    // --- answering --------------------------------------------------------------------------------------------------

    /// Whether what is asked holds here.
    fn agrees(&mut self, partition: PartitionId, upto: &CausalContext, question: Question) -> Result<bool, StorageError> {
        let Some(ring) = self.ring.clone() else { return Ok(false) };
        let own = self.identity.node;
        let placement = ring.placement(partition);
        if self.disown(partition, upto)? {
            return Ok(false);
        }
        match question {
            Question::Writes => Ok(!self.requests.write_in_flight(partition, upto)),
            Question::Copies => {
                let stray = !placement.involves(own) && self.trees.objects(partition) > 0;
                Ok(!stray && !self.keeps_hints_of(partition)?)
            }
            Question::Equal(root) => {
                let replica = placement.moving.is_none() && placement.replicas.contains(&own);
                Ok(replica && self.trees.root(partition) == root)
            }
        }
    }

    fn keeps_hints_of(&self, partition: PartitionId) -> Result<bool, StorageError> {
        let before_all = (partition, Name::new("", ""));
        for target in self.hints.totals().keys() {
            let next = self.storage.scan_hints(*target, Some(&before_all), 1, 1)?;
            if next.first().is_some_and(|(at, _, _)| *at == partition) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn on_reap_ask(
        &mut self,
        from: NodeId,
        message: Message,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        let Message::ReapAsk { round, epoch, partition, upto, question } = message else { return Ok(()) };
        let Ok(ring) = self.fence(from, epoch, out) else { return Ok(()) };
        if !ring.has(partition) {
            self.counters.messages_refused += 1;
            return Ok(());
        }
        if !self.agrees(partition, &upto, question)? {
            return Ok(());
        }
        if matches!(question, Question::Equal(_)) {
            let proof = Proof { leader: from, round };
            self.storage.write_meta(&prepared_key(partition), Some(&Reaped { proof, upto }.encode()))?;
        }
        let message = Box::new(Message::ReapAnswer { round, partition, question });
        self.when_durable(Waiting::Answer { to: from, message }, now, out)
    }

    pub(super) fn on_reap_answer(
        &mut self,
        from: NodeId,
        round: u64,
        partition: PartitionId,
        question: Question,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), StorageError> {
        if self.reaping.rounds.get(&round).is_some_and(|led| led.partition == partition) {
            let root = self.trees.root(partition);
            self.round_input(round, Input::Answered { by: from, question, root }, now, out)?;
        }
        Ok(())
    }

    pub(super) fn on_reap_commit(
        &mut self,
        from: NodeId,
        round: u64,
        partition: PartitionId,
        names: &[Name],
    ) -> Result<(), StorageError> {
        if self.adopt_prepared(partition, Proof { leader: from, round })? {
            self.bury(partition, names)?;
        }
        Ok(())
    }

    /// `proof` was given. If this copy was part of it, what it agreed to holds.
    fn adopt_prepared(&mut self, partition: PartitionId, proof: Proof) -> Result<bool, StorageError> {
        match self.read_reaped(&prepared_key(partition))? {
            Some(prepared) if prepared.proof == proof => self.adopt_reaped(partition, prepared).map(|()| true),
            _ => Ok(false),
        }
    }

    /// A peer has adopted `theirs`, and the root of its tree is `root`.
    pub(super) fn heed_reaped(
        &mut self,
        partition: PartitionId,
        theirs: Option<&Reaped>,
        root: Digest,
    ) -> Result<(), StorageError> {
        let Some(theirs) = theirs else { return Ok(()) };
        let own = self.identity.node;
        let replica = |ring: &Ring| ring.has(partition) && ring.placement(partition).involves(own);
        if !self.ring.as_deref().is_some_and(replica) {
            return Ok(());
        }
        if self.reaped(partition)?.is_some_and(|ours| ours.upto.includes(&theirs.upto)) {
            return Ok(());
        }
        self.disown(partition, &theirs.upto)?;
        self.adopt_prepared(partition, theirs.proof)?;
        if self.trees.root(partition) == root { self.adopt_reaped(partition, theirs.clone()) } else { Ok(()) }
    }
}

fn leads(ring: &Ring, partition: PartitionId, node: NodeId) -> bool {
    ring.placement(partition).replicas.first() == Some(&node)
}

fn adopted_key(partition: PartitionId) -> Vec<u8> {
    [b"reaped/", &partition.0.to_be_bytes()[..]].concat()
}

fn prepared_key(partition: PartitionId) -> Vec<u8> {
    [b"prepared/", &partition.0.to_be_bytes()[..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BucketProperties, Config, Reconciliation};
    use crate::id::Incarnation;
    use crate::message::Refusal;
    use crate::node::Identity;
    use crate::ring::tests::{node, ring_of};
    use crate::storage::MemoryStorage;
    use crate::version::{Actor, Dot, Value};

    const PARTITION: PartitionId = PartitionId(0);

    fn opened() -> Node<MemoryStorage> {
        opened_with(Config::default())
    }

    fn opened_with(config: Config) -> Node<MemoryStorage> {
        let (ring, now) = (ring_of(3, 3), Now { instant: Instant(1), wall_ms: 0 });
        let (peer_address, client_address) = ("a:1".into(), "a:2".into());
        let identity =
            Identity { node: node(1), cluster: ring.cluster, zone: "z".into(), peer_address, client_address, generation: 1 };
        let mut opened = Node::open(identity, config, MemoryStorage::default(), 1, now).unwrap();
        opened.propose_ring(ring, now, &mut Vec::new()).unwrap();
        opened
    }

    /// Written by node 2 as its version of this number.
    fn version(counter: u64, data: Option<&'static str>) -> Object {
        let (actor, mut object) = (Actor { node: node(2), incarnation: Incarnation(1) }, Object::default());
        object.update(&CausalContext::default(), Dot { actor, counter }, Value { data: data.map(Into::into), written_ms: 0 });
        object
    }

    fn is_here(node: &Node<MemoryStorage>, name: &Name) -> bool {
        node.storage.read(PARTITION, name).unwrap().is_some()
    }

    #[test]
    fn what_a_peers_word_reaped_comes_back_neither_before_nor_after_this_node_has_adopted_as_much() {
        let mut node = opened();
        let (name, word) = (Name::new("b", "k"), Object::superseded(&version(7, None).context()));
        node.apply(PARTITION, &name, &version(7, None)).unwrap().unwrap();
        node.apply(PARTITION, &name, &word).unwrap().unwrap();
        assert!(!is_here(&node, &name));
        assert_eq!(node.apply(PARTITION, &name, &version(5, Some("late"))).unwrap(), Err(Refusal::Reaped));
        assert!(!is_here(&node, &name), "it was superseded by what went");
        let proof = Proof { leader: crate::ring::tests::node(2), round: 1 };
        node.adopt_reaped(PARTITION, Reaped { proof, upto: version(9, None).context() }).unwrap();
        assert_eq!(node.reaping.told.len(), 0, "the record says as much");
        assert_eq!(node.apply(PARTITION, &name, &version(5, Some("late"))).unwrap(), Err(Refusal::Reaped));
        assert!(!is_here(&node, &name));
        node.apply(PARTITION, &name, &version(10, Some("new"))).unwrap().unwrap();
        assert!(is_here(&node, &name), "nobody has superseded this");
    }

    /// Else both would stay until somebody writes again, which nobody has to.
    #[test]
    fn where_the_last_writer_wins_a_value_goes_with_the_later_delete_that_hides_it() {
        for (reconciliation, goes) in [(Reconciliation::Siblings, false), (Reconciliation::LastWriterWins, true)] {
            let properties = BucketProperties { reconciliation, ..BucketProperties::default() };
            let mut node = opened_with(Config { buckets: [("b".into(), properties)].into(), ..Config::default() });
            let own = node.identity.node;
            assert!(node.leads(PARTITION));
            let (actor, mut object) = (Actor { node: own, incarnation: Incarnation(1) }, Object::default());
            let mut add = |counter, data: Option<&'static str>, written_ms| {
                let value = Value { data: data.map(Into::into), written_ms };
                object.update(&CausalContext::default(), Dot { actor, counter }, value);
                object.clone()
            };
            let steps = [(add(1, Some("v"), 50), 0), (add(2, None, 100), usize::from(goes)), (add(3, Some("w"), 150), 0)];
            let name = Name::new("b", "k");
            for (version, graves) in &steps {
                node.apply(PARTITION, &name, version).unwrap().unwrap();
                assert_eq!(node.graves().0, *graves, "{reconciliation:?}, {version:?}");
            }
            // Another, which nobody writes after its delete.
            let name = Name::new("b", "other");
            node.apply(PARTITION, &name, &steps[1].0).unwrap().unwrap();
            let proof = Proof { leader: own, round: 1 };
            node.adopt_reaped(PARTITION, Reaped { proof, upto: steps[1].0.context() }).unwrap();
            node.bury(PARTITION, std::slice::from_ref(&name)).unwrap();
            assert_eq!(is_here(&node, &name), !goes, "{reconciliation:?}");
        }
    }

    /// Else the trees would never be equal, and nothing of it be adopted.
    #[test]
    fn what_peers_say_beyond_what_can_be_remembered_goes_all_the_same() {
        let mut node = opened();
        let word = Object::superseded(&version(7, None).context());
        let names: Vec<Name> = (0..=TOLD_MAX).map(|at| Name::new("b", format!("k{at}"))).collect();
        for name in &names {
            node.apply(PARTITION, name, &version(7, None)).unwrap().unwrap();
            node.apply(PARTITION, name, &word).unwrap().unwrap();
        }
        assert_eq!(node.reaping.told.len(), TOLD_MAX);
        assert_eq!(node.trees.root(PARTITION), Digest::default());
    }
}
