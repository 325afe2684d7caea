//! The command line and the environment: one flag and one variable for each key of the file but `buckets`, which is a table.

use std::path::PathBuf;

use clap::Parser;

use super::Settings;

/// What a first file may look like, and what programs learn from the exit code ([`crate::NodeError::exit_code`]).
const AFTER_HELP: &str = "\
Required are --cluster-id and --data-dir, and --advertise-host unless the node listens on one loopback address: as flags, as variables or in
the file. A file, for three nodes:
  cluster_id: 6f9619ff-8b86-d011-b42d-00c04fc964ff  # a UUID of your own, the same for all nodes
  data_dir: /var/lib/dynamokv                       # for this node and no other
  zone: rack-1
  advertise: {host: 10.0.0.1}                       # this node's host name or IP address
  seeds: ['10.0.0.1:7401', '10.0.0.2:7401', '10.0.0.3:7401']

Exit codes:
  0  ended by SIGTERM or SIGINT
  1  any other failure
  2  the configuration is wrong, a port cannot be had, or too few files may be open
  3  the data directory cannot be used
  4  the storage failed";

/// The storage node of DynamoKV.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "dynamo-node", version, about = "The storage node of DynamoKV: every flag overrides its key in the file.")]
#[command(after_help = AFTER_HELP)]
pub struct Flags {
    /// The configuration file (YAML).
    #[arg(long, env = "DYNAMO_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// UUID that all nodes of the cluster share. Required.
    #[arg(long, env = "DYNAMO_CLUSTER_ID", value_name = "UUID")]
    pub cluster_id: Option<String>,
    /// Directory of this node's identity and data. Required.
    #[arg(long, env = "DYNAMO_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Free space in the data directory below which the node takes no writes (default 268435456, more with large write buffers, less on a
    /// small disk).
    #[arg(long, env = "DYNAMO_DISK_RESERVE_BYTES", value_name = "BYTES")]
    pub disk_reserve_bytes: Option<u64>,
    /// Failure domain of this node (default "default").
    #[arg(long, env = "DYNAMO_ZONE")]
    pub zone: Option<String>,
    /// Where clients connect (default 0.0.0.0:7400).
    #[arg(long, env = "DYNAMO_LISTEN_CLIENT", value_name = "IP:PORT")]
    pub listen_client: Option<String>,
    /// Where peers connect (default 0.0.0.0:7401).
    #[arg(long, env = "DYNAMO_LISTEN_PEER", value_name = "IP:PORT")]
    pub listen_peer: Option<String>,
    /// Where metrics and probes are (default 0.0.0.0:7402).
    #[arg(long, env = "DYNAMO_LISTEN_HTTP", value_name = "IP:PORT")]
    pub listen_http: Option<String>,
    /// Host that peers and clients dial to reach this node. Required unless it listens on one loopback address.
    #[arg(long, env = "DYNAMO_ADVERTISE_HOST", value_name = "HOST")]
    pub advertise_host: Option<String>,
    /// Peers to begin with, separated by commas.
    #[arg(long, env = "DYNAMO_SEEDS", value_name = "HOST:PORT", value_delimiter = ',')]
    pub seeds: Option<Vec<String>>,
    /// Replicas that must answer a get (default 2).
    #[arg(long, env = "DYNAMO_QUORUM_R", value_name = "NUMBER")]
    pub quorum_r: Option<u8>,
    /// Replicas that must acknowledge a put (default 2).
    #[arg(long, env = "DYNAMO_QUORUM_W", value_name = "NUMBER")]
    pub quorum_w: Option<u8>,
    /// Acknowledgements of a put that must be on stable storage, whoever gives them (default: W of them).
    #[arg(long, env = "DYNAMO_QUORUM_DW", value_name = "NUMBER")]
    pub quorum_dw: Option<u8>,
    /// Home replicas that must answer a get (default 0).
    #[arg(long, env = "DYNAMO_QUORUM_PR", value_name = "NUMBER")]
    pub quorum_pr: Option<u8>,
    /// Home replicas that must acknowledge a put (default 0).
    #[arg(long, env = "DYNAMO_QUORUM_PW", value_name = "NUMBER")]
    pub quorum_pw: Option<u8>,
    /// Milliseconds until a request that names no time-out is answered (default 5000).
    #[arg(long, env = "DYNAMO_REQUEST_TIMEOUT_MS", value_name = "MS")]
    pub request_timeout_ms: Option<u64>,
    /// Milliseconds that a replica may be silent before a fallback takes its write (default 500).
    #[arg(long, env = "DYNAMO_HINT_AFTER_MS", value_name = "MS")]
    pub hint_after_ms: Option<u64>,
    /// Bytes of hints kept for one node that no quorum needs; those that one needs are bounded by the disk's reserve (default 1073741824).
    #[arg(long, env = "DYNAMO_HINT_BYTES_MAX", value_name = "BYTES")]
    pub hint_bytes_max: Option<u64>,
    /// Milliseconds that one request in a hundred may take before background work gives way (default 50).
    #[arg(long, env = "DYNAMO_BACKGROUND_P99_MS_MAX", value_name = "MS")]
    pub background_p99_ms_max: Option<u64>,
    /// Bytes per second that background work may always move (default 1048576).
    #[arg(long, env = "DYNAMO_BACKGROUND_BYTES_PER_SECOND_MIN", value_name = "BYTES")]
    pub background_bytes_per_second_min: Option<u64>,
    /// Bytes per second that background work may move at most (default 67108864).
    #[arg(long, env = "DYNAMO_BACKGROUND_BYTES_PER_SECOND_MAX", value_name = "BYTES")]
    pub background_bytes_per_second_max: Option<u64>,
    /// Milliseconds between two times that hash trees are stored (default 60000).
    #[arg(long, env = "DYNAMO_TREE_CHECKPOINT_INTERVAL_MS", value_name = "MS")]
    pub tree_checkpoint_interval_ms: Option<u64>,
    /// Milliseconds between two looks for tombstones that can go; 0 keeps them all (default 60000).
    #[arg(long, env = "DYNAMO_REAP_INTERVAL_MS", value_name = "MS")]
    pub reap_interval_ms: Option<u64>,
    /// Milliseconds that clocks may differ before last-writer-wins buckets refuse puts (default 500).
    #[arg(long, env = "DYNAMO_CLOCK_SKEW_MS_MAX", value_name = "MS")]
    pub clock_skew_ms_max: Option<u64>,
    /// Bytes of the cache of uncompressed blocks (default 67108864).
    #[arg(long, env = "DYNAMO_STORAGE_BLOCK_CACHE_BYTES", value_name = "BYTES")]
    pub storage_block_cache_bytes: Option<usize>,
    /// Bytes of one write buffer of the storage engine; up to three are in memory (default 67108864).
    #[arg(long, env = "DYNAMO_STORAGE_WRITE_BUFFER_BYTES", value_name = "BYTES")]
    pub storage_write_buffer_bytes: Option<usize>,
    /// error, warn, info, debug or trace (default info).
    #[arg(long, env = "DYNAMO_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// text or json (default text).
    #[arg(long, env = "DYNAMO_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<String>,
}

