//! What is written, and what is refused, against an API server in memory.

use std::future::ready;
use std::sync::Mutex;

use dynamo_core::id::PartitionId;
use dynamo_core::node::receipt::{HandedOver, Receipt};
use dynamo_core::rebalance;
use dynamo_core::ring::Member;
use dynamo_core::version::Digest;
use serde_json::{Value, json};

use super::upkeep::marked;
use super::*;
use crate::build::{config_map, stateful_set};
use crate::fake_api::FakeApi;
use crate::nodes::{Answer, Network};
use crate::observe::observe;
use crate::observed::{Node, Note, Pod};
use crate::plan::next_step;
use crate::valid::tests::valid;

const CLAIM: &str = "/api/v1/namespaces/shop/persistentvolumeclaims/data-cart-3";
pub(super) const SET: &str = "/apis/apps/v1/namespaces/shop/statefulsets/cart";
const IMAGE: &str = "/spec/template/spec/containers/0/image";
const RECORD: &str = "/api/v1/namespaces/shop/configmaps/cart-ring";

pub(super) async fn pass(api: &FakeApi, cluster: &ValidCluster) -> Step {
    let client = api.client();
    let (mut observed, live) = observe(&client, &Network, cluster).await.unwrap();
    let next = next_step(cluster, &observed);
    let done = upkeep(&client, cluster, &observed, &live).await;
    assert!(done.failures.is_empty());
    observed.follow(&done.versions);
    step(&client, &Network, cluster, &observed, &next).await.unwrap();
    next
}

/// The StatefulSet controller has seen what it was told, and says that it did it.
pub(super) fn sets_are_seen(api: &FakeApi) {
    for name in ["cart", "cart-a", "cart-b", "cart-c"] {
        api.edit(&format!("/apis/apps/v1/namespaces/shop/statefulsets/{name}"), |set| {
            set["status"]["observedGeneration"] = set["metadata"]["generation"].clone();
            set["status"]["replicas"] = set["spec"]["replicas"].clone();
        });
    }
}

/// A pod of the cluster's set, which runs.
pub(super) fn put_pod(api: &FakeApi, cluster: &ValidCluster, name: &str) {
    let uid = api.object(SET).unwrap()["metadata"]["uid"].clone();
    let owner = json!([{ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "cart", "uid": uid, "controller": true }]);
    let pod = json!({ "metadata": { "name": name, "labels": labels::selecting(cluster), "ownerReferences": owner } });
    api.put(&format!("/api/v1/namespaces/shop/pods/{name}"), pod);
}

pub(super) fn first_ring(cluster: &ValidCluster, weight: u32) -> Ring {
    let members = (1..=3).map(|id| (NodeId([id; 16]), Member { zone: "default".into(), weight })).collect();
    rebalance::first_ring(cluster.id, cluster.partition_bits, cluster.replication, &members).unwrap()
}

#[tokio::test]
async fn objects_are_written_once_and_a_second_pass_writes_nothing() {
    let (api, cluster) = (FakeApi::default(), valid(3, &["a", "b"]));
    assert!(matches!(pass(&api, &cluster).await, Step::RaisePods(zones) if zones.len() == 2));
    assert_eq!(api.writes().len(), 7, "account, configuration, two services, budget, two sets");
    assert!(matches!(pass(&api, &cluster).await, Step::AwaitPods(_)));
    assert_eq!(api.writes(), [""; 0]);
}

#[tokio::test]
async fn a_changed_setting_is_applied_to_the_configuration_and_to_one_zone_at_a_time() {
    let (api, cluster) = (FakeApi::default(), valid(3, &["a", "b"]));
    pass(&api, &cluster).await;
    sets_are_seen(&api);
    api.writes();
    let mut tuned = cluster;
    tuned.settings.hint_after_ms = Some(100);
    pass(&api, &tuned).await;
    assert_eq!(
        api.writes(),
        [
            format!("PATCH /api/v1/namespaces/shop/configmaps/{}", config_map::name(&tuned)),
            "PATCH /apis/apps/v1/namespaces/shop/statefulsets/cart-a".to_owned(),
        ]
    );
}

#[tokio::test]
async fn a_rollout_tells_one_pod_in_a_pass_and_ends_what_a_dead_operator_began() {
    let (api, mut cluster) = (FakeApi::default(), valid(3, &["a", "b"]));
    let path = |zone: &str| format!("/apis/apps/v1/namespaces/shop/statefulsets/cart-{zone}");
    let partition = "/spec/updateStrategy/rollingUpdate/partition";
    let told = |zone: &str| api.object(&path(zone)).unwrap().pointer(partition).cloned().unwrap();
    pass(&api, &cluster).await;
    for (zone, from) in [("a", 2), ("b", 1)] {
        api.edit(&path(zone), |set| *set.pointer_mut(partition).unwrap() = json!(from));
    }
    assert_eq!(pass(&api, &cluster).await.kind(), "AwaitPods");
    assert_eq!((told("a"), told("b")), (json!(2), json!(1)), "their controller has not seen that yet");
    for (a, b) in [(0, 1), (0, 0)] {
        sets_are_seen(&api);
        pass(&api, &cluster).await;
        assert_eq!((told("a"), told("b")), (json!(a), json!(b)), "no node is in a ring");
    }
    let members = [("a", 1), ("a", 2), ("b", 3)].map(|(zone, id)| (NodeId([id; 16]), Member { zone: zone.into(), weight: 1 }));
    let ring = rebalance::first_ring(cluster.id, cluster.partition_bits, cluster.replication, &members.into()).unwrap();
    let (observed, _) = observe(&api.client(), &Network, &cluster).await.unwrap();
    record(&api.client(), &cluster, &observed, &ring, &purpose(&Cause::First)).await.unwrap();
    sets_are_seen(&api);
    cluster.image = "next".into();
    let images =
        || ["a", "b"].map(|zone| api.object(&path(zone)).unwrap()["spec"]["template"]["spec"]["containers"][0]["image"].clone());
    pass(&api, &cluster).await;
    assert_eq!((told("a"), told("b")), (json!(1), json!(0)));
    assert_eq!(images().map(|image| image == "next"), [true, false]);
    sets_are_seen(&api);
    pass(&api, &cluster).await;
    assert_eq!((told("a"), told("b")), (json!(1), json!(0)), "the pod that was told is not there yet");
}

