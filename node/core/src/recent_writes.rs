//! The last writes of an object that had a request id, so that a retry is the same write.
//!
//! A client that was not told what became of its write sends it again under the same request id. A coordinator that knows of the
//! first attempt issues no second dot. One that does not know of it does, and then two dots name one write: readers are shown the
//! first of them, and neither once one of them is known to be superseded, for then the write was made and has been replaced
//! ([`crate::version::Object::shown`]).
//!
//! ```text
//! attempt 1 -> A: dot a1 -----------------------------+
//! attempt 2 -> B, which has not seen a1: dot b1 ------+--> {a1, b1} of one id: a1 is shown
//! a put with a context that covers b1, at C ----------+--> {a1} live, b1 superseded: nothing of that id is shown
//! ```
//!
//! What is remembered is a set of (stamp, id, dot), of which only the [`REMEMBERED_MAX`] highest are kept. The highest of a union
//! are the highest of the highest, so joins remain associative, commutative and idempotent. Stamps grow along causality
//! ([`crate::version::Object::next_stamp`]), so what is forgotten first is what was written first. A coordinator that knows nothing of
//! the object has only the time to go by, which it takes from the clock in the middle of all if its own differs from most ([`crate::clock_skew`]).
//! The bound is the limit of the promise: a retry is recognised, and a second dot hidden, while the write's dots are among the last
//! [`REMEMBERED_MAX`] with request ids of its object, by their stamps, and its object is not a tombstone that was reaped, which waits
//! until no client waits any more ([`crate::reaping`]). After that it is a write like one without an id: its second dot is a sibling.
//!
//! # Why eight
//!
//! What the bound has to cover are the writes of other clients to the object between an attempt and its retry. A client tries again
//! 50 ms after a connection broke, and after half of its deadline, 2.5 s, where nobody answers; so eight cover a hundred writes a
//! second to one object in the first case and three in the second: a cart or a session, and not a counter that many machines write.
//! No fixed number covers those: ten that read, merge and write as fast as they can make thousands in 2.5 s. Thirty-two would cover
//! thirteen writes a second, and cost every object that was ever written so often, and not only the contended ones, for ever:
//!
//! | remembered | bytes of an object, on each disk, each way to it and in each context | in the version cache |
//! |---|---|---|
//! | 8 | 201 to 249 | 448, of 131,072 objects 56 MiB |
//! | 32 | 801 to 993 | 1,792, of 131,072 objects 224 MiB |
//!
//! That is nearly another kilobyte for a value of one, and beyond the bound nothing is lost: the retry is one sibling more, for the
//! application to merge as it merges any. So it is eight. Time would be the measure that fits every rate, and no clock decides here.
//!
//! Whoever has seen a dot that is remembered anywhere remembers it too, or has forgotten it for later ones. So contexts carry what
//! is remembered of the dots that they cover: a put with the context of a read tells a coordinator which ids it supersedes.

use crate::codec::{DecodeError, Reader, Writer};
use crate::id::RequestKey;
use crate::version::{Actor, Dot};

/// Writes remembered for each object, 25 to 31 bytes each ([why eight](self#why-eight)). It has to cover the writes to one object between an attempt and its
/// retry, and between two attempts' way to each other. It is part of the format: nodes that disagree about it never agree about
/// an object.
pub const REMEMBERED_MAX: usize = 8;

/// A write that had a request id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RecentWrite {
    /// The stamp of its value.
    pub stamp: u64,
    /// The request id.
    pub key: RequestKey,
    /// The dot that it got.
    pub dot: Dot,
}

/// The last of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RecentWrites {
    /// Ascending, each once.
    writes: Vec<RecentWrite>,
}

