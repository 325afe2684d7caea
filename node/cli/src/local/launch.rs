//! Starting node processes: the program, its configuration, and the wait until it serves.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::folder::{Folder, NodeRecord};
use super::{LOOK_INTERVAL, STOP_PATIENCE, wait_until_gone};
use crate::members;
use crate::process::Process;
use crate::ring_record::replace_file;
use crate::stop::Stop;

/// What whoever opens the file has to know.
const HEADING: &str = "# Written anew by `dynamoctl local` at each start: what is changed here is lost.\n";
/// Lines of a node's log that are shown when it ended.
const LOG_LINES: usize = 8;

/// The file that `dynamo-node --config` reads.
#[derive(Serialize)]
struct Configuration<'a> {
    cluster_id: &'a str,
    data_dir: PathBuf,
    zone: &'a str,
    listen: BTreeMap<&'static str, &'a str>,
    advertise: BTreeMap<&'static str, &'static str>,
    seeds: Vec<&'a str>,
    quorum: BTreeMap<&'static str, u8>,
}

/// The node program: the one that was named, else the one beside this program.
pub fn find_binary(named: Option<&Path>) -> Result<PathBuf, Stop> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => {
            let own = std::env::current_exe().map_err(|error| Stop::Failed(format!("where is this program: {error}")))?;
            own.with_file_name("dynamo-node")
        }
    };
    match path.canonicalize() {
        Ok(path) if path.is_file() => Ok(path),
        _ => Err(Stop::Usage(format!(
            "{}: is not there; name the dynamo-node program with --node-binary, or in DYNAMO_NODE_BINARY",
            path.display()
        ))),
    }
}

/// The program for nodes of a cluster that was started before: the one that was named, else the one that they were `started` with,
/// else the one beside this program.
pub fn program_of(started: Option<&str>, named: Option<&Path>) -> Result<PathBuf, Stop> {
    let started = started.filter(|_| named.is_none()).map(Path::new);
    if let Some(gone) = started.filter(|started| !started.is_file()) {
        return Err(Stop::Usage(format!(
            "{}: the nodes were started with it, and it is not there any more; name the dynamo-node program in DYNAMO_NODE_BINARY",
            gone.display()
        )));
    }
    find_binary(named.or(started))
}

/// What helps where a cluster is new, and where its ports are those that it was made with.
pub const OTHER_PORTS: &str = "stop what listens there, or choose another --base-port";
pub const SAME_PORTS: &str = "stop what listens there; a cluster keeps its ports, another --dir and --base-port make a new one";

/// Nothing else may listen where the node will.
pub fn check_ports(node: &NodeRecord, advice: &str) -> Result<(), Stop> {
    for address in [&node.client, &node.peer, &node.http] {
        if let Err(error) = TcpListener::bind(address.as_str()) {
            return Err(Stop::Failed(format!("{address}: {error}; {advice}")));
        }
    }
    Ok(())
}

/// Nothing else may listen where a node will that was started before. Its former process may be ending: whoever killed it need not have
/// waited until it was gone.
pub async fn wait_for_the_ports_of(node: &NodeRecord) -> Result<(), Stop> {
    let former: Vec<Process> = node.process.into_iter().collect();
    if !wait_until_gone(&former, STOP_PATIENCE).await {
        return Err(Stop::Failed(format!("{}: its former process does not end", node.name)));
    }
    check_ports(node, SAME_PORTS)
}

/// Starts one node in the background; it outlives this program. The folder remembers its process.
pub fn start(folder: &mut Folder, node: usize, binary: &Path) -> Result<Child, Stop> {
    let record = &folder.cluster.nodes[node];
    let own = folder.of_node(record);
    let failed = |path: &Path, error: std::io::Error| Stop::Failed(format!("{}: {error}", path.display()));
    folder.check_unused(record)?;
    fs::create_dir_all(&own).map_err(|error| failed(&own, error))?;
    let config = folder.configuration_of(record);
    let text = configuration(folder, record)?;
    replace_file(&config, text.as_bytes()).map_err(|error| failed(&config, error))?;
    let log_path = own.join("node.log");
    let log = File::options().create(true).append(true).open(&log_path).map_err(|error| failed(&log_path, error))?;
    let log_too = log.try_clone().map_err(|error| failed(&log_path, error))?;
    let mut command = Command::new(binary);
    command.arg("--config").arg(&config).stdin(Stdio::null()).stdout(log).stderr(log_too).current_dir(&own);
    // A group of its own: an interrupt at the terminal is for this program only.
    command.process_group(0);
    let mut child = command.spawn().map_err(|error| failed(binary, error))?;
    folder.cluster.nodes[node].process = Process::with_pid(child.id());
    folder.cluster.program = binary.to_str().map(str::to_owned);
    if let Err(stop) = folder.save() {
        // Nobody would know it.
        let _ended = child.kill().and_then(|()| child.wait());
        return Err(stop);
    }
    Ok(child)
}

