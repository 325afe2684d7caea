//! A cluster whose spec holds together: what every later module takes for granted, checked once.
//!
//! The API server refuses the same by CEL. This is for objects that were stored under an older CRD: they get a condition that
//! names the field and the fix, and never a panic. What such an object may well live with is not refused here: volumes below the least size
//! that the CRD takes, where nobody holds them to it.

mod pod;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use dynamo_core::config::{BUCKET_BYTES_MAX, Config};
use dynamo_core::id::{ClusterId, NodeId};
use dynamo_core::ring::PARTITION_BITS_MAX;
use dynamo_core::ring::bucket_replication::BucketReplication;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;
use thiserror::Error;

use crate::api::{
    Bucket, DynamoCluster, ImagePullPolicy, ImagePullSecret, Pod, PodDisruptionBudget, Replication, Resources, Settings, Storage,
};
use crate::quantity::{self, Quantity};

/// The zone of a cluster that names none.
pub const ZONE_DEFAULT: &str = "default";

/// Partitions times N that a ring's record can hold: a ConfigMap takes 1 MiB.
const REPLICAS_MAX: i32 = 196_608;

/// A `DynamoCluster` that can be built and planned for. [`ValidCluster::of`] makes it and nothing else.
#[derive(Clone, PartialEq, Debug)]
pub struct ValidCluster {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
    /// The UID that stands on its volumes: not its own where it goes on with a former cluster's data.
    pub(crate) data_uid: String,
    /// The same as its nodes know it.
    pub id: ClusterId,
    /// In the order of the spec; at least one.
    pub(crate) zones: Vec<Zone>,
    /// The zones are named in the spec, so StatefulSets are named after them.
    pub(crate) zoned: bool,
    pub(crate) replication: u8,
    pub(crate) quorum: Replication,
    pub(crate) partition_bits: u8,
    pub(crate) image: String,
    pub(crate) image_pull_policy: ImagePullPolicy,
    pub(crate) image_pull_secrets: Vec<ImagePullSecret>,
    pub(crate) pod: Pod,
    pub(crate) storage: Storage,
    pub(crate) resources: Option<Resources>,
    pub(crate) buckets: Vec<Bucket>,
    /// Buckets with an N of their own.
    pub(crate) bucket_replication: BucketReplication,
    pub(crate) settings: Settings,
    pub(crate) pod_disruption_budget: PodDisruptionBudget,
    /// Nothing more moves.
    pub(crate) rebalancing_paused: bool,
    /// Nodes of which somebody accepts that data may be lost with them.
    pub(crate) accepted_losses: BTreeSet<NodeId>,
    owner: OwnerReference,
}

/// Annotation on a DynamoCluster: the UUIDs of lost nodes, separated by commas, of which somebody accepts that acknowledged writes
/// may be lost with them.
pub const ACCEPT_DATA_LOSS: &str = "dynamokv.io/accept-data-loss";

fn accepted_losses(cluster: &DynamoCluster) -> BTreeSet<NodeId> {
    let accepted = cluster.metadata.annotations.as_ref().and_then(|annotations| annotations.get(ACCEPT_DATA_LOSS));
    accepted.into_iter().flat_map(|nodes| nodes.split(',')).filter_map(|node| NodeId::parse(node.trim())).collect()
}

/// One failure domain and its share of the nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Zone {
    /// Its name.
    pub name: String,
    /// Labels of the Kubernetes nodes it lies on.
    pub node_selector: BTreeMap<String, String>,
    /// How many nodes it is to have.
    pub replicas: u32,
}

/// A pod's place in the cluster: it outlives the pod, and its volume comes back to it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place {
    /// The zone.
    pub zone: String,
    /// The ordinal in the zone's StatefulSet.
    pub ordinal: u32,
}

/// A spec that cannot be built.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{field}: {reason}")]
pub struct InvalidSpec {
    /// The field.
    pub field: &'static str,
    /// What is wrong, and what to do.
    pub reason: String,
}

