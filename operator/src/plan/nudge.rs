//! Whether the StatefulSet controller is to be woken.
//!
//! What it could not make, for a quota, a webhook or a claim that is being deleted, it tries again after pauses that double, up to 1,000 s. It
//! watches its sets and their pods and nothing else, so that nothing which is put right wakes it. A write to the set does: to an annotation of
//! its own, which no pod has and no template, so that nothing is restarted for it. It holds the time, and goes when all pods are there.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::observed::Observed;

/// Between two nudges.
const PERIOD: SignedDuration = SignedDuration::from_mins(1);

/// What is to be written to a set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nudge {
    /// The time, which wakes its controller.
    Wake(Timestamp),
    /// No time any more: there is nothing to wake it for.
    Forget,
}

/// What is to be written to the set of `zone`, if anything is.
pub fn of(observed: &Observed, zone: &str) -> Option<Nudge> {
    let set = observed.sets.get(zone)?;
    if observed.has_its_pods(zone) {
        return set.nudged.map(|_| Nudge::Forget);
    }
    // A clock that was set back makes nobody wait.
    let is_recent = |nudged: Timestamp| observed.time.duration_since(nudged).abs() < PERIOD;
    (set.lacks_pods() && !set.nudged.is_some_and(is_recent)).then_some(Nudge::Wake(observed.time))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::{Pod, Set};
    use crate::valid::Place;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// At the second 1000; a set of three, of which so many pods are there, and so many by its controller's word.
    fn look(pods: u32, made: u32, nudged: Option<i64>) -> Observed {
        let mut observed = Observed { time: at(1000), ..Observed::default() };
        let set = Set { replicas: 3, made, nudged: nudged.map(at), ..Set::default() };
        observed.sets.insert("default".into(), set);
        for ordinal in 0..pods {
            observed.pods.insert(Place { zone: "default".into(), ordinal }, Pod::default());
        }
        observed
    }

    #[test]
    fn a_controller_that_could_not_make_a_pod_is_woken_once_a_minute_until_it_has() {
        let wake = Some(Nudge::Wake(at(1000)));
        let cases = [
            (look(2, 2, None), wake),
            (look(2, 2, Some(941)), None),
            (look(2, 2, Some(940)), wake),
            (look(2, 2, Some(5000)), wake),
            // It has not tried yet.
            (look(2, 3, None), None),
            (look(3, 3, Some(999)), Some(Nudge::Forget)),
            (look(3, 2, Some(940)), Some(Nudge::Forget)),
            (look(3, 3, None), None),
        ];
        for (observed, expected) in cases {
            assert_eq!(of(&observed, "default"), expected, "{observed:?}");
        }
        let mut unseen = look(2, 2, Some(1));
        unseen.sets.get_mut("default").unwrap().unseen = true;
        assert_eq!(of(&unseen, "default"), None, "it is about to try");
        assert_eq!(of(&unseen, "elsewhere"), None);
    }
}
