//! What the operator shows over HTTP: `/metrics`, `/healthz`, `/readyz`.

mod connections;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::metrics::Metrics;

/// Whether this replica could do its part: it can read clusters, and the lease if it needs one. One that waits for the lease does its part by
/// waiting. One that cannot do it takes nobody's place: the replica that works goes only when the new one is ready. One that acts says here that
/// it no longer can ([`crate::ability`]).
#[derive(Default)]
pub struct Readiness(AtomicBool);

impl Readiness {
    /// It could, or could not, when it tried last.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }

    /// What was set last; not ready at first.
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Serves until `shutdown` ends.
pub async fn serve(
    address: SocketAddr,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let listener = listen(address).await?;
    let router = router(Arc::clone(&metrics), readiness);
    connections::serve(listener, router, &metrics, connections::Limits::default(), shutdown).await;
    Ok(())
}

/// [::] takes both kinds of addresses. Where there is no IPv6, every address is 0.0.0.0.
async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && error.kind() != ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    }
}

fn router(metrics: Arc<Metrics>, readiness: Arc<Readiness>) -> Router {
    let text = move || async move {
        match metrics.text() {
            Ok(text) => ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response(),
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    };
    let ready = move || async move { ready(&readiness) };
    Router::new().route("/metrics", get(text)).route("/healthz", get(|| async { "ok" })).route("/readyz", get(ready))
}

fn ready(readiness: &Readiness) -> (StatusCode, &'static str) {
    match readiness.is_ready() {
        true => (StatusCode::OK, "ok"),
        false => {
            (StatusCode::SERVICE_UNAVAILABLE, "clusters, their status or the lease cannot be read or written; the log says why")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_could_do_nothing_is_not_called_ready() {
        let readiness = Readiness::default();
        assert_eq!(ready(&readiness).0, StatusCode::SERVICE_UNAVAILABLE);
        readiness.set(true);
        assert_eq!(ready(&readiness).0, StatusCode::OK);
    }

    #[tokio::test]
    async fn every_address_is_of_both_kinds_where_there_are_both() {
        let listener = listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok());
        match TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await {
            Ok(_) => assert!(tokio::net::TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.is_ok()),
            Err(error) => eprintln!("SKIPPED: this machine has no IPv6: {error}"),
        }
    }
}
