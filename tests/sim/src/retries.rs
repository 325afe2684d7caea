//! Clients that send a write again under its request id: after an unknown outcome, or because the answer did not reach them; on
//! another host, and later, when others may have overwritten it.

use std::collections::BTreeMap;

use bytes::Bytes;
use dynamo_core::id::RequestKey;
use dynamo_core::name::Name;
use dynamo_core::request::{Operation, QuorumWish, Request};

use crate::dice::Dice;
use crate::options::Options;
use crate::schedule::HostId;
use crate::witness::WriteId;

/// Retries that one client has in mind; further ones are given up.
const WAITING_MAX: usize = 8;
/// Of the writes of unknown outcome.
const RETRIED: f64 = 0.9;
/// Of the writes that were acknowledged: as if the acknowledgement had been lost.
const REPEATED: f64 = 0.1;
/// Of a client's steps while it has a retry in mind.
const AT_ONCE: f64 = 0.4;

/// Of the writes that may be sent again: to two hosts at the same time.
const SENT_TO_TWO: f64 = 0.1;

/// A write, to be sent once more.
#[derive(Clone, Debug)]
pub struct Again {
    /// The write.
    pub id: WriteId,
    /// Exactly as before.
    pub request: Request,
}

impl Again {
    /// The object.
    pub fn name(&self) -> &Name {
        &self.request.name
    }

    /// The context that it carries.
    pub fn context(&self) -> Bytes {
        match &self.request.operation {
            Operation::Put { context, .. } | Operation::Delete { context } => context.clone(),
            Operation::Get => Bytes::new(),
        }
    }

    /// What it asks of the quorum.
    pub fn wish(&self) -> QuorumWish {
        self.request.quorum
    }
}

/// What all clients have in mind.
#[derive(Debug)]
pub struct Retries {
    /// A stream of its own: runs without request ids draw nothing from it.
    dice: Dice,
    /// Another.
    twins: Dice,
    request_ids: f64,
    /// Of the ids, those that were given before.
    reused_ids: f64,
    /// Which are.
    reuse: Dice,
    given: Vec<(Name, RequestKey)>,
    waiting: BTreeMap<usize, Vec<Again>>,
}

impl Retries {
    /// Nobody has written yet.
    pub fn new(options: &Options) -> Self {
        let dice = Dice::new(options.seed ^ 0x0072_6574_7269_6573);
        let twins = Dice::new(options.seed ^ 0x0074_776f_6173_6b65);
        let reuse = Dice::new(options.seed ^ 0x0072_6575_7365_6964);
        let (request_ids, reused_ids) = (options.workload.request_ids, options.past.reused_ids);
        Self { dice, twins, request_ids, reused_ids, reuse, given: Vec::new(), waiting: BTreeMap::new() }
    }

    /// The request id of a new write of `name`, if it gets one.
    pub fn key(&mut self, name: &Name) -> Option<RequestKey> {
        if self.request_ids == 0.0 || !self.dice.chance(self.request_ids) {
            return None;
        }
        let new = RequestKey(self.dice.identity());
        if self.reused_ids == 0.0 {
            return Some(new);
        }
        let key = if self.reuse.chance(self.reused_ids) { self.given_before(name).unwrap_or(new) } else { new };
        self.given.push((name.clone(), key));
        Some(key)
    }

    /// An id that was given before, as often as not to a write of this key.
    fn given_before(&mut self, name: &Name) -> Option<RequestKey> {
        let same = self.reuse.chance(0.5);
        let given: Vec<RequestKey> = self.given.iter().filter(|(other, _)| !same || other == name).map(|(_, key)| *key).collect();
        (!given.is_empty()).then(|| self.reuse.pick(&given))
    }

    /// The other host that is asked for the same write at the same time, as by a client that cannot wait for the first.
    pub fn elsewhere(&mut self, request: &Request, host: HostId, hosts: &[HostId]) -> Option<HostId> {
        let others: Vec<HostId> = hosts.iter().filter(|other| **other != host).copied().collect();
        if request.request_key.is_none() || others.is_empty() || !self.twins.chance(SENT_TO_TWO) {
            return None;
        }
        Some(self.twins.pick(&others))
    }

    /// A client was told of a write, or gave up: it may send it again some time.
    pub fn consider(&mut self, client: usize, id: WriteId, request: Option<Box<Request>>, acknowledged: bool) {
        let Some(request) = request else { return };
        let chance = if acknowledged { REPEATED } else { RETRIED };
        let waiting = self.waiting.entry(client).or_default();
        if waiting.len() < WAITING_MAX && self.dice.chance(chance) {
            waiting.push(Again { id, request: *request });
        }
    }

    /// What a client sends again now, if it does.
    pub fn due(&mut self, client: usize) -> Option<Again> {
        let waiting = self.waiting.get_mut(&client).filter(|waiting| !waiting.is_empty())?;
        self.dice.chance(AT_ONCE).then(|| waiting.swap_remove(self.dice.below(waiting.len())))
    }
}
