//! Connections that others open: each port has its share of the files that this process may open, and whoever says nothing is sent
//! away.
//!
//! ```text
//! open files   1/2 RocksDB │ 1/4 clients │ 1/8 peers │ 1/32 HTTP │ the rest: links to peers, and what else is open
//! ```
//!
//! A process that has no file left cannot begin a log either, and ends. So a port takes no more than its share: what is beyond it
//! is closed at once, and counted. The shares are apart, so that no crowd of clients keeps the peers out. No port takes more than memory
//! allows either.
//!
//! A connection whose client leaves an answer unread for long is closed: what it holds is what others may read.

use std::collections::BTreeSet;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tonic::transport::server::Connected;
use tracing::{debug, info, warn};

use crate::figure::Figure;

const CLIENTS_PART: u64 = 4;
const PEERS_PART: u64 = 8;
const HTTP_PART: u64 = 32;
/// No share is larger, however many files may be open: each connection takes memory too.
const SHARE_MAX: u64 = 16_384;
/// Connections of clients may take this part of memory, and those of peers as much ...
const MEMORY_PART: u64 = 8;
/// ... each so much: 256 calls that were refused, and its buffers. What its calls hold is counted apart ([`crate::budget`]).
const CONNECTION_BYTES: u64 = 256 << 10;
/// So many of each may be there on the smallest machine.
const CONNECTIONS_MIN: u64 = 256;
/// Connections of the HTTP port may take this part of memory ...
const HTTP_MEMORY_PART: u64 = 64;
/// ... each so much: the metrics that are written, those that wait behind them, and its buffers.
const HTTP_CONNECTION_BYTES: u64 = 512 << 10;
/// So many may be there on the smallest machine: probes, and several that read the metrics.
const HTTP_CONNECTIONS_MIN: u64 = 16;
/// What every HTTP/2 connection begins with.
const PREFACE_BYTES: usize = 24;
/// For so long a connection may be without its preface, or without a whole request on the HTTP port.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);
/// After a connection could not be taken, for want of memory perhaps: the next attempt would fail at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// For so long an answer may wait for its client to read it ...
pub const UNREAD_MAX: Duration = Duration::from_secs(30);
/// ... and a second longer for each of these of it.
const UNREAD_BYTES_PER_SECOND: u64 = 256 << 10;
/// Between two looks for answers that wait too long, as a part of what they may.
const LOOKS: u32 = 4;

/// With fewer open files a node starts, and ends when its data has grown, as all others of its cluster do then: RocksDB opens more files
/// than it keeps open, while it compacts. Twice what a loaded node was seen to get along with.
pub const OPEN_FILES_LEAST: u64 = 256;

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
    /// Closed because an answer was not read.
    unread: AtomicU64,
    /// Said once, until there are places again.
    is_full: AtomicBool,
}

