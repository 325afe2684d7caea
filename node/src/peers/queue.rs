//! The queue of one link, and the stream that empties it: whatever waits goes into one frame, and nothing waits for a timer.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use dynamo_proto::{MESSAGE_BYTES_MAX, v1};
use futures::Stream;
use prost::Message as _;
use tokio::sync::mpsc;

use crate::driver::CLIENTS_MAX;

/// Messages that may wait for one peer: one turn of the loop may have some for it from each request that is in flight.
const QUEUE_MESSAGES_MAX: usize = 4 * CLIENTS_MAX;
/// Bytes that may wait for one peer. One message may always wait, whatever its length.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Beyond those that requests may fill, bytes of what cannot be refused: acknowledgements, word of the ring, what is repaired and moved.
const RESERVE_BYTES: usize = 16 << 20;
/// A frame takes no further message when it has this many bytes: it costs the next frame nothing to wait for the socket.
const FRAME_BYTES: usize = 1 << 20;
/// Room in a frame for what surrounds the messages.
const FRAME_OVERHEAD_BYTES: usize = 1 << 10;

/// Why a message was not queued.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    /// The message alone is longer than any peer takes.
    Message {
        /// Its length.
        bytes: usize,
    },
    /// The queue is at a bound.
    Queue,
}

#[derive(Default)]
struct Load {
    messages: AtomicUsize,
    bytes: AtomicUsize,
}

/// The end that the loop holds.
pub struct QueueSender {
    sender: mpsc::UnboundedSender<(usize, v1::PeerMessage)>,
    load: Arc<Load>,
}

impl QueueSender {
    /// Queues a message; one that is `refusable` leaves the reserve to others.
    pub fn push(&self, message: v1::PeerMessage, refusable: bool) -> Result<(), Full> {
        let bytes = message.encoded_len();
        if bytes > MESSAGE_BYTES_MAX - FRAME_OVERHEAD_BYTES {
            return Err(Full::Message { bytes });
        }
        let (waiting, waiting_bytes) = self.load();
        let most = if refusable { QUEUE_BYTES_MAX } else { QUEUE_BYTES_MAX + RESERVE_BYTES };
        if waiting >= QUEUE_MESSAGES_MAX || (waiting > 0 && waiting_bytes + bytes > most) {
            return Err(Full::Queue);
        }
        self.load.messages.fetch_add(1, Ordering::Relaxed);
        self.load.bytes.fetch_add(bytes, Ordering::Relaxed);
        // A stream that has ended is about to be reported as a lost link.
        let _ = self.sender.send((bytes, message));
        Ok(())
    }

    /// Messages and bytes that wait.
    pub fn load(&self) -> (usize, usize) {
        (self.load.messages.load(Ordering::Relaxed), self.load.bytes.load(Ordering::Relaxed))
    }
}

/// The outgoing stream: the hello, then frames.
pub struct Frames {
    hello: Option<v1::PeerFrame>,
    receiver: mpsc::UnboundedReceiver<(usize, v1::PeerMessage)>,
    load: Arc<Load>,
    /// Taken from the queue when the frame before was full.
    next: Option<(usize, v1::PeerMessage)>,
}

/// A queue and the stream that empties it.
pub fn new(hello: v1::PeerFrame) -> (QueueSender, Frames) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let load = Arc::<Load>::default();
    (QueueSender { sender, load: Arc::clone(&load) }, Frames { hello: Some(hello), receiver, load, next: None })
}

