//! DynamoKV, by its own client.

use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use dynamo_client::{Client, GetOptions, Mode, PutOptions};
use dynamo_core::name::Name;
use dynamo_core::request::QuorumWish;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::{Base, Causality, Driver, Durability, Found, OperationError};

/// A cluster, a bucket, and how many replicas must answer.
pub struct Dynamo {
    client: Client,
    mode: Mode,
    bucket: Bytes,
    read: QuorumWish,
    write: QuorumWish,
    /// Puts have request ids.
    retries: bool,
    /// The fewest replicas that had an acknowledged write on stable storage: what the cluster said, not what it was told.
    durable_min: AtomicU32,
}

impl Dynamo {
    /// By a client that is connected.
    pub fn new(client: Client, mode: Mode, bucket: &str, read: QuorumWish, write: QuorumWish, retries: bool) -> Self {
        let bucket = Bytes::copy_from_slice(bucket.as_bytes());
        Self { client, mode, bucket, read, write, retries, durable_min: AtomicU32::new(u32::MAX) }
    }

    fn name(&self, key: &str) -> Name {
        Name::new(self.bucket.clone(), Bytes::copy_from_slice(key.as_bytes()))
    }

    async fn replace(&self, key: &str, value: Bytes, context: Bytes) -> Result<Bytes, OperationError> {
        let options = PutOptions { quorum: self.write, context, ..PutOptions::default() };
        let options = if self.retries { options.retried() } else { options };
        let written = self.client.put(&self.name(key), value, &options).await?;
        self.durable_min.fetch_min(written.evidence.durable, Ordering::Relaxed);
        Ok(written.context)
    }
}

impl Driver for Dynamo {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Found, OperationError>> {
        async move {
            let options = GetOptions { quorum: self.read, timeout: None };
            let found = self.client.get(&self.name(key), &options).await?;
            Ok(Found { values: found.siblings.len(), token: found.context })
        }
        .boxed()
    }

    fn put<'a>(&'a self, key: &'a str, value: Bytes, base: Base) -> BoxFuture<'a, Result<Bytes, OperationError>> {
        async move {
            let context = match base {
                Base::Nothing => Bytes::new(),
                Base::Token(context) => context,
                Base::ReadFirst => self.get(key).await?.token,
            };
            self.replace(key, value, context).await
        }
        .boxed()
    }

    fn causality(&self) -> Causality {
        Causality::FromPuts
    }

    fn durability(&self) -> Durability {
        match self.durable_min.load(Ordering::Relaxed) {
            0 => Durability::None,
            u32::MAX => Durability::Unknown,
            _ => Durability::Fsync,
        }
    }

    fn configuration(&self) -> Value {
        let ring = self.client.ring();
        let durable_min = Some(self.durable_min.load(Ordering::Relaxed)).filter(|count| *count != u32::MAX);
        json!({
            "mode": format!("{:?}", self.mode).to_lowercase(),
            "r": self.read.r,
            "pr": self.read.pr,
            "w": self.write.w,
            "dw": self.write.dw,
            "request_ids": self.retries,
            "pw": self.write.pw,
            "n": ring.as_ref().map(|ring| ring.replication),
            "nodes": ring.as_ref().map(|ring| ring.members.len()),
            "partitions": ring.as_ref().map(|ring| ring.partition_count()),
            "epoch": ring.as_ref().map(|ring| ring.epoch.0),
            "fsynced_before_the_answer_min": durable_min,
        })
    }
}
