//! Namespaces around the whole program, so that the kernel cleans up: whatever ends it, a panic, Ctrl-C or SIGKILL, takes every
//! process, network, mount and address of the run with it. Nothing of the machine's own can be seen from inside but its files.
//!
//! ```text
//! outside: keeps the folder, waits ──pipe: closed means stop──┐
//!    └─ setpriv (dies with it) ─ unshare (its child dies with it)
//!          └─ inside: process 1 of the namespace <─────────────┘
//!                └─ nodes
//! ```
//!
//! Without root the same is tried in a user namespace. Where neither may be had, or a tool is missing or does not work there, the
//! program runs as it is, on loopback, and says why and which faults it cannot make.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use super::run::{HARNESS_FAILED, VIOLATED};

/// How long the inside may take to end when it is told to.
const STOP_MAX: Duration = Duration::from_secs(20);
/// Set inside: to [`TRIAL`], or to whatever else for a run.
pub const VARIABLE: &str = "DYNAMO_CHAOS_INSIDE";
/// For a look at whether everything works there.
pub const TRIAL: &str = "trial";
/// Where administrators' tools are; not everybody has these on the PATH.
const ADMINISTRATORS: [&str; 2] = ["/usr/sbin", "/sbin"];
/// What is called, and what Debian calls the package.
const TOOLS: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("iptables-restore", "iptables"),
    ("mount", "mount"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
];

const NAMESPACES: [&str; 5] = ["--net", "--mount", "--pid", "--fork", "--mount-proc"];
const USER_NAMESPACE: [&str; 2] = ["--user", "--map-root-user"];

/// This is the inside.
pub fn is_inside() -> bool {
    env::var_os(VARIABLE).is_some()
}

/// This is an inside that is only to be tried out.
pub fn is_trial() -> bool {
    env::var_os(VARIABLE).is_some_and(|value| value == TRIAL)
}

/// Where tools are looked for.
fn search_path(path: &OsStr) -> Result<OsString> {
    let folders = env::split_paths(path).chain(ADMINISTRATORS.map(PathBuf::from));
    env::join_paths(folders).context("PATH")
}

/// The tools that are in none of these folders, if any are, and what brings them.
fn missing(path: &OsStr) -> Option<String> {
    let is_there = |tool: &str| env::split_paths(path).any(|folder| folder.join(tool).is_file());
    let missing = TOOLS.into_iter().filter(|(tool, _)| !is_there(tool));
    let missing: Vec<String> = missing.map(|(tool, package)| format!("{tool} (package {package})")).collect();
    (!missing.is_empty()).then(|| format!("not installed: {}; `make chaos` installs them", missing.join(", ")))
}

/// The words of `unshare` that work here, with everything that is done inside, or why none do.
async fn unshare(path: &OsStr) -> Result<Result<Vec<&'static str>, String>> {
    let mut refusals = Vec::new();
    for words in [NAMESPACES.to_vec(), [&USER_NAMESPACE[..], &NAMESPACES[..]].concat()] {
        let mut trial = Command::new("unshare");
        trial.args(&words).arg("--").arg(env::current_exe()?).env(VARIABLE, TRIAL).env("PATH", path).stdin(Stdio::null());
        let refusal = match trial.output().await {
            Ok(output) if output.status.success() => return Ok(Ok(words)),
            Ok(output) => String::from_utf8_lossy(&output.stderr).split_whitespace().collect::<Vec<_>>().join(" "),
            Err(error) => format!("unshare: {error}"),
        };
        if !refusals.contains(&refusal) {
            refusals.push(refusal);
        }
    }
    Ok(Err(refusals.join("; ")))
}

/// Runs this program again, inside, with the same arguments; gives its exit code. An error says why there is no inside.
pub async fn run_inside() -> Result<Result<u8, String>> {
    let path = search_path(&env::var_os("PATH").unwrap_or_default())?;
    if let Some(missing) = missing(&path) {
        return Ok(Err(missing));
    }
    let words = match unshare(&path).await? {
        Ok(words) => words,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let mut folder = tempfile::Builder::new().prefix("dynamokv-chaos.").tempdir()?;
    let mut inside = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare", "--kill-child"])
        .args(words)
        .arg("--")
        .arg(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(VARIABLE, "run")
        .env("PATH", &path)
        .env("TMPDIR", folder.path())
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("setpriv and unshare, of util-linux")?;
    let told_to_stop = inside.stdin.take();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let status = tokio::select! {
        status = inside.wait() => Some(status?),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
    };
    let status = match status {
        Some(status) => status,
        None => {
            drop(told_to_stop);
            match tokio::time::timeout(STOP_MAX, inside.wait()).await {
                Ok(status) => status?,
                Err(_) => {
                    inside.kill().await?;
                    inside.wait().await?
                }
            }
        }
    };
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    if matches!(code, VIOLATED | HARNESS_FAILED) {
        keep(&mut folder);
    }
    Ok(Ok(code))
}

/// A failure's logs are worth more than a clean machine.
fn keep(folder: &mut TempDir) {
    if has_files(folder.path()) {
        folder.disable_cleanup(true);
        println!("logs are kept in {}", folder.path().display());
    }
}

fn has_files(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn tools_are_found_where_administrators_have_them_and_the_missing_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let searched = search_path(folder.path().as_os_str()).unwrap();
        let folders: Vec<PathBuf> = env::split_paths(&searched).collect();
        assert_eq!(folders, [folder.path(), Path::new("/usr/sbin"), Path::new("/sbin")]);

        for (tool, _) in TOOLS.into_iter().filter(|(tool, _)| *tool != "iptables-restore") {
            std::fs::write(folder.path().join(tool), "").unwrap();
        }
        let without = missing(folder.path().as_os_str());
        let expected = "not installed: iptables-restore (package iptables); `make chaos` installs them";
        assert_eq!(without.as_deref(), Some(expected));
        std::fs::write(folder.path().join("iptables-restore"), "").unwrap();
        assert_eq!(missing(folder.path().as_os_str()), None);
    }
}