impl Share {
    /// So many for this port.
    pub fn new(port: &'static str, bound: usize) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(bound));
        let (refused, unread, is_full) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        Arc::new(Self { port, bound, places, refused, unread, is_full })
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
                bound,
                "all connections that this port may have are open: more are closed at once; raise the limit of open files, or of memory"
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
    /// Of a process that may open so many files and use so much memory.
    pub fn of(open_files: u64, memory_bytes: u64) -> Self {
        let share = |port, part: u64, most: u64| Share::new(port, (open_files / part).clamp(1, most) as usize);
        let most = (memory_bytes / MEMORY_PART / CONNECTION_BYTES).clamp(CONNECTIONS_MIN, SHARE_MAX);
        let http_most = (memory_bytes / HTTP_MEMORY_PART / HTTP_CONNECTION_BYTES).clamp(HTTP_CONNECTIONS_MIN, SHARE_MAX);
        Self {
            clients: share("client", CLIENTS_PART, most),
            peers: share("peer", PEERS_PART, most),
            http: share("http", HTTP_PART, http_most),
        }
    }

    /// For metrics.
    pub fn figures(&self) -> [Figure; 5] {
        let shares = [&self.clients, &self.peers, &self.http];
        let refused = shares.map(|share| share.refused.load(Ordering::Relaxed));
        let unread = shares.map(|share| share.unread.load(Ordering::Relaxed));
        [
            Figure::varying("connections_client", "Connections of clients, administrators and tools", self.clients.open()),
            Figure::varying("connections_peer", "Connections of peers", self.peers.open()),
            Figure::varying("connections_http", "Connections for metrics and probes", self.http.open()),
            Figure::growing("connections_refused", "Connections closed at a port's bound", refused.iter().sum()),
            Figure::growing("connections_unread", "Connections closed because an answer was not read", unread.iter().sum()),
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

/// Something whose answers a client reads by and by.
pub trait Watched: Send + Sync {
    /// Whether answers wait of which none was read since the last look.
    fn stands_still(&self) -> bool;
}

/// The answers on one connection that its client has not read.
pub struct Unread {
    max: Duration,
    serial: AtomicU64,
    /// When each has waited too long.
    deadlines: Mutex<BTreeSet<(Instant, u64)>>,
    /// What has answers of its own, and how many looks found it standing still.
    watched: Mutex<Vec<(Weak<dyn Watched>, u32)>>,
}

impl Unread {
    fn new(max: Duration) -> Arc<Self> {
        Arc::new(Self { max, serial: AtomicU64::new(0), deadlines: Mutex::default(), watched: Mutex::default() })
    }

    fn deadlines(&self) -> MutexGuard<'_, BTreeSet<(Instant, u64)>> {
        self.deadlines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer of so many bytes waits to be read, until what is returned is dropped.
    pub fn expect(self: &Arc<Self>, bytes: usize) -> UnreadAnswer {
        let at = Instant::now() + self.max + Duration::from_secs(bytes as u64 / UNREAD_BYTES_PER_SECOND);
        let deadline = (at, self.serial.fetch_add(1, Ordering::Relaxed));
        self.deadlines().insert(deadline);
        UnreadAnswer { unread: Arc::clone(self), deadline }
    }

    /// Looks from now on whether the answers of `session` are read.
    pub fn watch(&self, session: Weak<dyn Watched>) {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).push((session, 0));
    }

    fn is_overdue(&self, now: Instant) -> bool {
        self.deadlines().first().is_some_and(|(at, _)| *at <= now)
    }

    /// Whether something waits too long; called [`LOOKS`] times in the time that it may.
    fn look(&self, now: Instant) -> bool {
        let mut stuck = false;
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).retain_mut(|(session, looks)| {
            let Some(session) = session.upgrade() else { return false };
            *looks = if session.stands_still() { *looks + 1 } else { 0 };
            stuck |= *looks >= LOOKS;
            true
        });
        stuck || self.is_overdue(now)
    }
}

/// One answer that waits.
pub struct UnreadAnswer {
    unread: Arc<Unread>,
    deadline: (Instant, u64),
}

impl Drop for UnreadAnswer {
    fn drop(&mut self) {
        self.unread.deadlines().remove(&self.deadline);
    }
}

/// For how long a connection may owe something.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Its preface, or a whole request.
    pub silence_max: Duration,
    /// To read an answer, where calls tell of theirs ([`Unread`]).
    pub unread_max: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { silence_max: SILENCE_MAX, unread_max: UNREAD_MAX }
    }
}

/// A port that takes connections within its share.
pub struct Acceptor {
    listener: TcpListener,
    share: Arc<Share>,
    speaks: Speaks,
    patience: Patience,
}

impl Acceptor {
    /// Takes what comes to `listener`.
    pub fn new(listener: TcpListener, share: Arc<Share>, speaks: Speaks, patience: Patience) -> Self {
        Self { listener, share, speaks, patience }
    }

    /// The next that has a place. Given up while it waits, it has taken none.
    pub async fn next(&mut self) -> Connection {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    if let Some(place) = self.share.take() {
                        // A stream that takes no option has ended, which its first read says.
                        let _ = stream.set_nodelay(true);
                        return Connection::new(stream, place, Arc::clone(&self.share), self.speaks, self.patience);
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
        futures::stream::unfold(self, |mut acceptor| async { Some((Ok(acceptor.next().await), acceptor)) })
    }
}

/// One connection, which has its place until it is dropped.
pub struct Connection {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
    share: Arc<Share>,
    speaks: Speaks,
    patience: Patience,
    /// Bytes of the preface that have not come.
    owed: usize,
    /// When what is owed is overdue; once nothing is, when to look whether an answer was not read.
    deadline: Pin<Box<Sleep>>,
    unread: Arc<Unread>,
}

impl Connection {
    fn new(stream: TcpStream, place: OwnedSemaphorePermit, share: Arc<Share>, speaks: Speaks, patience: Patience) -> Self {
        let deadline = Box::pin(tokio::time::sleep(patience.silence_max));
        let unread = Unread::new(patience.unread_max);
        Self { stream, _place: place, share, speaks, patience, owed: PREFACE_BYTES, deadline, unread }
    }

