//! Settings of the protocol, with their defaults and bounds. Parsing belongs to the driver; what may not be is said here.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::codec::Writer;

/// Bytes of a key. Longer keys belong in the value.
pub const KEY_BYTES_MAX: usize = 1 << 10;
/// Bytes of a bucket's name.
pub const BUCKET_BYTES_MAX: usize = 255;
/// Bytes of a value; the paper's objects are usually below 1 MB.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// The longest time-out that a request may ask for, in default time-outs.
pub const REQUEST_TIMEOUTS_MAX: u32 = 12;
/// Concurrent values of one object before a put that would add one is refused. Repair may exceed it.
pub const SIBLINGS_MAX: usize = 100;
/// Bytes of one object, all its concurrent values together, beyond which a put that would add some is refused. Repair may exceed it:
/// what the home replicas take apart from each other still fits into one message between nodes when it meets.
pub const OBJECT_BYTES_MAX: usize = 16 << 20;
/// Actors that an object names before a put that would add one is refused. A node has a new one after each unclean stop, and a client
/// may make some up. Repair may exceed it.
pub const OBJECT_ACTORS_MAX: usize = 2_048;
/// Bytes of a context token: that of an object whose actors are three times as many, so that what was joined can be replaced.
pub const CONTEXT_BYTES_MAX: usize = 256 << 10;

/// R, W and what goes with them, for a cluster or one bucket. N is the ring's, or in the ring for the bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QuorumDefaults {
    /// Replicas that must answer a get.
    pub r: u8,
    /// Replicas that must acknowledge a put.
    pub w: u8,
    /// Acknowledgements that must be on stable storage before the answer; `None` means W of them. Counted by itself: the durable
    /// ones need not be those of home replicas that `pw` counts.
    pub dw: Option<u8>,
    /// Home replicas that must answer a get.
    pub pr: u8,
    /// Home replicas that must acknowledge a put, on stable storage or not.
    pub pw: u8,
}

impl QuorumDefaults {
    /// The same where N is `n`: what is more than that is all of them. If R + W was more than a larger N, it still is more than n.
    pub fn capped(self, n: u8) -> Self {
        let Self { r, w, dw, pr, pw } = self;
        Self { r: r.min(n), w: w.min(n), dw: dw.map(|dw| dw.min(n)), pr: pr.min(n), pw: pw.min(n) }
    }
}

impl Default for QuorumDefaults {
    fn default() -> Self {
        Self { r: 2, w: 2, dw: None, pr: 0, pw: 0 }
    }
}

/// What a bucket makes of concurrent versions. All versions are kept and joined alike; what differs is what the coordinator of a
/// put supersedes, and what a get shows ([`crate::reconciliation`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Reconciliation {
    /// All are returned, for the application to merge. No clock decides anything.
    #[default]
    Siblings,
    /// The one with the newest stamp is returned, the others are discarded: the paper's timestamp reconciliation.
    LastWriterWins,
}

/// Settings of one bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BucketProperties {
    /// Its R, W and what goes with them.
    pub quorum: QuorumDefaults,
    /// What it makes of concurrent versions.
    pub reconciliation: Reconciliation,
}

/// Everything that can be set about the protocol.
#[derive(Clone, Debug)]
pub struct Config {
    /// For buckets without settings of their own.
    pub quorum: QuorumDefaults,
    /// Settings of single buckets.
    pub buckets: BTreeMap<Bytes, BucketProperties>,
    /// Milliseconds by which this node's clock may differ from most peers' before it refuses puts to buckets in which the last
    /// writer wins. Other buckets do not look at the clock.
    pub clock_skew_ms_max: u64,
    /// Until a request that names no time-out is answered.
    pub request_timeout: Duration,
    /// How long a replica may be silent before a fallback takes its write.
    pub hint_after: Duration,
    /// Between two rounds of gossip (the paper: a second).
    pub gossip_interval: Duration,
    /// Between two rounds of anti-entropy, each of 16 exchanges at most.
    pub anti_entropy_interval: Duration,
    /// Between two looks at what is to move: hints, handbacks, transfers, and tombstones to be reaped.
    pub movement_interval: Duration,
    /// Between two looks for tombstones to be reaped; zero keeps them all. It paces the proofs and never stands for one.
    pub reap_interval: Duration,
    /// Suspicion above which a peer counts as down.
    pub phi_threshold: f64,
    /// Bytes of hints kept for one target that no quorum needs; over it no more of these are taken for it, and anti-entropy carries the
    /// rest. Those without which a put would have too few acknowledgements are bounded by the reserve of the disk alone.
    pub hint_bytes_max: u64,
    /// Requests in flight at one coordinator.
    pub requests_max: usize,
    /// Bytes of values that its gets in flight may hold, of those too that are answered and wait for a replica; over it no more begin, and
    /// those that find more end.
    pub get_bytes_max: usize,
    /// Histories of objects that are kept in memory, so that a write need not read what it replaces: see [`crate::version_cache`].
    pub version_cache_entries_max: usize,
    /// Bytes that its puts in flight may hold, each of the values that it found and of what it writes in their place, the answered ones that
    /// wait for a replica too; and those that it has forwarded, of their values and contexts. Over it no more begin.
    pub put_bytes_max: usize,
    /// Objects in one pushed batch.
    pub batch_objects_max: usize,
    /// Bytes in one pushed batch.
    pub batch_bytes_max: usize,
    /// Partitions that one node sends to new replicas at the same time, those whose receiver is away aside; also how many copies it
    /// hands back, and how many windows of anti-entropy it has asked about, at the same time.
    pub transfers_max: usize,
    /// The 99th percentile of requests above which background work gives way (the paper: 50 ms).
    pub background_p99_max: Duration,
    /// What background work may always move: it ends whatever clients do.
    pub background_bytes_per_second_min: u64,
    /// What background work may move at most.
    pub background_bytes_per_second_max: u64,
    /// Between two checkpoints of the hash trees: what changed since the last is read again after a crash.
    pub tree_checkpoint_interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            quorum: QuorumDefaults::default(),
            buckets: BTreeMap::new(),
            clock_skew_ms_max: 500,
            request_timeout: Duration::from_secs(5),
            hint_after: Duration::from_millis(500),
            gossip_interval: Duration::from_secs(1),
            anti_entropy_interval: Duration::from_millis(250),
            movement_interval: Duration::from_millis(500),
            reap_interval: Duration::from_secs(60),
            phi_threshold: 8.0,
            hint_bytes_max: 1 << 30,
            requests_max: 16_384,
            get_bytes_max: 256 << 20,
            version_cache_entries_max: 1 << 17,
            put_bytes_max: 256 << 20,
            // A batch is taken in one turn, and no request is answered meanwhile: two milliseconds.
            batch_objects_max: 64,
            batch_bytes_max: 1 << 20,
            transfers_max: 4,
            background_p99_max: Duration::from_millis(50),
            // A thousand small objects: 3 % of a core, which nobody notices, and 3.6 GB in an hour.
            background_bytes_per_second_min: 1 << 20,
            // Half of a gigabit link: the other half is the clients'.
            background_bytes_per_second_max: 64 << 20,
            // A thousand trees a minute are 20 KB a second.
            tree_checkpoint_interval: Duration::from_secs(60),
        }
    }
}

