//! The rounds: faults for a while, then everything is healed, has to become equal, and is judged; and again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dynamo_client::Mode;
use dynamo_core::random::Random;
use dynamoctl::workload::checker::Outcome;
use dynamoctl::workload::clients::{self, Shared};
use dynamoctl::workload::judge_once;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::HarnessFailed;
use super::control;
use super::nemesis::{Nemesis, Tools};
use super::network::Network;
use super::sandbox;
use super::schedule::{self, Kind, Nodes};
use super::sessions::{Judged, Sessions};
use super::wishes::Wishes;

/// Members, and one more node that joins and leaves.
const NODES: usize = 5;
const COMERS: usize = 1;
/// The first of them lie on disks with a size of our own, where such may be had.
const SMALL_DISKS: usize = 2;
const CLIENTS: usize = 16;
const KEYS: usize = 300;
/// Of each of the other workloads.
const OTHER_CLIENTS: usize = 6;
/// Of one client between two steps: some 300 steps a second of all together.
const PAUSE: Duration = Duration::from_millis(50);
/// Faults of one round.
const ROUND: Duration = Duration::from_secs(60);
/// What healing, settling and judging usually take.
const AFTER_ROUND: Duration = Duration::from_secs(20);
/// A round with less time is not begun.
const ROUND_MIN: Duration = Duration::from_secs(20);
/// Between two turns of the nemesis.
const TURN: Duration = Duration::from_millis(50);
/// Until a fault whose target is away is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// Between two lines of progress.
const LINE: Duration = Duration::from_secs(10);
/// With everything healed, requests have to succeed again within this.
const SERVE_MAX: Duration = Duration::from_secs(30);
/// Of a problem told in short.
const LINE_CHARS: usize = 200;
/// So often keys are read once more that could not be read.
const JUDGED_AGAIN: u32 = 8;
/// Of so many keys one may show, at the end of a round, a write that was replaced, since nodes need not remember its id any more.
/// An attempt is followed by the next within 2.5 s, in which a key gets two or three writes with ids, so eight of them come
/// between only where a clock was wrong; and what shows so is replaced by the next client that reads the key and writes it, a
/// second later. More of them are no accident: then nodes do not hide what they remember.
const KEYS_PER_RESURFACED: usize = 10;
/// Rounds of anti-entropy in which nothing may be repaired.
const IDLE_ROUNDS: u64 = 2;

/// The exit code when nodes did what they must not.
pub const VIOLATED: u8 = 1;
/// The exit code when nothing can be said of them.
pub const HARNESS_FAILED: u8 = 3;

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long.
    pub length: Duration,
    /// Whence the schedule and the clients' choices.
    pub seed: u64,
}

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing was wrong.
    Good,
    /// Something was, and was printed.
    Bad,
    /// A tool of the harness failed, which says nothing about the nodes.
    Unknown,
    /// It was told to stop.
    Interrupted,
}

/// Runs until the time is over or `stop` completes.
pub async fn run(options: Options, refusal: Option<String>, stop: impl Future<Output = ()>) -> Result<Verdict> {
    let (tools, kinds) = here(refusal.as_deref())?;
    let small_disks = tools.small_disks;
    let nemesis = Nemesis::start(NODES, COMERS, tools).await?;
    let client = nemesis.cluster.client().await?;
    let both = vec![client.clone(), nemesis.cluster.client_by(Mode::Unary).await?];
    let name = format!("chaos-{:x}", options.seed);
    let wishes = Arc::new(Wishes::new(both.clone(), name.clone()));
    let sessions = Arc::new(Sessions::new(both, name.clone(), Arc::clone(&nemesis.clocks)));
    let shared = Arc::new(Shared::new(client, "chaos".into(), name, KEYS));
    let mut run = Run {
        options,
        kinds,
        small_disks,
        nemesis,
        shared,
        wishes,
        sessions,
        started: Instant::now(),
        rounds: 0,
        whole_rounds: 0,
        problems: Vec::new(),
        harness_failed: None,
    };
    let ended = tokio::select! {
        result = run.all_rounds() => Some(result),
        () = stop => None,
    };
    let Some(result) = ended else { return Ok(Verdict::Interrupted) };
    if let Err(error) = result {
        run.failed(&error);
    }
    Ok(run.report())
}

