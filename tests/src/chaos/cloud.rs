//! The simulated cloud of a run, in a process of its own: all nodes share it, and it survives them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reeve_drivers::SimConfig;
use reeve_drivers::cloud::sim::{Actor, AuditEntry, CallKind};
use reeve_protocol::NodeId;

use super::history::{Call, Caller, History, What};
use crate::harness::{ChildGuard, Port};
use crate::sim_cloud::{SimCloudOptions, SimCloudServer, SimControl};

const START: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);
/// The environment variable with the broker's URL, which holds a password.
const BROKER: &str = "REEVE_CHAOS_AMQP";

/// The cloud.
#[derive(Debug)]
pub struct CloudProcess {
    /// Plays owners and fate.
    pub control: SimControl,
    url: String,
    _process: ChildGuard,
    _port: Port,
}

impl CloudProcess {
    /// Starts it with so many VMs, and waits until it answers.
    ///
    /// # Errors
    /// When it does not answer in time; the end of its log is in the message.
    pub async fn start(folder: &Path, vms: usize, seed: u64, broker: &str) -> Result<Self> {
        let port = Port::reserve()?;
        let url = format!("http://127.0.0.1:{}", port.number());
        let mut command = Command::new(std::env::current_exe().context("the path of this program")?);
        command.arg("cloud").args(["--listen", &format!("127.0.0.1:{}", port.number())]);
        command.args(["--vms", &vms.to_string(), "--seed", &seed.to_string()]).env(BROKER, broker);
        let mut process = ChildGuard::spawn("the cloud", command, folder.join("cloud.log"))?;
        let control = SimControl::new(&url)?;
        let answering = async {
            while control.counts().await.is_err() {
                if let Some(status) = process.try_exit()? {
                    bail!("the cloud ended, {status}\n{}", process.log_tail());
                }
                tokio::time::sleep(POLL).await;
            }
            Ok(())
        };
        tokio::time::timeout(START, answering).await.context("the cloud does not answer")??;
        Ok(Self { control, url, _process: process, _port: port })
    }

    /// Keystone.
    #[must_use]
    pub fn auth_url(&self) -> String {
        format!("{}/identity/v3", self.url)
    }

    /// Writes every call that changed something, or tried to, to the history.
    ///
    /// # Errors
    /// When the cloud does not answer.
    pub async fn write_calls(&self, nodes: &[NodeId], history: &History) -> Result<()> {
        let mut after = 0;
        loop {
            let page = self.control.audit_after(after).await?;
            let Some(last) = page.last() else { break };
            after = last.seq;
            for entry in page.iter().filter(|entry| entry.call != CallKind::Event) {
                history.write_at(entry.at, What::Call(call(entry, nodes)));
            }
        }
        Ok(())
    }
}

fn call(entry: &AuditEntry, nodes: &[NodeId]) -> Call {
    let node = nodes.iter().find(|node| entry.caller.as_deref() == Some(node.as_str()));
    let by = match (entry.by, node) {
        (Actor::Caller, Some(node)) => Caller::Node(node.clone()),
        (Actor::Caller | Actor::Owner | Actor::Fate, _) => Caller::Others,
    };
    let (seq, call, vm, applied) = (entry.seq, entry.call, entry.vm, entry.applied);
    Call { seq, by, call, vm, detail: entry.detail.clone(), applied }
}

/// What the process of a cloud is told.
#[derive(Debug, Clone, clap::Args)]
pub struct CloudOptions {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    vms: u32,
    #[arg(long)]
    seed: u64,
    /// The file to which every changing call is appended.
    #[arg(long)]
    audit: Option<PathBuf>,
}

/// The process of a cloud, until it is told to stop.
///
/// # Errors
/// When the cloud cannot be started.
pub async fn serve(options: CloudOptions) -> Result<()> {
    let defaults = SimCloudOptions::default();
    let sim = SimConfig {
        vms: options.vms,
        seed: options.seed,
        hosts: 40,
        max_vms: 1_000_000,
        volumes_per_vm: [0, 1],
        ..defaults.sim.clone()
    };
    let options = SimCloudOptions {
        listen: options.listen,
        sim,
        amqp: std::env::var(BROKER).ok(),
        history: options.audit,
        token_life: Duration::from_secs(600),
        ..defaults
    };
    let server = SimCloudServer::start(options).await?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    terminate.recv().await;
    server.stop().await;
    Ok(())
}
