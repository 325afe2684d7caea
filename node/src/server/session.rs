//! One session: many requests in flight on one stream, many in a frame, answered in the order of completion.
//!
//! A task reads frames and hands each to the loop as one event; the stream of answers puts all that wait into one frame. What
//! is in flight is bounded by the session's window: a client that does not read its answers is not read from either.
//!
//! A node that stops goes on reading for a moment, so that what was on its way is refused and not left without a word.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use dynamo_proto::kv::session_request;
use dynamo_proto::v1;
use futures::{Stream, StreamExt as _};
use prost::Message as _;
use tokio::sync::watch;
use tonic::Status;

use super::wait_for;
use crate::driver::{Event, Inbox, SessionReceiver, SessionSender, Shared, Window};

/// A frame takes no further answer when it has this many bytes.
const FRAME_BYTES: usize = 1 << 20;
/// For so long a session is read after the node was told to stop: a client far away hears of it, and what it sent until then arrives.
const GRACE: Duration = Duration::from_millis(500);

/// The session's outgoing stream.
pub struct Answers {
    receiver: SessionReceiver,
    window: Arc<Window>,
    shared: Shared,
}

/// Begins to read `frames`.
pub fn start(
    frames: impl Stream<Item = Result<v1::SessionRequests, Status>> + Unpin + Send + 'static,
    inbox: Inbox,
    shared: Shared,
    stopping: watch::Receiver<bool>,
) -> Answers {
    let (session, receiver, window) = shared.session();
    let reading = shared.reading();
    let reader = read(frames, inbox, session, Arc::clone(&window));
    tokio::spawn(async move {
        let stop = async {
            wait_for(stopping).await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            biased;
            () = reader => {}
            () = stop => {}
        }
        drop(reading);
    });
    Answers { receiver, window, shared }
}

/// Ends when the client has said all or went away; what is in flight is still answered.
async fn read(
    mut frames: impl Stream<Item = Result<v1::SessionRequests, Status>> + Unpin,
    inbox: Inbox,
    session: SessionSender,
    window: Arc<Window>,
) {
    while let Some(Ok(v1::SessionRequests { requests, .. })) = frames.next().await {
        let mut requests = requests.into_iter();
        // More than may be in flight is handed over in parts.
        while requests.len() > 0 {
            let Some(taken) = window.take(requests.len()).await else { return };
            if hand_over(requests.by_ref().take(taken), &inbox, &session).await.is_none() {
                return;
            }
        }
    }
}

