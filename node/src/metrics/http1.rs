//! HTTP/1.1 on a port, and nothing else: of a connection there are in memory the head of one request and the answers to two.
//!
//! HTTP/2 would carry hundreds of answers at a time, for as long as its client pings, and nothing here counts what they hold. How long a
//! connection may be without a whole request is the acceptor's to say ([`crate::connections`]).

use axum::Router;
use hyper::server::conn::http1::Builder;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::debug;

use crate::connections::{Acceptor, Connection};
use crate::server::wait_for;

/// The longest head of a request, and what is written ahead: probes and Prometheus send a few hundred bytes.
const BUFFER_BYTES: usize = 16 << 10;

/// Answers what comes to `acceptor` until `stopping` turns true, and what has been asked by then. Dropped, it ends every connection.
pub async fn serve(mut acceptor: Acceptor, router: Router, stopping: watch::Receiver<bool>) {
    let mut served = JoinSet::new();
    let stop = wait_for(stopping.clone());
    tokio::pin!(stop);
    loop {
        tokio::select! {
            connection = acceptor.next() => {
                served.spawn(answer(connection, router.clone(), stopping.clone()));
            }
            Some(_) = served.join_next() => {}
            () = &mut stop => break,
        }
    }
    drop(acceptor);
    while served.join_next().await.is_some() {}
}

/// One connection, from its first request to its end.
async fn answer(connection: Connection, router: Router, stopping: watch::Receiver<bool>) {
    let mut http = Builder::new();
    http.max_buf_size(BUFFER_BYTES).header_read_timeout(None);
    let answering = http.serve_connection(TokioIo::new(connection), TowerToHyperService::new(router));
    tokio::pin!(answering);
    let ended = tokio::select! {
        ended = answering.as_mut() => ended,
        () = wait_for(stopping) => {
            answering.as_mut().graceful_shutdown();
            answering.await
        }
    };
    if let Err(reason) = ended {
        debug!(%reason, "an HTTP connection ended");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::connections::{Patience, Share, Speaks};

    /// Until it is over nothing but the end is to be seen, however fast the machine.
    const SHORT: Duration = Duration::from_millis(20);
    const NEVER: Duration = Duration::from_secs(3_600);

    /// A connection to a port that answers "here", its server, and what stops that.
    async fn dialled(silence_max: Duration) -> (TcpStream, impl Future<Output = ()>, watch::Sender<bool>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let patience = Patience { silence_max, unread_max: NEVER };
        let acceptor = Acceptor::new(listener, Share::new("http", 9), Speaks::Http1, patience);
        let router = Router::new().route("/", axum::routing::get(|| async { "here" }));
        let (stop, stopping) = watch::channel(false);
        (stream, serve(acceptor, router, stopping), stop)
    }

    #[tokio::test]
    async fn a_request_to_the_http_port_is_answered_and_one_that_never_ends_is_not_waited_for() {
        for (silence_max, request, answered) in [
            (NEVER, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", true),
            (SHORT, "GET / HTTP/1.1\r\nhost: x\r\n", false),
        ] {
            let (mut stream, serving, _stop) = dialled(silence_max).await;
            let asking = async {
                stream.write_all(request.as_bytes()).await.unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.unwrap();
                assert_eq!(answer.ends_with("here"), answered, "{answer}");
            };
            tokio::select! {
                () = serving => panic!("it serves for ever"),
                () = asking => {}
            }
        }
    }

    #[tokio::test]
    async fn a_stop_ends_connections_that_ask_nothing_and_the_server() {
        let (mut stream, serving, stop) = dialled(NEVER).await;
        let asking = async {
            stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            let mut answer = [0; 512];
            let mut bytes = 0;
            while !answer[..bytes].ends_with(b"here") {
                bytes += stream.read(&mut answer[bytes..]).await.unwrap();
            }
            stop.send_replace(true);
            assert_eq!(stream.read(&mut answer).await.unwrap(), 0);
        };
        tokio::join!(serving, asking);
    }
}
