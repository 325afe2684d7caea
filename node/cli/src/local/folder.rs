//! The folder of a local cluster: `cluster.json`, `node-N/` with configuration, log and data, and a lock.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dynamo_core::id::ClusterId;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::{LOOK_INTERVAL, TURN_PATIENCE};
use crate::output::table;
use crate::process::{self, Process};
use crate::ring_record::{self, replace_file};
use crate::stop::Stop;

const CONFIGURATION_FILE: &str = "node.yaml";
const CLUSTER_FILE: &str = "cluster.json";
const RECORD_FILE: &str = "first.ring";
const LOCK_FILE: &str = "lock";
/// What lies beside the nodes' folders: the two files, what they are replaced by, and a lock; three files of earlier versions; and
/// the folder's own lock, which goes last.
const OWN_FILES: [&str; 9] = [
    RECORD_FILE,
    "first.ring.new",
    "first.ring.lock",
    CLUSTER_FILE,
    "cluster.json.new",
    "first.new",
    "first.lock",
    "cluster.new",
    LOCK_FILE,
];

/// What there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// The cluster's UUID.
    pub cluster_id: String,
    /// Partitions of its ring.
    pub partitions: u32,
    /// N.
    pub replication: u8,
    /// Its nodes, in order.
    pub nodes: Vec<NodeRecord>,
    /// The program that a node was started with last. Files of earlier versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its name, and its folder's.
    pub name: String,
    /// Its zone.
    pub zone: String,
    /// host:port for clients.
    pub client: String,
    /// host:port for peers.
    pub peer: String,
    /// host:port for metrics and probes.
    pub http: String,
    /// The process that was started last, until it was stopped by us.
    pub process: Option<Process>,
}

impl NodeRecord {
    /// Its process has not ended.
    pub fn is_running(&self) -> bool {
        self.process.is_some_and(|process| process.is_running())
    }
}

impl Cluster {
    /// The nodes' client addresses.
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.client.clone()).collect()
    }

    /// One node by its number.
    pub fn node_mut(&mut self, node: usize) -> Result<&mut NodeRecord, Stop> {
        let count = self.nodes.len();
        let missing = || Stop::Usage(format!("node {node}: there are {count}, numbered from 0"));
        self.nodes.get_mut(node).ok_or_else(missing)
    }

    /// The nodes' processes.
    pub fn text(&self) -> String {
        let row = |node: &NodeRecord| {
            let process = node.process.filter(|_| node.is_running());
            let process = process.map_or_else(|| "stopped".to_owned(), |process| process.pid.to_string());
            vec![node.name.clone(), process, node.client.clone(), format!("http://{}/metrics", node.http)]
        };
        table(&["PROCESS OF", "PID", "CLIENT", "METRICS"], self.nodes.iter().map(row).collect())
    }
}

/// An open folder; nobody else changes it meanwhile.
pub struct Folder {
    /// Absolute.
    pub path: PathBuf,
    /// What there is.
    pub cluster: Cluster,
    _lock: File,
}

/// The cluster of the folder as it is now, for whoever only looks at it: that needs no turn, and writes nothing.
pub fn look_at(path: &Path) -> Result<Cluster, Stop> {
    let mut cluster = read(path)?.ok_or_else(|| nothing_in(path))?;
    find_processes(&mut cluster, &path.canonicalize().map_err(|error| failed(path, &error))?);
    Ok(cluster)
}

/// A command that was interrupted may have started a node, and not have written which process it is.
fn find_processes(cluster: &mut Cluster, path: &Path) {
    for node in cluster.nodes.iter_mut().filter(|node| !node.is_running()) {
        let found = Process::with_configuration(&path.join(&node.name).join(CONFIGURATION_FILE));
        node.process = found.or(node.process);
    }
}

fn nothing_in(path: &Path) -> Stop {
    Stop::Failed(format!("{}: holds no cluster; `dynamoctl local up` makes one", path.display()))
}

/// The cluster of the folder, if there is one.
pub fn read(path: &Path) -> Result<Option<Cluster>, Stop> {
    let file = path.join(CLUSTER_FILE);
    let text = match fs::read(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&file, &error)),
    };
    parsed(&text).map(Some).map_err(|error| {
        let file = file.display();
        Stop::Failed(format!(
            "{file}: is damaged ({error}); mend it, or remove the cluster and its data: `dynamoctl local down --purge`"
        ))
    })
}

