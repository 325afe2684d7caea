//! A scenario from its first line to its end.
//!
//! Without a seed every line must do what it says. With one, what the faults do may keep a line from coming true, so a wait ends
//! after a while; what counts is the end. There the faults stop, the spec becomes what the scenario asked for last, and then the
//! cluster must settle, stay settled without another write (O4), end as the clean run did (O5), and give back every write (I1).

use std::collections::BTreeMap;

use dynamo_scenarios::{Bucket, Create, Scenario, Step, Until};
use serde_json::{Value, json};

use crate::end_state::EndState;
use crate::faults::{CrashPoint, Fault, Faults};
use crate::invariants::Violation;
use crate::{ROUNDS_MAX, World, image, listed};

/// Rounds that a wait takes at most in a run with a seed.
const WAIT_SEEDED: u64 = 1500;
/// Rounds in which hints are delivered and what the status tells comes to rest, before it is looked whether anything is written.
const REST: u64 = 200;
/// Passes without a write that show that it has settled.
const QUIET_PASSES: usize = 5;

/// How a run goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Not at all.
    Clean,
    /// The operator dies once.
    Crash(CrashPoint),
    /// As a seed has it.
    Seeded(u64),
}

/// A run that kept every promise.
pub struct Played {
    /// How it ended.
    pub end: EndState,
    /// The same in lines.
    pub lines: String,
    /// Calls of the operator that change something.
    pub calls: u64,
    /// Rounds.
    pub rounds: u64,
    /// What went wrong on the way.
    pub faults: BTreeMap<Fault, u64>,
    /// The last lines of what happened.
    pub trace: String,
}

/// A run that broke a promise.
#[derive(Debug)]
pub struct Failure {
    /// Which, and how.
    pub violations: Vec<Violation>,
    /// The last lines of what happened.
    pub trace: String,
}

struct Player<'a> {
    world: World,
    mode: Mode,
    scenario: &'a Scenario,
    replicas: u32,
    image: String,
    buckets: Vec<Bucket>,
    paused: bool,
}

/// Plays `scenario`; `clean` is the end of its clean run, if that is known.
pub fn play(scenario: &Scenario, mode: Mode, clean: Option<&EndState>) -> Result<Played, Failure> {
    let Some(Step::Create(create)) = scenario.steps.first() else { panic!("{} begins with create", scenario.name) };
    let faults = match mode {
        Mode::Clean => Faults::none(),
        Mode::Crash(at) => Faults::crash(at),
        Mode::Seeded(seed) => Faults::seeded(seed),
    };
    let world = World::create(create, faults);
    let (image, buckets) = (image(&create.image), create.buckets.clone());
    let mut player = Player { world, mode, scenario, replicas: create.replicas, image, buckets, paused: false };
    player.run();
    let end = player.end(clean);
    let lines = player.world.end_in_lines();
    let stage = player.world.stage();
    if !stage.checks.violations.is_empty() {
        return Err(Failure { violations: stage.checks.violations.clone(), trace: stage.trace() });
    }
    let (calls, rounds) = (stage.calls, stage.kubernetes.now());
    Ok(Played { end, lines, calls, rounds, faults: stage.faults.counts().clone(), trace: stage.trace() })
}

