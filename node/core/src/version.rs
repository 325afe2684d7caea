//! Dotted version vector sets: what an object is (paper 4.4).
//!
//! An object holds, per actor, a **watermark** (every dot up to it has been seen here, and is superseded) and the values above
//! it, each with its **dot**. A dot is (actor, counter) and is issued once, ever. An actor is a node's unbroken tenure of its
//! copy of a partition: (node id, incarnation). Because an actor always builds on its own whole copy, a state that knows an
//! actor's dot 9 has seen all of that actor's earlier dots for the object; so "seen up to 9" is exact, never a guess.
//!
//! [`Object::join`] is associative, commutative and idempotent, and is what replication, read repair, hints, anti-entropy and
//! transfers do. Only [`Object::update`] makes something new. Deviation from the paper: actors are the servers' and clocks are
//! never truncated, since dropping a pair forgets what a value has superseded.
//!
//! Beside that, an object remembers its last writes with request ids ([`crate::recent_writes`]): a write that was retried may
//! have two dots, and [`Object::shown`] shows it once. A history is all of this without the values' bytes.

mod encoded;

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use smallvec::SmallVec;

use crate::codec::{DecodeError, Reader, Writer, varint_len};
use crate::id::{Incarnation, NodeId};
use crate::recent_writes::{RecentWrite, RecentWrites};
use crate::small_map::SmallMap;
use encoded::Encoded;

/// Who issues dots.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Actor {
    /// The node.
    pub node: NodeId,
    /// Its tenure of the partition.
    pub incarnation: Incarnation,
}

/// The name of one write.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Dot {
    /// Who coordinated it.
    pub actor: Actor,
    /// The actor's counter; grows with each write, with gaps.
    pub counter: u64,
}

/// What one write stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Value {
    /// The bytes, or `None` for a tombstone.
    pub data: Option<Bytes>,
    /// The coordinator's stamp ([`Object::next_stamp`]). It decides nothing but which dot of a retried write is shown, and which
    /// version where the last writer wins.
    pub written_ms: u64,
}

/// What is known of one actor.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Entry {
    /// Dots up to here are superseded, unless their value is still listed... which it never is: values lie above.
    watermark: u64,
    /// Live values by counter, ascending, all above the watermark.
    values: SmallVec<[(u64, Value); 1]>,
}

/// Most objects have one actor; those that clients reach by several coordinators, up to N.
type Entries = SmallMap<Actor, Entry, 1>;

impl Entry {
    /// The highest counter seen of this actor.
    fn seen(&self) -> u64 {
        self.values.last().map_or(self.watermark, |(counter, _)| *counter)
    }
}

/// What a reader has seen: per actor, the highest counter; and what is remembered of the request ids of these dots. A put with it
/// supersedes exactly that.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CausalContext(pub SmallMap<Actor, u64, 3>, pub RecentWrites);

impl CausalContext {
    /// Nothing has been seen.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `dot` has been seen.
    pub fn covers(&self, dot: Dot) -> bool {
        self.0.get(&dot.actor).is_some_and(|seen| dot.counter <= *seen)
    }

    /// Whether it covers all that `other` covers.
    pub fn includes(&self, other: &CausalContext) -> bool {
        other.0.iter().all(|(actor, counter)| self.0.get(actor).is_some_and(|seen| counter <= seen))
    }

    /// All that either covers. What is remembered of request ids stays this one's.
    pub fn join(&mut self, other: &CausalContext) {
        for (actor, counter) in other.0.iter() {
            let seen = self.0.get_or_insert_with(*actor, u64::default);
            *seen = (*seen).max(*counter);
        }
    }
}

/// All that is known of one name: its concurrent values, and what they have superseded. A request passes it from hand to hand, so
/// copies share what it consists of until one is changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Object(Arc<Contents>);

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Contents {
    entries: Entries,
    /// Of dots that were seen here.
    recent: RecentWrites,
    /// Its canonical bytes, while they are known; whatever changes the object forgets them.
    encoded: Encoded,
}

