//! What is there: everything that one pass read before it decides. Plain data; [`crate::observe`] fills it, live.
//!
//! Unknown is not gone. A pod whose node did not answer has `node: None`, and nothing may be concluded from that.

use std::collections::{BTreeMap, BTreeSet};

use dynamo_core::id::{Epoch, NodeId, PartitionId};
use dynamo_core::node::receipt::Receipt;
use dynamo_core::rebalance::View;
use dynamo_core::rebalance::chain::{Chain, Full};
use dynamo_core::ring::{Ring, RingHash};
use k8s_openapi::jiff::Timestamp;

use crate::quantity;
use crate::valid::Place;

/// One look at a cluster.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Observed {
    /// When it was, by the clock of the API server wherever something is late by it.
    pub time: Timestamp,
    /// The zones' StatefulSets, by zone.
    pub sets: BTreeMap<String, Set>,
    /// The pods of those StatefulSets.
    pub pods: BTreeMap<Place, Pod>,
    /// Where a set cannot make a pod, since another has its name: what is to be known of that one, for people.
    pub strangers: BTreeMap<Place, String>,
    /// The volume claims at all places, with or without a pod.
    pub volumes: BTreeMap<Place, Volume>,
    /// Claims of this very cluster at places that it has not, since it has other zones than when they were made.
    pub misplaced: Vec<String>,
    /// The ConfigMaps with the nodes' configuration, by name.
    pub configurations: BTreeMap<String, Configuration>,
    /// What is asked for stays in the ConfigMap of earlier versions ([`crate::build::config_map`]).
    pub keeps_former_configuration: bool,
    /// The writer's record of the ring.
    pub record: Record,
    /// The newest ring that a node holds, read from it, if it is newer than the record.
    pub newer: Option<Ring>,
    /// What nodes that are to leave answered when asked for a drain receipt; an error says what is left.
    pub receipts: BTreeMap<NodeId, Result<Receipt, String>>,
    /// Objects under this cluster's names that it does not own, as "Service cart". Nothing else was looked at where there are any.
    pub taken: Vec<String>,
    /// The same, where the cluster goes on beside them, and leaves them as they are.
    pub passed_by: Vec<String>,
    /// Those of both that were made for a cluster of this name, perhaps for this one, and have no owner any more.
    pub ownerless: Vec<String>,
    /// The names of other DynamoClusters that own some of them: `cart` with a zone `a`, and `cart-a`; this one's, if it is a former one.
    pub neighbours: BTreeSet<String>,
    /// What this very pass was refused, so that the rest can be done without it.
    pub refused: Refused,
}

/// Parts of steps that were refused, and that nothing else needs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Refused {
    /// Zones whose StatefulSets are to run no more pods than they do.
    pub more_pods: BTreeSet<String>,
    /// Places whose nodes do not take the ring that follows their own.
    pub rings: BTreeSet<Place>,
}

/// A zone's StatefulSet.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Set {
    /// Its UID.
    pub uid: String,
    /// Its version when read; a write that rests on this look carries it.
    pub resource_version: String,
    /// The pods it is told to run.
    pub replicas: u32,
    /// A new pod template is being rolled out.
    pub rolling: bool,
    /// The pods from this ordinal on get the newest template; the others keep what they have.
    pub updates_from: u32,
    /// Only pods that are made anew get the newest template (`OnDelete`): none is told to restart.
    pub on_delete: bool,
    /// What Kubernetes calls the newest template.
    pub revision: String,
    /// The StatefulSet controller has not seen what it was told last.
    pub unseen: bool,
    /// It is marked to be lowered to so many pods.
    pub lowering: Option<u32>,
    /// The pods that there are, by its controller's last word.
    pub made: u32,
    /// When its controller was last woken for want of a pod ([`crate::plan::nudge`]).
    pub nudged: Option<Timestamp>,
}

/// A ConfigMap with a configuration of the nodes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Configuration {
    /// Its UID.
    pub uid: String,
    /// Its version when read.
    pub resource_version: String,
    /// The higher, the later it was the one that is asked for.
    pub number: u64,
    /// It is marked to be deleted.
    pub released: bool,
    /// A pod or the template of a set names it.
    pub used: bool,
}

/// A pod.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Pod {
    /// Its UID.
    pub uid: String,
    /// Its version when read.
    pub resource_version: String,
    /// host:port of its node's client service; `None` while it has no address.
    pub address: Option<String>,
    /// Kubernetes calls it ready.
    pub ready: bool,
    /// Why it does not run, or what does not run beside its node, in Kubernetes' words.
    pub trouble: Option<String>,
    /// Why Kubernetes does not call it ready, in its words.
    pub unready: Option<String>,
    /// Why its node did not answer.
    pub silence: Option<String>,
    /// Its container does not start, in Kubernetes' words: another pod template may be what it needs.
    pub stuck: bool,
    /// It does not start since its image is not there.
    pub lacks_image: bool,
    /// Nothing runs in it: it waits for a machine, a volume or an image, or it is stuck.
    pub idle: bool,
    /// Somebody has deleted it; it is about to end.
    pub ending: bool,
    /// What Kubernetes calls the template that it was made from.
    pub revision: String,
    /// Its node's own, fresh answer. `None`: unknown.
    pub node: Option<Node>,
}

