//! What the operator shows over HTTP: `/metrics`, `/healthz`, `/readyz`.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::metrics::Metrics;

/// Serves until `shutdown` ends. A replica that waits for the lease is ready: it does its part by waiting.
pub async fn serve(
    address: SocketAddr,
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let listener = listen(address).await?;
    axum::serve(listener, router(metrics)).with_graceful_shutdown(shutdown).await
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

fn router(metrics: Arc<Metrics>) -> Router {
    let text = move || async move {
        match metrics.text() {
            Ok(text) => ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response(),
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    };
    Router::new().route("/metrics", get(text)).route("/healthz", get(|| async { "ok" })).route("/readyz", get(|| async { "ok" }))
}

#[cfg(test)]
mod tests {
    use super::*;

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
