//! The CRD is current, and its CEL rules refuse what they say, with a message that names the field and the fix.

use kube_cel::Validator;
use serde_json::{Value, json};

use super::DynamoCluster;
use crate::valid::ValidCluster;

/// The cluster of the minimal example, changed by merging `changes` into it.
fn cluster(changes: Value) -> Value {
    let mut cluster = json!({
        "apiVersion": "dynamokv.io/v1alpha1", "kind": "DynamoCluster", "metadata": { "name": "cart" },
        "spec": { "image": "localhost/dynamo-node:dev" }
    });
    merge(&mut cluster, changes);
    cluster
}

fn merge(into: &mut Value, changes: Value) {
    match (into, changes) {
        (Value::Object(into), Value::Object(changes)) => {
            for (key, change) in changes {
                merge(into.entry(key).or_insert(Value::Null), change);
            }
        }
        (into, change) => *into = change,
    }
}

/// What the API server would say: "" if it accepts. Its rules take a field that is null for one that is absent; this validator does not.
fn verdict(object: &Value, old: Option<&Value>) -> String {
    let crd = serde_json::to_value(super::crd()).unwrap();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let (object, old) = (without_nulls(object), old.map(without_nulls));
    match Validator::new().validate(schema, &object, old.as_ref()) {
        Ok(()) => String::new(),
        Err(errors) => errors.to_string(),
    }
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(_, value)| !value.is_null());
            fields.map(|(key, value)| (key.clone(), without_nulls(value))).collect()
        }
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

#[test]
fn the_crd_in_the_repository_is_the_generated_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/dynamocluster.yaml");
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(kept == super::crd_yaml().unwrap(), "run: make crds");
    assert!(kept.contains("name: 'N'"), "kubectl would read a plain N as false");
}

#[test]
fn a_cluster_that_nobody_has_looked_at_yet_is_not_taken_for_complete() {
    let crd = serde_json::to_value(super::crd()).unwrap();
    let status = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"];
    assert_eq!(status["default"], json!({ "observedGeneration": -1 }));
    let fresh = json!({ "spec": { "image": "x" }, "status": status["default"] });
    let mut fresh = cluster(fresh);
    fresh["metadata"]["uid"] = "6f9619ff-8b86-d011-b42d-00c04fc964ff".into();
    let fresh: DynamoCluster = serde_json::from_value(fresh).unwrap();
    assert_eq!(fresh.status.as_ref().unwrap().observed_generation, Some(-1));
    assert_eq!(fresh.status.unwrap().conditions, []);
}

#[test]
fn the_examples_are_accepted_and_can_be_built() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/examples");
    let mut seen = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        for document in text.split("\n---\n") {
            let object: Value = serde_yaml::from_str(document).unwrap();
            if object["kind"] != "DynamoCluster" {
                continue;
            }
            assert_eq!(verdict(&object, None), "");
            let mut cluster: DynamoCluster = serde_json::from_value(object).unwrap();
            cluster.metadata.uid = Some("6f9619ff-8b86-d011-b42d-00c04fc964ff".into());
            ValidCluster::of(&cluster).unwrap();
            seen += 1;
        }
    }
    assert_eq!(seen, 3);
}

#[test]
fn a_spec_at_the_edge_of_what_can_work_is_accepted() {
    assert_eq!(verdict(&cluster(json!({})), None), "");
    assert_eq!(verdict(&cluster(json!({ "spec": { "storage": { "size": "64Mi" } } })), None), "", "the least");
    let rare = json!({ "diskReserveBytes": 5_i64 << 30, "reapIntervalMs": 0 });
    assert_eq!(verdict(&cluster(json!({ "spec": { "settings": rare } })), None), "", "half of the default size, and no reaping");
    let pod = json!({
        "labels": { "team": "shop", "app.kubernetes.io/part-of": "shop", "A-b_c.9": "" },
        "annotations": { "example.org/note": "any text" }, "nodeSelector": { longest_key(): "a", "b-2.example/Name": "c" },
        "tolerations": [
            { "operator": "Exists" }, { "key": "a", "value": "b", "effect": "NoExecute", "tolerationSeconds": 5 },
            { "key": "", "operator": "Exists" }, { "key": longest_key(), "operator": "Exists" },
        ]
    });
    let zones = json!([{ "name": "a", "nodeSelector": { "topology.kubernetes.io/zone": "eu-west-1a" } }]);
    assert_eq!(verdict(&cluster(json!({ "spec": { "pod": pod, "zones": zones } })), None), "");
    let even = json!({
        "requests": { "cpu": "1", "memory": "512Mi", "ephemeral-storage": 1, "hugepages-2Mi": "2Mi", "example.org/gpu": 1 },
        "limits": { "cpu": 1, "memory": "0.5Gi", "ephemeral-storage": 1, "hugepages-2Mi": "2Mi", "example.org/gpu": 1 }
    });
    assert_eq!(verdict(&cluster(json!({ "spec": { "resources": even } })), None), "", "as much as the limit");
    let layered = json!([{ "name": "a", "factor": 1 }, { "name": "b", "factor": 1 }, { "name": "c", "factor": 3 }]);
    assert_eq!(verdict(&cluster(json!({ "spec": { "partitions": 32768, "buckets": layered } })), None), "", "two layers");
}