/// What a node says of itself.
#[derive(Clone, PartialEq, Debug)]
pub struct Node {
    /// Who it is.
    pub id: NodeId,
    /// The epoch of its ring; 0 without one.
    pub epoch: Epoch,
    /// The hash of its ring.
    pub ring_hash: RingHash,
    /// The moving partitions that it has received.
    pub received: BTreeSet<PartitionId>,
    /// Objects it holds.
    pub objects: u64,
    /// Copies it keeps for others, by whom they are for.
    pub hints: BTreeMap<NodeId, u64>,
    /// Its disk has space; else it refuses what others keep for it.
    pub writable: bool,
    /// Bytes it holds.
    pub bytes: u64,
    /// Partitions whose copies take those bytes.
    pub copies: u32,
    /// Bytes that it has sent to new replicas, in the moves that are under way.
    pub bytes_sent: u64,
}

/// A volume claim.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Volume {
    /// Its UID.
    pub uid: String,
    /// Its version when read.
    pub resource_version: String,
    /// Whose data it carries.
    pub note: Note,
    /// It says that it was made for this very cluster, or for the one whose data that goes on with.
    pub ours: bool,
    /// The UID of the DynamoCluster that it was made for, if it says so.
    pub made_for: String,
    /// The size it asks for.
    pub size: String,
    /// The size it has; empty while that is not known.
    pub capacity: String,
    /// What Kubernetes says of its growing.
    pub growth: Option<String>,
    /// There is a volume behind it.
    pub bound: bool,
    /// Its storage class; empty without one.
    pub class: String,
    /// It is marked to be deleted.
    pub released: bool,
    /// It is marked to be called drained when its pod goes.
    pub draining: bool,
    /// Its node gave a drain receipt when its pod went, and was not seen since.
    pub drained: bool,
    /// Somebody has deleted it; it goes when its pod does.
    pub deleting: bool,
    /// It lacks the label by which the cluster's claims are found: it was made by hand, from a snapshot perhaps, and its pod uses it. One that
    /// says that it is another cluster's keeps the labels that it has.
    pub unlabelled: bool,
    /// It is this cluster's, and has the label by which Argo CD counts it to an application and deletes it when the cluster is removed there:
    /// it was made by a set of an earlier version.
    pub tracked: bool,
}

/// What the operator wrote on a volume before its node joined a ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Note {
    /// Nothing: its node was never in a ring.
    #[default]
    None,
    /// It carries this node.
    Node(NodeId),
    /// It carries a node of another cluster, perhaps one that had this cluster's name before.
    OtherCluster,
}

/// The writer's record: ConfigMap NAME-ring.
#[derive(Clone, PartialEq, Debug, Default)]
pub enum Record {
    /// There is none.
    #[default]
    Absent,
    /// A ring was recorded last. Whether any node holds it is another question.
    Held {
        /// That ring, with those before it that some member may need first.
        rings: Box<Chain>,
        /// The hash of the ring that was recorded last.
        hash: RingHash,
        /// The ConfigMap's version; the next record replaces this one and no other.
        resource_version: String,
        /// Which volume carried each member when it was seen last.
        volumes: BTreeMap<NodeId, Carrier>,
    },
    /// There is one that cannot be read.
    Unreadable(String),
}

/// The volume that carries a node. A claim that is made again under the same name has another UID: that is how a lost volume shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Carrier {
    /// Whose pod mounts it.
    pub place: Place,
    /// The claim's UID.
    pub uid: String,
}

#[cfg(test)]
impl Node {
    /// One that holds `ring`, or none, and else nothing.
    pub(crate) fn holding(id: NodeId, ring: Option<&Ring>) -> Self {
        Self {
            id,
            epoch: ring.map_or(Epoch(0), |ring| ring.epoch),
            ring_hash: ring.map_or(RingHash::default(), Ring::hash),
            received: BTreeSet::new(),
            objects: 0,
            hints: BTreeMap::new(),
            writable: true,
            bytes: 0,
            copies: 0,
            bytes_sent: 0,
        }
    }
}

impl Set {
    /// Its controller knows how many pods it is to run, and says that there are fewer.
    pub fn lacks_pods(&self) -> bool {
        !self.unseen && self.made < self.replicas
    }
}

