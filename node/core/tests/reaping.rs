//! What a node answers when it is asked whether tombstones may go: a yes, or nothing.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use dynamo_core::config::Config;
use dynamo_core::hinted_handoff::HintFor;
use dynamo_core::id::{ClusterId, Epoch, Incarnation, NodeId, PartitionId, RequestId};
use dynamo_core::message::{Message, NamedObject, Purpose};
use dynamo_core::name::Name;
use dynamo_core::node::{Identity, Input, Node, Output};
use dynamo_core::reaping::{Proof, Question, Reaped};
use dynamo_core::request::{ClientHandle, Operation, QuorumWish, Request};
use dynamo_core::ring::{Member, Placement, Ring, RingHash};
use dynamo_core::storage::{MemoryStorage, Storage};
use dynamo_core::time::{Instant, Now};
use dynamo_core::version::{Actor, CausalContext, Digest, Dot, Object, Value};

const CLUSTER: ClusterId = ClusterId([7; 16]);
const PARTITION: PartitionId = PartitionId(0);
const NOW: Now = Now { instant: Instant(1), wall_ms: 1 };
/// The replicas of all partitions are 1, 2 and 3; the node under test is 2, or 4.
const REPLICAS: [NodeId; 3] = [NodeId([1; 16]), NodeId([2; 16]), NodeId([3; 16])];
const OUTSIDER: NodeId = NodeId([4; 16]);

fn ring() -> Ring {
    let member = |node| (node, Member { zone: "z".into(), weight: 1 });
    Ring {
        cluster: CLUSTER,
        epoch: Epoch(1),
        parent: RingHash::default(),
        partition_bits: 0,
        replication: 3,
        buckets: Default::default(),
        lost: BTreeMap::new(),
        operation: None,
        members: REPLICAS.into_iter().chain([OUTSIDER]).map(member).collect::<BTreeMap<_, _>>(),
        placements: vec![Placement { replicas: REPLICAS.to_vec(), moving: None }],
    }
}

/// A node whose writes are on stable storage as soon as they are made.
struct Durable(Node<MemoryStorage>);

impl Durable {
    fn open(node: NodeId) -> Self {
        let identity = Identity {
            node,
            cluster: CLUSTER,
            zone: "z".into(),
            peer_address: "a:1".into(),
            client_address: "a:2".into(),
            generation: 1,
        };
        let opened = Node::open(identity, Config::default(), MemoryStorage::default(), 1, NOW).unwrap();
        let mut durable = Self(opened);
        let mut out = Vec::new();
        durable.0.propose_ring(ring(), NOW, &mut out).unwrap();
        durable.sync(&mut out);
        for peer in REPLICAS.into_iter().chain([OUTSIDER]).filter(|peer| *peer != node) {
            durable.input(Input::LinkUp { peer, peer_address: "a:1".into(), client_address: "a:2".into() });
        }
        durable
    }

    fn sync(&mut self, out: &mut Vec<Output>) {
        if let Some(ticket) = self.0.commit().unwrap() {
            self.0.storage_mut().synced(ticket);
            self.0.handle(Input::Durable { ticket }, NOW, out).unwrap();
        }
    }

    fn input(&mut self, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        self.0.handle(input, NOW, &mut out).unwrap();
        self.sync(&mut out);
        out
    }

    fn hears(&mut self, message: Message) -> Vec<Output> {
        self.input(Input::Message { from: REPLICAS[0], message })
    }

    /// Whether it says yes.
    fn agrees(&mut self, upto: &CausalContext, question: Question) -> bool {
        let (round, epoch, partition, upto) = (5, Epoch(1), PARTITION, upto.clone());
        let out = self.hears(Message::ReapAsk { round, epoch, partition, upto, question });
        let answer = Message::ReapAnswer { round, partition, question };
        out == [Output::Send { to: REPLICAS[0], message: answer }]
    }

    fn holds(&self, name: &Name) -> Option<Object> {
        self.0.storage().objects().find(|(_, at, _)| *at == name).map(|(_, _, object)| object)
    }

    fn root(&self) -> Digest {
        self.0.partition_digest(PARTITION).0
    }
}

fn version(counter: u64, data: Option<&'static str>, over: &Object) -> Object {
    let mut object = over.clone();
    let actor = Actor { node: REPLICAS[0], incarnation: Incarnation(1) };
    let value = Value { data: data.map(Into::into), written_ms: 0 };
    object.update(&over.context(), Dot { actor, counter }, value);
    object
}

fn push(name: &Name, object: &Object) -> Message {
    let objects = vec![NamedObject { name: name.clone(), object: object.clone() }];
    Message::Push { batch: 1, epoch: Epoch(1), partition: PARTITION, purpose: Purpose::Repair, objects }
}

