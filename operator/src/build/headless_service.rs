//! Service NAME-peers: where a starting node finds the others, ready or not.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{PORT_CLIENT, PORT_HTTP, PORT_PEER, labels, metadata};
use crate::valid::ValidCluster;

/// The Service's name.
pub fn name(cluster: &ValidCluster) -> String {
    format!("{}-peers", cluster.name)
}

/// The Service.
pub fn build(cluster: &ValidCluster) -> Service {
    let port = |name: &str, port| ServicePort {
        name: Some(name.to_owned()),
        port,
        target_port: Some(IntOrString::String(name.to_owned())),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    };
    Service {
        metadata: metadata(cluster, name(cluster)),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            // A node becomes ready by talking to its peers, so it must find them before either is.
            publish_not_ready_addresses: Some(true),
            selector: Some(labels::selecting(cluster)),
            ports: Some(vec![port("client", PORT_CLIENT), port("peer", PORT_PEER), port("http", PORT_HTTP)]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}
