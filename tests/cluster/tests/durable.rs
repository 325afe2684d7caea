//! Acknowledged is durable: no answer comes before the fsyncs that it rests on. A library in the nodes holds those of the log back,
//! since no killed process can show what a loss of power would take: the kernel keeps what was written and never fsynced.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use dynamo_client::{PutOptions, PutResult, RequestError};
use dynamo_cluster_tests::chaos::control::{self, Control};
use dynamo_cluster_tests::chaos::nemesis::{DATA_DIR_FAILED, STORAGE_FAILED};
use dynamo_cluster_tests::{Cluster, Seat};
use dynamo_core::name::Name;
use dynamo_core::request::QuorumWish;
use tokio::task::JoinHandle;

const NODES: usize = 3;
/// A put that waits for fsyncs is not given up before they are let go.
const TIMEOUT: Duration = Duration::from_secs(60);

async fn start() -> (Cluster, Vec<Control>) {
    let library = control::library().expect("`make test` builds it, as `cargo build -p dynamo-preload` does");
    let (mut cluster, mut controls) = (Cluster::empty().unwrap(), Vec::new());
    for node in 0..NODES {
        let control = Control::create(&cluster.folder().join(format!("node-{node}.faults"))).unwrap();
        let environment = control.environment(&library).to_vec();
        cluster.seat(Seat { environment, ..Seat::loopback() }).await.unwrap();
        controls.push(control);
    }
    cluster.first_ring().await.unwrap();
    (cluster, controls)
}

/// A put that asks for `dw` durable copies, or for the default, which is two of three.
async fn put(cluster: &Cluster, dw: Option<u8>) -> JoinHandle<Result<PutResult, RequestError>> {
    let client = cluster.client().await.unwrap();
    let quorum = QuorumWish { dw, ..QuorumWish::default() };
    let options = PutOptions { quorum, timeout: Some(TIMEOUT), ..PutOptions::default() };
    tokio::spawn(async move { client.put(&Name::new("cart", format!("{dw:?}")), "value", &options).await })
}

#[tokio::test(flavor = "current_thread")]
async fn no_answer_comes_before_the_fsyncs_of_as_many_logs_as_it_names() {
    let (cluster, controls) = start().await;
    for held in 1..=NODES {
        let (is_held, goes_on) = controls.split_at(held);
        is_held.iter().for_each(|control| control.hold_log_fsyncs().unwrap());
        let (mut waiting, mut answered) = (Vec::new(), Vec::new());
        // With dw = 1 the log that counts is the coordinator's, which may be any: it waits for certain only where all do.
        let one = (held == NODES).then_some(Some(1));
        for dw in [None, Some(0), Some(2), Some(3)].into_iter().chain(one) {
            let durable = usize::from(dw.unwrap_or(2));
            let kind = if durable > goes_on.len() { &mut waiting } else { &mut answered };
            kind.push((durable, put(&cluster, dw).await));
        }
        cluster
            .until("the logs that are held have something to fsync", async |_| {
                assert!(waiting.iter().all(|(_, put)| !put.is_finished()), "answered while {held} of {NODES} logs were held");
                Ok(is_held.iter().all(|control| control.log_fsyncs_waiting().unwrap() > 0))
            })
            .await
            .unwrap();
        for (durable, put) in answered {
            let put = put
                .await
                .unwrap()
                .unwrap_or_else(|error| panic!("{durable} durable copies, {held} of {NODES} logs held: {error}"));
            assert!(put.evidence.durable as usize >= durable);
        }
        assert!(waiting.iter().all(|(_, put)| !put.is_finished()), "answered while {held} of {NODES} logs were held");
        is_held.iter().for_each(|control| control.release_log_fsyncs().unwrap());
        for (durable, put) in waiting {
            assert!(put.await.unwrap().unwrap().evidence.durable as usize >= durable);
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_node_that_has_just_started_tells_no_writer_of_rings_that_it_has_none() {
    let (mut cluster, controls) = start().await;
    cluster.kill(0).unwrap();
    controls[0].hold_log_fsyncs().unwrap();
    cluster.spawn(0).unwrap();
    cluster
        .until("node 0 answers, and waits for the first fsync of its log", async |cluster| {
            Ok(controls[0].log_fsyncs_waiting().unwrap() > 0 && cluster.admin(0).await.is_ok())
        })
        .await
        .unwrap();
    let admin = cluster.admin(0).await.unwrap();
    let asked = tokio::spawn(async move { admin.status().await });
    // Another question is asked later, and answered.
    cluster.admin(0).await.unwrap().ring().await.unwrap();
    assert!(!asked.is_finished(), "it cannot say yet that its ring is on stable storage");
    controls[0].release_log_fsyncs().unwrap();
    assert_eq!(asked.await.unwrap().unwrap().epoch, cluster.status(1).await.unwrap().epoch);
}

#[tokio::test(flavor = "current_thread")]
async fn a_node_ends_with_the_first_fsync_that_fails_and_acknowledges_nothing_after_it() {
    let (mut cluster, controls) = start().await;
    let failing = &controls[0];
    failing.fail_fsyncs(1).unwrap();
    // It waits for the node to come back, or is told by a coordinator that was this node that the outcome is unknown.
    let asks_for_all = put(&cluster, Some(3)).await;
    assert_eq!(cluster.until_ended(0).await.unwrap().code(), Some(STORAGE_FAILED), "{}", cluster.log(0));
    assert_eq!(failing.failed_fsyncs().unwrap(), 1);
    // And as it starts, where other files than the log come first.
    failing.fail_fsyncs(1).unwrap();
    cluster.spawn(0).unwrap();
    assert_eq!(cluster.until_ended(0).await.unwrap().code(), Some(DATA_DIR_FAILED), "{}", cluster.log(0));
    assert_eq!(failing.failed_fsyncs().unwrap(), 1);
    assert!(!asks_for_all.is_finished() || asks_for_all.await.unwrap().is_err(), "acknowledged, with two copies of three");
    cluster.launch(0).await.unwrap();
    cluster.until_linked().await.unwrap();
    assert!(put(&cluster, Some(3)).await.await.unwrap().unwrap().evidence.durable >= 3);
}
