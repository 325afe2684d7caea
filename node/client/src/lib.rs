//! Clients of a DynamoKV cluster: one for objects, one for administration.
//!
//! [`Client`] knows the ring and sends each request straight to a replica of its key (paper 6.4). [`AdminClient`] asks one node
//! for its own view, or offers it a ring. Every call has a deadline, every queue a bound, and an error says whether anything can
//! have been written: a write whose outcome is unknown is repeated only if its caller gave it a request id.
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
