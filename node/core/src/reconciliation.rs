//! Buckets in which the last writer wins (paper 6, "timestamp based reconciliation").
//!
//! Nothing is different in how objects are stored, sent or joined: causality stays exact, and concurrent versions stay in the
//! object until a put replaces them. Two things differ, both at the coordinator: a put replaces everything that the
//! coordinator knows of the object, and a get shows the newest version alone, with a context that covers all. The newest is
//! the one with the highest (stamp, dot): the same one wherever the versions meet, so replicas agree on it as soon as they
//! are equal. A tombstone is a version like any other; what it hides is reaped with it ([`crate::reaping`]).
//!
//! What is promised: the version that is shown was written, and an acknowledged one gives way only to one that knew it or has a
//! higher stamp. What is not: that a write survives a concurrent one. Such losses are counted. Stamps follow the wall clock
//! ([`Object::next_stamp`]), so a node whose clock is wrong refuses such puts ([`crate::clock_skew`]). Deviation from the
//! paper: the stamp is hybrid and not the clock alone, so that a version never loses to one that it replaced.

use crate::version::{CausalContext, Dot, Object, Value};

/// Two writes that were both retried may each have replaced an attempt of the other. Then neither is shown by itself, though one of them
/// was acknowledged, perhaps, and both must not give way to nothing, nor to what they have replaced: whatever replaced an attempt has a
/// higher stamp than it, so if nothing that is shown has a higher stamp than a write's first attempt, the write gave way to one of those
/// that are not shown, and the newest of these is.
fn newest_value(object: &Object) -> Option<(Dot, &Value)> {
    let stamp = |(dot, value): &(Dot, &Value)| (value.written_ms, *dot);
    let shown = object.shown().max_by_key(stamp);
    let highest = shown.as_ref().map(stamp);
    let gave_way_to_none = |(dot, value): &(Dot, &Value)| object.first_stamp(*dot, value) > highest;
    object.values().filter(gave_way_to_none).max_by_key(stamp).or(shown)
}

/// What a get shows of `object`: the newest version alone. It is for an answer only: it does not know what it hides.
pub fn newest(object: &Object) -> Object {
    let mut shown = Object::default();
    if let Some((dot, value)) = newest_value(object) {
        shown.update(&CausalContext::default(), dot, value.clone());
    }
    shown
}

/// Whether a get shows a live value.
pub fn exists(object: &Object) -> bool {
    newest_value(object).is_some_and(|(_, value)| value.data.is_some())
}

