//! Every node's own view, asked of each at the same time. A node that does not answer is shown as that, never as gone; one of another
//! cluster, at an address that a node of this one had, counts as not answering.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dynamo_client::{AdminClient, AdminError, NodeStatus};
use dynamo_core::id::{ClusterId, NodeId};
use dynamo_core::rebalance::View;
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
    /// The cluster that the endpoints are of.
    pub cluster: ClusterId,
    /// The newest ring that any of them holds.
    pub ring: Option<Ring>,
    /// The answers.
    pub answered: BTreeMap<NodeId, Answer>,
    /// Known by the ring or by a peer's word, and did not answer: the address, if known, and why.
    pub silent: BTreeMap<NodeId, Silence>,
    /// Endpoints that did not answer and that no node gave as another's address, and why.
    pub unclaimed: BTreeMap<String, String>,
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
    let mut answered = BTreeMap::new();
    let addresses: BTreeSet<String> = endpoints.addresses.iter().cloned().collect();
    let mut failures = BTreeMap::new();
    let over = Instant::now() + endpoints.call_timeout;
    for _ in 0..ATTEMPTS {
        failures.clear();
        for (address, asked) in ask_all(addresses.clone(), endpoints.call_timeout).await {
            match asked {
                Ok(answer) => {
                    answered.insert(answer.status.node, answer);
                }
                Err(error @ AdminError::Address { .. }) => return Err(error.into()),
                Err(error) => {
                    failures.insert(address, error.to_string());
                }
            }
        }
        if !answered.is_empty() || Instant::now() >= over {
            break;
        }
    }
    let Some(cluster) = one_cluster(&answered)? else { return Err(nobody(failures.into_values())) };
    let mut views = Views { cluster, ring: None, answered, silent: BTreeMap::new(), unclaimed: failures.clone() };
    ask_peers(&mut views, failures, endpoints.call_timeout).await;
    learn_ring(&mut views).await?;
    for node in views.ring.iter().flat_map(|ring| ring.members.keys()) {
        if !views.answered.contains_key(node) {
            let reason = "no node knows its address".to_owned();
            views.silent.entry(*node).or_insert(Silence { address: None, reason });
        }
    }
    Ok(views)
}

fn nobody(reasons: impl Iterator<Item = String>) -> Stop {
    Stop::Failed(format!("no node answers: {}", reasons.collect::<Vec<_>>().join("; ")))
}

/// The cluster that all are of; `None` if nobody answered.
fn one_cluster(answered: &BTreeMap<NodeId, Answer>) -> Result<Option<ClusterId>, Stop> {
    let mut clusters = BTreeMap::<ClusterId, &str>::new();
    for answer in answered.values() {
        clusters.entry(answer.status.cluster).or_insert(answer.client.address());
    }
    if clusters.len() > 1 {
        let named: Vec<String> = clusters.iter().map(|(cluster, address)| format!("{address} to {cluster}")).collect();
        return Err(Stop::Usage(format!(
            "the nodes belong to {} clusters ({}); name those of one with --endpoint, and give a node that is to join it its \
             cluster_id",
            clusters.len(),
            named.join(", ")
        )));
    }
    Ok(clusters.into_keys().next())
}

