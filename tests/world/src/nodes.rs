//! The storage nodes: core's own [`Node`], on disks in memory that outlive their pods, over a network that loses nothing but what
//! is addressed to a node that is down.
//!
//! A disk belongs to a claim's UID, and a node's identity to its disk: where a claim is made again, another node starts.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use dynamo_core::config::{BucketProperties, Config, QuorumDefaults};
use dynamo_core::id::{ClusterId, NodeId};
use dynamo_core::message::Message;
use dynamo_core::name::Name;
use dynamo_core::node::{Identity, Input, Node, Output};
use dynamo_core::request::{ClientHandle, Operation, Outcome, QuorumWish, Request};
use dynamo_core::storage::MemoryStorage;
use dynamo_core::time::{Instant, Now};
use serde_json::Value;

/// Simulated time between two rounds.
pub const ROUND_US: u64 = 50_000;
/// Messages that one round delivers; more than that is a storm, and the rest comes with the next.
const DELIVERED_MAX: usize = 100_000;

struct Disk {
    node: NodeId,
    cluster: ClusterId,
    /// While no pod has it mounted.
    storage: Option<MemoryStorage>,
    starts: u64,
}

/// A process that runs.
pub struct Running {
    /// The node.
    pub node: Node<MemoryStorage>,
    /// The claim it lives on, by UID.
    pub claim: String,
    /// Where clients and the operator find it.
    pub address: String,
    /// The file that it read when it started.
    pub file: String,
}

/// Every node and disk.
pub struct Nodes {
    cluster: ClusterId,
    now: Now,
    round: u64,
    running: BTreeMap<String, Running>,
    disks: BTreeMap<String, Disk>,
    mail: VecDeque<(u64, NodeId, NodeId, Message)>,
    /// Until which round messages to and from a node take long.
    slow: BTreeMap<NodeId, u64>,
    answers: BTreeMap<ClientHandle, Outcome>,
    next_client: u64,
    next_node: u32,
}

impl Nodes {
    /// None yet.
    pub fn new(cluster: ClusterId) -> Self {
        Self {
            cluster,
            now: Now { instant: Instant(1_000_000), wall_ms: 0 },
            round: 0,
            running: BTreeMap::new(),
            disks: BTreeMap::new(),
            mail: VecDeque::new(),
            slow: BTreeMap::new(),
            answers: BTreeMap::new(),
            next_client: 0,
            next_node: 0,
        }
    }

    /// The processes that run, by pod.
    pub fn running(&self) -> &BTreeMap<String, Running> {
        &self.running
    }

    /// The pod of the process at `address`.
    pub fn at(&self, address: &str) -> Option<String> {
        self.running.iter().find(|(_, running)| running.address == address).map(|(pod, _)| pod.clone())
    }

    /// The node whose data is on the volume of this claim.
    pub fn on_claim(&self, claim: &str) -> Option<NodeId> {
        self.disks.get(claim).map(|disk| disk.node)
    }

    /// Every disk, mounted or not.
    pub fn storages(&self) -> impl Iterator<Item = &MemoryStorage> {
        let mounted = self.running.values().map(|running| running.node.storage());
        mounted.chain(self.disks.values().filter_map(|disk| disk.storage.as_ref()))
    }

    /// The time.
    pub fn now(&self) -> Now {
        self.now
    }

    /// Nodes that start from here on are of this cluster. They refuse the disks of another.
    pub fn belong_to(&mut self, cluster: ClusterId) {
        self.cluster = cluster;
    }

    /// The volume of this claim was made by a node of another cluster.
    pub fn is_a_strangers(&self, claim: &str) -> bool {
        self.disks.get(claim).is_some_and(|disk| disk.cluster != self.cluster)
    }

    /// The node made its volume for another cluster.
    pub fn is_of_another_cluster(&self, node: NodeId) -> bool {
        self.disks.values().any(|disk| disk.node == node && disk.cluster != self.cluster)
    }

