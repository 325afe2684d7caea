//! The process: its exit codes, and what `kill -9` may not take.

use std::cell::Cell;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::Receiver;
use std::task::{Context, Poll};

use bytes::Bytes;
use dynamo_core::id::{ClusterId, NodeId};
use dynamo_core::rebalance::first_ring;
use dynamo_core::ring::Member;
use dynamo_node::peers::PROTOCOL;
use dynamo_proto::kv::CLUSTER_METADATA;
use dynamo_proto::v1;
use dynamo_proto::v1::admin_client::AdminClient;
use dynamo_proto::v1::kv_client::KvClient;
use dynamo_proto::v1::peer_client::PeerClient;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use tempfile::TempDir;
use tonic::Code;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tower_service::Service as _;

use crate::support::{CLUSTER, PATIENCE, get, http, put, until, values};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dynamo-node"));
    command.args(arguments).env_clear().stderr(Stdio::piped()).stdout(Stdio::null());
    command
}

/// The next line of a log that has this in it.
fn line(log: &Receiver<String>, what: &str) -> String {
    loop {
        let line = log.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no line says {what}"));
        if line.contains(what) {
            return line;
        }
    }
}

fn run(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

/// A node's process; killed with the test.
struct Process {
    child: Child,
    client: String,
    peer: String,
    http: SocketAddr,
    log: Receiver<String>,
}

impl Process {
    /// Starts on free ports, and waits until it has opened its database.
    fn start(dir: &Path) -> Self {
        let process = Self::spawn(dir);
        line(&process.log, "\"starting\"");
        process
    }

    /// Starts on free ports, and reads them from the log.
    fn spawn(dir: &Path) -> Self {
        let dir = dir.to_str().unwrap();
        let any = "127.0.0.1:0";
        let listen = ["--listen-client", any, "--listen-peer", any, "--listen-http", any, "--log-format", "json"];
        let mut arguments = vec!["--cluster-id", CLUSTER, "--data-dir", dir];
        arguments.extend(listen);
        arguments.extend(["--quorum-r", "1", "--quorum-w", "1"]);
        let mut child = command(&arguments).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (tell, log) = std::sync::mpsc::channel();
        // Whoever does not read the log must not stop the node.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(tell.send(line))));
        let opens = line(&log, "\"opens the database\"");
        let address = |of: &str| opens.split(of).nth(1).unwrap().split([',', ' ']).next().unwrap().to_string();
        let http = address("http: ").parse().unwrap();
        Self { child, client: address("client: "), peer: address("peer: "), http, log }
    }

    /// SIGTERM, and the code with which it ends.
    async fn terminate(&mut self) -> Option<i32> {
        let killed = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        self.ended().await
    }

    /// The code with which it ends.
    async fn ended(&mut self) -> Option<i32> {
        let mut ended = None;
        until("it ends", || {
            ended = self.child.try_wait().unwrap();
            std::future::ready(ended.is_some())
        })
        .await;
        ended.unwrap().code()
    }

    async fn kv(&self) -> KvClient<tonic::transport::Channel> {
        KvClient::connect(format!("http://{}", self.client)).await.unwrap()
    }

    async fn admin(&self) -> AdminClient<tonic::transport::Channel> {
        AdminClient::connect(format!("http://{}", self.client)).await.unwrap()
    }

    /// It is ready, and the one member of its ring.
    async fn founds_a_cluster(&self) {
        until("it is ready", || self.is_ready()).await;
        let status = self.admin().await.status(v1::StatusRequest {}).await.unwrap().into_inner();
        let member = Member { zone: "default".into(), weight: 1 };
        let members = [(NodeId::from_slice(&status.node).unwrap(), member)].into();
        let ring = first_ring(ClusterId::parse(CLUSTER).unwrap(), 4, 1, &members).unwrap();
        self.admin().await.propose_ring(v1::ProposeRingRequest { ring: ring.encode() }).await.unwrap();
    }

    /// Memory that it has of its own.
    fn resident_bytes(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<usize>().unwrap() << 10
    }

    /// A connection on which no answer goes beyond its headers.
    async fn unreading(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.client)).unwrap();
        endpoint.initial_stream_window_size(0).connect().await.unwrap()
    }

    async fn is_ready(&self) -> bool {
        match AdminClient::connect(format!("http://{}", self.client)).await {
            Ok(mut admin) => admin.status(v1::StatusRequest {}).await.is_ok_and(|status| status.into_inner().ready),
            Err(_) => false,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_wrong_configuration_ends_with_2_and_says_what_to_do() {
    let foreign = ["--listen-client", "127.0.0.1:0", "--listen-peer", "1.2.3.4:1", "--advertise-host", "h"];
    let node = ["--cluster-id", CLUSTER, "--data-dir", "/nowhere"];
    let cases: [(&[&str], &str); 4] = [
        (&[], "cluster_id: absent"),
        (&["--config", "/nowhere/node.yaml"], "config: /nowhere/node.yaml"),
        (&["--quorum-w", "many"], "--quorum-w"),
        (&[node.as_slice(), foreign.as_slice()].concat(), "listen.peer: 1.2.3.4:1"),
    ];
    for (arguments, expected) in cases {
        let output = run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

#[test]
fn a_file_that_is_no_configuration_is_not_printed() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "s3cr3t\n").unwrap();
    let output = run(&["--config", file.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        !said.contains("s3cr3t") && said.contains("token: invalid type: string, expected the settings of a node by name"),
        "{said}"
    );
}

#[test]
fn a_process_that_may_open_too_few_files_does_not_start() {
    let dir = TempDir::new().unwrap();
    let any = "127.0.0.1:0";
    let listen = ["--listen-client", any, "--listen-peer", any, "--listen-http", any];
    let mut limited = Command::new("sh");
    limited.args([
        "-c",
        "ulimit -n 64 && exec timeout 60 \"$0\" \"$@\"",
        env!("CARGO_BIN_EXE_dynamo-node"),
        "--cluster-id",
        CLUSTER,
    ]);
    limited.args(listen).arg("--data-dir").arg(dir.path()).env_clear();
    let output = limited.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("open files: this process may open 64") && said.contains("256 at least"), "{said}");
}

#[test]
fn a_directory_that_cannot_be_used_ends_with_3() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let any = "127.0.0.1:0";
    let data_dir = file.to_str().unwrap();
    let listen = ["--listen-client", any, "--listen-peer", any, "--listen-http", any];
    let output = run(&[&["--cluster-id", CLUSTER, "--data-dir", data_dir], &listen[..]].concat());
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("data_dir: "), "{output:?}");
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let dir = TempDir::new().unwrap();
    let mut acknowledged = 0;
    for round in 0..3 {
        let process = Process::start(dir.path());
        if round == 0 {
            process.founds_a_cluster().await;
        }
        until("it is ready", || process.is_ready()).await;
        let mut kv = process.kv().await;
        for key in 0..acknowledged {
            let read = kv.get(get(&format!("k{key}"))).await.unwrap().into_inner();
            assert_eq!(values(&read), ["v"], "round {round} key {key}");
        }
        for _ in 0..300 {
            kv.put(put(&format!("k{acknowledged}"), "v")).await.unwrap();
            acknowledged += 1;
        }
        // Dropping kills it without a warning.
        drop(process);
    }
}

