//! The border between the operator and the rest: every call that it makes to the API server and to nodes arrives here, as the real
//! client sent it, and here goes wrong what goes wrong with calls.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use dynamo_core::ring::Ring;
use dynamo_operator::nodes::{Answer, Nodes};
use dynamo_operator::observed::{Node, Receipt};
use dynamo_operator::valid::ValidCluster;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::api_server::{ApiServer, Refusal, text};
use crate::faults::Fault;
use crate::invariants::Written;
use crate::kubernetes::NAMESPACE;
use crate::stage::{Pass, Stage, Stop};

/// A request body that is larger is none of the operator's.
const BODY_MAX: usize = 1 << 20;

/// One operator's way to everything else.
#[derive(Clone)]
pub struct Link {
    stage: Arc<Mutex<Stage>>,
    operator: usize,
}

/// What comes of a call.
enum Reply<T> {
    Answer(T),
    /// The operator is dead.
    Silence,
    /// It stands still until the gate opens, and then the call arrives.
    Gate(oneshot::Receiver<()>),
}

/// A call to the API server.
struct Call {
    method: Method,
    path: String,
    query: String,
    content_type: String,
    body: Value,
}

impl Link {
    /// For the operator of this number.
    pub fn new(stage: Arc<Mutex<Stage>>, operator: usize) -> Self {
        Self { stage, operator }
    }

    /// A real client whose calls end here.
    pub fn client(&self) -> Client {
        Client::new(Router::new().fallback(serve).with_state(self.clone()), NAMESPACE)
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a call that changes something, and lets go wrong what is to go wrong with it. `arrives` carries it out.
    async fn change<T>(&self, what: &str, failure: impl Fn(Fault) -> T, arrives: impl Fn(&mut Stage) -> T) -> T {
        let reply = self.befalls(what, &failure, &arrives);
        match reply {
            Reply::Answer(answer) => answer,
            Reply::Silence => std::future::pending().await,
            Reply::Gate(gate) => {
                // An error means that the stage is gone, and with it this pass.
                let _ = gate.await;
                arrives(&mut self.stage())
            }
        }
    }

    fn befalls<T>(&self, what: &str, failure: &impl Fn(Fault) -> T, arrives: &impl Fn(&mut Stage) -> T) -> Reply<T> {
        let mut stage = self.stage();
        let call = stage.calls;
        stage.calls += 1;
        stage.passes.entry(self.operator).or_default().calls += 1;
        let mut fault = stage.faults.of_call(call);
        // A call that was under way with the one at which the process died or stood still arrives.
        if !stage.stops.contains_key(&self.operator) {
            fault = None;
        }
        // Two at a time are enough.
        if fault == Some(Fault::TwoOperators) && (!stage.gates.is_empty() || self.operator > 0) {
            fault = None;
        }
        let operator = self.operator;
        stage.tell(|| {
            format!("operator {operator} call {call}: {what}{}", fault.map_or(String::new(), |fault| format!(" ({fault:?})")))
        });
        if let Some(fault) = fault {
            stage.faults.count(fault);
        }
        match fault {
            None | Some(Fault::ForeignWrite) => {
                if fault.is_some() {
                    stage.write_as_a_stranger(operator, what);
                }
                Reply::Answer(arrives(&mut stage))
            }
            Some(Fault::CrashBefore | Fault::CrashAfter) => {
                if fault == Some(Fault::CrashAfter) {
                    arrives(&mut stage);
                }
                stage.stop(operator, Stop::Crashed);
                Reply::Silence
            }
            Some(fault @ Fault::TimedOutApplied) => {
                arrives(&mut stage);
                Reply::Answer(failure(fault))
            }
            Some(Fault::TwoOperators) => {
                let (gate, opened) = oneshot::channel();
                stage.gates.insert(operator, gate);
                stage.passes.entry(operator).or_default().interrupted = true;
                stage.stop(operator, Stop::Suspended);
                Reply::Gate(opened)
            }
            Some(fault) => Reply::Answer(failure(fault)),
        }
    }

    /// Asks a node something, if it answers this operator.
    fn ask<T>(&self, address: &str, question: impl FnOnce(&mut Stage, &str) -> Result<T, String>) -> Result<T, String> {
        let mut stage = self.stage();
        let pod = stage.nodes.at(address).ok_or("connection refused")?;
        if stage.passes.get(&self.operator).is_some_and(|pass| pass.unanswered.contains(&pod)) {
            return Err("deadline exceeded".to_owned());
        }
        question(&mut stage, &pod)
    }
}

impl Nodes for Link {
    fn status<'a>(&'a self, _: &'a ValidCluster, address: &'a str) -> Answer<'a, Node> {
        Box::pin(async move {
            self.ask(address, |stage, pod| {
                let node = &stage.nodes.running()[pod].node;
                let status = node.status(stage.nodes.now());
                Ok(Node {
                    id: node.identity().node,
                    epoch: status.epoch,
                    ring_hash: status.ring_hash,
                    received: status.received,
                    objects: status.objects,
                    hints: status.hints.values().map(|(hints, _)| hints).sum(),
                    // Simulated disks do not say how full they are; these figures are for people only.
                    bytes: 0,
                    copies: 0,
                    bytes_sent: 0,
                })
            })
        })
    }

    fn ring<'a>(&'a self, address: &'a str) -> Answer<'a, Option<Ring>> {
        Box::pin(async move {
            self.ask(address, |stage, pod| Ok(stage.nodes.running()[pod].node.ring().map(|ring| (**ring).clone())))
        })
    }

    fn offer<'a>(&'a self, address: &'a str, ring: &'a Ring) -> Answer<'a, ()> {
        Box::pin(async move {
            let what = format!("OFFER epoch {} to {address}", ring.epoch);
            let failure = |fault: Fault| Err(format!("{fault:?}"));
            self.change(&what, failure, |stage| {
                let pod = stage.nodes.at(address).ok_or("connection refused")?;
                if stage.passes.get(&self.operator).is_some_and(|pass| pass.unanswered.contains(&pod)) {
                    return Err("deadline exceeded".to_owned());
                }
                stage.nodes.offer(&pod, ring)
            })
            .await
        })
    }

    fn receipt<'a>(&'a self, address: &'a str) -> Answer<'a, Receipt> {
        Box::pin(async move {
            self.ask(address, |stage, pod| {
                let receipt = stage.nodes.running()[pod].node.drain_receipt()?;
                if let Some(pass) = stage.passes.get_mut(&self.operator) {
                    pass.receipts.insert(receipt.node);
                }
                Ok(Receipt { node: receipt.node, epoch: receipt.epoch, ring_hash: receipt.ring_hash })
            })
        })
    }
}

