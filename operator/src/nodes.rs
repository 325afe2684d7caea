//! Asking the nodes themselves: each call goes to one node, and either gives that node's own fresh answer or nothing. Nothing is
//! remembered.
//!
//! [`Network`] is the one that production uses. A simulation brings its own [`Nodes`], and so runs all of the rest as it is.

use std::time::Duration;

use dynamo_client::{AdminClient, AdminError};
use dynamo_core::node::receipt::Receipt;
use dynamo_core::ring::{Ring, RingHash};
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::observed::Node;
use crate::valid::ValidCluster;

/// The deadline of one connection and of one call. A node that needs longer is taken for silent, and asked again in the next pass.
const DEADLINE: Duration = Duration::from_secs(2);

/// Nodes that are asked at the same time.
pub const ASKED_MAX: usize = 128;

/// How long one look asks nodes. What it does not hear by then is unknown to it, so that a pass ends however many nodes are silent.
#[derive(Clone, Copy)]
pub struct Patience {
    /// For their views.
    pub views: Duration,
    /// For all: those, a newer ring, and receipts.
    pub all: Duration,
}

/// A thousand nodes that let each call run into its deadline are all asked.
pub const PATIENCE: Patience = Patience { views: Duration::from_secs(16), all: Duration::from_secs(20) };

/// An answer, or why there is none, for people.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, String>>;

/// The way to the nodes. Each call is made at an address that was just read from a pod.
pub trait Nodes: Send + Sync {
    /// What the node at `address` says of itself, if it is of this cluster. An address may have passed to another cluster's pod
    /// since it was read.
    fn status<'a>(&'a self, cluster: &'a ValidCluster, address: &'a str) -> Answer<'a, Node>;

    /// The ring that the node at `address` holds.
    fn ring<'a>(&'a self, address: &'a str) -> Answer<'a, Option<Ring>>;

    /// Offers `ring` to the node at `address`.
    fn offer<'a>(&'a self, address: &'a str, ring: &'a Ring) -> Answer<'a, ()>;

    /// The drain receipt of the node at `address`; an error says what is left, or that it did not answer.
    fn receipt<'a>(&'a self, address: &'a str) -> Answer<'a, Receipt>;
}

/// Over the network, with a deadline; connections live for one call.
pub struct Network;

impl Nodes for Network {
    fn status<'a>(&'a self, cluster: &'a ValidCluster, address: &'a str) -> Answer<'a, Node> {
        status(cluster, address).boxed()
    }

    fn ring<'a>(&'a self, address: &'a str) -> Answer<'a, Option<Ring>> {
        let ask = async { AdminClient::connect(address, DEADLINE).await?.ring().await };
        ask.map(|answer| answer.map_err(|error: AdminError| error.to_string())).boxed()
    }

    fn offer<'a>(&'a self, address: &'a str, ring: &'a Ring) -> Answer<'a, ()> {
        let ask = async { AdminClient::connect(address, DEADLINE).await?.propose_ring(ring).await.map(|_| ()) };
        ask.map(|answer| answer.map_err(|error: AdminError| error.to_string())).boxed()
    }

    fn receipt<'a>(&'a self, address: &'a str) -> Answer<'a, Receipt> {
        receipt(address).boxed()
    }
}

async fn status(cluster: &ValidCluster, address: &str) -> Result<Node, String> {
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
        hints: status.hints.iter().map(|(node, backlog)| (*node, backlog.hints)).collect(),
        writable: status.writable,
        bytes: status.bytes,
        copies: status.partitions + status.foreign_partitions,
        bytes_sent: status.transfers.iter().map(|transfer| transfer.bytes_sent).sum(),
    })
}

async fn receipt(address: &str) -> Result<Receipt, String> {
    let ask = async { AdminClient::connect(address, DEADLINE).await?.drain_receipt().await };
    match ask.await {
        Ok(receipt) => Ok(receipt),
        Err(AdminError::Refused { message, .. }) => Err(message),
        Err(error) => Err(error.to_string()),
    }
}
