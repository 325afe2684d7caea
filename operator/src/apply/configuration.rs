//! Writing the ConfigMaps with the nodes' configuration: the one that is asked for is made, and those that nobody reads go.

#[cfg(test)]
mod tests;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Patch;
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::upkeep::Upkeep;
use super::{ApplyError, failed, guarded_delete, patching};
use crate::build::{config_map, labels};
use crate::observed::Observed;
use crate::plan::configuration;
use crate::valid::ValidCluster;

/// The ConfigMap that is asked for, with its number: the later it was asked for, the higher.
pub(super) fn wanted(cluster: &ValidCluster, observed: &Observed) -> ConfigMap {
    let mut wanted =
        if observed.keeps_former_configuration { config_map::build_former(cluster) } else { config_map::build(cluster) };
    let number = configuration::number(cluster, observed);
    if number > 0 {
        wanted.annotations_mut().insert(labels::CONFIG_NUMBER.to_owned(), number.to_string());
    }
    wanted
}

/// Marks those that nobody reads, and deletes those that were marked in an earlier pass; each as it was seen, or not at all. One that cannot
/// be deleted is in nobody's way.
pub(super) async fn delete_unused(client: &Client, cluster: &ValidCluster, observed: &Observed, done: &mut Upkeep) {
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), &cluster.namespace);
    for (name, seen) in configuration::unused(cluster, observed) {
        let written = if seen.released {
            config_maps.delete(name, &guarded_delete(&seen.uid, &seen.resource_version)).await.map(drop)
        } else {
            let patch = json!({ "metadata": {
                "uid": seen.uid,
                "resourceVersion": seen.resource_version,
                "annotations": { labels::RELEASED: seen.number.to_string() },
            } });
            config_maps.patch(name, &patching(), &Patch::Merge(patch)).await.map(drop)
        };
        let what = format!("ConfigMap {name}");
        match written.map_err(failed(format!("{what}: delete, since nobody reads it any more"))) {
            Ok(()) => done.written.push(what),
            Err(ApplyError::Kubernetes { error, .. }) if is_settled(&error) => {}
            Err(failure) => done.complaints.push(failure.to_string()),
        }
    }
}

/// Somebody was faster; the next look will tell.
fn is_settled(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_conflict() || status.is_not_found())
}
