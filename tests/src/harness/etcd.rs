//! A private etcd cluster of one or more members on loopback.
//!
//! ```text
//! start ──► running ──hold──► held (SIGSTOP) ──go_on──► running
//!              ├──kill──► down ──restart──► running
//!              └── dropped: killed with everything it started, the data removed
//! ```
//!
//! Data and ports outlive `kill` and `restart`, and go with the value. It is Debian's etcd with its own default timing:
//! a heartbeat every 100 ms, an election after 1 s of silence.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use etcd_client::{Certificate, Client, CompactionOptions, ConnectOptions, Identity, StatusResponse, TlsOptions};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::certificates::Certificates;
use super::ports::Port;
use super::process::ChildGuard;

/// An election and a few fsyncs, beside a build.
const START_DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// Limit for one call of the harness itself.
const CALL: Duration = Duration::from_secs(5);

/// A running etcd cluster; dropping it ends the members and removes their data.
#[derive(Debug)]
pub struct Etcd {
    // Declaration order is drop order: the members, then their data.
    members: Vec<Member>,
    certificates: Option<Certificates>,
    token: String,
    folder: TempDir,
}

#[derive(Debug)]
struct Member {
    process: Option<ChildGuard>,
    client: Port,
    peer: Port,
}

impl Etcd {
    /// Starts so many members and waits until each of them answers.
    ///
    /// # Errors
    /// When etcd is not installed, a member ends early or does not answer within 60 s; the end of its log is in the
    /// message.
    pub async fn start(members: usize) -> Result<Self> {
        Self::start_in(data_folder()?, members, None).await
    }

    /// As [`Etcd::start`]; clients need TLS and a certificate of [`Etcd::certificates`]' authority.
    ///
    /// # Errors
    /// As [`Etcd::start`].
    pub async fn start_tls(members: usize) -> Result<Self> {
        let folder = data_folder()?;
        let certificates = Certificates::create(folder.path())?;
        Self::start_in(folder, members, Some(certificates)).await
    }

