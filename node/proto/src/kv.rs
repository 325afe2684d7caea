//! What clients send and are told (paper 4.1): `v1` Kv messages to core requests, core outcomes to `v1` answers.
//!
//! Every limit on a request is enforced here, with a message that names the field, the limit and the fix. A failure travels as
//! [`v1::Failure`]: in a session's response, or as the detail of a unary call's status, so that no client has to parse
//! text to tell "nothing was written" from "the outcome is unknown".

use bytes::Bytes;
use dynamo_core::config::{BUCKET_BYTES_MAX, CONTEXT_BYTES_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX};
use dynamo_core::id::{Epoch, NodeId, RequestKey};
use dynamo_core::name::Name;
use dynamo_core::request::{Evidence, Failure, Operation, Outcome, QuorumWish, Request, Success};
use dynamo_core::version::Object;
use prost::Message as _;
use prost_types::Any;
use tonic::{Code, Status};

use crate::v1::{self, failure::Kind, session_request, session_response};
use crate::{WireError, id, name};

/// The metadata in which a call names the cluster that it is for.
pub const CLUSTER_METADATA: &str = "dynamokv-cluster";

impl TryFrom<v1::GetRequest> for Request {
    type Error = Failure;

    fn try_from(wire: v1::GetRequest) -> Result<Self, Failure> {
        let name = checked_name(&wire.bucket, &wire.key)?;
        let (operation, quorum) = (Operation::Get, quorum(wire.quorum)?);
        Ok(Self { name, operation, request_key: None, quorum, timeout_ms: wire.timeout_ms })
    }
}

impl TryFrom<v1::PutRequest> for Request {
    type Error = Failure;

    fn try_from(wire: v1::PutRequest) -> Result<Self, Failure> {
        let name = checked_name(&wire.bucket, &wire.key)?;
        let create_only = match v1::PutMode::try_from(wire.mode) {
            Ok(v1::PutMode::Update) => false,
            Ok(v1::PutMode::CreateOnly) => true,
            Err(_) => return invalid(format!("mode: {} is unknown; use PUT_MODE_UPDATE or PUT_MODE_CREATE_ONLY", wire.mode)),
        };
        let operation = Operation::Put { data: value(wire.value)?, context: context(wire.context)?, create_only };
        let request_key = request_key(&wire.request_id)?;
        Ok(Self { name, operation, request_key, quorum: quorum(wire.quorum)?, timeout_ms: wire.timeout_ms })
    }
}

impl TryFrom<v1::DeleteRequest> for Request {
    type Error = Failure;

    fn try_from(wire: v1::DeleteRequest) -> Result<Self, Failure> {
        let name = checked_name(&wire.bucket, &wire.key)?;
        let operation = Operation::Delete { context: context(wire.context)? };
        let request_key = request_key(&wire.request_id)?;
        Ok(Self { name, operation, request_key, quorum: quorum(wire.quorum)?, timeout_ms: wire.timeout_ms })
    }
}

impl TryFrom<session_request::Request> for Request {
    type Error = Failure;

    fn try_from(wire: session_request::Request) -> Result<Self, Failure> {
        match wire {
            session_request::Request::Get(get) => get.try_into(),
            session_request::Request::Put(put) => put.try_into(),
            session_request::Request::Delete(delete) => delete.try_into(),
        }
    }
}

/// The request of a session's message; an absent one is a failure like any other that the message's id is answered with.
pub fn session_request(wire: Option<session_request::Request>) -> Result<Request, Failure> {
    match wire {
        Some(request) => request.try_into(),
        None => invalid("request: absent; set one of get, put and delete"),
    }
}

impl From<Request> for session_request::Request {
    fn from(request: Request) -> Self {
        let Request { name: Name { bucket, key, .. }, operation, request_key, quorum, timeout_ms } = request;
        let quorum = Some(v1::Quorum::from(quorum));
        let request_id = request_id(request_key);
        match operation {
            Operation::Get => Self::Get(v1::GetRequest { bucket, key, quorum, timeout_ms }),
            Operation::Put { data, context, create_only } => {
                let mode = if create_only { v1::PutMode::CreateOnly } else { v1::PutMode::Update }.into();
                Self::Put(v1::PutRequest { bucket, key, value: data, context, mode, quorum, timeout_ms, request_id })
            }
            Operation::Delete { context } => {
                Self::Delete(v1::DeleteRequest { bucket, key, context, quorum, timeout_ms, request_id })
            }
        }
    }
}

