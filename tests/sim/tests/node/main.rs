//! A single node at its border, where a mistake would show once in many thousand histories: what it says before its fsync and
//! after it, under which actor it writes, and what it keeps until who has said what.

mod actors;
mod away;
mod coordinating;
mod moves;
mod one;
mod outside;
mod reaped;
mod reaping;
mod retargeting;
mod rings;
mod stable_storage;

use std::time::Duration;

use bytes::Bytes;
use dynamo_core::config::Config;
use dynamo_core::gossip::MemberState;
use dynamo_core::hash_tree::HashTrees;
use dynamo_core::hinted_handoff::HintFor;
use dynamo_core::id::{Epoch, Incarnation, NodeId, PartitionId, RequestId};
use dynamo_core::message::{Message, NamedDigest, NamedHistory, NamedObject, Purpose};
use dynamo_core::name::Name;
use dynamo_core::ring::{Move, Ring, Stage};
use dynamo_core::version::{Actor, CausalContext, Digest, Dot, Object, Value};

use crate::one::{CLUSTER, One, gossip, id, key, newest, ring, stranger};

const SECOND: Duration = Duration::from_secs(1);

fn object(by: u8, counter: u64, value: &str) -> Object {
    let mut object = Object::default();
    let dot = Dot { actor: Actor { node: id(by), incarnation: Incarnation(1) }, counter };
    let data = Some(Bytes::copy_from_slice(value.as_bytes()));
    object.update(&CausalContext::default(), dot, Value { data, written_ms: 0 });
    object
}

fn replicate(number: u64, epoch: Epoch, name: &Name, object: &Object, hint_for: Option<NodeId>) -> Message {
    let (name, object) = (name.clone(), object.clone());
    let hint_for = hint_for.map(|home| HintFor { home, needed: false });
    Message::Replicate { request: RequestId(number), epoch, name, object, hint_for, synced: true }
}

/// The root of a copy with this one object.
fn root_of(ring: &Ring, partition: PartitionId, name: &Name, object: &Object) -> dynamo_core::version::Digest {
    let mut trees = HashTrees::new(CLUSTER, ring.partition_bits);
    trees.update(partition, name, Default::default(), object.digest());
    trees.root(partition)
}

/// A ring of two stages of one move: `to` takes the place of `from` in this partition.
fn moving(before: &Ring, partition: PartitionId, from: NodeId, to: NodeId) -> Ring {
    before.successor(|next| {
        let placement = &mut next.placements[partition.0 as usize];
        let target = placement.replicas.iter().map(|node| if *node == from { to } else { *node }).collect();
        placement.moving = Some(Move { stage: Stage::WriteBothReadOld, target, since: before.epoch.next() });
    })
}

/// The ring after `ring`, a member of which is node 1 still, and holds nothing.
fn without_replicas_on_node_1(ring: &Ring) -> Ring {
    ring.successor(|next| {
        for placement in &mut next.placements {
            let spare = (2..=5).map(id).find(|node| !placement.replicas.contains(node)).expect("five nodes");
            placement.replicas.iter_mut().filter(|node| **node == id(1)).for_each(|node| *node = spare);
        }
    })
}

/// Node 1, to which a partition moves that it has nothing of, with a name in it and the source.
fn arriving() -> (One, Ring, Name, NodeId) {
    let first = ring(5);
    let name = key(&first, false);
    let partition = first.partition_of(&name);
    let source = first.placement(partition).replicas[0];
    let mut one = One::start(&first);
    let next = moving(&first, partition, source, id(1));
    one.adopt(&next);
    one.sync();
    one.sent();
    (one, next, name, source)
}

mod an_actor_builds_on_its_own_whole_copy {
    use super::*;

    #[test]
    fn a_clean_stop_keeps_the_actor_and_a_crash_ends_it_even_after_a_clean_stop_before() {
        let ring = ring(5);
        let mut one = One::start(&ring);
        let name = key(&ring, true);
        let first = newest(&one.put(&name, "milk").1);
        one.sync();
        one.restart_among_peers(true, &ring);
        let second = newest(&one.put(&name, "eggs").1);
        assert_eq!(second, first, "the stop was clean");
        one.restart_among_peers(false, &ring);
        assert_ne!(newest(&one.put(&name, "flour").1), second, "the last write may be lost here and acknowledged elsewhere");
    }

    #[test]
    fn a_coordinator_that_is_no_replica_includes_what_it_made_before() {
        let ring = ring(5);
        let name = key(&ring, false);
        // Over the quota it may not keep what it made.
        for hint_bytes_max in [1 << 30, 0] {
            let mut one = One::start_with(Config { hint_bytes_max, ..Config::default() }, &ring);
            let (_, first) = one.forwarded_put(5, 1, &name, "milk");
            let (_, second) = one.forwarded_put(5, 2, &name, "eggs");
            let exact = second.includes(&first) || newest(&second) != newest(&first);
            assert!(exact, "a context with its second dot would cover the first: {second:?}");
        }
    }

