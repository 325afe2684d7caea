//! What the client knows of the cluster: the ring, where its members are, and whom to ask next (paper 6.4).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use dynamo_core::context;
use dynamo_core::id::{ClusterId, Epoch, NodeId};
use dynamo_core::name::Name;
use dynamo_core::request::Operation;
use dynamo_core::ring::Ring;
use tokio::sync::Notify;

use crate::link::Link;

/// The cluster and the epoch of the ring that the client holds, and word of newer ones.
#[derive(Debug, Default)]
pub(crate) struct EpochWatch {
    cluster: OnceLock<ClusterId>,
    held: AtomicU64,
    stale: Notify,
}

impl EpochWatch {
    /// The cluster of the first ring that the client held. It holds none of another.
    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        self.cluster.get().copied()
    }

    /// Refuses the word of a node of another cluster: its address has changed hands.
    pub(crate) fn check_cluster(&self, theirs: ClusterId) -> Result<(), String> {
        match self.cluster().filter(|ours| *ours != theirs) {
            Some(ours) => Err(format!("it is of cluster {theirs}, this client of {ours}")),
            None => Ok(()),
        }
    }

    /// The epoch of the ring that the client holds, 0 without one.
    pub(crate) fn held(&self) -> Epoch {
        Epoch(self.held.load(Ordering::Relaxed))
    }

    /// The client holds this ring now.
    pub(crate) fn holds(&self, ring: &Ring) {
        self.cluster.get_or_init(|| ring.cluster);
        self.held.store(ring.epoch.0, Ordering::Relaxed);
    }

    /// An answer was given under this epoch.
    pub(crate) fn heard_of(&self, epoch: Epoch) {
        if epoch > self.held() {
            self.refresh();
        }
    }

    /// What the client holds may be out of date.
    pub(crate) fn refresh(&self) {
        self.stale.notify_one();
    }

    /// Until what the client holds may be out of date.
    pub(crate) async fn stale(&self) {
        self.stale.notified().await;
    }
}

/// A member of the ring, as this client reaches it.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) link: Arc<Link>,
    /// The node that was asked takes it for down.
    pub(crate) suspected: bool,
}

/// Who holds what, and where they are.
#[derive(Debug, Default)]
pub(crate) struct Topology {
    pub(crate) ring: Option<Arc<Ring>>,
    pub(crate) members: BTreeMap<NodeId, Member>,
    /// The addresses that the client was given. They may be a load balancer's.
    pub(crate) endpoints: Vec<Arc<Link>>,
}

impl Topology {
    /// Whom to ask for `name` when `tried` have been asked: for a write the replica that its context names, then the replicas in
    /// the order of the preference list, then other members, then the endpoints; those that are suspected or failed lately only
    /// when nobody else is left.
    pub(crate) fn next_link(&self, name: &Name, operation: &Operation, tried: &[Arc<Link>]) -> Option<Arc<Link>> {
        let fresh = |link: &Arc<Link>| !tried.iter().any(|tried| tried.address == link.address);
        let healthy = |member: &&Member| !member.suspected && !member.link.is_avoided() && fresh(&member.link);
        let placement = self.ring.as_ref().map(|ring| ring.placement(ring.partition_of(name)));
        if let Some(member) = self.coordinator_of(name, operation).filter(healthy) {
            return Some(Arc::clone(&member.link));
        }
        let home = || placement.into_iter().flat_map(|placement| placement.read_set().iter());
        let homes = || home().filter_map(|node| self.members.get(node));
        if let Some(member) = homes().find(healthy) {
            return Some(Arc::clone(&member.link));
        }
        let writers = placement.map(|placement| placement.writers()).unwrap_or_default();
        let writers = || writers.iter().filter_map(|node| self.members.get(node));
        if let Some(member) = writers().chain(self.members.values()).find(healthy) {
            return Some(Arc::clone(&member.link));
        }
        let endpoints = || self.endpoints.iter().filter(|link| fresh(link));
        let everyone = writers().chain(self.members.values()).map(|member| &member.link).filter(|link| fresh(link));
        endpoints().find(|link| !link.is_avoided()).or_else(|| everyone.chain(endpoints()).next()).map(Arc::clone)
    }

    /// The replica that the context of a write names. A token that cannot be read is for a node to refuse.
    fn coordinator_of(&self, name: &Name, operation: &Operation) -> Option<&Member> {
        let (Operation::Put { context: token, .. } | Operation::Delete { context: token }) = operation else { return None };
        let ring = self.ring.as_ref()?;
        let node = context::decode(token.clone(), ring.cluster, name).ok()?.coordinator?;
        let replica = ring.placement(ring.partition_of(name)).writers().contains(&node);
        self.members.get(&node).filter(|_| replica)
    }

