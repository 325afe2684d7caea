//! `spec.pod`: where Kubernetes runs the nodes' pods, and what others read on them.
//!
//! Affinity and tolerations are Kubernetes' own types, whose fields are described there; their descriptions would make up most of
//! the CRD, and are left out.
//!
//! A key is NAME or DOMAIN/NAME. A schema says nothing of keys, so rules do; what they may cost is reckoned with keys of no length, and with
//! as many as `maxProperties` allows. A toleration's key is a value, and has a `maxLength` for that.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, Toleration};
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The rule that a text is a key, as [`crate::valid`] has it.
macro_rules! is_key {
    ($key:literal) => {
        concat!(
            "(size(",
            $key,
            ") <= 317 && ",
            $key,
            ".indexOf('/') <= 253 && ",
            $key,
            ".matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))"
        )
    };
}
pub(super) use is_key;

/// A domain of 253 characters, a slash, and a name of 63.
const KEY_LENGTH_MAX: usize = 317;

/// The nodes' pods: where Kubernetes runs them, and what others read on them. Changing any of it restarts the nodes one by one.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        concat!("!has(self.labels) || self.labels.all(key, ", is_key!("key"), ")"),
        "spec.pod.labels: a key is none of Kubernetes; write it like example.org/name"
    ),
    validation = (
        concat!("!has(self.annotations) || self.annotations.all(key, ", is_key!("key"), ")"),
        "spec.pod.annotations: a key is none of Kubernetes; write it like example.org/name"
    ),
    validation = (
        concat!("!has(self.nodeSelector) || self.nodeSelector.all(key, ", is_key!("key"), ")"),
        "spec.pod.nodeSelector: a key is none of Kubernetes; write it like example.org/name"
    ),
    validation = (
        concat!("!has(self.tolerations) || self.tolerations.all(t, !has(t.key) || t.key == '' || ", is_key!("t.key"), ")"),
        "spec.pod.tolerations: a key is none of a taint; write it like example.org/name"
    ),
    validation = (
        "!has(self.labels) || self.labels.all(key, !key.startsWith('dynamokv.io/') && !(key in ['app.kubernetes.io/name', 'app.kubernetes.io/instance', 'app.kubernetes.io/component', 'app.kubernetes.io/managed-by']))",
        "spec.pod.labels: dynamokv.io/* and app.kubernetes.io/name, instance, component and managed-by are the operator's own; choose other keys"
    ),
    validation = (
        "!has(self.annotations) || self.annotations.all(key, !key.startsWith('dynamokv.io/'))",
        "spec.pod.annotations: dynamokv.io/* are the operator's own; choose other keys"
    ),
    validation = (
        "!has(self.tolerations) || self.tolerations.all(t, (!has(t.operator) || t.operator in ['', 'Exists', 'Equal']) && (!has(t.effect) || t.effect in ['', 'NoSchedule', 'PreferNoSchedule', 'NoExecute']))",
        "spec.pod.tolerations: operator is Exists or Equal, and effect NoSchedule, PreferNoSchedule or NoExecute; correct them"
    ),
    validation = (
        "!has(self.tolerations) || self.tolerations.all(t, has(t.operator) && t.operator == 'Exists' ? !has(t.value) || t.value == '' : has(t.key) && t.key != '')",
        "spec.pod.tolerations: with the operator Exists there is no value, and without it there is a key; correct them"
    ),
    validation = (
        "!has(self.tolerations) || self.tolerations.all(t, !has(t.tolerationSeconds) || (has(t.effect) && t.effect == 'NoExecute'))",
        "spec.pod.tolerations: tolerationSeconds goes with the effect NoExecute only; correct them"
    )
)]
pub struct Pod {
    /// Labels of the pods, beside the operator's own, which cannot be given here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "label_values")]
    pub labels: BTreeMap<String, String>,

    /// Annotations of the pods, beside the operator's own, which cannot be given here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,

    /// The labels of the Kubernetes nodes that the pods may run on. Where a zone's nodeSelector has the same key, the zone's counts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "label_values")]
    pub node_selector: BTreeMap<String, String>,

    /// Taints of Kubernetes nodes that do not keep the pods away, as in a pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "tolerations")]
    pub tolerations: Vec<Toleration>,

    /// As in a pod, and beside what the operator asks for, which is not replaced: zones[].nodeSelector holds as well, and nodes are spread
    /// over machines where that is possible. To have it always, ask for podAntiAffinity to the label `dynamokv.io/cluster: NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "affinity")]
    pub affinity: Option<Affinity>,

    /// The pods' PriorityClass, which must exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub priority_class_name: Option<String>,
}

/// A Secret of the cluster's namespace with a registry's credentials.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct ImagePullSecret {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Texts that Kubernetes takes as values of labels.
pub(super) fn label_values(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": { "type": "string", "maxLength": 63, "pattern": "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$" },
    })
}

fn tolerations(generator: &mut SchemaGenerator) -> Schema {
    let mut toleration = undescribed::<Toleration>(generator);
    if let Some(key) = toleration.pointer_mut("/properties/key").and_then(Value::as_object_mut) {
        key.insert("maxLength".to_owned(), KEY_LENGTH_MAX.into());
    }
    json_schema!({ "type": "array", "maxItems": 32, "items": toleration })
}

fn affinity(generator: &mut SchemaGenerator) -> Schema {
    undescribed::<Affinity>(generator)
}

/// The schema of a type of Kubernetes without its descriptions.
fn undescribed<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = T::json_schema(generator);
    if let Some(fields) = schema.as_object_mut() {
        fields.remove("description");
        fields.values_mut().for_each(strip);
    }
    schema
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, value| key != "description" || !value.is_string());
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}
