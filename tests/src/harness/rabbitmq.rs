//! A private RabbitMQ broker with its own data, node name, cookie, ports and epmd.
//!
//! ```text
//! start ──► running ──stop──► stopped ──restart──► running
//!              └──kill──────────┘
//! ```
//!
//! The data outlives `stop` and `kill` and goes with the value, so after a restart durable queues are back with their
//! persistent messages, and transient exchanges are gone. The port stays the same over a restart.
//!
//! It never touches a broker of the machine: it reads no file below `/etc/rabbitmq` and signals only the processes it
//! has started.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::certificates::Certificates;
use super::ports::Port;
use super::process::ChildGuard;

/// Where packages put the script. The wrapper Debian puts into `/usr/sbin` is no use: for root it changes user and
/// drops the environment.
const SCRIPTS: [&str; 3] = [
    "/usr/lib/rabbitmq/bin/rabbitmq-server",
    "/opt/rabbitmq/sbin/rabbitmq-server",
    "/usr/local/opt/rabbitmq/sbin/rabbitmq-server",
];

/// A cold start takes 5 s on two idle cores; builds running beside it make it several times slower.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// How long RabbitMQ needs to bring a new quorum queue's replica to disk: its registry (ra's `names.dets`) is saved
/// every 500 ms, whatever was confirmed. Measured with 3.10.8.
pub const REGISTRATION_FLUSH: Duration = Duration::from_millis(1_500);

const STOP_DEADLINE: Duration = Duration::from_secs(30);

const START_POLL: Duration = Duration::from_millis(50);

/// Limit for one AMQP greeting while the broker starts.
const GREETING_DEADLINE: Duration = Duration::from_secs(2);

/// A client's protocol header, AMQP 0-9-1 section 4.2.2.
const AMQP_HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";

/// The type octet of a method frame (AMQP 0-9-1 section 4.2.3): the broker answers the header with Connection.Start.
const METHOD_FRAME: u8 = 1;

/// Two schedulers and no busy waiting, as the tests share the machine; distribution listens on loopback alone.
const ERLANG_ARGUMENTS: &str =
    "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +A 16 +sbwt none +sbwtdcpu none +sbwtdio none";

/// A RabbitMQ broker for one test; dropping it ends the broker and removes its data.
#[derive(Debug)]
pub struct RabbitMq {
    // Declaration order is drop order: the broker, then the epmd it is registered with, then the data.
    broker: Option<ChildGuard>,
    _epmd: ChildGuard,
    script: PathBuf,
    node: String,
    ports: Ports,
    tls: Option<Tls>,
    folder: TempDir,
}

#[derive(Debug)]
struct Ports {
    amqp: Port,
    distribution: Port,
    epmd: Port,
}

#[derive(Debug)]
struct Tls {
    port: Port,
    certificates: Certificates,
}

impl RabbitMq {
    /// Starts a broker and waits until it speaks AMQP.
    ///
    /// # Errors
    /// When RabbitMQ is not installed, ends early, or is not ready within 60 s; the end of its log is in the message.
    pub async fn start() -> anyhow::Result<Self> {
        let folder = data_folder()?;
        Self::start_in(folder, None).await
    }

    /// As [`RabbitMq::start`], with a TLS listener beside the plain one.
    ///
    /// # Errors
    /// As [`RabbitMq::start`].
    pub async fn start_tls() -> anyhow::Result<Self> {
        let folder = data_folder()?;
        let tls = Tls { port: Port::reserve()?, certificates: Certificates::create(folder.path())? };
        Self::start_in(folder, Some(tls)).await
    }