/// What an object without request ids is written in: nodes of the first version read it.
const FORMAT_WITHOUT_RECENT: u8 = 1;
const FORMAT: u8 = 2;
pub(crate) const CHECKSUM_SEED: u64 = 0x6479_6e61_6d6f_0001;
const RECENT_SEED: u64 = 0x6479_6e61_6d6f_0002;

static NOTHING: LazyLock<Arc<Contents>> = LazyLock::new(Arc::default);

impl Default for Object {
    fn default() -> Self {
        Self(NOTHING.clone())
    }
}

impl Object {
    fn of(entries: Entries, recent: RecentWrites, encoded: Encoded) -> Self {
        Self(Arc::new(Contents { entries, recent, encoded }))
    }

    /// What it consists of, to be changed: nobody else's copy is, and its bytes are not known any more.
    fn change(&mut self) -> &mut Contents {
        let contents = Arc::make_mut(&mut self.0);
        contents.encoded.forget();
        contents
    }

    /// Nothing is known: no value, no history.
    pub fn is_empty(&self) -> bool {
        self.0.entries.is_empty()
    }

    /// No value, and everything that `seen` covers is superseded: what is known of a name whose tombstone was reaped.
    pub fn superseded(seen: &CausalContext) -> Self {
        let entry = |(actor, counter): (&Actor, &u64)| (*actor, Entry { watermark: *counter, values: SmallVec::new() });
        Self::of(Entries::in_order(seen.0.iter().map(entry)), RecentWrites::default(), Encoded::default())
    }

    /// There is a value, perhaps a tombstone.
    pub fn has_values(&self) -> bool {
        self.values().next().is_some()
    }

    /// There are values, and all of them are tombstones. One that is hidden from readers is none.
    pub fn is_tombstone(&self) -> bool {
        self.has_values() && self.values().all(|(_, value)| value.data.is_none())
    }

    /// What a reader of this object has seen.
    pub fn context(&self) -> CausalContext {
        CausalContext(self.0.entries.iter().map(|(actor, entry)| (*actor, entry.seen())).collect(), self.0.recent.clone())
    }

    /// The concurrent values with their dots, tombstones included.
    pub fn values(&self) -> impl Iterator<Item = (Dot, &Value)> {
        self.0.entries.iter().flat_map(|(actor, entry)| {
            entry.values.iter().map(|(counter, value)| (Dot { actor: *actor, counter: *counter }, value))
        })
    }

    /// The concurrent values as readers see them, tombstones included: of a write that has several dots, since it was retried
    /// where its first attempt was not known, the first one; and none if one of them is superseded, for then the write was made
    /// and has been replaced. Contexts cover those that are not shown too.
    pub fn shown(&self) -> impl Iterator<Item = (Dot, &Value)> {
        self.values().filter(|(dot, _)| !self.is_hidden(*dot))
    }

    fn is_hidden(&self, dot: Dot) -> bool {
        let Some(own) = self.0.recent.at(dot) else { return false };
        let others = self.0.recent.iter().filter(|other| other.key == own.key && other.dot != dot);
        others.into_iter().any(|other| !self.is_live(other.dot) || other < own)
    }

    /// The lowest stamp, with its dot, that is known of the write whose attempt is live at `dot`.
    pub fn first_stamp(&self, dot: Dot, value: &Value) -> Option<(u64, Dot)> {
        let own = self.0.recent.at(dot).map(|own| own.key);
        let attempts =
            self.0.recent.iter().filter(|attempt| Some(attempt.key) == own).map(|attempt| (attempt.stamp, attempt.dot));
        attempts.chain([(value.written_ms, dot)]).min()
    }

    fn is_live(&self, dot: Dot) -> bool {
        let entry = self.0.entries.get(&dot.actor);
        entry.is_some_and(|entry| entry.values.iter().any(|(counter, _)| *counter == dot.counter))
    }