    /// A pod's process starts with the settings of `file`, if it may: an identity of another cluster is refused.
    pub fn start(&mut self, pod: &str, zone: &str, claim: &str, address: &str, file: String) -> bool {
        if self.is_a_strangers(claim) {
            return false;
        }
        let (next, cluster) = (&mut self.next_node, self.cluster);
        let disk = self.disks.entry(claim.to_owned()).or_insert_with(|| {
            *next += 1;
            let mut node = [0xd0; 16];
            node[..4].copy_from_slice(&next.to_be_bytes());
            Disk { node: NodeId(node), cluster, storage: Some(MemoryStorage::default()), starts: 0 }
        });
        disk.starts += 1;
        let storage = disk.storage.take().expect("a volume is mounted once");
        let identity = Identity {
            node: disk.node,
            cluster: self.cluster,
            zone: zone.to_owned(),
            peer_address: format!("{pod}.cart-peers:7401"),
            client_address: address.to_owned(),
            generation: disk.starts,
        };
        let (node, seed) = (disk.node, u64::from_be_bytes(disk.node.0[..8].try_into().expect("8 bytes")) ^ disk.starts);
        let opened = Node::open(identity, config(&file), storage, seed, self.now).expect("the memory does not fail");
        let running = Running { node: opened, claim: claim.to_owned(), address: address.to_owned(), file };
        self.running.insert(pod.to_owned(), running);
        self.links(node, true);
        self.commit(pod);
        true
    }

    /// A pod's process ends.
    pub fn stop(&mut self, pod: &str, clean: bool) {
        let Some(mut running) = self.running.remove(pod) else { return };
        if clean && let Some(ticket) = running.node.close().expect("the memory does not fail") {
            running.node.storage_mut().synced(ticket);
        }
        let node = running.node.identity().node;
        let mut storage = running.node.storage().clone();
        storage.crash();
        if let Some(disk) = self.disks.get_mut(&running.claim) {
            disk.storage = Some(storage);
        }
        self.links(node, false);
    }

    /// No pod has mounted the volume of this claim, and its node, if it ran, would give a drain receipt.
    pub fn rests_drained(&self, claim: &str) -> bool {
        let Some(Disk { node, cluster, storage: Some(storage), starts }) = self.disks.get(claim) else { return false };
        let identity = Identity {
            node: *node,
            cluster: *cluster,
            zone: String::new(),
            peer_address: String::new(),
            client_address: String::new(),
            generation: *starts,
        };
        let mut node = Node::open(identity, Config::default(), storage.clone(), 0, self.now).expect("the memory does not fail");
        while let Some(ticket) = node.commit().expect("the memory does not fail") {
            node.storage_mut().synced(ticket);
            node.handle(Input::Durable { ticket }, self.now, &mut Vec::new()).expect("the memory does not fail");
        }
        node.drain_receipt().is_ok()
    }

    /// What is on every disk, by claim, as a backup of the volumes has it.
    pub fn backup(&self) -> BTreeMap<String, MemoryStorage> {
        let mounted = self.running.values().map(|running| (running.claim.clone(), running.node.storage().clone()));
        let resting = self.disks.iter().filter_map(|(claim, disk)| Some((claim.clone(), disk.storage.clone()?)));
        mounted.chain(resting).collect()
    }

    /// Disks that no pod has mounted hold again what they held then.
    pub fn restore(&mut self, backup: BTreeMap<String, MemoryStorage>) {
        for (claim, mut storage) in backup {
            storage.crash();
            if let Some(disk) = self.disks.get_mut(&claim).filter(|disk| disk.storage.is_some()) {
                disk.storage = Some(storage);
            }
        }
    }

    /// A volume is no more.
    pub fn destroy(&mut self, claim: &str) {
        self.disks.remove(claim);
    }

    /// Messages to and from this pod's node take a round each, until the round named.
    pub fn slow_down(&mut self, pod: &str, rounds: u64) {
        if let Some(running) = self.running.get(pod) {
            self.slow.insert(running.node.identity().node, self.round + rounds);
        }
    }

    /// No node is slow any more.
    pub fn speed_up(&mut self) {
        self.slow.clear();
    }

    /// Delivers what is due, then time passes.
    pub fn round(&mut self) {
        self.round += 1;
        let mut later = VecDeque::new();
        for _ in 0..DELIVERED_MAX {
            let Some((due, from, to, message)) = self.mail.pop_front() else { break };
            if due > self.round {
                later.push_back((due, from, to, message));
            } else if let Some(pod) = self.pod_of(to) {
                self.input(&pod, Input::Message { from, message });
            }
        }
        later.append(&mut self.mail);
        self.mail = later;
        self.now.instant = Instant(self.now.instant.0 + ROUND_US);
        self.now.wall_ms += ROUND_US / 1000;
        for pod in self.running.keys().cloned().collect::<Vec<_>>() {
            self.input(&pod, Input::Tick);
        }
    }

