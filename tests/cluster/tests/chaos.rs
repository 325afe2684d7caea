//! One short round of chaos, with what this machine allows: `make chaos` is the long form, in which every fault comes.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use dynamo_cluster_tests::chaos::run::HARNESS_FAILED;
use dynamo_cluster_tests::chaos::sandbox;

/// Two times five nodes on one machine would make each other look slow.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs the program where `iptables-restore` is this script: its exit code, and what it said.
fn chaos_with(iptables_restore: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let tool = folder.path().join("iptables-restore");
    fs::write(&tool, format!("#!/bin/sh\n{iptables_restore}\n")).unwrap();
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let mut chaos = Command::new(env!("CARGO_BIN_EXE_dynamo-chaos"));
    // The logs that a failure keeps go with the test.
    chaos.args(arguments).env("PATH", path).env("TMPDIR", folder.path());
    let output = chaos.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// As everything does that leaves something out. A test that passes is not heard by `println!`.
fn leave_out(what: &str) {
    let mut stderr = std::io::stderr();
    writeln!(stderr, "left out: {what}").unwrap();
}

#[test]
fn where_the_networks_tools_do_not_work_the_nodes_are_on_loopback_and_it_says_why() {
    let (code, said) = chaos_with("echo no such table >&2; exit 1", &["--list-faults"]);
    assert_eq!(code, Some(0), "{said}");
    let reason = said.lines().find_map(|line| line.strip_prefix("no namespaces, so the nodes are on loopback: "));
    assert!(reason.is_some_and(|reason| !reason.is_empty()), "{said}");
    assert!(said.contains("\nnot here: partition\n") && said.contains("\nhere: kill -9 of all\n"), "{said}");
}

#[test]
fn a_tool_that_fails_on_the_way_is_an_error_of_the_harness_and_no_violation() {
    let works_once =
        format!("cat > /dev/null; [ \"${}\" = {} ] || {{ echo no such table >&2; exit 1; }}", sandbox::VARIABLE, sandbox::TRIAL);
    if chaos_with(&works_once, &["--list-faults"]).1.contains("no namespaces") {
        leave_out("a tool of the network that fails on the way: without namespaces none is called");
        return;
    }
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let (code, said) = chaos_with(&works_once, &["--minutes", "0.1"]);
    assert_eq!(code, Some(i32::from(HARNESS_FAILED)), "{said}");
    let verdict = said.lines().find_map(|line| line.strip_prefix("no verdict on the nodes: "));
    assert!(verdict.is_some_and(|reason| reason.contains("iptables-restore") && reason.contains("no such table")), "{said}");
    assert!(!said.contains("VIOLATION"), "{said}");
}

#[test]
fn a_round_of_faults_loses_resurrects_and_invents_nothing() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let output = Command::new(env!("CARGO_BIN_EXE_dynamo-chaos")).args(["--minutes", "0.9", "--seed", "4"]).output();
    let output = output.expect("the program was built with this test");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}\n{text}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("nothing lost, nothing resurrected, nothing invented"), "{text}");
    assert!(
        !text.contains("libdynamo_preload.so is not beside"),
        "`make test` builds it, as `cargo build -p dynamo-preload` does"
    );
    // A round in which nothing happened proves nothing.
    let table = text.split("FAULT").nth(1).expect("a table of faults");
    let made = |fault: &str| {
        let row = table.lines().find(|line| line.starts_with(fault)).unwrap_or_else(|| panic!("no row for {fault}: {text}"));
        row.trim_start_matches(fault).split_whitespace().next().and_then(|number| number.parse::<u64>().ok())
    };
    for fault in ["kill -9 of all", "kill -9 of several", "pause", "join or leave"] {
        assert!(made(fault) > Some(0), "{fault}: {text}");
    }
    let kinds = table.lines().skip(1).take_while(|line| !line.starts_with("nodes ")).count();
    let not_here = text.lines().filter(|line| line.starts_with("not here: ")).count();
    assert_eq!(kinds + not_here, 15, "{text}");
    // Without namespaces there are neither networks to cut nor disks to fill; all others need no more than processes.
    assert_eq!(not_here, if text.contains("no namespaces") { 5 } else { 0 }, "{text}");
    let acknowledged = |of: &str| text.lines().find_map(|line| line.strip_prefix(of)?.split(' ').next()?.parse::<u64>().ok());
    for (of, least) in [("writes: ", 500), ("with quorums of their own: ", 100), ("where the last writer wins: ", 100)] {
        assert!(acknowledged(of) > Some(least), "{of}{text}");
    }
    // Of what may have been made twice much is excused: were that most of it, little would be judged.
    let numbers = text.lines().find_map(|line| line.strip_prefix("with request ids: ")).expect("how many may be excused");
    let numbers: Vec<u64> = numbers.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert!(matches!(numbers[..], [named, repeated] if named > 500 && repeated < named / 2), "{numbers:?}");
}
