//! From core to the wire. Nothing can go wrong in this direction.

use bytes::Bytes;
use dynamo_core::gossip::MemberState;
use dynamo_core::id::{Epoch, NodeId, RequestId};
use dynamo_core::message::{Message, NamedDigest, NamedHistory, NamedObject, Purpose, Refusal};
use dynamo_core::name::Name;
use dynamo_core::request::{Evidence, Operation, Outcome, QuorumWish, Request, Success};
use dynamo_core::version::{Digest, Object};

use super::{QUORUM_ABSENT, outcome, reaping};
use crate::v1::{self, forwarded_request, peer_message::Kind, push, refused};

impl From<Message> for v1::PeerMessage {
    fn from(message: Message) -> Self {
        Self { kind: Some(kind(message)) }
    }
}

fn kind(message: Message) -> Kind {
    match message {
        Message::Replicate { request, epoch, name, object, hint_for, synced } => {
            let (request, epoch, object) = (request.0, epoch.0, object.encode());
            let hint_needed = hint_for.is_some_and(|hint| hint.needed);
            let hint_for = hint_for.map(|hint| node(hint.home)).unwrap_or_default();
            let (bucket, key) = (name.bucket, name.key);
            Kind::Replicate(v1::Replicate { request, epoch, bucket, key, object, hint_for, synced, hint_needed })
        }
        Message::Replicated { request, durable } => Kind::Replicated(v1::Replicated { request: request.0, durable }),
        Message::Fetch { request, epoch, name, digest_only } => {
            let (request, epoch) = (request.0, epoch.0);
            Kind::Fetch(v1::Fetch { request, epoch, bucket: name.bucket, key: name.key, digest_only })
        }
        Message::Fetched { request, digest, object } => Kind::Fetched(fetched(request, digest, object)),
        Message::Refused { request, reason, epoch } => Kind::Refused(refusal(request, reason, epoch)),
        Message::Forward { request, hops, body } => {
            Kind::Forward(v1::Forward { request: request.0, hops: hops.into(), body: Some(forwarded_request(body)) })
        }
        Message::Forwarded { request, outcome } => Kind::Forwarded(forwarded(request, outcome)),
        Message::Gossip { epoch, members, wants_answer, wall_ms, current } => {
            let members = members.into_iter().map(member).collect();
            Kind::Gossip(v1::Gossip { epoch: epoch.0, members, wants_answer, wall_ms, current })
        }
        Message::RingRequest { epoch } => Kind::RingRequest(v1::RingRequest { epoch: epoch.0 }),
        Message::RingUpdate { ring } => Kind::RingUpdate(v1::RingUpdate { ring: ring.encode() }),
        Message::Ping { answer } => Kind::Ping(v1::Ping { answer }),
        Message::Push { batch, epoch, partition, purpose, objects } => {
            let (epoch, partition, purpose) = (epoch.0, partition.0, wire_purpose(purpose).into());
            Kind::Push(v1::Push { batch, epoch, partition, purpose, objects: named_objects(objects) })
        }
        Message::Confirm { batch, epoch, partition, reaped } => {
            let reaped = reaping::reaped(reaped);
            Kind::Confirm(v1::Confirm { batch, epoch: epoch.0, partition: partition.0, reaped })
        }
        Message::HistoriesRequest { batch, epoch, partition, histories } => {
            let wire = |NamedHistory { name, history }| v1::PushedObject {
                bucket: name.bucket,
                key: name.key,
                object: history.encode(),
            };
            let histories = histories.into_iter().map(wire).collect();
            Kind::HistoriesRequest(v1::HistoriesRequest { batch, epoch: epoch.0, partition: partition.0, histories })
        }
        Message::HistoriesResponse { batch, lacking } => {
            let lacking = lacking.into_iter().map(key_name).collect();
            Kind::HistoriesResponse(v1::HistoriesResponse { batch, lacking })
        }
        Message::Pushed { batch, refused, epoch } => Kind::Pushed(v1::Pushed { batch, refused, epoch: epoch.0 }),
        Message::TreeRequest { exchange, epoch, partition, root, reaped } => {
            let reaped = reaping::reaped(reaped);
            Kind::TreeRequest(v1::TreeRequest { exchange, epoch: epoch.0, partition: partition.0, root: digest(root), reaped })
        }
        Message::TreeResponse { exchange, partition, root, leaves, reaped } => {
            let reaped = reaping::reaped(reaped);
            Kind::TreeResponse(v1::TreeResponse { exchange, partition: partition.0, root: digest(root), leaves, reaped })
        }
        Message::KeysRequest { exchange, partition, leaf, after, until, keys } => {
            let (after, until) = (after.map(key_name), until.map(key_name));
            let (partition, keys) = (partition.0, named_digests(keys));
            Kind::KeysRequest(v1::KeysRequest { exchange, partition, leaf, after, until, keys })
        }
        Message::KeysResponse { exchange, partition, objects, wanted, reached } => {
            let (objects, wanted, reached) = (named_objects(objects), named_digests(wanted), reached.map(key_name));
            Kind::KeysResponse(v1::KeysResponse { exchange, partition: partition.0, objects, wanted, reached })
        }
        Message::ReapAsk { .. } | Message::ReapAnswer { .. } | Message::ReapCommit { .. } => reaping::kind(message),
    }
}

