//! What a coordinator asks of others, and which of their answers count.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use dynamo_core::config::Config;
use dynamo_core::id::{Incarnation, NodeId, RequestId, RequestKey};
use dynamo_core::message::Message;
use dynamo_core::name::Name;
use dynamo_core::node::Input;
use dynamo_core::preference_list;
use dynamo_core::request::{ClientHandle, Failure, Operation, Outcome, QuorumWish, Request, Success};
use dynamo_core::ring::{Ring, Stage};
use dynamo_core::version::{Actor, Dot, Value};

use crate::one::{CLUSTER, One, id, key, put, ring_of, stranger};
use crate::{moving, replicate, without_replicas_on_node_1};

/// Who forwards the requests.
const FORWARDER: u8 = 2;

/// The number under which it asks its peers, and whom.
fn asked(one: &mut One) -> (RequestId, Vec<NodeId>) {
    let asks = |(to, message): (NodeId, Message)| match message {
        Message::Replicate { request, .. } | Message::Fetch { request, .. } => Some((request, to)),
        _ => None,
    };
    let (numbers, peers): (BTreeSet<RequestId>, Vec<NodeId>) = one.sent().into_iter().filter_map(asks).unzip();
    (numbers.into_iter().next().expect("peers are asked"), peers)
}

/// Every peer has done what it was asked for.
fn answer_all(one: &mut One) {
    for (to, message) in one.sent() {
        if let Message::Replicate { request, synced, .. } = message {
            one.hear(to.0[0], Message::Replicated { request, durable: synced });
        }
    }
}

fn is_written(outcome: Option<Outcome>) -> bool {
    matches!(outcome, Some(Ok(Success::Written { .. })))
}

/// No time passes here: nobody waits for a deadline.
#[test]
fn a_put_that_asks_for_one_durable_copy_gets_it_where_its_coordinators_own_counts_in_one_set_or_none() {
    for n in [1, 3] {
        for stage in [None, Some(Stage::WriteBothReadOld), Some(Stage::WriteBothReadNew)] {
            for leaves in [true, false] {
                let first = ring_of(5, 3, n);
                let name = key(&first, leaves && stage.is_some());
                let partition = first.partition_of(&name);
                let other = stranger(&first, partition);
                let (from, to) = if leaves { (id(1), other) } else { (first.placement(partition).replicas[0], id(1)) };
                let mut one = One::start(&first);
                if let Some(stage) = stage {
                    let old = moving(&first, partition, from, to);
                    one.adopt(&old);
                    let set = |next: &mut Ring| {
                        let placement = &mut next.placements[partition.0 as usize];
                        placement.moving.iter_mut().for_each(|moving| moving.stage = stage);
                    };
                    one.adopt(&old.successor(set));
                }
                one.sync();
                one.sent();
                let quorum = QuorumWish { w: Some(n.min(2)), dw: Some(1), ..QuorumWish::default() };
                one.forward(FORWARDER, 1, Request { quorum, ..put(&name, "milk") });
                answer_all(&mut one);
                one.sync();
                assert!(is_written(one.outcome(1)), "N = {n}, {stage:?}, it leaves: {leaves}");
            }
        }
    }
}

