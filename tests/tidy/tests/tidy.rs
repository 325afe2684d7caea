//! The structure of the workspace, as tests: what design and style promise of the code and a compiler does not check.

use std::collections::{BTreeMap, BTreeSet};

use dynamo_tidy::{Source, files, functions, root};

const FUNCTION_LINES_MAX: usize = 90;
const FILE_LINES_MAX: usize = 900;

/// Rust sources of the product and its tests.
fn sources() -> Vec<Source> {
    ["node", "operator", "tests"].iter().flat_map(|folder| files(folder, ".rs")).collect()
}

fn report(what: &str, offenders: &[String]) {
    assert!(offenders.is_empty(), "{what}:\n  {}", offenders.join("\n  "));
}

/// The names under `[dependencies]` of a manifest (not those for tests or the build).
fn dependencies(manifest: &str) -> BTreeSet<&str> {
    let after = manifest.split("[dependencies]").nth(1).unwrap_or_default();
    let section = after.split("\n[").next().unwrap_or_default();
    section
        .lines()
        .filter_map(|line| line.split_once([' ', '.', '=']).map(|(name, _)| name))
        .filter(|name| !name.is_empty())
        .collect()
}

#[test]
fn rocksdb_is_named_in_one_manifest() {
    let naming: Vec<String> = ["node", "operator", "tests"]
        .iter()
        .flat_map(|folder| files(folder, "Cargo.toml"))
        .filter(|manifest| manifest.text.lines().any(|line| line.starts_with("rocksdb")))
        .map(|manifest| manifest.path)
        .collect();
    assert_eq!(naming, ["node/Cargo.toml"]);
}

#[test]
fn dependencies_point_one_way() {
    let allowed = BTreeMap::from([
        ("node/core/Cargo.toml", vec![]),
        ("node/proto/Cargo.toml", vec!["dynamo-core"]),
        ("node/client/Cargo.toml", vec!["dynamo-core", "dynamo-proto"]),
        ("node/cli/Cargo.toml", vec!["dynamo-client", "dynamo-core", "dynamo-proto"]),
        ("node/Cargo.toml", vec!["dynamo-core", "dynamo-proto"]),
        ("operator/Cargo.toml", vec!["dynamo-client", "dynamo-core", "dynamo-proto"]),
        ("tests/sim/Cargo.toml", vec!["dynamo-core"]),
        ("tests/world/Cargo.toml", vec!["dynamo-api-server", "dynamo-core", "dynamo-operator", "dynamo-scenarios", "dynamo-sim"]),
        ("tests/world/api-server/Cargo.toml", vec![]),
    ]);
    for (path, allowed) in allowed {
        let manifest = std::fs::read_to_string(root().join(path)).unwrap();
        let ours = dependencies(&manifest).into_iter().filter(|name| name.starts_with("dynamo-"));
        let beyond: Vec<String> = ours.filter(|name| !allowed.contains(name)).map(str::to_owned).collect();
        report(&format!("{path} depends on what it may not"), &beyond);
    }
}

#[test]
fn core_has_no_clock_no_chance_no_threads_and_no_hash_maps() {
    let manifest = std::fs::read_to_string(root().join("node/core/Cargo.toml")).unwrap();
    let kept_out = ["tokio", "tonic", "prost", "serde", "rocksdb", "rand", "futures"];
    let named: Vec<String> =
        dependencies(&manifest).into_iter().filter(|name| kept_out.contains(name)).map(str::to_owned).collect();
    report("dynamo-core depends on", &named);
    let impure =
        ["SystemTime", "std::time::Instant", "HashMap", "HashSet", "std::thread", "std::net", "std::fs", "async fn", "std::env"];
    let mut offenders = Vec::new();
    for source in files("node/core/src", ".rs") {
        for (number, line) in source.text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if let Some(word) = impure.iter().find(|word| code.contains(**word)) {
                offenders.push(format!("{}:{}: {word}", source.path, number + 1));
            }
        }
    }
    report("dynamo-core decides and does nothing", &offenders);
}

#[test]
fn the_operators_decisions_and_builders_reach_no_api_server() {
    let mut offenders = Vec::new();
    let pure = files("operator/src/plan", ".rs").into_iter().chain(files("operator/src/build", ".rs"));
    let heads = files("operator/src", ".rs").into_iter().filter(|source| {
        matches!(source.path.as_str(), "operator/src/plan.rs" | "operator/src/build.rs" | "operator/src/status.rs")
    });
    for source in pure.chain(heads) {
        for word in ["async ", "kube::Client", "Api<", "SystemTime", "tokio::"] {
            if source.text.contains(word) {
                offenders.push(format!("{}: {word}", source.path));
            }
        }
    }
    report("plan, build and status are pure", &offenders);
}

