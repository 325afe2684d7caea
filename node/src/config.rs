//! What can be set, from a YAML file, flags and the environment; validated once, into [`ValidConfig`].
//!
//! A flag wins over its environment variable, which wins over the file. Whatever is refused is refused by name, with the fix:
//! an unknown key too, since a setting that is misspelt and ignored is worse than none. Nothing behind [`ValidConfig`] checks
//! again.

mod flags;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use dynamo_core::config::{BUCKET_BYTES_MAX, BucketProperties, Config, QuorumDefaults, Reconciliation};
use dynamo_core::id::ClusterId;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use thiserror::Error;

pub use flags::Flags;

/// The longest that a request may be told to wait.
const REQUEST_TIMEOUT_MS_MAX: u64 = 600_000;
/// Below this, 100 GB would take three weeks to move while clients ask.
const BACKGROUND_BYTES_PER_SECOND_MIN: u64 = 64 << 10;
/// No disk has a pebibyte, and none moves one in a second: above these, sums of them would be too large for their numbers.
const DISK_RESERVE_BYTES_MAX: u64 = 1 << 50;
const BACKGROUND_BYTES_PER_SECOND_MAX: u64 = 1 << 50;
/// Below this, storing trees would cost more than the writes that change them.
const TREE_CHECKPOINT_INTERVAL_MS_MIN: u64 = 1_000;
/// Below this, looking for tombstones would cost more than they do.
const REAP_INTERVAL_MS_MIN: u64 = 1_000;
/// Below this, RocksDB's write buffer makes more work than it saves; above, three of them are more than a machine has memory for.
const WRITE_BUFFER_BYTES: RangeInclusive<usize> = 1 << 20..=4 << 30;
/// Without a cache RocksDB ends the process; above, no machine has the memory.
const BLOCK_CACHE_BYTES: RangeInclusive<usize> = 1 << 20..=1 << 40;
/// Above this, no cluster has so many replicas of anything, and no request could succeed. A ring's N is 3 as a rule, and at most 7 in
/// a cluster that the operator runs.
const QUORUM_MAX: u8 = 32;
/// The longest name of a setting has some less.
const WORD_BYTES_MAX: usize = 32;
/// The longest name that DNS knows.
const HOST_BYTES_MAX: usize = 253;

/// Why the configuration is refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("config: {path}: {error}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("config: {path}: {reason}")]
    Malformed {
        /// The file.
        path: String,
        /// Where and why.
        reason: String,
    },
    /// A value is wrong.
    #[error("{field}: {reason}")]
    Field {
        /// Its path in the file.
        field: String,
        /// What is wrong, and the fix.
        reason: String,
    },
}

fn wrong<T>(field: impl Into<String>, reason: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::Field { field: field.into(), reason: reason.into() })
}

