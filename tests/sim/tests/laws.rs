//! Laws over whole histories that are not those of one history.

use std::time::Duration;

use dynamo_sim::options::Options;
use dynamo_sim::run::run;

/// I5, and Riak's sibling_explosion: clients that read, change and write in turns on one key.
#[test]
fn clients_that_read_first_make_no_more_siblings_than_they_are() {
    let mut siblings = 0;
    for seed in 1..=5 {
        let mut options = Options::calm(seed, 5);
        options.workload.clients = 6;
        options.workload.think = Duration::from_millis(5);
        options.workload.reads_first = true;
        options.faults.duration = Duration::from_secs(10);
        let outcome = run(&options, false);
        assert_eq!(outcome.violation, None, "seed {seed}");
        assert!(outcome.totals.writes_ok > 1_000, "seed {seed}: {} writes", outcome.totals.writes_ok);
        siblings += outcome.totals.gets_of_two + outcome.totals.gets_of_three;
    }
    assert!(siblings > 0, "they never met");
}

/// I15: whatever the wall clocks say, the same happens. Apart from buckets that ask for them, and from the stamps by which an object
/// remembers the last writes with request ids.
#[test]
fn wall_clocks_change_nothing() {
    let history = |seed, skew| {
        let mut options = Options::from_seed(seed);
        options.skew = skew;
        options.buckets.clear();
        options.workload.request_ids = 0.0;
        let outcome = run(&options, false);
        assert_eq!(outcome.violation, None, "seed {seed}, clocks {skew:?} apart");
        outcome.trace_hash
    };
    for seed in 1..=20 {
        let hours = Duration::from_secs(5 * 3_600);
        assert_eq!(history(seed, Duration::ZERO), history(seed, hours), "seed {seed}");
    }
}