    #[test]
    fn who_has_handed_its_hint_over_goes_on_as_another() {
        let ring = ring(5);
        let mut one = One::start(&ring);
        let name = key(&ring, false);
        let (request, first) = one.forwarded_put(5, 1, &name, "milk");
        for home in ring.placement(ring.partition_of(&name)).replicas {
            one.hear(home.0[0], Message::Replicated { request, durable: true });
        }
        one.sync();
        one.sent();
        one.wait(SECOND, &ring);
        let pushed = one.sent().into_iter().find_map(|(to, message)| match message {
            Message::Push { batch, purpose: Purpose::Hint, .. } => Some((to, batch)),
            _ => None,
        });
        let (to, batch) = pushed.expect("the hint goes home");
        one.hear(to.0[0], Message::Pushed { batch, refused: false, epoch: ring.epoch });
        let (_, second) = one.forwarded_put(5, 2, &name, "eggs");
        assert!(!second.includes(&first), "it has forgotten the first");
        assert_ne!(newest(&second), newest(&first), "so it must not seem to have seen it");
    }

    #[test]
    fn who_becomes_a_replica_goes_on_as_another() {
        let first_ring = ring(5);
        let mut one = One::start(&first_ring);
        let name = key(&first_ring, false);
        let partition = first_ring.partition_of(&name);
        let (_, first) = one.forwarded_put(5, 1, &name, "milk");
        let leaver = first_ring.placement(partition).replicas[0];
        one.adopt(&moving(&first_ring, partition, leaver, id(1)));
        one.sync();
        one.sent();
        assert_ne!(newest(&one.forwarded_put(5, 2, &name, "eggs").1), newest(&first), "its copy is another one now");
    }

    /// kv679_uid: two nodes with one identity. A copy of a directory whose node runs, or ran until the power went, writes as
    /// another actor, so its dots are never those of the original.
    #[test]
    fn the_copy_of_a_directory_in_use_writes_as_another() {
        let ring = ring(5);
        let mut one = One::start(&ring);
        let name = key(&ring, true);
        one.put(&name, "milk");
        one.sync();
        let mut twin = One::on(one.node.storage().snapshot(), 2, 99);
        twin.link(&ring);
        twin.sent();
        let (original, copy) = (newest(&one.put(&name, "eggs").1), newest(&twin.put(&name, "flour").1));
        assert_ne!(original, copy);
    }

    #[test]
    fn a_new_start_numbers_its_requests_anew() {
        let ring = ring(5);
        let mut one = One::start(&ring);
        let name = key(&ring, true);
        let before: Vec<RequestId> = ["milk", "eggs"].map(|value| one.put(&name, value).0).to_vec();
        one.restart(false, &ring);
        let after = one.put(&name, "flour").0;
        assert!(!before.contains(&after), "a late answer to {before:?} would count for {after:?}");
    }

    /// Two pods of one snapshot, or a directory that went back: both count the same generation.
    #[test]
    fn two_processes_on_copies_of_one_directory_take_no_answers_for_each_others() {
        let ring = ring(5);
        let mut one = One::start(&ring);
        let name = key(&ring, true);
        one.put(&name, "milk");
        one.sync();
        let mut twins = [2, 3].map(|seed| {
            let mut twin = One::on(one.node.storage().snapshot(), 2, seed);
            twin.link(&ring);
            twin.sent();
            twin
        });
        let numbers = twins.each_mut().map(|twin| twin.put(&name, "eggs").0);
        assert_ne!(numbers[0], numbers[1]);
        let twin = &mut twins[1];
        twin.sync();
        let homes = || ring.placement(ring.partition_of(&name)).replicas.iter().filter(|home| **home != id(1));
        homes().for_each(|home| twin.hear(home.0[0], Message::Replicated { request: numbers[0], durable: true }));
        assert_eq!(twin.answers, [], "nobody but itself has it");
        homes().for_each(|home| twin.hear(home.0[0], Message::Replicated { request: numbers[1], durable: true }));
        assert!(matches!(&twin.answers[..], [Ok(_)]), "{:?}", twin.answers);
    }
}

mod nothing_is_dropped_too_early {
    use super::*;

