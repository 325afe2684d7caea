//! From Kubernetes' objects to what the planner knows of them.

use std::collections::BTreeMap;

use dynamo_core::id::NodeId;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, ContainerStatus, PersistentVolumeClaim, PersistentVolumeClaimCondition, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Resource;

use crate::api::DynamoCluster;
use crate::build::pod::{CONTAINER, config_maps};
use crate::build::{PORT_CLIENT, config_map, labels};
use crate::observed::{self, Configuration, Note, Set, Volume};
use crate::valid::{Place, ValidCluster};

/// Kubernetes' label for the template that a pod was made from.
const REVISION: &str = "controller-revision-hash";

/// How long a pod may take to start once it has a machine, and to end once its grace is over.
const PATIENCE: SignedDuration = SignedDuration::from_mins(5);

/// The object of this metadata is controlled by the owner with this UID.
pub fn is_owned(metadata: &ObjectMeta, uid: &str) -> bool {
    metadata.owner_references.iter().flatten().any(|owner| owner.controller == Some(true) && owner.uid == uid)
}

/// The object of this metadata was made for a cluster of this name, and nobody controls it.
pub fn is_ownerless(cluster: &ValidCluster, metadata: &ObjectMeta) -> bool {
    let controlled = metadata.owner_references.iter().flatten().any(|owner| owner.controller == Some(true));
    let labelled = |(key, value): (&String, &String)| metadata.labels.as_ref().and_then(|labels| labels.get(key)) == Some(value);
    !controlled && labels::all(cluster).iter().all(labelled)
}

/// The name of the DynamoCluster that controls the object of this metadata.
pub fn neighbour(metadata: &ObjectMeta) -> Option<String> {
    let owner = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    (owner.kind == DynamoCluster::kind(&())).then(|| owner.name.clone())
}

/// What is to be known of a set.
pub fn set(set: &StatefulSet) -> Set {
    let (spec, status) = (set.spec.as_ref(), set.status.as_ref());
    let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1);
    let seen = status.and_then(|status| status.observed_generation) >= set.metadata.generation;
    let revisions = status.map(|status| (status.current_revision.as_ref(), status.update_revision.as_ref()));
    let replicas = u32::try_from(replicas).unwrap_or(0);
    let strategy = spec.and_then(|spec| spec.update_strategy.as_ref());
    let on_delete = strategy.is_some_and(|strategy| strategy.type_.as_deref() == Some("OnDelete"));
    let partition = strategy.and_then(|strategy| strategy.rolling_update.as_ref()?.partition);
    let updates_from = if on_delete { replicas } else { u32::try_from(partition.unwrap_or(0)).unwrap_or(0) };
    let note = |key: &str| set.metadata.annotations.as_ref().and_then(|notes| notes.get(key));
    Set {
        uid: set.metadata.uid.clone().unwrap_or_default(),
        resource_version: set.metadata.resource_version.clone().unwrap_or_default(),
        replicas,
        // A template that was taken back may still be what pods below that ordinal have.
        rolling: !seen || on_delete || updates_from > 0 || revisions.is_some_and(|(current, update)| current != update),
        updates_from,
        on_delete,
        revision: status.and_then(|status| status.update_revision.clone()).unwrap_or_default(),
        unseen: !seen,
        lowering: note(labels::LOWERING).and_then(|pods| pods.parse().ok()),
        made: status.map_or(0, |status| u32::try_from(status.replicas).unwrap_or(0)),
        // What is no time is long ago.
        nudged: note(labels::NUDGED).map(|time| time.parse().unwrap_or_default()),
    }
}

/// How long a pod has been as it is may say that something is wrong with it.
pub fn starts_or_ends(pod: &Pod) -> bool {
    let pending = pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Pending"));
    pending || pod.metadata.deletion_timestamp.is_some()
}

