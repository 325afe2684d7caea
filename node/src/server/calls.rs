//! What the calls of a port hold in memory, counted between tonic and hyper: messages on their way in, and answers on their way out.
//!
//! ```text
//! socket ──> Received: counts what came of each message ──> tonic decodes ──> service
//! socket <── h2 keeps it until the client reads <── Answer: counts it until then <──┘
//! ```
//!
//! A call that answers once holds its message until it has answered. One that goes on, a session or a link, holds a message until it
//! asks for the next. A call whose message would exceed the budget is refused with the budget's numbers, one whose message is too long with
//! its length as soon as that has come; one whose message does not come is ended. A call that has not been answered is told that nothing was
//! written. One that goes on ends with a bare status: of what it sent before, that would not be true.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use dynamo_core::config::VALUE_BYTES_MAX;
use dynamo_core::request::Failure;
use dynamo_proto::kv::status;
use http_body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tonic::body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::overloaded;
use crate::budget::{Budget, Charge};
use crate::connections::{Unread, UnreadAnswer};

/// What a call holds beside its message: its task, its stream, its headers, a first buffer.
const CALL_BYTES: usize = 16 << 10;
/// The part of them that a short message fits in.
const SHORT_MESSAGE_BYTES: usize = 8 << 10;
/// Each header beyond the first few, of which the list of them is bounded in bytes.
const HEADER_BYTES: usize = 256;
const HEADERS_FREE: usize = 32;
/// A shorter piece of an answer that goes on is not counted: [`CALL_BYTES`] covers it.
const SHORT_ANSWER_BYTES: usize = 4 << 10;
/// For so long a message that has begun may be on its way.
pub const MESSAGE_MAX: Duration = Duration::from_secs(30);

/// Counts the calls of a service.
#[derive(Clone)]
pub struct Calls {
    calls: Arc<Budget>,
    answers: Arc<Budget>,
    message_max: Duration,
    message_bytes_max: usize,
}

impl Calls {
    /// With these budgets, and so long for a message.
    pub fn new(calls: Arc<Budget>, answers: Arc<Budget>, message_max: Duration) -> Self {
        Self { calls, answers, message_max, message_bytes_max: usize::MAX }
    }

    /// The same, where clients call: a longer message is refused in words that help them.
    pub fn of_messages_up_to(self, message_bytes_max: usize) -> Self {
        Self { message_bytes_max, ..self }
    }
}

impl<S> Layer<S> for Calls {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, calls: self.clone() }
    }
}

/// A service whose calls are counted.
#[derive(Clone)]
pub struct Counted<S> {
    inner: S,
    calls: Calls,
}

type Answering<E> = Pin<Box<dyn Future<Output = Result<http::Response<Body>, E>> + Send>>;

impl<S> Service<http::Request<Body>> for Counted<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Answering<S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Answering<S::Error> {
        let limits = self.calls.clone();
        let mut charge = Charge::new(&limits.calls);
        let headers = request.headers().len().saturating_sub(HEADERS_FREE);
        if let Err(full) = charge.set(CALL_BYTES + headers * HEADER_BYTES) {
            let refused = overloaded(full).into_http();
            return Box::pin(async { Ok(refused) });
        }
        let call = Arc::new(Call { _charge: charge, answered: AtomicBool::new(false), message: Mutex::new(None) });
        let unread = request.extensions().get::<Arc<Unread>>().cloned();
        let received = |body| Body::new(Received::new(body, Arc::clone(&call), &limits));
        let answering = self.inner.call(request.map(received));
        Box::pin(async move {
            let response = answering.await?;
            // Nobody reads it any more, so it was one message, and it was handed over.
            let is_single = call.answers().is_some();
            let answers = limits.answers;
            Ok(response.map(|body| Body::new(Answer { body, _call: call, is_single, answers, unread })))
        })
    }
}

/// One call, for as long as anything of it is there.
struct Call {
    _charge: Charge,
    answered: AtomicBool,
    /// What its message holds, if that has been read.
    message: Mutex<Option<Charge>>,
}

impl Call {
    fn keep(&self, message: Charge) {
        *self.message.lock().unwrap_or_else(PoisonError::into_inner) = Some(message);
    }

    fn answers(&self) -> Option<Charge> {
        self.answered.store(true, Ordering::Relaxed);
        self.message.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn has_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }
}

/// The body of a request.
struct Received {
    body: Body,
    call: Arc<Call>,
    charge: Charge,
    messages: Messages,
    /// Bytes that tonic and the service have of it.
    held: usize,
    message_max: Duration,
    message_bytes_max: usize,
    /// When a message that is awaited comes too late.
    late: Option<Pin<Box<Sleep>>>,
}

impl Received {
    fn new(body: Body, call: Arc<Call>, limits: &Calls) -> Self {
        let &Calls { ref calls, message_max, message_bytes_max, .. } = limits;
        let (charge, messages) = (Charge::new(calls), Messages::default());
        Self { body, call, charge, messages, held: 0, message_max, message_bytes_max, late: None }
    }

    /// The call holds so many bytes of its messages.
    fn hold(&mut self, bytes: usize) -> Result<(), Status> {
        self.held = bytes;
        let charged = bytes.saturating_sub(SHORT_MESSAGE_BYTES);
        self.charge.set_bulk(charged).map_err(|refused| self.ended(overloaded(refused)))
    }

