//! The operator's planner and the nodes' protocol in one simulation: what the operator decides meets nodes that really stream,
//! hand over and give receipts, and a Kubernetes that starts and removes pods as it is told.
//!
//! The model of Kubernetes is small and strict: a StatefulSet runs pods 0 to replicas - 1, a pod's node keeps its data in a
//! volume that outlives it, and lowering `replicas` removes the highest pods at once, whatever they hold. That is what makes a
//! wrong step visible: [`World::check`] looks for acknowledged writes after every step. The operator keeps nothing between two
//! looks here either, so dying after any step is the same as going on; dying in the middle of one is [`World::apply_half`].

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use dynamo_core::config::Config;
use dynamo_core::id::NodeId;
use dynamo_core::message::Message;
use dynamo_core::name::Name;
use dynamo_core::node::{Identity, Input, Node, Output};
use dynamo_core::request::{ClientHandle, Operation, Outcome, QuorumWish, Request, Success};
use dynamo_core::ring::Ring;
use dynamo_core::storage::MemoryStorage;
use dynamo_core::time::{Instant, Now};
use dynamo_operator::api::DynamoCluster;
use dynamo_operator::observed::{Carrier, Note, Observed, Pod, Receipt, Record, Set, Volume};
use dynamo_operator::plan::{self, Step};
use dynamo_operator::valid::{Place, ValidCluster};

const UID: &str = "6f9619ff-8b86-4011-842d-00c04fc964ff";
const ZONE: &str = "default";
/// Simulated time between two rounds of messages.
const ROUND_US: u64 = 50_000;
/// Rounds after which something that has to come to an end counts as stuck: ten simulated minutes.
const ROUNDS_MAX: usize = 12_000;

/// A pod that runs.
struct Running {
    node: Node<MemoryStorage>,
}

/// Kubernetes, the nodes, and what clients were promised.
pub struct World {
    now: Now,
    /// What the StatefulSet is told to run, once there is one.
    replicas: Option<u32>,
    running: BTreeMap<u32, Running>,
    /// Volumes by ordinal: the node's id, its data while no pod runs, and the operator's note.
    volumes: BTreeMap<u32, (NodeId, Option<MemoryStorage>, Note, u64)>,
    record: Option<Ring>,
    /// Which volumes the record names.
    carriers: BTreeMap<NodeId, Carrier>,
    /// Volumes lost so far: a claim that is made again has another UID.
    volumes_lost: BTreeMap<u32, u32>,
    spec_replicas: u32,
    acknowledged: BTreeMap<u32, u32>,
    answers: BTreeMap<ClientHandle, Outcome>,
    next_client: u64,
    next_identity: u8,
    mail: VecDeque<(NodeId, NodeId, Message)>,
    /// Steps applied, by name, for tests that ask whether a path was taken.
    pub steps: BTreeMap<&'static str, usize>,
}

impl World {
    /// A `DynamoCluster` of `replicas` nodes has just been created.
    pub fn new(replicas: u32) -> Self {
        Self {
            now: Now { instant: Instant(1_000_000), wall_ms: 0 },
            replicas: None,
            running: BTreeMap::new(),
            volumes: BTreeMap::new(),
            record: None,
            carriers: BTreeMap::new(),
            volumes_lost: BTreeMap::new(),
            spec_replicas: replicas,
            acknowledged: BTreeMap::new(),
            answers: BTreeMap::new(),
            next_client: 0,
            next_identity: 0,
            mail: VecDeque::new(),
            steps: BTreeMap::new(),
        }
    }

    /// Somebody scales the cluster.
    pub fn scale(&mut self, replicas: u32) {
        self.spec_replicas = replicas;
    }

    /// A volume is gone for ever, with its machine: the claim is deleted and made again, and the pod starts on an empty one.
    pub fn lose_volume(&mut self, ordinal: u32) {
        self.stop_pod(ordinal);
        self.volumes.remove(&ordinal);
        *self.volumes_lost.entry(ordinal).or_default() += 1;
        self.start_pod(ordinal);
    }

