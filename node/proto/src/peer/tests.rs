//! Every message reads back from its wire form; nothing else reads as a message, and nothing panics.

use std::sync::Arc;

use bytes::Bytes;
use dynamo_core::gossip::MemberState;
use dynamo_core::hinted_handoff::HintFor;
use dynamo_core::id::{ClusterId, Epoch, Incarnation, NodeId, PartitionId, RequestId, RequestKey};
use dynamo_core::message::{Message, NamedDigest, NamedHistory, NamedObject, Purpose, Refusal};
use dynamo_core::name::Name;
use dynamo_core::random::Random;
use dynamo_core::reaping::{Proof, Question, Reaped};
use dynamo_core::request::{Evidence, Failure, Operation, QuorumWish, Request, Success};
use dynamo_core::ring::{Member, Placement, Ring, RingHash};
use dynamo_core::version::{Actor, CausalContext, Digest, Dot, Object, Value};
use prost::Message as _;

use crate::v1;

fn object() -> Object {
    let mut object = Object::default();
    let actor = Actor { node: NodeId([3; 16]), incarnation: Incarnation(5) };
    let value = Value { data: Some("value".into()), written_ms: 9 };
    object.update(&CausalContext::default(), Dot { actor, counter: 4 }, value);
    object
}

fn ring() -> Ring {
    let node = NodeId([1; 16]);
    Ring {
        cluster: ClusterId([7; 16]),
        epoch: Epoch(2),
        parent: RingHash([6; 32]),
        partition_bits: 1,
        replication: 1,
        members: [(node, Member { zone: "z".into(), weight: 1 })].into(),
        buckets: Default::default(),
        lost: [(NodeId([9; 16]), Epoch(2))].into(),
        operation: None,
        placements: vec![Placement { replicas: vec![node], moving: None }; 2],
    }
}

fn reaped() -> Reaped {
    let mut upto = object().context();
    upto.0.insert(Actor { node: NodeId([9; 16]), incarnation: Incarnation(u64::MAX) }, 1 << 50);
    Reaped { proof: Proof { leader: NodeId([4; 16]), round: 7 }, upto }
}

fn requests() -> Vec<Message> {
    let name = Name::new("b", "k");
    let quorum = QuorumWish { n: None, r: Some(2), w: None, dw: Some(0), pr: None, pw: Some(1) };
    let operations = [
        Operation::Get,
        Operation::Put { data: "v".into(), context: "c".into(), create_only: false },
        Operation::Put { data: Bytes::new(), context: Bytes::new(), create_only: true },
        Operation::Delete { context: "c".into() },
        Operation::Delete { context: Bytes::new() },
    ];
    let forward = |operation| Message::Forward {
        request: RequestId(4),
        hops: 1,
        body: Request {
            name: name.clone(),
            request_key: (operation != Operation::Get).then_some(RequestKey([6; 16])),
            operation,
            quorum,
            timeout_ms: 70,
        },
    };
    let fewer = Message::Forward {
        request: RequestId(5),
        hops: 1,
        body: Request {
            name: name.clone(),
            request_key: None,
            operation: Operation::Get,
            quorum: QuorumWish { n: Some(2), ..quorum },
            timeout_ms: 0,
        },
    };
    operations.map(forward).into_iter().chain([fewer]).collect()
}

fn outcomes() -> Vec<Message> {
    let evidence = Evidence { epoch: Epoch(8), nodes: vec![NodeId([1; 16]), NodeId([2; 16])], durable: 2, hinted: 1 };
    let outcomes = [
        Ok(Success::Got { object: object(), context: "c".into(), evidence: evidence.clone() }),
        Ok(Success::Got { object: Object::default(), context: Bytes::new(), evidence: Evidence::default() }),
        Ok(Success::Written { context: "c".into(), evidence }),
        Err(Failure::Invalid("key: empty".into())),
        Err(Failure::BadContext("checksum does not match".into())),
        Err(Failure::Exists),
        Err(Failure::Unavailable { acknowledged: 1, required: 2 }),
        Err(Failure::Unknown { acknowledged: 1, required: 3 }),
        Err(Failure::Overloaded("requests".into())),
        Err(Failure::NotServing("the node is stopping".into())),
        Err(Failure::ClockSkew("9000 ms ahead".into())),
        Err(Failure::NoRing),
        Err(Failure::DeclaredLost { since: Epoch(4) }),
    ];
    outcomes.map(|outcome| Message::Forwarded { request: RequestId(5), outcome }).into()
}

