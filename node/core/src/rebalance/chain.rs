//! What a writer of rings records: the newest ring, and those before it that a member may still need.
//!
//! A node takes of a writer only the successor of what it holds. Most rings are made when every member holds the one before. The others
//! change no set, and may follow a ring that few members hold yet: the word that a member is lost ([`crate::rebalance::loss`]), and what
//! is asked of an operation ([`crate::rebalance::operation`]). Were only the newest recorded, the disk that goes next could take the ring
//! before it along. Then nobody could ever take the newest: nothing would move again, and no loss be declared. So a ring stays in the
//! record until every member is known to hold it, and each node is offered the one that follows its own. It adopts one after the
//! other, and skips none.
//!
//! ```text
//! the members hold    7 7 7       8 7 7         8 destroyed, 7 7         9 9
//! recorded            8           8 9           8 9                      10
//!                                 a loss        both, one by one         the next loss
//! ```

use std::collections::BTreeMap;

use thiserror::Error;

use crate::id::{Epoch, NodeId};
use crate::rebalance::View;
use crate::ring::Ring;

/// The most bytes of a chain of several rings: of the 1 MiB that a ConfigMap takes, the rest is for the volumes of its members. A ring
/// alone may have more.
pub const BYTES_MAX: usize = 960 << 10;

/// Rings that follow each other without a gap.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    /// The oldest first.
    before: Vec<Ring>,
    newest: Ring,
}

/// The record has no room for another ring before these members hold the newest one.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("the record has no room for one more ring beside those that some members have not taken; start these: {}", list(.0))]
pub struct Full(pub Vec<NodeId>);

fn list(nodes: &[NodeId]) -> String {
    nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ")
}

impl From<Ring> for Chain {
    fn from(newest: Ring) -> Self {
        Self { before: Vec::new(), newest }
    }
}

impl Chain {
    /// What was recorded: of `before`, in any order, those that lead to `newest` without a gap.
    pub fn read(mut before: Vec<Ring>, newest: Ring) -> Self {
        before.retain(|ring| ring.epoch < newest.epoch);
        before.sort_by_key(|ring| ring.epoch);
        let mut chain = Self::from(newest);
        while let Some(ring) = before.pop().filter(|ring| ring.hash() == chain.oldest().parent) {
            chain.before.insert(0, ring);
        }
        chain
    }

    /// The ring that was recorded last.
    pub fn newest(&self) -> &Ring {
        &self.newest
    }

    /// Those before it that are recorded too, the oldest first.
    pub fn before(&self) -> &[Ring] {
        &self.before
    }

    /// The ring that was recorded first of those that still are.
    pub fn oldest(&self) -> &Ring {
        self.before.first().unwrap_or(&self.newest)
    }

    /// What a node takes that holds the ring of epoch `held`, 0 for none.
    pub fn after(&self, held: Epoch) -> Option<&Ring> {
        if held == Epoch(0) {
            return Some(&self.newest);
        }
        self.before.iter().chain([&self.newest]).find(|ring| ring.epoch == held.next())
    }

