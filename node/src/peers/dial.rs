//! Dials one address for as long as it is wanted.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dynamo_proto::MESSAGE_BYTES_MAX;
use dynamo_proto::kv::CLUSTER_METADATA;
use dynamo_proto::v1::peer_client::PeerClient;
use futures::FutureExt as _;
use rand::seq::SliceRandom as _;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
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
    Dialler::new(address, own, known, inbox).follow(now, places).await;
}

/// Who dials one address.
///
/// A name may stand for many nodes, this one among them (a headless Service does). All of them are greeted, one after the other and in
/// random order, but for those that are known by then: were it one of them, nodes that start together would fall apart into groups
/// of which each has greeted its own (paper 4.8.2).
struct Dialler {
    address: String,
    own: Arc<Own>,
    known: Known,
    inbox: Inbox,
    /// Until the next attempt, as long as nothing comes of them.
    wait: Duration,
    /// Why there was no link the last time.
    reason: String,
    /// Each tells where it led, how long it lived, and how it ended.
    links: JoinSet<(SocketAddr, Duration, Ended)>,
    /// Where they lead.
    under_way: BTreeSet<SocketAddr>,
    /// Where the name led, as far as nobody was greeted there.
    places: Vec<SocketAddr>,
    looked_at: Instant,
    /// When to look again where the name leads ...
    look_at: Instant,
    /// ... and when to greet the next of those that it led to.
    greet_at: Instant,
}

impl Dialler {
    fn new(address: String, own: Arc<Own>, known: Known, inbox: Inbox) -> Self {
        let now = Instant::now();
        Self {
            address,
            own,
            known,
            inbox,
            wait: WAIT_MIN,
            reason: String::new(),
            links: JoinSet::new(),
            under_way: BTreeSet::new(),
            places: Vec::new(),
            looked_at: now,
            look_at: now,
            greet_at: now,
        }
    }

    /// Looks, by `places_of`, and greets, until the loop ends; without waiting when `now` is told.
    async fn follow(mut self, now: Arc<Notify>, places_of: impl AsyncFn(&str) -> std::io::Result<Vec<SocketAddr>>) {
        loop {
            let next = if self.places.is_empty() { self.look_at } else { self.greet_at };
            tokio::select! {
                Some(ended) = self.links.join_next() => {
                    let (place, lived, ended) = ended.expect("a link that panics has ended, and its task has not");
                    if self.ended(place, lived, ended).is_break() {
                        return;
                    }
                }
                () = tokio::time::sleep_until(next) => {
                    if self.places.is_empty() {
                        self.looked_at = Instant::now();
                        let found = places_of(&self.address).await;
                        self.found(found);
                    }
                    self.greet();
                }
                // A peer that speaks and cannot be reached is spoken of often.
                () = now.notified() => (self.wait, self.look_at) = (WAIT_MIN, self.looked_at + WAIT_MIN),
            }
        }
    }

    /// A link has ended, or never was one.
    fn ended(&mut self, place: SocketAddr, lived: Duration, ended: Ended) -> ControlFlow<()> {
        self.under_way.remove(&place);
        if lived > GOOD_LINK {
            self.wait = WAIT_MIN;
        }
        let pause = if ended.leads_elsewhere(lived) { WAIT_IDLE } else { self.wait };
        match ended {
            Ended::Stopping => return ControlFlow::Break(()),
            Ended::Own | Ended::LetGo | Ended::Overflowed => {}
            Ended::Lost => self.reason.clear(),
            Ended::Failed(reason) => self.tell(reason),
        }
        self.look_at = self.look_at.min(Instant::now() + jittered(pause));
        ControlFlow::Continue(())
    }

    /// Where the name leads now.
    fn found(&mut self, found: std::io::Result<Vec<SocketAddr>>) {
        self.wait = (self.wait * 2).min(WAIT_MAX);
        let mut places = found.unwrap_or_else(|error| {
            self.tell(error.to_string());
            Vec::new()
        });
        places.retain(|place| place.to_string() != self.own.peer_address);
        // As long as it leads to nobody, it may do so any moment.
        let leads_somewhere = places.iter().any(|place| self.is_known(place)) || !self.under_way.is_empty();
        self.look_at = Instant::now() + jittered(if leads_somewhere { WAIT_IDLE } else { self.wait });
        places.retain(|place| !self.is_known(place));
        places.shuffle(&mut rand::rng());
        self.places = places;
    }

