//! Dials one address for as long as it is wanted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dynamo_proto::v1::peer_client::PeerClient;
use tokio::sync::{Notify, oneshot};
use tonic::transport::Endpoint;
use tracing::{debug, warn};

use super::{Link, LinkEvent, MESSAGE_BYTES_MAX, Own, greet, queue};
use crate::driver::{Event, Inbox};

/// Until a connection, or an answer to the hello, counts as failed.
const HANDSHAKE_MAX: Duration = Duration::from_secs(3);
/// HTTP/2 pings on a silent link: a peer that vanished without a word is noticed after both.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const WAIT_MIN: Duration = Duration::from_millis(50);
const WAIT_MAX: Duration = Duration::from_secs(3);
/// Between two looks at an address that leads to this node itself, or to one that is linked by a better address.
const WAIT_IDLE: Duration = Duration::from_secs(30);
/// A link that lived this long was a good one: the next wait is short again.
const GOOD_LINK: Duration = Duration::from_secs(10);

static SERIAL: AtomicU64 = AtomicU64::new(0);

/// Why there is no link (any more).
enum Ended {
    /// The address leads to this node.
    Own,
    /// The loop let go of it: there is a better one, or its queue overflowed.
    LetGo,
    /// It never worked: whatever the network or the peer said.
    Failed(String),
    /// It worked, and the loop was told why it does not any more.
    Lost,
    /// The node ends.
    Stopping,
}

/// Dials until the task is aborted or the loop ends.
pub async fn run(address: String, own: Arc<Own>, inbox: Inbox, now: Arc<Notify>) {
    let mut wait = WAIT_MIN;
    let mut last_reason = String::new();
    loop {
        let begun = Instant::now();
        let ended = link_to_any(&address, &own, &inbox).await;
        let lived = begun.elapsed();
        wait = if lived > GOOD_LINK { WAIT_MIN } else { (wait * 2).min(WAIT_MAX) };
        let pause = match ended {
            Ended::Stopping => return,
            // A name may lead to others as well, as soon as they are there.
            Ended::Own if address.parse::<SocketAddr>().is_err() => WAIT_MAX,
            Ended::Own => WAIT_IDLE,
            Ended::LetGo if lived < GOOD_LINK => WAIT_IDLE,
            Ended::LetGo => wait,
            Ended::Lost => {
                last_reason.clear();
                wait
            }
            Ended::Failed(reason) => {
                // Said once for each reason, and not at every attempt.
                if reason != last_reason {
                    warn!(address, reason, "no link");
                    last_reason = reason;
                } else {
                    debug!(address, reason, "no link");
                }
                wait
            }
        };
        let jittered = pause.mul_f64(rand::random_range(0.5..1.5));
        tokio::select! {
            () = tokio::time::sleep(jittered) => {}
            () = now.notified() => wait = WAIT_MIN,
        }
    }
}

/// A name may stand for many nodes, this one among them (a headless Service does): they are tried in random order, so that
/// seeds join what would otherwise stay apart, until one of them gives a link.
async fn link_to_any(address: &str, own: &Own, inbox: &Inbox) -> Ended {
    let mut places: Vec<SocketAddr> = match tokio::net::lookup_host(address).await {
        Ok(places) => places.collect(),
        Err(error) => return Ended::Failed(error.to_string()),
    };
    let mut ended = Ended::Failed("the name stands for no address".into());
    while !places.is_empty() {
        let place = places.swap_remove(rand::random_range(0..places.len()));
        match link(place, address, own, inbox).await {
            Ended::Own => ended = Ended::Own,
            Ended::Failed(reason) => ended = Ended::Failed(reason),
            linked => return linked,
        }
    }
    ended
}

/// One link, from dialling to its end.
async fn link(place: SocketAddr, address: &str, own: &Own, inbox: &Inbox) -> Ended {
    let connecting = async {
        let channel = endpoint(place)?.connect().await.map_err(|error| causes(&error))?;
        let client = PeerClient::new(channel);
        let mut client = client.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX);
        let (queue, frames) = queue::new(own.hello());
        let mut answers = client.link(frames).await.map_err(|status| said(&status))?.into_inner();
        let first = answers.message().await.map_err(|status| said(&status))?;
        let (node, hello) = greet(own, first)?;
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
        _held: held,
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
        _ = &mut let_go => return Ended::LetGo,
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
