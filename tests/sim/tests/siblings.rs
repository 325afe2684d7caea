//! The bounds of one object: a put does not go beyond them, what replicas hold is joined whatever comes of it, and merging helps.

use bytes::Bytes;
use dynamo_core::config::{OBJECT_BYTES_MAX, SIBLINGS_MAX, VALUE_BYTES_MAX};
use dynamo_core::request::Failure;
use dynamo_sim::scenario::{Cluster, cluster};

/// Puts that know of nothing, of values made of `letter`, through the home replicas in turn.
fn blind_puts(cluster: &mut Cluster, count: usize, letter: char, bytes: usize) {
    let homes = cluster.homes("alice");
    for at in 0..count {
        let value = format!("{at:03}{}", letter.to_string().repeat(bytes - 3));
        cluster.through(homes[at % homes.len()]).put("alice", &value);
    }
}

/// And not told to try again.
fn assert_refused(cluster: &mut Cluster, value: &str, bound: &str) {
    let home = cluster.homes("alice")[0];
    let refused = cluster.through(home).try_put(&Bytes::new(), "alice", value).expect_err("it is refused");
    assert!(matches!(refused, Failure::ObjectTooLarge(_)), "{refused:?}");
    let told = refused.to_string();
    assert!(told.ends_with(&format!("{bound}; get it and put the merged value with its context")), "{told}");
}

fn merge(cluster: &mut Cluster, values: usize) {
    let home = cluster.homes("alice")[0];
    let got = cluster.through(home).get("alice");
    assert_eq!(got.values.len(), values);
    cluster.through(home).put_after(&got.context, "alice", "merged");
    cluster.settle();
    assert_eq!(cluster.through(home).get("alice").values, ["merged"]);
}

#[test]
fn a_put_that_would_add_a_sibling_to_too_many_is_refused_until_they_are_merged() {
    let mut cluster = cluster(3).start();
    blind_puts(&mut cluster, SIBLINGS_MAX, 'a', 4);
    assert_refused(&mut cluster, "one more", "the key would have 101 siblings, the limit is 100");
    assert_eq!(cluster.count(|counters| counters.puts_refused_siblings), 1);
    merge(&mut cluster, SIBLINGS_MAX);
}

#[test]
fn a_put_that_would_add_bytes_to_an_object_of_too_many_is_refused_until_they_are_merged() {
    let mut cluster = cluster(3).start();
    let most = OBJECT_BYTES_MAX / VALUE_BYTES_MAX - 1;
    blind_puts(&mut cluster, most, 'a', VALUE_BYTES_MAX);
    assert_refused(&mut cluster, &"b".repeat(VALUE_BYTES_MAX), " bytes in its siblings, the limit is 16777216");
    assert_eq!(cluster.count(|counters| counters.puts_refused_siblings), 1);
    blind_puts(&mut cluster, 1, 'c', 1 << 10);
    merge(&mut cluster, most + 1);
}

#[test]
fn what_two_sides_took_apart_is_joined_beyond_the_bound_and_a_put_that_makes_it_less_is_taken() {
    let mut cluster = cluster(6).start();
    let mut left = cluster.hosts();
    let right = left.split_off(3);
    cluster.split(&left, &right);
    let mut contexts = Vec::new();
    for (side, letter) in [(&left, 'l'), (&right, 'r')] {
        for at in 0..SIBLINGS_MAX {
            cluster.through(side[0]).put("alice", &format!("{letter}{at}"));
        }
        contexts.push(cluster.through(side[0]).get("alice").context);
    }
    cluster.heal();
    cluster.settle();
    let home = cluster.homes("alice")[0];
    assert_eq!(cluster.through(home).get("alice").values.len(), 2 * SIBLINGS_MAX);
    assert_refused(&mut cluster, "one more", "the key would have 201 siblings, the limit is 100");
    cluster.through(home).put_after(&contexts[0], "alice", "left");
    assert_eq!(cluster.through(home).get("alice").values.len(), SIBLINGS_MAX + 1, "the right ones, and what merged the left");
    merge(&mut cluster, SIBLINGS_MAX + 1);
}
