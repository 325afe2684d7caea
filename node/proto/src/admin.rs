//! What administrators and tools are told: one node's own view, outward; and back, the part that a writer of rings acts on.
//!
//! An answer that does not convert is no view at all. A writer of rings must not take it for an empty one: unknown is not gone.

use std::collections::BTreeMap;

use bytes::Bytes;
use dynamo_core::id::{Epoch, NodeId, PartitionId};
use dynamo_core::node::receipt::{HandedOver, Receipt};
use dynamo_core::node::status::{PeerStatus, Status, TransferStatus};
use dynamo_core::rebalance::View;
use dynamo_core::ring::RingHash;
use dynamo_core::version::Digest;

use crate::{WireError, id, v1};

/// The fields that the protocol knows. Identity, addresses and what the process knows of itself are the server's to add.
impl From<Status> for v1::StatusResponse {
    fn from(status: Status) -> Self {
        Self {
            epoch: status.epoch.0,
            ring_hash: hash(status.epoch, status.ring_hash),
            partitions: count(status.partitions),
            foreign_partitions: count(status.foreign_partitions),
            objects: status.objects,
            hints: backlogs(&status.hints),
            transfers: status.transfers.into_iter().map(v1::TransferStatus::from).collect(),
            peers: status.peers.into_iter().map(v1::PeerStatus::from).collect(),
            received: status.received.iter().map(|partition| partition.0).collect(),
            refuses_writes: !status.writable,
            buckets_digest: status.buckets_digest,
            ..Self::default()
        }
    }
}

impl From<TransferStatus> for v1::TransferStatus {
    fn from(transfer: TransferStatus) -> Self {
        let TransferStatus { partition: PartitionId(partition), to, objects: objects_sent, bytes: bytes_sent, done } = transfer;
        Self { partition, to: node(to), objects_sent, bytes_sent, done }
    }
}

impl From<PeerStatus> for v1::PeerStatus {
    fn from(peer: PeerStatus) -> Self {
        Self {
            node: node(peer.node),
            peer_address: peer.peer_address,
            client_address: peer.client_address,
            zone: peer.zone,
            connected: peer.connected,
            suspected: peer.suspected,
            // A cast from f64 saturates; no suspicion is below zero.
            phi_milli: (peer.phi * 1000.0) as u64,
            epoch: peer.epoch.0,
        }
    }
}

impl From<Receipt> for v1::DrainReceiptResponse {
    fn from(receipt: Receipt) -> Self {
        let Receipt { node: drained, epoch, ring_hash, handed_over } = receipt;
        let handed_over = handed_over
            .into_iter()
            .map(|HandedOver { partition, epoch, objects, root }| v1::HandedOver {
                partition: partition.0,
                epoch: epoch.0,
                objects,
                root: Bytes::copy_from_slice(&root.0),
            })
            .collect();
        Self { node: node(drained), epoch: epoch.0, ring_hash: hash(epoch, ring_hash), handed_over }
    }
}

impl TryFrom<v1::DrainReceiptResponse> for Receipt {
    type Error = WireError;

    fn try_from(wire: v1::DrainReceiptResponse) -> Result<Self, WireError> {
        let epoch = Epoch(wire.epoch);
        let ring_hash = read_hash(epoch, &wire.ring_hash)?;
        let node = NodeId(id(&wire.node, "node")?);
        let handed_over = wire.handed_over.iter().map(handed_over).collect::<Result<_, _>>()?;
        Ok(Self { node, epoch, ring_hash, handed_over })
    }
}

fn handed_over(wire: &v1::HandedOver) -> Result<HandedOver, WireError> {
    let root = Digest(id(&wire.root, "root")?);
    Ok(HandedOver { partition: PartitionId(wire.partition), epoch: Epoch(wire.epoch), objects: wire.objects, root })
}

/// Who answered, and what a writer of rings may conclude from it.
pub fn view(wire: &v1::StatusResponse) -> Result<(NodeId, View), WireError> {
    let epoch = Epoch(wire.epoch);
    let received = wire.received.iter().map(|partition| PartitionId(*partition)).collect();
    let view = View { epoch, ring_hash: read_hash(epoch, &wire.ring_hash)?, received };
    Ok((NodeId(id(&wire.node, "node")?), view))
}

