//! What the protocol counts. Each has the name under which it is exported; a counter only grows.

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

counters! {
    gets_ok: "Gets answered with a quorum.",
    gets_failed: "Gets that failed.",
    gets_with_siblings: "Gets that returned more than one sibling.",
    puts_ok: "Puts and deletes acknowledged.",
    puts_failed: "Puts and deletes that failed with nothing visible.",
    puts_unknown: "Puts and deletes whose outcome is unknown.",
    requests_forwarded: "Requests forwarded to a replica.",
    requests_restarted: "Requests started again under a newer ring.",
    requests_refused_overload: "Requests refused at a bound.",
    writes_refused_space: "Writes refused because the disk is nearly full.",
    read_repairs: "Objects sent to stale replicas after a get.",
    hints_stored: "Hints kept for a replica that could not be reached.",
    hints_delivered: "Hints acknowledged by their replica.",
    hints_refused_quota: "Hints refused because the target's quota is full.",
    transfer_objects_sent: "Objects sent to new replicas and acknowledged.",
    transfer_objects_received: "Objects received as a new replica.",
    handback_objects_sent: "Objects handed back to their owners and acknowledged.",
    partitions_dropped: "Copies dropped after every owner had everything.",
    anti_entropy_exchanges: "Anti-entropy exchanges started.",
    anti_entropy_differences: "Objects that anti-entropy found to differ.",
    stale_epoch_refused: "Requests refused for an older ring.",
    rings_adopted: "Rings adopted.",
    rings_refused: "Rings refused.",
    version_cache_hits: "Writes that found the history in the version cache.",
    version_cache_misses: "Writes that had to read.",
    messages_refused: "Peer messages that made no sense here.",
}
