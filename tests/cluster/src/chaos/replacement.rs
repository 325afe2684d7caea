//! A disk that is gone for ever, and the administrator who has a fresh node take its place, by the real `dynamoctl ring replace`.
//!
//! One disk at a time: with W = 2 the next may only go when what the last held is elsewhere.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dynamo_core::id::NodeId;

use super::HarnessFailed;
use super::errand::{Errand, Last};
use crate::Cluster;

/// With everything healed a disk is replaced within this.
const REPLACED_MAX: Duration = Duration::from_secs(90);
/// Between two looks at the command.
const LOOK: Duration = Duration::from_millis(50);

/// One disk, from its loss until a fresh node holds what it held.
pub struct Replacement {
    /// The process that came back with an empty disk.
    pub node: usize,
    former: NodeId,
    errand: Errand,
}

impl Replacement {
    /// Ends the process, destroys its data, and starts it again as another node.
    pub fn begin(cluster: &mut Cluster, node: usize, former: NodeId) -> Result<Self> {
        let data = cluster.data(node).to_owned();
        fs::remove_dir_all(&data).context(HarnessFailed)?;
        cluster.spawn(node).context(HarnessFailed)?;
        Ok(Self { node, former, errand: Errand::new("replace") })
    }

    /// Looks at the command, and gives it if it does not run. Says so when the disk has been replaced.
    pub async fn turn(&mut self, cluster: &Cluster) -> Result<Option<String>> {
        match self.errand.look(cluster)? {
            Last::Runs => return Ok(None),
            Last::Succeeded => {
                let (node, former, given) = (self.node, self.former, self.errand.given);
                return Ok(Some(format!("node {node} has the place of {former}, by {given} commands")));
            }
            Last::Failed => {}
        }
        // It answers by and by, and a command needs its id.
        let Ok(fresh) = cluster.status(self.node).await else { return Ok(None) };
        ensure!(fresh.node != self.former, "node {} lost its disk and came back as the same", self.node);
        let (lost, with) = (self.former.to_string(), fresh.node.to_string());
        self.errand.give(cluster, &["ring", "replace", "--lost", &lost, "--with", &with, "--yes"])?;
        Ok(None)
    }

    /// Everything else is healed: now it has to succeed.
    pub async fn finish(mut self, cluster: &Cluster) -> Result<String> {
        let begun = Instant::now();
        loop {
            if let Some(done) = self.turn(cluster).await? {
                return Ok(done);
            }
            let said = &self.errand.said;
            ensure!(begun.elapsed() < REPLACED_MAX, "{} is not replaced within {REPLACED_MAX:?}: {said}", self.former);
            tokio::time::sleep(LOOK).await;
        }
    }
}