#[tokio::test]
async fn sigterm_ends_with_0() {
    let dir = TempDir::new().unwrap();
    let mut process = Process::start(dir.path());
    until("it is ready", || process.is_ready()).await;
    assert_eq!(process.terminate().await, Some(0));
}

/// RocksDB stands still in the middle of its start here: one of its logs is a pipe into which nobody writes.
#[tokio::test]
async fn while_rocksdb_opens_probes_are_answered_and_sigterm_ends_the_process_at_once() {
    let dir = TempDir::new().unwrap();
    let mut process = Process::start(dir.path());
    until("it is ready", || process.is_ready()).await;
    assert_eq!(process.terminate().await, Some(0));

    let database = dir.path().join("rocksdb");
    let pipe = database.join("900000.log");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let is_read = || rustix::fs::open(&pipe, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty());
    let mut process = Process::spawn(dir.path());
    // Looked through before RocksDB opens: it has no end as long as it is open for writing.
    until("its logs are looked through", || std::future::ready(is_read().is_ok())).await;
    let begun = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().as_encoded_bytes().starts_with(b"LOG.old");
    until("RocksDB has begun", || std::future::ready(std::fs::read_dir(&database).unwrap().any(begun))).await;
    let mut writer = None;
    until("RocksDB reads its logs", || {
        writer = is_read().ok();
        std::future::ready(writer.is_some())
    })
    .await;

    assert_eq!(http(process.http, "/healthz/live").await.0, 200);
    let (code, why) = http(process.http, "/healthz/ready").await;
    assert!(code == 503 && why.contains("RocksDB opens the database and replays its log, for "), "{code} {why}");
    assert_eq!(process.terminate().await, Some(0));
    std::fs::remove_file(&pipe).unwrap();
    let process = Process::start(dir.path());
    until("it is ready, as if nothing had been", || process.is_ready()).await;
}

#[tokio::test]
async fn a_node_whose_files_were_removed_ends_and_acknowledges_nothing_more() {
    let dir = TempDir::new().unwrap();
    let mut process = Process::start(dir.path());
    process.founds_a_cluster().await;
    until("it serves", || async { process.kv().await.put(put("k", "v")).await.is_ok() }).await;
    // In one step: the engine makes files meanwhile.
    std::fs::rename(dir.path().join("rocksdb"), dir.path().join("elsewhere")).unwrap();
    assert_eq!(process.ended().await, Some(4));
}

