//! The shapes of YCSB's workloads: what share of the operations reads, replaces, adds, or reads and then replaces.

use clap::ValueEnum;

/// YCSB's letters. E scans ranges of keys, which a hash table does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Shape {
    /// 50 % gets, 50 % updates.
    A,
    /// 95 % gets, 5 % updates.
    B,
    /// Gets only.
    C,
    /// 95 % gets, most of them of the newest records, 5 % inserts.
    D,
    /// 50 % gets, 50 % gets followed by an update of what was got.
    F,
    /// Updates only: not one of YCSB's, but what a put costs.
    Update,
}

/// One operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Get a record.
    Get,
    /// Replace a record.
    Update,
    /// Add a record.
    Insert,
    /// Get a record and replace it.
    ReadModifyWrite,
}

impl Shape {
    /// Gets among a hundred operations.
    pub fn gets_percent(self) -> u64 {
        match self {
            Shape::A | Shape::F => 50,
            Shape::B | Shape::D => 95,
            Shape::C => 100,
            Shape::Update => 0,
        }
    }

    /// The operation that a random number stands for.
    pub fn action(self, random: u64) -> Action {
        if random % 100 < self.gets_percent() {
            return Action::Get;
        }
        match self {
            Shape::D => Action::Insert,
            Shape::F => Action::ReadModifyWrite,
            Shape::A | Shape::B | Shape::C | Shape::Update => Action::Update,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shape_has_its_operations_in_its_shares() {
        let shares = |shape: Shape| {
            let count = |action| (0..100).filter(|random| shape.action(*random) == action).count();
            [count(Action::Get), count(Action::Update), count(Action::Insert), count(Action::ReadModifyWrite)]
        };
        assert_eq!(shares(Shape::A), [50, 50, 0, 0]);
        assert_eq!(shares(Shape::B), [95, 5, 0, 0]);
        assert_eq!(shares(Shape::C), [100, 0, 0, 0]);
        assert_eq!(shares(Shape::D), [95, 0, 5, 0]);
        assert_eq!(shares(Shape::F), [50, 0, 0, 50]);
        assert_eq!(shares(Shape::Update), [0, 100, 0, 0]);
    }
}
