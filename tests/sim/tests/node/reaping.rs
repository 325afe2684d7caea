//! Which tombstones a round is about, and who knows what was reaped.

use dynamo_core::config::{Config, REQUEST_TIMEOUTS_MAX};
use dynamo_core::id::{Epoch, Incarnation, RequestKey};
use dynamo_core::message::{Message, NamedObject, Purpose};
use dynamo_core::name::Name;
use dynamo_core::node::Input;
use dynamo_core::reaping::{ACTORS_MAX, NAMES_PER_ROUND, Proof, Reaped};
use dynamo_core::recent_writes::RecentWrite;
use dynamo_core::version::{Actor, CausalContext, Dot, Object, Value};

use crate::one::{One, id, ring_of};
use crate::{SECOND, arriving, object, replicate};

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

/// It is fenced, answers no such question, and may run for as long as somebody forgets it.
#[test]
fn a_lost_node_that_still_runs_keeps_no_tombstone() {
    let mut ring = ring_of(3, 0, 3);
    ring.placements[0].replicas.sort_unstable();
    let ring = ring.successor(|next| {
        next.lost.insert(id(4), Epoch(2));
    });
    let mut one = One::start(&ring);
    one.feed(Input::LinkUp { peer: id(4), peer_address: "four".into(), client_address: "four".into() });
    one.hear(2, replicate(1, ring.epoch, &Name::new("carts", "z"), &tombstone(1), None));
    one.sync();
    one.sent();
    let mut committed = false;
    for _ in 0..30 {
        one.wait(SECOND, &ring);
        for (to, message) in one.sent() {
            match message {
                Message::ReapAsk { round, partition, question, .. } => {
                    assert_ne!(to, id(4));
                    one.hear(to.0[0], Message::ReapAnswer { round, partition, question });
                }
                Message::ReapCommit { .. } => committed = true,
                _ => {}
            }
        }
        one.sync();
    }
    assert!(committed);
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

/// Without it a retry of the write that it replaced would be a new write.
#[test]
fn a_tombstone_that_remembers_a_request_waits_until_no_client_sends_that_again() {
    let mut ring = ring_of(3, 0, 3);
    ring.placements[0].replicas.sort_unstable();
    let mut one = One::start(&ring);
    let mut deleted = tombstone(1);
    let dot = Dot { actor: Actor { node: id(2), incarnation: Incarnation(1) }, counter: 1 };
    deleted.remember(RecentWrite { stamp: 1, key: RequestKey([1; 16]), dot });
    one.hear(2, replicate(1, ring.epoch, &Name::new("carts", "z"), &deleted, None));
    one.sync();
    one.sent();
    let asks = |one: &mut One| one.sent().iter().any(|(_, message)| matches!(message, Message::ReapAsk { .. }));
    let longest = Config::default().request_timeout * REQUEST_TIMEOUTS_MAX;
    one.wait(longest - SECOND, &ring);
    assert!(!asks(&mut one));
    one.wait(longest + SECOND, &ring);
    assert!(asks(&mut one));
}

/// It may be older than what was reaped, and only the sources know that.
#[test]
fn a_new_replica_takes_nothing_that_is_handed_back_before_its_source_said_what_was_reaped() {
    let (mut one, next, name, source) = arriving();
    let partition = next.partition_of(&name);
    let milk = object(2, 7, "milk");
    let hand_back = |one: &mut One, batch| {
        let objects = vec![NamedObject { name: name.clone(), object: milk.clone() }];
        one.hear(5, Message::Push { batch, epoch: next.epoch, partition, purpose: Purpose::Handback, objects });
        one.sync();
        one.wait(SECOND, &next);
        let answer = |(_, message)| match message {
            Message::Pushed { batch: of, refused, .. } if of == batch => Some(refused),
            _ => None,
        };
        one.sent().into_iter().find_map(answer)
    };
    assert_eq!(hand_back(&mut one, 1), Some(true));
    let reaped = Reaped { proof: Proof { leader: source, round: 1 }, upto: object(2, 7, "milk").context() };
    one.hear(source.0[0], Message::Confirm { batch: 2, epoch: next.epoch, partition, reaped: Some(reaped) });
    one.sync();
    assert_eq!(hand_back(&mut one, 3), Some(false));
    assert_eq!(one.node.storage().objects().count(), 0, "all of it is superseded");
}