fn node(node: NodeId) -> Bytes {
    Bytes::copy_from_slice(&node.0)
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn backlogs(hints: &BTreeMap<NodeId, (u64, u64)>) -> Vec<v1::HintBacklog> {
    let backlog = |(target, (hints, bytes)): (&NodeId, &(u64, u64))| v1::HintBacklog {
        target: node(*target),
        hints: *hints,
        bytes: *bytes,
    };
    hints.iter().map(backlog).collect()
}

/// Empty without a ring.
fn hash(epoch: Epoch, hash: RingHash) -> Bytes {
    if epoch == Epoch(0) { Bytes::new() } else { Bytes::copy_from_slice(&hash.0) }
}

fn read_hash(epoch: Epoch, bytes: &[u8]) -> Result<RingHash, WireError> {
    if epoch == Epoch(0) && bytes.is_empty() {
        return Ok(RingHash::default());
    }
    let hash = bytes.try_into().map_err(|_| WireError::new("ring_hash", format!("{} bytes, a hash has 32", bytes.len())))?;
    Ok(RingHash(hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn status(epoch: u64) -> Status {
        Status {
            starting: false,
            epoch: Epoch(epoch),
            ring_hash: RingHash([9; 32]),
            partitions: 3,
            foreign_partitions: 1,
            objects: 70,
            hints: [(NodeId([2; 16]), (5, 500))].into(),
            transfers: vec![TransferStatus {
                partition: PartitionId(1),
                to: NodeId([3; 16]),
                objects: 6,
                bytes: 600,
                done: true,
            }],
            received: BTreeSet::from([PartitionId(4), PartitionId(7)]),
            peers: vec![PeerStatus {
                node: NodeId([2; 16]),
                peer_address: "a:1".into(),
                client_address: "a:2".into(),
                zone: "z".into(),
                connected: true,
                suspected: false,
                phi: 1.5,
                epoch: Epoch(3),
            }],
            requests: 0,
            clock_ahead_ms: 0,
            ready: true,
            writable: false,
            buckets_digest: 7,
            buckets_differ: BTreeMap::new(),
        }
    }

    #[test]
    fn a_writer_of_rings_reads_from_a_status_what_the_node_holds() {
        let wire = v1::StatusResponse { node: Bytes::from_static(&[1; 16]), ..status(4).into() };
        let (node, view) = view(&wire).unwrap();
        assert_eq!(node, NodeId([1; 16]));
        assert_eq!((view.epoch, view.ring_hash), (Epoch(4), RingHash([9; 32])));
        assert_eq!(view.received, BTreeSet::from([PartitionId(4), PartitionId(7)]));
        assert_eq!(wire.peers[0].phi_milli, 1500);
        assert_eq!((wire.hints[0].hints, wire.hints[0].bytes), (5, 500));
        assert_eq!((wire.refuses_writes, wire.buckets_digest), (true, 7));
    }

    #[test]
    fn an_answer_without_identity_or_hash_is_no_view() {
        let good = v1::StatusResponse { node: Bytes::from_static(&[1; 16]), ..status(4).into() };
        let cases = [
            (v1::StatusResponse::default(), "node: 0 bytes"),
            (v1::StatusResponse { ring_hash: Bytes::new(), ..good.clone() }, "ring_hash: 0 bytes"),
            (v1::StatusResponse { node: Bytes::from_static(&[1; 3]), ..good.clone() }, "node: 3 bytes"),
        ];
        for (wire, expected) in cases {
            let error = view(&wire).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        let without_a_ring = v1::StatusResponse { epoch: 0, ring_hash: Bytes::new(), ..good };
        assert_eq!(view(&without_a_ring).unwrap().1.ring_hash, RingHash::default());
    }

    #[test]
    fn a_receipt_reads_back() {
        let handed_over = HandedOver { partition: PartitionId(4), epoch: Epoch(1), objects: 5, root: Digest([6; 16]) };
        let handed_over = vec![handed_over];
        let receipt = Receipt { node: NodeId([1; 16]), epoch: Epoch(2), ring_hash: RingHash([3; 32]), handed_over };
        assert_eq!(Receipt::try_from(v1::DrainReceiptResponse::from(receipt.clone())), Ok(receipt));
        assert!(Receipt::try_from(v1::DrainReceiptResponse::default()).is_err());
    }
}
