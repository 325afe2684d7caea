//! The Dynamo paper as state machines: everything DynamoKV decides, and nothing it does.
//!
//! There is no clock, no random source, no socket, no thread and no file in this crate. A machine is a struct, an `Input`,
//! an `Output` and `handle(&mut self, input, now, out)`; time, randomness, configuration and the ring are parameters. So the
//! simulator (`tests/sim`) runs the very composition that production runs, and one seed replays one history.
//!
//! In reading order, with the paper's sections:
//!
//! | module | section | what it holds |
//! |---|---|---|
//! | [`id`], [`name`] | 4.1, 4.2 | who and what: nodes, epochs, keys and their MD5 position |
//! | [`ring`] | 4.2, 6.2 | Q equal partitions, explicit replicas, a chain of epochs |
//! | [`preference_list`] | 4.3, 4.6 | who holds a key, and who stands in |
//! | [`version`], [`context`] | 4.4 | dotted version vector sets; what a client hands back |
//! | [`recent_writes`] | 4.4 | which writes had which request ids, so that a retry is the same write |
//! | [`reconciliation`], [`clock_skew`] | 6 | buckets in which the last writer wins, and clocks that may decide that |
//! | [`version_cache`] | 5 | what recent objects' histories are, without reading them |
//! | [`request`] | 4.1 | what clients ask, and what they are told |
//! | [`quorum`] | 4.5 | when enough replicas have answered |
//! | [`coordinator`] | 4.5, 5 | one put, one get: a machine each |
//! | [`hash_tree`], [`anti_entropy`] | 4.7 | which objects differ, at the cost of what differs |
//! | [`gossip`], [`failure_detector`] | 4.8 | what nodes tell each other; who does not answer me |
//! | [`hinted_handoff`] | 4.6 | a fallback's copies, on their way home |
//! | [`admission`] | 6.5 | what of all this may run while clients wait |
//! | [`transfer`], [`rebalance`] | 4.9, 6.2 | partitions on the move, and the plan that moves them |
//! | [`reaping`] | 4.4 | tombstones go when nothing older can come |
//! | [`divergence`], [`durations`] | 6.3, 6.1 | how many versions gets returned, bucket by bucket; how long answers took |
//! | [`actors`] | 4.4 | how many actors objects name |
//! | [`counters`] | | what is counted |
//! | [`storage`], [`message`], [`config`] | 5 | the border: what a driver provides |
//! | [`small_map`], [`codec`], [`time`], [`random`] | | tools |
//! | [`node`] | all | the composition |

pub mod actors;
pub mod admission;
pub mod anti_entropy;
pub mod clock_skew;
pub mod codec;
pub mod config;
pub mod context;
pub mod coordinator;
pub mod counters;
pub mod divergence;
pub mod durations;
pub mod failure_detector;
#[cfg(test)]
mod fuzz;
pub mod gossip;
pub mod hash_tree;
pub mod hinted_handoff;
pub mod id;
pub mod message;
pub mod name;
pub mod node;
pub mod preference_list;
pub mod quorum;
pub mod random;
pub mod reaping;
pub mod rebalance;
pub mod recent_writes;
pub mod reconciliation;
pub mod request;
pub mod ring;
pub mod small_map;
pub mod storage;
pub mod time;
pub mod transfer;
pub mod version;
pub mod version_cache;
