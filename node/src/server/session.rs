//! One session: many requests in flight on one stream, many in a frame, answered in the order of completion.
//!
//! A task reads frames and hands each to the loop as one event; the stream of answers puts all that wait into one frame. What
//! is in flight is bounded by the session's window: a client that does not read its answers is not read from either.
//!
//! A node that stops goes on reading for a moment, so that what was on its way is refused and not left without a word. What could not be
//! handed over until then is refused here.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use dynamo_core::request::{Failure, Operation, Request};
use dynamo_proto::kv::session_request;
use dynamo_proto::v1;
use futures::{FutureExt as _, Stream, StreamExt as _};
use tokio::sync::{oneshot, watch};
use tonic::Status;

use super::wait_for;
use crate::budget::Charge;
use crate::connections::Watched;
use crate::driver::{Event, Inbox, SessionReceiver, SessionSender, Shared, Window};

/// A frame takes no further answer when it has this many bytes.
const FRAME_BYTES: usize = 1 << 20;
/// For so long a session is read after the node was told to stop: a client far away hears of it, and what it sent until then arrives.
const GRACE: Duration = Duration::from_millis(500);

/// What the requests of an ordinary frame take in memory: only more is counted.
const FEW_BYTES: usize = 64 << 10;
/// A field that is a small part of a longer frame has memory of its own: a request may be kept for long, and its frame with it.
const FRAME_SHARED_MAX: usize = 64 << 10;
const SMALL_SHARE: usize = 4;
/// For so long a session may stand still at no charge, as it does between two turns of the loop ...
const STILL_FREE: Duration = Duration::from_secs(1);
/// ... and after that it is charged what its client may have sent meanwhile: HTTP/2's window, and what its frames take beside.
pub(super) const STILL_BYTES: usize = 2 << 20;

/// The session's outgoing stream.
pub struct Answers {
    receiver: SessionReceiver,
    window: Arc<Window>,
    shared: Shared,
    /// Why no more of the session is read, if that is for the client to know.
    ended: oneshot::Receiver<Status>,
}

impl Answers {
    /// For those who look whether they are read.
    pub fn watched(&self) -> Weak<dyn Watched> {
        let window: Weak<Window> = Arc::downgrade(&self.window);
        window
    }
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
    let (end, ended) = oneshot::channel();
    let charge = Charge::new(&shared.budgets.calls);
    let stop = async {
        wait_for(stopping).await;
        tokio::time::sleep(GRACE).await;
    };
    let reader = read(frames, inbox, session, Arc::clone(&window), charge, stop);
    tokio::spawn(async move {
        if let Err(status) = reader.await {
            // Nobody is there to hear it, then.
            let _ = end.send(status);
        }
        drop(reading);
    });
    Answers { receiver, window, shared, ended }
}

/// Ends when the client has said all or went away, or `stop` completes, and with an error when the client says what is not taken; what is in
/// flight is still answered.
async fn read(
    mut frames: impl Stream<Item = Result<v1::SessionRequests, Status>> + Unpin,
    inbox: Inbox,
    session: SessionSender,
    window: Arc<Window>,
    mut charge: Charge,
    stop: impl Future<Output = ()>,
) -> Result<(), Status> {
    tokio::pin!(stop);
    loop {
        let frame = tokio::select! {
            biased;
            frame = frames.next() => frame,
            () = &mut stop => None,
        };
        let Some(frame) = frame else { return Ok(()) };
        let v1::SessionRequests { requests, .. } = frame?;
        let count = requests.len();
        let frame_bytes: usize = requests.iter().map(prost::Message::encoded_len).sum();
        let held = (requests.capacity() * size_of::<v1::SessionRequest>()).saturating_sub(FEW_BYTES);
        hold(&mut charge, held)?;
        let mut requests = requests.into_iter();
        // More than may be in flight is handed over in parts.
        while requests.len() > 0 {
            let place = async {
                let Some(taken) = room(&window, requests.len(), &mut charge, held).await? else { return Ok(None) };
                let bytes = (frame_bytes / count + size_of::<Request>()) * taken;
                Ok::<_, Status>(inbox.place(bytes).await.ok().map(|place| (taken, place)))
            };
            let place = tokio::select! {
                biased;
                place = place => place?,
                () = &mut stop => None,
            };
            let Some((taken, place)) = place else {
                refuse(requests, &session);
                // What has arrived behind it.
                while let Some(Some(Ok(frame))) = frames.next().now_or_never() {
                    refuse(frame.requests.into_iter(), &session);
                }
                return Ok(());
            };
            let part = hand_over(requests.by_ref().take(taken), frame_bytes, &session);
            place.send(Event::Session { requests: part, session: session.clone() });
        }
    }
}

