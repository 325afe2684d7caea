//! Real processes and real faults: what was acknowledged is still there.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dynamo_client::{Client, GetOptions, PutOptions, RequestError};
use dynamo_cluster_tests::{Cluster, Signal};
use dynamo_core::id::ClusterId;
use dynamo_core::name::Name;
use dynamo_core::request::QuorumWish;

fn name(key: usize) -> Name {
    Name::new("cart", format!("key-{key}"))
}

/// Writes `count` keys with the value `text`, replacing what is there; all must be acknowledged.
async fn write_all(client: &Client, count: usize, text: &str) {
    for key in 0..count {
        let read = client.get(&name(key), &GetOptions::default()).await.unwrap();
        let options = PutOptions { context: read.context, ..PutOptions::default() };
        client.put(&name(key), format!("{text}-{key}"), &options).await.unwrap();
    }
}

/// Reads with `r` replicas; every key must have exactly the one value that was written last.
async fn expect_all(client: &Client, count: usize, text: &str, r: u8) {
    for key in 0..count {
        let options = GetOptions { quorum: QuorumWish { r: Some(r), ..QuorumWish::default() }, ..GetOptions::default() };
        let read = client.get(&name(key), &options).await.unwrap();
        let values: Vec<&[u8]> = read.siblings.iter().map(|sibling| &sibling.value[..]).collect();
        assert_eq!(values, [format!("{text}-{key}").as_bytes()], "{:?}", name(key));
    }
}

#[tokio::test(flavor = "current_thread")]
async fn writes_go_on_while_a_node_is_down_and_come_home_as_hints() {
    let mut cluster = Cluster::with_ring(4).await.unwrap();
    let client = cluster.client().await.unwrap();
    write_all(&client, 100, "before").await;
    cluster.kill(2).unwrap();
    write_all(&client, 100, "while-down").await;
    let mut hints = 0;
    for index in [0, 1, 3] {
        hints += cluster.status(index).await.unwrap().hints.values().map(|backlog| backlog.hints).sum::<u64>();
    }
    assert!(hints > 0, "somebody kept hints for the dead node");
    cluster.launch(2).await.unwrap();
    cluster.until_replicas_are_equal().await.unwrap();
    let client = cluster.client().await.unwrap();
    expect_all(&client, 100, "while-down", 3).await;
}

