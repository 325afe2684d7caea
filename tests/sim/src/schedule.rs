//! Simulated time: what happens next, and when. Events of one instant happen in the order in which they were scheduled.

use std::collections::BTreeMap;

use dynamo_core::id::NodeId;
use dynamo_core::message::Message;
use dynamo_core::request::{ClientHandle, Outcome, Request};
use dynamo_core::storage::Ticket;
use dynamo_core::time::Instant;

/// A machine of the simulation. It keeps its number when its node restarts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostId(pub usize);

/// What somebody outside of the cluster wants to be called for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Alarm {
    /// A client's next step.
    Client(usize),
    /// A client has waited long enough.
    GiveUp(ClientHandle),
    /// The writer of rings looks again.
    Writer,
    /// The next fault of a kind.
    Fault(usize),
    /// A fault ends.
    FaultEnds(u64),
    /// A node has adopted a ring, a moment ago.
    Adopted(HostId),
    /// The next loss of a disk.
    Loss,
    /// A host that was declared lost is back.
    Returns(HostId),
}

/// Something that will happen. Events that concern one start of a node carry its generation, and mean nothing to the next.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Deliver { from: NodeId, to: HostId, generation: u64, link: u64, message: Message },
    Request { to: HostId, client: ClientHandle, request: Request },
    Answer { client: ClientHandle, outcome: Outcome },
    Tick { host: HostId, generation: u64 },
    CloseBatch { host: HostId, generation: u64 },
    Synced { host: HostId, generation: u64, ticket: Ticket },
    Dial { host: HostId, generation: u64 },
    LinkUp { from: HostId, to: HostId, generations: (u64, u64) },
    LinkDown { from: HostId, to: HostId, link: u64 },
    Keepalive { from: HostId, to: HostId, link: u64 },
    Resume { host: HostId, generation: u64 },
    Alarm(Alarm),
}

/// The queue of events. They are long, and move a lot in it: so each has its own place in memory.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    events: BTreeMap<(Instant, u64), Box<Event>>,
    next: u64,
}

impl Schedule {
    pub(crate) fn at(&mut self, time: Instant, event: Event) {
        self.next += 1;
        self.events.insert((time, self.next), Box::new(event));
    }

    /// The next event that happens at `until` at the latest.
    pub(crate) fn pop(&mut self, until: Instant) -> Option<(Instant, Event)> {
        let entry = self.events.first_entry()?;
        if entry.key().0 > until {
            return None;
        }
        let ((time, _), event) = entry.remove_entry();
        Some((time, *event))
    }
}