#[tokio::test]
async fn a_set_that_is_made_again_for_pods_of_members_restarts_none_of_them() {
    let (api, mut cluster) = (FakeApi::default(), valid(3, &["a", "b"]));
    let path = |zone: &str| format!("/apis/apps/v1/namespaces/shop/statefulsets/cart-{zone}");
    let told = |zone: &str| {
        let spec = api.object(&path(zone)).unwrap()["spec"].clone();
        (spec["replicas"].clone(), spec["updateStrategy"]["rollingUpdate"]["partition"].clone())
    };
    pass(&api, &cluster).await;
    assert_eq!((told("a"), told("b")), ((json!(2), json!(0)), (json!(1), json!(0))), "the first ones have nothing to restart");
    let members = [1, 2, 3].map(|id| (NodeId([id; 16]), Member { zone: "a".into(), weight: 1 }));
    let ring = rebalance::first_ring(cluster.id, cluster.partition_bits, cluster.replication, &members.into()).unwrap();
    let (observed, _) = observe(&api.client(), &Network, &cluster).await.unwrap();
    record(&api.client(), &cluster, &observed, &ring, &purpose(&Cause::First)).await.unwrap();
    cluster.image = "next".into();
    for zone in ["a", "b"] {
        api.remove(&path(zone));
    }
    assert!(matches!(pass(&api, &cluster).await, Step::RaisePods(_)));
    assert_eq!((told("a"), told("b")), ((json!(2), json!(2)), (json!(1), json!(0))), "zone b has no member");
}

#[tokio::test]
async fn an_object_of_somebody_else_is_not_touched() {
    let (api, cluster) = (FakeApi::default(), valid(3, &[]));
    api.put(SET, json!({ "metadata": { "name": "cart" }, "spec": { "serviceName": "x", "selector": {}, "template": {} } }));
    let step = pass(&api, &cluster).await;
    assert!(matches!(step, Step::Blocked(crate::plan::Blocked::NamesTaken(names)) if names == ["StatefulSet cart"]));
    assert_eq!(api.writes(), [""; 0]);
}

/// Else the cluster would be called ready under the new generation before any pod has the new image.
#[tokio::test]
async fn a_template_is_waited_for_from_the_pass_on_that_writes_it() {
    let (api, mut cluster) = (FakeApi::default(), valid(3, &[]));
    pass(&api, &cluster).await;
    sets_are_seen(&api);
    let client = api.client();
    for (image, waiting) in [("first", &["default"][..]), ("first", &[])] {
        cluster.image = image.into();
        let (observed, live) = observe(&client, &Network, &cluster).await.unwrap();
        assert_eq!(upkeep(&client, &cluster, &observed, &live).await.waiting, waiting);
        sets_are_seen(&api);
    }
}

/// A quota, a policy or a webhook may stand against any kind of object.
#[tokio::test]
async fn an_object_that_is_refused_keeps_no_other_from_being_written() {
    type Admission = fn(&str, &mut Value) -> Result<(), String>;
    const REFUSALS: [(&str, Admission); 3] = [
        ("ServiceAccount cart: apply", |path, _| refuse(path, "serviceaccounts")),
        ("PodDisruptionBudget cart: apply", |path, _| refuse(path, "poddisruptionbudgets")),
        ("ConfigMap cart-config-", |path, _| refuse(path, "cart-config-")),
    ];
    for (refused, admission) in REFUSALS {
        let (api, cluster) = (FakeApi::default(), valid(3, &[]));
        api.admit(admission);
        let client = api.client();
        let (observed, live) = observe(&client, &Network, &cluster).await.unwrap();
        let done = upkeep(&client, &cluster, &observed, &live).await;
        assert_eq!(done.written.len(), 4, "{refused}: {:?}", done.written);
        let failures: Vec<String> = done.failures.iter().map(ToString::to_string).collect();
        let told = |failure: &str| failure.starts_with(refused) && failure.ends_with(": exceeded quota");
        assert!(matches!(&failures[..], [failure] if told(failure)), "in the API server's words and no others: {failures:?}");
    }
}

/// As a policy does that wants images by their digest, or a platform that sets what pods may take.
#[tokio::test]
async fn what_a_webhook_makes_of_a_template_is_no_difference_and_a_change_by_hand_is_one() {
    let (api, mut cluster) = (FakeApi::default(), valid(3, &[]));
    api.admit(|path, object| {
        if path == SET || path.ends_with("/services/cart") {
            object["metadata"]["labels"]["app.kubernetes.io/component"] = json!("database");
        }
        if let Some(image) = object.pointer_mut("/spec/template/spec/containers/0/image") {
            let name = image.as_str().unwrap_or_default().split('@').next().unwrap_or_default();
            *image = json!(format!("{name}@sha256:0123"));
        }
        Ok(())
    });
    let image = || api.object(SET).unwrap().pointer("/spec/template/spec/containers/0/image").cloned().unwrap();
    for name in ["first", "next"] {
        cluster.image = name.into();
        pass(&api, &cluster).await;
        assert_ne!(api.writes(), [""; 0]);
        sets_are_seen(&api);
        pass(&api, &cluster).await;
        assert_eq!(api.writes(), ["PATCH /api/v1/namespaces/shop/services/cart"], "which changes nothing");
        assert_eq!(image(), json!(format!("{name}@sha256:0123")));
        let client = api.client();
        let (observed, live) = observe(&client, &Network, &cluster).await.unwrap();
        assert_eq!(upkeep(&client, &cluster, &observed, &live).await.written, [""; 0]);
        api.writes();
    }
    api.edit(SET, |set| set["spec"]["template"]["spec"]["containers"][0]["image"] = json!("by hand"));
    sets_are_seen(&api);
    pass(&api, &cluster).await;
    assert_eq!(image(), json!("next@sha256:0123"));
}

