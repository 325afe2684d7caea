//! A local cluster that grows and shrinks while it is measured: `dynamoctl local` and `bench scale` as a user gives them.
#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::{Value, json};

/// The program that the same build made.
fn program() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let mut beside = own.ancestors().skip(1).take(2).map(|folder| folder.join("dynamoctl"));
    beside.find(|path| path.is_file()).expect("dynamoctl is missing: `cargo build --workspace --bins`")
}

/// A cluster of `dynamoctl local` in a folder of its own, gone at the end.
struct Local {
    folder: tempfile::TempDir,
}

impl Local {
    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program());
        command.env("DYNAMO_LOCAL_DIR", self.path()).env_remove("DYNAMO_ENDPOINT");
        command.args(["-o", "json"]).args(arguments).output().unwrap()
    }

    /// Its document; it must have worked.
    fn document(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn refusal(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?} was not refused");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("cluster")
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.run(&["local", "down", "--purge"]);
    }
}

/// Tests of this file run at the same time.
static NEXT: AtomicU16 = AtomicU16::new(20_000);

/// A port from which on `nodes` nodes find theirs free, below those that the system gives to others.
fn base_port(nodes: u16) -> u16 {
    let free = |base: &u16| {
        let mut ports = (0..nodes).flat_map(|node| (0..3).map(move |offset| base + node * 10 + offset));
        ports.all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
    };
    let next = || Some(NEXT.fetch_add(100, Ordering::Relaxed)).filter(|base| *base < 32_000);
    std::iter::from_fn(next).find(free).expect("no hundred ports are free")
}

fn names(document: &Value) -> Vec<&str> {
    document["processes"].as_array().unwrap().iter().map(|process| process["name"].as_str().unwrap()).collect()
}

/// A process counts as ended when its first thread has: the others may hold its sockets for a while.
#[test]
fn a_node_that_was_killed_from_outside_is_started_again_at_once() {
    let local = Local { folder: tempfile::tempdir().unwrap() };
    let port = base_port(1).to_string();
    local.document(&["local", "up", "--nodes", "1", "--base-port", &port]);
    for _ in 0..5 {
        let pid = local.document(&["local", "status"])["processes"][0]["pid"].to_string();
        assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
        while !local.document(&["local", "status"])["processes"][0]["pid"].is_null() {}
        local.document(&["local", "start", "0"]);
    }
}

#[test]
fn a_cluster_grows_and_shrinks_under_load_and_moves_what_it_must() {
    let local = Local { folder: tempfile::tempdir().unwrap() };
    let port = base_port(5).to_string();
    local.document(&["local", "up", "--nodes", "3", "--base-port", &port]);
    let refused = local.refusal(&["bench", "scale", "--nodes", "3"]);
    assert!(refused.contains("--nodes 3: the cluster has 3 nodes already"), "{refused}");
    let bench = ["bench", "scale", "--nodes", "4", "--seconds", "1", "--warm-up", "0", "--records", "600", "--clients", "4"];
    let ran = local.document(&bench);
    assert_eq!(ran["errors"], json!({}), "{ran}");
    assert_eq!(ran["configuration"]["request_ids"], json!(true));
    let phases = ran["meanwhile"]["phases"].as_array().unwrap();
    let named: Vec<_> = phases.iter().map(|phase| phase["phase"].as_str().unwrap()).collect();
    assert_eq!(named, ["quiet", "growing", "grown", "shrinking", "after"]);
    assert!(phases.iter().all(|phase| phase["count"].as_u64() > Some(0) && phase["seconds"].as_f64() > Some(0.0)), "{ran}");
    for (change, nodes) in ran["changes"].as_array().unwrap().iter().zip([(3, 4), (4, 3)]) {
        assert_eq!((&change["from_nodes"], &change["to_nodes"]), (&json!(nodes.0), &json!(nodes.1)));
        // Three copies of 64 partitions on four nodes: each has 48, so the fourth gets 48, and gives 48 away.
        assert_eq!((&change["replicas_moved"], &change["replicas_lower_bound"]), (&json!(48), &json!(48)));
        let count = |field: &str| change[field].as_u64().unwrap();
        assert!(count("objects_planned") > 0 && count("objects_moved") > 0, "{change}");
        assert!(count("bytes_moved") > count("objects_moved") * 1024, "{change}");
    }
    let after = local.document(&["local", "status"]);
    assert_eq!((names(&after), &after["cluster"]["healthy"]), (vec!["node-0", "node-1", "node-2"], &json!(true)));
    assert!(!Path::new(&local.path()).join("node-3").exists(), "what others hold is removed");
}

#[test]
fn a_shrink_below_the_number_of_replicas_is_refused_and_changes_nothing() {
    let local = Local { folder: tempfile::tempdir().unwrap() };
    let port = base_port(4).to_string();
    local.document(&["local", "up", "--nodes", "3", "--base-port", &port]);
    let refused = local.refusal(&["local", "scale", "--nodes", "2"]);
    assert!(refused.contains('3') && refused.contains('2'), "{refused}");
    let grown = local.document(&["local", "scale", "--nodes", "4"]);
    assert_eq!((names(&grown).len(), &grown["cluster"]["healthy"]), (4, &json!(true)));
    local.document(&["local", "scale", "--nodes", "4"]);
    let shrunk = local.document(&["local", "scale", "--nodes", "3"]);
    assert_eq!((names(&shrunk).len(), &shrunk["cluster"]["healthy"]), (3, &json!(true)));
}
