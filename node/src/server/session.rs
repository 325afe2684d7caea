//! One session: many requests in flight on one stream, many in a frame, answered in the order of completion.
//!
//! A task reads frames and hands each to the loop as one event; the stream of answers puts all that wait into one frame. What
//! is in flight is bounded: the reader takes a permit for each request, the stream returns it with the answer, and a client
//! that does not read its answers is not read from either.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use dynamo_proto::kv::session_request;
use dynamo_proto::v1;
use futures::Stream;
use prost::Message as _;
use tokio::sync::{Semaphore, mpsc, watch};
use tonic::{Status, Streaming};

use super::wait_for;
use crate::driver::{Event, Inbox, SESSION_REQUESTS_MAX, SessionSender, Shared};

/// A frame takes no further answer when it has this many bytes.
const FRAME_BYTES: usize = 1 << 20;

/// The session's outgoing stream.
pub struct Answers {
    receiver: mpsc::UnboundedReceiver<v1::SessionResponse>,
    permits: Arc<Semaphore>,
    shared: Shared,
}

/// Begins to read `frames`.
pub fn start(frames: Streaming<v1::SessionRequests>, inbox: Inbox, shared: Shared, stopping: watch::Receiver<bool>) -> Answers {
    let (session, receiver) = mpsc::unbounded_channel();
    let permits = Arc::new(Semaphore::new(SESSION_REQUESTS_MAX));
    tokio::spawn(read(frames, inbox, session, Arc::clone(&permits), stopping));
    Answers { receiver, permits, shared }
}

/// Ends when the client has said all, went away, or the node stops; what is in flight is still answered.
async fn read(
    mut frames: Streaming<v1::SessionRequests>,
    inbox: Inbox,
    session: SessionSender,
    permits: Arc<Semaphore>,
    stopping: watch::Receiver<bool>,
) {
    let stop = wait_for(stopping);
    tokio::pin!(stop);
    loop {
        let frame = tokio::select! {
            frame = frames.message() => frame,
            () = &mut stop => return,
        };
        let Ok(Some(v1::SessionRequests { mut requests, .. })) = frame else { return };
        // More than may be in flight is handed over in parts.
        while !requests.is_empty() {
            let rest = requests.split_off(requests.len().min(SESSION_REQUESTS_MAX));
            if hand_over(requests, &inbox, &session, &permits).await.is_none() {
                return;
            }
            requests = rest;
        }
    }
}

/// `None` when the session or the node has ended.
async fn hand_over(frame: Vec<v1::SessionRequest>, inbox: &Inbox, session: &SessionSender, permits: &Semaphore) -> Option<()> {
    permits.acquire_many(u32::try_from(frame.len()).ok()?).await.ok()?.forget();
    let bytes = frame.iter().map(prost::Message::encoded_len).sum();
    let mut requests = Vec::with_capacity(frame.len());
    for v1::SessionRequest { id, request } in frame {
        match session_request(request) {
            Ok(request) => requests.push((id, request)),
            Err(failure) => {
                let response = v1::session_response::Response::Failure(failure.into());
                session.send(v1::SessionResponse { id, response: Some(response) }).ok()?;
            }
        }
    }
    inbox.send(Event::Session { requests, session: session.clone() }, bytes).await.ok()
}

impl Stream for Answers {
    type Item = Result<v1::SessionResponses, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut responses = Vec::new();
        let mut frame_bytes = 0;
        let mut ended = false;
        while frame_bytes < FRAME_BYTES {
            match self.receiver.poll_recv(context) {
                Poll::Ready(Some(response)) => {
                    frame_bytes += response.encoded_len();
                    responses.push(response);
                }
                Poll::Ready(None) => {
                    ended = true;
                    break;
                }
                Poll::Pending => break,
            }
        }
        self.permits.add_permits(responses.len());
        match (responses.is_empty(), ended) {
            (false, _) => Poll::Ready(Some(Ok(v1::SessionResponses { responses, epoch: self.shared.epoch().0 }))),
            (true, true) => Poll::Ready(None),
            (true, false) => Poll::Pending,
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        // The client went away: a reader that waits for a permit waits for nothing.
        self.permits.close();
    }
}
