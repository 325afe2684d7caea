//! One pipelined stream to one node: any number of requests in flight, whatever is queued goes out in one message.
//!
//! Batching is opportunistic, without a timer: while one message is on its way out, requests queue up and form the next. So a
//! lone request never waits, and under load the cost of a message is shared. One task owns the stream; its end is
//! told to every request, and each learns which of two things happened to it: it was never sent, or it was sent and its answer
//! is lost. A caller that gives up takes back what was not sent: it knows that it was not, and the queue keeps nothing of it.
//!
//! A node that stands still, or is cut off without a word, ends no stream: [`crate::silence`] says when it is taken for gone. Then requests
//! that another node can take are told that their answers are lost, and go there.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dynamo_core::id::Epoch;
use dynamo_proto::v1;
use dynamo_proto::v1::session_request::Request;
use dynamo_proto::v1::session_response::Response;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::link::Stub;
use crate::silence::{OnSilence, Question, Silence, Suspicion};
use crate::topology::EpochWatch;

/// Requests that wait to be sent; more wait at the sender, within their deadlines.
const QUEUE_MAX: usize = 1024;
/// Requests sent and not answered. Over it nothing more is sent until answers come.
const IN_FLIGHT_MAX: usize = 8192;
/// Requests in one message.
const BATCH_REQUESTS_MAX: usize = 256;
/// Bytes of names, values and contexts in one message; a request that is larger travels alone. A node takes 16 MiB.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The node answered.
    Answer(Response),
    /// It never left this process.
    NotSent(String),
    /// It may have reached the node, and no answer will come.
    Lost(String),
}

/// The caller's time ran out first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct OutOfTime {
    /// The request may have reached the node.
    pub(crate) sent: bool,
}

/// A stream that is open, or has been.
#[derive(Debug)]
pub(crate) struct Session {
    queue: mpsc::Sender<Queued>,
    task: AbortHandle,
    is_silent: Arc<AtomicBool>,
}

/// A request that is not in a message yet: either the stream takes it, or its caller takes it back, and not both.
#[derive(Clone, Debug)]
struct Unsent(Arc<Mutex<Option<Request>>>);

impl Unsent {
    fn new(request: Request) -> Self {
        Self(Arc::new(Mutex::new(Some(request))))
    }

    /// The request, for the first who takes it.
    fn take(&self) -> Option<Request> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Its bytes; none if its caller gave up.
    fn size(&self) -> Option<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(size_of)
    }
}

/// The caller's hold on what is not sent yet; letting go of it takes it back.
struct Held(Unsent);

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.0.take());
    }
}

#[derive(Debug)]
struct Queued {
    request: Unsent,
    on_silence: OnSilence,
    reply: oneshot::Sender<Reply>,
}

/// A request that was sent.
#[derive(Debug)]
struct InFlight {
    on_silence: OnSilence,
    reply: oneshot::Sender<Reply>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Session {
    /// Opens a stream on `stub`. Epochs in its answers are told to `epochs`.
    pub(crate) async fn open(mut stub: Stub, epochs: Arc<EpochWatch>) -> Result<Self, tonic::Status> {
        let (outbound, messages) = mpsc::channel(1);
        // The node learns our epoch, and an answer to the call does not depend on a first request.
        let hello = v1::SessionRequests { requests: Vec::new(), epoch: epochs.held().0 };
        outbound.try_send(hello).map_err(|error| tonic::Status::internal(error.to_string()))?;
        let began = Instant::now();
        let inbound = stub.session(ReceiverStream::new(messages)).await?.into_inner();
        let silence = Silence::on_a_link_of(began.elapsed());
        let (queue, queued) = mpsc::channel(QUEUE_MAX);
        let (pipeline, question) = (Pipeline::default(), Question::of(stub));
        let is_silent = Arc::<AtomicBool>::default();
        let stream = Stream { queued, pipeline, outbound, inbound, silence, is_silent: Arc::clone(&is_silent), question, epochs };
        let task = tokio::spawn(stream.run()).abort_handle();
        Ok(Self { queue, task, is_silent })
    }

    /// The stream has ended; nothing can be sent on it.
    pub(crate) fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// The node was taken for gone, and has said nothing since.
    pub(crate) fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::Relaxed)
    }

    /// Sends `request` and waits until `deadline` for what becomes of it. Dropped before it is sent, it is not sent.
    pub(crate) async fn call(&self, request: Request, on_silence: OnSilence, deadline: Instant) -> Result<Reply, OutOfTime> {
        let (reply, outcome) = oneshot::channel();
        let held = Held(Unsent::new(request));
        let queued = Queued { request: held.0.clone(), on_silence, reply };
        let answered = async {
            if self.queue.send(queued).await.is_err() {
                return Reply::NotSent("the stream has ended".to_owned());
            }
            outcome.await.unwrap_or_else(|_| Reply::Lost("the client was closed".to_owned()))
        };
        timeout_at(deadline, answered).await.map_err(|_| OutOfTime { sent: held.0.take().is_none() })
    }
}

