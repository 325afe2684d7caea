//! Every node's own view, asked of each at the same time. A node that does not answer is shown as that, never as gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dynamo_client::{AdminClient, AdminError, NodeStatus};
use dynamo_core::id::NodeId;
use dynamo_core::ring::Ring;
use futures::future::join_all;

use crate::stop::Stop;

/// Deadline of one administrative call.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// What the nodes of a cluster say.
pub struct Views {
    /// The newest ring that any of them holds.
    pub ring: Option<Ring>,
    /// The answers.
    pub answered: BTreeMap<NodeId, Answer>,
    /// Known by the ring or by a peer's word, and did not answer: the address, if known, and why.
    pub silent: BTreeMap<NodeId, Silence>,
}

/// One node's answer.
pub struct Answer {
    /// What it says.
    pub status: NodeStatus,
    /// To ask more.
    pub client: AdminClient,
}

/// A node that did not answer.
#[derive(Clone)]
pub struct Silence {
    /// host:port, if anybody knows it.
    pub address: Option<String>,
    /// What happened.
    pub reason: String,
}

/// How often the endpoints are asked before none counts as answering: behind a Service, the next connection may lead to a node
/// that lives where the last one led to a pod that just went.
const ATTEMPTS: usize = 3;

/// Asks the endpoints, and everyone they know. An error if nobody answers.
pub async fn ask(endpoints: &[String]) -> Result<Views, Stop> {
    let mut views = Views { ring: None, answered: BTreeMap::new(), silent: BTreeMap::new() };
    let mut reasons = Vec::new();
    for _ in 0..ATTEMPTS {
        reasons.clear();
        for (_, asked) in ask_all(endpoints.iter().cloned().collect()).await {
            match asked {
                Ok(answer) => {
                    views.answered.insert(answer.status.node, answer);
                }
                Err(error @ AdminError::Address { .. }) => return Err(error.into()),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        if !views.answered.is_empty() {
            break;
        }
    }
    if views.answered.is_empty() {
        return Err(Stop::Failed(format!("no node answers: {}", reasons.join("; "))));
    }
    ask_peers(&mut views).await;
    let newest = views.answered.values().max_by_key(|answer| answer.status.epoch);
    if let Some(answer) = newest.filter(|answer| answer.status.ring_hash.is_some()) {
        views.ring = answer.client.ring().await?;
    }
    for node in views.ring.iter().flat_map(|ring| ring.members.keys()) {
        if !views.answered.contains_key(node) {
            let reason = "no node knows its address".to_owned();
            views.silent.entry(*node).or_insert(Silence { address: None, reason });
        }
    }
    Ok(views)
}

/// Asks those that the ones who answered know of, and that were not asked yet.
async fn ask_peers(views: &mut Views) {
    let mut known = BTreeMap::new();
    for answer in views.answered.values() {
        for (node, peer) in &answer.status.peers {
            if !views.answered.contains_key(node) && !peer.client_address.is_empty() {
                known.insert(*node, peer.client_address.clone());
            }
        }
    }
    let addresses: BTreeSet<String> = known.values().cloned().collect();
    let mut failures = BTreeMap::new();
    for (address, asked) in ask_all(addresses).await {
        match asked {
            Ok(answer) => {
                views.answered.insert(answer.status.node, answer);
            }
            Err(error) => {
                failures.insert(address, error.to_string());
            }
        }
    }
    for (node, address) in known {
        if !views.answered.contains_key(&node) {
            let reason = failures.get(&address).cloned().unwrap_or_else(|| format!("{address}: another node answers there"));
            views.silent.insert(node, Silence { address: Some(address), reason });
        }
    }
}

async fn ask_all(addresses: BTreeSet<String>) -> Vec<(String, Result<Answer, AdminError>)> {
    join_all(addresses.into_iter().map(|address| async move {
        let asked = ask_one(&address).await;
        (address, asked)
    }))
    .await
}

/// One node's answer.
pub async fn ask_one(address: &str) -> Result<Answer, AdminError> {
    let client = AdminClient::connect(address, CALL_TIMEOUT).await?;
    let status = client.status().await?;
    Ok(Answer { status, client })
}