impl Pod {
    /// Why its node is not known: Kubernetes' word counts before what a caller saw.
    pub fn why_silent(&self) -> &str {
        self.trouble.as_deref().or(self.silence.as_deref()).unwrap_or("does not answer")
    }
}

impl Volume {
    /// Kubernetes has said that it could not be made larger, and may try again.
    pub fn growth_failed(&self) -> bool {
        let of_condition = |told: &str| told.split(':').next().is_some_and(|type_| type_.ends_with("ResizeError"));
        self.growth.as_deref().is_some_and(|growth| growth.split("; ").any(of_condition))
    }

    /// Its claim asks for more than `size`.
    pub fn asks_for_more_than(&self, size: &str) -> bool {
        quantity::parse(size).is_some_and(|size| quantity::parse(&self.size) > Some(size))
    }
}

impl Record {
    /// The recorded ring.
    pub fn ring(&self) -> Option<&Ring> {
        self.rings().map(Chain::newest)
    }

    /// The recorded ring, with those before it that some member may need first.
    pub fn rings(&self) -> Option<&Chain> {
        match self {
            Self::Held { rings, .. } => Some(rings),
            Self::Absent | Self::Unreadable(_) => None,
        }
    }

    /// Which volume carried each member when it was seen last.
    pub fn volumes(&self) -> BTreeMap<NodeId, Carrier> {
        match self {
            Self::Held { volumes, .. } => volumes.clone(),
            Self::Absent | Self::Unreadable(_) => BTreeMap::new(),
        }
    }
}

impl Observed {
    /// The nodes that answered, with their places.
    pub fn nodes(&self) -> impl Iterator<Item = (&Place, &Node)> {
        self.pods.iter().filter_map(|(place, pod)| pod.node.as_ref().map(|node| (place, node)))
    }

    /// The node at `place`, if it answered.
    pub fn node(&self, place: &Place) -> Option<&Node> {
        self.pods.get(place)?.node.as_ref()
    }

    /// The nodes that did not answer and whose pods Kubernetes calls ready, so that they seem to serve others: by the notes on the volumes, and
    /// where there is none by the record, if the claim is the one that it names.
    pub fn unheard(&self) -> BTreeSet<NodeId> {
        let recorded = self.record.volumes().into_iter().filter(|(_, carrier)| {
            let volume = self.volumes.get(&carrier.place);
            volume.is_some_and(|volume| volume.uid == carrier.uid && volume.note == Note::None)
        });
        let known = recorded.map(|(node, carrier)| (node, carrier.place)).chain(self.places());
        let is_unheard = |place: &Place| self.pods.get(place).is_some_and(|pod| pod.ready && pod.node.is_none());
        known.filter(|(_, place)| is_unheard(place)).map(|(node, _)| node).collect()
    }

    /// The nodes for which others keep copies that they have not got yet, and how many.
    pub fn behind(&self) -> BTreeMap<NodeId, u64> {
        let mut behind = BTreeMap::new();
        let kept = self.nodes().flat_map(|(_, node)| &node.hints).filter(|(_, hints)| **hints > 0);
        kept.for_each(|(node, hints)| *behind.entry(*node).or_default() += hints);
        behind
    }

    /// There is to be a pod at `place` and there is none, though the StatefulSet controller knows: it cannot make it. Or it may not be told.
    pub fn lacks_pod(&self, place: &Place) -> bool {
        let told = self.sets.get(&place.zone).is_some_and(|set| !set.unseen && place.ordinal < set.replicas);
        (told || self.is_refused_a_pod(place)) && !self.pods.contains_key(place)
    }

    /// A pod at `place` is one more than the set may run.
    pub fn is_refused_a_pod(&self, place: &Place) -> bool {
        self.refused.more_pods.contains(&place.zone) && place.ordinal >= self.replicas(&place.zone)
    }

    /// All pods of the set of `zone` exist.
    pub fn has_its_pods(&self, zone: &str) -> bool {
        let exists = |ordinal| self.pods.contains_key(&Place { zone: zone.to_owned(), ordinal });
        (0..self.replicas(zone)).all(exists)
    }

    /// The sets of these zones have these versions since this very pass wrote to them: nobody else did in between, or the writes would have
    /// been refused. So the step may write to them too.
    pub fn follow(&mut self, versions: &BTreeMap<String, String>) {
        for (zone, version) in versions {
            if let Some(set) = self.sets.get_mut(zone) {
                set.resource_version.clone_from(version);
            }
        }
    }

    /// Why nothing runs at `place`, or not all that is to, in Kubernetes' words or about a pod that is in the way.
    pub fn trouble(&self, place: &Place) -> Option<&str> {
        match self.pods.get(place) {
            Some(pod) => pod.trouble.as_deref(),
            None => self.strangers.get(place).map(String::as_str),
        }
    }

