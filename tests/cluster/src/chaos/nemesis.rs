//! Makes the faults, ends them, and watches the processes meanwhile: a process that ends by itself without a fault to explain it,
//! or with another exit code than the fault's, is a violation. So is one that lives on after an fsync failed, or acknowledges writes
//! and fsyncs nothing.
//!
//! A wiped disk is found again when its fault ends: the node that came with an empty one goes, the former one comes back. So long
//! it is a stranger to the ring, which still names the one that is away, and must hold nothing. A lost disk is not found again:
//! somebody is told, and has the newcomer take its place ([`super::replacement`]); the next may only go when no hint waits and all replicas
//! are equal, as GUARANTEES.md says: what lay on the one, and as a hint on the other, would be nowhere. One node more joins and leaves ([`super::membership`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dynamo_core::id::NodeId;

use super::HarnessFailed;
use super::clocks::{Clocks, wall_ms};
use super::control::Control;
use super::membership::{self, Change};
use super::network::{self, Network};
use super::replacement::Replacement;
use super::schedule::{Fault, Kind};
use super::sessions;
use crate::{Cluster, Seat, Signal};

/// Of the disks with a size of our own.
const DISK_BYTES: u64 = 256 << 20;
/// What nodes on them are told to keep free.
const RESERVE_BYTES: u64 = 32 << 20;
/// What "full" leaves.
const LEFT_BYTES: u64 = RESERVE_BYTES / 2;
/// Between two chunks of what fills a disk to the brim.
const CHUNK_BYTES: usize = 1 << 20;
/// A node that notices a failed fsync ends within this, and one that was started with one fails at once.
const FAIL_STOP_MAX: Duration = Duration::from_secs(15);
/// Between two looks at whether it has.
const LOOK: Duration = Duration::from_millis(50);
/// The node's exit code when its storage fails.
pub const STORAGE_FAILED: i32 = 4;
/// Its exit code when its data directory cannot be used, which a start on a full disk finds out first.
pub const DATA_DIR_FAILED: i32 = 3;

/// What a run can do here.
pub struct Tools {
    /// Namespaces, if there are any.
    pub network: Option<Network>,
    /// The library for fsyncs and clocks, if it was built.
    pub library: Option<PathBuf>,
    /// Disks with a size of our own: so many of the first nodes have one.
    pub small_disks: usize,
}

/// A fault that is there.
struct Active {
    fault: Fault,
    until: Instant,
}

/// A node whose next fsync fails.
struct Failing {
    since: Instant,
    /// What it had acknowledged when the fault began, if it said so.
    puts_before: Option<u64>,
    /// It has acknowledged since, and was given the time once more to fsync that.
    has_acknowledged: bool,
}

/// What a node makes of an fsync that fails, when [`FAIL_STOP_MAX`] is over and it still runs.
#[derive(PartialEq, Eq, Debug)]
enum Seen {
    /// It was told, and goes on.
    GoesOn,
    /// It never asked, and acknowledged writes a whole while ago.
    NeverFsyncs,
    /// It acknowledged writes, perhaps a moment ago.
    Acknowledged,
    /// Nothing was written there: it is idle, or slow.
    Idle,
}

impl Failing {
    fn seen(&self, fsyncs_failed: u64, puts: Option<u64>) -> Seen {
        match (self.puts_before, puts) {
            _ if fsyncs_failed > 0 => Seen::GoesOn,
            _ if self.has_acknowledged => Seen::NeverFsyncs,
            (Some(before), Some(now)) if now > before => Seen::Acknowledged,
            _ => Seen::Idle,
        }
    }
}

