//! What a run is like: drawn from its seed, printed with it.

use std::time::Duration;

use dynamo_core::config::{Config, QuorumDefaults};

use crate::dice::Dice;

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
    /// The network.
    pub network: NetworkOptions,
    /// The disks.
    pub disk: DiskOptions,
    /// The driver and the protocol's pace.
    pub pace: Pace,
    /// Who asks for what.
    pub workload: WorkloadOptions,
    /// What goes wrong, and how often.
    pub faults: FaultOptions,
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
#[derive(Clone, Debug)]
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
    /// Between two looks at hints and transfers.
    pub hint_interval: Duration,
    /// Objects in a pushed batch.
    pub batch_objects: usize,
    /// Bytes of hints for one target.
    pub hint_bytes: u64,
    /// Requests in flight at one node.
    pub requests: usize,
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
    /// A disk is destroyed, or taken for destroyed.
    pub loss: Option<Duration>,
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
        Self {
            seed,
            nodes,
            zones: dice.between(1, 3) as usize,
            partition_bits: dice.between(3, 6) as u8,
            replication,
            quorum: QuorumDefaults { r, w, dw, pr: 0, pw: 0 },
            network: NetworkOptions::draw(&mut dice.fork()),
            disk: DiskOptions::draw(&mut dice.fork()),
            pace: Pace::draw(&mut dice.fork()),
            workload: WorkloadOptions::draw(&mut dice.fork()),
            faults: FaultOptions { loss: draw_loss(seed), ..FaultOptions::draw(&mut dice.fork()) },
        }
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
            network: NetworkOptions { delay: millis(1), loss: 0.0, duplication: 0.0, detours: 0.0 },
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
                hint_interval: millis(500),
                batch_objects: 16,
                hint_bytes: 1 << 30,
                requests: 1 << 14,
            },
            workload: WorkloadOptions { clients: 0, think: millis(100), hot_keys: 1, cold_keys: 1 },
            faults: FaultOptions::default(),
        }
    }

    /// The configuration of every node.
    pub fn config(&self) -> Config {
        Config {
            quorum: self.quorum,
            request_timeout: self.pace.request_timeout,
            hint_after: self.pace.hint_after,
            anti_entropy_interval: self.pace.anti_entropy,
            hint_interval: self.pace.hint_interval,
            hint_bytes_max: self.pace.hint_bytes,
            requests_max: self.pace.requests,
            batch_objects_max: self.pace.batch_objects,
            ..Config::default()
        }
    }
}

impl NetworkOptions {
    fn draw(dice: &mut Dice) -> Self {
        Self {
            delay: Duration::from_micros(dice.pick(&[200, 1_000, 5_000, 30_000])),
            loss: dice.pick(&[0.0, 0.0, 0.001, 0.02]),
            duplication: dice.pick(&[0.0, 0.01, 0.05]),
            detours: dice.pick(&[0.0, 0.001, 0.01]),
        }
    }
}

impl DiskOptions {
    fn draw(dice: &mut Dice) -> Self {
        Self { sync: Duration::from_micros(dice.pick(&[100, 2_000, 20_000])), stalls: dice.pick(&[0.0, 0.01, 0.05]) }
    }
}

impl Pace {
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
            hint_interval: millis(dice.pick(&[200, 500])),
            batch_objects: dice.pick(&[1, 2, 3, 16]),
            hint_bytes: dice.weighted(&[(9, 1 << 30), (1, 2_000)]),
            requests: dice.weighted(&[(9, 1 << 14), (1, 8)]),
        }
    }
}

impl WorkloadOptions {
    fn draw(dice: &mut Dice) -> Self {
        Self {
            clients: dice.between(2, 8) as usize,
            think: Duration::from_millis(dice.pick(&[20, 60, 200])),
            hot_keys: dice.between(1, 5) as usize,
            cold_keys: dice.between(5, 60) as usize,
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
            loss: None,
            duration: Duration::from_secs(dice.between(8, 30)),
        }
    }
}

/// From a stream of its own: seeds without losses keep their histories.
fn draw_loss(seed: u64) -> Option<Duration> {
    let mut dice = Dice::new(seed ^ 0x6c6f_7373);
    let mean = Duration::from_secs(dice.pick(&[2, 5, 10]));
    dice.chance(0.4).then_some(mean)
}