impl From<QuorumWish> for v1::Quorum {
    fn from(wish: QuorumWish) -> Self {
        let wide = |count: Option<u8>| count.map(u32::from);
        Self { r: wide(wish.r), w: wide(wish.w), dw: wide(wish.dw), pr: wide(wish.pr), pw: wide(wish.pw), n: wide(wish.n) }
    }
}

impl From<Outcome> for session_response::Response {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Ok(Success::Got { object, context, evidence }) => Self::Get(got(&object, context, evidence)),
            Ok(Success::Written { context, evidence }) => Self::Put(v1::PutResponse { context, evidence: Some(evidence.into()) }),
            Err(failure) => Self::Failure(failure.into()),
        }
    }
}

/// The answer to a unary get.
pub fn get_response(outcome: Outcome) -> Result<v1::GetResponse, Status> {
    match session_response::Response::from(outcome) {
        session_response::Response::Get(response) => Ok(response),
        session_response::Response::Put(_) => Err(Status::internal("a get was answered like a put")),
        session_response::Response::Failure(failure) => Err(status(failure)),
    }
}

/// The answer to a unary put or delete.
pub fn put_response(outcome: Outcome) -> Result<v1::PutResponse, Status> {
    match session_response::Response::from(outcome) {
        session_response::Response::Put(response) => Ok(response),
        session_response::Response::Get(_) => Err(Status::internal("a put was answered like a get")),
        session_response::Response::Failure(failure) => Err(status(failure)),
    }
}

impl From<Evidence> for v1::Evidence {
    fn from(evidence: Evidence) -> Self {
        let nodes = evidence.nodes.iter().map(|node| Bytes::copy_from_slice(&node.0)).collect();
        Self { epoch: evidence.epoch.0, nodes, durable: evidence.durable, hinted: evidence.hinted }
    }
}

impl TryFrom<v1::Evidence> for Evidence {
    type Error = WireError;

    fn try_from(wire: v1::Evidence) -> Result<Self, WireError> {
        let nodes = wire.nodes.iter().map(|node| id(node, "evidence.nodes").map(NodeId)).collect::<Result<_, _>>()?;
        Ok(Self { epoch: Epoch(wire.epoch), nodes, durable: wire.durable, hinted: wire.hinted })
    }
}

impl From<Failure> for v1::Failure {
    fn from(failure: Failure) -> Self {
        let text = failure.to_string();
        let lost_since = if let Failure::DeclaredLost { since } = failure { since.0 } else { 0 };
        let (kind, message, (acknowledged, required)) = match failure {
            Failure::Invalid(message) => (Kind::Invalid, message, (0, 0)),
            Failure::BadContext(message) => (Kind::BadContext, message, (0, 0)),
            Failure::Exists => (Kind::Exists, text, (0, 0)),
            Failure::Unavailable { acknowledged, required } => (Kind::Unavailable, text, (acknowledged, required)),
            Failure::Unknown { acknowledged, required } => (Kind::Unknown, text, (acknowledged, required)),
            Failure::Overloaded(message) => (Kind::Overloaded, message, (0, 0)),
            Failure::ObjectTooLarge(message) => (Kind::ObjectTooLarge, message, (0, 0)),
            Failure::NotServing(message) => (Kind::NotServing, message, (0, 0)),
            Failure::ClockSkew(message) => (Kind::ClockSkew, message, (0, 0)),
            Failure::NoRing => (Kind::NoRing, text, (0, 0)),
            Failure::DeclaredLost { .. } => (Kind::DeclaredLost, text, (0, 0)),
        };
        Self { kind: kind.into(), message, acknowledged, required, lost_since }
    }
}

impl From<v1::Failure> for Failure {
    fn from(wire: v1::Failure) -> Self {
        let v1::Failure { kind, message, acknowledged, required, lost_since } = wire;
        match Kind::try_from(kind) {
            Ok(Kind::Invalid) => Self::Invalid(message),
            Ok(Kind::BadContext) => Self::BadContext(message),
            Ok(Kind::Exists) => Self::Exists,
            Ok(Kind::Unavailable) => Self::Unavailable { acknowledged, required },
            Ok(Kind::Overloaded) => Self::Overloaded(message),
            Ok(Kind::ObjectTooLarge) => Self::ObjectTooLarge(message),
            Ok(Kind::NotServing) => Self::NotServing(message),
            Ok(Kind::ClockSkew) => Self::ClockSkew(message),
            Ok(Kind::NoRing) => Self::NoRing,
            Ok(Kind::DeclaredLost) => Self::DeclaredLost { since: Epoch(lost_since) },
            // A kind of a later version: the only safe reading is that the write may have happened.
            Ok(Kind::Unknown | Kind::Unspecified) | Err(_) => Self::Unknown { acknowledged, required },
        }
    }
}

