//! Canaries of disk and network: the other lines of the budget of a replicated put and get (`node/core/benches` has the rest).
//!
//! With the features of the whole workspace, so that RocksDB is not compiled once more: `make canaries`, or
//! `cargo bench --profile dev --workspace --bench canaries`. (Cargo keeps what `cargo bench` builds apart from everything else
//! unless a profile is named, whatever that profile inherits.)

mod engine;
#[path = "../../core/benches/canaries/harness.rs"]
mod harness;
mod stream;

use harness::Harness;

/// Bytes of a value.
const VALUE_BYTES: usize = 1024;

fn main() {
    let mut harness = Harness::from_arguments();
    engine::measure(&mut harness);
    stream::measure(&mut harness);
}
