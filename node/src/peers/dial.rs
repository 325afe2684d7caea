//! Dials one address for as long as it is wanted.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dynamo_proto::MESSAGE_BYTES_MAX;
use dynamo_proto::kv::CLUSTER_METADATA;
use dynamo_proto::v1::peer_client::PeerClient;
use rand::seq::SliceRandom as _;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tonic::Request;
use tonic::transport::Endpoint;
use tracing::{debug, warn};

use super::{Link, LinkEvent, Own, greet, queue};
use crate::driver::{Event, Inbox};

/// Until a connection, or an answer to the hello, counts as failed.
const HANDSHAKE_MAX: Duration = Duration::from_secs(3);
/// The one message that the other end sends.
const HELLO_BYTES_MAX: usize = 16 << 10;
/// HTTP/2 pings on a silent link: a peer that vanished without a word is noticed after both.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const WAIT_MIN: Duration = Duration::from_millis(50);
const WAIT_MAX: Duration = Duration::from_secs(3);
/// Between two looks at an address that leads to this node itself, or to nodes that are linked by a better address.
const WAIT_IDLE: Duration = Duration::from_secs(30);
/// Between two greetings of those that a name stands for. Whom one of them tells of meanwhile is not greeted here.
const BETWEEN_PLACES: Duration = Duration::from_millis(10);
/// A link that lived this long was a good one: the next wait is short again.
const GOOD_LINK: Duration = Duration::from_secs(10);

static SERIAL: AtomicU64 = AtomicU64::new(0);

/// Why there is no link (any more).
enum Ended {
    /// The address leads to this node.
    Own,
    /// The loop let go of it: there is a better one.
    LetGo,
    /// The loop let go of it because its queue overflowed.
    Overflowed,
    /// It never worked: whatever the network or the peer said.
    Failed(String),
    /// It worked, and the loop was told why it does not any more.
    Lost,
    /// The node ends.
    Stopping,
}

impl Ended {
    /// Whether a link that lived so long is no use: dialled again at once, it would end at once.
    fn leads_elsewhere(&self, lived: Duration) -> bool {
        matches!(self, Self::Own | Self::LetGo) && lived < GOOD_LINK
    }
}

/// Where nodes are that are dialled by the addresses which they told themselves.
pub type Known = Arc<Mutex<BTreeSet<String>>>;

/// Dials until the task is aborted or the loop ends.
pub async fn run(address: String, own: Arc<Own>, known: Known, inbox: Inbox, now: Arc<Notify>) {
    let places = async |address: &str| Ok(tokio::net::lookup_host(address).await?.collect());
    follow(address, own, known, inbox, now, places).await;
}

/// A name may stand for many nodes, this one among them (a headless Service does). All of them are greeted, one after the other and in
/// random order, but for those that are known by then: were it one of them, nodes that start together would fall apart into groups
/// of which each has greeted its own (paper 4.8.2).
async fn follow(
    address: String,
    own: Arc<Own>,
    known: Known,
    inbox: Inbox,
    now: Arc<Notify>,
    places_of: impl AsyncFn(&str) -> std::io::Result<Vec<SocketAddr>>,
) {
    let is_own = |place: &SocketAddr| place.to_string() == own.peer_address;
    let is_known = |place: &SocketAddr| {
        let place = place.to_string();
        place != address && known.lock().unwrap_or_else(PoisonError::into_inner).contains(&place)
    };
    let mut wait = WAIT_MIN;
    let mut reasons = Reasons { address: &address, last: String::new() };
    let mut links = JoinSet::new();
    let mut under_way = BTreeSet::new();
    let mut places = Vec::new();
    // When to look again where the name leads, and when to greet the next of those that it led to.
    let (mut look_at, mut greet_at) = (tokio::time::Instant::now(), tokio::time::Instant::now());
    let mut looked_at = look_at;
    loop {
        tokio::select! {
            Some(ended) = links.join_next() => {
                let Ok((place, lived, ended)): Result<(SocketAddr, Duration, Ended), _> = ended else { return };
                under_way.remove(&place);
                if lived > GOOD_LINK {
                    wait = WAIT_MIN;
                }
                let pause = if ended.leads_elsewhere(lived) { WAIT_IDLE } else { wait };
                match ended {
                    Ended::Stopping => return,
                    Ended::Own | Ended::LetGo | Ended::Overflowed => {}
                    Ended::Lost => reasons.last.clear(),
                    Ended::Failed(reason) => reasons.tell(reason),
                }
                look_at = look_at.min(tokio::time::Instant::now() + jittered(pause));
            }
            () = tokio::time::sleep_until(if places.is_empty() { look_at } else { greet_at }) => {
                if places.is_empty() {
                    looked_at = tokio::time::Instant::now();
                    wait = (wait * 2).min(WAIT_MAX);
                    places = places_of(&address).await.unwrap_or_else(|error| {
                        reasons.tell(error.to_string());
                        Vec::new()
                    });
                    places.retain(|place| !is_own(place));
                    // As long as it leads to nobody, it may do so any moment.
                    let pause = if places.iter().any(is_known) || !under_way.is_empty() { WAIT_IDLE } else { wait };
                    look_at = tokio::time::Instant::now() + jittered(pause);
                    places.retain(|place| !is_known(place));
                    places.shuffle(&mut rand::rng());
                }
                if let Some(place) = places.pop()
                    && !is_known(&place)
                    && under_way.insert(place)
                {
                    let (address, own, inbox) = (address.clone(), Arc::clone(&own), inbox.clone());
                    links.spawn(async move {
                        let begun = Instant::now();
                        let ended = link(place, &address, &own, &inbox).await;
                        (place, begun.elapsed(), ended)
                    });
                }
                greet_at = tokio::time::Instant::now() + BETWEEN_PLACES;
            }
            // A peer that speaks and cannot be reached is spoken of often.
            () = now.notified() => (wait, look_at) = (WAIT_MIN, looked_at + WAIT_MIN),
        }
    }
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..1.5))
}

