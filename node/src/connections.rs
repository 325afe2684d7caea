//! Connections that others open: each port has its share of the files that this process may open, and whoever says nothing is sent
//! away.
//!
//! ```text
//! open files   1/2 RocksDB │ 1/4 clients │ 1/8 peers │ 1/32 HTTP │ the rest: links to peers, and what else is open
//! ```
//!
//! A process that has no file left cannot begin a log either, and ends. So a port takes no more than its share: what is beyond it
//! is closed at once, and counted. The shares are apart, so that no crowd of clients keeps the peers out.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tonic::transport::server::{Connected, TcpConnectInfo};
use tracing::{info, warn};

use crate::figure::Figure;

const CLIENTS_PART: u64 = 4;
const PEERS_PART: u64 = 8;
const HTTP_PART: u64 = 32;
/// No share is larger, however many files may be open: each connection takes memory too.
const SHARE_MAX: u64 = 16_384;
/// What every HTTP/2 connection begins with.
const PREFACE_BYTES: usize = 24;
/// For so long a connection may be without its preface, or without a whole request on the HTTP port.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);
/// After a connection could not be taken, for want of memory perhaps: the next attempt would fail at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Lets this process open all the files that it may, and says how many.
pub fn open_files_max() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            warn!(current = limit.current, maximum = limit.maximum, %error, "the limit of open files cannot be raised");
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The connections that one port may have.
#[derive(Debug)]
pub struct Share {
    port: &'static str,
    bound: usize,
    places: Arc<Semaphore>,
    refused: AtomicU64,
    /// Said once, until there are places again.
    is_full: AtomicBool,
}

impl Share {
    /// So many for this port.
    pub fn new(port: &'static str, bound: usize) -> Arc<Self> {
        let (places, refused, is_full) = (Arc::new(Semaphore::new(bound)), AtomicU64::new(0), AtomicBool::new(false));
        Arc::new(Self { port, bound, places, refused, is_full })
    }

    fn take(&self) -> Option<OwnedSemaphorePermit> {
        let (port, bound) = (self.port, self.bound);
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            if self.is_full.swap(false, Ordering::Relaxed) {
                info!(port, bound, "connections are taken again");
            }
            return Some(place);
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        if !self.is_full.swap(true, Ordering::Relaxed) {
            warn!(
                port,
                bound, "all connections that this port may have are open: more are closed at once; raise the limit of open files"
            );
        }
        None
    }

    fn open(&self) -> u64 {
        (self.bound - self.places.available_permits()) as u64
    }
}

/// The shares of all ports.
#[derive(Clone, Debug)]
pub struct Connections {
    /// Clients, administrators and tools.
    pub clients: Arc<Share>,
    /// Other nodes.
    pub peers: Arc<Share>,
    /// Metrics and probes.
    pub http: Arc<Share>,
}

impl Connections {
    /// Of a process that may open so many files.
    pub fn of(open_files: u64) -> Self {
        let share = |port, part: u64| Share::new(port, (open_files / part).clamp(1, SHARE_MAX) as usize);
        Self { clients: share("client", CLIENTS_PART), peers: share("peer", PEERS_PART), http: share("http", HTTP_PART) }
    }

    /// For metrics.
    pub fn figures(&self) -> [Figure; 4] {
        let refused = [&self.clients, &self.peers, &self.http].map(|share| share.refused.load(Ordering::Relaxed));
        [
            Figure::varying("connections_client", "Connections of clients, administrators and tools", self.clients.open()),
            Figure::varying("connections_peer", "Connections of peers", self.peers.open()),
            Figure::varying("connections_http", "Connections for metrics and probes", self.http.open()),
            Figure::growing("connections_refused", "Connections closed at a port's bound", refused.iter().sum()),
        ]
    }
}

/// What is spoken on a port, and so what a connection owes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Speaks {
    /// Its preface; later silence is found by pings.
    Http2,
    /// A whole request, after the last answer or the beginning.
    Http1,
}

/// A port that takes connections within its share.
pub struct Acceptor {
    listener: TcpListener,
    share: Arc<Share>,
    speaks: Speaks,
    silence_max: Duration,
}

impl Acceptor {
    /// Takes what comes to `listener`.
    pub fn new(listener: TcpListener, share: Arc<Share>, speaks: Speaks, silence_max: Duration) -> Self {
        Self { listener, share, speaks, silence_max }
    }

    async fn next(&mut self) -> (Connection, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, from)) => {
                    if let Some(place) = self.share.take() {
                        // A stream that takes no option has ended, which its first read says.
                        let _ = stream.set_nodelay(true);
                        return (Connection::new(stream, place, self.speaks, self.silence_max), from);
                    }
                }
                Err(error) => {
                    warn!(port = self.share.port, %error, "a connection could not be taken");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// All that come, for tonic.
    pub fn incoming(self) -> impl Stream<Item = io::Result<Connection>> {
        futures::stream::unfold(self, |mut acceptor| async { Some((Ok(acceptor.next().await.0), acceptor)) })
    }
}