    #[test]
    fn a_copy_that_is_not_its_own_stays_until_every_owner_has_it() {
        let ring = ring(5);
        let mut one = One::start(&ring);
        let name = key(&ring, false);
        let partition = ring.partition_of(&name);
        // A hint for a node that the ring does not name becomes a copy of the keeper's.
        let stranger = ring.placement(partition).writers();
        let other = (2..=5).map(id).find(|node| !stranger.contains(node)).expect("five nodes, three replicas");
        one.hear(2, replicate(7, ring.epoch, &name, &object(2, 1, "milk"), Some(other)));
        one.sync();
        one.all_hold(&ring);
        one.sent();
        one.wait(SECOND, &ring);
        let mut asked: Vec<(NodeId, u64, dynamo_core::version::Digest)> = Vec::new();
        for (to, message) in one.sent() {
            if let Message::TreeRequest { exchange, root, partition: at, .. } = message
                && at == partition
            {
                asked.push((to, exchange, root));
            }
        }
        assert_eq!(asked.len(), 3, "every owner is asked for its tree");
        for (at, (owner, exchange, root)) in asked.into_iter().enumerate() {
            assert_eq!(one.node.storage().objects().count(), 1, "{at} owners have it");
            one.hear(owner.0[0], Message::TreeResponse { exchange, partition, root, leaves: Bytes::new(), reaped: None });
            one.sync();
            one.wait(SECOND, &ring);
        }
        assert_eq!(one.node.storage().objects().count(), 0, "all owners have it");
    }

    #[test]
    fn of_a_copy_that_goes_home_only_what_its_owner_has_not_seen_is_sent() {
        let ring = ring(5);
        let mut one = One::start(&ring);
        let name = key(&ring, false);
        let partition = ring.partition_of(&name);
        let beside = |at: &Name| *at != name && ring.partition_of(at) == partition;
        let other = (0..).map(|at| Name::new("carts", format!("k{at}"))).find(beside).expect("there is such a key");
        let (kept, owner) = (object(2, 1, "milk"), ring.placement(partition).replicas[0]);
        let stranger = stranger(&ring, partition);
        for (number, name) in [(7, &name), (8, &other)] {
            one.hear(2, replicate(number, ring.epoch, name, &kept, Some(stranger)));
        }
        one.sync();
        one.all_hold(&ring);
        let mut pushed = Vec::new();
        for _ in 0..8 {
            one.wait(SECOND, &ring);
            for (to, message) in one.sent().into_iter().filter(|(to, _)| *to == owner) {
                match message {
                    Message::TreeRequest { exchange, .. } => {
                        // An owner that has nothing in any leaf, by its tree.
                        let leaves = HashTrees::new(CLUSTER, ring.partition_bits).leaves(partition);
                        let root = Default::default();
                        one.hear(to.0[0], Message::TreeResponse { exchange, partition, root, leaves, reaped: None });
                    }
                    Message::HistoriesRequest { batch, histories, .. } => {
                        assert!(histories.iter().all(|named| named.history == kept.history()), "no value is in {histories:?}");
                        // By its word it has the one, but not the other.
                        let names = histories.into_iter().map(|named| named.name);
                        let lacking = names.filter(|name| *name == other).collect();
                        one.hear(to.0[0], Message::HistoriesResponse { batch, lacking });
                    }
                    Message::Push { batch, purpose: Purpose::Handback, objects, .. } => {
                        pushed.extend(objects);
                        one.hear(to.0[0], Message::Pushed { batch, refused: false, epoch: ring.epoch });
                    }
                    _ => {}
                }
                one.sync();
            }
        }
        assert_eq!(pushed, [NamedObject { name: other, object: kept }], "with its value, and once");
        assert_eq!(one.node.storage().objects().count(), 2, "two owners have said nothing");
    }

    #[test]
    fn an_owner_lacks_what_it_has_not_seen_all_of_and_says_so_from_stable_storage() {
        let ring = ring(5);
        let mut one = One::start(&ring);
        let name = key(&ring, true);
        let partition = ring.partition_of(&name);
        let (first, mut second) = (object(2, 1, "milk"), object(2, 1, "milk"));
        second.join(&object(3, 1, "eggs"));
        let ask = |batch, object: &Object| Message::HistoriesRequest {
            batch,
            epoch: ring.epoch,
            partition,
            histories: vec![NamedHistory { name: name.clone(), history: object.history() }],
        };
        let answer = |batch, lacking: &[&Name]| {
            let lacking = lacking.iter().map(|name| (*name).clone()).collect();
            [(id(2), Message::HistoriesResponse { batch, lacking })]
        };
        one.wait(SECOND, &ring);
        one.sent();
        one.hear(2, ask(1, &first));
        assert_eq!(one.sent(), answer(1, &[&name]), "nothing is here");
        one.hear(2, replicate(7, ring.epoch, &name, &first, None));
        one.hear(2, ask(2, &first));
        assert_eq!(one.sent(), [], "a loss of power could take it");
        one.sync();
        let sent = one.sent();
        assert_eq!(sent[1..], answer(2, &[]), "{sent:?}");
        one.hear(2, ask(3, &second));
        assert_eq!(one.sent(), answer(3, &[&name]), "one version is here, and not the other");
        let behind = Message::HistoriesRequest { batch: 4, epoch: Epoch(0), partition, histories: Vec::new() };
        one.hear(2, behind);
        let refused = (id(2), Message::Pushed { batch: 4, refused: true, epoch: ring.epoch });
        assert!(one.sent().contains(&refused), "it has no copy under that ring");
    }

