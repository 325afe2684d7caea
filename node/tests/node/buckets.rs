//! Buckets with settings of their own, through the interface that clients and operators use.

use dynamo_proto::{kv, v1};
use tonic::Code;

use crate::support::{TestCluster, get, put, values};

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
