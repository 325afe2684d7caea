//! Hints whose home is another one by a new ring: they become copies, a bounded piece with each tick, and nothing is forgotten meanwhile.

use dynamo_core::node::Input;

use super::*;

/// Hints that one tick looks at, by the node's own bound.
const PER_TICK: usize = 256;

/// A ring of five, and the one after it in which a member that is not node 1 has taken the place of the first replica of a partition
/// that node 1 has no copy of; and names in that partition.
fn rings(names: usize) -> (Ring, Ring, NodeId, Vec<Name>) {
    let first = ring(5);
    let partition = first.partition_of(&key(&first, false));
    let target = first.placement(partition).replicas[0];
    let spare = stranger(&first, partition);
    let next = first.successor(|next| next.placements[partition.0 as usize].replicas[0] = spare);
    let keys = (0..).map(|at| Name::new("carts", format!("k{at}")));
    let names = keys.filter(|name| first.partition_of(name) == partition).take(names).collect();
    (first, next, target, names)
}

/// Node 1, which keeps a hint of each name.
fn with_hints(first: &Ring, target: NodeId, names: &[Name]) -> One {
    let mut one = One::start(first);
    for (at, name) in names.iter().enumerate() {
        one.hear(2, replicate(at as u64, first.epoch, name, &object(2, at as u64 + 1, "milk"), Some(target)));
    }
    one.sync();
    one.sent();
    one
}

fn hints(one: &One) -> usize {
    one.node.storage().hints().count()
}

fn copies(one: &One) -> usize {
    one.node.storage().objects().count()
}

#[test]
fn a_ring_is_adopted_at_once_and_each_tick_makes_some_hints_copies_over_a_restart() {
    let (first, next, target, names) = rings(3 * PER_TICK - 50);
    let mut one = with_hints(&first, target, &names);
    one.adopt(&next);
    assert_eq!((hints(&one), copies(&one)), (names.len(), 0), "adopting a ring takes no longer with hints");
    for tick in 1..=3 {
        let left = hints(&one);
        one.feed(Input::Tick);
        assert_eq!(left - hints(&one), PER_TICK.min(left), "tick {tick}");
        assert_eq!(hints(&one) + copies(&one), names.len(), "tick {tick}");
        one.sync();
        one.restart(false, &next);
    }
    assert_eq!(hints(&one), 0);
    let refusal = one.node.drain_receipt().expect_err("it has partitions");
    assert!(refusal.contains("partitions"), "{refusal}");
}

#[test]
fn a_hint_that_becomes_a_copy_to_be_kept_is_not_sent_and_waits_for_room_on_the_disk() {
    let (first, _, target, names) = rings(3);
    let partition = first.partition_of(&names[0]);
    let next = first.successor(|next| next.placements[partition.0 as usize].replicas[0] = id(1));
    let mut one = with_hints(&first, target, &names);
    one.feed(Input::Space { writable: false });
    one.adopt(&next);
    one.sync();
    one.wait(5 * SECOND, &next);
    assert_eq!((hints(&one), copies(&one)), (names.len(), 0));
    let to_target =
        |(to, message): &(NodeId, Message)| *to == target && matches!(message, Message::Push { purpose: Purpose::Hint, .. });
    assert!(!one.sent().iter().any(to_target), "it is no replica any more");
    one.feed(Input::Space { writable: true });
    one.feed(Input::Tick);
    assert_eq!((hints(&one), copies(&one)), (0, names.len()));
}

/// It may have said already that the new replica has all that it has.
#[test]
fn a_hint_for_a_replica_that_a_move_takes_out_goes_to_all_writers_as_a_copy() {
    let (first, _, target, names) = rings(1);
    let partition = first.partition_of(&names[0]);
    let spare = stranger(&first, partition);
    let mut one = with_hints(&first, target, &names);
    let next = moving(&first, partition, target, spare);
    one.adopt(&next);
    one.sync();
    one.all_hold(&next);
    one.wait(5 * SECOND, &next);
    assert_eq!((hints(&one), copies(&one)), (0, 1));
    let sent = one.sent();
    assert!(!sent.iter().any(|(_, message)| matches!(message, Message::Push { purpose: Purpose::Hint, .. })), "{sent:?}");
    let compares = |to: NodeId| {
        sent.iter().any(|(asked, message)| {
            *asked == to && matches!(message, Message::TreeRequest { partition: at, .. } if *at == partition)
        })
    };
    assert!(compares(spare) && compares(target));
}

#[test]
fn what_is_on_its_way_to_a_former_home_is_not_removed_on_its_word() {
    let (first, next, target, names) = rings(1);
    let mut one = with_hints(&first, target, &names);
    one.wait(SECOND, &first);
    let pushed = one.take_sent(|message| match message {
        Message::Push { batch, purpose: Purpose::Hint, .. } => Some(*batch),
        _ => None,
    });
    one.adopt(&next);
    one.hear(target.0[0], Message::Pushed { batch: pushed.expect("the hint goes home"), refused: false, epoch: first.epoch });
    assert_eq!(hints(&one), 1);
}