impl axum::serve::Listener for Acceptor {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        self.next().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// One connection, which has its place until it is dropped.
pub struct Connection {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
    speaks: Speaks,
    silence_max: Duration,
    /// Bytes of the preface that have not come.
    owed: usize,
    /// `None` once nothing is owed any more.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    fn new(stream: TcpStream, place: OwnedSemaphorePermit, speaks: Speaks, silence_max: Duration) -> Self {
        let deadline = Some(Box::pin(tokio::time::sleep(silence_max)));
        Self { stream, _place: place, speaks, silence_max, owed: PREFACE_BYTES, deadline }
    }

    fn heard(&mut self, bytes: usize) {
        self.owed = self.owed.saturating_sub(bytes);
        if self.speaks == Speaks::Http2 && self.owed == 0 {
            self.deadline = None;
        }
    }

    fn said(&mut self) {
        if self.speaks == Speaks::Http1
            && let Some(deadline) = &mut self.deadline
        {
            deadline.as_mut().reset(Instant::now() + self.silence_max);
        }
    }

    /// `result`, unless nothing moves and the deadline is over.
    fn in_time<T>(&mut self, result: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if result.is_pending()
            && let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        result
    }

    fn written(&mut self, result: Poll<io::Result<usize>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if result.is_ready() {
            self.said();
        }
        self.in_time(result, context)
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.heard(buffer.filled().len() - before);
        self.in_time(result, context)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(result, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.written(result, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Until it is over nothing but the end is to be seen, however fast the machine.
    const SHORT: Duration = Duration::from_millis(20);
    const NEVER: Duration = Duration::from_secs(3_600);

    async fn port(share: &Arc<Share>, speaks: Speaks, silence_max: Duration) -> (Acceptor, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Acceptor::new(listener, Arc::clone(share), speaks, silence_max), address)
    }

    async fn is_closed(mut stream: TcpStream) -> bool {
        stream.read(&mut [0; 64]).await.is_ok_and(|bytes| bytes == 0)
    }

    #[tokio::test]
    async fn a_port_takes_its_share_and_closes_what_is_beyond_until_there_is_a_place_again() {
        let connections = Connections::of(8);
        let (mut clients, address) = port(&connections.clients, Speaks::Http2, NEVER).await;
        let (mut peers, peer_address) = port(&connections.peers, Speaks::Http2, NEVER).await;
        let _held = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        let first = clients.next().await;
        let _second = clients.next().await;
        assert_eq!(connections.figures().map(|figure| figure.value), [2, 0, 0, 0]);
        let beyond = TcpStream::connect(address).await.unwrap();
        tokio::select! {
            _ = clients.next() => panic!("there is no place"),
            closed = is_closed(beyond) => assert!(closed),
        }
        // The peers' port is another one.
        let _peer = TcpStream::connect(peer_address).await.unwrap();
        let _taken = peers.next().await;
        assert_eq!(connections.figures().map(|figure| figure.value), [2, 1, 0, 1]);
        drop(first);
        let _again = TcpStream::connect(address).await.unwrap();
        clients.next().await;
    }

    #[tokio::test]
    async fn a_connection_without_a_preface_is_ended_and_one_with_it_may_be_silent() {
        let share = Share::new("client", 9);
        let (mut clients, address) = port(&share, Speaks::Http2, SHORT).await;
        let mut dialled = TcpStream::connect(address).await.unwrap();
        let (mut taken, _) = clients.next().await;
        dialled.write_all(&[b'P'; PREFACE_BYTES - 1]).await.unwrap();
        let error = taken.read_exact(&mut [0; PREFACE_BYTES]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(taken);
        assert_eq!(share.open(), 0);

        let mut dialled = TcpStream::connect(address).await.unwrap();
        let (mut taken, _) = clients.next().await;
        dialled.write_all(&[b'P'; PREFACE_BYTES]).await.unwrap();
        taken.read_exact(&mut [0; PREFACE_BYTES]).await.unwrap();
        assert!(taken.deadline.is_none());
    }

    #[tokio::test]
    async fn a_request_to_the_http_port_is_answered_and_one_that_never_ends_is_not_waited_for() {
        for (silence_max, request, answered) in [
            (NEVER, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", true),
            (SHORT, "GET / HTTP/1.1\r\nhost: x\r\n", false),
        ] {
            let (http, address) = port(&Share::new("http", 9), Speaks::Http1, silence_max).await;
            let router = axum::Router::new().route("/", axum::routing::get(|| async { "here" }));
            let asking = async {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(request.as_bytes()).await.unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.unwrap();
                assert_eq!(answer.ends_with("here"), answered, "{answer}");
            };
            tokio::select! {
                _ = axum::serve(http, router).into_future() => panic!("it serves for ever"),
                () = asking => {}
            }
        }
    }

    #[test]
    fn the_shares_leave_half_of_the_files_to_the_engine_and_some_to_the_links() {
        for open_files in [8, 1_024, 4_096, 1 << 20, u64::MAX] {
            let Connections { clients, peers, http } = Connections::of(open_files);
            let all = (clients.bound + peers.bound + http.bound) as u64;
            assert!(all < open_files / 2 || open_files < 64, "{all} of {open_files}");
            assert!(peers.bound > 0 && http.bound > 0 && clients.bound as u64 <= SHARE_MAX);
        }
    }

    #[test]
    fn the_limit_of_open_files_is_raised_to_what_is_allowed() {
        let most = open_files_max();
        assert_eq!(Some(most), getrlimit(Resource::Nofile).maximum.or(Some(u64::MAX)));
    }
}