/// Who makes the faults.
pub struct Nemesis {
    /// The nodes.
    pub cluster: Cluster,
    /// What is seen that must not be.
    pub violations: Vec<String>,
    /// Faults that were made.
    pub made: BTreeMap<Kind, u64>,
    /// Faults whose target was away until the end of their round.
    pub skipped: BTreeMap<Kind, u64>,
    /// Nodes that ended with the code for failed storage, as they should.
    pub fail_stops: u64,
    /// Those that an fsync had failed.
    pub fsync_stops: u64,
    /// Faults of an fsync that were over before one came: the node was killed, or the round ended.
    fsyncs_cut_short: u64,
    /// Looks at a node on a full disk that found it alive and refusing.
    pub refusals_seen: u64,
    /// Nodes that have joined.
    pub joined: u64,
    /// Nodes that have left.
    pub left: u64,
    /// When whose clock was wrong.
    pub clocks: Arc<Clocks>,
    /// When the last disk was destroyed that nobody had emptied before.
    pub destroyed: Option<Instant>,
    /// What it held is elsewhere by now: no hint has waited and all replicas were equal since.
    pub made_good: bool,
    tools: Tools,
    controls: Vec<Control>,
    active: Vec<Active>,
    /// Nodes that are away, until when.
    down: BTreeMap<usize, Instant>,
    paused: BTreeSet<usize>,
    /// Nodes whose next fsync fails.
    failing: BTreeMap<usize, Failing>,
    /// Nodes whose disk may have nothing free.
    brimful: BTreeSet<usize>,
    /// Nodes whose process has run while its disk had nothing free: it may be on its way out after there is room again.
    were_brimful: BTreeSet<usize>,
    /// Nodes with an empty disk, and who they were.
    wiped: BTreeMap<usize, Option<NodeId>>,
    /// A lost disk that is being replaced.
    replacement: Option<Replacement>,
    /// A node that joins or leaves.
    change: Option<Change>,
    /// The one that has joined, once it has, and until it leaves.
    comer: Option<NodeId>,
}

impl Nemesis {
    /// A cluster of so many nodes with a ring, on what the machine gives, and some more that stand by.
    pub async fn start(members: usize, standing_by: usize, tools: Tools) -> Result<Self> {
        let mut cluster = Cluster::empty()?;
        let mut controls = Vec::new();
        for node in 0..members + standing_by {
            if node == members {
                cluster.first_ring().await?;
            }
            let control = Control::create(&cluster.folder().join(format!("node-{node}.faults")))?;
            let seat = seat(node, &cluster, &tools, &control)?;
            controls.push(control);
            cluster.seat(seat).await?;
        }
        Ok(Self {
            cluster,
            violations: Vec::new(),
            made: BTreeMap::new(),
            skipped: BTreeMap::new(),
            fail_stops: 0,
            fsync_stops: 0,
            fsyncs_cut_short: 0,
            refusals_seen: 0,
            joined: 0,
            left: 0,
            clocks: Arc::default(),
            destroyed: None,
            made_good: true,
            tools,
            controls,
            active: Vec::new(),
            down: BTreeMap::new(),
            paused: BTreeSet::new(),
            failing: BTreeMap::new(),
            brimful: BTreeSet::new(),
            were_brimful: BTreeSet::new(),
            wiped: BTreeMap::new(),
            replacement: None,
            change: None,
            comer: None,
        })
    }

    /// Nodes that are away, for people.
    pub fn away(&self) -> Vec<usize> {
        (0..self.controls.len()).filter(|node| !self.cluster.is_running(*node)).collect()
    }

    /// Begins a fault; not one whose target is away, or has the same fault already.
    pub async fn begin(&mut self, fault: &Fault) -> Result<bool> {
        let done = self.make(fault).await.with_context(|| fault.to_string())?;
        if done {
            *self.made.entry(fault.kind).or_default() += 1;
            self.active.push(Active { until: Instant::now() + fault.lasts, fault: fault.clone() });
        }
        Ok(done)
    }