    /// The concurrent values that are shown and not tombstones.
    pub fn siblings(&self) -> impl Iterator<Item = (&Bytes, u64)> {
        self.shown().filter_map(|(_, value)| value.data.as_ref().map(|data| (data, value.written_ms)))
    }

    /// How many bytes all its values have.
    pub fn value_bytes(&self) -> usize {
        self.values().map(|(_, value)| value.data.as_ref().map_or(0, Bytes::len)).sum()
    }

    /// The same history without the values' bytes: enough to compare, update and digest.
    pub fn history(&self) -> Object {
        let bare = |(counter, value): &(u64, Value)| (*counter, Value { data: None, written_ms: value.written_ms });
        let entry = |(actor, entry): (&Actor, &Entry)| {
            let values = entry.values.iter().map(bare).collect();
            (*actor, Entry { watermark: entry.watermark, values })
        };
        let entries = Entries::in_order(self.0.entries.iter().map(entry));
        Self::of(entries, self.0.recent.clone(), Encoded::default())
    }

    /// The stamp of a write on top of this object: the wall clock, or just above every stamp here if the clock is behind. So
    /// whoever writes knowing a version has a higher stamp than it, whatever the clocks do.
    pub fn next_stamp(&self, wall_ms: u64) -> u64 {
        let highest = self.values().map(|(_, value)| value.written_ms).max();
        self.0.recent.next_stamp(highest.map_or(wall_ms, |highest| wall_ms.max(highest.saturating_add(1))))
    }

    /// The last writes with request ids.
    pub fn recent(&self) -> &RecentWrites {
        &self.0.recent
    }

    /// Remembers the request id of a write that was seen here.
    pub fn remember(&mut self, write: RecentWrite) {
        assert!(self.has_seen(write.dot), "{write:?} was not seen");
        self.change().recent.insert(write);
    }

    /// How many actors' counters the object carries.
    pub fn actors(&self) -> usize {
        self.0.entries.len()
    }

    /// How many it carries after an update by somebody who has seen `seen`, but for the updating actor. Nothing is merged for it: an
    /// [`Object::update`] that brings many makes room for them one by one.
    pub fn actors_with(&self, seen: &CausalContext) -> usize {
        self.actors() + seen.0.keys().filter(|actor| !self.0.entries.contains_key(actor)).count()
    }

    /// Whether `dot` was seen here, live or superseded.
    pub fn has_seen(&self, dot: Dot) -> bool {
        self.0.entries.get(&dot.actor).is_some_and(|entry| dot.counter <= entry.seen())
    }

    /// Whether a dot of `own`'s actor below `own` was seen here, live or replaced since, that `seen` does not cover.
    pub fn has_unseen_below(&self, own: Dot, seen: &CausalContext) -> bool {
        let Some(entry) = self.0.entries.get(&own.actor) else { return false };
        let covered = seen.0.get(&own.actor).copied().unwrap_or_default();
        entry.watermark > covered || entry.values.iter().any(|(counter, _)| *counter > covered && *counter < own.counter)
    }

    /// A coordinated write: `value` under the fresh `dot` supersedes what `seen` covers and is concurrent with the rest.
    ///
    /// `self` must be the actor's own whole copy, and `dot` above every dot the actor has issued.
    pub fn update(&mut self, seen: &CausalContext, dot: Dot, value: Value) {
        let Contents { entries, recent, .. } = self.change();
        recent.join(&seen.1);
        for (actor, counter) in seen.0.iter() {
            let entry = entries.get_or_insert_with(*actor, Entry::default);
            entry.watermark = entry.watermark.max(*counter);
            let watermark = entry.watermark;
            entry.values.retain(|(counter, _)| *counter > watermark);
        }
        let entry = entries.get_or_insert_with(dot.actor, Entry::default);
        assert!(dot.counter > entry.seen(), "dot {} of {:?} is issued twice", dot.counter, dot.actor);
        entry.values.push((dot.counter, value));
    }

