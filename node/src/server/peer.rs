//! The peer service: takes other nodes' streams and hands their messages to the loop, a frame at a time.

use std::sync::Arc;
use std::time::Duration;

use dynamo_core::id::NodeId;
use dynamo_core::message::Message;
use dynamo_proto::v1::peer_server::Peer;
use dynamo_proto::{WireError, v1};
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};
use tracing::{debug, warn};

use super::wait_for;
use crate::budget::{Budget, Charge};
use crate::driver::{Event, Inbox};
use crate::peers::{LinkEvent, Own, admit, greet};
use crate::refusals::Refusals;

/// Until a dialler that says nothing is sent away.
const HELLO_MAX: Duration = Duration::from_secs(3);
/// What the messages of an ordinary frame take in memory: only more is counted.
const FEW_BYTES: usize = 64 << 10;

/// Takes peers' streams.
#[derive(Clone)]
pub struct PeerService {
    own: Arc<Own>,
    inbox: Inbox,
    calls: Arc<Budget>,
    refusals: Arc<Refusals>,
    stopping: watch::Receiver<bool>,
}

impl PeerService {
    /// A service that greets as `own` and feeds the loop behind `inbox`. What it reads is charged to `calls`, what it refuses counted by
    /// `refusals`.
    pub fn new(own: Own, inbox: Inbox, calls: Arc<Budget>, refusals: Arc<Refusals>, stopping: watch::Receiver<bool>) -> Self {
        Self { own: Arc::new(own), inbox, calls, refusals, stopping }
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    type LinkStream = ReceiverStream<Result<v1::PeerFrame, Status>>;

    async fn link(&self, request: tonic::Request<Streaming<v1::PeerFrame>>) -> Result<Response<Self::LinkStream>, Status> {
        let refused = |reason: WireError| {
            self.refusals.link(&reason);
            Status::failed_precondition(reason.to_string())
        };
        admit(&self.own, request.metadata()).map_err(refused)?;
        let mut frames = request.into_inner();
        let first = tokio::time::timeout(HELLO_MAX, frames.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded(format!("no hello within {HELLO_MAX:?}")))??;
        let (node, hello) = greet(&self.own, first).map_err(refused)?;
        let (answers, stream) = mpsc::channel(1);
        // The channel is new and has room for one.
        let _ = answers.try_send(Ok(self.own.hello()));
        if node != self.own.node {
            let greeted = LinkEvent::Greeted { node, peer_address: hello.peer_address };
            self.inbox.send(Event::Link(greeted), 0).await.map_err(super::stopping)?;
            let elements = Charge::new(&self.calls);
            let (inbox, refusals, stopping) = (self.inbox.clone(), Arc::clone(&self.refusals), self.stopping.clone());
            tokio::spawn(receive(frames, node, inbox, refusals, elements, answers, stopping));
        }
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Hands over frames until the stream or the node ends. Holding `answers` keeps the dialler's link up.
async fn receive(
    mut frames: Streaming<v1::PeerFrame>,
    from: NodeId,
    inbox: Inbox,
    refusals: Arc<Refusals>,
    mut elements: Charge,
    answers: mpsc::Sender<Result<v1::PeerFrame, Status>>,
    stopping: watch::Receiver<bool>,
) {
    let stop = wait_for(stopping);
    tokio::pin!(stop);
    loop {
        let frame = tokio::select! {
            frame = frames.message() => frame,
            () = &mut stop => break,
        };
        match frame {
            Ok(Some(frame)) => {
                let in_memory = frame.messages.len() * size_of::<Message>();
                let bytes = frame.encoded_len() + in_memory;
                if let Err(full) = elements.set_bulk(in_memory.saturating_sub(FEW_BYTES)) {
                    warn!(peer = %from, %full, "an incoming stream is ended");
                    let _ = answers.try_send(Err(Status::resource_exhausted(full.to_string())));
                    break;
                }
                let messages = read(frame, from, &refusals);
                if inbox.send(Event::Messages { from, messages }, bytes).await.is_err() {
                    break;
                }
                // Smaller than before always fits.
                let _ = elements.set(0);
            }
            Ok(None) => break,
            Err(status) => {
                debug!(peer = %from, reason = status.message(), "an incoming stream ended");
                break;
            }
        }
    }
    drop(answers);
}

/// The frame's messages. One that is not understood is of a later version, or damaged: it counts as lost on the way.
fn read(frame: v1::PeerFrame, from: NodeId, refusals: &Refusals) -> Vec<Message> {
    let understood = |wire| match Message::try_from(wire) {
        Ok(message) => Some(message),
        Err(error) => {
            refusals.message(from, &error);
            None
        }
    };
    frame.messages.into_iter().filter_map(understood).collect()
}
