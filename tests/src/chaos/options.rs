//! What a run is told.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use super::cloud::CloudOptions;
use super::faults::Mix;
use super::settings::Pace;

/// Breaks a whole cluster in every way and proves that nothing was lost or done twice.
#[derive(Debug, Clone, Parser)]
#[command(name = "reeve-chaos", version)]
pub struct Options {
    /// Other than a run.
    #[command(subcommand)]
    pub task: Option<Task>,
    /// What is drawn; the same seed draws the same faults, commands and lives.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How long faults and load last.
    #[arg(long, default_value_t = 2.0)]
    pub minutes: f64,
    /// How many VMs the cloud has at first.
    #[arg(long)]
    pub vms: Option<usize>,
    /// How many control nodes.
    #[arg(long, default_value_t = 3)]
    pub nodes: usize,
    /// How many RabbitMQ brokers.
    #[arg(long, default_value_t = 3)]
    pub brokers: usize,
    /// The lease TTL in milliseconds.
    #[arg(long)]
    pub ttl_ms: Option<u64>,
    /// End with one JSON object on the last line.
    #[arg(long)]
    pub json: bool,
    /// Keep the folder with the history and the logs, whatever comes of the run.
    #[arg(long)]
    pub keep: bool,
    /// Faults that last a minute too, such as an outage of all etcd members.
    #[arg(long)]
    pub long: bool,
    /// Only the faults that make a stale owner: what finds a broken fence soonest.
    #[arg(long, conflicts_with = "long")]
    pub stale_owner: bool,
    /// Kill a node in each round and measure until every VM is attended again; then drain one.
    #[arg(long, conflicts_with = "rolling")]
    pub failover: bool,
    /// How many rounds of that.
    #[arg(long, default_value_t = 10)]
    pub rounds: usize,
    /// Restart all nodes one after the other under load.
    #[arg(long)]
    pub rolling: bool,
    /// Commands a second.
    #[arg(long)]
    pub rate: Option<u32>,
    /// The time between two probes of a VM. Each is a call to the cloud, so a large fleet needs more on a small machine.
    #[arg(long, default_value_t = 20)]
    pub probe_secs: u64,
    /// The time between two listings of the cloud.
    #[arg(long, default_value_t = 10)]
    pub list_secs: u64,
}

/// Other than a run.
#[derive(Debug, Clone, Subcommand)]
pub enum Task {
    /// Judge a history that was kept.
    Check {
        /// The file.
        history: PathBuf,
        /// End with one JSON object on the last line.
        #[arg(long)]
        json: bool,
    },
    /// The simulated cloud. For the run alone.
    #[command(hide = true)]
    Cloud(CloudOptions),
    /// A control node whose clock can be stepped. For the run alone.
    #[command(hide = true)]
    Node {
        /// Its configuration.
        #[arg(long)]
        config: PathBuf,
        /// The file with the offset of its wall clock.
        #[arg(long)]
        clock: PathBuf,
    },
}

impl Options {
    /// Which faults.
    #[must_use]
    pub fn mix(&self) -> Mix {
        match (self.stale_owner, self.long) {
            (true, _) => Mix::StaleOwner,
            (false, true) => Mix::Long,
            (false, false) => Mix::Usual,
        }
    }

    /// How many VMs.
    #[must_use]
    pub fn fleet(&self) -> usize {
        self.vms.unwrap_or(if self.failover { 20_000 } else { 2_000 })
    }

    /// The lease TTL.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms.unwrap_or(if self.failover { 3_000 } else { 5_000 }))
    }

    /// How often the nodes ask the cloud.
    #[must_use]
    pub fn pace(&self) -> Pace {
        Pace { probe_secs: self.probe_secs, list_secs: self.list_secs }
    }

    /// Commands a second.
    #[must_use]
    pub fn rate(&self) -> u32 {
        self.rate.unwrap_or(if self.rolling { 200 } else { 20 }).max(1)
    }

    /// How long faults and load last.
    #[must_use]
    pub fn lasts(&self) -> Duration {
        Duration::from_secs_f64(self.minutes.clamp(0.05, 60.0 * 24.0 * 7.0) * 60.0)
    }
}