/// Prints which faults can be made here.
pub fn list_faults(refusal: Option<&str>) -> Result<()> {
    let (_, kinds) = here(refusal)?;
    kinds.iter().for_each(|kind| println!("here: {kind}"));
    Ok(())
}

/// What the machine gives, and the faults that can be made with it.
fn here(refusal: Option<&str>) -> Result<(Tools, Vec<Kind>)> {
    let tools = tools(refusal)?;
    let (kinds, not_here): (Vec<Kind>, Vec<Kind>) = Kind::ALL.into_iter().partition(|kind| can(&tools, *kind));
    not_here.iter().for_each(|kind| println!("not here: {kind}"));
    Ok((tools, kinds))
}

fn tools(refusal: Option<&str>) -> Result<Tools> {
    let library = control::library();
    if library.is_none() {
        println!("libdynamo_preload.so is not beside this program: build it with `cargo build -p dynamo-preload`");
    }
    if let Some(refusal) = refusal {
        println!("no namespaces, so the nodes are on loopback: {refusal}");
    }
    let inside = sandbox::is_inside();
    let network = if inside { Some(Network::create(NODES + COMERS).context("the nodes' network")?) } else { None };
    Ok(Tools { network, library, small_disks: if inside { SMALL_DISKS } else { 0 } })
}

fn can(tools: &Tools, kind: Kind) -> bool {
    (!kind.needs_network() || tools.network.is_some())
        && (!kind.needs_mounts() || tools.small_disks > 0)
        && (!kind.needs_preload() || tools.library.is_some())
}

struct Run {
    options: Options,
    kinds: Vec<Kind>,
    small_disks: usize,
    nemesis: Nemesis,
    shared: Arc<Shared>,
    wishes: Arc<Wishes>,
    sessions: Arc<Sessions>,
    started: Instant,
    rounds: u64,
    /// In one of these a fault of each kind begins.
    whole_rounds: u64,
    problems: Vec<String>,
    harness_failed: Option<String>,
}

impl Run {
    /// The rounds ended early.
    fn failed(&mut self, error: &anyhow::Error) {
        if error.is::<HarnessFailed>() {
            self.harness_failed = Some(format!("{error:#}"));
        } else {
            self.problems.push(format!("{error:#}"));
        }
    }

    fn say(&self, what: &str) {
        println!("{:6.1} s  {what}", self.started.elapsed().as_secs_f64());
    }

    async fn all_rounds(&mut self) -> Result<()> {
        loop {
            let left = self.options.length.saturating_sub(self.started.elapsed() + AFTER_ROUND).min(ROUND);
            if self.rounds > 0 && left < ROUND_MIN {
                return Ok(());
            }
            self.rounds += 1;
            self.round(left.max(ROUND_MIN)).await?;
            if !self.problems.is_empty() {
                return Ok(());
            }
        }
    }

