//! From the wire to core. Everything is checked; a message that is not understood is an error that names its field.

use std::sync::Arc;

use bytes::Bytes;
use dynamo_core::gossip::MemberState;
use dynamo_core::hinted_handoff::HintFor;
use dynamo_core::id::{Epoch, NodeId, PartitionId, RequestId};
use dynamo_core::message::{Message, NamedDigest, NamedHistory, NamedObject, Purpose, Refusal};
use dynamo_core::name::Name;
use dynamo_core::request::{Evidence, Failure, Outcome, Request, Success};
use dynamo_core::ring::Ring;
use dynamo_core::version::{Digest, Object};

use super::{QUORUM_ABSENT, outcome, reaping};
use crate::v1::{self, forwarded_request, peer_message::Kind, push, refused};
use crate::{WireError, id, name};

impl TryFrom<v1::PeerMessage> for Message {
    type Error = WireError;

    fn try_from(wire: v1::PeerMessage) -> Result<Self, WireError> {
        match wire.kind.ok_or_else(|| WireError::new("kind", "absent, or of a later version"))? {
            Kind::Replicate(wire) => replicate(wire),
            Kind::Replicated(wire) => Ok(Self::Replicated { request: RequestId(wire.request), durable: wire.durable }),
            Kind::Fetch(wire) => Ok(Self::Fetch {
                request: RequestId(wire.request),
                epoch: Epoch(wire.epoch),
                name: name(&wire.bucket, &wire.key),
                digest_only: wire.digest_only,
            }),
            Kind::Fetched(wire) => fetched(wire),
            Kind::Refused(wire) => refusal(wire),
            Kind::Forward(wire) => forward(wire),
            Kind::Forwarded(wire) => forwarded(wire),
            Kind::Gossip(wire) => gossip(wire),
            Kind::RingRequest(wire) => Ok(Self::RingRequest { epoch: Epoch(wire.epoch) }),
            Kind::RingUpdate(wire) => {
                let ring = Ring::decode(wire.ring).map_err(|error| WireError::new("ring", error))?;
                Ok(Self::RingUpdate { ring: Arc::new(ring) })
            }
            Kind::Ping(wire) => Ok(Self::Ping { answer: wire.answer }),
            Kind::Push(wire) => pushed_batch(wire),
            Kind::Pushed(wire) => Ok(Self::Pushed { batch: wire.batch, refused: wire.refused, epoch: Epoch(wire.epoch) }),
            Kind::HistoriesRequest(wire) => Ok(Self::HistoriesRequest {
                batch: wire.batch,
                epoch: Epoch(wire.epoch),
                partition: partition(wire.partition)?,
                histories: named_histories(wire.histories)?,
            }),
            Kind::HistoriesResponse(wire) => {
                Ok(Self::HistoriesResponse { batch: wire.batch, lacking: wire.lacking.iter().map(key_name).collect() })
            }
            Kind::TreeRequest(wire) => Ok(Self::TreeRequest {
                exchange: wire.exchange,
                epoch: Epoch(wire.epoch),
                partition: partition(wire.partition)?,
                root: digest(&wire.root, "root")?,
                reaped: reaping::read_reaped(wire.reaped)?,
            }),
            Kind::TreeResponse(wire) => tree_response(wire),
            Kind::Confirm(wire) => Ok(Self::Confirm {
                batch: wire.batch,
                epoch: Epoch(wire.epoch),
                partition: partition(wire.partition)?,
                reaped: reaping::read_reaped(wire.reaped)?,
            }),
            Kind::KeysRequest(wire) => Ok(Self::KeysRequest {
                exchange: wire.exchange,
                partition: partition(wire.partition)?,
                leaf: wire.leaf,
                after: wire.after.as_ref().map(key_name),
                until: wire.until.as_ref().map(key_name),
                keys: named_digests(wire.keys, "keys.digest")?,
            }),
            Kind::KeysResponse(wire) => Ok(Self::KeysResponse {
                exchange: wire.exchange,
                partition: partition(wire.partition)?,
                objects: named_objects(wire.objects)?,
                wanted: named_digests(wire.wanted, "wanted.digest")?,
                reached: wire.reached.as_ref().map(key_name),
            }),
            Kind::ReapAsk(wire) => reaping::ask(wire),
            Kind::ReapAnswer(wire) => reaping::answer(wire),
            Kind::ReapCommit(wire) => reaping::commit(wire),
        }
    }
}

pub(super) fn node(bytes: &[u8], field: &'static str) -> Result<NodeId, WireError> {
    id(bytes, field).map(NodeId)
}