/// What a file says; everything is optional here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "the settings of a node by name")]
struct Settings {
    cluster_id: Option<String>,
    data_dir: Option<PathBuf>,
    disk_reserve_bytes: Option<u64>,
    zone: Option<String>,
    listen: ListenSettings,
    advertise: AdvertiseSettings,
    seeds: Vec<String>,
    quorum: QuorumSettings,
    #[serde(deserialize_with = "distinct")]
    buckets: BTreeMap<String, BucketSettings>,
    request_timeout_ms: Option<u64>,
    hint_after_ms: Option<u64>,
    hint_bytes_max: Option<u64>,
    background: BackgroundSettings,
    tree_checkpoint_interval_ms: Option<u64>,
    reap_interval_ms: Option<u64>,
    clock_skew_ms_max: Option<u64>,
    storage: EngineSettings,
    log: LogSettings,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ListenSettings {
    client: Option<String>,
    peer: Option<String>,
    http: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AdvertiseSettings {
    host: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct QuorumSettings {
    r: Option<u8>,
    w: Option<u8>,
    dw: Option<u8>,
    pr: Option<u8>,
    pw: Option<u8>,
}

/// Hints, transfers and anti-entropy beside the clients.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct BackgroundSettings {
    p99_ms_max: Option<u64>,
    bytes_per_second_min: Option<u64>,
    bytes_per_second_max: Option<u64>,
}

/// What can be set of one bucket; the quorum is spelt out here, since serde refuses no unknown field of a flattened struct.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct BucketSettings {
    r: Option<u8>,
    w: Option<u8>,
    dw: Option<u8>,
    pr: Option<u8>,
    pw: Option<u8>,
    reconciliation: ReconciliationSetting,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ReconciliationSetting {
    #[default]
    Siblings,
    LastWriterWins,
}

/// Buckets, each of which is there once: of two, the first would be lost without a word.
fn distinct<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, BucketSettings>, D::Error> {
    struct Distinct;

    impl<'de> Visitor<'de> for Distinct {
        type Value = BTreeMap<String, BucketSettings>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("buckets by name")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(BTreeMap::new())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            let mut buckets = BTreeMap::new();
            while let Some(bucket) = entries.next_key::<String>()? {
                if buckets.contains_key(&bucket) {
                    return Err(A::Error::custom(format!("{bucket:?} is there twice; name each bucket once")));
                }
                buckets.insert(bucket, entries.next_value()?);
            }
            Ok(buckets)
        }
    }

    from.deserialize_map(Distinct)
}

impl BucketSettings {
    /// What the bucket gets in a cluster with these quorums.
    fn properties(self, field: &str, cluster: QuorumDefaults) -> Result<BucketProperties, ConfigError> {
        let Self { r, w, dw, pr, pw, reconciliation } = self;
        let reconciliation = match reconciliation {
            ReconciliationSetting::Siblings => Reconciliation::Siblings,
            ReconciliationSetting::LastWriterWins => Reconciliation::LastWriterWins,
        };
        Ok(BucketProperties { quorum: quorum(field, QuorumSettings { r, w, dw, pr, pw }, cluster)?, reconciliation })
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct EngineSettings {
    block_cache_bytes: Option<usize>,
    write_buffer_bytes: Option<usize>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LogSettings {
    level: Option<String>,
    format: Option<String>,
}

/// Where the three services listen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listen {
    /// Kv, Admin, health and reflection.
    pub client: SocketAddr,
    /// Peer.
    pub peer: SocketAddr,
    /// Metrics and probes.
    pub http: SocketAddr,
}

/// What can be set about the storage engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StorageSettings {
    /// Cache of uncompressed blocks.
    pub block_cache_bytes: usize,
    /// What is written out as one file of objects: four memtables. Up to three times as much is in memory.
    pub write_buffer_bytes: usize,
}

impl Default for StorageSettings {
    fn default() -> Self {
        Self { block_cache_bytes: 64 << 20, write_buffer_bytes: 64 << 20 }
    }
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// A configuration that a node can run with.
#[derive(Clone, Debug)]
pub struct ValidConfig {
    /// The cluster that the node belongs to.
    pub cluster: ClusterId,
    /// Where its identity and its data lie.
    pub data_dir: PathBuf,
    /// Below this much free space in `data_dir` the node takes no writes. If absent, 256 MiB or four write buffers, whichever is more,
    /// and at most a quarter of the disk.
    pub disk_reserve_bytes: Option<u64>,
    /// Its failure domain.
    pub zone: String,
    /// Where it listens.
    pub listen: Listen,
    /// The host that peers and clients dial; the ports are those it listens on.
    pub advertise_host: String,
    /// host:port of peers to begin with.
    pub seeds: Vec<String>,
    /// The protocol's settings.
    pub protocol: Config,
    /// The engine's settings.
    pub storage: StorageSettings,
    /// The least severe lines that are logged.
    pub log_level: tracing::Level,
    /// How they look.
    pub log_format: LogFormat,
}

impl ValidConfig {
    /// The configuration that these flags, with their environment and their file, ask for.
    pub fn load(flags: Flags) -> Result<Self, ConfigError> {
        let mut settings = match &flags.config {
            Some(path) => read(path)?,
            None => Settings::default(),
        };
        flags.apply(&mut settings);
        validate(&settings)
    }
}

fn read(path: &Path) -> Result<Settings, ConfigError> {
    let shown = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text, &shown),
        Err(error) => Err(ConfigError::Unreadable { path: shown, error }),
    }
}

fn parse(text: &str, path: &str) -> Result<Settings, ConfigError> {
    if text.trim().is_empty() {
        return Ok(Settings::default());
    }
    serde_yaml::from_str(text).map_err(|error| ConfigError::Malformed { path: path.into(), reason: without_contents(&error) })
}

/// What is wrong with a file and where, without what the file says: it may be another one, and secret. A word is told in the place of a key,
/// or of a setting, which may be misspelt.
fn without_contents(error: &serde_yaml::Error) -> String {
    let said = error.to_string();
    let Some((found, expected)) = said.rsplit_once(", expected ") else { return said };
    let is_quote = |letter| letter == '"' || letter == '`';
    let found = match found.find(is_quote).zip(found.rfind(is_quote)) {
        Some((from, until)) if from < until => {
            // In the place of a setting, its path comes first.
            let is_all_of_it = found.starts_with("invalid ");
            if is_word(&found[from + 1..until]) && !is_all_of_it { found } else { found[..from].trim_end() }
        }
        _ => found,
    };
    // The parser does not say so of the beginning.
    let place = error.location().filter(|_| !expected.contains(" at line "));
    let place = place.map(|place| format!(" at line {} column {}", place.line(), place.column()));
    format!("{found}, expected {expected}{}", place.unwrap_or_default())
}

/// Whether this may be the name of a setting, or a short value of one.
fn is_word(text: &str) -> bool {
    let letters = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.');
    text.len() <= WORD_BYTES_MAX && text.chars().all(letters)
}

fn validate(settings: &Settings) -> Result<ValidConfig, ConfigError> {
    let listen = Listen {
        client: address("listen.client", settings.listen.client.as_deref().unwrap_or("0.0.0.0:7400"))?,
        peer: address("listen.peer", settings.listen.peer.as_deref().unwrap_or("0.0.0.0:7401"))?,
        http: address("listen.http", settings.listen.http.as_deref().unwrap_or("0.0.0.0:7402"))?,
    };
    let config = ValidConfig {
        cluster: cluster(settings.cluster_id.as_deref())?,
        data_dir: data_dir(settings.data_dir.clone())?,
        disk_reserve_bytes: disk_reserve_bytes(settings.disk_reserve_bytes)?,
        zone: zone(settings.zone.clone())?,
        advertise_host: advertise_host(settings.advertise.host.clone(), &listen)?,
        seeds: seeds(settings.seeds.clone())?,
        protocol: protocol(settings)?,
        storage: engine(&settings.storage)?,
        log_level: log_level(settings.log.level.as_deref())?,
        log_format: log_format(settings.log.format.as_deref())?,
        listen,
    };
    Ok(ValidConfig { listen: dialled_at(&config.advertise_host, listen), ..config })
}

/// Where a node of that host listens. One that is dialled by IPv6 has perhaps no IPv4 at all, so 0.0.0.0, every address, is [::] there,
/// which takes IPv4 too where there is any.
fn dialled_at(advertise_host: &str, listen: Listen) -> Listen {
    let is_ipv6 = advertise_host.trim_matches(['[', ']']).parse::<Ipv6Addr>().is_ok();
    let widened = |address: SocketAddr| match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) if is_ipv6 => SocketAddr::from((Ipv6Addr::UNSPECIFIED, address.port())),
        _ => address,
    };
    Listen { client: widened(listen.client), peer: widened(listen.peer), http: widened(listen.http) }
}

