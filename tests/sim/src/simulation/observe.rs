//! What is seen of messages as they arrive: the fence of epochs (I9), and things that must happen now and then.

use dynamo_core::counters::Counters;
use dynamo_core::id::{Epoch, NodeId};
use dynamo_core::message::{Message, Purpose};
use dynamo_core::node::Node;

use crate::schedule::HostId;
use crate::simulation::Simulation;

/// The epoch under which a message asks something of a replica.
fn epoch_of(message: &Message) -> Option<Epoch> {
    match message {
        Message::Replicate { epoch, .. }
        | Message::Fetch { epoch, .. }
        | Message::Push { epoch, .. }
        | Message::Confirm { epoch, .. }
        | Message::TreeRequest { epoch, .. } => Some(*epoch),
        _ => None,
    }
}

/// How many requests a node refused for an older ring, or because it or the asker was declared lost.
fn refusals(counters: &Counters) -> u64 {
    counters.stale_epoch_refused + counters.messages_of_lost_refused
}

/// A request under an older ring than its receiver's, with the receiver's count of such requests before it.
pub(super) struct Fenced {
    refused: u64,
    what: String,
}

impl Simulation {
    /// I9: whether `to` has to refuse this.
    pub(super) fn fenced(&self, to: HostId, message: &Message) -> Option<Fenced> {
        let running = self.hosts[to.0].running.as_ref().filter(|running| !running.paused)?;
        let epoch = epoch_of(message)?;
        let held = running.node.ring()?.epoch;
        let refused = refusals(running.node.counters());
        (epoch < held).then(|| Fenced { refused, what: format!("host {} holds epoch {held}, asked under {epoch}", to.0) })
    }

    pub(super) fn check_fenced(&mut self, to: HostId, fenced: Option<Fenced>) {
        let Some(Fenced { refused, what }) = fenced else { return };
        let now = self.node(to).map(|node| refusals(node.counters()));
        self.totals.fenced += 1;
        // A node whose storage failed has answered nothing.
        if now.is_some_and(|now| now == refused) {
            self.violated("I9 a request under an older ring is refused", what);
        }
    }

    pub(super) fn observe_sending(&mut self, from: HostId, message: &Message) {
        if let Message::Replicate { name, object, .. } = message {
            // Who may keep no copy of what it makes shows what it went on from here.
            let made = self.witness().made_in(name, object);
            self.check_made(from, &made);
        }
        if let Message::Replicate { request, object, hint_for: None, .. } = message {
            let dots = || object.values().map(|(dot, _)| dot).collect();
            self.replicated.entry((from, *request)).or_insert_with(dots);
        }
    }

    pub(super) fn observe_delivery(&mut self, from: NodeId, to: HostId, link: u64, message: &Message) {
        let sender = self.host_of(from);
        let replaced = sender.is_some_and(|sender| !self.network.is_current(sender, to, link));
        self.totals.messages_outlived_links += u64::from(replaced);
        let held = self.node(to).and_then(Node::ring).map_or(Epoch(0), |ring| ring.epoch);
        if let Some(epoch) = epoch_of(message) {
            self.totals.messages_two_rings_old += u64::from(epoch.0 > 0 && epoch.0 + 2 <= held.0);
        }
        match message {
            Message::Push { purpose: Purpose::Transfer, .. } => self.totals.transfers_in_batches += 1,
            Message::Push { purpose: Purpose::Handback, .. } => self.totals.copies_handed_back += 1,
            Message::Replicated { request, durable: true } => {
                let dots = self.replicated.get(&(to, *request)).into_iter().flatten();
                self.told_durable.extend(dots.map(|dot| (*dot, from)));
            }
            Message::Forwarded { .. } => self.totals.forwards_answered += 1,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::cluster;

    #[test]
    fn a_request_under_an_older_ring_that_was_not_refused_is_found() {
        for (refused, found) in [(1, vec![]), (0, vec!["I9 a request under an older ring is refused"])] {
            let mut cluster = cluster(3).start();
            let [host, from] = [cluster.hosts()[0], cluster.hosts()[1]];
            let (older, name) = (Epoch(0), crate::scenario::name("alice"));
            let request = dynamo_core::id::RequestId(1 << 40);
            let fetch = Message::Fetch { request, epoch: older, name, digest_only: true };
            let fenced = cluster.sim.fenced(host, &fetch);
            assert!(fenced.is_some(), "it is under an older ring");
            if refused > 0 {
                cluster.sim.deliver(from, host, fetch);
                cluster.run(std::time::Duration::from_millis(1));
            }
            cluster.sim.check_fenced(host, fenced);
            let violated: Vec<_> = cluster.sim.violations().iter().map(|violation| violation.invariant).collect();
            assert_eq!(violated, found);
        }
    }
}
