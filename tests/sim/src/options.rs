//! What a run is like: drawn from its seed, printed with it.

pub mod beyond;
pub mod far;
pub mod odd;
pub mod past;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use dynamo_core::config::{BucketProperties, Config, QuorumDefaults, Reconciliation};
use dynamo_core::rebalance::batches::Limits;
use dynamo_core::ring::bucket_replication::BucketReplication;

use crate::dice::Dice;
use crate::scenario::BUCKET;
use odd::OddOptions;
use past::PastOptions;

/// Hosts that a run may have at the same time, usually.
const HOSTS_MAX: usize = 9;
/// Until everything has come to rest after the last fault, at a usual pace.
const QUIET_WITHIN: Duration = Duration::from_secs(240);

/// A run's options.
#[derive(Clone, Debug)]
pub struct Options {
    /// From which everything else follows.
    pub seed: u64,
    /// Hosts of the first ring.
    pub nodes: usize,
    /// Failure domains that the hosts are spread over.
    pub zones: usize,
    /// Partitions, as a power of two.
    pub partition_bits: u8,
    /// N.
    pub replication: u8,
    /// R, W and the rest, on every node.
    pub quorum: QuorumDefaults,
    /// Buckets with settings of their own, beside the one without, on every node.
    pub buckets: BTreeMap<Bytes, BucketProperties>,
    /// N of buckets with one of their own, in the ring.
    pub bucket_n: BTreeMap<Bytes, u8>,
    /// By how much clocks may differ before puts are refused where the last writer wins.
    pub clock_skew_ms_max: u64,
    /// The network.
    pub network: NetworkOptions,
    /// How much moves at the same time.
    pub limits: Limits,
    /// The disks.
    pub disk: DiskOptions,
    /// The driver and the protocol's pace.
    pub pace: Pace,
    /// Hints, transfers and repair beside the clients, and trees across restarts.
    pub background: BackgroundOptions,
    /// Who asks for what.
    pub workload: WorkloadOptions,
    /// What goes wrong, and how often.
    pub faults: FaultOptions,
    /// What the wall clocks are off by at first, at most.
    pub skew: Duration,
    /// The hosts' weights, one after the other, and again from the first.
    pub weights: Vec<u32>,
    /// Hosts that a run may have at the same time.
    pub hosts_max: usize,
    /// Until everything has come to rest after the last fault.
    pub quiet_within: Duration,
    /// The extremes that this run has.
    pub far: Vec<&'static str>,
    /// What is allowed and unusual.
    pub odd: OddOptions,
    /// What comes back that was over.
    pub past: PastOptions,
}

/// How messages travel.
#[derive(Clone, Debug)]
pub struct NetworkOptions {
    /// Usual time from node to node.
    pub delay: Duration,
    /// Messages that are lost although the link holds.
    pub loss: f64,
    /// Messages that arrive twice.
    pub duplication: f64,
    /// Messages that take a hundred times as long.
    pub detours: f64,
    /// Requests to replicas that take seconds: rings change meanwhile.
    pub slow_requests: f64,
    /// Messages that come when every time-out of everybody is long over.
    pub late: f64,
}

/// How fsyncs behave.
#[derive(Clone, Debug)]
pub struct DiskOptions {
    /// Usual time of an fsync.
    pub sync: Duration,
    /// Fsyncs that take a hundred times as long.
    pub stalls: f64,
}

