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

/// Members whose addresses a client keeps, each with a connection if it is used. Beyond that, those of the ring come first; who is
/// left out is reached through others, with a hop.
pub(crate) const ADDRESSES_MAX: usize = 4096;

/// The cluster and the epoch of the ring that the client holds, and word of newer ones.
#[derive(Debug, Default)]
pub(crate) struct EpochWatch {
    cluster: OnceLock<ClusterId>,
    held: AtomicU64,
    newest: AtomicU64,
    stale: Notify,
}

impl EpochWatch {
    /// The cluster of the first node that the client went by. It goes by none of another.
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

    /// The client is of this cluster from now on, if it was of none.
    pub(crate) fn is_of(&self, cluster: ClusterId) {
        self.cluster.get_or_init(|| cluster);
    }

    /// The epoch of the ring that the client holds, 0 without one.
    pub(crate) fn held(&self) -> Epoch {
        Epoch(self.held.load(Ordering::Relaxed))
    }

    /// The client holds this ring now.
    pub(crate) fn holds(&self, ring: &Ring) {
        self.is_of(ring.cluster);
        self.held.store(ring.epoch.0, Ordering::Relaxed);
    }

    /// The newest epoch that the client holds a ring of, or heard of; 0 if none.
    pub(crate) fn newest(&self) -> Epoch {
        Epoch(self.newest.load(Ordering::Relaxed)).max(self.held())
    }

