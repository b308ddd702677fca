//! A control node of the run: its process, its clock, and the proxies between it and everything that it talks to.
//!
//! ```text
//! node ──► proxy ×3 ──► etcd members          cut from etcd alone
//!      ──► proxy ×3 ──► brokers, one first    cut from RabbitMQ alone
//!      ◄── proxy    ◄── its peers             cut from its peers alone
//!      ──────────────► cloud, vault           never cut: these are the world
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reeve_protocol::NodeId;
use reeve_protocol::admin::{AdminReply, AdminRequest};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::Mutex;

use super::asker::Door;
use super::clock;
use super::history::{History, What};
use super::settings::{NodeSettings, Pace};
use crate::harness::{ChildGuard, Mode, Port, Proxy};

/// A node beside a build takes a while until it has its shards.
const START: Duration = Duration::from_secs(90);
const STOP: Duration = Duration::from_secs(20);
const CALL: Duration = Duration::from_secs(8);
const POLL: Duration = Duration::from_millis(50);

/// Which of a node's connections a fault meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Those to etcd.
    Etcd,
    /// Those to RabbitMQ.
    Rabbit,
    /// Those of its peers.
    Peers,
}

/// A control node.
#[derive(Debug)]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// Where it is asked.
    pub door: Arc<Door>,
    etcd: Vec<Proxy>,
    rabbit: Vec<Proxy>,
    peers: Proxy,
    _port: Port,
    config: PathBuf,
    clock: PathBuf,
    log: PathBuf,
    process: Mutex<Option<ChildGuard>>,
    history: History,
}

/// Where the servers are.
#[derive(Debug)]
pub struct Servers<'a> {
    /// The etcd members.
    pub etcd: Vec<SocketAddr>,
    /// The brokers. Each node prefers another.
    pub rabbit: Vec<SocketAddr>,
    /// Keystone of the cloud.
    pub auth_url: &'a str,
    /// The folder of certificates.
    pub certificates: &'a Path,
    /// The vault.
    pub vault: &'a Path,
    /// The lease TTL.
    pub ttl: Duration,
    /// How often the cloud is asked.
    pub pace: Pace,
}

