//! One node's own view of itself and its cluster, and the one way to give it a new ring (paper 4.8, 4.9).
//!
//! A thin wrapper over the `Admin` service: each call has a deadline, and what comes back is decoded and validated here, once.
//! An error is never an empty answer: whoever plans with these answers must be able to tell "nothing" from "unknown".

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use dynamo_core::id::{ClusterId, Epoch, NodeId, PartitionId};
use dynamo_core::node::receipt::Receipt;
use dynamo_core::ring::{Ring, RingHash};
use dynamo_core::version::Digest;
use dynamo_proto::v1::admin_client::AdminClient as Stub;
use dynamo_proto::{WireError, v1};
use thiserror::Error;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

/// Bytes of one answer, and of a topology. The largest are the digests and the rings of 65,536 partitions, 2 MiB.
pub(crate) const ADMIN_ANSWER_BYTES_MAX: usize = 16 << 20;

/// Bytes of host:port. A name of DNS has 253 at most.
const ADDRESS_BYTES_MAX: usize = 260;

/// Pings on a connection over which nothing comes; one that answers none is closed.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Partitions that one call asks the digests of, so that an answer stays small.
const DIGESTS_PER_CALL: usize = 4096;

/// A connection to the `Admin` service of one node.
#[derive(Clone, Debug)]
pub struct AdminClient {
    address: String,
    stub: Stub<Channel>,
    timeout: Duration,
}

/// Why an administrative call gave no answer.
#[derive(Debug, Error)]
pub enum AdminError {
    /// Not `host:port`.
    #[error("address {address:?}: {reason}; give host:port")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No connection. The node was asked nothing.
    #[error("{address}: cannot connect: {reason}")]
    Connect {
        /// Whom.
        address: String,
        /// Why not.
        reason: String,
    },
    /// The deadline passed.
    #[error("{address}: no answer to {call} within {timeout_ms} ms")]
    Timeout {
        /// Who did not answer.
        address: String,
        /// The call.
        call: &'static str,
        /// The deadline.
        timeout_ms: u64,
    },
    /// The node's state forbids it (FAILED_PRECONDITION): the message says what it holds instead, or what is left to do.
    #[error("{address}: {call} refused: {message}")]
    Refused {
        /// Who refused.
        address: String,
        /// The call.
        call: &'static str,
        /// The node's words.
        message: String,
    },
    /// The call failed in another way; whether the node acted on it is unknown.
    #[error("{address}: {call} failed ({code:?}): {message}")]
    Failed {
        /// Who was asked.
        address: String,
        /// The call.
        call: &'static str,
        /// The gRPC code.
        code: Code,
        /// The node's words.
        message: String,
    },
    /// The answer holds what no node of this version sends.
    #[error("{address}: the answer to {call} cannot be used: {reason}")]
    Answer {
        /// Who answered.
        address: String,
        /// The call.
        call: &'static str,
        /// The field, and what is wrong with it.
        reason: String,
    },
}

/// One node, as it sees itself and its peers.
#[derive(Clone, PartialEq, Debug)]
pub struct NodeStatus {
    /// Who it is.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its failure domain.
    pub zone: String,
    /// The program's version.
    pub version: String,
    /// The epoch of the ring on its stable storage; 0 without one.
    pub epoch: Epoch,
    /// The hash of that ring; `None` without one.
    pub ring_hash: Option<RingHash>,
    /// host:port for peers.
    pub peer_address: String,
    /// host:port for clients.
    pub client_address: String,
    /// Since its process started.
    pub uptime: Duration,
    /// Partitions it is a replica of, by its ring.
    pub partitions: u32,
    /// Partitions whose objects lie here though the ring gives them to others.
    pub foreign_partitions: u32,
    /// Objects it holds.
    pub objects: u64,
    /// Bytes they take.
    pub bytes: u64,
    /// Copies it keeps for others, by whom they are for.
    pub hints: BTreeMap<NodeId, HintBacklog>,
    /// Partitions it is sending.
    pub transfers: Vec<Transfer>,
    /// Its peers.
    pub peers: BTreeMap<NodeId, Peer>,
    /// Moving partitions of which it has everything that their sources had.
    pub received: BTreeSet<PartitionId>,
    /// It serves requests, or stands by for a ring, and its storage works.
    pub ready: bool,
    /// Its disk has space; else it stores nothing that others send, and hints for it stay where they are. A node that does not say so has.
    pub writable: bool,
    /// The protocol's counters, by name.
    pub counters: BTreeMap<String, u64>,
    /// Grows at each start of its process.
    pub generation: u64,
    /// How it is configured to treat buckets, as a number to compare; `None` from a version that does not say.
    pub buckets_digest: Option<u64>,
}

