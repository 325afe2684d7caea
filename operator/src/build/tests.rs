//! What the operator creates, as YAML beside `tests/snapshots`, and the promises that YAML alone does not show.

use std::collections::BTreeMap;

use dynamo_core::id::{ClusterId, NodeId};
use dynamo_core::rebalance;
use dynamo_core::rebalance::chain::Chain;
use dynamo_core::ring::Member;
use k8s_openapi::api::core::v1::{ConfigMap, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;

use super::*;
use crate::api::DynamoCluster;
use crate::observed::{Carrier, Record};
use crate::valid::tests::cluster;
use crate::valid::{Place, ValidCluster};

/// A cluster in which every optional field is set.
fn full() -> ValidCluster {
    let mut full: DynamoCluster = cluster(5, &["zone0", "zone1"]);
    full.spec.zones[0].node_selector.insert("topology.kubernetes.io/zone".into(), "zone0".into());
    full.spec.storage = serde_json::from_value(serde_json::json!({
        "size": "20Gi", "storageClassName": "fast", "retention": { "whenDeleted": "Delete", "whenScaled": "Delete" }
    }))
    .unwrap();
    full.spec.resources = serde_json::from_value(serde_json::json!({
        "requests": { "cpu": "500m", "memory": "1Gi" }, "limits": { "memory": "2Gi" }
    }))
    .unwrap();
    full.spec.image_pull_secrets = serde_json::from_value(serde_json::json!([{ "name": "registry" }])).unwrap();
    full.spec.pod = serde_json::from_value(serde_json::json!({
        "labels": { "team": "shop" },
        "annotations": { "example.org/note": "blue" },
        "nodeSelector": { "disk": "ssd", "topology.kubernetes.io/zone": "elsewhere" },
        "tolerations": [{ "key": "dedicated", "operator": "Equal", "value": "storage", "effect": "NoSchedule" }],
        "affinity": { "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [{
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": { "matchLabels": { "dynamokv.io/cluster": "cart" } }
        }] } },
        "priorityClassName": "high"
    }))
    .unwrap();
    full.spec.buckets = serde_json::from_value(serde_json::json!([
        { "name": "sessions", "r": 1, "w": 3, "dw": 1, "reconciliation": "last-writer-wins" },
        { "name": "carts", "pw": 2, "reconciliation": "siblings" },
        { "name": "logs", "w": 1 }
    ]))
    .unwrap();
    full.spec.settings = serde_json::from_value(serde_json::json!({
        "requestTimeoutMs": 2000, "hintAfterMs": 300, "clockSkewMsMax": 250, "reapIntervalMs": 5000,
        "diskReserveBytes": 1_073_741_824, "logLevel": "debug"
    }))
    .unwrap();
    ValidCluster::of(&full).unwrap()
}

fn snapshot(name: &str, object: &impl Serialize) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, serde_yaml::to_string(object).unwrap()));
}

#[test]
fn the_objects_of_a_small_cluster_are_these() {
    let cluster = ValidCluster::of(&cluster(3, &[])).unwrap();
    snapshot("service_account", &service_account::build(&cluster));
    snapshot("config_map", &config_map::build(&cluster));
    snapshot("headless_service", &headless_service::build(&cluster));
    snapshot("client_service", &client_service::build(&cluster));
    snapshot("pod_disruption_budget", &pod_disruption_budget::build(&cluster, 0));
    snapshot("stateful_set", &stateful_set::build(&cluster, &cluster.zones[0], 3));
}

#[test]
fn the_objects_of_a_cluster_with_everything_set_are_these() {
    let cluster = full();
    snapshot("config_map_full", &config_map::build(&cluster));
    snapshot("stateful_set_full", &stateful_set::build(&cluster, &cluster.zones[0], 3));
}

#[test]
fn only_what_a_node_reads_changes_the_pod_template() {
    let template = |cluster: &ValidCluster| stateful_set::build(cluster, &cluster.zones[0], 3).spec.unwrap().template;
    let before = full();
    let mut scaled = before.clone();
    scaled.zones[0].replicas = 9;
    scaled.storage.retention.when_scaled = crate::api::RetentionPolicy::Retain;
    assert_eq!(template(&scaled), template(&before));
    let mut tuned = before.clone();
    tuned.settings.hint_after_ms = Some(100);
    assert_ne!(template(&tuned), template(&before));
}

