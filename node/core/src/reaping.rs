//! Reaping: a tombstone goes when it is proven that nothing older can come (paper 4.4; the paper leaves deletes open).
//!
//! A tombstone outlives its object to supersede what may still be on its way: a late message, a hint, the copy of a node that
//! was away. Time says nothing about those. So the first replica of a partition that is not moving proves, round by round,
//! that every write which its tombstones have seen is where it belongs, and only then do they go.
//!
//! ```text
//! fix `upto`: per actor, the highest counter that the tombstones to be reaped have seen
//! Writes:  every node: no put with a version up to there is in flight here   --all--> none can be acknowledged any more
//! Copies:  every node: no hint of the partition here, no copy that is no replica's  --all--> each lies at some replica
//! Equal:   the other replicas: my tree is like yours, on stable storage      --all, own tree unchanged--> each lies at all
//! commit:  `upto` is adopted, the tombstones are removed, the replicas told
//! ```
//!
//! Silence is a no: a node that is away, behind, or not clear keeps the proof from being given. Copies is asked strictly after
//! the last answer to Writes, since a put may leave its hint with a node that has answered already; Equal strictly after the
//! last to Copies, since a delivered hint lies at one replica only. An actor's counters grow over the whole node, so whatever
//! `upto` covers was issued before the round began, and what is true of it once stays true: a question may be asked again.
//! A change of the ring ends a round, for the answers spoke of other replicas.
//!
//! Every node is every member. A node that the ring does not list coordinates no write under it, and what it coordinated under an earlier
//! ring the replicas refuse. What it kept as a stand-in was delivered before it said that it holds nothing, and since it was on its way
//! out no write counted on it ([`crate::preference_list`]). When it comes back it begins nothing again that it began before
//! ([`crate::node`]); and where something reaped arrives all the same, as a write, it is refused and not acknowledged.
//!
//! (A coordinator keeps what it made, as its copy or as a hint, so Copies and Equal see nearly all that Writes asks for. Nearly:
//! a full quota leaves no hint. Asked for itself, the proof does not rest on where coordinators keep things.)
//!
//! **Adopted.** A replica that has adopted `upto` holds this to be true: *of a name that is not here, everything that `upto`
//! covers is superseded, or was never acknowledged and never will be.* An absent name is then not nothing, it is an object
//! without values that has seen `upto` ([`Object::superseded`]); whatever arrives is joined with that, and a get hears of it. What is
//! older falls away in the join (the fence); what is newer stays and carries the watermarks on, so that no replica takes the
//! older part back from another. A name that is here has its own, whole history and is not touched. There are four ways to
//! come to it, each by a copy that is known to be complete:
//! - by leading the round that proved it;
//! - by having agreed to Equal in that very round, which is a durable record, and hearing that it was proven: from the commit,
//!   or from any tree exchange with one who has adopted it;
//! - by having the same tree as one who has adopted it: then the same names are absent at both;
//! - by having been filled from one who has adopted it, once trees say that nothing is missing. Until its sources have said so a new
//!   replica takes no copy that another hands back: that may be older.
//!
//! A copy that is dropped takes both records with it; a wiped node has none. One that is filled from a replica (or restored from
//! a snapshot) may bring tombstones and older versions that are gone elsewhere. Whoever has adopted answers those in a tree
//! exchange with the object without values, and the join removes them there: so replicas become equal whatever was missed. Until such a
//! replica has adopted as much itself it remembers the word, for what is older may be on its way to it still.
//! Neither that word nor the record leaves a node before it is on its stable storage.
//!
//! Where the last writer wins ([`crate::reconciliation`]) an object goes as well that has values beside a tombstone which hides them all:
//! concurrent with it, and with lower stamps. `upto` covers the values as it does the tombstone, and the proof asks of both the same.
//!
//! Left to others: that a node outside the ring, which cannot be reached, holds nothing (its drain receipt); that an old volume
//! brings its old `upto` along, as it lies in the same storage. What it costs: a new object in a partition with something reaped
//! carries the watermarks of those actors, some 30 bytes each, [`ACTORS_MAX`] at most; and the proof needs a moment in which
//! the replicas of a partition are equal, a few round trips and an fsync long.

pub mod graves;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use crate::codec::{DecodeError, Reader, Writer};
use crate::id::{Incarnation, NodeId};
use crate::time::Instant;
#[cfg(doc)]
use crate::version::Object;
use crate::version::{Actor, CausalContext, Digest};

