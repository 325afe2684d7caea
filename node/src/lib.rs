//! The storage node: drivers around `dynamo-core`, which decides everything.
//!
//! | module | what it does |
//! |---|---|
//! | [`config`] | file, flags and environment to one valid configuration |
//! | [`identity`] | who this node is: its data directory |
//! | [`storage`] | RocksDB behind one batching writer, and the thread that fsyncs |
//! | [`driver`] | the loop that owns the protocol |
//! | [`peers`] | links to other nodes |
//! | [`server`] | gRPC: clients, administrators, peers |
//! | [`connections`] | how many connections each port takes, and for how long a silent one |
//! | [`budget`] | what calls and answers may hold in memory, in all |
//! | [`refusals`] | what other nodes are refused: counted, and told now and then |
//! | [`memory`] | how much memory there is |
//! | [`metrics`] | HTTP: metrics and probes |
//! | [`figure`] | a number that the driver, the links or the engine tell of themselves |
//! | [`telemetry`] | log lines |
//!
//! The protocol and all servers run in the runtime of whoever awaits [`Bound::run`], which the program gives one thread. Fsyncs, the opening
//! of the database, RocksDB's flushes and compaction, and look-ups of names have threads of their own.

pub mod budget;
pub mod config;
pub mod connections;
pub mod driver;
pub mod figure;
pub mod identity;
pub mod memory;
pub mod metrics;
pub mod peers;
pub mod refusals;
pub mod server;
pub mod storage;
pub mod telemetry;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use dynamo_core::id::NodeId;
use dynamo_core::node::{Identity, Node};
use dynamo_core::storage::{StorageError, Ticket};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at};
use tracing::info;

use budget::{Budget, Budgets};
use config::{ConfigError, Listen, ValidConfig};
use connections::{Acceptor, Connections, Patience, Speaks};
use driver::{Clock, Driver, Inbox, Shared, Space};
use identity::{DataDir, IdentityError};
use metrics::Stage;
use peers::{Own, Peers};
use server::admin::AdminService;
use server::calls::{Calls, MESSAGE_MAX};
use server::kv::KvService;
use server::peer::PeerService;
use storage::syncer::Syncer;

/// How long connections may take to close once the loop has ended.
const CLOSE_MAX: Duration = Duration::from_secs(2);
/// A long start says so in the log, so often.
const OPENING_TOLD_EVERY: Duration = Duration::from_secs(10);
/// What a long start has done so far is made durable so often.
const OPENING_SYNCED_EVERY: Duration = Duration::from_secs(1);

/// Why a node ended, or did not start.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address cannot be listened on.
    #[error("{field}: {address}: {error}; choose a free address of this machine")]
    Listen {
        /// The setting.
        field: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// The process may open too few files.
    #[error(
        "open files: this process may open {allowed}, and needs more as its data grows; let it open {} at least (`ulimit -n`, LimitNOFILE in systemd)",
        connections::OPEN_FILES_LEAST
    )]
    OpenFiles {
        /// The limit, raised as far as it can be.
        allowed: u64,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] IdentityError),
    /// The storage failed while the node ran.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A thread, for fsyncs or for opening the data, did not start.
    #[error("a thread does not start: {0}")]
    Thread(std::io::Error),
    /// A port is no longer served.
    #[error("the {port} service ended: {reason}")]
    Service {
        /// Which.
        port: &'static str,
        /// Why.
        reason: String,
    },
}

impl NodeError {
    /// What the process returns to its parent.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Listen { .. } | Self::OpenFiles { .. } => 2,
            Self::DataDir(_) => 3,
            Self::Storage(_) => 4,
            Self::Thread(_) | Self::Service { .. } => 1,
        }
    }
}

/// Runs a node until `stop` completes. Where that is while RocksDB opens, a thread is left in it: the process has to end then, as if it were
/// killed, and may not run what C++ does at the end of one.
pub async fn run(config: ValidConfig, stop: impl Future<Output = ()>) -> Result<(), NodeError> {
    Bound::new(config).await?.run(stop, drop).await
}

/// A node with its ports, before it has opened its data directory.
pub struct Bound {
    config: ValidConfig,
    client: TcpListener,
    peer: TcpListener,
    http: TcpListener,
    listen: Listen,
    connections: Connections,
    budgets: Budgets,
    memory_bytes: u64,
}

