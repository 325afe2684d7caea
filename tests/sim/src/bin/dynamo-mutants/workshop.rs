//! The copy of core and the simulator in which the mutants live: a workspace of its own below the target directory.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::list::Mutant;
use crate::schemata;

/// What was built.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `dynamo-sim`.
    pub simulator: PathBuf,
    /// Directed tests: those of the simulator, then core's own.
    pub tests: Vec<PathBuf>,
}

/// Copies, weaves, and builds everything once.
pub fn build(repository: &Path, target: &Path, mutants: &[Mutant]) -> Result<Programs, Box<dyn Error>> {
    let workshop = target.join("mutants/workspace");
    furnish(repository, &workshop)?;
    weave(&workshop.join("node/core/src"), mutants)?;
    compile(&workshop, &target.join("mutants/target"))
}

/// The copy, without mutants yet.
fn furnish(repository: &Path, workshop: &Path) -> Result<(), Box<dyn Error>> {
    if workshop.exists() {
        fs::remove_dir_all(workshop)?;
    }
    copy(&repository.join(".cargo"), &workshop.join(".cargo"))?;
    for folder in crates(repository)? {
        copy(&repository.join(&folder), &workshop.join(&folder))?;
    }
    fs::remove_dir_all(workshop.join("tests/sim/src/bin"))?;
    fs::copy(repository.join("Cargo.lock"), workshop.join("Cargo.lock"))?;
    fs::write(workshop.join("Cargo.toml"), manifest(&fs::read_to_string(repository.join("Cargo.toml"))?))?;
    Ok(())
}

/// The folders of core and the simulator, and of every crate of this repository that a crate among them depends on.
fn crates(repository: &Path) -> Result<BTreeSet<String>, Box<dyn Error>> {
    let workspace = fs::read_to_string(repository.join("Cargo.toml"))?;
    let own = |line: &str| {
        let (name, rest) = line.split_once(" = { path = \"")?;
        Some((name.to_owned(), rest.split_once('"')?.0.to_owned()))
    };
    let own: BTreeMap<String, String> = workspace.lines().filter_map(own).collect();
    let mut found = BTreeSet::new();
    let mut waiting = vec!["node/core".to_owned(), "tests/sim".to_owned()];
    while let Some(folder) = waiting.pop() {
        let manifest = fs::read_to_string(repository.join(&folder).join("Cargo.toml"))?;
        let named = manifest.lines().filter_map(|line| own.get(line.split([' ', '.', '=']).next()?));
        waiting.extend(named.filter(|other| !found.contains(*other)).cloned());
        found.insert(folder);
    }
    Ok(found)
}

fn copy(from: &Path, to: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()))?;
        } else {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// The repository's manifest with two members. Its lints are left out: mutants may break them.
fn manifest(text: &str) -> String {
    let mut kept = String::new();
    let mut lints = false;
    for line in text.lines() {
        if line.starts_with('[') {
            lints = line.starts_with("[workspace.lints");
        }
        if line.starts_with("members = ") {
            kept.push_str("members = [\"node/core\", \"tests/sim\"]\n");
        } else if !lints {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept.push_str("[workspace.lints.rust]\nunused = \"allow\"\n");
    kept
}

/// The sources of core with the choices in them.
pub fn woven(folder: &Path, mutants: &[Mutant]) -> Result<BTreeMap<String, String>, Box<dyn Error>> {
    let mut sources = BTreeMap::new();
    read(folder, "", &mut sources)?;
    schemata::weave(mutants, &mut sources)?;
    Ok(sources)
}

fn weave(folder: &Path, mutants: &[Mutant]) -> Result<(), Box<dyn Error>> {
    let mut sources = woven(folder, mutants)?;
    let head = sources.get_mut("lib.rs").ok_or("dynamo-core has no lib.rs")?;
    head.push_str("/// Which mutant runs.\npub mod mutants;\n");
    sources.insert("mutants.rs".into(), schemata::MODULE.into());
    for (path, text) in sources {
        fs::write(folder.join(path), text)?;
    }
    Ok(())
}

fn read(folder: &Path, below: &str, sources: &mut BTreeMap<String, String>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder.join(below))? {
        let entry = entry?;
        let name = entry.file_name().into_string().map_err(|name| format!("{} is no name of a source", name.display()))?;
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        if entry.file_type()?.is_dir() {
            read(folder, &path, sources)?;
        } else if path.ends_with(".rs") {
            sources.insert(path, fs::read_to_string(entry.path())?);
        }
    }
    Ok(())
}

fn compile(workshop: &Path, target: &Path) -> Result<Programs, Box<dyn Error>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let run = |arguments: &[&str]| -> Result<String, Box<dyn Error>> {
        let mut command = Command::new(&cargo);
        command.args(arguments).current_dir(workshop).env("CARGO_TARGET_DIR", target).stderr(Stdio::inherit());
        let output = command.output()?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err("the copy with the mutants does not compile".into())
        }
    };
    run(&["build", "--quiet", "--offline", "-p", "dynamo-sim", "--bin", "dynamo-sim"])?;
    let messages = |package| ["test", "--quiet", "--offline", "--no-run", "--message-format=json", "-p", package];
    let mut tests = executables(&run(&messages("dynamo-sim"))?);
    // Seeds are the simulator's part of the hunt, run by itself.
    tests.retain(|path| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("seeds-")));
    // What takes longest comes last.
    tests.sort_by_key(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("riak-")));
    // Its other program counts allocations, and finds no mistake.
    tests.extend(executables(&run(&[&messages("dynamo-core")[..], &["--lib", "--test", "reaping"]].concat())?));
    Ok(Programs { simulator: target.join("debug/dynamo-sim"), tests })
}

/// The test programs that cargo's messages name.
fn executables(messages: &str) -> Vec<PathBuf> {
    let path = |line: &str| Some(PathBuf::from(line.split_once("\"executable\":\"")?.1.split_once('"')?.0));
    // Programs that are not tests lie one folder up.
    messages.lines().filter_map(path).filter(|path| path.parent().is_some_and(|folder| folder.ends_with("deps"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A crate that begins to depend on another one of this repository is found out here, and not when the mutants are run.
    #[test]
    fn the_copy_is_a_workspace_that_lacks_none_of_its_crates() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
        let workshop = std::env::temp_dir().join(format!("dynamo-mutants-{}", std::process::id()));
        furnish(repository, &workshop).unwrap();
        let arguments = ["metadata", "--offline", "--no-deps", "--format-version", "1"];
        let cargo = Command::new(env!("CARGO")).args(arguments).current_dir(&workshop).output().unwrap();
        fs::remove_dir_all(&workshop).unwrap();
        assert!(cargo.status.success(), "{}", String::from_utf8_lossy(&cargo.stderr));
    }
}