/// Asks for the newest ring that somebody still gives. Who said that it holds a newer one, and does not give it, has gone since.
async fn learn_ring(views: &mut Views) -> Result<(), Stop> {
    let mut reasons = Vec::new();
    loop {
        let Some((node, answer)) = views.answered.iter().max_by_key(|(_, answer)| answer.status.epoch) else {
            return Err(nobody(reasons.into_iter()));
        };
        if answer.status.ring_hash.is_none() {
            return Ok(());
        }
        match answer.client.ring().await {
            Ok(ring) => {
                views.ring = ring;
                return Ok(());
            }
            Err(error) => {
                let (node, address, reason) = (*node, Some(answer.client.address().to_owned()), error.to_string());
                views.answered.remove(&node);
                reasons.push(reason.clone());
                views.silent.insert(node, Silence { address, reason });
            }
        }
    }
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
            Ok(answer) if answer.status.cluster != views.cluster => {
                let reason = format!("{address}: a node of another cluster ({}) answers there", answer.status.cluster);
                failures.insert(address, reason);
            }
            Ok(answer) => {
                views.answered.insert(answer.status.node, answer);
            }
            Err(error) => {
                failures.insert(address, error.to_string());
            }
        }
    }
    for (node, address) in known {
        views.unclaimed.remove(&address);
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

/// The answers as far as a plan rests on them.
pub fn heard(views: &Views) -> BTreeMap<NodeId, View> {
    let view = |answer: &Answer| View {
        epoch: answer.status.epoch,
        ring_hash: answer.status.ring_hash.unwrap_or_default(),
        received: answer.status.received.clone(),
    };
    views.answered.iter().map(|(node, answer)| (*node, view(answer))).collect()
}

/// Nodes for people, each by the first digits of its id.
pub fn list(nodes: &[NodeId]) -> String {
    let nodes: BTreeSet<String> = nodes.iter().map(|node| node.to_string()[..8].to_owned()).collect();
    nodes.into_iter().collect::<Vec<_>>().join(", ")
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
        let answered = BTreeMap::from([(own, answer)]);
        let failures = BTreeMap::from([(address, "what it came to the first time".to_owned())]);
        let (silent, unclaimed) = (BTreeMap::new(), failures.clone());
        let mut views = Views { cluster: ClusterId([9; 16]), ring: None, answered, silent, unclaimed };
        ask_peers(&mut views, failures, CALL_TIMEOUT).await;
        assert_eq!(views.silent[&other].reason, "what it came to the first time");
        assert!(views.unclaimed.is_empty(), "a peer has that address");
    }

    fn ring_of(cluster: u8) -> Ring {
        let members = (1..=3).map(|id| (NodeId([id; 16]), Member { zone: "z".to_owned(), weight: 1 })).collect::<Members>();
        first_ring(ClusterId([cluster; 16]), 1, 3, &members).unwrap()
    }

    #[tokio::test]
    async fn a_node_of_another_cluster_is_refused_as_an_endpoint_and_silent_as_a_peer() {
        let own = Double::start(NodeId([1; 16]), ring_of(9), 0).await;
        // The newest ring of all is the other cluster's.
        let other = Double::start(NodeId([7; 16]), ring_of(8).successor(|_| ()), 0).await;
        let stop = ask(&Endpoints::from(vec![own.address.clone(), other.address.clone()])).await.map(drop).unwrap_err();
        assert!(matches!(stop, Stop::Usage(_)), "{stop}");
        for named in [&own.address, &other.address, &ring_of(9).cluster.to_string(), &ring_of(8).cluster.to_string()] {
            assert!(stop.to_string().contains(named), "{stop}");
        }
        // It has the address that member 2 had.
        own.state().knows = vec![(NodeId([2; 16]), other.address.clone())];
        let views = ask(&Endpoints::from(vec![own.address.clone()])).await.unwrap();
        assert_eq!((views.cluster, views.answered.len(), views.ring.unwrap()), (ring_of(9).cluster, 1, ring_of(9)));
        let reason = &views.silent[&NodeId([2; 16])].reason;
        assert!(reason.contains("another cluster") && reason.contains(&other.address), "{reason}");
    }

    #[tokio::test]
    async fn a_node_that_goes_before_it_has_given_its_ring_is_silent_and_the_next_one_is_asked() {
        let (old, new) = (ring_of(9), ring_of(9).successor(|_| ()));
        let doubles = [Double::start(NodeId([1; 16]), old.clone(), 0).await, Double::start(NodeId([2; 16]), new, 0).await];
        doubles[1].state().keeps_its_ring = true;
        let views = ask(&Endpoints::from(doubles.each_ref().map(|double| double.address.clone()).to_vec())).await.unwrap();
        assert_eq!((views.ring, views.answered.len()), (Some(old), 1));
        assert!(views.silent[&NodeId([2; 16])].reason.contains("has gone"), "{}", views.silent[&NodeId([2; 16])].reason);
        let alone = ask(&Endpoints::from(vec![doubles[1].address.clone()])).await.map(drop).unwrap_err().to_string();
        assert!(alone.starts_with("no node answers: ") && alone.contains("has gone"), "{alone}");
    }
}