    /// An answer was given under this epoch.
    pub(crate) fn heard_of(&self, epoch: Epoch) {
        if epoch > self.held() {
            self.newest.fetch_max(epoch.0, Ordering::Relaxed);
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
    /// when nobody else is left. While no member can be reached at its own address, an endpoint that was reached comes first.
    pub(crate) fn next_link(&self, name: &Name, operation: &Operation, tried: &[Arc<Link>]) -> Option<Arc<Link>> {
        let fresh = |link: &Arc<Link>| !tried.iter().any(|tried| tried.address == link.address);
        let healthy = |member: &&Member| !member.suspected && !member.link.is_avoided() && fresh(&member.link);
        if self.has_members_out_of_reach() {
            let mut reached = self.endpoints.iter().filter(|link| link.was_reached() && !link.is_avoided());
            if let Some(link) = reached.find(|link| fresh(link)) {
                return Some(Arc::clone(link));
            }
        }
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

    /// Members were waited for in vain at their own addresses, and none was ever reached there: they may mean nothing where this client
    /// is, behind a port that is forwarded or in another network. An endpoint may be a member's own address.
    pub(crate) fn has_members_out_of_reach(&self) -> bool {
        let mut links = self.members.values().map(|member| &member.link);
        let is_reached = |link: &Arc<Link>| {
            let mut endpoints = self.endpoints.iter().filter(|endpoint| endpoint.address == link.address);
            link.was_reached() || endpoints.any(|endpoint| endpoint.was_reached())
        };
        !links.clone().any(is_reached) && links.any(|link| link.was_missed())
    }

    /// Whether anybody is left when `tried` have been asked.
    pub(crate) fn has_more_than(&self, tried: &[Arc<Link>]) -> bool {
        let mut links = self.members.values().map(|member| &member.link).chain(&self.endpoints);
        links.any(|link| !tried.iter().any(|tried| tried.address == link.address))
    }

    /// The replica that the context of a write names. A token that cannot be read is for a node to refuse.
    fn coordinator_of(&self, name: &Name, operation: &Operation) -> Option<&Member> {
        let (Operation::Put { context: token, .. } | Operation::Delete { context: token }) = operation else { return None };
        let ring = self.ring.as_ref()?;
        let node = context::decode(token.clone(), ring.cluster, name).ok()?.coordinator?;
        let replica = ring.placement(ring.partition_of(name)).writers().contains(&node);
        self.members.get(&node).filter(|_| replica)
    }

    /// Every link: whom to ask for a newer topology. Those that failed lately come last, and those first whose answers carried a newer
    /// epoch. Else members come in their order from the `start`th on, then the endpoints: no node is the one whose word all go by.
    pub(crate) fn links_from(&self, start: usize) -> Vec<Arc<Link>> {
        let mut links: Vec<Arc<Link>> = self.members.values().map(|member| Arc::clone(&member.link)).collect();
        let start = start.checked_rem(links.len()).unwrap_or(0);
        links.rotate_left(start);
        links.extend(self.endpoints.iter().map(Arc::clone));
        links.sort_by_key(|link| (link.is_avoided(), !link.is_ahead()));
        links
    }

    /// What is known of the members of `ring` when a node has told of `members`. Those that it lacks stay where they were; and one
    /// that sees less than half of the ring may itself be cut off, and does not decide who is down.
    pub(crate) fn members_by(&self, ring: &Ring, mut members: BTreeMap<NodeId, Member>) -> BTreeMap<NodeId, Member> {
        let is_member = |node: &NodeId| ring.members.contains_key(node);
        let seen = members.iter().filter(|(node, member)| is_member(node) && !member.suspected).count();
        if seen * 2 < ring.members.len() {
            for (node, member) in &mut members {
                member.suspected = self.members.get(node).is_some_and(|known| known.suspected);
            }
        }
        for (node, member) in self.members.iter().filter(|(node, _)| is_member(node)) {
            if members.len() < ADDRESSES_MAX {
                members.entry(*node).or_insert_with(|| member.clone());
            }
        }
        members
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

    /// Where the members' addresses lead nowhere, one request waits for one of them and not each for all.
    #[tokio::test]
    async fn while_no_member_can_be_reached_an_endpoint_that_was_is_asked_before_them() {
        let mut topology = topology();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let reached = Arc::new(Link::new(&address, Mode::Unary, Duration::from_secs(60), Arc::default()).unwrap());
        // It is connected to, and says nothing in time.
        reached.topology(0, Duration::from_millis(20)).await.unwrap_err();
        assert!(reached.was_reached() && !reached.is_avoided());
        topology.endpoints.push(reached);
        assert_eq!(order(&topology)[..2], ["node-3", "node-1"]);
        assert!(!topology.has_members_out_of_reach());
        topology.members[&NodeId([3; 16])].link.failed();
        assert!(topology.has_members_out_of_reach());
        assert_eq!(order(&topology), [address.as_str(), "node-1", "node-2", "node-4", "service", "node-3"]);
        // One of them was reached: the others are down, and not out of reach.
        let reached = Link::new(&address, Mode::Unary, Duration::from_secs(60), Arc::default()).unwrap();
        reached.topology(0, Duration::from_millis(20)).await.unwrap_err();
        topology.members.get_mut(&NodeId([4; 16])).unwrap().link = Arc::new(reached);
        assert!(!topology.has_members_out_of_reach());
        assert_eq!(order(&topology)[..2], ["node-1", "node-2"]);
        // So it was at an endpoint that is its own address.
        topology.members.get_mut(&NodeId([4; 16])).unwrap().link = link(&address);
        assert!(!topology.has_members_out_of_reach());
    }

    #[test]
    fn the_topology_is_asked_of_who_is_ahead_then_of_any_and_last_of_who_failed() {
        let topology = topology();
        let order = |start| {
            let links = topology.links_from(start);
            links.iter().map(|link| link.address.trim_end_matches(":1").to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(order(0), ["node-1", "node-2", "node-3", "node-4", "service"]);
        assert_eq!(order(6), ["node-3", "node-4", "node-1", "node-2", "service"]);
        topology.members[&NodeId([3; 16])].link.failed();
        topology.members[&NodeId([4; 16])].link.heard_of(Epoch(2));
        assert_eq!(order(1), ["node-4", "node-2", "node-1", "service", "node-3"]);
    }

    #[test]
    fn a_node_that_sees_few_others_takes_no_member_away_and_decides_no_suspicion() {
        let mut known = topology();
        known.members.get_mut(&NodeId([4; 16])).unwrap().suspected = true;
        let ring = known.ring.clone().unwrap();
        // Those that are told of, those of them that are told to be down, those that are taken for down then.
        let cases: [(&[u8], &[u8], &[u8]); 5] = [
            (&[1], &[], &[4]),
            (&[1, 2, 3, 4], &[2, 3, 4], &[4]),
            (&[1, 2, 3, 4], &[2, 3], &[2, 3]),
            (&[1, 2], &[], &[4]),
            (&[1, 2, 3, 4, 9], &[2, 3, 4], &[4]),
        ];
        for (told, down, expected) in cases {
            let member = |id: &u8| Member { link: link(&format!("new-{id}:1")), suspected: down.contains(id) };
            let members = known.members_by(&ring, told.iter().map(|id| (NodeId([*id; 16]), member(id))).collect());
            let taken_for_down: Vec<u8> =
                members.iter().filter(|(_, member)| member.suspected).map(|(node, _)| node.0[0]).collect();
            assert_eq!(taken_for_down, expected, "{told:?}, {down:?}");
            for id in 1..=4 {
                let from = if told.contains(&id) { "new" } else { "node" };
                assert_eq!(members[&NodeId([id; 16])].link.address, format!("{from}-{id}:1"), "{told:?}");
            }
        }
        let mut smaller = Ring::clone(&ring);
        smaller.members.remove(&NodeId([2; 16]));
        assert!(!known.members_by(&smaller, BTreeMap::new()).contains_key(&NodeId([2; 16])), "it left");
    }

    #[test]
    fn without_a_ring_the_endpoints_are_asked() {
        let topology = Topology { endpoints: vec![link("a:1"), link("b:1")], ..Topology::default() };
        assert_eq!(order(&topology), ["a", "b"]);
    }
}
