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
//! Without root the same is tried in a user namespace. Where neither may be had, the program runs as it is, on loopback, and says
//! which faults it cannot make.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

/// How long the inside may take to end when it is told to.
const STOP_MAX: Duration = Duration::from_secs(20);
/// Set inside.
pub const VARIABLE: &str = "DYNAMO_CHAOS_INSIDE";

const NAMESPACES: [&str; 5] = ["--net", "--mount", "--pid", "--fork", "--mount-proc"];
const USER_NAMESPACE: [&str; 2] = ["--user", "--map-root-user"];

/// This is the inside.
pub fn is_inside() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// The words of `unshare` that work here, or why none do.
async fn unshare() -> Result<Vec<&'static str>, String> {
    let mut refusal = String::new();
    for words in [NAMESPACES.to_vec(), [&USER_NAMESPACE[..], &NAMESPACES[..]].concat()] {
        match Command::new("unshare").args(&words).arg("true").stdin(Stdio::null()).output().await {
            Ok(output) if output.status.success() => return Ok(words),
            Ok(output) => refusal = String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => refusal = format!("unshare: {error}"),
        }
    }
    Err(refusal)
}

/// Runs this program again, inside, with the same arguments; gives its exit code. An error says why there is no inside.
pub async fn run_inside() -> Result<Result<u8, String>> {
    let words = match unshare().await {
        Ok(words) => words,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let mut folder = tempfile::Builder::new().prefix("dynamokv-chaos.").tempdir()?;
    let mut inside = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare", "--kill-child"])
        .args(words)
        .arg("--")
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(VARIABLE, "1")
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
    if code == 1 {
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