fn digest(digest: Digest) -> Bytes {
    Bytes::copy_from_slice(&digest.0)
}

fn fetched(request: RequestId, found: Digest, object: Option<Object>) -> v1::Fetched {
    let digest_only = object.is_none();
    let object = object.filter(|object| !object.is_empty()).map(|object| object.encode());
    v1::Fetched { request: request.0, digest: digest(found), object, digest_only }
}

fn node(node: NodeId) -> Bytes {
    Bytes::copy_from_slice(&node.0)
}

fn refusal(request: RequestId, reason: Refusal, epoch: Epoch) -> v1::Refused {
    let reason = match reason {
        Refusal::StaleEpoch => refused::Reason::StaleEpoch,
        Refusal::Behind => refused::Reason::Behind,
        Refusal::NotOwner => refused::Reason::NotOwner,
        Refusal::Overloaded => refused::Reason::Overloaded,
        Refusal::Reaped => refused::Reason::Reaped,
    };
    v1::Refused { request: request.0, reason: reason.into(), epoch: epoch.0 }
}

fn wire_purpose(purpose: Purpose) -> push::Purpose {
    match purpose {
        Purpose::Transfer => push::Purpose::Transfer,
        Purpose::Hint => push::Purpose::Hint,
        Purpose::Repair => push::Purpose::Repair,
        Purpose::Handback => push::Purpose::Handback,
    }
}

fn named_objects(objects: Vec<NamedObject>) -> Vec<v1::PushedObject> {
    let wire = |NamedObject { name, object }| v1::PushedObject { bucket: name.bucket, key: name.key, object: object.encode() };
    objects.into_iter().map(wire).collect()
}

fn key_name(name: Name) -> v1::KeyName {
    v1::KeyName { bucket: name.bucket, key: name.key }
}

fn named_digests(digests: Vec<NamedDigest>) -> Vec<v1::KeyDigest> {
    let wire = |NamedDigest { name, digest: found }| v1::KeyDigest { bucket: name.bucket, key: name.key, digest: digest(found) };
    digests.into_iter().map(wire).collect()
}

fn member((id, state): (NodeId, MemberState)) -> v1::GossipMember {
    v1::GossipMember {
        node: node(id),
        generation: state.generation,
        life: state.life,
        version: state.version,
        peer_address: state.peer_address,
        client_address: state.client_address,
        zone: state.zone,
        epoch: state.epoch.0,
        objects: state.objects,
        hints: state.hints,
        buckets_digest: state.buckets_digest,
    }
}

fn forwarded_request(body: Request) -> v1::ForwardedRequest {
    let (kind, value, context) = match body.operation {
        Operation::Get => (forwarded_request::Kind::Get, Bytes::new(), Bytes::new()),
        Operation::Put { data, context, create_only: false } => (forwarded_request::Kind::Put, data, context),
        Operation::Put { data, context, create_only: true } => (forwarded_request::Kind::Create, data, context),
        Operation::Delete { context } => (forwarded_request::Kind::Delete, Bytes::new(), context),
    };
    let QuorumWish { n, r, w, dw, pr, pw } = body.quorum;
    v1::ForwardedRequest {
        kind: kind.into(),
        bucket: body.name.bucket,
        key: body.name.key,
        value,
        context,
        quorum: [r, w, dw, pr, pw].map(|count| count.map_or(QUORUM_ABSENT, u32::from)).into(),
        n: n.map_or(0, u32::from),
        timeout_ms: body.timeout_ms,
        request_id: crate::kv::request_id(body.request_key),
    }
}

fn forwarded(request: RequestId, outcome: Outcome) -> v1::Forwarded {
    let request = request.0;
    match outcome {
        Ok(Success::Got { object, context, evidence }) => {
            let object = object.encode();
            v1::Forwarded { request, object, context, outcome: outcome::GOT, ..with_evidence(evidence) }
        }
        Ok(Success::Written { context, evidence }) => {
            v1::Forwarded { request, context, outcome: outcome::WRITTEN, ..with_evidence(evidence) }
        }
        Err(failure) => {
            let failure = v1::Failure::from(failure);
            v1::Forwarded {
                request,
                outcome: outcome::FAILED,
                epoch: failure.lost_since,
                failure_kind: u32::try_from(failure.kind).unwrap_or_default(),
                failure_message: failure.message,
                acknowledged: failure.acknowledged,
                required: failure.required,
                ..v1::Forwarded::default()
            }
        }
    }
}

fn with_evidence(evidence: Evidence) -> v1::Forwarded {
    let v1::Evidence { epoch, nodes, durable, hinted } = evidence.into();
    v1::Forwarded { epoch, nodes, durable, hinted, ..v1::Forwarded::default() }
}
