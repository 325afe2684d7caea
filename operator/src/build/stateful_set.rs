//! StatefulSet NAME, or NAME-ZONE for each zone: the pods and their volumes.
//!
//! How many pods it runs is a parameter: the planner's word, never the spec's. Kubernetes never deletes a volume of its own accord:
//! a set cannot tell a drained node's volume from another, nor its own from those of a former cluster of the same name. The
//! operator can, and does it where the spec says so.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec,
    StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::{headless_service, labels, metadata, pod};
use crate::valid::{ValidCluster, Zone};

/// The StatefulSet of `zone`, running `replicas` pods. Claim templates cannot change: a set keeps those that it was made with
/// ([`claim_size`]), and the operator grows the claims themselves.
pub fn build(cluster: &ValidCluster, zone: &Zone, replicas: u32) -> StatefulSet {
    let mut metadata = metadata(cluster, cluster.set_name(&zone.name));
    metadata.labels = Some(labels::with_zone(labels::all(cluster), &zone.name));
    StatefulSet {
        metadata,
        spec: Some(StatefulSetSpec {
            service_name: Some(headless_service::name(cluster)),
            replicas: i32::try_from(replicas).ok(),
            selector: LabelSelector { match_labels: Some(labels::selecting_in(cluster, &zone.name)), ..LabelSelector::default() },
            // Nodes start together: the first ring needs all of them, and none needs another to start.
            pod_management_policy: Some("Parallel".to_owned()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateStatefulSetStrategy {
                    partition: Some(0),
                    ..RollingUpdateStatefulSetStrategy::default()
                }),
            }),
            persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                when_deleted: Some("Retain".to_owned()),
                when_scaled: Some("Retain".to_owned()),
            }),
            revision_history_limit: Some(3),
            template: pod::template(cluster, zone),
            volume_claim_templates: Some(vec![claim(cluster, zone)]),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

/// The size of the claims that `set` makes: the one that was asked for when the set was made.
pub fn claim_size(set: &StatefulSet) -> Option<&str> {
    let templates = set.spec.as_ref()?.volume_claim_templates.as_ref()?;
    let spec = templates.iter().find(|claim| claim.metadata.name.as_deref() == Some(pod::DATA_VOLUME))?.spec.as_ref()?;
    spec.resources.as_ref()?.requests.as_ref()?.get("storage").map(|size| size.0.as_str())
}

fn claim(cluster: &ValidCluster, zone: &Zone) -> PersistentVolumeClaim {
    let size = Quantity(cluster.storage.size.clone());
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(pod::DATA_VOLUME.to_owned()),
            labels: Some(labels::of_claims(cluster, &zone.name)),
            annotations: Some(BTreeMap::from([(labels::CLUSTER_UID.to_owned(), cluster.data_uid.clone())])),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: cluster.storage.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), size)])),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}