    /// A pod dies and does not come back for a while; its volume stays.
    pub fn stop_pod(&mut self, ordinal: u32) {
        if let Some(running) = self.running.remove(&ordinal) {
            let volume = self.volumes.get_mut(&ordinal).expect("a pod has a volume");
            volume.1 = Some(running.node.storage().clone());
            self.link_all(running.node.identity().node, false);
        }
    }

    /// The pod comes back, with its volume.
    pub fn restart_pod(&mut self, ordinal: u32) {
        self.start_pod(ordinal);
    }

    /// The node that the pod at `ordinal` runs.
    pub fn node_at(&self, ordinal: u32) -> NodeId {
        self.volumes[&ordinal].0
    }

    /// How many pods run.
    pub fn pods(&self) -> usize {
        self.running.len()
    }

    /// The recorded ring.
    pub fn ring(&self) -> Option<&Ring> {
        self.record.as_ref()
    }

    fn cluster(&self) -> ValidCluster {
        let object = serde_json::json!({
            "apiVersion": "dynamokv.io/v1alpha1", "kind": "DynamoCluster",
            "metadata": {"name": "cart", "namespace": "shop", "uid": UID, "generation": 1},
            "spec": {"replicas": self.spec_replicas, "partitions": 16, "image": "localhost/dynamo-node:dev"},
        });
        let cluster: DynamoCluster = serde_json::from_value(object).expect("a spec of defaults");
        ValidCluster::of(&cluster).expect("a valid spec")
    }

    /// One look, as the operator takes it: live objects, and each node's own answer.
    pub fn observe(&self) -> Observed {
        let cluster = self.cluster();
        let mut observed = Observed::default();
        if let Some(replicas) = self.replicas {
            let set = Set { uid: "set".into(), resource_version: "1".into(), replicas, rolling: false };
            observed.sets.insert(ZONE.into(), set);
        }
        for (ordinal, (_, _, note, _)) in &self.volumes {
            let version = self.volumes_lost.get(ordinal).copied().unwrap_or(0);
            let volume =
                Volume { uid: format!("volume-{ordinal}-{version}"), note: *note, size: "10Gi".into(), ..Volume::default() };
            observed.volumes.insert(place(*ordinal), volume);
        }
        for (ordinal, running) in &self.running {
            observed.pods.insert(place(*ordinal), self.pod(running));
        }
        if let Some(ring) = &self.record {
            observed.record = Record::Held {
                ring: Box::new(ring.clone()),
                hash: ring.hash(),
                resource_version: ring.epoch.to_string(),
                volumes: self.carriers.clone(),
            };
        }
        for wanted in plan::receipts_wanted(&cluster, &observed) {
            let Some(running) = self.running.get(&wanted.ordinal) else { continue };
            let receipt = running.node.drain_receipt().map(|receipt| Receipt {
                node: receipt.node,
                epoch: receipt.epoch,
                ring_hash: receipt.ring_hash,
            });
            observed.receipts.insert(running.node.identity().node, receipt);
        }
        observed
    }

    fn pod(&self, running: &Running) -> Pod {
        let status = running.node.status(self.now);
        let node = dynamo_operator::observed::Node {
            id: running.node.identity().node,
            epoch: status.epoch,
            ring_hash: status.ring_hash,
            received: status.received,
            objects: status.objects,
            hints: status.hints.values().map(|(hints, _)| hints).sum(),
        };
        Pod { address: Some("pod:7400".into()), ready: true, node: Some(node), ..Pod::default() }
    }

    /// What the operator would do now.
    pub fn decide(&self) -> Step {
        plan::next_step(&self.cluster(), &self.observe())
    }

    /// Does all of a step.
    pub fn apply(&mut self, step: &Step) {
        self.apply_first(step, usize::MAX);
    }

    /// Does the first half of a step that has parts, and the operator dies.
    pub fn apply_half(&mut self, step: &Step) {
        self.apply_first(step, 1);
    }

