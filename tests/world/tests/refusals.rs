//! Objects that the API server will not take: a policy, a quota or a webhook of somebody else stands against them.
#![allow(clippy::unwrap_used)]

use dynamo_api_server::text;
use dynamo_world::kubernetes::SETS;
use dynamo_world::{ROUNDS_MAX, World};
use serde_json::{Value, json};

const KEYS: u32 = 40;

/// No template but the one that the cluster began with is taken.
fn refuse_templates(path: &str, object: &mut Value) -> Result<(), String> {
    let image = text(object, "/spec/template/spec/containers/0/image");
    let refused = path.starts_with(SETS) && !image.ends_with(":first");
    if refused { Err("the image is not signed".to_owned()) } else { Ok(()) }
}

#[test]
fn a_template_that_is_refused_holds_up_no_rebalance_and_no_replacement() {
    for replicas in [5, 3] {
        let mut world = World::settled_with(4, KEYS);
        world.stage().kubernetes.api.admission = Some(refuse_templates);
        world.ask("image", json!(dynamo_world::image("next"))).unwrap();
        world.lose_volume("cart-1");
        world.scale(replicas);
        let done = |world: &World| {
            let ring = world.ring().unwrap();
            let whole =
                ring.lost.len() == 1 && ring.survivors().count() == replicas as usize && ring.members.len() == replicas as usize;
            whole && ring.moving().next().is_none() && world.pods() == replicas as usize
        };
        assert!((0..ROUNDS_MAX).any(|_| {
            world.round();
            done(&world)
        }));
        let (ready, reason, _) = world.condition("Ready").unwrap();
        assert_eq!((ready.as_str(), reason.as_str()), ("False", "Failed"));
        assert_eq!(world.unread(), [""; 0]);
        world.stage().kubernetes.api.admission = None;
        world.settle(|_| ());
    }
}
