//! What a replica that knows of a partition what was reaped makes of what comes: what is older falls away, and nothing else does.

use dynamo_core::message::Refusal;
use dynamo_core::node::Input;
use dynamo_core::reaping::{Proof, Question, Reaped};
use dynamo_core::request::{ClientHandle, Failure, Operation, Request, Success};

use super::*;
use crate::one::put;

/// Node 1, a replica that has nothing of this partition, with a name in it and a peer.
fn empty() -> (One, Ring, Name, NodeId) {
    let ring = ring(5);
    let name = key(&ring, true);
    let peer = *ring.placement(ring.partition_of(&name)).replicas.iter().find(|node| **node != id(1)).expect("three replicas");
    let mut one = One::start(&ring);
    one.sent();
    (one, ring, name, peer)
}

/// A peer with this tree says that all up to there is reaped.
fn tell(one: &mut One, peer: NodeId, partition: PartitionId, root: Digest, upto: CausalContext) {
    let reaped = Some(Reaped { proof: Proof { leader: peer, round: 1 }, upto });
    let leaves = HashTrees::new(CLUSTER, 3).leaves(partition);
    one.hear(peer.0[0], Message::TreeResponse { exchange: 999, partition, root, leaves, reaped });
    one.sync();
}

/// The values of its copy of a name.
fn stored(one: &One, name: &Name) -> Vec<Bytes> {
    let objects = one.node.storage().objects().filter(|(_, at, _)| *at == name);
    objects.flat_map(|(_, _, object)| object.values().filter_map(|(_, value)| value.data.clone()).collect::<Vec<_>>()).collect()
}

/// It is live at the peer: this node has missed it.
#[test]
fn nothing_is_taken_for_reaped_on_the_word_of_a_peer_with_another_tree() {
    let (mut one, ring, name, peer) = empty();
    let milk = object(2, 7, "milk");
    let partition = ring.partition_of(&name);
    tell(&mut one, peer, partition, root_of(&ring, partition, &name, &milk), milk.context());
    one.hear(peer.0[0], replicate(1, ring.epoch, &name, &milk, None));
    assert_eq!(stored(&one, &name), ["milk"]);
}

#[test]
fn what_was_reaped_first_stays_reaped_when_more_is() {
    let (mut one, ring, name, peer) = empty();
    let (milk, eggs) = (object(2, 7, "milk"), object(3, 7, "eggs"));
    for reaped in [&milk, &eggs] {
        tell(&mut one, peer, ring.partition_of(&name), Digest::default(), reaped.context());
    }
    for (number, late) in [milk, eggs].iter().enumerate() {
        one.hear(peer.0[0], replicate(number as u64, ring.epoch, &name, late, None));
    }
    assert_eq!(stored(&one, &name), [""; 0]);
}

#[test]
fn of_an_object_that_is_newer_in_part_the_part_that_is_reaped_stays_away() {
    let (mut one, ring, name, peer) = empty();
    let mut both = object(2, 7, "milk");
    tell(&mut one, peer, ring.partition_of(&name), Digest::default(), both.context());
    both.join(&object(3, 1, "eggs"));
    one.hear(peer.0[0], replicate(1, ring.epoch, &name, &both, None));
    assert_eq!(stored(&one, &name), ["eggs"]);
}

/// Or a replica that gets the new value first would take the old one, from a late message, for one beside it.
#[test]
fn what_is_written_where_a_tombstone_was_reaped_supersedes_what_that_superseded() {
    for create_only in [true, false] {
        let (mut one, ring, name, peer) = empty();
        let milk = object(2, 7, "milk");
        tell(&mut one, peer, ring.partition_of(&name), Digest::default(), milk.context());
        let operation = Operation::Put { data: "tea".into(), context: Bytes::new(), create_only };
        one.feed(Input::Request { client: ClientHandle(9), request: Request { operation, ..put(&name, "") } });
        let written = one.take_sent(|message| match message {
            Message::Replicate { object, .. } => Some(object.clone()),
            _ => None,
        });
        assert!(written.expect("it is replicated").includes(&milk), "create: {create_only}");
    }
}

/// Nobody has proved anything of what it superseded.
#[test]
fn a_tombstone_that_is_younger_than_the_proof_stays() {
    let (mut one, ring, name, peer) = empty();
    let (partition, epoch) = (ring.partition_of(&name), ring.epoch);
    let deleted = |seen: &Object, by: u8| {
        let mut object = seen.clone();
        let dot = Dot { actor: Actor { node: id(by), incarnation: Incarnation(1) }, counter: 9 };
        object.update(&seen.context(), dot, Value { data: None, written_ms: 0 });
        object
    };
    let older = deleted(&object(2, 7, "milk"), 2);
    one.hear(peer.0[0], replicate(1, epoch, &name, &older, None));
    let (upto, question) = (older.context(), Question::Equal(root_of(&ring, partition, &name, &older)));
    one.hear(peer.0[0], Message::ReapAsk { round: 1, epoch, partition, upto, question });
    one.sync();
    let agrees = |(_, message): &(NodeId, Message)| matches!(message, Message::ReapAnswer { .. });
    assert!(one.sent().iter().any(agrees));
    let mut eggs = older.clone();
    eggs.join(&object(3, 1, "eggs"));
    let younger = deleted(&eggs, 3);
    one.hear(peer.0[0], replicate(2, epoch, &name, &younger, None));
    one.hear(peer.0[0], Message::ReapCommit { round: 1, partition, names: vec![name.clone()] });
    let kept: Vec<&Object> = one.node.storage().objects().map(|(_, _, object)| object).collect();
    assert_eq!(kept, [&younger]);
}