    fn heard(&mut self, bytes: usize) {
        if self.speaks == Speaks::Http2 && self.owed > 0 && bytes >= self.owed {
            self.look_again();
        }
        self.owed = self.owed.saturating_sub(bytes);
    }

    fn said(&mut self) {
        if self.speaks == Speaks::Http1 {
            self.deadline.as_mut().reset(Instant::now() + self.patience.silence_max);
        }
    }

    fn look_again(&mut self) {
        self.deadline.as_mut().reset(Instant::now() + self.patience.unread_max / LOOKS);
    }

    /// `result`, unless nothing moves and the deadline is over.
    fn in_time<T>(&mut self, result: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        while result.is_pending() && self.deadline.as_mut().poll(context).is_ready() {
            if self.speaks == Speaks::Http1 || self.owed > 0 {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            if self.unread.look(Instant::now()) {
                self.share.unread.fetch_add(1, Ordering::Relaxed);
                debug!(port = self.share.port, "a connection is closed: an answer on it was not read");
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "an answer was not read")));
            }
            self.look_again();
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
    type ConnectInfo = Arc<Unread>;

    fn connect_info(&self) -> Arc<Unread> {
        Arc::clone(&self.unread)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Until it is over nothing but the end is to be seen, however fast the machine.
    const SHORT: Duration = Duration::from_millis(20);
    const NEVER: Duration = Duration::from_secs(3_600);

    async fn port(share: &Arc<Share>, speaks: Speaks, silence_max: Duration) -> (Acceptor, SocketAddr) {
        patient_port(share, speaks, Patience { silence_max, unread_max: NEVER }).await
    }

    async fn patient_port(share: &Arc<Share>, speaks: Speaks, patience: Patience) -> (Acceptor, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Acceptor::new(listener, Arc::clone(share), speaks, patience), address)
    }

    async fn is_closed(mut stream: TcpStream) -> bool {
        stream.read(&mut [0; 64]).await.is_ok_and(|bytes| bytes == 0)
    }

    #[tokio::test]
    async fn a_port_takes_its_share_and_closes_what_is_beyond_until_there_is_a_place_again() {
        let connections = Connections::of(8, 0);
        let (mut clients, address) = port(&connections.clients, Speaks::Http2, NEVER).await;
        let (mut peers, peer_address) = port(&connections.peers, Speaks::Http2, NEVER).await;
        let _held = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        let first = clients.next().await;
        let _second = clients.next().await;
        assert_eq!(connections.figures().map(|figure| figure.value), [2, 0, 0, 0, 0]);
        let beyond = TcpStream::connect(address).await.unwrap();
        tokio::select! {
            _ = clients.next() => panic!("there is no place"),
            closed = is_closed(beyond) => assert!(closed),
        }
        // The peers' port is another one.
        let _peer = TcpStream::connect(peer_address).await.unwrap();
        let _taken = peers.next().await;
        assert_eq!(connections.figures().map(|figure| figure.value), [2, 1, 0, 1, 0]);
        drop(first);
        let _again = TcpStream::connect(address).await.unwrap();
        clients.next().await;
    }

