//! One node: what it answers, what it refuses, what it keeps.

use std::net::SocketAddr;

use dynamo_core::request::Failure;
use dynamo_node::config::Flags;
use dynamo_proto::codec::BoundedCodec;
use dynamo_proto::v1::admin_client::AdminClient;
use dynamo_proto::v1::kv_client::KvClient;
use dynamo_proto::{kv, v1};
use prost::Message as _;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{CLUSTER, PATIENCE, TestCluster, TestNode, flags, get, put, until, values};

#[tokio::test]
async fn a_node_stands_by_without_a_ring_and_says_so() {
    let dir = TempDir::new().unwrap();
    let node = TestNode::start(flags(dir.path(), Vec::new())).unwrap();
    until("it is ready", || async { node.status().await.ready }).await;
    let refusal = node.kv().await.get(get("k")).await.unwrap_err();
    assert_eq!(refusal.code(), Code::Unavailable);
    assert_eq!(kv::failure(&refusal), Some(Failure::NoRing));
    let status = node.status().await;
    assert_eq!((status.epoch, status.ring_hash.len(), status.partitions), (0, 0, 0));
    assert_eq!(status.cluster.len(), 16);
    assert_eq!(status.client_address, node.listen.client.to_string());
    let topology = node.kv().await.topology(v1::TopologyRequest { known_epoch: 0 }).await.unwrap().into_inner();
    assert_eq!((topology.epoch, topology.ring.len(), topology.members.len()), (0, 0, 1));
    assert_eq!(topology.cluster, status.cluster);
    let digests = node.admin().await.partition_digests(v1::PartitionDigestsRequest::default()).await.unwrap_err();
    assert_eq!(digests.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn nodes_with_ipv6_alone_are_reached_and_find_each_other() {
    if let Err(error) = std::net::TcpListener::bind("[::1]:0") {
        eprintln!("SKIPPED: this machine has no IPv6: {error}");
        return;
    }
    let start = |dir: &TempDir, seeds| {
        // As in a pod: the file says every address, the environment says which one is dialled.
        let any = || Some("0.0.0.0:0".to_owned());
        let listen =
            Flags { advertise_host: Some("::1".into()), listen_client: any(), listen_peer: any(), ..flags(dir.path(), seeds) };
        TestNode::start(listen).unwrap()
    };
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let first = start(&dirs[0], Vec::new());
    let at = |port: u16| format!("[::1]:{port}");
    let second = start(&dirs[1], vec![at(first.listen.peer.port())]);
    assert_eq!(first.status().await.client_address, at(first.listen.client.port()));
    let mut by_address = AdminClient::connect(format!("http://{}", at(first.listen.client.port()))).await.unwrap();
    until("both are linked, each by the address that it told the other", || async {
        let [one, two] = [first.status().await.peers, second.status().await.peers];
        one.len() == 1 && one[0].connected && two.len() == 1 && two[0].peer_address == at(first.listen.peer.port())
    })
    .await;
    assert!(by_address.status(v1::StatusRequest {}).await.is_ok());
}

#[tokio::test]
async fn a_call_for_another_cluster_is_refused_whatever_it_asks() {
    let cluster = TestCluster::start(1).await;
    let calling = async |named: &'static str| {
        let name = move |mut call: tonic::Request<()>| {
            call.metadata_mut().insert(kv::CLUSTER_METADATA, MetadataValue::from_static(named));
            Ok(call)
        };
        KvClient::with_interceptor(cluster.nodes[0].channel().await, name)
    };
    let frames = || tokio_stream::once(v1::SessionRequests::default());
    for other in ["5f9619ff-8b86-d011-b42d-00c04fc964ff", "", "no cluster"] {
        let mut foreign = calling(other).await;
        let refusals = [
            foreign.put(put("k", "foreign")).await.unwrap_err(),
            foreign.delete(v1::DeleteRequest::default()).await.unwrap_err(),
            foreign.get(get("k")).await.unwrap_err(),
            foreign.session(frames()).await.unwrap_err(),
            foreign.topology(v1::TopologyRequest::default()).await.unwrap_err(),
        ];
        for refusal in refusals {
            assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal}");
            assert!(refusal.message().contains(CLUSTER), "{refusal}");
        }
    }
    let mut own = calling(CLUSTER).await;
    assert!(values(&own.get(get("k")).await.unwrap().into_inner()).is_empty(), "nothing was written");
    assert!(own.session(frames()).await.is_ok());
}