    /// How many members the cluster has, running or not.
    #[must_use]
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// The URLs for clients, in the order of the members.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.size()).map(|member| self.endpoint(member)).collect()
    }

    /// The URL of one member.
    #[must_use]
    pub fn endpoint(&self, member: usize) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address(member))
    }

    /// Where a member listens for clients: what a [`Proxy`](super::Proxy) stands before.
    #[must_use]
    pub fn address(&self, member: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.members[member].client.number()))
    }

    /// The files for TLS; `None` after [`Etcd::start`].
    #[must_use]
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// A plain client of all members, beside Reeve's own.
    ///
    /// # Errors
    /// When the certificates cannot be read.
    pub async fn client(&self) -> Result<Client> {
        self.connect(&self.endpoints()).await
    }

    /// Ends a member with SIGKILL, as a crash would.
    pub fn kill(&mut self, member: usize) {
        self.members[member].process = None;
    }

    /// Stops a member in its tracks: it keeps its connections and does nothing until [`Etcd::go_on`].
    ///
    /// # Errors
    /// When it does not run.
    pub fn hold(&self, member: usize) -> Result<()> {
        self.signal(member, Signal::STOP)
    }

    /// Lets a held member go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn go_on(&self, member: usize) -> Result<()> {
        self.signal(member, Signal::CONT)
    }

    /// Starts a member again on its data and ports, killed first where it runs, and waits until it answers.
    ///
    /// # Errors
    /// As [`Etcd::start`]; a member of a cluster without a majority does not answer.
    pub async fn restart(&mut self, member: usize) -> Result<()> {
        self.launch(member)?;
        self.await_ready(member).await
    }

    /// As [`Etcd::restart`] for members that are down, all at once: what an outage of a majority needs.
    ///
    /// # Errors
    /// As [`Etcd::restart`].
    pub async fn restart_those_down(&mut self) -> Result<()> {
        let down: Vec<usize> = (0..self.size()).filter(|&member| self.members[member].process.is_none()).collect();
        for &member in &down {
            self.launch(member)?;
        }
        for member in down {
            self.await_ready(member).await?;
        }
        Ok(())
    }

    /// The member that leads.
    ///
    /// # Errors
    /// When there is none within 60 s.
    pub async fn leader(&self) -> Result<usize> {
        let looking = async {
            loop {
                for member in self.running() {
                    if let Ok(status) = self.status(member).await
                        && status.leader() != 0
                        && id(&status)? == status.leader()
                    {
                        return Ok(member);
                    }
                }
                sleep(POLL).await;
            }
        };
        timeout(START_DEADLINE, looking).await.context("etcd has no leader")?
    }

    /// Hands the leadership to another running member, and returns which.
    ///
    /// # Errors
    /// When no other runs, or etcd refuses.
    pub async fn move_leader(&self) -> Result<usize> {
        let leader = self.leader().await?;
        let next = self.running().find(|&member| member != leader).context("nobody else could lead")?;
        let target = id(&self.status(next).await?)?;
        let mut client = self.connect(&[self.endpoint(leader)]).await?;
        timeout(CALL, client.move_leader(target)).await.context("the leader does not answer")??;
        Ok(next)
    }

    /// Forgets the history before now, so that a watch from an older revision is told to list again; returns the
    /// revision.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn compact(&self) -> Result<i64> {
        let revision = self.revision().await?;
        let mut client = self.client().await?;
        let options = CompactionOptions::new().with_physical();
        timeout(CALL, client.compact(revision, Some(options))).await.context("no compaction")??;
        Ok(revision)
    }

    /// The revision that etcd is at. Every transaction that changes something adds one.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn revision(&self) -> Result<i64> {
        let mut client = self.client().await?;
        let read = timeout(CALL, client.get("revision", None)).await.context("etcd does not answer")??;
        Ok(read.header().context("an answer has a header")?.revision())
    }

    /// How many bytes of its file a member uses, without the pages that are free.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn bytes_used(&self) -> Result<u64> {
        let mut client = self.client().await?;
        let status = timeout(CALL, client.status()).await.context("etcd does not answer")??;
        // The client's name for it is another; the field is `dbSizeInUse`.
        Ok(u64::try_from(status.raft_used_db_size())?)
    }

    /// The last lines of a member's log.
    #[must_use]
    pub fn log_tail(&self, member: usize) -> String {
        self.members[member].process.as_ref().map(ChildGuard::log_tail).unwrap_or_default()
    }

    async fn start_in(folder: TempDir, count: usize, certificates: Option<Certificates>) -> Result<Self> {
        ensure!(count > 0, "a cluster has at least one member");
        let reserve = |_| Ok(Member { process: None, client: Port::reserve()?, peer: Port::reserve()? });
        let members = (0..count).map(reserve).collect::<Result<Vec<_>>>()?;
        let mut etcd = Self { members, certificates, token: Uuid::new_v4().simple().to_string(), folder };
        etcd.restart_those_down().await?;
        Ok(etcd)
    }

    fn launch(&mut self, member: usize) -> Result<()> {
        self.kill(member);
        let log = self.folder.path().join(format!("{}.log", name(member)));
        let child = ChildGuard::spawn(name(member), self.command(member)?, log)?;
        self.members[member].process = Some(child);
        Ok(())
    }

    fn command(&self, member: usize) -> Result<Command> {
        let peers: Vec<String> =
            (0..self.size()).map(|other| format!("{}={}", name(other), self.peer_url(other))).collect();
        let mut command = Command::new(server()?);
        for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD")) {
            command.env_remove(variable);
        }
        command
            .current_dir(self.folder.path())
            .arg("--name")
            .arg(name(member))
            .arg("--data-dir")
            .arg(self.folder.path().join(name(member)))
            .args(["--listen-client-urls", &self.endpoint(member)])
            .args(["--advertise-client-urls", &self.endpoint(member)])
            .args(["--listen-peer-urls", &self.peer_url(member)])
            .args(["--initial-advertise-peer-urls", &self.peer_url(member)])
            .args(["--initial-cluster", &peers.join(",")])
            .args(["--initial-cluster-token", &self.token])
            // On a start from old data etcd goes by the data; both flags are read on the first start alone.
            .args(["--initial-cluster-state", "new"])
            .args(["--heartbeat-interval", "100", "--election-timeout", "1000"])
            .args(["--logger", "zap", "--log-outputs", "stderr", "--log-level", "warn"]);
        if let Some(files) = &self.certificates {
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(files.ca());
            command.arg("--cert-file").arg(files.certificate()).arg("--key-file").arg(files.key());
        }
        Ok(command)
    }

    fn peer_url(&self, member: usize) -> String {
        format!("http://127.0.0.1:{}", self.members[member].peer.number())
    }

    /// Waits until a read through this member reaches the leader and comes back.
    async fn await_ready(&mut self, member: usize) -> Result<()> {
        let endpoint = self.endpoint(member);
        let waiting = async {
            loop {
                let process = self.members[member].process.as_mut().context("the member was killed")?;
                if let Some(status) = process.try_exit()? {
                    bail!("etcd ended early, {status}");
                }
                if self.answers(&endpoint).await {
                    return Ok(());
                }
                sleep(POLL).await;
            }
        };
        let ready = timeout(START_DEADLINE, waiting).await;
        match ready {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.context(self.log_tail(member))),
            Err(_) => bail!("{} does not answer after {START_DEADLINE:?}\n{}", name(member), self.log_tail(member)),
        }
    }

    async fn answers(&self, endpoint: &str) -> bool {
        let Ok(mut client) = self.connect(&[endpoint]).await else { return false };
        matches!(timeout(CALL, client.get("ready", None)).await, Ok(Ok(_)))
    }

    async fn connect<E: AsRef<str>>(&self, endpoints: &[E]) -> Result<Client> {
        let mut options = ConnectOptions::new().with_connect_timeout(CALL);
        if let Some(files) = &self.certificates {
            let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
            let identity = Identity::from_pem(read(files.client_certificate())?, read(files.client_key())?);
            let authority = Certificate::from_pem(read(files.ca())?);
            options = options.with_tls(TlsOptions::new().ca_certificate(authority).identity(identity));
        }
        Ok(Client::connect(endpoints, Some(options)).await?)
    }

    async fn status(&self, member: usize) -> Result<StatusResponse> {
        let mut client = self.connect(&[self.endpoint(member)]).await?;
        Ok(timeout(CALL, client.status()).await.context("no status")??)
    }

    fn running(&self) -> impl Iterator<Item = usize> {
        (0..self.size()).filter(|&member| self.members[member].process.is_some())
    }

    fn signal(&self, member: usize, signal: Signal) -> Result<()> {
        let process = self.members[member].process.as_ref().context("the member does not run")?;
        let pid = i32::try_from(process.pid()).ok().and_then(Pid::from_raw).context("a process id")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", name(member)))
    }
}

fn data_folder() -> Result<TempDir> {
    tempfile::Builder::new().prefix("reeve-etcd-").tempdir().context("cannot create etcd's data folder")
}

fn server() -> Result<PathBuf> {
    let path = PathBuf::from("/usr/bin/etcd");
    ensure!(path.is_file(), "etcd not found: run tests/run, which installs it");
    Ok(path)
}

fn name(member: usize) -> String {
    format!("etcd-{member}")
}

fn id(status: &StatusResponse) -> Result<u64> {
    Ok(status.header().context("a status has a header")?.member_id())
}
