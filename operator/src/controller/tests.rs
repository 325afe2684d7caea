//! What a pass counts and tells, and when the next one is due, against an API server in memory.

use dynamo_api_server::Refusal;
use futures::stream;
use serde_json::Value;

use super::*;
use crate::fake_api::FakeApi;
use crate::nodes::Network;
use crate::valid::Place;
use crate::valid::tests::cluster;

const CLUSTER: &str = "/apis/dynamokv.io/v1alpha1/namespaces/shop/dynamoclusters/cart";

/// The metrics after a pass over each of these states of one cluster; after the last one it is gone.
async fn metrics_after(states: &[DynamoCluster]) -> [String; 2] {
    let (api, metrics) = (FakeApi::default(), Arc::new(Metrics::default()));
    let context = Arc::new(Context::new(api.client(), Arc::new(Network), Arc::clone(&metrics), None));
    for state in states {
        api.put(CLUSTER, serde_json::to_value(state).unwrap());
        reconcile(Arc::new(state.clone()), Arc::clone(&context)).await.unwrap();
    }
    let told = metrics.text().unwrap();
    api.edit(CLUSTER, |cluster| {
        cluster["metadata"]["finalizers"] = json!([]);
        cluster["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
    reconcile(Arc::new(states[0].clone()), context).await.unwrap();
    [told, metrics.text().unwrap()]
}

#[tokio::test]
async fn a_cluster_that_waits_for_a_person_counts_as_blocked_and_not_as_converged() {
    let (mut invalid, mut paused) = (cluster(3, &[]), cluster(3, &[]));
    invalid.spec.replicas = 2;
    paused.spec.reconciliation = Reconciliation::Paused;
    let [told, after] = metrics_after(&[invalid, paused]).await;
    assert!(told.contains("dynamo_operator_reconciles_total{outcome=\"Blocked\"} 2\n"), "{told}");
    assert!(!told.contains("outcome=\"Converged\""), "{told}");
    let ready = "dynamo_operator_cluster_condition{namespace=\"shop\",cluster=\"cart\",type=\"Ready\"} 0\n";
    assert!(told.contains(ready), "{told}");
    assert!(!after.contains("dynamo_operator_cluster_condition{"), "it is gone: {after}");
}

#[tokio::test]
async fn a_cluster_that_is_being_made_counts_as_progressing() {
    let [told, _] = metrics_after(&[cluster(3, &[])]).await;
    assert!(told.contains("dynamo_operator_reconciles_total{outcome=\"Progressing\"} 1\n"), "{told}");
}

/// As where the right to list claims is missing, or comes and goes with somebody's rules.
#[tokio::test]
async fn a_cluster_that_cannot_be_looked_at_is_not_told_to_be_well() {
    let (api, metrics) = (FakeApi::default(), Arc::new(Metrics::default()));
    let context = Arc::new(Context::new(api.client(), Arc::new(Network), Arc::clone(&metrics), None));
    let well = Arc::new(cluster(3, &[]));
    api.put(CLUSTER, serde_json::to_value(&*well).unwrap());
    let told = |type_: &str| -> Value {
        let conditions = api.object(CLUSTER).unwrap()["status"]["conditions"].clone();
        conditions.as_array().unwrap().iter().find(|condition| condition["type"] == type_).unwrap().clone()
    };
    let pass = async || match reconcile(Arc::clone(&well), Arc::clone(&context)).await {
        Ok(_) => true,
        Err(error) => {
            retry(Arc::clone(&well), &error, Arc::clone(&context));
            false
        }
    };
    assert!(pass().await);
    api.edit(CLUSTER, |cluster| {
        for condition in cluster["status"]["conditions"].as_array_mut().unwrap() {
            condition["status"] = json!("True");
        }
    });
    let claims = "GET /api/v1/namespaces/shop/persistentvolumeclaims";
    api.refuse(claims, Refusal::Invalid("persistentvolumeclaims is forbidden".into()));
    for failures in 0..=UNTOLD_MAX {
        assert_eq!((told("Ready")["status"].as_str(), failures), (Some("True"), failures));
        assert!(!pass().await);
    }
    let (ready, available) = (told("Ready"), told("Available"));
    assert_eq!(
        (&ready["status"], &ready["reason"], &available["status"]),
        (&json!("False"), &json!("NotSeen"), &json!("Unknown"))
    );
    let message = ready["message"].as_str().unwrap();
    assert!(message.contains("objects cannot be read") && message.contains("persistentvolumeclaims is forbidden"), "{message}");
    let (text, labels) = (metrics.text().unwrap(), "namespace=\"shop\",cluster=\"cart\"");
    assert!(text.contains(&format!("cluster_condition{{{labels},type=\"Degraded\"}} 1\n")), "{text}");
    assert!(!text.contains(&format!("cluster_condition{{{labels},type=\"Available\"}}")), "{text}");
    api.refuse_nothing();
    assert!(pass().await);
    assert_eq!((&told("Ready")["reason"], &told("Available")["status"]), (&json!("AwaitingPods"), &json!("False")));
}

/// A step that is refused is told by the pass itself, which knows how the cluster is.
#[tokio::test]
async fn an_object_that_is_refused_again_and_again_hides_nothing_that_was_seen() {
    let api = FakeApi::default();
    let context = Arc::new(Context::new(api.client(), Arc::new(Network), Arc::default(), None));
    let cluster = Arc::new(cluster(3, &[]));
    api.put(CLUSTER, serde_json::to_value(&*cluster).unwrap());
    api.refuse("PATCH /api/v1/namespaces/shop/services/cart", Refusal::Invalid("a policy".into()));
    for _ in 0..=UNTOLD_MAX + 1 {
        let failure = reconcile(Arc::clone(&cluster), Arc::clone(&context)).await.unwrap_err();
        retry(Arc::clone(&cluster), &failure, Arc::clone(&context));
    }
    let ready = api.object(CLUSTER).unwrap()["status"]["conditions"][0].clone();
    assert_eq!((&ready["type"], &ready["reason"]), (&json!("Ready"), &json!("Failed")));
}

/// What the API server knows of is a template; what somebody wrote is a `DynamoCluster`.
#[tokio::test]
async fn a_set_that_is_refused_for_its_pods_is_told_by_the_field_of_the_cluster() {
    let api = FakeApi::default();
    let context = Arc::new(Context::new(api.client(), Arc::new(Network), Arc::default(), None));
    let cluster = Arc::new(cluster(3, &[]));
    api.put(CLUSTER, serde_json::to_value(&*cluster).unwrap());
    let words = "StatefulSet.apps \"cart\" is invalid: spec.template.spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution\
                 .nodeSelectorTerms: Required value: must have at least one node selector term";
    api.refuse("POST /apis/apps/v1/namespaces/shop/statefulsets/cart", Refusal::Invalid(words.into()));
    reconcile(Arc::clone(&cluster), context).await.unwrap_err();
    let ready = api.object(CLUSTER).unwrap()["status"]["conditions"][0].clone();
    let told = "StatefulSet cart: replicas 3: StatefulSet.apps \"cart\" is invalid: spec.pod.affinity.nodeAffinity.\
                requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term; these \
                are fields of the DynamoCluster: correct them there";
    assert_eq!((&ready["reason"], ready["message"].as_str()), (&json!("Failed"), Some(told)));
}

/// Each of the waits of a rebalance would be a minute long else.
#[tokio::test]
async fn an_object_that_is_refused_makes_no_look_at_what_is_on_its_way_rarer() {
    let api = FakeApi::default();
    let context = Arc::new(Context::new(api.client(), Arc::new(Network), Arc::default(), None));
    let cluster = Arc::new(cluster(3, &[]));
    api.put(CLUSTER, serde_json::to_value(&*cluster).unwrap());
    let budget = "PATCH /apis/policy/v1/namespaces/shop/poddisruptionbudgets/cart";
    let record = "GET /api/v1/namespaces/shop/configmaps/cart-ring";
    for (refused, paused) in [(budget, WAITING), (record, BACKOFF_MAX)] {
        api.refuse_nothing();
        api.refuse(refused, Refusal::Invalid("a policy".into()));
        let mut pause = Action::await_change();
        for _ in 0..7 {
            let failure = reconcile(Arc::clone(&cluster), Arc::clone(&context)).await.unwrap_err();
            pause = retry(Arc::clone(&cluster), &failure, Arc::clone(&context));
        }
        assert_eq!(pause, Action::requeue(paused), "{refused}");
    }
}

#[test]
fn what_rests_is_tried_again_with_a_growing_pause() {
    let at_rest = [Step::Converged, Step::RebalancingPaused(String::new())];
    let place = Place { zone: "default".into(), ordinal: 3 };
    let pods = Step::AwaitPods(vec![Waiting { place, reason: String::new() }]);
    let on_its_way = [pods.clone(), Step::AwaitEpoch(vec![]), Step::AwaitReceipts(vec![]), Step::AwaitRollout(vec![])];
    let mut observed = Observed::default();
    assert!(at_rest.iter().all(|step| rests(step, &observed)) && !on_its_way.iter().any(|step| rests(step, &observed)));
    observed.refused.more_pods.insert("default".into());
    assert!(rests(&pods, &observed), "nothing comes before that is put right");
}

/// As where somebody else's controller writes to the same object again and again.
#[tokio::test]
async fn a_conflict_is_told_when_it_lasts() {
    let (api, metrics) = (FakeApi::default(), Arc::new(Metrics::default()));
    let context = Arc::new(Context::new(api.client(), Arc::new(Network), metrics, None));
    let cart = Arc::new(cluster(3, &[]));
    api.put(CLUSTER, serde_json::to_value(&*cart).unwrap());
    api.refuse("PATCH /api/v1/namespaces/shop/services/cart", Refusal::Conflict);
    let ready = || api.object(CLUSTER).unwrap()["status"]["conditions"][0].clone();
    for failures in 0..=UNTOLD_MAX {
        let error = reconcile(Arc::clone(&cart), Arc::clone(&context)).await.unwrap_err();
        retry(Arc::clone(&cart), &error, Arc::clone(&context));
        assert_eq!(ready()["reason"] == "Failed", failures == UNTOLD_MAX, "{failures}: {}", ready());
    }
    assert!(ready()["message"].as_str().unwrap().starts_with("Service cart: apply: "), "{}", ready());
}

/// The planner's step is refused, and the one that follows without it is taken in the same pass.
#[tokio::test]
async fn a_step_that_is_refused_is_passed_over_in_the_same_pass_and_asked_for_again_in_the_next() {
    const SETS: &str = "/apis/apps/v1/namespaces/shop/statefulsets";
    let (api, metrics) = (FakeApi::default(), Arc::new(Metrics::default()));
    let context = Arc::new(Context::new(api.client(), Arc::new(Network), Arc::clone(&metrics), None));
    let cart = Arc::new(cluster(3, &[]));
    api.put(CLUSTER, serde_json::to_value(&*cart).unwrap());
    api.refuse(&format!("POST {SETS}/cart"), Refusal::Forbidden("exceeded quota: sets".into()));
    let error = reconcile(Arc::clone(&cart), Arc::clone(&context)).await.unwrap_err();
    assert!(matches!(&error, ReconcileError::Apply(_)), "nothing else is on its way: {error:?}");
    let conditions = api.object(CLUSTER).unwrap()["status"]["conditions"].clone();
    assert_eq!(conditions[0]["message"], "StatefulSet cart: replicas 3: exceeded quota: sets");
    let progressing = conditions.as_array().unwrap().iter().find(|condition| condition["type"] == "Progressing").unwrap();
    assert_eq!(progressing["message"], "cart-0, cart-1, cart-2: have no pod: its StatefulSet is refused another");
    api.refuse_nothing();
    reconcile(cart, context).await.unwrap();
    assert!(api.object(&format!("{SETS}/cart")).is_some());
}

/// As where packets to the API server are lost: no error comes either.
#[tokio::test]
async fn who_is_not_answered_does_not_wait_for_ever_to_read_clusters() {
    let clusters = api::<DynamoCluster>(&FakeApi::client_that_is_not_answered(), Some("shop"));
    assert_eq!(read_within(Duration::ZERO, &clusters).await, Err("no answer in 0 seconds".to_owned()));
    let api_server = FakeApi::default();
    let clusters = api::<DynamoCluster>(&api_server.client(), Some("shop"));
    assert_eq!(read_within(READ_MAX, &clusters).await, Ok(()));
}

/// The time that a pass asked for would count for nothing else, nor would the pause after failures.
#[tokio::test]
async fn a_change_of_the_status_alone_makes_no_pass_and_any_other_does() {
    let changed: [fn(&mut DynamoCluster); 6] = [
        |cluster| cluster.metadata.generation = Some(2),
        |cluster| cluster.metadata.labels = Some([("team".to_owned(), "shop".to_owned())].into()),
        |cluster| cluster.metadata.annotations = Some([("note".to_owned(), "mine".to_owned())].into()),
        |cluster| cluster.metadata.finalizers = Some(vec!["dynamokv.io/volumes".to_owned()]),
        |cluster| cluster.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH)),
        |cluster| cluster.metadata.uid = Some("1d9ce1ab-2a0e-4b0c-9f3e-5f2a7b6c8d9e".to_owned()),
    ];
    let mut cart = cluster(3, &[]);
    let mut told = vec![watcher::Event::Init, watcher::Event::InitApply(cart.clone()), watcher::Event::InitDone];
    for (change, epoch) in changed.iter().zip(1..) {
        cart.status = Some(DynamoClusterStatus { epoch, ..DynamoClusterStatus::default() });
        told.push(watcher::Event::Apply(cart.clone()));
        change(&mut cart);
        told.push(watcher::Event::Apply(cart.clone()));
    }
    let (reader, writer) = reflector::store();
    let passes: Vec<_> = changes(stream::iter(told.into_iter().map(Ok)), writer).collect().await;
    assert_eq!(passes.len(), 1 + changed.len());
    assert_eq!(reader.state()[0].status, cart.status, "what is known of it is the newest all the same");
}

/// As with source ports in the words of an error, with hints of a busy cluster, or with bytes on the move.
#[tokio::test]
async fn a_status_of_which_words_or_figures_alone_are_others_is_written_once_in_a_while() {
    const LONG: Duration = Duration::from_secs(3_600);
    let api = FakeApi::default();
    let context = Context::new(api.client(), Arc::new(Network), Arc::default(), None).telling_figures_every(LONG);
    let context = Arc::new(context);
    let cart = Arc::new(cluster(3, &[]));
    api.put(CLUSTER, serde_json::to_value(&*cart).unwrap());
    let written = || api.writes().iter().filter(|write| **write == format!("PATCH {CLUSTER}")).count();
    let pass = async |port: u16| {
        api.refuse_nothing();
        let refused = "PATCH /api/v1/namespaces/shop/services/cart";
        api.refuse(refused, Refusal::Invalid(format!("10.0.0.9:{port}: connection reset")));
        reconcile(Arc::clone(&cart), Arc::clone(&context)).await.unwrap_err();
        written()
    };
    let ready = || api.object(CLUSTER).unwrap()["status"]["conditions"][0].clone();
    for _ in 0..4 {
        // It may be told at any time, and comes to rest.
        context.told().clear();
        pass(1).await;
    }
    context.told().insert("shop/cart".to_owned(), Instant::now());
    for port in 2..6 {
        assert_eq!(pass(port).await, 0, "port {port}");
    }
    context.told().clear();
    assert_eq!((pass(6).await, pass(7).await), (1, 0), "a later pass tells the last of it");
    assert!(ready()["message"].as_str().unwrap().contains("10.0.0.9:6"), "{}", ready());
    api.refuse_nothing();
    reconcile(Arc::clone(&cart), Arc::clone(&context)).await.unwrap();
    assert_eq!((written(), ready()["reason"] == "Failed"), (1, false), "what turns is told at once");

    let clusters: Api<DynamoCluster> = Api::namespaced(api.client(), "shop");
    let live = clusters.get("cart").await.unwrap();
    let moved = || DynamoClusterStatus { epoch: 9, ..live.status.clone().unwrap() };
    let left = publish_status(&clusters, &live, moved(), &context).await.unwrap();
    assert!(left.is_some_and(|left| !left.is_zero() && left <= LONG), "{left:?}");
    context.told().clear();
    assert_eq!(publish_status(&clusters, &live, moved(), &context).await.unwrap(), None);
    assert_eq!((written(), &api.object(CLUSTER).unwrap()["status"]["epoch"]), (1, &json!(9)));
}
