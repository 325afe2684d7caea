//! When enough replicas have answered (paper 4.5, 4.6).
//!
//! An answer counts for a home replica, given by itself or by the fallback that stands in for it. During a move two sets are
//! written, and each must reach its quorum: an answer of a node in both counts for both.
//!
//! A home replica that cannot be reached, and for which no fallback is left, leaves its place in a set **vacant**. There an answer
//! counts that has no place in that set: one for a home replica of the other set only. So an answer counts once in each set at most, and
//! any W nodes that answered are enough once nobody is left to ask. No place is vacant while its own replica may answer in time: two nodes
//! of which each is in one set are no quorum of either then, and R + W > N holds in both.
//!
//! What a stand-in keeps and what its home replica has are one answer, not two, though they lie on two disks for a while: the hint goes
//! when it is delivered.

use crate::id::NodeId;
use crate::preference_list::Nodes;
use crate::request::QuorumWish;
use crate::small_map::SmallMap;
use crate::{config::QuorumDefaults, request::Failure};

/// What a request has to reach, each at most the number of those who are asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Required {
    /// Home replicas of each set that are asked: N of them, unless the request wants fewer.
    pub asked: usize,
    /// Answers.
    pub total: usize,
    /// Answers on stable storage (puts only).
    pub durable: usize,
    /// Answers by home replicas themselves. Durable and primary answers are counted apart: they need not be the same ones.
    pub primary: usize,
}

/// The quorum of a put, from the request's wish and the bucket's settings. What a request asks for is met or refused; what it
/// inherits gives way to it: a request with a smaller W has no more durable copies to wait for.
pub fn for_put(wish: &QuorumWish, defaults: &QuorumDefaults, replication: u8) -> Result<Required, Failure> {
    let (n, defaults) = asked(wish, defaults, replication)?;
    let w = bounded("w", wish.w.unwrap_or(defaults.w), 1, n)?;
    let dw = match wish.dw {
        Some(dw) => bounded("dw", dw, 0, n)?,
        None => defaults.dw.unwrap_or(w).min(w),
    };
    let pw = bounded("pw", wish.pw.unwrap_or(defaults.pw), 0, n)?;
    let (asked, total) = (usize::from(n), usize::from(w.max(pw).max(dw)));
    Ok(Required { asked, total, durable: usize::from(dw), primary: usize::from(pw) })
}

/// The quorum of a get.
pub fn for_get(wish: &QuorumWish, defaults: &QuorumDefaults, replication: u8) -> Result<Required, Failure> {
    let (n, defaults) = asked(wish, defaults, replication)?;
    let r = bounded("r", wish.r.unwrap_or(defaults.r), 1, n)?;
    let pr = bounded("pr", wish.pr.unwrap_or(defaults.pr), 0, n)?;
    Ok(Required { asked: usize::from(n), total: usize::from(r.max(pr)), durable: 0, primary: usize::from(pr) })
}

/// How many replicas are asked, of so many, and what is inherited then.
fn asked(wish: &QuorumWish, defaults: &QuorumDefaults, replication: u8) -> Result<(u8, QuorumDefaults), Failure> {
    match wish.n {
        None => Ok((replication, *defaults)),
        Some(n) => bounded("n", n, 1, replication).map(|n| (n, defaults.capped(n))),
    }
}

fn bounded(field: &str, value: u8, least: u8, most: u8) -> Result<u8, Failure> {
    if (least..=most).contains(&value) {
        Ok(value)
    } else {
        Err(Failure::Invalid(format!("quorum.{field} is {value}; give {least} to {most} (N is {most})")))
    }
}

/// One answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Who gave it: the home replica, or its stand-in.
    pub by: NodeId,
    /// On stable storage.
    pub durable: bool,
}

/// The answers so far, by the home replica they count for.
#[derive(Clone, Debug, Default)]
pub struct Tally(SmallMap<NodeId, Answer, 3>);

/// What one set of replicas has.
struct Counts {
    total: usize,
    durable: usize,
    primary: usize,
}

/// For sets in which no place is ever vacant.
pub fn none_vacant(_home: NodeId) -> bool {
    false
}

