//! Every node's own view, asked of each at the same time. A node that does not answer is shown as that, never as gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dynamo_client::{AdminClient, AdminError, NodeStatus};
use dynamo_core::id::NodeId;
use dynamo_core::ring::Ring;
use futures::future::join_all;
use tokio::time::Instant;

use crate::stop::Stop;

/// Deadline of one administrative call, where nobody asked for another.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// Whom to ask first.
#[derive(Clone, Debug)]
pub struct Endpoints {
    /// Client addresses, host:port.
    pub addresses: Vec<String>,
    /// Deadline of each call, to them and to those that they know.
    pub call_timeout: Duration,
}

impl From<Vec<String>> for Endpoints {
    fn from(addresses: Vec<String>) -> Self {
        Self { addresses, call_timeout: CALL_TIMEOUT }
    }
}

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
/// that lives where the last one led to a pod that just went. Not again once the deadline of a call has passed: they do not answer.
const ATTEMPTS: usize = 3;

/// Asks the endpoints, and everyone they know, each once if one answers. An error if nobody does.
pub async fn ask(endpoints: &Endpoints) -> Result<Views, Stop> {
    let mut views = Views { ring: None, answered: BTreeMap::new(), silent: BTreeMap::new() };
    let addresses: BTreeSet<String> = endpoints.addresses.iter().cloned().collect();
    let mut failures = BTreeMap::new();
    let over = Instant::now() + endpoints.call_timeout;
    for _ in 0..ATTEMPTS {
        failures.clear();
        for (address, asked) in ask_all(addresses.clone(), endpoints.call_timeout).await {
            match asked {
                Ok(answer) => {
                    views.answered.insert(answer.status.node, answer);
                }
                Err(error @ AdminError::Address { .. }) => return Err(error.into()),
                Err(error) => {
                    failures.insert(address, error.to_string());
                }
            }
        }
        if !views.answered.is_empty() || Instant::now() >= over {
            break;
        }
    }
    if views.answered.is_empty() {
        let reasons: Vec<String> = failures.into_values().collect();
        return Err(Stop::Failed(format!("no node answers: {}", reasons.join("; "))));
    }
    ask_peers(&mut views, failures, endpoints.call_timeout).await;
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

/// Asks those that the ones who answered know of, and that were not asked yet. `failures` are the addresses that did not answer, and why.
async fn ask_peers(views: &mut Views, mut failures: BTreeMap<String, String>, call_timeout: Duration) {
    let mut known = BTreeMap::new();
    for answer in views.answered.values() {
        for (node, peer) in &answer.status.peers {
            if !views.answered.contains_key(node) && !peer.client_address.is_empty() {
                known.insert(*node, peer.client_address.clone());
            }
        }
    }
    let addresses: BTreeSet<String> = known.values().filter(|address| !failures.contains_key(*address)).cloned().collect();
    for (address, asked) in ask_all(addresses, call_timeout).await {
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

async fn ask_all(addresses: BTreeSet<String>, call_timeout: Duration) -> Vec<(String, Result<Answer, AdminError>)> {
    join_all(addresses.into_iter().map(|address| async move {
        let asked = ask_one(&address, call_timeout).await;
        (address, asked)
    }))
    .await
}

/// One node's answer.
pub async fn ask_one(address: &str, call_timeout: Duration) -> Result<Answer, AdminError> {
    let client = AdminClient::connect(address, call_timeout).await?;
    let status = client.status().await?;
    Ok(Answer { status, client })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::double::Double;
    use dynamo_client::admin::Peer;
    use dynamo_core::id::{ClusterId, Epoch};
    use dynamo_core::rebalance::{Members, first_ring};
    use dynamo_core::ring::Member;

    #[tokio::test]
    async fn an_address_that_did_not_answer_is_not_asked_again() {
        let (own, other) = (NodeId([1; 16]), NodeId([2; 16]));
        let members = Members::from([(own, Member { zone: "z".to_owned(), weight: 1 })]);
        let double = Double::start(own, first_ring(ClusterId([9; 16]), 1, 1, &members).unwrap(), 0).await;
        let mut answer = ask_one(&double.address, CALL_TIMEOUT).await.unwrap();
        let address = "127.0.0.1:1".to_owned();
        let (peer_address, client_address, zone) = (String::new(), address.clone(), "z".to_owned());
        let peer = Peer { peer_address, client_address, zone, connected: false, suspected: true, phi: 9.0, epoch: Epoch(1) };
        answer.status.peers = BTreeMap::from([(other, peer)]);
        let mut views = Views { ring: None, answered: BTreeMap::from([(own, answer)]), silent: BTreeMap::new() };
        let failures = BTreeMap::from([(address, "what it came to the first time".to_owned())]);
        ask_peers(&mut views, failures, CALL_TIMEOUT).await;
        assert_eq!(views.silent[&other].reason, "what it came to the first time");
    }
}
