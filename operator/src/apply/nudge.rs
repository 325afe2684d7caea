//! Writing to StatefulSets for no other reason than to wake their controller, as [`crate::plan::nudge`] has it.

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::Patch;
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::upkeep::Upkeep;
use super::{failed, patching};
use crate::build::labels;
use crate::observed::Observed;
use crate::plan::nudge::{self, Nudge};
use crate::valid::ValidCluster;

/// Nudges the sets that are to be, unless this pass has written to them already. Somebody who was faster has woken their controller.
pub(super) async fn write(client: &Client, cluster: &ValidCluster, observed: &Observed, done: &mut Upkeep) {
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), &cluster.namespace);
    for zone in cluster.zones() {
        let wanted = nudge::of(observed, &zone.name).filter(|_| !done.versions.contains_key(&zone.name));
        let (Some(set), Some(nudge)) = (observed.sets.get(&zone.name), wanted) else { continue };
        let name = cluster.set_name(&zone.name);
        let (note, what) = match nudge {
            Nudge::Wake(time) => (json!(time.to_string()), format!("StatefulSet {name}: nudge")),
            Nudge::Forget => (json!(null), format!("StatefulSet {name}: nudged no more")),
        };
        let annotations = json!({ labels::NUDGED: note });
        let patch =
            json!({ "metadata": { "uid": set.uid, "resourceVersion": set.resource_version, "annotations": annotations } });
        match sets.patch(&name, &patching(), &Patch::Merge(patch)).await {
            Ok(written) => {
                done.note_version(&zone.name, written.resource_version());
                done.written.push(what);
            }
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => {}
            Err(error) => done.failures.push(failed(what)(error)),
        }
    }
}
