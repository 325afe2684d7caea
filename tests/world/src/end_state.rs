//! What two runs of one scenario must agree on in the end (O5), whatever befell them on the way.
//!
//! Nodes are named by their pods: a lost volume makes another node, and epochs count the way.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::World;
use crate::kubernetes::{CLAIMS, PODS, SETS, is_ready};
use dynamo_api_server::{number, text};

/// The end of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndState {
    /// StatefulSets: pods asked for, image.
    pub sets: BTreeMap<String, (u32, String)>,
    /// Pods: ready, image.
    pub pods: BTreeMap<String, (bool, String)>,
    /// The pods of the ring's members.
    pub members: BTreeSet<String>,
    /// Members that have no pod, and members declared lost; none, if all is well.
    pub strays: usize,
    /// Partitions on the move.
    pub moving: usize,
    /// The fewest and the most partitions that a member holds.
    pub partitions: (usize, usize),
    /// Every node holds the recorded ring.
    pub agreed: bool,
    /// Claims, with whether they carry a member.
    pub claims: BTreeMap<String, bool>,
    /// Unused volumes are deleted, so no run may leave more than another.
    pub deletes_volumes: bool,
    /// Conditions: status and reason.
    pub conditions: BTreeMap<String, (String, String)>,
    /// status.replicas, readyReplicas, and members by state.
    pub status: (u32, u32, Vec<String>),
}

impl EndState {
    /// Where this end is not `clean`'s. Under `Retain` only the volumes of members count: which others are left behind is a matter
    /// of the way, and that none was deleted is for O8.
    pub fn differences(&self, clean: &Self) -> Vec<String> {
        let claims = |end: &Self| {
            let counted = end.claims.iter().filter(|(_, member)| **member || end.deletes_volumes);
            format!("{:?}", counted.collect::<Vec<_>>())
        };
        let pairs = [
            ("sets", format!("{:?}", self.sets), format!("{:?}", clean.sets)),
            ("pods", format!("{:?}", self.pods), format!("{:?}", clean.pods)),
            ("members", format!("{:?}", self.members), format!("{:?}", clean.members)),
            ("members without a pod", self.strays.to_string(), clean.strays.to_string()),
            ("moving partitions", self.moving.to_string(), clean.moving.to_string()),
            ("partitions of a member", format!("{:?}", self.partitions), format!("{:?}", clean.partitions)),
            ("nodes that hold the ring", self.agreed.to_string(), clean.agreed.to_string()),
            ("claims", claims(self), claims(clean)),
            ("conditions", format!("{:?}", self.conditions), format!("{:?}", clean.conditions)),
            ("status", format!("{:?}", self.status), format!("{:?}", clean.status)),
        ];
        let different = pairs.into_iter().filter(|(_, mine, clean)| mine != clean);
        different.map(|(what, mine, clean)| format!("{what}: {mine} instead of {clean}")).collect()
    }
}

impl World {
    /// How it is now, in the lines of the files `NAME.end`, which `tests/e2e` writes too.
    pub fn end_in_lines(&self) -> String {
        let end = self.end_state();
        let short = |name: &str| name.trim_start_matches("data-").trim_start_matches("cart-").to_owned();
        let mut lines = Vec::new();
        for (name, (pods, image)) in &end.sets {
            let zone = name.strip_prefix("cart-").unwrap_or("default");
            lines.push(format!("zone {zone}: {pods} pods, image {}", image.rsplit(':').next().unwrap_or_default()));
        }
        for member in &end.status.2 {
            let (pod, state) = member.split_once(' ').unwrap_or_default();
            let listed = if end.members.contains(pod) { "in the ring" } else { "not in the ring" };
            lines.push(format!("pod {}: {state}, {listed}", short(pod)));
        }
        lines.push(format!("partitions of a member: {} to {}", end.partitions.0, end.partitions.1));
        for (claim, member) in &end.claims {
            lines.push(format!("volume {}: {}", short(claim), if *member { "a member's" } else { "left behind" }));
        }
        for kind in ["Ready", "Available", "Progressing", "Degraded", "RingStable", "ScaleInBlocked"] {
            let (status, reason) = end.conditions.get(kind).cloned().unwrap_or_default();
            lines.push(format!("{kind}: {status} {reason}"));
        }
        lines.join("\n") + "\n"
    }

    /// How it is now.
    pub fn end_state(&self) -> EndState {
        let ring = self.ring();
        let stage = self.stage();
        let image = |pointer: &str, object: &Value| text(object, pointer).to_owned();
        let nodes: BTreeMap<_, _> =
            stage.nodes.running().iter().map(|(pod, running)| (running.node.identity().node, pod.clone())).collect();
        let members: Vec<_> = ring.iter().flat_map(|ring| ring.members.keys().copied()).collect();
        let held: Vec<usize> = ring.iter().flat_map(|ring| members.iter().map(|node| ring.partitions_of(*node))).collect();
        let hash = ring.as_ref().map(dynamo_core::ring::Ring::hash);
        let ours = |claim: &Value| {
            claim.pointer("/metadata/annotations/dynamokv.io~1cluster-uid").is_some_and(|uid| uid == stage.data_uid)
        };
        let carries =
            |claim: &Value| stage.nodes.on_claim(text(claim, "/metadata/uid")).is_some_and(|node| members.contains(&node));
        let cluster = stage.cluster().unwrap_or_default();
        let conditions = cluster.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        let listed = cluster.pointer("/status/members").and_then(Value::as_array).cloned().unwrap_or_default();
        let api = &stage.kubernetes.api;
        EndState {
            sets: api
                .list(SETS)
                .map(|(name, set)| {
                    (name.to_owned(), (number(set, "/spec/replicas"), image("/spec/template/spec/containers/0/image", set)))
                })
                .collect(),
            pods: api
                .list(PODS)
                .map(|(name, pod)| (name.to_owned(), (is_ready(pod), image("/spec/containers/0/image", pod))))
                .collect(),
            strays: members.iter().filter(|node| !nodes.contains_key(node)).count(),
            moving: ring.as_ref().map_or(0, |ring| ring.moving().count()),
            partitions: (held.iter().min().copied().unwrap_or(0), held.iter().max().copied().unwrap_or(0)),
            agreed: stage.nodes.running().values().all(|running| running.node.ring().map(|ring| ring.hash()) == hash),
            claims: api
                .list(CLAIMS)
                .filter(|(_, claim)| ours(claim))
                .map(|(name, claim)| (name.to_owned(), carries(claim)))
                .collect(),
            deletes_volumes: text(&cluster, "/spec/storage/retention/whenScaled") == "Delete",
            conditions: conditions
                .iter()
                .map(|condition| {
                    let verdict = (text(condition, "/status").to_owned(), text(condition, "/reason").to_owned());
                    (text(condition, "/type").to_owned(), verdict)
                })
                .collect(),
            status: (
                number(&cluster, "/status/replicas"),
                number(&cluster, "/status/readyReplicas"),
                listed.iter().map(|member| format!("{} {}", text(member, "/pod"), text(member, "/state"))).collect(),
            ),
            members: members.iter().filter_map(|node| nodes.get(node).cloned()).collect(),
        }
    }
}
