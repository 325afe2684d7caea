//! What happened, as text for people and as a hash: two runs of one seed must have the same.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use dynamo_core::message::{Message, NamedHistory, NamedObject};
use dynamo_core::request::{Operation, Outcome, Request, Success};
use dynamo_core::time::Instant;
use dynamo_core::version::{Actor, Object};

use crate::output::say;
use crate::witness::WriteId;

/// A run's trace.
#[derive(Debug)]
pub struct Trace {
    shown: bool,
    hash: DefaultHasher,
}

impl Trace {
    /// An empty trace, printed as it grows if `shown`.
    pub fn new(shown: bool) -> Self {
        Self { shown, hash: DefaultHasher::new() }
    }

    /// Notes that something happened; `what` is hashed, `text` is made only to be shown.
    pub fn note<T: fmt::Display>(&mut self, now: Instant, what: impl Hash, text: impl FnOnce() -> T) {
        now.0.hash(&mut self.hash);
        what.hash(&mut self.hash);
        if self.shown {
            say(format_args!("{:>12.6}  {}", now.0 as f64 / 1e6, text()));
        }
    }

    /// The hash so far.
    pub fn hash(&self) -> u64 {
        self.hash.finish()
    }
}

/// An object in a few words: what each actor's counter covers, and the live values with their dots.
pub fn describe_object(object: &Object) -> String {
    let covers = object.context().0.into_iter().map(|(actor, seen)| format!("{}<={seen}", describe_actor(actor)));
    let live = object.values().map(|(dot, value)| {
        let what = value.data.as_deref().map_or("tombstone".into(), describe_value);
        format!("{}@{}={what}", describe_actor(dot.actor), dot.counter)
    });
    format!("{{{} | {}}}", covers.collect::<Vec<_>>().join(" "), live.collect::<Vec<_>>().join(" "))
}

fn describe_actor(actor: Actor) -> String {
    format!("{:02x}{:02x}/{:04x}", actor.node.0[0], actor.node.0[1], actor.incarnation.0 & 0xffff)
}

fn describe_value(data: &[u8]) -> String {
    WriteId::of(data).map_or_else(|| data.escape_ascii().to_string(), |id| format!("w{}", id.0))
}

/// A request in a few words.
pub fn describe_request(request: &Request) -> String {
    let name = &request.name;
    let id = request.request_key.map(|key| format!(" {key:?}")).unwrap_or_default();
    let wish = if request.quorum == Default::default() { String::new() } else { format!(" {:?}", request.quorum) };
    match &request.operation {
        Operation::Get => format!("get {name:?}{wish}"),
        Operation::Put { data, context, create_only } => {
            let context = if context.is_empty() { "blindly" } else { "with a context" };
            let create = if *create_only { " create-only" } else { "" };
            format!("put {name:?} = {} {context}{create}{wish}{id}", describe_value(data))
        }
        Operation::Delete { .. } => format!("delete {name:?}{wish}{id}"),
    }
}

/// An outcome in a few words.
pub fn describe_outcome(outcome: &Outcome) -> String {
    match outcome {
        Ok(Success::Got { object, evidence, .. }) => format!("{} by {evidence:?}", describe_object(object)),
        Ok(Success::Written { context, evidence }) => format!("written, context of {} bytes, by {evidence:?}", context.len()),
        Err(failure) => format!("{failure:?}"),
    }
}

