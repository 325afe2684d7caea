//! Extremes: what the usual draw never gives. One seed in eight has one to five of them, on top of what was drawn for it.
//!
//! Each is a small change of the options, and is counted in the totals by its name, so that none can cease to happen unnoticed. What
//! is drawn here comes from streams of its own: the histories of the other seeds are what they were.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use dynamo_core::config::{BucketProperties, QuorumDefaults, Reconciliation};
use dynamo_core::rebalance::batches::Limits;

use super::{FaultOptions, Options, Pace, draw_bucket_n, draw_buckets};
use crate::dice::Dice;
use crate::scenario::BUCKET;

/// One seed in so many.
const EVERY: usize = 8;
/// Of one seed, at most.
const AT_ONCE: u64 = 5;
/// So much longer everything may take to come to rest, at the slowest pace.
const PATIENCE: u32 = 10;

/// What is done to the options for an extreme.
type Change = fn(&mut Options, &mut Dice);

/// The name of each and what it is. Later ones prevail over earlier ones where both set the same.
pub const EXTREMES: [(&str, Change); 30] = [
    ("far: one node", |options, _| options.replicated(1, 1, 1)),
    ("far: as many replicas as nodes", |options, dice| {
        let n = dice.between(2, 6) as u8;
        options.replicated(n, usize::from(n), dice.between(1, u64::from(n)) as u8);
    }),
    ("far: five replicas, or seven", |options, dice| {
        let n = dice.pick(&[5, 7]);
        options.replicated(n, usize::from(n) + dice.below(4), dice.between(1, u64::from(n)) as u8);
    }),
    ("far: a dozen nodes and more", |options, dice| {
        options.nodes = dice.between(12, 20) as usize;
        options.hosts_max = options.nodes + 4;
        options.faults.duration = options.faults.duration.min(seconds(15));
    }),
    ("far: one partition, or two", |options, dice| options.partition_bits = dice.pick(&[0, 0, 1])),
    ("far: hundreds of partitions", |options, dice| {
        (options.partition_bits, options.nodes) = (dice.pick(&[7, 8]), options.nodes.min(usize::from(options.replication) + 2));
        options.faults.duration = options.faults.duration.min(seconds(12));
    }),
    ("far: one zone, or one for each node", |options, dice| options.zones = dice.pick(&[1, options.nodes])),
    ("far: unequal weights", |options, dice| {
        let standing_by = options.nodes > usize::from(options.replication) + 2;
        if standing_by && dice.chance(0.3) {
            (options.zones, options.weights) = (1, vec![1, 2, 1, 1, 3, 1, 1, 0]);
        } else {
            options.weights = dice.pick(&[&[1, 9][..], &[1, 2, 3, 4, 5], &[100, 1, 1], &[3, 2]]).to_vec();
        }
    }),
    ("far: any quorum", |options, dice| options.quorum = any_quorum(options.replication, dice)),
    ("far: any wish", |options, _| options.workload.wishes = 0.6),
    ("far: the last writer wins everywhere", |options, dice| {
        let stamps = |quorum| BucketProperties { quorum, reconciliation: Reconciliation::LastWriterWins };
        let names: Vec<Bytes> = options.buckets.keys().cloned().chain([Bytes::from_static(BUCKET.as_bytes())]).collect();
        options.buckets = names.into_iter().map(|name| (name, stamps(any_quorum(options.replication, dice)))).collect();
        options.clock_skew_ms_max = 100_000_000;
        options.moves_often(dice);
        options.reaps_often(dice);
    }),
    ("far: no hints", |options, dice| options.pace.hint_bytes = dice.pick(&[0, 1, 100])),
    ("far: few requests at a time", |options, dice| options.pace.requests = dice.between(1, 4) as usize),
    ("far: many objects, one in a batch", |options, dice| {
        (options.pace.batch_objects, options.pace.transfers) = (1, 1);
        if options.partition_bits <= 4 {
            options.limits = dice.pick(&[Limits { receive: 1, send: 1 }, Limits { receive: 2, send: 1 }]);
        }
        (options.workload.hot_keys, options.workload.cold_keys) = (200, 1_000);
        (options.workload.clients, options.workload.think) = (8, millis(15));
        options.faults.duration = options.faults.duration.min(seconds(15));
        options.moves_often(dice);
    }),
    ("far: many siblings", |options, _| {
        (options.workload.hot_keys, options.workload.cold_keys, options.workload.blind) = (1, 1, 0.7);
        (options.workload.clients, options.workload.think) = (10, millis(20));
    }),
    ("far: values beside which budgets are small", |options, dice| {
        options.workload.value_bytes = dice.pick(&[1_000, 8_000, 40_000]);
        (options.pace.batch_bytes, options.pace.hint_bytes) = (dice.pick(&[1, 10_000]), dice.pick(&[10_000, 100_000, 1 << 30]));
        (options.background.bytes_min, options.background.bytes_max) = dice.pick(&[(64 << 10, 64 << 10), (1 << 20, 2 << 20)]);
        (options.workload.cold_keys, options.workload.think) = (10, millis(200));
        options.pace.get_bytes = 2 * options.workload.value_bytes;
        options.pace.put_bytes = 4 * options.workload.value_bytes;
    }),
    ("far: clocks that differ by hours", |options, dice| {
        options.skew = seconds(3_600) * dice.between(1, 5) as u32;
        options.clock_skew_ms_max = dice.pick(&[500, 100_000_000, 100_000_000]);
        (options.faults.clock, options.faults.clock_back) = (Some(seconds(2)), Some(seconds(1)));
        options.workload.deletes = 0.3;
    }),
    ("far: clocks that differ by decades", |options, _| options.skew = seconds(30 * 365 * 86_400)),
    ("far: odd intervals", |options, dice| options.pace.make_odd(dice)),
    ("far: time-outs of a moment", |options, dice| {
        (options.network.delay, options.disk.sync) = (Duration::from_micros(200), Duration::from_micros(500));
        options.pace.request_timeout = millis(dice.pick(&[100, 300]));
        options.pace.hint_after = millis(dice.pick(&[1, 10, 90]));
        options.pace.batch = Duration::ZERO;
        options.workload.own_timeouts = true;
    }),
    ("far: everybody restarts, again and again", |options, dice| {
        options.faults.restart_all = Some(seconds(dice.pick(&[2, 6])));
        options.faults.blackout = Some(seconds(dice.pick(&[2, 6])));
        options.faults.kill = Some(seconds(1));
    }),
    ("far: disks that stall", |options, dice| {
        options.disk.stalls = dice.pick(&[0.2, 0.5]);
        (options.faults.slow_disk, options.faults.slow_disks) = (Some(seconds(2)), Some(seconds(4)));
        options.disk.sync = options.disk.sync.max(millis(10));
    }),
    ("far: faults that outlast every time-out", |options, dice| {
        options.faults.lengthened = dice.pick(&[3, 7]);
        (options.faults.split, options.faults.pause) = (Some(seconds(4)), Some(seconds(4)));
        options.faults.away = Some(seconds(10));
        options.faults.duration = seconds(dice.between(40, 70));
        options.workload.think *= 2;
        options.moves_often(dice);
    }),
    ("far: half of the members change at once", |options, dice| {
        options.faults.sweeping = 0.7;
        options.moves_often(dice);
        options.hosts_max = options.hosts_max.max(options.nodes * 2);
    }),
    ("far: a network of half a second", |options, dice| {
        options.network.delay = millis(dice.pick(&[100, 250]));
        (options.network.loss, options.network.duplication, options.network.detours) = (0.1, 0.2, 0.02);
        (options.pace.request_timeout, options.pace.hint_after) = (millis(5_000), millis(dice.pick(&[100, 2_000])));
        (options.pace.keepalive, options.pace.dial) = (millis(10_000), millis(1_000));
    }),
    ("far: suspicion without a reason, or hardly any", |options, dice| {
        let (phi, gossip) = dice.pick(&[(2.0, 1_000), (3.0, 2_000), (50.0, 1_000), (8.0, 100)]);
        (options.pace.phi, options.pace.gossip) = (phi, millis(gossip));
    }),
    ("far: a writer of rings who sees little", |options, dice| {
        (options.pace.unseen, options.pace.offered) = dice.pick(&[(0.5, 0.8), (0.3, 0.3), (0.1, 0.9)]);
        (options.faults.rival, options.faults.adoption) = (Some(seconds(1)), 0.2);
        options.moves_often(dice);
    }),
    ("far: rings that commands write", |options, dice| {
        options.faults.commands = true;
        // A command gives every member a weight.
        options.weights.retain(|weight| *weight > 0);
        options.moves_often(dice);
    }),
    ("far: disks lost as fast as may be", |options, dice| {
        options.replicated(5, 6 + dice.below(3), dice.between(2, 5) as u8);
        options.faults.loss = Some(seconds(1));
        options.hosts_max = options.hosts_max.max(12);
    }),
    ("far: minutes", |options, dice| {
        let most = if options.nodes > 9 || options.partition_bits > 6 { 120 } else { 1_800 };
        options.faults.duration = seconds(dice.weighted(&[(6, 120), (3, 300), (1, 1_800)]).min(most));
        let rarer = (options.faults.duration.as_secs() / 60) as u32;
        options.faults.slow_down(rarer.min(4));
        options.workload.think = millis(200) * rarer;
        options.faults.membership = Some(seconds(dice.pick(&[3, 8])));
    }),
];

