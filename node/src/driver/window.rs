//! What one session may have in flight: bounded by requests, and by the bytes of answers that its client has not read.
//!
//! How long the answer to a get will be is known when it is there. Until then it is expected to be as long as the longest of late, at
//! first the greatest value: a session begins with a few requests in flight, and comes to the most with the first short answers.
//!
//! All answers together have a bound too, which holds whatever was expected: an answer to a get beyond it is a refusal.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dynamo_core::request::Failure;
use dynamo_proto::v1;
use dynamo_proto::v1::session_response::Response;
use prost::Message as _;
use tokio::sync::{Notify, mpsc};

use crate::budget::Budget;
use crate::connections::Watched;

/// Requests that may be in flight on one session; the node reads no more of it until some are answered.
const SESSION_REQUESTS_MAX: usize = 1_024;
/// Bytes of answers that one client may leave unread; the node reads no more of its session until it has read some.
pub const SESSION_BYTES_MAX: usize = 16 << 20;
/// What an answer is expected to take as long as there was none: a value of the greatest length.
const EXPECTED_BYTES: usize = 1 << 20;
/// By this part what is expected falls with each shorter answer.
const FALL_SHARE: usize = 8;

struct State {
    /// Requests that were handed over and are not answered.
    in_flight: usize,
    /// Answers that wait to be read, and their bytes.
    unread: usize,
    unread_bytes: usize,
    /// Some were read since the last look.
    was_read: bool,
    /// Bytes of an answer to come.
    expected: usize,
    is_closed: bool,
}

impl State {
    /// How many of `waiting` requests can be handed over together, if there is room for as many as there ever will be.
    fn room(&self, waiting: usize) -> Option<usize> {
        let wanted = waiting.min((SESSION_BYTES_MAX / self.expected).clamp(1, SESSION_REQUESTS_MAX));
        let held = self.in_flight + self.unread;
        let bytes_free = SESSION_BYTES_MAX.saturating_sub(self.unread_bytes);
        let free = SESSION_REQUESTS_MAX.saturating_sub(held).min((bytes_free / self.expected).saturating_sub(self.in_flight));
        (free >= wanted || held == 0).then_some(wanted)
    }
}

/// What a session may have in flight.
pub struct Window {
    state: Mutex<State>,
    changed: Notify,
    /// Bytes that wait to be read by all clients.
    all_unread: Arc<Budget>,
}

impl Window {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until some of `waiting` requests may be handed over, and says how many; `None` once the session has ended.
    pub async fn take(&self, waiting: usize) -> Option<usize> {
        loop {
            {
                let mut state = self.state();
                if state.is_closed {
                    return None;
                }
                if let Some(taken) = state.room(waiting) {
                    state.in_flight += taken;
                    return Some(taken);
                }
            }
            self.changed.notified().await;
        }
    }

    /// An answer waits to be read.
    fn answered(&self, bytes: usize) {
        let mut state = self.state();
        if state.is_closed {
            return;
        }
        state.in_flight = state.in_flight.saturating_sub(1);
        state.unread += 1;
        state.unread_bytes += bytes;
        state.expected = (state.expected - state.expected / FALL_SHARE).max(bytes).max(1);
        self.all_unread.take(bytes);
        self.changed.notify_one();
    }

    /// The client takes answers.
    pub fn read(&self, answers: usize, bytes: usize) {
        let mut state = self.state();
        state.unread -= answers;
        state.unread_bytes -= bytes;
        state.was_read = true;
        self.all_unread.give_back(bytes);
        self.changed.notify_one();
    }

    /// The client went away: nobody waits for a place any more, and nothing for a reader.
    pub fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        self.all_unread.give_back(std::mem::take(&mut state.unread_bytes));
        self.changed.notify_one();
    }
}

impl Watched for Window {
    fn stands_still(&self) -> bool {
        let mut state = self.state();
        let was_read = std::mem::take(&mut state.was_read);
        state.unread > 0 && !was_read && !state.is_closed
    }
}

/// Takes a session's answers.
#[derive(Clone)]
pub struct SessionSender {
    answers: mpsc::UnboundedSender<(usize, v1::SessionResponse)>,
    window: Arc<Window>,
}

/// Where a session's answers come out, each with its bytes. There are no more than its window lets in.
pub type SessionReceiver = mpsc::UnboundedReceiver<(usize, v1::SessionResponse)>;

impl SessionSender {
    /// Both ends of a session's answers, and its window. `all_unread` counts the bytes that wait on all sessions.
    pub fn new(all_unread: Arc<Budget>) -> (Self, SessionReceiver, Arc<Window>) {
        let (answers, receiver) = mpsc::unbounded_channel();
        let state =
            State { in_flight: 0, unread: 0, unread_bytes: 0, was_read: false, expected: EXPECTED_BYTES, is_closed: false };
        let window = Arc::new(Window { state: Mutex::new(state), changed: Notify::new(), all_unread });
        (Self { answers, window: Arc::clone(&window) }, receiver, window)
    }

