//! A shopping cart, as in the paper (4.4): read it, merge what was written concurrently, write it back.
//!
//! ```sh
//! dynamoctl local up
//! cargo run -p dynamo-client --example cart -- alice milk tea
//! dynamoctl get alice --bucket carts
//! ```

use std::collections::BTreeSet;
use std::error::Error;

use dynamo_client::{Client, ClientConfig, GetOptions, Name, PutOptions, RequestError, Sibling};

/// A cart, as it is stored: an item a line.
pub type Cart = BTreeSet<String>;

/// Adds `items` to the cart at `name`, whatever others put into it meanwhile, and returns what is in it now.
///
/// # Errors
/// [`RequestError::is_unknown`] if it may have been written nevertheless; after any other error nothing was.
pub async fn add(client: &Client, name: &Name, items: &[String]) -> Result<Cart, RequestError> {
    let found = client.get(name, &GetOptions::default()).await?;
    let mut cart = merged(&found.siblings);
    cart.extend(items.iter().cloned());
    let text = cart.iter().cloned().collect::<Vec<_>>().join("\n");
    // The context says what was read: that is replaced, and nothing that came in meanwhile.
    let options = PutOptions { context: found.context, ..PutOptions::default() }.retried();
    let written = match client.put(name, text.clone(), &options).await {
        // `retried` gave the write an id: sent again with the same options it is the same write. The first may have been made.
        Err(open) if open.is_unknown() => client.put(name, text, &options).await.map_err(|error| error.after(Some(open))),
        written => written,
    };
    written.map(|_| cart)
}

/// The union: of two who added something at the same time, neither loses it. Without a sibling nobody has filled the cart yet. (As in
/// the paper, an item that one took out while another added something comes back.)
pub fn merged(siblings: &[Sibling]) -> Cart {
    let texts = siblings.iter().map(|sibling| String::from_utf8_lossy(&sibling.value).into_owned());
    texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let owner = words.next().ok_or("whose cart is it? give a name, and what to put into it")?;
    let items: Vec<String> = words.collect();
    let endpoint = std::env::var("DYNAMO_ENDPOINT").unwrap_or_else(|_| "127.0.0.1:7400".to_owned());
    let client = Client::connect(ClientConfig::new(vec![endpoint])).await?; // host:port of any node
    let cart = add(&client, &Name::new("carts", owner), &items).await?;
    println!("{}", cart.into_iter().collect::<Vec<_>>().join(", "));
    Ok(())
}