    /// Every link, those that work lately first: whom to ask for a newer topology.
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        let members = self.members.values().map(|member| &member.link);
        let mut links: Vec<Arc<Link>> = members.chain(&self.endpoints).map(Arc::clone).collect();
        links.sort_by_key(|link| link.is_avoided());
        links
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Mode;
    use bytes::Bytes;
    use dynamo_core::id::ClusterId;
    use dynamo_core::ring::{Member as RingMember, Placement, RingHash};
    use dynamo_core::version::CausalContext;
    use std::time::Duration;

    fn link(address: &str) -> Arc<Link> {
        Arc::new(Link::new(address, Mode::Stream, Duration::from_secs(1), Arc::default()).unwrap())
    }

    /// Four members, one partition, replicas 3, 1, 2.
    fn topology() -> Topology {
        let node = |id| NodeId([id; 16]);
        let ring = Ring {
            cluster: ClusterId([7; 16]),
            epoch: Epoch(1),
            parent: RingHash::default(),
            partition_bits: 0,
            replication: 3,
            members: (1..=4).map(|id| (node(id), RingMember { zone: "z".to_owned(), weight: 1 })).collect(),
            buckets: Default::default(),
            lost: BTreeMap::new(),
            operation: None,
            placements: vec![Placement { replicas: vec![node(3), node(1), node(2)], moving: None }],
        };
        let member = |id: u8| (node(id), Member { link: link(&format!("node-{id}:1")), suspected: false });
        Topology { ring: Some(Arc::new(ring)), members: (1..=4).map(member).collect(), endpoints: vec![link("service:1")] }
    }

    fn order(topology: &Topology) -> Vec<String> {
        order_for(topology, &Operation::Get)
    }

    fn order_for(topology: &Topology, operation: &Operation) -> Vec<String> {
        let mut tried = Vec::new();
        while let Some(link) = topology.next_link(&Name::new("b", "k"), operation, &tried) {
            tried.push(link);
        }
        tried.iter().map(|link| link.address.trim_end_matches(":1").to_owned()).collect()
    }

    #[test]
    fn replicas_are_asked_in_their_order_then_others_then_the_endpoints() {
        assert_eq!(order(&topology()), ["node-3", "node-1", "node-2", "node-4", "service"]);
    }

    #[test]
    fn a_write_goes_first_to_the_replica_that_its_context_names() {
        let token = |node: u8, key: &'static str| {
            let seen = CausalContext::default();
            context::encode(&seen, Some(NodeId([node; 16])), ClusterId([7; 16]), &Name::new("b", key))
        };
        let put = |context| Operation::Put { data: "v".into(), context, create_only: false };
        let in_order = ["node-3", "node-1", "node-2", "node-4", "service"];
        let named_first = ["node-2", "node-3", "node-1", "node-4", "service"];
        let cases = [
            ("a put", put(token(2, "k")), named_first),
            ("a delete", Operation::Delete { context: token(2, "k") }, named_first),
            ("a blind put", put(Bytes::new()), in_order),
            ("another key's context", put(token(2, "other")), in_order),
            ("a member that is no replica", put(token(4, "k")), in_order),
            ("nobody known", put(token(9, "k")), in_order),
        ];
        for (what, operation, expected) in cases {
            assert_eq!(order_for(&topology(), &operation), expected, "{what}");
        }
        let mut topology = topology();
        topology.members.get_mut(&NodeId([2; 16])).unwrap().suspected = true;
        let order = order_for(&topology, &put(token(2, "k")));
        assert_eq!(order, ["node-3", "node-1", "node-4", "service", "node-2"], "it is suspected");
    }

    #[test]
    fn those_that_are_suspected_or_failed_lately_are_asked_last() {
        let mut topology = topology();
        topology.members.get_mut(&NodeId([3; 16])).unwrap().suspected = true;
        topology.members[&NodeId([1; 16])].link.failed();
        assert_eq!(order(&topology), ["node-2", "node-4", "service", "node-3", "node-1"]);
    }

    #[test]
    fn without_a_ring_the_endpoints_are_asked() {
        let topology = Topology { endpoints: vec![link("a:1"), link("b:1")], ..Topology::default() };
        assert_eq!(order(&topology), ["a", "b"]);
    }
}