async fn serve(State(link): State<Link>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body: Bytes = to_bytes(body, BODY_MAX).await.unwrap_or_default();
    let content_type = parts.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let call = Call {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        content_type,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    };
    if call.method == Method::GET {
        return respond(link.stage().read(link.operator, &call));
    }
    let what = format!("{} {}", call.method, call.path);
    let failure = |fault: Fault| match fault {
        Fault::Refused => status(500, "InternalError", "etcdserver: leader changed"),
        _ => status(504, "Timeout", "the call timed out"),
    };
    link.change(&what, failure, |stage| respond(stage.write(link.operator, &call))).await
}

fn respond(answer: Result<Value, Refusal>) -> Response {
    match answer {
        Ok(object) => Body::from(object.to_string()).into_response(),
        Err(refusal) => {
            let (code, reason) = refusal.code();
            let message = if let Refusal::Invalid(message) = &refusal { message } else { reason };
            status(code, reason, message)
        }
    }
}

fn status(code: u16, reason: &str, message: &str) -> Response {
    let told = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason, "message": message,
        "code": code,
    });
    (StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), told.to_string()).into_response()
}

impl Stage {
    fn stop(&mut self, operator: usize, stop: Stop) {
        if let Some(stopped) = self.stops.remove(&operator) {
            // The pass is over already if nobody listens.
            let _ = stopped.send(stop);
        }
    }

    fn read(&mut self, operator: usize, call: &Call) -> Result<Value, Refusal> {
        let pass = self.passes.entry(operator).or_default();
        let objects = pass.stale.as_ref().unwrap_or_else(|| self.kubernetes.api.objects());
        if names_an_object(&call.path) {
            return objects.get(&call.path).map(|object| (**object).clone()).ok_or(Refusal::NotFound);
        }
        let inside = |path: &str| path.rsplit_once('/').is_some_and(|(folder, _)| folder == call.path);
        let wanted =
            objects.iter().filter(|(path, object)| inside(path) && !pass.hidden.contains(*path) && selected(&call.query, object));
        let items: Vec<Value> = wanted.map(|(_, object)| (**object).clone()).collect();
        Ok(json!({ "kind": "List", "apiVersion": "v1", "metadata": {}, "items": items }))
    }

