//! Service NAME: where clients find the nodes that are ready.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{PORT_CLIENT, labels, metadata};
use crate::valid::ValidCluster;

/// The Service's name.
pub fn name(cluster: &ValidCluster) -> String {
    cluster.name.clone()
}

/// The Service.
pub fn build(cluster: &ValidCluster) -> Service {
    Service {
        metadata: metadata(cluster, name(cluster)),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            selector: Some(labels::selecting(cluster)),
            ports: Some(vec![ServicePort {
                name: Some("client".to_owned()),
                port: PORT_CLIENT,
                target_port: Some(IntOrString::String("client".to_owned())),
                protocol: Some("TCP".to_owned()),
                app_protocol: Some("kubernetes.io/h2c".to_owned()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}
