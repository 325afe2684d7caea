//! Everything but the operator: Kubernetes, the nodes, what clients were promised, and who watches that the promises are kept.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use dynamo_core::id::{ClusterId, NodeId};
use dynamo_core::ring::Ring;
use dynamo_operator::api::DynamoCluster;
use dynamo_operator::build::ring_record;
use dynamo_operator::observed::Record;
use dynamo_operator::valid::ValidCluster;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::faults::Faults;
use crate::history::History;
use crate::invariants::{Checks, Violation};
use crate::kubernetes::{CLAIMS, Happening, Kubernetes, PODS, is_ready};
use crate::nodes::{Nodes, Running};
use dynamo_api_server::{Objects, Refusal, text};

/// The cluster's UID.
pub const UID: &str = "6f9619ff-8b86-4011-842d-00c04fc964ff";
/// That of another cluster, which is created under the same name when the first one is gone.
pub const UID_OF_ANOTHER: &str = "1d9ce1ab-2a0e-4b0c-9f3e-5f2a7b6c8d9e";
/// The cluster's name.
pub const NAME: &str = "cart";
/// Where DynamoClusters are.
pub const CLUSTERS: &str = "/apis/dynamokv.io/v1alpha1/namespaces/shop/dynamoclusters";
/// Where the record of the ring is.
pub const RECORD: &str = "/api/v1/namespaces/shop/configmaps/cart-ring";
/// Lines of the trace that a failed run shows.
const TRACE_MAX: usize = 400;

/// Why a pass does not go on.
pub enum Stop {
    /// The operator died.
    Crashed,
    /// It stands still.
    Suspended,
}

/// What a pass of the operator sees, and has done.
#[derive(Default)]
pub struct Pass {
    /// Kubernetes as it was, if it is not as it is.
    pub stale: Option<Objects>,
    /// Objects missing in lists, by path.
    pub hidden: BTreeSet<String>,
    /// Pods whose nodes do not answer it.
    pub unanswered: BTreeSet<String>,
    /// The cluster as it reads it.
    pub asked: Option<Arc<Value>>,
    /// Nodes that gave it a drain receipt.
    pub receipts: BTreeSet<NodeId>,
    /// Nodes that served when it began.
    pub live: BTreeSet<NodeId>,
    /// Nodes for which others that answered it kept hints when it began.
    pub behind: BTreeSet<NodeId>,
    /// Its own calls that changed something, or tried to.
    pub calls: u64,
    /// It stood still while others acted, or somebody wrote in between.
    pub interrupted: bool,
}

impl Pass {
    /// Its look at the world is whole and of one moment.
    pub fn is_sound(&self) -> bool {
        self.stale.is_none() && self.hidden.is_empty() && !self.interrupted
    }
}

/// All but the operator.
pub struct Stage {
    /// The UID of the cluster that this is about.
    pub uid: &'static str,
    /// The UID that stands on its volumes: the former cluster's where this one goes on with its data.
    pub data_uid: &'static str,
    /// API server and controllers.
    pub kubernetes: Kubernetes,
    /// The storage nodes.
    pub nodes: Nodes,
    /// What goes wrong.
    pub faults: Faults,
    /// The passes under way, by operator.
    pub passes: BTreeMap<usize, Pass>,
    /// Where to say that a pass does not go on.
    pub stops: BTreeMap<usize, oneshot::Sender<Stop>>,
    /// What lets a suspended pass go on.
    pub gates: BTreeMap<usize, oneshot::Sender<()>>,
    /// Calls that change something, so far.
    pub calls: u64,
    /// How often the operator had died when that was asked last.
    pub(crate) died: u64,
    /// An object that the operator watches has changed.
    pub woken: bool,
    /// The newest value of each key that was acknowledged.
    pub acknowledged: BTreeMap<u32, u32>,
    /// Every write.
    pub history: History,
    pub(crate) checks: Checks,
    trace: VecDeque<String>,
    version_seen: u64,
}

