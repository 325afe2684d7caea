//! A node's `Admin` service without the node, for tests: a real socket on loopback that holds a ring, takes the successor of it and no
//! other, and gives a drain receipt when it is told to.

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use dynamo_core::id::NodeId;
use dynamo_core::ring::Ring;
use dynamo_proto::v1;
use dynamo_proto::v1::admin_server::{Admin, AdminServer};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// What it holds and was asked.
pub struct State {
    pub ring: Ring,
    /// It holds none yet, and takes the first that it is offered; of [`State::ring`] it knows the cluster.
    pub is_new: bool,
    /// So many questions for a drain receipt are refused.
    pub refusals: usize,
    /// Peers that it is connected to.
    pub sees: Vec<NodeId>,
    /// So many questions for its status are refused, as if it started.
    pub away: usize,
    /// It does not give its ring, as if it went between two questions.
    pub keeps_its_ring: bool,
    /// The address that it gives for a peer.
    pub knows: Vec<(NodeId, String)>,
    /// Epochs under which it gave one.
    pub receipts: Vec<u64>,
    /// How it treats buckets.
    pub buckets_digest: u64,
    /// Its disk is nearly full.
    pub is_full: bool,
}

/// One of them, until the test's runtime ends.
#[derive(Clone)]
pub struct Double {
    pub address: String,
    node: NodeId,
    state: Arc<Mutex<State>>,
}

impl Double {
    pub async fn start(node: NodeId, ring: Ring, refusals: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State {
            ring,
            is_new: false,
            refusals,
            sees: Vec::new(),
            away: 0,
            keeps_its_ring: false,
            knows: Vec::new(),
            receipts: Vec::new(),
            buckets_digest: 0,
            is_full: false,
        }));
        let double = Self { address, node, state };
        let served = tonic::transport::Server::builder().add_service(AdminServer::new(double.clone()));
        tokio::spawn(served.serve_with_incoming(TcpListenerStream::new(listener)));
        double
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

fn bytes(of: &[u8]) -> Bytes {
    Bytes::copy_from_slice(of)
}

#[tonic::async_trait]
impl Admin for Double {
    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        let mut state = self.state();
        if state.away > 0 {
            state.away -= 1;
            return Err(Status::unavailable("is away"));
        }
        let (ring, is_new, buckets_digest, is_full) = (state.ring.clone(), state.is_new, state.buckets_digest, state.is_full);
        let peer = |node: &NodeId, client_address: &str| v1::PeerStatus {
            node: bytes(&node.0),
            client_address: client_address.to_owned(),
            connected: true,
            ..v1::PeerStatus::default()
        };
        let seen = state.sees.iter().map(|node| peer(node, ""));
        let peers = seen.chain(state.knows.iter().map(|(node, address)| peer(node, address))).collect();
        Ok(Response::new(v1::StatusResponse {
            node: bytes(&self.node.0),
            cluster: bytes(&ring.cluster.0),
            zone: "z".to_owned(),
            epoch: if is_new { 0 } else { ring.epoch.0 },
            ring_hash: if is_new { Bytes::new() } else { bytes(&ring.hash().0) },
            client_address: self.address.clone(),
            ready: true,
            peers,
            buckets_digest,
            refuses_writes: is_full,
            ..v1::StatusResponse::default()
        }))
    }

    async fn ring(&self, _: Request<v1::RingViewRequest>) -> Result<Response<v1::RingViewResponse>, Status> {
        let state = self.state();
        if state.keeps_its_ring {
            return Err(Status::unavailable("has gone"));
        }
        let ring = if state.is_new { Bytes::new() } else { state.ring.encode() };
        Ok(Response::new(v1::RingViewResponse { ring }))
    }

    async fn propose_ring(&self, request: Request<v1::ProposeRingRequest>) -> Result<Response<v1::ProposeRingResponse>, Status> {
        let ring = Ring::decode(request.into_inner().ring).unwrap();
        let (held, is_new) = {
            let state = self.state();
            (state.ring.clone(), state.is_new)
        };
        let follows = match is_new {
            true => ring.check_follows(None, held.cluster).is_ok(),
            false => ring.check_follows(Some(&held), held.cluster).is_ok() && ring.epoch == held.epoch.next(),
        };
        if !follows && (is_new || ring != held) {
            return Err(Status::failed_precondition(format!("does not follow epoch {}", held.epoch)));
        }
        let (epoch, ring_hash) = (ring.epoch.0, bytes(&ring.hash().0));
        let mut state = self.state();
        (state.ring, state.is_new) = (ring, false);
        Ok(Response::new(v1::ProposeRingResponse { epoch, ring_hash }))
    }

    async fn drain_receipt(&self, _: Request<v1::DrainReceiptRequest>) -> Result<Response<v1::DrainReceiptResponse>, Status> {
        let mut state = self.state();
        if state.refusals > 0 {
            state.refusals -= 1;
            return Err(Status::failed_precondition("1 hints are not delivered yet"));
        }
        let (epoch, ring_hash) = (state.ring.epoch.0, bytes(&state.ring.hash().0));
        state.receipts.push(epoch);
        let node = bytes(&self.node.0);
        Ok(Response::new(v1::DrainReceiptResponse { node, epoch, ring_hash, handed_over: Vec::new() }))
    }

    async fn partition_digests(
        &self,
        _: Request<v1::PartitionDigestsRequest>,
    ) -> Result<Response<v1::PartitionDigestsResponse>, Status> {
        Ok(Response::new(v1::PartitionDigestsResponse::default()))
    }
}