fn cluster(text: Option<&str>) -> Result<ClusterId, ConfigError> {
    let Some(text) = text else {
        return wrong("cluster_id", "absent; set the UUID that all nodes of this cluster share");
    };
    match ClusterId::parse(text) {
        Some(cluster) => Ok(cluster),
        None => wrong("cluster_id", format!("{text:?} is not a UUID; write it like 6f9619ff-8b86-d011-b42d-00c04fc964ff")),
    }
}

fn data_dir(path: Option<PathBuf>) -> Result<PathBuf, ConfigError> {
    match path {
        Some(path) if !path.as_os_str().is_empty() => Ok(path),
        _ => wrong("data_dir", "absent; set the directory in which this node, and no other, keeps its data"),
    }
}

fn disk_reserve_bytes(bytes: Option<u64>) -> Result<Option<u64>, ConfigError> {
    match bytes {
        Some(bytes) if bytes > DISK_RESERVE_BYTES_MAX => {
            wrong("disk_reserve_bytes", format!("{bytes}; give at most {DISK_RESERVE_BYTES_MAX}, and less than the disk has"))
        }
        bytes => Ok(bytes),
    }
}

fn zone(zone: Option<String>) -> Result<String, ConfigError> {
    match zone {
        None => Ok("default".into()),
        Some(zone) if zone.is_empty() || zone.len() > 63 => {
            wrong("zone", format!("{} bytes; give 1 to 63, or leave it out for \"default\"", zone.len()))
        }
        Some(zone) => Ok(zone),
    }
}

