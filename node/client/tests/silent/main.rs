//! What a client does about a node that takes a request and never answers it, or hangs up: in time, and it tells no more than it knows.
#![allow(clippy::unwrap_used)]

#[path = "../../examples/cart.rs"]
#[expect(dead_code, reason = "its `main` is for the command line")]
mod cart;
#[allow(dead_code, reason = "dynamoctl's tests use more of it")]
mod server;

use std::time::Duration;

use bytes::Bytes;
use dynamo_client::{Client, ClientConfig, DeleteOptions, GetOptions, Mode, PutOptions, RequestError};
use dynamo_core::id::{ClusterId, Epoch, NodeId};
use dynamo_core::name::Name;
use dynamo_core::ring::{Member, Placement, Ring, RingHash};
use dynamo_proto::v1;
use server::{Balancer, Manner, Server};
use tokio::task::JoinSet;

/// Of one request. The client's own default is longer than any test may take: what ends a request is this.
const DEADLINE: Option<Duration> = Some(Duration::from_millis(400));
/// A client that waits for an answer that never comes would wait longer.
const HANGS: Duration = Duration::from_secs(60);

fn config(server: &Server, mode: Mode) -> ClientConfig {
    let endpoints = vec![server.address.clone()];
    ClientConfig { mode, request_timeout: Duration::from_secs(3600), ..ClientConfig::new(endpoints) }
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANGS, what).await.expect("the client hangs")
}

/// The kinds of error of a get, a put without an id, a put with one, and a delete with one.
async fn kinds(client: &Client) -> [&'static str; 4] {
    let name = Name::new("b", "k");
    let get = GetOptions { timeout: DEADLINE, ..GetOptions::default() };
    let plain = PutOptions { timeout: DEADLINE, ..PutOptions::default() };
    let named = plain.clone().retried();
    let delete = DeleteOptions { timeout: DEADLINE, ..DeleteOptions::default() }.retried();
    let mut kinds = [in_time(client.get(&name, &get)).await.unwrap_err().kind(), "", "", ""];
    for (kind, options) in kinds[1..3].iter_mut().zip([plain, named]) {
        *kind = in_time(client.put(&name, "v", &options)).await.unwrap_err().kind();
    }
    kinds[3] = in_time(client.delete(&name, Bytes::from_static(b"context"), &delete)).await.unwrap_err().kind();
    kinds
}

#[tokio::test]
async fn a_write_that_was_taken_and_never_answered_is_of_unknown_outcome_and_a_get_has_none() {
    for manner in [Manner::Deaf, Manner::HangingUp] {
        for mode in [Mode::Stream, Mode::Unary] {
            let server = Server::start(manner);
            let client = in_time(Client::connect(config(&server, mode))).await.unwrap();
            assert_eq!(kinds(&client).await, ["no_answer", "lost", "lost", "lost"], "{manner:?} {mode:?}");
            assert!(server.taken() >= 4, "{manner:?} {mode:?}: {} requests arrived", server.taken());
        }
    }
}

/// The program of README, whose caller may take it at its word.
#[tokio::test]
async fn the_cart_says_that_it_may_be_written_if_its_first_put_may_and_its_second_was_not() {
    let server = Server::start(Manner::Muddled);
    let config = ClientConfig { direct: false, ..config(&server, Mode::Stream) };
    let client = in_time(Client::connect(config)).await.unwrap();
    let error = in_time(cart::add(&client, &Name::new("carts", "alice"), &["milk".to_owned()])).await.unwrap_err();
    assert!(error.is_unknown() && error.to_string().contains("tried again: "), "{error:?}");
    let ids = server.put_ids();
    assert!(ids.len() == 2 && ids[0] == ids[1] && !ids[0].is_empty(), "{ids:?}");
}

