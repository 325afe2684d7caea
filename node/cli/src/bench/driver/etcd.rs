//! etcd, by its v3 API: the messages that a put and a get take, and those that tell its members (etcd's api/etcdserverpb/rpc.proto).
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

#[derive(Clone, PartialEq, prost::Message)]
struct MemberListRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct Member {
    #[prost(string, repeated, tag = "4")]
    client_urls: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct MemberListResponse {
    #[prost(message, repeated, tag = "2")]
    members: Vec<Member>,
}

impl MemberListResponse {
    /// host:port of each member, by the first address that it gives to clients; nothing in place of one that gives none.
    fn addresses(&self) -> Vec<String> {
        let url = |member: &Member| member.client_urls.first().cloned().unwrap_or_default();
        let address = |url: String| url.split_once("://").map_or(url.clone(), |(_, address)| address.to_owned());
        self.members.iter().map(|member| address(url(member))).collect()
    }
}

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
    /// What its members' command lines say, if they are known.
    pub durability: Durability,
}

impl Etcd {
    /// Members at these addresses, host:port; connected when they are used first.
    pub fn new(endpoints: &[String], timeout: Duration, reads: Reads) -> Result<Self, String> {
        let member = |address: &String| {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| format!("{address}: {error}"))?;
            Ok((address.clone(), endpoint.connect_timeout(timeout).timeout(timeout).tcp_nodelay(true).connect_lazy()))
        };
        let members = endpoints.iter().map(member).collect::<Result<Vec<_>, String>>()?;
        Ok(Self { members, next: AtomicUsize::new(0), reads, durability: Durability::Unknown })
    }

    /// host:port of every member of the cluster, also of those that nobody named: all of them work for a put.
    pub async fn all_members(&self) -> Result<Vec<String>, OperationError> {
        let answer: MemberListResponse = self.call("/etcdserverpb.Cluster/MemberList", MemberListRequest {}).await?;
        Ok(answer.addresses())
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

/// What the command line of an etcd says of fsync; nothing if a file says it, since with one all other flags are ignored.
pub fn durability_of(command_line: &[String]) -> Durability {
    let value = |flag: &str| {
        command_line.iter().rev().find_map(|word| {
            let (name, value) = word.split_once('=').unwrap_or((word, "true"));
            (name.trim_start_matches('-') == flag).then_some(value)
        })
    };
    if value("config-file").is_some() {
        return Durability::Unknown;
    }
    let is_set = |value: &str| ["1", "t", "T", "true", "TRUE", "True"].contains(&value);
    if value("unsafe-no-fsync").is_some_and(is_set) { Durability::None } else { Durability::Fsync }
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
        // A header (1), and members with an id (1), a name (2), peers' (3) and clients' addresses (4); the second has not started.
        let answer = b"\x0a\x02\x18\x05\x12\x16\x08\x07\x12\x01a\x1a\x03p:1\x22\x0ahttp://c:2\x12\x07\x08\x08\x1a\x03p:2";
        assert_eq!(MemberListResponse::decode(&answer[..]).unwrap().addresses(), ["c:2", ""]);
    }

    #[test]
    fn an_etcd_says_by_its_command_line_whether_it_syncs() {
        let line = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(durability_of(&line(&["etcd", "--name", "a"])), Durability::Fsync);
        assert_eq!(durability_of(&line(&["etcd", "--unsafe-no-fsync"])), Durability::None);
        assert_eq!(durability_of(&line(&["etcd", "-unsafe-no-fsync=true"])), Durability::None);
        assert_eq!(durability_of(&line(&["etcd", "--unsafe-no-fsync=false"])), Durability::Fsync);
        assert_eq!(durability_of(&line(&["etcd", "--config-file", "/etc/etcd.yaml"])), Durability::Unknown);
    }

    #[tokio::test]
    async fn a_member_that_is_not_there_is_named() {
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let etcd = Etcd::new(std::slice::from_ref(&gone), Duration::from_secs(5), Reads::Linearizable).unwrap();
        let error = etcd.get("k").await.unwrap_err();
        assert!(error.text.starts_with(&format!("etcd at {gone}: ")), "{error}");
        assert!(!error.final_);
    }
}