fn address(field: &str, text: &str) -> Result<SocketAddr, ConfigError> {
    match text.parse() {
        Ok(address) => Ok(address),
        Err(_) => wrong(field, format!("{text:?} is not IP:PORT; write it like 0.0.0.0:7400 or [::]:7400")),
    }
}

fn advertise_host(host: Option<String>, listen: &Listen) -> Result<String, ConfigError> {
    match host {
        Some(host) if is_every_address(&host) => {
            let reason = format!(
                "{host} stands for every address where one listens, and whoever dials it reaches itself; set this node's host name or IP address"
            );
            wrong("advertise.host", reason)
        }
        Some(host) if is_host(&host) => Ok(host),
        Some(host) => {
            let reason =
                format!("{host:?} is not a host name or an IP address; leave out schemes and ports, which are those of listen");
            wrong("advertise.host", reason)
        }
        None if listen.peer.ip().is_loopback() && listen.client.ip() == listen.peer.ip() => Ok(listen.peer.ip().to_string()),
        None => {
            let reason = format!(
                "absent, and others cannot dial one host at {} and {}; set this node's host name or IP address (or DYNAMO_ADVERTISE_HOST)",
                listen.peer, listen.client
            );
            wrong("advertise.host", reason)
        }
    }
}

fn is_every_address(host: &str) -> bool {
    host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_unspecified())
}

/// A name of DNS, or an IP address; one of version 6 may be in brackets.
fn is_host(host: &str) -> bool {
    let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_name = |host: &str| {
        let is_label = |label: &str| {
            let inner = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
            !label.is_empty() && label.chars().all(inner)
        };
        host.len() <= HOST_BYTES_MAX && host.strip_suffix('.').unwrap_or(host).split('.').all(is_label)
    };
    match in_brackets {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => host.parse::<IpAddr>().is_ok() || is_name(host),
    }
}

fn seeds(seeds: Vec<String>) -> Result<Vec<String>, ConfigError> {
    for seed in &seeds {
        // Without brackets nobody can tell where an address of version 6 ends.
        let host_and_port =
            seed.rsplit_once(':').filter(|(host, _)| is_host(host) && (host.starts_with('[') || !host.contains(':')));
        if !host_and_port.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0)) {
            return wrong("seeds", format!("{seed:?} is not HOST:PORT; write it like 10.0.0.1:7401"));
        }
    }
    Ok(seeds)
}

