//! What a write may expect of the object, and what comes of it.

use super::*;

const FOLDER: &str = "/apis/apps/v1/namespaces/shop/statefulsets";
const PATH: &str = "/apis/apps/v1/namespaces/shop/statefulsets/cart";

/// A server with one object, and its first version.
fn server() -> (ApiServer, String) {
    let mut api = ApiServer::default();
    let made = api.create(FOLDER, json!({ "metadata": { "name": "cart" }, "spec": { "replicas": 3 } })).unwrap();
    (api, text(&made, "/metadata/resourceVersion").to_owned())
}

#[test]
fn what_is_there_is_not_made_again() {
    let (mut api, _) = server();
    assert_eq!(api.create(FOLDER, json!({ "metadata": { "name": "cart" } })), Err(Refusal::AlreadyExists));
}

#[test]
fn a_write_that_carries_an_old_version_is_refused_and_one_without_is_taken() {
    let writes: [fn(&mut ApiServer, &Value) -> Result<Arc<Value>, Refusal>; 4] = [
        |api, metadata| api.replace(PATH, json!({ "metadata": metadata, "spec": { "replicas": 4 } })),
        |api, metadata| api.merge(PATH, json!({ "metadata": metadata, "spec": { "replicas": 4 } })),
        |api, metadata| api.apply(PATH, "me", json!({ "metadata": metadata, "spec": { "replicas": 4 } })),
        |api, metadata| {
            let version = metadata
                .get("resourceVersion")
                .map(|version| json!({ "op": "replace", "path": "/metadata/resourceVersion", "value": version }));
            let change = json!({ "op": "add", "path": "/spec/replicas", "value": 4 });
            api.patch(PATH, &version.into_iter().chain([change]).collect())
        },
    ];
    for (number, write) in writes.into_iter().enumerate() {
        let (mut api, first) = server();
        api.edit(PATH, |object| object["spec"]["replicas"] = json!(5));
        let old = json!({ "name": "cart", "resourceVersion": first });
        assert_eq!(write(&mut api, &old), Err(Refusal::Conflict), "write {number}");
        assert_eq!(number_at(&api), 5, "write {number}");
        write(&mut api, &json!({ "name": "cart" })).unwrap();
        assert_eq!(number_at(&api), 4, "write {number}");
    }
}

fn number_at(api: &ApiServer) -> u32 {
    number(api.get(PATH).unwrap(), "/spec/replicas")
}

#[test]
fn an_apply_makes_what_is_not_there_unless_it_names_the_very_object() {
    let mut api = ApiServer::default();
    let named = json!({ "metadata": { "name": "cart", "uid": "gone" } });
    assert_eq!(api.apply(PATH, "me", named), Err(Refusal::Conflict));
    api.apply(PATH, "me", json!({ "metadata": { "name": "cart", "resourceVersion": "7" } })).unwrap();
    assert!(api.get(PATH).is_some());
}

#[test]
fn an_apply_takes_back_what_the_same_manager_leaves_out_now_and_nothing_else() {
    let (mut api, _) = server();
    api.apply(PATH, "me", json!({ "spec": { "a": 1, "b": 1 } })).unwrap();
    api.apply(PATH, "me", json!({ "spec": { "a": 1 } })).unwrap();
    assert_eq!(api.get(PATH).unwrap()["spec"], json!({ "replicas": 3, "a": 1 }));
}

#[test]
fn a_json_patch_that_does_not_fit_changes_nothing() {
    let (mut api, _) = server();
    let fits = [
        json!({ "op": "test", "path": "/metadata/finalizers", "value": null }),
        json!({ "op": "add", "path": "/metadata/finalizers", "value": ["a"] }),
        json!({ "op": "add", "path": "/metadata/finalizers/-", "value": "b" }),
        json!({ "op": "remove", "path": "/metadata/finalizers/0" }),
        json!({ "op": "add", "path": "/metadata/annotations", "value": {} }),
        json!({ "op": "add", "path": "/metadata/annotations/example.org~1a", "value": "1" }),
    ];
    api.patch(PATH, &fits.into_iter().collect()).unwrap();
    let held = api.get(PATH).unwrap().clone();
    assert_eq!(held["metadata"]["finalizers"], json!(["b"]));
    assert_eq!(held["metadata"]["annotations"]["example.org/a"], "1");
    for misfit in [
        json!({ "op": "test", "path": "/spec/replicas", "value": 4 }),
        json!({ "op": "replace", "path": "/spec/none", "value": 4 }),
        json!({ "op": "remove", "path": "/spec/none" }),
        json!({ "op": "add", "path": "/none/replicas", "value": 4 }),
    ] {
        assert!(matches!(api.patch(PATH, &json!([misfit])), Err(Refusal::Invalid(_))), "{misfit}");
    }
    assert_eq!(api.get(PATH), Some(&held));
}

#[test]
fn when_the_last_finalizer_goes_there_are_none() {
    let (mut api, _) = server();
    api.patch(PATH, &json!([{ "op": "add", "path": "/metadata/finalizers", "value": ["a"] }])).unwrap();
    api.patch(PATH, &json!([{ "op": "remove", "path": "/metadata/finalizers/0" }])).unwrap();
    api.patch(PATH, &json!([{ "op": "test", "path": "/metadata/finalizers", "value": null }])).unwrap();
}

#[test]
fn what_is_immutable_keeps_its_data_and_gets_other_notes() {
    const PATH: &str = "/api/v1/namespaces/shop/configmaps/cart";
    let mut api = ApiServer::default();
    let made = json!({ "metadata": { "name": "cart" }, "data": { "a": "1" }, "immutable": true });
    api.create("/api/v1/namespaces/shop/configmaps", made).unwrap();
    for change in [json!({ "data": { "a": "2" } }), json!({ "immutable": null })] {
        assert!(matches!(api.merge(PATH, change), Err(Refusal::Invalid(_))));
    }
    api.merge(PATH, json!({ "metadata": { "annotations": { "note": "now" } } })).unwrap();
    assert_eq!(api.get(PATH).unwrap()["data"]["a"], "1");
}
