//! `local scale`: more or fewer nodes. New ones are started and become members; of the old ones those with the highest numbers give
//! their data away, leave, and are stopped.
//!
//! What there is to do follows from the folder and the ring alone, so a command that was killed is given again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use dynamo_core::id::NodeId;
use dynamo_core::rebalance::operation;
use tokio::time::{Instant, sleep};

use super::folder::{Cluster, Folder, NodeRecord};
use super::{LOOK_INTERVAL, PORT_STEP, READY_PATIENCE, STOP_PATIENCE, check_nodes, launch, wait_until_gone, wait_until_whole};
use crate::members::{self, Endpoints};
use crate::ring_operations::{self, Batch};
use crate::stop::Stop;
use rustix::process::Signal;

/// Ends when `nodes` nodes hold all data and no other is left.
pub async fn to(path: &Path, nodes: usize, batch: Batch, binary: Option<&Path>, call_timeout: Duration) -> Result<Cluster, Stop> {
    let deadline = Instant::now() + STOP_PATIENCE;
    let (endpoints, record, ids) = loop {
        start_up_to(path, nodes, binary).await?;
        let (endpoints, record) = {
            let folder = Folder::open(path).await?;
            (Endpoints { addresses: folder.cluster.endpoints(), call_timeout }, folder.record())
        };
        match ids(&endpoints).await {
            Ok(ids) => break (endpoints, record, ids),
            Err(stop) if Instant::now() >= deadline => return Err(stop),
            // A command that was killed may have asked a node to end, and it does yet: it runs, and does not serve.
            Err(_) => sleep(LOOK_INTERVAL).await,
        }
    };
    let (stay, leave) = parted(&ids, nodes)?;
    check_members(&endpoints, &ids).await?;
    let changed = ring_operations::become_these(&endpoints, stay, leave, record, batch).await;
    changed.map_err(|stop| if leave.is_empty() { stop } else { stop.of("no node was stopped, and no data removed") })?;
    stop_from(path, nodes, &endpoints, &ids).await?;
    let cluster = Folder::open(path).await?.cluster.clone();
    wait_until_whole(&cluster, Instant::now() + READY_PATIENCE, call_timeout).await?;
    Ok(cluster)
}

/// Starts what does not run of the first `nodes` nodes, and of those above that are still there: they have data to give away.
async fn start_up_to(path: &Path, nodes: usize, binary: Option<&Path>) -> Result<(), Stop> {
    let binary: PathBuf = launch::find_binary(binary)?;
    let mut folder = Folder::open(path).await?;
    while folder.cluster.nodes.len() < nodes {
        let next = next_node(&folder.cluster)?;
        folder.cluster.nodes.push(next);
    }
    let stopped: Vec<usize> = (0..folder.cluster.nodes.len()).filter(|node| !folder.cluster.nodes[*node].is_running()).collect();
    // What cannot start is not kept.
    for node in &stopped {
        launch::wait_for_the_ports_of(&folder.cluster.nodes[*node]).await?;
    }
    folder.save()?;
    let mut children = Vec::new();
    for node in stopped {
        children.push(launch::start(&mut folder, node, &binary)?);
    }
    launch::wait_until_ready(&folder, &mut children, Instant::now() + READY_PATIENCE).await
}

/// The node after the last: ten ports on, in the zone whose turn it is.
fn next_node(cluster: &Cluster) -> Result<NodeRecord, Stop> {
    let number = cluster.nodes.len();
    let first = cluster.nodes.first().ok_or_else(|| Stop::Failed("the cluster has no nodes".to_owned()))?;
    let mut zones: Vec<&str> = Vec::new();
    for node in &cluster.nodes {
        if !zones.contains(&node.zone.as_str()) {
            zones.push(&node.zone);
        }
    }
    let port = |address: &str| address.rsplit_once(':').and_then(|(_, port)| port.parse::<usize>().ok());
    let base = port(&first.client).ok_or_else(|| Stop::Failed(format!("{}: has no port", first.client)))?;
    let port = base + number * usize::from(PORT_STEP);
    if port + 2 > usize::from(u16::MAX) {
        return Err(Stop::Usage(format!("node-{number}: its ports would lie above 65535; give fewer --nodes")));
    }
    let address = |offset| format!("127.0.0.1:{}", port + offset);
    Ok(NodeRecord {
        name: format!("node-{number}"),
        zone: zones[number % zones.len()].to_owned(),
        client: address(0),
        peer: address(1),
        http: address(2),
        process: None,
    })
}