    async fn round(&mut self, length: Duration) -> Result<()> {
        let nodes = Nodes { count: NODES + COMERS, small_disks: self.small_disks, comes_and_goes: COMERS > 0 };
        let mut faults = schedule::plan(self.options.seed, self.rounds, length, nodes, &self.kinds);
        self.whole_rounds += u64::from(length == ROUND);
        self.say(&format!("round {}: {} faults in {} s", self.rounds, faults.len(), length.as_secs()));
        for fault in &faults {
            println!("            +{:4.1} s {fault}", fault.at.as_secs_f64());
        }
        faults.reverse();
        let (stop, stopped) = watch::channel(false);
        let mut clients = JoinSet::new();
        let mut source = Random::new(self.options.seed ^ self.rounds << 32);
        for _ in 0..CLIENTS {
            clients.spawn(clients::run(Arc::clone(&self.shared), Random::new(source.next_u64()), PAUSE, stopped.clone()));
        }
        for _ in 0..OTHER_CLIENTS {
            clients.spawn(Arc::clone(&self.wishes).run(Random::new(source.next_u64()), stopped.clone()));
            clients.spawn(Arc::clone(&self.sessions).run(Random::new(source.next_u64()), stopped.clone()));
        }
        let began = Instant::now();
        let mut line = Instant::now();
        while began.elapsed() < length {
            while let Some(mut fault) = faults.pop_if(|fault| fault.at <= began.elapsed()) {
                if self.nemesis.begin(&fault).await? {
                    self.say(&fault.to_string());
                } else {
                    // Its target is away, or has that already.
                    fault.at = began.elapsed() + AGAIN;
                    let place = faults.partition_point(|other| other.at > fault.at);
                    faults.insert(place, fault);
                }
            }
            for told in self.nemesis.turn().await? {
                self.say(&told);
            }
            if line.elapsed() >= LINE {
                line = Instant::now();
                self.progress();
            }
            tokio::time::sleep(TURN).await;
        }
        for fault in faults {
            *self.nemesis.skipped.entry(fault.kind).or_default() += 1;
        }
        for told in self.nemesis.heal().await.context("healing")? {
            self.say(&told);
        }
        self.say("all faults are ended, all nodes run");
        self.nemesis.cluster.until_linked().await.context("after the faults")?;
        self.until_served().await?;
        let _ = stop.send(true);
        while let Some(ended) = clients.join_next().await {
            ended.context("a client")?;
        }
        self.settle().await?;
        self.judge().await
    }

    fn progress(&self) {
        let away = self.nemesis.away();
        let away = if away.is_empty() { "all nodes run".to_owned() } else { format!("away: {away:?}") };
        self.say(&format!("{}; {away}", self.shared.tally(|tally| tally.text())));
    }

    /// Every client gets answers again: as many successes as there are clients, twice, and no failure meanwhile.
    async fn until_served(&mut self) -> Result<()> {
        let healed = Instant::now();
        let look = |shared: &Shared| shared.tally(|tally| (tally.ok, tally.operations() - tally.ok));
        let (mut ok, mut failed) = look(&self.shared);
        while healed.elapsed() < SERVE_MAX {
            tokio::time::sleep(TURN).await;
            let (ok_now, failed_now) = look(&self.shared);
            if failed_now > failed {
                (ok, failed) = (ok_now, failed_now);
            } else if ok_now >= ok + 2 * CLIENTS as u64 {
                self.say(&format!("requests succeed again, {:.1} s after the nodes were linked", healed.elapsed().as_secs_f64()));
                return Ok(());
            }
        }
        bail!("requests still fail {SERVE_MAX:?} after everything was healed")
    }

    /// No hints, equal replicas; and then anti-entropy has nothing to do.
    async fn settle(&mut self) -> Result<()> {
        let quiet = Instant::now();
        self.nemesis.cluster.until_replicas_are_equal().await?;
        self.nemesis.made_good = true;
        self.say(&format!(
            "no hints wait and all replicas are equal, {:.1} s after the last request",
            quiet.elapsed().as_secs_f64()
        ));
        let partitions = self.nemesis.cluster.newest_ring().await?.partition_count() as u64;
        let before = self.counters().await?;
        // Each node compares each of its copies with another replica: that is one round.
        let enough = |(exchanges, _): &(u64, u64), (begun, _): &(u64, u64)| *exchanges >= begun + IDLE_ROUNDS * partitions;
        let mut after = before.clone();
        let waiting = Instant::now();
        while !after.iter().zip(&before).all(|(after, before)| enough(after.1, before.1)) {
            ensure!(waiting.elapsed() < SERVE_MAX, "anti-entropy does not come round: {after:?}");
            tokio::time::sleep(TURN).await;
            after = self.counters().await?;
        }
        let repaired: Vec<String> = after
            .iter()
            .filter(|(node, (_, repairs))| *repairs != before[node].1)
            .map(|(node, (_, repairs))| format!("node {node}: {} objects", repairs - before[node].1))
            .collect();
        if !repaired.is_empty() {
            self.problems.push(format!("idle anti-entropy repairs: {}", repaired.join(", ")));
        }
        self.nemesis.cluster.until_replicas_are_equal().await
    }

