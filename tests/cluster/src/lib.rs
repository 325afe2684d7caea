//! A cluster of real `dynamo-node` processes, with real data directories, to be killed, paused and grown.
//!
//! They run on loopback, or each on a [`Seat`] of its own; what is done to them there is in [`chaos`].
//!
//! The binary is the one that the same build made: it lies beside the test's own. Ports are free ones below the kernel's own.
//! Every process is ended when its [`Cluster`] goes, and no other process is ever signalled.

pub mod chaos;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dynamo_client::admin::{AdminClient, NodeStatus};
use dynamo_client::{Client, ClientConfig, Mode};
use dynamo_core::id::{ClusterId, NodeId, PartitionId};
use dynamo_core::rebalance::{self, Members, Next, View};
use dynamo_core::ring::{Member, Ring, RingHash};
use rustix::process::{Pid, kill_process};
use tempfile::TempDir;

pub use rustix::process::Signal;

/// How long a cluster may take for anything that a test waits for.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);
/// The first port that nodes listen on, and how many there are.
const PORT_FIRST: u16 = 20_000;
const PORTS: u32 = 12_000;
/// Partitions of a test's ring: 2^4.
const PARTITION_BITS: u8 = 4;

/// Where and how a node is run.
#[derive(Clone, Default)]
pub struct Seat {
    /// The IP address that it listens on.
    pub host: String,
    /// Its data directory; one of the cluster's own if absent.
    pub data: Option<PathBuf>,
    /// What runs it: a program and its arguments, before the node's own.
    pub launcher: Vec<OsString>,
    /// Its environment, beside the test's.
    pub environment: Vec<(OsString, OsString)>,
    /// More lines of its configuration.
    pub settings: String,
}

impl Seat {
    /// On loopback, as it is.
    pub fn loopback() -> Self {
        Self { host: "127.0.0.1".into(), ..Self::default() }
    }
}

/// One process and its data directory.
pub struct Process {
    child: Option<Child>,
    seat: Seat,
    data: PathBuf,
    config: PathBuf,
    log: PathBuf,
    /// host:port for clients.
    pub address: String,
    peer_port: u16,
}

/// Processes that form one cluster, and the writer of its rings.
pub struct Cluster {
    folder: TempDir,
    id: ClusterId,
    /// The processes, in the order they were started.
    pub processes: Vec<Process>,
}

fn binary() -> Result<PathBuf> {
    // A program lies in target/PROFILE, a test in target/PROFILE/deps.
    let own = std::env::current_exe()?;
    let mut beside = own.ancestors().skip(1).take(2).map(|folder| folder.join("dynamo-node"));
    beside.find(|path| path.is_file()).context("dynamo-node is missing: build it with `cargo build --workspace --bins`")
}

/// A port that nobody listens on, below those that the kernel gives to outgoing connections: none of them can take it before
/// the node does.
fn free_port() -> Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..PORTS {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORT_FIRST + ((std::process::id().wrapping_mul(97).wrapping_add(step)) % PORTS) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port from {PORT_FIRST} on is free")
}

impl Cluster {
    /// Starts `count` nodes without a ring.
    pub async fn start(count: usize) -> Result<Self> {
        let mut cluster = Self::empty()?;
        for _ in 0..count {
            cluster.add().await?;
        }
        Ok(cluster)
    }

