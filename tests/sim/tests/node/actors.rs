//! An object names so many actors and no more, and how many they are is seen before.

use dynamo_core::config::OBJECT_ACTORS_MAX;
use dynamo_core::id::Incarnation;
use dynamo_core::request::Failure;
use dynamo_core::version::{Actor, CausalContext, Object};

use crate::one::{CLUSTER, One, id, key, ring};

fn of(actors: usize) -> CausalContext {
    let actor = |at: usize| Actor { node: id(9), incarnation: Incarnation(at as u64) };
    CausalContext((0..actors).map(|at| (actor(at), 1)).collect(), Default::default())
}

#[test]
fn a_put_that_brings_more_actors_than_an_object_may_name_is_refused_and_one_at_the_bound_is_not() {
    let ring = ring(5);
    let name = key(&ring, true);
    let token = |seen: &CausalContext| dynamo_core::context::encode(seen, None, CLUSTER, &name);
    let mut one = One::start(&ring);
    one.try_put(&name, "milk", token(&of(OBJECT_ACTORS_MAX)));
    assert!(matches!(&one.answers[..], [Err(Failure::ObjectTooLarge(_))]), "{:?}", one.answers);
    assert_eq!(one.node.counters().puts_refused_actors, 1);
    assert_eq!(one.node.storage().objects().count(), 0);
    let (_, mut object) = one.put_with(&name, "milk", token(&of(OBJECT_ACTORS_MAX - 1)));
    for value in ["eggs", "flour"] {
        assert_eq!(object.actors(), OBJECT_ACTORS_MAX);
        object = one.put_with(&name, value, token(&object.context())).1;
    }
    assert_eq!(object.siblings().count(), 1, "what a get shows can be replaced");
}

/// A client may make up as many as fit into a context. That merges nothing, and costs no dot.
#[test]
fn a_put_whose_context_alone_brings_too_many_actors_is_refused_before_it_is_made() {
    let ring = ring(5);
    let name = key(&ring, true);
    let mut one = One::start(&ring);
    let newest = |object: &Object| object.values().map(|(dot, _)| dot.counter).max().expect("a version");
    let before = newest(&one.put(&name, "milk").1);
    one.try_put(&name, "eggs", dynamo_core::context::encode(&of(3 * OBJECT_ACTORS_MAX), None, CLUSTER, &name));
    assert_eq!(one.node.counters().puts_refused_actors, 1);
    assert_eq!(newest(&one.put(&name, "flour").1), before + 1);
}

#[test]
fn a_key_on_its_way_to_too_many_actors_is_seen_before_a_put_is_refused() {
    let ring = ring(5);
    let name = key(&ring, true);
    let mut one = One::start(&ring);
    let counted = |one: &One| one.node.actors().buckets().filter(|(_, count)| *count > 0).collect::<Vec<_>>();
    // What their clients have seen of others; this node is one more.
    let steps = [(0, Some(1)), (99, Some(256)), (1_499, Some(2_048)), (OBJECT_ACTORS_MAX, None)];
    for (at, (others, _)) in steps.into_iter().enumerate() {
        let refused = u64::from(others == OBJECT_ACTORS_MAX);
        one.try_put(&name, "milk", dynamo_core::context::encode(&of(others), None, CLUSTER, &name));
        assert_eq!(one.node.counters().puts_refused_actors, refused);
        assert_eq!(counted(&one), steps[..=at].iter().map(|(_, bound)| (*bound, 1)).collect::<Vec<_>>());
    }
}