/// Intervals of the driver and the protocol.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    /// How long a driver collects inputs before it commits; zero commits after each.
    pub batch: Duration,
    /// Between two ticks.
    pub tick: Duration,
    /// Between two attempts to dial a peer.
    pub dial: Duration,
    /// Until a link over which nothing comes through is given up.
    pub keepalive: Duration,
    /// Between two looks of the writer of rings.
    pub writer: Duration,
    /// Until a request is answered.
    pub request_timeout: Duration,
    /// Until a silent replica is replaced.
    pub hint_after: Duration,
    /// Between two rounds of anti-entropy.
    pub anti_entropy: Duration,
    /// Between two looks at what is to move.
    pub movement_interval: Duration,
    /// Between two looks for tombstones to be reaped; zero for a run that keeps them.
    pub reap: Duration,
    /// Objects in a pushed batch.
    pub batch_objects: usize,
    /// Bytes of hints for one target that no quorum needs.
    pub hint_bytes: u64,
    /// Bytes of values that gets in flight at one node may hold.
    pub get_bytes: usize,
    /// Histories in a node's memory.
    pub version_cache: usize,
    /// Bytes that puts in flight at one node may hold.
    pub put_bytes: usize,
    /// Requests in flight at one node.
    pub requests: usize,
    /// Bytes in a pushed batch.
    pub batch_bytes: usize,
    /// Partitions that a node sends at the same time.
    pub transfers: usize,
    /// Between two rounds of gossip.
    pub gossip: Duration,
    /// Suspicion above which a peer counts as down.
    pub phi: f64,
    /// How often the writer of rings overlooks a node that answers.
    pub unseen: f64,
    /// How often a ring reaches a node to which it is offered.
    pub offered: f64,
}

/// What background work may do, and how often trees are stored.
#[derive(Clone, Debug)]
pub struct BackgroundOptions {
    /// The 99th percentile above which it gives way.
    pub p99_max: Duration,
    /// What it may always move, in bytes per second.
    pub bytes_min: u64,
    /// What it may move at most.
    pub bytes_max: u64,
    /// Between two checkpoints of the hash trees.
    pub checkpoint_interval: Duration,
}

/// The clients.
#[derive(Clone, Debug)]
pub struct WorkloadOptions {
    /// How many.
    pub clients: usize,
    /// Usual time between two requests of one.
    pub think: Duration,
    /// Keys that most requests go to.
    pub hot_keys: usize,
    /// Keys that the others go to.
    pub cold_keys: usize,
    /// Writes that carry a request id, by which their client may send them again.
    pub request_ids: f64,
    /// Steps of a client that are a get and a delete, beside those that the mix has anyway.
    pub deletes: f64,
    /// Requests have deadlines of their own, shorter and longer than what the nodes go by.
    pub own_timeouts: bool,
    /// Every client reads before it writes, and writes with the context that it got: then there are no more siblings than clients,
    /// as long as nothing goes wrong.
    pub reads_first: bool,
    /// Steps of a client that are a put without a context, beside those that the mix has anyway.
    pub blind: f64,
    /// Requests with any wish at all, beside those that the mix has anyway.
    pub wishes: f64,
    /// Bytes of a value, at least.
    pub value_bytes: usize,
}

/// A plan by which members come and go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Churn {
    /// Two join, then two of the first members leave.
    JoinTwoLeaveTwo,
    /// One joins and leaves again, over and over: what it was given goes back to where it was.
    BackAndForth,
}

/// Mean time between two faults of a kind; `None` for a run without them.
#[derive(Clone, Debug, Default)]
pub struct FaultOptions {
    /// How long faults and clients go on.
    pub duration: Duration,
    /// A process is killed and started again.
    pub kill: Option<Duration>,
    /// A host loses power.
    pub power: Option<Duration>,
    /// All hosts lose power at once.
    pub blackout: Option<Duration>,
    /// A node is stopped cleanly and started again.
    pub restart: Option<Duration>,
    /// A process stands still.
    pub pause: Option<Duration>,
    /// A process is away for long, with what it holds.
    pub away: Option<Duration>,
    /// The network splits.
    pub split: Option<Duration>,
    /// One direction between two hosts is cut.
    pub one_way: Option<Duration>,
    /// A link breaks and is dialled again.
    pub flap: Option<Duration>,
    /// A host's fsyncs take a second and more; often the power goes while they do.
    pub slow_disk: Option<Duration>,
    /// A wall clock jumps.
    pub clock: Option<Duration>,
    /// The desired members change.
    pub membership: Option<Duration>,
    /// An fsync fails, and with it every later one until somebody looks after the disk.
    pub failed_sync: Option<Duration>,
    /// A disk takes no more writes.
    pub full_disk: Option<Duration>,
    /// Bits of an object flip on one disk, which is lost then.
    pub rot: Option<Duration>,
    /// Every host's fsyncs take long; often all of them lose their power then.
    pub slow_disks: Option<Duration>,
    /// A wall clock jumps by an hour, and goes back.
    pub clock_back: Option<Duration>,
    /// One direction between two hosts loses, doubles and reorders a good part of what it carries.
    pub bad_link: Option<Duration>,
    /// All nodes are stopped cleanly and started again.
    pub restart_all: Option<Duration>,
    /// A second writer of rings acts on what it saw a while ago.
    pub rival: Option<Duration>,
    /// Members come and go by a plan, in place of by chance.
    pub churn: Option<(Churn, Duration)>,
    /// How often other members are asked for, at each look of the writer of rings while partitions move.
    pub second_thoughts: f64,
    /// How often a node loses its power soon after it adopted a ring.
    pub adoption: f64,
    /// A disk is destroyed, or taken for destroyed.
    pub loss: Option<Duration>,
    /// A data directory is copied, and put back some seconds later.
    pub restore: Option<Duration>,
    /// A disk is nearly full, and has room again later: its node is told, and refuses what would fill it.
    pub nearly_full: Option<Duration>,
    /// So many times its usual length a fault lasts beyond that.
    pub lengthened: u32,
    /// Rings are written by commands, not by an operator.
    pub commands: bool,
    /// How often half of the members change where one would.
    pub sweeping: f64,
}

