//! Paper 6.2, figure 8: ensuring uniform load distribution.

use dynamo_sim::strategies::{Comparison, Strategy, compare};

/// Of the three strategies, with the same amount of membership metadata on each node, the third balances best and the second worst.
#[test]
fn with_equal_metadata_strategy_3_balances_best_and_strategy_2_worst() {
    let comparison = Comparison { most: 256, seeds: 20, ..Comparison::default() };
    let rows = compare(&comparison, |_| ()).unwrap();
    assert_eq!(rows.len(), 6);
    for row in &rows {
        let mean = |strategy: Strategy| row.efficiencies[strategy as usize].mean;
        let [first, second, third, planned] = Strategy::ALL.map(mean);
        assert!(second < first && first < third && third < planned, "{row:?}");
    }
    let worst_planned = rows.iter().map(|row| row.efficiencies[Strategy::Planned as usize].least).fold(1.0, f64::min);
    assert!(worst_planned > 0.999, "a planned ring is as even as whole partitions allow: {worst_planned}");
}

/// More tokens make any of them more even; the third needs the fewest entries for the same evenness, by far.
#[test]
fn strategy_3_needs_a_small_part_of_the_metadata_of_strategy_1_for_the_same_balance() {
    let rows = compare(&Comparison { most: 512, seeds: 20, ..Comparison::default() }, |_| ()).unwrap();
    let mean = |at: usize, strategy: Strategy| rows[at].efficiencies[strategy as usize].mean;
    for strategy in [Strategy::Tokens, Strategy::TokensOverPartitions, Strategy::EqualPartitions] {
        assert!(mean(0, strategy) < mean(rows.len() - 1, strategy), "{strategy:?}");
    }
    // With eight times the entries strategy 2 has the tokens of strategy 1: its partitions are what it pays for.
    for at in 3..rows.len() {
        let (second, first) = (mean(at, Strategy::TokensOverPartitions), mean(at - 3, Strategy::Tokens));
        assert!((second - first).abs() < 0.02, "strategy 2: {second}, strategy 1 with an eighth of the entries: {first}");
    }
    let least = mean(0, Strategy::EqualPartitions);
    let as_even = (0..rows.len()).find(|at| mean(*at, Strategy::Tokens) >= least).unwrap_or(rows.len());
    assert!(as_even >= 3, "strategy 1 is as even as strategy 3 with 8 times the metadata at the soonest: {rows:?}");
}
