//! Spoilt resources and records: what is accepted can be built, and nothing panics.

use std::collections::BTreeMap;

use dynamo_core::id::NodeId;
use dynamo_core::rebalance;
use dynamo_core::ring::Member;
use dynamo_fuzz::{Expect, Fuzz, unsealed};

use crate::api::DynamoCluster;
use crate::build::{
    client_service, config_map, headless_service, pod_disruption_budget, ring_record, service_account, stateful_set,
};
use crate::observed::{Carrier, Record};
use crate::valid::tests::{cluster, valid};
use crate::valid::{Place, ValidCluster};

fn examples() -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/examples");
    let texts = std::fs::read_dir(folder).unwrap().map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
    let documents: Vec<String> = texts.flat_map(|text| text.split("\n---\n").map(str::to_owned).collect::<Vec<_>>()).collect();
    let mut clusters: Vec<DynamoCluster> = documents.iter().filter_map(|document| serde_yaml::from_str(document).ok()).collect();
    clusters.iter_mut().for_each(|cluster| cluster.metadata.uid = Some("6f9619ff-8b86-d011-b42d-00c04fc964ff".into()));
    clusters.push(cluster(5, &["a", "b"]));
    clusters.iter().map(|cluster| serde_yaml::to_string(cluster).unwrap().into_bytes()).collect()
}

#[test]
fn a_spoilt_cluster_is_refused_or_can_be_built() {
    Fuzz {
        name: "DynamoCluster",
        corpus: examples(),
        seal: &unsealed,
        expect: Expect::Stable,
        decode: &|bytes| {
            let cluster: DynamoCluster = serde_yaml::from_slice(bytes).ok()?;
            let valid = ValidCluster::of(&cluster).ok()?;
            service_account::build(&valid);
            config_map::build(&valid);
            headless_service::build(&valid);
            client_service::build(&valid);
            pod_disruption_budget::build(&valid, 0);
            for zone in valid.zones() {
                stateful_set::build(&valid, zone, zone.replicas);
            }
            assert_eq!(valid.places().count(), valid.replicas() as usize);
            Some(serde_yaml::to_string(&cluster).unwrap().into_bytes())
        },
    }
    .run();
}

#[test]
fn a_spoilt_record_of_volumes_proves_nothing_and_breaks_nothing() {
    let cluster = valid(3, &[]);
    let members = (1..=3).map(|id| (NodeId([id; 16]), Member { zone: "default".into(), weight: 1 })).collect();
    let ring = rebalance::first_ring(cluster.id, 4, 3, &members).unwrap();
    let carrier = |ordinal| Carrier { place: Place { zone: "default".into(), ordinal }, uid: format!("uid-{ordinal}") };
    let volumes: BTreeMap<NodeId, Carrier> = (1..=3).map(|id| (NodeId([id; 16]), carrier(u32::from(id)))).collect();
    let text = |volumes: &BTreeMap<NodeId, Carrier>| {
        ring_record::build(&cluster, &ring.clone().into(), volumes, "", None).data.unwrap().remove("volumes").unwrap()
    };
    Fuzz {
        name: "ring record",
        corpus: vec![text(&volumes).into_bytes()],
        seal: &unsealed,
        expect: Expect::Stable,
        decode: &|bytes| {
            let mut record = ring_record::build(&cluster, &ring.clone().into(), &volumes, "", None);
            let spoilt = std::str::from_utf8(bytes).ok()?.to_owned();
            record.data.as_mut().unwrap().insert("volumes".into(), spoilt);
            match ring_record::read(&cluster, Some(record)) {
                Record::Held { volumes, .. } => Some(text(&volumes).into_bytes()),
                other => panic!("the ring is as it was: {other:?}"),
            }
        },
    }
    .run();
}
