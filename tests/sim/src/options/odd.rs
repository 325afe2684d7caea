//! What is allowed and unusual, of clients, hosts and whoever configures them. One seed in four has some of it.
//!
//! It is drawn from streams of its own, of which no seed draws anything that was kept in `seeds.txt` before there were any: the histories
//! of the others are what they were.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use dynamo_core::config::{BucketProperties, Config, QuorumDefaults, Reconciliation};

use super::Options;
use crate::dice::Dice;

/// Of so many seeds one has oddities.
const EVERY: usize = 4;

/// What a run has of it.
#[derive(Clone, Debug, Default)]
pub struct OddOptions {
    /// Steps of a client that are a delete by a context of before, or by none, or a create with one.
    pub requests: f64,
    /// Requests with the longest deadlines that nodes allow: they outlive rings and messages that are late.
    pub long_timeouts: bool,
    /// Late messages come a minute late and more.
    pub minutes_late: bool,
    /// Of the pauses, those in which the host's monotonic clock stands still as well, as of a machine that is suspended.
    pub suspensions: f64,
    /// What a node may be started with in place of the run's settings: those that it had before a rollout that is under way.
    pub settings: Option<OtherSettings>,
}

/// Settings of a node.
#[derive(Clone, Debug)]
pub struct OtherSettings {
    /// R, W and the rest.
    pub quorum: QuorumDefaults,
    /// Buckets with settings of their own.
    pub buckets: BTreeMap<Bytes, BucketProperties>,
    /// Between two looks for tombstones to be reaped.
    pub reap: Duration,
    /// Histories in the node's memory.
    pub version_cache: usize,
    /// Objects in a pushed batch.
    pub batch_objects: usize,
    /// Until a request is answered, and until a silent replica is replaced: so many times shorter.
    pub hastier: u32,
}

/// Whether a seed has oddities.
pub fn is_odd(seed: u64) -> bool {
    Dice::new(seed ^ SALT).below(EVERY) == 0
}

/// Chosen so that no seed that was kept before has any.
const SALT: u64 = 0x6f64_6400_a020;

impl OddOptions {
    /// Those of a seed.
    pub(super) fn draw(options: &Options) -> Self {
        if !is_odd(options.seed) {
            return Self::default();
        }
        let mut dice = Dice::new(options.seed ^ 0x6f64_6469_7469_6573);
        Self {
            requests: dice.pick(&[0.0, 0.1, 0.4]),
            long_timeouts: dice.chance(0.4),
            minutes_late: dice.chance(0.4),
            suspensions: dice.pick(&[0.0, 0.5]),
            settings: dice.chance(0.5).then(|| OtherSettings::draw(options, &mut dice.fork())),
        }
    }
}

/// Any R and W up to N; the rest is as likely absent.
fn any_quorum(n: u8, dice: &mut Dice) -> QuorumDefaults {
    let mut up_to = |least: u8, most: u8| dice.between(u64::from(least), u64::from(most)) as u8;
    let (r, w) = (up_to(1, n), up_to(1, n));
    let (pr, pw, dw) = (up_to(0, r), up_to(0, w), up_to(0, w));
    let rest = QuorumDefaults { r, w, dw: None, pr: 0, pw: 0 };
    dice.pick(&[rest, rest, QuorumDefaults { pr, pw, ..rest }, QuorumDefaults { dw: Some(dw), ..rest }])
}

impl OtherSettings {
    fn draw(options: &Options, dice: &mut Dice) -> Self {
        let n = options.replication;
        // What a disk that rots or goes back may take, only W copies of every write bear.
        let same_disks = options.faults.rot.is_none() && options.faults.restore.is_none();
        let bears_any = same_disks && options.past.revenants.is_none();
        let mut other = |quorum| if bears_any && dice.chance(0.7) { any_quorum(n, dice) } else { quorum };
        let quorum = other(options.quorum);
        let mut buckets: BTreeMap<Bytes, BucketProperties> = options
            .buckets
            .iter()
            .map(|(bucket, settings)| (bucket.clone(), BucketProperties { quorum: other(settings.quorum), ..*settings }))
            .collect();
        // A bucket that was not named before, or in which siblings were kept.
        let mut before = |settings: &mut BucketProperties| {
            if dice.chance(0.5) {
                settings.reconciliation = Reconciliation::Siblings;
            }
        };
        buckets.values_mut().for_each(&mut before);
        if dice.chance(0.2) {
            buckets.clear();
        }
        let reap = if options.faults.restore.is_some() { 0 } else { dice.pick(&[0, 300, 3_000]) };
        Self {
            quorum,
            buckets,
            reap: Duration::from_millis(reap),
            version_cache: dice.pick(&[4, 1 << 17]),
            batch_objects: dice.pick(&[1, 7, 64]),
            hastier: dice.pick(&[1, 2]),
        }
    }

    /// The least that settings of either kind promise.
    fn least(one: QuorumDefaults, other: QuorumDefaults) -> QuorumDefaults {
        let dw = match (one.dw, other.dw) {
            (None, None) => None,
            (one_dw, other_dw) => Some(one_dw.unwrap_or(one.w).min(other_dw.unwrap_or(other.w))),
        };
        QuorumDefaults { r: one.r.min(other.r), w: one.w.min(other.w), dw, pr: one.pr.min(other.pr), pw: one.pw.min(other.pw) }
    }

    fn bucket(&self, bucket: &Bytes) -> BucketProperties {
        let default = BucketProperties { quorum: self.quorum, reconciliation: Reconciliation::Siblings };
        self.buckets.get(bucket).copied().unwrap_or(default)
    }
}