fn protocol(settings: &Settings) -> Result<Config, ConfigError> {
    let mut config = Config::default();
    config.quorum = quorum("quorum", settings.quorum, config.quorum)?;
    config.buckets = buckets(&settings.buckets, config.quorum)?;
    timeouts(settings, &mut config)?;
    config.hint_bytes_max = settings.hint_bytes_max.unwrap_or(config.hint_bytes_max);
    background(settings.background, &mut config)?;
    intervals(settings, &mut config)?;
    Ok(config)
}

fn buckets(
    buckets: &BTreeMap<String, BucketSettings>,
    cluster: QuorumDefaults,
) -> Result<BTreeMap<Bytes, BucketProperties>, ConfigError> {
    let mut found = BTreeMap::new();
    for (bucket, settings) in buckets {
        let field = format!("buckets.{bucket}");
        if bucket.len() > BUCKET_BYTES_MAX {
            return wrong(field, format!("{} bytes, a bucket's name has at most {BUCKET_BYTES_MAX}", bucket.len()));
        }
        found.insert(Bytes::from(bucket.clone()), settings.properties(&field, cluster)?);
    }
    Ok(found)
}

/// How long a request, a replica and a wrong clock are borne with.
fn timeouts(settings: &Settings, config: &mut Config) -> Result<(), ConfigError> {
    if let Some(timeout) = settings.request_timeout_ms {
        if !(1..=REQUEST_TIMEOUT_MS_MAX).contains(&timeout) {
            return wrong("request_timeout_ms", format!("{timeout}; give 1 to {REQUEST_TIMEOUT_MS_MAX}"));
        }
        config.request_timeout = Duration::from_millis(timeout);
    }
    if let Some(after) = settings.hint_after_ms {
        config.hint_after = Duration::from_millis(after);
    }
    if config.hint_after.is_zero() || config.hint_after >= config.request_timeout {
        let (after, timeout) = (config.hint_after.as_millis(), config.request_timeout.as_millis());
        return wrong("hint_after_ms", format!("{after}; give at least 1 and less than request_timeout_ms, which is {timeout}"));
    }
    if let Some(skew) = settings.clock_skew_ms_max {
        if skew == 0 {
            return wrong("clock_skew_ms_max", "0; no two clocks agree to the millisecond, give at least 1 (the default is 500)");
        }
        config.clock_skew_ms_max = skew;
    }
    Ok(())
}

/// How much hints, transfers and anti-entropy may take.
fn background(settings: BackgroundSettings, config: &mut Config) -> Result<(), ConfigError> {
    if let Some(p99) = settings.p99_ms_max {
        if p99 == 0 {
            return wrong(
                "background.p99_ms_max",
                "0; give at least 1, the milliseconds that one request in a hundred may exceed",
            );
        }
        config.background_p99_max = Duration::from_millis(p99);
    }
    let least = settings.bytes_per_second_min.unwrap_or(config.background_bytes_per_second_min);
    let most = settings.bytes_per_second_max.unwrap_or(config.background_bytes_per_second_max);
    if least < BACKGROUND_BYTES_PER_SECOND_MIN {
        let reason = format!("{least}; give at least {BACKGROUND_BYTES_PER_SECOND_MIN}, or a node may never be replaced");
        return wrong("background.bytes_per_second_min", reason);
    }
    if most < least {
        let reason = format!("{most} is below background.bytes_per_second_min, which is {least}; raise this or lower that");
        return wrong("background.bytes_per_second_max", reason);
    }
    if most > BACKGROUND_BYTES_PER_SECOND_MAX {
        let reason = format!("{most}; give at most {BACKGROUND_BYTES_PER_SECOND_MAX}");
        return wrong("background.bytes_per_second_max", reason);
    }
    (config.background_bytes_per_second_min, config.background_bytes_per_second_max) = (least, most);
    Ok(())
}

