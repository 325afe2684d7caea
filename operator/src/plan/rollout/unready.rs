//! Pods whose nodes answer and that Kubernetes does not call ready.

use std::collections::BTreeSet;

use dynamo_core::id::{Epoch, NodeId};

use super::tests::{at, look, set};
use super::{Rollout, Told};
use crate::observed::{Node, Note, Observed, Pod, Record, Volume};

fn pod(observed: &mut Observed, ordinal: u32) -> &mut Pod {
    observed.pods.get_mut(&at(ordinal)).unwrap()
}

/// As for an injected proxy that is not ready, or a kubelet that is not heard of.
#[test]
fn no_pod_is_restarted_that_serves_and_is_not_ready_while_another_is_down() {
    let (cluster, mut observed) = look(&[0]);
    let may = |observed: &Observed, ordinal: u32| Rollout::of(&cluster, observed, &BTreeSet::new()).may_restart(&at(ordinal));
    pod(&mut observed, 1).ready = false;
    assert!(!may(&observed, 1), "its node answers, and some partition would have one replica left");
    pod(&mut observed, 0).node = look(&[]).1.pods[&at(0)].node.clone();
    assert!(may(&observed, 1), "0 answers too");
    observed.pods.values_mut().for_each(|pod| pod.ready = false);
    assert!((0..4).all(|ordinal| may(&observed, ordinal)), "they are cured one after the other");
    pod(&mut observed, 2).node.as_mut().unwrap().hints.insert(NodeId([1; 16]), 1);
    assert!(!may(&observed, 1), "0 lacks a write");
    pod(&mut observed, 2).node.as_mut().unwrap().hints.clear();
    pod(&mut observed, 0).ending = true;
    assert!(!may(&observed, 1), "0 is about to go");

    for ordinal in [0, 2, 3] {
        pod(&mut observed, ordinal).node = None;
    }
    assert!(may(&observed, 1), "there are too few as it is");
    observed.volumes.insert(at(3), Volume { note: Note::Node(NodeId([4; 16])), ..Volume::default() });
    pod(&mut observed, 3).ready = true;
    assert!(!may(&observed, 1), "that 3 did not answer us does not make it down");
    observed.pods.remove(&at(3));
    assert!(may(&observed, 1), "3 has no pod");
    set(&mut observed).unseen = true;
    assert!(!may(&observed, 1), "whether it has one is not known");
}

/// As where nodes answer us and cannot reach each other: so none is ready, and what is kept for them stays where it is.
#[test]
fn pods_that_are_not_ready_wait_for_no_hints_that_may_never_come_while_enough_others_answer() {
    let (cluster, mut observed) = look(&[]);
    let may = |observed: &Observed, ordinal: u32| Rollout::of(&cluster, observed, &BTreeSet::new()).may_restart(&at(ordinal));
    for ordinal in 0..4 {
        let others = (0..4).filter(|other| *other != ordinal).map(|other: u32| (NodeId([other as u8 + 1; 16]), 1));
        pod(&mut observed, ordinal).ready = false;
        pod(&mut observed, ordinal).node.as_mut().unwrap().hints = others.collect();
    }
    assert!((0..4).all(|ordinal| may(&observed, ordinal)), "what would cure them is another template");
    assert_eq!(Rollout::of(&cluster, &observed, &BTreeSet::new()).first("default"), Told::From(3));
    let all_unready = observed.clone();
    for ordinal in [0, 1] {
        pod(&mut observed, ordinal).ready = true;
    }
    assert!(!may(&observed, 3), "0 and 1 are ready, and get what is kept for them");
    let mut observed = all_unready;
    pod(&mut observed, 0).ending = true;
    assert!(!may(&observed, 3), "0 is about to go: some partition would have one left that answers");
    pod(&mut observed, 0).node = None;
    assert!(!may(&observed, 3) && may(&observed, 0), "0 does not answer");
}

#[test]
fn pods_that_are_not_ready_and_hold_no_ring_wait_for_nobody() {
    let (cluster, mut observed) = look(&[]);
    let may = |observed: &Observed, ordinal: u32| Rollout::of(&cluster, observed, &BTreeSet::new()).may_restart(&at(ordinal));
    observed.record = Record::Absent;
    for (place, pod) in &mut observed.pods {
        let id = NodeId([place.ordinal as u8 + 1; 16]);
        (pod.ready, pod.node) = (place.ordinal == 0, Some(Node::holding(id, None)));
        observed.volumes.insert(place.clone(), Volume { note: Note::Node(id), ..Volume::default() });
    }
    assert_eq!([0, 3].map(|ordinal| may(&observed, ordinal)), [false, true]);
    observed.pods.get_mut(&at(1)).unwrap().node.as_mut().unwrap().epoch = Epoch(1);
    assert!(!may(&observed, 3), "the record is lost");
    observed.pods.get_mut(&at(1)).unwrap().node = None;
    observed.record = Record::Unreadable("spoilt".into());
    assert!(!may(&observed, 3), "there was a ring");
}
