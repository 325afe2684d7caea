//! The pod of a node: restricted (no root, no capabilities, a read-only root file system), probed over HTTP.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, Lifecycle,
    LifecycleHandler, LocalObjectReference, ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
    ResourceRequirements, SeccompProfile, SecurityContext, SleepAction, TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{PORT_CLIENT, PORT_HTTP, PORT_PEER, config_map, labels, service_account};
use crate::api::{ImagePullPolicy, Resources};
use crate::valid::{ValidCluster, Zone};

/// The volume with the node's data; claims are named after it.
pub const DATA_VOLUME: &str = "data";
/// The node's own container; whoever adds others to the pod names them otherwise.
pub const CONTAINER: &str = "node";
const CONFIG_VOLUME: &str = "config";
const CONFIG_DIR: &str = "/etc/dynamokv";
/// The user and group of the image.
const USER: i64 = 65532;
/// For the preStop hook, requests that are under way, and the close of the node's store.
const GRACE_SECONDS: i64 = 60;
/// A pod that goes serves on until every kube-proxy has heard that no new connection should come to it.
const PRE_STOP_SECONDS: i64 = 3;
/// A store that was not closed replays its log before it answers; 10 minutes are enough for any log.
const START_SECONDS_MAX: i32 = 600;

/// Whether the process answers, and whether clients should come.
const LIVE: &str = "/healthz/live";
const READY: &str = "/healthz/ready";

/// The template of `zone`'s pods.
pub fn template(cluster: &ValidCluster, zone: &Zone) -> PodTemplateSpec {
    // The later entry of two counts: nothing in the spec replaces what the operator's objects are found by, nor a zone's place.
    let mut all_labels = cluster.pod.labels.clone();
    all_labels.extend(labels::with_zone(labels::all(cluster), &zone.name));
    let mut annotations = cluster.pod.annotations.clone();
    annotations.insert(labels::CONFIG_HASH.to_owned(), config_map::hash(cluster));
    let mut node_selector = cluster.pod.node_selector.clone();
    node_selector.extend(zone.node_selector.clone());
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(all_labels), annotations: Some(annotations), ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            service_account_name: Some(service_account::name(cluster)),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(GRACE_SECONDS),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(USER),
                run_as_group: Some(USER),
                fs_group: Some(USER),
                fs_group_change_policy: Some("OnRootMismatch".to_owned()),
                seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }),
                ..PodSecurityContext::default()
            }),
            image_pull_secrets: pull_secrets(cluster),
            priority_class_name: cluster.pod.priority_class_name.clone(),
            node_selector: Some(node_selector).filter(|labels| !labels.is_empty()),
            tolerations: Some(cluster.pod.tolerations.clone()).filter(|tolerations| !tolerations.is_empty()),
            affinity: cluster.pod.affinity.clone(),
            topology_spread_constraints: Some(spread(cluster)),
            containers: vec![container(cluster, zone)],
            volumes: Some(vec![Volume {
                name: CONFIG_VOLUME.to_owned(),
                config_map: Some(ConfigMapVolumeSource { name: config_map::name(cluster), ..ConfigMapVolumeSource::default() }),
                ..Volume::default()
            }]),
            ..PodSpec::default()
        }),
    }
}

/// The ConfigMaps that pods with this spec mount.
pub fn config_maps(spec: Option<&PodSpec>) -> impl Iterator<Item = &str> {
    let volumes = spec.and_then(|spec| spec.volumes.as_ref()).into_iter().flatten();
    volumes.filter_map(|volume| Some(volume.config_map.as_ref()?.name.as_str()))
}

/// `template` with the configuration in the ConfigMap `name`.
pub fn reading(template: &mut PodTemplateSpec, name: &str) {
    let volumes = template.spec.iter_mut().filter_map(|spec| spec.volumes.as_mut()).flatten();
    let of_configuration = volumes.filter(|volume| volume.name == CONFIG_VOLUME).filter_map(|volume| volume.config_map.as_mut());
    of_configuration.for_each(|source| name.clone_into(&mut source.name));
}

/// Two nodes on one machine, or in one zone, fail together; better there, though, than not at all.
fn spread(cluster: &ValidCluster) -> Vec<TopologySpreadConstraint> {
    let constraint = |topology_key: &str| TopologySpreadConstraint {
        max_skew: 1,
        topology_key: topology_key.to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(labels::selector(cluster)),
        ..TopologySpreadConstraint::default()
    };
    let keys: &[&str] =
        if cluster.zoned { &["kubernetes.io/hostname"] } else { &["kubernetes.io/hostname", "topology.kubernetes.io/zone"] };
    keys.iter().map(|key| constraint(key)).collect()
}

fn container(cluster: &ValidCluster, zone: &Zone) -> Container {
    let port = |name: &str, container_port| ContainerPort {
        name: Some(name.to_owned()),
        container_port,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    Container {
        name: CONTAINER.to_owned(),
        image: Some(cluster.image.clone()),
        image_pull_policy: Some(pull_policy(cluster.image_pull_policy).to_owned()),
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                sleep: Some(SleepAction { seconds: PRE_STOP_SECONDS }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        command: Some(vec!["/usr/bin/dynamo-node".to_owned()]),
        args: Some(vec!["--config".to_owned(), format!("{CONFIG_DIR}/{}", config_map::FILE)]),
        env: Some(vec![
            from_field("POD_NAME", "metadata.name"),
            from_field("DYNAMO_ADVERTISE_HOST", "status.podIP"),
            EnvVar { name: "DYNAMO_ZONE".to_owned(), value: Some(zone.name.clone()), ..EnvVar::default() },
        ]),
        ports: Some(vec![port("client", PORT_CLIENT), port("peer", PORT_PEER), port("http", PORT_HTTP)]),
        startup_probe: Some(Probe { failure_threshold: Some(START_SECONDS_MAX / 2), ..probe(LIVE, 2) }),
        readiness_probe: Some(Probe { failure_threshold: Some(2), ..probe(READY, 2) }),
        // It only asks whether the process lives, never about peers: a restart would not help them.
        liveness_probe: Some(Probe { failure_threshold: Some(6), ..probe(LIVE, 10) }),
        resources: cluster.resources.as_ref().map(resources),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![mount(DATA_VOLUME, config_map::DATA_DIR, false), mount(CONFIG_VOLUME, CONFIG_DIR, true)]),
        ..Container::default()
    }
}

fn from_field(name: &str, field_path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { field_path: field_path.to_owned(), api_version: Some("v1".to_owned()) }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

/// On the HTTP port, which has connections of its own: a crowd of clients that takes all that their port may have makes no node look dead.
fn probe(path: &str, period_seconds: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(PORT_HTTP),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(5),
        ..Probe::default()
    }
}

fn pull_secrets(cluster: &ValidCluster) -> Option<Vec<LocalObjectReference>> {
    let secrets = cluster.image_pull_secrets.iter().map(|secret| LocalObjectReference { name: secret.name.clone() });
    Some(secrets.collect()).filter(|secrets: &Vec<_>| !secrets.is_empty())
}

fn pull_policy(policy: ImagePullPolicy) -> &'static str {
    match policy {
        ImagePullPolicy::Always => "Always",
        ImagePullPolicy::IfNotPresent => "IfNotPresent",
        ImagePullPolicy::Never => "Never",
    }
}

fn resources(resources: &Resources) -> ResourceRequirements {
    let present = |amounts: &BTreeMap<_, _>| (!amounts.is_empty()).then(|| amounts.clone());
    ResourceRequirements {
        requests: present(&resources.requests),
        limits: present(&resources.limits),
        ..ResourceRequirements::default()
    }
}