    /// No nodes yet.
    pub fn empty() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        Ok(Self { folder, id: ClusterId(*uuid::Uuid::new_v4().as_bytes()), processes: Vec::new() })
    }

    /// Starts `count` nodes and gives them a first ring with N = 3.
    pub async fn with_ring(count: usize) -> Result<Self> {
        let cluster = Self::start(count).await?;
        cluster.first_ring().await?;
        Ok(cluster)
    }

    /// Gives all nodes, which have none, a first ring with N = 3.
    pub async fn first_ring(&self) -> Result<()> {
        let members = self.members(&self.running()).await?;
        let ring = rebalance::first_ring(self.id, PARTITION_BITS, 3, &members)?;
        self.offer(&ring).await?;
        self.until_linked().await
    }

    /// Starts one more node, which stands by.
    pub async fn add(&mut self) -> Result<usize> {
        let id = self.id;
        self.add_of(id).await
    }

    /// Starts one more node that believes it belongs to cluster `id`.
    pub async fn add_of(&mut self, id: ClusterId) -> Result<usize> {
        self.add_at(id, Seat::loopback()).await
    }

    /// Starts one more node of this cluster, on a seat.
    pub async fn seat(&mut self, seat: Seat) -> Result<usize> {
        self.add_at(self.id, seat).await
    }

    async fn add_at(&mut self, id: ClusterId, seat: Seat) -> Result<usize> {
        let index = self.processes.len();
        let (client, peer, http) = (free_port()?, free_port()?, free_port()?);
        let own = format!("{}:{peer}", seat.host);
        let seed = self.processes.first().map_or(own, |first| format!("{}:{}", first.seat.host, first.peer_port));
        let data = seat.data.clone().unwrap_or_else(|| self.folder.path().join(format!("node-{index}")));
        let config = self.folder.path().join(format!("node-{index}.yaml"));
        let text = format!(
            "cluster_id: {id}\ndata_dir: {}\nlisten: {{client: '{host}:{client}', peer: '{host}:{peer}', http: '{host}:{http}'}}\n\
             advertise: {{host: {host}}}\nseeds: [\"{seed}\"]\n{}",
            data.display(),
            seat.settings,
            host = seat.host,
        );
        fs::write(&config, text)?;
        let log = self.folder.path().join(format!("node-{index}.log"));
        let address = format!("{}:{client}", seat.host);
        self.processes.push(Process { child: None, seat, data, config, log, address, peer_port: peer });
        self.launch(index).await?;
        Ok(index)
    }

    /// Starts the process of `index` again and waits until it answers.
    pub async fn launch(&mut self, index: usize) -> Result<()> {
        self.spawn(index)?;
        self.until_up(index).await.map(drop)
    }

    /// Starts the process of `index` again.
    pub fn spawn(&mut self, index: usize) -> Result<()> {
        let mut words: Vec<OsString> = self.processes[index].seat.launcher.clone();
        words.push(binary()?.into());
        let process = &mut self.processes[index];
        ensure!(process.child.is_none(), "node {index} runs");
        let log = fs::OpenOptions::new().create(true).append(true).open(&process.log)?;
        let child = Command::new(&words[0])
            .args(&words[1..])
            .envs(process.seat.environment.iter().cloned())
            .arg("--config")
            .arg(&process.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        process.child = Some(child);
        Ok(())
    }

    /// Waits until the process of `index` answers, and returns what it says.
    pub async fn until_up(&mut self, index: usize) -> Result<NodeStatus> {
        let started = Instant::now();
        loop {
            if let Ok(status) = self.status(index).await {
                return Ok(status);
            }
            let ended = self.ended(index)?;
            ensure!(ended.is_none(), "node {index} ended at its start ({ended:?}): {}", self.log(index));
            ensure!(started.elapsed() < PATIENCE, "node {index} does not answer within {PATIENCE:?}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Ends the process as a power failure would (SIGKILL).
    pub fn kill(&mut self, index: usize) -> Result<()> {
        let mut child = self.processes[index].child.take().context("it runs")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Ends the process as Kubernetes does (SIGTERM), and waits until it has: cleanly, or this is an error.
    pub async fn stop(&mut self, index: usize) -> Result<()> {
        self.signal(index, Signal::TERM)?;
        let status = self.until_ended(index).await?;
        ensure!(status.success(), "node {index} ended with {status}: {}", self.log(index));
        Ok(())
    }

    /// Waits until the process of `index` has ended by itself.
    pub async fn until_ended(&mut self, index: usize) -> Result<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.ended(index)? {
                return Ok(status);
            }
            ensure!(started.elapsed() < PATIENCE, "node {index} does not end within {PATIENCE:?}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Takes the disk of an ended process away: its next start is a new node.
    pub fn wipe(&self, index: usize) -> Result<()> {
        ensure!(self.processes[index].child.is_none(), "node {index} still runs");
        let data = self.folder.path().join(format!("node-{index}"));
        Ok(fs::rename(&data, data.with_extension("lost"))?)
    }

    /// Puts back the disk that [`Self::wipe`] took away, in the place of the one that the process has used since.
    pub fn unwipe(&self, index: usize) -> Result<()> {
        ensure!(self.processes[index].child.is_none(), "node {index} still runs");
        let data = self.folder.path().join(format!("node-{index}"));
        fs::remove_dir_all(&data)?;
        Ok(fs::rename(data.with_extension("lost"), data)?)
    }

    /// Runs `dynamoctl` of the same build against node `index`: whether it succeeded, and what it said.
    pub fn dynamoctl(&self, index: usize, arguments: &[&str]) -> Result<(bool, String)> {
        let output = self.dynamoctl_command(&[index], arguments)?.output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
    }

    /// The command that [`Self::dynamoctl`] runs, against these nodes.
    pub fn dynamoctl_command(&self, indices: &[usize], arguments: &[&str]) -> Result<Command> {
        let endpoints: Vec<&str> = indices.iter().map(|index| self.processes[*index].address.as_str()).collect();
        let mut command = Command::new(binary()?.with_file_name("dynamoctl"));
        command.args(arguments).arg("--endpoint").arg(endpoints.join(","));
        let reads_only = matches!(arguments.get(1), Some(&("show" | "status" | "verify" | "plan" | "receipt")));
        if arguments.first() == Some(&"ring") && !reads_only {
            command.arg("--record").arg(self.folder.path().join("record.ring"));
        }
        Ok(command)
    }

    /// How the process ended, if it did by itself; from then on it counts as not running.
    pub fn ended(&mut self, index: usize) -> Result<Option<ExitStatus>> {
        let process = &mut self.processes[index];
        let ended = process.child.as_mut().map(Child::try_wait).transpose()?.flatten();
        if ended.is_some() {
            process.child = None;
        }
        Ok(ended)
    }

    /// Whether the process has been started and has not been seen to end.
    pub fn is_running(&self, index: usize) -> bool {
        self.processes[index].child.is_some()
    }

    /// The data directory of `index`.
    pub fn data(&self, index: usize) -> &Path {
        &self.processes[index].data
    }

    /// The cluster's own folder: configurations, logs, data.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The cluster's folder is not removed: somebody wants to read the logs.
    pub fn keep_logs(&mut self) {
        self.folder.disable_cleanup(true);
    }

    /// Sends the process a signal. One that has ended and was not seen to end still has its number.
    pub fn signal(&self, index: usize, signal: Signal) -> Result<()> {
        let child = self.processes[index].child.as_ref().context("it runs")?;
        kill_process(Pid::from_child(child), signal).with_context(|| format!("{signal:?} to node {index}"))
    }

    /// What the process wrote to its log.
    pub fn log(&self, index: usize) -> String {
        fs::read_to_string(&self.processes[index].log).unwrap_or_default()
    }

    /// A client that knows every running node.
    pub async fn client(&self) -> Result<Client> {
        self.client_by(Mode::Stream).await
    }

    /// The same, whose requests travel so.
    pub async fn client_by(&self, mode: Mode) -> Result<Client> {
        let running = self.processes.iter().filter(|process| process.child.is_some());
        let endpoints = running.map(|process| process.address.clone()).collect();
        Ok(Client::connect(ClientConfig { mode, ..ClientConfig::new(endpoints) }).await?)
    }

    /// The node's own word.
    pub async fn status(&self, index: usize) -> Result<NodeStatus> {
        Ok(self.admin(index).await?.status().await?)
    }

    /// A client of its `Admin` service.
    pub async fn admin(&self, index: usize) -> Result<AdminClient> {
        Ok(AdminClient::connect(&self.processes[index].address, Duration::from_secs(2)).await?)
    }

    /// Those that run.
    pub fn running(&self) -> Vec<usize> {
        (0..self.processes.len()).filter(|index| self.processes[*index].child.is_some()).collect()
    }

    /// Looks until `condition` holds.
    pub async fn until(&self, what: &str, condition: impl AsyncFn(&Self) -> Result<bool>) -> Result<()> {
        let started = Instant::now();
        loop {
            let seen = condition(self).await;
            if let Ok(true) = seen {
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                bail!("not within {PATIENCE:?}: {what} (last look: {seen:?})");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until every running node has a link to every other and suspects none.
    pub async fn until_linked(&self) -> Result<()> {
        let running = self.running();
        self.until("all links are up", async |cluster| {
            let mut ids = BTreeSet::new();
            for index in &running {
                ids.insert(cluster.status(*index).await?.node);
            }
            for index in &running {
                let status = cluster.status(*index).await?;
                let up: BTreeSet<NodeId> =
                    status.peers.iter().filter(|(_, peer)| peer.connected && !peer.suspected).map(|(id, _)| *id).collect();
                if !ids.iter().all(|id| *id == status.node || up.contains(id)) {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .await
    }

    /// The nodes of some processes as members of one zone.
    pub async fn members(&self, indices: &[usize]) -> Result<Members> {
        let mut members = BTreeMap::new();
        for index in indices {
            members.insert(self.status(*index).await?.node, Member { zone: "default".into(), weight: 1 });
        }
        Ok(members)
    }

    async fn offer(&self, ring: &Ring) -> Result<()> {
        for index in self.running() {
            let admin = self.admin(index).await?;
            admin.propose_ring(ring).await?;
        }
        Ok(())
    }

    /// Takes the ring to these members, step by step as the operator does, with a drain receipt of each node that leaves.
    pub async fn rebalance_to(&self, indices: &[usize]) -> Result<Ring> {
        let desired = self.members(indices).await?;
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            let ring = self.newest_ring().await?;
            match rebalance::next(&ring, &desired, &self.views().await)? {
                Next::Settled => return Ok(ring),
                Next::Propose(next) => self.offer(&next).await?,
                Next::AwaitReceipts(leaving) => {
                    if self.receipts(&leaving).await? {
                        self.offer(&rebalance::without(&ring, &leaving)).await?;
                    }
                }
                Next::AwaitEpoch(_) | Next::AwaitData { .. } => {}
            }
            tokio::time::sleep(PAUSE).await;
        }
        bail!("the ring does not settle within {PATIENCE:?}")
    }

    /// The newest ring that a running node holds.
    pub async fn newest_ring(&self) -> Result<Ring> {
        let mut newest: Option<Ring> = None;
        for index in self.running() {
            let admin = self.admin(index).await?;
            let ring = admin.ring().await?;
            if ring.as_ref().map(|ring| ring.epoch) > newest.as_ref().map(|ring| ring.epoch) {
                newest = ring;
            }
        }
        newest.context("no node has a ring")
    }

    async fn views(&self) -> BTreeMap<NodeId, View> {
        let mut views = BTreeMap::new();
        for index in self.running() {
            if let Ok(status) = self.status(index).await {
                let ring_hash = status.ring_hash.unwrap_or(RingHash::default());
                views.insert(status.node, View { epoch: status.epoch, ring_hash, received: status.received });
            }
        }
        views
    }

    async fn receipts(&self, leaving: &[NodeId]) -> Result<bool> {
        let mut given = 0;
        for index in self.running() {
            if leaving.contains(&self.status(index).await?.node) {
                let admin = self.admin(index).await?;
                given += usize::from(admin.drain_receipt().await.is_ok());
            }
        }
        Ok(given == leaving.len())
    }

    /// Waits until no hint is left and every replica of every partition has the same digest.
    pub async fn until_replicas_are_equal(&self) -> Result<()> {
        self.until("no hints are left and all replicas are equal", async |cluster| {
            let ring = cluster.newest_ring().await?;
            let partitions: Vec<PartitionId> = ring.partitions().map(|(partition, _)| partition).collect();
            let mut digests = BTreeMap::new();
            for index in cluster.running() {
                let status = cluster.status(index).await?;
                if !status.hints.is_empty() || status.foreign_partitions > 0 {
                    return Ok(false);
                }
                let admin = cluster.admin(index).await?;
                digests.insert(status.node, admin.partition_digests(&partitions).await?);
            }
            Ok(ring.partitions().all(|(partition, placement)| {
                let copies: Vec<_> =
                    placement.replicas.iter().map(|node| digests.get(node).and_then(|of| of.get(&partition))).collect();
                copies.iter().all(|copy| copy.is_some() && *copy == copies[0])
            }))
        })
        .await
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let panicking = std::thread::panicking();
        for index in 0..self.processes.len() {
            if let Some(mut child) = self.processes[index].child.take() {
                // A process that is gone already is what we want.
                let _gone = child.kill().and_then(|()| child.wait());
            }
            if panicking {
                let log = self.log(index);
                let from = log.len().saturating_sub(3000);
                eprintln!("--- end of node {index}'s log\n{}", log.get(from..).unwrap_or_default());
            }
        }
    }
}