#[test]
fn a_spec_that_cannot_work_is_refused_with_a_message_that_names_the_field_and_the_fix() {
    let cases = [
        (json!({ "spec": { "replicas": 2 } }), "spec.replicas: must be at least spec.replication.factor"),
        (json!({ "spec": { "replication": { "factor": 3, "r": 4, "w": 2 } } }), "spec.replication.r: must be at most"),
        (json!({ "spec": { "replication": { "factor": 3, "r": 2, "w": 4 } } }), "spec.replication.w: must be at most"),
        (json!({ "spec": { "partitions": 1000 } }), "spec.partitions: must be a power of two"),
        (
            json!({ "spec": { "partitions": 65536, "replicas": 5, "replication": { "factor": 5, "r": 2, "w": 2 } } }),
            "choose fewer partitions",
        ),
        (json!({ "spec": { "storage": { "size": "0" } } }), "spec.storage.size: is not a size"),
        (json!({ "spec": { "storage": { "size": "1" } } }), "spec.storage.size: must be at least 64Mi"),
        (json!({ "spec": { "storage": { "size": "67108863" } } }), "spec.storage.size: must be at least 64Mi"),
        (json!({ "spec": { "resources": { "limits": { "memory": "much" } } } }), "spec.resources.limits: an amount is not"),
        (json!({ "spec": { "resources": { "requests": { "cpu": "1 core" } } } }), "spec.resources.requests: an amount is not"),
        (json!({ "spec": { "resources": { "requests": { "cpu": -1 } } } }), "spec.resources.requests: an amount is not"),
        (json!({ "spec": { "resources": { "limits": { "memory": "-1Gi" } } } }), "spec.resources.limits: an amount is not"),
        (
            json!({ "spec": { "resources": { "requests": { "cpu": 2, "memory": "1Gi" }, "limits": { "cpu": "1500m" } } } }),
            "spec.resources.requests: must be at most spec.resources.limits",
        ),
        (json!({ "spec": { "resources": { "requests": { "cpus": 1 } } } }), "spec.resources.requests: a name is no resource"),
        (json!({ "spec": { "resources": { "limits": { "Memory": "1Gi" } } } }), "spec.resources.limits: a name is no resource"),
        (json!({ "spec": { "resources": { "limits": { "": 1 } } } }), "spec.resources.limits: a name is no resource"),
        (
            json!({ "spec": { "partitions": 32768, "buckets": [{ "name": "a", "factor": 1 }, { "name": "b", "factor": 2 }] } }),
            "spec.buckets[].factor: each factor",
        ),
        (json!({ "spec": { "buckets": [{ "name": "é".repeat(128) }] } }), "spec.buckets[].name: at most 255 bytes"),
        (json!({ "spec": { "buckets": [{ "name": "a", "r": 4 }] } }), "spec.buckets[].r and .w: must be at most"),
        (json!({ "spec": { "buckets": [{ "name": "a", "w": 1, "dw": 2 }] } }), "spec.buckets[].dw: must be at most"),
        (json!({ "spec": { "buckets": [{ "name": "a", "pr": 3 }] } }), "spec.buckets[].pr and .pw: must be at most"),
        (
            json!({ "spec": { "settings": { "diskReserveBytes": 6_000_000_000_i64 } } }),
            "spec.settings.diskReserveBytes: must be at most",
        ),
        (json!({ "spec": { "settings": { "reapIntervalMs": 999 } } }), "spec.settings.reapIntervalMs: must be at least 1000"),
        (json!({ "spec": { "settings": { "requestTimeoutMs": 500 } } }), "spec.settings.hintAfterMs: must be below"),
        (json!({ "spec": { "settings": { "hintAfterMs": 5000 } } }), "spec.settings.hintAfterMs: must be below"),
        (json!({ "spec": { "settings": { "hintAfterMs": 80, "requestTimeoutMs": 80 } } }), "spec.settings.hintAfterMs: must"),
        (json!({ "spec": { "buckets": [{ "name": "a", "factor": 4 }] } }), "spec.buckets[].factor: must be at most"),
        (json!({ "spec": { "buckets": [{ "name": "a", "factor": 2, "r": 3 }] } }), "spec.buckets[].r and .w: must be at most"),
        (json!({ "spec": { "buckets": [{ "name": "a", "factor": 1, "dw": 2 }] } }), "spec.buckets[].dw: must be at most"),
        (json!({ "spec": { "buckets": [{ "name": "a", "factor": 1, "pw": 2 }] } }), "spec.buckets[].pr and .pw: must be at most"),
        (json!({ "spec": { "pod": { "labels": { "app.kubernetes.io/name": "x" } } } }), "spec.pod.labels: dynamokv.io/*"),
        (json!({ "spec": { "pod": { "labels": { "dynamokv.io/zone": "x" } } } }), "spec.pod.labels: dynamokv.io/*"),
        (
            json!({ "spec": { "pod": { "annotations": { "dynamokv.io/config-hash": "x" } } } }),
            "spec.pod.annotations: dynamokv.io/*",
        ),
        (
            json!({ "spec": { "pod": { "tolerations": [{ "key": "a", "operator": "Has" }] } } }),
            "spec.pod.tolerations: operator is",
        ),
        (
            json!({ "spec": { "pod": { "tolerations": [{ "key": "a", "effect": "Never" }] } } }),
            "spec.pod.tolerations: operator is",
        ),
        (json!({ "spec": { "pod": { "tolerations": [{ "value": "a" }] } } }), "without it there is a key"),
        (json!({ "spec": { "pod": { "tolerations": [{ "operator": "Exists", "value": "a" }] } } }), "there is no value"),
        (json!({ "spec": { "pod": { "tolerations": [{ "key": "a", "tolerationSeconds": 5 }] } } }), "NoExecute only"),
        (json!({ "metadata": { "name": "a".repeat(41) } }), "metadata.name: at most 40 characters"),
        (json!({ "metadata": { "name": "9lives" } }), "starts with a letter"),
        (
            json!({ "metadata": { "name": "a".repeat(40) }, "spec": { "zones": [{ "name": "b".repeat(12) }] } }),
            "together at most 51 characters",
        ),
    ];
    for (changes, message) in cases {
        let verdict = verdict(&cluster(changes.clone()), None);
        assert!(verdict.contains(message), "{changes}: {verdict}");
    }
}