    #[test]
    fn an_owner_that_is_asked_about_more_than_it_can_take_answers_later() {
        let ring = ring(5);
        let mut one = One::start(&ring);
        let name = key(&ring, true);
        let partition = ring.partition_of(&name);
        let named = NamedHistory { name: name.clone(), history: object(2, 1, "milk").history() };
        one.wait(SECOND, &ring);
        one.sent();
        let answers = |one: &mut One| {
            let sent = one.sent();
            sent.iter().filter(|(_, message)| matches!(message, Message::HistoriesResponse { .. })).count()
        };
        let mut at_once = 0;
        for batch in 0..400 {
            let histories = vec![named.clone(); 256];
            one.hear(2, Message::HistoriesRequest { batch, epoch: ring.epoch, partition, histories });
            at_once += answers(&mut one);
        }
        assert!((1..200).contains(&at_once), "{at_once} of 400: as many as it had saved for");
        one.wait(2 * SECOND, &ring);
        assert_eq!(at_once + answers(&mut one), 400);
    }

    #[test]
    fn a_node_that_leaves_asks_about_a_few_batches_at_a_time_and_in_the_end_about_all() {
        let ring = ring(5);
        let mut one = One::start(&ring);
        let mut foreign: Vec<(PartitionId, Name)> = Vec::new();
        let names = (0..).map(|at: u32| Name::new("carts", format!("k{at}")));
        for name in names.filter(|name| !ring.placement(ring.partition_of(name)).involves(id(1))).take(40) {
            foreign.push((ring.partition_of(&name), name));
        }
        for (number, (partition, name)) in foreign.iter().enumerate() {
            let stranger = stranger(&ring, *partition);
            one.hear(2, replicate(number as u64, ring.epoch, name, &object(2, 1, "milk"), Some(stranger)));
        }
        one.sync();
        one.all_hold(&ring);
        let (mut waiting, mut most, mut asked) = (Vec::new(), 0, 0);
        for _ in 0..40 {
            one.wait(SECOND, &ring);
            for (to, message) in one.sent() {
                match message {
                    Message::TreeRequest { exchange, partition, .. } => {
                        let leaves = HashTrees::new(CLUSTER, ring.partition_bits).leaves(partition);
                        let root = Default::default();
                        one.hear(to.0[0], Message::TreeResponse { exchange, partition, root, leaves, reaped: None });
                    }
                    Message::HistoriesRequest { batch, histories, .. } => {
                        asked += histories.len();
                        waiting.push((to, batch));
                    }
                    _ => {}
                }
            }
            most = most.max(waiting.len());
            for (to, batch) in std::mem::take(&mut waiting) {
                one.hear(to.0[0], Message::HistoriesResponse { batch, lacking: Vec::new() });
            }
            one.sync();
        }
        assert_eq!(most, 4, "as many as partitions move at a time");
        assert_eq!((asked, one.node.storage().objects().count()), (3 * foreign.len(), 0));
    }

    /// A node that sends a partition with three objects to a newcomer.
    struct Sender {
        one: One,
        ring: Ring,
        partition: PartitionId,
        newcomer: NodeId,
        names: Vec<Name>,
    }

    fn sender() -> Sender {
        let first = ring(5);
        let name = key(&first, true);
        let partition = first.partition_of(&name);
        let in_partition = |at: &Name| first.partition_of(at) == partition;
        let names: Vec<Name> = (0..).map(|at| Name::new("carts", format!("k{at}"))).filter(in_partition).take(3).collect();
        let mut one = One::start(&first);
        for (at, name) in names.iter().enumerate() {
            one.hear(2, replicate(at as u64, first.epoch, name, &object(2, at as u64 + 1, "milk"), None));
        }
        one.sync();
        let newcomer = stranger(&first, partition);
        let next = moving(&first, partition, id(1), newcomer);
        one.adopt(&next);
        one.sync();
        Sender { one, ring: next, partition, newcomer, names }
    }

