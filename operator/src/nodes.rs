//! Asking the nodes themselves: each call goes to one node, has a deadline, and either gives that node's own fresh answer or
//! nothing. Nothing is remembered; connections live for one pass.

use std::time::Duration;

use dynamo_client::{AdminClient, AdminError};
use dynamo_core::ring::{Ring, RingHash};

use crate::observed::{Node, Receipt};
use crate::valid::ValidCluster;

/// The deadline of one connection and of one call. A node that needs longer is taken for silent, and asked again in the next pass.
const DEADLINE: Duration = Duration::from_secs(2);

/// Nodes that are asked at the same time.
pub const ASKED_MAX: usize = 32;

/// What the node at `address` says of itself, if it is of this cluster. An address may have passed to another cluster's pod since
/// it was read.
pub async fn status(cluster: &ValidCluster, address: &str) -> Result<Node, String> {
    let admin = AdminClient::connect(address, DEADLINE).await.map_err(|error| error.to_string())?;
    let status = admin.status().await.map_err(|error| error.to_string())?;
    if status.cluster != cluster.id {
        return Err(format!("{address} answers for cluster {}", status.cluster));
    }
    Ok(Node {
        id: status.node,
        epoch: status.epoch,
        ring_hash: status.ring_hash.unwrap_or(RingHash::default()),
        received: status.received,
        objects: status.objects,
        hints: status.hints.values().map(|backlog| backlog.hints).sum(),
    })
}

/// The ring that the node at `address` holds.
pub async fn ring(address: &str) -> Result<Option<Ring>, AdminError> {
    AdminClient::connect(address, DEADLINE).await?.ring().await
}

/// Offers `ring` to the node at `address`.
pub async fn offer(address: &str, ring: &Ring) -> Result<(), AdminError> {
    AdminClient::connect(address, DEADLINE).await?.propose_ring(ring).await.map(|_| ())
}

/// The drain receipt of the node at `address`; an error says what is left, or that it did not answer.
pub async fn receipt(address: &str) -> Result<Receipt, String> {
    let ask = async { AdminClient::connect(address, DEADLINE).await?.drain_receipt().await };
    match ask.await {
        Ok(receipt) => Ok(Receipt { node: receipt.node, epoch: receipt.epoch, ring_hash: receipt.ring_hash }),
        Err(AdminError::Refused { message, .. }) => Err(message),
        Err(error) => Err(error.to_string()),
    }
}