fn messages() -> Vec<Message> {
    let (request, epoch, partition, exchange) = (RequestId(1), Epoch(2), PartitionId(65_535), 9);
    let name = Name::new("bucket", "key");
    let digest = object().digest();
    let objects = vec![NamedObject { name: name.clone(), object: object() }];
    let histories = vec![NamedHistory { name: name.clone(), history: object().history() }];
    let digests = vec![NamedDigest { name: name.clone(), digest }];
    let state = MemberState {
        generation: 1,
        life: 7,
        version: 2,
        peer_address: "10.0.0.1:7401".into(),
        client_address: "10.0.0.1:7400".into(),
        zone: "z".into(),
        epoch: Epoch(3),
        objects: 4,
        hints: 5,
        buckets_digest: u64::MAX,
    };
    let push = |purpose| Message::Push { batch: 1, epoch, partition, purpose, objects: objects.clone() };
    let refused = |reason| Message::Refused { request, reason, epoch };
    let replicate =
        |hint_for| Message::Replicate { request, epoch, name: name.clone(), object: object(), hint_for, synced: true };
    let keys_request = |after, until| Message::KeysRequest { exchange, partition, leaf: 63, after, until, keys: digests.clone() };
    let mut messages = vec![
        replicate(None),
        replicate(Some(HintFor { home: NodeId([8; 16]), needed: false })),
        replicate(Some(HintFor { home: NodeId([8; 16]), needed: true })),
        Message::Replicated { request, durable: true },
        Message::Fetch { request, epoch, name: name.clone(), digest_only: true },
        Message::Fetched { request, digest, object: Some(object()) },
        Message::Fetched { request, digest: Digest::default(), object: Some(Object::default()) },
        Message::Fetched { request, digest, object: None },
        Message::Gossip { epoch, members: vec![(NodeId([1; 16]), state)], wants_answer: true, wall_ms: 6, current: true },
        Message::RingRequest { epoch },
        Message::RingUpdate { ring: Arc::new(ring()) },
        Message::Ping { answer: true },
        Message::Confirm { batch: 3, epoch, partition, reaped: None },
        Message::Confirm { batch: 3, epoch, partition, reaped: Some(reaped()) },
        Message::Pushed { batch: 3, refused: true, epoch },
        Message::HistoriesRequest { batch: 4, epoch, partition, histories },
        Message::HistoriesResponse { batch: 4, lacking: vec![name.clone()] },
        Message::TreeRequest { exchange, epoch, partition, root: digest, reaped: None },
        Message::TreeRequest { exchange, epoch, partition, root: digest, reaped: Some(reaped()) },
        Message::TreeResponse { exchange, partition, root: digest, leaves: Bytes::from_static(&[1; 32]), reaped: None },
        Message::TreeResponse { exchange, partition, root: digest, leaves: Bytes::new(), reaped: Some(reaped()) },
        keys_request(None, Some(name.clone())),
        keys_request(Some(name.clone()), None),
        Message::KeysResponse { exchange, partition, objects: objects.clone(), wanted: digests.clone(), reached: None },
        Message::KeysResponse {
            exchange,
            partition,
            objects: objects.clone(),
            wanted: digests.clone(),
            reached: Some(name.clone()),
        },
    ];
    messages.extend([Purpose::Transfer, Purpose::Hint, Purpose::Repair, Purpose::Handback].map(push));
    let reasons = [Refusal::StaleEpoch, Refusal::Behind, Refusal::NotOwner, Refusal::Overloaded, Refusal::Reaped];
    messages.extend(reasons.map(refused));
    for question in [Question::Writes, Question::Copies, Question::Equal(digest)] {
        messages.push(Message::ReapAsk { round: 5, epoch, partition, upto: reaped().upto, question });
        messages.push(Message::ReapAnswer { round: 5, partition, question });
    }
    messages.push(Message::ReapCommit { round: 5, partition, names: vec![Name::new("bucket", "key"), Name::new("", "k")] });
    messages.extend(requests());
    messages.extend(outcomes());
    messages
}

#[test]
fn every_message_reads_back_from_its_bytes() {
    for message in messages() {
        let bytes = Bytes::from(v1::PeerMessage::from(message.clone()).encode_to_vec());
        let wire = v1::PeerMessage::decode(bytes).unwrap();
        assert_eq!(Message::try_from(wire), Ok(message));
    }
}