    #[test]
    fn a_refused_batch_is_sent_again() {
        let Sender { mut one, ring: next, partition, names, .. } = sender();
        let mut received = Vec::new();
        let (mut confirmed, mut pushes) = (false, 0);
        let mut refused_last: Option<Vec<Name>> = None;
        for _ in 0..60 {
            one.wait(SECOND, &next);
            for (to, message) in one.sent() {
                match message {
                    Message::TreeRequest { exchange, root, partition: at, .. } if at == partition => {
                        let root = if received.len() == names.len() { root } else { Digest::default() };
                        let leaves = HashTrees::new(CLUSTER, next.partition_bits).leaves(partition);
                        one.hear(to.0[0], Message::TreeResponse { exchange, partition, root, leaves, reaped: None });
                    }
                    Message::Confirm { batch, .. } => {
                        pushes += 1;
                        let refused = pushes % 2 == 1;
                        confirmed |= !refused;
                        one.hear(to.0[0], Message::Pushed { batch, refused, epoch: next.epoch });
                    }
                    Message::Push { batch, purpose: Purpose::Transfer, objects, .. } => {
                        // Every second batch is refused.
                        pushes += 1;
                        let refused = pushes % 2 == 1;
                        let sent: Vec<Name> = objects.iter().map(|named| named.name.clone()).collect();
                        if let Some(before) = refused_last.take() {
                            assert_eq!(sent, before, "not only when the trees are compared");
                        }
                        refused_last = refused.then_some(sent);
                        received.extend(objects.into_iter().filter(|_| !refused).map(|named| named.name));
                        one.hear(to.0[0], Message::Pushed { batch, refused, epoch: next.epoch });
                    }
                    _ => {}
                }
            }
        }
        received.sort_unstable();
        let mut names = names;
        names.sort_unstable();
        assert_eq!((received, confirmed), (names, true), "each is delivered once");
    }

    /// A receiver that is not what its acknowledgements say, be it by a mistake of its own or of the walk.
    #[test]
    fn a_new_replica_has_the_partition_by_its_hash_tree_and_not_by_its_acknowledgements() {
        let Sender { mut one, ring: next, partition, newcomer, names } = sender();
        let lost = names[1].clone();
        let mut theirs = HashTrees::new(CLUSTER, next.partition_bits);
        let (mut story, mut dropped) = (Vec::new(), false);
        for _ in 0..20 {
            one.wait(SECOND, &next);
            for (to, message) in one.sent() {
                match message {
                    Message::TreeRequest { exchange, partition: at, .. } if at == partition => {
                        story.push("compared".to_owned());
                        let (root, leaves) = (theirs.root(partition), theirs.leaves(partition));
                        one.hear(to.0[0], Message::TreeResponse { exchange, partition, root, leaves, reaped: None });
                    }
                    Message::HistoriesRequest { batch, histories, .. } => {
                        let names: Vec<Name> = histories.into_iter().map(|named| named.name).collect();
                        assert!(names.contains(&lost), "{names:?}");
                        story.push("asked".to_owned());
                        one.hear(to.0[0], Message::HistoriesResponse { batch, lacking: vec![lost.clone()] });
                    }
                    Message::Confirm { batch, .. } => {
                        story.push("confirmed".to_owned());
                        one.hear(to.0[0], Message::Pushed { batch, refused: false, epoch: next.epoch });
                    }
                    Message::Push { batch, purpose: Purpose::Transfer, objects, .. } => {
                        story.push(format!("sent {}", objects.len()));
                        for NamedObject { name, object } in objects {
                            if name == lost && !dropped {
                                dropped = true;
                            } else {
                                theirs.update(partition, &name, Digest::default(), object.digest());
                            }
                        }
                        one.hear(to.0[0], Message::Pushed { batch, refused: false, epoch: next.epoch });
                    }
                    _ => {}
                }
            }
        }
        let copied = ["compared", "sent 1", "sent 1", "sent 1"];
        assert_eq!(story, [&copied[..], &["compared", "asked", "sent 1", "confirmed"]].concat());
        assert_eq!(theirs.objects(partition), 3);
        assert_eq!(one.node.counters().transfer_objects_lacking, 1);

        // It is started again, and may have come back with less.
        one.wait(SECOND, &next);
        one.sent();
        let state = MemberState { generation: 2, version: 1, epoch: next.epoch, ..MemberState::default() };
        one.hear(newcomer.0[0], gossip(vec![(newcomer, state)]));
        one.wait(SECOND, &next);
        let compared = |message: &Message| matches!(message, Message::TreeRequest { partition: at, .. } if *at == partition);
        assert!(one.sent().iter().any(|(to, message)| *to == newcomer && compared(message)));
    }

    #[test]
    fn a_node_that_keeps_hints_gives_no_drain_receipt() {
        let first = ring(5);
        let name = key(&first, false);
        let home = first.placement(first.partition_of(&name)).replicas[0];
        let mut one = One::start(&first);
        one.hear(2, replicate(7, first.epoch, &name, &object(2, 1, "milk"), Some(home)));
        one.sync();
        let drained = without_replicas_on_node_1(&first);
        one.adopt(&drained);
        one.sync();
        let refusal = one.node.drain_receipt().expect_err("it keeps a hint");
        assert!(refusal.contains("hints"), "{refusal}");
    }
}

mod anti_entropy {
    use super::*;

    /// The exchange that the node begins for `partition`, and with whom.
    fn begun(one: &mut One, ring: &Ring, partition: PartitionId) -> (NodeId, u64) {
        loop {
            one.wait(SECOND, ring);
            let begun = one.sent().into_iter().find_map(|(to, message)| match message {
                Message::TreeRequest { exchange, partition: at, .. } if at == partition => Some((to, exchange)),
                _ => None,
            });
            if let Some(begun) = begun {
                return begun;
            }
        }
    }