/// A pod of one of `sets`, as it is at `now`, with its place; `None` for any other pod.
pub fn pod(cluster: &ValidCluster, sets: &BTreeMap<String, Set>, pod: &Pod, now: Timestamp) -> Option<(Place, observed::Pod)> {
    let place = place_of(cluster, pod.metadata.name.as_deref()?, "")?;
    if !is_owned(&pod.metadata, &sets.get(&place.zone)?.uid) {
        return None;
    }
    let status = pod.status.as_ref();
    let host = status.and_then(|status| status.pod_ip.as_deref()).filter(|host| !host.is_empty());
    let conditions = || status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    let readiness = conditions().find(|condition| condition.type_ == "Ready");
    let ready = readiness.is_some_and(|condition| condition.status == "True");
    let unready = readiness.filter(|_| !ready).and_then(|condition| condition.message.clone());
    let unscheduled = conditions().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    let unscheduled = unscheduled.map(|condition| {
        let reason = condition.reason.as_deref().unwrap_or("Pending");
        format!("is not scheduled ({reason}): {}", condition.message.as_deref().unwrap_or_default())
    });
    let going = pod.metadata.deletion_timestamp.is_some();
    let node = node_container(pod);
    // One that runs has all that it needed before: what still fails runs beside it.
    let serves = node.is_some_and(runs);
    let beside = || trouble_beside(pod).filter(|_| serves && !going);
    let before = status.and_then(|status| status.init_container_statuses.as_ref()).into_iter().flatten();
    let broken: Vec<_> = before.filter(|init| !is_done(init)).chain(node).filter(|_| !going && !serves).collect();
    let lacks_image = broken.iter().any(|container| image_trouble(container).is_some());
    let broken = broken.into_iter().find_map(trouble);
    let pending = status.and_then(|status| status.phase.as_deref()) == Some("Pending");
    let observed = observed::Pod {
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        resource_version: pod.metadata.resource_version.clone().unwrap_or_default(),
        address: host.map(address),
        ready: ready && !going,
        stuck: broken.is_some(),
        lacks_image,
        idle: broken.is_some() || (pending && !going && !serves),
        ending: going,
        // One that is to end and ends is in no trouble.
        trouble: unscheduled.filter(|_| !going).or(broken).or_else(beside).or_else(|| hangs(pod, now)),
        unready: unready.filter(|message| !message.is_empty()),
        silence: None,
        revision: pod.metadata.labels.as_ref().and_then(|labels| labels.get(REVISION)).cloned().unwrap_or_default(),
        node: None,
    };
    Some((place, observed))
}

/// What `pod`, which has the name of the one at `place`, keeps the set with this UID from, and what to do about it; `None` if it is the set's.
pub fn stranger(cluster: &ValidCluster, place: &Place, set: &str, pod: &Pod) -> Option<String> {
    if is_owned(&pod.metadata, set) {
        return None;
    }
    let (name, of_set) = (cluster.pod_name(place), cluster.set_name(&place.zone));
    if pod.metadata.deletion_timestamp.is_some() {
        return Some(format!("waits for the end of another pod {name}, which is not of StatefulSet {of_set}"));
    }
    let labels: Vec<String> =
        labels::selecting_in(cluster, &place.zone).into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    Some(format!(
        "has no pod: there is a pod {name} that StatefulSet {of_set} does not own, as when its labels were changed; delete it, and another \
         comes on the same volume, or give it back: `kubectl --namespace {} label pod {name} --overwrite {}`",
        cluster.namespace,
        labels.join(" ")
    ))
}

/// What takes longer than [`PATIENCE`] and says nothing of itself: an end, as on a machine that is dead, or a start, as for want of a
/// volume.
fn hangs(pod: &Pod, now: Timestamp) -> Option<String> {
    let is_late = |since: Option<&Time>| since.is_some_and(|since| now.duration_since(since.0) > PATIENCE);
    if let Some(due) = pod.metadata.deletion_timestamp.as_ref() {
        return is_late(Some(due)).then(|| "does not end; its machine may be dead".to_owned());
    }
    let status = pod.status.as_ref().filter(|status| status.phase.as_deref() == Some("Pending"))?;
    let scheduled = status.conditions.iter().flatten().find(|condition| condition.type_ == "PodScheduled");
    let since = scheduled.and_then(|condition| condition.last_transition_time.as_ref());
    let mut containers = status.init_container_statuses.iter().flatten().chain(node_container(pod));
    let waits = is_late(since) && !containers.any(runs);
    waits.then(|| "does not start; its Events say what it waits for".to_owned())
}

