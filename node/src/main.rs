//! `dynamo-node`: reads the configuration, runs a node until SIGTERM or SIGINT, and tells its parent how it ended.

use std::ffi::c_int;
use std::io::Write;

use clap::Parser;
use dynamo_node::config::{Flags, ValidConfig};
use dynamo_node::{NodeError, telemetry};
use tokio::signal::unix::{SignalKind, signal};

/// Requests make many short-lived blocks: see the reason beside the dependency.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ! {
    match run(Flags::parse()) {
        Ok(()) => end(0),
        Err(error) => {
            // Where that cannot be written, the exit code says it still.
            let _ = writeln!(std::io::stderr(), "dynamo-node: {error}");
            end(error.downcast_ref::<NodeError>().map_or(1, NodeError::exit_code))
        }
    }
}

/// Ends the process as a `kill -9` would, but for the code. Whoever had to stop while RocksDB opened has a thread in it still, and what C++
/// does at the end of a process would take down what that thread uses. Nothing is lost by it: what was acknowledged is on stable storage, and
/// a database whose opening was cut short opens anew.
fn end(code: u8) -> ! {
    unsafe extern "C" {
        fn _exit(status: c_int) -> !;
    }
    // SAFETY: it ends the process, and touches nothing in it.
    unsafe { _exit(c_int::from(code)) }
}

fn run(flags: Flags) -> anyhow::Result<()> {
    let config = ValidConfig::load(flags).map_err(NodeError::from)?;
    telemetry::start(&config);
    until_ended::<anyhow::Result<()>>(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        Ok(dynamo_node::run(config, stop).await?)
    })?
}

/// What comes of `running`. Threads of the runtime that are at work still are not waited for: look-ups of names are all they do, and a
/// resolver may keep one for most of a minute.
fn until_ended<T>(running: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(running);
    runtime.shutdown_background();
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_has_ended_waits_for_no_name_that_is_looked_up_still() {
        let (answer, resolver) = std::sync::mpsc::channel::<()>();
        let (begin, begun) = tokio::sync::oneshot::channel();
        let ended = until_ended(async {
            tokio::task::spawn_blocking(move || {
                begin.send(()).unwrap();
                resolver.recv()
            });
            begun.await.unwrap();
            7
        });
        assert_eq!(ended.unwrap(), 7);
        answer.send(()).expect("the look-up waits still");
    }
}
