//! Breaks a whole cluster in every way and proves that nothing was lost or done twice (see `reeve_tests::chaos`).

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use reeve_tests::chaos::options::{Options, Task};
use reeve_tests::chaos::run::Outcome;
use reeve_tests::chaos::{failover, judge, roles, rolling, run};
use tracing_subscriber::EnvFilter;

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    match &options.task {
        Some(Task::Node { config, clock }) => roles::node(config, Some(clock)).map(|()| ExitCode::SUCCESS),
        Some(Task::Cloud(cloud)) => {
            log("warn");
            roles::cloud(cloud.clone()).map(|()| ExitCode::SUCCESS)
        }
        Some(Task::Check { history, json }) => told(&judge(history)?, *json),
        None => {
            log("info,lapin=off");
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
            let outcome = roles::runtime()?.block_on(async {
                tokio::select! {
                    outcome = played(&options) => outcome,
                    // Dropped, a run ends all that it has started.
                    stopped = tokio::signal::ctrl_c() => {
                        stopped.context("no word of Ctrl-C can be had")?;
                        anyhow::bail!("stopped by Ctrl-C; what happened so far is in the folder that reeve-chaos made")
                    }
                }
            })?;
            told(&outcome, options.json)
        }
    }
}

async fn played(options: &Options) -> Result<Outcome> {
    if options.failover {
        Box::pin(failover::failover(options)).await
    } else if options.rolling {
        Box::pin(rolling::rolling(options)).await
    } else {
        Box::pin(run::chaos(options)).await
    }
}

fn log(level: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

fn told(outcome: &Outcome, json: bool) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    write!(out, "{}", outcome.words)?;
    if json {
        writeln!(out, "{}", outcome.json)?;
    }
    out.flush()?;
    Ok(if outcome.good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