    fn apply_first(&mut self, step: &Step, parts: usize) {
        match step {
            Step::RaisePods(zones) | Step::LowerPods(zones) => {
                self.count("scale");
                self.run_pods(zones[ZONE]);
            }
            Step::NoteIdentities(notes) => {
                self.count("note");
                for (place, node) in notes.iter().take(parts) {
                    if let Some(volume) = self.volumes.get_mut(&place.ordinal) {
                        volume.2 = Note::Node(*node);
                    }
                }
            }
            Step::RecordRing { ring, .. } => {
                self.count("record");
                let held = self.record.as_ref();
                assert!(held.is_none_or(|held| ring.epoch == held.epoch.next()), "the record grows by one epoch at a time");
                self.carriers = self.observe().carriers(ring);
                self.record = Some((**ring).clone());
            }
            Step::RecordVolumes(carriers) => {
                self.count("record volumes");
                self.carriers = carriers.clone();
            }
            Step::OfferRing(places) => {
                self.count("offer");
                let ring = self.record.clone().expect("a ring is recorded before it is offered");
                for place in places.iter().take(parts) {
                    let mut out = Vec::new();
                    if let Some(running) = self.running.get_mut(&place.ordinal) {
                        // A node that refuses says so again at the next look.
                        let _refused = running.node.propose_ring(ring.clone(), self.now, &mut out);
                    }
                    self.perform(place.ordinal, out);
                }
            }
            Step::Blocked(reason) => panic!("nothing here asks for hands: {reason:?}"),
            Step::DeleteVolumes(_) => panic!("the policy is to keep volumes"),
            _ => self.count("wait"),
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.steps.entry(what).or_default() += 1;
    }

    fn run_pods(&mut self, replicas: u32) {
        self.replicas = Some(replicas);
        let gone: Vec<u32> = self.running.keys().filter(|ordinal| **ordinal >= replicas).copied().collect();
        for ordinal in gone {
            let running = self.running.remove(&ordinal).expect("it runs");
            let volume = self.volumes.get_mut(&ordinal).expect("a pod has a volume");
            volume.1 = Some(running.node.storage().clone());
            self.link_all(running.node.identity().node, false);
        }
        for ordinal in 0..replicas {
            if !self.running.contains_key(&ordinal) {
                self.start_pod(ordinal);
            }
        }
    }

    fn start_pod(&mut self, ordinal: u32) {
        self.next_identity += 1;
        let fresh = (NodeId([self.next_identity; 16]), Some(MemoryStorage::default()), Note::None, 0);
        let volume = self.volumes.entry(ordinal).or_insert(fresh);
        volume.3 += 1;
        let identity = Identity {
            node: volume.0,
            cluster: dynamo_core::id::ClusterId::parse(UID).expect("a UUID"),
            zone: ZONE.into(),
            peer_address: format!("pod-{ordinal}:7401"),
            client_address: format!("pod-{ordinal}:7400"),
            generation: volume.3,
        };
        let storage = volume.1.take().expect("its last pod is gone");
        let node = identity.node;
        let seed = u64::from(ordinal) << 32 | volume.3;
        let node_opened = Node::open(identity, Config::default(), storage, seed, self.now).expect("the memory does not fail");
        self.running.insert(ordinal, Running { node: node_opened });
        self.link_all(node, true);
        self.settle_writes(ordinal);
    }

    /// Links between `peer` and everyone else come up or go down.
    fn link_all(&mut self, peer: NodeId, up: bool) {
        let ordinals: Vec<u32> = self.running.keys().copied().collect();
        let identities: Vec<_> = self.running.values().map(|running| running.node.identity().clone()).collect();
        for ordinal in ordinals {
            let own = self.running[&ordinal].node.identity().node;
            for other in &identities {
                let concerns = own == peer || other.node == peer;
                if up && concerns && other.node != own {
                    let (peer, peer_address) = (other.node, other.peer_address.clone());
                    let client_address = other.client_address.clone();
                    self.input(ordinal, Input::LinkUp { peer, peer_address, client_address });
                }
            }
            if !up {
                self.input(ordinal, Input::LinkDown { peer });
            }
        }
    }

    fn input(&mut self, ordinal: u32, input: Input) {
        let mut out = Vec::new();
        let Some(running) = self.running.get_mut(&ordinal) else { return };
        running.node.handle(input, self.now, &mut out).expect("the memory does not fail");
        self.perform(ordinal, out);
        self.settle_writes(ordinal);
    }

    /// Commits what was written and reports it durable.
    fn settle_writes(&mut self, ordinal: u32) {
        while let Some(running) = self.running.get_mut(&ordinal)
            && let Some(ticket) = running.node.commit().expect("the memory does not fail")
        {
            running.node.storage_mut().synced(ticket);
            let mut out = Vec::new();
            running.node.handle(Input::Durable { ticket }, self.now, &mut out).expect("the memory does not fail");
            self.perform(ordinal, out);
        }
    }

    fn perform(&mut self, ordinal: u32, outputs: Vec<Output>) {
        let Some(from) = self.running.get(&ordinal).map(|running| running.node.identity().node) else { return };
        for output in outputs {
            match output {
                Output::Send { to, message } => self.mail.push_back((from, to, message)),
                Output::Respond { client, outcome } => drop(self.answers.insert(client, outcome)),
                Output::RingChanged | Output::AddressesChanged => {}
            }
        }
    }

    /// Messages are delivered until none is left, then time passes.
    pub fn round(&mut self) {
        while let Some((from, to, message)) = self.mail.pop_front() {
            let at = self.running.iter().find(|(_, running)| running.node.identity().node == to).map(|(ordinal, _)| *ordinal);
            if let Some(ordinal) = at {
                self.input(ordinal, Input::Message { from, message });
            }
        }
        self.now.instant = Instant(self.now.instant.0 + ROUND_US);
        self.now.wall_ms += ROUND_US / 1000;
        for ordinal in self.running.keys().copied().collect::<Vec<_>>() {
            self.input(ordinal, Input::Tick);
            self.settle_writes(ordinal);
        }
    }

    /// The operator works until it calls the cluster converged, `each` after each of its steps.
    pub fn converge(&mut self, mut each: impl FnMut(&mut Self, &Step)) {
        for _ in 0..ROUNDS_MAX {
            let step = self.decide();
            if step == Step::Converged {
                return;
            }
            self.apply(&step);
            self.round();
            each(self, &step);
        }
        panic!("not converged within {ROUNDS_MAX} rounds; next step: {:?}", self.decide());
    }

    fn request(&mut self, ordinal: u32, key: u32, operation: Operation) -> Option<Outcome> {
        self.next_client += 1;
        let client = ClientHandle(self.next_client);
        let name = Name::new("cart", key.to_be_bytes().to_vec());
        let request = Request { name, operation, request_key: None, quorum: QuorumWish::default(), timeout_ms: 0 };
        self.input(ordinal, Input::Request { client, request });
        for _ in 0..200 {
            if let Some(outcome) = self.answers.remove(&client) {
                return Some(outcome);
            }
            self.round();
        }
        None
    }

    /// A client replaces what it reads of `key` by `value`; what is acknowledged is remembered.
    pub fn write(&mut self, key: u32, value: u32) -> bool {
        let ordinals: Vec<u32> = self.running.keys().copied().collect();
        let Some(ordinal) = ordinals.get(key as usize % ordinals.len().max(1)).copied() else { return false };
        let Some(Ok(Success::Got { context, .. })) = self.request(ordinal, key, Operation::Get) else { return false };
        let data = Bytes::copy_from_slice(&value.to_be_bytes());
        let put = Operation::Put { data, context, create_only: false };
        let written = matches!(self.request(ordinal, key, put), Some(Ok(Success::Written { .. })));
        if written {
            self.acknowledged.insert(key, value);
        }
        written
    }

    /// Every acknowledged write is there, whichever node is asked.
    pub fn check(&mut self) {
        let ordinals: Vec<u32> = self.running.keys().copied().collect();
        for (key, value) in self.acknowledged.clone() {
            let ordinal = ordinals[key as usize % ordinals.len()];
            let outcome = self.request(ordinal, key, Operation::Get);
            let Some(Ok(Success::Got { object, .. })) = outcome else { panic!("key {key}: {outcome:?}") };
            let newest = object.siblings().map(|(data, _)| data[..].try_into().map_or(0, u32::from_be_bytes)).max();
            assert!(newest >= Some(value), "key {key}: {value} was acknowledged, {newest:?} is there");
        }
    }
}

fn place(ordinal: u32) -> Place {
    Place { zone: ZONE.into(), ordinal }
}
