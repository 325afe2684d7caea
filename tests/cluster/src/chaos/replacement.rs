//! A disk that is gone for ever, and the administrator who has a fresh node take its place, by the real `dynamoctl ring replace`.
//!
//! Other faults go on meanwhile, so the command may fail or run out of time; it is given again until it succeeds. One disk at a
//! time: with W = 2 the next may only go when the last has been replaced.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dynamo_core::id::NodeId;

use super::HarnessFailed;
use crate::Cluster;

/// What one command is given. It goes on where the last one stopped.
const WAIT_SECONDS: &str = "10";
/// With everything healed a disk is replaced within this.
const REPLACED_MAX: Duration = Duration::from_secs(90);
/// Between two looks at the command.
const LOOK: Duration = Duration::from_millis(50);

/// One disk, from its loss until a fresh node holds what it held.
pub struct Replacement {
    /// The process that came back with an empty disk.
    pub node: usize,
    former: NodeId,
    command: Option<Child>,
    given: usize,
    said: String,
}

impl Replacement {
    /// Ends the process, destroys its data, and starts it again as another node.
    pub fn begin(cluster: &mut Cluster, node: usize, former: NodeId) -> Result<Self> {
        let data = cluster.data(node).to_owned();
        fs::remove_dir_all(&data).context(HarnessFailed)?;
        cluster.spawn(node).context(HarnessFailed)?;
        Ok(Self { node, former, command: None, given: 0, said: String::new() })
    }

    /// Looks at the command, and gives it if it does not run. Says so when the disk has been replaced.
    pub async fn turn(&mut self, cluster: &Cluster) -> Result<Option<String>> {
        if let Some(command) = &mut self.command {
            let Some(ended) = command.try_wait()? else { return Ok(None) };
            self.command = None;
            self.said = fs::read_to_string(said(cluster.folder())).unwrap_or_default();
            if ended.success() {
                let (node, former, given) = (self.node, self.former, self.given);
                return Ok(Some(format!("node {node} has the place of {former}, by {given} commands")));
            }
        }
        // It answers by and by, and a command needs its id.
        let Ok(fresh) = cluster.status(self.node).await else { return Ok(None) };
        ensure!(fresh.node != self.former, "node {} lost its disk and came back as the same", self.node);
        let (lost, with) = (self.former.to_string(), fresh.node.to_string());
        let output = fs::File::create(said(cluster.folder())).context(HarnessFailed)?;
        let words = ["ring", "replace", "--lost", &lost, "--with", &with, "--yes", "--wait", WAIT_SECONDS];
        let mut command = cluster.dynamoctl_command(&cluster.running(), &words)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        self.command = Some(command.spawn().context("dynamoctl").context(HarnessFailed)?);
        self.given += 1;
        Ok(None)
    }

    /// Everything else is healed: now it has to succeed.
    pub async fn finish(mut self, cluster: &Cluster) -> Result<String> {
        let begun = Instant::now();
        loop {
            if let Some(done) = self.turn(cluster).await? {
                return Ok(done);
            }
            ensure!(begun.elapsed() < REPLACED_MAX, "{} is not replaced within {REPLACED_MAX:?}: {}", self.former, self.said);
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if let Some(mut command) = self.command.take() {
            // One that has ended is what we want.
            let _ended = command.kill().and_then(|()| command.wait());
        }
    }
}

fn said(folder: &Path) -> std::path::PathBuf {
    folder.join("replace.log")
}
