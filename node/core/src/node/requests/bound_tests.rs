//! What requests in flight may hold in memory.

use std::time::Duration;

use bytes::Bytes;

use crate::config::Config;
use crate::id::{NodeId, RequestId};
use crate::message::Message;
use crate::name::Name;
use crate::node::{Identity, Input, Node, Output};
use crate::request::{ClientHandle, Failure, Operation, Outcome, QuorumWish, Request};
use crate::ring::Ring;
use crate::ring::tests::{node, ring_of};
use crate::storage::{MemoryStorage, Storage};
use crate::time::{Instant, Now};
use crate::version::{Actor, CausalContext, Dot, Object, Value};

const NOW: Now = Now { instant: Instant(1_000_000), wall_ms: 0 };
const VALUE_BYTES: usize = 100;

/// A value that node 2 wrote.
fn found() -> Object {
    let mut object = Object::default();
    let actor = Actor { node: node(2), incarnation: crate::id::Incarnation(1) };
    let value = Value { data: Some(vec![7; VALUE_BYTES].into()), written_ms: 0 };
    object.update(&CausalContext::default(), Dot { actor, counter: 1 }, value);
    object
}

/// Node 1 of three, which holds a value of the name and hears of the others.
fn coordinator(config: Config) -> (Node<MemoryStorage>, Name) {
    let (ring, name) = (ring_of(3, 1), Name::new("b", "k"));
    let mut storage = MemoryStorage::default();
    storage.write(ring.partition_of(&name), &name, &found()).unwrap();
    (started(config, storage, ring), name)
}

/// Node 1 of five, which holds nothing of the name.
fn forwarder(config: Config) -> (Node<MemoryStorage>, Name) {
    let ring = ring_of(5, 3);
    let elsewhere = |name: &Name| !ring.placement(ring.partition_of(name)).involves(node(1));
    let name = (0..).map(|number| Name::new("b", format!("k{number}"))).find(elsewhere).unwrap();
    (started(config, MemoryStorage::default(), ring), name)
}

/// Node 1 of a ring, which hears of the others.
fn started(config: Config, storage: MemoryStorage, ring: Ring) -> Node<MemoryStorage> {
    let (zone, peer_address, client_address) = ("z".into(), String::new(), String::new());
    let identity = Identity { node: node(1), cluster: ring.cluster, zone, peer_address, client_address, generation: 1 };
    let peers: Vec<NodeId> = ring.members.keys().copied().filter(|peer| *peer != node(1)).collect();
    let mut opened = Node::open(identity, config, storage, 1, NOW).unwrap();
    opened.propose_ring(ring, NOW, &mut Vec::new()).unwrap();
    sync(&mut opened);
    for peer in peers {
        let (peer_address, client_address) = ("p".into(), "c".into());
        opened.handle(Input::LinkUp { peer, peer_address, client_address }, NOW, &mut Vec::new()).unwrap();
        hear(&mut opened, peer, Message::Ping { answer: false });
    }
    opened
}

fn hear(at: &mut Node<MemoryStorage>, from: NodeId, message: Message) {
    at.handle(Input::Message { from, message }, NOW, &mut Vec::new()).unwrap();
}

/// Everything so far is on stable storage.
fn sync(at: &mut Node<MemoryStorage>) {
    while let Some(ticket) = at.commit().unwrap() {
        at.handle(Input::Durable { ticket }, NOW, &mut Vec::new()).unwrap();
    }
}

/// What a client that asks now is told at once.
fn ask(at: &mut Node<MemoryStorage>, name: &Name, operation: Operation, now: Now) -> Option<Outcome> {
    ask_for(at, name, operation, QuorumWish::default(), now)
}

fn ask_for(at: &mut Node<MemoryStorage>, name: &Name, operation: Operation, quorum: QuorumWish, now: Now) -> Option<Outcome> {
    let request = Request { name: name.clone(), operation, request_key: None, quorum, timeout_ms: 0 };
    told(at, Input::Request { client: ClientHandle(1), request }, now)
}

/// What the client is told that waits for this.
fn told(at: &mut Node<MemoryStorage>, input: Input, now: Now) -> Option<Outcome> {
    let mut out = Vec::new();
    at.handle(input, now, &mut out).unwrap();
    out.into_iter().find_map(|output| if let Output::Respond { outcome, .. } = output { Some(outcome) } else { None })
}

/// A value beside those that are there.
fn put() -> Operation {
    Operation::Put { data: vec![8; VALUE_BYTES].into(), context: Bytes::new(), create_only: false }
}

fn late() -> Now {
    Now { instant: NOW.instant + Config::default().request_timeout, wall_ms: 0 }
}

