//! `dynamoctl`, or `kubectl dynamo` where it is called kubectl-dynamo: reads and writes objects, imports and verifies files, shows and checks a cluster, runs one on this machine,
//! measures it, and tries to catch it losing a write.
//!
//! Exit codes: 0 done, 1 a check or a request failed, 2 usage, 3 the outcome of a write is unknown. Results go to the standard
//! output (tables, or JSON with `-o json`), progress and errors to the standard error.
//!
//! It is a library for the sake of [`workload`], whose clients and checker the tests of real processes (`tests/cluster`) share.

mod arguments;
mod bench;
mod connection;
mod departed;
#[cfg(test)]
mod double;
#[cfg(test)]
mod fuzz;
mod import;
mod local;
mod members;
mod object;
mod output;
mod process;
mod progress;
mod random;
mod records;
mod ring;
mod ring_init;
mod ring_loss;
mod ring_operations;
mod ring_plan;
mod ring_record;
mod ring_writer;
#[cfg(test)]
#[path = "../../client/tests/silent/server.rs"]
#[allow(dead_code, reason = "the client's tests use more of it")]
mod silent;
mod status;
mod stop;
mod verify;
pub mod workload;

use std::process::ExitCode;

use arguments::{Arguments, Command};
use stop::Stop;

/// The whole program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parsed(std::env::args_os().collect()).unwrap_or_else(|error| error.exit());
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Stop::Failed(format!("no runtime: {error}")).report(),
    };
    match runtime.block_on(run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => stop.report(),
    }
}

async fn run(arguments: Arguments) -> Result<(), Stop> {
    let Arguments { connection, output, command } = arguments;
    match command {
        Command::Get(arguments) => object::get(&connection, output, arguments).await,
        Command::Put(arguments) => object::put(&connection, output, arguments).await,
        Command::Delete(arguments) => object::delete(&connection, output, arguments).await,
        Command::Import(arguments) => import::run(&connection, output, arguments).await,
        Command::Verify(arguments) => verify::run(&connection, output, arguments).await,
        Command::Status => status::run(&connection, output).await,
        Command::Ring(arguments) => ring::run(&connection, output, arguments).await,
        Command::Local(arguments) => local::run(&connection, output, arguments).await,
        Command::Bench(arguments) => bench::run(&connection, output, *arguments).await,
        Command::Workload(arguments) => workload::run(&connection, output, arguments).await,
    }
}