    /// All that either knows. A value is kept if both have it, or one has it and the other has never seen it.
    pub fn join(&mut self, other: &Object) {
        if self.0.entries.is_empty() && self.0.recent.is_empty() {
            *self = other.clone();
            return;
        }
        let Contents { entries, recent, .. } = self.change();
        recent.join(&other.0.recent);
        for (actor, theirs) in other.0.entries.iter() {
            let ours = entries.get_or_insert_with(*actor, Entry::default);
            ours.watermark = ours.watermark.max(theirs.watermark);
            for (counter, value) in &theirs.values {
                match ours.values.binary_search_by_key(counter, |(known, _)| *known) {
                    Ok(at) => ours.values[at].1 = value.clone(),
                    Err(at) => ours.values.insert(at, (*counter, value.clone())),
                }
            }
            let watermark = ours.watermark;
            ours.values.retain(|(counter, _)| *counter > watermark);
        }
    }

    /// Joining `other` would change nothing: all of its history is here. Of two of which neither includes the other, each has seen
    /// something that the other has not.
    pub fn includes(&self, other: &Object) -> bool {
        let entries = other.0.entries.iter().all(|(actor, theirs)| {
            self.0.entries.get(actor).is_some_and(|ours| {
                let known = |counter: &u64| ours.values.iter().any(|(own, _)| own == counter);
                ours.watermark >= theirs.watermark
                    && theirs.values.iter().all(|(counter, _)| *counter <= ours.watermark || known(counter))
            })
        });
        entries && self.0.recent.includes(&other.0.recent)
    }

    /// A 128-bit digest of the history: equal exactly when the histories are (values follow from their dots).
    pub fn digest(&self) -> Digest {
        self.digest_in(&mut Writer::with_capacity(self.0.entries.len() * 64))
    }

    /// [`Object::digest`], with a writer whose room is used again: every write takes a digest on each replica.
    pub fn digest_in(&self, writer: &mut Writer) -> Digest {
        if self.is_empty() {
            return Digest::default();
        }
        writer.clear();
        let seed = if self.0.recent.is_empty() { CHECKSUM_SEED } else { RECENT_SEED };
        if !self.0.recent.is_empty() {
            self.0.recent.digest_into(writer);
        }
        for (actor, entry) in self.0.entries.iter() {
            writer.raw(&actor.node.0);
            writer.u64(actor.incarnation.0);
            writer.varint(entry.watermark);
            writer.varint(entry.values.len() as u64);
            for (counter, _) in &entry.values {
                writer.varint(*counter);
            }
        }
        Digest(xxhash_rust::xxh3::xxh3_128_with_seed(writer.written(), seed).to_be_bytes())
    }

    /// The canonical bytes, with a checksum. Made once: a write is stored and sent to each replica in the same bytes.
    pub fn encode(&self) -> Bytes {
        self.0.encoded.get_or_make(|| self.encode_anew())
    }

    fn encode_anew(&self) -> Bytes {
        let recent = self.0.recent.iter().len();
        let mut writer = Writer::with_capacity(self.len_without_recent() + recent * 32);
        writer.u8(if self.0.recent.is_empty() { FORMAT_WITHOUT_RECENT } else { FORMAT });
        writer.varint(self.0.entries.len() as u64);
        for (actor, entry) in self.0.entries.iter() {
            writer.raw(&actor.node.0);
            writer.u64(actor.incarnation.0);
            writer.varint(entry.watermark);
            writer.varint(entry.values.len() as u64);
            for (counter, value) in &entry.values {
                writer.varint(*counter);
                writer.varint(value.written_ms);
                match &value.data {
                    Some(data) => {
                        writer.u8(1);
                        writer.bytes(data);
                    }
                    None => writer.u8(0),
                }
            }
        }
        if !self.0.recent.is_empty() {
            self.0.recent.encode(self.0.entries.iter().map(|(actor, _)| actor), &mut writer);
        }
        writer.finish_with_checksum(CHECKSUM_SEED)
    }

