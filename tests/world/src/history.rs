//! What clients wrote, each write over what its client had read, and what a reader may find in the end.
//!
//! An acknowledged write is read, or something that was written over it is; what is covered by an acknowledged write is read no more;
//! and nothing is read that nobody wrote. Values are numbers that only grow, so what a write covers is lower than itself.

use std::collections::{BTreeMap, BTreeSet};

/// One write.
#[derive(Debug)]
struct Write {
    key: u32,
    covers: BTreeSet<u32>,
    acknowledged: bool,
}

/// All of them, by their values.
#[derive(Debug, Default)]
pub struct History(BTreeMap<u32, Write>);

impl History {
    /// `value` is about to be written to `key`, over these.
    pub fn begin(&mut self, value: u32, key: u32, covers: BTreeSet<u32>) {
        self.0.insert(value, Write { key, covers, acknowledged: false });
    }

    /// Its client was told that it is written.
    pub fn acknowledge(&mut self, value: u32) {
        if let Some(write) = self.0.get_mut(&value) {
            write.acknowledged = true;
        }
    }

    /// What is wrong if a get of `key` returned these.
    pub fn judge(&self, key: u32, read: &BTreeSet<u32>) -> Option<String> {
        let of_key = || self.0.iter().rev().filter(|(_, write)| write.key == key);
        if let Some(invented) = read.iter().find(|value| self.0.get(value).is_none_or(|write| write.key != key)) {
            return Some(format!("key {key}: {invented} is read, which nobody wrote to it"));
        }
        let (mut superseded, mut covered) = (BTreeSet::<u32>::new(), BTreeSet::<u32>::new());
        for (value, write) in of_key() {
            if superseded.contains(value) || read.contains(value) {
                superseded.extend(&write.covers);
            } else if write.acknowledged {
                return Some(format!("key {key}: {value} was acknowledged, {read:?} are read"));
            }
            if write.acknowledged || covered.contains(value) {
                covered.extend(&write.covers);
            }
        }
        let back = read.iter().find(|value| covered.contains(value))?;
        Some(format!("key {key}: {back} is read again, and an acknowledged write covers it"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_follows_from_what_was_written_over_what() {
        // Each write: what it covers, and whether it was acknowledged.
        type Writes<'a> = &'a [(&'a [u32], bool)];
        let cases: [(&str, Writes, &[u32], Option<&str>); 10] = [
            ("the newest", &[(&[], true), (&[1], true)], &[2], None),
            ("nothing", &[(&[], true), (&[1], true)], &[], Some("2 was acknowledged")),
            ("an older one", &[(&[], true), (&[1], true)], &[1], Some("2 was acknowledged")),
            ("one that nobody had read", &[(&[], true), (&[], true)], &[2], Some("1 was acknowledged")),
            ("both of them", &[(&[], true), (&[], true)], &[1, 2], None),
            ("one that was not answered", &[(&[], true), (&[1], false)], &[2], None),
            ("without it", &[(&[], true), (&[1], false)], &[1], None),
            ("over it", &[(&[], true), (&[1], false), (&[2], true)], &[3], None),
            ("what was covered", &[(&[], true), (&[1], false), (&[2], true)], &[1, 3], Some("1 is read again")),
            ("what nobody wrote", &[(&[], true)], &[1, 7], Some("7 is read, which nobody wrote")),
        ];
        for (what, writes, read, expected) in cases {
            let mut history = History::default();
            for (value, (covers, acknowledged)) in (1..).zip(writes) {
                history.begin(value, 5, covers.iter().copied().collect());
                if *acknowledged {
                    history.acknowledge(value);
                }
            }
            let found = history.judge(5, &read.iter().copied().collect());
            assert_eq!(found.is_some(), expected.is_some(), "{what}: {found:?}");
            assert!(expected.is_none_or(|expected| found.as_ref().unwrap().contains(expected)), "{what}: {found:?}");
            assert!(read.is_empty() || history.judge(6, &read.iter().copied().collect()).is_some(), "of another key");
        }
    }
}
