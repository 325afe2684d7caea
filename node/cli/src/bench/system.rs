//! The systems that can be measured: how each is reached, which processes serve it, what an acknowledgement of it is worth.

use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use dynamo_client::Mode;
use dynamo_core::id::ClusterId;
use dynamo_core::request::QuorumWish;

use super::accounting::{command_line, listening_at};
use super::driver::dynamo::Dynamo;
use super::driver::etcd::{self, Etcd, Reads};
use super::driver::garage::{self, Access, Garage};
use super::driver::redis::Redis;
use super::driver::{Driver, Durability};
use crate::arguments::{Connection, ReadQuorum, WriteQuorum};
use crate::stop::Stop;
use crate::{connection, local};

/// A key that no run writes: asked for once, to see whether a system answers.
const PROBE: &str = "bench-probe";
/// Where records are unless somebody says otherwise.
pub const BUCKET: &str = "bench";

/// A system, in one way of using it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub enum System {
    /// DynamoKV, on one pipelined stream a node.
    Dynamokv,
    /// DynamoKV, with one gRPC call a request.
    DynamokvUnary,
    /// DynamoKV with dw=0, the paper's write buffer: a put is answered before it is on stable storage.
    DynamokvBuffered,
    /// etcd, with linearizable gets.
    Etcd,
    /// etcd, with gets that may be behind.
    EtcdSerializable,
    /// Garage's K2V, in which an update is a get and a put.
    GarageK2v,
    /// Redis: one node, no replica.
    Redis,
}

impl System {
    /// As it is given on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// One of DynamoKV's.
    pub fn is_ours(self) -> bool {
        matches!(self, Self::Dynamokv | Self::DynamokvUnary | Self::DynamokvBuffered)
    }
}

/// Where the systems are, and how many replicas must answer in ours.
#[derive(Args, Debug, Clone)]
pub struct Options {
    #[command(flatten)]
    pub quorums: Quorums,
    #[command(flatten)]
    pub peers: PeerAddresses,
}

/// Where the records are, and how many replicas must answer in DynamoKV.
#[derive(Args, Debug, Clone)]
pub struct Quorums {
    /// The bucket that the records are in.
    #[arg(short, long, default_value = BUCKET)]
    pub bucket: String,
    #[command(flatten)]
    pub read: ReadQuorum,
    #[command(flatten)]
    pub write: WriteQuorum,
}

/// Where the others are.
#[derive(Args, Debug, Clone)]
pub struct PeerAddresses {
    /// Members of an etcd.
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:2379", value_name = "HOST:PORT,...", help_heading = "Peers")]
    pub etcd: Vec<String>,
    /// The K2V API of a Garage's nodes.
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:3904", value_name = "HOST:PORT,...", help_heading = "Peers")]
    pub garage: Vec<String>,
    /// What a Garage is configured with as `s3_region`.
    #[arg(long, default_value = "garage", value_name = "NAME", help_heading = "Peers")]
    pub garage_region: String,
    /// A key of a Garage that may read and write the bucket.
    #[arg(long, env = "AWS_ACCESS_KEY_ID", value_name = "KEY", help_heading = "Peers")]
    pub garage_access_key: Option<String>,
    /// Its secret.
    #[arg(long, env = "AWS_SECRET_ACCESS_KEY", hide_env_values = true, value_name = "SECRET", help_heading = "Peers")]
    pub garage_secret_key: Option<String>,
    /// A Redis.
    #[arg(long, default_value = "127.0.0.1:6379", value_name = "HOST:PORT", help_heading = "Peers")]
    pub redis: String,
}

/// A system that answers.
#[derive(Clone)]
pub struct Target {
    /// Which.
    pub system: System,
    /// How to use it.
    pub driver: Arc<dyn Driver>,
    /// The processes that serve it, as far as they could be found.
    pub servers: Vec<u32>,
    /// The cluster that it is, of ours, if it has a ring.
    pub cluster: Option<ClusterId>,
}

impl Target {
    /// `option` is about the nodes of `local up`, so the requests have to go to them, whatever endpoints were given.
    pub fn check_is_local(&self, option: &str) -> Result<(), Stop> {
        if self.cluster.and_then(local::record_of).is_some() {
            return Ok(());
        }
        let theirs = self.cluster.map_or_else(|| "have no ring".to_owned(), |cluster| format!("are of cluster {cluster}"));
        Err(Stop::Usage(format!(
            "{option}: is about the cluster of `local up`, and the nodes at the endpoints {theirs}; leave out --endpoint (and \
             DYNAMO_ENDPOINT), or name the folder of their cluster in DYNAMO_LOCAL_DIR"
        )))
    }
}

