//! ConfigMap NAME-config-HASH: the nodes' configuration file. What differs between nodes (zone, address) comes by environment.
//!
//! Another file is another ConfigMap, and none ever changes: a pod that restarts before its turn in a rollout reads what it read before, so
//! no image meets a setting that only the next one knows, and a template of before finds its own file. Before there were hashes, one
//! ConfigMap NAME-config held whatever was asked for last. Where it still holds that, or pods are told that it does, it stays the one that
//! templates name: an upgrade of the operator restarts no pod.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{PORT_CLIENT, PORT_HTTP, PORT_PEER, headless_service, metadata};
use crate::api::Replication;
use crate::valid::{ValidCluster, replication_of};

/// The file's name in the ConfigMap and in the pod.
pub const FILE: &str = "node.yaml";
/// Of the file's hash, so many bytes tell two of a cluster's files apart, and leave its name short.
const HASH_BYTES: usize = 8;
/// Where the nodes keep their data.
pub const DATA_DIR: &str = "/var/lib/dynamokv";

/// The ConfigMap's name.
pub fn name(cluster: &ValidCluster) -> String {
    format!("{}-{}", former_name(cluster), hash(cluster))
}

/// The name of the one ConfigMap that earlier versions had.
pub fn former_name(cluster: &ValidCluster) -> String {
    format!("{}-config", cluster.name)
}

/// `name` is that of a ConfigMap with some configuration of `cluster`.
pub fn is_name(cluster: &ValidCluster, name: &str) -> bool {
    let Some(rest) = name.strip_prefix(&former_name(cluster)) else { return false };
    let is_hash = |hash: &str| hash.len() == 2 * HASH_BYTES && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    rest.is_empty() || rest.strip_prefix('-').is_some_and(is_hash)
}

/// The ConfigMap.
pub fn build(cluster: &ValidCluster) -> ConfigMap {
    ConfigMap { immutable: Some(true), ..holding_the_file(cluster, name(cluster)) }
}

/// The ConfigMap as earlier versions made it.
pub fn build_former(cluster: &ValidCluster) -> ConfigMap {
    holding_the_file(cluster, former_name(cluster))
}

fn holding_the_file(cluster: &ValidCluster, name: String) -> ConfigMap {
    ConfigMap {
        metadata: metadata(cluster, name),
        data: Some(BTreeMap::from([(FILE.to_owned(), file(cluster))])),
        ..ConfigMap::default()
    }
}

/// `config_map` has the very file that is asked for.
pub fn holds_the_file(cluster: &ValidCluster, config_map: &ConfigMap) -> bool {
    config_map.data.as_ref().and_then(|data| data.get(FILE)) == Some(&file(cluster))
}

/// A short hash of the file. Pods carry it, so a change restarts them.
pub fn hash(cluster: &ValidCluster) -> String {
    let digest = Sha256::digest(file(cluster));
    digest.iter().take(HASH_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Serialize)]
struct NodeFile {
    cluster_id: String,
    data_dir: &'static str,
    listen: Listen,
    seeds: Vec<String>,
    quorum: Quorum,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    buckets: BTreeMap<String, Bucket>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_timeout_ms: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint_after_ms: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clock_skew_ms_max: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reap_interval_ms: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_reserve_bytes: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<Log>,
}

#[derive(Serialize)]
struct Listen {
    client: String,
    peer: String,
    http: String,
}

#[derive(Serialize)]
struct Quorum {
    r: i32,
    w: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    dw: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pr: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pw: Option<i32>,
}

#[derive(Serialize)]
struct Bucket {
    #[serde(flatten)]
    quorum: Quorum,
    #[serde(skip_serializing_if = "Option::is_none")]
    reconciliation: Option<crate::api::BucketReconciliation>,
}

#[derive(Serialize)]
struct Log {
    level: crate::api::LogLevel,
}

fn file(cluster: &ValidCluster) -> String {
    let any = |port: i32| format!("0.0.0.0:{port}");
    let cluster_quorum = cluster.quorum;
    let bucket = |bucket: &crate::api::Bucket| {
        let Replication { r, w, .. } = replication_of(bucket, cluster_quorum);
        let quorum = Quorum { r, w, dw: bucket.dw, pr: bucket.pr, pw: bucket.pw };
        Bucket { quorum, reconciliation: bucket.reconciliation }
    };
    let file = NodeFile {
        cluster_id: cluster.id.to_string(),
        data_dir: DATA_DIR,
        listen: Listen { client: any(PORT_CLIENT), peer: any(PORT_PEER), http: any(PORT_HTTP) },
        seeds: vec![format!("{}.{}.svc:{PORT_PEER}", headless_service::name(cluster), cluster.namespace)],
        quorum: Quorum { r: cluster_quorum.r, w: cluster_quorum.w, dw: None, pr: None, pw: None },
        buckets: cluster.buckets.iter().map(|item| (item.name.clone(), bucket(item))).collect(),
        request_timeout_ms: cluster.settings.request_timeout_ms,
        hint_after_ms: cluster.settings.hint_after_ms,
        clock_skew_ms_max: cluster.settings.clock_skew_ms_max,
        reap_interval_ms: cluster.settings.reap_interval_ms,
        disk_reserve_bytes: cluster.settings.disk_reserve_bytes,
        log: cluster.settings.log_level.map(|level| Log { level }),
    };
    serde_yaml::to_string(&file).expect("text and numbers can be written as YAML")
}