/// As the API server refuses an apply that leaves what somebody else set where it is.
#[tokio::test]
async fn what_somebody_set_beside_the_operators_own_and_does_not_go_with_it_is_set_right() {
    const BUDGET: &str = "/apis/policy/v1/namespaces/shop/poddisruptionbudgets/cart";
    const SERVICE: &str = "/api/v1/namespaces/shop/services/cart";
    let (api, cluster) = (FakeApi::default(), valid(3, &[]));
    pass(&api, &cluster).await;
    api.admit(|path, object| match path {
        BUDGET if object["spec"]["minAvailable"].is_number() && object["spec"]["maxUnavailable"].is_number() => {
            Err("minAvailable and maxUnavailable cannot be both set".to_owned())
        }
        _ => Ok(()),
    });
    let spec = |path: &str| api.object(path).unwrap()["spec"].clone();
    let (budget, service) = (spec(BUDGET), spec(SERVICE));
    api.edit(BUDGET, |budget| {
        budget["spec"]["minAvailable"] = json!(1);
        budget["spec"].as_object_mut().unwrap().remove("maxUnavailable");
    });
    api.writes();
    pass(&api, &cluster).await;
    assert_eq!((spec(BUDGET), api.writes()), (budget, vec![format!("PATCH {BUDGET}")]));
    // A selector with one word more finds no pod, and clients no node.
    api.edit(SERVICE, |service| service["spec"]["selector"]["track"] = json!("canary"));
    pass(&api, &cluster).await;
    assert_eq!(api.writes(), [format!("PATCH {SERVICE}")], "an apply replaces a selector whole");
    api.put(SERVICE, json!({ "metadata": api.object(SERVICE).unwrap()["metadata"], "spec": service }));
    pass(&api, &cluster).await;
    assert_eq!(api.writes(), [""; 0]);
}

#[tokio::test]
async fn a_set_whose_pods_somebody_numbered_otherwise_numbers_them_as_before() {
    let (api, cluster) = (FakeApi::default(), valid(3, &[]));
    pass(&api, &cluster).await;
    for (field, value) in [("ordinals", json!({ "start": 1 })), ("minReadySeconds", json!(3600))] {
        sets_are_seen(&api);
        api.edit(SET, |set| set["spec"][field] = value.clone());
        api.writes();
        pass(&api, &cluster).await;
        assert_eq!(api.writes(), [format!("PATCH {SET}")], "{field}");
        let spec = api.object(SET).unwrap()["spec"].clone();
        assert_eq!((spec["ordinals"].clone(), spec["minReadySeconds"].clone()), (Value::Null, json!(0)));
        sets_are_seen(&api);
        pass(&api, &cluster).await;
        assert_eq!(api.writes(), [""; 0]);
    }
}

/// As a quota or a webhook does, of which the controller hears nothing when they are put right.
#[tokio::test]
async fn the_controller_of_a_set_that_lacks_a_pod_is_woken_once_a_minute_and_nothing_is_restarted_for_it() {
    let (api, cluster) = (FakeApi::default(), valid(3, &[]));
    pass(&api, &cluster).await;
    for name in ["cart-0", "cart-1"] {
        put_pod(&api, &cluster, name);
    }
    sets_are_seen(&api);
    pass(&api, &cluster).await;
    api.edit(SET, |set| set["status"]["replicas"] = json!(2));
    let before = api.object(SET).unwrap();
    let nudged = || api.object(SET).unwrap()["metadata"]["annotations"].get(labels::NUDGED).cloned();
    api.writes();
    let cases = [
        ("Thu, 01 Jan 2026 00:10:00 GMT", Some("2026-01-01T00:10:00Z"), 1),
        ("Thu, 01 Jan 2026 00:10:59 GMT", Some("2026-01-01T00:10:00Z"), 0),
        ("Thu, 01 Jan 2026 00:11:00 GMT", Some("2026-01-01T00:11:00Z"), 1),
    ];
    for (date, at, writes) in cases {
        api.tell_the_time(date);
        pass(&api, &cluster).await;
        assert_eq!((nudged(), api.writes().len()), (at.map(|at| json!(at)), writes), "{date}");
    }
    let after = api.object(SET).unwrap();
    assert_eq!((&after["spec"], &after["metadata"]["generation"]), (&before["spec"], &before["metadata"]["generation"]));
    put_pod(&api, &cluster, "cart-2");
    pass(&api, &cluster).await;
    assert_eq!((nudged(), api.writes()), (None, vec![format!("PATCH {SET}")]));
    pass(&api, &cluster).await;
    assert_eq!(api.writes(), [""; 0]);
}

#[tokio::test]
async fn one_pass_gives_a_set_its_template_and_its_number_of_pods_unless_somebody_wrote_in_between() {
    let (api, cluster) = (FakeApi::default(), valid(3, &[]));
    pass(&api, &cluster).await;
    sets_are_seen(&api);
    api.writes();
    let mut grown = valid(5, &[]);
    grown.image = "next".into();
    assert!(matches!(pass(&api, &grown).await, Step::RaisePods(_)));
    assert_eq!(api.writes(), [format!("PATCH {SET}"), format!("PATCH {SET}")]);
    let spec = api.object(SET).unwrap()["spec"].clone();
    assert_eq!((&spec["replicas"], &spec["template"]["spec"]["containers"][0]["image"]), (&json!(5), &json!("next")));
    sets_are_seen(&api);
    let client = api.client();
    let mut grown = valid(6, &[]);
    grown.image = "the one after".into();
    let (mut observed, live) = observe(&client, &Network, &grown).await.unwrap();
    let done = upkeep(&client, &grown, &observed, &live).await;
    assert_eq!(done.written, ["StatefulSet cart"]);
    api.edit(SET, |set| set["metadata"]["annotations"]["example.org/touched"] = json!("now"));
    observed.follow(&done.versions);
    let raised = next_step(&grown, &observed);
    assert!(step(&client, &Network, &grown, &observed, &raised).await.unwrap_err().is_conflict());
    assert_eq!(api.object(SET).unwrap()["spec"]["replicas"], 5);
}