/// How often trees are stored, and tombstones looked for.
fn intervals(settings: &Settings, config: &mut Config) -> Result<(), ConfigError> {
    if let Some(interval) = settings.tree_checkpoint_interval_ms {
        if interval < TREE_CHECKPOINT_INTERVAL_MS_MIN {
            let reason = format!("{interval}; give at least {TREE_CHECKPOINT_INTERVAL_MS_MIN}");
            return wrong("tree_checkpoint_interval_ms", reason);
        }
        config.tree_checkpoint_interval = Duration::from_millis(interval);
    }
    if let Some(interval) = settings.reap_interval_ms {
        if interval != 0 && interval < REAP_INTERVAL_MS_MIN {
            let reason = format!("{interval}; give at least {REAP_INTERVAL_MS_MIN}, or 0 to keep all tombstones");
            return wrong("reap_interval_ms", reason);
        }
        config.reap_interval = Duration::from_millis(interval);
    }
    Ok(())
}

/// `settings` over `default`, with what the default leaves open filled to fit. N belongs to the ring and is checked there.
fn quorum(field: &str, settings: QuorumSettings, default: QuorumDefaults) -> Result<QuorumDefaults, ConfigError> {
    let (r, w) = (settings.r.unwrap_or(default.r), settings.w.unwrap_or(default.w));
    for (name, count) in [("r", r), ("w", w)] {
        if count == 0 {
            return wrong(format!("{field}.{name}"), "0; at least one replica has to answer");
        }
        if count > QUORUM_MAX {
            let reason = format!("{count}; no ring has so many replicas, give at most its N (and {QUORUM_MAX} at the very most)");
            return wrong(format!("{field}.{name}"), reason);
        }
    }
    // What is inherited gives way to a smaller R or W; what is written must fit.
    let within = |name: &str, given: Option<u8>, inherited: u8, of: &str, most: u8| match given {
        Some(count) if count > most => wrong(format!("{field}.{name}"), format!("{count} is above {of}, which is {most}")),
        Some(count) => Ok(count),
        None => Ok(inherited.min(most)),
    };
    let dw = match (settings.dw, default.dw) {
        (None, None) => None,
        (given, inherited) => Some(within("dw", given, inherited.unwrap_or(w), "w", w)?),
    };
    let pr = within("pr", settings.pr, default.pr, "r", r)?;
    let pw = within("pw", settings.pw, default.pw, "w", w)?;
    Ok(QuorumDefaults { r, w, dw, pr, pw })
}

fn engine(settings: &EngineSettings) -> Result<StorageSettings, ConfigError> {
    let default = StorageSettings::default();
    let within = |name: &str, given: Option<usize>, default: usize, bounds: RangeInclusive<usize>| match given {
        Some(bytes) if !bounds.contains(&bytes) => {
            wrong(format!("storage.{name}"), format!("{bytes}; give {} to {}", bounds.start(), bounds.end()))
        }
        given => Ok(given.unwrap_or(default)),
    };
    let EngineSettings { block_cache_bytes, write_buffer_bytes } = *settings;
    Ok(StorageSettings {
        block_cache_bytes: within("block_cache_bytes", block_cache_bytes, default.block_cache_bytes, BLOCK_CACHE_BYTES)?,
        write_buffer_bytes: within("write_buffer_bytes", write_buffer_bytes, default.write_buffer_bytes, WRITE_BUFFER_BYTES)?,
    })
}

fn log_level(level: Option<&str>) -> Result<tracing::Level, ConfigError> {
    let level = level.unwrap_or("info");
    match level.parse() {
        Ok(level) => Ok(level),
        Err(_) => wrong("log.level", format!("{level:?}; give one of error, warn, info, debug, trace")),
    }
}

fn log_format(format: Option<&str>) -> Result<LogFormat, ConfigError> {
    match format.unwrap_or("text") {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        other => wrong("log.format", format!("{other:?}; give text or json")),
    }
}