fn address(host: &str) -> String {
    if host.contains(':') { format!("[{host}]:{PORT_CLIENT}") } else { format!("{host}:{PORT_CLIENT}") }
}

/// The container of `pod` that the operator made it for.
fn node_container(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.iter().flatten().find(|container| container.name == CONTAINER)
}

fn runs(container: &ContainerStatus) -> bool {
    container.state.as_ref().is_some_and(|state| state.running.is_some())
}

/// The container has ended as it should: one that makes something ready for the others.
fn is_done(container: &ContainerStatus) -> bool {
    let ended = container.state.as_ref().and_then(|state| state.terminated.as_ref());
    ended.is_some_and(|ended| ended.exit_code == 0)
}

/// What Kubernetes calls it that the container's image is not there.
fn image_trouble(container: &ContainerStatus) -> Option<&str> {
    const OF_IMAGES: [&str; 4] = ["ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"];
    let reason = container.state.as_ref()?.waiting.as_ref()?.reason.as_deref()?;
    OF_IMAGES.contains(&reason).then_some(reason)
}

fn trouble(container: &ContainerStatus) -> Option<String> {
    // What a container waits for that is about to start.
    const STARTING: [&str; 2] = ["ContainerCreating", "PodInitializing"];
    let state = container.state.as_ref()?;
    if let Some(reason) = image_trouble(container) {
        return Some(format!("does not start ({reason}): there is no image {:?} for its machine", container.image));
    }
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().filter(|reason| !STARTING.contains(reason))?;
        let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        let exit = last.map(|last| format!(", exit code {}", last.exit_code)).unwrap_or_default();
        return Some(format!("does not start ({reason}{exit})"));
    }
    let terminated = state.terminated.as_ref()?;
    Some(format!("has stopped with exit code {}", terminated.exit_code))
}

/// What fails beside the node's container: whoever asks the node may not reach it, and the pod is not ready.
fn trouble_beside(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let containers = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let mut others = containers.filter(|container| container.name != CONTAINER && !is_done(container));
    others.find_map(|container| Some(format!("has a container {} that {}", container.name, trouble(container)?)))
}

/// A ConfigMap of the cluster with some configuration, with its name; `None` for any other. `used`: a pod or a template names it.
pub fn configuration(cluster: &ValidCluster, metadata: &ObjectMeta, used: bool) -> Option<(String, Configuration)> {
    let name = metadata.name.clone().filter(|name| config_map::is_name(cluster, name))?;
    if !is_owned(metadata, &cluster.uid) {
        return None;
    }
    let annotation = |key: &str| metadata.annotations.as_ref().and_then(|annotations| annotations.get(key)?.parse().ok());
    let number = annotation(labels::CONFIG_NUMBER).unwrap_or(0);
    let configuration = Configuration {
        uid: metadata.uid.clone().unwrap_or_default(),
        resource_version: metadata.resource_version.clone().unwrap_or_default(),
        number,
        released: annotation(labels::RELEASED) == Some(number),
        used,
    };
    Some((name, configuration))
}

/// What is asked for is what the ConfigMap of earlier versions holds, or what it is to hold by the template of a set.
pub fn keeps_former_configuration<'a>(
    cluster: &ValidCluster,
    former: Option<&ConfigMap>,
    mut sets: impl Iterator<Item = &'a StatefulSet>,
) -> bool {
    let holds = |former: &ConfigMap| is_owned(&former.metadata, &cluster.uid) && config_map::holds_the_file(cluster, former);
    let (name, hash) = (config_map::former_name(cluster), config_map::hash(cluster));
    let is_to_hold = |set: &StatefulSet| {
        let template = set.spec.as_ref().map(|spec| &spec.template);
        let annotations = template.and_then(|template| template.metadata.as_ref()?.annotations.as_ref());
        let has_hash = annotations.is_some_and(|annotations| annotations.get(labels::CONFIG_HASH) == Some(&hash));
        has_hash && config_maps(template.and_then(|template| template.spec.as_ref())).any(|other| other == name)
    };
    former.is_some_and(holds) || sets.any(is_to_hold)
}