#[tokio::test]
async fn a_set_that_is_refused_keeps_no_other_from_its_template_nor_from_its_pods() {
    type Admission = fn(&str, &mut Value) -> Result<(), String>;
    const REFUSALS: [(Admission, &[&str], &str); 2] = [
        (|path, _| refuse(path, "statefulsets/cart-a"), &["cart-a"], "StatefulSet cart-a: replicas 3"),
        (
            |path, _| refuse(path, "statefulsets"),
            &["cart-a", "cart-b"],
            "StatefulSet cart-a: replicas 3, StatefulSet cart-b: replicas 2",
        ),
    ];
    for (admission, refused, unraised) in REFUSALS {
        let (api, cluster) = (FakeApi::default(), valid(3, &["a", "b"]));
        let path = |zone: &str| format!("/apis/apps/v1/namespaces/shop/statefulsets/cart-{zone}");
        pass(&api, &cluster).await;
        // Both are in the middle of a rollout.
        for zone in ["a", "b"] {
            api.edit(&path(zone), |set| set["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = json!(1));
        }
        sets_are_seen(&api);
        api.admit(admission);
        let mut next = valid(5, &["a", "b"]);
        next.image = "next".into();
        let client = api.client();
        let (mut observed, live) = observe(&client, &Network, &next).await.unwrap();
        let done = upkeep(&client, &next, &observed, &live).await;
        let failures: Vec<String> = done.failures.iter().map(ToString::to_string).collect();
        let told: Vec<String> = refused.iter().map(|name| format!("StatefulSet {name}: update: exceeded quota")).collect();
        assert_eq!(failures, told);
        observed.follow(&done.versions);
        let raised = step(&client, &Network, &next, &observed, &next_step(&next, &observed)).await;
        assert_eq!(raised.unwrap_err().to_string(), format!("{unraised}: exceeded quota"));
        let spec = api.object(&path("b")).unwrap()["spec"].clone();
        let is_next = spec["template"]["spec"]["containers"][0]["image"] == "next";
        assert_eq!((is_next, spec["replicas"] == 2), if refused.len() == 1 { (true, true) } else { (false, false) });
    }
}

/// As a policy does that holds for the nodes of one zone.
#[tokio::test]
async fn a_zone_whose_template_is_refused_again_and_again_is_passed_over_and_told() {
    let (api, cluster) = (FakeApi::default(), valid(3, &["a", "b", "c"]));
    let path = |zone: &str| format!("/apis/apps/v1/namespaces/shop/statefulsets/cart-{zone}");
    pass(&api, &cluster).await;
    api.admit(|path, _| refuse(path, "statefulsets/cart-a"));
    let mut next = cluster;
    next.image = "next".into();
    let told = || ["a", "b", "c"].map(|zone| api.object(&path(zone)).unwrap().pointer(IMAGE).cloned().unwrap() == "next");
    let client = api.client();
    for expected in [[false, true, false], [false, true, true], [false, true, true]] {
        sets_are_seen(&api);
        let (observed, live) = observe(&client, &Network, &next).await.unwrap();
        let done = upkeep(&client, &next, &observed, &live).await;
        let failures: Vec<String> = done.failures.iter().map(ToString::to_string).collect();
        assert_eq!(failures, ["StatefulSet cart-a: update: exceeded quota"]);
        assert!(done.waiting.contains(&"a".to_owned()), "{:?}", done.waiting);
        assert_eq!(told(), expected);
    }
}

/// Somebody set it to begin with another pod, and nobody may set it back.
#[tokio::test]
async fn a_set_that_cannot_be_set_right_keeps_no_other_from_its_template() {
    let (api, cluster) = (FakeApi::default(), valid(3, &["a", "b"]));
    let path = |zone: &str| format!("/apis/apps/v1/namespaces/shop/statefulsets/cart-{zone}");
    pass(&api, &cluster).await;
    api.edit(&path("a"), |set| set["spec"]["ordinals"] = json!({ "start": 1 }));
    api.admit(|path, _| refuse(path, "statefulsets/cart-a"));
    sets_are_seen(&api);
    let mut next = cluster;
    next.image = "next".into();
    let client = api.client();
    let (observed, live) = observe(&client, &Network, &next).await.unwrap();
    let done = upkeep(&client, &next, &observed, &live).await;
    let failures: Vec<String> = done.failures.iter().map(ToString::to_string).collect();
    assert_eq!(failures, ["StatefulSet cart-a: ordinals and minReadySeconds: exceeded quota"]);
    assert_eq!((done.written, done.waiting), (vec!["StatefulSet cart-b".to_owned()], vec!["a".to_owned(), "b".to_owned()]));
}

fn refuse(path: &str, part: &str) -> Result<(), String> {
    if path.contains(part) { Err("exceeded quota".to_owned()) } else { Ok(()) }
}

#[tokio::test]
async fn of_two_operators_that_record_one_epoch_one_gets_a_conflict() {
    let (api, cluster) = (FakeApi::default(), valid(3, &[]));
    let client = api.client();
    let (observed, _) = observe(&client, &Network, &cluster).await.unwrap();
    let first = first_ring(&cluster, 1);
    record(&client, &cluster, &observed, &first, &purpose(&Cause::First)).await.unwrap();
    let twin = record(&client, &cluster, &observed, &first_ring(&cluster, 2), &purpose(&Cause::First)).await;
    assert!(twin.unwrap_err().is_conflict(), "both saw no record");

    let (observed, _) = observe(&client, &Network, &cluster).await.unwrap();
    assert_eq!(observed.record.ring(), Some(&first));
    let next = first.successor(|_| ());
    let other = first.successor(|ring| ring.members.values_mut().for_each(|member| member.weight = 3));
    record(&client, &cluster, &observed, &next, &purpose(&Cause::Rebalance)).await.unwrap();
    let twin = record(&client, &cluster, &observed, &other, &purpose(&Cause::Rebalance)).await;
    assert!(twin.unwrap_err().is_conflict(), "both saw epoch 1");
    assert_eq!(api.object(RECORD).unwrap()["data"]["epoch"], "2");
}

/// Which epoch was offered at which address.
#[derive(Default)]
pub(super) struct Offers {
    pub(super) offered: Mutex<BTreeMap<String, u64>>,
    /// None is taken.
    pub(super) refuses: bool,
}

impl Nodes for Offers {
    fn status<'a>(&'a self, _: &'a ValidCluster, _: &'a str) -> Answer<'a, Node> {
        Box::pin(ready(Err("is not asked".to_owned())))
    }

    fn ring<'a>(&'a self, _: &'a str) -> Answer<'a, Option<Ring>> {
        Box::pin(ready(Err("is not asked".to_owned())))
    }

    fn offer<'a>(&'a self, address: &'a str, ring: &'a Ring) -> Answer<'a, ()> {
        self.offered.lock().unwrap().insert(address.to_owned(), ring.epoch.0);
        Box::pin(ready(if self.refuses { Err("its disk is full".to_owned()) } else { Ok(()) }))
    }

    fn receipt<'a>(&'a self, _: &'a str) -> Answer<'a, Receipt> {
        Box::pin(ready(Err("is not asked".to_owned())))
    }
}

