//! What nodes say to each other. The wire form is in `dynamo-proto`; this is the meaning.
//!
//! Every message of the data path carries its sender's epoch. Messages may be lost, duplicated and reordered; each is safe to
//! handle twice, a `Forward` of a write within two of its time-outs: it names no dot yet. A later repetition would be a second
//! write; with a request id it is the same write, which is why another replica may be asked for it as well. But if the first was
//! refused, the client was told that nothing was written, and a late second one would make that untrue: so the limit is for all.

use std::sync::Arc;

use bytes::Bytes;

use crate::gossip::MemberState;
use crate::hinted_handoff::HintFor;
use crate::id::{Epoch, NodeId, PartitionId, RequestId};
use crate::name::Name;
use crate::reaping::{Question, Reaped};
use crate::request::{Outcome, Request};
use crate::ring::Ring;
use crate::version::{CausalContext, Digest, Object};

/// Why a peer did not do what it was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The request's epoch is older than the replica's: fetch the newer ring, start again.
    StaleEpoch,
    /// The replica's ring is older than the request's; it is fetching the newer one.
    Behind,
    /// By the ring of this epoch, the replica does not hold the partition.
    NotOwner,
    /// A bound was hit.
    Overloaded,
    /// The write is older than what the replica has reaped of the partition: whoever sends it was not asked as that was proven, and it is
    /// never acknowledged.
    Reaped,
}

/// Why objects are pushed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Purpose {
    /// A partition moves to a new replica.
    Transfer,
    /// Held for a replica that was away.
    Hint,
    /// Found to differ.
    Repair,
    /// Held by a node that the ring does not name for it (any more).
    Handback,
}

/// An object with its name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamedObject {
    /// Its name.
    pub name: Name,
    /// All that is known of it.
    pub object: Object,
}

/// A name and what is known of it, without its values' bytes ([`Object::history`]): enough to tell whether somebody has seen all
/// of it, and nothing to store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamedHistory {
    /// The name.
    pub name: Name,
    /// Its history.
    pub history: Object,
}

/// A name and the digest of what is known of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamedDigest {
    /// The name.
    pub name: Name,
    /// The digest of its history.
    pub digest: Digest,
}