/// The node stops, and these were not handed over.
fn refuse(requests: impl Iterator<Item = v1::SessionRequest>, session: &SessionSender) {
    requests.for_each(|request| fail(request.id, Failure::NotServing("the node is stopping".into()), session));
}

fn fail(id: u64, failure: Failure, session: &SessionSender) {
    let response = v1::session_response::Response::Failure(failure.into());
    session.send(v1::SessionResponse { id, response: Some(response) });
}

fn hold(charge: &mut Charge, bytes: usize) -> Result<(), Status> {
    charge.set_bulk(bytes).map_err(|full| Status::resource_exhausted(full.to_string()))
}

/// Waits until some of `waiting` requests may be in flight, with what that holds charged; `None` once the session has ended.
async fn room(window: &Window, waiting: usize, charge: &mut Charge, held: usize) -> Result<Option<usize>, Status> {
    if let Ok(taken) = tokio::time::timeout(STILL_FREE, window.take(waiting)).await {
        return Ok(taken);
    }
    hold(charge, held + STILL_BYTES)?;
    let taken = window.take(waiting).await;
    hold(charge, held)?;
    Ok(taken)
}

/// Those that can be served; the others are answered at once.
fn hand_over(part: impl Iterator<Item = v1::SessionRequest>, frame_bytes: usize, session: &SessionSender) -> Vec<(u64, Request)> {
    let mut requests = Vec::with_capacity(part.size_hint().0);
    for v1::SessionRequest { id, request } in part {
        match session_request(request) {
            Ok(mut request) => {
                leave_frame(&mut request.operation, frame_bytes);
                requests.push((id, request));
            }
            Err(failure) => fail(id, failure, session),
        }
    }
    requests
}

