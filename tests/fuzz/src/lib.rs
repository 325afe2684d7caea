//! Spoils valid encodings and gives them to a decoder. Whatever comes, it
//!
//! - does not panic,
//! - holds no more memory at a time than its input explains,
//! - and what it takes for valid encodes to something that decodes to the same encoding again: the very input, where there is to be
//!   one encoding of each thing.
//!
//! ```text
//! corpus ──> one to four changes ──> sealed: the checksum is right again ──┐
//!    ^                        └────> as they are ──────────────────────────┴──> decode ──> encode ──> decode
//!    └────────────── what was taken for valid, so that changes add up ────────────┘
//! ```
//!
//! `cargo test` gives every decoder the same few thousand inputs each time. `make fuzz SECONDS=60` gives each as many as fit in a
//! minute, other ones every time; a failure prints the input, and the number that repeats the run.

mod meter;
mod spoil;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use spoil::Spoiler;

/// Inputs of one decoder in an ordinary test: a second or two for the slowest.
const INPUTS: u64 = 5_000;
/// Valid inputs that are kept to be spoilt further.
const CORPUS_MAX: usize = 500;
/// What a decoder may hold without any input, and for each byte of it. A ring's placement takes 100 bytes for three.
const MEMORY_BASE: usize = 256 << 10;
const MEMORY_PER_BYTE: usize = 256;
/// How long the inputs become.
const INPUT_BYTES_MAX: usize = 16 << 10;

/// What is expected of what a decoder takes for valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// It encodes to the bytes that it was read from.
    Canonical,
    /// It encodes to bytes that decode and encode to themselves.
    Stable,
}

/// How a decoder is tried.
pub struct Fuzz<'a> {
    /// Its name, in reports.
    pub name: &'static str,
    /// Valid inputs to begin with.
    pub corpus: Vec<Vec<u8>>,
    /// Makes the checksum of spoilt bytes right again, where there is one.
    pub seal: &'a dyn Fn(Vec<u8>) -> Vec<u8>,
    /// What is expected.
    pub expect: Expect,
    /// Decodes, and encodes what came of it; `None` if the input is refused.
    pub decode: &'a dyn Fn(&[u8]) -> Option<Vec<u8>>,
}

impl Fuzz<'_> {
    /// Tries the decoder; panics with the input that it cannot take.
    pub fn run(self) {
        let seconds = number("DYNAMO_FUZZ_SECONDS");
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64);
        let seed = number("DYNAMO_FUZZ_SEED").unwrap_or_else(|| seconds.map_or(1, |_| now()));
        let mut corpus = self.corpus.clone();
        let mut seen: BTreeSet<Vec<u8>> = corpus.iter().cloned().collect();
        for input in &corpus {
            assert!(self.check(input, seed).is_some(), "{}: refuses what it begins with: {}", self.name, shown(input));
        }
        let of_name = self.name.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let mut spoiler = Spoiler::new(seed ^ of_name);
        let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let (mut inputs, mut valid) = (0_u64, 0_u64);
        while end.map_or(inputs < INPUTS, |end| Instant::now() < end) {
            inputs += 1;
            let (one, other) = (spoiler.pick(&corpus), spoiler.pick(&corpus));
            let mut input = spoiler.spoil(&corpus[one], &corpus[other]);
            input.truncate(INPUT_BYTES_MAX);
            if spoiler.below(4) > 0 {
                input = (self.seal)(input);
            }
            if self.check(&input, seed).is_some() {
                valid += 1;
                if corpus.len() < CORPUS_MAX && seen.insert(input.clone()) {
                    corpus.push(input);
                }
            }
        }
        if seconds.is_some() {
            println!("{}: {inputs} inputs, {valid} of them valid, seed {seed}", self.name);
        }
    }

    /// What the input encodes to, if it is taken for valid.
    fn check(&self, input: &[u8], seed: u64) -> Option<Vec<u8>> {
        let name = self.name;
        let again = || format!("DYNAMO_FUZZ_SEED={seed}\n{}", shown(input));
        let (decoded, held) = meter::peak(|| catch_unwind(AssertUnwindSafe(|| (self.decode)(input))));
        let Ok(decoded) = decoded else { panic!("{name}: panics at this input, {}", again()) };
        let most = MEMORY_BASE + MEMORY_PER_BYTE * input.len();
        assert!(held <= most, "{name}: holds {held} bytes for an input of {}, {}", input.len(), again());
        let encoded = decoded?;
        match self.expect {
            Expect::Canonical => assert!(encoded == input, "{name}: encodes as {}, {}", shown(&encoded), again()),
            Expect::Stable => {
                let twice = (self.decode)(&encoded);
                assert!(twice.as_deref() == Some(&encoded[..]), "{name}: encodes as {}, {}", shown(&encoded), again());
            }
        }
        Some(encoded)
    }
}

/// For inputs without a checksum.
pub fn unsealed(input: Vec<u8>) -> Vec<u8> {
    input
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// As text if it is, else as hexadecimal digits.
fn shown(input: &[u8]) -> String {
    match std::str::from_utf8(input) {
        Ok(text) if text.chars().all(|character| !character.is_control() || character == '\n') => format!("{text:?}"),
        _ => input.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A decoder of (length, that many bytes) with a mistake of choice.
    fn decoder(mistake: &'static str) -> impl Fn(&[u8]) -> Option<Vec<u8>> {
        move |input: &[u8]| {
            let (length, bytes) = input.split_first()?;
            let length = usize::from(*length);
            match mistake {
                "panics" => return Some([&[input[0]], &bytes[..length]].concat()),
                "believes" => drop(Vec::<u8>::with_capacity(length << 20)),
                "overlooks" if bytes.len() >= length => return Some([&[length as u8], &bytes[..length]].concat()),
                _ => {}
            }
            (bytes.len() == length).then(|| input.to_vec())
        }
    }

    fn caught(mistake: &'static str) -> bool {
        let decode = decoder(mistake);
        let corpus = vec![vec![0], vec![3, 1, 2, 3]];
        let fuzz = Fuzz { name: "an example", corpus, seal: &unsealed, expect: Expect::Canonical, decode: &decode };
        catch_unwind(AssertUnwindSafe(|| fuzz.run())).is_err()
    }

    #[test]
    fn a_decoder_without_a_mistake_passes_and_each_mistake_is_found() {
        assert!(!caught("none"));
        for mistake in ["panics", "believes", "overlooks"] {
            assert!(caught(mistake), "{mistake}");
        }
    }
}
