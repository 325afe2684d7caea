//! Real nodes on loopback: one, three, and the process itself. Scenarios under faults are in `tests/cluster`.

mod buckets;
mod one;
mod process;
mod support;
mod three;
