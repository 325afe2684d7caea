//! Spoilt encodings of everything that this crate decodes, from disks, peers and clients.

use bytes::Bytes;
use dynamo_fuzz::{Expect, Fuzz};

use crate::codec::Writer;
use crate::context;
use crate::hash_tree::stored::Record;
use crate::hash_tree::{self, HashTrees};
use crate::id::{ClusterId, Epoch, Incarnation, NodeId, PartitionId, RequestKey};
use crate::name::Name;
use crate::random::Random;
use crate::reaping::{self, Proof, Reaped};
use crate::recent_writes::RecentWrite;
use crate::ring::bucket_replication::BucketReplication;
use crate::ring::operation::Operation;
use crate::ring::tests::{node, ring_of};
use crate::ring::{self, Move, Ring, Stage};
use crate::version::{self, Actor, CausalContext, Digest, Dot, Object, Value};

const CLUSTER: ClusterId = ClusterId([7; 16]);

/// The bytes with the checksum that they should end with.
fn sealed(mut bytes: Vec<u8>, seed: u64) -> Vec<u8> {
    bytes.truncate(bytes.len().saturating_sub(8));
    let mut writer = Writer::default();
    writer.raw(&bytes);
    writer.finish_with_checksum(seed).to_vec()
}

/// Objects of a short life: written by three actors, some with request ids, joined, deleted.
fn objects() -> Vec<Object> {
    let mut random = Random::new(10);
    let mut nodes = [Object::default(), Object::default(), Object::default()];
    let mut all = Vec::new();
    for counter in 1..60 {
        let (at, from) = (random.below(3), random.below(3));
        if random.below(3) == 0 {
            let other = nodes[from].clone();
            nodes[at].join(&other);
        } else {
            let seen = if random.below(2) == 0 { CausalContext::default() } else { nodes[from].context() };
            let actor = Actor { node: NodeId([at as u8; 16]), incarnation: Incarnation(counter % 2) };
            let dot = Dot { actor, counter: counter * 100 };
            let data = (random.below(5) > 0).then(|| vec![counter as u8; random.below(20)].into());
            let written_ms = nodes[at].next_stamp(seen.1.next_stamp(counter));
            nodes[at].update(&seen, dot, Value { data, written_ms });
            if random.below(2) == 0 {
                nodes[at].remember(RecentWrite { stamp: written_ms, key: RequestKey([counter as u8; 16]), dot });
            }
        }
        all.push(nodes[at].clone());
    }
    all.push(Object::superseded(&nodes[0].context()));
    all
}

/// The same object, of which nobody knows the bytes.
fn made_anew(object: &Object) -> Object {
    let mut anew = Object::default();
    anew.join(object);
    anew
}

#[test]
fn objects_are_decoded_or_refused() {
    Fuzz {
        name: "object",
        corpus: objects().iter().map(|object| object.encode().to_vec()).collect(),
        seal: &|bytes| sealed(bytes, version::CHECKSUM_SEED),
        expect: Expect::Canonical,
        decode: &|bytes| {
            let object = Object::decode(Bytes::copy_from_slice(bytes)).ok()?;
            // What a node does with what it was sent.
            let history = object.history();
            assert!(history.digest() == object.digest() && object.includes(&history));
            let _shown = object.shown().count();
            object.next_stamp(object.context().1.next_stamp(1));
            Some(made_anew(&object).encode().to_vec())
        },
    }
    .run();
}

#[test]
fn two_spoilt_objects_join_to_one_whichever_comes_first() {
    let valid: Vec<Vec<u8>> = objects().iter().map(|object| object.encode().to_vec()).collect();
    let other = objects().pop().expect("there are some");
    Fuzz {
        name: "join",
        corpus: valid,
        seal: &|bytes| sealed(bytes, version::CHECKSUM_SEED),
        expect: Expect::Stable,
        decode: &|bytes| {
            let object = Object::decode(Bytes::copy_from_slice(bytes)).ok()?;
            let (mut one, mut two) = (object.clone(), other.clone());
            one.join(&other);
            two.join(&object);
            assert!(one.includes(&other) && one.includes(&object));
            assert_eq!(one.encode(), one.encode());
            Some(one.encode().to_vec())
        },
    }
    .run();
}

fn rings() -> Vec<Ring> {
    let first = ring_of(5, 2);
    let moving = first.successor(|ring| {
        for (at, stage) in [(0, Stage::WriteBothReadOld), (1, Stage::WriteBothReadNew)] {
            let mut target = ring.placements[at].replicas.clone();
            let newcomer = (1..=5).map(node).find(|node| !target.contains(node)).expect("five nodes, three replicas");
            target[0] = newcomer;
            ring.placements[at].moving = Some(Move { stage, target, since: Epoch(2) });
        }
    });
    let lost = moving.successor(|ring| {
        ring.members.get_mut(&node(4)).expect("a member").weight = 0;
        ring.lost.insert(node(4), Epoch(3));
    });
    let buckets = [("sessions", 1), ("logs", 2), ("carts", 1)].map(|(bucket, n)| (Bytes::from_static(bucket.as_bytes()), n));
    let buckets = BucketReplication::new(buckets, 3).expect("each n is below the ring's");
    let of_buckets = Ring { buckets, ..ring_of(4, 1) };
    let changing = moving.successor(|ring| {
        let wanted = ring.members.iter().skip(1).map(|(node, member)| (*node, member.clone())).collect();
        let (since, before) = (Epoch(3), ring.members.clone());
        ring.operation = Some(Operation { since, before, wanted, copies: 2, paused: true, aborted: false });
    });
    vec![ring_of(3, 0), first, moving, lost, of_buckets, changing]
}

