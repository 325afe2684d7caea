//! `local`: a cluster of real processes on this machine, on loopback, with its data in a folder.
//!
//! The folder's `cluster.json` says what there is and which process each node is. Only processes that it names are ever
//! stopped, and only if their start time is theirs; one that runs with the configuration of a node and is not named, since the command that
//! started it was interrupted, is found and named first.

mod folder;
mod launch;
pub mod scale;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use dynamo_core::id::{ClusterId, NodeId};
use rustix::process::Signal;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::arguments::Connection;
use crate::members::{self, Endpoints, Views};
use crate::output::{Format, show};
use crate::ring::partitions;
use crate::ring_init::{self, Plan};
use crate::ring_operations::Batch;
use crate::status::Report;
use crate::stop::Stop;
use folder::{Cluster, Folder, NodeRecord};

/// Until nodes that were started serve, and see each other.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// Until another command that is at work in the folder lets go of it.
const TURN_PATIENCE: Duration = Duration::from_secs(5);
/// Until a node that was asked to end is ended by force.
const STOP_PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Ports between those of one node and those of the next.
const PORT_STEP: u16 = 10;

/// What a new cluster has where nothing else is asked for.
const NODES_DEFAULT: u16 = 3;
const PARTITIONS_DEFAULT: u32 = 64;
const BASE_PORT_DEFAULT: u16 = 7400;
/// A node takes no longer name for its zone.
const ZONE_BYTES_MAX: usize = 63;

/// Arguments of `local`.
#[derive(Args, Debug)]
pub struct Local {
    /// The folder with the cluster's data. Default: $XDG_STATE_HOME/dynamokv/local or ~/.local/state/dynamokv/local.
    #[arg(long, global = true, env = "DYNAMO_LOCAL_DIR", value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Start a cluster, or the rest of one.
    Up(Up),
    /// Grow it, or shrink it: the data moves first, and nodes that are left over are stopped.
    Scale {
        /// How many nodes there are to be.
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..=200))]
        nodes: u16,
        #[command(flatten)]
        batch: Batch,
        /// The program. Default: dynamo-node beside this program.
        #[arg(long, env = "DYNAMO_NODE_BINARY", value_name = "FILE")]
        node_binary: Option<PathBuf>,
    },
    /// Stop it.
    Down {
        /// Remove its data too.
        #[arg(long)]
        purge: bool,
    },
    /// Show its processes, and its health. Informational: exits 0 whatever it finds.
    Status,
    /// End one node without warning (SIGKILL).
    Kill {
        /// The node's number, from 0.
        node: usize,
    },
    /// Start one node again, or let it go on if it was stopped by a signal.
    Start {
        /// The node's number, from 0.
        node: usize,
        /// The program. Default: dynamo-node beside this program.
        #[arg(long, env = "DYNAMO_NODE_BINARY", value_name = "FILE")]
        node_binary: Option<PathBuf>,
    },
}

#[derive(Args, Debug)]
struct Up {
    /// How many nodes. Default: 3. This and the rest is for a new cluster; one that is there keeps what it was made with.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=200))]
    nodes: Option<u16>,
    /// Partitions of the ring, a power of two. Default: 64.
    #[arg(long, value_parser = partitions)]
    partitions: Option<u32>,
    /// Replicas of each partition. Default: 3, or the number of nodes if that is smaller.
    #[arg(long)]
    n: Option<u8>,
    /// Zones that the nodes are put in, in turn. Default: one, "default".
    #[arg(long, value_delimiter = ',', value_name = "ZONE,...")]
    zones: Vec<String>,
    /// The first node's client port; the next node's is ten higher. Default: 7400.
    #[arg(long, value_name = "PORT")]
    base_port: Option<u16>,
    /// The program. Default: dynamo-node beside this program.
    #[arg(long, env = "DYNAMO_NODE_BINARY", value_name = "FILE")]
    node_binary: Option<PathBuf>,
}