impl System {
    /// Reaches the system; an error says what to do about it.
    pub async fn connect(self, connection: &Connection, options: &Options) -> Result<Target, Stop> {
        let timeout = connection.timeout();
        let (driver, servers): (Arc<dyn Driver>, _) = match self {
            Self::Dynamokv | Self::DynamokvUnary | Self::DynamokvBuffered => {
                return self.connect_ours(connection, &options.quorums, false).await;
            }
            Self::Etcd | Self::EtcdSerializable => {
                let reads = if self == Self::Etcd { Reads::Linearizable } else { Reads::Serializable };
                let mut etcd =
                    Etcd::new(&options.peers.etcd, timeout, reads).map_err(|text| Stop::Usage(format!("--etcd: {text}")))?;
                let members = etcd.all_members().await.map_err(|error| self.silent(&error.text))?;
                let servers = listening_at(options.peers.etcd.iter().chain(&members));
                let said = servers.iter().map(|pid| etcd::durability_of(&command_line(*pid)));
                etcd.durability = said.max().unwrap_or(Durability::Unknown);
                (Arc::new(etcd), servers)
            }
            Self::GarageK2v => {
                let servers = listening_at(&options.peers.garage);
                let driver = Garage::new(access(options)?, timeout, garage_durability(&servers));
                (Arc::new(driver), servers)
            }
            Self::Redis => {
                let servers = listening_at([&options.peers.redis]);
                let driver = Redis::connect(&options.peers.redis, timeout).await.map_err(|error| self.silent(&error.text))?;
                (Arc::new(driver), servers)
            }
        };
        driver.get(PROBE).await.map_err(|error| self.silent(&error.text))?;
        Ok(Target { system: self, driver, servers, cluster: None })
    }

    fn silent(self, reason: &str) -> Stop {
        Stop::Failed(format!("{reason}; start it, name its addresses, or leave {} out", self.name()))
    }

    /// DynamoKV with request ids, so that its client tries again what was not answered, as an application's should.
    pub async fn connect_retrying(self, connection: &Connection, quorums: &Quorums) -> Result<Target, Stop> {
        self.connect_ours(connection, quorums, true).await
    }

    async fn connect_ours(self, connection: &Connection, quorums: &Quorums, retries: bool) -> Result<Target, Stop> {
        let mode = if self == Self::DynamokvUnary { Mode::Unary } else { Mode::Stream };
        let client = connection::client(connection, mode).await?;
        let mut write = QuorumWish::from(&quorums.write);
        if self == Self::DynamokvBuffered {
            write.dw = Some(0);
        }
        let servers = listening_at(client.addresses().values());
        let read = QuorumWish::from(&quorums.read);
        let driver = Arc::new(Dynamo::new(client.clone(), mode, &quorums.bucket, read, write, retries));
        let cluster = client.ring().map(|ring| ring.cluster);
        Ok(Target { system: self, driver, servers, cluster })
    }
}

fn access(options: &Options) -> Result<Access, Stop> {
    let missing = || {
        let text =
            "garage-k2v: needs --garage-access-key and --garage-secret-key (or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)";
        Stop::Usage(text.to_owned())
    };
    let peers = &options.peers;
    Ok(Access {
        endpoints: peers.garage.clone(),
        bucket: options.quorums.bucket.clone(),
        region: peers.garage_region.clone(),
        access_key: peers.garage_access_key.clone().ok_or_else(missing)?,
        secret_key: peers.garage_secret_key.clone().ok_or_else(missing)?,
    })
}

/// By the files that the nodes were started with.
fn garage_durability(servers: &[u32]) -> Durability {
    let said = servers.iter().map(|pid| {
        let words = command_line(*pid);
        let after = |flag: &str| words.iter().position(|word| word == flag).and_then(|at| words.get(at + 1));
        let file = after("-c").or_else(|| after("--config"))?;
        Some(garage::durability_of(&std::fs::read_to_string(file).ok()?))
    });
    said.map(|durability| durability.unwrap_or(Durability::Unknown)).max().unwrap_or(Durability::Unknown)
}

/// How long a system may take to become quiet, before and after it is measured.
pub const QUIET_PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
        #[command(flatten)]
        connection: Connection,
    }

    #[tokio::test]
    async fn a_peer_that_is_not_there_is_named_with_what_to_do() {
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let keys = ["--garage-access-key", "GK1", "--garage-secret-key", "s"];
        let places = ["x", "--etcd", &gone, "--garage", &gone, "--redis", &gone];
        let line = Line::parse_from(places.into_iter().chain(keys));
        for system in [System::Etcd, System::EtcdSerializable, System::GarageK2v, System::Redis] {
            let error = system.connect(&line.connection, &line.options).await.map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(&gone) && error.contains(&format!("or leave {} out", system.name())), "{error}");
        }
    }
}