fn parsed(text: &[u8]) -> Result<Cluster, serde_json::Error> {
    let cluster: Cluster = serde_json::from_slice(text)?;
    match cluster.nodes.iter().find(|node| !is_node_folder(&node.name)) {
        // Its folder is removed one day, with all that it holds.
        Some(node) => Err(serde::de::Error::custom(format!("a node's name is {:?}, and has to be like node-1", node.name))),
        None => Ok(cluster),
    }
}

/// What the folder of a node is called whose node is none any more, until it is removed.
const LEFT: &str = ".left";

fn is_left(name: &str) -> bool {
    name.strip_suffix(LEFT).is_some_and(is_node_folder)
}

fn is_node_folder(name: &str) -> bool {
    name.strip_prefix("node-").is_some_and(|number| number.parse::<u16>().is_ok())
}

/// The folders that `dynamoctl local` gave nodes.
fn node_folders(path: &Path) -> Result<Vec<String>, Stop> {
    names(path, is_node_folder)
}

/// What lies in the folder under such names.
fn names(path: &Path, is_one: impl Fn(&str) -> bool) -> Result<Vec<String>, Stop> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(|error| failed(path, &error))? {
        let name = entry.map_err(|error| failed(path, &error))?.file_name().to_string_lossy().into_owned();
        if is_one(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

/// No process has the database of the node in `own` open. One that has is none that `cluster.json` names: those were asked for before.
fn check_unused(own: &Path) -> Result<(), Stop> {
    let Some(pid) = process::pid_with_lock_on(&own.join("data/rocksdb/LOCK")) else { return Ok(()) };
    let own = own.display();
    Err(Stop::Failed(format!("{own} is in use by process {pid}, which {CLUSTER_FILE} does not name; end it first")))
}

/// The record of the rings of `cluster`, if the folder is that cluster's.
pub fn record_in(path: &Path, cluster: ClusterId) -> Option<PathBuf> {
    let held = read(path).ok().flatten()?;
    (ClusterId::parse(&held.cluster_id) == Some(cluster)).then(|| path.join(RECORD_FILE))
}

/// What a command does where it finds no folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Missing {
    /// Make it.
    Made,
    /// Say so, and make nothing.
    Told,
}

/// The folder's absolute path, and its lock. Whoever is at work there has so long to end.
async fn locked(path: &Path, patience: Duration, missing: Missing) -> Result<(PathBuf, File), Stop> {
    let (mut whole, mut lock) = open_lock(path, missing)?;
    let deadline = Instant::now() + patience;
    loop {
        match lock.try_lock() {
            Ok(()) if is_at(&lock, &whole.join(LOCK_FILE)) => return Ok((whole, lock)),
            // Whoever was at work there has removed it: the next command takes another one.
            Ok(()) => (whole, lock) = open_lock(path, missing)?,
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => sleep(LOOK_INTERVAL).await,
            Err(TryLockError::WouldBlock) => {
                return Err(Stop::Failed(format!("{}: another `dynamoctl local` is at work there", whole.display())));
            }
            Err(TryLockError::Error(error)) => return Err(failed(&whole.join(LOCK_FILE), &error)),
        }
    }
}

/// The folder's absolute path, and the file of its lock, which is not taken yet. A folder that somebody emptied meanwhile is given no lock
/// again, but to make a cluster in it.
fn open_lock(path: &Path, missing: Missing) -> Result<(PathBuf, File), Stop> {
    match missing {
        Missing::Made => fs::create_dir_all(path).map_err(|error| failed(path, &error))?,
        Missing::Told if !path.join(CLUSTER_FILE).exists() => return Err(nothing_in(path)),
        Missing::Told => {}
    }
    let whole = path.canonicalize().map_err(|error| failed(path, &error))?;
    let lock_path = whole.join(LOCK_FILE);
    let lock = File::create(&lock_path).map_err(|error| failed(&lock_path, &error))?;
    Ok((whole, lock))
}

/// Whether `file` is what lies at `path`.
fn is_at(file: &File, path: &Path) -> bool {
    let which = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let there = fs::metadata(path).map(which);
    file.metadata().map(which).is_ok_and(|held| there.is_ok_and(|there| held == there))
}

fn failed(path: &Path, error: &std::io::Error) -> Stop {
    Stop::Failed(format!("{}: {error}", path.display()))
}

impl Folder {
    /// The folder of a cluster that exists.
    pub async fn open(path: &Path) -> Result<Self, Stop> {
        if !path.join(CLUSTER_FILE).exists() {
            return Err(nothing_in(path));
        }
        Self::open_locked(locked(path, TURN_PATIENCE, Missing::Told).await?, || Err(nothing_in(path)))
    }

    /// The folder of a cluster that is to be removed. Where `cluster.json` is damaged its nodes are those that have folders; nobody knows
    /// their processes, so none of them may run.
    pub async fn open_to_purge(path: &Path) -> Result<Self, Stop> {
        if !path.join(CLUSTER_FILE).exists() || read(path).is_ok() {
            return Self::open(path).await;
        }
        let (path, lock) = locked(path, TURN_PATIENCE, Missing::Told).await?;
        let mut nodes = Vec::new();
        for name in node_folders(&path)? {
            check_unused(&path.join(&name))?;
            let nothing = String::new;
            nodes.push(NodeRecord { name, zone: nothing(), client: nothing(), peer: nothing(), http: nothing(), process: None });
        }
        let cluster = Cluster { cluster_id: String::new(), partitions: 0, replication: 0, nodes, program: None };
        Ok(Self { path, cluster, _lock: lock })
    }

    /// The folder of a cluster; a new one is what `plan` says.
    pub async fn open_or_create(path: &Path, plan: impl FnOnce() -> Result<Cluster, Stop>) -> Result<Self, Stop> {
        Self::open_locked(locked(path, TURN_PATIENCE, Missing::Made).await?, plan)
    }

    fn open_locked((path, lock): (PathBuf, File), plan: impl FnOnce() -> Result<Cluster, Stop>) -> Result<Self, Stop> {
        if let Some(cluster) = read(&path)? {
            let mut folder = Self { path, cluster, _lock: lock };
            // They are in nobody's way if they cannot be removed; a purge says so.
            let _ = folder.remove_left();
            let before = folder.cluster.clone();
            find_processes(&mut folder.cluster, &folder.path);
            if folder.cluster != before {
                folder.save()?;
            }
            return Ok(folder);
        }
        let folder = Self { cluster: plan()?, path, _lock: lock };
        folder.save()?;
        Ok(folder)
    }

    /// No process that is not known has the database of `node` open. Its own has ended.
    pub fn check_unused(&self, node: &NodeRecord) -> Result<(), Stop> {
        check_unused(&self.of_node(node))
    }

    /// The last node is none any more, and what it had is removed. Wherever that ends, no node is left with a part of its data: its folder
    /// goes under another name first, and the next command removes it there.
    pub fn remove_last(&mut self) -> Result<(), Stop> {
        let Some(last) = self.cluster.nodes.last() else { return Ok(()) };
        let (own, left) = (self.of_node(last), self.path.join(format!("{}{LEFT}", last.name)));
        fs::rename(&own, &left).map_err(|error| failed(&own, &error))?;
        self.cluster.nodes.pop();
        self.save()?;
        fs::remove_dir_all(&left).map_err(|error| failed(&left, &error))
    }

    /// What commands that were interrupted did not remove.
    fn remove_left(&self) -> Result<(), Stop> {
        for name in names(&self.path, is_left)? {
            let path = self.path.join(name);
            fs::remove_dir_all(&path).map_err(|error| failed(&path, &error))?;
        }
        Ok(())
    }

    /// Writes `cluster.json`.
    pub fn save(&self) -> Result<(), Stop> {
        let file = self.path.join(CLUSTER_FILE);
        let text = serde_json::to_vec_pretty(&self.cluster).map_err(|error| Stop::Failed(error.to_string()))?;
        replace_file(&file, &text).map_err(|error| failed(&file, &error))
    }

    /// Where each of the cluster's rings is recorded first.
    pub fn record(&self) -> PathBuf {
        self.path.join(RECORD_FILE)
    }

    /// The configuration that a node's process is started with.
    pub fn configuration_of(&self, node: &NodeRecord) -> PathBuf {
        self.of_node(node).join(CONFIGURATION_FILE)
    }

    /// The folder of one node.
    pub fn of_node(&self, node: &NodeRecord) -> PathBuf {
        self.path.join(&node.name)
    }

    /// One node by its number.
    pub fn node_mut(&mut self, node: usize) -> Result<&mut NodeRecord, Stop> {
        self.cluster.node_mut(node)
    }

    /// Removes what this program made, and nothing else.
    pub fn purge(self) -> Result<(), Stop> {
        let gone = |path: &Path, result: std::io::Result<()>| match result {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(path, &error)),
            _ => Ok(()),
        };
        for node in &self.cluster.nodes {
            let path = self.of_node(node);
            gone(&path, fs::remove_dir_all(&path))?;
        }
        self.remove_left()?;
        let record = self.record();
        let earlier = names(&self.path, |name| ring_record::is_before(&record, &self.path.join(name)))?;
        for file in earlier.into_iter().chain(OWN_FILES.map(str::to_owned)) {
            let path = self.path.join(file);
            gone(&path, fs::remove_file(&path))?;
        }
        // If the user keeps something else in it, the folder stays.
        let _ = fs::remove_dir(&self.path);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_fuzz::{Expect, Fuzz, unsealed};

    fn cluster() -> Result<Cluster, Stop> {
        let node = NodeRecord {
            name: "node-0".to_owned(),
            zone: "default".to_owned(),
            client: "127.0.0.1:7400".to_owned(),
            peer: "127.0.0.1:7401".to_owned(),
            http: "127.0.0.1:7402".to_owned(),
            process: Some(Process { pid: 7, start_ticks: 9 }),
        };
        Ok(Cluster { cluster_id: "id".to_owned(), partitions: 64, replication: 1, nodes: vec![node], program: None })
    }

    #[tokio::test]
    async fn a_cluster_reads_back_from_its_folder_and_purge_leaves_what_is_not_its_own() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("local");
        drop(Folder::open_or_create(&path, cluster).await.unwrap());
        fs::create_dir(path.join("node-0")).unwrap();
        fs::write(path.join("notes.txt"), "mine").unwrap();
        let folder = Folder::open(&path).await.unwrap();
        assert_eq!(folder.cluster, cluster().unwrap());
        assert!(matches!(locked(&path, Duration::ZERO, Missing::Made).await, Err(Stop::Failed(_))), "it is locked");
        let of_this_version = ["first.ring", "first.ring.ring-7", "first.ring.lock", "first.ring.new", "cluster.json.new"];
        for file in of_this_version.into_iter().chain(["first.ring-7", "first.lock", "first.new", "cluster.new"]) {
            fs::write(path.join(file), "").unwrap();
        }
        folder.purge().unwrap();
        let left: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["notes.txt"]);
        assert!(Folder::open(&path).await.is_err());
        fs::remove_file(path.join("notes.txt")).unwrap();
        Folder::open_or_create(&path, cluster).await.unwrap().purge().unwrap();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_command_that_finds_another_one_at_work_waits_for_its_turn() {
        let place = tempfile::tempdir().unwrap();
        let at_work = Folder::open_or_create(place.path(), cluster).await.unwrap();
        // The second goes on when the first has looked once, and waits.
        let (opened, ()) = tokio::join!(biased; Folder::open(place.path()), async { drop(at_work) });
        assert_eq!(opened.unwrap().cluster, cluster().unwrap());
    }

    #[tokio::test]
    async fn a_command_that_waits_while_the_folder_is_removed_has_it_for_itself_afterwards() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("local");
        let at_work = Folder::open_or_create(&path, cluster).await.unwrap();
        // The second goes on when the first has looked once, and waits.
        let (waited, ()) = tokio::join!(biased; locked(&path, TURN_PATIENCE, Missing::Made), async { at_work.purge().unwrap() });
        let (whole, lock) = waited.unwrap();
        assert!(is_at(&lock, &whole.join(LOCK_FILE)));
        assert!(matches!(locked(&path, Duration::ZERO, Missing::Made).await, Err(Stop::Failed(_))), "it is locked");
    }

    #[tokio::test]
    async fn a_command_that_waits_while_the_folder_is_removed_and_is_to_make_none_leaves_nothing_there() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("local");
        for (kept, left) in [(None, false), (Some("notes.txt"), true)] {
            let at_work = Folder::open_or_create(&path, cluster).await.unwrap();
            kept.iter().for_each(|file| fs::write(path.join(file), "mine").unwrap());
            // The second goes on when the first has looked once, and waits.
            let (waited, ()) = tokio::join!(biased; Folder::open(&path), async { at_work.purge().unwrap() });
            let told = waited.map(drop).unwrap_err().to_string();
            assert!(told.contains("holds no cluster"), "{told}");
            assert_eq!((path.exists(), path.join(LOCK_FILE).exists()), (left, false), "{kept:?}");
        }
    }

    #[tokio::test]
    async fn what_an_interrupted_command_left_of_a_node_is_removed_by_the_next() {
        let place = tempfile::tempdir().unwrap();
        drop(Folder::open_or_create(place.path(), cluster).await.unwrap());
        let (left, not_ours) = (place.path().join("node-3.left"), place.path().join("notes.left"));
        for folder in [&left, &not_ours] {
            fs::create_dir_all(folder.join("data")).unwrap();
        }
        drop(Folder::open(place.path()).await.unwrap());
        assert_eq!((left.exists(), not_ours.exists()), (false, true));
    }

    #[test]
    fn a_spoilt_file_of_a_cluster_is_one_or_refused() {
        let of = |cluster: &Cluster| serde_json::to_vec_pretty(cluster).unwrap();
        let stopped = |node: NodeRecord| NodeRecord { process: None, ..node };
        let (whole, rest) = (cluster().unwrap(), cluster().unwrap());
        let program = Some("/usr/bin/dynamo-node".to_owned());
        let rest = Cluster { nodes: rest.nodes.into_iter().map(stopped).collect(), program, ..rest };
        Fuzz {
            name: "cluster.json",
            corpus: vec![of(&whole), of(&rest)],
            seal: &unsealed,
            expect: Expect::Stable,
            decode: &|bytes| parsed(bytes).ok().map(|cluster| of(&cluster)),
        }
        .run();
    }

    #[tokio::test]
    async fn a_cluster_whose_file_is_damaged_can_be_purged() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("local");
        drop(Folder::open_or_create(&path, cluster).await.unwrap());
        for folder in ["node-0/data/rocksdb", "node-1", "node-2.left/data", "node-mine"] {
            fs::create_dir_all(path.join(folder)).unwrap();
        }
        fs::write(path.join("node-0/data/rocksdb/LOCK"), "").unwrap();
        fs::write(path.join(CLUSTER_FILE), "{").unwrap();
        assert!(matches!(Folder::open(&path).await, Err(Stop::Failed(_))));
        Folder::open_to_purge(&path).await.unwrap().purge().unwrap();
        let left: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["node-mine"]);
        assert!(Folder::open_to_purge(&path).await.is_err(), "there is none");
    }

    #[tokio::test]
    async fn a_purge_does_not_follow_a_name_out_of_the_folder() {
        let parent = tempfile::tempdir().unwrap();
        let (path, outside) = (parent.path().join("local"), parent.path().join("outside"));
        fs::create_dir(&outside).unwrap();
        drop(Folder::open_or_create(&path, cluster).await.unwrap());
        let file = path.join(CLUSTER_FILE);
        let renamed = fs::read_to_string(&file).unwrap().replace("node-0", "../outside");
        fs::write(&file, renamed).unwrap();
        let refused = Folder::open(&path).await.map(drop).unwrap_err().to_string();
        assert!(refused.contains("../outside"), "{refused}");
        Folder::open_to_purge(&path).await.unwrap().purge().unwrap();
        assert!(outside.exists() && !path.exists());
    }

    #[tokio::test]
    async fn the_folder_has_the_record_of_its_own_cluster_only() {
        let place = tempfile::tempdir().unwrap();
        let (own, other) = (ClusterId([7; 16]), ClusterId([8; 16]));
        assert_eq!(record_in(place.path(), own), None);
        let made = || Ok(Cluster { cluster_id: own.to_string(), ..cluster()? });
        let folder = Folder::open_or_create(place.path(), made).await.unwrap();
        assert_eq!(record_in(&folder.path, own), Some(folder.record()));
        assert_eq!(record_in(&folder.path, other), None);
    }
}
