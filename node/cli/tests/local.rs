//! `dynamoctl local` and processes that it does not know: started by a command that was interrupted, or by somebody else, or stopped by
//! a signal. Shells take the place of nodes.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, WaitOptions, waitpid};
use serde_json::{Value, json};

/// A cluster of one node, that is not running as far as its file knows.
struct Local {
    _place: tempfile::TempDir,
    path: PathBuf,
}

impl Local {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().canonicalize().unwrap().join("local");
        fs::create_dir_all(path.join("node-0/data/rocksdb")).unwrap();
        fs::write(path.join("node-0/data/rocksdb/LOCK"), "").unwrap();
        let local = Self { _place: place, path };
        local.write(None);
        local
    }

    fn write(&self, process: Option<Value>) {
        self.write_at("127.0.0.1:0", process);
    }

    /// `client` is the node's address.
    fn write_at(&self, client: &str, process: Option<Value>) {
        let any = "127.0.0.1:0";
        let node = json!({ "name": "node-0", "zone": "z", "client": client, "peer": any, "http": any, "process": process });
        let id = "6f9619ff-8b86-d011-b42d-00c04fc964ff";
        let cluster = json!({ "cluster_id": id, "partitions": 1, "replication": 1, "nodes": [node] });
        fs::write(self.path.join("cluster.json"), cluster.to_string()).unwrap();
    }

    fn lock(&self) -> PathBuf {
        self.path.join("node-0/data/rocksdb/LOCK")
    }

    fn configuration(&self) -> PathBuf {
        self.path.join("node-0/node.yaml")
    }

    /// What `dynamoctl local` ends with, and what it says.
    fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dynamoctl"));
        command.arg("local").args(arguments).args(["-o", "json", "--timeout-ms", "500", "--dir"]).arg(&self.path);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    }

    /// The pid of the node, as `local status` tells it.
    fn pid(&self) -> Option<u64> {
        let (code, said) = self.run(&["status"]);
        assert_eq!(code, Some(0), "{said}");
        serde_json::from_str::<Value>(&said).unwrap()["processes"][0]["pid"].as_u64()
    }
}

/// A shell that does this, and has its own words.
fn shell(script: &str, words: &[&Path]) -> Child {
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh", "--config"]).args(words);
    shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// Until it has stopped itself.
fn wait_until_stopped(child: &Child) {
    let (_, status) = waitpid(Some(Pid::from_child(child)), WaitOptions::UNTRACED).unwrap().unwrap();
    assert!(status.stopped(), "{status:?}");
}

const LOCK: &str = "DYNAMO_TEST_LOCK";

/// Nothing by itself: the process with a database open that the next test starts. It ends with its standard input.
#[test]
fn a_process_that_has_a_database_open() {
    let Some(path) = std::env::var_os(LOCK) else { return };
    let file = fs::File::options().write(true).open(path).unwrap();
    rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    println!("locked");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn the_data_of_a_node_is_not_removed_under_a_process_that_nobody_knows() {
    let local = Local::new();
    let mut holder = Command::new(std::env::current_exe().unwrap());
    holder.args(["--exact", "a_process_that_has_a_database_open", "--nocapture"]).env(LOCK, local.lock());
    let mut holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().ends_with("locked")));
    let expected = format!("in use by process {}", holder.id());
    let start = ["start", "0", "--node-binary", "/bin/true"];
    for arguments in [&["down", "--purge"][..], &["down"], &start] {
        let (code, said) = local.run(arguments);
        assert_eq!((code, said.contains(&expected)), (Some(1), true), "{arguments:?}: {said}");
    }
    fs::write(local.path.join("cluster.json"), "{").unwrap();
    let (code, said) = local.run(&["down", "--purge"]);
    assert_eq!((code, said.contains(&expected), local.lock().exists()), (Some(1), true, true), "{said}");
    drop(holder.stdin.take());
    holder.wait().unwrap();
    let (code, said) = local.run(&["down", "--purge"]);
    assert_eq!((code, local.path.exists()), (Some(0), false), "{said}");
}

#[test]
fn the_status_is_shown_while_another_command_is_at_work_in_the_folder() {
    let local = Local::new();
    let mut orphan = shell("echo; read line", &[&local.configuration()]);
    orphan.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    let before = fs::read(local.path.join("cluster.json")).unwrap();
    let at_work = fs::File::create(local.path.join("lock")).unwrap();
    at_work.lock().unwrap();
    assert_eq!(local.pid(), Some(u64::from(orphan.id())));
    assert_eq!(fs::read(local.path.join("cluster.json")).unwrap(), before, "whoever looks writes nothing");
    drop(orphan.stdin.take());
    orphan.wait().unwrap();
}