/// Actors in one partition's reaped context. Over it tombstones stay: new objects would carry too much. A node has a new actor
/// after each unclean stop, so this is far away.
pub const ACTORS_MAX: usize = 128;
/// Tombstones that one round reaps, and the bytes of their names: the commit names them in one message.
pub const NAMES_PER_ROUND: usize = 1_024;
/// See [`NAMES_PER_ROUND`].
pub const NAME_BYTES_PER_ROUND: usize = 256 << 10;
/// Rounds that one node leads at the same time: each asks every node twice.
pub const ROUNDS_MAX: usize = 8;
/// When a round is given up: in the meantime it asks again whoever was silent.
pub const ROUND_TIMEOUT: Duration = Duration::from_secs(10);

/// The name of a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Proof {
    /// Who led it.
    pub leader: NodeId,
    /// Its number there; grows.
    pub round: u64,
}

/// What is reaped of a partition, or would be if the proof is given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reaped {
    /// The round that proved it last.
    pub proof: Proof,
    /// Everything up to here.
    pub upto: CausalContext,
}

const FORMAT: u8 = 1;
pub(crate) const CHECKSUM_SEED: u64 = 0x6479_6e61_6d6f_0007;

impl Reaped {
    /// The canonical bytes, with a checksum: on the wire and on disk.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::with_capacity(48 + self.upto.0.len() * 32);
        writer.u8(FORMAT);
        writer.raw(&self.proof.leader.0);
        writer.u64(self.proof.round);
        encode_context(&mut writer, &self.upto);
        writer.finish_with_checksum(CHECKSUM_SEED)
    }

    /// Reads what [`Reaped::encode`] wrote.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::verified(bytes, CHECKSUM_SEED)?;
        reader.format(FORMAT)?;
        let leader = NodeId(reader.id("leader")?);
        let proof = Proof { leader, round: reader.u64("round")? };
        let upto = decode_context(&mut reader)?;
        reader.end()?;
        Ok(Self { proof, upto })
    }
}

fn encode_context(writer: &mut Writer, context: &CausalContext) {
    writer.varint(context.0.len() as u64);
    for (actor, counter) in context.0.iter() {
        writer.raw(&actor.node.0);
        writer.u64(actor.incarnation.0);
        writer.varint(*counter);
    }
}

fn decode_context(reader: &mut Reader) -> Result<CausalContext, DecodeError> {
    let mut context = CausalContext::default();
    for _ in 0..reader.count("actors")? {
        let node = NodeId(reader.id("actor node")?);
        let actor = Actor { node, incarnation: Incarnation(reader.u64("actor incarnation")?) };
        if context.0.keys().next_back().is_some_and(|last| *last >= actor) {
            return Err(DecodeError::OutOfRange("order of actors"));
        }
        context.0.insert(actor, reader.varint("counter")?);
    }
    Ok(context)
}

/// What a node is asked. An answer is a yes; there is no other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Question {
    /// No put with a version up to there is in flight at your place.
    Writes,
    /// You keep no hint of the partition, and no copy unless you are a replica.
    Copies,
    /// The root of your tree is this, and on stable storage.
    Equal(Digest),
}

/// What happens to a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// `by` says yes.
    Answered {
        /// Who.
        by: NodeId,
        /// To what.
        question: Question,
        /// The root of the leader's own tree, now.
        root: Digest,
    },
    /// Time has passed.
    Tick {
        /// The root of the leader's own tree, now.
        root: Digest,
    },
}

/// What a round wants done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// Ask.
    Ask {
        /// Whom; the leader itself too.
        to: NodeId,
        /// What.
        question: Question,
    },
    /// It is proven.
    Commit,
    /// It was not, in time.
    GiveUp,
}

/// One round, over one ring.
#[derive(Clone, Debug)]
pub struct Round {
    everyone: BTreeSet<NodeId>,
    replicas: BTreeSet<NodeId>,
    question: Question,
    awaiting: BTreeSet<NodeId>,
    deadline: Instant,
}

impl Round {
    /// Starts: `everyone` is asked, the leader included; `replicas` are the others.
    pub fn start(everyone: BTreeSet<NodeId>, replicas: BTreeSet<NodeId>, now: Instant, out: &mut Vec<Output>) -> Self {
        let deadline = now + ROUND_TIMEOUT;
        let mut round = Self { awaiting: everyone.clone(), everyone, replicas, question: Question::Writes, deadline };
        round.ask_awaited(out);
        round
    }

