//! What is measured: one interface to DynamoKV and to its peers, so that generator, histogram and accounting are the same for all.
//!
//! | module | speaks |
//! |---|---|
//! | [`dynamo`] | DynamoKV's own client, on streams or with a call a request |
//! | [`etcd`] | etcd's v3 API, gRPC |
//! | [`garage`] | Garage's K2V API, HTTP/1.1 with signed requests ([`sigv4`]) |
//! | [`redis`] | Redis's protocol, over TCP; like Garage's on connections from a `pool` |
//!
//! A key holds one value. Stores differ in what an update must know of the value it replaces, and [`Causality`] says what: the
//! benchmark gives each what an application would have to give it, and counts what that costs.

pub mod dynamo;
pub mod etcd;
pub mod garage;
mod pool;
pub mod redis;
mod sigv4;

use bytes::Bytes;
use dynamo_client::RequestError;
use futures::future::BoxFuture;
use serde_json::Value;
use thiserror::Error;

/// Why an operation failed.
#[derive(Debug, Error)]
#[error("{text}")]
pub struct OperationError {
    /// One word, for counts.
    pub kind: &'static str,
    /// All of it, for people.
    pub text: String,
    /// The same operation can only fail again.
    pub final_: bool,
}

impl OperationError {
    /// Worth another attempt.
    pub fn new(kind: &'static str, text: impl ToString) -> Self {
        Self { kind, text: text.to_string(), final_: false }
    }

    /// Not worth another attempt.
    pub fn lasting(kind: &'static str, text: impl ToString) -> Self {
        Self { kind, text: text.to_string(), final_: true }
    }
}

impl From<RequestError> for OperationError {
    fn from(error: RequestError) -> Self {
        Self { kind: error.kind(), final_: error.is_invalid(), text: error.to_string() }
    }
}

/// What a get found.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// Concurrent values; 0 if there is none.
    pub values: usize,
    /// Hand it to the put that replaces them; empty where the store has no such thing.
    pub token: Bytes,
}

/// What a put replaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// Nothing that is known: an insert, or a blind update.
    Nothing,
    /// What this token covers.
    Token(Bytes),
    /// What is there: read it first.
    ReadFirst,
}

/// What a store needs to know of the value that an update replaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Causality {
    /// Nothing: the last write wins.
    None,
    /// A token, of a get or of the put before.
    FromPuts,
    /// A token of a get: an update is a read and a write.
    FromGets,
}

/// When an acknowledged write is safe. Figures of different classes are not to be compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Durability {
    /// On stable storage before the answer.
    Fsync,
    /// In memory at the answer, on stable storage some time later, or never.
    None,
    /// Nobody said, and it could not be found out.
    Unknown,
}

impl Durability {
    /// One word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Fsync => "fsync",
            Self::None => "none",
            Self::Unknown => "unknown",
        }
    }
}

/// A store, as the benchmark uses it.
pub trait Driver: Send + Sync {
    /// What is there under `key`.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Found, OperationError>>;

    /// `value` is there now. Gives the token for the next put, where puts do.
    fn put<'a>(&'a self, key: &'a str, value: Bytes, base: Base) -> BoxFuture<'a, Result<Bytes, OperationError>>;

    /// What updates must know.
    fn causality(&self) -> Causality;

    /// When an acknowledged write is safe, after records were loaded.
    fn durability(&self) -> Durability;

    /// What was set, for the record.
    fn configuration(&self) -> Value;
}