    /// How many bytes [`Object::encode`] makes; most objects' without making them.
    pub fn encoded_len(&self) -> usize {
        if let Some(length) = self.0.encoded.len() {
            return length;
        }
        if !self.0.recent.is_empty() {
            return self.encode().len();
        }
        self.len_without_recent()
    }

    fn len_without_recent(&self) -> usize {
        let entries = self.0.entries.iter().map(|(_, entry)| {
            let values = entry.values.iter().map(|(counter, value)| {
                let data = value.data.as_ref().map_or(0, |data| varint_len(data.len() as u64) + data.len());
                varint_len(*counter) + varint_len(value.written_ms) + 1 + data
            });
            24 + varint_len(entry.watermark) + varint_len(entry.values.len() as u64) + values.sum::<usize>()
        });
        1 + varint_len(self.0.entries.len() as u64) + entries.sum::<usize>() + 8
    }

    /// Reads what [`Object::encode`] wrote; values share the input's memory.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let encoded = Encoded::known(bytes.clone());
        let mut reader = Reader::verified(bytes, CHECKSUM_SEED)?;
        let format = reader.u8("format")?;
        if !matches!(format, FORMAT_WITHOUT_RECENT | FORMAT) {
            return Err(DecodeError::UnknownFormat { found: format, known: FORMAT });
        }
        let mut entries: SmallVec<[(Actor, Entry); 1]> = SmallVec::new();
        for _ in 0..reader.count("actors")? {
            let node = NodeId(reader.id("actor node")?);
            let actor = Actor { node, incarnation: Incarnation(reader.u64("actor incarnation")?) };
            if entries.last().is_some_and(|(previous, _)| *previous >= actor) {
                return Err(DecodeError::OutOfRange("order of actors"));
            }
            entries.push((actor, decode_entry(&mut reader)?));
        }
        let recent = match format {
            FORMAT_WITHOUT_RECENT => RecentWrites::default(),
            _ => RecentWrites::decode(&mut reader, entries.iter().map(|(actor, entry)| (*actor, entry.seen())))?,
        };
        if format == FORMAT && recent.is_empty() {
            return Err(DecodeError::OutOfRange("recent writes"));
        }
        reader.end()?;
        Ok(Self::of(Entries::in_order(entries), recent, encoded))
    }
}

fn decode_entry(reader: &mut Reader) -> Result<Entry, DecodeError> {
    let watermark = reader.varint("watermark")?;
    let mut entry = Entry { watermark, values: SmallVec::new() };
    for _ in 0..reader.count("values")? {
        let counter = reader.varint("dot")?;
        if counter <= entry.seen() {
            return Err(DecodeError::OutOfRange("order of dots"));
        }
        let written_ms = reader.varint("written_ms")?;
        let data = match reader.u8("value kind")? {
            0 => None,
            1 => Some(reader.bytes("value")?),
            _ => return Err(DecodeError::OutOfRange("value kind")),
        };
        entry.values.push((counter, Value { data, written_ms }));
    }
    Ok(entry)
}

