//! A volume that is gone for ever, with an operator that may die at any call.
#![allow(clippy::unwrap_used)]

use dynamo_world::World;

const KEYS: u32 = 40;

#[test]
fn a_lost_volume_is_replaced_and_no_acknowledged_write_is_lost_at_any_step() {
    for pod in ["cart-0", "cart-1", "cart-2"] {
        let mut world = World::settled_with(3, KEYS);
        let lost = world.node_of(pod).unwrap();
        world.lose_volume(pod);
        let mut key = 0;
        world.settle(|world| {
            key += 1;
            world.write_key(key % KEYS);
            if key % 10 == 0 {
                assert_eq!(world.unread(), [""; 0]);
            }
        });
        let ring = world.ring().unwrap();
        assert!(ring.is_lost(lost) && !ring.members.contains_key(&lost));
        assert!(ring.members.contains_key(&world.node_of(pod).unwrap()));
        assert_eq!((ring.members.len(), ring.moving().count()), (3, 0));
        assert_eq!(world.unread(), [""; 0]);
    }
}

#[test]
fn an_operator_that_dies_in_the_middle_of_every_step_replaces_it_all_the_same() {
    let mut world = World::settled_with(4, KEYS);
    world.lose_volume("cart-1");
    world.settle(|world| {
        world.dies_at_its_next_call();
    });
    world.lives();
    assert_eq!(world.unread(), [""; 0]);
    let ring = world.ring().unwrap();
    assert_eq!((ring.lost.len(), ring.members.len()), (1, 4));
}

#[test]
fn a_volume_that_is_lost_at_any_step_of_a_scaling_is_replaced_too() {
    for (from, to) in [(3, 5), (5, 3)] {
        for turn in (0..60).step_by(3) {
            for pod in ["cart-0", "cart-4"] {
                let mut world = World::settled_with(from, KEYS);
                let before = world.stage().calls;
                world.scale(to);
                let mut lost = false;
                world.settle(|world| {
                    let calls = world.stage().calls - before;
                    if !lost && calls >= turn && world.node_of(pod).is_some() {
                        lost = true;
                        world.lose_volume(pod);
                    }
                });
                assert_eq!(world.unread(), [""; 0]);
                assert_eq!((world.pods(), world.ring().unwrap().members.len()), (to as usize, to as usize));
            }
        }
    }
}

/// An empty disk under the claim of before proves nothing: the condition names what does, and it works.
#[test]
fn where_a_disk_was_emptied_under_its_claim_what_the_condition_says_replaces_the_node() {
    let mut world = World::settled_with(3, KEYS);
    let member = world.node_of("cart-1").unwrap();
    world.empty_disk("cart-1");
    (0..400).for_each(|_| world.round());
    let ring = world.ring().unwrap();
    assert!(ring.members.contains_key(&member) && ring.lost.is_empty());
    let degraded = world.message("Degraded");
    assert!(degraded.contains("no answer from the former node of cart-1"), "{degraded}");
    assert!(
        degraded.contains("on data-cart-1 another node runs") && degraded.contains("delete the claim and its pod"),
        "{degraded}"
    );
    world.lose_volume("cart-1");
    world.settle(|_| ());
    let ring = world.ring().unwrap();
    assert!(ring.is_lost(member) && ring.members.contains_key(&world.node_of("cart-1").unwrap()));
    assert_eq!((ring.members.len(), ring.moving().count()), (3, 0));
    assert_eq!(world.unread(), [""; 0]);
}

#[test]
fn a_dead_pod_whose_volume_is_there_is_not_lost() {
    let mut world = World::settled_with(3, KEYS);
    let epoch = world.ring().unwrap().epoch;
    world.hold("cart-2");
    for _ in 0..400 {
        world.round();
    }
    let ring = world.ring().unwrap();
    assert_eq!((ring.epoch, ring.lost.len()), (epoch, 0));
    assert!(
        matches!(world.condition("Degraded"), Some((status, reason, _)) if status == "True" && reason == "MembersUnreachable")
    );
    world.release("cart-2");
    world.settle(|_| ());
    assert_eq!(world.unread(), [""; 0]);
}