#[tokio::test]
async fn a_key_is_put_read_superseded_and_deleted() {
    let cluster = TestCluster::start(1).await;
    let mut kv = cluster.nodes[0].kv().await;
    assert!(values(&kv.get(get("k")).await.unwrap().into_inner()).is_empty());
    kv.put(put("k", "one")).await.unwrap();
    let read = kv.get(get("k")).await.unwrap().into_inner();
    assert_eq!(values(&read), ["one"]);
    let evidence = read.evidence.unwrap();
    assert_eq!((evidence.epoch, evidence.nodes.len()), (1, 1));
    let with_context = v1::PutRequest { context: read.context.clone(), ..put("k", "two") };
    let written = kv.put(with_context.clone()).await.unwrap().into_inner();
    assert_eq!(written.evidence.unwrap().durable, 1);
    assert_eq!(values(&kv.get(get("k")).await.unwrap().into_inner()), ["two"]);
    // The old context again: concurrent with "two", so both stay until someone has seen both.
    kv.put(v1::PutRequest { value: "three".into(), ..with_context }).await.unwrap();
    let siblings = kv.get(get("k")).await.unwrap().into_inner();
    assert_eq!(values(&siblings), ["three", "two"]);
    let delete = v1::DeleteRequest { bucket: "b".into(), key: "k".into(), context: siblings.context, ..Default::default() };
    kv.delete(delete).await.unwrap();
    assert!(values(&kv.get(get("k")).await.unwrap().into_inner()).is_empty());
}

#[tokio::test]
async fn who_has_read_that_there_is_nothing_deletes_nothing_as_often_as_he_likes() {
    let cluster = TestCluster::start(1).await;
    let mut kv = cluster.nodes[0].kv().await;
    let found = kv.get(get("k")).await.unwrap().into_inner();
    assert!(found.siblings.is_empty() && !found.context.is_empty());
    let delete = |context| v1::DeleteRequest { bucket: "b".into(), key: "k".into(), context, ..Default::default() };
    for _ in 0..3 {
        let deleted = kv.delete(delete(found.context.clone())).await.unwrap().into_inner();
        assert_eq!((deleted.evidence.unwrap().nodes.len(), &deleted.context), (0, &found.context));
    }
    assert_eq!(cluster.nodes[0].status().await.objects, 0, "no tombstone was written");
    let without = kv.delete(delete(Default::default())).await.unwrap_err();
    assert!(kv::failure(&without).unwrap().to_string().starts_with("context is missing"), "{without:?}");
    // What somebody wrote meanwhile was not read.
    kv.put(put("k", "v")).await.unwrap();
    kv.delete(delete(found.context.clone())).await.unwrap();
    assert_eq!(values(&kv.get(get("k")).await.unwrap().into_inner()), ["v"]);
    // A put with it is one of somebody who has read nothing.
    kv.put(v1::PutRequest { context: found.context, ..put("k", "w") }).await.unwrap();
    assert_eq!(values(&kv.get(get("k")).await.unwrap().into_inner()), ["v", "w"]);
}

#[tokio::test]
async fn what_may_not_be_is_refused_with_the_reason() {
    let cluster = TestCluster::start(1).await;
    let mut kv = cluster.nodes[0].kv().await;
    let cases = [
        (
            v1::PutRequest { key: vec![b'k'; 1025].into(), ..put("k", "v") },
            Code::InvalidArgument,
            "key: 1025 bytes, at most 1024",
        ),
        (v1::PutRequest { value: vec![0; (1 << 20) + 1].into(), ..put("k", "v") }, Code::InvalidArgument, "value: 1048577 bytes"),
        (v1::PutRequest { context: "forged".into(), ..put("k", "v") }, Code::InvalidArgument, "context: "),
    ];
    for (request, code, message) in cases {
        let status = kv.put(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().starts_with(message), "{status:?}");
    }
    assert!(values(&kv.get(get("k")).await.unwrap().into_inner()).is_empty());
    kv.put(put("k", "v")).await.unwrap();
    let create = v1::PutRequest { mode: v1::PutMode::CreateOnly.into(), ..put("k", "again") };
    let status = kv.put(create).await.unwrap_err();
    assert_eq!((status.code(), kv::failure(&status)), (Code::AlreadyExists, Some(Failure::Exists)));
    let too_many = v1::Quorum { w: Some(2), ..Default::default() };
    let status = kv.put(v1::PutRequest { quorum: Some(too_many), ..put("k", "v") }).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let largest = v1::PutRequest { value: vec![7; 1 << 20].into(), ..put("large", "") };
    kv.put(largest).await.unwrap();
    assert_eq!(kv.get(get("large")).await.unwrap().into_inner().siblings[0].value.len(), 1 << 20);
}