    /// A member of the recorded ring is at `place`, or was when it was seen last.
    pub fn has_member(&self, place: &Place) -> bool {
        let Some(ring) = self.record.ring() else { return false };
        let member = |node: NodeId| ring.members.contains_key(&node) && !ring.is_lost(node);
        let recorded = self.record.volumes().into_iter().any(|(node, carrier)| carrier.place == *place && member(node));
        recorded || matches!(self.note(place), Note::Node(node) if member(node))
    }

    /// Those of them that refuse it, since their disks are full: only space helps, no waiting.
    pub fn full(&self) -> impl Iterator<Item = (&Place, &Node)> {
        let behind = self.behind();
        self.nodes().filter(move |(_, node)| !node.writable && behind.contains_key(&node.id))
    }

    /// What is noted on the volume at `place`.
    pub fn note(&self, place: &Place) -> Note {
        self.volumes.get(place).map_or(Note::None, |volume| volume.note)
    }

    /// `node` gave a drain receipt under the recorded ring.
    pub fn has_receipt(&self, node: NodeId) -> bool {
        self.receipt(node).is_some()
    }

    /// The drain receipt that `node` gave under the recorded ring.
    fn receipt(&self, node: NodeId) -> Option<&Receipt> {
        let Record::Held { rings, hash, .. } = &self.record else { return None };
        let Some(Ok(receipt)) = self.receipts.get(&node) else { return None };
        (receipt.node == node && receipt.epoch == rings.newest().epoch && receipt.ring_hash == *hash).then_some(receipt)
    }

    /// The drain receipt of the node whose data `volume` carries.
    pub fn receipt_of(&self, volume: &Volume) -> Option<&Receipt> {
        let Note::Node(node) = volume.note else { return None };
        self.receipt(node)
    }

    /// The volumes of `zone` that its first `pods` pods do not use and whose nodes gave a drain receipt.
    pub fn proven_volumes(&self, zone: &str, pods: u32) -> impl Iterator<Item = (&Place, &Volume)> {
        let beyond = move |place: &Place| place.zone == zone && place.ordinal >= pods;
        let proven = |volume: &Volume| self.receipt_of(volume).is_some();
        self.volumes.iter().filter(move |(place, volume)| beyond(place) && proven(volume))
    }

    /// The set of `zone` is marked to be lowered to `pods` pods, and the volumes that this leaves behind are marked too.
    pub fn is_marked_to_lower(&self, zone: &str, pods: u32) -> bool {
        let marked = self.sets.get(zone).is_some_and(|set| set.lowering == Some(pods));
        marked && self.proven_volumes(zone, pods).all(|(_, volume)| volume.draining || volume.drained)
    }

    /// The pod at `place` is not about to go.
    pub fn stays(&self, place: &Place) -> bool {
        self.sets.get(&place.zone).is_some_and(|set| place.ordinal < set.lowering.unwrap_or(set.replicas))
    }

    /// What the nodes that answered hold.
    pub fn views(&self) -> BTreeMap<NodeId, View> {
        let view = |node: &Node| View { epoch: node.epoch, ring_hash: node.ring_hash, received: node.received.clone() };
        self.nodes().map(|(_, node)| (node.id, view(node))).collect()
    }

    /// What the record is to hold when `ring` is recorded.
    pub fn rings_with(&self, ring: &Ring) -> Result<Chain, Full> {
        self.record.rings().map_or_else(|| Ok(ring.clone().into()), |rings| rings.then(ring.clone(), &self.views()))
    }

    /// What the record is to say of the volumes of the members of `ring`: what is noted on volumes now, else what was recorded.
    pub fn carriers(&self, ring: &Ring) -> BTreeMap<NodeId, Carrier> {
        let mut carriers = self.record.volumes();
        for (place, volume) in &self.volumes {
            if let Note::Node(node) = volume.note {
                carriers.insert(node, Carrier { place: place.clone(), uid: volume.uid.clone() });
            }
        }
        carriers.retain(|node, _| ring.members.contains_key(node));
        carriers
    }

    /// The pods that the zone's StatefulSet is told to run; 0 without one.
    pub fn replicas(&self, zone: &str) -> u32 {
        self.sets.get(zone).map_or(0, |set| set.replicas)
    }

    /// The place of every node that is known: by its own answer, else by the note on its volume.
    pub fn places(&self) -> BTreeMap<NodeId, Place> {
        let answered: BTreeMap<_, _> = self.nodes().map(|(place, node)| (node.id, place.clone())).collect();
        let mut places = BTreeMap::new();
        for (place, volume) in &self.volumes {
            // Where another node answers, the note is out of date.
            if let Note::Node(node) = volume.note
                && self.node(place).is_none()
                && !answered.contains_key(&node)
            {
                places.insert(node, place.clone());
            }
        }
        places.extend(answered);
        places
    }
}
