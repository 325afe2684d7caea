//! `dynamoctl` and the rings that it records, shows and writes, before nodes that only hold a ring.
#![allow(clippy::unwrap_used)]

#[path = "../src/double.rs"]
#[allow(dead_code, reason = "the program's own tests use more of it")]
mod double;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use bytes::Bytes;
use double::Double;
use dynamo_core::id::{ClusterId, NodeId};
use dynamo_core::rebalance::first_ring;
use dynamo_core::ring::{Member, Ring};
use serde_json::Value;

fn node(id: u8) -> NodeId {
    NodeId([id; 16])
}

/// The members 1 to 5 of a cluster.
fn ring(cluster: u8) -> Ring {
    let members = (1..=5).map(|id| (node(id), Member { zone: "z".to_owned(), weight: 1 })).collect();
    first_ring(ClusterId([cluster; 16]), 4, 3, &members).unwrap()
}

/// Three of them: 4 and 5 do not answer.
async fn three_nodes(cluster: u8) -> Vec<Double> {
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(Double::start(node(id), ring(cluster), 0).await);
    }
    nodes
}

fn dynamoctl(nodes: &[Double], words: &[&str], record: Option<&Path>) -> Output {
    let addresses: Vec<&str> = nodes.iter().map(|node| node.address.as_str()).collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dynamoctl"));
    command.args(words).args(["--endpoint", &addresses.join(",")]);
    if let Some(record) = record {
        command.arg("--record").arg(record);
    }
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn ring_in(file: &Path) -> Ring {
    Ring::decode(Bytes::from(fs::read(file).unwrap())).unwrap()
}

/// Declares member 5 lost, and waits for nothing; the ring before that stays beside the record, since member 4 may need it.
fn declares_the_fifth_lost(nodes: &[Double], record: &Path) {
    let lost = node(5).to_string();
    let output = dynamoctl(nodes, &["ring", "remove", "--lost", &lost, "--yes", "--wait", "0"], Some(record));
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("not done in time"), "{}: {said}", record.display());
    assert!(ring_in(record).is_lost(node(5)), "{}", record.display());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_whose_names_differ_only_in_their_endings_share_no_file() {
    let place = tempfile::tempdir().unwrap();
    let records = ["a.x", "a.y"].map(|name| place.path().join(name));
    let clusters = [three_nodes(1).await, three_nodes(2).await];
    for (record, nodes) in records.iter().zip(&clusters) {
        declares_the_fifth_lost(nodes, record);
    }
    for (cluster, (record, nodes)) in (1..).zip(records.iter().zip(&clusters)) {
        let output = dynamoctl(nodes, &["ring", "status", "-o", "json"], Some(record));
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert_eq!(ring_in(record).cluster, ClusterId([cluster; 16]));
        assert_eq!(ring_in(&record.with_added_extension("ring-1")), ring(cluster));
        declares_the_fifth_lost(nodes, record);
    }
    let names = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.retain(|name| !name.contains(".ring-"));
    names.sort();
    assert_eq!(names, ["a.x", "a.x.lock", "a.y", "a.y.lock"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_may_be_named_as_a_lock_or_as_what_replaces_a_file() {
    let place = tempfile::tempdir().unwrap();
    for (cluster, name) in [(1, "r.lock"), (2, "r.new"), (3, "r.ring-1"), (4, "r")] {
        let (record, nodes) = (place.path().join(name), three_nodes(cluster).await);
        for _ in 0..2 {
            declares_the_fifth_lost(&nodes, &record);
            assert_eq!(ring_in(&record).cluster, ClusterId([cluster; 16]));
            let output = dynamoctl(&nodes, &["ring", "status"], Some(&record));
            assert_eq!(output.status.code(), Some(0), "{name}: {}", text(&output.stderr));
        }
    }
}

/// Of two lost ones writes that W = 2 had acknowledged may be gone, of one none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_follow_from_a_loss_is_a_result_and_its_exit_code_says_whether_data_is_at_risk() {
    let place = tempfile::tempdir().unwrap();
    let (record, nodes) = (place.path().join("r.ring"), three_nodes(1).await);
    let (one, other) = (node(4).to_string(), node(5).to_string());
    let cases: [(&[&str], i32); 3] = [
        (&["--lost", &one], 0),
        (&["--lost", &one, "--lost", &other], 1),
        (&["--lost", &one, "--lost", &other, "--accept-data-loss"], 0),
    ];
    for (words, expected) in cases {
        let at_risk = words.len() > 2;
        let words = [&["ring", "remove"], words].concat();
        let output = dynamoctl(&nodes, &words, Some(&record));
        let shown = text(&output.stdout);
        assert_eq!(output.status.code(), Some(expected), "{words:?}: {}", text(&output.stderr));
        assert!(shown.contains(&format!("declared lost, for ever: {one}")) && shown.contains("say --yes"), "{words:?}: {shown}");
        assert_eq!(shown.contains("DATA MAY BE LOST"), at_risk, "{words:?}: {shown}");
        assert_eq!(text(&output.stderr).is_empty(), expected == 0, "{words:?}: {}", text(&output.stderr));

        let output = dynamoctl(&nodes, &[&words, &["-o", "json"][..]].concat(), Some(&record));
        assert_eq!(output.status.code(), Some(expected), "{words:?}: {}", text(&output.stderr));
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((document["done"].as_bool(), document["w"].as_u64()), (Some(false), Some(2)), "{document}");
        assert_eq!(document["lost"][0].as_str(), Some(one.as_str()), "{document}");
        assert_eq!(!document["partitions_at_risk"].as_array().unwrap().is_empty(), at_risk, "{document}");
    }
    assert!(nodes.iter().all(|node| node.state().ring == ring(1)) && !record.exists(), "nothing was done");
}

/// As nodes are whose data was removed: they have new ids, and what was recorded of the cluster is of others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorded_first_ring_is_not_given_to_other_nodes_than_its_members() {
    let place = tempfile::tempdir().unwrap();
    let record = place.path().join("r.ring");
    let members = (1..=3).map(|id| (node(id), Member { zone: "z".to_owned(), weight: 1 })).collect();
    let recorded = first_ring(ClusterId([1; 16]), 4, 3, &members).unwrap();
    fs::write(&record, recorded.encode()).unwrap();
    let init = ["ring", "init", "--expect-nodes", "3", "--partitions", "16", "--n", "3"];
    for (ids, missing, holds_it) in
        [([4, 5, 6], "01010101, 02020202, 03030303", false), ([1, 2, 4], "03030303", false), ([1, 2, 3], "", true)]
    {
        let mut nodes = Vec::new();
        for id in ids {
            let double = Double::start(node(id), ring(1), 0).await;
            double.state().is_new = true;
            nodes.push(double);
        }
        let output = dynamoctl(&nodes, &init, Some(&record));
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(if holds_it { 0 } else { 2 }), "{ids:?}: {said}");
        for double in &nodes {
            let state = double.state();
            assert_eq!((state.is_new, state.ring == recorded), (!holds_it, holds_it), "{ids:?}");
        }
        let named = said.contains(&format!("({missing})")) && said.contains(record.to_str().unwrap());
        assert_eq!(named, !holds_it, "{ids:?}: {said}");
    }
    assert_eq!(ring_in(&record), recorded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_shows_a_cluster_that_is_degraded_and_its_help_says_what_checks_one() {
    let nodes = three_nodes(1).await;
    let output = dynamoctl(&nodes, &["status", "-o", "json"], None);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), document["healthy"].as_bool()), (Some(0), Some(false)), "{document}");
    assert_eq!(dynamoctl(&nodes, &["ring", "verify"], None).status.code(), Some(1));
    let help = dynamoctl(&nodes, &["status", "--help"], None);
    let help = text(&help.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    let told = ["exits 0 if any node answers, even when degraded", "use `healthy` in `-o json`, or `ring verify`"];
    assert!(told.iter().all(|told| help.contains(told)), "{help}");
}