/// What gRPC's libraries decode from a status's binary details (`google/rpc/status.proto`).
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// The name of a failure among the details.
const FAILURE_TYPE: &str = "type.googleapis.com/dynamo.v1.Failure";

/// A unary call's status, with the failure as its detail. Anything but a `google.rpc.Status` of the same code in the binary details makes
/// libraries of other languages take the call for INTERNAL (Go), or throw (Python's `grpc_status`).
pub fn status(failure: v1::Failure) -> Status {
    let detail = Any { type_url: FAILURE_TYPE.to_owned(), value: failure.encode_to_vec() };
    let failure = Failure::from(failure);
    let code = match failure {
        Failure::Invalid(_) | Failure::BadContext(_) => Code::InvalidArgument,
        Failure::Exists => Code::AlreadyExists,
        Failure::Unavailable { .. }
        | Failure::NotServing(_)
        | Failure::NoRing
        | Failure::ClockSkew(_)
        | Failure::DeclaredLost { .. } => Code::Unavailable,
        Failure::Unknown { .. } => Code::DeadlineExceeded,
        Failure::Overloaded(_) => Code::ResourceExhausted,
        Failure::ObjectTooLarge(_) => Code::FailedPrecondition,
    };
    let status = RpcStatus { code: code.into(), message: failure.to_string(), details: vec![detail] };
    Status::with_details(code, failure.to_string(), status.encode_to_vec().into())
}

/// The failure in a status of this product; `None` for a status that gRPC itself made (no connection, cancelled, ...).
pub fn failure(status: &Status) -> Option<Failure> {
    let status = RpcStatus::decode(status.details()).ok()?;
    let detail = status.details.iter().find(|detail| detail.type_url == FAILURE_TYPE)?;
    v1::Failure::decode(&detail.value[..]).ok().map(Failure::from)
}

fn invalid<T>(message: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Invalid(message.into()))
}

fn checked_name(bucket: &[u8], key: &[u8]) -> Result<Name, Failure> {
    if bucket.len() > BUCKET_BYTES_MAX {
        return invalid(format!("bucket: {} bytes, at most {BUCKET_BYTES_MAX}; choose a shorter name", bucket.len()));
    }
    if key.is_empty() {
        return invalid("key: empty; give at least one byte");
    }
    if key.len() > KEY_BYTES_MAX {
        return invalid(format!("key: {} bytes, at most {KEY_BYTES_MAX}; hash it, or move its tail to the value", key.len()));
    }
    Ok(name(bucket, key))
}

fn value(value: Bytes) -> Result<Bytes, Failure> {
    if value.len() > VALUE_BYTES_MAX {
        return invalid(format!("value: {} bytes, at most {VALUE_BYTES_MAX}; split it over several keys", value.len()));
    }
    Ok(value)
}

fn context(context: Bytes) -> Result<Bytes, Failure> {
    if context.len() > CONTEXT_BYTES_MAX {
        let length = context.len();
        return invalid(format!("context: {length} bytes, at most {CONTEXT_BYTES_MAX}; use what a get of this key returned"));
    }
    Ok(context)
}

fn request_key(bytes: &[u8]) -> Result<Option<RequestKey>, Failure> {
    match RequestKey::from_slice(bytes) {
        None if bytes.is_empty() => Ok(None),
        None => invalid(format!("request_id: {} bytes; give 16 random ones, or none", bytes.len())),
        key => Ok(key),
    }
}

/// The wire form of a request id.
pub fn request_id(key: Option<RequestKey>) -> Bytes {
    key.map(|key| Bytes::copy_from_slice(&key.0)).unwrap_or_default()
}

