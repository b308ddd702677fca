//! The processes that a benchmark starts beside itself: a control node, and a simulated cloud.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use reeve_nodes::daemon::{self, AfterStart};
use reeve_ports::{Clock, SystemClock};
use reeve_tests::chaos::clock::SteppedClock;
use reeve_tests::chaos::cloud::{self, CloudOptions};

/// What `reeve control` does; by a clock that can be stepped, if there is one.
pub(crate) fn node(config: &Path, clock: Option<&Path>) -> Result<ExitCode> {
    let config = reeve_nodes::config::load(config).context("the configuration of the node")?;
    let clock: Arc<dyn Clock> = match clock {
        Some(file) => Arc::new(SteppedClock::open(file)?),
        None => Arc::new(SystemClock),
    };
    daemon::run_with_clock(&config, AfterStart::default(), clock)?;
    Ok(ExitCode::SUCCESS)
}

/// The cloud, until it is told to stop.
pub(crate) fn cloud(options: CloudOptions) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(cloud::serve(options))?;
    Ok(ExitCode::SUCCESS)
}
