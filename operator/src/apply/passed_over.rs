//! Which steps are passed over when they are refused: more pods that a quota or a policy forbids, and a ring that a node does not take. A
//! person may have to put that right, and until then a member whose volume is gone is replaced all the same, and pods come and go elsewhere.
//!
//! The planner knows what to do without them: pods that cannot be made keep nobody who never was a member, and a node that does not take
//! the ring holds up what one holds up that does not answer. Nothing else is passed over. What notes, records or removes is what the steps
//! after it rest on.

#[cfg(test)]
mod tests;

use super::ApplyError;
use crate::observed::Observed;
use crate::plan::Step;

/// Notes that `step` was refused as a whole, if it may be passed over; false if it may not, or if that was known. Where a part of it came about,
/// the next look shows what is left.
pub(super) fn note(observed: &mut Observed, step: &Step, failure: &ApplyError) -> bool {
    match (step, failure) {
        (Step::RaisePods(zones), failure) if failure.is_refusal() && failure.each().len() == zones.len() => {
            let known = observed.refused.more_pods.len();
            observed.refused.more_pods.extend(zones.keys().cloned());
            observed.refused.more_pods.len() > known
        }
        (Step::OfferRing(places), ApplyError::Offer { refusals }) if refusals.len() == places.len() => {
            let known = observed.refused.rings.len();
            observed.refused.rings.extend(places.iter().cloned());
            observed.refused.rings.len() > known
        }
        _ => false,
    }
}
