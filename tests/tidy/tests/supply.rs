//! Where the crates come from that are built in, and under which licences: what `deny.toml` says, held in every run of the tests.
//! `cargo deny`, which knows advisories too, is not on every machine.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::process::Command;

use dynamo_tidy::root;
use serde_json::Value;

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// The licence of each crate, by its name and version. Those for this machine's kind: what is for others only need not have been
/// downloaded.
fn licences() -> BTreeMap<String, String> {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--offline", "--locked", "--format-version", "1", "--filter-platform", &platform]);
    let output = cargo.current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = told["packages"].as_array().unwrap().iter().map(|package| {
        let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
        (format!("{} {}", text("name"), text("version")), text("license"))
    });
    packages.collect()
}

/// The quoted words of a list in `deny.toml`: from `KEY = [` to the closing bracket.
fn listed<'a>(deny: &'a str, key: &str) -> BTreeSet<&'a str> {
    let list = deny.split(&format!("\n{key} = [\n")).nth(1).and_then(|after| after.split("\n]").next());
    list.unwrap_or_else(|| panic!("deny.toml has no list {key}")).split('"').skip(1).step_by(2).collect()
}

fn deny() -> String {
    std::fs::read_to_string(root().join("deny.toml")).unwrap()
}

#[test]
fn every_licence_is_one_that_deny_toml_allows() {
    let deny = deny();
    let allowed = listed(&deny, "allow");
    let mut others = licences();
    assert!(others.len() > 100, "only {} crates: the list is not being read", others.len());
    others.retain(|_, licence| !is_allowed(licence, &allowed));
    assert!(others.is_empty(), "crates under other licences than deny.toml allows: {others:#?}");
}

#[test]
fn every_crate_comes_from_the_registry_and_none_is_one_that_deny_toml_bans() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let sources: BTreeSet<&str> = lock.lines().filter_map(|line| line.strip_prefix("source = ")).collect();
    assert_eq!(sources, BTreeSet::from([&*format!("\"{REGISTRY}\"")]));
    let deny = deny();
    let banned = listed(&deny, "deny");
    assert!(banned.contains("openssl-sys"), "{banned:?}");
    let names = lock.lines().filter_map(|line| line.strip_prefix("name = ")).map(|name| name.trim_matches('"'));
    assert_eq!(names.filter(|name| banned.contains(name)).collect::<Vec<_>>(), Vec::<&str>::new());
}

/// Whether some of the licences that an SPDX expression leaves to choose are allowed. An older form has `/` for OR.
fn is_allowed(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    any(&mut words, allowed) && words.next().is_none()
}

fn any<'a>(words: &mut Peekable<impl Iterator<Item = &'a str>>, allowed: &BTreeSet<&str>) -> bool {
    let mut is_allowed = all(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        is_allowed |= all(words, allowed);
    }
    is_allowed
}

fn all<'a>(words: &mut Peekable<impl Iterator<Item = &'a str>>, allowed: &BTreeSet<&str>) -> bool {
    let mut is_allowed = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        is_allowed &= one(words, allowed);
    }
    is_allowed
}

fn one<'a>(words: &mut Peekable<impl Iterator<Item = &'a str>>, allowed: &BTreeSet<&str>) -> bool {
    match words.next() {
        Some("(") => {
            let is_allowed = any(words, allowed);
            words.next() == Some(")") && is_allowed
        }
        Some(licence) if words.next_if_eq(&"WITH").is_some() => {
            allowed.contains(&*format!("{licence} WITH {}", words.next().unwrap_or_default()))
        }
        Some(licence) => allowed.contains(licence),
        None => false,
    }
}

#[test]
fn expressions_of_licences_are_understood() {
    let allowed = BTreeSet::from(["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"]);
    for expression in ["MIT", "GPL-3.0 OR MIT", "GPL-3.0/MIT", "MIT AND (GPL-3.0 OR ISC)", "Apache-2.0 WITH LLVM-exception"] {
        assert!(is_allowed(expression, &allowed), "{expression}");
    }
    for expression in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND GPL-3.0", "Apache-2.0", "MIT GPL-3.0", "(MIT"] {
        assert!(!is_allowed(expression, &allowed), "{expression}");
    }
}