    /// Sends a request to a pod's node; the answer comes with [`Self::answer`].
    pub fn ask(&mut self, pod: &str, key: u32, operation: Operation) -> ClientHandle {
        self.next_client += 1;
        let client = ClientHandle(self.next_client);
        let request = Request { name: name(key), operation, request_key: None, quorum: QuorumWish::default(), timeout_ms: 0 };
        self.input(pod, Input::Request { client, request });
        client
    }

    /// The answer to a request, once.
    pub fn answer(&mut self, client: ClientHandle) -> Option<Outcome> {
        self.answers.remove(&client)
    }

    /// Offers a ring to a pod's node.
    pub fn offer(&mut self, pod: &str, ring: &dynamo_core::ring::Ring) -> Result<(), String> {
        let mut out = Vec::new();
        let running = self.running.get_mut(pod).ok_or("connection refused")?;
        let offered = running.node.propose_ring(ring.clone(), self.now, &mut out).map_err(|error| error.to_string());
        self.perform(pod, out);
        self.commit(pod);
        offered
    }

    fn pod_of(&self, node: NodeId) -> Option<String> {
        self.running.iter().find(|(_, running)| running.node.identity().node == node).map(|(pod, _)| pod.clone())
    }

    /// Links between `peer` and everyone else come up or go down.
    fn links(&mut self, peer: NodeId, up: bool) {
        let identities: Vec<(String, Identity)> =
            self.running.iter().map(|(pod, running)| (pod.clone(), running.node.identity().clone())).collect();
        for (pod, own) in &identities {
            if !up {
                self.input(pod, Input::LinkDown { peer });
                continue;
            }
            for (_, other) in identities.iter().filter(|(_, other)| other.node != own.node) {
                if own.node == peer || other.node == peer {
                    let (peer_address, client_address) = (other.peer_address.clone(), other.client_address.clone());
                    self.input(pod, Input::LinkUp { peer: other.node, peer_address, client_address });
                }
            }
        }
    }

    fn input(&mut self, pod: &str, input: Input) {
        let mut out = Vec::new();
        let Some(running) = self.running.get_mut(pod) else { return };
        running.node.handle(input, self.now, &mut out).expect("the memory does not fail");
        self.perform(pod, out);
        self.commit(pod);
    }

    /// Commits what was written and reports it durable.
    fn commit(&mut self, pod: &str) {
        while let Some(running) = self.running.get_mut(pod)
            && let Some(ticket) = running.node.commit().expect("the memory does not fail")
        {
            running.node.storage_mut().synced(ticket);
            let mut out = Vec::new();
            running.node.handle(Input::Durable { ticket }, self.now, &mut out).expect("the memory does not fail");
            self.perform(pod, out);
        }
    }

    fn perform(&mut self, pod: &str, outputs: Vec<Output>) {
        let Some(from) = self.running.get(pod).map(|running| running.node.identity().node) else { return };
        for output in outputs {
            match output {
                Output::Send { to, message } => {
                    let slow = [from, to].iter().any(|node| self.slow.get(node).is_some_and(|until| *until > self.round));
                    self.mail.push_back((self.round + u64::from(slow) * 4, from, to, message));
                }
                Output::Respond { client, outcome } => drop(self.answers.insert(client, outcome)),
                Output::RingChanged | Output::AddressesChanged => {}
            }
        }
    }
}

/// What the file says of R and W; the rest is as by default.
fn config(file: &str) -> Config {
    let file: Value = serde_yaml::from_str(file).unwrap_or_default();
    let quorum = |of: &Value| {
        let said = |field: &str, default: u8| of[field].as_u64().and_then(|count| count.try_into().ok()).unwrap_or(default);
        let default = QuorumDefaults::default();
        QuorumDefaults { r: said("r", default.r), w: said("w", default.w), ..default }
    };
    let buckets = file["buckets"].as_object().into_iter().flatten().map(|(name, bucket)| {
        let properties = BucketProperties { quorum: quorum(bucket), ..BucketProperties::default() };
        (Bytes::copy_from_slice(name.as_bytes()), properties)
    });
    Config { quorum: quorum(&file["quorum"]), buckets: buckets.collect(), ..Config::default() }
}

/// The name of a key.
pub fn name(key: u32) -> Name {
    Name::new("cart", Bytes::copy_from_slice(&key.to_be_bytes()))
}
