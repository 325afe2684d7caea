//! `bench scale`: what users notice while a cluster grows and shrinks, how much moves, and how fast (paper 4.9, 6.2).
//!
//! ```text
//! |-- quiet --|-- growing: nodes start, data moves --|-- grown --|-- shrinking: data moves, nodes stop --|-- after --|
//! ```
//!
//! First a closed loop says how much the cluster can do; then an open loop asks for a share of that throughout. What moved is counted by
//! the nodes: objects by those that received them, bytes by those that sent them. Beside it stands what the plan of the change is expected
//! to move, with the least number of replicas that any balanced placement moves, proven by the plan's certificate; and beside the speed,
//! what the disk takes and what memory copies.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use dynamo_core::id::NodeId;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::calibration::Calibration;
use super::phases::Phases;
use super::point::{self, Meanwhile, Point};
use super::report::Report;
use super::session::{Data, Session};
use super::shape::Shape;
use super::system::{Quorums, System};
use crate::arguments::{Connection, seconds};
use crate::output::{Format, grouped, show, size, table};
use crate::ring_operations::Batch;
use crate::ring_plan::{self, Bound};
use crate::stop::Stop;
use crate::{local, members, random};

/// What happens one after the other.
pub const PHASES: &[&str] = &["quiet", "growing", "grown", "shrinking", "after"];
/// Between two looks at how much has moved.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// What is written to learn how fast the disk is.
const DISK_BYTES: usize = 256 << 20;

/// Arguments of `bench scale`.
#[derive(Args, Debug)]
pub struct Scale {
    /// Nodes that the cluster of `local up` grows to, before it shrinks to what it has.
    #[arg(long, default_value_t = 6, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(2..=200))]
    nodes: u16,
    /// The load: this share, in percent, of what a closed loop reaches before.
    #[arg(long, default_value_t = 60, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    load: u8,
    /// Seconds of the closed loop, and of each phase in which nothing moves.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Seconds before them which are not measured.
    #[arg(long, default_value_t = 2, value_name = "SECONDS", value_parser = seconds())]
    warm_up: u64,
    /// YCSB's letter, or updates only.
    #[arg(long, value_enum, default_value_t = Shape::A)]
    workload: Shape,
    /// Latencies and cost of each interval as well: of each second, or of so many.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "1")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeline: Option<u64>,
    #[command(flatten)]
    batch: Batch,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    quorums: Quorums,
}

/// A cluster that grows and shrinks while it is measured.
#[derive(Debug)]
pub struct Scaling {
    from: usize,
    to: usize,
    batch: Batch,
    /// With which nodes are started.
    program: PathBuf,
    changes: Mutex<Vec<Change>>,
}

/// One change of the number of nodes.
#[derive(Clone, Copy, Debug)]
struct Change {
    from: usize,
    to: usize,
    bound: Bound,
    objects: u64,
    bytes: u64,
    took: Duration,
    /// Of it, the time in which data arrived.
    streamed: Duration,
}

impl Change {
    fn objects_over_plan(self) -> f64 {
        self.objects as f64 / (self.bound.objects as f64).max(1.0)
    }

    fn bytes_per_second(self) -> f64 {
        self.bytes as f64 / self.streamed.as_secs_f64().max(f64::EPSILON)
    }

    fn document(&self) -> Value {
        json!({
            "from_nodes": self.from,
            "to_nodes": self.to,
            "replicas_moved": self.bound.moves,
            "replicas_lower_bound": self.bound.lower_bound,
            "objects_moved": self.objects,
            "objects_planned": self.bound.objects,
            "objects_over_plan": self.objects_over_plan(),
            "bytes_moved": self.bytes,
            "seconds": self.took.as_secs_f64(),
            "streaming_seconds": self.streamed.as_secs_f64(),
            "bytes_per_second": self.bytes_per_second(),
        })
    }

    fn row(&self) -> Vec<String> {
        vec![
            format!("{} to {}", self.from, self.to),
            grouped(self.bound.moves),
            grouped(self.bound.lower_bound),
            grouped(self.objects),
            grouped(self.bound.objects),
            format!("{:.3}", self.objects_over_plan()),
            size(self.bytes),
            format!("{:.1}", self.took.as_secs_f64()),
            format!("{}/s", size(self.bytes_per_second() as u64)),
        ]
    }
}