#[tokio::test]
async fn a_node_that_says_nothing_to_a_connection_is_no_node_and_nothing_is_sent_to_it() {
    for manner in [Manner::Mute, Manner::Closing] {
        for mode in [Mode::Stream, Mode::Unary] {
            let server = Server::start(manner);
            let config = ClientConfig { request_timeout: Duration::from_millis(400), ..config(&server, mode) };
            let error = in_time(Client::connect(config)).await.unwrap_err();
            assert!(matches!(error, RequestError::Unreachable(_)), "{manner:?} {mode:?}: {error:?}");
        }
    }
}

const CLUSTER: ClusterId = ClusterId([7; 16]);

/// Of a cluster of two; every request goes to the first of `servers` first.
fn topology(cluster: ClusterId, epoch: u64, servers: [&Server; 2]) -> v1::TopologyResponse {
    let nodes = [NodeId([1; 16]), NodeId([2; 16])];
    let ring = Ring {
        cluster,
        epoch: Epoch(epoch),
        parent: if epoch == 1 { RingHash::default() } else { RingHash([1; 32]) },
        partition_bits: 0,
        replication: 2,
        members: nodes.map(|node| (node, Member { zone: "z".to_owned(), weight: 1 })).into(),
        buckets: Default::default(),
        lost: Default::default(),
        operation: None,
        placements: vec![Placement { replicas: nodes.into(), moving: None }],
    };
    let member = |(node, server): (NodeId, &Server)| v1::MemberAddress {
        node: Bytes::copy_from_slice(&node.0),
        client_address: server.address.clone(),
        suspected: false,
    };
    let members = nodes.into_iter().zip(servers).map(member).collect();
    v1::TopologyResponse { ring: ring.encode(), epoch, members, cluster: Bytes::copy_from_slice(&cluster.0) }
}

/// Two nodes, of which the second is well, and a client that asks the first one first.
async fn cluster_whose_first_is(manner: Manner, mode: Mode) -> (Server, Server, Client) {
    let (first, well) = (Server::start(manner), Server::start(Manner::Well));
    for server in [&first, &well] {
        server.tells(topology(CLUSTER, 1, [&first, &well]));
    }
    let client = in_time(Client::connect(config(&well, mode))).await.unwrap();
    (first, well, client)
}

#[tokio::test]
async fn a_request_does_not_wait_for_a_node_that_stands_still() {
    for mode in [Mode::Stream, Mode::Unary] {
        let (still, well, client) = cluster_whose_first_is(Manner::StandingStill, mode).await;
        // The deadline is an hour: only its silence can move the request.
        in_time(client.get(&Name::new("b", "k"), &GetOptions::default())).await.unwrap();
        assert_eq!((still.taken(), well.taken()), (1, 1), "{mode:?}");
    }
}

/// As one that knows the members does: whoever is asked, another is left.
#[tokio::test]
async fn a_request_through_endpoints_does_not_wait_for_one_that_stands_still() {
    for mode in [Mode::Stream, Mode::Unary] {
        let (still, well) = (Server::start(Manner::StandingStill), Server::start(Manner::Well));
        [&still, &well].into_iter().for_each(|server| server.tells(topology(CLUSTER, 1, [&still, &well])));
        let endpoints = [&still, &well].map(|server| server.address.clone()).into();
        let client = in_time(Client::connect(ClientConfig { endpoints, direct: false, ..config(&well, mode) })).await.unwrap();
        in_time(client.get(&Name::new("b", "k"), &GetOptions::default())).await.unwrap();
        assert_eq!((still.taken(), well.taken()), (1, 1), "{mode:?}");
    }
}

/// Its next connection leads elsewhere, and the one to a node that failed is not kept.
#[tokio::test]
async fn behind_a_load_balancer_a_request_that_was_not_heard_goes_to_another_node() {
    for mode in [Mode::Stream, Mode::Unary] {
        for manner in [Manner::StandingStill, Manner::HangingUp, Manner::NotServing] {
            let (first, well) = (Server::start(manner), Server::start(Manner::Well));
            [&first, &well].into_iter().for_each(|server| server.tells(topology(CLUSTER, 1, [&first, &well])));
            // Before it has a ring a client names no cluster, and the connection of that time is its first.
            let balancer = Balancer::before(&[&first, &first, &well]);
            let endpoints = vec![balancer.address.clone()];
            let config = ClientConfig { endpoints, direct: false, ..config(&well, mode) };
            let client = in_time(Client::connect(config)).await.unwrap();
            let options = GetOptions { timeout: Some(Duration::from_secs(4)), ..GetOptions::default() };
            in_time(client.get(&Name::new("b", "k"), &options)).await.unwrap();
            assert_eq!((first.taken(), well.taken()), (1, 1), "{mode:?} {manner:?}");
        }
    }
}