/// A digest of an object's history; all zero when there is no object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Digest(pub [u8; 16]);

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod retried_tests;

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn actor(node: u8) -> Actor {
        Actor { node: NodeId([node; 16]), incarnation: Incarnation(1) }
    }

    fn value(text: &str) -> Value {
        Value { data: Some(Bytes::copy_from_slice(text.as_bytes())), written_ms: 0 }
    }

    pub(super) fn put(object: &Object, seen: &CausalContext, node: u8, counter: u64, text: &str) -> Object {
        let mut next = object.clone();
        next.update(seen, Dot { actor: actor(node), counter }, value(text));
        next
    }

    pub(super) fn texts(object: &Object) -> Vec<String> {
        object.siblings().map(|(data, _)| String::from_utf8(data.to_vec()).unwrap()).collect()
    }

    #[test]
    fn the_papers_cart_is_reconciled_as_in_figure_3() {
        let none = CausalContext::default();
        let d1 = put(&Object::default(), &none, 1, 1, "D1");
        let d2 = put(&d1, &d1.context(), 1, 2, "D2");
        let includes = |one: &Object, other: &Object| (one.includes(other), other.includes(one));
        assert_eq!(includes(&d2, &d1), (true, false));
        let d3 = put(&d2, &d2.context(), 2, 1, "D3");
        let d4 = put(&d2, &d2.context(), 3, 1, "D4");
        assert_eq!(includes(&d3, &d4), (false, false), "they are concurrent");
        let mut read = d3.clone();
        read.join(&d4);
        assert_eq!(texts(&read), ["D3", "D4"]);
        let d5 = put(&read, &read.context(), 1, 3, "D5");
        assert_eq!(texts(&d5), ["D5"]);
        for older in [&d1, &d2, &d3, &d4] {
            assert_eq!(includes(&d5, older), (true, false));
        }
    }

    #[test]
    fn a_put_supersedes_what_its_context_covers_and_nothing_else() {
        let none = CausalContext::default();
        let first = put(&Object::default(), &none, 1, 3, "a");
        let both = put(&first, &none, 1, 7, "b");
        assert_eq!(texts(&both), ["a", "b"]);
        let merged = put(&both, &first.context(), 1, 9, "c");
        assert_eq!(texts(&merged), ["b", "c"]);
        assert_eq!(texts(&put(&merged, &merged.context(), 2, 1, "d")), ["d"]);
    }

    #[test]
    fn how_many_actors_an_update_would_bring_is_known_before_it() {
        let object = put(&put(&Object::default(), &CausalContext::default(), 2, 1, "a"), &CausalContext::default(), 4, 1, "b");
        let cases: [(&[u8], usize); 4] = [(&[], 2), (&[2, 4], 2), (&[1, 2, 3], 4), (&[1, 3, 5], 5)];
        for (seen, expected) in cases {
            let seen = CausalContext(seen.iter().map(|node| (actor(*node), 1)).collect(), RecentWrites::default());
            assert_eq!(object.actors_with(&seen), expected);
            assert_eq!(put(&object, &seen, 4, 2, "c").actors(), expected);
        }
    }

    #[test]
    fn interleaved_writers_make_two_siblings_and_not_a_hundred() {
        let mut object = Object::default();
        let mut contexts = [CausalContext::default(), CausalContext::default()];
        for counter in 1..=100_u64 {
            let writer = (counter % 2) as usize;
            object = put(&object, &contexts[writer], 1, counter, &counter.to_string());
            // Each writer knows its own last write only.
            contexts[writer] = CausalContext([(actor(1), counter)].into(), RecentWrites::default());
        }
        assert!(texts(&object).len() <= 2, "{:?}", texts(&object));
    }

    #[test]
    fn a_superseded_value_does_not_come_back_by_a_late_join() {
        let none = CausalContext::default();
        let old = put(&Object::default(), &none, 1, 1, "old");
        let mut new = put(&old, &old.context(), 2, 1, "new");
        new.join(&old);
        assert_eq!(texts(&new), ["new"]);
    }

    #[test]
    #[should_panic(expected = "issued twice")]
    fn a_dot_is_never_issued_twice() {
        let object = put(&Object::default(), &CausalContext::default(), 1, 5, "a");
        put(&object, &CausalContext::default(), 1, 5, "b");
    }

    #[test]
    fn an_object_reads_back_from_its_bytes_and_from_no_others() {
        let none = CausalContext::default();
        let mut object = put(&Object::default(), &none, 1, 1, "one");
        object = put(&object, &none, 2, 200, "two");
        object.update(&none, Dot { actor: actor(3), counter: 1 }, Value { data: None, written_ms: 1_700_000_000_000 });
        let bytes = object.encode();
        assert_eq!(object.encoded_len(), bytes.len());
        assert_eq!(Object::decode(bytes.clone()), Ok(object));
        for length in 0..bytes.len() {
            assert!(Object::decode(bytes.slice(..length)).is_err(), "{length} bytes");
        }
    }
}
