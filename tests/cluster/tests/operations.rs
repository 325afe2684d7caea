//! A change of members by the real `dynamoctl` on real processes: begun, killed, gone on with, paused by another command, given up.
#![allow(clippy::unwrap_used)]

use std::process::Stdio;

use dynamo_client::{Client, GetOptions, PutOptions};
use dynamo_cluster_tests::Cluster;
use dynamo_core::id::PartitionId;
use dynamo_core::name::Name;

const KEYS: usize = 200;

fn name(key: usize) -> Name {
    Name::new("cart", format!("key-{key}"))
}

async fn expect_all(client: &Client) {
    for key in 0..KEYS {
        let read = client.get(&name(key), &GetOptions::default()).await.unwrap();
        let values: Vec<&[u8]> = read.siblings.iter().map(|sibling| &sibling.value[..]).collect();
        assert_eq!(values, [b"value"], "{:?}", name(key));
    }
}

fn said(cluster: &Cluster, arguments: &[&str]) -> String {
    let (done, said) = cluster.dynamoctl(0, arguments).unwrap();
    assert!(done, "{arguments:?}: {said}");
    said
}

fn refused(cluster: &Cluster, arguments: &[&str]) -> String {
    let (done, said) = cluster.dynamoctl(0, arguments).unwrap();
    assert!(!done, "{arguments:?}: {said}");
    said
}

/// Until `node` holds some partitions, and not yet all that it is to have.
async fn until_under_way(cluster: &Cluster, what: &str, from: u64) {
    let under_way = async |cluster: &Cluster| {
        let ring = cluster.newest_ring().await?;
        Ok(ring.epoch.0 >= from && ring.operation.is_some() && ring.moving().next().is_some())
    };
    cluster.until(what, under_way).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_members_survives_its_command_and_can_be_paused_and_given_up() {
    let mut cluster = Cluster::with_ring(3).await.unwrap();
    let client = cluster.client().await.unwrap();
    for key in 0..KEYS {
        client.put(&name(key), "value", &PutOptions::default()).await.unwrap();
    }
    let fourth = cluster.add().await.unwrap();
    cluster.until_linked().await.unwrap();
    let fourth = cluster.status(fourth).await.unwrap().node.to_string();

    let no_record = refused(&cluster, &["ring", "commit", "--add", "all"]);
    assert!(no_record.contains("--take-over"), "somebody else made the first ring: {no_record}");
    assert_eq!(cluster.newest_ring().await.unwrap().epoch.0, 1, "nothing was done");

    // Killed in the middle, and gone on with.
    let arguments = ["ring", "commit", "--add", "all", "--take-over", "--batch", "1"];
    let mut commit = cluster.dynamoctl_command(&[0], &arguments).unwrap().stderr(Stdio::null()).spawn().unwrap();
    until_under_way(&cluster, "a few partitions have moved", 6).await;
    commit.kill().unwrap();
    commit.wait().unwrap();
    let status = said(&cluster, &["ring", "status"]);
    assert!(status.contains("operation 2 is under way") && status.contains(&format!("joins: {fourth}")), "{status}");
    let other = refused(&cluster, &["ring", "commit", "--remove", &fourth]);
    assert!(other.contains("operation 2 is under way"), "{other}");
    said(&cluster, &["ring", "resume"]);
    let grown = cluster.newest_ring().await.unwrap();
    assert_eq!((grown.members.len(), grown.moving().count(), grown.operation), (4, 0, None));
    expect_all(&client).await;

    // Paused by another command while it runs, and given up.
    let before = grown.epoch.0;
    let arguments = ["ring", "commit", "--remove", &fourth, "--batch", "1"];
    let running =
        cluster.dynamoctl_command(&[0], &arguments).unwrap().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    until_under_way(&cluster, "some have moved off it", before + 4).await;
    assert!(said(&cluster, &["ring", "pause"]).contains("is paused"));
    let output = running.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && told.contains("the operation is paused"), "{told}");
    let paused = cluster.newest_ring().await.unwrap();
    assert!(paused.moving().next().is_some() && paused.operation.as_ref().is_some_and(|operation| operation.paused));
    assert!(refused(&cluster, &["ring", "commit", "--remove", &fourth]).contains("the operation is paused"), "given again");
    let status = said(&cluster, &["ring", "status", "-o", "json"]);
    let stays = status.contains("\"state\":\"paused\"") && status.contains(&format!("\"epoch\":{},", paused.epoch.0));
    assert!(stays, "it stays where it is: {status}");
    said(&cluster, &["ring", "abort"]);
    let back = cluster.newest_ring().await.unwrap();
    assert_eq!((back.members.len(), back.moving().count(), back.operation), (4, 0, None));
    expect_all(&client).await;

    // Given up by another command while it runs: the node that was to leave stays, and nobody may take it for gone.
    let running =
        cluster.dynamoctl_command(&[0], &arguments).unwrap().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    until_under_way(&cluster, "some have moved off it again", cluster.newest_ring().await.unwrap().epoch.0 + 1).await;
    said(&cluster, &["ring", "abort"]);
    let output = running.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && told.contains("given up by `dynamoctl ring abort`"), "{told}");
    assert_eq!(cluster.newest_ring().await.unwrap().members.len(), 4);
    expect_all(&client).await;

    // And all the way.
    said(&cluster, &["ring", "commit", "--remove", &fourth]);
    let shrunk = cluster.newest_ring().await.unwrap();
    assert_eq!((shrunk.members.len(), shrunk.moving().count()), (3, 0));
    assert!(said(&cluster, &["ring", "status"]).contains("no operation is under way"));
    expect_all(&client).await;
    cluster.until_replicas_are_equal().await.unwrap();

    // What became of the copies of the one that left: the replicas have them, by their hash trees. Nobody wrote meanwhile.
    let refusal = refused(&cluster, &["ring", "receipt"]);
    assert!(refusal.contains("partitions"), "a member has none to give: {refusal}");
    let (given, receipt) = cluster.dynamoctl(3, &["ring", "receipt", "-o", "json"]).unwrap();
    assert!(given, "{receipt}");
    let receipt: serde_json::Value = serde_json::from_str(&receipt).unwrap();
    assert_eq!((receipt["node"].as_str(), receipt["epoch"].as_u64()), (Some(&fourth[..]), Some(shrunk.epoch.0)));
    let copies = receipt["handed_over"].as_array().unwrap();
    let partitions: Vec<PartitionId> =
        copies.iter().map(|copy| PartitionId(copy["partition"].as_u64().unwrap().try_into().unwrap())).collect();
    assert!(!copies.is_empty());
    // All three members are replicas of everything.
    let here = cluster.admin(0).await.unwrap().partition_digests(&partitions).await.unwrap();
    for (copy, partition) in copies.iter().zip(&partitions) {
        let digest = (copy["objects"].as_u64(), copy["root"].as_str().map(str::to_owned));
        assert_eq!(digest, (Some(here[partition].objects), Some(here[partition].root.to_string())), "{copy}");
    }
}
