//! A node that joins and leaves while everything else goes on, by the real `dynamoctl ring commit` and, where that was cut short, `ring
//! resume`. Once it has left its disk is destroyed: nothing may be missed. The next time another node joins in its seat.
//!
//! A disk may be lost and replaced meanwhile, and then two commands write rings in turn.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dynamo_core::id::NodeId;

use super::HarnessFailed;
use super::errand::{Errand, Last};
use crate::Cluster;

/// With everything healed it has joined or left within this.
const CHANGED_MAX: Duration = Duration::from_secs(90);
/// Between two looks at the command.
const LOOK: Duration = Duration::from_millis(50);

/// One change of members, from its first command until the ring is at rest.
pub struct Change {
    /// The process.
    pub node: usize,
    /// It joins, else it leaves.
    pub joins: bool,
    id: Option<NodeId>,
    /// The last command went on with what was begun, and the ring came to rest.
    at_rest: bool,
    errand: Errand,
}

impl Change {
    /// Nothing was asked for yet. One that leaves has this id; that of one that joins is not known yet.
    pub fn new(node: usize, leaves: Option<NodeId>) -> Self {
        Self { node, joins: leaves.is_none(), id: leaves, at_rest: false, errand: Errand::new("members") }
    }

    /// Looks at the command, and gives one if none runs. Says who has joined or left.
    pub async fn turn(&mut self, cluster: &Cluster) -> Result<Option<NodeId>> {
        let last = self.errand.look(cluster)?;
        if last == Last::Runs {
            return Ok(None);
        }
        let resumed = std::mem::take(&mut self.at_rest);
        match self.id {
            Some(id) if last == Last::Succeeded && self.errand.given % 2 == 1 => return Ok(Some(id)),
            // What came to rest may be this change, which a former command had begun.
            Some(id) if resumed && last == Last::Failed && self.is_so_already(cluster).await => return Ok(Some(id)),
            Some(_) => {}
            None => {
                let Ok(status) = cluster.status(self.node).await else { return Ok(None) };
                self.id = Some(status.node);
            }
        }
        let Some(id) = self.id.map(|id| id.to_string()) else { return Ok(None) };
        // Whoever finds a command cut short does not know how far it came.
        if self.errand.given % 2 == 1 {
            self.errand.give(cluster, &["ring", "resume", "--take-over"])?;
        } else {
            self.at_rest = last == Last::Succeeded;
            let option = if self.joins { "--add" } else { "--remove" };
            self.errand.give(cluster, &["ring", "commit", option, &id, "--take-over"])?;
        }
        Ok(None)
    }

    /// As the command said, which need not have ended well; and who has left has proven that it holds nothing.
    async fn is_so_already(&self, cluster: &Cluster) -> bool {
        if self.joins {
            return self.errand.said.contains("is a member already");
        }
        let receipt = async || cluster.admin(self.node).await?.drain_receipt().await.context("no receipt");
        self.errand.said.contains("no member's id begins so") && receipt().await.is_ok()
    }

    /// For people.
    pub fn told(&self) -> String {
        let (node, given) = (self.node, self.errand.given);
        format!("node {node} has {}, by {given} commands", if self.joins { "joined" } else { "left, and its disk is destroyed" })
    }

    /// Everything else is healed: now it has to succeed.
    pub async fn finish(&mut self, cluster: &Cluster) -> Result<NodeId> {
        let begun = Instant::now();
        loop {
            if let Some(done) = self.turn(cluster).await? {
                return Ok(done);
            }
            let (what, said) = (if self.joins { "joined" } else { "left" }, &self.errand.said);
            ensure!(begun.elapsed() < CHANGED_MAX, "node {} has not {what} within {CHANGED_MAX:?}: {said}", self.node);
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// The disk of a node that does not run is gone: its next start is another node.
pub fn destroy_disk(cluster: &Cluster, node: usize) -> Result<()> {
    fs::remove_dir_all(cluster.data(node)).context(HarnessFailed)
}