/// `None` when the node has ended.
async fn hand_over(part: impl Iterator<Item = v1::SessionRequest>, inbox: &Inbox, session: &SessionSender) -> Option<()> {
    let mut requests = Vec::with_capacity(part.size_hint().0);
    let mut bytes = 0;
    for request in part {
        bytes += request.encoded_len();
        let v1::SessionRequest { id, request } = request;
        match session_request(request) {
            Ok(request) => requests.push((id, request)),
            Err(failure) => {
                let response = v1::session_response::Response::Failure(failure.into());
                session.send(v1::SessionResponse { id, response: Some(response) });
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
                Poll::Ready(Some((bytes, response))) => {
                    frame_bytes += bytes;
                    responses.push(response);
                }
                Poll::Ready(None) => {
                    ended = true;
                    break;
                }
                Poll::Pending => break,
            }
        }
        if !responses.is_empty() {
            self.window.read(responses.len(), frame_bytes);
        }
        match (responses.is_empty(), ended) {
            (false, _) => Poll::Ready(Some(Ok(v1::SessionResponses { responses, epoch: self.shared.epoch().0 }))),
            (true, true) => Poll::Ready(None),
            (true, false) => Poll::Pending,
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.window.close();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use dynamo_core::id::{Epoch, Incarnation, NodeId};
    use dynamo_core::request::{Evidence, Failure, Success};
    use dynamo_core::version::{Actor, CausalContext, Dot, Object, Value};
    use futures::{FutureExt as _, stream};

    use crate::driver::{Queued, Reply, SESSION_BYTES_MAX};

    fn gets(ids: std::ops::Range<u64>) -> v1::SessionRequests {
        let get = v1::GetRequest { bucket: "b".into(), key: "k".into(), ..Default::default() };
        let request = |id| v1::SessionRequest { id, request: Some(v1::session_request::Request::Get(get.clone())) };
        v1::SessionRequests { requests: ids.map(request).collect(), epoch: 0 }
    }

    fn found(bytes: usize) -> Success {
        let mut object = Object::default();
        let actor = Actor { node: NodeId([1; 16]), incarnation: Incarnation(1) };
        let value = Value { data: Some(vec![7; bytes].into()), written_ms: 0 };
        object.update(&CausalContext::default(), Dot { actor, counter: 1 }, value);
        let evidence = Evidence { epoch: Epoch(1), nodes: Vec::new(), durable: 0, hinted: 0 };
        Success::Got { object, context: bytes::Bytes::new(), evidence }
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_holds_no_more_than_its_share_and_gets_all_answers_once_it_reads() {
        const REQUESTS: u64 = 1_000;
        const VALUE_BYTES: usize = 1 << 20;
        let (inbox, mut events) = Inbox::new();
        let shared = Shared::default();
        let (_stop, stopping) = watch::channel(false);
        let mut answers = start(stream::iter([Ok(gets(0..REQUESTS))]), inbox, shared.clone(), stopping);
        let mut answer_all = async || {
            // On this one thread the reader goes on whenever the test lets it.
            for _ in 0..8 {
                tokio::task::yield_now().await;
                while let Ok(Queued { event: Event::Session { requests, session }, .. }) = events.try_recv() {
                    for (id, _) in requests {
                        Reply::Session { id, session: session.clone() }.send(Ok(found(VALUE_BYTES)));
                    }
                }
            }
        };
        let bound = SESSION_BYTES_MAX + VALUE_BYTES;
        answer_all().await;
        assert!((SESSION_BYTES_MAX / 2..=bound).contains(&shared.answer_bytes()), "{} bytes", shared.answer_bytes());
        let mut answered = BTreeSet::new();
        while let Some(Some(frame)) = answers.next().now_or_never() {
            for v1::SessionResponse { id, response } in frame.unwrap().responses {
                assert!(matches!(response, Some(v1::session_response::Response::Get(_))), "{response:?}");
                assert!(answered.insert(id), "{id} is answered twice");
            }
            answer_all().await;
            assert!(shared.answer_bytes() <= bound, "{} bytes", shared.answer_bytes());
        }
        assert_eq!(answered.len() as u64, REQUESTS);
        assert_eq!(shared.answer_bytes(), 0);
    }

    #[tokio::test]
    async fn what_was_on_its_way_when_the_node_stops_is_handed_over_and_then_the_session_ends() {
        let (inbox, mut events) = Inbox::new();
        let shared = Shared::default();
        let (_stop, stopping) = watch::channel(true);
        let frames = stream::iter((0..20).map(|id| Ok(gets(id..id + 1)))).chain(stream::pending());
        let mut answers = start(frames, inbox, shared.clone(), stopping);
        assert_eq!(shared.sessions_read(), 1);
        let mut refused = BTreeSet::new();
        while let Some(Queued { event: Event::Session { requests, session }, .. }) = events.recv().await {
            for (id, _) in requests {
                Reply::Session { id, session: session.clone() }.send(Err(Failure::NotServing("stopping".into())));
            }
            while let Some(Some(frame)) = answers.next().now_or_never() {
                refused.extend(frame.unwrap().responses.into_iter().map(|response| response.id));
            }
        }
        assert!(refused.into_iter().eq(0..20));
        assert_eq!(shared.sessions_read(), 0);
        assert!(answers.next().await.is_none());
    }
}
