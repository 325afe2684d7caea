//! Who this node is: `identity.yaml` in its data directory, made once, never changed but for the count of starts (paper 4.8).
//!
//! A node is its data, not its address: whoever has the directory is the node. So the file and the database belong together:
//! an identity without its database, a database without its identity, or with that of another node, is refused, and so is a
//! directory of another cluster.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use dynamo_core::hash_tree::stored::mask_key;
use dynamo_core::id::{ClusterId, NodeId};
use dynamo_core::node::CLEAN_STOP;
use dynamo_core::storage::{Storage, StorageError};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::{error, warn};

use crate::config::ValidConfig;
use crate::storage::watermark::Recovery;
use crate::storage::{self, Expect, Lock, OpenError, RocksEngine};

const FILE: &str = "identity.yaml";
const DATABASE: &str = "rocksdb";
/// The database's own word of whose it is: a UUID. Under another node's name its copies would count as that node's, and what it
/// lacks of them as never written.
const OWNER: &[u8] = b"owner";

/// Why the data directory cannot be used.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The file system says no.
    #[error("data_dir: {path}: {error}")]
    Io {
        /// Where.
        path: String,
        /// What.
        error: std::io::Error,
    },
    /// The identity is not readable.
    #[error(
        "data_dir: {path} is damaged: {reason}; restore it, or start a new node: with data_dir emptied, in Kubernetes by deleting the claim and the pod"
    )]
    Damaged {
        /// The file.
        path: String,
        /// What.
        reason: String,
    },
    /// It belongs to another cluster.
    #[error(
        "data_dir: {path} belongs to cluster {theirs}, cluster_id says {ours}; use the right directory, or correct cluster_id"
    )]
    OtherCluster {
        /// The directory.
        path: String,
        /// The directory's cluster.
        theirs: ClusterId,
        /// The configuration's.
        ours: ClusterId,
    },
    /// Data without an identity.
    #[error(
        "data_dir: {path} holds data but no {FILE}; restore that file, or start a new node: with data_dir emptied, in Kubernetes by deleting the claim and the pod"
    )]
    Orphaned {
        /// The database.
        path: String,
    },
    /// The data of another node.
    #[error(
        "data_dir: {path} holds the data of node {theirs}, {FILE} beside it says {ours}; put together again what belongs together, or start a new node: with data_dir emptied, in Kubernetes by deleting the claim and the pod"
    )]
    OtherNode {
        /// The database.
        path: String,
        /// The database's node.
        theirs: NodeId,
        /// The identity's.
        ours: NodeId,
    },
    /// The database.
    #[error("data_dir: {0}")]
    Database(#[from] OpenError),
    /// The database opened and does not work.
    #[error("data_dir: {0}")]
    Storage(#[from] StorageError),
}

/// The file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    node: String,
    cluster: String,
    generation: u64,
}

/// A data directory that this process has for itself.
pub struct DataDir {
    /// The node's id.
    pub node: NodeId,
    /// How often it was started, this start included.
    pub generation: u64,
    /// Its database, which is locked.
    pub engine: RocksEngine,
}

/// How long the log of the directory's database is, which is replayed when it is opened; 0 where there is none that can be read.
pub fn log_bytes(config: &ValidConfig) -> u64 {
    storage::log_bytes(&config.data_dir.join(DATABASE))
}

/// Opens the directory, or makes a new node in an empty one.
pub fn open(config: &ValidConfig) -> Result<DataDir, IdentityError> {
    let dir = &config.data_dir;
    fs::create_dir_all(dir).map_err(failed(dir))?;
    let database = dir.join(DATABASE);
    // It also guards the identity: of two starts at once, one reads and counts.
    let lock = Lock::take(&database)?;
    let file = dir.join(FILE);
    let known = read(&file, dir, config.cluster)?;
    let expect = if known.is_some() { Expect::Database } else { Expect::Nothing };
    let mut engine = RocksEngine::open_locked(lock, &config.storage, expect)?;
    let (node, generation) = match known {
        Some((node, generation)) => (node, generation.saturating_add(1)),
        // A crash between the two leaves an empty database, which is no loss; one with data has lost its identity.
        None if engine.is_empty()? => (NodeId(*uuid::Uuid::new_v4().as_bytes()), 1),
        None => return Err(IdentityError::Orphaned { path: database.display().to_string() }),
    };
    let owner = owner(&engine, &database)?;
    if let Some(theirs) = owner.filter(|theirs| *theirs != node) {
        return Err(IdentityError::OtherNode { path: database.display().to_string(), theirs, ours: node });
    }
    if expect == Expect::Database {
        distrust_if_short(&mut engine)?;
    }
    let record = Record { node: node.to_string(), cluster: config.cluster.to_string(), generation };
    write(&file, dir, &record)?;
    if owner.is_none() {
        // After the identity: a database with this word in it and no identity is one that has lost it.
        engine.write_meta(OWNER, Some(&node.0))?;
        engine.commit()?;
    }
    Ok(DataDir { node, generation, engine })
}