impl Stage {
    /// An empty namespace, but for what belongs to somebody else.
    pub fn new(faults: Faults) -> Self {
        let mut stage = Self {
            uid: UID,
            data_uid: UID,
            kubernetes: Kubernetes::default(),
            nodes: Nodes::new(ClusterId::parse(UID).expect("a UUID")),
            faults,
            passes: BTreeMap::new(),
            stops: BTreeMap::new(),
            gates: BTreeMap::new(),
            calls: 0,
            died: 0,
            woken: false,
            acknowledged: BTreeMap::new(),
            history: History::default(),
            checks: Checks::default(),
            trace: VecDeque::new(),
            version_seen: 0,
        };
        stage.add_strangers();
        stage
    }

    /// Objects that the operator is to leave alone: a claim left by a former cluster of the same name at a place that no scenario is large enough
    /// for, and one that is only named like ours.
    fn add_strangers(&mut self) {
        let former = "11112222-3333-4444-5555-666677778888";
        let labels = json!({
            "app.kubernetes.io/name": "dynamokv", "app.kubernetes.io/instance": NAME, "dynamokv.io/cluster": NAME,
        });
        let left = json!({ "metadata": {
            "name": "data-cart-999", "labels": labels,
            "annotations": { "dynamokv.io/cluster-uid": former, "dynamokv.io/node": "00010203-0405-0607-0809-0a0b0c0d0eff" },
        } });
        let named = json!({ "metadata": { "name": "data-cart-x-0" } });
        for claim in [left, named] {
            let claim = self.kubernetes.api.create(CLAIMS, claim).expect("the namespace is empty");
            self.checks.strangers.push((format!("{CLAIMS}/{}", text(&claim, "/metadata/name")), claim));
        }
    }

    /// A line of what happened.
    pub fn tell(&mut self, line: impl FnOnce() -> String) {
        if self.trace.len() == TRACE_MAX {
            self.trace.pop_front();
        }
        let line = format!("{:5} {}", self.kubernetes.now(), line());
        self.trace.push_back(line);
    }

    /// The last lines of what happened.
    pub fn trace(&self) -> String {
        self.trace.iter().fold(String::new(), |text, line| text + line + "\n")
    }

    /// One of the promises was broken.
    pub fn violated(&mut self, invariant: &'static str, what: String) {
        self.tell(|| format!("VIOLATED {invariant}: {what}"));
        self.checks.violations.push(Violation { invariant, what });
    }

    /// Time passes: messages, controllers, watches.
    pub fn round(&mut self) {
        self.nodes.round();
        let nodes = &self.nodes;
        let now = nodes.now();
        // As the node's process says it: without a ring it stands by.
        let ready = |running: &Running| running.node.ring().is_some() && running.node.status(now).ready;
        let serves = |pod: &str| nodes.running().get(pod).is_some_and(ready);
        let happened = self.kubernetes.round(&serves);
        self.happen(happened);
        self.notice();
        self.check_round();
    }

    /// What the controllers do to nodes.
    pub fn happen(&mut self, happened: Vec<Happening>) {
        for event in happened {
            self.tell(|| format!("{event:?}"));
            match event {
                Happening::Started { pod, zone, claim, address, file } => {
                    if !self.nodes.start(&pod, &zone, &claim, &address, file) {
                        self.kubernetes.crashes(&pod);
                    }
                }
                Happening::Stopped { pod, clean } => self.nodes.stop(&pod, clean),
                Happening::Destroyed(claim) => self.nodes.destroy(&claim),
                Happening::Restarted(_) => {}
            }
        }
    }

    /// Whether the watches have something to tell: any object has changed but pods and claims, which are not watched.
    fn notice(&mut self) {
        let version = self.kubernetes.api.version();
        if version == self.version_seen {
            return;
        }
        let newer = |object: &Value| text(object, "/metadata/resourceVersion").parse().is_ok_and(|v: u64| v > self.version_seen);
        let watched = |path: &str| !path.starts_with(PODS) && !path.starts_with(CLAIMS);
        let changed = self.kubernetes.api.objects().iter().any(|(path, object)| watched(path) && newer(object));
        self.version_seen = version;
        if changed {
            if self.faults.misses_event() {
                self.faults.count(crate::faults::Fault::MissedEvent);
                self.tell(|| "missed event".to_owned());
            } else {
                self.woken = true;
            }
        }
    }

    /// The DynamoCluster.
    pub fn cluster(&self) -> Option<Value> {
        self.kubernetes.api.get(&format!("{CLUSTERS}/{NAME}")).map(|object| (**object).clone())
    }