#[test]
fn a_coordinator_knows_what_it_keeps_for_a_former_home() {
    let (first, next, _, names) = rings(1);
    let mut one = One::start(&first);
    let (_, milk) = one.forwarded_put(5, 1, &names[0], "milk");
    one.adopt(&next);
    assert_eq!(hints(&one), 1);
    one.sent();
    let (_, eggs) = one.forwarded_put(5, 2, &names[0], "eggs");
    assert!(eggs.includes(&milk), "a context with its second dot would cover the first: {eggs:?}");
    assert_eq!(newest(&eggs), newest(&milk), "and it goes on under its actor");
}

/// What it told of the hint as a stand-in is no copy: as a replica it has to store the object.
#[test]
fn a_stand_in_that_answered_from_its_hint_and_becomes_a_replica_has_a_copy() {
    let (first, _, target, names) = rings(1);
    let partition = first.partition_of(&names[0]);
    let next = first.successor(|next| next.placements[partition.0 as usize].replicas[0] = id(1));
    let mut one = with_hints(&first, target, &names);
    for (number, digest_only) in [(1, true), (2, false)] {
        let (request, epoch, name) = (RequestId(number), first.epoch, names[0].clone());
        one.hear(2, Message::Fetch { request, epoch, name, digest_only });
    }
    one.adopt(&next);
    one.sync();
    one.feed(Input::Tick);
    assert_eq!((hints(&one), copies(&one)), (0, 1));
}

#[test]
fn a_ring_that_comes_during_a_look_at_the_hints_is_not_forgotten() {
    let first = ring(5);
    let targets =
        |partition: PartitionId| (!first.placement(partition).involves(id(1))).then(|| first.placement(partition).replicas);
    let pairs = (0..8).map(PartitionId).flat_map(|early| (early.0 + 1..8).map(move |late| (early, PartitionId(late))));
    let shared = |(early, late): (PartitionId, PartitionId)| {
        let target = targets(early)?.iter().find(|target| targets(late).is_some_and(|late| late.contains(target)))?;
        Some((early, late, *target))
    };
    let (early, late, target) = pairs.filter_map(shared).next().expect("few nodes, many partitions");
    let of = |partition: PartitionId, count: usize| {
        let names = (0..).map(|at| Name::new("carts", format!("k{at}")));
        names.filter(|name| first.partition_of(name) == partition).take(count).collect::<Vec<Name>>()
    };
    let mut one = with_hints(&first, target, &[of(early, 1), of(late, PER_TICK)].concat());
    let without_target = |before: &Ring, partition: PartitionId| {
        let spare = stranger(before, partition);
        before.successor(|next| {
            let replicas = &mut next.placements[partition.0 as usize].replicas;
            replicas.iter_mut().filter(|node| **node == target).for_each(|node| *node = spare);
        })
    };
    let second = without_target(&first, late);
    one.adopt(&second);
    one.feed(Input::Tick);
    assert_eq!(hints(&one), 2, "one that waits for its target, and one that was not looked at");
    one.adopt(&without_target(&second, early));
    (0..3).for_each(|_| one.feed(Input::Tick));
    assert_eq!(hints(&one), 0);
}

/// Once those have gone home there may be room.
#[test]
fn hints_that_wait_for_room_on_the_disk_hold_up_none_for_other_targets() {
    let first = ring(5);
    let others = first.partitions().filter(|(_, placed)| !placed.involves(id(1)));
    let others: Vec<PartitionId> = others.map(|(partition, _)| partition).collect();
    let [kept, given, ..] = others[..] else { panic!("it has three copies of five") };
    let replicas = |partition: PartitionId| first.placement(partition).replicas.iter().copied();
    let (early, late) = (replicas(kept).min().expect("three replicas"), replicas(given).max().expect("three replicas"));
    assert!(early < late, "its hints are looked at first");
    let next = first.successor(|next| {
        for (partition, from, to) in [(kept, early, id(1)), (given, late, stranger(&first, given))] {
            let replicas = &mut next.placements[partition.0 as usize].replicas;
            replicas.iter_mut().filter(|node| **node == from).for_each(|node| *node = to);
        }
    });
    let mut one = One::start(&first);
    for (number, partition, target) in [(1, kept, early), (2, given, late)] {
        let mut names = (0..).map(|at| Name::new("carts", format!("k{at}")));
        let name = names.find(|name| first.partition_of(name) == partition).expect("there is such a key");
        one.hear(2, replicate(number, first.epoch, &name, &object(2, number, "milk"), Some(target)));
    }
    one.sync();
    one.feed(Input::Space { writable: false });
    one.adopt(&next);
    one.sync();
    (0..5).for_each(|_| one.feed(Input::Tick));
    let copied: Vec<PartitionId> = one.node.storage().objects().map(|(partition, _, _)| partition).collect();
    assert_eq!((copied, hints(&one)), (vec![given], 1));
    one.feed(Input::Space { writable: true });
    (0..5).for_each(|_| one.feed(Input::Tick));
    assert_eq!((copies(&one), hints(&one)), (2, 0), "there is room");
}