/// The task that owns the stream.
struct Stream {
    queued: mpsc::Receiver<Queued>,
    pipeline: Pipeline,
    outbound: mpsc::Sender<v1::SessionRequests>,
    inbound: Streaming<v1::SessionResponses>,
    silence: Silence,
    is_silent: Arc<AtomicBool>,
    question: Question,
    epochs: Arc<EpochWatch>,
}

impl Stream {
    async fn run(mut self) {
        let mut taken = Vec::with_capacity(BATCH_REQUESTS_MAX);
        let reason = loop {
            let check = self.silence.next_check(self.pipeline.awaits_answers(), Instant::now());
            let may_send = self.pipeline.has_room() && !self.pipeline.waiting.is_empty();
            let is_silent = self.is_silent.load(Ordering::Relaxed);
            let may_take = self.pipeline.may_take(is_silent);
            tokio::select! {
                () = sleep_until(check.unwrap_or_else(Instant::now)), if check.is_some() => match self.silence.passed_a_check() {
                    Suspicion::Early => {}
                    Suspicion::Ask => self.question.ask(&self.epochs),
                    Suspicion::Gone => {
                        self.is_silent.store(true, Ordering::Relaxed);
                        self.pipeline.is_silent(self.silence.limit());
                    }
                },
                epoch = self.question.answered() => {
                    self.silence.ended();
                    self.is_silent.store(false, Ordering::Relaxed);
                    self.epochs.heard_of(epoch);
                }
                message = self.inbound.message() => match message {
                    Ok(Some(message)) => {
                        self.silence.ended();
                        self.is_silent.store(false, Ordering::Relaxed);
                        self.epochs.heard_of(Epoch(message.epoch));
                        self.pipeline.answered(message.responses);
                    }
                    Ok(None) => break "the node ended the stream".to_owned(),
                    Err(status) => break format!("the connection was lost: {}", status.message()),
                },
                permit = self.outbound.reserve(), if may_send => match permit {
                    Ok(permit) => {
                        let requests = self.pipeline.next_message();
                        permit.send(v1::SessionRequests { requests, epoch: self.epochs.held().0 });
                    }
                    Err(_) => break "the connection was lost".to_owned(),
                },
                count = self.queued.recv_many(&mut taken, BATCH_REQUESTS_MAX), if may_take => {
                    if count == 0 {
                        break "the client was closed".to_owned();
                    }
                    self.pipeline.waiting.extend(taken.drain(..));
                    if is_silent {
                        // They were on their way here before it was. All the others ask elsewhere.
                        self.pipeline.is_silent(self.silence.limit());
                    }
                }
            }
        };
        self.queued.close();
        while let Some(queued) = self.queued.recv().await {
            self.pipeline.waiting.push_back(queued);
        }
        self.pipeline.ended(&reason);
    }
}

/// The requests of one stream: which wait, which are in flight, and what each is told.
#[derive(Default)]
struct Pipeline {
    /// Taken from the queue, not yet in a message.
    waiting: VecDeque<Queued>,
    in_flight: HashMap<u64, InFlight>,
    next_id: u64,
}

impl Pipeline {
    /// More may be sent. Callers that gave up make room: their answers would find no one.
    fn has_room(&mut self) -> bool {
        if self.in_flight.len() >= IN_FLIGHT_MAX {
            self.in_flight.retain(|_, sent| !sent.reply.is_closed());
        }
        self.in_flight.len() < IN_FLIGHT_MAX
    }

    /// More may be taken from the queue. Of a node that is silent all is taken, to be told so, but for what goes on waiting: that is no more
    /// than a queue holds.
    fn may_take(&self, is_silent: bool) -> bool {
        self.waiting.is_empty() || (is_silent && self.waiting.len() < QUEUE_MAX)
    }