impl Tally {
    /// An answer that counts for `home`. The home replica's own answer replaces its stand-in's; durable stays durable. A node that stands
    /// in for another one already counts for that one alone.
    pub fn add(&mut self, home: NodeId, answer: Answer) {
        if answer.by != home && self.0.iter().any(|(other, known)| *other != home && known.by == answer.by) {
            return;
        }
        let known = self.0.get_or_insert_with(home, || answer);
        if known.by == answer.by {
            known.durable |= answer.durable;
        } else if answer.by == home && (answer.durable || !known.durable) {
            *known = answer;
        }
    }

    /// The answer that counts for `home`, its own or its stand-in's.
    pub fn of(&self, home: NodeId) -> Option<&Answer> {
        self.0.get(&home)
    }

    /// How many places of `set` are vacant, by what `is_vacant` says of home replicas for which nobody answered.
    fn vacant(&self, set: &[NodeId], is_vacant: impl Fn(NodeId) -> bool) -> usize {
        set.iter().filter(|home| is_vacant(**home) && !self.0.contains_key(home)).count()
    }

    /// How much of what is required one set has.
    fn counts(&self, set: &[NodeId], is_vacant: impl Fn(NodeId) -> bool) -> Counts {
        let mut counts = Counts { total: 0, durable: 0, primary: 0 };
        let (mut spare, mut spare_durable) = (0, 0);
        for (home, answer) in self.0.iter() {
            let durable = usize::from(answer.durable);
            if set.contains(home) {
                counts.total += 1;
                counts.durable += durable;
                counts.primary += usize::from(answer.by == *home);
            } else {
                spare += 1;
                spare_durable += durable;
            }
        }
        if spare > 0 {
            let vacant = self.vacant(set, is_vacant);
            counts.total += vacant.min(spare);
            counts.durable += vacant.min(spare_durable);
        }
        counts
    }

    /// Whether every set has what is required.
    pub fn reached(&self, sets: &[impl AsRef<[NodeId]>], required: Required, is_vacant: impl Fn(NodeId) -> bool + Copy) -> bool {
        sets.iter().all(|set| {
            let Counts { total, durable, primary } = self.counts(set.as_ref(), is_vacant);
            total >= required.total && durable >= required.durable && primary >= required.primary
        })
    }

    /// The fewest answers that any set has: what a failure reports.
    pub fn acknowledged(&self, sets: &[impl AsRef<[NodeId]>], is_vacant: impl Fn(NodeId) -> bool + Copy) -> usize {
        sets.iter().map(|set| self.counts(set.as_ref(), is_vacant).total).min().unwrap_or(0)
    }