/// Whose the database says that it is. One from before databases said so says nothing.
fn owner(engine: &RocksEngine, database: &Path) -> Result<Option<NodeId>, IdentityError> {
    let Some(bytes) = engine.read_meta(OWNER)? else { return Ok(None) };
    NodeId::from_slice(&bytes).map(Some).ok_or_else(|| {
        let reason = format!("its record of the node that it belongs to has {} bytes, a node's id has 16", bytes.len());
        IdentityError::Damaged { path: database.display().to_string(), reason }
    })
}

/// A database that lacks what it once had has forgotten writes that others may hold: even if its last stop was clean, it does not
/// go on under its former actors. The marks are in the log before any later watermark.
fn distrust_if_short(engine: &mut RocksEngine) -> Result<(), StorageError> {
    match engine.recovery() {
        Recovery::Whole => return Ok(()),
        Recovery::Short { expected, found } => {
            error!(
                expected,
                found, "the database is shorter than it was: acknowledged writes are missing here, peers have to repair it"
            );
        }
        Recovery::Unknown => warn!("nothing tells how long the database was when it was last synced; it is taken for shorter"),
    }
    // Files of partitions that were dropped may be gone although the drop itself is forgotten: no stored tree is true of what is left.
    for partition in engine.partitions()? {
        engine.write_meta(&mask_key(partition), None)?;
    }
    engine.write_meta(CLEAN_STOP, None)?;
    engine.commit().map(drop)
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> IdentityError {
    move |error| IdentityError::Io { path: path.display().to_string(), error }
}

fn read(file: &PathBuf, dir: &Path, ours: ClusterId) -> Result<Option<(NodeId, u64)>, IdentityError> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(file)(error)),
    };
    let damaged = |reason: String| IdentityError::Damaged { path: file.display().to_string(), reason };
    let record: Record = serde_yaml::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    let node = NodeId::parse(&record.node).ok_or_else(|| damaged(format!("node: {:?} is not a UUID", record.node)))?;
    let theirs =
        ClusterId::parse(&record.cluster).ok_or_else(|| damaged(format!("cluster: {:?} is not a UUID", record.cluster)))?;
    if theirs != ours {
        return Err(IdentityError::OtherCluster { path: dir.display().to_string(), theirs, ours });
    }
    Ok(Some((node, record.generation)))
}

