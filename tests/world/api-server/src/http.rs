//! The server's calls, as a Kubernetes client sends them, and its answers.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::{ApiServer, Objects, Refusal, text};

/// A request body that is larger is none of the operator's.
const BODY_MAX: usize = 1 << 20;

/// A call.
pub struct Call {
    /// GET, POST, PUT, PATCH or DELETE.
    pub method: Method,
    /// The path that was asked for; of a POST, the folder's.
    pub path: String,
    query: String,
    content_type: String,
    /// What was sent.
    pub body: Value,
}

impl Call {
    /// Reads a request.
    pub async fn of(request: Request) -> Self {
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, BODY_MAX).await.unwrap_or_default();
        Self {
            method: parts.method,
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            content_type: parts.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned(),
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        }
    }

    /// The path of the object that it is about; nothing for a list.
    pub fn object(&self) -> String {
        match self.method {
            Method::POST => format!("{}/{}", self.path, text(&self.body, "/metadata/name")),
            _ => self.path.strip_suffix("/status").unwrap_or(&self.path).to_owned(),
        }
    }

    /// Answers a GET from `objects`; lists leave out what is `hidden`.
    pub fn read(&self, objects: &Objects, hidden: impl Fn(&str) -> bool) -> Result<Value, Refusal> {
        if names_an_object(&self.path) {
            return objects.get(&self.path).map(|object| (**object).clone()).ok_or(Refusal::NotFound);
        }
        let inside = |path: &str| path.rsplit_once('/').is_some_and(|(folder, _)| folder == self.path);
        let wanted = objects.iter().filter(|(path, object)| inside(path) && !hidden(path) && self.selects(object));
        let items: Vec<Value> = wanted.map(|(_, object)| (**object).clone()).collect();
        Ok(json!({ "kind": "List", "apiVersion": "v1", "metadata": {}, "items": items }))
    }

    /// It asks what would be, and changes nothing.
    pub fn is_dry_run(&self) -> bool {
        self.parameter("dryRun") == Some("All")
    }

    /// Carries out a call that changes something, or says what it would change.
    pub fn write(&self, api: &mut ApiServer) -> Result<Arc<Value>, Refusal> {
        if self.is_dry_run() { api.dry_run(|api| self.carry_out(api)) } else { self.carry_out(api) }
    }

    fn carry_out(&self, api: &mut ApiServer) -> Result<Arc<Value>, Refusal> {
        let body = self.body.clone();
        match self.method {
            Method::POST => api.create(&self.path, body),
            Method::PUT => api.replace(&self.path, body),
            Method::DELETE => api.delete(&self.path, &body["preconditions"]),
            _ if self.content_type.starts_with("application/apply-patch") => {
                api.apply(&self.path, self.parameter("fieldManager").unwrap_or_default(), body)
            }
            _ if self.content_type.starts_with("application/json-patch") => api.patch(&self.path, &body),
            _ => api.merge(&self.path, body),
        }
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        self.query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }

    /// Whether the object has the labels that a list call asks for.
    fn selects(&self, object: &Value) -> bool {
        let Some(selector) = self.parameter("labelSelector") else { return true };
        let selector = selector.replace("%3D", "=").replace("%2C", ",").replace("%2F", "/");
        let labels = &object["metadata"]["labels"];
        selector.split(',').filter_map(|pair| pair.split_once('=')).all(|(key, value)| labels[key] == value)
    }
}

/// After the namespace come the kind and, if it is not a list, the name.
fn names_an_object(path: &str) -> bool {
    path.split_once("/namespaces/").is_some_and(|(_, rest)| rest.split('/').count() == 3)
}

/// The answer to a call.
pub fn respond(answer: Result<Value, Refusal>) -> Response {
    match answer {
        Ok(object) => Body::from(object.to_string()).into_response(),
        Err(refusal) => {
            let (code, reason) = refusal.code();
            let message = match &refusal {
                Refusal::Invalid(message) | Refusal::Forbidden(message) => message,
                Refusal::NotFound | Refusal::Conflict | Refusal::AlreadyExists => reason,
            };
            status(code, reason, message)
        }
    }
}

/// A failure, in Kubernetes' words.
pub fn status(code: u16, reason: &str, message: &str) -> Response {
    let told = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason, "message": message,
        "code": code,
    });
    (StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), told.to_string()).into_response()
}