    /// Those that count for someone, with how many are durable and how many stand in for another, in some set at least.
    pub fn evidence(&self, sets: &[impl AsRef<[NodeId]>], is_vacant: impl Fn(NodeId) -> bool + Copy) -> (Vec<NodeId>, u32, u32) {
        let mut nodes: Vec<NodeId> = self.0.values().map(|answer| answer.by).collect();
        nodes.sort_unstable();
        let durable = self.0.values().filter(|answer| answer.durable).count() as u32;
        let mut standing_in: Nodes = self.0.iter().filter(|(home, answer)| **home != answer.by).map(|(home, _)| *home).collect();
        for set in sets {
            let set = set.as_ref();
            let spare = self.0.keys().filter(|home| !set.contains(home)).take(self.vacant(set, is_vacant));
            spare.for_each(|home| {
                if !standing_in.contains(home) {
                    standing_in.push(*home)
                }
            });
        }
        (nodes, durable, standing_in.len() as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::tests::node;

    fn tally(answers: &[(u8, u8, bool)]) -> Tally {
        let mut tally = Tally::default();
        for (home, by, durable) in answers {
            tally.add(node(*home), Answer { by: node(*by), durable: *durable });
        }
        tally
    }

    #[test]
    fn a_quorum_is_reached_when_every_set_has_it() {
        let old = vec![node(1), node(2), node(3)];
        let new = vec![node(4), node(2), node(3)];
        let w2 = Required { asked: 3, total: 2, durable: 2, primary: 0 };
        type Answers<'a> = &'a [(u8, u8, bool)];
        // The answers, the home replicas whose places are vacant if they do not answer, and whether that is enough.
        let cases: [(Answers, &[u8], bool, &str); 18] = [
            (&[(1, 1, true), (2, 2, true)], &[], false, "the new set has only one"),
            (&[(2, 2, true), (3, 3, true)], &[], true, "two in both"),
            (&[(1, 1, true), (2, 2, true), (4, 4, true)], &[], true, "two in each"),
            (&[(2, 2, true), (3, 3, false)], &[], false, "one not durable"),
            (&[(2, 9, true), (3, 8, true)], &[], true, "stand-ins count"),
            (&[(2, 2, true), (2, 2, true)], &[], false, "the same node twice"),
            (&[(2, 9, true), (2, 8, true)], &[], false, "two in one place"),
            (&[(2, 9, true), (3, 9, true)], &[], false, "one in two places"),
            (&[(1, 1, true), (4, 4, true)], &[], false, "one in each"),
            (&[(1, 1, true), (4, 4, true)], &[2], true, "each in the place that 2 leaves in the other's set"),
            (&[(1, 1, true), (4, 4, false)], &[2], false, "of which one is not durable"),
            (&[(1, 1, true), (2, 2, true)], &[4], true, "the old one in the new one's place"),
            (&[(1, 1, true), (2, 2, true)], &[3], true, "in any place of the new set"),
            (&[(1, 1, true), (2, 2, true)], &[1, 2], false, "those who answered leave none"),
            (&[(1, 9, true), (2, 2, true)], &[4], true, "a stand-in of one that is in the old set only"),
            (&[(1, 9, true), (2, 2, true)], &[], false, "counts nowhere else before"),
            (&[(2, 2, true), (2, 9, true)], &[3], false, "nor beside the replica that it becomes a copy of"),
            (&[(1, 1, true), (1, 9, true)], &[2, 3], false, "in any set"),
        ];
        for (answers, vacant, reached, why) in cases {
            let is_vacant = |home: NodeId| vacant.contains(&home.0[0]);
            assert_eq!(tally(answers).reached(&[old.clone(), new.clone()], w2, is_vacant), reached, "{why}");
        }
        let strict = Required { primary: 2, ..w2 };
        assert!(!tally(&[(2, 9, true), (3, 8, true)]).reached(&[&old], strict, none_vacant), "stand-ins are not primaries");
        assert!(!tally(&[(1, 1, true), (4, 4, true)]).reached(&[&old], strict, |_| true), "nor are those of the other set");
    }

    #[test]
    fn a_quorum_beyond_n_is_refused_with_the_fields_name() {
        let none = QuorumWish::default();
        let cases = [
            (QuorumWish { w: Some(4), ..none }, "quorum.w is 4; give 1 to 3 (N is 3)"),
            (QuorumWish { dw: Some(255), ..none }, "quorum.dw is 255; give 0 to 3 (N is 3)"),
            (QuorumWish { pw: Some(4), ..none }, "quorum.pw is 4; give 0 to 3 (N is 3)"),
            (QuorumWish { n: Some(4), ..none }, "quorum.n is 4; give 1 to 3 (N is 3)"),
            (QuorumWish { n: Some(2), dw: Some(3), ..none }, "quorum.dw is 3; give 0 to 2 (N is 2)"),
        ];
        for (wish, refused) in cases {
            assert_eq!(for_put(&wish, &QuorumDefaults::default(), 3).unwrap_err().to_string(), refused);
        }
    }

    #[test]
    fn durable_copies_that_are_asked_for_are_waited_for_and_inherited_ones_fit_w() {
        let none = QuorumWish::default();
        // The wish, the setting, and what it takes: answers, and durable ones.
        let one = QuorumWish { n: Some(1), ..none };
        let cases = [
            (none, None, (2, 2)),
            (none, Some(1), (2, 1)),
            (QuorumWish { dw: Some(3), ..none }, None, (3, 3)),
            (QuorumWish { w: Some(1), dw: Some(2), ..none }, Some(0), (2, 2)),
            (QuorumWish { w: Some(1), ..none }, Some(2), (1, 1)),
            (QuorumWish { dw: Some(0), ..none }, Some(2), (2, 0)),
            (one, None, (1, 1)),
            (QuorumWish { dw: Some(0), ..one }, None, (1, 0)),
        ];
        for (wish, dw, (total, durable)) in cases {
            let (asked, defaults) = (usize::from(wish.n.unwrap_or(3)), QuorumDefaults { dw, ..QuorumDefaults::default() });
            assert_eq!(for_put(&wish, &defaults, 3), Ok(Required { asked, total, durable, primary: 0 }), "{wish:?}, {dw:?}");
        }
    }
}