#[test]
fn what_a_stand_in_answered_under_an_older_ring_is_no_answer_of_the_home_replica_that_it_became() {
    let first = ring_of(5, 3, 3);
    let name = key(&first, true);
    let partition = first.partition_of(&name);
    let leaver = *first.placement(partition).replicas.iter().find(|node| **node != id(1)).expect("three replicas");
    let stand_in = preference_list::fallbacks(&first, partition)[0];
    let next = first.successor(|next| {
        let replicas = &mut next.placements[partition.0 as usize].replicas;
        replicas.iter_mut().filter(|node| **node == leaver).for_each(|node| *node = stand_in);
    });
    let (write, read) = (put(&name, "milk"), Request { operation: Operation::Get, ..put(&name, "") });
    let written = |request| Message::Replicated { request, durable: true };
    let absent = |request| Message::Fetched { request, digest: Default::default(), object: None };
    let cases: [(Request, &dyn Fn(RequestId) -> Message); 2] = [(write, &written), (read, &absent)];
    for (body, answer) in cases {
        let mut one = One::start(&first);
        one.feed(Input::LinkDown { peer: leaver });
        one.sent();
        one.forward(FORWARDER, 1, body.clone());
        let (former, peers) = asked(&mut one);
        assert!(peers.contains(&stand_in), "{peers:?}");
        one.adopt(&next);
        one.sync();
        let (number, peers) = asked(&mut one);
        assert!(peers.contains(&stand_in), "it is asked again: {peers:?}");
        one.hear(stand_in.0[0], answer(former));
        assert_eq!(one.outcome(1), None, "{body:?}");
        one.hear(stand_in.0[0], answer(number));
        assert!(one.outcome(1).is_some_and(|outcome| outcome.is_ok()), "{body:?}");
    }
}

#[test]
fn a_put_that_its_own_copy_settles_is_sent_and_kept_for_the_others_all_the_same() {
    let ring = ring_of(3, 3, 3);
    let name = key(&ring, true);
    let mut one = One::start(&ring);
    [2, 3].into_iter().for_each(|peer| one.feed(Input::LinkDown { peer: id(peer) }));
    one.sent();
    let quorum = QuorumWish { w: Some(1), dw: Some(0), ..QuorumWish::default() };
    one.forward(FORWARDER, 1, Request { quorum, ..put(&name, "milk") });
    assert!(is_written(one.outcome(1)));
    assert_eq!(asked(&mut one).1, [id(2), id(3)], "they may be back");
    let kept: Vec<NodeId> = one.node.storage().hints().map(|(target, _, _)| target).collect();
    assert_eq!(kept, [id(2), id(3)]);
}

#[test]
fn a_forwarded_write_that_arrives_twice_is_made_once_and_a_get_is_not_remembered() {
    let ring = ring_of(3, 3, 3);
    let name = key(&ring, true);
    let mut one = One::start(&ring);
    let read = Request { operation: Operation::Get, ..put(&name, "") };
    for (number, body, runs) in [(1, put(&name, "milk"), 1), (2, read, 2)] {
        one.sent();
        one.forward(FORWARDER, number, body.clone());
        one.forward(FORWARDER, number, body.clone());
        let asks = |(_, message): &(NodeId, Message)| matches!(message, Message::Replicate { .. } | Message::Fetch { .. });
        assert_eq!(one.sent().iter().filter(|sent| asks(sent)).count(), 2 * runs, "{body:?}");
    }
}

/// It took half a second on its way, which has nothing to do with how little time its client has.
#[test]
fn a_forwarded_write_is_remembered_for_longer_than_its_client_waits() {
    let ring = ring_of(3, 3, 3);
    let body = Request { timeout_ms: 50, ..put(&key(&ring, true), "milk") };
    let mut one = One::start(&ring);
    one.forward(FORWARDER, 1, body.clone());
    one.stand_still(Duration::from_millis(500));
    assert!(one.outcome(1).is_some(), "its client's time is over");
    one.sent();
    one.forward(FORWARDER, 1, body);
    assert_eq!(one.sent(), []);
}

