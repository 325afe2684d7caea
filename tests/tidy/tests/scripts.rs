//! The scripts behind `make`, with other programs in the place of those that they call.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use dynamo_tidy::root;
use tempfile::TempDir;

/// Runs a script of `.ci`, which finds the programs of `folder` first: whether it succeeded, and what it said.
fn run(script: &str, arguments: &[&str], folder: &Path) -> (bool, String) {
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let output = Command::new(root().join(".ci").join(script)).args(arguments).env("PATH", path).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn program(folder: &Path, name: &str, body: &str) {
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A Debian without the package, for a user of this number, where nothing can be installed.
fn bare(user: u32) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    program(folder.path(), "dpkg-query", "exit 1");
    program(folder.path(), "apt-get", "echo no such package; exit 100");
    program(folder.path(), "sudo", "echo a password is asked for; exit 1");
    program(folder.path(), "id", &format!("echo {user}"));
    folder
}

#[test]
fn what_can_be_left_out_is_named_when_it_cannot_be_installed_and_nobody_is_asked_for_rights() {
    for user in [0, 1000] {
        let folder = bare(user);
        let (done, said) = run("packages", &["--optional", "cutting networks", "iptables"], folder.path());
        assert!(done, "user {user}: {said}");
        assert!(said.lines().any(|line| line.starts_with("left out: cutting networks") && line.contains("iptables")), "{said}");
        assert!(!said.contains("password"), "{said}");
        let (done, said) = run("packages", &["cutting networks", "iptables"], folder.path());
        assert!(!done, "what is not optional is needed: {said}");
    }
}

#[test]
fn all_is_green_only_if_nothing_was_left_out() {
    let logs = tempfile::tempdir().unwrap();
    let verdict = |failed: &[&str]| run("verdict", &[&[logs.path().to_str().unwrap()], failed].concat(), logs.path());
    fs::write(logs.path().join("test.log"), "test result: ok. 3 passed; 0 failed; 1 ignored;\n").unwrap();
    assert_eq!(verdict(&[]), (true, "3 tests passed, 0 failed, 1 ignored\nall green\n".to_owned()));
    fs::write(logs.path().join("lint.log"), "lint: format ok\nleft out: lint of licences\n").unwrap();
    let (_, said) = verdict(&[]);
    assert!(said.contains("\nleft out: lint of licences\n") && !said.contains("all green"), "{said}");
    assert!(verdict(&["lint", "test"]).1.ends_with("\nFAILED: lint test\n"));
}