impl Stream for Frames {
    type Item = v1::PeerFrame;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<v1::PeerFrame>> {
        if let Some(hello) = self.hello.take() {
            return Poll::Ready(Some(hello));
        }
        let mut messages = Vec::new();
        let mut frame_bytes = 0;
        let mut ended = false;
        loop {
            let (bytes, message) = match self.next.take() {
                Some(next) => next,
                None => match self.receiver.poll_recv(context) {
                    Poll::Ready(Some(next)) => next,
                    Poll::Ready(None) => {
                        ended = true;
                        break;
                    }
                    Poll::Pending => break,
                },
            };
            if !messages.is_empty() && frame_bytes + bytes > FRAME_BYTES {
                self.next = Some((bytes, message));
                break;
            }
            frame_bytes += bytes;
            messages.push(message);
        }
        self.load.messages.fetch_sub(messages.len(), Ordering::Relaxed);
        self.load.bytes.fetch_sub(frame_bytes, Ordering::Relaxed);
        match (messages.is_empty(), ended) {
            (false, _) => Poll::Ready(Some(v1::PeerFrame { hello: None, messages })),
            (true, true) => Poll::Ready(None),
            (true, false) => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_core::id::Epoch;
    use dynamo_core::message::Message;
    use futures::FutureExt as _;
    use futures::StreamExt as _;

    fn ping() -> v1::PeerMessage {
        Message::Ping { answer: false }.into()
    }

    fn long(bytes: usize) -> v1::PeerMessage {
        let (exchange, partition, root) = (1, dynamo_core::id::PartitionId(0), Default::default());
        Message::TreeResponse { exchange, partition, root, leaves: vec![0; bytes].into(), reaped: None }.into()
    }

    #[test]
    fn everything_that_waits_goes_into_one_frame_after_the_hello() {
        let hello = v1::PeerFrame { hello: Some(v1::Hello::default()), messages: Vec::new() };
        let (queue, mut frames) = new(hello);
        for _ in 0..100 {
            queue.push(ping(), false).unwrap();
        }
        assert!(frames.next().now_or_never().flatten().unwrap().hello.is_some());
        assert_eq!(frames.next().now_or_never().flatten().unwrap().messages.len(), 100);
        assert_eq!(queue.load(), (0, 0));
        assert!(frames.next().now_or_never().is_none());
        drop(queue);
        assert_eq!(frames.next().now_or_never(), Some(None));
    }

    #[test]
    fn a_long_message_does_not_share_its_frame() {
        let (queue, mut frames) = new(v1::PeerFrame::default());
        frames.next().now_or_never();
        queue.push(ping(), false).unwrap();
        queue.push(long(FRAME_BYTES), false).unwrap();
        queue.push(Message::RingRequest { epoch: Epoch(1) }.into(), false).unwrap();
        let lengths: Vec<_> =
            std::iter::from_fn(|| frames.next().now_or_never().flatten()).map(|frame| frame.messages.len()).collect();
        assert_eq!(lengths, [1, 1, 1]);
        assert_eq!(queue.load(), (0, 0));
    }

    #[test]
    fn whatever_one_turn_has_for_a_peer_fits_into_its_queue() {
        let (queue, mut frames) = new(v1::PeerFrame::default());
        frames.next().now_or_never();
        // A write, a read, an answer to each, for as many requests as there may be.
        for _ in 0..4 * CLIENTS_MAX {
            queue.push(ping(), false).unwrap();
        }
        let frames = std::iter::from_fn(|| frames.next().now_or_never().flatten());
        assert_eq!(frames.map(|frame| frame.messages.len()).sum::<usize>(), 4 * CLIENTS_MAX);
    }

    #[test]
    fn the_queue_is_bounded_by_messages_and_by_bytes() {
        let (queue, _frames) = new(v1::PeerFrame::default());
        for _ in 0..QUEUE_MESSAGES_MAX {
            queue.push(ping(), false).unwrap();
        }
        assert_eq!(queue.push(ping(), false), Err(Full::Queue));
        let (queue, _frames) = new(v1::PeerFrame::default());
        queue.push(long(QUEUE_BYTES_MAX + 1), true).unwrap();
        assert_eq!(queue.push(ping(), true), Err(Full::Queue));
        assert_eq!(queue.push(ping(), false), Ok(()), "it cannot be refused");
        queue.push(long(RESERVE_BYTES - 1_000), false).unwrap();
        assert_eq!(queue.push(long(1_000), false), Err(Full::Queue));
        assert!(matches!(queue.push(long(MESSAGE_BYTES_MAX), false), Err(Full::Message { .. })));
    }
}