impl Options {
    /// The options of a seed.
    pub fn from_seed(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let (replication, r, w) = dice.weighted(&[
            (70, (3, 2, 2)),
            (8, (3, 1, 3)),
            (8, (3, 3, 1)),
            (4, (3, 1, 1)),
            (4, (2, 1, 1)),
            (3, (1, 1, 1)),
            (3, (5, 3, 3)),
        ]);
        let dw = dice.weighted(&[(8, None), (2, Some(1))]);
        let nodes = dice.between(u64::from(replication).max(3), 7) as usize;
        let mut dice_of_buckets = Dice::new(seed ^ 0x62_7563_6b65_7473);
        let buckets = draw_buckets(replication, &mut dice_of_buckets);
        let mut options = Self {
            seed,
            nodes,
            zones: dice.between(1, 3) as usize,
            partition_bits: dice.between(3, 6) as u8,
            replication,
            quorum: QuorumDefaults { r, w, dw, pr: 0, pw: 0 },
            bucket_n: draw_bucket_n(seed, replication, &buckets),
            buckets,
            // Most hosts' clocks differ by less than two seconds, until they jump by hours.
            clock_skew_ms_max: dice_of_buckets.pick(&[500, 3_000, 3_000, 100_000_000]),
            network: NetworkOptions::draw(&mut dice.fork()),
            limits: Limits::default(),
            disk: DiskOptions::draw(&mut dice.fork()),
            pace: Pace { version_cache: draw_version_cache(seed), ..Pace::draw(&mut dice.fork()) },
            background: BackgroundOptions::draw(&mut Dice::new(seed ^ 0x6261_636b_6772_6f75)),
            workload: WorkloadOptions::draw(seed, &mut dice.fork()),
            faults: FaultOptions {
                loss: draw_loss(seed),
                nearly_full: draw_nearly_full(seed),
                ..FaultOptions::draw(&mut dice.fork())
            },
            skew: Duration::from_secs(1),
            weights: vec![1],
            hosts_max: HOSTS_MAX,
            quiet_within: QUIET_WITHIN,
            far: Vec::new(),
            odd: OddOptions::default(),
            past: PastOptions::default(),
        };
        options.draw_more(&mut Dice::new(seed ^ 0x6d6f_7265));
        options.draw_operations(&mut Dice::new(seed ^ 0x6f70_6572));
        let usual =
            options.with_reaping(&mut Dice::new(seed ^ 0x7265_6170)).with_restores(&mut Dice::new(seed ^ 0x7265_7374_6f72));
        let drawn = if far::is_far(seed) { usual.with_extremes() } else { usual }.with_past();
        let odd = OddOptions::draw(&drawn);
        Self { odd, ..drawn }
    }