impl Scaling {
    /// Grows and shrinks the cluster, with `quiet` before, between and after, and tells the phases apart.
    pub async fn run(&self, phases: &Phases, begin: Instant, quiet: Duration) -> Result<(), Stop> {
        tokio::time::sleep_until((begin + quiet).into()).await;
        for (from, to) in [(self.from, self.to), (self.to, self.from)] {
            phases.next();
            let change = beside(changed(from, to, self.batch, self.program.clone())).await?;
            self.changes.lock().unwrap_or_else(PoisonError::into_inner).push(change);
            phases.next();
            tokio::time::sleep(quiet).await;
        }
        phases.next();
        Ok(())
    }
}

/// Runs `work` on a thread of its own: it plans rings and removes folders, and clients that waited for that would be measured as
/// users who wait for the nodes.
async fn beside<T: Send + 'static>(work: impl Future<Output = Result<T, Stop>> + Send + 'static) -> Result<T, Stop> {
    let failed = |error: &dyn std::fmt::Display| Stop::Failed(format!("a thread beside the clients: {error}"));
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| failed(&error))?;
        runtime.block_on(work)
    };
    tokio::task::spawn_blocking(run).await.map_err(|error| failed(&error))?
}

/// Changes the number of nodes, and watches what moves.
async fn changed(from: usize, to: usize, batch: Batch, program: PathBuf) -> Result<Change, Stop> {
    let folder = local::default_cluster()?;
    let ids = local::scale::ids(&local::running_endpoints().into()).await?;
    let leave: &[NodeId] = ids.get(to..).unwrap_or_default();
    let bound = ring_plan::bound(&local::running_endpoints().into(), to.saturating_sub(from), leave).await?;
    let (stop, stopped) = watch::channel(false);
    let moved = Moved::look().await;
    let watching = tokio::spawn(moved.watch(stopped));
    let began = Instant::now();
    let scaled = local::scale::to(&folder, to, batch, Some(&program), members::CALL_TIMEOUT).await;
    let took = began.elapsed();
    // Nobody listens only if the watcher is gone, and then joining it says why.
    let _ = stop.send(true);
    let moved = watching.await.map_err(|error| Stop::Failed(format!("watching what moves: {error}")))?;
    scaled?;
    let (objects, bytes) = moved.sums();
    Ok(Change { from, to, bound, objects, bytes, took, streamed: moved.streamed })
}

/// What the nodes have counted since the first look. A node that is stopped keeps what it said last.
#[derive(Default)]
struct Moved {
    /// By node: objects received and bytes sent for new replicas, at the first look at it and at the last.
    counts: BTreeMap<NodeId, [(u64, u64); 2]>,
    streamed: Duration,
}

impl Moved {
    /// The nodes that run before the change. One that comes later begins at nothing.
    async fn look() -> Self {
        let mut moved = Self::default();
        moved.count(true).await;
        moved
    }

    async fn count(&mut self, first: bool) {
        let Ok(views) = members::ask(&local::running_endpoints().into()).await else { return };
        for (node, answer) in views.answered {
            let counter = |name: &str| answer.status.counters.get(name).copied().unwrap_or_default();
            let now = (counter("transfer_objects_received"), counter("background_transfers_bytes"));
            let [_, last] = self.counts.entry(node).or_insert([if first { now } else { (0, 0) }, now]);
            *last = now;
        }
    }