    /// One input. After [`Output::Commit`] or [`Output::GiveUp`] it is over.
    pub fn handle(&mut self, input: Input, now: Instant, out: &mut Vec<Output>) {
        match input {
            Input::Answered { by, question, root } => self.on_answered(by, question, root, out),
            Input::Tick { .. } if now >= self.deadline => out.push(Output::GiveUp),
            Input::Tick { root } => match self.question {
                // What was asked is of the past: whoever agreed to it has to agree again.
                Question::Equal(asked) if asked != root => self.ask(Question::Equal(root), root, out),
                _ => self.ask_awaited(out),
            },
        }
    }

    fn on_answered(&mut self, by: NodeId, question: Question, root: Digest, out: &mut Vec<Output>) {
        let outdated = matches!(question, Question::Equal(asked) if asked != root);
        if question != self.question || outdated || !self.awaiting.remove(&by) {
            return;
        }
        if self.awaiting.is_empty() {
            self.advance(root, out);
        }
    }

    fn advance(&mut self, root: Digest, out: &mut Vec<Output>) {
        match self.question {
            Question::Writes => self.ask(Question::Copies, root, out),
            Question::Copies => self.ask(Question::Equal(root), root, out),
            Question::Equal(_) => out.push(Output::Commit),
        }
    }

    fn ask(&mut self, question: Question, root: Digest, out: &mut Vec<Output>) {
        self.question = question;
        self.awaiting = if matches!(question, Question::Equal(_)) { &self.replicas } else { &self.everyone }.clone();
        if self.awaiting.is_empty() {
            // A partition with one replica.
            self.advance(root, out);
        } else {
            self.ask_awaited(out);
        }
    }