    /// Directories that go back in time, from a stream of its own. That is a disk that loses what came since: W copies bear one of
    /// them. What was reaped since may come back, which is not promised away.
    fn with_restores(mut self, dice: &mut Dice) -> Self {
        let bears_it = self.replication >= 3 && self.quorum.w >= 2 && self.quorum.dw.is_none() && self.faults.rot.is_none();
        let mean = Duration::from_secs(dice.pick(&[2, 5]));
        if bears_it && dice.chance(0.15) {
            (self.faults.restore, self.faults.loss, self.pace.reap) = (Some(mean), None, Duration::ZERO);
        }
        self
    }

    /// Tombstones, what reaps them and what endangers that, from a stream of its own.
    fn with_reaping(mut self, dice: &mut Dice) -> Self {
        let millis = Duration::from_millis;
        self.pace.reap = dice.weighted(&[(1, Duration::ZERO), (3, millis(300)), (3, millis(1_500)), (1, millis(8_000))]);
        self.workload.deletes = dice.pick(&[0.0, 0.1, 0.3]);
        self.network.late = dice.pick(&[0.0, 0.0, 0.0005, 0.003]);
        self.faults.away = dice.chance(0.2).then(|| Duration::from_secs(15));
        self
    }

    /// What came later has a stream of its own, so that a seed without it is the history that it was.
    fn draw_more(&mut self, dice: &mut Dice) {
        let mut every = |often: f64, seconds: u64| dice.chance(often).then(|| Duration::from_secs(seconds));
        let faults = &mut self.faults;
        faults.failed_sync = every(0.25, 8);
        faults.full_disk = every(0.25, 8);
        faults.slow_disks = every(0.25, 6);
        faults.clock_back = every(0.3, 5);
        faults.bad_link = every(0.3, 3);
        faults.restart_all = every(0.2, 12);
        faults.rival = every(0.3, 4);
        faults.adoption = dice.pick(&[0.0, 0.0, 0.1, 0.3]);
        self.network.slow_requests = dice.pick(&[0.0, 0.0, 0.005, 0.02]);
        // What may be lost with one disk are writes that ask for one copy. Without members that answer no ring can change.
        let bears_it = self.replication >= 3 && self.quorum.w >= 2 && self.quorum.dw.is_none();
        if bears_it && dice.chance(0.1) {
            (faults.rot, faults.membership, faults.rival) = (Some(Duration::from_secs(8)), None, None);
            // W copies bear W - 1 lost disks, and rot is one.
            faults.loss = None;
        }
        if dice.chance(0.1) {
            // Room for three or four hints.
            self.pace.hint_bytes = 300;
        }
    }

    /// Batches, and members that are asked for in the middle of a move.
    fn draw_operations(&mut self, dice: &mut Dice) {
        let few = dice.between(3, 8) as usize;
        self.limits = dice.pick(&[Limits::default(), Limits { receive: few, send: few }, Limits { receive: 2 * few, send: few }]);
        let second_thoughts = dice.pick(&[0.0, 0.05, 0.2]);
        // The choices of faults that came before are what they were, but their histories are not: everything waits for a ring.
        if self.faults.rot.is_none() {
            self.faults.second_thoughts = second_thoughts;
        }
    }

    /// The workload of basho/riak_kv#1754, in which writes were lost: ten keys, forty clients with a request each second, and
    /// nodes that join and leave. Nothing else goes wrong.
    pub fn riak_1754(seed: u64) -> Self {
        let mut options = Self::calm(seed, 5);
        options.partition_bits = 6;
        options.network = NetworkOptions::draw(&mut Dice::new(seed));
        options.pace.batch_objects = 2;
        options.workload.clients = 40;
        options.workload.think = Duration::from_secs(1);
        options.workload.hot_keys = 9;
        let every = Duration::from_secs(4);
        let churn = Some((Churn::JoinTwoLeaveTwo, every));
        options.faults = FaultOptions { duration: every * 8, churn, ..FaultOptions::default() };
        options
    }

    /// basho/riak_kv#127: what a node gave away comes back to it while it coordinates, again and again; sometimes it fails.
    pub fn riak_127(seed: u64) -> Self {
        let mut options = Self::riak_1754(seed);
        options.nodes = 3;
        (options.workload.clients, options.workload.think) = (6, Duration::from_millis(50));
        options.faults.churn = Some((Churn::BackAndForth, Duration::from_secs(3)));
        options.faults.kill = Some(Duration::from_secs(6));
        options
    }

