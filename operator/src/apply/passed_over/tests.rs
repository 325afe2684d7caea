//! Parts of steps that are refused, against an API server in memory and nodes that take nothing.

use dynamo_api_server::Refusal;
use dynamo_core::id::NodeId;
use serde_json::json;

use crate::apply::tests::{Offers, first_ring, pass, sets_are_seen};
use crate::apply::{ApplyError, record, step, steps};
use crate::build::labels;
use crate::fake_api::FakeApi;
use crate::nodes::Network;
use crate::observe::observe;
use crate::observed::{Node, Note, Pod, Volume};
use crate::plan::{Step, next_step};
use crate::valid::Place;
use crate::valid::tests::valid;

/// As by a policy that protects the claims of some label.
#[tokio::test]
async fn a_claim_that_is_refused_keeps_no_other_from_being_noted_or_deleted() {
    let (api, cluster) = (FakeApi::default(), valid(3, &[]));
    let client = api.client();
    let place = |ordinal| Place { zone: "default".into(), ordinal };
    let path = |ordinal: u32| format!("/api/v1/namespaces/shop/persistentvolumeclaims/data-cart-{ordinal}");
    for ordinal in [3, 4] {
        let name = format!("data-cart-{ordinal}");
        api.put(&path(ordinal), json!({ "metadata": { "name": name, "labels": labels::selecting(&cluster) } }));
    }
    let look = async || observe(&client, &Network, &cluster).await.unwrap().0;
    let nodes = [3, 4].map(|ordinal| (place(ordinal), NodeId([ordinal as u8; 16])));
    let refusal = Refusal::Forbidden("protected".into());
    api.refuse(&format!("PATCH {}", path(3)), refusal.clone());
    let failure = step(&client, &Network, &cluster, &look().await, &Step::NoteIdentities(nodes.into())).await.unwrap_err();
    assert_eq!(failure.each().len(), 1);
    assert_eq!((look().await.note(&place(3)), look().await.note(&place(4))), (Note::None, Note::Node(NodeId([4; 16]))));
    api.refuse_nothing();
    let delete = Step::DeleteVolumes(vec![place(3), place(4)]);
    step(&client, &Network, &cluster, &look().await, &delete).await.unwrap();
    api.refuse(&format!("DELETE {}", path(3)), refusal);
    let failure = step(&client, &Network, &cluster, &look().await, &delete).await.unwrap_err();
    assert_eq!(failure.to_string(), "PersistentVolumeClaim data-cart-3: delete: protected");
    assert_eq!((api.object(&path(3)).is_some(), api.object(&path(4))), (true, None));
}

/// One takes no ring, and another takes all; of both nothing is known that the record does not say.
#[tokio::test]
async fn a_ring_that_a_node_does_not_take_is_offered_once_in_a_pass_and_the_next_step_is_taken() {
    let (api, cluster) = (FakeApi::default(), valid(3, &[]));
    let client = api.client();
    let ring = first_ring(&cluster, 1);
    pass(&api, &cluster).await;
    sets_are_seen(&api);
    let (mut observed, _) = observe(&client, &Network, &cluster).await.unwrap();
    record(&client, &cluster, &observed, &ring, "").await.unwrap();
    observed.record = observe(&client, &Network, &cluster).await.unwrap().0.record;
    for ordinal in 0..3 {
        let (id, at) = (NodeId([ordinal as u8 + 1; 16]), Place { zone: "default".into(), ordinal });
        let node = Some(Node::holding(id, Some(&ring).filter(|_| ordinal != 1)));
        observed.pods.insert(at.clone(), Pod { node, address: Some(ordinal.to_string()), ready: true, ..Pod::default() });
        observed.volumes.insert(at, Volume { note: Note::Node(id), ..Volume::default() });
    }
    let offers = Offers { refuses: true, ..Offers::default() };
    let next = next_step(&cluster, &observed);
    assert!(matches!(&next, Step::OfferRing(places) if places.len() == 1), "{next:?}");
    let (last, taken, failures) = steps(&client, &offers, &cluster, &mut observed, next).await;
    taken.unwrap();
    assert!(matches!(last, Step::RecordVolumes(_)), "{last:?}");
    assert!(matches!(&failures[..], [ApplyError::Offer { .. }]));
    assert_eq!(offers.offered.lock().unwrap().len(), 1);
}
