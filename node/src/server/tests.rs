//! The client port over real sockets, with small bounds and short times: clients that send half, that do not read, and others meanwhile.
//! Instead of the loop somebody answers each request at once.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use dynamo_core::id::{ClusterId, Epoch, Incarnation, NodeId};
use dynamo_core::request::{Evidence, Failure, Operation, Outcome, Success};
use dynamo_core::version::{Actor, CausalContext, Dot, Object, Value};
use dynamo_proto::v1::kv_client::KvClient;
use dynamo_proto::v1::kv_server::Kv as _;
use dynamo_proto::{kv as wire, v1};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tower_service::Service as _;

use super::calls::Calls;
use crate::budget::{Budget, Budgets};
use crate::connections::{Acceptor, Connections, Patience, SILENCE_MAX, Speaks};
use crate::driver::{Event, Inbox, Queued, Reply, Shared};

/// Budgets of calls and of answers.
const BUDGET_BYTES: usize = 16 << 20;
/// What every get finds.
const VALUE_BYTES: usize = 1 << 20;
const SHORT: Duration = Duration::from_millis(200);
const NEVER: Duration = Duration::from_secs(3_600);
/// Far beyond what any of these steps takes, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client port that is served until this is dropped.
struct Port {
    address: SocketAddr,
    budgets: Budgets,
    connections: Connections,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Port {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Port {
    async fn serve(message_max: Duration, unread_max: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let budget = |name| Budget::new(name, BUDGET_BYTES);
        let budgets = Budgets { calls: budget("calls"), peer_calls: budget("peers"), answers: budget("answers") };
        let connections = Connections::of(4_096, u64::MAX);
        let patience = Patience { silence_max: SILENCE_MAX, unread_max };
        let acceptor = Acceptor::new(listener, connections.clients.clone(), Speaks::Http2, patience);
        let calls = Calls::new(budgets.calls.clone(), budgets.answers.clone(), message_max);
        let (inbox, events) = Inbox::of(u64::MAX);
        let shared = Shared::new(budgets.clone());
        let (stop, stopping) = watch::channel(false);
        let (ready, is_ready) = watch::channel(true);
        let kv = super::kv::KvService::new(ClusterId([7; 16]), inbox.clone(), shared, stopping.clone());
        let admin = super::admin::AdminService::new(inbox, budgets.answers.clone());
        let serving = async move {
            super::serve_clients(acceptor, calls, kv, admin, is_ready, stopping).await.unwrap();
            drop((stop, ready));
        };
        let tasks = [tokio::spawn(serving), tokio::spawn(answer_all(events))];
        Self { address, budgets, connections, tasks }
    }

    /// A connection whose calls may be sent this many bytes before they read.
    async fn connect(&self, window: u32) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        endpoint.initial_stream_window_size(window).connect().await.unwrap()
    }

    fn closed_for_unread(&self) -> u64 {
        let figures = self.connections.figures();
        figures.iter().find(|figure| figure.name == "connections_unread").unwrap().value
    }
}

async fn answer_all(mut events: mpsc::Receiver<Queued>) {
    while let Some(Queued { event, .. }) = events.recv().await {
        match event {
            Event::Request { request, reply } => reply.send(outcome(&request.operation)),
            Event::Session { requests, session } => {
                for (id, request) in requests {
                    Reply::Session { id, session: session.clone() }.send(outcome(&request.operation));
                }
            }
            _ => {}
        }
    }
}

fn outcome(operation: &Operation) -> Outcome {
    let evidence = Evidence { epoch: Epoch(1), nodes: Vec::new(), durable: 0, hinted: 0 };
    if !matches!(operation, Operation::Get) {
        return Ok(Success::Written { context: Bytes::new(), evidence });
    }
    let mut object = Object::default();
    let actor = Actor { node: NodeId([1; 16]), incarnation: Incarnation(1) };
    let value = Value { data: Some(vec![7; VALUE_BYTES].into()), written_ms: 0 };
    object.update(&CausalContext::default(), Dot { actor, counter: 1 }, value);
    Ok(Success::Got { object, context: Bytes::new(), evidence })
}

/// Looks again until it is so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A body that says so much and no more, until its client gives up.
struct Half {
    pieces: VecDeque<Bytes>,
    given_up: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl http_body::Body for Half {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        match self.pieces.pop_front() {
            Some(bytes) => Poll::Ready(Some(Ok(http_body::Frame::data(bytes)))),
            None => self.given_up.as_mut().poll(context).map(|()| Some(Err(Status::cancelled("the client gave up")))),
        }
    }
}

/// Calls `method` with the first `sent` bytes of a message of `length`; completes with the status that it is answered with. Dropped
/// before that, it has given up.
async fn half_sent(mut channel: Channel, method: &str, length: u32, sent: usize) -> Status {
    let prefix = [&[0], &length.to_be_bytes()[..]].concat();
    let (_waits, given_up) = watch::channel(false);
    let given_up = Box::pin(super::wait_for(given_up));
    let body = Body::new(Half { pieces: [prefix.into(), vec![0; sent].into()].into(), given_up });
    let request = http::Request::post(format!("/dynamo.v1.Kv/{method}"));
    let request = request.header("content-type", "application/grpc").header("te", "trailers").body(body).unwrap();
    std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
    let mut response = match channel.call(request).await {
        Ok(response) => response,
        Err(error) => return Status::from_error(error.into()),
    };
    if let Some(status) = Status::from_header_map(response.headers()) {
        return status;
    }
    loop {
        let frame = std::future::poll_fn(|context| http_body::Body::poll_frame(Pin::new(response.body_mut()), context)).await;
        match frame {
            Some(Ok(frame)) => {
                if let Some(status) = frame.trailers_ref().and_then(Status::from_header_map) {
                    return status;
                }
            }
            Some(Err(status)) => return status,
            None => return Status::unknown("it ended without a status"),
        }
    }
}

fn get() -> v1::GetRequest {
    v1::GetRequest { bucket: "b".into(), key: "k".into(), ..Default::default() }
}

fn put() -> v1::PutRequest {
    v1::PutRequest { bucket: "b".into(), key: "k".into(), value: "v".into(), ..Default::default() }
}

#[tokio::test]
async fn calls_that_send_half_of_their_message_are_bounded_in_all_and_others_are_served() {
    let port = Port::serve(NEVER, NEVER).await;
    let mut half = Vec::new();
    for method in ["Put", "Session"].repeat(10) {
        // Each has a connection of its own, and all but a byte of what it speaks of.
        let channel = port.connect(1 << 20).await;
        half.push((method, tokio::spawn(half_sent(channel, method, 2 << 20, (2 << 20) - 1))));
    }
    let calls = port.budgets.calls.clone();
    until("some are refused", || calls.refused() > 0 && half.iter().any(|(_, call)| call.is_finished())).await;
    let mut other = KvClient::new(port.connect(1 << 20).await);
    for _ in 0..100 {
        other.put(put()).await.unwrap();
        assert!(calls.held() <= BUDGET_BYTES, "{} bytes", calls.held());
    }
    // Three quarters of the budget are for what is sent: five of them fit.
    until("the rest waits", || calls.refused() >= 15 && calls.held() > BUDGET_BYTES / 2).await;
    let mut refusals = 0;
    for (method, call) in half {
        if call.is_finished() {
            let status = call.await.unwrap();
            assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
            assert!(status.message().contains("calls hold "), "{status:?}");
            // Of what a session sent before, nobody may conclude that it was not written.
            assert_eq!(matches!(wire::failure(&status), Some(Failure::Overloaded(_))), method == "Put", "{method}: {status:?}");
            refusals += 1;
        } else {
            call.abort();
        }
    }
    assert!(refusals > 0);
    until("everything is given back", || calls.held() == 0).await;
}

#[tokio::test]
async fn a_call_whose_message_does_not_come_is_ended_and_a_session_may_be_silent_between_messages() {
    let port = Port::serve(SHORT, NEVER).await;
    for (method, length, sent, nothing_was_written) in
        [("Put", 100, 50, true), ("Put", 100, 0, true), ("Session", 100, 50, false)]
    {
        let status = half_sent(port.connect(1 << 20).await, method, length, sent).await;
        assert_eq!(status.code(), Code::ResourceExhausted, "{method}: {status}");
        assert!(status.message().contains("did not come within 200ms"), "{method}: {status}");
        assert_eq!(matches!(wire::failure(&status), Some(Failure::Overloaded(_))), nothing_was_written, "{method}: {status:?}");
        assert_eq!(wire::failure(&status).is_some(), nothing_was_written, "{method}: {status:?}");
    }
    // A whole message, and no more.
    let silent = half_sent(port.connect(1 << 20).await, "Session", 0, 0);
    assert!(tokio::time::timeout(3 * SHORT, silent).await.is_err(), "it was ended");
}

#[tokio::test]
async fn answers_that_nobody_reads_are_bounded_in_all_and_their_connection_is_closed() {
    let port = Port::serve(NEVER, 20 * SHORT).await;
    let (answers, calls) = (port.budgets.answers.clone(), port.budgets.calls.clone());
    let idle = port.connect(0).await;
    let mut unread = Vec::new();
    for _ in 0..2 * BUDGET_BYTES / VALUE_BYTES {
        let mut kv = KvClient::new(idle.clone()).max_decoding_message_size(2 * VALUE_BYTES);
        // The answer begins, and is left where it is.
        unread.push(tokio::spawn(async move { kv.get(get()).await }));
    }
    let mut other = KvClient::new(port.connect(1 << 20).await).max_decoding_message_size(2 * VALUE_BYTES);
    until("there is no room for more", || answers.refused() > 0).await;
    assert!(answers.held() <= BUDGET_BYTES + VALUE_BYTES, "{} bytes", answers.held());
    let refused = other.get(get()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(matches!(wire::failure(&refused), Some(Failure::Overloaded(text)) if text.starts_with("answers hold ")));
    other.put(put()).await.unwrap();
    until("the connection is closed", || port.closed_for_unread() == 1).await;
    until("everything is given back", || answers.held() == 0).await;
    assert_eq!(other.get(get()).await.unwrap().into_inner().siblings[0].value.len(), VALUE_BYTES);
    for answer in unread {
        assert!(answer.await.unwrap().is_err());
    }
    until("no call is left", || calls.held() == 0 && answers.held() == 0).await;
}

#[tokio::test]
async fn a_session_that_is_not_read_is_charged_for_what_its_client_may_send_and_closed_at_last() {
    let port = Port::serve(NEVER, 20 * SHORT).await;
    let (answers, calls) = (port.budgets.answers.clone(), port.budgets.calls.clone());
    let mut kv = KvClient::new(port.connect(0).await);
    let requests = |count: u64| {
        let request = |id| v1::SessionRequest { id, request: Some(v1::session_request::Request::Put(put())) };
        v1::SessionRequests { requests: (0..count).map(request).collect(), epoch: 0 }
    };
    let endless = tokio_stream::StreamExt::chain(
        tokio_stream::iter([requests(1), requests(2_000), requests(2_000)]),
        tokio_stream::pending(),
    );
    let mut session = kv.session(endless).await.unwrap().into_inner();
    until("it stands still, and is charged", || calls.held() > super::session::STILL_BYTES).await;
    assert!(answers.held() > 0);
    until("its connection is closed", || port.closed_for_unread() == 1).await;
    until("everything is given back", || calls.held() == 0 && answers.held() == 0).await;
    assert!(session.message().await.is_err());
}

#[tokio::test]
async fn a_frame_of_many_empty_requests_ends_its_session_with_the_reason() {
    let port = Port::serve(NEVER, NEVER).await;
    let mut kv = KvClient::new(port.connect(1 << 20).await);
    let frame = |count| v1::SessionRequests { requests: vec![v1::SessionRequest::default(); count], epoch: 0 };
    let mut session = kv.session(tokio_stream::iter([frame(1), frame(1 << 20)])).await.unwrap().into_inner();
    let first = session.message().await.unwrap().unwrap();
    assert_eq!(first.responses.len(), 1);
    let refused = session.message().await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("send fewer in one message"), "{refused}");
    kv.put(put()).await.unwrap();
    // What is below the bound of one message counts while the session works on it.
    let calls = port.budgets.calls.clone();
    let frames = || tokio_stream::iter([frame(60_000)]);
    let refused = kv.session(frames()).await.unwrap().into_inner().message().await.unwrap_err();
    assert!(refused.message().starts_with("calls hold "), "{refused}");
    until("everything is given back", || calls.held() == 0).await;
}

#[tokio::test]
async fn a_call_that_comes_when_the_loop_has_ended_is_told_that_nothing_was_written() {
    let (inbox, events) = Inbox::of(u64::MAX);
    drop(events);
    let (_stop, stopping) = watch::channel(true);
    let kv = super::kv::KvService::new(ClusterId([7; 16]), inbox, Shared::default(), stopping);
    let put = kv.put(tonic::Request::new(put())).await.unwrap_err();
    let topology = kv.topology(tonic::Request::new(v1::TopologyRequest::default())).await.unwrap_err();
    for refused in [put, topology] {
        assert_eq!(refused.code(), Code::Unavailable);
        assert!(matches!(wire::failure(&refused), Some(Failure::NotServing(_))), "{refused:?}");
    }
}