/// `google.rpc.Status` and `google.protobuf.Any`, as the libraries of other languages know them.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<AnyMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AnyMessage {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// A put whose key is a number.
#[derive(Clone, PartialEq, prost::Message)]
struct NoPut {
    #[prost(uint64, tag = "2")]
    key: u64,
}

async fn put_malformed(channel: Channel) -> Status {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let codec = BoundedCodec::<NoPut, v1::PutResponse>::default();
    let put = http::uri::PathAndQuery::from_static("/dynamo.v1.Kv/Put");
    grpc.unary(tonic::Request::new(NoPut { key: 7 }), put, codec).await.unwrap_err()
}

#[tokio::test]
async fn a_refused_call_has_details_that_the_libraries_of_other_languages_decode() {
    let cluster = TestCluster::start(1).await;
    let mut kv = cluster.nodes[0].kv().await;
    kv.put(put("k", "v")).await.unwrap();
    let create = v1::PutRequest { mode: v1::PutMode::CreateOnly.into(), ..put("k", "again") };
    let too_long = v1::PutRequest { value: vec![0; 17 << 20].into(), ..put("k", "v") };
    let too_many = v1::PartitionDigestsRequest { partitions: vec![1; 9 << 20] };
    let invalid = v1::failure::Kind::Invalid;
    let malformed = put_malformed(cluster.nodes[0].channel().await).await;
    let too_many = cluster.nodes[0].admin().await.partition_digests(too_many).await.unwrap_err();
    let long = "message: 17825803 bytes, at most 16777216; a value has at most 1048576: split";
    let refused = [
        (kv.put(create).await.unwrap_err(), v1::failure::Kind::Exists, "the key exists"),
        (kv.put(put("", "v")).await.unwrap_err(), invalid, "key: empty"),
        (kv.put(too_long).await.unwrap_err(), invalid, long),
        (malformed, invalid, "message: failed to decode Protobuf message: PutRequest.key: "),
        (too_many, invalid, "a message of 9437189 bytes has elements that take "),
    ];
    for (status, kind, begins) in refused {
        assert!(status.message().starts_with(begins), "{status:?}");
        let RpcStatus { code, message, details } = RpcStatus::decode(status.details()).unwrap();
        // Otherwise Go shows INTERNAL, and Python's `grpc_status` throws.
        assert_eq!((Code::from(code), &message[..]), (status.code(), status.message()));
        let [AnyMessage { type_url, value }] = &details[..] else { panic!("{details:?}") };
        assert_eq!(type_url, "type.googleapis.com/dynamo.v1.Failure");
        assert_eq!(v1::Failure::decode(&value[..]).unwrap().kind(), kind);
    }
}

#[tokio::test]
async fn a_session_answers_everything_that_is_in_flight() {
    const REQUESTS: u64 = 10_000;
    let cluster = TestCluster::start(1).await;
    let mut kv = cluster.nodes[0].kv().await;
    let frame = |ids: std::ops::Range<u64>, get_them: bool| {
        let request = |id: u64| {
            let key = format!("k{}", id % 1_000);
            // Every tenth request is wrong; its id must be answered all the same.
            let request = match (id % 10 == 9, get_them) {
                (true, _) => None,
                (false, true) => Some(v1::session_request::Request::Get(get(&key))),
                (false, false) => Some(v1::session_request::Request::Put(put(&key, "v"))),
            };
            v1::SessionRequest { id, request }
        };
        v1::SessionRequests { requests: ids.map(request).collect(), epoch: 0 }
    };
    for get_them in [false, true] {
        // One frame is larger than what may be in flight.
        let frames = [frame(0..5_000, get_them), frame(5_000..REQUESTS, get_them)];
        let mut answers = kv.session(tokio_stream::iter(frames)).await.unwrap().into_inner();
        let mut answered = std::collections::BTreeSet::new();
        while let Some(frame) = answers.message().await.unwrap() {
            assert_eq!(frame.epoch, 1);
            for v1::SessionResponse { id, response } in frame.responses {
                assert!(answered.insert(id), "{id} is answered twice");
                match response.unwrap() {
                    v1::session_response::Response::Get(response) => {
                        assert!(get_them && id % 10 != 9);
                        assert!(response.siblings.iter().all(|sibling| sibling.value == "v"));
                    }
                    v1::session_response::Response::Put(_) => assert!(!get_them && id % 10 != 9),
                    v1::session_response::Response::Failure(failure) => {
                        assert_eq!(id % 10, 9, "{failure:?}");
                        assert!(failure.message.starts_with("request: absent"));
                    }
                }
            }
        }
        assert_eq!(answered.len() as u64, REQUESTS);
    }
}