/// Copies that wait for one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HintBacklog {
    /// How many.
    pub hints: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// One partition on its way to another node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// Which.
    pub partition: PartitionId,
    /// To whom.
    pub to: NodeId,
    /// Objects sent so far.
    pub objects_sent: u64,
    /// Bytes sent so far.
    pub bytes_sent: u64,
    /// The receiver has all of it on stable storage.
    pub done: bool,
}

/// A peer, as one node sees it.
#[derive(Clone, PartialEq, Debug)]
pub struct Peer {
    /// host:port for peers.
    pub peer_address: String,
    /// host:port for clients.
    pub client_address: String,
    /// Its failure domain.
    pub zone: String,
    /// The stream to it works.
    pub connected: bool,
    /// It is taken for down.
    pub suspected: bool,
    /// The suspicion level (phi).
    pub phi: f64,
    /// The epoch it was last heard to hold.
    pub epoch: Epoch,
}

/// What one node's copy of a partition amounts to; equal copies have equal digests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartitionDigest {
    /// Over the histories of all objects.
    pub root: Digest,
    /// How many objects there are.
    pub objects: u64,
}

impl AdminClient {
    /// Connects to `address` (host:port of a node's client service). `timeout` is the deadline of the connection and, from then
    /// on, of each call.
    ///
    /// # Errors
    /// [`AdminError::Address`] or [`AdminError::Connect`]; the calls have the others.
    pub async fn connect(address: &str, timeout: Duration) -> Result<Self, AdminError> {
        let invalid = |reason: String| AdminError::Address { address: address.to_owned(), reason };
        let endpoint = endpoint(address, timeout).map_err(invalid)?;
        let failed = |reason: String| AdminError::Connect { address: address.to_owned(), reason };
        let channel = match tokio::time::timeout(timeout, endpoint.connect()).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(failed(innermost(&error))),
            Err(_) => return Err(failed(format!("no answer within {} ms", timeout.as_millis()))),
        };
        Ok(Self {
            address: address.to_owned(),
            stub: Stub::new(channel).max_decoding_message_size(ADMIN_ANSWER_BYTES_MAX),
            timeout,
        })
    }

    /// host:port that this client is connected to.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The node's view of itself and its peers.
    pub async fn status(&self) -> Result<NodeStatus, AdminError> {
        let mut stub = self.stub.clone();
        let answer = self.call("Status", stub.status(v1::StatusRequest {})).await?;
        node_status(answer).map_err(|reason| self.unusable("Status", reason))
    }

    /// The ring that the node holds, if any.
    pub async fn ring(&self) -> Result<Option<Ring>, AdminError> {
        let mut stub = self.stub.clone();
        let answer = self.call("Ring", stub.ring(v1::RingViewRequest {})).await?;
        if answer.ring.is_empty() {
            return Ok(None);
        }
        Ring::decode(answer.ring).map(Some).map_err(|error| self.unusable("Ring", format!("ring: {error}")))
    }

    /// Offers `ring`, the successor of the ring that the node holds. Offering what it already holds succeeds. Returns the epoch
    /// and the hash of the ring that the node holds afterwards. After any error but [`AdminError::Refused`] it may hold it too.
    pub async fn propose_ring(&self, ring: &Ring) -> Result<(Epoch, RingHash), AdminError> {
        let mut stub = self.stub.clone();
        let answer = self.call("ProposeRing", stub.propose_ring(v1::ProposeRingRequest { ring: ring.encode() })).await?;
        let hash = ring_hash(&answer.ring_hash).map_err(|reason| self.unusable("ProposeRing", reason))?;
        Ok((Epoch(answer.epoch), hash))
    }

    /// The node's proof that it holds nothing that the cluster still needs; [`AdminError::Refused`] says what is left.
    pub async fn drain_receipt(&self) -> Result<Receipt, AdminError> {
        let mut stub = self.stub.clone();
        let answer = self.call("DrainReceipt", stub.drain_receipt(v1::DrainReceiptRequest {})).await?;
        answer.try_into().map_err(|error: WireError| self.unusable("DrainReceipt", error.to_string()))
    }

    /// Digests of the node's copies of `partitions`, each of which is in the answer.
    pub async fn partition_digests(
        &self,
        partitions: &[PartitionId],
    ) -> Result<BTreeMap<PartitionId, PartitionDigest>, AdminError> {
        const CALL: &str = "PartitionDigests";
        let mut digests = BTreeMap::new();
        for chunk in partitions.chunks(DIGESTS_PER_CALL) {
            let mut stub = self.stub.clone();
            let request = v1::PartitionDigestsRequest { partitions: chunk.iter().map(|partition| partition.0).collect() };
            for digest in self.call(CALL, stub.partition_digests(request)).await?.digests {
                let root = digest.root[..].try_into().map(Digest);
                let root = root.map_err(|_| self.unusable(CALL, "root: is not 16 bytes".to_owned()))?;
                digests.insert(PartitionId(digest.partition), PartitionDigest { root, objects: digest.objects });
            }
        }
        match partitions.iter().find(|partition| !digests.contains_key(partition)) {
            Some(partition) => Err(self.unusable(CALL, format!("partition {partition} is missing"))),
            None => Ok(digests),
        }
    }

    async fn call<T>(
        &self,
        call: &'static str,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, AdminError> {
        let address = self.address.clone();
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) if status.code() == Code::FailedPrecondition => {
                Err(AdminError::Refused { address, call, message: status.message().to_owned() })
            }
            Ok(Err(status)) => Err(AdminError::Failed { address, call, code: status.code(), message: words(&status) }),
            Err(_) => Err(AdminError::Timeout { address, call, timeout_ms: self.timeout.as_millis() as u64 }),
        }
    }

    fn unusable(&self, call: &'static str, reason: String) -> AdminError {
        AdminError::Answer { address: self.address.clone(), call, reason }
    }
}

