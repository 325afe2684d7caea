//! How many blocks of memory a put and a get take, three nodes summed, with neither network nor disk.
//!
//! What a request costs the protocol is mostly that, and unlike time it can be counted: so this is the test that holds the figure,
//! and the canaries only show what it comes to. A block more is a decision; a block fewer wants a lower figure here.

#[path = "../benches/canaries/cluster.rs"]
mod cluster;
#[path = "../benches/canaries/memory.rs"]
mod memory;

use cluster::Cluster;

/// The object and its bytes (two: bytes, and what counts who shares them), the request, the answer's evidence and token, and one
/// for the history that each of the three nodes remembers.
const PUT_MAX: f64 = 9.0;
/// The object that was read, the request, the answer's evidence and token.
const GET_MAX: f64 = 4.0;
/// Lists that grow with the number of requests, spread over them.
const LISTS: f64 = 0.75;

const REQUESTS: u64 = 20_000;

fn blocks(mut requests: impl FnMut(u64)) -> f64 {
    // Lists of all requests in flight, and what is kept of an object, have their room after this.
    requests(REQUESTS);
    allocation_counter::measure(|| requests(REQUESTS)).count_total as f64 / REQUESTS as f64
}

#[test]
fn a_put_and_a_get_take_few_blocks_of_memory() {
    let mut cluster = Cluster::new(1024);
    let put = blocks(|count| cluster.puts(count));
    assert!(put <= PUT_MAX + LISTS, "{put} blocks for a put");
    let get = blocks(|count| cluster.gets(count));
    assert!(get <= GET_MAX + LISTS, "{get} blocks for a get");
}
