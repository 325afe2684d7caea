//! The records that clients add. One can be asked for when it and all before it are there: inserts that run at the same time do not end
//! in the order of their numbers, and a get of one that is still on its way would find nothing and be no fault of the store.

use std::collections::BTreeSet;

/// Which numbers are taken, and which are there. As many wait as end during the slowest insert, whose time is limited.
pub struct Inserts {
    /// All below are there.
    there: u64,
    /// None from here on was tried.
    next: u64,
    /// There, behind one that is not.
    ahead: BTreeSet<u64>,
    /// An insert of it failed. The next insert is of it again: it would keep all behind it out.
    failed: BTreeSet<u64>,
}

impl Inserts {
    /// So many records were loaded.
    pub fn new(loaded: u64) -> Self {
        Self { there: loaded, next: loaded, ahead: BTreeSet::new(), failed: BTreeSet::new() }
    }

    /// How many records can be asked for.
    pub fn there(&self) -> u64 {
        self.there
    }

    /// The record that is added now.
    pub fn begin(&mut self) -> u64 {
        self.failed.pop_first().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })
    }

    /// The record was added, or that failed.
    pub fn end(&mut self, record: u64, added: bool) {
        if !added {
            self.failed.insert(record);
            return;
        }
        self.ahead.insert(record);
        while self.ahead.remove(&self.there) {
            self.there += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_there_when_all_before_it_are_and_one_that_failed_is_tried_again() {
        let mut inserts = Inserts::new(10);
        assert_eq!([inserts.begin(), inserts.begin(), inserts.begin()], [10, 11, 12]);
        inserts.end(12, true);
        inserts.end(11, false);
        assert_eq!(inserts.there(), 10);
        inserts.end(10, true);
        assert_eq!(inserts.there(), 11, "the insert of 11 failed");
        assert_eq!([inserts.begin(), inserts.begin()], [11, 13]);
        inserts.end(11, true);
        assert_eq!(inserts.there(), 13);
    }
}