/// A plaintext endpoint at host:port that notices a dead connection: idle ones are pinged.
pub(crate) fn endpoint(address: &str, connect_timeout: Duration) -> Result<Endpoint, String> {
    if let Some((scheme, _)) = address.split_once("://") {
        return Err(format!("leave out {scheme}://"));
    }
    if address.len() > ADDRESS_BYTES_MAX {
        return Err(format!("it is {} bytes long, at most {ADDRESS_BYTES_MAX}", address.len()));
    }
    let (host, port) = address.rsplit_once(':').unwrap_or_default();
    if host.is_empty() || port.is_empty() {
        return Err("it has no host or no port".to_owned());
    }
    if port.parse::<u16>().is_err() {
        return Err(format!("its port {port:?} is no number up to 65535"));
    }
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| innermost(&error))?;
    Ok(endpoint
        .connect_timeout(connect_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}

/// How those speak that speak another protocol: a server of HTTP/1 to a client of HTTP/2, and one of HTTP without gRPC.
const OTHER_PROTOCOLS: [&str; 2] = ["h2 protocol error: http2 error", "grpc-status header missing"];

/// What a status says, for people. Who knows no such service is somebody else than was meant, and so may be who speaks otherwise.
pub(crate) fn words(status: &Status) -> String {
    match (status.message(), status.code()) {
        ("", Code::Unimplemented) => "no node's client port listens there; it is 7400 unless configured otherwise".to_owned(),
        ("", _) => "no reason was given".to_owned(),
        (message, _) if OTHER_PROTOCOLS.iter().any(|other| message.starts_with(other)) => {
            format!("{message}: is that a node's client port? It is 7400 unless configured otherwise")
        }
        (message, _) => message.to_owned(),
    }
}

/// The innermost cause: what a transport error means for people ("connection refused").
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

fn node_id(bytes: &[u8], field: &str) -> Result<NodeId, String> {
    NodeId::from_slice(bytes).ok_or_else(|| format!("{field}: is not 16 bytes"))
}

fn ring_hash(bytes: &[u8]) -> Result<RingHash, String> {
    bytes.try_into().map(RingHash).map_err(|_| "ring_hash: is not 32 bytes".to_owned())
}

fn node_status(answer: v1::StatusResponse) -> Result<NodeStatus, String> {
    let optional_hash = |bytes: &Bytes| if bytes.is_empty() { Ok(None) } else { ring_hash(bytes).map(Some) };
    let hint = |hint: v1::HintBacklog| -> Result<_, String> {
        Ok((node_id(&hint.target, "hints.target")?, HintBacklog { hints: hint.hints, bytes: hint.bytes }))
    };
    let transfer = |transfer: v1::TransferStatus| -> Result<_, String> {
        Ok(Transfer {
            partition: PartitionId(transfer.partition),
            to: node_id(&transfer.to, "transfers.to")?,
            objects_sent: transfer.objects_sent,
            bytes_sent: transfer.bytes_sent,
            done: transfer.done,
        })
    };
    Ok(NodeStatus {
        node: node_id(&answer.node, "node")?,
        cluster: ClusterId::from_slice(&answer.cluster).ok_or("cluster: is not 16 bytes")?,
        zone: answer.zone,
        version: answer.version,
        epoch: Epoch(answer.epoch),
        ring_hash: optional_hash(&answer.ring_hash)?,
        peer_address: answer.peer_address,
        client_address: answer.client_address,
        uptime: Duration::from_secs(answer.uptime_seconds),
        partitions: answer.partitions,
        foreign_partitions: answer.foreign_partitions,
        objects: answer.objects,
        bytes: answer.bytes,
        hints: answer.hints.into_iter().map(hint).collect::<Result<_, _>>()?,
        transfers: answer.transfers.into_iter().map(transfer).collect::<Result<_, _>>()?,
        peers: answer.peers.into_iter().map(peer).collect::<Result<_, _>>()?,
        received: answer.received.into_iter().map(PartitionId).collect(),
        ready: answer.ready,
        writable: !answer.refuses_writes,
        counters: answer.counters.into_iter().collect(),
        generation: answer.generation,
        buckets_digest: (answer.buckets_digest != 0).then_some(answer.buckets_digest),
    })
}

fn peer(peer: v1::PeerStatus) -> Result<(NodeId, Peer), String> {
    let view = Peer {
        peer_address: peer.peer_address,
        client_address: peer.client_address,
        zone: peer.zone,
        connected: peer.connected,
        suspected: peer.suspected,
        phi: peer.phi_milli as f64 / 1000.0,
        epoch: Epoch(peer.epoch),
    };
    Ok((node_id(&peer.node, "peers.node")?, view))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_decoded_and_a_damaged_one_names_the_field() {
        let id = Bytes::from_static(&[7; 16]);
        let answer = v1::StatusResponse {
            node: id.clone(),
            cluster: id.clone(),
            epoch: 4,
            received: vec![3, 1],
            hints: vec![v1::HintBacklog { target: id.clone(), hints: 2, bytes: 10 }],
            peers: vec![v1::PeerStatus { node: id.clone(), phi_milli: 1500, ..Default::default() }],
            ..Default::default()
        };
        let status = node_status(answer.clone()).unwrap();
        assert_eq!((status.node, status.epoch, status.ring_hash), (NodeId([7; 16]), Epoch(4), None));
        assert_eq!(status.received, BTreeSet::from([PartitionId(1), PartitionId(3)]));
        assert_eq!(status.peers[&NodeId([7; 16])].phi, 1.5);

        let short = Bytes::from_static(&[1; 3]);
        type Damage = fn(&mut v1::StatusResponse, Bytes);
        let cases: [(&str, Damage); 4] = [
            ("node:", |answer, short| answer.node = short),
            ("cluster:", |answer, short| answer.cluster = short),
            ("ring_hash:", |answer, short| answer.ring_hash = short),
            ("hints.target:", |answer, short| answer.hints[0].target = short),
        ];
        for (field, damage) in cases {
            let mut damaged = answer.clone();
            damage(&mut damaged, short.clone());
            let reason = node_status(damaged).unwrap_err();
            assert!(reason.starts_with(field), "{reason}");
        }
    }

    #[test]
    fn an_address_without_a_port_is_refused_by_name() {
        for address in ["", "localhost", ":7400", "localhost:http", "local host:7400"] {
            assert!(endpoint(address, Duration::from_secs(1)).is_err(), "{address}");
        }
        assert!(endpoint("[::1]:7400", Duration::from_secs(1)).is_ok());
    }

    #[test]
    fn an_address_with_a_scheme_is_refused_by_name() {
        let refused = |address| endpoint(address, Duration::from_secs(1)).map(drop);
        assert_eq!(refused("http://127.0.0.1:7400"), Err("leave out http://".to_owned()));
        assert_eq!(refused("localhost"), Err("it has no host or no port".to_owned()));
        assert_eq!(refused("localhost:99999"), Err("its port \"99999\" is no number up to 65535".to_owned()));
        assert_eq!(refused("localhost:7400"), Ok(()));
    }

    #[test]
    fn a_status_without_words_is_explained() {
        let cases = [
            (Status::unavailable("stops"), "stops"),
            (Status::unimplemented(""), "no node's client port listens there; it is 7400 unless configured otherwise"),
            (Status::internal(""), "no reason was given"),
            (
                Status::internal("h2 protocol error: http2 error"),
                "h2 protocol error: http2 error: is that a node's client port? It is 7400 unless configured otherwise",
            ),
            (
                Status::unimplemented("grpc-status header missing, mapped from HTTP status code 404"),
                "grpc-status header missing, mapped from HTTP status code 404: is that a node's client port? It is 7400 unless \
                 configured otherwise",
            ),
        ];
        for (status, expected) in cases {
            assert_eq!(words(&status), expected);
        }
    }
}