/// Who the nodes are, in order.
pub async fn ids(endpoints: &Endpoints) -> Result<Vec<NodeId>, Stop> {
    let mut ids = Vec::new();
    for endpoint in &endpoints.addresses {
        ids.push(members::ask_one(endpoint, endpoints.call_timeout).await?.status.node);
    }
    Ok(ids)
}

/// Of the nodes at `endpoints`, which are `ids`, none lost a member's data. They all answered: that one is slow now does not make it lost.
async fn check_members(endpoints: &Endpoints, ids: &[NodeId]) -> Result<(), Stop> {
    let own: Vec<(NodeId, &str)> = ids.iter().copied().zip(endpoints.addresses.iter().map(String::as_str)).collect();
    check_nodes(&members::ask(endpoints).await?, &own)
}

/// Those that stay, and those that leave. Whoever scales at the same time may have taken nodes away since they were started.
fn parted(ids: &[NodeId], nodes: usize) -> Result<(&[NodeId], &[NodeId]), Stop> {
    ids.split_at_checked(nodes).ok_or_else(changed_meanwhile)
}

fn changed_meanwhile() -> Stop {
    Stop::Failed("another `dynamoctl local` changed the cluster meanwhile; give the command again".to_owned())
}

/// Stops the nodes that left, and removes what they had: they have proven, out of the ring, that others hold it all. `ids` are those of
/// the nodes at `endpoints`; one that the ring names is not touched.
async fn stop_from(path: &Path, nodes: usize, endpoints: &Endpoints, ids: &[NodeId]) -> Result<(), Stop> {
    let mut folder = Folder::open(path).await?;
    if folder.cluster.endpoints() != endpoints.addresses {
        return Err(changed_meanwhile());
    }
    let staying = Endpoints { addresses: endpoints.addresses[..nodes].to_vec(), ..endpoints.clone() };
    while folder.cluster.nodes.len() > nodes {
        let left = folder.cluster.nodes.len() - 1;
        let record = folder.cluster.nodes[left].clone();
        let failed = |error: &dyn std::fmt::Display| Stop::Failed(format!("{}: {error}", record.name));
        let ring = members::ask(&staying).await?.ring;
        if ring.is_none_or(|ring| ring.members.contains_key(&ids[left]) || operation::wanted(&ring).contains_key(&ids[left])) {
            return Err(failed(&"is in the ring still, or again; it was not stopped, and its data is kept"));
        }
        if let Some(process) = record.process {
            process.signal(Signal::TERM).map_err(|error| failed(&error))?;
            if !wait_until_gone(&[process], STOP_PATIENCE).await {
                return Err(failed(&format!("process {} does not end", process.pid)));
            }
        }
        folder.check_unused(&record)?;
        folder.remove_last().map_err(|stop| stop.of(&record.name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::double::Double;
    use crate::ring_record;
    use clap::Parser;
    use dynamo_core::id::ClusterId;
    use dynamo_core::rebalance::{Members, first_ring};
    use dynamo_core::ring::{Member, Ring};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        batch: Batch,
    }

    /// The nodes `ids`, which hold `ring`, as a cluster of `local up`.
    async fn started(ids: &[NodeId], ring: &Ring) -> (Vec<Double>, Cluster) {
        let (mut doubles, mut nodes) = (Vec::new(), Vec::new());
        for (number, id) in ids.iter().enumerate() {
            let double = Double::start(*id, ring.clone(), 0).await;
            let (name, client) = (format!("node-{number}"), double.address.clone());
            let (peer, http, zone) = (String::new(), String::new(), "z".to_owned());
            nodes.push(NodeRecord { name, zone, client, peer, http, process: None });
            doubles.push(double);
        }
        (doubles, Cluster { cluster_id: "id".to_owned(), partitions: 4, replication: 3, nodes, program: None })
    }

    /// A file in place of its folder cannot be removed as one, whoever runs the test.
    #[tokio::test]
    async fn a_node_whose_folder_cannot_be_removed_is_none_any_more_and_none_starts_with_a_part_of_its_data() {
        let ids: Vec<NodeId> = (1..=4).map(|id| NodeId([id; 16])).collect();
        let members: Members = ids[..3].iter().map(|id| (*id, Member { zone: "z".to_owned(), weight: 1 })).collect();
        let (_doubles, cluster) = started(&ids, &first_ring(ClusterId([9; 16]), 2, 3, &members).unwrap()).await;
        let endpoints = Endpoints::from(cluster.endpoints());
        let place = tempfile::tempdir().unwrap();
        drop(Folder::open_or_create(place.path(), || Ok(cluster)).await.unwrap());
        let last = place.path().join("node-3");
        std::fs::write(&last, "").unwrap();
        let failed = stop_from(place.path(), 3, &endpoints, &ids).await.unwrap_err().to_string();
        assert!(failed.starts_with("node-3: ") && failed.contains("node-3.left"), "{failed}");
        let left = crate::local::folder::read(place.path()).unwrap().unwrap();
        assert_eq!((left.nodes.len(), last.exists()), (3, false));
    }

    #[tokio::test]
    async fn a_node_that_the_ring_names_is_neither_stopped_nor_removed() {
        let ids: Vec<NodeId> = (1..=4).map(|id| NodeId([id; 16])).collect();
        let members =
            |ids: &[NodeId]| -> Members { ids.iter().map(|id| (*id, Member { zone: "z".to_owned(), weight: 1 })).collect() };
        let all = first_ring(ClusterId([9; 16]), 2, 3, &members(&ids)).unwrap();
        let (doubles, cluster) = started(&ids, &all).await;
        let endpoints = Endpoints::from(cluster.endpoints());
        let place = tempfile::tempdir().unwrap();
        drop(Folder::open_or_create(place.path(), || Ok(cluster.clone())).await.unwrap());
        let last = place.path().join("node-3");
        std::fs::create_dir(&last).unwrap();

        let hold = |ring: &Ring| doubles.iter().for_each(|double| double.state().ring = ring.clone());
        let out = first_ring(all.cluster, 2, 3, &members(&ids[..3])).unwrap();
        let comes_back = operation::begun(&out, &all.members).unwrap();
        for ring in [&all, &comes_back] {
            hold(ring);
            let refused = stop_from(place.path(), 3, &endpoints, &ids).await.unwrap_err().to_string();
            assert!(refused.starts_with("node-3: is in the ring"), "{refused}");
            assert!(last.exists() && Folder::open(place.path()).await.unwrap().cluster == cluster);
        }
        hold(&out);
        let others =
            stop_from(place.path(), 3, &Endpoints::from(endpoints.addresses[..3].to_vec()), &ids).await.unwrap_err().to_string();
        assert!(others.contains("give the command again") && last.exists(), "{others}");
        stop_from(place.path(), 3, &endpoints, &ids).await.unwrap();
        assert!(!last.exists() && Folder::open(place.path()).await.unwrap().cluster.nodes.len() == 3);
    }

    /// Else it would wait for the member whose data is gone, for as long as data may move.
    #[tokio::test]
    async fn nodes_of_which_one_came_back_without_its_data_are_not_scaled() {
        let ids = [1, 2, 4].map(|id| NodeId([id; 16]));
        let members: Members = (1..=3).map(|id| (NodeId([id; 16]), Member { zone: "z".to_owned(), weight: 1 })).collect();
        let ring = first_ring(ClusterId([9; 16]), 2, 3, &members).unwrap();
        let (doubles, mut cluster) = started(&ids, &ring).await;
        cluster.nodes.iter_mut().for_each(|node| node.process = crate::process::Process::with_pid(std::process::id()));
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open_or_create(place.path(), || Ok(cluster)).await.unwrap();
        let record = folder.record();
        drop(folder);
        ring_record::record(&record, &ring.clone().into()).unwrap();
        let program = std::env::current_exe().unwrap();
        let scaled = to(place.path(), 3, Line::parse_from(["scale"]).batch, Some(&program), members::CALL_TIMEOUT);
        let scaled = tokio::time::timeout(READY_PATIENCE, scaled).await.expect("it waits for what cannot come");
        let refused = scaled.unwrap_err().to_string();
        assert!(refused.contains(&format!("{} is no member", doubles[2].address)), "{refused}");
        assert_eq!(ring_record::recorded(&record, ring.cluster).unwrap(), Some(ring.clone().into()));
        assert!(doubles.iter().all(|double| double.state().ring == ring), "nothing was done");
    }

    #[tokio::test]
    async fn a_member_that_is_silent_in_one_look_did_not_lose_its_data_beside_a_node_that_is_no_member() {
        let ids = [1, 2, 3, 4].map(|id| NodeId([id; 16]));
        let members: Members = ids[..3].iter().map(|id| (*id, Member { zone: "z".to_owned(), weight: 1 })).collect();
        let (doubles, cluster) = started(&ids, &first_ring(ClusterId([9; 16]), 2, 3, &members).unwrap()).await;
        let endpoints = Endpoints::from(cluster.endpoints());
        doubles[3].state().is_new = true;
        // It is the one that is asked for the ring.
        doubles[2].state().keeps_its_ring = true;
        assert_eq!(members::ask(&endpoints).await.unwrap().silent.keys().collect::<Vec<_>>(), [&ids[2]]);
        check_members(&endpoints, &ids).await.unwrap();
        let others = Endpoints::from([&endpoints.addresses[..2], &endpoints.addresses[3..]].concat());
        let lost = check_members(&others, &[ids[0], ids[1], ids[3]]).await.unwrap_err().to_string();
        assert!(lost.contains(&format!("{} is no member", doubles[3].address)), "{lost}");
    }

    #[test]
    fn fewer_nodes_than_were_started_are_told_of_and_not_scaled() {
        let ids = [1, 2].map(|id| NodeId([id; 16]));
        assert_eq!(parted(&ids, 1).unwrap(), (&ids[..1], &ids[1..]));
        let told = parted(&ids, 3).unwrap_err().to_string();
        assert!(told.contains("changed the cluster meanwhile"), "{told}");
    }

    #[tokio::test]
    async fn nodes_whose_ports_are_taken_are_not_kept() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = listener.local_addr().unwrap().to_string();
        let (peer, http) = ("127.0.0.1:0".to_owned(), "127.0.0.1:0".to_owned());
        let process = crate::process::Process::with_pid(std::process::id());
        // It runs; the ports of the next one are those that the listener has.
        let port = listener.local_addr().unwrap().port() - PORT_STEP;
        let first = NodeRecord {
            name: "node-0".to_owned(),
            zone: "z".to_owned(),
            client: format!("127.0.0.1:{port}"),
            peer,
            http,
            process,
        };
        let cluster = Cluster { cluster_id: "id".to_owned(), partitions: 64, replication: 1, nodes: vec![first], program: None };
        let place = tempfile::tempdir().unwrap();
        drop(Folder::open_or_create(place.path(), || Ok(cluster.clone())).await.unwrap());
        let program = std::env::current_exe().unwrap();
        let refused = start_up_to(place.path(), 2, Some(&program)).await.unwrap_err().to_string();
        assert!(refused.starts_with(&client) && refused.contains("stop what listens there"), "{refused}");
        assert_eq!(Folder::open(place.path()).await.unwrap().cluster, cluster);
    }

    #[test]
    fn the_next_node_follows_in_ports_and_zones() {
        let node = |number: usize, zone: &str| NodeRecord {
            name: format!("node-{number}"),
            zone: zone.to_owned(),
            client: format!("127.0.0.1:{}", 7400 + 10 * number),
            peer: String::new(),
            http: String::new(),
            process: None,
        };
        let nodes = vec![node(0, "a"), node(1, "b"), node(2, "a")];
        let mut cluster = Cluster { cluster_id: "id".to_owned(), partitions: 64, replication: 3, nodes, program: None };
        let next = next_node(&cluster).unwrap();
        assert_eq!((next.name.as_str(), next.zone.as_str(), next.http.as_str()), ("node-3", "b", "127.0.0.1:7432"));
        cluster.nodes[0].client = "127.0.0.1:65510".to_owned();
        assert!(next_node(&cluster).unwrap_err().to_string().contains("above 65535"));
    }
}