/// Of four nodes, while a partition moves. This node leaves, and the one that comes in its place is away with another; or it stays, and the
/// newcomer is there.
#[test]
fn any_two_nodes_take_a_put_of_a_partition_that_moves_and_answer_a_get() {
    for leaves in [false, true] {
        let first = ring_of(4, 3, 3);
        let name = key(&first, true);
        let partition = first.partition_of(&name);
        let arriving = stranger(&first, partition);
        let others: Vec<NodeId> = first.placement(partition).replicas.iter().filter(|node| **node != id(1)).copied().collect();
        let (from, up) = if leaves { (id(1), others[0]) } else { (others[1], arriving) };
        let mut one = One::start(&first);
        one.adopt(&moving(&first, partition, from, arriving));
        one.sync();
        let down: BTreeSet<NodeId> = others.iter().copied().chain([arriving]).filter(|node| *node != up).collect();
        down.iter().for_each(|peer| one.feed(Input::LinkDown { peer: *peer }));
        one.sent();
        one.forward(up.0[0], 1, put(&name, "milk"));
        let (request, peers) = asked(&mut one);
        assert!(peers.contains(&up), "{peers:?}");
        one.sync();
        assert_eq!(one.outcome(1), None, "it alone has the write");
        one.hear(up.0[0], Message::Replicated { request, durable: true });
        let Some(Ok(Success::Written { evidence, .. })) = one.outcome(1) else { panic!("it leaves: {leaves}") };
        assert_eq!((evidence.nodes, evidence.durable, evidence.hinted), ([id(1), up].into(), 2, 1));
        let kept: BTreeSet<NodeId> = one.node.storage().hints().map(|(target, _, _)| target).collect();
        assert_eq!(kept, down, "they hear of it without anti-entropy");

        one.forward(up.0[0], 2, Request { operation: Operation::Get, ..put(&name, "") });
        let (request, peers) = asked(&mut one);
        assert!(peers.contains(&up), "{peers:?}");
        let digest = one.node.storage().objects().map(|(_, _, object)| object.digest()).next().expect("its own copy");
        one.hear(up.0[0], Message::Fetched { request, digest, object: None });
        assert!(matches!(one.outcome(2), Some(Ok(Success::Got { .. }))), "it leaves: {leaves}");

        one.feed(Input::LinkDown { peer: up });
        one.forward(up.0[0], 3, put(&name, "eggs"));
        assert_eq!(one.outcome(3), Some(Err(Failure::Unavailable { acknowledged: 1, required: 2 })), "one is too few");
    }
}

/// Its process stood still meanwhile: that it should ask others, itself among them, and that the time is over comes with one tick.
#[test]
fn a_get_whose_time_is_over_when_others_are_to_be_asked_is_answered() {
    let ring = ring_of(5, 3, 3);
    let mut one = One::start(&ring);
    one.forward(FORWARDER, 1, Request { operation: Operation::Get, ..put(&key(&ring, false), "") });
    assert_eq!(one.outcome(1), None);
    one.stand_still(Duration::from_secs(60));
    assert_eq!(one.outcome(1), Some(Err(Failure::Unavailable { acknowledged: 0, required: 2 })));
}

/// A member that runs and was declared lost: what it has under way it may have written, and others may have acknowledged.
#[test]
fn who_waits_for_a_member_that_is_declared_lost_is_told_and_of_a_put_that_its_outcome_is_open() {
    let ring = ring_of(5, 3, 3);
    let name = key(&ring, true);
    let mut one = One::start(&ring);
    one.forward(FORWARDER, 1, put(&name, "milk"));
    one.forward(FORWARDER, 2, Request { operation: Operation::Get, ..put(&name, "") });
    assert_eq!((one.outcome(1), one.outcome(2)), (None, None));
    one.adopt(&ring.successor(|next| {
        next.lost.insert(id(1), ring.epoch.next());
        next.members.get_mut(&id(1)).expect("it is a member").weight = 0;
    }));
    let told = [one.outcome(1), one.outcome(2)];
    assert!(matches!(told, [Some(Err(Failure::Unknown { .. })), Some(Err(Failure::Unavailable { .. }))]), "{told:?}");
    for (number, nothing_was_written) in [(1, false), (3, true)] {
        one.forward(FORWARDER, number, put(&name, "milk"));
        let told = one.outcome(number);
        assert_eq!(matches!(told, Some(Err(Failure::Unavailable { .. }))), nothing_was_written, "request {number}: {told:?}");
    }
}

