//! `DynamoCluster.status`: what the operator saw in its last look. All of it can be seen again; nothing is kept here only.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator saw in its last look.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct DynamoClusterStatus {
    /// The generation of the spec that this status answers; -1 before the operator's first look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Pods that exist.
    #[serde(default)]
    pub replicas: i32,

    /// Pods that are ready to serve.
    #[serde(default)]
    pub ready_replicas: i32,

    /// The labels of the cluster's pods, as a selector; a HorizontalPodAutoscaler reads it.
    #[serde(default)]
    pub selector: String,

    /// The ring's epoch; grows by one with each step of a rebalance.
    #[serde(default)]
    pub epoch: i64,

    /// Data on the move, in short: "12/341 partitions", "draining NAME-4", or empty.
    #[serde(default)]
    pub rebalance: String,

    /// Partitions that are being moved.
    #[serde(default)]
    pub partitions_moving: i32,

    /// Partitions that are not yet where they are to be, the moving ones included.
    #[serde(default)]
    pub partitions_left: i32,

    /// Bytes that are still to be sent to other nodes for that, estimated from the size of the nodes' partitions and rounded down to two
    /// digits.
    #[serde(default)]
    pub bytes_left: i64,

    /// Bytes that were sent to other nodes for the partitions that are being moved, rounded down to two digits.
    #[serde(default)]
    pub bytes_sent: i64,

    /// The nodes.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["pod".into()]))]
    pub members: Vec<MemberStatus>,

    /// Ready: everything is as asked. Available: every partition has enough live replicas for reads and writes. Progressing: the
    /// operator is bringing the cluster to what is asked. Degraded: something needs attention. RingStable: every node holds the ring
    /// that the spec asks for and no data is on the move. ScaleInBlocked: nodes are to leave and cannot.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// One node.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Its pod.
    pub pod: String,

    /// Its identity: a UUID that lives on its volume. Empty until it was heard.
    #[serde(default)]
    pub node: String,

    /// Its zone.
    pub zone: String,

    /// Partitions that it is a replica of.
    #[serde(default)]
    pub partitions: i32,

    /// Objects that it holds, rounded down to two digits.
    #[serde(default)]
    pub objects: i64,

    /// Copies that it keeps for other nodes until those are back, rounded down to two digits.
    #[serde(default)]
    pub hints: i64,

    /// What it does.
    pub state: MemberState,
}

/// What a node does.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemberState {
    /// It answers and holds no part of the data: it has just come, or it is out and about to go.
    Standby,
    /// It answers and is a replica.
    Active,
    /// Its data is moving to others.
    Leaving,
    /// It does not answer.
    Unreachable,
}
