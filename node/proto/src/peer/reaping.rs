//! The messages of reaping, both ways.

use bytes::Bytes;
use dynamo_core::id::Incarnation;
use dynamo_core::message::Message;
use dynamo_core::reaping::{Question, Reaped};
use dynamo_core::version::{Actor, CausalContext};

use super::inward::{digest, node, partition, unknown};
use crate::v1::{self, peer_message::Kind, reap_question};
use crate::{WireError, name};

pub(super) fn reaped(reaped: Option<Reaped>) -> Bytes {
    reaped.map(|reaped| reaped.encode()).unwrap_or_default()
}

pub(super) fn read_reaped(bytes: Bytes) -> Result<Option<Reaped>, WireError> {
    let read = |bytes| Reaped::decode(bytes).map_err(|error| WireError::new("reaped", error));
    (!bytes.is_empty()).then_some(bytes).map(read).transpose()
}

/// The wire form of a message of reaping.
pub(super) fn kind(message: Message) -> Kind {
    match message {
        Message::ReapAsk { round, epoch, partition, upto, question } => {
            let (epoch, partition, question) = (epoch.0, partition.0, Some(wire_question(question)));
            Kind::ReapAsk(v1::ReapAsk { round, epoch, partition, upto: counters(upto), question })
        }
        Message::ReapAnswer { round, partition, question } => {
            let question = Some(wire_question(question));
            Kind::ReapAnswer(v1::ReapAnswer { round, partition: partition.0, question })
        }
        Message::ReapCommit { round, partition, names } => {
            let names = names.into_iter().map(|name| v1::ReapedName { bucket: name.bucket, key: name.key }).collect();
            Kind::ReapCommit(v1::ReapCommit { round, partition: partition.0, names })
        }
        other => unreachable!("{other:?} is no message of reaping"),
    }
}

fn counters(context: CausalContext) -> Vec<v1::ActorCounter> {
    let counter = |(actor, counter): (Actor, u64)| v1::ActorCounter {
        node: Bytes::copy_from_slice(&actor.node.0),
        incarnation: actor.incarnation.0,
        counter,
    };
    context.0.into_iter().map(counter).collect()
}

fn wire_question(question: Question) -> v1::ReapQuestion {
    let (kind, root) = match question {
        Question::Writes => (reap_question::Kind::Writes, Bytes::new()),
        Question::Copies => (reap_question::Kind::Copies, Bytes::new()),
        Question::Equal(root) => (reap_question::Kind::Equal, Bytes::copy_from_slice(&root.0)),
    };
    v1::ReapQuestion { kind: kind.into(), root }
}

pub(super) fn ask(wire: v1::ReapAsk) -> Result<Message, WireError> {
    let mut upto = CausalContext::default();
    for v1::ActorCounter { node: id, incarnation, counter } in wire.upto {
        let actor = Actor { node: node(&id, "upto.node")?, incarnation: Incarnation(incarnation) };
        if upto.0.insert(actor, counter).is_some() {
            return Err(WireError::new("upto", "an actor is listed twice"));
        }
    }
    Ok(Message::ReapAsk {
        round: wire.round,
        epoch: dynamo_core::id::Epoch(wire.epoch),
        partition: partition(wire.partition)?,
        upto,
        question: question(wire.question)?,
    })
}

pub(super) fn answer(wire: v1::ReapAnswer) -> Result<Message, WireError> {
    let (partition, question) = (partition(wire.partition)?, question(wire.question)?);
    Ok(Message::ReapAnswer { round: wire.round, partition, question })
}

pub(super) fn commit(wire: v1::ReapCommit) -> Result<Message, WireError> {
    let names = wire.names.iter().map(|wire| name(&wire.bucket, &wire.key)).collect();
    Ok(Message::ReapCommit { round: wire.round, partition: partition(wire.partition)?, names })
}

fn question(wire: Option<v1::ReapQuestion>) -> Result<Question, WireError> {
    let wire = wire.ok_or_else(|| WireError::new("question", "absent"))?;
    match reap_question::Kind::try_from(wire.kind) {
        Ok(reap_question::Kind::Writes) => Ok(Question::Writes),
        Ok(reap_question::Kind::Copies) => Ok(Question::Copies),
        Ok(reap_question::Kind::Equal) => Ok(Question::Equal(digest(&wire.root, "question.root")?)),
        Ok(reap_question::Kind::Unspecified) | Err(_) => Err(WireError::new("question.kind", unknown(wire.kind))),
    }
}
