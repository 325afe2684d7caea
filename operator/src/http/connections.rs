//! HTTP/1.1 on the port, and nothing else: how many connections there are, what each of them holds, and for how long, is bounded.
//!
//! HTTP/2 would carry hundreds of answers at a time, for as long as its client pings, and nothing here counts what they hold.

use std::collections::VecDeque;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::metrics::Metrics;

/// The longest head of a request, and what is written ahead: probes and Prometheus send a few hundred bytes.
const BUFFER_BYTES: usize = 16 << 10;
/// After a connection that could not be taken: whatever the process lacks for it comes back no sooner.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// What the connections of a port may take.
#[derive(Clone, Copy)]
pub struct Limits {
    /// Connections at a time; for one more the oldest ends.
    pub connections: usize,
    /// How long the head of a request is waited for.
    pub head: Duration,
    /// How long a connection lasts, whatever it asks.
    pub connection: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 64, head: Duration::from_secs(10), connection: Duration::from_secs(30) }
    }
}

/// Answers what comes to `listener` until `shutdown` ends, and what has been asked by then. Whoever comes gets a place, if that of the oldest:
/// else those who hold all of them would keep out the kubelet, whose probes take a moment.
pub async fn serve(listener: TcpListener, router: Router, metrics: &Metrics, limits: Limits, shutdown: impl Future<Output = ()>) {
    let (stop, stopping) = watch::channel(false);
    let mut served = JoinSet::new();
    // Those that last, the oldest first.
    let mut oldest: VecDeque<AbortHandle> = VecDeque::new();
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = served.join_next() => continue,
            () = &mut shutdown => break,
        };
        while served.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                oldest.retain(|connection| !connection.is_finished());
                if oldest.len() >= limits.connections
                    && let Some(connection) = oldest.pop_front()
                {
                    connection.abort();
                    metrics.refused_connection();
                }
                oldest.push_back(served.spawn(answer(stream, router.clone(), limits, stopping.clone())));
            }
            Err(error) => {
                warn!(%error, "an HTTP connection could not be taken");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    stop.send_replace(true);
    while served.join_next().await.is_some() {}
}

/// One connection, from its first request to its end.
async fn answer(stream: TcpStream, router: Router, limits: Limits, stopping: watch::Receiver<bool>) {
    let mut http = Builder::new();
    http.max_buf_size(BUFFER_BYTES).timer(TokioTimer::new()).header_read_timeout(limits.head);
    let answering = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(answering);
    let ending = async {
        tokio::select! {
            ended = answering.as_mut() => ended,
            () = stopped(stopping) => {
                answering.as_mut().graceful_shutdown();
                answering.await
            }
        }
    };
    match timeout(limits.connection, ending).await {
        Ok(Ok(())) => {}
        Ok(Err(reason)) => debug!(%reason, "an HTTP connection ended"),
        Err(_) => debug!("an HTTP connection has had its time"),
    }
}

async fn stopped(mut stopping: watch::Receiver<bool>) {
    // An error means that the server is gone, and its connections with it.
    let _ = stopping.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Until it is over nothing but the end is to be seen, however fast the machine.
    const SHORT: Duration = Duration::from_millis(20);
    const NEVER: Duration = Duration::from_secs(3_600);
    const PATIENT: Limits = Limits { connections: 9, head: NEVER, connection: NEVER };
    const ASKED: &[u8] = b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

    /// Asks a port that answers "here", until `asking` is done.
    async fn with_port(limits: Limits, metrics: &Metrics, asking: impl AsyncFnOnce(SocketAddr)) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/readyz", get(|| async { "here" }));
        tokio::select! {
            () = serve(listener, router, metrics, limits, std::future::pending()) => panic!("it serves for ever"),
            () = asking(address) => {}
        }
    }

    /// What comes back until the connection ends. One that is closed before all was read may end with an error, and may take no more.
    async fn answered(address: SocketAddr, request: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answer
    }

    #[tokio::test]
    async fn connections_that_say_nothing_or_stay_for_long_end_and_leave_their_places_to_others() {
        let unfinished = b"GET /readyz HTTP/1.1\r\nhost: x\r\n".as_slice();
        for (head, connection, said) in [(SHORT, NEVER, b"".as_slice()), (SHORT, NEVER, unfinished), (NEVER, SHORT, unfinished)] {
            let metrics = Metrics::default();
            let limits = Limits { connections: 2, head, connection };
            with_port(limits, &metrics, async |address| {
                tokio::join!(answered(address, said), answered(address, said));
                // However slow the machine: one without a place would be counted.
                answered(address, ASKED).await;
            })
            .await;
            let text = metrics.text().unwrap();
            assert!(text.contains("dynamo_operator_refused_connections_total 0\n"), "{text}");
        }
    }

    #[tokio::test]
    async fn a_connection_beyond_the_limit_takes_the_place_of_the_oldest_which_is_counted() {
        let metrics = Metrics::default();
        let limits = Limits { connections: 2, ..PATIENT };
        with_port(limits, &metrics, async |address| {
            let mut silent = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
            assert!(answered(address, ASKED).await.ends_with(b"here"));
            assert!(!matches!(silent[0].read(&mut [0]).await, Ok(1..)), "it is the oldest, and has ended");
            silent[1].write_all(ASKED).await.unwrap();
            let mut answer = Vec::new();
            silent[1].read_to_end(&mut answer).await.unwrap();
            assert!(answer.ends_with(b"here"), "it keeps its place");
        })
        .await;
        let text = metrics.text().unwrap();
        assert!(text.contains("dynamo_operator_refused_connections_total 1\n"), "{text}");
    }

    #[tokio::test]
    async fn a_head_that_is_too_long_and_http_2_are_not_answered() {
        with_port(PATIENT, &Metrics::default(), async |address| {
            assert!(answered(address, ASKED).await.ends_with(b"here"));
            let head = format!("GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx: {}\r\n\r\n", "x".repeat(20 << 10));
            let settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
            for refused in [head.as_bytes(), settings] {
                let answer = answered(address, refused).await;
                assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_stop_ends_connections_that_ask_nothing_and_the_server() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let router = Router::new().route("/readyz", get(|| async { "here" }));
        let (stop, stopping) = watch::channel(false);
        let metrics = Metrics::default();
        let asking = async {
            stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            let mut answer = [0; 512];
            let mut bytes = 0;
            while !answer[..bytes].ends_with(b"here") {
                bytes += stream.read(&mut answer[bytes..]).await.unwrap();
            }
            stop.send_replace(true);
            assert_eq!(stream.read(&mut answer).await.unwrap(), 0);
        };
        tokio::join!(serve(listener, router, &metrics, PATIENT, stopped(stopping)), asking);
    }
}
