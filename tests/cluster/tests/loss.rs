//! A disk that is gone for ever, with real processes and the real `dynamoctl`.
#![allow(clippy::unwrap_used)]

use dynamo_client::{Client, ClientConfig, GetOptions, PutOptions};
use dynamo_cluster_tests::Cluster;
use dynamo_core::name::Name;
use dynamo_core::request::QuorumWish;

const KEYS: usize = 100;

fn name(key: usize) -> Name {
    Name::new("cart", format!("key-{key}"))
}

async fn expect_all(client: &Client, r: u8) {
    for key in 0..KEYS {
        let options = GetOptions { quorum: QuorumWish { r: Some(r), ..QuorumWish::default() }, ..GetOptions::default() };
        let read = client.get(&name(key), &options).await.unwrap();
        let values: Vec<&[u8]> = read.siblings.iter().map(|sibling| &sibling.value[..]).collect();
        assert_eq!(values, [b"value"], "{:?}", name(key));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_is_replaced_by_a_word_and_its_old_data_directory_is_fenced() {
    let mut cluster = Cluster::with_ring(3).await.unwrap();
    let client = cluster.client().await.unwrap();
    for key in 0..KEYS {
        client.put(&name(key), "value", &PutOptions::default()).await.unwrap();
    }
    let lost = cluster.status(1).await.unwrap().node.to_string();
    let said = cluster.dynamoctl(0, &["ring", "replace", "--lost", &lost, "--yes"]).unwrap();
    assert!(!said.0 && said.1.contains("answers"), "a member that answers is not lost: {}", said.1);

    cluster.kill(1).unwrap();
    cluster.wipe(1).unwrap();
    cluster.launch(1).await.unwrap();
    assert_ne!(cluster.status(1).await.unwrap().node.to_string(), lost, "the id was on the disk");
    cluster.until_linked().await.unwrap();
    let said = cluster.dynamoctl(0, &["ring", "replace", "--lost", &lost]).unwrap();
    assert!(said.0 && said.1.contains("say --yes") && said.1.contains("no write that W = 2"), "{}", said.1);
    assert_eq!(cluster.status(0).await.unwrap().epoch.0, 1, "nothing was done");
    let said = cluster.dynamoctl(0, &["ring", "replace", "--lost", &lost, "--yes", "--wait", "80"]).unwrap();
    assert!(said.0, "{}", said.1);
    cluster.until_replicas_are_equal().await.unwrap();
    assert_eq!(cluster.status(1).await.unwrap().partitions, 16);
    expect_all(&cluster.client().await.unwrap(), 3).await;

    // The old disk was not lost after all.
    cluster.kill(1).unwrap();
    cluster.unwipe(1).unwrap();
    cluster.launch(1).await.unwrap();
    let status = cluster.status(1).await.unwrap();
    assert_eq!(status.node.to_string(), lost);
    let has_heard = async |cluster: &Cluster| {
        let (own, others) = (cluster.status(1).await?, cluster.status(0).await?);
        Ok(own.epoch == others.epoch && !own.ready)
    };
    cluster.until("it has heard that it is lost", has_heard).await.unwrap();
    let refused = cluster.dynamoctl(1, &["status"]).unwrap();
    assert!(refused.1.contains("declared lost"), "{}", refused.1);
    let mut config = ClientConfig::new(vec![cluster.processes[1].address.clone()]);
    config.direct = false;
    let through_it = Client::connect(config).await.unwrap();
    let refused = through_it.put(&name(0), "old", &PutOptions::default()).await.unwrap_err().to_string();
    assert!(refused.contains("was declared lost"), "{refused}");
    expect_all(&cluster.client().await.unwrap(), 2).await;
}
