//! Peers that are away: what waits for them keeps nothing else waiting.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use dynamo_core::gossip::MemberState;
use dynamo_core::hash_tree::HashTrees;
use dynamo_core::id::{NodeId, PartitionId};
use dynamo_core::message::{Message, Purpose};
use dynamo_core::name::Name;
use dynamo_core::node::Input;
use dynamo_core::ring::Ring;

use crate::one::{CLUSTER, One, gossip, id, ring_of, stranger};
use crate::{SECOND, moving, object, replicate};

fn link(one: &mut One, peer: NodeId) {
    one.feed(Input::LinkUp { peer, peer_address: "back".into(), client_address: "back".into() });
}

/// Partitions that move to `receiver` whose trees it was asked for.
fn begun(one: &mut One, ring: &Ring, receiver: NodeId) -> usize {
    let begun = |(to, message): (NodeId, Message)| match message {
        Message::TreeRequest { partition, .. } if to == receiver => {
            ring.placement(partition).moving.is_some().then_some(partition)
        }
        _ => None,
    };
    one.sent().into_iter().filter_map(begun).collect::<BTreeSet<_>>().len()
}

#[test]
fn transfers_to_a_receiver_that_is_away_keep_none_to_others_from_beginning() {
    let mut ring = ring_of(6, 6, 3);
    let (away, there) = (id(5), id(6));
    let mut one = One::start(&ring);
    let leaves = |ring: &Ring, to| {
        let placed = ring.partitions().filter(move |(_, placed)| {
            placed.moving.is_none() && placed.replicas.contains(&id(1)) && !placed.replicas.contains(&to)
        });
        placed.map(|(partition, _)| partition).next().expect("of 64 partitions")
    };
    // As many as move at a time.
    for to in [away; 4].into_iter().chain([there]) {
        if to == there {
            one.sync();
            one.wait(SECOND, &ring);
            assert_eq!(begun(&mut one, &ring, away), 4);
            one.feed(Input::LinkDown { peer: away });
        }
        ring = moving(&ring, leaves(&ring, to), id(1), to);
        one.adopt(&ring);
    }
    one.sync();
    one.wait(10 * SECOND, &ring);
    assert!(begun(&mut one, &ring, there) > 0);
    link(&mut one, away);
    one.wait(30 * SECOND, &ring);
    assert_eq!(begun(&mut one, &ring, away), 4, "they go on when it is back");
}

/// Its tree can be asked for, and nothing can be stored there.
#[test]
fn transfers_to_a_receiver_that_has_no_room_keep_none_to_others_from_beginning() {
    let mut ring = ring_of(6, 6, 3);
    let (full, there) = (id(5), id(6));
    let mut one = One::start(&ring);
    let mut names = (0..).map(|at| Name::new("carts", format!("k{at}")));
    for to in [full; 4].into_iter().chain([there]) {
        let held = |name: &Name| {
            let placed = ring.placement(ring.partition_of(name));
            placed.moving.is_none() && placed.replicas.contains(&id(1)) && !placed.replicas.contains(&to)
        };
        let name = names.by_ref().find(held).expect("of 64 partitions");
        one.hear(2, replicate(1, ring.epoch, &name, &object(2, 1, "milk"), None));
        ring = moving(&ring, ring.partition_of(&name), id(1), to);
        one.adopt(&ring);
        one.sync();
    }
    let mut begun_there = false;
    for _ in 0..30 {
        for (to, message) in one.sent() {
            match message {
                Message::TreeRequest { exchange, partition, .. } if ring.placement(partition).moving.is_some() => {
                    begun_there |= to == there;
                    let leaves = HashTrees::new(CLUSTER, ring.partition_bits).leaves(partition);
                    let root = Default::default();
                    one.hear(to.0[0], Message::TreeResponse { exchange, partition, root, leaves, reaped: None });
                }
                Message::Push { batch, purpose: Purpose::Transfer, .. } => {
                    one.hear(to.0[0], Message::Pushed { batch, refused: to == full, epoch: ring.epoch });
                }
                _ => {}
            }
        }
        one.wait(SECOND, &ring);
    }
    assert!(begun_there);
    assert_eq!(one.node.counters().transfer_objects_sent, 1, "to the one that has room");
}

