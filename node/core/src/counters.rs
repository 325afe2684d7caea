//! What the protocol counts. Each has the name under which it is exported; a counter only grows.

use crate::durations::Durations;

/// Declares the counters once: field, exported name, meaning.
macro_rules! counters {
    ($($field:ident: $help:literal,)*) => {
        /// Everything that is counted.
        #[derive(Clone, Debug, Default)]
        pub struct Counters { $(#[doc = $help] pub $field: u64,)* }

        impl Counters {
            /// Name and value of each.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field),)*].into_iter()
            }

            /// Name and meaning of each.
            pub const HELP: &'static [(&'static str, &'static str)] = &[$((stringify!($field), $help),)*];
        }
    };
}

/// How long clients' requests took that this node coordinated, whatever came of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latencies {
    /// Gets.
    pub gets: Durations,
    /// Puts and deletes.
    pub puts: Durations,
}

counters! {
    gets_ok: "Gets answered with a quorum.",
    gets_failed: "Gets that failed.",
    gets_with_siblings: "Gets that returned more than one sibling.",
    puts_ok: "Puts and deletes acknowledged.",
    puts_failed: "Puts and deletes that failed with nothing visible.",
    puts_unknown: "Puts and deletes whose outcome is unknown.",
    puts_recognised: "Puts and deletes that were recognised by their request id as made before.",
    actors_kept: "Starts after a clean stop that went on under the former actors.",
    actors_renewed: "Times that this node took new actors since its former ones may have been used elsewhere.",
    requests_forwarded: "Requests forwarded to a replica.",
    forwards_asked_again: "Times that a forwarded request was asked of another replica.",
    requests_restarted: "Requests started again under a newer ring.",
    puts_refused_clock_skew: "Puts to last-writer-wins buckets refused because this node's clock differs from most peers'; among those that failed.",
    puts_refused_siblings: "Puts and deletes refused because the key has too many siblings, or too many bytes of them; among those that failed.",
    puts_refused_actors: "Puts and deletes refused because the key was written by too many actors; among those that failed.",
    last_writer_wins_discarded: "Versions in last-writer-wins buckets replaced by a put whose own context did not cover them.",
    last_writer_wins_hidden: "Versions in last-writer-wins buckets not shown by a get since a newer one was there, at each such get.",
    gets_refused_absent: "Gets refused since this node had just started and had not heard yet which ring others hold.",
    requests_refused_overload: "Requests refused at a bound.",
    writes_refused_space: "Writes refused because the disk is nearly full.",
    read_repairs: "Objects sent to stale replicas after a get.",
    hints_stored: "Hints kept for a replica that could not be reached.",
    hints_delivered: "Hints acknowledged by their replica.",
    hints_refused_quota: "Hints refused because the target's quota is full; no quorum needed them.",
    hint_bytes_beyond_quota: "Bytes of hints taken though the target's quota was full, because a quorum needed them.",
    transfer_objects_sent: "Objects sent to new replicas and acknowledged.",
    transfer_objects_received: "Objects received as a new replica.",
    transfer_histories_sent: "Objects of copies that were sent to new replicas, which these were asked about because hash trees differed.",
    transfer_objects_lacking: "Objects that a new replica lacked when its hash tree was compared after the copy, and was sent: writes on their way.",
    handback_histories_sent: "Objects whose owners were asked whether they have seen all of them, before they are handed back.",
    handback_objects_sent: "Objects handed back to their owners and acknowledged.",
    partitions_dropped: "Copies dropped after every owner had everything.",
    anti_entropy_exchanges: "Anti-entropy exchanges started.",
    anti_entropy_differences: "Objects that anti-entropy found to differ.",
    stale_epoch_refused: "Requests refused for an older ring.",
    rings_adopted: "Rings adopted.",
    rings_refused: "Rings refused.",
    version_cache_hits: "Writes that found the history in the version cache.",
    version_cache_misses: "Writes that had to read.",
    tombstones_reaped: "Tombstones dropped after it was proven that nothing older can come.",
    reap_rounds_proved: "Rounds that proved it.",
    reap_rounds_unproved: "Rounds that ended without a proof.",
    reap_refused_actors: "Tombstones kept because the reaped context of their partition has too many actors.",
    writes_fenced: "Versions that arrived after their tombstone was reaped, and were dropped.",
    messages_refused: "Peer messages that made no sense here.",
    trees_loaded: "Hash trees taken from the storage at a start.",
    trees_recomputed: "Hash trees that a start had to compute from all their objects.",
    tree_leaves_recomputed: "Leaves that a start had to compute because they changed after the tree was stored.",
    tree_checkpoints: "Hash trees stored.",
    background_hints_batches: "Batches of hints that were granted.",
    background_hints_bytes: "Bytes of hints that were granted.",
    background_hints_deferred: "Times that hints had to wait for the budget of background work.",
    background_transfers_batches: "Batches for new replicas that were granted.",
    background_transfers_bytes: "Bytes for new replicas that were granted.",
    background_transfers_deferred: "Times that transfers had to wait for the budget of background work.",
    background_handbacks_batches: "Batches of copies handed back that were granted.",
    background_handbacks_bytes: "Bytes of copies handed back that were granted, read or sent.",
    background_handbacks_deferred: "Times that handbacks had to wait for the budget of background work.",
    background_anti_entropy_bytes: "Bytes of objects and keys that anti-entropy exchanged.",
    background_anti_entropy_deferred: "Times that anti-entropy had to wait for the budget of background work.",
    background_received_bytes: "Bytes pushed here by the background work of others.",
    background_acknowledgements_delayed: "Acknowledgements kept back until this node can take more.",
    messages_of_lost_refused: "Messages refused because a node at one of their ends was declared lost.",
}
