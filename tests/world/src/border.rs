//! The border between the operator and the rest: every call that it makes to the API server and to nodes arrives here, as the real
//! client sent it, and here goes wrong what goes wrong with calls.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::DATE;
use axum::http::{HeaderValue, Method};
use axum::response::Response;
use dynamo_api_server::Refusal;
use dynamo_api_server::http::{Call, respond, status};
use dynamo_core::node::receipt::Receipt;
use dynamo_core::ring::Ring;
use dynamo_operator::nodes::{Answer, Nodes};
use dynamo_operator::observed::Node;
use dynamo_operator::valid::ValidCluster;
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::fmt::rfc2822::DateTimePrinter;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::faults::Fault;
use crate::invariants::Written;
use crate::kubernetes::NAMESPACE;
use crate::stage::{CLUSTERS, NAME, Pass, Stage, Stop};

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
    fn status<'a>(&'a self, cluster: &'a ValidCluster, address: &'a str) -> Answer<'a, Node> {
        Box::pin(async move {
            self.ask(address, |stage, pod| {
                let node = &stage.nodes.running()[pod].node;
                if node.identity().cluster != cluster.id {
                    return Err("answers for another cluster".to_owned());
                }
                let status = node.status(stage.nodes.now());
                if status.starting {
                    return Err("has just started".to_owned());
                }
                Ok(Node {
                    id: node.identity().node,
                    epoch: status.epoch,
                    ring_hash: status.ring_hash,
                    received: status.received,
                    objects: status.objects,
                    hints: status.hints.iter().map(|(node, (hints, _))| (*node, *hints)).collect(),
                    writable: status.writable,
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
                Ok(receipt)
            })
        })
    }
}

async fn serve(State(link): State<Link>, request: Request) -> Response {
    let call = Call::of(request).await;
    if call.method == Method::GET {
        let mut stage = link.stage();
        let mut answer = respond(stage.read(link.operator, &call));
        answer.headers_mut().extend(stage.date().map(|date| (DATE, date)));
        return answer;
    }
    if call.is_dry_run() {
        return respond(call.write(&mut link.stage().kubernetes.api).map(|object| (*object).clone()));
    }
    let what = format!("{} {}", call.method, call.path);
    let failure = |fault: Fault| match fault {
        Fault::Refused => status(500, "InternalError", "etcdserver: leader changed"),
        _ => status(504, "Timeout", "the call timed out"),
    };
    link.change(&what, failure, |stage| respond(stage.write(link.operator, &call))).await
}

impl Stage {
    fn stop(&mut self, operator: usize, stop: Stop) {
        if let Some(stopped) = self.stops.remove(&operator) {
            // The pass is over already if nobody listens.
            let _ = stopped.send(stop);
        }
    }

    /// The time by the API server's clock, as HTTP has it.
    fn date(&self) -> Option<HeaderValue> {
        let time = Timestamp::from_millisecond(i64::try_from(self.nodes.now().wall_ms).ok()?).ok()?;
        let text = DateTimePrinter::new().timestamp_to_rfc9110_string(&time).ok()?;
        HeaderValue::from_str(&text).ok()
    }

    fn read(&mut self, operator: usize, call: &Call) -> Result<Value, Refusal> {
        let pass = self.passes.entry(operator).or_default();
        let objects = pass.stale.as_ref().unwrap_or_else(|| self.kubernetes.api.objects());
        call.read(objects, |path| pass.hidden.contains(path))
    }

    fn write(&mut self, operator: usize, call: &Call) -> Result<Value, Refusal> {
        // Events are a courtesy; nobody reads them here.
        if call.path.contains("/apis/events.k8s.io/") {
            return Ok(call.body.clone());
        }
        let path = call.object();
        let before = self.kubernetes.api.get(&path).cloned();
        let after = call.write(&mut self.kubernetes.api);
        self.tell(|| match &after {
            Ok(_) => "  done".to_owned(),
            Err(refusal) => format!("  {refusal:?}"),
        });
        let after = after?;
        let method = call.method.as_str();
        let before = before.as_deref();
        self.check_write(&Written { operator, method, path: &path, body: &call.body, before, after: &after });
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
        let seen = pass.stale.as_ref().unwrap_or_else(|| self.kubernetes.api.objects());
        pass.asked = seen.get(&format!("{CLUSTERS}/{NAME}")).cloned();
        pass.behind = self.behind(&pass.unanswered);
        self.passes.insert(operator, pass);
    }
}
