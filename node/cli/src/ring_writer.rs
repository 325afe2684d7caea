//! The one writer of rings where there is no operator: the first ring of a cluster of processes.
//!
//! The proposal is recorded in a file, synced, before any node sees it, and a writer that comes back offers the recorded ring
//! again and never another one of the same epoch. A node that holds a ring already ends it: this writer makes first rings only.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use dynamo_core::id::{ClusterId, Epoch, NodeId};
use dynamo_core::rebalance::{Members, first_ring_with};
use dynamo_core::ring::bucket_replication::BucketReplication;
use dynamo_core::ring::{Member, Ring};
use tokio::time::{Instant, sleep};

use crate::local;
use crate::members::{self, Answer, Endpoints, Views};
use crate::stop::Stop;

/// Between two looks at who is there.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// What the first ring shall be.
pub struct Plan {
    /// Partitions, as a power of two.
    pub partition_bits: u8,
    /// N.
    pub replication: u8,
    /// Buckets with an N of their own.
    pub bucket_n: Vec<(Bytes, u8)>,
    /// Nodes that the ring has.
    pub expect_nodes: usize,
    /// Until they are there, and then until they hold the ring.
    pub patience: Duration,
    /// Where the proposal is recorded: a file, or a folder in which it gets its cluster's name.
    pub record: PathBuf,
}

/// Waits for the nodes, records the ring, gives it to all of them. Returns the ring that they hold.
pub async fn make_first_ring(endpoints: &Endpoints, plan: &Plan) -> Result<Ring, Stop> {
    let deadline = Instant::now() + plan.patience;
    let answers = gather(endpoints, plan, deadline).await?;
    let cluster = one_cluster(&answers)?;
    let path = record_of(&plan.record, cluster);
    let ring = match recorded(&path, cluster)? {
        Some(ring) => as_planned(ring, plan)?,
        None => {
            let ring = planned(&answers, cluster, plan)?;
            record(&path, &ring)?;
            ring
        }
    };
    propose(&answers, &ring, deadline).await?;
    Ok(ring)
}

/// Until the expected nodes answer: the endpoints, and those that they know.
async fn gather(endpoints: &Endpoints, plan: &Plan, deadline: Instant) -> Result<BTreeMap<NodeId, Answer>, Stop> {
    loop {
        let problem = match members::ask(endpoints).await {
            Ok(views) if views.answered.len() == plan.expect_nodes => return Ok(views.answered),
            Ok(views) if views.answered.len() > plan.expect_nodes => {
                let found = views.answered.len();
                return Err(Stop::Usage(format!(
                    "{found} nodes answer; say --expect-nodes {found} if all of them belong in the ring"
                )));
            }
            Ok(views) => format!("{} of {} nodes answer", views.answered.len(), plan.expect_nodes),
            Err(Stop::Usage(reason)) => return Err(Stop::Usage(reason)),
            Err(stop) => stop.to_string(),
        };
        if Instant::now() >= deadline {
            return Err(Stop::Failed(format!("the nodes did not come within {} s: {problem}", plan.patience.as_secs())));
        }
        sleep(LOOK_INTERVAL).await;
    }
}

fn one_cluster(answers: &BTreeMap<NodeId, Answer>) -> Result<ClusterId, Stop> {
    let mut clusters: Vec<ClusterId> = answers.values().map(|answer| answer.status.cluster).collect();
    clusters.sort();
    clusters.dedup();
    match clusters.as_slice() {
        [cluster] => Ok(*cluster),
        _ => Err(Stop::Usage(format!("the nodes belong to {} clusters; give all of them one cluster_id", clusters.len()))),
    }
}

fn planned(answers: &BTreeMap<NodeId, Answer>, cluster: ClusterId, plan: &Plan) -> Result<Ring, Stop> {
    if let Some(answer) = answers.values().find(|answer| answer.status.ring_hash.is_some()) {
        let (address, epoch) = (&answer.status.client_address, answer.status.epoch);
        return Err(Stop::Failed(format!(
            "{address} holds a ring already (epoch {epoch}); only a cluster without one is given its first"
        )));
    }
    let member = |answer: &Answer| Member { zone: answer.status.zone.clone(), weight: 1 };
    let members: Members = answers.iter().map(|(node, answer)| (*node, member(answer))).collect();
    let usage = |error: &dyn std::fmt::Display| Stop::Usage(error.to_string());
    let buckets = BucketReplication::new(plan.bucket_n.iter().cloned(), plan.replication).map_err(|error| usage(&error))?;
    first_ring_with(cluster, plan.partition_bits, plan.replication, buckets, &members).map_err(|error| usage(&error))
}

/// Where rings are recorded: what was given, or a folder of this user's.
pub fn record_or_default(given: Option<&Path>) -> Result<PathBuf, Stop> {
    if let Some(given) = given {
        return Ok(given.to_owned());
    }
    let folder = local::state_folder()?.join("rings");
    fs::create_dir_all(&folder).map_err(|error| Stop::Failed(format!("{}: {error}", folder.display())))?;
    Ok(folder)
}

/// The ring that an earlier run recorded, if it has what is asked for now of all that is for the cluster's life.
fn as_planned(ring: Ring, plan: &Plan) -> Result<Ring, Stop> {
    let buckets = BucketReplication::new(plan.bucket_n.iter().cloned(), plan.replication);
    let buckets = buckets.map_err(|error| Stop::Usage(error.to_string()))?;
    let differs = match () {
        () if ring.partition_bits != plan.partition_bits => {
            format!("{} partitions, not {}", ring.partition_count(), 1_u32 << plan.partition_bits)
        }
        () if ring.replication != plan.replication => format!("N = {}, not {}", ring.replication, plan.replication),
        () if ring.buckets != buckets => "other buckets with an N of their own".to_owned(),
        () => return Ok(ring),
    };
    Err(Stop::Usage(format!(
        "the ring of cluster {} was made with {differs}: that is fixed for the cluster's life (`dynamoctl ring show`)",
        ring.cluster
    )))
}

