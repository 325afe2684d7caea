//! Shrinking where there is room for it, and where there is none.

use std::collections::BTreeMap;

use dynamo_core::id::{Epoch, NodeId};
use dynamo_core::rebalance;
use dynamo_core::ring::bucket_replication::BucketReplication;
use dynamo_core::ring::{Member, Ring};

use crate::observed::{Carrier, Node, Note, Observed, Pod, Record, Set, Volume};
use crate::plan::{Blocked, Cause, Step, next_step};
use crate::valid::tests::valid;
use crate::valid::{Place, ValidCluster};

const GIB: u64 = 1 << 30;

/// All places of `cluster` with members that hold so much each, on volumes of 10 GiB.
fn at_rest(cluster: &ValidCluster, bytes: u64) -> (Observed, Ring) {
    let nodes: Vec<(NodeId, Place)> = (1..).map(|id| NodeId([id; 16])).zip(cluster.places()).collect();
    let members = nodes.iter().map(|(node, place)| (*node, Member { zone: place.zone.clone(), weight: 1 })).collect();
    let buckets = cluster.bucket_replication.clone();
    let ring = rebalance::first_ring_with(cluster.id, cluster.partition_bits, cluster.replication, buckets, &members).unwrap();
    let mut observed = Observed::default();
    for zone in cluster.zones() {
        observed.sets.insert(zone.name.clone(), Set { replicas: zone.replicas, ..Set::default() });
    }
    let mut volumes = BTreeMap::new();
    for (id, place) in nodes {
        let node = Node { bytes, copies: ring.copies_of(id) as u32, ..Node::holding(id, Some(&ring)) };
        observed.pods.insert(place.clone(), Pod { ready: true, node: Some(node), ..Pod::default() });
        let size = || "10Gi".to_owned();
        let uid = place.to_string();
        let volume = Volume { note: Note::Node(id), size: size(), capacity: size(), uid, ..Volume::default() };
        volumes.insert(id, Carrier { place: place.clone(), uid: place.to_string() });
        observed.volumes.insert(place, volume);
    }
    let (hash, resource_version) = (ring.hash(), String::new());
    observed.record = Record::Held { rings: Box::new(ring.clone().into()), hash, resource_version, volumes };
    (observed, ring)
}

fn at(zone: &str, ordinal: u32) -> Place {
    Place { zone: zone.into(), ordinal }
}

#[test]
fn members_leave_only_if_their_data_has_room_on_those_that_stay() {
    for (zones, gib, nodes_each) in [(&[][..], 5, None), (&[][..], 6, Some(3)), (&["a", "b", "c"][..], 5, Some(1))] {
        let (large, small) = (valid(if zones.is_empty() { 5 } else { 6 }, zones), valid(3, zones));
        let (mut full, _) = at_rest(&large, gib * GIB);
        assert_eq!(next_step(&large, &full), Step::Converged);
        let step = next_step(&small, &full);
        let Some(nodes) = nodes_each else {
            assert!(matches!(step, Step::RecordRing { cause: Cause::Rebalance, .. }), "{step:?}");
            continue;
        };
        assert_eq!(step, Step::Blocked(Blocked::InsufficientCapacity { nodes, each: 10 * GIB, volume: 10 * GIB }));
        let mut roomy = small.clone();
        roomy.storage.size = "20Gi".into();
        assert_eq!(next_step(&roomy, &full), step, "asked of us and of nobody else yet");
        full.volumes.values_mut().for_each(|volume| volume.size = "20Gi".into());
        assert_eq!(next_step(&roomy, &full), step, "asked for and not there yet");
        full.volumes.values_mut().for_each(|volume| volume.capacity = "20Gi".into());
        assert!(matches!(next_step(&small, &full), Step::RecordRing { cause: Cause::Rebalance, .. }));
    }
}

