//! What the policy of the operator's chart refuses to everybody else, by its own expressions.
#![allow(clippy::unwrap_used)]

use dynamo_operator::api::DynamoCluster;
use dynamo_operator::build::stateful_set;
use dynamo_operator::valid::ValidCluster;
use kube_cel::{VapEvaluator, VapExpression};
use serde_json::{Value, json};

const POLICY: &str = include_str!("../../charts/dynamo-operator/templates/admissionpolicy.yaml");

/// The validations; what Helm puts into the policy is not in them. The evaluator has no types, so it knows no `dyn` either.
fn validations() -> Vec<VapExpression> {
    let lines: Vec<&str> = POLICY.lines().filter(|line| !line.contains("{{")).collect();
    let policy = lines.split(|line| *line == "---").next().unwrap().join("\n");
    let policy: Value = serde_yaml::from_str(&policy).unwrap();
    let validations = policy["spec"]["validations"].as_array().unwrap().clone();
    let expression = |validation: Value| VapExpression {
        expression: validation["expression"].as_str().unwrap().replace("dyn(", "("),
        message: None,
        message_expression: None,
    };
    validations.into_iter().map(expression).collect()
}

fn set() -> Value {
    let cluster: DynamoCluster = serde_json::from_value(json!({
        "apiVersion": "dynamokv.io/v1alpha1", "kind": "DynamoCluster",
        "metadata": { "name": "cart", "namespace": "shop", "uid": "6f9619ff-8b86-d011-b42d-00c04fc964ff" },
        "spec": { "image": "localhost/dynamo-node:dev" },
    }))
    .unwrap();
    let cluster = ValidCluster::of(&cluster).unwrap();
    serde_json::to_value(stateful_set::build(&cluster, &cluster.zones()[0], 3)).unwrap()
}

#[test]
fn a_set_is_scaled_changed_and_rolled_out_by_nobody_but_operators() {
    let cases = [
        ("/spec/replicas", json!(2), true),
        ("/spec/template/spec/containers/0/image", json!("another"), true),
        ("/spec/updateStrategy/rollingUpdate/partition", json!(1), true),
        ("/spec/updateStrategy/type", json!("OnDelete"), true),
        ("/spec/ordinals", json!({ "start": 1 }), true),
        ("/spec/ordinals", json!({ "start": 0 }), false),
        ("/spec/minReadySeconds", json!(3600), true),
        ("/spec/revisionHistoryLimit", json!(5), false),
        ("/metadata/labels", json!({ "team": "shop" }), false),
    ];
    for (field, value, refused) in cases {
        let (before, mut after) = (set(), set());
        let (parent, key) = field.rsplit_once('/').unwrap();
        after.pointer_mut(parent).unwrap()[key] = value;
        let asked = VapEvaluator::builder().object(after).old_object(before).request(Default::default()).build();
        let answers = asked.evaluate(&validations());
        assert_eq!(answers.len(), 3);
        assert_eq!(answers.iter().any(|answer| !answer.passed), refused, "{field}: {answers:?}");
    }
}