    /// A quiet, quick network and no faults: for scenarios that bring their own.
    pub fn calm(seed: u64, nodes: usize) -> Self {
        let millis = Duration::from_millis;
        Self {
            seed,
            nodes,
            zones: 1,
            partition_bits: 4,
            replication: 3,
            quorum: QuorumDefaults::default(),
            network: NetworkOptions {
                delay: millis(1),
                loss: 0.0,
                duplication: 0.0,
                detours: 0.0,
                slow_requests: 0.0,
                late: 0.0,
            },
            buckets: BTreeMap::new(),
            bucket_n: BTreeMap::new(),
            clock_skew_ms_max: 100_000_000,
            limits: Limits::default(),
            disk: DiskOptions { sync: millis(2), stalls: 0.0 },
            pace: Pace {
                batch: Duration::ZERO,
                tick: millis(50),
                dial: millis(200),
                keepalive: millis(3_000),
                writer: millis(500),
                request_timeout: millis(3_000),
                hint_after: millis(300),
                anti_entropy: millis(250),
                movement_interval: millis(500),
                reap: Duration::ZERO,
                batch_objects: 16,
                hint_bytes: 1 << 30,
                get_bytes: 256 << 20,
                put_bytes: 256 << 20,
                requests: 1 << 14,
                ..Pace::usual()
            },
            background: BackgroundOptions {
                p99_max: millis(50),
                bytes_min: 1 << 20,
                bytes_max: 64 << 20,
                checkpoint_interval: millis(60_000),
            },
            workload: WorkloadOptions {
                clients: 0,
                think: millis(100),
                hot_keys: 1,
                cold_keys: 1,
                request_ids: 0.0,
                deletes: 0.0,
                own_timeouts: false,
                reads_first: false,
                blind: 0.0,
                wishes: 0.0,
                value_bytes: 0,
            },
            faults: FaultOptions::default(),
            skew: Duration::from_secs(1),
            weights: vec![1],
            hosts_max: HOSTS_MAX,
            quiet_within: QUIET_WITHIN,
            far: Vec::new(),
            odd: OddOptions::default(),
            past: PastOptions::default(),
        }
    }

    /// The settings of a bucket.
    pub fn bucket(&self, bucket: &Bytes) -> BucketProperties {
        let default = BucketProperties { quorum: self.quorum, reconciliation: Reconciliation::Siblings };
        let settings = self.buckets.get(bucket).copied().unwrap_or(default);
        BucketProperties { quorum: settings.quorum.capped(self.n_of(bucket)), ..settings }
    }

    /// The N of a bucket.
    pub fn n_of(&self, bucket: &Bytes) -> u8 {
        self.bucket_n.get(bucket).copied().unwrap_or(self.replication)
    }

    /// Which buckets the ring gives an N of their own.
    pub fn bucket_replication(&self) -> BucketReplication {
        let entries = self.bucket_n.iter().map(|(bucket, n)| (bucket.clone(), *n));
        BucketReplication::new(entries, self.replication).expect("a bucket's N is drawn within the cluster's")
    }

    /// Whether the last writer wins in a bucket.
    pub fn last_writer_wins(&self, bucket: &Bytes) -> bool {
        self.bucket(bucket).reconciliation == Reconciliation::LastWriterWins
    }

    /// The configuration of every node.
    pub fn config(&self) -> Config {
        Config {
            quorum: self.quorum,
            buckets: self.buckets.clone(),
            clock_skew_ms_max: self.clock_skew_ms_max,
            request_timeout: self.pace.request_timeout,
            hint_after: self.pace.hint_after,
            anti_entropy_interval: self.pace.anti_entropy,
            movement_interval: self.pace.movement_interval,
            reap_interval: self.pace.reap,
            hint_bytes_max: self.pace.hint_bytes,
            requests_max: self.pace.requests,
            get_bytes_max: self.pace.get_bytes,
            version_cache_entries_max: self.pace.version_cache,
            put_bytes_max: self.pace.put_bytes,
            batch_objects_max: self.pace.batch_objects,
            batch_bytes_max: self.pace.batch_bytes,
            transfers_max: self.pace.transfers,
            gossip_interval: self.pace.gossip,
            phi_threshold: self.pace.phi,
            background_p99_max: self.background.p99_max,
            background_bytes_per_second_min: self.background.bytes_min,
            background_bytes_per_second_max: self.background.bytes_max,
            tree_checkpoint_interval: self.background.checkpoint_interval,
        }
    }
}