/// A claim with its place; `None` for a claim that no place of the cluster uses.
pub fn volume(cluster: &ValidCluster, claim: &PersistentVolumeClaim) -> Option<(Place, Volume)> {
    let metadata = &claim.metadata;
    let place = place_of(cluster, metadata.name.as_deref()?, "data-")?;
    let annotation = |key: &str| metadata.annotations.as_ref().and_then(|annotations| annotations.get(key));
    let label = |key: &str| metadata.labels.as_ref().and_then(|labels| labels.get(key));
    let made_for = annotation(labels::CLUSTER_UID);
    let note = match annotation(labels::NODE).and_then(|node| NodeId::parse(node)) {
        _ if made_for.is_some_and(|uid| *uid != cluster.data_uid) => Note::OtherCluster,
        Some(node) => Note::Node(node),
        None => Note::None,
    };
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()).and_then(|needs| needs.requests.as_ref());
    let size = requests.and_then(|requests| requests.get("storage")).map(|size| size.0.clone());
    let capacity = claim.status.as_ref().and_then(|status| status.capacity.as_ref()?.get("storage"));
    let volume = Volume {
        uid: metadata.uid.clone().unwrap_or_default(),
        resource_version: metadata.resource_version.clone().unwrap_or_default(),
        note,
        ours: made_for == Some(&cluster.data_uid),
        made_for: made_for.cloned().unwrap_or_default(),
        size: size.unwrap_or_default(),
        capacity: capacity.map(|size| size.0.clone()).unwrap_or_default(),
        growth: growth(claim),
        bound: claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound"),
        class: claim.spec.as_ref().and_then(|spec| spec.storage_class_name.clone()).unwrap_or_default(),
        released: annotation(labels::RELEASED).is_some(),
        draining: annotation(labels::DRAINED).is_some_and(|mark| mark == labels::DRAINED_NEXT),
        drained: annotation(labels::DRAINED).is_some_and(|mark| mark == labels::DRAINED_YES),
        deleting: metadata.deletion_timestamp.is_some(),
        unlabelled: note != Note::OtherCluster && label(labels::CLUSTER).map(String::as_str) != Some(cluster.name()),
        tracked: note != Note::OtherCluster && label(labels::INSTANCE).map(String::as_str) == Some(cluster.name()),
    };
    Some((place, volume))
}

/// The name of a claim that carries a node of this cluster, or of the one whose data it goes on with, at a place of other zones. A copy under
/// a name of somebody's own is none.
pub fn misplaced(cluster: &ValidCluster, claim: &PersistentVolumeClaim) -> Option<String> {
    let metadata = &claim.metadata;
    let name = metadata.name.as_deref().filter(|name| is_claim_of(cluster.name(), name))?;
    let annotation = |key: &str| metadata.annotations.as_ref().and_then(|annotations| annotations.get(key));
    let is_noted = annotation(labels::NODE).is_some_and(|node| NodeId::parse(node).is_some());
    let is_ours = is_noted && annotation(labels::CLUSTER_UID) == Some(&cluster.data_uid);
    (is_ours && place_of(cluster, name, "data-").is_none()).then(|| name.to_owned())
}

/// The name of a claim that pods of a cluster of this name use, in whatever zones it may have.
pub fn is_claim_of(cluster: &str, claim: &str) -> bool {
    let rest = claim.strip_prefix("data-").and_then(|rest| rest.strip_prefix(cluster)?.strip_prefix('-'));
    rest.is_some_and(|rest| rest.rsplit('-').next().unwrap_or(rest).parse::<u32>().is_ok())
}

