//! A node that the ring does not list may be taken away at any time: it coordinates no write, and keeps nothing that counts. So may one that
//! is about to leave, and what one had begun before it comes back may be over for all others.

use dynamo_core::id::RequestKey;
use dynamo_core::node::Input;
use dynamo_core::request::{ClientHandle, Evidence, Failure, Outcome, QuorumWish, Request, Success};
use dynamo_core::ring::Member;

use super::*;
use crate::one::put;

/// The ring after `ring` of which node 1 is no member.
fn without_node_1(ring: &Ring) -> Ring {
    let mut without = without_replicas_on_node_1(ring);
    without.members.remove(&id(1));
    without
}

/// Node 1, outside a ring of four, which has links to none of them but `linked`.
fn outside(linked: Option<NodeId>) -> (One, Ring) {
    let first = ring(5);
    let mut one = One::start(&first);
    let ring = without_node_1(&first);
    one.adopt(&ring);
    one.sync();
    for peer in ring.members.keys().copied().filter(|peer| Some(*peer) != linked) {
        one.feed(Input::LinkDown { peer });
    }
    one.sent();
    (one, ring)
}

fn lose_links(one: &mut One, peers: &[NodeId]) {
    peers.iter().for_each(|peer| one.feed(Input::LinkDown { peer: *peer }));
}

fn writes(sent: &[(NodeId, Message)]) -> usize {
    sent.iter().filter(|(_, message)| matches!(message, Message::Replicate { .. })).count()
}

#[test]
fn it_does_not_stand_in_for_a_replica_with_its_own_disk() {
    let (mut one, ring) = outside(None);
    one.try_put(&key(&ring, false), "milk", Bytes::new());
    one.sync();
    let declined = |answer: &Outcome| matches!(answer, Err(Failure::NotServing(why)) if why.contains("does not list this node"));
    assert!(matches!(&one.answers[..], [answer] if declined(answer)), "{:?}", one.answers);
    assert_eq!((one.node.storage().hints().count(), one.node.storage().objects().count()), (0, 0), "nothing was written");
}

#[test]
fn a_write_whose_replicas_it_does_not_reach_it_passes_on_to_any_member() {
    let name = key(&ring(5), false);
    let ring = without_node_1(&ring(5));
    let spare = stranger(&ring, ring.partition_of(&name));
    let (mut one, _) = outside(Some(spare));
    one.try_put(&name, "milk", Bytes::new());
    let sent = one.sent();
    let passed_on = |(to, message): &(NodeId, Message)| match message {
        Message::Forward { request, .. } if *to == spare => Some(*request),
        _ => None,
    };
    let request = sent.iter().find_map(passed_on).expect("it is passed on");
    assert_eq!((writes(&sent), one.answers.len(), one.node.storage().hints().count()), (0, 0, 0));
    let evidence = Evidence { epoch: ring.epoch, ..Evidence::default() };
    let written = Ok(Success::Written { context: Bytes::new(), evidence });
    one.hear(spare.0[0], Message::Forwarded { request, outcome: written.clone() });
    assert_eq!(one.answers, [written]);
}

/// The replicas that it asked under the old ring may have it; under the new one they would be asked by somebody whom nobody asks
/// before a tombstone goes.
#[test]
fn the_outcome_of_what_was_in_flight_as_it_left_the_ring_is_open_and_stays_so() {
    for at_a_replica in [true, false] {
        let first = ring(5);
        let mut one = One::start(&first);
        let name = key(&first, at_a_replica);
        let (request, _) = if at_a_replica { one.put(&name, "milk") } else { one.forwarded_put(2, 7, &name, "milk") };
        one.adopt(&without_node_1(&first));
        one.sync();
        let outcome = if at_a_replica { one.answers.pop() } else { one.outcome(7) };
        assert_eq!(outcome, Some(Err(Failure::Unknown { acknowledged: 0, required: 2 })), "at a replica: {at_a_replica}");
        for peer in 2..=5 {
            one.hear(peer, Message::Replicated { request, durable: true });
        }
        assert_eq!((one.answers.len(), one.outcome(7)), (0, None), "it is told once");
        assert_eq!(writes(&one.sent()), 0, "nobody is asked for it any more");
    }
}

#[test]
fn what_it_gets_by_a_forward_goes_back_to_who_asked_for_it() {
    let (mut one, ring) = outside(Some(id(2)));
    one.forward(2, 7, put(&key(&ring, false), "milk"));
    assert!(matches!(one.outcome(7), Some(Err(Failure::NotServing(_)))));
    assert_eq!(one.sent(), []);
    assert_eq!((one.node.storage().hints().count(), one.node.storage().objects().count()), (0, 0), "nothing was written");
}

/// The ring after `ring` in which `leaver` is on its way out, with or without what it holds.
fn with_leaver(ring: &Ring, leaver: NodeId, drained: bool) -> Ring {
    ring.successor(|next| {
        next.members.get_mut(&leaver).expect("a member").weight = 0;
        for placement in next.placements.iter_mut().filter(|_| drained) {
            let spare = (1..=5).map(id).find(|node| *node != leaver && !placement.replicas.contains(node)).expect("five nodes");
            placement.replicas.iter_mut().filter(|node| **node == leaver).for_each(|node| *node = spare);
        }
    })
}