    /// As many waiting requests as fit in one message; those whose callers gave up are left out.
    fn next_message(&mut self) -> Vec<v1::SessionRequest> {
        let mut requests = Vec::with_capacity(self.waiting.len());
        let mut bytes = 0;
        while let Some(queued) = self.waiting.pop_front() {
            let Some(size) = queued.request.size() else { continue };
            if bytes + size > BATCH_BYTES_MAX && !requests.is_empty() {
                self.waiting.push_front(queued);
                break;
            }
            let Queued { request, on_silence, reply } = queued;
            let Some(request) = request.take() else { continue };
            bytes += size;
            self.next_id += 1;
            self.in_flight.insert(self.next_id, InFlight { on_silence, reply });
            requests.push(v1::SessionRequest { id: self.next_id, request: Some(request) });
        }
        requests
    }

    fn answered(&mut self, responses: Vec<v1::SessionResponse>) {
        for v1::SessionResponse { id, response } in responses {
            let Some(sent) = self.in_flight.remove(&id) else { continue };
            // A caller that gave up is not there to hear it.
            let _ = sent.reply.send(match response {
                Some(response) => Reply::Answer(response),
                None => Reply::Lost("the answer is of an unknown kind".to_owned()),
            });
        }
    }

    /// Answers are owed, or requests wait that cannot be sent.
    fn awaits_answers(&self) -> bool {
        !self.in_flight.is_empty() || !self.waiting.is_empty()
    }

    /// The node owes answers and says nothing: what may be asked of another node is.
    fn is_silent(&mut self, silence: Duration) {
        let reason = || format!("nothing was heard of the node for {} ms", silence.as_millis());
        for (_, sent) in self.in_flight.extract_if(|_, sent| sent.on_silence == OnSilence::Move || sent.reply.is_closed()) {
            let _ = sent.reply.send(Reply::Lost(reason()));
        }
        let (stay, go) = self.waiting.drain(..).partition(|queued| queued.on_silence == OnSilence::Wait);
        self.waiting = stay;
        for queued in VecDeque::into_iter(go) {
            let _ = queued.reply.send(Reply::NotSent(reason()));
        }
    }

    /// The stream is no more: what was sent is lost, what was not was not.
    fn ended(self, reason: &str) {
        for (_, sent) in self.in_flight {
            let _ = sent.reply.send(Reply::Lost(reason.to_owned()));
        }
        for queued in self.waiting {
            let _ = queued.reply.send(Reply::NotSent(reason.to_owned()));
        }
    }
}

