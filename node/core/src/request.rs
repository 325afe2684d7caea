//! What clients ask and what they are told (paper 4.1, 4.5): the request, the outcome, and the evidence that it rests on.

use bytes::Bytes;
use thiserror::Error;

use crate::id::{Epoch, NodeId, RequestKey};
use crate::name::Name;
use crate::version::Object;

/// A driver's name for a client that waits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClientHandle(pub u64);

/// What a request asks of the quorum; `None` takes the bucket's setting, then the cluster's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct QuorumWish {
    /// Replicas that are asked, of all that the object has: the coordinator itself and the first that can be reached. The others get a
    /// write when replicas are compared. What is inherited of `r`, `w`, `dw`, `pr` and `pw` is at most this.
    pub n: Option<u8>,
    /// Replicas that must answer a get.
    pub r: Option<u8>,
    /// Replicas that must acknowledge a put.
    pub w: Option<u8>,
    /// Acknowledgements that must be on stable storage before the answer, N at most; beyond `w`, as many are waited for. Counted by
    /// itself: the durable ones need not be those of home replicas that `pw` counts.
    pub dw: Option<u8>,
    /// Home replicas that must answer a get.
    pub pr: Option<u8>,
    /// Home replicas that must acknowledge a put, on stable storage or not.
    pub pw: Option<u8>,
}

/// What a client wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// All concurrent values and their context.
    Get,
    /// A new value that supersedes what the context token covers.
    Put {
        /// The value's bytes.
        data: Bytes,
        /// The token of a preceding get; empty for a blind put.
        context: Bytes,
        /// Refuse if a live value is known.
        create_only: bool,
    },
    /// A tombstone over what the context token covers.
    Delete {
        /// The token of a preceding get, of one that found nothing too; required, unless the last writer wins in the bucket.
        context: Bytes,
    },
}

/// One client request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// The object.
    pub name: Name,
    /// What to do.
    pub operation: Operation,
    /// The client's name for this put or delete: sent again with it, it is the same write. A get has none.
    pub request_key: Option<RequestKey>,
    /// How many replicas it takes.
    pub quorum: QuorumWish,
    /// Milliseconds until the client wants to hear; 0 for the node's default.
    pub timeout_ms: u32,
}

/// What an answer rests on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Evidence {
    /// The ring that the request was run under.
    pub epoch: Epoch,
    /// Who had answered when the answer went out.
    pub nodes: Vec<NodeId>,
    /// How many of them had the write on stable storage.
    pub durable: u32,
    /// How many of them stand in for an unreachable replica.
    pub hinted: u32,
}

/// The outcome of a request that was carried out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Success {
    /// What is known of the object; empty if nothing.
    Got {
        /// All concurrent versions.
        object: Object,
        /// The token that covers them.
        context: Bytes,
        /// What this rests on.
        evidence: Evidence,
    },
    /// The write has its quorum.
    Written {
        /// The token that covers the new version and all it superseded; empty where a version that the client never saw stands in
        /// the way of an exact one: get before you replace.
        context: Bytes,
        /// What this rests on.
        evidence: Evidence,
    },
}

/// Why a request was not carried out, or may not have been.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Failure {
    /// The request is wrong. Nothing was written.
    #[error("{0}")]
    Invalid(String),
    /// The context token is damaged, foreign or of another key. Nothing was written.
    #[error("context: {0}; use the context that a get of this key returned")]
    BadContext(String),
    /// Create-only, and a live version exists. Nothing was written.
    #[error("the key exists; get it and put with its context to replace it")]
    Exists,
    /// Too few replicas can be reached. Nothing is visible.
    #[error("unavailable: {acknowledged} of the {required} replicas that it takes answered or can be reached; no write was made")]
    Unavailable {
        /// How many answered a get, or could be reached for a put: home replicas, if those are too few.
        acknowledged: u32,
        /// How many it takes.
        required: u32,
    },
    /// The time is up and the write may or may not become visible.
    #[error("outcome unknown: {acknowledged} of {required} replicas acknowledged in time; read before you retry")]
    Unknown {
        /// How many acknowledged.
        acknowledged: u32,
        /// How many it takes.
        required: u32,
    },
    /// A named bound was hit, and what helps. Nothing was written.
    #[error("overloaded: {0}")]
    Overloaded(String),
    /// The object would be beyond a bound with this put: too many siblings or actors, too many bytes. It says which, and what helps; the
    /// same put helps nothing. Nothing was written.
    #[error("object too large: {0}")]
    ObjectTooLarge(String),
    /// This node starts or stops, or has no room, and its neighbours may be well. Nothing was written.
    #[error("{0}; nothing was written, ask another node")]
    NotServing(String),
    /// The bucket goes by clocks, and this node's does not agree with most others'. Nothing was written.
    #[error("clock skew: {0}; nothing was written")]
    ClockSkew(String),
    /// No ring yet. Nothing was written.
    #[error("the cluster has no ring yet; the operator (or `dynamoctl ring init`) makes the first one")]
    NoRing,
    /// The node was declared lost, wrongly, and is fenced. Nothing was written.
    #[error(
        "this node was declared lost in ring epoch {since} and never serves again under its id; others have taken its place. Stop it, \
         wipe its data directory, and it starts as a new node"
    )]
    DeclaredLost {
        /// The epoch that says so.
        since: Epoch,
    },
}

impl Failure {
    /// It says of the node that was asked that it does not serve, and nothing of the others: its disk, its clock, its start. Nothing was
    /// written.
    pub fn is_of_its_node(&self) -> bool {
        matches!(self, Self::NotServing(_) | Self::NoRing | Self::ClockSkew(_) | Self::DeclaredLost { .. })
    }
}

/// What a client is told.
pub type Outcome = Result<Success, Failure>;