    /// The chain with `next` on top, without what every member is known to hold. `views` are the fresh answers, as for
    /// [`crate::rebalance::next`]. The newest ring itself changes nothing; one that nodes hold and that does not follow here is recorded
    /// alone.
    pub fn then(&self, next: Ring, views: &BTreeMap<NodeId, View>) -> Result<Self, Full> {
        if next == self.newest {
            return Ok(self.clone());
        }
        if next.parent != self.newest.hash() {
            return Ok(Self::from(next));
        }
        // Who becomes a member now hears of it from the others.
        let members: Vec<NodeId> = next.survivors().filter(|node| self.newest.members.contains_key(node)).collect();
        let lacking = |ring: &Ring| -> Vec<NodeId> {
            let hash = ring.hash();
            let holds = |view: &View| view.epoch > ring.epoch || (view.epoch == ring.epoch && view.ring_hash == hash);
            members.iter().filter(|node| !views.get(node).is_some_and(holds)).copied().collect()
        };
        let rings = self.before.iter().chain([&self.newest]);
        let before: Vec<Ring> = rings.skip_while(|ring| lacking(ring).is_empty()).cloned().collect();
        let bytes: usize = before.iter().chain([&next]).map(|ring| ring.encode().len()).sum();
        if !before.is_empty() && bytes > BYTES_MAX {
            return Err(Full(lacking(&self.newest)));
        }
        Ok(Self { before, newest: next })
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;
    use crate::rebalance::loss;
    use crate::rebalance::tests::{all_caught_up, settled};
    use crate::ring::tests::{node, ring_of};

    /// Node 1 holds the ring of epoch 2, all others the one of epoch 1; node 5 is lost, and that is epoch 3.
    fn with_a_loss() -> (Ring, Ring, Chain, BTreeMap<NodeId, View>) {
        let first = settled(5, 4);
        let second = first.successor(|_| ());
        let chain = Chain::from(first.clone()).then(second.clone(), &all_caught_up(&first)).unwrap();
        assert_eq!(chain, Chain::from(second.clone()), "everybody holds the first");
        let mut views = all_caught_up(&first);
        views.extend([(node(1), all_caught_up(&second)[&node(1)].clone())]);
        views.remove(&node(5));
        let third = loss::declare(&second, &[node(5)], &views).unwrap();
        let chain = chain.then(third, &views).unwrap();
        (first, second, chain, views)
    }

    #[test]
    fn a_ring_that_a_member_may_lack_stays_recorded_until_all_hold_it() {
        let (first, second, chain, mut views) = with_a_loss();
        let third = chain.newest().clone();
        assert_eq!(chain.before(), from_ref(&second));
        assert_eq!(chain.after(first.epoch), Some(&second), "whoever holds it is destroyed");
        assert_eq!(chain.after(second.epoch), Some(&third));
        assert_eq!(chain.after(Epoch(0)), Some(&third), "a node without a ring takes any");
        assert_eq!(chain.after(third.epoch), None);

        let mut others = all_caught_up(&second);
        others.remove(&node(5));
        views.extend(others.clone());
        let fourth = loss::declare(&third, &[node(1)], &[(node(2), all_caught_up(&third)[&node(2)].clone())].into()).unwrap();
        assert_eq!(chain.then(fourth.clone(), &views).unwrap().before(), from_ref(&third), "all hold the second");
        views.remove(&node(3));
        assert_eq!(chain.then(fourth.clone(), &views).unwrap().before(), [second.clone(), third.clone()], "unknown is not held");
        let twin = second.successor(|next| next.members.get_mut(&node(3)).unwrap().weight = 2);
        views.extend(others);
        views.get_mut(&node(3)).unwrap().ring_hash = twin.hash();
        assert_eq!(chain.then(fourth.clone(), &views).unwrap().before(), [second, third.clone()], "another ring of its epoch");
        assert_eq!(chain.then(fourth.clone(), &all_caught_up(&third)).unwrap(), Chain::from(fourth));
    }

    #[test]
    fn newcomers_and_lost_members_keep_no_ring_in_the_record() {
        let (_, second, chain, _) = with_a_loss();
        let third = chain.newest();
        let mut views = all_caught_up(third);
        views.remove(&node(5));
        let grown = third.successor(|next| drop(next.members.insert(node(9), next.members[&node(1)].clone())));
        assert_eq!(chain.then(grown, &views).unwrap().before(), [], "5 is lost, 9 is new");
        let elsewhere = second.successor(|next| next.members.get_mut(&node(1)).unwrap().weight = 2).successor(|_| ());
        assert_eq!(chain.then(elsewhere.clone(), &views).unwrap(), Chain::from(elsewhere));
        assert_eq!(chain.then(third.clone(), &views).unwrap(), chain);
    }

    #[test]
    fn what_is_read_has_no_gap() {
        let (_, second, chain, _) = with_a_loss();
        let (third, fourth) = (chain.newest().clone(), chain.newest().successor(|_| ()));
        let twin = second.successor(|next| next.members.get_mut(&node(3)).unwrap().weight = 2);
        let cases: [(&[&Ring], &[&Ring]); 5] = [
            (&[], &[]),
            (&[&second, &third], &[&second, &third]),
            (&[&third, &fourth, &second], &[&second, &third]),
            (&[&second], &[]),
            (&[&second, &twin], &[]),
        ];
        for (written, read) in cases {
            let chain = Chain::read(written.iter().copied().cloned().collect(), fourth.clone());
            assert_eq!(chain.before().iter().collect::<Vec<_>>(), read);
            assert_eq!(chain.newest(), &fourth);
        }
    }

    #[test]
    fn a_record_that_is_full_waits_for_those_who_are_behind() {
        let first = ring_of(5, 16);
        let views: BTreeMap<NodeId, View> = all_caught_up(&first).into_iter().filter(|(id, _)| *id != node(3)).collect();
        let mut chain = Chain::from(first);
        let full = loop {
            let next = chain.newest().successor(|_| ());
            let mut views = views.clone();
            let held = all_caught_up(chain.newest());
            views.iter_mut().for_each(|(id, view)| view.clone_from(&held[id]));
            match chain.then(next, &views) {
                Ok(longer) => chain = longer,
                Err(full) => break full,
            }
        };
        assert_eq!(full, Full(vec![node(3)]));
        assert!(full.to_string().contains(&node(3).to_string()));
        assert!(!chain.before().is_empty());
        let next = chain.newest().successor(|_| ());
        assert_eq!(chain.then(next.clone(), &all_caught_up(chain.newest())).unwrap(), Chain::from(next), "once it is there");
    }
}
