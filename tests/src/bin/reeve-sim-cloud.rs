//! A simulated OpenStack in a process of its own: one cloud for all nodes of a cluster (see `reeve_tests::sim_cloud`).

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use reeve_drivers::SimConfig;
use reeve_tests::sim_cloud::{SimCloudOptions, SimCloudServer};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Simulates an OpenStack for tests: Keystone, Nova, Glance, Cinder and Neutron as far as Reeve needs them.
#[derive(Debug, Parser)]
struct Arguments {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// VMs that exist from the start
    #[arg(long)]
    vms: Option<u32>,
    /// Everything that looks random follows from it
    #[arg(long)]
    seed: Option<u64>,
    /// Folder that keeps the cloud over a restart
    #[arg(long)]
    data: Option<PathBuf>,
    /// Further keys of the simulated cloud, as TOML
    #[arg(long)]
    config: Option<PathBuf>,
    /// Broker that gets Nova's notifications
    #[arg(long, env = "REEVE_SIM_CLOUD_AMQP", hide_env_values = true)]
    amqp: Option<String>,
    /// Exchange for the notifications
    #[arg(long, default_value = "nova")]
    exchange: String,
    /// File to which every changing call is appended, as JSON lines
    #[arg(long)]
    history: Option<PathBuf>,
    /// How long a token lasts, in seconds
    #[arg(long, default_value_t = 3_600)]
    token_seconds: u64,
}

impl Arguments {
    fn options(self) -> Result<SimCloudOptions> {
        let mut options = SimCloudOptions::default();
        if let Some(path) = &self.config {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            options.sim = toml::from_str::<SimConfig>(&text).with_context(|| path.display().to_string())?;
        }
        options.sim.vms = self.vms.unwrap_or(options.sim.vms);
        options.sim.seed = self.seed.unwrap_or(options.sim.seed);
        Ok(SimCloudOptions {
            listen: self.listen,
            data: self.data,
            amqp: self.amqp,
            exchange: self.exchange,
            history: self.history,
            token_life: Duration::from_secs(self.token_seconds),
            ..options
        })
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let server = SimCloudServer::start(Arguments::parse().options()?).await?;
    // Whoever starts it reads this line to learn the port.
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", server.url())?;
    out.flush()?;
    drop(out);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    server.stop().await;
    Ok(())
}
