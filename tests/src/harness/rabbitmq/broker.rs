//! One broker's process: its folder, its environment, its start and its command line tool.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::super::certificates::Certificates;
use super::super::ports::Port;
use super::super::process::ChildGuard;

/// Where packages put the scripts. The wrapper Debian puts into `/usr/sbin` is no use: for root it changes user and
/// drops the environment.
const SCRIPTS: [&str; 3] = ["/usr/lib/rabbitmq/bin", "/opt/rabbitmq/sbin", "/usr/local/opt/rabbitmq/sbin"];

/// A cold start takes 5 s on two idle cores; builds running beside it make it several times slower.
const START_DEADLINE: Duration = Duration::from_secs(180);

const START_POLL: Duration = Duration::from_millis(50);

/// Limit for one AMQP greeting while the broker starts.
const GREETING_DEADLINE: Duration = Duration::from_secs(2);

/// A client's protocol header, AMQP 0-9-1 section 4.2.2.
const AMQP_HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";

/// The type octet of a method frame (AMQP 0-9-1 section 4.2.3): the broker answers the header with Connection.Start.
const METHOD_FRAME: u8 = 1;

/// Two schedulers and no busy waiting, as the tests share the machine; distribution listens on loopback alone and
/// notices a silent peer after about ten seconds.
const ERLANG_ARGUMENTS: &str = "-kernel inet_dist_use_interface {127,0,0,1} -kernel net_ticktime 8 +S 2:2 +A 16 +sbwt none +sbwtdcpu none +sbwtdio none";

/// A tool starts an Erlang of its own.
const TOOL_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// What brokers that know each other have in common.
#[derive(Debug)]
pub(super) struct Family {
    /// The port of the epmd that all of them register with.
    pub(super) epmd: Port,
    /// The secret that they share.
    cookie: String,
    /// The first broker, which the others join; `None` for one on its own.
    pub(super) first: Option<String>,
}

/// A TLS listener beside the plain one.
#[derive(Debug)]
pub(super) struct Tls {
    pub(super) port: Port,
    pub(super) certificates: Certificates,
}

/// A broker, running or not. Its data goes with the value.
#[derive(Debug)]
pub(super) struct Broker {
    // Declaration order is drop order: the broker, then its data.
    process: Option<ChildGuard>,
    script: PathBuf,
    node: String,
    amqp: Port,
    distribution: Port,
    epmd: u16,
    tls: Option<Tls>,
    folder: TempDir,
}

impl Family {
    /// A cookie and a port for epmd.
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self { epmd: Port::reserve()?, cookie: Uuid::new_v4().simple().to_string(), first: None })
    }
}

impl Broker {
    /// Prepares a broker in `folder`; [`Broker::launch`] starts it.
    pub(super) fn prepare(folder: TempDir, family: &Family, tls: Option<Tls>) -> anyhow::Result<Self> {
        let script = script("rabbitmq-server")?;
        let node = format!("reeve-{}@localhost", Uuid::new_v4().simple());
        let epmd = family.epmd.number();
        let (amqp, distribution) = (Port::reserve()?, Port::reserve()?);
        let broker = Self { process: None, script, node, amqp, distribution, epmd, tls, folder };
        broker.write_configuration(family)?;
        Ok(broker)
    }

    pub(super) fn node(&self) -> &str {
        &self.node
    }

    pub(super) fn amqp(&self) -> u16 {
        self.amqp.number()
    }

    pub(super) fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    pub(super) fn runs(&self) -> bool {
        self.process.is_some()
    }