    /// Answers. A client that is gone misses it.
    pub fn send(&self, mut answer: v1::SessionResponse) {
        let mut bytes = answer.encoded_len();
        if matches!(answer.response, Some(Response::Get(_)))
            && let Err(full) = self.window.all_unread.has_room(bytes)
        {
            answer.response = Some(Response::Failure(Failure::Overloaded(full.to_string()).into()));
            bytes = answer.encoded_len();
        }
        self.window.answered(bytes);
        let _ = self.answers.send((bytes, answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    const UNREAD_BYTES_MAX: usize = 256 << 20;

    fn budget() -> Arc<Budget> {
        Budget::new("answers", UNREAD_BYTES_MAX)
    }

    fn got(bytes: usize) -> v1::SessionResponse {
        let sibling = v1::Sibling { value: vec![0; bytes].into(), ..Default::default() };
        let response = v1::GetResponse { siblings: vec![sibling], ..Default::default() };
        v1::SessionResponse { id: 1, response: Some(Response::Get(response)) }
    }

    fn written() -> v1::SessionResponse {
        v1::SessionResponse { id: 1, response: Some(Response::Put(v1::PutResponse::default())) }
    }

    #[test]
    fn short_answers_open_the_window_and_a_long_one_closes_it() {
        let (session, mut answers, window) = SessionSender::new(budget());
        let mut widths = Vec::new();
        for _ in 0..10 {
            let taken = window.take(usize::MAX).now_or_never().flatten().unwrap();
            assert_eq!(window.take(1).now_or_never(), None, "all that may be in flight is");
            widths.push(taken);
            for _ in 0..taken {
                session.send(written());
            }
            while let Ok((bytes, _)) = answers.try_recv() {
                window.read(1, bytes);
            }
        }
        assert!(widths.is_sorted() && widths[0] == 16 && widths[9] == SESSION_REQUESTS_MAX, "{widths:?}");
        window.take(1).now_or_never().flatten().unwrap();
        session.send(got(4 << 20));
        assert_eq!(window.take(usize::MAX).now_or_never(), None, "12 MiB are free, and 16 of such answers are none too many");
        let (bytes, _) = answers.try_recv().unwrap();
        window.read(1, bytes);
        assert_eq!(window.take(usize::MAX).now_or_never(), Some(Some(3)));
    }

    #[test]
    fn an_answer_that_is_longer_than_any_window_is_waited_for_alone() {
        let (session, mut answers, window) = SessionSender::new(budget());
        for _ in 0..3 {
            assert!(window.take(usize::MAX).now_or_never().flatten().is_some());
            session.send(got(2 * SESSION_BYTES_MAX));
            assert_eq!(window.take(1).now_or_never(), None);
            while window.state().in_flight > 0 {
                session.send(written());
            }
            while let Ok((bytes, _)) = answers.try_recv() {
                window.read(1, bytes);
            }
        }
    }

    #[test]
    fn a_session_stands_still_while_answers_wait_of_which_none_is_read() {
        let (session, mut answers, window) = SessionSender::new(budget());
        assert!(!window.stands_still(), "no answer waits");
        session.send(written());
        session.send(written());
        assert!(window.stands_still() && window.stands_still());
        let (bytes, _) = answers.try_recv().unwrap();
        window.read(1, bytes);
        assert!(!window.stands_still(), "one was read");
        assert!(window.stands_still(), "and the other was not");
        window.close();
        assert!(!window.stands_still());
    }

    #[test]
    fn gets_beyond_what_all_clients_may_leave_unread_are_refused_and_what_a_client_leaves_behind_is_given_back() {
        let all_unread = budget();
        let value = 1 << 20;
        let (session, mut answers, window) = SessionSender::new(Arc::clone(&all_unread));
        let mut fits = 0;
        while all_unread.held() + got(value).encoded_len() <= UNREAD_BYTES_MAX {
            session.send(got(value));
            fits += 1;
        }
        assert_eq!(fits, 255);
        let (other, mut others, _) = SessionSender::new(Arc::clone(&all_unread));
        other.send(got(value));
        let (_, refused) = others.try_recv().unwrap();
        assert!(matches!(refused.response, Some(Response::Failure(_))), "{refused:?}");
        // What was written was written, and is said.
        other.send(written());
        assert_eq!(others.try_recv().unwrap().1, written());
        answers.close();
        window.close();
        assert!(all_unread.held() < 1_000);
        other.send(got(value));
        assert_eq!(others.try_recv().unwrap().1, got(value));
    }
}