/// Half of the runs have the one bucket alone. The others have the paper's three patterns (section 6) beside each other.
fn draw_buckets(n: u8, dice: &mut Dice) -> BTreeMap<Bytes, BucketProperties> {
    if dice.chance(0.5) {
        return BTreeMap::new();
    }
    let majority = n / 2 + 1;
    let quorum = |r, w| QuorumDefaults { r, w, dw: None, pr: 0, pw: 0 };
    let logs = dice.pick(&[quorum(n, 1), quorum(majority, majority), QuorumDefaults { dw: Some(1), ..quorum(1, majority) }]);
    let sessions = dice.pick(&[quorum(1, 1), quorum(majority, majority), quorum(majority, majority)]);
    // A high-performance read engine: any home replica's word will do, since each has every write.
    let catalog = QuorumDefaults { pr: 1, pw: n, ..quorum(1, n) };
    let bucket = |name: &'static str, quorum, reconciliation| (name.into(), BucketProperties { quorum, reconciliation });
    [
        bucket("logs", logs, Reconciliation::Siblings),
        bucket("catalog", catalog, Reconciliation::Siblings),
        bucket("sessions", sessions, Reconciliation::LastWriterWins),
    ]
    .into()
}

/// In half of the runs some buckets have an N of their own, from a stream of its own: the others keep their histories.
fn draw_bucket_n(seed: u64, replication: u8, buckets: &BTreeMap<Bytes, BucketProperties>) -> BTreeMap<Bytes, u8> {
    let mut dice = Dice::new(seed ^ 0x6275_636b_5f6e);
    if replication == 1 || dice.chance(0.5) {
        return BTreeMap::new();
    }
    let names: Vec<Bytes> = buckets.keys().cloned().chain([Bytes::from_static(BUCKET.as_bytes())]).collect();
    names.into_iter().map(|bucket| (bucket, dice.between(1, u64::from(replication)) as u8)).collect()
}

/// In half of the runs a node knows a few histories by heart, less than it has objects, and reads the others.
fn draw_version_cache(seed: u64) -> usize {
    Dice::new(seed ^ 0x6361_6368_6521).pick(&[Config::default().version_cache_entries_max, 8])
}

impl NetworkOptions {
    fn draw(dice: &mut Dice) -> Self {
        Self {
            delay: Duration::from_micros(dice.pick(&[200, 1_000, 5_000, 30_000])),
            loss: dice.pick(&[0.0, 0.0, 0.001, 0.02]),
            duplication: dice.pick(&[0.0, 0.01, 0.05]),
            detours: dice.pick(&[0.0, 0.001, 0.01]),
            slow_requests: 0.0,
            late: 0.0,
        }
    }
}

impl DiskOptions {
    fn draw(dice: &mut Dice) -> Self {
        Self { sync: Duration::from_micros(dice.pick(&[100, 2_000, 20_000])), stalls: dice.pick(&[0.0, 0.01, 0.05]) }
    }
}

impl Pace {
    /// What only extremes change; the rest is to be drawn.
    fn usual() -> Self {
        let Config { batch_bytes_max, transfers_max, gossip_interval, phi_threshold, version_cache_entries_max, .. } =
            Config::default();
        Self {
            version_cache: version_cache_entries_max,
            batch_bytes: batch_bytes_max,
            transfers: transfers_max,
            gossip: gossip_interval,
            phi: phi_threshold,
            unseen: 0.1,
            offered: 0.8,
            ..Self::default()
        }
    }

