//! `dynamo-node`: reads the configuration, runs a node until SIGTERM or SIGINT, and tells its parent how it ended.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use dynamo_node::config::{Flags, ValidConfig};
use dynamo_node::{NodeError, telemetry};
use tokio::signal::unix::{SignalKind, signal};

/// Requests make many short-lived blocks: see the reason beside the dependency.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run(Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where that cannot be written, the exit code says it still.
            let _ = writeln!(std::io::stderr(), "dynamo-node: {error}");
            ExitCode::from(error.downcast_ref::<NodeError>().map_or(1, NodeError::exit_code))
        }
    }
}

fn run(flags: Flags) -> anyhow::Result<()> {
    let config = ValidConfig::load(flags).map_err(NodeError::from)?;
    telemetry::start(&config);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        Ok(dynamo_node::run(config, stop).await?)
    })
}
