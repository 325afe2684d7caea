//! Three nodes: replication, forwarding, hints, and strangers.

use dynamo_proto::v1;
use tempfile::TempDir;
use tonic::Code;

use crate::support::{TestCluster, TestNode, flags, get, put, until, values};

#[tokio::test]
async fn every_node_answers_for_every_key_and_all_replicas_become_equal() {
    let cluster = TestCluster::start(3).await;
    for (index, node) in cluster.nodes.iter().enumerate() {
        let mut kv = node.kv().await;
        for key in 0..50 {
            let written = kv.put(put(&format!("{index}-{key}"), "v")).await.unwrap().into_inner();
            let evidence = written.evidence.unwrap();
            assert!(evidence.durable >= 2 && evidence.nodes.len() >= 2 && evidence.hinted == 0, "{evidence:?}");
        }
    }
    for node in &cluster.nodes {
        let mut kv = node.kv().await;
        for index in 0..3 {
            for key in 0..50 {
                assert_eq!(values(&kv.get(get(&format!("{index}-{key}"))).await.unwrap().into_inner()), ["v"]);
            }
        }
    }
    until("the replicas are equal", || async {
        let mut all = Vec::new();
        for node in &cluster.nodes {
            let digests = node.admin().await.partition_digests(v1::PartitionDigestsRequest::default()).await.unwrap();
            all.push(digests.into_inner().digests);
        }
        all[0].iter().map(|digest| digest.objects).sum::<u64>() == 150 && all.iter().all(|digests| *digests == all[0])
    })
    .await;
}

#[tokio::test]
async fn a_node_that_was_away_gets_what_it_missed() {
    let mut cluster = TestCluster::start(3).await;
    cluster.nodes[0].kv().await.put(put("before", "v")).await.unwrap();
    let away = cluster.stop(2);
    let mut kv = cluster.nodes[0].kv().await;
    for key in 0..30 {
        let written = kv.put(put(&format!("missed-{key}"), "v")).await.unwrap().into_inner();
        assert!(written.evidence.unwrap().nodes.len() >= 2);
    }
    cluster.restart(away);
    let back = cluster.nodes.last().unwrap();
    until("it holds everything", || async { back.status().await.objects == 31 }).await;
    let mut kv = back.kv().await;
    let own_copy = v1::Quorum { r: Some(1), ..Default::default() };
    let read = kv.get(v1::GetRequest { quorum: Some(own_copy), ..get("missed-3") }).await.unwrap().into_inner();
    assert_eq!(values(&read), ["v"]);
    until("no hints are left", || async {
        let mut hints = 0;
        for node in &cluster.nodes {
            hints += node.status().await.hints.iter().map(|backlog| backlog.hints).sum::<u64>();
        }
        hints == 0
    })
    .await;
}

#[tokio::test]
async fn a_node_that_comes_back_while_another_is_away_waits_for_it_and_then_serves_without() {
    let mut cluster = TestCluster::start(3).await;
    cluster.stop(2);
    let back = cluster.stop(1);
    cluster.restart(back);
    let back = cluster.nodes.last().unwrap();
    // From one look each: how long it had run, and whether it was ready.
    let looks = std::cell::RefCell::new(Vec::new());
    until("it is ready", || async {
        let (_, metrics) = back.http("/metrics").await;
        // While it opens its data there are no figures.
        let value =
            |name: &str| metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok()).unwrap_or_default();
        looks.borrow_mut().push((value("dynamokv_uptime_seconds "), value("dynamokv_ready ")));
        value("dynamokv_ready ") > 0.0
    })
    .await;
    let early: Vec<_> = looks.take().into_iter().filter(|(uptime, ready)| *uptime < 4.0 && *ready > 0.0).collect();
    assert!(early.is_empty(), "it did not wait for the third: {early:?}");
    back.kv().await.put(put("k", "v")).await.unwrap();
}

#[tokio::test]
async fn too_few_replicas_is_said_and_nothing_is_acknowledged() {
    let mut cluster = TestCluster::start(3).await;
    cluster.stop(2);
    cluster.stop(1);
    let mut kv = cluster.nodes[0].kv().await;
    let status = kv.put(v1::PutRequest { timeout_ms: 2_000, ..put("k", "v") }).await.unwrap_err();
    assert!(matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded), "{status:?}");
    // One replica is asked for, and one is there.
    let one = v1::Quorum { r: Some(1), w: Some(1), ..Default::default() };
    kv.put(v1::PutRequest { quorum: Some(one), ..put("other", "v") }).await.unwrap();
    let read = kv.get(v1::GetRequest { quorum: Some(one), ..get("other") }).await.unwrap().into_inner();
    assert_eq!(values(&read), ["v"]);
    // It sees none of the others any more.
    until("it is not ready", || async { cluster.nodes[0].http("/healthz/ready").await.0 == 503 }).await;
}