impl Member {
    /// Prepares the node of this number, from 1 on; it does not run yet.
    ///
    /// # Errors
    /// When its files or ports cannot be had.
    pub async fn prepare(number: u8, folder: &Path, servers: &Servers<'_>, history: History) -> Result<Self> {
        let id = NodeId::new(format!("n{number}")).expect("a short plain word is a node id");
        let port = Port::reserve()?;
        let listen = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 10 + number), port.number()));
        let mut etcd = Vec::new();
        for member in &servers.etcd {
            etcd.push(Proxy::start(*member).await?);
        }
        let mut rabbit = Vec::new();
        let preferred = usize::from(number - 1) % servers.rabbit.len();
        for broker in servers.rabbit.iter().cycle().skip(preferred).take(servers.rabbit.len()) {
            rabbit.push(Proxy::start(*broker).await?);
        }
        let peers = Proxy::start(listen).await?;
        let data = folder.join(id.as_str());
        std::fs::create_dir_all(&data)?;
        let settings = NodeSettings {
            id: id.as_str(),
            data: &data,
            etcd: etcd.iter().map(|proxy| format!("http://{}", proxy.address())).collect(),
            bus: {
                let hosts: Vec<String> = rabbit.iter().map(|proxy| proxy.address().to_string()).collect();
                format!("amqp://guest:guest@{}/%2f", hosts.join(","))
            },
            listen,
            advertise: peers.address(),
            certificates: servers.certificates,
            vault: servers.vault,
            auth_url: servers.auth_url,
            ttl: servers.ttl,
            pace: servers.pace,
        };
        let config = folder.join(format!("{id}.toml"));
        std::fs::write(&config, settings.text())?;
        let clock = folder.join(format!("{id}.clock"));
        clock::set_offset(&clock, 0)?;
        let door = Arc::new(Door::new(id.clone(), data.join("reeve.sock")));
        let log = folder.join(format!("{id}.log"));
        let process = Mutex::new(None);
        Ok(Self { id, door, etcd, rabbit, peers, _port: port, config, clock, log, process, history })
    }

    /// Starts it; a node that runs already is left alone.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub async fn start(&self) -> Result<()> {
        let mut process = self.process.lock().await;
        if process.is_none() {
            let mut command = Command::new(std::env::current_exe().context("the path of this program")?);
            command.arg("node").arg("--config").arg(&self.config).arg("--clock").arg(&self.clock);
            command.env_remove("NOTIFY_SOCKET");
            *process = Some(ChildGuard::spawn(self.id.as_str(), command, &self.log)?);
        }
        Ok(())
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// When it ends, or does not answer in time; the end of its log is in the message.
    pub async fn answers(&self) -> Result<()> {
        let asking = async {
            loop {
                // A connection of its own: on the door's, calls about VMs that wait may stand before this one.
                let door = self.door.another();
                match door.ask(AdminRequest::Node, CALL).await {
                    Ok(AdminReply::Node(_)) => return anyhow::Ok(()),
                    Ok(other) => tracing::debug!(node = %self.id, ?other, "not ready yet"),
                    Err(error) => tracing::debug!(node = %self.id, %error, "no answer yet"),
                }
                self.alive().await?;
                tokio::time::sleep(POLL).await;
            }
        };
        match tokio::time::timeout(START, asking).await {
            Ok(answers) => answers,
            Err(_) => bail!("{} does not answer after {START:?}\n{}", self.id, self.log_tail().await),
        }
    }

    /// Whether it runs; a node that ended by itself is an error, because nothing may make one give up.
    ///
    /// # Errors
    /// When it has ended by itself.
    pub async fn alive(&self) -> Result<bool> {
        let mut process = self.process.lock().await;
        let Some(running) = process.as_mut() else { return Ok(false) };
        match running.try_exit()? {
            None => Ok(true),
            Some(status) => bail!("{} ended by itself, {status}\n{}", self.id, running.log_tail()),
        }
    }

    /// SIGKILL.
    pub async fn kill(&self) {
        if let Some(mut running) = self.process.lock().await.take() {
            running.kill();
        }
        self.door.shut();
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// When it does not end in time, or not in order.
    pub async fn stop(&self) -> Result<()> {
        let ended = match self.process.lock().await.take() {
            Some(mut running) => Some((running.terminate(STOP).await?, running)),
            None => None,
        };
        self.door.shut();
        match ended {
            Some((status, running)) if !status.success() => {
                bail!("{} was told to stop and ended with {status}\n{}", self.id, running.log_tail())
            }
            Some(_) | None => Ok(()),
        }
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn hold(&self) -> Result<()> {
        self.signal(Signal::STOP).await
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn go_on(&self) -> Result<()> {
        self.signal(Signal::CONT).await
    }

    /// From now on its connections of this kind do this. Those that were silent are reset when they heal.
    pub fn link(&self, link: Link, mode: Mode) {
        let proxies: Vec<&Proxy> = match link {
            Link::Etcd => self.etcd.iter().collect(),
            Link::Rabbit => self.rabbit.iter().collect(),
            Link::Peers => vec![&self.peers],
        };
        for proxy in proxies {
            if proxy.mode() == Mode::Cut && mode == Mode::Pass {
                proxy.reset();
            }
            proxy.set(mode);
        }
    }

    /// Sets its wall clock apart from the machine's.
    ///
    /// # Errors
    /// When the clock's file cannot be written.
    pub fn step(&self, offset_ms: i64) -> Result<()> {
        // First the history: the checker must know of every clock that an event may have been written by.
        self.history.write(What::Stepped { node: self.id.clone(), offset_ms });
        clock::set_offset(&self.clock, offset_ms)
    }

    async fn signal(&self, signal: Signal) -> Result<()> {
        let process = self.process.lock().await;
        let running = process.as_ref().with_context(|| format!("{} does not run", self.id))?;
        let pid = i32::try_from(running.pid()).ok().and_then(Pid::from_raw).context("a process id")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.id))
    }

    async fn log_tail(&self) -> String {
        self.process.lock().await.as_ref().map(ChildGuard::log_tail).unwrap_or_default()
    }
}