#[test]
fn a_put_in_flight_is_a_no_until_every_replica_has_answered() {
    let mut node = Durable::open(REPLICAS[1]);
    let name = Name::new("b", "k");
    let operation = Operation::Put { data: "v".into(), context: Default::default(), create_only: false };
    let request = Request { name: name.clone(), operation, quorum: QuorumWish::default(), request_key: None, timeout_ms: 0 };
    let out = node.input(Input::Request { client: ClientHandle(1), request });
    let number = out.iter().find_map(|output| match output {
        Output::Send { message: Message::Replicate { request, .. }, .. } => Some(*request),
        _ => None,
    });
    let upto = node.holds(&name).expect("its own copy").context();
    assert!(!node.agrees(&upto, Question::Writes));
    assert!(node.agrees(&CausalContext::default(), Question::Writes), "what is not asked about does not matter");
    for from in [REPLICAS[0], REPLICAS[2]] {
        assert!(!node.agrees(&upto, Question::Writes), "answered to the client, and not settled");
        let request: RequestId = number.expect("the others were asked");
        node.input(Input::Message { from, message: Message::Replicated { request, durable: true } });
    }
    assert!(node.agrees(&upto, Question::Writes));
}

#[test]
fn a_hint_of_the_partition_is_a_no() {
    let mut node = Durable::open(OUTSIDER);
    let (name, object) = (Name::new("b", "k"), version(1, Some("v"), &Object::default()));
    assert!(node.agrees(&object.context(), Question::Copies));
    let (request, epoch) = (RequestId(1), Epoch(1));
    let hint_for = Some(HintFor { home: REPLICAS[2], needed: false });
    node.hears(Message::Replicate { request, epoch, name, object: object.clone(), hint_for, synced: true });
    assert!(!node.agrees(&object.context(), Question::Copies));
    assert!(!node.agrees(&object.context(), Question::Equal(Digest::default())), "nor is it a replica");
}

#[test]
fn another_tree_or_another_ring_is_a_no() {
    let mut node = Durable::open(REPLICAS[1]);
    let (name, object) = (Name::new("b", "k"), version(1, None, &Object::default()));
    node.hears(push(&name, &object));
    let root = node.root();
    assert!(node.agrees(&object.context(), Question::Equal(root)));
    assert!(!node.agrees(&object.context(), Question::Equal(Digest::default())));
    let (round, partition, upto, question) = (5, PARTITION, object.context(), Question::Writes);
    for epoch in [Epoch(0), Epoch(2)] {
        let out = node.hears(Message::ReapAsk { round, epoch, partition, upto: upto.clone(), question });
        assert!(!out.iter().any(|output| matches!(output, Output::Send { message: Message::ReapAnswer { .. }, .. })));
    }
}

#[test]
fn only_the_commit_of_the_round_that_was_agreed_to_takes_a_tombstone() {
    let mut node = Durable::open(REPLICAS[1]);
    let name = Name::new("b", "k");
    let old = version(1, Some("v"), &Object::default());
    let tombstone = version(2, None, &old);
    node.hears(push(&name, &tombstone));
    let commit = |round| Message::ReapCommit { round, partition: PARTITION, names: vec![name.clone()] };
    node.hears(commit(5));
    assert!(node.holds(&name).is_some(), "it agreed to nothing");
    let root = node.root();
    assert!(node.agrees(&tombstone.context(), Question::Equal(root)));
    node.hears(commit(6));
    node.input(Input::Message { from: REPLICAS[2], message: commit(5) });
    assert!(node.holds(&name).is_some(), "to another round, or by another leader");
    node.hears(commit(5));
    assert_eq!(node.holds(&name), None);
    node.hears(push(&name, &old));
    node.hears(push(&name, &tombstone));
    assert_eq!(node.holds(&name), None, "the fence");
    let new = version(3, Some("new"), &Object::default());
    node.hears(push(&name, &new));
    assert_eq!(node.holds(&name).map(|object| object.siblings().count()), Some(1));
}

#[test]
fn a_missed_commit_is_learned_from_a_tree_exchange_and_only_by_who_agreed_or_is_equal() {
    let (name, old) = (Name::new("b", "k"), version(1, Some("v"), &Object::default()));
    let tombstone = version(2, None, &old);
    let reaped = Some(Reaped { proof: Proof { leader: REPLICAS[0], round: 5 }, upto: tombstone.context() });
    let exchange = |root| {
        let (exchange, epoch, partition, reaped) = (1, Epoch(1), PARTITION, reaped.clone());
        Message::TreeRequest { exchange, epoch, partition, root, reaped }
    };
    for (agreed, equal, stored) in [(true, false, false), (false, true, false), (false, false, true)] {
        let mut node = Durable::open(REPLICAS[1]);
        let other = Name::new("b", "other");
        node.hears(push(&other, &version(9, Some("v"), &Object::default())));
        let root = node.root();
        if agreed {
            assert!(node.agrees(&tombstone.context(), Question::Equal(root)));
        }
        node.hears(exchange(if equal { root } else { Digest([9; 16]) }));
        node.hears(push(&name, &old));
        assert_eq!(node.holds(&name).is_some(), stored, "agreed {agreed}, equal {equal}");
    }
}