fn configuration(folder: &Folder, node: &NodeRecord) -> Result<String, Stop> {
    let cluster = &folder.cluster;
    let majority = cluster.replication / 2 + 1;
    let configuration = Configuration {
        cluster_id: &cluster.cluster_id,
        data_dir: folder.of_node(node).join("data"),
        zone: &node.zone,
        listen: BTreeMap::from([("client", node.client.as_str()), ("peer", &node.peer), ("http", &node.http)]),
        advertise: BTreeMap::from([("host", "127.0.0.1")]),
        seeds: cluster.nodes.iter().map(|node| node.peer.as_str()).collect(),
        quorum: BTreeMap::from([("r", majority), ("w", majority)]),
    };
    let text = serde_yaml::to_string(&configuration).map_err(|error| Stop::Failed(format!("configuration: {error}")))?;
    Ok(format!("{HEADING}{text}"))
}

/// Until each of the started nodes serves. One that ended instead is an error with the end of its log.
pub async fn wait_until_ready(folder: &Folder, children: &mut [Child], deadline: Instant) -> Result<(), Stop> {
    for child in children {
        let Some(node) = folder.cluster.nodes.iter().find(|node| node.process.is_some_and(|process| process.pid == child.id()))
        else {
            // It ended before it could be recorded.
            let status = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
            return Err(Stop::Failed(format!("a node ended at once ({status}); its log is under {}", folder.path.display())));
        };
        let ended = || {
            let status = child.try_wait().ok().flatten()?;
            let log = folder.of_node(node).join("node.log");
            let (name, end) = (&node.name, tail(&log));
            Some(Stop::Failed(format!("{name} ended ({status}); the end of {}:\n{end}", log.display())))
        };
        wait_until_it_serves(node, ended, deadline).await?;
    }
    Ok(())
}

/// Until the node serves, or `ended` says why it never will.
pub async fn wait_until_it_serves(
    node: &NodeRecord,
    mut ended: impl FnMut() -> Option<Stop>,
    deadline: Instant,
) -> Result<(), Stop> {
    loop {
        if let Some(stop) = ended() {
            return Err(stop);
        }
        let problem = match members::ask_one(&node.client, members::CALL_TIMEOUT).await {
            Ok(answer) if answer.status.ready => return Ok(()),
            Ok(_) => "it is not ready".to_owned(),
            Err(error) => error.to_string(),
        };
        if Instant::now() >= deadline {
            return Err(Stop::Failed(format!("{} does not serve: {problem}", node.name)));
        }
        sleep(LOOK_INTERVAL).await;
    }
}

fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(16 << 10)..]).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::folder::Cluster;

    #[tokio::test]
    async fn a_nodes_configuration_names_its_own_ports_and_all_seeds() {
        let node = |index: u16| NodeRecord {
            name: format!("node-{index}"),
            zone: "zone-a".to_owned(),
            client: format!("127.0.0.1:74{index}0"),
            peer: format!("127.0.0.1:74{index}1"),
            http: format!("127.0.0.1:74{index}2"),
            process: None,
        };
        let cluster = Cluster {
            cluster_id: "6f9619ff-8b86-d011-b42d-00c04fc964ff".to_owned(),
            partitions: 64,
            replication: 3,
            nodes: vec![node(0), node(1)],
            program: None,
        };
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open_or_create(place.path(), || Ok(cluster)).await.unwrap();
        let text = configuration(&folder, &folder.cluster.nodes[1]).unwrap();
        let text = text.replace(&folder.path.display().to_string(), "DIR");
        insta::assert_snapshot!(text, @r"
        # Written anew by `dynamoctl local` at each start: what is changed here is lost.
        cluster_id: 6f9619ff-8b86-d011-b42d-00c04fc964ff
        data_dir: DIR/node-1/data
        zone: zone-a
        listen:
          client: 127.0.0.1:7410
          http: 127.0.0.1:7412
          peer: 127.0.0.1:7411
        advertise:
          host: 127.0.0.1
        seeds:
        - 127.0.0.1:7401
        - 127.0.0.1:7411
        quorum:
          r: 2
          w: 2
        ");
    }

    #[test]
    fn a_node_is_started_with_what_was_named_else_with_what_the_others_were() {
        let place = tempfile::tempdir().unwrap();
        let of = |name: &str| place.path().canonicalize().unwrap().join(name);
        let (named, started, gone) = (of("named"), of("started"), of("gone"));
        [&named, &started].into_iter().for_each(|path| fs::write(path, "").unwrap());
        assert_eq!(program_of(started.to_str(), Some(&named)).unwrap(), named);
        assert_eq!(program_of(gone.to_str(), Some(&named)).unwrap(), named);
        assert_eq!(program_of(started.to_str(), None).unwrap(), started);
        for (was, is_named) in [(gone.to_str(), None), (started.to_str(), Some(gone.as_path()))] {
            let refused = program_of(was, is_named).unwrap_err().to_string();
            let told = refused.starts_with(&gone.display().to_string()) && refused.contains("DYNAMO_NODE_BINARY");
            assert!(told, "{refused}");
        }
    }

    #[test]
    fn a_port_that_is_taken_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = listener.local_addr().unwrap().to_string();
        let (peer, http) = ("127.0.0.1:0".to_owned(), "127.0.0.1:0".to_owned());
        let node =
            NodeRecord { name: "node-0".to_owned(), zone: String::new(), client: client.clone(), peer, http, process: None };
        let error = check_ports(&node, OTHER_PORTS).unwrap_err().to_string();
        assert!(error.starts_with(&client) && error.contains("--base-port"), "{error}");
    }
}