/// It may be older than the tombstone.
#[test]
fn no_tombstone_goes_while_a_node_has_a_copy_that_is_not_its_own() {
    let ring = ring(5);
    let name = key(&ring, false);
    let partition = ring.partition_of(&name);
    let stranger = stranger(&ring, partition);
    for stray in [true, false] {
        let mut one = One::start(&ring);
        if stray {
            one.hear(2, replicate(1, ring.epoch, &name, &object(2, 1, "milk"), Some(stranger)));
            one.sync();
        }
        one.sent();
        let upto = object(2, 7, "milk").context();
        one.hear(2, Message::ReapAsk { round: 1, epoch: ring.epoch, partition, upto, question: Question::Copies });
        one.sync();
        let agrees = one.sent().iter().any(|(_, message)| matches!(message, Message::ReapAnswer { .. }));
        assert_eq!(agrees, !stray);
    }
}

/// They would be fenced as reaped, wherever they arrive.
#[test]
fn dots_that_a_node_has_yet_to_issue_are_not_reaped() {
    let (mut one, ring, name, peer) = empty();
    let (_, first) = one.put(&name, "milk");
    let mut upto = first.context();
    upto.0.insert(newest(&first), 1 << 30);
    let (round, epoch, partition) = (1, ring.epoch, ring.partition_of(&name));
    one.hear(peer.0[0], Message::ReapAsk { round, epoch, partition, upto: upto.clone(), question: Question::Writes });
    one.sync();
    let agrees = |(_, message): &(NodeId, Message)| matches!(message, Message::ReapAnswer { .. });
    assert!(!one.sent().iter().any(agrees), "it knows better");
    let (_, second) = one.put(&name, "eggs");
    assert!(!second.values().all(|(dot, _)| upto.covers(dot)), "{second:?}");
}

/// Whoever asks for it was not asked as that was proven.
#[test]
fn a_write_that_was_reaped_is_acknowledged_by_no_replica_and_ends_its_put() {
    let (mut one, ring, name, peer) = empty();
    let milk = object(2, 7, "milk");
    tell(&mut one, peer, ring.partition_of(&name), Digest::default(), milk.context());
    one.sent();
    one.hear(peer.0[0], replicate(5, ring.epoch, &name, &milk, None));
    one.sync();
    let answers: Vec<Message> = one.sent().into_iter().map(|(_, message)| message).collect();
    assert_eq!(answers, [Message::Refused { request: RequestId(5), reason: Refusal::Reaped, epoch: ring.epoch }]);

    let (request, _) = one.put(&name, "tea");
    one.hear(peer.0[0], Message::Refused { request, reason: Refusal::Reaped, epoch: ring.epoch });
    for home in 2..=5 {
        one.hear(home, Message::Replicated { request, durable: true });
    }
    assert_eq!(one.answers, [Err(Failure::Unknown { acknowledged: 0, required: 2 })]);
}

/// The get began before the tombstone went, or asks one that has missed the delete.
#[test]
fn a_get_shows_nothing_that_a_replica_has_reaped_though_others_hold_it_yet() {
    let (mut one, ring, name, peer) = empty();
    let milk = object(2, 7, "milk");
    one.hear(peer.0[0], replicate(5, ring.epoch, &name, &milk, None));
    one.sync();
    one.sent();
    let request = Request { operation: Operation::Get, ..put(&name, "") };
    one.feed(Input::Request { client: ClientHandle(9), request });
    let number = one.take_sent(|message| match message {
        Message::Fetch { request, .. } => Some(*request),
        _ => None,
    });
    let superseded = Object::superseded(&milk.context());
    let request = number.expect("others are asked");
    one.hear(peer.0[0], Message::Fetched { request, digest: Digest::default(), object: Some(superseded) });
    let [Ok(Success::Got { object, .. })] = &one.answers[..] else { panic!("two have answered: {:?}", one.answers) };
    assert!(!object.has_values(), "{object:?}");
}

#[test]
fn a_replica_that_has_nothing_of_a_name_says_what_is_reaped_with_its_digest_too() {
    let (mut one, ring, name, peer) = empty();
    let milk = object(2, 7, "milk");
    tell(&mut one, peer, ring.partition_of(&name), Digest::default(), milk.context());
    one.sent();
    for digest_only in [true, false, true] {
        let request = RequestId(9);
        one.hear(peer.0[0], Message::Fetch { request, epoch: ring.epoch, name: name.clone(), digest_only });
        let object = Some(Object::superseded(&milk.context()));
        let fetched = Message::Fetched { request, digest: Digest::default(), object };
        assert_eq!(one.sent(), [(peer, fetched)], "the digest only: {digest_only}");
    }
}
