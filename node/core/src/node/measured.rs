//! What is measured of the requests that a node coordinates, beside what it counts: how they are distributed.

use crate::actors::ActorsPerObject;
use crate::config::Config;
use crate::counters::{Counters, Latencies};
use crate::divergence::Divergence;
use crate::node::Node;
use crate::storage::Storage;

/// Histograms.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    pub(super) latencies: Latencies,
    pub(super) divergence: Divergence,
    pub(super) actors: ActorsPerObject,
}

impl Measured {
    /// Nothing yet.
    pub(super) fn of(config: &Config) -> Self {
        let divergence = Divergence::of(config.buckets.keys());
        Self { latencies: Latencies::default(), divergence, actors: ActorsPerObject::default() }
    }
}

impl<S: Storage> Node<S> {
    /// What the protocol has counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How long requests took that this node coordinated.
    pub fn latencies(&self) -> &Latencies {
        &self.measured.latencies
    }

    /// How many versions gets found, bucket by bucket.
    pub fn divergence(&self) -> &Divergence {
        &self.measured.divergence
    }

    /// How many actors the objects name that this node's puts made.
    pub fn actors(&self) -> &ActorsPerObject {
        &self.measured.actors
    }
}