/// Starts, stops and shows.
pub async fn run(connection: &Connection, format: Format, arguments: Local) -> Result<(), Stop> {
    let call_timeout = connection.timeout();
    let path = arguments.dir.map_or_else(default_folder, Ok)?;
    match arguments.action {
        Action::Up(up) => start_all(format, &path, &up, call_timeout).await,
        Action::Scale { nodes, batch, node_binary } => {
            let cluster = scale::to(&path, usize::from(nodes), batch, node_binary.as_deref(), call_timeout).await?;
            status(format, &cluster, call_timeout).await
        }
        Action::Down { purge } => stop_all(format, &path, purge).await,
        Action::Status => status(format, &folder::look_at(&path)?, call_timeout).await,
        Action::Kill { node } => kill(format, &path, node).await,
        Action::Start { node, node_binary } => start_one(format, &path, node, node_binary).await,
    }
}

/// Where this program keeps what must outlive it.
pub fn state_folder() -> Result<PathBuf, Stop> {
    let state = std::env::var_os("XDG_STATE_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || std::env::var_os("HOME").filter(|value| !value.is_empty()).map(|home| Path::new(&home).join(".local/state"));
    let missing = || Stop::Usage("neither XDG_STATE_HOME nor HOME is set; set one, or name the folder".to_owned());
    Ok(state.or_else(home).ok_or_else(missing)?.join("dynamokv"))
}

fn default_folder() -> Result<PathBuf, Stop> {
    Ok(state_folder()?.join("local"))
}

/// The nodes of the default cluster; none if there is no such cluster.
fn nodes() -> Vec<NodeRecord> {
    let cluster = default_cluster().ok().and_then(|path| folder::read(&path).ok().flatten());
    cluster.map(|cluster| cluster.nodes).unwrap_or_default()
}

/// Client addresses of the nodes that run now, of the default cluster; `None` if there is no such cluster. One that is stopped, or of
/// which nothing is known for its file is damaged, is an error.
pub fn default_endpoints() -> Result<Option<Vec<String>>, Stop> {
    // Without a state folder there is no cluster in it.
    default_cluster().ok().map_or(Ok(None), |path| endpoints_in(&path))
}

fn endpoints_in(path: &Path) -> Result<Option<Vec<String>>, Stop> {
    let Some(cluster) = folder::read(path)? else { return Ok(None) };
    let running = cluster.nodes.iter().filter(|node| node.is_running());
    let endpoints: Vec<String> = running.map(|node| node.client.clone()).collect();
    if endpoints.is_empty() {
        return Err(Stop::Failed(format!(
            "the cluster of `local up` in {} is stopped: start it with `dynamoctl local up`, or name the nodes of another one with \
             --endpoint",
            path.display()
        )));
    }
    Ok(Some(endpoints))
}

/// Client addresses of the nodes that run now, of the default cluster; empty if there is none.
pub fn running_endpoints() -> Vec<String> {
    nodes().into_iter().filter(NodeRecord::is_running).map(|node| node.client).collect()
}

/// The pids of the nodes that run now, of the default cluster.
pub fn running_pids() -> Vec<u32> {
    nodes().into_iter().filter(NodeRecord::is_running).filter_map(|node| node.process).map(|process| process.pid).collect()
}

/// The folder of the default cluster.
pub fn default_cluster() -> Result<PathBuf, Stop> {
    let named = std::env::var_os("DYNAMO_LOCAL_DIR").filter(|value| !value.is_empty());
    named.map(PathBuf::from).map_or_else(default_folder, Ok)
}

/// The record of the default cluster's rings, if it is `cluster`.
pub fn record_of(cluster: ClusterId) -> Option<PathBuf> {
    folder::record_in(&default_cluster().ok()?, cluster)
}

/// Ends a node of the default cluster without warning, and prints nothing.
pub async fn kill_quietly(node: usize) -> Result<(), Stop> {
    end_by_force(&default_cluster()?, node).await.map(drop)
}

/// The program with which nodes of the default cluster are started by a command that has no option for it.
pub fn node_program() -> Result<PathBuf, Stop> {
    let named = std::env::var_os("DYNAMO_NODE_BINARY").filter(|value| !value.is_empty()).map(PathBuf::from);
    let cluster = folder::read(&default_cluster()?)?;
    launch::program_of(cluster.and_then(|cluster| cluster.program).as_deref(), named.as_deref())
}

/// Starts a node of the default cluster again with this program, and prints nothing. Ends when it serves.
pub async fn start_quietly(node: usize, program: Option<PathBuf>) -> Result<(), Stop> {
    start_again(&default_cluster()?, node, program).await.map(drop)
}

/// Sends a node of the default cluster a signal, and prints nothing.
pub fn signal_quietly(node: usize, signal: Signal) -> Result<(), Stop> {
    let mut cluster = folder::look_at(&default_cluster()?)?;
    let record = cluster.node_mut(node)?;
    let process = record.process.filter(crate::process::Process::is_running);
    let Some(process) = process else { return Err(Stop::Failed(format!("{}: does not run", record.name))) };
    process.signal(signal).map(drop).map_err(|error| Stop::Failed(format!("{}: {error}", record.name)))
}

/// There is such a node in the default cluster.
pub fn has_node(node: usize) -> bool {
    node < node_count()
}

/// How many nodes the default cluster has; none if there is no such cluster.
pub fn node_count() -> usize {
    nodes().len()
}

async fn start_all(format: Format, path: &Path, up: &Up, call_timeout: Duration) -> Result<(), Stop> {
    let binary = launch::find_binary(up.node_binary.as_deref())?;
    let mut folder = Folder::open_or_create(path, || new_cluster(up)).await?;
    let cluster = &folder.cluster;
    if let Some((option, have)) = differs(cluster, up) {
        return Err(Stop::Usage(format!(
            "{}: holds a cluster that was made with {option} {have}; leave {option} out, or say another --dir, or `local down --purge`",
            path.display()
        )));
    }
    for node in &cluster.nodes {
        wake(node)?;
    }
    let stopped: Vec<usize> = (0..cluster.nodes.len()).filter(|node| !cluster.nodes[*node].is_running()).collect();
    for node in &stopped {
        launch::wait_for_the_ports_of(&folder.cluster.nodes[*node]).await?;
    }
    let mut children = Vec::new();
    for node in stopped {
        children.push(launch::start(&mut folder, node, &binary)?);
    }
    let deadline = Instant::now() + READY_PATIENCE;
    let endpoints = Endpoints { addresses: folder.cluster.endpoints(), call_timeout };
    launch::wait_until_ready(&folder, &mut children, deadline).await?;
    let views = members::ask(&endpoints).await?;
    if views.ring.is_none() {
        let plan = Plan {
            partition_bits: folder.cluster.partitions.ilog2() as u8,
            replication: folder.cluster.replication,
            bucket_n: Vec::new(),
            expect_nodes: folder.cluster.nodes.len(),
            patience: READY_PATIENCE,
            record: folder.record(),
        };
        ring_init::make_first_ring(&endpoints, &plan).await?;
    }
    let views = wait_until_whole(&folder.cluster, deadline, call_timeout).await?;
    check_members(&views, &endpoints.addresses)?;
    status(format, &folder.cluster, call_timeout).await
}

/// The first option that asks for something else than `cluster` has, and what that has.
fn differs(cluster: &Cluster, up: &Up) -> Option<(&'static str, String)> {
    let nodes = &cluster.nodes;
    let port = nodes.first().and_then(|node| node.client.rsplit_once(':')?.1.parse::<u16>().ok());
    let in_turn = |(node, zone): (&NodeRecord, &String)| node.zone == *zone;
    match () {
        () if up.nodes.is_some_and(|given| usize::from(given) != nodes.len()) => Some(("--nodes", nodes.len().to_string())),
        () if up.partitions.is_some_and(|given| given != cluster.partitions) => {
            Some(("--partitions", cluster.partitions.to_string()))
        }
        () if up.n.is_some_and(|given| given != cluster.replication) => Some(("--n", cluster.replication.to_string())),
        () if !nodes.iter().zip(up.zones.iter().cycle()).all(in_turn) => {
            let zones: Vec<&str> = nodes.iter().map(|node| node.zone.as_str()).collect();
            Some(("--zones", zones.join(",")))
        }
        () if up.base_port.is_some_and(|given| Some(given) != port) => {
            Some(("--base-port", port.map_or_else(String::new, |port| port.to_string())))
        }
        () => None,
    }
}

fn planned(up: &Up) -> Result<Cluster, Stop> {
    let (nodes, base_port) = (up.nodes.unwrap_or(NODES_DEFAULT), up.base_port.unwrap_or(BASE_PORT_DEFAULT));
    let one_zone = ["default".to_owned()];
    let zones = if up.zones.is_empty() { &one_zone[..] } else { &up.zones[..] };
    let n = up.n.unwrap_or_else(|| nodes.min(3) as u8);
    if n == 0 || u16::from(n) > nodes {
        return Err(Stop::Usage(format!("--n {n}: give at least 1 and at most the number of nodes, {nodes}")));
    }
    if let Some(zone) = zones.iter().find(|zone| zone.is_empty() || zone.len() > ZONE_BYTES_MAX) {
        return Err(Stop::Usage(format!("--zones: {zone:?} has {} bytes; give 1 to {ZONE_BYTES_MAX}", zone.len())));
    }
    let last = u32::from(base_port) + u32::from(PORT_STEP) * u32::from(nodes);
    if base_port == 0 || last > u32::from(u16::MAX) {
        return Err(Stop::Usage(format!("--base-port {base_port}: the nodes' ports must lie between 1 and 65535")));
    }
    let node = |index: u16| {
        let port = base_port + index * PORT_STEP;
        let address = |offset| format!("127.0.0.1:{}", port + offset);
        NodeRecord {
            name: format!("node-{index}"),
            zone: zones[usize::from(index) % zones.len()].clone(),
            client: address(0),
            peer: address(1),
            http: address(2),
            process: None,
        }
    };
    Ok(Cluster {
        cluster_id: uuid::Uuid::new_v4().to_string(),
        partitions: up.partitions.unwrap_or(PARTITIONS_DEFAULT),
        replication: n,
        nodes: (0..nodes).map(node).collect(),
        program: None,
    })
}

/// One whose ports are free: one that could not start is not kept.
fn new_cluster(up: &Up) -> Result<Cluster, Stop> {
    let cluster = planned(up)?;
    cluster.nodes.iter().try_for_each(|node| launch::check_ports(node, launch::OTHER_PORTS))?;
    Ok(cluster)
}

/// Until every node holds the newest ring, and sees every other.
async fn wait_until_whole(cluster: &Cluster, deadline: Instant, call_timeout: Duration) -> Result<Views, Stop> {
    let endpoints = Endpoints { addresses: cluster.endpoints(), call_timeout };
    loop {
        let views = members::ask(&endpoints).await;
        if views.as_ref().is_ok_and(|views| is_whole(views, &endpoints.addresses)) {
            return views;
        }
        if Instant::now() >= deadline {
            return match views {
                Ok(views) => Err(Stop::Failed(format!("the nodes run, but: {}", Report::of(&views).text()))),
                Err(stop) => Err(stop),
            };
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// The nodes at `endpoints` are well; whoever else is known to them may come and go.
fn is_whole(views: &Views, endpoints: &[String]) -> bool {
    let Some(ring) = &views.ring else { return false };
    let own = |answer: &&members::Answer| endpoints.iter().any(|endpoint| endpoint == answer.client.address());
    let own: Vec<&members::Answer> = views.answered.values().filter(own).collect();
    let sees = |answer: &members::Answer, other: &members::Answer| {
        let peer = answer.status.peers.get(&other.status.node);
        answer.status.node == other.status.node || peer.is_some_and(|peer| peer.connected && !peer.suspected)
    };
    own.len() == endpoints.len()
        && own
            .iter()
            .all(|answer| answer.status.ready && answer.status.epoch == ring.epoch && own.iter().all(|other| sees(answer, other)))
}

/// The nodes at `endpoints` run, and nevertheless a member does not answer while one of them is none: the member's data was removed, and it
/// came back as a new node. One that only stands by, since `local scale` was interrupted, takes nobody's place.
fn check_members(views: &Views, endpoints: &[String]) -> Result<(), Stop> {
    let answered = views.answered.iter().map(|(node, answer)| (*node, answer.client.address()));
    let own: Vec<(NodeId, &str)> = answered.filter(|(_, address)| endpoints.iter().any(|own| own == address)).collect();
    check_nodes(views, &own)
}

/// The same of the nodes that `own` names, with their addresses: one of them that `views` has no answer of does answer.
fn check_nodes(views: &Views, own: &[(NodeId, &str)]) -> Result<(), Stop> {
    let Some(ring) = &views.ring else { return Ok(()) };
    let answers = |node: &NodeId| views.answered.contains_key(node) || own.iter().any(|(own, _)| own == node);
    let gone: Vec<NodeId> = ring.survivors().filter(|node| !answers(node)).collect();
    let others: Vec<&str> =
        own.iter().filter(|(node, _)| !ring.members.contains_key(node)).map(|(_, address)| *address).collect();
    if gone.is_empty() || others.is_empty() {
        return Ok(());
    }
    Err(Stop::Failed(format!(
        "the nodes run, but {} is no member of the ring, and members do not answer ({}); if the data of a member was removed, \
         `dynamoctl ring replace` puts the new node in its place, and `dynamoctl local down --purge` removes the cluster",
        others.join(", "),
        members::list(&gone)
    )))
}

async fn stop_all(format: Format, path: &Path, purge: bool) -> Result<(), Stop> {
    let mut folder = if purge { Folder::open_to_purge(path).await? } else { Folder::open(path).await? };
    let processes: Vec<_> = folder.cluster.nodes.iter().filter_map(|node| node.process).collect();
    let signal = |signal| {
        let failed = |error| Stop::Failed(format!("cannot signal a node: {error}"));
        processes.iter().try_for_each(|process| process.signal(signal).map(|_| ()).map_err(failed))
    };
    let running = processes.iter().filter(|process| process.is_running()).count();
    signal(Signal::TERM)?;
    // One that stands still would not hear of it.
    signal(Signal::CONT)?;
    let mut forced = 0;
    let gone = |patience| wait_until_gone(&processes, patience);
    if !gone(STOP_PATIENCE).await {
        forced = processes.iter().filter(|process| process.is_running()).count();
        signal(Signal::KILL)?;
        if !gone(STOP_PATIENCE).await {
            return Err(Stop::Failed("a node does not end, even by force".to_owned()));
        }
    }
    for node in &mut folder.cluster.nodes {
        node.process = None;
    }
    folder.save()?;
    folder.cluster.nodes.iter().try_for_each(|node| folder.check_unused(node))?;
    let display = folder.path.display().to_string();
    if purge {
        folder.purge()?;
    }
    let document = json!({ "stopped": running, "by_force": forced, "purged": purge, "folder": display });
    let data = if purge { "its data is removed" } else { "its data is kept" };
    let force = if forced > 0 { format!(", {forced} by force") } else { String::new() };
    show(format, || format!("stopped {running} nodes{force}; {data} ({display})"), &document)
}

async fn wait_until_gone(processes: &[crate::process::Process], patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while processes.iter().any(crate::process::Process::holds_on) {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(LOOK_INTERVAL).await;
    }
    true
}

async fn kill(format: Format, path: &Path, node: usize) -> Result<(), Stop> {
    let (name, pid) = end_by_force(path, node).await?;
    show(format, || format!("killed {name} (process {pid})"), &json!({ "killed": name, "pid": pid }))
}

/// The node's name, and the pid that it had.
async fn end_by_force(path: &Path, node: usize) -> Result<(String, u32), Stop> {
    let mut folder = Folder::open(path).await?;
    let record = folder.node_mut(node)?;
    let name = record.name.clone();
    let process = record.process.take().filter(crate::process::Process::is_running);
    let Some(process) = process else { return Err(Stop::Failed(format!("{name}: does not run"))) };
    process.signal(Signal::KILL).map_err(|error| Stop::Failed(format!("{name}: {error}")))?;
    if !wait_until_gone(&[process], STOP_PATIENCE).await {
        return Err(Stop::Failed(format!("{name}: process {} does not end", process.pid)));
    }
    folder.save()?;
    Ok((name, process.pid))
}

async fn start_one(format: Format, path: &Path, node: usize, binary: Option<PathBuf>) -> Result<(), Stop> {
    let (name, pid) = start_again(path, node, binary).await?;
    show(format, || format!("started {name} (process {pid})"), &json!({ "started": name, "pid": pid }))
}

/// Lets a process go on that was stopped by a signal; whether it was.
fn wake(node: &NodeRecord) -> Result<bool, Stop> {
    let Some(process) = node.process.filter(crate::process::Process::is_stopped) else { return Ok(false) };
    process.signal(Signal::CONT).map_err(|error| Stop::Failed(format!("{}: {error}", node.name)))
}

/// The node's name, and the pid that it has now.
async fn start_again(path: &Path, node: usize, binary: Option<PathBuf>) -> Result<(String, u32), Stop> {
    let binary = launch::find_binary(binary.as_deref())?;
    let mut folder = Folder::open(path).await?;
    let record = folder.node_mut(node)?;
    if let Some(process) = record.process.filter(crate::process::Process::is_running) {
        if !wake(record)? {
            return Err(Stop::Failed(format!("{}: runs already", record.name)));
        }
        let ended = || (!process.is_running()).then(|| Stop::Failed(format!("{}: ended as it went on", record.name)));
        launch::wait_until_it_serves(record, ended, Instant::now() + READY_PATIENCE).await?;
        return Ok((record.name.clone(), process.pid));
    }
    launch::wait_for_the_ports_of(record).await?;
    let name = record.name.clone();
    let child = launch::start(&mut folder, node, &binary)?;
    let pid = child.id();
    launch::wait_until_ready(&folder, &mut [child], Instant::now() + READY_PATIENCE).await?;
    Ok((name, pid))
}

async fn status(format: Format, cluster: &Cluster, call_timeout: Duration) -> Result<(), Stop> {
    let views = members::ask(&Endpoints { addresses: cluster.endpoints(), call_timeout }).await;
    let report = views.map(|views| Report::of(&views));
    let process = |node: &NodeRecord| {
        let pid = node.process.filter(|_| node.is_running()).map(|process| process.pid);
        json!({ "name": node.name, "pid": pid, "client": node.client, "peer": node.peer, "http": node.http, "zone": node.zone })
    };
    let (text, state) = match &report {
        Ok(report) => (report.text(), report.document()),
        Err(stop) => (stop.to_string(), Report::of_nobody(stop.to_string()).document()),
    };
    let document = json!({ "processes": cluster.nodes.iter().map(process).collect::<Vec<_>>(), "cluster": state });
    show(format, || format!("{text}\n\n{}", cluster.text()), &document)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::double::Double;
    use dynamo_core::rebalance::{Members, first_ring};
    use dynamo_core::ring::Member;

    #[tokio::test]
    async fn a_cluster_is_whole_though_another_node_stands_by() {
        let id = |number: u8| NodeId([number; 16]);
        let members: Members = (1..=3).map(|number| (id(number), Member { zone: "z".to_owned(), weight: 1 })).collect();
        let ring = first_ring(ClusterId([9; 16]), 1, 3, &members).unwrap();
        let mut doubles = Vec::new();
        for number in 1..=4 {
            doubles.push(Double::start(id(number), ring.clone(), 0).await);
        }
        let addresses: Vec<String> = doubles.iter().map(|double| double.address.clone()).collect();
        let see = |seen: &[u8]| {
            for (double, own) in doubles.iter().zip(1..) {
                double.state().sees = seen.iter().filter(|other| **other != own).map(|other| id(*other)).collect();
            }
        };
        see(&[1, 2, 3, 4]);
        let views = members::ask(&Endpoints::from(addresses.clone())).await.unwrap();
        assert!(is_whole(&views, &addresses[..3]) && is_whole(&views, &addresses));
        see(&[1, 3, 4]);
        let views = members::ask(&Endpoints::from(addresses.clone())).await.unwrap();
        assert!(!is_whole(&views, &addresses[..3]), "the stand-by is no substitute for a node that is not seen");
        let views = members::ask(&Endpoints::from(addresses[..2].to_vec())).await.unwrap();
        assert!(!is_whole(&views, &addresses[..3]), "one does not answer");
    }

    #[tokio::test]
    async fn a_node_that_came_back_without_its_data_is_no_member_and_one_that_stands_by_does_no_harm() {
        let id = |number: u8| NodeId([number; 16]);
        let members: Members = (1..=3).map(|number| (id(number), Member { zone: "z".to_owned(), weight: 1 })).collect();
        let ring = first_ring(ClusterId([9; 16]), 1, 3, &members).unwrap();
        let mut doubles = Vec::new();
        for number in 1..=4 {
            doubles.push(Double::start(id(number), ring.clone(), 0).await);
        }
        let addresses: Vec<String> = doubles.iter().map(|double| double.address.clone()).collect();
        let views = members::ask(&Endpoints::from(addresses.clone())).await.unwrap();
        check_members(&views, &addresses).unwrap();
        let wiped = [&addresses[..2], &addresses[3..]].concat();
        let views = members::ask(&Endpoints::from(wiped.clone())).await.unwrap();
        let refused = check_members(&views, &wiped).unwrap_err().to_string();
        assert!(refused.contains(&format!("{} is no member", addresses[3])), "{refused}");
        assert!(refused.contains("(03030303)") && refused.contains("ring replace"), "{refused}");
        check_members(&views, &addresses[..2]).unwrap();
    }

    #[tokio::test]
    async fn a_cluster_that_is_stopped_or_damaged_is_not_taken_for_none() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(endpoints_in(place.path()).unwrap(), None);
        let cluster = planned(&up(2)).unwrap();
        let mut folder = Folder::open_or_create(place.path(), || Ok(cluster)).await.unwrap();
        let stopped = endpoints_in(place.path()).unwrap_err().to_string();
        assert!(stopped.contains("is stopped") && stopped.contains("dynamoctl local up"), "{stopped}");
        folder.cluster.nodes[1].process = crate::process::Process::with_pid(std::process::id());
        folder.save().unwrap();
        assert_eq!(endpoints_in(place.path()).unwrap(), Some(vec!["127.0.0.1:7410".to_owned()]));
        std::fs::write(place.path().join("cluster.json"), "{").unwrap();
        let damaged = endpoints_in(place.path()).unwrap_err().to_string();
        assert!(damaged.contains("cluster.json") && damaged.contains("local down --purge"), "{damaged}");
    }

    #[tokio::test]
    async fn a_new_cluster_whose_ports_are_taken_is_not_kept() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let base_port = listener.local_addr().unwrap().port();
        let place = tempfile::tempdir().unwrap();
        let up = Up { base_port: Some(base_port), ..up(1) };
        let refused = Folder::open_or_create(place.path(), || new_cluster(&up)).await.map(drop).unwrap_err().to_string();
        assert!(refused.contains("--base-port"), "{refused}");
        assert_eq!(folder::read(place.path()).unwrap(), None);
    }

    fn up(nodes: u16) -> Up {
        let zones = vec!["zone-a".to_owned(), "zone-b".to_owned()];
        Up { nodes: Some(nodes), partitions: None, n: None, zones, base_port: None, node_binary: None }
    }

    #[test]
    fn nodes_get_ports_of_their_own_and_zones_in_turn() {
        let cluster = planned(&up(3)).unwrap();
        let client: Vec<&str> = cluster.nodes.iter().map(|node| node.client.as_str()).collect();
        let zones: Vec<&str> = cluster.nodes.iter().map(|node| node.zone.as_str()).collect();
        assert_eq!(client, ["127.0.0.1:7400", "127.0.0.1:7410", "127.0.0.1:7420"]);
        assert_eq!(zones, ["zone-a", "zone-b", "zone-a"]);
        assert_eq!((cluster.replication, cluster.nodes[2].http.as_str()), (3, "127.0.0.1:7422"));
        assert_eq!(planned(&up(1)).unwrap().replication, 1);
    }

    #[test]
    fn a_cluster_that_is_there_is_not_asked_to_be_another_one() {
        let cluster = planned(&up(3)).unwrap();
        let nothing = || Up { nodes: None, partitions: None, n: None, zones: Vec::new(), base_port: None, node_binary: None };
        let zones = |zones: &[&str]| zones.iter().map(|zone| (*zone).to_owned()).collect();
        let cases = [
            (nothing(), None),
            (up(3), None),
            (Up { partitions: Some(64), n: Some(3), base_port: Some(7400), ..up(3) }, None),
            (up(5), Some("--nodes")),
            (Up { partitions: Some(128), ..nothing() }, Some("--partitions")),
            (Up { n: Some(2), ..nothing() }, Some("--n")),
            (Up { zones: zones(&["zone-b", "zone-a"]), ..nothing() }, Some("--zones")),
            (Up { zones: zones(&["zone-a"]), ..nothing() }, Some("--zones")),
            (Up { base_port: Some(9000), ..nothing() }, Some("--base-port")),
        ];
        for (up, expected) in cases {
            assert_eq!(differs(&cluster, &up).map(|(option, _)| option), expected, "{up:?}");
        }
    }

    #[test]
    fn what_cannot_be_started_is_refused_by_name() {
        let cases = [
            ("--n", Up { n: Some(4), ..up(3) }),
            ("--zones", Up { zones: vec![String::new()], ..up(3) }),
            ("--zones", Up { zones: vec!["z".repeat(64)], ..up(3) }),
            ("--base-port", Up { base_port: Some(65_530), ..up(3) }),
        ];
        for (field, up) in cases {
            let error = planned(&up).unwrap_err().to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }
}
