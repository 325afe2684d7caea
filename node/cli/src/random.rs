//! A stream of random numbers from the operating system's seed, or from one that repeats a run.

use dynamo_core::random::Random;
use rand::random;

/// A stream seeded by the operating system.
pub fn fresh() -> Random {
    Random::new(random::<u64>())
}

/// A number in [0, 1).
pub fn unit(random: &mut Random) -> f64 {
    (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}
