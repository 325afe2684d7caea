//! Which zones get a new pod template: one zone at a time, so that a partition loses one replica at a time.
//!
//! Within a zone the StatefulSet controller restarts one pod after the other and waits for it to be ready. A zone that is in the
//! middle of a rollout is given the next template at once: that is how a bad image is repaired.

use std::collections::BTreeMap;

/// A zone, as a rollout sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ZoneState {
    /// Its template is not the one asked for.
    pub differs: bool,
    /// It is rolling out a template.
    pub rolling: bool,
    /// All its pods are ready.
    pub healthy: bool,
}

/// The zones whose template may be changed now.
pub fn zones_to_update(zones: &BTreeMap<String, ZoneState>) -> Vec<&str> {
    let differing = || zones.iter().filter(|(_, zone)| zone.differs);
    if zones.values().any(|zone| zone.rolling) {
        return differing().filter(|(_, zone)| zone.rolling).map(|(name, _)| name.as_str()).collect();
    }
    // A zone with a pod that is down would not finish; it comes last, so that it does not keep the others from the change.
    let next = differing().find(|(_, zone)| zone.healthy).or_else(|| differing().next());
    next.map(|(name, _)| name.as_str()).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(zones: &str) -> String {
        // "D": differs, "R": rolling, "X": a pod is down.
        let state = |letters: &str| ZoneState {
            differs: letters.contains('D'),
            rolling: letters.contains('R'),
            healthy: !letters.contains('X'),
        };
        let zones = ["a", "b", "c"].into_iter().zip(zones.split(' '));
        let zones = zones.map(|(name, letters)| (name.to_owned(), state(letters))).collect();
        zones_to_update(&zones).concat()
    }

    #[test]
    fn one_zone_is_rolled_at_a_time_and_a_broken_rollout_can_be_repaired() {
        let cases = [
            ("- - -", ""),
            ("D D D", "a"),
            ("R D D", ""),
            ("- R D", ""),
            ("- - D", "c"),
            ("DRX D D", "a"),
            ("DX D D", "b"),
            ("DX - -", "a"),
            ("RX D D", ""),
        ];
        for (zones, updated) in cases {
            assert_eq!(update(zones), updated, "{zones}");
        }
    }
}
