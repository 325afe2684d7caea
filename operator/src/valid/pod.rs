//! What `spec.pod` may say: keys and values that Kubernetes takes, and none of the operator's own.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;

use super::{InvalidSpec, invalid};
use crate::api::Pod;
use crate::build::labels;

pub(super) fn check(pod: &Pod) -> Result<(), InvalidSpec> {
    if let Some(key) = pod.labels.keys().find(|key| labels::is_reserved(key)) {
        return Err(invalid("spec.pod.labels", format!("{key:?} is the operator's own; choose another key")));
    }
    if let Some(key) = pod.annotations.keys().find(|key| key.starts_with(labels::OWN)) {
        return Err(invalid("spec.pod.annotations", format!("{key:?} is the operator's own; choose another key")));
    }
    check_keys("spec.pod.annotations", &pod.annotations)?;
    check_labels("spec.pod.labels", &pod.labels)?;
    check_labels("spec.pod.nodeSelector", &pod.node_selector)?;
    pod.tolerations.iter().try_for_each(check_toleration)
}

pub(super) fn check_labels(field: &'static str, pairs: &BTreeMap<String, String>) -> Result<(), InvalidSpec> {
    check_keys(field, pairs)?;
    match pairs.iter().find(|(_, value)| !value.is_empty() && !is_name(value)) {
        Some((key, value)) => {
            let reason = format!("{value:?} of {key:?} takes at most 63 letters, digits, '-', '_' and '.'; correct it");
            Err(invalid(field, reason))
        }
        None => Ok(()),
    }
}

fn check_keys(field: &'static str, pairs: &BTreeMap<String, String>) -> Result<(), InvalidSpec> {
    match pairs.keys().find(|key| !is_key(key)) {
        Some(key) => Err(invalid(field, format!("{key:?} is no key of Kubernetes; write it like example.org/name"))),
        None => Ok(()),
    }
}

fn check_toleration(toleration: &Toleration) -> Result<(), InvalidSpec> {
    let wrong = |reason: &str| Err(invalid("spec.pod.tolerations", reason.to_owned()));
    let [key, operator, value, effect] = [&toleration.key, &toleration.operator, &toleration.value, &toleration.effect]
        .map(|text| text.as_deref().unwrap_or_default());
    if !["", "Exists", "Equal"].contains(&operator) {
        return wrong(&format!("operator is {operator:?}, must be Exists or Equal; correct it"));
    }
    if !["", "NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
        return wrong(&format!("effect is {effect:?}, must be NoSchedule, PreferNoSchedule or NoExecute; correct it"));
    }
    if !key.is_empty() && !is_key(key) {
        return wrong(&format!("{key:?} is no key of a taint; write it like example.org/name"));
    }
    match operator {
        "Exists" if !value.is_empty() => return wrong("with the operator Exists there is no value; remove it"),
        "Exists" => {}
        _ if key.is_empty() => return wrong("without the operator Exists there is a key; name it"),
        _ => {}
    }
    if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
        return wrong("tolerationSeconds goes with the effect NoExecute only; remove one of them");
    }
    Ok(())
}

/// NAME, or DOMAIN/NAME.
fn is_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((domain, name)) => {
            let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            let part = |part: &str| !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-') && !part.ends_with('-');
            domain.len() <= 253 && domain.split('.').all(part) && is_name(name)
        }
        None => is_name(key),
    }
}

fn is_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let outer = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    name.len() <= 63 && name.bytes().all(inner) && outer(name.bytes().next()) && outer(name.bytes().last())
}
