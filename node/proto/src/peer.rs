//! What nodes send each other: core messages to `v1::PeerMessage` and back.
//!
//! Objects and rings travel as their canonical encodings with their own checksums, so a bit that flips anywhere between two
//! disks is noticed here. Limits on keys and values are for clients: repair moves what a later, lower limit would refuse.

mod inward;
mod outward;
mod reaping;
#[cfg(test)]
mod tests;

/// "Not given" in `ForwardedRequest.quorum`.
const QUORUM_ABSENT: u32 = u32::MAX;

/// `Forwarded.outcome`.
mod outcome {
    pub const GOT: u32 = 0;
    pub const WRITTEN: u32 = 1;
    pub const FAILED: u32 = 2;
}