    pub(super) fn log_tail(&self) -> String {
        self.process.as_ref().map(ChildGuard::log_tail).unwrap_or_default()
    }

    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        match self.process.take() {
            Some(mut process) => process.terminate(STOP_DEADLINE).await.map(|_| ()),
            None => Ok(()),
        }
    }

    pub(super) fn kill(&mut self) {
        self.process = None;
    }

    pub(super) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let process = self.process.as_ref().context("the broker does not run")?;
        let pid = i32::try_from(process.pid()).ok().and_then(Pid::from_raw).context("a process id")?;
        kill_process(pid, signal).context("cannot signal the broker")
    }

    /// Starts the process; [`Broker::await_ready`] waits for it.
    pub(super) fn launch(&mut self) -> anyhow::Result<()> {
        let log = self.folder.path().join("broker.log");
        self.process = Some(ChildGuard::spawn("rabbitmq-server", self.command(&self.script), log)?);
        Ok(())
    }

    /// Waits until it speaks AMQP on the plain listener and accepts connections on the other.
    pub(super) async fn await_ready(&mut self) -> anyhow::Result<()> {
        let (plain, tls) = (self.amqp.number(), self.tls.as_ref().map(|tls| tls.port.number()));
        let process = self.process.as_mut().context("the broker was not launched")?;
        let ready = timeout(START_DEADLINE, ready(process, plain, tls)).await;
        let error = match ready {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.context(self.log_tail()),
            Err(_) => {
                anyhow::anyhow!("rabbitmq-server is not ready after {START_DEADLINE:?}\n{}", self.log_tail())
            }
        };
        self.process = None;
        Err(error)
    }

    /// Runs `rabbitmqctl` against this broker and returns what it prints.
    pub(super) async fn ctl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = self.command(&script("rabbitmqctl")?);
        command.args(["--quiet", "--node", &self.node]).args(arguments);
        let log = self.folder.path().join(format!("ctl-{}.log", Uuid::new_v4().simple()));
        let mut tool = ChildGuard::spawn("rabbitmqctl", command, &log)?;
        let status = timeout(TOOL_DEADLINE, tool.wait()).await.context("rabbitmqctl does not end")??;
        let output = fs::read_to_string(&log).unwrap_or_default();
        anyhow::ensure!(status.success(), "rabbitmqctl {}: {status}\n{output}", arguments.join(" "));
        Ok(output)
    }

    fn command(&self, program: &Path) -> Command {
        let folder = self.folder.path();
        let mut command = Command::new(program);
        // What the machine sets for its own broker must not leak into ours.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RABBITMQ_")) {
            command.env_remove(name);
        }
        command
            .env("HOME", folder)
            .env("ERL_EPMD_PORT", self.epmd.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            // The script then becomes the Erlang VM, so that our child's id is the broker's.
            .env("RUNNING_UNDER_SYSTEMD", "true")
            .env_remove("NOTIFY_SOCKET")
            .env("RABBITMQ_NODENAME", &self.node)
            .env("RABBITMQ_DIST_PORT", self.distribution.number().to_string())
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
            .env("RABBITMQ_CONFIG_FILES", folder.join("conf.d"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", folder.join("advanced.config"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("enabled_plugins"))
            .env("RABBITMQ_GENERATED_CONFIG_DIR", folder.join("generated"))
            .env("RABBITMQ_SCHEMA_DIR", folder.join("schema"))
            .env("RABBITMQ_MNESIA_BASE", folder.join("data"))
            .env("RABBITMQ_LOG_BASE", folder.join("log"))
            .env("RABBITMQ_LOG", "-color")
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", ERLANG_ARGUMENTS)
            .current_dir(folder);
        command
    }

    fn write_configuration(&self, family: &Family) -> anyhow::Result<()> {
        let folder = self.folder.path();
        let mut settings = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\n\
             vm_memory_high_watermark.absolute = 512MB\n\
             disk_free_limit.absolute = 50MB\n\
             raft.wal_max_size_bytes = 16777216\n\
             log.file = false\n\
             log.console = true\n\
             log.console.level = info\n",
            self.amqp.number()
        );
        if let Some(tls) = &self.tls {
            settings.push_str(&format!(
                "listeners.ssl.1 = 127.0.0.1:{}\n\
                 ssl_options.cacertfile = {}\n\
                 ssl_options.certfile = {}\n\
                 ssl_options.keyfile = {}\n\
                 ssl_options.verify = verify_none\n\
                 ssl_options.fail_if_no_peer_cert = false\n",
                tls.port.number(),
                tls.certificates.ca().display(),
                tls.certificates.certificate().display(),
                tls.certificates.key().display(),
            ));
        }
        if let Some(first) = &family.first {
            // The first broker is up and finds nobody else in its list, so it never waits for the others.
            settings.push_str(&format!(
                "cluster_formation.peer_discovery_backend = classic_config\n\
                 cluster_formation.classic_config.nodes.1 = {first}\n\
                 cluster_formation.classic_config.nodes.2 = {}\n\
                 cluster_partition_handling = pause_minority\n",
                self.node
            ));
        }
        fs::write(folder.join("rabbitmq.conf"), settings)?;
        fs::write(folder.join("advanced.config"), "[].\n")?;
        fs::write(folder.join("enabled_plugins"), "[].\n")?;
        for name in ["conf.d", "data", "log", "generated", "schema"] {
            fs::create_dir(folder.join(name))?;
        }
        let cookie = folder.join(".erlang.cookie");
        fs::write(&cookie, &family.cookie)?;
        // Erlang refuses a cookie that others can read.
        fs::set_permissions(&cookie, fs::Permissions::from_mode(0o400))?;
        Ok(())
    }
}

pub(super) fn data_folder() -> anyhow::Result<TempDir> {
    tempfile::Builder::new().prefix("reeve-rabbitmq-").tempdir().context("cannot create the broker's data folder")
}

fn script(name: &str) -> anyhow::Result<PathBuf> {
    SCRIPTS
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|script| script.is_file())
        .with_context(|| format!("{name} not found: run tests/run, which installs it"))
}

/// Started by us and in the foreground: one that Erlang starts on demand would stay behind as a daemon.
pub(super) async fn start_epmd(folder: &Path, number: u16) -> anyhow::Result<ChildGuard> {
    let mut command = Command::new("epmd");
    command.args(["-address", "127.0.0.1", "-port", &number.to_string()]);
    let mut epmd = ChildGuard::spawn("epmd", command, folder.join("epmd.log"))?;
    let listening = async {
        while TcpStream::connect(("127.0.0.1", number)).await.is_err() {
            if let Some(status) = epmd.try_exit()? {
                bail!("epmd ended early, {status}\n{}", epmd.log_tail());
            }
            sleep(START_POLL).await;
        }
        Ok(())
    };
    timeout(START_DEADLINE, listening).await.context("epmd does not listen")??;
    Ok(epmd)
}

async fn ready(broker: &mut ChildGuard, plain: u16, tls: Option<u16>) -> anyhow::Result<()> {
    while !greets(plain).await {
        ensure_alive(broker)?;
        sleep(START_POLL).await;
    }
    if let Some(listener) = tls {
        while TcpStream::connect(("127.0.0.1", listener)).await.is_err() {
            ensure_alive(broker)?;
            sleep(START_POLL).await;
        }
    }
    Ok(())
}

fn ensure_alive(broker: &mut ChildGuard) -> anyhow::Result<()> {
    match broker.try_exit()? {
        Some(status) => bail!("rabbitmq-server ended early, {status}"),
        None => Ok(()),
    }
}

async fn greets(port: u16) -> bool {
    let greeting = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(AMQP_HEADER).await?;
        stream.read_u8().await
    };
    matches!(timeout(GREETING_DEADLINE, greeting).await, Ok(Ok(METHOD_FRAME)))
}