    /// What the call ends with.
    fn ended(&self, status: Status) -> Status {
        if self.call.has_answered() { Status::new(status.code(), status.message()) } else { status }
    }

    fn came(&mut self, data: &[u8]) -> Result<(), Status> {
        if self.messages.advance(data) {
            self.late = None;
        }
        let (bytes, most) = (self.messages.longest, self.message_bytes_max);
        if bytes > most {
            let way_out = format!("a value has at most {VALUE_BYTES_MAX}: split it over several keys");
            let too_long = Failure::Invalid(format!("message: {bytes} bytes, at most {most}; {way_out}"));
            return Err(self.ended(status(too_long.into())));
        }
        self.hold(self.held + data.len())
    }

    /// An error when what is awaited has not come for too long.
    fn in_time(&mut self, context: &mut Context<'_>) -> Result<(), Status> {
        if self.messages.unfinished == 0 && self.call.has_answered() {
            return Ok(());
        }
        let message_max = self.message_max;
        let late = self.late.get_or_insert_with(|| Box::pin(sleep(message_max)));
        if late.as_mut().poll(context).is_pending() {
            return Ok(());
        }
        let reason = format!("the rest of the call's message did not come within {message_max:?}; send it again");
        Err(self.ended(status(Failure::Overloaded(reason).into())))
    }
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.call.has_answered() && this.held > this.messages.unfinished {
            // Who goes on and asks for more has handed over what it had.
            this.hold(this.messages.unfinished)?;
        }
        let frame = Pin::new(&mut this.body).poll_frame(context);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    this.came(data)?;
                }
            }
            Poll::Ready(_) => {}
            Poll::Pending => this.in_time(context)?,
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if !self.call.has_answered() {
            let nothing = Charge::new(self.charge.budget());
            self.call.keep(std::mem::replace(&mut self.charge, nothing));
        }
    }
}

/// gRPC's messages in a stream of bytes: each behind a flag and its length.
#[derive(Default)]
struct Messages {
    prefix: [u8; Self::PREFIX_BYTES],
    /// Bytes of the message that has begun and not ended, with its prefix.
    unfinished: usize,
    /// Bytes that it lacks, once the prefix is there.
    lacking: usize,
    /// Bytes of the longest one so far, as the prefixes say.
    longest: usize,
}

impl Messages {
    const PREFIX_BYTES: usize = 5;

    /// More bytes came; true if a message ended with some of them.
    fn advance(&mut self, mut data: &[u8]) -> bool {
        let mut ended = false;
        while !data.is_empty() {
            let of_prefix = Self::PREFIX_BYTES.saturating_sub(self.unfinished).min(data.len());
            self.prefix[self.unfinished.min(Self::PREFIX_BYTES)..][..of_prefix].copy_from_slice(&data[..of_prefix]);
            self.unfinished += of_prefix;
            if of_prefix > 0 && self.unfinished == Self::PREFIX_BYTES {
                let [_, length @ ..] = self.prefix;
                self.lacking = u32::from_be_bytes(length) as usize;
                self.longest = self.longest.max(self.lacking);
            }
            let of_message = if self.unfinished < Self::PREFIX_BYTES { 0 } else { self.lacking.min(data.len() - of_prefix) };
            self.unfinished += of_message;
            self.lacking -= of_message;
            data = &data[of_prefix + of_message..];
            if self.unfinished >= Self::PREFIX_BYTES && self.lacking == 0 {
                self.unfinished = 0;
                ended = true;
            }
        }
        ended
    }
}

/// The body of an answer.
struct Answer {
    body: Body,
    /// It is over when nobody needs this body any more.
    _call: Arc<Call>,
    /// It answers one message with one.
    is_single: bool,
    answers: Arc<Budget>,
    unread: Option<Arc<Unread>>,
}

impl Answer {
    fn piece(&self, bytes: Bytes) -> Bytes {
        if bytes.is_empty() || (bytes.len() < SHORT_ANSWER_BYTES && !self.is_single) {
            return bytes;
        }
        self.answers.take(bytes.len());
        let unread = self.unread.as_ref().map(|unread| unread.expect(bytes.len()));
        Bytes::from_owner(Piece { bytes, answers: Arc::clone(&self.answers), _unread: unread })
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(|bytes| self.piece(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A part of an answer that hyper has, or h2, and the socket has not.
struct Piece {
    bytes: Bytes,
    answers: Arc<Budget>,
    _unread: Option<UnreadAnswer>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.answers.give_back(self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart_however_their_bytes_come() {
        let messages: [&[u8]; 4] = [b"", b"a", &[7; 300], b""];
        let encode = |message: &&[u8]| [&[0], &(message.len() as u32).to_be_bytes()[..], message].concat();
        let all: Vec<u8> = messages.iter().flat_map(encode).collect();
        for step in 1..=all.len() {
            let (mut found, mut ended) = (Messages::default(), 0);
            for piece in all.chunks(step) {
                ended += usize::from(found.advance(piece));
                assert!(found.unfinished < 305, "{step}");
            }
            assert_eq!((found.unfinished, found.longest), (0, 300), "{step}");
            assert!(step > 1 || ended == messages.len());
        }
        let mut half = Messages::default();
        assert!(half.advance(&all[..5]));
        assert!(!half.advance(&all[5..10]));
        assert_eq!((half.unfinished, half.lacking), (5, 1));
    }
}
