//! A command of an administrator, by the real `dynamoctl`. While faults go on it may fail or run out of time: then it is given again.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use anyhow::{Context, Result};

use super::HarnessFailed;
use crate::Cluster;

/// What one command is given. The next goes on where it stopped.
const WAIT_SECONDS: &str = "10";

/// How it stands with the last command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Last {
    /// None was given yet, or it has failed.
    Failed,
    /// It runs.
    Runs,
    /// It has done what it was asked for.
    Succeeded,
}

/// Commands of one kind, one at a time.
pub struct Errand {
    name: &'static str,
    command: Option<Child>,
    /// How many were given.
    pub given: usize,
    /// What the last that ended said.
    pub said: String,
}

impl Errand {
    /// None was given yet. `name` names the file for what they say.
    pub fn new(name: &'static str) -> Self {
        Self { name, command: None, given: 0, said: String::new() }
    }

    fn file(&self, cluster: &Cluster) -> PathBuf {
        cluster.folder().join(format!("{}.log", self.name))
    }

    /// Looks at the last command. Its success is told once.
    pub fn look(&mut self, cluster: &Cluster) -> Result<Last> {
        let Some(command) = &mut self.command else { return Ok(Last::Failed) };
        let Some(ended) = command.try_wait()? else { return Ok(Last::Runs) };
        self.command = None;
        self.said = fs::read_to_string(self.file(cluster)).unwrap_or_default();
        Ok(if ended.success() { Last::Succeeded } else { Last::Failed })
    }

    /// Gives `dynamoctl` these words, and a time.
    pub fn give(&mut self, cluster: &Cluster, words: &[&str]) -> Result<()> {
        let output = fs::File::create(self.file(cluster)).context(HarnessFailed)?;
        let mut command = cluster.dynamoctl_command(&cluster.running(), words)?;
        command.args(["--wait", WAIT_SECONDS]).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        self.command = Some(command.spawn().context("dynamoctl").context(HarnessFailed)?);
        self.given += 1;
        Ok(())
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        if let Some(mut command) = self.command.take() {
            // One that has ended is what we want.
            let _ended = command.kill().and_then(|()| command.wait());
        }
    }
}