/// One task's time-out is no measure of the node for the others.
#[tokio::test]
async fn a_request_with_little_time_takes_a_node_from_nobody_else() {
    for mode in [Mode::Stream, Mode::Unary] {
        let (slow, well, client) = cluster_whose_first_is(Manner::Deaf, mode).await;
        let name = Name::new("b", "k");
        // Half of it is for the first node, and half of the rest for the second, which takes it.
        let hasty = GetOptions { timeout: Some(Duration::from_millis(1400)), ..GetOptions::default() };
        in_time(client.get(&name, &hasty)).await.unwrap();
        let taken = well.taken();
        let options = GetOptions::default();
        tokio::select! {
            answer = client.get(&name, &options) => panic!("{mode:?}: nobody should have answered: {answer:?}"),
            () = in_time(slow.asked_again(3)) => {}
        }
        assert_eq!((slow.taken(), well.taken()), (2, taken), "{mode:?}");
    }
}

/// None of them waits for long enough to tell, but the client asks on its own.
#[tokio::test]
async fn a_node_that_stands_still_is_found_by_requests_with_little_time() {
    for mode in [Mode::Stream, Mode::Unary] {
        let (still, well, client) = cluster_whose_first_is(Manner::StandingStill, mode).await;
        let hasty = GetOptions { timeout: Some(Duration::from_millis(200)), ..GetOptions::default() };
        let found = async {
            loop {
                let taken = (still.taken(), well.taken());
                let answer = client.get(&Name::new("b", "k"), &hasty).await;
                if answer.is_ok() && (still.taken(), well.taken()) == (taken.0, taken.1 + 1) {
                    return;
                }
            }
        };
        in_time(found).await;
    }
}

/// What is not sent is its caller's, who knows that it was not.
#[tokio::test]
async fn a_put_that_a_node_does_not_read_was_not_sent_and_says_so() {
    let server = Server::start(Manner::NotReading);
    server.tells(topology(CLUSTER, 1, [&server, &server]));
    let client = in_time(Client::connect(config(&server, Mode::Stream))).await.unwrap();
    let (value, mut puts) = (Bytes::from(vec![0; 1 << 20]), JoinSet::new());
    // More than the windows and buffers of one connection take.
    for _ in 0..16 {
        let (client, value) = (client.clone(), value.clone());
        let options = PutOptions { timeout: DEADLINE, ..PutOptions::default() };
        puts.spawn(async move { client.put(&Name::new("b", "k"), value, &options).await.unwrap_err().kind() });
    }
    let mut kinds = std::collections::BTreeSet::new();
    while let Some(kind) = in_time(puts.join_next()).await {
        kinds.insert(kind.unwrap());
    }
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["lost", "unreachable"]);
}

/// However short the time is that the client has for all of them.
#[tokio::test]
async fn an_endpoint_that_says_nothing_keeps_no_client_from_the_next() {
    let (mute, well) = (Server::start(Manner::Mute), Server::start(Manner::Well));
    well.tells(topology(CLUSTER, 1, [&mute, &well]));
    let endpoints = [&mute, &well].map(|server| server.address.clone()).into();
    let patient = Duration::from_secs(3600);
    let short = Duration::from_secs(4);
    let config = ClientConfig { endpoints, connect_timeout: patient, request_timeout: short, ..config(&well, Mode::Stream) };
    in_time(Client::connect(config)).await.unwrap();
}

