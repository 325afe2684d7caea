//! `make e2e`: the scenario against a real Kubernetes. See the crate's documentation.

use std::process::ExitCode;

fn main() -> ExitCode {
    dynamo_e2e::scenario::run()
}
