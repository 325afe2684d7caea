//! basho/riak_kv#1754 with real processes: ten keys, forty clients, two nodes join and two leave. There, acknowledged writes were
//! lost in almost every run. `make riak RUNS=20` repeats it; the simulator plays it a thousand times
//! (`dynamo-sim --scenario riak-1754 --seeds 1000`).
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use dynamo_cluster_tests::Cluster;
use dynamo_core::random::Random;
use dynamoctl::workload::clients::{self, Shared};
use dynamoctl::workload::judge_once;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

const KEYS: usize = 10;
const CLIENTS: u64 = 40;
/// Of one client between two steps: two processors serve five nodes and forty clients.
const PAUSE: Duration = Duration::from_millis(20);

/// Clients do some more.
async fn get_on(cluster: &Cluster, shared: &Shared) {
    let then = shared.tally(|tally| tally.operations()) + 500;
    cluster.until("clients get on", async |_| Ok(shared.tally(|tally| tally.operations()) >= then)).await.unwrap();
}

/// One history from its first write to the verdict. Returns how many operations were acknowledged.
async fn two_join_and_two_leave(seed: u64) -> u64 {
    let mut cluster = Cluster::with_ring(3).await.unwrap();
    let client = cluster.client().await.unwrap();
    let shared = Arc::new(Shared::new(client, "riak".into(), format!("riak-{seed}"), KEYS));
    let (stop, stopped) = watch::channel(false);
    let mut running = JoinSet::new();
    for number in 0..CLIENTS {
        running.spawn(clients::run(Arc::clone(&shared), Random::new(seed * CLIENTS + number), PAUSE, stopped.clone()));
    }
    get_on(&cluster, &shared).await;
    cluster.add().await.unwrap();
    cluster.add().await.unwrap();
    cluster.rebalance_to(&[0, 1, 2, 3, 4]).await.unwrap();
    get_on(&cluster, &shared).await;
    cluster.rebalance_to(&[2, 3, 4]).await.unwrap();
    cluster.kill(0).unwrap();
    cluster.kill(1).unwrap();
    get_on(&cluster, &shared).await;
    stop.send(true).unwrap();
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
    cluster.until_replicas_are_equal().await.unwrap();
    let judged = judge_once(&shared, 1, Instant::now()).await;
    assert!(judged.is_good(), "seed {seed}: {}\n{:#?}\n{:#?}", judged.verdict(), judged.violations, judged.unread);
    shared.tally(|tally| tally.ok)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_write_is_lost_while_two_nodes_join_and_two_leave() {
    let runs = std::env::var("RUNS").map_or(1, |runs| runs.parse().expect("RUNS is a number"));
    for run in 1..=runs {
        let started = Instant::now();
        let ok = two_join_and_two_leave(run).await;
        assert!(ok > 1_500, "{ok} operations were acknowledged");
        println!("run {run} of {runs}: {ok} operations acknowledged, {:.1} s, nothing lost", started.elapsed().as_secs_f64());
    }
}
