//! Which ConfigMap pods are told to read, over changes of settings, upgrades and mishaps, against an API server in memory.

use serde_json::Value;

use super::*;
use crate::apply::tests::{SET, pass, sets_are_seen};
use crate::apply::upkeep::{marked, upkeep};
use crate::build::{pod, stateful_set};
use crate::fake_api::FakeApi;
use crate::nodes::Network;
use crate::observe::observe;
use crate::plan::{Blocked, Step};
use crate::valid::tests::valid;

const FOLDER: &str = "/api/v1/namespaces/shop/configmaps";
const FORMER: &str = "/api/v1/namespaces/shop/configmaps/cart-config";

/// The cluster with another setting, and so with another configuration.
fn tuned(hint_after_ms: i32) -> ValidCluster {
    let mut cluster = valid(3, &[]);
    cluster.settings.hint_after_ms = Some(hint_after_ms);
    cluster
}

fn path(cluster: &ValidCluster) -> String {
    format!("{FOLDER}/{}", config_map::name(cluster))
}

/// The ConfigMap that the set's template names.
fn named(api: &FakeApi) -> String {
    let set = api.object(SET).unwrap();
    let name = set.pointer("/spec/template/spec/volumes/0/configMap/name").unwrap();
    format!("{FOLDER}/{}", name.as_str().unwrap())
}

