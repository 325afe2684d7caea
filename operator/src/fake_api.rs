//! An API server in memory, for tests at the operator's border: objects by path, resource versions, preconditions, conflicts.
//!
//! An apply is taken for a merge, so this cannot show that a field which is no longer applied goes; a real API server is needed
//! for that (`tests/e2e`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use kube::Client;
use serde_json::{Value, json};

#[derive(Default)]
struct Objects {
    by_path: BTreeMap<String, Value>,
    version: u64,
    /// Every write that was accepted, as "PATCH /api/v1/...".
    writes: Vec<String>,
}

/// The server. Clones share the objects.
#[derive(Clone, Default)]
pub struct FakeApi(Arc<Mutex<Objects>>);

impl FakeApi {
    pub fn client(&self) -> Client {
        Client::new(Router::new().fallback(serve).with_state(self.clone()), "shop")
    }

    /// The writes since the last call.
    pub fn writes(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().writes)
    }

    /// Puts an object there, as somebody else would.
    pub fn put(&self, path: &str, object: Value) {
        let mut objects = self.0.lock().unwrap();
        objects.store(path, object);
    }

    pub fn object(&self, path: &str) -> Option<Value> {
        self.0.lock().unwrap().by_path.get(path).cloned()
    }
}

impl Objects {
    fn store(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        let uid = self.by_path.get(path).map_or(json!(format!("uid-{}", self.version)), |held| held["metadata"]["uid"].clone());
        object["metadata"]["uid"] = uid;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.by_path.insert(path.to_owned(), object.clone());
        object
    }

    fn write(&mut self, method: &Method, path: &str, body: Value) -> Result<Value, StatusCode> {
        let target = match *method {
            Method::POST => format!("{path}/{}", body["metadata"]["name"].as_str().unwrap_or_default()),
            _ => path.to_owned(),
        };
        let held = self.by_path.get(&target).cloned();
        let asked = if *method == Method::DELETE { &body["preconditions"] } else { &body["metadata"] };
        for field in ["uid", "resourceVersion"] {
            let seen = held.as_ref().map(|held| &held["metadata"][field]);
            if asked[field].is_string() && seen.is_some_and(|seen| *seen != asked[field]) {
                return Err(StatusCode::CONFLICT);
            }
        }
        let written = match (method.clone(), held) {
            (Method::POST, Some(_)) => return Err(StatusCode::CONFLICT),
            (Method::PUT | Method::DELETE, None) => return Err(StatusCode::NOT_FOUND),
            (Method::DELETE, Some(held)) => self.by_path.remove(&target).unwrap_or(held),
            (Method::PATCH, Some(mut held)) => {
                merge(&mut held, body);
                self.store(&target, held)
            }
            _ => self.store(&target, body),
        };
        self.writes.push(format!("{method} {target}"));
        Ok(written)
    }
}

async fn serve(State(api): State<FakeApi>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body: Bytes = to_bytes(body, 1 << 20).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let mut objects = api.0.lock().unwrap();
    let path = parts.uri.path();
    let answer = match parts.method {
        Method::GET => match objects.by_path.get(path) {
            Some(object) => Ok(object.clone()),
            None if names_an_object(path) => Err(StatusCode::NOT_FOUND),
            None => {
                let inside = |(at, _): &(&String, &Value)| at.rsplit_once('/').is_some_and(|(folder, _)| folder == path);
                let items: Vec<_> = objects.by_path.iter().filter(inside).map(|(_, object)| object.clone()).collect();
                Ok(json!({ "kind": "List", "apiVersion": "v1", "metadata": {}, "items": items }))
            }
        },
        method => objects.write(&method, path, body),
    };
    match answer {
        Ok(object) => Body::from(object.to_string()).into_response(),
        Err(status) => {
            let reason = if status == StatusCode::NOT_FOUND { "NotFound" } else { "Conflict" };
            let told = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason,
                "message": reason, "code": status.as_u16(),
            });
            (status, told.to_string()).into_response()
        }
    }
}

/// After the namespace come the kind and, if it is not a list, the name.
fn names_an_object(path: &str) -> bool {
    path.split_once("/namespaces/").is_some_and(|(_, rest)| rest.split('/').count() == 3)
}

fn merge(held: &mut Value, change: Value) {
    match (held, change) {
        (Value::Object(held), Value::Object(change)) => {
            for (key, value) in change {
                if value.is_null() {
                    held.remove(&key);
                } else {
                    merge(held.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (held, change @ Value::Object(_)) if !held.is_object() => {
            *held = json!({});
            merge(held, change);
        }
        (held, change) => *held = change,
    }
}
