//! The HTTP port: `/metrics` for Prometheus, `/healthz/live` and `/healthz/ready` for probes.
//!
//! Metrics are asked of the loop at each scrape, so there is one set of counters and none that can lag behind.

mod http1;

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use dynamo_core::actors::ActorsPerObject;
use dynamo_core::counters::Counters;
use dynamo_core::divergence::{Divergence, VERSIONS};
use dynamo_core::durations::Durations;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::connections::{Acceptor, Connections};
use crate::driver::{Closed, Inbox, Question, Snapshot};
use crate::figure::Figure;

/// What the process does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// RocksDB opens the database and replays its log, since then.
    Database(Instant),
    /// What the last stop left behind is read, since then.
    Data(Instant),
    /// The data is read, and the loop answers.
    Open,
}

impl Stage {
    /// From now on.
    pub fn opening_the_database() -> Self {
        Self::Database(Instant::now())
    }

    /// From now on.
    pub fn reading_the_data() -> Self {
        Self::Data(Instant::now())
    }

    /// What is said before the loop answers.
    fn opening(self) -> Option<String> {
        let (what, since) = match self {
            Self::Database(since) => ("RocksDB opens the database and replays its log", since),
            Self::Data(since) => ("what the last stop left behind is read", since),
            Self::Open => return None,
        };
        Some(format!("not ready: opening the data directory: {what}, for {} s so far\n", since.elapsed().as_secs()))
    }
}

/// Why it is not ready, once the loop answers.
const NOT_READY: &str =
    "not ready: starting and still looking for all members, stopping, without a ring, or a member that sees none of the others\n";

#[derive(Clone)]
struct Probed {
    inbox: Inbox,
    connections: Connections,
    stage: watch::Receiver<Stage>,
    ready: watch::Receiver<bool>,
}

/// Serves until `stopping` turns true.
pub async fn serve(
    acceptor: Acceptor,
    inbox: Inbox,
    connections: Connections,
    stage: watch::Receiver<Stage>,
    ready: watch::Receiver<bool>,
    stopping: watch::Receiver<bool>,
) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz/live", get(|| async { "ok\n" }))
        .route("/healthz/ready", get(readiness))
        .with_state(Probed { inbox, connections, stage, ready });
    http1::serve(acceptor, router, stopping).await;
}

async fn readiness(State(probed): State<Probed>) -> (StatusCode, Cow<'static, str>) {
    if *probed.ready.borrow() {
        return (StatusCode::OK, "ready\n".into());
    }
    let why = probed.stage.borrow().opening().map_or(Cow::Borrowed(NOT_READY), Cow::Owned);
    (StatusCode::SERVICE_UNAVAILABLE, why)
}

async fn metrics(State(probed): State<Probed>) -> Response {
    let opening = probed.stage.borrow().opening();
    if let Some(opening) = opening {
        return (StatusCode::SERVICE_UNAVAILABLE, opening).into_response();
    }
    match probed.inbox.ask(Question::Snapshot).await {
        Ok(mut snapshot) => {
            snapshot.figures.extend(probed.connections.figures());
            snapshot.figures.extend(probed.inbox.figures());
            // As the probe says: a node that stands by without a ring serves nobody.
            snapshot.ready = *probed.ready.borrow();
            match encode(snapshot) {
                Ok(text) => {
                    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
                }
                Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
            }
        }
        Err(Closed) => (StatusCode::SERVICE_UNAVAILABLE, "the node is stopping\n").into_response(),
    }
}

