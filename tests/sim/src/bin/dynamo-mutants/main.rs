//! Whether the simulator is worth something: mistakes are made in a copy of dynamo-core, and each must be found.
//!
//! `cargo run -p dynamo-sim --bin dynamo-mutants` makes every mutant of `tests/sim/mutants.txt` in one build ([`schemata`]), then
//! hunts for each ([`hunt`]): by seeds, and by the directed tests if no seed finds it. It fails if one lives, if the list names a
//! text that is gone, or if something fails without any mutant.

mod hunt;
mod list;
mod schemata;
mod workshop;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use clap::Parser;
use dynamo_sim::dice::Dice;
use dynamo_sim::output::say;

use crate::hunt::{FIRST_SEEDS, Verdict};
use crate::list::Mutant;

/// Makes each mistake of the list and looks for the seed or test that sees it.
#[derive(Parser)]
struct Arguments {
    /// Seeds for each mutant, before the directed tests.
    #[arg(long, default_value_t = 2_000)]
    seeds: u64,
    /// All seeds before the directed tests: what do seeds alone find?
    #[arg(long)]
    seeds_first: bool,
    /// Only mutants whose name contains one of these.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only so many, chosen by `--choice`.
    #[arg(long)]
    some: Option<usize>,
    /// Chooses the mutants of `--some`; by default another choice every day.
    #[arg(long)]
    choice: Option<u64>,
}

fn main() -> ExitCode {
    match all(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("dynamo-mutants: {error}");
            ExitCode::FAILURE
        }
    }
}

fn all(arguments: &Arguments) -> Result<bool, Box<dyn Error>> {
    let begun = Instant::now();
    let sim = Path::new(env!("CARGO_MANIFEST_DIR"));
    let repository = sim.ancestors().nth(2).ok_or("the simulator is not in tests/sim")?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository.join("target"), PathBuf::from);
    let mutants = list::parse(&std::fs::read_to_string(sim.join("mutants.txt"))?)?;
    let programs = workshop::build(repository, &target, &mutants)?;
    say(format_args!("{} mutants built in {:.0} s", mutants.len(), begun.elapsed().as_secs_f64()));
    // A failure means nothing if the same seeds and tests fail without any mutant.
    match hunt::hunt(&programs, 0, FIRST_SEEDS, FIRST_SEEDS)? {
        Verdict::Lives => {}
        failed => return Err(format!("without any mutant something fails: {}", describe(&failed)).into()),
    }
    let chosen = choose(arguments, &mutants)?;
    let first = if arguments.seeds_first { arguments.seeds } else { FIRST_SEEDS };
    let hunt = |number| hunt::hunt(&programs, number, first, arguments.seeds);
    let living = hunt_all(&mutants, &chosen, hunt, |line| say(line))?;
    say(format_args!("{} mutants, {living} live; {:.0} s", chosen.len(), begun.elapsed().as_secs_f64()));
    Ok(living == 0)
}

/// The numbers of those to be hunted.
fn choose(arguments: &Arguments, mutants: &[Mutant]) -> Result<Vec<u32>, Box<dyn Error>> {
    let named = |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|only| name.contains(only));
    let hunted = mutants.iter().enumerate().filter(|(_, mutant)| mutant.same.is_none() && named(&mutant.name));
    let mut chosen: Vec<u32> = hunted.map(|(at, _)| at as u32 + 1).collect();
    if let Some(unknown) = arguments.only.iter().find(|only| !mutants.iter().any(|mutant| mutant.name.contains(*only))) {
        return Err(format!("--only {unknown}: no mutant of the list has this in its name").into());
    }
    if let Some(some) = arguments.some {
        let days = || std::time::SystemTime::UNIX_EPOCH.elapsed().map(|time| time.as_secs() / 86_400);
        let choice = arguments.choice.map_or_else(days, Ok)?;
        say(format_args!("--some {some} --choice {choice}"));
        left_out(some, chosen.len()).iter().for_each(say);
        let mut dice = Dice::new(choice);
        while chosen.len() > some {
            chosen.remove(dice.below(chosen.len()));
        }
    }
    for mutant in mutants.iter().filter(|mutant| named(&mutant.name)) {
        if let Some(same) = &mutant.same {
            say(format_args!("{:<34} is no mistake: {same}", mutant.name));
        }
    }
    Ok(chosen)
}

