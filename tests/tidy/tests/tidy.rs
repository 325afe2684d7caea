//! The structure of the workspace, as tests: what design and style promise of the code and a compiler does not check.

use std::collections::{BTreeMap, BTreeSet};

use dynamo_tidy::{Source, files, functions, root};

const FUNCTION_LINES_MAX: usize = 90;
const FILE_LINES_MAX: usize = 900;
/// The head of each table of promises.
const PROMISES_HEAD: &str = "| promise | mode | tests |";

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

/// All clones share one build cache, and what another of them built looks newer than sources that were checked out before: without
/// `cache`, a target may run programs of other sources and call them good.
#[test]
fn no_target_calls_cargo_before_the_cache_is_this_clones() {
    let makefile = std::fs::read_to_string(root().join("Makefile")).unwrap();
    report("targets of the Makefile that need `cache`, `tools` or `build`", &targets_without_cache(&makefile));
}

/// The targets whose recipes call cargo, by name or as `$(build...)`, and that do not come after `cache`.
fn targets_without_cache(makefile: &str) -> Vec<String> {
    let mut needs = BTreeMap::<&str, Vec<&str>>::new();
    let mut callers = BTreeSet::new();
    let mut target = "";
    for line in makefile.lines() {
        if let Some(recipe) = line.strip_prefix('\t') {
            if recipe.contains("cargo ") || recipe.contains("$(build") {
                callers.insert(target);
            }
        } else if let Some((name, rest)) = line.split_once(':').filter(|(name, _)| !name.contains([' ', '.', '#'])) {
            target = name;
            needs.insert(name, rest.split("##").next().unwrap_or_default().split_whitespace().collect());
        }
    }
    let mut after_cache = BTreeSet::from(["cache"]);
    for _ in 0..needs.len() {
        let later = needs.iter().filter(|(_, needs)| needs.iter().any(|name| after_cache.contains(name)));
        let later: Vec<&str> = later.map(|(name, _)| *name).collect();
        after_cache.extend(later);
    }
    callers.difference(&after_cache).map(|name| (*name).to_owned()).collect()
}

#[test]
fn targets_that_call_cargo_are_found_through_what_they_come_after() {
    let makefile = "build := cargo build\ncache:\n\t@.ci/cache\ntools: cache\n\t@x\nbuild: tools ## all\n\t$(build)\nfuzz: ## spoilt\n\tcargo test\n";
    assert_eq!(targets_without_cache(makefile), ["fuzz"]);
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
    let rows = promises(&guarantees);
    assert!(rows.len() > 50, "only {} rows: the tables are not being read", rows.len());
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

/// The rows of all tables, without the two lines at the head of each.
fn promises(guarantees: &str) -> Vec<&str> {
    let is_row = |line: &&str| line.starts_with('|') && *line != PROMISES_HEAD && !line.starts_with("|---");
    guarantees.lines().filter(is_row).collect()
}

/// Every heading of GUARANTEES.md but the last has one table, and no row stands outside of one.
#[test]
fn every_promise_stands_in_the_table_of_a_heading() {
    let guarantees = std::fs::read_to_string(root().join("GUARANTEES.md")).unwrap();
    let (promised, _not_promised) = guarantees.split_once("\n## Not promised\n").expect("it ends with what is not promised");
    let mut sections = promised.split("\n## ");
    assert_eq!(promises(sections.next().unwrap()), [""; 0], "rows before the first heading");
    let mut odd = Vec::new();
    for section in sections {
        let heading = section.lines().next().unwrap_or_default();
        let table = format!("{heading}\n\n{PROMISES_HEAD}\n|---|---|---|\n| ");
        if !section.starts_with(&table) || section.trim_end().lines().skip(2).any(|line| !line.starts_with('|')) {
            odd.push(heading.to_owned());
        }
    }
    report("headings without one table of promises", &odd);
}

#[test]
fn promises_are_told_from_the_heads_of_their_tables() {
    let text = format!(
        "text\n\n{PROMISES_HEAD}\n|---|---|---|\n| a | all | `b` |\n\n{PROMISES_HEAD}\n|---|---|---|\n| c | all | `d` |\n"
    );
    assert_eq!(promises(&text), ["| a | all | `b` |", "| c | all | `d` |"]);
}

/// The commands of README's `sh` blocks: programs that `make install` or the text around them brings, and targets of the Makefile.
#[test]
fn every_command_of_the_readme_can_be_given() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let (readme, makefile) = (read("README.md"), read("Makefile"));
    let targets: BTreeSet<&str> = makefile.lines().filter_map(|line| line.strip_prefix(".PHONY: ")).collect();
    let installed: Vec<&str> = makefile.lines().filter(|line| line.starts_with("\tinstall -D ")).collect();
    let mut unknown = Vec::new();
    let is_begun = |line: &&str| !line.starts_with("  ");
    let commands = blocks(&readme, "sh")
        .into_iter()
        .filter(is_begun)
        .flat_map(|line| line.split('#').next().unwrap_or_default().split("&&"));
    for command in commands.map(str::trim).filter(|command| !command.is_empty()) {
        let mut words = command.split_whitespace();
        let is_known = match words.next().unwrap_or_default() {
            "make" => words.next().is_some_and(|target| targets.contains(target)),
            "cargo" | "export" | "helm" => true,
            program if program.starts_with("tests/") || program.starts_with(".ci/") => root().join(program).is_file(),
            program => installed.iter().any(|line| line.contains(&format!("$(release)/{program}"))),
        };
        if !is_known {
            unknown.push(command.to_owned());
        }
    }
    report("commands of README.md that nothing brings", &unknown);
    let documents = [".md", ".txt"].iter().flat_map(|ending| files("", ending));
    let named = documents.flat_map(|document| {
        let named: Vec<String> =
            document.text.split("`make ").skip(1).filter_map(|rest| rest.split(['`', ' ']).next()).map(str::to_owned).collect();
        named.into_iter().map(move |target| (document.path.clone(), target))
    });
    let missing =
        named.filter(|(_, target)| !targets.contains(target.as_str())).map(|(path, target)| format!("{path}: make {target}"));
    report("targets that the Makefile has not", &missing.collect::<Vec<_>>());
}