#[test]
fn another_configuration_has_another_name_and_a_template_names_the_one_that_it_was_made_with() {
    let (cluster, mut tuned) = (full(), full());
    tuned.settings.hint_after_ms = Some(100);
    let mut scaled = cluster.clone();
    (scaled.zones[0].replicas, scaled.image) = (9, "next".into());
    assert_ne!(config_map::name(&tuned), config_map::name(&cluster));
    assert_eq!(config_map::name(&scaled), config_map::name(&cluster));
    let mut template = stateful_set::build(&cluster, &cluster.zones[0], 3).spec.unwrap().template;
    assert_eq!(pod::config_maps(template.spec.as_ref()).collect::<Vec<_>>(), [config_map::name(&cluster)]);
    pod::reading(&mut template, "cart-config");
    assert_eq!(pod::config_maps(template.spec.as_ref()).collect::<Vec<_>>(), ["cart-config"]);
    let of_ours = ["cart-config", "cart-config-0123456789abcdef", &config_map::name(&cluster)];
    assert!(of_ours.iter().all(|name| config_map::is_name(&cluster, name)));
    let of_others =
        ["cart-ring", "cart-config-ring", "cart-config-0123456789abcdeg", "cart-config0123456789abcdef", "cart-configs"];
    assert!(of_others.iter().all(|name| !config_map::is_name(&cluster, name)));
}

/// Kubernetes puts the labels of the template and those of the selector on the claims that it makes.
#[test]
fn no_claim_gets_the_label_by_which_argo_cd_would_delete_it_and_the_selector_selects_the_pods() {
    let cluster = full();
    let set = stateful_set::build(&cluster, &cluster.zones[0], 3).spec.unwrap();
    let selector = set.selector.match_labels.unwrap();
    let claims = set.volume_claim_templates.unwrap().remove(0).metadata.labels.unwrap();
    assert!(!selector.contains_key(labels::INSTANCE) && !claims.contains_key(labels::INSTANCE), "{selector:?} {claims:?}");
    assert_eq!(claims[labels::CLUSTER], cluster.name());
    let pods = set.template.metadata.unwrap().labels.unwrap();
    assert!(selector.iter().all(|(key, value)| pods.get(key) == Some(value)));
    assert!(labels::selecting(&cluster).iter().all(|(key, value)| pods.get(key) == Some(value)), "services find them too");
}

#[test]
fn what_the_spec_says_of_pods_replaces_nothing_of_the_operators_own() {
    let plain = full();
    let template = |cluster: &ValidCluster| stateful_set::build(cluster, &cluster.zones[0], 3).spec.unwrap().template;
    let own = template(&plain);
    // What validation refuses, as if it had been let through: the builder does not rely on it.
    let mut bold = plain.clone();
    let all_labels = labels::with_zone(labels::all(&plain), "zone0");
    bold.pod.labels.extend(all_labels.keys().map(|key| (key.clone(), "the users".to_owned())));
    bold.pod.annotations.insert(labels::CONFIG_HASH.to_owned(), "the users".to_owned());
    assert_eq!(template(&bold).metadata, own.metadata);
    let metadata = own.metadata.unwrap();
    assert!(all_labels.iter().all(|(key, value)| metadata.labels.as_ref().unwrap()[key] == *value));
    assert_eq!(metadata.labels.unwrap()["team"], "shop", "the user's own are there beside them");
    assert_eq!(metadata.annotations.unwrap()["example.org/note"], "blue");
    let spec = own.spec.unwrap();
    assert_eq!(spec.node_selector.unwrap()["topology.kubernetes.io/zone"], "zone0", "the zone's own place");
    assert!(spec.topology_spread_constraints.is_some(), "an affinity of the user's stands beside the operator's spreading");
    assert!(all_labels.keys().all(|key| labels::is_reserved(key)), "what the operator sets is what validation refuses");
    assert!([labels::CONFIG_HASH, labels::NODE].iter().all(|key| key.starts_with(labels::OWN)));
}