#[tokio::test]
async fn a_request_may_ask_fewer_replicas_than_there_are() {
    let cluster = TestCluster::start(3).await;
    let mut kv = cluster.nodes[0].kv().await;
    let asking = |n| Some(v1::Quorum { n: Some(n), ..Default::default() });
    let written = kv.put(v1::PutRequest { quorum: asking(1), ..put("k", "v") }).await.unwrap().into_inner();
    assert_eq!(written.evidence.unwrap().nodes, [cluster.nodes[0].status().await.node]);
    for node in &cluster.nodes {
        let all = Some(v1::Quorum { r: Some(3), ..Default::default() });
        let read = node.kv().await.get(v1::GetRequest { quorum: all, ..get("k") }).await.unwrap().into_inner();
        assert_eq!(values(&read), ["v"]);
    }
    let refused = kv.get(v1::GetRequest { quorum: asking(4), ..get("k") }).await.unwrap_err();
    assert!(refused.message().contains("quorum.n is 4; give 1 to 3"), "{refused:?}");
}

#[tokio::test]
async fn a_node_of_another_cluster_is_sent_away() {
    let cluster = TestCluster::start(1).await;
    let dir = TempDir::new().unwrap();
    let mut strangers = flags(dir.path(), vec![cluster.nodes[0].peer_address()]);
    strangers.cluster_id = Some("00000000-0000-0000-0000-000000000001".into());
    let stranger = TestNode::start(strangers).unwrap();
    let hello = v1::Hello {
        cluster: stranger.status().await.cluster,
        node: stranger.status().await.node,
        protocol: 1,
        ..Default::default()
    };
    let address = format!("http://{}", cluster.nodes[0].listen.peer);
    let mut peer = v1::peer_client::PeerClient::connect(address).await.unwrap();
    let frames = |hello| tokio_stream::iter([v1::PeerFrame { hello, messages: Vec::new() }]);
    let ours = cluster.nodes[0].status().await.cluster;
    let named = |cluster: &[u8], hello| {
        let mut request = tonic::Request::new(frames(hello));
        let cluster = dynamo_core::id::ClusterId(cluster.try_into().unwrap()).to_string();
        request.metadata_mut().insert("dynamokv-cluster", cluster.parse().unwrap());
        request
    };
    // Without the cluster's name nothing is read, not even what never ends.
    let unnamed = peer.link(tokio_stream::pending()).await.unwrap_err();
    assert!(unnamed.message().contains("dynamokv-cluster"), "{unnamed:?}");
    for request in [named(&hello.cluster, Some(hello.clone())), named(&ours, Some(hello.clone()))] {
        let refusal = peer.link(request).await.unwrap_err();
        assert_eq!(refusal.code(), Code::FailedPrecondition);
        assert!(refusal.message().contains("belongs to cluster 00000000"), "{refusal:?}");
    }
    let silent = peer.link(named(&ours, None)).await.unwrap_err();
    assert!(silent.message().contains("no hello"), "{silent:?}");
    assert!(cluster.nodes[0].status().await.peers.is_empty());
    assert!(stranger.status().await.peers.is_empty());
}

#[tokio::test]
async fn a_ring_that_does_not_follow_is_refused_and_the_same_is_not() {
    let cluster = TestCluster::start(3).await;
    let mut admin = cluster.nodes[0].admin().await;
    let held = admin.ring(v1::RingViewRequest {}).await.unwrap().into_inner().ring;
    let same = admin.propose_ring(v1::ProposeRingRequest { ring: held.clone() }).await.unwrap().into_inner();
    assert_eq!(same.epoch, 1);
    let ring = dynamo_core::ring::Ring::decode(held).unwrap();
    let mut twin = ring.clone();
    twin.members.values_mut().for_each(|member| member.weight = 2);
    let refusal = admin.propose_ring(v1::ProposeRingRequest { ring: twin.encode() }).await.unwrap_err();
    assert_eq!(refusal.code(), Code::FailedPrecondition);
    let garbage = admin.propose_ring(v1::ProposeRingRequest { ring: "ring".into() }).await.unwrap_err();
    assert_eq!(garbage.code(), Code::InvalidArgument);
    // Told to one node, a ring reaches all.
    let next = ring.successor(|_| ());
    admin.propose_ring(v1::ProposeRingRequest { ring: next.encode() }).await.unwrap();
    for node in &cluster.nodes {
        until("the next ring has spread", || async { node.status().await.epoch == 2 }).await;
    }
    let undrained = admin.drain_receipt(v1::DrainReceiptRequest {}).await.unwrap_err();
    assert!(undrained.message().contains("still gives it 16 partitions"), "{undrained:?}");
}
