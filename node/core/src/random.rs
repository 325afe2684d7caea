//! Random numbers from a seed that the driver gives: production seeds from the operating system, the simulator from its run.

/// SplitMix64: eight bytes of state, good enough to pick peers and incarnations.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A stream that is a function of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "no number lies below zero");
        (self.next_u64() % bound as u64) as usize
    }
}