    /// One object is a batch and a window here, by their number or by their bytes: every window ends early, on one side or the other.
    #[test]
    fn a_leaf_is_compared_to_its_end_whoever_ends_a_window() {
        for (batch_objects_max, batch_bytes_max) in [(1, 1 << 20), (1_000, 1)] {
            compare_to_the_end(&Config { batch_objects_max, batch_bytes_max, ..Config::default() });
        }
    }

    fn compare_to_the_end(config: &Config) {
        let ring = ring(3);
        let trees = HashTrees::new(CLUSTER, ring.partition_bits);
        let first = key(&ring, true);
        let (partition, leaf) = (ring.partition_of(&first), trees.leaf_of(first.position()));
        let beside = |name: &Name| ring.partition_of(name) == partition && trees.leaf_of(name.position()) == leaf;
        let mut names: Vec<Name> = (0..).map(|at: u32| Name::new("other", format!("k{at}"))).filter(beside).take(9).collect();
        names.sort_by_key(Name::position);
        // Of nine in a row the two sides have in common the first, the fifth and the last; the rest is here or there.
        let (mut here, mut there) = (Vec::new(), Vec::new());
        for (at, name) in names.iter().enumerate() {
            if [0, 1, 2, 4, 7, 8].contains(&at) {
                here.push(name.clone());
            }
            if [0, 3, 4, 5, 6, 8].contains(&at) {
                there.push(name.clone());
            }
        }
        let [mut one, mut other] = [(); 2].map(|()| One::start_with(config.clone(), &ring));
        for (node, names) in [(&mut one, &here), (&mut other, &there)] {
            for name in names {
                node.hear(3, replicate(7, ring.epoch, name, &object(2, 1, "milk"), None));
                node.sync();
            }
        }
        let (peer, exchange) = begun(&mut one, &ring, partition);
        other.wait(SECOND, &ring);
        other.sent();
        let (root, leaves) = (other.node.trees().root(partition), other.node.trees().leaves(partition));
        one.hear(peer.0[0], Message::TreeResponse { exchange, partition, root, leaves, reaped: None });
        let mut windows = 0;
        for _ in 0..100 {
            for (_, message) in one.sent() {
                match &message {
                    Message::KeysRequest { exchange: asked, .. } if *asked == exchange => {
                        windows += 1;
                        other.hear(2, message);
                    }
                    Message::Push { purpose: Purpose::Repair, .. } => other.hear(2, message),
                    _ => {}
                }
            }
            for (_, message) in other.sent() {
                if matches!(&message, Message::KeysResponse { .. }) {
                    one.hear(peer.0[0], message);
                }
            }
            one.wait(Duration::from_millis(100), &ring);
            other.wait(Duration::from_millis(100), &ring);
            one.sync();
            other.sync();
        }
        for (which, node) in [("here", &one), ("there", &other)] {
            let has = |name: &&Name| node.node.storage().objects().any(|(_, at, _)| at == *name);
            assert_eq!(names.iter().filter(has).count(), names.len(), "{which}, after {windows} windows");
        }
        assert!(windows > 5, "{windows}");
    }

    #[test]
    fn one_exchange_brings_each_side_what_the_other_has() {
        let ring = ring(3);
        let name = key(&ring, true);
        let partition = ring.partition_of(&name);
        let other =
            (0..).map(|at| Name::new("other", format!("k{at}"))).find(|name| ring.partition_of(name) == partition).unwrap();
        let mut one = One::start(&ring);
        one.hear(2, replicate(7, ring.epoch, &name, &object(2, 1, "milk"), None));
        one.sync();
        one.sent();
        let (peer, exchange) = begun(&mut one, &ring, partition);
        let eggs = object(3, 1, "eggs");
        let mut theirs = HashTrees::new(CLUSTER, ring.partition_bits);
        theirs.update(partition, &other, Default::default(), eggs.digest());
        let (root, leaves) = (theirs.root(partition), theirs.leaves(partition));
        one.hear(peer.0[0], Message::TreeResponse { exchange, partition, root, leaves, reaped: None });
        let asked = |one: &mut One| {
            one.take_sent(|message| match message {
                Message::KeysRequest { leaf, keys, .. } => Some((*leaf as usize, keys.clone())),
                _ => None,
            })
        };
        // The one leaf has what is here, the other what is there.
        let mut pushed = false;
        for _ in 0..2 {
            let (leaf, wanted): (usize, Vec<NamedDigest>) = asked(&mut one).expect("it asks for what differs");
            let in_leaf = theirs.leaf_of(other.position()) == leaf;
            assert_eq!(wanted.iter().any(|key| key.name == name), !in_leaf);
            let objects = in_leaf.then(|| NamedObject { name: other.clone(), object: eggs.clone() }).into_iter().collect();
            one.hear(peer.0[0], Message::KeysResponse { exchange, partition, objects, wanted, reached: None });
            pushed |= one
                .take_sent(|message| match message {
                    Message::Push { objects, .. } => objects.iter().any(|named| named.name == name).then_some(()),
                    _ => None,
                })
                .is_some();
        }
        assert!(one.node.storage().objects().any(|(_, at, _)| *at == other), "it has what the other side had");
        assert!(pushed, "and sends what the other side did not have");
    }
}