pub(super) fn digest(bytes: &[u8], field: &'static str) -> Result<Digest, WireError> {
    let bytes = bytes.try_into().map_err(|_| WireError::new(field, format!("{} bytes, a digest has 16", bytes.len())))?;
    Ok(Digest(bytes))
}

fn object(bytes: Bytes, field: &'static str) -> Result<Object, WireError> {
    Object::decode(bytes).map_err(|error| WireError::new(field, error))
}

pub(super) fn partition(number: u32) -> Result<PartitionId, WireError> {
    if number > u32::from(u16::MAX) {
        return Err(WireError::new("partition", format!("{number}, the last possible is 65535")));
    }
    Ok(PartitionId(number))
}

fn named_objects(objects: Vec<v1::PushedObject>) -> Result<Vec<NamedObject>, WireError> {
    let core = |wire: v1::PushedObject| {
        let name = name(&wire.bucket, &wire.key);
        Ok(NamedObject { name, object: object(wire.object, "objects.object")? })
    };
    objects.into_iter().map(core).collect()
}

fn named_histories(histories: Vec<v1::PushedObject>) -> Result<Vec<NamedHistory>, WireError> {
    let core = |wire: v1::PushedObject| {
        let name = name(&wire.bucket, &wire.key);
        Ok(NamedHistory { name, history: object(wire.object, "histories.object")? })
    };
    histories.into_iter().map(core).collect()
}

fn key_name(wire: &v1::KeyName) -> Name {
    name(&wire.bucket, &wire.key)
}

fn named_digests(digests: Vec<v1::KeyDigest>, field: &'static str) -> Result<Vec<NamedDigest>, WireError> {
    let core = |wire: v1::KeyDigest| {
        let name = name(&wire.bucket, &wire.key);
        Ok(NamedDigest { name, digest: digest(&wire.digest, field)? })
    };
    digests.into_iter().map(core).collect()
}

fn replicate(wire: v1::Replicate) -> Result<Message, WireError> {
    let hint = |home| HintFor { home, needed: wire.hint_needed };
    let hint_for = if wire.hint_for.is_empty() { None } else { Some(hint(node(&wire.hint_for, "hint_for")?)) };
    Ok(Message::Replicate {
        request: RequestId(wire.request),
        epoch: Epoch(wire.epoch),
        name: name(&wire.bucket, &wire.key),
        object: object(wire.object, "object")?,
        hint_for,
        synced: wire.synced,
    })
}

fn fetched(wire: v1::Fetched) -> Result<Message, WireError> {
    let found = match (wire.digest_only, wire.object) {
        (true, None) => None,
        (true, Some(_)) => return Err(WireError::new("digest_only", "set, and an object is there")),
        (false, None) => Some(Object::default()),
        (false, Some(bytes)) => Some(object(bytes, "object")?),
    };
    Ok(Message::Fetched { request: RequestId(wire.request), digest: digest(&wire.digest, "digest")?, object: found })
}

fn refusal(wire: v1::Refused) -> Result<Message, WireError> {
    let reason = match refused::Reason::try_from(wire.reason) {
        Ok(refused::Reason::StaleEpoch) => Refusal::StaleEpoch,
        Ok(refused::Reason::Behind) => Refusal::Behind,
        Ok(refused::Reason::NotOwner) => Refusal::NotOwner,
        Ok(refused::Reason::Overloaded) => Refusal::Overloaded,
        Ok(refused::Reason::Reaped) => Refusal::Reaped,
        Ok(refused::Reason::Unspecified) | Err(_) => return Err(WireError::new("reason", unknown(wire.reason))),
    };
    Ok(Message::Refused { request: RequestId(wire.request), reason, epoch: Epoch(wire.epoch) })
}

fn pushed_batch(wire: v1::Push) -> Result<Message, WireError> {
    let purpose = match push::Purpose::try_from(wire.purpose) {
        Ok(push::Purpose::Transfer) => Purpose::Transfer,
        Ok(push::Purpose::Hint) => Purpose::Hint,
        Ok(push::Purpose::Repair) => Purpose::Repair,
        Ok(push::Purpose::Handback) => Purpose::Handback,
        Ok(push::Purpose::Unspecified) | Err(_) => return Err(WireError::new("purpose", unknown(wire.purpose))),
    };
    Ok(Message::Push {
        batch: wire.batch,
        epoch: Epoch(wire.epoch),
        partition: partition(wire.partition)?,
        purpose,
        objects: named_objects(wire.objects)?,
    })
}

