//! `dynamo-chaos`: five real nodes and one that comes and goes, a schedule of faults from a seed, clients, and a checker. `make chaos` runs it.
//!
//! Exit codes: 0 nothing was wrong, 1 something was (and the logs are kept), 2 usage, 3 the harness failed and there is no verdict,
//! 130 interrupted.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use dynamo_cluster_tests::chaos::network::Network;
use dynamo_cluster_tests::chaos::run::{self, HARNESS_FAILED, Options, VIOLATED, Verdict};
use dynamo_cluster_tests::chaos::sandbox;
use tokio::signal::unix::{SignalKind, signal};

/// Five nodes under faults and a workload, and whether they lose a write.
#[derive(Parser)]
struct Arguments {
    /// About how long; a round has its time to settle in any case.
    #[arg(long, default_value_t = 2.0, value_parser = minutes)]
    minutes: f64,
    /// Repeats the schedule of an earlier run, not its timing.
    #[arg(long)]
    seed: Option<u64>,
    /// On loopback, without namespaces, even where they could be had.
    #[arg(long)]
    loopback: bool,
    /// Only says which faults can be made on this machine.
    #[arg(long)]
    list_faults: bool,
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(minutes) if (0.1..=10_000.0).contains(&minutes) => Ok(minutes),
        _ => Err(format!("{text:?} is not a number of minutes; give 0.1 to 10000")),
    }
}

fn main() -> ExitCode {
    let done = if sandbox::is_trial() { Network::try_out().map(|()| ExitCode::SUCCESS) } else { started(Arguments::parse()) };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(HARNESS_FAILED)
    })
}

fn started(arguments: Arguments) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(chaos(arguments))
}

async fn chaos(arguments: Arguments) -> Result<ExitCode> {
    let refusal = match (sandbox::is_inside(), arguments.loopback) {
        (true, _) => None,
        (false, true) => Some("--loopback was given".to_owned()),
        (false, false) => match sandbox::run_inside().await? {
            Ok(code) => return Ok(ExitCode::from(code)),
            Err(refusal) => Some(refusal),
        },
    };
    if arguments.list_faults {
        run::list_faults(refusal.as_deref())?;
        return Ok(ExitCode::SUCCESS);
    }
    let drawn = || uuid::Uuid::new_v4().as_u64_pair().0 % 1_000_000;
    let options =
        Options { length: Duration::from_secs_f64(arguments.minutes * 60.0), seed: arguments.seed.unwrap_or_else(drawn) };
    println!("seed {}, about {:.1} minutes", options.seed, arguments.minutes);
    Ok(match run::run(options, refusal, told_to_stop()).await? {
        Verdict::Good => ExitCode::SUCCESS,
        Verdict::Bad => ExitCode::from(VIOLATED),
        Verdict::Unknown => ExitCode::from(HARNESS_FAILED),
        Verdict::Interrupted => ExitCode::from(130),
    })
}

/// Ctrl-C, or a request to end; inside, the end of the standard input too, which is how the outside tells.
async fn told_to_stop() {
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let (Ok(mut interrupt), Ok(mut terminate)) = signals else { return };
    let closed = async {
        if !sandbox::is_inside() {
            std::future::pending::<()>().await;
        }
        let (tell, told) = tokio::sync::oneshot::channel();
        // A thread of its own: it waits for the end of the input until the program ends.
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            let _ = tell.send(());
        });
        let _ = told.await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = closed => {}
    }
}