mod a_member_that_was_away_coordinates_gets_once_it_knows_what_ring_others_hold {
    use super::*;

    fn gossip(epoch: Epoch, current: bool) -> Message {
        Message::Gossip { epoch, members: Vec::new(), wants_answer: false, wall_ms: 0, current }
    }

    fn restarted(ring: &Ring) -> (One, Name) {
        let mut one = One::start(ring);
        let name = key(ring, true);
        assert!(one.coordinates_get(&name), "it was not away");
        one.restart(true, ring);
        assert!(!one.coordinates_get(&name));
        (one, name)
    }

    #[test]
    fn from_one_that_is_current_or_from_as_many_as_make_a_majority_with_it() {
        let ring = ring(5);
        let told = |from: u8, current: bool| (from, current);
        let cases: [(&[(u8, bool)], bool); 6] = [
            (&[told(2, true)], true),
            (&[told(2, false)], false),
            (&[told(2, false), told(2, false)], false),
            (&[told(2, false), told(5, false)], true),
            (&[told(9, true)], false),
            (&[told(8, false), told(9, false)], false),
        ];
        for (answers, enough) in cases {
            let (mut one, name) = restarted(&ring);
            for (from, current) in answers {
                one.hear(*from, gossip(ring.epoch, *current));
            }
            assert_eq!(one.coordinates_get(&name), enough, "{answers:?}");
        }
    }

    #[test]
    fn a_later_ring_has_to_arrive_before_its_holder_counts() {
        let ring = ring(5);
        let next = ring.successor(|_| ());
        let (mut one, name) = restarted(&ring);
        one.hear(2, gossip(next.epoch, true));
        one.hear(3, gossip(next.epoch, false));
        one.hear(4, gossip(next.epoch, false));
        assert!(!one.coordinates_get(&name));
        one.hear(3, Message::RingUpdate { ring: next.into() });
        assert!(one.coordinates_get(&name));
    }

    #[test]
    fn it_vouches_for_its_ring_only_then() {
        let ring = ring(5);
        let (mut one, _) = restarted(&ring);
        let vouches = |one: &mut One| {
            one.sent();
            one.link(&ring);
            let said = one.sent().into_iter().find_map(|(_, message)| match message {
                Message::Gossip { current, .. } => Some(current),
                _ => None,
            });
            said.expect("it gossips with who links to it")
        };
        assert!(!vouches(&mut one));
        one.hear(2, gossip(ring.epoch, true));
        assert!(vouches(&mut one));
    }
}

mod a_node_hears_of_other_lives_of_itself {
    use super::*;
    use crate::one::gossip;
    use dynamo_core::gossip::{Gossip, MemberState};
    use dynamo_core::node::Input;

    fn of(state: &MemberState, generation: u64, life: u64) -> MemberState {
        MemberState { generation, life, version: 1_000, ..state.clone() }
    }

    #[test]
    fn before_more_than_half_of_the_others_have_answered_it_writes_as_another() {
        let ring = ring(5);
        for (answers, kept) in [(2, false), (3, true)] {
            let mut one = One::start(&ring);
            let name = key(&ring, true);
            let first = newest(&one.put(&name, "milk").1);
            one.sync();
            one.restart(true, &ring);
            let own = one.own_state(&ring);
            for peer in 2..2 + answers {
                one.hear(peer, gossip(vec![(id(1), own.clone())]));
                one.hear(peer, gossip(vec![(id(1), own.clone())]));
            }
            // No members: they may have heard of nobody.
            [8, 9].into_iter().for_each(|stranger| one.hear(stranger, gossip(vec![(id(1), own.clone())])));
            assert_eq!(newest(&one.put(&name, "eggs").1) == first, kept, "{answers} of 4 answered");
            assert_eq!((one.node.counters().actors_kept, one.node.counters().actors_renewed), (kept.into(), (!kept).into()));
        }
    }

    /// A directory that was stopped cleanly, started twice.
    fn twins(ring: &Ring, name: &Name) -> ([One; 2], MemberState) {
        let mut one = One::start(ring);
        one.put(name, "milk");
        one.sync();
        let former = one.own_state(ring);
        let ticket = one.node.close().expect("the disk works").expect("it wrote");
        one.node.storage_mut().synced(ticket);
        let start = |seed| {
            let mut twin = One::on(one.node.storage().snapshot(), 2, seed);
            twin.link(ring);
            twin.sent();
            twin
        };
        ([2, 3].map(start), former)
    }