impl Options {
    /// What every node promises for a bucket, whichever settings it was started with.
    pub fn promised(&self, bucket: &Bytes) -> QuorumDefaults {
        let quorum = self.bucket(bucket).quorum;
        match &self.odd.settings {
            Some(other) => OtherSettings::least(quorum, other.bucket(bucket).quorum.capped(self.n_of(bucket))),
            None => quorum,
        }
    }

    /// Whether some nodes may keep siblings in a bucket where others let the last writer win.
    pub fn is_mixed(&self, bucket: &Bytes) -> bool {
        let keeps = |other: &OtherSettings| other.bucket(bucket).reconciliation == Reconciliation::Siblings;
        self.last_writer_wins(bucket) && self.odd.settings.as_ref().is_some_and(keeps)
    }

    /// The configuration of a node that has the other settings, if there are any.
    pub fn other_config(&self) -> Option<Config> {
        let OtherSettings { quorum, buckets, reap, version_cache, batch_objects, hastier } = self.odd.settings.clone()?;
        let usual = self.config();
        Some(Config {
            quorum,
            buckets,
            reap_interval: reap,
            version_cache_entries_max: version_cache,
            batch_objects_max: batch_objects,
            request_timeout: usual.request_timeout / hastier,
            hint_after: usual.hint_after / hastier,
            ..usual
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::kept_until;
    use crate::simulation::Simulation;

    #[test]
    fn one_seed_in_four_has_oddities_and_none_that_was_kept_before() {
        let odd = (1..=1_000).filter(|seed| is_odd(*seed)).count();
        assert!((200..300).contains(&odd), "{odd}");
        let kept = kept_until(10_961);
        assert_eq!(kept.iter().filter(|seed| is_odd(**seed)).count(), 0);
    }

    #[test]
    fn all_nodes_together_promise_the_least_of_what_each_promises() {
        let quorum = |r, w, dw, pr, pw| QuorumDefaults { r, w, dw, pr, pw };
        let cases = [
            (quorum(2, 2, None, 0, 0), quorum(3, 1, None, 1, 1), quorum(2, 1, None, 0, 0)),
            (quorum(2, 2, None, 0, 0), quorum(1, 3, Some(1), 1, 1), quorum(1, 2, Some(1), 0, 0)),
            (quorum(2, 1, None, 2, 1), quorum(2, 3, Some(2), 1, 1), quorum(2, 1, Some(1), 1, 1)),
        ];
        for (one, other, least) in cases {
            assert_eq!(OtherSettings::least(one, other), least, "{one:?}, {other:?}");
            assert_eq!(OtherSettings::least(other, one), least, "{one:?}, {other:?}");
        }
    }

    #[test]
    fn a_machine_that_is_suspended_goes_on_where_its_monotonic_clock_stood() {
        for (suspensions, stands_still) in [(0.0, false), (1.0, true)] {
            let mut options = Options::calm(1, 1);
            options.odd.suspensions = suspensions;
            let mut sim = Simulation::new(&options, false);
            let host = sim.add_host();
            sim.start(host);
            let before = sim.clock(host);
            sim.pause(host, Duration::from_secs(5));
            assert!(sim.next(sim.now() + Duration::from_secs(6)).is_none());
            let after = sim.clock(host);
            assert_eq!(after.wall_ms - before.wall_ms, 6_000);
            let expected = if stands_still { 1 } else { 6 };
            assert_eq!(after.instant.since(before.instant), Duration::from_secs(expected));
        }
    }

    #[test]
    fn nodes_get_the_other_settings_while_things_go_wrong_and_none_has_them_in_the_end() {
        let mut options = Options::calm(1, 1);
        options.odd.settings = Some(OtherSettings {
            quorum: QuorumDefaults::default(),
            buckets: BTreeMap::new(),
            reap: Duration::ZERO,
            version_cache: 8,
            batch_objects: 1,
            hastier: 1,
        });
        let mut sim = Simulation::new(&options, false);
        let hosts: Vec<_> = (0..20).map(|_| sim.add_host()).collect();
        let (early, late) = hosts.split_at(10);
        early.iter().for_each(|host| sim.start(*host));
        assert_eq!(sim.totals.starts_with_other_settings, 0);
        sim.set_calm(false);
        late.iter().for_each(|host| sim.start(*host));
        let others = sim.totals.starts_with_other_settings;
        assert!((1..10).contains(&others), "{others}");
        sim.set_calm(true);
        sim.roll_out();
        let restarted = hosts.iter().filter(|host| sim.generation(**host) == 2).count() as u64;
        assert_eq!((restarted, sim.totals.starts_with_other_settings), (others, others));
    }

    #[test]
    fn other_settings_are_such_as_a_node_takes() {
        for seed in (1..4_000).filter(|seed| is_odd(*seed)) {
            let options = Options::from_seed(seed);
            let Some(config) = options.other_config() else { continue };
            let n = options.replication;
            let settings = config.buckets.values().map(|bucket| bucket.quorum).chain([config.quorum]);
            for QuorumDefaults { r, w, dw, pr, pw } in settings {
                let fits = (1..=n).contains(&r) && (1..=n).contains(&w) && pr <= r && pw <= w && dw.is_none_or(|dw| dw <= w);
                assert!(fits, "seed {seed}: N = {n}, R = {r}, W = {w}, dw = {dw:?}, pr = {pr}, pw = {pw}");
            }
            assert!(config.hint_after < config.request_timeout, "seed {seed}");
        }
    }
}
