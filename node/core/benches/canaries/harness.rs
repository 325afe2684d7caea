//! Measures canaries: CPU time of this process per operation, several rounds, the least and the median.
//!
//! CPU time and not the clock on the wall, so that other work on the machine makes a figure noisier and not larger. The least of
//! the rounds is the figure to compare: nothing makes an operation cheaper than it is.
//!
//! `make canaries`, or for this crate only `cargo bench --profile dev -p dynamo-core --bench canaries`; a word after `--` picks
//! canaries by their names, and `--json` prints a line of JSON for each. `cargo test --benches` tries each of them, so that none
//! rots.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Rounds that are measured.
const ROUNDS: usize = 15;
/// CPU time of one round, at least.
const ROUND_MIN: Duration = Duration::from_millis(20);
/// Operations of a round when they are only tried.
const TRIED: u64 = 64;

/// One thing whose cost is watched.
pub struct Canary {
    /// What it is.
    pub name: &'static str,
    /// The line of the budget of a replicated put or get that it belongs to, when that line has become too long.
    pub budget: &'static str,
    /// What the budget gives it, in nanoseconds of CPU for one operation; `None` where the line has other parts as well.
    pub budget_ns: Option<u64>,
}

/// What was asked for on the command line.
pub struct Harness {
    measures: bool,
    json: bool,
    filter: Option<String>,
    says_header: bool,
}

impl Harness {
    /// As the arguments say.
    pub fn from_arguments() -> Self {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let given = |flag: &str| arguments.iter().any(|argument| argument == flag);
        let filter = arguments.iter().find(|argument| !argument.starts_with('-')).cloned();
        Self { measures: given("--bench"), json: given("--json"), filter, says_header: true }
    }

    /// Measures `operations`, which does as many as it is told.
    pub fn measure(&mut self, canary: &Canary, mut operations: impl FnMut(u64)) {
        if self.filter.as_ref().is_some_and(|word| !canary.name.contains(word.as_str())) {
            return;
        }
        if !self.measures {
            operations(TRIED);
            return;
        }
        let mut count = TRIED;
        while cpu_of(|| operations(count)) < ROUND_MIN {
            count *= 2;
        }
        let mut rounds: Vec<f64> = (0..ROUNDS).map(|_| cpu_of(|| operations(count)).as_nanos() as f64 / count as f64).collect();
        rounds.sort_by(f64::total_cmp);
        self.print(canary, rounds[0], rounds[ROUNDS / 2], rounds[ROUNDS - 1]);
    }

    fn print(&mut self, canary: &Canary, min: f64, median: f64, max: f64) {
        let Canary { name, budget, budget_ns } = canary;
        if self.json {
            let given = budget_ns.map_or_else(|| "null".to_owned(), |ns| ns.to_string());
            println!(
                r#"{{"canary":"{name}","cpu_ns_min":{min:.1},"cpu_ns_median":{median:.1},"cpu_ns_max":{max:.1},"budget_ns":{given},"budget":"{budget}"}}"#
            );
            return;
        }
        if std::mem::take(&mut self.says_header) {
            println!("{:<44} {:>9} {:>9} {:>9} {:>9}  BUDGET", "CPU NS FOR ONE", "MIN", "MEDIAN", "MAX", "GIVEN");
        }
        let given = budget_ns.map_or_else(String::new, |ns| ns.to_string());
        println!("{name:<44} {min:>9.0} {median:>9.0} {max:>9.0} {given:>9}  {budget}");
    }
}

/// CPU time that all threads of this process took while `work` ran.
fn cpu_of(work: impl FnOnce()) -> Duration {
    let before = cpu();
    work();
    cpu().saturating_sub(before)
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), u32::try_from(time.tv_nsec).unwrap_or_default())
}
