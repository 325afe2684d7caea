//! Clients of a DynamoKV cluster: one for objects, one for administration.
//!
//! [`Client`] knows the ring and sends each request straight to a replica of its key (paper 6.4). [`AdminClient`] asks one node
//! for its own view, or offers it a ring. Every call has a deadline, every queue a bound, and an error says whether anything can
//! have been written: a write whose outcome is unknown is repeated only if its caller gave it a request id.
//!
//! The paper's cart (4.4), which `examples/cart.rs` is a program of: read, merge what was written concurrently, write.
//!
//! ```
//! use std::collections::BTreeSet;
//!
//! use dynamo_client::{Client, GetOptions, Name, PutOptions, RequestError, Sibling};
//!
//! type Cart = BTreeSet<String>;
//!
//! async fn add(client: &Client, name: &Name, items: &[String]) -> Result<Cart, RequestError> {
//!     let found = client.get(name, &GetOptions::default()).await?;
//!     let mut cart = merged(&found.siblings);
//!     cart.extend(items.iter().cloned());
//!     let text = cart.iter().cloned().collect::<Vec<_>>().join("\n");
//!     // The context says what was read: that is replaced, and nothing that came in meanwhile.
//!     let options = PutOptions { context: found.context, ..PutOptions::default() }.retried();
//!     let written = match client.put(name, text.clone(), &options).await {
//!         // `retried` gave the write an id: sent again with the same options it is the same write. The first may have been made.
//!         Err(open) if open.is_unknown() => client.put(name, text, &options).await.map_err(|error| error.after(Some(open))),
//!         written => written,
//!     };
//!     written.map(|_| cart)
//! }
//!
//! fn merged(siblings: &[Sibling]) -> Cart {
//!     let texts = siblings.iter().map(|sibling| String::from_utf8_lossy(&sibling.value).into_owned());
//!     texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
//! }
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`admin`] | one node's view: status, ring, digests, drain receipt |
//! | [`client`] | get, put, delete: where a request goes, and what follows when that fails |
//! | [`error`] | why a request failed, and what that says of the write |
//! | [`retry`] | what may be tried again on another node, and what the caller is told then |
//! | `topology` | who holds what, and where they are |
//! | `silence` | a node that says nothing |
//! | `link`, `session` | one node's connection; its pipelined stream with opportunistic batching |

pub mod admin;
pub mod client;
pub mod error;
mod link;
pub mod retry;
mod session;
mod silence;
mod topology;

pub use admin::{AdminClient, AdminError, NodeStatus};
pub use client::{Client, ClientConfig, DeleteOptions, GetOptions, GetResult, Mode, PutOptions, PutResult, Sibling};
pub use error::RequestError;
pub use retry::fresh_request_id;

// What the clients' own types are made of, so that a program depends on this crate alone.
pub use bytes::Bytes;
pub use dynamo_core::id::{ClusterId, Epoch, NodeId, PartitionId, RequestKey};
pub use dynamo_core::name::Name;
pub use dynamo_core::node::receipt::Receipt;
pub use dynamo_core::request::{Evidence, Failure, QuorumWish};
pub use dynamo_core::ring::{Ring, RingHash};
pub use dynamo_core::version::Digest;
