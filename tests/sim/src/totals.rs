//! What was counted, in one run or many.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use dynamo_core::counters::Counters;

use crate::options::far::EXTREMES;

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
    absences: "processes away for long",
    messages_late: "messages that came after every time-out",
    deletes: "deletes sent",
    splits: "network splits",
    one_way_cuts: "one-way cuts",
    flaps: "links broken",
    slow_disks: "disks that became slow",
    clock_jumps: "clock jumps",
    membership_changes: "changes of the desired members",
    sweeping_changes: "changes of the desired members in which two and more left at once",
    operations_begun: "changes of members that were begun by a command",
    operations_paused: "changes of members that were paused by a command",
    operations_aborted: "changes of members that were given up by a command",
    second_thoughts: "changes of the desired members while partitions moved, made by the writer's own second thoughts",
    rings_proposed: "rings proposed",
    rings_adopted: "rings adopted by nodes",
    hosts_removed: "hosts removed after a drain receipt",
    disks_destroyed: "disks destroyed",
    members_misjudged: "members declared lost that were not",
    members_fenced: "members declared lost that came to know it",
    moves_taken_back: "moves taken back, one stage a ring",
    moves_retargeted: "moves whose new replicas became others",
    batches: "rings that began a part of what was left to move",
    writes_retried: "writes sent again with their request id",
    writes_sent_to_two: "writes sent to two hosts at the same time",
    peace_writes: "writes of every bucket, asked of every host once all was at rest",
    ids_reused: "writes under the request id of another write of their key",
    ids_reused_elsewhere: "writes under the request id of a write of another key",
    retries_ok: "writes of unknown outcome that a retry acknowledged",
    writes_doubled: "writes that got more than one dot",
    doubles_checked: "doubled writes that readers had to see once, or not any more",
    doubles_forgotten: "doubled writes that were too old for that",
    overlaps_checked: "gets whose quorum overlaps that of an earlier write",
    last_writer_wins_checked: "acknowledged writes that gave way, where the last writer wins, to one that may replace them",
    tombstones_named: "acknowledged deletes whose tombstone is known, and is looked after like a value",
    hints_checked: "hints removed when their node had what they held",
    removals_checked: "copies dropped while enough others had them",
    starts_checked: "starts whose hash trees were compared with the disk",
    tombstones_checked: "tombstones removed while every replica had them",
    evidence_checked: "acknowledgements whose evidence was checked on disk",
    transfers_checked: "writes looked for where a partition was received",
    fenced: "requests under an older ring than the receiver's",
    failed_syncs: "fsyncs that failed",
    full_disks: "disks that were full",
    storage_stops: "nodes that stopped over an error of their storage",
    nearly_full_disks: "disks that were nearly full",
    restores: "disks and data directories that went back to a copy of some seconds before",
    revenants: "processes that went on after a successor was started on their disk",
    revenants_yielded: "sometimes: a process of before heard of its successor, and stopped",
    successors_yielded: "sometimes: a successor stopped, and was started again",
    records_lost: "records of rings that were lost",
    records_set_back: "records of rings that became older ones",
    rings_found: "sometimes: the record lacked a ring that nodes held",
    restores_again: "sometimes: one went back after what another had forgotten was made good",
    restores_of_clean_copies: "sometimes: one went back to a copy that was made at a clean stop",
    forgetful_disks: "sometimes: a disk went back alone",
    rots: "objects whose bits flipped",
    disks_lost: "disks lost",
    slow_times: "times when all disks were slow",
    clocks_back: "clocks that jumped and went back",
    bad_links: "links that became bad",
    restarts_of_all: "clean restarts of all hosts at once",
    adoption_losses: "power losses right after a ring was adopted",
    groups_lost: "groups of writes lost with the power",
    tails_torn: "power losses that took some of the unsynced groups and not all",
    rivals: "second writers of rings",
    rivals_refused: "second writers of rings that came too late",
    rivals_recorded: "second writers of rings that came first",
    stale_offers_refused: "outdated rings that nodes refused",
    earlier_rings_taken: "sometimes: a node took a ring from the record that was not the newest there",
    started_behind: "sometimes: a node started with an older ring than others hold",
    newcomers_failed: "sometimes: a newcomer lost its power while it received",
    splits_while_moving: "sometimes: the network split while partitions moved",
    messages_outlived_links: "sometimes: a message arrived after its connection was replaced",
    messages_two_rings_old: "sometimes: a request arrived that was two rings old",
    transfers_in_batches: "sometimes: a batch of a transfer arrived",
    copies_handed_back: "sometimes: a copy that the ring gives to others had to be sent",
    forwards_answered: "sometimes: a forwarded request was answered",
    second_fallbacks: "sometimes: a fallback behind the first stood in",
    stand_ins_alone: "sometimes: a write was acknowledged by stand-ins alone",
    writes_while_moving: "sometimes: a write was acknowledged while its partition moved",
    stood_in_across_sets: "sometimes: a replica of one set of a move stood in within the other, and no fallback did",
    layer_writes: "sometimes: a write was acknowledged in a bucket with an N of its own",
    layer_fills: "sometimes: a node that moved up in a list received what only the first of it hold",
    contexts_withheld: "sometimes: a put could not be given a context",
    creates_refused: "sometimes: a create met a value",
    gets_of_two: "sometimes: a get saw two siblings",
    gets_of_three: "sometimes: a get saw three siblings",
    gets_of_tombstones: "sometimes: a get saw a tombstone",
    losses_beyond: "sometimes: as many disks were lost at once as a write is on",
    losses_told_to_be_over: "sometimes: a loss was told to be made good",
    deletes_by_old_contexts: "sometimes: a delete carried a context of before",
    blind_deletes: "sometimes: a delete carried no context, where the last writer wins",
    creates_with_contexts: "sometimes: a create carried a context",
    suspensions: "sometimes: a host stood still with its monotonic clock",
    starts_with_other_settings: "sometimes: a node started with other settings than most",
    stages_passed: "sometimes: reads went to the new replicas",
    stages_passed_while_restarting: "sometimes: a ring was proposed while a member was restarting",
}

/// What nodes count and no run does: only damaged or made-up messages make no sense, and no run is long enough for a hundred actors
/// of one partition, a hundred siblings of one key or thousands of its actors, which `tests/node` and `tests/siblings.rs` make.
const NEVER: &[&str] = &[
    "messages_refused",
    "reap_refused_actors",
    "puts_refused_siblings",
    "puts_refused_actors",
    // Some 150 times in 30,000 seeds, and in none of the first hundreds.
    "sometimes: one went back after what another had forgotten was made good",
];

impl Totals {
    /// Adds what a node counted until it ended.
    pub fn add_counters(&mut self, counters: &Counters) {
        for (name, value) in counters.each() {
            *self.counters.entry(name).or_default() += value;
        }
    }

    /// Which extremes the options of a run had.
    pub fn add_extremes(&mut self, far: &[&'static str]) {
        for (name, _) in EXTREMES {
            *self.counters.entry(name).or_default() += u64::from(far.contains(&name));
        }
    }

    /// What never happened. Over many runs that means that something is not tested.
    pub fn never(&self) -> Vec<&'static str> {
        self.each()
            .chain(self.counters.iter().map(|(name, value)| (*name, *value)))
            .filter(|(name, value)| *value == 0 && !NEVER.contains(name))
            .map(|(name, _)| name)
            .collect()
    }
}