impl ValidCluster {
    /// Checks `cluster`; the first thing that does not hold is the error.
    pub fn of(cluster: &DynamoCluster) -> Result<Self, InvalidSpec> {
        let name = cluster.metadata.name.clone().unwrap_or_default();
        let spec = &cluster.spec;
        check_names(&name, &spec.zones)?;
        let (Some(data_uid), Some(owner)) = (cluster.data_uid(), cluster.controller_owner_ref(&())) else {
            return Err(invalid("metadata.uid", "is not a UUID; the API server sets it"));
        };
        let Some(id) = ClusterId::parse(data_uid) else {
            return Err(match &spec.adopt_cluster {
                Some(uid) => invalid("spec.adoptCluster", format!("{uid:?} is not a UUID; create the cluster again with one")),
                None => invalid("metadata.uid", "is not a UUID; the API server sets it"),
            });
        };
        let replication = check_replication(spec.replicas, spec.replication)?;
        let partition_bits = check_partitions(spec.partitions, spec.replication.factor)?;
        check_buckets(&spec.buckets, spec.replication)?;
        let bucket_replication = check_layers(&spec.buckets, replication, partition_bits)?;
        if quantity::parse(&spec.storage.size).is_none_or(|size| !size.is_positive()) {
            return Err(invalid("spec.storage.size", "is not a size; write for example 10Gi"));
        }
        check_settings(&spec.settings, &spec.storage)?;
        check_resources(spec.resources.as_ref())?;
        pod::check(&spec.pod)?;
        spec.zones.iter().try_for_each(|zone| pod::check_labels("spec.zones[].nodeSelector", &zone.node_selector))?;
        if spec.image.is_empty() || spec.image.contains(char::is_whitespace) {
            return Err(invalid("spec.image", "is empty or has a space or a line break; name the image of dynamo-node"));
        }
        if spec.pod_disruption_budget.max_unavailable < 1 {
            return Err(invalid(
                "spec.podDisruptionBudget.maxUnavailable",
                "must be at least 1, or nodes could never be drained",
            ));
        }
        Ok(Self {
            namespace: cluster.metadata.namespace.clone().unwrap_or_default(),
            uid: owner.uid.clone(),
            data_uid: data_uid.to_owned(),
            id,
            zones: spread(spec.replicas.unsigned_abs(), &spec.zones),
            zoned: !spec.zones.is_empty(),
            replication,
            quorum: spec.replication,
            partition_bits,
            image: spec.image.clone(),
            image_pull_policy: spec.image_pull_policy,
            image_pull_secrets: spec.image_pull_secrets.clone(),
            pod: spec.pod.clone(),
            storage: spec.storage.clone(),
            resources: spec.resources.clone(),
            buckets: spec.buckets.clone(),
            bucket_replication,
            settings: spec.settings.clone(),
            pod_disruption_budget: spec.pod_disruption_budget,
            rebalancing_paused: spec.rebalancing.paused,
            accepted_losses: accepted_losses(cluster),
            owner,
            name,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// It is to go on with another cluster's data.
    pub fn adopts(&self) -> bool {
        self.data_uid != self.uid
    }

    /// The zones with the nodes that each is to have.
    pub fn zones(&self) -> &[Zone] {
        &self.zones
    }

    /// How many nodes the cluster is to have.
    pub fn replicas(&self) -> u32 {
        self.zones.iter().map(|zone| zone.replicas).sum()
    }

    /// How many nodes `zone` is to have.
    pub fn replicas_of(&self, zone: &str) -> u32 {
        self.zones.iter().find(|candidate| candidate.name == zone).map_or(0, |zone| zone.replicas)
    }

    /// Whether a node at `place` is to stay.
    pub fn keeps(&self, place: &Place) -> bool {
        place.ordinal < self.replicas_of(&place.zone)
    }

    /// Every place that is to have a node.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        self.zones.iter().flat_map(|zone| (0..zone.replicas).map(|ordinal| Place { zone: zone.name.clone(), ordinal }))
    }

    /// The name of `zone`'s StatefulSet.
    pub fn set_name(&self, zone: &str) -> String {
        if self.zoned { format!("{}-{zone}", self.name) } else { self.name.clone() }
    }

    /// The name of the pod at `place`.
    pub fn pod_name(&self, place: &Place) -> String {
        format!("{}-{}", self.set_name(&place.zone), place.ordinal)
    }

    /// The name of the volume claim at `place`.
    pub fn claim_name(&self, place: &Place) -> String {
        format!("data-{}", self.pod_name(place))
    }

    /// The reference that makes this cluster the owner of an object.
    pub fn owner(&self) -> OwnerReference {
        self.owner.clone()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.zone, self.ordinal)
    }
}

fn invalid(field: &'static str, reason: impl Into<String>) -> InvalidSpec {
    InvalidSpec { field, reason: reason.into() }
}

/// Nodes go round the zones, so that two zones differ by at most one, and a shrink leaves them even too.
fn spread(replicas: u32, zones: &[crate::api::Zone]) -> Vec<Zone> {
    if zones.is_empty() {
        return vec![Zone { name: ZONE_DEFAULT.to_owned(), node_selector: BTreeMap::new(), replicas }];
    }
    let count = zones.len() as u32;
    let share = |index: u32| replicas / count + u32::from(index < replicas % count);
    let zone = |(index, zone): (u32, &crate::api::Zone)| Zone {
        name: zone.name.clone(),
        node_selector: zone.node_selector.clone(),
        replicas: share(index),
    };
    (0..).zip(zones).map(zone).collect()
}

fn check_names(name: &str, zones: &[crate::api::Zone]) -> Result<(), InvalidSpec> {
    if name.len() > 40 || !is_label(name) || !name.starts_with(|first: char| first.is_ascii_lowercase()) {
        let reason =
            "takes at most 40 lower-case letters, digits and '-', starting with a letter; create the cluster under such a name";
        return Err(invalid("metadata.name", reason));
    }
    let mut seen = BTreeSet::new();
    for zone in zones {
        if !is_label(&zone.name) || zone.name.len() + name.len() > 51 {
            let reason = format!(
                "{:?} takes lower-case letters, digits and '-', and at most 51 characters together with metadata.name; \
                 create the cluster with such a name",
                zone.name
            );
            return Err(invalid("spec.zones[].name", reason));
        }
        if !seen.insert(&zone.name) {
            return Err(invalid("spec.zones[].name", format!("{:?} is listed twice; remove one", zone.name)));
        }
    }
    Ok(())
}

fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn check_replication(replicas: i32, replication: Replication) -> Result<u8, InvalidSpec> {
    let Replication { factor: n, r, w } = replication;
    if !(1..=7).contains(&n) {
        return Err(invalid("spec.replication.factor", format!("is {n}, must be 1 to 7; create the cluster with such a factor")));
    }
    for (field, value) in [("spec.replication.r", r), ("spec.replication.w", w)] {
        if !(1..=n).contains(&value) {
            return Err(invalid(field, format!("is {value}, must be 1 to {n} (spec.replication.factor); set it so")));
        }
    }
    if replicas < n || replicas > 1000 {
        let reason = format!("is {replicas}, must be {n} (spec.replication.factor) to 1000; set it so");
        return Err(invalid("spec.replicas", reason));
    }
    Ok(n.unsigned_abs() as u8)
}

fn check_partitions(partitions: i32, n: i32) -> Result<u8, InvalidSpec> {
    if !(1..=65_536).contains(&partitions) || partitions.count_ones() != 1 {
        let reason = format!("is {partitions}, must be a power of two from 1 to 65536; create the cluster with such a number");
        return Err(invalid("spec.partitions", reason));
    }
    if partitions * n > REPLICAS_MAX {
        let reason = format!("is {partitions}, times n at most {REPLICAS_MAX}; create the cluster with fewer");
        return Err(invalid("spec.partitions", reason));
    }
    Ok(partitions.trailing_zeros() as u8)
}

fn check_settings(settings: &Settings, storage: &Storage) -> Result<(), InvalidSpec> {
    if settings.reap_interval_ms.is_some_and(|interval| interval != 0 && interval < 1_000) {
        return Err(invalid("spec.settings.reapIntervalMs", "must be at least 1000, or 0 to keep all tombstones; raise it"));
    }
    let unless_set = |set: Option<i32>, default: Duration| set.map_or(default.as_millis() as i64, i64::from);
    let Config { hint_after, request_timeout, .. } = Config::default();
    let after = unless_set(settings.hint_after_ms, hint_after);
    let timeout = unless_set(settings.request_timeout_ms, request_timeout);
    if after < 1 || after >= timeout {
        let reason = format!(
            "is {after}, must be at least 1 and below spec.settings.requestTimeoutMs, which is {timeout}; lower it or raise that"
        );
        return Err(invalid("spec.settings.hintAfterMs", reason));
    }
    let size = quantity::parse(&storage.size).unwrap_or_default();
    let is_too_much = |reserve: i64| reserve < 0 || i128::from(reserve) * 2 > i128::from(size.whole());
    if settings.disk_reserve_bytes.is_some_and(is_too_much) {
        let reason = format!("must be 0 to half of spec.storage.size, which is {}; lower it", storage.size);
        return Err(invalid("spec.settings.diskReserveBytes", reason));
    }
    Ok(())
}

fn check_resources(resources: Option<&Resources>) -> Result<(), InvalidSpec> {
    let Some(Resources { requests, limits }) = resources else { return Ok(()) };
    for (field, amounts) in [("spec.resources.requests", requests), ("spec.resources.limits", limits)] {
        if let Some(name) = amounts.keys().find(|name| !is_resource(name)) {
            let reason = format!(
                "{name:?} is no resource of a container: those are cpu, memory, ephemeral-storage, hugepages-SIZE, and such as \
                 example.org/gpu; correct the name"
            );
            return Err(invalid(field, reason));
        }
        if let Some((name, amount)) =
            amounts.iter().find(|(_, amount)| quantity::parse(&amount.0).is_none_or(Quantity::is_negative))
        {
            let reason = format!("{name} is {:?}, which is not a quantity of 0 or more; write for example 500m or 1Gi", amount.0);
            return Err(invalid(field, reason));
        }
    }
    for (name, request) in requests {
        let Some(limit) = limits.get(name) else { continue };
        if quantity::parse(&request.0) > quantity::parse(&limit.0) {
            let reason = format!("{name} is {}, and its limit {}; lower the request or raise the limit", request.0, limit.0);
            return Err(invalid("spec.resources.requests", reason));
        }
    }
    Ok(())
}

/// Kubernetes knows a few by their names alone; others have the domain of whoever made them.
fn is_resource(name: &str) -> bool {
    ["cpu", "memory", "ephemeral-storage"].contains(&name) || name.starts_with("hugepages-") || name.contains('/')
}

fn check_buckets(buckets: &[Bucket], cluster: Replication) -> Result<(), InvalidSpec> {
    let mut seen = BTreeSet::new();
    for bucket in buckets {
        let Replication { factor: n, r, w } = replication_of(bucket, cluster);
        let bounded = [
            ("spec.buckets[].factor", Some(n), 1, cluster.factor),
            ("spec.buckets[].r", Some(r), 1, n),
            ("spec.buckets[].w", Some(w), 1, n),
            ("spec.buckets[].dw", bucket.dw, 0, w),
            ("spec.buckets[].pr", bucket.pr, 0, r),
            ("spec.buckets[].pw", bucket.pw, 0, w),
        ];
        for (field, value, min, max) in bounded {
            if let Some(value) = value.filter(|value| !(min..=max).contains(value)) {
                let reason = format!("of bucket {:?} is {value}, must be {min} to {max}; set it so", bucket.name);
                return Err(invalid(field, reason));
            }
        }
        if bucket.name.len() > BUCKET_BYTES_MAX {
            let reason =
                format!("{:?} has {} bytes, must have at most {BUCKET_BYTES_MAX}; shorten it", bucket.name, bucket.name.len());
            return Err(invalid("spec.buckets[].name", reason));
        }
        if bucket.name.is_empty() || !seen.insert(&bucket.name) {
            return Err(invalid("spec.buckets[].name", format!("{:?} is empty or listed twice; rename one", bucket.name)));
        }
    }
    Ok(())
}

/// N, R and W of a bucket. What it does not say is the cluster's, and no more than its factor.
pub(crate) fn replication_of(bucket: &Bucket, cluster: Replication) -> Replication {
    let factor = bucket.factor.unwrap_or(cluster.factor);
    Replication { factor, r: bucket.r.unwrap_or(cluster.r.min(factor)), w: bucket.w.unwrap_or(cluster.w.min(factor)) }
}

/// Each factor that buckets have takes a layer of partitions of its own.
fn check_layers(buckets: &[Bucket], replication: u8, partition_bits: u8) -> Result<BucketReplication, InvalidSpec> {
    let entry = |bucket: &Bucket| Some((bucket.name.clone().into(), u8::try_from(bucket.factor?).unwrap_or(0)));
    let layers = BucketReplication::new(buckets.iter().filter_map(entry), replication)
        .map_err(|error| invalid("spec.buckets[].factor", error.to_string()))?;
    if (1 + layers.layers().len()) << partition_bits > 1 << PARTITION_BITS_MAX {
        let reason = format!(
            "buckets have {} factors of their own, and each takes {} partitions again, of 65536 together; create the cluster with fewer \
             partitions or factors",
            layers.layers().len(),
            1 << partition_bits
        );
        return Err(invalid("spec.buckets[].factor", reason));
    }
    Ok(layers)
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::DynamoClusterSpec;
    use crate::build::labels;

    fn pairs(key: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(key.to_owned(), value.to_owned())])
    }

    /// A cluster `shop/cart` of `replicas` nodes in `zones`, with 16 partitions.
    pub(crate) fn cluster(replicas: i32, zones: &[&str]) -> DynamoCluster {
        let zones: Vec<_> = zones.iter().map(|name| serde_json::json!({ "name": name })).collect();
        let spec = serde_json::json!({
            "replicas": replicas, "partitions": 16, "zones": zones, "image": "localhost/dynamo-node:dev"
        });
        let mut cluster = DynamoCluster::new("cart", serde_json::from_value::<DynamoClusterSpec>(spec).unwrap());
        cluster.metadata.namespace = Some("shop".into());
        cluster.metadata.uid = Some("6f9619ff-8b86-d011-b42d-00c04fc964ff".into());
        cluster.metadata.generation = Some(1);
        cluster
    }

    pub(crate) fn valid(replicas: i32, zones: &[&str]) -> ValidCluster {
        ValidCluster::of(&cluster(replicas, zones)).unwrap()
    }

    #[test]
    fn nodes_are_spread_evenly_and_a_shrink_leaves_them_even() {
        for (replicas, shares) in [(3, [1, 1, 1]), (4, [2, 1, 1]), (5, [2, 2, 1]), (7, [3, 2, 2])] {
            let cluster = valid(replicas, &["a", "b", "c"]);
            assert_eq!(cluster.zones.iter().map(|zone| zone.replicas).collect::<Vec<_>>(), shares);
        }
        assert_eq!(valid(4, &[]).zones[0].replicas, 4);
    }

    #[test]
    fn objects_are_named_after_the_cluster_and_the_zone() {
        let place = |zone: &str| Place { zone: zone.to_owned(), ordinal: 2 };
        assert_eq!(valid(3, &[]).pod_name(&place(ZONE_DEFAULT)), "cart-2");
        assert_eq!(valid(3, &["a"]).claim_name(&place("a")), "data-cart-a-2");
    }

    #[test]
    fn a_stored_spec_that_cannot_be_built_is_an_error_that_names_the_field() {
        let bucket = |bucket: serde_json::Value| serde_json::from_value::<Bucket>(bucket).unwrap();
        let wide = bucket(serde_json::json!({ "name": "a", "w": 4 }));
        let small = bucket(serde_json::json!({ "name": "a", "factor": 2, "r": 3 }));
        let [one, two] = [1, 2].map(|n| bucket(serde_json::json!({ "name": n.to_string(), "factor": n })));
        let long = bucket(json!({ "name": "é".repeat(128) }));
        let resources = |resources| serde_json::from_value(resources).unwrap();
        let split = bucket(serde_json::json!({ "name": "a", "dw": 3 }));
        type Damage<'a> = &'a dyn Fn(&mut DynamoCluster);
        let tolerations = |tolerations| serde_json::from_value(tolerations).unwrap();
        let cases: [(&str, Damage); 43] = [
            ("spec.resources.limits", &|cluster| cluster.spec.resources = resources(json!({ "limits": { "cpus": 1 } }))),
            ("spec.resources.requests", &|cluster| cluster.spec.resources = resources(json!({ "requests": { "": 1 } }))),
            ("spec.pod.tolerations", &|cluster| {
                cluster.spec.pod.tolerations = tolerations(json!([{ "key": "a b", "operator": "Exists" }]));
            }),
            ("spec.pod.tolerations", &|cluster| {
                cluster.spec.pod.tolerations = tolerations(json!([{ "key": "a/b/c", "value": "d" }]));
            }),
            ("spec.resources.requests", &|cluster| cluster.spec.resources = resources(json!({ "requests": { "cpu": "-1" } }))),
            ("spec.image", &|cluster| cluster.spec.image = "localhost/dynamo-node:dev\n".into()),
            ("spec.zones[].nodeSelector", &|cluster| cluster.spec.zones[1].node_selector = pairs("disk", "two words")),
            ("spec.zones[].nodeSelector", &|cluster| cluster.spec.zones[1].node_selector = pairs("two words", "a")),
            ("spec.adoptCluster", &|cluster| cluster.spec.adopt_cluster = Some("the former".into())),
            ("metadata.name", &|cluster| cluster.metadata.name = Some("9".repeat(41))),
            ("metadata.uid", &|cluster| cluster.metadata.uid = None),
            ("spec.replicas", &|cluster| cluster.spec.replicas = 2),
            ("spec.replicas", &|cluster| cluster.spec.replicas = -5),
            ("spec.replication.factor", &|cluster| cluster.spec.replication.factor = 0),
            ("spec.replication.r", &|cluster| cluster.spec.replication.r = 4),
            ("spec.replication.w", &|cluster| cluster.spec.replication.w = 0),
            ("spec.partitions", &|cluster| cluster.spec.partitions = 1000),
            ("spec.partitions", &|cluster| cluster.spec.partitions = i32::MIN),
            ("spec.storage.size", &|cluster| cluster.spec.storage.size = "big".into()),
            ("spec.settings.reapIntervalMs", &|cluster| cluster.spec.settings.reap_interval_ms = Some(1)),
            ("spec.settings.hintAfterMs", &|cluster| cluster.spec.settings.request_timeout_ms = Some(500)),
            ("spec.settings.diskReserveBytes", &|cluster| cluster.spec.settings.disk_reserve_bytes = Some(6_000_000_000)),
            ("spec.settings.diskReserveBytes", &|cluster| cluster.spec.settings.disk_reserve_bytes = Some(-1)),
            ("spec.resources.limits", &|cluster| cluster.spec.resources = resources(json!({ "limits": { "memory": "much" } }))),
            ("spec.resources.requests", &|cluster| {
                cluster.spec.resources = resources(json!({ "requests": { "cpu": 2 }, "limits": { "cpu": "1500m" } }));
            }),
            ("spec.buckets[].name", &|cluster| cluster.spec.buckets = vec![long.clone()]),
            ("spec.buckets[].w", &|cluster| cluster.spec.buckets = vec![wide.clone()]),
            ("spec.buckets[].dw", &|cluster| cluster.spec.buckets = vec![split.clone()]),
            ("spec.buckets[].r", &|cluster| cluster.spec.buckets = vec![small.clone()]),
            ("spec.buckets[].factor", &|cluster| {
                (cluster.spec.partitions, cluster.spec.buckets) = (32_768, vec![one.clone(), two.clone()]);
            }),
            ("spec.pod.labels", &|cluster| cluster.spec.pod.labels = pairs(labels::ZONE, "a")),
            ("spec.pod.labels", &|cluster| cluster.spec.pod.labels = pairs("app.kubernetes.io/name", "a")),
            ("spec.pod.labels", &|cluster| cluster.spec.pod.labels = pairs("a", "two words")),
            ("spec.pod.annotations", &|cluster| cluster.spec.pod.annotations = pairs(labels::CONFIG_HASH, "a")),
            ("spec.pod.annotations", &|cluster| cluster.spec.pod.annotations = pairs("two words", "a")),
            ("spec.pod.annotations", &|cluster| cluster.spec.pod.annotations = pairs("Domain/name", "a")),
            ("spec.pod.nodeSelector", &|cluster| cluster.spec.pod.node_selector = pairs("a/b/c", "a")),
            ("spec.pod.tolerations", &|cluster| cluster.spec.pod.tolerations = tolerations(json!([{ "value": "a" }]))),
            ("spec.pod.tolerations", &|cluster| {
                cluster.spec.pod.tolerations = tolerations(json!([{ "operator": "Exists", "value": "a" }]));
            }),
            ("spec.pod.tolerations", &|cluster| {
                cluster.spec.pod.tolerations = tolerations(json!([{ "key": "a", "operator": "Has" }]));
            }),
            ("spec.pod.tolerations", &|cluster| {
                cluster.spec.pod.tolerations = tolerations(json!([{ "key": "a", "effect": "Never" }]));
            }),
            ("spec.pod.tolerations", &|cluster| {
                cluster.spec.pod.tolerations = tolerations(json!([{ "key": "a", "tolerationSeconds": 5 }]));
            }),
            ("spec.zones[].name", &|cluster| cluster.spec.zones[1].name = "a".into()),
        ];
        for (field, damage) in cases {
            let mut cluster = cluster(3, &["a", "b"]);
            damage(&mut cluster);
            assert_eq!(ValidCluster::of(&cluster).unwrap_err().field, field);
        }
    }

    #[test]
    fn resources_and_taints_that_others_name_are_taken_and_so_is_a_small_volume_of_before() {
        let mut cluster = cluster(3, &[]);
        let amounts =
            json!({ "cpu": 1, "memory": "1Gi", "ephemeral-storage": "1Gi", "hugepages-2Mi": "2Mi", "example.org/gpu": 1 });
        cluster.spec.resources = serde_json::from_value(json!({ "requests": amounts.clone(), "limits": amounts })).unwrap();
        let tolerations = json!([{ "operator": "Exists" }, { "key": "node.kubernetes.io/not-ready", "operator": "Exists" }]);
        cluster.spec.pod.tolerations = serde_json::from_value(tolerations).unwrap();
        cluster.spec.storage.size = "1Mi".into();
        assert_eq!(ValidCluster::of(&cluster).map(|_| ()), Ok(()));
    }

    /// What the API server has taken must not be refused afterwards, or the cluster stands still.
    #[test]
    fn a_request_that_equals_its_limit_in_other_words_is_taken() {
        for (request, limit) in [("700m", "0.7"), ("0.7", "700m"), ("8.3G", "8300M"), ("8300M", "8.3G")] {
            let mut cluster = cluster(3, &[]);
            let resources = json!({ "requests": { "memory": request }, "limits": { "memory": limit } });
            cluster.spec.resources = serde_json::from_value(resources).unwrap();
            assert_eq!(ValidCluster::of(&cluster).map(|_| ()), Ok(()), "{request} {limit}");
        }
    }
}