impl Player<'_> {
    fn seeded(&self) -> bool {
        matches!(self.mode, Mode::Seeded(_))
    }

    fn run(&mut self) {
        for step in &self.scenario.steps[1..] {
            self.world.stage().tell(|| format!("--- {step:?}"));
            if !self.step(step) && !self.seeded() {
                let failed = format!("{step:?} did not come true");
                self.world.stage().violated("O5", failed);
                return;
            }
        }
    }

    /// Whether the line came true.
    fn step(&mut self, step: &Step) -> bool {
        let pod = |pod: &String| format!("cart-{pod}");
        match step {
            Step::Create(_) => panic!("{} creates twice", self.scenario.name),
            Step::Recreate(create) => {
                (self.replicas, self.image, self.buckets) = (create.replicas, image(&create.image), create.buckets.clone());
                return self.recreate(create);
            }
            Step::Write(keys) => return self.world.write(*keys) == *keys,
            Step::Verify => return self.seeded() || self.verify(),
            Step::Scale(replicas) => {
                self.replicas = *replicas;
                return self.ask("replicas", json!(replicas));
            }
            Step::Image(name) => {
                self.image = image(name);
                return self.ask("image", json!(image(name)));
            }
            Step::Bucket(bucket) => {
                bucket.clone().set(&mut self.buckets);
                return self.ask("buckets", listed(&self.buckets));
            }
            Step::DropBucket(name) => {
                self.buckets.retain(|bucket| bucket.name != *name);
                return self.ask("buckets", listed(&self.buckets));
            }
            Step::Pause(paused) => {
                self.paused = *paused;
                return self.ask("rebalancing", json!({ "paused": paused }));
            }
            Step::Refuse(replicas) => {
                self.world.repair_spec();
                return matches!(self.world.ask("replicas", json!(replicas)), Err(error) if error.contains("spec.replicas"));
            }
            Step::Kill(name) => self.world.kill(&pod(name)),
            Step::Hold(name) => self.world.hold(&pod(name)),
            Step::Release(name) => self.world.release(&pod(name)),
            Step::LoseVolume(name) if self.seeded() => self.world.befall_volume(&pod(name)),
            Step::LoseVolume(name) => self.world.lose_volume(&pod(name)),
            Step::RestartOperator => self.world.restart_operator(),
            Step::Wait(until) => return self.wait(until),
            Step::ExpectVolumes(volumes) => return self.world.volumes() == *volumes as usize,
            Step::ExpectMembers(members) => {
                return self.world.ring().is_some_and(|ring| ring.members.len() == *members as usize);
            }
        }
        true
    }

    /// Whether the cluster, and then all that was its, has gone in time.
    fn recreate(&mut self, create: &Create) -> bool {
        self.world.delete();
        let gone = (0..ROUNDS_MAX).any(|_| {
            self.world.round();
            self.world.stage().is_empty()
        });
        if gone {
            self.world.create_again(create);
        }
        gone
    }

    fn ask(&mut self, field: &str, value: Value) -> bool {
        self.world.repair_spec();
        self.world.ask(field, value).is_ok()
    }

    fn wait(&mut self, until: &Until) -> bool {
        let most = if self.seeded() { WAIT_SEEDED } else { ROUNDS_MAX };
        for _ in 0..most {
            if self.is_so(until) {
                return true;
            }
            if !self.world.stage().checks.violations.is_empty() {
                return true;
            }
            self.world.round();
        }
        false
    }

    fn is_so(&self, until: &Until) -> bool {
        match until {
            Until::Settled => self.world.has_settled(),
            Until::Moving => self.world.has_settled() || self.world.ring().is_some_and(|ring| ring.moving().next().is_some()),
            Until::Pods(pods) => self.world.pods() == *pods as usize,
            Until::Stuck(pods) => self.world.stuck() == *pods as usize,
            Until::Condition { kind, status } => {
                matches!(self.world.condition(kind), Some((is, _, current)) if is == *status && current)
            }
        }
    }

    fn verify(&mut self) -> bool {
        let unread = self.world.unread();
        for lost in &unread {
            self.world.stage().violated("I1", lost.clone());
        }
        unread.is_empty()
    }

    /// Everything heals, and then everything must be well.
    fn end(&mut self, clean: Option<&EndState>) -> EndState {
        self.world.heal();
        let (replicas, image) = (self.replicas, self.image.clone());
        self.ask("replicas", json!(replicas));
        self.ask("image", json!(image));
        self.ask("buckets", listed(&self.buckets));
        self.ask("rebalancing", json!({ "paused": self.paused }));
        if self.world.stage().checks.violations.is_empty() && !self.wait_to_the_end() {
            let told = format!("never settled; Ready is {:?}", self.world.condition("Ready"));
            self.world.stage().violated("O5", told);
        }
        if self.world.stage().checks.violations.is_empty() {
            (0..REST).for_each(|_| self.world.round());
            self.stays_quiet();
            self.verify();
            self.world.stage().check_objects();
        }
        let end = self.world.end_state();
        if self.world.stage().checks.violations.is_empty() {
            for difference in clean.map(|clean| end.differences(clean)).unwrap_or_default() {
                self.world.stage().violated("O5", difference);
            }
        }
        end
    }

    fn wait_to_the_end(&mut self) -> bool {
        for _ in 0..ROUNDS_MAX {
            if self.world.has_settled() {
                return true;
            }
            self.world.round();
        }
        false
    }

    /// O4: no pass writes anything any more.
    fn stays_quiet(&mut self) {
        // The one that tells what has come to rest since the last.
        self.world.pass(0);
        let before = self.world.stage().calls;
        for _ in 0..QUIET_PASSES {
            self.world.pass(0);
        }
        let written = self.world.stage().calls - before;
        if written > 0 {
            self.world.stage().violated("O4", format!("{written} writes in {QUIET_PASSES} passes after it had settled"));
        }
    }
}