/// All or nothing, even if the power goes: the new file is complete on disk before it takes the name.
fn write(file: &PathBuf, dir: &Path, record: &Record) -> Result<(), IdentityError> {
    let text = serde_yaml::to_string(record)
        .map_err(|error| IdentityError::Damaged { path: file.display().to_string(), reason: error.to_string() })?;
    let new = dir.join(format!("{FILE}.new"));
    let mut handle = File::create(&new).map_err(failed(&new))?;
    handle.write_all(text.as_bytes()).and_then(|()| handle.sync_all()).map_err(failed(&new))?;
    fs::rename(&new, file).map_err(failed(file))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed(dir))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Flags;
    use crate::storage::watermark::Watermark;
    use dynamo_core::id::PartitionId;
    use dynamo_core::name::Name;
    use dynamo_core::version::Object;
    use tempfile::TempDir;

    const CLUSTER: &str = "6f9619ff-8b86-d011-b42d-00c04fc964ff";

    fn config(dir: &TempDir, cluster: &str) -> ValidConfig {
        let flags = Flags {
            cluster_id: Some(cluster.into()),
            data_dir: Some(dir.path().join("data")),
            advertise_host: Some("h".into()),
            ..Flags::default()
        };
        ValidConfig::load(flags).unwrap()
    }

    fn refusal(config: &ValidConfig) -> String {
        open(config).err().unwrap().to_string()
    }

    #[test]
    fn a_node_keeps_its_id_and_counts_its_starts() {
        let dir = TempDir::new().unwrap();
        let first = open(&config(&dir, CLUSTER)).unwrap();
        let (node, generation) = (first.node, first.generation);
        drop(first);
        let second = open(&config(&dir, CLUSTER)).unwrap();
        assert_eq!((generation, second.generation), (1, 2));
        assert_eq!(second.node, node);
        assert_ne!(open(&config(&TempDir::new().unwrap(), CLUSTER)).unwrap().node, node);
    }

    #[test]
    fn a_directory_of_another_cluster_is_refused() {
        let dir = TempDir::new().unwrap();
        drop(open(&config(&dir, CLUSTER)).unwrap());
        let error = refusal(&config(&dir, "00000000-0000-0000-0000-000000000001"));
        assert!(error.contains("belongs to cluster 6f9619ff") && error.contains("correct cluster_id"), "{error}");
    }

    #[test]
    fn identity_and_database_belong_together() {
        let dir = TempDir::new().unwrap();
        let config = config(&dir, CLUSTER);
        let mut data = open(&config).unwrap();
        data.engine.write_meta(b"k", Some(b"v")).unwrap();
        data.engine.commit().unwrap();
        drop(data);
        let file = config.data_dir.join(FILE);
        let text = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        let error = refusal(&config);
        assert!(error.contains("holds data but no identity.yaml"), "{error}");
        fs::write(&file, "node: 1").unwrap();
        assert!(refusal(&config).contains("identity.yaml is damaged"));
        fs::write(&file, text).unwrap();
        fs::rename(config.data_dir.join(DATABASE), config.data_dir.join("elsewhere")).unwrap();
        assert!(refusal(&config).contains("its data are gone"));
    }

    #[test]
    fn a_crash_between_database_and_identity_is_no_obstacle() {
        let dir = TempDir::new().unwrap();
        let config = config(&dir, CLUSTER);
        fs::create_dir_all(&config.data_dir).unwrap();
        drop(RocksEngine::open(&config.data_dir.join(DATABASE), &config.storage, Expect::Nothing).unwrap());
        assert_eq!(open(&config).unwrap().generation, 1);
    }

    #[test]
    fn a_database_under_the_identity_of_another_node_is_refused() {
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let configs = dirs.each_ref().map(|dir| config(dir, CLUSTER));
        let nodes = configs.each_ref().map(|config| open(config).unwrap().node);
        let files = configs.each_ref().map(|config| config.data_dir.join(FILE));
        let own = fs::read(&files[0]).unwrap();
        fs::copy(&files[1], &files[0]).unwrap();
        let error = refusal(&configs[0]);
        assert!(
            error.contains(&format!("holds the data of node {}, identity.yaml beside it says {}", nodes[0], nodes[1])),
            "{error}"
        );
        fs::write(&files[0], own).unwrap();
        assert_eq!(open(&configs[0]).unwrap().node, nodes[0], "put together again, it starts");
    }

    #[test]
    fn a_database_from_before_they_named_their_node_is_taken_for_that_of_its_identity() {
        let dir = TempDir::new().unwrap();
        let config = config(&dir, CLUSTER);
        let mut data = open(&config).unwrap();
        data.engine.write_meta(OWNER, None).unwrap();
        data.engine.commit().unwrap();
        let node = data.node;
        drop(data);
        let again = open(&config).unwrap();
        assert_eq!((again.node, again.engine.read_meta(OWNER).unwrap().as_deref()), (node, Some(&node.0[..])));
    }

    #[test]
    fn a_database_whose_word_of_its_node_is_spoilt_is_given_to_nobody() {
        let dir = TempDir::new().unwrap();
        let config = config(&dir, CLUSTER);
        let mut data = open(&config).unwrap();
        data.engine.write_meta(OWNER, Some(&data.node.0[1..])).unwrap();
        data.engine.commit().unwrap();
        drop(data);
        for _ in 0..2 {
            let error = refusal(&config);
            assert!(error.contains("is damaged") && error.contains("has 15 bytes"), "{error}");
        }
    }

    #[test]
    fn of_a_directory_in_use_not_even_the_identity_is_read() {
        let dir = TempDir::new().unwrap();
        let config = config(&dir, CLUSTER);
        let held = open(&config).unwrap();
        fs::write(config.data_dir.join(FILE), "half of").unwrap();
        let error = refusal(&config);
        assert!(error.contains("in use by another process"), "{error}");
        drop(held);
        assert!(refusal(&config).contains("identity.yaml is damaged"));
    }

    #[test]
    fn a_database_that_lost_its_end_does_not_count_as_cleanly_stopped_and_its_trees_are_not_trusted() {
        let dir = TempDir::new().unwrap();
        let config = config(&dir, CLUSTER);
        let synced = config.data_dir.join(DATABASE).with_extension("synced");
        let (partition, name) = (PartitionId(3), Name::new("b", "k"));
        let trusted_after = |damage: &dyn Fn()| {
            fs::create_dir_all(&config.data_dir).unwrap();
            let mut data = open(&config).unwrap();
            data.engine.write_meta(CLEAN_STOP, Some(b"1")).unwrap();
            data.engine.write_meta(&mask_key(partition), Some(b"mask")).unwrap();
            data.engine.write(partition, &name, &Object::default()).unwrap();
            data.engine.commit().unwrap();
            data.engine.log().sync().unwrap();
            drop(data);
            damage();
            let engine = open(&config).unwrap().engine;
            [CLEAN_STOP, &mask_key(partition)].map(|record| engine.read_meta(record).unwrap().is_some())
        };
        assert_eq!(trusted_after(&|| {}), [true; 2]);
        let longer = || Watermark::open(&synced).unwrap().record(1 << 40).unwrap();
        assert_eq!(trusted_after(&longer), [false; 2], "something is missing");
        assert_eq!(trusted_after(&|| fs::remove_file(&synced).unwrap()), [false; 2], "nobody can tell");
        let synced_and_killed = || {
            longer();
            open(&config).unwrap().engine.log().sync().unwrap();
        };
        assert_eq!(trusted_after(&synced_and_killed), [false; 2], "the start after the one that noticed");
        assert_eq!(trusted_after(&|| {}), [true; 2]);
    }
}