/// Why there is no link: said once for each reason, and not at every attempt.
struct Reasons<'a> {
    address: &'a str,
    last: String,
}

impl Reasons<'_> {
    fn tell(&mut self, reason: String) {
        let address = self.address;
        if reason == self.last {
            debug!(address, reason, "no link");
        } else {
            warn!(address, reason, "no link");
            self.last = reason;
        }
    }
}

/// One link, from dialling to its end.
async fn link(place: SocketAddr, address: &str, own: &Own, inbox: &Inbox) -> Ended {
    let connecting = async {
        let channel = endpoint(place)?.connect().await.map_err(|error| causes(&error))?;
        let client = PeerClient::new(channel);
        let mut client = client.max_decoding_message_size(HELLO_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX);
        let (queue, frames) = queue::new(own.hello());
        let mut frames = Request::new(frames);
        let cluster = own.cluster.to_string().parse().map_err(|_| "the cluster's id is no metadata".to_owned())?;
        frames.metadata_mut().insert(CLUSTER_METADATA, cluster);
        let mut answers = client.link(frames).await.map_err(|status| said(&status))?.into_inner();
        let first = answers.message().await.map_err(|status| said(&status))?;
        let (node, hello) = greet(own, first).map_err(|reason| reason.to_string())?;
        Ok::<_, String>((queue, answers, node, hello))
    };
    let (queue, mut answers, node, hello) = match tokio::time::timeout(HANDSHAKE_MAX, connecting).await {
        Ok(Ok(connected)) => connected,
        Ok(Err(reason)) => return Ended::Failed(reason),
        Err(_) => return Ended::Failed(format!("no answer within {HANDSHAKE_MAX:?}")),
    };
    if node == own.node {
        return Ended::Own;
    }
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let (held, mut let_go) = oneshot::channel();
    let link = Link {
        node,
        peer_address: hello.peer_address,
        client_address: hello.client_address,
        dialled: address.to_string(),
        serial,
        queue,
        held,
    };
    if inbox.send(Event::Link(LinkEvent::Up(link)), 0).await.is_err() {
        return Ended::Stopping;
    }
    let reason = tokio::select! {
        answer = answers.message() => match answer {
            Ok(Some(_)) => "the peer sent a second frame".to_string(),
            Ok(None) => "the peer ended the stream".to_string(),
            Err(status) => said(&status),
        },
        overflowed = &mut let_go => return if overflowed.is_ok() { Ended::Overflowed } else { Ended::LetGo },
    };
    let down = LinkEvent::Down { node, serial, reason };
    if inbox.send(Event::Link(down), 0).await.is_err() { Ended::Stopping } else { Ended::Lost }
}

