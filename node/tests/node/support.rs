//! Starts nodes in this process, each on a thread with a runtime of its own as in production, and talks to them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dynamo_core::id::{ClusterId, NodeId};
use dynamo_core::rebalance::{Members, first_ring_with};
use dynamo_core::ring::bucket_replication::BucketReplication;
use dynamo_core::ring::{Member, Ring};
use dynamo_node::config::{Flags, Listen, ValidConfig};
use dynamo_node::{Bound, NodeError};
use dynamo_proto::v1;
use dynamo_proto::v1::admin_client::AdminClient;
use dynamo_proto::v1::kv_client::KvClient;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tonic::transport::Channel;

pub const CLUSTER: &str = "6f9619ff-8b86-d011-b42d-00c04fc964ff";
/// Far beyond what any of these steps takes, on the slowest machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Each node has an address of its own. Outgoing connections come from 127.0.0.1: while a node is down, no one can be given its
/// ports.
fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high | 0x80, low, NEXT.fetch_add(1, Ordering::Relaxed))
}

pub fn flags(data_dir: &Path, seeds: Vec<String>) -> Flags {
    let address = own_address();
    let any = || Some(SocketAddr::from((address, 0)).to_string());
    Flags {
        cluster_id: Some(CLUSTER.into()),
        data_dir: Some(data_dir.into()),
        listen_client: any(),
        listen_peer: any(),
        listen_http: any(),
        seeds: Some(seeds),
        log_level: Some("error".into()),
        ..Flags::default()
    }
}

/// A node that runs.
pub struct TestNode {
    pub node: NodeId,
    pub listen: Listen,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), NodeError>>>,
}

impl TestNode {
    pub fn start(flags: Flags) -> Result<Self, NodeError> {
        let config = ValidConfig::load(flags)?;
        dynamo_node::telemetry::start(&config);
        let (opened, started) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let node = Bound::new(config).await?;
                let listen = node.addresses();
                node.run(async { drop(stopped.await) }, |node| opened.send((node, listen)).unwrap()).await
            })
        });
        // One that ended before it had opened its data directory says why.
        let Ok((node, listen)) = started.recv() else { return Err(thread.join().unwrap().unwrap_err()) };
        Ok(Self { node, listen, stop: Some(stop), thread: Some(thread) })
    }

    /// Stops as on SIGTERM.
    pub fn stop(mut self) -> Result<(), NodeError> {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap()
    }

    pub fn peer_address(&self) -> String {
        self.listen.peer.to_string()
    }

    pub async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.listen.client)).unwrap().connect().await.unwrap()
    }

    pub async fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel().await).max_decoding_message_size(64 << 20)
    }

    pub async fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel().await)
    }

    pub async fn status(&self) -> v1::StatusResponse {
        self.admin().await.status(v1::StatusRequest {}).await.unwrap().into_inner()
    }

    /// What the port for probes answers.
    pub async fn http(&self, path: &str) -> (u16, String) {
        http(self.listen.http, path).await
    }
}

/// A plain HTTP/1.1 GET: status code and body.
pub async fn http(at: SocketAddr, path: &str) -> (u16, String) {
    let asked = async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("{at} does not answer {path}"));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_string())
}

impl Drop for TestNode {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Looks again until it is so.
pub async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Nodes that know each other and hold a first ring.
pub struct TestCluster {
    pub nodes: Vec<TestNode>,
    dirs: BTreeMap<NodeId, (TempDir, Flags)>,
}

impl TestCluster {
    /// `count` nodes; all dial the first.
    pub async fn start(count: usize) -> Self {
        Self::with_settings(count, "").await
    }

    /// The same, where each node's file says this.
    pub async fn with_settings(count: usize, yaml: &str) -> Self {
        Self::with_buckets(count, yaml, &[]).await
    }

    /// The same, where these buckets have an N of their own.
    pub async fn with_buckets(count: usize, yaml: &str, bucket_n: &[(&'static str, u8)]) -> Self {
        let mut cluster = Self { nodes: Vec::new(), dirs: BTreeMap::new() };
        for _ in 0..count {
            let dir = TempDir::new().unwrap();
            let seeds = cluster.nodes.first().map(TestNode::peer_address).into_iter().collect();
            let mut flags = flags(dir.path(), seeds);
            flags.quorum_r = Some(count.min(2) as u8);
            flags.quorum_w = flags.quorum_r;
            let file = dir.path().join("node.yaml");
            std::fs::write(&file, yaml).unwrap();
            flags.config = Some(file);
            let node = TestNode::start(flags.clone()).unwrap();
            // A restart comes back at the same addresses.
            flags.listen_client = Some(node.listen.client.to_string());
            flags.listen_peer = Some(node.listen.peer.to_string());
            cluster.dirs.insert(node.node, (dir, flags));
            cluster.nodes.push(node);
        }
        let ring = cluster.first_ring(4, bucket_n);
        cluster.propose(&ring).await;
        cluster
    }

    fn first_ring(&self, partition_bits: u8, bucket_n: &[(&'static str, u8)]) -> Ring {
        let member = |node: &TestNode| (node.node, Member { zone: "default".into(), weight: 1 });
        let members: Members = self.nodes.iter().map(member).collect();
        let replication = self.nodes.len().min(3) as u8;
        let buckets = BucketReplication::new(bucket_n.iter().map(|(bucket, n)| ((*bucket).into(), *n)), replication).unwrap();
        first_ring_with(ClusterId::parse(CLUSTER).unwrap(), partition_bits, replication, buckets, &members).unwrap()
    }

    /// Offers the ring to every node, and waits until each holds it and is ready.
    async fn propose(&self, ring: &Ring) {
        for node in &self.nodes {
            let request = v1::ProposeRingRequest { ring: ring.encode() };
            let response = node.admin().await.propose_ring(request).await.unwrap().into_inner();
            assert_eq!(response.epoch, ring.epoch.0);
        }
        for node in &self.nodes {
            until("the ring is adopted and the node ready", || async {
                let status = node.status().await;
                status.epoch == ring.epoch.0 && status.ready && linked(&status) == self.nodes.len() - 1
            })
            .await;
        }
    }

    pub fn stop(&mut self, index: usize) -> NodeId {
        let node = self.nodes.remove(index);
        let id = node.node;
        node.stop().unwrap();
        id
    }

    pub fn restart(&mut self, id: NodeId) {
        let node = TestNode::start(self.dirs[&id].1.clone()).unwrap();
        assert_eq!(node.node, id);
        self.nodes.push(node);
    }
}

fn linked(status: &v1::StatusResponse) -> usize {
    status.peers.iter().filter(|peer| peer.connected).count()
}

pub fn put(key: &str, value: &str) -> v1::PutRequest {
    let (key, value) = (key.to_string().into(), value.to_string().into());
    v1::PutRequest { bucket: "b".into(), key, value, ..Default::default() }
}

pub fn get(key: &str) -> v1::GetRequest {
    v1::GetRequest { bucket: "b".into(), key: key.to_string().into(), ..Default::default() }
}

pub fn values(response: &v1::GetResponse) -> Vec<String> {
    let mut values: Vec<String> =
        response.siblings.iter().map(|sibling| String::from_utf8(sibling.value.to_vec()).unwrap()).collect();
    values.sort();
    values
}
