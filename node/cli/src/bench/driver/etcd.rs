//! etcd, by its v3 API: the four messages of its KV service that a put and a get take (etcd's api/etcdserverpb/rpc.proto).
//!
//! Members are asked in turn, as etcd's clients do; one that does not lead hands a put on. A linearizable get asks the leader for
//! its index first; a serializable one is answered by the member's own copy.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::{Base, Causality, Driver, Durability, Found, OperationError};

#[derive(Clone, PartialEq, prost::Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bool, tag = "7")]
    serializable: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

/// What a get is answered from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reads {
    /// Whatever was acknowledged before.
    Linearizable,
    /// One member's copy, which may be behind.
    Serializable,
}

/// A cluster.
pub struct Etcd {
    members: Vec<(String, Channel)>,
    next: AtomicUsize,
    reads: Reads,
    durability: Durability,
}

impl Etcd {
    /// Members at these addresses, host:port; connected when they are used first.
    pub fn new(endpoints: &[String], timeout: Duration, reads: Reads, durability: Durability) -> Result<Self, String> {
        let member = |address: &String| {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| format!("{address}: {error}"))?;
            Ok((address.clone(), endpoint.connect_timeout(timeout).timeout(timeout).tcp_nodelay(true).connect_lazy()))
        };
        let members = endpoints.iter().map(member).collect::<Result<Vec<_>, String>>()?;
        Ok(Self { members, next: AtomicUsize::new(0), reads, durability })
    }

    async fn call<Q, A>(&self, path: &'static str, request: Q) -> Result<A, OperationError>
    where
        Q: prost::Message + Default + 'static,
        A: prost::Message + Default + 'static,
    {
        let (address, channel) = &self.members[self.next.fetch_add(1, Ordering::Relaxed) % self.members.len()];
        let mut grpc = Grpc::new(channel.clone());
        grpc.ready().await.map_err(|error| OperationError::new("unreachable", format!("etcd at {address}: {error}")))?;
        let codec = ProstCodec::<Q, A>::default();
        let answered = grpc.unary(Request::new(request), PathAndQuery::from_static(path), codec).await;
        answered.map(tonic::Response::into_inner).map_err(|status| failed(address, &status))
    }
}

fn failed(address: &str, status: &Status) -> OperationError {
    let text = format!("etcd at {address}: {}: {}", status.code(), status.message());
    match status.code() {
        Code::Unavailable => OperationError::new("unavailable", text),
        Code::Cancelled | Code::DeadlineExceeded => OperationError::new("timeout", text),
        Code::ResourceExhausted => OperationError::new("overloaded", text),
        Code::Unimplemented | Code::Unauthenticated | Code::PermissionDenied => OperationError::lasting("refused", text),
        _ => OperationError::new("failed", text),
    }
}

impl Driver for Etcd {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Found, OperationError>> {
        async move {
            let key = Bytes::copy_from_slice(key.as_bytes());
            let request = RangeRequest { key, serializable: self.reads == Reads::Serializable };
            let found: RangeResponse = self.call("/etcdserverpb.KV/Range", request).await?;
            Ok(Found { values: found.kvs.len(), token: Bytes::new() })
        }
        .boxed()
    }

    fn put<'a>(&'a self, key: &'a str, value: Bytes, _: Base) -> BoxFuture<'a, Result<Bytes, OperationError>> {
        async move {
            let request = PutRequest { key: Bytes::copy_from_slice(key.as_bytes()), value };
            let _: PutResponse = self.call("/etcdserverpb.KV/Put", request).await?;
            Ok(Bytes::new())
        }
        .boxed()
    }

    fn causality(&self) -> Causality {
        Causality::None
    }

    fn durability(&self) -> Durability {
        self.durability
    }

    fn configuration(&self) -> Value {
        let members: Vec<&String> = self.members.iter().map(|(address, _)| address).collect();
        json!({ "endpoints": members, "reads": format!("{:?}", self.reads).to_lowercase() })
    }
}

/// What the command line of an etcd says of fsync.
pub fn durability_of(command_line: &[String]) -> Durability {
    let careless = command_line.iter().any(|word| word.trim_start_matches('-').starts_with("unsafe-no-fsync"));
    if careless { Durability::None } else { Durability::Fsync }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn messages_are_those_of_etcds_api() {
        let put = PutRequest { key: "k".into(), value: "v".into() };
        assert_eq!(put.encode_to_vec(), b"\x0a\x01k\x12\x01v");
        let get = RangeRequest { key: "k".into(), serializable: true };
        assert_eq!(get.encode_to_vec(), b"\x0a\x01k\x38\x01");
        // A header (1), a value with its revisions (2, 3, 4), and a count (4), of which only key and value are looked at.
        let answer = b"\x0a\x02\x18\x05\x12\x0c\x0a\x01k\x10\x02\x18\x03\x20\x01\x2a\x01v\x20\x01";
        let found = RangeResponse::decode(&answer[..]).unwrap();
        assert_eq!(found.kvs, [KeyValue { key: "k".into(), value: "v".into() }]);
    }

    #[test]
    fn an_etcd_says_by_its_command_line_whether_it_syncs() {
        let line = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(durability_of(&line(&["etcd", "--name", "a"])), Durability::Fsync);
        assert_eq!(durability_of(&line(&["etcd", "--unsafe-no-fsync"])), Durability::None);
    }

    #[tokio::test]
    async fn a_member_that_is_not_there_is_named() {
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let etcd =
            Etcd::new(std::slice::from_ref(&gone), Duration::from_secs(5), Reads::Linearizable, Durability::Fsync).unwrap();
        let error = etcd.get("k").await.unwrap_err();
        assert!(error.text.starts_with(&format!("etcd at {gone}: ")), "{error}");
        assert!(!error.final_);
    }
}
