//! Whether a live object is already what it should be. The API server adds defaults and rewrites quantities; neither counts.

use serde_json::Value;

use crate::quantity;

/// Everything that `desired` says is so in `live`, which may say more, but for a selector: one that asks for more finds less.
pub fn covers(live: &Value, desired: &Value) -> bool {
    covered(live, desired, false)
}

fn covered(live: &Value, desired: &Value, amounts: bool) -> bool {
    match (live, desired) {
        (_, Value::Null) => true,
        (Value::Object(live), Value::Object(desired)) => desired.iter().all(|(key, desired)| {
            let amounts = amounts || matches!(key.as_str(), "requests" | "limits");
            match live.get(key) {
                Some(live) if key == "selector" => covered(live, desired, amounts) && covered(desired, live, amounts),
                Some(live) => covered(live, desired, amounts),
                None => is_empty(desired),
            }
        }),
        (Value::Array(live), Value::Array(desired)) => {
            live.len() == desired.len() && live.iter().zip(desired).all(|(live, desired)| covered(live, desired, amounts))
        }
        (Value::String(live), Value::String(desired)) if amounts => live == desired || quantity::same(live, desired),
        (live, desired) => live == desired,
    }
}

/// What the API server may leave out: nothing, or a list or a map of nothing.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_and_rewritten_quantities_are_no_difference() {
        let desired = json!({
            "spec": { "ports": [{ "port": 7400 }], "requests": { "cpu": "0.5" }, "none": null, "empty": {} }
        });
        let live = json!({
            "metadata": { "uid": "1" },
            "spec": { "ports": [{ "port": 7400, "protocol": "TCP" }], "requests": { "cpu": "500m" }, "type": "ClusterIP" }
        });
        assert!(covers(&live, &desired));
    }

    #[test]
    fn anything_else_is_a_difference() {
        let live = json!({
            "a": "0.5", "list": [{ "b": 1 }], "limits": { "cpu": "1" }, "selector": { "app": "dynamokv", "track": "canary" }
        });
        for desired in [
            json!({ "a": "500m" }),
            json!({ "list": [] }),
            json!({ "list": [{ "b": 1 }, { "b": 2 }] }),
            json!({ "list": [{ "b": 2 }] }),
            json!({ "limits": { "cpu": "2" } }),
            json!({ "limits": { "memory": "1Gi" } }),
            json!({ "missing": false }),
            json!({ "selector": { "app": "dynamokv" } }),
        ] {
            assert!(!covers(&live, &desired), "{desired}");
        }
    }
}