/// Its coordinator has seen nothing of what the context covers, and its clock is behind the one of who wrote that.
#[test]
fn a_put_goes_on_from_the_request_ids_and_the_stamps_that_its_context_tells_of() {
    let ring = ring_of(5, 3, 3);
    let name = key(&ring, true);
    let (milk, eggs) = (RequestKey([1; 16]), RequestKey([2; 16]));
    let with_id = |request_key, context| {
        let operation = Operation::Put { data: "milk".into(), context, create_only: false };
        let quorum = QuorumWish { w: Some(1), ..QuorumWish::default() };
        Request { operation, request_key: Some(request_key), quorum, ..put(&name, "") }
    };
    let mut ahead = One::start(&ring);
    ahead.wait(Duration::from_secs(60), &ring);
    ahead.sent();
    ahead.forward(FORWARDER, 1, with_id(milk, Bytes::new()));
    ahead.sync();
    let Some(Ok(Success::Written { context, .. })) = ahead.outcome(1) else { panic!("one copy is enough") };
    let mut behind = One::on(Default::default(), 1, 2);
    behind.adopt(&ring);
    behind.sync();
    behind.link(&ring);
    behind.forward(FORWARDER, 1, with_id(eggs, context));
    let written = behind.take_sent(|message| match message {
        Message::Replicate { object, .. } => Some(object.clone()),
        _ => None,
    });
    let written = written.expect("it is sent to replicas");
    let stamps = [milk, eggs].map(|key| written.recent().first_of(key).map(|write| write.stamp));
    assert!(matches!(stamps, [Some(milk), Some(eggs)] if milk < eggs), "{stamps:?}");
}

/// What replaced it need not have arrived where the context is used next.
#[test]
fn the_context_of_a_put_covers_nothing_that_its_client_never_saw_though_it_was_replaced_here() {
    let ring = ring_of(5, 3, 3);
    let name = key(&ring, true);
    let mut one = One::start(&ring);
    let (_, milk) = one.put(&name, "milk");
    let mut eggs = milk.clone();
    let dot = Dot { actor: Actor { node: id(2), incarnation: Incarnation(1) }, counter: 1 };
    eggs.update(&milk.context(), dot, Value { data: Some("eggs".into()), written_ms: 0 });
    one.hear(2, replicate(7, ring.epoch, &name, &eggs, None));
    let quorum = QuorumWish { w: Some(1), ..QuorumWish::default() };
    one.forward(FORWARDER, 1, Request { quorum, ..put(&name, "tea") });
    one.sync();
    let Some(Ok(Success::Written { context, .. })) = one.outcome(1) else { panic!("one copy is enough") };
    let seen = dynamo_core::context::decode(context, CLUSTER, &name).expect("it is a context").seen;
    assert!(!milk.values().any(|(dot, _)| seen.covers(dot)), "{seen:?}");
}

/// A full disk, a start, a clock that is off: of the node that was asked, and of no other.
#[test]
fn a_forwarded_request_that_its_coordinator_does_not_serve_goes_on_to_the_next_and_in_the_end_is_coordinated_here() {
    let ring = ring_of(5, 3, 3);
    let name = key(&ring, false);
    let reasons = || {
        let skew = "it is 9 s ahead of most others";
        [Failure::NotServing("its disk is nearly full".into()), Failure::ClockSkew(skew.into()), Failure::NoRing]
    };
    let (write, read) = (put(&name, "milk"), Request { operation: Operation::Get, ..put(&name, "") });
    for body in [write, read] {
        let mut one = One::start(&ring);
        one.sent();
        one.feed(Input::Request { client: ClientHandle(1), request: body.clone() });
        let mut asked_before = BTreeSet::new();
        for reason in reasons() {
            let (to, request) = forwarded(&mut one).expect("another replica is asked");
            assert!(ring.placement(ring.partition_of(&name)).involves(to) && asked_before.insert(to), "{to:?}");
            one.hear(to.0[0], Message::Forwarded { request, outcome: Err(reason) });
            assert_eq!(one.answers, [], "{body:?}");
        }
        let (_, peers) = asked(&mut one);
        assert_eq!(peers.into_iter().collect::<BTreeSet<_>>(), asked_before, "it asks the replicas itself");
    }
}

