//! Which tombstones a round is about.

use dynamo_core::id::Incarnation;
use dynamo_core::message::Message;
use dynamo_core::name::Name;
use dynamo_core::reaping::{ACTORS_MAX, NAMES_PER_ROUND};
use dynamo_core::version::{Actor, CausalContext, Dot, Object, Value};

use crate::one::{One, id, ring_of};
use crate::{SECOND, replicate};

/// A tombstone over versions of so many actors.
fn tombstone(actors: usize) -> Object {
    let actor = |number: usize| Actor { node: id(2), incarnation: Incarnation(number as u64) };
    let mut seen = CausalContext::default();
    for number in 1..=actors {
        seen.0.insert(actor(number), 1);
    }
    let mut object = Object::default();
    object.update(&seen, Dot { actor: actor(0), counter: 1 }, Value { data: None, written_ms: 0 });
    object
}

#[test]
fn tombstones_that_may_not_go_keep_no_others_from_a_round() {
    let mut ring = ring_of(3, 0, 3);
    ring.placements[0].replicas.sort_unstable();
    let mut one = One::start(&ring);
    let mut put = |name: String, object: &Object| one.hear(2, replicate(1, ring.epoch, &Name::new("carts", name), object, None));
    let refused = tombstone(ACTORS_MAX + 1);
    (0..NAMES_PER_ROUND).for_each(|at| put(format!("k{at:04}"), &refused));
    put("z".into(), &tombstone(1));
    one.sync();
    one.sent();
    let asks = |one: &mut One| one.sent().iter().any(|(_, message)| matches!(message, Message::ReapAsk { .. }));
    one.wait(SECOND, &ring);
    assert!(!asks(&mut one), "a round's worth of those that stay");
    one.wait(61 * SECOND, &ring);
    assert!(asks(&mut one));
}