fn tree_response(wire: v1::TreeResponse) -> Result<Message, WireError> {
    if !wire.leaves.len().is_multiple_of(16) {
        return Err(WireError::new("leaves", format!("{} bytes, a leaf has 16", wire.leaves.len())));
    }
    Ok(Message::TreeResponse {
        exchange: wire.exchange,
        partition: partition(wire.partition)?,
        root: digest(&wire.root, "root")?,
        leaves: wire.leaves,
        reaped: reaping::read_reaped(wire.reaped)?,
    })
}

fn gossip(wire: v1::Gossip) -> Result<Message, WireError> {
    let member = |wire: v1::GossipMember| {
        let state = MemberState {
            generation: wire.generation,
            life: wire.life,
            version: wire.version,
            peer_address: wire.peer_address,
            client_address: wire.client_address,
            zone: wire.zone,
            epoch: Epoch(wire.epoch),
            objects: wire.objects,
            hints: wire.hints,
            buckets_digest: wire.buckets_digest,
        };
        Ok((node(&wire.node, "members.node")?, state))
    };
    let members = wire.members.into_iter().map(member).collect::<Result<_, _>>()?;
    Ok(Message::Gossip {
        epoch: Epoch(wire.epoch),
        members,
        wants_answer: wire.wants_answer,
        wall_ms: wire.wall_ms,
        current: wire.current,
    })
}

fn forward(wire: v1::Forward) -> Result<Message, WireError> {
    let hops = u8::try_from(wire.hops).map_err(|_| WireError::new("hops", unknown(wire.hops)))?;
    let body = wire.body.ok_or_else(|| WireError::new("body", "absent"))?;
    Ok(Message::Forward { request: RequestId(wire.request), hops, body: forwarded_request(body)? })
}

/// The request as its client would have sent it, through the same checks.
fn forwarded_request(wire: v1::ForwardedRequest) -> Result<Request, WireError> {
    let v1::ForwardedRequest { kind, bucket, key, value, context, quorum, timeout_ms, request_id, n } = wire;
    let Ok([r, w, dw, pr, pw]) = <[u32; 5]>::try_from(quorum) else {
        return Err(WireError::new("body.quorum", "not the five counts r, w, dw, pr, pw"));
    };
    let given = |count: u32| (count != QUORUM_ABSENT).then_some(count);
    let n = (n > 0).then_some(n);
    let quorum = Some(v1::Quorum { r: given(r), w: given(w), dw: given(dw), pr: given(pr), pw: given(pw), n });
    let put = |mode: v1::PutMode, value, context| {
        let (bucket, key, quorum, request_id) = (bucket.clone(), key.clone(), quorum, request_id.clone());
        Request::try_from(v1::PutRequest { bucket, key, value, context, mode: mode.into(), quorum, timeout_ms, request_id })
    };
    let request = match forwarded_request::Kind::try_from(kind) {
        Ok(forwarded_request::Kind::Get) => v1::GetRequest { bucket, key, quorum, timeout_ms }.try_into(),
        Ok(forwarded_request::Kind::Put) => put(v1::PutMode::Update, value, context),
        Ok(forwarded_request::Kind::Create) => put(v1::PutMode::CreateOnly, value, context),
        Ok(forwarded_request::Kind::Delete) => {
            v1::DeleteRequest { bucket, key, context, quorum, timeout_ms, request_id }.try_into()
        }
        Err(_) => return Err(WireError::new("body.kind", unknown(kind))),
    };
    request.map_err(|failure: Failure| WireError::new("body", failure))
}

fn forwarded(wire: v1::Forwarded) -> Result<Message, WireError> {
    let request = RequestId(wire.request);
    let (epoch, nodes, durable, hinted) = (wire.epoch, wire.nodes, wire.durable, wire.hinted);
    let evidence = || Evidence::try_from(v1::Evidence { epoch, nodes, durable, hinted });
    let outcome: Outcome = match wire.outcome {
        outcome::GOT => {
            let object = object(wire.object, "object")?;
            Ok(Success::Got { object, context: wire.context, evidence: evidence()? })
        }
        outcome::WRITTEN => Ok(Success::Written { context: wire.context, evidence: evidence()? }),
        outcome::FAILED => Err(Failure::from(v1::Failure {
            kind: i32::try_from(wire.failure_kind).unwrap_or_default(),
            message: wire.failure_message,
            acknowledged: wire.acknowledged,
            required: wire.required,
            lost_since: epoch,
        })),
        other => return Err(WireError::new("outcome", unknown(other))),
    };
    Ok(Message::Forwarded { request, outcome })
}

pub(super) fn unknown(value: impl std::fmt::Display) -> String {
    format!("{value} is unknown to this version")
}
