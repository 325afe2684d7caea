//! `dynamo-operator run` reconciles; `dynamo-operator crd` prints the CRD.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use dynamo_operator::ability::Ability;
use dynamo_operator::controller::{self, Context};
use dynamo_operator::http::Readiness;
use dynamo_operator::leader::Election;
use dynamo_operator::metrics::Metrics;
use dynamo_operator::nodes::Network;
use dynamo_operator::{api, http};
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

/// The operator of DynamoKV.
#[derive(Parser)]
#[command(name = "dynamo-operator", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Reconcile DynamoClusters.
    Run(Run),
    /// Print the CustomResourceDefinition of DynamoCluster.
    Crd,
}

/// What can be said by no flag.
const VARIABLES: &str = "\
Other variables:
  RUST_LOG    what is logged: a level (error, warn, info, debug, trace), or one for each module, such as
              info,dynamo_operator::plan=debug; info if it is not set
  KUBECONFIG  how Kubernetes is reached from outside a pod";

#[derive(Args)]
#[command(after_help = VARIABLES)]
struct Run {
    /// The namespace whose clusters are reconciled; empty for all.
    #[arg(long, env = "WATCH_NAMESPACE", default_value = "")]
    watch_namespace: String,
    /// Whether to wait for the lease before acting, so that several replicas can run.
    #[arg(long, env = "LEADER_ELECTION", default_value_t = true, action = ArgAction::Set)]
    leader_election: bool,
    /// The lease's name.
    #[arg(long, env = "LEASE_NAME", default_value = "dynamo-operator")]
    lease_name: String,
    /// This pod's name: who holds the lease.
    #[arg(long, env = "POD_NAME")]
    pod_name: Option<String>,
    /// This pod's namespace: where the lease is.
    #[arg(long, env = "POD_NAMESPACE")]
    pod_namespace: Option<String>,
    /// Where /metrics, /healthz and /readyz are served; [::] is every address, IPv4 and IPv6.
    #[arg(long, env = "HTTP_ADDRESS", default_value = "[::]:8080")]
    http: SocketAddr,
    /// Clusters that are reconciled at the same time.
    #[arg(long, env = "CONCURRENCY", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: u16,
    /// The form of the log; its level is in RUST_LOG.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Crd => api::crd_yaml().context("crd").map(|crd| print!("{crd}")),
        Command::Run(run) => start(&run),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dynamo-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(run: &Run) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(std::io::stdout().is_terminal());
    match run.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    runtime.block_on(operate(run))
}

async fn operate(run: &Run) -> anyhow::Result<()> {
    let client = Client::try_default().await.context("no Kubernetes to talk to; give KUBECONFIG, or run in a pod")?;
    let metrics = Arc::new(Metrics::default());
    let stop = stop_on_signal()?;
    let readiness = Arc::new(Readiness::default());
    let serving = tokio::spawn(http::serve(run.http, Arc::clone(&metrics), Arc::clone(&readiness), stopped(stop.clone())));
    let election = election(run, &client)?;
    let namespace = Some(run.watch_namespace.as_str()).filter(|namespace| !namespace.is_empty());
    let may_act = async {
        // Before it takes the lease from one that can.
        controller::clusters_can_be_read(&client, namespace).await;
        match &election {
            Some(election) => Some((election, election.acquire(&readiness).await)),
            None => {
                readiness.set(true);
                None
            }
        }
    };
    let held = tokio::select! {
        held = may_act => held,
        () = stopped(stop.clone()) => return Ok(()),
        ended = serving => bail!("http: {ended:?}"),
    };
    metrics.leads(true);
    info!(namespace = namespace.unwrap_or("(all)"), "reconciling");
    let context = Context::new(client.clone(), Arc::new(Network), metrics, run.pod_name.clone());
    let context = Arc::new(context.telling_figures_every(controller::FIGURES));
    let mut ability = Ability::new(&client, namespace);
    let told = ability.tell(&context, &readiness);
    let work = controller::run(Arc::clone(&context), namespace, run.concurrency, stopped(stop.clone()));
    let lost = async {
        match held {
            Some((election, since)) => election.hold(since).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = work => {}
        never = told => match never {},
        // Nothing under way is finished: another operator may act by now.
        () = lost => bail!("the lease {} was lost", run.lease_name),
    }
    if let Some((election, _)) = held {
        election.release().await;
    }
    Ok(())
}

fn election(run: &Run, client: &Client) -> anyhow::Result<Option<Election>> {
    if !run.leader_election {
        return Ok(None);
    }
    let (Some(pod), Some(namespace)) = (&run.pod_name, &run.pod_namespace) else {
        bail!("leader election needs --pod-name and --pod-namespace (POD_NAME, POD_NAMESPACE); or give --leader-election=false");
    };
    Ok(Some(Election::new(client.clone(), namespace, &run.lease_name, pod)))
}

/// A value that turns true at SIGTERM or SIGINT.
fn stop_on_signal() -> anyhow::Result<watch::Receiver<bool>> {
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate()).context("SIGTERM")?, signal(SignalKind::interrupt()).context("SIGINT")?);
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM: finishing"),
            _ = interrupt.recv() => info!("SIGINT: finishing"),
        }
        if stop.send(true).is_err() {
            error!("nobody is left to stop");
        }
    });
    Ok(stopped)
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the sender is gone, which it is only after the signal.
    let _ = stop.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_help_of_run_says_where_the_level_of_the_log_is_set() {
        let mut command = Arguments::command();
        let help = command.find_subcommand_mut("run").unwrap().render_long_help().to_string();
        assert!(help.contains("RUST_LOG    what is logged") && help.contains("KUBECONFIG"), "{help}");
    }
}
