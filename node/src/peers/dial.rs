//! Dials one address for as long as it is wanted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dynamo_proto::v1::peer_client::PeerClient;
use tokio::sync::{Notify, mpsc, oneshot};
use tonic::transport::Endpoint;
use tracing::{debug, warn};

use super::{Link, LinkEvent, MESSAGE_BYTES_MAX, Own, greet, queue};
use crate::driver::Event;

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
    /// Whatever the network or the peer said.
    Lost(String),
    /// The node ends.
    Stopping,
}

/// Dials until the task is aborted or the loop ends.
pub async fn run(address: String, own: Arc<Own>, events: mpsc::Sender<Event>, now: Arc<Notify>) {
    let mut wait = WAIT_MIN;
    let mut last_reason = String::new();
    loop {
        let begun = Instant::now();
        let ended = link(&address, &own, &events).await;
        let lived = begun.elapsed();
        wait = if lived > GOOD_LINK { WAIT_MIN } else { (wait * 2).min(WAIT_MAX) };
        let pause = match ended {
            Ended::Stopping => return,
            Ended::Own => WAIT_IDLE,
            Ended::LetGo if lived < GOOD_LINK => WAIT_IDLE,
            Ended::LetGo => wait,
            Ended::Lost(reason) => {
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

/// One link, from dialling to its end.
async fn link(address: &str, own: &Own, events: &mpsc::Sender<Event>) -> Ended {
    let connecting = async {
        let channel = endpoint(address)?.connect().await.map_err(|error| causes(&error))?;
        let client = PeerClient::new(channel);
        let mut client = client.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX);
        let (queue, frames) = queue::new(own.hello());
        let mut answers = client.link(frames).await.map_err(|status| status.message().to_string())?.into_inner();
        let first = answers.message().await.map_err(|status| status.message().to_string())?;
        let (node, hello) = greet(own, first)?;
        Ok::<_, String>((queue, answers, node, hello))
    };
    let (queue, mut answers, node, hello) = match tokio::time::timeout(HANDSHAKE_MAX, connecting).await {
        Ok(Ok(connected)) => connected,
        Ok(Err(reason)) => return Ended::Lost(reason),
        Err(_) => return Ended::Lost(format!("no answer within {HANDSHAKE_MAX:?}")),
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
    if events.send(Event::Link(LinkEvent::Up(link))).await.is_err() {
        return Ended::Stopping;
    }
    let reason = tokio::select! {
        answer = answers.message() => match answer {
            Ok(Some(_)) => "the peer sent a second frame".to_string(),
            Ok(None) => "the peer ended the stream".to_string(),
            Err(status) => status.message().to_string(),
        },
        _ = &mut let_go => return Ended::LetGo,
    };
    let down = LinkEvent::Down { node, serial, reason: reason.clone() };
    if events.send(Event::Link(down)).await.is_err() { Ended::Stopping } else { Ended::Lost(reason) }
}

/// The address is resolved anew at each dial.
fn endpoint(address: &str) -> Result<Endpoint, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| causes(&error))?;
    Ok(endpoint
        .connect_timeout(HANDSHAKE_MAX)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}

/// "transport error" alone helps nobody: the innermost cause does.
fn causes(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