#[test]
fn truncated_and_garbled_bytes_are_errors_and_never_panics() {
    let mut random = Random::new(7);
    let read = |bytes: Vec<u8>| v1::PeerMessage::decode(Bytes::from(bytes)).ok().map(Message::try_from);
    let mut refused = 0;
    for message in messages() {
        let bytes = v1::PeerMessage::from(message.clone()).encode_to_vec();
        for length in 0..bytes.len() {
            // protobuf drops absent fields, so a cut may leave a message; it must never be an equal one by luck.
            let cut = read(bytes[..length].to_vec());
            refused += usize::from(!matches!(cut, Some(Ok(_))));
        }
        for _ in 0..200 {
            let mut garbled = bytes.clone();
            for _ in 0..=random.below(3) {
                let at = random.below(garbled.len().max(1));
                if let Some(byte) = garbled.get_mut(at) {
                    *byte = random.next_u64() as u8;
                }
            }
            let _ = read(garbled);
        }
    }
    for _ in 0..20_000 {
        let length = random.below(80);
        let _ = read((0..length).map(|_| random.next_u64() as u8).collect());
    }
    assert!(refused > 1_000, "{refused}");
    assert!(matches!(read(Vec::new()), Some(Err(_))));
}

#[test]
fn a_wrong_field_is_named() {
    use crate::v1::peer_message::Kind;
    let request = 1;
    let flipped = {
        let mut bytes = object().encode().to_vec();
        bytes[5] ^= 1;
        Bytes::from(bytes)
    };
    let cases = [
        (Kind::Replicate(v1::Replicate { object: flipped, ..Default::default() }), "object: checksum does not match"),
        (
            Kind::Replicate(v1::Replicate { object: object().encode(), hint_for: "short".into(), ..Default::default() }),
            "hint_for: 5 bytes, an identity has 16",
        ),
        (Kind::Fetched(v1::Fetched { request, digest_only: true, ..Default::default() }), "digest: 0 bytes"),
        (Kind::Refused(v1::Refused { request, reason: 77, epoch: 1 }), "reason: 77 is unknown"),
        (Kind::Push(v1::Push { purpose: 3, partition: 65_536, ..Default::default() }), "partition: 65536"),
        (Kind::Forward(v1::Forward { request, hops: 1, body: None }), "body: absent"),
        (Kind::Forward(v1::Forward { request, hops: 1, body: Some(Default::default()) }), "body.quorum: not the five"),
        (Kind::Forwarded(v1::Forwarded { outcome: 9, ..Default::default() }), "outcome: 9 is unknown"),
        (Kind::RingUpdate(v1::RingUpdate { ring: "x".into() }), "ring: not a ring"),
        (Kind::ReapAsk(v1::ReapAsk::default()), "question: absent"),
        (
            Kind::ReapAnswer(v1::ReapAnswer { question: Some(v1::ReapQuestion::default()), ..Default::default() }),
            "question.kind: 0",
        ),
        (
            Kind::ReapAsk(v1::ReapAsk { upto: vec![v1::ActorCounter::default()], ..Default::default() }),
            "upto.node: 0 bytes, an identity has 16",
        ),
        (
            Kind::TreeRequest(v1::TreeRequest { root: vec![0; 16].into(), reaped: "x".into(), ..Default::default() }),
            "reaped: ends within checksum",
        ),
        (Kind::TreeResponse(v1::TreeResponse { leaves: "x".into(), ..Default::default() }), "leaves: 1 bytes, a leaf has 16"),
    ];
    for (kind, expected) in cases {
        let error = Message::try_from(v1::PeerMessage { kind: Some(kind) }).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error} is not {expected}");
    }
}

#[test]
fn spoilt_messages_are_messages_or_refused() {
    use dynamo_fuzz::{Expect, Fuzz, unsealed};
    Fuzz {
        name: "peer message",
        corpus: messages().into_iter().map(|message| v1::PeerMessage::from(message).encode_to_vec()).collect(),
        seal: &unsealed,
        expect: Expect::Stable,
        decode: &|bytes| {
            let wire = v1::PeerMessage::decode(Bytes::copy_from_slice(bytes)).ok()?;
            Some(v1::PeerMessage::from(Message::try_from(wire).ok()?).encode_to_vec())
        },
    }
    .run();
}
