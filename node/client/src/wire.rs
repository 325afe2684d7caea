//! From and to the generated types: requests outward, answers inward, validated once.

use dynamo_core::id::{Epoch, NodeId};
use dynamo_core::name::Name;
use dynamo_core::request::{Evidence, Operation, QuorumWish};
use dynamo_proto::v1;
use dynamo_proto::v1::failure::Kind;
use dynamo_proto::v1::session_request::Request;
use dynamo_proto::v1::session_response::Response;
use prost::Message;
use tonic::Status;

use crate::error::RequestError;

/// The request on the wire.
pub(crate) fn request(name: &Name, operation: &Operation, wish: &QuorumWish, timeout_ms: u32) -> Request {
    let (bucket, key) = (name.bucket.clone(), name.key.clone());
    let quorum = quorum(wish);
    match operation {
        Operation::Get => Request::Get(v1::GetRequest { bucket, key, quorum, timeout_ms }),
        Operation::Put { data, context, create_only } => {
            let mode = if *create_only { v1::PutMode::CreateOnly } else { v1::PutMode::Update };
            let (value, context) = (data.clone(), context.clone());
            Request::Put(v1::PutRequest { bucket, key, value, context, mode: mode.into(), quorum, timeout_ms })
        }
        Operation::Delete { context } => {
            Request::Delete(v1::DeleteRequest { bucket, key, context: context.clone(), quorum, timeout_ms })
        }
    }
}

fn quorum(wish: &QuorumWish) -> Option<v1::Quorum> {
    let number = |wish: Option<u8>| wish.map(u32::from);
    let asked = *wish != QuorumWish::default();
    asked.then(|| v1::Quorum {
        r: number(wish.r),
        w: number(wish.w),
        dw: number(wish.dw),
        pr: number(wish.pr),
        pw: number(wish.pw),
    })
}

/// What an answer rests on.
pub(crate) fn evidence(evidence: Option<v1::Evidence>) -> Result<Evidence, String> {
    let evidence = evidence.ok_or("evidence: is missing")?;
    let node = |bytes: &bytes::Bytes| NodeId::from_slice(bytes).ok_or_else(|| "evidence.nodes: is not 16 bytes".to_owned());
    Ok(Evidence {
        epoch: Epoch(evidence.epoch),
        nodes: evidence.nodes.iter().map(node).collect::<Result<_, _>>()?,
        durable: evidence.durable,
        hinted: evidence.hinted,
    })
}

/// The error that a node's failure stands for.
pub(crate) fn failure(failure: v1::Failure) -> RequestError {
    let v1::Failure { message, acknowledged, required, .. } = failure;
    match Kind::try_from(failure.kind).unwrap_or(Kind::Unspecified) {
        Kind::Invalid => RequestError::Invalid(message),
        Kind::BadContext => RequestError::BadContext(message),
        Kind::Exists => RequestError::Exists(message),
        Kind::Unavailable => RequestError::Unavailable { message, acknowledged, required },
        Kind::Overloaded => RequestError::Overloaded(message),
        Kind::NoRing => RequestError::NoRing(message),
        Kind::Unknown => RequestError::Unknown { message, acknowledged, required },
        // A kind of a later version: nothing can be concluded from it.
        Kind::Unspecified => {
            let message = format!("failure of an unknown kind ({}): {message}", failure.kind);
            RequestError::Unknown { message, acknowledged, required }
        }
    }
}

/// The failure that a unary call's status carries, or the status's own words if the call itself broke.
pub(crate) fn status(status: &Status) -> Result<Response, String> {
    match v1::Failure::decode(status.details()) {
        Ok(failure) if failure.kind != 0 => Ok(Response::Failure(failure)),
        _ => Err(format!("{:?}: {}", status.code(), status.message())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quorum_is_sent_only_if_something_is_asked_of_it() {
        assert_eq!(quorum(&QuorumWish::default()), None);
        let asked = quorum(&QuorumWish { dw: Some(0), ..QuorumWish::default() });
        assert_eq!(asked.map(|quorum| (quorum.r, quorum.dw)), Some((None, Some(0))));
    }

    #[test]
    fn only_failures_that_say_so_leave_the_outcome_open() {
        for kind in 0..10 {
            let error = failure(v1::Failure { kind, message: "why".to_owned(), ..Default::default() });
            let says_nothing_was_written = [1, 2, 3, 4, 6, 7].contains(&kind);
            assert_eq!(!error.is_unknown(), says_nothing_was_written, "kind {kind}: {error}");
        }
    }

    #[test]
    fn a_status_with_a_failure_in_it_is_that_failure() {
        let failure = v1::Failure { kind: Kind::Exists.into(), message: "it exists".to_owned(), ..Default::default() };
        let carried = Status::with_details(tonic::Code::AlreadyExists, "it exists", failure.encode_to_vec().into());
        assert_eq!(status(&carried), Ok(Response::Failure(failure)));
        assert!(status(&Status::unavailable("connection reset")).unwrap_err().contains("connection reset"));
    }
}
