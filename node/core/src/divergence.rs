//! How often versions diverge (paper 6.3): how many gets returned one version, two, three, or more, bucket by bucket.
//!
//! The buckets are those that the configuration names; every other one counts as [`OTHER`], so that a client that makes up
//! names cannot make up metrics. A get that finds no live version is not counted. Where the last writer wins, the versions
//! are counted that were found, not the one that is shown: divergence is what is measured.

use std::collections::BTreeMap;

use bytes::Bytes;

/// Stands for every bucket that the configuration does not name.
pub const OTHER: &str = "other";
/// Gets that returned one version, two, three, and four or more.
pub const VERSIONS: [&str; 4] = ["1", "2", "3", "4+"];

/// The counts.
#[derive(Clone, Debug)]
pub struct Divergence(BTreeMap<Bytes, [u64; VERSIONS.len()]>);

impl Divergence {
    /// Nothing is counted yet, for these buckets and all others.
    pub fn of<'a>(buckets: impl Iterator<Item = &'a Bytes>) -> Self {
        let named = buckets.cloned().chain([Bytes::from_static(OTHER.as_bytes())]);
        Self(named.map(|bucket| (bucket, [0; VERSIONS.len()])).collect())
    }

    /// A get in `bucket` found so many live versions.
    pub fn count(&mut self, bucket: &Bytes, versions: usize) {
        let Some(at) = versions.checked_sub(1) else { return };
        let known = if self.0.contains_key(bucket) { &bucket[..] } else { OTHER.as_bytes() };
        if let Some(counts) = self.0.get_mut(known) {
            counts[at.min(VERSIONS.len() - 1)] += 1;
        }
    }

    /// The counts of each bucket, in the order of [`VERSIONS`].
    pub fn each(&self) -> impl Iterator<Item = (&Bytes, [u64; VERSIONS.len()])> {
        self.0.iter().map(|(bucket, counts)| (bucket, *counts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gets_are_counted_by_versions_and_by_the_buckets_that_are_named() {
        let carts = Bytes::from_static(b"carts");
        let mut divergence = Divergence::of([carts.clone()].iter());
        for versions in [0, 1, 1, 2, 3, 4, 100] {
            divergence.count(&carts, versions);
        }
        for bucket in ["made up", "made up too"] {
            divergence.count(&bucket.into(), 1);
        }
        let counts: Vec<_> = divergence.each().collect();
        assert_eq!(counts, [(&carts, [2, 1, 1, 2]), (&OTHER.into(), [2, 0, 0, 0])]);
    }
}
