//! The one door to the loop: a queue that is bounded by events and by bytes.
//!
//! Whoever has something for the loop waits here when it is behind; so do its connection and, by HTTP/2's flow control, the
//! other end. The bytes of a frame are given back when the loop has handled it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{Event, Question};

/// Events that may wait for the loop.
const EVENTS_MAX: usize = 4_096;
/// KiB of frames that may wait for the loop (256 MiB). One frame may always wait, whatever its length.
const EVENT_KIB_MAX: u32 = 256 << 10;

/// The loop has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Closed;

/// An event on its way, with the bytes that it holds.
pub struct Queued {
    /// What happened.
    pub event: Event,
    _bytes: OwnedSemaphorePermit,
}

/// The sending end.
#[derive(Clone)]
pub struct Inbox {
    events: mpsc::Sender<Queued>,
    kib: Arc<Semaphore>,
}

impl Inbox {
    /// Both ends.
    pub fn new() -> (Self, mpsc::Receiver<Queued>) {
        let (events, received) = mpsc::channel(EVENTS_MAX);
        let kib = Arc::new(Semaphore::new(EVENT_KIB_MAX as usize));
        (Self { events, kib }, received)
    }

    /// Hands over an event that came in a frame of `bytes`.
    pub async fn send(&self, event: Event, bytes: usize) -> Result<(), Closed> {
        let kib = u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(EVENT_KIB_MAX).min(EVENT_KIB_MAX);
        let held = Arc::clone(&self.kib).acquire_many_owned(kib).await.map_err(|_| Closed)?;
        self.events.send(Queued { event, _bytes: held }).await.map_err(|_| Closed)
    }

    /// Asks, and waits for the answer.
    pub async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Result<T, Closed> {
        let (reply, answer) = oneshot::channel();
        self.send(Event::Question(question(reply)), 0).await?;
        answer.await.map_err(|_| Closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_core::id::NodeId;
    use futures::FutureExt as _;

    fn frame() -> Event {
        Event::Messages { from: NodeId([1; 16]), messages: Vec::new() }
    }

    #[test]
    fn bytes_that_wait_are_bounded_and_given_back() {
        let (inbox, mut received) = Inbox::new();
        let half = (EVENT_KIB_MAX as usize) << 9;
        assert_eq!(inbox.send(frame(), half).now_or_never(), Some(Ok(())));
        assert_eq!(inbox.send(frame(), half).now_or_never(), Some(Ok(())));
        assert_eq!(inbox.send(frame(), 1).now_or_never(), None);
        drop(received.try_recv());
        assert_eq!(inbox.send(frame(), 1).now_or_never(), Some(Ok(())));
    }

    #[test]
    fn one_frame_may_wait_whatever_its_length() {
        let (inbox, received) = Inbox::new();
        assert_eq!(inbox.send(frame(), usize::MAX).now_or_never(), Some(Ok(())));
        assert_eq!(inbox.send(frame(), 1).now_or_never(), None);
        drop(received);
        assert_eq!(inbox.send(frame(), 1).now_or_never(), Some(Err(Closed)));
    }
}