    fn draw(dice: &mut Dice) -> Self {
        let millis = Duration::from_millis;
        Self {
            batch: Duration::from_micros(dice.pick(&[0, 0, 500, 5_000])),
            tick: millis(50),
            dial: millis(dice.pick(&[100, 300, 1_000])),
            keepalive: millis(dice.pick(&[1_000, 3_000, 10_000])),
            writer: millis(dice.pick(&[300, 1_000])),
            request_timeout: millis(dice.pick(&[1_000, 3_000])),
            hint_after: millis(dice.pick(&[100, 300, 500])),
            anti_entropy: millis(dice.pick(&[250, 1_000, 2_000])),
            movement_interval: millis(dice.pick(&[200, 500])),
            reap: Duration::ZERO,
            batch_objects: dice.pick(&[1, 2, 3, 16]),
            hint_bytes: dice.weighted(&[(9, 1 << 30), (1, 2_000)]),
            get_bytes: 256 << 20,
            put_bytes: 256 << 20,
            requests: dice.weighted(&[(9, 1 << 14), (1, 8)]),
            ..Self::usual()
        }
    }
}

impl BackgroundOptions {
    /// A third of the runs has a budget that is felt with the small objects of a run: one comparison of trees costs 2 KiB.
    fn draw(dice: &mut Dice) -> Self {
        let millis = Duration::from_millis;
        let (bytes_min, bytes_max) = dice.weighted(&[(2, (1 << 20, 64 << 20)), (1, (16 << 10, 64 << 10))]);
        Self {
            p99_max: millis(dice.pick(&[1, 50, 50])),
            bytes_min,
            bytes_max,
            checkpoint_interval: millis(dice.pick(&[100, 1_000, 5_000, 60_000])),
        }
    }
}

impl WorkloadOptions {
    fn draw(seed: u64, dice: &mut Dice) -> Self {
        Self {
            // From a stream of its own: the histories of seeds without request ids are what they were before there were any.
            request_ids: Dice::new(seed ^ 0x7265_7175_6573_7473).pick(&[0.0, 0.0, 0.3, 0.6, 1.0]),
            clients: dice.between(2, 8) as usize,
            think: Duration::from_millis(dice.pick(&[20, 60, 200])),
            hot_keys: dice.between(1, 5) as usize,
            cold_keys: dice.between(5, 60) as usize,
            deletes: 0.0,
            own_timeouts: Dice::new(seed ^ 0x0074_696d_656f_7574).chance(0.5),
            reads_first: false,
            blind: 0.0,
            wishes: 0.0,
            value_bytes: 0,
        }
    }
}

impl FaultOptions {
    fn draw(dice: &mut Dice) -> Self {
        let mut every = |often: f64, seconds: u64| dice.chance(often).then(|| Duration::from_secs(seconds));
        Self {
            kill: every(0.6, 6),
            power: every(0.6, 6),
            blackout: every(0.3, 12),
            restart: every(0.4, 8),
            pause: every(0.5, 6),
            split: every(0.6, 6),
            one_way: every(0.4, 6),
            flap: every(0.4, 3),
            slow_disk: every(0.5, 4),
            clock: every(0.3, 5),
            membership: every(0.7, 6),
            away: None,
            duration: Duration::from_secs(dice.between(8, 30)),
            ..Self::default()
        }
    }
}

/// From a stream of its own: seeds without losses keep their histories.
fn draw_loss(seed: u64) -> Option<Duration> {
    let mut dice = Dice::new(seed ^ 0x6c6f_7373);
    let mean = Duration::from_secs(dice.pick(&[2, 5, 10]));
    dice.chance(0.4).then_some(mean)
}

/// From a stream of its own, and not for any seed that was kept before disks became nearly full.
fn draw_nearly_full(seed: u64) -> Option<Duration> {
    let mut dice = Dice::new(seed ^ 0x726f_6f6d_09a9);
    let mean = Duration::from_secs(dice.pick(&[2, 5, 10]));
    dice.chance(0.25).then_some(mean)
}

/// The seeds of `seeds.txt` down to `last`: their histories are to stay what they were.
#[cfg(test)]
fn kept_until(last: u64) -> Vec<u64> {
    let lines = include_str!("../seeds.txt").lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let kept: Vec<u64> = lines.filter_map(|line| line.parse().ok()).collect();
    let end = kept.iter().position(|seed| *seed == last).expect("it was kept");
    kept[..=end].to_vec()
}
