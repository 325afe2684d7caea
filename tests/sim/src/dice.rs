//! Every random choice of a run, from one seed.

use std::time::Duration;

use dynamo_core::random::Random;

/// A stream of choices that is a function of its seed.
#[derive(Clone, Debug)]
pub struct Dice(Random);

impl Dice {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        // Neighbouring seeds begin at neighbouring states: the first number is not yet far from its neighbour's.
        random.next_u64();
        Self(random)
    }

    /// A stream of its own, so that one part's choices do not shift another's.
    pub fn fork(&mut self) -> Self {
        Self::new(self.number())
    }

    /// 64 bits.
    pub fn number(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// 16 bytes, as an identity.
    pub fn identity(&mut self) -> [u8; 16] {
        ((u128::from(self.number()) << 64) | u128::from(self.number())).to_be_bytes()
    }

    /// A number from `least` to `most`, both included.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        assert!(least <= most, "nothing lies between {least} and {most}");
        least + self.number() % (most - least + 1)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0.below(bound)
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// One of these, each as often as its weight says.
    pub fn weighted<T: Copy>(&mut self, of: &[(u32, T)]) -> T {
        let total: u32 = of.iter().map(|(weight, _)| weight).sum();
        let mut left = self.below(total as usize) as u32;
        for (weight, choice) in of {
            if left < *weight {
                return *choice;
            }
            left -= weight;
        }
        unreachable!("the weights add up to their total")
    }

    /// A time from `least` to `most`.
    pub fn duration(&mut self, least: Duration, most: Duration) -> Duration {
        Duration::from_micros(self.between(least.as_micros() as u64, most.as_micros() as u64))
    }

    /// A time around `mean`, seldom much longer, as networks and disks take it.
    pub fn around(&mut self, mean: Duration) -> Duration {
        let exponential = -(1.0 - self.unit()).ln();
        mean.mul_f64(0.5 + 0.5 * exponential)
    }

    fn unit(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }
}