#[test]
fn gets_in_flight_hold_no_more_than_the_bound_and_one_value_and_give_it_back() {
    let (mut node, name) = coordinator(Config { get_bytes_max: 2 * VALUE_BYTES, ..Config::default() });
    for _ in 0..2 {
        assert_eq!(ask(&mut node, &name, Operation::Get, NOW), None, "it waits for another replica");
    }
    let refused = ask(&mut node, &name, Operation::Get, NOW);
    assert!(matches!(&refused, Some(Err(Failure::Overloaded(text))) if text.contains("hold 200 bytes")), "{refused:?}");
    assert_eq!(node.counters().requests_refused_overload, 1);
    assert_eq!(ask(&mut node, &name, put(), NOW), None, "puts have a bound of their own");
    node.handle(Input::Tick, late(), &mut Vec::new()).unwrap();
    assert_eq!(node.requests.get_bytes, 0, "their time is over");
    assert!(!matches!(ask(&mut node, &name, Operation::Get, late()), Some(Err(Failure::Overloaded(_)))));
}

/// What peers send is not known when a get begins: they all find nothing here, and as much as they like elsewhere.
#[test]
fn gets_in_flight_hold_no_more_than_the_bound_and_one_value_of_what_peers_send_them() {
    for (r, answered) in [(2, 5), (3, 0)] {
        let config = Config { get_bytes_max: 2 * VALUE_BYTES, ..Config::default() };
        let (mut at, name) = (started(config, MemoryStorage::default(), ring_of(3, 1)), Name::new("b", "k"));
        for _ in 0..5 {
            let quorum = QuorumWish { r: Some(r), ..QuorumWish::default() };
            assert_eq!(ask_for(&mut at, &name, Operation::Get, quorum, NOW), None);
        }
        let numbers: Vec<RequestId> = at.requests.gets.keys().copied().collect();
        assert_eq!((numbers.len(), at.requests.get_bytes), (5, 0));
        let (mut ok, mut refused) = (0, 0);
        for request in numbers {
            let message = Message::Fetched { request, digest: found().digest(), object: Some(found()) };
            match told(&mut at, Input::Message { from: node(2), message }, NOW) {
                None => {}
                Some(Ok(_)) => ok += 1,
                Some(Err(Failure::Overloaded(text))) if text.starts_with("gets in flight hold 200 bytes") => refused += 1,
                Some(other) => panic!("{other:?}"),
            }
            assert!(at.requests.get_bytes <= 3 * VALUE_BYTES, "R = {r}: {} bytes", at.requests.get_bytes);
        }
        // Two have as much as all may, and wait for the third replica: answered, where R is two.
        assert_eq!((ok, ok + refused, at.requests.gets.len()), (answered, answered.max(3), 2), "R = {r}");
        assert_eq!(at.counters().requests_refused_overload, refused);
        at.handle(Input::Tick, late(), &mut Vec::new()).unwrap();
        assert_eq!(at.requests.get_bytes, 0, "their time is over");
    }
}

/// However much it is, one that is alone can be read.
#[test]
fn a_get_that_is_alone_takes_more_than_the_bound() {
    let (mut at, name) = coordinator(Config { get_bytes_max: 1, ..Config::default() });
    assert_eq!(ask(&mut at, &name, Operation::Get, NOW), None);
    let request = *at.requests.gets.keys().next().unwrap();
    let mut other = Object::default();
    let actor = Actor { node: node(3), incarnation: crate::id::Incarnation(1) };
    let value = Value { data: Some(vec![9; VALUE_BYTES].into()), written_ms: 0 };
    other.update(&CausalContext::default(), Dot { actor, counter: 1 }, value);
    let message = Message::Fetched { request, digest: other.digest(), object: Some(other) };
    let outcome = told(&mut at, Input::Message { from: node(3), message }, NOW);
    assert!(matches!(outcome, Some(Ok(_))), "{outcome:?}");
    assert_eq!(at.requests.get_bytes, 2 * VALUE_BYTES);
    let next = ask(&mut at, &Name::new("b", "nothing"), Operation::Get, NOW);
    assert!(matches!(next, Some(Err(Failure::Overloaded(_)))), "none begins beside it, whatever it may find: {next:?}");
}

#[test]
fn writes_that_others_coordinate_hold_no_more_than_the_bound_and_one_value_and_give_it_back() {
    let (mut at, name) = forwarder(Config { put_bytes_max: 2 * VALUE_BYTES, ..Config::default() });
    for _ in 0..2 {
        assert_eq!(ask(&mut at, &name, put(), NOW), None, "it waits for its coordinator");
    }
    let refused = ask(&mut at, &name, put(), NOW);
    assert!(matches!(&refused, Some(Err(Failure::Overloaded(text))) if text.contains("hold 200 bytes")), "{refused:?}");
    assert_eq!(at.counters().requests_refused_overload, 1);
    assert_eq!(ask(&mut at, &name, Operation::Get, NOW), None, "gets have a bound of their own");

    let (request, from) = at.requests.forwards.iter().next().map(|(number, job)| (*number, job.to)).unwrap();
    let message = Message::Forwarded { request, outcome: Err(Failure::Exists) };
    assert_eq!(told(&mut at, Input::Message { from, message }, NOW), Some(Err(Failure::Exists)));
    assert_eq!(at.requests.put_bytes, VALUE_BYTES);
    assert_eq!(ask(&mut at, &name, put(), NOW), None, "there is room again");
    let later = Now { instant: late().instant + Duration::from_secs(1), wall_ms: 0 };
    at.handle(Input::Tick, later, &mut Vec::new()).unwrap();
    assert_eq!(at.requests.put_bytes, 0, "their time is over");
}

