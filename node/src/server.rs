//! The services that others connect to: they check, hand over to the loop, and hand back.
//!
//! Every limit of a connection that was taken is here: message lengths in both directions, streams, keepalive; what calls hold in all is
//! counted in [`calls`]. What a message may contain is checked in `dynamo-proto`.

pub mod admin;
pub mod calls;
pub mod kv;
pub mod peer;
mod session;

use std::time::Duration;

use dynamo_core::id::ClusterId;
use dynamo_core::request::Failure;
use dynamo_proto::kv::status;
use dynamo_proto::v1::admin_server::AdminServer;
use dynamo_proto::v1::kv_server::KvServer;
use dynamo_proto::v1::peer_server::PeerServer;
use dynamo_proto::{MESSAGE_BYTES_MAX, v1};
use tokio::sync::watch;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic::{Response, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower_layer::{Identity, Stack};

use crate::budget::{Budget, Full};
use crate::connections::Acceptor;
use crate::driver::Closed;
use calls::Calls;

/// The longest message that a client may send: a session's frame of a dozen values of the greatest length.
const REQUEST_BYTES_MAX: usize = 16 << 20;
/// Calls and sessions at the same time on one connection; those beyond wait at the client.
const STREAMS_MAX: u32 = 256;
/// A peer needs one, and a second when it dials anew.
const PEER_STREAMS_MAX: u32 = 8;
/// Headers of one call: gRPC's own and the cluster's name.
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// Pings on a silent connection; one that answers none is closed.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The names under which health is asked for: the process as a whole (is it alive?), and the client service (does it serve?).
const LIVENESS: &str = "";
const READINESS: &str = "dynamo.v1.Kv";

fn builder(calls: Calls, streams_max: u32) -> Server<Stack<Calls, Identity>> {
    Server::builder()
        .layer(calls)
        .max_concurrent_streams(streams_max)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_header_list_size(HEADER_BYTES_MAX)
}

/// What clients, administrators and tools connect to. Ends gracefully when `stopping` turns true.
pub async fn serve_clients(
    acceptor: Acceptor,
    calls: Calls,
    kv: kv::KvService,
    admin: admin::AdminService,
    ready: watch::Receiver<bool>,
    stopping: watch::Receiver<bool>,
) -> Result<(), tonic::transport::Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let reporting = report_health(reporter, ready);
    let for_own_cluster = kv.for_own_cluster();
    let kv = KvServer::new(kv).max_decoding_message_size(REQUEST_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX);
    let kv = InterceptedService::new(kv, for_own_cluster);
    let admin = AdminServer::new(admin).max_decoding_message_size(REQUEST_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX);
    let calls = calls.of_messages_up_to(REQUEST_BYTES_MAX);
    let router = with_reflection(builder(calls, STREAMS_MAX).add_service(kv).add_service(admin).add_service(health));
    let serving = router.serve_with_incoming_shutdown(acceptor.incoming(), wait_for(stopping));
    tokio::select! {
        served = serving => served,
        never = reporting => match never {},
    }
}

/// What peers connect to. Ends gracefully when `stopping` turns true.
pub async fn serve_peers(
    acceptor: Acceptor,
    calls: Calls,
    peer: peer::PeerService,
    stopping: watch::Receiver<bool>,
) -> Result<(), tonic::transport::Error> {
    let peer = PeerServer::new(peer).max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX);
    builder(calls, PEER_STREAMS_MAX).add_service(peer).serve_with_incoming_shutdown(acceptor.incoming(), wait_for(stopping)).await
}

/// Both versions of the reflection protocol: older tools only know the first. It names what is served here, and not what peers speak.
fn with_reflection<L>(router: Router<L>) -> Router<L> {
    let configure = || {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(dynamo_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        [v1::kv_server::SERVICE_NAME, v1::admin_server::SERVICE_NAME, tonic_health::pb::health_server::SERVICE_NAME]
            .into_iter()
            .fold(builder, tonic_reflection::server::Builder::with_service_name)
    };
    match (configure().build_v1(), configure().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => router.add_service(v1).add_service(v1alpha),
        (v1, _) => {
            // The descriptors are compiled in; a test asks for them.
            tracing::error!(error = ?v1.err(), "no reflection: the compiled .proto files do not decode");
            router
        }
    }
}

async fn report_health(reporter: HealthReporter, mut ready: watch::Receiver<bool>) -> std::convert::Infallible {
    // The process lives as long as it answers: restarting a node because its peers are away would bring nobody back.
    reporter.set_service_status(LIVENESS, ServingStatus::Serving).await;
    loop {
        let status = if *ready.borrow_and_update() { ServingStatus::Serving } else { ServingStatus::NotServing };
        reporter.set_service_status(READINESS, status).await;
        if ready.changed().await.is_err() {
            reporter.set_service_status(READINESS, ServingStatus::NotServing).await;
            std::future::pending::<()>().await;
        }
    }
}

/// Completes when `flag` is true, or nobody can make it so any more.
pub async fn wait_for(mut flag: watch::Receiver<bool>) {
    // An error says that the sender is gone, and with it the node.
    let _ = flag.wait_for(|flag| *flag).await;
}

/// An answer to a call that changes nothing: it may be refused when too many wait to be read.
fn answer<M: prost::Message>(answers: &Budget, message: M) -> Result<Response<M>, Status> {
    answers.has_room(message.encoded_len()).map_err(overloaded)?;
    Ok(Response::new(message))
}

/// Nothing of the call was handed over.
fn overloaded(full: Full) -> Status {
    status(Failure::Overloaded(full.to_string()).into())
}

/// It was not handed over.
fn stopping(_: Closed) -> Status {
    status(Failure::NotServing("the node is stopping".to_owned()).into())
}

/// The ring and the addresses of its members, without the ring if the asker has it.
fn topology_response(cluster: ClusterId, (ring, members): crate::driver::Topology, known_epoch: u64) -> v1::TopologyResponse {
    let member = |(node, (address, suspected)): (dynamo_core::id::NodeId, (dynamo_core::node::Address, bool))| {
        v1::MemberAddress { node: bytes::Bytes::copy_from_slice(&node.0), client_address: address.client, suspected }
    };
    let epoch = ring.as_ref().map_or(0, |ring| ring.epoch.0);
    let ring = ring.filter(|_| epoch != known_epoch).map(|ring| ring.encode()).unwrap_or_default();
    let cluster = bytes::Bytes::copy_from_slice(&cluster.0);
    v1::TopologyResponse { ring, epoch, members: members.into_iter().map(member).collect(), cluster }
}

#[cfg(test)]
mod tests;