#[tokio::test]
async fn a_request_waits_for_a_node_that_says_that_it_is_there() {
    for mode in [Mode::Stream, Mode::Unary] {
        let (slow, well, client) = cluster_whose_first_is(Manner::Deaf, mode).await;
        let (name, options) = (Name::new("b", "k"), GetOptions::default());
        tokio::select! {
            answer = client.get(&name, &options) => panic!("nobody should have answered: {answer:?}"),
            // Each question comes of a silence, and together these are longer than what moves a request.
            () = in_time(slow.asked_again(5)) => {}
        }
        assert_eq!((slow.taken(), well.taken()), (1, 0), "{mode:?}");
    }
}

/// It may have been made, and has no id: sent twice, it might be made twice.
#[tokio::test]
async fn a_write_without_an_id_waits_for_the_node_that_has_it() {
    for mode in [Mode::Stream, Mode::Unary] {
        let (still, well, client) = cluster_whose_first_is(Manner::StandingStill, mode).await;
        let options = PutOptions { timeout: Some(Duration::from_secs(1)), ..PutOptions::default() };
        let error = in_time(client.put(&Name::new("b", "k"), "v", &options)).await.unwrap_err();
        assert_eq!((error.kind(), still.taken(), well.taken()), ("lost", 1, 0), "{mode:?}");
        assert!(error.to_string().contains("no answer within"), "{mode:?}: {error}");
    }
}

/// Its id makes it the same write there, for as long as nodes remember the id: so its writer is told how often it went out.
#[tokio::test]
async fn a_write_with_an_id_goes_on_to_the_next_node_and_says_that_it_was_sent_twice() {
    for mode in [Mode::Stream, Mode::Unary] {
        let (still, well, client) = cluster_whose_first_is(Manner::StandingStill, mode).await;
        let put = async || {
            let options = PutOptions::default().retried();
            in_time(client.put(&Name::new("b", "k"), "v", &options)).await.unwrap().sent
        };
        assert_eq!((put().await, still.taken(), well.taken()), (2, 1, 1), "{mode:?}");
        assert_eq!((put().await, well.taken()), (1, 2), "{mode:?}: the first is left out now");
    }
}

/// Whoever coordinated it is in its context: if that is another node, the one that was asked forwarded it.
#[tokio::test]
async fn a_write_says_which_member_took_it_and_nothing_of_who_is_behind_an_endpoint() {
    for mode in [Mode::Stream, Mode::Unary] {
        for (manner, asked) in [(Manner::Well, [1; 16]), (Manner::StandingStill, [2; 16])] {
            let (_first, well, client) = cluster_whose_first_is(manner, mode).await;
            let put = async |client: &Client| {
                let options = PutOptions::default().retried();
                in_time(client.put(&Name::new("b", "k"), "v", &options)).await.unwrap().asked
            };
            assert_eq!(put(&client).await, Some(NodeId(asked)), "{mode:?} {manner:?}");
            let through_it = in_time(Client::connect(ClientConfig { direct: false, ..config(&well, mode) })).await.unwrap();
            assert_eq!(put(&through_it).await, None, "{mode:?} {manner:?}");
        }
    }
}

/// They have no ids and may not be sent twice: those that have it wait for it, and no others come to wait as well.
#[tokio::test]
async fn writes_without_ids_that_wait_for_a_silent_node_are_joined_by_no_others() {
    for mode in [Mode::Stream, Mode::Unary] {
        let (still, well, client) = cluster_whose_first_is(Manner::StandingStill, mode).await;
        let name = Name::new("b", "k");
        let options = PutOptions::default();
        let others = async {
            loop {
                // Who gives up is sent no more often than this, and tells nobody of it.
                let put = tokio::time::timeout(Duration::from_millis(100), client.put(&name, "v", &options));
                if let Ok(answer) = put.await {
                    return answer.map(drop);
                }
            }
        };
        tokio::select! {
            first = client.put(&name, "v", &options) => panic!("{mode:?}: nobody should have answered: {first:?}"),
            others = in_time(others) => others.unwrap(),
        }
        // Less than it takes until the client asks all nodes anew, as it does now and then.
        assert!(still.taken() < 50 && well.taken() == 1, "{mode:?}: {} {}", still.taken(), well.taken());
    }
}

