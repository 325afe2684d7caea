//! The Kubernetes on this machine: the script `tests/e2e/cluster`, with the power switch of each node.
//!
//! It is always a new one: whatever an interrupted run left in the same state folder is ended first. It is ended when
//! dropped, unless it is to be kept.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::command;

/// Nodes, each in a zone of its own.
pub const NODES: usize = 3;
const UP: Duration = Duration::from_secs(300);
const SWITCH: Duration = Duration::from_secs(300);

/// A running Kubernetes.
pub struct Machine {
    script: PathBuf,
    keep: bool,
}

impl Machine {
    /// Starts it. With `keep` it outlives this process.
    pub fn start(repository: &Path, keep: bool) -> Result<Self> {
        let machine = Self { script: repository.join("tests/e2e/cluster"), keep };
        machine.run(&["down"], UP)?;
        machine.run(&["up", &NODES.to_string()], UP)?;
        Ok(machine)
    }

    /// What leads a command into node0, where `kubectl` is configured and pods can be reached.
    pub fn prefix(&self) -> Vec<String> {
        vec![self.script.display().to_string(), "enter".to_owned(), "--".to_owned()]
    }

    /// Puts image archives into every node.
    pub fn load(&self, archives: &[PathBuf]) -> Result<()> {
        for archive in archives {
            self.run(&["load", &archive.display().to_string()], SWITCH)?;
        }
        Ok(())
    }

    /// The node loses its power: no program of it says goodbye.
    pub fn kill(&self, node: &str) -> Result<()> {
        self.run(&["kill", node], SWITCH)
    }

    /// The node starts again with its disks.
    pub fn boot(&self, node: &str) -> Result<()> {
        self.run(&["boot", node], SWITCH)
    }

    fn run(&self, words: &[&str], limit: Duration) -> Result<()> {
        let mut argv = vec![self.script.display().to_string()];
        argv.extend(words.iter().map(|&word| word.to_owned()));
        // Programs that the script leaves running inherit its streams and would hold pipes open, so it writes where we do.
        let mut child = command::spawn(&argv, Stdio::inherit(), Stdio::inherit())?;
        let status = command::await_exit(&mut child, limit)?;
        ensure!(status.success(), "{} ({status})", argv.join(" "));
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let script = self.script.display();
        if self.keep {
            println!("kept, with the state folder that DYNAMOKV_KUBE_STATE names; try: {script} enter kubectl get all -A");
        } else if let Err(error) = self.run(&["down"], UP) {
            println!("the Kubernetes on this machine did not end: {error:#}");
        }
    }
}