    async fn make(&mut self, fault: &Fault) -> Result<bool> {
        let node = fault.nodes[0];
        if self.active.iter().any(|active| active.fault.kind == fault.kind && active.fault.nodes.contains(&node)) {
            return Ok(false);
        }
        let runs = self.cluster.is_running(node) && !self.has_empty_disk(node);
        match fault.kind {
            Kind::Kill | Kind::KillSeveral | Kind::KillAll => return self.kill_all(&fault.nodes, fault.lasts),
            Kind::Pause if runs => {
                self.cluster.signal(node, Signal::STOP).context(HarnessFailed)?;
                self.paused.insert(node);
            }
            Kind::Partition | Kind::PartitionOneWay => {
                let pairs = pairs(fault, self.controls.len());
                self.network()?.cut(&pairs)?;
            }
            Kind::Loss => self.network()?.lose(node, fault.amount as u8)?,
            Kind::FullDisk if runs && !self.brimful.contains(&node) => self.fill(node, LEFT_BYTES).context(HarnessFailed)?,
            Kind::BrimfulDisk if runs => {
                self.brimful.insert(node);
                self.were_brimful.insert(node);
                self.fill(node, 0).context(HarnessFailed)?;
            }
            Kind::FailingFsync if runs && !self.failing.contains_key(&node) => {
                let puts_before = self.puts_acknowledged(node).await;
                self.controls[node].fail_fsyncs(1)?;
                self.failing.insert(node, Failing { since: Instant::now(), puts_before, has_acknowledged: false });
            }
            Kind::SlowFsync => self.controls[node].delay_fsyncs(Duration::from_millis(fault.amount.unsigned_abs()))?,
            Kind::ClockJump => {
                self.clocks.set_off(node, fault.amount, wall_ms());
                self.controls[node].shift_wall_clock(fault.amount)?;
            }
            // With W = 2 one of the two is borne.
            Kind::WipedDisk if runs && !self.paused.contains(&node) && self.replacement.is_none() => {
                return self.wipe(node).await;
            }
            Kind::LostDisk if runs && !self.paused.contains(&node) && self.made_good && self.wiped.is_empty() => {
                return self.lose(node).await;
            }
            Kind::Members if self.change.is_none() => self.change = Some(Change::new(node, self.comer)),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The puts that a process of a node has acknowledged to clients, if it answers. All of them ask for durable copies.
    async fn puts_acknowledged(&self, node: usize) -> Option<u64> {
        self.cluster.status(node).await.ok()?.counters.get("puts_ok").copied()
    }

    fn has_empty_disk(&self, node: usize) -> bool {
        self.wiped.contains_key(&node) || self.replacement.as_ref().is_some_and(|replacement| replacement.node == node)
    }

    fn network(&mut self) -> Result<&mut Network> {
        self.tools.network.as_mut().context("there is a network")
    }

    fn kill_all(&mut self, nodes: &[usize], away: Duration) -> Result<bool> {
        let mut killed = false;
        for node in nodes {
            if self.cluster.is_running(*node) && !self.has_empty_disk(*node) {
                self.kill(*node, Instant::now() + away)?;
                killed = true;
            }
        }
        Ok(killed)
    }

    fn kill(&mut self, node: usize, until: Instant) -> Result<()> {
        self.cluster.kill(node)?;
        self.gone(node, until)
    }

    /// The process is gone: so is what was wrong with it.
    fn gone(&mut self, node: usize, until: Instant) -> Result<()> {
        self.paused.remove(&node);
        self.were_brimful.remove(&node);
        self.end_failing(node)?;
        self.down.insert(node, until);
        Ok(())
    }

    /// No fsync fails any more. A fault that none had met was cut short.
    fn end_failing(&mut self, node: usize) -> Result<()> {
        if self.failing.remove(&node).is_some() && self.controls[node].failed_fsyncs()? == 0 {
            self.fsyncs_cut_short += 1;
        }
        self.controls[node].fail_fsyncs(0)
    }

    /// Some process has met a failing fsync, and was not seen to end.
    fn has_failed(&self) -> Result<bool> {
        for node in self.failing.keys() {
            if self.controls[*node].failed_fsyncs()? > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes a file until so much is left.
    fn fill(&self, node: usize, left: u64) -> Result<()> {
        let disk = self.cluster.data(node).parent().context("a data directory lies in its disk")?;
        let mut file = fs::OpenOptions::new().create(true).append(true).open(ballast(disk))?;
        let chunk = vec![0_u8; CHUNK_BYTES];
        loop {
            let found = rustix::fs::statvfs(disk)?;
            let free = (found.f_bavail * found.f_frsize).saturating_sub(left);
            if free == 0 {
                return Ok(());
            }
            let piece = &chunk[..free.min(CHUNK_BYTES as u64) as usize];
            match std::io::Write::write_all(&mut file, piece) {
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                written => written?,
            }
        }
    }

    fn free(&self, node: usize) -> Result<()> {
        let disk = self.cluster.data(node).parent().context("a data directory lies in its disk")?;
        match fs::remove_file(ballast(disk)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed.context(HarnessFailed),
        }
    }

    /// The node's data are gone; it comes back with none.
    async fn wipe(&mut self, node: usize) -> Result<bool> {
        let former = self.cluster.status(node).await.ok().map(|status| status.node);
        self.kill(node, Instant::now())?;
        self.down.remove(&node);
        let data = self.cluster.data(node).to_owned();
        fs::rename(&data, data.with_extension("former")).context(HarnessFailed)?;
        self.wiped.insert(node, former);
        self.cluster.spawn(node).context(HarnessFailed)?;
        Ok(true)
    }

    /// The node's data are gone for ever.
    async fn lose(&mut self, node: usize) -> Result<bool> {
        let Ok(former) = self.cluster.status(node).await.map(|status| status.node) else { return Ok(false) };
        self.kill(node, Instant::now())?;
        self.down.remove(&node);
        self.destroyed = Some(Instant::now());
        self.made_good = false;
        self.replacement = Some(Replacement::begin(&mut self.cluster, node, former)?);
        Ok(true)
    }

    async fn unwipe(&mut self, node: usize) -> Result<()> {
        let Some(former) = self.wiped.get(&node).copied() else { return Ok(()) };
        // Its answers may be lost on the way for a while.
        let status = self.cluster.until_up(node).await?;
        if Some(status.node) == former || status.partitions > 0 || status.objects > 0 {
            let (id, partitions, objects) = (status.node, status.partitions, status.objects);
            let what = format!("node {node} lost its disk and came back as {id} with {partitions} partitions, {objects} objects");
            self.violations.push(format!("{what}; it was {former:?}"));
        }
        self.kill(node, Instant::now())?;
        let data = self.cluster.data(node).to_owned();
        fs::remove_dir_all(&data).context(HarnessFailed)?;
        fs::rename(data.with_extension("former"), &data).context(HarnessFailed)?;
        self.wiped.remove(&node);
        Ok(())
    }

    /// Ends what is over, starts who was away for long enough, and looks at every process. Says what it did.
    pub async fn turn(&mut self) -> Result<Vec<String>> {
        let now = Instant::now();
        let mut told = Vec::new();
        self.look_at_processes(now, &mut told).await?;
        let (over, active) = std::mem::take(&mut self.active).into_iter().partition(|active| active.until <= now);
        self.active = active;
        for Active { fault, .. } in over {
            self.end(&fault).await.with_context(|| format!("the end of: {fault}"))?;
        }
        if let Some(replacement) = &mut self.replacement
            && let Some(done) = replacement.turn(&self.cluster).await?
        {
            self.replacement = None;
            told.push(done);
        }
        if let Some(done) = self.turn_of_members().await? {
            told.push(done);
        }
        let back: Vec<usize> = self.down.iter().filter(|(_, until)| **until <= now).map(|(node, _)| *node).collect();
        for node in back.into_iter().filter(|node| !self.brimful.contains(node)) {
            self.down.remove(&node);
            self.cluster.spawn(node).context(HarnessFailed)?;
            told.push(format!("node {node} is started again"));
        }
        Ok(told)
    }

    async fn turn_of_members(&mut self) -> Result<Option<String>> {
        let Some(change) = &mut self.change else { return Ok(None) };
        let Some(id) = change.turn(&self.cluster).await? else { return Ok(None) };
        self.end_of_change(id).map(Some)
    }

    /// It has joined; or it has left, nobody needs it any more, and another one is to come in its seat.
    fn end_of_change(&mut self, id: NodeId) -> Result<String> {
        let change = self.change.take().context("a change that ends was begun")?;
        let node = change.node;
        self.comer = change.joins.then_some(id);
        if change.joins {
            self.joined += 1;
        } else {
            self.left += 1;
            if self.cluster.is_running(node) {
                self.kill(node, Instant::now())?;
            }
            membership::destroy_disk(&self.cluster, node)?;
        }
        Ok(change.told())
    }

    async fn end(&mut self, fault: &Fault) -> Result<()> {
        let node = fault.nodes[0];
        match fault.kind {
            Kind::Pause if self.paused.remove(&node) => self.cluster.signal(node, Signal::CONT).context(HarnessFailed),
            Kind::Partition | Kind::PartitionOneWay => {
                let pairs = pairs(fault, self.controls.len());
                self.network()?.mend(&pairs)
            }
            Kind::Loss => self.network()?.keep(node),
            Kind::FullDisk => {
                self.look_at_full(node).await;
                if self.brimful.contains(&node) { Ok(()) } else { self.free(node) }
            }
            Kind::BrimfulDisk => {
                self.brimful.remove(&node);
                self.free(node)
            }
            Kind::SlowFsync => self.controls[node].delay_fsyncs(Duration::ZERO),
            Kind::ClockJump => {
                self.controls[node].shift_wall_clock(0)?;
                self.clocks.set_right(node, wall_ms());
                Ok(())
            }
            Kind::WipedDisk => self.unwipe(node).await,
            Kind::Pause
            | Kind::Kill
            | Kind::KillSeveral
            | Kind::KillAll
            | Kind::FailingFsync
            | Kind::LostDisk
            | Kind::Members => Ok(()),
        }
    }

    /// A node on a full disk answers, and has refused writes if there were any. One that is away or slow for another reason says
    /// nothing.
    async fn look_at_full(&mut self, node: usize) {
        if let Ok(status) = self.cluster.status(node).await {
            self.refusals_seen += u64::from(status.counters.get("writes_refused_space").is_some_and(|count| *count > 0));
        }
    }

    async fn look_at_processes(&mut self, now: Instant, told: &mut Vec<String>) -> Result<()> {
        for node in 0..self.controls.len() {
            if let Some(status) = self.cluster.ended(node)? {
                // One whose disk fails as it starts cannot write who it is.
                let refused = matches!(status.code(), Some(STORAGE_FAILED | DATA_DIR_FAILED));
                let fsync_failed = self.controls[node].failed_fsyncs()? > 0;
                if refused && (fsync_failed || self.brimful.contains(&node) || self.met_a_full_disk(node)) {
                    self.fail_stops += 1;
                    if fsync_failed {
                        self.fsync_stops += 1;
                        self.failing.remove(&node);
                    }
                    told.push(format!("node {node} stopped with exit code {}, as it must", status.code().unwrap_or(-1)));
                } else {
                    let (code, signal) = (status.code(), status.signal());
                    self.violations.push(format!("node {node} ended by itself: exit code {code:?}, signal {signal:?}"));
                }
                self.gone(node, now)?;
            }
            self.look_at_failing(node, now).await?;
        }
        Ok(())
    }

    /// The process that ran last had nothing free for a while, and says that it ended for that.
    fn met_a_full_disk(&self, node: usize) -> bool {
        self.were_brimful.contains(&node) && self.cluster.log(node).lines().next_back().is_some_and(is_for_want_of_room)
    }

    /// There is room again on all disks. A process that found none a moment ago is on its way out: it is gone, or has fsynced its log
    /// since, which it never does after a failure.
    async fn until_none_is_on_its_way_out(&mut self, told: &mut Vec<String>) -> Result<()> {
        let mut before = BTreeMap::new();
        for node in &self.were_brimful {
            before.insert(*node, self.controls[*node].log_fsyncs_done()?);
        }
        let since = Instant::now();
        while !self.were_brimful.is_empty() && since.elapsed() < FAIL_STOP_MAX {
            tokio::time::sleep(LOOK).await;
            self.look_at_processes(Instant::now(), told).await?;
            for (node, before) in &before {
                // The first may have begun before.
                if self.controls[*node].log_fsyncs_done()? >= before + 2 {
                    self.were_brimful.remove(node);
                }
            }
        }
        self.were_brimful.clear();
        Ok(())
    }

    /// After a failed fsync nothing may be acknowledged any more: the process has to be gone soon. And without an fsync nothing may
    /// be acknowledged at all.
    async fn look_at_failing(&mut self, node: usize, now: Instant) -> Result<()> {
        let is_due = |failing: &Failing| now.duration_since(failing.since) >= FAIL_STOP_MAX;
        if self.paused.contains(&node) || !self.failing.get(&node).is_some_and(is_due) {
            return Ok(());
        }
        let puts = self.puts_acknowledged(node).await;
        let failed = self.controls[node].failed_fsyncs()?;
        match self.failing.get(&node).map(|failing| failing.seen(failed, puts)) {
            Some(Seen::Acknowledged) => {
                let again = Failing { since: now, puts_before: puts, has_acknowledged: true };
                self.failing.insert(node, again);
                return Ok(());
            }
            Some(Seen::GoesOn) => {
                self.violations.push(format!("an fsync of node {node} failed, and it goes on {FAIL_STOP_MAX:?} later"));
            }
            Some(Seen::NeverFsyncs) => {
                self.violations.push(format!("node {node} acknowledged writes, and fsynced nothing {FAIL_STOP_MAX:?} later"));
            }
            Some(Seen::Idle) | None => {}
        }
        self.failing.remove(&node);
        self.controls[node].fail_fsyncs(0)
    }

    /// Nodes that have acknowledged writes of which nothing can be on stable storage, for people.
    pub async fn acknowledged_without_fsync(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for (node, control) in self.controls.iter().enumerate().filter(|_| self.tools.library.is_some()) {
            if let Some(puts) = self.puts_acknowledged(node).await.filter(|puts| *puts > 0)
                && control.log_fsyncs_done()? == 0
            {
                found.push(format!("node {node} acknowledged {puts} writes and never fsynced its log"));
            }
        }
        Ok(found)
    }

    /// Fsyncs were to fail, long enough for one to come, and no node noticed one.
    pub fn unnoticed_fsyncs(&self) -> Option<String> {
        let made = self.made.get(&Kind::FailingFsync).copied().unwrap_or_default();
        let noticed = self.fsync_stops > 0 || made <= self.fsyncs_cut_short;
        (!noticed).then(|| format!("{made} times the next fsync of a node was to fail, and none stopped"))
    }

    async fn start_those_that_are_away(&mut self) -> Result<()> {
        for node in self.away() {
            self.cluster.spawn(node).context(HarnessFailed)?;
        }
        self.down.clear();
        for node in 0..self.controls.len() {
            self.cluster.until_up(node).await?;
        }
        Ok(())
    }

    /// Ends every fault and starts every node. Says what it did.
    pub async fn heal(&mut self) -> Result<Vec<String>> {
        let mut told = Vec::new();
        self.look_at_processes(Instant::now(), &mut told).await?;
        for Active { fault, .. } in std::mem::take(&mut self.active) {
            self.end(&fault).await.with_context(|| format!("the end of: {fault}"))?;
        }
        if let Some(network) = &mut self.tools.network {
            network.heal()?;
        }
        self.until_none_is_on_its_way_out(&mut told).await?;
        // One whose fsync failed a moment ago is on its way out, or goes on and is found out.
        while self.has_failed()? {
            tokio::time::sleep(LOOK).await;
            self.look_at_processes(Instant::now(), &mut told).await?;
        }
        for node in 0..self.controls.len() {
            self.end_failing(node)?;
            self.look_at_processes(Instant::now(), &mut told).await?;
        }
        self.start_those_that_are_away().await?;
        if let Some(replacement) = self.replacement.take() {
            told.push(replacement.finish(&self.cluster).await?);
        }
        if let Some(change) = &mut self.change {
            let id = change.finish(&self.cluster).await?;
            told.push(self.end_of_change(id)?);
            self.start_those_that_are_away().await?;
        }
        Ok(told)
    }
}

/// Where a node runs, on what the machine gives.
fn seat(node: usize, cluster: &Cluster, tools: &Tools, control: &Control) -> Result<Seat> {
    let mut seat = Seat::loopback();
    seat.settings = format!("storage: {{write_buffer_bytes: 4194304, block_cache_bytes: 8388608}}\n{}", sessions::SETTINGS);
    if tools.network.is_some() {
        seat.host = network::address(node);
        seat.launcher = network::launcher(node);
    }
    if let Some(library) = &tools.library {
        seat.environment.extend(control.environment(library));
    }
    if node < tools.small_disks {
        let disk = cluster.folder().join(format!("disk-{node}"));
        fs::create_dir(&disk)?;
        let Some(shown) = disk.to_str().filter(|path| !path.contains(' ')) else {
            bail!("TMPDIR: {} has a space or is no text; choose another", disk.display());
        };
        network::command(&format!("mount -t tmpfs -o size={DISK_BYTES} chaos-disk {shown}"))?;
        seat.data = Some(disk.join("data"));
        seat.settings.push_str(&format!("disk_reserve_bytes: {RESERVE_BYTES}\n"));
    }
    Ok(seat)
}

/// Whether a node's last words name it.
fn is_for_want_of_room(last_words: &str) -> bool {
    last_words.starts_with("dynamo-node: ") && last_words.contains("No space left on device")
}

fn ballast(disk: &std::path::Path) -> PathBuf {
    disk.join("ballast")
}

/// Who does not hear whom, as (from, to).
fn pairs(fault: &Fault, count: usize) -> Vec<(usize, usize)> {
    let (one, other): (Vec<usize>, Vec<usize>) = (0..count).partition(|node| fault.nodes.contains(node));
    let across = one.iter().flat_map(|one| other.iter().map(|other| (*one, *other)));
    match fault.kind {
        Kind::PartitionOneWay => across.collect(),
        _ => across.flat_map(|(one, other)| [(one, other), (other, one)]).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_acknowledges_writes_and_fsyncs_nothing_is_told_from_an_idle_one() {
        let first = Failing { since: Instant::now(), puts_before: Some(5), has_acknowledged: false };
        assert_eq!(first.seen(0, Some(5)), Seen::Idle);
        assert_eq!(first.seen(0, None), Seen::Idle, "it does not answer");
        assert_eq!(first.seen(0, Some(6)), Seen::Acknowledged, "it may have done so a moment ago");
        assert_eq!(first.seen(1, Some(6)), Seen::GoesOn);
        let again = Failing { has_acknowledged: true, ..first };
        assert_eq!(again.seen(0, Some(6)), Seen::NeverFsyncs);
        assert_eq!(again.seen(0, None), Seen::NeverFsyncs);
        assert_eq!(again.seen(1, Some(6)), Seen::GoesOn);
    }

    #[test]
    fn a_node_that_ends_for_want_of_room_says_so_in_its_last_words() {
        assert!(is_for_want_of_room("dynamo-node: storage: fsync of the log: IO error: No space left on device"));
        // What it goes on after, and what it ended for otherwise.
        assert!(!is_for_want_of_room("2026-11-30T00:09:57.048847Z  WARN tried again error=IO error: No space left on device"));
        assert!(!is_for_want_of_room("dynamo-node: storage: fsync of the log: IO error: Input/output error"));
    }

    #[test]
    fn a_partition_cuts_both_ways_and_a_one_way_partition_one() {
        let mut fault = Fault { kind: Kind::Partition, nodes: vec![1], amount: 0, at: Duration::ZERO, lasts: Duration::ZERO };
        assert_eq!(pairs(&fault, 3), [(1, 0), (0, 1), (1, 2), (2, 1)]);
        fault.kind = Kind::PartitionOneWay;
        assert_eq!(pairs(&fault, 3), [(1, 0), (1, 2)]);
    }
}
