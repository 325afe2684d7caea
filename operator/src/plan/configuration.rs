//! Which ConfigMaps with configurations are kept: the one that is asked for, those that somebody reads, and the last one before.
//!
//! Another configuration is another ConfigMap ([`crate::build::config_map`]), so they would pile up. What nobody reads is marked, and
//! deleted in a later pass under the version that it was seen in. Where it is asked for again it is first given a number of its own, which
//! makes the mark void and the version another: so a deletion that comes late, from an operator that stood still, is refused.
//!
//! Which configuration a pod would have that is made anew is not read from templates of before, but known where no set is in the middle
//! of a rollout and no pod is missing: then all have the newest. Until then nothing is deleted.

use std::cmp::Reverse;

use crate::build::config_map;
use crate::observed::{Configuration, Observed, Set};
use crate::valid::ValidCluster;

/// The name of the ConfigMap that pod templates are to name.
pub fn current(cluster: &ValidCluster, observed: &Observed) -> String {
    if observed.keeps_former_configuration { config_map::former_name(cluster) } else { config_map::name(cluster) }
}

/// The number that the one that is asked for is to have: its own, if that is the highest and it is not marked, else one that is.
pub fn number(cluster: &ValidCluster, observed: &Observed) -> u64 {
    let name = current(cluster, observed);
    let highest_of_others = others(observed, &name).map(|(_, other)| other.number).max();
    match observed.configurations.get(&name) {
        Some(own) if !own.released && highest_of_others.is_none_or(|highest| own.number > highest) => own.number,
        own => own.map_or(0, |own| own.number).max(highest_of_others.unwrap_or(0)) + 1,
    }
}

/// Those that nobody reads, but for the last one before the one that is asked for: who goes back to that finds it.
pub fn unused<'a>(cluster: &ValidCluster, observed: &'a Observed) -> Vec<(&'a str, &'a Configuration)> {
    let at_rest = |(zone, set): (&String, &Set)| !set.rolling && observed.has_its_pods(zone);
    let all_seen = cluster.zones().iter().all(|zone| observed.sets.contains_key(&zone.name));
    if !all_seen || !observed.sets.iter().all(at_rest) {
        return Vec::new();
    }
    let name = current(cluster, observed);
    let mut before: Vec<_> = others(observed, &name).collect();
    before.sort_by_key(|(_, other)| Reverse(other.number));
    before.into_iter().skip(1).filter(|(_, other)| !other.used).collect()
}

fn others<'a>(observed: &'a Observed, name: &str) -> impl Iterator<Item = (&'a str, &'a Configuration)> {
    let all = observed.configurations.iter().map(|(other, configuration)| (other.as_str(), configuration));
    all.filter(move |(other, _)| *other != name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::Pod;
    use crate::valid::Place;
    use crate::valid::tests::valid;

    /// A cluster at rest with these ConfigMaps, each "number", with "r" if it is marked and "u" if somebody names it; the first one is asked
    /// for.
    fn look(configurations: &[&str]) -> (ValidCluster, Observed) {
        let cluster = valid(3, &[]);
        let mut observed = Observed::default();
        for (at, text) in configurations.iter().enumerate() {
            let name = if at == 0 { config_map::name(&cluster) } else { format!("{at}") };
            let number = text.trim_end_matches(['r', 'u']).parse().unwrap();
            let (released, used) = (text.contains('r'), text.contains('u'));
            observed.configurations.insert(name, Configuration { number, released, used, ..Configuration::default() });
        }
        observed.sets.insert("default".into(), Set { replicas: 3, ..Set::default() });
        for ordinal in 0..3 {
            observed.pods.insert(Place { zone: "default".into(), ordinal }, Pod::default());
        }
        (cluster, observed)
    }

    #[test]
    fn the_configuration_that_is_asked_for_has_the_highest_number() {
        let cases =
            [(&["0"][..], 0), (&["3", "1", "2"], 3), (&["1", "3", "2"], 4), (&["2", "2"], 3), (&["3r"], 4), (&["0", "0"], 1)];
        for (configurations, expected) in cases {
            let (cluster, observed) = look(configurations);
            assert_eq!(number(&cluster, &observed), expected, "{configurations:?}");
        }
        let (cluster, mut observed) = look(&["9", "4"]);
        observed.configurations.remove(&config_map::name(&cluster));
        assert_eq!(number(&cluster, &observed), 5, "it is not there yet");
        assert_eq!(number(&cluster, &Observed::default()), 1);
    }

    #[test]
    fn only_the_last_configuration_before_and_those_that_somebody_names_are_kept() {
        let cases: [(&[&str], &[&str]); 5] = [
            (&["0u"], &[]),
            (&["2u", "1"], &[]),
            (&["3u", "1", "2"], &["1"]),
            (&["4u", "1u", "3", "2r"], &["3"]),
            (&["4", "1", "2", "3u"], &["2", "1"]),
        ];
        for (configurations, expected) in cases {
            let (cluster, observed) = look(configurations);
            let unused: Vec<&str> = unused(&cluster, &observed).into_iter().map(|(name, _)| name).collect();
            assert_eq!(unused, expected, "{configurations:?}");
        }
    }

    #[test]
    fn no_configuration_goes_while_a_pod_may_be_made_from_a_template_of_before() {
        let changes: [(&str, fn(&mut Observed)); 3] = [
            ("a set is in the middle of a rollout", |observed| observed.sets.get_mut("default").unwrap().rolling = true),
            ("a pod is missing, or missing in the list", |observed| drop(observed.pods.pop_first())),
            ("a set is missing", |observed| observed.sets.clear()),
        ];
        for (why, change) in changes {
            let (cluster, mut observed) = look(&["3u", "1", "2"]);
            assert_eq!(unused(&cluster, &observed).len(), 1);
            change(&mut observed);
            assert_eq!(unused(&cluster, &observed), [], "{why}");
        }
    }
}
