//! What a coordinator asks of others, and which of their answers count.

use dynamo_core::id::{NodeId, PartitionId};
use dynamo_core::message::Message;
use dynamo_core::request::{Outcome, QuorumWish, Request, Success};
use dynamo_core::ring::{Ring, Stage};

use crate::moving;
use crate::one::{One, id, key, put, ring_of};

/// Who forwards the requests.
const FORWARDER: u8 = 2;

/// A member that is none of the replicas.
fn stranger(ring: &Ring, partition: PartitionId) -> NodeId {
    let others = ring.members.keys().filter(|node| **node != id(1));
    *others.rev().find(|node| !ring.placement(partition).involves(**node)).expect("more members than replicas")
}

/// Every peer has done what it was asked for.
fn answer_all(one: &mut One) {
    for (to, message) in one.sent() {
        if let Message::Replicate { request, synced, .. } = message {
            one.hear(to.0[0], Message::Replicated { request, durable: synced });
        }
    }
}

fn is_written(outcome: Option<Outcome>) -> bool {
    matches!(outcome, Some(Ok(Success::Written { .. })))
}

/// No time passes here: nobody waits for a deadline.
#[test]
fn a_put_that_asks_for_one_durable_copy_gets_it_where_its_coordinators_own_counts_in_one_set_or_none() {
    for n in [1, 3] {
        for stage in [None, Some(Stage::WriteBothReadOld), Some(Stage::WriteBothReadNew)] {
            for leaves in [true, false] {
                let first = ring_of(5, 3, n);
                let name = key(&first, leaves && stage.is_some());
                let partition = first.partition_of(&name);
                let other = stranger(&first, partition);
                let (from, to) = if leaves { (id(1), other) } else { (first.placement(partition).replicas[0], id(1)) };
                let mut one = One::start(&first);
                if let Some(stage) = stage {
                    let old = moving(&first, partition, from, to);
                    one.adopt(&old);
                    let set = |next: &mut Ring| {
                        let placement = &mut next.placements[partition.0 as usize];
                        placement.moving.iter_mut().for_each(|moving| moving.stage = stage);
                    };
                    one.adopt(&old.successor(set));
                }
                one.sync();
                one.sent();
                let quorum = QuorumWish { w: Some(n.min(2)), dw: Some(1), ..QuorumWish::default() };
                one.forward(FORWARDER, 1, Request { quorum, ..put(&name, "milk") });
                answer_all(&mut one);
                one.sync();
                assert!(is_written(one.outcome(1)), "N = {n}, {stage:?}, it leaves: {leaves}");
            }
        }
    }
}