#[tokio::test]
async fn clients_that_go_away_leave_nothing_behind() {
    let cluster = TestCluster::start(1).await;
    let node = &cluster.nodes[0];
    let kv = node.kv().await;
    for key in 0..200 {
        let mut kv = kv.clone();
        let put = async move { kv.put(put(&format!("k{key}"), "v")).await };
        // Some are gone before the node reads them, some while they wait for the disk.
        let _ = tokio::time::timeout(std::time::Duration::from_micros(10 * key), put).await;
    }
    until("nobody is waited for", || async {
        let (_, metrics) = node.http("/metrics").await;
        metrics.lines().any(|line| line == "dynamokv_clients_waiting 0")
    })
    .await;
    assert!(node.kv().await.put(put("after", "v")).await.is_ok());
}

#[tokio::test]
async fn a_restart_keeps_identity_ring_and_data() {
    let mut cluster = TestCluster::start(1).await;
    let mut kv = cluster.nodes[0].kv().await;
    for key in 0..200 {
        kv.put(put(&format!("k{key}"), "kept")).await.unwrap();
    }
    let before = cluster.nodes[0].status().await;
    let id = cluster.stop(0);
    cluster.restart(id);
    let node = &cluster.nodes[0];
    until("it is ready", || async { node.status().await.ready }).await;
    let after = node.status().await;
    assert_eq!(after.generation, before.generation + 1);
    assert_eq!((after.epoch, &after.ring_hash, after.objects), (1, &before.ring_hash, 200));
    let mut kv = node.kv().await;
    for key in 0..200 {
        let read = kv.get(get(&format!("k{key}"))).await.unwrap().into_inner();
        assert_eq!(values(&read), ["kept"]);
        // The context of the former life still works.
        kv.put(v1::PutRequest { context: read.context, ..put(&format!("k{key}"), "new") }).await.unwrap();
    }
    assert_eq!(values(&kv.get(get("k7")).await.unwrap().into_inner()), ["new"]);
}

#[tokio::test]
async fn a_directory_in_use_or_of_another_cluster_is_refused() {
    let dir = TempDir::new().unwrap();
    let first = TestNode::start(flags(dir.path(), Vec::new())).unwrap();
    let error = TestNode::start(flags(dir.path(), Vec::new())).err().unwrap();
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains("in use by another process"), "{error}");
    first.stop().unwrap();
    let mut other = flags(dir.path(), Vec::new());
    other.cluster_id = Some("00000000-0000-0000-0000-000000000001".into());
    let error = TestNode::start(other).err().unwrap();
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains(&format!("belongs to cluster {CLUSTER}")), "{error}");
}

#[tokio::test]
async fn health_reflection_metrics_and_probes_answer() {
    let cluster = TestCluster::start(1).await;
    let node = &cluster.nodes[0];
    let mut health = HealthClient::new(node.channel().await);
    for service in ["", "dynamo.v1.Kv"] {
        until("it is serving", || {
            let mut health = health.clone();
            async move {
                let status = health.check(HealthCheckRequest { service: service.into() }).await.unwrap().into_inner().status;
                status == i32::from(ServingStatus::Serving)
            }
        })
        .await;
    }
    let unknown = health.check(HealthCheckRequest { service: "nobody".into() }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert_eq!(services(node).await, ["dynamo.v1.Admin", "dynamo.v1.Kv", "grpc.health.v1.Health"]);
    assert_eq!(node.http("/healthz/live").await.0, 200);
    assert_eq!(node.http("/healthz/ready").await, (200, "ready\n".into()));
    node.kv().await.put(put("k", "v")).await.unwrap();
    let (code, metrics) = node.http("/metrics").await;
    assert_eq!(code, 200);
    for line in ["dynamokv_puts_ok_total 1", "dynamokv_epoch 1", "dynamokv_objects 1", "dynamokv_ready 1", "# EOF"] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    let counted = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|count| count.parse::<u64>().ok()).unwrap_or_else(|| panic!("{name} is not in\n{metrics}"))
    };
    for (operation, count) in [("put", 1), ("get", 0)] {
        let of = |rest: &str| counted(&format!("dynamokv_request_seconds_{rest}"));
        assert_eq!(of(&format!("count{{operation=\"{operation}\"}}")), count);
        assert_eq!(of(&format!("bucket{{le=\"+Inf\",operation=\"{operation}\"}}")), count);
    }
    assert!(counted("dynamokv_inbox_events") < 4_096 && counted("dynamokv_inbox_bytes") <= 256 << 20);
    for histogram in ["turn_seconds", "log_sync_seconds"] {
        let all = counted(&format!("dynamokv_{histogram}_count"));
        assert!(all > 0 && counted(&format!("dynamokv_{histogram}_bucket{{le=\"+Inf\"}}")) == all, "{histogram}");
    }
    assert_eq!(node.http("/nowhere").await.0, 404);
}

