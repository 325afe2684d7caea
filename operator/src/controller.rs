//! The loop: a change or a moment later, look at the cluster, apply what differs, take one step, tell.
//!
//! A pass starts from a live read of the `DynamoCluster`, never from the watch cache, and is bounded in time; nothing waits inside
//! it. What failed is tried again with a growing pause, per cluster.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::controller::{Action, Config, Controller, Error as ControllerError};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::reflector::store::Writer;
use kube::runtime::{PredicateConfig, WatchStreamExt as _, reflector, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;
use thiserror::Error;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::api::{DynamoCluster, DynamoClusterStatus, Reconciliation};
use crate::apply::{self, ApplyError, Upkeep, words};
use crate::build::labels;
use crate::cleanup::{self, Failing, Volumes};
use crate::events::{self, Told};
use crate::metrics::{Metrics, Outcome};
use crate::nodes::Nodes;
use crate::observe::observe;
use crate::observed::Observed;
use crate::plan::{Step, Waiting, next_step};
use crate::status::{self, Report};
use crate::valid::ValidCluster;

/// Until a pass is given up. Its calls may have been carried out; the next pass looks.
const PASS_SECONDS_MAX: u64 = 60;
/// After a step, so that what it did can be seen.
pub const AFTER_STEP: Duration = Duration::from_millis(200);
/// While a step is waited for.
pub const WAITING: Duration = Duration::from_secs(2);
/// While only a person can help.
pub const BLOCKED: Duration = Duration::from_secs(10);
/// When there is nothing to do: for what no watch tells.
pub const AT_REST: Duration = Duration::from_secs(30);
/// Changes within this time make one pass.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// Between two writes of a status where figures and words alone are others: of a busy cluster they are so in every pass.
pub const FIGURES: Duration = Duration::from_secs(5);
/// Failures in a row after which a look that fails again is told, and so is a conflict: an API server that changes its leader takes less.
const UNTOLD_MAX: u32 = 3;
/// Until a look whether clusters can be read is given up, and tried again.
const READ_MAX: Duration = Duration::from_secs(10);
/// The longest pause after failures.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Until an Event that cannot be published is given up.
const EVENT_SECONDS_MAX: u64 = 5;
/// Until the status of a cluster that could not be looked at is given up.
const BLIND_SECONDS_MAX: u64 = 10;
/// Who writes the status.
const STATUS_MANAGER: &str = "dynamo-operator-status";

/// What a pass needs.
pub struct Context {
    client: Client,
    nodes: Arc<dyn Nodes>,
    recorder: Recorder,
    metrics: Arc<Metrics>,
    /// Failures in a row, by the cluster's UID; only for the pause after them, and for when they are told.
    failures: Mutex<HashMap<String, u32>>,
    /// Clean-ups that fail; only for when they are given up.
    clean_ups: Mutex<Failing>,
    /// Since when the status of clusters may not be written, by their full names; only for whether this process is called ready.
    untold: Mutex<HashMap<String, Instant>>,
    /// When the status of clusters was written last, by their full names; only for how soon figures are told again.
    told: Mutex<HashMap<String, Instant>>,
    figures_every: Duration,
}

/// Why a pass failed.
#[derive(Debug, Error)]
pub enum ReconcileError {
    /// What there is of the cluster could not be read.
    #[error("the cluster's objects cannot be read: {}", words(.0))]
    Look(#[source] kube::Error),
    /// The API server could not be read, or the status not be written.
    #[error("{}", words(.0))]
    Kubernetes(#[from] kube::Error),
    /// A step was not carried out.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// An object was refused, and the step went on all the same, and is looked at again as if nothing had failed.
    #[error(transparent)]
    Upkeep(ApplyError),
    /// It took too long.
    #[error("the pass took more than {PASS_SECONDS_MAX} s")]
    Timeout,
}

impl ReconcileError {
    /// Nobody knows how the cluster is.
    fn is_blind(&self) -> bool {
        match self {
            Self::Look(_) | Self::Timeout => true,
            Self::Kubernetes(_) | Self::Apply(_) | Self::Upkeep(_) => false,
        }
    }

    /// The longest pause after it.
    fn pause_max(&self) -> Duration {
        match self {
            Self::Upkeep(_) => WAITING,
            Self::Look(_) | Self::Kubernetes(_) | Self::Apply(_) | Self::Timeout => BACKOFF_MAX,
        }
    }
}

impl Context {
    /// For one process; `instance` is the pod's name.
    pub fn new(client: Client, nodes: Arc<dyn Nodes>, metrics: Arc<Metrics>, instance: Option<String>) -> Self {
        let reporter = Reporter { controller: "dynamo-operator".to_owned(), instance };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            nodes,
            metrics,
            failures: Mutex::default(),
            clean_ups: Mutex::default(),
            untold: Mutex::default(),
            told: Mutex::default(),
            figures_every: Duration::ZERO,
        }
    }

    /// The same, with so much time between two writes of a status where figures and words alone are others ([`FIGURES`]); by itself there is
    /// none, as for a simulation, whose time is not this process's.
    pub fn telling_figures_every(self, figures_every: Duration) -> Self {
        Self { figures_every, ..self }
    }

    /// Since when the status of some cluster may not be written.
    pub fn untold_since(&self) -> Option<Instant> {
        self.untold().values().min().copied()
    }

    /// A cluster is no more.
    fn forget(&self, namespace: &str, name: &str) {
        let full_name = format!("{namespace}/{name}");
        self.untold().remove(&full_name);
        self.told().remove(&full_name);
        self.metrics.forget(namespace, name);
    }

    fn untold(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until the figures of a cluster can be told again, if that is not now.
    fn untold_for(&self, full_name: &str) -> Option<Duration> {
        let since = self.told().get(full_name)?.elapsed();
        self.figures_every.checked_sub(since).filter(|left| !left.is_zero())
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<String, u32>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn tell(&self, cluster: &DynamoCluster, told: Vec<Told>) {
        for told in told {
            info!(cluster = full_name(cluster), reason = told.reason, "{}", told.note);
            let event = Event {
                type_: if told.warning { EventType::Warning } else { EventType::Normal },
                reason: told.reason.to_owned(),
                note: Some(told.note.chars().take(1000).collect()),
                action: told.action,
                secondary: None,
            };
            let reference = cluster.object_ref(&());
            let published = self.recorder.publish(&event, &reference);
            match timeout(Duration::from_secs(EVENT_SECONDS_MAX), published).await {
                Ok(Ok(())) => self.metrics.wrote(1),
                // An Event is a courtesy; in a namespace that is being deleted there are none.
                Ok(Err(error)) => debug!(cluster = full_name(cluster), %error, "the event was not published"),
                Err(_) => debug!(cluster = full_name(cluster), "the event was not published in time"),
            }
        }
    }
}

/// Ends when the clusters of `namespace`, or of all namespaces, can be read: before that there is no definition of them yet, or no right to it.
pub async fn clusters_can_be_read(client: &Client, namespace: Option<&str>) {
    let clusters = api::<DynamoCluster>(client, namespace);
    while let Err(why) = read_within(READ_MAX, &clusters).await {
        warn!(why, "clusters cannot be read; is the CRD dynamoclusters.dynamokv.io installed, and may this operator read it?");
        sleep(WAITING).await;
    }
}

/// Why `clusters` cannot be read, or not in that time.
async fn read_within(time: Duration, clusters: &Api<DynamoCluster>) -> Result<(), String> {
    match timeout(time, clusters.list(&ListParams::default().limit(1))).await {
        Ok(read) => read.map(|_| ()).map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer in {} seconds", time.as_secs())),
    }
}

/// Reconciles the clusters of `namespace`, or of all namespaces, until `shutdown` ends; then finishes the passes under way.
pub async fn run(
    context: Arc<Context>,
    namespace: Option<&str>,
    concurrency: u16,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let client = &context.client;
    let owned = || watcher::Config::default().labels(labels::MANAGED);
    let (reader, writer) = reflector::store();
    let watched = watcher(api::<DynamoCluster>(client, namespace), watcher::Config::default());
    Controller::for_stream(changes(watched, writer), reader)
        .owns(api::<StatefulSet>(client, namespace), owned())
        .owns(api::<Service>(client, namespace), owned())
        .owns(api::<ConfigMap>(client, namespace), owned())
        .owns(api::<ServiceAccount>(client, namespace), owned())
        .owns(api::<PodDisruptionBudget>(client, namespace), owned())
        .with_config(Config::default().concurrency(concurrency).debounce(DEBOUNCE))
        .graceful_shutdown_on(shutdown)
        .run(reconcile, retry, Arc::clone(&context))
        .for_each(|result| {
            match result {
                // A failure was told by `retry`.
                Ok(_) | Err(ControllerError::ReconcilerFailed(..)) => {}
                // One that is gone is no fault.
                Err(ControllerError::ObjectNotFound(gone)) => {
                    context.forget(gone.namespace.as_deref().unwrap_or_default(), &gone.name);
                }
                Err(error) => warn!(%error, "watching failed; is the CRD dynamoclusters.dynamokv.io installed, and may this operator read it?"),
            }
            std::future::ready(())
        })
        .await;
}

/// The clusters that are others than they were, but for their status: its writer is this operator, and would be woken by each write, before
/// the time that the pass asked for. All that is `watched` goes to `writer`.
fn changes(
    watched: impl Stream<Item = watcher::Result<watcher::Event<DynamoCluster>>>,
    writer: Writer<DynamoCluster>,
) -> impl Stream<Item = watcher::Result<DynamoCluster>> {
    watched.reflect(writer).applied_objects().predicate_filter(but_for_its_status, PredicateConfig::default())
}

/// A number that is another one when something else of a cluster is than its status.
fn but_for_its_status(cluster: &DynamoCluster) -> Option<u64> {
    let metadata = &cluster.metadata;
    let mut hasher = DefaultHasher::new();
    metadata.generation.hash(&mut hasher);
    metadata.labels.hash(&mut hasher);
    metadata.annotations.hash(&mut hasher);
    metadata.finalizers.hash(&mut hasher);
    metadata.deletion_timestamp.is_some().hash(&mut hasher);
    Some(hasher.finish())
}

pub(crate) fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

fn full_name(cluster: &DynamoCluster) -> String {
    format!("{}/{}", cluster.namespace().unwrap_or_default(), cluster.name_any())
}

/// One pass over `cluster`, whose copy may be old. The answer says when the next one is due if no watch tells of a change before.
pub async fn reconcile(cluster: Arc<DynamoCluster>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let started = Instant::now();
    let pass = timeout(Duration::from_secs(PASS_SECONDS_MAX), live_pass(&cluster, &context)).await;
    let result = pass.unwrap_or(Err(ReconcileError::Timeout));
    let uid = cluster.uid().unwrap_or_default();
    context.metrics.reconciled(result.as_ref().map_or(Outcome::Failed, |(outcome, _)| *outcome), started.elapsed());
    match &result {
        Ok(_) => drop(context.failures().remove(&uid)),
        Err(error) if error.is_blind() && context.failures().get(&uid).is_some_and(|before| *before >= UNTOLD_MAX) => {
            let told = timeout(Duration::from_secs(BLIND_SECONDS_MAX), tell_blindness(&cluster, error, &context)).await;
            if let Ok(Err(error)) | Err(error) = told.map_err(|_| ReconcileError::Timeout) {
                debug!(cluster = full_name(&cluster), %error, "the status was not written either");
            }
        }
        Err(_) => {}
    }
    result.map(|(_, action)| action)
}

/// Tells that nobody knows how the cluster is: what was told before says nothing any more.
async fn tell_blindness(cached: &DynamoCluster, why: &ReconcileError, context: &Context) -> Result<(), ReconcileError> {
    let told = |cluster: &DynamoCluster| {
        status::unseen(&why.to_string(), cluster.status.as_ref(), cluster.metadata.generation, &time_of_conditions())
    };
    let (namespace, name) = (cached.namespace().unwrap_or_default(), cached.name_any());
    let clusters: Api<DynamoCluster> = Api::namespaced(context.client.clone(), &namespace);
    match clusters.get_opt(&name).await {
        Ok(Some(live)) if live.uid() == cached.uid() && live.metadata.deletion_timestamp.is_none() => {
            publish_status(&clusters, &live, told(&live), context).await?;
        }
        Ok(_) => {}
        Err(error) => {
            context.metrics.told(&namespace, &name, &told(cached).conditions);
            return Err(error.into());
        }
    }
    Ok(())
}

/// Now, in whole seconds, as the API server keeps it.
fn time_of_conditions() -> Time {
    Time(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default())
}

/// When a pass that failed is tried again.
pub fn retry(cluster: Arc<DynamoCluster>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let mut failures = context.failures();
    let count = failures.entry(cluster.uid().unwrap_or_default()).or_default();
    *count = count.saturating_add(1);
    let pause = Duration::from_secs(1 << (*count - 1).min(6)).min(error.pause_max());
    warn!(cluster = full_name(&cluster), %error, failures = *count, pause_seconds = pause.as_secs(), "the pass failed");
    Action::requeue(pause)
}

/// The watch's copy only says which cluster; what it asks for is read live.
async fn live_pass(cached: &DynamoCluster, context: &Context) -> Result<(Outcome, Action), ReconcileError> {
    let (namespace, name) = (cached.namespace().unwrap_or_default(), cached.name_any());
    let clusters: Api<DynamoCluster> = Api::namespaced(context.client.clone(), &namespace);
    let gone = (Outcome::Converged, Action::requeue(AT_REST));
    let Some(cluster) = clusters.get_opt(&name).await? else {
        context.forget(&namespace, &name);
        return Ok(gone);
    };
    match (cleanup::is_held(&cluster), cleanup::is_to_be_held(&cluster)) {
        (true, false) => {
            let may_go = cluster.metadata.deletion_timestamp.is_none() || clean_up(&cluster, context, Instant::now()).await?;
            if !may_go {
                return Ok((Outcome::Progressing, Action::requeue(WAITING)));
            }
            cleanup::release(&clusters, &cluster).await?;
            context.metrics.wrote(1);
        }
        (false, true) => {
            cleanup::hold(&clusters, &cluster).await?;
            context.metrics.wrote(1);
        }
        // It goes, and whatever was to be done before is done.
        (false, false) if cluster.metadata.deletion_timestamp.is_some() => return Ok(gone),
        (true, true) | (false, false) => return pass(&clusters, &cluster, context).await,
    }
    // The watch tells, but a watch may miss something.
    Ok((Outcome::Progressing, Action::requeue(WAITING)))
}

async fn pass(
    clusters: &Api<DynamoCluster>,
    cluster: &DynamoCluster,
    context: &Context,
) -> Result<(Outcome, Action), ReconcileError> {
    let now = time_of_conditions();
    let previous = cluster.status.as_ref();
    let valid = match ValidCluster::of(cluster) {
        Ok(valid) => valid,
        Err(error) => {
            let told = status::invalid(&error, previous, cluster.metadata.generation, &now);
            let outcome = Outcome::of(&told.conditions);
            publish_status(clusters, cluster, told, context).await?;
            return Ok((outcome, Action::requeue(AT_REST)));
        }
    };
    let (mut observed, live) = observe(&context.client, &*context.nodes, &valid).await.map_err(ReconcileError::Look)?;
    let step = next_step(&valid, &observed);
    context.metrics.step(step.kind());
    debug!(cluster = full_name(cluster), step = step.kind(), "looked");
    let paused = cluster.spec.reconciliation == Reconciliation::Paused;
    let (upkeep, step, refused) = if paused {
        (Upkeep { waiting: apply::outstanding(&valid, &observed, &live), ..Upkeep::default() }, step, None)
    } else {
        let mut upkeep = apply::upkeep(&context.client, &valid, &observed, &live).await;
        observed.follow(&upkeep.versions);
        let (step, taken, passed_over) = apply::steps(&context.client, &*context.nodes, &valid, &mut observed, step).await;
        if !passed_over.is_empty() {
            context.metrics.step(step.kind());
        }
        upkeep.failures.extend(passed_over);
        (upkeep, step, taken.err())
    };
    for written in &upkeep.written {
        info!(cluster = full_name(cluster), "applied {written}");
    }
    context.metrics.wrote(upkeep.written.len() as u64);
    context.tell(cluster, upkeep.told).await;
    if step.acts() && refused.is_none() && !paused {
        context.metrics.wrote(1);
        context.tell(cluster, events::of_step(&valid, &observed, &step).into_iter().collect()).await;
    }
    let failures = upkeep.failures.iter().chain(&refused).flat_map(ApplyError::each);
    // Somebody who is faster each time is told as well.
    let lasts = context.failures().get(&valid.uid).is_some_and(|before| *before >= UNTOLD_MAX);
    let mut complaints = apply::told(failures.filter(|failure| lasts || !failure.is_conflict()));
    complaints.extend(upkeep.complaints);
    let report = Report {
        cluster: &valid,
        observed: &observed,
        claim_sizes: &live.claim_sizes(),
        step: &step,
        paused,
        waiting_zones: &upkeep.waiting,
        complaints: &complaints,
        generation: cluster.metadata.generation,
    };
    let told = status::status(&report, previous, &now);
    let outcome = Outcome::of(&told.conditions);
    let untold_for = publish_status(clusters, cluster, told, context).await?;
    if let Some(refused) = refused {
        return Err(refused.into());
    }
    match upkeep.failures.into_iter().next() {
        Some(failure) if rests(&step, &observed) => Err(failure.into()),
        Some(failure) => Err(ReconcileError::Upkeep(failure)),
        None if !upkeep.written.is_empty() => Ok((outcome, Action::requeue(AFTER_STEP))),
        None => {
            let pause = pause_after(&step, paused, &upkeep.waiting);
            Ok((outcome, Action::requeue(untold_for.map_or(pause, |untold_for| pause.min(untold_for)))))
        }
    }
}

/// Nothing is on its way whose end would be seen late.
fn rests(step: &Step, observed: &Observed) -> bool {
    let is_refused = |waiting: &Waiting| observed.is_refused_a_pod(&waiting.place);
    matches!(step, Step::Converged | Step::Blocked(_) | Step::RebalancingPaused(_))
        || matches!(step, Step::AwaitPods(waiting) if waiting.iter().all(is_refused))
}

fn pause_after(step: &Step, paused: bool, waiting_zones: &[String]) -> Duration {
    match step {
        _ if paused => AT_REST,
        Step::Blocked(_) => BLOCKED,
        Step::Converged if waiting_zones.is_empty() => AT_REST,
        step if step.acts() => AFTER_STEP,
        _ => WAITING,
    }
}

/// Writes the status if it has changed, and tells what has turned. Where figures and words alone have, so soon after the last write, it writes
/// nothing; then the answer says when they can be told.
async fn publish_status(
    clusters: &Api<DynamoCluster>,
    cluster: &DynamoCluster,
    status: DynamoClusterStatus,
    context: &Context,
) -> Result<Option<Duration>, kube::Error> {
    let full_name = full_name(cluster);
    context.metrics.told(&cluster.namespace().unwrap_or_default(), &cluster.name_any(), &status.conditions);
    if cluster.status.as_ref() == Some(&status) {
        context.untold().remove(&full_name);
        return Ok(None);
    }
    if cluster.status.as_ref().is_some_and(|previous| status::differ_in_figures(previous, &status))
        && let Some(untold_for) = context.untold_for(&full_name)
    {
        return Ok(Some(untold_for));
    }
    let told = events::of_conditions(cluster.status.as_ref(), &status);
    let patch = json!({
        "apiVersion": DynamoCluster::api_version(&()),
        "kind": DynamoCluster::kind(&()),
        "metadata": { "name": cluster.name_any(), "uid": cluster.uid() },
        "status": status,
    });
    let params = PatchParams::apply(STATUS_MANAGER).force();
    let written = clusters.patch_status(&cluster.name_any(), &params, &Patch::Apply(&patch)).await;
    match &written {
        Err(kube::Error::Api(refusal)) if refusal.is_forbidden() => {
            context.untold().entry(full_name.clone()).or_insert_with(Instant::now);
        }
        _ => drop(context.untold().remove(&full_name)),
    }
    written?;
    context.told().insert(full_name, Instant::now());
    context.metrics.wrote(1);
    context.tell(cluster, told).await;
    Ok(None)
}

/// What is done before a deleted cluster goes; whether that is all.
pub(crate) async fn clean_up(cluster: &DynamoCluster, context: &Context, now: Instant) -> Result<bool, ReconcileError> {
    let uid = cluster.uid().unwrap_or_default();
    let clean_ups = || context.clean_ups.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = |note: String| Told { warning: true, reason: "VolumesKept", action: "Delete".to_owned(), note };
    let tried = cleanup::volumes(&context.client, cluster).await;
    let hindrance = match &tried {
        Ok(Volumes::Deleted | Volumes::Retained) => {
            info!(cluster = full_name(cluster), "the cluster goes; its volumes follow whenDeleted");
            clean_ups().end(&uid);
            return Ok(true);
        }
        Ok(Volumes::Orphaned) => {
            let note = "the cluster is deleted without its pods, so the volumes that they run on stay in spite of whenDeleted";
            clean_ups().end(&uid);
            context.tell(cluster, vec![kept(note.to_owned())]).await;
            return Ok(true);
        }
        Ok(Volumes::Awaited(sets)) => {
            format!("the controller of StatefulSet {} has not seen that it is to run no pods", sets.join(", "))
        }
        Err(error) => error.to_string(),
    };
    if !clean_ups().is_given_up(&uid, now) {
        debug!(cluster = full_name(cluster), hindrance, "the volumes wait");
        return Ok(tried.map(|_| false)?);
    }
    context.tell(cluster, vec![kept(format!("volumes were left as they are: {hindrance}"))]).await;
    Ok(true)
}
