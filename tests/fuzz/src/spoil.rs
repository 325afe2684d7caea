//! Changes that are made to valid bytes: those that a disk or a network makes, and those that a liar would.

/// Bytes at the borders of what fields mean.
const BORDERS: [u8; 8] = [0, 1, 2, 0x7f, 0x80, 0xfe, 0xff, b' '];
/// Changes of one input.
const CHANGES_MAX: usize = 4;
/// Bytes inserted, removed or copied at a time.
const RUN_MAX: usize = 24;

/// A source of changes; a function of its seed.
pub struct Spoiler(u64);

impl Spoiler {
    /// SplitMix64, as `dynamo_core::random`, which this crate may not name.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 if there is none.
    pub fn below(&mut self, bound: usize) -> usize {
        self.number() as usize % bound.max(1)
    }

    /// The place of one of them.
    pub fn pick<T>(&mut self, of: &[T]) -> usize {
        self.below(of.len())
    }

    /// `input` with one to four changes; pieces may come from `other`.
    pub fn spoil(&mut self, input: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for _ in 0..=self.below(CHANGES_MAX) {
            self.change(&mut bytes, other);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(bytes.len() + 1);
        let end = (at + 1 + self.below(RUN_MAX)).min(bytes.len());
        let kind = self.below(9);
        if at == bytes.len() && kind < 4 {
            return;
        }
        match kind {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = BORDERS[self.below(BORDERS.len())],
            2 => bytes[at] = bytes[at].wrapping_add(1).wrapping_sub(self.below(2) as u8 * 2),
            3 => drop(bytes.drain(at..end)),
            4 => bytes.truncate(at),
            5 => {
                let inserted: Vec<u8> = (0..1 + self.below(RUN_MAX)).map(|_| self.number() as u8).collect();
                bytes.splice(at..at, inserted);
            }
            6 => {
                let copied = bytes[at..end].to_vec();
                let to = self.below(bytes.len() + 1);
                bytes.splice(to..to, copied);
            }
            7 => {
                let from = self.below(other.len());
                let to = (from + 1 + self.below(2 * RUN_MAX)).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            // A length or a count that is larger than anything.
            _ => {
                let huge = if self.below(2) == 0 { [0xff; 9].as_slice() } else { &[0xff, 0xff, 0xff, 0x7f] };
                let last = [1];
                bytes.splice(at..end.min(at + 1), huge.iter().chain(if huge.len() == 9 { &last[..] } else { &[] }).copied());
            }
        }
    }
}