/// A message in a few words.
pub fn describe(message: &Message) -> String {
    match message {
        Message::Replicate { request, epoch, name, object, hint_for, synced } => {
            let object = describe_object(object);
            format!("Replicate #{} epoch {epoch} {name:?} hint_for {hint_for:?} synced {synced} {object}", request.0)
        }
        Message::Replicated { request, durable } => format!("Replicated #{} durable {durable}", request.0),
        Message::Fetch { request, epoch, name, digest_only } => {
            format!("Fetch #{} epoch {epoch} {name:?} digest_only {digest_only}", request.0)
        }
        Message::Fetched { request, digest, object } => {
            format!("Fetched #{} {digest:?} {}", request.0, object.as_ref().map(describe_object).unwrap_or_default())
        }
        Message::Refused { request, reason, epoch } => format!("Refused #{} {reason:?} epoch {epoch}", request.0),
        Message::Forward { request, hops, body } => format!("Forward #{} hops {hops} {}", request.0, describe_request(body)),
        Message::Forwarded { request, outcome } => format!("Forwarded #{} {}", request.0, describe_outcome(outcome)),
        Message::Gossip { epoch, members, wants_answer, current, .. } => {
            format!("Gossip epoch {epoch} of {} members, wants_answer {wants_answer}, current {current}", members.len())
        }
        Message::RingRequest { epoch } => format!("RingRequest epoch {epoch}"),
        Message::RingUpdate { ring } => format!("RingUpdate epoch {}", ring.epoch),
        Message::Ping { answer } => format!("Ping answer {answer}"),
        Message::Push { batch, epoch, partition, purpose, objects } => {
            let describe = |named: &NamedObject| format!("{:?} {}", named.name, describe_object(&named.object));
            let names: Vec<_> = objects.iter().map(describe).collect();
            format!("Push #{batch} epoch {epoch} p{partition} {purpose:?} [{}]", names.join(" "))
        }
        Message::HistoriesRequest { batch, epoch, partition, histories } => {
            let describe = |named: &NamedHistory| format!("{:?} {}", named.name, describe_object(&named.history));
            let names: Vec<_> = histories.iter().map(describe).collect();
            format!("HistoriesRequest #{batch} epoch {epoch} p{partition} [{}]", names.join(" "))
        }
        Message::HistoriesResponse { batch, lacking } => format!("HistoriesResponse #{batch} lacking {lacking:?}"),
        Message::Confirm { batch, epoch, partition, .. } => format!("Confirm #{batch} epoch {epoch} p{partition}"),
        Message::Pushed { batch, refused, epoch } => format!("Pushed #{batch} refused {refused} epoch {epoch}"),
        Message::TreeRequest { exchange, epoch, partition, .. } => format!("TreeRequest #{exchange} epoch {epoch} p{partition}"),
        Message::TreeResponse { exchange, partition, leaves, .. } => {
            format!("TreeResponse #{exchange} p{partition} equal {}", leaves.is_empty())
        }
        Message::ReapAsk { round, epoch, partition, upto, question } => {
            let upto = describe_object(&Object::superseded(upto));
            format!("ReapAsk #{round} epoch {epoch} p{partition} {question:?} up to {upto}")
        }
        Message::ReapAnswer { round, partition, question } => format!("ReapAnswer #{round} p{partition} {question:?}"),
        Message::ReapCommit { round, partition, names } => format!("ReapCommit #{round} p{partition} {names:?}"),
        Message::KeysRequest { exchange, partition, leaf, after, until, keys } => {
            format!("KeysRequest #{exchange} p{partition} leaf {leaf} after {after:?} until {until:?} {} keys", keys.len())
        }
        Message::KeysResponse { exchange, partition, objects, wanted, reached } => {
            let describe = |named: &NamedObject| format!("{:?} {}", named.name, describe_object(&named.object));
            let names: Vec<_> = objects.iter().map(describe).collect();
            format!("KeysResponse #{exchange} p{partition} [{}], {} wanted, reached {reached:?}", names.join(" "), wanted.len())
        }
    }
}

/// A number for the kind of a message, for the hash.
pub(crate) fn kind(message: &Message) -> u8 {
    match message {
        Message::Replicate { .. } => 0,
        Message::Replicated { .. } => 1,
        Message::Fetch { .. } => 2,
        Message::Fetched { .. } => 3,
        Message::Refused { .. } => 4,
        Message::Forward { .. } => 5,
        Message::Forwarded { .. } => 6,
        Message::Gossip { .. } => 7,
        Message::RingRequest { .. } => 8,
        Message::RingUpdate { .. } => 9,
        Message::Ping { .. } => 10,
        Message::Push { .. } => 11,
        Message::Pushed { .. } => 12,
        Message::TreeRequest { .. } => 13,
        Message::TreeResponse { .. } => 14,
        Message::KeysRequest { .. } => 15,
        Message::KeysResponse { .. } => 16,
        Message::ReapAsk { .. } => 17,
        Message::ReapAnswer { .. } => 18,
        Message::ReapCommit { .. } => 19,
        Message::HistoriesRequest { .. } => 20,
        Message::HistoriesResponse { .. } => 21,
        Message::Confirm { .. } => 22,
    }
}
