//! `dynamoctl put`, `get` and `delete` against real nodes: whether a delete takes a context is the bucket's rule, and how many replicas
//! are asked is the request's.
#![allow(clippy::unwrap_used)]

use dynamo_cluster_tests::{Cluster, Seat};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_takes_a_context_where_siblings_are_kept_and_none_where_the_last_writer_wins() {
    let mut cluster = Cluster::empty().unwrap();
    for _ in 0..3 {
        let settings = "buckets: {sessions: {reconciliation: last-writer-wins}}\n".to_owned();
        cluster.seat(Seat { settings, ..Seat::loopback() }).await.unwrap();
    }
    cluster.first_ring().await.unwrap();
    let run = |words: &[&str]| cluster.dynamoctl(0, words).unwrap();
    for bucket in ["sessions", "carts"] {
        let (ok, said) = run(&["put", "alice", "milk", "--bucket", bucket]);
        assert!(ok, "{said}");
    }
    let (ok, said) = run(&["delete", "alice", "--bucket", "sessions"]);
    assert!(ok && said.contains("sessions/alice: deleted"), "{said}");
    let (ok, said) = run(&["delete", "alice", "--bucket", "carts"]);
    assert!(!ok && said.contains("context is missing") && said.contains("or say --current"), "{said}");
    let (ok, said) = run(&["get", "alice", "--bucket", "carts"]);
    assert!(ok && said.contains("milk"), "{said}");
    let (ok, said) = run(&["delete", "alice", "--bucket", "carts", "--current"]);
    assert!(ok, "{said}");
    for bucket in ["sessions", "carts"] {
        let (ok, said) = run(&["get", "alice", "--bucket", bucket]);
        assert!(!ok && said.contains("does not exist"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_after_a_get_that_found_nothing_says_that_there_is_nothing_to_delete() {
    let cluster = Cluster::with_ring(3).await.unwrap();
    let run = |words: &[&str]| cluster.dynamoctl(0, words).unwrap();
    let (ok, said) = run(&["get", "nobody", "-o", "json"]);
    assert!(!ok && said.contains("does not exist"), "{said}");
    let document = said.lines().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("{said}"));
    let document: serde_json::Value = serde_json::from_str(document).unwrap();
    let context = document["context"].as_str().unwrap();
    for _ in 0..2 {
        let (ok, said) = run(&["delete", "nobody", "--context", context]);
        assert!(ok && said.contains("default/nobody: there is nothing to delete"), "{said}");
    }
    let (ok, said) = run(&["delete", "nobody"]);
    assert!(!ok && said.contains("context is missing"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn put_get_and_delete_ask_as_many_replicas_as_they_are_told() {
    let cluster = Cluster::with_ring(3).await.unwrap();
    let run = |words: &[&str]| cluster.dynamoctl(0, words).unwrap();
    let answered = |said: &str| {
        let document: serde_json::Value = serde_json::from_str(said).unwrap();
        document["evidence"]["nodes"].as_array().unwrap_or_else(|| panic!("{said}")).len()
    };
    for words in [["put", "alice", "milk"].as_slice(), &["get", "alice"], &["delete", "alice", "--current"]] {
        let (ok, said) = run(&[words, &["--n", "1", "-o", "json"]].concat());
        assert!(ok && answered(&said) == 1, "{said}");
    }
    let (ok, said) = run(&["get", "alice", "--n", "4"]);
    assert!(!ok && said.contains("quorum.n is 4; give 1 to 3 (N is 3)"), "{said}");
}