#[tokio::test]
async fn a_ring_that_members_may_lack_is_recorded_beside_the_next_and_offered_to_them_first() {
    let (api, cluster) = (FakeApi::default(), valid(3, &[]));
    let client = api.client();
    let (first, look) = (first_ring(&cluster, 1), async || observe(&client, &Network, &cluster).await.unwrap().0);
    record(&client, &cluster, &look().await, &first, "").await.unwrap();
    let (second, third) = (first.successor(|_| ()), first.successor(|_| ()).successor(|_| ()));
    for ring in [&second, &third] {
        record(&client, &cluster, &look().await, ring, "nobody answers").await.unwrap();
    }
    let recorded = || api.object(RECORD).unwrap()["binaryData"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(recorded(), ["ring", "ring-1", "ring-2"]);

    let (mut observed, offers) = (look().await, Offers::default());
    for (ordinal, held) in [None, Some(&first), Some(&second)].into_iter().enumerate() {
        let node = Node::holding(NodeId([ordinal as u8 + 1; 16]), held);
        let pod = Pod { node: Some(node), address: Some(ordinal.to_string()), ..Pod::default() };
        observed.pods.insert(Place { zone: "default".into(), ordinal: ordinal as u32 }, pod);
    }
    let all = Step::OfferRing(observed.pods.keys().cloned().collect());
    step(&client, &offers, &cluster, &observed, &all).await.unwrap();
    assert_eq!(*offers.offered.lock().unwrap(), [("0".to_owned(), 3), ("1".to_owned(), 2), ("2".to_owned(), 3)].into());
    record(&client, &cluster, &observed, &third, "volumes of the members").await.unwrap();
    assert_eq!(recorded(), ["ring", "ring-1", "ring-2"], "the same ring once more");
    for pod in observed.pods.values_mut() {
        let node = pod.node.as_mut().unwrap();
        (node.epoch, node.ring_hash) = (third.epoch, third.hash());
    }
    observed.record = look().await.record;
    record(&client, &cluster, &observed, &third.successor(|_| ()), "all hold it").await.unwrap();
    assert_eq!(recorded(), ["ring"]);
}

#[tokio::test]
async fn pods_are_not_removed_on_an_old_look() {
    let (api, cluster) = (FakeApi::default(), valid(3, &[]));
    pass(&api, &cluster).await;
    let client = api.client();
    let (observed, _) = observe(&client, &Network, &cluster).await.unwrap();
    api.edit(SET, |set| set["metadata"]["annotations"]["example.org/touched"] = json!("now"));
    let lowered = Step::LowerPods([("default".to_owned(), 2)].into());
    assert!(step(&client, &Network, &cluster, &observed, &lowered).await.unwrap_err().is_conflict());
    assert_eq!(api.object(SET).unwrap()["spec"]["replicas"], 3);
    let (marks, _) = observe(&client, &Network, &cluster).await.unwrap();
    step(&client, &Network, &cluster, &marks, &lowered).await.unwrap();
    assert_eq!(api.object(SET).unwrap()["spec"]["replicas"], 3, "it is marked first");
    let (lowers, _) = observe(&client, &Network, &cluster).await.unwrap();
    step(&client, &Network, &cluster, &lowers, &lowered).await.unwrap();
    assert_eq!(api.object(SET).unwrap()["spec"]["replicas"], 2);
    assert_eq!(observe(&client, &Network, &cluster).await.unwrap().0.sets["default"].lowering, None);
}

/// Of an operator that stood still before it made a set that another made meanwhile, and grew.
#[tokio::test]
async fn a_set_is_made_once_and_never_made_smaller_by_one_who_saw_none() {
    let (api, cluster) = (FakeApi::default(), valid(3, &[]));
    let client = api.client();
    let (late, _) = observe(&client, &Network, &cluster).await.unwrap();
    let raised = next_step(&cluster, &late);
    assert!(matches!(&raised, Step::RaisePods(zones) if zones["default"] == 3));
    let grown = valid(5, &[]);
    pass(&api, &grown).await;
    let made = api.object(SET);
    assert!(step(&client, &Network, &cluster, &late, &raised).await.unwrap_err().is_conflict());
    assert_eq!(api.object(SET), made);
}

#[tokio::test]
async fn nothing_is_kept_up_on_an_old_look() {
    let (api, cluster) = (FakeApi::default(), valid(3, &[]));
    pass(&api, &cluster).await;
    let client = api.client();
    let mut guarded = cluster.clone();
    guarded.pod_disruption_budget.max_unavailable = 2;
    let mut next = guarded.clone();
    next.image = "next".into();
    for (path, asked) in [("/apis/policy/v1/namespaces/shop/poddisruptionbudgets/cart", guarded), (SET, next)] {
        sets_are_seen(&api);
        let (observed, live) = observe(&client, &Network, &cluster).await.unwrap();
        api.edit(path, |object| object["metadata"]["annotations"]["example.org/touched"] = json!("now"));
        let held = api.object(path);
        let failures = upkeep(&client, &asked, &observed, &live).await.failures;
        assert!(matches!(&failures[..], [failure] if failure.is_conflict()), "{path}: {failures:?}");
        assert_eq!(api.object(path), held);
        let (observed, live) = observe(&client, &Network, &cluster).await.unwrap();
        upkeep(&client, &asked, &observed, &live).await;
        assert_ne!(api.object(path), held);
    }
}

/// An operator that stands still between its look and its call, while another lets the node join that it was about to remove.
#[tokio::test]
async fn a_removal_that_rests_on_a_look_from_before_a_joining_is_refused() {
    let (api, cluster) = (FakeApi::default(), valid(3, &[]));
    pass(&api, &cluster).await;
    let client = api.client();
    let lowered = Step::LowerPods([("default".to_owned(), 2)].into());
    let (observed, _) = observe(&client, &Network, &cluster).await.unwrap();
    step(&client, &Network, &cluster, &observed, &lowered).await.unwrap();
    let (old, _) = observe(&client, &Network, &cluster).await.unwrap();
    assert_eq!(old.sets["default"].lowering, Some(2));
    let Step::RaisePods(zones) = next_step(&cluster, &old) else { panic!("the mark comes off first") };
    assert_eq!(zones["default"], 3);
    step(&client, &Network, &cluster, &old, &Step::RaisePods(zones)).await.unwrap();
    assert!(step(&client, &Network, &cluster, &old, &lowered).await.unwrap_err().is_conflict());

    let place = Place { zone: "default".into(), ordinal: 3 };
    let labels = labels::selecting(&cluster);
    let released = json!({ "name": "data-cart-3", "labels": labels, "annotations": { labels::RELEASED: "true" } });
    api.put(CLAIM, json!({ "metadata": released }));
    let (old, _) = observe(&client, &Network, &cluster).await.unwrap();
    let note = Step::NoteIdentities([(place.clone(), NodeId([7; 16]))].into());
    step(&client, &Network, &cluster, &old, &note).await.unwrap();
    let delete = Step::DeleteVolumes(vec![place.clone()]);
    assert!(step(&client, &Network, &cluster, &old, &delete).await.unwrap_err().is_conflict());
    assert!(!observe(&client, &Network, &cluster).await.unwrap().0.volumes[&place].released);
}

#[tokio::test]
async fn a_volume_is_noted_and_deleted_only_as_it_was_seen() {
    let (api, cluster) = (FakeApi::default(), valid(3, &[]));
    let client = api.client();
    let place = Place { zone: "default".into(), ordinal: 3 };
    api.put(CLAIM, json!({ "metadata": { "name": "data-cart-3", "labels": labels::selecting(&cluster) } }));
    let (observed, _) = observe(&client, &Network, &cluster).await.unwrap();
    let note = Step::NoteIdentities([(place.clone(), NodeId([7; 16]))].into());
    step(&client, &Network, &cluster, &observed, &note).await.unwrap();
    let delete = Step::DeleteVolumes(vec![place.clone()]);
    assert!(step(&client, &Network, &cluster, &observed, &delete).await.unwrap_err().is_conflict(), "it has changed since");
    let (observed, _) = observe(&client, &Network, &cluster).await.unwrap();
    assert_eq!(observed.note(&place), Note::Node(NodeId([7; 16])));
    step(&client, &Network, &cluster, &observed, &delete).await.unwrap();
    let (released, _) = observe(&client, &Network, &cluster).await.unwrap();
    assert!(released.volumes[&place].released, "it is marked first");
    step(&client, &Network, &cluster, &released, &delete).await.unwrap();
    assert_eq!(api.object(CLAIM), None);
}

/// A mark that comes late, from an operator that stood still, would say of a node that has joined meanwhile that it holds nothing.
#[tokio::test]
async fn a_volume_is_called_drained_when_its_pod_goes_and_not_on_an_old_look() {
    let (api, cluster) = (FakeApi::default(), valid(4, &[]));
    pass(&api, &cluster).await;
    let client = api.client();
    let (node, place) = (NodeId([7; 16]), Place { zone: "default".into(), ordinal: 3 });
    let annotations = json!({ labels::NODE: node.to_string(), labels::CLUSTER_UID: cluster.uid });
    api.put(
        CLAIM,
        json!({ "metadata": { "name": "data-cart-3", "labels": labels::selecting(&cluster), "annotations": annotations } }),
    );
    let (look, _) = observe(&client, &Network, &cluster).await.unwrap();
    let ring = first_ring(&cluster, 1);
    record(&client, &cluster, &look, &ring, &purpose(&Cause::First)).await.unwrap();
    let handed_over = HandedOver { partition: PartitionId(5), epoch: ring.epoch, objects: 12, root: Digest([1; 16]) };
    let look = async || {
        let (mut look, _) = observe(&client, &Network, &cluster).await.unwrap();
        look.receipts.insert(
            node,
            Ok(Receipt { node, epoch: ring.epoch, ring_hash: ring.hash(), handed_over: vec![handed_over.clone()] }),
        );
        look
    };
    let lowered = Step::LowerPods([("default".to_owned(), 3)].into());
    let replicas = || api.object(SET).unwrap()["spec"]["replicas"].clone();
    step(&client, &Network, &cluster, &look().await, &lowered).await.unwrap();
    let old = look().await;
    assert_eq!((old.volumes[&place].draining, old.volumes[&place].drained, replicas()), (true, false, json!(4)));
    step(&client, &Network, &cluster, &old, &Step::NoteIdentities([(place.clone(), node)].into())).await.unwrap();
    assert!(step(&client, &Network, &cluster, &old, &lowered).await.unwrap_err().is_conflict());
    let joined = look().await;
    assert_eq!((joined.volumes[&place].draining, joined.volumes[&place].drained, replicas()), (false, false, json!(4)));
    assert_eq!(api.object(CLAIM).unwrap()["metadata"]["annotations"].get(labels::DRAIN_RECEIPT), None, "it went with the mark");
    for _ in 0..2 {
        step(&client, &Network, &cluster, &look().await, &lowered).await.unwrap();
    }
    assert_eq!((look().await.volumes[&place].drained, replicas()), (true, json!(3)));
    let kept = api.object(CLAIM).unwrap()["metadata"]["annotations"][labels::DRAIN_RECEIPT].as_str().map(str::to_owned);
    let kept: serde_json::Value = serde_json::from_str(&kept.expect("the receipt outlives the pod")).unwrap();
    let of = json!({ "node": node.to_string(), "epoch": 1, "ringHash": ring.hash().to_string(), "partitions": 1, "objects": 12 });
    assert_eq!(kept, of);
}

#[tokio::test]
async fn a_claim_that_was_restored_without_labels_is_found_by_its_pod_and_labelled() {
    let (api, cluster) = (FakeApi::default(), valid(3, &[]));
    pass(&api, &cluster).await;
    put_pod(&api, &cluster, "cart-3");
    api.put(CLAIM, json!({ "metadata": { "name": "data-cart-3", "labels": { "restored-by": "somebody" } } }));
    api.writes();
    let client = api.client();
    let (observed, live) = observe(&client, &Network, &cluster).await.unwrap();
    let done = upkeep(&client, &cluster, &observed, &live).await;
    assert_eq!((done.failures.len(), done.told.len()), (0, 1), "it is told");
    assert_eq!(api.writes(), [format!("PATCH {CLAIM}")]);
    let mut labels = labels::of_claims(&cluster, "default");
    labels.insert("restored-by".into(), "somebody".into());
    assert_eq!(api.object(CLAIM).unwrap()["metadata"]["labels"], json!(labels));
    pass(&api, &cluster).await;
    assert_eq!(api.writes(), [""; 0]);
}

/// A rule that gives each pod its team's name, say. The set keeps the pod, since its selector has no such label.
#[tokio::test]
async fn a_pod_whose_instance_somebody_renamed_is_a_pod_of_the_cluster() {
    let (api, cluster) = (FakeApi::default(), valid(3, &[]));
    pass(&api, &cluster).await;
    let uid = api.object(SET).unwrap()["metadata"]["uid"].clone();
    let owner = json!([{ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "cart", "uid": uid, "controller": true }]);
    let mut labels = labels::with_zone(labels::all(&cluster), "default");
    labels.insert(labels::INSTANCE.into(), "team-blue".into());
    let pod = json!({ "metadata": { "name": "cart-2", "labels": labels, "ownerReferences": owner } });
    api.put("/api/v1/namespaces/shop/pods/cart-2", pod);
    let (observed, live) = observe(&api.client(), &Network, &cluster).await.unwrap();
    assert!(observed.pods.contains_key(&Place { zone: "default".into(), ordinal: 2 }));
    let selects = |selector: &BTreeMap<String, String>| selector.iter().all(|(key, value)| labels.get(key) == Some(value));
    let services = [live.headless_service, live.client_service].map(|service| service.unwrap().spec.unwrap().selector.unwrap());
    assert!(services.iter().all(selects), "{services:?}");
    let budget = live.pod_disruption_budget.unwrap().spec.unwrap().selector.unwrap().match_labels.unwrap();
    assert!(selects(&budget), "a drain counts it: {budget:?}");
    let template = live.sets["default"].spec.as_ref().unwrap().template.spec.as_ref().unwrap();
    let spread = template.topology_spread_constraints.iter().flatten().map(|one| one.label_selector.clone().unwrap());
    assert!(spread.map(|selector| selector.match_labels.unwrap()).all(|selector| selects(&selector)));
}

/// The set and the claims as an operator made them that labelled claims by [`labels::INSTANCE`] and selected pods by it.
/// Labels are taken off a pod to take it out of a Service and look at it: its set lets go of it, and cannot make another.
#[tokio::test]
async fn a_pod_that_its_set_let_go_of_is_told_with_what_gives_it_back() {
    const POD: &str = "/api/v1/namespaces/shop/pods/cart-1";
    let (api, cluster) = (FakeApi::default(), valid(3, &[]));
    pass(&api, &cluster).await;
    sets_are_seen(&api);
    let waits_for = async |ordinal: u32| match pass(&api, &cluster).await {
        Step::AwaitPods(waiting) => waiting.into_iter().find(|waiting| waiting.place.ordinal == ordinal).unwrap().reason,
        other => panic!("{other:?}"),
    };
    api.put(POD, json!({ "metadata": { "name": "cart-1", "labels": { "dynamokv.io/cluster": "isolated" } } }));
    let told = waits_for(1).await;
    let way_back = "kubectl --namespace shop label pod cart-1 --overwrite app.kubernetes.io/name=dynamokv dynamokv.io/cluster=cart \
                    dynamokv.io/zone=default";
    assert!(told.contains("delete it") && told.contains(way_back), "{told}");
    assert_eq!(waits_for(2).await, "has no pod yet");
    api.edit(POD, |pod| {
        pod["metadata"]["finalizers"] = json!(["example.org/held"]);
        pod["metadata"]["deletionTimestamp"] = json!("2100-01-01T00:00:00Z");
    });
    let told = waits_for(1).await;
    assert!(told.starts_with("waits for the end of another pod cart-1"), "{told}");
}

#[tokio::test]
async fn claims_lose_the_label_by_which_argo_cd_deletes_them_and_the_set_of_an_earlier_version_is_left_as_it_is() {
    let (api, cluster) = (FakeApi::default(), valid(3, &[]));
    pass(&api, &cluster).await;
    let mut earlier = stateful_set::build(&cluster, &cluster.zones()[0], 3);
    let spec = earlier.spec.as_mut().unwrap();
    let mut selecting_then = labels::selecting_in(&cluster, "default");
    selecting_then.insert(labels::INSTANCE.into(), "cart".into());
    spec.selector.match_labels = Some(selecting_then);
    let labels_then = labels::with_zone(labels::all(&cluster), "default");
    spec.volume_claim_templates.as_mut().unwrap()[0].metadata.labels = Some(labels_then.clone());
    api.edit(SET, |set| {
        let uid = set["metadata"]["uid"].clone();
        *set = serde_json::to_value(marked(earlier.clone())).unwrap();
        set["metadata"]["uid"] = uid;
    });
    sets_are_seen(&api);
    let claim = |name: &str, labels: &BTreeMap<String, String>, made_for: &str| {
        let annotations = json!({ labels::CLUSTER_UID: made_for });
        let path = format!("/api/v1/namespaces/shop/persistentvolumeclaims/{name}");
        api.put(&path, json!({ "metadata": { "name": name, "labels": labels, "annotations": annotations } }));
        path
    };
    let ours = claim("data-cart-3", &labels_then, &cluster.data_uid);
    let former = claim("data-cart-4", &labels_then, "11112222-3333-4444-5555-666677778888");
    api.writes();
    pass(&api, &cluster).await;
    assert_eq!(api.writes(), [format!("PATCH {ours}")], "a former cluster's claim is none of ours, and the set cannot change");
    assert_eq!(api.object(&ours).unwrap()["metadata"]["labels"], json!(labels::of_claims(&cluster, "default")));
    assert_eq!(api.object(&former).unwrap()["metadata"]["labels"], json!(labels_then));
    pass(&api, &cluster).await;
    assert_eq!(api.writes(), [""; 0]);
}

#[tokio::test]
async fn a_label_that_a_webhook_puts_back_is_asked_about_once_a_pass_and_counts_as_nothing_written() {
    let (api, cluster) = (FakeApi::default(), valid(3, &[]));
    pass(&api, &cluster).await;
    let mut labels = labels::of_claims(&cluster, "default");
    labels.insert(labels::INSTANCE.into(), "cart".into());
    api.put(CLAIM, json!({ "metadata": { "name": "data-cart-3", "labels": labels } }));
    api.admit(|path, object| {
        if path == CLAIM {
            object["metadata"]["labels"][labels::INSTANCE] = json!("cart");
        }
        Ok(())
    });
    let client = api.client();
    let (observed, live) = observe(&client, &Network, &cluster).await.unwrap();
    let done = upkeep(&client, &cluster, &observed, &live).await;
    assert_eq!((done.written, done.failures.len()), (vec![], 0));
}

/// Who removed a set of another cluster would take pods from it.
#[tokio::test]
async fn a_name_that_another_cluster_has_is_not_to_be_freed_by_removing_what_is_there() {
    let (api, cluster) = (FakeApi::default(), valid(3, &[]));
    let owner = json!([{ "apiVersion": "dynamokv.io/v1alpha1", "kind": "DynamoCluster", "name": "ca", "uid": "another", "controller": true }]);
    let mut set = serde_json::to_value(stateful_set::build(&cluster, &cluster.zones()[0], 3)).unwrap();
    set["metadata"]["ownerReferences"] = owner;
    api.put(SET, set);
    let (observed, _) = observe(&api.client(), &Network, &cluster).await.unwrap();
    assert_eq!(
        (&observed.taken[..], observed.neighbours.iter().next()),
        (&["StatefulSet cart".to_owned()][..], Some(&"ca".to_owned()))
    );
}

/// Somebody deletes the Service and makes another one of its name; the cluster has members to keep.
#[tokio::test]
async fn a_cluster_that_is_there_goes_on_beside_a_service_of_somebody_else_and_leaves_it_alone() {
    const SERVICE: &str = "/api/v1/namespaces/shop/services/cart";
    let (api, mut cluster) = (FakeApi::default(), valid(3, &[]));
    let client = api.client();
    let theirs = json!({ "metadata": { "name": "cart" }, "spec": { "ports": [{ "port": 80 }] } });
    api.put(SERVICE, theirs.clone());
    let step = pass(&api, &cluster).await;
    assert!(matches!(step, Step::Blocked(crate::plan::Blocked::NamesTaken(_))), "a new one takes no part of its names");
    api.remove(SERVICE);
    pass(&api, &cluster).await;
    let (look, _) = observe(&client, &Network, &cluster).await.unwrap();
    record(&client, &cluster, &look, &first_ring(&cluster, 1), &purpose(&Cause::First)).await.unwrap();
    api.remove(SERVICE);
    api.put(SERVICE, theirs);
    sets_are_seen(&api);
    api.writes();
    cluster.image = "next".into();
    let (look, live) = observe(&client, &Network, &cluster).await.unwrap();
    assert_eq!((&look.taken, &look.passed_by), (&vec![], &vec!["Service cart".to_owned()]));
    assert_eq!(outstanding(&cluster, &look, &live), ["default"]);
    pass(&api, &cluster).await;
    assert_eq!(api.writes(), [format!("PATCH {SET}")]);
}

#[tokio::test]
async fn an_object_of_the_cluster_that_lost_its_owner_is_told_from_one_of_somebody_else() {
    let (api, cluster) = (FakeApi::default(), valid(3, &[]));
    pass(&api, &cluster).await;
    let look = async || observe(&api.client(), &Network, &cluster).await.unwrap().0;
    api.edit(SET, |set| drop(set["metadata"].as_object_mut().unwrap().remove("ownerReferences")));
    let ownerless = look().await;
    assert_eq!((&ownerless.taken[..], &ownerless.ownerless[..]), (&["StatefulSet cart".to_owned()][..], &ownerless.taken[..]));
    api.edit(SET, |set| {
        set["metadata"]["ownerReferences"] =
            json!([{ "apiVersion": "v1", "kind": "A", "name": "a", "uid": "a", "controller": true }])
    });
    let foreign = look().await;
    assert_eq!((foreign.taken.len(), foreign.ownerless.len()), (1, 0), "somebody else controls it");
    api.edit(SET, |set| set["metadata"] = json!({ "name": "cart", "uid": "another" }));
    let foreign = look().await;
    assert_eq!((foreign.taken.len(), foreign.ownerless.len()), (1, 0), "it says nothing of a cluster");
}

#[tokio::test]
async fn a_larger_size_grows_the_volumes_that_are_in_use() {
    let (api, mut cluster) = (FakeApi::default(), valid(3, &[]));
    pass(&api, &cluster).await;
    put_pod(&api, &cluster, "cart-0");
    let path = |name: &str| format!("/api/v1/namespaces/shop/persistentvolumeclaims/{name}");
    for name in ["data-cart-0", "data-cart-1"] {
        let size = json!({ "resources": { "requests": { "storage": "10Gi" } } });
        let labels = labels::of_claims(&cluster, "default");
        let object = json!({ "metadata": { "name": name, "labels": labels }, "spec": size, "status": { "phase": "Pending" } });
        api.put(&path(name), object);
    }
    api.writes();
    cluster.storage.size = "20Gi".into();
    pass(&api, &cluster).await;
    assert_eq!(api.writes(), [""; 0], "there is no volume yet that could grow");
    for name in ["data-cart-0", "data-cart-1"] {
        api.edit(&path(name), |claim| claim["status"]["phase"] = json!("Bound"));
    }
    api.admit(|path, _| refuse(path, "data-cart"));
    let client = api.client();
    let (observed, live) = observe(&client, &Network, &cluster).await.unwrap();
    let done = upkeep(&client, &cluster, &observed, &live).await;
    assert_eq!((done.failures.len(), done.complaints.len()), (0, 1));
    let told = "volume data-cart-0 cannot grow to 20Gi: exceeded quota; set spec.storage.size back to 10Gi";
    assert_eq!(done.complaints, [told]);
    put_pod(&api, &cluster, "cart-1");
    let (observed, live) = observe(&client, &Network, &cluster).await.unwrap();
    let told = "volume data-cart-0, volume data-cart-1: cannot grow to 20Gi: exceeded quota; set spec.storage.size back to 10Gi";
    assert_eq!(upkeep(&client, &cluster, &observed, &live).await.complaints, [told]);
    api.remove("/api/v1/namespaces/shop/pods/cart-1");
    api.admit(|_, _| Ok(()));
    pass(&api, &cluster).await;
    assert_eq!(api.writes(), [format!("PATCH {}", path("data-cart-0"))]);
    cluster.storage.size = "5Gi".into();
    pass(&api, &cluster).await;
    assert_eq!(api.writes(), [""; 0], "a volume never becomes smaller");
    let asks = |capacity: &str, asked: &str| {
        api.edit(&path("data-cart-0"), |claim| {
            claim["status"]["capacity"] = json!({ "storage": capacity });
            claim["spec"]["resources"]["requests"]["storage"] = json!(asked);
        });
    };
    // Kubernetes takes a request back to what is more than the volume has, and to nothing less.
    for (wanted, taken_back) in [("20Gi", true), ("10Gi", false), ("5Gi", false), ("100Ti", false)] {
        asks("10Gi", "100Ti");
        cluster.storage.size = wanted.into();
        pass(&api, &cluster).await;
        let request = api.object(&path("data-cart-0")).unwrap()["spec"]["resources"]["requests"]["storage"].clone();
        assert_eq!(request, if taken_back { wanted } else { "100Ti" });
        assert_eq!(api.writes().len(), usize::from(taken_back));
        pass(&api, &cluster).await;
        assert_eq!(api.writes(), [""; 0]);
    }
}