#[test]
fn what_was_adopted_and_agreed_to_outlives_a_loss_of_power() {
    let mut node = Durable::open(REPLICAS[1]);
    let (name, old) = (Name::new("b", "k"), version(1, Some("v"), &Object::default()));
    let tombstone = version(2, None, &old);
    node.hears(push(&name, &tombstone));
    let root = node.root();
    assert!(node.agrees(&tombstone.context(), Question::Equal(root)));
    let again = |node: Durable| {
        let mut storage = node.0.storage().clone();
        storage.crash();
        let identity = Identity { generation: 2, ..node.0.identity().clone() };
        Durable(Node::open(identity, Config::default(), storage, 2, NOW).unwrap())
    };
    let mut node = again(node);
    let mut out = Vec::new();
    node.sync(&mut out);
    node.hears(Message::ReapCommit { round: 5, partition: PARTITION, names: vec![name.clone()] });
    assert_eq!(node.holds(&name), None);
    let mut node = again(node);
    node.sync(&mut out);
    node.hears(push(&name, &old));
    assert_eq!(node.holds(&name), None);
    assert!(node.0.counters().writes_fenced > 0);
}

/// Node 2 puts a value, and everyone has it: what became of it.
fn put(node: &mut Durable, name: &Name, create_only: bool) -> Object {
    let operation = Operation::Put { data: "v".into(), context: Default::default(), create_only };
    let request = Request { name: name.clone(), operation, quorum: QuorumWish::default(), request_key: None, timeout_ms: 0 };
    for output in node.input(Input::Request { client: ClientHandle(1), request }) {
        if let Output::Send { to: from, message: Message::Replicate { request, .. } } = output {
            node.input(Input::Message { from, message: Message::Replicated { request, durable: true } });
        }
    }
    node.holds(name).expect("its own copy")
}

/// Who made the newest version.
fn newest(object: &Object) -> Actor {
    object.values().max_by_key(|(dot, _)| dot.counter).expect("a version").0.actor
}

/// What covers a dot of this actor that it has not issued.
fn beyond(actor: Actor) -> CausalContext {
    CausalContext([(actor, u64::MAX)].into(), Default::default())
}

#[test]
fn an_own_dot_that_was_not_issued_is_a_no_and_ends_the_actor_that_would_be_fenced() {
    let mut node = Durable::open(REPLICAS[1]);
    let name = Name::new("b", "k");
    let actor = newest(&put(&mut node, &name, false));
    assert_eq!(newest(&put(&mut node, &name, false)), actor);
    assert!(!node.agrees(&beyond(actor), Question::Writes));
    assert_ne!(newest(&put(&mut node, &name, false)), actor, "its dots would be taken for reaped");
    assert!(node.agrees(&beyond(actor), Question::Writes), "an actor that has ended is not in the way");
}

#[test]
fn an_own_dot_that_was_not_issued_and_is_reaped_elsewhere_ends_the_actor() {
    let mut node = Durable::open(REPLICAS[1]);
    let name = Name::new("b", "k");
    let actor = newest(&put(&mut node, &name, false));
    let reaped = Some(Reaped { proof: Proof { leader: REPLICAS[0], round: 5 }, upto: beyond(actor) });
    node.hears(Message::TreeRequest { exchange: 1, epoch: Epoch(1), partition: PARTITION, root: node.root(), reaped });
    assert_ne!(newest(&put(&mut node, &name, false)), actor);
}

#[test]
fn a_name_is_created_above_what_was_reaped() {
    let mut node = Durable::open(REPLICAS[1]);
    let actor = newest(&put(&mut node, &Name::new("b", "k"), false));
    // The next start goes on under the same actor, and finds that all of its dots were reaped.
    node.0.close().unwrap();
    let reaped = Reaped { proof: Proof { leader: REPLICAS[0], round: 5 }, upto: beyond(actor) };
    let mut storage = node.0.storage().clone();
    storage.write_meta(b"reaped/\0\0\0\0", Some(&reaped.encode())).unwrap();
    let identity = Identity { generation: 2, ..node.0.identity().clone() };
    let mut node = Durable(Node::open(identity, Config::default(), storage, 2, NOW).unwrap());
    node.sync(&mut Vec::new());
    for peer in [REPLICAS[0], REPLICAS[2], OUTSIDER] {
        for output in node.input(Input::LinkUp { peer, peer_address: "a:1".into(), client_address: "a:2".into() }) {
            if let Output::Send { to: from, message: message @ Message::Gossip { .. } } = output {
                node.input(Input::Message { from, message });
            }
        }
    }
    assert_eq!(node.0.counters().actors_kept, 1);
    assert_ne!(newest(&put(&mut node, &Name::new("b", "new"), true)), actor);
}