/// The client decides whether it tries again, and where.
#[test]
fn any_other_answer_to_a_forwarded_put_is_its_clients() {
    let ring = ring_of(5, 3, 3);
    let name = key(&ring, false);
    let unavailable = Failure::Unavailable { acknowledged: 1, required: 2 };
    for failure in [Failure::Exists, Failure::Overloaded("1024 requests are in flight".into()), unavailable] {
        let mut one = One::start(&ring);
        one.sent();
        one.feed(Input::Request { client: ClientHandle(1), request: put(&name, "milk") });
        let (to, request) = forwarded(&mut one).expect("a replica is asked");
        one.hear(to.0[0], Message::Forwarded { request, outcome: Err(failure.clone()) });
        assert_eq!(one.answers, [Err(failure)]);
        assert_eq!(one.sent(), []);
    }
}

/// It says so at once, before it would be given up as silent. So says the second.
#[test]
fn a_forwarded_get_whose_coordinator_reaches_too_few_replicas_is_asked_of_another_once() {
    let ring = ring_of(5, 3, 3);
    let name = key(&ring, false);
    let unavailable = || -> Outcome { Err(Failure::Unavailable { acknowledged: 1, required: 2 }) };
    let mut one = One::start(&ring);
    one.sent();
    let read = Request { operation: Operation::Get, ..put(&name, "") };
    one.feed(Input::Request { client: ClientHandle(1), request: read });
    let (first, request) = forwarded(&mut one).expect("a replica is asked");
    one.hear(first.0[0], Message::Forwarded { request, outcome: unavailable() });
    assert_eq!(one.answers, []);
    let (second, request) = forwarded(&mut one).expect("another one");
    assert_ne!(first, second);
    one.hear(second.0[0], Message::Forwarded { request, outcome: unavailable() });
    assert_eq!(one.answers, [unavailable()]);
}

/// A write with a request id may be asked of a second coordinator when the first is silent. What that one may have made is not made here.
#[test]
fn what_a_silent_coordinator_may_have_written_is_not_coordinated_here() {
    let ring = ring_of(4, 3, 3);
    let name = key(&ring, false);
    let mut one = One::start(&ring);
    one.sent();
    let body = Request { request_key: Some(RequestKey([7; 16])), ..put(&name, "milk") };
    one.feed(Input::Request { client: ClientHandle(1), request: body });
    let (silent, _) = forwarded(&mut one).expect("a replica is asked");
    one.feed(Input::LinkDown { peer: silent });
    for _ in 0..2 {
        assert_eq!(one.answers, []);
        let (to, request) = forwarded(&mut one).expect("another replica is asked");
        assert_ne!(to, silent);
        one.hear(to.0[0], Message::Forwarded { request, outcome: Err(Failure::NoRing) });
    }
    assert_eq!(one.answers, [Err(Failure::Unknown { acknowledged: 0, required: 1 })]);
    assert_eq!(one.sent(), []);
}

#[test]
fn a_request_that_wants_fewer_replicas_asks_its_coordinator_and_the_first_that_can_be_reached() {
    let ring = ring_of(5, 3, 3);
    let name = key(&ring, true);
    let others: Vec<NodeId> =
        ring.placement(ring.partition_of(&name)).replicas.iter().filter(|node| **node != id(1)).copied().collect();
    let (write, read) = (put(&name, "milk"), Request { operation: Operation::Get, ..put(&name, "") });
    let wish = |n| QuorumWish { n: Some(n), ..QuorumWish::default() };
    for body in [write, read] {
        let ask = |one: &mut One, n: u8| {
            one.sent();
            one.feed(Input::Request { client: ClientHandle(n.into()), request: Request { quorum: wish(n), ..body.clone() } });
        };
        let mut one = One::start(&ring);
        ask(&mut one, 3);
        assert_eq!(asked(&mut one).1, others, "all of them");
        ask(&mut one, 2);
        assert_eq!(asked(&mut one).1, others[..1]);
        one.feed(Input::LinkDown { peer: others[0] });
        ask(&mut one, 2);
        assert_eq!(asked(&mut one).1, others[1..], "and nobody stands in");
        ask(&mut one, 1);
        one.sync();
        let answer = one.answers.pop().expect("its own copy is enough").expect("for R and W as well");
        let (Success::Got { evidence, .. } | Success::Written { evidence, .. }) = answer;
        assert_eq!(evidence.nodes, [id(1)], "{body:?}");
        ask(&mut one, 4);
        assert!(matches!(one.answers.pop(), Some(Err(Failure::Invalid(reason))) if reason.starts_with("quorum.n is 4")));
    }
}