    /// Exchanges begun and objects found to differ, by node, of the members.
    async fn counters(&self) -> Result<BTreeMap<usize, (u64, u64)>> {
        let ring = self.nemesis.cluster.newest_ring().await?;
        let mut counters = BTreeMap::new();
        for node in 0..NODES + COMERS {
            let status = self.nemesis.cluster.status(node).await?;
            if !ring.members.contains_key(&status.node) {
                continue;
            }
            let of = |name: &str| status.counters.get(name).copied().unwrap_or_default();
            counters.insert(node, (of("anti_entropy_exchanges"), of("anti_entropy_differences")));
        }
        Ok(counters)
    }

    async fn judge(&mut self) -> Result<()> {
        let started = tokio::time::Instant::now();
        let mut judged = judge_once(&self.shared, 1, started).await;
        // What cannot be read is no verdict; replicas that are equal are not healed by waiting.
        for attempt in 2..2 + JUDGED_AGAIN {
            if judged.unread.is_empty() || !judged.violations.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            judged = judge_once(&self.shared, attempt, started).await;
        }
        for (key, what) in judged.violations.iter().chain(&judged.unread) {
            self.problems.push(format!("{key}: {what}"));
            let index = key.trim_start_matches("key-").parse::<usize>().ok().filter(|index| *index < self.shared.key_count());
            if let Some(index) = index {
                let lines: Vec<String> = self.shared.history(index, |history| history.lines().collect());
                self.problems.push(format!("the history of {key}:\n    {}", lines.join("\n    ")));
            }
        }
        let (wishes, sessions) = (Arc::clone(&self.wishes), Arc::clone(&self.sessions));
        let destroyed = self.nemesis.destroyed;
        let with_wishes = self.judge_others(async || wishes.judge(destroyed).await).await;
        let in_sessions = self.judge_others(async || sessions.judge().await).await;
        self.problems.extend(self.nemesis.acknowledged_without_fsync().await?);
        self.problems.append(&mut self.nemesis.violations);
        let resurfaced = judged.resurfaced + with_wishes + in_sessions;
        let keys = self.shared.key_count() + self.wishes.key_count() + self.sessions.key_count();
        self.problems.extend(too_many_show_again(resurfaced, keys));
        let resurfaced = match resurfaced {
            0 => String::new(),
            count => format!("; {count} retried writes show twice or again, which nodes need not remember any more"),
        };
        self.say(&format!("round {}: {}{resurfaced}", self.rounds, judged.verdict()));
        Ok(())
    }

    /// What cannot be read is no verdict here either. Returns how many writes show twice or again, as they may.
    async fn judge_others(&mut self, judge: impl AsyncFn() -> Judged) -> usize {
        let mut judged = judge().await;
        for _ in 0..JUDGED_AGAIN {
            if judged.unread.is_empty() || !judged.violations.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            judged = judge().await;
        }
        self.problems.extend(judged.violations.into_iter().chain(judged.unread));
        judged.resurfaced
    }

    /// Of all writes with request ids those that may have been made more than once: of them alone anything is excused.
    fn repeated(&self) -> String {
        let in_common = (0..self.shared.key_count()).map(|key| self.shared.history(key, |history| history.repeated_of_named()));
        let all = in_common.chain([self.wishes.repeated_of_named(), self.sessions.repeated_of_named()]);
        let (repeated, named) = all.fold((0, 0), |sum, counts| (sum.0 + counts.0, sum.1 + counts.1));
        format!("with request ids: {named} writes, of which {repeated} may have been made more than once")
    }