    /// Dials the next place, if nobody has done so.
    fn greet(&mut self) {
        if let Some(place) = self.places.pop()
            && !self.is_known(&place)
            && self.under_way.insert(place)
        {
            let (address, own, inbox) = (self.address.clone(), Arc::clone(&self.own), self.inbox.clone());
            self.links.spawn(lived(place, async move { link(place, &address, &own, &inbox).await }));
        }
        self.greet_at = Instant::now() + BETWEEN_PLACES;
    }

    /// It is dialled under the address that its node tells.
    fn is_known(&self, place: &SocketAddr) -> bool {
        let place = place.to_string();
        place != self.address && self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(&place)
    }

    /// Says why there is no link: once for each reason, and not at every attempt.
    fn tell(&mut self, reason: String) {
        let address = self.address.as_str();
        if reason == self.reason {
            debug!(address, reason, "no link");
        } else {
            warn!(address, reason, "no link");
            self.reason = reason;
        }
    }
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..1.5))
}

/// How long a link lived, and how it ended. A panic is a fault of this program, which has said so by then; the peer is dialled again all the
/// same, or nobody would for as long as this node runs.
async fn lived(place: SocketAddr, link: impl Future<Output = Ended>) -> (SocketAddr, Duration, Ended) {
    let begun = Instant::now();
    let ended = AssertUnwindSafe(link).catch_unwind().await;
    let ended = ended.unwrap_or_else(|_| Ended::Failed("a fault of this program, which panicked".to_owned()));
    (place, begun.elapsed(), ended)
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
        let (inbox, events) = Inbox::of(u64::MAX);
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
        let (inbox, mut events) = Inbox::of(u64::MAX);
        let looks = AtomicU64::new(0);
        let stands_for = async |_: &str| {
            // What is greeted is so because of the first look.
            if looks.fetch_add(1, Ordering::SeqCst) == 0 { Ok(places.clone()) } else { Ok(Vec::new()) }
        };
        let dialler = Dialler::new("seeds:7401".into(), Arc::new(nodes[0].0.clone()), known, inbox);
        let following = dialler.follow(Arc::default(), stands_for);
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
        let (inbox, mut events) = Inbox::of(u64::MAX);
        let own = Arc::new(nodes[0].0.clone());
        let following = Dialler::new("seeds:7401".into(), own, Known::default(), inbox).follow(Arc::default(), stands_for);
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
        let (inbox, _events) = Inbox::of(u64::MAX);
        let is_there = Arc::new(Notify::new());
        let following = Dialler::new("peer:7401".into(), Arc::new(own), known, inbox).follow(Arc::clone(&is_there), leads_to);
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
    async fn an_address_is_dialled_again_after_a_link_that_panicked() {
        let (own, place, ..) = node(1).await;
        let (looked, mut looks) = mpsc::unbounded_channel();
        let leads_to = async |_: &str| {
            let _ = looked.send(());
            Ok(Vec::new())
        };
        let (inbox, _events) = Inbox::of(u64::MAX);
        let mut dialler = Dialler::new("peer:7401".into(), Arc::new(own), Known::default(), inbox);
        dialler.under_way.insert(place);
        dialler.links.spawn(lived(place, futures::future::lazy(|_| -> Ended { panic!("for the test") })));
        let ended = dialler.links.join_next().await.unwrap().unwrap();
        assert!(matches!(&ended, (_, _, Ended::Failed(reason)) if reason.contains("panicked")));
        assert!(dialler.ended(ended.0, ended.1, ended.2).is_continue());
        assert!(dialler.under_way.is_empty());
        tokio::select! {
            () = dialler.follow(Arc::default(), leads_to) => panic!("it is dialled no more"),
            _ = looks.recv() => {}
        }
    }

    #[tokio::test]
    async fn a_link_whose_queue_overflowed_is_not_taken_for_one_that_there_is_a_better_one_for() {
        for overflowed in [true, false] {
            let (peer, address) = (node(2).await, "seeds:7401");
            let (inbox, mut events) = Inbox::of(u64::MAX);
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
