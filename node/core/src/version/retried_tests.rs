//! What an object remembers of writes with request ids: the laws of joins hold with it, and a write with two dots is shown once.

use std::collections::BTreeSet;

use super::tests::{actor, put, texts};
use super::{CHECKSUM_SEED, CausalContext, Dot, FORMAT, Object, Value};
use crate::codec::{DecodeError, Writer};
use crate::id::RequestKey;
use crate::random::Random;
use crate::recent_writes::{REMEMBERED_MAX, RecentWrite};

fn write(object: &Object, dot: Dot, key: u8) -> RecentWrite {
    let stamp = object.values().find(|(live, _)| *live == dot).map_or(0, |(_, value)| value.written_ms);
    RecentWrite { stamp, key: RequestKey([key; 16]), dot }
}

fn put_with_key(object: &Object, seen: &CausalContext, node: u8, counter: u64, key: u8) -> Object {
    let dot = Dot { actor: actor(node), counter };
    let mut next = object.clone();
    let written_ms = next.next_stamp(seen.1.next_stamp(0));
    next.update(seen, dot, Value { data: Some(format!("write {key}").into()), written_ms });
    next.remember(write(&next, dot, key));
    next
}

fn joined(one: &Object, other: &Object) -> Object {
    let mut all = one.clone();
    all.join(other);
    all
}

#[test]
fn a_stamp_is_the_wall_clock_or_just_above_what_is_there() {
    let mut object = Object::default();
    assert_eq!(object.next_stamp(7), 7);
    for (node, written_ms) in [(1, 20), (2, 30)] {
        let value = Value { data: None, written_ms };
        object.update(&CausalContext::default(), Dot { actor: actor(node), counter: 1 }, value);
    }
    assert_eq!([9, 30, 31, 99].map(|wall_ms| object.next_stamp(wall_ms)), [31, 31, 31, 99]);
    let dot = Dot { actor: actor(2), counter: 1 };
    object.remember(RecentWrite { stamp: 40, key: RequestKey([1; 16]), dot });
    assert_eq!([9, 40, 99].map(|wall_ms| object.next_stamp(wall_ms)), [41, 41, 99], "also above what is remembered");
}

#[test]
fn a_write_with_two_dots_is_shown_once_and_not_at_all_once_it_is_replaced() {
    let none = CausalContext::default();
    let first = put_with_key(&Object::default(), &none, 1, 1, 7);
    let again = put_with_key(&Object::default(), &none, 2, 1, 7);
    let both = joined(&first, &again);
    assert_eq!(both.values().count(), 2);
    assert_eq!(texts(&both), ["write 7"]);
    assert_eq!(both.context().0.len(), 2, "whoever saw it once has seen both");
    // Whichever dot was read and replaced, at whichever node: the other one does not show it again.
    for (read, other) in [(&first, &again), (&again, &first)] {
        for at in [read, &Object::default()] {
            let replaced = put(at, &read.context(), 3, 1, "new");
            assert_eq!(texts(&joined(&replaced, other)), ["new"]);
        }
    }
    let deleted = joined(&first, &Object::default());
    let mut tombstone = Object::default();
    tombstone.update(&deleted.context(), Dot { actor: actor(3), counter: 1 }, Value { data: None, written_ms: 5 });
    assert_eq!(texts(&joined(&tombstone, &again)), Vec::<String>::new());
}

#[test]
fn a_second_dot_shows_again_when_its_write_is_no_longer_among_the_last_ones() {
    let none = CausalContext::default();
    let first = put_with_key(&Object::default(), &none, 1, 1, 100);
    let again = put_with_key(&Object::default(), &none, 2, 1, 100);
    let mut object = first.clone();
    // Each dot counts, so two of the places are taken by this one write.
    for later in 1..=REMEMBERED_MAX as u64 - 2 {
        object = put_with_key(&object, &object.context(), 3, later, later as u8);
        assert_eq!(texts(&joined(&object, &again)), [format!("write {later}")], "{later} later writes");
    }
    object = put_with_key(&object, &object.context(), 3, 7, 7);
    assert_eq!(texts(&joined(&object, &again)), ["write 100", "write 7"], "its first dot is forgotten");
}