fn encode(snapshot: Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("dynamokv");
    registry.register_collector(Box::new(Scrape(snapshot)));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Scrape(Snapshot);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Snapshot { status, counters, background, divergence, actors, figures, ready, uptime_seconds, .. } = &self.0;
        for ((name, value), (_, help)) in counters.each().zip(Counters::HELP) {
            counter(&mut encoder, name, help.trim_end_matches('.'), value)?;
        }
        gets_by_versions(&mut encoder, divergence)?;
        object_actors(&mut encoder, actors)?;
        durations(&mut encoder, &self.0)?;
        let (hints, hint_bytes) = status.hints.values().fold((0, 0), |sum, (hints, bytes)| (sum.0 + hints, sum.1 + bytes));
        let connected = status.peers.iter().filter(|peer| peer.connected).count() as u64;
        let suspected = status.peers.iter().filter(|peer| peer.suspected).count() as u64;
        // 0 until there were enough requests to tell.
        let microseconds = |latency: Option<Duration>| latency.map_or(0, |latency| latency.as_micros() as u64);
        let own = [
            ("ready", "1 if the node serves", u64::from(*ready)),
            ("uptime_seconds", "Seconds since the start", *uptime_seconds),
            ("epoch", "Epoch of the ring on stable storage", status.epoch.0),
            ("partitions", "Partitions that this node is a replica of", status.partitions as u64),
            ("foreign_partitions", "Partitions held here that the ring gives to others", status.foreign_partitions as u64),
            ("objects", "Objects held", status.objects),
            ("hints", "Hints kept for others", hints),
            ("hint_bytes", "Bytes of hints kept for others", hint_bytes),
            ("transfers", "Transfers to new replicas that are under way", status.transfers.len() as u64),
            ("peers_connected", "Peers that are linked", connected),
            ("peers_suspected", "Peers that requests avoid", suspected),
            ("requests", "Client requests under way", status.requests as u64),
            (
                "buckets_differ",
                "Other nodes that treat buckets otherwise than this one, by their quorum and buckets settings",
                status.buckets_differ.len() as u64,
            ),
            ("background_bytes_per_second", "What background work may move now", background.bytes_per_second),
            ("request_p99_microseconds", "99th percentile of requests over the last minute", microseconds(background.p99)),
            (
                "request_p99_quiet_microseconds",
                "99th percentile of requests while no background work runs",
                microseconds(background.p99_quiet),
            ),
        ];
        for (name, help, value) in own {
            gauge(&mut encoder, name, help, value)?;
        }
        let help = "Milliseconds by which the wall clock is ahead of most peers', below zero behind them";
        signed_gauge(&mut encoder, "clock_ahead_ms", help, status.clock_ahead_ms)?;
        for Figure { name, help, grows, value } in figures {
            let encode = if *grows { counter } else { gauge };
            encode(&mut encoder, name, help, *value)?;
        }
        Ok(())
    }
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> Result<(), fmt::Error> {
    let metric = ConstCounter::new(value);
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

/// The paper's table of divergent versions (6.3), bucket by bucket.
fn gets_by_versions(encoder: &mut DescriptorEncoder<'_>, divergence: &Divergence) -> Result<(), fmt::Error> {
    let help = "Gets by the number of live versions that they found";
    let mut family = encoder.encode_descriptor("gets_by_versions", help, None, MetricType::Counter)?;
    for (bucket, counts) in divergence.each() {
        let bucket = String::from_utf8_lossy(bucket);
        for (versions, count) in VERSIONS.into_iter().zip(counts) {
            let labels = [("bucket", bucket.as_ref()), ("versions", versions)];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// What no put may make too many.
fn object_actors(encoder: &mut DescriptorEncoder<'_>, actors: &ActorsPerObject) -> Result<(), fmt::Error> {
    let help = "Actors that objects name, at each put that this node coordinated; beyond 2048 it is refused";
    let most = |bound: Option<usize>| bound.map_or(f64::INFINITY, |bound| bound as f64);
    let buckets: Vec<(f64, u64)> = actors.buckets().map(|(bound, count)| (most(bound), count)).collect();
    let mut metric = encoder.encode_descriptor("object_actors", help, None, MetricType::Histogram)?;
    metric.encode_histogram::<NoLabelSet>(actors.sum() as f64, actors.count(), &buckets, None)
}

/// What took how long.
fn durations(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> Result<(), fmt::Error> {
    let help = "How long requests took that this node coordinated, until it answered";
    let mut family = encoder.encode_descriptor("request_seconds", help, None, MetricType::Histogram)?;
    for (operation, durations) in [("get", &snapshot.latencies.gets), ("put", &snapshot.latencies.puts)] {
        histogram(family.encode_family(&[("operation", operation)])?, durations)?;
    }
    let own = [
        ("turn_seconds", "How long turns of the loop took: nothing is answered meanwhile", &snapshot.turns),
        ("log_sync_seconds", "How long fsyncs of the log took", &snapshot.log_syncs),
    ];
    for (name, help, durations) in own {
        histogram(encoder.encode_descriptor(name, help, None, MetricType::Histogram)?, durations)?;
    }
    Ok(())
}

fn histogram(mut encoder: MetricEncoder<'_>, durations: &Durations) -> Result<(), fmt::Error> {
    let seconds = |bound: Option<Duration>| bound.map_or(f64::INFINITY, |bound| bound.as_secs_f64());
    let buckets: Vec<(f64, u64)> = durations.buckets().map(|(bound, count)| (seconds(bound), count)).collect();
    encoder.encode_histogram::<NoLabelSet>(durations.sum().as_secs_f64(), durations.count(), &buckets, None)
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> Result<(), fmt::Error> {
    // Values above 2^63 do not occur: they count objects, bytes and seconds.
    signed_gauge(encoder, name, help, i64::try_from(value).unwrap_or(i64::MAX))
}

fn signed_gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: i64) -> Result<(), fmt::Error> {
    let metric = ConstGauge::new(value);
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::connections::{Patience, Speaks};

    async fn asked(at: std::net::SocketAddr, page: &str) -> String {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(format!("GET {page} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// While the data is read the loop answers nothing, and a node that is killed for that would begin again.
    #[tokio::test]
    async fn while_the_data_directory_is_read_the_process_is_alive_and_not_ready_and_says_why() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let connections = Connections::of(1_024, u64::MAX);
        let acceptor = Acceptor::new(listener, connections.http.clone(), Speaks::Http1, Patience::default());
        let (inbox, _never_read) = Inbox::of(u64::MAX);
        let (stage, stages) = watch::channel(Stage::opening_the_database());
        let (_ready, is_ready) = watch::channel(false);
        let (_stop, stopping) = watch::channel(false);
        tokio::spawn(serve(acceptor, inbox, connections, stages, is_ready, stopping));
        assert!(asked(at, "/healthz/live").await.starts_with("HTTP/1.1 200"));
        for (stage_now, what) in [
            (Stage::opening_the_database(), "RocksDB opens the database and replays its log, for 0 s"),
            (Stage::reading_the_data(), "what the last stop left behind is read, for 0 s"),
        ] {
            stage.send_replace(stage_now);
            for page in ["/healthz/ready", "/metrics"] {
                let answer = asked(at, page).await;
                let begins = answer.starts_with("HTTP/1.1 503") && answer.contains("opening the data directory");
                assert!(begins && answer.contains(what), "{page}: {answer}");
            }
        }
    }
}
