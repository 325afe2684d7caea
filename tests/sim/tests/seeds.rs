//! Histories drawn from seeds: some of every day, and for ever those that once failed (`seeds.txt`).

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use dynamo_sim::options::Options;
use dynamo_sim::run::{Outcome, run};
use dynamo_sim::totals::Totals;

/// Seeds of the daily run. Many more are run by `cargo run -p dynamo-sim -- --seeds 30000`.
const SEEDS: u64 = 1_500;

fn check(seed: u64) -> Outcome {
    let outcome = run(&Options::from_seed(seed), false);
    if let Some(violation) = outcome.violation {
        panic!("seed {seed}: {violation}\nreplay: cargo run -p dynamo-sim -- --seed {seed}");
    }
    outcome
}

/// Runs every seed, on as many threads as there are cores, and says what happened in all of them together.
fn check_all(seeds: &[u64]) -> Totals {
    let next = AtomicU64::new(0);
    let totals = Mutex::new(Totals::default());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    let of_seed = check(*seed).totals;
                    *totals.lock().expect("no seed failed") += &of_seed;
                }
            });
        }
    });
    totals.into_inner().expect("no seed failed")
}

#[test]
fn every_promise_holds_in_hundreds_of_histories() {
    let totals = check_all(&(1..=SEEDS).collect::<Vec<_>>());
    assert_eq!(totals.runs, SEEDS);
    assert_eq!(totals.never(), [""; 0], "this never happened, so it is not tested");
}

#[test]
fn seeds_that_once_failed_do_not_fail_again() {
    let lines = include_str!("../seeds.txt").lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let seeds: Vec<u64> = lines.filter(|line| !line.is_empty()).map(|line| line.parse().expect("a seed is a number")).collect();
    check_all(&seeds);
}

#[test]
fn one_seed_is_one_history() {
    for seed in [100, 200, 300, 400, 500] {
        assert_eq!(check(seed).trace_hash, check(seed).trace_hash, "seed {seed}");
    }
}
