//! Buckets with settings of their own, through the interface that clients and operators use.

use std::collections::BTreeMap;

use dynamo_node::config::Flags;
use dynamo_proto::{kv, v1};
use tempfile::TempDir;
use tonic::Code;

use crate::support::{TestCluster, TestNode, flags, get, put, until, values};

const BUCKETS: &str = "buckets: {sessions: {reconciliation: last-writer-wins}, carts: {r: 1}}\n";

fn put_in(bucket: &'static str, key: &str, value: &str) -> v1::PutRequest {
    v1::PutRequest { bucket: bucket.into(), ..put(key, value) }
}

fn get_in(bucket: &'static str, key: &str) -> v1::GetRequest {
    v1::GetRequest { bucket: bucket.into(), ..get(key) }
}

#[tokio::test]
async fn where_the_last_writer_wins_one_value_is_shown_and_no_context_is_needed() {
    let cluster = TestCluster::with_settings(1, BUCKETS).await;
    let mut kv = cluster.nodes[0].kv().await;
    for value in ["one", "two"] {
        for bucket in ["sessions", "carts"] {
            kv.put(put_in(bucket, "k", value)).await.unwrap();
        }
    }
    assert_eq!(values(&kv.get(get_in("sessions", "k")).await.unwrap().into_inner()), ["two"]);
    assert_eq!(values(&kv.get(get_in("carts", "k")).await.unwrap().into_inner()), ["one", "two"]);
    let delete = |bucket: &'static str| v1::DeleteRequest { bucket: bucket.into(), key: "k".into(), ..Default::default() };
    kv.delete(delete("sessions")).await.unwrap();
    assert!(values(&kv.get(get_in("sessions", "k")).await.unwrap().into_inner()).is_empty());
    let refused = kv.delete(delete("carts")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(kv::failure(&refused).unwrap().to_string().starts_with("context is missing; get the key first"), "{refused:?}");
}

#[tokio::test]
async fn nodes_with_other_settings_of_buckets_say_so_until_they_have_the_same() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let start = |dir: &TempDir, yaml: &str, seeds| {
        let file = dir.path().join("node.yaml");
        std::fs::write(&file, yaml).unwrap();
        TestNode::start(Flags { config: Some(file), ..flags(dir.path(), seeds) }).unwrap()
    };
    let first = start(&dirs[0], BUCKETS, Vec::new());
    let second = start(&dirs[1], "", vec![first.peer_address()]);
    let count = async |node: &TestNode| {
        let (_, metrics) = node.http("/metrics").await;
        let line = metrics.lines().find_map(|line| line.strip_prefix("dynamokv_buckets_differ "));
        line.and_then(|count| count.parse::<u32>().ok())
    };
    until("each knows of the other", || async { (count(&first).await, count(&second).await) == (Some(1), Some(1)) }).await;
    assert_ne!(first.status().await.buckets_digest, second.status().await.buckets_digest);
    second.stop().unwrap();
    let second = start(&dirs[1], BUCKETS, vec![first.peer_address()]);
    until("they have the same", || async { (count(&first).await, count(&second).await) == (Some(0), Some(0)) }).await;
    assert_eq!(first.status().await.buckets_digest, second.status().await.buckets_digest);
}

#[tokio::test]
async fn metrics_show_how_many_versions_gets_found_by_bucket() {
    let cluster = TestCluster::with_settings(1, BUCKETS).await;
    let node = &cluster.nodes[0];
    let mut kv = node.kv().await;
    for value in ["one", "two", "three", "four", "five"] {
        kv.put(put_in("carts", "k", value)).await.unwrap();
        kv.get(get_in("carts", "k")).await.unwrap();
    }
    for bucket in ["made up", "made up too"] {
        kv.put(put_in(bucket, "k", "one")).await.unwrap();
        kv.get(get_in(bucket, "k")).await.unwrap();
    }
    let (_, metrics) = node.http("/metrics").await;
    let found: Vec<&str> = metrics.lines().filter(|line| line.contains("gets_by_versions")).collect();
    let line = |bucket: &str, versions: &str, count: u64| {
        format!("dynamokv_gets_by_versions_total{{bucket=\"{bucket}\",versions=\"{versions}\"}} {count}")
    };
    for expected in [
        "# TYPE dynamokv_gets_by_versions counter".to_owned(),
        line("carts", "1", 1),
        line("carts", "3", 1),
        line("carts", "4+", 2),
        line("other", "1", 2),
        line("sessions", "1", 0),
    ] {
        assert!(found.contains(&expected.as_str()), "{expected} is not in {found:#?}");
    }
    assert!(!metrics.contains("made up"), "a client cannot make up metrics");
}

/// Objects that the nodes have copies of, by partition.
async fn copies(cluster: &TestCluster) -> BTreeMap<u32, Vec<u64>> {
    let mut copies = BTreeMap::<u32, Vec<u64>>::new();
    for node in &cluster.nodes {
        let digests = node.admin().await.partition_digests(v1::PartitionDigestsRequest::default()).await.unwrap();
        for digest in digests.into_inner().digests.into_iter().filter(|digest| digest.objects > 0) {
            copies.entry(digest.partition).or_default().push(digest.objects);
        }
    }
    copies
}

#[tokio::test]
async fn a_bucket_with_an_n_of_its_own_has_so_many_copies_of_each_object_and_keeps_them_over_a_restart() {
    const PARTITIONS: u32 = 16;
    let mut cluster = TestCluster::with_buckets(3, "", &[("carts", 2), ("cache", 1)]).await;
    let mut kv = cluster.nodes[0].kv().await;
    for key in 0..40 {
        for (bucket, acknowledged) in [("carts", 2), ("cache", 1), ("others", 2)] {
            let written = kv.put(put_in(bucket, &key.to_string(), "v")).await.unwrap().into_inner();
            assert!(written.evidence.unwrap().nodes.len() >= acknowledged);
        }
    }
    let quorum = Some(v1::Quorum { w: Some(3), ..Default::default() });
    let refused = kv.put(v1::PutRequest { quorum, ..put_in("carts", "k", "v") }).await.unwrap_err();
    assert_eq!(kv::failure(&refused).unwrap().to_string(), "quorum.w is 3; give 1 to 2 (N is 2)");
    let as_many_as_asked = |copies: &BTreeMap<u32, Vec<u64>>| {
        // The layers in the order of their N: all others' three, the cache's one, the carts' two.
        copies.values().flatten().sum::<u64>() == 40 * (3 + 1 + 2)
            && copies.iter().all(|(partition, copies)| copies.len() == [3, 1, 2][(partition / PARTITIONS) as usize])
    };
    until("there are so many copies", || async { as_many_as_asked(&copies(&cluster).await) }).await;
    let away = cluster.stop(2);
    cluster.restart(away);
    until("it has its copies again", || async { as_many_as_asked(&copies(&cluster).await) }).await;
    let kv = cluster.nodes[2].kv().await;
    // Before another member has vouched for its ring it refuses gets.
    until("it answers gets again", || async { kv.clone().get(get_in("others", "7")).await.is_ok() }).await;
    // The one copy of what the cache has lies on a node that it may not have found yet; then the next one answers in its place.
    until("it has found the others", || async {
        cluster.nodes[2].status().await.peers.iter().filter(|peer| peer.connected).count() == 2
    })
    .await;
    let mut kv = kv;
    for bucket in ["carts", "cache", "others"] {
        assert_eq!(values(&kv.get(get_in(bucket, "7")).await.unwrap().into_inner()), ["v"], "{bucket}");
    }
}