fn millis(number: u64) -> Duration {
    Duration::from_millis(number)
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

/// Any R and W of 1 to N, and anything for the rest that settings may say.
fn any_quorum(n: u8, dice: &mut Dice) -> QuorumDefaults {
    let mut up_to = |least: u8, most: u8| dice.between(u64::from(least), u64::from(most)) as u8;
    let (r, w) = (up_to(1, n), up_to(1, n));
    let (pr, pw, dw) = (up_to(0, r), up_to(0, w), up_to(0, w));
    QuorumDefaults { r, w, pr, pw, dw: dice.pick(&[None, None, Some(dw)]) }
}

/// Whether a seed has extremes. The seeds that were kept before there were any have none.
pub fn is_far(seed: u64) -> bool {
    Dice::new(seed ^ 0x6661_7200_0162).below(EVERY) == 0
}

impl Options {
    /// Extremes for a seed that has them.
    pub(super) fn with_extremes(mut self) -> Self {
        let mut dice = Dice::new(self.seed ^ 0x6578_7472_656d_6573);
        let few = dice.between(1, AT_ONCE) as usize;
        let mut chosen: Vec<usize> = (0..few).map(|_| dice.below(EXTREMES.len())).collect();
        chosen.sort_unstable();
        chosen.dedup();
        for at in chosen {
            let (name, change) = EXTREMES[at];
            change(&mut self, &mut dice.fork());
            self.far.push(name);
        }
        self.quiet_within *= PATIENCE;
        self.made_bearable()
    }

    /// What cannot go together gives way, so that all that is promised is promised still.
    fn made_bearable(mut self) -> Self {
        let durable = self.quorum.dw.is_none();
        if self.replication < 3 || self.quorum.w < 2 || !durable {
            (self.faults.rot, self.faults.restore) = (None, None);
        }
        if self.faults.rot.is_some() {
            (self.faults.membership, self.faults.rival, self.faults.loss) = (None, None, None);
            self.faults.second_thoughts = 0.0;
        }
        if self.faults.restore.is_some() {
            (self.faults.loss, self.pace.reap) = (None, Duration::ZERO);
        }
        self
    }

    /// Another N, with R + W > N, and buckets that fit.
    fn replicated(&mut self, n: u8, nodes: usize, w: u8) {
        (self.replication, self.nodes) = (n, nodes);
        (self.zones, self.hosts_max) = (self.zones.min(nodes), self.hosts_max.max(nodes + 2));
        self.quorum = QuorumDefaults { r: n + 1 - w, w, dw: None, pr: 0, pw: 0 };
        self.buckets = if self.buckets.is_empty() {
            BTreeMap::new()
        } else {
            draw_buckets(n, &mut Dice::new(self.seed ^ 0x6661_725f_6275_636b))
        };
        self.bucket_n = draw_bucket_n(self.seed, n, &self.buckets);
    }

    fn moves_often(&mut self, dice: &mut Dice) {
        self.faults.membership = Some(seconds(dice.pick(&[2, 4])));
        self.faults.second_thoughts = dice.pick(&[0.0, 0.1, 0.5]);
    }

    fn reaps_often(&mut self, dice: &mut Dice) {
        (self.pace.reap, self.workload.deletes) = (millis(dice.pick(&[50, 500])), dice.pick(&[0.3, 0.6]));
    }
}

impl Pace {
    /// Every interval is much shorter or much longer than usual, and so beside the others.
    fn make_odd(&mut self, dice: &mut Dice) {
        let mut odd = |of: &[u64]| millis(dice.pick(of));
        self.tick = odd(&[5, 50, 400]);
        self.gossip = odd(&[100, 1_000, 6_000]);
        self.anti_entropy = odd(&[30, 1_000, 8_000]);
        self.movement_interval = odd(&[20, 200, 3_000]);
        self.reap = odd(&[0, 50, 500, 20_000]);
        self.dial = odd(&[20, 300, 4_000]);
        self.keepalive = odd(&[300, 3_000, 20_000]);
        self.writer = odd(&[30, 300, 5_000]);
    }
}

impl FaultOptions {
    /// Every kind comes so many times more seldom.
    fn slow_down(&mut self, rarer: u32) {
        let Self { kill, power, blackout, restart, pause, away, split, one_way, flap, slow_disk, clock, .. } = self;
        let Self { failed_sync, full_disk, slow_disks, clock_back, bad_link, restart_all, rival, loss, nearly_full, .. } = self;
        for kind in [kill, power, blackout, restart, pause, away, split, one_way, flap, slow_disk, clock] {
            *kind = kind.map(|mean| mean * rarer);
        }
        for kind in [failed_sync, full_disk, slow_disks, clock_back, bad_link, restart_all, rival, loss, nearly_full] {
            *kind = kind.map(|mean| mean * rarer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_core::id::{ClusterId, NodeId};
    use dynamo_core::rebalance::{self, Members};
    use dynamo_core::ring::Member;

    fn members(options: &Options) -> Members {
        let id = |at: usize| NodeId((at as u128 + 1).to_be_bytes());
        let weight = |at: usize| options.weights[at % options.weights.len()];
        let member = |at: usize| Member { zone: format!("zone-{}", at % options.zones), weight: weight(at) };
        (0..options.nodes).map(|at| (id(at), member(at))).collect()
    }

    #[test]
    fn one_seed_in_eight_has_extremes_and_of_a_thousand_seeds_some_have_each() {
        let far: Vec<Options> = (1..=1_000).filter(|seed| is_far(*seed)).map(Options::from_seed).collect();
        assert!((100..150).contains(&far.len()), "{}", far.len());
        for (name, _) in EXTREMES {
            assert!(far.iter().any(|options| options.far.contains(&name)), "{name}");
        }
        assert!((1..1_000).filter(|seed| !is_far(*seed)).all(|seed| Options::from_seed(seed).far.is_empty()));
    }

    #[test]
    fn whatever_extremes_come_together_there_is_a_first_ring_and_settings_are_such_as_a_node_takes() {
        for seed in (0..8_000).filter(|seed| is_far(*seed)) {
            let options = Options::from_seed(seed);
            let n = options.replication;
            let (bits, buckets) = (options.partition_bits.min(3), options.bucket_replication());
            let ring = rebalance::first_ring_with(ClusterId([1; 16]), bits, n, buckets, &members(&options));
            assert!(ring.is_ok(), "seed {seed}: {ring:?}");
            let settings = options.buckets.values().map(|bucket| bucket.quorum).chain([options.quorum]);
            for QuorumDefaults { r, w, dw, pr, pw } in settings {
                let fits = (1..=n).contains(&r) && (1..=n).contains(&w) && pr <= r && pw <= w && dw.is_none_or(|dw| dw <= w);
                assert!(fits, "seed {seed}: N = {n}, R = {r}, W = {w}, dw = {dw:?}, pr = {pr}, pw = {pw}");
            }
            assert!(options.pace.hint_after < options.pace.request_timeout, "seed {seed}");
            assert!(options.background.bytes_min <= options.background.bytes_max, "seed {seed}");
            assert!(options.hosts_max >= options.nodes, "seed {seed}");
        }
    }
}