/// The record of a cluster's rings: the given file; in a folder one by the cluster's name, unless it is the cluster of `local up`,
/// which has its record with its data.
pub fn record_of(given: &Path, cluster: ClusterId) -> PathBuf {
    let in_folder = || local::record_of(cluster).unwrap_or_else(|| given.join(format!("{cluster}.ring")));
    if given.is_dir() { in_folder() } else { given.to_owned() }
}

/// The ring that an earlier run recorded for this cluster.
pub fn recorded(path: &Path, cluster: ClusterId) -> Result<Option<Ring>, Stop> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Stop::Failed(format!("{}: {error}", path.display()))),
    };
    let ring = Ring::decode(Bytes::from(bytes)).map_err(|error| Stop::Failed(format!("{}: {error}", path.display())))?;
    if ring.cluster != cluster {
        let (path, theirs) = (path.display(), ring.cluster);
        return Err(Stop::Usage(format!(
            "{path}: is the record of cluster {theirs}, the nodes are of {cluster}; give another --record"
        )));
    }
    Ok(Some(ring))
}

/// Records `ring`, so that a crash leaves the old record or the new one.
pub fn record(path: &Path, ring: &Ring) -> Result<(), Stop> {
    replace_file(path, &ring.encode()).map_err(|error| Stop::Failed(format!("{}: {error}", path.display())))
}

/// A ring is recorded only if it is one that nodes hold, or follows on it: a node takes no other, and what was recorded before is gone.
pub fn assert_follows(ring: &Ring, views: &Views) {
    let held = views.ring.as_ref().map_or(Epoch(0), |held| held.epoch);
    assert!(ring.epoch <= held.next(), "ring epoch {} would be recorded and the nodes hold {held}", ring.epoch);
}

/// What to do about a recorded ring that is further on than the successor of what the nodes hold.
pub fn missing_between(path: &Path, recorded: &Ring, views: &Views) -> Option<String> {
    let held = views.ring.as_ref().map_or(Epoch(0), |held| held.epoch);
    let told = || {
        format!(
            "{} records ring epoch {}, and the nodes that answer hold epoch {held}: none takes it without the rings between them. Start \
             the nodes that do not answer; if all answer, remove that file, and say --take-over with the next `ring commit`",
            path.display(),
            recorded.epoch
        )
    };
    (recorded.epoch > held.next()).then(told)
}

/// Writes a file so that a crash leaves the old one or the new one.
pub fn replace_file(path: &Path, contents: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}

/// Gives the ring to every node, again and again until all hold it: that is idempotent.
async fn propose(answers: &BTreeMap<NodeId, Answer>, ring: &Ring, deadline: Instant) -> Result<(), Stop> {
    let hash = ring.hash();
    for (node, answer) in answers {
        loop {
            let problem = match answer.client.propose_ring(ring).await {
                Ok((epoch, held)) if epoch > ring.epoch || held == hash => break,
                Ok((epoch, _)) => return Err(Stop::Failed(format!("node {node} holds another ring of epoch {epoch}"))),
                Err(error @ dynamo_client::AdminError::Refused { .. }) => return Err(error.into()),
                Err(error) => error,
            };
            if Instant::now() >= deadline {
                return Err(Stop::Failed(format!("node {node} did not take the ring: {problem}; run the command again")));
            }
            sleep(LOOK_INTERVAL).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_ring_is_offered_again_and_only_to_its_cluster() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rings").join("first.ring");
        let members: Members = (1..=3).map(|id| (NodeId([id; 16]), Member { zone: "z".to_owned(), weight: 1 })).collect();
        let ring = dynamo_core::rebalance::first_ring(ClusterId([1; 16]), 4, 3, &members).unwrap();
        assert_eq!(recorded(&path, ring.cluster).unwrap(), None);
        record(&path, &ring).unwrap();
        assert_eq!(recorded(&path, ring.cluster).unwrap(), Some(ring));
        assert!(matches!(recorded(&path, ClusterId([2; 16])), Err(Stop::Usage(_))));
    }

    #[test]
    fn what_is_for_a_clusters_life_is_not_asked_for_anew() {
        let members: Members = (1..=3).map(|id| (NodeId([id; 16]), Member { zone: "z".to_owned(), weight: 1 })).collect();
        let ring = dynamo_core::rebalance::first_ring(ClusterId([1; 16]), 5, 3, &members).unwrap();
        let plan = |partition_bits, replication, bucket_n: &[(Bytes, u8)]| Plan {
            partition_bits,
            replication,
            bucket_n: bucket_n.to_vec(),
            expect_nodes: 3,
            patience: Duration::ZERO,
            record: PathBuf::new(),
        };
        assert_eq!(as_planned(ring.clone(), &plan(5, 3, &[])).unwrap(), ring);
        let cart = [(Bytes::from_static(b"cart"), 2)];
        let cases =
            [(plan(6, 3, &[]), "32 partitions, not 64"), (plan(5, 2, &[]), "N = 3, not 2"), (plan(5, 3, &cart), "other buckets")];
        for (plan, expected) in cases {
            let refused = as_planned(ring.clone(), &plan).unwrap_err();
            assert!(matches!(&refused, Stop::Usage(said) if said.contains(expected)), "{refused}");
        }
    }
}