fn endpoint(place: SocketAddr) -> Result<Endpoint, String> {
    let endpoint = Endpoint::from_shared(format!("http://{place}")).map_err(|error| causes(&error))?;
    Ok(endpoint
        .connect_timeout(HANDSHAKE_MAX)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}

/// What the peer said, or why it could not.
fn said(status: &tonic::Status) -> String {
    if std::error::Error::source(status).is_some() { causes(status) } else { status.message().to_string() }
}

/// "transport error" alone helps nobody: the innermost cause does.
fn causes(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use dynamo_core::id::{ClusterId, NodeId};
    use dynamo_proto::v1::peer_server::PeerServer;
    use tokio::net::TcpListener;
    use tokio::sync::{mpsc, watch};
    use tokio_stream::wrappers::TcpListenerStream;

    use super::*;
    use crate::budget::Budgets;
    use crate::driver::Queued;
    use crate::server::peer::PeerService;

    /// A node that takes links, and where it does.
    async fn node(number: u8) -> (Own, SocketAddr, mpsc::Receiver<Queued>, watch::Sender<bool>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = listener.local_addr().unwrap();
        let own = Own {
            cluster: ClusterId([7; 16]),
            node: NodeId([number; 16]),
            peer_address: place.to_string(),
            client_address: String::new(),
        };
        let (inbox, events) = Inbox::new();
        let (stop, stopping) = watch::channel(false);
        let service = PeerService::new(own.clone(), inbox, Budgets::of(u64::MAX).peer_calls, Arc::default(), stopping);
        let server = tonic::transport::Server::builder().add_service(PeerServer::new(service));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (own, place, events, stop)
    }

    /// The nodes to which links came up, in the order of their ids, as soon as there are `count`.
    async fn linked(events: &mut mpsc::Receiver<Queued>, count: usize) -> Vec<u8> {
        let mut links = Vec::new();
        while links.len() < count {
            if let Event::Link(LinkEvent::Up(link)) = events.recv().await.unwrap().event {
                links.push(link);
            }
        }
        let mut nodes: Vec<u8> = links.iter().map(|link| link.node.0[0]).collect();
        nodes.sort_unstable();
        nodes
    }

    #[tokio::test]
    async fn every_node_that_a_name_stands_for_is_greeted_but_those_that_are_known_and_this_one() {
        let nodes = [node(1).await, node(2).await, node(3).await, node(4).await, node(5).await];
        let places: Vec<SocketAddr> = nodes.iter().map(|(_, place, ..)| *place).collect();
        let known = Known::default();
        known.lock().unwrap().insert(places[1].to_string());
        let (inbox, mut events) = Inbox::new();
        let looks = AtomicU64::new(0);
        let stands_for = async |_: &str| {
            // What is greeted is so because of the first look.
            if looks.fetch_add(1, Ordering::SeqCst) == 0 { Ok(places.clone()) } else { Ok(Vec::new()) }
        };
        let following =
            follow("seeds:7401".into(), Arc::new(nodes[0].0.clone()), known, inbox, Arc::new(Notify::new()), stands_for);
        tokio::select! {
            () = following => panic!("it dials for ever"),
            linked = linked(&mut events, 3) => assert_eq!(linked, [3, 4, 5]),
        }
    }

    #[tokio::test]
    async fn nodes_to_which_a_name_leads_later_are_greeted_then() {
        let nodes = [node(1).await, node(2).await, node(3).await];
        let places: Vec<SocketAddr> = nodes.iter().map(|(_, place, ..)| *place).collect();
        let looks = AtomicU64::new(0);
        // Nobody, then itself alone, then all.
        let stands_for = async |_: &str| match looks.fetch_add(1, Ordering::SeqCst) {
            0 => Err(std::io::Error::other("no such name")),
            1 => Ok(places[..1].to_vec()),
            _ => Ok(places.clone()),
        };
        let (inbox, mut events) = Inbox::new();
        let own = Arc::new(nodes[0].0.clone());
        let following = follow("seeds:7401".into(), own, Known::default(), inbox, Arc::new(Notify::new()), stands_for);
        tokio::select! {
            () = following => panic!("it dials for ever"),
            linked = linked(&mut events, 2) => assert_eq!(linked, [2, 3]),
        }
    }

    #[tokio::test]
    async fn who_is_there_is_dialled_before_its_time_and_no_more_often_than_the_shortest_wait() {
        let (own, place, ..) = node(1).await;
        // Another dials it, so this one looks every half a minute.
        let known = Known::new(Mutex::new([place.to_string()].into()));
        let (looked, mut looks) = mpsc::unbounded_channel();
        let leads_to = async |_: &str| {
            let _ = looked.send(tokio::time::Instant::now());
            Ok(vec![place])
        };
        let (inbox, _events) = Inbox::new();
        let is_there = Arc::new(Notify::new());
        let following = follow("peer:7401".into(), Arc::new(own), known, inbox, Arc::clone(&is_there), leads_to);
        let speaking = async {
            let mut seen = vec![looks.recv().await.unwrap()];
            while seen.len() < 4 {
                is_there.notify_one();
                tokio::task::yield_now().await;
                seen.extend(looks.try_recv());
            }
            seen
        };
        let seen = tokio::select! {
            () = following => panic!("it dials for ever"),
            seen = tokio::time::timeout(WAIT_IDLE / 3, speaking) => seen.expect("looks before their time"),
        };
        assert!(seen.windows(2).all(|pair| pair[1] - pair[0] >= WAIT_MIN), "{seen:?}");
    }

    #[tokio::test]
    async fn a_link_whose_queue_overflowed_is_not_taken_for_one_that_there_is_a_better_one_for() {
        for overflowed in [true, false] {
            let (peer, address) = (node(2).await, "seeds:7401");
            let (inbox, mut events) = Inbox::new();
            let own = node(1).await.0;
            let letting_go = async {
                let Event::Link(LinkEvent::Up(link)) = events.recv().await.unwrap().event else { panic!("no link") };
                if overflowed {
                    link.held.send(()).unwrap();
                }
            };
            let (ended, ()) = tokio::join!(link(peer.1, address, &own, &inbox), letting_go);
            assert_eq!(matches!(ended, Ended::Overflowed), overflowed);
            assert_eq!(ended.leads_elsewhere(Duration::ZERO), !overflowed);
        }
    }
}