/// One message between nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// Join `object` into your copy (or keep it for `hint_for`) and acknowledge.
    Replicate {
        /// The coordinator's number.
        request: RequestId,
        /// The coordinator's ring.
        epoch: Epoch,
        /// The object's name.
        name: Name,
        /// Its whole state at the coordinator.
        object: Object,
        /// Keep it for this replica instead, which cannot be reached.
        hint_for: Option<HintFor>,
        /// Acknowledge when fsynced, not when applied.
        synced: bool,
    },
    /// The write is applied, and on stable storage if `durable`.
    Replicated {
        /// The coordinator's number.
        request: RequestId,
        /// It is fsynced.
        durable: bool,
    },
    /// What do you know of `name`?
    Fetch {
        /// The coordinator's number.
        request: RequestId,
        /// The coordinator's ring.
        epoch: Epoch,
        /// The object's name.
        name: Name,
        /// The digest will do.
        digest_only: bool,
    },
    /// The answer to a fetch.
    Fetched {
        /// The coordinator's number.
        request: RequestId,
        /// The digest of what is known.
        digest: Digest,
        /// What is known; `None` when only the digest was asked for.
        object: Option<Object>,
    },
    /// A replicate or fetch that was not carried out.
    Refused {
        /// The coordinator's number.
        request: RequestId,
        /// Why.
        reason: Refusal,
        /// The refuser's ring.
        epoch: Epoch,
    },
    /// Coordinate this for me: I hold no replica of the key.
    Forward {
        /// The forwarder's number.
        request: RequestId,
        /// How often it was forwarded: 1. A member that gets it by a forward coordinates it, replica or not.
        hops: u8,
        /// The client's request.
        body: Request,
    },
    /// What came of a forwarded request.
    Forwarded {
        /// The forwarder's number.
        request: RequestId,
        /// The outcome for the client.
        outcome: Outcome,
    },
    /// What I know of the members and the ring.
    Gossip {
        /// The sender's ring.
        epoch: Epoch,
        /// What the sender knows of each node.
        members: Vec<(NodeId, MemberState)>,
        /// Tell me yours.
        wants_answer: bool,
        /// The sender's wall clock as it sent this; 0 if it did not say.
        wall_ms: u64,
        /// The sender knows the cluster's ring or the one before it: it has not been away, or has heard of others since.
        current: bool,
    },
    /// Send me your ring; mine is of this epoch.
    RingRequest {
        /// The asker's ring.
        epoch: Epoch,
    },
    /// A ring.
    RingUpdate {
        /// The ring.
        ring: Arc<Ring>,
    },
    /// Are you there?
    Ping {
        /// Yes, I am.
        answer: bool,
    },
    /// Join these objects and acknowledge when they are on stable storage.
    Push {
        /// The sender's number.
        batch: u64,
        /// The sender's ring.
        epoch: Epoch,
        /// The partition they lie in.
        partition: PartitionId,
        /// Why they are sent.
        purpose: Purpose,
        /// The objects.
        objects: Vec<NamedObject>,
    },
    /// You have everything of my copy: hash trees were compared. It counts as received from me once this is on stable storage, and is
    /// acknowledged like a batch.
    Confirm {
        /// The sender's number.
        batch: u64,
        /// The sender's ring.
        epoch: Epoch,
        /// The partition.
        partition: PartitionId,
        /// What the sender has reaped of the partition. Names that are not in its copy need not be in the receiver's.
        reaped: Option<Reaped>,
    },
    /// The batch is on stable storage, or was refused.
    Pushed {
        /// The sender's number.
        batch: u64,
        /// Not done; ask the ring.
        refused: bool,
        /// The receiver's ring.
        epoch: Epoch,
    },
    /// Which of these have you not seen all of? Asked before a copy is called received, or is dropped by who handed it back. One
    /// who does not hold the partition answers with [`Message::Pushed`], refused.
    HistoriesRequest {
        /// The sender's number.
        batch: u64,
        /// The sender's ring.
        epoch: Epoch,
        /// The partition they lie in.
        partition: PartitionId,
        /// What the sender knows.
        histories: Vec<NamedHistory>,
    },
    /// Everything that the receiver asked about is on stable storage here, but for these.
    HistoriesResponse {
        /// The asker's number.
        batch: u64,
        /// Names of which the asker knows something that the answerer does not.
        lacking: Vec<Name>,
    },
    /// Is your hash tree of `partition` like mine?
    TreeRequest {
        /// The exchange.
        exchange: u64,
        /// The sender's ring.
        epoch: Epoch,
        /// The partition.
        partition: PartitionId,
        /// The root of the sender's tree.
        root: Digest,
        /// What the sender has reaped of the partition.
        reaped: Option<Reaped>,
    },
    /// The receiver's tree; no leaves when the roots are equal.
    TreeResponse {
        /// The exchange.
        exchange: u64,
        /// The partition.
        partition: PartitionId,
        /// The root of the answerer's tree.
        root: Digest,
        /// Its leaves, 16 bytes each, or nothing.
        leaves: Bytes,
        /// What the answerer has reaped of the partition, if it is not what the asker has.
        reaped: Option<Reaped>,
    },
    /// These are my keys in a window of a leaf that differs.
    KeysRequest {
        /// The exchange.
        exchange: u64,
        /// The partition.
        partition: PartitionId,
        /// The leaf.
        leaf: u32,
        /// The window begins behind this name, or with the leaf.
        after: Option<Name>,
        /// It ends with this name, or with the leaf.
        until: Option<Name>,
        /// The sender's keys in it, in the order of their positions.
        keys: Vec<NamedDigest>,
    },
    /// What you lack, and what I want.
    KeysResponse {
        /// The exchange.
        exchange: u64,
        /// The partition.
        partition: PartitionId,
        /// Objects that the asker lacks or has another version of.
        objects: Vec<NamedObject>,
        /// Keys that the answerer lacks or has another version of.
        wanted: Vec<NamedDigest>,
        /// It compared up to this name, or all of the window.
        reached: Option<Name>,
    },
    /// Is it so at your place, for every write to `partition` that `upto` covers?
    ReapAsk {
        /// The sender's number.
        round: u64,
        /// The sender's ring.
        epoch: Epoch,
        /// The partition.
        partition: PartitionId,
        /// Everything that the tombstones to be reaped have seen, and all that was reaped before.
        upto: CausalContext,
        /// What is asked.
        question: Question,
    },
    /// It is, and will be after a loss of power. Silence is a no.
    ReapAnswer {
        /// The asker's number.
        round: u64,
        /// The partition.
        partition: PartitionId,
        /// What was asked.
        question: Question,
    },
    /// It is so everywhere: what you agreed to in this round holds, and the tombstones of these names are gone.
    ReapCommit {
        /// The sender's number.
        round: u64,
        /// The partition.
        partition: PartitionId,
        /// Whose tombstones.
        names: Vec<Name>,
    },
}
