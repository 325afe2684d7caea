//! The order of a partition's replicas where buckets have an N of their own (paper 4.6: replicas in several data centres).
//!
//! Such a bucket's replicas are the first n of the list, so the zones have to be spread over the list's front as they are over the
//! whole: any first n nodes lie in n zones, or in all that the list has. The planner's order is kept as far as that allows; an
//! order that fits already is not touched, so planning again moves nothing. Without such buckets order means nothing for the data.

use std::collections::BTreeMap;

use crate::id::NodeId;
use crate::rebalance::{Members, PlanError, assignment};
use crate::ring::Ring;
use crate::ring::bucket_replication::BucketReplication;

/// The plan for `members` of `ring`, given what each list holds now, in an order that suits its buckets.
pub fn planned(held: &[Vec<NodeId>], members: &Members, ring: &Ring) -> Result<Vec<Vec<NodeId>>, PlanError> {
    Ok(spread(assignment::assign(held, members, ring.replication)?, members, &ring.buckets))
}

/// `lists` with the replicas of each in an order whose every beginning is spread over the zones.
pub fn spread(lists: Vec<Vec<NodeId>>, members: &Members, buckets: &BucketReplication) -> Vec<Vec<NodeId>> {
    if buckets.is_empty() {
        return lists;
    }
    lists.into_iter().map(|list| spread_one(list, members)).collect()
}

/// Again and again the first node that is left of a zone that has the fewest so far.
fn spread_one(mut left: Vec<NodeId>, members: &Members) -> Vec<NodeId> {
    let mut used: BTreeMap<&str, usize> = BTreeMap::new();
    let mut list = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let zone = |node: &NodeId| members[node].zone.as_str();
        let fewest = |at: &usize| used.get(zone(&left[*at])).copied().unwrap_or(0);
        let at = (0..left.len()).min_by_key(fewest).expect("something is left");
        let node = left.remove(at);
        *used.entry(zone(&node)).or_default() += 1;
        list.push(node);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Member;
    use crate::ring::tests::node;

    #[test]
    fn every_beginning_is_spread_and_an_order_that_fits_is_kept() {
        let zones = ["a", "a", "b", "b", "c"];
        let members: Members = (1..).zip(zones).map(|(id, zone)| (node(id), Member { zone: zone.into(), weight: 1 })).collect();
        let one = BucketReplication::new([("b".into(), 1)], 3).unwrap();
        let list = |ids: &[u8]| ids.iter().map(|id| node(*id)).collect::<Vec<_>>();
        for (planned, expected) in
            [([1, 2, 3], [1, 3, 2]), ([3, 1, 4], [3, 1, 4]), ([2, 5, 1], [2, 5, 1]), ([3, 4, 5], [3, 5, 4])]
        {
            let ordered = spread(vec![list(&planned)], &members, &one);
            assert_eq!(ordered, [list(&expected)], "{planned:?}");
            assert_eq!(spread(ordered.clone(), &members, &one), ordered, "again");
        }
        assert_eq!(spread(vec![list(&[1, 2, 3])], &members, &BucketReplication::default()), [list(&[1, 2, 3])]);
    }
}