#[test]
fn every_module_opens_with_what_it_is_for() {
    let silent: Vec<String> =
        sources().into_iter().filter(|source| !source.text.starts_with("//!")).map(|source| source.path).collect();
    report("modules without //! at their head", &silent);
}

#[test]
fn a_table_of_modules_leaves_none_out() {
    let missing: Vec<String> = sources()
        .into_iter()
        .flat_map(|source| {
            let left_out = modules_left_out(&source.text);
            left_out.map(|name| format!("{}: {name}", source.path)).collect::<Vec<_>>()
        })
        .collect();
    report("modules that the table at their head does not name", &missing);
}

/// The modules that a source has and the table in its `//!` does not name, if there is such a table. Those of tests need none.
fn modules_left_out(text: &str) -> impl Iterator<Item = &str> {
    let table: Vec<&str> = text.lines().filter(|line| line.starts_with("//! |")).collect();
    let has_table = table.first().is_some_and(|head| head.starts_with("//! | module |"));
    let mut before = "";
    text.lines().filter_map(move |line| {
        let is_test = std::mem::replace(&mut before, line) == "#[cfg(test)]";
        let name = line.strip_prefix("pub ").unwrap_or(line).strip_prefix("mod ")?.strip_suffix(';')?;
        let is_named = || table.iter().any(|row| row.contains(&format!("`{name}`")));
        (has_table && !is_test && !is_named()).then_some(name)
    })
}

/// Who reads the planner's head reads the order in which it decides.
#[test]
fn the_list_at_the_head_of_the_planner_is_the_order_of_its_conditions() {
    let plan = std::fs::read_to_string(root().join("operator/src/plan.rs")).unwrap();
    let (listed, conditions) = (listed_conditions(&plan), conditions(&plan));
    assert!(conditions.len() > 10, "only {conditions:?}: the array is not being read");
    assert_eq!(listed, conditions);
}

/// The first words of the rows of the picture in a source's `//!`.
fn listed_conditions(text: &str) -> Vec<&str> {
    let picture = text.lines().skip_while(|line| *line != "//! ```text").skip(1).take_while(|line| *line != "//! ```");
    picture
        .filter_map(|line| line.strip_prefix("//! ")?.split_once("  ").map(|(name, _)| name))
        .filter(|name| !name.is_empty())
        .collect()
}

/// The names in the array `conditions` of a source.
fn conditions(text: &str) -> Vec<&str> {
    let array = text.lines().skip_while(|line| !line.trim_start().starts_with("let conditions:")).skip(1);
    array.map(str::trim).take_while(|line| *line != "];").map(|line| line.trim_end_matches(',')).collect()
}

#[test]
fn conditions_are_read_from_the_picture_and_from_the_array() {
    let text = "//! ```text\n//! one  else  A  b\n//!      and C\n//! two  else  D\n//! ```\n\nfn f() {\n    let conditions: [u8; 2] = [\n        one,\n        two,\n    ];\n";
    assert_eq!((listed_conditions(text), conditions(text)), (vec!["one", "two"], vec!["one", "two"]));
}

#[test]
fn modules_are_looked_for_in_the_table() {
    let text = "//! | module | what |\n//! | `one`, [`two`] | numbers |\n\nmod one;\n#[cfg(test)]\nmod tests;\npub mod two;\nmod three;\n";
    assert_eq!(modules_left_out(text).collect::<Vec<_>>(), ["three"]);
    assert_eq!(modules_left_out("//! No table.\n\nmod one;\n").count(), 0);
}

#[test]
fn functions_and_files_stay_readable() {
    let mut long = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            long.push(format!("{}: {lines} lines", source.path));
        }
        let functions = functions(&source.text).into_iter().filter(|(_, lines)| *lines > FUNCTION_LINES_MAX);
        long.extend(functions.map(|(name, lines)| format!("{}: fn {name} has {lines} lines", source.path)));
    }
    report("too long to read at once", &long);
}

#[test]
fn nothing_is_left_to_do_in_the_code() {
    let mut marks = Vec::new();
    for source in sources() {
        if source.path.starts_with("tests/tidy") {
            continue;
        }
        for (number, line) in source.text.lines().enumerate() {
            for mark in ["TODO", "FIXME", "XXX", "todo!(", "unimplemented!(", "dbg!(", "#[ignore"] {
                if line.contains(mark) {
                    marks.push(format!("{}:{}: {mark}", source.path, number + 1));
                }
            }
        }
    }
    report("unfinished by its own words", &marks);
}