/// One attempt to connect is for all who wait, and so is its end. Each on his own would try until the last is out of time.
#[tokio::test]
async fn requests_that_wait_for_a_node_that_cannot_be_reached_go_elsewhere_together() {
    let (mute, well) = (Server::start(Manner::Mute), Server::start(Manner::Well));
    well.tells(topology(CLUSTER, 1, [&mute, &well]));
    let (connect_timeout, requests) = (Duration::from_millis(500), 100);
    let config = ClientConfig { connect_timeout, ..config(&well, Mode::Stream) };
    let client = in_time(Client::connect(config)).await.unwrap();
    let mut puts = JoinSet::new();
    for _ in 0..requests {
        let client = client.clone();
        let options = PutOptions { timeout: Some(connect_timeout * requests / 2), ..PutOptions::default() };
        puts.spawn(async move { client.put(&Name::new("b", "k"), "v", &options).await });
    }
    while let Some(put) = in_time(puts.join_next()).await {
        put.unwrap().unwrap();
    }
    assert_eq!(well.taken(), 100);
}

/// The address of a node that is away may pass to a node of another cluster.
#[tokio::test]
async fn a_client_is_not_led_into_another_cluster() {
    let mut rounds = JoinSet::new();
    for mode in [Mode::Stream, Mode::Unary] {
        for epoch in [1, 2] {
            rounds.spawn(is_not_led_into_another_cluster_of(mode, epoch));
        }
    }
    while let Some(round) = rounds.join_next().await {
        round.unwrap();
    }
}

async fn is_not_led_into_another_cluster_of(mode: Mode, epoch: u64) {
    let (foreign, well, client) = cluster_whose_first_is(Manner::Well, mode).await;
    let mut theirs = topology(ClusterId([8; 16]), epoch, [&foreign, &foreign]);
    if epoch == 1 {
        // As nodes answer whoever has a ring of this epoch.
        theirs.ring.clear();
    }
    foreign.tells(theirs);
    let name = Name::new("b", "k");
    for _ in 0..2 {
        in_time(client.put(&name, "v", &PutOptions::default())).await.unwrap();
        in_time(foreign.asked_again(1)).await;
    }
    assert_eq!((foreign.taken(), well.taken()), (0, 2), "{mode:?} {epoch}");
    let addresses = client.addresses();
    // Nobody else is left.
    drop(well);
    let put = PutOptions { timeout: DEADLINE, ..PutOptions::default() };
    in_time(client.put(&name, "v", &put)).await.unwrap_err();
    in_time(foreign.asked_again(2)).await;
    let error = in_time(client.put(&name, "v", &put)).await.unwrap_err();
    assert_eq!((error.kind(), foreign.taken()), ("unreachable", 0), "{mode:?} {epoch}: {error}");
    assert_eq!((client.ring().unwrap().cluster, client.addresses()), (CLUSTER, addresses), "{mode:?} {epoch}");
}

/// The connection over which the client learned its cluster names it too, before anything else is asked there.
#[tokio::test]
async fn every_request_names_the_cluster() {
    for mode in [Mode::Stream, Mode::Unary] {
        let server = Server::start(Manner::Well);
        server.tells(topology(CLUSTER, 1, [&server, &server]));
        let client = in_time(Client::connect(ClientConfig { direct: false, ..config(&server, mode) })).await.unwrap();
        server.tells(topology(ClusterId([8; 16]), 1, [&server, &server]));
        let put = PutOptions { timeout: DEADLINE, ..PutOptions::default() };
        let error = in_time(client.put(&Name::new("b", "k"), "v", &put)).await.unwrap_err();
        assert_eq!((error.kind(), server.taken()), ("unreachable", 0), "{mode:?}: {error}");
    }
}