    #[tokio::test]
    async fn a_connection_without_a_preface_is_ended_and_one_with_it_may_be_silent() {
        let share = Share::new("client", 9);
        let (mut clients, address) = port(&share, Speaks::Http2, SHORT).await;
        let mut dialled = TcpStream::connect(address).await.unwrap();
        let mut taken = clients.next().await;
        dialled.write_all(&[b'P'; PREFACE_BYTES - 1]).await.unwrap();
        let error = taken.read_exact(&mut [0; PREFACE_BYTES]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(taken);
        assert_eq!(share.open(), 0);

        let mut dialled = TcpStream::connect(address).await.unwrap();
        let mut taken = clients.next().await;
        dialled.write_all(&[b'P'; PREFACE_BYTES]).await.unwrap();
        taken.read_exact(&mut [0; PREFACE_BYTES]).await.unwrap();
        assert!(taken.deadline.deadline() > Instant::now() + NEVER / (2 * LOOKS));
    }

    #[tokio::test]
    async fn a_connection_on_which_an_answer_is_not_read_is_ended_and_one_with_none_may_be_silent() {
        for is_read in [false, true] {
            let share = Share::new("client", 9);
            let (mut clients, address) =
                patient_port(&share, Speaks::Http2, Patience { silence_max: NEVER, unread_max: SHORT }).await;
            let mut dialled = TcpStream::connect(address).await.unwrap();
            let mut taken = clients.next().await;
            dialled.write_all(&[b'P'; PREFACE_BYTES]).await.unwrap();
            taken.read_exact(&mut [0; PREFACE_BYTES]).await.unwrap();
            let mut waits = Some(taken.connect_info().expect(1));
            let begun = Instant::now();
            if is_read {
                drop(waits.take());
            }
            let mut one_more = [0];
            // Long enough for many looks.
            let read = tokio::time::timeout(if is_read { 4 * SHORT } else { NEVER }, taken.read_exact(&mut one_more)).await;
            match read {
                Ok(ended) => assert!(!is_read && ended.unwrap_err().kind() == io::ErrorKind::TimedOut),
                Err(_) => assert!(is_read),
            }
            assert!(begun.elapsed() >= SHORT);
            assert_eq!(share.unread.load(Ordering::Relaxed), u64::from(!is_read));
        }
    }

    #[test]
    fn a_session_whose_answers_are_not_read_is_found_after_some_looks() {
        struct Session(AtomicBool);
        impl Watched for Session {
            fn stands_still(&self) -> bool {
                self.0.load(Ordering::Relaxed)
            }
        }
        let unread = Unread::new(UNREAD_MAX);
        let session = Arc::new(Session(AtomicBool::new(true)));
        let watched: Weak<Session> = Arc::downgrade(&session);
        unread.watch(watched);
        let looks = |count: u32| (0..count).map(|_| unread.look(Instant::now())).collect::<Vec<_>>();
        assert_eq!(looks(LOOKS - 1), [false; LOOKS as usize - 1]);
        session.0.store(false, Ordering::Relaxed);
        assert_eq!(looks(1), [false]);
        session.0.store(true, Ordering::Relaxed);
        assert_eq!(looks(LOOKS), [false, false, false, true]);
        drop(session);
        assert_eq!(looks(LOOKS), [false; LOOKS as usize]);
    }

    #[tokio::test]
    async fn a_long_answer_may_be_read_for_longer() {
        let unread = Unread::new(UNREAD_MAX);
        let (short, long) = (unread.expect(1), unread.expect(10 << 20));
        let now = Instant::now();
        assert!(!unread.is_overdue(now + UNREAD_MAX / 2) && unread.is_overdue(now + UNREAD_MAX));
        drop(short);
        assert!(!unread.is_overdue(now + UNREAD_MAX + Duration::from_secs(39)));
        assert!(unread.is_overdue(now + UNREAD_MAX + Duration::from_secs(40)));
        drop(long);
        assert!(!unread.is_overdue(now + 1_000 * UNREAD_MAX));
    }

    #[test]
    fn the_shares_leave_half_of_the_files_to_the_engine_and_some_to_the_links() {
        for open_files in [8, 1_024, 4_096, 1 << 20, u64::MAX] {
            let Connections { clients, peers, http } = Connections::of(open_files, u64::MAX);
            let all = (clients.bound + peers.bound + http.bound) as u64;
            assert!(all < open_files / 2 || open_files < 64, "{all} of {open_files}");
            assert!(peers.bound > 0 && http.bound > 0 && clients.bound as u64 <= SHARE_MAX);
        }
    }

    #[test]
    fn there_are_no_more_connections_than_memory_allows() {
        for (memory, clients, http) in [(0, 256, 16), (1 << 30, 512, 32), (8 << 30, 4_096, 256), (u64::MAX, 16_384, 16_384)] {
            let connections = Connections::of(u64::MAX, memory);
            let bounds = [&connections.clients, &connections.peers, &connections.http].map(|share| share.bound);
            assert_eq!(bounds, [clients, clients, http]);
        }
    }

    #[test]
    fn the_limit_of_open_files_is_raised_to_what_is_allowed() {
        let most = open_files_max();
        assert_eq!(Some(most), getrlimit(Resource::Nofile).maximum.or(Some(u64::MAX)));
    }
}
