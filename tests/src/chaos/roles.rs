//! The processes that a run starts beside itself: a control node, and a simulated cloud.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use reeve_nodes::daemon::{self, AfterStart};
use reeve_ports::{Clock, SystemClock};
use tokio::runtime::{Builder, Runtime};

use super::clock::SteppedClock;
use super::cloud::{self, CloudOptions};

/// What `reeve control` does; by a clock that can be stepped, if there is one.
///
/// # Errors
/// When the configuration or the clock cannot be read, or the node ends with an error.
pub fn node(config: &Path, clock: Option<&Path>) -> Result<()> {
    let config = reeve_nodes::config::load(config).context("the configuration of the node")?;
    let clock: Arc<dyn Clock> = match clock {
        Some(file) => Arc::new(SteppedClock::open(file)?),
        None => Arc::new(SystemClock),
    };
    daemon::run_with_clock(&config, AfterStart::default(), clock)?;
    Ok(())
}

/// The cloud, until it is told to stop.
///
/// # Errors
/// When the cloud cannot be started.
pub fn cloud(options: CloudOptions) -> Result<()> {
    runtime()?.block_on(cloud::serve(options))
}

/// As many threads as a machine for tests has cores.
///
/// # Errors
/// When the operating system refuses the threads.
pub fn runtime() -> Result<Runtime> {
    Ok(Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}