/// What comes of these bytes on a connection of their own, until that ends.
async fn answer_to(at: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let asked = async {
        let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
        // Whoever has heard enough reads no more, and what was on its way to it ends the connection.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answer
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("{at} does not end the connection"))
}

/// It would carry hundreds of answers at a time on one connection, which nobody counts on this port.
#[tokio::test]
async fn the_http_port_speaks_no_http_2() {
    let dir = TempDir::new().unwrap();
    let node = TestNode::start(flags(dir.path(), Vec::new())).unwrap();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let answer = answer_to(node.listen.http, &[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings].concat()).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"), "{answer:?}");
}

#[tokio::test]
async fn the_http_port_keeps_no_long_head_of_a_request_in_memory() {
    let dir = TempDir::new().unwrap();
    let node = TestNode::start(flags(dir.path(), Vec::new())).unwrap();
    for (bytes, is_taken) in [(4 << 10, true), (100 << 10, false)] {
        let long = "x".repeat(bytes);
        let request = format!("GET /healthz/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\nlong: {long}\r\n\r\n");
        let answer = answer_to(node.listen.http, request.as_bytes()).await;
        let answer = String::from_utf8_lossy(&answer);
        assert_eq!(answer.starts_with("HTTP/1.1 200"), is_taken, "{bytes}: {answer}");
        assert!(is_taken || answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{bytes}: {answer}");
    }
}

/// What reflection lists, but for itself.
async fn services(node: &TestNode) -> Vec<String> {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ListServiceResponse, ServerReflectionRequest};
    let message_request = Some(MessageRequest::ListServices(String::new()));
    let request = ServerReflectionRequest { host: String::new(), message_request };
    let mut client = ServerReflectionClient::new(node.channel().await);
    let mut answers = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(ListServiceResponse { service })) = answer.message_response else {
        panic!("not a list: {answer:?}");
    };
    let mut names: Vec<String> = service.into_iter().map(|service| service.name).collect();
    names.retain(|name| !name.starts_with("grpc.reflection"));
    names.sort();
    names
}

#[tokio::test]
async fn a_stop_answers_what_is_in_flight_and_refuses_what_comes_after() {
    let mut cluster = TestCluster::start(1).await;
    let mut kv = cluster.nodes[0].kv().await;
    let (requests, frames) = tokio::sync::mpsc::channel(4);
    let mut answers = kv.session(tokio_stream::wrappers::ReceiverStream::new(frames)).await.unwrap().into_inner();
    let request =
        |id: u64| v1::SessionRequest { id, request: Some(v1::session_request::Request::Put(put(&format!("k{id}"), "v"))) };
    requests.send(v1::SessionRequests { requests: (0..500).map(request).collect(), epoch: 0 }).await.unwrap();
    let mut acknowledged = Vec::new();
    let first = answers.message().await.unwrap().unwrap();
    acknowledged.extend(first.responses);
    let stopping = tokio::task::spawn_blocking(move || {
        let id = cluster.stop(0);
        (cluster, id)
    });
    // The node ends the session although the client has not; every answer that it gave before counts.
    while let Ok(Some(frame)) = answers.message().await {
        acknowledged.extend(frame.responses);
    }
    assert_eq!(acknowledged.len(), 500);
    let (mut cluster, id) = stopping.await.unwrap();
    cluster.restart(id);
    let node = &cluster.nodes[0];
    until("it is ready", || async { node.status().await.ready }).await;
    let mut kv = node.kv().await;
    for response in acknowledged {
        if let Some(v1::session_response::Response::Put(_)) = response.response {
            assert_eq!(values(&kv.get(get(&format!("k{}", response.id))).await.unwrap().into_inner()), ["v"]);
        }
    }
}
