//! Peers that a comparison starts itself, on free ports, with data in a folder of its own; all of it goes at the end.
//!
//! Each is configured as its own documentation says for three nodes on one machine, and nothing is tuned in its disfavour: Garage
//! keeps its items in LMDB and does not fsync (its default), etcd fsyncs (its default), Redis keeps nothing on disk. The folder lies beside
//! that of `local up`: an fsync of a temporary folder may cost nothing, since that is memory on many machines.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::Args;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::arguments::Connection;
use crate::bench::system::{Options, System};
use crate::stop::Stop;

/// Nodes of a peer with replicas.
const NODES: usize = 3;
/// Until a peer that was started answers.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Lines of a log that are shown when a peer does not start.
const LOG_LINES: usize = 8;
/// A key of the Garage that is started: it listens on loopback, for as long as the comparison takes.
const GARAGE_KEY: [&str; 2] = ["GK31c2f218a2e44f485b94239e", "b892c0665f0ada8a4755dae98baa3b133590e11dae3bcc1f9d769d67f16c3835"];

/// Where programs of peers are, if not on the path.
#[derive(Args, Debug, Clone)]
pub struct Programs {
    /// The program `etcd`, for --start-peers.
    #[arg(long, default_value = "etcd", value_name = "FILE", help_heading = "Peers")]
    etcd_binary: PathBuf,
    /// The program `garage`, for --start-peers.
    #[arg(long, default_value = "garage", value_name = "FILE", help_heading = "Peers")]
    garage_binary: PathBuf,
    /// The program `redis-server`, for --start-peers.
    #[arg(long, default_value = "redis-server", value_name = "FILE", help_heading = "Peers")]
    redis_binary: PathBuf,
}

/// Peers that were started here.
pub struct Peers {
    // Killed when they are dropped, should this program come to a bad end.
    children: Vec<(String, Child)>,
    folder: TempDir,
}

impl Peers {
    /// None yet, and a folder for what they keep: beside this one, or among the temporary ones if there is no such folder.
    pub fn none(beside: &Path) -> Result<Self, Stop> {
        let mut named = tempfile::Builder::new();
        named.prefix("dynamokv-peers.");
        let folder = match beside.parent().filter(|_| beside.is_dir()) {
            Some(place) => named.tempdir_in(place),
            None => named.tempdir(),
        };
        let folder = folder.map_err(|error| Stop::Failed(format!("a folder for peers: {error}")))?;
        Ok(Self { children: Vec::new(), folder })
    }

    /// Ends them, and removes what they kept.
    pub async fn stop(mut self) -> Result<(), Stop> {
        for (name, child) in &mut self.children {
            let has_ended = matches!(child.try_wait(), Ok(Some(_)));
            if !has_ended {
                child.kill().await.map_err(|error| Stop::Failed(format!("{name} does not end: {error}")))?;
            }
        }
        self.folder.close().map_err(|error| Stop::Failed(format!("the folder of the peers: {error}")))
    }

    /// Starts those whose programs are there, and points `options` at them. Without `systems`, all that can be.
    pub async fn start(
        &mut self,
        programs: &Programs,
        systems: &[System],
        options: &mut Options,
        notes: &mut Vec<String>,
    ) -> Result<(), Stop> {
        let wanted = |of: &[System]| systems.is_empty() || systems.iter().any(|system| of.contains(system));
        let mut found = |name: &str, path: &Path| {
            let program = find(path);
            if program.is_none() {
                notes.push(format!("not started: {name}: {} is no program; name it with --{name}-binary", path.display()));
            }
            program
        };
        if wanted(&[System::Etcd, System::EtcdSerializable])
            && let Some(program) = found("etcd", &programs.etcd_binary)
        {
            options.peers.etcd = self.start_etcd(&program)?;
            self.wait(System::Etcd, options).await?;
        }
        if wanted(&[System::GarageK2v])
            && let Some(program) = found("garage", &programs.garage_binary)
        {
            self.start_garage(&program, options).await?;
            self.wait(System::GarageK2v, options).await?;
        }
        if wanted(&[System::Redis])
            && let Some(program) = found("redis", &programs.redis_binary)
        {
            options.peers.redis = self.start_redis(&program)?;
            self.wait(System::Redis, options).await?;
        }
        Ok(())
    }