fn quorum(wire: Option<v1::Quorum>) -> Result<QuorumWish, Failure> {
    let Some(wire) = wire else { return Ok(QuorumWish::default()) };
    let count = |field: &str, value: Option<u32>, least: u8| match value {
        None => Ok(None),
        Some(value) => match u8::try_from(value) {
            Ok(count) if count >= least => Ok(Some(count)),
            _ => invalid(format!("quorum.{field}: {value}; give {least} to 255, and at most the number of replicas")),
        },
    };
    Ok(QuorumWish {
        n: count("n", wire.n, 1)?,
        r: count("r", wire.r, 1)?,
        w: count("w", wire.w, 1)?,
        dw: count("dw", wire.dw, 0)?,
        pr: count("pr", wire.pr, 0)?,
        pw: count("pw", wire.pw, 0)?,
    })
}

fn got(object: &Object, context: Bytes, evidence: Evidence) -> v1::GetResponse {
    let sibling = |(value, written_ms): (&Bytes, u64)| v1::Sibling { value: value.clone(), written_ms };
    v1::GetResponse { siblings: object.siblings().map(sibling).collect(), context, evidence: Some(evidence.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_core::id::Incarnation;
    use dynamo_core::version::{Actor, CausalContext, Dot, Value};

    fn requests() -> Vec<Request> {
        let quorum = QuorumWish { n: Some(3), r: Some(1), w: Some(3), dw: Some(0), pr: None, pw: Some(2) };
        let context = Bytes::from_static(b"token");
        let put = |context: &Bytes, create_only| Operation::Put { data: "v".into(), context: context.clone(), create_only };
        let key = Some(RequestKey([5; 16]));
        [
            (Operation::Get, None),
            (put(&context, false), key),
            (put(&Bytes::new(), true), None),
            (Operation::Delete { context: context.clone() }, key),
        ]
        .map(|(operation, request_key)| Request { name: Name::new("b", "k"), operation, request_key, quorum, timeout_ms: 7 })
        .into()
    }

    #[test]
    fn a_request_reads_back_from_its_wire_form() {
        for request in requests() {
            let wire = session_request::Request::from(request.clone());
            assert_eq!(session_request(Some(wire)), Ok(request));
        }
    }

    #[test]
    fn a_request_over_a_limit_is_refused_with_field_limit_and_fix() {
        let put = v1::PutRequest { key: "k".into(), ..Default::default() };
        let with_quorum = |quorum| v1::PutRequest { quorum: Some(quorum), ..put.clone() };
        let long = |bytes: usize| Bytes::from(vec![0; bytes]);
        let cases = [
            (v1::PutRequest { key: long(KEY_BYTES_MAX + 1), ..put.clone() }, "key: 1025 bytes, at most 1024; hash it"),
            (v1::PutRequest { key: Bytes::new(), ..put.clone() }, "key: empty; give"),
            (v1::PutRequest { bucket: long(BUCKET_BYTES_MAX + 1), ..put.clone() }, "bucket: 256 bytes, at most 255; choose"),
            (v1::PutRequest { value: long(VALUE_BYTES_MAX + 1), ..put.clone() }, "value: 1048577 bytes, at most 1048576; split"),
            (
                v1::PutRequest { context: long(CONTEXT_BYTES_MAX + 1), ..put.clone() },
                "context: 262145 bytes, at most 262144; use",
            ),
            (v1::PutRequest { mode: 9, ..put.clone() }, "mode: 9 is unknown; use"),
            (with_quorum(v1::Quorum { w: Some(256), ..Default::default() }), "quorum.w: 256; give 1 to 255"),
            (with_quorum(v1::Quorum { r: Some(0), ..Default::default() }), "quorum.r: 0; give 1 to 255"),
            (v1::PutRequest { request_id: long(15), ..put.clone() }, "request_id: 15 bytes; give 16 random ones, or none"),
            (v1::PutRequest { request_id: long(17), ..put.clone() }, "request_id: 17 bytes; give 16 random ones, or none"),
        ];
        for (request, message) in cases {
            let failure = Request::try_from(request).unwrap_err();
            assert!(failure.to_string().starts_with(message), "{failure} is not {message}");
        }
        assert!(session_request(None).is_err());
        let bare = v1::DeleteRequest { key: "k".into(), ..Default::default() };
        assert!(Request::try_from(bare).is_ok(), "whether it needs a context depends on the bucket, which the node knows");
        let unnamed = v1::DeleteRequest { key: "k".into(), context: "c".into(), request_id: long(1), ..Default::default() };
        assert!(Request::try_from(unnamed).unwrap_err().to_string().starts_with("request_id: 1 bytes; give 16"));
        let largest = v1::PutRequest { key: long(KEY_BYTES_MAX), value: long(VALUE_BYTES_MAX), ..Default::default() };
        assert!(Request::try_from(largest).is_ok());
    }

    #[test]
    fn a_failure_reads_back_from_the_status_that_carries_it() {
        let cases = [
            (Failure::Invalid("key: empty".into()), Code::InvalidArgument),
            (Failure::BadContext("checksum".into()), Code::InvalidArgument),
            (Failure::Exists, Code::AlreadyExists),
            (Failure::Unavailable { acknowledged: 1, required: 2 }, Code::Unavailable),
            (Failure::Unknown { acknowledged: 0, required: 2 }, Code::DeadlineExceeded),
            (Failure::Overloaded("requests".into()), Code::ResourceExhausted),
            (Failure::ObjectTooLarge("100 siblings".into()), Code::FailedPrecondition),
            (Failure::NotServing("the node is stopping".into()), Code::Unavailable),
            (Failure::ClockSkew("9000 ms ahead".into()), Code::Unavailable),
            (Failure::NoRing, Code::Unavailable),
            (Failure::DeclaredLost { since: Epoch(7) }, Code::Unavailable),
        ];
        for (expected, code) in cases {
            let status = get_response(Err(expected.clone())).unwrap_err();
            assert_eq!(status.code(), code);
            assert_eq!(status.message(), expected.to_string());
            assert_eq!(failure(&status), Some(expected));
            let details = RpcStatus::decode(status.details()).unwrap();
            assert_eq!((Code::from(details.code), &details.message[..]), (code, status.message()), "Go compares the codes");
        }
        let foreign = |details: Vec<u8>| Status::with_details(Code::Aborted, "a proxy", details.into());
        let other = Any { type_url: "type.googleapis.com/google.rpc.ErrorInfo".to_owned(), value: vec![8, 3] };
        let of_a_proxy = RpcStatus { code: 10, message: "a proxy".to_owned(), details: vec![other] };
        for none in [Status::unavailable("no connection"), foreign(of_a_proxy.encode_to_vec()), foreign(vec![0xff])] {
            assert_eq!(failure(&none), None, "{none:?}");
        }
    }

    #[test]
    fn a_failure_of_an_unknown_kind_is_an_unknown_outcome() {
        let wire = v1::Failure { kind: 99, message: "?".into(), acknowledged: 1, required: 2, lost_since: 0 };
        assert_eq!(Failure::from(wire), Failure::Unknown { acknowledged: 1, required: 2 });
    }

    #[test]
    fn an_answer_shows_siblings_and_no_tombstones() {
        let mut object = Object::default();
        let actor = |node| Actor { node: NodeId([node; 16]), incarnation: Incarnation(1) };
        for (node, data) in [(1, Some("a")), (2, None), (3, Some("b"))] {
            let value = Value { data: data.map(Bytes::from), written_ms: u64::from(node) };
            object.update(&CausalContext::default(), Dot { actor: actor(node), counter: 1 }, value);
        }
        let evidence = Evidence { epoch: Epoch(3), nodes: vec![NodeId([1; 16]), NodeId([2; 16])], durable: 0, hinted: 1 };
        let outcome = Ok(Success::Got { object, context: "token".into(), evidence: evidence.clone() });
        let response = get_response(outcome).unwrap();
        let siblings: Vec<_> = response.siblings.iter().map(|sibling| (&sibling.value[..], sibling.written_ms)).collect();
        assert_eq!(siblings, [(&b"a"[..], 1), (&b"b"[..], 3)]);
        assert_eq!(Evidence::try_from(response.evidence.unwrap()), Ok(evidence));
    }

    #[test]
    fn spoilt_requests_are_requests_or_refused() {
        use dynamo_fuzz::{Expect, Fuzz, unsealed};
        let wire = |request: Request| v1::SessionRequest { id: 3, request: Some(request.into()) };
        Fuzz {
            name: "client request",
            corpus: requests().into_iter().map(|request| wire(request).encode_to_vec()).collect(),
            seal: &unsealed,
            expect: Expect::Stable,
            decode: &|bytes| {
                let v1::SessionRequest { id, request } = v1::SessionRequest::decode(Bytes::copy_from_slice(bytes)).ok()?;
                let request = Some(session_request(request).ok()?.into());
                Some(v1::SessionRequest { id, request }.encode_to_vec())
            },
        }
        .run();
    }
}
