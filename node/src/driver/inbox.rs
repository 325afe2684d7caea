//! The one door to the loop: a queue that is bounded by events and by bytes.
//!
//! Whoever has something for the loop waits here when it is behind; so do its connection and, by HTTP/2's flow control, the
//! other end. The bytes of a frame are given back when the loop has handled it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{Event, Question};
use crate::budget;
use crate::figure::Figure;

/// Events that may wait for the loop.
const EVENTS_MAX: usize = 4_096;

/// The loop has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Closed;

/// An event on its way, with the bytes that it holds.
pub struct Queued {
    /// What happened.
    pub event: Event,
    _bytes: OwnedSemaphorePermit,
}

/// A place for one event, which is taken until this is dropped.
pub struct Place<'a> {
    event: mpsc::Permit<'a, Queued>,
    bytes: OwnedSemaphorePermit,
}

impl Place<'_> {
    /// Hands the event over.
    pub fn send(self, event: Event) {
        self.event.send(Queued { event, _bytes: self.bytes });
    }
}

/// The sending end.
#[derive(Clone)]
pub struct Inbox {
    events: mpsc::Sender<Queued>,
    kib: Arc<Semaphore>,
    /// KiB of frames that may wait. One frame may always, whatever its length.
    kib_max: u32,
}

impl Inbox {
    /// Both ends, in a process that may use so much memory.
    pub fn of(memory_bytes: u64) -> (Self, mpsc::Receiver<Queued>) {
        let (events, received) = mpsc::channel(EVENTS_MAX);
        let kib_max = budget::inbox_bytes_max(memory_bytes) >> 10;
        let kib = Arc::new(Semaphore::new(kib_max));
        (Self { events, kib, kib_max: u32::try_from(kib_max).unwrap_or(u32::MAX) }, received)
    }

    /// Waits until there is a place for an event that came in a frame of `bytes`.
    pub async fn place(&self, bytes: usize) -> Result<Place<'_>, Closed> {
        let kib = u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(self.kib_max).min(self.kib_max);
        let bytes = Arc::clone(&self.kib).acquire_many_owned(kib).await.map_err(|_| Closed)?;
        let event = self.events.reserve().await.map_err(|_| Closed)?;
        Ok(Place { event, bytes })
    }

    /// Hands over an event that came in a frame of `bytes`, once there is a place for it.
    pub async fn send(&self, event: Event, bytes: usize) -> Result<(), Closed> {
        self.place(bytes).await?.send(event);
        Ok(())
    }

    /// Asks, and waits for the answer.
    pub async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Result<T, Closed> {
        let (reply, answer) = oneshot::channel();
        self.send(Event::Question(question(reply)), 0).await?;
        answer.await.map_err(|_| Closed)
    }

    /// For metrics.
    pub fn figures(&self) -> [Figure; 2] {
        let events = self.events.max_capacity() - self.events.capacity();
        let kib = self.kib_max as usize - self.kib.available_permits();
        [
            Figure::varying("inbox_events", "Frames, calls and questions that wait for the loop", events as u64),
            Figure::varying("inbox_bytes", "Bytes of what waits for the loop, frame by frame in whole KiB", (kib as u64) << 10),
        ]
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
    fn bytes_that_wait_are_bounded_by_the_memory_told_of_and_given_back() {
        // A small machine, and a large one.
        for (memory_bytes, bytes_max) in [(0, 32 << 20), (u64::MAX, 256 << 20)] {
            let (inbox, mut received) = Inbox::of(memory_bytes);
            let half = bytes_max / 2;
            let told = || inbox.figures().map(|figure| figure.value);
            assert_eq!(inbox.send(frame(), half).now_or_never(), Some(Ok(())));
            assert_eq!(told(), [1, half as u64]);
            assert_eq!(inbox.send(frame(), half).now_or_never(), Some(Ok(())));
            assert_eq!(inbox.send(frame(), 1).now_or_never(), None);
            assert_eq!(told(), [2, bytes_max as u64]);
            drop(received.try_recv());
            assert_eq!(inbox.send(frame(), 1).now_or_never(), Some(Ok(())));
            assert_eq!(told(), [2, half as u64 + 1024]);
        }
    }

    #[test]
    fn one_frame_may_wait_whatever_its_length() {
        let (inbox, received) = Inbox::of(u64::MAX);
        assert_eq!(inbox.send(frame(), usize::MAX).now_or_never(), Some(Ok(())));
        assert_eq!(inbox.send(frame(), 1).now_or_never(), None);
        drop(received);
        assert_eq!(inbox.send(frame(), 1).now_or_never(), Some(Err(Closed)));
    }
}
