//! The life of a node's process, from its configuration to its exit.
//!
//! ```text
//! log ─► umask, data folder ─► socket (one process only), RPC and HTTP ports ─► node (waits for etcd) ─► READY ─┬─► signal ─┐
//!                                                                                       watchdog, SIGHUP reads ─┘           │
//!                                                                                       the certificates again              ▼
//! store closed ◄─ broker left ◄─ cluster left, RPC and HTTP hung up ◄─ intake closed, shards handed over ◄────────────── STOPPING
//! ```
//!
//! HTTP says from the start that the process lives, and from STOPPING on that the node is not ready; links work until the
//! shards are handed over.
//!
//! Stopping takes at most 9 s, in a cluster 30 s: what is in flight is finished or parked in its record, and the next
//! start or the next owner goes on with it. A second signal ends the process at once, which is as safe as a crash.

mod systemd;

use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use reeve_cluster::rpc::{Credentials, TlsFiles, TlsServer, UnixServer};
use reeve_ports::{Address, Bus, Clock, Message, SystemClock};
use reeve_protocol::CloudName;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::assemble::{self, Running};
use crate::config::Config;
use crate::http::Edge;
use crate::logging;

/// The exit status of a process that did not stop in time or was told twice.
const FORCED: i32 = 1;

/// What is done once the node runs.
#[derive(Default)]
pub struct AfterStart {
    /// Said on standard output.
    pub greeting: String,
    /// Notifications fed to the intake of a cloud.
    pub replay: Option<(CloudName, Vec<Message>)>,
}

/// Runs a node until it is told to stop.
///
/// # Errors
/// When it cannot start, with everything that led there.
pub fn run(config: &Config, after: AfterStart) -> anyhow::Result<()> {
    run_with_clock(config, after, Arc::new(SystemClock))
}

/// Runs a node by another clock than the machine's.
///
/// # Errors
/// As [`run`].
pub fn run_with_clock(config: &Config, after: AfterStart, clock: Arc<dyn Clock>) -> anyhow::Result<()> {
    // Two providers are linked into some builds of rustls: one must be chosen before the first connection.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    logging::start(&config.log)?;
    // Records, backups and locks are nobody else's business, wherever the folders are.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    make_private(&config.node.data_dir)?;
    if let Some(folder) = config.rpc.socket.parent() {
        make_folder(folder)?;
    }
    reeve_runtime::run_system(|| serve(config.clone(), after, clock))
}

async fn serve(config: Config, after: AfterStart, clock: Arc<dyn Clock>) -> anyhow::Result<()> {
    let unix = UnixServer::bind(&config.rpc.socket)?;
    let tls = bind_tls(&config)?;
    let credentials = tls.as_ref().map(TlsServer::credentials);
    let edge = Edge::open(&config, Arc::clone(&clock))?;
    let mut stop = Signals::new()?;
    let reload = signal(SignalKind::hangup()).context("cannot listen for signals")?;
    let mut starting = JoinSet::new();
    starting.spawn(systemd::extend_start(Arc::clone(&clock), None));
    let running = tokio::select! {
        running = assemble::start(&config, Arc::clone(&clock), credentials.clone()) => running?,
        name = stop.next() => {
            tracing::info!(signal = name, "told to stop while starting");
            return Ok(());
        }
    };
    let service = running.service();
    starting.abort_all();
    starting.spawn(systemd::extend_start(Arc::clone(&clock), Some(Arc::clone(&service))));
    let (hang_up, hung_up) = watch::channel(());
    let mut servers = JoinSet::new();
    servers.spawn(unix.serve(Arc::clone(&service), closed(hung_up.clone())));
    if let Some(tls) = tls {
        servers.spawn(tls.serve(Arc::clone(&service), closed(hung_up)));
    }
    if let Some(edge) = &edge {
        edge.serves(Arc::clone(&service), running.readiness());
    }
    let mut watchdog = JoinSet::new();
    watchdog.spawn(systemd::watchdog(Arc::clone(&clock), service));
    let certificates = Certificates { credentials: credentials.as_ref(), edge: edge.as_ref() };
    let life = Life { config: &config, running: &running, clock: &clock, certificates, starting };
    let name = life.until_told(after, &mut stop, reload).await;
    tracing::info!(signal = name, "stopping");
    systemd::tell(&[NotifyState::Stopping]);
    if let Some(edge) = &edge {
        edge.stopping();
    }
    let last_resort = LastResort::arm(stop, assemble::stops_within(&config));
    drop(watchdog);
    running.hand_over().await;
    drop(hang_up);
    let all_hung_up = async {
        if let Some(edge) = edge {
            edge.close().await;
        }
        while servers.join_next().await.is_some() {}
    };
    tokio::join!(running.close(), all_hung_up);
    tracing::info!("stopped");
    last_resort.disarm();
    Ok(())
}

fn bind_tls(config: &Config) -> anyhow::Result<Option<TlsServer>> {
    let rpc = &config.rpc;
    let Some(listen) = rpc.listen else { return Ok(None) };
    let path = |key: &str, file: Option<&crate::config::PemFile>| {
        let file = file.with_context(|| format!("rpc.listen needs rpc.{key}"))?;
        file.path().with_context(|| format!("rpc.{key}"))
    };
    let files = TlsFiles {
        cert: path("cert", rpc.cert.as_ref())?,
        key: path("key", rpc.key.as_ref())?,
        ca: path("ca", rpc.ca.as_ref())?,
    };
    let server = TlsServer::bind(&listen.to_string(), files, config.cluster_name()).context("rpc.listen")?;
    let found = server.credentials().identity();
    anyhow::ensure!(
        found.node().as_ref() == Some(&config.node.id),
        "rpc.cert is of {found}, and this node is {}",
        config.node.id
    );
    Ok(Some(server))
}