#[test]
fn probes_take_no_connection_from_clients() {
    let cluster = full();
    let template = stateful_set::build(&cluster, &cluster.zones[0], 3).spec.unwrap().template;
    let node = template.spec.unwrap().containers.remove(0);
    let asked = |probe: Option<Probe>| {
        let http = probe.unwrap().http_get.unwrap();
        assert_eq!(http.port, IntOrString::Int(PORT_HTTP));
        http.path.unwrap()
    };
    assert_eq!(asked(node.startup_probe), "/healthz/live");
    assert_eq!(asked(node.liveness_probe), "/healthz/live");
    assert_eq!(asked(node.readiness_probe), "/healthz/ready");
}

#[test]
fn a_record_reads_back_and_a_damaged_one_is_not_taken_for_none() {
    let cluster = ValidCluster::of(&cluster(3, &[])).unwrap();
    let members = (1..=3).map(|id| (NodeId([id; 16]), Member { zone: "default".into(), weight: 1 })).collect();
    let ring = rebalance::first_ring(cluster.id, 4, 3, &members).unwrap();
    let place = Place { zone: "default".into(), ordinal: 2 };
    let volumes = BTreeMap::from([(NodeId([3; 16]), Carrier { place, uid: "a-uid".into() })]);
    let record = ring_record::build(&cluster, &ring.clone().into(), &volumes, "first ring", Some("41"));
    assert_eq!(record.data.as_ref().unwrap()["epoch"], "1");
    assert_eq!(ring_record::read(&cluster, None), Record::Absent);
    match ring_record::read(&cluster, Some(record.clone())) {
        Record::Held { rings, hash, resource_version, volumes: carriers } => {
            assert_eq!((*rings, hash, resource_version.as_str()), (ring.clone().into(), ring.hash(), "41"));
            assert_eq!(carriers, volumes);
        }
        other => panic!("{other:?}"),
    }
    let unreadable = |record: ConfigMap| matches!(ring_record::read(&cluster, Some(record)), Record::Unreadable(_));
    let mut older = record.clone();
    older.data.as_mut().unwrap().insert("volumes".into(), "half a line\n".into());
    assert_eq!(ring_record::read(&cluster, Some(older)).volumes(), BTreeMap::new(), "what cannot be read proves nothing");
    let mut damaged = record.clone();
    damaged.binary_data.as_mut().unwrap().get_mut("ring").unwrap().0[20] ^= 1;
    assert!(unreadable(damaged));
    assert!(unreadable(ConfigMap { binary_data: None, ..record }));
    let mut foreign = ring;
    foreign.cluster = ClusterId([9; 16]);
    assert!(unreadable(ring_record::build(&cluster, &foreign.into(), &volumes, "", None)));
}

#[test]
fn a_ring_that_a_member_may_need_first_stands_in_the_record_under_its_epoch() {
    let cluster = ValidCluster::of(&cluster(3, &[])).unwrap();
    let members = (1..=3).map(|id| (NodeId([id; 16]), Member { zone: "default".into(), weight: 1 })).collect();
    let first = rebalance::first_ring(cluster.id, 4, 3, &members).unwrap();
    let second = first.successor(|_| ());
    let rings = Chain::read(vec![first.clone()], second.clone());
    let record = ring_record::build(&cluster, &rings, &BTreeMap::new(), "", None);
    let keys: Vec<_> = record.binary_data.as_ref().unwrap().keys().cloned().collect();
    assert_eq!((keys, record.data.as_ref().unwrap()["epoch"].as_str()), (vec!["ring".to_owned(), "ring-1".to_owned()], "2"));
    let read = |record: ConfigMap| ring_record::read(&cluster, Some(record)).rings().cloned().unwrap();
    assert_eq!(read(record.clone()), rings);
    let mut damaged = record;
    damaged.binary_data.as_mut().unwrap().get_mut("ring-1").unwrap().0[20] ^= 1;
    assert_eq!(read(damaged), second.into(), "as good as not there");
}