/// A bit that flips in what is kept or sent is noticed wherever it lies.
#[test]
fn one_flipped_bit_in_an_object_a_ring_or_a_context_is_noticed() {
    let name = Name::new("carts", "alice");
    let object = objects().into_iter().max_by_key(|object| object.encode().len()).expect("there are some");
    let context = context::encode(&object.context(), Some(node(3)), CLUSTER, &name);
    let refuses_object = |bytes: Bytes| Object::decode(bytes).is_err();
    let refuses_ring = |bytes: Bytes| Ring::decode(bytes).is_err();
    let refuses_context = |bytes: Bytes| context::decode(bytes, CLUSTER, &name).is_err();
    let mut cases: Vec<(Bytes, &dyn Fn(Bytes) -> bool)> = vec![(object.encode(), &refuses_object), (context, &refuses_context)];
    cases.extend(rings().iter().map(|ring| (ring.encode(), &refuses_ring as &dyn Fn(Bytes) -> bool)));
    for (good, refuses) in cases {
        assert!(!refuses(good.clone()));
        for bit in 0..good.len() * 8 {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(refuses(bad.into()), "bit {bit} of {} bytes", good.len());
        }
    }
}

#[test]
fn rings_are_decoded_or_refused() {
    let all = rings();
    Fuzz {
        name: "ring",
        corpus: all.iter().map(|ring| ring.encode().to_vec()).collect(),
        seal: &|bytes| sealed(bytes, ring::encoded::CHECKSUM_SEED),
        expect: Expect::Canonical,
        decode: &|bytes| {
            let ring = Ring::decode(Bytes::copy_from_slice(bytes)).ok()?;
            // What a node does with a ring that it was sent.
            for held in [None, Some(&all[1])] {
                let _follows = ring.check_follows(held, CLUSTER);
            }
            ring.partition_of(&Name::new("b", "k"));
            let _moving = ring.moving().count();
            Some(ring.encode().to_vec())
        },
    }
    .run();
}

#[test]
fn contexts_are_decoded_or_refused() {
    let name = Name::new("carts", "alice");
    let token = |object: &Object, coordinator| context::encode(&object.context(), coordinator, CLUSTER, &name).to_vec();
    Fuzz {
        name: "context",
        corpus: objects().iter().map(|object| token(object, object.has_values().then(|| node(3)))).collect(),
        seal: &|bytes| sealed(bytes, context::seed(CLUSTER, &name)),
        // A token of the former format is written in the present one.
        expect: Expect::Stable,
        decode: &|bytes| {
            let token = context::decode(Bytes::copy_from_slice(bytes), CLUSTER, &name).ok()?;
            // What a coordinator does with it.
            let mut object = Object::default();
            let actor = Actor { node: node(9), incarnation: Incarnation(9) };
            let fresh = Dot { actor, counter: 1 };
            if !token.seen.covers(fresh) {
                object.update(&token.seen, fresh, Value { data: None, written_ms: 1 });
                assert!(object.recent().iter().all(|write| object.has_seen(write.dot)), "remembered and not seen");
                assert_eq!(Object::decode(object.encode()).as_ref(), Ok(&object));
            }
            Some(context::encode(&token.seen, token.coordinator, CLUSTER, &name).to_vec())
        },
    }
    .run();
}

#[test]
fn reaped_contexts_are_decoded_or_refused() {
    let reaped = |object: &Object| {
        let upto = CausalContext(object.context().0, Default::default());
        Reaped { proof: Proof { leader: node(4), round: 7 }, upto }.encode().to_vec()
    };
    Fuzz {
        name: "reaped",
        corpus: objects().iter().map(reaped).collect(),
        seal: &|bytes| sealed(bytes, reaping::CHECKSUM_SEED),
        expect: Expect::Canonical,
        decode: &|bytes| {
            let reaped = Reaped::decode(Bytes::copy_from_slice(bytes)).ok()?;
            Object::superseded(&reaped.upto);
            Some(reaped.encode().to_vec())
        },
    }
    .run();
}

#[test]
fn stored_hash_trees_are_taken_or_refused() {
    let partition = PartitionId(3);
    let mut trees = HashTrees::new(CLUSTER, 4);
    let names = (0..200).map(|at: u32| Name::new("b", at.to_string()));
    for name in names {
        trees.update(partition, &name, Digest::default(), Digest([name.key[0]; 16]));
    }
    let Record::Tree(tree, mask) = trees.checkpoint(partition) else { panic!("a partition with objects has a tree") };
    // Both records in one input: the mask is short, and first.
    let split = mask.len();
    let both = [&mask[..], &tree[..]].concat();
    let seed = hash_tree::stored::CHECKSUM_SEED;
    Fuzz {
        name: "hash tree",
        corpus: vec![both],
        seal: &|bytes| match bytes.split_at_checked(split) {
            Some((mask, tree)) => [sealed(mask.to_vec(), seed), sealed(tree.to_vec(), seed)].concat(),
            None => bytes,
        },
        // The next records have the next serial: what is expected is what a node does with a tree that it has taken.
        expect: Expect::Canonical,
        decode: &|bytes| {
            let (mask, tree) = bytes.split_at_checked(split)?;
            let mut trees = HashTrees::new(CLUSTER, 4);
            trees.restore(partition, Bytes::copy_from_slice(tree), Bytes::copy_from_slice(mask)).ok()?;
            trees.update(partition, &Name::new("b", "more"), Digest::default(), Digest([1; 16]));
            let Record::Tree(tree, mask) = trees.checkpoint(partition) else { panic!("it has a tree") };
            let total = trees.objects_total();
            let mut again = HashTrees::new(CLUSTER, 4);
            assert_eq!(again.restore(partition, tree, mask), Ok(Vec::new()));
            assert_eq!(again.objects_total(), total);
            Some(bytes.to_vec())
        },
    }
    .run();
}
