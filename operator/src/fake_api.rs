//! An API server in memory, for tests at the operator's border. It notes what is written.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::DATE;
use axum::http::{HeaderValue, Method};
use axum::response::Response;
use dynamo_api_server::http::{Call, respond};
use dynamo_api_server::{Admission, ApiServer, Refusal};
use kube::Client;
use serde_json::Value;
use tokio::time::Instant;

/// The server. Clones share the objects.
#[derive(Clone, Default)]
pub struct FakeApi(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    server: ApiServer,
    /// Every write that was accepted, as "PATCH /api/v1/...".
    writes: Vec<String>,
    /// When the last of them came.
    written_at: Option<Instant>,
    /// Such calls that are refused.
    refused: Vec<(String, Refusal)>,
    /// What each answer says of the time.
    date: Option<HeaderValue>,
}

impl FakeApi {
    pub fn client(&self) -> Client {
        Client::new(Router::new().fallback(serve).with_state(self.clone()), "shop")
    }

    /// One whose calls get no answer, and no error.
    pub fn client_that_is_not_answered() -> Client {
        Client::new(Router::new().fallback(std::future::pending::<Response>), "shop")
    }

    /// The writes since the last call.
    pub fn writes(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().writes)
    }

    /// When the last write came.
    pub fn written_at(&self) -> Option<Instant> {
        self.0.lock().unwrap().written_at
    }

    /// Puts an object there, as somebody else would.
    pub fn put(&self, path: &str, object: Value) {
        let mut held = self.0.lock().unwrap();
        if held.server.get(path).is_some() {
            held.server.edit(path, |live| *live = object);
        } else {
            let (folder, _) = path.rsplit_once('/').unwrap();
            held.server.create(folder, object).unwrap();
        }
    }

    /// Changes an object, as somebody else would.
    pub fn edit(&self, path: &str, change: impl FnOnce(&mut Value)) {
        self.0.lock().unwrap().server.edit(path, change);
    }

    /// Removes an object at once, as somebody else would.
    pub fn remove(&self, path: &str) {
        self.0.lock().unwrap().server.remove(path);
    }

    /// From here on `admission` has a say in what is written.
    pub fn admit(&self, admission: Admission) {
        self.0.lock().unwrap().server.admission = Some(admission);
    }

    /// From here on such a call, as [`FakeApi::writes`] tells it, is refused: "GET /api/v1/...".
    pub fn refuse(&self, call: &str, refusal: Refusal) {
        self.0.lock().unwrap().refused.push((call.to_owned(), refusal));
    }

    /// From here on nothing is refused any more.
    pub fn refuse_nothing(&self) {
        self.0.lock().unwrap().refused.clear();
    }

    /// From here on this is the time by the server's clock, as HTTP has it.
    pub fn tell_the_time(&self, date: &'static str) {
        self.0.lock().unwrap().date = Some(HeaderValue::from_static(date));
    }

    pub fn object(&self, path: &str) -> Option<Value> {
        self.0.lock().unwrap().server.get(path).map(|object| (**object).clone())
    }
}

async fn serve(State(api): State<FakeApi>, request: Request) -> Response {
    let call = Call::of(request).await;
    let mut held = api.0.lock().unwrap();
    let mut answer = held.answer(&call);
    answer.headers_mut().extend(held.date.clone().map(|date| (DATE, date)));
    answer
}

impl Held {
    fn answer(&mut self, call: &Call) -> Response {
        let write = format!("{} {}", call.method, call.object());
        if let Some((_, refusal)) = self.refused.iter().find(|(refused, _)| *refused == write) {
            return respond(Err(refusal.clone()));
        }
        if call.method == Method::GET {
            return respond(call.read(self.server.objects(), |_| false));
        }
        let written = call.write(&mut self.server);
        if written.is_ok() && !call.is_dry_run() {
            self.writes.push(write);
            self.written_at = Some(Instant::now());
        }
        respond(written.map(|object| (*object).clone()))
    }
}