impl Config {
    /// R, W and the rest of `bucket`.
    pub fn quorum_of(&self, bucket: &Bytes) -> QuorumDefaults {
        self.buckets.get(bucket).map_or(self.quorum, |properties| properties.quorum)
    }

    /// Whether the last writer wins in `bucket`.
    pub fn last_writer_wins(&self, bucket: &Bytes) -> bool {
        self.buckets.get(bucket).is_some_and(|properties| properties.reconciliation == Reconciliation::LastWriterWins)
    }

    /// How buckets are treated, as one number for nodes to compare; never 0. A bucket that is named and treated like those that are not
    /// counts for nothing. What it is made of is no format: nodes of two versions may have two numbers for the same settings.
    pub fn buckets_digest(&self) -> u64 {
        let unnamed = BucketProperties { quorum: self.quorum, reconciliation: Reconciliation::default() };
        let named = self.buckets.iter().filter(|(_, properties)| **properties != unnamed);
        let mut writer = Writer::default();
        for (bucket, properties) in [(&Bytes::new(), &unnamed)].into_iter().chain(named) {
            let QuorumDefaults { r, w, dw, pr, pw } = properties.quorum;
            let last_writer_wins = properties.reconciliation == Reconciliation::LastWriterWins;
            writer.bytes(bucket);
            writer.raw(&[r, w, u8::from(dw.is_some()), dw.unwrap_or(0), pr, pw, u8::from(last_writer_wins)]);
        }
        xxhash_rust::xxh3::xxh3_64(writer.written()).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_of_buckets_counts_in_their_digest_and_nothing_else() {
        let properties = BucketProperties::default();
        let with = |quorum: QuorumDefaults, buckets: &[(&'static str, BucketProperties)]| {
            let buckets = buckets.iter().map(|(bucket, properties)| (Bytes::from(*bucket), *properties)).collect();
            Config { quorum, buckets, ..Config::default() }.buckets_digest()
        };
        let quorum = QuorumDefaults::default();
        let each = |quorum: QuorumDefaults| {
            [
                QuorumDefaults { r: 3, ..quorum },
                QuorumDefaults { w: 3, ..quorum },
                QuorumDefaults { dw: Some(0), ..quorum },
                QuorumDefaults { dw: Some(2), ..quorum },
                QuorumDefaults { pr: 1, ..quorum },
                QuorumDefaults { pw: 1, ..quorum },
            ]
        };
        let mut digests = vec![with(quorum, &[])];
        digests.extend(each(quorum).map(|quorum| with(quorum, &[])));
        digests.extend(each(quorum).map(|other| with(quorum, &[("b", BucketProperties { quorum: other, ..properties })])));
        let by_stamp = BucketProperties { reconciliation: Reconciliation::LastWriterWins, ..properties };
        digests.extend(["b", "c"].map(|bucket| with(quorum, &[(bucket, by_stamp)])));
        let count = digests.len();
        digests.sort_unstable();
        digests.dedup();
        assert_eq!((digests.len(), digests.contains(&0)), (count, false), "{digests:?}");
        assert_eq!(with(quorum, &[("b", properties)]), with(quorum, &[]), "treated as if it were not named");
        assert_eq!(Config { requests_max: 1, ..Config::default() }.buckets_digest(), with(quorum, &[]));
    }
}
