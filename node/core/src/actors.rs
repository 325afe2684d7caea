//! How many actors objects name when they are written (paper 4.4): a histogram, for what is done in place of the paper's truncation.
//!
//! An object keeps an entry for each actor that ever wrote it, and a put that would make these too many is refused
//! ([`crate::config::OBJECT_ACTORS_MAX`]). Here it shows that a key is on its way there, while all its puts are taken yet.

use crate::config::OBJECT_ACTORS_MAX;

/// The most actors that fall into each bucket. What has more than the last, and is refused, has one without a bound.
const MOST: [usize; 7] = [1, 4, 16, 64, 256, 1_024, OBJECT_ACTORS_MAX];

/// The histogram.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ActorsPerObject {
    counts: [u64; MOST.len() + 1],
    sum: u64,
}

impl ActorsPerObject {
    /// A put makes an object of so many actors.
    pub fn record(&mut self, actors: usize) {
        self.counts[MOST.partition_point(|most| *most < actors)] += 1;
        self.sum += actors as u64;
    }

    /// The actors of all of them together.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// How many puts there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The most actors that fall into a bucket, `None` for the last, and how many puts did: in this bucket alone.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<usize>, u64)> {
        let most = MOST.into_iter().map(Some).chain([None]);
        most.zip(self.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_falls_into_the_first_bucket_whose_bound_its_actors_do_not_exceed() {
        let cases =
            [(1, Some(1)), (2, Some(4)), (4, Some(4)), (5, Some(16)), (2_047, Some(2_048)), (2_048, Some(2_048)), (2_049, None)];
        for (actors, bound) in cases {
            let mut one = ActorsPerObject::default();
            one.record(actors);
            let holds: Vec<_> = one.buckets().filter(|(_, count)| *count > 0).collect();
            assert_eq!(holds, [(bound, 1)], "{actors}");
            assert_eq!((one.count(), one.sum()), (1, actors as u64));
        }
    }
}