/// Ready when the other end is dropped.
async fn closed(mut end: watch::Receiver<()>) {
    while end.changed().await.is_ok() {}
}

/// What a node needs between its start and its end.
struct Life<'a> {
    config: &'a Config,
    running: &'a Running,
    clock: &'a Arc<dyn Clock>,
    certificates: Certificates<'a>,
    /// What goes on until the node is ready.
    starting: JoinSet<()>,
}

/// What is read again when the process is told to.
#[derive(Clone, Copy)]
struct Certificates<'a> {
    credentials: Option<&'a Credentials>,
    edge: Option<&'a Edge>,
}

impl Certificates<'_> {
    async fn reload(self) {
        systemd::reload(self.credentials).await;
        if let Some(edge) = self.edge {
            edge.reload();
        }
    }
}

impl Life<'_> {
    /// Says when the node is ready, reads certificates again when told to, until a signal asks for the end.
    async fn until_told(self, after: AfterStart, stop: &mut Signals, mut reload: Signal) -> &'static str {
        let Self { config, running, clock, certificates, starting } = self;
        let mut early = Some((after, starting));
        loop {
            tokio::select! {
                name = stop.next() => return name,
                () = running.ready(), if early.is_some() => {
                    systemd::tell(&[NotifyState::Ready]);
                    let (socket, listen) = (config.rpc.socket.display(), config.rpc.listen);
                    let http = config.http.as_ref().map(|http| http.listen);
                    tracing::info!(node = %config.node.id, %socket, ?listen, ?http, "running");
                    let Some((after, _)) = early.take() else { continue };
                    say(&after.greeting);
                    if let Some((cloud, messages)) = after.replay {
                        tokio::spawn(replay(running.bus(), Arc::clone(clock), cloud, messages));
                    }
                }
                Some(()) = reload.recv() => {
                    // Before it is ready, systemd is not told so by a reload.
                    if early.is_none() {
                        systemd::tell_reloading();
                    }
                    certificates.reload().await;
                    if early.is_none() {
                        systemd::tell(&[NotifyState::Ready]);
                    }
                }
            }
        }
    }
}

/// The signals that ask for an end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Ends the process when stopping takes too long or is asked for a second time. On a thread of its own, because what is
/// stuck may be the runtime itself.
struct LastResort {
    disarm: std::sync::mpsc::Sender<()>,
    second_signal: tokio::task::JoinHandle<()>,
}

impl LastResort {
    fn arm(mut signals: Signals, within: Duration) -> Self {
        let (disarm, disarmed) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || {
            if disarmed.recv_timeout(within) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                tracing::error!("not stopped within {} s; the next start recovers", within.as_secs());
                exit_at_once();
            }
        });
        let second_signal = tokio::spawn(async move {
            let name = signals.next().await;
            tracing::warn!(signal = name, "told to stop twice: ending at once");
            exit_at_once();
        });
        Self { disarm, second_signal }
    }

    fn disarm(self) {
        self.second_signal.abort();
        // The thread is there until it is told or the process ends.
        let _ = self.disarm.send(());
    }
}

#[expect(clippy::disallowed_methods, reason = "whatever hangs must not keep the process; every state is on disk")]
fn exit_at_once() -> ! {
    std::process::exit(FORCED)
}

/// Feeds recorded notifications to the intake, in order. A bus that has no room is asked again.
async fn replay(bus: Arc<dyn Bus>, clock: Arc<dyn Clock>, cloud: CloudName, messages: Vec<Message>) {
    const PAUSE: Duration = Duration::from_millis(200);
    const PATIENCE: u32 = 300;
    let (count, to) = (messages.len(), Address::Intake(cloud));
    let mut refused = 0;
    for message in messages {
        let mut tries = 0;
        while let Err(error) = bus.publish(&to, message.clone()).await {
            tries += 1;
            let again = matches!(error, reeve_ports::BusError::Unavailable(_)) && tries < PATIENCE;
            if !again {
                tracing::error!(%error, "a recorded notification could not be fed");
                refused += 1;
                break;
            }
            clock.sleep(PAUSE).await;
        }
    }
    tracing::info!(fed = count - refused, refused, "the recording is fed");
}

fn say(greeting: &str) {
    use std::io::Write;
    // A daemon goes on without anybody reading its greeting.
    let _ = std::io::stdout().lock().write_all(greeting.as_bytes());
}

/// Makes the data folder for this user alone: it holds records, backups and the socket.
fn make_private(folder: &Path) -> anyhow::Result<()> {
    let existed = folder.is_dir();
    make_folder(folder)?;
    if !existed {
        let private = Permissions::from_mode(0o700);
        std::fs::set_permissions(folder, private).with_context(|| format!("cannot protect {}", folder.display()))?;
    }
    Ok(())
}

fn make_folder(folder: &Path) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.with_context(|| format!("cannot make the folder {}", folder.display()))
}
