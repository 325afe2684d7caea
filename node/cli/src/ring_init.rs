//! The first ring of a cluster of processes, where there is no operator.
//!
//! The proposal is recorded before any node sees it ([`crate::ring_record`]), and a command that comes back offers the recorded ring
//! again and never another one, unless its members are gone. A node that holds a ring already ends it: later ones are written by
//! [`crate::ring_writer`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use dynamo_core::id::{ClusterId, NodeId};
use dynamo_core::rebalance::{Members, first_ring_with};
use dynamo_core::ring::bucket_replication::BucketReplication;
use dynamo_core::ring::{Member, Ring};
use tokio::time::{Instant, sleep};

use crate::members::{self, Answer, Endpoints, Views};
use crate::ring_record;
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
    let Views { cluster, answered: answers, .. } = gather(endpoints, plan, deadline).await?;
    let ring = recorded_or_planned(&answers, cluster, plan, deadline).await?;
    propose(&answers, &ring, deadline).await?;
    Ok(ring)
}

/// The ring that is recorded from here on, whatever another command may want.
async fn recorded_or_planned(
    answers: &BTreeMap<NodeId, Answer>,
    cluster: ClusterId,
    plan: &Plan,
    deadline: Instant,
) -> Result<Ring, Stop> {
    let path = ring_record::record_of(&plan.record, cluster);
    let _lock = ring_record::locked(&path, deadline).await?;
    if let Some(rings) = ring_record::recorded(&path, cluster)? {
        let ring = as_planned(rings.newest().clone(), plan)?;
        check_members_answer(&ring, answers, &path)?;
        return Ok(ring);
    }
    let ring = planned(answers, cluster, plan)?;
    ring_record::record(&path, &ring.clone().into())?;
    Ok(ring)
}

/// Until the expected nodes answer: the endpoints, and those that they know.
async fn gather(endpoints: &Endpoints, plan: &Plan, deadline: Instant) -> Result<Views, Stop> {
    loop {
        let problem = match members::ask(endpoints).await {
            Ok(views) if views.answered.len() == plan.expect_nodes => return Ok(views),
            Ok(views) if views.answered.len() > plan.expect_nodes => {
                let found = views.answered.len();
                return Err(Stop::Usage(format!(
                    "{found} nodes answer; say --expect-nodes {found} if all of them belong in the ring"
                )));
            }
            Ok(views) => {
                let silent = views.silent.values().map(|silence| &silence.reason);
                let reasons: String = silent.chain(views.unclaimed.values()).map(|reason| format!("; {reason}")).collect();
                format!("{} of {} nodes answer{reasons}", views.answered.len(), plan.expect_nodes)
            }
            Err(Stop::Usage(reason)) => return Err(Stop::Usage(reason)),
            Err(stop) => stop.to_string(),
        };
        if Instant::now() >= deadline {
            return Err(Stop::Failed(format!("the nodes did not come within {} s: {problem}", plan.patience.as_secs())));
        }
        sleep(LOOK_INTERVAL).await;
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

/// Where no node holds a ring, the recorded one is offered only if all its members answer. Nodes whose data was removed come back under
/// other ids, and would take a ring whose replicas lie at nodes that are gone for ever.
fn check_members_answer(ring: &Ring, answers: &BTreeMap<NodeId, Answer>, path: &Path) -> Result<(), Stop> {
    if answers.values().any(|answer| answer.status.ring_hash.is_some()) {
        return Ok(());
    }
    let missing: Vec<NodeId> = ring.survivors().filter(|node| !answers.contains_key(node)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Stop::Usage(format!(
        "no node holds a ring, and the one that {} records has members that do not answer ({}): start them, or, if their data \
         was removed, remove that file",
        path.display(),
        members::list(&missing)
    )))
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
    use crate::double::Double;
    use dynamo_core::rebalance::first_ring;

    #[tokio::test]
    async fn an_address_that_was_named_and_does_not_answer_is_named_by_who_waits_for_it() {
        let members = Members::from([(NodeId([1; 16]), Member { zone: "z".to_owned(), weight: 1 })]);
        let double = Double::start(NodeId([1; 16]), first_ring(ClusterId([9; 16]), 1, 1, &members).unwrap(), 0).await;
        let (bucket_n, record) = (Vec::new(), PathBuf::new());
        let plan = Plan { partition_bits: 1, replication: 1, bucket_n, expect_nodes: 2, patience: Duration::ZERO, record };
        let endpoints = Endpoints::from(vec![double.address.clone(), "127.0.0.1:1".to_owned()]);
        let stop = gather(&endpoints, &plan, Instant::now()).await.map(drop).unwrap_err().to_string();
        assert!(stop.contains("1 of 2 nodes answer; 127.0.0.1:1: cannot connect"), "{stop}");
    }

    #[test]
    fn what_is_for_a_clusters_life_is_not_asked_for_anew() {
        let members: Members = (1..=3).map(|id| (NodeId([id; 16]), Member { zone: "z".to_owned(), weight: 1 })).collect();
        let ring = first_ring(ClusterId([1; 16]), 5, 3, &members).unwrap();
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