/// Why a volume is not yet as large as its claim asks: Resizing, FileSystemResizePending, ControllerResizeError, NodeResizeError.
fn growth(claim: &PersistentVolumeClaim) -> Option<String> {
    let conditions = claim.status.as_ref()?.conditions.as_ref()?;
    let of_growth = |condition: &&PersistentVolumeClaimCondition| condition.status == "True" && condition.type_.contains("Resiz");
    let told = conditions.iter().filter(of_growth).map(|condition| match condition.message.as_deref().unwrap_or_default() {
        "" => condition.type_.clone(),
        message => format!("{}: {message}", condition.type_),
    });
    let told: Vec<String> = told.collect();
    (!told.is_empty()).then(|| told.join("; "))
}

/// The place that an object's name stands for: PREFIX, the StatefulSet's name, the ordinal.
fn place_of(cluster: &ValidCluster, name: &str, prefix: &str) -> Option<Place> {
    let rest = name.strip_prefix(prefix)?;
    cluster.zones().iter().find_map(|zone| {
        let ordinal = rest.strip_prefix(&cluster.set_name(&zone.name))?.strip_prefix('-')?;
        // "07" is not what a StatefulSet calls its seventh pod.
        let number: u32 = ordinal.parse().ok()?;
        (number.to_string() == ordinal).then(|| Place { zone: zone.name.clone(), ordinal: number })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::valid::tests::valid;

    fn pod_of(status: Value) -> Pod {
        let owner = json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "cart", "uid": "set", "controller": true });
        let metadata = json!({ "name": "cart-1", "ownerReferences": [owner], "labels": { REVISION: "cart-7" } });
        serde_json::from_value(json!({ "metadata": metadata, "status": status })).unwrap()
    }

    /// It is seen at the second 1000.
    fn pod(cluster: &ValidCluster, sets: &BTreeMap<String, Set>, pod: &Pod) -> Option<(Place, observed::Pod)> {
        super::pod(cluster, sets, pod, Timestamp::from_second(1000).unwrap())
    }

    fn sets() -> BTreeMap<String, Set> {
        [("default".to_owned(), Set { uid: "set".into(), ..Set::default() })].into()
    }

    #[test]
    fn names_stand_for_places_and_no_two_for_one() {
        let cluster = valid(3, &["a", "a-1"]);
        let place = |name| place_of(&cluster, name, "").map(|place| place.to_string());
        assert_eq!(place("cart-a-1").as_deref(), Some("a-1"));
        assert_eq!(place("cart-a-1-0").as_deref(), Some("a-1-0"));
        for name in ["cart-a", "cart-a-", "cart-a-x", "cart-a-01", "cart-b-0", "other-a-0"] {
            assert_eq!(place(name), None, "{name}");
        }
    }

    #[test]
    fn a_claim_of_the_cluster_in_a_zone_that_it_has_not_is_misplaced() {
        let cluster = valid(3, &["a"]);
        let is_misplaced = |name: &str, uid: &str, node: &str| {
            let annotations = json!({ labels::CLUSTER_UID: uid, labels::NODE: node });
            let claim = json!({ "metadata": { "name": name, "annotations": annotations } });
            misplaced(&cluster, &serde_json::from_value(claim).unwrap()).is_some()
        };
        let (uid, node) = (cluster.data_uid.as_str(), "00010203-0405-0607-0809-0a0b0c0d0eff");
        for name in ["data-cart-0", "data-cart-b-1", "data-cart-b-c-12"] {
            assert!(is_misplaced(name, uid, node), "{name}");
            assert!(!is_misplaced(name, "another", node) && !is_misplaced(name, uid, ""), "{name}");
        }
        for name in ["data-cart-a-0", "data-cart-a-7", "data-cart-0-copy", "copy-of-data-cart-0", "data-cart-", "data-cart2-0"] {
            assert!(!is_misplaced(name, uid, node), "{name}");
        }
    }

    fn container(name: &str, state: Value) -> Value {
        json!({ "name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state })
    }

    fn waits(reason: &str) -> Value {
        json!({ "waiting": { "reason": reason } })
    }

    fn ended(code: i32) -> Value {
        json!({ "terminated": { "exitCode": code } })
    }

    #[test]
    fn a_pod_says_why_it_does_not_run() {
        let cases = [
            (json!({}), None),
            (
                json!({ "phase": "Pending", "conditions": [
                    { "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes" }
                ] }),
                Some("is not scheduled (Unschedulable): 0/3 nodes"),
            ),
            (
                json!({ "containerStatuses": [{
                    "name": "node", "image": "", "imageID": "", "ready": false, "restartCount": 4,
                    "state": { "waiting": { "reason": "CrashLoopBackOff" } },
                    "lastState": { "terminated": { "exitCode": 3 } }
                }] }),
                Some("does not start (CrashLoopBackOff, exit code 3)"),
            ),
        ];
        for (status, trouble) in cases {
            let (place, pod) = pod(&valid(3, &[]), &sets(), &pod_of(status)).unwrap();
            assert_eq!((place.ordinal, pod.trouble.as_deref(), pod.ready), (1, trouble, false));
            assert_eq!(pod.idle, trouble.is_some(), "without a status nothing is known");
        }
        let cases = [
            (vec![], container("node", waits("ContainerCreating")), None),
            (vec![container("early", json!({ "running": {} }))], container("node", waits("PodInitializing")), None),
            (vec![container("early", ended(0))], container("node", json!({ "running": {} })), None),
            (
                vec![container("early", waits("CrashLoopBackOff"))],
                container("node", waits("PodInitializing")),
                Some("does not start (CrashLoopBackOff)"),
            ),
            (
                vec![],
                container("node", waits("ImagePullBackOff")),
                Some("does not start (ImagePullBackOff): there is no image \"\" for its machine"),
            ),
            (vec![], container("injected", waits("CrashLoopBackOff")), None),
            (vec![], container("node", ended(137)), Some("has stopped with exit code 137")),
        ];
        for (before, container, trouble) in cases {
            let status = json!({ "phase": "Running", "initContainerStatuses": before, "containerStatuses": [container] });
            let (_, pod) = pod(&valid(3, &[]), &sets(), &pod_of(status)).unwrap();
            assert_eq!((pod.trouble.as_deref(), pod.stuck), (trouble, trouble.is_some()), "{container}");
            assert_eq!(pod.idle, trouble.is_some(), "{container}");
            assert_eq!(pod.lacks_image, trouble.is_some_and(|trouble| trouble.contains("no image")), "{container}");
        }
        let running = json!({ "phase": "Running", "podIP": "fd00::7", "conditions": [{ "type": "Ready", "status": "True" }] });
        let (_, running) = pod(&valid(3, &[]), &sets(), &pod_of(running)).unwrap();
        assert_eq!((running.address.as_deref(), running.ready, running.idle), (Some("[fd00::7]:7400"), true, false));
        assert_eq!(running.revision, "cart-7");
    }

    /// Else a pod whose node is not reached for it, or that is not ready, would be waited for without a word.
    #[test]
    fn what_fails_beside_a_node_that_runs_is_told_and_nothing_lacks_a_template() {
        let crashes = "has a container proxy that does not start (CrashLoopBackOff)";
        let lacks_image = "has a container proxy that does not start (ImagePullBackOff): there is no image \"\" for its machine";
        let beside = [
            (waits("CrashLoopBackOff"), Some(crashes)),
            (waits("ImagePullBackOff"), Some(lacks_image)),
            (ended(1), Some("has a container proxy that has stopped with exit code 1")),
            (ended(0), None),
            (waits("PodInitializing"), None),
            (json!({ "running": {} }), None),
        ];
        for (state, trouble) in beside {
            let [proxy, node] = [container("proxy", state), container("node", json!({ "running": {} }))];
            // Kubernetes may call a pod pending for a container beside the node.
            for status in [
                json!({ "phase": "Running", "initContainerStatuses": [proxy], "containerStatuses": [node] }),
                json!({ "phase": "Pending", "initContainerStatuses": [proxy], "containerStatuses": [node] }),
                json!({ "phase": "Running", "containerStatuses": [proxy, node] }),
            ] {
                let mut object = pod_of(status);
                let (_, beside) = pod(&valid(3, &[]), &sets(), &object).unwrap();
                assert_eq!(beside.trouble.as_deref(), trouble, "{proxy}");
                assert_eq!((beside.stuck, beside.idle, beside.lacks_image), (false, false, false), "{proxy}: the node runs");
                object.metadata.deletion_timestamp = Some(Time(Timestamp::from_second(1000).unwrap()));
                let (_, going) = pod(&valid(3, &[]), &sets(), &object).unwrap();
                assert_eq!(going.trouble, None, "it is to end");
            }
        }
        let message = "containers with unready status: [proxy]";
        for (status, message, why) in [("False", message, Some(message)), ("False", "", None), ("True", "", None)] {
            let condition = json!({ "type": "Ready", "status": status, "message": message });
            let (_, pod) = pod(&valid(3, &[]), &sets(), &pod_of(json!({ "conditions": [condition] }))).unwrap();
            assert_eq!(pod.unready.as_deref(), why);
        }
    }

    #[test]
    fn a_pod_that_starts_or_ends_for_too_long_is_in_trouble() {
        let time = |second: i64| json!(Timestamp::from_second(second).unwrap().to_string());
        let trouble = |object: &Pod| {
            let (_, pod) = pod(&valid(3, &[]), &sets(), object).unwrap();
            assert!(!pod.stuck);
            pod.trouble
        };
        let starting = |since: i64, init: Value| {
            let scheduled = json!({ "type": "PodScheduled", "status": "True", "lastTransitionTime": time(since) });
            pod_of(json!({ "phase": "Pending", "conditions": [scheduled], "initContainerStatuses": init }))
        };
        assert_eq!(trouble(&starting(700, json!([]))), None);
        assert_eq!(trouble(&starting(699, json!([]))).as_deref(), Some("does not start; its Events say what it waits for"));
        let prepares = json!({
            "name": "early", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": { "running": {} }
        });
        assert_eq!(trouble(&starting(0, json!([prepares]))), None, "something runs");
        let mut ending = pod_of(json!({ "phase": "Running" }));
        for (due, late) in [(700, None), (699, Some("does not end; its machine may be dead"))] {
            ending.metadata.deletion_timestamp = Some(Time(Timestamp::from_second(due).unwrap()));
            assert_eq!(trouble(&ending).as_deref(), late);
        }
    }

    #[test]
    fn a_pod_of_another_owner_is_none_of_ours() {
        let stranger = [("default".to_owned(), Set { uid: "another".into(), ..Set::default() })].into();
        assert_eq!(pod(&valid(3, &[]), &stranger, &pod_of(json!({}))), None);
    }

    #[test]
    fn a_volume_of_a_former_cluster_of_the_same_name_is_not_taken_for_ours() {
        let cluster = valid(3, &[]);
        let claim = |annotations: Value| -> PersistentVolumeClaim {
            serde_json::from_value(json!({ "metadata": { "name": "data-cart-0", "annotations": annotations } })).unwrap()
        };
        let node = "00010203-0405-0607-0809-0a0b0c0d0eff";
        let cases = [
            (json!({}), Note::None, false),
            (json!({ labels::CLUSTER_UID: cluster.uid }), Note::None, true),
            (json!({ labels::CLUSTER_UID: cluster.uid, labels::NODE: node }), Note::Node(NodeId::parse(node).unwrap()), true),
            (
                json!({ labels::CLUSTER_UID: "11112222-3333-4444-5555-666677778888", labels::NODE: node }),
                Note::OtherCluster,
                false,
            ),
        ];
        for (annotations, note, ours) in cases {
            let (_, volume) = volume(&cluster, &claim(annotations)).unwrap();
            assert_eq!((volume.note, volume.ours), (note, ours));
        }
    }

    #[test]
    fn a_claim_is_found_by_the_clusters_label_alone_and_tracked_by_that_of_argo_cd() {
        let cluster = valid(3, &[]);
        let claim = |labels: Value| -> Volume {
            let claim = serde_json::from_value(json!({ "metadata": { "name": "data-cart-0", "labels": labels } })).unwrap();
            volume(&cluster, &claim).unwrap().1
        };
        for (labels, unlabelled, tracked) in [
            (json!({ labels::CLUSTER: "cart" }), false, false),
            (json!({ labels::CLUSTER: "cart", labels::INSTANCE: "cart" }), false, true),
            (json!({ labels::CLUSTER: "cart", labels::INSTANCE: "somebody's" }), false, false),
            (json!({ labels::CLUSTER: "other" }), true, false),
            (json!({}), true, false),
        ] {
            let volume = claim(labels.clone());
            assert_eq!((volume.unlabelled, volume.tracked), (unlabelled, tracked), "{labels}");
        }
    }

    #[test]
    fn a_volume_has_what_its_status_says_and_not_what_its_claim_asks_for() {
        let claim = |status: Value| -> PersistentVolumeClaim {
            let spec = json!({ "resources": { "requests": { "storage": "20Gi" } } });
            serde_json::from_value(json!({ "metadata": { "name": "data-cart-0" }, "spec": spec, "status": status })).unwrap()
        };
        let condition = |type_: &str, status: &str, message: &str| json!({ "type": type_, "status": status, "message": message });
        let cases = [
            (json!({ "phase": "Pending" }), "", None),
            (json!({ "capacity": { "storage": "20Gi" } }), "20Gi", None),
            (
                json!({ "capacity": { "storage": "10Gi" }, "conditions": [
                    condition("Resizing", "False", ""), condition("ModifyingVolume", "True", ""),
                    condition("FileSystemResizePending", "True", "waits for the pod to restart"),
                ] }),
                "10Gi",
                Some("FileSystemResizePending: waits for the pod to restart"),
            ),
        ];
        for (status, capacity, growth) in cases {
            let (_, volume) = volume(&valid(3, &[]), &claim(status)).unwrap();
            assert_eq!((volume.size.as_str(), volume.capacity.as_str(), volume.growth.as_deref()), ("20Gi", capacity, growth));
        }
    }

    #[test]
    fn a_set_rolls_until_the_controller_has_seen_the_template_and_all_pods_have_it() {
        let rolling = |generation: i64, seen: i64, current: &str, update: &str, from: u32| {
            let status = json!({
                "replicas": 3, "observedGeneration": seen, "currentRevision": current, "updateRevision": update
            });
            let strategy = json!({ "rollingUpdate": { "partition": from } });
            let spec = json!({ "serviceName": "", "selector": {}, "template": {}, "updateStrategy": strategy });
            let object = json!({ "metadata": { "generation": generation }, "spec": spec, "status": status });
            let set = set(&serde_json::from_value(object).unwrap());
            assert_eq!((set.updates_from, set.revision.as_str(), set.made), (from, update, 3));
            set.rolling
        };
        assert!(!rolling(2, 2, "a", "a", 0));
        assert!(rolling(2, 1, "a", "a", 0));
        assert!(rolling(2, 2, "a", "b", 0));
        assert!(rolling(2, 2, "a", "a", 2));
        let spec =
            json!({ "serviceName": "", "selector": {}, "template": {}, "replicas": 3, "updateStrategy": { "type": "OnDelete" } });
        let on_delete = set(&serde_json::from_value(json!({ "metadata": {}, "spec": spec })).unwrap());
        assert_eq!(
            (on_delete.rolling, on_delete.on_delete, on_delete.updates_from),
            (true, true, 3),
            "no pod is told to restart"
        );
    }
}
