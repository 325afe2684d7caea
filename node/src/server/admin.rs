//! The admin service: this node's own view, and the offer of a ring.

use std::sync::Arc;

use bytes::Bytes;
use dynamo_core::id::PartitionId;
use dynamo_core::ring::Ring;
use dynamo_proto::v1;
use dynamo_proto::v1::admin_server::Admin;
use tonic::{Request, Response, Status};

use super::{answer, stopping};
use crate::budget::Budget;
use crate::driver::{Inbox, Question, Refused, Snapshot};

/// Partitions that one call may name: as many as a ring can have. The loop answers nobody else while it looks them up.
const PARTITIONS_MAX: usize = 1 << 16;

/// Asks the loop on behalf of administrators and tools.
#[derive(Clone)]
pub struct AdminService {
    inbox: Inbox,
    answers: Arc<Budget>,
}

impl AdminService {
    /// A service that asks the loop behind `inbox`, and has `answers` for what it says.
    pub fn new(inbox: Inbox, answers: Arc<Budget>) -> Self {
        Self { inbox, answers }
    }
}

fn refused(Refused(reason): Refused) -> Status {
    Status::failed_precondition(reason)
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        let snapshot = self.inbox.ask(Question::Status).await.map_err(stopping)?;
        answer(&self.answers, status_response(snapshot))
    }

    async fn ring(&self, _: Request<v1::RingViewRequest>) -> Result<Response<v1::RingViewResponse>, Status> {
        let ring = self.inbox.ask(Question::Ring).await.map_err(stopping)?;
        answer(&self.answers, v1::RingViewResponse { ring: ring.map(|ring| ring.encode()).unwrap_or_default() })
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
        answer(&self.answers, receipt.into())
    }

    async fn partition_digests(
        &self,
        request: Request<v1::PartitionDigestsRequest>,
    ) -> Result<Response<v1::PartitionDigestsResponse>, Status> {
        let partitions = named(request.into_inner().partitions)?;
        let digests = self.inbox.ask(|reply| Question::PartitionDigests(partitions, reply)).await;
        let digests = digests.map_err(stopping)?.map_err(refused)?;
        let wire = |(PartitionId(partition), root, objects): (PartitionId, dynamo_core::version::Digest, u64)| {
            v1::PartitionDigest { partition, root: Bytes::copy_from_slice(&root.0), objects }
        };
        answer(&self.answers, v1::PartitionDigestsResponse { digests: digests.into_iter().map(wire).collect() })
    }
}

/// Each partition once.
fn named(mut partitions: Vec<u32>) -> Result<Vec<PartitionId>, Status> {
    if partitions.len() > PARTITIONS_MAX {
        let count = partitions.len();
        let reason = format!("partitions: {count} entries, at most {PARTITIONS_MAX}; name each once, or none to ask for all");
        return Err(Status::invalid_argument(reason));
    }
    partitions.sort_unstable();
    partitions.dedup();
    Ok(partitions.into_iter().map(PartitionId).collect())
}

fn status_response(snapshot: Snapshot) -> v1::StatusResponse {
    let Snapshot { identity, status, counters, figures, ready, uptime_seconds, .. } = snapshot;
    let of = |name: &str| figures.iter().find(|figure| figure.name == name).map_or(0, |figure| figure.value);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_looked_up_once_each_and_no_more_than_a_ring_can_have() {
        assert_eq!(named(vec![3, 1, 3, 1, 2]).unwrap(), [1, 2, 3].map(PartitionId));
        assert_eq!(named(vec![7; PARTITIONS_MAX]).unwrap(), [PartitionId(7)]);
        let refused = named(vec![7; PARTITIONS_MAX + 1]).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert!(refused.message().starts_with("partitions: 65537 entries, at most 65536"), "{refused}");
    }
}