impl RecentWrites {
    /// Nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// All of them, the oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &RecentWrite> + ExactSizeIterator {
        self.writes.iter()
    }

    /// The first write with this id.
    pub fn first_of(&self, key: RequestKey) -> Option<&RecentWrite> {
        self.writes.iter().find(|write| write.key == key)
    }

    /// The write under this dot.
    pub fn at(&self, dot: Dot) -> Option<&RecentWrite> {
        self.writes.iter().find(|write| write.dot == dot)
    }

    /// The wall clock, or just above every stamp here if the clock is behind.
    pub fn next_stamp(&self, wall_ms: u64) -> u64 {
        self.writes.last().map_or(wall_ms, |last| wall_ms.max(last.stamp.saturating_add(1)))
    }

    /// One more; the oldest goes if they are too many.
    pub fn insert(&mut self, write: RecentWrite) {
        if let Err(at) = self.writes.binary_search(&write) {
            self.writes.insert(at, write);
            if self.writes.len() > REMEMBERED_MAX {
                self.writes.remove(0);
            }
        }
    }

    /// All that either remembers, as far as the bound allows.
    pub fn join(&mut self, other: &RecentWrites) {
        other.writes.iter().for_each(|write| self.insert(*write));
    }

    /// Joining `other` would change nothing.
    pub fn includes(&self, other: &RecentWrites) -> bool {
        let too_old = |write: &RecentWrite| self.writes.len() == REMEMBERED_MAX && *write < self.writes[0];
        other.writes.iter().all(|write| self.writes.binary_search(write).is_ok() || too_old(write))
    }

    /// Those of dots that `covered` says yes to.
    pub fn covered(&self, covered: impl Fn(Dot) -> bool) -> RecentWrites {
        RecentWrites { writes: self.writes.iter().filter(|write| covered(write.dot)).copied().collect() }
    }

    /// Their part of an encoding that has listed `actors` before, in this order.
    pub fn encode<'a>(&self, actors: impl Iterator<Item = &'a Actor> + Clone, writer: &mut Writer) {
        writer.varint(self.writes.len() as u64);
        for RecentWrite { stamp, key, dot } in &self.writes {
            let actor = actors.clone().position(|actor| *actor == dot.actor).expect("only dots that were seen are remembered");
            writer.varint(*stamp);
            writer.raw(&key.0);
            writer.varint(actor as u64);
            writer.varint(dot.counter);
        }
    }

    /// Reads what [`RecentWrites::encode`] wrote. `actors` are the ones listed before, each with the highest counter seen of it.
    pub fn decode(reader: &mut Reader, actors: impl Iterator<Item = (Actor, u64)> + Clone) -> Result<Self, DecodeError> {
        let mut writes: Vec<RecentWrite> = Vec::new();
        for _ in 0..reader.count("recent writes")? {
            let stamp = reader.varint("recent stamp")?;
            let key = RequestKey(reader.id("recent request id")?);
            let actor = usize::try_from(reader.varint("recent actor")?).unwrap_or(usize::MAX);
            let counter = reader.varint("recent dot")?;
            let Some((actor, _)) = actors.clone().nth(actor).filter(|(_, seen)| counter <= *seen) else {
                return Err(DecodeError::OutOfRange("recent dot"));
            };
            let write = RecentWrite { stamp, key, dot: Dot { actor, counter } };
            if writes.last().is_some_and(|last| *last >= write) || writes.len() == REMEMBERED_MAX {
                return Err(DecodeError::OutOfRange("order of recent writes"));
            }
            writes.push(write);
        }
        Ok(Self { writes })
    }

    /// What tells two of them apart, for digests.
    pub fn digest_into(&self, writer: &mut Writer) {
        writer.varint(self.writes.len() as u64);
        for RecentWrite { stamp, key, dot } in &self.writes {
            writer.u64(*stamp);
            writer.raw(&key.0);
            writer.raw(&dot.actor.node.0);
            writer.u64(dot.actor.incarnation.0);
            writer.u64(dot.counter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Incarnation, NodeId};
    use crate::random::Random;

    fn write(stamp: u64) -> RecentWrite {
        let actor = Actor { node: NodeId([stamp as u8 % 3; 16]), incarnation: Incarnation(1) };
        RecentWrite { stamp, key: RequestKey([stamp as u8 % 5; 16]), dot: Dot { actor, counter: stamp } }
    }

    fn writes(stamps: impl IntoIterator<Item = u64>) -> RecentWrites {
        let mut writes = RecentWrites::default();
        stamps.into_iter().for_each(|stamp| writes.insert(write(stamp)));
        writes
    }

    fn joined(one: &RecentWrites, other: &RecentWrites) -> RecentWrites {
        let mut all = one.clone();
        all.join(other);
        all
    }

    #[test]
    fn the_newest_are_kept_in_whatever_order_they_come() {
        assert_eq!(writes([12, 3, 9, 1, 4, 10, 2, 11, 6, 5, 8, 7]), writes(5..=12));
        assert_eq!(writes([3, 3, 3]), writes([3]));
        assert_eq!(writes([5, 9]).next_stamp(7), 10);
        assert_eq!(writes([5, 9]).next_stamp(70), 70);
    }

    #[test]
    fn what_is_remembered_takes_as_many_bytes_as_the_head_of_this_module_says() {
        let actor = |node: u8| Actor { node: NodeId([node; 16]), incarnation: Incarnation(1) };
        let actors: Vec<Actor> = (0..3).map(actor).collect();
        // From a first dot at the time of writing to a counter that took a thousand years.
        for (stamp, counter, bytes_each) in [(1_700_000_000_000, 1_000, 25), (1_700_000_000_000, u64::MAX >> 8, 31)] {
            let mut writes = RecentWrites::default();
            for number in 0..REMEMBERED_MAX as u64 {
                let dot = Dot { actor: actor(number as u8 % 3), counter: counter - number };
                writes.insert(RecentWrite { stamp: stamp + number, key: RequestKey([number as u8; 16]), dot });
            }
            let mut writer = Writer::default();
            writes.encode(actors.iter(), &mut writer);
            let encoded = writer.finish();
            assert_eq!(encoded.len(), 1 + REMEMBERED_MAX * bytes_each);
            let seen: Vec<(Actor, u64)> = actors.iter().map(|actor| (*actor, counter)).collect();
            assert_eq!(RecentWrites::decode(&mut Reader::new(encoded), seen.into_iter()), Ok(writes));
        }
        assert_eq!(REMEMBERED_MAX * size_of::<RecentWrite>(), 448);
    }

    #[test]
    fn joining_obeys_the_laws_whatever_is_forgotten() {
        let mut random = Random::new(4);
        for _ in 0..2_000 {
            let mut some = || {
                let count = random.below(2 * REMEMBERED_MAX);
                writes((0..count).map(|_| random.next_u64() % 24))
            };
            let (a, b, c) = (some(), some(), some());
            assert_eq!(joined(&a, &b), joined(&b, &a));
            assert_eq!(joined(&joined(&a, &b), &c), joined(&a, &joined(&b, &c)));
            assert_eq!(joined(&a, &a), a);
            assert_eq!(a.includes(&b), joined(&a, &b) == a, "{a:?} {b:?}");
        }
    }
}
