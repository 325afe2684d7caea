//! The admin service: this node's own view, and the offer of a ring.

use bytes::Bytes;
use dynamo_core::id::PartitionId;
use dynamo_core::ring::Ring;
use dynamo_proto::v1;
use dynamo_proto::v1::admin_server::Admin;
use tonic::{Request, Response, Status};

use super::stopping;
use crate::driver::{Inbox, Question, Refused, Snapshot};

/// Asks the loop on behalf of administrators and tools.
#[derive(Clone)]
pub struct AdminService {
    inbox: Inbox,
}

impl AdminService {
    /// A service that asks the loop behind `inbox`.
    pub fn new(inbox: Inbox) -> Self {
        Self { inbox }
    }
}

fn refused(Refused(reason): Refused) -> Status {
    Status::failed_precondition(reason)
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        let snapshot = self.inbox.ask(Question::Snapshot).await.map_err(stopping)?;
        Ok(Response::new(status_response(snapshot)))
    }

    async fn ring(&self, _: Request<v1::RingViewRequest>) -> Result<Response<v1::RingViewResponse>, Status> {
        let ring = self.inbox.ask(Question::Ring).await.map_err(stopping)?;
        Ok(Response::new(v1::RingViewResponse { ring: ring.map(|ring| ring.encode()).unwrap_or_default() }))
    }

    async fn propose_ring(&self, request: Request<v1::ProposeRingRequest>) -> Result<Response<v1::ProposeRingResponse>, Status> {
        let ring = Ring::decode(request.into_inner().ring).map_err(|error| Status::invalid_argument(format!("ring: {error}")))?;
        let (epoch, hash) = (ring.epoch, ring.hash());
        let proposed = self.inbox.ask(|reply| Question::ProposeRing(Box::new(ring), reply)).await;
        proposed.map_err(stopping)?.map_err(refused)?;
        Ok(Response::new(v1::ProposeRingResponse { epoch: epoch.0, ring_hash: Bytes::copy_from_slice(&hash.0) }))
    }

    async fn drain_receipt(&self, _: Request<v1::DrainReceiptRequest>) -> Result<Response<v1::DrainReceiptResponse>, Status> {
        let receipt = self.inbox.ask(Question::DrainReceipt).await.map_err(stopping)?.map_err(refused)?;
        Ok(Response::new(receipt.into()))
    }

    async fn partition_digests(
        &self,
        request: Request<v1::PartitionDigestsRequest>,
    ) -> Result<Response<v1::PartitionDigestsResponse>, Status> {
        let partitions = request.into_inner().partitions.into_iter().map(PartitionId).collect();
        let digests = self.inbox.ask(|reply| Question::PartitionDigests(partitions, reply)).await;
        let digests = digests.map_err(stopping)?.map_err(refused)?;
        let wire = |(PartitionId(partition), root, objects): (PartitionId, dynamo_core::version::Digest, u64)| {
            v1::PartitionDigest { partition, root: Bytes::copy_from_slice(&root.0), objects }
        };
        Ok(Response::new(v1::PartitionDigestsResponse { digests: digests.into_iter().map(wire).collect() }))
    }
}

fn status_response(snapshot: Snapshot) -> v1::StatusResponse {
    let Snapshot { identity, status, counters, gauges, ready, uptime_seconds, .. } = snapshot;
    let of = |name: &str| gauges.iter().find(|(gauge, _)| *gauge == name).map_or(0, |(_, value)| *value);
    v1::StatusResponse {
        node: Bytes::copy_from_slice(&identity.node.0),
        cluster: Bytes::copy_from_slice(&identity.cluster.0),
        zone: identity.zone,
        version: env!("CARGO_PKG_VERSION").into(),
        peer_address: identity.peer_address,
        client_address: identity.client_address,
        uptime_seconds,
        bytes: of("storage_bytes"),
        ready,
        counters: counters.each().map(|(name, value)| (name.to_string(), value)).collect(),
        generation: identity.generation,
        ..status.into()
    }
}