/// With an n of 2 beside the N of 3 there are two thirds as many copies again, and nodes count them too.
#[test]
fn buckets_with_an_n_of_their_own_count_as_the_partitions_that_they_have() {
    let layered = |replicas| {
        let mut cluster = valid(replicas, &[]);
        cluster.bucket_replication = BucketReplication::new([("cache".into(), 2)], cluster.replication).unwrap();
        cluster
    };
    let (small, large) = (layered(3), layered(5));
    let step = next_step(&small, &at_rest(&large, 5 * GIB).0);
    assert!(matches!(step, Step::RecordRing { cause: Cause::Rebalance, .. }), "{step:?}");
    let step = next_step(&small, &at_rest(&large, 6 * GIB).0);
    assert_eq!(step, Step::Blocked(Blocked::InsufficientCapacity { nodes: 3, each: 10 * GIB, volume: 10 * GIB }));
}

#[test]
fn a_growth_is_taken_back_however_full_the_nodes_are_while_all_data_is_still_where_it_was() {
    let (small, large) = (valid(3, &[]), valid(5, &[]));
    let (mut growing, ring) = at_rest(&small, 9 * GIB);
    let (more, _) = at_rest(&large, 0);
    for ordinal in 3..5 {
        let place = at("default", ordinal);
        growing.pods.insert(place.clone(), more.pods[&place].clone());
        growing.volumes.insert(place.clone(), more.volumes[&place].clone());
        let newcomer = growing.pods.get_mut(&place).unwrap().node.as_mut().unwrap();
        (newcomer.epoch, newcomer.ring_hash, newcomer.copies) = (ring.epoch, ring.hash(), 0);
    }
    growing.sets.get_mut("default").unwrap().replicas = 5;
    let Step::RecordRing { ring: moving, .. } = next_step(&large, &growing) else { panic!() };
    for pod in growing.pods.values_mut() {
        let node = pod.node.as_mut().unwrap();
        (node.epoch, node.ring_hash, node.copies) = (moving.epoch, moving.hash(), moving.copies_of(node.id) as u32);
        node.bytes = node.bytes.max(3 * GIB);
    }
    let volumes = growing.volumes.iter().map(|(place, volume)| {
        let Note::Node(node) = volume.note else { panic!() };
        (node, Carrier { place: place.clone(), uid: volume.uid.clone() })
    });
    let (volumes, hash) = (volumes.collect(), moving.hash());
    growing.record = Record::Held { rings: Box::new((*moving).into()), hash, resource_version: String::new(), volumes };
    let Step::RecordRing { ring: back, .. } = next_step(&small, &growing) else { panic!("{:?}", next_step(&small, &growing)) };
    assert_eq!(back.placements, ring.placements);
}

#[test]
fn a_member_is_replaced_though_others_may_not_leave() {
    let (large, small) = (valid(5, &[]), valid(3, &[]));
    let (mut full, ring) = at_rest(&large, 8 * GIB);
    let lossy = ring.successor(|next| {
        next.lost.insert(NodeId([2; 16]), Epoch(2));
        next.members.get_mut(&NodeId([2; 16])).unwrap().weight = 0;
    });
    let place = at("default", 1);
    full.volumes.get_mut(&place).unwrap().note = Note::Node(NodeId([9; 16]));
    for pod in full.pods.values_mut() {
        let node = pod.node.as_mut().unwrap();
        (node.epoch, node.ring_hash) = (lossy.epoch, lossy.hash());
    }
    let replacement = full.pods.get_mut(&place).unwrap().node.as_mut().unwrap();
    (replacement.id, replacement.bytes, replacement.copies) = (NodeId([9; 16]), 0, 0);
    let (hash, volumes) = (lossy.hash(), full.carriers(&lossy));
    full.record = Record::Held { rings: Box::new(lossy.into()), hash, resource_version: String::new(), volumes };
    let Step::RecordRing { ring: moving, cause: Cause::Rebalance } = next_step(&small, &full) else {
        panic!("{:?}", next_step(&small, &full))
    };
    assert_eq!(moving.members[&NodeId([9; 16])].weight, 1);
    assert_eq!(moving.members[&NodeId([5; 16])].weight, 1, "it stays");
}
