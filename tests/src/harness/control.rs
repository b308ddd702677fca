//! A control node: the real binary as `reeve control`, in a folder of its own.
//!
//! ```text
//! start ──► answers on its socket ──hold──► held (SIGSTOP) ──go_on──► answers
//!                ├──kill──► down ──restart──► answers
//!                └── dropped: killed with everything it started, the folder removed
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reeve_cluster::rpc::RpcClient;
use reeve_protocol::VmId;
use reeve_protocol::admin::{AdminReply, AdminRequest, DeadView, MAX_LIMIT, NodeView, VmView};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::process::ChildGuard;
use super::reeve::reeve_binary;

/// A broker takes a while for the queues of all shards, more beside a build.
const START_DEADLINE: Duration = Duration::from_secs(90);
const START_POLL: Duration = Duration::from_millis(50);
/// Browsing thousands of dead letters takes seconds.
const CALL: Duration = Duration::from_secs(60);

/// A running control node; dropping it kills the process and removes its data.
#[derive(Debug)]
pub struct Control {
    // Declaration order is drop order: the process, then its folder.
    child: ChildGuard,
    client: RpcClient,
    folder: TempDir,
}

/// What the kernel says of a process's memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Resident now.
    pub now: u64,
    /// The most that was ever resident.
    pub most: u64,
}

impl Control {
    /// Starts a node with these sections beside `[node]` and waits until it answers.
    ///
    /// # Errors
    /// When the binary cannot be built, ends early, or does not answer in time; the end of its log is in the message.
    pub async fn start(sections: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("reeve-control-").tempdir().context("cannot make a folder")?;
        let config = folder.path().join("reeve.toml");
        let data = folder.path().join("data");
        std::fs::write(&config, format!("[node]\nid = \"control-1\"\ndata_dir = {data:?}\n{sections}"))?;
        let (child, client) = launch(folder.path()).await?;
        Ok(Self { child, client, folder })
    }

    /// Ends it with SIGKILL, as a crash would.
    pub fn kill(&mut self) {
        self.child.kill();
    }

    /// Starts it again on its data, killed first where it runs, and waits until it answers.
    ///
    /// # Errors
    /// As [`Control::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.child.kill();
        (self.child, self.client) = launch(self.folder.path()).await?;
        Ok(())
    }

    /// The process: its id, its log, the ways to end it.
    pub fn process(&mut self) -> &mut ChildGuard {
        &mut self.child
    }

    /// A connection to it.
    #[must_use]
    pub fn client(&self) -> &RpcClient {
        &self.client
    }

    /// The folder of its records and backups.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// All that it has logged.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log(&self) -> Result<Vec<u8>> {
        std::fs::read(self.child.log_path()).context("cannot read the node's log")
    }

    /// Asks it.
    ///
    /// # Errors
    /// When it does not answer; the end of its log is in the message.
    pub async fn ask(&self, request: AdminRequest) -> Result<AdminReply> {
        let answer = self.client.call(request, CALL).await;
        answer.with_context(|| format!("reeve control gives no answer\n{}", self.child.log_tail()))
    }

    /// All VMs, by id.
    ///
    /// # Errors
    /// As [`Control::ask`], and when it refuses.
    pub async fn vms(&self) -> Result<Vec<VmView>> {
        let mut all: Vec<VmView> = Vec::new();
        loop {
            let marker: Option<VmId> = all.last().map(|vm| vm.id);
            match self.ask(AdminRequest::VmList { limit: MAX_LIMIT, marker, lease: None }).await? {
                AdminReply::Vms(page) if page.is_empty() => return Ok(all),
                AdminReply::Vms(page) => all.extend(page),
                other => bail!("expected VMs, got {other:?}"),
            }
        }
    }

    /// The first dead letters, at most [`MAX_LIMIT`].
    ///
    /// # Errors
    /// As [`Control::ask`], and when it refuses.
    pub async fn dead_letters(&self) -> Result<Vec<DeadView>> {
        match self.ask(AdminRequest::DeadList { from: 0, limit: MAX_LIMIT }).await? {
            AdminReply::Dead(letters) => Ok(letters),
            other => bail!("expected dead letters, got {other:?}"),
        }
    }

    /// How it is.
    ///
    /// # Errors
    /// As [`Control::ask`], and when it refuses.
    pub async fn node(&self) -> Result<NodeView> {
        match self.ask(AdminRequest::Node).await? {
            AdminReply::Node(node) => Ok(*node),
            other => bail!("expected the node, got {other:?}"),
        }
    }

    /// Stops the process in its tracks: it keeps its connections and does nothing until [`Control::go_on`].
    ///
    /// # Errors
    /// When it has ended.
    pub fn hold(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets a held process go on.
    ///
    /// # Errors
    /// When it has ended.
    pub fn go_on(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Its memory.
    ///
    /// # Errors
    /// When it has ended.
    pub fn memory(&self) -> Result<Memory> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.pid()))?;
        let bytes = |key: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")).with_context(|| format!("no {key}"))?;
            Ok(kib.trim().parse::<u64>()? * 1024)
        };
        Ok(Memory { now: bytes("VmRSS")?, most: bytes("VmHWM")? })
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.pid()).ok().and_then(Pid::from_raw).context("a process id")?;
        kill_process(pid, signal).context("cannot signal reeve control")
    }
}

async fn launch(folder: &Path) -> Result<(ChildGuard, RpcClient)> {
    let mut command = Command::new(reeve_binary()?);
    command.arg("control").arg("--config").arg(folder.join("reeve.toml"));
    command.current_dir(folder).env_remove("NOTIFY_SOCKET");
    // What the developer's shell sets for a node of its own must not leak into ours.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("REEVE_")) {
        command.env_remove(name);
    }
    let mut child = ChildGuard::spawn("reeve control", command, folder.join("reeve.log"))?;
    match timeout(START_DEADLINE, answering(&mut child, &folder.join("data/reeve.sock"))).await {
        Ok(Ok(client)) => Ok((child, client)),
        Ok(Err(error)) => Err(error.context(child.log_tail())),
        Err(_) => bail!("reeve control does not answer after {START_DEADLINE:?}\n{}", child.log_tail()),
    }
}

async fn answering(child: &mut ChildGuard, socket: &Path) -> Result<RpcClient> {
    loop {
        if let Ok(client) = RpcClient::connect_unix(socket).await
            && client.call(AdminRequest::Node, START_DEADLINE).await.is_ok()
        {
            return Ok(client);
        }
        if let Some(status) = child.try_exit()? {
            bail!("reeve control ended early, {status}");
        }
        sleep(START_POLL).await;
    }
}