    #[test]
    fn what_was_said_before_its_sender_heard_of_a_life_does_not_confirm_it() {
        let ring = ring(5);
        let name = key(&ring, true);
        let (mut twins, former) = twins(&ring, &name);
        let unknown = MemberState { life: 0, ..former.clone() };
        for said in [Vec::new(), vec![(id(1), former)], vec![(id(1), unknown)]] {
            for twin in &mut twins {
                (2..=5).for_each(|peer| twin.hear(peer, gossip(said.clone())));
            }
        }
        let [one, other] = twins.map(|mut twin| newest(&twin.put(&name, "eggs").1));
        assert_ne!(one, other);
    }

    #[test]
    fn of_two_that_start_at_the_same_time_the_one_that_others_heard_of_first_keeps_the_actors() {
        let ring = ring(5);
        let name = key(&ring, true);
        let (mut twins, former) = twins(&ring, &name);
        let said: Vec<MemberState> = twins.iter_mut().map(|twin| twin.own_state(&ring)).collect();
        for peer in 2..=5 {
            let mut view = Gossip::new(id(peer), MemberState::default());
            for state in [&former, &said[0], &said[1]] {
                view.merge(vec![(id(1), state.clone())]);
            }
            twins.iter_mut().for_each(|twin| twin.hear(peer, gossip(view.snapshot())));
        }
        let counted = |twin: &One| (twin.node.counters().actors_kept, twin.node.counters().actors_renewed);
        assert_eq!(twins.each_ref().map(counted), [(1, 0), (0, 1)]);
    }

    #[test]
    fn a_life_of_its_own_generation_or_a_later_one_ends_its_actors_and_a_former_one_does_not() {
        let ring = ring(5);
        let cases = [(1, 5, false), (2, 5, true), (9, 5, true), (9, 0, false)];
        for ((generation, life, ended), in_use) in cases.into_iter().flat_map(|case| [(case, false), (case, true)]) {
            let mut one = One::start(&ring);
            let name = key(&ring, true);
            let first = newest(&one.put(&name, "milk").1);
            one.sync();
            one.restart_among_peers(true, &ring);
            if in_use {
                assert_eq!(newest(&one.put(&name, "flour").1), first, "the stop was clean");
            }
            let own = one.own_state(&ring);
            assert_eq!(own.generation, 2);
            one.hear(3, gossip(vec![(id(1), of(&own, generation, life))]));
            assert_eq!(newest(&one.put(&name, "eggs").1) != first, ended, "generation {generation}, life {life}");
            let expected = if ended { generation + 1 } else { 2 };
            assert_eq!(one.own_state(&ring).generation, expected, "so that what it says of itself counts");
        }
    }

    #[test]
    fn of_two_that_go_on_at_the_same_time_the_earlier_stops() {
        let ring = ring(5);
        let mut one = One::start(&ring);
        let own = one.own_state(&ring);
        let mut hear = |state: MemberState| {
            let message = gossip(vec![(id(1), state)]);
            let input = Input::Message { from: id(2), message };
            let now = dynamo_core::time::Now { instant: Default::default(), wall_ms: 0 };
            one.node.handle(input, now, &mut Vec::new())
        };
        let (one_more, other) = (own.life - 2, own.life - 1);
        assert_eq!(hear(of(&own, 4, other)), Ok(()), "it may have ended");
        assert_eq!(hear(of(&own, 4, other)), Ok(()), "others have not heard yet");
        assert_eq!(hear(of(&own, 9, one_more)), Ok(()), "this one too");
        assert_eq!(hear(of(&own, 10, other)), Ok(()), "it goes on, and yields");
        let stopped = hear(of(&own, 12, other)).unwrap_err().to_string();
        assert!(stopped.contains("another process runs as node"), "{stopped}");
    }

    #[test]
    fn a_dot_of_its_own_that_it_has_not_issued_ends_the_actor_wherever_it_comes_from() {
        let ring = ring(5);
        let mut one = One::start(&ring);
        let name = key(&ring, true);
        let elsewhere = |at: &Name| {
            let partition = ring.partition_of(at);
            partition != ring.partition_of(&name) && ring.placement(partition).involves(id(1))
        };
        let other = (0..).map(|at| Name::new("carts", format!("k{at}"))).find(elsewhere).expect("it holds most partitions");
        let unconcerned = newest(&one.put(&other, "tea").1);
        let (_, object) = one.put(&name, "milk");
        let mut actor = newest(&object);
        for counter in [1 << 30, u64::MAX] {
            let mut seen = object.context();
            seen.0.insert(actor, counter);
            let token = dynamo_core::context::encode(&seen, None, CLUSTER, &name);
            let (_, written) = one.put_with(&name, "eggs", token);
            assert_ne!(newest(&written), actor, "a context knows {counter}");
            actor = newest(&written);
            assert_eq!(newest(&one.put(&other, "tea").1), unconcerned, "a client may have made it up");
        }
    }
}
