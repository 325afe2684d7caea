//! What was counted, in one run or many.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use dynamo_core::counters::Counters;

/// Declares the totals once: field and meaning.
macro_rules! totals {
    ($($field:ident: $help:literal,)*) => {
        /// The sums.
        #[derive(Clone, Debug, Default)]
        pub struct Totals {
            $(#[doc = $help] pub $field: u64,)*
            /// What the nodes counted.
            pub counters: BTreeMap<&'static str, u64>,
        }

        impl Totals {
            /// Meaning and value of each.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$(($help, self.$field),)*].into_iter()
            }
        }

        impl AddAssign<&Totals> for Totals {
            fn add_assign(&mut self, other: &Totals) {
                $(self.$field += other.$field;)*
                for (name, value) in &other.counters {
                    *self.counters.entry(name).or_default() += value;
                }
            }
        }
    };
}

totals! {
    runs: "runs",
    simulated_seconds: "simulated seconds",
    inputs: "inputs handled by nodes",
    messages: "messages sent",
    messages_dropped: "messages dropped",
    messages_doubled: "messages doubled",
    gets_ok: "gets ok",
    gets_failed: "gets failed",
    writes_ok: "writes ok",
    writes_failed: "writes failed, nothing visible",
    writes_unknown: "writes of unknown outcome",
    kills: "processes killed",
    power_losses: "power losses",
    blackouts: "power losses of all hosts at once",
    restarts: "clean restarts",
    pauses: "pauses",
    splits: "network splits",
    one_way_cuts: "one-way cuts",
    flaps: "links broken",
    slow_disks: "disks that became slow",
    clock_jumps: "clock jumps",
    membership_changes: "changes of the desired members",
    rings_proposed: "rings proposed",
    rings_adopted: "rings adopted by nodes",
    hosts_removed: "hosts removed after a drain receipt",
    disks_destroyed: "disks destroyed",
    members_misjudged: "members declared lost that were not",
    members_fenced: "members declared lost that came to know it",
    moves_taken_back: "moves taken back, one stage a ring",
    overlaps_checked: "gets whose quorum overlaps that of an earlier write",
    removals_checked: "copies dropped while enough others had them",
    evidence_checked: "acknowledgements whose evidence was checked on disk",
}

impl Totals {
    /// Adds what a node counted until it ended.
    pub fn add_counters(&mut self, counters: &Counters) {
        for (name, value) in counters.each() {
            *self.counters.entry(name).or_default() += value;
        }
    }

    /// What never happened. Over many runs that means that something is not tested.
    pub fn never(&self) -> Vec<&'static str> {
        self.each()
            .chain(self.counters.iter().map(|(name, value)| (*name, *value)))
            .filter(|(_, value)| *value == 0)
            .map(|(name, _)| name)
            .collect()
    }
}