    fn ask_awaited(&mut self, out: &mut Vec<Output>) {
        let question = self.question;
        out.extend(self.awaiting.iter().map(|to| Output::Ask { to: *to, question }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recent_writes::RecentWrites;
    use crate::ring::tests::node;
    use crate::version::{Dot, Object, Value};

    const ROOT: Digest = Digest([1; 16]);
    const OTHER: Digest = Digest([2; 16]);

    fn set(ids: &[u8]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| node(*id)).collect()
    }

    fn asked(out: &mut Vec<Output>) -> Vec<(NodeId, Question)> {
        let ask = |output| match output {
            Output::Ask { to, question } => (to, question),
            other => panic!("{other:?}"),
        };
        out.drain(..).map(ask).collect()
    }

    fn answer(round: &mut Round, by: u8, question: Question, root: Digest, out: &mut Vec<Output>) {
        round.handle(Input::Answered { by: node(by), question, root }, Instant(1), out);
    }

    /// A round of nodes 1 to 4, led by 1, of which 1 to 3 are the replicas.
    fn start() -> (Round, Vec<Output>) {
        let mut out = Vec::new();
        let round = Round::start(set(&[1, 2, 3, 4]), set(&[2, 3]), Instant(0), &mut out);
        (round, out)
    }

    fn until_equal() -> (Round, Vec<Output>) {
        let (mut round, mut out) = start();
        for question in [Question::Writes, Question::Copies] {
            out.clear();
            (1..=4).for_each(|by| answer(&mut round, by, question, ROOT, &mut out));
        }
        (round, out)
    }

    #[test]
    fn a_question_is_asked_only_when_everyone_has_agreed_to_the_one_before() {
        let (mut round, mut out) = start();
        let everyone = |question| (1..=4).map(|id| (node(id), question)).collect::<Vec<_>>();
        assert_eq!(asked(&mut out), everyone(Question::Writes));
        (1..=3).for_each(|by| answer(&mut round, by, Question::Writes, ROOT, &mut out));
        answer(&mut round, 4, Question::Copies, ROOT, &mut out);
        assert_eq!(out, [], "one has not agreed, and said something else");
        answer(&mut round, 4, Question::Writes, ROOT, &mut out);
        assert_eq!(asked(&mut out), everyone(Question::Copies));
        (1..=4).for_each(|by| answer(&mut round, by, Question::Copies, ROOT, &mut out));
        assert_eq!(asked(&mut out), [(node(2), Question::Equal(ROOT)), (node(3), Question::Equal(ROOT))]);
        answer(&mut round, 2, Question::Equal(ROOT), ROOT, &mut out);
        answer(&mut round, 2, Question::Equal(ROOT), ROOT, &mut out);
        assert_eq!(out, [], "the same one twice is one");
        answer(&mut round, 3, Question::Equal(ROOT), ROOT, &mut out);
        assert_eq!(out, [Output::Commit]);
    }

    #[test]
    fn silence_is_asked_again_and_then_a_no() {
        let (mut round, mut out) = start();
        (1..=3).for_each(|by| answer(&mut round, by, Question::Writes, ROOT, &mut out));
        out.clear();
        round.handle(Input::Tick { root: ROOT }, Instant(1), &mut out);
        assert_eq!(asked(&mut out), [(node(4), Question::Writes)]);
        round.handle(Input::Tick { root: ROOT }, Instant(0) + ROUND_TIMEOUT, &mut out);
        assert_eq!(out, [Output::GiveUp]);
    }

    #[test]
    fn a_tree_that_changed_meanwhile_proves_nothing() {
        let (mut round, mut out) = until_equal();
        out.clear();
        answer(&mut round, 2, Question::Equal(ROOT), ROOT, &mut out);
        answer(&mut round, 3, Question::Equal(ROOT), OTHER, &mut out);
        assert_eq!(out, [], "the leader's own tree is another one now");
        round.handle(Input::Tick { root: OTHER }, Instant(1), &mut out);
        assert_eq!(asked(&mut out), [(node(2), Question::Equal(OTHER)), (node(3), Question::Equal(OTHER))]);
        answer(&mut round, 2, Question::Equal(ROOT), OTHER, &mut out);
        answer(&mut round, 3, Question::Equal(OTHER), OTHER, &mut out);
        assert_eq!(out, [], "an answer to the earlier question");
        answer(&mut round, 2, Question::Equal(OTHER), OTHER, &mut out);
        assert_eq!(out, [Output::Commit]);
    }

    #[test]
    fn one_replica_agrees_with_itself() {
        let mut out = Vec::new();
        let mut round = Round::start(set(&[1]), set(&[]), Instant(0), &mut out);
        out.clear();
        answer(&mut round, 1, Question::Writes, ROOT, &mut out);
        out.clear();
        answer(&mut round, 1, Question::Copies, ROOT, &mut out);
        assert_eq!(out, [Output::Commit]);
    }

    fn actor(id: u8) -> Actor {
        Actor { node: node(id), incarnation: Incarnation(u64::from(id)) }
    }

    #[test]
    fn a_record_reads_back_from_its_bytes_and_from_no_others() {
        let upto = CausalContext([(actor(1), 7), (actor(2), 300)].into(), RecentWrites::default());
        let reaped = Reaped { proof: Proof { leader: node(9), round: 1 << 40 }, upto };
        let bytes = reaped.encode();
        assert_eq!(Reaped::decode(bytes.clone()), Ok(reaped));
        for length in 0..bytes.len() {
            assert!(Reaped::decode(bytes.slice(..length)).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn what_is_older_falls_away_in_the_join_and_what_is_newer_stays_without_it() {
        let value = |data: &'static str| Value { data: Some(data.into()), written_ms: 0 };
        let dot = |id, counter| Dot { actor: actor(id), counter };
        let absent = Object::superseded(&CausalContext([(actor(1), 7), (actor(2), 3)].into(), RecentWrites::default()));
        let mut old = Object::default();
        old.update(&CausalContext::default(), dot(1, 5), value("old"));
        assert!(absent.includes(&old), "nothing is to be stored");
        let mut both = old.clone();
        both.update(&CausalContext::default(), dot(3, 1), value("new"));
        assert!(!absent.includes(&both));
        let mut stored = absent.clone();
        stored.join(&both);
        assert_eq!(stored.siblings().map(|(data, _)| &data[..]).collect::<Vec<_>>(), [b"new"]);
        // A replica that still has the tombstone loses it by the same join, and both are equal.
        let mut behind = old.clone();
        behind.update(&old.context(), dot(2, 3), Value { data: None, written_ms: 0 });
        behind.join(&both);
        behind.join(&stored);
        stored.join(&behind);
        assert_eq!(behind, stored);
    }
}