fn size_of(request: &Request) -> usize {
    match request {
        Request::Get(get) => get.bucket.len() + get.key.len(),
        Request::Put(put) => put.bucket.len() + put.key.len() + put.value.len() + put.context.len(),
        Request::Delete(delete) => delete.bucket.len() + delete.key.len() + delete.context.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn queue(pipeline: &mut Pipeline, value_bytes: usize) -> oneshot::Receiver<Reply> {
        let (reply, outcome) = oneshot::channel();
        let put = v1::PutRequest { value: Bytes::from(vec![0; value_bytes]), ..Default::default() };
        let request = Unsent::new(Request::Put(put));
        pipeline.waiting.push_back(Queued { request, on_silence: OnSilence::MoveUnsent, reply });
        outcome
    }

    fn ids(requests: &[v1::SessionRequest]) -> Vec<u64> {
        requests.iter().map(|request| request.id).collect()
    }

    #[test]
    fn what_waits_goes_out_together_up_to_a_size() {
        let mut pipeline = Pipeline::default();
        let _outcomes: Vec<_> = [10, 10, BATCH_BYTES_MAX, 10].map(|size| queue(&mut pipeline, size)).into();
        let messages: Vec<Vec<u64>> = std::iter::from_fn(|| Some(ids(&pipeline.next_message()))).take(4).collect();
        assert_eq!(messages, [vec![1, 2], vec![3], vec![4], vec![]]);
    }

    #[test]
    fn an_answer_reaches_the_caller_whose_id_it_carries() {
        let mut pipeline = Pipeline::default();
        let (mut first, mut second) = (queue(&mut pipeline, 1), queue(&mut pipeline, 1));
        pipeline.next_message();
        let response = Some(Response::Put(v1::PutResponse::default()));
        pipeline.answered(vec![v1::SessionResponse { id: 2, response }, v1::SessionResponse { id: 99, response: None }]);
        assert!(matches!(second.try_recv(), Ok(Reply::Answer(Response::Put(_)))));
        assert!(first.try_recv().is_err(), "the first still waits");
    }

    #[test]
    fn at_the_end_what_was_sent_is_lost_and_what_was_not_was_not() {
        let mut pipeline = Pipeline::default();
        let mut sent = queue(&mut pipeline, 1);
        pipeline.next_message();
        let mut waiting = queue(&mut pipeline, 1);
        pipeline.ended("the cable was cut");
        assert!(matches!(sent.try_recv(), Ok(Reply::Lost(reason)) if reason.contains("cable")));
        assert!(matches!(waiting.try_recv(), Ok(Reply::NotSent(_))));
    }

    #[test]
    fn what_is_queued_for_a_silent_node_is_taken_though_others_go_on_waiting_for_it() {
        let mut pipeline = Pipeline::default();
        assert!(pipeline.may_take(false) && pipeline.may_take(true));
        let mut waiting = Vec::new();
        for count in 1..=QUEUE_MAX {
            waiting.push(queue(&mut pipeline, 1));
            pipeline.waiting[count - 1].on_silence = OnSilence::Wait;
            let mut moves = queue(&mut pipeline, 1);
            pipeline.is_silent(Duration::from_millis(250));
            assert!(matches!(moves.try_recv(), Ok(Reply::NotSent(_))), "{count}");
            assert_eq!((pipeline.may_take(false), pipeline.may_take(true)), (false, count < QUEUE_MAX), "{count}");
        }
        assert!(waiting.iter_mut().all(|outcome| outcome.try_recv().is_err()));
    }

    #[test]
    fn of_a_silent_node_only_what_may_be_written_twice_goes_on_waiting() {
        let mut pipeline = Pipeline::default();
        let (mut once, mut often, mut alone) = (queue(&mut pipeline, 1), queue(&mut pipeline, 1), queue(&mut pipeline, 1));
        pipeline.waiting[1].on_silence = OnSilence::Move;
        pipeline.waiting[2].on_silence = OnSilence::Wait;
        pipeline.next_message();
        let (mut unsent, mut unsent_alone) = (queue(&mut pipeline, 1), queue(&mut pipeline, 1));
        pipeline.waiting[1].on_silence = OnSilence::Wait;
        pipeline.is_silent(Duration::from_millis(250));
        assert!(once.try_recv().is_err(), "it may have been made, and would be made again");
        assert!(matches!(often.try_recv(), Ok(Reply::Lost(reason)) if reason.contains("250 ms")));
        assert!(matches!(unsent.try_recv(), Ok(Reply::NotSent(_))));
        assert!(alone.try_recv().is_err() && unsent_alone.try_recv().is_err(), "there is nobody else to ask");
        let response = || Some(Response::Put(v1::PutResponse::default()));
        pipeline.answered([1, 3].map(|id| v1::SessionResponse { id, response: response() }).into());
        assert!(matches!(once.try_recv(), Ok(Reply::Answer(_))), "the node went on");
        assert!(matches!(alone.try_recv(), Ok(Reply::Answer(_))));
        assert_eq!(ids(&pipeline.next_message()), [4], "what waited is sent now");
    }

    #[test]
    fn a_request_is_sent_or_taken_back_and_not_both() {
        let mut pipeline = Pipeline::default();
        let [sent, taken_back] = [(); 2].map(|()| {
            let held = Held(Unsent::new(Request::Get(v1::GetRequest::default())));
            let (reply, _) = oneshot::channel();
            pipeline.waiting.push_back(Queued { request: held.0.clone(), on_silence: OnSilence::Wait, reply });
            held
        });
        assert!(taken_back.0.take().is_some(), "its caller knows that it was not sent");
        assert_eq!(ids(&pipeline.next_message()), [1]);
        assert!(sent.0.take().is_none(), "its caller knows that it may have been");
    }

    #[test]
    fn a_caller_that_gave_up_is_not_sent_and_makes_room() {
        let mut pipeline = Pipeline::default();
        let value = Bytes::from(vec![0; 10]);
        let put = v1::PutRequest { value: value.clone(), ..Default::default() };
        let held = Held(Unsent::new(Request::Put(put)));
        let (reply, _outcome) = oneshot::channel();
        pipeline.waiting.push_back(Queued { request: held.0.clone(), on_silence: OnSilence::Wait, reply });
        drop(held);
        assert!(value.is_unique(), "what waits keeps nothing of it");
        let _outcome = queue(&mut pipeline, 1);
        assert_eq!(ids(&pipeline.next_message()), [1]);
        for _ in 0..IN_FLIGHT_MAX {
            let (reply, _) = oneshot::channel();
            pipeline.next_id += 1;
            pipeline.in_flight.insert(pipeline.next_id, InFlight { on_silence: OnSilence::MoveUnsent, reply });
        }
        assert!(pipeline.has_room());
        assert_eq!(pipeline.in_flight.len(), 1, "only the one that still waits");
    }
}