/// Owners have all that they are asked about. Returns who was asked about what.
fn hand_back(one: &mut One, ring: &Ring) -> BTreeSet<(NodeId, PartitionId)> {
    let mut asked = BTreeSet::new();
    for _ in 0..60 {
        one.wait(SECOND, ring);
        for (to, message) in one.sent() {
            if let Message::TreeRequest { exchange, root, partition, .. } = message {
                asked.insert((to, partition));
                let leaves = Bytes::new();
                one.hear(to.0[0], Message::TreeResponse { exchange, partition, root, leaves, reaped: None });
            }
        }
        one.sync();
    }
    asked
}

/// Copies of many partitions that the ring gives to others, on the first of five nodes.
fn strays() -> (One, Ring, BTreeMap<PartitionId, Name>) {
    let ring = ring_of(5, 8, 3);
    let mut one = One::start(&ring);
    let mut foreign: BTreeMap<PartitionId, Name> =
        (0..10_000).map(|at| Name::new("carts", format!("k{at}"))).map(|name| (ring.partition_of(&name), name)).collect();
    foreign.retain(|partition, _| !ring.placement(*partition).involves(id(1)));
    for (number, (partition, name)) in foreign.iter().enumerate() {
        let stranger = stranger(&ring, *partition);
        one.hear(3, replicate(number as u64, ring.epoch, name, &object(3, 1, "milk"), Some(stranger)));
    }
    one.sync();
    (one, ring, foreign)
}

/// These nodes say that they hold the ring.
fn hold<'a>(ring: &Ring, nodes: impl IntoIterator<Item = &'a NodeId>) -> Message {
    let state = MemberState { generation: 9, version: 1, epoch: ring.epoch, ..MemberState::default() };
    gossip(nodes.into_iter().map(|node| (*node, state.clone())).collect())
}

#[test]
fn copies_whose_owners_are_away_keep_no_others_from_going_home() {
    let (mut one, ring, mut foreign) = strays();
    one.all_hold(&ring);
    one.feed(Input::LinkDown { peer: id(2) });
    hand_back(&mut one, &ring);
    foreign.retain(|partition, _| ring.placement(*partition).involves(id(2)));
    assert!(foreign.len() > 64, "more than go home at a time");
    assert_eq!(one.node.storage().objects().count(), foreign.len(), "only those that the one who is away owns too");
    link(&mut one, id(2));
    hand_back(&mut one, &ring);
    assert_eq!(one.node.storage().objects().count(), 0);
}

#[test]
fn copies_go_home_while_a_member_is_away_and_are_dropped_when_every_member_holds_the_ring() {
    let (mut one, ring, foreign) = strays();
    let owned = |node: &NodeId| -> BTreeSet<(NodeId, PartitionId)> {
        let owned = foreign.keys().filter(|partition| ring.placement(**partition).involves(*node));
        owned.map(|partition| (*node, *partition)).collect()
    };
    let others: Vec<NodeId> = ring.members.keys().copied().filter(|node| ![id(1), id(2)].contains(node)).collect();
    let due = |nodes: &[NodeId]| nodes.iter().flat_map(owned).collect::<BTreeSet<_>>();
    one.hear(3, hold(&ring, &others));
    let strays_asked_about = |one: &mut One| {
        let asked = hand_back(one, &ring);
        asked.into_iter().filter(|(_, partition)| foreign.contains_key(partition)).collect::<BTreeSet<_>>()
    };
    assert_eq!(strays_asked_about(&mut one), BTreeSet::new(), "one that can be reached has yet to hear of the ring");
    one.feed(Input::LinkDown { peer: id(2) });
    assert_eq!(strays_asked_about(&mut one), due(&others));
    assert!(owned(&id(2)).len() > 64, "more than go home at a time wait for that one");
    assert_eq!(one.node.storage().objects().count(), foreign.len(), "that one may still take them for this node's");
    link(&mut one, id(2));
    one.hear(3, hold(&ring, &[id(2)]));
    assert!(hand_back(&mut one, &ring).is_superset(&due(&[id(2)])));
    assert_eq!(one.node.storage().objects().count(), 0);
}

#[test]
fn a_node_outside_the_ring_that_was_never_met_is_forgotten_after_a_minute() {
    let ring = ring_of(3, 3, 3);
    let mut one = One::start(&ring);
    let hearsay = || gossip(vec![(id(9), MemberState { generation: 1, version: 1, ..MemberState::default() })]);
    one.hear(2, hearsay());
    let knows = |one: &One| one.node.addresses().contains_key(&id(9));
    one.wait(59 * SECOND, &ring);
    assert!(knows(&one), "it may be on its way");
    one.wait(4 * SECOND, &ring);
    assert!(!knows(&one));
    one.hear(2, hearsay());
    assert!(!knows(&one), "hearsay does not bring it back");
}
