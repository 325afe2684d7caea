//! What the charts carry is what the workspace makes: no copy goes stale.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// YAML files below a folder.
fn yaml_files(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(repository(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect()
}

#[test]
fn the_operators_chart_carries_the_generated_definition() {
    let chart = read("charts/dynamo-operator/files/crds/dynamocluster.yaml");
    assert!(chart == read("crds/dynamocluster.yaml"), "the chart's copy is stale; run: make crds");
}

#[test]
fn charts_have_the_version_of_the_programs() {
    for chart in ["charts/dynamo-operator/Chart.yaml", "charts/dynamo-cluster/Chart.yaml"] {
        let text = read(chart);
        for field in ["version", "appVersion"] {
            let line = format!("{field}: {}", env!("CARGO_PKG_VERSION"));
            assert!(text.lines().any(|found| found == line), "{chart} must say: {line}");
        }
    }
}

/// kubectl and Helm read YAML 1.1, where a bare `n` or `on` is a boolean, as a key too. `n: 3` is then the field "false".
#[test]
fn no_manifest_has_a_word_that_kubectl_takes_for_a_boolean() {
    let taken = ["y", "n", "yes", "no", "on", "off"];
    for path in yaml_files("crds").into_iter().chain(yaml_files("crds/examples")) {
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let line = line.trim().trim_start_matches("- ");
            let words = [
                line.strip_suffix(':'),
                line.split_once(": ").map(|(key, _)| key),
                line.split_once(": ").map(|(_, value)| value),
                Some(line),
            ];
            for word in words.into_iter().flatten() {
                assert!(!taken.contains(&word.to_lowercase().as_str()), "{}:{}: quote {word:?}", path.display(), number + 1);
            }
        }
    }
}