#[test]
fn a_node_that_was_started_and_not_recorded_is_found_by_its_configuration() {
    let local = Local::new();
    let mut orphan = shell("echo; read line", &[&local.configuration()]);
    // Only then has it the command line that it was given.
    orphan.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    assert_eq!(local.pid(), Some(u64::from(orphan.id())));
    let (code, said) = local.run(&["start", "0", "--node-binary", "/bin/true"]);
    assert_eq!((code, said.contains("runs already")), (Some(1), true), "{said}");
    // Its parent does not wait for it here, so it counts as ended when it is a zombie.
    let (code, said) = local.run(&["down", "--purge"]);
    assert_eq!((code, local.path.exists()), (Some(0), false), "{said}");
    assert_eq!(orphan.wait().unwrap().signal(), Some(Signal::TERM.as_raw()));
}

/// For those that start nodes and have no option for it, as `bench --away`.
#[test]
fn the_program_that_a_node_is_started_with_is_recorded() {
    let local = Local::new();
    let (code, said) = local.run(&["start", "0", "--node-binary", "/bin/true"]);
    assert_eq!(code, Some(1), "it ends at once: {said}");
    let cluster: Value = serde_json::from_slice(&fs::read(local.path.join("cluster.json")).unwrap()).unwrap();
    assert_eq!(cluster["program"].as_str(), Path::new("/bin/true").canonicalize().unwrap().to_str());
}

#[test]
fn a_node_whose_process_cannot_be_recorded_is_ended() {
    let local = Local::new();
    let program = local.path.join("program");
    // It waits for what nobody writes. Written by another process: a program that this one has open for writing cannot be started.
    let script = r#"mkfifo "$0.pipe"; printf '%s\n' '#!/bin/sh' 'read line <> "$0.pipe"' > "$0" && chmod +x "$0""#;
    assert!(Command::new("sh").args(["-c", script]).arg(&program).status().unwrap().success());
    let in_the_way = local.path.join("cluster.json.new");
    fs::create_dir(&in_the_way).unwrap();
    let (code, said) = local.run(&["start", "0", "--node-binary", program.to_str().unwrap()]);
    assert_eq!((code, said.contains("cluster.json")), (Some(1), true), "{said}");
    assert!(local.configuration().exists(), "it was started");
    fs::remove_dir(&in_the_way).unwrap();
    let pid = local.pid();
    local.run(&["down"]);
    assert_eq!(pid, None);
}

#[test]
fn a_node_that_stands_still_goes_on_when_it_is_started_and_ends_when_it_is_asked_to() {
    let local = Local::new();
    let mut node = shell("kill -STOP $$; exit 7", &[&local.configuration()]);
    wait_until_stopped(&node);
    let (code, said) = local.run(&["start", "0", "--node-binary", "/bin/true"]);
    assert_eq!((code, said.contains("ended as it went on")), (Some(1), true), "{said}");
    assert_eq!(node.wait().unwrap().code(), Some(7));

    let mut node = shell("kill -STOP $$; read line", &[&local.configuration()]);
    wait_until_stopped(&node);
    let (code, said) = local.run(&["down"]);
    assert_eq!((code, said.contains("\"by_force\":0"), said.contains("\"stopped\":1")), (Some(0), true, true), "{said}");
    assert_eq!(node.wait().unwrap().signal(), Some(Signal::TERM.as_raw()));
}

#[test]
fn a_node_that_ends_while_the_cluster_is_scaled_is_started_again() {
    let local = Local::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    local.write_at(&listener.local_addr().unwrap().to_string(), None);
    let mut node = shell("echo; read line", &[&local.configuration()]);
    node.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    // It runs until it was asked who it is.
    let ends = std::thread::spawn(move || {
        let asked = listener.accept().unwrap();
        node.kill().unwrap();
        node.wait().unwrap();
        drop((asked, listener));
    });
    let (code, said) = local.run(&["scale", "--nodes", "1", "--node-binary", "/bin/true"]);
    ends.join().unwrap();
    assert_eq!((code, said.contains("node-0 ended") || said.contains("ended at once")), (Some(1), true), "{said}");
}