impl Flags {
    /// Puts what is given over what the file says.
    pub(super) fn apply(self, settings: &mut Settings) {
        over(&mut settings.cluster_id, self.cluster_id);
        over(&mut settings.data_dir, self.data_dir);
        over(&mut settings.disk_reserve_bytes, self.disk_reserve_bytes);
        over(&mut settings.zone, self.zone);
        over(&mut settings.listen.client, self.listen_client);
        over(&mut settings.listen.peer, self.listen_peer);
        over(&mut settings.listen.http, self.listen_http);
        over(&mut settings.advertise.host, self.advertise_host);
        over(&mut settings.quorum.r, self.quorum_r);
        over(&mut settings.quorum.w, self.quorum_w);
        over(&mut settings.quorum.dw, self.quorum_dw);
        over(&mut settings.quorum.pr, self.quorum_pr);
        over(&mut settings.quorum.pw, self.quorum_pw);
        over(&mut settings.request_timeout_ms, self.request_timeout_ms);
        over(&mut settings.hint_after_ms, self.hint_after_ms);
        over(&mut settings.hint_bytes_max, self.hint_bytes_max);
        over(&mut settings.background.p99_ms_max, self.background_p99_ms_max);
        over(&mut settings.background.bytes_per_second_min, self.background_bytes_per_second_min);
        over(&mut settings.background.bytes_per_second_max, self.background_bytes_per_second_max);
        over(&mut settings.tree_checkpoint_interval_ms, self.tree_checkpoint_interval_ms);
        over(&mut settings.reap_interval_ms, self.reap_interval_ms);
        over(&mut settings.clock_skew_ms_max, self.clock_skew_ms_max);
        over(&mut settings.storage.block_cache_bytes, self.storage_block_cache_bytes);
        over(&mut settings.storage.write_buffer_bytes, self.storage_write_buffer_bytes);
        over(&mut settings.log.level, self.log_level);
        over(&mut settings.log.format, self.log_format);
        if let Some(seeds) = self.seeds {
            // An empty variable is no seed, and not one empty seed.
            settings.seeds = seeds.into_iter().filter(|seed| !seed.is_empty()).collect();
        }
    }
}

fn over<T>(setting: &mut Option<T>, flag: Option<T>) {
    if flag.is_some() {
        *setting = flag;
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::{parse, validate};
    use super::*;

    #[test]
    fn the_help_marks_what_is_required_and_its_file_lets_a_node_start() {
        let command = Flags::command();
        let is_required = |flag: &str| {
            let found = command.get_arguments().find(|argument| argument.get_long() == Some(flag));
            found.and_then(|argument| argument.get_help()).is_some_and(|help| help.to_string().contains("Required"))
        };
        for flag in ["cluster-id", "data-dir", "advertise-host"] {
            assert!(is_required(flag), "{flag}");
        }
        assert!(!is_required("zone") && !is_required("seeds"), "these have defaults");
        let file: String = AFTER_HELP
            .lines()
            .skip_while(|line| !line.starts_with("  cluster_id"))
            .map_while(|line| Some(format!("{}\n", line.strip_prefix("  ")?)))
            .collect();
        let config = validate(&parse(&file, "node.yaml").unwrap()).unwrap();
        assert_eq!((config.zone.as_str(), config.advertise_host.as_str(), config.seeds.len()), ("rack-1", "10.0.0.1", 3));
    }
}
