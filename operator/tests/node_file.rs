//! What the API server accepts, the nodes accept too: the file of every such cluster is read by the nodes' own reader.

#![allow(clippy::unwrap_used)]

use dynamo_operator::api::{self, DynamoCluster};
use dynamo_operator::build::config_map;
use dynamo_operator::valid::ValidCluster;
use kube_cel::{CompiledSchema, Validator, compile_schema};
use node::config::{Flags, ValidConfig};
use serde_json::{Value, json};

/// The reader as the node has it, without the rest of the node, which brings RocksDB.
#[path = "../../node/src"]
#[allow(dead_code, unreachable_pub)]
mod node {
    pub mod config;
}

/// The file of a cluster with this spec, or why the API server refuses it.
fn file(schema: &CompiledSchema, spec: &Value) -> Result<String, String> {
    let mut cluster = json!({
        "apiVersion": "dynamokv.io/v1alpha1", "kind": "DynamoCluster",
        "metadata": { "name": "cart", "namespace": "shop" },
        "spec": { "image": "localhost/dynamo-node:dev", "settings": {}, "buckets": [] }
    });
    for (field, value) in spec.as_object().unwrap() {
        cluster["spec"][field] = value.clone();
    }
    // As the API server has it, every default filled in.
    let mut cluster: DynamoCluster = serde_json::from_value(cluster).unwrap();
    let object = serde_json::to_value(&cluster).unwrap();
    Validator::new().validate_compiled(schema, &object, None).map_err(|errors| errors.to_string())?;
    cluster.metadata.uid = Some("6f9619ff-8b86-d011-b42d-00c04fc964ff".into());
    let valid = ValidCluster::of(&cluster).unwrap_or_else(|error| panic!("{spec} is accepted and cannot be built: {error}"));
    Ok(config_map::build(&valid).data.unwrap()[config_map::FILE].clone())
}

/// Each value that matters of a field with this schema; `None`: it is absent.
fn values(schema: &Value) -> Vec<Option<Value>> {
    let mut values = vec![None];
    let (min, max) = (schema["minimum"].as_f64(), schema["maximum"].as_f64());
    if let (Some(min), Some(max)) = (min, max) {
        // Around what the nodes have by default, and at the bounds of their own.
        let known = [0, 1, 10, 499, 500, 501, 999, 1_000, 4_999, 5_000, 5_001, 1 << 28];
        let within = known.into_iter().filter(|value| (min..=max).contains(&(*value as f64)));
        values.extend(within.chain([min as i64, max as i64]).map(|value| Some(value.into())));
    } else {
        values.extend(schema["enum"].as_array().unwrap().iter().filter(|value| !value.is_null()).cloned().map(Some));
    }
    values
}

/// Asserts that the nodes take every cluster of `specs` that the API server takes, and that those are some.
fn assert_taken(specs: impl Iterator<Item = Value>) {
    let crd = serde_json::to_value(api::crd()).unwrap();
    let schema = compile_schema(&crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(config_map::FILE);
    let (mut taken, mut refused) = (0, 0);
    for spec in specs {
        let Ok(file) = file(&schema, &spec) else {
            refused += 1;
            continue;
        };
        std::fs::write(&path, &file).unwrap();
        let flags = Flags { config: Some(path.clone()), advertise_host: Some("10.0.0.3".into()), ..Flags::default() };
        if let Err(error) = ValidConfig::load(flags) {
            panic!("{spec} is accepted and no node starts with it: {error}\n{file}");
        }
        taken += 1;
    }
    assert!(taken > refused / 4 && taken > 100, "{taken} of {}", taken + refused);
}

#[test]
fn every_setting_that_the_api_server_accepts_lets_nodes_start() {
    let crd = serde_json::to_value(api::crd()).unwrap();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["settings"];
    let fields: Vec<(String, Vec<Option<Value>>)> =
        schema["properties"].as_object().unwrap().iter().map(|(name, field)| (name.clone(), values(field))).collect();
    // Each value of one beside each of another, since rules may tie two.
    let pairs = fields.iter().enumerate().flat_map(|(index, one)| fields[index + 1..].iter().map(move |other| (one, other)));
    assert_taken(pairs.flat_map(|((one, values), (other, others))| {
        let settings = values.iter().flat_map(move |value| others.iter().map(move |other_value| (value, other_value)));
        settings.map(move |(value, other_value)| {
            let set =
                [(one, value), (other, other_value)].into_iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
            json!({ "settings": set.collect::<serde_json::Map<_, _>>() })
        })
    }));
}

#[test]
fn every_bucket_that_the_api_server_accepts_lets_nodes_start() {
    let counts = [None, Some(0), Some(1), Some(2), Some(3)];
    let names = ["cart", "null", "1e3", "- \"a\": #", "\u{1f6d2}\n"];
    let quorums = (0..5_usize.pow(6)).filter(|index| index % 7 == 0).map(move |index| {
        let digit = |place: u32| counts[index / 5_usize.pow(place) % 5];
        // A factor, R or W of none is refused by the schema.
        let some = |place: u32| digit(place).filter(|count| *count > 0);
        let (factor, r, w, dw, pr, pw) = (some(0), some(1), some(2), digit(3), digit(4), digit(5));
        let bucket =
            json!({ "name": names[index % names.len()], "factor": factor, "r": r, "w": w, "dw": dw, "pr": pr, "pw": pw });
        let given = bucket.as_object().unwrap().iter().filter(|(_, value)| !value.is_null());
        json!({ "buckets": [given.map(|(name, value)| (name.clone(), value.clone())).collect::<serde_json::Map<_, _>>()] })
    });
    assert_taken(quorums);
}