/// What a put with the context `seen` covers when its coordinator knows `object`: both. And how many versions go that the
/// writer had not seen.
pub fn cover_all(object: &Object, mut seen: CausalContext) -> (CausalContext, u64) {
    let discarded = object.values().filter(|(dot, _)| !seen.covers(*dot)).count() as u64;
    for (actor, counter) in object.context().0 {
        let known = seen.0.get_or_insert_with(actor, u64::default);
        *known = counter.max(*known);
    }
    seen.1.join(object.recent());
    (seen, discarded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Incarnation, NodeId, RequestKey};
    use crate::recent_writes::RecentWrite;
    use crate::version::Actor;

    fn dot(node: u8, counter: u64) -> Dot {
        Dot { actor: Actor { node: NodeId([node; 16]), incarnation: Incarnation(1) }, counter }
    }

    fn object(versions: &[(u8, u64, u64, Option<&'static str>)]) -> Object {
        let mut object = Object::default();
        for (node, counter, written_ms, data) in versions {
            let value = Value { data: data.map(Into::into), written_ms: *written_ms };
            object.update(&CausalContext::default(), dot(*node, *counter), value);
        }
        object
    }

    fn shown(object: &Object) -> Vec<&[u8]> {
        object.siblings().map(|(data, _)| &data[..]).collect()
    }

    #[test]
    fn the_highest_stamp_is_shown_then_the_highest_dot_and_a_tombstone_is_a_version() {
        type Versions<'a> = &'a [(u8, u64, u64, Option<&'static str>)];
        let cases: [(Versions, &[&[u8]]); 6] = [
            (&[], &[]),
            (&[(1, 5, 30, Some("a")), (2, 1, 20, Some("b"))], &[b"a"]),
            // By one actor, the later dot with the lower stamp: from a time before stamps were hybrid.
            (&[(1, 5, 30, Some("a")), (1, 6, 20, Some("b"))], &[b"a"]),
            (&[(1, 5, 30, Some("a")), (2, 1, 30, Some("b"))], &[b"b"]),
            (&[(1, 5, 30, Some("a")), (2, 1, 40, None)], &[]),
            (&[(1, 5, 50, Some("a")), (2, 1, 40, None)], &[b"a"]),
        ];
        for (versions, expected) in cases {
            let object = object(versions);
            assert_eq!(shown(&newest(&object)), expected, "{versions:?}");
            assert_eq!(exists(&object), !expected.is_empty(), "{versions:?}");
        }
    }

    #[test]
    fn of_two_retried_writes_that_replaced_an_attempt_of_each_other_the_newest_is_shown() {
        let attempt = |before: &Object, at: Dot, key: u8, written_ms: u64| {
            let mut object = before.clone();
            let (covered, _) = cover_all(before, CausalContext::default());
            object.update(&covered, at, Value { data: Some(if key == 1 { "one" } else { "two" }.into()), written_ms });
            object.remember(RecentWrite { stamp: written_ms, key: RequestKey([key; 16]), dot: at });
            object
        };
        // At one node the first write, then the second; at another the second again, then the first again.
        let mut both = attempt(&attempt(&Object::default(), dot(1, 1), 1, 10), dot(1, 2), 2, 20);
        both.join(&attempt(&attempt(&Object::default(), dot(2, 1), 2, 30), dot(2, 2), 1, 40));
        assert_eq!((both.shown().count(), both.values().count()), (0, 2), "each is known to have been replaced");
        assert_eq!(shown(&newest(&both)), [b"one"]);
        assert!(exists(&both));
    }

    #[test]
    fn two_retried_writes_that_replaced_each_other_do_not_give_way_to_an_older_one_that_both_replaced() {
        let of_all = |before: &[&Object], at: Dot, key: u8, written_ms: u64| {
            let mut object = Object::default();
            before.iter().for_each(|before| object.join(before));
            let (covered, _) = cover_all(&object, CausalContext::default());
            object.update(&covered, at, Value { data: Some(vec![b'0' + key].into()), written_ms });
            object.remember(RecentWrite { stamp: written_ms, key: RequestKey([key; 16]), dot: at });
            object
        };
        // An attempt of the oldest, which is all that is left of it to be seen: its first one is forgotten.
        let oldest = of_all(&[], dot(3, 1), 9, 8);
        let mut both = of_all(&[&of_all(&[], dot(1, 1), 1, 10)], dot(1, 2), 2, 20);
        both.join(&of_all(&[&of_all(&[], dot(2, 1), 2, 30)], dot(2, 2), 1, 40));
        both.join(&oldest);
        assert_eq!(shown(&newest(&both)), [b"1"], "the newest of the two, and not the oldest");
        // One that is later than a first attempt may be what that gave way to.
        both.join(&of_all(&[], dot(4, 1), 8, 15));
        assert_eq!(shown(&newest(&both)), [b"2"], "the first may have given way to it, the second began later");
        both.join(&of_all(&[], dot(4, 2), 7, 35));
        assert_eq!(shown(&newest(&both)), [b"7"]);
    }

    #[test]
    fn a_put_covers_what_its_coordinator_knows_and_counts_what_its_writer_had_not_seen() {
        let mut object = object(&[(1, 5, 30, Some("a")), (2, 1, 20, Some("b")), (3, 9, 10, None)]);
        let own = CausalContext([(dot(1, 5).actor, 5), (dot(4, 2).actor, 2)].into(), Default::default());
        let (covered, discarded) = cover_all(&object, own);
        assert_eq!(discarded, 2, "b and the tombstone");
        assert!(covered.covers(dot(4, 2)), "what the writer had seen elsewhere stays covered");
        object.update(&covered, dot(1, 6), Value { data: Some("c".into()), written_ms: 31 });
        assert_eq!(shown(&object), [b"c"]);
        assert_eq!(object.values().count(), 1);
    }
}