#[test]
fn no_glob_imports_and_no_grab_bags() {
    let mut offenders = Vec::new();
    for source in sources() {
        let name = source.path.rsplit('/').next().unwrap_or_default();
        if ["mod.rs", "utils.rs", "util.rs", "helpers.rs", "helper.rs", "prelude.rs", "common.rs"].contains(&name) {
            offenders.push(source.path.clone());
        }
        for (number, line) in source.text.lines().enumerate() {
            let import = line.trim_start();
            if import.starts_with("use ") && import.contains("::*;") && !import.contains("super::*") {
                offenders.push(format!("{}:{}: {import}", source.path, number + 1));
            }
        }
    }
    report("names that say nothing", &offenders);
}

#[test]
fn the_top_level_holds_what_the_layout_names() {
    let expected = [
        "Cargo.toml",
        "Cargo.lock",
        "operator",
        "node",
        "charts",
        "crds",
        "tests",
        "README.md",
        "Makefile",
        "LICENSE",
        "CHANGELOG.md",
        "GUARANTEES.md",
        "SECURITY.md",
        "deny.toml",
        "rustfmt.toml",
        "clippy.toml",
        ".cargo",
        ".ci",
        ".gitignore",
        ".git",
        ".dockerignore",
        "target",
    ];
    let entries = std::fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let beyond: Vec<String> = entries.filter(|name| !expected.contains(&name.as_str())).collect();
    report("at the top level beyond the layout", &beyond);
}

/// A reader has the paper, and names.
#[test]
fn no_comment_refers_to_a_document_that_is_not_here() {
    let mut offenders = Vec::new();
    for source in sources() {
        if source.path.starts_with("tests/tidy") {
            continue;
        }
        for (number, line) in source.text.lines().enumerate() {
            let numbered = line.split("design ").skip(1).any(|after| after.starts_with(|first: char| first.is_ascii_digit()));
            if numbered || line.contains("(research") || line.contains("research/") {
                offenders.push(format!("{}:{}: {}", source.path, number + 1, line.trim_start()));
            }
        }
    }
    report("refers to what a reader does not have", &offenders);
}

/// Each promise of GUARANTEES.md names tests that exist.
#[test]
fn every_promise_names_a_test_that_exists() {
    let guarantees = std::fs::read_to_string(root().join("GUARANTEES.md")).unwrap();
    let tests: BTreeSet<String> = sources().iter().flat_map(|source| tests_of(&source.text)).collect();
    let rows: Vec<&str> = guarantees.lines().filter(|line| line.starts_with('|')).skip(2).collect();
    assert!(rows.len() > 50, "only {} rows: the table is not being read", rows.len());
    let mut missing = Vec::new();
    for row in rows {
        let [promise, _mode, named] = row.trim_matches('|').split('|').collect::<Vec<_>>()[..] else {
            panic!("not three columns: {row}");
        };
        let named: Vec<&str> = named.split('`').skip(1).step_by(2).collect();
        if named.is_empty() {
            missing.push(format!("a test for:{promise}"));
        }
        missing.extend(named.into_iter().filter(|name| !tests.contains(*name)).map(str::to_owned));
    }
    report("promised in GUARANTEES.md and tested nowhere", &missing);
}

/// The functions that a test runner calls, properties among them: those under an attribute that ends in `test`.
fn tests_of(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim_start) {
        if let Some(attribute) = line.strip_prefix("#[") {
            let path = attribute.split(['(', ']']).next().unwrap_or_default();
            is_test |= path == "test" || path.ends_with("::test");
        } else if let Some((_, name)) = line.split_once("fn ").filter(|_| is_test) {
            names.push(name.split(['(', '<']).next().unwrap_or_default().to_owned());
            is_test = false;
        }
    }
    names
}

#[test]
fn tests_are_told_from_other_functions() {
    let text = "#[test]\nfn one() {}\nfn two() {}\n\n    #[tokio::test(start_paused = true)]\n    #[cfg(unix)]\n    async fn three() {}\n";
    assert_eq!(tests_of(text), ["one", "three"]);
}

#[test]
fn functions_are_found_with_their_lengths() {
    let text = "fn one() {\n    two();\n}\n\nimpl X {\n    pub fn three(&self) -> u8 {\n        3\n    }\n}\n";
    assert_eq!(functions(text), [("one".to_owned(), 3), ("three".to_owned(), 3)]);
}