    fn spawn(&mut self, name: &str, command: &mut Command) -> Result<(), Stop> {
        let log = self.folder.path().join(format!("{name}.log"));
        let failed = |error| Stop::Failed(format!("{name} does not start: {error}"));
        let output = File::create(&log).map_err(failed)?;
        let errors = output.try_clone().map_err(failed)?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors).kill_on_drop(true);
        self.children.push((name.to_owned(), command.spawn().map_err(failed)?));
        Ok(())
    }

    fn own_folder(&self, name: &str) -> Result<PathBuf, Stop> {
        let path = self.folder.path().join(name);
        fs::create_dir(&path).map_err(|error| Stop::Failed(format!("{}: {error}", path.display())))?;
        Ok(path)
    }

    fn start_etcd(&mut self, program: &Path) -> Result<Vec<String>, Stop> {
        let addresses = free_addresses(2 * NODES)?;
        let (clients, peers) = addresses.split_at(NODES);
        let members: Vec<String> = peers.iter().enumerate().map(|(node, peer)| format!("etcd-{node}=http://{peer}")).collect();
        for (node, (client, peer)) in clients.iter().zip(peers).enumerate() {
            let (name, client, peer) = (format!("etcd-{node}"), format!("http://{client}"), format!("http://{peer}"));
            let mut command = Command::new(program);
            command.args(["--name", &name, "--initial-cluster-state", "new"]);
            command.arg("--data-dir").arg(self.own_folder(&name)?);
            command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            command.args(["--initial-cluster", &members.join(","), "--log-level", "error"]);
            self.spawn(&name, &mut command)?;
        }
        Ok(clients.to_vec())
    }

    fn start_redis(&mut self, program: &Path) -> Result<String, Stop> {
        let address = free_addresses(1)?.remove(0);
        let (host, port) = address.rsplit_once(':').expect("an address has a port");
        let mut command = Command::new(program);
        command.args(["--bind", host, "--port", port, "--save", "", "--appendonly", "no"]);
        command.arg("--dir").arg(self.own_folder("redis")?);
        self.spawn("redis", &mut command)?;
        Ok(address)
    }

    async fn start_garage(&mut self, program: &Path, options: &mut Options) -> Result<(), Stop> {
        let addresses = free_addresses(3 * NODES)?;
        let (rpc, rest) = addresses.split_at(NODES);
        let (s3, k2v) = rest.split_at(NODES);
        let mut files = Vec::new();
        for node in 0..NODES {
            let name = format!("garage-{node}");
            let folder = self.own_folder(&name)?;
            let file = folder.join("garage.toml");
            let text = garage_configuration(&folder, &options.peers.garage_region, [&rpc[node], &s3[node], &k2v[node]]);
            fs::write(&file, text).map_err(|error| Stop::Failed(format!("{}: {error}", file.display())))?;
            let mut command = Command::new(program);
            command.arg("-c").arg(&file).arg("server").env("RUST_LOG", "garage=warn");
            self.spawn(&name, &mut command)?;
            files.push(file);
        }
        let mut ids = Vec::new();
        for file in &files {
            ids.push(self.garage(program, file, &["node", "id", "--quiet"]).await?.trim().to_owned());
        }
        let first = &files[0];
        for id in &ids {
            self.garage(program, first, &["node", "connect", id]).await?;
        }
        for id in ids.iter().filter_map(|id| id.split('@').next()) {
            self.garage(program, first, &["layout", "assign", "--zone", "dc1", "--capacity", "10G", id]).await?;
        }
        self.garage(program, first, &["layout", "apply", "--version", "1"]).await?;
        let [key, secret] = GARAGE_KEY;
        self.garage(program, first, &["bucket", "create", &options.quorums.bucket]).await?;
        self.garage(program, first, &["key", "import", "--yes", "-n", "bench", key, secret]).await?;
        self.garage(program, first, &["bucket", "allow", "--read", "--write", "--key", key, &options.quorums.bucket]).await?;
        options.peers.garage = k2v.to_vec();
        (options.peers.garage_access_key, options.peers.garage_secret_key) = (Some(key.to_owned()), Some(secret.to_owned()));
        Ok(())
    }

    /// A command to the Garage; again until its node is up.
    async fn garage(&mut self, program: &Path, file: &Path, arguments: &[&str]) -> Result<String, Stop> {
        let deadline = Instant::now() + READY_PATIENCE;
        loop {
            let output = Command::new(program).arg("-c").arg(file).args(arguments).kill_on_drop(true).output().await;
            let output = output.map_err(|error| Stop::Failed(format!("{}: {error}", program.display())))?;
            if output.status.success() {
                return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
            }
            self.check_running()?;
            if Instant::now() >= deadline {
                let errors = String::from_utf8_lossy(&output.stderr).into_owned();
                return Err(Stop::Failed(format!("garage {}: {}", arguments.join(" "), errors.trim())));
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// Until the system answers, or one of its processes has ended.
    async fn wait(&mut self, system: System, options: &Options) -> Result<(), Stop> {
        let connection = Connection { endpoints: Vec::new(), through_endpoint: false, timeout_ms: 2000 };
        let deadline = Instant::now() + READY_PATIENCE;
        loop {
            let Err(stop) = system.connect(&connection, options).await else { return Ok(()) };
            self.check_running()?;
            if Instant::now() >= deadline {
                return Err(Stop::Failed(format!("{} was started and does not answer: {stop}", system.name())));
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    fn check_running(&mut self) -> Result<(), Stop> {
        for (name, child) in &mut self.children {
            if let Ok(Some(status)) = child.try_wait() {
                let log = fs::read_to_string(self.folder.path().join(format!("{name}.log"))).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let end = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
                return Err(Stop::Failed(format!("{name} ended ({status}); the end of its log:\n{end}")));
            }
        }
        Ok(())
    }
}

/// The program at this path, or of this name on the path of programs.
fn find(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.is_file().then(|| program.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Addresses on loopback on which nothing listens.
fn free_addresses(count: usize) -> Result<Vec<String>, Stop> {
    let bound: std::io::Result<Vec<TcpListener>> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    let addresses = bound.and_then(|listeners| listeners.iter().map(|listener| Ok(listener.local_addr()?.to_string())).collect());
    addresses.map_err(|error| Stop::Failed(format!("free ports: {error}")))
}

fn garage_configuration(folder: &Path, region: &str, [rpc, s3, k2v]: [&str; 3]) -> String {
    let folder = folder.display();
    // The secret keeps other clusters out, and there is none.
    let secret = "5a".repeat(32);
    format!(
        r#"metadata_dir = "{folder}/meta"
data_dir = "{folder}/data"
db_engine = "lmdb"
metadata_fsync = false
replication_factor = {NODES}
rpc_bind_addr = "{rpc}"
rpc_public_addr = "{rpc}"
rpc_secret = "{secret}"

[s3_api]
s3_region = "{region}"
api_bind_addr = "{s3}"
root_domain = ".s3.garage.localhost"

[k2v_api]
api_bind_addr = "{k2v}"
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::driver::{Durability, garage};
    use crate::process::Process;

    #[test]
    fn a_program_is_found_by_its_path_or_its_name() {
        assert!(find(Path::new("/bin/sh")).is_some() && find(Path::new("sh")).is_some());
        assert_eq!(find(Path::new("/nowhere/etcd")), None);
        assert_eq!(find(Path::new("no-such-program-anywhere")), None);
    }

    #[test]
    fn free_addresses_differ_and_garage_is_told_its_own() {
        let addresses = free_addresses(3).unwrap();
        assert!(addresses[0] != addresses[1] && addresses[1] != addresses[2], "{addresses:?}");
        let text = garage_configuration(Path::new("/d"), "garage", [&addresses[0], &addresses[1], &addresses[2]]);
        assert!(text.contains(&format!("[k2v_api]\napi_bind_addr = \"{}\"", addresses[2])), "{text}");
        assert_eq!(garage::durability_of(&text), Durability::None);
    }

    #[tokio::test]
    async fn peers_keep_their_data_on_the_disk_that_our_nodes_use() {
        let state = tempfile::tempdir().unwrap();
        let cluster = state.path().join("local");
        fs::create_dir(&cluster).unwrap();
        let peers = Peers::none(&cluster).unwrap();
        assert_eq!(peers.folder.path().parent(), Some(state.path()));
        peers.stop().await.unwrap();
        let left: Vec<_> = fs::read_dir(state.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [cluster]);
    }

    #[tokio::test]
    async fn a_peer_that_ends_at_once_is_told_with_its_log() {
        let mut peers = Peers::none(Path::new("/nowhere/local")).unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo no such flag; exit 3"]);
        peers.spawn("etcd-0", &mut command).unwrap();
        peers.children[0].1.wait().await.unwrap();
        let error = peers.check_running().unwrap_err().to_string();
        assert!(error.contains("etcd-0 ended") && error.ends_with("no such flag"), "{error}");
    }

    #[tokio::test]
    async fn what_was_started_ends_with_its_folder_and_nothing_else_does() {
        let mut other = Command::new("/bin/sleep").arg("1000").kill_on_drop(true).spawn().unwrap();
        let mut peers = Peers::none(Path::new("/nowhere/local")).unwrap();
        peers.spawn("redis", Command::new("/bin/sleep").arg("1000")).unwrap();
        let (pid, folder) = (peers.children[0].1.id().unwrap(), peers.folder.path().to_owned());
        let process = Process::with_pid(pid).expect("it runs");
        peers.stop().await.unwrap();
        assert!(!process.is_running() && !folder.exists());
        assert_eq!(other.try_wait().unwrap(), None, "it still runs");
    }
}