/// Three nodes that coordinate, exchange and retry at random, and every state that they ever had.
fn histories(seed: u64) -> (Vec<Object>, BTreeSet<RecentWrite>) {
    let mut random = Random::new(seed);
    let mut nodes = [Object::default(), Object::default(), Object::default()];
    let (mut states, mut all) = (Vec::new(), BTreeSet::new());
    for counter in 1..40 {
        let (at, from) = (random.below(3), random.below(3));
        let seen = if random.below(3) == 0 { CausalContext::default() } else { nodes[from].context() };
        nodes[at] = match random.below(4) {
            0 => joined(&nodes[at], &nodes[from]),
            1 => put(&nodes[at], &seen, at as u8, counter, &counter.to_string()),
            _ => put_with_key(&nodes[at], &seen, at as u8, counter, random.below(12) as u8),
        };
        all.extend(nodes[at].recent().iter().copied());
        states.push(nodes[at].clone());
    }
    (states, all)
}

#[test]
fn joining_obeys_the_laws_with_all_that_is_remembered() {
    for seed in 0..30 {
        let (states, _) = histories(seed);
        let mut random = Random::new(seed);
        for _ in 0..200 {
            let [a, b, c] = std::array::from_fn(|_| &states[random.below(states.len())]);
            assert_eq!(joined(a, b), joined(b, a));
            assert_eq!(joined(&joined(a, b), c), joined(a, &joined(b, c)));
            assert_eq!(joined(a, a), *a);
            assert_eq!(a.includes(b), joined(a, b) == *a, "{a:?} {b:?}");
            assert_eq!(a.digest() == b.digest(), a.history() == b.history());
            let both = joined(a, b);
            assert_eq!(both.encoded_len(), both.encode().len());
            assert_eq!(Object::decode(both.encode()).as_ref(), Ok(&both));
        }
    }
}

/// What [`Object::shown`] rests on: a dot that was seen is remembered, unless as many later ones are.
#[test]
fn whoever_has_seen_one_of_the_last_writes_with_ids_remembers_it() {
    for seed in 0..200 {
        let (states, all) = histories(seed);
        let last: Vec<&RecentWrite> = all.iter().rev().take(REMEMBERED_MAX).collect();
        for state in &states {
            for write in last.iter().filter(|write| state.has_seen(write.dot)) {
                assert!(state.recent().at(write.dot).is_some(), "seed {seed}: {write:?} is unknown to {state:?}");
            }
        }
    }
}

#[test]
fn an_object_without_request_ids_is_written_as_in_the_first_version() {
    let none = CausalContext::default();
    let plain = put(&Object::default(), &none, 1, 1, "a");
    let remembering = put_with_key(&Object::default(), &none, 1, 1, 7);
    assert_eq!((plain.encode()[0], remembering.encode()[0]), (1, 2));
    assert_eq!(remembering.history().recent(), remembering.recent());
    let bytes = remembering.encode();
    assert_eq!(Object::decode(bytes.clone()), Ok(remembering));
    for length in 0..bytes.len() {
        assert!(Object::decode(bytes.slice(..length)).is_err(), "{length} bytes");
    }
}

#[test]
fn what_is_remembered_of_dots_that_were_never_seen_is_refused() {
    let reason = |actor: u64, counter: u64| {
        let mut writer = Writer::default();
        writer.u8(FORMAT);
        writer.varint(1);
        writer.raw(&[1; 16]);
        writer.u64(1);
        [3, 0, 1, 5].into_iter().for_each(|number| writer.varint(number));
        writer.raw(&[7; 16]);
        writer.varint(actor);
        writer.varint(counter);
        Object::decode(writer.finish_with_checksum(CHECKSUM_SEED)).err()
    };
    assert_eq!(reason(0, 3), None);
    assert_eq!(reason(0, 4), Some(DecodeError::OutOfRange("recent dot")));
    assert_eq!(reason(1, 1), Some(DecodeError::OutOfRange("recent dot")));
    assert_eq!(reason(u64::MAX, 1), Some(DecodeError::OutOfRange("recent dot")));
}