    /// The DynamoCluster, if its spec holds together.
    pub fn valid(&self) -> Option<ValidCluster> {
        let cluster: DynamoCluster = serde_json::from_value(self.cluster()?).ok()?;
        ValidCluster::of(&cluster).ok()
    }

    /// A user changes the spec. The API server refuses what the definition's rules refuse.
    pub fn ask(&mut self, change: impl FnOnce(&mut Value)) -> Result<(), Refusal> {
        let Some(mut object) = self.cluster() else { return Err(Refusal::NotFound) };
        change(&mut object["spec"]);
        let refuse = |error: &dyn std::fmt::Display| Refusal::Invalid(error.to_string());
        let cluster: DynamoCluster = serde_json::from_value(object.clone()).map_err(|error| refuse(&error))?;
        ValidCluster::of(&cluster).map_err(|error| refuse(&error))?;
        self.kubernetes.api.edit(&format!("{CLUSTERS}/{NAME}"), |held| *held = object);
        Ok(())
    }

    /// The cluster has gone, and all that was its but volumes.
    pub fn is_empty(&self) -> bool {
        let owned = |object: &Value| object.pointer("/metadata/ownerReferences/0").is_some();
        self.cluster().is_none() && !self.kubernetes.api.objects().values().any(|object| owned(object))
    }

    /// From here on all this is about another cluster of the same name.
    pub fn begin_another(&mut self) {
        (self.uid, self.data_uid) = (UID_OF_ANOTHER, UID_OF_ANOTHER);
        self.nodes.belong_to(ClusterId::parse(self.uid).expect("a UUID"));
        self.forget_writes();
        self.checks.begin_another();
    }

    /// The cluster's data goes: nobody is promised anything of it.
    pub fn forget_writes(&mut self) {
        self.acknowledged.clear();
        self.history = History::default();
    }

    /// From here on the cluster has another UID, and the former one's nodes and data.
    pub fn begin_adopted(&mut self) {
        self.checks.forget_untaken_rings();
        self.uid = UID_OF_ANOTHER;
    }

    /// The pod's volume is another cluster's.
    pub fn has_a_strangers_volume(&self, pod: &str) -> bool {
        let claim = self.kubernetes.api.get(&format!("{CLAIMS}/data-{pod}"));
        claim.is_some_and(|claim| self.nodes.is_a_strangers(text(claim, "/metadata/uid")))
    }

    /// The ring in the record.
    pub fn ring(&self) -> Option<Ring> {
        let record = self.kubernetes.api.get(RECORD)?;
        let record = serde_json::from_value((**record).clone()).ok()?;
        match ring_record::read(&self.checks.last_valid.clone()?, Some(record)) {
            Record::Held { rings, .. } => Some(rings.newest().clone()),
            Record::Absent | Record::Unreadable(_) => None,
        }
    }

    /// Nodes for which others keep hints, but for what is kept in `unanswered` pods.
    pub fn behind(&self, unanswered: &BTreeSet<String>) -> BTreeSet<NodeId> {
        let asked = self.nodes.running().iter().filter(|(pod, _)| !unanswered.contains(*pod));
        let kept = asked.flat_map(|(_, running)| running.node.status(self.nodes.now()).hints);
        kept.filter(|(_, (hints, _))| *hints > 0).map(|(node, _)| node).collect()
    }

    /// Nodes that answer an operator, but for those in `unanswered` pods, whatever Kubernetes says of their pods.
    pub fn answering(&self, unanswered: &BTreeSet<String>) -> BTreeSet<NodeId> {
        let asked = self.nodes.running().iter().filter(|(pod, _)| !unanswered.contains(*pod));
        let answer = asked.filter(|(_, running)| !running.node.status(self.nodes.now()).starting);
        answer.map(|(_, running)| running.node.identity().node).collect()
    }

    /// Nodes that run in pods which are ready.
    pub fn live(&self) -> BTreeSet<NodeId> {
        let ready = |pod: &str| self.kubernetes.api.get(&format!("{PODS}/{pod}")).is_some_and(|pod| is_ready(pod));
        self.nodes.running().iter().filter(|(pod, _)| ready(pod)).map(|(_, running)| running.node.identity().node).collect()
    }
}