/// What README and the client's documentation show of a program is in the program that is built and tested.
#[test]
fn the_program_that_is_shown_is_the_example() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let example = read("node/client/examples/cart.rs");
    let lines: BTreeSet<&str> = example.lines().map(|line| line.trim().trim_start_matches("pub ")).collect();
    let library: String = read("node/client/src/lib.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//!"))
        .map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line)))
        .collect();
    for (path, text, language) in [("README.md", read("README.md"), "rust"), ("node/client/src/lib.rs", library, "")] {
        let shown = blocks(&text, language);
        assert!(shown.len() > 8, "{path} shows no program: {shown:?}");
        let is_shown_only = |line: &&str| !line.is_empty() && !line.starts_with("use ") && !lines.contains(line);
        let foreign: Vec<String> = shown.iter().map(|line| line.trim()).filter(is_shown_only).map(str::to_owned).collect();
        report(&format!("{path} shows what the example has not"), &foreign);
    }
}

/// The lines of a document's fenced blocks of `language`.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let opening = format!("```{language}");
    let mut found = Vec::new();
    let mut within: Option<bool> = None;
    for line in text.lines() {
        match within {
            None if line.starts_with("```") => within = Some(line == opening),
            Some(_) if line == "```" => within = None,
            Some(true) => found.push(line),
            _ => {}
        }
    }
    found
}

#[test]
fn blocks_are_found_by_their_language() {
    let text = "```sh\nmake demo\n```\n\n```text\nno\n```\n\n```sh\nmake test\n```\n";
    assert_eq!(blocks(text, "sh"), ["make demo", "make test"]);
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

/// The words that programs get from a cluster's conditions, as the operator has them and as its users can look them up.
#[test]
fn the_reasons_of_conditions_are_explained_and_none_that_is_not_there() {
    let is_name = |word: &str| word.starts_with(char::is_uppercase) && word.chars().all(char::is_alphanumeric);
    let sources = ["operator/src/status.rs", "operator/src/status/conditions.rs"];
    let code: String = sources.iter().map(|file| std::fs::read_to_string(root().join(file)).unwrap()).collect();
    let statuses = BTreeSet::from(["True", "False", "Unknown"]);
    let told: BTreeSet<&str> = code.split('"').filter(|word| is_name(word) && !statuses.contains(word)).collect();

    let readme = std::fs::read_to_string(root().join("charts/dynamo-cluster/README.md")).unwrap();
    let chapter = readme.split("\n## ").find(|chapter| chapter.starts_with("Conditions")).expect("a chapter on conditions");
    let words: BTreeSet<&str> = chapter.split(|letter: char| !letter.is_alphanumeric()).collect();
    let unexplained: Vec<String> =
        told.iter().filter(|reason| !words.contains(*reason)).map(|reason| (*reason).to_owned()).collect();
    report("conditions have reasons that charts/dynamo-cluster/README.md does not explain", &unexplained);

    let first_cells =
        chapter.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next()).flat_map(|cell| cell.split(", "));
    let invented: Vec<String> = first_cells.filter(|name| is_name(name) && !told.contains(name)).map(str::to_owned).collect();
    report("charts/dynamo-cluster/README.md explains what no condition says", &invented);
}
