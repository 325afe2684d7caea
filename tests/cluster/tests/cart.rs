//! The program of README and of the client's documentation, on real nodes.
#![allow(clippy::unwrap_used)]

use dynamo_client::{GetOptions, Name, PutOptions};
use dynamo_cluster_tests::Cluster;

#[path = "../../../node/client/examples/cart.rs"]
#[expect(dead_code, reason = "its `main` is for the command line")]
mod cart;

#[tokio::test(flavor = "current_thread")]
async fn the_example_of_the_readme_merges_two_siblings() {
    let cluster = Cluster::with_ring(3).await.unwrap();
    let client = cluster.client().await.unwrap();
    let name = Name::new("carts", "alice");
    for item in ["milk", "tea"] {
        client.put(&name, item, &PutOptions::default()).await.unwrap();
    }
    let values = async || {
        let found = client.get(&name, &GetOptions::default()).await.unwrap();
        let mut values: Vec<_> = found.siblings.into_iter().map(|sibling| sibling.value).collect();
        values.sort();
        values
    };
    assert_eq!(values().await, ["milk", "tea"], "neither writer had read");
    let cart = cart::add(&client, &name, &["bread".to_owned()]).await.unwrap();
    assert_eq!(cart.into_iter().collect::<Vec<_>>(), ["bread", "milk", "tea"]);
    assert_eq!(values().await, ["bread\nmilk\ntea"], "the siblings are replaced");

    let empty = Name::new("carts", "bob");
    let cart = cart::add(&client, &empty, &["milk".to_owned()]).await.unwrap();
    assert_eq!(cart.into_iter().collect::<Vec<_>>(), ["milk"], "a cart that nobody has filled yet");
}