/// Each set is asked for as many.
#[test]
fn a_put_that_wants_fewer_replicas_has_its_quorum_in_both_sets_of_a_partition_that_moves() {
    let first = ring_of(5, 3, 3);
    let name = key(&first, true);
    let partition = first.partition_of(&name);
    let leaving = *first.placement(partition).replicas.iter().find(|node| **node != id(1)).expect("three replicas");
    let ring = moving(&first, partition, leaving, stranger(&first, partition));
    let mut one = One::start(&first);
    one.adopt(&ring);
    one.sync();
    one.sent();
    let quorum = QuorumWish { n: Some(2), w: Some(2), dw: Some(0), ..QuorumWish::default() };
    one.feed(Input::Request { client: ClientHandle(1), request: Request { quorum, ..put(&name, "milk") } });
    let (request, peers) = asked(&mut one);
    for set in ring.placement(partition).write_sets() {
        assert_eq!(set.iter().filter(|node| **node == id(1) || peers.contains(node)).count(), 2, "{peers:?} of {set:?}");
    }
    for peer in &peers {
        assert_eq!(one.answers, []);
        one.hear(peer.0[0], Message::Replicated { request, durable: false });
    }
    assert!(is_written(one.answers.pop()));
}

/// Whom the node under test has just asked to coordinate, and its number for that.
fn forwarded(one: &mut One) -> Option<(NodeId, RequestId)> {
    one.sent().into_iter().find_map(|(to, message)| match message {
        Message::Forward { request, .. } => Some((to, request)),
        _ => None,
    })
}

/// Node 1, which is a member still and holds nothing, and a name. Over the quota it may not keep what it makes.
fn leaving() -> (One, Ring, Name) {
    let first = ring_of(5, 3, 3);
    let drained = without_replicas_on_node_1(&first);
    let mut one = One::start_with(Config { hint_bytes_max: 0, ..Config::default() }, &first);
    one.adopt(&drained);
    one.sync();
    one.sent();
    let name = key(&drained, false);
    (one, drained, name)
}

/// Forwarded by a ring under which it was a replica.
#[test]
fn a_node_that_holds_nothing_gives_no_drain_receipt_while_it_coordinates_a_write() {
    let (mut one, drained, name) = leaving();
    let (request, _) = one.forwarded_put(FORWARDER, 1, &name, "milk");
    one.sync();
    let refusal = one.node.drain_receipt().expect_err("it may have to keep a hint yet");
    assert!(refusal.contains("writes are still under way"), "{refusal}");
    for home in drained.placement(drained.partition_of(&name)).replicas {
        one.hear(home.0[0], Message::Replicated { request, durable: true });
    }
    one.sync();
    assert_eq!(one.node.drain_receipt().map(|receipt| receipt.epoch), Ok(drained.epoch));
}

/// A service goes on naming it: there are always some.
#[test]
fn gets_and_requests_that_others_coordinate_hold_up_no_drain_receipt() {
    let (mut one, drained, name) = leaving();
    let read = Request { operation: Operation::Get, ..put(&name, "") };
    one.feed(Input::Request { client: ClientHandle(1), request: put(&name, "milk") });
    one.feed(Input::Request { client: ClientHandle(2), request: read.clone() });
    one.forward(FORWARDER, 1, read);
    let now = dynamo_core::time::Now { instant: Default::default(), wall_ms: 0 };
    assert_eq!((one.node.status(now).requests, one.answers.len(), one.outcome(1)), (3, 0, None));
    assert_eq!(one.node.drain_receipt().map(|receipt| receipt.epoch), Ok(drained.epoch));
}