    /// The URL of the plain listener, virtual host `/`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.ports.amqp.number())
    }

    /// The URL of the TLS listener.
    ///
    /// # Panics
    /// When the broker was not started with [`RabbitMq::start_tls`].
    #[must_use]
    pub fn tls_url(&self) -> String {
        format!("amqps://guest:guest@localhost:{}/%2f", self.tls().port.number())
    }

    /// The certificate of the authority that signed the TLS listener's.
    ///
    /// # Panics
    /// When the broker was not started with [`RabbitMq::start_tls`].
    #[must_use]
    pub fn ca_pem_path(&self) -> &Path {
        self.tls().certificates.ca()
    }

    /// The last lines of the broker's log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.broker.as_ref().map(ChildGuard::log_tail).unwrap_or_default()
    }

    /// Shuts the broker down in good order; a broker that is already down is no error.
    ///
    /// # Errors
    /// When it has not ended after 30 s; it is killed then.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        match self.broker.take() {
            Some(mut broker) => broker.terminate(STOP_DEADLINE).await.map(|_| ()),
            None => Ok(()),
        }
    }

    /// Ends the broker with SIGKILL, as a crash would.
    ///
    /// Wait [`REGISTRATION_FLUSH`] after declaring a quorum queue: a broker killed earlier keeps the queue, but no
    /// replica can lead it, and consumers time out after a minute.
    pub fn kill(&mut self) {
        self.broker = None;
    }

    /// Starts the broker again on the same ports and data; stops it in good order first where it runs.
    ///
    /// # Errors
    /// As [`RabbitMq::stop`] and [`RabbitMq::start`].
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.stop().await?;
        self.launch().await
    }

    async fn start_in(folder: TempDir, tls: Option<Tls>) -> anyhow::Result<Self> {
        let script = server_script()?;
        let ports = Ports { amqp: Port::reserve()?, distribution: Port::reserve()?, epmd: Port::reserve()? };
        write_configuration(folder.path(), &ports, tls.as_ref())?;
        let node = format!("reeve-{}@localhost", Uuid::new_v4().simple());
        let epmd = start_epmd(folder.path(), &ports).await?;
        let mut rabbit = Self { broker: None, _epmd: epmd, script, node, ports, tls, folder };
        rabbit.launch().await?;
        Ok(rabbit)
    }

    async fn launch(&mut self) -> anyhow::Result<()> {
        let log = self.folder.path().join("broker.log");
        let mut broker = ChildGuard::spawn("rabbitmq-server", self.command(), log)?;
        let mut listeners = vec![self.ports.amqp.number()];
        listeners.extend(self.tls.as_ref().map(|tls| tls.port.number()));
        let ready = timeout(START_DEADLINE, await_ready(&mut broker, &listeners)).await;
        match ready {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(error.context(broker.log_tail())),
            Err(_) => bail!("rabbitmq-server is not ready after {START_DEADLINE:?}\n{}", broker.log_tail()),
        }
        self.broker = Some(broker);
        Ok(())
    }

    fn command(&self) -> Command {
        let folder = self.folder.path();
        let mut command = Command::new(&self.script);
        // What the machine sets for its own broker must not leak into ours.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RABBITMQ_")) {
            command.env_remove(name);
        }
        command
            .env("HOME", folder)
            .env("ERL_EPMD_PORT", self.ports.epmd.number().to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            // The script then becomes the Erlang VM, so that our child's id is the broker's.
            .env("RUNNING_UNDER_SYSTEMD", "true")
            .env_remove("NOTIFY_SOCKET")
            .env("RABBITMQ_NODENAME", &self.node)
            .env("RABBITMQ_DIST_PORT", self.ports.distribution.number().to_string())
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

    fn tls(&self) -> &Tls {
        self.tls.as_ref().expect("the broker was started with start_tls")
    }
}

fn data_folder() -> anyhow::Result<TempDir> {
    tempfile::Builder::new().prefix("reeve-rabbitmq-").tempdir().context("cannot create the broker's data folder")
}

fn server_script() -> anyhow::Result<PathBuf> {
    SCRIPTS
        .iter()
        .map(PathBuf::from)
        .find(|script| script.is_file())
        .context("rabbitmq-server not found: run tests/run, which installs it")
}

fn write_configuration(folder: &Path, ports: &Ports, tls: Option<&Tls>) -> anyhow::Result<()> {
    let mut settings = format!(
        "listeners.tcp.1 = 127.0.0.1:{}\n\
         vm_memory_high_watermark.absolute = 512MB\n\
         disk_free_limit.absolute = 50MB\n\
         raft.wal_max_size_bytes = 16777216\n\
         log.file = false\n\
         log.console = true\n\
         log.console.level = info\n",
        ports.amqp.number()
    );
    if let Some(tls) = tls {
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
    fs::write(folder.join("rabbitmq.conf"), settings)?;
    fs::write(folder.join("advanced.config"), "[].\n")?;
    fs::write(folder.join("enabled_plugins"), "[].\n")?;
    for name in ["conf.d", "data", "log", "generated", "schema"] {
        fs::create_dir(folder.join(name))?;
    }
    let cookie = folder.join(".erlang.cookie");
    fs::write(&cookie, Uuid::new_v4().simple().to_string())?;
    // Erlang refuses a cookie that others can read.
    fs::set_permissions(&cookie, fs::Permissions::from_mode(0o400))?;
    Ok(())
}

/// Started by us and in the foreground: one that Erlang starts on demand would stay behind as a daemon.
async fn start_epmd(folder: &Path, ports: &Ports) -> anyhow::Result<ChildGuard> {
    let number = ports.epmd.number();
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

/// Waits until the first listener speaks AMQP and the others accept connections.
async fn await_ready(broker: &mut ChildGuard, listeners: &[u16]) -> anyhow::Result<()> {
    while !greets(listeners[0]).await {
        ensure_alive(broker)?;
        sleep(START_POLL).await;
    }
    for listener in &listeners[1..] {
        while TcpStream::connect(("127.0.0.1", *listener)).await.is_err() {
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
