//! Nodes on their way out of the ring, and what permits their end: a drain receipt.
//!
//! One receipt lets the ring be written without a node. It is of a time at which members could still name that node, and what they
//! sent it since may be nowhere else: so a change is at its end only with another receipt, under a ring that is without the node and
//! that every member holds. One that does not answer has proven nothing.

use std::collections::BTreeSet;

use dynamo_core::id::NodeId;
use dynamo_core::node::receipt::Receipt;
use dynamo_core::rebalance::Next;
use dynamo_core::ring::Ring;

use crate::members::Views;

/// Those of `nodes` that gave a drain receipt under `ring`.
pub(crate) async fn drained(ring: &Ring, nodes: &[NodeId], views: &Views) -> Vec<NodeId> {
    let hash = ring.hash();
    let mut drained = Vec::new();
    for node in nodes {
        let Some(answer) = views.answered.get(node) else { continue };
        let under_this_ring =
            |receipt: &Receipt| receipt.node == *node && receipt.epoch == ring.epoch && receipt.ring_hash == hash;
        if answer.client.drain_receipt().await.is_ok_and(|receipt| under_this_ring(&receipt)) {
            drained.push(*node);
        }
    }
    drained
}

/// `next` is the end of the change that brought `ring` about.
pub(crate) fn is_at_its_end(ring: &Ring, next: &Next) -> bool {
    match next {
        Next::Settled => true,
        Next::Propose(next) => ring.operation.is_some() && next.operation.is_none(),
        Next::AwaitEpoch(_) | Next::AwaitData { .. } | Next::AwaitReceipts(_) => false,
    }
}

/// Who was in the ring on the way, and has proven to hold nothing since it is out.
#[derive(Default)]
pub(crate) struct Departed {
    seen: BTreeSet<NodeId>,
    proven: BTreeSet<NodeId>,
}

impl Departed {
    /// These may have held data.
    pub(crate) fn saw(&mut self, nodes: impl IntoIterator<Item = NodeId>) {
        self.seen.extend(nodes);
    }

    /// Whoever may have held data under `ring`, or before the change that it is in.
    pub(crate) fn saw_ring(&mut self, ring: &Ring, views: &Views) {
        self.saw(ring.members.keys().copied());
        let Some(operation) = &ring.operation else { return };
        self.saw(operation.before.keys().copied());
        if operation.aborted {
            // Whom it had added is no longer in it.
            self.saw(views.answered.keys().copied());
        }
    }

    /// Those that left and have not proven that they hold nothing. What a lost node holds counts for nothing.
    pub(crate) fn unproven(&self, ring: &Ring) -> Vec<NodeId> {
        let open = |node: &&NodeId| !ring.members.contains_key(node) && !ring.is_lost(**node) && !self.proven.contains(node);
        self.seen.iter().filter(open).copied().collect()
    }

    /// Asks those that answer for their receipts under `ring`, which every member holds. Returns who gave none.
    pub(crate) async fn holding(&mut self, ring: &Ring, views: &Views) -> Vec<NodeId> {
        let mut asked = self.unproven(ring);
        asked.retain(|node| views.answered.contains_key(node));
        self.proven.extend(drained(ring, &asked, views).await);
        asked.retain(|node| !self.proven.contains(node));
        asked
    }
}

/// What is to be done about nodes that left and do not answer.
pub(crate) fn advice(silent: &[NodeId]) -> String {
    let ids: Vec<String> = silent.iter().map(NodeId::to_string).collect();
    format!(
        "the ring is without {}, and whether all was handed over is not known, for there is no answer; keep the data directory and \
         start the node: it hands over what it has, and `dynamoctl -o json status` shows its objects and hints_kept until both are 0",
        ids.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_core::id::{ClusterId, Epoch};
    use dynamo_core::rebalance::{Members, first_ring, operation};
    use dynamo_core::ring::Member;
    use std::collections::BTreeMap;

    fn members(ids: &[u8]) -> Members {
        ids.iter().map(|id| (NodeId([*id; 16]), Member { zone: "z".to_owned(), weight: 1 })).collect()
    }

    #[test]
    fn who_was_in_the_ring_on_the_way_has_to_prove_that_it_holds_nothing() {
        let (answered, silent, unclaimed) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let views = Views { cluster: ClusterId([9; 16]), ring: None, answered, silent, unclaimed };
        let first = first_ring(ClusterId([9; 16]), 4, 3, &members(&[1, 2, 3, 4])).unwrap();
        let begun = operation::begun(&first, &members(&[1, 2, 3])).unwrap();
        let out = begun.successor(|next| next.members = members(&[1, 2, 3]));
        let four = NodeId([4; 16]);
        let mut departed = Departed::default();
        departed.saw_ring(&out, &views);
        assert_eq!(departed.unproven(&out), [four], "a command that begins here knows it from the ring");
        assert_eq!(departed.unproven(&begun), [], "it is a member still");
        let lost = out.successor(|next| next.lost = BTreeMap::from([(four, Epoch(4))]));
        assert_eq!(departed.unproven(&lost), []);
        departed.proven.insert(four);
        assert_eq!(departed.unproven(&out), []);
        let ended = out.successor(|next| next.operation = None);
        assert!(is_at_its_end(&out, &Next::Propose(ended)) && !is_at_its_end(&begun, &Next::Propose(out.clone())));
    }
}
