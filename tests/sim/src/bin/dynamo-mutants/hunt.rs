//! The hunt for one mutant: some seeds of the simulator, then the directed tests, then more seeds, until something fails.

use std::error::Error;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::schemata::VARIABLE;
use crate::workshop::Programs;

/// One program may take this long; a mutant that hangs has to be looked at.
const PATIENCE: Duration = Duration::from_secs(240);

/// So many seeds find most mutants; what they do not find the directed tests find sooner than more seeds.
pub const FIRST_SEEDS: u64 = 200;

/// What came of it.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// This seed, the first that failed, with this violation.
    Seed(u64, String),
    /// No seed did; this test did.
    Test(String),
    /// Nothing failed.
    Lives,
}

/// Hunts for mutant `number`, 0 is none, with `first` seeds before the directed tests and `seeds` in all.
pub fn hunt(programs: &Programs, number: u32, first: u64, seeds: u64) -> Result<Verdict, Box<dyn Error>> {
    let first = first.min(seeds);
    if let Some(verdict) = failing_seed(programs, number, 1, first)? {
        return Ok(verdict);
    }
    if let Some(verdict) = failing_test(programs, number)? {
        return Ok(verdict);
    }
    Ok(failing_seed(programs, number, first + 1, seeds - first)?.unwrap_or(Verdict::Lives))
}

fn failing_seed(programs: &Programs, number: u32, from: u64, seeds: u64) -> Result<Option<Verdict>, Box<dyn Error>> {
    let (from, seeds) = (from.to_string(), seeds.to_string());
    let (text, _) = run(&programs.simulator, number, &["--threads", "1", "--from", &from, "--seeds", &seeds])?;
    let failed = text.lines().find_map(|line| line.strip_prefix("seed ")?.split_once(": "));
    failed.map(|(seed, violation)| Ok(Verdict::Seed(seed.parse()?, violation.to_owned()))).transpose()
}

fn failing_test(programs: &Programs, number: u32) -> Result<Option<Verdict>, Box<dyn Error>> {
    for test in &programs.tests {
        let (text, passed) = run(test, number, &["--test-threads", "1"])?;
        if !passed {
            let failed = text.lines().find_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
            return Ok(Some(Verdict::Test(failed.map_or_else(|| test.display().to_string(), str::to_owned))));
        }
    }
    Ok(None)
}

/// What a program prints, and whether it was content.
fn run(program: &Path, number: u32, arguments: &[&str]) -> Result<(String, bool), Box<dyn Error>> {
    let mut command = Command::new(program);
    command.args(arguments).env(VARIABLE, number.to_string());
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut stdout = child.stdout.take().ok_or("the program has no output")?;
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if begun.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            return Err(format!("mutant {number}: {} does not end", program.display()).into());
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let text = reader.join().map_err(|_| "the reader of its output failed")??;
    Ok((text, status.success()))
}