/// The controller rolls the set's template out to every pod.
fn roll_out(api: &FakeApi) {
    let revision = json!(named(api).rsplit('/').next().unwrap());
    api.edit(SET, |set| {
        set["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = json!(0);
        set["status"] = json!({ "currentRevision": revision, "updateRevision": revision, "replicas": 3 });
    });
    sets_are_seen(api);
    let set = api.object(SET).unwrap();
    let owner = json!([{ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "cart", "uid": set["metadata"]["uid"], "controller": true }]);
    for ordinal in 0..3 {
        let mut labels = set["spec"]["template"]["metadata"]["labels"].clone();
        labels["controller-revision-hash"] = revision.clone();
        let pod = json!({
            "metadata": { "name": format!("cart-{ordinal}"), "labels": labels, "ownerReferences": owner },
            "spec": set["spec"]["template"]["spec"],
        });
        api.put(&format!("/api/v1/namespaces/shop/pods/cart-{ordinal}"), pod);
    }
}

/// A cluster as an operator of an earlier version left it: one ConfigMap that may change.
async fn of_an_earlier_version(cluster: &ValidCluster) -> FakeApi {
    let api = FakeApi::default();
    pass(&api, cluster).await;
    api.remove(&path(cluster));
    api.put(FORMER, serde_json::to_value(marked(config_map::build_former(cluster))).unwrap());
    let mut set = stateful_set::build(cluster, &cluster.zones()[0], 3);
    pod::reading(&mut set.spec.as_mut().unwrap().template, "cart-config");
    let uid = api.object(SET).unwrap()["metadata"]["uid"].clone();
    api.edit(SET, |live| {
        *live = serde_json::to_value(marked(set)).unwrap();
        live["metadata"]["uid"] = uid;
    });
    roll_out(&api);
    api.writes();
    api
}

#[tokio::test]
async fn an_upgrade_restarts_no_pod_and_a_changed_setting_leaves_their_file_to_those_that_have_it() {
    let (first, next) = (valid(3, &[]), tuned(100));
    let api = of_an_earlier_version(&first).await;
    let (file, set) = (api.object(FORMER), api.object(SET));
    for _ in 0..2 {
        pass(&api, &first).await;
        assert_eq!(api.writes(), [""; 0]);
    }
    pass(&api, &next).await;
    assert_eq!(api.writes(), [format!("PATCH {}", path(&next)), format!("PATCH {SET}")]);
    assert_eq!((named(&api), api.object(FORMER)), (path(&next), file.clone()));
    sets_are_seen(&api);
    pass(&api, &first).await;
    let of = |object: &Option<Value>, at: &str| object.as_ref().unwrap().pointer(at).cloned();
    let back = api.object(SET);
    assert_eq!(of(&back, "/spec/template"), of(&set, "/spec/template"), "who has not been restarted yet stays as it is");
    assert_eq!(of(&api.object(FORMER), "/data"), of(&file, "/data"));
}

#[tokio::test]
async fn one_operators_rollout_that_the_next_version_takes_over_goes_to_its_end() {
    let (first, next) = (valid(3, &[]), tuned(100));
    let api = of_an_earlier_version(&first).await;
    // It died between the two writes.
    api.put(FORMER, serde_json::to_value(marked(config_map::build_former(&next))).unwrap());
    pass(&api, &next).await;
    assert_eq!(api.writes(), [format!("PATCH {SET}")]);
    assert_eq!(named(&api), FORMER);
    // And here somebody takes the setting back meanwhile: every pod is told to read the former file.
    let api = of_an_earlier_version(&first).await;
    api.put(FORMER, serde_json::to_value(marked(config_map::build_former(&next))).unwrap());
    pass(&api, &first).await;
    assert_eq!(api.writes(), [format!("PATCH {FORMER}")]);
    let node = api.object(FORMER).unwrap()["data"].clone();
    assert_eq!(node, json!(config_map::build(&first).data));
}

#[tokio::test]
async fn a_configuration_that_somebody_removed_is_made_again_and_restarts_no_pod() {
    let first = valid(3, &[]);
    let api = of_an_earlier_version(&first).await;
    api.remove(FORMER);
    pass(&api, &first).await;
    assert_eq!(api.writes(), [format!("PATCH {FORMER}")]);
    let api = FakeApi::default();
    pass(&api, &first).await;
    roll_out(&api);
    api.writes();
    api.remove(&path(&first));
    pass(&api, &first).await;
    assert_eq!(api.writes(), [format!("PATCH {}", path(&first))]);
}

/// A quota of ConfigMaps, say.
#[tokio::test]
async fn no_pod_is_restarted_for_a_configuration_that_is_not_there() {
    let (api, first) = (FakeApi::default(), valid(3, &[]));
    pass(&api, &first).await;
    roll_out(&api);
    api.writes();
    api.admit(|path, _| if path.contains("cart-config-") { Err("exceeded quota".to_owned()) } else { Ok(()) });
    let (client, mut next) = (api.client(), tuned(100));
    next.image = "next".into();
    let (observed, live) = observe(&client, &Network, &next).await.unwrap();
    let done = upkeep(&client, &next, &observed, &live).await;
    assert!(matches!(&done.failures[..], [failure] if failure.to_string().contains("exceeded quota")), "{:?}", done.failures);
    assert_eq!((api.writes(), done.waiting), (vec![], vec!["default".to_owned()]));
    api.admit(|_, _| Ok(()));
    pass(&api, &next).await;
    assert_eq!(api.writes(), [format!("PATCH {}", path(&next)), format!("PATCH {SET}")]);
}

#[tokio::test]
async fn of_the_configurations_that_nobody_reads_one_is_kept_and_the_others_go() {
    let api = FakeApi::default();
    let [a, b, c] = [valid(3, &[]), tuned(100), tuned(200)];
    let there = || [&a, &b, &c].map(|cluster| api.object(&path(cluster)).is_some());
    for cluster in [&a, &b] {
        pass(&api, cluster).await;
        roll_out(&api);
        pass(&api, cluster).await;
    }
    // The last one before the present one is not the one that was made last.
    pass(&api, &a).await;
    roll_out(&api);
    api.writes();
    pass(&api, &c).await;
    let marked_first = [format!("PATCH {}", path(&c)), format!("PATCH {SET}"), format!("PATCH {}", path(&b))];
    assert_eq!(api.writes(), marked_first);
    for _ in 0..2 {
        pass(&api, &c).await;
        assert_eq!((there(), api.writes()), ([true; 3], vec![]), "the rollout has not ended");
    }
    roll_out(&api);
    api.edit("/api/v1/namespaces/shop/pods/cart-0", |pod| {
        pod["spec"]["volumes"][0]["configMap"]["name"] = json!(config_map::name(&b));
        pod["metadata"]["ownerReferences"] = json!([]);
    });
    pass(&api, &c).await;
    assert_eq!(api.writes(), [""; 0], "a pod that no set owns reads it, and the set lacks one");
    roll_out(&api);
    pass(&api, &c).await;
    assert_eq!((there(), api.writes()), ([true, false, true], vec![format!("DELETE {}", path(&b))]));
    pass(&api, &c).await;
    assert_eq!(api.writes(), [""; 0]);
}

/// Of an operator that stood still before it deleted a configuration that is asked for again meanwhile.
#[tokio::test]
async fn a_configuration_that_is_asked_for_again_is_not_deleted_on_an_old_look() {
    let (api, client) = (FakeApi::default(), FakeApi::client);
    let [a, b, c] = [valid(3, &[]), tuned(100), tuned(200)];
    for cluster in [&a, &b] {
        pass(&api, cluster).await;
        roll_out(&api);
    }
    let (before, _) = observe(&client(&api), &Network, &c).await.unwrap();
    assert_eq!(configuration::unused(&c, &before).len(), 1);
    pass(&api, &c).await;
    roll_out(&api);
    let (marked, _) = observe(&client(&api), &Network, &c).await.unwrap();
    assert!(marked.configurations[&config_map::name(&a)].released);
    pass(&api, &a).await;
    let held = api.object(&path(&a)).unwrap();
    for late in [marked, before] {
        let mut done = Upkeep::default();
        delete_unused(&client(&api), &c, &late, &mut done).await;
        assert_eq!((done.written.len(), done.complaints.len()), (0, 0));
        assert_eq!(api.object(&path(&a)).as_ref(), Some(&held));
    }
    assert_eq!(named(&api), path(&a));
}

/// As where an administrator grants the rights, and has not heard of this one.
#[tokio::test]
async fn a_configuration_that_cannot_be_deleted_is_told_and_holds_up_nothing() {
    let api = FakeApi::default();
    let [a, b, c] = [valid(3, &[]), tuned(100), tuned(200)];
    for cluster in [&a, &b, &c] {
        pass(&api, cluster).await;
        roll_out(&api);
    }
    api.refuse(&format!("DELETE {}", path(&a)), dynamo_api_server::Refusal::Invalid("forbidden".to_owned()));
    let client = api.client();
    let (observed, live) = observe(&client, &Network, &c).await.unwrap();
    let done = upkeep(&client, &c, &observed, &live).await;
    let told = format!("ConfigMap {}: delete, since nobody reads it any more", config_map::name(&a));
    assert!(matches!(&done.complaints[..], [complaint] if complaint.starts_with(&told)), "{:?}", done.complaints);
    assert_eq!(done.failures.len(), 0);
}

#[tokio::test]
async fn a_config_map_of_somebody_else_counts_where_pods_are_to_read_it_and_nowhere_else() {
    let (api, first) = (FakeApi::default(), valid(3, &[]));
    let theirs = json!({ "metadata": { "name": "cart-config" }, "data": { "theme": "dark" } });
    api.put(FORMER, theirs);
    let held = api.object(FORMER);
    assert!(matches!(pass(&api, &first).await, Step::RaisePods(_)));
    assert_eq!(api.object(FORMER), held);
    let api = FakeApi::default();
    api.put(&path(&first), json!({ "metadata": { "name": config_map::name(&first) } }));
    let taken = format!("ConfigMap {}", config_map::name(&first));
    assert!(matches!(pass(&api, &first).await, Step::Blocked(Blocked::NamesTaken(names)) if names == [taken]));
    let api = of_an_earlier_version(&first).await;
    api.edit(FORMER, |config_map| drop(config_map["metadata"].as_object_mut().unwrap().remove("ownerReferences")));
    let (observed, _) = observe(&api.client(), &Network, &first).await.unwrap();
    assert_eq!((&observed.taken[..], &observed.ownerless), (&["ConfigMap cart-config".to_owned()][..], &observed.taken));
}