impl Bound {
    /// Takes the ports. A port 0 becomes a free one.
    pub async fn new(mut config: ValidConfig) -> Result<Self, NodeError> {
        let memory_bytes = memory::memory_bytes();
        config.protocol.version_cache_entries_max = budget::version_cache_entries_max(memory_bytes);
        config.protocol.get_bytes_max = budget::in_flight_bytes_max(memory_bytes);
        config.protocol.put_bytes_max = budget::in_flight_bytes_max(memory_bytes);
        let open_files = connections::open_files_max();
        if open_files < connections::OPEN_FILES_LEAST {
            return Err(NodeError::OpenFiles { allowed: open_files });
        }
        let connections = Connections::of(open_files, memory_bytes);
        let client = listen("listen.client", config.listen.client).await?;
        let peer = listen("listen.peer", config.listen.peer).await?;
        let http = listen("listen.http", config.listen.http).await?;
        let listen = Listen {
            client: bound("listen.client", config.listen.client, &client)?,
            peer: bound("listen.peer", config.listen.peer, &peer)?,
            http: bound("listen.http", config.listen.http, &http)?,
        };
        let budgets = Budgets::of(memory_bytes);
        Ok(Self { config, client, peer, http, listen, connections, budgets, memory_bytes })
    }

    /// Where it listens.
    pub fn addresses(&self) -> Listen {
        self.listen
    }

    /// Opens the data directory, says `opened` who the node is, and serves until `stop` completes; then finishes what is in flight and makes
    /// it durable.
    pub async fn run(self, stop: impl Future<Output = ()>, opened: impl FnOnce(NodeId)) -> Result<(), NodeError> {
        let Self { config, client, peer, http, listen, connections, budgets, memory_bytes } = self;
        let (inbox, received) = Inbox::of(memory_bytes);
        let (ready, is_ready) = watch::channel(false);
        let (stop_clients, clients_stop) = watch::channel(false);
        let (stop_peers, peers_stop) = watch::channel(false);
        // Dropping the set ends them all. Who asks whether the process lives hears it from the first moment on: to open may take long.
        let mut servers = JoinSet::new();
        let http = Acceptor::new(http, connections.http.clone(), Speaks::Http1, Patience::default());
        let (stage, stages) = watch::channel(Stage::opening_the_database());
        let probes = metrics::serve(http, inbox.clone(), connections.clone(), stages, is_ready.clone(), peers_stop.clone());
        servers.spawn(async {
            probes.await;
            Ok(())
        });
        tokio::pin!(stop);
        info!(?listen, data_dir = %config.data_dir.display(), log_bytes = identity::log_bytes(&config), "opens the database");
        let settings = config.clone();
        let data = tokio::select! {
            data = opening(move || identity::open(&settings), None, "RocksDB replays its log") => data?,
            // RocksDB cannot be told to stop. Whatever it has done so far is as if the process had been killed: it begins again at the next start.
            ended = ended_early(&mut stop, &mut servers) => return ended,
        };
        opened(data.node);
        stage.send_replace(Stage::reading_the_data());
        let own = own(&config, &data, listen);
        info!(node = %own.node, cluster = %own.cluster, zone = config.zone, generation = data.generation, ?listen, "starting");
        let clock = Clock::start();
        let syncer = Syncer::start(data.engine.log()).map_err(NodeError::Thread)?;
        let identity = Identity {
            node: own.node,
            cluster: own.cluster,
            zone: config.zone,
            peer_address: own.peer_address.clone(),
            client_address: own.client_address.clone(),
            generation: data.generation,
        };
        let interrupt = data.engine.interrupt();
        let open = move || Node::open(identity, config.protocol, data.engine, rand::random(), clock.now());
        let node = {
            let opening = opening(open, Some(&syncer), "reads what the last stop left behind");
            tokio::pin!(opening);
            tokio::select! {
                node = &mut opening => node?,
                ended = ended_early(&mut stop, &mut servers) => {
                    // Nobody was answered yet, and the next start goes on from what was committed. No thread may be in the database at the end.
                    interrupt.store(true, Ordering::Relaxed);
                    drop(opening.await);
                    return ended;
                }
            }
        };
        stage.send_replace(Stage::Open);

        let space = Space::new(config.data_dir, config.disk_reserve_bytes, config.storage.write_buffer_bytes);
        let shared = Shared::new(budgets.clone());
        let kv = KvService::new(own.cluster, inbox.clone(), shared.clone(), clients_stop.clone());
        let admin = AdminService::new(inbox.clone(), budgets.answers.clone());
        let (peer_calls, refusals) = (budgets.peer_calls.clone(), shared.refusals.clone());
        let peers = PeerService::new(own.clone(), inbox.clone(), peer_calls, refusals, peers_stop.clone());
        let grpc = |listener, share| Acceptor::new(listener, share, Speaks::Http2, Patience::default());
        let (client, peer) = (grpc(client, connections.clients.clone()), grpc(peer, connections.peers.clone()));
        let calls = |calls: &Arc<Budget>| Calls::new(calls.clone(), budgets.answers.clone(), MESSAGE_MAX);
        let (of_clients, of_peers) = (calls(&budgets.calls), calls(&budgets.peer_calls));
        servers.spawn(named("client", server::serve_clients(client, of_clients, kv, admin, is_ready, clients_stop)));
        servers.spawn(named("peer", server::serve_peers(peer, of_peers, peers, peers_stop)));

        let links = Peers::new(own, config.seeds, inbox);
        let driver = Driver::new(node, syncer, received, links, clock, space, shared, ready);
        tokio::select! {
            stopped = driver.run(stop, || stop_clients.send_modify(|stop| *stop = true)) => stopped?,
            error = failure(&mut servers) => return Err(error),
        }
        stop_peers.send_modify(|stop| *stop = true);
        let closed = async { while servers.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(CLOSE_MAX, closed).await;
        Ok(())
    }
}

fn own(config: &ValidConfig, data: &DataDir, listen: Listen) -> Own {
    let host = &config.advertise_host;
    // An IPv6 address needs brackets before a port.
    let at = |port: u16| {
        if host.contains(':') && !host.starts_with('[') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    };
    Own {
        cluster: config.cluster,
        node: data.node,
        peer_address: at(listen.peer.port()),
        client_address: at(listen.client.port()),
    }
}

async fn listen(field: &'static str, address: SocketAddr) -> Result<TcpListener, NodeError> {
    TcpListener::bind(address).await.map_err(|error| NodeError::Listen { field, address, error })
}

fn bound(field: &'static str, address: SocketAddr, listener: &TcpListener) -> Result<SocketAddr, NodeError> {
    listener.local_addr().map_err(|error| NodeError::Listen { field, address, error })
}

async fn named<E: std::error::Error + 'static>(
    port: &'static str,
    serving: impl Future<Output = Result<(), E>>,
) -> Result<(), NodeError> {
    serving.await.map_err(|error| NodeError::Service { port, reason: with_causes(&error) })
}

