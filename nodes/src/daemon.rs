//! The life of a node's process, from its configuration to its exit.
//!
//! ```text
//! log ─► umask, data folder ─► socket (one process only) ─► node ─► READY ─┬─► signal ─► STOPPING ─► RPC drained ─► node
//!                                                                   └─ watchdog              stopped ─► store closed
//! ```
//!
//! Stopping takes at most 10 s: what is in flight is finished or parked in its record, and the next start goes on with
//! it. A second signal ends the process at once, which is as safe as a crash.

use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use reeve_cluster::rpc::UnixServer;
use reeve_ports::{Address, AdminService, Bus, Clock, Message, SystemClock};
use reeve_protocol::CloudName;
use reeve_protocol::admin::{AdminRequest, Principal};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::assemble;
use crate::config::Config;
use crate::logging;

/// How long stopping may take; then the process ends all the same, and the next start recovers.
const STOP_WITHIN: Duration = Duration::from_secs(9);
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
    // Two providers are linked into some builds of rustls: one must be chosen before the first connection.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    logging::start(&config.log)?;
    // Records, backups and locks are nobody else's business, wherever the folders are.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    make_private(&config.node.data_dir)?;
    if let Some(folder) = config.rpc.socket.parent() {
        make_folder(folder)?;
    }
    reeve_runtime::run_system(|| serve(config.clone(), after))
}

async fn serve(config: Config, after: AfterStart) -> anyhow::Result<()> {
    let server = UnixServer::bind(&config.rpc.socket)?;
    let mut stop = Signals::new()?;
    let running = tokio::select! {
        running = assemble::start(&config) => running?,
        name = stop.next() => {
            tracing::info!(signal = name, "told to stop while starting");
            return Ok(());
        }
    };
    let service = running.service();
    let (hang_up, hung_up) = oneshot::channel::<()>();
    let rpc = tokio::spawn(server.serve(Arc::clone(&service), async {
        let _ = hung_up.await;
    }));
    let watchdog = tokio::spawn(watchdog(service));
    let name = tokio::select! {
        name = stop.next() => name,
        () = running.ready() => {
            tell_systemd(&[NotifyState::Ready]);
            tracing::info!(node = %config.node.id, socket = %config.rpc.socket.display(), "running");
            say(&after.greeting);
            if let Some((cloud, messages)) = after.replay {
                tokio::spawn(replay(running.bus(), cloud, messages));
            }
            stop.next().await
        }
    };
    tracing::info!(signal = name, "stopping");
    tell_systemd(&[NotifyState::Stopping]);
    let last_resort = LastResort::arm(stop);
    watchdog.abort();
    let _ = hang_up.send(());
    let _ = rpc.await;
    running.stop().await;
    tracing::info!("stopped");
    last_resort.disarm();
    Ok(())
}

/// The signals that ask for an end.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
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
    fn arm(mut signals: Signals) -> Self {
        let (disarm, disarmed) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || {
            if disarmed.recv_timeout(STOP_WITHIN) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                tracing::error!("not stopped within {} s; the next start recovers", STOP_WITHIN.as_secs());
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

/// Tells systemd's watchdog that the node answers, twice in each of its intervals, as long as it does.
async fn watchdog(service: Arc<dyn AdminService>) {
    let Some(interval) = sd_notify::watchdog_enabled() else { return };
    loop {
        match tokio::time::timeout(interval / 2, service.ask(&Principal::local(), AdminRequest::Node)).await {
            Ok(_) => tell_systemd(&[NotifyState::Watchdog]),
            Err(_) => tracing::error!("the node does not answer itself; systemd's watchdog is not told"),
        }
        SystemClock.sleep(interval / 2).await;
    }
}

fn tell_systemd(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

/// Feeds recorded notifications to the intake, in order. A bus that has no room is asked again.
async fn replay(bus: Arc<dyn Bus>, cloud: CloudName, messages: Vec<Message>) {
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
            SystemClock.sleep(PAUSE).await;
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