/// It may have said that it holds nothing, and be taken out while it is cut off: nobody would ask it before a tombstone goes.
#[test]
fn no_write_counts_on_a_member_that_is_on_its_way_out_and_holds_no_partition() {
    let first = ring(5);
    // Node 5 is asked by node 1, or node 1 would have to ask itself.
    for (leaver, drained) in [(id(5), true), (id(5), false), (id(1), true), (id(1), false)] {
        let ring = with_leaver(&first, leaver, drained);
        let held_by_neither =
            |name: &Name| [id(1), id(5)].iter().all(|node| !ring.placement(ring.partition_of(name)).involves(*node));
        let name = (0..).map(|at| Name::new("carts", format!("k{at}"))).find(held_by_neither).expect("there is such a key");
        let mut one = One::start(&ring);
        lose_links(&mut one, &[2, 3, 4].map(id));
        one.sent();
        let quorum = QuorumWish { w: Some(2), ..QuorumWish::default() };
        one.feed(Input::Request { client: ClientHandle(1), request: Request { quorum, ..put(&name, "milk") } });
        let refused = matches!(one.answers[..], [Err(Failure::Unavailable { acknowledged: 1, required: 2 })]);
        assert_eq!((refused, writes(&one.sent()) == 0), (drained, drained), "{leaver:?}, {:?}", one.answers);
    }
}

/// One that holds no partition may have said so, and be no member by the ring that it missed: nobody asked it for its writes then.
#[test]
fn the_outcome_of_what_was_in_flight_as_a_node_that_holds_nothing_missed_a_ring_is_open() {
    for (drained, missed) in [(false, false), (false, true), (true, false), (true, true)] {
        let first = with_leaver(&ring(5), id(1), drained);
        let mut one = One::start(&first);
        one.forwarded_put(2, 7, &key(&first, false), "milk");
        let next = first.successor(|_| ());
        let next = if missed { next.successor(|_| ()) } else { next };
        one.hear(2, Message::RingUpdate { ring: next.into() });
        one.sync();
        let open = drained && missed;
        let unknown = Err(Failure::Unknown { acknowledged: 0, required: 2 });
        assert_eq!(one.outcome(7), open.then_some(unknown), "drained: {drained}, missed: {missed}");
        assert_eq!(writes(&one.sent()) == 0, open, "drained: {drained}, missed: {missed}");
    }
}

/// The write that it names may be reaped: stand-ins do not know, and would acknowledge it.
#[test]
fn no_retry_rests_on_a_hint_from_before_a_time_in_which_the_ring_did_not_list_its_node() {
    for (leaves, moves, restarts) in [
        (false, false, false),
        (false, true, false),
        (true, false, false),
        (true, false, true),
        (true, true, false),
        (true, true, true),
    ] {
        // Each home replica has a stand-in, so that one hint is kept here.
        let first = without_replicas_on_node_1(&ring(6));
        let name = key(&first, false);
        let mut one = One::start(&first);
        let homes = first.placement(first.partition_of(&name)).replicas;
        lose_links(&mut one, homes);
        let quorum = QuorumWish { w: Some(1), ..QuorumWish::default() };
        let retried = Request { request_key: Some(RequestKey([7; 16])), quorum, ..put(&name, "milk") };
        let ask = |one: &mut One, client| one.feed(Input::Request { client: ClientHandle(client), request: retried.clone() });
        ask(&mut one, 1);
        one.sync();
        assert!(matches!(one.answers[..], [Ok(_)]), "{:?}", one.answers);
        // Else it keeps more hints, for those who do not answer.
        for (to, message) in one.sent() {
            if let Message::Replicate { request, hint_for: Some(_), .. } = message {
                one.hear(to.0[0], Message::Replicated { request, durable: true });
            }
        }
        let kept_for: Vec<NodeId> = one.node.storage().hints().map(|(home, ..)| home).collect();
        let [home] = kept_for[..] else { panic!("one hint: {kept_for:?}") };
        let between = first.successor(|next| next.members.retain(|node, _| !(leaves && *node == id(1))));
        let partition = first.partition_of(&name);
        let back = between.successor(|next| {
            next.members.insert(id(1), Member { zone: "z".into(), weight: 1 });
            if moves {
                // The hint becomes a copy, which no owner can be given.
                let replicas = &mut next.placements[partition.0 as usize].replicas;
                replicas.iter_mut().filter(|node| **node == home).for_each(|node| *node = stranger(&first, partition));
            }
        });
        [&between, &back].into_iter().for_each(|ring| one.adopt(ring));
        one.sync();
        one.wait(SECOND, &back);
        assert_eq!(one.node.storage().hints().count() == 0, moves, "it is a copy");
        if restarts {
            one.restart_among_peers(true, &back);
            lose_links(&mut one, homes);
        }
        // By the new ring one more is a home replica.
        lose_links(&mut one, &[stranger(&first, partition)]);
        one.answers.clear();
        ask(&mut one, 2);
        one.sync();
        let open = matches!(one.answers[..], [Err(Failure::Unknown { .. })]);
        assert_eq!(open, leaves, "moves: {moves}, restarts: {restarts}, {:?}", one.answers);
    }
}