/// A line for each, with all that the stranger says, would be 30 MB here.
#[tokio::test]
async fn strangers_that_are_refused_and_messages_that_mean_nothing_are_counted_and_told_of_now_and_then() {
    const CALLS: usize = 500;
    const MESSAGES: usize = 10_000;
    let dir = TempDir::new().unwrap();
    let mut process = Process::start(dir.path());
    let mut peer = PeerClient::connect(format!("http://{}", process.peer)).await.unwrap();
    let named = |cluster: &str, frames| {
        let endless = tokio_stream::StreamExt::chain(tokio_stream::iter(frames), tokio_stream::pending());
        let mut request = tonic::Request::new(endless);
        request.metadata_mut().insert(CLUSTER_METADATA, cluster.parse().unwrap());
        request
    };
    let name = "\"".repeat(15_000);
    for _ in 0..CALLS {
        let refused = peer.link(named(&name, Vec::new())).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(refused.message().len() < 300, "{refused}");
    }
    let id = |id: &[u8]| Bytes::copy_from_slice(id);
    let cluster = ClusterId::parse(CLUSTER).unwrap();
    let hello = v1::Hello { cluster: id(&cluster.0), node: id(&[7; 16]), protocol: PROTOCOL, ..Default::default() };
    let frame = v1::PeerFrame { hello: Some(hello), messages: Vec::new() };
    let empty = v1::PeerFrame { hello: None, messages: vec![v1::PeerMessage::default(); MESSAGES] };
    let link = peer.link(named(CLUSTER, vec![frame, empty])).await.unwrap();
    until("all are counted", || async {
        let (_, metrics) = http(process.http, "/metrics").await;
        let counted = |name: &str, count: usize| metrics.lines().any(|line| line == format!("dynamokv_{name}_total {count}"));
        counted("links_refused", CALLS) && counted("messages_not_understood", MESSAGES)
    })
    .await;
    drop(link);
    assert_eq!(process.terminate().await, Some(0));
    let log: Vec<String> = process.log.iter().collect();
    let lines = |what: &str| log.iter().filter(|line| line.contains(what)).count();
    assert_eq!((lines("a dialler was refused"), lines("a message was not understood")), (1, 1), "{log:?}");
    let bytes: usize = log.iter().map(String::len).sum();
    assert!(bytes < 8 << 10, "{bytes} bytes of log: {log:?}");
}

/// All but the last byte of a message, and never that.
struct Half(Option<Bytes>);

impl http_body::Body for Half {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, tonic::Status>>> {
        self.0.take().map_or(Poll::Pending, |bytes| Poll::Ready(Some(Ok(http_body::Frame::data(bytes)))))
    }
}

#[tokio::test]
async fn hundreds_of_clients_that_send_half_and_read_nothing_take_no_more_memory_than_calls_and_answers_may() {
    const CLIENTS: usize = 200;
    const MESSAGE_BYTES: usize = 4 << 20;
    const VALUE_BYTES: usize = 1 << 20;
    // 256 MiB each, of the 1.6 GiB that these clients ask for, and half as much for what surrounds it, once the allocator has given back what
    // came and went.
    const MOST: usize = (3 * 256) << 20;
    let dir = TempDir::new().unwrap();
    let process = Process::start(dir.path());
    process.founds_a_cluster().await;
    let kv = || async { process.kv().await.max_decoding_message_size(2 * VALUE_BYTES) };
    let large = v1::PutRequest { value: vec![7; VALUE_BYTES].into(), ..put("large", "") };
    until("it serves", || async { kv().await.put(large.clone()).await.is_ok() }).await;
    let before = process.resident_bytes();

    let prefix = [&[0], &(MESSAGE_BYTES as u32).to_be_bytes()[..]].concat();
    let half = Bytes::from([prefix, vec![0; MESSAGE_BYTES - 1]].concat());
    let (mut readers, mut writers) = (Vec::new(), Vec::new());
    for _ in 0..CLIENTS {
        let mut channel = process.unreading().await;
        for _ in 0..4 {
            let mut kv = KvClient::new(channel.clone()).max_decoding_message_size(2 * VALUE_BYTES);
            readers.push(tokio::spawn(async move { drop(kv.get(get("large")).await) }));
        }
        let request = http::Request::post("/dynamo.v1.Kv/Put").header("content-type", "application/grpc");
        let request = request.header("te", "trailers").body(Body::new(Half(Some(half.clone())))).unwrap();
        writers.push(tokio::spawn(async move {
            std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
            drop(channel.call(request).await);
        }));
    }
    let shorts = Cell::new(0);
    until("there is no room for more answers, and what is short is served all the same", || async {
        kv().await.put(put(&format!("short{}", shorts.replace(shorts.get() + 1)), "v")).await.unwrap();
        let refused = kv().await.get(get("large")).await;
        refused.is_err_and(|status| status.message().contains("answers that clients have not read hold "))
    })
    .await;
    until("most that send half are refused, for the rest there is room", || async {
        writers.iter().filter(|writer| !writer.is_finished()).count() < CLIENTS / 3
    })
    .await;
    until("no more is held than may be", || async { process.resident_bytes() < before + MOST }).await;
    let waiting = readers.iter().filter(|reader| !reader.is_finished()).count();
    assert!(waiting > 200, "{waiting} answers wait");
    readers.iter().chain(&writers).for_each(tokio::task::JoinHandle::abort);
    until("there is room again", || async { kv().await.get(get("large")).await.is_ok() }).await;
}