    fn write(&mut self, operator: usize, call: &Call) -> Result<Value, Refusal> {
        // Events are a courtesy; nobody reads them here.
        if call.path.contains("/apis/events.k8s.io/") {
            return Ok(call.body.clone());
        }
        let path = match call.method {
            Method::POST => format!("{}/{}", call.path, text(&call.body, "/metadata/name")),
            _ => call.path.clone(),
        };
        let object_path = path.strip_suffix("/status").unwrap_or(&path).to_owned();
        let before = self.kubernetes.api.get(&object_path).cloned();
        let after = carry_out(&mut self.kubernetes.api, call);
        self.tell(|| match &after {
            Ok(_) => "  done".to_owned(),
            Err(refusal) => format!("  {refusal:?}"),
        });
        let after = after?;
        let method = call.method.as_str();
        let before = before.as_deref();
        self.check_write(&Written { operator, method, path: &object_path, body: &call.body, before, after: &after });
        Ok((*after).clone())
    }

    /// Somebody annotates the object that the call is about.
    fn write_as_a_stranger(&mut self, operator: usize, what: &str) {
        let path = what.split(' ').nth(1).unwrap_or_default();
        let calls = self.calls;
        self.kubernetes.api.edit(path.strip_suffix("/status").unwrap_or(path), |object| {
            object["metadata"]["annotations"]["example.org/touched"] = json!(calls.to_string());
        });
        self.passes.entry(operator).or_default().interrupted = true;
    }

    /// A pass of this operator begins; what it sees of the world is decided here.
    pub fn begin_pass(&mut self, operator: usize) {
        let mut pass = Pass { live: self.live(), ..Pass::default() };
        let fault = self.faults.of_pass();
        let pick = |stage: &mut Self, folder: &str| {
            let paths: Vec<String> = stage.kubernetes.api.list(folder).map(|(name, _)| format!("{folder}/{name}")).collect();
            (!paths.is_empty()).then(|| paths[stage.faults.below(paths.len())].clone())
        };
        match fault {
            Some(Fault::StaleReads) => {
                let versions = 1 + self.faults.below(40);
                pass.stale = Some(self.kubernetes.api.past(versions));
            }
            Some(Fault::HiddenPod) => pass.hidden.extend(pick(self, crate::kubernetes::PODS)),
            Some(Fault::HiddenClaim) => pass.hidden.extend(pick(self, crate::kubernetes::CLAIMS)),
            Some(Fault::NodeUnanswered) => {
                let pods: Vec<String> = self.nodes.running().keys().cloned().collect();
                if !pods.is_empty() {
                    pass.unanswered.insert(pods[self.faults.below(pods.len())].clone());
                }
            }
            _ => {}
        }
        if let Some(fault) = fault {
            self.faults.count(fault);
            self.tell(|| format!("operator {operator} looks: {fault:?}"));
        }
        self.passes.insert(operator, pass);
    }
}

fn carry_out(api: &mut ApiServer, call: &Call) -> Result<Arc<Value>, Refusal> {
    let body = call.body.clone();
    match call.method {
        Method::POST => api.create(&call.path, body),
        Method::PUT => api.replace(&call.path, body),
        Method::DELETE => api.delete(&call.path, &body["preconditions"]),
        _ if call.content_type.starts_with("application/apply-patch") => {
            let manager = call.query.split('&').find_map(|pair| pair.strip_prefix("fieldManager="));
            api.apply(&call.path, manager.unwrap_or_default(), body)
        }
        _ if call.content_type.starts_with("application/json-patch") => api.patch(&call.path, &body),
        _ => api.merge(&call.path, body),
    }
}

/// After the namespace come the kind and, if it is not a list, the name.
fn names_an_object(path: &str) -> bool {
    path.split_once("/namespaces/").is_some_and(|(_, rest)| rest.split('/').count() == 3)
}

/// Whether the object has the labels that a list call asks for.
fn selected(query: &str, object: &Value) -> bool {
    let Some(selector) = query.split('&').find_map(|pair| pair.strip_prefix("labelSelector=")) else { return true };
    let selector = selector.replace("%3D", "=").replace("%2C", ",").replace("%2F", "/");
    let labels = &object["metadata"]["labels"];
    selector.split(',').filter_map(|pair| pair.split_once('=')).all(|(key, value)| labels[key] == value)
}