/// The longest key that Kubernetes takes.
fn longest_key() -> String {
    format!("{}/{}", "d".repeat(253), "n".repeat(63))
}

/// Else the operator alone would refuse them, and do nothing for the cluster from then on, not even what has nothing to do with them.
#[test]
fn a_key_is_refused_by_the_definition_where_the_operator_refuses_it() {
    let longer = [format!("d{}", longest_key()), format!("{}n", longest_key()), "n".repeat(64), format!("{}/n", "d".repeat(254))];
    let of_kubernetes = ["a", "A", "0", "a/b", "a.b-c.0/D_e.f-9", "x--y", "x..y"].map(str::to_owned).into_iter();
    let keys: Vec<String> = of_kubernetes.chain([longest_key(), "n".repeat(63)]).collect();
    let others =
        ["", "two words", "a/b/c", "Domain/name", "/a", "a/", "-a", "a-", ".a", "a.", "a..b/c", "a./b", ".a/b", "-a/b", "a-/b"];
    let others = others.into_iter().map(str::to_owned).chain(["é".to_owned(), "a\n".to_owned()]).chain(longer);
    let cases = keys.iter().map(|key| (key.clone(), true)).chain(others.map(|key| (key, false)));
    for (key, is_key) in cases {
        let fields = [
            ("spec.pod.labels", json!({ "pod": { "labels": { &key: "a" } } })),
            ("spec.pod.annotations", json!({ "pod": { "annotations": { &key: "a" } } })),
            ("spec.pod.nodeSelector", json!({ "pod": { "nodeSelector": { &key: "a" } } })),
            ("spec.zones[].nodeSelector", json!({ "zones": [{ "name": "a", "nodeSelector": { &key: "a" } }] })),
            // Without a key it is one that tolerates everything.
            (
                "spec.pod.tolerations",
                json!({ "pod": { "tolerations": [{ "key": if key.is_empty() { "a b" } else { &key }, "operator": "Exists" }] } }),
            ),
        ];
        for (field, spec) in fields {
            let mut object = cluster(json!({ "spec": spec }));
            let told = verdict(&object, None);
            let is_refused = told.contains(&format!("{field}: a key is none of "));
            assert_eq!((is_refused, told.is_empty()), (!is_key, is_key), "{field} {key:?}: {told}");
            object["metadata"]["uid"] = "6f9619ff-8b86-d011-b42d-00c04fc964ff".into();
            let by_operator = ValidCluster::of(&serde_json::from_value(object).unwrap());
            let refused = by_operator.err().map(|error| error.field);
            assert_eq!(refused, (!is_key).then_some(field), "{key:?}");
        }
    }
}

