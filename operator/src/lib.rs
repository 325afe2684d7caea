//! The operator: makes what is there what a `DynamoCluster` asks for, without ever losing data.
//!
//! `observe -> next_step -> apply`, and tell. Everything that decides is a pure function; what may not be lost lives in the API
//! server or in the nodes' ring, and nothing in this process.
//!
//! | module | what it holds | touches the world |
//! |---|---|---|
//! | [`api`] | the `DynamoCluster` resource and its CRD | no |
//! | [`valid`] | a spec that holds together | no |
//! | [`quantity`], [`listing`] | amounts as Kubernetes writes them, lists as people read them | no |
//! | [`observed`], [`observe`], [`nodes`] | one look: live objects, and each node's own view | reads |
//! | [`plan`] | the next step: the heart | no |
//! | [`build`] | the Kubernetes objects | no |
//! | [`apply`] | upkeep and the step | writes |
//! | [`status`], [`events`] | what people and tools are told | no |
//! | [`cleanup`] | a deleted cluster's volumes | writes |
//! | [`controller`] | the loop | all of it |
//! | [`leader`], [`ability`], [`http`], [`metrics`] | one acts at a time, and can be watched | |

pub mod ability;
pub mod api;
pub mod apply;
pub mod build;
pub mod cleanup;
pub mod controller;
pub mod events;
#[cfg(test)]
mod fake_api;
#[cfg(test)]
mod fuzz;
pub mod http;
pub mod leader;
pub mod listing;
pub mod metrics;
pub mod nodes;
pub mod observe;
pub mod observed;
pub mod plan;
pub mod quantity;
pub mod status;
pub mod valid;
