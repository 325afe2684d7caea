//! `dynamoctl` where it reaches the pods, and the workload that runs beside the whole scenario.
//!
//! The workload writes, remembers what was acknowledged to it, and proves at its end that every such write is there or was
//! covered by a later one, and that nothing is there that nobody wrote. Its exit code is the scenario's main verdict.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command;
use crate::kubernetes::Kubernetes;

/// Clients of the workload, each with one request at a time; and how many keys they share, few enough to meet on them.
const CLIENTS: &str = "8";
const KEYS: &str = "400";
/// From the word to stop until its verdict: it reads all keys from all replicas until they are as they must be, for two minutes.
const FINAL_CHECK: Duration = Duration::from_secs(240);

/// The program, pointed at one cluster.
#[derive(Clone)]
pub struct Dynamoctl {
    argv: Vec<String>,
}

impl Dynamoctl {
    /// `endpoint` is the cluster's Service: HOST:PORT.
    pub fn new(kubernetes: &Kubernetes, program: &Path, endpoint: &str) -> Self {
        Self { argv: kubernetes.argv(&[&program.display().to_string(), "--endpoint", endpoint]) }
    }

    /// Runs a command; an exit code other than 0 is an error. Gives the first line that it printed, its verdict.
    pub fn run(&self, words: &[&str], limit: Duration) -> Result<String> {
        let stdout = command::run_ok(&self.command_line(words), "", limit)?;
        Ok(stdout.trim().lines().next().unwrap_or_default().to_owned())
    }

    /// Runs a command with `-o json`.
    pub fn json(&self, words: &[&str], limit: Duration) -> Result<Value> {
        let words: Vec<&str> = ["-o", "json"].iter().chain(words).copied().collect();
        let stdout = command::run_ok(&self.command_line(&words), "", limit)?;
        serde_json::from_str(&stdout).with_context(|| format!("dynamoctl {}: {stdout}", words.join(" ")))
    }

    fn command_line(&self, words: &[&str]) -> Vec<String> {
        self.argv.iter().cloned().chain(words.iter().map(|&word| word.to_owned())).collect()
    }
}

/// The workload's process and files.
pub struct Workload {
    child: Child,
    stop: PathBuf,
    report: PathBuf,
    log: PathBuf,
}

impl Workload {
    /// Starts it. `folder` takes its files.
    pub fn start(dynamoctl: &Dynamoctl, folder: &Path) -> Result<Self> {
        let file = |name: &str| folder.join(name);
        let (stop, report, log) = (file("workload.stop"), file("workload.json"), file("workload.log"));
        for leftover in [&stop, &report] {
            let _ = fs::remove_file(leftover);
        }
        let out = File::create(&log).with_context(|| log.display().to_string())?;
        let (until_file, report_file) = (stop.display().to_string(), report.display().to_string());
        let words = ["workload", "--clients", CLIENTS, "--keys", KEYS, "--until-file", &until_file, "--report", &report_file];
        let child = command::spawn(&dynamoctl.command_line(&words), Stdio::from(out.try_clone()?), Stdio::from(out))?;
        Ok(Self { child, stop, report, log })
    }

    /// Its latest line of progress. That it ended before it was told to is an error.
    pub fn progress(&mut self) -> Result<String> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the workload ended early ({status}):\n{}", self.said());
        }
        Ok(self.said().trim().rsplit(['\n', '\r']).next().unwrap_or_default().to_owned())
    }

    /// Tells it to stop and waits for its check. Gives its report; a lost or invented write is an error.
    pub fn finish(mut self) -> Result<Value> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the workload ended early ({status}):\n{}", self.said());
        }
        File::create(&self.stop).with_context(|| self.stop.display().to_string())?;
        let status = command::await_exit(&mut self.child, FINAL_CHECK).context("the workload's final check")?;
        if !status.success() {
            bail!("the workload ({status}):\n{}", self.said());
        }
        let report = fs::read_to_string(&self.report).with_context(|| self.report.display().to_string())?;
        serde_json::from_str(&report).with_context(|| format!("the workload's report: {report}"))
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        // After a failed step nobody reads its verdict; it must not go on for ever.
        let _ = File::create(&self.stop);
        let _ = command::await_exit(&mut self.child, FINAL_CHECK);
    }
}