fn leave_frame(operation: &mut Operation, frame_bytes: usize) {
    if frame_bytes <= FRAME_SHARED_MAX {
        return;
    }
    let leave = |field: &mut Bytes| {
        if !field.is_empty() && field.len() < frame_bytes / SMALL_SHARE {
            *field = Bytes::copy_from_slice(field);
        }
    };
    match operation {
        Operation::Get => {}
        Operation::Put { data, context, .. } => {
            leave(data);
            leave(context);
        }
        Operation::Delete { context } => leave(context),
    }
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
            (true, true) => Poll::Ready(self.ended.try_recv().ok().map(Err)),
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
    use dynamo_core::request::{Evidence, Success};
    use dynamo_core::version::{Actor, CausalContext, Dot, Object, Value};
    use futures::stream;

    use crate::driver::{Queued, Reply, SESSION_BYTES_MAX};

    /// Far beyond what any of these steps takes, on the slowest machine.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn gets(ids: std::ops::Range<u64>) -> v1::SessionRequests {
        let get = v1::GetRequest { bucket: "b".into(), key: "k".into(), ..Default::default() };
        let request = |id| v1::SessionRequest { id, request: Some(v1::session_request::Request::Get(get.clone())) };
        v1::SessionRequests { requests: ids.map(request).collect(), epoch: 0 }
    }

    fn puts(ids: std::ops::Range<u64>) -> v1::SessionRequests {
        let put = v1::PutRequest { bucket: "b".into(), key: "k".into(), value: "v".into(), ..Default::default() };
        let request = |id| v1::SessionRequest { id, request: Some(v1::session_request::Request::Put(put.clone())) };
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
        let (inbox, mut events) = Inbox::of(u64::MAX);
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
        assert!(
            (SESSION_BYTES_MAX / 2..=bound).contains(&shared.budgets.answers.held()),
            "{} bytes",
            shared.budgets.answers.held()
        );
        let mut answered = BTreeSet::new();
        while let Some(Some(frame)) = answers.next().now_or_never() {
            for v1::SessionResponse { id, response } in frame.unwrap().responses {
                assert!(matches!(response, Some(v1::session_response::Response::Get(_))), "{response:?}");
                assert!(answered.insert(id), "{id} is answered twice");
            }
            answer_all().await;
            assert!(shared.budgets.answers.held() <= bound, "{} bytes", shared.budgets.answers.held());
        }
        assert_eq!(answered.len() as u64, REQUESTS);
        assert_eq!(shared.budgets.answers.held(), 0);
    }

    #[test]
    fn a_small_part_of_a_long_frame_does_not_keep_the_frame() {
        let frame = Bytes::from(vec![7; 2 * FRAME_SHARED_MAX]);
        for (part, frame_bytes, has_left) in
            [(10, frame.len(), true), (10, FRAME_SHARED_MAX, false), (frame.len() / 2, frame.len(), false)]
        {
            let field = frame.slice(..part);
            let mut put = Operation::Put { data: field.clone(), context: field.clone(), create_only: false };
            let mut delete = Operation::Delete { context: field };
            leave_frame(&mut put, frame_bytes);
            leave_frame(&mut delete, frame_bytes);
            let (Operation::Put { data, context, .. }, Operation::Delete { context: seen }) = (put, delete) else { panic!() };
            for field in [data, context, seen] {
                assert_eq!(field, frame[..part]);
                assert_eq!(frame.as_ptr_range().contains(&field.as_ptr()), !has_left, "{part} of {frame_bytes}");
            }
        }
    }

    #[tokio::test]
    async fn what_was_on_its_way_when_the_node_stops_is_handed_over_and_then_the_session_ends() {
        let (inbox, mut events) = Inbox::of(u64::MAX);
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

    #[tokio::test]
    async fn what_a_session_had_still_to_hand_over_when_the_node_stops_is_refused_and_not_left_without_a_word() {
        // Where the loop has no room, and where the session has as much in flight as it may have.
        for is_full in [true, false] {
            // Nobody takes what comes out of it.
            let (inbox, mut events) = Inbox::of(u64::MAX);
            if is_full {
                inbox.send(Event::Messages { from: NodeId([1; 16]), messages: Vec::new() }, usize::MAX).await.unwrap();
            }
            let shared = Shared::default();
            let (_stop, stopping) = watch::channel(true);
            let frames = stream::iter([Ok(puts(0..1_500)), Ok(puts(1_500..1_600))]).chain(stream::pending());
            let mut answers = start(frames, inbox, shared.clone(), stopping);
            let first = tokio::time::timeout(PATIENCE, answers.next()).await.expect("a word").unwrap();
            assert_eq!(shared.sessions_read(), 0, "the loop need not wait for it");
            // The loop refuses what it was given, when it ends.
            while let Ok(Queued { event, .. }) = events.try_recv() {
                let Event::Session { requests, session } = event else { continue };
                assert!(!is_full);
                for (id, _) in requests {
                    Reply::Session { id, session: session.clone() }.send(Err(Failure::NotServing("stopping".into())));
                }
            }
            let mut refused = Vec::new();
            for frame in std::iter::once(first).chain(answers.collect::<Vec<_>>().await) {
                for v1::SessionResponse { id, response } in frame.unwrap().responses {
                    let Some(v1::session_response::Response::Failure(failure)) = response else { panic!("{id}: {response:?}") };
                    assert_eq!(failure.kind(), v1::failure::Kind::NotServing, "{id}");
                    refused.push(id);
                }
            }
            refused.sort_unstable();
            assert!(refused.into_iter().eq(0..1_600), "each once; the loop is full: {is_full}");
        }
    }
}