#[test]
fn puts_in_flight_hold_no_more_than_the_bound_and_one_object_and_give_it_back() {
    // The first holds the value that it found and its own, and both again as they are written.
    let (mut node, name) = coordinator(Config { put_bytes_max: 4 * VALUE_BYTES + 1_000, ..Config::default() });
    let mut held = Vec::new();
    let refused = loop {
        match ask(&mut node, &name, put(), NOW) {
            None => held.push(node.requests.put_bytes),
            Some(refused) => break refused,
        }
    };
    assert!(held[0] > 4 * VALUE_BYTES && held[0] < 4 * VALUE_BYTES + 300, "{held:?}");
    let (last, before) = (held[held.len() - 1], held[held.len() - 2]);
    assert!(before < 4 * VALUE_BYTES + 1_000 && last >= 4 * VALUE_BYTES + 1_000, "{held:?}");
    let said = format!("puts in flight hold {last} bytes of this node's memory, at most 1400; retry later");
    assert_eq!(refused, Err(Failure::Overloaded(said)));
    assert_eq!(node.counters().requests_refused_overload, 1);
    let deletes = ask(&mut node, &name, Operation::Delete { context: "a".into() }, NOW);
    assert!(matches!(deletes, Some(Err(Failure::Overloaded(_)))), "{deletes:?}");
    assert_eq!(ask(&mut node, &name, Operation::Get, NOW), None, "gets have a bound of their own");

    let numbers: Vec<RequestId> = node.requests.puts.keys().copied().collect();
    for request in &numbers[1..] {
        [2, 3].into_iter().for_each(|peer| {
            hear(&mut node, crate::ring::tests::node(peer), Message::Replicated { request: *request, durable: true })
        });
    }
    sync(&mut node);
    assert_eq!(node.requests.put_bytes, held[0], "all but the first have what they wait for");
    node.handle(Input::Tick, late(), &mut Vec::new()).unwrap();
    assert_eq!(node.requests.put_bytes, 0, "its time is over");
    assert!(!matches!(ask(&mut node, &name, put(), late()), Some(Err(Failure::Overloaded(_)))));
}

#[test]
fn a_replica_that_was_not_asked_for_want_of_room_is_done_without() {
    for (unasked, expected) in [(&[2][..], None), (&[2, 3], Some(Failure::Unknown { acknowledged: 1, required: 2 }))] {
        let (mut at, name) = coordinator(Config::default());
        assert_eq!(ask(&mut at, &name, put(), NOW), None);
        let request = *at.requests.puts.keys().next().unwrap();
        let mut out = Vec::new();
        for peer in unasked {
            at.handle(Input::NoRoom { peer: node(*peer), request }, NOW, &mut out).unwrap();
        }
        if expected.is_none() {
            at.handle(Input::Message { from: node(3), message: Message::Replicated { request, durable: true } }, NOW, &mut out)
                .unwrap();
            while let Some(ticket) = at.commit().unwrap() {
                at.handle(Input::Durable { ticket }, NOW, &mut out).unwrap();
            }
            assert_eq!(at.hints.total(), 1, "it gets the write later");
        }
        let told =
            out.into_iter().find_map(|output| if let Output::Respond { outcome, .. } = output { Some(outcome) } else { None });
        assert_eq!(told.unwrap().err(), expected, "{unasked:?}");
    }
}

#[test]
fn a_request_that_could_not_be_forwarded_for_want_of_room_is_refused_as_that() {
    let (mut at, name) = forwarder(Config::default());
    for operation in [Operation::Get, put()] {
        assert_eq!(ask(&mut at, &name, operation, NOW), None);
        let (request, peer) = at.requests.forwards.iter().next().map(|(number, job)| (*number, job.to)).unwrap();
        let mut out = Vec::new();
        at.handle(Input::NoRoom { peer, request }, NOW, &mut out).unwrap();
        let [Output::Respond { outcome: Err(Failure::Overloaded(said)), .. }] = &out[..] else { panic!("{out:?}") };
        assert!(said.starts_with("too much waits on the link"), "{said}");
        assert_eq!(at.requests.len(), 0);
    }
}
