//! The operator's process: the real controller's pass, with a real client whose calls end at the [`crate::border`].
//!
//! The loop of kube's runtime is not here; what it does is: a pass when a watch tells of a change, and otherwise when the last pass
//! asked for one. A process that dies loses all it had in memory and comes back a second later.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dynamo_operator::api::DynamoCluster;
use dynamo_operator::controller::{self, Context, ReconcileError};
use dynamo_operator::metrics::Metrics;
use futures::future::{Either, select};
use kube::runtime::controller::Action;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::border::Link;
use crate::nodes::ROUND_US;
use crate::stage::{Stage, Stop};

/// Rounds until a process that died is back.
const RESTART: u64 = 20;
/// Rounds after a change that a watch tells of: the controller's debounce.
const DEBOUNCE: u64 = 4;

type Running = Pin<Box<dyn Future<Output = Result<Action, ReconcileError>>>>;

/// A process.
pub struct Operator {
    number: usize,
    context: Arc<Context>,
    /// The cluster that it watches, as it was created.
    pub(crate) cluster: Arc<DynamoCluster>,
    /// The round of the next pass.
    pub next: u64,
    /// The pass that stands still.
    suspended: Option<Running>,
}

/// What became of a pass.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It asks for the next one after this time.
    Done(Duration),
    /// It failed.
    Failed(String),
    /// The process died.
    Crashed,
    /// It stands still.
    Suspended,
}

impl Operator {
    /// A process that starts in round `now`.
    pub fn start(stage: &Arc<Mutex<Stage>>, number: usize, cluster: Arc<DynamoCluster>, runtime: &Runtime, now: u64) -> Self {
        let _entered = runtime.enter();
        Self { number, context: context(stage, number), cluster, next: now, suspended: None }
    }

    /// It stands still in the middle of a pass.
    pub fn is_suspended(&self) -> bool {
        self.suspended.is_some()
    }

    /// A watch tells of a change.
    pub fn wake(&mut self, now: u64) {
        self.next = self.next.min(now + DEBOUNCE);
    }

    /// The process dies and comes back.
    pub fn restart(&mut self, stage: &Arc<Mutex<Stage>>, runtime: &Runtime, now: u64) {
        let _entered = runtime.enter();
        self.suspended = None;
        self.context = context(stage, self.number);
        self.next = now + RESTART;
    }

    /// A pass, or the rest of the one that stood still.
    pub fn pass(&mut self, stage: &Arc<Mutex<Stage>>, runtime: &Runtime, now: u64) -> Outcome {
        let (stop, stopped) = oneshot::channel();
        let running = {
            let mut stage = stage.lock().expect("one thread");
            stage.stops.insert(self.number, stop);
            match self.suspended.take() {
                Some(running) => {
                    if let Some(gate) = stage.gates.remove(&self.number) {
                        // The pass is dropped with its operator, never before.
                        let _ = gate.send(());
                    }
                    running
                }
                None => {
                    stage.begin_pass(self.number);
                    Box::pin(controller::reconcile(Arc::clone(&self.cluster), Arc::clone(&self.context)))
                }
            }
        };
        match runtime.block_on(select(running, stopped)) {
            Either::Left((Ok(action), _)) => {
                let pause = pause(&action);
                self.next = now + rounds(pause);
                Outcome::Done(pause)
            }
            Either::Left((Err(error), _)) => {
                let action = controller::retry(Arc::clone(&self.cluster), &error, Arc::clone(&self.context));
                self.next = now + rounds(pause(&action));
                Outcome::Failed(error.to_string())
            }
            Either::Right((Ok(Stop::Suspended), running)) => {
                self.suspended = Some(running);
                Outcome::Suspended
            }
            Either::Right((Ok(Stop::Crashed) | Err(_), running)) => {
                drop(running);
                self.restart(stage, runtime, now);
                Outcome::Crashed
            }
        }
    }
}

fn context(stage: &Arc<Mutex<Stage>>, number: usize) -> Arc<Context> {
    let link = Link::new(Arc::clone(stage), number);
    let client = link.client();
    Arc::new(Context::new(client, Arc::new(link), Arc::new(Metrics::default()), Some(format!("operator-{number}"))))
}

/// What an action asks for: kube tells by comparison only.
fn pause(action: &Action) -> Duration {
    let known = [controller::AFTER_STEP, controller::WAITING, controller::BLOCKED, controller::AT_REST];
    let backoff = (0..7).map(|failures| Duration::from_secs(1 << failures));
    let pause = known.into_iter().chain(backoff).find(|pause| *action == Action::requeue(*pause));
    pause.unwrap_or(Duration::from_secs(60))
}

fn rounds(pause: Duration) -> u64 {
    (pause.as_micros() as u64).div_ceil(ROUND_US).max(1)
}