    fn report(&mut self) -> Verdict {
        self.problems.append(&mut self.nemesis.violations);
        println!("\n{:24}{:>8}{:>10}", "FAULT", "MADE", "SKIPPED");
        for kind in &self.kinds {
            let of = |counts: &BTreeMap<Kind, u64>| counts.get(kind).copied().unwrap_or_default();
            println!("{kind:24}{:>8}{:>10}", of(&self.nemesis.made), of(&self.nemesis.skipped));
        }
        if self.whole_rounds > 0 && self.problems.is_empty() && self.harness_failed.is_none() {
            let never = self.kinds.iter().filter(|kind| !self.nemesis.made.contains_key(kind));
            self.problems.extend(never.map(|kind| format!("{kind} was never made, so nothing is known of it")));
            self.problems.extend(self.nemesis.unnoticed_fsyncs());
        }
        let (stops, of_fsyncs) = (self.nemesis.fail_stops, self.nemesis.fsync_stops);
        println!("nodes that stopped when their storage failed: {stops}, {of_fsyncs} of them after a failed fsync");
        println!("nodes seen to refuse writes on a full disk: {}", self.nemesis.refusals_seen);
        println!("nodes that joined: {}, nodes that left: {}", self.nemesis.joined, self.nemesis.left);
        let count = |outcome: Outcome| {
            (0..self.shared.key_count()).map(|key| self.shared.history(key, |history| history.count(outcome))).sum::<usize>()
        };
        let (acknowledged, unknown, failed) = (count(Outcome::Acknowledged), count(Outcome::Unknown), count(Outcome::Failed));
        self.shared.tally(|tally| {
            let kinds: Vec<String> = tally.failed.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
            println!(
                "{} operations: {} ok, {} of unknown outcome, failed: {}",
                tally.operations(),
                tally.ok,
                tally.unknown,
                kinds.join(", ")
            );
        });
        println!("writes: {acknowledged} acknowledged, {unknown} of unknown outcome, {failed} failed");
        println!("{}", self.wishes.told());
        println!("{}", self.sessions.told());
        println!("{}", self.repeated());
        let Options { seed, length } = self.options;
        let minutes = length.as_secs_f64() / 60.0;
        let seconds = self.started.elapsed().as_secs();
        if let Some(failed) = &self.harness_failed {
            println!("no verdict on the nodes: {failed}");
        } else if self.problems.is_empty() {
            println!("{} rounds in {seconds} s, seed {seed}: nothing lost, nothing resurrected, nothing invented", self.rounds);
            return Verdict::Good;
        }
        for problem in &self.problems {
            println!("VIOLATION: {problem}");
        }
        // A problem may have brought the log of a node along, and whoever sees the end of the output only should know what it was.
        for problem in &self.problems {
            println!("in short: {}", beginning(problem));
        }
        println!("again: make chaos MINUTES={minutes} SEED={seed}");
        self.nemesis.cluster.keep_logs();
        if self.problems.is_empty() { Verdict::Unknown } else { Verdict::Bad }
    }
}

/// What is wrong if so many writes show twice or again.
fn too_many_show_again(resurfaced: usize, keys: usize) -> Option<String> {
    let most = keys / KEYS_PER_RESURFACED;
    let told = || format!("{resurfaced} retried writes show twice or again, of {keys} keys; {most} may be forgotten by accident");
    (resurfaced > most).then(told)
}

/// Its first line, or what fits on one.
fn beginning(problem: &str) -> String {
    problem.lines().next().unwrap_or_default().chars().take(LINE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_writes_may_show_again_and_no_more() {
        for (resurfaced, keys, wrong) in [(0, 0, false), (0, 9, false), (30, 300, false), (31, 300, true), (300, 300, true)] {
            assert_eq!(too_many_show_again(resurfaced, keys).is_some(), wrong, "{resurfaced} of {keys}");
        }
    }
}