/// What `--some` leaves out, in the words that everything has which leaves something out: who asks for some has not seen all.
fn left_out(some: usize, all: usize) -> Option<String> {
    let others = all.checked_sub(some).filter(|others| *others > 0)?;
    Some(format!("left out: {others} mutants of {all} (`make mutants` hunts for all, and every day has another choice)"))
}

/// Hunts for them on all cores, and tells of each hunt when it ends; how many live.
fn hunt_all(
    mutants: &[Mutant],
    chosen: &[u32],
    hunt: impl Fn(u32) -> Result<Verdict, Box<dyn Error>> + Sync,
    tell: impl Fn(&str) + Sync,
) -> Result<usize, Box<dyn Error>> {
    let next = AtomicUsize::new(0);
    let living = AtomicUsize::new(0);
    let undecided = Mutex::new(Vec::new());
    let work = || {
        while let Some(number) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mutant = &mutants[*number as usize - 1];
            match hunt(*number) {
                Ok(verdict) => {
                    living.fetch_add(usize::from(matches!(verdict, Verdict::Lives)), Ordering::Relaxed);
                    tell(&format!("{:<34} {}", mutant.name, describe(&verdict)));
                    if matches!(verdict, Verdict::Lives) {
                        tell(&format!("{:<34}   {}", "", mutant.breaks));
                    }
                }
                Err(error) => {
                    tell(&format!("{:<34} UNDECIDED: {error}", mutant.name));
                    undecided.lock().unwrap_or_else(PoisonError::into_inner).push(mutant.name.as_str());
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let undecided = undecided.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !undecided.is_empty() {
        let (count, living) = (undecided.len(), living.into_inner());
        return Err(format!("{count} of {} undecided, {living} live: {}", chosen.len(), undecided.join(", ")).into());
    }
    Ok(living.into_inner())
}

fn describe(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Seed(seeds, violation) => {
            let short: String = violation.chars().take(90).collect();
            format!("killed by seed {seeds:<5} {short}")
        }
        Verdict::Test(name) => format!("killed by test {name}"),
        Verdict::Lives => "LIVES".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who waits for the other hunts meanwhile waits for an hour.
    #[test]
    fn a_hunt_that_comes_to_nothing_is_told_when_it_ends_and_named_at_the_end() {
        let mutants = list::parse(&std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("mutants.txt")).unwrap());
        let mutants = mutants.unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let told = Mutex::new(told);
        let hunt = |number| match number {
            1 => Err("it does not end".into()),
            _ => {
                // The other one is told while this one goes on.
                let line: String = told.lock().unwrap().recv_timeout(std::time::Duration::from_secs(60))?;
                assert_eq!(line, format!("{:<34} UNDECIDED: it does not end", mutants[0].name));
                Ok(Verdict::Lives)
            }
        };
        let error = hunt_all(&mutants, &[1, 2], hunt, |line| drop(tell.send(line.to_owned()))).unwrap_err().to_string();
        assert_eq!(error, format!("1 of 2 undecided, 1 live: {}", mutants[0].name));
    }

    #[test]
    fn a_choice_of_mutants_says_how_many_are_left_out() {
        for (some, all, others) in [(24, 111, Some("87")), (110, 111, Some("1")), (111, 111, None), (200, 111, None)] {
            let line = left_out(some, all);
            let told = line.as_deref().and_then(|line| line.strip_prefix("left out: ")?.split(' ').next());
            assert_eq!(told, others, "{some} of {all}: {line:?}");
        }
    }

    /// Who changes core finds out here, and not when the mutants are run.
    #[test]
    fn every_mutant_of_the_list_names_a_text_of_core() {
        let sim = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mutants = list::parse(&std::fs::read_to_string(sim.join("mutants.txt")).unwrap()).unwrap();
        assert!(mutants.len() >= 30);
        if let Err(error) = workshop::woven(&sim.join("../../node/core/src"), &mutants) {
            panic!("{error}");
        }
    }
}
