//! `dynamoctl bench` against real nodes: what it says of a run is what there was.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

use dynamo_cluster_tests::Cluster;
use serde_json::{Value, json};

/// Runs the `dynamoctl` that the same build made.
fn dynamoctl(cluster: &Cluster, arguments: &[&str]) -> Output {
    let own = std::env::current_exe().unwrap();
    let mut beside = own.ancestors().skip(1).take(2).map(|folder| folder.join("dynamoctl"));
    let program = beside.find(|path| path.is_file()).expect("dynamoctl is missing: `cargo build --workspace --bins`");
    let addresses: Vec<&str> = cluster.processes.iter().map(|process| process.address.as_str()).collect();
    let endpoints = addresses.join(",");
    Command::new(program).args(["-o", "json", "-e", &endpoints, "bench"]).args(arguments).output().unwrap()
}

/// Its lines of JSON; it must have worked.
fn lines(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "current_thread")]
async fn records_that_were_loaded_are_measured_by_another_run_which_finds_the_nodes_processes() {
    let cluster = Cluster::with_ring(3).await.unwrap();
    let data = ["--records", "200", "--value-bytes", "100", "--clients", "8", "--keys", "known"];
    let loaded = lines(&dynamoctl(&cluster, &[&["load"], &data[..]].concat()));
    assert_eq!((&loaded[0]["keys"], &loaded[0]["records"]), (&json!("known"), &json!(200)));
    let time = ["--workload", "f", "--seconds", "2", "--timeline=1", "--warm-up", "0", "--system", "dynamokv-unary"];
    let run = lines(&dynamoctl(&cluster, &[&["run"], &time[..], &data[..]].concat())).remove(0);
    assert!(run["operations"].as_u64().unwrap() > 0 && run["servers_cpu_us_per_operation"].as_f64().unwrap() > 0.0, "{run}");
    let intervals = run["timeline"].as_array().unwrap();
    let costs = intervals.iter().map(|interval| interval["servers_cpu_us_per_operation"].as_f64());
    assert_eq!(intervals.iter().map(|interval| &interval["second"]).collect::<Vec<_>>(), [&json!(0), &json!(1)]);
    assert!(costs.flatten().filter(|cost| *cost > 0.0).count() == 2, "{intervals:?}");
    assert_eq!(run["servers_cpu_seconds"].as_object().unwrap().len(), 3, "the three nodes, found by their addresses");
    assert_eq!((&run["errors"], &run["load"]), (&json!({}), &Value::Null));
    assert!(run["siblings_max"].as_u64().unwrap() >= 1, "what was loaded is there: {run}");
    assert_eq!((&run["configuration"]["mode"], &run["configuration"]["n"]), (&json!("unary"), &json!(3)));
    let other = ["run", "--keys", "unknown", "--records", "200", "--seconds", "1"];
    let refused = dynamoctl(&cluster, &other);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no such record"));
}

#[tokio::test(flavor = "current_thread")]
async fn a_comparison_tells_durable_writes_from_buffered_ones_by_what_the_nodes_said() {
    let cluster = Cluster::with_ring(3).await.unwrap();
    let what = ["compare", "--systems", "dynamokv,dynamokv-buffered", "--workloads", "update", "--repetitions", "1"];
    let how = ["--seconds", "1", "--warm-up", "0", "--records", "100", "--clients", "8"];
    let lines = lines(&dynamoctl(&cluster, &[&what[..], &how[..]].concat()));
    let (summary, runs) = lines.split_last().unwrap();
    assert!(runs.len() >= 2 && runs.iter().all(|run| run["kind"] == "run" && run["repetition"] == 1), "{runs:?}");
    let figures: Vec<_> = summary["figures"].as_array().unwrap().iter().map(|row| (&row["system"], &row["durability"])).collect();
    assert_eq!(figures, [(&json!("dynamokv"), &json!("fsync")), (&json!("dynamokv-buffered"), &json!("none"))]);
    assert_eq!(summary["ratios"], json!([]), "there is no peer");
    let absent = ["compare", "--systems", "etcd", "--etcd", "127.0.0.1:1"];
    let refused = dynamoctl(&cluster, &absent);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("etcd at 127.0.0.1:1") && told.contains("leave etcd out"), "{told}");
}