/// A client that comes before the ring has a cluster nevertheless.
#[tokio::test]
async fn a_client_from_before_the_ring_is_not_led_into_another_cluster() {
    for mode in [Mode::Stream, Mode::Unary] {
        let server = Server::start(Manner::Well);
        let without_a_ring =
            |cluster| v1::TopologyResponse { ring: Bytes::new(), epoch: 0, ..topology(cluster, 1, [&server, &server]) };
        server.tells(without_a_ring(CLUSTER));
        let client = in_time(Client::connect(config(&server, mode))).await.unwrap();
        server.tells(topology(ClusterId([8; 16]), 1, [&server, &server]));
        let put = PutOptions { timeout: DEADLINE, ..PutOptions::default() };
        let error = in_time(client.put(&Name::new("b", "k"), "v", &put)).await.unwrap_err();
        assert_eq!((error.kind(), server.taken()), ("unreachable", 0), "{mode:?}: {error}");
        assert_eq!(client.ring().map(|ring| ring.cluster), None, "{mode:?}");
    }
}

/// Each is answered.
async fn gets_until_epoch_2(client: &Client) {
    while client.ring().unwrap().epoch < Epoch(2) {
        client.get(&Name::new("b", "k"), &GetOptions::default()).await.unwrap();
    }
}

/// It has the ring on its disk, and nobody's address: its network takes clients to it, and not it to its peers.
#[tokio::test]
async fn a_node_that_sees_nobody_does_not_take_the_client_away_from_the_others() {
    let (alone, well, client) = cluster_whose_first_is(Manner::NotServing, Mode::Stream).await;
    let mut its_view = topology(CLUSTER, 2, [&alone, &well]);
    its_view.members.truncate(1);
    alone.tells(its_view);
    let name = Name::new("b", "k");
    // Its answers carry the newer epoch, so it is the one whose view the client goes by.
    in_time(gets_until_epoch_2(&client)).await;
    in_time(client.get(&name, &GetOptions::default())).await.unwrap();
    assert_eq!(client.addresses().into_values().collect::<Vec<_>>(), [alone.address.clone(), well.address.clone()]);
}

#[tokio::test]
async fn a_ring_that_one_node_does_not_have_yet_is_asked_of_the_next() {
    for mode in [Mode::Stream, Mode::Unary] {
        let (behind, well, client) = cluster_whose_first_is(Manner::NotServing, mode).await;
        well.tells(topology(CLUSTER, 2, [&behind, &well]));
        in_time(gets_until_epoch_2(&client)).await;
    }
}

#[tokio::test]
async fn a_member_that_was_reached_as_an_endpoint_is_within_reach_and_only_who_was_missed_is_named() {
    let (_mute, _well, client) = cluster_whose_first_is(Manner::Mute, Mode::Stream).await;
    let name = Name::new("b", "k");
    let put = PutOptions { timeout: DEADLINE, ..PutOptions::default() };
    in_time(client.put(&name, "v", &put)).await.unwrap_err();
    assert!(client.addresses_out_of_reach().is_empty(), "the second's is the endpoint's: {:?}", client.addresses_out_of_reach());

    let (first, second, well) = (Server::start(Manner::Mute), Server::start(Manner::Mute), Server::start(Manner::Well));
    well.tells(topology(CLUSTER, 1, [&first, &second]));
    let client = in_time(Client::connect(config(&well, Mode::Stream))).await.unwrap();
    let get = GetOptions { timeout: DEADLINE, ..GetOptions::default() };
    in_time(client.get(&name, &get)).await.unwrap();
    assert_eq!(client.addresses_out_of_reach(), std::slice::from_ref(&first.address), "nobody waited for the second");
}

#[tokio::test]
async fn an_address_with_a_scheme_is_refused_before_anybody_is_asked() {
    let config = ClientConfig::new(vec!["http://127.0.0.1:7400".to_owned()]);
    let error = Client::connect(config).await.unwrap_err();
    assert!(error.is_invalid() && error.to_string().contains("leave out http://"), "{error}");
}