/// What an error says, and what each of its causes says: one of a transport says "transport error" and no more.
fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Opens something on a thread of its own. What a crash left behind may be much to read: meanwhile probes are answered, and the log says so.
/// What is computed meanwhile is made durable each second, so that the next start need not do it again.
async fn opening<T: Send + 'static, E: Send + 'static>(
    open: impl FnOnce() -> Result<T, E> + Send + 'static,
    syncer: Option<&Syncer>,
    doing: &str,
) -> Result<T, NodeError>
where
    NodeError: From<E>,
{
    let (tell, mut told) = oneshot::channel();
    let open = move || drop(tell.send(open()));
    thread::Builder::new().name("open".into()).spawn(open).map_err(NodeError::Thread)?;
    let begun = Instant::now();
    let mut told_every = interval_at(begun + OPENING_TOLD_EVERY, OPENING_TOLD_EVERY);
    let mut synced_every = interval_at(begun + OPENING_SYNCED_EVERY, OPENING_SYNCED_EVERY);
    loop {
        tokio::select! {
            opened = &mut told => {
                let ended = |_| StorageError("the thread that opens the data directory ended early".into());
                return Ok(opened.map_err(ended)??);
            }
            _ = synced_every.tick() => syncer.into_iter().for_each(|syncer| syncer.committed(Ticket(0))),
            now = told_every.tick() => info!(seconds = (now - begun).as_secs(), "still opening: {doing}"),
        }
    }
}

async fn ended_early(stop: impl Future<Output = ()>, servers: &mut JoinSet<Result<(), NodeError>>) -> Result<(), NodeError> {
    tokio::select! {
        () = stop => Ok(()),
        error = failure(servers) => Err(error),
    }
}

/// Completes when a service fails; a graceful end is none.
async fn failure(servers: &mut JoinSet<Result<(), NodeError>>) -> NodeError {
    while let Some(ended) = servers.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error,
            Err(panicked) => return NodeError::Service { port: "unknown", reason: panicked.to_string() },
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Error)]
    #[error("transport error")]
    struct TransportError(#[source] std::io::Error);

    #[tokio::test]
    async fn a_service_that_ends_says_what_caused_it() {
        let serving = async { Err(TransportError(std::io::Error::other("no more files"))) };
        let ended = named("client", serving).await.unwrap_err();
        assert_eq!(ended.to_string(), "the client service ended: transport error: no more files");
    }

    #[test]
    fn the_help_names_each_exit_code() {
        use clap::CommandFactory as _;
        use config::{ConfigError, Flags};

        let wrong = ConfigError::Field { field: "zone".to_owned(), reason: "too long".to_owned() };
        assert_eq!(NodeError::from(wrong).exit_code(), 2);
        let help = Flags::command().render_long_help().to_string();
        for (code, what) in [(0, "SIGTERM"), (1, "other"), (2, "configuration"), (3, "data directory"), (4, "storage")] {
            let told = help.lines().find_map(|line| line.strip_prefix(&format!("  {code}  ")));
            assert!(told.is_some_and(|told| told.contains(what)), "{code}: {help}");
        }
    }
}
