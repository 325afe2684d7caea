//! Canaries of the protocol: what of a put and a get is neither network nor disk.
//!
//! The budget is 14.5 us of CPU for a replicated put of 1 KiB and 6.6 us for a get, three nodes summed, batched
//! (tests/bench/BENCHMARKS.md). 2.25 and 0.75 of these are for what is measured here. A canary that falls names its line.

mod cluster;
mod harness;
mod memory;

use std::hint::black_box;

use bytes::Bytes;
use dynamo_core::context;
use dynamo_core::hash_tree::HashTrees;
use dynamo_core::id::{ClusterId, Incarnation, NodeId};
use dynamo_core::name::Name;
use dynamo_core::version::{Actor, Digest, Dot, Object, Value};
use dynamo_core::version_cache::VersionCache;

use cluster::Cluster;
use harness::{Canary, Harness};

const VALUE_BYTES: usize = 1024;
const CLUSTER: ClusterId = ClusterId([9; 16]);
/// The line that nearly all parts of this crate share: version cache, versions, MD5, tree leaf, codec.
const CODEC: &str = "records: 250 ns a replica, all of these together";
const PUT: &str = "put: bookkeeping 1500 ns, records 250 ns a replica";
const GET: &str = "get of R = 2: bookkeeping 500 ns, records 250 ns";

/// Does it so many times, and keeps the compiler from noticing that nobody looks at what comes of it.
fn repeat<T>(count: u64, mut operation: impl FnMut() -> T) {
    for _ in 0..count {
        black_box(operation());
    }
}

/// A value of 1 KiB on top of one that another actor wrote.
fn object(counter: u64) -> Object {
    let mut object = Object::default();
    for node in [1, 2] {
        let actor = Actor { node: NodeId([node; 16]), incarnation: Incarnation(u64::from(node)) };
        let value = Value { data: Some(Bytes::from(vec![7; VALUE_BYTES])), written_ms: 1_795_524_299_042 };
        object.update(&object.context(), Dot { actor, counter }, value);
    }
    object
}

fn names(count: u64) -> Vec<Name> {
    (0..count).map(|number| Name::new("bench", format!("0123abcd/user{number:010}"))).collect()
}

fn parts(harness: &mut Harness) {
    let canary = |name| Canary { name, budget: CODEC, budget_ns: None };
    let name = &names(1)[0];
    harness.measure(&canary("position of a name (MD5)"), |count| {
        repeat(count, || Name::new(black_box(name).bucket.clone(), name.key.clone()).position());
    });
    let (older, newer) = (object(1), object(2));
    harness.measure(&canary("join of an object with a newer one"), |count| {
        repeat(count, || {
            let mut joined = black_box(&older).clone();
            joined.join(black_box(&newer));
            joined
        });
    });
    harness.measure(&canary("digest of a history"), |count| repeat(count, || black_box(&newer).digest()));
    harness.measure(&canary("join, and encoding of an object of 1 KiB"), |count| {
        repeat(count, || {
            // So does an object its bytes, until it changes.
            let mut joined = black_box(&older).clone();
            joined.join(black_box(&newer));
            joined.encode()
        });
    });
    let encoded = newer.encode();
    harness.measure(&canary("decoding of an object of 1 KiB"), |count| {
        repeat(count, || Object::decode(black_box(&encoded).clone()))
    });
    let seen = newer.context();
    let token = context::encode(&seen, None, CLUSTER, name);
    harness.measure(&canary("context token, made and read"), |count| {
        repeat(count, || {
            let made = context::encode(black_box(&seen), None, CLUSTER, name);
            (made, context::decode(black_box(&token).clone(), CLUSTER, name))
        });
    });
}

fn tables(harness: &mut Harness) {
    let canary = |name| Canary { name, budget: CODEC, budget_ns: None };
    let names = names(100_000);
    let (before, after) = (object(1), object(2));
    let digests = [before.digest(), after.digest()];
    let mut trees = HashTrees::new(CLUSTER, 6);
    names.iter().for_each(|name| trees.update(name.position().partition(6), name, Digest::default(), digests[0]));
    let partitions: Vec<_> = names.iter().map(|name| name.position().partition(6)).collect();
    let mut next = 0_usize;
    harness.measure(&canary("update of a hash tree's leaf"), |count| {
        for _ in 0..count {
            // A change and its reverse, so that the tree is the same after each round.
            let (at, turn) = (next % names.len(), next / names.len() % 2);
            trees.update(partitions[at], &names[at], digests[turn], digests[1 - turn]);
            next += 1;
        }
    });
    let mut cache = VersionCache::new(1 << 17);
    names.iter().for_each(|name| cache.put(name, before.history(), digests[0]));
    let mut next = 0_u64;
    let mut scattered = move || {
        next = next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (next >> 33) as usize % 100_000
    };
    harness.measure(&canary("look into a version cache of 100,000"), |count| repeat(count, || cache.get(&names[scattered()])));
    let history = after.history();
    harness.measure(&canary("change in a version cache of 100,000"), |count| {
        (0..count).for_each(|_| cache.put(&names[scattered()], history.clone(), digests[1]));
    });
}

fn main() {
    let mut harness = Harness::from_arguments();
    parts(&mut harness);
    tables(&mut harness);
    let mut cluster = Cluster::new(VALUE_BYTES);
    let put = Canary { name: "put of 1 KiB through three nodes, no I/O", budget: PUT, budget_ns: Some(2250) };
    harness.measure(&put, |count| cluster.puts(count));
    let get = Canary { name: "get of 1 KiB through three nodes, no I/O", budget: GET, budget_ns: Some(750) };
    harness.measure(&get, |count| cluster.gets(count));
}