#[tokio::test(flavor = "current_thread")]
async fn acknowledged_writes_survive_the_kill_of_every_node_at_once() {
    let mut cluster = Cluster::with_ring(3).await.unwrap();
    let client = cluster.client().await.unwrap();
    write_all(&client, 200, "durable").await;
    for index in 0..3 {
        cluster.kill(index).unwrap();
    }
    for index in 0..3 {
        cluster.launch(index).await.unwrap();
    }
    cluster.until_linked().await.unwrap();
    let client = cluster.client().await.unwrap();
    expect_all(&client, 200, "durable", 2).await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_paused_node_stops_neither_reads_nor_writes() {
    let cluster = Cluster::with_ring(4).await.unwrap();
    let client = cluster.client().await.unwrap();
    write_all(&client, 20, "before").await;
    cluster.signal(1, Signal::STOP).unwrap();
    // The node that the client goes to may be the paused one: what may be repeated goes to another, and all of it is done.
    for key in 0..20 {
        let read = client.get(&name(key), &GetOptions::default()).await.unwrap();
        let options = PutOptions { context: read.context, ..PutOptions::default() }.retried();
        client.put(&name(key), format!("paused-{key}"), &options).await.unwrap();
    }
    cluster.signal(1, Signal::CONT).unwrap();
    cluster.until_replicas_are_equal().await.unwrap();
    let before = cluster.status(1).await.unwrap().counters["gets_ok"];
    for key in 0..20 {
        let read = client.get(&name(key), &GetOptions::default()).await.unwrap();
        assert!(read.siblings.iter().any(|sibling| sibling.value == format!("paused-{key}")), "key {key}");
    }
    // The client finds out by itself that it is back. Every node is the first replica of some of the keys.
    let returned = async {
        while cluster.status(1).await.unwrap().counters["gets_ok"] == before {
            for key in 0..20 {
                client.get(&name(key), &GetOptions::default()).await.unwrap();
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), returned).await.expect("it is asked again");
}

#[tokio::test(flavor = "current_thread")]
async fn a_cluster_grows_and_shrinks_under_writes_and_loses_nothing() {
    let mut cluster = Cluster::with_ring(3).await.unwrap();
    let client = cluster.client().await.unwrap();
    write_all(&client, 300, "seed").await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (client, stop) = (client.clone(), stop.clone());
        async move {
            let (mut written, mut failed) = (BTreeMap::new(), 0);
            for round in 0.. {
                let key = 1000 + round % 50;
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let Ok(read) = client.get(&name(key), &GetOptions::default()).await else {
                    failed += 1;
                    continue;
                };
                let options = PutOptions { context: read.context, ..PutOptions::default() };
                match client.put(&name(key), format!("{round}"), &options).await {
                    Ok(_) => drop(written.insert(key, round)),
                    Err(_) => failed += 1,
                }
            }
            (written, failed)
        }
    });
    cluster.add().await.unwrap();
    cluster.add().await.unwrap();
    let grown = cluster.rebalance_to(&[0, 1, 2, 3, 4]).await.unwrap();
    assert_eq!(grown.members.len(), 5);
    let loads: Vec<usize> = grown.members.keys().map(|node| grown.partitions_of(*node)).collect();
    assert!(loads.iter().all(|load| (9..=10).contains(load)), "48 replicas over five: {loads:?}");
    let shrunk = cluster.rebalance_to(&[0, 1, 2]).await.unwrap();
    assert_eq!(shrunk.members.len(), 3);
    cluster.kill(3).unwrap();
    cluster.kill(4).unwrap();
    stop.store(true, Ordering::Relaxed);
    let (written, failed) = writer.await.unwrap();
    assert!(written.len() >= 40, "the writer made progress: {} keys, {failed} failures", written.len());
    cluster.until_replicas_are_equal().await.unwrap();
    let client = cluster.client().await.unwrap();
    expect_all(&client, 300, "seed", 3).await;
    for (key, round) in written {
        let read = client.get(&name(key), &GetOptions::default()).await.unwrap();
        let newest =
            read.siblings.iter().filter_map(|sibling| String::from_utf8_lossy(&sibling.value).parse::<usize>().ok()).max();
        assert!(newest >= Some(round), "key {key}: acknowledged {round}, found {newest:?}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn nodes_that_stop_and_start_again_one_after_the_other_fail_no_request() {
    let mut cluster = Cluster::with_ring(4).await.unwrap();
    let client = cluster.client().await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..256)
        .map(|writer| {
            let (client, stop) = (client.clone(), stop.clone());
            tokio::spawn(async move {
                let mut written = 0;
                while !stop.load(Ordering::Relaxed) {
                    let read = client.get(&name(writer), &GetOptions::default()).await?;
                    let options = PutOptions { context: read.context, ..PutOptions::default() }.retried();
                    client.put(&name(writer), format!("{written}"), &options).await?;
                    written += 1;
                }
                Ok::<usize, RequestError>(written)
            })
        })
        .collect();
    for index in (0..4).cycle().take(12) {
        cluster.stop(index).await.unwrap();
        cluster.launch(index).await.unwrap();
        cluster.until_linked().await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for (writer, task) in writers.into_iter().enumerate() {
        let written = task.await.unwrap().unwrap_or_else(|error| panic!("writer {writer}: {error}"));
        let read = client.get(&name(writer), &GetOptions::default()).await.unwrap();
        let values: Vec<&[u8]> = read.siblings.iter().map(|sibling| &sibling.value[..]).collect();
        assert_eq!(values, [format!("{}", written - 1).as_bytes()], "one writer makes no siblings");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_node_of_another_cluster_is_let_in_by_nobody() {
    let mut cluster = Cluster::with_ring(3).await.unwrap();
    let stranger = cluster.add_of(ClusterId([9; 16])).await.unwrap();
    cluster
        .until("the stranger was told", async |cluster| Ok(cluster.log(stranger).contains("it belongs to cluster")))
        .await
        .unwrap();
    let of_stranger = cluster.status(stranger).await.unwrap();
    assert_eq!(of_stranger.epoch.0, 0, "it learned no ring");
    assert!(of_stranger.peers.values().all(|peer| !peer.connected));
    for member in 0..3 {
        let status = cluster.status(member).await.unwrap();
        assert_eq!(status.peers.len(), 2, "it knows the two others and nobody else: {:?}", status.peers);
        assert!(!status.peers.contains_key(&of_stranger.node));
    }
}