#[test]
fn what_is_fixed_for_a_clusters_life_cannot_be_changed() {
    let zones = |names: &[&str]| json!(names.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>());
    let buckets = |buckets: Value| json!({ "spec": { "buckets": buckets } });
    let mut old = cluster(json!({ "spec": { "zones": zones(&["a", "b"]), "storage": { "size": "10Gi" } } }));
    merge(&mut old, buckets(json!([{ "name": "cart", "factor": 2 }, { "name": "log" }])));
    let changed = |changes| {
        let mut new = old.clone();
        merge(&mut new, changes);
        verdict(&new, Some(&old))
    };
    let adopted = json!({ "spec": { "adoptCluster": "6f9619ff-8b86-d011-b42d-00c04fc964ff" } });
    let mut adopting = old.clone();
    merge(&mut adopting, adopted.clone());
    assert_eq!(verdict(&adopting, None), "");
    assert_eq!(verdict(&adopting, Some(&adopting)), "");
    assert!(verdict(&old, Some(&adopting)).contains("spec.adoptCluster: can only be given when"), "it stays");
    assert_eq!(changed(json!({ "spec": { "replicas": 5, "storage": { "size": "0.5Ti" }, "image": "other" } })), "");
    assert_eq!(changed(json!({ "spec": { "storage": { "size": "5Gi" } } })), "", "a size that was a mistake can be set back");
    assert_eq!(changed(buckets(json!([{ "name": "new", "w": 1 }, { "name": "cart", "factor": 2, "w": 1 }]))), "");
    let cases = [
        (json!({ "spec": { "partitions": 2048 } }), "spec.partitions: is fixed"),
        (adopted, "spec.adoptCluster: can only be given when"),
        (json!({ "spec": { "replication": { "factor": 2 } } }), "spec.replication.factor: cannot change"),
        (buckets(json!([{ "name": "cart", "factor": 1 }])), "spec.buckets[].factor: can only be given when"),
        (buckets(json!([{ "name": "cart", "factor": 2 }, { "name": "log", "factor": 2 }])), "spec.buckets[].factor: can only"),
        (buckets(json!([{ "name": "cart", "factor": 2 }, { "name": "new", "factor": 2 }])), "spec.buckets[].factor: can only"),
        (buckets(json!([{ "name": "cart" }])), "spec.buckets[].factor: is fixed"),
        (buckets(json!([])), "spec.buckets[].factor: is fixed"),
        (json!({ "spec": { "zones": zones(&["a", "c"]) } }), "spec.zones: zones cannot be added"),
        (json!({ "spec": { "zones": zones(&["a"]) } }), "spec.zones: zones cannot be added"),
        (json!({ "spec": { "storage": { "storageClassName": "fast" } } }), "spec.storage.storageClassName: cannot change"),
        (json!({ "spec": { "storage": { "storageClassName": "" } } }), "spec.storage.storageClassName: cannot change"),
    ];
    for (changes, message) in cases {
        let verdict = changed(changes.clone());
        assert!(verdict.contains(message), "{changes}: {verdict}");
    }
    let mut classless = old.clone();
    merge(&mut classless, json!({ "spec": { "storage": { "storageClassName": "" } } }));
    assert_eq!(verdict(&classless, Some(&classless)), "");
    assert!(verdict(&old, Some(&classless)).contains("spec.storage.storageClassName: cannot change"), "the other way round");
    let mut unsaid = old.clone();
    unsaid["spec"]["storage"]["storageClassName"] = Value::Null;
    assert_eq!((verdict(&unsaid, Some(&old)), verdict(&old, Some(&unsaid))), (String::new(), String::new()), "both are none");
    assert!(verdict(&classless, Some(&unsaid)).contains("spec.storage.storageClassName: cannot change"));
    let read = |object: &Value| serde_json::from_value::<DynamoCluster>(object.clone()).unwrap().spec;
    assert_eq!(read(&unsaid), read(&old));
}
