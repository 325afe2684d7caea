//! The Kubernetes on this machine: the script `tests/e2e/cluster`, with the power switch of each node.
//!
//! It is always a new one: whatever an interrupted run left in the same state folder is ended first. It is ended when
//! dropped, unless it is to be kept.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::command;
use crate::kubernetes::{name, text};

/// Nodes, each in a zone of its own.
pub const NODES: usize = 3;
/// Where the metrics server listens: node0's address, at a port of its own.
pub const METRICS: &str = "10.99.0.1:7443";
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

    /// Gives an image that every node has another name too.
    pub fn tag(&self, image: &str, name: &str) -> Result<()> {
        for number in 0..NODES {
            let words = ["ctr", "images", "tag", "--force", image, name];
            command::run_ok(&self.inside(&format!("node{number}"), &words), "", SWITCH)?;
        }
        Ok(())
    }

    /// Sends a signal to the first process of a pod's container, past everything that would end it politely.
    pub fn signal(&self, pod: &Value, signal: &str) -> Result<()> {
        let container = text(pod, "/status/containerStatuses/0/containerID");
        let (_, id) = container.split_once("://").with_context(|| format!("{} has no container", name(pod)))?;
        let words = ["ctr", "tasks", "kill", "--signal", signal, id];
        command::run_ok(&self.inside(text(pod, "/spec/nodeName"), &words), "", SWITCH).map(|_| ())
    }

    /// Starts the metrics server beside the control plane. It serves what `load` says, until its standard input is closed.
    pub fn start_metrics(&self, load: &Path, log: &Path) -> Result<Child> {
        let out = File::create(log).with_context(|| log.display().to_string())?;
        let argv = self.inside("node0", &["metrics", "--listen", METRICS, "--load", &load.display().to_string()]);
        command::spawn(&argv, Stdio::from(out.try_clone()?), Stdio::from(out))
    }

    fn inside(&self, node: &str, words: &[&str]) -> Vec<String> {
        let script = self.script.display().to_string();
        [&[script.as_str(), "enter", "-n", node, "--"], words].concat().into_iter().map(str::to_owned).collect()
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
