//! How many hops a request takes between real processes (paper 3, 6.4): none with a client that knows the ring, else one.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use dynamo_client::{Client, ClientConfig, DeleteOptions, GetOptions, PutOptions};
use dynamo_cluster_tests::Cluster;
use dynamo_core::name::Name;

const KEYS: usize = 40;
/// Of one key: put, get, put with its context, put with that put's context, get, delete with its context.
const REQUESTS_PER_KEY: usize = 6;

async fn use_keys(client: &Client, prefix: &str) {
    for key in 0..KEYS {
        let name = Name::new("carts", format!("{prefix}-{key}"));
        let with = |context: Bytes| PutOptions { context, ..PutOptions::default() };
        client.put(&name, "one", &PutOptions::default()).await.unwrap();
        let read = client.get(&name, &GetOptions::default()).await.unwrap();
        assert!(read.context.is_unique(), "who keeps a context keeps nothing else of the answer");
        let written = client.put(&name, "two", &with(read.context)).await.unwrap();
        assert!(written.context.is_unique());
        client.put(&name, "three", &with(written.context)).await.unwrap();
        let read = client.get(&name, &GetOptions::default()).await.unwrap();
        let values: Vec<&[u8]> = read.siblings.iter().map(|sibling| &sibling.value[..]).collect();
        assert_eq!(values, [b"three"], "{name:?}");
        client.delete(&name, read.context, &DeleteOptions::default()).await.unwrap();
    }
}

/// How many requests each process has forwarded.
async fn forwarded(cluster: &Cluster) -> Vec<u64> {
    let mut forwarded = Vec::new();
    for index in 0..cluster.processes.len() {
        forwarded.push(cluster.status(index).await.unwrap().counters["requests_forwarded"]);
    }
    forwarded
}

#[tokio::test(flavor = "current_thread")]
async fn a_client_that_knows_the_ring_takes_no_hop_and_any_other_at_most_one() {
    let cluster = Cluster::with_ring(5).await.unwrap();
    use_keys(&cluster.client().await.unwrap(), "direct").await;
    let mut before = forwarded(&cluster).await;
    assert_eq!(before, [0; 5], "every request went straight to a replica");

    for (endpoint, process) in cluster.processes.iter().enumerate() {
        let through_one = ClientConfig { direct: false, ..ClientConfig::new(vec![process.address.clone()]) };
        use_keys(&Client::connect(through_one).await.unwrap(), &process.address).await;
        let after = forwarded(&cluster).await;
        let mut others: Vec<u64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
        let hops = others.remove(endpoint);
        let most = (KEYS * REQUESTS_PER_KEY) as u64;
        assert!(0 < hops && hops <= most, "{hops} hops for {most} requests through {}", process.address);
        assert_eq!(others, [0; 4], "a second hop of requests through {}", process.address);
        before = after;
    }
}