    async fn watch(mut self, stopped: watch::Receiver<bool>) -> Self {
        loop {
            let (before, since) = (self.sums().1, Instant::now());
            let over = *stopped.borrow();
            self.count(false).await;
            if over {
                return self;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
            if self.sums().1 > before {
                self.streamed += since.elapsed();
            }
        }
    }

    /// Objects received, and bytes sent.
    fn sums(&self) -> (u64, u64) {
        let each = self.counts.values().map(|[first, last]| (last.0.saturating_sub(first.0), last.1.saturating_sub(first.1)));
        each.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }
}

/// Measures, grows, shrinks, reports.
pub async fn run(connection: &Connection, format: Format, arguments: Scale) -> Result<(), Stop> {
    let (from, to) = (local::node_count(), usize::from(arguments.nodes));
    if from == 0 || local::running_endpoints().len() < from {
        return Err(Stop::Usage("bench scale: needs a cluster of `local up` whose nodes all run".to_owned()));
    }
    if to <= from {
        return Err(Stop::Usage(format!("--nodes {to}: the cluster has {from} nodes already; give more")));
    }
    let mut target = System::Dynamokv.connect_retrying(connection, &arguments.quorums).await?;
    target.check_is_local("bench scale")?;
    let program = local::node_program()?;
    let disk = disk_bytes_per_second(&local::default_cluster()?)?;
    let copied = Calibration::measure().await?.copied_bytes_per_second();
    // Servers come and go, so there is no time to account for.
    target.servers.clear();
    let mut source = random::fresh();
    let keys = Session::fresh_keys(&mut source);
    let session = Arc::new(Session::new(target, arguments.data.clone(), keys, &mut source));
    session.load(&mut source).await?;
    let mut point = Point {
        shape: arguments.workload,
        distribution: None,
        seconds: arguments.seconds,
        warm_up: arguments.warm_up,
        rate: None,
        timeline: arguments.timeline,
        meanwhile: None,
    };
    let full = point::measure(&session, &point, &mut source).await?;
    if full.measured.operations == 0 {
        return Err(Stop::Failed(format!("bench scale: the closed loop before was not answered; {}", full.errors_text())));
    }
    let scaling = Arc::new(Scaling { from, to, batch: arguments.batch, program, changes: Mutex::new(Vec::new()) });
    point.rate = Some(full.per_second() * f64::from(arguments.load) / 100.0);
    point.meanwhile = Some(Meanwhile::Scale(Arc::clone(&scaling)));
    let report = point::measure(&session, &point, &mut source).await?;
    let changes = scaling.changes.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let limits = Limits { disk, copied };
    show(format, || text(&full, &report, &changes, limits), &document(&full, &report, &changes, limits))
}

/// Bytes a second that nothing here can exceed.
#[derive(Clone, Copy)]
struct Limits {
    disk: f64,
    copied: f64,
}

fn document(full: &Report, report: &Report, changes: &[Change], limits: Limits) -> Value {
    let mut document = report.document();
    document["kind"] = json!("scale");
    document["closed_loop_per_second"] = json!(full.per_second());
    document["changes"] = changes.iter().map(Change::document).collect();
    document["disk_bytes_per_second"] = json!(limits.disk);
    document["copy_bytes_per_second"] = json!(limits.copied);
    document
}

fn text(full: &Report, report: &Report, changes: &[Change], limits: Limits) -> String {
    let header =
        ["NODES", "#REPLICAS", "#AT LEAST", "#OBJECTS", "#PLANNED", "#MOVED/PLANNED", "#BYTES", "#SECONDS", "#STREAM SPEED"];
    format!(
        "{}\n\n{}\n\nlimits: the disk takes {}/s (sequential, one fsync), memory copies {}/s\na closed loop reached {} ops/s",
        report.text(),
        table(&header, changes.iter().map(Change::row).collect()),
        size(limits.disk as u64),
        size(limits.copied as u64),
        grouped(full.per_second() as u64),
    )
}

/// A file is written beside the nodes' data, synced, and removed.
fn disk_bytes_per_second(folder: &Path) -> Result<f64, Stop> {
    let failed = |error: std::io::Error| Stop::Failed(format!("{}: {error}", folder.display()));
    let block = vec![0xa5_u8; 1 << 20];
    let began = Instant::now();
    let mut file = tempfile::tempfile_in(folder).map_err(failed)?;
    for _ in 0..DISK_BYTES / block.len() {
        file.write_all(&block).map_err(failed)?;
    }
    file.sync_all().map_err(failed)?;
    Ok(DISK_BYTES as f64 / began.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moved_is_the_growth_of_the_nodes_own_counts() {
        let node = |number| NodeId([number; 16]);
        let counts = BTreeMap::from([(node(1), [(10, 500), (10, 2_500)]), (node(2), [(0, 0), (40, 0)])]);
        let moved = Moved { counts, streamed: Duration::from_secs(2) };
        assert_eq!(moved.sums(), (40, 2_000));
        let bound = Bound { moves: 8, lower_bound: 8, objects: 40 };
        let (objects, bytes) = moved.sums();
        let took = Duration::from_secs(4);
        let change = Change { from: 1, to: 2, bound, objects, bytes, took, streamed: moved.streamed };
        assert_eq!((change.objects_over_plan(), change.bytes_per_second()), (1.0, 1_000.0));
        assert_eq!(change.row(), ["1 to 2", "8", "8", "40", "40", "1.000", "2.0 KiB", "4.0", "1000 B/s"]);
    }

    #[test]
    fn the_disk_is_written_to_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        assert!(disk_bytes_per_second(folder.path()).unwrap() > 0.0);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(disk_bytes_per_second(&folder.path().join("gone")).is_err());
    }
}
